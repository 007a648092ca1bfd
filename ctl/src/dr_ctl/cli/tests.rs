//! Tests of the command line: what becomes of arguments, and what is said of wrong ones.

use clap::CommandFactory;
use ctl::request::{VERBS, encode_request, parse_request};

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_verb_of_the_protocol_has_its_command() {
    let command = Arguments::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    for verb in VERBS.iter().filter(|verb| **verb != "config") {
        assert!(names.contains(verb), "{verb}");
    }
}

#[test]
fn arguments_become_the_commands_that_they_mean() {
    let cases = [
        (
            "dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrr",
            r#"{"version":1,"verb":"add-vip","arguments":{"protocol":"tcp","address":"192.0.2.10","port":80,"scheduler":"wrr"}}"#,
        ),
        (
            "dr-ctl set-vip udp 192.0.2.10:53 --scheduler lc",
            r#"{"version":1,"verb":"set-vip","arguments":{"service":{"protocol":"udp","address":"192.0.2.10","port":53},"scheduler":"lc"}}"#,
        ),
        (
            "dr-ctl del-vip tcp 192.0.2.10:80",
            r#"{"version":1,"verb":"del-vip","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80}}}"#,
        ),
        (
            "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 2 --mac 02:00:00:00:00:0b",
            r#"{"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"real_server":{"address":"10.0.0.11","weight":2,"mac":"02:00:00:00:00:0b"}}}"#,
        ),
        (
            "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 0 --mac arp --drain",
            r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"address":"10.0.0.11","weight":0,"mac":"arp","drain":true}}"#,
        ),
        (
            "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --no-drain",
            r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"address":"10.0.0.11","drain":false}}"#,
        ),
        (
            "dr-ctl connections tcp 192.0.2.10:80 --client 198.51.100.7 --real-server 10.0.0.11 --limit 5",
            r#"{"version":1,"verb":"connections","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"client":"198.51.100.7","real_server":"10.0.0.11","limit":5}}"#,
        ),
        ("dr-ctl show", r#"{"version":1,"verb":"show"}"#),
    ];
    for (line, request) in cases {
        let command = match parse(line).unwrap().verb {
            Verb::AddVip(arguments) => arguments.command(),
            Verb::SetVip(arguments) => arguments.command(),
            Verb::DelVip(arguments) => arguments.command(),
            Verb::AddRs(arguments) => arguments.command(),
            Verb::SetRs(arguments) => arguments.command(),
            Verb::Connections(arguments) => Command::Connections(arguments.query()),
            Verb::Show(arguments) => Command::Show(arguments.filter()),
            verb => panic!("{verb:?}"),
        };
        assert_eq!(Ok(&command), parse_request(request.as_bytes()).as_ref(), "{line}");
        assert_eq!(Ok(&command), parse_request(&encode_request(&command)).as_ref(), "{line}");
    }
}

#[test]
fn arguments_out_of_range_or_half_are_refused() {
    for line in [
        "dr-ctl",
        "dr-ctl add-vip",
        "dr-ctl add-vip tcp",
        "dr-ctl add-vip sctp 192.0.2.10:80",
        "dr-ctl add-vip tcp 192.0.2.10",
        "dr-ctl add-vip tcp 192.0.2.10:0",
        "dr-ctl add-vip tcp 192.0.2.10:65536",
        "dr-ctl add-vip tcp [2001:db8::1]:80",
        "dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrrr",
        "dr-ctl add-rs tcp 192.0.2.10:80",
        "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 65536",
        "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight -1",
        "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --mac 01:00:00:00:00:01",
        "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11",
        "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --drain --no-drain",
        "dr-ctl set-vip tcp 192.0.2.10:80",
        "dr-ctl show tcp",
        "dr-ctl show --timeout 0",
        "dr-ctl connections --limit 0",
        "dr-ctl completions csh",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
