//! What a decision costs under each scheduler, by the number of real servers: nanoseconds, the least of several runs.
//!
//! `cargo run --release -p scheduler --example cost`

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use scheduler::{Algorithm, ConnectionCounts, HashRing, RealServer, Request, Scheduler, SchedulerConfig};

const NUMBERS: [u32; 4] = [2, 16, 100, 1000];
const RUNS: usize = 9;
const DECISIONS: u32 = 20_000;

/// Of the weights 1 to 5 in turn, with as many connections as their weight.
fn real_servers(count: u32) -> Vec<RealServer> {
    let with = |id: u32| {
        let weight = 1 + id % 5;
        let counts = ConnectionCounts::new();
        (0..weight).for_each(|_| counts.open());
        RealServer {
            id,
            address: Ipv4Addr::from_bits(0x0a00_0001 + id).into(),
            port: 80,
            weight,
            last_weight: weight,
            is_drained: false,
            available: true,
            has_threshold: false,
            joined_seconds: None,
            counts: Arc::new(counts),
        }
    };
    (0..count).map(with).collect()
}

/// Of a new client each time.
fn request(number: u32) -> Request {
    let mixed = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Request {
        client: Ipv4Addr::from_bits(mixed as u32).into(),
        client_port: (mixed >> 32) as u16,
        vip: Ipv4Addr::new(192, 0, 2, 10).into(),
        now_seconds: 0,
        random: mixed.rotate_left(29),
    }
}

fn nanoseconds(decide: impl Fn(&Request) -> Option<usize>) -> f64 {
    let runs = (0..RUNS).map(|_| {
        let began = Instant::now();
        for number in 0..DECISIONS {
            black_box(decide(&request(number)));
        }
        began.elapsed().as_nanos() as f64 / f64::from(DECISIONS)
    });
    runs.fold(f64::INFINITY, f64::min)
}

fn row(name: &str, costs: impl Iterator<Item = f64>) {
    print!("{name:<10}");
    costs.for_each(|cost| print!("{cost:>9.0}"));
    println!();
}

fn main() {
    print!("RSs       ");
    NUMBERS.iter().for_each(|count| print!("{count:>9}"));
    println!();
    let lists: Vec<_> = NUMBERS.iter().map(|&count| real_servers(count)).collect();
    for algorithm in Algorithm::ALL {
        let config = SchedulerConfig { algorithm, ..SchedulerConfig::default() };
        row(
            algorithm.name(),
            lists.iter().map(|list| {
                let scheduler = Scheduler::new(config, list);
                nanoseconds(|request| scheduler.schedule(list, request))
            }),
        );
    }
    row(
        "the ring",
        lists.iter().map(|list| {
            let ring = HashRing::new(list);
            nanoseconds(|request| ring.pick(list, request.client, request.client_port))
        }),
    );
}
