//! What a connection lives through: opened by a real server's turn, kept with it, moved through its states, expired.

mod rig;

use dataplane::verdict::DropReason::*;
use dataplane::verdict::StatelessReason;
use rig::*;
use scheduler::Algorithm;

#[test]
fn packets_of_a_connection_stay_with_its_real_server() {
    let mut rig = Rig::simple(Algorithm::Rr);
    let first: Vec<_> = (0..6).map(|port| rig.slot_for(&tcp(CLIENT, port, SYN)).unwrap()).collect();
    assert_eq!(first, [2, 1, 0, 2, 1, 0], "round robin, newest first");
    for _ in 0..3 {
        for port in 0..6 {
            assert_eq!(rig.slot_for(&tcp(CLIENT, port, ACK)), Some(first[usize::from(port)]));
        }
    }
    assert_eq!(rig.counters[0].connections_opened.load(), 6);
    rig.assert_conservation();
}

#[test]
fn first_packets_of_one_burst_open_one_connection() {
    let mut rig = Rig::simple(Algorithm::Rr);
    for flags in [SYN, ACK, ACK, SYN, FIN] {
        assert!(rig.ports[0].inject(0, &tcp(CLIENT, 1, flags)));
    }
    rig.poll();
    let sent = rig.ports[0].take_transmitted();
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|frame| frame[..6] == rs_mac(2)));
    assert_eq!(rig.counters[0].connections_opened.load(), 1);
    rig.assert_conservation();
}

#[test]
fn active_and_inactive_counts_follow_the_states() {
    let mut rig = Rig::new(1, 1, 16, Algorithm::Wlc, &[Rs::new(0)]);
    rig.pass(&tcp(CLIENT, 1, SYN));
    assert_eq!(rig.counts(0), (1, 0), "SYN_RECV is active");
    rig.pass(&tcp(CLIENT, 1, ACK));
    assert_eq!(rig.counts(0), (1, 0));
    rig.pass(&tcp(CLIENT, 1, FIN | ACK));
    assert_eq!(rig.counts(0), (0, 1), "FIN_WAIT is not");
    rig.pass(&udp(CLIENT, 1, b""));
    assert_eq!(rig.counts(0), (0, 2), "UDP never is");
    rig.advance_and_sweep(121);
    assert_eq!(rig.counts(0), (0, 1), "FIN_WAIT lasts 120 s");
    rig.advance_and_sweep(180);
    assert_eq!(rig.counts(0), (0, 0), "UDP lasts 300 s");
    assert_eq!(rig.counters[0].connections.load(), 0);
    assert_eq!(rig.counters[0].connections_expired.load(), 2);
    rig.assert_conservation();
}

#[test]
fn each_packet_re_arms_the_timer() {
    let mut rig = Rig::simple(Algorithm::Rr);
    let slot = rig.slot_for(&tcp(CLIENT, 1, SYN));
    rig.pass(&tcp(CLIENT, 1, ACK));
    for _ in 0..5 {
        rig.hand.advance_seconds(899);
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), slot);
    }
    rig.hand.advance_seconds(900);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), None, "gone at the very moment, swept or not");
    assert_eq!(rig.dropped(NoConnection), 1);
    rig.assert_conservation();
}

#[test]
fn syn_on_a_closed_tuple_opens_a_new_connection_at_once() {
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(2));
    rig.pass(&tcp(CLIENT, 1, ACK));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, RST)), Some(2));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(1), "rescheduled, not dropped");
    assert_eq!((rig.counts(2), rig.counts(1)), ((0, 0), (1, 0)));
    rig.pass(&tcp(CLIENT, 1, ACK));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(1), "a SYN on an established connection stays");
    rig.assert_conservation();
}

#[test]
fn weight_zero_keeps_connections_and_gets_no_new_ones() {
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(2));
    rig.publish(Algorithm::Rr, &[Rs { weight: 0, ..Rs::new(2) }, Rs::new(1), Rs::new(0)]);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), Some(2));
    for port in 10..20 {
        assert_ne!(rig.slot_for(&tcp(CLIENT, port, SYN)), Some(2));
    }
    rig.assert_conservation();
}

#[test]
fn connections_of_a_removed_real_server_are_dropped_until_it_comes_back() {
    use dataplane::snapshot::DestinationState;
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(2));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 2, SYN)), Some(1));
    let mut without = snapshot(&rig.counts, 1, Algorithm::Rr, &[Rs::new(1), Rs::new(0)]);
    without.destinations[2].state = DestinationState::Removed;
    rig.publish_snapshot(without);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), None);
    assert_eq!(rig.dropped(RealServerRemoved), 1);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 2, ACK)), Some(1), "others do not notice");
    rig.publish(Algorithm::Rr, &[Rs::new(2), Rs::new(1), Rs::new(0)]);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), Some(2), "the connection is still known");
    rig.assert_conservation();
}

#[test]
fn syn_to_a_removed_real_server_is_rescheduled() {
    use dataplane::snapshot::DestinationState;
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(2));
    let mut without = snapshot(&rig.counts, 1, Algorithm::Rr, &[Rs::new(1), Rs::new(0)]);
    without.destinations[2].state = DestinationState::Removed;
    rig.publish_snapshot(without);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, SYN)), Some(1));
    assert_eq!(rig.counts(2), (0, 0));
    rig.assert_conservation();
}

#[test]
fn connection_of_a_removed_real_server_ends_however_much_its_client_sends() {
    use dataplane::snapshot::DestinationState;
    let mut rig = Rig::simple(Algorithm::Rr);
    assert_eq!(rig.slot_for(&udp(CLIENT, 1, b"")), Some(2));
    let mut without = snapshot(&rig.counts, 1, Algorithm::Rr, &[Rs::new(1), Rs::new(0)]);
    without.destinations[2].state = DestinationState::Removed;
    rig.publish_snapshot(without);
    for _ in 0..2 {
        rig.hand.advance_seconds(140);
        assert_eq!(rig.slot_for(&udp(CLIENT, 1, b"")), None, "dropped, and the timer is not re-armed");
    }
    rig.hand.advance_seconds(30);
    assert_eq!(
        rig.slot_for(&udp(CLIENT, 1, b"")),
        Some(1),
        "300 s after its last forwarded packet it is a new one"
    );
    assert_eq!(rig.counts(2), (0, 0), "so that the slot can be given away");
    rig.assert_conservation();
}

#[test]
fn unresolved_real_server_gets_no_connections() {
    let unresolved = Rs { available: false, ..Rs::new(2) };
    for algorithm in [Algorithm::Rr, Algorithm::Wrr, Algorithm::Lc, Algorithm::Wlc] {
        let mut rig = Rig::new(1, 1, 64, algorithm, &[unresolved, Rs::new(1)]);
        for port in 0..10 {
            assert_eq!(rig.slot_for(&tcp(CLIENT, port, SYN)), Some(1));
        }
        rig.publish(algorithm, &[unresolved]);
        assert_eq!(rig.slot_for(&tcp(CLIENT, 99, SYN)), None);
        assert_eq!(rig.dropped(NoRealServer), 1);
        rig.assert_conservation();
    }
}

#[test]
fn full_table_forwards_new_connections_by_the_ring_and_keeps_the_old() {
    let mut rig = Rig::new(1, 1, 8, Algorithm::Rr, &[Rs::new(0)]);
    for port in 0..8 {
        assert_eq!(rig.slot_for(&tcp(CLIENT, port, SYN)), Some(0));
    }
    for port in 100..200 {
        assert_eq!(rig.slot_for(&tcp(CLIENT, port, SYN)), Some(0));
    }
    assert_eq!(rig.stateless(StatelessReason::TableFull), 100);
    assert_eq!(rig.counts(0), (8, 0));
    for port in 0..8 {
        assert_eq!(rig.slot_for(&tcp(CLIENT, port, ACK)), Some(0));
    }
    assert_eq!(rig.stateless(StatelessReason::TableFull), 100);
    rig.assert_conservation();
}

#[test]
fn reader_shows_every_connection_once() {
    let mut rig = Rig::simple(Algorithm::Rr);
    for port in 1000..1500 {
        rig.pass(&tcp(CLIENT, port, SYN));
    }
    rig.pass(&tcp(CLIENT, 1007, ACK));
    let reader = &rig.connections[0];
    let connections: Vec<_> = (0..reader.used_bound())
        .step_by(64)
        .flat_map(|from| reader.read(from, 64))
        .map(|record| record.connection)
        .collect();
    assert_eq!(connections.len(), 500);
    let mut ports: Vec<_> = connections.iter().map(|connection| connection.key.client_port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (1000..1500).collect::<Vec<_>>());
    let connection = connections.iter().find(|connection| connection.key.client_port() == 1007).unwrap();
    assert_eq!((connection.state.name(), connection.destination), ("ESTABLISHED", 1));
    assert_eq!(connection.expires.0, 900 * dataplane::clock::TICKS_PER_SECOND);
    let tuple = connection.key.tuple(&connection.pair);
    assert_eq!((tuple.client, tuple.service.address), (CLIENT.into(), VIP.into()));
    assert_eq!((tuple.service.port, tuple.service.protocol.0), (80, 6));
}
