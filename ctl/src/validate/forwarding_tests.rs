//! Tests of the rules for forwarding methods and local addresses: each with its exact place and text.

use super::network_tests::{assert_problem, good, ip, problems_of, texts};
use super::tests::own;
use super::*;
use crate::config::{
    ClientAddress, Forwarding, Protocol, RealServerId, TunnelChecksum, TunnelConfig, TunnelType,
    VirtualAddress,
};

#[test]
fn a_port_is_of_nat_alone() {
    let set = |forwarding, port| {
        move |config: &mut Config| {
            let real_server = &mut config.services[0].real_servers[0];
            (real_server.forwarding, real_server.port) = (forwarding, Some(port));
        }
    };
    for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
        assert_eq!(problems_of(set(forwarding, 81)), [""; 0]);
        assert_problem(set(forwarding, 0), "services[0].real_servers[0].port: 0 is no port");
    }
    for forwarding in [Forwarding::Dr, Forwarding::Tunnel] {
        assert_problem(
            set(forwarding, 81),
            &format!(
                "services[0].real_servers[0].port: 81 is given, and forwarding by {forwarding} keeps the client's port"
            ),
        );
    }
}

#[test]
fn a_real_server_is_named_by_address_and_port() {
    assert_problem(
        |config| {
            let mut twin = config.services[0].real_servers[1].clone();
            twin.weight = 7;
            config.services[0].real_servers.push(twin);
        },
        "services[0].real_servers[4].address: 10.0.0.11:8080 is at services[0].real_servers[1] already",
    );
    // The service's own port is as good as none.
    assert_problem(
        |config| {
            config.services[0].real_servers[1].port = Some(80);
        },
        "services[0].real_servers[1].address: 10.0.0.11 is at services[0].real_servers[0] already",
    );
    let text = r#"
        [[services]]
        protocol = "tcp"
        address = "192.0.2.10"
        port = 80
        real_servers = [{ address = "10.0.0.11", port = 80 }]
    "#;
    let config = Config::from_toml(text, "own.toml").unwrap();
    assert_eq!(config.services[0].real_servers[0].port, None);
    let id = RealServerId { address: ip("10.0.0.11"), port: Some(80) };
    assert!(config.services[0].real_server(id).is_some());
}

#[test]
fn a_tunnel_has_what_its_type_has() {
    let set = |kind, port, checksum| {
        move |config: &mut Config| {
            config.services[0].real_servers[3].tunnel = Some(TunnelConfig { kind, port, checksum });
        }
    };
    use TunnelChecksum::{Csum, None as No, Remcsum};
    use TunnelType::{Gre, Gue, Ipip};
    for (kind, port, checksum) in [
        (Ipip, None, No),
        (Gre, None, No),
        (Gre, None, Csum),
        (Gue, Some(1), No),
        (Gue, Some(65535), Remcsum),
    ] {
        assert_eq!(problems_of(set(kind, port, checksum)), [""; 0]);
    }
    for (kind, port, checksum, problem) in [
        (Gue, None, No, "port: it is missing, and gue needs one"),
        (Gue, Some(0), No, "port: 0 is no port"),
        (Ipip, Some(6080), No, "port: ipip has no port"),
        (Gre, Some(6080), No, "port: gre has no port"),
        (Ipip, None, Csum, "checksum: ipip has no checksum"),
        (Ipip, None, Remcsum, "checksum: ipip has no checksum"),
        (Gre, None, Remcsum, "checksum: gre has no remote checksum"),
    ] {
        assert_problem(set(kind, port, checksum), &format!("services[0].real_servers[3].tunnel.{problem}"));
    }
    assert_problem(
        |config| config.services[0].real_servers[1].tunnel = config.services[0].real_servers[3].tunnel,
        "services[0].real_servers[1].tunnel: it is given, and forwarding is nat",
    );
}

#[test]
fn clients_addresses_are_handed_on_under_full_nat_and_tcp() {
    for (forwarding, how) in [(Forwarding::Nat, ClientAddress::Toa), (Forwarding::Dr, ClientAddress::ProxyV2)]
    {
        let spoil = |config: &mut Config| {
            let real_server = &mut config.services[0].real_servers[1];
            (real_server.forwarding, real_server.client_address, real_server.port) = (forwarding, how, None);
            config.services[0].real_servers.remove(0);
        };
        let problem = format!(
            "services[0].real_servers[0].client_address: {how} is of full NAT, and forwarding by {forwarding} leaves the \
             client's address as it is"
        );
        assert_problem(spoil, &problem);
    }
    assert_problem(
        |config| own(&mut config.services[0]).protocol = Protocol::Sctp,
        "services[0].real_servers[2].client_address: toa is of TCP, and the service has sctp 192.0.2.10:80",
    );
    let mut config = good();
    config.services[2].real_servers = vec![RealServerConfig {
        forwarding: Forwarding::FullNat,
        client_address: ClientAddress::ProxyV2,
        ..RealServerConfig::new(ip("2001:db8::14"))
    }];
    assert_eq!(validate(&config), Ok(()));
    let member = VirtualAddress { protocol: Protocol::Udp, address: ip("2001:db8:7::11"), port: 80 };
    let new = OneMember { group: "six".parse().unwrap(), member };
    assert_eq!(
        texts(validate_new_member(&Surroundings::of(&config), &config.services, &new)),
        [(
            ErrorCode::Invalid,
            "member.client_address: proxy-v2 is of TCP, and the service has udp [2001:db8:7::11]:80"
                .to_owned()
        )]
    );
}

#[test]
fn a_tunnel_through_a_link_local_gateway_needs_an_address_to_come_from() {
    let link_local_alone = |config: &mut Config| {
        config.ports[0].addresses.retain(|network| network.addr().is_ipv4());
        config.ports[0].vlans[1].addresses = vec!["fe80::2/64".parse().unwrap()];
        config.services.truncate(1);
        config.nat.as_mut().unwrap().local_addresses.truncate(1);
    };
    let problem = "address: 2001:db8:9::13 is behind the gateway fe80::9, and the director has no IPv6 address but \
                   link-local ones, from which no router takes a tunnel's packets";
    assert_problem(link_local_alone, &format!("services[0].real_servers[3].{problem}"));
    let mut config = good();
    link_local_alone(&mut config);
    let service = &config.services[0];
    let changed = validate_changed_real_server(&Surroundings::of(&config), service, &service.real_servers[3]);
    assert_eq!(texts(changed), [(ErrorCode::Invalid, problem.to_owned())]);
    config.ports[1].vlans[0].addresses.push("2001:db8:3::1/64".parse().unwrap());
    assert_eq!(validate(&config), Ok(()), "any interface's will do");
}

#[test]
fn full_nat_needs_a_local_address_of_its_family_and_keeps_connections() {
    let without = |config: &mut Config| {
        config.nat.as_mut().unwrap().local_addresses.remove(0);
    };
    let problem = "services[0].real_servers[2].forwarding: fullnat needs an IPv4 address in nat.local_addresses, and there is none";
    assert_problem(without, problem);
    assert_problem(|config| config.nat = None, problem);
    // `apply` of services alone: the daemon knows its addresses.
    let alone = |config: &mut Config| {
        config.nat = None;
        config.ports.clear();
    };
    assert_eq!(problems_of(alone), [""; 0]);
    assert_problem(
        |config| {
            own(&mut config.services[0]).protocol = Protocol::Udp;
            config.services[0].one_packet = true;
            config.services[0].real_servers[2].client_address = ClientAddress::None;
        },
        "services[0].real_servers[2].forwarding: fullnat keeps a local port for each client, which a one-packet service has \
         no connection for",
    );
}

#[test]
fn a_local_address_is_a_free_one_of_a_connected_network() {
    for (address, reason) in [
        ("10.0.0.1", "the director's own address (DIP) on port lan0".to_owned()),
        ("192.0.2.10", "the VIP of tcp 192.0.2.10:80".to_owned()),
        ("10.0.0.11", "a real server of tcp 192.0.2.10:80".to_owned()),
        ("10.1.0.254", "the gateway of the route to 10.9.0.0/16".to_owned()),
        ("10.0.0.0", "the network address of 10.0.0.0/24 on port lan0".to_owned()),
        ("fe80::7", "a link-local address (fe80::/10), which is no local address".to_owned()),
        ("224.0.0.7", "a multicast address (224.0.0.0/4), which is no local address".to_owned()),
    ] {
        let config = good();
        let new = validate_new_local_address(&Surroundings::of(&config), &config.services, ip(address));
        assert_eq!(texts(new), [(ErrorCode::Invalid, format!("address: {address} is {reason}"))]);
        let problems = problems_of(|config| config.nat.as_mut().unwrap().local_addresses.push(ip(address)));
        assert_eq!(problems[0], format!("nat.local_addresses[2]: {address} is {reason}"));
    }
    // Behind a route nobody would answer for it.
    let problems = problems_of(|config| config.nat.as_mut().unwrap().local_addresses.push(ip("10.9.0.7")));
    assert!(problems[0].starts_with("nat.local_addresses[2]: 10.9.0.7 is in no directly connected network"));
    assert_problem(
        |config| config.nat.as_mut().unwrap().local_addresses.push(ip("10.0.0.200")),
        "nat.local_addresses[2]: 10.0.0.200 is at nat.local_addresses[0] already",
    );
    let mut config = good();
    config.nat.as_mut().unwrap().local_addresses =
        (0..1025u32).map(|number| std::net::Ipv4Addr::from(0x0a02_0000 + number).into()).collect();
    config.ports[1].vlans[0].addresses = vec!["10.2.255.1/16".parse().unwrap()];
    let problems = validate(&config).unwrap_err();
    assert_eq!(problems[0].to_string(), "nat.local_addresses: 1025 local addresses are over 1024");
}

#[test]
fn the_last_local_address_that_full_nat_needs_stays() {
    let config = good();
    let judge = |address| {
        texts(validate_removed_local_address(&Surroundings::of(&config), &config.services, ip(address)))
    };
    assert_eq!(judge("2001:db8::200"), []);
    assert_eq!(
        judge("10.0.0.200"),
        [(
            ErrorCode::Invalid,
            "address: 10.0.0.200 is the last IPv4 local address, and real servers of tcp 192.0.2.10:80 are behind full NAT"
                .to_owned()
        )]
    );
}

#[test]
fn a_changed_forwarding_method_is_judged_and_drops_what_the_old_one_had() {
    let config = good();
    let surroundings = Surroundings::of(&config);
    let service = &config.services[0];
    let judge =
        |changed: &RealServerConfig| texts(validate_changed_real_server(&surroundings, service, changed));
    let mut full_nat = service.real_servers[2].clone();
    full_nat.set_forwarding(Some(Forwarding::Nat), None, None);
    assert_eq!((full_nat.client_address, judge(&full_nat)), (ClientAddress::None, vec![]));
    let mut tunnel = service.real_servers[3].clone();
    tunnel.set_forwarding(None, Some(TunnelConfig::default()), None);
    assert_eq!((tunnel.tunnel, tunnel.tunnel()), (None, Some(TunnelConfig::default())));
    tunnel.set_forwarding(Some(Forwarding::Dr), None, None);
    assert_eq!(
        judge(&tunnel),
        [(ErrorCode::Invalid, "address: 2001:db8:9::13 is IPv6, and tcp 192.0.2.10:80 is IPv4".to_owned())]
    );
    let mut nat = service.real_servers[1].clone();
    nat.set_forwarding(Some(Forwarding::Dr), None, None);
    assert_eq!(
        judge(&nat),
        [(
            ErrorCode::Invalid,
            "port: 8080 is given, and forwarding by dr keeps the client's port".to_owned()
        )]
    );
}
