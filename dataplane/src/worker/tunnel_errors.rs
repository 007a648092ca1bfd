//! ICMP errors about packets that the director put into tunnels: what a router says about the outer packet becomes an error to
//! the client about its own.
//!
//! | says | does |
//! |---|---|
//! | too big (fragmentation needed, packet too big) | the path's MTU is learnt; the client is told what fits the tunnel, where its packet may not be fragmented |
//! | destination unreachable, time exceeded | the client is told the same |
//! | anything else | nothing |
//!
//! As `ip_vs_in_icmp` does it, and better: over IPv6 too, where the kernel learns and tells nothing; the first error already tells the
//! right MTU; a router that tells none (RFC 1191 section 5) is taken to mean the next smaller plateau.
//!
//! The error counts as dropped (`tunnel_error`); what it becomes is originated, at the rate of all errors. In a tunnel nobody
//! remembers where the client's frames came from, so that it is told by the routes.

use std::net::IpAddr;

use super::icmp_errors::Back;
use super::{Packet, Round, icmp, parse};
use crate::connection::Tuple;
use crate::packet::icmp as icmpv4;
use crate::packet::icmp_error::ErrorMessage;
use crate::packet::icmp_report::{BYTES_MAX_V6, Problem};
use crate::packet::icmpv6;
use crate::packet::ipv6;
use crate::packet::quote::Quote;
use crate::packet::tunnel_quote::TunnelQuote;
use crate::port::{Frame, QueuePair};
use crate::snapshot::{Protocol, ServiceKey, Snapshot, Tunnel, Way};
use crate::verdict::{DropReason, IcmpError, Verdict};

/// What of the client's packet the error to it may quote.
const QUOTE_BYTES_MAX: usize = BYTES_MAX_V6 - ipv6::HEADER_BYTES - icmpv6::HEADER_BYTES;

/// Sizes of packets that are an MTU somewhere (RFC 1191 section 7.1), as far as they matter between the least that is believed
/// and a jumbo frame.
const PLATEAUS: [u16; 7] = [17_914, 8166, 4352, 2002, 1492, 1006, 508];

/// What a router says of an outer packet, and which of the client's packets was in it.
struct TunnelError {
    is_ipv6: bool,
    kind: u8,
    code: u8,
    /// Of a packet that is too big.
    mtu: Option<u16>,
    /// The packet in the tunnel.
    inner: Quote,
    /// As far as it is quoted.
    quote: [u8; QUOTE_BYTES_MAX],
    quoted: usize,
}

/// What becomes of an error to the director's own address; none where it is not about a packet of a connection in a tunnel.
#[cold]
#[inline(never)]
pub(super) fn judge<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Option<Verdict> {
    let frame = round.frames.get(index)?;
    let (outer, error) = read(frame.bytes(), packet)?;
    let (port, virtual_port) = error.inner.ports?;
    let service = ServiceKey {
        address: error.inner.destination,
        port: virtual_port,
        protocol: Protocol(error.inner.protocol),
    };
    let tuple = Tuple { client: error.inner.source, client_port: port, service };
    let connections = &round.parts.connections;
    let (key, pair) = tuple.key(connections.seed());
    let Some(id) = connections.find(&key, &pair) else { return icmp::owner_of(&key, &pair, packet, round) };
    let connection = connections.connection(id);
    if connection.expires.is_past(round.now) {
        return None;
    }
    let slot = connection.destination;
    let Some(Way::Tunnel(tunnel)) = round.parts.mailbox.current().ways.get(slot as usize) else {
        return None;
    };
    let is_its = (tunnel.kind(), tunnel.source(), tunnel.destination())
        == (outer.kind, outer.source, outer.destination);
    if !is_its {
        return None;
    }
    if !icmp::is_intact(frame, packet) {
        return Some(Verdict::Drop(DropReason::BadIcmp));
    }
    Some(Verdict::Drop(match tell(&error, slot, round) {
        Ok(()) => DropReason::TunnelError,
        Err(reason) => reason,
    }))
}

fn read(frame: &[u8], packet: &Packet) -> Option<(TunnelQuote, TunnelError)> {
    let (_, addressee) = parse::addresses(frame.get(usize::from(packet.ip_offset)..)?)?;
    let message = icmp::message(frame, packet);
    let (is_ipv6, message) = match addressee {
        IpAddr::V4(_) => (false, ErrorMessage::read_v4(message)?),
        IpAddr::V6(_) => (true, ErrorMessage::read_v6(message)?),
    };
    let outer = TunnelQuote::read(message.quote)?;
    if outer.source != addressee {
        return None;
    }
    let bytes = message.quote.get(outer.inner?..)?;
    let inner = Quote::read(bytes)?;
    let mut quote = [0; QUOTE_BYTES_MAX];
    let quoted = bytes.len().min(QUOTE_BYTES_MAX);
    quote.get_mut(..quoted)?.copy_from_slice(bytes.get(..quoted)?);
    let mtu = match is_ipv6 {
        true => message.mtu_v6().map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        false => message.mtu_v4().map(|mtu| if mtu == 0 { plateau_below(outer.total_length) } else { mtu }),
    };
    let (kind, code) = (message.kind, message.code);
    Some((outer, TunnelError { is_ipv6, kind, code, mtu, inner, quote, quoted }))
}

fn plateau_below(length: usize) -> u16 {
    let plateau = PLATEAUS.into_iter().find(|plateau| usize::from(*plateau) < length);
    plateau.unwrap_or(0)
}

/// Learns what the error says, and tells the client.
fn tell<Q: QueuePair>(error: &TunnelError, slot: u32, round: &mut Round<Q>) -> Result<(), DropReason> {
    let snapshot = round.parts.mailbox.current();
    let problem = match error.mtu {
        Some(mtu) => {
            round.parts.path_mtus.learn(slot, mtu, error.is_ipv6, round.now_seconds);
            let learnt = round.parts.path_mtus.of(slot, round.now_seconds).unwrap_or(mtu);
            too_big(error, learnt, slot, snapshot)
        }
        None => other_problem(error),
    };
    let Some((kind, problem)) = problem else { return Ok(()) };
    let next_hop = snapshot.routes.next_hop(error.inner.source).ok_or(DropReason::NoRoute)?;
    // A client in a connected network is known by no MAC: it is told of its next packet, which says it.
    let Some(mac) = next_hop.mac else { return Ok(()) };
    let back = Back { interface: next_hop.interface, mac };
    let quote = error.quote.get(..error.quoted).unwrap_or_default();
    round.reporter().send(kind, problem, quote, back);
    Ok(())
}

/// What the client is told of its packet, which did not fit into outer packets of `mtu` bytes. Nothing where the next ones will be
/// fragmented.
fn too_big(error: &TunnelError, mtu: u16, slot: u32, snapshot: &Snapshot) -> Option<(IcmpError, Problem)> {
    let Some(Way::Tunnel(tunnel)) = snapshot.ways.get(slot as usize) else { return None };
    let mtu = inner_mtu(tunnel, mtu, slot, snapshot);
    match error.inner.destination {
        IpAddr::V4(_) => {
            error.inner.does_not_fragment.then_some((IcmpError::TooBig, Problem::fragmentation_needed(mtu)))
        }
        IpAddr::V6(_) => {
            let mtu = mtu.max(ipv6::MTU_MIN);
            let is_too_big = error.inner.total_length > usize::from(mtu);
            is_too_big.then_some((IcmpError::TooBig, Problem::packet_too_big(mtu.into())))
        }
    }
}

/// The largest packet that fits into the tunnel whole.
fn inner_mtu(tunnel: &Tunnel, path_mtu: u16, slot: u32, snapshot: &Snapshot) -> u16 {
    let of_interface =
        snapshot.destinations.get(slot as usize).map_or(u16::MAX, |destination| destination.mtu);
    path_mtu.saturating_sub(tunnel.overhead()).min(of_interface)
}

/// The same in the client's family. In the other one there is only one word for what is unreachable (RFC 4213 section 3.4).
fn other_problem(error: &TunnelError) -> Option<(IcmpError, Problem)> {
    let (unreachable, time_exceeded) = match error.is_ipv6 {
        true => (icmpv6::DESTINATION_UNREACHABLE, icmpv6::TIME_EXCEEDED),
        false => (icmpv4::DESTINATION_UNREACHABLE, icmpv4::TIME_EXCEEDED),
    };
    let is_client_ipv6 = error.inner.source.is_ipv6();
    if error.kind == time_exceeded {
        let problem = if is_client_ipv6 { Problem::time_exceeded_v6() } else { Problem::time_exceeded_v4() };
        return Some((IcmpError::TimeExceeded, Problem { code: error.code, ..problem }));
    }
    if error.kind != unreachable {
        return None;
    }
    let code = match (error.is_ipv6, is_client_ipv6) {
        (true, false) => icmpv4::HOST_UNREACHABLE,
        (false, true) => icmpv6::ADDRESS_UNREACHABLE,
        _ => error.code,
    };
    let problem = match is_client_ipv6 {
        true => Problem::unreachable_v6(code),
        false => Problem::unreachable_v4(code),
    };
    Some((IcmpError::Unreachable, problem))
}
