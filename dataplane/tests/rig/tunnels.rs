//! Real servers behind tunnels, and services of both families.

use std::net::IpAddr;

use dataplane::packet::outer::TunnelKind;
use dataplane::snapshot::{
    AddressRole, ForwardingMethod, Protocol, ServiceKey, SharedCounts, Snapshot, Tunnel, Way,
};
use scheduler::Algorithm;

use super::packets::VIP6;
use super::{DIAMETER, DNS, HTTP, Rs, VIP, snapshot};

pub const KINDS: [TunnelKind; 5] = [
    TunnelKind::Ipip,
    TunnelKind::Gre { has_checksum: false },
    TunnelKind::Gre { has_checksum: true },
    TunnelKind::Gue { port: 6080, has_checksum: false },
    TunnelKind::Gue { port: 6080, has_checksum: true },
];

/// DIP and RIP of this family.
pub fn ends(is_ipv6: bool) -> (IpAddr, IpAddr) {
    match is_ipv6 {
        false => ([10, 0, 0, 1].into(), [10, 0, 0, 11].into()),
        true => ("2001:db8::1".parse().unwrap(), "2001:db8::11".parse().unwrap()),
    }
}

/// The services of the rig's snapshot, at the IPv6 VIP too.
pub fn both_families(counts: &SharedCounts, ports: usize, real_servers: &[Rs]) -> Snapshot {
    let mut snapshot = snapshot(counts, ports, Algorithm::Rr, real_servers);
    snapshot.addresses.insert(VIP6.into(), AddressRole::Vip);
    snapshot.addresses.insert(ends(true).0, snapshot.addresses[&ends(false).0]);
    for (protocol, port) in [(Protocol::TCP, HTTP), (Protocol::UDP, DNS), (Protocol::SCTP, DIAMETER)] {
        let of = |address| ServiceKey { address, port, protocol };
        let service = snapshot.services[&of(VIP.into())].clone();
        snapshot.services.insert(of(VIP6.into()), service);
    }
    snapshot
}

/// Real server 0 is behind a tunnel over this family.
pub fn set_tunnel(snapshot: &mut Snapshot, kind: TunnelKind, is_outer_ipv6: bool) {
    let (source, destination) = ends(is_outer_ipv6);
    let tunnel = Tunnel::new(kind, source, destination).unwrap();
    let slot = &mut snapshot.destinations[0];
    slot.method = ForwardingMethod::Tunnel;
    slot.mtu -= tunnel.overhead();
    snapshot.ways = vec![Way::Tunnel(tunnel)];
}

/// Real server 0 alone, behind a tunnel over this family.
pub fn tunnelled(counts: &SharedCounts, kind: TunnelKind, is_outer_ipv6: bool) -> Snapshot {
    let mut snapshot = both_families(counts, 1, &[Rs::new(0)]);
    set_tunnel(&mut snapshot, kind, is_outer_ipv6);
    snapshot
}
