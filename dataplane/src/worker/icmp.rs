//! ICMP errors that others send about packets of connections: whose is the packet that they quote?
//!
//! | addressed to | quotes | goes |
//! |---|---|---|
//! | a VIP | what a real server sent to a client | to that connection's real server, as the client's packets go |
//! | a VIP | a packet of no connection | to where its client's next packet would go, with `schedule_icmp` or where it may be one that is forwarded without state; else dropped |
//!
//! As `ip_vs_in_icmp` does it, and parameter problems too. An error must be addressed to the sender of what it quotes, so that
//! nobody moves a connection by errors to elsewhere. It changes neither state nor timer: anybody can send one.

use std::net::IpAddr;

use super::{Packet, Round, lookup, open, parse};
use crate::connection::{Connection, Tuple};
use crate::packet::icmp_error::ErrorMessage;
use crate::packet::quote::Quote;
use crate::packet::{icmp, icmpv6, ipv4, ipv6};
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
    match lookup::way_to(round.parts.mailbox.current(), slot, packet.ip_length) {
        Ok(_) => Verdict::Forward(slot),
        Err(reason) => Verdict::Drop(reason),
    }
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
fn connection_of<Q: QueuePair>(tuple: &Tuple, round: &Round<Q>) -> Option<Connection> {
    let connections = &round.parts.connections;
    let (key, pair) = tuple.key(connections.seed());
    let connection = connections.connection(connections.find(&key, &pair)?);
    (!connection.expires.is_past(round.now)).then_some(connection)
}
