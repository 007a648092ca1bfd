//! How other threads read a worker's connections: straight from the table, without the worker doing anything for it.
//!
//! Owns a share of the table's memory, which therefore outlives the worker as long as somebody reads. Entries never
//! move, so a scan of all entries sees each connection that lives through it exactly once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::{Connection, ConnectionFlags, Entry};
use super::key::{Ipv6Pair, Tuple};
use crate::atomic::{AtomicU32, AtomicU64, Memory};
use crate::dpdk::prefetch::prefetch;
use crate::dpdk::region::{Pages, RegionError};

/// The entries of a table, shared by the worker that writes them and those who read. The one at index 0 is never used.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) slots: Memory<Entry>,
    /// The addresses of IPv6 connections, at their entries' indices; none where the table takes none.
    pairs: Option<Memory<PairEntry>>,
    /// Entries from 1 to this one were ever used; only grows.
    touched: AtomicU32,
}

/// An [`Ipv6Pair`] in the table. Written before its entry is occupied, as the other words of the entry are.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(32))]
pub(crate) struct PairEntry([AtomicU64; 4]);

impl PairEntry {
    #[inline(always)]
    pub(crate) fn load(&self) -> Ipv6Pair {
        let PairEntry(words) = self;
        Ipv6Pair::from_words(std::array::from_fn(|word| words[word].load(Acquire)))
    }

    pub(crate) fn store(&self, pair: &Ipv6Pair) {
        self.0.iter().zip(pair.words()).for_each(|(word, value)| word.store(*value, Release));
    }
}

impl Entries {
    pub(super) fn new(capacity: usize, has_ipv6: bool, pages: Pages) -> Result<Entries, RegionError> {
        let pairs = has_ipv6.then(|| Memory::new(capacity + 1, pages)).transpose()?;
        Ok(Entries { slots: Memory::new(capacity + 1, pages)?, pairs, touched: AtomicU32::new(0) })
    }

    /// It takes connections of IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.pairs.is_some()
    }

    /// Memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.slots) + self.pairs.as_ref().map_or(0, |pairs| size_of_val(&**pairs))
    }

    /// The addresses at this index are these.
    #[inline(always)]
    pub(super) fn pair_is(&self, index: u32, pair: &Ipv6Pair) -> bool {
        self.pair(index) == *pair
    }

    /// The addresses at this index.
    #[inline(always)]
    pub(super) fn pair(&self, index: u32) -> Ipv6Pair {
        let pairs = self.pairs.as_ref().and_then(|pairs| pairs.get(index as usize));
        pairs.map_or(Ipv6Pair::NONE, PairEntry::load)
    }

    /// Starts loading them.
    #[inline(always)]
    pub(super) fn prefetch_pair(&self, index: u32) {
        if let Some(pair) = self.pairs.as_ref().and_then(|pairs| pairs.get(index as usize)) {
            prefetch(pair);
        }
    }

    /// Worker: puts addresses there.
    pub(super) fn set_pair(&self, index: u32, pair: &Ipv6Pair) {
        if let Some(entry) = self.pairs.as_ref().and_then(|pairs| pairs.get(index as usize)) {
            entry.store(pair);
        }
    }

    /// The connection at this index, for any thread.
    fn record(&self, index: usize) -> Option<Record> {
        let entry = self.slots.get(index)?;
        let (connection, (pair, reply)) = entry.copy(|connection| {
            let pair = match connection.key.is_ipv6() {
                true => self.pair(index as u32),
                false => Ipv6Pair::NONE,
            };
            let is_translated = connection.flags.contains(ConnectionFlags::TRANSLATED);
            (pair, connection.link.filter(|_| is_translated).and_then(|reply| self.reply(reply)))
        })?;
        Some(Record { connection: Connection { pair, ..connection }, reply })
    }

    /// What a companion is found by.
    fn reply(&self, index: u32) -> Option<Tuple> {
        let key = self.slots.get(index as usize)?.key();
        Some(key.tuple(&self.pair(index)))
    }
}

/// A connection as a listing shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The connection.
    pub connection: Connection,
    /// By which its replies are known, where its addresses are translated: "client" is the real server.
    pub reply: Option<Tuple>,
}

impl Record {
    /// Client and virtual service.
    pub fn tuple(&self) -> Tuple {
        self.connection.key.tuple(&self.connection.pair)
    }
}

impl Entries {
    pub(super) fn capacity(&self) -> u32 {
        self.slots.len() as u32 - 1
    }

    /// Worker: how many were ever used.
    #[inline(always)]
    pub(super) fn touched(&self) -> u32 {
        self.touched.load(Relaxed)
    }

    /// Worker: one that was never used.
    pub(super) fn touch(&self) -> Option<NonZeroU32> {
        let touched = self.touched();
        let next = NonZeroU32::MIN.saturating_add(touched);
        (touched < self.capacity()).then(|| {
            self.touched.store(next.get(), Release);
            next
        })
    }
}

/// Reads the connections of one worker's table, from any thread.
#[derive(Clone, Debug)]
pub struct TableReader {
    entries: Arc<Entries>,
}

impl TableReader {
    pub(super) fn new(entries: Arc<Entries>) -> TableReader {
        TableReader { entries }
    }

    /// Connections that the table can hold.
    pub fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    /// No connection is at this index or a later one; grows up to one more than the capacity.
    pub fn used_bound(&self) -> u32 {
        self.entries.touched.load(Acquire) + 1
    }

    /// The connections among the entries `from` to `from + count`, each as it was at one instant. One that opens or
    /// closes meanwhile may be there or not; one that is over but not yet swept is there.
    pub fn read(&self, from: u32, count: u32) -> impl Iterator<Item = Record> + '_ {
        let end = from.saturating_add(count).min(self.used_bound());
        (from as usize..end as usize).filter_map(|index| self.entries.record(index))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::clock::Ticks;
    use crate::connection::{ConnectionFlags, ConnectionState, ConnectionTable, FlowKey};

    const LASTING: u32 = 16;
    const PASSING: u32 = 4;
    const STATES: [ConnectionState; 4] = [
        ConnectionState::SynReceived,
        ConnectionState::Established,
        ConnectionState::FinWait,
        ConnectionState::Udp,
    ];

    /// Every field says whose and which this is; `step` is what a packet changes.
    fn connection(number: u32, life: u32, step: u32) -> Connection {
        let [a, b, c, d] = number.to_be_bytes();
        Connection {
            key: FlowKey::new([10, a, b, c], [192, 0, 2, 10], [4, d], [0, 80], 6),
            state: STATES[step as usize % STATES.len()],
            flags: ConnectionFlags((number ^ life) as u8 & 1),
            expires: Ticks((number << 8) + step % 256),
            destination: life << 16 | number,
            link: Some(life ^ 5),
            ..Connection::default()
        }
    }

    fn number(copy: &Connection) -> u32 {
        let (number, life) = (copy.destination & 0xffff, copy.destination >> 16);
        assert_eq!(*copy, connection(number, life, copy.expires.0 % 256), "torn");
        number
    }

    fn remove(table: &mut ConnectionTable, number: u32) {
        let key = connection(number, 0, 0).key;
        let hash = table.hash(&key);
        let removed =
            table.hit(&key, &Ipv6Pair::NONE, hash, None).map(|hit| hit.id()).map(|id| table.remove(id));
        assert!(removed.is_some());
    }

    fn insert(table: &mut ConnectionTable, connection: Connection) {
        let hash = table.hash(&connection.key);
        table.insert(connection, hash).unwrap();
    }

    /// Connections that last among others that come and go, in the same entries as fast as can be: some with the key that
    /// their entry had before, some with another.
    fn churn(table: &mut ConnectionTable, stop: &AtomicBool) {
        let mut passing: VecDeque<u32> = (LASTING..LASTING + PASSING).collect();
        let (mut life, mut step) = (0_u32, 0);
        while !stop.load(Relaxed) {
            life = (life + 1) % 0xffff;
            step += 1;
            if let Some(oldest) = passing.pop_front() {
                let next = if life.is_multiple_of(3) { oldest } else { LASTING + life % (2 * PASSING) };
                let next = if passing.contains(&next) { oldest } else { next };
                remove(table, oldest);
                insert(table, connection(next, life, step));
                passing.push_back(next);
            }
            let lasting = connection(step % LASTING, 0, step);
            let hash = table.hash(&lasting.key);
            let mut hit = table.hit(&lasting.key, &Ipv6Pair::NONE, hash, None).unwrap();
            hit.update(lasting.state, lasting.expires);
        }
    }

    #[test]
    fn reader_of_a_churning_table_sees_no_torn_entry_and_each_lasting_one_once() {
        let mut table = ConnectionTable::new(LASTING + PASSING, crate::dpdk::region::Pages::Any).unwrap();
        for number in 0..LASTING + PASSING {
            let mixed = number * 7 % (LASTING + PASSING);
            insert(&mut table, connection(mixed, 0, 0));
        }
        let (reader, stop) = (table.reader(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| churn(&mut table, &stop));
            for _ in 0..100_000 {
                let mut seen = [0; LASTING as usize];
                for from in (0..reader.used_bound()).step_by(7) {
                    for Record { connection: copy, .. } in reader.read(from, 7) {
                        if let Some(times) = seen.get_mut(number(&copy) as usize) {
                            *times += 1;
                        }
                    }
                }
                assert_eq!(seen, [1; LASTING as usize]);
            }
            stop.store(true, Relaxed);
        });
    }

    #[test]
    fn reader_outlives_the_table_and_reads_what_it_left() {
        let mut table = ConnectionTable::new(100, crate::dpdk::region::Pages::Any).unwrap();
        let reader = table.reader();
        assert_eq!((reader.capacity(), reader.used_bound(), reader.read(0, u32::MAX).count()), (100, 1, 0));
        (0..60).for_each(|number| insert(&mut table, connection(number, 1, 2)));
        (0..60).step_by(3).for_each(|number| remove(&mut table, number));
        drop(table);
        assert_eq!(reader.used_bound(), 61);
        let mut seen: Vec<_> = (0..100)
            .step_by(7)
            .flat_map(|from| {
                reader.clone().read(from, 7).map(|copy| number(&copy.connection)).collect::<Vec<_>>()
            })
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..60).filter(|number| number % 3 != 0).collect::<Vec<_>>());
    }
}
