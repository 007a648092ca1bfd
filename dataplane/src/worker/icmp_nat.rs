//! ICMP errors about packets of translated connections: whoever reads one must find in it the packet that it sent itself, so
//! the quote is translated back, and the error's own addresses with it.
//!
//! As `ip_vs_nat_icmp` does it: the quoted addresses and ports, the quoted IPv4 header's checksum and the message's own; the
//! quoted transport checksum stays as it was. The message's checksum must be right before, so that no damaged one is mended; in
//! fragments that cannot be seen, and a wrong one stays wrong.
//!
//! Of a packet that was too big the client is told so much smaller an MTU as the director may add to the next one
//! ([`super::introduction`]).

use std::net::IpAddr;

use super::leg::Leg;
use super::{Packet, Part, Round, icmp, parse};
use crate::connection::Tuple;
use crate::connection::table::ConnectionId;
use crate::packet::checksum::{self, ChecksumDelta};
use crate::packet::icmp_error::{self, ErrorMessage};
use crate::packet::quote::Quote;
use crate::packet::{ipv4, ipv6};
use crate::port::{Frame, QueuePair};
use crate::translation::Rewrite;
use crate::verdict::{DropReason, Verdict};

/// Of an ICMP header.
const CHECKSUM: std::ops::Range<usize> = 2..4;
/// Of an ICMP header whose message tells one; with ICMP its upper half is something else.
const MTU: std::ops::Range<usize> = 4..8;
/// What every path carries of IPv4 (RFC 791); routers older than RFC 1191 tell 0.
const MTU_MIN_V4: u16 = 68;

/// What becomes of an error that quotes a packet of the other direction than that of the entry at `entry`.
#[cold]
#[inline(never)]
pub(super) fn pass<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    entry: ConnectionId,
    quote: &Quote,
    round: &mut Round<Q>,
) -> Verdict {
    match Leg::of(entry, packet, index, round) {
        Ok(leg) => pass_along(&leg, packet, index, quote, round),
        Err(verdict) => verdict,
    }
}

/// The same where the connection is not known here; it would go to the real server of this slot.
#[cold]
pub(super) fn pass_unknown<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    (tuple, slot): (&Tuple, u32),
    quote: &Quote,
    round: &mut Round<Q>,
) -> Verdict {
    match Leg::of_unknown(tuple, slot, packet, index, round) {
        Ok(leg) => pass_along(&leg, packet, index, quote, round),
        Err(verdict) => verdict,
    }
}

fn pass_along<Q: QueuePair>(
    leg: &Leg,
    packet: &Packet,
    index: usize,
    quote: &Quote,
    round: &mut Round<Q>,
) -> Verdict {
    let Some(frame) = round.frames.get_mut(index) else { return Verdict::Drop(DropReason::IcmpIgnored) };
    if packet.part == Part::Whole && !icmp::is_intact(frame, packet) {
        return Verdict::Drop(DropReason::BadIcmp);
    }
    match translate(frame.bytes_mut(), packet, quote, leg) {
        Some(()) => leg.leave(packet, index, round),
        None => Verdict::Drop(DropReason::IcmpIgnored),
    }
}

/// Rewrites the addresses of the error in `frame`, its quote and the MTU that it tells.
fn translate(frame: &mut [u8], packet: &Packet, quote: &Quote, leg: &Leg) -> Option<()> {
    let ip_offset = usize::from(packet.ip_offset);
    let header = usize::from(packet.transport_offset).checked_sub(ip_offset)?;
    let ip = frame.get_mut(ip_offset..)?;
    let (source, _) = parse::addresses(ip)?;
    let pseudo_header = leg.rewrite_of_error(source).write_addresses(ip)?;
    let message = ip.get_mut(header..)?;
    let mtu = lower_mtu(message, source.is_ipv6(), leg.added);
    let quoted = message.get_mut(icmp_error::HEADER_BYTES..)?;
    let mut delta = translate_quote(quoted, quote, &leg.rewrite.reversed())?.and(mtu);
    if source.is_ipv6() {
        delta = delta.and(pseudo_header);
    }
    let field = message.get_mut(CHECKSUM)?.first_chunk_mut::<2>()?;
    *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
    Some(())
}

/// Lowers the MTU that a message tells by so many bytes, though not below what every path carries; returns what that does to a
/// checksum over it.
fn lower_mtu(message: &mut [u8], is_ipv6: bool, by: usize) -> ChecksumDelta {
    let (told, least) = match is_ipv6 {
        true => (ErrorMessage::read_v6(message).and_then(|error| error.mtu_v6()), ipv6::MTU_MIN),
        false => (ErrorMessage::read_v4(message).and_then(|error| error.mtu_v4()).map(u32::from), MTU_MIN_V4),
    };
    let place = message.get_mut(MTU).and_then(|place| place.first_chunk_mut::<4>());
    let (Some(told), Some(place)) = (told, place) else { return ChecksumDelta::NONE };
    let lower = told.saturating_sub(by as u32).max(least.into()).min(told);
    let before = u32::from_be_bytes(*place);
    let after = before - (told - lower);
    *place = after.to_be_bytes();
    ChecksumDelta::NONE.u32(before, after)
}

/// Rewrites a quoted packet; returns what that does to a checksum over it.
fn translate_quote(bytes: &mut [u8], quote: &Quote, rewrite: &Rewrite) -> Option<ChecksumDelta> {
    let header = bytes.get_mut(..quote.transport)?;
    let fixed = match quote.source {
        IpAddr::V4(_) => ipv4::HEADER_BYTES,
        IpAddr::V6(_) => ipv6::HEADER_BYTES,
    };
    let mut before = [0; ipv6::HEADER_BYTES];
    let before = before.get_mut(..fixed)?;
    before.copy_from_slice(header.get(..fixed)?);
    let _ = rewrite.write_addresses(header)?;
    if quote.source.is_ipv4() {
        set_header_checksum(header)?;
    }
    let delta = ChecksumDelta::NONE.bytes(0, before, header.get(..fixed)?);
    let ports = bytes.get_mut(quote.transport..)?.first_chunk_mut::<4>()?;
    let ([a, b], [c, d]) = (rewrite.source.1.to_be_bytes(), rewrite.destination.1.to_be_bytes());
    let (old, new) = (u32::from_be_bytes(*ports), u32::from_be_bytes([a, b, c, d]));
    *ports = new.to_be_bytes();
    Some(delta.u32(old, new))
}

/// Right, whatever it was: routers misquote it.
fn set_header_checksum(header: &mut [u8]) -> Option<()> {
    const CHECKSUM: std::ops::Range<usize> = 10..12;
    header.get_mut(CHECKSUM)?.fill(0);
    let checksum = checksum::checksum(header);
    header.get_mut(CHECKSUM)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}
