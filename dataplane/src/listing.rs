//! How the control thread reads a worker's connections without touching its table.
//!
//! The control thread asks by raising `requested`; the worker then copies a bounded number of entries a round into a
//! bounded queue, waits while that is full, and says in `completed` when it has been through its whole table. A
//! connection that lives through all of this is listed exactly once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::snapshot::Protocol;

/// Rows that may wait for the control thread.
pub const LISTING_QUEUE_CAPACITY: usize = 8192;

/// A connection as it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// CIP.
    pub client_address: Ipv4Addr,
    /// Client's port.
    pub client_port: u16,
    /// VIP.
    pub virtual_address: Ipv4Addr,
    /// VIP's port.
    pub virtual_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// IPVS's name of its state.
    pub state: &'static str,
    /// Seconds until it expires, rounded up.
    pub expires_seconds: u32,
    /// Its real server's destination slot.
    pub destination: u32,
}

/// Shared by one worker and the control thread.
#[derive(Debug)]
pub struct Listing {
    requested: CachePadded<AtomicU64>,
    completed: CachePadded<AtomicU64>,
    rows: ArrayQueue<ConnectionRow>,
}

impl Listing {
    /// Nothing asked for.
    pub fn new() -> Arc<Self> {
        Arc::new(Listing {
            requested: CachePadded::new(AtomicU64::new(0)),
            completed: CachePadded::new(AtomicU64::new(0)),
            rows: ArrayQueue::new(LISTING_QUEUE_CAPACITY),
        })
    }

    /// Control: starts a listing and returns its number. Only one at a time: wait until
    /// [`Listing::is_complete`] and take every row before the next.
    pub fn request(&self) -> u64 {
        self.requested.fetch_add(1, Ordering::Release) + 1
    }

    /// Control: the worker has put all rows of listing `number` into the queue.
    pub fn is_complete(&self, number: u64) -> bool {
        self.completed.load(Ordering::Acquire) >= number
    }

    /// Control: the next row.
    pub fn next_row(&self) -> Option<ConnectionRow> {
        self.rows.pop()
    }

    /// Worker: number of the newest listing asked for.
    #[inline]
    pub(crate) fn requested(&self) -> u64 {
        self.requested.load(Ordering::Acquire)
    }

    /// Worker: rows that the queue still takes.
    pub(crate) fn free_rows(&self) -> usize {
        self.rows.capacity() - self.rows.len()
    }

    /// Worker: adds a row; look at [`Listing::free_rows`] first.
    pub(crate) fn push(&self, row: ConnectionRow) {
        let refused = self.rows.push(row);
        debug_assert!(refused.is_ok());
    }

    /// Worker: all rows of listing `number` are in the queue.
    pub(crate) fn complete(&self, number: u64) {
        self.completed.store(number, Ordering::Release);
    }
}
