//! Tests of the rules for groups, persistence, thresholds and timeouts: each with its exact place and text.

use super::*;
use crate::config::{Config, ConnectionsConfig, Drain, Persistence, PersistenceEngine, Protocol};
use crate::protocol::{ConnectionsQuery, DrainRs};
use crate::validate::tests::{assert_problem, good, own, problems_of};
use crate::validate::{
    Problem, validate, validate_changed_real_server, validate_changed_service, validate_connections_query,
    validate_drain, validate_new_member, validate_new_real_server, validate_new_service,
};

/// [`good`], and a group at `services[2]`.
fn with_group() -> Config {
    let text = r#"
        [[services]]
        group = "web"
        fwmark = 7
        members = [
            { protocol = "tcp", address = "192.0.2.11", port = 80 },
            { protocol = "udp", address = "192.0.2.11", port = 0 },
        ]
        real_servers = [{ address = "10.0.0.13" }]
    "#;
    let mut config = good();
    config.services.extend(Config::from_toml(text, "group.toml").unwrap().services);
    config
}

fn persistence(timeout_seconds: u32) -> Persistence {
    Persistence { timeout_seconds, netmask: crate::config::Netmask::Host, engine: None }
}

#[track_caller]
fn assert_group_problems(spoil: impl FnOnce(&mut Config), expected: &[&str]) {
    let mut config = with_group();
    spoil(&mut config);
    let problems = validate(&config).err().unwrap_or_default();
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(texts, expected);
    assert!(problems.iter().all(|problem| problem.help.is_some()));
}

fn texts(problems: Vec<Problem>) -> Vec<(ErrorCode, String)> {
    problems.iter().map(|problem| (problem.code, problem.to_string())).collect()
}

#[test]
fn a_group_is_good_with_members_on_port_0_and_without_members() {
    assert_group_problems(|_| {}, &[]);
    assert_group_problems(|config| config.services[2].members.clear(), &[]);
    assert_group_problems(|config| config.services[2].fwmark = None, &[]);
}

#[test]
fn an_address_group_or_number_used_twice_names_both_places() {
    assert_group_problems(
        |config| config.services[2].members[1] = *own(&mut config.services[0]),
        &["services[2].members[1]: tcp 192.0.2.10:80 is at services[0] already"],
    );
    assert_group_problems(
        |config| config.services[2].members[1] = config.services[2].members[0],
        &["services[2].members[1]: tcp 192.0.2.11:80 is at services[2].members[0] already"],
    );
    assert_group_problems(
        |config| {
            let mut twin = config.services[2].clone();
            twin.members.clear();
            config.services.push(twin);
        },
        &[
            "services[3].group: group web is at services[2].group already",
            "services[3].fwmark: 7 is at services[2].fwmark already",
        ],
    );
}

#[test]
fn members_are_vips() {
    assert_group_problems(
        |config| config.services[2].members[1].address = "10.0.0.1".parse().unwrap(),
        &["services[2].members[1].address: 10.0.0.1 is the director's own address (DIP) on port lan0"],
    );
    assert_group_problems(
        |config| config.services[0].real_servers[0].address = "192.0.2.11".parse().unwrap(),
        &["services[0].real_servers[0].address: 192.0.2.11 is the VIP of group web"],
    );
}

#[test]
fn members_of_groups_count_as_services_and_an_empty_group_as_one() {
    for (members, capacity, problem) in [
        (2, 3, Some("services: 4 virtual services are over director.service_capacity of 3")),
        (2, 4, None),
        (0, 2, Some("services: 3 virtual services are over director.service_capacity of 2")),
        (0, 3, None),
    ] {
        assert_group_problems(
            |config| {
                config.services[2].members.truncate(members);
                config.director.service_capacity = capacity;
            },
            problem.as_slice(),
        );
    }
}

#[test]
fn port_0_is_for_persistent_services() {
    let problems = problems_of(|config| {
        own(&mut config.services[0]).port = 0;
        config.services[0].persistence = Some(persistence(1));
    });
    assert_eq!(problems, [""; 0]);
}

#[test]
fn a_timeout_of_another_protocol_is_refused_and_a_group_may_have_each() {
    let spoil = |config: &mut Config| {
        *own(&mut config.services[0]) =
            VirtualAddress { protocol: Protocol::Tcp, ..*own(&mut config.services[0]) };
        config.services[0].timeouts = Timeouts { udp: Some(5), tcp_close: Some(5), ..Timeouts::default() };
    };
    let problem = "services[0].timeouts.udp: this service is tcp, and has no connections in that state";
    assert_problem(spoil, problem);
    let group = ServiceConfig {
        timeouts: Timeouts { udp: Some(5), sctp_init: Some(5), ..Timeouts::default() },
        ..ServiceConfig::new(ServiceId::Group("of-all".parse().unwrap()))
    };
    assert_eq!(problems_of(|config| config.services.push(group.clone())), [""; 0]);
}

#[test]
fn numbers_of_a_service_out_of_range_are_refused() {
    for seconds in [1, 2_678_400] {
        let spoil = |config: &mut Config| config.services[0].persistence = Some(persistence(seconds));
        assert_eq!(problems_of(spoil), [""; 0]);
    }
    assert_problem(
        |config| config.services[0].persistence = Some(persistence(0)),
        "services[0].persistence.timeout_seconds: 0 is under 1",
    );
    assert_problem(
        |config| config.services[0].persistence = Some(persistence(2_678_401)),
        "services[0].persistence.timeout_seconds: 2678401 is over 2678400",
    );
    assert_problem(
        |config| config.services[1].timeouts.udp = Some(0),
        "services[1].timeouts.udp: 0 is under 1",
    );
    assert_problem(
        |config| config.services[1].timeouts.sctp_closed = Some(2_678_401),
        "services[1].timeouts.sctp_closed: 2678401 is over 2678400",
    );
    assert_problem(
        |config| config.services[0].slow_start_seconds = 86_401,
        "services[0].slow_start_seconds: 86401 is over 86400",
    );
    assert_group_problems(
        |config| config.services[2].fwmark = Some(0),
        &["services[2].fwmark: 0 is under 1"],
    );
}

#[test]
fn slow_start_is_of_schedulers_that_have_it() {
    for scheduler in scheduler::Algorithm::ALL {
        let problems = problems_of(|config| {
            config.services[0].scheduler = scheduler;
            config.services[0].slow_start_seconds = 60;
        });
        if ["lc", "wlc", "sed"].contains(&scheduler.name()) {
            assert_eq!(problems, [""; 0]);
        } else {
            let problem =
                format!("services[0].slow_start_seconds: the scheduler {scheduler} has no slow start");
            assert_eq!(problems, [problem]);
        }
    }
}

#[test]
fn one_packet_and_sip_are_of_udp_services_and_groups() {
    let set = |service: &mut ServiceConfig| {
        service.one_packet = true;
        service.persistence = Some(Persistence { engine: Some(PersistenceEngine::Sip), ..persistence(60) });
    };
    assert_group_problems(|config| set(&mut config.services[1]), &[]);
    assert_group_problems(|config| set(&mut config.services[2]), &[]);
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        assert_group_problems(
            |config| {
                own(&mut config.services[0]).protocol = protocol;
                set(&mut config.services[0]);
            },
            &[
                &format!(
                    "services[0].one_packet: one-packet scheduling is of UDP services and groups, and this one is {protocol}"
                ),
                &format!(
                    "services[0].persistence.engine: sip reads SIP over UDP, and this service is {protocol}"
                ),
            ],
        );
    }
}

#[test]
fn a_lower_threshold_needs_an_upper_one_that_is_not_below() {
    for (upper, lower, problem) in [
        (0, 0, None),
        (10, 0, None),
        (10, 10, None),
        (2_147_483_647, 2_147_483_647, None),
        (0, 1, Some("lower_threshold: 1 is given and no upper threshold")),
        (10, 11, Some("lower_threshold: 11 is over the upper threshold of 10")),
        (2_147_483_648, 1, Some("upper_threshold: 2147483648 is over 2147483647")),
    ] {
        let problems = problems_of(|config| {
            config.services[0].real_servers[1].upper_threshold = upper;
            config.services[0].real_servers[1].lower_threshold = lower;
        });
        let problem = problem.map(|problem| format!("services[0].real_servers[1].{problem}"));
        assert_eq!(problems, Vec::from_iter(problem), "{upper} {lower}");
    }
}

#[test]
fn a_drain_ends_before_the_year_10000() {
    let until = |seconds| {
        move |config: &mut Config| {
            let drain = Drain { until_unix_seconds: Some(seconds), keep_persistent: false };
            config.services[0].real_servers[0].drain = Some(drain);
        }
    };
    assert_eq!(problems_of(until(253_402_300_799)), [""; 0]);
    assert_problem(
        until(u64::MAX),
        "services[0].real_servers[0].drain.until_unix_seconds: 18446744073709551615 is over 253402300799",
    );
}

#[test]
fn options_out_of_range_are_refused() {
    type Spoil = fn(&mut ConnectionsConfig);
    let cases: [(Spoil, &str); 5] = [
        (|c| c.conn_reuse_mode = 4, "connections.conn_reuse_mode: 4 is over 3"),
        (|c| c.lblc_expiration_seconds = 0, "connections.lblc_expiration_seconds: 0 is under 1"),
        (
            |c| c.lblc_expiration_seconds = 2_678_401,
            "connections.lblc_expiration_seconds: 2678401 is over 2678400",
        ),
        (|c| c.timeouts.tcp_none = Some(0), "connections.timeouts.tcp_none: 0 is under 1"),
        (|c| c.timeouts.udp = Some(2_678_401), "connections.timeouts.udp: 2678401 is over 2678400"),
    ];
    for (spoil, problem) in cases {
        assert_problem(|config| spoil(config.connections.get_or_insert_default()), problem);
    }
    let at_the_ends = |config: &mut Config| {
        let connections = config.connections.get_or_insert_default();
        connections.conn_reuse_mode = 3;
        connections.creation_rate_per_worker = u32::MAX;
        connections.timeouts = Timeouts::IPVS;
    };
    assert_eq!(problems_of(at_the_ends), [""; 0]);
}

#[test]
fn sets_of_timeouts_are_counted_once_each() {
    let text: String = (1..=4097)
        .map(|number| {
            format!("[[services]]\nprotocol = \"udp\"\naddress = \"192.0.2.20\"\nport = {number}\ntimeouts = {{ udp = {number} }}\n")
        })
        .collect();
    let mut config = Config::from_toml(&text, "timeouts.toml").unwrap();
    config.director.service_capacity = 10_000;
    let problems = validate(&config).unwrap_err();
    assert_eq!(
        texts(problems),
        [(ErrorCode::Full, "services: 4097 different sets of timeouts are over 4096".to_owned())]
    );
    config.services[4096].timeouts.udp = Some(1);
    assert_eq!(validate(&config), Ok(()));
}

#[test]
fn a_new_group_is_judged_against_what_runs() {
    let config = with_group();
    let (surroundings, services) = (Surroundings::of(&config), config.services.as_slice());
    let judge = |spoil: &dyn Fn(&mut ServiceConfig)| {
        let mut new = services[2].clone();
        new.id = ServiceId::Group("mail".parse().unwrap());
        new.fwmark = None;
        new.members.clear();
        spoil(&mut new);
        texts(validate_new_service(&surroundings, services, &new))
    };
    assert_eq!(judge(&|_| {}), []);
    assert_eq!(
        judge(&|new| new.fwmark = Some(7)),
        [(ErrorCode::Exists, "fwmark: 7 is the number of group web already".to_owned())]
    );
    assert_eq!(
        judge(&|new| new.members.push(services[2].members[0])),
        [(
            ErrorCode::Exists,
            "members[0].address: tcp 192.0.2.11:80 belongs to group web already".to_owned()
        )]
    );
    assert_eq!(
        judge(&|new| new.members.extend(services[0].addresses())),
        [(ErrorCode::Exists, "members[0].address: tcp 192.0.2.10:80 exists already".to_owned())]
    );
    assert_eq!(
        judge(&|new| {
            let member = VirtualAddress { port: 81, ..services[2].members[0] };
            new.members.extend([member, member]);
        }),
        [(ErrorCode::Invalid, "members[1]: tcp 192.0.2.11:81 is at members[0] already".to_owned())]
    );
    let own = ServiceConfig::new(ServiceId::Virtual(services[2].members[0]));
    assert_eq!(
        texts(validate_new_service(&surroundings, services, &own)),
        [(ErrorCode::Exists, "address: tcp 192.0.2.11:80 belongs to group web already".to_owned())]
    );
}

#[test]
fn a_new_service_of_thousands_of_real_servers_is_judged_against_tens_of_thousands_of_services() {
    let Config { mut director, services, .. } = good();
    (director.service_capacity, director.real_server_capacity) = (100_000, 200_000);
    let service = |port| ServiceConfig::new(ServiceId::new(Protocol::Tcp, [192, 0, 2, 20], port));
    let running: Vec<ServiceConfig> = (1..=60_000).map(service).chain(services).collect();
    let mut new = ServiceConfig::new(ServiceId::new(Protocol::Tcp, [192, 0, 2, 30], 80));
    let real_server = |number: u32| RealServerConfig {
        address: std::net::Ipv4Addr::from_bits(0x0a01_0000 + number).into(),
        ..running[60_000].real_servers[0].clone()
    };
    new.real_servers = (0..100_000).map(real_server).collect();
    new.real_servers[7].address = "192.0.2.30".parse().unwrap();
    new.real_servers[8].address = "192.0.2.20".parse().unwrap();
    let empty = Config::default();
    let surroundings = Surroundings { director: &director, ..Surroundings::of(&empty) };
    let problems = texts(validate_new_service(&surroundings, &running, &new));
    let expected = [
        "real_servers[7].address: 192.0.2.30 is the VIP of tcp 192.0.2.30:80",
        "real_servers[8].address: 192.0.2.20 is the VIP of tcp 192.0.2.20:1",
    ];
    assert_eq!(problems, expected.map(|text| (ErrorCode::Invalid, text.to_owned())));
}

#[test]
fn a_new_member_is_judged_with_places_of_its_own() {
    let config = with_group();
    let Config { director, services, .. } = config.clone();
    let judge = |group: &str, address: &str, director: &DirectorConfig| {
        let surroundings = Surroundings { director, ..Surroundings::of(&config) };
        let address = address.parse().unwrap();
        let member = VirtualAddress { protocol: Protocol::Tcp, address, port: 80 };
        let new = OneMember { group: group.parse().unwrap(), member };
        texts(validate_new_member(&surroundings, &services, &new))
    };
    assert_eq!(judge("web", "192.0.2.12", &director), []);
    for (group, address, code, problem) in [
        ("web", "192.0.2.10", ErrorCode::Exists, "member.address: tcp 192.0.2.10:80 exists already"),
        (
            "web",
            "192.0.2.11",
            ErrorCode::Exists,
            "member.address: tcp 192.0.2.11:80 belongs to group web already",
        ),
        ("web", "10.0.0.13", ErrorCode::Invalid, "member.address: 10.0.0.13 is a real server of group web"),
        (
            "web",
            "10.0.0.1",
            ErrorCode::Invalid,
            "member.address: 10.0.0.1 is the director's own address (DIP) on port lan0",
        ),
    ] {
        assert_eq!(judge(group, address, &director), [(code, problem.to_owned())]);
    }
    let full = DirectorConfig { service_capacity: 4, ..director.clone() };
    assert_eq!(judge("web", "192.0.2.12", &full)[0].0, ErrorCode::Full);
}

#[test]
fn a_changed_service_is_judged_with_places_of_its_own() {
    let config = with_group();
    let (surroundings, services) = (Surroundings::of(&config), config.services.as_slice());
    let judge = |index: usize, change: &dyn Fn(&mut ServiceConfig)| {
        let mut changed = services[index].clone();
        change(&mut changed);
        texts(validate_changed_service(&surroundings, services, &changed))
    };
    assert_eq!(judge(2, &|_| {}), []);
    assert_eq!(judge(2, &|changed| changed.fwmark = Some(8)), []);
    assert_eq!(
        judge(0, &|changed| changed.fwmark = Some(8)),
        [(ErrorCode::Invalid, "fwmark: tcp 192.0.2.10:80 is no group".to_owned())]
    );
    assert_eq!(
        judge(0, &|changed| changed.persistence = Some(persistence(0))),
        [(ErrorCode::Invalid, "persistence.timeout_seconds: 0 is under 1".to_owned())]
    );
}

#[test]
fn arguments_of_single_verbs_are_judged_with_places_of_their_own() {
    let config = with_group();
    let (surroundings, services) = (Surroundings::of(&config), config.services.as_slice());
    let mut new = services[0].real_servers[0].clone();
    new.address = "10.0.0.77".parse().unwrap();
    new.lower_threshold = 1;
    let invalid = |text: &str| [(ErrorCode::Invalid, text.to_owned())];
    assert_eq!(
        texts(validate_new_real_server(&surroundings, services, services[2].id, &new)),
        invalid("real_server.lower_threshold: 1 is given and no upper threshold")
    );
    assert_eq!(
        texts(validate_changed_real_server(&surroundings, &services[0], &new)),
        invalid("lower_threshold: 1 is given and no upper threshold")
    );
    let drain = |timeout_seconds| DrainRs {
        service: services[2].id,
        real_server: new.id(),
        timeout_seconds,
        keep_persistent: false,
    };
    assert_eq!(texts(validate_drain(&drain(Some(0)))), invalid("timeout_seconds: 0 is under 1"));
    assert_eq!(texts(validate_drain(&drain(None))), []);
    let query = |offset, state: &str| ConnectionsQuery {
        offset,
        state: Some(state.to_owned()),
        ..ConnectionsQuery::default()
    };
    assert_eq!(texts(validate_connections_query(&query(999_000, "C-WAIT"))), []);
    assert_eq!(
        texts(validate_connections_query(&query(999_001, "UDP"))),
        invalid("offset: with limit it is 1000001, which is over 1000000")
    );
    assert_eq!(texts(validate_connections_query(&query(0, "ESTAB"))), invalid("state: `ESTAB` is no state"));
}
