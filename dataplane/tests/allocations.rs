//! A worker allocates nothing after start: every call of the allocator on its thread is counted.

mod rig;

use rig::*;
use scheduler::Algorithm;

/// Calls of the allocator that one round of the worker makes, whether to get memory or to give it back.
fn calls(rig: &mut Rig) -> u64 {
    let info = allocation_counter::measure(|| rig.workers[0].poll());
    info.count_total + info.count_current.unsigned_abs()
}

#[test]
fn worker_makes_no_allocation_and_frees_nothing() {
    let mut rig = Rig::new(1, 1, 4096, Algorithm::Wlc, &[Rs::new(0), Rs::new(1)]);
    let mut frames = Vec::new();
    for flow in 0..2000 {
        frames.push(tcp(CLIENT, flow, 0x02));
        frames.push(tcp(CLIENT, flow, 0x10));
        frames.push(udp(CLIENT, flow, b"question"));
        frames.push(tcp(CLIENT, flow, 0x01));
        frames.push(vec![0; usize::from(flow % 64)]);
    }
    frames.push(
        dataplane::packet::arp::ArpPacket {
            operation: 1,
            sender_mac: CLIENT_MAC,
            sender_address: CLIENT.into(),
            target_mac: [0; 6],
            target_address: VIP.into(),
        }
        .to_frame([0xff; 6], CLIENT_MAC)
        .to_vec(),
    );
    let mut polls = 0;
    let mut in_worker = 0;
    for (index, burst) in frames.chunks(32).enumerate() {
        for frame in burst {
            assert!(rig.ports[0].inject(0, frame));
        }
        if index == 50 {
            rig.hand.advance_seconds(2000);
        }
        in_worker += calls(&mut rig);
        polls += 1;
        rig.ports[0].drain_transmitted(0, |_| {});
    }
    // A new configuration: taken and the old one handed back without freeing it.
    let next = snapshot(&rig.counts, 1, Algorithm::Rr, &[Rs::new(1)]);
    rig.publisher.publish(std::sync::Arc::new(next));
    in_worker += calls(&mut rig);
    assert!(rig.publisher.runs_everywhere(2));
    assert!(
        polls > 300
            && rig.counters[0].forwarded.load() > 5000
            && rig.counters[0].connections_expired.load() > 500
    );
    assert_eq!(in_worker, 0);
    rig.assert_conservation();
}
