//! What each command line asks of the director, and what is said where it refuses.

use std::io::Write;

use ctl::config::{
    Config, Family, Forwarding, Netmask, Persistence, Protocol, RealServerConfig, RealServerId,
    ServiceConfig, ServiceId, Timeouts, TunnelChecksum, TunnelConfig, TunnelType, VirtualAddress,
};
use ctl::ipvsadm::director::Daemon;
use ctl::protocol::{
    Command, ConnectionView, ErrorCode, ErrorReply, Filter, OneRealServer, OneService, PersistenceChange,
    Response, SetOptions, SetRs, SetVip,
};
use scheduler::Algorithm;

use crate::memory::{Memory, Printed, ipvsadm, run};

pub(crate) fn web() -> ServiceId {
    ServiceId::new(Protocol::Tcp, [192, 0, 2, 10], 80)
}

pub(crate) fn group(name: &str) -> ServiceId {
    ServiceId::Group(name.parse().unwrap())
}

pub(crate) fn real_server(last: u8) -> RealServerConfig {
    RealServerConfig::new([10, 0, 0, last])
}

/// A web service and a mark 7 of the group `shop`, with a real server each.
pub(crate) fn director() -> Memory {
    let mut services = vec![ServiceConfig::new(web()), ServiceConfig::new(group("shop"))];
    services[1].fwmark = Some(7);
    for service in &mut services {
        service.real_servers.push(real_server(11));
    }
    Memory { config: Config { services, ..Config::default() }, ..Memory::default() }
}

pub(crate) fn silent() -> Printed {
    Printed::default()
}

pub(crate) fn fails(exit_code: i32, stderr: &str) -> Printed {
    Printed { exit_code, stdout: String::new(), stderr: format!("{stderr}\n") }
}

#[test]
fn each_command_line_is_one_change() {
    let edited = |set: SetVip| {
        Command::SetVip(SetVip { scheduler_flags: Some(Default::default()), one_packet: Some(false), ..set })
    };
    let off = Some(PersistenceChange::Off);
    let on = |timeout_seconds, netmask: [u8; 4]| {
        Some(PersistenceChange::On(Persistence {
            timeout_seconds,
            netmask: Netmask::ipv4(netmask.into()),
            engine: None,
        }))
    };
    let edited_server = |id, set: SetRs| {
        Command::SetRs(SetRs {
            lower_threshold: Some(set.lower_threshold.unwrap_or(0)),
            upper_threshold: Some(set.upper_threshold.unwrap_or(0)),
            weight: Some(set.weight.unwrap_or(1)),
            forwarding: Some(set.forwarding.unwrap_or_default()),
            tunnel: set.tunnel,
            ..SetRs::new(id, [10, 0, 0, 11].into())
        })
    };
    let options = |timeouts| Command::SetOptions(SetOptions { timeouts, ..SetOptions::default() });
    for (line, command) in [
        (
            "-E -t 192.0.2.10:80",
            edited(SetVip { scheduler: Some(Algorithm::Wlc), persistence: off, ..SetVip::new(web()) }),
        ),
        (
            "-E -t 192.0.2.10:80 -s rr -p -M 255.255.255.0",
            edited(SetVip {
                scheduler: Some(Algorithm::Rr),
                persistence: on(360, [255, 255, 255, 0]),
                ..SetVip::new(web())
            }),
        ),
        (
            "-E -f 7 -s lc",
            edited(SetVip { scheduler: Some(Algorithm::Lc), persistence: off, ..SetVip::new(group("shop")) }),
        ),
        ("-D -t 192.0.2.10:80", Command::DelVip(OneService { service: web() })),
        ("-D -f 7", Command::DelVip(OneService { service: group("shop") })),
        ("-e -t 192.0.2.10:80 -r 10.0.0.11", edited_server(web(), SetRs::new(web(), [0; 4].into()))),
        (
            "-e -f 7 -r 10.0.0.11 -w 0 -x 9 -y 5",
            edited_server(
                group("shop"),
                SetRs {
                    weight: Some(0),
                    upper_threshold: Some(9),
                    lower_threshold: Some(5),
                    ..SetRs::new(web(), [0; 4].into())
                },
            ),
        ),
        (
            "-d -t 192.0.2.10:80 -r 10.0.0.11",
            Command::DelRs(OneRealServer { service: web(), real_server: [10, 0, 0, 11].into() }),
        ),
        ("-C", Command::Clear),
        ("-Z", Command::Zero(Filter::default())),
        ("-Z -f 7", Command::Zero(Filter { service: Some(group("shop")) })),
        ("-Z -t 0.0.0.0", Command::Zero(Filter::default())),
        ("--set 0 0 30", options(Timeouts { udp: Some(30), ..Timeouts::default() })),
        (
            "--set 900 10 0",
            options(Timeouts { tcp_established: Some(900), tcp_fin_wait: Some(10), ..Timeouts::default() }),
        ),
    ] {
        let mut director = director();
        assert_eq!(ipvsadm(&mut director, line), silent(), "{line}");
        assert_eq!(director.changes, [command], "{line}");
    }
}

#[test]
fn a_mark_becomes_a_group_without_members() {
    let mut director = director();
    assert_eq!(ipvsadm(&mut director, "-A -f 9 -s rr -p 60 -o"), silent());
    let added = director.config.services.last().unwrap();
    let persistence = Persistence { timeout_seconds: 60, netmask: Netmask::Host, engine: None };
    let expected = ServiceConfig {
        fwmark: Some(9),
        scheduler: Algorithm::Rr,
        persistence: Some(persistence),
        one_packet: true,
        ..ServiceConfig::new(group("fwmark-9"))
    };
    assert_eq!(*added, expected);
    assert_eq!(ipvsadm(&mut director, "-a -f 9 -r 10.0.0.12 -g"), silent());
    assert_eq!(director.config.services.last().unwrap().real_servers, [real_server(12)]);
}

/// What each line adds a real server as.
#[test]
fn every_forwarding_method_and_family_is_the_directors_own() {
    let tunnel = |kind, port, checksum| {
        let tunnel = TunnelConfig { kind, port, checksum };
        RealServerConfig { forwarding: Forwarding::Tunnel, tunnel: Some(tunnel), ..real_server(12) }
    };
    let nat = RealServerConfig { forwarding: Forwarding::Nat, ..real_server(12) };
    let v6 = |address: &str| RealServerConfig::new(address.parse::<std::net::IpAddr>().unwrap());
    for (line, added) in [
        ("-a -t 192.0.2.10:80 -r 10.0.0.12 -m", nat.clone()),
        ("-a -t 192.0.2.10:80 -r 10.0.0.12:80 -m", nat.clone()),
        ("-a -t 192.0.2.10:80 -r 10.0.0.12:8080 -m", RealServerConfig { port: Some(8080), ..nat.clone() }),
        ("-a -f 7 -r 10.0.0.12 -m", nat.clone()),
        ("-a -f 7 -r 10.0.0.12:8080 -m", RealServerConfig { port: Some(8080), ..nat }),
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.12 -i",
            RealServerConfig { forwarding: Forwarding::Tunnel, ..real_server(12) },
        ),
        // What a tunnel or a direct route has for a port is the service's, whatever is said.
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.12:8080 -i --tun-type ipip",
            RealServerConfig { forwarding: Forwarding::Tunnel, ..real_server(12) },
        ),
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.12 -i --tun-type gre --tun-csum",
            tunnel(TunnelType::Gre, None, TunnelChecksum::Csum),
        ),
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.12 -i --tun-type gre --tun-nocsum",
            tunnel(TunnelType::Gre, None, TunnelChecksum::None),
        ),
        (
            "-a -t 192.0.2.10:80 -r 10.0.0.12 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            tunnel(TunnelType::Gue, Some(6080), TunnelChecksum::Remcsum),
        ),
        (
            "-a -t 192.0.2.10:80 -r [2001:db8::12]:80 -i",
            RealServerConfig { forwarding: Forwarding::Tunnel, ..v6("2001:db8::12") },
        ),
        ("-a -t [2001:db8::10]:80 -r [2001:db8::12]:80 -g", v6("2001:db8::12")),
        ("-a -t [2001:db8::10]:80 -r 2001:db8::12 -g", v6("2001:db8::12")),
        (
            "-a -t [2001:db8::10]:80 -r [2001:db8::12]:8080 -m",
            RealServerConfig { port: Some(8080), forwarding: Forwarding::Nat, ..v6("2001:db8::12") },
        ),
        (
            "-a -t [2001:db8::10]:80 -r 10.0.0.12 -i",
            RealServerConfig { forwarding: Forwarding::Tunnel, ..real_server(12) },
        ),
    ] {
        let mut director = director();
        assert_eq!(ipvsadm(&mut director, "-A -t [2001:db8::10]:80"), silent());
        assert_eq!(ipvsadm(&mut director, line), silent(), "{line}");
        let mut all = director.config.services.iter().flat_map(|service| &service.real_servers);
        assert!(all.any(|real_server| *real_server == added), "{line}: {:?}", director.config.services);
    }
}

#[test]
fn an_edit_gives_the_forwarding_method_anew_but_full_nat_stays() {
    let mut director = director();
    let of = |director: &Memory| {
        let real_server = &director.config.services[0].real_servers[0];
        (real_server.forwarding, real_server.tunnel)
    };
    let gue = TunnelConfig { kind: TunnelType::Gue, port: Some(6080), checksum: TunnelChecksum::None };
    for (options, now) in [
        ("-i --tun-type gue --tun-port 6080", (Forwarding::Tunnel, Some(gue))),
        ("-i", (Forwarding::Tunnel, None)),
        ("-m", (Forwarding::Nat, None)),
        ("", (Forwarding::Dr, None)),
    ] {
        assert_eq!(
            ipvsadm(&mut director, &format!("-e -t 192.0.2.10:80 -r 10.0.0.11:80 {options}")),
            silent()
        );
        assert_eq!(of(&director), now, "{options}");
    }
    director.config.services[0].real_servers[0].forwarding = Forwarding::FullNat;
    assert_eq!(ipvsadm(&mut director, "-e -t 192.0.2.10:80 -r 10.0.0.11:80 -m -w 5"), silent());
    assert_eq!(of(&director), (Forwarding::FullNat, None));
}

#[test]
fn a_real_server_is_edited_and_removed_by_address_and_port() {
    let mut director = director();
    for port in [8080, 8081] {
        let line = format!("-a -t 192.0.2.10:80 -r 10.0.0.11:{port} -m");
        assert_eq!(ipvsadm(&mut director, &line), silent());
        assert_eq!(ipvsadm(&mut director, &line), fails(255, "Destination already exists"));
    }
    assert_eq!(ipvsadm(&mut director, "-e -t 192.0.2.10:80 -r 10.0.0.11:8081 -m -w 7"), silent());
    assert_eq!(ipvsadm(&mut director, "-d -t 192.0.2.10:80 -r 10.0.0.11:8080"), silent());
    let left = director.config.services[0].real_servers.iter().map(|rs| (rs.id(), rs.weight));
    let nat = RealServerId { port: Some(8081), ..[10, 0, 0, 11].into() };
    assert_eq!(left.collect::<Vec<_>>(), [([10, 0, 0, 11].into(), 1), (nat, 7)]);
    let listed = "TCP  192.0.2.10:80 wlc\n  \
                  -> 10.0.0.11:80                 Route   1      3          12        \n  \
                  -> 10.0.0.11:8081               Masq    7      3          12        \n";
    let printed = ipvsadm(&mut director, "-Ln -t 192.0.2.10:80");
    assert!(printed.stdout.ends_with(listed), "{}", printed.stdout);
}

/// One mark of each family is two services, as in the kernel.
#[test]
fn a_mark_of_ipv6_is_another_than_that_of_ipv4() {
    let mut director = director();
    assert_eq!(ipvsadm(&mut director, "-A -f 7 -6 -p 60 -M 64"), silent());
    assert_eq!(ipvsadm(&mut director, "-A -f 7 -6"), fails(255, "Service already exists"));
    assert_eq!(ipvsadm(&mut director, "-a -f 7 -6 -r 2001:db8::12"), silent());
    let added = director.config.services.last().unwrap();
    assert_eq!((added.id, added.family(), added.fwmark), (group("fwmark-7-ipv6"), Family::V6, Some(7)));
    assert_eq!(added.persistence.map(|persistence| persistence.netmask), Some(Netmask::ipv6(64)));
    let printed = ipvsadm(&mut director, "-Ln -f 7 -6");
    let listed = "FWM  7 IPv6 wlc persistent 60 mask 64\n  \
                  -> [2001:db8::12]:0             Route   1      3          12        \n";
    assert!(printed.stdout.ends_with(listed), "{}", printed.stdout);
    let saved = ipvsadm(&mut director, "-Sn").stdout;
    assert!(
        saved.contains("-A -f 7 -6 -s wlc -p 60 -M 64\n-a -f 7 -6 -r [2001:db8::12]:0 -g -w 1\n"),
        "{saved}"
    );
    assert_eq!(ipvsadm(&mut director, "-D -f 7 -6"), silent());
    assert_eq!(director.config.services.len(), 2);
}

#[test]
fn set_of_three_zeros_changes_nothing() {
    let mut director = director();
    assert_eq!(ipvsadm(&mut director, "--set 0 0 0"), silent());
    assert_eq!(director.changes, []);
}

#[test]
fn what_the_director_cannot_do_is_refused_and_changes_nothing() {
    let port = "dr-director: a real server of a firewall mark receives, but under NAT (-m), on the port that the client \
                asked for; leave :8080 out";
    let no_host = "Invalid operation.  Possibly wrong module version, address not unicast, ...";
    for (line, exit_code, text) in [
        ("-D -f 7 -6", 255, "No such service".to_owned()),
        ("-a -t 192.0.2.10:80 -r [fe80::1]:80 -i", 255, no_host.to_owned()),
        ("-a -t 192.0.2.10:80 -r [ff02::1]:80 -i", 255, no_host.to_owned()),
        ("-a -t 192.0.2.10:80 -r [::]:80 -i", 255, no_host.to_owned()),
        ("-a -f 7 -r 10.0.0.12:8080 -i", 255, port.to_owned()),
        ("-a -f 7 -r 10.0.0.12:8080", 255, port.to_owned()),
        ("-a -t 192.0.2.10:80 -r 10.0.0.12 -w 65536", 2, "illegal weight specified".to_owned()),
        ("-A -t 192.0.2.11:80 -s none", 255, "Scheduler or persistence engine not found".to_owned()),
        ("--start-daemon master", 255, "dr-director: it has no sync daemons yet".to_owned()),
        ("--stop-daemon backup", 255, "No daemon is running".to_owned()),
    ] {
        let mut director = director();
        assert_eq!(ipvsadm(&mut director, line), fails(exit_code, &text), "{line}");
        assert_eq!(director.changes, [], "{line}");
    }
}

/// The kernel looks for the service first, and for the real server before most of its attributes.
#[test]
fn what_does_not_exist_is_said_before_what_is_not_supported() {
    for (line, text) in [
        ("-A -t 192.0.2.10:80 -s nonsense", "Service already exists"),
        ("-A -f 7 -s nonsense", "Service already exists"),
        ("-E -t 192.0.2.11:80 -s nonsense", "No such service"),
        ("-a -t 192.0.2.11:80 -r 10.0.0.12 -m", "Service not defined"),
        ("-a -t 192.0.2.10:80 -r 10.0.0.11 -m", "Destination already exists"),
        ("-e -t 192.0.2.10:80 -r 10.0.0.12 -m", "No such destination"),
        ("-a -t 192.0.2.10:80 -r 10.0.0.11 -m -y 5", "Numerical result out of range"),
        // Its port is the service's own.
        ("-d -t 192.0.2.10:80 -r 10.0.0.11:8080", "No such destination"),
        ("-d -r 10.0.0.11 -t 192.0.2.10:80", "No such destination"),
        ("-d -t 192.0.2.11:80 -r 10.0.0.11:8080", "Service not defined"),
        ("-d -f 7 -r 10.0.0.11:8080", "No such destination"),
        ("-d -f 7 -r 10.0.0.12", "No such destination"),
        ("-d -f 8 -r 10.0.0.11", "Service not defined"),
        ("-a -t [2001:db8::1]:80 -r [2001:db8::2]:80", "Service not defined"),
        ("-a -t [2001:db8::1]:80 -r [fe80::2]:80", "Service not defined"),
    ] {
        let mut director = director();
        let before = director.config.clone();
        assert_eq!(ipvsadm(&mut director, line), fails(255, text), "{line}");
        assert_eq!(director.config, before, "{line}");
    }
}

#[test]
fn the_directors_refusals_have_ipvsadms_words_and_its_own_where_those_say_too_little() {
    let invalid = "Invalid operation.  Possibly wrong module version, address not unicast, ...";
    for (code, text) in [
        (ErrorCode::Invalid, format!("{invalid}\ndr-director: it is so\ndr-director: help: do this")),
        (
            ErrorCode::Full,
            "Memory allocation problem\ndr-director: it is so\ndr-director: help: do this".to_owned(),
        ),
        (
            ErrorCode::BadRequest,
            "Module is wrong version\ndr-director: it is so\ndr-director: help: do this".to_owned(),
        ),
        (ErrorCode::Timeout, "dr-director: it is so\ndr-director: help: do this".to_owned()),
        (ErrorCode::Exists, "Service already exists".to_owned()),
    ] {
        let refusal = Some(ErrorReply::new(code, "it is so").with_help("do this"));
        let mut director = Memory { refusal, ..director() };
        assert_eq!(ipvsadm(&mut director, "-A -t 192.0.2.11:80"), fails(255, &text), "{code:?}");
    }
}

#[test]
fn without_a_daemon_ipvsadm_says_so_as_it_does_without_a_kernel() {
    let socket = std::path::Path::new("/nonexistent/control.sock");
    let Printed { exit_code, stdout, stderr } = ipvsadm(&mut Daemon::at(socket), "-Ln");
    assert_eq!((exit_code, stdout.as_str()), (2, ""));
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!(lines[0], "Can't initialize ipvs: No such file or directory");
    assert_eq!(lines[1], "Are you sure that IP Virtual Server is built in the kernel or as module?");
    assert!(lines[2].starts_with("dr-director: /nonexistent/control.sock: cannot connect"), "{stderr}");
}

/// A daemon that denies does so when somebody connects, and closes; what was asked for it never reads.
#[test]
fn whom_the_daemon_denies_hears_what_the_kernel_says_whatever_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let reply = ErrorReply::new(ErrorCode::Denied, "user 65534 may not command this director");
            let _ = stream.unwrap().write_all(&Response::error(reply.with_help("run as root")).to_line());
        }
    });
    let text = "Can't initialize ipvs: Permission denied (you must be root)\n\
                Are you sure that IP Virtual Server is built in the kernel or as module?\n\
                dr-director: user 65534 may not command this director\n\
                dr-director: help: run as root";
    for line in [
        "-C",
        "-Ln",
        "-Lcn",
        "-S",
        "-Z",
        "--set 1 2 3",
        "-A -t 192.0.2.10:80",
        "-A -f 7",
        "-E -t 192.0.2.10:80 -s nonsense",
        "-a -t 192.0.2.10:80 -r 10.0.0.11",
        "-d -t 192.0.2.10:80 -r 10.0.0.11",
        "-L -t 192.0.2.10:80",
    ] {
        assert_eq!(ipvsadm(&mut Daemon::at(&socket), line), fails(2, text), "{line}");
    }
    let printed = run(&mut Daemon::at(&socket), &["ipvsadm-restore"], "-A -t 192.0.2.10:80\n");
    assert_eq!(printed, fails(2, text));
}

#[test]
fn connections_of_a_mark_have_it_as_their_address() {
    let view = |group: Option<&str>| ConnectionView {
        protocol: group.is_none().then_some(Protocol::Tcp),
        is_template: group.is_some(),
        engine_data: None,
        group: group.map(|name| name.parse().unwrap()),
        state: if group.is_some() { "NONE" } else { "ESTABLISHED" }.to_owned(),
        expires_seconds: if group.is_some() { 179 } else { 8059 },
        client_address: [198, 51, 100, 7].into(),
        client_port: if group.is_some() { 0 } else { 40_312 },
        virtual_address: [0; 4].into(),
        virtual_port: if group.is_some() { 0 } else { 80 },
        real_server: [10, 0, 0, 11].into(),
        real_server_port: if group.is_some() { 0 } else { 80 },
        forwarding: Forwarding::Dr,
        local: None,
        worker: None,
    };
    let connections = vec![view(None), view(Some("shop")), view(Some("unknown")), view(Some("fwmark-9"))];
    let mut director = Memory { connections, ..director() };
    let text = "\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 134:19 ESTABLISHED 198.51.100.7:40312 0.0.0.0:80         10.0.0.11:80
IP  02:59  NONE        198.51.100.7:0     0.0.0.7:0          10.0.0.11:0
IP  02:59  NONE        198.51.100.7:0     0.0.0.0:0          10.0.0.11:0
IP  02:59  NONE        198.51.100.7:0     0.0.0.9:0          10.0.0.11:0
";
    let printed = ipvsadm(&mut director, "-Lcn");
    assert_eq!(printed, Printed { stdout: text.to_owned(), ..silent() });
}

#[test]
fn more_connections_than_a_page_are_all_listed() {
    let view = ConnectionView {
        protocol: Some(Protocol::Udp),
        is_template: false,
        engine_data: None,
        group: None,
        state: "UDP".to_owned(),
        expires_seconds: 300,
        client_address: [198, 51, 100, 7].into(),
        client_port: 1,
        virtual_address: [192, 0, 2, 10].into(),
        virtual_port: 53,
        real_server: [10, 0, 0, 11].into(),
        real_server_port: 53,
        forwarding: Forwarding::Dr,
        local: None,
        worker: Some(0),
    };
    let mut director = Memory { connections: vec![view; 100_001], ..Memory::default() };
    assert_eq!(ipvsadm(&mut director, "-Lcn").stdout.lines().count(), 100_003);
}

#[test]
fn a_group_without_a_mark_is_listed_last_by_its_name() {
    let mut director = director();
    director.config.services.insert(0, ServiceConfig::new(group("unmarked")));
    let printed = ipvsadm(&mut director, "-Ln");
    assert!(printed.stdout.ends_with("FWM  unmarked wlc\n"), "{}", printed.stdout);
}

#[test]
fn whoever_names_a_member_of_a_group_is_told_the_group() {
    let mut director = director();
    let member = VirtualAddress { protocol: Protocol::Tcp, address: [192, 0, 2, 30].into(), port: 80 };
    director.config.services[1].members.push(member);
    let member = VirtualAddress { port: 81, ..member };
    director
        .config
        .services
        .push(ServiceConfig { members: vec![member], ..ServiceConfig::new(group("unmarked")) });
    let marked = "dr-director: tcp 192.0.2.30:80 is a member of group shop: name it with -f 7";
    let unmarked = "dr-director: tcp 192.0.2.30:81 is a member of group unmarked: give it a mark for -f, with \
                    `dr-ctl set-vip group unmarked --fwmark N`";
    for (line, exit_code, text, own) in [
        ("-D -t 192.0.2.30:80", 255, "No such service", marked),
        ("-E -t 192.0.2.30:80", 255, "No such service", marked),
        ("-Z -t 192.0.2.30:80", 255, "No such service", marked),
        ("-L -n -t 192.0.2.30:80", 1, "No such service", marked),
        ("-a -t 192.0.2.30:80 -r 10.0.0.12", 255, "Service not defined", marked),
        ("-D -t 192.0.2.30:81", 255, "No such service", unmarked),
    ] {
        assert_eq!(ipvsadm(&mut director, line), fails(exit_code, &format!("{text}\n{own}")), "{line}");
    }
    director.refusal = Some(ErrorReply::new(ErrorCode::Exists, "it belongs to group shop already"));
    let printed = ipvsadm(&mut director, "-A -t 192.0.2.30:80");
    assert_eq!(printed, fails(255, &format!("Service already exists\n{marked}")));
    director.refusal = None;
    assert_eq!(ipvsadm(&mut director, "-D -t 192.0.2.31:80"), fails(255, "No such service"));
}

#[test]
fn words_are_repeated_as_they_were_given_and_the_program_as_it_was_called() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let mut stderr = Vec::new();
    let words: Vec<_> = [&b"ipvsadm"[..], b"-A", b"-t", b"1.2.3.4:80", b"-\xff\xc3\xa9"]
        .into_iter()
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect();
    let names = ctl::ipvsadm::resolve::NoNames;
    let (mut director, mut stdin, mut stdout) = (director(), &b""[..], Vec::new());
    let code = ctl::ipvsadm::run_with(&words, &mut director, &names, &mut stdin, &mut stdout, &mut stderr);
    assert_eq!((code, stderr.as_slice()), (255, &b"-\xff\xc3\xa9: unknown option\n"[..]));

    let printed = run(&mut director, &["/usr/local/sbin/ipvsadm", "word"], "");
    let text = "Try `/usr/local/sbin/ipvsadm -h' or '/usr/local/sbin/ipvsadm --help' for more information.";
    assert_eq!(printed, fails(255, text));
}

#[test]
fn save_script_says_what_it_knows() {
    let text = "ipvsadm-save: Script to save the IPVS table to stdout.\n   \
                With the -n option, prints out the table in numeric format.";
    let printed = run(&mut director(), &["/sbin/ipvsadm-save", "-x"], "");
    assert_eq!(printed, fails(1, text));
}
