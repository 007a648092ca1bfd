//! Errors (ICMP, ICMPv6) that the workers originate, over ports in memory: who is told what, by whom, and who is not.

mod rig;

use dataplane::memory::MemoryPortConfig;
use dataplane::packet::{checksum, icmpv6};
use dataplane::snapshot::{AddressRole, DestinationState, NextHop, Route, Routes, Snapshot};
use dataplane::verdict::{DropReason, IcmpError};
use proptest::prelude::*;
use rig::packets::{CLIENT6, Ip, VIP6, framed, framed_between, set_header_checksum, unframed};
use rig::tunnels::{KINDS, both_families, set_tunnel, tunnelled};
use rig::{ACK, CLIENT, CLIENT_MAC, Rig, Rs, SYN, VIP, own_mac};

fn rig_with(change: impl FnOnce(&mut Snapshot)) -> Rig {
    let (limits, config) = (rig::template_limits(), MemoryPortConfig::default());
    Rig::with_ports(1, 1, 1024, &limits, &config, true, |counts| {
        let mut snapshot = both_families(counts, 1, &[Rs::new(0)]);
        change(&mut snapshot);
        snapshot
    })
}

/// Nobody is there to take a new connection.
fn no_real_server() -> Rig {
    let (limits, config) = (rig::template_limits(), MemoryPortConfig::default());
    Rig::with_ports(1, 1, 1024, &limits, &config, true, |counts| both_families(counts, 1, &[]))
}

/// An error, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Error {
    vlan: u16,
    kind: u8,
    code: u8,
    rest: u32,
    quote: Vec<u8>,
}

/// Reads a frame that must be an error from the VIP to the client, whole and right to the last byte.
fn read(frame: &[u8]) -> Error {
    let sources = if frame[12..14] == [0x86, 0xdd] || frame[16..18] == [0x86, 0xdd] {
        VIP6.to_vec()
    } else {
        VIP.to_vec()
    };
    read_from(frame, &sources)
}

fn read_from(frame: &[u8], source: &[u8]) -> Error {
    assert_eq!(frame[..12], [CLIENT_MAC, own_mac(0)].concat());
    let (vlan, packet) = unframed(frame);
    let header = 14 + if vlan == 0 { 0 } else { 4 } + packet.len();
    assert!(frame[header..].iter().all(|&byte| byte == 0), "padded with zeros");
    let message = match packet[0] {
        0x45 => {
            assert_eq!((packet[1], packet[8], packet[9]), (0xc0, 64, 1));
            assert_eq!(checksum::sum(&packet[..20]), 0xffff);
            assert_eq!((&packet[12..16], &packet[16..20]), (source, &CLIENT[..]));
            assert_eq!(checksum::sum(&packet[20..]), 0xffff);
            assert!(packet.len() <= 576);
            &packet[20..]
        }
        _ => {
            assert_eq!((packet[0] >> 4, packet[6], packet[7]), (6, 58, 64));
            assert_eq!((&packet[8..24], &packet[24..40]), (source, &CLIENT6[..]));
            assert!(icmpv6::is_intact(source.try_into().unwrap(), &CLIENT6, &packet[40..]));
            assert!(packet.len() <= 1280);
            &packet[40..]
        }
    };
    Error {
        vlan,
        kind: message[0],
        code: message[1],
        rest: u32::from_be_bytes(message[4..8].try_into().unwrap()),
        quote: message[8..].to_vec(),
    }
}

/// The packet is dropped for this reason and its sender told: what.
fn told(rig: &mut Rig, frame: &[u8], reason: DropReason) -> Error {
    let before = rig.dropped(reason);
    let sent = rig.pass(frame);
    assert_eq!(sent.len(), 1, "{:?}", rig.counters);
    assert_eq!(rig.dropped(reason), before + 1);
    rig.assert_conservation();
    rig.assert_no_leak();
    read(&sent[0])
}

/// The packet is dropped for this reason and nobody is told.
fn silent(rig: &mut Rig, frame: &[u8], reason: DropReason) {
    let before = rig.dropped(reason);
    assert!(rig.pass(frame).is_empty(), "{reason:?}");
    assert_eq!(rig.dropped(reason), before + 1, "{:?}", rig.counters);
    rig.assert_conservation();
}

#[test]
fn time_exceeded_for_every_method_quotes_the_packet_as_it_came() {
    for is_ipv6 in [false, true] {
        let kind = if is_ipv6 { 3 } else { 11 };
        for tunnel in [None, Some(KINDS[0]), Some(KINDS[4])] {
            let mut rig = rig_with(|snapshot| {
                if let Some(tunnel) = tunnel {
                    set_tunnel(snapshot, tunnel, false);
                }
            });
            for ttl in [0, 1] {
                for packet in [
                    Ip::of(is_ipv6).ttl(ttl).udp(40_000, b"hello"),
                    Ip::of(is_ipv6).ttl(ttl).tcp(40_000, SYN, &[], b""),
                ] {
                    let error = told(&mut rig, &framed(0, &packet), DropReason::TtlExpired);
                    assert_eq!(error, Error { vlan: 0, kind, code: 0, rest: 0, quote: packet });
                }
            }
            // Of a connection that is there, too, and it stays as it is.
            rig.pass(&framed(0, &Ip::of(is_ipv6).tcp(40_001, SYN, &[], b"")));
            rig.pass(&framed(0, &Ip::of(is_ipv6).tcp(40_001, ACK, &[], b"")));
            let connections = rig.connections();
            let packet = Ip::of(is_ipv6).ttl(1).tcp(40_001, ACK, &[], b"data");
            assert_eq!(told(&mut rig, &framed(0, &packet), DropReason::TtlExpired).quote, packet);
            assert_eq!(rig.connections(), connections);
            assert_eq!(rig.counters[0].icmp_errors(IcmpError::TimeExceeded), 5);
            assert_eq!(rig.total(|counters| counters.originated.load()), 5);
        }
    }
}

#[test]
fn error_is_no_larger_than_what_its_link_carries() {
    for is_ipv6 in [false, true] {
        let mut rig = rig_with(|snapshot| snapshot.interfaces[0].mtu = 300);
        let packet = Ip::of(is_ipv6).ttl(1).udp(40_000, &[7; 1000]);
        let sent = rig.pass(&framed(0, &packet));
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].len(), 14 + 300);
        assert!(packet.starts_with(&read(&sent[0]).quote));
    }
}

#[test]
fn service_without_real_server_is_port_unreachable_also_for_tcp() {
    let mut rig = no_real_server();
    for (is_ipv6, kind, code) in [(false, 3, 3), (true, 1, 4)] {
        for packet in [Ip::of(is_ipv6).udp(40_000, b"query"), Ip::of(is_ipv6).tcp(40_000, SYN, &[], b"")] {
            let error = told(&mut rig, &framed(0, &packet), DropReason::NoRealServer);
            assert_eq!(error, Error { vlan: 0, kind, code, rest: 0, quote: packet });
        }
    }
    assert_eq!(rig.counters[0].icmp_errors(IcmpError::Unreachable), 4);
}

#[test]
fn port_without_service_is_unreachable_for_what_opens_connections() {
    let mut rig = rig_with(|_| {});
    for (is_ipv6, kind, code) in [(false, 3, 3), (true, 1, 4)] {
        // TTL 1: traceroute's last hop.
        let probe = Ip::of(is_ipv6).ttl(1).udp_to(33_434, 40_000, b"probe");
        let to_port_81 = |flags| {
            let mut segment = Ip::of(is_ipv6).tcp(40_000, flags, &[], b"");
            segment[if is_ipv6 { 43 } else { 23 }] = 81;
            segment
        };
        for packet in [probe, to_port_81(SYN)] {
            let error = told(&mut rig, &framed(0, &packet), DropReason::NoService);
            assert_eq!(error, Error { vlan: 0, kind, code, rest: 0, quote: packet });
        }
        silent(&mut rig, &framed(0, &to_port_81(ACK)), DropReason::NoService);
    }
}

#[test]
fn real_server_that_was_removed_or_connection_that_is_unknown_is_silent() {
    let mut rig = rig_with(|_| {});
    let packet = Ip::v4().tcp(40_000, ACK, &[], b"");
    silent(&mut rig, &framed(0, &packet), DropReason::NoConnection);
    rig.pass(&framed(0, &Ip::v4().tcp(40_000, SYN, &[], b"")));
    let mut snapshot = both_families(&rig.counts, 1, &[]);
    snapshot.destinations[0].state = DestinationState::Removed;
    rig.publish_snapshot(snapshot);
    silent(&mut rig, &framed(0, &packet), DropReason::RealServerRemoved);
}

#[test]
fn too_big_tells_the_mtu_of_the_way_and_quotes_as_the_kernel_does() {
    for tunnel in [None, Some((KINDS[0], false)), Some((KINDS[2], false)), Some((KINDS[4], true))] {
        for is_ipv6 in [false, true] {
            let mut mtu = 1500;
            let mut rig = rig_with(|snapshot| {
                if let Some((kind, is_outer_ipv6)) = tunnel {
                    set_tunnel(snapshot, kind, is_outer_ipv6);
                }
                mtu = snapshot.destinations[0].mtu;
            });
            let header = if is_ipv6 { 48 } else { 28 };
            let fits = Ip::of(is_ipv6).udp(40_000, &vec![7; usize::from(mtu) - header]);
            assert_eq!(rig.pass(&framed(0, &fits)).len(), 1);
            let packet = Ip::of(is_ipv6).udp(40_000, &vec![7; usize::from(mtu) - header + 1]);
            let error = told(&mut rig, &framed(0, &packet), DropReason::TooBig);
            let (kind, code, quoted) = if is_ipv6 { (2, 0, 1232) } else { (3, 4, 548) };
            assert_eq!((error.kind, error.code, error.rest), (kind, code, u32::from(mtu)));
            let mut quote = rig::packets::one_hop_further(&packet);
            quote.truncate(quoted);
            assert_eq!(error.quote, quote);
            assert_eq!(rig.counters[0].icmp_errors(IcmpError::TooBig), 1);
        }
    }
}

#[test]
fn error_goes_back_by_the_vlan_and_mac_that_the_packet_came_from() {
    let mut rig = rig_with(|snapshot| {
        let mut interface = snapshot.interfaces[0];
        interface.vlan = 100;
        snapshot.interfaces.push(interface);
        snapshot.ports[0].vlans.insert(100, dataplane::snapshot::InterfaceId(1));
    });
    let packet = Ip::v4().ttl(1).udp(40_000, b"");
    assert_eq!(told(&mut rig, &framed(100, &packet), DropReason::TtlExpired).vlan, 100);
    // A priority tag is no VLAN.
    let mut priority = framed(100, &packet);
    priority[14..16].copy_from_slice(&0xe000_u16.to_be_bytes());
    assert_eq!(told(&mut rig, &priority, DropReason::TtlExpired).vlan, 0);
    // A tag that the NIC took out.
    assert!(rig.ports[0].inject_untagging(0, &framed(100, &packet)));
    rig.poll();
    assert_eq!(read(&rig.ports[0].take_transmitted()[0]).vlan, 100);
}

#[test]
fn quotes_cross_segments() {
    let mut rig = rig_with(|_| {});
    for is_ipv6 in [false, true] {
        let packet =
            Ip::of(is_ipv6).ttl(1).udp(40_000, &(0..1400).map(|byte| byte as u8).collect::<Vec<_>>());
        let sent = rig.pass_segments(&framed(0, &packet), &[90, 91, 300, 900]);
        let error = read(&sent[0]);
        assert_eq!(error.quote, packet[..if is_ipv6 { 1232 } else { 548 }]);
    }
    rig.assert_no_leak();
}

/// Hop-by-hop options in front of a datagram.
fn with_options(destination: [u8; 16], options: [u8; 6]) -> Vec<u8> {
    let datagram = &Ip::v6().udp(40_000, b"")[40..];
    let mut packet = Ip::v6().packet(0, &[&[17, 0][..], &options, datagram].concat());
    packet[24..40].copy_from_slice(&destination);
    packet
}

#[test]
fn extension_headers_that_demand_it_are_a_parameter_problem() {
    let mut rig = rig_with(|_| {});
    let bad = DropReason::BadExtensionHeader;
    // An option whose type says: discard and tell.
    let packet = with_options(VIP6, [0x81, 4, 0, 0, 0, 0]);
    let error = told(&mut rig, &framed(0, &packet), bad);
    assert_eq!(error, Error { vlan: 0, kind: 4, code: 2, rest: 42, quote: packet });
    // One that says: discard and be silent.
    silent(&mut rig, &framed(0, &with_options(VIP6, [0x41, 4, 0, 0, 0, 0])), bad);
    // Not to us.
    let elsewhere = *b"\x20\x01\x0d\xb8\0\x09\0\0\0\0\0\0\0\0\0\x10";
    silent(&mut rig, &framed(0, &with_options(elsewhere, [0x81, 4, 0, 0, 0, 0])), bad);
    // A routing header.
    let mut routing = with_options(VIP6, [0, 1, 0, 0, 0, 0]);
    routing[6] = 43;
    let error = told(&mut rig, &framed(0, &routing), bad);
    assert_eq!((error.kind, error.code, error.rest), (4, 0, 42));
    assert_eq!(rig.counters[0].icmp_errors(IcmpError::ParameterProblem), 2);
}

#[test]
fn errors_fragments_and_packets_of_many_are_never_answered() {
    let mut rig = rig_with(|_| {});
    let expired = DropReason::TtlExpired;
    // From a multicast MAC.
    let packet = Ip::v4().ttl(1).udp(40_000, b"");
    let mut frame = framed(0, &packet);
    frame[6] |= 1;
    silent(&mut rig, &frame, expired);
    let mut rig = rig_with(|_| {});
    // An ICMP error to the VIP, whatever becomes of it.
    for is_ipv6 in [false, true] {
        let quote = Ip::of(is_ipv6).udp(40_000, b"");
        let mut message = vec![if is_ipv6 { 1 } else { 3 }, 1, 0, 0, 0, 0, 0, 0];
        message.extend(quote);
        let packet = Ip::of(is_ipv6).ttl(1).packet(if is_ipv6 { 58 } else { 1 }, &message);
        assert!(rig.pass(&framed(0, &packet)).is_empty());
    }
    // A later fragment, whatever becomes of it.
    let mut packet = Ip::v4().may_be_cut().ttl(1).udp(40_000, &[1; 64]);
    packet[7] = 8;
    set_header_checksum(&mut packet);
    rig.pass(&framed(0, &packet));
    assert_eq!(rig.total(|counters| counters.originated.load()), 0);
    rig.assert_conservation();
}

#[test]
fn source_is_the_directors_own_address_where_the_packet_went_elsewhere() {
    let dip = [10, 0, 0, 1];
    let route = Route {
        network: "0.0.0.0/0".parse().unwrap(),
        next_hop: NextHop { interface: Default::default(), mac: None, source: dip.into() },
    };
    let mut rig = rig_with(|snapshot| {
        for vip in [VIP.into(), VIP6.into()] {
            snapshot.addresses.insert(vip, AddressRole::Neighbour(Default::default()));
        }
        snapshot.routes = Routes::new(vec![route]);
    });
    let sent = rig.pass(&framed(0, &Ip::v4().ttl(1).udp(40_000, b"")));
    assert_eq!(read_from(&sent[0], &dip).kind, 11);
    // Without such an address nobody is told.
    silent(&mut rig, &framed(0, &Ip::v6().ttl(1).udp(40_000, &[0; 3])), DropReason::TtlExpired);
}

#[test]
fn rate_bounds_all_kinds_together_and_what_is_over_is_counted() {
    let mut rig = rig_with(|snapshot| snapshot.options.icmp_packets_per_second = 100);
    let expired = framed(0, &Ip::v4().ttl(1).udp(40_000, b""));
    let unreachable = framed(0, &Ip::v6().udp_to(9, 40_000, b""));
    let mut sent = 0;
    for _ in 0..50 {
        sent += rig.pass(&expired).len() + rig.pass(&unreachable).len();
    }
    // An eighth of a second's worth at once, and at least 32.
    assert_eq!(sent, 32);
    let counters = &rig.counters[0];
    assert_eq!(counters.icmp_suppressed(IcmpError::TimeExceeded), 34);
    assert_eq!(counters.icmp_suppressed(IcmpError::Unreachable), 34);
    assert_eq!(counters.icmp_errors(IcmpError::TimeExceeded), 16);
    assert_eq!(rig.dropped(DropReason::TtlExpired), 50);
    for _ in 0..5 {
        rig.hand.advance_ticks(64);
        sent += (0..50).map(|_| rig.pass(&expired).len()).sum::<usize>();
    }
    assert_eq!(sent, 32 + 5 * 25);
    rig.assert_conservation();

    let mut rig = rig_with(|snapshot| snapshot.options.icmp_packets_per_second = 0);
    silent(&mut rig, &expired, DropReason::TtlExpired);
}

#[test]
fn error_that_no_port_takes_or_no_buffer_holds_is_counted() {
    let mut rig = rig_with(|_| {});
    let expired = framed(0, &Ip::v4().ttl(1).udp(40_000, b""));
    rig.ports[0].set_tx_limit(Some(0));
    assert!(rig.pass(&expired).is_empty());
    assert_eq!(rig.total(|counters| counters.originated_not_sent.load()), 1);
    rig.assert_no_leak();
    rig.ports[0].set_tx_limit(None);

    let (limits, config) = (rig::template_limits(), MemoryPortConfig { frames: 1, ..Default::default() });
    let mut rig =
        Rig::with_ports(1, 1, 64, &limits, &config, true, |counts| tunnelled(counts, KINDS[0], false));
    assert!(rig.pass(&expired).is_empty());
    assert_eq!(rig.total(|counters| counters.originated_not_sent.load()), 1);
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn burst_of_nothing_but_errors_is_answered_whole() {
    let mut rig = rig_with(|_| {});
    for port in 0..200 {
        assert!(rig.ports[0].inject(0, &framed(0, &Ip::v4().ttl(1).udp(1000 + port, b""))));
    }
    for _ in 0..10 {
        rig.poll();
    }
    // An eighth of 1000.
    assert_eq!(rig.ports[0].take_transmitted().len(), 125);
    assert_eq!(rig.counters[0].icmp_suppressed(IcmpError::TimeExceeded), 75);
    rig.assert_conservation();
    rig.assert_no_leak();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_what_leaves_is_right_and_nothing_is_lost(
        frames in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..200), any::<bool>(), 0..4_u8, prop::collection::vec((0..100_usize, any::<u8>()), 0..4)),
            1..40),
        has_real_server: bool,
    ) {
        let mut rig = if has_real_server { rig_with(|_| {}) } else { no_real_server() };
        for (payload, is_ipv6, ttl, changes) in frames {
            let mut packet = Ip::of(is_ipv6).ttl(ttl).udp(40_000, &payload);
            for (at, byte) in changes {
                if let Some(changed) = packet.get_mut(at) { *changed = byte; }
            }
            if packet[0] == 0x45 { set_header_checksum(&mut packet); }
            rig.ports[0].inject(0, &framed_between(&[own_mac(0), CLIENT_MAC].concat(), 0, &packet));
        }
        rig.poll();
        rig.poll();
        for frame in rig.ports[0].take_transmitted() {
            if frame[..6] == CLIENT_MAC {
                let (_, packet) = unframed(&frame);
                let is_right = match packet[0] >> 4 {
                    4 => checksum::sum(&packet[..20]) == 0xffff && checksum::sum(&packet[20..]) == 0xffff,
                    _ => icmpv6::is_intact(
                        packet[8..24].try_into().unwrap(),
                        packet[24..40].try_into().unwrap(),
                        &packet[40..],
                    ),
                };
                prop_assert!(is_right);
            }
        }
        rig.assert_conservation();
        // Fragments that wait for the rest are given up.
        rig.advance_and_sweep(60);
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}
