//! The quickstart: direct routing on real packets, on one machine, and what became of them.
//!
//! Ends with 0 only if everything was as it must be.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use ctl::config::{Config, Protocol};
use lab::topology::{CLIENT, mac_of};
use lab::{DIP, DirectorProcess, Lab, Recording, VIP, client, director};
use nix::sys::signal::{SigSet, Signal};
use scheduler::Algorithm;

/// Weight of each real server.
const WEIGHTS: [u16; 3] = [1, 2, 3];

/// A multiple of the sum of the weights, so that the shares come out even.
const REQUESTS: u32 = 600;

const PORT: u16 = 80;

const HELP: &str = "\
Usage: scripts/quickstart [--keep]

Builds a client, dr-director and three real servers with nginx out of network namespaces, sends HTTP requests
through the virtual service 192.0.2.10:80 and shows what happened. Removes everything at its end.

  --keep   leave it running to play with; Ctrl-C ends and removes it
";

const PICTURE: &str = "
   client 10.0.0.100 ────────┐                ┌──── rs1 10.0.0.11  weight 1
     curl                    │                │       nginx, VIP on lo
                             ├──── switch ────┼──── rs2 10.0.0.12  weight 2
   dr-director 10.0.0.1 ─────┘                └──── rs3 10.0.0.13  weight 3
     DPDK port over veth
     tcp 192.0.2.10:80 wrr          request:  client → dr-director → real server
                                    reply:    real server → client
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--keep"] => true,
        ["--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(keep) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("\n{failed} of the above is NOT as it must be.");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nquickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Shows everything and returns how much of it was not as it must be.
fn run(keep: bool) -> Result<u32> {
    let mut report = Report { failed: 0 };
    println!("dr-director: LVS direct routing in user space, on this machine's real packets.");
    println!("{PICTURE}");
    let start = Instant::now();
    let lab = Lab::builder().real_servers(WEIGHTS.len().try_into()?).build()?;
    report.note(&format!(
        "hosts are network namespaces {}*, ready in {:.1?}",
        lab.network().prefix(),
        start.elapsed()
    ));
    let config = lab.configuration_with(Protocol::Tcp, PORT, Algorithm::Wrr, &WEIGHTS)?;
    let director = start_director(&mut report, &lab, &config)?;

    let capture = lab.capture_director()?;
    show_arp(&mut report, &lab)?;
    show_requests(&mut report, &lab)?;
    lab.wait_until_quiet()?;
    show_direct_replies(&mut report, &capture.stop()?)?;
    show_counters(&mut report, &director)?;

    if report.failed == 0 {
        println!("\nAll as it must be.");
    }
    if keep {
        stay(lab, director)?;
    } else {
        director.terminate()?;
        drop(lab);
        println!("Everything is removed. To play with it: scripts/quickstart --keep");
    }
    Ok(report.failed)
}

/// What was seen, and how much of it was wrong.
struct Report {
    failed: u32,
}

impl Report {
    fn title(&self, title: &str) {
        println!("\n{title}");
    }

    fn note(&self, text: &str) {
        println!("   {text}");
    }

    fn check(&mut self, holds: bool, text: &str) {
        println!("   [{}] {text}", if holds { " ok " } else { "FAIL" });
        self.failed += u32::from(!holds);
    }

    fn command(&self, line: &str, output: &str) {
        println!("\n   $ {line}");
        for line in output.lines() {
            println!("   {line}");
        }
    }
}

fn start_director(report: &mut Report, lab: &Lab, config: &Config) -> Result<DirectorProcess> {
    let start = Instant::now();
    let director = lab.start_director(config)?;
    let status = director.status()?;
    report.note(&format!(
        "dr-director {} on DPDK {}, worker on CPU {:?}, control on CPU {:?}, ready in {:.1?}",
        status.version,
        status.dpdk,
        config.director.worker_cpus,
        config.director.control_cpus,
        start.elapsed()
    ));
    if director::allowed_cpus().len() == 1 {
        report
            .note("one CPU only: worker and control thread share it, which works and says nothing of speed");
    }
    Ok(director)
}

fn show_arp(report: &mut Report, lab: &Lab) -> Result<()> {
    report.title(&format!("Who answers ARP for {VIP}?"));
    let macs: Vec<String> = client::arping(&lab.client, VIP, 3)?.into_iter().collect();
    let text = format!(
        "only the director ({}): 3 requests by arping, answers from {}",
        mac_of(DIP),
        macs.join(", ")
    );
    report.check(macs == [mac_of(DIP)], &text);
    Ok(())
}

fn show_requests(report: &mut Report, lab: &Lab) -> Result<()> {
    report.title(&format!(
        "{REQUESTS} HTTP requests from {CLIENT} to http://{VIP}:{PORT}/, each on its own connection"
    ));
    let start = Instant::now();
    let answers = client::get_many(&lab.client, VIP, PORT, REQUESTS)?;
    let duration = start.elapsed();
    let logs = lab.logged_requests(REQUESTS as usize)?;
    let succeeded = answers.iter().filter(|answer| answer.status == 200).count();
    report
        .check(succeeded == REQUESTS as usize, &format!("{succeeded} answered with 200, in {duration:.2?}"));

    let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
    let weight_sum: u32 = WEIGHTS.iter().map(|&weight| u32::from(weight)).sum();
    for ((server, weight), logged) in lab.real_servers.iter().zip(WEIGHTS).zip(logs) {
        let answered = shares.get(server.name()).copied().unwrap_or(0);
        let expected = REQUESTS * u32::from(weight) / weight_sum;
        let holds = answered == expected
            && logged.len() == expected as usize
            && logged.iter().all(|request| request.client == CLIENT);
        let mut clients: Vec<String> = logged.iter().map(|request| request.client.to_string()).collect();
        clients.dedup();
        report.check(
            holds,
            &format!(
                "{} {}  weight {weight}: answered {answered:>3}, nginx logged {:>3}, from {}",
                server.name(),
                server.address,
                logged.len(),
                clients.join(", ")
            ),
        );
    }
    Ok(())
}

fn show_direct_replies(report: &mut Report, recording: &Recording) -> Result<()> {
    report.title("Did a reply pass the director? A capture in its cable says:");
    let requests = format!("dst host {VIP} and tcp dst port {PORT}");
    let director = mac_of(DIP);
    let received = recording.count(&format!("{requests} and ether dst {director}"))?;
    let sent = recording.count(&format!("{requests} and ether src {director}"))?;
    let replies = recording.count(&format!("ip src {VIP}"))?;
    report.check(
        received == sent && received >= u64::from(REQUESTS),
        &format!("{received} packets from the client came in, {sent} went out to real servers"),
    );
    report.check(replies == 0, &format!("{replies} packets from {VIP}: replies go straight to the client"));
    Ok(())
}

fn show_counters(report: &mut Report, director: &DirectorProcess) -> Result<()> {
    report.title("Where did every packet go?");
    match director.assert_conservation() {
        Ok(totals) => {
            let dropped: u64 = totals.drops.values().sum();
            let text = format!(
                "received {} = forwarded {} + punted to the control thread {} + dropped {dropped}",
                totals.received, totals.forwarded, totals.punted
            );
            report.check(true, &text);
        }
        Err(error) => report.check(false, &error.to_string()),
    }
    for command in ["show", "stats"] {
        report.command(&format!("dr-ctl {command}"), &director.ctl(&[command])?);
    }
    Ok(())
}

/// Leaves everything running until Ctrl-C, or until the director ends by itself.
fn stay(lab: Lab, mut director: DirectorProcess) -> Result<()> {
    let socket = director.socket().display().to_string();
    let dr_ctl = director::binary("dr-ctl")?.display().to_string();
    let exec = |host: &lab::Host, command: &str| println!("   ip netns exec {} {command}", host.namespace());
    println!("\nIt stays until Ctrl-C here. As root, in another terminal:\n");
    exec(&lab.client, &format!("curl http://{VIP}/"));
    exec(&lab.client, &format!("arping -c 3 -I eth0 {VIP}"));
    exec(&lab.switch, "tcpdump -n -e -i to-director");
    exec(&lab.director, "curl http://127.0.0.1:9190/metrics");
    for command in [
        "show",
        "connections",
        "neighbours",
        "set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 5",
        "drain-rs tcp 192.0.2.10:80 10.0.0.12",
        "--help",
    ] {
        println!("   {dr_ctl} --socket {socket} {command}");
    }
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        signals.add(signal);
    }
    // Only now: until here such a signal ends this process at once, and the lab's reaper removes everything.
    signals.thread_block()?;
    loop {
        if let Some(status) = director.ended()? {
            bail!("dr-director ended with {status}:\n{}", director.log());
        }
        if signals.wait()? != Signal::SIGCHLD {
            break;
        }
    }
    let duration = director.terminate()?;
    ensure!(!std::path::Path::new(&socket).exists(), "{socket} is still there");
    drop(lab);
    println!("\ndr-director stopped in {duration:.1?}. Everything is removed.");
    Ok(())
}
