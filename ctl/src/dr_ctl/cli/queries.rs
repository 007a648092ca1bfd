//! Verbs that show what runs, and the options for all connections.

use std::net::IpAddr;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ctl::config::RealServerId;
use ctl::protocol::{
    CONNECTION_PAGE_ROWS_MAX, CONNECTION_ROWS_MAX, CONNECTION_STATES, Command, ConnectionOrder,
    ConnectionsQuery, EntryKind, Filter, SetOptions,
};
use ctl::validate::{CONN_REUSE_MODE, TIMEOUT_SECONDS};
use ipnet::IpNet;

use super::services::FilterArguments;
use super::values::{StateTimeout, address, network, number, on_or_off, rip, seconds, timeouts};

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArguments {
    #[command(flatten)]
    service: FilterArguments,
    /// Only of this client, or of the clients in this network
    #[arg(long, value_name = "CIP[/LENGTH]", value_parser = network)]
    client: Option<IpNet>,
    /// Only to this VIP, on any port
    #[arg(long, value_name = "VIP", value_parser = address)]
    vip: Option<IpAddr>,
    /// Only to this real server; without a port, on any
    #[arg(long, value_name = "RIP[:PORT]", value_parser = rip)]
    real_server: Option<RealServerId>,
    /// Only in this state
    #[arg(long, ignore_case = true, value_parser = PossibleValuesParser::new(CONNECTION_STATES))]
    state: Option<String>,
    /// Show persistence templates instead of connections
    #[arg(long, conflicts_with = "all")]
    templates: bool,
    /// Show connections and persistence templates
    #[arg(long)]
    all: bool,
    /// Order of the rows
    #[arg(long, value_name = "KEY", default_value = "client", value_parser = order())]
    sort: ConnectionOrder,
    /// Reverse the order
    #[arg(long)]
    descending: bool,
    /// Show so many at most, 1 to 500000; all that match are counted
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 1000,
        allow_hyphen_values = true,
        value_parser = number(1..=CONNECTION_PAGE_ROWS_MAX)
    )]
    limit: u32,
    /// Leave out so many at the front; with --limit at most 1000000
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 0,
        allow_hyphen_values = true,
        conflicts_with = "page",
        value_parser = number(0..=CONNECTION_ROWS_MAX)
    )]
    offset: u32,
    /// Show this page of --limit rows, the first is 1
    #[arg(long, allow_hyphen_values = true, value_parser = number(1..=CONNECTION_ROWS_MAX))]
    page: Option<u32>,
    /// Print their number alone
    #[arg(long, conflicts_with_all = ["limit", "offset", "page", "sort", "descending"])]
    pub(crate) count: bool,
}

fn order() -> impl TypedValueParser<Value = ConnectionOrder> {
    const ORDERS: [(&str, ConnectionOrder); 5] = [
        ("client", ConnectionOrder::Client),
        ("service", ConnectionOrder::Service),
        ("real-server", ConnectionOrder::RealServer),
        ("state", ConnectionOrder::State),
        ("expires", ConnectionOrder::Expires),
    ];
    PossibleValuesParser::new(ORDERS.map(|(name, _)| name)).try_map(|text| {
        let order = ORDERS.iter().find(|(name, _)| *name == text);
        order.map(|(_, order)| *order).ok_or("not an order")
    })
}

#[derive(Debug, Args)]
pub(crate) struct SetOptionsArguments {
    /// Timeout of a state where a service has none of its own, such as tcp_established=3600 or udp=default; with commas
    /// between, or given several times
    #[arg(long, value_name = "STATE=TIME", value_delimiter = ',')]
    timeout: Vec<StateTimeout>,
    /// Let a TCP packet without SYN open a connection
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    sloppy_tcp: Option<bool>,
    /// Let an SCTP packet without INIT open a connection
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    sloppy_sctp: Option<bool>,
    /// Change TCP states by the table for denial-of-service attacks
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    secure_tcp: Option<bool>,
    /// When a SYN on the tuple of a known connection is scheduled anew: 1 where that is over, 2 in FIN_WAIT, 3 both, 0
    /// never
    #[arg(long, value_name = "BITS", allow_hyphen_values = true, value_parser = number(CONN_REUSE_MODE))]
    conn_reuse_mode: Option<u8>,
    /// End connections of a removed real server at once
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    expire_nodest_conn: Option<bool>,
    /// Let persistent clients leave a real server of weight 0
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    expire_quiescent_template: Option<bool>,
    /// Time after which lblc and lblcr forget which real server a VIP had
    #[arg(long, value_name = "TIME", value_parser = seconds(TIMEOUT_SECONDS))]
    lblc_expiration: Option<u32>,
    /// Connections that each worker opens in a second at most, the rest is forwarded without state; 0: no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = number(0..=u32::MAX))]
    creation_rate: Option<u32>,
    /// Answer what is too big for the way to its real server and may not be fragmented with the size that fits
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    pmtu_disc: Option<bool>,
    /// Lower the maximum segment size of a client's SYN to what fits the tunnel
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    tunnel_mss_clamp: Option<bool>,
    /// Schedule an ICMP error that quotes a packet to a service, but of no connection
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    schedule_icmp: Option<bool>,
    /// Answer what a real server behind NAT sends, and is of no connection, with port unreachable
    #[arg(long, value_name = "on|off", value_parser = on_or_off())]
    nat_icmp_send: Option<bool>,
}

/// Of which `set-options` needs one.
pub(super) const OPTION_CHANGES: [&str; 13] = [
    "timeout",
    "sloppy_tcp",
    "sloppy_sctp",
    "secure_tcp",
    "conn_reuse_mode",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "lblc_expiration",
    "creation_rate",
    "pmtu_disc",
    "tunnel_mss_clamp",
    "schedule_icmp",
    "nat_icmp_send",
];

impl FilterArguments {
    pub(crate) fn filter(&self) -> Filter {
        Filter { service: self.id }
    }
}

impl ConnectionsArguments {
    pub(crate) fn query(&self) -> ConnectionsQuery {
        let kind = match (self.templates, self.all) {
            (true, _) => EntryKind::Templates,
            (_, true) => EntryKind::All,
            _ => EntryKind::Connections,
        };
        let offset = self.page.map_or(self.offset, |page| (page - 1).saturating_mul(self.limit));
        ConnectionsQuery {
            service: self.service.id,
            client: self.client,
            vip: self.vip,
            real_server: self.real_server,
            // Every name is in capitals.
            state: self.state.as_deref().map(str::to_uppercase),
            kind,
            sort: self.sort,
            descending: self.descending,
            offset,
            limit: if self.count { 0 } else { self.limit },
        }
    }
}

impl SetOptionsArguments {
    pub(crate) fn command(&self) -> Result<Command, String> {
        Ok(Command::SetOptions(SetOptions {
            timeouts: timeouts(&self.timeout)?,
            sloppy_tcp: self.sloppy_tcp,
            sloppy_sctp: self.sloppy_sctp,
            secure_tcp: self.secure_tcp,
            conn_reuse_mode: self.conn_reuse_mode,
            expire_nodest_conn: self.expire_nodest_conn,
            expire_quiescent_template: self.expire_quiescent_template,
            lblc_expiration_seconds: self.lblc_expiration,
            creation_rate_per_worker: self.creation_rate,
            pmtu_disc: self.pmtu_disc,
            tunnel_mss_clamp: self.tunnel_mss_clamp,
            schedule_icmp: self.schedule_icmp,
            nat_icmp_send: self.nat_icmp_send,
        }))
    }
}
