//! What `lblc` and `lblcr` remember: for each destination address the RSs that serve it, most of the time the few
//! VIPs of a service, at most 1024 addresses. Shared by all workers and by all versions of a service.
//!
//! An entry is read and replaced whole, without waiting: its version is odd while a worker writes it, and a read
//! between two different versions is no read. A worker that meets another's write goes on without the cache; one
//! that wants to write what has changed since it read leaves it as it is.
//!
//! RSs are remembered by [`Incarnations`], numbers that are never given twice, so that an RS that is gone is not taken
//! for a later one in its slot, neither by this version of the list nor by a worker that still decides on the last.
//!
//! Invariant: what [`Cache::find`] returns of an entry was written by one [`Place::write`] for that address.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::hash::{fold, hash_32};
use crate::sync::{AtomicU32, AtomicU64, fence};
use crate::{RealServer, Request};

/// The kernel's buckets (`CONFIG_IP_VS_LBLC_TAB_BITS`), here with one entry each.
const BITS: u32 = 10;
/// The model checker needs addresses that meet, and few atomics.
const ENTRIES: usize = if cfg!(loom) { 1 } else { 1 << BITS };
/// How many entries from its own on an address may be found in.
const PROBES: usize = 8;

/// The RSs of one destination, by incarnation, the one added last first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set<const N: usize> {
    length: usize,
    members: [u32; N],
    /// When an RS was last added or removed.
    pub(crate) modified_seconds: u32,
}

impl<const N: usize> Set<N> {
    /// Of nobody.
    pub(crate) fn empty(now_seconds: u32) -> Self {
        Set { length: 0, members: [0; N], modified_seconds: now_seconds }
    }

    pub(crate) fn members(&self) -> &[u32] {
        self.members.get(..self.length).unwrap_or(&self.members)
    }

    /// Removes where `is_kept` does not hold.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(u32) -> bool) {
        let mut kept = Set { length: 0, ..*self };
        for &member in self.members().iter().filter(|&&member| is_kept(member)) {
            if let Some(place) = kept.members.get_mut(kept.length) {
                *place = member;
                kept.length += 1;
            }
        }
        *self = kept;
    }

    /// Adds in front; false if it is full.
    pub(crate) fn insert(&mut self, member: u32) -> bool {
        if self.length >= N {
            return false;
        }
        self.members.copy_within(..self.length, 1);
        self.length += 1;
        if let Some(front) = self.members.first_mut() {
            *front = member;
        }
        true
    }
}

/// Destination addresses with up to `N` RSs each.
#[derive(Debug)]
pub(crate) struct Cache<const N: usize> {
    entries: Box<[Entry<N>]>,
    /// The next number that no RS had. Control thread.
    next_incarnation: AtomicU32,
}

#[derive(Debug)]
struct Entry<const N: usize> {
    /// Odd while it is being written.
    version: AtomicU32,
    last_use_seconds: AtomicU32,
    modified_seconds: AtomicU32,
    /// Members; 0: the entry was never used.
    length: AtomicU32,
    /// The address as IPv6.
    address: [AtomicU64; 2],
    members: [AtomicU32; N],
}

/// Where an address is remembered or can be: one entry at one version.
#[derive(Debug)]
pub(crate) struct Place<'a, const N: usize> {
    entry: &'a Entry<N>,
    version: u32,
}

impl<const N: usize> Cache<N> {
    pub(crate) fn new() -> Self {
        let entry = |_| Entry {
            version: AtomicU32::new(0),
            last_use_seconds: AtomicU32::new(0),
            modified_seconds: AtomicU32::new(0),
            length: AtomicU32::new(0),
            address: [AtomicU64::new(0), AtomicU64::new(0)],
            members: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        Cache { entries: (0..ENTRIES).map(entry).collect(), next_incarnation: AtomicU32::new(0) }
    }

    /// The place of the request's destination, and its set if it is remembered and was used within
    /// `expiration_seconds`. No place: another worker is just writing it.
    #[inline]
    pub(crate) fn find(
        &self,
        request: &Request,
        expiration_seconds: u32,
    ) -> (Option<Place<'_, N>>, Option<Set<N>>) {
        let address = words(request.vip);
        let home = hash_32(fold(request.vip), BITS) as usize % ENTRIES;
        let (before, from_home) = self.entries.split_at_checked(home).unwrap_or((&self.entries, &[]));
        let mut replaced: Option<(Place<'_, N>, u32)> = None;
        for entry in from_home.iter().chain(before).take(PROBES) {
            let version = entry.version.load(Acquire);
            let is_address = entry.address_words() == address;
            let idle_seconds = request.seconds_since(entry.last_use_seconds.load(Relaxed));
            let is_used = entry.length.load(Relaxed) > 0;
            if is_address && is_used {
                let set = entry.read();
                // Between the two looks at the version lies everything that was read.
                fence(Acquire);
                if version % 2 == 1 || entry.version.load(Relaxed) != version {
                    return (None, None);
                }
                let is_fresh = idle_seconds < expiration_seconds;
                return (Some(Place { entry, version }), is_fresh.then_some(set));
            }
            let idle_seconds = if is_used { idle_seconds } else { u32::MAX };
            let is_better = replaced.as_ref().is_none_or(|&(_, idlest)| idle_seconds > idlest);
            if version % 2 == 0 && is_better {
                replaced = Some((Place { entry, version }, idle_seconds));
            }
            if !is_used {
                break;
            }
        }
        (replaced.map(|(place, _)| place), None)
    }

    /// A number for an RS that had none yet. Control thread.
    fn incarnate(&self) -> u32 {
        self.next_incarnation.fetch_add(1, Relaxed)
    }
}

impl<const N: usize> Entry<N> {
    fn address_words(&self) -> [u64; 2] {
        let [high, low] = &self.address;
        [high.load(Relaxed), low.load(Relaxed)]
    }

    fn read(&self) -> Set<N> {
        let length = (self.length.load(Relaxed) as usize).min(N);
        let mut members = [0; N];
        let from = self.members.iter().take(length);
        members.iter_mut().zip(from).for_each(|(member, from)| *member = from.load(Relaxed));
        Set { length, members, modified_seconds: self.modified_seconds.load(Relaxed) }
    }
}

impl<const N: usize> Place<'_, N> {
    /// The destination was asked for.
    #[inline]
    pub(crate) fn touch(&self, request: &Request) {
        // Written once a second at most, so that the cache line stays shared.
        if self.entry.last_use_seconds.load(Relaxed) != request.now_seconds {
            self.entry.last_use_seconds.store(request.now_seconds, Relaxed);
        }
    }

    /// Remembers the set for the request's destination, if nobody else has written here since the place was found.
    pub(crate) fn write(self, request: &Request, set: &Set<N>) {
        let Place { entry, version } = self;
        let writing = version.wrapping_add(1);
        if entry.version.compare_exchange(version, writing, Acquire, Relaxed).is_err() {
            return;
        }
        // Whoever reads one of these also sees that the version is odd, or a later one.
        fence(Release);
        for (word, value) in entry.address.iter().zip(words(request.vip)) {
            word.store(value, Relaxed);
        }
        for (member, &value) in entry.members.iter().zip(&set.members) {
            member.store(value, Relaxed);
        }
        entry.length.store(set.length as u32, Relaxed);
        entry.modified_seconds.store(set.modified_seconds, Relaxed);
        entry.last_use_seconds.store(request.now_seconds, Relaxed);
        entry.version.store(version.wrapping_add(2), Release);
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// The numbers of the RSs of one version of a list: each RS has its own from its addition to its removal, and no
/// other RS of the service ever has it.
#[derive(Debug)]
pub(crate) struct Incarnations {
    /// In the order of the list.
    numbers: Box<[u32]>,
    /// Number and index, ascending.
    indices: Box<[(u32, u32)]>,
}

impl Incarnations {
    /// For a list without a predecessor. Control thread.
    pub(crate) fn new<const N: usize>(cache: &Cache<N>, list: &[RealServer]) -> Self {
        Incarnations::of_numbers(list.iter().map(|_| cache.incarnate()).collect())
    }

    /// For the list `new` that replaces `old`, whose numbers these are. Control thread.
    pub(crate) fn carried_over<const N: usize>(
        &self,
        cache: &Cache<N>,
        old: &[RealServer],
        new: &[RealServer],
    ) -> Self {
        let number = |real_server: &RealServer| {
            let index = old.iter().position(|survivor| survivor.is_same_as(real_server));
            index.and_then(|index| self.of(index)).unwrap_or_else(|| cache.incarnate())
        };
        Incarnations::of_numbers(new.iter().map(number).collect())
    }

    fn of_numbers(numbers: Box<[u32]>) -> Self {
        let mut indices: Box<[(u32, u32)]> = numbers.iter().copied().zip(0..).collect();
        indices.sort_unstable();
        Incarnations { numbers, indices }
    }

    /// The number of the RS at this index of the list.
    #[inline]
    pub(crate) fn of(&self, index: usize) -> Option<u32> {
        self.numbers.get(index).copied()
    }

    /// The index of the RS with this number; `None` if it is gone.
    #[inline]
    pub(crate) fn index_of(&self, number: u32) -> Option<usize> {
        let place = self.indices.binary_search_by_key(&number, |&(number, _)| number).ok()?;
        self.indices.get(place).map(|&(_, index)| index as usize)
    }
}
