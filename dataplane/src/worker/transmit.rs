//! Passes 5 to 7: each frame goes where its verdict says, and is counted there.

use arrayvec::ArrayVec;

use super::fragmentation::{self, Whole};
use super::icmp_errors::{self, Reporter};
use super::outlet::{Outlet, send_one};
use super::tunnel::{self, Exit, Identifications, Rewritten};
use super::{Packet, Step, Worker, WorkerParts};
use crate::clock::Ticks;
use crate::counters::WorkerCounters;
use crate::host::Origin;
use crate::packet::{ethernet, vlan};
use crate::path_mtus::PathMtus;
use crate::port::{BURST, Burst, Frame, PortId, QueuePair};
use crate::snapshot::{Destination, ForwardingMethod, Snapshot, Way};
use crate::verdict::{DropReason, HandOver, Ready, Verdict};
use crate::{direct_routing, link_layer};

/// Times that a port which takes only part of a burst is offered the rest.
const RETRIES: usize = 3;

/// What is looked at of a frame lies within these bytes: no port cuts a frame into segments before.
const HEADERS_BYTES_MAX: usize = 1536;

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

impl<F> Default for TxLane<F> {
    fn default() -> Self {
        TxLane { frames: Burst::new(), records: ArrayVec::new() }
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// Passes 5 to 7 over the burst in `rx`, which is empty afterwards.
    #[inline(always)]
    pub(super) fn dispose(&mut self, now: Ticks, now_seconds: u32) {
        let packets = &mut self.packets[..self.rx.len()];
        let WorkerParts { queues, counters, mailbox, path_mtus, .. } = &mut self.parts;
        let snapshot = mailbox.current();
        let ways = Ways {
            outlet: Outlet { queues, originated: &mut self.originated, counters },
            snapshot,
            path_mtus,
            identifications: &mut self.identifications,
            now_seconds,
        };
        let exit = rewrite(&mut self.rx, packets, snapshot, ways);
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
        let WorkerParts { queues, counters, mailbox, host, peers, .. } = &mut self.parts;
        let snapshot = mailbox.current();
        for (mut frame, packet) in self.rx.drain(..).zip(self.packets.iter()) {
            if let Some(verdict) = packet.lost()
                && icmp_errors::is_told(verdict)
            {
                let mut reporter = Reporter {
                    outlet: Outlet {
                        queues: &mut *queues,
                        originated: &mut self.originated,
                        counters: &*counters,
                    },
                    snapshot,
                    allowance: &mut self.icmp_allowance,
                    now,
                };
                reporter.tell(verdict, packet, &frame);
            }
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
                    match host.punt(queue, packet.interface, frame) {
                        Ok(()) => {
                            counters.punted.add(1);
                            continue;
                        }
                        Err(frame) => (frame, DropReason::PuntQueueFull),
                    }
                }
                Step::Host => {
                    let rate = snapshot.options.host_packets_per_second;
                    let interface = snapshot.interfaces.get(packet.interface.index());
                    untag(&mut frame, packet);
                    match interface.is_some_and(|interface| host.may_take(interface.port, rate, now)) {
                        false => (frame, DropReason::HostRate),
                        true => match host.to_host(packet.interface, frame) {
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
                Step::InPieces => {
                    counters.forwarded.add(1);
                    count(counters, &record(packet));
                    self.dropped.push(frame);
                    continue;
                }
                Step::HandOver(kind) => {
                    let to = HandOver { worker: packet.slot as u16, kind };
                    match peers.hand_over(to, packet, frame) {
                        Ok(()) => {
                            counters.handed_over.add(1);
                            continue;
                        }
                        Err(frame) => (frame, DropReason::HandOverFull),
                    }
                }
                Step::Drop(reason) => (frame, reason),
                Step::TooBig => (frame, DropReason::TooBig),
                // Pass 4 leaves none of the first three behind, pass 5 not the last.
                Step::Flow | Step::Fragment | Step::Other | Step::ForwardInPieces => {
                    (frame, DropReason::NoConnection)
                }
            };
            counters.dropped[seen(&frame, reason) as usize].add(1);
            self.dropped.push(frame);
        }
        Q::Frame::free_burst(&mut self.dropped);
        for (lane, queue) in self.tx.iter_mut().zip(queues) {
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
        if !self.originated.is_empty() {
            let WorkerParts { queues, counters, .. } = &mut self.parts;
            Outlet { queues, originated: &mut self.originated, counters }.send();
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

/// Why a frame is dropped, where its first segment may end within its headers: then they may be good all the same.
fn seen<F: Frame>(frame: &F, reason: DropReason) -> DropReason {
    use DropReason::{
        BadExtensionHeader, BadFragment, BadSip, BadTransportHeader, IcmpIgnored, Truncated, WrongMac,
    };
    let first = frame.bytes().len();
    let is_cut = first < HEADERS_BYTES_MAX && first < frame.length();
    match reason {
        // To a group: whether it is neighbour discovery lies behind the IP header.
        Truncated | WrongMac | BadTransportHeader | BadExtensionHeader | BadFragment | BadSip
        | IcmpIgnored
            if is_cut =>
        {
            DropReason::NotContiguous
        }
        reason => reason,
    }
}

/// What is counted where the packet is sent.
#[inline(always)]
fn record(packet: &Packet) -> Record {
    Record {
        slot: packet.slot,
        ip_length: packet.ip_length,
        is_reply: packet.step != Step::Forward && packet.is_reply,
    }
}

/// Control thread and host get frames without the tag of their interface. One with two tags has both still where the port took the
/// outer one out.
fn untag<F: Frame>(frame: &mut F, packet: &Packet) {
    if let Some(tci) = frame.vlan_tci()
        && vlan::read(frame.bytes()).is_some_and(|tagging| tagging.tci.is_some())
        && frame.prepend(vlan::TAG_BYTES)
    {
        vlan::push(frame.bytes_mut(), tci);
    }
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
fn rewrite<Q: QueuePair>(
    frames: &mut Burst<Q::Frame>,
    packets: &mut [Packet],
    snapshot: &Snapshot,
    mut ways: Ways<Q>,
) -> Option<PortId> {
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
                ways.rewrite(frame, packet, destination);
                all_leave_by_it &= packet.step == Step::Forward;
            } else if packet.key.is_ipv6() {
                direct_routing::rewrite_ipv6(frame.bytes_mut(), destination);
            } else {
                direct_routing::rewrite(frame.bytes_mut(), destination);
            }
        } else if packet.step == Step::Forward {
            // The control thread gives a slot that is forwarded to a destination.
            packet.step = Step::Drop(DropReason::NoRealServer);
            all_leave_by_it = false;
            continue;
        } else if packet.step != Step::Ready {
            ways.cut_where_too_big(frame, packet);
            all_leave_by_it = false;
            continue;
        }
        all_leave_by_it &= *only.get_or_insert(packet.exit) == packet.exit;
    }
    only.filter(|_| all_leave_by_it)
}

/// What takes more than a plain frame does: a VLAN tag here or there, a tunnel, cutting.
struct Ways<'a, Q: QueuePair> {
    outlet: Outlet<'a, Q>,
    snapshot: &'a Snapshot,
    path_mtus: &'a PathMtus,
    identifications: &'a mut Identifications,
    now_seconds: u32,
}

impl<Q: QueuePair> Ways<'_, Q> {
    /// A frame that cannot be rewritten is dropped.
    #[inline(never)]
    fn rewrite(&mut self, frame: &mut Q::Frame, packet: &mut Packet, destination: &Destination) {
        let slot = packet.slot;
        let sent = match self.snapshot.ways.get(slot as usize) {
            Some(Way::Tunnel(tunnel)) => {
                let exit = Exit {
                    destination,
                    tunnel,
                    path_mtu: self.path_mtus.of(slot, self.now_seconds),
                    options: &self.snapshot.options,
                };
                tunnel::encapsulate(frame, packet, &exit, self.identifications)
            }
            _ => route_directly(frame, packet, destination),
        };
        match sent {
            Ok(sent) if sent.length <= usize::from(sent.mtu) => {}
            Ok(sent) => self.cut(frame, packet, &sent, slot, destination.port),
            Err(verdict) => packet.settle(verdict),
        }
    }

    /// Rewrites and cuts a packet that pass 4 found too big for its way.
    #[inline(never)]
    fn cut_where_too_big(&mut self, frame: &mut Q::Frame, packet: &mut Packet) {
        if packet.step == Step::ForwardInPieces
            && let Some(destination) = self.snapshot.destinations.get(packet.slot as usize)
        {
            self.rewrite(frame, packet, destination);
        }
    }

    #[cold]
    fn cut(&mut self, frame: &Q::Frame, packet: &mut Packet, sent: &Rewritten, slot: u32, port: PortId) {
        let whole = Whole {
            frame,
            ip_offset: sent.ip_offset,
            mtu: sent.mtu,
            identification: u32::from(self.identifications.next()) << 16 | u32::from(packet.hash as u16),
            port,
        };
        packet.settle(match fragmentation::cut(&whole, &mut self.outlet) {
            Ok(()) => Verdict::InPieces(Ready { slot, port, is_reply: false }),
            Err(reason) => Verdict::Drop(reason),
        });
    }
}

/// Direct routing over a VLAN, or of a packet that is to be cut.
fn route_directly<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    destination: &Destination,
) -> Result<Rewritten, Verdict> {
    if let Some(ip) = frame.bytes_mut().get_mut(usize::from(packet.ip_offset)..) {
        direct_routing::decrement_ttl(ip);
    }
    let ip_offset = link_layer::write(frame, packet.ip_offset.into(), &destination.macs, destination.vlan)
        .ok_or(Verdict::Drop(DropReason::NoHeadroom))?;
    Ok(Rewritten { ip_offset, length: packet.ip_length.into(), mtu: destination.mtu })
}

#[inline(always)]
fn count(counters: &WorkerCounters, record: &Record) {
    if let Some(counters) = counters.destinations.get(record.slot as usize) {
        let (packets, bytes) = match record.is_reply {
            false => (&counters.packets, &counters.bytes),
            true => (&counters.replies, &counters.reply_bytes),
        };
        packets.add(1);
        bytes.add(u64::from(record.ip_length));
    }
}

/// Pass 7: sends `frames`, all of which leave by one port, and counts them by their `records`. What the port does not take
/// is dropped; one that it cannot be given at all does not keep those behind it.
#[inline(always)]
fn send<Q: QueuePair>(
    queue: &mut Q,
    frames: &mut Burst<Q::Frame>,
    mut records: impl Iterator<Item = Record>,
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
    for record in records.by_ref().take(sent) {
        count(counters, &record);
    }
    if !frames.is_empty() {
        send_rest(queue, frames, records, counters);
    }
}

/// What is behind frames that the port cannot be given, which are dropped, as is what it does not take then.
#[cold]
#[inline(never)]
fn send_rest<Q: QueuePair>(
    queue: &mut Q,
    frames: &mut Burst<Q::Frame>,
    mut records: impl Iterator<Item = Record>,
    counters: &WorkerCounters,
) {
    let mut unfit: Burst<Q::Frame> = Burst::new();
    while frames.first().is_some_and(|frame| queue.is_unfit(frame)) {
        unfit.extend(frames.pop_at(0));
        records.next();
        let sent = queue.transmit(frames);
        counters.forwarded.add(sent as u64);
        records.by_ref().take(sent).for_each(|record| count(counters, &record));
    }
    counters.dropped[DropReason::TxFull as usize].add((unfit.len() + frames.len()) as u64);
    Q::Frame::free_burst(&mut unfit);
    Q::Frame::free_burst(frames);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryFrame, MemoryPort, MemoryPortConfig, MemoryQueuePair};
    use crate::port::FramePool;

    /// A port that cannot be given frames of more than 100 bytes.
    struct Narrow(MemoryQueuePair);

    impl QueuePair for Narrow {
        type Frame = MemoryFrame;

        fn receive(&mut self, _burst: &mut Burst<MemoryFrame>) {}

        fn transmit(&mut self, burst: &mut Burst<MemoryFrame>) -> usize {
            let fit = burst.iter().take_while(|frame| !self.is_unfit(frame)).count();
            let mut offered: Burst<MemoryFrame> = burst.drain(..fit).collect();
            let sent = self.0.transmit(&mut offered);
            offered.extend(burst.drain(..));
            *burst = offered;
            sent
        }

        fn is_unfit(&self, frame: &MemoryFrame) -> bool {
            frame.length() > 100
        }

        fn allocate(&mut self) -> Option<MemoryFrame> {
            None
        }
    }

    #[test]
    fn frame_that_the_port_cannot_be_given_does_not_keep_those_behind_it() {
        let (port, mut pairs) = MemoryPort::new(MemoryPortConfig::default());
        let mut queue = Narrow(pairs.remove(0));
        let counters = WorkerCounters::new(8);
        for lengths in [&[60, 200, 61, 62, 201, 202, 63][..], &[200], &[60, 200], &[200, 60]] {
            let frames = lengths.iter().map(|&length| port.pool().frame(&vec![0; length]).unwrap());
            let mut burst: Burst<MemoryFrame> = frames.collect();
            let record = |(slot, length): (usize, &usize)| Record {
                slot: slot as u32,
                ip_length: *length as u16,
                is_reply: false,
            };
            let before = counters.dropped(DropReason::TxFull);
            send(&mut queue, &mut burst, lengths.iter().enumerate().map(record), &counters);
            assert!(burst.is_empty());
            let fit: Vec<usize> = lengths.iter().filter(|&&length| length <= 100).copied().collect();
            let sent: Vec<usize> = port.take_transmitted().iter().map(Vec::len).collect();
            assert_eq!(sent, fit);
            assert_eq!(counters.dropped(DropReason::TxFull) - before, (lengths.len() - fit.len()) as u64);
        }
        let packets: Vec<u64> = counters.destinations.iter().map(|of| of.packets.load()).collect();
        assert_eq!(packets, [2, 1, 1, 1, 0, 0, 1, 0]);
        assert_eq!(counters.forwarded.load(), 6);
        assert_eq!(port.pool().available(), port.pool().capacity());
    }
}
