//! A worker allocates nothing after start: every call of the allocator on its thread is counted.

mod rig;

use rig::packet::FrameOf;
use rig::*;
use scheduler::Algorithm;

/// Calls of the allocator that one round of the worker makes, whether to get memory or to give it back.
fn calls(rig: &mut Rig) -> u64 {
    let info = allocation_counter::measure(|| rig.workers[0].poll());
    info.count_total + info.count_current.unsigned_abs()
}

#[test]
fn worker_of_nat_makes_no_allocation_and_frees_nothing() {
    for rs in [Rs::nat(0, 8080), Rs::full_nat(0, 8080)] {
        let mut rig = Rig::new(2, 1, 4096, Algorithm::Rr, &[rs]);
        let mut in_worker = 0;
        for port in 1024..3000_u16 {
            let client = (CLIENT.into(), port);
            let syn = FrameOf::tcp(client, (VIP.into(), HTTP), SYN);
            assert!(rig.ports[0].inject(1, &syn.padded()));
            rig.workers[1].poll();
            let sent = rig.ports[0].take_transmitted();
            // Into the inbox of the other worker, or out of it.
            if let Some(sent) = sent.first() {
                let answer = FrameOf::tcp((rs.address(), 8080), nat::source_of(sent), SYN | ACK).sent_by(0);
                assert!(rig.ports[0].inject(0, &answer.padded()));
            }
            in_worker += calls(&mut rig);
            assert!(rig.ports[0].inject(0, &syn.padded()));
            in_worker += calls(&mut rig);
            rig.workers[1].poll();
            rig.ports[0].take_transmitted();
        }
        assert!(rig.counters[0].handed_over.load() > 1000);
        assert_eq!(in_worker, 0);
        rig.assert_conservation();
    }
}

/// Fragments in every order, some whose first never comes, and errors about packets of every kind of connection.
#[test]
fn fragments_and_icmp_make_no_allocation_and_free_nothing() {
    for rs in [Rs::new(0), Rs::nat(0, 8080), Rs::full_nat(0, 8080)] {
        let mut rig = Rig::new(2, 1, 4096, Algorithm::Rr, &[rs]);
        let mut in_worker = 0;
        for number in 0..500_u16 {
            let client = (CLIENT.into(), 1024 + number);
            let question = FrameOf::udp(client, (VIP.into(), DNS), &[7; 2000]);
            let answer = icmp::packet_of(&FrameOf::udp((VIP.into(), DNS), client, b"answer"));
            let mut frames = pieces::pieces(&question.build(), number.into(), 680);
            frames.rotate_left(usize::from(number % 3));
            frames.push(icmp::ErrorOf::new([203, 0, 113, 1].into(), VIP.into(), &answer).frame());
            frames.push(pieces::piece(&question.build(), 10_000 + u32::from(number), 680..1360));
            for frame in frames {
                assert!(rig.ports[0].inject(usize::from(number % 2), &frame));
                rig.workers[1].poll();
                in_worker += calls(&mut rig);
            }
            if number % 100 == 99 {
                rig.hand.advance_seconds(31);
            }
            rig.ports[0].take_transmitted();
        }
        assert!(rig.counters[0].forwarded.load() > 500);
        assert_eq!(in_worker, 0);
        rig.poll();
        rig.assert_conservation();
    }
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

/// Every kind of service, more clients than templates, more connections than room, a rate, and a removed real server.
#[test]
fn no_kind_of_service_and_no_flood_makes_the_worker_allocate() {
    use dataplane::persistence::TemplateLimits;
    use dataplane::snapshot::{
        DestinationState, Persistence, PersistenceScope, PersistentClient, Protocol, SharedCounts, Snapshot,
    };
    // ovf takes no more connections than the weight.
    let of_weight = |slot| Rs { weight: 1000, ..Rs::new(slot) };
    let real_servers = [of_weight(0), Rs { upper_threshold: 10, ..of_weight(1) }, of_weight(2)];
    let configuration = |counts: &SharedCounts, algorithm, rate| -> Snapshot {
        let mut snapshot = snapshot(counts, 1, algorithm, &real_servers);
        let services: [(u16, PersistentClient, bool, Protocol); 4] = [
            (443, PersistentClient::Address, false, Protocol::TCP),
            (514, PersistentClient::Address, true, Protocol::UDP),
            (5060, PersistentClient::CallId, true, Protocol::UDP),
            (5062, PersistentClient::CallId, false, Protocol::UDP),
        ];
        for (port, client, one_packet, protocol) in services {
            let members = [(protocol, port)];
            add_service(&mut snapshot, counts, algorithm, &real_servers, &members, |service| {
                let scope = PersistenceScope::Virtual { port };
                service.persistence =
                    Some(Persistence { timeout_ticks: 256 * 60, netmask: u128::MAX, client, scope });
                service.one_packet = one_packet;
            });
        }
        snapshot.options.creation_rate_per_worker = rate;
        snapshot.options.expire_nodest_conn = true;
        snapshot
    };
    for algorithm in Algorithm::ALL {
        let limits = TemplateLimits { capacity: 64, ..template_limits() };
        let mut rig = Rig::with_templates(1, 1, 300, &limits, |counts| configuration(counts, algorithm, 0));
        set_thresholds(&rig.counts, &real_servers);
        let mut in_worker = 0;
        let mut frames = Vec::new();
        for number in 0..200_u16 {
            let (client, port) = ([203, 0, 113, number as u8], 1024 + number);
            let message = format!("OPTIONS sip:b SIP/2.0\r\nCall-ID: {number}@c\r\n\r\n");
            frames.extend([
                tcp(client, port, SYN),
                tcp(client, port, ACK),
                tcp_to(443, client, port, SYN),
                tcp_to(443, client, port, ACK),
                sctp(client, port, &chunk(1)),
                sctp(client, port, &chunk(10)),
                udp_to(514, client, port, b"log"),
                udp_to(5060, client, port, message.as_bytes()),
                udp_to(5062, client, port, message.as_bytes()),
                udp_to(5062, client, port + 1, b"not SIP"),
                tcp_to(443, client, port, RST),
                tcp_to(443, client, port, SYN),
            ]);
        }
        let acks: Vec<_> = frames.iter().skip(1).step_by(12).cloned().collect();
        for round in 0..5 {
            match round {
                1 => rig.publish_snapshot(configuration(&rig.counts, algorithm, 400)),
                2 => {
                    let mut without = configuration(&rig.counts, algorithm, 400);
                    without.destinations[0].state = DestinationState::Removed;
                    rig.publish_snapshot(without);
                }
                3 => rig.hand.advance_seconds(120),
                // The table is empty again: what goes on is adopted.
                4 => {
                    rig.hand.advance_seconds(900);
                    (0..64).for_each(|_| rig.poll());
                }
                _ => {}
            }
            let frames = if round == 4 { &acks } else { &frames };
            for burst in frames.chunks(32) {
                for frame in burst {
                    assert!(rig.ports[0].inject(0, frame));
                }
                in_worker += calls(&mut rig);
                rig.ports[0].drain_transmitted(0, |_| {});
            }
        }
        assert_eq!(in_worker, 0, "{algorithm}");
        use dataplane::verdict::StatelessReason;
        for &reason in StatelessReason::ALL {
            assert!(rig.stateless(reason) > 0, "{algorithm}: {} was not reached", reason.name());
        }
        assert!(rig.dropped(dataplane::verdict::DropReason::BadSip) > 0);
        assert!(rig.counters[0].adopted.load() > 0, "{algorithm}");
        assert!(rig.counters[0].untemplated.load() > 0, "{algorithm}");
        rig.assert_conservation();
    }
}
