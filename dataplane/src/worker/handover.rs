//! Packets of a connection that another worker has: each worker finds out whose a packet is and hands the frame over, as it came.
//!
//! With NAT the real server's packets have other addresses than the client's, so the NIC puts them on any queue. A packet that no
//! virtual service wants is looked for in the other workers' tables ([`TableLookup`]), all at once, so that it waits for memory
//! once or twice however many workers there are. With full NAT no search is needed: the local port, modulo the number of workers, is
//! the owner's index.
//!
//! Each worker has one bounded inbox that all others fill; a full one is a counted drop. The owner looks at one number a round,
//! on a cache line that is written only when something comes, so that a worker without NAT pays nothing else. A packet is handed
//! over once: its owner judges it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::{Packet, Round, Step, Worker, lookup};
use crate::clock::Ticks;
use crate::connection::lookup::LocalKey;
use crate::connection::{ConnectionTable, FlowKey, Ipv6Pair, TableLookup};
use crate::port::{BURST, QueuePair};
use crate::verdict::{HandOver, PacketKind};

/// Frames that may wait in an inbox.
pub const INBOX_CAPACITY: usize = 1024;
/// Frames that a worker takes over in one round: no more than it receives of two ports, so that its own do not overflow meanwhile.
const TAKEN_PER_ROUND: usize = 2 * BURST;
/// Seconds after the last packet of a rare kind of connections for which there may still be such.
const RARE_SECONDS: i32 = 3600;
/// Tables that are looked at side by side.
const AT_ONCE: usize = 16;

/// What a worker knows of the others.
#[derive(Debug)]
pub struct Peers<F> {
    index: u32,
    /// Of all workers, by index.
    tables: Box<[TableLookup]>,
    shared: Arc<Shared<F>>,
    /// Frames that were ever taken out of the inbox.
    taken: u64,
}

#[derive(Debug)]
struct Shared<F> {
    /// Of all workers, by index.
    inboxes: Box<[Inbox<F>]>,
    /// Some worker has had a translated connection.
    translates: CachePadded<AtomicBool>,
    /// A connection that was opened for a fragmented datagram.
    fragmented: LastSeen,
    /// One of FTP behind NAT.
    ftp: LastSeen,
}

/// When some worker last had a packet of a rare kind of connections, in seconds; 0: never.
#[derive(Debug, Default)]
struct LastSeen(CachePadded<AtomicU32>);

impl LastSeen {
    /// Written once a second, so that the line stays where it is read.
    #[inline]
    fn see(&self, now_seconds: u32) {
        let now_seconds = now_seconds.max(1);
        if self.0.load(Ordering::Relaxed) != now_seconds {
            self.0.store(now_seconds, Ordering::Relaxed);
        }
    }

    /// There may be such connections.
    #[inline]
    fn is_recent(&self, now_seconds: u32) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        seen != 0 && now_seconds.wrapping_sub(seen) as i32 <= RARE_SECONDS
    }
}

#[derive(Debug)]
struct Inbox<F> {
    frames: ArrayQueue<Handed<F>>,
    /// Frames that were ever put in: looking into an empty `ArrayQueue` costs a fence.
    queued: CachePadded<AtomicU64>,
}

/// A frame with what its parser knows of it.
#[derive(Debug)]
struct Handed<F> {
    packet: Packet,
    frame: F,
}

impl<F> Peers<F> {
    /// For each worker the others, `tables` being all workers' in their order.
    pub fn among(tables: &[ConnectionTable]) -> Vec<Peers<F>> {
        let capacity = if tables.len() > 1 { INBOX_CAPACITY } else { 1 };
        let inbox = |_: &ConnectionTable| Inbox {
            frames: ArrayQueue::new(capacity),
            queued: CachePadded::new(AtomicU64::new(0)),
        };
        let inboxes = tables.iter().map(inbox).collect();
        let shared = Arc::new(Shared {
            inboxes,
            translates: CachePadded::new(AtomicBool::new(false)),
            fragmented: LastSeen::default(),
            ftp: LastSeen::default(),
        });
        let lookups: Box<[_]> = tables.iter().map(ConnectionTable::lookup).collect();
        let of = |index| Peers { index, tables: lookups.clone(), shared: shared.clone(), taken: 0 };
        (0..tables.len() as u32).map(of).collect()
    }

    /// How many workers there are.
    pub fn workers(&self) -> u32 {
        self.tables.len() as u32
    }

    /// A connection of this worker is translated.
    #[inline]
    pub(super) fn has_translated(&self) {
        // Written once, so that the line stays where it is read.
        if !self.shared.translates.load(Ordering::Relaxed) {
            self.shared.translates.store(true, Ordering::Relaxed);
        }
    }

    /// There may be translated connections.
    #[inline]
    pub(super) fn translate(&self) -> bool {
        self.shared.translates.load(Ordering::Relaxed)
    }

    /// A datagram in fragments opened a connection of this worker.
    pub(super) fn has_fragmented(&self, now_seconds: u32) {
        self.shared.fragmented.see(now_seconds);
    }

    /// This worker had a packet of FTP behind NAT.
    pub(super) fn has_ftp(&self, now_seconds: u32) {
        self.shared.ftp.see(now_seconds);
    }

    /// Some worker may have data connections of FTP behind NAT.
    pub(super) fn have_ftp(&self, now_seconds: u32) -> bool {
        self.shared.ftp.is_recent(now_seconds)
    }

    /// The other worker whose connection a whole datagram is of, because fragments opened it there: the NIC spreads fragments by their
    /// addresses alone.
    #[inline]
    pub(super) fn owner_of_fragmented(
        &self,
        key: &FlowKey,
        pair: &Ipv6Pair,
        now_seconds: u32,
    ) -> Option<u32> {
        if !self.shared.fragmented.is_recent(now_seconds) {
            return None;
        }
        let owner = self.owner_of(key, pair)?;
        self.has_fragmented(now_seconds);
        Some(owner)
    }

    /// The other worker whose table has an entry of `key`, which is as the table of this worker knows it.
    pub(super) fn owner_of(&self, key: &FlowKey, pair: &Ipv6Pair) -> Option<u32> {
        let mut first = 0;
        for tables in self.tables.chunks(AT_ONCE) {
            let mut keys = [LocalKey::default(); AT_ONCE];
            for (prepared, table) in keys.iter_mut().zip(tables) {
                *prepared = table.prepare(key, pair);
            }
            let mut others = (first..).zip(tables.iter().zip(&keys)).filter(|(of, _)| *of != self.index);
            if let Some((owner, _)) = others.find(|(_, (table, key))| table.holds(key, pair)) {
                return Some(owner);
            }
            first += AT_ONCE as u32;
        }
        None
    }

    /// The other worker that a packet to this local port is of.
    pub(super) fn owner_of_local_port(&self, port: u16) -> Option<u32> {
        let owner = u32::from(port) % self.workers().max(1);
        (owner != self.index).then_some(owner)
    }

    /// Puts a frame into another worker's inbox, or gives it back where that is full.
    pub(super) fn hand_over(&self, to: HandOver, packet: &Packet, frame: F) -> Result<(), F> {
        let Some(inbox) = self.shared.inboxes.get(usize::from(to.worker)) else { return Err(frame) };
        let step = match to.kind {
            PacketKind::Flow => Step::Flow,
            PacketKind::Fragment => Step::Fragment,
            PacketKind::Other => Step::Other,
        };
        let packet = Packet { step, is_taken_over: true, candidate: None, ..*packet };
        inbox.frames.push(Handed { packet, frame }).map_err(|handed| handed.frame)?;
        inbox.queued.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Frames that wait in this worker's inbox.
    #[inline(always)]
    fn waiting(&self) -> u64 {
        let inbox = self.shared.inboxes.get(self.index as usize);
        inbox.map_or(0, |inbox| inbox.queued.load(Ordering::Acquire).wrapping_sub(self.taken))
    }

    fn take(&mut self) -> Option<Handed<F>> {
        let handed = self.shared.inboxes.get(self.index as usize)?.frames.pop()?;
        self.taken = self.taken.wrapping_add(1);
        Some(handed)
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// Judges what other workers handed over since the last round, as far as a round reaches; the rest waits for the next one.
    #[inline(always)]
    pub(super) fn take_over(&mut self, now: Ticks, now_seconds: u32) {
        let waiting = self.parts.peers.waiting();
        if waiting > 0 {
            self.take_over_waiting(waiting, now, now_seconds);
        }
    }

    #[inline(never)]
    fn take_over_waiting(&mut self, waiting: u64, now: Ticks, now_seconds: u32) {
        let mut left = (waiting as usize).min(TAKEN_PER_ROUND);
        while left > 0 {
            for packet in self.packets.iter_mut().take(left.min(BURST)) {
                let Some(handed) = self.parts.peers.take() else { break };
                *packet = handed.packet;
                packet.key = packet.key.under(self.parts.connections.seed(), &packet.pair);
                self.rx.push(handed.frame);
            }
            let count = self.rx.len();
            if count == 0 {
                return;
            }
            left -= count.min(left);
            self.parts.counters.taken_over.add(count as u64);
            self.judge_burst(now, now_seconds);
            self.packets.iter_mut().take(count).for_each(|packet| packet.is_taken_over = false);
        }
    }

    /// Passes 2 to 7 over the parsed burst in `rx`.
    #[inline(always)]
    pub(super) fn judge_burst(&mut self, now: Ticks, now_seconds: u32) {
        let packets = &mut self.packets[..self.rx.len()];
        lookup::hash(packets, &self.parts.connections);
        lookup::find_candidates(packets, &self.parts.connections);
        let round = Round {
            parts: &mut self.parts,
            admission: &mut self.admission,
            local_ports: &mut self.local_ports,
            streams: &mut self.streams,
            frames: &mut self.rx,
            originated: &mut self.originated,
            fragments: &mut self.fragments,
            icmp_allowance: &mut self.icmp_allowance,
            now,
            now_seconds,
        };
        lookup::resolve(packets, round);
        self.dispose(now, now_seconds);
        self.forward_released(now, now_seconds);
        self.send_originated();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_recent_for_an_hour() {
        let last = LastSeen::default();
        assert!(!last.is_recent(0) && !last.is_recent(u32::MAX));
        for now in [0, 1, 5000, u32::MAX - 10] {
            last.see(now);
            assert!(last.is_recent(now.max(1)) && last.is_recent(now.wrapping_add(3600)), "{now}");
            assert!(!last.is_recent(now.max(1).wrapping_add(3601)), "{now}");
        }
    }
}
