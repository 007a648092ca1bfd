//! Passes 2 to 4: which connection is it, and what does the packet do to it?

use super::{Packet, Round, Step, fragment, ftp, nat, open, other, reuse};
use crate::connection::{
    Connection, ConnectionFlags, ConnectionState, ConnectionTable, Event, StateTimeouts,
};
use crate::persistence::{TemplateId, TemplateTable};
use crate::port::QueuePair;
use crate::snapshot::{Destination, DestinationState, SharedCounts, Snapshot};
use crate::verdict::{DropReason, HandOver, PacketKind, Verdict};

/// Pass 2: hashes the keys and starts loading the buckets. A loop of its own, so short that many packets' chains of
/// multiplications can run side by side; end to end it measured the same as within pass 1, to under a nanosecond.
#[inline(always)]
pub(super) fn hash(packets: &mut [Packet], connections: &ConnectionTable) {
    for packet in packets {
        packet.hash = connections.hash(&packet.key);
        connections.prefetch_bucket(packet.hash);
    }
}

/// Pass 3: finds the tags and starts loading the entries.
#[inline(always)]
pub(super) fn find_candidates(packets: &mut [Packet], connections: &ConnectionTable) {
    for packet in packets {
        if packet.step == Step::Flow {
            packet.candidate = connections.prefetch_candidate(packet.hash);
            if let Some(candidate) = packet.candidate.filter(|_| packet.key.is_ipv6()) {
                connections.prefetch_pair(candidate);
            }
        }
    }
}

/// Pass 4: finds or opens each packet's connection. What is dropped here has touched neither state nor timer.
#[inline(always)]
pub(super) fn resolve<Q: QueuePair>(packets: &mut [Packet], mut round: Round<Q>) {
    for (index, packet) in packets.iter_mut().enumerate() {
        if packet.step == Step::Flow {
            match pass(packet, index, &mut round) {
                Ok(slot) => (packet.step, packet.slot) = (Step::Forward, slot),
                Err(verdict) => packet.settle(verdict),
            }
        } else if matches!(packet.step, Step::Fragment | Step::Other) {
            packet.settle(match packet.step {
                Step::Fragment => fragment::judge(packet, index, &mut round),
                _ => other::judge(packet, index, &mut round),
            });
        }
    }
}

/// The destination slot of a packet's connection, or what else becomes of it. A packet that is no first one and neither finds
/// its own over nor its real server gone does nothing else.
#[inline(always)]
fn pass<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Result<u32, Verdict> {
    let parts = &mut *round.parts;
    let hit = parts.connections.hit(&packet.key, &packet.pair, packet.hash, packet.candidate);
    let Some(mut hit) = hit else { return miss(packet, index, round) };
    let connection = hit.standing();
    if connection.flags.intersects(ConnectionFlags::TRANSLATED.with(ConnectionFlags::COMPANION)) {
        let id = hit.id();
        return Err(nat::pass(packet, index, id, round));
    }
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    let snapshot = parts.mailbox.current();
    match way_to(snapshot, connection.destination, packet.ip_length) {
        Ok(destination) if !packet.event.is_first() && !connection.expires.is_past(round.now) => {
            let (before, after) = (connection.state, connection.state.after(packet.event));
            hit.update(after, round.now.after(timeouts_of(snapshot, destination.timeouts).ticks(after)));
            if before != after {
                // Read again, so that a packet that changes nothing does not keep all of it: 16 instructions fewer.
                moved(before, &hit.connection(), &parts.counts, &parts.templates);
            }
            Ok(connection.destination)
        }
        _ => {
            let id = hit.id();
            reuse::judge(packet, index, id, round)
        }
    }
}

/// The same for a packet by itself, out of the turn of the passes.
#[cold]
#[inline(never)]
pub(super) fn pass_alone<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    round: &mut Round<Q>,
) -> Result<u32, Verdict> {
    pass(packet, index, round)
}

/// The packet is of no connection of this worker: it opens one, is of another worker's, or is for the host.
#[inline(never)]
fn miss<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Result<u32, Verdict> {
    let peers = &round.parts.peers;
    if packet.event == Event::UDP
        && !packet.is_taken_over
        && let Some(worker) = peers.owner_of_fragmented(&packet.key, &packet.pair, round.now_seconds)
    {
        return Err(Verdict::HandOver(HandOver { worker: worker as u16, kind: PacketKind::Flow }));
    }
    if ftp::may_be_data(packet, round.parts.mailbox.current())
        && let Some(verdict) = ftp::judge_data(packet, index, round)
    {
        return Err(verdict);
    }
    match open::open(packet, index, round) {
        Err(Verdict::Drop(DropReason::NoService)) => Err(nat::judge_unwanted(packet, index, round)),
        opened => opened,
    }
}

/// The real server in this slot, where a packet of this length can be sent to it, and if not, why. A removed one's
/// connections are dropped without re-arming their timers, as IPVS does, so that they end and the slot with them.
#[inline(always)]
pub(super) fn way_to(snapshot: &Snapshot, slot: u32, ip_length: u16) -> Result<&Destination, DropReason> {
    match snapshot.destinations.get(slot as usize) {
        Some(destination) if destination.state == DestinationState::Forwarding => {
            if ip_length <= destination.mtu { Ok(destination) } else { Err(DropReason::TooBig) }
        }
        Some(destination) if destination.state == DestinationState::Unresolved => {
            Err(DropReason::NoRealServer)
        }
        _ => Err(DropReason::RealServerRemoved),
    }
}

/// The real server in this slot was removed.
pub(super) fn is_removed(snapshot: &Snapshot, slot: u32) -> bool {
    way_to(snapshot, slot, 0).err() == Some(DropReason::RealServerRemoved)
}

/// The timeouts of this index; IPVS's where the control thread gave none.
#[inline(always)]
pub(super) fn timeouts_of(snapshot: &Snapshot, index: u16) -> &StateTimeouts {
    static IPVS: StateTimeouts = StateTimeouts::IPVS;
    snapshot.timeouts.get(usize::from(index)).unwrap_or(&IPVS)
}

/// The connection, whose link is its template, had the state `before`: its real server counts it as active or not, and a
/// template whose client has done a handshake is known to be somebody's.
#[cold]
pub(super) fn moved(
    before: ConnectionState,
    connection: &Connection,
    counts: &SharedCounts,
    templates: &TemplateTable,
) {
    let after = connection.state;
    if before.is_active() != after.is_active()
        && let Some(counts) = counts.get(connection.destination as usize)
    {
        if after.is_active() {
            counts.activate();
        } else {
            counts.deactivate();
        }
    }
    if let Some(template) = connection.link.filter(|_| after.is_established()) {
        templates.assure(TemplateId::from_index(template));
    }
}
