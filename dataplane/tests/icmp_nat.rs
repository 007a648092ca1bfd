//! ICMP errors about packets of translated connections, both ways, byte for byte.

mod rig;

use std::net::IpAddr;

use dataplane::snapshot::ForwardingMethod;
use dataplane::verdict::DropReason::{self, *};
use rig::icmp::{ErrorOf, packet_of, quoted_between};
use rig::nat::{CIP, assert_settled, become_of, client_6, rig, rip, source_of, vip, vip_6};
use rig::packet::{End, FrameOf};
use rig::{DIAMETER, DNS, HTTP, LOCAL_ADDRESSES, Rig, Rs, SYN, own_mac, rs_mac};
use scheduler::Algorithm;

fn router(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { "2001:db8:f::1".parse().unwrap() } else { [203, 0, 113, 1].into() }
}

/// A connection of each protocol: the client's packet, and what the client knows the answer by.
fn exchanges(is_ipv6: bool) -> Vec<(FrameOf, FrameOf)> {
    let (client, of) = match is_ipv6 {
        false => (CIP, vip as fn(u16) -> End),
        true => (client_6(40_000), vip_6 as fn(u16) -> End),
    };
    vec![
        (FrameOf::tcp(client, of(HTTP), SYN), FrameOf::tcp(of(HTTP), client, SYN | rig::ACK)),
        (FrameOf::udp(client, of(DNS), b"question"), FrameOf::udp(of(DNS), client, b"answer")),
        (FrameOf::sctp(client, of(DIAMETER), &[1, 0, 0, 8, 0, 0, 0, 0]), {
            FrameOf::sctp(of(DIAMETER), client, &[2, 0, 0, 8, 0, 0, 0, 0])
        }),
    ]
}

/// Real servers of both methods and families, each alone behind its services.
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

fn become_of_error(rig: &mut Rig, error: &ErrorOf) -> Vec<u8> {
    let sent = rig.pass_on(0, &error.frame());
    assert_eq!(sent.len(), 1, "{error:?}");
    sent.into_iter().next().unwrap().1
}

fn assert_dropped(rig: &mut Rig, frame: &[u8], reason: DropReason, what: &str) {
    let before = rig.dropped(reason);
    assert_eq!(rig.pass_on(0, frame), [], "{what}");
    assert_eq!(rig.dropped(reason), before + 1, "{what}");
}

fn kinds(is_ipv6: bool) -> &'static [(u8, u8)] {
    match is_ipv6 {
        true => &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0), (100, 7)],
        false => &[(3, 0), (3, 1), (3, 3), (3, 4), (4, 0), (11, 0), (12, 0)],
    }
}

#[test]
fn error_of_the_clients_side_reaches_the_real_server_about_its_own_packet() {
    each(|rig, rs, is_ipv6| {
        for (request, answer) in exchanges(is_ipv6) {
            let local = source_of(&become_of(rig, &request));
            let virtual_service = answer.source;
            let quote = packet_of(&answer.clone().ttl(50));
            let translated = quoted_between(&quote, rip(rs, 8080), local);
            let is_full_nat = rs.method == ForwardingMethod::FullNat;
            for &(kind, code) in kinds(is_ipv6) {
                for length in [quote.len(), if is_ipv6 { 48 } else { 28 }, if is_ipv6 { 44 } else { 24 }] {
                    let error = ErrorOf::new(router(is_ipv6), virtual_service.0, &quote[..length])
                        .of_kind(kind, code);
                    let source = if is_full_nat { local.0 } else { router(is_ipv6) };
                    let expected = error.clone().between(source, rs.address());
                    let expected = expected.quoting(&translated[..length]).at_rs(3);
                    assert_eq!(
                        become_of_error(rig, &error),
                        expected.frame(),
                        "{rs:?} {kind}/{code} {length}"
                    );
                }
            }
            // From the client itself, which with full NAT the real server knows by its local address.
            let error = ErrorOf::new(request.source.0, virtual_service.0, &quote);
            let expected = error.clone().between(local.0, rs.address()).quoting(&translated).at_rs(3);
            assert_eq!(become_of_error(rig, &error), expected.frame());
        }
    });
}

#[test]
fn error_of_the_real_servers_side_reaches_the_client_about_its_own_packet() {
    each(|rig, rs, is_ipv6| {
        for (request, _) in exchanges(is_ipv6) {
            let sent = become_of(rig, &request);
            let local = source_of(&sent);
            let quote = &sent[14..];
            let quote = &quote[..quote.len().min(packet_of(&request).len())];
            let (client, virtual_service) = (request.source, request.destination);
            let translated = quoted_between(quote, client, virtual_service);
            for source in [rs.address(), router(is_ipv6)] {
                for &(kind, code) in kinds(is_ipv6) {
                    for length in [quote.len(), if is_ipv6 { 48 } else { 28 }, if is_ipv6 { 44 } else { 24 }]
                    {
                        let error =
                            ErrorOf::new(source, local.0, &quote[..length]).of_kind(kind, code).sent_by(3);
                        let expected = error.clone().between(virtual_service.0, client.0);
                        let expected = expected.quoting(&translated[..length]).at_client();
                        assert_eq!(
                            become_of_error(rig, &error),
                            expected.frame(),
                            "{rs:?} {kind}/{code} {length}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn quotes_without_both_ports_of_later_fragments_and_of_no_connection_are_dropped() {
    each(|rig, rs, is_ipv6| {
        let (request, answer) = exchanges(is_ipv6).remove(1);
        let sent = become_of(rig, &request);
        let local = source_of(&sent);
        let quote = packet_of(&answer);
        let ports = if is_ipv6 { 40 } else { 20 };
        let to_vip = |quote: &[u8]| ErrorOf::new(router(is_ipv6), answer.source.0, quote).frame();
        assert_dropped(rig, &to_vip(&quote[..ports + 3]), IcmpIgnored, "3 bytes of ports");
        assert_dropped(rig, &to_vip(&quote[..ports]), IcmpIgnored, "no ports");
        let mut other = quote.clone();
        other[ports + 3] ^= 1;
        assert_dropped(rig, &to_vip(&other), IcmpIgnored, "another client port");
        let out = &sent[14..14 + packet_of(&request).len()];
        let to_client = |quote: &[u8]| ErrorOf::new(rs.address(), local.0, quote).sent_by(3).frame();
        let nobodys = match rs.method {
            ForwardingMethod::FullNat => IcmpIgnored,
            _ => NotLocal,
        };
        assert_dropped(rig, &to_client(&out[..ports + 3]), nobodys, "3 bytes of ports");
        let mut other = out.to_vec();
        other[ports + 1] ^= 1;
        assert_dropped(rig, &to_client(&other), nobodys, "another client port");
        if !is_ipv6 {
            let mut later = quote.clone();
            later[7] = 9;
            assert_dropped(rig, &to_vip(&later), IcmpIgnored, "later fragment");
            let mut first = quote.clone();
            first[6] = 0x20;
            assert_eq!(rig.pass_on(0, &to_vip(&first)).len(), 1, "first fragment");
        }
    });
}

#[test]
fn damaged_errors_are_not_mended() {
    each(|rig, rs, is_ipv6| {
        let (request, answer) = exchanges(is_ipv6).remove(1);
        let sent = become_of(rig, &request);
        let local = source_of(&sent);
        let mut to_rs = ErrorOf::new(router(is_ipv6), answer.source.0, &packet_of(&answer)).frame();
        // In the length of the quoted datagram.
        let length = 14 + if is_ipv6 { 48 + 40 } else { 28 + 20 } + 5;
        to_rs[length] ^= 1;
        assert_dropped(rig, &to_rs, BadIcmp, "to the real server");
        let out = &sent[14..14 + packet_of(&request).len()];
        let mut to_client = ErrorOf::new(rs.address(), local.0, out).sent_by(3).frame();
        to_client[length] ^= 1;
        assert_dropped(rig, &to_client, BadIcmp, "to the client");
    });
}

#[test]
fn errors_end_with_their_ttl_and_their_connection() {
    each(|rig, _, is_ipv6| {
        let (request, answer) = exchanges(is_ipv6).remove(1);
        become_of(rig, &request);
        let error = ErrorOf::new(router(is_ipv6), answer.source.0, &packet_of(&answer));
        let dying = ErrorOf { ttl: 1, ..error.clone() };
        assert_dropped(rig, &dying.frame(), TtlExpired, "TTL 1");
        // Errors keep no connection.
        for _ in 0..3 {
            rig.hand.advance_seconds(99);
            assert_eq!(rig.pass_on(0, &error.frame()).len(), 1);
        }
        rig.hand.advance_seconds(4);
        assert_dropped(rig, &error.frame(), NoConnection, "over");
    });
}

#[test]
fn quoted_ipv4_header_checksum_comes_out_right_whatever_it_was() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    let (request, answer) = exchanges(false).remove(1);
    become_of(&mut rig, &request);
    let mut quote = packet_of(&answer);
    let right = quoted_between(&quote, rip(&rs, 8080), CIP);
    quote[10..12].fill(0);
    let error = ErrorOf::new(router(false), answer.source.0, &quote);
    let expected = error.clone().between(router(false), rs.address()).quoting(&right).at_rs(3);
    assert_eq!(become_of_error(&mut rig, &error), expected.frame());
}

#[test]
fn quote_with_options_and_extensions_is_translated_where_its_ports_are() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    let (request, answer) = exchanges(false).remove(1);
    become_of(&mut rig, &request);
    let mut quote = packet_of(&answer);
    quote[0] = 0x47;
    quote.splice(20..20, [1; 8]);
    rig::packets::set_header_checksum(&mut quote);
    // Behind the quote, extensions that are not touched (RFC 4884).
    quote.resize(128, 0);
    quote.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 9, 9, 9, 9]);
    let mut error = ErrorOf::new(router(false), answer.source.0, &quote).of_kind(11, 0);
    error.rest = 0x0020_0000;
    let translated = quoted_between(&quote, rip(&rs, 8080), CIP);
    let expected = error.clone().between(router(false), rs.address()).quoting(&translated).at_rs(3);
    assert_eq!(become_of_error(&mut rig, &error), expected.frame());
}

#[test]
fn error_about_another_workers_connection_is_handed_to_it() {
    for rs in [Rs::nat(3, 8080), Rs::full_nat(3, 8080), Rs::new(3)] {
        let mut rig = Rig::new(4, 1, 1024, Algorithm::Rr, &[rs]);
        for worker in 0..4 {
            let client = (CIP.0, 40_000 + worker as u16);
            let request = FrameOf::udp(client, vip(DNS), b"question");
            let answer = FrameOf::udp(vip(DNS), client, b"answer");
            let sent = rig.pass_on(worker, &request.padded());
            let local = source_of(&sent[0].1);
            let error = ErrorOf::new(router(false), vip(DNS).0, &packet_of(&answer));
            for queue in 0..4 {
                let sent = rig.pass_on(queue, &error.frame());
                assert_eq!(sent.len(), 1, "{rs:?} {worker} {queue}");
                assert_eq!(sent[0].1[..12], [rs_mac(3), own_mac(0)].concat());
                if rs.method == ForwardingMethod::Direct {
                    continue;
                }
                let out = quoted_between(&packet_of(&request), local, rip(&rs, 8080));
                let error = ErrorOf::new(rs.address(), local.0, &out).sent_by(3);
                let sent = rig.pass_on(queue, &error.frame());
                let expected = error.between(vip(DNS).0, client.0).quoting(&packet_of(&request)).at_client();
                // The quoted checksum is that of the translated packet.
                let quoted = quoted_between(&out, client, vip(DNS));
                assert_eq!(sent[0].1, expected.quoting(&quoted).frame());
            }
        }
        rig.assert_conservation();
        let handed_over = rig.total(|counters| counters.handed_over.load());
        assert_eq!(handed_over, if rs.method == ForwardingMethod::Direct { 12 } else { 24 });
    }
}

#[test]
fn schedule_icmp_translates_what_is_about_an_unknown_connection_and_remembers_nothing() {
    for (rs, is_translated) in
        [(Rs::nat(3, 8080), true), (Rs::nat(3, 0), true), (Rs::full_nat(3, 8080), false)]
    {
        let mut rig = Rig::with(1, 1, 1024, |counts| {
            let mut snapshot = rig::snapshot(counts, 1, Algorithm::Rr, &[rs]);
            snapshot.options.schedule_icmp = true;
            snapshot
        });
        let quote = packet_of(&FrameOf::udp(vip(DNS), CIP, b"answer"));
        let error = ErrorOf::new(router(false), vip(DNS).0, &quote);
        if is_translated {
            let port = if rs.translated_port == 0 { DNS } else { 8080 };
            let quote = quoted_between(&quote, rip(&rs, port), CIP);
            let expected = error.clone().between(router(false), rs.address()).quoting(&quote).at_rs(3);
            assert_eq!(become_of_error(&mut rig, &error), expected.frame());
        } else {
            assert_dropped(&mut rig, &error.frame(), IcmpIgnored, "there is no local port");
        }
        assert!(rig.connections().is_empty());
        assert_settled(&rig);
    }
}

#[test]
fn without_translation_errors_to_others_are_dropped_as_any_packet() {
    let mut rig = rig(&[Rs::new(0)]);
    let quote = packet_of(&FrameOf::udp(CIP, rip(&Rs::new(0), DNS), b"question"));
    let error = ErrorOf::new(Rs::new(0).address(), CIP.0, &quote).sent_by(0);
    assert_dropped(&mut rig, &error.frame(), NotLocal, "to a client");
    let to_local = ErrorOf::new(Rs::new(0).address(), LOCAL_ADDRESSES[0].into(), &quote).sent_by(0);
    assert_dropped(&mut rig, &to_local.frame(), NoService, "to a local address");
}
