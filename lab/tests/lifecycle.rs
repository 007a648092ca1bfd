//! Start and stop of the daemon, what it says of itself, and what it does when a link goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ctl::config::{Config, Protocol};
use ctl::protocol::{NeighbourState, RealServerState, Stats, TrafficRates};
use lab::client::{self, Connection};
use lab::wait::{self, HANGS};
use lab::{DirectorProcess, Lab, PortDriver, Process, VIP, director, process};
use nix::sys::signal::Signal;
use scheduler::Algorithm;

fn started() -> Result<(Lab, Config, DirectorProcess)> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 2, 3])?;
    let director = lab.start_director(&config)?;
    Ok((lab, config, director))
}

/// Everything that the daemon made on the file system.
fn runtime_files(lab: &Lab) -> Vec<PathBuf> {
    let dpdk = fs::read_dir(lab.director.directory().join("dpdk")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = dpdk.map(|entry| entry.path()).collect();
    files.extend(Some(lab.control_socket()).filter(|socket| socket.exists()));
    files
}

/// How long a daemon takes to stop, which must leave nothing.
fn stop_time(lab: &Lab, config: &Config, signal: Signal) -> Result<Duration> {
    let director = lab.start_director(config)?;
    // What holds on to it: an established connection, and clients of the socket, one in the middle of a request.
    let mut kept = Connection::open(&lab.client, VIP, 80)?;
    kept.get("/")?;
    let _idle = UnixStream::connect(director.socket())?;
    let mut half = UnixStream::connect(director.socket())?;
    std::io::Write::write_all(&mut half, b"{\"version\":1")?;
    ensure!(director.socket().exists());
    let (duration, status) = director.stop(signal)?;
    ensure!(status.success(), "after {signal} it ended with {status}");
    let left = runtime_files(lab);
    ensure!(left.is_empty(), "after {signal} it left {left:?}");
    Ok(duration)
}

#[test]
fn sigterm_and_sigint_stop_within_two_seconds_and_leave_nothing() -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 2, 3])?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // The fastest of three, as far as they are needed: a busy machine adds to each, and nothing takes away from one.
        let mut times = Vec::new();
        while times.iter().all(|&time| time >= Duration::from_secs(2)) {
            ensure!(times.len() < 3, "after {signal} it took {times:?}");
            times.push(stop_time(&lab, &config, signal)?);
        }
    }
    Ok(())
}

#[test]
fn sigterm_during_the_start_ends_it_in_order() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1])?;
    let file = lab.director.directory().join("early.toml");
    fs::write(&file, toml::to_string(&config)?)?;
    for milliseconds in [0, 30, 60, 100, 150, 200, 300] {
        let command = director::daemon(&lab.director, &file)?;
        let mut daemon = Process::spawn(command, "dr-director", lab.director.directory())?;
        // A signal that comes before the daemon has read its file ends it at once: it has made nothing yet.
        wait::until("dr-director to hold back SIGTERM", || {
            ensure!(daemon.ended()?.is_none(), "it ended at its start:\n{}", daemon.log());
            Ok(holds_back_sigterm(daemon.id())?.then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait()?;
        ensure!(status.success(), "SIGTERM after {milliseconds} ms: {status}\n{}", daemon.log());
        ensure!(runtime_files(&lab).is_empty(), "after {milliseconds} ms it left {:?}", runtime_files(&lab));
    }
    Ok(())
}

/// Whether a process blocks SIGTERM, as dr-director does from when its file is read until it listens to signals, or
/// catches it, as it does from then on.
fn holds_back_sigterm(process: u32) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    // Masks of signals in hexadecimal, signal 1 the lowest bit: proc_pid_status(5).
    let has_sigterm = |name: &str| -> Result<bool> {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        Ok(u64::from_str_radix(mask.trim(), 16)? & 1 << (Signal::SIGTERM as i32 - 1) != 0)
    };
    Ok(has_sigterm("SigBlk:")? || has_sigterm("SigCgt:")?)
}

#[test]
fn killed_daemon_is_started_again_at_once() -> Result<()> {
    let (lab, config, director) = started()?;
    client::get_many(&lab.client, VIP, 80, 6)?;
    director.kill()?;
    ensure!(lab.control_socket().exists(), "kill -9 leaves the socket: this test is about that");
    ensure!(
        lab.client.output(&["curl", "-sS", "--max-time", "1", "http://192.0.2.10/"])?.status.code()
            != Some(0)
    );
    let director = lab.start_director(&config)?;
    client::get_many(&lab.client, VIP, 80, 6)?;
    director.finish()?;
    let left = runtime_files(&lab);
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn second_daemon_on_the_same_socket_is_refused_and_the_first_goes_on() -> Result<()> {
    let (lab, _, director) = started()?;
    let output = run_daemon(&lab, &lab.director.directory().join("director.toml"), &[])?;
    ensure!(!output.status.success() && process::text(&output.stderr).contains("control.sock"), "{output:?}");
    client::get_many(&lab.client, VIP, 80, 6)?;
    director.finish()
}

#[test]
fn start_without_hugepages_says_what_that_costs() -> Result<()> {
    let (_lab, _, director) = started()?;
    ensure!(director.log().to_lowercase().contains("hugepages"), "{}", director.log());
    ensure!(!director.status()?.memory.is_empty());
    director.finish()
}

#[test]
fn check_passes_a_good_file_and_refuses_a_bad_one_with_its_place() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1])?;
    let text = toml::to_string(&config)?;
    let file = lab.director.directory().join("checked.toml");
    fs::write(&file, &text)?;
    let output = run_daemon(&lab, &file, &["--check"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(!lab.control_socket().exists(), "--check listened");

    for (from, to, name) in [
        ("weight = 1", "weight = 70000", "weight"),
        ("address = \"10.0.0.11\"", "address = \"10.9.0.11\"", "10.9.0.11"),
        ("scheduler = \"wrr\"", "scheduler = \"warp\"", "warp"),
        ("hugepages = \"off\"", "hugepages = \"maybe\"", "maybe"),
        ("[[services]]", "[[services]", "expected"),
    ] {
        ensure!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to))?;
        // Checked or started with: the same refusal.
        for options in [&["--check"][..], &[]] {
            let output = run_daemon(&lab, &file, options)?;
            let said = process::text(&output.stderr);
            ensure!(!output.status.success() && said.contains(name), "`{to}` with {options:?}: {said}");
        }
    }
    let output = run_daemon(&lab, Path::new("/nonexistent.toml"), &[])?;
    ensure!(!output.status.success() && process::text(&output.stderr).contains("/nonexistent.toml"));
    Ok(())
}

/// Runs a daemon that is expected to end soon by itself.
fn run_daemon(lab: &Lab, file: &Path, options: &[&str]) -> Result<std::process::Output> {
    let mut command = lab.director.command("timeout");
    command
        .args(["--kill-after=1", &HANGS.as_secs().to_string()])
        .arg(director::binary("dr-director")?)
        .arg("--config")
        .arg(file);
    process::output(command.args(options).env("RUNTIME_DIRECTORY", lab.director.directory()))
}

#[test]
fn port_that_does_not_exist_is_named() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1])?;
    for device in
        [PortDriver::AfPacket.device(0, "eth9", 1), "0000:ff:1f.7".to_owned(), "net_nonesuch0".to_owned()]
    {
        config.ports[0].device = device.clone();
        let error = refused_start(&lab, &config)?;
        let name = device.split(',').next().unwrap_or(&device);
        ensure!(error.contains(name) && error.contains("ports[0]"), "{device}: {error}");
    }
    Ok(())
}

#[test]
fn fewer_queues_than_workers_is_an_error_that_says_so() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1])?;
    config.director.worker_cpus = director::allowed_cpus();
    config.director.worker_cpus.truncate(2);
    if config.director.worker_cpus.len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    let error = refused_start(&lab, &config)?;
    ensure!(error.contains("2 RX") && error.contains("ports[0]") && error.contains("2 workers"), "{error}");
    Ok(())
}

/// Starts a daemon that must refuse its configuration, and returns its last words. Nothing of it may be left.
fn refused_start(lab: &Lab, config: &Config) -> Result<String> {
    let file = lab.director.directory().join("refused.toml");
    fs::write(&file, toml::to_string(config)?)?;
    let output = run_daemon(lab, &file, &[])?;
    let said = process::text(&output.stderr);
    ensure!(output.status.code().is_some_and(|code| code != 0 && code != 124 && code != 101), "{output:?}");
    ensure!(runtime_files(lab).is_empty(), "it left {:?}", runtime_files(lab));
    Ok(said)
}

#[test]
fn metrics_are_valid_and_agree_with_dr_ctl() -> Result<()> {
    let (lab, _, director) = started()?;
    client::get_many(&lab.client, VIP, 80, 60)?;
    lab.barrier(&director)?;
    director.assert_conservation()?;
    // Read twice, until nothing moved in between: ARP goes on.
    let (stats, samples) = wait::until("a quiet moment", || {
        let before = counters(&director)?;
        let samples = parse_metrics(&director.metrics()?)?;
        Ok((before == counters(&director)?).then_some((before, samples)))
    })?;
    agree(&stats, &samples)?;
    ensure!(samples.keys().any(|sample| sample.starts_with("dr_build_info{")));
    ensure!(value_sum(&samples, "dr_neighbours", r#"state="reachable""#) == 3.0, "{samples:?}");
    director.finish()
}

/// What `dr-ctl stats` says, without rates: they go on for long after traffic.
fn counters(director: &DirectorProcess) -> Result<Stats> {
    let mut stats = director.stats()?;
    for service in &mut stats.services {
        service.rates = TrafficRates::default();
        for server in &mut service.real_servers {
            server.rates = TrafficRates::default();
        }
    }
    Ok(stats)
}

/// Counters by name and labels; an error where the text breaks Prometheus's format (version 0.0.4).
fn parse_metrics(text: &str) -> Result<BTreeMap<String, f64>> {
    let (mut types, mut helped, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("a HELP without text")?;
            ensure!(helped.insert(name.to_owned()) && !help.is_empty(), "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a TYPE without type")?;
            ensure!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
            ensure!(
                (kind == "counter") == name.ends_with("_total"),
                "against Prometheus's conventions: {line}"
            );
        } else {
            let (sample, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
            let name = sample.split('{').next().unwrap_or(sample);
            ensure!(types.contains_key(name) && helped.contains(name), "without TYPE or HELP: {line}");
            ensure!(sample == name || sample.ends_with("\"}"), "labels: {line}");
            let value: f64 = value.parse().with_context(|| format!("not a number: {line}"))?;
            ensure!(samples.insert(sample.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    ensure!(!samples.is_empty() && text.ends_with('\n'));
    Ok(samples)
}

/// Sum over the samples of a metric whose labels have `label`.
fn value_sum(samples: &BTreeMap<String, f64>, metric: &str, label: &str) -> f64 {
    let of_metric = |sample: &str| sample.split('{').next() == Some(metric) && sample.contains(label);
    samples.iter().filter(|(sample, _)| of_metric(sample)).map(|(_, value)| value).sum()
}

fn agree(stats: &Stats, samples: &BTreeMap<String, f64>) -> Result<()> {
    let same = |metric: &str, label: &str, expected: u64| {
        let found = value_sum(samples, metric, label);
        ensure!(found == expected as f64, "{metric}{{{label}}}: /metrics {found}, dr-ctl {expected}");
        Ok(())
    };
    same("dr_worker_received_packets_total", "", stats.totals.received)?;
    same("dr_worker_forwarded_packets_total", "", stats.totals.forwarded)?;
    same("dr_worker_punted_packets_total", "", stats.totals.punted)?;
    for (reason, count) in &stats.totals.drops {
        let label = format!("reason=\"{reason}\"");
        ensure!(samples.keys().any(|sample| sample.contains(&label)), "{reason} is not exported");
        same("dr_worker_dropped_packets_total", &label, *count)?;
    }
    let service = &stats.services[0];
    same("dr_service_connections_total", r#"vip="192.0.2.10""#, service.totals.connections)?;
    same("dr_service_packets_total", r#"vip="192.0.2.10""#, service.totals.packets)?;
    same("dr_service_bytes_total", r#"vip="192.0.2.10""#, service.totals.bytes)?;
    for server in &service.real_servers {
        let label = format!("real_server=\"{}\"", server.address);
        same("dr_real_server_connections_total", &label, server.counters.connections)?;
        same("dr_real_server_packets_total", &label, server.counters.packets)?;
        same("dr_real_server_bytes_total", &label, server.counters.bytes)?;
    }
    same("dr_port_received_packets_total", r#"port="lan""#, stats.ports[0].rx_packets)
}

#[test]
fn unplugged_real_server_fails_and_serves_again_when_it_is_back() -> Result<()> {
    let (lab, _, director) = started()?;
    let address = lab.real_servers[2].address;
    let state = || -> Result<NeighbourState> {
        let neighbours = director.neighbours()?.neighbours;
        Ok(neighbours.iter().find(|neighbour| neighbour.address == address).context("not listed")?.state)
    };
    ensure!(state()? == NeighbourState::Reachable);
    lab.switch.ip("link set to-rs3 down")?;
    // 30 s of trust, then six probes: Linux's own times.
    wait::until("rs3 to count as failed", || Ok((state()? == NeighbourState::Failed).then_some(())))?;
    let view = director.show()?.services[0].real_servers[2].clone();
    ensure!(view.state == RealServerState::Unresolved, "{view:?}");
    let answers = client::get_many(&lab.client, VIP, 80, 30)?;
    ensure!(client::shares(answers.iter().map(|answer| answer.server.as_str())).len() == 2, "{answers:?}");

    lab.switch.ip("link set to-rs3 up")?;
    director.wait_until_up(3)?;
    let answers = client::get_many(&lab.client, VIP, 80, 30)?;
    let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
    ensure!(shares.get("rs3") == Some(&15), "{shares:?}");
    director.finish()
}

#[test]
fn directors_own_link_may_go_and_come_back() -> Result<()> {
    let (lab, _, director) = started()?;
    client::get_many(&lab.client, VIP, 80, 6)?;
    lab.switch.ip("link set to-director down")?;
    std::thread::sleep(Duration::from_millis(300));
    director.status()?;
    lab.switch.ip("link set to-director up")?;
    client::get_many(&lab.client, VIP, 80, 6)?;
    director.finish()
}
