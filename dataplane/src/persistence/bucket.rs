//! A bucket of the template table: one cache line that names up to fourteen templates. Workers change it, any thread
//! reads it.
//!
//! Everything that decides which templates a bucket names is one atomic word, [`Links`]: which ways are live, which are
//! claimed by a worker that prepares a template there, and a version that each change of the live ones increments. So a
//! worker that has looked for a key under some `Links` and then publishes its own template by compare-and-swap from just
//! these has, if that succeeds, looked at all there was: **two templates of one key are never live at once**. If it
//! fails, it looks again. Nobody waits for a worker that stops between claim and publication; it only keeps a way.
//!
//! A way's name is written by the worker that claimed it, before publication, and by nobody while it is live. A thread
//! that still has older `Links` may read the name of a way that has been unlinked and claimed again: it asks
//! [`Bucket::names`] once the template that it found cannot change any more.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::atomic::{AtomicU32, AtomicU64};

/// Templates that a bucket can name.
pub(super) const WAYS: usize = 14;
/// Templates that can be named: a name has 24 bits for the entry's index.
pub(super) const NAMES_MAX: u32 = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 24;
const ALL: u64 = (1 << WAYS) - 1;
const CLAIMED_SHIFT: u32 = WAYS as u32;
/// One version further.
const VERSION: u64 = 1 << (2 * WAYS);

/// Which ways of a bucket are live and which claimed, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links(u64);

/// What a way says: the index of an entry and eight bits of its key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name(u32);

#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(super) struct Bucket {
    links: AtomicU64,
    names: [AtomicU32; WAYS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

impl Name {
    pub(super) fn new(index: u32, hash: u64) -> Name {
        Name(index | Name::tag(hash) << INDEX_BITS)
    }

    /// Index of the entry.
    pub(super) fn index(self) -> u32 {
        self.0 % NAMES_MAX
    }

    /// It may be of a key with this hash.
    pub(super) fn suits(self, hash: u64) -> bool {
        self.0 >> INDEX_BITS == Name::tag(hash)
    }

    fn tag(hash: u64) -> u32 {
        (hash >> 56) as u32
    }
}

impl Links {
    /// The ways that name a template.
    pub(super) fn live(self) -> impl Iterator<Item = usize> {
        (0..WAYS).filter(move |way| self.0 >> way & 1 != 0)
    }

    /// A way that is neither live nor claimed.
    pub(super) fn free_way(self) -> Option<usize> {
        let free = !(self.0 | self.0 >> CLAIMED_SHIFT) & ALL;
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    /// A worker is about to publish a template here, or to withdraw it.
    pub(super) fn has_claimed(self) -> bool {
        self.0 >> CLAIMED_SHIFT & ALL != 0
    }

    fn claimed(way: usize) -> u64 {
        1 << way << CLAIMED_SHIFT
    }
}

impl Bucket {
    pub(super) fn links(&self) -> Links {
        Links(self.links.load(Acquire))
    }

    /// What a live way says, or what it said or will say where it is no longer live.
    pub(super) fn name(&self, way: usize) -> Name {
        Name(self.names[way].load(Acquire))
    }

    /// The way is live and says `name`.
    pub(super) fn names(&self, way: usize, name: Name) -> bool {
        self.links().0 >> way & 1 != 0 && self.name(way) == name
    }

    /// Takes a free way, if the bucket is still as in `links`; the links as they are then.
    pub(super) fn claim(&self, links: Links, way: usize) -> Option<Links> {
        let claimed = Links(links.0 | Links::claimed(way));
        self.change(links, claimed).then_some(claimed)
    }

    /// Gives a claimed way back.
    pub(super) fn unclaim(&self, way: usize) {
        self.links.fetch_and(!Links::claimed(way), AcqRel);
    }

    /// Makes a claimed way say `name`.
    pub(super) fn set_name(&self, way: usize, name: Name) {
        self.names[way].store(name.0, Release);
    }

    /// Makes a claimed way live, if the bucket is still as in `links`.
    pub(super) fn publish(&self, links: Links, way: usize) -> bool {
        let published = (links.0 & !Links::claimed(way) | 1 << way).wrapping_add(VERSION);
        self.change(links, Links(published))
    }

    /// Frees the live way that names entry `index`. Only for the one thread that has ended or invalidated the template.
    pub(super) fn unlink(&self, index: u32) {
        let Some(way) = self.links().live().find(|&way| self.name(way).index() == index) else {
            debug_assert!(false, "a template is linked until it is ended");
            return;
        };
        let mut links = self.links();
        while !self.change(links, Links((links.0 & !(1 << way)).wrapping_add(VERSION))) {
            links = self.links();
        }
    }

    fn change(&self, from: Links, to: Links) -> bool {
        self.links.compare_exchange(from.0, to.0, AcqRel, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Bucket {
        zerocopy::FromZeros::new_zeroed()
    }

    #[test]
    fn bucket_names_fourteen_and_frees_what_is_unlinked() {
        let bucket = bucket();
        for index in 0..WAYS as u32 {
            let links = bucket.links();
            let way = links.free_way().unwrap();
            let claimed = bucket.claim(links, way).unwrap();
            assert!(claimed.has_claimed() && claimed.live().count() == index as usize);
            bucket.set_name(way, Name::new(NAMES_MAX - 1 - index, u64::MAX));
            assert!(bucket.publish(claimed, way));
        }
        assert_eq!(bucket.links().free_way(), None);
        bucket.unlink(NAMES_MAX - 1 - 5);
        assert_eq!(bucket.links().free_way(), Some(5));
        assert_eq!(bucket.links().live().count(), WAYS - 1);
        assert!(!bucket.links().has_claimed());
        assert!(!bucket.names(5, bucket.name(5)) && bucket.names(6, bucket.name(6)));
    }

    #[test]
    fn publication_fails_after_any_other_change_of_the_live_ways() {
        let bucket = bucket();
        let publish = |index| {
            let way = bucket.links().free_way().unwrap();
            let claimed = bucket.claim(bucket.links(), way).unwrap();
            bucket.set_name(way, Name::new(index, 0));
            assert!(bucket.publish(claimed, way));
        };
        let claimed = bucket.claim(bucket.links(), 0).unwrap();
        publish(7);
        bucket.unlink(7);
        assert!(!bucket.publish(claimed, 0), "the same ways, but somebody was there meanwhile");
        assert!(bucket.publish(bucket.links(), 0));
    }
}
