//! How a worker finds out that a packet is of another worker's connection: by reading that one's table, which its owner does
//! nothing for.
//!
//! Owns a share of the table's memory. What it finds is a hint: the owner looks again when the packet is handed to it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::bucket::{Bucket, Buckets, tag};
use super::key::{FlowKey, FlowSeed, Ipv6Pair};
use super::reader::Entries;
use super::table::ConnectionTable;

/// Looks keys up in the table of another worker.
#[derive(Clone, Debug)]
pub struct TableLookup {
    seed: FlowSeed,
    buckets: Arc<Buckets>,
    entries: Arc<Entries>,
}

impl ConnectionTable {
    /// What other workers look keys up by.
    pub fn lookup(&self) -> TableLookup {
        TableLookup { seed: *self.seed(), buckets: self.buckets.clone(), entries: self.entries.clone() }
    }
}

/// A key as one table knows it, and its hash there.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalKey {
    key: FlowKey,
    hash: u64,
}

impl TableLookup {
    /// What this table knows `key` of another one by; starts loading what [`TableLookup::holds`] looks at. `pair` is that of an
    /// IPv6 key.
    #[inline]
    pub fn prepare(&self, key: &FlowKey, pair: &Ipv6Pair) -> LocalKey {
        let key = key.under(&self.seed, pair);
        let hash = self.seed.hash(&key);
        self.buckets.prefetch(hash);
        LocalKey { key, hash }
    }

    /// The table has an entry of this key: a connection, or what its replies are known by.
    #[inline]
    pub fn holds(&self, LocalKey { key, hash }: &LocalKey, pair: &Ipv6Pair) -> bool {
        let home = self.buckets.at(self.buckets.home(*hash));
        if self.is_in(home, key, pair, *hash) {
            return true;
        }
        if home.strayed() == 0 {
            return false;
        }
        let alternate = self.buckets.at(self.buckets.alternate(*hash));
        // Home again: it may have come from the alternate meanwhile.
        self.is_in(alternate, key, pair, *hash) || self.is_in(home, key, pair, *hash)
    }

    fn is_in(&self, bucket: &Bucket, key: &FlowKey, pair: &Ipv6Pair, hash: u64) -> bool {
        let mut ways = bucket.ways_with(tag(hash));
        fence(Ordering::Acquire);
        while let Some(way) = ways.first() {
            let index = bucket.entry_seen(way);
            let entry = self.entries.slots.get(index as usize);
            if entry.is_some_and(|entry| entry.is(key))
                && (!key.is_ipv6() || self.entries.pair_is(index, pair))
            {
                return true;
            }
            ways.skip_first();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::Ticks;
    use crate::connection::{Connection, ConnectionState, Tuple};
    use crate::dpdk::region::Pages;
    use crate::snapshot::{Protocol, ServiceKey};

    fn tuple(number: u32, is_ipv6: bool) -> Tuple {
        let [a, b, c, d] = number.to_be_bytes();
        let client = match is_ipv6 {
            false => [10, b, c, d].into(),
            true => [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d].into(),
        };
        let vip = if is_ipv6 { [0xfd; 16].into() } else { [192, 0, 2, 10].into() };
        let service = ServiceKey { address: vip, port: 80, protocol: Protocol::TCP };
        Tuple { client, client_port: 1024, service }
    }

    fn insert(table: &mut ConnectionTable, tuple: &Tuple) {
        let (key, pair) = tuple.key(table.seed());
        let connection = Connection {
            key,
            pair,
            state: ConnectionState::Established,
            expires: Ticks(1000),
            ..Connection::default()
        };
        let hash = table.hash(&key);
        table.insert(connection, hash).unwrap();
    }

    fn remove(table: &mut ConnectionTable, tuple: &Tuple) {
        let (key, pair) = tuple.key(table.seed());
        let id = table.find(&key, &pair).unwrap();
        table.remove(id);
    }

    /// As a worker whose own table has this seed.
    fn holds(lookup: &TableLookup, seed: &FlowSeed, tuple: &Tuple) -> bool {
        let (key, pair) = tuple.key(seed);
        lookup.holds(&lookup.prepare(&key, &pair), &pair)
    }

    #[test]
    fn other_worker_finds_what_the_table_has_and_nothing_else_in_both_families() {
        let own = FlowSeed::random();
        let mut table = ConnectionTable::with_families(4000, true, Pages::Any).unwrap();
        let lookup = table.lookup();
        let all = || (0..2000).flat_map(|number| [tuple(number, false), tuple(number, true)]);
        all().for_each(|tuple| assert!(!holds(&lookup, &own, &tuple)));
        all().for_each(|tuple| insert(&mut table, &tuple));
        all().for_each(|tuple| assert!(holds(&lookup, &own, &tuple)));
        all().step_by(3).for_each(|tuple| remove(&mut table, &tuple));
        for (place, tuple) in all().enumerate() {
            assert_eq!(holds(&lookup, &own, &tuple), place % 3 != 0);
        }
    }

    #[test]
    fn lasting_connections_are_found_all_the_time_while_the_table_is_filled_and_emptied() {
        let own = FlowSeed::random();
        let mut table = ConnectionTable::new(256, Pages::Any).unwrap();
        let lookup = table.lookup();
        (0..64).for_each(|number| insert(&mut table, &tuple(number, false)));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Full each time, so that connections change their buckets.
                while !stop.load(Ordering::Relaxed) {
                    (64..256).for_each(|number| insert(&mut table, &tuple(number, false)));
                    (64..256).for_each(|number| remove(&mut table, &tuple(number, false)));
                }
            });
            for round in 0..200_000_u32 {
                assert!(holds(&lookup, &own, &tuple(round % 64, false)), "round {round}");
                assert!(!holds(&lookup, &own, &tuple(1000 + round, false)));
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}
