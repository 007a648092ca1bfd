//! ICMP errors that others send about packets of connections: whose is the packet that they quote?
//!
//! | addressed to | quotes | goes |
//! |---|---|---|
//! | a DIP | what the director put into a tunnel | to the client, as an error about its own packet ([`super::tunnel_errors`]) |
//! | a VIP | what a real server sent to a client | to that connection's real server, as the client's packets go |
//! | a VIP | a packet of no connection | to where its client's next packet would go, with `schedule_icmp` or where it may be one that is forwarded without state; else dropped |
//! | a client or a local address | what came to a real server by translation | to the client ([`super::icmp_nat`]) |
//!
//! As `ip_vs_in_icmp` does it, and parameter problems too. An error must be addressed to the sender of what it quotes, so that
//! nobody moves a connection by errors to elsewhere. It changes neither state nor timer: anybody can send one. NICs know nothing
//! of quotes and put errors on any queue: one about another worker's connection is handed over.

use std::net::IpAddr;

use super::{Packet, Round, icmp_nat, open, other, oversize, parse, tunnel};
use crate::connection::{ConnectionFlags, FlowKey, Ipv6Pair, Tuple};
use crate::packet::icmp_error::ErrorMessage;
use crate::packet::quote::Quote;
use crate::packet::{checksum, icmp, icmpv6, ipv4, ipv6};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{AddressRole, Protocol, ServiceKey, Snapshot};
use crate::verdict::{DropReason, HandOver, PacketKind, Verdict};

/// The packet is an error that may be about a connection.
pub(super) fn is_error(packet: &Packet, message: &[u8]) -> bool {
    let Some(&kind) = message.first() else { return false };
    match (packet.protocol, packet.key.is_ipv6()) {
        (ipv4::ICMP, false) => icmp::is_error(kind),
        (ipv6::ICMPV6, true) => icmpv6::is_error(kind),
        _ => false,
    }
}

/// The ICMP message in `frame`, without what pads the frame; of several segments what is in the first.
pub(super) fn message<'a>(frame: &'a [u8], packet: &Packet) -> &'a [u8] {
    let end = usize::from(packet.ip_offset) + usize::from(packet.ip_length);
    let frame = frame.get(..end).unwrap_or(frame);
    frame.get(usize::from(packet.transport_offset)..).unwrap_or_default()
}

/// The message's checksum is right, however many segments it lies in.
pub(super) fn is_intact<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let ip_offset = usize::from(packet.ip_offset);
    let transport_offset = usize::from(packet.transport_offset);
    let end = ip_offset + usize::from(packet.ip_length);
    let Some(length) = end.checked_sub(transport_offset) else { return false };
    let addresses = frame.bytes().get(ip_offset..).and_then(parse::addresses);
    let pseudo_header = match addresses {
        Some((IpAddr::V6(source), IpAddr::V6(destination))) => {
            checksum::pseudo_header_v6(&source.octets(), &destination.octets(), ipv6::ICMPV6, length as u32)
        }
        _ => 0,
    };
    checksum::add(pseudo_header, tunnel::sum(frame, transport_offset, length)) == 0xffff
}

/// What becomes of an error to this address.
pub(super) fn judge<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    addressee: IpAddr,
    round: &mut Round<Q>,
) -> Verdict {
    let snapshot = round.parts.mailbox.current();
    let is_vip = snapshot.addresses.get(&addressee) == Some(&AddressRole::Vip);
    let quote = quote(packet, index, round);
    let Some((quote, tuple)) = quote.and_then(|quote| Some((quote, reply_of(&quote)?))) else {
        return nobodys(packet, addressee, snapshot);
    };
    let (key, pair) = tuple.key(round.parts.connections.seed());
    let slot = match round.parts.connections.find(&key, &pair) {
        Some(id) => {
            let connection = round.parts.connections.connection(id);
            if connection.flags.intersects(ConnectionFlags::TRANSLATED.with(ConnectionFlags::COMPANION)) {
                return icmp_nat::pass(packet, index, id, &quote, round);
            }
            Some(connection.destination).filter(|_| !connection.expires.is_past(round.now))
        }
        None => match owner_of(&key, &pair, packet, round) {
            Some(verdict) => return verdict,
            None => None,
        },
    };
    if !is_vip {
        return nobodys(packet, addressee, snapshot);
    }
    let slot = match slot.map_or_else(|| open::without_trace(packet, &tuple, round), Ok) {
        Ok(slot) => slot,
        // As the kernel, which says nothing where there is no service.
        Err(DropReason::NoService) => return Verdict::Drop(DropReason::IcmpIgnored),
        Err(reason) => return Verdict::Drop(reason),
    };
    if packet.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    if open::translation_of(round.parts.mailbox.current(), slot).is_some() {
        return icmp_nat::pass_unknown(packet, index, (&tuple, slot), &quote, round);
    }
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    oversize::follow(round.parts.mailbox.current(), slot, packet, frame)
}

/// An error about no packet of ours.
fn nobodys(packet: &Packet, addressee: IpAddr, snapshot: &Snapshot) -> Verdict {
    match other::not_a_service(addressee, packet, snapshot) {
        Verdict::Drop(DropReason::NoService) => Verdict::Drop(DropReason::IcmpIgnored),
        verdict => verdict,
    }
}

/// What becomes of an error about a connection of this key, which this worker does not have, where another one has it.
pub(super) fn owner_of<Q: QueuePair>(
    key: &FlowKey,
    pair: &Ipv6Pair,
    packet: &Packet,
    round: &Round<Q>,
) -> Option<Verdict> {
    let owner = round.parts.peers.owner_of(key, pair).filter(|_| !packet.is_taken_over)?;
    Some(Verdict::HandOver(HandOver { worker: owner as u16, kind: PacketKind::Other }))
}

/// The entry that a packet of the quoted one's other direction would hit.
pub(super) fn key_of_quoted<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    round: &Round<Q>,
) -> Option<(FlowKey, Ipv6Pair)> {
    Some(reply_of(&quote(packet, index, round)?)?.key(round.parts.connections.seed()))
}

/// The packet that an error quotes, which the error's addressee sent.
fn quote<Q: QueuePair>(packet: &Packet, index: usize, round: &Round<Q>) -> Option<Quote> {
    let frame = round.frames.get(index)?.bytes();
    let (_, addressee) = parse::addresses(frame.get(usize::from(packet.ip_offset)..)?)?;
    let message = message(frame, packet);
    let quote = match addressee {
        IpAddr::V4(_) => Quote::read_v4(ErrorMessage::read_v4(message)?.quote)?,
        IpAddr::V6(_) => Quote::read_v6(ErrorMessage::read_v6(message)?.quote)?,
    };
    (quote.source == addressee).then_some(quote)
}

/// What the connection of a quoted packet is known by to who sent the packet: the virtual service, or a client of which the real
/// server stands in the client's place.
fn reply_of(quote: &Quote) -> Option<Tuple> {
    let (port, client_port) = quote.ports?;
    let service = ServiceKey { address: quote.source, port, protocol: Protocol(quote.protocol) };
    Some(Tuple { client: quote.destination, client_port, service })
}
