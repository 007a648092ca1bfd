//! Packets in pieces: each piece goes, by itself and unchanged, to the real server of the packet's connection, whatever came
//! first; and pieces that nobody sends who means well go nowhere and hold nothing for long.

mod rig;

use dataplane::host::HostFrames;
use dataplane::port::FramePool;
use dataplane::snapshot::{Persistence, PersistenceScope, PersistentClient, Protocol, Snapshot};
use dataplane::verdict::DropReason::{self, *};
use proptest::prelude::*;
use rig::ipv6::*;
use rig::pieces::*;
use rig::*;
use scheduler::Algorithm;

fn real_servers() -> [Rs; 3] {
    [2, 1, 0].map(Rs::new)
}

fn rig() -> Rig {
    Rig::with(1, 1, 1024, |counts| both_families(counts, Algorithm::Rr, &real_servers()))
}

fn changed(rig: &mut Rig, change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = both_families(&rig.counts, Algorithm::Rr, &real_servers());
    change(&mut snapshot);
    rig.publish_snapshot(snapshot);
}

/// A whole packet of the client, larger than any frame.
fn datagram(port: u16, length: usize, is_ipv6: bool) -> Vec<u8> {
    let payload: Vec<u8> = (0..length).map(|byte| (byte / 8) as u8 ^ byte as u8).collect();
    if is_ipv6 { udp6(CLIENT6, port, &payload) } else { udp(CLIENT, port, &payload) }
}

/// The frame as it leaves to the real server in this slot.
fn forwarded(frame: &[u8], slot: u32) -> Vec<u8> {
    let mut expected = frame.to_vec();
    expected[..12].copy_from_slice(&rs_macs(slot));
    if frame[12..14] == [8, 0] {
        expected[22] -= 1;
        fix_checksum(&mut expected);
    } else {
        expected[21] -= 1;
    }
    expected
}

fn held(rig: &Rig) -> u64 {
    rig.total(|counters| counters.fragments_held.load())
}

fn assert_dropped(rig: &mut Rig, frame: &[u8], reason: DropReason, what: &str) {
    let before = rig.dropped(reason);
    assert_eq!(rig.pass(frame), Vec::<Vec<u8>>::new(), "{what}");
    assert_eq!(rig.dropped(reason), before + 1, "{what}");
    rig.assert_conservation();
}

/// Injects all in one burst.
fn pass_all(rig: &mut Rig, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    frames.iter().for_each(|frame| assert!(rig.ports[0].inject_spread(frame)));
    rig.poll();
    rig.assert_conservation();
    rig.ports[0].take_transmitted()
}

#[test]
fn pieces_in_order_follow_the_first() {
    let mut rig = rig();
    for (port, is_ipv6) in [(1000, false), (1001, true), (1002, false), (1003, true)] {
        let pieces = pieces(&datagram(port, 4000, is_ipv6), u32::from(port), 1440);
        assert_eq!(pieces.len(), 3);
        let slot = u32::from(rig.pass(&pieces[0])[0][5]);
        for piece in &pieces[1..] {
            assert_eq!(rig.pass(piece), [forwarded(piece, slot)]);
        }
        // The connection is the packet's: a whole packet of it goes there too.
        assert_eq!(rig.slot_for(&datagram(port, 10, is_ipv6)), Some(slot));
    }
    assert_eq!(rig.connections().len(), 4);
    assert_eq!(rig.total(|counters| counters.fragmented_learned.load()), 4);
    rig.assert_conservation();
}

#[test]
fn pieces_before_the_first_are_held_and_follow_it_in_the_order_in_which_they_came() {
    let mut rig = rig();
    for is_ipv6 in [false, true] {
        let slot = rig.slot_for(&datagram(1000, 10, is_ipv6)).unwrap();
        let pieces = pieces(&datagram(1000, 6000, is_ipv6), 7, 1000);
        for (number, early) in [5, 1, 3].into_iter().enumerate() {
            assert_eq!(rig.pass(&pieces[early]), Vec::<Vec<u8>>::new());
            assert_eq!(held(&rig), number as u64 + 1);
            rig.assert_conservation();
        }
        assert_eq!(rig.pass(&pieces[0]), [0, 5, 1, 3].map(|piece| forwarded(&pieces[piece], slot)));
        assert_eq!(held(&rig), 0);
        for late in [4, 2, 6] {
            assert_eq!(rig.pass(&pieces[late]), [forwarded(&pieces[late], slot)]);
        }
    }
    rig.assert_conservation();
}

#[test]
fn first_at_the_end_of_a_burst_takes_along_what_came_before_it() {
    let mut rig = rig();
    let slot = rig.slot_for(&datagram(1000, 10, false)).unwrap();
    // As old Linux sends them: from the last to the first.
    let mut pieces = pieces(&datagram(1000, 30_000, false), 7, 1480);
    pieces.reverse();
    assert_eq!(pieces.len(), 21);
    let sent = pass_all(&mut rig, &pieces);
    pieces.rotate_right(1);
    assert_eq!(sent, pieces.iter().map(|piece| forwarded(piece, slot)).collect::<Vec<_>>());
    assert_eq!(held(&rig), 0);
}

#[test]
fn largest_packet_there_is_may_come_backwards() {
    let mut rig = rig();
    let whole = datagram(1000, 65_507, false);
    let mut pieces = pieces(&whole, 7, 1256);
    assert_eq!(pieces.len(), 53);
    pieces.reverse();
    let sent: Vec<_> = pieces.iter().flat_map(|piece| rig.pass(piece)).collect();
    assert_eq!(sent.len(), 53);
    assert_eq!(reassemble(&sent).unwrap(), whole[34..]);
    rig.assert_conservation();
}

#[test]
fn pieces_that_came_in_with_a_tag_leave_as_their_first_does() {
    let mut rig = rig();
    changed(&mut rig, |snapshot| {
        let interface = snapshot.ports[0].untagged.unwrap();
        snapshot.ports[0].vlans.insert(7, interface);
    });
    let slot = rig.slot_for(&datagram(1000, 10, false)).unwrap();
    let pieces = pieces(&datagram(1000, 2000, false), 7, 1480);
    let mut tagged = pieces[1].clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(rig.pass(&tagged), Vec::<Vec<u8>>::new());
    assert_eq!(rig.pass(&pieces[0]), [forwarded(&pieces[0], slot), forwarded(&pieces[1], slot)]);
    rig.assert_conservation();
}

#[test]
fn atomic_fragment_is_a_whole_packet() {
    let mut rig = rig();
    let whole = datagram(1000, 100, true);
    let pieces = pieces(&datagram(1000, 2000, true), 7, 1440);
    assert_eq!(rig.pass(&pieces[1]), Vec::<Vec<u8>>::new());
    // Of the same identification as other fragments, with which it has nothing to do (RFC 6946).
    let atomic = piece(&whole, 7, 0..payload_length(&whole));
    let slot = u32::from(rig.pass(&atomic)[0][5]);
    assert_eq!(held(&rig), 1);
    assert_eq!(rig.pass(&pieces[0]).len(), 2);
    assert_eq!(rig.slot_for(&whole), Some(slot));
    rig.assert_conservation();
}

#[test]
fn tcp_and_sctp_in_pieces_open_and_follow_their_connections() {
    let mut rig = rig();
    let mut syn = tcp(CLIENT, 7, SYN);
    syn.truncate(54);
    syn.extend([9; 100]);
    syn[17] += 100;
    let pieces_of_syn = pieces(&syn, 7, 24);
    let sent = pass_all(&mut rig, &pieces_of_syn);
    assert_eq!(sent.len(), 5);
    assert_eq!(rig.state(7), "SYN_RECV");
    let slot = u32::from(sent[0][5]);
    assert!(sent.iter().all(|frame| frame[..6] == rs_mac(slot)));
    // A piece of no connection, and one that opens none.
    syn[34..36].copy_from_slice(&[0, 8]);
    syn[47] = ACK;
    let sent = pass_all(&mut rig, &pieces(&syn, 8, 24));
    assert_eq!((sent.len(), rig.dropped(NoConnection)), (0, 5), "the others as the first");

    let init = sctp(CLIENT, 9, &[&[1, 0, 0, 100][..], &[7; 96]].concat());
    let sent = pass_all(&mut rig, &pieces(&init, 7, 40));
    assert_eq!(sent.len(), 3);
    assert_eq!(rig.state(9), "INIT1");
}

#[test]
fn whole_datagram_in_pieces_is_scheduled_once_by_a_one_packet_service() {
    let mut rig = rig();
    let mut snapshot = both_families(&rig.counts, Algorithm::Rr, &real_servers());
    let members = [(Protocol::UDP, DNS)];
    add_service(&mut snapshot, &rig.counts, Algorithm::Rr, &real_servers(), &members, |service| {
        service.one_packet = true;
    });
    rig.publish_snapshot(snapshot);
    let mut slots = Vec::new();
    for id in 0..3 {
        let sent = pass_all(&mut rig, &pieces(&datagram(1000, 4000, false), id, 1480));
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|frame| frame[..6] == sent[0][..6]));
        slots.push(sent[0][5]);
    }
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2]);
    assert!(rig.connections().is_empty());
}

#[test]
fn call_id_of_a_sip_message_in_pieces_is_read_from_the_first() {
    let mut rig = rig();
    let mut snapshot = both_families(&rig.counts, Algorithm::Rr, &real_servers());
    let members = [(Protocol::UDP, DNS)];
    add_service(&mut snapshot, &rig.counts, Algorithm::Rr, &real_servers(), &members, |service| {
        service.one_packet = true;
        service.persistence = Some(Persistence {
            timeout_ticks: 25_600,
            netmask: u128::MAX,
            client: PersistentClient::CallId,
            scope: PersistenceScope::Virtual { port: DNS },
        });
    });
    rig.publish_snapshot(snapshot);
    let call = |call: u32, length| {
        let head = format!("INVITE sip:b@x SIP/2.0\r\nCall-ID: call{call}@pc33\r\n\r\n");
        udp(CLIENT, 5060, &[head.as_bytes(), &vec![b'x'; length]].concat())
    };
    for number in 0..20 {
        let slot = rig.slot_for(&call(number, 3)).unwrap();
        let pieces = pieces(&call(number, 3000), number, 1480);
        assert_eq!(pass_all(&mut rig, &pieces).len(), 3);
        let sent = pass_all(&mut rig, &pieces);
        assert!(sent.iter().all(|frame| u32::from(frame[5]) == slot));
    }
    let headless = udp(CLIENT, 5060, &[b'x'; 3000]);
    assert_eq!(pass_all(&mut rig, &pieces(&headless, 99, 1480)), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(BadSip), 3);
}

#[test]
fn icmp_error_in_pieces_goes_to_the_real_server_of_what_it_quotes() {
    let mut rig = rig();
    let slot = rig.slot_for(&datagram(1000, 10, false)).unwrap();
    let mut answer = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4(VIP, CLIENT, 60).udp(DNS, 1000);
    builder.write(&mut answer, &[0; 1400]).unwrap();
    let mut error = udp(CLIENT, 0, &[&answer[..], &[0; 500]].concat());
    // UDP's header is as long as ICMP's.
    error[34..42].copy_from_slice(&[3, 4, 0, 0, 0, 0, 5, 0]);
    error[23] = 1;
    fix_checksum(&mut error);
    let mut pieces = pieces(&error, 7, 1000);
    pieces.reverse();
    let sent = pass_all(&mut rig, &pieces);
    assert_eq!(sent, [forwarded(&pieces[1], slot), forwarded(&pieces[0], slot)]);
    // Ping in pieces is nobody's: what answers it needs it whole.
    error[34] = 8;
    let echo = rig::pieces::pieces(&error, 8, 1000);
    assert_eq!(pass_all(&mut rig, &echo), Vec::<Vec<u8>>::new());
    assert_eq!(rig.dropped(Fragment), 2);
}

#[test]
fn pieces_to_the_dip_go_to_the_host_as_they_are() {
    let mut rig = rig();
    changed(&mut rig, |snapshot| snapshot.interfaces[0].has_host = true);
    let mut whole = datagram(1000, 3000, false);
    whole[30..34].copy_from_slice(&DIP);
    let mut pieces = pieces(&whole, 7, 1480);
    pieces.reverse();
    assert_eq!(pass_all(&mut rig, &pieces), Vec::<Vec<u8>>::new());
    let mut buffer = Vec::new();
    for piece in &pieces {
        assert!(rig.host.next(&mut buffer).is_some());
        assert_eq!(buffer, *piece);
    }
    assert_eq!((rig.total(|counters| counters.to_host.load()), held(&rig)), (3, 0));
}

#[test]
fn pieces_to_nobody_are_not_held() {
    let mut rig = rig();
    let mut whole = datagram(1000, 3000, false);
    whole[30..34].copy_from_slice(&[192, 0, 2, 77]);
    for piece in pieces(&whole, 7, 1480) {
        assert_dropped(&mut rig, &piece, NotLocal, "no address of ours");
    }
}

#[test]
fn pieces_of_a_packet_whose_first_was_dropped_are_dropped_like_it() {
    let mut rig = rig();
    let mut whole = datagram(1000, 6000, false);
    whole[37] = 99;
    let pieces = pieces(&whole, 7, 1480);
    assert_eq!(rig.pass(&pieces[2]), Vec::<Vec<u8>>::new());
    assert_eq!(held(&rig), 1);
    assert_eq!(rig.pass(&pieces[0]), Vec::<Vec<u8>>::new());
    assert_eq!((rig.dropped(NoService), held(&rig)), (2, 0));
    assert_dropped(&mut rig, &pieces[1], NoService, "after the first");
}

#[test]
fn pieces_of_a_packet_to_a_removed_real_server_are_dropped() {
    let mut rig = rig();
    let pieces = pieces(&datagram(1000, 6000, false), 7, 1480);
    let slot = usize::from(rig.pass(&pieces[0])[0][5]);
    changed(&mut rig, |snapshot| {
        snapshot.destinations[slot].state = dataplane::snapshot::DestinationState::Removed;
    });
    assert_dropped(&mut rig, &pieces[1], RealServerRemoved, "removed meanwhile");
}

#[test]
fn impossible_pieces_are_dropped_and_hold_nothing() {
    let mut rig = rig();
    let whole = datagram(1000, 3000, false);
    let whole6 = datagram(1000, 3000, true);
    let syn = tcp(CLIENT, 7, SYN);
    let syn6 = syn6(CLIENT6, 7);
    let bytes = &whole[34..];
    for (what, frame, reason) in [
        ("ping of death", raw_piece(&whole, 7, 65_528, false, &[0; 8]), BadFragment),
        ("just over 65,535 with the header", raw_piece(&whole, 7, 65_512, false, &[0; 8]), BadFragment),
        ("no multiple of 8", raw_piece(&whole, 7, 0, true, &bytes[..1001]), BadFragment),
        ("empty first", raw_piece(&whole, 7, 0, true, &[]), BadFragment),
        ("empty last", raw_piece(&whole, 7, 800, false, &[]), BadFragment),
        ("tiny TCP", raw_piece(&syn, 7, 0, true, &syn[34..50]), BadFragment),
        ("TCP's flags overwritten", raw_piece(&syn, 7, 8, true, &syn[42..50]), BadFragment),
        ("IPv6: tiny TCP", raw_piece(&syn6, 7, 0, true, &syn6[54..70]), BadFragment),
        ("IPv6: TCP's flags overwritten", raw_piece(&syn6, 7, 8, true, &syn6[62..70]), BadFragment),
        ("IPv6: ping of death", raw_piece(&whole6, 7, 65_528, false, &[0; 8]), BadExtensionHeader),
        ("IPv6: no multiple of 8", raw_piece(&whole6, 7, 800, true, &[0; 9]), BadExtensionHeader),
        ("IPv6: empty", raw_piece(&whole6, 7, 800, false, &[]), BadFragment),
        ("UDP length 7", raw_piece(&whole, 7, 0, true, &[0, 1, 0, 53, 0, 7, 0, 0]), BadTransportHeader),
        ("TCP header of 16 bytes", raw_piece(&syn, 8, 0, true, &[0x40; 24]), BadTransportHeader),
        ("SCTP without chunk", raw_piece(&sctp(CLIENT, 7, &chunk(1)), 7, 0, true, &[0; 8]), BadFragment),
    ] {
        assert_dropped(&mut rig, &frame, reason, what);
    }
    assert_eq!(held(&rig), 0);
    let mut dying = raw_piece(&whole, 9, 800, true, &[0; 8]);
    dying[22] = 1;
    fix_checksum(&mut dying);
    assert_dropped(&mut rig, &dying, TtlExpired, "later piece with TTL 1");
    assert_eq!(rig.connections().len(), 0);
    // The largest that may be.
    assert_eq!(rig.pass(&raw_piece(&whole, 10, 65_504, false, &[0; 8])), Vec::<Vec<u8>>::new());
    assert_eq!(held(&rig), 1);
}

#[test]
fn second_first_piece_that_leads_elsewhere_changes_nothing() {
    let mut rig = rig();
    let pieces_of = |port| pieces(&datagram(port, 4000, false), 7, 1480);
    let slot = u32::from(rig.pass(&pieces_of(1000)[0])[0][5]);
    assert_eq!(rig.pass(&pieces_of(1000)[0]), [forwarded(&pieces_of(1000)[0], slot)], "sent twice");
    assert_dropped(&mut rig, &pieces_of(1001)[0], BadFragment, "other ports, another real server");
    assert_eq!(rig.pass(&pieces_of(1000)[1]), [forwarded(&pieces_of(1000)[1], slot)]);
}

#[test]
fn teardrop_and_overlaps_go_where_their_packet_goes() {
    let mut rig = rig();
    let whole = datagram(1000, 200, false);
    let slot = rig.slot_for(&whole).unwrap();
    let teardrop = [
        piece(&whole, 7, 0..40),
        raw_piece(&whole, 7, 24, false, &[9; 4]),
        raw_piece(&whole, 7, 8, true, &[1; 64]),
        raw_piece(&whole, 7, 0, true, &whole[34..50]),
    ];
    let sent = pass_all(&mut rig, &teardrop);
    // Whoever reassembles has to refuse it: the director shows what was sent.
    assert_eq!(sent, teardrop.each_ref().map(|piece| forwarded(piece, slot)));
    assert_eq!(reassemble(&sent), None);
}

#[test]
fn identification_that_comes_round_again_is_another_packet() {
    let mut rig = rig();
    for port in 1000..1009 {
        let slot = rig.slot_for(&datagram(port, 10, false)).unwrap();
        let pieces = pieces(&datagram(port, 4000, false), 7, 1480);
        let sent = pass_all(&mut rig, &pieces);
        assert_eq!(sent, pieces.iter().map(|piece| forwarded(piece, slot)).collect::<Vec<_>>());
    }
}

#[test]
fn pieces_whose_first_never_comes_are_dropped_after_30_seconds() {
    let mut rig = rig();
    let pieces = pieces(&datagram(1000, 4000, false), 7, 1480);
    rig.pass(&pieces[1]);
    rig.advance_and_sweep(29);
    rig.pass(&pieces[2]);
    assert_eq!(held(&rig), 2);
    rig.advance_and_sweep(2);
    assert_eq!((held(&rig), rig.dropped(FragmentTimeout)), (0, 2));
    rig.assert_conservation();
    assert_eq!(rig.pass(&pieces[0]).len(), 1);
    assert_eq!(rig.pass(&pieces[2]).len(), 1);
    // One bucket of 1,024 a round.
    (0..11).for_each(|_| rig.advance_and_sweep(31));
    assert_eq!(rig.total(|counters| counters.fragmented_known.load()), 0);
}

#[test]
fn flood_of_unfinished_packets_holds_256_frames_and_no_known_packet_suffers() {
    let mut rig = Rig::with(1, 1, 1 << 15, |counts| both_families(counts, Algorithm::Rr, &real_servers()));
    let pool = rig.ports[0].pool();
    let free = pool.available();
    let good = pieces(&datagram(1000, 12_000, false), 7, 1480);
    let slot = u32::from(rig.pass(&good[0])[0][5]);
    let whole = datagram(1001, 3000, false);
    let whole6 = datagram(1001, 3000, true);
    for id in 0..20_000_u32 {
        let whole = if id % 2 == 0 { &whole } else { &whole6 };
        let payload = [0; 64];
        let later = raw_piece(whole, id + 100, 8 + 8 * (id as usize % 1000), id % 3 > 0, &payload);
        assert!(rig.ports[0].inject_spread(&later));
        if id % 32 == 31 {
            rig.poll();
            assert!(held(&rig) <= 256);
            assert!(pool.available() >= free - 256);
            rig.assert_conservation();
        }
    }
    assert_eq!(held(&rig), 256);
    for piece in &good[1..] {
        assert_eq!(rig.pass(piece), [forwarded(piece, slot)]);
    }
    rig.advance_and_sweep(31);
    assert_eq!((held(&rig), pool.available()), (0, free));
    assert_eq!(rig.dropped(FragmentTimeout) + rig.dropped(FragmentEvicted), 20_000);
    rig.assert_conservation();
}

#[test]
fn flood_of_first_pieces_takes_neither_frames_nor_more_packets_than_there_is_room_for() {
    let mut rig = Rig::with(1, 1, 1024, |counts| both_families(counts, Algorithm::Rr, &real_servers()));
    let free = rig.ports[0].pool().available();
    for id in 0..50_000_u32 {
        let client = [198, 51, (id >> 8) as u8, id as u8];
        let first = piece(&udp(client, id as u16 | 1, &[0; 100]), id, 0..64);
        assert!(rig.ports[0].inject_spread(&first));
        if id % 32 == 31 {
            rig.poll();
            rig.ports[0].drain_transmitted(0, |_| {});
        }
    }
    rig.poll();
    assert!(rig.total(|counters| counters.fragmented_known.load()) <= 2 * 4096);
    rig.assert_conservation();
    for _ in 0..100 {
        rig.advance_and_sweep(31);
    }
    rig.ports[0].drain_transmitted(0, |_| {});
    assert_eq!(rig.total(|counters| counters.fragmented_known.load()), 0);
    assert_eq!(rig.ports[0].pool().available(), free);
}

#[test]
fn worker_that_ends_gives_back_what_it_held() {
    let mut rig = rig();
    let pool = rig.ports[0].pool();
    let free = pool.available();
    rig.pass(&pieces(&datagram(1000, 4000, false), 7, 1480)[1]);
    assert_eq!(pool.available(), free - 1);
    drop(rig);
    assert_eq!(pool.available(), free);
}

#[test]
fn pool_can_be_shared_with_the_control_thread_while_frames_are_held() {
    let mut rig = rig();
    rig.pass(&pieces(&datagram(1000, 4000, false), 7, 1480)[1]);
    assert!(rig.ports[0].pool().frame(&[0; 60]).is_some());
}

#[test]
fn all_pieces_of_a_packet_meet_in_one_worker() {
    let mut rig = Rig::with(4, 1, 1024, |counts| both_families(counts, Algorithm::Rr, &real_servers()));
    for port in 1000..1040 {
        let whole = datagram(port, 4000, port % 2 == 0);
        let mut pieces = pieces(&whole, u32::from(port), 1440);
        pieces.rotate_left(usize::from(port) % 3);
        let sent = pass_all(&mut rig, &pieces);
        assert_eq!(sent.len(), 3);
        assert!(sent.iter().all(|frame| frame[..6] == sent[0][..6]));
    }
}

/// A packet and how it is cut and mixed up.
#[derive(Clone, Debug)]
struct Cut {
    is_ipv6: bool,
    port: u16,
    length: usize,
    /// Bytes of each piece in units of 8, again and again.
    sizes: Vec<usize>,
    /// More pieces, that overlap the others, with the same bytes.
    overlaps: Vec<(usize, usize)>,
}

fn cut() -> impl Strategy<Value = Cut> {
    let sizes = prop::collection::vec(1_usize..180, 1..4);
    let overlaps = prop::collection::vec((0_usize..1000, 1_usize..180), 0..5);
    (any::<bool>(), 1_u16..20, 100_usize..6000, sizes, overlaps).prop_map(
        |(is_ipv6, port, length, sizes, overlaps)| Cut {
            is_ipv6,
            port: 1000 + port,
            length,
            sizes,
            overlaps,
        },
    )
}

impl Cut {
    fn whole(&self) -> Vec<u8> {
        datagram(self.port, self.length, self.is_ipv6)
    }

    fn pieces(&self, id: u32) -> Vec<Vec<u8>> {
        let (whole, mut pieces, mut at) = (self.whole(), Vec::new(), 0);
        let length = payload_length(&whole);
        for size in self.sizes.iter().cycle() {
            let end = length.min(at + 8 * size);
            pieces.push(piece(&whole, id, at..end));
            at = end;
            if at == length {
                break;
            }
        }
        // All of it in one piece is no fragment.
        if pieces.len() == 1 {
            pieces = vec![piece(&whole, id, 0..8), piece(&whole, id, 8..length.min(1400))];
            if length > 1400 {
                pieces.push(piece(&whole, id, 1400..length));
            }
        }
        for &(start, size) in &self.overlaps {
            let start = 8 * (start % (length / 8));
            if start > 0 {
                pieces.push(piece(&whole, id, start..length.min(start + 8 * size)));
            }
        }
        pieces
    }
}

/// The packets, their pieces (each with the number of its packet), and how many of them come in one burst.
type Mixed = (Vec<Cut>, Vec<(usize, Vec<u8>)>, usize);

/// Pieces of several packets, all mixed up, some of them twice.
fn mixed() -> impl Strategy<Value = Mixed> {
    (prop::collection::vec(cut(), 1..5), 0_usize..4, 1_usize..32).prop_flat_map(|(cuts, doubled, burst)| {
        let mut pieces = Vec::new();
        for (id, cut) in cuts.iter().enumerate() {
            let of_cut = cut.pieces(id as u32);
            // At most what is held for one packet, behind a first that comes last.
            for piece in of_cut.iter().take(60).chain(of_cut.iter().take(doubled)) {
                pieces.push((id, piece.clone()));
            }
        }
        (Just(cuts), Just(pieces).prop_shuffle(), Just(burst))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn pieces_in_any_order_doubled_and_overlapping_go_to_one_real_server_and_fit_together(
        (cuts, pieces, burst) in mixed(),
    ) {
        let mut rig = rig();
        let mut sent = Vec::new();
        for frames in pieces.chunks(burst) {
            let frames: Vec<_> = frames.iter().map(|(_, frame)| frame.clone()).collect();
            sent.extend(pass_all(&mut rig, &frames));
        }
        prop_assert_eq!(held(&rig), 0);
        for (id, cut) in cuts.iter().enumerate() {
            // The key's flow has one connection, whose real server all pieces and whole packets go to.
            let slot = rig.slot_for(&datagram(cut.port, 1, cut.is_ipv6)).unwrap();
            let mut expected: Vec<_> =
                pieces.iter().filter(|(of, _)| *of == id).map(|(_, frame)| forwarded(frame, slot)).collect();
            let is_of_cut = |frame: &&Vec<u8>| match cut.is_ipv6 {
                true => frame[12..14] == [0x86, 0xdd] && frame[58..62] == (id as u32).to_be_bytes(),
                false => frame[12..14] == [8, 0] && frame[18..20] == (id as u16).to_be_bytes(),
            };
            let mut of_cut: Vec<_> = sent.iter().filter(is_of_cut).cloned().collect();
            prop_assert_eq!(read(&of_cut[0]).0, 0, "a first piece leaves first");
            if cut.pieces(0).len() <= 60 {
                let whole = cut.whole();
                let start = if cut.is_ipv6 { 54 } else { 34 };
                let payload = &whole[start..start + payload_length(&whole)];
                prop_assert_eq!(reassemble(&of_cut), Some(payload.to_vec()));
            }
            expected.sort_unstable();
            of_cut.sort_unstable();
            prop_assert_eq!(of_cut, expected);
        }
    }

    #[test]
    fn headers_of_any_bytes_are_counted_and_freed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        is_ipv6 in any::<bool>(),
        order in Just([0, 1, 2]).prop_shuffle(),
    ) {
        let mut rig = rig();
        let pool = rig.ports[0].pool();
        let free = pool.available();
        let mut pieces = pieces(&datagram(1000, 300, is_ipv6), 7, 120);
        for (index, value) in changes {
            let piece = &mut pieces[index.index(3)];
            let at = 14 + index.index(if is_ipv6 { 56 } else { 30 });
            piece[at] = value;
            if !is_ipv6 {
                fix_checksum(piece);
            }
        }
        for number in order {
            rig.ports[0].inject(0, &pieces[number]);
            rig.poll();
            rig.assert_conservation();
        }
        rig.ports[0].take_transmitted();
        rig.advance_and_sweep(31);
        for _ in 0..16 {
            rig.advance_and_sweep(1);
        }
        let mut buffer = Vec::new();
        while rig.host.next(&mut buffer).is_some() {}
        use dataplane::host::HostPath;
        for queue in [dataplane::verdict::PuntQueue::Neighbour, dataplane::verdict::PuntQueue::Echo] {
            while rig.host.next_punted(queue, &mut buffer).is_some() {}
        }
        prop_assert_eq!(pool.available(), free);
        rig.assert_conservation();
    }
}
