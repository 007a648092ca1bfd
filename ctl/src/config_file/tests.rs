//! Tests of `config_file`.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::any::any_config;
use super::*;
use crate::config::{DirectorConfig, Drain, Timeouts};
use crate::validate::validate;
use scheduler::Algorithm;

const GOOD: &str = r#"# Every key but those of `director` that are left to their defaults.
[director]
worker_cpus = [2, 3]
metrics_listen = "off"
control_group = "dr"

[[ports]]
name = "lan0"
device = "net_af_packet0,iface=eth1"
addresses = ["10.0.0.1/24"]
mtu = 1500

[[services]]
protocol = "tcp"
address = "192.0.2.10"
port = 80
scheduler = "wrr"

[[services.real_servers]]
address = "10.0.0.11"
weight = 2

[[services.real_servers]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0c"
drain = true
"#;

fn schedulers() -> String {
    Algorithm::ALL.map(|algorithm| algorithm.name()).join(", ")
}

fn error_of(text: &str) -> TextError {
    match Config::from_toml(text, "lb.toml") {
        Err(ConfigError::Text(error)) => *error,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_good_file_is_read_key_by_key() {
    let config = Config::from_toml(GOOD, "lb.toml").unwrap();
    assert_eq!(config.director.worker_cpus, [2, 3]);
    assert_eq!(config.director.metrics_listen, None);
    assert_eq!(config.director.memory_mib, DirectorConfig::default().memory_mib);
    assert_eq!(config.ports[0].rx_descriptors, 1024);
    let service = &config.services[0];
    assert_eq!(service.id().to_string(), "tcp 192.0.2.10:80");
    assert_eq!(service.scheduler, Algorithm::Wrr);
    assert_eq!((service.real_servers[0].weight, service.real_servers[1].weight), (2, 1));
    assert!(service.real_servers[1].drain == Some(Drain::default()) && service.real_servers[1].mac.is_some());
    assert_eq!(validate(&config), Ok(()));
}

#[test]
fn a_weight_out_of_range_shows_place_line_and_range() {
    let error = error_of(&GOOD.replace("weight = 2", "weight = 70000"));
    assert_eq!(
        error.to_string(),
        "lb.toml:21:10: services[0].real_servers[0].weight: 70000 is over 65535\n   |\n21 | weight = 70000\n   |          ^^^^^"
    );
    assert_eq!(error.help.as_deref(), Some("give a whole number from 0 to 65535"));
}

#[test]
fn every_wrong_key_and_value_is_told_with_its_place_and_what_is_allowed() {
    for (from, to, place, message, help) in [
        (
            "weight = 2",
            "wieght = 2",
            "services[0].real_servers[0].wieght",
            "unknown key `wieght`",
            Some(
                "did you mean `weight`? Known are address, port, weight, mac, forwarding, client_address, upper_threshold, lower_threshold, tunnel, drain",
            ),
        ),
        (
            "[[services]]",
            "[[servces]]",
            "servces",
            "unknown key `servces`",
            Some("did you mean `services`? Known are director, ports, routes, connections, nat, services"),
        ),
        (
            "\"wrr\"",
            "\"wrrr\"",
            "services[0].scheduler",
            "unknown scheduler `wrrr`",
            Some(&format!("did you mean `wrr`? Known are {}", schedulers())),
        ),
        (
            "\"tcp\"",
            "\"tpc\"",
            "services[0].protocol",
            "unknown value `tpc`",
            Some("did you mean `tcp`? Known are tcp, udp, sctp"),
        ),
        ("\"tcp\"", "6", "services[0].protocol", "text in quotes is wanted here", None),
        (
            "weight = 2",
            "weight = -1",
            "services[0].real_servers[0].weight",
            "-1 is under 0",
            Some("give a whole number from 0 to 65535"),
        ),
        (
            "weight = 2",
            "weight = 1.5",
            "services[0].real_servers[0].weight",
            "a whole number from 0 to 65535 is wanted here, not the floating point `1.5`",
            None,
        ),
        (
            "weight = 2",
            "weight = \"2\"",
            "services[0].real_servers[0].weight",
            "a whole number from 0 to 65535 is wanted here, not the string \"2\"",
            None,
        ),
        (
            "port = 80",
            "port = 65536",
            "services[0].port",
            "65536 is over 65535",
            Some(crate::validate::PORT_HELP),
        ),
        ("port = 80\n", "", "services[0].port", "it is missing", Some("add `port`")),
        (
            "address = \"10.0.0.11\"\n",
            "",
            "services[0].real_servers[0].address",
            "it is missing",
            Some("add `address`"),
        ),
        (
            "\"192.0.2.10\"",
            "\"192.0.2.300\"",
            "services[0].address",
            "`192.0.2.300` is no IP address such as 192.0.2.10 or 2001:db8::10",
            None,
        ),
        (
            "\"10.0.0.1/24\"",
            "\"10.0.0.1\"",
            "ports[0].addresses[0]",
            "`10.0.0.1` is no address with its network such as 10.0.0.1/24 or 2001:db8::1/64",
            None,
        ),
        (
            "\"02:00:00:00:00:0c\"",
            "\"03:00:00:00:00:0c\"",
            "services[0].real_servers[1].mac",
            "`03:00:00:00:00:0c` is not a unicast MAC address such as 02:00:00:00:00:0b",
            None,
        ),
        (
            "drain = true",
            "drain = 1",
            "services[0].real_servers[1].drain",
            "true, false or a table of keys and values is wanted here, not the integer `1`",
            None,
        ),
        (
            "drain = true",
            "drain = { until = 1 }",
            "services[0].real_servers[1].drain.until",
            "unknown key `until`",
            Some("known are until_unix_seconds, keep_persistent"),
        ),
        (
            "drain = true",
            "drain = { until_unix_seconds = -1 }",
            "services[0].real_servers[1].drain.until_unix_seconds",
            "-1 is under 0",
            Some("give a whole number from 0 to 18446744073709551615"),
        ),
        (
            "port = 80",
            "port = 80\npersistence = { timeout_seconds = \"6m\" }",
            "services[0].persistence.timeout_seconds",
            "a whole number from 0 to 4294967295 is wanted here, not the string \"6m\"",
            None,
        ),
        (
            "port = 80",
            "port = 80\npersistence = { engine = \"sipp\" }",
            "services[0].persistence.engine",
            "unknown value `sipp`",
            Some("did you mean `sip`? Known are sip"),
        ),
        (
            "port = 80",
            "port = 80\nscheduler_flags = [\"flag-1\", \"sh_port\"]",
            "services[0].scheduler_flags[1]",
            "unknown scheduler flag `sh_port`",
            Some(&format!("did you mean `sh-port`? Known are {}", crate::scheduler_flags::NAMES.join(", "))),
        ),
        (
            "port = 80",
            "port = 80\nscheduler_flags = [\"sh-port\"]",
            "services[0].scheduler_flags",
            "`sh-port` is a flag of the scheduler sh, not of wrr",
            None,
        ),
        (
            "port = 80",
            "port = 80\ntimeouts = { udpp = 3 }",
            "services[0].timeouts.udpp",
            "unknown key `udpp`",
            Some(&format!("did you mean `udp`? Known are {}", Timeouts::NAMES.join(", "))),
        ),
        (
            "port = 80",
            "port = 80\ngroup = \"web\"",
            "services[0].group",
            "a service with `group` has no `protocol`, `address` and `port` of its own, but `members`",
            None,
        ),
        (
            "port = 80",
            "port = 80\nfwmark = 7",
            "services[0].fwmark",
            "it is of service groups only, which have `group` instead of `address`",
            None,
        ),
        (
            "port = 80",
            "port = 80\nmembers = [{ protocol = \"tcp\", address = \"192.0.2.10\" }]",
            "services[0].members[0].port",
            "it is missing",
            Some("add `port`"),
        ),
        (
            "protocol = \"tcp\"\naddress = \"192.0.2.10\"\nport = 80",
            "group = \"-web\"",
            "services[0].group",
            "`-web` is no group name: give 1 to 31 letters, digits, `-`, `_` or `.`, the first a letter or digit",
            None,
        ),
        (
            "[director]",
            "[connections]\nsloppy_tcp = 1\n[director]",
            "connections.sloppy_tcp",
            "true or false is wanted here, not the integer `1`",
            None,
        ),
        (
            "\"off\"",
            "\"9190\"",
            "director.metrics_listen",
            "`9190` is neither an address with a port such as 127.0.0.1:9190 nor `off`",
            None,
        ),
        (
            "mtu = 1500",
            "mtu = 1500\n[[routes]]\nnetwork = \"10.1\"\ngateway = \"10.0.0.254\"",
            "routes[0].network",
            "`10.1` is no network such as 10.0.0.0/8 or 2001:db8::/32",
            None,
        ),
        (
            "mtu = 1500",
            "mtu = 1500\n[[ports.vlans]]\nid = 7",
            "ports[0].vlans[0].addresses",
            "it is missing",
            Some("add `addresses`"),
        ),
        (
            "mtu = 1500",
            "qinq = \"passs\"",
            "ports[0].qinq",
            "unknown value `passs`",
            Some("did you mean `pass`? Known are drop, pass"),
        ),
        (
            "weight = 2",
            "forwarding = \"masq\"",
            "services[0].real_servers[0].forwarding",
            "unknown value `masq`",
            Some("known are dr, tunnel, nat, fullnat"),
        ),
        (
            "weight = 2",
            "client_address = \"proxy\"",
            "services[0].real_servers[0].client_address",
            "unknown value `proxy`",
            Some("known are none, toa, proxy-v2"),
        ),
        (
            "weight = 2",
            "tunnel = { kind = \"gue\" }",
            "services[0].real_servers[0].tunnel.kind",
            "unknown key `kind`",
            Some("known are type, port, checksum"),
        ),
        (
            "weight = 2",
            "tunnel = { type = \"gue\", port = 70000 }",
            "services[0].real_servers[0].tunnel.port",
            "70000 is over 65535",
            Some("give a port from 1 to 65535"),
        ),
        (
            "port = 80",
            "port = 80\npersistence = { netmask = \"255.0.0.0\", prefix_length = 64 }",
            "services[0].persistence.prefix_length",
            "give `netmask` for IPv4 clients or `prefix_length` for IPv6 clients, not both",
            None,
        ),
        (
            "port = 80",
            "port = 80\nfamily = \"ipv6\"",
            "services[0].family",
            "it is of service groups only, which have `group` instead of `address`",
            None,
        ),
        (
            "[director]",
            "[nat]\nlocal_addresses = [\"10.0.0.200/24\"]\n[director]",
            "nat.local_addresses[0]",
            "`10.0.0.200/24` is no IP address such as 192.0.2.10 or 2001:db8::10",
            None,
        ),
        (
            "[2, 3]",
            "[2, -3]",
            "director.worker_cpus[1]",
            "-3 is under 0",
            Some("give a whole number from 0 to 18446744073709551615"),
        ),
        ("[2, 3]", "2", "director.worker_cpus", "a list in [ ] is wanted here, not the integer `2`", None),
        (
            "worker_cpus",
            "hugepages = \"on\"\nworker_cpus",
            "director.hugepages",
            "unknown value `on`",
            Some("known are auto, off, required"),
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = error_of(&GOOD.replacen(from, to, 1));
        let found = (error.place.as_str(), error.message.as_str(), error.help.as_deref());
        assert_eq!(found, (place, message, help), "{to}");
        assert!(error.excerpt.contains('^'));
    }
}

#[test]
fn a_list_where_a_table_belongs_is_refused() {
    for (text, place) in [
        ("director = []", "director"),
        ("connections = []", "connections"),
        ("nat = []", "nat"),
        ("routes = [[\"10.0.0.0/8\", \"10.0.0.254\"]]", "routes[0]"),
        ("ports = [{ name = \"lan0\", device = \"net_null0\", vlans = [[7, []]] }]", "ports[0].vlans[0]"),
        (
            "services = [{ group = \"web\", real_servers = [{ address = \"10.0.0.11\", tunnel = [\"gre\"] }] }]",
            "services[0].real_servers[0].tunnel",
        ),
        ("services = [{ group = \"web\", persistence = [] }]", "services[0].persistence"),
        ("services = [{ group = \"web\", timeouts = [] }]", "services[0].timeouts"),
        (
            "services = [{ group = \"web\", members = [[\"tcp\", \"192.0.2.10\", 80]] }]",
            "services[0].members[0]",
        ),
        ("ports = [[\"lan0\", \"net_null0\", []]]", "ports[0]"),
        ("services = [[\"tcp\", \"192.0.2.10\", 80, \"wlc\", []]]", "services[0]"),
        (
            "services = [{ protocol = \"tcp\", address = \"192.0.2.10\", port = 80, real_servers = [[\"10.0.0.11\"]] }]",
            "services[0].real_servers[0]",
        ),
    ] {
        let error = error_of(text);
        assert_eq!(error.place, place);
        assert_eq!(error.message, "a table of keys and values is wanted here, not a list");
    }
}

#[test]
fn a_text_that_is_no_toml_shows_the_line() {
    for (text, start) in [
        ("[[services", "lb.toml:1:11: unclosed array table, expected `]]`\n"),
        (
            "[director]\nmemory_mib = \n",
            "lb.toml:2:14: string values must be quoted, expected literal string\n",
        ),
        ("[director]\nmemory_mib = 1\nmemory_mib = 2\n", "lb.toml:3:1: duplicate key\n"),
        ("<html>", "lb.toml:1:7: key with no value, expected `=`\n"),
    ] {
        let error = error_of(text);
        assert!(error.to_string().starts_with(start) && error.place.is_empty(), "{error}");
        assert!(error.excerpt.contains('^'), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_a_configuration_or_an_error_with_a_place() {
    for end in 0..GOOD.len() {
        match Config::from_toml(&GOOD[..end], "lb.toml") {
            Ok(config) => {
                let _ = validate(&config);
                assert_eq!(Config::from_toml(&config.to_toml(), "again").unwrap(), config);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.starts_with("lb.toml:") && text.contains('^'), "{end}: {text}");
            }
        }
    }
}

#[test]
fn what_is_written_is_read_back_and_readable() {
    let config = Config::from_toml(GOOD, "lb.toml").unwrap();
    let text = config.to_toml();
    assert_eq!(Config::from_toml(&text, "again").unwrap(), config);
    assert!(
        text.contains("\n[[services]]\nprotocol = \"tcp\"\naddress = \"192.0.2.10\"\nport = 80\n"),
        "{text}"
    );
    assert!(
        text.contains("\n[[services.real_servers]]\naddress = \"10.0.0.12\"\nweight = 1\nmac = \"02:00:00:00:00:0c\"\ndrain = true\n"),
        "{text}"
    );
    assert_eq!(Config::from_toml(&Config::default().to_toml(), "again").unwrap(), Config::default());
}

proptest! {
    #[test]
    fn every_configuration_is_read_back_as_it_was_written(config in any_config()) {
        prop_assert_eq!(Config::from_toml(&config.to_toml(), "lb.toml").unwrap(), config);
    }

    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "(?s).{0,200}") {
        if let Ok(config) = Config::from_toml(&text, "lb.toml") {
            let _ = validate(&config);
        }
    }

    #[test]
    fn a_good_file_with_bytes_changed_is_a_configuration_or_an_error(
        edits in prop::collection::vec((0..GOOD.len(), prop::sample::select(b"[]{}=\"',.#0-9ae\n \\".to_vec())), 1..6)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (position, byte) in edits {
            bytes[position] = byte;
        }
        let text = String::from_utf8(bytes).unwrap();
        match Config::from_toml(&text, "lb.toml") {
            Ok(config) => { let _ = validate(&config); }
            Err(error) => prop_assert!(error.to_string().contains('^')),
        }
    }

    #[test]
    fn any_configuration_is_judged_without_a_panic(config in any_config()) {
        let _ = crate::validate::validate_for_start(&config);
    }
}

#[test]
fn a_file_that_is_no_text_or_too_long_or_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    let error = Config::load(&path).unwrap_err();
    assert!(
        matches!(error, ConfigError::Unreadable { .. }) && error.code() == ErrorCode::NotFound,
        "{error}"
    );

    fs::write(&path, b"[director]\nworker_cpus = [\xff]\n").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert!(error.to_string().contains(":2:16: this byte is not UTF-8\n"), "{error}");

    fs::write(&path, vec![b'#'; CONFIG_BYTES_MAX + 1]).unwrap();
    assert!(matches!(Config::load(&path).unwrap_err(), ConfigError::TooLong { .. }));
    let longest = [vec![b'#'; CONFIG_BYTES_MAX - 1], vec![b'\n']].concat();
    fs::write(&path, longest).unwrap();
    assert_eq!(Config::load(&path).unwrap(), Config::default());

    let error = Config::load(folder.path()).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
}

#[test]
fn a_file_written_replaces_the_old_one_and_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    let config = Config::from_toml(GOOD, "lb.toml").unwrap();
    config.write_atomically(&path).unwrap();
    assert_eq!(Config::load(&path).unwrap(), config);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    Config::default().write_atomically(&path).unwrap();
    assert_eq!(Config::load(&path).unwrap(), Config::default());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_link_to_a_file_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let (target, link) = (folder.path().join("real.toml"), folder.path().join("lb.toml"));
    fs::write(&target, "").unwrap();
    symlink("real.toml", &link).unwrap();
    let config = Config::from_toml(GOOD, "lb.toml").unwrap();
    config.write_atomically(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Config::load(&target).unwrap(), config);
}

#[test]
fn a_link_to_a_file_that_is_not_there_yet_leads_to_the_new_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("there")).unwrap();
    let (target, link) = (folder.path().join("there/real.toml"), folder.path().join("lb.toml"));
    symlink("there/second", &link).unwrap();
    symlink("real.toml", folder.path().join("there/second")).unwrap();
    let config = Config::from_toml(GOOD, "lb.toml").unwrap();
    config.write_atomically(&link).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(Config::load(&target).unwrap(), config);
    symlink("ring", folder.path().join("ring")).unwrap();
    assert!(config.write_atomically(&folder.path().join("ring")).is_err());
}

#[test]
fn what_cannot_be_written_is_an_error_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default();
    let error = config.write_atomically(&folder.path().join("missing/lb.toml")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    let a_folder = folder.path().join("lb.toml");
    fs::create_dir(&a_folder).unwrap();
    let error = config.write_atomically(&a_folder).unwrap_err();
    assert!(error.to_string().ends_with("it is not a regular file"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_saved_file_cut_anywhere_is_refused_and_a_handwritten_one_cut_amid_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    let services = "[[services]]\nprotocol = 'tcp'\naddress = '192.0.2.10'\nport = 80\n\
                    [[services.real_servers]]\naddress = '10.0.0.11'\n";
    let config = Config::from_toml(services, "test").unwrap();
    config.write_atomically(&path).unwrap();
    assert_eq!(Config::load(&path).unwrap(), config);
    let saved = fs::read(&path).unwrap();
    for length in 1..saved.len() {
        fs::write(&path, &saved[..length]).unwrap();
        let error = Config::load(&path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Invalid, "{length} bytes");
        assert!(error.help().is_some());
    }
    for length in (1..services.len()).filter(|&length| services.as_bytes()[length - 1] != b'\n') {
        fs::write(&path, &services[..length]).unwrap();
        assert!(Config::load(&path).is_err(), "{length} bytes");
    }
}

#[test]
fn a_text_without_services_is_not_applied() {
    for text in ["", "[director]\nmemory_mib = 256\n", "# services = []\n"] {
        let error = check_names_services(text, "lb.toml").unwrap_err();
        assert!(error.to_string().contains("services: it is missing"), "{error}");
    }
    check_names_services("services = []\n", "lb.toml").unwrap();
}
