//! ICMP errors about packets in tunnels: what routers on the way to a real server say reaches the client, with what fits.

mod rig;

use std::net::IpAddr;

use dataplane::memory::MemoryPortConfig;
use dataplane::packet::checksum;
use dataplane::packet::icmpv6::{is_intact, set_checksum};
use dataplane::packet::outer::TunnelKind;
use dataplane::snapshot::{NextHop, Route, Routes, Snapshot};
use dataplane::verdict::DropReason::{self, *};
use dataplane::verdict::IcmpError;
use rig::packets::{CLIENT6, Ip, VIP6, decapsulate, framed, framed_between, unframed};
use rig::tunnels::{KINDS, both_families, ends, tunnelled};
use rig::{CLIENT, Rig, Rs, VIP, own_mac};

const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

fn with_routes(mut snapshot: Snapshot) -> Snapshot {
    let to = |network: &str, is_ipv6| Route {
        network: network.parse().unwrap(),
        next_hop: NextHop {
            interface: snapshot.ports[0].untagged.unwrap(),
            mac: Some(GATEWAY_MAC),
            source: ends(is_ipv6).0,
        },
    };
    snapshot.routes = Routes::new(vec![to("0.0.0.0/0", false), to("::/0", true)]);
    snapshot.options.icmp_packets_per_second = 1000;
    snapshot
}

fn rig(kind: TunnelKind, is_outer_ipv6: bool) -> Rig {
    rig_with(kind, is_outer_ipv6, |_| {})
}

fn rig_with(kind: TunnelKind, is_outer_ipv6: bool, change: impl FnOnce(&mut Snapshot)) -> Rig {
    let (limits, config) = (rig::template_limits(), MemoryPortConfig::default());
    Rig::with_ports(1, 1, 1024, &limits, &config, true, |counts| {
        let mut snapshot = with_routes(tunnelled(counts, kind, is_outer_ipv6));
        change(&mut snapshot);
        snapshot
    })
}

/// Sends a packet of the client and returns the outer one.
fn outer_of(rig: &mut Rig, packet: &[u8]) -> Vec<u8> {
    let sent = rig.pass(&framed(0, packet));
    let [frame] = &sent[..] else { panic!("{} frames: {:?}", sent.len(), rig.counters[0]) };
    unframed(frame).1
}

/// An error of a router to the DIP about the outer packet that `quote` begins with.
fn error(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(quote);
    let is_ipv6 = quote[0] >> 4 == 6;
    let mut packet = match is_ipv6 {
        false => Ip::v4().packet(1, &[]),
        true => Ip::v6().packet(58, &[]),
    };
    match ends(is_ipv6).0 {
        IpAddr::V4(dip) => {
            packet[2..4].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
            packet[12..16].copy_from_slice(&[203, 0, 113, 1]);
            packet[16..20].copy_from_slice(&dip.octets());
            rig::packets::set_header_checksum(&mut packet);
            let sum = checksum::checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(dip) => {
            packet[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            packet[24..40].copy_from_slice(&dip.octets());
            let source: [u8; 16] = packet[8..24].try_into().unwrap();
            set_checksum(&source, &dip.octets(), &mut message);
        }
    }
    packet.extend(message);
    framed(0, &packet)
}

/// What the client is told.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    kind: u8,
    code: u8,
    rest: u32,
    quote: Vec<u8>,
}

/// The frame is an error of the VIP to the client, by way of the gateway, right in every byte.
fn read(frame: &[u8]) -> Told {
    let (vlan, packet) = unframed(frame);
    assert_eq!(frame, framed_between(&[GATEWAY_MAC, own_mac(0)].concat(), vlan, &packet));
    let message = if packet[0] >> 4 == 6 {
        assert_eq!((&packet[8..24], &packet[24..40]), (&VIP6[..], &CLIENT6[..]));
        assert_eq!((packet[6], packet[7]), (58, 64));
        assert!(is_intact(&VIP6, &CLIENT6, &packet[40..]));
        assert!(packet.len() <= 1280);
        &packet[40..]
    } else {
        assert_eq!((&packet[12..16], &packet[16..20]), (&VIP[..], &CLIENT[..]));
        assert_eq!((packet[0], packet[1], packet[8], packet[9]), (0x45, 0xc0, 64, 1));
        assert_eq!((checksum::sum(&packet[..20]), checksum::sum(&packet[20..])), (0xffff, 0xffff));
        assert!(packet.len() <= 576);
        &packet[20..]
    };
    Told {
        kind: message[0],
        code: message[1],
        rest: u32::from_be_bytes(message[4..8].try_into().unwrap()),
        quote: message[8..].to_vec(),
    }
}

fn told(rig: &mut Rig, frame: &[u8], what: &str) -> Told {
    let before = rig.dropped(TunnelError);
    let sent = rig.pass(frame);
    assert_eq!(sent.len(), 1, "{what}");
    assert_eq!(rig.dropped(TunnelError), before + 1, "{what}");
    rig.assert_conservation();
    rig.assert_no_leak();
    read(&sent[0])
}

fn assert_silent(rig: &mut Rig, frame: &[u8], reason: DropReason, what: &str) {
    let before = rig.dropped(reason);
    assert_eq!(rig.pass(frame), Vec::<Vec<u8>>::new(), "{what}");
    assert_eq!(rig.dropped(reason), before + 1, "{what}");
    rig.assert_conservation();
    rig.assert_no_leak();
}

/// Every kind of tunnel over every family with every family inside.
fn each(mut test: impl FnMut(TunnelKind, bool, bool, &str)) {
    for kind in KINDS {
        for (is_outer_ipv6, is_ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
            let what = format!("{kind:?} over {is_outer_ipv6}, inside {is_ipv6}");
            test(kind, is_outer_ipv6, is_ipv6, &what);
        }
    }
}

#[test]
fn too_big_becomes_what_fits_and_is_known_for_the_next_packet() {
    each(|kind, is_outer_ipv6, is_ipv6, what| {
        let mut rig = rig(kind, is_outer_ipv6);
        let packet = Ip::of(is_ipv6).udp(1000, &[7; 1380]);
        let outer = outer_of(&mut rig, &packet);
        let overhead = outer.len() - packet.len();
        let (_, inner) = decapsulate(&outer, kind);
        let (problem, code) = if is_outer_ipv6 { (2, 0) } else { (3, 4) };
        let expected = Told {
            kind: if is_ipv6 { 2 } else { 3 },
            code: if is_ipv6 { 0 } else { 4 },
            rest: 1400 - overhead as u32,
            quote: inner[..if is_ipv6 { 1232 } else { 548 }].to_vec(),
        };
        assert_eq!(told(&mut rig, &error(problem, code, 1400, &outer), what), expected);
        assert_eq!(rig.path_mtus.of(0, 0), Some(1400), "{what}");
        // The same for the next packet, of the director's own knowledge.
        let sent = rig.pass(&framed(0, &packet));
        assert_eq!(sent.len(), 1, "{what}");
        assert_eq!(sent[0][12..14], if is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
        let (_, packet) = unframed(&sent[0]);
        let at = if is_ipv6 { 44 } else { 24 };
        assert_eq!(packet[at..at + 4], (1400 - overhead as u32).to_be_bytes(), "{what}");
    });
}

#[test]
fn quotes_that_reach_the_inner_ports_are_long_enough() {
    each(|kind, is_outer_ipv6, is_ipv6, what| {
        let mut rig = rig(kind, is_outer_ipv6);
        let packet = Ip::of(is_ipv6).udp(1000, &[7; 1380]);
        let outer = outer_of(&mut rig, &packet);
        let ports_end = outer.len() - packet.len() + if is_ipv6 { 44 } else { 24 };
        let (_, inner) = decapsulate(&outer, kind);
        let (problem, code) = if is_outer_ipv6 { (1, 3) } else { (3, 1) };
        for length in [ports_end, ports_end + 1, ports_end + 4, ports_end + 100] {
            let quoted = told(&mut rig, &error(problem, code, 0, &outer[..length]), what).quote;
            assert_eq!(quoted, inner[..length - (outer.len() - packet.len())], "{what}");
        }
        for length in [ports_end - 1, ports_end - 20, 28] {
            let short = error(problem, code, 0, &outer[..length.max(if is_outer_ipv6 { 40 } else { 20 })]);
            assert_silent(&mut rig, &short, NoService, what);
        }
    });
}

#[test]
fn unreachable_and_time_exceeded_are_told_in_the_clients_words() {
    each(|kind, is_outer_ipv6, is_ipv6, what| {
        let mut rig = rig(kind, is_outer_ipv6);
        let outer = outer_of(&mut rig, &Ip::of(is_ipv6).udp(1000, &[7; 100]));
        let unreachable = if is_outer_ipv6 { 1 } else { 3 };
        for code in [0, 1, 3, 13] {
            let Told { kind, code: got, rest, .. } =
                told(&mut rig, &error(unreachable, code, 0x1234, &outer), what);
            let expected = match (is_outer_ipv6, is_ipv6) {
                (false, false) => (3, code),
                (true, true) => (1, code),
                // Host, address unreachable: the other family has no word for why.
                (true, false) => (3, 1),
                (false, true) => (1, 3),
            };
            assert_eq!((kind, got, rest), (expected.0, expected.1, 0), "{what} {code}");
        }
        for code in [0, 1] {
            let frame = error(if is_outer_ipv6 { 3 } else { 11 }, code, 0, &outer);
            let Told { kind, code: got, .. } = told(&mut rig, &frame, what);
            assert_eq!((kind, got), (if is_ipv6 { 3 } else { 11 }, code), "{what}");
        }
        let silent: &[u8] = if is_outer_ipv6 { &[4, 100] } else { &[4, 12] };
        for &kind in silent {
            assert_silent(&mut rig, &error(kind, 0, 0, &outer), TunnelError, what);
        }
    });
}

#[test]
fn client_whose_packets_may_be_cut_is_not_told_that_they_are_too_big() {
    let mut rig = rig(TunnelKind::Ipip, false);
    let outer = outer_of(&mut rig, &Ip::v4().may_be_cut().udp(1000, &[7; 1380]));
    assert_silent(&mut rig, &error(3, 4, 1400, &outer), TunnelError, "no DF inside");
    assert_eq!(rig.path_mtus.of(0, 0), Some(1400));
}

#[test]
fn ipv6_client_is_not_told_of_less_than_every_path_carries() {
    let mut rig = rig(TunnelKind::Ipip, false);
    let outer = outer_of(&mut rig, &Ip::v6().udp(1000, &[7; 1352]));
    let long = told(&mut rig, &error(3, 4, 1000, &outer), "1,400 bytes");
    assert_eq!((long.kind, long.rest), (2, 1280));
    // What is no larger than that will be cut outside.
    let packets = rig.pass(&framed(0, &Ip::v6().udp(1000, &[7; 1200])));
    assert_eq!(packets.len(), 2);
    let mut first = unframed(&packets[0]).1;
    first[6] = 0;
    assert_silent(&mut rig, &error(3, 4, 900, &first), TunnelError, "1,248 bytes");
}

#[test]
fn router_that_tells_no_mtu_means_the_next_plateau() {
    let mut rig = rig(TunnelKind::Ipip, false);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1452]));
    assert_eq!(told(&mut rig, &error(3, 4, 0, &outer), "1,500 bytes").rest, 1492 - 20);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1400]));
    assert_eq!(told(&mut rig, &error(3, 4, 0, &outer), "1,448 bytes").rest, 1006 - 20);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 500]));
    assert_eq!(told(&mut rig, &error(3, 4, 0, &outer), "no less than 552").rest, 552 - 20);
}

#[test]
fn mtu_that_is_forged_too_small_or_larger_than_known_is_not_believed() {
    let mut rig = rig(TunnelKind::Ipip, false);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1380]));
    assert_eq!(told(&mut rig, &error(3, 4, 9000, &outer), "larger than the link").rest, 1480);
    assert_eq!(told(&mut rig, &error(3, 4, 1400, &outer), "smaller").rest, 1380);
    assert_eq!(told(&mut rig, &error(3, 4, 1450, &outer), "larger again").rest, 1380);
    assert_eq!(told(&mut rig, &error(3, 4, 60, &outer), "tiny").rest, 532);
    assert_eq!(rig.path_mtus.of(0, 0), Some(552));
}

#[test]
fn what_is_not_about_a_tunnel_of_ours_is_the_hosts() {
    let kind = TunnelKind::Gue { port: 6080, has_checksum: false };
    let mut rig = rig_with(kind, false, |snapshot| {
        snapshot.addresses.insert([10, 0, 0, 2].into(), snapshot.addresses[&ends(false).0]);
    });
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 100]));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut quote = outer.clone();
        change(&mut quote);
        error(3, 1, 0, &quote)
    };
    for (what, frame) in [
        ("another real server", changed(&|quote| quote[19] = 99)),
        ("another source", changed(&|quote| quote[15] = 2)),
        ("another port", changed(&|quote| quote[23] = 1)),
        ("with checksum", changed(&|quote| quote[26] = 1)),
        (
            "IPIP",
            changed(&|quote| {
                quote.drain(20..32);
                quote[9] = 4;
            }),
        ),
        ("later fragment", changed(&|quote| quote[7] = 1)),
        ("another client port", changed(&|quote| quote[52] = 99)),
        ("later fragment inside", changed(&|quote| quote[39] = 1)),
    ] {
        assert_silent(&mut rig, &frame, NoService, what);
    }
    let mut broken = error(3, 1, 0, &outer);
    broken[36] ^= 1;
    assert_silent(&mut rig, &broken, BadIcmp, "checksum");
    assert_eq!(rig.path_mtus.of(0, 0), None);
}

#[test]
fn client_to_whom_no_way_is_known_is_not_told() {
    // In a connected network it is told with its next packet, whose MAC says where it is.
    for (is_gone, reason) in [(true, NoRoute), (false, TunnelError)] {
        let mut rig = rig_with(TunnelKind::Ipip, false, |snapshot| {
            let mut route = Route {
                network: "0.0.0.0/0".parse().unwrap(),
                next_hop: *snapshot.routes.next_hop(CLIENT.into()).unwrap(),
            };
            route.next_hop.mac = None;
            snapshot.routes = Routes::new(if is_gone { vec![] } else { vec![route] });
        });
        let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1380]));
        assert_silent(&mut rig, &error(3, 4, 1400, &outer), reason, "no route, no MAC");
        assert_eq!(rig.path_mtus.of(0, 0), Some(1400), "learnt all the same");
    }
}

#[test]
fn flood_of_errors_is_told_at_the_rate_of_all_errors() {
    let mut rig =
        rig_with(TunnelKind::Ipip, false, |snapshot| snapshot.options.icmp_packets_per_second = 256);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1380]));
    let sent: usize = (0..100).map(|_| rig.pass(&error(3, 1, 0, &outer)).len()).sum();
    assert_eq!(sent, 32);
    let counters = &rig.counters[0];
    assert_eq!(counters.icmp_errors(IcmpError::Unreachable), 32);
    assert_eq!(counters.icmp_suppressed(IcmpError::Unreachable), 68);
    assert_eq!(rig.dropped(TunnelError), 100);
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn errors_in_several_segments_are_read_whole() {
    let mut rig = rig(TunnelKind::Ipip, false);
    let outer = outer_of(&mut rig, &Ip::v4().udp(1000, &[7; 1380]));
    let frame = error(3, 1, 0, &outer);
    for cuts in [&[900][..], &[301, 302, 999]] {
        let sent = rig.pass_segments(&frame, cuts);
        assert_eq!(sent.len(), 1);
        let quoted = read(&sent[0]).quote;
        assert_eq!(quoted[..], decapsulate(&outer, TunnelKind::Ipip).1[..quoted.len()]);
    }
    assert_eq!(rig.dropped(BadIcmp), 0);
    let mut broken = frame.clone();
    broken[1000] ^= 1;
    rig.pass_segments(&broken, &[900]);
    assert_eq!(rig.dropped(BadIcmp), 1);
}

#[test]
fn without_tunnels_every_error_to_the_dip_is_the_hosts() {
    let (limits, config) = (rig::template_limits(), MemoryPortConfig::default());
    let mut rig = Rig::with_ports(1, 1, 1024, &limits, &config, true, |counts| {
        with_routes(both_families(counts, 1, &[Rs::new(0)]))
    });
    rig.pass(&framed(0, &Ip::v4().udp(1000, &[7; 100])));
    let mut quote = Ip::v4().packet(4, &Ip::v4().udp(1000, &[7; 100]));
    quote[12..16].copy_from_slice(&[10, 0, 0, 1]);
    quote[16..20].copy_from_slice(&[10, 0, 0, 11]);
    assert_silent(&mut rig, &error(3, 4, 1400, &quote), NoService, "direct routing");
    assert_eq!(rig.path_mtus.of(0, 0), None);
}
