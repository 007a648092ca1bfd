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
use crate::{Places, RealServer, Request};

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
        let places = Places::of(old);
        let number = |real_server: &RealServer| {
            let index = places.find(real_server);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{real_servers, request, without};

    fn to(vip: u32, now_seconds: u32) -> Request {
        Request { vip: std::net::Ipv4Addr::from_bits(vip).into(), now_seconds, ..request() }
    }

    fn set_of<const N: usize>(members: &[u32]) -> Set<N> {
        let mut set = Set::empty(0);
        members.iter().rev().for_each(|&member| assert!(set.insert(member)));
        set
    }

    fn remember(cache: &Cache<4>, request: &Request, members: &[u32]) {
        cache.find(request, 60).0.unwrap().write(request, &set_of(members));
    }

    fn remembered(cache: &Cache<4>, request: &Request) -> Option<Vec<u32>> {
        cache.find(request, 60).1.map(|set| set.members().to_vec())
    }

    #[test]
    fn set_keeps_its_order_and_its_bound() {
        let mut set: Set<3> = set_of(&[5, 6, 7]);
        assert_eq!(set.members(), [5, 6, 7]);
        assert!(!set.insert(8));
        set.retain(|member| member != 6);
        assert_eq!(set.members(), [5, 7]);
        assert!(set.insert(8));
        assert_eq!(set.members(), [8, 5, 7]);
    }

    #[test]
    fn cache_remembers_each_destination_until_it_expires() {
        let cache = Cache::new();
        assert_eq!(remembered(&cache, &to(1, 0)), None);
        remember(&cache, &to(1, 0), &[5, 6]);
        remember(&cache, &to(2, 0), &[7]);
        assert_eq!(remembered(&cache, &to(1, 59)), Some(vec![5, 6]));
        assert_eq!(remembered(&cache, &to(2, 59)), Some(vec![7]));
        assert_eq!(remembered(&cache, &to(3, 59)), None);
        cache.find(&to(1, 59), 60).0.unwrap().touch(&to(1, 59));
        assert_eq!(remembered(&cache, &to(1, 60)), Some(vec![5, 6]), "touched");
        assert_eq!(remembered(&cache, &to(2, 60)), None, "not touched");
        assert_eq!(remembered(&cache, &to(1, 58)), Some(vec![5, 6]), "a clock that is behind");
    }

    #[test]
    fn cache_tells_ipv4_from_ipv6_of_the_same_hash() {
        let cache = Cache::new();
        let v6 = Request { vip: "::102:304".parse().unwrap(), ..request() };
        remember(&cache, &to(0x0102_0304, 0), &[1]);
        remember(&cache, &v6, &[2]);
        assert_eq!(remembered(&cache, &to(0x0102_0304, 0)), Some(vec![1]));
        assert_eq!(remembered(&cache, &v6), Some(vec![2]));
    }

    #[test]
    fn cache_that_is_full_forgets_the_idlest_of_eight() {
        let cache = Cache::new();
        let home = |vip: u32| hash_32(vip, BITS);
        let same: Vec<u32> = (1..).filter(|&vip| home(vip) == home(1)).take(PROBES + 1).collect();
        for (second, &vip) in same[..PROBES].iter().enumerate() {
            remember(&cache, &to(vip, 10 - second as u32), &[vip]);
        }
        assert!(same[..PROBES].iter().all(|&vip| remembered(&cache, &to(vip, 20)).is_some()));
        remember(&cache, &to(same[PROBES], 20), &[99]);
        assert_eq!(remembered(&cache, &to(same[PROBES], 20)), Some(vec![99]));
        let forgotten: Vec<_> =
            same[..PROBES].iter().filter(|&&vip| remembered(&cache, &to(vip, 20)).is_none()).collect();
        assert_eq!(forgotten, [&same[PROBES - 1]]);
    }

    #[test]
    fn cache_entry_that_changed_since_it_was_found_is_left_alone() {
        let cache = Cache::new();
        remember(&cache, &to(1, 0), &[1]);
        let late = cache.find(&to(1, 0), 60).0.unwrap();
        remember(&cache, &to(1, 0), &[2]);
        late.write(&to(1, 0), &set_of(&[3]));
        assert_eq!(remembered(&cache, &to(1, 0)), Some(vec![2]));
    }

    #[test]
    fn cache_entry_that_is_being_written_is_passed_over() {
        let cache = Cache::new();
        remember(&cache, &to(1, 0), &[1]);
        let place = cache.find(&to(1, 0), 60).0.unwrap();
        place.entry.version.store(place.version + 1, Relaxed);
        let (place, set) = cache.find(&to(1, 0), 60);
        assert!(place.is_none() && set.is_none());
    }

    #[test]
    fn incarnation_of_a_survivor_stays_and_a_newcomer_in_its_slot_has_another() {
        let cache = Cache::<1>::new();
        let old = real_servers(&[1, 1, 1]);
        let first = Incarnations::new(&cache, &old);
        let shorter = without(&old, &[1]);
        let second = first.carried_over(&cache, &old, &shorter);
        assert_eq!([second.of(0), second.of(1), second.of(2)], [first.of(0), first.of(2), None]);
        let mut again = old.clone();
        again[1].address = IpAddr::from([10, 9, 9, 9]);
        let third = second.carried_over(&cache, &shorter, &again);
        assert_eq!(third.of(0), first.of(0));
        assert_ne!(third.of(1), first.of(1));
        assert_eq!(third.index_of(first.of(1).unwrap()), None);
        let at_once = first.carried_over(&cache, &old, &again);
        assert_eq!(at_once.index_of(first.of(1).unwrap()), None, "deleted and replaced in one step");
        assert_eq!(third.index_of(third.of(1).unwrap()), Some(1));
    }
}
