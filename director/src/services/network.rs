//! Ports, interfaces and routes as the workers read them.

use dataplane::snapshot::{InterfaceSnapshot, NextHop, PortSnapshot, Route, Routes};

use crate::neighbours::Neighbours;
use crate::topology::Topology;

/// By their numbers.
pub(super) fn ports(topology: &Topology) -> Vec<PortSnapshot> {
    let least = topology.interfaces.iter().map(|interface| interface.mtu).min();
    let port = |port: &crate::topology::PortFacts| PortSnapshot {
        mac: port.mac,
        untagged: port.untagged,
        vlans: port.vlans.iter().map(|(&vlan, &interface)| (vlan, interface)).collect(),
        // Who would take it may not have been made.
        passes_qinq: port.passes_qinq
            && port.untagged.and_then(|id| topology.interface(id)).is_some_and(|untagged| untagged.has_host),
        trims: least.is_some_and(|least| port.mtu > least),
    };
    topology.ports.iter().map(port).collect()
}

/// By their numbers.
pub(super) fn interfaces(topology: &Topology) -> Vec<InterfaceSnapshot> {
    let interface = |interface: &crate::topology::Interface| InterfaceSnapshot {
        port: interface.port,
        vlan: interface.vlan,
        mac: interface.mac,
        mtu: interface.mtu,
        has_host: interface.has_host,
    };
    topology.interfaces.iter().map(interface).collect()
}

/// Connected networks, which come before a route of the same prefix, then routes.
pub(super) fn routes(topology: &Topology, neighbours: &Neighbours) -> Routes {
    let connected = topology.interfaces.iter().flat_map(|interface| {
        interface.addresses.iter().map(|dip| Route {
            network: dip.trunc(),
            next_hop: NextHop { interface: interface.id, mac: None, source: dip.addr() },
        })
    });
    let routed = topology.routes().iter().map(|(network, route)| Route {
        network: *network,
        next_hop: NextHop {
            interface: route.interface,
            mac: neighbours.resolution(route).mac,
            source: route.packet_source.unwrap_or(route.source),
        },
    });
    Routes::new(connected.chain(routed))
}
