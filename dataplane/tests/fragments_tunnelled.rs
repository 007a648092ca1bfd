//! Fragments through tunnels and too large for their way: each is put into a packet of its own, and one that does not fit is cut
//! further or refused as any packet is.

mod rig;

use dataplane::memory::MemoryPortConfig;
use dataplane::packet::outer::TunnelKind;
use dataplane::snapshot::Snapshot;
use dataplane::verdict::DropReason::*;
use rig::packets::{Ip, decapsulate, framed, one_hop_further, reassemble, unframed};
use rig::pieces::{pieces, raw_piece};
use rig::tunnels::{KINDS, both_families, tunnelled};
use rig::{Rig, Rs};

fn rig_with(first: impl FnOnce(&dataplane::snapshot::SharedCounts) -> Snapshot) -> Rig {
    let (limits, config) = (rig::template_limits(), MemoryPortConfig::default());
    Rig::with_ports(1, 1, 1024, &limits, &config, true, first)
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte % 251) as u8).collect()
}

fn pass_all(rig: &mut Rig, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let sent = frames.iter().flat_map(|frame| rig.pass(frame)).collect();
    rig.assert_conservation();
    rig.assert_no_leak();
    sent
}

#[test]
fn each_piece_has_an_outer_packet_of_its_own() {
    for kind in KINDS {
        for (is_outer_ipv6, is_ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut rig = rig_with(|counts| tunnelled(counts, kind, is_outer_ipv6));
            let whole = Ip::of(is_ipv6).may_be_cut().udp(1000, &payload(4000));
            let mut cut = pieces(&framed(0, &whole), 7, 1360);
            cut.rotate_left(1);
            let sent = pass_all(&mut rig, &cut);
            assert_eq!(sent.len(), 3);
            let inner: Vec<_> = sent.iter().map(|frame| decapsulate(&unframed(frame).1, kind)).collect();
            for (_, inner) in &inner {
                assert!(cut.iter().any(|piece| one_hop_further(&unframed(piece).1) == *inner));
            }
            let inner: Vec<_> = inner.into_iter().map(|(_, inner)| inner).collect();
            let mut expected = one_hop_further(&whole);
            if !is_ipv6 {
                expected[4..6].copy_from_slice(&[0, 7]);
                rig::packets::set_header_checksum(&mut expected);
            }
            assert_eq!(reassemble(&inner), expected, "{kind:?}");
        }
    }
}

#[test]
fn piece_that_fills_the_link_is_fragmented_outside_the_tunnel() {
    let mut rig = rig_with(|counts| tunnelled(counts, TunnelKind::Ipip, false));
    let whole = Ip::v4().may_be_cut().udp(1000, &payload(2000));
    let sent = pass_all(&mut rig, &pieces(&framed(0, &whole), 7, 1480));
    assert_eq!(sent.len(), 3, "the first in two outer fragments");
    let outer = reassemble(&sent[..2].iter().map(|frame| unframed(frame).1).collect::<Vec<_>>());
    let first = decapsulate(&outer, TunnelKind::Ipip).1;
    let second = decapsulate(&unframed(&sent[2]).1, TunnelKind::Ipip).1;
    assert_eq!(reassemble(&[first, second])[20..], whole[20..]);
}

#[test]
fn ipv6_pieces_that_do_not_fit_are_told_once() {
    let mut rig = rig_with(|counts| tunnelled(counts, TunnelKind::Ipip, false));
    let whole = Ip::v6().udp(1000, &payload(4000));
    let sent = pass_all(&mut rig, &pieces(&framed(0, &whole), 7, 1448));
    assert_eq!(sent.len(), 1);
    let (_, error) = unframed(&sent[0]);
    assert_eq!((error[40], error[41], &error[44..48]), (2, 0, &1480_u32.to_be_bytes()[..]));
    assert_eq!(rig.dropped(TooBig), 3);
}

#[test]
fn pieces_that_must_not_be_cut_are_refused_and_those_that_may_are_cut() {
    let mut rig = rig_with(|counts| {
        let mut snapshot = both_families(counts, 1, &[Rs::new(0)]);
        snapshot.destinations[0].mtu = 576;
        snapshot
    });
    let whole = Ip::v4().may_be_cut().udp(1000, &payload(4000));
    let cut = pieces(&framed(0, &whole), 7, 1360);
    let sent = pass_all(&mut rig, &cut);
    let packets: Vec<_> = sent.iter().map(|frame| unframed(frame).1).collect();
    assert!(packets.iter().all(|packet| packet.len() <= 576));
    assert_eq!(reassemble(&packets)[20..], whole[20..]);
    // DF in a fragment: odd, but it is what it says.
    let mut odd = raw_piece(&framed(0, &whole), 8, 0, true, &whole[20..1380]);
    odd[20] |= 0x40;
    rig::fix_checksum(&mut odd);
    let sent = pass_all(&mut rig, &[odd]);
    let (_, error) = unframed(&sent[0]);
    assert_eq!((error[20], error[21], &error[26..28]), (3, 4, &576_u16.to_be_bytes()[..]));
}
