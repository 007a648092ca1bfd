//! Passes 5 to 7: each frame goes where its verdict says, and is counted there.

use arrayvec::ArrayVec;

use super::{Packet, Step, Worker};
use crate::counters::WorkerCounters;
use crate::direct_routing;
use crate::port::{BURST, Burst, Frame, PortId, QueuePair};
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, Verdict};

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
}

impl<F> Default for TxLane<F> {
    fn default() -> Self {
        TxLane { frames: Burst::new(), records: ArrayVec::new() }
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// Passes 5 to 7 over the burst in `rx`, which is empty afterwards.
    #[inline(always)]
    pub(super) fn dispose(&mut self, port: PortId) {
        let packets = &self.packets[..self.rx.len()];
        let exit = rewrite(&mut self.rx, packets, self.parts.mailbox.current());
        match exit.and_then(|exit| self.parts.queues.get_mut(exit.index())) {
            Some(queue) => {
                let records = packets.iter().filter_map(|packet| match packet.step {
                    Step::Done(Verdict::Forward(slot)) => Some(Record { slot, ip_length: packet.ip_length }),
                    _ => None,
                });
                send(queue, &mut self.rx, records, &self.parts.counters);
            }
            None => self.sort(port),
        }
    }

    /// Pass 6, where the frames of the burst do not all leave by one port: each into the lane of its port, to the
    /// control thread, or dropped.
    #[inline(never)]
    fn sort(&mut self, port: PortId) {
        let counters = &self.parts.counters;
        for (frame, packet) in self.rx.drain(..).zip(self.packets.iter()) {
            let (frame, reason) = match packet.step {
                Step::Done(Verdict::Forward(slot)) => {
                    let destination = self.parts.mailbox.current().destinations.get(slot as usize);
                    match destination.and_then(|destination| self.tx.get_mut(destination.port.index())) {
                        Some(lane) => {
                            lane.frames.push(frame);
                            lane.records.push(Record { slot, ip_length: packet.ip_length });
                            continue;
                        }
                        // The control thread gives no real server a port that does not exist.
                        None => (frame, DropReason::NoRealServer),
                    }
                }
                Step::Done(Verdict::Punt(queue)) => match self.parts.host.punt(queue, port, frame) {
                    Ok(()) => {
                        counters.punted.add(1);
                        continue;
                    }
                    Err(frame) => (frame, DropReason::PuntQueueFull),
                },
                Step::Done(Verdict::Drop(reason)) => (frame, reason),
                // Pass 4 leaves none behind.
                Step::Flow => (frame, DropReason::NoConnection),
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

    /// Worker 0: sends a burst of the control thread's frames.
    #[cold]
    pub(super) fn send_for_control(&mut self) {
        let parts = &mut self.parts;
        // No further than what is whole in the queue: the queue would make this thread wait for a push under way.
        let whole = parts.host.outgoing_queued().wrapping_sub(self.outgoing_taken);
        for _ in 0..whole.min(BURST as u64) {
            let Some((port, frame)) = parts.host.next_outgoing() else {
                break;
            };
            self.outgoing_taken += 1;
            let mut burst = Burst::<Q::Frame>::new();
            burst.push(frame);
            let sent = parts.queues.get_mut(port.index()).map_or(0, |queue| queue.transmit(&mut burst));
            if sent == 1 {
                parts.counters.control_sent.add(1);
            } else {
                parts.counters.control_not_sent.add(1);
            }
        }
    }
}

/// Pass 5: rewrites the frames that are forwarded. The port by which all of the burst leaves, where there is one.
#[inline(always)]
fn rewrite<F: Frame>(frames: &mut Burst<F>, packets: &[Packet], snapshot: &Snapshot) -> Option<PortId> {
    let mut exit = None;
    let mut all_leave_by_it = true;
    for (frame, packet) in frames.iter_mut().zip(packets) {
        let destination = match packet.step {
            Step::Done(Verdict::Forward(slot)) => snapshot.destinations.get(slot as usize),
            _ => None,
        };
        match destination {
            Some(destination) => {
                direct_routing::rewrite(frame.bytes_mut(), destination);
                all_leave_by_it &= *exit.get_or_insert(destination.port) == destination.port;
            }
            None => all_leave_by_it = false,
        }
    }
    exit.filter(|_| all_leave_by_it)
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
            counters.packets.add(1);
            counters.bytes.add(u64::from(record.ip_length));
        }
    }
    counters.dropped[DropReason::TxFull as usize].add(frames.len() as u64);
    Q::Frame::free_burst(frames);
}
