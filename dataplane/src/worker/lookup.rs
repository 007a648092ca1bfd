//! Passes 2 to 4: which connection is it, and what does the packet do to it?

use super::{Packet, Step, WorkerParts, close, schedule};
use crate::clock::Ticks;
use crate::connection::ConnectionTable;
use crate::connection::table::ConnectionId;
use crate::packet::tcp::{RST, SYN};
use crate::port::{PortId, QueuePair};
use crate::snapshot::DestinationState;
use crate::verdict::{DropReason, Verdict};

/// Pass 2: hashes the keys and starts loading the buckets. A loop of its own, so short that many packets' chains of
/// multiplications run side by side; within pass 1 it was measured to cost three times as much.
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
        }
    }
}

/// Pass 4: finds or opens each packet's connection.
#[inline(always)]
pub(super) fn resolve<Q: QueuePair>(
    packets: &mut [Packet],
    port: PortId,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) {
    for packet in packets {
        if packet.step != Step::Flow {
            continue;
        }
        packet.step = match parts.connections.find(&packet.key, packet.hash, packet.candidate) {
            Some(id) if goes_on(packet, id, now, parts) => update(packet, id, now, parts),
            Some(id) => {
                let gone = parts.connections.remove(id);
                close(&parts.counts, gone.destination, gone.state.is_active());
                parts.counters.connections_expired.add(1);
                schedule::open(packet, port, now, parts)
            }
            None => schedule::open(packet, port, now, parts),
        };
    }
}

/// The connection goes on with this packet: it has not expired, and the packet does not open a new one on its tuple.
/// A SYN does where the old connection is over (IPVS: `conn_reuse_mode` 1) or its real server was removed.
#[inline(always)]
fn goes_on<Q: QueuePair>(packet: &Packet, id: ConnectionId, now: Ticks, parts: &WorkerParts<Q>) -> bool {
    let connection = parts.connections.connection(id);
    if connection.expires.is_past(now) {
        return false;
    }
    if packet.flags & (SYN | RST) != SYN {
        return true;
    }
    let destination = parts.mailbox.current().destinations.get(connection.destination as usize);
    let is_removed = destination.is_none_or(|destination| destination.state == DestinationState::Removed);
    !connection.state.is_over() && !is_removed
}

/// Moves the state and re-arms the timer, as every packet of the client does.
#[inline(always)]
fn update<Q: QueuePair>(packet: &Packet, id: ConnectionId, now: Ticks, parts: &mut WorkerParts<Q>) -> Step {
    if packet.ttl <= 1 {
        return Step::Done(Verdict::Drop(DropReason::TtlExpired));
    }
    let connection = parts.connections.connection_mut(id);
    let before = connection.state;
    let after = before.after(packet.flags);
    connection.expires = now.after(after.timeout_ticks());
    let destination = connection.destination;
    if before == after {
        return Step::Destination(destination);
    }
    connection.state = after;
    if before.is_active() != after.is_active() {
        flip(&parts.counts, destination, after.is_active());
    }
    Step::Destination(destination)
}

#[cold]
fn flip(counts: &crate::snapshot::SharedCounts, destination: u32, to_active: bool) {
    match counts.get(destination as usize) {
        Some(counts) if to_active => counts.activate(),
        Some(counts) => counts.deactivate(),
        None => {}
    }
}
