//! Tests of the command line: what becomes of arguments, and what is said of wrong ones.

use clap::CommandFactory;
use ctl::protocol::CONNECTION_PAGE_ROWS_MAX;
use ctl::request::{VERBS, encode_request, parse_request};

use super::*;

fn parse(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::read(line.split_whitespace().map(OsString::from))
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_verb_of_the_protocol_has_its_command() {
    let command = Arguments::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    // `config` is what `save` asks for.
    for verb in VERBS.iter().filter(|verb| **verb != "config") {
        assert!(names.contains(verb), "{verb}");
    }
}

/// The command that a line means.
fn command(line: &str) -> Result<Command, String> {
    match parse(line).map_err(|error| error.to_string())?.verb {
        Verb::Connections(arguments) => Ok(Command::Connections(arguments.query())),
        Verb::Show(arguments) => Ok(Command::Show(arguments.filter())),
        verb => verb.change().map(|command| command.expect("a change")),
    }
}

#[test]
fn arguments_become_the_commands_that_they_mean() {
    let tcp = r#"{"protocol":"tcp","address":"192.0.2.10","port":80}"#;
    let web = r#"{"group":"web"}"#;
    for (line, verb, arguments) in [
        (
            "add-vip tcp 192.0.2.10:80 --scheduler wrr",
            "add-vip",
            r#"{"protocol":"tcp","address":"192.0.2.10","port":80,"scheduler":"wrr"}"#.to_owned(),
        ),
        (
            "add-vip udp 192.0.2.10:0 --scheduler lc --scheduler-flags flag-1,flag-3 --persistent 360 --netmask \
             255.255.255.0 --persistence-engine sip --one-packet --slow-start 60s --timeout udp=5m --timeout \
             tcp_established=3600,tcp_close=1",
            "add-vip",
            r#"{"protocol":"udp","address":"192.0.2.10","port":0,"scheduler":"lc","scheduler_flags":["flag-1","flag-3"],"persistence":{"timeout_seconds":360,"netmask":"255.255.255.0","engine":"sip"},"one_packet":true,"slow_start_seconds":60,"timeouts":{"udp":300,"tcp_established":3600,"tcp_close":1}}"#.to_owned(),
        ),
        (
            "add-vip sctp 192.0.2.10:80 --persistent",
            "add-vip",
            r#"{"protocol":"sctp","address":"192.0.2.10","port":80,"persistence":{"timeout_seconds":360}}"#.to_owned(),
        ),
        (
            "add-group web --fwmark 7 --member tcp:192.0.2.10:80 --member udp:192.0.2.11:0 --scheduler rr",
            "add-vip",
            r#"{"group":"web","fwmark":7,"members":[{"protocol":"tcp","address":"192.0.2.10","port":80},{"protocol":"udp","address":"192.0.2.11","port":0}],"scheduler":"rr"}"#.to_owned(),
        ),
        ("add-group web", "add-vip", web.to_owned()),
        (
            "set-vip udp 192.0.2.10:53 --scheduler lc",
            "set-vip",
            r#"{"service":{"protocol":"udp","address":"192.0.2.10","port":53},"scheduler":"lc"}"#.to_owned(),
        ),
        (
            "set-vip group web --no-persistent --no-one-packet --scheduler-flags none --slow-start 0 --timeout \
             udp=default --fwmark 0",
            "set-vip",
            format!(r#"{{"service":{web},"persistence":"off","one_packet":false,"scheduler_flags":[],"slow_start_seconds":0,"timeouts":{{"udp":0}},"fwmark":0}}"#),
        ),
        (
            "set-vip tcp 192.0.2.10:80 --persistent 1h --one-packet --scheduler-flags sh-port",
            "set-vip",
            format!(r#"{{"service":{tcp},"persistence":{{"timeout_seconds":3600}},"one_packet":true,"scheduler_flags":["flag-2"]}}"#),
        ),
        ("del-vip tcp 192.0.2.10:80", "del-vip", format!(r#"{{"service":{tcp}}}"#)),
        ("del-vip group web", "del-vip", format!(r#"{{"service":{web}}}"#)),
        ("add-member web tcp:192.0.2.10:80", "add-member", format!(r#"{{"group":"web","member":{tcp}}}"#)),
        ("del-member web tcp:192.0.2.10:80", "del-member", format!(r#"{{"group":"web","member":{tcp}}}"#)),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 2 --mac 02:00:00:00:00:0b",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"10.0.0.11","weight":2,"mac":"02:00:00:00:00:0b"}}}}"#),
        ),
        (
            "add-rs group web 10.0.0.11 --upper-threshold 1000 --lower-threshold 750",
            "add-rs",
            format!(r#"{{"service":{web},"real_server":{{"address":"10.0.0.11","upper_threshold":1000,"lower_threshold":750}}}}"#),
        ),
        (
            "set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 0 --mac arp --drain",
            "set-rs",
            format!(r#"{{"service":{tcp},"real_server":"10.0.0.11","weight":0,"mac":"arp","drain":true}}"#),
        ),
        (
            "set-rs tcp 192.0.2.10:80 10.0.0.11 --no-drain --upper-threshold 0",
            "set-rs",
            format!(r#"{{"service":{tcp},"real_server":"10.0.0.11","drain":false,"upper_threshold":0}}"#),
        ),
        (
            "drain-rs group web 10.0.0.11 --timeout 5m --keep-persistent --wait 10m",
            "drain-rs",
            format!(r#"{{"service":{web},"real_server":"10.0.0.11","timeout_seconds":300,"keep_persistent":true}}"#),
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11:8080 --forwarding nat",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"10.0.0.11","port":8080,"forwarding":"nat"}}}}"#),
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --port 8080 --forwarding fullnat --client-address proxy-v2",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"10.0.0.11","port":8080,"forwarding":"fullnat","client_address":"proxy-v2"}}}}"#),
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11:80 --port 80",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"10.0.0.11"}}}}"#),
        ),
        (
            "add-rs tcp 192.0.2.10:80 2001:db8::11 --forwarding tunnel --tunnel-type gue --tunnel-port 6080 \
             --tunnel-checksum remcsum",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"2001:db8::11","forwarding":"tunnel","tunnel":{{"type":"gue","port":6080,"checksum":"remcsum"}}}}}}"#),
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --forwarding tunnel --tunnel-type ipip",
            "add-rs",
            format!(r#"{{"service":{tcp},"real_server":{{"address":"10.0.0.11","forwarding":"tunnel"}}}}"#),
        ),
        (
            "set-rs tcp [2001:db8::10]:80 [2001:db8::11]:8080 --forwarding tunnel --tunnel-type gre --tunnel-checksum csum",
            "set-rs",
            r#"{"service":{"protocol":"tcp","address":"2001:db8::10","port":80},"real_server":"[2001:db8::11]:8080","forwarding":"tunnel","tunnel":{"type":"gre","checksum":"csum"}}"#.to_owned(),
        ),
        (
            "set-rs tcp 192.0.2.10:80 10.0.0.11:80 --client-address none",
            "set-rs",
            format!(r#"{{"service":{tcp},"real_server":"10.0.0.11","client_address":"none"}}"#),
        ),
        (
            "del-rs tcp 192.0.2.10:80 10.0.0.11:8080",
            "del-rs",
            format!(r#"{{"service":{tcp},"real_server":"10.0.0.11:8080"}}"#),
        ),
        (
            "add-vip tcp [2001:db8::10]:443 --persistent --prefix-length 64",
            "add-vip",
            r#"{"protocol":"tcp","address":"2001:db8::10","port":443,"persistence":{"timeout_seconds":360,"prefix_length":64}}"#.to_owned(),
        ),
        (
            "add-group six --member tcp:[2001:db8::10]:80",
            "add-vip",
            r#"{"group":"six","members":[{"protocol":"tcp","address":"2001:db8::10","port":80}]}"#.to_owned(),
        ),
        ("add-group six --family ipv6", "add-vip", r#"{"group":"six","family":"ipv6"}"#.to_owned()),
        ("add-lip 10.0.0.200", "add-lip", r#"{"address":"10.0.0.200"}"#.to_owned()),
        ("del-lip 2001:db8::200", "del-lip", r#"{"address":"2001:db8::200"}"#.to_owned()),
        (
            "set-options --pmtu-disc off --tunnel-mss-clamp off --schedule-icmp on --nat-icmp-send on",
            "set-options",
            r#"{"pmtu_disc":false,"tunnel_mss_clamp":false,"schedule_icmp":true,"nat_icmp_send":true}"#.to_owned(),
        ),
        (
            "connections --client 2001:db8:7::/48 --vip 2001:db8::10 --real-server [2001:db8::11]:8080",
            "connections",
            r#"{"client":"2001:db8:7::/48","vip":"2001:db8::10","real_server":"[2001:db8::11]:8080"}"#.to_owned(),
        ),
        ("clear", "clear", "{}".to_owned()),
        ("zero", "zero", "{}".to_owned()),
        ("zero group web", "zero", format!(r#"{{"service":{web}}}"#)),
        (
            "set-options --timeout udp=30s --sloppy-tcp on --sloppy-sctp off --secure-tcp on --conn-reuse-mode 0 \
             --expire-nodest-conn on --expire-quiescent-template off --lblc-expiration 1d --creation-rate 0",
            "set-options",
            r#"{"timeouts":{"udp":30},"sloppy_tcp":true,"sloppy_sctp":false,"secure_tcp":true,"conn_reuse_mode":0,"expire_nodest_conn":true,"expire_quiescent_template":false,"lblc_expiration_seconds":86400,"creation_rate_per_worker":0}"#.to_owned(),
        ),
        (
            "connections tcp 192.0.2.10:80 --client 198.51.100.7 --real-server 10.0.0.11 --limit 5",
            "connections",
            format!(r#"{{"service":{tcp},"client":"198.51.100.7","real_server":"10.0.0.11","limit":5}}"#),
        ),
        (
            "connections --client 198.51.100.0/24 --vip 192.0.2.10 --state time_wait --all --sort real-server \
             --descending --limit 50 --page 3",
            "connections",
            r#"{"client":"198.51.100.0/24","vip":"192.0.2.10","state":"TIME_WAIT","kind":"all","sort":"real-server","descending":true,"offset":100,"limit":50}"#.to_owned(),
        ),
        (
            "connections group web --templates --count",
            "connections",
            format!(r#"{{"service":{web},"kind":"templates","limit":0}}"#),
        ),
        ("show", "show", "{}".to_owned()),
        ("show group web", "show", format!(r#"{{"service":{web}}}"#)),
    ] {
        let request = format!(r#"{{"version":1,"verb":"{verb}","arguments":{arguments}}}"#);
        let command = command(&format!("dr-ctl {line}"));
        let expected = parse_request(request.as_bytes()).map_err(|error| error.message);
        assert_eq!(command, expected, "{line}");
        assert_eq!(command, parse_request(&encode_request(command.as_ref().unwrap())).map_err(|error| error.message));
    }
}

#[test]
fn a_drain_is_waited_for_where_asked_and_as_long() {
    for (tail, seconds_max) in [("", None), ("--wait", Some(None)), ("--wait 10m", Some(Some(600)))] {
        let line = format!("dr-ctl drain-rs tcp 192.0.2.10:80 10.0.0.11 {tail}");
        let Verb::DrainRs(drain) = parse(&line).unwrap().verb else { panic!("{line}") };
        assert_eq!(drain.wait().map(|wait| wait.seconds_max), seconds_max, "{line}");
    }
}

#[test]
fn what_follows_ipvsadm_is_ipvsadms() {
    for arguments in
        ["", "-Ln", "--help", "--version", "-L --timeout -n", "-A -t 192.0.2.10:80 -s rr", "--set 1 2 3"]
    {
        let Verb::Ipvsadm(ipvsadm) = parse(&format!("dr-ctl --json ipvsadm {arguments}")).unwrap().verb
        else {
            panic!("{arguments}")
        };
        assert!(ipvsadm.arguments.iter().map(|word| word.to_str().unwrap()).eq(arguments.split_whitespace()));
    }
}

#[test]
fn arguments_out_of_range_or_half_are_refused_with_the_reason() {
    for (line, words) in [
        ("", "Usage: dr-ctl"),
        ("add-vip", "required"),
        ("add-vip tcp", "required"),
        ("add-vip dccp 192.0.2.10:80", "tcp, udp, sctp"),
        ("add-vip group web", "tcp, udp, sctp"),
        ("add-vip tcp 192.0.2.10", "a VIP and a port are wanted"),
        ("add-vip tcp 192.0.2.10:80 --persistent --netmask /24", "write 255.255.255.0"),
        ("add-vip tcp 192.0.2.10:80 --persistent --netmask 33", "a mask is wanted"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11:", "an address is wanted, with a port"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11:0", "an address is wanted, with a port"),
        ("add-rs tcp 192.0.2.10:80 [2001:db8::11%1]:80", "an address is wanted, with a port"),
        ("add-rs tcp 192.0.2.10:80 rs1", "an address is wanted, with a port"),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11:80 --port 81",
            "--port: the real server is given with port 80 already",
        ),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --port 0", "0 is under 1"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --forwarding masq", "invalid value 'masq'"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --tunnel-type vxlan", "invalid value 'vxlan'"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --tunnel-port 65536", "65536 is over 65535"),
        (
            "add-vip tcp 2001:db8::10 --scheduler rr",
            "the port is missing, or the brackets are: write [2001:db8::10]:80",
        ),
        ("add-vip tcp [2001:db8::10] --scheduler rr", "a VIP and a port are wanted"),
        ("add-vip tcp [192.0.2.10]:80 --scheduler rr", "a VIP and a port are wanted"),
        ("add-vip tcp [2001:db8::10%1]:80 --scheduler rr", "a VIP and a port are wanted"),
        ("add-vip tcp [2001:db8::10]:80 --prefix-length 64", "--persistent"),
        ("add-vip tcp [2001:db8::10]:80 --persistent --prefix-length 129", "129 is over 128"),
        (
            "add-vip tcp [2001:db8::10]:80 --persistent --prefix-length 64 --netmask 255.0.0.0",
            "cannot be used with",
        ),
        ("add-lip 10.0.0.200/24", "an address is wanted, such as 10.0.0.200"),
        (
            "add-vip tcp 192.0.2.10:65536",
            "port 65536 is over 65535: give a port from 1 to 65535; a persistent",
        ),
        ("add-vip tcp 192.0.2.10:-1", "`-1` is no port"),
        ("add-vip tcp 192.0.2.10:80 --scheduler wrrr", "similar value exists: 'wrr'"),
        ("add-vip tcp 192.0.2.10:80 --scheduler-flags sh-prot", "sh-port"),
        (
            "add-vip tcp 192.0.2.10:80 --scheduler-flags sh-port",
            "`sh-port` is a flag of the scheduler sh, not of wlc",
        ),
        (
            "set-vip tcp 192.0.2.10:80 --scheduler rr --scheduler-flags mh-port",
            "flag of the scheduler mh, not of rr",
        ),
        ("add-vip tcp 192.0.2.10:80 --netmask 255.255.255.0", "--persistent"),
        ("add-vip tcp 192.0.2.10:80 --persistent 0", "0 is under 1: give seconds from 1 to 2678400, such as"),
        ("add-vip tcp 192.0.2.10:80 --persistent 32d", "32d is over 2678400"),
        (
            "add-vip tcp 192.0.2.10:80 --persistent 99999999999999999999999999999999999999999d",
            "is over 2678400",
        ),
        ("add-vip tcp 192.0.2.10:80 --persistent=1x", "`1x` is no time"),
        ("add-vip tcp 192.0.2.10:80 --persistent 1x", "unexpected argument '1x'"),
        ("add-vip tcp 192.0.2.10:80 --timeout udp", "a state and its seconds are wanted"),
        (
            "add-vip tcp 192.0.2.10:80 --timeout udpp=1",
            "`udpp` is no state: did you mean `udp`? known are tcp_none,",
        ),
        ("add-vip tcp 192.0.2.10:80 --timeout udp=0", "0 is under 1"),
        ("add-group -web", "unexpected"),
        ("add-group w:b", "`w:b` is no group name"),
        ("add-group web --fwmark 0", "0 is under 1: give a whole number from 1 to 4294967295"),
        ("add-group web --member 192.0.2.10:80", "such as tcp:192.0.2.10:80"),
        ("add-rs tcp 192.0.2.10:80", "required"),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 65536",
            "65536 is over 65535: give a whole number from 0 to 65535",
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --weight -1",
            "-1 is under 0: give a whole number from 0 to 65535",
        ),
        (
            "add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 1.5",
            "`1.5` is no whole number: give a whole number from 0 to",
        ),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --upper-threshold 2147483648", "2147483648 is over 2147483647"),
        ("add-rs tcp 192.0.2.10:80 10.0.0.11 --mac 01:00:00:00:00:01", "no"),
        ("set-rs tcp 192.0.2.10:80 10.0.0.11", "required"),
        ("set-rs tcp 192.0.2.10:80 10.0.0.11 --drain --no-drain", "cannot be used with"),
        ("drain-rs tcp 192.0.2.10:80 10.0.0.11 --timeout 0", "0 is under 1"),
        ("set-vip tcp 192.0.2.10:80", "required"),
        ("set-vip tcp 192.0.2.10:80 --persistent --no-persistent", "cannot be used with"),
        ("set-options", "required"),
        ("set-options --conn-reuse-mode 4", "4 is over 3"),
        ("set-options --sloppy-tcp 1", "on, off"),
        ("show tcp", "required"),
        ("show group -web", "unexpected"),
        ("show group w/b", "`w/b` is no group name"),
        ("show tcp web", "a VIP and a port are wanted"),
        ("show --answer-timeout 0", "0 is under 1: give a whole number from 1 to 3600"),
        ("connections --limit 0", "0 is under 1"),
        ("connections --offset 1 --page 2", "cannot be used with"),
        ("connections --templates --all", "cannot be used with"),
        ("connections --state ESTABLISHD", "ESTABLISHED"),
        ("connections --client 198.51.100", "an address or a network is wanted"),
        ("completions csh", "bash"),
    ] {
        let error = command(&format!("dr-ctl {line}")).expect_err(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}

#[test]
fn an_optional_value_is_a_time_behind_an_equals_sign_or_a_blank_and_never_a_word_of_another_kind() {
    let place = "tcp 192.0.2.10:80 10.0.0.11";
    for (line, seconds_max) in [
        (format!("drain-rs --wait {place}"), None),
        (format!("drain-rs {place} --wait"), None),
        ("drain-rs tcp 192.0.2.10:80 --wait 10.0.0.11".to_owned(), None),
        (format!("drain-rs --wait 60s {place}"), Some(60)),
        (format!("drain-rs {place} --wait=1h --timeout 5m"), Some(3600)),
        (format!("drain-rs {place} --wait 90"), Some(90)),
    ] {
        let arguments = parse(&format!("dr-ctl {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
        let Verb::DrainRs(drain) = arguments.verb else { panic!("{line}") };
        let wait = drain.wait().unwrap();
        assert_eq!(
            (wait.seconds_max, wait.drain.real_server),
            (seconds_max, [10, 0, 0, 11].into()),
            "{line}"
        );
    }
    for (line, seconds) in [
        ("add-vip --persistent tcp 192.0.2.10:80", 360),
        ("add-vip --persistent 6m tcp 192.0.2.10:80", 360),
        ("add-group --persistent=1h web", 3600),
        ("add-vip tcp 192.0.2.10:80 --persistent 77", 77),
    ] {
        let Ok(Command::AddVip(service)) = command(&format!("dr-ctl {line}")) else { panic!("{line}") };
        assert_eq!(service.persistence.unwrap().timeout_seconds, seconds, "{line}");
    }
    // ipvsadm's command line is read as ipvsadm reads it.
    let Verb::Ipvsadm(ipvsadm) = parse("dr-ctl ipvsadm -A --persistent 77").unwrap().verb else { panic!() };
    assert_eq!(ipvsadm.arguments, ["-A", "--persistent", "77"]);
}

#[test]
fn a_timeout_that_is_given_twice_is_refused() {
    for line in [
        "set-options --timeout tcp_established=33,tcp_established=44",
        "set-vip tcp 192.0.2.10:80 --timeout tcp_established=33 --timeout tcp_established=default",
        "add-vip tcp 192.0.2.10:80 --timeout udp=1,tcp_established=33 --timeout tcp_established=33",
    ] {
        let error = command(&format!("dr-ctl {line}")).unwrap_err();
        assert_eq!(error, "--timeout: tcp_established is given twice", "{line}");
    }
}

#[test]
fn as_many_connections_as_one_answer_has_may_be_asked_for() {
    let limit = CONNECTION_PAGE_ROWS_MAX;
    let help =
        Arguments::command().find_subcommand_mut("connections").unwrap().render_long_help().to_string();
    assert!(help.contains(&format!("1 to {limit};")), "{help}");
    let asked = command(&format!("dr-ctl connections --limit {limit}")).unwrap();
    assert!(matches!(asked, Command::Connections(query) if query.limit == limit));
    assert!(command(&format!("dr-ctl connections --limit {}", limit + 1)).is_err());
}
