//! Verbs that add, change, drain and remove real servers, and the local addresses of full NAT.

use std::net::IpAddr;

use clap::Args;
use ctl::config::{
    ClientAddress, Forwarding, RealServerConfig, RealServerId, TunnelChecksum, TunnelConfig, TunnelType,
};
use ctl::mac::MacAddress;
use ctl::protocol::{AddRs, Command, DrainRs, MacSource, OneLocalAddress, OneRealServer, SetRs};
use ctl::validate::{THRESHOLD, TIMEOUT_SECONDS};

use super::services::ServiceArguments;
use super::values::{
    address, client_address, forwarding, number, rip, seconds, tunnel_checksum, tunnel_type,
};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RealServerArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// Address of the real server (RIP), with its port where it has one of its own: 10.0.0.11, 10.0.0.11:8080,
    /// 2001:db8::11 or [2001:db8::11]:8080
    #[arg(value_name = "RIP[:PORT]", value_parser = rip)]
    real_server: RealServerId,
}

#[derive(Debug, Args)]
pub(crate) struct AddRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, default_value_t = 1, allow_hyphen_values = true, value_parser = number(0..=u16::MAX))]
    weight: u16,
    /// Port on which it receives (nat, fullnat), as RIP:PORT says too; without it, the service's own
    #[arg(long, allow_hyphen_values = true, value_parser = number(1..=u16::MAX))]
    port: Option<u16>,
    /// MAC address of the real server, instead of asking for it
    #[arg(long)]
    mac: Option<MacAddress>,
    /// How packets reach it: direct routing, within a tunnel, by NAT, or by NAT that replaces the client's address too
    #[arg(long, value_name = "METHOD", default_value = "dr", value_parser = forwarding())]
    forwarding: Forwarding,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    thresholds: ThresholdArguments,
}

/// What belongs to one forwarding method.
#[derive(Clone, Copy, Debug, Args)]
struct MethodArguments {
    /// What the outer packet of a tunnel is; without it, ipip
    #[arg(long, value_name = "TYPE", value_parser = tunnel_type())]
    tunnel_type: Option<TunnelType>,
    /// UDP port of a gue tunnel
    #[arg(long, value_name = "PORT", allow_hyphen_values = true, value_parser = number(1..=u16::MAX))]
    tunnel_port: Option<u16>,
    /// Checksum of a tunnel's outer header (gre, gue), or remote checksum offload (gue); without it, none
    #[arg(long, value_name = "CHECKSUM", value_parser = tunnel_checksum())]
    tunnel_checksum: Option<TunnelChecksum>,
    /// What tells the real server who its client is (fullnat, TCP): a TCP option, or a header of the PROXY protocol
    #[arg(long, value_name = "HOW", value_parser = client_address())]
    client_address: Option<ClientAddress>,
}

impl MethodArguments {
    fn tunnel(&self) -> Option<TunnelConfig> {
        let MethodArguments { tunnel_type: kind, tunnel_port: port, tunnel_checksum: checksum, .. } = *self;
        let is_given = kind.is_some() || port.is_some() || checksum.is_some();
        is_given.then(|| TunnelConfig {
            kind: kind.unwrap_or_default(),
            port,
            checksum: checksum.unwrap_or_default(),
        })
    }
}

#[derive(Clone, Copy, Debug, Args)]
struct ThresholdArguments {
    /// From so many connections on it gets no new ones; 0: no limit
    #[arg(long, value_name = "CONNECTIONS", allow_hyphen_values = true, value_parser = number(THRESHOLD))]
    upper_threshold: Option<u32>,
    /// Below so many connections it gets new ones again; 0: below three quarters of the upper threshold
    #[arg(long, value_name = "CONNECTIONS", allow_hyphen_values = true, value_parser = number(THRESHOLD))]
    lower_threshold: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SetRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, allow_hyphen_values = true, value_parser = number(0..=u16::MAX))]
    weight: Option<u16>,
    /// MAC address of the real server, or `arp` to ask for it, by neighbour discovery where it is IPv6
    #[arg(long, value_name = "MAC|arp")]
    mac: Option<MacSource>,
    /// How packets of new connections reach it
    #[arg(long, value_name = "METHOD", value_parser = forwarding())]
    forwarding: Option<Forwarding>,
    #[command(flatten)]
    method: MethodArguments,
    #[command(flatten)]
    thresholds: ThresholdArguments,
    /// Give it no new connections, and keep the established ones
    #[arg(long, conflicts_with = "no_drain")]
    drain: bool,
    /// Give it new connections again
    #[arg(long)]
    no_drain: bool,
}

/// Of which `set-rs` needs one.
pub(super) const REAL_SERVER_CHANGES: [&str; 11] = [
    "weight",
    "mac",
    "forwarding",
    "tunnel_type",
    "tunnel_port",
    "tunnel_checksum",
    "client_address",
    "upper_threshold",
    "lower_threshold",
    "drain",
    "no_drain",
];

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LocalAddressArguments {
    /// The address (LIP), such as 10.0.0.200, in a network of one of the director's ports
    #[arg(value_name = "LIP", value_parser = address)]
    address: IpAddr,
}

impl LocalAddressArguments {
    pub(crate) fn query(&self) -> OneLocalAddress {
        OneLocalAddress { address: self.address }
    }
}

#[derive(Debug, Args)]
pub(crate) struct DrainRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Remove it when its last connection is gone, and after this time at the latest, such as 300s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = seconds(TIMEOUT_SECONDS))]
    timeout: Option<u32>,
    /// Clients that persistence keeps on it still open new connections there
    #[arg(long)]
    keep_persistent: bool,
    /// Wait until it is gone or, without --timeout, has no connections left; for this time at most, and print what is
    /// left meanwhile
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = seconds(TIMEOUT_SECONDS))]
    wait: Option<Option<u32>>,
}

/// How long to wait for a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainWait {
    /// The drain that is waited for.
    pub(crate) drain: DrainRs,
    /// At most; none: until the deadline of the drain, or for ever where it has none.
    pub(crate) seconds_max: Option<u32>,
}

impl RealServerArguments {
    pub(crate) fn query(&self) -> OneRealServer {
        let service = self.service.id;
        OneRealServer { service, real_server: self.real_server.within(service) }
    }
}

impl AddRsArguments {
    pub(crate) fn command(&self) -> Result<Command, String> {
        let RealServerArguments { service, real_server: RealServerId { address, port } } = self.real_server;
        let port = match (port, self.port) {
            (Some(first), Some(second)) if first != second => {
                return Err(format!("--port: the real server is given with port {first} already"));
            }
            (first, second) => first.or(second),
        };
        let real_server = RealServerConfig {
            port: RealServerId { address, port }.within(service.id).port,
            weight: self.weight,
            mac: self.mac,
            forwarding: self.forwarding,
            tunnel: self.method.tunnel().and_then(TunnelConfig::unless_default),
            client_address: self.method.client_address.unwrap_or_default(),
            upper_threshold: self.thresholds.upper_threshold.unwrap_or_default(),
            lower_threshold: self.thresholds.lower_threshold.unwrap_or_default(),
            ..RealServerConfig::new(address)
        };
        Ok(Command::AddRs(AddRs { service: service.id, real_server }))
    }
}

impl SetRsArguments {
    pub(crate) fn command(&self) -> Command {
        let OneRealServer { service, real_server } = self.real_server.query();
        Command::SetRs(SetRs {
            weight: self.weight,
            mac: self.mac,
            drain: (self.drain || self.no_drain).then_some(self.drain),
            upper_threshold: self.thresholds.upper_threshold,
            lower_threshold: self.thresholds.lower_threshold,
            forwarding: self.forwarding,
            tunnel: self.method.tunnel(),
            client_address: self.method.client_address,
            ..SetRs::new(service, real_server)
        })
    }
}

impl DrainRsArguments {
    pub(crate) fn query(&self) -> DrainRs {
        let OneRealServer { service, real_server } = self.real_server.query();
        let (timeout_seconds, keep_persistent) = (self.timeout, self.keep_persistent);
        DrainRs { service, real_server, timeout_seconds, keep_persistent }
    }

    /// None: the tool does not wait.
    pub(crate) fn wait(&self) -> Option<DrainWait> {
        self.wait.map(|seconds_max| DrainWait { drain: self.query(), seconds_max })
    }
}
