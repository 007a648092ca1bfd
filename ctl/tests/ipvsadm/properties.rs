//! Whatever anybody types or pipes in; whatever is configured comes back from its own save.

use std::net::IpAddr;

use ctl::config::{
    ClientAddress, Config, ConnectionsConfig, Drain, Family, Forwarding, NatConfig, Netmask, Persistence,
    PersistenceEngine, Protocol, RealServerConfig, ServiceConfig, ServiceId, Timeouts, TunnelChecksum,
    TunnelConfig, TunnelType, VirtualAddress,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use scheduler::{Algorithm, SchedulerFlags};

use crate::memory::{Memory, run};

/// Words that ipvsadm knows, near misses, and anything.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec![
            "-A", "-E", "-D", "-C", "-R", "-S", "-a", "-e", "-d", "-L", "-l", "-Z", "--set", "-t", "-u", "-f",
            "-6", "-s", "-p", "-M", "--pe", "-b", "-o", "-r", "-g", "-i", "-m", "--tun-type", "gue", "gre",
            "--tun-port", "--tun-csum", "--tun-remcsum", "[2001:db8::2]:8080", "10.0.0.11:8080", "2001:db8::2", "-w", "-x",
            "-y", "-c", "-n", "--timeout", "--daemon", "--stats", "-X", "192.0.2.10:80", "[2001:db8::1]:80",
            "10.0.0.11", "7", "0", "rr", "sh-port,flag-3", "--", "-", "", "#", "ipvsadm", "=", "--start-daemon",
            "master", "255.255.255.0", ",", "[", "[]", "[]:", ":", "é",
        ]).prop_map(str::to_owned),
        1 => "-{0,2}[a-zA-Z=é]{0,6}",
        1 => any::<String>(),
    ]
}

fn director() -> Memory {
    let mut service = ServiceConfig::new(ServiceId::new(Protocol::Tcp, [192, 0, 2, 10], 80));
    service.fwmark = None;
    Memory { config: Config { services: vec![service], ..Config::default() }, ..Memory::default() }
}

fn names() -> impl Strategy<Value = Timeouts> {
    (option::of(1..=2_678_400u32), option::of(1..=2_678_400u32), option::of(1..=2_678_400u32)).prop_map(
        |(tcp_established, udp, sctp_closed)| Timeouts {
            tcp_established,
            udp,
            sctp_closed,
            ..Timeouts::default()
        },
    )
}

fn drain() -> impl Strategy<Value = Option<Drain>> {
    option::of((option::of(any::<u32>()), any::<bool>()).prop_map(|(until, keep_persistent)| Drain {
        until_unix_seconds: until.map(u64::from),
        keep_persistent,
    }))
}

fn tunnel() -> impl Strategy<Value = TunnelConfig> {
    let checksum = prop::sample::select(vec![TunnelChecksum::None, TunnelChecksum::Csum]);
    prop_oneof![
        Just(TunnelConfig::default()),
        checksum.prop_map(|checksum| TunnelConfig { kind: TunnelType::Gre, port: None, checksum }),
        (1..=u16::MAX, prop::sample::select(TunnelChecksum::ALL.to_vec())).prop_map(
            |(port, (_, checksum))| { TunnelConfig { kind: TunnelType::Gue, port: Some(port), checksum } }
        ),
    ]
}

/// Of an IPv4 service; `in_family` has them where a service of the other family would.
fn real_servers() -> impl Strategy<Value = Vec<RealServerConfig>> {
    let forwarding = prop::sample::select(Forwarding::ALL.to_vec());
    let client_address = prop::sample::select(ClientAddress::ALL.to_vec());
    let method = (forwarding, tunnel(), client_address, option::of(1..=u16::MAX), any::<bool>());
    let attributes =
        (any::<u16>(), option::of(any::<u8>()), 0..=2_147_483_647u32, 0..=1000u32, drain(), method);
    btree_map(any::<u8>(), attributes, 0..4).prop_map(|servers| {
        let servers = servers.into_iter();
        servers
            .map(|(last, (weight, mac, upper, lower, drain, method))| {
                let ((_, forwarding), tunnel, (_, client_address), port, is_other) = method;
                let is_tunnel = forwarding == Forwarding::Tunnel;
                let address = if is_tunnel && is_other { v6(last) } else { [10, 0, 0, last].into() };
                RealServerConfig {
                    port: port.filter(|_| forwarding.is_nat()),
                    weight,
                    mac: mac.map(|last| format!("02:00:00:00:00:{last:02x}").parse().unwrap()),
                    forwarding,
                    tunnel: Some(tunnel).filter(|_| is_tunnel).and_then(TunnelConfig::unless_default),
                    client_address: match forwarding {
                        Forwarding::FullNat => client_address,
                        _ => ClientAddress::None,
                    },
                    upper_threshold: upper,
                    lower_threshold: lower.min(upper),
                    drain,
                    ..RealServerConfig::new(address)
                }
            })
            .collect()
    })
}

fn v6(last: u8) -> IpAddr {
    format!("2001:db8::{last:x}:1").parse().unwrap()
}

/// The service as one of this family and name; a port that is the service's own is said by none.
fn in_family(service: &mut ServiceConfig, id: ServiceId, is_v6: bool, prefix_length: u8) {
    service.id = id;
    for server in &mut service.real_servers {
        if let (IpAddr::V4(address), true) =
            (server.address, is_v6 && server.forwarding != Forwarding::Tunnel)
        {
            server.address = v6(address.octets()[3]);
        }
        server.port = server.id().within(id).port;
    }
    if let (Some(persistence), true) = (&mut service.persistence, is_v6) {
        persistence.netmask = Netmask::ipv6(prefix_length);
    }
}

fn attributes() -> impl Strategy<Value = ServiceConfig> {
    let flags =
        any::<[bool; 3]>().prop_map(|[fallback, port, flag_3]| SchedulerFlags { fallback, port, flag_3 });
    let persistence = option::of((1..=2_678_400u32, any::<[u8; 4]>(), any::<bool>()).prop_map(
        |(timeout_seconds, netmask, has_engine)| Persistence {
            timeout_seconds,
            netmask: Netmask::ipv4(netmask.into()),
            engine: has_engine.then_some(PersistenceEngine::Sip),
        },
    ));
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    (algorithm, flags, any::<u16>(), persistence, any::<bool>(), names(), real_servers()).prop_map(
        |(scheduler, scheduler_flags, slow_start, persistence, one_packet, timeouts, real_servers)| {
            ServiceConfig {
                scheduler,
                scheduler_flags,
                slow_start_seconds: slow_start.into(),
                persistence,
                one_packet,
                timeouts,
                real_servers,
                ..ServiceConfig::new(ServiceId::new(Protocol::Udp, [192, 0, 2, 10], 53))
            }
        },
    )
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn members(is_v6: bool) -> impl Strategy<Value = Vec<VirtualAddress>> {
    let member = (protocol(), any::<u8>(), any::<u16>());
    vec(member, 0..3).prop_map(move |members| {
        let members = members.into_iter();
        members
            .map(|(protocol, last, port)| VirtualAddress {
                protocol,
                address: if is_v6 { vip6(last) } else { [203, 0, 113, last].into() },
                port,
            })
            .collect()
    })
}

fn vip6(last: u8) -> IpAddr {
    format!("2001:db8:1::{last:x}:1").parse().unwrap()
}

/// Services that ipvsadm's checks allow: port 0 and one-packet scheduling where they may be.
fn config() -> impl Strategy<Value = Config> {
    let key = (protocol(), any::<u8>(), any::<u16>(), any::<bool>());
    let virtuals = btree_map(key, (attributes(), 1..=128u8), 0..4);
    let members = any::<bool>().prop_flat_map(|is_v6| (Just(is_v6), members(is_v6)));
    let groups = btree_map(any::<u8>(), (attributes(), option::of(1..=u32::MAX), members, 1..=128u8), 0..4);
    let connections = option::of((names(), any::<bool>(), any::<u32>(), any::<bool>()));
    let local_addresses = prop::collection::btree_set(any::<u8>(), 0..3);
    (virtuals, groups, connections, local_addresses).prop_map(|(virtuals, groups, connections, locals)| {
        let mut services: Vec<ServiceConfig> = Vec::new();
        for ((protocol, last, port, is_v6), (mut service, prefix_length)) in virtuals {
            let vip = if is_v6 { vip6(last) } else { [192, 0, 2, last].into() };
            in_family(&mut service, ServiceId::new(protocol, vip, port), is_v6, prefix_length);
            service.one_packet &= protocol == Protocol::Udp;
            if port == 0 && service.persistence.is_none() {
                continue;
            }
            services.push(service);
        }
        for (index, (mut service, fwmark, (is_v6, members), prefix_length)) in groups {
            let family = if is_v6 { Family::V6 } else { Family::V4 };
            let is_taken = |other: &ServiceConfig| {
                fwmark.is_some() && other.fwmark == fwmark && other.family() == family
            };
            let fwmark = fwmark.filter(|_| !services.iter().any(is_taken));
            let id = ServiceId::Group(format!("group-{index}").parse().unwrap());
            in_family(&mut service, id, is_v6, prefix_length);
            service.group_family = family;
            service.fwmark = fwmark;
            service.members = members;
            services.push(service);
        }
        let local_addresses: Vec<IpAddr> = locals.into_iter().map(|last| [10, 0, 1, last].into()).collect();
        let nat = (!local_addresses.is_empty()).then_some(NatConfig { local_addresses });
        let connections = connections.map(|(timeouts, sloppy_tcp, rate, pmtu_disc)| ConnectionsConfig {
            timeouts,
            sloppy_tcp,
            creation_rate_per_worker: rate,
            pmtu_disc,
            ..ConnectionsConfig::default()
        });
        Config { services, connections, nat, ..Config::default() }
    })
}

/// Services as a set: a file has them in ipvsadm's order.
fn sorted(config: &Config) -> (ConnectionsConfig, NatConfig, Vec<ServiceConfig>) {
    let mut services = config.services.clone();
    services.sort_by_key(|service| service.id);
    for service in &mut services {
        service.real_servers.sort_by_key(RealServerConfig::id);
    }
    (config.connections.clone().unwrap_or_default(), config.nat.clone().unwrap_or_default(), services)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_command_line_panics_and_a_refused_one_changes_nothing(words in vec(word(), 0..8)) {
        let mut director = director();
        let before = director.config.clone();
        let words: Vec<&str> = ["ipvsadm"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let printed = run(&mut director, &words, "");
        prop_assert!([0, 1, 2, 255].contains(&printed.exit_code), "{:?}", printed);
        if printed.exit_code != 0 {
            prop_assert_eq!(&director.config, &before);
            prop_assert!(printed.stderr.ends_with('\n'));
        }
    }

    #[test]
    fn no_file_panics_and_a_refused_one_changes_nothing(lines in vec(vec(word(), 0..8), 0..6)) {
        let lines: Vec<String> = lines.iter().map(|words| words.join(" ")).collect();
        for name in ["ipvsadm", "ipvsadm-restore"] {
            let mut director = director();
            let before = director.config.clone();
            let printed = run(&mut director, &[name, "-R"], &lines.join("\n"));
            // A listing among the lines may fail when the changes are made.
            if printed.exit_code != 0 && printed.exit_code != 1 {
                prop_assert_eq!(&director.config, &before);
            }
        }
    }

    #[test]
    fn what_is_saved_is_what_is_restored(config in config()) {
        let mut saver = Memory { config, ..Memory::default() };
        let saved = run(&mut saver, &["ipvsadm", "-Sn"], "");
        prop_assert_eq!(saved.exit_code, 0);
        let mut loader = Memory::default();
        let printed = run(&mut loader, &["ipvsadm-restore"], &saved.stdout);
        prop_assert_eq!(printed, crate::memory::Printed::default(), "{}", saved.stdout);
        prop_assert_eq!(sorted(&loader.config), sorted(&saver.config), "{}", saved.stdout);
        // And without our comments it is what plain ipvsadm takes.
        for line in saved.stdout.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let read = ctl::ipvsadm::parse("ipvsadm", &words, &ctl::ipvsadm::resolve::NoNames);
            prop_assert!(read.is_ok(), "{}: {:?}", line, read);
        }
    }
}
