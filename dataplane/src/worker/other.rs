//! Packets of no flow: ICMP, neighbour discovery, and what is for the host that the director runs on.

use std::net::IpAddr;

use super::{Packet, Round, icmp, parse, tunnel_errors};
use crate::packet::{icmpv6, ipv4, ipv6, mld, ndp};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{AddressRole, Snapshot};
use crate::verdict::{DropReason, PuntQueue, Verdict};

/// Types of neighbour discovery (RFC 4861): router solicitation to redirect.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=icmpv6::REDIRECT;
/// What every ICMP message begins with.
const MESSAGE_HEADER_BYTES: usize = 8;
/// Hop limit of neighbour discovery: no router has forwarded it.
const ON_LINK_HOP_LIMIT: u8 = 255;

/// An ICMPv6 message of this type is neighbour discovery's.
pub(super) fn is_neighbour_discovery(kind: u8) -> bool {
    NEIGHBOUR_DISCOVERY.contains(&kind)
}

/// What becomes of a packet that is neither TCP, UDP nor SCTP.
#[cold]
#[inline(never)]
pub(super) fn judge<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    if packet.extension_error.is_some() {
        return Verdict::Drop(DropReason::BadExtensionHeader);
    }
    let snapshot = round.parts.mailbox.current();
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let message = icmp::message(frame, packet);
    let Some((source, destination)) = frame.get(usize::from(packet.ip_offset)..).and_then(parse::addresses)
    else {
        return Verdict::Drop(DropReason::Truncated);
    };
    let icmp = if destination.is_ipv6() { ipv6::ICMPV6 } else { ipv4::ICMP };
    if packet.protocol != icmp {
        return not_a_service(destination, packet, snapshot);
    }
    let is_in_segments = round.frames.get(index).is_some_and(|frame| frame.length() > frame.bytes().len());
    if message.len() < MESSAGE_HEADER_BYTES && is_in_segments {
        return Verdict::Drop(DropReason::NotContiguous);
    }
    let kind = message.first().copied().unwrap_or_default();
    if destination.is_ipv6() && is_neighbour_discovery(kind) {
        return neighbour_discovery(packet, [source, destination], message, snapshot);
    }
    if mld::is_from_the_link(source, packet.ttl) && kind == icmpv6::MULTICAST_LISTENER_QUERY {
        return Verdict::Punt(PuntQueue::Neighbour);
    }
    match snapshot.addresses.get(&destination) {
        Some(AddressRole::Dip(_)) if icmp::is_error(packet, message) => {
            tunnel_errors::judge(packet, index, round)
                .unwrap_or_else(|| not_a_service(destination, packet, round.parts.mailbox.current()))
        }
        Some(AddressRole::Vip) if icmp::is_error(packet, message) => {
            icmp::judge(packet, index, destination, round)
        }
        // Only translated packets are quoted to anybody else.
        _ if icmp::is_error(packet, message) && round.parts.peers.translate() => {
            icmp::judge(packet, index, destination, round)
        }
        _ => match not_a_service(destination, packet, snapshot) {
            Verdict::Drop(DropReason::NoService) | Verdict::Host if is_echo_request(packet, message) => {
                Verdict::Punt(PuntQueue::Echo)
            }
            verdict => verdict,
        },
    }
}

/// Neighbour discovery is the control thread's where no router forwarded it and it concerns an address that the director
/// answers for or asks for, or comes to the host, which asks for its own peers; as with ARP. Routers' messages are
/// nobody's: the routes are configured.
fn neighbour_discovery(
    packet: &Packet,
    between: [IpAddr; 2],
    message: &[u8],
    snapshot: &Snapshot,
) -> Verdict {
    let concerns_us = |address| parse::concerns(address, packet.interface, snapshot);
    match ndp::target(message) {
        Some((_, target))
            if packet.ttl == ON_LINK_HOP_LIMIT
                && (concerns_us(IpAddr::from(target)) || between.into_iter().any(concerns_us)) =>
        {
            Verdict::Punt(PuntQueue::Neighbour)
        }
        _ => Verdict::Drop(DropReason::IcmpIgnored),
    }
}

fn is_echo_request(packet: &Packet, message: &[u8]) -> bool {
    match packet.protocol {
        ipv4::ICMP => crate::packet::icmp::is_echo_request(message),
        ipv6::ICMPV6 => icmpv6::is_echo_request(message),
        _ => false,
    }
}

/// What becomes of a packet to this address that no virtual service wants.
pub(super) fn not_a_service(address: IpAddr, packet: &Packet, snapshot: &Snapshot) -> Verdict {
    match snapshot.addresses.get(&address) {
        Some(AddressRole::Dip(_)) => {
            let interface = snapshot.interfaces.get(packet.interface.index());
            match interface.is_some_and(|interface| interface.has_host) {
                true => Verdict::Host,
                false => Verdict::Drop(DropReason::NoService),
            }
        }
        Some(AddressRole::Vip | AddressRole::Local(_)) => Verdict::Drop(DropReason::NoService),
        Some(AddressRole::Neighbour(_)) | None => Verdict::Drop(DropReason::NotLocal),
    }
}
