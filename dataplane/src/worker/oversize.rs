//! A packet that is larger than what the way to its real server carries: is it cut, or refused and its sender told?
//!
//! As IPVS does it, but for IPv6 packets of no more than 1,280 bytes: no path may refuse those, so where a tunnel makes one too
//! big it is the outer packet that is cut (RFC 2473 section 7.1, RFC 4213 section 3.2.2).

use super::{Packet, lookup};
use crate::packet::ipv6;
use crate::snapshot::{Destination, ForwardingMethod, Options, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// Byte of an IPv4 header with its flags, and the flag that forbids cutting.
const FLAGS: usize = 6;
const DONT_FRAGMENT: u8 = 0x40;

/// The real server in this slot, where the packet in `frame` can be sent to it, whole or in pieces; else what becomes of it.
#[inline]
pub(super) fn way_to<'a>(
    snapshot: &'a Snapshot,
    slot: u32,
    packet: &Packet,
    frame: &[u8],
) -> Result<&'a Destination, Verdict> {
    match lookup::way_to(snapshot, slot, packet.ip_length) {
        Err(DropReason::TooBig) => in_pieces(snapshot, slot, packet, frame),
        way => way.map_err(Verdict::Drop),
    }
}

#[cold]
fn in_pieces<'a>(
    snapshot: &'a Snapshot,
    slot: u32,
    packet: &Packet,
    frame: &[u8],
) -> Result<&'a Destination, Verdict> {
    let destination = lookup::way_to(snapshot, slot, 0).map_err(Verdict::Drop)?;
    let ip = frame.get(usize::from(packet.ip_offset)..).unwrap_or_default();
    let is_tunnel = destination.method == ForwardingMethod::Tunnel;
    match refused_for(ip, packet.ip_length, destination.mtu, is_tunnel, &snapshot.options) {
        Some(mtu) => Err(Verdict::TooBig(mtu)),
        None => Ok(destination),
    }
}

/// How a packet that may be sent to the real server in this slot is sent there.
#[inline]
pub(super) fn forward(snapshot: &Snapshot, slot: u32, packet: &Packet) -> Result<u32, Verdict> {
    match snapshot.destinations.get(slot as usize) {
        Some(destination) if packet.ip_length > destination.mtu => Err(Verdict::ForwardInPieces(slot)),
        _ => Ok(slot),
    }
}

/// What becomes of a packet that goes to the real server in this slot, whatever connections say.
pub(super) fn follow(snapshot: &Snapshot, slot: u32, packet: &Packet, frame: &[u8]) -> Verdict {
    match way_to(snapshot, slot, packet, frame).and_then(|_| forward(snapshot, slot, packet)) {
        Ok(slot) => Verdict::Forward(slot),
        Err(verdict) => verdict,
    }
}

/// The MTU that the sender of the packet is told, which begins with `ip` and is `length` bytes long, more than `mtu`. None where it may
/// be cut.
pub(super) fn refused_for(
    ip: &[u8],
    length: u16,
    mtu: u16,
    is_tunnel: bool,
    options: &Options,
) -> Option<u16> {
    let is_ipv6 = ip.first().is_some_and(|first| first >> 4 == 6);
    if is_ipv6 {
        let is_cut = is_tunnel && length <= ipv6::MTU_MIN;
        return (!is_cut).then_some(mtu.max(ipv6::MTU_MIN));
    }
    let does_not_fragment = ip.get(FLAGS).is_some_and(|flags| flags & DONT_FRAGMENT != 0);
    (does_not_fragment && (!is_tunnel || options.pmtu_disc)).then_some(mtu)
}
