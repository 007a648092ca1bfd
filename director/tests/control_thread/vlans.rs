//! VLANs, gateways and local addresses: what goes out on which interface, with which tag.

use std::net::{Ipv4Addr, Ipv6Addr};

use ctl::protocol::{NeighbourState, RealServerState};
use dataplane::packet::arp::{ArpPacket, REPLY, REQUEST};
use dataplane::packet::ndp::{self, NeighbourMessage};

use crate::rig::{CLIENT_MAC, PORT_MAC, Rig, tagged, tcp, until, without_tag};

/// Clients untagged on port 0, real servers in its VLAN 100 and behind a gateway in VLAN 200 of port 1.
const CONFIG: &str = r#"
    [director]
    connection_capacity_per_worker = 16384
    real_server_capacity = 64
    metrics_listen = "off"
    [[ports]]
    name = "lan0"
    device = "memory0"
    addresses = ["192.0.2.1/24"]
    [[ports.vlans]]
    id = 100
    addresses = ["10.0.0.1/24", "2001:db8:100::1/64"]
    [[ports]]
    name = "lan1"
    device = "memory1"
    [[ports.vlans]]
    id = 200
    addresses = ["10.2.0.1/24"]
    mtu = 1400
    [[routes]]
    network = "203.0.113.0/24"
    gateway = "10.2.0.254"
    [nat]
    local_addresses = ["10.0.0.200", "2001:db8:100::200"]
    [[services]]
    protocol = "tcp"
    address = "192.0.2.10"
    port = 80
    scheduler = "rr"
    real_servers = [{ address = "10.0.0.11" }, { address = "203.0.113.12", forwarding = "tunnel" }]
"#;

const RS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn ipv6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
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

/// ARP packets that the director sent, with port and VLAN.
fn arp_sent(rig: &Rig) -> Vec<(usize, u16, ArpPacket)> {
    let network = rig.network.borrow();
    let packets = network.sent.iter().filter_map(|(port, frame)| {
        let (vlan, untagged) = without_tag(frame);
        Some((*port, vlan, ArpPacket::parse(&untagged)?))
    });
    packets.collect()
}

#[test]
fn real_servers_are_asked_for_in_their_vlan_and_behind_their_gateway() {
    Rig::new(CONFIG, 2).run(async |rig| {
        {
            let mut network = rig.network.borrow_mut();
            network.hosts.insert(address("10.0.0.11"), RS_MAC);
            network.hosts.insert(address("10.2.0.254"), GATEWAY_MAC);
        }
        until("both answers", || {
            ["10.0.0.11", "10.2.0.254"].iter().all(|one| rig.neighbour(one).0 == NeighbourState::Reachable)
        })
        .await;
        let requests = rig.network.borrow().requests.clone();
        let asked =
            |target: &str| requests.iter().find(|(_, one)| one.target_address == address(target)).unwrap().1;
        assert_eq!(asked("10.0.0.11").sender_address, address("10.0.0.1"));
        assert_eq!(asked("10.2.0.254").sender_address, address("10.2.0.1"));
        assert!(!requests.iter().any(|(_, one)| one.target_address == address("203.0.113.12")));
        let neighbours = rig.control.borrow().neighbours_view().neighbours;
        let mut names: Vec<_> = neighbours.iter().map(|one| &*one.interface).collect();
        names.sort_unstable();
        assert_eq!(names, ["lan0.100", "lan1.200"]);
        let show = rig.control.borrow().show(&Default::default()).unwrap();
        let [near, far] = &show.services[0].real_servers[..] else { panic!() };
        assert_eq!((near.gateway, &*near.interface), (None, "lan0.100"));
        assert_eq!((far.gateway, &*far.interface), (Some(address("10.2.0.254").into()), "lan1.200"));
        until("both up", || {
            let show = rig.control.borrow().show(&Default::default()).unwrap();
            show.services[0].real_servers.iter().all(|one| one.state == RealServerState::Up)
        })
        .await;
    });
}

#[test]
fn packet_of_a_client_goes_to_the_real_server_in_its_vlan() {
    Rig::new(CONFIG, 1).run(async |rig| {
        rig.network.borrow_mut().hosts.insert(address("10.0.0.11"), RS_MAC);
        let arrived = || {
            let network = rig.network.borrow();
            let found = network.sent.iter().find(|(port, frame)| *port == 0 && frame[..6] == RS_MAC)?;
            Some(without_tag(&found.1))
        };
        until("a packet", || {
            rig.inject(0, &tcp(PORT_MAC, (address("198.51.100.7"), 1000), (address("192.0.2.10"), 80), "S"));
            arrived().is_some()
        })
        .await;
        let (vlan, frame) = arrived().unwrap();
        assert_eq!((vlan, &frame[12..14]), (100, &[8, 0][..]));
    });
}

#[test]
fn addresses_are_answered_in_their_vlan_alone_and_with_its_tag() {
    Rig::new(CONFIG, 2).run(async |rig| {
        until("announcements", || rig.network.borrow().sent.len() >= 6).await;
        for (port, vlan, target, is_answered) in [
            (0, 100, "10.0.0.1", true),
            (0, 0, "10.0.0.1", false),
            (0, 100, "10.0.0.200", true),
            (0, 0, "10.0.0.200", false),
            (0, 0, "192.0.2.10", true),
            (0, 100, "192.0.2.10", false),
            (1, 200, "10.2.0.1", true),
            (1, 200, "10.0.0.200", false),
        ] {
            rig.take_sent();
            rig.inject(port, &tagged(vlan, &who_has(target, "198.51.100.99")));
            let own = ["192.0.2.1", "10.2.0.1"][port];
            let own_vlan = [0, 200][port];
            let answers = |target: &str| {
                let sent = arp_sent(rig);
                let of = |one: &&(usize, u16, ArpPacket)| {
                    one.2.operation == REPLY && one.2.sender_address == address(target)
                };
                sent.iter().filter(of).map(|(port, vlan, _)| (*port, *vlan)).collect::<Vec<_>>()
            };
            until("the last answer", || {
                rig.inject(port, &tagged(own_vlan, &who_has(own, "198.51.100.98")));
                answers(own).len() >= 2
            })
            .await;
            let expected = if is_answered { vec![(port, vlan)] } else { Vec::new() };
            let mut found = answers(target);
            found.dedup();
            assert_eq!(found, expected, "{target} on port {port}, VLAN {vlan}");
        }
    });
}

#[test]
fn local_addresses_are_announced_in_their_vlan_and_answer_solicitations() {
    Rig::new(CONFIG, 1).run(async |rig| {
        let local = address("10.0.0.200");
        let announced = || {
            arp_sent(rig).iter().any(|(port, vlan, packet)| {
                (*port, *vlan, packet.sender_address, packet.target_address) == (0, 100, local, local)
            })
        };
        until("an announcement", announced).await;
        let local = ipv6("2001:db8:100::200");
        rig.inject(0, &tagged(100, &ndp::solicitation(local, ipv6("fe80::7"), CLIENT_MAC)));
        let answered = || {
            let network = rig.network.borrow();
            network.sent.iter().any(|(port, frame)| {
                let (vlan, untagged) = without_tag(frame);
                let message = NeighbourMessage::parse(&untagged);
                (*port, vlan) == (0, 100)
                    && frame[..6] == CLIENT_MAC
                    && message.is_some_and(|message| message.target == local)
            })
        };
        until("an answer", answered).await;
        rig.change("add-lip", r#"{"address":"10.0.0.201"}"#).await;
        let added = address("10.0.0.201");
        until("its announcement", || {
            arp_sent(rig).iter().any(|(_, vlan, packet)| (*vlan, packet.sender_address) == (100, added))
        })
        .await;
    });
}

#[test]
fn link_local_dip_of_several_vlans_answers_in_each() {
    let own = |id| {
        (format!("id = {id}\n    addresses = ["), format!("id = {id}\n    addresses = [\"fe80::1/64\", "))
    };
    let config =
        [own(100), own(200)].iter().fold(CONFIG.to_owned(), |text, (old, new)| text.replace(old, new));
    Rig::new(&config, 1).run(async |rig| {
        let own = ipv6("fe80::1");
        for (port, vlan) in [(0, 100), (1, 200)] {
            let answered = || {
                rig.inject(port, &tagged(vlan, &ndp::solicitation(own, ipv6("fe80::7"), CLIENT_MAC)));
                rig.network.borrow().sent.iter().any(|(at, frame)| {
                    let (tag, untagged) = without_tag(frame);
                    let message = NeighbourMessage::parse(&untagged);
                    (*at, tag) == (port, vlan)
                        && frame[..6] == CLIENT_MAC
                        && message.is_some_and(|message| message.target == own)
                })
            };
            until("an answer", answered).await;
        }
    });
}

#[test]
fn status_lists_vlans_routes_and_local_addresses() {
    let rig = Rig::new(CONFIG, 1);
    let status = rig.control.borrow().status();
    let [first, second] = &status.ports[..] else { panic!() };
    assert_eq!(first.addresses.len(), 1);
    assert_eq!((first.vlans[0].id, first.vlans[0].addresses.len(), first.vlans[0].mtu), (100, 2, 1500));
    assert!(second.addresses.is_empty());
    assert_eq!((second.vlans[0].id, second.vlans[0].mtu), (200, 1400));
    assert_eq!(first.host_interface, None, "none is made in tests");
    assert_eq!(status.routes.len(), 1);
    assert_eq!(status.nat.local_addresses.len(), 2);
    assert!(status.has_ipv6);
}
