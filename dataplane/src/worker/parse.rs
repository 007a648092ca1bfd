//! Pass 1: is it a packet that may be forwarded, and of which flow?

use super::{Packet, Step};
use crate::connection::{Event, FlowKey};
use crate::packet::arp::{self, ArpPacket};
use crate::packet::ethernet::{self, BROADCAST, EthernetHeader};
use crate::packet::icmp;
use crate::packet::ipv4::{self, Ipv4Header};
use crate::packet::sctp::SctpHeader;
use crate::packet::tcp::TcpHeader;
use crate::packet::udp::UdpHeader;
use crate::port::{BURST, Burst, Frame, PortId};
use crate::snapshot::{AddressRole, Snapshot};
use crate::verdict::{DropReason, PuntQueue, Verdict};

/// How many frames ahead the first bytes are loaded.
const AHEAD: usize = 4;

/// Parses the whole burst.
#[inline(always)]
pub(super) fn parse<F: Frame>(
    frames: &Burst<F>,
    port: PortId,
    snapshot: &Snapshot,
    packets: &mut [Packet; BURST],
) {
    let own_mac = snapshot.ports.get(port.index()).map_or([0; 6], |port| port.mac);
    let is_secure = snapshot.options.secure_tcp;
    for frame in frames.iter().take(AHEAD) {
        frame.prefetch();
    }
    for (index, (frame, packet)) in frames.iter().zip(packets.iter_mut()).enumerate() {
        if let Some(later) = frames.get(index + AHEAD) {
            later.prefetch();
        }
        packet.step = match parse_frame(frame, own_mac, is_secure, packet) {
            Parsed::Flow => Step::Flow,
            Parsed::Drop(reason) => Step::Done(Verdict::Drop(reason)),
            Parsed::Arp => Step::Done(judge_arp(frame.bytes(), port, snapshot)),
            Parsed::Other => Step::Done(judge_other(frame.bytes(), port, snapshot)),
        };
    }
}

enum Parsed {
    Flow,
    Arp,
    /// IPv4, but neither TCP, UDP nor SCTP.
    Other,
    Drop(DropReason),
}

#[inline(always)]
fn parse_frame<F: Frame>(frame: &F, own_mac: [u8; 6], is_secure: bool, packet: &mut Packet) -> Parsed {
    if !frame.is_contiguous() {
        return Parsed::Drop(DropReason::NotContiguous);
    }
    let Some((ethernet, payload)) = EthernetHeader::read(frame.bytes()) else {
        return Parsed::Drop(DropReason::Truncated);
    };
    if ethernet.ether_type != ethernet::IPV4 {
        let is_arp = ethernet.ether_type == ethernet::ARP;
        return match ethernet.destination {
            _ if !is_arp => Parsed::Drop(DropReason::UnknownEtherType),
            destination if destination == own_mac || destination == BROADCAST => Parsed::Arp,
            _ => Parsed::Drop(DropReason::WrongMac),
        };
    }
    if ethernet.destination != own_mac {
        return Parsed::Drop(DropReason::WrongMac);
    }
    let (ip, payload) = match Ipv4Header::read(payload, frame.ip_checksum()) {
        Ok(read) => read,
        Err(reason) => return Parsed::Drop(reason),
    };
    if ip.is_fragment() {
        return Parsed::Drop(DropReason::Fragment);
    }
    let (client_port, virtual_port) = match ip.protocol {
        ipv4::TCP => {
            let Some(tcp) = TcpHeader::read(payload) else {
                return Parsed::Drop(DropReason::BadTransportHeader);
            };
            packet.event = Event::tcp(tcp.flags, is_secure);
            (tcp.source_port, tcp.destination_port)
        }
        ipv4::UDP => {
            let Some(udp) = UdpHeader::read(payload) else {
                return Parsed::Drop(DropReason::BadTransportHeader);
            };
            packet.event = Event::UDP;
            (udp.source_port, udp.destination_port)
        }
        ipv4::SCTP => {
            let Some((sctp, event)) = SctpHeader::read(payload) else {
                return Parsed::Drop(DropReason::BadTransportHeader);
            };
            packet.event = event;
            (sctp.source_port, sctp.destination_port)
        }
        _ => return Parsed::Other,
    };
    packet.key =
        FlowKey::new(ip.source, ip.destination, client_port.to_bytes(), virtual_port.to_bytes(), ip.protocol);
    packet.ttl = ip.ttl;
    packet.ip_length = ip.total_length.get();
    Parsed::Flow
}

/// ARP is the control thread's where its sender or target is a VIP, DIP or real server of this port.
#[cold]
fn judge_arp(frame: &[u8], port: PortId, snapshot: &Snapshot) -> Verdict {
    if frame.len() < arp::FRAME_BYTES {
        return Verdict::Drop(DropReason::Truncated);
    }
    let concerns_us = |address| match snapshot.addresses.get(&address) {
        Some(AddressRole::Vip) => true,
        Some(AddressRole::Dip(of) | AddressRole::RealServer(of)) => *of == port,
        None => false,
    };
    match ArpPacket::parse(frame) {
        Some(arp) if concerns_us(arp.sender_address) || concerns_us(arp.target_address) => {
            Verdict::Punt(PuntQueue::Arp)
        }
        _ => Verdict::Drop(DropReason::ArpIgnored),
    }
}

/// Ping to a VIP or DIP is the control thread's; nothing else but TCP, UDP and SCTP is answered or forwarded.
#[cold]
fn judge_other(frame: &[u8], port: PortId, snapshot: &Snapshot) -> Verdict {
    let Some((_, packet)) = EthernetHeader::read(frame) else {
        return Verdict::Drop(DropReason::Truncated);
    };
    // The checksum was looked at before: believe it.
    let (ip, message) = match Ipv4Header::read(packet, crate::port::ChecksumStatus::Good) {
        Ok(read) => read,
        Err(reason) => return Verdict::Drop(reason),
    };
    match not_a_service(ip.destination_address(), port, snapshot) {
        DropReason::NoService if ip.protocol == ipv4::ICMP && icmp::is_echo_request(message) => {
            Verdict::Punt(PuntQueue::Echo)
        }
        reason => Verdict::Drop(reason),
    }
}

/// Why a packet to this address is dropped that no virtual service wants.
pub(super) fn not_a_service(address: std::net::Ipv4Addr, port: PortId, snapshot: &Snapshot) -> DropReason {
    match snapshot.addresses.get(&address) {
        Some(AddressRole::Vip) => DropReason::NoService,
        Some(AddressRole::Dip(of)) if *of == port => DropReason::NoService,
        _ => DropReason::NotLocal,
    }
}
