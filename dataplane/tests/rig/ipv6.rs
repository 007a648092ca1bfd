//! The rig's services in IPv6, and packets for them.

use std::net::Ipv6Addr;

use dataplane::snapshot::{AddressRole, Protocol, SharedCounts, Snapshot};
use etherparse::PacketBuilder;
use scheduler::Algorithm;

use super::{CLIENT_MAC, DIAMETER, DNS, HTTP, Rs, add_service_at, own_mac, snapshot};

pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
pub const DIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd, 0, 0, 0, 0, 1);

/// The rig's services, at the IPv4 and at the IPv6 VIP.
pub fn both_families(counts: &SharedCounts, algorithm: Algorithm, real_servers: &[Rs]) -> Snapshot {
    let mut snapshot = snapshot(counts, 1, algorithm, real_servers);
    snapshot.addresses.insert(VIP6.into(), AddressRole::Vip);
    snapshot.addresses.insert(DIP6.into(), AddressRole::Dip(Default::default()));
    for member in [(Protocol::TCP, HTTP), (Protocol::UDP, DNS), (Protocol::SCTP, DIAMETER)] {
        add_service_at(VIP6.into(), &mut snapshot, counts, algorithm, real_servers, &[member], |_| {});
    }
    snapshot
}

/// A UDP frame of the client to port 53 of the VIP.
pub fn udp6(client: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
        .ipv6(client.octets(), VIP6.octets(), 64)
        .udp(port, DNS)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// A TCP SYN of the client to port 80 of the VIP.
pub fn syn6(client: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
        .ipv6(client.octets(), VIP6.octets(), 64)
        .tcp(port, HTTP, 1, 1000)
        .syn()
        .write(&mut frame, b"")
        .unwrap();
    frame
}
