//! Side by side with the real ipvsadm: every capture through our tool and a director in memory, and the listings through
//! the pure parts and a kernel made of rows.

use ctl::ipvsadm::command::{Action, Asked, CommandLine, Family, Opt};
use ctl::ipvsadm::format::{self, Columns, Style};
use ctl::ipvsadm::rows::{Label, RealServerRow, ServiceRow, sort};
use ctl::ipvsadm::{parse, save};

use crate::captures::{captures, words_of};
use crate::memory::{FixedNames, Memory, Printed, run};

/// Captures that we do not repeat, and why.
const DEVIATIONS: &[(&str, &str)] = &[
    ("daemon-start-twice", "there are no sync daemons"),
    ("daemon-start-unknown-interface", "there are no sync daemons"),
    ("list-daemon-both", "there are no sync daemons"),
    ("list-daemon-both-n", "there are no sync daemons"),
    ("list-daemon-master", "there are no sync daemons"),
    ("list-kinds-S-names", "thresholds are saved, and marks over 2147483647 as ipvsadm reads them"),
    ("list-kinds-Sn", "thresholds are saved, and marks over 2147483647 as ipvsadm reads them"),
    ("list-kinds-nosort", "the director's order, not the kernel's hash's"),
    ("pe-without-persistence-saved", "an engine without persistence has no effect and is not kept"),
    ("restore-error-goes-on", "all lines or none, with the line's number"),
    ("restore-error-goes-on-listed", "all lines or none"),
    ("restore-leading-word-blank-and-comment", "comments are skipped"),
    ("restore-leading-word-listed", "comments are skipped"),
    ("restore-restore", "the line's number"),
    ("restore-unexpected-argument", "the line's number"),
    ("restore-unknown-word", "the line's number"),
    ("restore-usage-error", "all lines or none, with the line's number"),
    ("scheduler-none", "there is no scheduler of that name"),
    ("server-before-service-port-0", "port 0 of a real server behind NAT is the service's own"),
    ("server-port-fwmark", "direct routing maps no port: refused, not lost"),
];

/// Runs a line; none where it is not ipvsadm's alone.
fn shell(director: &mut Memory, line: &str) -> Option<Printed> {
    let mut stdin = String::new();
    let mut words = words_of(line);
    if words.first().is_some_and(|word| word == "printf") {
        let pipe = words.iter().position(|word| word == "|")?;
        let format = words[..pipe].last()?.clone();
        stdin = format.replace("\\n", "\n");
        words.drain(..=pipe);
    }
    if words.last().is_some_and(|word| word == "</dev/null") {
        words.pop();
    }
    let is_shell = |word: &String| word.starts_with(['>', '<']) || word.ends_with(';');
    if !words.first()?.starts_with("ipvsadm") || words.iter().any(is_shell) {
        return None;
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(run(director, &words, &stdin))
}

#[test]
fn every_captured_run_of_ipvsadm_is_repeated_byte_for_byte() {
    let captures = captures();
    let mut same = 0;
    let mut wrong = Vec::new();
    for capture in &captures {
        let mut director = Memory { is_idle: true, ..Memory::default() };
        let runs: Vec<Option<Printed>> =
            capture.commands.iter().map(|line| shell(&mut director, line)).collect();
        // A set-up that needs more than ipvsadm is another test's.
        if runs.iter().any(Option::is_none) {
            continue;
        }
        let ours = runs.into_iter().next_back().flatten().unwrap();
        let ours = Printed { stdout: without_ends(&ours.stdout), ..ours };
        let deviation = DEVIATIONS.iter().find(|(name, _)| *name == capture.name);
        match (ours == capture.printed, deviation) {
            (true, None) => same += 1,
            (false, Some(_)) => {}
            (true, Some((name, _))) => wrong.push(format!("{name} is a deviation no more")),
            (false, None) => wrong.push(format!(
                "{}: {:?}\n  ipvsadm {:?}\n  ours    {ours:?}",
                capture.name, capture.commands, capture.printed
            )),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), captures.len(), wrong.join("\n"));
    assert!(same >= 255, "only {same} of {} captures were compared", captures.len());
}

/// Without the comments that a file of ours begins and ends with.
fn without_ends(text: &str) -> String {
    text.replace("# dr-director: begin\n", "").replace("# dr-director: end\n", "")
}

/// The kernel's table, as far as a listing shows it.
#[derive(Default)]
struct Kernel {
    services: Vec<ServiceRow>,
}

impl Kernel {
    fn label(line: &CommandLine) -> Label {
        let service = &line.service;
        match service.fwmark {
            0 => Label::Virtual {
                protocol: service.protocol.unwrap(),
                address: service.address,
                port: service.port,
            },
            mark => Label::Fwmark { mark, family: service.family.unwrap_or(Family::V4) },
        }
    }

    fn change(&mut self, line: &CommandLine) {
        let service = &line.service;
        match line.action {
            Action::AddService => self.services.push(ServiceRow {
                label: Kernel::label(line),
                scheduler: service.scheduler.clone(),
                flags: service.flags,
                persistence: service.persistence,
                netmask: service.netmask,
                engine: Some(service.engine.clone()).filter(|engine| !engine.is_empty()),
                one_packet: service.one_packet,
                counters: [0; 5],
                rates: [0; 5],
                real_servers: vec![],
            }),
            Action::AddServer => {
                let server = &line.server;
                let row = RealServerRow {
                    address: server.address,
                    port: server.port,
                    forwarding: server.forwarding,
                    weight: server.weight,
                    upper_threshold: server.upper_threshold,
                    lower_threshold: server.lower_threshold,
                    active: 0,
                    inactive: 0,
                    persistent: 0,
                    counters: [0; 5],
                    rates: [0; 5],
                };
                let label = Kernel::label(line);
                let service = self.services.iter_mut().find(|service| service.label == label);
                service.unwrap().real_servers.push(row);
            }
            other => panic!("{other:?} is in no capture of listings"),
        }
    }

    fn list(&self, line: Option<&CommandLine>) -> String {
        let has = |option| line.is_some_and(|line| line.given.has(option));
        let style =
            Style { columns: columns_of(has), is_numeric: has(Opt::Numeric), is_exact: has(Opt::Exact) };
        let mut rows = self.services.clone();
        sort(&mut rows);
        if line.is_some_and(|line| line.action == Action::Save) {
            let lines = rows.iter().map(|row| {
                let names: &dyn ctl::ipvsadm::resolve::Names = &FixedNames;
                let names = if style.is_numeric { &ctl::ipvsadm::resolve::NoNames } else { names };
                let servers =
                    row.real_servers.iter().map(|server| save::real_server_line(row, server, names));
                save::service_line(row, names) + &servers.collect::<String>()
            });
            return lines.collect();
        }
        let mut text = String::new();
        if has(Opt::Service) {
            let label = Kernel::label(line.unwrap());
            rows.retain(|row| row.label == label);
        } else {
            text.push_str(&format::header(4096));
        }
        text.push_str(&format::title(style.columns));
        text.extend(rows.iter().map(|row| format::service(row, style, &FixedNames)));
        text
    }
}

fn columns_of(has: impl Fn(Opt) -> bool) -> Columns {
    [
        (Opt::Stats, Columns::Stats),
        (Opt::Rate, Columns::Rate),
        (Opt::Thresholds, Columns::Thresholds),
        (Opt::PersistentConn, Columns::PersistentConn),
        (Opt::TunInfo, Columns::TunInfo),
    ]
    .into_iter()
    .find(|(option, _)| has(*option))
    .map_or(Columns::Default, |(_, columns)| columns)
}

/// IPv6, NAT, tunnels, every scheduler: each line of the kernel's own listing, in every format.
#[test]
fn listings_of_all_kinds_of_services_are_ipvsadms_byte_for_byte() {
    let mut compared = 0;
    for capture in captures() {
        let is_listing = capture.name.starts_with("list-kinds-") || capture.name.starts_with("list-one-");
        // --nosort is the kernel's hash order, and an unknown service is no listing.
        if !is_listing || capture.name.contains("nosort") || capture.printed.exit_code != 0 {
            continue;
        }
        let mut kernel = Kernel::default();
        let (last, setup) = capture.commands.split_last().unwrap();
        let read = |line: &str| {
            let words = words_of(line);
            assert_eq!(words[0], "ipvsadm", "{}", capture.name);
            let words = &words[1..];
            (!words.is_empty()).then(|| match parse("ipvsadm", words, &FixedNames) {
                Ok(Asked::Command(line)) => *line,
                other => panic!("{}: {line}: {other:?}", capture.name),
            })
        };
        setup.iter().for_each(|line| kernel.change(&read(line).unwrap()));
        let last = read(last);
        let ours = kernel.list(last.as_ref());
        let is_save = last.as_ref().is_some_and(|line| line.action == Action::Save);
        let theirs =
            if is_save { with_what_ours_adds(&capture.printed.stdout) } else { capture.printed.stdout };
        assert_eq!(ours, theirs, "{}", capture.name);
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}

/// Thresholds, and marks as numbers that are read back.
fn with_what_ours_adds(saved: &str) -> String {
    let lines = saved.lines().map(|line| match line {
        "-A -f -1 -s lc" => "-A -f 4294967295 -s lc\n".to_owned(),
        line if line.starts_with("-a --sctp-service") => format!("{line} -x 1000 -y 750\n"),
        line if line.starts_with("-a -f 7 -r 10.0.0.12:8080") => format!("{line} -x 5\n"),
        line => format!("{line}\n"),
    });
    lines.collect()
}
