//! How other threads read a worker's connections: straight from the table, without the worker doing anything for it.
//!
//! Owns a share of the table's memory, which therefore outlives the worker as long as somebody reads. Entries never
//! move, so a scan of all entries sees each connection that lives through it exactly once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::{Connection, Entry};
use crate::atomic::{AtomicU32, Memory};
use crate::dpdk::region::{Pages, RegionError};

/// The entries of a table, shared by the worker that writes them and those who read. The one at index 0 is never used.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) slots: Memory<Entry>,
    /// Entries from 1 to this one were ever used; only grows.
    touched: AtomicU32,
}

impl Entries {
    pub(super) fn new(capacity: usize, pages: Pages) -> Result<Entries, RegionError> {
        Ok(Entries { slots: Memory::new(capacity + 1, pages)?, touched: AtomicU32::new(0) })
    }

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
    pub fn read(&self, from: u32, count: u32) -> impl Iterator<Item = Connection> + '_ {
        let end = from.saturating_add(count).min(self.used_bound());
        let entries = self.entries.slots.get(from as usize..end as usize).unwrap_or_default();
        entries.iter().filter_map(Entry::copy)
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
            flags: ConnectionFlags((number ^ life) as u8),
            expires: Ticks((number << 8) + step % 256),
            destination: life << 16 | number,
            template: Some(life ^ 5),
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
        let removed = table.hit(&key, hash, None).map(|hit| hit.id()).map(|id| table.remove(id));
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
            let mut hit = table.hit(&lasting.key, hash, None).unwrap();
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
                    for copy in reader.read(from, 7) {
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
            .flat_map(|from| reader.clone().read(from, 7).map(|copy| number(&copy)).collect::<Vec<_>>())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..60).filter(|number| number % 3 != 0).collect::<Vec<_>>());
    }
}
