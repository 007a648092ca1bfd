//! ARP and ping through the workers: what the director asks, answers, announces and learns.

use std::net::Ipv4Addr;
use std::time::Duration;

use ctl::protocol::NeighbourState;
use dataplane::packet::arp::{ArpPacket, REPLY, REQUEST};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::rig::{CLIENT_MAC, PORT_MAC, Rig, gratuitous_arp, tcp, until};
use crate::{CONFIG, SERVICE};

const RS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Frames of IPv4 that the director sent to `mac`.
fn forwarded_to(rig: &Rig, mac: [u8; 6]) -> usize {
    let network = rig.network.borrow();
    network.sent.iter().filter(|(_, frame)| frame[..6] == mac && frame[12..14] == [8, 0]).count()
}

/// What the director announced: port and address.
fn announced(rig: &Rig) -> Vec<(usize, Ipv4Addr)> {
    let packet = |(port, frame): &(usize, Vec<u8>)| ArpPacket::parse(frame).map(|packet| (*port, packet));
    let packets = rig.network.borrow().sent.iter().filter_map(packet).collect::<Vec<_>>();
    let gratuitous = packets.iter().filter(|(_, packet)| packet.sender_address == packet.target_address);
    gratuitous.map(|(port, packet)| (*port, packet.sender_address)).collect()
}

fn who_has(target: &str, sender: &str) -> [u8; 60] {
    let packet = ArpPacket {
        operation: REQUEST,
        sender_mac: CLIENT_MAC,
        sender_address: address(sender),
        target_mac: [0; 6],
        target_address: address(target),
    };
    packet.to_frame([0xff; 6], CLIENT_MAC)
}

#[test]
fn real_server_is_asked_for_from_the_dip_and_gets_traffic_when_it_answers() {
    Rig::new(CONFIG, 2).run(async |rig| {
        until("a request", || !rig.network.borrow().requests.is_empty()).await;
        let (destination, request) = rig.network.borrow().requests[0];
        assert_eq!(destination, [0xff; 6]);
        assert_eq!((request.sender_mac, request.sender_address), (PORT_MAC, address("10.0.0.1")));
        assert_eq!(request.target_address, address("10.0.0.11"), "10.0.0.12 has a static MAC");
        for port in 1000..1010 {
            rig.inject(1, &tcp(OUTSIDE_MAC, (address("198.51.100.7"), port), (VIP, 80), "S"));
        }
        until("ten packets", || forwarded_to(rig, [2, 0, 0, 0, 0, 0x12]) == 10).await;
        rig.network.borrow_mut().hosts.insert(address("10.0.0.11"), RS_MAC);
        let newest = || rig.control.borrow().newest_generation();
        until("an answer", || rig.neighbour("10.0.0.11").0 == NeighbourState::Reachable).await;
        until("a snapshot", || newest() == 2 && rig.control.borrow().oldest_running() == 2).await;
        for port in 2000..2010 {
            rig.inject(1, &tcp(OUTSIDE_MAC, (address("198.51.100.7"), port), (VIP, 80), "S"));
        }
        until("five packets each", || forwarded_to(rig, RS_MAC) == 5).await;
    });
}

#[test]
fn gratuitous_arp_of_a_real_server_moves_its_traffic() {
    Rig::new(CONFIG, 2).run(async |rig| {
        rig.network.borrow_mut().hosts.insert(address("10.0.0.11"), RS_MAC);
        until("an answer", || rig.neighbour("10.0.0.11").0 == NeighbourState::Reachable).await;
        rig.change("del-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.12"}}"#)).await;
        until("a snapshot with the MAC", || {
            rig.inject(1, &tcp(OUTSIDE_MAC, (address("198.51.100.7"), 1000), (VIP, 80), "S"));
            forwarded_to(rig, RS_MAC) > 0
        })
        .await;
        rig.inject(0, &gratuitous_arp(NEW_MAC, "10.0.0.11"));
        until("the established connection follows", || {
            rig.inject(1, &tcp(OUTSIDE_MAC, (address("198.51.100.7"), 1000), (VIP, 80), "A"));
            forwarded_to(rig, NEW_MAC) > 0
        })
        .await;
        assert_eq!(rig.neighbour("10.0.0.11").1.as_deref(), Some("02:00:00:00:00:99"));
        rig.inject(0, &gratuitous_arp(NEW_MAC, "10.0.0.12"));
        rig.inject(1, &gratuitous_arp(RS_MAC, "10.0.0.11"));
        rig.inject(0, &gratuitous_arp([0xff; 6], "10.0.0.11"));
        until("all punted", || rig.ports.iter().all(|port| port.waiting(0) == 0 && port.waiting(1) == 0))
            .await;
        assert_eq!(
            rig.neighbour("10.0.0.11").1.as_deref(),
            Some("02:00:00:00:00:99"),
            "another port, a group MAC"
        );
        assert_eq!(rig.neighbour("10.0.0.12").0, NeighbourState::Static);
    });
}

#[test]
fn vip_and_dip_are_answered_on_their_ports() {
    Rig::new(CONFIG, 2).run(async |rig| {
        for (port, target, is_answered) in [
            (1, "192.0.2.10", true),
            (0, "192.0.2.10", false),
            (0, "198.51.100.10", true),
            (1, "198.51.100.10", true),
            (0, "10.0.0.1", true),
            (1, "10.0.0.1", false),
            (1, "192.0.2.77", false),
        ] {
            until("announcements", || announced(rig).len() >= 3).await;
            let punted = || rig.control.borrow().stats(&Default::default()).unwrap().totals;
            let before = punted();
            rig.inject(port, &who_has(target, "192.0.2.7"));
            until("received", || punted().received > before.received).await;
            let reply_in = |(number, frame): &(usize, Vec<u8>)| {
                let packet = ArpPacket::parse(frame)?;
                (*number == port && packet.operation == REPLY && packet.sender_address == address(target))
                    .then_some((packet, frame[..12].to_vec()))
            };
            let found = || rig.network.borrow().sent.iter().find_map(reply_in);
            // What comes after an answer that should not be there is answered later than it.
            rig.inject(0, &who_has("10.0.0.1", "10.0.0.99"));
            let is_last = |(_, frame): &(usize, Vec<u8>)| {
                ArpPacket::parse(frame).is_some_and(|packet| packet.target_address == address("10.0.0.99"))
            };
            until("the last answer", || rig.network.borrow().sent.iter().any(is_last)).await;
            if is_answered {
                until("an answer", || found().is_some()).await;
            }
            assert_eq!(found().is_some(), is_answered, "{target} on port {port}");
            if let Some((packet, macs)) = found() {
                let mac = [PORT_MAC, OUTSIDE_MAC][port];
                assert_eq!((packet.sender_mac, packet.target_mac), (mac, CLIENT_MAC));
                assert_eq!(macs, [CLIENT_MAC, mac].concat());
            }
            rig.network.borrow_mut().sent.retain(|(_, frame)| frame[..6] == [0xff; 6]);
        }
    });
}

#[test]
fn vip_is_announced_at_start_and_when_added_and_no_other_time() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let far = address("198.51.100.10");
        let at_start = [(1, VIP), (0, far), (1, far)];
        until("announcements at start", || announced(rig).len() == 3).await;
        let mut seen = announced(rig);
        seen.sort_unstable_by_key(|(port, vip)| (*vip, *port));
        assert_eq!(seen, at_start);
        until("the same again", || announced(rig).len() == 6).await;
        rig.take_sent();
        rig.change("add-vip", r#"{"protocol":"tcp","address":"192.0.2.10","port":443}"#).await;
        rig.change("add-vip", r#"{"protocol":"tcp","address":"192.0.2.11","port":80}"#).await;
        until("the new address", || announced(rig).len() == 2).await;
        assert_eq!(announced(rig), [(1, address("192.0.2.11")); 2]);
    });
}

#[test]
fn vip_is_announced_again_where_a_link_comes_up() {
    Rig::new(CONFIG, 1).run(async |rig| {
        until("announcements", || announced(rig).len() == 6).await;
        rig.ports[1].set_link(false);
        tokio::time::sleep(Duration::from_millis(300)).await;
        rig.take_sent();
        rig.ports[1].set_link(true);
        until("the same twice", || announced(rig).len() >= 4).await;
        let mut seen = announced(rig);
        seen.truncate(4);
        let behind_it = [(1, VIP), (1, address("198.51.100.10"))];
        assert_eq!(seen, [behind_it, behind_it].concat());
    });
}

#[test]
fn ping_to_vip_and_dip_is_answered() {
    Rig::new(CONFIG, 2).run(async |rig| {
        for (port, target) in [(1, "192.0.2.10"), (1, "192.0.2.1"), (0, "10.0.0.1")] {
            rig.take_sent();
            let mac = [PORT_MAC, OUTSIDE_MAC][port];
            let mut ping = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, mac)
                .ipv4([192, 0, 2, 7], address(target).octets(), 64)
                .icmpv4_echo_request(7, 9)
                .write(&mut ping, b"are you there?")
                .unwrap();
            rig.inject(port, &ping);
            let reply = || {
                let network = rig.network.borrow();
                let frame = network
                    .sent
                    .iter()
                    .find(|(number, frame)| *number == port && frame[..6] == CLIENT_MAC)?;
                let parsed = SlicedPacket::from_ethernet(&frame.1).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &parsed.net else { return None };
                let Some(TransportSlice::Icmpv4(icmp)) = &parsed.transport else { return None };
                Some((ip.header().source_addr(), icmp.type_u8(), icmp.payload().to_vec()))
            };
            until("an echo reply", || reply().is_some()).await;
            assert_eq!(reply(), Some((address(target), 0, b"are you there?".to_vec())));
        }
    });
}

#[test]
fn claim_of_a_vip_is_shown_as_a_warning() {
    Rig::new(CONFIG, 1).run(async |rig| {
        rig.inject(1, &gratuitous_arp(NEW_MAC, "192.0.2.10"));
        let warned = || {
            let warnings = rig.control.borrow().status().warnings;
            warnings.iter().any(|text| text.contains("192.0.2.10 is claimed by 02:00:00:00:00:99"))
        };
        until("a warning", warned).await;
    });
}

#[test]
fn link_down_is_shown_as_a_warning() {
    let rig = Rig::new(CONFIG, 1);
    let has_warning =
        || rig.control.borrow().status().warnings.iter().any(|text| text == "port outside: link down");
    assert!(!has_warning());
    rig.ports[1].set_link(false);
    assert!(has_warning());
}

#[test]
fn arp_flood_is_a_counted_drop_and_the_director_answers_on() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let flood = who_has("192.0.2.10", "192.0.2.7");
        for _ in 0..20_000 {
            rig.ports[1].inject(0, &flood);
            if rig.ports[1].waiting(0) > 900 {
                tokio::task::yield_now().await;
            }
        }
        until("all received", || rig.ports[1].waiting(0) == 0).await;
        rig.take_sent();
        rig.inject(0, &who_has("10.0.0.1", "10.0.0.99"));
        let is_answer = |(port, frame): &(usize, Vec<u8>)| *port == 0 && frame[..6] == CLIENT_MAC;
        until("an answer", || {
            rig.inject(0, &who_has("10.0.0.1", "10.0.0.99"));
            rig.network.borrow().sent.iter().any(is_answer)
        })
        .await;
        let totals = rig.control.borrow().stats(&Default::default()).unwrap().totals;
        assert_eq!(totals.received, totals.forwarded + totals.punted + totals.drops.values().sum::<u64>());
    });
}
