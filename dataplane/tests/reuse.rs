//! A SYN or INIT on the tuple of a known connection, and connections whose real server is gone: new, the old one, or dropped.

mod rig;

use dataplane::snapshot::{DestinationState, Options};
use dataplane::verdict::DropReason::*;
use rig::*;
use scheduler::Algorithm;

/// Three real servers under round robin, newest first: the first connection goes to 2, the next to 1.
fn rig(options: Options) -> Rig {
    Rig::with(1, 1, 64, |counts| with_options(counts, options, &[Rs::new(2), Rs::new(1), Rs::new(0)]))
}

fn with_options(
    counts: &dataplane::snapshot::SharedCounts,
    options: Options,
    real_servers: &[Rs],
) -> dataplane::snapshot::Snapshot {
    let mut snapshot = snapshot(counts, 1, Algorithm::Rr, real_servers);
    snapshot.options = options;
    snapshot
}

/// The configuration without real server 2, which has connections.
fn remove_newest(rig: &mut Rig, options: Options) {
    let mut without = with_options(&rig.counts, options, &[Rs::new(1), Rs::new(0)]);
    without.destinations[2].state = DestinationState::Removed;
    rig.publish_snapshot(without);
}

#[test]
fn syn_is_new_where_the_mode_says_that_the_connection_is_over() {
    let states: [(&str, &[u8], [bool; 4]); 6] = [
        ("SYN_RECV", &[SYN], [false, false, false, false]),
        ("ESTABLISHED", &[SYN, ACK], [false, false, false, false]),
        ("FIN_WAIT", &[SYN, ACK, FIN], [false, false, true, true]),
        ("TIME_WAIT", &[SYN, FIN], [false, true, true, true]),
        ("CLOSE", &[SYN, ACK, RST], [false, true, true, true]),
        // What is left of an adopted or sloppy connection.
        ("CLOSE", &[SYN, ACK, 0], [false, true, true, true]),
    ];
    for (state, flags, is_new) in states {
        for (mode, is_new) in (0..).zip(is_new) {
            let mut rig = rig(Options { conn_reuse_mode: mode, ..Options::default() });
            for &flags in flags {
                assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, flags)), Some(2));
            }
            assert_eq!(rig.state(1000), state);
            let to = if is_new { 1 } else { 2 };
            assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(to), "{state}, mode {mode}");
            let opened = 1 + u64::from(is_new);
            assert_eq!(rig.counters[0].connections_opened.load(), opened, "{state}, mode {mode}");
            assert_eq!(rig.connections().len(), 1, "{state}, mode {mode}");
            rig.assert_conservation();
        }
    }
}

#[test]
fn init_is_new_on_a_closed_association_only() {
    for (mode, chunks, to) in [
        (1, &[1, 10][..], 2),
        (1, &[1, 10, 7], 2),
        (1, &[1, 10, 6], 1),
        (2, &[1, 10, 6], 1),
        (0, &[1, 10, 6], 2),
    ] {
        let mut rig = rig(Options { conn_reuse_mode: mode, ..Options::default() });
        for &kind in chunks {
            assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(kind))), Some(2));
        }
        assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(1))), Some(to), "{mode} {chunks:?}");
        rig.assert_conservation();
    }
}

#[test]
fn syn_with_rst_ends_a_closed_connection_and_opens_none_as_ipvs_does() {
    let mut rig = rig(Options::default());
    for flags in [SYN, ACK, RST] {
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, flags)), Some(2));
    }
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN | RST)), None);
    assert!(rig.connections().is_empty());
    for flags in [SYN, SYN | RST] {
        assert!(rig.slot_for(&tcp(CLIENT, 1001, flags)).is_some(), "it belongs to the connection that lives");
    }
}

#[test]
fn syn_leaves_a_quiesced_real_server_where_its_connections_expire() {
    for (expire_nodest_conn, to) in [(false, 2), (true, 1)] {
        let options = Options { expire_nodest_conn, ..Options::default() };
        let mut rig = rig(options);
        for flags in [SYN, ACK] {
            rig.pass(&tcp(CLIENT, 1000, flags));
        }
        let quiesced = [Rs { weight: 0, ..Rs::new(2) }, Rs::new(1), Rs::new(0)];
        rig.publish_snapshot(with_options(&rig.counts, options, &quiesced));
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, ACK)), Some(2), "its connections stay");
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(to));
        rig.assert_conservation();
    }
}

#[test]
fn connections_of_a_removed_real_server_end_where_they_shall() {
    let options = Options { expire_nodest_conn: true, ..Options::default() };
    let mut rig = rig(options);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(2));
    assert_eq!(rig.slot_for(&udp(CLIENT, 1000, b"")), Some(2));
    assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(1))), Some(2));
    assert_eq!(rig.counts(2), (1, 2));
    remove_newest(&mut rig, options);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, ACK)), None);
    assert_eq!(rig.dropped(NoConnection), 1, "midway, it is of no connection now");
    assert_eq!(rig.slot_for(&udp(CLIENT, 1000, b"")), Some(1), "UDP is scheduled at once");
    assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(0))), None);
    assert_eq!(rig.dropped(NoConnection), 2);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(1));
    assert_eq!(rig.counts(2), (0, 0));
    rig.assert_conservation();
}

#[test]
fn connections_of_a_removed_real_server_that_get_no_packet_end_within_two_seconds() {
    for (expire_nodest_conn, left) in [(true, 0), (false, 20)] {
        let options = Options { expire_nodest_conn, ..Options::default() };
        let mut rig = rig(options);
        for port in 1000..1060 {
            rig.pass(&tcp(CLIENT, port, SYN));
            rig.pass(&tcp(CLIENT, port, ACK));
        }
        assert_eq!(rig.counts(2), (20, 0));
        remove_newest(&mut rig, options);
        rig.advance_and_sweep(2);
        assert_eq!(rig.counts(2), (left, 0));
        assert_eq!((rig.counts(1), rig.counts(0)), ((20, 0), (20, 0)));
        assert_eq!(rig.connections().len() as u32, 40 + left);
        rig.assert_conservation();
    }
}

#[test]
fn sloppy_midway_packet_of_a_removed_real_server_is_scheduled_at_once() {
    let options = Options { expire_nodest_conn: true, sloppy_tcp: true, ..Options::default() };
    let mut rig = rig(options);
    rig.pass(&tcp(CLIENT, 1000, SYN));
    remove_newest(&mut rig, options);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, ACK)), Some(1));
    assert_eq!(rig.state(1000), "ESTABLISHED");
}

#[test]
fn real_server_that_comes_back_has_its_connections_again() {
    let options = Options::default();
    let mut rig = rig(options);
    for frame in [tcp(CLIENT, 1000, SYN), udp(CLIENT, 1000, b""), sctp(CLIENT, 1000, &chunk(1))] {
        assert_eq!(rig.slot_for(&frame), Some(2));
    }
    remove_newest(&mut rig, options);
    for frame in [tcp(CLIENT, 1000, ACK), udp(CLIENT, 1000, b""), sctp(CLIENT, 1000, &chunk(0))] {
        assert_eq!(rig.slot_for(&frame), None);
    }
    assert_eq!(rig.dropped(RealServerRemoved), 3);
    rig.publish_snapshot(with_options(&rig.counts, options, &[Rs::new(2), Rs::new(1), Rs::new(0)]));
    for frame in [tcp(CLIENT, 1000, ACK), udp(CLIENT, 1000, b""), sctp(CLIENT, 1000, &chunk(0))] {
        assert_eq!(rig.slot_for(&frame), Some(2));
    }
    rig.assert_conservation();
}

#[test]
fn init_to_a_removed_real_server_is_rescheduled_whatever_the_settings() {
    for conn_reuse_mode in 0..4 {
        let options = Options { conn_reuse_mode, ..Options::default() };
        let mut rig = rig(options);
        assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(1))), Some(2));
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(2));
        remove_newest(&mut rig, options);
        assert_eq!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(1))), Some(1));
        assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN)), Some(1));
    }
}
