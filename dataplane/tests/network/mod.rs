//! The network in which the packet catalogue and the fuzzing take place: a director with four ports in memory, and behind it a
//! real server for each forwarding method and family.
//!
//! | port | interfaces | who is there |
//! |---|---|---|
//! | 0 | untagged 10.0.0.1, VLAN 100 10.100.0.1 | clients (behind a router, or so it looks); real servers of `dr` |
//! | 1 | untagged 10.1.0.1; frames with two tags are the host's | real servers of NAT, the gateway to tunnels |
//! | 2 | VLAN 200 10.200.0.1 | real servers of `dr-vlan` |
//! | 3 | untagged 10.3.0.1, MTU 9000 | real servers of `dr-jumbo` |
//!
//! Each method has a VIP of its own in either family, with TCP 80 and 21, UDP 53, SCTP 3868, one real server each. NAT translates
//! to the ports 8080, 2121 and 5353, and keeps SCTP's.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod forwarding;
pub mod methods;
pub mod stage;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::port::PortId;
use dataplane::snapshot::{
    AddressRole, Destination, DestinationState, InterfaceId, InterfaceSnapshot, LocalRange, NextHop, Options,
    Persistence, PersistenceScope, PersistentClient, PortSnapshot, Protocol, Route, Routes, Service,
    ServiceKey, SharedCounts, Snapshot, Translation, Tunnel, Way,
};
use scheduler::{Algorithm, HashRing, RealServer, Scheduler, SchedulerConfig};

use crate::notation::Names;
use methods::{METHODS, Method};

/// Destination slots.
pub const SLOTS: usize = 192;
/// Ports of the director.
pub const PORTS: usize = 4;
/// Largest packet of each interface, by its number.
pub const MTUS: [u16; 5] = [1500, 1500, 1500, 1500, 9000];
/// Port and VLAN of each interface.
const INTERFACES: [(u8, u16); 5] = [(0, 0), (0, 100), (1, 0), (2, 200), (3, 0)];
/// The services of each method's VIP, with the port that NAT translates to.
pub const SERVICES: [(Protocol, u16, u16); 4] = [
    (Protocol::TCP, 80, 8080),
    (Protocol::UDP, 53, 5353),
    (Protocol::SCTP, 3868, 0),
    (Protocol::TCP, 21, 2121),
];
/// Slots from here on are those of the special services.
const SPECIAL_SLOTS: usize = 160;
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 4, 1];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 3, 1];

pub fn port_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, port]
}

/// Number of an interface by its port and VLAN.
fn interface(port: u8, vlan: u16) -> InterfaceId {
    let found = INTERFACES.iter().position(|&interface| interface == (port, vlan));
    InterfaceId(found.expect("an interface of the network") as u16)
}

/// VIPs with something special about them, and all of direct routing but where it is said.
const SPECIAL: [&str; 8] = [
    "vip-unserved",
    "vip-empty",
    "vip-quiesced",
    "vip-unresolved",
    "vip-1400",
    "vip-ftp",
    "vip-any",
    "vip-sip",
];

/// The address with this number in a network that has a number, too.
fn address(is_ipv6: bool, network: u8, host: u8) -> IpAddr {
    match is_ipv6 {
        false => Ipv4Addr::new(10, network, 0, host).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0xa, network.into(), 0, 0, 0, host.into()).into(),
    }
}

fn vip(is_ipv6: bool, number: u8) -> IpAddr {
    match is_ipv6 {
        false => Ipv4Addr::new(192, 0, 2, number).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number.into()).into(),
    }
}

/// The names of a case, which is of one method and one family.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub method: &'static Method,
    pub is_ipv6: bool,
    /// The port that frames come in by.
    pub port: u8,
    /// The local port that full NAT chose last.
    pub local_port: Option<u16>,
}

impl View {
    pub fn new(method: &'static Method, is_ipv6: bool) -> View {
        View { method, is_ipv6, port: 0, local_port: None }
    }
}

impl Names for View {
    fn address(&self, name: &str, is_ipv6: bool) -> Option<IpAddr> {
        let network = |host| Some(address(is_ipv6, self.method.network(), host));
        match name {
            "vip" => Some(vip(is_ipv6, self.method.vip())),
            "rs" => network(self.method.rip()),
            // The director's address on the link to the real server.
            "dip-rs" => network(1),
            "dip" => Some(address(is_ipv6, 0, 1)),
            "dip-100" => Some(address(is_ipv6, 100, 1)),
            "dip-1" => Some(address(is_ipv6, 1, 1)),
            "lip" => Some(address(is_ipv6, 1, 200)),
            "router" => Some(address(is_ipv6, 0, 254)),
            "client" | "client2" | "stranger" | "hop" => {
                let (v4, v6) = match name {
                    "client" => ([198, 51, 100, 7], 0xc),
                    "client2" => ([198, 51, 100, 8], 0xd),
                    "hop" => ([203, 0, 113, 1], 0xe),
                    _ => ([203, 0, 113, 99], 0xf),
                };
                Some(match is_ipv6 {
                    false => v4.into(),
                    true => Ipv6Addr::new(0x2001, 0xdb8, v6, 0, 0, 0, 0, 7).into(),
                })
            }
            // Link-local addresses and groups are IPv6's.
            "client-ll" if is_ipv6 => "fe80::7".parse().ok(),
            "all-nodes" if is_ipv6 => "ff02::1".parse().ok(),
            _ => {
                let number = SPECIAL.iter().position(|special| *special == name)? as u8;
                Some(vip(is_ipv6, 100 + number))
            }
        }
    }

    fn mac(&self, name: &str) -> Option<[u8; 6]> {
        match name {
            "client" => Some(CLIENT_MAC),
            "dut" => Some(port_mac(self.port)),
            "router" => Some(ROUTER_MAC),
            "broadcast" => Some([0xff; 6]),
            "rs" => Some(self.method.mac()),
            _ => None,
        }
    }

    fn link(&self, name: &str) -> Option<([u8; 6], [u8; 6], u16)> {
        let (port, vlan) = self.method.link();
        match name {
            "rs" => Some((self.method.mac(), port_mac(port), vlan)),
            // By direct routing, on port 0.
            "dr" => Some((METHODS[0].mac(), port_mac(0), 0)),
            "special" => Some(([2, 0, 0, 0, 2, 0xfe], port_mac(0), 0)),
            _ => None,
        }
    }

    fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    fn port(&self, name: &str) -> Option<u16> {
        self.local_port.filter(|_| name == "lport")
    }
}

/// What the director knows of the network.
pub fn snapshot(counts: &SharedCounts, options: Options) -> Snapshot {
    let mut snapshot = Snapshot { options, ..Snapshot::default() };
    for port in 0..PORTS as u8 {
        let of_port = INTERFACES.iter().enumerate().filter(|(_, (of, _))| *of == port);
        let mut facts =
            PortSnapshot { mac: port_mac(port), passes_qinq: port == 1, ..PortSnapshot::default() };
        for (number, (_, vlan)) in of_port {
            match vlan {
                0 => facts.untagged = Some(InterfaceId(number as u16)),
                vlan => drop(facts.vlans.insert(*vlan, InterfaceId(number as u16))),
            }
        }
        snapshot.ports.push(facts);
    }
    for (number, (port, vlan)) in INTERFACES.into_iter().enumerate() {
        let interface = InterfaceSnapshot {
            port: PortId(port),
            vlan,
            mac: port_mac(port),
            mtu: MTUS[number],
            has_host: number < 4,
        };
        snapshot.interfaces.push(interface);
        let network = if vlan == 0 { port } else { vlan as u8 };
        for is_ipv6 in [false, true] {
            let role = AddressRole::Dip(InterfaceId(number as u16));
            snapshot.addresses.insert(address(is_ipv6, network, 1), role);
        }
    }
    snapshot.destinations = vec![Destination::default(); SLOTS];
    snapshot.ways = vec![Way::Direct; SLOTS];
    for (index, method) in METHODS.iter().enumerate() {
        for is_ipv6 in [false, true] {
            add_method(&mut snapshot, counts, index, method, is_ipv6);
        }
    }
    add_special(&mut snapshot, counts);
    add_ways_to_clients(&mut snapshot);
    snapshot
}

/// The service of a slot, with its one real server.
fn service(counts: &SharedCounts, slot: usize, address: IpAddr, port: u16, weight: u32) -> Service {
    let real_servers = vec![RealServer {
        id: slot as u32,
        address,
        port,
        weight,
        last_weight: weight.max(1),
        is_drained: false,
        available: true,
        has_threshold: false,
        joined_seconds: None,
        counts: counts[slot].clone(),
    }];
    served(real_servers)
}

fn served(real_servers: Vec<RealServer>) -> Service {
    let config = SchedulerConfig { algorithm: Algorithm::Rr, ..SchedulerConfig::default() };
    Service {
        scheduler: Scheduler::new(config, &real_servers),
        ring: Arc::new(HashRing::new(&real_servers)),
        stateless: Arc::default(),
        real_servers,
        persistence: None,
        one_packet: false,
        timeouts: 0,
    }
}

fn add_method(snapshot: &mut Snapshot, counts: &SharedCounts, index: usize, method: &Method, is_ipv6: bool) {
    let (port, vlan) = method.link();
    let interface = interface(port, vlan);
    let vip = vip(is_ipv6, method.vip());
    let outer_is_ipv6 = method.outer_is_ipv6(is_ipv6);
    let rip = address(outer_is_ipv6, method.network(), method.rip());
    snapshot.addresses.insert(vip, AddressRole::Vip);
    snapshot.addresses.insert(rip, AddressRole::Neighbour(interface));
    for (number, (protocol, service_port, translated)) in SERVICES.into_iter().enumerate() {
        let slot = (index * 2 + usize::from(is_ipv6)) * SERVICES.len() + number;
        let mut destination = Destination {
            macs: [method.mac(), port_mac(port)].concat().try_into().expect("twelve bytes"),
            vlan,
            mtu: MTUS[interface.index()],
            port: PortId(port),
            state: DestinationState::Forwarding,
            method: method.forwarding,
            ..Destination::default()
        };
        if let Some(kind) = method.tunnel {
            let dip = address(outer_is_ipv6, method.network(), 1);
            let tunnel = Tunnel::new(kind, dip, rip).expect("two of a family");
            destination.mtu -= tunnel.overhead();
            snapshot.ways[slot] = Way::Tunnel(tunnel);
        }
        if method.is_translated() {
            snapshot.ways[slot] = Way::Translate(Translation {
                address: rip,
                port: translated,
                client_address: method.client_address,
                local_addresses: LocalRange::ALL,
            });
            snapshot.translated_real_servers.insert(rip);
        }
        snapshot.destinations[slot] = destination;
        let real_server_port = if method.is_translated() { translated } else { 0 };
        let service = Arc::new(service(counts, slot, rip, real_server_port, 1));
        let key = ServiceKey { address: vip, port: service_port, protocol };
        snapshot.services.insert(key, service.clone());
        if (protocol, service_port) == (Protocol::TCP, 21) {
            snapshot.ftp_services.insert(vip, service);
            snapshot.ftp_vips.insert(vip);
        }
    }
}

/// The VIPs of [`SPECIAL`]; what they have of real servers is one at port 0.
fn add_special(snapshot: &mut Snapshot, counts: &SharedCounts) {
    for (number, name) in SPECIAL.into_iter().enumerate() {
        for is_ipv6 in [false, true] {
            let slot = SPECIAL_SLOTS + number * 2 + usize::from(is_ipv6);
            let vip = vip(is_ipv6, 100 + number as u8);
            snapshot.addresses.insert(vip, AddressRole::Vip);
            if name == "vip-unserved" {
                continue;
            }
            let is_unresolved = name == "vip-unresolved";
            let is_quiesced = name == "vip-quiesced";
            snapshot.destinations[slot] = Destination {
                macs: [[2, 0, 0, 0, 2, 0xfe], port_mac(0)].concat().try_into().expect("twelve bytes"),
                mtu: if name == "vip-1400" { 1400 } else { 1500 },
                state: if is_unresolved {
                    DestinationState::Unresolved
                } else {
                    DestinationState::Forwarding
                },
                is_quiesced,
                ..Destination::default()
            };
            let rip = address(is_ipv6, 0, 90 + number as u8);
            let weight = u32::from(!is_quiesced);
            let mut service =
                if name == "vip-empty" { served(Vec::new()) } else { service(counts, slot, rip, 0, weight) };
            let members: &[(Protocol, u16)] = match name {
                "vip-ftp" => &[(Protocol::TCP, 21)],
                "vip-any" => &[(Protocol::TCP, 0), (Protocol::UDP, 0)],
                "vip-sip" => &[(Protocol::UDP, 5060)],
                _ => &[(Protocol::TCP, 80), (Protocol::UDP, 53), (Protocol::SCTP, 3868)],
            };
            if ["vip-ftp", "vip-any", "vip-sip"].contains(&name) {
                service.persistence = Some(Persistence {
                    timeout_ticks: 300 * 256,
                    netmask: u128::MAX,
                    client: match name {
                        "vip-sip" => PersistentClient::CallId,
                        _ => PersistentClient::Address,
                    },
                    scope: PersistenceScope::Virtual { port: 0 },
                });
            }
            let service = Arc::new(service);
            for &(protocol, port) in members {
                snapshot.services.insert(ServiceKey { address: vip, port, protocol }, service.clone());
                snapshot.has_every_port |= port == 0;
                if port == 21 {
                    snapshot.ftp_services.insert(vip, service.clone());
                    snapshot.ftp_vips.insert(vip);
                }
            }
        }
    }
}

fn add_ways_to_clients(snapshot: &mut Snapshot) {
    let mut routes = Vec::new();
    for is_ipv6 in [false, true] {
        let everywhere = if is_ipv6 { "::/0" } else { "0.0.0.0/0" };
        let source = address(is_ipv6, 0, 1);
        routes.push(Route {
            network: everywhere.parse().expect("a network"),
            next_hop: NextHop { interface: InterfaceId(0), mac: Some(ROUTER_MAC), source },
        });
        for (number, (port, vlan)) in INTERFACES.into_iter().enumerate() {
            let network = if vlan == 0 { port } else { vlan as u8 };
            let source = address(is_ipv6, network, 1);
            let prefix = if is_ipv6 { 64 } else { 24 };
            routes.push(Route {
                network: ipnet::IpNet::new(source, prefix).expect("a network").trunc(),
                next_hop: NextHop { interface: InterfaceId(number as u16), mac: None, source },
            });
        }
        let lip = address(is_ipv6, 1, 200);
        snapshot.addresses.insert(lip, AddressRole::Local(InterfaceId(2)));
        snapshot.addresses.insert(address(is_ipv6, 0, 254), AddressRole::Neighbour(InterfaceId(0)));
        match lip {
            IpAddr::V4(lip) => snapshot.local_addresses.ipv4.push(lip),
            IpAddr::V6(lip) => snapshot.local_addresses.ipv6.push(lip),
        }
    }
    snapshot.routes = Routes::new(routes);
}
