//! Ten million connections at once: what they cost, and that nothing of them is left behind when they are gone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dataplane::clock::Ticks;
use dataplane::connection::{Connection, ConnectionFlags, ConnectionState, ConnectionTable, FlowKey};
use dataplane::dpdk::region::Pages;

const CONNECTIONS: u32 = 10_000_000;
const LOOKUPS: u32 = 1 << 20;
/// Packets of a burst: what is prefetched before the first is needed.
const BURST: u32 = 32;

fn key(number: u32) -> FlowKey {
    let [a, b, c, d] = number.to_be_bytes();
    FlowKey::new([10, a, b, c], [192, 0, 2, 10], [4, d], [0, 80], 6)
}

/// The process's memory, in bytes, hugepages apart.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn fill(table: &mut ConnectionTable, expires: Ticks) {
    for number in 0..CONNECTIONS {
        let connection = Connection {
            key: key(number),
            state: ConnectionState::Established,
            flags: ConnectionFlags::NONE,
            expires,
            destination: number,
            link: None,
            ..Connection::default()
        };
        let hash = table.hash(&connection.key);
        table.insert(connection, hash).unwrap();
    }
    assert!(table.is_full());
}

/// Looks up connections all over the table, a burst at a time, as a worker does.
fn look_up(table: &mut ConnectionTable) -> Duration {
    let start = Instant::now();
    for burst in 0..LOOKUPS / BURST {
        let numbers = (0..BURST).map(|packet| {
            let mixed = u64::from(burst * BURST + packet).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            ((mixed * u64::from(CONNECTIONS)) >> 32) as u32
        });
        let keys = numbers.clone().map(key);
        keys.clone().for_each(|key| table.prefetch_bucket(table.hash(&key)));
        let mut candidates = [None; BURST as usize];
        for (candidate, key) in candidates.iter_mut().zip(keys) {
            *candidate = table.prefetch_candidate(table.hash(&key));
        }
        for (number, candidate) in numbers.zip(candidates) {
            let hash = table.hash(&key(number));
            let hit =
                table.hit(&key(number), &dataplane::connection::Ipv6Pair::NONE, hash, candidate).unwrap();
            assert_eq!(black_box(hit.connection()).destination, number);
        }
    }
    start.elapsed()
}

#[test]
fn ten_million_connections_twice_take_one_gibibyte_once() {
    let before = resident();
    let mut table = ConnectionTable::new(CONNECTIONS, Pages::Any).unwrap();
    assert!(table.bytes() <= 1 << 30, "{} bytes", table.bytes());
    let (bytes, empty) = (table.bytes(), resident());
    let mut lookups = Vec::new();
    let mut now = Ticks(0);
    for _ in 0..2 {
        fill(&mut table, now.after(1000));
        lookups.push((0..3).map(|_| look_up(&mut table)).min().unwrap());
        let mut expired = 0;
        table.expire(now, |_| expired += 1);
        assert_eq!(expired, 0);
        now = now.after(1000);
        while !table.is_empty() {
            now = now.after(1);
            table.expire(now, |_| expired += 1);
        }
        assert_eq!(expired, CONNECTIONS);
        assert_eq!(table.reader().read(0, u32::MAX).count(), 0);
        let growth = resident().saturating_sub(empty);
        assert!(growth < 8 << 20, "{growth} bytes more than when the table was empty");
        assert_eq!(table.bytes(), bytes);
    }
    println!(
        "{} bytes a connection, {} MiB of the process; a lookup takes {:.1} ns, after all have expired {:.2} times that",
        bytes / CONNECTIONS as usize,
        (empty - before) >> 20,
        lookups[0].as_nanos() as f64 / f64::from(LOOKUPS),
        lookups[1].as_secs_f64() / lookups[0].as_secs_f64()
    );
}
