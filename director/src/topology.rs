//! The network as the control thread knows it: ports, their interfaces with the director's own addresses (DIPs), and by
//! which next hop an address is reached. Fixed from start to end.
//!
//! An *interface* is a port's untagged side or one VLAN of it. A port without addresses has no untagged side.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use ctl::config::{HostInterface, PortConfig, Qinq, RouteConfig, ServiceConfig};
use ctl::mac::MacAddress;
use ctl::protocol::{ErrorCode, ErrorReply};
use ctl::validate::IPV6_MTU_MIN;
use dataplane::port::{PortId, PortStatus};
use dataplane::snapshot::InterfaceId;
use ipnet::IpNet;

/// What does not change about a port.
#[derive(Clone, Debug)]
pub struct PortFacts {
    /// Its number.
    pub id: PortId,
    /// Its name in the configuration.
    pub name: String,
    /// Its DPDK device.
    pub device: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The interface of untagged frames.
    pub untagged: Option<InterfaceId>,
    /// Those of its VLANs.
    pub vlans: HashMap<u16, InterfaceId>,
    /// Frames with two tags go to the host.
    pub passes_qinq: bool,
}

/// What does not change about an interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its number.
    pub id: InterfaceId,
    /// Its port.
    pub port: PortId,
    /// Its VLAN; 0: untagged.
    pub vlan: u16,
    /// `lan0`, or `lan0.100`.
    pub name: String,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// DIPs, each with its directly connected network.
    pub addresses: Vec<IpNet>,
    /// Name of the host's device for it; none where the host has no part of it.
    pub host_interface: Option<String>,
    /// A start without that device is refused.
    pub needs_host_interface: bool,
    /// The device is there.
    pub has_host: bool,
}

/// How the director reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Out of this interface.
    pub interface: InterfaceId,
    /// As this address of the director's, of the same family, the next hop is asked for its MAC.
    pub source: IpAddr,
    /// As this one packets of the director's own go that way: as the same unless that is link-local, which no router takes
    /// further; none where the director has no other.
    pub packet_source: Option<IpAddr>,
    /// The address itself, or that of its gateway.
    pub next_hop: IpAddr,
}

/// A network and how it is reached.
#[derive(Clone, Copy, Debug)]
struct Reach {
    interface: InterfaceId,
    source: IpAddr,
    packet_source: Option<IpAddr>,
    /// None: connected.
    gateway: Option<IpAddr>,
}

/// Networks of one family by their prefix, longest first.
#[derive(Clone, Debug, Default)]
struct Networks {
    by_length: Vec<(u8, HashMap<IpAddr, Reach>)>,
}

impl Networks {
    /// Adds a network unless it is there already.
    fn add(&mut self, network: IpNet, reach: Reach) {
        let length = network.prefix_len();
        let place = match self.by_length.binary_search_by(|(other, _)| length.cmp(other)) {
            Ok(place) => place,
            Err(place) => {
                self.by_length.insert(place, (length, HashMap::new()));
                place
            }
        };
        self.by_length[place].1.entry(network.network()).or_insert(reach);
    }

    /// The longest prefix that holds `address`.
    fn find(&self, address: IpAddr) -> Option<&Reach> {
        self.by_length.iter().find_map(|(length, networks)| {
            let network = IpNet::new(address, *length).ok()?;
            networks.get(&network.network())
        })
    }
}

/// All ports and interfaces.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// By [`PortId`].
    pub ports: Vec<PortFacts>,
    /// By [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// Connected ones alone, IPv4 and IPv6.
    connected: [Networks; 2],
    /// Connected and routed ones.
    reached: [Networks; 2],
    /// In the order of the configuration.
    routes: Vec<(IpNet, Route)>,
    /// A link-local address may be that of several interfaces.
    dips: HashSet<(InterfaceId, IpAddr)>,
    names: HashMap<String, InterfaceId>,
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

impl Topology {
    /// The ports of a valid configuration, started, and its routes.
    pub fn new(configs: &[PortConfig], routes: &[RouteConfig], started: &[Box<dyn PortStatus>]) -> Self {
        let mut topology = Topology::default();
        for (config, port) in configs.iter().zip(started) {
            topology.add_port(config, port.mac(), port.mtu());
        }
        routes.iter().for_each(|route| topology.add_route(route));
        topology
    }

    fn add_port(&mut self, config: &PortConfig, mac: [u8; 6], mtu: u16) {
        let id = PortId(u8::try_from(self.ports.len()).expect("validation allows fewer than 256 ports"));
        let mut port = PortFacts {
            id,
            name: config.name.clone(),
            device: config.device.clone(),
            mac,
            mtu,
            untagged: None,
            vlans: HashMap::new(),
            passes_qinq: config.qinq == Qinq::Pass,
        };
        for interface in config.interfaces().filter(|interface| !interface.addresses.is_empty()) {
            let number = u16::try_from(self.interfaces.len());
            let id = InterfaceId(number.expect("validation allows fewer than 65,536 interfaces"));
            match interface.vlan {
                None => port.untagged = Some(id),
                Some(vlan) => drop(port.vlans.insert(vlan, id)),
            }
            self.interfaces.push(Interface {
                id,
                port: port.id,
                vlan: interface.vlan.unwrap_or(0),
                name: interface.name(),
                mac,
                mtu: interface.mtu.unwrap_or(mtu),
                addresses: interface.addresses.to_vec(),
                host_interface: interface.host_interface_name(self.ports.len()),
                needs_host_interface: matches!(interface.host_interface, HostInterface::Named(_)),
                has_host: false,
            });
        }
        let new = self.ports.len();
        self.ports.push(port);
        self.connect(new);
    }

    /// Makes the networks of a port's interfaces known.
    fn connect(&mut self, port: usize) {
        for interface in self.interfaces.iter().filter(|interface| interface.port.index() == port) {
            for dip in &interface.addresses {
                let source = dip.addr();
                let packet_source = Some(source).filter(|source| !is_link_local(*source));
                let reach = Reach { interface: interface.id, source, packet_source, gateway: None };
                let family = family(dip.addr());
                self.connected[family].add(dip.trunc(), reach);
                self.reached[family].add(dip.trunc(), reach);
                self.dips.insert((interface.id, dip.addr()));
            }
            self.names.insert(interface.name.clone(), interface.id);
        }
    }

    /// A route whose gateway is in no connected network is refused by validation.
    fn add_route(&mut self, config: &RouteConfig) {
        let gateway = config.gateway;
        let named = config.interface.as_ref().and_then(|name| self.interface(*self.names.get(name)?));
        let way = match (named, is_link_local(gateway)) {
            (Some(interface), true) => Some((interface.id, IpAddr::V6(interface.link_local()))),
            (Some(interface), false) => {
                let holding = interface.addresses.iter().filter(|dip| dip.contains(&gateway));
                let dip = holding.max_by_key(|dip| dip.prefix_len());
                dip.map(|dip| (interface.id, dip.addr()))
            }
            (None, _) => self.connection(gateway).map(|route| (route.interface, route.source)),
        };
        let Some((interface, source)) = way else { return };
        let network = config.network.trunc();
        let packet_source = match is_link_local(source) {
            true => self.global_dip(interface),
            false => Some(source),
        };
        self.routes.push((network, Route { interface, source, packet_source, next_hop: gateway }));
        let reach = Reach { interface, source, packet_source, gateway: Some(gateway) };
        self.reached[family(gateway)].add(network, reach);
    }

    /// An IPv6 address of the director's that is no link-local one: of `interface`, or else of any.
    fn global_dip(&self, interface: InterfaceId) -> Option<IpAddr> {
        let of_it = self.interface(interface).into_iter();
        let mut dips = of_it.chain(&self.interfaces).flat_map(|one| &one.addresses).map(IpNet::addr);
        dips.find(|dip| dip.is_ipv6() && !is_link_local(*dip))
    }

    /// How `address` is reached: by the longest prefix among connected and routed networks.
    pub fn route(&self, address: IpAddr) -> Option<Route> {
        let &Reach { interface, source, packet_source, gateway } =
            self.reached[family(address)].find(address)?;
        Some(Route { interface, source, packet_source, next_hop: gateway.unwrap_or(address) })
    }

    /// The same where a connected network holds it.
    pub fn connection(&self, address: IpAddr) -> Option<Route> {
        let &Reach { interface, source, packet_source, .. } =
            self.connected[family(address)].find(address)?;
        Some(Route { interface, source, packet_source, next_hop: address })
    }

    /// The configured routes, with their networks.
    pub fn routes(&self) -> &[(IpNet, Route)] {
        &self.routes
    }

    /// `address` is a DIP of `interface`.
    pub fn is_dip_of(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.dips.contains(&(interface, address))
    }

    /// `address` is the link-local one of `interface`, which the director has beside its DIPs.
    pub fn is_link_local_of(&self, interface: InterfaceId, address: IpAddr) -> bool {
        self.interface(interface).is_some_and(|interface| address == IpAddr::V6(interface.link_local()))
    }

    /// An interface by its number.
    pub fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))
    }

    /// Interfaces on which a VIP is answered and announced: the one whose network holds it, or else all.
    pub fn interfaces_of_vip(&self, vip: IpAddr) -> &[Interface] {
        match self.connection(vip).map(|route| usize::from(route.interface.0)) {
            Some(one) => self.interfaces.get(one..=one).unwrap_or_default(),
            None => &self.interfaces,
        }
    }

    /// A port of ours has this MAC.
    pub fn is_own_mac(&self, mac: [u8; 6]) -> bool {
        self.ports.iter().any(|port| port.mac == mac)
    }

    /// No VLAN's MTU is over its port's, and IPv6 has the 1280 bytes that it needs: what a port without `mtu` has is known
    /// once it is started.
    pub fn check_mtus(&self, configs: &[PortConfig]) -> Result<(), ErrorReply> {
        let refused =
            |message: String, help: String| Err(ErrorReply::new(ErrorCode::Invalid, message).with_help(help));
        for (number, (config, port)) in configs.iter().zip(&self.ports).enumerate() {
            let PortFacts { name, mtu, .. } = port;
            let vlans = config.vlans.iter().map(|vlan| vlan.mtu).enumerate();
            if let Some((vlan, own)) =
                vlans.filter_map(|(vlan, own)| Some((vlan, own?))).find(|(_, own)| own > mtu)
            {
                let place = format!("ports[{number}].vlans[{vlan}].mtu");
                return refused(
                    format!("{place}: {own} is over the {mtu} of port {name}"),
                    format!("give the VLAN {mtu} or less, or raise ports[{number}].mtu"),
                );
            }
            let is_on_it = |interface: &&Interface| interface.port == port.id && interface.has_ipv6();
            if *mtu < IPV6_MTU_MIN && self.interfaces.iter().any(|interface| is_on_it(&interface)) {
                return refused(
                    format!(
                        "ports[{number}].mtu: port {name} has {mtu}, under {IPV6_MTU_MIN}, the least for IPv6 (RFC 8200)"
                    ),
                    format!(
                        "give ports[{number}].mtu = {IPV6_MTU_MIN} or more, or take the IPv6 addresses away"
                    ),
                );
            }
        }
        Ok(())
    }

    /// No real server has the MAC of a port: its packets would come back, again and again, until their TTL ends.
    pub fn check_macs(&self, services: &[ServiceConfig]) -> Result<(), ErrorReply> {
        let all =
            services.iter().flat_map(|service| service.real_servers.iter().map(move |one| (service, one)));
        for (service, real_server) in all {
            let Some(port) =
                self.ports.iter().find(|port| real_server.mac.is_some_and(|mac| mac.0 == port.mac))
            else {
                continue;
            };
            let message = format!(
                "real server {} of {}: its MAC {} is the director's own, on port {}",
                real_server.id(),
                service.id(),
                MacAddress(port.mac),
                port.name
            );
            let help = "give the real server's own MAC, or none to ask for it";
            return Err(ErrorReply::new(ErrorCode::Invalid, message).with_help(help));
        }
        Ok(())
    }

    /// Name of an interface; empty for a number that none has.
    pub fn name(&self, interface: InterfaceId) -> &str {
        self.interface(interface).map_or("", |interface| interface.name.as_str())
    }
}

impl Interface {
    /// The address of RFC 4291's appendix A: fe80::/64 and the MAC as EUI-64. Linux gives the host's device the same.
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// It has an address of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|dip| dip.addr().is_ipv6())
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Ports for tests. Port 0, `inside`, has 10.0.0.1/24 and 10.0.1.1/16 (interface 0) and VLAN 100 with 10.100.0.1/24 and
/// 2001:db8:100::1/64 (interface 1); port 1, `outside`, has 192.0.2.1/24 and 2001:db8::1/64 (interface 2). 203.0.113.0/24
/// is behind 10.0.0.254, 2001:db8:ff::/48 behind fe80::9 on VLAN 100.
#[cfg(test)]
pub(crate) fn two_ports() -> Topology {
    let text = r#"
        [[ports]]
        name = "inside"
        device = "memory0"
        addresses = ["10.0.0.1/24", "10.0.1.1/16"]
        [[ports.vlans]]
        id = 100
        addresses = ["10.100.0.1/24", "2001:db8:100::1/64"]
        mtu = 1400
        [[ports]]
        name = "outside"
        device = "memory1"
        addresses = ["192.0.2.1/24", "2001:db8::1/64"]
        [[routes]]
        network = "203.0.113.0/24"
        gateway = "10.0.0.254"
        [[routes]]
        network = "2001:db8:ff::/48"
        gateway = "fe80::9"
        interface = "inside.100"
    "#;
    of_config(&ctl::config::Config::from_toml(text, "test").expect("a configuration"))
}

/// Ports as configured, each with a MAC address of its own and an MTU of 1500.
#[cfg(test)]
pub(crate) fn of_config(config: &ctl::config::Config) -> Topology {
    let mut topology = Topology::default();
    for (number, port) in config.ports.iter().enumerate() {
        topology.add_port(port, [2, 0, 0, 0, 1, number as u8], 1500);
    }
    config.routes.iter().for_each(|route| topology.add_route(route));
    topology
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Option<(u16, String, String)> {
        let route = two_ports().route(text.parse().unwrap())?;
        Some((route.interface.0, route.source.to_string(), route.next_hop.to_string()))
    }

    fn connected(interface: u16, source: &str, address: &str) -> Option<(u16, String, String)> {
        Some((interface, source.to_owned(), address.to_owned()))
    }

    #[test]
    fn route_takes_the_narrowest_network_and_none_outside_all() {
        for (address, interface, source) in [
            ("10.0.0.11", 0, "10.0.0.1"),
            ("10.0.7.11", 0, "10.0.1.1"),
            ("10.100.0.11", 1, "10.100.0.1"),
            ("192.0.2.99", 2, "192.0.2.1"),
            ("2001:db8::99", 2, "2001:db8::1"),
            ("2001:db8:100::99", 1, "2001:db8:100::1"),
        ] {
            assert_eq!(route(address), connected(interface, source, address));
        }
        assert_eq!(route("198.51.100.1"), None);
        assert_eq!(route("2001:db8:1::1"), None);
    }

    #[test]
    fn routed_address_is_reached_through_its_gateway_from_the_address_that_the_gateway_knows() {
        let behind =
            |interface, source: &str, gateway: &str| Some((interface, source.to_owned(), gateway.to_owned()));
        assert_eq!(route("203.0.113.7"), behind(0, "10.0.0.1", "10.0.0.254"));
        assert_eq!(route("2001:db8:ff::7"), behind(1, "fe80::ff:fe00:100", "fe80::9"));
        assert_eq!(two_ports().connection("203.0.113.7".parse().unwrap()), None);
    }

    #[test]
    fn packets_go_through_a_link_local_gateway_from_a_global_address_of_its_interface_or_else_of_any() {
        let packet_source = |topology: &Topology, text: &str| {
            topology.route(text.parse().unwrap()).unwrap().packet_source.map(|source| source.to_string())
        };
        let mut topology = two_ports();
        assert_eq!(packet_source(&topology, "2001:db8:ff::7").as_deref(), Some("2001:db8:100::1"));
        assert_eq!(packet_source(&topology, "2001:db8::7").as_deref(), Some("2001:db8::1"));
        assert_eq!(packet_source(&topology, "203.0.113.7").as_deref(), Some("10.0.0.1"));
        let through = |network: &str, interface: &str| RouteConfig {
            network: network.parse().unwrap(),
            gateway: "fe80::9".parse().unwrap(),
            interface: Some(interface.to_owned()),
        };
        topology.add_route(&through("2001:db8:fe::/48", "inside"));
        assert_eq!(packet_source(&topology, "2001:db8:fe::7").as_deref(), Some("2001:db8:100::1"));
        for interface in &mut topology.interfaces {
            interface.addresses.retain(|dip| dip.addr().is_ipv4());
        }
        topology.add_route(&through("2001:db8:fd::/48", "inside"));
        assert_eq!(packet_source(&topology, "2001:db8:fd::7"), None);
    }

    #[test]
    fn connected_network_comes_before_a_route_of_the_same_prefix_and_a_longer_route_before_it() {
        let mut topology = two_ports();
        for (network, gateway) in [("192.0.2.0/24", "10.0.0.254"), ("192.0.2.128/25", "10.0.0.253")] {
            let (network, gateway) = (network.parse().unwrap(), gateway.parse().unwrap());
            topology.add_route(&RouteConfig { network, gateway, interface: None });
        }
        let next_hop = |text: &str| topology.route(text.parse().unwrap()).unwrap().next_hop.to_string();
        assert_eq!(next_hop("192.0.2.7"), "192.0.2.7");
        assert_eq!(next_hop("192.0.2.200"), "10.0.0.253");
    }

    #[test]
    fn vlan_with_an_mtu_over_its_ports_is_refused_and_ipv6_on_a_port_under_1280() {
        let judge = |vlan: &str, port_mtu| {
            let text = format!(
                "[[ports]]\nname = 'lan0'\ndevice = 'memory0'\nvlans = [\n{{ id = 1, addresses = ['10.0.0.1/24'] }},\n\
                 {{ id = 2, {vlan} }},\n]\n"
            );
            let config = ctl::config::Config::from_toml(&text, "test").unwrap();
            let mut topology = Topology::default();
            topology.add_port(&config.ports[0], [2; 6], port_mtu);
            topology.check_mtus(&config.ports).err().map(|error| error.message)
        };
        let jumbo = "addresses = ['10.1.0.1/24'], mtu = 9000";
        assert_eq!(
            judge(jumbo, 1500).as_deref(),
            Some("ports[0].vlans[1].mtu: 9000 is over the 1500 of port lan0")
        );
        assert_eq!(judge(jumbo, 9000), None);
        let ipv6 = "addresses = ['2001:db8::1/64']";
        assert_eq!(
            judge(ipv6, 1279).as_deref(),
            Some("ports[0].mtu: port lan0 has 1279, under 1280, the least for IPv6 (RFC 8200)")
        );
        assert_eq!(judge(ipv6, 1280), None);
        assert_eq!(judge("addresses = ['10.1.0.1/24']", 576), None);
    }

    #[test]
    fn vip_belongs_to_its_connected_interface_or_else_to_all() {
        let topology = two_ports();
        let interfaces = |text: &str| {
            let interfaces = topology.interfaces_of_vip(text.parse().unwrap());
            interfaces.iter().map(|interface| interface.id.0).collect::<Vec<_>>()
        };
        assert_eq!(interfaces("192.0.2.10"), [2]);
        assert_eq!(interfaces("2001:db8:100::10"), [1]);
        assert_eq!(interfaces("198.51.100.10"), [0, 1, 2]);
        assert_eq!(interfaces("203.0.113.10"), [0, 1, 2], "a route connects nothing");
    }
}
