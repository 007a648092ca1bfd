//! The buckets of the connection table: one cache line each, eight 16-bit tags and eight 32-bit indices of entries.
//!
//! The worker that owns the table is the only writer. Other workers read them to find out whose connection a packet is
//! of ([`super::lookup`]): what they see is a hint, because a connection may come, go or change its bucket meanwhile. So all words
//! are atomic, read relaxed by the owner. They are the real atomics in a model of loom too, which tries what must hold.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};

use zerocopy::{FromZeros, transmute};

use crate::dpdk::lanes::equal_lanes;
use crate::dpdk::prefetch::prefetch;
use crate::dpdk::region::{Pages, Region, RegionError};

/// Connections that a bucket can name.
pub(super) const WAYS: usize = 8;
/// Tags in one word.
const TAGS: usize = 4;

/// A bucket.
#[derive(Debug, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Upper bits of the hash, four to a word in the order of memory; never 0 where the way is used.
    tags: [AtomicU64; WAYS / TAGS],
    entries: [AtomicU32; WAYS],
    /// Connections whose home this is and which are in their alternate.
    strayed: AtomicU32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// The ways that have this tag.
    #[inline(always)]
    pub(super) fn ways_with(&self, tag: u16) -> Ways {
        let [first, second] = &self.tags;
        let words = [first.load(Relaxed), second.load(Relaxed)];
        Ways(equal_lanes(&transmute!(words), tag))
    }

    /// The entry that a way names.
    #[inline(always)]
    pub(super) fn entry(&self, way: usize) -> u32 {
        self.entries[way % WAYS].load(Relaxed)
    }

    /// The same, for other threads.
    pub(super) fn entry_seen(&self, way: usize) -> u32 {
        self.entries[way % WAYS].load(Acquire)
    }

    /// How many ways name an entry.
    pub(super) fn used(&self) -> usize {
        WAYS - self.ways_with(0).count()
    }

    /// A way that names none.
    pub(super) fn free_way(&self) -> Option<usize> {
        self.ways_with(0).first()
    }

    /// Owner: has a way name an entry, which is occupied already.
    pub(super) fn name(&self, way: usize, tag: u16, index: u32) {
        self.entries[way % WAYS].store(index, Release);
        self.set_tag(way, tag);
    }

    /// Owner: frees a way.
    pub(super) fn clear(&self, way: usize) {
        self.set_tag(way, 0);
    }

    /// Owner: frees the way that names entry `index`; false where none does.
    pub(super) fn forget(&self, index: u32) -> bool {
        let free = self.ways_with(0);
        let named = (0..WAYS).find(|&way| !free.has(way) && self.entry(way) == index);
        named.inspect(|&way| self.clear(way)).is_some()
    }

    fn set_tag(&self, way: usize, tag: u16) {
        let Some(word) = self.tags.get(way / TAGS) else { return };
        let mut tags: [u16; TAGS] = transmute!(word.load(Relaxed));
        tags[way % TAGS] = tag;
        word.store(transmute!(tags), Release);
    }

    /// Connections whose home this is and which are in their alternate.
    #[inline(always)]
    pub(super) fn strayed(&self) -> u32 {
        self.strayed.load(Relaxed)
    }

    /// Owner: one more.
    pub(super) fn stray(&self) {
        self.strayed.store(self.strayed().wrapping_add(1), Release);
    }

    /// Owner: one less.
    pub(super) fn come_home(&self) {
        self.strayed.store(self.strayed().wrapping_sub(1), Release);
    }
}

/// All buckets of a table.
#[derive(Debug)]
pub(super) struct Buckets(Region<Bucket>);

impl Buckets {
    /// Free ones, two at least.
    pub(super) fn new(count: usize, pages: Pages) -> Result<Buckets, RegionError> {
        Ok(Buckets(Region::new(count.max(2), pages)?))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Memory that they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bucket> {
        self.0.iter()
    }

    /// The bucket with this index.
    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> &Bucket {
        &self.0[index]
    }

    /// Starts loading the bucket that a lookup of `hash` looks at first.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.at(self.home(hash)));
    }

    /// Where a connection of this hash belongs.
    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> usize {
        self.index(hash as u32)
    }

    /// Where it goes where home is crowded.
    #[inline(always)]
    pub(super) fn alternate(&self, hash: u64) -> usize {
        let home = self.home(hash);
        let alternate = self.index((hash >> 20) as u32);
        if alternate != home {
            return alternate;
        }
        if home + 1 < self.len() { home + 1 } else { 0 }
    }

    /// Maps 32 bits evenly to a bucket without dividing.
    #[inline(always)]
    fn index(&self, bits: u32) -> usize {
        ((u64::from(bits) * self.len() as u64) >> 32) as usize
    }
}

/// The upper 16 bits of the hash; 0 marks a free way.
#[inline(always)]
pub(super) fn tag(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// A set of ways of a bucket, as [`equal_lanes`] gives it: bit 2n stands for way n.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways(u32);

impl Ways {
    #[inline(always)]
    pub(super) fn first(self) -> Option<usize> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as usize / 2 % WAYS)
    }

    #[inline(always)]
    pub(super) fn skip_first(&mut self) {
        self.0 &= self.0.wrapping_sub(1);
    }

    fn has(self, way: usize) -> bool {
        self.0 >> (2 * way) & 1 != 0
    }

    fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_named_found_and_freed() {
        let buckets = Buckets::new(2, Pages::Any).unwrap();
        let bucket = buckets.at(0);
        assert_eq!((bucket.used(), bucket.free_way()), (0, Some(0)));
        for way in 0..WAYS {
            bucket.name(way, 1000 + way as u16 % 3, 70 + way as u32);
            assert_eq!(bucket.used(), way + 1);
        }
        assert_eq!(bucket.free_way(), None);
        let mut ways = bucket.ways_with(1001);
        let mut found = Vec::new();
        while let Some(way) = ways.first() {
            found.push(bucket.entry(way));
            ways.skip_first();
        }
        assert_eq!(found, [71, 74, 77]);
        assert!(bucket.forget(74) && !bucket.forget(74) && !bucket.forget(99));
        assert_eq!((bucket.used(), bucket.free_way()), (7, Some(4)));
    }
}
