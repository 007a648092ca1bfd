//! The configuration: what the file, `dr-ctl apply` and `dr-ctl save` say, one schema for all.
//!
//! `director`, `ports` and `routes` are read once at start; `connections`, `nat` and `services` are what runs and may
//! change at any time.
//!
//! | module | holds |
//! |---|---|
//! | this one | the file, the process, connections, virtual services |
//! | `network.rs` | ports, VLANs, routes, local addresses |
//! | `real_server.rs` | real servers and how packets reach them |
//! | `persistence.rs` | by what a client stays with its real server |

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use arrayvec::ArrayString;
use scheduler::{Algorithm, SchedulerFlags};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::service_text::{ServiceIdText, ServiceText};

mod network;
mod persistence;
mod real_server;

pub use network::{HostInterface, InterfaceConfig, NatConfig, PortConfig, Qinq, RouteConfig, VlanConfig};
pub use persistence::{Netmask, Persistence, PersistenceEngine};
pub use real_server::{
    ClientAddress, Drain, Forwarding, RealServerConfig, RealServerId, TunnelChecksum, TunnelConfig,
    TunnelType,
};

/// All of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process: threads, memory, capacities, sockets.
    #[serde(default)]
    pub director: DirectorConfig,
    /// The ports, in the order of their numbers.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
    /// Ways to what no port is connected to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteConfig>,
    /// How connections are kept, for all services. What runs; may change at any time. None: a start takes the defaults,
    /// `apply` leaves what runs as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionsConfig>,
    /// Full NAT's addresses. What runs; may change at any time. None: as with `connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatConfig>,
    /// The virtual services. What runs; may change at any time.
    #[serde(default)]
    pub services: Vec<ServiceConfig>,
}

/// What the process is given at start. A change needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorConfig {
    /// CPU of each worker. Empty: one worker on the last CPU that the process may use.
    pub worker_cpus: Vec<usize>,
    /// CPUs of the control thread. Empty: every allowed CPU that has no worker.
    pub control_cpus: Vec<usize>,
    /// Hugepages: `auto` uses them where enough are free, `required` refuses to start without, `off` never does.
    pub hugepages: Hugepages,
    /// Memory for DPDK, in MiB.
    pub memory_mib: u32,
    /// Packet buffers (mbufs) in the one pool of all ports. None: computed from descriptors and workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbuf_count: Option<u32>,
    /// Bytes of each packet buffer, DPDK's headroom of 128 included. None: 2176, or more where a port's driver wants more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbuf_data_room: Option<u16>,
    /// Connections that each worker can hold.
    pub connection_capacity_per_worker: u32,
    /// Persistence templates that all workers together can hold.
    pub template_capacity: u32,
    /// Virtual services that can be configured; every member of a group counts as one.
    pub service_capacity: u32,
    /// Real servers that can be configured, over all services; removed ones count until their connections are gone.
    pub real_server_capacity: u32,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Group that may use the control socket beside root; its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    /// Where /metrics is served. None, written `"off"`: not at all.
    #[serde(with = "metrics_listen")]
    pub metrics_listen: Option<SocketAddr>,
    /// Whether connection and template tables have room for IPv6 addresses: 32 bytes an entry.
    pub ipv6: Ipv6,
    /// Packets that each port hands to its host interfaces in a second; 0: none.
    pub host_packets_per_second: u32,
    /// ICMP errors that each worker originates in a second; 0: none.
    pub icmp_packets_per_second: u32,
    /// Fragmented packets that each worker knows at once.
    pub fragment_capacity_per_worker: u32,
    /// Further arguments for DPDK's EAL.
    pub eal_arguments: Vec<String>,
}

/// Whether DPDK's memory and the connection tables come from hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Where enough are free.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Or else refuse to start.
    Required,
}

/// Whether there is room for IPv6 in the tables of connections and templates, which are made at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// Where a port or VLAN has an IPv6 address, or a service of the start has an IPv6 VIP.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never; an IPv6 service is refused.
    Off,
}

/// How connections are kept, for all services: what IPVS has as `net.ipv4.vs.*` and `ipvsadm --set`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsConfig {
    /// Seconds without a packet after which a connection is gone, by state; what is absent is IPVS's.
    #[serde(skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// A TCP packet without SYN may open a connection (unless it is an RST).
    pub sloppy_tcp: bool,
    /// An SCTP packet without INIT may open a connection (unless it is an ABORT).
    pub sloppy_sctp: bool,
    /// TCP states change by IPVS's table for denial-of-service attacks (`secure_tcp` 3).
    pub secure_tcp: bool,
    /// What a SYN or INIT on the tuple of a known connection does; bits as IPVS has them: 1 reschedules where that
    /// connection is over (TIME_WAIT, CLOSE, SCTP's CLOSED), 2 in FIN_WAIT too, 0 never; never where persistence keeps
    /// the client.
    pub conn_reuse_mode: u8,
    /// Connections of a removed real server end with their next packet, or else within seconds, instead of at their
    /// timeout.
    pub expire_nodest_conn: bool,
    /// A persistent client leaves a real server of weight 0 with its next connection.
    pub expire_quiescent_template: bool,
    /// Seconds after which lblc and lblcr forget which real server a VIP had.
    pub lblc_expiration_seconds: u32,
    /// Connections that each worker opens in a second; above that, packets are forwarded by consistent hash and no
    /// state is kept. 0: no limit.
    pub creation_rate_per_worker: u32,
    /// A packet that is too big for the way to its real server, and may not be fragmented, is answered with the size
    /// that fits. Otherwise it is fragmented outside its tunnel, or dropped.
    pub pmtu_disc: bool,
    /// The maximum segment size in a client's SYN is lowered to what fits the tunnel.
    pub tunnel_mss_clamp: bool,
    /// An ICMP error that quotes a packet to a service, but of no connection, is scheduled as that packet would be.
    pub schedule_icmp: bool,
    /// A packet that a real server behind NAT sends, and that belongs to no connection, is answered with port
    /// unreachable.
    pub nat_icmp_send: bool,
}

impl Default for ConnectionsConfig {
    fn default() -> Self {
        ConnectionsConfig {
            timeouts: Timeouts::default(),
            sloppy_tcp: false,
            sloppy_sctp: false,
            secure_tcp: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            lblc_expiration_seconds: 86_400,
            creation_rate_per_worker: 125_000,
            pmtu_disc: true,
            tunnel_mss_clamp: false,
            schedule_icmp: false,
            nat_icmp_send: false,
        }
    }
}

impl ConnectionsConfig {
    /// Every option but the timeouts, by name, as text: to be shown and compared.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        macro_rules! options {
            ($($key:ident),+) => {{
                // Taken apart, so that a new one cannot be forgotten here.
                let ConnectionsConfig { timeouts: _, $($key),+ } = self;
                vec![$((stringify!($key), $key.to_string())),+]
            }};
        }
        options!(
            sloppy_tcp,
            sloppy_sctp,
            secure_tcp,
            conn_reuse_mode,
            expire_nodest_conn,
            expire_quiescent_template,
            lblc_expiration_seconds,
            creation_rate_per_worker,
            pmtu_disc,
            tunnel_mss_clamp,
            schedule_icmp,
            nat_icmp_send
        )
    }
}

macro_rules! timeouts {
    ($($field:ident = $default:literal,)+) => {
        /// Seconds without a packet after which a connection is gone, by protocol and state, 1 to 2,678,400 (31 days).
        /// An absent one is that of the next wider scope: service, `connections`, IPVS.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[expect(missing_docs, reason = "each is named for its state")]
        pub struct Timeouts {
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<u32>,)+
        }

        impl Timeouts {
            /// IPVS's (`ip_vs_proto_tcp.c`, `ip_vs_proto_udp.c`, `ip_vs_proto_sctp.c`): every field is given.
            pub const IPVS: Timeouts = Timeouts { $($field: Some($default),)+ };

            /// Names, in the order of [`Timeouts::values`].
            pub const NAMES: &[&str] = &[$(stringify!($field),)+];

            /// What each says.
            pub fn values(&self) -> Vec<Option<u32>> {
                vec![$(self.$field,)+]
            }

            /// The same, in order to change them.
            pub fn values_mut(&mut self) -> Vec<&mut Option<u32>> {
                vec![$(&mut self.$field,)+]
            }

            /// These, and `wider` where they say nothing.
            pub fn or(&self, wider: &Timeouts) -> Timeouts {
                Timeouts { $($field: self.$field.or(wider.$field),)+ }
            }
        }
    };
}

timeouts! {
    tcp_none = 2,
    tcp_established = 900,
    tcp_syn_sent = 120,
    tcp_syn_recv = 60,
    tcp_fin_wait = 120,
    tcp_time_wait = 120,
    tcp_close = 10,
    tcp_close_wait = 60,
    tcp_last_ack = 30,
    tcp_listen = 120,
    tcp_synack = 120,
    udp = 300,
    sctp_none = 2,
    sctp_init1 = 4,
    sctp_init = 61,
    sctp_cookie_sent = 61,
    sctp_cookie_replied = 61,
    sctp_cookie_wait = 61,
    sctp_cookie = 61,
    sctp_cookie_echoed = 61,
    sctp_established = 900,
    sctp_shutdown_sent = 61,
    sctp_shutdown_received = 61,
    sctp_shutdown_ack_sent = 61,
    sctp_rejected = 4,
    sctp_closed = 61,
}

impl Timeouts {
    /// It says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Timeouts::default()
    }
}

/// Layer 4 protocol of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[default]
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

/// A VIP with protocol and port, to which clients send: a virtual service, or a member of a service group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualAddress {
    /// Layer 4 protocol.
    pub protocol: Protocol,
    /// The VIP.
    pub address: IpAddr,
    /// The port, 1 to 65535; 0 is every port that no other service or group has (persistent services and groups).
    pub port: u16,
}

/// Name of a service group: 1 to 31 of the letters a-z, A-Z, digits, `-`, `_` and `.`, the first a letter or digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(ArrayString<31>);

/// What names a virtual service: protocol, VIP and port, or the name of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "ServiceIdText")]
pub enum ServiceId {
    /// One VIP:port.
    Virtual(VirtualAddress),
    /// Several, served as one (what ipvsadm does with a firewall mark).
    Group(GroupName),
}

/// A virtual service and its real servers. In text, one table: `protocol`, `address` and `port`, or `group` and
/// `members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "ServiceText")]
pub struct ServiceConfig {
    /// What names it.
    pub id: ServiceId,
    /// The VIP:ports of a group, 0 or more; empty where it is none.
    pub members: Vec<VirtualAddress>,
    /// Family of a group's members, set when it is made: that of the first one unless said. See
    /// [`ServiceConfig::family`].
    pub group_family: Family,
    /// The number by which `ipvsadm -f` knows a group, one of its family; none where it is none or has no number.
    pub fwmark: Option<u32>,
    /// How a real server is picked for a new connection.
    pub scheduler: Algorithm,
    /// `ipvsadm -b`.
    pub scheduler_flags: SchedulerFlags,
    /// Seconds over which a newcomer gets its full share, under lc, wlc and sed; 0: at once.
    pub slow_start_seconds: u32,
    /// A client stays with its real server.
    pub persistence: Option<Persistence>,
    /// Each UDP packet is scheduled for itself and no connection is kept (`ipvsadm -o`).
    pub one_packet: bool,
    /// Timeouts of this service alone.
    pub timeouts: Timeouts,
    /// The real servers, oldest first.
    pub real_servers: Vec<RealServerConfig>,
}

impl Default for DirectorConfig {
    fn default() -> Self {
        DirectorConfig {
            worker_cpus: Vec::new(),
            control_cpus: Vec::new(),
            hugepages: Hugepages::Auto,
            memory_mib: 512,
            mbuf_count: None,
            mbuf_data_room: None,
            connection_capacity_per_worker: 1 << 20,
            template_capacity: 1 << 18,
            service_capacity: 4096,
            real_server_capacity: 16384,
            control_socket: PathBuf::from("/run/dr-director/control.sock"),
            control_group: None,
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 9190))),
            ipv6: Ipv6::Auto,
            host_packets_per_second: 50_000,
            icmp_packets_per_second: 1000,
            fragment_capacity_per_worker: 4096,
            eal_arguments: Vec::new(),
        }
    }
}

impl ServiceConfig {
    /// A service with IPVS's defaults and no real server.
    pub fn new(id: ServiceId) -> ServiceConfig {
        ServiceConfig {
            id,
            members: Vec::new(),
            group_family: Family::V4,
            fwmark: None,
            scheduler: Algorithm::default(),
            scheduler_flags: SchedulerFlags::default(),
            slow_start_seconds: 0,
            persistence: None,
            one_packet: false,
            timeouts: Timeouts::default(),
            real_servers: Vec::new(),
        }
    }

    /// What names it.
    pub fn id(&self) -> ServiceId {
        self.id
    }

    /// The family of its VIPs.
    pub fn family(&self) -> Family {
        match self.id {
            ServiceId::Virtual(vip) => Family::of(vip.address),
            ServiceId::Group(_) => self.group_family,
        }
    }

    /// The real server of this name; a port that is the service's own may be left out or given.
    pub fn real_server(&self, id: RealServerId) -> Option<&RealServerConfig> {
        let id = id.within(self.id);
        self.real_servers.iter().find(|real_server| real_server.id() == id)
    }

    /// Every VIP:port that it serves.
    pub fn addresses(&self) -> impl Iterator<Item = VirtualAddress> + '_ {
        let own = match self.id {
            ServiceId::Virtual(address) => Some(address),
            ServiceId::Group(_) => None,
        };
        own.into_iter().chain(self.members.iter().copied())
    }
}

impl<'de> Deserialize<'de> for ServiceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize_table::<_, ServiceText, _>(deserializer)
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize_table::<_, ServiceIdText, _>(deserializer)
    }
}

impl ServiceId {
    /// The service of one VIP:port.
    pub fn new(protocol: Protocol, address: impl Into<IpAddr>, port: u16) -> ServiceId {
        ServiceId::Virtual(VirtualAddress { protocol, address: address.into(), port })
    }

    /// The port of its VIP; none for a group.
    pub fn port(self) -> Option<u16> {
        match self {
            ServiceId::Virtual(vip) => Some(vip.port),
            ServiceId::Group(_) => None,
        }
    }
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

impl Config {
    /// Whether a start with this configuration makes room for IPv6 in its tables.
    pub fn has_ipv6(&self) -> bool {
        let is_ipv6 =
            |interface: InterfaceConfig<'_>| interface.addresses.iter().any(|net| net.addr().is_ipv6());
        match self.director.ipv6 {
            Ipv6::On => true,
            Ipv6::Off => false,
            Ipv6::Auto => {
                self.ports.iter().flat_map(PortConfig::interfaces).any(is_ipv6)
                    || self.services.iter().any(|service| service.family() == Family::V6)
            }
        }
    }
}

impl GroupName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let starts_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        match ArrayString::from(text) {
            Ok(name) if starts_well && text.bytes().all(is_known) => Ok(GroupName(name)),
            _ => Err(format!(
                "`{text}` is no group name: give 1 to 31 letters, digits, `-`, `_` or `.`, the first a letter or digit"
            )),
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for GroupName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for GroupName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, str::parse)
    }
}

impl Protocol {
    /// Its name in configuration and protocol.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, SocketAddr::new(self.address, self.port))
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceId::Virtual(address) => address.fmt(f),
            ServiceId::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// `metrics_listen` as text: TOML has no null, so "not at all" needs a word.
mod metrics_listen {
    use std::net::SocketAddr;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        listen: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match listen {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        crate::text::deserialize(deserializer, |text| {
            if text == "off" {
                return Ok(None);
            }
            text.parse().map(Some).map_err(|_| {
                format!("`{text}` is neither an address with a port such as 127.0.0.1:9190 nor `off`")
            })
        })
    }
}
