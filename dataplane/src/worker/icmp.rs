//! ICMP errors that others send about packets of connections: whose is the packet that they quote?
//!
//! | addressed to | quotes | goes |
//! |---|---|---|
//! | a DIP | what the director put into a tunnel | to the client, as an error about its own packet ([`super::tunnel_errors`]) |
//! | a VIP | what a real server sent to a client | to that connection's real server, as the client's packets go |
//! | a VIP | a packet of no connection | to where its client's next packet would go, with `schedule_icmp` or where it may be one that is forwarded without state; else dropped |
//!
//! As `ip_vs_in_icmp` does it, and parameter problems too. An error must be addressed to the sender of what it quotes, so that
//! nobody moves a connection by errors to elsewhere. It changes neither state nor timer: anybody can send one.

use std::net::IpAddr;

use super::{Packet, Round, open, oversize, parse, tunnel};
use crate::connection::{Connection, Tuple};
use crate::packet::icmp_error::ErrorMessage;
use crate::packet::quote::Quote;
use crate::packet::{checksum, icmp, icmpv6, ipv4, ipv6};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{Protocol, ServiceKey};
use crate::verdict::{DropReason, Verdict};

/// The packet is an error that may be about a connection.
pub(super) fn is_error(packet: &Packet, message: &[u8]) -> bool {
    let Some(&kind) = message.first() else { return false };
    match packet.protocol {
        ipv4::ICMP => icmp::is_error(kind),
        ipv6::ICMPV6 => icmpv6::is_error(kind),
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

/// What becomes of an error to a VIP.
pub(super) fn to_vip<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    let Some(quote) = quote(packet, index, round) else { return Verdict::Drop(DropReason::IcmpIgnored) };
    let Some(tuple) = reply_of(&quote) else { return Verdict::Drop(DropReason::IcmpIgnored) };
    let slot = match connection_of(&tuple, round) {
        Some(connection) => connection.destination,
        // Nothing is remembered of it: what is quoted is never a connection's first packet, and the next one comes by itself.
        None => match open::without_trace(packet, &tuple, round) {
            Ok(slot) => slot,
            // As the kernel, which says nothing where there is no service.
            Err(DropReason::NoService) => return Verdict::Drop(DropReason::IcmpIgnored),
            Err(reason) => return Verdict::Drop(reason),
        },
    };
    if packet.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    oversize::follow(round.parts.mailbox.current(), slot, packet, frame)
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

/// The connection of a quoted packet of the virtual service's.
fn reply_of(quote: &Quote) -> Option<Tuple> {
    let (port, client_port) = quote.ports?;
    let service = ServiceKey { address: quote.source, port, protocol: Protocol(quote.protocol) };
    Some(Tuple { client: quote.destination, client_port, service })
}

/// The connection that `tuple` names, unless its time is over.
pub(super) fn connection_of<Q: QueuePair>(tuple: &Tuple, round: &Round<Q>) -> Option<Connection> {
    let connections = &round.parts.connections;
    let (key, pair) = tuple.key(connections.seed());
    let connection = connections.connection(connections.find(&key, &pair)?);
    (!connection.expires.is_past(round.now)).then_some(connection)
}
