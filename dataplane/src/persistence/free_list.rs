//! The entries that are no template: a stack through the entries themselves, shared by all workers.
//!
//! Its head is one word, index and version. The version changes with every push and pop, so that a worker that was held
//! up between reading the head and changing it does not put a next one in place that is long used.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::entry::Entry;
use crate::atomic::{AtomicU32, AtomicU64};

/// Index of no entry.
const END: u32 = u32::MAX;

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct FreeList {
    /// Version, index.
    head: AtomicU64,
    touched: Touched,
}

/// Entries from here on were never used; on a line that is hardly ever written.
#[derive(Debug)]
#[repr(align(64))]
struct Touched(AtomicU32);

impl FreeList {
    /// All of `entries` are free, the first one is used first.
    pub(super) fn new(entries: &[Entry]) -> FreeList {
        for (index, entry) in entries.iter().enumerate() {
            let next = index + 1;
            entry.set_next_free(if next < entries.len() { next as u32 } else { END });
        }
        FreeList { head: AtomicU64::new(0), touched: Touched(AtomicU32::new(0)) }
    }

    /// How many entries, from the first on, were ever used.
    pub(super) fn touched(&self) -> u32 {
        self.touched.0.load(Acquire)
    }

    /// Takes a free entry, which this thread then has to itself.
    pub(super) fn pop(&self, entries: &[Entry]) -> Option<u32> {
        loop {
            let head = self.head.load(Acquire);
            let index = head as u32;
            let next = entries.get(index as usize)?.next_free();
            if self.change(head, next) {
                if index >= self.touched() {
                    self.touched.0.fetch_max(index + 1, AcqRel);
                }
                return Some(index);
            }
        }
    }

    /// Puts an entry back that this thread has to itself.
    pub(super) fn push(&self, entries: &[Entry], index: u32) {
        let Some(entry) = entries.get(index as usize) else { return };
        loop {
            let head = self.head.load(Acquire);
            entry.set_next_free(head as u32);
            if self.change(head, index) {
                return;
            }
        }
    }

    fn change(&self, from: u64, index: u32) -> bool {
        let version = (from >> 32).wrapping_add(1) << 32;
        self.head.compare_exchange(from, version | u64::from(index), AcqRel, Relaxed).is_ok()
    }
}
