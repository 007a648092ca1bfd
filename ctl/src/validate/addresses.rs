//! What an address is, which networks the interfaces connect, and where routes lead.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::{InterfaceConfig, PortConfig, RouteConfig};

/// Why an address is no unicast host address, or None where it is one.
pub(super) fn not_unicast(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_unicast_v4(address),
        IpAddr::V6(address) => not_unicast_v6(address),
    }
}

fn not_unicast_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("of \"this network\" (0.0.0.0/8)"),
        [127, ..] => Some("a loopback address (127.0.0.0/8)"),
        [224..=239, ..] => Some("a multicast address (224.0.0.0/4)"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        [240..=255, ..] => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}

fn not_unicast_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("the unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("the loopback address"),
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("an IPv4-mapped address (::ffff:0:0/96)"),
        [0xff00..=0xffff, ..] => Some("a multicast address (ff00::/8)"),
        _ => None,
    }
}

/// [`not_unicast`], or an address that names a host on one link only: no VIP, RIP or LIP is one.
pub(super) fn not_routable(address: IpAddr) -> Option<&'static str> {
    not_unicast(address).or_else(|| is_link_local(address).then_some("a link-local address (fe80::/10)"))
}

/// IPv6's: the same on every link. IPv4's is an address like others.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// What an address is in a network that holds it, beside a host's. RFC 3021 and RFC 6164: a network of two addresses has
/// two hosts and nothing else.
pub(super) fn role_in_network(address: IpAddr, network: IpNet) -> Option<&'static str> {
    if network.prefix_len() + 1 >= network.max_prefix_len() {
        None
    } else if address == network.network() {
        Some(if address.is_ipv4() { "the network address" } else { "the subnet-router anycast address" })
    } else if address.is_ipv4() && address == network.broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

/// The network itself and every one that holds it, longest prefix first.
pub(super) fn supernets(network: IpNet) -> impl Iterator<Item = IpNet> {
    (0..=network.prefix_len())
        .rev()
        .filter_map(move |length| IpNet::new(network.addr(), length).ok())
        .map(|network| network.trunc())
}

/// An interface for people: `port lan0`, `VLAN lan0.100`.
pub(super) fn described(interface: &InterfaceConfig<'_>) -> String {
    let kind = if interface.vlan.is_some() { "VLAN" } else { "port" };
    format!("{kind} {}", interface.name())
}

/// The directly connected networks, the director's own addresses (DIPs) in them, and the routes.
pub(super) struct Connected {
    /// Each for people, with its networks.
    interfaces: Vec<(String, Vec<IpNet>)>,
    interface_of_network: HashMap<IpNet, usize>,
    interface_of_dip: HashMap<IpAddr, usize>,
    gateways: HashMap<IpNet, IpAddr>,
    /// The network of the first route through each.
    gateway_of: HashMap<IpAddr, IpNet>,
}

/// How an address is reached.
pub(super) enum Way<'a> {
    /// In this connected network, on this interface.
    Connected(IpNet, &'a str),
    /// Over this gateway.
    Gateway(IpAddr),
}

impl Connected {
    pub(super) fn new(ports: &[PortConfig], routes: &[RouteConfig]) -> Connected {
        let mut connected = Connected {
            interfaces: Vec::new(),
            interface_of_network: HashMap::new(),
            interface_of_dip: HashMap::new(),
            gateways: routes.iter().map(|route| (route.network.trunc(), route.gateway)).collect(),
            gateway_of: routes.iter().rev().map(|route| (route.gateway, route.network)).collect(),
        };
        for interface in ports.iter().flat_map(PortConfig::interfaces) {
            let index = connected.interfaces.len();
            // A link-local network is the same on every link: it tells no way.
            let networks = interface.addresses.iter().filter(|network| !is_link_local(network.addr()));
            for network in networks.clone() {
                connected.interface_of_network.insert(network.trunc(), index);
                connected.interface_of_dip.insert(network.addr(), index);
            }
            let networks = networks.map(IpNet::trunc).collect();
            connected.interfaces.push((described(&interface), networks));
        }
        connected
    }

    /// Whether nothing is known of the networks.
    pub(super) fn is_unknown(&self) -> bool {
        self.interfaces.is_empty()
    }

    /// The connected network that an address is in, and its interface, whatever routes there are.
    pub(super) fn network_of(&self, address: IpAddr) -> Option<(IpNet, &str)> {
        supernets(IpNet::from(address)).find_map(|network| {
            let index = self.interface_of_network.get(&network)?;
            Some((network, self.interfaces[*index].0.as_str()))
        })
    }

    /// How an address is reached: by the longest prefix among connected networks and routes.
    pub(super) fn way_to(&self, address: IpAddr) -> Option<Way<'_>> {
        supernets(IpNet::from(address)).find_map(|network| match self.interface_of_network.get(&network) {
            Some(index) => Some(Way::Connected(network, &self.interfaces[*index].0)),
            None => self.gateways.get(&network).copied().map(Way::Gateway),
        })
    }

    /// The gateway on the way to an address, where there is one.
    pub(super) fn gateway_to(&self, address: IpAddr) -> Option<IpAddr> {
        match self.way_to(address)? {
            Way::Connected(..) => None,
            Way::Gateway(gateway) => Some(gateway),
        }
    }

    /// The interface that has this address as its own.
    pub(super) fn interface_of_dip(&self, address: IpAddr) -> Option<&str> {
        self.interface_of_dip.get(&address).map(|index| self.interfaces[*index].0.as_str())
    }

    /// Who has this address already, where that is the director itself or a router, for people.
    pub(super) fn owner(&self, address: IpAddr) -> Option<String> {
        let dip = self.interface_of_dip(address);
        let dip = dip.map(|interface| format!("the director's own address (DIP) on {interface}"));
        dip.or_else(|| {
            let network = self.gateway_of.get(&address)?;
            Some(format!("the gateway of the route to {network}"))
        })
    }

    /// The director has an IPv6 address that is no link-local one.
    pub(super) fn has_global_ipv6(&self) -> bool {
        self.interface_of_dip.keys().any(IpAddr::is_ipv6)
    }

    /// The networks for people, in the order of the interfaces: `10.0.0.0/24 on port lan0, ...`.
    pub(super) fn describe(&self) -> String {
        const SHOWN_MAX: usize = 8;
        let mut seen = HashSet::new();
        let mut shown = Vec::new();
        for (interface, networks) in &self.interfaces {
            for network in networks.iter().filter(|network| seen.insert(**network)) {
                if shown.len() < SHOWN_MAX {
                    shown.push(format!("{network} on {interface}"));
                }
            }
        }
        let hidden = seen.len() - shown.len();
        let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
        if shown.is_empty() { "there is none".to_owned() } else { format!("{}{more}", shown.join(", ")) }
    }
}
