//! What sequences of packets, possible and impossible, make of a connection: each row a connection's life.

mod rig;

use dataplane::connection::StateTimeouts;
use dataplane::snapshot::{Options, Protocol};
use rig::*;
use scheduler::Algorithm;

const NO_FLAG: u8 = 0;
const XMAS: u8 = 0x29;

/// Sends the packets of one connection and says the state after each; `-` where the packet was dropped.
fn life(options: Options, packets: impl IntoIterator<Item = Vec<u8>>) -> String {
    let mut first = None;
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[Rs::new(0)]);
        snapshot.options = options;
        snapshot
    });
    let mut states = Vec::new();
    for frame in packets {
        let slot = rig.slot_for(&frame);
        let port = u16::from_be_bytes([frame[34], frame[35]]);
        states.push(if slot.is_some() { rig.state(port) } else { "-" });
        first = first.or(slot);
        rig.assert_conservation();
        let counts = rig.counts(0);
        let active = ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"];
        let is_active = active.contains(&rig.state(port));
        let expected =
            if rig.connections().is_empty() { (0, 0) } else { (u32::from(is_active), u32::from(!is_active)) };
        assert_eq!(counts, expected, "{states:?}");
    }
    states.join(" ")
}

fn tcp_life(options: Options, flags: &[u8]) -> String {
    life(
        options,
        flags.iter().map(|&flags| {
            let mut frame = tcp(CLIENT, 1000, 0);
            frame[47] = flags;
            frame
        }),
    )
}

fn sctp_life(options: Options, chunks: &[&[u8]]) -> String {
    life(options, chunks.iter().map(|chunks| sctp(CLIENT, 1000, chunks)))
}

#[test]
fn tcp_connections_live_by_ipvs_table() {
    let normal = Options::default();
    let secure = Options { secure_tcp: true, ..normal };
    let sloppy = Options { sloppy_tcp: true, ..normal };
    for (name, options, flags, expected) in [
        (
            "a whole one",
            normal,
            &[SYN, ACK, ACK, FIN | ACK, ACK][..],
            "SYN_RECV ESTABLISHED ESTABLISHED FIN_WAIT FIN_WAIT",
        ),
        ("SYN again in ESTABLISHED", normal, &[SYN, ACK, SYN], "SYN_RECV ESTABLISHED ESTABLISHED"),
        ("refused by the client", normal, &[SYN, RST], "SYN_RECV SYN_RECV"),
        ("reset", normal, &[SYN, ACK, RST | ACK], "SYN_RECV ESTABLISHED CLOSE"),
        (
            "packets after a reset",
            normal,
            &[SYN, ACK, RST, ACK, FIN],
            "SYN_RECV ESTABLISHED CLOSE CLOSE CLOSE",
        ),
        ("FIN before the handshake is done", normal, &[SYN, FIN, ACK], "SYN_RECV TIME_WAIT TIME_WAIT"),
        ("SYN + ACK opens", normal, &[SYN | ACK, ACK], "SYN_RECV ESTABLISHED"),
        ("SYN + FIN is a SYN", normal, &[SYN | FIN, SYN | FIN], "SYN_RECV SYN_RECV"),
        ("SYN + RST closes", normal, &[SYN, ACK, SYN | RST], "SYN_RECV ESTABLISHED CLOSE"),
        ("no flag at all closes (IPVS)", normal, &[SYN, ACK, NO_FLAG], "SYN_RECV ESTABLISHED CLOSE"),
        ("PSH alone is no flag", normal, &[SYN, ACK, 8], "SYN_RECV ESTABLISHED CLOSE"),
        ("Xmas scan is a FIN", normal, &[SYN, ACK, XMAS], "SYN_RECV ESTABLISHED FIN_WAIT"),
        ("every flag is a RST", normal, &[SYN, ACK, 0xff], "SYN_RECV ESTABLISHED CLOSE"),
        ("ECN's flags change nothing", normal, &[SYN | 0xc0, ACK | 0xc0], "SYN_RECV ESTABLISHED"),
        ("midway without a connection", normal, &[ACK, FIN, RST, NO_FLAG], "- - - -"),
        ("secure: SYN does not count yet", secure, &[SYN, SYN, ACK], "SYNACK SYNACK ESTABLISHED"),
        ("secure: reset", secure, &[SYN, RST], "SYNACK CLOSE"),
        ("sloppy: ACK opens", sloppy, &[ACK, ACK], "ESTABLISHED ESTABLISHED"),
        ("sloppy: FIN opens", sloppy, &[FIN], "CLOSE"),
        ("sloppy: no flag opens", sloppy, &[NO_FLAG], "CLOSE"),
        ("sloppy: RST does not", sloppy, &[RST, RST | SYN, RST | ACK], "- - -"),
    ] {
        assert_eq!(tcp_life(options, flags), expected, "{name}");
    }
}

#[test]
fn sctp_associations_live_by_ipvs_table() {
    let normal = Options::default();
    let sloppy = Options { sloppy_sctp: true, ..normal };
    let (data, init, sack, heartbeat, abort) = (chunk(0), chunk(1), chunk(3), chunk(4), chunk(6));
    let (shutdown, shutdown_ack, error, cookie_echo, cookie_ack) =
        (chunk(7), chunk(8), chunk(9), chunk(10), chunk(11));
    let shutdown_complete = chunk(14);
    let aborted_cookie = [cookie_echo, abort].concat();
    for (name, options, packets, expected) in [
        (
            "the client closes",
            normal,
            &[&init[..], &cookie_echo, &data, &sack, &shutdown, &shutdown_complete][..],
            "INIT1 ESTABLISHED ESTABLISHED ESTABLISHED S-RECEIVED CLOSED",
        ),
        ("the server closes", normal, &[&init, &cookie_echo, &shutdown_ack], "INIT1 ESTABLISHED CLOSED"),
        ("INIT again and again", normal, &[&init, &init, &init], "INIT1 INIT INIT"),
        ("aborted", normal, &[&init, &cookie_echo, &abort, &data], "INIT1 ESTABLISHED CLOSED CLOSED"),
        ("cookie and ABORT in one", normal, &[&init, &aborted_cookie], "INIT1 CLOSED"),
        ("data before the cookie", normal, &[&init, &data, &heartbeat], "INIT1 INIT1 INIT1"),
        ("cookie without INIT", normal, &[&cookie_echo, &cookie_ack, &data], "- - -"),
        ("error", normal, &[&init, &cookie_echo, &error], "INIT1 ESTABLISHED ESTABLISHED"),
        ("sloppy: DATA opens", sloppy, &[&data, &data], "ESTABLISHED ESTABLISHED"),
        ("sloppy: HEARTBEAT opens", sloppy, &[&heartbeat], "ESTABLISHED"),
        ("sloppy: ABORT does not", sloppy, &[&abort], "-"),
    ] {
        assert_eq!(sctp_life(options, packets), expected, "{name}");
    }
}

#[test]
fn timeouts_are_those_of_the_service_and_of_the_state() {
    // All services' first, then one of their own for slot 1.
    let own = StateTimeouts::from_seconds((1..=26).map(|place| place * 10));
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[Rs::new(0)]);
        snapshot.timeouts = vec![StateTimeouts::IPVS, own];
        add_service(&mut snapshot, counts, Algorithm::Rr, &[Rs::new(1)], &[(Protocol::TCP, 81)], |_| {});
        add_service(&mut snapshot, counts, Algorithm::Rr, &[Rs::new(1)], &[(Protocol::UDP, 81)], |_| {});
        let of_slot_1 =
            dataplane::snapshot::Destination { macs: rs_macs(1), timeouts: 1, ..snapshot.destinations[0] };
        snapshot.destinations[1] = of_slot_1;
        snapshot
    });
    for (name, frames, seconds) in [
        ("SYN_RECV of IPVS", vec![tcp(CLIENT, 1000, SYN)], 60),
        ("ESTABLISHED of IPVS", vec![tcp(CLIENT, 1000, SYN), tcp(CLIENT, 1000, ACK)], 900),
        ("UDP of IPVS", vec![udp(CLIENT, 1000, b"")], 300),
        ("SYN_RECV of the service", vec![tcp_to(81, CLIENT, 1000, SYN)], 40),
        (
            "ESTABLISHED of the service",
            vec![tcp_to(81, CLIENT, 1000, SYN), tcp_to(81, CLIENT, 1000, ACK)],
            20,
        ),
        ("CLOSE of the service", vec![tcp_to(81, CLIENT, 1000, SYN), tcp_to(81, CLIENT, 1000, 0)], 70),
        ("UDP of the service", vec![udp_to(81, CLIENT, 1000, b"")], 120),
    ] {
        for frame in &frames {
            assert!(rig.slot_for(frame).is_some(), "{name}");
        }
        rig.advance_and_sweep(seconds - 1);
        assert_eq!(rig.connections().len(), 1, "{name}");
        rig.advance_and_sweep(2);
        assert_eq!(rig.connections().len(), 0, "{name}");
    }
    rig.assert_conservation();
}
