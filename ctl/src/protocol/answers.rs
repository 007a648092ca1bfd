//! What the daemon answers: the result of every command.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use ipnet::IpNet;

use crate::config::{
    ClientAddress, ConnectionsConfig, Drain, Forwarding, GroupName, NatConfig, Protocol, RealServerId,
    RouteConfig, ServiceConfig, ServiceId, TunnelConfig,
};
use crate::mac::MacAddress;

/// Result of every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// One line a change, for people; empty: nothing to change.
    pub changes: Vec<String>,
}

/// Result of `show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Show {
    /// The services, by protocol, address and port.
    pub services: Vec<ServiceView>,
}

/// A running virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its configuration; real servers apart, which are in `real_servers`.
    pub service: ServiceConfig,
    /// Real servers, oldest first.
    pub real_servers: Vec<RealServerView>,
}

/// A running real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerView {
    /// RIP.
    pub address: IpAddr,
    /// The port on which it receives; none: the service's own, or the one that the client chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// How it is encapsulated, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelConfig>,
    /// What the client's address is handed on by.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Configured weight.
    pub weight: u16,
    /// Whether it gets new connections, and if not, why.
    pub state: RealServerState,
    /// MAC address of its next hop, where known: its own, or the gateway's.
    pub mac: Option<MacAddress>,
    /// Name of the interface that leads to it.
    pub interface: String,
    /// The gateway on the way to it, where it is in no directly connected network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Active connections, as IPVS counts them.
    pub active_connections: u32,
    /// Inactive connections, as IPVS counts them.
    pub inactive_connections: u32,
    /// Persistence templates that name it.
    pub persistent_connections: u32,
    /// Upper threshold; 0: none.
    pub upper_threshold: u32,
    /// Lower threshold; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// How it is drained, whatever else keeps it from new connections; none: it is not.
    #[serde(default, with = "crate::drain")]
    pub drain: Option<Drain>,
    /// Seconds until it is removed, where it is drained with a deadline.
    pub drain_seconds_left: Option<u64>,
}

impl RealServerView {
    /// What names it within its service.
    pub fn id(&self) -> RealServerId {
        RealServerId { address: self.address, port: self.port }
    }
}

/// Whether a real server gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RealServerState {
    /// It does.
    Up,
    /// The MAC address of its next hop is not known.
    Unresolved,
    /// It is being drained.
    Draining,
    /// Its weight is 0.
    Quiesced,
    /// It has reached its upper threshold and not yet fallen below the lower one.
    Overloaded,
}

impl fmt::Display for RealServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RealServerState::Up => "up",
            RealServerState::Unresolved => "unresolved",
            RealServerState::Draining => "draining",
            RealServerState::Quiesced => "quiesced",
            RealServerState::Overloaded => "overloaded",
        })
    }
}

/// Result of `stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per service and real server.
    pub services: Vec<ServiceStats>,
    /// All workers together.
    pub totals: PacketTotals,
    /// Each worker.
    pub workers: Vec<WorkerStats>,
    /// Each port.
    pub ports: Vec<PortStats>,
}

/// Counters of one virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// What names it.
    pub service: ServiceId,
    /// All real servers together, removed ones too.
    pub totals: TrafficCounters,
    /// Rates of the same.
    pub rates: TrafficRates,
    /// Each real server, by address and port.
    pub real_servers: Vec<RealServerStats>,
}

/// Counters of one real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerStats {
    /// RIP.
    pub address: IpAddr,
    /// The port on which it receives; none: the service's own, or the one that the client chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its counters.
    #[serde(flatten)]
    pub counters: TrafficCounters,
    /// Rates of the same.
    pub rates: TrafficRates,
}

impl RealServerStats {
    /// What names it within its service.
    pub fn id(&self) -> RealServerId {
        RealServerId { address: self.address, port: self.port }
    }
}

/// Rates as IPVS estimates them: every 2 s a quarter of the way to the rate of these 2 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRates {
    /// Connections scheduled in a second.
    pub connections_per_second: u64,
    /// Packets forwarded in a second.
    pub packets_per_second: u64,
    /// Bytes forwarded in a second.
    pub bytes_per_second: u64,
    /// Packets of replies that passed the director in a second.
    #[serde(default)]
    pub reply_packets_per_second: u64,
    /// Bytes of replies that passed the director in a second.
    #[serde(default)]
    pub reply_bytes_per_second: u64,
}

/// Packets sent to real servers, and replies that passed the director.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded: IP total length, as IPVS counts.
    pub bytes: u64,
    /// Packets of replies, under NAT and full NAT; others do not pass the director.
    #[serde(default)]
    pub reply_packets: u64,
    /// Bytes of these.
    #[serde(default)]
    pub reply_bytes: u64,
}

/// Where the received packets went: received + taken over = forwarded + punted + to the host + handed over + the sum of
/// `drops` + fragments held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketTotals {
    /// Taken from RX queues.
    pub received: u64,
    /// Sent to a real server.
    pub forwarded: u64,
    /// Handed to the control thread.
    pub punted: u64,
    /// Handed to a host interface.
    #[serde(default)]
    pub to_host: u64,
    /// Handed to the worker that has the connection.
    #[serde(default)]
    pub handed_over: u64,
    /// Got from other workers.
    #[serde(default)]
    pub taken_over: u64,
    /// Fragments that wait for the first one of their packet, at this moment.
    #[serde(default)]
    pub fragments_held: u64,
    /// Made here and sent beside all these: ICMP errors, fragments.
    #[serde(default)]
    pub originated: u64,
    /// Dropped, by reason; every reason is listed.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// Counters of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Number of the worker.
    pub worker: u32,
    /// Its CPU.
    pub cpu: u32,
    /// Its packets.
    #[serde(flatten)]
    pub packets: PacketTotals,
    /// Frames of the control thread that it sent.
    pub control_frames_sent: u64,
    /// Connections that it holds.
    pub connections: u64,
    /// Connections that it can hold.
    pub connection_capacity: u64,
    /// Packets among the forwarded that went by consistent hash, without state; by reason, every one listed.
    pub stateless: std::collections::BTreeMap<String, u64>,
    /// Configuration generation that it runs.
    pub generation: u64,
}

/// Counters of one port, as its driver reports them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Name of the port.
    pub port: String,
    /// Link.
    pub link_is_up: bool,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Lost for want of a descriptor.
    pub rx_missed: u64,
    /// Received with an error.
    pub rx_errors: u64,
    /// Not received for want of a buffer.
    pub rx_no_mbuf: u64,
    /// Not sent.
    pub tx_errors: u64,
}

/// Result of `connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that match.
    pub matching: u64,
    /// The first of them, as many as asked for.
    pub connections: Vec<ConnectionView>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Protocol; none for a template of a group.
    pub protocol: Option<Protocol>,
    /// A persistence template, not a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// What its persistence engine knows the client by (a Call-ID), where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_data: Option<String>,
    /// The group, for a template of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// State, by IPVS's name.
    pub state: String,
    /// Seconds until it expires.
    pub expires_seconds: u32,
    /// CIP.
    pub client_address: IpAddr,
    /// Client's port.
    pub client_port: u16,
    /// VIP; for a template of a group its fwmark in an address's form (0.0.0.7, 0:7::), all zeros where it has none.
    pub virtual_address: IpAddr,
    /// VIP's port.
    pub virtual_port: u16,
    /// RIP.
    pub real_server: IpAddr,
    /// The port on which it receives: the VIP's own but under NAT.
    pub real_server_port: u16,
    /// How its packets are forwarded.
    pub forwarding: Forwarding,
    /// What the client is in the eyes of the real server, under full NAT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Worker that holds it; none for a template, which all workers share.
    pub worker: Option<u32>,
}

/// Result of `neighbours`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// By interface and address.
    pub neighbours: Vec<NeighbourView>,
}

/// What is known of the MAC address of a real server or gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourView {
    /// RIP, or the gateway's address.
    pub address: IpAddr,
    /// Name of the interface.
    pub interface: String,
    /// State.
    pub state: NeighbourState,
    /// MAC address, the last one known.
    pub mac: Option<MacAddress>,
    /// Seconds since it last said so; none where it never did.
    pub confirmed_seconds_ago: Option<u64>,
    /// Requests sent since then.
    pub unanswered_requests: u32,
}

/// States of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// Asked for, never answered.
    Unresolved,
    /// Confirmed lately.
    Reachable,
    /// Being asked again; its last MAC is used meanwhile.
    Probing,
    /// It answered once and does so no more.
    Failed,
    /// Given by the configuration.
    Static,
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NeighbourState::Unresolved => "unresolved",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Probing => "probing",
            NeighbourState::Failed => "failed",
            NeighbourState::Static => "static",
        })
    }
}

/// Result of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of dr-director.
    pub version: String,
    /// Version of DPDK, or "none (in-memory ports)".
    pub dpdk: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Newest configuration generation.
    pub generation: u64,
    /// Virtual services.
    pub services: u32,
    /// Real servers.
    pub real_servers: u32,
    /// Real servers that get new connections.
    pub real_servers_up: u32,
    /// Connections held by all workers.
    pub connections: u64,
    /// Buckets of all connection tables together: the `size` of `ipvsadm -L`.
    pub connection_buckets: u64,
    /// Persistence templates held.
    pub templates: u64,
    /// Persistence templates that can be held.
    pub template_capacity: u64,
    /// Buffers for packets.
    #[serde(default)]
    pub buffers: u32,
    /// Those of them that packets are in, or that rings of ports hold.
    #[serde(default)]
    pub buffers_in_use: u32,
    /// How connections are kept; every timeout is given.
    pub connection_options: ConnectionsConfig,
    /// Full NAT's local addresses.
    #[serde(default)]
    pub nat: NatConfig,
    /// Whether there is room for IPv6 in the tables.
    #[serde(default)]
    pub has_ipv6: bool,
    /// What the memory consists of, for people.
    pub memory: String,
    /// What somebody should look at; empty: all well.
    pub warnings: Vec<String>,
    /// The ports.
    pub ports: Vec<PortView>,
    /// The routes.
    #[serde(default)]
    pub routes: Vec<RouteConfig>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// Name.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// MAC address.
    pub mac: MacAddress,
    /// DIPs with their networks.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Link.
    pub link_is_up: bool,
    /// The host's interface of the untagged side, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
    /// The VLANs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanView>,
}

/// A VLAN of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanView {
    /// Its number.
    pub id: u16,
    /// DIPs with their networks.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The host's interface, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
}
