//! One direction of a translated connection, for what belongs to it but is no whole packet of it: later fragments, which have
//! addresses and no ports, and ICMP errors about its packets. Neither moves its state or its timer.

use std::net::IpAddr;

use super::helped::Memory;
use super::nat::{self, Exit};
use super::{Packet, Round, WorkerParts, open, oversize, parse};
use crate::connection::table::ConnectionId;
use crate::connection::{ConnectionFlags, Tuple};
use crate::port::{Frame, QueuePair};
use crate::snapshot::ForwardingMethod;
use crate::translation::Rewrite;
use crate::verdict::{DropReason, Ready, Verdict};
use crate::{direct_routing, link_layer};

/// How packets of one direction change and leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    /// What the addresses and ports of the connection's packets become.
    pub(super) rewrite: Rewrite,
    /// The client as it is known to itself.
    client: IpAddr,
    /// Bytes that a packet of the other direction may have more behind the director.
    pub(super) added: usize,
    exit: Exit,
    mtu: u16,
    slot: u32,
    is_reply: bool,
}

impl Leg {
    /// That of the entry at `entry` (of the client's packets, or of the replies) for the packet in this frame; else what becomes of
    /// that packet.
    pub(super) fn of<Q: QueuePair>(
        entry: ConnectionId,
        packet: &Packet,
        index: usize,
        round: &Round<Q>,
    ) -> Result<Leg, Verdict> {
        let WorkerParts { connections, mailbox, .. } = &*round.parts;
        let no_connection = Verdict::Drop(DropReason::NoConnection);
        let is_reply = connections.connection(entry).flags.contains(ConnectionFlags::COMPANION);
        let other = match is_reply {
            true => connections.connection_of_reply(entry),
            false => connections.reply(entry),
        };
        let other = other.ok_or(no_connection)?;
        let (id, reply) = if is_reply { (other, entry) } else { (entry, other) };
        let connection = connections.connection(id);
        if connection.expires.is_past(round.now) {
            return Err(no_connection);
        }
        if packet.ttl <= 1 {
            return Err(Verdict::Drop(DropReason::TtlExpired));
        }
        let snapshot = mailbox.current();
        let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
        let tuple = connection.key.tuple(&connection.pair);
        let (client, slot, translated) =
            (tuple.client, connection.destination, connections.translated(reply));
        if !is_reply {
            let destination = oversize::way_to(snapshot, slot, packet, frame)?;
            let rewrite = Rewrite::to_real_server(&translated);
            let exit = Exit::to_real_server(destination);
            return Ok(Leg { rewrite, client, added: 0, exit, mtu: destination.mtu, slot, is_reply });
        }
        let way = nat::way_to_client(snapshot, &translated.last_hop, client);
        let (exit, mtu) = way.map_err(Verdict::Drop)?;
        if packet.ip_length > mtu {
            let ip = frame.get(usize::from(packet.ip_offset)..).unwrap_or_default();
            let told = oversize::refused_for(ip, packet.ip_length, mtu, false, &snapshot.options);
            told.map_or(Ok(()), |mtu| Err(Verdict::TooBig(mtu)))?;
        }
        let added = Memory::of(translated.memory).introduction().may_add(client.is_ipv4());
        Ok(Leg { rewrite: Rewrite::to_client(&tuple), client, added, exit, mtu, slot, is_reply })
    }

    /// That of the client's packets in a connection which is not known here and would go to the real server of this slot, where NAT
    /// needs no memory to translate them.
    pub(super) fn of_unknown<Q: QueuePair>(
        tuple: &Tuple,
        slot: u32,
        packet: &Packet,
        index: usize,
        round: &Round<Q>,
    ) -> Result<Leg, Verdict> {
        let snapshot = round.parts.mailbox.current();
        let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
        let destination = oversize::way_to(snapshot, slot, packet, frame)?;
        let Some(translation) = open::translation_of(snapshot, slot)
            .filter(|translation| translation.address.is_ipv4() == tuple.client.is_ipv4())
            .filter(|_| destination.method == ForwardingMethod::Nat)
        else {
            return Err(Verdict::Drop(DropReason::IcmpIgnored));
        };
        let port = if translation.port == 0 { tuple.service.port } else { translation.port };
        let rewrite =
            Rewrite { source: (tuple.client, tuple.client_port), destination: (translation.address, port) };
        let exit = Exit::to_real_server(destination);
        let (client, mtu) = (tuple.client, destination.mtu);
        Ok(Leg { rewrite, client, added: 0, exit, mtu, slot, is_reply: false })
    }

    /// What the addresses of an ICMP error from `source` about a packet of the other direction become. The client hears of it from
    /// the virtual service, whoever behind that sent it. The real server hears of it from whom it is, but with full NAT, where it may
    /// have no way to that one, from the client's local address.
    pub(super) fn rewrite_of_error(&self, source: IpAddr) -> Rewrite {
        let is_client_known = self.is_reply || self.rewrite.source.0 == self.client;
        let source = if !self.is_reply && is_client_known { source } else { self.rewrite.source.0 };
        Rewrite { source: (source, 0), destination: (self.rewrite.destination.0, 0) }
    }

    /// The packet in this frame, whose addresses are final, leaves with a TTL lower by one, whole or in pieces.
    pub(super) fn leave<Q: QueuePair>(&self, packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
        let Some(frame) = round.frames.get_mut(index) else { return Verdict::Drop(DropReason::NoConnection) };
        let ip_offset = usize::from(packet.ip_offset);
        direct_routing::decrement_ttl(frame.bytes_mut().get_mut(ip_offset..).unwrap_or_default());
        let Some(ip_offset) = link_layer::write(frame, ip_offset, &self.exit.macs, self.exit.vlan) else {
            return Verdict::Drop(DropReason::NoHeadroom);
        };
        let ready = Ready { slot: self.slot, port: self.exit.port, is_reply: self.is_reply };
        nat::whole_or_in_pieces(packet, index, ip_offset, self.mtu, ready, round)
    }
}

/// A fragment, not the first, of a packet of the entry at `entry`, or of an error about one.
#[cold]
pub(super) fn pass_later_fragment<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    entry: ConnectionId,
    is_error: bool,
    round: &mut Round<Q>,
) -> Verdict {
    let leg = match Leg::of(entry, packet, index, round) {
        Ok(leg) => leg,
        Err(verdict) => return verdict,
    };
    let Some(frame) = round.frames.get_mut(index) else { return Verdict::Drop(DropReason::NoConnection) };
    let ip = frame.bytes_mut().get_mut(usize::from(packet.ip_offset)..).unwrap_or_default();
    let rewrite = match parse::addresses(ip) {
        Some((source, _)) if is_error => leg.rewrite_of_error(source),
        _ => leg.rewrite,
    };
    match rewrite.write_addresses(ip) {
        Some(_) => leg.leave(packet, index, round),
        None => Verdict::Drop(DropReason::NoRealServer),
    }
}
