//! Description, packet in, verdict, packet out: one row a behaviour of the worker towards single packets.

mod rig;

use dataplane::port::PortId;
use dataplane::verdict::DropReason::{self, *};
use dataplane::verdict::PuntQueue;
use etherparse::PacketBuilder;
use rig::*;
use scheduler::Algorithm;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Forward,
    Punt,
    Drop(DropReason),
}
use Expected::{Drop, Forward, Punt};

fn syn() -> Vec<u8> {
    tcp(CLIENT, 40_000, SYN)
}

fn changed(mut frame: Vec<u8>, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    fix_checksum(&mut frame);
    frame
}

fn arp(sender: [u8; 4], target: [u8; 4], destination: [u8; 6]) -> Vec<u8> {
    dataplane::packet::arp::ArpPacket {
        operation: 1,
        sender_mac: CLIENT_MAC,
        sender_address: sender.into(),
        target_mac: [0; 6],
        target_address: target.into(),
    }
    .to_frame(destination, CLIENT_MAC)
    .to_vec()
}

fn ping(destination: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
        .ipv4(CLIENT, destination, 1)
        .icmpv4_echo_request(1, 1)
        .write(&mut frame, b"0123456789abcdef")
        .unwrap();
    frame
}

const BROADCAST: [u8; 6] = [0xff; 6];

#[test]
fn each_packet_gets_its_verdict() {
    let table: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("SYN to the VIP", syn(), Forward),
        (
            "SYN with IP options",
            changed(syn(), |frame| {
                frame[14] = 0x46;
                frame[17] += 4;
                frame.splice(34..34, [1, 1, 1, 0]);
            }),
            Forward,
        ),
        ("SYN + ACK opens too (active FTP)", tcp(CLIENT, 1, SYN | ACK), Forward),
        ("SYN + FIN is a SYN", tcp(CLIENT, 1, SYN | 1), Forward),
        ("UDP to the VIP", udp(CLIENT, 5353, b"query"), Forward),
        ("UDP from port 0", udp(CLIENT, 0, b""), Forward),
        ("UDP without payload", udp(CLIENT, 1, b""), Forward),
        ("DSCP and ECN kept", changed(syn(), |frame| frame[15] = 0xff), Forward),
        ("TTL 2", changed(syn(), |frame| frame[22] = 2), Forward),
        ("TTL 1", changed(syn(), |frame| frame[22] = 1), Drop(TtlExpired)),
        ("TTL 0", changed(syn(), |frame| frame[22] = 0), Drop(TtlExpired)),
        ("ACK of no connection", tcp(CLIENT, 1, ACK), Drop(NoConnection)),
        ("RST of no connection", tcp(CLIENT, 1, 4), Drop(NoConnection)),
        ("FIN of no connection", tcp(CLIENT, 1, 1), Drop(NoConnection)),
        ("NULL scan", tcp(CLIENT, 1, 0), Drop(NoConnection)),
        ("SYN + RST", tcp(CLIENT, 1, SYN | 4), Drop(NoConnection)),
        ("TCP to another port of the VIP", changed(syn(), |frame| frame[36] = 1), Drop(NoService)),
        ("TCP to the UDP service", changed(syn(), |frame| frame[37] = 53), Drop(NoService)),
        ("TCP to the DIP", changed(syn(), |frame| frame[30..34].copy_from_slice(&DIP)), Drop(NoService)),
        ("TCP to a stranger", changed(syn(), |frame| frame[33] = 99), Drop(NotLocal)),
        ("GRE to the VIP", changed(syn(), |frame| frame[23] = 47), Drop(NoService)),
        (
            "GRE to a stranger",
            changed(syn(), |frame| {
                frame[23] = 47;
                frame[33] = 99
            }),
            Drop(NotLocal),
        ),
        ("other unicast MAC", changed(syn(), |frame| frame[5] ^= 1), Drop(WrongMac)),
        ("broadcast MAC, unicast IP", changed(syn(), |frame| frame[..6].fill(255)), Drop(WrongMac)),
        ("multicast MAC", changed(syn(), |frame| frame[0] |= 1), Drop(WrongMac)),
        ("IPv6", changed(syn(), |frame| frame[12..14].copy_from_slice(&[0x86, 0xdd])), Drop(BadIpHeader)),
        ("802.1Q", changed(syn(), |frame| frame[12..14].copy_from_slice(&[0x81, 0])), Drop(UnknownVlan)),
        (
            "802.3 length",
            changed(syn(), |frame| frame[12..14].copy_from_slice(&[0, 46])),
            Drop(UnknownEtherType),
        ),
        ("PAUSE", changed(syn(), |frame| frame[12..14].copy_from_slice(&[0x88, 8])), Drop(UnknownEtherType)),
        (
            "bad checksum",
            {
                let mut frame = syn();
                frame[24] ^= 1;
                frame
            },
            Drop(BadIpChecksum),
        ),
        (
            "first fragment that is no multiple of 8",
            changed(syn(), |frame| frame[20] = 0x20),
            Drop(BadFragment),
        ),
        ("fragment into TCP's header", changed(syn(), |frame| frame[21] = 1), Drop(BadFragment)),
        ("DF is no fragment", changed(syn(), |frame| frame[20] = 0x40), Forward),
        ("reserved flag is no fragment", changed(syn(), |frame| frame[20] = 0x80), Forward),
        ("LAND", changed(syn(), |frame| frame.copy_within(30..34, 26)), Drop(BadSource)),
        ("source loopback", changed(syn(), |frame| frame[26] = 127), Drop(BadSource)),
        ("TCP data offset 4", changed(syn(), |frame| frame[46] = 0x40), Drop(BadTransportHeader)),
        ("TCP data offset over segment", changed(syn(), |frame| frame[46] = 0xf0), Drop(BadTransportHeader)),
        ("IP payload too short for TCP", changed(syn(), |frame| frame[17] = 39), Drop(BadTransportHeader)),
        ("UDP length 7", changed(udp(CLIENT, 1, b""), |frame| frame[39] = 7), Drop(BadTransportHeader)),
        (
            "UDP length over packet",
            changed(udp(CLIENT, 1, b""), |frame| frame[39] = 9),
            Drop(BadTransportHeader),
        ),
        ("TCP from FTP's data port", tcp(CLIENT, 20, SYN), Drop(NoConnection)),
        ("UDP from FTP's data port", udp(CLIENT, 20, b""), Drop(NoConnection)),
        ("SYN + RST + FIN", tcp(CLIENT, 1, SYN | 4 | 1), Drop(NoConnection)),
        ("Xmas scan", changed(tcp(CLIENT, 1, 0), |frame| frame[47] = 0x29), Drop(NoConnection)),
        ("every flag at once", changed(tcp(CLIENT, 1, 0), |frame| frame[47] = 0xff), Drop(NoConnection)),
        ("SCTP INIT", sctp(CLIENT, 5000, &chunk(1)), Forward),
        (
            "SCTP INIT with TTL 1",
            changed(sctp(CLIENT, 1, &chunk(1)), |frame| frame[22] = 1),
            Drop(TtlExpired),
        ),
        ("SCTP INIT, checksum wrong", changed(sctp(CLIENT, 1, &chunk(1)), |frame| frame[42] ^= 1), Forward),
        ("SCTP INIT of 8 bytes", sctp(CLIENT, 5000, &[1, 0, 0, 8, 0, 0, 0, 0]), Forward),
        ("SCTP from FTP's data port", sctp(CLIENT, 20, &chunk(1)), Drop(NoConnection)),
        ("SCTP DATA of no association", sctp(CLIENT, 1, &chunk(0)), Drop(NoConnection)),
        ("SCTP INIT ACK of no association", sctp(CLIENT, 1, &chunk(2)), Drop(NoConnection)),
        ("SCTP HEARTBEAT of no association", sctp(CLIENT, 1, &chunk(4)), Drop(NoConnection)),
        ("SCTP ABORT of no association", sctp(CLIENT, 1, &chunk(6)), Drop(NoConnection)),
        ("SCTP chunk of no known type", sctp(CLIENT, 1, &chunk(255)), Drop(NoConnection)),
        ("SCTP without a chunk", sctp(CLIENT, 1, &[]), Drop(BadTransportHeader)),
        ("SCTP chunk header cut short", sctp(CLIENT, 1, &[1, 0, 0]), Drop(BadTransportHeader)),
        ("SCTP chunk of length 0", sctp(CLIENT, 1, &[1, 0, 0, 0]), Drop(BadTransportHeader)),
        ("SCTP chunk of length 3", sctp(CLIENT, 1, &[1, 0, 0, 3]), Drop(BadTransportHeader)),
        ("SCTP chunk longer than the packet", sctp(CLIENT, 1, &[1, 0, 0, 5]), Drop(BadTransportHeader)),
        (
            "SCTP header cut short",
            changed(sctp(CLIENT, 1, &[]), |frame| frame[17] = 31),
            Drop(BadTransportHeader),
        ),
        (
            "SCTP to another port",
            changed(sctp(CLIENT, 1, &chunk(1)), |frame| frame[37] ^= 1),
            Drop(NoService),
        ),
        ("UDP of 1473 bytes over the MTU", udp(CLIENT, 1, &[0; 1473]), Drop(TooBig)),
        ("UDP of the MTU", udp(CLIENT, 1, &[0; 1472]), Forward),
        ("ARP request for the VIP", arp(CLIENT, VIP, BROADCAST), Punt),
        ("ARP request for the DIP, unicast", arp(CLIENT, DIP, own_mac(0)), Punt),
        ("ARP of a real server", arp([10, 0, 0, 11], [10, 0, 0, 99], BROADCAST), Punt),
        ("ARP for a real server", arp(CLIENT, [10, 0, 0, 11], BROADCAST), Punt),
        ("ARP of strangers", arp(CLIENT, [10, 0, 0, 99], BROADCAST), Drop(ArpIgnored)),
        ("ARP to another MAC", arp(CLIENT, VIP, rs_mac(1)), Drop(WrongMac)),
        (
            "RARP operation",
            {
                let mut frame = arp(CLIENT, VIP, BROADCAST);
                frame[21] = 3;
                frame
            },
            Drop(ArpIgnored),
        ),
        ("ARP, short", arp(CLIENT, VIP, BROADCAST)[..41].to_vec(), Drop(Truncated)),
        ("ping to the VIP, TTL 1", ping(VIP), Punt),
        ("ping to the DIP", ping(DIP), Punt),
        ("ping to a stranger", ping([10, 0, 0, 99]), Drop(NotLocal)),
        (
            "echo reply to the VIP",
            {
                let mut frame = ping(VIP);
                frame[34] = 0;
                frame
            },
            Drop(NoService),
        ),
        ("empty frame", vec![], Drop(Truncated)),
    ];
    for (name, frame, expected) in table {
        let mut rig = Rig::simple(Algorithm::Rr);
        let sent = rig.pass(&frame);
        let counters = &rig.counters[0];
        let got = match (counters.forwarded.load(), counters.punted.load()) {
            (1, 0) => Forward,
            (0, 1) => Punt,
            _ => Drop(*DropReason::ALL.iter().find(|&&reason| counters.dropped(reason) == 1).unwrap()),
        };
        assert_eq!(got, expected, "{name}");
        assert_eq!(counters.received.load(), 1, "{name}");
        rig.assert_conservation();
        assert_eq!(sent.len(), usize::from(expected == Forward), "{name}");
        if let [out] = &sent[..] {
            let mut wanted = frame.clone();
            wanted[..6].copy_from_slice(&rs_mac(2));
            wanted[6..12].copy_from_slice(&own_mac(0));
            wanted[22] -= 1;
            fix_checksum(&mut wanted);
            assert_eq!(
                out, &wanted,
                "{name}: the newest real server gets the frame, only MACs, TTL and checksum changed"
            );
        }
        if expected == Punt {
            let mut punted = Vec::new();
            let queue = if frame[12..14] == [8, 6] { PuntQueue::Neighbour } else { PuntQueue::Echo };
            assert_eq!(
                dataplane::host::HostPath::next_punted(&rig.host, queue, &mut punted),
                Some(dataplane::snapshot::InterfaceId(0)),
                "{name}"
            );
            assert_eq!(punted, frame, "{name}");
        }
        if expected != Forward {
            assert_eq!(counters.connections_opened.load(), 0, "{name}");
        }
    }
}

#[test]
fn frame_for_a_port_that_refuses_is_dropped_and_counted() {
    let mut rig = Rig::simple(Algorithm::Rr);
    rig.ports[0].set_tx_limit(Some(0));
    assert!(rig.pass(&syn()).is_empty());
    assert_eq!(rig.dropped(TxFull), 1);
    rig.assert_conservation();
    rig.ports[0].set_tx_limit(None);
    assert_eq!(rig.pass(&tcp(CLIENT, 40_000, ACK)).len(), 1, "the connection was opened all the same");
    rig.assert_conservation();
}

#[test]
fn frame_whose_buffer_somebody_else_has_too_is_dropped() {
    use dataplane::port::FramePool;
    let mut rig = Rig::simple(Algorithm::Rr);
    let mut frame = rig.ports[0].pool().frame(&syn()).unwrap();
    frame.set_shared(true);
    assert!(rig.ports[0].inject_frame(0, frame).is_ok());
    rig.poll();
    assert_eq!(rig.dropped(NotContiguous), 1);
    rig.assert_conservation();
}

#[test]
fn punt_queue_full_is_a_counted_drop() {
    let mut rig = Rig::simple(Algorithm::Rr);
    let capacity = dataplane::host::PUNT_QUEUE_CAPACITY as u64;
    for _ in 0..capacity + 10 {
        rig.pass(&ping(VIP));
    }
    assert_eq!(rig.counters[0].punted.load(), capacity);
    assert_eq!(rig.dropped(PuntQueueFull), 10);
    rig.assert_conservation();
}

#[test]
fn flood_of_pings_leaves_the_way_free_for_arp() {
    let mut rig = Rig::simple(Algorithm::Rr);
    for _ in 0..dataplane::host::PUNT_QUEUE_CAPACITY + 10 {
        rig.pass(&ping(VIP));
    }
    rig.pass(&arp([10, 0, 0, 11], DIP, own_mac(0)));
    let mut punted = Vec::new();
    let port = dataplane::host::HostPath::next_punted(&rig.host, PuntQueue::Neighbour, &mut punted);
    assert_eq!(port, Some(dataplane::snapshot::InterfaceId(0)));
    rig.assert_conservation();
}

#[test]
fn frame_in_on_one_port_leaves_on_the_port_of_its_real_server() {
    let mut rig = Rig::new(1, 2, 64, Algorithm::Rr, &[Rs { port: 1, ..Rs::new(5) }]);
    assert!(rig.pass(&syn()).is_empty());
    let sent = rig.ports[1].take_transmitted();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0][..12], [rs_mac(5), own_mac(1)].concat());
    rig.assert_conservation();
}

#[test]
fn frames_of_the_control_thread_leave_through_worker_0() {
    use dataplane::host::HostPath;
    let mut rig = Rig::simple(Algorithm::Rr);
    for number in 0..100_u8 {
        rig.host.send(PortId(0), &[number; 60]).unwrap();
    }
    rig.host.send(PortId(9), &[0; 60]).unwrap();
    for _ in 0..5 {
        rig.poll();
    }
    let sent = rig.ports[0].take_transmitted();
    assert_eq!(sent.iter().map(|frame| frame[0]).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    assert_eq!(rig.counters[0].control_sent.load(), 100);
    assert_eq!(rig.counters[0].control_not_sent.load(), 1, "there is no port 9");
    rig.assert_conservation();
}
