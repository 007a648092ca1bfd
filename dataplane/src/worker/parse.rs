//! Pass 1: is it a packet that may be forwarded, and of which flow?

use std::net::IpAddr;

use zerocopy::FromBytes;
use zerocopy::byteorder::network_endian::U16;

use super::{Packet, Step};
use crate::connection::{Event, FlowKey, FlowSeed, Ipv6Pair};
use crate::packet::arp::{self, ArpPacket};
use crate::packet::ethernet::{self, BROADCAST, EthernetHeader};
use crate::packet::ipv4::{self, Ipv4Header};
use crate::packet::ipv6::{self, ExtensionError, Ipv6Header};
use crate::packet::mld;
use crate::packet::sctp::SctpHeader;
use crate::packet::tcp::TcpHeader;
use crate::packet::udp::UdpHeader;
use crate::packet::vlan;
use crate::port::{BURST, Burst, Frame};
use crate::snapshot::{AddressRole, InterfaceId, PortSnapshot, Snapshot};
use crate::verdict::{DropReason, PuntQueue};

/// How many frames ahead the first bytes are loaded.
const AHEAD: usize = 4;

/// What parsing a burst needs of its port.
pub(super) struct Ingress<'a> {
    // By value what each packet needs, so that no packet loads it again.
    pub(super) mac: [u8; 6],
    pub(super) untagged: Option<InterfaceId>,
    pub(super) is_secure: bool,
    pub(super) port: &'a PortSnapshot,
    pub(super) snapshot: &'a Snapshot,
    pub(super) seed: &'a FlowSeed,
}

/// What a frame is before its flow is known.
enum Parsed {
    Flow,
    Arp,
    /// A piece of a packet.
    Fragment,
    /// IP, but neither TCP, UDP nor SCTP.
    Other,
    /// IPv6 whose extension headers do not lead to a transport header.
    Unreadable(ExtensionError),
    /// A frame that the director does not look into.
    Foreign,
    Drop(DropReason),
}

/// Parses the whole burst.
#[inline(always)]
pub(super) fn parse<F: Frame>(frames: &Burst<F>, ingress: &Ingress, packets: &mut [Packet; BURST]) {
    for frame in frames.iter().take(AHEAD) {
        frame.prefetch();
    }
    for (index, (frame, packet)) in frames.iter().zip(packets.iter_mut()).enumerate() {
        if let Some(later) = frames.get(index + AHEAD) {
            later.prefetch();
        }
        packet.step = match parse_frame(frame, ingress, packet) {
            Parsed::Flow => Step::Flow,
            Parsed::Fragment => portless(Step::Fragment, frame.bytes(), ingress, packet),
            Parsed::Other => portless(Step::Other, frame.bytes(), ingress, packet),
            Parsed::Unreadable(error) => {
                let step = portless(Step::Other, frame.bytes(), ingress, packet);
                packet.extension_error = Some(error);
                step
            }
            Parsed::Drop(reason) => Step::Drop(reason),
            Parsed::Arp => judge_arp(frame.bytes(), packet, ingress.snapshot),
            Parsed::Foreign => judge_foreign(packet, ingress.port),
        };
    }
}

/// Cuts off what stands behind the IP packets, but for what pads a frame to the shortest that Ethernet has: a frame as long as
/// this port's links carry may be longer than the next one's do, however short its packet.
#[cold]
#[inline(never)]
pub(super) fn trim<F: Frame>(frames: &mut Burst<F>, packets: &[Packet; BURST]) {
    for (frame, packet) in frames.iter_mut().zip(packets) {
        let end = usize::from(packet.ip_offset) + usize::from(packet.ip_length);
        let end = end.max(ethernet::FRAME_BYTES_MIN);
        if matches!(packet.step, Step::Flow | Step::Fragment | Step::Other) && frame.length() > end {
            frame.truncate(end);
        }
    }
}

/// The key of a packet that has no ports, or none that can be relied on: its addresses and protocol alone, so that all that is
/// known of its family, and what its hash spreads, is its own.
#[cold]
fn portless(step: Step, frame: &[u8], ingress: &Ingress, packet: &mut Packet) -> Step {
    (packet.event, packet.extension_error) = (Event::UDP, None);
    packet.key = match frame.get(usize::from(packet.ip_offset)..).and_then(addresses) {
        Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
            FlowKey::new(source.octets(), destination.octets(), [0; 2], [0; 2], packet.protocol)
        }
        _ => ingress.seed.ipv6_key(&packet.pair, [0; 2], [0; 2], packet.protocol),
    };
    step
}

#[inline(always)]
fn parse_frame<F: Frame>(frame: &F, ingress: &Ingress, packet: &mut Packet) -> Parsed {
    if !frame.is_exclusive() {
        return Parsed::Drop(DropReason::NotContiguous);
    }
    let bytes = frame.bytes();
    let Some((ethernet, payload)) = EthernetHeader::read(bytes) else {
        return Parsed::Drop(DropReason::Truncated);
    };
    let mut ether_type = ethernet.ether_type;
    let mut payload = payload;
    packet.ip_offset = ethernet::HEADER_BYTES as u8;
    let is_plain = ether_type == ethernet::IPV4 || ether_type == ethernet::IPV6;
    match ingress.untagged {
        Some(interface) if is_plain && frame.vlan_tci().is_none() => packet.interface = interface,
        _ => match tagged(frame, ingress.port) {
            Ok(Tagged { interface, ip_offset, ether_type: inner }) => {
                (packet.interface, packet.ip_offset, ether_type) = (interface, ip_offset as u8, inner);
                payload = bytes.get(ip_offset..).unwrap_or_default();
            }
            Err(parsed) => return parsed,
        },
    }
    let is_ours = ethernet.destination == ingress.mac;
    if !is_ours {
        return match not_to_us(ethernet, ether_type, payload) {
            Parsed::Other => parse_ipv6(payload, payload.len(), ingress, packet),
            parsed => parsed,
        };
    }
    let length = frame.length() - usize::from(packet.ip_offset);
    if ether_type == ethernet::IPV4 {
        return parse_ipv4(payload, length, frame, ingress.is_secure, packet);
    }
    if ether_type == ethernet::IPV6 {
        return parse_ipv6(payload, length, ingress, packet);
    }
    if ether_type == ethernet::ARP { Parsed::Arp } else { Parsed::Drop(DropReason::UnknownEtherType) }
}

#[inline(always)]
fn parse_ipv4<F: Frame>(
    payload: &[u8],
    length: usize,
    frame: &F,
    is_secure: bool,
    packet: &mut Packet,
) -> Parsed {
    let (ip, payload) = match Ipv4Header::read_segmented(payload, length, frame.ip_checksum()) {
        Ok(read) => read,
        Err(reason) => return Parsed::Drop(reason),
    };
    let header_length = ip.header_length();
    packet.ttl = ip.ttl;
    packet.ip_length = ip.total_length.get();
    packet.transport_offset = u16::from(packet.ip_offset) + header_length as u16;
    packet.protocol = ip.protocol;
    if ip.is_fragment() {
        return Parsed::Fragment;
    }
    let length = usize::from(packet.ip_length) - header_length;
    let (client_port, virtual_port) = match ports(ip.protocol, payload, length, is_secure, packet) {
        Ok(ports) => ports,
        Err(parsed) => return parsed,
    };
    packet.key = FlowKey::new(ip.source, ip.destination, client_port, virtual_port, ip.protocol);
    Parsed::Flow
}

#[inline(always)]
fn parse_ipv6(payload: &[u8], length: usize, ingress: &Ingress, packet: &mut Packet) -> Parsed {
    let (ip, payload) = match Ipv6Header::read(payload, length) {
        Ok(read) => read,
        Err(reason) => return Parsed::Drop(reason),
    };
    packet.ttl = ip.hop_limit;
    // Of a packet of 65,536 to 65,575 bytes nobody has an interface; it is too big for each.
    packet.ip_length = u16::try_from(ip.total_length()).unwrap_or(u16::MAX);
    packet.pair = Ipv6Pair::new(ip.source, ip.destination);
    let upper = match ip.upper_layer(payload) {
        Ok(upper) => upper,
        Err(error) => return Parsed::Unreadable(error),
    };
    packet.transport_offset = u16::from(packet.ip_offset) + upper.offset;
    packet.protocol = upper.protocol;
    if upper.is_fragment() {
        return Parsed::Fragment;
    }
    let offset = usize::from(upper.offset) - ipv6::HEADER_BYTES;
    let Some(transport) = payload.get(offset..) else {
        return Parsed::Drop(DropReason::Truncated);
    };
    let length = usize::from(ip.payload_length.get()).saturating_sub(offset);
    let (client_port, virtual_port) =
        match ports(upper.protocol, transport, length, ingress.is_secure, packet) {
            Ok(ports) => ports,
            Err(parsed) => return parsed,
        };
    packet.key = ingress.seed.ipv6_key(&packet.pair, client_port, virtual_port, upper.protocol);
    Parsed::Flow
}

/// Source and destination port, and the packet's event. `transport` is the transport header and what follows of it in the
/// first segment, `length` all that follows.
#[inline(always)]
fn ports(
    protocol: u8,
    transport: &[u8],
    length: usize,
    is_secure: bool,
    packet: &mut Packet,
) -> Result<([u8; 2], [u8; 2]), Parsed> {
    let bad = Parsed::Drop(DropReason::BadTransportHeader);
    let (source, destination) = match protocol {
        ipv4::TCP => {
            let Some(tcp) = TcpHeader::read(transport) else { return Err(bad) };
            packet.event = Event::tcp(tcp.flags, is_secure);
            (tcp.source_port, tcp.destination_port)
        }
        ipv4::UDP => {
            let Some(udp) = UdpHeader::read_of(transport, length) else { return Err(bad) };
            packet.event = Event::UDP;
            (udp.source_port, udp.destination_port)
        }
        ipv4::SCTP => {
            let Some((sctp, event)) = SctpHeader::read_of(transport, length) else { return Err(bad) };
            packet.event = event;
            (sctp.source_port, sctp.destination_port)
        }
        _ => {
            packet.extension_error = None;
            return Err(Parsed::Other);
        }
    };
    Ok((source.to_bytes(), destination.to_bytes()))
}

/// The interface of a frame, where its IP header lies and what it holds.
struct Tagged {
    interface: InterfaceId,
    ip_offset: usize,
    ether_type: U16,
}

/// A frame that has a tag, in itself or taken out by the NIC, or is no IP packet, or came to a port without an untagged
/// interface. A priority tag (VLAN 0) leaves it untagged (IEEE 802.1Q section 6.9).
#[cold]
#[inline(never)]
fn tagged<F: Frame>(frame: &F, port: &PortSnapshot) -> Result<Tagged, Parsed> {
    let tagging = vlan::read(frame.bytes()).ok_or(Parsed::Drop(DropReason::Truncated))?;
    let taken_out = frame.vlan_tci();
    if tagging.is_stacked || taken_out.is_some() && tagging.tci.is_some() {
        return Err(if port.passes_qinq { Parsed::Foreign } else { Parsed::Drop(DropReason::Qinq) });
    }
    let interface = match taken_out.or(tagging.tci).map_or(0, vlan::id) {
        0 => port.untagged,
        id => port.vlans.get(&id).copied(),
    };
    let interface = interface.ok_or(Parsed::Drop(DropReason::UnknownVlan))?;
    Ok(Tagged { interface, ip_offset: tagging.payload, ether_type: tagging.ether_type })
}

/// A frame with two tags goes to the host of the untagged interface, as it is.
#[cold]
fn judge_foreign(packet: &mut Packet, port: &PortSnapshot) -> Step {
    let Some(interface) = port.untagged else { return Step::Drop(DropReason::Qinq) };
    (packet.interface, packet.ip_offset) = (interface, ethernet::HEADER_BYTES as u8);
    Step::Host
}

/// A frame to another MAC address: ARP to everybody, and neighbour discovery and listener queries to a group are listened to.
#[cold]
fn not_to_us(ethernet: &EthernetHeader, ether_type: U16, payload: &[u8]) -> Parsed {
    let is_listened_to = || {
        Ipv6Header::read(payload, payload.len()).is_ok_and(|(ip, payload)| match ip.next_header {
            ipv6::ICMPV6 => payload.first().is_some_and(|kind| super::other::is_neighbour_discovery(*kind)),
            ipv6::HOP_BY_HOP => mld::is_query(payload),
            _ => false,
        })
    };
    if ether_type == ethernet::ARP && ethernet.destination == BROADCAST {
        return Parsed::Arp;
    }
    if ether_type == ethernet::IPV6 && ethernet.destination[..2] == [0x33, 0x33] && is_listened_to() {
        return Parsed::Other;
    }
    let is_known = [ethernet::IPV4, ethernet::IPV6, ethernet::ARP].contains(&ether_type);
    Parsed::Drop(if is_known { DropReason::WrongMac } else { DropReason::UnknownEtherType })
}

/// ARP is the control thread's where its sender or target is a VIP, DIP, local address or neighbour of this interface.
#[cold]
fn judge_arp(frame: &[u8], packet: &Packet, snapshot: &Snapshot) -> Step {
    let tag = usize::from(packet.ip_offset) - ethernet::HEADER_BYTES;
    if frame.len() < arp::FRAME_BYTES + tag {
        return Step::Drop(DropReason::Truncated);
    }
    let concerns_us = |address: std::net::Ipv4Addr| concerns(address.into(), packet.interface, snapshot);
    match ArpPacket::parse_at(frame, packet.ip_offset.into()) {
        Some(arp) if concerns_us(arp.sender_address) || concerns_us(arp.target_address) => {
            Step::Punt(PuntQueue::Neighbour)
        }
        _ => Step::Drop(DropReason::ArpIgnored),
    }
}

/// Source and destination of the packet that begins with `ip`.
pub(super) fn addresses(ip: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if ip.first()? >> 4 == 6 {
        let (header, _) = Ipv6Header::ref_from_prefix(ip).ok()?;
        return Some((header.source_address().into(), header.destination_address().into()));
    }
    let (header, _) = Ipv4Header::ref_from_prefix(ip).ok()?;
    Some((header.source_address().into(), header.destination_address().into()))
}

/// The director listens to what this address says on this interface, or answers for it there. A link-local one may be there
/// on several, of which the snapshot names one: the control thread knows the others.
pub(super) fn concerns(address: IpAddr, interface: InterfaceId, snapshot: &Snapshot) -> bool {
    let is_link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    match snapshot.addresses.get(&address) {
        Some(AddressRole::Vip) => true,
        Some(AddressRole::Dip(_) | AddressRole::Neighbour(_)) if is_link_local => true,
        Some(AddressRole::Dip(of) | AddressRole::Local(of) | AddressRole::Neighbour(of)) => *of == interface,
        None => false,
    }
}
