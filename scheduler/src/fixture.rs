//! Tests only: lists of RSs, sequences of picks, and threads that begin at one instant.

use std::sync::Barrier;

use crate::{Algorithm, RealServer, Scheduler};

/// As many as issue 2 asks for.
pub(crate) const THREADS: usize = 8;

/// Available RSs of these weights, newest first; the oldest has id 0.
pub(crate) fn real_servers(weights: &[u32]) -> Vec<RealServer> {
    let ids = (0..weights.len() as u32).rev();
    let with = |(id, &weight)| RealServer { id, weight, available: true, counts: Default::default() };
    ids.zip(weights).map(with).collect()
}

/// The list with the RSs of these ids deleted.
pub(crate) fn without(list: &[RealServer], ids: &[u32]) -> Vec<RealServer> {
    list.iter().filter(|real_server| !ids.contains(&real_server.id)).cloned().collect()
}

/// The next `count` picks; no connection is opened.
pub(crate) fn picks(scheduler: &Scheduler, list: &[RealServer], count: usize) -> Vec<Option<usize>> {
    (0..count).map(|_| scheduler.schedule(list)).collect()
}

/// The first `count` picks, each of which opens a connection.
pub(crate) fn picks_that_open(algorithm: Algorithm, list: &[RealServer], count: usize) -> Vec<Option<usize>> {
    let scheduler = Scheduler::new(algorithm, list);
    let pick = |_| scheduler.schedule(list).inspect(|&index| list[index].counts.open());
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
    Scheduler::new(algorithm, &list).schedule(&list)
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
            list[scheduler.schedule(list).unwrap()].counts.open();
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
    let scheduler = Scheduler::new(algorithm, &list);
    let open = || {
        let index = scheduler.schedule(&list).unwrap();
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
