//! ICMP errors about packets of connections: byte for byte what leaves, and what does not.

mod rig;

use std::net::Ipv6Addr;

use dataplane::packet::checksum;
use dataplane::packet::icmpv6::set_checksum;
use dataplane::snapshot::{DestinationState, Snapshot};
use dataplane::verdict::DropReason::{self, *};
use etherparse::PacketBuilder;
use rig::ipv6::*;
use rig::*;
use scheduler::Algorithm;

const ROUTER: [u8; 4] = [203, 0, 113, 1];
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1);

/// A whole packet with this payload, without Ethernet header.
fn ip(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(source, destination, 64).udp(0, 0).write(&mut packet, &[]).unwrap();
    packet.truncate(20);
    packet.extend(payload);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[9] = protocol;
    packet[10..12].fill(0);
    let sum = checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn framed(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [own_mac(0), CLIENT_MAC].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.extend(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ICMP message from a router.
fn message(kind: u8, code: u8, destination: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quote);
    let sum = checksum::checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    framed(0x0800, &ip(ROUTER, destination, 1, &message))
}

fn ip6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn message6(kind: u8, code: u8, destination: Ipv6Addr, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quote);
    set_checksum(&ROUTER6.octets(), &destination.octets(), &mut message);
    framed(0x86dd, &ip6(ROUTER6, destination, 58, &message))
}

/// What the real server answered the client at `client_port`.
fn answer(client_port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(VIP, CLIENT, 60).udp(DNS, client_port);
    builder.write(&mut packet, b"an answer of some length").unwrap();
    packet
}

fn answer6(client_port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(VIP6.octets(), CLIENT6.octets(), 60).udp(DNS, client_port);
    builder.write(&mut packet, b"an answer of some length").unwrap();
    packet
}

fn rig() -> Rig {
    let real_servers = [2, 1, 0].map(Rs::new);
    Rig::with(1, 1, 1024, |counts| both_families(counts, Algorithm::Rr, &real_servers))
}

fn changed(rig: &mut Rig, change: impl FnOnce(&mut Snapshot)) {
    let real_servers = [2, 1, 0].map(Rs::new);
    let mut snapshot = both_families(&rig.counts, Algorithm::Rr, &real_servers);
    change(&mut snapshot);
    rig.publish_snapshot(snapshot);
}

/// What leaves is the frame, but for MACs and TTL, to the real server in this slot.
fn assert_forwarded(rig: &mut Rig, frame: &[u8], slot: u32, what: &str) {
    let sent = rig.pass(frame);
    let [out] = &sent[..] else { panic!("{what}: {} frames", sent.len()) };
    let mut expected = frame.to_vec();
    expected[..12].copy_from_slice(&rs_macs(slot));
    if frame[12..14] == [8, 0] {
        expected[22] -= 1;
        fix_checksum(&mut expected);
    } else {
        expected[21] -= 1;
    }
    assert_eq!(*out, expected, "{what}");
    rig.assert_conservation();
}

fn assert_dropped(rig: &mut Rig, frame: &[u8], reason: DropReason, what: &str) {
    let before = rig.dropped(reason);
    assert_eq!(rig.pass(frame), Vec::<Vec<u8>>::new(), "{what}");
    assert_eq!(rig.dropped(reason), before + 1, "{what}");
    rig.assert_conservation();
}

#[test]
fn errors_about_a_reply_go_to_the_real_server_that_sent_it() {
    let mut rig = rig();
    for port in [1000, 1001, 1002] {
        let slot = rig.slot_for(&udp(CLIENT, port, b"query")).unwrap();
        for kind in [3, 4, 11, 12] {
            for code in [0, 3, 4, 13] {
                let frame = message(kind, code, VIP, &answer(port));
                assert_forwarded(&mut rig, &frame, slot, &format!("{kind}/{code}"));
            }
        }
        let slot = rig.slot_for(&udp6(CLIENT6, port, b"query")).unwrap();
        // What type 100 is nobody has said yet (RFC 4443 section 2.4 a).
        for kind in [1, 2, 3, 4, 100] {
            let frame = message6(kind, 0, VIP6, &answer6(port));
            assert_forwarded(&mut rig, &frame, slot, &format!("ICMPv6 {kind}"));
        }
    }
}

#[test]
fn errors_about_tcp_and_sctp_too() {
    let mut rig = rig();
    let slot = rig.slot_for(&tcp(CLIENT, 7, SYN)).unwrap();
    let reply = ip(VIP, CLIENT, 6, &[0, 80, 0, 7, 0, 0, 0, 1]);
    assert_forwarded(&mut rig, &message(3, 4, VIP, &reply), slot, "TCP");
    let slot = rig.slot_for(&sctp(CLIENT, 7, &chunk(1))).unwrap();
    let reply = ip(VIP, CLIENT, 132, &[0x0f, 0x1c, 0, 7, 0, 0, 0, 1]);
    assert_forwarded(&mut rig, &message(3, 4, VIP, &reply), slot, "SCTP");
    let slot = rig.slot_for(&syn6(CLIENT6, 7)).unwrap();
    let reply = ip6(VIP6, CLIENT6, 6, &[0, 80, 0, 7, 0, 0, 0, 1]);
    assert_forwarded(&mut rig, &message6(2, 0, VIP6, &reply), slot, "TCP over IPv6");
}

#[test]
fn quotes_need_both_ports_and_no_more() {
    let mut rig = rig();
    let slot = rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    let slot6 = rig.slot_for(&udp6(CLIENT6, 1000, b"query")).unwrap();
    for length in 0..52 {
        let frame = message(3, 1, VIP, &answer(1000)[..length]);
        if length >= 24 {
            assert_forwarded(&mut rig, &frame, slot, &format!("{length} bytes"));
        } else {
            assert_dropped(&mut rig, &frame, IcmpIgnored, &format!("{length} bytes"));
        }
    }
    for length in 0..72 {
        let frame = message6(1, 1, VIP6, &answer6(1000)[..length]);
        if length >= 44 {
            assert_forwarded(&mut rig, &frame, slot6, &format!("{length} bytes of IPv6"));
        } else {
            assert_dropped(&mut rig, &frame, IcmpIgnored, &format!("{length} bytes of IPv6"));
        }
    }
}

#[test]
fn padding_of_the_frame_is_no_part_of_the_quote() {
    let mut rig = rig();
    rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    let mut frame = message(3, 1, VIP, &answer(1000)[..20]);
    frame.truncate(14 + 48);
    frame.extend(&answer(1000)[20..]);
    assert_dropped(&mut rig, &frame, IcmpIgnored, "ports in the padding");
}

#[test]
fn quotes_with_options_and_extension_headers_are_read() {
    let mut rig = rig();
    let slot = rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    let mut quote = answer(1000);
    quote[0] = 0x4f;
    quote.splice(20..20, [1; 40]);
    assert_forwarded(&mut rig, &message(11, 0, VIP, &quote[..68]), slot, "40 bytes of options");
    let slot = rig.slot_for(&udp6(CLIENT6, 1000, b"query")).unwrap();
    let mut quote = answer6(1000);
    quote[6] = 0;
    quote.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]);
    assert_forwarded(&mut rig, &message6(3, 0, VIP6, &quote), slot, "two extension headers");
}

#[test]
fn quotes_of_first_fragments_are_read_and_those_of_later_ones_are_not() {
    let mut rig = rig();
    let slot = rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    let mut quote = answer(1000);
    quote[6] = 0x20;
    assert_forwarded(&mut rig, &message(3, 4, VIP, &quote), slot, "first fragment");
    quote[7] = 1;
    assert_dropped(&mut rig, &message(3, 4, VIP, &quote), IcmpIgnored, "later fragment");
    let slot = rig.slot_for(&udp6(CLIENT6, 1000, b"query")).unwrap();
    let mut quote = answer6(1000);
    quote[6] = 44;
    quote.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
    assert_forwarded(&mut rig, &message6(2, 0, VIP6, &quote), slot, "first IPv6 fragment");
    quote[43] = 9;
    assert_dropped(&mut rig, &message6(2, 0, VIP6, &quote), IcmpIgnored, "later IPv6 fragment");
}

#[test]
fn what_is_about_no_connection_is_dropped() {
    let mut rig = rig();
    rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    rig.slot_for(&udp6(CLIENT6, 1000, b"query")).unwrap();
    let foreign = ip([192, 0, 2, 77], CLIENT, 17, &[0, 53, 3, 232, 0, 8, 0, 0]);
    let mut of_icmp = answer(1000);
    of_icmp[9] = 1;
    for (what, frame) in [
        ("another port", message(3, 3, VIP, &answer(1001))),
        ("another sender's packet", message(3, 3, VIP, &foreign)),
        ("redirect", message(5, 1, VIP, &answer(1000))),
        ("quote of ICMP", message(3, 3, VIP, &of_icmp)),
        ("quote of IPv6 in ICMP", message(3, 3, VIP, &answer6(1000))),
        ("quote of IPv4 in ICMPv6", message6(1, 3, VIP6, &answer(1000))),
        ("IPv6, another port", message6(1, 3, VIP6, &answer6(1001))),
    ] {
        assert_dropped(&mut rig, &frame, IcmpIgnored, what);
    }
    let to_nobody = message(3, 3, [192, 0, 2, 77], &answer(1000));
    assert_dropped(&mut rig, &to_nobody, NotLocal, "to somebody else");
    let to_dip = message(3, 3, DIP, &answer(1000));
    assert_dropped(&mut rig, &to_dip, NoService, "to the DIP, no host interface");
    assert_dropped(&mut rig, &message6(0, 3, VIP6, &answer6(1000)), IcmpIgnored, "type 0 is reserved");
    assert_dropped(&mut rig, &message(14, 0, VIP, &answer(1000)), NoService, "no error");
}

#[test]
fn error_to_a_dip_goes_to_the_host() {
    let mut rig = rig();
    changed(&mut rig, |snapshot| snapshot.interfaces[0].has_host = true);
    for frame in [message(3, 3, DIP, &answer(1000)), message6(1, 4, DIP6, &answer6(1000))] {
        assert_eq!(rig.pass(&frame), Vec::<Vec<u8>>::new());
        let mut buffer = Vec::new();
        assert!(dataplane::host::HostFrames::next(&rig.host, &mut buffer).is_some());
        assert_eq!(buffer, frame);
    }
    rig.assert_conservation();
}

#[test]
fn error_needs_ttl_and_room_but_no_right_checksum() {
    let mut rig = rig();
    let slot = rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    let mut frame = message(3, 3, VIP, &answer(1000));
    frame[36] ^= 0x55;
    assert_forwarded(&mut rig, &frame, slot, "wrong checksum: the real server's to see, as with data");
    frame[22] = 1;
    fix_checksum(&mut frame);
    assert_dropped(&mut rig, &frame, TtlExpired, "TTL 1");
    let long = message(3, 3, VIP, &[&answer(1000)[..], &[0; 1500]].concat());
    assert_dropped(&mut rig, &long, TooBig, "longer than the MTU");
}

#[test]
fn error_neither_opens_nor_moves_nor_keeps_a_connection() {
    let mut rig = rig();
    let slot = rig.slot_for(&tcp(CLIENT, 7, SYN)).unwrap();
    let before = rig.connections();
    let reply = ip(VIP, CLIENT, 6, &[0, 80, 0, 7, 0, 0, 0, 1]);
    rig.hand.advance_seconds(30);
    assert_forwarded(&mut rig, &message(3, 1, VIP, &reply), slot, "in time");
    assert_eq!(rig.connections(), before);
    rig.hand.advance_seconds(31);
    assert_dropped(&mut rig, &message(3, 1, VIP, &reply), IcmpIgnored, "over");
}

#[test]
fn error_about_a_removed_or_unreachable_real_server_is_dropped() {
    let mut rig = rig();
    let slot = rig.slot_for(&udp(CLIENT, 1000, b"query")).unwrap();
    for (state, reason) in
        [(DestinationState::Removed, RealServerRemoved), (DestinationState::Unresolved, NoRealServer)]
    {
        changed(&mut rig, |snapshot| snapshot.destinations[slot as usize].state = state);
        assert_dropped(&mut rig, &message(3, 3, VIP, &answer(1000)), reason, "real server");
    }
}

#[test]
fn schedule_icmp_sends_what_is_about_an_unknown_packet_where_its_connection_would_go() {
    let mut rig = rig();
    let real_servers = [2, 1, 0].map(Rs::new);
    let mut snapshot = both_families(&rig.counts, Algorithm::Sh, &real_servers);
    snapshot.options.schedule_icmp = true;
    rig.publish_snapshot(snapshot);
    for port in 0..50 {
        let client = [198, 51, 100, 7 + port as u8];
        let mut quote = answer(1000 + port);
        quote[16..20].copy_from_slice(&client);
        let sent = rig.pass(&message(3, 4, VIP, &quote));
        assert_eq!(sent.len(), 1);
        assert!(rig.connections().is_empty(), "nothing is opened");
        let slot = rig.slot_for(&udp(client, 1000 + port, b"query"));
        assert_eq!(slot, Some(u32::from(sent[0][5])));
        rig.advance_and_sweep(301);
    }
    let unwanted = ip(VIP, CLIENT, 17, &[0, 54, 3, 232, 0, 8, 0, 0]);
    assert_dropped(&mut rig, &message(3, 3, VIP, &unwanted), IcmpIgnored, "no service");
    let short = &answer(1000)[..23];
    assert_dropped(&mut rig, &message(3, 3, VIP, short), IcmpIgnored, "no ports");
}

#[test]
fn error_about_a_connection_without_state_goes_by_the_ring() {
    let mut rig = Rig::with(1, 1, 1, |counts| both_families(counts, Algorithm::Rr, &[2, 1, 0].map(Rs::new)));
    // The only entry there is.
    rig.slot_for(&udp(CLIENT, 1, b"query")).unwrap();
    for port in 1000..1020 {
        let slot = rig.slot_for(&udp(CLIENT, port, b"query")).unwrap();
        assert_forwarded(&mut rig, &message(3, 4, VIP, &answer(port)), slot, "of the ring");
    }
}
