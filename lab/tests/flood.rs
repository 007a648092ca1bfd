//! More new clients than a worker may or can remember: established connections do not notice, new ones are served
//! without state and adopted afterwards, and the daemon's memory stays what it was.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use ctl::config::Protocol;
use lab::client::{self, Connection, Traffic};
use lab::differential::neighbours;
use lab::real_server::SLOW_BYTES;
use lab::{DirectorProcess, Flood, Lab, VIP, director, wait};
use nix::sys::signal::Signal;
use scheduler::Algorithm;

/// Connections that a worker may open in a second while the flood lasts.
const CREATION_RATE: u64 = 1000;

/// SYNs of a flood.
const SYNS: u64 = 30_000;

/// The pause of a flood of some 30,000 SYNs a second.
const PAUSE: Duration = Duration::from_millis(2);

/// How much the daemon may grow: what its answers to `dr-ctl` take, and no table.
const GROWTH_KIB_MAX: u64 = 4 << 10;

fn wait_until_sent(flood: &Flood, count: u64) -> Result<()> {
    wait::until(&format!("{count} SYNs"), || Ok((flood.sent() >= count).then_some(())))
}

/// Waits until the workers have taken all that is in the queues: with little of a CPU that takes seconds.
fn wait_until_quiet(director: &DirectorProcess) -> Result<()> {
    let mut before = None;
    wait::until("the end of the queues", || {
        std::thread::sleep(Duration::from_millis(300));
        let received = director.stats()?.totals.received;
        Ok((before.replace(received) == Some(received)).then_some(()))
    })
}

/// Packets that went without state for `reason`, of all workers.
fn stateless(director: &DirectorProcess, reason: &str) -> Result<u64> {
    director
        .stats()?
        .workers
        .iter()
        .map(|worker| {
            worker.stateless.get(reason).copied().with_context(|| format!("{reason} is not listed"))
        })
        .sum()
}

/// Connections that were adopted, of all workers.
fn adopted(director: &DirectorProcess) -> Result<u64> {
    let metrics = director.metrics()?;
    let samples = metrics.lines().filter(|line| line.starts_with("dr_worker_adopted_connections_total{"));
    samples.map(|line| Ok(line.rsplit_once(' ').context("not a sample")?.1.parse::<u64>()?)).sum()
}

/// A flood against a director whose port has `queue` (arguments of its device), and whom it must not disturb.
fn withstands_a_flood(workers: u16, pause: Duration, queue: &str) -> Result<()> {
    let lab = Lab::builder().workers(workers).build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1, 1, 1])?;
    config.ports[0].device.push_str(queue);
    let director = lab.start_director(&config)?;
    director.ctl(&["set-options", "--creation-rate", &CREATION_RATE.to_string()])?;
    let mut idle = Connection::open(&lab.client, VIP, 80)?;
    let home = idle.get("/")?;
    client::get_many(&lab.client, VIP, 80, 20)?;
    director.metrics()?;
    let memory = director.resident_kib()?;
    let mut download = Connection::open(&lab.client, VIP, 80)?;
    let download = std::thread::spawn(move || download.get("/slow"));

    let service = SocketAddrV4::new(VIP, 80);
    let start = Instant::now();
    let flood = Flood::start(&lab.client, neighbours::mac_of(1), service, SYNS, pause)?;
    wait_until_sent(&flood, SYNS / 2)?;
    let mut during = Connection::open(&lab.client, VIP, 80)?;
    let during_home = during.get("/").context("a connection of during the flood")?;
    client::get_many(&lab.client, VIP, 80, 20).context("requests during the flood")?;
    let answer = idle.get("/").context("an established connection during the flood")?;
    ensure!(answer == home, "the flood moved an established connection");
    wait_until_sent(&flood, SYNS)?;
    let sent = flood.stop()?;

    wait_until_quiet(&director)?;
    let totals = director.assert_conservation()?;
    println!("{sent} SYNs were sent; {totals:?}");
    ensure!(stateless(&director, "creation_rate")? > 0, "none of {sent} SYNs was over the rate");
    let grown = director.resident_kib()?.saturating_sub(memory);
    ensure!(grown <= GROWTH_KIB_MAX, "the daemon has grown by {grown} KiB");
    // The allowance of all that time, an eighth of a second's at its beginning, and those of before.
    let seconds = start.elapsed().as_secs() + 2;
    let connections = director.status()?.connections;
    ensure!(
        connections <= u64::from(workers) * CREATION_RATE * seconds,
        "{connections} are kept after {seconds} s"
    );

    // After it: all that was there is there, and what comes is served.
    client::get_many(&lab.client, VIP, 80, 60).context("requests after the flood")?;
    let answer = idle.get("/").context("an established connection after the flood")?;
    ensure!(answer == home, "the flood moved an established connection");
    let answer = during.get("/").context("a connection of during the flood, after it")?;
    ensure!(answer == during_home, "a connection of during the flood was moved after it");
    // Adopted as soon as the allowance is there again.
    let port = format!(":{} ", during.client_port()?);
    wait::until("the connection of during the flood to be kept", || {
        ensure!(during.get("/")? == during_home, "it was moved when it was adopted");
        let rows = director.ctl(&["connections", "--client", "10.0.0.100", "--state", "established"])?;
        Ok(rows.contains(&port).then_some(()))
    })?;
    let download = download.join().map_err(|_| anyhow!("the download panicked"))?.context("the download")?;
    ensure!(download.len() == SLOW_BYTES, "{} bytes were downloaded", download.len());
    ensure!(download.bytes().all(|byte| byte == b'.'), "the download is not what was sent");
    println!("adopted: {}", adopted(&director)?);
    // How long it takes to give back such queues is not what this test is about.
    director.assert_conservation()?;
    let (_, status) = director.stop(Signal::SIGTERM)?;
    ensure!(status.success(), "dr-director ended with {status}");
    Ok(())
}

#[test]
fn flood_as_fast_as_it_goes_disturbs_no_established_connection_and_new_ones_are_served() -> Result<()> {
    // The queue holds all of it: what is lost before the director is not what this test is about.
    withstands_a_flood(1, Duration::ZERO, ",framecnt=32768")
}

#[test]
fn flood_over_two_workers_disturbs_no_established_connection_and_new_ones_are_served() -> Result<()> {
    if director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    // The driver has the kernel hand what finds a queue full to the other one (PACKET_FANOUT_FLAG_ROLLOVER), whose
    // worker does not know the connection: these queues hold all of the flood.
    withstands_a_flood(2, PAUSE, ",framecnt=16384")
}

#[test]
fn connections_that_were_opened_without_state_are_adopted() -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1, 1, 1])?;
    let director = lab.start_director(&config)?;
    // 32 at once, however small the rate, and one a second: those opened after them find no allowance, unless this machine
    // takes a second for each.
    director.ctl(&["set-options", "--creation-rate", "1"])?;
    let mut connections = Vec::new();
    while stateless(&director, "creation_rate")? == 0 {
        ensure!(connections.len() < 500, "each was allowed: {:?}", director.stats()?.workers);
        for _ in 0..40 {
            let mut connection = Connection::open(&lab.client, VIP, 80)?;
            let home = connection.get("/")?;
            connections.push((connection, home));
        }
    }
    director.ctl(&["set-options", "--creation-rate", "0"])?;
    for (connection, home) in &mut connections {
        ensure!(connection.get("/")? == *home, "a connection was moved when it was adopted");
    }
    ensure!(adopted(&director)? > 0, "none was adopted");
    let count = director.status()?.connections;
    ensure!(count == connections.len() as u64, "{count} connections are kept of {}", connections.len());
    // Adopted, they are connections as others are: a change of real servers does not move them.
    director.ctl(&["drain-rs", "tcp", "192.0.2.10:80", "10.0.0.11"])?;
    for (connection, home) in &mut connections {
        ensure!(connection.get("/")? == *home, "a drain moved an adopted connection");
    }
    director.finish()
}

#[test]
fn more_connections_than_the_table_holds_are_all_served() -> Result<()> {
    const CONNECTIONS: usize = 200;
    let lab = Lab::builder().build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1, 1, 1])?;
    config.director.connection_capacity_per_worker = 64;
    let director = lab.start_director(&config)?;
    let mut connections = Vec::new();
    for number in 0..CONNECTIONS {
        let mut connection = Connection::open(&lab.client, VIP, 80)?;
        let home = connection.get("/").with_context(|| format!("connection {}", number + 1))?;
        connections.push((connection, home));
    }
    for _ in 0..3 {
        for (connection, home) in &mut connections {
            ensure!(connection.get("/")? == *home, "a connection was moved");
        }
    }
    ensure!(stateless(&director, "table_full")? > 0, "{:?}", director.stats()?.workers);
    let worker = &director.stats()?.workers[0];
    ensure!(
        worker.connections <= worker.connection_capacity && worker.connection_capacity < 200,
        "{worker:?}"
    );
    let status = director.status()?;
    let is_named = |warning: &String| warning.contains("connection_capacity_per_worker");
    ensure!(status.warnings.iter().any(is_named), "{:?}", status.warnings);
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    traffic.wait_for_more(50)?;
    traffic.stop()?;
    drop(connections);
    director.finish()
}
