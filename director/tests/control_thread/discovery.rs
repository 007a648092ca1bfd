//! Neighbour discovery and ping of IPv6 through the workers: what the director asks, answers, announces and learns.

use std::net::Ipv6Addr;

use ctl::protocol::NeighbourState;
use dataplane::packet::ndp::{self, NeighbourKind, NeighbourMessage};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::rig::{CLIENT_MAC, PORT_MAC, Rig, tcp_v6, until};

const CONFIG: &str = r#"
    [director]
    connection_capacity_per_worker = 16384
    real_server_capacity = 64
    metrics_listen = "off"
    [[ports]]
    name = "inside"
    device = "memory0"
    addresses = ["2001:db8:1::1/64"]
    [[ports]]
    name = "outside"
    device = "memory1"
    addresses = ["2001:db8::1/64", "192.0.2.1/24"]
    [[services]]
    protocol = "tcp"
    address = "2001:db8::10"
    port = 80
    scheduler = "rr"
    real_servers = [{ address = "2001:db8:1::11" }, { address = "2001:db8:1::12", mac = "02:00:00:00:00:12" }]
    [[services]]
    protocol = "tcp"
    address = "2001:db8:2::10"
    port = 80
    real_servers = [{ address = "2001:db8:1::12", mac = "02:00:00:00:00:12" }]
"#;

const SERVICE: &str = r#""service":{"protocol":"tcp","address":"2001:db8::10","port":80}"#;
const RS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn forwarded_to(rig: &Rig, mac: [u8; 6]) -> usize {
    let network = rig.network.borrow();
    network.sent.iter().filter(|(_, frame)| frame[..6] == mac && frame[12..14] == [0x86, 0xdd]).count()
}

/// Advertisements that nobody asked for, with their port.
fn announced(rig: &Rig) -> Vec<(usize, Ipv6Addr)> {
    let network = rig.network.borrow();
    let message = |(port, frame): &(usize, Vec<u8>)| Some((*port, NeighbourMessage::parse(frame)?));
    let messages = network.sent.iter().filter_map(message);
    messages
        .filter(|(_, message)| message.destination == ndp::ALL_NODES)
        .map(|(port, message)| (port, message.target))
        .collect()
}

fn syn(rig: &Rig, client_port: u16) {
    let (client, vip) = ((address("2001:db8:f::7"), client_port), (address("2001:db8::10"), 80));
    rig.inject(1, &tcp_v6(OUTSIDE_MAC, client, vip));
}

#[test]
fn real_server_is_solicited_from_the_dip_and_gets_traffic_when_it_answers() {
    Rig::new(CONFIG, 2).run(async |rig| {
        until("a solicitation", || !rig.network.borrow().solicitations.is_empty()).await;
        let (destination, vlan, question) = rig.network.borrow().solicitations[0];
        let rs = address("2001:db8:1::11");
        assert_eq!(destination, ndp::multicast_mac(ndp::solicited_node(rs)));
        assert_eq!((vlan, question.source_mac, question.source), (0, PORT_MAC, address("2001:db8:1::1")));
        assert_eq!(question.target, rs, "2001:db8:1::12 has a static MAC");
        (1000..1010).for_each(|port| syn(rig, port));
        until("ten packets", || forwarded_to(rig, [2, 0, 0, 0, 0, 0x12]) == 10).await;
        rig.network.borrow_mut().hosts_v6.insert(rs, RS_MAC);
        until("an answer", || rig.neighbour("2001:db8:1::11").0 == NeighbourState::Reachable).await;
        until("a snapshot", || rig.control.borrow().oldest_running() == 2).await;
        (2000..2010).for_each(|port| syn(rig, port));
        until("five packets each", || forwarded_to(rig, RS_MAC) == 5).await;
    });
}

#[test]
fn real_server_that_moves_says_so_and_is_probed() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let rs = address("2001:db8:1::11");
        rig.network.borrow_mut().hosts_v6.insert(rs, RS_MAC);
        until("an answer", || rig.neighbour("2001:db8:1::11").0 == NeighbourState::Reachable).await;
        rig.network.borrow_mut().hosts_v6.insert(rs, NEW_MAC);
        rig.network.borrow_mut().solicitations.clear();
        rig.inject(0, &ndp::unsolicited_advertisement(rs, NEW_MAC));
        until("the new MAC", || rig.neighbour("2001:db8:1::11").1.as_deref() == Some("02:00:00:00:00:99"))
            .await;
        until("a probe", || !rig.network.borrow().solicitations.is_empty()).await;
        assert_eq!(rig.network.borrow().solicitations[0].0, NEW_MAC, "to it alone");
        until("its answer", || rig.neighbour("2001:db8:1::11").0 == NeighbourState::Reachable).await;
    });
}

#[test]
fn vip_dip_and_link_local_address_are_answered_on_their_ports() {
    Rig::new(CONFIG, 2).run(async |rig| {
        for (port, target, is_answered) in [
            (1, "2001:db8::10", true),
            (0, "2001:db8::10", false),
            (0, "2001:db8:2::10", true),
            (1, "2001:db8:2::10", true),
            (0, "2001:db8:1::1", true),
            (1, "2001:db8:1::1", false),
            (0, "fe80::ff:fe00:100", true),
            (1, "fe80::ff:fe00:101", true),
            (1, "fe80::ff:fe00:100", false),
            (1, "2001:db8::77", false),
        ] {
            let answers = |port: usize, target: &str| {
                let (number, target) = (port, address(target));
                let network = rig.network.borrow();
                let is_answer = |(port, frame): &(usize, Vec<u8>)| {
                    let message = NeighbourMessage::parse(frame);
                    *port == number
                        && message.is_some_and(|message| message.target == target)
                        && frame[..12] == [CLIENT_MAC, [PORT_MAC, OUTSIDE_MAC][number]].concat()
                };
                network.sent.iter().filter(|sent| is_answer(sent)).count()
            };
            rig.take_sent();
            rig.inject(port, &ndp::solicitation(address(target), address("fe80::7"), CLIENT_MAC));
            // What comes after an answer that should not be there is answered later than it.
            let last = ["2001:db8:1::1", "2001:db8::1"][port];
            until("the last answer", || {
                rig.inject(port, &ndp::solicitation(address(last), address("fe80::8"), CLIENT_MAC));
                answers(port, last) >= 2
            })
            .await;
            assert_eq!(answers(port, target) > 0, is_answered || target == last, "{target} on port {port}");
        }
    });
}

#[test]
fn who_looks_for_duplicates_of_a_vip_is_told_that_it_is_taken() {
    Rig::new(CONFIG, 1).run(async |rig| {
        until("announcements", || announced(rig).len() >= 6).await;
        rig.take_sent();
        rig.inject(1, &ndp::duplicate_address_probe(address("2001:db8::10"), NEW_MAC));
        until("an answer to all", || announced(rig) == [(1, address("2001:db8::10"))]).await;
        let warned = || {
            let warnings = rig.control.borrow().status().warnings;
            warnings.iter().any(|text| text.contains("2001:db8::10 is claimed by 02:00:00:00:00:99"))
        };
        until("a warning", warned).await;
    });
}

#[test]
fn vip_is_announced_twice_at_start_and_when_added() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let far = address("2001:db8:2::10");
        until("announcements at start", || announced(rig).len() == 3).await;
        let mut seen = announced(rig);
        seen.sort_unstable_by_key(|(port, vip)| (*vip, *port));
        assert_eq!(seen, [(1, address("2001:db8::10")), (0, far), (1, far)]);
        until("the same again", || announced(rig).len() == 6).await;
        rig.take_sent();
        rig.change("add-vip", r#"{"protocol":"tcp","address":"2001:db8::11","port":80}"#).await;
        until("the new address", || announced(rig).len() == 2).await;
        assert_eq!(announced(rig), [(1, address("2001:db8::11")); 2]);
        let network = rig.network.borrow();
        let message = network.sent.iter().find_map(|(_, frame)| NeighbourMessage::parse(frame)).unwrap();
        let kind = NeighbourKind::Advertisement { is_router: false, is_solicited: false, overrides: true };
        assert_eq!((message.kind, message.link_address), (kind, Some(OUTSIDE_MAC)));
    });
}

#[test]
fn ping_to_vip_dip_and_link_local_address_is_answered() {
    Rig::new(CONFIG, 2).run(async |rig| {
        for (port, target) in
            [(1, "2001:db8::10"), (1, "2001:db8::1"), (0, "2001:db8:1::1"), (0, "fe80::ff:fe00:100")]
        {
            rig.take_sent();
            let mut ping = Vec::new();
            PacketBuilder::ethernet2(CLIENT_MAC, [PORT_MAC, OUTSIDE_MAC][port])
                .ipv6(address("2001:db8::7").octets(), address(target).octets(), 64)
                .icmpv6_echo_request(7, 9)
                .write(&mut ping, b"are you there?")
                .unwrap();
            rig.inject(port, &ping);
            let reply = || {
                let network = rig.network.borrow();
                let is_reply =
                    |(number, frame): &&(usize, Vec<u8>)| *number == port && frame[..6] == CLIENT_MAC;
                let (_, frame) = network.sent.iter().find(is_reply)?;
                let parsed = SlicedPacket::from_ethernet(frame).unwrap();
                let Some(NetSlice::Ipv6(ip)) = &parsed.net else { return None };
                let Some(TransportSlice::Icmpv6(icmp)) = &parsed.transport else { return None };
                Some((ip.header().source_addr(), icmp.type_u8(), icmp.payload().to_vec()))
            };
            until("an echo reply", || reply().is_some()).await;
            assert_eq!(reply(), Some((address(target), 129, b"are you there?".to_vec())));
        }
    });
}

#[test]
fn service_of_ipv6_is_refused_where_the_tables_have_no_room() {
    const WITHOUT: &str = r#"
        [director]
        metrics_listen = "off"
        [[ports]]
        name = "inside"
        device = "memory0"
        addresses = ["10.0.0.1/24"]
    "#;
    let add = r#"{"protocol":"tcp","address":"2001:db8::11","port":80}"#;
    Rig::new(WITHOUT, 1).run(async |rig| {
        let error = rig.command("add-vip", add).await.unwrap_err();
        assert!(error.help.unwrap().contains("director.ipv6"), "{}", error.message);
        assert!(!rig.control.borrow().status().has_ipv6);
    });
    Rig::new(&WITHOUT.replace("[director]", "[director]\nipv6 = \"on\""), 1).run(async |rig| {
        rig.change("add-vip", add).await;
        assert!(rig.control.borrow().status().has_ipv6);
    });
}

#[test]
fn connections_and_neighbours_of_ipv6_are_listed() {
    Rig::new(CONFIG, 2).run(async |rig| {
        rig.network.borrow_mut().hosts_v6.insert(address("2001:db8:1::11"), RS_MAC);
        until("an answer", || rig.neighbour("2001:db8:1::11").0 == NeighbourState::Reachable).await;
        let neighbours = rig.control.borrow().neighbours_view().neighbours;
        let names: Vec<_> = neighbours.iter().map(|one| (&*one.interface, one.address.to_string())).collect();
        assert_eq!(names, [("inside", "2001:db8:1::11".to_owned()), ("inside", "2001:db8:1::12".to_owned())]);
        rig.change("del-rs", &format!(r#"{{{SERVICE},"real_server":"2001:db8:1::12"}}"#)).await;
        until("a connection", || {
            syn(rig, 1000);
            forwarded_to(rig, RS_MAC) > 0
        })
        .await;
        let listed = rig.command("connections", r#"{"client":"2001:db8:f::/48"}"#).await.unwrap();
        let director::commands::Answer::Connections(connections) = listed.answer else { panic!() };
        assert_eq!(connections.matching, 1);
        let row = &connections.connections[0];
        assert_eq!((row.client_address, row.client_port), (address("2001:db8:f::7").into(), 1000));
        assert_eq!((row.virtual_address, row.virtual_port), (address("2001:db8::10").into(), 80));
        assert_eq!((row.real_server, row.real_server_port), (address("2001:db8:1::11").into(), 80));
    });
}
