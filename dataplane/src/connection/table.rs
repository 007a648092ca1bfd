//! The connection table of one worker: fixed capacity, allocated at start, never rehashed, never grown.
//!
//! Two arrays. A bucket is one cache line: eight 16-bit tags and eight 32-bit indices of entries, so that a lookup is
//! one prefetchable line plus the entry. A connection belongs into the bucket that its hash names (home) and goes to a
//! second one (alternate) only where home is nearly full; home counts those, so that a miss looks at the alternate
//! only when somebody went there. Where both are full, one of their connections changes to its other bucket. Entries never
//! move. Free entries form a list through the entries themselves.
//!
//! Invariant: an entry is in exactly one bucket, home or alternate of its key's hash, or an extension, or free; `used` counts
//! all but the last.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::bucket::{Bucket, Buckets, WAYS, tag};
use super::entry::{Connection, Entry, Standing};
use super::key::{FlowKey, FlowSeed, Ipv6Pair};
use super::reader::{Entries, TableReader};
use super::state::ConnectionState;
use crate::clock::{TICKS_PER_SECOND, Ticks};
use crate::dpdk::prefetch::prefetch;
use crate::dpdk::region::{Backing, Pages, RegionError};

/// Connections for each bucket at full capacity. Half of the ways, so that with two buckets for each connection, and one
/// of sixteen others that may change its bucket, the table takes as many as it has entries.
const CONNECTIONS_PER_BUCKET: usize = 4;
/// A connection goes to its alternate bucket from this many in its home on, where the alternate has fewer.
const HOME_IS_CROWDED: usize = 7;
/// Every entry is looked at for expiry this often.
const SWEEP_TICKS: u32 = 2 * TICKS_PER_SECOND;
/// Entries looked at in one round, at most: no more than a burst has packets, so that a round in which all of them expire
/// stays a short one.
const SWEEP_ENTRIES_PER_ROUND: u32 = 32;
/// Largest capacity: 2^28 connections are 13 GB.
pub const CAPACITY_MAX: u32 = 1 << 28;

#[cfg(not(loom))]
const _: () = assert!(
    size_of::<Entry>() + size_of::<Bucket>() / CONNECTIONS_PER_BUCKET == 48,
    "a connection costs 48 bytes"
);

/// The connections of one worker.
#[derive(Debug)]
pub struct ConnectionTable {
    seed: FlowSeed,
    pub(super) buckets: Arc<Buckets>,
    /// Those that were never used are not in the list of free ones.
    pub(super) entries: Arc<Entries>,
    first_free: Option<ConnectionId>,
    /// Entries that are used.
    pub(super) used: u32,
    /// Companions among them.
    pub(super) companions: u32,
    sweep_at: u32,
    /// Entries to look at that are due, in units of 1 / [`SWEEP_TICKS`] entries.
    sweep_due: u64,
    swept: Ticks,
}

/// An index of an entry that holds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub(super) NonZeroU32);

/// The connection of a packet: found once, then read and moved without looking for its entry again.
#[derive(Debug)]
pub struct Hit<'a> {
    id: ConnectionId,
    key: FlowKey,
    entry: &'a Entry,
}

/// No room: every entry is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

impl ConnectionTable {
    /// An empty table for `capacity` connections, 1 to [`CAPACITY_MAX`] (more is cut to that), every page of it
    /// touched, on the NUMA node of the calling thread's CPU.
    pub fn new(capacity: u32, pages: Pages) -> Result<ConnectionTable, RegionError> {
        ConnectionTable::with_families(capacity, false, pages)
    }

    /// The same, which takes connections of IPv6 too where `has_ipv6`, for 32 bytes each.
    pub fn with_families(
        capacity: u32,
        has_ipv6: bool,
        pages: Pages,
    ) -> Result<ConnectionTable, RegionError> {
        let capacity = capacity.clamp(1, CAPACITY_MAX) as usize;
        let buckets = capacity.div_ceil(CONNECTIONS_PER_BUCKET);
        Ok(ConnectionTable {
            seed: FlowSeed::random(),
            buckets: Arc::new(Buckets::new(buckets, pages)?),
            entries: Arc::new(Entries::new(capacity, has_ipv6, pages)?),
            first_free: None,
            used: 0,
            companions: 0,
            sweep_at: 0,
            sweep_due: 0,
            swept: Ticks::default(),
        })
    }

    /// Connections that it can hold.
    pub fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    /// Connections that it holds.
    pub fn len(&self) -> u32 {
        self.used - self.companions
    }

    /// It holds none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Every entry is used.
    pub fn is_full(&self) -> bool {
        self.used == self.capacity()
    }

    /// It takes connections of IPv6.
    pub fn has_ipv6(&self) -> bool {
        self.entries.has_ipv6()
    }

    /// What keys of IPv6 are made with.
    #[inline(always)]
    pub fn seed(&self) -> &FlowSeed {
        &self.seed
    }

    /// Buckets that its connections hash into.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// At most half of the entries are free.
    pub fn is_half_full(&self) -> bool {
        self.used >= self.capacity() / 2
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.buckets.bytes() + self.entries.bytes()
    }

    /// What its memory consists of.
    pub fn backing(&self) -> Backing {
        self.entries.slots.backing()
    }

    /// The hash that all lookups of this table start from.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.seed.hash(key)
    }

    /// Starts loading the bucket that a lookup of `hash` looks at first.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.buckets.prefetch(hash);
    }

    /// The entry that a lookup of `hash` will most likely find, already being loaded.
    #[inline(always)]
    pub fn prefetch_candidate(&self, hash: u64) -> Option<ConnectionId> {
        let bucket = self.buckets.at(self.buckets.home(hash));
        let index = bucket.entry(bucket.ways_with(tag(hash)).first()?);
        prefetch(self.entry(index));
        NonZeroU32::new(index).map(ConnectionId)
    }

    /// Starts loading the addresses of the entry at `id`, for a packet of IPv6.
    #[inline(always)]
    pub fn prefetch_pair(&self, id: ConnectionId) {
        self.entries.prefetch_pair(id.index());
    }

    /// The connection of `key`, whose hash is `hash`, for a packet that will read and move it; `pair` is looked at where the
    /// key is one of IPv6; `candidate` is what [`ConnectionTable::prefetch_candidate`] said, and may be outdated.
    #[inline(always)]
    pub fn hit(
        &mut self,
        key: &FlowKey,
        pair: &Ipv6Pair,
        hash: u64,
        candidate: Option<ConnectionId>,
    ) -> Option<Hit<'_>> {
        if let Some(id) = candidate
            && self.holds(id.index(), key, pair)
        {
            return Some(Hit { id, key: *key, entry: self.entry(id.index()) });
        }
        let id = self.find_anywhere(key, pair, hash)?;
        Some(Hit { id, key: *key, entry: self.entry(id.index()) })
    }

    /// The same without anything to prefetch it by.
    pub fn find(&self, key: &FlowKey, pair: &Ipv6Pair) -> Option<ConnectionId> {
        self.find_anywhere(key, pair, self.hash(key))
    }

    #[inline(always)]
    fn holds(&self, index: u32, key: &FlowKey, pair: &Ipv6Pair) -> bool {
        self.entry(index).is(key) && (!key.is_ipv6() || self.entries.pair_is(index, pair))
    }

    #[inline(never)]
    fn find_anywhere(&self, key: &FlowKey, pair: &Ipv6Pair, hash: u64) -> Option<ConnectionId> {
        let home = self.buckets.at(self.buckets.home(hash));
        self.find_in(home, key, pair, hash).or_else(|| {
            let alternate = || self.buckets.at(self.buckets.alternate(hash));
            (home.strayed() > 0).then(|| self.find_in(alternate(), key, pair, hash)).flatten()
        })
    }

    fn find_in(&self, bucket: &Bucket, key: &FlowKey, pair: &Ipv6Pair, hash: u64) -> Option<ConnectionId> {
        let mut ways = bucket.ways_with(tag(hash));
        while let Some(way) = ways.first() {
            let index = bucket.entry(way);
            if self.holds(index, key, pair) {
                return NonZeroU32::new(index).map(ConnectionId);
            }
            ways.skip_first();
        }
        None
    }

    /// The connection at `id`.
    #[inline(always)]
    pub fn connection(&self, id: ConnectionId) -> Connection {
        let connection = self.entry(id.index()).connection();
        let is_ipv6 = connection.key.is_ipv6();
        Connection {
            pair: if is_ipv6 { self.entries.pair(id.index()) } else { Ipv6Pair::NONE },
            ..connection
        }
    }

    /// Moves the state and the expiry of the connection at `id`. `state` is not [`ConnectionState::Free`].
    #[inline(always)]
    pub fn update(&mut self, id: ConnectionId, state: ConnectionState, expires: Ticks) {
        debug_assert!(state != ConnectionState::Free);
        self.entry(id.index()).update(state, expires);
    }

    /// What other threads read it by.
    pub fn reader(&self) -> TableReader {
        TableReader::new(self.entries.clone())
    }

    /// Adds a connection that is not in the table; `hash` is its key's.
    pub fn insert(&mut self, connection: Connection, hash: u64) -> Result<ConnectionId, TableFull> {
        debug_assert!(connection.state != ConnectionState::Free);
        if connection.key.is_ipv6() && !self.has_ipv6() {
            return Err(TableFull);
        }
        let (home, alternate) = (self.buckets.home(hash), self.buckets.alternate(hash));
        let at_home = self.buckets.at(home).used();
        let strays = at_home >= HOME_IS_CROWDED && self.buckets.at(alternate).used() < at_home;
        let mut chosen = if strays { alternate } else { home };
        if self.buckets.at(chosen).free_way().is_none() {
            chosen = self.make_way(home, alternate).ok_or(TableFull)?;
        }
        let way = self.buckets.at(chosen).free_way().ok_or(TableFull)?;
        let id = self.take_free_entry().ok_or(TableFull)?;
        let index = id.index();
        if connection.key.is_ipv6() {
            self.entries.set_pair(index, &connection.pair);
        }
        self.entry(index).occupy(&connection);
        if chosen != home {
            self.buckets.at(home).stray();
        }
        self.buckets.at(chosen).name(way, tag(hash), index);
        self.used += 1;
        Ok(id)
    }

    /// Both buckets are full: lets one of their connections change to its other bucket, and returns the bucket that has a
    /// free way now.
    #[cold]
    fn make_way(&mut self, home: usize, alternate: usize) -> Option<usize> {
        let buckets = &self.buckets;
        for full in [home, alternate] {
            for way in 0..WAYS {
                let index = buckets.at(full).entry(way);
                let hash = self.hash(&self.entry(index).key());
                let (its_home, its_alternate) = (buckets.home(hash), buckets.alternate(hash));
                let other = if full == its_home { its_alternate } else { its_home };
                let Some(free) = buckets.at(other).free_way() else { continue };
                // Named there before it is no more here, so that others find it all the time.
                if other != its_home {
                    buckets.at(its_home).stray();
                }
                buckets.at(other).name(free, tag(hash), index);
                buckets.at(full).clear(way);
                if other == its_home {
                    buckets.at(its_home).come_home();
                }
                return Some(full);
            }
        }
        None
    }

    /// Takes an entry out of its bucket and frees it.
    pub(super) fn give_back(&mut self, id: ConnectionId) {
        let index = id.index();
        let hash = self.hash(&self.entry(index).key());
        let home = self.buckets.at(self.buckets.home(hash));
        if !home.forget(index) {
            let was_there = self.buckets.at(self.buckets.alternate(hash)).forget(index);
            debug_assert!(was_there, "a connection is in its home or its alternate bucket");
            home.come_home();
        }
        self.free(id);
    }

    pub(super) fn free(&mut self, id: ConnectionId) {
        self.entry(id.index()).free(self.first_free.map(|id| id.0));
        self.first_free = Some(id);
        self.used -= 1;
    }

    /// Looks at a bounded number of entries, so that each is looked at every two seconds, and removes those that are
    /// over; `on_expired` is told each. Two passes: the entries lie one after the other, but each one's bucket is a cache
    /// miss of its own, so all are loaded before the first is needed.
    pub fn expire(&mut self, now: Ticks, on_expired: impl FnMut(&Connection)) {
        self.expire_where(now, |_| false, on_expired);
    }

    /// The same, and removes those too whose destination slot `is_left` says so of.
    pub fn expire_where(
        &mut self,
        now: Ticks,
        is_left: impl Fn(u32) -> bool,
        mut on_expired: impl FnMut(&Connection),
    ) {
        let elapsed = now.since(self.swept);
        if elapsed > 0 {
            self.swept = now;
            let touched = u64::from(self.entries.touched());
            let round_trip = touched * u64::from(SWEEP_TICKS);
            self.sweep_due = (self.sweep_due + touched * u64::from(elapsed)).min(round_trip);
        }
        let due = self.sweep_due / u64::from(SWEEP_TICKS);
        if due == 0 {
            return;
        }
        let looked_at = due.min(u64::from(SWEEP_ENTRIES_PER_ROUND)) as u32;
        self.sweep_due -= u64::from(looked_at) * u64::from(SWEEP_TICKS);
        let touched = self.entries.touched();
        let mut ahead = self.sweep_at;
        for _ in 0..looked_at {
            let entry = self.entry(next_in_turn(&mut ahead, touched).index());
            if entry.is_over(now, &is_left) {
                self.prefetch_bucket(self.hash(&entry.key()));
            }
        }
        for _ in 0..looked_at {
            let id = next_in_turn(&mut self.sweep_at, touched);
            if self.entry(id.index()).is_over(now, &is_left) {
                on_expired(&self.remove(id));
            }
        }
    }

    pub(super) fn take_free_entry(&mut self) -> Option<ConnectionId> {
        let Some(id) = self.first_free else { return self.entries.touch().map(ConnectionId) };
        self.first_free = self.entry(id.index()).next_free().map(ConnectionId);
        Some(id)
    }

    #[inline(always)]
    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.entries.slots[index as usize]
    }
}

/// The entry after the one at index `at`, and the first one after the last of `touched`.
#[inline(always)]
fn next_in_turn(at: &mut u32, touched: u32) -> ConnectionId {
    let before = if *at < touched { *at } else { 0 };
    *at = before + 1;
    ConnectionId(NonZeroU32::MIN.saturating_add(before))
}

impl ConnectionId {
    /// The entry's number.
    pub fn number(self) -> u32 {
        self.0.get()
    }

    #[inline(always)]
    pub(super) fn index(self) -> u32 {
        self.0.get()
    }
}

impl Hit<'_> {
    /// What names the entry to the table.
    #[inline(always)]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// What a packet needs of it.
    #[inline(always)]
    pub fn standing(&self) -> Standing {
        self.entry.standing()
    }

    /// The connection as it is now, but for the addresses of IPv6.
    #[inline(always)]
    pub fn connection(&self) -> Connection {
        self.entry.connection_of(self.key)
    }

    /// As [`ConnectionTable::update`].
    #[inline(always)]
    pub fn update(&mut self, state: ConnectionState, expires: Ticks) {
        debug_assert!(state != ConnectionState::Free);
        self.entry.update(state, expires);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::connection::ConnectionFlags;

    fn key(number: u32) -> FlowKey {
        let [a, b, c, d] = number.to_be_bytes();
        FlowKey::new([10, a, b, c], [192, 0, 2, 10], [4, d], [0, 80], 6)
    }

    fn connection(number: u32, expires: u32) -> Connection {
        Connection {
            key: key(number),
            state: ConnectionState::Established,
            flags: ConnectionFlags(number as u8 & 1),
            expires: Ticks(expires),
            destination: number,
            link: number.is_multiple_of(2).then_some(number / 2),
            ..Connection::default()
        }
    }

    fn insert(table: &mut ConnectionTable, number: u32, expires: u32) -> Result<ConnectionId, TableFull> {
        let hash = table.hash(&key(number));
        table.insert(connection(number, expires), hash)
    }

    fn find(table: &mut ConnectionTable, number: u32) -> Option<ConnectionId> {
        let hash = table.hash(&key(number));
        let candidate = table.prefetch_candidate(hash);
        table.hit(&key(number), &Ipv6Pair::NONE, hash, candidate).map(|hit| hit.id())
    }

    #[test]
    fn table_fills_to_its_capacity_and_finds_everything() {
        for capacity in [1, 2, 7, 64, 1000, 65_536, 65_536, 65_536, 1 << 20] {
            let mut table = ConnectionTable::new(capacity, Pages::Any).unwrap();
            for number in 0..capacity {
                insert(&mut table, number, 1).unwrap_or_else(|_| panic!("{number} of {capacity}"));
            }
            assert!(table.is_full());
            assert_eq!(insert(&mut table, capacity, 1), Err(TableFull));
            for number in 0..capacity {
                let id = find(&mut table, number).unwrap();
                assert_eq!(table.connection(id).destination, number);
            }
            assert_eq!(find(&mut table, capacity), None);
        }
    }

    #[test]
    fn connection_is_read_as_it_was_written_and_changed() {
        let mut table = ConnectionTable::new(8, Pages::Any).unwrap();
        for number in [3, 4] {
            let id = insert(&mut table, number, 7).unwrap();
            let mut expected = connection(number, 7);
            assert_eq!(table.connection(id), expected);
            table.update(id, ConnectionState::TimeWait, Ticks(u32::MAX));
            (expected.state, expected.expires) = (ConnectionState::TimeWait, Ticks(u32::MAX));
            assert_eq!(table.connection(id), expected);
            let hash = table.hash(&expected.key);
            for candidate in [table.prefetch_candidate(hash), None] {
                let mut hit = table.hit(&expected.key, &Ipv6Pair::NONE, hash, candidate).unwrap();
                expected.expires = expected.expires.after(1);
                hit.update(expected.state, expected.expires);
                assert_eq!((hit.id(), hit.connection()), (id, expected));
            }
            assert_eq!(table.remove(id), expected);
            assert!(table.hit(&expected.key, &Ipv6Pair::NONE, hash, Some(id)).is_none());
        }
    }

    #[test]
    fn memory_is_48_bytes_a_connection() {
        let table = ConnectionTable::new(1 << 16, Pages::Any).unwrap();
        // An entry more than there are connections: index 0 names none.
        assert!(table.bytes() < 49 << 16, "{} bytes", table.bytes());
    }

    #[test]
    fn full_table_is_emptied_by_expiry_and_filled_again_in_the_same_memory() {
        let mut table = ConnectionTable::new(10_000, Pages::Any).unwrap();
        for generation in 0..3 {
            let base = generation * 10_000;
            let now = generation * 100_000;
            for number in base..base + 10_000 {
                insert(&mut table, number, now + 1000).unwrap();
            }
            let mut expired = 0;
            table.expire(Ticks(now + 999), |_| expired += 1);
            assert_eq!(expired, 0, "nothing expires early");
            for tick in 0..2 * SWEEP_TICKS {
                table.expire(Ticks(now + 1000 + tick), |_| expired += 1);
            }
            assert_eq!(expired, 10_000, "all expire within two sweeps");
            assert!(table.is_empty());
            assert!(find(&mut table, base).is_none());
        }
        assert_eq!(table.entries.touched(), 10_000, "the same entries");
        assert!(table.buckets.iter().all(|bucket| bucket.strayed() == 0 && bucket.used() == 0));
    }

    #[test]
    fn one_round_of_expiry_looks_at_a_bounded_number_of_entries() {
        let mut table = ConnectionTable::new(5_000, Pages::Any).unwrap();
        for number in 0..5_000 {
            insert(&mut table, number, 1).unwrap();
        }
        let mut expired = 0;
        table.expire(Ticks(1_000_000), |_| expired += 1);
        assert_eq!(expired, SWEEP_ENTRIES_PER_ROUND);
    }

    proptest! {
        #[test]
        fn table_behaves_like_a_map(operations in proptest::collection::vec((0_u32..48, 0_u8..4), 1..400)) {
            let mut table = ConnectionTable::new(32, Pages::Any).unwrap();
            let mut model = HashMap::new();
            for (number, operation) in operations {
                match operation {
                    0 | 1 if !model.contains_key(&number) => match insert(&mut table, number, 1) {
                        Ok(_) => drop(model.insert(number, number)),
                        Err(TableFull) => prop_assert!(model.len() >= 24, "full at {}", model.len()),
                    },
                    2 => {
                        let found = find(&mut table, number);
                        prop_assert_eq!(found.is_some(), model.remove(&number).is_some());
                        if let Some(id) = found {
                            prop_assert_eq!(table.remove(id).destination, number);
                        }
                    }
                    _ => {
                        let found = find(&mut table, number).map(|id| table.connection(id).destination);
                        prop_assert_eq!(found, model.get(&number).copied());
                    }
                }
                prop_assert_eq!(table.len() as usize, model.len());
            }
            let used: usize = table.buckets.iter().map(Bucket::used).sum();
            prop_assert_eq!(used, model.len());
        }
    }
}
