//! Twelve threads that open, flip and close connections at once, under every scheduler, with thresholds on.
#![cfg(not(loom))]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier};

use scheduler::{
    Algorithm, ConnectionCounts, Counts, RealServer, Request, Scheduler, SchedulerConfig, SchedulerFlags,
    Thresholds,
};

const THREADS: usize = 12;
const ROUNDS: usize = 60_000;
/// Few, so that thresholds are reached all the time.
const UPPER: [u32; 5] = [20, 7, 1, 40, 12];
const LOWER: [u32; 5] = [0, 3, 1, 40, 11];

/// Marsaglia's xorshift: the same sequence for the same seed, whatever the machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn real_servers() -> Vec<RealServer> {
    let with = |(id, weight): (u32, u32)| RealServer {
        id,
        address: Ipv4Addr::new(10, 0, 0, id as u8).into(),
        port: 80,
        weight,
        last_weight: weight,
        is_drained: false,
        available: true,
        has_threshold: true,
        joined_seconds: Some(0),
        counts: Arc::new(ConnectionCounts::new()),
    };
    let list: Vec<RealServer> = (0..5).zip([3, 1, 2, 4, 1]).map(with).collect();
    for (index, real_server) in list.iter().enumerate() {
        real_server.counts.set_thresholds(Thresholds { upper: UPPER[index], lower: LOWER[index] });
    }
    list
}

fn request(random: &mut Random) -> Request {
    Request {
        client: Ipv4Addr::from_bits(random.next() as u32).into(),
        client_port: random.next() as u16,
        vip: IpAddr::from([192, 0, 2, random.below(12) as u8]),
        now_seconds: random.below(3) as u32,
        random: random.next(),
    }
}

fn config(algorithm: Algorithm) -> SchedulerConfig {
    SchedulerConfig {
        algorithm,
        flags: SchedulerFlags { fallback: true, port: true, flag_3: false },
        slow_start_seconds: 2,
        lblc_expiration_seconds: 1,
    }
}

/// One thread: opens, flips and closes at random; at the end it has closed all that it opened.
fn churn(scheduler: &Scheduler, list: &[RealServer], seed: u64, judge: impl Fn(usize)) -> usize {
    let mut random = Random(seed);
    let mut open: Vec<(usize, bool)> = Vec::new();
    let mut opened = 0;
    for _ in 0..ROUNDS {
        match (random.below(4), open.len()) {
            (0 | 1, _) | (_, 0) => {
                if let Some(index) = scheduler.schedule(list, &request(&mut random)) {
                    list[index].counts.open();
                    judge(index);
                    open.push((index, false));
                    opened += 1;
                }
            }
            (2, count) => {
                let (index, is_active) = &mut open[random.below(count)];
                let counts = &list[*index].counts;
                if *is_active {
                    counts.deactivate()
                } else {
                    counts.activate()
                }
                *is_active = !*is_active;
            }
            (_, count) => {
                let (index, was_active) = open.swap_remove(random.below(count));
                list[index].counts.close(was_active);
            }
        }
    }
    for (index, was_active) in open {
        list[index].counts.close(was_active);
    }
    opened
}

fn in_parallel(work: impl Fn(u64) + Sync) {
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS as u64 {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(0x9e37_79b9_7f4a_7c15 ^ (thread + 1));
            });
        }
    });
}

fn assert_nothing_is_left(list: &[RealServer], algorithm: Algorithm) {
    for real_server in list {
        assert_eq!(real_server.counts.load(), Counts::default(), "{algorithm}");
        assert!(!real_server.counts.is_overloaded(), "{algorithm}");
    }
}

#[test]
fn twelve_threads_under_every_scheduler_keep_counts_exact_and_thresholds_within_twelve() {
    for algorithm in Algorithm::ALL {
        let list = real_servers();
        let scheduler = Scheduler::new(config(algorithm), &list);
        let opened = AtomicUsize::new(0);
        let reached = AtomicUsize::new(0);
        in_parallel(|seed| {
            let judge = |index: usize| {
                let total = list[index].counts.load().total();
                // The last one before the threshold, and one of each other thread that had looked before it.
                assert!(total < u64::from(UPPER[index]) + THREADS as u64, "{algorithm}: {total} at {index}");
                if total >= UPPER[index].into() {
                    reached.fetch_add(1, Relaxed);
                }
            };
            opened.fetch_add(churn(&scheduler, &list, seed, judge), Relaxed);
        });
        assert_nothing_is_left(&list, algorithm);
        assert!(opened.into_inner() > 1000, "{algorithm}");
        assert!(reached.into_inner() > 0, "{algorithm} never reached a threshold");
    }
}

/// Thresholds come, change and go all the while, and versions with other weights follow one another.
#[test]
fn twelve_threads_while_the_control_thread_edits_keep_counts_exact_and_flags_true() {
    for algorithm in Algorithm::ALL {
        let list = real_servers();
        let mut heavier = list.clone();
        heavier.iter_mut().for_each(|real_server| real_server.weight *= 3);
        let first = Scheduler::new(config(algorithm), &list);
        let second = first.next_version(&list, &heavier);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(42);
                while !is_over.load(Relaxed) {
                    let counts = &list[random.below(list.len())].counts;
                    let upper = random.below(9) as u32;
                    counts.set_thresholds(Thresholds {
                        upper,
                        lower: random.below(3).min(upper as usize) as u32,
                    });
                    std::hint::black_box(first.next_version(&list, &heavier));
                    std::thread::yield_now();
                }
            });
            in_parallel(|seed| {
                let version = if seed % 2 == 0 { (&first, &list) } else { (&second, &heavier) };
                churn(version.0, version.1, seed, |_| ());
            });
            is_over.store(true, Relaxed);
        });
        assert_nothing_is_left(&list, algorithm);
        // Whatever the last edit was, the flag follows it.
        for (index, real_server) in list.iter().enumerate() {
            real_server.counts.set_thresholds(Thresholds { upper: UPPER[index], lower: LOWER[index] });
            assert!(!real_server.counts.is_overloaded());
            (0..UPPER[index]).for_each(|_| real_server.counts.open());
            assert!(real_server.counts.is_overloaded());
        }
    }
}
