//! Whatever anybody types or pipes in; whatever is configured comes back from its own save.

use ctl::config::{
    Config, ConnectionsConfig, Drain, Persistence, PersistenceEngine, Protocol, RealServerConfig,
    ServiceConfig, ServiceId, Timeouts, VirtualAddress,
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
            "-6", "-s", "-p", "-M", "--pe", "-b", "-o", "-r", "-g", "-i", "-m", "--tun-type", "gue", "-w", "-x",
            "-y", "-c", "-n", "--timeout", "--daemon", "--stats", "-X", "192.0.2.10:80", "[2001:db8::1]:80",
            "10.0.0.11", "7", "0", "rr", "sh-port,flag-3", "--", "-", "", "#", "ipvsadm", "=", "--start-daemon",
            "master", "255.255.255.0", ",", "[", "[]", "[]:", ":", "é",
        ]).prop_map(str::to_owned),
        1 => "-{0,2}[a-zA-Z=é]{0,6}",
        1 => any::<String>(),
    ]
}

fn director() -> Memory {
    let mut service = ServiceConfig::new(ServiceId::new(Protocol::Tcp, [192, 0, 2, 10].into(), 80));
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

fn real_servers() -> impl Strategy<Value = Vec<RealServerConfig>> {
    let attributes = (any::<u16>(), option::of(any::<u8>()), 0..=2_147_483_647u32, 0..=1000u32, drain());
    btree_map(any::<u8>(), attributes, 0..4).prop_map(|servers| {
        let servers = servers.into_iter();
        servers
            .map(|(last, (weight, mac, upper, lower, drain))| RealServerConfig {
                address: [10, 0, 0, last].into(),
                weight,
                mac: mac.map(|last| format!("02:00:00:00:00:{last:02x}").parse().unwrap()),
                upper_threshold: upper,
                lower_threshold: lower.min(upper),
                drain,
            })
            .filter(|server| server.address != std::net::Ipv4Addr::UNSPECIFIED)
            .collect()
    })
}

fn attributes() -> impl Strategy<Value = ServiceConfig> {
    let flags =
        any::<[bool; 3]>().prop_map(|[fallback, port, flag_3]| SchedulerFlags { fallback, port, flag_3 });
    let persistence = option::of((1..=2_678_400u32, any::<[u8; 4]>(), any::<bool>()).prop_map(
        |(timeout_seconds, netmask, has_engine)| Persistence {
            timeout_seconds,
            netmask: netmask.into(),
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
                ..ServiceConfig::new(ServiceId::new(Protocol::Udp, [192, 0, 2, 10].into(), 53))
            }
        },
    )
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn members() -> impl Strategy<Value = Vec<VirtualAddress>> {
    let member = (protocol(), any::<u8>(), any::<u16>());
    vec(member, 0..3).prop_map(|members| {
        let members = members.into_iter();
        members
            .map(|(protocol, last, port)| VirtualAddress {
                protocol,
                address: [203, 0, 113, last].into(),
                port,
            })
            .collect()
    })
}

/// Services that ipvsadm's checks allow: port 0 and one-packet scheduling where they may be.
fn config() -> impl Strategy<Value = Config> {
    let virtuals = btree_map((protocol(), any::<u8>(), any::<u16>()), attributes(), 0..4);
    let groups = btree_map(any::<u8>(), (attributes(), option::of(1..=u32::MAX), members()), 0..4);
    let connections = option::of((names(), any::<bool>(), any::<u32>()));
    (virtuals, groups, connections).prop_map(|(virtuals, groups, connections)| {
        let mut services = Vec::new();
        for ((protocol, last, port), mut service) in virtuals {
            service.id = ServiceId::new(protocol, [192, 0, 2, last].into(), port);
            service.one_packet &= protocol == Protocol::Udp;
            if port == 0 && service.persistence.is_none() {
                continue;
            }
            services.push(service);
        }
        for (index, (mut service, fwmark, members)) in groups {
            let is_taken = |other: &ServiceConfig| fwmark.is_some() && other.fwmark == fwmark;
            let fwmark = fwmark.filter(|_| !services.iter().any(is_taken));
            service.id = ServiceId::Group(format!("group-{index}").parse().unwrap());
            service.fwmark = fwmark;
            service.members = members;
            services.push(service);
        }
        let connections = connections.map(|(timeouts, sloppy_tcp, rate)| ConnectionsConfig {
            timeouts,
            sloppy_tcp,
            creation_rate_per_worker: rate,
            ..ConnectionsConfig::default()
        });
        Config { services, connections, ..Config::default() }
    })
}

/// Services as a set: a file has them in ipvsadm's order.
fn sorted(config: &Config) -> (ConnectionsConfig, Vec<ServiceConfig>) {
    let mut services = config.services.clone();
    services.sort_by_key(|service| service.id);
    for service in &mut services {
        service.real_servers.sort_by_key(|server| server.address);
    }
    (config.connections.clone().unwrap_or_default(), services)
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
