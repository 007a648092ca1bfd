//! The configuration as workers read it: compiled by the control thread, immutable, swapped whole.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use scheduler::{ConnectionCounts, HashRing, RealServer, Scheduler};

use crate::connection::state::StateTimeouts;
use crate::packet::outer::OuterTemplate;
pub use crate::packet::outer::TunnelKind;
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
    pub address: IpAddr,
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
    /// Clients that are one under this mask stay together; host byte order, an IPv4 mask in the low 32 bits.
    pub netmask: u128,
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

/// How packets get to a real server (IPVS's forwarding methods, and full NAT).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ForwardingMethod {
    /// Direct routing (`-g`): nothing changes but the MACs and the TTL.
    #[default]
    Direct,
    /// Tunnelling (`-i`): the packet is put into another one.
    Tunnel,
    /// Network address translation (`-m`): the real server's address and port instead of the virtual ones.
    Nat,
    /// The same, and a local address and port instead of the client's.
    FullNat,
}

/// A real server as the workers need it for each packet. A slot is not given to another real server before the last
/// connection and the last template that name it are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Destination {
    /// The first 12 bytes of the frame to send: the next hop's MAC (the real server's or its gateway's), then the director's.
    pub macs: [u8; 12],
    /// VLAN of the frame to send; 0: untagged.
    pub vlan: u16,
    /// Largest IP packet that goes there whole: what the interface carries, less what a tunnel adds.
    pub mtu: u16,
    /// Index into [`Snapshot::timeouts`].
    pub timeouts: u16,
    /// Tells the real server from those that had the slot before.
    pub incarnation: u16,
    /// The port that leads to it.
    pub port: PortId,
    /// What to do with packets for it.
    pub state: DestinationState,
    /// How they get there; all but direct routing say more in [`Snapshot::ways`].
    pub method: ForwardingMethod,
    /// Its weight is 0.
    pub is_quiesced: bool,
    /// Its persistent clients leave it with their next connection: it is drained, or quiesced and they do not stay with
    /// such a one (IPVS: `expire_quiescent_template`).
    pub refuses_persistent: bool,
}

const _: () = assert!(size_of::<Destination>() == 32);

/// What a forwarding method needs beside the [`Destination`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    #[default]
    Direct,
    /// Put into a packet to the real server.
    Tunnel(Tunnel),
    /// Addressed to the real server.
    Translate(Translation),
}

/// A tunnel to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    outer: OuterTemplate,
    kind: TunnelKind,
    source: IpAddr,
    destination: IpAddr,
}

impl Tunnel {
    /// From the director's address towards the real server to the RIP; none where they are of two families.
    pub fn new(kind: TunnelKind, source: IpAddr, destination: IpAddr) -> Option<Tunnel> {
        let outer = OuterTemplate::new(kind, source, destination)?;
        Some(Tunnel { outer, kind, source, destination })
    }

    /// Its encapsulation.
    pub fn kind(&self) -> TunnelKind {
        self.kind
    }

    /// The director's address towards the real server.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The RIP.
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The header in front of each packet, as far as all have it alike.
    #[inline(always)]
    pub fn outer(&self) -> &OuterTemplate {
        &self.outer
    }

    /// What the tunnel takes off the MTU, in bytes.
    pub fn overhead(&self) -> u16 {
        self.outer.length() as u16
    }
}

/// Whereto network address translation translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The RIP.
    pub address: IpAddr,
    /// The real server's port; 0: the one that the client asked for.
    pub port: u16,
    /// How the real server learns the client's address (full NAT).
    pub client_address: ClientAddress,
    /// Which local addresses may stand for its clients (full NAT).
    pub local_addresses: LocalRange,
}

/// How a real server behind full NAT learns the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    None,
    /// By the TCP option that the TOA module reads.
    Toa,
    /// By a PROXY protocol header, version 2, in front of the client's first byte.
    ProxyV2,
}

/// Why the director listens to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressRole {
    /// A VIP, on every interface.
    Vip,
    /// The director's own address on this interface.
    Dip(InterfaceId),
    /// An address of the pool of full NAT, on this interface.
    Local(InterfaceId),
    /// A real server or a gateway behind this interface: its ARP and neighbour discovery are listened to.
    Neighbour(InterfaceId),
}

/// Index of an interface: a port's untagged side or one of its VLANs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u16);

impl InterfaceId {
    /// As an index into [`Snapshot::interfaces`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// An interface as the workers need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSnapshot {
    /// The port that it belongs to.
    pub port: PortId,
    /// Its VLAN; 0: untagged.
    pub vlan: u16,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// What is for the host itself goes to a host interface.
    pub has_host: bool,
}

/// A port as the workers need it.
#[derive(Clone, Debug, Default)]
pub struct PortSnapshot {
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// The interface of untagged frames and of those with a priority tag; none where it has VLANs only.
    pub untagged: Option<InterfaceId>,
    /// The interfaces of its VLANs.
    pub vlans: HashMap<u16, InterfaceId, RandomState>,
    /// Frames with two tags are the host's, not dropped.
    pub passes_qinq: bool,
    /// It receives larger frames than some interface sends: what stands in them behind an IP packet is cut off.
    pub trims: bool,
}

/// Where packets go that are not a real server's: replies and errors to clients.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_network: HashMap<IpNet, NextHop, RandomState>,
    /// Prefix lengths that there are, the longest first: of IPv4, of IPv6.
    lengths: [Vec<u8>; 2],
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub network: IpNet,
    /// How it is reached.
    pub next_hop: NextHop,
}

/// How an address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Out of this interface.
    pub interface: InterfaceId,
    /// Over this gateway; none where the network is directly connected or the gateway's MAC is not known.
    pub mac: Option<[u8; 6]>,
    /// The director's own address there.
    pub source: IpAddr,
}

impl Routes {
    /// Of these, in any order; of two for one network the first counts.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Routes {
        let mut made = Routes::default();
        for Route { network, next_hop } in routes {
            made.by_network.entry(network.trunc()).or_insert(next_hop);
            made.lengths[usize::from(network.addr().is_ipv6())].push(network.prefix_len());
        }
        for lengths in &mut made.lengths {
            lengths.sort_unstable_by_key(|&length| Reverse(length));
            lengths.dedup();
        }
        made
    }

    /// The way to `address`: that of the narrowest network which holds it.
    pub fn next_hop(&self, address: IpAddr) -> Option<&NextHop> {
        let lengths = &self.lengths[usize::from(address.is_ipv6())];
        lengths.iter().find_map(|&length| {
            let network = IpNet::new(address, length).ok()?;
            self.by_network.get(&network.trunc())
        })
    }
}

/// The addresses that full NAT puts in the place of clients'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// For IPv4.
    pub ipv4: Vec<Ipv4Addr>,
    /// For IPv6.
    pub ipv6: Vec<Ipv6Addr>,
}

/// Some of the local addresses of a family, by their places in [`LocalAddresses`]: those of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRange {
    /// The first.
    pub start: u16,
    /// One more than the last; more than there are: all from `start` on.
    pub end: u16,
}

impl LocalRange {
    /// All of the family.
    pub const ALL: LocalRange = LocalRange { start: 0, end: u16::MAX };

    /// What it picks of `addresses`.
    pub(crate) fn of<T>(self, addresses: &[T]) -> &[T] {
        addresses.get(self.start.into()..addresses.len().min(self.end.into())).unwrap_or_default()
    }
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
    /// Errors (ICMP) that each worker may originate in a second; 0: none.
    pub icmp_packets_per_second: u32,
    /// Packets a second to each interface's host; 0: none.
    pub host_packets_per_second: u32,
    /// The outer header of a tunnel forbids fragmentation where the inner one does.
    pub pmtu_disc: bool,
    /// The MSS in a client's SYN is lowered to what fits the tunnel.
    pub tunnel_mss_clamp: bool,
    /// An ICMP error about an unknown packet is scheduled like the packet.
    pub schedule_icmp: bool,
    /// A real server whose reply belongs to no connection is told so (ICMP port unreachable).
    pub nat_icmp_send: bool,
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
            icmp_packets_per_second: 1000,
            host_packets_per_second: 50_000,
            pmtu_disc: true,
            tunnel_mss_clamp: false,
            schedule_icmp: false,
            nat_icmp_send: false,
        }
    }
}

/// Everything that a worker knows.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By [`PortId`].
    pub ports: Vec<PortSnapshot>,
    /// By [`InterfaceId`].
    pub interfaces: Vec<InterfaceSnapshot>,
    /// The virtual services, by each of their VIP:ports.
    pub services: HashMap<ServiceKey, Arc<Service>, RandomState>,
    /// A service on port 0 is among them.
    pub has_every_port: bool,
    /// Those of TCP port 21, no groups, by VIP: IPVS counts to them what no service wants there at ports 20 and from 1024
    /// on.
    pub ftp_services: HashMap<IpAddr, Arc<Service>, RandomState>,
    /// VIPs with FTP, groups' as well: behind NAT their clients' data connections are awaited.
    pub ftp_vips: HashSet<IpAddr, RandomState>,
    /// Timeouts of every service that has its own; the first are everybody else's.
    pub timeouts: Vec<StateTimeouts>,
    /// How connections are kept.
    pub options: Options,
    /// By destination slot; shorter than the capacity where the last slots are vacant.
    pub destinations: Vec<Destination>,
    /// By destination slot; shorter where the last ones are direct routing's.
    pub ways: Vec<Way>,
    /// RIPs of those whose addresses are translated (NAT, full NAT): only what comes from them may be a reply.
    pub translated_real_servers: HashSet<IpAddr, RandomState>,
    /// VIPs, DIPs, local addresses, RIPs and gateways.
    pub addresses: HashMap<IpAddr, AddressRole, RandomState>,
    /// To clients.
    pub routes: Routes,
    /// The pool of full NAT.
    pub local_addresses: LocalAddresses,
}

/// The connection counts of every destination slot: they outlive any snapshot, because connections do.
pub type SharedCounts = Arc<[Arc<ConnectionCounts>]>;

/// Counts for `capacity` destination slots, all zero.
pub fn shared_counts(capacity: usize) -> SharedCounts {
    (0..capacity).map(|_| Arc::new(ConnectionCounts::new())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_range_picks_no_more_than_there_is() {
        let picked = |start, end| LocalRange { start, end }.of(&[10, 11, 12]).to_vec();
        assert_eq!(picked(1, 2), [11]);
        assert_eq!(picked(1, 9), [11, 12]);
        assert_eq!(picked(3, 4), [0; 0]);
        assert_eq!(picked(4, 5), [0; 0]);
        assert_eq!(LocalRange::ALL.of(&[10, 11, 12]), [10, 11, 12]);
    }

    #[test]
    fn narrowest_network_that_holds_an_address_is_its_way_and_the_first_of_equals() {
        let route = |network: &str, number| Route {
            network: network.parse().unwrap(),
            next_hop: NextHop {
                interface: InterfaceId(number),
                mac: None,
                source: Ipv4Addr::LOCALHOST.into(),
            },
        };
        let networks =
            ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16", "2001:db8::/32", "2001:db8::1/128"];
        let routes = Routes::new((0..).zip(networks).map(|(number, network)| route(network, number)));
        for (address, way) in [
            ("192.0.2.1", Some(0)),
            ("10.2.0.1", Some(1)),
            ("10.1.255.255", Some(2)),
            ("2001:db8::2", Some(4)),
            ("2001:db8::1", Some(5)),
            ("2001:db9::1", None),
        ] {
            let next_hop = routes.next_hop(address.parse().unwrap());
            assert_eq!(next_hop.map(|next_hop| next_hop.interface.0), way, "{address}");
        }
    }
}
