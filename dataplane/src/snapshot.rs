//! The configuration as workers read it: compiled by the control thread, immutable, swapped whole.

use std::net::Ipv4Addr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use scheduler::{ConnectionCounts, RealServer, Scheduler};

use crate::port::PortId;

/// Layer 4 protocol number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Protocol = Protocol(6);
    /// UDP.
    pub const UDP: Protocol = Protocol(17);
}

/// What names a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The VIP.
    pub address: Ipv4Addr,
    /// Port, host byte order.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A virtual service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its scheduler, made for `real_servers`.
    pub scheduler: Scheduler,
    /// Its real servers, newest first; `id` is the destination slot.
    pub real_servers: Vec<RealServer>,
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

/// A real server as the rewrite needs it. A slot is not given to another real server before the last connection that
/// names it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// The first 12 bytes of the frame to send: the real server's MAC, then the director's.
    pub macs: [u8; 12],
    /// The port that leads to it.
    pub port: PortId,
    /// What to do with packets for it.
    pub state: DestinationState,
    /// Largest IP packet that the port carries.
    pub mtu: u16,
}

const _: () = assert!(size_of::<Destination>() == 16);

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

/// Everything that a worker knows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By [`PortId`].
    pub ports: Vec<PortSnapshot>,
    /// The virtual services.
    pub services: HashMap<ServiceKey, Service, RandomState>,
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
