//! Full NAT: how the real server learns the client's address, by TOA and by the PROXY protocol, byte for byte.

mod rig;

use std::net::IpAddr;

use dataplane::packet::proxy::ProxyHeader;
use dataplane::packet::tcp_options::ToaOption;
use dataplane::snapshot::ClientAddress;
use dataplane::verdict::DropReason;
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;
use rig::icmp::{ErrorOf, quoted_between};
use rig::nat::*;
use rig::packet::*;
use rig::*;
use scheduler::Algorithm;

/// The client's and the real server's first sequence numbers.
const CLIENT_ISN: u32 = 0xffff_fff0;
const RS_ISN: u32 = 7_000_000;
/// 1: MSS 1460; no-operation; window scale 7.
const SYN_OPTIONS: [u8; 8] = [2, 4, 5, 180, 1, 3, 3, 7];
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

/// A connection through full NAT to a real server that learns the client's address so.
struct Chat {
    rig: Rig,
    rs: Rs,
    client: End,
    vip: End,
    local: End,
}

impl Chat {
    fn new(is_ipv6: bool, client_address: ClientAddress) -> Chat {
        let rs = Rs { is_ipv6, client_address, ..Rs::full_nat(3, 8080) };
        let rig = Rig::new(1, 1, 4096, Algorithm::Rr, &[rs]);
        let (client, vip): (IpAddr, IpAddr) = match is_ipv6 {
            false => (CLIENT.into(), VIP.into()),
            true => (CLIENT_6.into(), VIP_6.into()),
        };
        let mut chat = Chat { rig, rs, client: (client, 40_000), vip: (vip, HTTP), local: (client, 0) };
        let syn = chat.request(SYN, 0, 0).with_options(&SYN_OPTIONS);
        let sent = chat.rig.pass_on(0, &syn.padded());
        chat.local = source_of(&sent[0].1);
        assert_eq!(sent[0].1, chat.at_rs(&syn).padded());
        chat
    }

    /// A segment of the client so many bytes into its stream, which has so much of the real server's.
    fn request(&self, flags: u8, sent: u32, received: u32) -> FrameOf {
        let first = if flags & SYN == 0 { 1 } else { 0 };
        let acknowledged = if flags & ACK == 0 { 0 } else { RS_ISN.wrapping_add(1).wrapping_add(received) };
        FrameOf::tcp(self.client, self.vip, flags)
            .with_numbers(CLIENT_ISN.wrapping_add(first).wrapping_add(sent), acknowledged)
    }

    /// A segment of the real server, which has so much of the stream that it sees.
    fn answer(&self, flags: u8, sent: u32, received: u32) -> FrameOf {
        let first = if flags & SYN == 0 { 1 } else { 0 };
        FrameOf::tcp((self.rs.address(), 8080), self.local, flags)
            .with_numbers(
                RS_ISN.wrapping_add(first).wrapping_add(sent),
                CLIENT_ISN.wrapping_add(1).wrapping_add(received),
            )
            .sent_by(3)
    }

    /// The request as plain full NAT sends it.
    fn at_rs(&self, request: &FrameOf) -> FrameOf {
        request.clone().between(self.local, (self.rs.address(), 8080)).at_rs(3)
    }

    /// The answer as plain full NAT sends it.
    fn at_client(&self, answer: &FrameOf) -> FrameOf {
        answer.clone().between(self.vip, self.client).macs(own_mac(0), CLIENT_MAC).ttl(63)
    }

    fn handshake(&mut self) {
        let syn_ack = self.answer(SYN | ACK, 0, 0);
        let expected = self.at_client(&syn_ack);
        self.expect(&syn_ack, &[expected]);
    }

    fn expect(&mut self, frame: &FrameOf, expected: &[FrameOf]) {
        let sent = self.rig.pass_on(0, &frame.padded());
        assert_eq!(sent.len(), expected.len(), "{frame:?}");
        for ((_, sent), expected) in sent.into_iter().zip(expected) {
            // What padded the frame before it grew still stands behind it.
            let whole = expected.padded();
            assert_eq!(sent[..whole.len()], whole, "{frame:?}");
            assert!(sent[whole.len()..].iter().all(|&byte| byte == 0));
        }
    }

    fn toa(&self) -> Vec<u8> {
        ToaOption::new(self.client.0, self.client.1).as_bytes().to_vec()
    }

    fn header(&self) -> Vec<u8> {
        ProxyHeader::new(self.client, self.vip).unwrap().as_bytes().to_vec()
    }

    fn settle(&self) {
        self.rig.assert_conservation();
        self.rig.assert_no_leak();
    }
}

/// The options of a segment.
fn options(frame: &FrameOf) -> Vec<u8> {
    match &frame.layer {
        Layer::Tcp { options, .. } => options.clone(),
        _ => Vec::new(),
    }
}

/// The same segment so many bytes further.
fn shifted(frame: FrameOf, by: u32) -> FrameOf {
    let Layer::Tcp { sequence, acknowledgement, .. } = frame.layer else { panic!() };
    frame.with_numbers(sequence.wrapping_add(by), acknowledgement)
}

#[test]
fn toa_stands_in_each_segment_until_the_real_server_shows_that_it_has_one() {
    for is_ipv6 in [false, true] {
        let mut chat = Chat::new(is_ipv6, ClientAddress::Toa);
        let toa = chat.toa();
        assert_eq!(toa.len(), if is_ipv6 { 20 } else { 8 });
        let with_toa = |chat: &Chat, frame: &FrameOf| {
            let with = [&toa[..], &options(frame)].concat();
            chat.at_rs(frame).with_options(&with)
        };
        // The client is told so much less than 1460.
        let syn_ack = chat.answer(SYN | ACK, 0, 0).with_options(&SYN_OPTIONS);
        let mut smaller = SYN_OPTIONS;
        let mss = 1500 - if is_ipv6 { 60 + 20 } else { 40 + 8 };
        smaller[2..4].copy_from_slice(&u16::to_be_bytes(mss));
        let expected = chat.at_client(&syn_ack).with_options(&smaller);
        chat.expect(&syn_ack, &[expected]);
        let ack = chat.request(ACK, 0, 0).with_options(&TIMESTAMPS);
        let data =
            chat.request(ACK | PSH, 0, 0).with_options(&TIMESTAMPS).with_payload(b"GET / HTTP/1.0\r\n\r\n");
        let fin = chat.request(FIN | ACK, 18, 0);
        for frame in [&ack, &data, &ack, &data, &fin] {
            let expected = with_toa(&chat, frame);
            chat.expect(frame, &[expected]);
        }
        let answer = chat.answer(ACK | PSH, 0, 18).with_payload(b"HTTP/1.0 200 OK");
        let expected = chat.at_client(&answer);
        chat.expect(&answer, &[expected]);
        for frame in [chat.request(ACK, 18, 15), chat.request(RST, 18, 0), chat.request(RST | ACK, 18, 0)] {
            let expected = chat.at_rs(&frame);
            chat.expect(&frame, &[expected]);
        }
        chat.settle();
    }
}

#[test]
fn toa_ends_with_the_first_segment_that_shows_the_handshake_complete() {
    let over: [fn(&Chat) -> FrameOf; 3] = [
        |chat| chat.answer(ACK, 0, 4),
        |chat| chat.answer(ACK | PSH, 0, 0).with_payload(b"220 hello"),
        |chat| chat.answer(FIN | ACK, 0, 0),
    ];
    for last in over {
        let mut chat = Chat::new(false, ClientAddress::Toa);
        chat.handshake();
        let data = chat.request(ACK | PSH, 0, 0).with_payload(b"data");
        let with_toa = chat.at_rs(&data).with_options(&chat.toa());
        chat.expect(&data, std::slice::from_ref(&with_toa));
        // Neither its SYN once more nor an answer to what it cannot accept shows that.
        chat.handshake();
        let challenge = chat.answer(ACK, 0, 0);
        let expected = chat.at_client(&challenge);
        chat.expect(&challenge, &[expected]);
        chat.expect(&data, &[with_toa]);
        let last = last(&chat);
        let expected = chat.at_client(&last);
        chat.expect(&last, &[expected]);
        chat.handshake();
        let expected = chat.at_rs(&data);
        chat.expect(&data, &[expected]);
        // Another connection on the same tuple.
        let syn_ack = chat.answer(SYN | ACK, 0, 0).with_numbers(RS_ISN, 100);
        let expected = chat.at_client(&syn_ack);
        chat.expect(&syn_ack, &[expected]);
        let data = FrameOf::tcp(chat.client, chat.vip, ACK).with_numbers(100, 1).with_payload(b"data");
        let expected = chat.at_rs(&data).with_options(&chat.toa());
        chat.expect(&data, &[expected]);
        chat.settle();
    }
}

#[test]
fn client_is_told_so_much_smaller_an_mtu_as_may_be_added_still() {
    for (client_address, is_ipv6, added) in [
        (ClientAddress::None, false, 0),
        (ClientAddress::Toa, false, 8),
        (ClientAddress::Toa, true, 20),
        (ClientAddress::ProxyV2, false, 28),
        (ClientAddress::ProxyV2, true, 52),
    ] {
        let mut chat = Chat::new(is_ipv6, client_address);
        chat.handshake();
        let data = chat.request(ACK, 0, 0).with_payload(&[7; 1300]);
        let sent = chat.rig.pass_on(0, &data.padded());
        let quote = sent[0].1[14..].to_vec();
        let quoted = quoted_between(&quote, chat.client, chat.vip);
        let router: IpAddr = if is_ipv6 { "2001:db8:f::1".parse().unwrap() } else { [203, 0, 113, 1].into() };
        let least = if is_ipv6 { 1280 } else { 68 };
        let error_of = |rest| ErrorOf { rest, ..ErrorOf::new(router, chat.local.0, &quote).sent_by(3) };
        let expect = |rig: &mut Rig, error: &ErrorOf, rest| {
            let told = ErrorOf { rest, ..error.clone().between(chat.vip.0, chat.client.0) };
            let expected = told.quoting(&quoted).at_client().frame();
            assert_eq!(rig.pass_on(0, &error.frame()), [(0, expected)], "{client_address:?} {error:?}");
        };
        for (rest, told) in [(1400, 1400 - added), (least + added.min(1), least), (least, least), (0, 0)] {
            expect(&mut chat.rig, &error_of(rest), told);
        }
        // Only what is too big tells an MTU.
        let (kind, code) = if is_ipv6 { (4, 0) } else { (3, 1) };
        expect(&mut chat.rig, &ErrorOf { kind, code, ..error_of(1400) }, 1400);
        let answer = FrameOf::tcp((chat.rs.address(), 8080), chat.local, ACK)
            .with_numbers(RS_ISN.wrapping_add(1), CLIENT_ISN.wrapping_add(1 + 100))
            .sent_by(3);
        assert_eq!(chat.rig.pass_on(0, &answer.padded()).len(), 1);
        expect(&mut chat.rig, &error_of(1400), 1400);
        chat.settle();
    }
}

#[test]
fn client_cannot_say_by_toa_that_it_is_somebody_else() {
    let mut chat = Chat::new(false, ClientAddress::Toa);
    chat.handshake();
    let lie = ToaOption::new([8, 8, 8, 8].into(), 53);
    let ack = chat.request(ACK, 0, 0).with_options(&[lie.as_bytes(), &TIMESTAMPS].concat());
    let truth = [&chat.toa()[..], &[1; 8], &TIMESTAMPS].concat();
    let expected = chat.at_rs(&ack).with_options(&truth);
    chat.expect(&ack, &[expected]);
    chat.settle();
}

#[test]
fn toa_takes_the_place_of_other_options_where_there_is_no_room() {
    for is_ipv6 in [false, true] {
        let mut chat = Chat::new(is_ipv6, ClientAddress::Toa);
        chat.handshake();
        let toa = chat.toa();
        // Selective acknowledgements behind the timestamps, then no-operations.
        let sack = [1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        for length in (24..=40).step_by(4) {
            let mut full = [&TIMESTAMPS[..], &sack].concat();
            full.resize(length, 1);
            let ack = chat.request(ACK | PSH, 0, 0).with_options(&full).with_payload(b"odd");
            let new = match length + toa.len() {
                ..=40 => [&toa[..], &full].concat(),
                _ if toa.len() + 12 <= length => {
                    let mut new = [&toa[..], &TIMESTAMPS].concat();
                    new.resize(length, 1);
                    new
                }
                _ => {
                    let mut old = toa.clone();
                    old.resize(length, 1);
                    [&TIMESTAMPS[..], &old].concat()
                }
            };
            let expected = chat.at_rs(&ack).with_options(&new);
            chat.expect(&ack, &[expected]);
        }
        chat.settle();
    }
}

#[test]
fn toa_is_left_out_where_the_packet_would_get_too_big() {
    let mut chat = Chat::new(false, ClientAddress::Toa);
    chat.handshake();
    for (bytes, has_toa) in [(1452, true), (1453, false), (1460, false)] {
        let data = chat.request(ACK, 0, 0).with_payload(&vec![7; bytes]);
        let options = if has_toa { chat.toa() } else { Vec::new() };
        let expected = chat.at_rs(&data).with_options(&options);
        chat.expect(&data, &[expected]);
    }
    chat.settle();
}

#[test]
fn nobody_else_is_introduced() {
    for rs in [
        Rs { client_address: ClientAddress::Toa, ..Rs::nat(0, 8080) },
        Rs { client_address: ClientAddress::ProxyV2, ..Rs::nat(0, 8080) },
        Rs::full_nat(0, 8080),
    ] {
        let mut rig = rig(&[rs]);
        let local = source_of(&become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), SYN)));
        let syn_ack = FrameOf::tcp(rip(&rs, 8080), local, SYN | ACK).with_numbers(4999, 1001).sent_by(0);
        become_of(&mut rig, &syn_ack);
        let ack = FrameOf::tcp(CIP, vip(HTTP), ACK).with_numbers(1001, 5000);
        assert_becomes(&mut rig, &ack, &ack.clone().between(local, rip(&rs, 8080)).at_rs(0));
    }
    for client_address in [ClientAddress::Toa, ClientAddress::ProxyV2] {
        let rs = Rs { client_address, ..Rs::full_nat(0, 5353) };
        let mut rig = rig(&[rs]);
        let question = FrameOf::udp(CIP, vip(DNS), b"question");
        let sent = become_of(&mut rig, &question);
        assert_eq!(sent, question.clone().between(source_of(&sent), rip(&rs, 5353)).at_rs(0).padded());
    }
}

#[test]
fn proxy_header_comes_with_the_handshakes_last_segment_and_the_numbers_follow_it() {
    for is_ipv6 in [false, true] {
        let mut chat = Chat::new(is_ipv6, ClientAddress::ProxyV2);
        let header = chat.header();
        let length = header.len() as u32;
        assert_eq!(length, if is_ipv6 { 52 } else { 28 });
        chat.handshake();
        let ack = chat.request(ACK, 0, 0).with_options(&TIMESTAMPS);
        let expected = chat.at_rs(&ack).with_payload(&header);
        // Again where it comes again: the first may be lost.
        chat.expect(&ack, std::slice::from_ref(&expected));
        chat.expect(&ack, &[expected]);
        // The real server's acknowledgement of the header is none of anything to the client.
        for part in [0, 1, length - 1, length] {
            let answer = chat.answer(ACK, 0, part);
            let seen = chat.answer(ACK, 0, 0);
            let expected = chat.at_client(&seen);
            chat.expect(&answer, &[expected]);
        }
        let banner = chat.answer(ACK | PSH, 0, length).with_payload(b"220 hello");
        let seen = chat.answer(ACK | PSH, 0, 0).with_payload(b"220 hello");
        let expected = chat.at_client(&seen);
        chat.expect(&banner, &[expected]);
        // Now all is shifted, also what begins where the header did.
        for frame in [
            chat.request(ACK, 0, 9),
            chat.request(ACK | PSH, 0, 9).with_payload(b"HELO"),
            chat.request(ACK | PSH, 4, 9).with_payload(b" you"),
            chat.request(FIN | ACK, 8, 9),
            chat.request(RST, 8, 0),
        ] {
            let expected = shifted(chat.at_rs(&frame), length);
            chat.expect(&frame, &[expected]);
        }
        let answer = chat.answer(ACK, 9, length + 8);
        let seen = chat.answer(ACK, 9, 8);
        let expected = chat.at_client(&seen);
        chat.expect(&answer, &[expected]);
        chat.settle();
    }
}

#[test]
fn proxy_header_stands_in_front_of_the_first_payload_as_often_as_that_is_sent() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    let header = chat.header();
    chat.handshake();
    let first = chat.request(ACK | PSH, 0, 0).with_payload(b"odd");
    let both = [&header[..], b"odd"].concat();
    for _ in 0..2 {
        let expected = chat.at_rs(&first).with_payload(&both);
        chat.expect(&first, &[expected]);
    }
    let second = chat.request(ACK | PSH, 3, 0).with_payload(b"more");
    let expected = shifted(chat.at_rs(&second), 28);
    chat.expect(&second, &[expected]);
    let keep_alive = chat.request(ACK, u32::MAX, 0);
    let expected = chat.at_rs(&keep_alive);
    chat.expect(&keep_alive, &[expected]);
    chat.settle();
}

#[test]
fn proxy_header_goes_by_itself_where_both_would_be_too_big() {
    for is_ipv6 in [false, true] {
        let mut chat = Chat::new(is_ipv6, ClientAddress::ProxyV2);
        let header = chat.header();
        chat.handshake();
        let most = 1500 - if is_ipv6 { 60 } else { 40 } - header.len();
        let payload = vec![9; most + 1];
        let fits = chat.request(ACK | PSH, 0, 0).with_payload(&payload[1..]);
        let expected = chat.at_rs(&fits).with_payload(&[&header[..], &payload[1..]].concat());
        chat.expect(&fits, &[expected]);
        let too_big = chat.request(ACK | PSH, 0, 0).with_options(&TIMESTAMPS).with_payload(&payload);
        let alone = chat.at_rs(&chat.request(ACK, 0, 0)).with_options(&TIMESTAMPS).with_payload(&header);
        let rest = shifted(chat.at_rs(&too_big), header.len() as u32);
        // What the worker makes itself leaves behind the burst.
        chat.expect(&too_big, &[rest, alone]);
        assert_eq!(chat.rig.counters[0].originated.load(), 1);
        chat.settle();
    }
}

#[test]
fn selective_acknowledgements_are_shifted_back_and_left_out_before_the_header_is_there() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    chat.handshake();
    let ack = chat.request(ACK, 0, 0);
    let expected = chat.at_rs(&ack).with_payload(&chat.header());
    chat.expect(&ack, &[expected]);
    let block = |from: u32, to: u32| {
        let at = |offset: u32| CLIENT_ISN.wrapping_add(1).wrapping_add(offset).to_be_bytes();
        [&[1, 1, 5, 10][..], &at(from), &at(to)].concat()
    };
    let answer = chat.answer(ACK, 0, 0).with_options(&block(28 + 100, 28 + 200));
    let seen = chat.answer(ACK, 0, 0).with_options(&[1; 12]);
    let expected = chat.at_client(&seen);
    chat.expect(&answer, &[expected]);
    let answer = chat.answer(ACK, 0, 28 + 50).with_options(&block(28 + 100, 28 + 200));
    let seen = chat.answer(ACK, 0, 50).with_options(&block(100, 200));
    let expected = chat.at_client(&seen);
    chat.expect(&answer, &[expected]);
    chat.settle();
}

#[test]
fn resets_before_and_behind_the_header_are_where_the_real_server_expects_them() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    chat.handshake();
    let reset = chat.request(RST, 0, 0);
    let expected = chat.at_rs(&reset);
    chat.expect(&reset, &[expected]);
    let ack = chat.request(ACK, 0, 0);
    let expected = chat.at_rs(&ack).with_payload(&chat.header());
    chat.expect(&ack, &[expected]);
    let expected = shifted(chat.at_rs(&reset), 28);
    chat.expect(&reset, &[expected]);
    chat.settle();
}

#[test]
fn fast_open_cannot_get_in_front_of_the_header() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let syn = chat.request(SYN, 0, 0).with_options(&cookie).with_payload(b"early");
    let expected = chat.at_rs(&syn).with_options(&[1; 12]);
    chat.expect(&syn, &[expected]);
    chat.settle();
}

#[test]
fn numbers_stay_right_behind_four_gibibytes() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    chat.handshake();
    let ack = chat.request(ACK, 0, 0);
    let expected = chat.at_rs(&ack).with_payload(&chat.header());
    chat.expect(&ack, &[expected]);
    for far in [28_u32, 1 << 30, 1 << 31, 3 << 30, u32::MAX, 0, 1] {
        let data = chat.request(ACK, far.wrapping_sub(28), 0).with_payload(b"data");
        let answer = chat.answer(ACK, 0, far);
        let seen = chat.answer(ACK, 0, far.wrapping_sub(28));
        let expected = chat.at_client(&seen);
        chat.expect(&answer, &[expected]);
        let expected = shifted(chat.at_rs(&data), 28);
        chat.expect(&data, &[expected]);
    }
    chat.settle();
}

#[test]
fn new_syn_on_the_same_connection_begins_anew() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    let other = FrameOf::tcp(chat.client, chat.vip, SYN).with_numbers(99, 0);
    let expected = chat.at_rs(&other);
    chat.expect(&other, &[expected]);
    let syn_ack = chat.answer(SYN | ACK, 0, 0).with_numbers(RS_ISN, 100);
    let expected = chat.at_client(&syn_ack);
    chat.expect(&syn_ack, &[expected]);
    let data = FrameOf::tcp(chat.client, chat.vip, ACK).with_numbers(100, 1).with_payload(b"data");
    let expected = chat.at_rs(&data).with_payload(&[&chat.header()[..], b"data"].concat());
    chat.expect(&data, &[expected]);
    chat.settle();
}

#[test]
fn syn_of_somebody_else_leaves_the_numbers_of_a_connection_alone() {
    for (fin, state) in [(0, "ESTABLISHED"), (FIN, "FIN_WAIT")] {
        let mut chat = Chat::new(false, ClientAddress::ProxyV2);
        chat.handshake();
        let ack = chat.request(ACK, 0, 0);
        let expected = chat.at_rs(&ack).with_payload(&chat.header());
        chat.expect(&ack, &[expected]);
        let answer = chat.answer(ACK | fin, 0, 28);
        let expected = chat.at_client(&chat.answer(ACK | fin, 0, 0));
        chat.expect(&answer, &[expected]);
        assert_eq!(chat.rig.state(chat.client.1), state);
        let lie = FrameOf::tcp(chat.client, chat.vip, SYN).with_numbers(99, 0);
        let expected = chat.at_rs(&lie);
        chat.expect(&lie, &[expected]);
        // The real server's answer to it (RFC 5961), and the stream goes on.
        let challenge = chat.answer(ACK, 0, 28);
        let expected = chat.at_client(&chat.answer(ACK, 0, 0));
        chat.expect(&challenge, &[expected]);
        let data = chat.request(ACK | PSH, 0, 0).with_payload(b"data");
        let expected = shifted(chat.at_rs(&data), 28);
        chat.expect(&data, &[expected]);
        chat.settle();
    }
}

#[test]
fn real_servers_syn_that_comes_again_changes_nothing() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    chat.handshake();
    let ack = chat.request(ACK, 0, 0);
    let expected = chat.at_rs(&ack).with_payload(&chat.header());
    chat.expect(&ack, &[expected]);
    chat.handshake();
    let reset = chat.request(RST, 0, 0);
    let expected = shifted(chat.at_rs(&reset), 28);
    chat.expect(&reset, &[expected]);
    chat.settle();
}

#[test]
fn without_a_buffer_for_the_header_the_segment_is_dropped_and_sent_again() {
    let mut chat = Chat::new(false, ClientAddress::ProxyV2);
    chat.handshake();
    let pool = chat.rig.ports[0].pool();
    let data = chat.request(ACK, 0, 0).with_payload(&[7; 1460]);
    assert!(chat.rig.ports[0].inject(0, &data.padded()));
    let held: Vec<_> = std::iter::from_fn(|| pool.frame_of_segments([&[0_u8; 60][..]])).collect();
    chat.rig.poll();
    assert_eq!(chat.rig.dropped(DropReason::NoBuffer), 1);
    drop(held);
    assert_eq!(chat.rig.pass_on(0, &data.padded()).len(), 2);
    chat.settle();
}

/// What a segment to the real server carries: offset into its stream, and bytes.
fn carried(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!() };
    let good = match packet.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = tcp.to_header();
            header.calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).unwrap()
        }
        _ => panic!(),
    };
    assert_eq!(tcp.checksum(), good);
    (tcp.sequence_number().wrapping_sub(CLIENT_ISN.wrapping_add(1)), tcp.payload().to_vec())
}

proptest! {
    /// A client sends its stream in segments of any size, in any order and again and again; the real server acknowledges what it
    /// has, or not. Whatever the order, the real server's stream is the header and the client's bytes, and the client never hears that
    /// more is there than it sent and the real server has.
    #[test]
    fn real_servers_stream_is_the_header_and_the_clients_bytes(
        steps in prop::collection::vec((0..3000_usize, 0..1461_usize, any::<bool>()), 1..60),
    ) {
        let mut chat = Chat::new(false, ClientAddress::ProxyV2);
        chat.handshake();
        let stream: Vec<u8> = (0..4500_usize).map(|place| (place * 7 + place / 256) as u8).collect();
        let expected = [&chat.header()[..], &stream].concat();
        let mut has = vec![false; expected.len()];
        let (mut sent, mut acknowledged) = (0, 0);
        for (from, length, answers) in steps {
            // Nothing is sent ahead of what was sent before, nor again once it was acknowledged.
            let from = from.min(sent).max(acknowledged);
            let end = (from + length).min(stream.len());
            sent = sent.max(end);
            let data = chat.request(ACK, from as u32, 0).with_payload(&stream[from..end]);
            for (_, frame) in chat.rig.pass_on(0, &data.padded()) {
                let (offset, bytes) = carried(&frame);
                let place = offset as usize..offset as usize + bytes.len();
                prop_assert_eq!(&expected[place.clone()], &bytes[..]);
                has[place].fill(true);
            }
            if answers {
                let received = has.iter().take_while(|has| **has).count();
                let answer = chat.answer(ACK, 0, received as u32);
                let out = chat.rig.pass_on(0, &answer.padded());
                let tcp = etherparse::TcpHeaderSlice::from_slice(&out[0].1[34..]).unwrap();
                let heard = tcp.acknowledgment_number().wrapping_sub(CLIENT_ISN.wrapping_add(1)) as usize;
                prop_assert_eq!(heard, received.saturating_sub(28));
                prop_assert!(heard <= sent);
                acknowledged = heard;
            }
        }
        chat.settle();
    }
}
