//! Passes 2 to 4: which connection is it, and what does the packet do to it?

use super::{Packet, Step, WorkerParts, close, schedule};
use crate::clock::Ticks;
use crate::connection::table::ConnectionId;
use crate::connection::{Connection, ConnectionTable};
use crate::packet::tcp::{RST, SYN};
use crate::port::{PortId, QueuePair};
use crate::snapshot::{DestinationState, SharedCounts, Snapshot};
use crate::verdict::{DropReason, Verdict};

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
        }
    }
}

/// Pass 4: finds or opens each packet's connection. What is dropped here has touched neither state nor timer.
#[inline(always)]
pub(super) fn resolve<Q: QueuePair>(
    packets: &mut [Packet],
    port: PortId,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) {
    for packet in packets {
        if packet.step == Step::Flow {
            packet.step = Step::Done(match pass(packet, port, now, parts) {
                Ok(slot) => Verdict::Forward(slot),
                Err(reason) => Verdict::Drop(reason),
            });
        }
    }
}

/// The destination slot of a packet's connection.
#[inline(always)]
fn pass<Q: QueuePair>(
    packet: &Packet,
    port: PortId,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) -> Result<u32, DropReason> {
    let Some(id) = parts.connections.find(&packet.key, packet.hash, packet.candidate) else {
        return schedule::open(packet, port, now, parts);
    };
    if packet.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let connection = parts.connections.connection(id);
    let slot = connection.destination;
    let way = way_to(parts.mailbox.current(), slot, packet.ip_length);
    // A SYN is a new connection where the old one is over (IPVS: `conn_reuse_mode` 1) or its real server was removed.
    let may_reopen = packet.flags & (SYN | RST) == SYN;
    let is_over = connection.state.is_over() || way == Err(DropReason::RealServerRemoved);
    if connection.expires.is_past(now) || (may_reopen && is_over) {
        return reopen(packet, id, port, now, parts);
    }
    way?;
    update(packet, id, &connection, now, parts);
    Ok(slot)
}

/// Whether a packet of this length can be sent to the real server in this slot, and if not, why. A removed one's
/// connections are dropped without re-arming their timers, as IPVS does, so that they end and the slot with them.
#[inline(always)]
pub(super) fn way_to(snapshot: &Snapshot, slot: u32, ip_length: u16) -> Result<(), DropReason> {
    match snapshot.destinations.get(slot as usize) {
        Some(destination) if destination.state == DestinationState::Forwarding => {
            if ip_length <= destination.mtu { Ok(()) } else { Err(DropReason::TooBig) }
        }
        Some(destination) if destination.state == DestinationState::Unresolved => {
            Err(DropReason::NoRealServer)
        }
        _ => Err(DropReason::RealServerRemoved),
    }
}

#[cold]
fn reopen<Q: QueuePair>(
    packet: &Packet,
    id: ConnectionId,
    port: PortId,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) -> Result<u32, DropReason> {
    let gone = parts.connections.remove(id);
    close(&parts.counts, gone.destination, gone.state.is_active());
    parts.counters.connections_expired.add(1);
    schedule::open(packet, port, now, parts)
}

/// Moves the state and re-arms the timer, as every packet of the client does.
#[inline(always)]
fn update<Q: QueuePair>(
    packet: &Packet,
    id: ConnectionId,
    connection: &Connection,
    now: Ticks,
    parts: &mut WorkerParts<Q>,
) {
    let (before, after) = (connection.state, connection.state.after(packet.flags));
    parts.connections.update(id, after, now.after(after.timeout_ticks()));
    if before.is_active() != after.is_active() {
        flip(&parts.counts, connection.destination, after.is_active());
    }
}

#[cold]
fn flip(counts: &SharedCounts, destination: u32, to_active: bool) {
    match counts.get(destination as usize) {
        Some(counts) if to_active => counts.activate(),
        Some(counts) => counts.deactivate(),
        None => {}
    }
}
