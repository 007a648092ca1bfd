//! Tests of the rules: each with its exact place and text.

use super::*;
use crate::config::{PortConfig, Protocol, VirtualAddress};

/// A good configuration, of which each case spoils something.
pub(super) fn good() -> Config {
    let text = r#"
        [[ports]]
        name = "lan0"
        device = "net_af_packet0,iface=eth1"
        addresses = ["10.0.0.1/24", "10.0.0.2/24"]
        [[ports]]
        name = "lan1"
        device = "0000:03:00.0"
        addresses = ["10.0.1.1/24"]
        [[services]]
        protocol = "tcp"
        address = "192.0.2.10"
        port = 80
        real_servers = [{ address = "10.0.0.11" }, { address = "10.0.1.12", weight = 2 }]
        [[services]]
        protocol = "udp"
        address = "10.0.0.100"
        port = 53
        real_servers = [{ address = "10.0.0.11" }]
    "#;
    Config::from_toml(text, "good.toml").unwrap()
}

pub(super) fn problems_of(spoil: impl FnOnce(&mut Config)) -> Vec<String> {
    let mut config = good();
    spoil(&mut config);
    validate(&config).err().unwrap_or_default().iter().map(Problem::to_string).collect()
}

fn set_addresses(port: &mut PortConfig, addresses: &[&str]) {
    port.addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
}

/// The VIP:port of a service.
pub(super) fn own(service: &mut ServiceConfig) -> &mut VirtualAddress {
    match &mut service.id {
        ServiceId::Virtual(address) => address,
        ServiceId::Group(name) => panic!("{name} is a group"),
    }
}

#[track_caller]
pub(super) fn assert_problem(spoil: impl FnOnce(&mut Config), problem: &str) {
    assert_eq!(problems_of(spoil), [problem]);
}

#[test]
fn a_good_configuration_has_no_problem_with_or_without_services_and_ports() {
    assert_eq!(validate_for_start(&good()), Ok(()));
    assert_eq!(problems_of(|config| config.services.clear()), [""; 0]);
    assert_eq!(problems_of(|config| config.ports.clear()), [""; 0]);
    assert_eq!(validate(&Config::default()), Ok(()));
}

#[test]
fn a_configuration_without_ports_is_refused_at_start_alone() {
    let problems = validate_for_start(&Config::default()).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "ports: there is none, and dr-director forwards nothing without a port"
    );
}

#[test]
fn a_service_defined_twice_names_both_places() {
    assert_problem(
        |config| {
            let mut twin = config.services[0].clone();
            twin.real_servers.clear();
            config.services.push(twin);
        },
        "services[2]: tcp 192.0.2.10:80 is at services[0] already",
    );
}

#[test]
fn the_same_vip_with_another_port_or_protocol_is_another_service() {
    let problems = problems_of(|config| {
        let mut other_port = config.services[0].clone();
        own(&mut other_port).port = 443;
        let mut other_protocol = config.services[0].clone();
        own(&mut other_protocol).protocol = Protocol::Udp;
        config.services.extend([other_port, other_protocol]);
    });
    assert_eq!(problems, [""; 0]);
}

#[test]
fn port_0_is_refused() {
    assert_problem(
        |config| own(&mut config.services[1]).port = 0,
        "services[1].port: 0 is every port, which a service without persistence cannot have",
    );
}

#[test]
fn a_vip_that_is_no_unicast_host_address_is_refused_with_the_reason() {
    for (address, reason) in [
        ("0.0.0.0", "of \"this network\" (0.0.0.0/8), which is no VIP"),
        ("0.1.2.3", "of \"this network\" (0.0.0.0/8), which is no VIP"),
        ("127.0.0.1", "a loopback address (127.0.0.0/8), which is no VIP"),
        ("224.0.0.1", "a multicast address (224.0.0.0/4), which is no VIP"),
        ("239.255.255.255", "a multicast address (224.0.0.0/4), which is no VIP"),
        ("240.0.0.1", "a reserved address (240.0.0.0/4), which is no VIP"),
        ("255.255.255.255", "the broadcast address, which is no VIP"),
        ("10.0.0.0", "the network address of 10.0.0.0/24 on port lan0"),
        ("10.0.1.255", "the broadcast address of 10.0.1.0/24 on port lan1"),
        ("10.0.0.2", "the director's own address (DIP) on port lan0"),
    ] {
        assert_problem(
            |config| own(&mut config.services[0]).address = address.parse().unwrap(),
            &format!("services[0].address: {address} is {reason}"),
        );
    }
}

#[test]
fn the_first_and_last_unicast_addresses_are_vips() {
    for address in ["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255"] {
        let spoil = |config: &mut Config| own(&mut config.services[0]).address = address.parse().unwrap();
        assert_eq!(problems_of(spoil), [""; 0]);
    }
}

#[test]
fn a_real_server_that_cannot_be_one_is_refused_with_the_reason() {
    for (address, reason) in [
        ("10.9.0.1", "in no directly connected network (10.0.0.0/24 on port lan0, 10.0.1.0/24 on port lan1)"),
        ("192.0.2.10", "the VIP of tcp 192.0.2.10:80"),
        ("10.0.0.100", "the VIP of udp 10.0.0.100:53"),
        ("10.0.0.1", "the director's own address (DIP) on port lan0"),
        ("10.0.1.1", "the director's own address (DIP) on port lan1"),
        ("10.0.1.0", "the network address of 10.0.1.0/24 on port lan1"),
        ("10.0.0.255", "the broadcast address of 10.0.0.0/24 on port lan0"),
        ("127.0.0.1", "a loopback address (127.0.0.0/8), which is no real server"),
        ("224.0.0.5", "a multicast address (224.0.0.0/4), which is no real server"),
    ] {
        assert_problem(
            |config| config.services[0].real_servers[1].address = address.parse().unwrap(),
            &format!("services[0].real_servers[1].address: {address} is {reason}"),
        );
    }
}

#[test]
fn a_real_server_twice_in_a_service_names_both_places() {
    assert_problem(
        |config| config.services[0].real_servers[1].address = "10.0.0.11".parse().unwrap(),
        "services[0].real_servers[1].address: 10.0.0.11 is at services[0].real_servers[0] already",
    );
}

#[test]
fn without_ports_a_real_server_is_judged_by_what_is_known() {
    let mut config = good();
    config.ports.clear();
    config.services[0].real_servers[0].address = "10.9.0.1".parse().unwrap();
    assert_eq!(validate(&config), Ok(()));
    config.services[0].real_servers[0].address = "192.0.2.10".parse().unwrap();
    assert_eq!(validate(&config).unwrap_err().len(), 1);
}

#[test]
fn a_network_of_two_has_neither_network_nor_broadcast_address() {
    let problems = problems_of(|config| {
        set_addresses(&mut config.ports[1], &["10.0.1.12/31"]);
        config.services[0].real_servers[1].address = "10.0.1.13".parse().unwrap();
    });
    assert_eq!(problems, [""; 0]);
}

#[test]
fn full_tables_are_refused_as_full() {
    let mut config = good();
    config.director.service_capacity = 1;
    config.director.real_server_capacity = 2;
    let problems = validate(&config).unwrap_err();
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        texts,
        [
            "services: 2 virtual services are over director.service_capacity of 1",
            "services: 3 real servers are over director.real_server_capacity of 2",
        ]
    );
    assert!(problems.iter().all(|problem| problem.code == ErrorCode::Full));
}

#[test]
fn cpus_given_twice_or_too_many_or_too_high_are_refused() {
    assert_problem(
        |config| config.director.worker_cpus = vec![2, 3, 2],
        "director.worker_cpus[2]: CPU 2 is at director.worker_cpus[0] already",
    );
    assert_problem(
        |config| config.director.control_cpus = vec![0, 0],
        "director.control_cpus[1]: CPU 0 is at director.control_cpus[0] already",
    );
    assert_problem(
        |config| config.director.worker_cpus = (0..129).collect(),
        "director.worker_cpus: 129 workers are over 127",
    );
    assert_problem(
        |config| config.director.worker_cpus = vec![1024],
        "director.worker_cpus[0]: 1024 is over 1023",
    );
}

#[test]
fn numbers_of_the_director_out_of_range_are_refused() {
    type Spoil = fn(&mut DirectorConfig, u32);
    let cases: [(Spoil, u32, &str); 14] = [
        (|d, n| d.template_capacity = n, 0, "director.template_capacity: 0 is under 1"),
        (
            |d, n| d.template_capacity = n,
            (1 << 24) + 1,
            "director.template_capacity: 16777217 is over 16777216",
        ),
        (|d, n| d.memory_mib = n, 63, "director.memory_mib: 63 is under 64"),
        (|d, n| d.memory_mib = n, 1_048_577, "director.memory_mib: 1048577 is over 1048576"),
        (
            |d, n| d.connection_capacity_per_worker = n,
            0,
            "director.connection_capacity_per_worker: 0 is under 1",
        ),
        (
            |d, n| d.connection_capacity_per_worker = n,
            (1 << 28) + 1,
            "director.connection_capacity_per_worker: 268435457 is over 268435456",
        ),
        (|d, n| d.service_capacity = n, (1 << 20) + 1, "director.service_capacity: 1048577 is over 1048576"),
        (
            |d, n| d.real_server_capacity = n,
            (1 << 20) + 1,
            "director.real_server_capacity: 1048577 is over 1048576",
        ),
        (|d, n| d.mbuf_count = Some(n), 511, "director.mbuf_count: 511 is under 512"),
        (|d, n| d.mbuf_count = Some(n), (1 << 24) + 1, "director.mbuf_count: 16777217 is over 16777216"),
        (
            |d, n| d.mbuf_data_room = Some(u16::try_from(n).unwrap()),
            255,
            "director.mbuf_data_room: 255 is under 256",
        ),
        (|d, n| d.memory_mib = n, 0, "director.memory_mib: 0 is under 64"),
        (|d, n| d.mbuf_count = Some(n), 0, "director.mbuf_count: 0 is under 512"),
        (
            |d, n| d.mbuf_data_room = Some(u16::try_from(n).unwrap()),
            0,
            "director.mbuf_data_room: 0 is under 256",
        ),
    ];
    for (spoil, number, problem) in cases {
        assert_problem(|config| spoil(&mut config.director, number), problem);
    }
}

#[test]
fn capacities_of_zero_are_refused() {
    let mut director = DirectorConfig { service_capacity: 0, ..DirectorConfig::default() };
    assert_eq!(validate_director(&director)[0].to_string(), "director.service_capacity: 0 is under 1");
    director = DirectorConfig { real_server_capacity: 0, ..DirectorConfig::default() };
    assert_eq!(validate_director(&director)[0].to_string(), "director.real_server_capacity: 0 is under 1");
}

#[test]
fn a_control_socket_that_is_no_unix_socket_path_is_refused() {
    assert_problem(
        |config| config.director.control_socket = "/".repeat(108).into(),
        "director.control_socket: its 108 bytes are over the 107 of a Unix socket's path",
    );
    for path in ["", "a\0b"] {
        assert_problem(
            |config| config.director.control_socket = path.into(),
            "director.control_socket: it is no path",
        );
    }
    assert_problem(
        |config| config.director.control_group = Some(String::new()),
        "director.control_group: it is empty",
    );
    assert_eq!(problems_of(|config| config.director.control_socket = "/".repeat(107).into()), [""; 0]);
}

#[test]
fn port_names_and_devices_that_are_none_are_refused() {
    for name in ["", "a b", "eth0:1", "é", "a\n", &"x".repeat(33)] {
        assert_problem(
            |config| config.ports[1].name = name.to_owned(),
            &format!("ports[1].name: `{}` is no port name", name.escape_default()),
        );
    }
    assert_eq!(problems_of(|config| config.ports[1].name = "x".repeat(32)), [""; 0]);
    for device in ["", "net\n", &"x".repeat(1025)] {
        assert_problem(
            |config| config.ports[1].device = device.to_owned(),
            &format!("ports[1].device: `{}` is no device", device.escape_default()),
        );
    }
}

#[test]
fn numbers_of_a_port_out_of_range_are_refused() {
    type Spoil = fn(&mut PortConfig, u16);
    let cases: [(Spoil, u16, &str); 6] = [
        (|p, n| p.rx_descriptors = n, 63, "ports[1].rx_descriptors: 63 is under 64"),
        (|p, n| p.rx_descriptors = n, 32769, "ports[1].rx_descriptors: 32769 is over 32768"),
        (|p, n| p.tx_descriptors = n, 0, "ports[1].tx_descriptors: 0 is under 64"),
        (|p, n| p.tx_descriptors = n, 65535, "ports[1].tx_descriptors: 65535 is over 32768"),
        (|p, n| p.mtu = Some(n), 67, "ports[1].mtu: 67 is under 68"),
        (|p, n| p.mtu = Some(n), 9601, "ports[1].mtu: 9601 is over 9600"),
    ];
    for (spoil, number, problem) in cases {
        assert_problem(|config| spoil(&mut config.ports[1], number), problem);
    }
    let at_the_ends = problems_of(|config| {
        (config.ports[0].rx_descriptors, config.ports[0].tx_descriptors) = (64, 32768);
        (config.ports[0].mtu, config.ports[1].mtu) = (Some(68), Some(9600));
    });
    assert_eq!(at_the_ends, [""; 0]);
}

#[test]
fn two_ports_with_one_name_or_device_are_refused() {
    assert_problem(
        |config| config.ports[1].name = "lan0".to_owned(),
        "ports[1].name: `lan0` is the name of ports[0] already",
    );
    assert_problem(
        |config| config.ports[1].device = "net_af_packet0,iface=eth2".to_owned(),
        "ports[1].device: `net_af_packet0` is the device of ports[0] already",
    );
}

#[test]
fn dips_that_no_host_can_have_are_refused() {
    for (address, problem) in [
        ("10.0.1.0/24", "10.0.1.0 is the network address of 10.0.1.0/24, not a host's"),
        ("10.0.1.255/24", "10.0.1.255 is the broadcast address of 10.0.1.0/24, not a host's"),
        ("127.0.0.1/8", "127.0.0.1 is a loopback address (127.0.0.0/8), not a host's"),
        ("224.0.0.1/24", "224.0.0.1 is a multicast address (224.0.0.0/4), not a host's"),
    ] {
        let problems = problems_of(|config| {
            set_addresses(&mut config.ports[1], &["10.0.1.1/24", address]);
        });
        assert_eq!(problems, [format!("ports[1].addresses[1]: {problem}")]);
    }
}

#[test]
fn a_network_of_all_addresses_is_refused() {
    let problems = validate_ports(&[PortConfig {
        addresses: vec!["10.0.0.1/0".parse().unwrap()],
        ..good().ports.swap_remove(0)
    }]);
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(texts, ["ports[0].addresses[0]: a network of all addresses is not connected"]);
}

#[test]
fn a_port_without_address_or_with_too_many_is_refused() {
    assert_problem(
        |config| {
            config.ports[1].addresses.clear();
            config.services.clear();
        },
        "ports[1].addresses: port lan1 has no address and no VLAN",
    );
    let many: Vec<String> = (1..=65).map(|host| format!("10.0.1.{host}/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_problem(
        |config| {
            set_addresses(&mut config.ports[1], &many);
            config.services.clear();
        },
        "ports[1].addresses: 65 addresses are over 64",
    );
}

#[test]
fn two_ports_with_overlapping_networks_name_both_places() {
    for (address, problem) in [
        ("10.0.0.129/25", "10.0.0.128/25 overlaps 10.0.0.0/24 at ports[0].addresses[0]"),
        ("10.0.0.3/24", "10.0.0.0/24 overlaps 10.0.0.0/24 at ports[0].addresses[0]"),
        ("10.0.0.1/24", "10.0.0.1 is at ports[0].addresses[0] already"),
    ] {
        let problems = problems_of(|config| {
            config.services.clear();
            set_addresses(&mut config.ports[1], &[address]);
        });
        assert_eq!(problems, [format!("ports[1].addresses[0]: {problem}")]);
    }
    // The wider network may come second: the narrower one is then the one that is told.
    let problems = problems_of(|config| {
        config.services.clear();
        set_addresses(&mut config.ports[1], &["10.200.0.1/8"]);
    });
    assert_eq!(
        problems,
        [
            "ports[0].addresses[0]: 10.0.0.0/24 overlaps 10.0.0.0/8 at ports[1].addresses[0]",
            "ports[0].addresses[1]: 10.0.0.0/24 overlaps 10.0.0.0/8 at ports[1].addresses[0]",
        ]
    );
}

#[test]
fn two_addresses_in_one_network_of_one_port_are_fine_but_not_one_address_twice() {
    assert_problem(
        |config| set_addresses(&mut config.ports[0], &["10.0.0.1/24", "10.0.0.1/24"]),
        "ports[0].addresses[1]: 10.0.0.1 is at ports[0].addresses[0] already",
    );
}

#[test]
fn more_than_64_ports_are_refused() {
    let port = |number: u8| PortConfig {
        name: format!("lan{number}"),
        device: format!("net_null{number}"),
        addresses: vec![format!("10.1.{number}.1/24").parse().unwrap()],
        ..good().ports.swap_remove(0)
    };
    let ports: Vec<PortConfig> = (0..64).map(port).collect();
    assert_eq!(validate_ports(&ports), []);
    let ports: Vec<PortConfig> = (0..65).map(port).collect();
    let problems = validate_ports(&ports);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].to_string(), "ports: 65 ports are over 64");
}

#[test]
fn a_list_of_many_networks_is_told_in_part() {
    let ports: Vec<PortConfig> = (0..20)
        .map(|number| PortConfig {
            name: format!("lan{number}"),
            addresses: vec![format!("10.1.{number}.1/24").parse().unwrap()],
            ..good().ports.swap_remove(0)
        })
        .collect();
    let mut services = good().services;
    services[0].real_servers.truncate(1);
    let problems = validate_services(
        &Surroundings { ports: &ports, ..Surroundings::of(&Config::default()) },
        &services[..1],
    );
    assert!(problems[0].message.ends_with("10.1.7.0/24 on port lan7 and 12 more)"), "{}", problems[0]);
}

#[test]
fn every_problem_of_a_configuration_is_told_and_has_help() {
    let mut config = good();
    config.director.memory_mib = 1;
    config.ports[0].mtu = Some(1);
    own(&mut config.services[0]).port = 0;
    config.services[1].real_servers[0].address = "10.9.0.1".parse().unwrap();
    let problems = validate(&config).unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(
        places,
        ["director.memory_mib", "ports[0].mtu", "services[0].port", "services[1].real_servers[0].address"]
    );
    assert!(problems.iter().all(|problem| problem.help.is_some()));
    assert!(problems.iter().all(|problem| problem.code == ErrorCode::Invalid));
}

#[test]
fn a_new_service_is_judged_with_places_of_its_own() {
    let config = good();
    let Config { director, services, .. } = config.clone();
    let judge = |new: &ServiceConfig, director: &DirectorConfig| {
        let surroundings = Surroundings { director, ..Surroundings::of(&config) };
        let problems = validate_new_service(&surroundings, &services, new);
        problems.into_iter().map(|problem| (problem.code, problem.to_string())).collect::<Vec<_>>()
    };
    let mut new = services[0].clone();
    own(&mut new).port = 443;
    assert_eq!(judge(&new, &director), []);

    let mut bad = new.clone();
    own(&mut bad).address = "10.0.0.11".parse().unwrap();
    own(&mut bad).port = 0;
    bad.real_servers[0].address = "10.0.0.100".parse().unwrap();
    bad.real_servers[1].address = "10.0.0.11".parse().unwrap();
    assert_eq!(
        judge(&bad, &director).into_iter().map(|(_, text)| text).collect::<Vec<_>>(),
        [
            "port: 0 is every port, which a service without persistence cannot have",
            "real_servers[0].address: 10.0.0.100 is the VIP of udp 10.0.0.100:53",
            "real_servers[1].address: 10.0.0.11 is the VIP of tcp 10.0.0.11:0",
            "address: 10.0.0.11 is a real server of tcp 192.0.2.10:80",
        ]
    );
    let full = DirectorConfig { service_capacity: 2, real_server_capacity: 4, ..director };
    assert_eq!(
        judge(&new, &full),
        [
            (
                ErrorCode::Full,
                "services: 3 virtual services are over director.service_capacity of 2".to_owned()
            ),
            (
                ErrorCode::Full,
                "services: 5 real servers are over director.real_server_capacity of 4".to_owned()
            ),
        ]
    );
}

#[test]
fn a_new_real_server_is_judged_with_places_of_its_own() {
    let config = good();
    let Config { director, services, .. } = config.clone();
    let judge = |id: ServiceId, address: &str, director: &DirectorConfig| {
        let surroundings = Surroundings { director, ..Surroundings::of(&config) };
        let mut new = services[0].real_servers[0].clone();
        new.address = address.parse().unwrap();
        let problems = validate_new_real_server(&surroundings, &services, id, &new);
        problems.into_iter().map(|problem| (problem.code, problem.to_string())).collect::<Vec<_>>()
    };
    let id = services[0].id();
    assert_eq!(judge(id, "10.0.0.13", &director), []);
    assert_eq!(
        judge(id, "10.0.0.100", &director),
        [(ErrorCode::Invalid, "real_server.address: 10.0.0.100 is the VIP of udp 10.0.0.100:53".to_owned())]
    );
    let full = DirectorConfig { real_server_capacity: 3, ..director };
    assert_eq!(
        judge(id, "10.0.0.13", &full),
        [(
            ErrorCode::Full,
            "services: 4 real servers are over director.real_server_capacity of 3".to_owned()
        )]
    );
}

/// 60,000 real servers; a check in the square of that would take minutes.
#[test]
fn tens_of_thousands_of_real_servers_are_judged_at_once() {
    let mut config = good();
    config.director.real_server_capacity = 1 << 20;
    set_addresses(&mut config.ports[0], &["10.128.0.1/9"]);
    set_addresses(&mut config.ports[1], &["10.0.1.1/24"]);
    config.services.truncate(1);
    let template = config.services[0].real_servers[0].clone();
    let real_server = |number: u32| {
        let address =
            std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 128, 1, 0)) + number).into();
        crate::config::RealServerConfig { address, ..template.clone() }
    };
    config.services[0].real_servers = (0..60_000).map(real_server).collect();
    let start = std::time::Instant::now();
    assert_eq!(validate(&config), Ok(()));
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn a_real_server_with_two_macs_is_refused() {
    let mac = |text: &str| Some(text.parse().unwrap());
    assert_problem(
        |config| {
            config.services[0].real_servers[0].mac = mac("02:00:00:00:00:0b");
            config.services[1].real_servers[0].mac = mac("02:00:00:00:00:0c");
        },
        "services[1].real_servers[0].mac: 10.0.0.11 has the MAC 02:00:00:00:00:0b in another service",
    );
    let one = |config: &mut Config| config.services[1].real_servers[0].mac = mac("02:00:00:00:00:0c");
    assert_eq!(problems_of(one), [""; 0], "by ARP in one service, static in the other");
}
