//! The host's part of the traffic through taps of the real kernel, in a network namespace of each test's own. Where the
//! machine allows no tap (no root, no /dev/net/tun), the tests say so and pass.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use dataplane::packet::arp::{ArpPacket, REPLY};
use dataplane::packet::ndp::NeighbourMessage;
use director::host_interface::HostThread;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

use crate::rig::{CLIENT_MAC, PORT_MAC, Rig, tagged, until, without_tag};

const CONFIG: &str = r#"
    [director]
    connection_capacity_per_worker = 16384
    real_server_capacity = 64
    metrics_listen = "off"
    [[ports]]
    name = "lan0"
    device = "memory0"
    addresses = ["10.0.0.1/24", "2001:db8::1/64"]
    [[ports.vlans]]
    id = 100
    addresses = ["10.100.0.1/24"]
    mtu = 1400
    host_interface = "vlan100"
    [[services]]
    protocol = "udp"
    address = "10.0.0.10"
    port = 53
    [[services]]
    protocol = "udp"
    address = "2001:db8::10"
    port = 53
"#;

/// Moves the test's thread into a network namespace of its own; false where it may not.
fn has_namespace() -> bool {
    let may = nix::unistd::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    let moved = may && unshare(CloneFlags::CLONE_NEWNET).is_ok();
    if !moved {
        println!("skipped: taps need root and /dev/net/tun");
    }
    moved
}

fn rig(config: &str) -> (Rig, Option<HostThread>) {
    Rig::with_host(config).unwrap_or_else(|error| panic!("{error}"))
}

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address.parse::<SocketAddr>().unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2000];
    match socket.recv_from(&mut buffer) {
        Ok((length, from)) => Some((buffer[..length].to_vec(), from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// A datagram from `source` port 7000 to `destination` port 5000.
fn datagram(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC);
    let mut frame = Vec::new();
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    match (source, destination) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
            let ip = ethernet.ipv4(source.octets(), destination.octets(), 64);
            ip.udp(7000, 5000).write(&mut frame, payload).unwrap();
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
            let ip = ethernet.ipv6(source.octets(), destination.octets(), 64);
            ip.udp(7000, 5000).write(&mut frame, payload).unwrap();
        }
        _ => panic!("two families"),
    }
    frame
}

/// The datagram with this payload among what the director sent: VLAN, destination MAC, destination port.
fn sent(rig: &Rig, payload: &[u8]) -> Option<(u16, [u8; 6], u16)> {
    let network = rig.network.borrow();
    network.sent.iter().find_map(|(_, frame)| {
        let (vlan, untagged) = without_tag(frame);
        let parsed = SlicedPacket::from_ethernet(&untagged).ok()?;
        let Some(TransportSlice::Udp(udp)) = &parsed.transport else { return None };
        let mac = untagged[..6].try_into().unwrap();
        (udp.payload() == payload).then_some((vlan, mac, udp.destination_port()))
    })
}

#[test]
fn host_speaks_with_its_dip_over_the_port_and_resolves_its_own_peers() {
    if !has_namespace() {
        return;
    }
    let (rig, _thread) = rig(CONFIG);
    rig.run(async |rig| {
        let peer: Ipv4Addr = "10.0.0.77".parse().unwrap();
        let socket = socket("10.0.0.1:5000");
        rig.inject(0, &datagram("10.0.0.77", "10.0.0.1", b"to the host"));
        let mut got = None;
        until("a datagram", || {
            got = got.take().or_else(|| received(&socket));
            got.is_some()
        })
        .await;
        assert_eq!(got, Some((b"to the host".to_vec(), SocketAddr::new(peer.into(), 7000))));
        rig.network.borrow_mut().hosts.insert(peer, CLIENT_MAC);
        socket.send_to(b"from the host", (peer, 7000)).unwrap();
        until("the answer on the wire", || sent(rig, b"from the host").is_some()).await;
        assert_eq!(sent(rig, b"from the host"), Some((0, CLIENT_MAC, 7000)));
        let network = rig.network.borrow();
        let (_, request) = network.requests.iter().find(|(_, one)| one.target_address == peer).unwrap();
        assert_eq!(
            (request.sender_mac, request.sender_address.to_string()),
            (PORT_MAC, "10.0.0.1".to_owned())
        );
    });
}

#[test]
fn the_same_over_ipv6() {
    if !has_namespace() {
        return;
    }
    let (rig, _thread) = rig(CONFIG);
    rig.run(async |rig| {
        let peer: Ipv6Addr = "2001:db8::77".parse().unwrap();
        let socket = socket("[2001:db8::1]:5000");
        rig.inject(0, &datagram("2001:db8::77", "2001:db8::1", b"to the host"));
        let mut got = None;
        until("a datagram", || {
            got = got.take().or_else(|| received(&socket));
            got.is_some()
        })
        .await;
        rig.network.borrow_mut().hosts_v6.insert(peer, CLIENT_MAC);
        socket.send_to(b"from the host", (peer, 7000)).unwrap();
        until("the answer on the wire", || sent(rig, b"from the host").is_some()).await;
        assert_eq!(sent(rig, b"from the host"), Some((0, CLIENT_MAC, 7000)));
    });
}

#[test]
fn vlan_has_a_tap_of_its_own_with_the_tag_taken_off_and_put_on() {
    if !has_namespace() {
        return;
    }
    let (rig, _thread) = rig(CONFIG);
    rig.run(async |rig| {
        let peer: Ipv4Addr = "10.100.0.77".parse().unwrap();
        let socket = socket("10.100.0.1:5000");
        rig.inject(0, &tagged(100, &datagram("10.100.0.77", "10.100.0.1", b"in the VLAN")));
        let mut got = None;
        until("a datagram", || {
            got = got.take().or_else(|| received(&socket));
            got.is_some()
        })
        .await;
        rig.network.borrow_mut().hosts.insert(peer, CLIENT_MAC);
        socket.send_to(b"back in the VLAN", (peer, 7000)).unwrap();
        until("the answer on the wire", || sent(rig, b"back in the VLAN").is_some()).await;
        assert_eq!(sent(rig, b"back in the VLAN"), Some((100, CLIENT_MAC, 7000)));
        let status = rig.control.borrow().status();
        assert_eq!(status.ports[0].host_interface.as_deref(), Some("dr-lan0"));
        assert_eq!(status.ports[0].vlans[0].host_interface.as_deref(), Some("vlan100"));
        assert!(!status.warnings.iter().any(|text| text.contains("host interface")), "{:?}", status.warnings);
    });
}

#[test]
fn kernel_answers_nobody_and_looks_for_no_duplicates() {
    if !has_namespace() {
        return;
    }
    let (rig, _thread) = rig(CONFIG);
    rig.run(async |rig| {
        // Longer than the kernel's duplicate address detection takes, and the announcements of the director.
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        let vips = ["10.0.0.10".parse::<Ipv4Addr>().unwrap()];
        let network = rig.network.borrow();
        for (_, frame) in &network.sent {
            let (_, untagged) = without_tag(frame);
            if let Some(packet) = ArpPacket::parse(&untagged) {
                assert!(packet.operation != REPLY && vips.contains(&packet.sender_address), "{packet:?}");
            }
            if let Some(message) = NeighbourMessage::parse(&untagged) {
                assert_eq!(message.target, "2001:db8::10".parse::<Ipv6Addr>().unwrap(), "{message:?}");
            }
        }
        assert!(!network.solicitations.iter().any(|(_, _, message)| message.is_probe()));
        let conflicts = rig.control.borrow().status().warnings;
        assert!(!conflicts.iter().any(|text| text.contains("claimed")), "{conflicts:?}");
    });
}

#[test]
fn taps_are_gone_with_the_director_and_a_name_that_is_taken_is_told() {
    if !has_namespace() {
        return;
    }
    let (first, thread) = rig(CONFIG);
    assert!(if_nametoindex("dr-lan0").is_ok() && if_nametoindex("vlan100").is_ok());
    let error = Rig::with_host(CONFIG).err().unwrap().to_string();
    assert!(error.contains("host_interface \"vlan100\" of lan0.100"), "{error}");
    let second = rig(&CONFIG.replace("host_interface = \"vlan100\"", "host_interface = \"off\""));
    let warnings = second.0.control.borrow().status().warnings;
    assert!(warnings.iter().any(|text| text.contains("no host interface dr-lan0 (")), "{warnings:?}");
    drop((first, thread, second));
    assert!(if_nametoindex("dr-lan0").is_err() && if_nametoindex("vlan100").is_err());
    let (_third, _thread) = rig(CONFIG);
    assert!(if_nametoindex("dr-lan0").is_ok());
}

#[test]
fn no_host_interface_where_the_configuration_wants_none() {
    if !has_namespace() {
        return;
    }
    let none = CONFIG.replace("[director]", "[director]\n    host_packets_per_second = 0");
    let (rig, thread) = rig(&none);
    assert!(thread.is_none() && if_nametoindex("dr-lan0").is_err());
    rig.run(async |rig| {
        rig.inject(0, &datagram("10.0.0.77", "10.0.0.1", b"to nobody"));
        let dropped = || {
            let totals = rig.control.borrow().stats(&Default::default()).unwrap().totals;
            (totals.to_host, totals.drops["no_service"])
        };
        until("a drop", || dropped() == (0, 1)).await;
    });
}

/// What of the network layer the kernel made has good checksums: nothing is left to a NIC.
#[test]
fn packets_of_the_host_are_finished() {
    if !has_namespace() {
        return;
    }
    let (rig, _thread) = rig(CONFIG);
    rig.run(async |rig| {
        let peer: Ipv4Addr = "10.0.0.77".parse().unwrap();
        rig.network.borrow_mut().hosts.insert(peer, CLIENT_MAC);
        let socket = socket("10.0.0.1:5000");
        socket.send_to(&[0x5a; 1400], (peer, 7000)).unwrap();
        until("the datagram", || sent(rig, &[0x5a; 1400]).is_some()).await;
        let network = rig.network.borrow();
        let is_it = |frame: &&(usize, Vec<u8>)| frame.1.len() > 1400;
        let (_, frame) = network.sent.iter().find(is_it).unwrap();
        let parsed = SlicedPacket::from_ethernet(frame).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (&parsed.net, &parsed.transport)
        else {
            panic!("no UDP");
        };
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let expected = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
        assert_eq!(udp.checksum(), expected);
    });
}
