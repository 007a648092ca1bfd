//! Network address translation: what a client's packets and a real server's become, byte for byte, and what becomes of the
//! connections.

mod rig;

use std::net::IpAddr;

use dataplane::memory::MemoryPortConfig;
use dataplane::snapshot::{ForwardingMethod, InterfaceId, InterfaceSnapshot, NextHop, Route, Routes};
use dataplane::verdict::DropReason;
use proptest::prelude::*;
use rig::nat::*;
use rig::packet::*;
use rig::*;
use scheduler::Algorithm;

/// Requests and answers of all three protocols: what comes, from whom, to whom.
fn exchanges(client: IpAddr, vip: IpAddr) -> Vec<(FrameOf, FrameOf)> {
    let tcp = |port, request: u8, answer: u8, payload: &[u8]| {
        let (client, vip) = ((client, port), (vip, HTTP));
        (
            FrameOf::tcp(client, vip, request).with_payload(payload),
            FrameOf::tcp(vip, client, answer).with_payload(payload),
        )
    };
    let udp = |payload: &[u8]| {
        let (client, vip) = ((client, 1000), (vip, DNS));
        (FrameOf::udp(client, vip, payload), FrameOf::udp(vip, client, payload))
    };
    let sctp = |request: &[u8], answer: &[u8]| {
        let (client, vip) = ((client, 2000), (vip, DIAMETER));
        (FrameOf::sctp(client, vip, request), FrameOf::sctp(vip, client, answer))
    };
    vec![
        tcp(40_000, SYN, SYN | ACK, b""),
        tcp(40_000, ACK, ACK, b"odd payload"),
        tcp(40_000, ACK | PSH, ACK | PSH, b"even"),
        tcp(40_000, FIN | ACK, FIN | ACK, b""),
        udp(b""),
        udp(b"q"),
        udp(b"question"),
        sctp(&chunk(1), &chunk(2)),
        sctp(&chunk(10), &chunk(11)),
        sctp(&[0, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], &chunk(3)),
    ]
}

#[test]
fn packets_of_both_ways_and_families_are_translated_to_the_byte() {
    for translated_port in [0, 8080] {
        for (client, virtual_address, is_ipv6) in
            [(IpAddr::from(CLIENT), IpAddr::from(VIP), false), (CLIENT_6.into(), VIP_6.into(), true)]
        {
            let rs = Rs { is_ipv6, ..Rs::nat(3, translated_port) };
            let mut rig = rig(&[rs]);
            let exchanges = exchanges(client, virtual_address);
            for (request, answer) in &exchanges {
                let port = if translated_port == 0 { request.destination.1 } else { translated_port };
                let to_rs = request.clone().between(request.source, rip(&rs, port)).at_rs(3);
                assert_becomes(&mut rig, request, &to_rs);
                let from_rs = answer.clone().between(rip(&rs, port), answer.destination).sent_by(3);
                assert_becomes(&mut rig, &from_rs, &answer.clone().at_client());
            }
            let counters = &rig.counters[0].destinations[3];
            let count = exchanges.len() as u64;
            assert_eq!(
                (counters.connections.load(), counters.packets.load(), counters.replies.load()),
                (3, count, count)
            );
            let bytes: u64 = exchanges.iter().map(|(request, _)| request.build().len() as u64 - 14).sum();
            assert_eq!(counters.bytes.load(), bytes);
            let bytes: u64 = exchanges.iter().map(|(_, answer)| answer.build().len() as u64 - 14).sum();
            assert_eq!(counters.reply_bytes.load(), bytes);
            assert_settled(&rig);
        }
    }
}

#[test]
fn full_nat_puts_a_local_address_and_port_in_the_clients_place() {
    for (client, virtual_address, is_ipv6) in
        [(IpAddr::from(CLIENT), IpAddr::from(VIP), false), (CLIENT_6.into(), VIP_6.into(), true)]
    {
        let rs = Rs { is_ipv6, ..Rs::full_nat(3, 8080) };
        let mut rig = rig(&[rs]);
        for (request, answer) in &exchanges(client, virtual_address) {
            let sent = become_of(&mut rig, request);
            let local = source_of(&sent);
            match is_ipv6 {
                false => assert!(LOCAL_ADDRESSES.iter().any(|address| local.0 == IpAddr::from(*address))),
                true => assert_eq!(local.0, IpAddr::from(LOCAL_ADDRESS_6)),
            }
            assert!(local.1 >= 1024);
            let to_rs = request.clone().between(local, rip(&rs, 8080)).at_rs(3);
            assert_eq!(sent, to_rs.padded());
            let from_rs = answer.clone().between(rip(&rs, 8080), local).sent_by(3);
            assert_becomes(&mut rig, &from_rs, &answer.clone().at_client());
            assert_eq!(source_of(&become_of(&mut rig, request)), local, "the same for the whole connection");
        }
        assert_settled(&rig);
    }
}

#[test]
fn frames_are_tagged_as_their_way_wants() {
    let rs = Rs { vlan: 100, ..Rs::nat(3, 8080) };
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        for vlan in [100, 200] {
            let interface = InterfaceId(snapshot.interfaces.len() as u16);
            let facts = InterfaceSnapshot { vlan, ..snapshot.interfaces[0] };
            snapshot.interfaces.push(facts);
            snapshot.ports[0].vlans.insert(vlan, interface);
        }
        snapshot
    });
    for client_vlan in [0, 200] {
        let client = (CIP.0, 1000 + client_vlan);
        let request = FrameOf::tcp(client, vip(HTTP), SYN).vlan(client_vlan);
        let to_rs = request.clone().between(client, rip(&rs, 8080)).at_rs(3).vlan(100);
        let sent = become_of(&mut rig, &request);
        assert_eq!(sent[..to_rs.build().len()], to_rs.build());
        let answer = FrameOf::tcp(vip(HTTP), client, SYN | ACK);
        let from_rs = answer.clone().between(rip(&rs, 8080), client).sent_by(3).vlan(100);
        let sent = become_of(&mut rig, &from_rs);
        let expected = answer.at_client().vlan(client_vlan).build();
        assert_eq!(sent[..expected.len()], expected);
    }
    assert_settled(&rig);
}

#[test]
fn replies_follow_the_clients_frames_to_another_mac() {
    let rs = Rs::nat(3, 8080);
    let mut rig = rig(&[rs]);
    let request = FrameOf::tcp(CIP, vip(HTTP), SYN);
    become_of(&mut rig, &request);
    let answer = FrameOf::tcp(vip(HTTP), CIP, ACK);
    let from_rs = answer.clone().between(rip(&rs, 8080), CIP).sent_by(3);
    assert_becomes(&mut rig, &from_rs, &answer.clone().at_client());
    let other = [2, 0, 0, 0, 0, 0xc2];
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), ACK).macs(other, own_mac(0)));
    let expected = answer.clone().at_client().macs(own_mac(0), other);
    assert_becomes(&mut rig, &from_rs, &expected);
    assert_settled(&rig);
}

#[test]
fn replies_go_by_the_routes_where_the_clients_frames_come_from_nobody() {
    let gateway = [2, 0, 0, 0, 0, 0xfe];
    let rs = Rs::nat(3, 8080);
    for (mac, sent) in [(Some(gateway), 1), (None, 0)] {
        let mut rig = Rig::with(1, 2, 64, |counts| {
            let mut snapshot = snapshot(counts, 2, Algorithm::Rr, &[rs]);
            let next_hop = NextHop { interface: InterfaceId(1), mac, source: [10, 1, 0, 1].into() };
            snapshot.routes = Routes::new(vec![Route { network: "0.0.0.0/0".parse().unwrap(), next_hop }]);
            snapshot
        });
        let group = [3, 0, 0, 0, 0, 0xc1];
        become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), SYN).macs(group, own_mac(0)));
        let answer = FrameOf::tcp(vip(HTTP), CIP, SYN | ACK);
        let from_rs = answer.clone().between(rip(&rs, 8080), CIP).sent_by(3);
        let out = rig.pass_on(0, &from_rs.padded());
        assert_eq!(out.len(), sent);
        match out.first() {
            Some((port, frame)) => {
                assert_eq!(*port, 1);
                assert_eq!(*frame, answer.macs(own_mac(1), gateway).ttl(63).padded());
            }
            None => assert_eq!(rig.dropped(DropReason::NoRoute), 1),
        }
        assert_settled(&rig);
    }
}

#[test]
fn replies_of_nobodys_connection_are_dropped() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    let from_rs = |port| FrameOf::tcp(rip(&rs, port), CIP, ACK).sent_by(0);
    assert_dropped(&mut rig, &from_rs(8080), DropReason::NoConnection);
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), SYN));
    become_of(&mut rig, &from_rs(8080));
    assert_dropped(&mut rig, &from_rs(8081), DropReason::NoConnection);
    assert_dropped(&mut rig, &from_rs(8080).ttl(1), DropReason::TtlExpired);
    assert_dropped(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), ACK).ttl(1), DropReason::TtlExpired);
    let stranger = FrameOf::tcp(([10, 0, 0, 99].into(), 8080), CIP, ACK);
    assert_dropped(&mut rig, &stranger, DropReason::NotLocal);
    let to_local = FrameOf::tcp(rip(&rs, 8080), (LOCAL_ADDRESSES[0].into(), 5000), ACK).sent_by(0);
    assert_dropped(&mut rig, &to_local, DropReason::NoConnection);
    assert_settled(&rig);
}

#[test]
fn too_big_packets_are_dropped_on_either_way() {
    let rs = Rs { mtu: 1000, ..Rs::nat(0, 8080) };
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.interfaces[0].mtu = 1200;
        snapshot
    });
    let request = |bytes: usize| FrameOf::udp(CIP, vip(DNS), &vec![7; bytes - 28]);
    let answer = |bytes: usize| FrameOf::udp(rip(&rs, 8080), CIP, &vec![7; bytes - 28]).sent_by(0);
    assert_dropped(&mut rig, &request(1001), DropReason::TooBig);
    assert_eq!(rig.connections().len(), 0);
    become_of(&mut rig, &request(1000));
    become_of(&mut rig, &answer(1200));
    assert_dropped(&mut rig, &answer(1201), DropReason::TooBig);
    assert_dropped(&mut rig, &request(1001), DropReason::TooBig);
    assert_settled(&rig);
}

#[test]
fn udp_without_checksum_stays_without_both_ways() {
    let rs = Rs::nat(0, 5353);
    let mut rig = rig(&[rs]);
    for frame in
        [FrameOf::udp(CIP, vip(DNS), b"question"), FrameOf::udp(rip(&rs, 5353), CIP, b"answer").sent_by(0)]
    {
        let mut bytes = frame.padded();
        bytes[40..42].fill(0);
        let sent = rig.pass_on(0, &bytes);
        assert_eq!(sent[0].1[40..42], [0, 0]);
    }
    assert_settled(&rig);
}

#[test]
fn damaged_packets_stay_damaged() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    for frame in [
        FrameOf::tcp(CIP, vip(HTTP), SYN).with_payload(b"payload"),
        FrameOf::udp(CIP, vip(DNS), b"payload"),
        FrameOf::sctp(CIP, vip(DIAMETER), &[1, 0, 0, 8, 1, 2, 3, 4]),
    ] {
        let mut bytes = frame.padded();
        let last = frame.build().len() - 1;
        bytes[last] ^= 1;
        let sent = &rig.pass_on(0, &bytes)[0].1;
        let mut expected = frame.clone().between(CIP, rip(&rs, 8080)).at_rs(0).padded();
        expected[last] ^= 1;
        assert_eq!(*sent, expected, "the checksum is that of what was sent, not of what came");
    }
    assert_settled(&rig);
}

/// Any packet of either family, to a service, with any payload.
fn any_request() -> impl Strategy<Value = FrameOf> {
    let client = (any::<u32>(), 1_u16..=u16::MAX);
    let layer = (0..3_u8, any::<u32>(), any::<u32>(), any::<u8>());
    let rest = (prop::collection::vec(any::<u8>(), 0..300), 2..=255_u8, any::<bool>());
    (client, layer, rest).prop_map(|((bits, port), (kind, sequence, acknowledgement, flags), rest)| {
        let (payload, ttl, is_ipv6) = rest;
        let [_, b, c, d] = bits.to_be_bytes();
        let port = if port == 20 { 21 } else { port };
        let (client, vip): (End, IpAddr) = match is_ipv6 {
            false => (([198, b, c, d].into(), port), VIP.into()),
            true => (
                (
                    [&CLIENT_6[..12], &[1, b, c, d]].concat().first_chunk::<16>().copied().unwrap().into(),
                    port,
                ),
                VIP_6.into(),
            ),
        };
        match kind {
            0 => FrameOf::tcp(client, (vip, HTTP), SYN | flags & (PSH | FIN | ACK))
                .with_numbers(sequence, acknowledgement)
                .with_payload(&payload),
            1 => FrameOf::udp(client, (vip, DNS), &payload),
            _ => FrameOf::sctp(client, (vip, DIAMETER), &[&[1, 0, 0, 20], &payload[..], &[0; 16]].concat()),
        }
        .ttl(ttl)
    })
}

proptest! {
    #[test]
    fn any_request_and_its_answer_come_out_as_they_would_be_built(
        request in any_request(),
        method in prop::sample::select(&[ForwardingMethod::Nat, ForwardingMethod::FullNat][..]),
        translated_port in prop::sample::select(&[0_u16, 1, 8080, 65535][..]),
    ) {
        let is_ipv6 = request.source.0.is_ipv6();
        let rs = Rs { is_ipv6, method, ..Rs::nat(3, translated_port) };
        let mut rig = rig(&[rs]);
        let sent = become_of(&mut rig, &request);
        let real_server = rip(&rs, if translated_port == 0 { request.destination.1 } else { translated_port });
        let local = source_of(&sent);
        prop_assert!(method == ForwardingMethod::FullNat || local == request.source);
        let expected = request.clone().between(local, real_server).at_rs(3);
        prop_assert!(is_same(&sent, &expected), "{request:?}");
        let answer = request.clone().between(request.destination, request.source);
        let from_rs = answer.clone().between(real_server, local).sent_by(3);
        let sent = become_of(&mut rig, &from_rs);
        prop_assert!(is_same(&sent, &answer.at_client()), "{request:?}");
        assert_settled(&rig);
    }
}

/// The frame is as expected, its checksums too; 0 and 0xffff are the same in one's complement, where the protocol does not tell
/// them apart.
fn is_same(frame: &[u8], expected: &FrameOf) -> bool {
    let expected_bytes = expected.padded();
    let at = if expected.source.0.is_ipv6() { 54 + 16 } else { 34 + 16 };
    let mut frame = frame.to_vec();
    if matches!(expected.layer, Layer::Tcp { .. }) && frame[at..at + 2] == [0xff, 0xff] {
        frame[at..at + 2].copy_from_slice(&[0, 0]);
    }
    frame == expected_bytes
}

#[test]
fn packets_too_big_for_their_way_are_cut_where_they_may_be() {
    let rs = Rs { mtu: 1000, ..Rs::nat(0, 8080) };
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.interfaces[0].mtu = 1200;
        snapshot
    });
    let may_be_cut = |frame: &FrameOf| {
        let mut bytes = frame.build();
        bytes[20] &= !0x40;
        fix_checksum(&mut bytes);
        bytes
    };
    let payload: Vec<u8> = (0..1300).map(|byte| byte as u8).collect();
    let request = FrameOf::udp(CIP, vip(DNS), &payload);
    let answer = FrameOf::udp(rip(&rs, 8080), CIP, &payload).sent_by(0);
    let translated = [
        request.clone().between(CIP, rip(&rs, 8080)).at_rs(0),
        answer.clone().between(vip(DNS), CIP).at_client(),
    ];
    for (frame, expected) in [request, answer].iter().zip(translated) {
        let sent: Vec<_> = rig.pass_on(0, &may_be_cut(frame)).into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(sent.len(), 2);
        let whole = may_be_cut(&expected);
        assert_eq!(sent[0][..14], whole[..14]);
        assert_eq!(sent[1][26..34], whole[26..34]);
        assert_eq!(pieces::reassemble(&sent).unwrap(), whole[34..]);
    }
    assert_eq!(rig.counters[0].destinations[0].replies.load(), 1);
    assert_settled(&rig);
}

#[test]
fn real_server_is_told_that_its_reply_is_nobodys_only_where_that_is_wanted() {
    for (is_wanted, flags, told) in [(false, ACK, 0), (true, ACK, 1), (true, RST, 0)] {
        let rs = Rs::nat(0, 8080);
        let (limits, config) = (template_limits(), MemoryPortConfig::default());
        let mut rig = Rig::with_ports(1, 1, 64, &limits, &config, true, |counts| {
            let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
            snapshot.options.nat_icmp_send = is_wanted;
            let next_hop = NextHop { interface: InterfaceId(0), mac: None, source: DIP.into() };
            snapshot.routes = Routes::new(vec![Route { network: "10.0.0.0/24".parse().unwrap(), next_hop }]);
            snapshot
        });
        let reply = FrameOf::tcp(rip(&rs, 8080), CIP, flags).sent_by(0);
        let sent = rig.pass_on(0, &reply.padded());
        assert_eq!(sent.len(), told);
        if let Some((_, error)) = sent.first() {
            assert_eq!(error[..12], [rs_mac(0), own_mac(0)].concat());
            assert_eq!((&error[26..30], &error[30..34]), (&DIP[..], &[10, 0, 0, 11][..]));
            assert_eq!(error[34..36], [3, 3]);
        }
        assert_eq!(rig.dropped(DropReason::NoConnection), 1);
        assert_settled(&rig);
    }
}
