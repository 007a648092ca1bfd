//! Several workers do together what one does alone.

mod rig;

use dataplane::counters::WorkerCounters;
use rig::*;
use scheduler::Algorithm;

/// Opens, uses and closes 900 connections, in the same order for any number of workers.
fn traffic() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for flags in [0x02, 0x10, 0x18, 0x11] {
        for flow in 0..900_u16 {
            let [high, low] = (flow % 300).to_be_bytes();
            frames.push(tcp([198, 51, high, low], 1024 + flow, flags));
        }
    }
    frames.extend((0..300).map(|flow| udp(CLIENT, 1024 + flow, b"question")));
    frames.extend((0..20).map(|flow| tcp(CLIENT, flow, 0x10)));
    frames
}

fn totals(rig: &Rig) -> Vec<u64> {
    let of: [fn(&WorkerCounters) -> u64; 5] = [
        |counters| counters.received.load(),
        |counters| counters.forwarded.load(),
        |counters| counters.punted.load(),
        |counters| counters.dropped_total(),
        |counters| counters.connections_opened.load(),
    ];
    of.into_iter().map(|of| rig.total(of)).collect()
}

#[test]
fn two_workers_on_two_queues_forward_the_same_traffic_as_one() {
    let real_servers = [Rs { weight: 3, ..Rs::new(2) }, Rs { weight: 2, ..Rs::new(1) }, Rs::new(0)];
    for algorithm in [Algorithm::Rr, Algorithm::Wrr] {
        let mut results = Vec::new();
        for workers in [1, 2, 4] {
            let mut rig = Rig::new(workers, 1, 4096, algorithm, &real_servers);
            let mut sent = Vec::new();
            for frame in traffic() {
                sent.extend(rig.pass(&frame));
            }
            rig.assert_conservation();
            if workers > 1 {
                let busy = rig.counters.iter().filter(|counters| counters.received.load() > 500).count();
                assert_eq!(busy, workers, "the traffic is spread");
            }
            let per_real_server: Vec<u64> =
                (0..3).map(|slot| rig.total(|counters| counters.destinations[slot].packets.load())).collect();
            results.push((totals(&rig), per_real_server, sent));
        }
        assert_eq!(results[0].0[..4], [900 * 4 + 320, 900 * 4 + 300, 0, 20]);
        assert!(
            results[0] == results[1] && results[1] == results[2],
            "same totals, same frames to the same places"
        );
    }
}

#[test]
fn workers_on_threads_keep_weighted_shares_exact() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let real_servers = [Rs { weight: 3, ..Rs::new(2) }, Rs { weight: 2, ..Rs::new(1) }, Rs::new(0)];
    let mut rig = Rig::new(2, 1, 1 << 16, Algorithm::Wrr, &real_servers);
    let stop = AtomicBool::new(false);
    let workers = std::mem::take(&mut rig.workers);
    let mut sent = 0;
    std::thread::scope(|scope| {
        for mut worker in workers {
            let stop = &stop;
            scope.spawn(move || worker.run(stop));
        }
        for flow in 0..6000_u16 {
            let frame = tcp([198, 51, 100, (flow % 250) as u8], 1024 + flow, 0x02);
            // Never more in flight than the rings hold.
            while usize::from(flow) >= sent + 256 {
                sent += rig.ports[0].take_transmitted().len();
                std::thread::yield_now();
            }
            assert!(rig.ports[0].inject_spread(&frame));
        }
        while sent < 6000 {
            sent += rig.ports[0].take_transmitted().len();
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    rig.assert_conservation();
    let connections: Vec<u64> =
        (0..3).map(|slot| rig.total(|counters| counters.destinations[slot].connections.load())).collect();
    assert_eq!(connections, [1000, 2000, 3000]);
}
