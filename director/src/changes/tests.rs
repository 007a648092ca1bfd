//! Changes in words, refused ones, batches.

use std::net::{IpAddr, Ipv4Addr};

use ctl::config::{Drain, Protocol, RealServerConfig};
use ctl::protocol::{AddRs, DrainRs, ErrorCode, MacSource, OneRealServer, OneService, SetRs, SetVip};
use scheduler::Algorithm;

use super::*;
use crate::describe::describe;

const FILE: &str = r#"
        [director]
        service_capacity = 100
        [[ports]]
        name = "inside"
        device = "memory0"
        addresses = ["10.0.0.1/24"]
        [[services]]
        protocol = "tcp"
        address = "192.0.2.10"
        port = 80
        real_servers = [
            { address = "10.0.0.11" },
            { address = "10.0.0.12", weight = 2 },
            { address = "10.0.0.13" },
        ]
        [[services]]
        protocol = "udp"
        address = "192.0.2.10"
        port = 53
        scheduler = "rr"
    "#;

/// Arguments that name the first service.
const SERVICE: &str = r#""service":{"protocol":"tcp","address":"192.0.2.10","port":80}"#;

fn config(text: &str) -> Config {
    Config::from_toml(text, "test").unwrap()
}

fn first(config: &Config) -> ServiceId {
    config.services[0].id()
}

fn real_server(text: &str) -> RealServerConfig {
    RealServerConfig::new(address(text))
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings(config: &Config) -> Settings {
    Settings {
        connections: config.connections.clone().unwrap_or_default(),
        nat: config.nat.clone().unwrap_or_default(),
        services: config.services.clone(),
    }
}

/// What `command` would change, in words.
fn changes(command: &Command) -> Result<Vec<String>, ErrorReply> {
    let config = config(FILE);
    changes_of(&config, &settings(&config), command)
}

fn changes_of(fixed: &Config, running: &Settings, command: &Command) -> Result<Vec<String>, ErrorReply> {
    Ok(describe(running, &made(fixed, running, command)?))
}

fn made(fixed: &Config, running: &Settings, command: &Command) -> Result<Settings, ErrorReply> {
    // The host has a place for one service more.
    let is_acceptable = |candidate: &Settings| match candidate.services.len() {
        0..=3 => Ok(()),
        _ => Err(ErrorReply::new(ErrorCode::Full, "no place")),
    };
    let (unix_now, has_ipv6) = (1_763_666_640, fixed.has_ipv6());
    let circumstances = Circumstances { fixed, has_ipv6, unix_now, is_acceptable: &is_acceptable };
    Ok(candidate(&circumstances, running, command)?.expect("a change"))
}

/// A command as it comes over the socket.
fn command(verb: &str, arguments: &str) -> Command {
    let line = format!(r#"{{"version":1,"verb":"{verb}","arguments":{arguments}}}"#);
    ctl::request::parse_request(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn applied(text: &str) -> Result<Vec<String>, ErrorReply> {
    changes(&Command::Apply(Apply { config: Box::new(config(text)), dry_run: false }))
}

#[test]
fn single_changes_are_told_in_one_line() {
    let running = config(FILE);
    let service = first(&running);
    let set = SetRs::new(service, address("10.0.0.11").into());
    let mac: ctl::mac::MacAddress = "02:00:00:00:00:0b".parse().unwrap();
    let new = RealServerConfig {
        weight: 9,
        mac: Some(mac),
        drain: Some(Drain::default()),
        ..real_server("10.0.0.14")
    };
    for (command, line) in [
        (Command::DelVip(OneService { service }), "removed VIP tcp 192.0.2.10:80 with its 3 real servers"),
        (
            Command::SetVip(SetVip { scheduler: Some(Algorithm::Wrr), ..SetVip::new(service) }),
            "scheduler of tcp 192.0.2.10:80: wlc -> wrr",
        ),
        (
            Command::AddRs(AddRs { service, real_server: new }),
            "added real server 10.0.0.14 to tcp 192.0.2.10:80, weight 9, MAC 02:00:00:00:00:0b, draining",
        ),
        (
            Command::SetRs(SetRs { weight: Some(5), ..set.clone() }),
            "weight of real server 10.0.0.11 of tcp 192.0.2.10:80: 1 -> 5",
        ),
        (
            Command::SetRs(SetRs { mac: Some(MacSource::Static(mac)), ..set.clone() }),
            "MAC of real server 10.0.0.11 of tcp 192.0.2.10:80: arp -> 02:00:00:00:00:0b",
        ),
        (
            Command::DrainRs(DrainRs {
                service,
                real_server: set.real_server,
                timeout_seconds: None,
                keep_persistent: false,
            }),
            "draining real server 10.0.0.11 of tcp 192.0.2.10:80",
        ),
        (
            Command::DelRs(OneRealServer { service, real_server: set.real_server }),
            "removed real server 10.0.0.11 from tcp 192.0.2.10:80",
        ),
    ] {
        assert_eq!(changes(&command).unwrap(), [line], "{command:?}");
    }
    for nothing in [
        Command::SetRs(SetRs { weight: Some(1), ..set.clone() }),
        Command::SetRs(set),
        Command::SetVip(SetVip { scheduler: Some(Algorithm::Wlc), ..SetVip::new(service) }),
    ] {
        assert!(changes(&nothing).unwrap().is_empty(), "{nothing:?}");
    }
}

#[test]
fn what_does_not_exist_or_does_already_is_refused_by_its_code() {
    let running = config(FILE);
    let service = first(&running);
    let missing = ServiceId::new(Protocol::Tcp, address("192.0.2.10"), 81);
    let real_server = real_server("10.0.0.11");
    let outside = RealServerConfig { address: address("10.1.0.11"), ..real_server.clone() };
    let new = RealServerConfig { address: address("10.0.0.99"), ..real_server.clone() };
    for (command, code) in [
        (Command::DelVip(OneService { service: missing }), ErrorCode::NotFound),
        (
            Command::SetVip(SetVip { scheduler: Some(Algorithm::Rr), ..SetVip::new(missing) }),
            ErrorCode::NotFound,
        ),
        (Command::AddVip(running.services[0].clone()), ErrorCode::Exists),
        (Command::AddRs(AddRs { service: missing, real_server: new }), ErrorCode::NotFound),
        (Command::AddRs(AddRs { service, real_server }), ErrorCode::Exists),
        (Command::AddRs(AddRs { service, real_server: outside }), ErrorCode::Invalid),
        (
            Command::DelRs(OneRealServer { service, real_server: address("10.0.0.99").into() }),
            ErrorCode::NotFound,
        ),
        (command("drain-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.99"}}"#)), ErrorCode::NotFound),
    ] {
        let error = changes(&command).unwrap_err();
        assert_eq!(error.code, code, "{command:?}: {}", error.message);
    }
}

#[test]
fn what_exists_already_is_refused_with_what_to_do() {
    let fixed = config(&format!("{FILE}\n[nat]\nlocal_addresses = [\"10.0.0.200\"]\n"));
    let member = r#"{"protocol":"tcp","address":"192.0.2.20","port":80}"#;
    let group = format!(r#"{{"group":"web","members":[{member}]}}"#);
    let running = made(&fixed, &settings(&fixed), &command("add-vip", &group)).unwrap();
    for (verb, arguments, message) in [
        ("add-vip", group.clone(), "group web exists already"),
        (
            "add-vip",
            r#"{"protocol":"tcp","address":"192.0.2.10","port":80}"#.to_owned(),
            "virtual service tcp 192.0.2.10:80 exists already",
        ),
        (
            "add-member",
            format!(r#"{{"group":"web","member":{member}}}"#),
            "tcp 192.0.2.20:80 is a member of group web already",
        ),
        (
            "add-rs",
            format!(r#"{{{SERVICE},"real_server":{{"address":"10.0.0.11"}}}}"#),
            "virtual service tcp 192.0.2.10:80 has real server 10.0.0.11 already",
        ),
        ("add-lip", r#"{"address":"10.0.0.200"}"#.to_owned(), "10.0.0.200 is a local address already"),
    ] {
        let error = changes_of(&fixed, &running, &command(verb, &arguments)).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::Exists, message));
        assert!(error.help.is_some(), "{message}");
    }
}

#[test]
fn real_server_with_a_port_cannot_be_set_to_a_method_without_one() {
    let port = r#""real_server":{"address":"10.0.0.77","port":8080,"forwarding":"nat"}"#;
    let fixed = config(FILE);
    let running =
        made(&fixed, &settings(&fixed), &command("add-rs", &format!("{{{SERVICE},{port}}}"))).unwrap();
    let set =
        command("set-rs", &format!(r#"{{{SERVICE},"real_server":"10.0.0.77:8080","forwarding":"dr"}}"#));
    let error = changes_of(&fixed, &running, &set).unwrap_err();
    assert_eq!(error.message, "port: 8080 is given, and forwarding by dr keeps the client's port");
    assert!(error.help.unwrap().starts_with("remove it and add it anew without a port"));
}

#[test]
fn apply_tells_every_difference_and_nothing_of_what_stays() {
    assert_eq!(applied(FILE).unwrap(), Vec::<String>::new());
    let text = FILE
        .replace(r#"{ address = "10.0.0.11" },"#, "")
        .replace("weight = 2", "weight = 3, drain = true")
        .replace("udp", "tcp")
        .replace("53", "443");
    assert_eq!(
        applied(&text).unwrap(),
        [
            "removed VIP udp 192.0.2.10:53",
            "removed real server 10.0.0.11 from tcp 192.0.2.10:80",
            "weight of real server 10.0.0.12 of tcp 192.0.2.10:80: 2 -> 3",
            "draining real server 10.0.0.12 of tcp 192.0.2.10:80",
            "added VIP tcp 192.0.2.10:443, scheduler rr",
        ]
    );
    let swapped = FILE.replace("0.11", "0.x").replace("0.13", "0.11").replace("0.x", "0.13");
    assert_eq!(applied(&swapped).unwrap(), ["reordered the real servers of tcp 192.0.2.10:80"]);
    assert_eq!(applied("").unwrap().len(), 2, "an empty file removes both");
}

#[test]
fn apply_of_other_fixed_sections_is_refused_with_the_keys() {
    let services_only = FILE.split_once("[[services]]").unwrap().1;
    assert_eq!(applied(&format!("[[services]]{services_only}")).unwrap(), Vec::<String>::new());
    for (from, to, key) in [
        ("service_capacity = 100", "service_capacity = 101", "director.service_capacity"),
        ("service_capacity = 100", "worker_cpus = [1]", "director.worker_cpus"),
        ("memory0", "memory1", "ports[0].device"),
        ("10.0.0.1/24", "10.0.0.1/25", "ports[0].addresses"),
        (
            "[[services]]\n        protocol = \"udp\"",
            "[[ports]]\nname=\"b\"\ndevice=\"c\"\naddresses=[]\n[[services]]\n        protocol = \"udp\"",
            "ports: the file has 2, 1 run",
        ),
    ] {
        let text = FILE.replace(from, to);
        assert_ne!(text, FILE, "{from}");
        let error = applied(&text).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(
            error.message.contains(key) && error.message.contains("needs a restart"),
            "{}",
            error.message
        );
    }
}

#[test]
fn invalid_apply_names_its_place() {
    let error = applied(&FILE.replace("10.0.0.13", "10.9.0.13")).unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    assert!(error.message.contains("services[0].real_servers[2].address"), "{}", error.message);
}

#[test]
fn new_kinds_of_changes_are_told_in_their_lines() {
    for (verb, arguments, lines) in [
        (
            "set-vip",
            r#"{SERVICE,"scheduler_flags":["mh-port"],"slow_start_seconds":30,"one_packet":false}"#,
            &[
                "scheduler flags of tcp 192.0.2.10:80: none -> flag-2",
                "slow start of tcp 192.0.2.10:80: 0 s -> 30 s",
            ][..],
        ),
        (
            "set-vip",
            r#"{SERVICE,"persistence":{"timeout_seconds":60,"netmask":"255.255.255.0"},"timeouts":{"tcp_close":5}}"#,
            &[
                "persistence of tcp 192.0.2.10:80: off -> 60 s, netmask 255.255.255.0",
                "timeout tcp_close of tcp 192.0.2.10:80: default -> 5 s",
            ],
        ),
        ("set-vip", r#"{SERVICE,"persistence":"off","timeouts":{"udp":0}}"#, &[]),
        (
            "set-rs",
            r#"{SERVICE,"real_server":"10.0.0.11","upper_threshold":100,"lower_threshold":80}"#,
            &["thresholds of real server 10.0.0.11 of tcp 192.0.2.10:80: none -> 100/80"],
        ),
        (
            "drain-rs",
            r#"{SERVICE,"real_server":"10.0.0.11","timeout_seconds":60,"keep_persistent":true}"#,
            &["draining real server 10.0.0.11 of tcp 192.0.2.10:80, removed with its last connection or at \
               2025-11-20T19:25:00Z, its persistent clients stay"],
        ),
        (
            "set-options",
            r#"{"timeouts":{"tcp_established":60},"sloppy_tcp":true,"conn_reuse_mode":1}"#,
            &["timeout tcp_established: default (900 s) -> 60 s", "sloppy_tcp: false -> true"],
        ),
        (
            "add-vip",
            r#"{"group":"web","fwmark":7,"members":[{"protocol":"tcp","address":"192.0.2.20","port":80}]}"#,
            &["added group web, scheduler wlc, fwmark 7", "added member tcp 192.0.2.20:80 to group web"],
        ),
        (
            "clear",
            "{}",
            &["removed VIP tcp 192.0.2.10:80 with its 3 real servers", "removed VIP udp 192.0.2.10:53"],
        ),
        ("zero", "{}", &[]),
    ] {
        let arguments = arguments.replace("SERVICE", SERVICE);
        assert_eq!(changes(&command(verb, &arguments)).unwrap(), lines, "{verb} {arguments}");
    }
}

#[test]
fn members_come_and_go_and_their_order_means_nothing() {
    let member = |port: u16| format!(r#"{{"protocol":"tcp","address":"192.0.2.20","port":{port}}}"#);
    let group = format!(r#"{{"group":"web","members":[{},{}]}}"#, member(80), member(443));
    let fixed = config(FILE);
    let running = made(&fixed, &settings(&fixed), &command("add-vip", &group)).unwrap();
    let one = |verb, port| command(verb, &format!(r#"{{"group":"web","member":{}}}"#, member(port)));
    let told = |command: &Command| changes_of(&fixed, &running, command);
    assert_eq!(told(&one("add-member", 81)).unwrap(), ["added member tcp 192.0.2.20:81 to group web"]);
    assert_eq!(told(&one("del-member", 80)).unwrap(), ["removed member tcp 192.0.2.20:80 from group web"]);
    assert_eq!(told(&one("add-member", 80)).unwrap_err().code, ErrorCode::Exists);
    assert_eq!(told(&one("del-member", 81)).unwrap_err().code, ErrorCode::NotFound);
    let mut turned = running.clone();
    turned.services.last_mut().unwrap().members.reverse();
    assert!(describe(&running, &turned).is_empty());
}

fn batch(commands: &[(&str, &str)]) -> Command {
    let commands =
        commands.iter().map(|(verb, arguments)| command(verb, &arguments.replace("SERVICE", SERVICE)));
    Command::Batch(Batch { commands: commands.collect() })
}

#[test]
fn batch_is_one_change_in_the_order_of_its_commands() {
    let lines = changes(&batch(&[
        ("del-rs", r#"{SERVICE,"real_server":"10.0.0.11"}"#),
        ("add-rs", r#"{SERVICE,"real_server":{"address":"10.0.0.11","weight":5}}"#),
        ("set-rs", r#"{SERVICE,"real_server":"10.0.0.12","weight":7}"#),
        ("set-rs", r#"{SERVICE,"real_server":"10.0.0.12","weight":8}"#),
        ("del-vip", r#"{"service":{"protocol":"udp","address":"192.0.2.10","port":53}}"#),
        ("set-options", r#"{"sloppy_tcp":true}"#),
    ]));
    assert_eq!(
        lines.unwrap(),
        [
            "sloppy_tcp: false -> true",
            "removed VIP udp 192.0.2.10:53",
            "weight of real server 10.0.0.12 of tcp 192.0.2.10:80: 2 -> 8",
            "weight of real server 10.0.0.11 of tcp 192.0.2.10:80: 1 -> 5",
            "reordered the real servers of tcp 192.0.2.10:80",
        ]
    );
}

#[test]
fn batch_names_the_first_command_that_is_wrong() {
    let good = ("set-rs", r#"{SERVICE,"real_server":"10.0.0.12","weight":7}"#);
    let missing = ("set-rs", r#"{SERVICE,"real_server":"10.0.0.99","weight":7}"#);
    let exists = ("add-rs", r#"{SERVICE,"real_server":{"address":"10.0.0.11"}}"#);
    let outside = ("add-rs", r#"{SERVICE,"real_server":{"address":"10.9.0.11"}}"#);
    let timeout = ("set-options", r#"{"timeouts":{"udp":4000000000}}"#);
    let first = ("add-vip", r#"{"protocol":"tcp","address":"192.0.2.11","port":80}"#);
    let too_many = ("add-vip", r#"{"protocol":"tcp","address":"192.0.2.12","port":80}"#);
    for (commands, index, code) in [
        (vec![good, missing], 1, ErrorCode::NotFound),
        (vec![good, good, exists, missing], 2, ErrorCode::Exists),
        (vec![outside, missing], 0, ErrorCode::Invalid),
        (vec![good, good, good, outside, good], 3, ErrorCode::Invalid),
        (vec![good, timeout, outside], 1, ErrorCode::Invalid),
        (vec![first, good, too_many, good], 2, ErrorCode::Full),
    ] {
        let error = changes(&batch(&commands)).unwrap_err();
        assert_eq!((error.index, error.code), (Some(index), code), "{commands:?}: {}", error.message);
    }
}

#[test]
fn drain_whose_deadline_has_passed_is_refused_where_it_is_new() {
    let now = 1_763_666_640_u64;
    let drained =
        |until: u64| format!(r#"{{"address":"10.0.0.14","drain":{{"until_unix_seconds":{until}}}}}"#);
    let added = |until| command("add-rs", &format!(r#"{{{SERVICE},"real_server":{}}}"#, drained(until)));
    let service = r#""protocol":"tcp","address":"192.0.2.11","port":80"#;
    let with =
        |until| format!(r#"{{{service},"real_servers":[{{"address":"10.0.0.11"}},{}]}}"#, drained(until));
    assert!(changes(&added(now + 1)).is_ok());
    assert!(changes(&command("add-vip", &with(now + 1))).is_ok());
    let batch =
        |until| Command::Batch(Batch { commands: vec![Command::Clear, command("add-vip", &with(until))] });
    assert!(changes(&batch(now + 1)).is_ok());
    let apply = |until: u64| {
        let services = format!(r#"{{"config":{{"services":[{}]}}}}"#, with(until));
        command("apply", &services)
    };
    assert!(changes(&apply(now + 1)).is_ok());
    for (refused, place, index) in [
        (added(now), "real_server.", None),
        (command("add-vip", &with(now)), "real_servers[1].", None),
        (batch(now), "real_servers[1].", Some(1)),
        (apply(now), "services[0].real_servers[1].", None),
    ] {
        let error = changes(&refused).unwrap_err();
        assert_eq!((error.code, error.index), (ErrorCode::Invalid, index), "{}", error.message);
        let start = format!("{place}drain.until_unix_seconds: 1763666640 (2025-11-20T19:24:00Z) has passed");
        assert!(error.message.starts_with(&start) && error.help.is_some(), "{}", error.message);
    }
    // What runs is no news: it goes by itself.
    let mut running = settings(&config(FILE));
    running.services.truncate(1);
    let drain = Drain { until_unix_seconds: Some(now), keep_persistent: false };
    running.services[0].real_servers[1].drain = Some(drain);
    let config = Config { services: running.services.clone(), ..Config::default() };
    let again = Command::Apply(Apply { config: Box::new(config), dry_run: false });
    assert_eq!(changes_of(&self::config(FILE), &running, &again), Ok(vec![]));
}

/// Each look at the whole asks the host once: so they are counted.
#[test]
fn batch_names_its_one_wrong_command_after_few_looks_at_the_whole() {
    let mut fixed = config(FILE);
    fixed.ports[0].addresses = vec!["10.0.0.1/16".parse().unwrap()];
    fixed.director.real_server_capacity = 20_000;
    let running = settings(&fixed);
    let added = |last: u32| {
        let address = Ipv4Addr::from(0x0a00_1000 + last);
        command("add-rs", &format!(r#"{{{SERVICE},"real_server":{{"address":"{address}"}}}}"#))
    };
    let wrong = command("add-rs", &format!(r#"{{{SERVICE},"real_server":{{"address":"10.9.0.11"}}}}"#));
    let mut commands: Vec<Command> = (0..4000).map(added).collect();
    commands[2500] = wrong;
    let looks = std::cell::Cell::new(0);
    let is_acceptable = |_: &Settings| {
        looks.set(looks.get() + 1);
        Ok(())
    };
    let circumstances = Circumstances {
        fixed: &fixed,
        has_ipv6: false,
        unix_now: 1_763_666_640,
        is_acceptable: &is_acceptable,
    };
    let error = candidate(&circumstances, &running, &Command::Batch(Batch { commands })).unwrap_err();
    assert_eq!((error.index, error.code), (Some(2500), ErrorCode::Invalid), "{}", error.message);
    assert!(looks.get() <= 1, "what is valid was looked at {} times", looks.get());
}

/// As many as a request holds; quadratic work would take minutes.
#[test]
fn batch_of_thousands_of_real_servers_is_quick() {
    let mut config = config(FILE);
    config.director.real_server_capacity = 20_000;
    config.ports[0].addresses = vec!["10.0.0.1/16".parse().unwrap()];
    let service = first(&config);
    let one = |number: u32| {
        let [_, _, c, d] = (0x0a00_1000 + number).to_be_bytes();
        Command::AddRs(AddRs { service, real_server: real_server(&format!("10.0.{c}.{d}")) })
    };
    let mut commands: Vec<_> = (0..16_000).map(one).collect();
    let begun = std::time::Instant::now();
    let all = Command::Batch(Batch { commands: commands.clone() });
    assert_eq!(changes_of(&config, &settings(&config), &all).unwrap().len(), 16_000);
    commands[15_000] = commands[0].clone();
    let error = changes_of(&config, &settings(&config), &Command::Batch(Batch { commands })).unwrap_err();
    assert_eq!(error.index, Some(15_000));
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

fn set_mac(service: ServiceId, address: IpAddr, mac: &str) -> Command {
    Command::SetRs(SetRs { mac: Some(mac.parse().unwrap()), ..SetRs::new(service, address.into()) })
}

#[test]
fn batch_gives_a_mac_to_every_service_of_the_host_and_not_to_those_that_get_it_later() {
    const OLD: &str = "02:00:00:00:00:0a";
    const NEW: &str = "02:00:00:00:00:0b";
    let config = config(FILE);
    let host = address("10.0.0.11");
    let [web, dns] = [config.services[0].id(), config.services[1].id()];
    let add = |service, mac: Option<&str>| {
        let mac = mac.map(|mac| mac.parse().unwrap());
        Command::AddRs(AddRs { service, real_server: RealServerConfig { mac, ..real_server("10.0.0.11") } })
    };
    let remove = |service| Command::DelRs(OneRealServer { service, real_server: host.into() });
    let macs = |commands: Vec<Command>| {
        let settings = made(&config, &settings(&config), &Command::Batch(Batch { commands }))?;
        let of = |service: &ServiceConfig| {
            let found = service.real_servers.iter().find(|known| known.address == host)?;
            Some(found.mac.map_or("arp".to_owned(), |mac| mac.to_string()))
        };
        Ok::<_, ErrorReply>([of(&settings.services[0]), of(&settings.services[1])])
    };
    let some = |mac: &str| Some(mac.to_owned());
    let both = macs(vec![add(dns, None), set_mac(web, host, OLD), set_mac(web, host, NEW)]);
    assert_eq!(both.unwrap(), [some(NEW), some(NEW)]);
    let later = macs(vec![set_mac(web, host, OLD), add(dns, None)]);
    assert_eq!(later.unwrap(), [some(OLD), some("arp")]);
    let again = macs(vec![add(dns, Some(OLD)), set_mac(web, host, NEW), remove(dns), add(dns, None)]);
    assert_eq!(again.unwrap(), [some(NEW), some("arp")]);
    let after_all = macs(vec![set_mac(web, host, OLD), add(dns, None), set_mac(dns, host, NEW)]);
    assert_eq!(after_all.unwrap(), [some(NEW), some(NEW)]);
    let taken_back = macs(vec![set_mac(web, host, OLD), set_mac(web, host, "arp"), remove(web)]);
    assert_eq!(taken_back.unwrap(), [None, None]);
    let another = macs(vec![set_mac(web, host, OLD), add(dns, Some(NEW))]).unwrap_err();
    assert_eq!((another.index, another.code), (Some(1), ErrorCode::Invalid));
}

#[test]
fn batch_sets_the_macs_of_thousands_of_real_servers() {
    let mut config = config(FILE);
    let hosts = [address("10.0.0.11"), address("10.0.0.12")];
    config.services = (1..=20_000)
        .map(|port| ServiceConfig {
            real_servers: vec![real_server("10.0.0.11"), real_server("10.0.0.12")],
            ..ServiceConfig::new(ServiceId::new(Protocol::Tcp, address("192.0.2.10"), port))
        })
        .collect();
    let pairs = config.services.iter().flat_map(|service| hosts.map(|host| (service.id(), host)));
    let set = |(service, host)| set_mac(service, host, "02:00:00:00:00:0b");
    let commands: Vec<Command> = pairs.map(set).collect();
    let mut draft = Draft::new(&settings(&config));
    commands.iter().for_each(|command| draft.edit(command, 0).unwrap());
    let mut real_servers = draft.finish().services.into_iter().flat_map(|service| service.real_servers);
    assert!(real_servers.all(|known| known.mac.is_some()));
}
