//! VLANs over ports in memory: tagged or not on the way in and on the way out, priority tags, tags that the NIC took out, two tags.

mod rig;

use dataplane::host::{HostFrames, HostPath};
use dataplane::packet::arp::{self, ArpPacket};
use dataplane::port::PortId;
use dataplane::snapshot::{AddressRole, DestinationState, InterfaceId, InterfaceSnapshot, Snapshot};
use dataplane::verdict::{DropReason, PuntQueue};
use proptest::prelude::*;
use rig::packets::{Ip, decapsulate, framed, framed_between, one_hop_further, unframed};
use rig::tunnels::{KINDS, both_families, set_tunnel};
use rig::{CLIENT_MAC, Rig, Rs, SYN, own_mac, rs_mac};

/// Ports 0 and 1, each with an untagged side (interface 0, 1), port 0 with VLANs 100 and 200 too (interfaces 2, 3). Real server 0 is
/// behind port `port` in VLAN `vlan`.
fn rig(port: u8, vlan: u16, change: impl FnOnce(&mut Snapshot)) -> Rig {
    Rig::with(1, 2, 1024, |counts| {
        let mut snapshot = both_families(counts, 2, &[Rs { port, ..Rs::new(0) }]);
        for (id, vlan) in [(2, 100), (3, 200)] {
            let interface = InterfaceSnapshot { vlan, has_host: true, ..snapshot.interfaces[0] };
            snapshot.interfaces.push(interface);
            snapshot.ports[0].vlans.insert(vlan, InterfaceId(id));
        }
        snapshot.interfaces[0].has_host = true;
        snapshot.destinations[0].vlan = vlan;
        change(&mut snapshot);
        snapshot
    })
}

/// A tag with all of its bits in front of the EtherType.
fn tagged(tci: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tci.to_be_bytes(), &frame[12..]].concat()
}

/// All that left, by port.
fn taken(rig: &Rig) -> [Vec<Vec<u8>>; 2] {
    [rig.ports[0].take_transmitted(), rig.ports[1].take_transmitted()]
}

#[test]
fn every_mix_of_tags_in_and_out_on_the_same_and_on_another_port() {
    for (out_port, out_vlan) in [(0, 0), (0, 100), (0, 200), (0, 4094), (1, 0), (1, 100)] {
        for in_vlan in [0, 100, 200] {
            for nic_takes_it_out in [false, true] {
                for ip in [Ip::v4(), Ip::v6()] {
                    let mut rig = rig(out_port, out_vlan, |_| {});
                    // The second packet hits the connection.
                    for packet in [ip.udp(40_000, b"first"), ip.udp(40_000, &[7; 1000])] {
                        let frame = framed(in_vlan, &packet);
                        match nic_takes_it_out && in_vlan != 0 {
                            true => assert!(rig.ports[0].inject_untagging(0, &frame)),
                            false => assert!(rig.ports[0].inject(0, &frame)),
                        }
                        rig.poll();
                        let [first, second] = taken(&rig);
                        let (sent, other) = if out_port == 0 { (first, second) } else { (second, first) };
                        assert_eq!((sent.len(), other.len()), (1, 0));
                        assert_eq!(sent[0][..12], [rs_mac(0), own_mac(out_port)].concat());
                        assert_eq!(unframed(&sent[0]), (out_vlan, one_hop_further(&packet)));
                        // What a port takes out it pads again.
                        assert!(sent[0].len() >= 60 || nic_takes_it_out);
                        if out_vlan != 0 {
                            assert_eq!(sent[0][14] >> 4, 0, "no priority");
                        }
                    }
                    assert_eq!(rig.connections().len(), 1);
                    rig.assert_conservation();
                    rig.assert_no_leak();
                }
            }
        }
    }
}

#[test]
fn tunnels_have_the_tag_outside() {
    for kind in KINDS {
        for is_outer_ipv6 in [false, true] {
            for (in_vlan, out_vlan) in [(0, 100), (100, 0), (100, 200)] {
                let mut rig = rig(0, out_vlan, |snapshot| set_tunnel(snapshot, kind, is_outer_ipv6));
                let packet = Ip::v4().tcp(40_000, SYN, &[], b"");
                let sent = rig.pass(&framed(in_vlan, &packet));
                let (vlan, outer) = unframed(&sent[0]);
                assert_eq!((vlan, decapsulate(&outer, kind).1), (out_vlan, one_hop_further(&packet)));
            }
        }
    }
}

#[test]
fn priority_tag_is_the_untagged_side() {
    let packet = Ip::v4().udp(40_000, b"");
    for tci in [0, 0xe000, 0x1000, 0xf000] {
        let mut rig = rig(0, 0, |_| {});
        let frame = tagged(tci, &framed(0, &packet));
        assert_eq!(unframed(&rig.pass(&frame)[0]), (0, one_hop_further(&packet)));
        assert!(rig.ports[0].inject_untagging(0, &frame));
        rig.poll();
        assert_eq!(unframed(&taken(&rig)[0][0]), (0, one_hop_further(&packet)));
    }
    // A VLAN's own priority and drop eligibility are nobody's business.
    let mut rig = rig(0, 200, |_| {});
    assert_eq!(
        unframed(&rig.pass(&tagged(0xf000 | 100, &framed(0, &packet)))[0]),
        (200, one_hop_further(&packet))
    );
}

#[test]
fn vlans_that_the_port_has_not_and_untagged_where_there_is_none_are_dropped() {
    let packet = Ip::v4().udp(40_000, b"");
    let mut rig = rig(0, 0, |snapshot| snapshot.ports[0].untagged = None);
    let dropped = [
        framed(1, &packet),
        framed(101, &packet),
        framed(4095, &packet),
        framed(0, &packet),
        tagged(0xe000, &framed(0, &packet)),
    ];
    for (count, frame) in (1..).zip(&dropped) {
        assert!(rig.pass(frame).is_empty());
        assert_eq!(rig.dropped(DropReason::UnknownVlan), count);
    }
    assert_eq!(rig.pass(&framed(100, &packet)).len(), 1);
    // Port 1 has other VLANs than port 0.
    rig.ports[1].inject(0, &framed_between(&[own_mac(1), CLIENT_MAC].concat(), 100, &packet));
    rig.poll();
    assert_eq!(rig.dropped(DropReason::UnknownVlan), 6);
    rig.assert_conservation();
}

#[test]
fn frame_that_ends_within_its_tag_is_truncated() {
    let mut rig = rig(0, 0, |_| {});
    let whole = framed(100, &Ip::v4().udp(40_000, b""));
    for length in 0..18 {
        assert!(rig.pass(&whole[..length]).is_empty(), "{length}");
    }
    assert_eq!(rig.dropped(DropReason::Truncated), 18);
    // Behind it the IP header is missing.
    for length in 18..38 {
        assert!(rig.pass(&whole[..length]).is_empty(), "{length}");
    }
    assert_eq!(rig.dropped(DropReason::Truncated), 38);
}

/// Frames with two tags, in every way that they are written.
fn stacked() -> Vec<Vec<u8>> {
    let inner = framed(100, &Ip::v4().udp(40_000, b"inside two tags"));
    [[0x81, 0], [0x88, 0xa8], [0x91, 0]]
        .map(|tpid: [u8; 2]| {
            let mut frame = tagged(300, &inner);
            frame[12..14].copy_from_slice(&tpid);
            frame
        })
        .to_vec()
}

#[test]
fn two_tags_are_dropped_or_are_the_hosts_as_they_are() {
    for frame in stacked() {
        let mut rig = rig(0, 0, |_| {});
        assert!(rig.pass(&frame).is_empty());
        assert_eq!(rig.dropped(DropReason::Qinq), 1);

        let mut rig = self::rig(0, 0, |snapshot| snapshot.ports[0].passes_qinq = true);
        assert!(rig.pass(&frame).is_empty());
        let mut buffer = Vec::new();
        assert_eq!(HostFrames::next(&rig.host, &mut buffer), Some(InterfaceId(0)));
        assert_eq!(buffer, frame);
        rig.assert_conservation();
    }
    // The outer one was taken out by the NIC: it is put back.
    let frame = &stacked()[0];
    let mut rig = rig(0, 0, |snapshot| snapshot.ports[0].passes_qinq = true);
    assert!(rig.ports[0].inject_untagging(0, frame));
    rig.poll();
    let mut buffer = Vec::new();
    assert_eq!(HostFrames::next(&rig.host, &mut buffer), Some(InterfaceId(0)));
    assert_eq!(buffer, *frame);
    // A single tag of 802.1ad is a provider's, even of a VLAN that we have.
    let mut single = framed(100, &Ip::v4().udp(40_000, b""));
    single[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert!(rig.pass(&single).is_empty());
    assert_eq!(HostFrames::next(&rig.host, &mut buffer), Some(InterfaceId(0)));
    // Where the port has VLANs only, it is nobody's.
    let mut rig = self::rig(0, 0, |snapshot| {
        snapshot.ports[0].passes_qinq = true;
        snapshot.ports[0].untagged = None;
    });
    assert!(rig.pass(frame).is_empty());
    assert_eq!(rig.dropped(DropReason::Qinq), 1);
    rig.assert_conservation();
}

#[test]
fn arp_and_the_hosts_packets_go_up_without_the_tag_of_their_interface() {
    let mut rig = rig(0, 0, |snapshot| {
        snapshot.addresses.insert([10, 100, 0, 1].into(), AddressRole::Dip(InterfaceId(2)));
    });
    let request = ArpPacket {
        operation: arp::REQUEST,
        sender_mac: CLIENT_MAC,
        sender_address: [10, 100, 0, 9].into(),
        target_mac: [0; 6],
        target_address: [10, 100, 0, 1].into(),
    };
    let request = request.to_frame([0xff; 6], CLIENT_MAC);
    let mut buffer = Vec::new();
    for nic_takes_it_out in [false, true] {
        for (vlan, is_heard) in [(100, true), (200, false), (0, false)] {
            let frame = match vlan {
                0 => request.to_vec(),
                vlan => tagged(vlan, &request),
            };
            match nic_takes_it_out && vlan != 0 {
                true => assert!(rig.ports[0].inject_untagging(0, &frame)),
                false => assert!(rig.ports[0].inject(0, &frame)),
            }
            rig.poll();
            let heard = rig.host.next_punted(PuntQueue::Neighbour, &mut buffer);
            assert_eq!(heard, is_heard.then_some(InterfaceId(2)), "{vlan}");
            if is_heard {
                assert_eq!(buffer[..request.len()], request[..]);
            }
        }
        // SSH to the DIP of the VLAN.
        let mut packet = Ip::v4().tcp(40_000, SYN, &[], b"");
        packet[16..20].copy_from_slice(&[10, 100, 0, 1]);
        rig::packets::set_header_checksum(&mut packet);
        match nic_takes_it_out {
            true => assert!(rig.ports[0].inject_untagging(0, &framed(100, &packet))),
            false => assert!(rig.ports[0].inject(0, &framed(100, &packet))),
        }
        rig.poll();
        assert_eq!(HostFrames::next(&rig.host, &mut buffer), Some(InterfaceId(2)));
        assert_eq!(unframed(&buffer), (0, packet));
    }
    rig.assert_conservation();
    rig.assert_no_leak();
}

#[test]
fn frame_to_another_mac_is_not_ours_in_any_vlan() {
    let mut rig = rig(0, 0, |_| {});
    let packet = Ip::v4().udp(40_000, b"");
    for vlan in [0, 100] {
        rig.pass(&framed_between(&[rs_mac(3), CLIENT_MAC].concat(), vlan, &packet));
    }
    assert_eq!(rig.dropped(DropReason::WrongMac), 2);
}

#[test]
fn burst_of_all_mixes_leaves_by_both_ports_in_order() {
    // One service, two real servers: in VLAN 100 of port 0, and untagged behind port 1.
    let mut rig = Rig::with(1, 2, 1024, |counts| {
        let real_servers = [Rs { port: 1, ..Rs::new(1) }, Rs::new(0)];
        let mut snapshot = both_families(counts, 2, &real_servers);
        snapshot.ports[0].vlans.insert(100, InterfaceId(0));
        snapshot.destinations[0].vlan = 100;
        assert_eq!(snapshot.destinations[1].port, PortId(1));
        assert_eq!(snapshot.destinations[1].state, DestinationState::Forwarding);
        snapshot
    });
    for number in 0..32_u16 {
        let packet = Ip::of(number % 3 == 0).udp(40_000 + number, &number.to_be_bytes());
        assert!(rig.ports[0].inject(0, &framed(if number % 2 == 0 { 100 } else { 0 }, &packet)));
    }
    rig.poll();
    let sent = taken(&rig);
    assert_eq!(sent.iter().map(Vec::len).sum::<usize>(), 32);
    for (port, frames) in sent.iter().enumerate() {
        let mut last = None;
        for frame in frames {
            let (vlan, packet) = unframed(frame);
            assert_eq!(vlan, if port == 0 { 100 } else { 0 });
            let number = u16::from_be_bytes([packet[packet.len() - 2], packet[packet.len() - 1]]);
            assert!(last.is_none_or(|last| last < number));
            last = Some(number);
        }
    }
    rig.assert_conservation();
    rig.assert_no_leak();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_tags_say_a_frame_is_forwarded_right_or_dropped_and_counted(
        frames in prop::collection::vec((any::<u16>(), any::<u16>(), 0..6_u8, any::<bool>(), any::<bool>()), 1..60),
        out in prop_oneof![Just(0_u16), Just(100), Just(4094)],
        passes_qinq: bool,
    ) {
        let mut rig = rig(0, out, |snapshot| snapshot.ports[0].passes_qinq = passes_qinq);
        let packet = Ip::v4().udp(40_000, b"tags");
        let mut expected = 0;
        for (outer, inner, tags, nic_takes_it_out, is_known) in frames {
            let outer = if is_known { outer & 0xf000 | 100 } else { outer };
            let frame = match tags {
                0 | 1 => framed(0, &packet),
                2..=4 => tagged(outer, &framed(0, &packet)),
                _ => tagged(outer, &tagged(inner, &framed(0, &packet))),
            };
            let id = outer & 0x0fff;
            expected += usize::from(tags <= 1 || tags <= 4 && [0, 100, 200].contains(&id));
            let is_injected = match nic_takes_it_out && tags > 1 {
                true => rig.ports[0].inject_untagging(0, &frame),
                false => rig.ports[0].inject(0, &frame),
            };
            prop_assert!(is_injected);
        }
        rig.poll();
        rig.poll();
        let sent = rig.ports[0].take_transmitted();
        prop_assert_eq!(sent.len(), expected);
        for frame in sent {
            prop_assert_eq!(unframed(&frame), (out, one_hop_further(&packet)));
        }
        rig.assert_conservation();
        let mut buffer = Vec::new();
        while HostFrames::next(&rig.host, &mut buffer).is_some() {}
        rig.assert_no_leak();
    }
}
