//! Packets of no flow: ICMP, neighbour discovery, and what is for the host that the director runs on.

use std::net::IpAddr;

use super::{Packet, Round};
use crate::packet::{icmp, ipv4, ipv6};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{AddressRole, Snapshot};
use crate::verdict::{DropReason, PuntQueue, Verdict};

/// Types of neighbour discovery (RFC 4861): router solicitation to redirect.
const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
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
    let message = frame.get(usize::from(packet.transport_offset)..).unwrap_or_default();
    let Some(destination) = destination(frame, packet) else { return Verdict::Drop(DropReason::Truncated) };
    let kind = message.first().copied().unwrap_or_default();
    if packet.protocol == ipv6::ICMPV6 && is_neighbour_discovery(kind) {
        return match packet.ttl {
            ON_LINK_HOP_LIMIT => Verdict::Punt(PuntQueue::Neighbour),
            _ => Verdict::Drop(DropReason::IcmpIgnored),
        };
    }
    let is_echo_request = match packet.protocol {
        ipv4::ICMP => icmp::is_echo_request(message),
        ipv6::ICMPV6 => message.len() >= icmp::HEADER_BYTES && message[..2] == [128, 0],
        _ => false,
    };
    match not_a_service(destination, packet, snapshot) {
        Verdict::Drop(DropReason::NoService) | Verdict::Host if is_echo_request => {
            Verdict::Punt(PuntQueue::Echo)
        }
        verdict => verdict,
    }
}

/// The destination address of a packet whose IP header was checked.
pub(super) fn destination(frame: &[u8], packet: &Packet) -> Option<IpAddr> {
    let ip = frame.get(usize::from(packet.ip_offset)..)?;
    match ip.first()? >> 4 {
        4 => ip.get(16..20)?.first_chunk::<4>().map(|address| IpAddr::from(*address)),
        _ => ip.get(24..40)?.first_chunk::<16>().map(|address| IpAddr::from(*address)),
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
