//! The ports as the control thread knows them: names, MACs, the director's own addresses (DIPs) and which port leads
//! to an address. Fixed from start to end.

use std::net::Ipv4Addr;

use ctl::config::{PortConfig, ServiceConfig};
use ctl::mac::MacAddress;
use ctl::protocol::{ErrorCode, ErrorReply};
use dataplane::port::{PortId, PortStatus};
use ipnet::Ipv4Net;

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
    /// DIPs, each with its directly connected network.
    pub addresses: Vec<Ipv4Net>,
}

/// All ports.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// By [`PortId`].
    pub ports: Vec<PortFacts>,
}

/// How the director reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Through this port.
    pub port: PortId,
    /// As this DIP.
    pub dip: Ipv4Addr,
}

impl Topology {
    /// The ports of a configuration, started.
    pub fn new(configs: &[PortConfig], started: &[Box<dyn PortStatus>]) -> Self {
        let ports = configs.iter().zip(started).enumerate().map(|(number, (config, port))| PortFacts {
            id: PortId(u8::try_from(number).expect("validation allows fewer than 256 ports")),
            name: config.name.clone(),
            device: config.device.clone(),
            mac: port.mac(),
            mtu: port.mtu(),
            addresses: config.addresses.clone(),
        });
        Topology { ports: ports.collect() }
    }

    /// The port and DIP whose network holds `address`; the narrowest network where several do.
    pub fn route(&self, address: Ipv4Addr) -> Option<Route> {
        let networks =
            self.ports.iter().flat_map(|port| port.addresses.iter().map(move |dip| (port.id, dip)));
        networks
            .filter(|(_, dip)| dip.contains(&address))
            .min_by_key(|(port, dip)| (std::cmp::Reverse(dip.prefix_len()), *port))
            .map(|(port, dip)| Route { port, dip: dip.addr() })
    }

    /// The port that has `address` as its DIP.
    pub fn port_of_dip(&self, address: Ipv4Addr) -> Option<PortId> {
        self.ports
            .iter()
            .find(|port| port.addresses.iter().any(|dip| dip.addr() == address))
            .map(|port| port.id)
    }

    /// Ports on which a VIP is answered and announced: the one whose network holds it, or else all.
    pub fn ports_of_vip(&self, vip: Ipv4Addr) -> impl Iterator<Item = &PortFacts> {
        let connected = self.route(vip).map(|route| route.port);
        self.ports.iter().filter(move |port| connected.is_none_or(|connected| connected == port.id))
    }

    /// A port of ours has this MAC.
    pub fn is_own_mac(&self, mac: [u8; 6]) -> bool {
        self.ports.iter().any(|port| port.mac == mac)
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
                real_server.address,
                service.id(),
                MacAddress(port.mac),
                port.name
            );
            let help = "give the real server's own MAC, or none to ask for it by ARP";
            return Err(ErrorReply::new(ErrorCode::Invalid, message).with_help(help));
        }
        Ok(())
    }

    /// Name of a port; empty for a number that no port has.
    pub fn name(&self, port: PortId) -> &str {
        self.ports.get(port.index()).map_or("", |port| port.name.as_str())
    }
}

/// Ports for tests: port 0 has 10.0.0.1/24 and 10.0.1.1/16, port 1 has 192.0.2.1/24.
#[cfg(test)]
pub(crate) fn two_ports() -> Topology {
    let port = |id: u8, name: &str, addresses: &[&str]| PortFacts {
        id: PortId(id),
        name: name.to_owned(),
        device: format!("memory{id}"),
        mac: [2, 0, 0, 0, 1, id],
        mtu: 1500,
        addresses: addresses.iter().map(|text| text.parse().expect("a network")).collect(),
    };
    Topology {
        ports: vec![
            port(0, "inside", &["10.0.0.1/24", "10.0.1.1/16"]),
            port(1, "outside", &["192.0.2.1/24"]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_takes_the_narrowest_network_and_none_outside_all() {
        let topology = two_ports();
        let route = |text: &str| {
            topology.route(text.parse().unwrap()).map(|route| (route.port.0, route.dip.to_string()))
        };
        assert_eq!(route("10.0.0.11"), Some((0, "10.0.0.1".to_owned())));
        assert_eq!(route("10.0.7.11"), Some((0, "10.0.1.1".to_owned())));
        assert_eq!(route("192.0.2.99"), Some((1, "192.0.2.1".to_owned())));
        assert_eq!(route("198.51.100.1"), None);
    }

    #[test]
    fn vip_belongs_to_its_connected_port_or_else_to_all() {
        let topology = two_ports();
        let ports = |text: &str| {
            topology.ports_of_vip(text.parse().unwrap()).map(|port| port.id.0).collect::<Vec<_>>()
        };
        assert_eq!(ports("192.0.2.10"), [1]);
        assert_eq!(ports("198.51.100.10"), [0, 1]);
    }
}
