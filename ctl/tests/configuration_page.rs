//! docs/CONFIGURATION.md against the code: every key with its default and range, every verb, code and example.

use std::collections::{BTreeMap, BTreeSet};

use ctl::config::{
    ClientAddress, Config, ConnectionsConfig, DirectorConfig, Drain, Forwarding, HostInterface, NatConfig,
    Persistence, PortConfig, RealServerConfig, RouteConfig, ServiceConfig, Timeouts, TunnelChecksum,
    TunnelConfig, TunnelType, VlanConfig,
};
use ctl::protocol::{BATCH_COMMANDS_MAX, ErrorCode, REQUEST_BYTES_MAX, Response};
use ctl::request::{VERBS, parse_request};
use ctl::validate::{self, validate_for_start};
use scheduler::Algorithm;
use serde::Serialize;
use serde_json::{Value, json};

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md");
    std::fs::read_to_string(path).expect("docs/CONFIGURATION.md")
}

/// What stands between a heading and the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}")) + 1;
    let text = &page[start + heading.len()..];
    text.find("\n#").map_or(text, |end| &text[..end])
}

/// The code blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The rows of a section's table by key: default and range.
fn rows<'a>(page: &'a str, heading: &str) -> BTreeMap<&'a str, (&'a str, &'a str)> {
    let rows = section(page, heading).lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        assert_eq!(cells.len(), 6, "{row}");
        (cells[0], (cells[3], cells[4]))
    })
    .collect()
}

fn keys<T: Serialize>(value: &T) -> BTreeSet<String> {
    serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
}

/// The page's rows are the keys of `full`, each with the default that `minimal` has, `required` ones aside.
#[track_caller]
fn assert_keys<T: Serialize>(heading: &str, full: &T, minimal: &T, required: &[&str]) {
    assert_key_names(heading, &keys(full), minimal, required);
}

/// Keys that are not written where they have their default.
const UNWRITTEN: [(&str, &str); 16] = [
    ("netmask", "\"255.255.255.255\""),
    ("prefix_length", "128"),
    ("host_interface", "\"auto\""),
    ("qinq", "\"drop\""),
    ("vlans", "[]"),
    ("forwarding", "\"dr\""),
    ("client_address", "\"none\""),
    ("checksum", "\"none\""),
    ("drain", "false"),
    ("keep_persistent", "false"),
    ("upper_threshold", "0"),
    ("lower_threshold", "0"),
    ("scheduler_flags", "[]"),
    ("members", "[]"),
    ("slow_start_seconds", "0"),
    ("one_packet", "false"),
];

#[track_caller]
fn assert_key_names<T: Serialize>(heading: &str, full: &BTreeSet<String>, minimal: &T, required: &[&str]) {
    let page = page();
    let rows = rows(&page, heading);
    let named: BTreeSet<String> = rows.keys().map(|key| (*key).to_owned()).collect();
    assert_eq!(&named, full, "{heading}");
    let minimal = serde_json::to_value(minimal).unwrap();
    for (key, (default, _)) in rows {
        let expected = match minimal.get(key) {
            _ if required.contains(&key) => "required".to_owned(),
            Some(value) => value.to_string(),
            None => {
                let unwritten = UNWRITTEN.iter().find(|(unwritten, _)| *unwritten == key);
                unwritten.map_or("none", |(_, default)| default).to_owned()
            }
        };
        assert_eq!(default, expected, "{heading} {key}");
    }
}

fn full() -> Config {
    Config::from_toml(blocks(&page(), "toml")[0], "CONFIGURATION.md").unwrap()
}

#[test]
fn the_page_names_every_key_of_the_schema_with_its_default() {
    let config = full();
    assert_keys("### director", &config.director, &DirectorConfig::default(), &[]);

    let required = ["name", "device"];
    let minimal: PortConfig = serde_json::from_value(json!({ "name": "a", "device": "b" })).unwrap();
    let all = config.ports.iter().flat_map(keys).collect();
    assert_key_names("### ports", &all, &minimal, &required);

    let minimal: VlanConfig = serde_json::from_value(json!({ "id": 1, "addresses": [] })).unwrap();
    let vlan = &config.ports[0].vlans[0];
    assert_keys("### ports.vlans", vlan, &minimal, &["id", "addresses"]);

    let minimal: RouteConfig =
        serde_json::from_value(json!({ "network": "::/0", "gateway": "::2" })).unwrap();
    let all = config.routes.iter().flat_map(keys).collect();
    assert_key_names("### routes", &all, &minimal, &["network", "gateway"]);

    assert_keys("### nat", config.nat.as_ref().unwrap(), &NatConfig::default(), &[]);

    let required = ["protocol", "address", "port"];
    let minimal: ServiceConfig =
        serde_json::from_value(json!({ "protocol": "tcp", "address": "192.0.2.10", "port": 80 })).unwrap();
    let mut all: BTreeSet<String> = config.services.iter().flat_map(keys).collect();
    // Written where the members do not say it.
    all.insert("family".to_owned());
    assert_key_names("### services", &all, &minimal, &required);

    let connections = config.connections.as_ref().unwrap();
    assert_keys("### connections", connections, &ConnectionsConfig::default(), &[]);
    assert_keys("### Timeouts", &Timeouts::IPVS, &Timeouts::IPVS, &[]);

    let minimal: Persistence = serde_json::from_value(json!({})).unwrap();
    let all =
        config.services.iter().filter_map(|service| service.persistence.as_ref()).flat_map(keys).collect();
    assert_key_names("### services.persistence", &all, &minimal, &[]);

    let member = config.services.iter().find_map(|service| service.members.first()).unwrap();
    assert_keys("### services.members", member, member, &["protocol", "address", "port"]);

    let full = Drain { until_unix_seconds: Some(1), keep_persistent: true };
    assert_keys("### services.real_servers.drain", &full, &Drain::default(), &[]);

    let full = TunnelConfig { kind: TunnelType::Gue, port: Some(1), checksum: TunnelChecksum::Csum };
    assert_keys("### services.real_servers.tunnel", &full, &TunnelConfig::default(), &[]);

    let minimal: RealServerConfig = serde_json::from_value(json!({ "address": "10.0.0.11" })).unwrap();
    let real_servers = config.services.iter().flat_map(|service| &service.real_servers);
    let all = real_servers.flat_map(keys).collect();
    assert_key_names("### services.real_servers", &all, &minimal, &["address"]);
}

#[test]
fn the_page_names_the_ranges_that_are_checked() {
    let page = page();
    let director = rows(&page, "### director");
    let ports = rows(&page, "### ports");
    let vlans = rows(&page, "### ports.vlans");
    let services = rows(&page, "### services");
    let connections = rows(&page, "### connections");
    let real_servers = rows(&page, "### services.real_servers");
    let range = |start: u32, end: u32| format!("{start} to {end}");
    let words = |range: &std::ops::RangeInclusive<u32>| format!("{} to {}", range.start(), range.end());
    let small = |range: &std::ops::RangeInclusive<u16>| format!("{} to {}", range.start(), range.end());
    for (row, expected) in [
        (director["memory_mib"], words(&validate::MEMORY_MIB)),
        (director["mbuf_count"], words(&validate::MBUF_COUNT)),
        (director["mbuf_data_room"], small(&validate::MBUF_DATA_ROOM)),
        (director["connection_capacity_per_worker"], words(&validate::CONNECTION_CAPACITY)),
        (director["service_capacity"], words(&validate::SERVICE_CAPACITY)),
        (director["real_server_capacity"], words(&validate::REAL_SERVER_CAPACITY)),
        (director["control_socket"], format!("1 to {} bytes", validate::CONTROL_SOCKET_BYTES_MAX)),
        (director["control_cpus"], format!("0 to {}, each once", validate::CPU_MAX)),
        (
            director["worker_cpus"],
            format!("0 to {}, {} at most, each once", validate::CPU_MAX, validate::WORKERS_MAX),
        ),
        (ports["rx_descriptors"], small(&validate::DESCRIPTORS)),
        (ports["tx_descriptors"], small(&validate::DESCRIPTORS)),
        (ports["mtu"], small(&validate::MTU)),
        (ports["name"], format!("1 to {} of `A-Z a-z 0-9 _ . -", validate::NAME_BYTES_MAX)),
        (ports["device"], format!("1 to {} bytes", validate::DEVICE_BYTES_MAX)),
        (
            ports["addresses"],
            format!(
                "{} at most, prefix 1 to 32 or 128; one at least where there are no VLANs",
                validate::ADDRESSES_MAX
            ),
        ),
        (ports["host_interface"], format!("auto`, `off`, 1 to {} bytes", HostInterface::NAME_BYTES_MAX)),
        (vlans["id"], small(&validate::VLAN_ID)),
        (vlans["mtu"], small(&validate::MTU) + ", not over the port's"),
        (vlans["addresses"], format!("1 to {} of them, prefix 1 to 32 or 128", validate::ADDRESSES_MAX)),
        (director["host_packets_per_second"], words(&validate::HOST_PACKETS_PER_SECOND)),
        (director["icmp_packets_per_second"], words(&validate::ICMP_PACKETS_PER_SECOND)),
        (director["fragment_capacity_per_worker"], words(&validate::FRAGMENT_CAPACITY)),
        (
            rows(&page, "### services.persistence")["prefix_length"],
            format!("{} to {}", validate::PREFIX_LENGTH.start(), validate::PREFIX_LENGTH.end()),
        ),
        (director["template_capacity"], words(&validate::TEMPLATE_CAPACITY)),
        (services["port"], range(0, 65535)),
        (services["fwmark"], words(&validate::FWMARK)),
        (services["slow_start_seconds"], words(&validate::SLOW_START_SECONDS)),
        (connections["conn_reuse_mode"], range(0, 3)),
        (connections["lblc_expiration_seconds"], words(&validate::TIMEOUT_SECONDS)),
        (connections["creation_rate_per_worker"], range(0, u32::MAX)),
        (rows(&page, "### services.persistence")["timeout_seconds"], words(&validate::TIMEOUT_SECONDS)),
        (rows(&page, "### services.members")["port"], range(0, 65535)),
        (real_servers["upper_threshold"], words(&validate::THRESHOLD)),
        (real_servers["lower_threshold"], words(&validate::THRESHOLD) + ", not over `upper_threshold"),
        (
            rows(&page, "### services.real_servers.drain")["until_unix_seconds"],
            format!("0 to {}", validate::DRAIN_UNTIL_UNIX_SECONDS.end()),
        ),
        (real_servers["weight"], range(0, 65535)),
    ] {
        assert_eq!(row.1, expected);
    }
    for (name, (_, range)) in rows(&page, "### Timeouts") {
        assert_eq!(range, words(&validate::TIMEOUT_SECONDS), "{name}");
    }
    assert!(
        section(&page, "### Timeouts").contains(&format!("most {}\ndifferent", validate::TIMEOUT_SETS_MAX))
    );
    for algorithm in Algorithm::ALL {
        assert!(format!("`{}`", services["scheduler"].1).contains(&format!("`{algorithm}`")), "{algorithm}");
    }
    for flag in ctl::scheduler_flags::NAMES {
        assert!(services["scheduler_flags"].1.contains(flag), "{flag}");
    }
    for (name, _) in Forwarding::ALL {
        assert!(real_servers["forwarding"].1.contains(name), "{name}");
    }
    for (name, _) in ClientAddress::ALL {
        assert!(real_servers["client_address"].1.contains(name), "{name}");
    }
    let tunnel = rows(&page, "### services.real_servers.tunnel");
    for (name, _) in TunnelType::ALL {
        assert!(tunnel["type"].1.contains(name), "{name}");
    }
    for (name, _) in TunnelChecksum::ALL {
        assert!(tunnel["checksum"].1.contains(name), "{name}");
    }
    let about_ports = section(&page, "### ports");
    assert!(about_ports.contains(&format!("{} ports at most", validate::PORTS_MAX)));
    assert!(about_ports.contains(&format!("at most {} interfaces", validate::INTERFACES_MAX)));
    assert!(about_ports.contains(&format!("IPv6 addresses {} at least", validate::IPV6_MTU_MIN)));
    assert!(section(&page, "### routes").contains(&format!("{} routes at most", validate::ROUTES_MAX)));
    let nat = rows(&page, "### nat")["local_addresses"].1;
    assert!(nat.starts_with(&format!("{} at most", validate::LOCAL_ADDRESSES_MAX)));
    assert!(page.contains(&format!("at most {REQUEST_BYTES_MAX}\nbytes")));
    assert!(page.contains(&format!("it has at most {BATCH_COMMANDS_MAX}.")));
}

#[test]
fn the_complete_example_is_valid_round_trips_and_has_every_key() {
    let page = page();
    let text = blocks(&page, "toml")[0];
    let config = Config::from_toml(text, "CONFIGURATION.md").unwrap();
    assert_eq!(validate_for_start(&config), Ok(()));
    assert_eq!(Config::from_toml(&config.to_toml(), "again").unwrap(), config);
    let Config { director, ports, routes, connections, nat, services } = &config;
    let real_servers = services.iter().flat_map(|service| &service.real_servers);
    let all = keys(director)
        .into_iter()
        .chain(ports.iter().flat_map(keys))
        .chain(ports.iter().flat_map(|port| &port.vlans).flat_map(keys))
        .chain(routes.iter().flat_map(keys))
        .chain(nat.iter().flat_map(keys))
        .chain(connections.iter().flat_map(keys))
        .chain(services.iter().flat_map(keys))
        .chain(services.iter().filter_map(|service| service.persistence.as_ref()).flat_map(keys))
        .chain(real_servers.clone().filter_map(|real_server| real_server.tunnel.as_ref()).flat_map(keys))
        .chain(real_servers.flat_map(keys));
    for key in all {
        assert!(text.contains(&format!("{key} =")) || text.contains(&format!("{key}]")), "{key}");
    }
}

#[test]
fn every_verb_has_an_example_that_the_daemon_understands() {
    let page = page();
    let examples = blocks(section(&page, "## The wire protocol"), "json");
    let verbs: BTreeSet<&str> =
        examples[0].lines().map(|line| parse_request(line.as_bytes()).expect(line).verb()).collect();
    assert_eq!(verbs, VERBS.iter().copied().collect());
    for line in examples[1].lines() {
        let response: Response = serde_json::from_str(line).unwrap();
        assert_eq!(response.to_line(), format!("{line}\n").into_bytes());
    }
    let shell = blocks(section(&page, "## dr-ctl"), "sh")[0];
    for verb in VERBS.iter().chain(["apply", "save", "check", "completions", "man"].iter()) {
        assert!(*verb == "config" || shell.contains(&format!("dr-ctl {verb}")), "{verb}");
    }
}

#[test]
fn every_error_code_has_its_row() {
    let page = page();
    let table = section(&page, "## The wire protocol");
    for code in [
        ErrorCode::BadRequest,
        ErrorCode::WrongVersion,
        ErrorCode::NotFound,
        ErrorCode::Exists,
        ErrorCode::Invalid,
        ErrorCode::Full,
        ErrorCode::Denied,
        ErrorCode::Timeout,
        ErrorCode::Internal,
    ] {
        let Value::String(name) = serde_json::to_value(code).unwrap() else { panic!("{code:?}") };
        assert!(table.contains(&format!("\n| `{name}` | ")), "{name}");
    }
}
