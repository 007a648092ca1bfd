//! Packets of connections whose addresses are translated (NAT, full NAT), both ways.
//!
//! A packet of the client becomes one to the real server by what the connection's reply entry says; one of the real server hits that
//! entry and becomes one of the virtual service. Either moves the connection's state by IPVS's tables for both directions
//! and arms its timer. Replies go to where the client's frames come from, as long as that is known, else by the routes.

use super::fragmentation::{self, Whole};
use super::helped::{self, Course, Helped};
use super::icmp_errors::Reporter;
use super::outlet::Outlet;
use super::{Packet, Part, Round, WorkerParts, close, lookup, other, oversize, reuse};
use crate::clock::Ticks;
use crate::connection::table::ConnectionId;
use crate::connection::{Connection, ConnectionFlags, ConnectionState, LastHop};
use crate::packet::ipv4;
use crate::port::{Frame, PortId, QueuePair};
use crate::snapshot::{AddressRole, Destination, Snapshot};
use crate::translation::Rewrite;
use crate::verdict::{DropReason, HandOver, PacketKind, Ready, Verdict};
use crate::{direct_routing, link_layer};

/// How a frame leaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    pub(super) port: PortId,
    pub(super) macs: [u8; 12],
    pub(super) vlan: u16,
}

impl Exit {
    /// To the real server, or the gateway towards it.
    pub(super) fn to_real_server(destination: &Destination) -> Exit {
        Exit { port: destination.port, macs: destination.macs, vlan: destination.vlan }
    }
}

/// A packet that hit the translated connection at `id`, or the entry of its replies.
#[inline(never)]
pub(super) fn pass<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    id: ConnectionId,
    round: &mut Round<Q>,
) -> Verdict {
    let connection = round.parts.connections.connection(id);
    let passed = match connection.flags.contains(ConnectionFlags::COMPANION) {
        false => request(packet, index, id, &connection, round),
        true => reply(packet, index, id, round),
    };
    passed.unwrap_or_else(|verdict| verdict)
}

/// A packet of the client.
fn request<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    id: ConnectionId,
    connection: &Connection,
    round: &mut Round<Q>,
) -> Result<Verdict, Verdict> {
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    let now = round.now;
    let snapshot = round.parts.mailbox.current();
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let way = oversize::way_to(snapshot, connection.destination, packet, frame);
    if way.is_err() || packet.event.is_first() || connection.expires.is_past(now) {
        let template = round.parts.connections.template(connection);
        if reuse::is_over(packet, connection, template, way.err(), snapshot, now) {
            return reuse::open_anew(packet, index, id, round).map(Verdict::Forward);
        }
    }
    let destination = *way?;
    let after = connection.state.after_client(packet.event);
    step(id, connection, after, Some(destination.timeouts), round.parts, now);
    let connection = Connection { state: after, ..*connection };
    send_to_real_server(packet, index, id, &connection, &destination, round)
}

/// The packet that opened a translated connection.
#[inline(never)]
pub(super) fn send_first<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    let WorkerParts { connections, mailbox, .. } = &*round.parts;
    let found = connections.find(&packet.key, &packet.pair);
    let Some(id) = found else { return Verdict::Drop(DropReason::NoConnection) };
    let connection = connections.connection(id);
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    match oversize::way_to(mailbox.current(), connection.destination, packet, frame).copied() {
        Ok(destination) => send_to_real_server(packet, index, id, &connection, &destination, round)
            .unwrap_or_else(|verdict| verdict),
        Err(verdict) => verdict,
    }
}

/// Rewrites a packet of the client's connection at `id`.
fn send_to_real_server<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    id: ConnectionId,
    connection: &Connection,
    destination: &Destination,
    round: &mut Round<Q>,
) -> Result<Verdict, Verdict> {
    let connections = &mut round.parts.connections;
    let no_connection = Verdict::Drop(DropReason::NoConnection);
    let reply = connections.reply(id).ok_or(no_connection)?;
    let translated = connections.translated(reply);
    let frame = round.frames.get_mut(index).ok_or(no_connection)?;
    let last_hop = last_hop(packet, frame.bytes());
    if last_hop != translated.last_hop {
        connections.set_translated(reply, last_hop, translated.memory);
    }
    let exit = Exit::to_real_server(destination);
    let ip_offset =
        rewrite(frame, packet, &Rewrite::to_real_server(&translated), &exit).map_err(Verdict::Drop)?;
    let slot = connection.destination;
    if connection.flags.contains(ConnectionFlags::HELPED) {
        let (client, state) = (connection.key.tuple(&connection.pair), connection.state);
        let helped = Helped { id, reply, translated, client, slot, state };
        let course = Course {
            ip_offset,
            port: exit.port,
            mtu: destination.mtu,
            way_mtu: destination.mtu,
            is_reply: false,
        };
        helped::pass(packet, index, &helped, &course, round).map_err(Verdict::Drop)?;
    }
    let ready = Ready { slot, port: exit.port, is_reply: false };
    Ok(whole_or_in_pieces(packet, index, ip_offset, destination.mtu, ready, round))
}

/// The packet in this frame, which is final but may be larger than what its way carries, and may be cut then.
pub(super) fn whole_or_in_pieces<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    ip_offset: usize,
    mtu: u16,
    ready: Ready,
    round: &mut Round<Q>,
) -> Verdict {
    if packet.ip_length <= mtu {
        return Verdict::Ready(ready);
    }
    let WorkerParts { queues, counters, .. } = &mut *round.parts;
    let mut outlet = Outlet { queues, originated: round.originated, counters };
    let Some(frame) = round.frames.get(index) else { return Verdict::Drop(DropReason::TooBig) };
    // Only IPv4 is cut, and its pieces have the packet's own identification.
    let whole = Whole { frame, ip_offset, mtu, identification: 0, port: ready.port };
    match fragmentation::cut(&whole, &mut outlet) {
        Ok(()) => Verdict::InPieces(ready),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// A packet of the real server, which hit the reply entry at `entry`. Whatever became of the real server, what it still sends to
/// its clients reaches them, as with IPVS; only, where it was removed, that no longer keeps the connection.
fn reply<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    entry: ConnectionId,
    round: &mut Round<Q>,
) -> Result<Verdict, Verdict> {
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    let now = round.now;
    let connections = &mut round.parts.connections;
    let id = connections.connection_of_reply(entry).ok_or(Verdict::Drop(DropReason::NoConnection))?;
    let connection = connections.connection(id);
    if connection.expires.is_past(now) {
        let gone = connections.remove(id);
        let parts = &*round.parts;
        close(&gone, now, &parts.counts, &parts.templates, &parts.counters);
        return Err(judge_unwanted(packet, index, round));
    }
    let client = connection.key.tuple(&connection.pair);
    let translated = connections.translated(entry);
    let snapshot = round.parts.mailbox.current();
    let (exit, mtu) = way_to_client(snapshot, &translated.last_hop, client.client).map_err(Verdict::Drop)?;
    if packet.ip_length > mtu {
        let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
        let ip = frame.get(usize::from(packet.ip_offset)..).unwrap_or_default();
        if let Some(told) = oversize::refused_for(ip, packet.ip_length, mtu, false, &snapshot.options) {
            return Err(Verdict::TooBig(told));
        }
    }
    let is_removed = lookup::is_removed(snapshot, connection.destination);
    let destination = snapshot.destinations.get(connection.destination as usize);
    let timeouts = destination.filter(|_| !is_removed).map(|destination| destination.timeouts);
    let mtu_there = destination.map_or(0, |destination| destination.mtu);
    let after = connection.state.after_real_server(packet.event);
    step(id, &connection, after, timeouts, round.parts, now);
    let frame = round.frames.get_mut(index).ok_or(Verdict::Drop(DropReason::NoConnection))?;
    let ip_offset = rewrite(frame, packet, &Rewrite::to_client(&client), &exit).map_err(Verdict::Drop)?;
    let slot = connection.destination;
    if connection.flags.contains(ConnectionFlags::HELPED) {
        let helped = Helped { id, reply: entry, translated, client, slot, state: after };
        let course = Course { ip_offset, port: exit.port, mtu: mtu_there, way_mtu: mtu, is_reply: true };
        helped::pass(packet, index, &helped, &course, round).map_err(Verdict::Drop)?;
    }
    let ready = Ready { slot, port: exit.port, is_reply: true };
    Ok(whole_or_in_pieces(packet, index, ip_offset, mtu, ready, round))
}

/// Moves the connection at `id` to the state `after`. Its timer is armed by these timeouts; by none, or where it lasts for one answer
/// only, it stays as it is.
fn step<Q: QueuePair>(
    id: ConnectionId,
    connection: &Connection,
    after: ConnectionState,
    timeouts: Option<u16>,
    parts: &mut WorkerParts<Q>,
    now: Ticks,
) {
    let timeouts = timeouts.filter(|_| !connection.flags.contains(ConnectionFlags::ONE_PACKET));
    let expires = match timeouts {
        Some(index) => now.after(lookup::timeouts_of(parts.mailbox.current(), index).ticks(after)),
        None => connection.expires,
    };
    parts.connections.update(id, after, expires);
    if connection.state != after {
        let template = parts.connections.template(connection);
        let moved = Connection { state: after, link: template, ..*connection };
        lookup::moved(connection.state, &moved, &parts.counts, &parts.templates);
    }
}

/// Gives the packet other addresses and ports, a TTL lower by one and the frame another link-layer header; where the IP header
/// begins then.
fn rewrite<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    rewrite: &Rewrite,
    exit: &Exit,
) -> Result<usize, DropReason> {
    let ip_offset = usize::from(packet.ip_offset);
    let header = usize::from(packet.transport_offset) - ip_offset;
    let length = usize::from(packet.ip_length).saturating_sub(header);
    let ip = frame.bytes_mut().get_mut(ip_offset..).unwrap_or_default();
    // SCTP's checksum changes with the length of the whole packet, which its first fragment does not say.
    let is_uncertain = packet.part == Part::First && packet.protocol == ipv4::SCTP;
    if is_uncertain && !rewrite.keeps_ports(ip.get(header..).unwrap_or_default()) {
        return Err(DropReason::Fragment);
    }
    let addresses = rewrite.write_addresses(ip).ok_or(DropReason::NoRealServer)?;
    direct_routing::decrement_ttl(ip);
    let transport = ip.get_mut(header..).unwrap_or_default();
    if !rewrite.write_ports(transport, packet.protocol, length, addresses) {
        return Err(DropReason::BadTransportHeader);
    }
    link_layer::write(frame, ip_offset, &exit.macs, exit.vlan).ok_or(DropReason::NoHeadroom)
}

/// Where a frame of the client comes from. A source address that is a group's leads nowhere.
pub(super) fn last_hop(packet: &Packet, frame: &[u8]) -> LastHop {
    const IS_GROUP: u8 = 1;
    let source = frame.get(6..12).and_then(|source| source.first_chunk::<6>()).copied();
    let mac = source.filter(|mac| mac[0] & IS_GROUP == 0).unwrap_or_default();
    LastHop { mac, interface: packet.interface }
}

/// How frames get to a client, and how large its packets may be: back to where its frames come from, or by the routes where that
/// is not known.
pub(super) fn way_to_client(
    snapshot: &Snapshot,
    last_hop: &LastHop,
    client: std::net::IpAddr,
) -> Result<(Exit, u16), DropReason> {
    let (interface, mac) = match last_hop.mac != [0; 6] {
        true => (last_hop.interface, last_hop.mac),
        false => {
            let next_hop = snapshot.routes.next_hop(client).ok_or(DropReason::NoRoute)?;
            (next_hop.interface, next_hop.mac.ok_or(DropReason::NoRoute)?)
        }
    };
    let interface = snapshot.interfaces.get(interface.index()).ok_or(DropReason::NoRoute)?;
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (mac, interface.mac);
    let macs = [a, b, c, d, e, f, g, h, i, j, k, l];
    Ok((Exit { port: interface.port, macs, vlan: interface.vlan }, interface.mtu))
}

/// A packet that no virtual service wants and of which this worker has no connection: it may be a reply for another worker, or for
/// the host, or nobody's. A real server whose reply is nobody's is told so where that is wanted.
#[inline(never)]
pub(super) fn judge_unwanted<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    let WorkerParts { mailbox, peers, .. } = &*round.parts;
    let (snapshot, destination) = (mailbox.current(), packet.key.vip(&packet.pair));
    let is_local = matches!(snapshot.addresses.get(&destination), Some(AddressRole::Local(_)));
    let sources = &snapshot.translated_real_servers;
    let is_real_server = sources.contains(&packet.key.client(&packet.pair));
    if (is_real_server || sources.is_empty()) && peers.translate() && !packet.is_taken_over {
        let owner = match is_local {
            true => peers.owner_of_local_port(packet.key.virtual_port()),
            false => peers.owner_of(&packet.key, &packet.pair),
        };
        if let Some(worker) = owner {
            return Verdict::HandOver(HandOver { worker: worker as u16, kind: PacketKind::Flow });
        }
    }
    match other::not_a_service(destination, packet, snapshot) {
        Verdict::Drop(_) if is_real_server => {
            if snapshot.options.nat_icmp_send && !packet.event.resets() {
                tell_real_server(packet, index, round);
            }
            Verdict::Drop(DropReason::NoConnection)
        }
        verdict => verdict,
    }
}

/// Tells a real server that what it replies to is no more (`nat_icmp_send`).
#[cold]
fn tell_real_server<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) {
    let WorkerParts { queues, counters, mailbox, .. } = &mut *round.parts;
    let mut reporter = Reporter {
        outlet: Outlet { queues, originated: round.originated, counters },
        snapshot: mailbox.current(),
        allowance: round.icmp_allowance,
        now: round.now,
    };
    if let Some(frame) = round.frames.get(index) {
        reporter.tell(Verdict::Drop(DropReason::NoConnection), packet, frame);
    }
}
