//! Tests of `request`.

use proptest::prelude::*;

use super::*;
use crate::config::{ConnectionsConfig, Persistence};
use crate::protocol::{Apply, ConnectionsQuery, Filter, PersistenceChange, Response, SetOptions};

const ADD_RS: &str = r#"{"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"real_server":{"address":"10.0.0.11","weight":2}}}"#;

fn error_of(line: &str) -> (ErrorCode, String, Option<String>) {
    let error = parse_request(line.as_bytes()).expect_err(line);
    (error.code, error.message, error.help)
}

/// One good request of every verb.
fn requests() -> Vec<String> {
    let service = r#"{"protocol":"tcp","address":"192.0.2.10","port":80}"#;
    let one_rs = format!(r#"{{"service":{service},"real_server":"10.0.0.11"}}"#);
    let arguments = [
        ("add-vip", r#"{"protocol":"udp","address":"192.0.2.10","port":53,"scheduler":"lc","real_servers":[{"address":"10.0.0.11","weight":0,"mac":"02:00:00:00:00:0b","drain":true}]}"#.to_owned()),
        ("set-vip", format!(r#"{{"service":{service},"scheduler":"wrr","scheduler_flags":["flag-2"],"slow_start_seconds":0,"persistence":{{"timeout_seconds":60,"netmask":"255.255.255.0","engine":"sip"}},"one_packet":false,"timeouts":{{"udp":0}},"fwmark":0}}"#)),
        ("del-vip", format!(r#"{{"service":{service}}}"#)),
        ("add-member", r#"{"group":"web","member":{"protocol":"sctp","address":"192.0.2.10","port":0}}"#.to_owned()),
        ("del-member", r#"{"group":"web","member":{"protocol":"tcp","address":"192.0.2.10","port":80}}"#.to_owned()),
        ("add-rs", format!(r#"{{"service":{service},"real_server":{{"address":"10.0.0.11"}}}}"#)),
        ("set-rs", format!(r#"{{"service":{service},"real_server":"10.0.0.11","weight":3,"mac":"arp","drain":false}}"#)),
        ("del-rs", one_rs.clone()),
        ("drain-rs", r#"{"service":{"group":"web"},"real_server":"10.0.0.11","timeout_seconds":300,"keep_persistent":true}"#.to_owned()),
        ("add-lip", r#"{"address":"2001:db8::200"}"#.to_owned()),
        ("del-lip", r#"{"address":"10.0.0.200"}"#.to_owned()),
        ("clear", "{}".to_owned()),
        ("batch", format!(r#"{{"commands":[{{"verb":"clear"}},{{"verb":"add-vip","arguments":{{"group":"web","members":[{{"protocol":"tcp","address":"192.0.2.10","port":0}}],"fwmark":7}}}},{{"verb":"del-rs","arguments":{one_rs}}}]}}"#)),
        ("set-options", r#"{"timeouts":{"tcp_established":60},"sloppy_tcp":true,"conn_reuse_mode":3}"#.to_owned()),
        ("zero", format!(r#"{{"service":{service}}}"#)),
        ("show", format!(r#"{{"service":{service}}}"#)),
        ("stats", "{}".to_owned()),
        ("connections", r#"{"client":"198.51.100.7","vip":"192.0.2.10","real_server":"10.0.0.11","state":"TIME_WAIT","kind":"all","sort":"real-server","descending":true,"offset":10,"limit":5}"#.to_owned()),
        ("neighbours", "null".to_owned()),
        ("status", "{}".to_owned()),
        ("apply", r#"{"config":{"services":[{"protocol":"tcp","address":"192.0.2.10","port":80}]},"dry_run":true}"#.to_owned()),
        ("config", "{}".to_owned()),
    ];
    arguments
        .into_iter()
        .map(|(verb, arguments)| format!(r#"{{"version":1,"verb":"{verb}","arguments":{arguments}}}"#))
        .collect()
}

#[test]
fn every_verb_is_read_and_reads_back_as_it_is_written() {
    let requests = requests();
    assert_eq!(requests.len(), VERBS.len());
    for (request, verb) in requests.iter().zip(VERBS) {
        let command =
            parse_request(request.as_bytes()).unwrap_or_else(|error| panic!("{request}: {error:?}"));
        assert_eq!(command.verb(), *verb);
        let line = encode_request(&command);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(parse_request(&line).as_ref(), Ok(&command));
        // serde's derive, for whoever reads the protocol with it, has the same verbs.
        assert_eq!(serde_json::from_slice::<Command>(&line).ok().as_ref(), Some(&command));
    }
}

#[test]
fn a_real_server_is_named_with_the_services_own_port_or_without() {
    let service = r#"{"protocol":"tcp","address":"2001:db8::10","port":80}"#;
    let del = |name: &str| {
        let line = format!(
            r#"{{"version":1,"verb":"del-rs","arguments":{{"service":{service},"real_server":"{name}"}}}}"#
        );
        parse_request(line.as_bytes()).map_err(|error| error.message)
    };
    for (name, id) in [
        ("10.0.0.11", "10.0.0.11"),
        ("10.0.0.11:80", "10.0.0.11"),
        ("10.0.0.11:8080", "10.0.0.11:8080"),
        ("2001:DB8::11", "2001:db8::11"),
        ("[2001:db8::11]:80", "2001:db8::11"),
        ("[2001:db8::11]:8080", "[2001:db8::11]:8080"),
    ] {
        let Command::DelRs(del) = del(name).unwrap() else { panic!("{name}") };
        assert_eq!(del.real_server.to_string(), id, "{name}");
    }
    for name in [
        "",
        "10.0.0",
        "10.0.0.11:",
        "10.0.0.11:0",
        "10.0.0.11:65536",
        "[2001:db8::11]",
        "fe80::1%1",
        "[fe80::1%1]:80",
    ] {
        let message = format!(
            "arguments.real_server: `{name}` is no real server such as 10.0.0.11, 10.0.0.11:8080 or [2001:db8::11]:8080"
        );
        assert_eq!(del(name), Err(message));
    }
}

#[test]
fn arguments_that_are_all_optional_may_be_absent() {
    for (verb, command) in [
        ("show", Command::Show(Filter::default())),
        ("stats", Command::Stats(Filter::default())),
        ("connections", Command::Connections(ConnectionsQuery::default())),
        ("clear", Command::Clear),
        ("set-options", Command::SetOptions(SetOptions::default())),
        ("zero", Command::Zero(Filter::default())),
        ("neighbours", Command::Neighbours),
        ("status", Command::Status),
        ("config", Command::Config),
    ] {
        for tail in ["", ",\"arguments\":null", ",\"arguments\":{}"] {
            let line = format!("{{\"verb\":\"{verb}\",\"version\":1{tail}}}\n");
            assert_eq!(parse_request(line.as_bytes()).as_ref(), Ok(&command), "{line}");
        }
    }
}

#[test]
fn only_what_changes_something_is_a_change() {
    for request in requests() {
        let command = parse_request(request.as_bytes()).unwrap();
        let is_change = matches!(
            command.verb(),
            "add-vip"
                | "set-vip"
                | "del-vip"
                | "add-member"
                | "del-member"
                | "add-rs"
                | "set-rs"
                | "del-rs"
                | "drain-rs"
                | "add-lip"
                | "del-lip"
                | "clear"
                | "batch"
                | "set-options"
                | "zero"
        );
        assert_eq!(command.is_change(), is_change, "{request}");
    }
    assert!(Command::Apply(Apply { config: Box::default(), dry_run: false }).is_change());
}

#[test]
fn another_version_is_refused_with_both_named_before_all_else() {
    for (line, found) in [
        (r#"{"version":2,"verb":"new-verb","new":1}"#, "2"),
        (r#"{"verb":"status"}"#, "none"),
        (r#"{"version":"1","verb":"status"}"#, "\"1\""),
        (r#"{"version":1.0,"verb":"status"}"#, "1.0"),
        (r#"{"version":null,"verb":"status"}"#, "none"),
        ("{}", "none"),
    ] {
        let (code, message, help) = error_of(line);
        assert_eq!(code, ErrorCode::WrongVersion, "{line}");
        assert_eq!(message, format!("version: this is version 1 of the protocol, the request is of {found}"));
        assert!(help.is_some());
    }
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    for (line, message) in [
        ("", "byte 1: not JSON: EOF while parsing a value"),
        ("\n", "byte 1: not JSON: EOF while parsing a value"),
        ("GET / HTTP/1.1", "byte 1: not JSON: expected value"),
        ("{\"version\":1,\"verb\":\"sta", "byte 24: not JSON: EOF while parsing a string"),
        ("{\"version\":1}{\"version\":1}", "byte 14: not JSON: trailing characters"),
        ("[1,\"status\",{}]", "a request is an object: {\"version\":1,\"verb\":...}"),
        ("3", "a request is an object: {\"version\":1,\"verb\":...}"),
        ("{\"version\":1}", "verb: it is missing"),
        ("{\"version\":1,\"verb\":7}", "verb: text in quotes is wanted here, not the integer `7`"),
        ("{\"version\":1,\"verb\":\"shwo\"}", "verb: unknown verb `shwo`"),
        ("{\"version\":1,\"verb\":\"status\",\"args\":{}}", "args: unknown key `args`"),
        ("{\"version\":1,\"version\":1,\"verb\":\"status\"}", "version: duplicate field `version`"),
        (
            "{\"version\":1,\"verb\":\"status\",\"arguments\":[]}",
            "arguments: a table of keys and values is wanted here",
        ),
        (
            "{\"version\":1,\"verb\":\"status\",\"arguments\":{\"all\":true}}",
            "arguments.all: unknown key `all`",
        ),
        ("{\"version\":1,\"verb\":\"add-rs\"}", "arguments.service: it is missing"),
    ] {
        let (code, found, _) = error_of(line);
        assert_eq!((code, found.as_str()), (ErrorCode::BadRequest, message), "{line}");
    }
    let error = parse_request(b"{\"version\":1,\"verb\":\"\xff\"}").unwrap_err();
    assert_eq!(error.message, "byte 22 of the request is not UTF-8");
}

#[test]
fn an_unknown_verb_is_answered_with_the_known_ones_and_the_nearest() {
    let (_, _, help) = error_of(r#"{"version":1,"verb":"add_rs"}"#);
    let help = help.unwrap();
    assert!(help.starts_with("did you mean `add-rs`? Known verbs are add-vip, set-vip,"), "{help}");
    assert!(VERBS.iter().all(|verb| help.contains(verb)));
}

#[test]
fn a_wrong_argument_is_told_with_its_path() {
    for (from, to, message, help) in [
        (
            "\"weight\":2",
            "\"weight\":70000",
            "arguments.real_server.weight: 70000 is over 65535",
            Some("give a whole number from 0 to 65535"),
        ),
        (
            "\"weight\":2",
            "\"weight\": -1 ",
            "arguments.real_server.weight: -1 is under 0",
            Some("give a whole number from 0 to 65535"),
        ),
        (
            "\"weight\":2",
            "\"weight\":null",
            "arguments.real_server.weight: a whole number from 0 to 65535 is wanted here, not null",
            None,
        ),
        (
            "\"weight\":2",
            "\"wieght\":2",
            "arguments.real_server.wieght: unknown key `wieght`",
            Some(
                "did you mean `weight`? Known are address, port, weight, mac, forwarding, client_address, upper_threshold, lower_threshold, tunnel, drain",
            ),
        ),
        (
            "\"weight\":2",
            "\"mac\":\"ff:ff:ff:ff:ff:ff\"",
            "arguments.real_server.mac: `ff:ff:ff:ff:ff:ff` is not a unicast MAC address such as 02:00:00:00:00:0b",
            None,
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0\"",
            "arguments.real_server.address: `10.0.0` is no IP address such as 192.0.2.10 or 2001:db8::10",
            None,
        ),
        (
            "\"10.0.0.11\"",
            "[1,2]",
            "arguments.real_server.address: IP address is wanted here, not a list",
            None,
        ),
        (
            "\"tcp\"",
            "\"tpc\"",
            "arguments.service.protocol: unknown value `tpc`",
            Some("did you mean `tcp`? Known are tcp, udp, sctp"),
        ),
        (",\"port\":80", "", "arguments.service.port: it is missing", Some("add `port`")),
        (
            "\"port\":80",
            "\"port\":65536",
            "arguments.service.port: 65536 is over 65535",
            Some(crate::validate::PORT_HELP),
        ),
        (
            "\"weight\":2",
            "\"drain\":{\"until_unix_seconds\":true}",
            "arguments.real_server.drain.until_unix_seconds: a whole number from 0 to 18446744073709551615 is wanted \
             here, not the boolean `true`",
            None,
        ),
        (
            "{\"address\":\"10.0.0.11\",\"weight\":2}",
            "\"10.0.0.11\"",
            "arguments.real_server: a table of keys and values is wanted here, not the string \"10.0.0.11\"",
            None,
        ),
    ] {
        assert!(ADD_RS.contains(from), "{from}");
        let (code, found, found_help) = error_of(&ADD_RS.replacen(from, to, 1));
        let is_range = message.contains(" is over ") || message.contains(" is under ");
        assert_eq!(code, if is_range { ErrorCode::Invalid } else { ErrorCode::BadRequest }, "{to}");
        assert_eq!((found.as_str(), found_help.as_deref()), (message, help), "{to}");
    }
}

#[test]
fn a_wrong_value_deep_in_a_list_is_told_with_its_index() {
    let line = r#"{"version":1,"verb":"apply","arguments":{"config":{"services":[{"protocol":"tcp","address":"192.0.2.10","port":80,"real_servers":[]},{"protocol":"tcp","address":"192.0.2.10","port":81,"scheduler":"wrrr","real_servers":[{"address":"10.0.0.11"},{"address":"10.0.0.12","weight":-5}]}]}}}"#;
    let (_, message, help) = error_of(line);
    assert_eq!(message, "arguments.config.services[1].scheduler: unknown scheduler `wrrr`");
    let known = Algorithm::ALL.map(|algorithm| algorithm.name()).join(", ");
    assert_eq!(help, Some(format!("did you mean `wrr`? Known are {known}")));
    let (_, message, _) = error_of(&line.replace("wrrr", "wrr"));
    assert_eq!(message, "arguments.config.services[1].real_servers[1].weight: -5 is under 0");
}

#[test]
fn a_service_is_named_by_address_or_group_and_by_nothing_else() {
    for (service, message) in [
        (r#"{"group":"web","port":80}"#, "arguments.service.group: a service with `group` has no `protocol`"),
        (r#"{"group":"w b"}"#, "arguments.service.group: `w b` is no group name"),
        (r#"{}"#, "arguments.service.protocol: it is missing"),
        (r#"{"protocol":"tcp","port":80}"#, "arguments.service.address: it is missing"),
    ] {
        let line = format!(r#"{{"version":1,"verb":"show","arguments":{{"service":{service}}}}}"#);
        let (code, found, _) = error_of(&line);
        assert!(code == ErrorCode::BadRequest && found.starts_with(message), "{found}");
    }
    let line =
        r#"{"version":1,"verb":"apply","arguments":{"config":{"services":[{"group":"web"},{"fwmark":7}]}}}"#;
    assert_eq!(error_of(line).1, "arguments.config.services[1].protocol: it is missing");
    let line = r#"{"version":1,"verb":"add-vip","arguments":{"protocol":"tcp","port":80}}"#;
    assert_eq!(error_of(line).1, "arguments.address: it is missing");
    let line = r#"{"version":1,"verb":"add-vip","arguments":{"group":"web","scheduler_flags":["mh-port"]}}"#;
    assert_eq!(
        error_of(line).1,
        "arguments.scheduler_flags: `mh-port` is a flag of the scheduler mh, not of wlc"
    );
}

#[test]
fn flags_of_another_scheduler_than_the_new_one_are_refused_and_of_an_unnamed_one_taken() {
    let set = |arguments: &str| {
        format!(r#"{{"version":1,"verb":"set-vip","arguments":{{"service":{{"group":"web"}},{arguments}}}}}"#)
    };
    let (code, message, _) = error_of(&set(r#""scheduler":"rr","scheduler_flags":["sh-port"]"#));
    assert_eq!(code, ErrorCode::BadRequest);
    assert_eq!(message, "arguments.scheduler_flags: `sh-port` is a flag of the scheduler sh, not of rr");
    let command = parse_request(set(r#""scheduler_flags":["mh-port"]"#).as_bytes()).unwrap();
    let Command::SetVip(set) = command else { panic!("{command:?}") };
    assert!(set.scheduler_flags.unwrap().port);
}

#[test]
fn persistence_is_off_or_a_table_and_wrong_ones_keep_their_place() {
    let set = |persistence: &str| {
        let service = r#"{"group":"web"}"#;
        format!(
            r#"{{"version":1,"verb":"set-vip","arguments":{{"service":{service},"persistence":{persistence}}}}}"#
        )
    };
    for (persistence, change) in [
        ("\"off\"", PersistenceChange::Off),
        (
            "{}",
            PersistenceChange::On(Persistence {
                timeout_seconds: 360,
                netmask: crate::config::Netmask::Host,
                engine: None,
            }),
        ),
    ] {
        let command = parse_request(set(persistence).as_bytes()).unwrap();
        let Command::SetVip(set) = command else { panic!("{command:?}") };
        assert_eq!(set.persistence, Some(change));
    }
    for (persistence, message) in [
        ("\"of\"", "arguments.persistence: unknown value `of`"),
        (
            "7",
            "arguments.persistence: \"off\" or a table of keys and values is wanted here, not the integer `7`",
        ),
        (r#"{"netmask":"24"}"#, "arguments.persistence.netmask: `24` is no IPv4 address such as 192.0.2.10"),
        ("[]", "arguments.persistence: a table of keys and values is wanted here, not a list"),
    ] {
        assert_eq!(error_of(&set(persistence)).1, message);
    }
}

#[test]
fn an_error_in_a_batch_has_its_index_and_place() {
    let batch = |second: &str| {
        let commands = format!(r#"[{{"verb":"clear"}},{second}]"#);
        format!(r#"{{"version":1,"verb":"batch","arguments":{{"commands":{commands}}}}}"#)
    };
    let good = ADD_RS.replace(r#""version":1,"#, "");
    assert!(parse_request(batch(&good).as_bytes()).is_ok());
    for (second, code, message) in [
        (
            good.replace("\"weight\":2", "\"weight\":70000"),
            ErrorCode::Invalid,
            "arguments.commands[1].arguments.real_server.weight: 70000 is over 65535",
        ),
        (
            good.replace("\"weight\":2", "\"wieght\":2"),
            ErrorCode::BadRequest,
            "arguments.commands[1].arguments.real_server.wieght: unknown key `wieght`",
        ),
        (
            good.replace("add-rs", "add_rs"),
            ErrorCode::BadRequest,
            "arguments.commands[1].verb: unknown verb `add_rs`",
        ),
        (ADD_RS.to_owned(), ErrorCode::BadRequest, "arguments.commands[1].version: unknown key `version`"),
        (
            r#"{"verb":"show"}"#.to_owned(),
            ErrorCode::BadRequest,
            "arguments.commands[1].verb: `show` changes nothing",
        ),
        (
            r#"{"verb":"batch","arguments":{"commands":[]}}"#.to_owned(),
            ErrorCode::BadRequest,
            "arguments.commands[1].verb: `batch` is none of a batch",
        ),
        (
            r#"{"verb":"apply","arguments":{"config":{"services":[]}}}"#.to_owned(),
            ErrorCode::BadRequest,
            "arguments.commands[1].verb: `apply` is none of a batch",
        ),
        (
            "[]".to_owned(),
            ErrorCode::BadRequest,
            "arguments.commands[1]: a table of keys and values is wanted here",
        ),
        (
            r#"{"verb":"add-rs","arguments":[]}"#.to_owned(),
            ErrorCode::BadRequest,
            "arguments.commands[1].arguments: a table of keys and values is wanted here",
        ),
        ("{}".to_owned(), ErrorCode::BadRequest, "arguments.commands[1].verb: it is missing"),
    ] {
        let error = parse_request(batch(&second).as_bytes()).unwrap_err();
        assert_eq!((error.code, error.message.as_str(), error.index), (code, message, Some(1)), "{second}");
    }
    let (_, message, _) = error_of(r#"{"version":1,"verb":"batch","arguments":{"commands":7}}"#);
    assert_eq!(message, "arguments.commands: a list in [ ] is wanted here, not the integer `7`");
}

#[test]
fn a_client_is_an_address_or_a_network() {
    for (client, written) in [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.0/24", "198.51.100.0/24"),
        ("198.51.100.7/32", "198.51.100.7"),
    ] {
        let line = format!(r#"{{"version":1,"verb":"connections","arguments":{{"client":"{client}"}}}}"#);
        let command = parse_request(line.as_bytes()).unwrap();
        assert!(
            String::from_utf8(encode_request(&command))
                .unwrap()
                .contains(&format!("\"client\":\"{written}\""))
        );
    }
    let (_, message, _) =
        error_of(r#"{"version":1,"verb":"connections","arguments":{"client":"198.51.100.0/33"}}"#);
    assert!(message.starts_with("arguments.client: `198.51.100.0/33` is no address or network"), "{message}");
}

#[test]
fn an_apply_that_does_not_name_connections_says_nothing_of_them() {
    let apply = |config: &str| {
        let line = format!(r#"{{"version":1,"verb":"apply","arguments":{{"config":{config}}}}}"#);
        match parse_request(line.as_bytes()) {
            Ok(Command::Apply(apply)) => {
                assert_eq!(
                    parse_request(&encode_request(&Command::Apply(apply.clone()))),
                    Ok(Command::Apply(apply.clone()))
                );
                apply.config.connections
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(apply(r#"{"services":[]}"#), None);
    assert_eq!(apply(r#"{"services":[],"connections":{}}"#), Some(ConnectionsConfig::default()));
}

#[test]
fn an_apply_that_does_not_name_services_is_refused() {
    for config in ["{}", r#"{"director":{"memory_mib":256}}"#] {
        let line = format!(r#"{{"version":1,"verb":"apply","arguments":{{"config":{config}}}}}"#);
        let (code, message, help) = error_of(&line);
        assert_eq!(code, ErrorCode::BadRequest);
        assert!(message.starts_with("arguments.config.services: it is missing"), "{message}");
        assert!(help.is_some());
    }
    parse_request(br#"{"version":1,"verb":"apply","arguments":{"config":{"services":[]}}}"#).unwrap();
}

#[test]
fn an_object_given_as_a_list_is_refused() {
    for (line, place) in [
        (ADD_RS.replace(r#"{"protocol":"tcp","address":"192.0.2.10","port":80}"#, r#"["tcp","192.0.2.10",80]"#), "arguments.service"),
        (r#"{"version":1,"verb":"set-options","arguments":{"timeouts":[1]}}"#.to_owned(), "arguments.timeouts"),
        (ADD_RS.replace(r#"{"address":"10.0.0.11","weight":2}"#, r#"["10.0.0.11",2]"#), "arguments.real_server"),
        (r#"{"version":1,"verb":"apply","arguments":{"config":[]}}"#.to_owned(), "arguments.config"),
        (r#"{"version":1,"verb":"apply","arguments":{"config":{"director":[]}}}"#.to_owned(), "arguments.config.director"),
        (
            r#"{"version":1,"verb":"apply","arguments":{"config":{"services":[{},["tcp","192.0.2.10",80]]}}}"#.to_owned(),
            "arguments.config.services[1]",
        ),
    ] {
        let (code, message, _) = error_of(&line);
        let expected = format!("{place}: a table of keys and values is wanted here, not a list");
        assert_eq!((code, message), (ErrorCode::BadRequest, expected), "{line}");
    }
}

#[test]
fn a_timeout_past_its_type_is_told_the_range_of_timeouts() {
    let service = r#""service":{"group":"web"}"#;
    for (verb, arguments, place) in [
        (
            "drain-rs",
            r#""real_server":"10.0.0.11","timeout_seconds":1099511627776"#,
            "arguments.timeout_seconds",
        ),
        ("set-vip", r#""timeouts":{"udp":1099511627776}"#, "arguments.timeouts.udp"),
        (
            "set-vip",
            r#""persistence":{"timeout_seconds":1099511627776}"#,
            "arguments.persistence.timeout_seconds",
        ),
    ] {
        let line = format!(r#"{{"version":1,"verb":"{verb}","arguments":{{{service},{arguments}}}}}"#);
        let (code, message, help) = error_of(&line);
        assert_eq!((code, message.starts_with(place)), (ErrorCode::Invalid, true), "{message}");
        assert_eq!(help.as_deref(), Some("give a whole number from 1 to 2678400"), "{line}");
    }
}

#[test]
fn a_batch_past_its_limit_is_refused_and_one_at_it_is_not() {
    let batch = |commands: usize| {
        let commands = vec![r#"{"verb":"clear"}"#; commands].join(",");
        format!(r#"{{"version":1,"verb":"batch","arguments":{{"commands":[{commands}]}}}}"#)
    };
    let at_the_limit = parse_request(batch(BATCH_COMMANDS_MAX).as_bytes());
    assert!(matches!(at_the_limit, Ok(Command::Batch(batch)) if batch.commands.len() == BATCH_COMMANDS_MAX));
    let error = parse_request(batch(BATCH_COMMANDS_MAX + 1).as_bytes()).unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(error.message.ends_with("a batch has at most 500000 commands"), "{}", error.message);
}

#[test]
fn a_request_past_the_limit_is_refused_and_one_at_it_is_not() {
    let mut line = ADD_RS.as_bytes().to_vec();
    line.resize(REQUEST_BYTES_MAX, b' ');
    assert!(parse_request(&line).is_ok());
    line.push(b' ');
    let error = parse_request(&line).unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(error.message.contains("longer than 33554432 bytes"));
}

#[test]
fn nesting_of_a_megabyte_is_refused_without_a_panic() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = open.repeat(200_000) + "1" + &close.repeat(200_000);
        for line in [
            deep.clone(),
            format!("{{\"version\":{deep}}}"),
            format!("{{\"version\":1,\"verb\":{deep}}}"),
            format!("{{\"version\":1,\"verb\":\"status\",\"arguments\":{deep}}}"),
            format!("{{\"version\":1,\"verb\":\"show\",\"arguments\":{{\"service\":{deep}}}}}"),
        ] {
            let error = parse_request(line.as_bytes()).unwrap_err();
            assert!(error.message.len() < 2000);
        }
    }
}

#[test]
fn an_error_repeats_little_of_a_long_request() {
    let long = "x".repeat(1 << 20);
    for line in [
        format!("{{\"version\":\"{long}\"}}"),
        format!("{{\"version\":1,\"verb\":\"{long}\"}}"),
        format!("{{\"version\":1,\"{long}\":1}}"),
        ADD_RS.replace("10.0.0.11", &long),
        ADD_RS.replace("\"weight\":2", &format!("\"{long}\":2")),
        ADD_RS.replace("\"weight\":2", &format!("\"weight\":\"{long}\"")),
        ADD_RS.replace("\"weight\":2", &format!("\"mac\":\"{long}\"")),
    ] {
        let error = parse_request(line.as_bytes()).unwrap_err();
        assert!(Response::error(error).to_line().len() < 4000, "{}", &line[..60]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_request(&bytes);
    }

    #[test]
    fn any_json_like_text_is_read_without_a_panic(text in r#"[\[\]{}:,"\\0-9a-z.+ \-]{0,200}"#) {
        let _ = parse_request(text.as_bytes());
    }

    #[test]
    fn a_good_request_with_bytes_changed_cut_or_doubled_is_read_without_a_panic(
        which in 0..VERBS.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<u8>()), 1..8),
    ) {
        let mut line = requests()[which].as_bytes().to_vec();
        for (at, kind, byte) in edits {
            if line.is_empty() {
                break;
            }
            let position = at.index(line.len());
            match kind {
                0 => line[position] = byte,
                1 => { line.remove(position); }
                _ => line.insert(position, line[position]),
            }
        }
        let _ = parse_request(&line);
    }

    #[test]
    fn a_good_request_cut_anywhere_is_refused(which in 0..VERBS.len(), at in any::<prop::sample::Index>()) {
        let request = requests().swap_remove(which);
        let error = parse_request(&request.as_bytes()[..at.index(request.len())]).unwrap_err();
        prop_assert_eq!(error.code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_place_is_found_in_any_text(text in r#"[\[\]{}:,"\\0-9a-zé ]{0,100}"#, offset in 0usize..200) {
        let end = walk(&text, offset.min(text.len()), |_| false);
        let _ = (place("", &end.steps), text.get(end.value));
    }

    #[test]
    fn any_configuration_is_applied_as_it_was_sent(config in crate::config_file::any::any_config()) {
        let command = Command::Apply(Apply { config: Box::new(config), dry_run: false });
        prop_assert_eq!(parse_request(&encode_request(&command)), Ok(command));
    }
}

/// Half a million of them are held at once.
#[test]
fn a_command_of_a_batch_takes_no_more_memory_than_is_said() {
    let bytes = std::mem::size_of::<Command>() * BATCH_COMMANDS_MAX;
    assert!(bytes <= 170_000_000, "{bytes}");
}
