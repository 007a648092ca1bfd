//! Tests of `request`.

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::protocol::{Apply, ConnectionsQuery, Filter, Response};

const ADD_RS: &str = r#"{"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"real_server":{"address":"10.0.0.11","weight":2}}}"#;

fn error_of(line: &str) -> (ErrorCode, String, Option<String>) {
    let error = parse_request(line.as_bytes()).expect_err(line);
    (error.code, error.message, error.help)
}

/// One good request of every verb.
fn requests() -> Vec<String> {
    let service = r#"{"protocol":"tcp","address":"192.0.2.10","port":80}"#;
    let one_rs = format!(r#"{{"service":{service},"address":"10.0.0.11"}}"#);
    let arguments = [
        ("add-vip", r#"{"protocol":"udp","address":"192.0.2.10","port":53,"scheduler":"lc","real_servers":[{"address":"10.0.0.11","weight":0,"mac":"02:00:00:00:00:0b","drain":true}]}"#.to_owned()),
        ("set-vip", format!(r#"{{"service":{service},"scheduler":"wrr"}}"#)),
        ("del-vip", format!(r#"{{"service":{service}}}"#)),
        ("add-rs", format!(r#"{{"service":{service},"real_server":{{"address":"10.0.0.11"}}}}"#)),
        ("set-rs", format!(r#"{{"service":{service},"address":"10.0.0.11","weight":3,"mac":"arp","drain":false}}"#)),
        ("del-rs", one_rs.clone()),
        ("drain-rs", one_rs),
        ("show", format!(r#"{{"service":{service}}}"#)),
        ("stats", "{}".to_owned()),
        ("connections", r#"{"client":"198.51.100.7","real_server":"10.0.0.11","limit":5}"#.to_owned()),
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
fn arguments_that_are_all_optional_may_be_absent() {
    for (verb, command) in [
        ("show", Command::Show(Filter::default())),
        ("stats", Command::Stats(Filter::default())),
        ("connections", Command::Connections(ConnectionsQuery::default())),
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
            "add-vip" | "set-vip" | "del-vip" | "add-rs" | "set-rs" | "del-rs" | "drain-rs"
        );
        assert_eq!(command.is_change(), is_change, "{request}");
    }
    assert!(Command::Apply(Apply { config: Config::default(), dry_run: false }).is_change());
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
            Some("did you mean `weight`? Known are address, weight, mac, drain"),
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
            "arguments.real_server.address: `10.0.0` is no IPv4 address such as 192.0.2.10",
            None,
        ),
        (
            "\"10.0.0.11\"",
            "[1,2]",
            "arguments.real_server.address: IPv4 address is wanted here, not a list",
            None,
        ),
        (
            "\"tcp\"",
            "\"tpc\"",
            "arguments.service.protocol: unknown value `tpc`",
            Some("did you mean `tcp`? Known are tcp, udp"),
        ),
        (",\"port\":80", "", "arguments.service.port: it is missing", Some("add `port`")),
        (
            "{\"address\":\"10.0.0.11\",\"weight\":2}",
            "\"10.0.0.11\"",
            "arguments.real_server: a table of keys and values is wanted here, not the string \"10.0.0.11\"",
            None,
        ),
    ] {
        assert!(ADD_RS.contains(from), "{from}");
        let (code, found, found_help) = error_of(&ADD_RS.replacen(from, to, 1));
        assert_eq!(code, ErrorCode::BadRequest);
        assert_eq!((found.as_str(), found_help.as_deref()), (message, help), "{to}");
    }
}

#[test]
fn a_wrong_value_deep_in_a_list_is_told_with_its_index() {
    let line = r#"{"version":1,"verb":"apply","arguments":{"config":{"services":[{"protocol":"tcp","address":"192.0.2.10","port":80,"real_servers":[]},{"protocol":"tcp","address":"192.0.2.10","port":81,"scheduler":"wrrr","real_servers":[{"address":"10.0.0.11"},{"address":"10.0.0.12","weight":-5}]}]}}}"#;
    let (_, message, help) = error_of(line);
    assert_eq!(message, "arguments.config.services[1].scheduler: unknown scheduler `wrrr`");
    assert_eq!(help.as_deref(), Some("did you mean `wrr`? Known are rr, wrr, lc, wlc"));
    let (_, message, _) = error_of(&line.replace("wrrr", "wrr"));
    assert_eq!(message, "arguments.config.services[1].real_servers[1].weight: -5 is under 0");
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
fn a_request_past_the_limit_is_refused_and_one_at_it_is_not() {
    let mut line = ADD_RS.as_bytes().to_vec();
    line.resize(REQUEST_BYTES_MAX, b' ');
    assert!(parse_request(&line).is_ok());
    line.push(b' ');
    let error = parse_request(&line).unwrap_err();
    assert_eq!(error.code, ErrorCode::BadRequest);
    assert!(error.message.contains("longer than 4194304 bytes"));
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
    fn any_configuration_is_applied_as_it_was_sent(config in crate::config_file::tests::any_config()) {
        let command = Command::Apply(Apply { config, dry_run: false });
        prop_assert_eq!(parse_request(&encode_request(&command)), Ok(command));
    }
}
