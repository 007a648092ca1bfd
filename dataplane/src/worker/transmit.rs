//! Passes 5 to 7: each frame goes where its verdict says, and is counted there.

use arrayvec::ArrayVec;

use super::{Packet, Step, Worker, tunnel};
use crate::clock::Ticks;
use crate::counters::WorkerCounters;
use crate::host::Origin;
use crate::packet::ethernet;
use crate::port::{BURST, Burst, Frame, PortId, QueuePair};
use crate::snapshot::{Destination, ForwardingMethod, Snapshot, Way};
use crate::verdict::DropReason;
use crate::{direct_routing, link_layer};

/// Times that a port which takes only part of a burst is offered the rest.
const RETRIES: usize = 3;

/// Frames that wait to be sent on one port, and for whom.
#[derive(Debug)]
pub(super) struct TxLane<F> {
    frames: Burst<F>,
    records: ArrayVec<Record, BURST>,
}

/// What is counted of a forwarded frame.
#[derive(Clone, Copy, Debug)]
struct Record {
    slot: u32,
    ip_length: u16,
    is_reply: bool,
}

/// Frames that the worker made itself in this round: more than these are not made.
#[derive(Debug)]
pub(super) struct Originated<F>(ArrayVec<(PortId, F), { 2 * BURST }>);

impl<F> Default for Originated<F> {
    fn default() -> Self {
        Originated(ArrayVec::new())
    }
}

impl<F> Originated<F> {
    /// Room for so many more.
    pub(super) fn has_room(&self, frames: usize) -> bool {
        self.0.remaining_capacity() >= frames
    }

    /// Sends a frame by the end of the round, where there is room.
    pub(super) fn push(&mut self, port: PortId, frame: F) {
        // Without room it is freed here.
        let _ = self.0.try_push((port, frame));
    }
}

impl<F> Default for TxLane<F> {
    fn default() -> Self {
        TxLane { frames: Burst::new(), records: ArrayVec::new() }
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// Passes 5 to 7 over the burst in `rx`, which is empty afterwards.
    #[inline(always)]
    pub(super) fn dispose(&mut self, now: Ticks) {
        let packets = &mut self.packets[..self.rx.len()];
        let exit = rewrite(&mut self.rx, packets, self.parts.mailbox.current());
        match exit.and_then(|exit| self.parts.queues.get_mut(exit.index())) {
            Some(queue) => {
                let records = packets.iter().map(record);
                send(queue, &mut self.rx, records, &self.parts.counters);
            }
            None => self.sort(now),
        }
    }

    /// Pass 6, where the frames of the burst do not all leave by one port: each into the lane of its port, to the
    /// control thread, to the host, or dropped.
    #[inline(never)]
    fn sort(&mut self, now: Ticks) {
        let counters = &self.parts.counters;
        let snapshot = self.parts.mailbox.current();
        for (mut frame, packet) in self.rx.drain(..).zip(self.packets.iter()) {
            let (frame, reason) = match packet.step {
                Step::Forward | Step::Ready => match self.tx.get_mut(packet.exit.index()) {
                    Some(lane) => {
                        lane.frames.push(frame);
                        lane.records.push(record(packet));
                        continue;
                    }
                    // The control thread gives no real server a port that does not exist.
                    None => (frame, DropReason::NoRealServer),
                },
                Step::Punt(queue) => {
                    untag(&mut frame, packet);
                    match self.parts.host.punt(queue, packet.interface, frame) {
                        Ok(()) => {
                            counters.punted.add(1);
                            continue;
                        }
                        Err(frame) => (frame, DropReason::PuntQueueFull),
                    }
                }
                Step::Host => {
                    let rate = snapshot.options.host_packets_per_second / self.parts.workers.max(1);
                    let allowance = self.host_allowances.get_mut(packet.interface.index());
                    untag(&mut frame, packet);
                    match allowance.is_some_and(|allowance| allowance.take(rate, now)) {
                        false => (frame, DropReason::HostRate),
                        true => match self.parts.host.to_host(packet.interface, frame) {
                            Ok(()) => {
                                counters.to_host.add(1);
                                continue;
                            }
                            Err(frame) => (frame, DropReason::HostQueueFull),
                        },
                    }
                }
                Step::Hold => match self.fragments.hold(frame, packet, now, counters) {
                    Ok(()) => continue,
                    Err(frame) => (frame, DropReason::FragmentEvicted),
                },
                Step::Drop(reason) => (frame, reason),
                // Pass 4 leaves none behind.
                Step::Flow | Step::Fragment | Step::Other => (frame, DropReason::NoConnection),
            };
            counters.dropped[reason as usize].add(1);
            self.dropped.push(frame);
        }
        Q::Frame::free_burst(&mut self.dropped);
        for (lane, queue) in self.tx.iter_mut().zip(&mut self.parts.queues) {
            if !lane.frames.is_empty() {
                send(queue, &mut lane.frames, lane.records.drain(..), counters);
            }
        }
    }

    /// Drops the burst of a port that the snapshot does not know.
    #[cold]
    pub(super) fn drop_all(&mut self) {
        let count = self.rx.len() as u64;
        self.parts.counters.received.add(count);
        self.parts.counters.dropped[DropReason::NotLocal as usize].add(count);
        Q::Frame::free_burst(&mut self.rx);
    }

    /// Sends what the worker made itself.
    #[inline]
    pub(super) fn send_originated(&mut self) {
        if self.originated.0.is_empty() {
            return;
        }
        let counters = &self.parts.counters;
        for (port, frame) in self.originated.0.drain(..) {
            match send_one(&mut self.parts.queues, port, frame) {
                true => counters.originated.add(1),
                false => counters.originated_not_sent.add(1),
            }
        }
    }

    /// Worker 0: sends what the control thread and the host have queued, a burst of each.
    #[inline]
    pub(super) fn send_for_others(&mut self) {
        for origin in [Origin::Control, Origin::Host] {
            if self.parts.host.outgoing_queued(origin) != self.taken_from[origin as usize] {
                self.send_for(origin);
            }
        }
    }

    #[cold]
    fn send_for(&mut self, origin: Origin) {
        let (parts, taken) = (&mut self.parts, &mut self.taken_from[origin as usize]);
        let (sent, not_sent) = match origin {
            Origin::Control => (&parts.counters.control_sent, &parts.counters.control_not_sent),
            Origin::Host => (&parts.counters.host_sent, &parts.counters.host_not_sent),
        };
        // No further than what is whole in the queue: the queue would make this thread wait for a push under way.
        let whole = parts.host.outgoing_queued(origin).wrapping_sub(*taken);
        for _ in 0..whole.min(BURST as u64) {
            let Some((port, frame)) = parts.host.next_outgoing(origin) else {
                break;
            };
            *taken += 1;
            if send_one(&mut parts.queues, port, frame) { sent.add(1) } else { not_sent.add(1) }
        }
    }
}

/// Sends one frame; whether the port took it.
fn send_one<Q: QueuePair>(queues: &mut [Q], port: PortId, frame: Q::Frame) -> bool {
    let mut burst = Burst::<Q::Frame>::new();
    burst.push(frame);
    queues.get_mut(port.index()).map_or(0, |queue| queue.transmit(&mut burst)) == 1
}

/// What is counted where the packet is sent.
#[inline(always)]
fn record(packet: &Packet) -> Record {
    Record {
        slot: packet.slot,
        ip_length: packet.ip_length,
        is_reply: packet.step == Step::Ready && packet.is_reply,
    }
}

/// Control thread and host get frames without the tag of their interface.
fn untag<F: Frame>(frame: &mut F, packet: &Packet) {
    let ip_offset = usize::from(packet.ip_offset);
    if ip_offset > ethernet::HEADER_BYTES
        && let Some(macs) = frame.bytes().first_chunk::<12>().copied()
    {
        link_layer::write(frame, ip_offset, &macs, 0);
    }
    frame.clear_vlan_tci();
}

/// Pass 5: rewrites the frames that are forwarded. The port by which all of the burst leaves, where there is one.
#[inline(always)]
fn rewrite<F: Frame>(frames: &mut Burst<F>, packets: &mut [Packet], snapshot: &Snapshot) -> Option<PortId> {
    let mut only = None;
    let mut all_leave_by_it = true;
    for (frame, packet) in frames.iter_mut().zip(packets) {
        if packet.step == Step::Forward
            && let Some(destination) = snapshot.destinations.get(packet.slot as usize)
        {
            packet.exit = destination.port;
            let is_plain = destination.method == ForwardingMethod::Direct
                && destination.vlan == 0
                && usize::from(packet.ip_offset) == ethernet::HEADER_BYTES;
            if !is_plain {
                rewrite_otherwise(frame, packet, destination, snapshot);
                all_leave_by_it &= packet.step == Step::Forward;
            } else if packet.key.is_ipv6() {
                direct_routing::rewrite_ipv6(frame.bytes_mut(), destination);
            } else {
                direct_routing::rewrite(frame.bytes_mut(), destination);
            }
        } else if packet.step != Step::Ready {
            all_leave_by_it = false;
            continue;
        }
        all_leave_by_it &= *only.get_or_insert(packet.exit) == packet.exit;
    }
    only.filter(|_| all_leave_by_it)
}

/// With a VLAN tag here or there, or into a tunnel. A frame that cannot be is dropped.
#[inline(never)]
fn rewrite_otherwise<F: Frame>(
    frame: &mut F,
    packet: &mut Packet,
    destination: &Destination,
    snapshot: &Snapshot,
) {
    let written = match snapshot.ways.get(packet.slot as usize) {
        Some(Way::Tunnel(tunnel)) => tunnel::encapsulate(frame, packet, destination, tunnel),
        _ => {
            if let Some(ip) = frame.bytes_mut().get_mut(usize::from(packet.ip_offset)..) {
                direct_routing::decrement_ttl(ip);
            }
            let written =
                link_layer::write(frame, packet.ip_offset.into(), &destination.macs, destination.vlan);
            written.map(drop).ok_or(DropReason::NoHeadroom)
        }
    };
    if let Err(reason) = written {
        packet.step = Step::Drop(reason);
    }
}

/// Pass 7: sends `frames`, all of which leave by one port, and counts them by their `records`. What the port does not take
/// is dropped.
#[inline(always)]
fn send<Q: QueuePair>(
    queue: &mut Q,
    frames: &mut Burst<Q::Frame>,
    records: impl Iterator<Item = Record>,
    counters: &WorkerCounters,
) {
    let mut sent = queue.transmit(frames);
    for _ in 0..RETRIES {
        if frames.is_empty() {
            break;
        }
        sent += queue.transmit(frames);
    }
    counters.forwarded.add(sent as u64);
    for record in records.take(sent) {
        if let Some(counters) = counters.destinations.get(record.slot as usize) {
            let (packets, bytes) = match record.is_reply {
                false => (&counters.packets, &counters.bytes),
                true => (&counters.replies, &counters.reply_bytes),
            };
            packets.add(1);
            bytes.add(u64::from(record.ip_length));
        }
    }
    counters.dropped[DropReason::TxFull as usize].add(frames.len() as u64);
    Q::Frame::free_burst(frames);
}
