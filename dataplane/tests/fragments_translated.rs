//! Fragments of packets whose addresses are translated, piece by piece: what the receiver puts together is what a whole packet
//! would have become, checksums included.

mod rig;

use std::net::IpAddr;

use dataplane::clock::TICKS_PER_SECOND;
use dataplane::snapshot::{
    DestinationState, ForwardingMethod, Persistence, PersistenceScope, PersistentClient, Protocol,
    SharedCounts,
};
use dataplane::verdict::DropReason::*;
use proptest::prelude::*;
use rig::icmp::{ErrorOf, packet_of, quoted_between};
use rig::nat::{CIP, assert_settled, become_of, client_6, rig, rip, source_of, vip, vip_6};
use rig::packet::{End, FrameOf};
use rig::pieces::{payload_length, piece, pieces};
use rig::{ACK, CLIENT_MAC, DIAMETER, DNS, HTTP, Rig, Rs, SYN, add_service, own_mac, rs_mac};
use scheduler::Algorithm;

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|byte| (byte % 251) as u8).collect()
}

/// Client and virtual service of this family.
fn ends(is_ipv6: bool, port: u16) -> (End, End) {
    if is_ipv6 { (client_6(40_000), vip_6(port)) } else { (CIP, vip(port)) }
}

/// Each piece of what came is, in its place, the piece of what should leave: same cut, same identification.
fn assert_pieces(sent: &[Vec<u8>], expected: &FrameOf, id: u32, most: usize) {
    let mut expected = pieces(&expected.build(), id, most);
    let mut sent = sent.to_vec();
    expected.sort_unstable();
    sent.sort_unstable();
    assert_eq!(sent, expected);
}

fn pass_all(rig: &mut Rig, queue: usize, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().flat_map(|frame| rig.pass_on(queue, frame)).map(|(_, frame)| frame).collect()
}

fn each(mut test: impl FnMut(&mut Rig, &Rs, bool)) {
    for is_ipv6 in [false, true] {
        for method in [ForwardingMethod::Nat, ForwardingMethod::FullNat] {
            let rs = Rs { is_ipv6, method, ..Rs::nat(3, 8080) };
            let mut rig = rig(&[rs]);
            test(&mut rig, &rs, is_ipv6);
            assert_settled(&rig);
        }
    }
}

#[test]
fn datagrams_in_pieces_are_translated_both_ways() {
    each(|rig, rs, is_ipv6| {
        let (client, service) = ends(is_ipv6, DNS);
        for (id, reversed) in [(7, false), (8, true), (9, false)] {
            let request = FrameOf::udp(client, service, &payload(4000));
            let mut cut = pieces(&request.build(), id, 1400);
            if reversed {
                cut.reverse();
            }
            let sent = pass_all(rig, 0, &cut);
            // Its fragments opened the connection.
            let local = source_of(&become_of(rig, &FrameOf::udp(client, service, b"more")));
            assert_pieces(&sent, &request.between(local, rip(rs, 8080)).at_rs(3), id, 1400);

            let answer = FrameOf::udp(rip(rs, 8080), local, &payload(3333)).sent_by(3);
            let mut cut = pieces(&answer.build(), id, 1400);
            if reversed {
                cut.reverse();
            }
            let sent = pass_all(rig, 0, &cut);
            assert_pieces(&sent, &answer.between(service, client).at_client(), id, 1400);
        }
        assert_eq!(rig.connections().len(), 1);
    });
}

#[test]
fn segments_in_pieces_are_translated_both_ways() {
    each(|rig, rs, is_ipv6| {
        let (client, service) = ends(is_ipv6, HTTP);
        let local = source_of(&become_of(rig, &FrameOf::tcp(client, service, SYN)));
        let request = FrameOf::tcp(client, service, ACK).with_payload(&payload(2000));
        let sent = pass_all(rig, 0, &pieces(&request.build(), 7, 480));
        assert_pieces(&sent, &request.between(local, rip(rs, 8080)).at_rs(3), 7, 480);
        let answer = FrameOf::tcp(rip(rs, 8080), local, ACK).with_payload(&payload(2000)).sent_by(3);
        let sent = pass_all(rig, 0, &pieces(&answer.build(), 7, 480));
        assert_pieces(&sent, &answer.between(service, client).at_client(), 7, 480);
    });
}

#[test]
fn sctp_in_pieces_is_translated_only_where_its_ports_stay() {
    for (method, port, is_translated) in [
        (ForwardingMethod::Nat, 0, true),
        (ForwardingMethod::Nat, DIAMETER, true),
        (ForwardingMethod::Nat, 9999, false),
        (ForwardingMethod::FullNat, 0, false),
    ] {
        let rs = Rs { method, ..Rs::nat(3, port) };
        let mut rig = rig(&[rs]);
        let init = FrameOf::sctp(CIP, vip(DIAMETER), &[1, 0, 0, 8, 0, 0, 0, 0]);
        become_of(&mut rig, &init);
        let mut chunk = vec![0, 3, (500_u16 >> 8) as u8, (500_u16 & 0xff) as u8];
        chunk.extend(payload(496));
        let data = FrameOf::sctp(CIP, vip(DIAMETER), &chunk);
        let mut cut = pieces(&data.build(), 7, 160);
        cut.reverse();
        let count = cut.len();
        let sent = pass_all(&mut rig, 0, &cut);
        if is_translated {
            assert_pieces(&sent, &data.between(CIP, rip(&rs, DIAMETER)).at_rs(3), 7, 160);
        } else {
            // The checksum over all of it cannot be patched without its length.
            assert_eq!((sent.len(), rig.dropped(Fragment)), (0, count as u64));
        }
        assert_settled(&rig);
    }
}

#[test]
fn replies_in_pieces_of_no_connection_and_of_no_real_server_go_nowhere() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    let answer = FrameOf::udp(rip(&rs, 8080), CIP, &payload(3000)).sent_by(3);
    // Nothing is translated yet: nothing is held.
    assert_eq!(pass_all(&mut rig, 0, &pieces(&answer.build(), 7, 1400)), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(NotLocal), 3);
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), SYN));
    let mut cut = pieces(&answer.build(), 8, 1400);
    cut.reverse();
    assert_eq!(pass_all(&mut rig, 0, &cut), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(NoConnection), 3, "as the first, which a real server sent");
    let strange = FrameOf::udp(([10, 0, 0, 77].into(), 8080), CIP, &payload(3000)).sent_by(3);
    assert_eq!(pass_all(&mut rig, 0, &pieces(&strange.build(), 9, 1400)), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(NotLocal), 6, "no real server");
    assert_settled(&rig);
}

#[test]
fn pieces_die_with_their_connection() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    let request = FrameOf::tcp(CIP, vip(HTTP), SYN).with_payload(&payload(400));
    let cut = pieces(&request.build(), 7, 160);
    assert_eq!(pass_all(&mut rig, 0, &cut[..1]).len(), 1);
    let reset = FrameOf::tcp(rip(&rs, 8080), CIP, rig::RST | ACK).sent_by(3);
    become_of(&mut rig, &reset);
    rig.advance_and_sweep(20);
    assert_eq!(pass_all(&mut rig, 0, &cut[1..]), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(NoConnection), cut.len() as u64 - 1);
    assert_settled(&rig);
}

#[test]
fn piece_does_not_follow_another_connection_of_its_tuple_that_is_not_translated() {
    let behind_nat = Rs::nat(3, 8080);
    let snapshot = |counts: &SharedCounts, rs: Rs| {
        let mut snapshot = rig::snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.options.expire_nodest_conn = true;
        if rs.slot != behind_nat.slot {
            snapshot.destinations[behind_nat.slot as usize].state = DestinationState::Removed;
        }
        let persistence = Persistence {
            timeout_ticks: 360 * TICKS_PER_SECOND,
            netmask: u128::MAX,
            client: PersistentClient::Address,
            scope: PersistenceScope::Virtual { port: DNS },
        };
        add_service(&mut snapshot, counts, Algorithm::Rr, &[rs], &[(Protocol::UDP, DNS)], |service| {
            service.persistence = Some(persistence);
        });
        snapshot
    };
    let mut rig = Rig::with(1, 1, 16, |counts| snapshot(counts, behind_nat));
    // Templates of more numbers than there are connections.
    for host in 0..40 {
        let client = ([203, 0, 113, host].into(), 40_000);
        assert_eq!(rig.pass_on(0, &FrameOf::udp(client, vip(DNS), b"question").padded()).len(), 1);
        rig.advance_and_sweep(301);
    }
    let request = FrameOf::udp(CIP, vip(DNS), &payload(4000));
    let cut = pieces(&request.build(), 7, 1400);
    assert_eq!(pass_all(&mut rig, 0, &cut[..1]).len(), 1);
    let counts = rig.counts.clone();
    rig.publish_snapshot(snapshot(&counts, Rs::new(4)));
    rig.advance_and_sweep(3);
    let sent = rig.pass_on(0, &FrameOf::udp(CIP, vip(DNS), b"question").padded());
    assert_eq!(sent[0].1[..6], rs_mac(4));
    assert_eq!(pass_all(&mut rig, 0, &cut[1..2]), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(NoConnection), 1);
    rig.assert_no_leak();
}

#[test]
fn piece_too_big_for_its_way_is_cut_further_where_it_may_be() {
    let rs = Rs { mtu: 900, ..Rs::nat(3, 8080) };
    let mut rig = rig(&[rs]);
    let request = FrameOf::udp(CIP, vip(DNS), &payload(4000));
    let mut built = request.build();
    built[20] = 0;
    rig::fix_checksum(&mut built);
    let sent = pass_all(&mut rig, 0, &pieces(&built, 7, 1400));
    assert_eq!(sent.len(), 6);
    let expected = request.between(CIP, rip(&rs, 8080)).at_rs(3).build();
    assert_eq!(rig::pieces::reassemble(&sent).unwrap(), expected[34..]);
    assert_settled(&rig);
}

#[test]
fn icmp_errors_in_pieces_are_translated() {
    for method in [ForwardingMethod::Nat, ForwardingMethod::FullNat] {
        let rs = Rs { method, ..Rs::nat(3, 8080) };
        let mut rig = rig(&[rs]);
        let request = FrameOf::udp(CIP, vip(DNS), &payload(600));
        let answer = FrameOf::udp(vip(DNS), CIP, &payload(600));
        let local = source_of(&become_of(&mut rig, &request));
        let router: IpAddr = [203, 0, 113, 1].into();
        let error = ErrorOf::new(router, vip(DNS).0, &packet_of(&answer));
        let source = if method == ForwardingMethod::Nat { router } else { local.0 };
        let quote = quoted_between(&packet_of(&answer), rip(&rs, 8080), local);
        let expected = error.clone().between(source, rs.address()).quoting(&quote).at_rs(3);
        let mut cut = pieces(&error.frame(), 7, 200);
        cut.reverse();
        let mut sent = pass_all(&mut rig, 0, &cut);
        sent.sort_unstable();
        let mut expected = pieces(&expected.frame(), 7, 200);
        expected.sort_unstable();
        assert_eq!(sent, expected);

        let quote = packet_of(&request.clone().between(local, rip(&rs, 8080)));
        let error = ErrorOf::new(rs.address(), local.0, &quote).sent_by(3);
        let quote = quoted_between(&quote, CIP, vip(DNS));
        let expected = error.clone().between(vip(DNS).0, CIP.0).quoting(&quote).at_client();
        let sent = pass_all(&mut rig, 0, &pieces(&error.frame(), 8, 200));
        assert_eq!(sent, pieces(&expected.frame(), 8, 200));
        assert_settled(&rig);
    }
}

#[test]
fn fragments_go_to_the_worker_that_has_their_connection() {
    for rs in [Rs::new(3), Rs::nat(3, 8080), Rs::full_nat(3, 8080)] {
        let mut rig = Rig::new(4, 1, 1024, Algorithm::Rr, &[rs]);
        for (worker, queue) in (0..4).flat_map(|worker| (0..4).map(move |queue| (worker, queue))) {
            let client = (CIP.0, 40_000 + worker as u16);
            let small = FrameOf::udp(client, vip(DNS), b"question");
            let local = source_of(&rig.pass_on(worker, &small.padded())[0].1);
            let id = 16 * worker as u32 + queue as u32;
            let large = FrameOf::udp(client, vip(DNS), &payload(3000));
            let mut cut = pieces(&large.build(), id, 1400);
            cut.rotate_left(queue % 3);
            let sent = pass_all(&mut rig, queue, &cut);
            if rs.method == ForwardingMethod::Direct {
                assert!(sent.iter().all(|frame| frame[..12] == [rs_mac(3), own_mac(0)].concat()));
                assert_eq!(sent.len(), 3);
                continue;
            }
            assert_pieces(&sent, &large.clone().between(local, rip(&rs, 8080)).at_rs(3), id, 1400);
            let answer = FrameOf::udp(rip(&rs, 8080), local, &payload(3000)).sent_by(3);
            let mut cut = pieces(&answer.build(), id, 1400);
            cut.rotate_left(queue % 3);
            let sent = pass_all(&mut rig, queue, &cut);
            assert_pieces(&sent, &answer.between(vip(DNS), client).at_client(), id, 1400);
        }
        assert_eq!(rig.connections().len(), 4);
        assert_settled(&rig);
    }
}

#[test]
fn piece_of_which_two_workers_take_each_other_for_the_owner_goes_round_no_more_than_once() {
    for rs in [Rs::new(3), Rs::nat(3, 8080)] {
        let mut rig = Rig::new(2, 1, 1024, Algorithm::Rr, &[rs]);
        let clients = [40_000, 40_001].map(|port| (CIP.0, port));
        for (worker, client) in clients.into_iter().enumerate() {
            rig.pass_on(worker, &FrameOf::udp(client, vip(DNS), b"question").padded());
        }
        // Two packets of one identification, each received by the worker that has the other's connection.
        let cut =
            clients.map(|client| pieces(&FrameOf::udp(client, vip(DNS), &payload(4000)).build(), 7, 1400));
        assert!(rig.ports[0].inject(1, &cut[0][0]) && rig.ports[0].inject(0, &cut[1][0]));
        (0..3).for_each(|_| rig.poll());
        assert_eq!(rig.dropped(BadFragment), 2);
        let handed_over = |rig: &Rig| rig.total(|counters| counters.handed_over.load());
        let before = handed_over(&rig);
        assert!(rig.ports[0].inject(0, &cut[0][1]));
        (0..10).for_each(|_| rig.poll());
        assert_eq!((handed_over(&rig) - before, rig.dropped(NoConnection)), (1, 1));
        rig.ports[0].take_transmitted();
        assert_settled(&rig);
    }
}

#[test]
fn whole_datagrams_go_to_the_worker_whose_connection_fragments_opened() {
    for method in [ForwardingMethod::Direct, ForwardingMethod::Nat] {
        let real_servers = [1, 2, 3].map(|slot| Rs { method, ..Rs::nat(slot, 0) });
        let mut rig = Rig::new(4, 1, 1024, Algorithm::Rr, &real_servers);
        for worker in 0..4 {
            let client = (CIP.0, 40_000 + worker as u16);
            let large = FrameOf::udp(client, vip(DNS), &payload(3000));
            let sent = pass_all(&mut rig, worker, &pieces(&large.build(), worker as u32, 1400));
            let small = FrameOf::udp(client, vip(DNS), b"more");
            for queue in 0..4 {
                let more = rig.pass_on(queue, &small.padded());
                assert_eq!(more[0].1[..6], sent[0][..6], "{worker} {queue}");
            }
        }
        assert_eq!(rig.connections().len(), 4);
        assert_settled(&rig);
    }
}

#[test]
fn fragments_that_open_no_connection_have_nobody_search_all_tables() {
    for (members, one_packet) in [(&[][..], false), (&[(Protocol::UDP, 5000)][..], true)] {
        let mut rig = Rig::with(2, 1, 1024, |counts| {
            let mut snapshot = rig::snapshot(counts, 1, Algorithm::Rr, &[Rs::new(3)]);
            add_service(&mut snapshot, counts, Algorithm::Rr, &[Rs::new(3)], members, |service| {
                service.one_packet = one_packet;
            });
            snapshot
        });
        let small = FrameOf::udp(CIP, vip(DNS), b"question").padded();
        rig.pass_on(1, &small);
        let large = FrameOf::udp(CIP, vip(5000), &payload(3000));
        let sent = pass_all(&mut rig, 0, &pieces(&large.build(), 7, 1400));
        assert_eq!(sent.len(), if one_packet { 3 } else { 0 });
        assert_eq!(rig.pass_on(0, &small).len(), 1);
        assert_eq!(rig.total(|counters| counters.handed_over.load()), 0);
        let other = FrameOf::udp((CIP.0, 40_001), vip(DNS), &payload(3000));
        pass_all(&mut rig, 1, &pieces(&other.build(), 8, 1400));
        assert_eq!(rig.pass_on(0, &FrameOf::udp((CIP.0, 40_001), vip(DNS), b"more").padded()).len(), 1);
        assert_eq!(rig.total(|counters| counters.handed_over.load()), 1);
        assert_settled(&rig);
    }
}

#[test]
fn flood_of_reply_fragments_holds_no_more_than_any() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    become_of(&mut rig, &FrameOf::udp(CIP, vip(DNS), b"question"));
    let answer = FrameOf::udp(rip(&rs, 8080), CIP, &payload(3000)).sent_by(3).build();
    for id in 0..2000 {
        rig.pass_on(0, &piece(&answer, id, 1400..2800));
    }
    assert_eq!(rig.total(|counters| counters.fragments_held.load()), 256);
    assert_settled(&rig);
    rig.advance_and_sweep(31);
    assert_eq!(rig.total(|counters| counters.fragments_held.load()), 0);
    assert_settled(&rig);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn pieces_in_any_order_become_the_pieces_of_the_translated_packet(
        is_ipv6 in any::<bool>(),
        is_full_nat in any::<bool>(),
        is_reply in any::<bool>(),
        length in 100_usize..6000,
        most in 1_usize..170,
        shuffle in any::<prop::sample::Index>(),
        queues in prop::collection::vec(0_usize..2, 1..8),
    ) {
        let method = if is_full_nat { ForwardingMethod::FullNat } else { ForwardingMethod::Nat };
        let rs = Rs { is_ipv6, method, ..Rs::nat(3, 8080) };
        let mut rig = Rig::new(2, 1, 1024, Algorithm::Rr, &[rs]);
        let (client, service) = ends(is_ipv6, DNS);
        let opened = rig.pass_on(0, &FrameOf::udp(client, service, b"first").padded());
        let local = source_of(&opened[0].1);
        let (frame, expected) = match is_reply {
            false => {
                let frame = FrameOf::udp(client, service, &payload(length));
                (frame.clone(), frame.between(local, rip(&rs, 8080)).at_rs(3))
            }
            true => {
                let frame = FrameOf::udp(rip(&rs, 8080), local, &payload(length)).sent_by(3);
                (frame.clone(), frame.between(service, client).at_client())
            }
        };
        let built = frame.build();
        // At most what is held for one packet.
        let most = 8 * most.max(payload_length(&built) / 480 + 1);
        prop_assume!(payload_length(&built) > most);
        let mut cut = pieces(&built, 7, most);
        let count = cut.len();
        cut.rotate_left(shuffle.index(count));
        if shuffle.index(2) == 0 {
            cut.reverse();
        }
        // All pieces of a packet come on one queue, as RSS has it.
        let sent = pass_all(&mut rig, queues[0], &cut);
        assert_pieces(&sent, &expected, 7, most);
        let macs = if is_reply { [CLIENT_MAC, own_mac(0)] } else { [rs_mac(3), own_mac(0)] }.concat();
        prop_assert!(sent.iter().all(|frame| frame[..12] == macs));
        assert_settled(&rig);
    }
}
