//! What an IPv4 address is, and which networks the ports connect.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::config::PortConfig;

/// Lengths of a connected network's prefix.
pub(super) const PREFIX_LENGTH: RangeInclusive<u8> = 1..=32;

/// Why an address is no unicast host address, or None where it is one.
pub(super) fn not_unicast(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("of \"this network\" (0.0.0.0/8)"),
        [127, ..] => Some("a loopback address (127.0.0.0/8)"),
        [224..=239, ..] => Some("a multicast address (224.0.0.0/4)"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        [240..=255, ..] => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}

/// What an address is in a network that holds it, beside a host's. RFC 3021: a /31 has two hosts and nothing else.
pub(super) fn role_in_network(address: Ipv4Addr, network: Ipv4Net) -> Option<&'static str> {
    if network.prefix_len() >= 31 {
        None
    } else if address == network.network() {
        Some("the network address")
    } else if address == network.broadcast() {
        Some("the broadcast address")
    } else {
        None
    }
}

/// The network itself and every one that holds it, longest prefix first.
pub(super) fn supernets(network: Ipv4Net) -> impl Iterator<Item = Ipv4Net> {
    (0..=network.prefix_len())
        .rev()
        .filter_map(move |length| Ipv4Net::new(network.addr(), length).ok())
        .map(|network| network.trunc())
}

/// The directly connected networks and the director's own addresses (DIPs) in them.
pub(super) struct Connected<'a> {
    ports: &'a [PortConfig],
    port_of_network: HashMap<Ipv4Net, &'a str>,
    port_of_dip: HashMap<Ipv4Addr, &'a str>,
}

impl<'a> Connected<'a> {
    pub(super) fn new(ports: &'a [PortConfig]) -> Connected<'a> {
        let addresses = || {
            ports.iter().flat_map(|port| port.addresses.iter().map(|network| (*network, port.name.as_str())))
        };
        Connected {
            ports,
            port_of_network: addresses().map(|(network, port)| (network.trunc(), port)).collect(),
            port_of_dip: addresses().map(|(network, port)| (network.addr(), port)).collect(),
        }
    }

    /// Whether nothing is known of the networks.
    pub(super) fn is_unknown(&self) -> bool {
        self.ports.is_empty()
    }

    /// The network that an address is in, and its port's name.
    pub(super) fn network_of(&self, address: Ipv4Addr) -> Option<(Ipv4Net, &'a str)> {
        supernets(Ipv4Net::from(address))
            .find_map(|network| self.port_of_network.get(&network).map(|port| (network, *port)))
    }

    /// Name of the port that has this address as its own.
    pub(super) fn port_of_dip(&self, address: Ipv4Addr) -> Option<&'a str> {
        self.port_of_dip.get(&address).copied()
    }

    /// The networks for people, in the order of the ports: `10.0.0.0/24 on port lan0, ...`.
    pub(super) fn describe(&self) -> String {
        const SHOWN_MAX: usize = 8;
        let mut seen = HashSet::new();
        let mut networks = Vec::new();
        for port in self.ports {
            for network in port.addresses.iter().map(Ipv4Net::trunc).filter(|network| seen.insert(*network)) {
                if networks.len() < SHOWN_MAX {
                    networks.push(format!("{network} on port {}", port.name));
                }
            }
        }
        let hidden = seen.len() - networks.len();
        let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
        format!("{}{more}", networks.join(", "))
    }
}
