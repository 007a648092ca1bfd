//! Tests of the rules for IPv6, VLANs, routes, forwarding methods and local addresses: each with its exact place and text.

use super::tests::own;
use super::*;
use crate::config::{
    Family, Forwarding, HostInterface, Ipv6, Netmask, Persistence, Protocol, Qinq, VirtualAddress, VlanConfig,
};

/// Both families, VLANs, routes, every forwarding method.
pub(super) fn good() -> Config {
    let text = r#"
        [[ports]]
        name = "lan0"
        device = "net_af_packet0,iface=eth1"
        addresses = ["10.0.0.1/24", "2001:db8::1/64", "fe80::1/64"]
        [[ports.vlans]]
        id = 100
        addresses = ["10.1.0.1/24", "fe80::1/64"]
        [[ports.vlans]]
        id = 200
        addresses = ["2001:db8:2::1/64"]
        mtu = 1400
        [[ports]]
        name = "lan1"
        device = "0000:03:00.0"
        [[ports.vlans]]
        id = 100
        addresses = ["10.2.0.1/24"]

        [[routes]]
        network = "10.9.0.0/16"
        gateway = "10.1.0.254"
        interface = "lan0.100"
        [[routes]]
        network = "2001:db8:9::/48"
        gateway = "fe80::9"
        interface = "lan0.200"
        [[routes]]
        network = "10.9.9.0/24"
        gateway = "10.0.0.254"

        [nat]
        local_addresses = ["10.0.0.200", "2001:db8::200"]

        [[services]]
        protocol = "tcp"
        address = "192.0.2.10"
        port = 80
        real_servers = [
            { address = "10.0.0.11" },
            { address = "10.0.0.11", port = 8080, forwarding = "nat" },
            { address = "10.9.1.12", forwarding = "fullnat", client_address = "toa" },
            { address = "2001:db8:9::13", forwarding = "tunnel", tunnel = { type = "gue", port = 6080 } },
        ]
        [[services]]
        protocol = "tcp"
        address = "2001:db8:7::10"
        port = 443
        persistence = { prefix_length = 64 }
        real_servers = [
            { address = "2001:db8::11" },
            { address = "2001:db8:9::12", forwarding = "nat" },
            { address = "10.2.0.13", forwarding = "tunnel" },
        ]
        [[services]]
        group = "six"
        fwmark = 7
        members = [{ protocol = "tcp", address = "2001:db8:7::11", port = 80 }]
    "#;
    Config::from_toml(text, "good.toml").unwrap()
}

pub(super) fn problems_of(spoil: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = good();
    spoil(&mut config);
    let problems = validate(&config).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| problem.help.is_some()), "{problems:?}");
    problems.iter().map(Problem::to_string).collect()
}

#[track_caller]
pub(super) fn assert_problem(spoil: impl FnOnce(&mut Config), problem: &str) {
    assert_eq!(problems_of(spoil), [problem]);
}

pub(super) fn texts(problems: Vec<Problem>) -> Vec<(ErrorCode, String)> {
    problems.iter().map(|problem| (problem.code, problem.to_string())).collect()
}

fn vlan(id: u16, addresses: &[&str]) -> VlanConfig {
    VlanConfig {
        id,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: None,
        host_interface: HostInterface::Auto,
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_is_good_has_no_problem() {
    assert_eq!(problems_of(|_| {}), [""; 0]);
    assert_eq!(validate_for_start(&good()), Ok(()));
    assert_eq!(Config::from_toml(&good().to_toml(), "again").unwrap(), good());
}

#[test]
fn there_is_room_for_ipv6_where_something_needs_it() {
    assert!(good().has_ipv6());
    let mut config = good();
    for port in &mut config.ports {
        port.addresses.retain(|network| network.addr().is_ipv4());
        port.vlans.iter_mut().for_each(|vlan| vlan.addresses.retain(|network| network.addr().is_ipv4()));
    }
    assert!(config.has_ipv6(), "the services need it");
    config.services.truncate(1);
    assert!(!config.has_ipv6(), "an outer header is no connection's");
    config.director.ipv6 = Ipv6::On;
    assert!(config.has_ipv6());
    assert_problem(
        |config| {
            config.director.ipv6 = Ipv6::Off;
            config.services.truncate(2);
        },
        "services[1].address: 2001:db8:7::10 is IPv6, for which the connection tables have no room",
    );
}

#[test]
fn frames_with_two_tags_pass_to_a_host_interface_only() {
    let problem = "ports[0].qinq: the untagged side of port lan0 has no host interface to pass frames to";
    let pass = |host_interface| {
        move |config: &mut Config| {
            config.ports[0].qinq = Qinq::Pass;
            config.ports[0].host_interface = host_interface;
        }
    };
    assert_eq!(problems_of(pass(HostInterface::Auto)), [""; 0]);
    assert_problem(pass(HostInterface::Off), problem);
}

#[test]
fn numbers_of_the_director_out_of_range_are_refused() {
    type Spoil = fn(&mut DirectorConfig);
    let cases: [(Spoil, &str); 4] = [
        (
            |d| d.host_packets_per_second = 10_000_001,
            "director.host_packets_per_second: 10000001 is over 10000000",
        ),
        (
            |d| d.icmp_packets_per_second = 1_000_001,
            "director.icmp_packets_per_second: 1000001 is over 1000000",
        ),
        (|d| d.fragment_capacity_per_worker = 0, "director.fragment_capacity_per_worker: 0 is under 1"),
        (
            |d| d.fragment_capacity_per_worker = 1_048_577,
            "director.fragment_capacity_per_worker: 1048577 is over 1048576",
        ),
    ];
    for (spoil, problem) in cases {
        assert_problem(|config| spoil(&mut config.director), problem);
    }
    let none = |config: &mut Config| {
        config.director.host_packets_per_second = 0;
        config.director.icmp_packets_per_second = 0;
    };
    assert_eq!(problems_of(none), [""; 0]);
}

#[test]
fn a_vlan_without_an_address_or_with_an_id_of_none_or_twice_is_refused() {
    for (id, problem) in [
        (0, "ports[1].vlans[1].id: 0 is under 1"),
        (4095, "ports[1].vlans[1].id: 4095 is over 4094"),
        (100, "ports[1].vlans[1].id: 100 is the id of ports[1].vlans[0] already"),
    ] {
        assert_problem(|config| config.ports[1].vlans.push(vlan(id, &["10.3.0.1/24"])), problem);
    }
    for id in [1, 4094] {
        assert_eq!(problems_of(|config| config.ports[1].vlans.push(vlan(id, &["10.3.0.1/24"]))), [""; 0]);
    }
    assert_problem(
        |config| config.ports[1].vlans.push(vlan(7, &[])),
        "ports[1].vlans[1].addresses: VLAN 7 of port lan1 has no address",
    );
    assert_problem(
        |config| {
            config.ports[1].vlans.clear();
            config.services.truncate(1);
        },
        "ports[1].addresses: port lan1 has no address and no VLAN",
    );
    assert_problem(
        |config| {
            config.ports[1].name = "lan0.100".to_owned();
            config.ports[1].host_interface = HostInterface::Off;
        },
        "ports[0].vlans[0].id: VLAN 100 is named lan0.100, which is the name of ports[1]",
    );
}

#[test]
fn networks_of_vlans_overlap_with_nothing_but_link_local_ones_are_everywhere() {
    for (address, problem) in [
        ("10.0.0.129/25", "10.0.0.128/25 overlaps 10.0.0.0/24 at ports[0].addresses[0]"),
        ("10.1.0.1/24", "10.1.0.1 is at ports[0].vlans[0].addresses[0] already"),
        ("10.1.0.2/24", "10.1.0.0/24 overlaps 10.1.0.0/24 at ports[0].vlans[0].addresses[0]"),
        ("2001:db8::2/96", "2001:db8::/96 overlaps 2001:db8::/64 at ports[0].addresses[1]"),
        (
            "2001:db8:3::/64",
            "2001:db8:3:: is the subnet-router anycast address of 2001:db8:3::/64, not a host's",
        ),
        ("ff02::1/64", "ff02::1 is a multicast address (ff00::/8), not a host's"),
        ("::1/128", "::1 is the loopback address, not a host's"),
        ("::/64", ":: is the unspecified address, not a host's"),
        ("::ffff:10.0.0.1/128", "::ffff:10.0.0.1 is an IPv4-mapped address (::ffff:0:0/96), not a host's"),
        ("2001:db8::3/0", "a network of all addresses is not connected"),
    ] {
        let problems = problems_of(|config| config.ports[1].vlans.push(vlan(7, &[address])));
        let found =
            problems.iter().any(|found| *found == format!("ports[1].vlans[1].addresses[0]: {problem}"));
        assert!(found, "{address}: {problems:?}");
    }
    for address in ["fe80::1/64", "2001:db8:3::1/127", "2001:db8:3::/127", "2001:db8:3::1/128"] {
        let spoil = |config: &mut Config| config.ports[1].vlans.push(vlan(7, &[address]));
        assert_eq!(problems_of(spoil), [""; 0], "{address}");
    }
}

#[test]
fn an_mtu_under_1280_has_no_ipv6_and_a_vlans_is_not_over_its_ports() {
    let set = |port: Option<u16>, vlan: Option<u16>| {
        move |config: &mut Config| {
            config.ports[0].mtu = port;
            config.ports[0].vlans[1].mtu = vlan;
        }
    };
    let least =
        |place: &str, mtu: u16| format!("{place}: {mtu} is under 1280, the least for IPv6 (RFC 8200)");
    assert_eq!(problems_of(set(Some(1280), Some(1280))), [""; 0]);
    assert_problem(set(Some(1279), None), &least("ports[0].mtu", 1279));
    assert_problem(set(None, Some(1279)), &least("ports[0].vlans[1].mtu", 1279));
    assert_problem(set(None, Some(67)), "ports[0].vlans[1].mtu: 67 is under 68");
    assert_problem(set(Some(1500), Some(1501)), "ports[0].vlans[1].mtu: 1501 is over the 1500 of port lan0");
    // The port's own has no IPv6 address, the VLAN that takes its MTU has.
    let inherited = |config: &mut Config| {
        config.ports[1].mtu = Some(1200);
        config.ports[1].vlans.push(vlan(7, &["2001:db8:3::1/64"]));
    };
    assert_problem(inherited, &least("ports[1].vlans[1].mtu", 1200));
    assert_eq!(problems_of(|config| config.ports[1].mtu = Some(1200)), [""; 0], "IPv4 alone");
}

#[test]
fn host_interfaces_have_names_of_their_own_that_linux_takes() {
    let named = |name: &str| HostInterface::Named(name.to_owned());
    for name in ["", "a b", "a/b", "a:b", ".", "..", "é", "x234567890123456"] {
        assert_problem(
            |config| config.ports[0].host_interface = named(name),
            &format!("ports[0].host_interface: `{}` is no name of an interface", name.escape_default()),
        );
    }
    assert_problem(
        |config| config.ports[1].vlans[0].host_interface = named("dr-lan0.200"),
        "ports[1].vlans[0].host_interface: `dr-lan0.200` is the host interface of VLAN lan0.200 already",
    );
    let fine = |config: &mut Config| {
        config.ports[0].host_interface = named("x23456789012345");
        config.ports[0].vlans[0].host_interface = HostInterface::Off;
        config.ports[0].vlans[1].host_interface = HostInterface::Off;
    };
    assert_eq!(problems_of(fine), [""; 0]);
}

#[test]
fn a_host_interface_is_named_for_its_interface_or_for_its_number() {
    let mut port = good().ports.remove(0);
    let names = |port: &PortConfig| -> Vec<_> {
        port.interfaces().map(|interface| interface.host_interface_name(3)).collect()
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(names(&port), [some("dr-lan0"), some("dr-lan0.100"), some("dr-lan0.200")]);
    port.name = "a-long-name".to_owned();
    port.vlans[1].host_interface = HostInterface::Off;
    assert_eq!(names(&port), [some("dr-a-long-name"), some("dr3.100"), None]);
    let interfaces: Vec<String> = port.interfaces().map(|interface| interface.name()).collect();
    assert_eq!(interfaces, ["a-long-name", "a-long-name.100", "a-long-name.200"]);
}

#[test]
fn a_route_that_leads_nowhere_is_refused_with_the_reason() {
    let connected = "10.0.0.0/24 on port lan0, 2001:db8::/64 on port lan0, 10.1.0.0/24 on VLAN lan0.100, \
                     2001:db8:2::/64 on VLAN lan0.200, 10.2.0.0/24 on VLAN lan1.100";
    let no_network = format!("in no directly connected network ({connected})");
    for (network, gateway, interface, problem) in [
        (
            "10.8.0.1/16",
            "10.0.0.254",
            None,
            "network: 10.8.0.1 is an address in 10.8.0.0/16, not a network".to_owned(),
        ),
        ("10.9.0.0/16", "10.0.0.254", None, "network: 10.9.0.0/16 is at routes[0] already".to_owned()),
        (
            "10.1.0.0/24",
            "10.0.0.254",
            None,
            "network: 10.1.0.0/24 is directly connected, on VLAN lan0.100".to_owned(),
        ),
        ("10.8.0.0/16", "10.7.0.254", None, format!("gateway: 10.7.0.254 is {no_network}")),
        ("10.8.0.0/16", "10.9.0.1", None, format!("gateway: 10.9.0.1 is {no_network}")),
        (
            "10.8.0.0/16",
            "10.0.0.1",
            None,
            "gateway: 10.0.0.1 is the director's own address (DIP) on port lan0".to_owned(),
        ),
        (
            "10.8.0.0/16",
            "10.0.0.255",
            None,
            "gateway: 10.0.0.255 is the broadcast address of 10.0.0.0/24 on port lan0".to_owned(),
        ),
        (
            "10.8.0.0/16",
            "224.0.0.1",
            None,
            "gateway: 224.0.0.1 is a multicast address (224.0.0.0/4), which is no router".to_owned(),
        ),
        (
            "10.8.0.0/16",
            "2001:db8::9",
            None,
            "gateway: 2001:db8::9 is IPv6, and the network 10.8.0.0/16 is IPv4".to_owned(),
        ),
        ("::/0", "10.0.0.254", None, "gateway: 10.0.0.254 is IPv4, and the network ::/0 is IPv6".to_owned()),
        ("::/0", "fe80::9", None, "gateway: fe80::9 is link-local, and may be on any interface".to_owned()),
        ("::/0", "fe80::9", Some("lan2"), "interface: `lan2` is no port and no VLAN of one".to_owned()),
        (
            "::/0",
            "fe80::9",
            Some("lan1"),
            "interface: `lan1` has no addresses of its own, and so is no interface of the director"
                .to_owned(),
        ),
        (
            "::/0",
            "fe80::1",
            Some("lan0.100"),
            "gateway: fe80::1 is the director's own address (DIP) on VLAN lan0.100".to_owned(),
        ),
        (
            "10.8.0.0/16",
            "10.0.0.254",
            Some("lan0.100"),
            "interface: the gateway 10.0.0.254 is in 10.0.0.0/24 on port lan0".to_owned(),
        ),
        (
            "10.8.0.0/16",
            "10.2.0.254",
            Some("lan0"),
            "interface: the gateway 10.2.0.254 is in 10.2.0.0/24 on VLAN lan1.100".to_owned(),
        ),
    ] {
        let route = RouteConfig {
            network: network.parse().unwrap(),
            gateway: ip(gateway),
            interface: interface.map(str::to_owned),
        };
        assert_problem(|config| config.routes.push(route), &format!("routes[3].{problem}"));
    }
    for (network, gateway, interface) in [
        ("0.0.0.0/0", "10.0.0.254", None),
        ("::/0", "2001:db8::9", Some("lan0")),
        ("::/0", "fe80::9", Some("lan1.100")),
        ("::/0", "fe80::1", Some("lan0.200")),
        // A part of a connected network, and one of which it is a part.
        ("10.0.0.128/25", "10.0.0.5", None),
        ("10.0.0.0/8", "10.0.0.5", None),
    ] {
        let route = RouteConfig {
            network: network.parse().unwrap(),
            gateway: ip(gateway),
            interface: interface.map(str::to_owned),
        };
        assert_eq!(problems_of(|config| config.routes.push(route)), [""; 0], "{network}");
    }
}

#[test]
fn an_interface_under_1280_has_no_route_for_ipv6() {
    let narrow = |config: &mut Config| {
        config.routes.push(RouteConfig {
            network: "::/0".parse().unwrap(),
            gateway: ip("fe80::9"),
            interface: Some("lan1.100".to_owned()),
        });
        config.ports[1].vlans[0].mtu = Some(1279);
    };
    let problem = |mtu: u16| {
        let least = "the least for IPv6 (RFC 8200)";
        format!("routes[3].gateway: fe80::9 is on VLAN lan1.100, whose mtu of {mtu} is under 1280, {least}")
    };
    assert_problem(narrow, &problem(1279));
    let by_its_port = |config: &mut Config| {
        narrow(config);
        (config.ports[1].mtu, config.ports[1].vlans[0].mtu) = (Some(1000), None);
    };
    assert_problem(by_its_port, &problem(1000));
    let wide = |config: &mut Config| {
        narrow(config);
        config.ports[1].vlans[0].mtu = Some(1280);
    };
    assert_eq!(problems_of(wide), [""; 0]);
}

#[test]
fn a_real_server_that_no_route_leads_to_is_refused() {
    let connected = "10.0.0.0/24 on port lan0, 2001:db8::/64 on port lan0, 10.1.0.0/24 on VLAN lan0.100, \
                     2001:db8:2::/64 on VLAN lan0.200, 10.2.0.0/24 on VLAN lan1.100";
    for (number, address) in [(0, "10.8.0.1"), (3, "2001:db8:8::1")] {
        assert_problem(
            |config| config.services[0].real_servers[number].address = ip(address),
            &format!(
                "services[0].real_servers[{number}].address: {address} is in no directly connected network \
                 ({connected}), and no route leads there"
            ),
        );
    }
    assert_eq!(problems_of(|config| config.services[0].real_servers[0].address = ip("10.9.3.4")), [""; 0]);
    assert_problem(
        |config| {
            config.services[0].real_servers[0].address = ip("10.9.9.4");
            config.services[0].real_servers[0].mac = Some("02:00:00:00:00:0b".parse().unwrap());
        },
        "services[0].real_servers[0].mac: 10.9.9.4 is behind the gateway 10.0.0.254, whose MAC address is asked for",
    );
    // A route longer than the connected network that holds it.
    let longer = |address: &'static str| {
        move |config: &mut Config| {
            config.routes.push(RouteConfig {
                network: "10.0.0.128/25".parse().unwrap(),
                gateway: ip("10.0.0.253"),
                interface: None,
            });
            config.services[0].real_servers[0].address = ip(address);
            config.services[0].real_servers[0].mac = Some("02:00:00:00:00:0b".parse().unwrap());
        }
    };
    assert_problem(
        longer("10.0.0.129"),
        "services[0].real_servers[0].mac: 10.0.0.129 is behind the gateway 10.0.0.253, whose MAC address is asked for",
    );
    assert_eq!(problems_of(longer("10.0.0.127")), [""; 0]);
}

#[test]
fn a_gateway_is_no_vip_but_may_be_a_real_server() {
    let reason = "10.0.0.254 is the gateway of the route to 10.9.9.0/24";
    assert_problem(
        |config| own(&mut config.services[0]).address = ip("10.0.0.254"),
        &format!("services[0].address: {reason}"),
    );
    let mut new = good().services.remove(0);
    own(&mut new).address = ip("10.0.0.254");
    let config = good();
    let problems = validate_new_service(&Surroundings::of(&config), &config.services, &new);
    assert_eq!(texts(problems), [(ErrorCode::Invalid, format!("address: {reason}"))]);
    assert_eq!(problems_of(|config| config.services[0].real_servers[0].address = ip("10.0.0.254")), [""; 0]);
}

#[test]
fn ipv6_addresses_that_no_service_or_real_server_has_are_refused() {
    for (address, reason) in [
        ("::", "the unspecified address, which is no VIP"),
        ("::1", "the loopback address, which is no VIP"),
        ("ff02::1", "a multicast address (ff00::/8), which is no VIP"),
        ("fe80::5", "a link-local address (fe80::/10), which is no VIP"),
        ("::ffff:192.0.2.10", "an IPv4-mapped address (::ffff:0:0/96), which is no VIP"),
        ("2001:db8::1", "the director's own address (DIP) on port lan0"),
        ("2001:db8::200", "a local address of full NAT"),
        ("2001:db8:2::", "the subnet-router anycast address of 2001:db8:2::/64 on VLAN lan0.200"),
    ] {
        let problems = problems_of(|config| own(&mut config.services[1]).address = ip(address));
        let expected = format!("services[1].address: {address} is {reason}");
        assert!(problems.contains(&expected), "{problems:?}");
    }
    for (address, reason) in [
        ("fe80::5", "a link-local address (fe80::/10), which is no real server"),
        ("2001:db8:7::10", "the VIP of tcp [2001:db8:7::10]:443"),
        ("2001:db8:2::1", "the director's own address (DIP) on VLAN lan0.200"),
        ("2001:db8::200", "a local address of full NAT"),
    ] {
        let problems = problems_of(|config| config.services[1].real_servers[0].address = ip(address));
        let expected = format!("services[1].real_servers[0].address: {address} is {reason}");
        assert!(problems.contains(&expected), "{problems:?}");
    }
}

#[test]
fn only_a_tunnel_leads_from_one_family_to_the_other() {
    for forwarding in [Forwarding::Dr, Forwarding::Nat, Forwarding::FullNat] {
        assert_problem(
            |config| {
                config.services[0].real_servers.truncate(1);
                config.services[0].real_servers[0].address = ip("2001:db8::77");
                config.services[0].real_servers[0].forwarding = forwarding;
            },
            "services[0].real_servers[0].address: 2001:db8::77 is IPv6, and tcp 192.0.2.10:80 is IPv4",
        );
    }
    assert_problem(
        |config| {
            config.services[2].members.push(VirtualAddress {
                protocol: Protocol::Tcp,
                address: ip("192.0.2.11"),
                port: 80,
            })
        },
        "services[2].members[1].address: 192.0.2.11 is IPv4, and group six is IPv6",
    );
}

#[test]
fn a_mark_is_of_one_group_in_each_family() {
    let group = |family| {
        let mut group = ServiceConfig::new(ServiceId::Group("other".parse().unwrap()));
        group.group_family = family;
        group.fwmark = Some(7);
        group
    };
    assert_eq!(problems_of(|config| config.services.push(group(Family::V4))), [""; 0]);
    assert_problem(
        |config| config.services.push(group(Family::V6)),
        "services[3].fwmark: 7 is at services[2].fwmark already",
    );
    let config = good();
    let surroundings = Surroundings::of(&config);
    let judge = |group| texts(validate_new_service(&surroundings, &config.services, &group));
    assert_eq!(judge(group(Family::V4)), []);
    assert_eq!(
        judge(group(Family::V6)),
        [(ErrorCode::Exists, "fwmark: 7 is the number of group six already".to_owned())]
    );
}

#[test]
fn how_much_of_a_clients_address_counts_is_said_as_its_family_has_it() {
    let set = |service: usize, netmask| {
        move |config: &mut Config| {
            config.services[service].persistence = Some(Persistence { netmask, ..Persistence::default() });
        }
    };
    let mask = "255.255.0.0".parse().unwrap();
    assert_eq!(problems_of(set(0, Netmask::ipv4(mask))), [""; 0]);
    assert_eq!(problems_of(set(1, Netmask::ipv6(1))), [""; 0]);
    assert_eq!(problems_of(set(1, Netmask::Host)), [""; 0]);
    assert_problem(
        set(1, Netmask::ipv4(mask)),
        "services[1].persistence.netmask: 255.255.0.0 is a mask of IPv4, and tcp [2001:db8:7::10]:443 is IPv6",
    );
    assert_problem(
        set(0, Netmask::ipv6(64)),
        "services[0].persistence.prefix_length: 64 is a prefix length of IPv6, and tcp 192.0.2.10:80 is IPv4",
    );
    for (length, problem) in [(0, "0 is under 1"), (129, "129 is over 128")] {
        assert_problem(
            set(1, Netmask::ipv6(length)),
            &format!("services[1].persistence.prefix_length: {problem}"),
        );
    }
}

/// Routes are looked up by their networks, not one after the other.
#[test]
fn tens_of_thousands_of_routes_and_real_servers_are_judged_at_once() {
    let mut config = good();
    config.director.real_server_capacity = 1 << 20;
    config.routes = (0..60_000u32)
        .map(|number| RouteConfig {
            network: ipnet::Ipv4Net::new((0x1400_0000 + (number << 8)).into(), 24).unwrap().into(),
            gateway: ip("10.0.0.254"),
            interface: None,
        })
        .collect();
    config.services.truncate(1);
    config.services[0].real_servers = (0..60_000u32)
        .map(|number| RealServerConfig::new(std::net::Ipv4Addr::from(0x1400_0001 + (number << 8))))
        .collect();
    let start = std::time::Instant::now();
    assert_eq!(validate(&config), Ok(()));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
