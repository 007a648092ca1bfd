//! How other threads read a worker's connections: straight from the table, without the worker doing anything for it.
//!
//! Owns a share of the table's memory, which therefore outlives the worker as long as somebody reads. Entries never
//! move, so a scan of all entries sees each connection that lives through it exactly once.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::entry::{Connection, Entry};
use crate::dpdk::region::Region;

/// The entries of a table, shared by the worker that writes them and those who read.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) slots: Region<Entry>,
    /// Entries from here on were never used; only grows.
    touched: AtomicU32,
}

impl Entries {
    pub(super) fn new(slots: Region<Entry>) -> Entries {
        Entries { slots, touched: AtomicU32::new(0) }
    }

    /// Worker: entries that were ever used.
    #[inline(always)]
    pub(super) fn touched(&self) -> u32 {
        self.touched.load(Relaxed)
    }

    /// Worker: an entry that was never used.
    pub(super) fn touch(&self) -> Option<u32> {
        let next = self.touched();
        let is_there = (next as usize) < self.slots.len();
        is_there.then(|| {
            self.touched.store(next + 1, Release);
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
        self.entries.slots.len() as u32
    }

    /// Entries that were ever used: no connection is at this index or a later one.
    pub fn used_bound(&self) -> u32 {
        self.entries.touched.load(Acquire)
    }

    /// The connections among the entries `from` to `from + count`, each as it was at one instant. One that opens or
    /// closes meanwhile may be there or not; one that is over but not yet swept is there.
    pub fn read(&self, from: u32, count: u32) -> impl Iterator<Item = Connection> + '_ {
        let end = from.saturating_add(count).min(self.used_bound());
        let entries = self.entries.slots.get(from as usize..end as usize).unwrap_or_default();
        entries.iter().filter_map(Entry::copy)
    }
}
