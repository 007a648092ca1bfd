use ctl::protocol::{AddRs, Apply, OneRealServer, OneService, SetVip};
use scheduler::Algorithm;

use super::*;

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

fn config(text: &str) -> Config {
    Config::from_toml(text, "test").unwrap()
}

fn first(config: &Config) -> ServiceId {
    config.services[0].id()
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// What `command` would change, in words.
fn changes(command: &Command) -> Result<Vec<String>, ErrorReply> {
    let running = config(FILE);
    let candidate = candidate(&running, &running.services, command)?.expect("a change");
    Ok(describe(&running.services, &candidate))
}

fn applied(text: &str) -> Result<Vec<String>, ErrorReply> {
    changes(&Command::Apply(Apply { config: config(text), dry_run: false }))
}

#[test]
fn single_changes_are_told_in_one_line() {
    let running = config(FILE);
    let service = first(&running);
    let set = SetRs { service, address: address("10.0.0.11"), weight: None, mac: None, drain: None };
    let mac: ctl::mac::MacAddress = "02:00:00:00:00:0b".parse().unwrap();
    let new = RealServerConfig { address: address("10.0.0.14"), weight: 9, mac: Some(mac), drain: true };
    for (command, line) in [
        (
            Command::DelVip(OneService { service }),
            "removed VIP tcp 192.0.2.10:80 with its 3 real servers",
        ),
        (
            Command::SetVip(SetVip { service, scheduler: Algorithm::Wrr }),
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
            Command::DrainRs(OneRealServer { service, address: set.address }),
            "draining real server 10.0.0.11 of tcp 192.0.2.10:80",
        ),
        (
            Command::DelRs(OneRealServer { service, address: set.address }),
            "removed real server 10.0.0.11 from tcp 192.0.2.10:80",
        ),
    ] {
        assert_eq!(changes(&command).unwrap(), [line], "{command:?}");
    }
    for nothing in [
        Command::SetRs(SetRs { weight: Some(1), ..set.clone() }),
        Command::SetRs(set),
        Command::SetVip(SetVip { service, scheduler: Algorithm::Wlc }),
    ] {
        assert!(changes(&nothing).unwrap().is_empty(), "{nothing:?}");
    }
}

#[test]
fn what_does_not_exist_or_does_already_is_refused_by_its_code() {
    let running = config(FILE);
    let service = first(&running);
    let missing = ServiceId { port: 81, ..service };
    let real_server =
        RealServerConfig { address: address("10.0.0.11"), weight: 1, mac: None, drain: false };
    let outside = RealServerConfig { address: address("10.1.0.11"), ..real_server.clone() };
    let new = RealServerConfig { address: address("10.0.0.99"), ..real_server.clone() };
    for (command, code) in [
        (Command::DelVip(OneService { service: missing }), ErrorCode::NotFound),
        (Command::SetVip(SetVip { service: missing, scheduler: Algorithm::Rr }), ErrorCode::NotFound),
        (Command::AddVip(running.services[0].clone()), ErrorCode::Exists),
        (Command::AddRs(AddRs { service: missing, real_server: new }), ErrorCode::NotFound),
        (Command::AddRs(AddRs { service, real_server }), ErrorCode::Exists),
        (Command::AddRs(AddRs { service, real_server: outside }), ErrorCode::Invalid),
        (Command::DelRs(OneRealServer { service, address: address("10.0.0.99") }), ErrorCode::NotFound),
        (Command::DrainRs(OneRealServer { service, address: address("10.0.0.99") }), ErrorCode::NotFound),
    ] {
        let error = changes(&command).unwrap_err();
        assert_eq!(error.code, code, "{command:?}: {}", error.message);
    }
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
