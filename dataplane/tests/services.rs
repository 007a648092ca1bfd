//! Which service wants a packet, and what kinds of service do with it: groups, one-packet scheduling, thresholds.

mod rig;

use dataplane::snapshot::Protocol;
use dataplane::verdict::DropReason::*;
use rig::*;
use scheduler::Algorithm;

const NEWEST_FIRST: [u32; 3] = [2, 1, 0];

fn real_servers() -> Vec<Rs> {
    NEWEST_FIRST.map(Rs::new).to_vec()
}

#[test]
fn group_schedules_all_its_ports_as_one() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers());
        let members = [(Protocol::TCP, 81), (Protocol::TCP, 82), (Protocol::UDP, 83)];
        add_service(&mut snapshot, counts, Algorithm::Rr, &real_servers(), &members, |_| {});
        snapshot
    });
    let frames = [
        tcp_to(81, CLIENT, 1000, SYN),
        tcp_to(82, CLIENT, 1000, SYN),
        udp_to(83, CLIENT, 1000, b""),
        tcp_to(81, CLIENT, 1001, SYN),
    ];
    let slots: Vec<_> = frames.iter().map(|frame| rig.slot_for(frame).unwrap()).collect();
    assert_eq!(slots, [2, 1, 0, 2], "one turn for all");
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(2), "others have their own");
    rig.assert_conservation();
}

#[test]
fn service_of_every_port_gets_what_no_other_wants() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers());
        add_service(&mut snapshot, counts, Algorithm::Rr, &[Rs::new(5)], &[(Protocol::TCP, 0)], |_| {});
        snapshot.destinations[5] =
            dataplane::snapshot::Destination { macs: rs_macs(5), ..snapshot.destinations[0] };
        snapshot
    });
    for port in [0, 1, 21, 79, 81, 65535] {
        assert_eq!(rig.slot_for(&tcp_to(port, CLIENT, 1000, SYN)), Some(5), "{port}");
    }
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(2), "port 80 has a service of its own");
    assert_eq!(rig.slot_for(&udp_to(81, CLIENT, 1000, b"")), None, "TCP only");
    assert_eq!(rig.dropped(NoService), 1);
    rig.assert_conservation();
}

#[test]
fn ftp_service_that_does_not_keep_clients_wants_its_own_port_only() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers());
        add_service(&mut snapshot, counts, Algorithm::Rr, &real_servers(), &[(Protocol::TCP, 21)], |_| {});
        snapshot
    });
    assert!(rig.slot_for(&tcp_to(21, CLIENT, 1000, SYN)).is_some());
    for port in [20, 1024, 40_000] {
        assert_eq!(rig.slot_for(&tcp_to(port, CLIENT, 1000, SYN)), None, "{port}");
    }
    assert_eq!(rig.dropped(NoService), 3);
    rig.assert_conservation();
}

#[test]
fn one_packet_service_schedules_each_datagram_and_keeps_nothing() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers());
        let members = [(Protocol::UDP, 514), (Protocol::TCP, 514)];
        add_service(&mut snapshot, counts, Algorithm::Rr, &real_servers(), &members, |service| {
            service.one_packet = true;
        });
        snapshot.options.creation_rate_per_worker = 1;
        snapshot
    });
    let slots: Vec<_> = (0..300).map(|_| rig.slot_for(&udp_to(514, CLIENT, 1000, b"log")).unwrap()).collect();
    assert!(slots.chunks(3).all(|turn| turn == NEWEST_FIRST), "each in its turn");
    assert!(rig.connections().is_empty());
    assert_eq!(rig.counters[0].connections_opened.load(), 0);
    assert_eq!(rig.counters[0].stateless_total(), 0, "what keeps no state needs no allowance");
    for slot in 0..3 {
        assert_eq!(rig.counters[0].destinations[slot].connections.load(), 100, "IPVS counts each");
        assert_eq!(rig.counts(slot), (0, 0));
    }
    assert_eq!(rig.slot_for(&tcp_to(514, CLIENT, 1000, SYN)), Some(2));
    assert_eq!(rig.slot_for(&tcp_to(514, CLIENT, 1000, ACK)), Some(2), "TCP of the group is not one-packet");
    rig.assert_conservation();
}

#[test]
fn connections_of_before_go_on_when_a_service_becomes_one_packet() {
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&udp(CLIENT, 1000, b"")), Some(2));
    let mut next = snapshot(&rig.counts, 1, Algorithm::Rr, &real_servers());
    add_service(&mut next, &rig.counts, Algorithm::Rr, &real_servers(), &[(Protocol::UDP, DNS)], |service| {
        service.one_packet = true;
    });
    rig.publish_snapshot(next);
    for _ in 0..4 {
        assert_eq!(rig.slot_for(&udp(CLIENT, 1000, b"")), Some(2));
    }
    let turn: Vec<_> = (0..3).map(|_| rig.slot_for(&udp(CLIENT, 1001, b"")).unwrap()).collect();
    assert_eq!(turn, NEWEST_FIRST);
}

#[test]
fn real_server_at_its_threshold_gets_no_new_connections_until_it_is_below_the_lower() {
    let limited = Rs { upper_threshold: 4, lower_threshold: 2, ..Rs::new(1) };
    let mut rig = Rig::new(1, 1, 64, Algorithm::Rr, &[limited, Rs::new(0)]);
    let mut to_limited = Vec::new();
    for port in 1000..1020 {
        if rig.slot_for(&tcp(CLIENT, port, SYN)) == Some(1) {
            to_limited.push(port);
        }
    }
    assert_eq!((to_limited.len(), rig.counts(1)), (4, (4, 0)));
    for port in &to_limited {
        assert_eq!(rig.slot_for(&tcp(CLIENT, *port, ACK)), Some(1), "those that it has go on");
    }
    // Two of the four are closed: 2 is not below 2.
    for &port in &to_limited[..2] {
        rig.pass(&tcp(CLIENT, port, RST));
    }
    rig.advance_and_sweep(11);
    assert_eq!(rig.counts(1), (2, 0));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 2000, SYN)), Some(0));
    rig.pass(&tcp(CLIENT, to_limited[2], RST));
    rig.advance_and_sweep(11);
    assert_eq!(rig.counts(1), (1, 0));
    let again = (2001..2003).map(|port| rig.slot_for(&tcp(CLIENT, port, SYN))).collect::<Vec<_>>();
    assert!(again.contains(&Some(1)), "{again:?}");
    rig.assert_conservation();
}

#[test]
fn all_real_servers_at_their_thresholds_is_no_real_server() {
    let limited = |slot| Rs { upper_threshold: 2, ..Rs::new(slot) };
    for algorithm in Algorithm::ALL {
        let mut rig = Rig::new(1, 1, 64, algorithm, &[limited(1), limited(0)]);
        let went_to = (1000..1020).filter(|&port| rig.slot_for(&tcp(CLIENT, port, SYN)).is_some()).count();
        assert!((2..=4).contains(&went_to), "{algorithm}: {went_to}");
        assert_eq!(rig.dropped(NoRealServer), 20 - went_to as u64);
        rig.assert_conservation();
    }
}
