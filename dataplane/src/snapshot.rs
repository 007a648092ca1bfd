//! The configuration as workers read it: compiled by the control thread, immutable, swapped whole.

use std::net::Ipv4Addr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use scheduler::{ConnectionCounts, HashRing, RealServer, Scheduler};

use crate::connection::state::StateTimeouts;
use crate::port::PortId;
use crate::stateless::StatelessMemory;

/// Layer 4 protocol number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
    /// SCTP.
    pub const SCTP: Protocol = Protocol(132);
}

/// A VIP:port that belongs to a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Ipv4Addr,
    /// Port, host byte order; 0 is every port that has no service of its own.
    pub port: u16,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

/// A virtual service, or a group of VIP:ports served as one.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its scheduler, made for `real_servers`.
    pub scheduler: Scheduler,
    /// Its real servers, newest first; `id` is the destination slot.
    pub real_servers: Vec<RealServer>,
    /// Where packets go for which no state may be kept; made for `real_servers`.
    pub ring: Arc<HashRing>,
    /// When there were such; one for all versions of the service.
    pub stateless: Arc<StatelessMemory>,
    /// A client stays with its real server.
    pub persistence: Option<Persistence>,
    /// Each UDP packet is scheduled for itself and no connection is kept.
    pub one_packet: bool,
    /// Index into [`Snapshot::timeouts`].
    pub timeouts: u16,
}

/// How a service's clients are kept on their real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Ticks after its last new connection for which a client is remembered.
    pub timeout_ticks: u32,
    /// Clients that are one under this mask stay together; host byte order.
    pub netmask: u32,
    /// What a client is known by.
    pub client: PersistentClient,
    /// For what it stays.
    pub scope: PersistenceScope,
}

/// What a persistent client is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistentClient {
    /// Its address, masked.
    Address,
    /// Its address, masked, and SIP's Call-ID (IPVS's persistence engine `sip`).
    CallId,
}

/// What shares a client's persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistenceScope {
    /// The VIP with this port, host byte order; 0 for a service of every port and for FTP.
    Virtual {
        /// Port of the template.
        port: u16,
    },
    /// The whole group of this number.
    Group(u32),
}

/// Where a destination slot leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DestinationState {
    /// Nothing there.
    #[default]
    Vacant,
    /// To a real server.
    Forwarding,
    /// To a real server whose MAC was never known.
    Unresolved,
    /// Its real server was removed; connections that still name it are dropped.
    Removed,
}

/// A real server as the workers need it for each packet. A slot is not given to another real server before the last
/// connection and the last template that name it are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Destination {
    /// The first 12 bytes of the frame to send: the real server's MAC, then the director's.
    pub macs: [u8; 12],
    /// The port that leads to it.
    pub port: PortId,
    /// What to do with packets for it.
    pub state: DestinationState,
    /// Largest IP packet that the port carries.
    pub mtu: u16,
    /// Index into [`Snapshot::timeouts`].
    pub timeouts: u16,
    /// Its weight is 0.
    pub is_quiesced: bool,
    /// Its persistent clients leave it with their next connection: it is drained, or quiesced and they do not stay with
    /// such a one (IPVS: `expire_quiescent_template`).
    pub refuses_persistent: bool,
}

const _: () = assert!(size_of::<Destination>() == 32);

/// Why the director listens to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// A VIP, on every port.
    Vip,
    /// The director's own address on this port.
    Dip(PortId),
    /// A real server behind this port: its ARP is listened to.
    RealServer(PortId),
}

/// A port as the workers need it.
#[derive(Clone, Copy, Debug)]
pub struct PortSnapshot {
    /// The port's MAC address.
    pub mac: [u8; 6],
}

/// How connections are kept, for all services (IPVS: `net.ipv4.vs.*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A TCP packet without SYN may open a connection.
    pub sloppy_tcp: bool,
    /// An SCTP packet without INIT may open a connection.
    pub sloppy_sctp: bool,
    /// TCP states change by the table for denial-of-service attacks.
    pub secure_tcp: bool,
    /// IPVS's bits: 1 reschedules a SYN where the connection is over, 2 in FIN_WAIT too.
    pub conn_reuse_mode: u8,
    /// Connections of a removed real server end with their next packet, or by the sweep within seconds.
    pub expire_nodest_conn: bool,
    /// Connections that each worker may open in a second; 0: no limit.
    pub creation_rate_per_worker: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sloppy_tcp: false,
            sloppy_sctp: false,
            secure_tcp: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            creation_rate_per_worker: 0,
        }
    }
}

/// Everything that a worker knows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By [`PortId`].
    pub ports: Vec<PortSnapshot>,
    /// The virtual services, by each of their VIP:ports.
    pub services: HashMap<ServiceKey, Arc<Service>, RandomState>,
    /// A service on port 0 is among them.
    pub has_every_port: bool,
    /// Those of TCP port 21, no groups, by VIP: IPVS counts to them what no service wants there at ports 20 and from 1024
    /// on.
    pub ftp_services: HashMap<Ipv4Addr, Arc<Service>, RandomState>,
    /// Timeouts of every service that has its own; the first are everybody else's.
    pub timeouts: Vec<StateTimeouts>,
    /// How connections are kept.
    pub options: Options,
    /// By destination slot; shorter than the capacity where the last slots are vacant.
    pub destinations: Vec<Destination>,
    /// VIPs, DIPs and RIPs.
    pub addresses: HashMap<Ipv4Addr, AddressRole, RandomState>,
}

/// The connection counts of every destination slot: they outlive any snapshot, because connections do.
pub type SharedCounts = Arc<[Arc<ConnectionCounts>]>;

/// Counts for `capacity` destination slots, all zero.
pub fn shared_counts(capacity: usize) -> SharedCounts {
    (0..capacity).map(|_| Arc::new(ConnectionCounts::new())).collect()
}
