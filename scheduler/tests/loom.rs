//! The schedulers' atomics under loom, which tries every interleaving and what relaxed memory may show:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p scheduler --test loom`. Without that flag there is nothing here.
#![cfg(loom)]

use std::net::{IpAddr, Ipv4Addr};

use loom::sync::Arc;
use loom::thread;

use scheduler::{
    Algorithm, ConnectionCounts, Counts, RealServer, Request, Scheduler, SchedulerConfig, Thresholds,
};

fn real_server(id: u32, weight: u32) -> RealServer {
    RealServer {
        id,
        address: Ipv4Addr::new(10, 0, 0, id as u8).into(),
        port: 80,
        weight,
        last_weight: weight,
        is_drained: false,
        available: true,
        has_threshold: false,
        joined_seconds: None,
        counts: std::sync::Arc::new(ConnectionCounts::new()),
    }
}

fn request(vip: u8) -> Request {
    Request {
        client: IpAddr::from([198, 51, 100, 7]),
        client_port: 40_000,
        vip: IpAddr::from([192, 0, 2, vip]),
        now_seconds: 0,
        random: 0,
    }
}

fn scheduler(algorithm: Algorithm, list: &[RealServer]) -> Scheduler {
    Scheduler::new(SchedulerConfig { algorithm, ..Default::default() }, list)
}

/// `work` on two threads and on this one. With `preemptions`, only interleavings with so many at most.
fn model_of_three(
    preemptions: Option<usize>,
    prepare: impl Fn() -> Arc<(Scheduler, Vec<RealServer>)> + Sync + Send + 'static,
    work: fn(&Scheduler, &[RealServer], usize),
    check: fn(&Scheduler, &[RealServer]),
) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let shared = prepare();
        let others: Vec<_> = (1..3)
            .map(|number| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared.0, &shared.1, number))
            })
            .collect();
        work(&shared.0, &shared.1, 0);
        others.into_iter().for_each(|other| other.join().unwrap());
        check(&shared.0, &shared.1);
    });
}

#[test]
fn thresholds_set_while_connections_open_leave_no_stale_flag() {
    loom::model(|| {
        let counts = Arc::new(ConnectionCounts::new());
        let worker = {
            let counts = Arc::clone(&counts);
            thread::spawn(move || {
                counts.open();
                counts.open();
            })
        };
        counts.set_thresholds(Thresholds { upper: 2, lower: 0 });
        worker.join().unwrap();
        assert_eq!(counts.load(), Counts { active: 0, inactive: 2 });
        assert!(counts.is_overloaded());
    });
}

#[test]
fn thresholds_removed_while_connections_open_and_close_leave_no_stale_flag() {
    loom::model(|| {
        let counts = Arc::new(ConnectionCounts::new());
        counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
        let worker = {
            let counts = Arc::clone(&counts);
            thread::spawn(move || {
                counts.open();
                counts.open();
                counts.close(false);
            })
        };
        counts.set_thresholds(Thresholds { upper: 0, lower: 0 });
        worker.join().unwrap();
        assert_eq!(counts.load().total(), 1);
        assert!(!counts.is_overloaded());
    });
}

#[test]
fn thresholds_edited_twice_while_connections_open_leave_no_stale_flag() {
    loom::model(|| {
        let counts = Arc::new(ConnectionCounts::new());
        counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
        let worker = {
            let counts = Arc::clone(&counts);
            thread::spawn(move || counts.open())
        };
        counts.set_thresholds(Thresholds { upper: 9, lower: 0 });
        counts.set_thresholds(Thresholds { upper: 1, lower: 1 });
        worker.join().unwrap();
        assert!(counts.is_overloaded());
    });
}

#[test]
fn counts_of_three_threads_with_thresholds_are_exact_and_the_flag_is_theirs() {
    model_of_three(
        Some(3),
        || {
            let list = vec![real_server(0, 1)];
            list[0].counts.set_thresholds(Thresholds { upper: 2, lower: 1 });
            Arc::new((scheduler(Algorithm::Rr, &list), list))
        },
        |_, list, number| {
            let counts = &list[0].counts;
            counts.open();
            counts.activate();
            // This connection is open, so that the total is over 0 and below 4.
            assert!((1..4).contains(&counts.load().total()));
            if number > 0 {
                counts.close(true);
            }
        },
        |_, list| {
            // One is left: below the upper threshold, not below the lower one, so that the flag tells the history.
            assert_eq!(list[0].counts.load(), Counts { active: 1, inactive: 0 });
            list[0].counts.close(true);
            assert_eq!(list[0].counts.load(), Counts::default());
            assert!(!list[0].counts.is_overloaded());
        },
    );
}

/// Two connections at most, three threads that look, pick and open: each may be in flight once.
#[test]
fn threshold_of_three_threads_is_passed_by_no_more_than_they_are() {
    model_of_three(
        Some(3),
        || {
            let mut list = vec![real_server(0, 1)];
            list[0].has_threshold = true;
            list[0].counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
            Arc::new((scheduler(Algorithm::Fo, &list), list))
        },
        |scheduler, list, _| {
            for _ in 0..2 {
                if let Some(index) = scheduler.schedule(list, &request(1)) {
                    list[index].counts.open();
                    assert!(list[index].counts.is_overloaded());
                }
            }
        },
        |_, list| assert!((1..=3).contains(&list[0].counts.load().total())),
    );
}

#[test]
fn rr_cursor_of_three_threads_gives_every_real_server_its_turn() {
    model_of_three(
        None,
        || {
            let list = vec![real_server(2, 1), real_server(1, 1), real_server(0, 1)];
            Arc::new((scheduler(Algorithm::Rr, &list), list))
        },
        |scheduler, list, _| list[scheduler.schedule(list, &request(1)).unwrap()].counts.open(),
        |scheduler, list| {
            assert!(list.iter().all(|real_server| real_server.counts.load().total() == 1));
            assert_eq!(scheduler.schedule(list, &request(1)), Some(0));
        },
    );
}

#[test]
fn wrr_mark_of_three_threads_gives_every_real_server_its_share() {
    model_of_three(
        None,
        || {
            let list = vec![real_server(1, 2), real_server(0, 1)];
            Arc::new((scheduler(Algorithm::Wrr, &list), list))
        },
        |scheduler, list, _| list[scheduler.schedule(list, &request(1)).unwrap()].counts.open(),
        |scheduler, list| {
            let shares: Vec<u64> = list.iter().map(|real_server| real_server.counts.load().total()).collect();
            assert_eq!(shares, [2, 1]);
            assert_eq!(scheduler.schedule(list, &request(1)), Some(0));
        },
    );
}

/// Two destinations in one entry (the model's cache is that small): whatever the threads overwrite, nobody is given
/// what was remembered for the other one. The RSs' counts never change, so that `wlc` alone would always pick the
/// first; the second is picked only from what was remembered for destination 1.
fn remembered_destinations_are_never_mixed(algorithm: Algorithm) {
    model_of_three(
        Some(2),
        move || {
            let mut list = vec![real_server(1, 1), real_server(0, 1)];
            let scheduler = scheduler(algorithm, &list);
            list[0].available = false;
            assert_eq!(scheduler.schedule(&list, &request(1)), Some(1));
            list[0].available = true;
            assert_eq!(scheduler.schedule(&list, &request(1)), Some(1));
            Arc::new((scheduler, list))
        },
        |scheduler, list, number| {
            if number == 0 {
                let pick = scheduler.schedule(list, &request(1)).unwrap();
                assert!(pick < 2);
            } else {
                // One may read what the other is just writing in place of destination 1.
                assert_eq!(scheduler.schedule(list, &request(2)), Some(0));
            }
        },
        |scheduler, list| {
            assert_eq!(scheduler.schedule(list, &request(9)), Some(0));
        },
    );
}

#[test]
fn lblc_entry_under_three_threads_is_never_mixed() {
    remembered_destinations_are_never_mixed(Algorithm::Lblc);
}

#[test]
fn lblcr_entry_under_three_threads_is_never_mixed() {
    remembered_destinations_are_never_mixed(Algorithm::Lblcr);
}

/// A worker on the old version remembers an RS that is deleted while another takes its slot: the new version does not
/// take the one for the other.
#[test]
fn lblc_real_server_in_a_reused_slot_is_not_the_one_remembered() {
    loom::model(|| {
        let old = vec![real_server(1, 1), real_server(0, 1)];
        let scheduler = std::sync::Arc::new(scheduler(Algorithm::Lblc, &old));
        // The RS in slot 1 is replaced by another, which is busy.
        let mut new = old.clone();
        new[0] = RealServer { address: Ipv4Addr::new(10, 0, 0, 99).into(), ..real_server(1, 1) };
        (0..5).for_each(|_| new[0].counts.open());
        let worker = {
            let (scheduler, old) = (std::sync::Arc::clone(&scheduler), old.clone());
            thread::spawn(move || assert!(scheduler.schedule(&old, &request(1)).is_some()))
        };
        let next = scheduler.next_version(&old, &new);
        assert_eq!(next.schedule(&new, &request(1)), Some(1));
        worker.join().unwrap();
        assert_eq!(next.schedule(&new, &request(1)), Some(1));
    });
}
