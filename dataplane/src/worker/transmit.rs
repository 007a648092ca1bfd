//! Passes 4 and 5: each frame goes where its verdict says, and is counted there.

use arrayvec::ArrayVec;

use super::{Packet, Step, Worker};
use crate::direct_routing;
use crate::port::{BURST, Burst, Frame, PortId, QueuePair};
use crate::snapshot::{Destination, DestinationState, Snapshot};
use crate::verdict::{DropReason, Verdict};

/// Times that a port which takes only part of a burst is offered the rest.
const RETRIES: usize = 3;

/// Frames that wait to be sent on one port, and for whom.
#[derive(Debug)]
pub(super) struct TxLane<F> {
    frames: Burst<F>,
    /// Destination slot and IP length of each frame.
    records: ArrayVec<(u32, u16), BURST>,
}

impl<F> Default for TxLane<F> {
    fn default() -> Self {
        TxLane { frames: Burst::new(), records: ArrayVec::new() }
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// Pass 4: rewrites the frames that are forwarded, punts or drops the others.
    #[inline(always)]
    pub(super) fn dispose(&mut self, port: PortId) {
        let counters = &self.parts.counters;
        let mut punted = 0;
        for (mut frame, packet) in self.rx.drain(..).zip(self.packets.iter()) {
            let verdict = match packet.step {
                Step::Destination(slot) => {
                    let snapshot = self.parts.mailbox.current();
                    match destination(snapshot, slot, packet) {
                        Ok(destination) => {
                            direct_routing::rewrite(frame.bytes_mut(), destination);
                            let lane = &mut self.tx[destination.port.index()];
                            lane.frames.push(frame);
                            lane.records.push((slot, packet.ip_length));
                            continue;
                        }
                        Err(reason) => Verdict::Drop(reason),
                    }
                }
                Step::Done(verdict) => verdict,
                // Pass 3 leaves none behind.
                Step::Flow => Verdict::Drop(DropReason::NoConnection),
            };
            let (frame, reason) = match verdict {
                Verdict::Drop(reason) => (frame, reason),
                _ => match self.parts.host.punt(port, frame) {
                    Ok(()) => {
                        punted += 1;
                        continue;
                    }
                    Err(frame) => (frame, DropReason::PuntQueueFull),
                },
            };
            counters.dropped[reason as usize].add(1);
            self.dropped.push(frame);
        }
        counters.punted.add(punted);
        F::<Q>::free_burst(&mut self.dropped);
    }

    /// Pass 5: sends what waits on each port. A frame that a port does not take is dropped.
    #[inline(always)]
    pub(super) fn transmit(&mut self) {
        let counters = &self.parts.counters;
        for (port, lane) in self.tx.iter_mut().enumerate() {
            if lane.frames.is_empty() {
                continue;
            }
            let sent = send(&mut self.parts.queues[port], &mut lane.frames);
            counters.forwarded.add(sent as u64);
            counters.ports[port].sent.add(sent as u64);
            for &(slot, ip_length) in &lane.records[..sent] {
                if let Some(counters) = counters.destinations.get(slot as usize) {
                    counters.packets.add(1);
                    counters.bytes.add(u64::from(ip_length));
                }
            }
            counters.dropped[DropReason::TxFull as usize].add(lane.frames.len() as u64);
            F::<Q>::free_burst(&mut lane.frames);
            lane.records.clear();
        }
    }

    /// Worker 0: sends a burst of the control thread's frames.
    #[cold]
    pub(super) fn send_for_control(&mut self) {
        let parts = &mut self.parts;
        for _ in 0..BURST {
            let Some((port, frame)) = parts.host.next_outgoing() else {
                break;
            };
            self.outgoing_taken += 1;
            let mut burst = Burst::<Q::Frame>::new();
            burst.push(frame);
            let sent = parts.queues.get_mut(port.index()).map_or(0, |queue| queue.transmit(&mut burst));
            if sent == 1 {
                parts.counters.control_sent.add(1);
                parts.counters.ports[port.index()].sent.add(1);
            } else {
                parts.counters.control_not_sent.add(1);
            }
        }
    }
}

type F<Q> = <Q as QueuePair>::Frame;

/// Where a packet for this slot goes, or why not.
#[inline(always)]
fn destination<'a>(
    snapshot: &'a Snapshot,
    slot: u32,
    packet: &Packet,
) -> Result<&'a Destination, DropReason> {
    match snapshot.destinations.get(slot as usize) {
        Some(destination) if destination.state == DestinationState::Forwarding => {
            if packet.ip_length <= destination.mtu { Ok(destination) } else { Err(DropReason::TooBig) }
        }
        Some(destination) if destination.state == DestinationState::Unresolved => {
            Err(DropReason::NoRealServer)
        }
        _ => Err(DropReason::RealServerRemoved),
    }
}

/// How many of `frames` the port took; the rest stays.
fn send<Q: QueuePair>(queue: &mut Q, frames: &mut Burst<Q::Frame>) -> usize {
    let mut sent = queue.transmit(frames);
    for _ in 0..RETRIES {
        if frames.is_empty() {
            break;
        }
        sent += queue.transmit(frames);
    }
    sent
}
