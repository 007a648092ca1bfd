//! Tests only: lists of RSs, sequences of picks, and threads that begin at one instant.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;

use crate::{Algorithm, RealServer, Request, Scheduler, SchedulerConfig};

/// As many as issue 2 asks for.
pub(crate) const THREADS: usize = 8;

/// An RS with this id and weight, available, without thresholds; its address is 10.0.0.0 and its id.
pub(crate) fn real_server(id: u32, weight: u32) -> RealServer {
    RealServer {
        id,
        address: Ipv4Addr::from_bits(0x0a00_0000 + id).into(),
        port: 80,
        weight,
        last_weight: weight,
        is_drained: false,
        available: true,
        has_threshold: false,
        joined_seconds: None,
        counts: Default::default(),
    }
}

/// Available RSs of these weights, newest first; the oldest has id 0.
pub(crate) fn real_servers(weights: &[u32]) -> Vec<RealServer> {
    let ids = (0..weights.len() as u32).rev();
    ids.zip(weights).map(|(id, &weight)| real_server(id, weight)).collect()
}

/// One client's request, always the same.
pub(crate) fn request() -> Request {
    Request {
        client: IpAddr::from([198, 51, 100, 7]),
        client_port: 40_000,
        vip: IpAddr::from([192, 0, 2, 10]),
        now_seconds: 0,
        random: 0,
    }
}

/// The settings of this algorithm without flags or slow start.
pub(crate) fn config(algorithm: Algorithm) -> SchedulerConfig {
    SchedulerConfig { algorithm, ..Default::default() }
}

/// A scheduler of this algorithm without flags or slow start.
pub(crate) fn scheduler(algorithm: Algorithm, list: &[RealServer]) -> Scheduler {
    Scheduler::new(config(algorithm), list)
}

/// The list with the RSs of these ids deleted.
pub(crate) fn without(list: &[RealServer], ids: &[u32]) -> Vec<RealServer> {
    list.iter().filter(|real_server| !ids.contains(&real_server.id)).cloned().collect()
}

/// The next `count` picks; no connection is opened.
pub(crate) fn picks(scheduler: &Scheduler, list: &[RealServer], count: usize) -> Vec<Option<usize>> {
    (0..count).map(|_| scheduler.schedule(list, &request())).collect()
}

/// The first `count` picks, each of which opens a connection.
pub(crate) fn picks_that_open(algorithm: Algorithm, list: &[RealServer], count: usize) -> Vec<Option<usize>> {
    let scheduler = self::scheduler(algorithm, list);
    let pick = |_| scheduler.schedule(list, &request()).inspect(|&index| list[index].counts.open());
    (0..count).map(pick).collect()
}

/// The pick among RSs with these weights and (active, inactive) connections.
pub(crate) fn pick_with_counts(
    algorithm: Algorithm,
    weights: &[u32],
    counts: &[(u32, u32)],
) -> Option<usize> {
    let mut list = real_servers(weights);
    assert_eq!(weights.len(), counts.len());
    for (real_server, &(active, inactive)) in list.iter_mut().zip(counts) {
        real_server.counts = crate::ConnectionCounts::with(active, inactive).into();
    }
    scheduler(algorithm, &list).schedule(&list, &request())
}

/// Runs `work` on [`THREADS`] threads that begin at one instant, and waits for all.
pub(crate) fn in_parallel(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(thread);
            });
        }
    });
}

/// How often each RS was picked when every one of [`THREADS`] threads picked `picks_each` times.
pub(crate) fn picks_in_parallel(scheduler: &Scheduler, list: &[RealServer], picks_each: usize) -> Vec<usize> {
    in_parallel(|_| {
        for _ in 0..picks_each {
            list[scheduler.schedule(list, &request()).unwrap()].counts.open();
        }
    });
    list.iter().map(|real_server| real_server.counts.load().total() as usize).collect()
}

/// Asserts that [`THREADS`] threads that schedule and open at once leave every one of three RSs within [`THREADS`]
/// connections of its share.
///
/// Why that is sure and not merely likely: from the last close on, counts only rise. Once an RS has passed another's
/// final load, only threads that had read its count before still pick it, each once, so that it ends at most one
/// connection a thread above. What three RSs are above, one whose share is at most half lacks at most that often.
pub(crate) fn assert_spread_of_eight_threads(algorithm: Algorithm, weights: &[u32; 3], shares: &[u64; 3]) {
    const CHURNED: usize = 4_000;
    let list = real_servers(weights);
    let scheduler = self::scheduler(algorithm, &list);
    let open = || {
        let index = scheduler.schedule(&list, &request()).unwrap();
        list[index].counts.open();
        index
    };
    let churned = Barrier::new(THREADS);
    in_parallel(|thread| {
        // Opens and closes interleaved: each thread closes every second of its connections, one RS more than others.
        for round in 0..CHURNED {
            let index = open();
            if round % 2 == 0 || index == thread % list.len() {
                list[index].counts.close(false);
            }
        }
        churned.wait();
        // No thread closes any more, and enough open to level out whatever the closing left.
        for _ in 0..3 * CHURNED {
            open();
        }
    });

    let opened: Vec<u64> = list.iter().map(|real_server| real_server.counts.load().total()).collect();
    let total: u64 = opened.iter().sum();
    assert!(total >= (THREADS * 3 * CHURNED) as u64);
    for (index, &connections) in opened.iter().enumerate() {
        let share = total as f64 * shares[index] as f64 / shares.iter().sum::<u64>() as f64;
        let distance = (connections as f64 - share).abs();
        assert!(distance <= THREADS as f64, "{algorithm}: {opened:?}, the share of {index} is {share}");
    }
}
