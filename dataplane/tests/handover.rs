//! Replies on another worker's queue than their connection's: each reaches its client, by the worker that has the connection, or
//! is a counted drop.

mod rig;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::verdict::DropReason;
use dataplane::worker::INBOX_CAPACITY;
use rig::nat::{CIP, rip, source_of, vip};
use rig::packet::*;
use rig::*;
use scheduler::Algorithm;

const WORKERS: usize = 4;

fn rig_of(workers: usize, rs: Rs) -> Rig {
    Rig::new(workers, 1, 4096, Algorithm::Rr, &[rs])
}

fn one(sent: Vec<(usize, Vec<u8>)>) -> Vec<u8> {
    assert_eq!(sent.len(), 1);
    sent.into_iter().next().unwrap().1
}

fn handed_over(rig: &Rig) -> u64 {
    rig.total(|counters| counters.handed_over.load())
}

#[test]
fn reply_reaches_its_client_whichever_worker_receives_it() {
    for (client, virtual_address, is_ipv6) in
        [(IpAddr::from(CLIENT), IpAddr::from(VIP), false), (CLIENT_6.into(), VIP_6.into(), true)]
    {
        for rs in [Rs { is_ipv6, ..Rs::nat(0, 8080) }, Rs { is_ipv6, ..Rs::full_nat(0, 8080) }] {
            let mut rig = rig_of(WORKERS, rs);
            for owner in 0..WORKERS {
                let request = FrameOf::tcp((client, 1024 + owner as u16), (virtual_address, HTTP), SYN);
                let local = source_of(&one(rig.pass_on(owner, &request.padded())));
                if rs.method == dataplane::snapshot::ForwardingMethod::FullNat {
                    assert_eq!(usize::from(local.1) % WORKERS, owner);
                }
                for queue in 0..WORKERS {
                    let before = handed_over(&rig);
                    let answer = FrameOf::tcp(request.destination, request.source, SYN | ACK);
                    let from_rs = answer.clone().between(rip(&rs, 8080), local).sent_by(0);
                    assert_eq!(one(rig.pass_on(queue, &from_rs.padded())), answer.at_client().padded());
                    assert_eq!(handed_over(&rig) - before, u64::from(queue != owner));
                }
            }
            assert_eq!(rig.counters.iter().map(|of| of.connections.load()).collect::<Vec<_>>(), [1; WORKERS]);
            rig.assert_conservation();
            rig.assert_no_leak();
        }
    }
}

#[test]
fn owner_counts_what_it_took_over_and_its_connection_moves() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig_of(2, rs);
    one(rig.pass_on(1, &FrameOf::tcp(CIP, vip(HTTP), SYN).padded()));
    let fin = FrameOf::tcp(rip(&rs, 8080), CIP, FIN | ACK).sent_by(0);
    one(rig.pass_on(1, &FrameOf::tcp(CIP, vip(HTTP), ACK).padded()));
    one(rig.pass_on(0, &fin.padded()));
    assert_eq!(rig.state(CIP.1), "FIN_WAIT");
    let of = |worker: usize| {
        let counters = &rig.counters[worker];
        let replies = counters.destinations[0].replies.load();
        (counters.received.load(), counters.handed_over.load(), counters.taken_over.load(), replies)
    };
    assert_eq!((of(0), of(1)), ((1, 1, 0, 0), (2, 0, 1, 1)));
    rig.assert_conservation();
}

#[test]
fn full_inbox_is_a_counted_drop_and_what_is_in_it_is_sent() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig_of(2, rs);
    one(rig.pass_on(1, &FrameOf::tcp(CIP, vip(HTTP), SYN).padded()));
    let answer = FrameOf::tcp(rip(&rs, 8080), CIP, ACK).sent_by(0).padded();
    for _ in 0..INBOX_CAPACITY + 100 {
        assert!(rig.ports[0].inject(0, &answer));
        rig.workers[0].poll();
    }
    assert_eq!(rig.dropped(DropReason::HandOverFull), 100);
    // Two bursts a round, so that its own frames have their turn.
    for _ in 0..INBOX_CAPACITY / 64 {
        rig.workers[1].poll();
        assert_eq!(rig.ports[0].take_transmitted().len(), 64);
    }
    rig.workers[1].poll();
    assert_eq!(rig.ports[0].take_transmitted().len(), 0);
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn connection_that_ends_on_the_way_is_a_counted_drop_and_nothing_goes_round_in_circles() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig_of(2, rs);
    one(rig.pass_on(1, &FrameOf::udp(CIP, vip(DNS), b"question").padded()));
    let answer = FrameOf::udp(rip(&rs, 8080), CIP, b"answer").sent_by(0).padded();
    assert!(rig.ports[0].inject(0, &answer));
    rig.workers[0].poll();
    rig.hand.advance_seconds(301);
    for _ in 0..100 {
        rig.workers[1].poll();
    }
    assert_eq!(rig.dropped(DropReason::NoConnection), 1);
    assert!(rig.connections().is_empty());
    assert!(rig.pass_on(0, &answer).is_empty());
    assert_eq!((handed_over(&rig), rig.dropped(DropReason::NoConnection)), (1, 2));
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn local_port_of_another_worker_without_connection_is_dropped_there() {
    let rs = Rs::full_nat(0, 8080);
    let mut rig = rig_of(2, rs);
    one(rig.pass_on(1, &FrameOf::tcp(CIP, vip(HTTP), SYN).padded()));
    let to = |port| FrameOf::tcp(rip(&rs, 8080), (LOCAL_ADDRESSES[0].into(), port), ACK).sent_by(0).padded();
    assert!(rig.pass_on(0, &to(5000)).is_empty());
    assert_eq!((handed_over(&rig), rig.counters[0].dropped(DropReason::NoConnection)), (0, 1));
    assert!(rig.pass_on(0, &to(5001)).is_empty());
    assert_eq!((handed_over(&rig), rig.counters[1].dropped(DropReason::NoConnection)), (1, 1));
    rig.assert_conservation();
}

#[test]
fn nothing_is_handed_over_without_translated_connections() {
    let mut rig = rig_of(2, Rs::new(0));
    for queue in 0..2 {
        one(rig.pass_on(queue, &tcp(CLIENT, 1000, SYN)));
        let stray = FrameOf::tcp(rip(&Rs::new(0), 8080), CIP, ACK).sent_by(0);
        assert!(rig.pass_on(queue, &stray.padded()).is_empty());
    }
    assert_eq!((handed_over(&rig), rig.dropped(DropReason::NotLocal)), (0, 2));
    rig.assert_conservation();
}

#[test]
fn workers_on_threads_answer_every_client_of_nat() {
    const FLOWS: u16 = 400;
    for rs in [Rs::nat(0, 8080), Rs::full_nat(0, 8080)] {
        let mut rig = Rig::new(3, 1, 1 << 14, Algorithm::Rr, &[rs]);
        let stop = AtomicBool::new(false);
        let workers = std::mem::take(&mut rig.workers);
        let (mut answered, mut asked) = (0, 0_usize);
        std::thread::scope(|scope| {
            for mut worker in workers {
                let stop = &stop;
                scope.spawn(move || worker.run(stop));
            }
            let mut flows = (0..FLOWS).peekable();
            while answered < usize::from(FLOWS) {
                if asked - answered < 200
                    && let Some(flow) = flows.next()
                {
                    let client = ([198, 51, 100, (flow % 250) as u8].into(), 1024 + flow);
                    let syn = FrameOf::tcp(client, vip(HTTP), SYN).padded();
                    assert!(rig.ports[0].inject(usize::from(flow) % 3, &syn));
                    asked += 1;
                }
                for (place, sent) in rig.ports[0].take_transmitted().into_iter().enumerate() {
                    if sent[..6] == CLIENT_MAC {
                        assert_eq!(source_of(&sent), vip(HTTP));
                        answered += 1;
                        continue;
                    }
                    let answer = FrameOf::tcp(rip(&rs, 8080), source_of(&sent), SYN | ACK).sent_by(0);
                    assert!(rig.ports[0].inject((place + answered) % 3, &answer.padded()));
                }
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(handed_over(&rig) > u64::from(FLOWS) / 3, "{}", handed_over(&rig));
        assert_eq!(rig.total(|counters| counters.dropped_total()), 0);
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}
