//! Whatever comes in is forwarded whole, punted, or dropped and counted; nothing is lost, nothing panics.

mod rig;

use dataplane::host::HostPath;
use dataplane::verdict::{DropReason, PuntQueue};
use rig::*;
use scheduler::Algorithm;

/// SplitMix64: the same numbers every time, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Sends a frame and checks what left: the frame itself but for MACs, TTL and checksum, to a real server of the VIP, and behind
/// it fragments that had waited for it.
fn attack(rig: &mut Rig, frame: &[u8]) {
    let sent = rig.pass(frame);
    if let Some(out) = sent.first() {
        assert_eq!(out.len(), frame.len());
        assert_eq!(out[12..22], frame[12..22]);
        assert_eq!(out[22], frame[22] - 1);
        assert_eq!(out[26..], frame[26..]);
    }
    for (index, out) in sent.iter().enumerate() {
        assert!((0..3).any(|slot| out[..6] == rs_mac(slot)), "{frame:02x?}");
        assert_eq!(out[6..12], own_mac(0));
        assert_eq!(out[30..34], VIP, "only packets to the VIP are forwarded: {frame:02x?}");
        let header = 14 + usize::from(out[14] & 15) * 4;
        assert_eq!(dataplane::packet::checksum::sum(&out[14..header]), 0xffff, "{frame:02x?}");
        let is_later_fragment = out[20] & 0x1f != 0 || out[21] != 0;
        assert!(index == 0 || is_later_fragment, "{out:02x?}");
    }
    let mut punted = Vec::new();
    for queue in [PuntQueue::Neighbour, PuntQueue::Echo] {
        while rig.host.next_punted(queue, &mut punted).is_some() {
            assert_eq!(punted, frame);
        }
    }
    rig.assert_conservation();
}

fn good_frames() -> Vec<Vec<u8>> {
    let ping = {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
            .ipv4(CLIENT, VIP, 64)
            .icmpv4_echo_request(1, 1)
            .write(&mut frame, &[0; 32])
            .unwrap();
        frame
    };
    let arp = dataplane::packet::arp::ArpPacket {
        operation: 1,
        sender_mac: CLIENT_MAC,
        sender_address: CLIENT.into(),
        target_mac: [0; 6],
        target_address: VIP.into(),
    };
    vec![
        tcp(CLIENT, 40_000, SYN),
        tcp(CLIENT, 40_000, 0x10),
        udp(CLIENT, 5353, b"a question of some length"),
        sctp(CLIENT, 40_000, &[1, 0, 0, 8, 0, 0, 0, 0]),
        sctp(CLIENT, 40_000, &[10, 0, 0, 6, 0, 0, 0, 0, 6, 0, 0, 4]),
        ping,
        arp.to_frame([0xff; 6], CLIENT_MAC).to_vec(),
    ]
}

#[test]
fn good_frames_cut_to_every_length_up_to_128() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    for frame in good_frames() {
        for length in 0..=128 {
            let mut cut = frame.clone();
            cut.resize(length, 0xa5);
            attack(&mut rig, &cut);
        }
    }
    assert!(rig.dropped(DropReason::Truncated) > 150);
}

#[test]
fn random_bytes_of_every_length_up_to_128() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    let mut random = Random(1);
    for round in 0..100 {
        for length in 0..=128 {
            let mut frame = random.bytes(length);
            // Half of them get past the MAC and EtherType checks.
            if round % 2 == 0 && length >= 14 {
                frame[..6].copy_from_slice(&own_mac(0));
                frame[12..14].copy_from_slice(if round % 4 == 0 { &[8, 0] } else { &[8, 6] });
            }
            attack(&mut rig, &frame);
        }
    }
    assert_eq!(rig.counters[0].received.load(), 100 * 129);
}

#[test]
fn every_header_byte_at_its_extremes() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    for frame in good_frames() {
        for offset in 0..54.min(frame.len()) {
            for value in 0..=255 {
                let mut changed = frame.clone();
                changed[offset] = value;
                attack(&mut rig, &changed);
                // And with the checksum right, so that the checks behind it are reached.
                if changed.len() >= 34 {
                    fix_checksum(&mut changed);
                    attack(&mut rig, &changed);
                }
            }
        }
    }
}

#[test]
fn every_header_word_at_its_extremes() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    for frame in good_frames() {
        for offset in 12..52.min(frame.len() - 2) {
            for value in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff_u16] {
                let mut changed = frame.clone();
                changed[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
                fix_checksum(&mut changed);
                attack(&mut rig, &changed);
            }
        }
    }
}

#[test]
fn one_hundred_thousand_mutations_of_good_frames() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    let mut random = Random(1);
    let good = good_frames();
    for _ in 0..100_000 {
        let mut frame = good[random.below(good.len())].clone();
        for _ in 0..1 + random.below(4) {
            match random.below(5) {
                0 if !frame.is_empty() => {
                    let at = random.below(frame.len());
                    frame[at] = random.bytes(1)[0];
                }
                1 if !frame.is_empty() => {
                    let at = random.below(frame.len());
                    frame[at] ^= 1 << random.below(8);
                }
                2 => frame.truncate(random.below(frame.len() + 1)),
                3 => {
                    let (at, bytes) = (random.below(frame.len() + 1), random.below(8));
                    let inserted = random.bytes(bytes);
                    frame.splice(at..at, inserted);
                }
                _ if frame.len() >= 34 => fix_checksum(&mut frame),
                _ => {}
            }
        }
        attack(&mut rig, &frame);
    }
    assert_eq!(rig.counters[0].received.load(), 100_000);
    assert!(rig.counters[0].forwarded.load() > 1_000, "mutations also reach the forwarding path");
}

#[test]
fn oversized_frames_up_to_the_buffer_are_dropped_or_forwarded_whole() {
    let mut rig = Rig::simple(Algorithm::Wlc);
    for length in (1400..2000).step_by(7) {
        attack(&mut rig, &udp(CLIENT, 1, &vec![0; length]));
        let mut padded = tcp(CLIENT, 1, SYN);
        padded.resize(length, 0);
        attack(&mut rig, &padded);
    }
    assert!(rig.dropped(DropReason::TooBig) > 50);
}

/// A rig whose DNS port is a SIP service: what is attacked is the reader of its messages.
fn sip_rig() -> Rig {
    use dataplane::snapshot::{Persistence, PersistenceScope, PersistentClient, Protocol};
    Rig::with(1, 1, 1024, |counts| {
        let real_servers = [2, 1, 0].map(Rs::new);
        let mut snapshot = snapshot(counts, 1, Algorithm::Wlc, &real_servers);
        add_service(
            &mut snapshot,
            counts,
            Algorithm::Wlc,
            &real_servers,
            &[(Protocol::UDP, DNS)],
            |service| {
                service.one_packet = true;
                service.persistence = Some(Persistence {
                    timeout_ticks: 256,
                    netmask: u128::MAX,
                    client: PersistentClient::CallId,
                    scope: PersistenceScope::Virtual { port: DNS },
                });
            },
        );
        snapshot
    })
}

#[test]
fn sip_messages_mutated_a_hundred_thousand_times() {
    let mut rig = sip_rig();
    let mut random = Random(7);
    let message = b"INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP c\r\nCall-ID: a84b4c76e66710@pc33\r\n\r\nbody";
    let odd = [b'\r', b'\n', b' ', b'\t', b':', b'@', 0, 0xff, b'i', b'I'];
    for _ in 0..100_000 {
        let mut message = message.to_vec();
        for _ in 0..1 + random.below(6) {
            let at = random.below(message.len());
            match random.below(4) {
                0 => message[at] = odd[random.below(odd.len())],
                1 => message.truncate(at.max(1)),
                2 => drop(message.splice(at..at, random.bytes(3))),
                _ => drop(message.splice(at..at, [odd[random.below(odd.len())]])),
            }
        }
        attack(&mut rig, &udp(CLIENT, 5060, &message));
    }
    assert!(rig.dropped(DropReason::BadSip) > 10_000);
    assert!(rig.counters[0].forwarded.load() > 10_000);
}

#[test]
fn call_id_of_sixty_kibibytes_in_a_jumbo_frame_is_dropped_and_counted() {
    let mut rig = sip_rig();
    let message =
        [b"OPTIONS sip:b SIP/2.0\r\nCall-ID: ".to_vec(), vec![b'a'; 60 * 1024], b"\r\n\r\n".to_vec()];
    let frame = udp(CLIENT, 5060, &message.concat());
    // The port in memory has no buffer for it, so the message is read as a port with jumbo frames would have it read.
    assert!(!rig.ports[0].inject(0, &frame));
    assert_eq!(dataplane::packet::sip::call_id(&frame[42..]), None);
    attack(&mut rig, &udp(CLIENT, 5060, &message.concat()[..1900]));
    assert_eq!(rig.dropped(DropReason::BadSip), 1);
}
