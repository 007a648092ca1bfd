//! Tunnelled real servers, over ports in memory: what a real server takes out of the tunnel is what the client sent, one hop
//! further.

mod rig;

use std::collections::HashSet;

use dataplane::memory::MemoryPortConfig;
use dataplane::packet::checksum;
use dataplane::packet::outer::TunnelKind;
use dataplane::snapshot::{Options, Snapshot};
use dataplane::verdict::DropReason;
use proptest::prelude::*;
use rig::packets::{Ip, decapsulate, framed, one_hop_further, unframed};
use rig::tunnels::{KINDS, ends, tunnelled};
use rig::{ACK, Rig, SYN, own_mac, rs_mac};

fn rig(kind: TunnelKind, is_outer_ipv6: bool) -> Rig {
    rig_with(kind, is_outer_ipv6, |_| {})
}

fn rig_with(kind: TunnelKind, is_outer_ipv6: bool, change: impl FnOnce(&mut Snapshot)) -> Rig {
    Rig::with(1, 1, 4096, |counts| {
        let mut snapshot = tunnelled(counts, kind, is_outer_ipv6);
        snapshot.options.tunnel_mss_clamp = true;
        change(&mut snapshot);
        snapshot
    })
}

/// What the rig makes of the packet: one frame, whose packet is returned.
fn sent(rig: &mut Rig, packet: &[u8]) -> Vec<u8> {
    let frames = rig.pass(&framed(0, packet));
    assert_eq!(frames.len(), 1, "{:?}", rig.counters);
    assert_eq!(frames[0][..12], [rs_mac(0), own_mac(0)].concat());
    let (vlan, packet) = unframed(&frames[0]);
    assert_eq!(vlan, 0);
    packet
}

#[test]
fn every_kind_in_every_mix_is_byte_for_byte_as_the_kernel_sends_it() {
    for is_outer_ipv6 in [false, true] {
        for is_inner_ipv6 in [false, true] {
            for kind in KINDS {
                let mut rig = rig(kind, is_outer_ipv6);
                let packet = Ip::of(is_inner_ipv6).traffic_class(0xb9).udp(40_000, b"payload");
                let sent = sent(&mut rig, &packet);
                let inner = one_hop_further(&packet);
                let (source, destination) = ends(is_outer_ipv6);
                let (outer, decapsulated) = decapsulate(&sent, kind);
                assert_eq!(decapsulated, inner);
                let protocol = match kind {
                    TunnelKind::Ipip => {
                        if is_inner_ipv6 {
                            41
                        } else {
                            4
                        }
                    }
                    TunnelKind::Gre { .. } => 47,
                    TunnelKind::Gue { .. } => 17,
                };
                let rest = kind.bytes() + inner.len();
                let mut expected = match (source, destination) {
                    (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
                        // DF as inside, then ID 0; IPv6 inside has none, and gets an ID.
                        let id = outer.identification.to_be_bytes();
                        assert_eq!(outer.identification == 0, !is_inner_ipv6);
                        let length = (20 + rest as u16).to_be_bytes();
                        let flags = if is_inner_ipv6 { 0 } else { 0x40 };
                        let mut header = vec![0x45, 0xb9, length[0], length[1], id[0], id[1], flags, 0];
                        header.extend([60, protocol, 0, 0]);
                        header.extend(source.octets());
                        header.extend(destination.octets());
                        let sum = checksum::checksum(&header).to_be_bytes();
                        header[10..12].copy_from_slice(&sum);
                        header
                    }
                    (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
                        let label = outer.flow_label.to_be_bytes();
                        let length = (rest as u16).to_be_bytes();
                        let mut header = vec![0x6b, 0x90 | label[1], label[2], label[3]];
                        header.extend([length[0], length[1], protocol, 60]);
                        header.extend(source.octets());
                        header.extend(destination.octets());
                        header
                    }
                    _ => unreachable!(),
                };
                let ip = expected.len();
                expected.extend(&sent[ip..ip + kind.bytes()]);
                expected.extend(&inner);
                assert_eq!(sent, expected, "{kind:?}, outer IPv6: {is_outer_ipv6}");
                rig.assert_conservation();
                rig.assert_no_leak();
            }
        }
    }
}

#[test]
fn ttl_of_2_arrives_as_1_inside_and_outside_and_of_1_not_at_all() {
    for is_ipv6 in [false, true] {
        let mut rig = rig(TunnelKind::Ipip, is_ipv6);
        let sent = sent(&mut rig, &Ip::of(is_ipv6).ttl(2).udp(40_000, b""));
        let (outer, inner) = decapsulate(&sent, TunnelKind::Ipip);
        assert_eq!((outer.ttl, inner[if is_ipv6 { 7 } else { 8 }]), (1, 1));
        assert!(rig.pass(&framed(0, &Ip::of(is_ipv6).ttl(1).udp(40_000, b""))).is_empty());
        assert_eq!(rig.dropped(DropReason::TtlExpired), 1);
    }
}

#[test]
fn congestion_mark_stays_inside() {
    for (inner_class, outer_class) in [(0x00, 0x00), (0x01, 0x01), (0x02, 0x02), (0x03, 0x02), (0xbb, 0xba)] {
        for is_inner_ipv6 in [false, true] {
            let mut rig = rig(TunnelKind::Ipip, is_inner_ipv6);
            let packet = Ip::of(is_inner_ipv6).traffic_class(inner_class).udp(40_000, b"x");
            let (outer, inner) = decapsulate(&sent(&mut rig, &packet), TunnelKind::Ipip);
            assert_eq!(outer.traffic_class, outer_class);
            assert_eq!(inner, one_hop_further(&packet));
        }
    }
}

#[test]
fn outer_df_is_the_inner_ones_unless_pmtu_disc_is_off_and_id_is_never_0_without_it() {
    for (df, pmtu_disc, expected) in
        [(true, true, true), (false, true, false), (true, false, false), (false, false, false)]
    {
        let mut rig = rig_with(TunnelKind::Ipip, false, |snapshot| snapshot.options.pmtu_disc = pmtu_disc);
        let ip = Ip { does_not_fragment: df, ..Ip::v4() };
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let (outer, _) = decapsulate(&sent(&mut rig, &ip.udp(40_000, b"")), TunnelKind::Ipip);
            assert_eq!(outer.does_not_fragment, expected);
            assert_eq!(outer.identification == 0, expected);
            assert!(expected || seen.insert(outer.identification));
        }
    }
}

#[test]
fn flows_keep_their_port_and_label_and_spread_over_all() {
    let gue = TunnelKind::Gue { port: 6080, has_checksum: false };
    for is_ipv6 in [false, true] {
        let mut rig = rig(gue, is_ipv6);
        let (mut ports, mut labels) = (HashSet::new(), HashSet::new());
        for port in 0..500 {
            let packet = Ip::of(is_ipv6).udp(10_000 + port, b"1");
            let (first, _) = decapsulate(&sent(&mut rig, &packet), gue);
            let (second, _) = decapsulate(&sent(&mut rig, &packet), gue);
            assert_eq!((first.source_port, first.flow_label), (second.source_port, second.flow_label));
            assert!((32_768..=60_999).contains(&first.source_port.unwrap()));
            ports.insert(first.source_port);
            labels.insert(first.flow_label);
        }
        assert!(ports.len() > 450, "{}", ports.len());
        assert_eq!(labels.len() > 450, is_ipv6, "{}", labels.len());
    }
}

/// An MSS option and what surrounds it in Linux's SYNs.
fn mss(size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    vec![2, 4, high, low, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]
}

#[test]
fn mss_of_a_syn_is_lowered_to_what_fits_the_tunnel() {
    for kind in KINDS {
        for is_outer_ipv6 in [false, true] {
            for is_inner_ipv6 in [false, true] {
                let mut rig = rig(kind, is_outer_ipv6);
                let outer = if is_outer_ipv6 { 40 } else { 20 };
                let ip = Ip::of(is_inner_ipv6);
                let fits = 1500 - (outer + kind.bytes() as u16) - if is_inner_ipv6 { 60 } else { 40 };
                for (asked, left) in
                    [(1460, 1460.min(fits)), (fits, fits), (fits + 1, fits), (536, 536), (0, 0)]
                {
                    let (_, inner) =
                        decapsulate(&sent(&mut rig, &ip.tcp(40_000, SYN, &mss(asked), b"")), kind);
                    // As if the client had sent it so, checksum and all.
                    assert_eq!(inner, one_hop_further(&ip.tcp(40_000, SYN, &mss(left), b"")));
                    rig.advance_and_sweep(1000);
                }
            }
        }
    }
}

#[test]
fn nothing_but_the_mss_of_a_syn_is_touched() {
    let untouched = |change: fn(&mut Options), packet: Vec<u8>| {
        let mut rig = rig_with(TunnelKind::Ipip, false, |snapshot| change(&mut snapshot.options));
        let (_, inner) = decapsulate(&sent(&mut rig, &packet), TunnelKind::Ipip);
        assert_eq!(inner, one_hop_further(&packet));
    };
    let v4 = Ip::v4();
    untouched(|options| options.tunnel_mss_clamp = false, v4.tcp(40_000, SYN, &mss(1460), b""));
    untouched(|options| options.sloppy_tcp = true, v4.tcp(40_000, ACK, &mss(1460), b""));
    // No option; one that is cut short; one of a wrong length; one behind the end of the list.
    for options in
        [&[][..], &[1, 1, 2, 4], &[2, 3, 0xff, 1], &[2, 6, 5, 0xb4, 0, 0, 0, 0], &[0, 0, 0, 0, 2, 4, 5, 0xb4]]
    {
        untouched(|_| {}, v4.tcp(40_000, SYN, options, b""));
        untouched(|_| {}, Ip::v6().tcp(40_000, SYN, options, b""));
    }
    // A datagram whose bytes look like a SYN's.
    untouched(|_| {}, v4.udp(40_000, &[[0x50, 2].as_slice(), &mss(1460), &[2; 100]].concat()));
}

#[test]
fn frame_without_headroom_is_dropped() {
    let config = MemoryPortConfig { headroom: 19, ..MemoryPortConfig::default() };
    let limits = rig::template_limits();
    let mut rig = Rig::with_ports(1, 1, 64, &limits, &config, false, |counts| {
        tunnelled(counts, TunnelKind::Ipip, false)
    });
    assert!(rig.pass(&framed(0, &Ip::v4().udp(40_000, b""))).is_empty());
    assert_eq!(rig.dropped(DropReason::NoHeadroom), 1);
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn jumbo_frame_in_segments_goes_through_a_tunnel_whole() {
    for kind in KINDS {
        let mut rig = rig_with(kind, true, |snapshot| snapshot.destinations[0].mtu = 9000);
        let payload: Vec<u8> = (0..8900).map(|byte| byte as u8).collect();
        for is_ipv6 in [false, true] {
            let packet = Ip::of(is_ipv6).udp(40_000, &payload[..8900 - 51]);
            let frames = rig.pass_segments(&framed(0, &packet), &[128, 2001, 4000, 4001, 6000, 8000]);
            let (_, inner) = decapsulate(&unframed(&frames[0]).1, kind);
            assert_eq!(inner, one_hop_further(&packet));
        }
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let ip =
        (any::<bool>(), 2..=255_u8, any::<u8>(), any::<u16>(), any::<bool>(), 0..0x10_0000_u32, 0..=10_usize);
    let ip = ip.prop_map(|(is_ipv6, ttl, traffic_class, identification, df, flow_label, options)| Ip {
        is_ipv6,
        ttl,
        traffic_class,
        identification,
        does_not_fragment: df,
        flow_label,
        options: vec![1; options * 4],
    });
    (ip, any::<bool>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..1300)).prop_map(
        |(ip, is_tcp, port, payload)| match is_tcp {
            true => ip.tcp(port, SYN, &[], &payload),
            false => ip.udp(port, &payload),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn decapsulating_gives_the_inner_packet_one_hop_further(
        packets in prop::collection::vec((any_packet(), any::<bool>(), prop::collection::vec(100..1400_usize, 0..4)), 1..40),
        kind in 0..5_usize, is_outer_ipv6: bool, out in prop_oneof![Just(0_u16), Just(7)],
    ) {
        let kind = KINDS[kind];
        let mut rig = rig_with(kind, is_outer_ipv6, |snapshot| {
            snapshot.destinations[0].vlan = out;
            let interface = snapshot.ports[0].untagged.unwrap();
            snapshot.ports[0].vlans.insert(100, interface);
        });
        let mut expected = Vec::new();
        for (packet, is_tagged, cuts) in &packets {
            // What comes from port 20 opens nothing.
            let port = if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 15) * 4 };
            if packet[port..port + 2] == [0, 20] { continue }
            let frame = framed(if *is_tagged { 100 } else { 0 }, packet);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(frame.len())).collect();
            cuts.sort_unstable();
            prop_assert!(rig.ports[0].inject_segments(0, &frame, &cuts));
            expected.push(one_hop_further(packet));
        }
        rig.poll();
        rig.poll();
        let frames = rig.ports[0].take_transmitted();
        prop_assert_eq!(frames.len(), expected.len());
        for (frame, expected) in frames.iter().zip(&expected) {
            let (vlan, packet) = unframed(frame);
            prop_assert_eq!(vlan, out);
            let (outer, inner) = decapsulate(&packet, kind);
            prop_assert_eq!(&inner, expected);
            prop_assert_eq!(outer.ttl, inner[if inner[0] >> 4 == 6 { 7 } else { 8 }]);
            prop_assert!(is_outer_ipv6 || outer.does_not_fragment || outer.identification != 0);
        }
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}
