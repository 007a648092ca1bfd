//! What a client asks for: every command and its arguments.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use scheduler::{Algorithm, SchedulerFlags};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{
    ClientAddress, Config, Forwarding, GroupName, Persistence, RealServerConfig, RealServerId, ServiceConfig,
    ServiceId, Timeouts, TunnelConfig, VirtualAddress,
};
use crate::mac::{InvalidMac, MacAddress};

/// What a client asks for: `verb` and `arguments` of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "arguments", rename_all = "kebab-case")]
pub enum Command {
    /// Adds a virtual service, with its real servers if any.
    AddVip(ServiceConfig),
    /// Changes a virtual service.
    SetVip(SetVip),
    /// Removes a virtual service and its real servers.
    DelVip(OneService),
    /// Adds a VIP:port to a service group.
    AddMember(OneMember),
    /// Removes a VIP:port from a service group.
    DelMember(OneMember),
    /// Adds a real server.
    AddRs(AddRs),
    /// Changes a real server.
    SetRs(SetRs),
    /// Removes a real server.
    DelRs(OneRealServer),
    /// Stops new connections to a real server and keeps the established ones; removes it in the end where asked to.
    DrainRs(DrainRs),
    /// Adds an address to full NAT's local addresses (LIPs).
    AddLip(OneLocalAddress),
    /// Removes an address from full NAT's local addresses: no new connection takes it.
    DelLip(OneLocalAddress),
    /// Removes every virtual service (`ipvsadm -C`).
    Clear,
    /// Several changes, all or none.
    Batch(Batch),
    /// Changes how connections are kept, for all services.
    SetOptions(SetOptions),
    /// Lets counters of services and real servers start at 0 again (`ipvsadm -Z`).
    Zero(Filter),
    /// The virtual services and real servers that run.
    Show(Filter),
    /// Counters.
    Stats(Filter),
    /// Connections.
    Connections(ConnectionsQuery),
    /// What is known of the real servers' MAC addresses.
    Neighbours,
    /// Is it well, and what is it?
    Status,
    /// Makes `config.services` what runs.
    Apply(Apply),
    /// The configuration that runs, as `save` writes it.
    Config,
}

/// Arguments that name a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneService {
    /// The service.
    pub service: ServiceId,
}

/// Arguments of `set-vip`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVip {
    /// The service.
    pub service: ServiceId,
    /// Its new scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::algorithm::option")]
    pub scheduler: Option<Algorithm>,
    /// Its new scheduler flags, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::scheduler_flags::option")]
    pub scheduler_flags: Option<SchedulerFlags>,
    /// Its new slow start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_seconds: Option<u32>,
    /// Its new persistence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceChange>,
    /// Whether each UDP packet is scheduled for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// Timeouts to change, those that it names; 0 takes back what the service says of one.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// Its new number for `ipvsadm -f`, groups only; 0 takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
}

impl SetVip {
    /// No change of `service`.
    pub fn new(service: ServiceId) -> SetVip {
        SetVip {
            service,
            scheduler: None,
            scheduler_flags: None,
            slow_start_seconds: None,
            persistence: None,
            one_packet: None,
            timeouts: Timeouts::default(),
            fwmark: None,
        }
    }
}

/// New persistence of a service: `"off"`, or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceChange {
    /// None any more.
    Off,
    /// This one.
    On(Persistence),
}

impl Serialize for PersistenceChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PersistenceChange::Off => serializer.serialize_str("off"),
            PersistenceChange::On(persistence) => persistence.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for PersistenceChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PersistenceChangeVisitor)
    }
}

/// serde's `untagged` would lose place and reason of an error in the table.
struct PersistenceChangeVisitor;

impl<'de> Visitor<'de> for PersistenceChangeVisitor {
    type Value = PersistenceChange;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off` or a map")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PersistenceChange, E> {
        match text {
            "off" => Ok(PersistenceChange::Off),
            other => Err(E::unknown_variant(other, &["off"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PersistenceChange, A::Error> {
        Persistence::deserialize(MapAccessDeserializer::new(map)).map(PersistenceChange::On)
    }
}

/// Arguments that name a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneMember {
    /// The group.
    pub group: GroupName,
    /// The VIP:port.
    pub member: VirtualAddress,
}

/// Arguments that name a local address of full NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneLocalAddress {
    /// The address (LIP).
    pub address: IpAddr,
}

/// Arguments of `drain-rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRs {
    /// The service.
    pub service: ServiceId,
    /// The real server, by its address and, where it has one of its own, port.
    pub real_server: RealServerId,
    /// It is removed when its last connection is gone, and after so many seconds at the latest. None: it stays,
    /// drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Clients that persistence keeps on it still open new connections there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_persistent: bool,
}

/// Arguments of `batch`. An error says in `index` which command it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Changes, in their order; no `batch` and no `apply` among them.
    pub commands: Vec<Command>,
}

/// Arguments of `set-options`: what is absent stays. See [`ConnectionsConfig`](crate::config::ConnectionsConfig).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "ConnectionsConfig says what each is")]
pub struct SetOptions {
    /// Those to change; 0 takes back what is said of one.
    #[serde(skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_sctp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conn_reuse_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_nodest_conn: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_quiescent_template: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lblc_expiration_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_rate_per_worker: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pmtu_disc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_mss_clamp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_icmp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat_icmp_send: Option<bool>,
}

/// Arguments of `add-rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRs {
    /// The service.
    pub service: ServiceId,
    /// The real server to add.
    pub real_server: RealServerConfig,
}

/// Arguments that name a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneRealServer {
    /// The service.
    pub service: ServiceId,
    /// The real server, by its address and, where it has one of its own, port.
    pub real_server: RealServerId,
}

/// Arguments of `set-rs`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRs {
    /// The service.
    pub service: ServiceId,
    /// The real server, by its address and, where it has one of its own, port.
    pub real_server: RealServerId,
    /// New weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// New source of the MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacSource>,
    /// Start or end draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// New upper threshold, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// New lower threshold, 0 for three quarters of the upper one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
    /// New forwarding method, for new connections. What the old one alone has, of `tunnel` and `client_address`, is
    /// taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// New encapsulation, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelConfig>,
    /// What the client's address is handed on by from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_address: Option<ClientAddress>,
}

impl SetRs {
    /// No change of this real server.
    pub fn new(service: ServiceId, real_server: RealServerId) -> SetRs {
        SetRs {
            service,
            real_server,
            weight: None,
            mac: None,
            drain: None,
            upper_threshold: None,
            lower_threshold: None,
            forwarding: None,
            tunnel: None,
            client_address: None,
        }
    }
}

/// Where a real server's MAC address comes from: `"arp"`, or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacSource {
    /// Asked by ARP.
    Arp,
    /// Given.
    Static(MacAddress),
}

impl FromStr for MacSource {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        if text == "arp" {
            return Ok(MacSource::Arp);
        }
        text.parse().map(MacSource::Static)
    }
}

impl fmt::Display for MacSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MacSource::Arp => f.write_str("arp"),
            MacSource::Static(mac) => mac.fmt(f),
        }
    }
}

impl Serialize for MacSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, str::parse)
    }
}

/// Narrows a listing; what is absent matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
}

/// `offset` and `limit` of a [`ConnectionsQuery`] together at most.
pub const CONNECTION_ROWS_MAX: u32 = 1_000_000;
/// Rows in one answer, whatever `limit` says: about 100 MB of JSON, within what clients take.
pub const CONNECTION_PAGE_ROWS_MAX: u32 = 500_000;

/// Every state of a connection or template, by IPVS's name: TCP's, UDP's, SCTP's, and that of a template in use.
pub const CONNECTION_STATES: [&str; 25] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
    "UDP",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
    "ASSURED",
];

/// Arguments of `connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsQuery {
    /// Only of this service or group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// Only of clients in this network; text may have an address alone.
    #[serde(skip_serializing_if = "Option::is_none", with = "client")]
    pub client: Option<ipnet::IpNet>,
    /// Only to this VIP, on any port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Only to this real server; without a port, on any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_server: Option<RealServerId>,
    /// Only in this state, by IPVS's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Persistence templates instead of connections, or both, as `ipvsadm -Lc` shows.
    pub kind: EntryKind,
    /// Order of the rows.
    pub sort: ConnectionOrder,
    /// Reverses the order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
    /// Rows to leave out at the front; with `limit` at most 1,000,000.
    pub offset: u32,
    /// Rows at most in the answer; all matching ones are counted.
    pub limit: u32,
}

impl Default for ConnectionsQuery {
    fn default() -> Self {
        ConnectionsQuery {
            service: None,
            client: None,
            vip: None,
            real_server: None,
            state: None,
            kind: EntryKind::default(),
            sort: ConnectionOrder::default(),
            descending: false,
            offset: 0,
            limit: 1000,
        }
    }
}

/// A network, written as an address where it is one.
mod client {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer};

    struct Client(IpNet);

    impl<'de> Deserialize<'de> for Client {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            crate::text::deserialize(deserializer, |text| {
                let address = text.parse::<IpAddr>().map(IpNet::from);
                address.or_else(|_| text.parse()).map(Client).map_err(|_| {
                    format!("`{text}` is no address or network such as 198.51.100.7 or 198.51.100.0/24")
                })
            })
        }
    }

    pub(super) fn serialize<S: Serializer>(client: &Option<IpNet>, serializer: S) -> Result<S::Ok, S::Error> {
        match client {
            Some(client) if client.prefix_len() == client.max_prefix_len() => {
                serializer.collect_str(&client.addr())
            }
            Some(client) => serializer.collect_str(client),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpNet>, D::Error> {
        Ok(Option::<Client>::deserialize(deserializer)?.map(|Client(network)| network))
    }
}

/// What is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Connections.
    #[default]
    Connections,
    /// Persistence templates.
    Templates,
    /// Both.
    All,
}

/// By what a listing of connections is sorted; ties by client, VIP and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionOrder {
    /// CIP, then client's port.
    #[default]
    Client,
    /// Protocol, VIP, then port.
    Service,
    /// RIP.
    RealServer,
    /// IPVS's name of the state.
    State,
    /// Seconds until it expires.
    Expires,
}

/// Arguments of `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The whole file; `director`, `ports` and `routes` must be what runs or absent. Boxed, because every command of a
    /// batch takes as much memory as the largest kind.
    pub config: Box<Config>,
    /// Say what would change, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}
