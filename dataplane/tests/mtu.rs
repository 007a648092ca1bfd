//! Packets larger than their way carries, over ports in memory: refused with the size that would do, or cut, and what is cut
//! comes together again.

mod rig;

use dataplane::memory::MemoryPortConfig;
use dataplane::packet::outer::TunnelKind;
use dataplane::snapshot::Snapshot;
use dataplane::verdict::{DropReason, IcmpError};
use proptest::prelude::*;
use rig::packets::{CLIENT6, Ip, VIP6, decapsulate, framed, length, one_hop_further, reassemble, unframed};
use rig::tunnels::{KINDS, both_families, set_tunnel};
use rig::{ACK, CLIENT_MAC, Rig, Rs, SYN, own_mac, rs_mac};

const IPIP: TunnelKind = TunnelKind::Ipip;

/// One real server: behind a tunnel over this family (IPv6: true), or directly.
fn rig(tunnel: Option<(TunnelKind, bool)>, change: impl FnOnce(&mut Snapshot)) -> Rig {
    rig_of(&MemoryPortConfig::default(), tunnel, change)
}

fn rig_of(
    config: &MemoryPortConfig,
    tunnel: Option<(TunnelKind, bool)>,
    change: impl FnOnce(&mut Snapshot),
) -> Rig {
    let limits = rig::template_limits();
    Rig::with_ports(1, 1, 1024, &limits, config, true, |counts| {
        let mut snapshot = both_families(counts, 1, &[Rs::new(0)]);
        if let Some((kind, is_outer_ipv6)) = tunnel {
            set_tunnel(&mut snapshot, kind, is_outer_ipv6);
        }
        change(&mut snapshot);
        snapshot
    })
}

/// What leaves for the real server, in pieces or whole; the packet is counted once.
fn forwarded(rig: &mut Rig, frame: &[u8]) -> Vec<Vec<u8>> {
    let before = rig.total(|counters| counters.forwarded.load());
    // In segments where it is larger than a buffer.
    let cuts: Vec<usize> = (1..frame.len().div_ceil(2000)).map(|segment| segment * 2000).collect();
    let sent = rig.pass_segments(frame, &cuts);
    for frame in &sent {
        assert_eq!(frame[..12], [rs_mac(0), own_mac(0)].concat(), "{:?}", rig.counters);
    }
    let is_cut = sent.len() > 1;
    assert_eq!(rig.total(|counters| counters.forwarded.load()), before + 1);
    assert_eq!(rig.total(|counters| counters.originated.load()) > 0, is_cut);
    rig.assert_conservation();
    rig.assert_no_leak();
    sent.iter().map(|frame| unframed(frame).1).collect()
}

/// The MTU that the client is told.
fn refused(rig: &mut Rig, packet: &[u8]) -> u32 {
    let before = rig.dropped(DropReason::TooBig);
    let sent = rig.pass(&framed(0, packet));
    assert_eq!((sent.len(), rig.dropped(DropReason::TooBig)), (1, before + 1), "{:?}", rig.counters);
    assert_eq!(sent[0][..6], CLIENT_MAC);
    let (_, error) = unframed(&sent[0]);
    let message = if packet[0] >> 4 == 6 { &error[40..] } else { &error[20..] };
    assert_eq!(message[..2], if packet[0] >> 4 == 6 { [2, 0] } else { [3, 4] });
    rig.assert_conservation();
    rig.assert_no_leak();
    u32::from_be_bytes(message[4..8].try_into().unwrap())
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|byte| (byte * 7) as u8).collect()
}

#[test]
fn mtu_told_is_the_links_less_what_the_tunnel_adds() {
    let gre = |has_checksum| TunnelKind::Gre { has_checksum };
    let gue = |has_checksum| TunnelKind::Gue { port: 6080, has_checksum };
    // As the kernel was recorded to say, for a link of 1,500.
    for (tunnel, mtu) in [
        (None, 1500),
        (Some((IPIP, false)), 1480),
        (Some((IPIP, true)), 1460),
        (Some((gre(false), false)), 1476),
        (Some((gre(true), false)), 1472),
        (Some((gue(false), false)), 1468),
        (Some((gue(true), false)), 1468),
        (Some((gue(true), true)), 1448),
    ] {
        for ip in [Ip::v4(), Ip::v6()] {
            let mut rig = rig(tunnel, |_| {});
            assert_eq!(refused(&mut rig, &ip.udp(40_000, &payload(1490))), mtu);
            assert!(rig.connections().is_empty(), "what is refused opens nothing");
            assert_eq!(rig.counters[0].icmp_errors(IcmpError::TooBig), 1);
        }
    }
}

#[test]
fn refused_packet_of_a_connection_leaves_it_as_it_is() {
    let mut rig = rig(Some((IPIP, false)), |_| {});
    rig.pass(&framed(0, &Ip::v4().tcp(40_000, SYN, &[], b"")));
    rig.pass(&framed(0, &Ip::v4().tcp(40_000, ACK, &[], b"")));
    let before = rig.connections();
    rig.hand.advance_seconds(5);
    assert_eq!(refused(&mut rig, &Ip::v4().tcp(40_000, ACK, &[], &payload(1441))), 1480);
    assert_eq!(rig.connections(), before);
    assert_eq!(forwarded_fits(&mut rig, &Ip::v4().tcp(40_000, ACK, &[], &payload(1440))), 1500);
}

fn forwarded_fits(rig: &mut Rig, packet: &[u8]) -> usize {
    let sent = rig.pass(&framed(0, packet));
    assert_eq!(sent.len(), 1);
    unframed(&sent[0]).1.len()
}

#[test]
fn what_stands_behind_a_packet_goes_no_further_where_a_link_may_be_too_small_for_it() {
    let mut rig = rig(None, |snapshot| snapshot.ports[0].trims = true);
    for ip in [Ip::v4(), Ip::v6()] {
        for bytes in [0, 100, 1400] {
            let packet = ip.udp(40_000, &payload(bytes));
            let frame = framed(0, &packet);
            let end = (14 + packet.len()).max(60);
            for behind in [0, 1, 20, 7000] {
                let mut longer = frame.clone();
                longer.resize(end + behind, 0xee);
                let cuts: Vec<usize> =
                    (1..longer.len().div_ceil(2000)).map(|segment| segment * 2000).collect();
                let sent = rig.pass_segments(&longer, &cuts);
                assert_eq!(sent.len(), 1, "{:?}", rig.counters);
                assert_eq!((sent[0].len(), unframed(&sent[0]).1.len()), (end, packet.len()));
            }
        }
    }
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn direct_routing_cuts_what_may_be_cut_as_the_kernel_does() {
    let mut rig = rig(None, |snapshot| snapshot.destinations[0].mtu = 1400);
    let packet = Ip::v4().may_be_cut().udp(40_000, &payload(1472));
    let pieces = forwarded(&mut rig, &framed(0, &packet));
    // Multiples of 8 up to the MTU, then the rest.
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1396, 124]);
    assert_eq!(reassemble(&pieces), one_hop_further(&packet));
    assert_eq!(rig.connections().len(), 1, "it opened a connection");
    let counters = &rig.counters[0];
    assert_eq!(counters.destinations[0].packets.load(), 1);
    assert_eq!(counters.destinations[0].bytes.load(), 1500);
    assert_eq!(counters.originated.load(), 2);
    // The next one hits the connection.
    let pieces = rig.pass(&framed(0, &packet));
    assert_eq!((pieces.len(), rig.connections().len()), (2, 1));
    rig.assert_conservation();
}

#[test]
fn options_are_copied_where_their_flag_says_so() {
    let mut rig = rig(None, |snapshot| snapshot.destinations[0].mtu = 576);
    // Stream identifier (copied), timestamp (not copied), no-operations.
    let options = [&[136, 4, 1, 2][..], &[68, 8, 5, 0, 0, 0, 0, 0], &[1, 1, 1, 1]].concat();
    let ip = Ip { options: options.clone(), ..Ip::v4().may_be_cut() };
    let packet = ip.udp(40_000, &payload(1400));
    let pieces = forwarded(&mut rig, &framed(0, &packet));
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[0][20..36], options);
    let copied = [&[136, 4, 1, 2][..], &[1; 12]].concat();
    assert!(pieces[1..].iter().all(|piece| piece[20..36] == copied));
    assert_eq!(reassemble(&pieces), one_hop_further(&packet));
}

#[test]
fn tunnel_cuts_the_outer_packet_over_both_families() {
    for kind in KINDS {
        for (is_outer_ipv6, sizes) in [(false, [1500, 0]), (true, [1496, 0])] {
            let mut rig = rig(Some((kind, is_outer_ipv6)), |_| {});
            let packet = Ip::v4().may_be_cut().udp(40_000, &payload(1472));
            let pieces = forwarded(&mut rig, &framed(0, &packet));
            assert_eq!((pieces.len(), pieces[0].len()), (2, sizes[0]), "{kind:?}");
            let whole = reassemble(&pieces);
            let (outer, inner) = decapsulate(&whole, kind);
            assert_eq!(inner, one_hop_further(&packet));
            assert!(is_outer_ipv6 || !outer.does_not_fragment && outer.identification != 0);
            // The fragment header's identification is another for each packet.
            if is_outer_ipv6 {
                let again = rig.pass(&framed(0, &packet));
                assert_ne!(unframed(&again[0]).1[44..48], pieces[0][44..48]);
            }
        }
    }
}

#[test]
fn without_pmtu_disc_a_tunnel_cuts_in_spite_of_df_and_direct_routing_does_not() {
    for is_outer_ipv6 in [false, true] {
        let mut rig = rig(Some((IPIP, is_outer_ipv6)), |snapshot| snapshot.options.pmtu_disc = false);
        let packet = Ip::v4().udp(40_000, &payload(1472));
        let pieces = forwarded(&mut rig, &framed(0, &packet));
        assert_eq!(decapsulate(&reassemble(&pieces), IPIP).1, one_hop_further(&packet));
        assert_eq!(
            refused(&mut rig, &Ip::v6().udp(40_000, &payload(1452))),
            if is_outer_ipv6 { 1460 } else { 1480 }
        );
    }
    let mut rig = rig(None, |snapshot| {
        snapshot.options.pmtu_disc = false;
        snapshot.destinations[0].mtu = 1400;
    });
    assert_eq!(refused(&mut rig, &Ip::v4().udp(40_000, &payload(1472))), 1400);
}

#[test]
fn ipv6_of_1280_goes_through_any_tunnel_and_no_less_is_told() {
    for is_outer_ipv6 in [false, true] {
        // A link of 1280: the tunnel itself carries less.
        let mut rig = rig(Some((IPIP, is_outer_ipv6)), |snapshot| snapshot.destinations[0].mtu -= 220);
        let packet = Ip::v6().udp(40_000, &payload(1280 - 48));
        let pieces = forwarded(&mut rig, &framed(0, &packet));
        assert!(pieces.len() == 2 && pieces.iter().all(|piece| piece.len() <= 1280));
        assert_eq!(decapsulate(&reassemble(&pieces), IPIP).1, one_hop_further(&packet));
        assert_eq!(refused(&mut rig, &Ip::v6().udp(40_000, &payload(1281 - 48))), 1280);
    }
}

#[test]
fn path_mtu_that_was_learnt_holds_for_ten_minutes() {
    for is_outer_ipv6 in [false, true] {
        let mut rig = rig(Some((IPIP, is_outer_ipv6)), |snapshot| snapshot.options.tunnel_mss_clamp = true);
        let overhead = if is_outer_ipv6 { 40 } else { 20 };
        let full = Ip::v4().udp(40_000, &payload(1400 - overhead - 28 + 1));
        let fits = Ip::v4().udp(40_000, &payload(1400 - overhead - 28));
        assert_eq!(forwarded(&mut rig, &framed(0, &full)).len(), 1);
        let seconds = rig.seconds();
        rig.path_mtus.learn(0, 1400, is_outer_ipv6, seconds);
        assert_eq!(forwarded(&mut rig, &framed(0, &fits))[0].len(), 1400);
        assert_eq!(refused(&mut rig, &full), 1400 - overhead as u32);
        let may_be_cut = rig.pass(&framed(0, &Ip::v4().may_be_cut().udp(40_000, &payload(1400))));
        let pieces: Vec<_> = may_be_cut.iter().map(|frame| unframed(frame).1).collect();
        assert!(pieces.len() == 2 && pieces.iter().all(|piece| piece.len() <= 1400));
        let inner = decapsulate(&reassemble(&pieces), IPIP).1;
        assert_eq!(inner, one_hop_further(&Ip::v4().may_be_cut().udp(40_000, &payload(1400))));
        // MSS of a SYN follows the path.
        let mss = |size: u16| [&[2, 4][..], &size.to_be_bytes()].concat();
        let sent = rig.pass(&framed(0, &Ip::v4().tcp(40_000, SYN, &mss(1460), b"")));
        let inner = decapsulate(&unframed(&sent[0]).1, IPIP).1;
        assert_eq!(
            inner,
            one_hop_further(&Ip::v4().tcp(40_000, SYN, &mss(1400 - overhead as u16 - 40), b""))
        );
        rig.hand.advance_seconds(599);
        assert_eq!(refused(&mut rig, &full), 1400 - overhead as u32);
        rig.hand.advance_seconds(1);
        assert_eq!(rig.pass(&framed(0, &full)).len(), 1);
        assert_eq!(rig.dropped(DropReason::TooBig), 2);
    }
}

#[test]
fn path_mtu_concerns_no_direct_routing() {
    let mut rig = rig(None, |_| {});
    rig.path_mtus.learn(0, 600, false, rig.seconds());
    assert_eq!(forwarded(&mut rig, &framed(0, &Ip::v4().udp(40_000, &payload(1472)))).len(), 1);
}

#[test]
fn piece_that_is_too_big_is_cut_again() {
    let mut rig = rig(None, |snapshot| snapshot.destinations[0].mtu = 576);
    // The first and the last piece of a datagram.
    let whole = Ip::v4().may_be_cut().udp(40_000, &payload(2000));
    let mut first = whole[..20 + 1200].to_vec();
    first[2..4].copy_from_slice(&1220_u16.to_be_bytes());
    first[6] = 0x20;
    let mut last = [&whole[..20], &whole[20 + 1200..]].concat();
    let length = last.len() as u16;
    last[2..4].copy_from_slice(&length.to_be_bytes());
    last[7] = 150;
    let mut pieces = Vec::new();
    for piece in [&mut first, &mut last] {
        rig::packets::set_header_checksum(piece);
        pieces.extend(rig.pass(&framed(0, piece)).iter().map(|frame| unframed(frame).1));
    }
    assert_eq!(pieces.len(), 5);
    assert!(pieces.iter().all(|piece| piece.len() <= 576));
    assert_eq!(reassemble(&pieces), one_hop_further(&whole));
    rig.assert_conservation();
}

#[test]
fn empty_pool_loses_the_packet_whole_and_counted() {
    // One buffer for the frame itself, two for pieces.
    for frames in 1..=3 {
        let config = MemoryPortConfig { frames, ..MemoryPortConfig::default() };
        let mut rig = rig_of(&config, None, |snapshot| snapshot.destinations[0].mtu = 576);
        assert!(rig.pass(&framed(0, &Ip::v4().may_be_cut().udp(40_000, &payload(1400)))).is_empty());
        assert_eq!(rig.dropped(DropReason::NoBuffer), 1);
        assert_eq!(rig.total(|counters| counters.originated.load()), 0);
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}

#[test]
fn pieces_that_the_port_refuses_are_counted() {
    let mut rig = rig(None, |snapshot| snapshot.destinations[0].mtu = 576);
    rig.ports[0].set_tx_limit(Some(0));
    assert!(rig.pass(&framed(0, &Ip::v4().may_be_cut().udp(40_000, &payload(1400)))).is_empty());
    assert_eq!(rig.total(|counters| counters.originated_not_sent.load()), 3);
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn burst_of_jumbo_datagrams_is_cut_whole_and_none_is_mixed_up() {
    let mut rig = rig(Some((KINDS[4], false)), |_| {});
    let packets: Vec<_> = (0..32)
        .map(|number| {
            let ip = Ip { identification: 100 + number, ..Ip::v4().may_be_cut() };
            ip.udp(40_000 + number, &payload(8000 + usize::from(number)))
        })
        .collect();
    for packet in &packets {
        assert!(rig.ports[0].inject_segments(0, &framed(0, packet), &[2000, 4000, 6000, 8000]));
    }
    rig.poll();
    let frames = rig.ports[0].take_transmitted();
    assert_eq!(frames.len(), 32 * 6);
    for (pieces, packet) in frames.chunks(6).zip(&packets) {
        let pieces: Vec<_> = pieces.iter().map(|frame| unframed(frame).1).collect();
        let whole = reassemble(&pieces);
        assert_eq!(decapsulate(&whole, KINDS[4]).1, one_hop_further(packet));
    }
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn largest_packet_into_the_smallest_way_fits_what_waits_for_sending() {
    let config = MemoryPortConfig { frame_size: 65_600, frames: 256, ..MemoryPortConfig::default() };
    let mut rig = rig_of(&config, None, |snapshot| snapshot.destinations[0].mtu = 552);
    let packet = Ip::v4().may_be_cut().udp(40_000, &payload(65_535 - 28));
    let sent = rig.pass(&framed(0, &packet));
    let pieces: Vec<_> = sent.iter().map(|frame| unframed(frame).1).collect();
    assert_eq!(reassemble(&pieces), one_hop_further(&packet));
    rig.assert_conservation();
    rig.assert_no_leak();
    // Into a tunnel it does not go at all.
    let mut rig = rig_of(&config, Some((IPIP, false)), |_| {});
    assert!(rig.pass(&framed(0, &packet)).is_empty());
    assert_eq!(rig.dropped(DropReason::TooBig), 1);
    rig.assert_no_leak();
}

#[test]
fn way_larger_than_a_buffer_is_cut_to_what_a_buffer_holds() {
    let mut rig = rig(None, |snapshot| snapshot.destinations[0].mtu = 4000);
    let packet = Ip::v4().may_be_cut().udp(40_000, &payload(5000));
    let pieces = forwarded(&mut rig, &framed(0, &packet));
    assert!(pieces.iter().all(|piece| piece.len() <= 1280));
    assert_eq!(reassemble(&pieces), one_hop_further(&packet));
}

#[test]
fn jumbo_frame_in_segments_is_forwarded_as_it_is_where_the_way_carries_it() {
    for vlan in [0, 7] {
        let mut rig = rig(None, |snapshot| {
            snapshot.destinations[0].mtu = 9000;
            snapshot.destinations[0].vlan = vlan;
        });
        for ip in [Ip::v4(), Ip::v6()] {
            let packet = ip.udp(40_000, &payload(8952));
            let sent = rig.pass_segments(&framed(0, &packet), &[1000, 1001, 3000, 5000, 7000]);
            assert_eq!(unframed(&sent[0]), (vlan, one_hop_further(&packet)));
        }
        rig.assert_conservation();
        rig.assert_no_leak();
    }
}

#[test]
fn extension_headers_count_and_their_packet_is_refused() {
    let mut rig = rig(Some((IPIP, false)), |_| {});
    let datagram = &Ip::v6().udp(40_000, &payload(1424))[40..];
    let packet = Ip::v6().packet(60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], datagram].concat());
    assert_eq!((packet[8..24].to_vec(), packet[24..40].to_vec()), (CLIENT6.to_vec(), VIP6.to_vec()));
    assert_eq!(length(&packet), 1480);
    assert_eq!(forwarded_fits(&mut rig, &packet), 1500);
    let longer = &Ip::v6().udp(40_000, &payload(1425))[40..];
    let packet = Ip::v6().packet(60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], longer].concat());
    assert_eq!(refused(&mut rig, &packet), 1480);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_cut_comes_together_again(
        bytes in 0..9000_usize, mtu in 68..2500_u16, options in 0..=10_usize,
        tunnel in prop::option::of((0..5_usize, any::<bool>())), vlan in prop_oneof![Just(0_u16), Just(9)], is_tagged: bool,
    ) {
        let tunnel = tunnel.map(|(kind, is_outer_ipv6)| (KINDS[kind], is_outer_ipv6));
        // In a tunnel, the kernel's least (for IPv6, a link's least) and no more than what 64 KiB is cut to.
        let mtu = if tunnel.is_some() { mtu.max(512) } else { mtu };
        let mut rig = rig(tunnel, |snapshot| {
            snapshot.destinations[0].mtu = mtu;
            snapshot.destinations[0].vlan = vlan;
            let interface = snapshot.ports[0].untagged.unwrap();
            snapshot.ports[0].vlans.insert(100, interface);
        });
        let ip = Ip { options: vec![1; options * 4], ..Ip::v4().may_be_cut() };
        let packet = ip.udp(40_000, &payload(bytes));
        let frame = framed(if is_tagged { 100 } else { 0 }, &packet);
        let cuts: Vec<usize> = (1..frame.len().div_ceil(2000)).map(|segment| segment * 2000).collect();
        let sent = rig.pass_segments(&frame, &cuts);
        rig.assert_conservation();
        rig.assert_no_leak();
        let overhead = tunnel.map_or(0, |(kind, is_outer_ipv6)| kind.bytes() + if is_outer_ipv6 { 40 } else { 20 });
        let limit = usize::from(mtu) + overhead;
        let header = 20 + options * 4;
        let most = (usize::from(mtu).saturating_sub(header)) & !7;
        if tunnel.is_none() && packet.len() > limit && (most == 0 || (packet.len() - header).div_ceil(most) > 160) {
            prop_assert!(sent.is_empty());
            prop_assert_eq!(rig.dropped(DropReason::TooBig), 1);
            return Ok(());
        }
        let mut pieces = Vec::new();
        for frame in &sent {
            prop_assert_eq!(&frame[..12], &[rs_mac(0), own_mac(0)].concat()[..]);
            let (tag, piece) = unframed(frame);
            prop_assert_eq!(tag, vlan);
            prop_assert!(piece.len() <= limit);
            pieces.push(piece);
        }
        let whole = reassemble(&pieces);
        prop_assert_eq!(pieces.len() == 1, packet.len() <= usize::from(mtu));
        let inner = match tunnel {
            Some((kind, _)) => decapsulate(&whole, kind).1,
            None => whole,
        };
        prop_assert_eq!(inner, one_hop_further(&packet));
    }
}
