//! Draining under real connections: what is established goes on, what is new goes elsewhere, and the end comes with the
//! last connection or at the deadline.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ctl::protocol::{RealServerState, RealServerView};
use lab::client::{self, Connection};
use lab::real_server::SLOW_BYTES;
use lab::{DirectorProcess, Lab, Process, VIP, director, wait};

const SERVICE: &str = "192.0.2.10:80";

/// The real server that is drained.
const RIP: &str = "10.0.0.11";
const NAME: &str = "rs1";

/// FIN_WAIT lasts 120 s otherwise: the director sees the client's FIN alone.
const SHORT_FIN_WAIT: [&str; 2] = ["--timeout", "tcp_fin_wait=1"];

/// A service over two real servers, rr, with these options.
fn started(options: &[&str]) -> Result<(Lab, DirectorProcess)> {
    let lab = Lab::builder().real_servers(2).build()?;
    let director = lab.start_director(&lab.configuration()?)?;
    let add = ["add-vip", "tcp", SERVICE, "--scheduler", "rr"];
    director.ctl(&[&add, &SHORT_FIN_WAIT[..], options].concat())?;
    for rip in [RIP, "10.0.0.12"] {
        director.ctl(&["add-rs", "tcp", SERVICE, rip])?;
    }
    director.wait_until_up(2)?;
    Ok((lab, director))
}

/// Opens a connection that `rs1` serves.
fn connect(lab: &Lab) -> Result<Connection> {
    for _ in 0..2 {
        let mut connection = Connection::open(&lab.client, VIP, 80)?;
        if connection.get("/")? == NAME {
            return Ok(connection);
        }
    }
    bail!("rr gave {NAME} neither of two connections")
}

fn drain(director: &DirectorProcess, options: &[&str]) -> Result<String> {
    director.ctl(&[&["drain-rs", "tcp", SERVICE, RIP], options].concat())
}

/// `drain-rs` without deadline and with options that have it wait. It does not where a worker was late to take the drain,
/// and is asked again.
fn drain_and_wait(director: &DirectorProcess, options: &[&str]) -> Result<Output> {
    wait::until("a drain that waits", || {
        let output = director.ctl_output(&[&["drain-rs", "tcp", SERVICE, RIP], options].concat())?;
        Ok((!director::was_late(director.socket(), &output)?).then_some(output))
    })
}

/// The drained real server as `dr-ctl show` has it; none once it is removed.
fn drained(director: &DirectorProcess) -> Result<Option<RealServerView>> {
    let services = director.show()?.services;
    Ok(services[0].real_servers.iter().find(|server| server.address.to_string() == RIP).cloned())
}

fn wait_until_removed(director: &DirectorProcess) -> Result<()> {
    wait::until("the drained real server to be removed", || Ok(drained(director)?.is_none().then_some(())))
        .map_err(|error| anyhow!("{error:#}\n{:#?}\n{}", director.show(), director.log()))
}

/// None of so many new requests is answered by the drained real server.
fn assert_new_requests_go_elsewhere(lab: &Lab, count: u32) -> Result<()> {
    let answers = client::get_many(&lab.client, VIP, 80, count)?;
    let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
    ensure!(shares.keys().eq(["rs2"]), "while {NAME} drains: {shares:?}");
    Ok(())
}

#[test]
fn drained_real_server_keeps_its_connections_and_goes_with_the_last_of_them() -> Result<()> {
    let (lab, director) = started(&[])?;
    let (mut idle, mut download) = (connect(&lab)?, connect(&lab)?);
    // Its connection stays open when it is over, so that the count does not hang on how fast this is.
    let download = std::thread::spawn(move || download.get("/slow").map(|body| (download, body)));
    let arguments = ["drain-rs", "tcp", SERVICE, RIP, "--timeout", "300s", "--wait"];
    let mut waiting = Process::spawn(director.ctl_command(&arguments), "drain", lab.network().directory())?;
    wait::until("the drain", || {
        let state = drained(&director)?.context("it is gone already")?.state;
        Ok((state == RealServerState::Draining).then_some(()))
    })?;

    let view = drained(&director)?.context("it is gone already")?;
    ensure!(view.active_connections == 2, "{view:?}");
    let left = view.drain_seconds_left.context("no deadline is shown")?;
    ensure!((200..=300).contains(&left), "{left} s are left of 300");
    let text = director.ctl(&["show"])?;
    let line = text.lines().find(|line| line.contains(RIP)).context("it is not shown")?;
    ensure!(line.contains("drain"), "{text}");

    assert_new_requests_go_elsewhere(&lab, 20)?;
    ensure!(idle.get("/")? == NAME, "an established connection was disturbed");
    let (download, body) = download.join().map_err(|_| anyhow!("the download panicked"))??;
    ensure!(body.len() == SLOW_BYTES, "{} bytes were downloaded", body.len());
    drop(download);
    ensure!(waiting.ended()?.is_none(), "with a connection left:\n{}", waiting.log());
    ensure!(idle.get("/")? == NAME);
    drop(idle);
    wait_until_removed(&director)?;
    let status = waiting.wait()?;
    ensure!(status.success(), "drain-rs --wait ended with {status}:\n{}", waiting.log());
    ensure!(waiting.log().contains("connection"), "it did not say what is left:\n{}", waiting.log());
    ensure!(director.log().contains("its last connection is gone"), "{}", director.log());
    assert_new_requests_go_elsewhere(&lab, 6)?;
    director.finish()
}

#[test]
fn deadline_removes_it_although_a_connection_is_left_which_its_return_revives() -> Result<()> {
    let (lab, director) = started(&[])?;
    let mut kept = connect(&lab)?;
    let start = Instant::now();
    let output = director.ctl_output(&["drain-rs", "tcp", SERVICE, RIP, "--timeout", "2s", "--wait"])?;
    if director::was_late(director.socket(), &output)? {
        wait_until_removed(&director)?;
    } else {
        ensure!(output.status.success(), "{output:?}");
    }
    let took = start.elapsed();
    ensure!(took >= Duration::from_secs(1), "a drain of 2 s took {took:?}");
    ensure!(drained(&director)?.is_none());
    ensure!(director.log().contains("connections left: 1"), "{}", director.log());
    assert_new_requests_go_elsewhere(&lab, 6)?;

    // Its packets are dropped, until the real server is back and TCP sends them again.
    let removed = || -> Result<u64> { Ok(director.stats()?.totals.drops["real_server_removed"]) };
    let before = removed()?;
    std::thread::scope(|scope| -> Result<()> {
        let answer = scope.spawn(|| kept.get("/"));
        wait::until("a packet to be dropped", || Ok((removed()? > before).then_some(())))?;
        director.ctl(&["add-rs", "tcp", SERVICE, RIP])?;
        let answer = answer.join().map_err(|_| anyhow!("the request panicked"))??;
        ensure!(answer == NAME, "answered by {answer}");
        Ok(())
    })?;
    director.finish()
}

#[test]
fn persistent_client_leaves_a_drained_real_server_with_its_next_connection() -> Result<()> {
    let (lab, director) = started(&["--persistent", "60"])?;
    let home = client::get_many(&lab.client, VIP, 80, 1)?.remove(0).server;
    let rip = lab.rip(&home)?;
    let mut kept = Connection::open(&lab.client, VIP, 80)?;
    ensure!(kept.get("/")? == home);
    director.ctl(&["drain-rs", "tcp", SERVICE, &rip, "--timeout", "300s"])?;
    let answers = client::get_many(&lab.client, VIP, 80, 10)?;
    ensure!(answers.iter().all(|answer| answer.server != home), "{answers:?}");
    ensure!(kept.get("/")? == home, "the established connection was moved");
    drop(kept);
    wait::until("the drained real server to be removed", || {
        Ok((director.show()?.services[0].real_servers.len() == 1).then_some(()))
    })?;
    director.finish()
}

#[test]
fn kept_persistent_client_goes_on_opening_connections_until_the_deadline() -> Result<()> {
    let (lab, director) = started(&["--persistent", "600"])?;
    let home = client::get_many(&lab.client, VIP, 80, 1)?.remove(0).server;
    let rip = lab.rip(&home)?;
    let other = Ipv4Addr::new(10, 0, 0, 101);
    lab.add_client_address(other)?;
    let drain = |timeout: &str| {
        director.ctl(&["drain-rs", "tcp", SERVICE, &rip, "--timeout", timeout, "--keep-persistent"])
    };
    drain("300s")?;
    let answers = client::get_many(&lab.client, VIP, 80, 10)?;
    ensure!(answers.iter().all(|answer| answer.server == home), "{answers:?}");
    let servers = client::get_many_from(&lab.client, other, VIP, 80, 4)?;
    ensure!(servers.iter().all(|server| *server != home), "a client without a template: {servers:?}");
    // Without a connection it is not empty: its client is remembered.
    wait::until("the last connection to be gone", || {
        let servers = director.show()?.services.remove(0).real_servers;
        let server = servers.iter().find(|server| server.address.to_string() == rip);
        let server = server.context("it was removed although a client is remembered")?;
        ensure!(server.persistent_connections == 1, "{server:?}");
        Ok((server.active_connections + server.inactive_connections == 0).then_some(()))
    })?;
    drain("1s")?;
    wait::until("the deadline", || Ok((director.show()?.services[0].real_servers.len() == 1).then_some(())))?;
    let answers = client::get_many(&lab.client, VIP, 80, 3)?;
    ensure!(answers.iter().all(|answer| answer.server != home), "{answers:?}");
    director.finish()
}

#[test]
fn without_a_timeout_it_stays_until_no_drain_brings_it_back() -> Result<()> {
    let (lab, director) = started(&[])?;
    let mut kept = connect(&lab)?;
    drain(&director, &[])?;
    assert_new_requests_go_elsewhere(&lab, 6)?;
    ensure!(kept.get("/")? == NAME);
    // A wait that is shorter than the connection's life says so.
    let output = drain_and_wait(&director, &["--wait", "1s"])?;
    ensure!(output.status.code() == Some(8), "{output:?}");
    drop(kept);
    // Another drain of the same: it waits for the end of the last connection, and removes nothing.
    let output = drain_and_wait(&director, &["--wait"])?;
    ensure!(output.status.success(), "{output:?}");
    let view = drained(&director)?.context("it was removed")?;
    ensure!(view.state == RealServerState::Draining && view.drain_seconds_left.is_none(), "{view:?}");
    ensure!(view.active_connections + view.inactive_connections == 0, "{view:?}");
    director.ctl(&["set-rs", "tcp", SERVICE, RIP, "--no-drain"])?;
    connect(&lab)?;
    director.finish()
}

#[test]
fn drain_with_a_deadline_can_be_taken_back() -> Result<()> {
    let (lab, director) = started(&[])?;
    let mut kept = connect(&lab)?;
    // Where the machine is so busy that the deadline is sooner than the second command, with a later one.
    let take_back = |seconds: u64| -> Result<bool> {
        drain(&director, &["--timeout", &format!("{seconds}s")])?;
        if director.ctl(&["set-rs", "tcp", SERVICE, RIP, "--no-drain"]).is_ok() {
            std::thread::sleep(Duration::from_secs(seconds + 1));
            return Ok(true);
        }
        director.ctl(&["add-rs", "tcp", SERVICE, RIP])?;
        director.wait_until_up(2)?;
        Ok(false)
    };
    ensure!(take_back(2)? || take_back(8)? || take_back(32)?, "each was removed");
    let view = drained(&director)?.context("it was removed all the same")?;
    ensure!(view.state == RealServerState::Up && view.drain_seconds_left.is_none(), "{view:?}");
    ensure!(kept.get("/")? == NAME);
    connect(&lab)?;
    director.finish()
}

#[test]
fn deadline_is_saved_and_a_restart_carries_it_out() -> Result<()> {
    let (lab, director) = started(&[])?;
    let mut kept = connect(&lab)?;
    drain(&director, &["--timeout", "300s"])?;
    let file = lab.director.directory().join("saved.toml");
    let path = file.to_str().context("not a path")?;
    director.ctl(&["save", path])?;
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let until = saved_deadline(&file)?;
    ensure!(until > unix_now + 200 && until <= unix_now + 301, "the deadline is {until}, now is {unix_now}");
    // Applied again, the file changes nothing, and the deadline stays.
    let changes = director.ctl_json(&["apply", path])?;
    ensure!(changes["changes"].as_array().is_some_and(Vec::is_empty), "{changes}");
    ensure!(kept.get("/")? == NAME);
    director.kill()?;

    // Without connections, which the restart has forgotten, it goes at once.
    let director = DirectorProcess::start_with_file(&lab.director, &file, &lab.control_socket())?;
    wait_until_removed(&director)?;
    director.wait_until_up(1)?;
    assert_new_requests_go_elsewhere(&lab, 6)?;
    ensure!(director.log().contains("its last connection is gone"), "{}", director.log());
    director.finish()
}

#[test]
fn deadline_that_passed_while_the_daemon_was_down_is_carried_out_at_its_start() -> Result<()> {
    let (lab, director) = started(&[])?;
    // Without a connection the drain could be over before it is saved.
    let _kept = connect(&lab)?;
    drain(&director, &["--timeout", "300s", "--keep-persistent"])?;
    let file = lab.director.directory().join("saved.toml");
    director.ctl(&["save", file.to_str().context("not a path")?])?;
    director.kill()?;
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replace(&saved_deadline(&file)?.to_string(), "1000000000"))?;
    let director = DirectorProcess::start_with_file(&lab.director, &file, &lab.control_socket())?;
    wait_until_removed(&director)?;
    director.wait_until_up(1)?;
    assert_new_requests_go_elsewhere(&lab, 6)?;
    director.finish()
}

/// The one deadline of a saved file.
fn saved_deadline(file: &Path) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find(|line| line.contains("until_unix_seconds"));
    let line = line.with_context(|| format!("no deadline was saved:\n{text}"))?;
    let (_, rest) = line.split_once("until_unix_seconds = ").context("not a deadline")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}
