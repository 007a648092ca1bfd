//! How a configuration reaches the workers without stopping them.
//!
//! The control thread owns the [`Publisher`], each worker a [`MailboxReader`]. A worker looks at one generation
//! number a burst, on a cache line that is written only when the configuration changes. When it differs, it takes the
//! new snapshot out of its slot and hands the old one back through a queue, so that a snapshot is always freed on the
//! control thread. Both ends only ever *try* the slot's lock: a worker that finds it taken goes on with the snapshot that it
//! has and looks again after the next burst, so that it waits for nobody, however long the control thread is off its CPU. A worker has taken over generation N when it says so in `running`: it does
//! that between two bursts, so from then on none of its packets sees an older snapshot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

/// Snapshots that may wait in a worker's retired queue. The publisher empties it at each publication and the worker
/// takes nothing new while it is full.
const RETIRED_CAPACITY: usize = 4;

#[derive(Debug)]
struct Mailbox<T> {
    /// Generation of the newest snapshot put into `incoming`. Written by the publisher.
    published: CachePadded<AtomicU64>,
    /// Generation that the worker runs. Written by the worker.
    running: CachePadded<AtomicU64>,
    incoming: Mutex<Option<(u64, Arc<T>)>>,
    retired: ArrayQueue<Arc<T>>,
}

impl<T> Mailbox<T> {
    /// Replaces what waits in the slot. Tries until it has the lock, which a worker holds for a few instructions: one
    /// that blocked would leave it to the worker to wake it, which is a system call.
    fn put(&self, generation: u64, snapshot: Arc<T>) {
        loop {
            match self.incoming.try_lock() {
                Ok(mut slot) => {
                    let overtaken = slot.replace((generation, snapshot));
                    drop(slot);
                    drop(overtaken);
                    return;
                }
                // Nobody panics with the lock in hand.
                Err(TryLockError::Poisoned(_)) => return,
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }
}

/// The control thread's end: one mailbox a worker.
#[derive(Debug)]
pub struct Publisher<T> {
    mailboxes: Vec<Arc<Mailbox<T>>>,
    generation: u64,
}

/// A worker's end.
#[derive(Debug)]
pub struct MailboxReader<T> {
    mailbox: Arc<Mailbox<T>>,
    current: Arc<T>,
    generation: u64,
}

impl<T> Publisher<T> {
    /// Mailboxes for `workers` workers that start with `first` as generation 1.
    pub fn new(first: Arc<T>, workers: usize) -> (Self, Vec<MailboxReader<T>>) {
        let mailboxes: Vec<_> = (0..workers)
            .map(|_| {
                Arc::new(Mailbox {
                    published: CachePadded::new(AtomicU64::new(1)),
                    running: CachePadded::new(AtomicU64::new(1)),
                    incoming: Mutex::new(None),
                    retired: ArrayQueue::new(RETIRED_CAPACITY),
                })
            })
            .collect();
        let readers = mailboxes
            .iter()
            .map(|mailbox| MailboxReader { mailbox: mailbox.clone(), current: first.clone(), generation: 1 })
            .collect();
        (Publisher { mailboxes, generation: 1 }, readers)
    }

    /// Gives every worker `snapshot` and returns its generation. A worker that has not taken the one before never
    /// sees it.
    pub fn publish(&mut self, snapshot: Arc<T>) -> u64 {
        self.generation += 1;
        for mailbox in &self.mailboxes {
            mailbox.put(self.generation, snapshot.clone());
            // Release: a worker that sees the number finds the snapshot.
            mailbox.published.store(self.generation, Ordering::Release);
        }
        self.reclaim();
        self.generation
    }

    /// Newest generation published.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Generation that each worker runs.
    pub fn running(&self) -> impl Iterator<Item = u64> + '_ {
        self.mailboxes.iter().map(|mailbox| mailbox.running.load(Ordering::Acquire))
    }

    /// Every worker runs `generation` or a newer one, so nothing reads an older snapshot any more.
    pub fn runs_everywhere(&self, generation: u64) -> bool {
        self.running().all(|running| running >= generation)
    }

    /// Frees the snapshots that workers have handed back.
    pub fn reclaim(&mut self) {
        for mailbox in &self.mailboxes {
            while mailbox.retired.pop().is_some() {}
        }
    }
}

impl<T> MailboxReader<T> {
    /// The snapshot to use for the next burst.
    #[inline]
    pub fn current(&self) -> &T {
        &self.current
    }

    /// The generation of [`MailboxReader::current`].
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes over a newer snapshot where there is one; true when it did. Call between bursts.
    #[inline]
    pub fn refresh(&mut self) -> bool {
        self.mailbox.published.load(Ordering::Acquire) != self.generation && self.take_over()
    }

    #[cold]
    fn take_over(&mut self) -> bool {
        if self.mailbox.retired.is_full() {
            return false;
        }
        let Some((generation, snapshot)) =
            self.mailbox.incoming.try_lock().ok().and_then(|mut slot| slot.take())
        else {
            return false;
        };
        let old = std::mem::replace(&mut self.current, snapshot);
        self.generation = generation;
        // This worker is the queue's only producer and it was not full, so nothing is refused (and freed) here.
        let refused = self.mailbox.retired.push(old);
        debug_assert!(refused.is_ok());
        self.mailbox.running.store(generation, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reader_takes_newest_snapshot_and_publisher_frees_the_old() {
        let first = Arc::new(1);
        let (mut publisher, mut readers) = Publisher::new(first.clone(), 2);
        let second = Arc::new(2);
        let generation = publisher.publish(second.clone());
        assert!(!publisher.runs_everywhere(generation));
        assert!(readers[0].refresh());
        assert!(!readers[0].refresh());
        assert!(!publisher.runs_everywhere(generation));
        publisher.publish(Arc::new(3));
        assert!(readers[1].refresh());
        assert_eq!(*readers[1].current(), 3, "generation 2 was overtaken");
        assert!(publisher.runs_everywhere(generation));
        publisher.reclaim();
        assert_eq!(Arc::strong_count(&first), 1, "freed by the publisher");
        assert_eq!(Arc::strong_count(&second), 2, "still run by reader 0");
    }

    #[test]
    fn reader_keeps_its_snapshot_while_the_publisher_reclaims_nothing() {
        let (mut publisher, mut readers) = Publisher::new(Arc::new(0), 1);
        for value in 1..=RETIRED_CAPACITY {
            publisher.mailboxes[0].put(value as u64 + 1, Arc::new(value));
            publisher.mailboxes[0].published.store(value as u64 + 1, Ordering::Release);
            assert!(readers[0].refresh());
        }
        publisher.mailboxes[0].put(9, Arc::new(9));
        publisher.mailboxes[0].published.store(9, Ordering::Release);
        assert!(!readers[0].refresh(), "the retired queue is full");
        publisher.reclaim();
        assert!(readers[0].refresh());
        assert_eq!(*readers[0].current(), 9);
    }

    #[test]
    fn concurrent_readers_never_see_a_freed_or_older_snapshot() {
        let (mut publisher, readers) = Publisher::new(Arc::new(0_u64), 3);
        std::thread::scope(|scope| {
            for mut reader in readers {
                scope.spawn(move || {
                    let mut last = 0;
                    while last < 2_000 {
                        reader.refresh();
                        assert!(*reader.current() >= last);
                        last = *reader.current();
                    }
                });
            }
            for value in 1..=2_000 {
                let generation = publisher.publish(Arc::new(value));
                while value % 100 == 0 && !publisher.runs_everywhere(generation) {
                    std::thread::yield_now();
                }
            }
        });
    }
}
