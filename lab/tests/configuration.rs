//! Changes of what runs, over the real socket with dr-ctl, while traffic goes on.

use std::fs;

use anyhow::{Context, Result, ensure};
use ctl::config::{Config, Protocol};
use ctl::protocol::RealServerState;
use lab::client::{self, Connection, Traffic};
use lab::real_server::SLOW_BYTES;
use lab::{DirectorProcess, Lab, VIP, wait};
use scheduler::Algorithm;

const SERVICE: &str = "192.0.2.10:80";

fn started(weights: &[u16]) -> Result<(Lab, Config, DirectorProcess)> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, weights)?;
    let director = lab.start_director(&config)?;
    Ok((lab, config, director))
}

#[test]
fn changes_fail_no_request_and_move_no_connection() -> Result<()> {
    let (lab, _, director) = started(&[1, 1])?;
    let slow = {
        let client = lab.client.clone();
        std::thread::spawn(move || Connection::open(&client, VIP, 80)?.get("/slow"))
    };
    let mut kept = Connection::open(&lab.client, VIP, 80)?;
    let home = kept.get("/")?;
    let rip = format!("10.0.0.1{}", home.strip_prefix("rs").context("not the name of a real server")?);
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    let mut stays = |what: &str| -> Result<()> {
        traffic.wait_for_more(20)?;
        let answer = kept.get("/").with_context(|| format!("after {what}"))?;
        ensure!(answer == home, "{what} moved a connection from {home} to {answer}");
        Ok(())
    };
    let change = |arguments: &[&str]| director.ctl(arguments).map(drop);

    change(&["add-rs", "tcp", SERVICE, "10.0.0.13", "--weight", "3"])?;
    director.wait_until_up(3)?;
    stays("add-rs")?;
    for weight in ["7", "1", "0", "65535", "1"] {
        change(&["set-rs", "tcp", SERVICE, &rip, "--weight", weight])?;
        stays("set-rs --weight")?;
    }
    for scheduler in ["rr", "lc", "wlc", "wrr"] {
        change(&["set-vip", "tcp", SERVICE, "--scheduler", scheduler])?;
        stays("set-vip --scheduler")?;
    }
    change(&["add-vip", "tcp", "192.0.2.20:80"])?;
    change(&["add-rs", "tcp", "192.0.2.20:80", &rip])?;
    stays("add-vip of another VIP")?;
    change(&["del-rs", "tcp", "192.0.2.20:80", &rip])?;
    change(&["del-vip", "tcp", "192.0.2.20:80"])?;
    stays("del-vip of another VIP")?;
    change(&["drain-rs", "tcp", SERVICE, &rip])?;
    stays("drain-rs")?;
    remove_when_idle(&director, "10.0.0.13")?;
    // The one that is drained and one other: what is left serves all.
    stays("del-rs of another RS")?;

    let slow = slow.join().map_err(|_| anyhow::anyhow!("the download panicked"))??;
    ensure!(slow.len() == SLOW_BYTES, "{} bytes were downloaded", slow.len());
    let servers = traffic.stop()?;
    for server in &lab.real_servers {
        ensure!(servers.iter().any(|name| name == server.name()), "{} never answered", server.name());
    }
    director.finish()
}

/// Drains a real server, waits for the end of its last active connection, and removes it.
fn remove_when_idle(director: &DirectorProcess, address: &str) -> Result<()> {
    director.ctl(&["drain-rs", "tcp", SERVICE, address])?;
    wait::until(&format!("the last connection of {address}"), || {
        let services = director.show()?.services;
        let server = services[0].real_servers.iter().find(|server| server.address.to_string() == address);
        Ok((server.context("it is gone")?.active_connections == 0).then_some(()))
    })?;
    director.ctl(&["del-rs", "tcp", SERVICE, address]).map(drop)
}

#[test]
fn drained_real_server_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let (lab, _, director) = started(&[1, 1])?;
    let mut kept = [Connection::open(&lab.client, VIP, 80)?, Connection::open(&lab.client, VIP, 80)?];
    let homes = kept.iter_mut().map(|connection| connection.get("/")).collect::<Result<Vec<_>>>()?;
    ensure!(homes[0] != homes[1], "{homes:?}");

    director.ctl(&["drain-rs", "tcp", SERVICE, "10.0.0.11"])?;
    ensure!(director.show()?.services[0].real_servers[0].state == RealServerState::Draining);
    let answers = client::get_many(&lab.client, VIP, 80, 20)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs2"), "{answers:?}");
    for (connection, home) in kept.iter_mut().zip(&homes) {
        ensure!(connection.get("/")? == *home);
    }

    // Removed, its connections end; the other's do not.
    director.ctl(&["del-rs", "tcp", SERVICE, "10.0.0.11"])?;
    let other = homes.iter().position(|home| home == "rs2").context("no connection to rs2")?;
    ensure!(kept[other].get("/")? == "rs2");
    director.finish()
}

#[test]
fn weight_changes_take_effect_with_the_answer() -> Result<()> {
    let (lab, _, director) = started(&[1, 1])?;
    for (weights, shares) in [((3, 1), (30, 10)), ((0, 5), (0, 40)), ((2, 2), (20, 20))] {
        for (address, weight) in [("10.0.0.11", weights.0), ("10.0.0.12", weights.1)] {
            director.ctl(&["set-rs", "tcp", SERVICE, address, "--weight", &weight.to_string()])?;
        }
        let answers = client::get_many(&lab.client, VIP, 80, 40)?;
        let given = client::shares(answers.iter().map(|answer| answer.server.as_str()));
        let of = |name: &str| given.get(name).copied().unwrap_or(0);
        // A list that changed in the middle of a round may shift one connection.
        let is_near = |is: u32, expected: u32| is.abs_diff(expected) <= 1 && (expected > 0 || is == 0);
        ensure!(
            is_near(of("rs1"), shares.0) && is_near(of("rs2"), shares.1),
            "weights {weights:?}: {given:?}"
        );
    }
    director.finish()
}

#[test]
fn applying_twice_changes_nothing_and_a_dry_run_never_does() -> Result<()> {
    let (lab, mut config, director) = started(&[1, 2])?;
    let file = lab.director.directory().join("wanted.toml");
    let path = file.to_str().context("not UTF-8")?;
    config.services[0].real_servers[1].weight = 5;
    config.services.push(lab.service(Protocol::Udp, 53, Algorithm::Wlc, &[1, 1, 1]));
    fs::write(&file, toml_of(&config)?)?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;

    let (before, generation) = (director.show()?, director.status()?.generation);
    let planned = director.ctl(&["apply", path, "--dry-run"])?;
    ensure!(planned.contains("10.0.0.12") && planned.contains('5'), "{planned}");
    ensure!(director.show()?.services.len() == before.services.len(), "a dry run changed something");
    ensure!(director.status()?.generation == generation, "a dry run made a generation");

    let changes = changes_of(&director, path)?;
    ensure!(changes.len() >= 2, "{changes:?}");
    ensure!(director.show()?.services.len() == 2);
    // The last real server resolved is a generation too.
    director.wait_until_up(5)?;
    let generation = director.status()?.generation;
    ensure!(changes_of(&director, path)?.is_empty(), "applied twice, it changed twice");
    ensure!(director.ctl(&["apply", path])?.to_lowercase().contains("no changes"));
    ensure!(director.status()?.generation == generation, "no change made a generation");
    traffic.stop()?;
    director.finish()
}

fn changes_of(director: &DirectorProcess, path: &str) -> Result<Vec<String>> {
    let answer = director.ctl_json(&["apply", path])?;
    Ok(serde_json::from_value(answer["changes"].clone())?)
}

fn toml_of(config: &Config) -> Result<String> {
    Ok(toml::to_string(config)?)
}

#[test]
fn saved_configuration_is_checked_applied_and_saved_the_same() -> Result<()> {
    let (lab, _, director) = started(&[1, 2, 3])?;
    director.ctl(&["add-vip", "udp", "192.0.2.20:53", "--scheduler", "lc"])?;
    director.ctl(&["add-rs", "udp", "192.0.2.20:53", "10.0.0.12", "--weight", "9"])?;
    director.ctl(&["drain-rs", "tcp", SERVICE, "10.0.0.13"])?;
    let (saved, file) = (director.ctl(&["save"])?, lab.director.directory().join("saved.toml"));
    fs::write(&file, &saved)?;
    let path = file.to_str().context("not UTF-8")?;
    director.ctl(&["check", path])?;
    ensure!(changes_of(&director, path)?.is_empty(), "what runs is not what was saved");

    director.ctl(&["del-vip", "udp", "192.0.2.20:53"])?;
    director.ctl(&["del-vip", "tcp", SERVICE])?;
    ensure!(director.show()?.services.is_empty());
    director.ctl(&["apply", path])?;
    ensure!(director.ctl(&["save"])? == saved, "{saved}");

    // The daemon starts with it.
    director.terminate()?;
    let restarted = DirectorProcess::start_with_file(&lab.director, &file, &lab.control_socket())?;
    ensure!(restarted.ctl(&["save"])? == saved, "{saved}");
    restarted.finish()
}

#[test]
fn bad_changes_are_refused_with_place_and_reason_and_change_nothing() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 2])?;
    config.director.service_capacity = 2;
    let director = lab.start_director(&config)?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    let saved = director.ctl(&["save"])?;
    // Each: what is asked, and what the refusal must name.
    let refusals: &[(&[&str], &[&str])] = &[
        (&["add-vip", "tcp", SERVICE], &["192.0.2.10:80"]),
        (&["add-vip", "tcp", "192.0.2.20:80", "--scheduler", "fastest"], &["fastest", "wlc"]),
        (&["add-vip", "tcp", "192.0.2.20:0"], &["0"]),
        (&["add-rs", "tcp", SERVICE, "10.0.0.13", "--weight", "70000"], &["70000", "65535"]),
        (&["add-rs", "tcp", SERVICE, "10.9.0.1"], &["10.9.0.1", "10.0.0.0/24"]),
        (&["add-rs", "tcp", SERVICE, "192.0.2.10"], &["192.0.2.10"]),
        (&["add-rs", "tcp", SERVICE, "10.0.0.1"], &["10.0.0.1"]),
        (&["add-rs", "tcp", SERVICE, "10.0.0.11"], &["10.0.0.11"]),
        (&["add-rs", "tcp", "192.0.2.99:80", "10.0.0.11"], &["192.0.2.99:80"]),
        (&["set-rs", "tcp", SERVICE, "10.0.0.99", "--weight", "1"], &["10.0.0.99"]),
        (&["set-rs", "tcp", SERVICE, "10.0.0.11", "--mac", "01:00:5e:00:00:01"], &["01:00:5e:00:00:01"]),
        (&["del-rs", "tcp", SERVICE, "10.0.0.99"], &["10.0.0.99"]),
        (&["drain-rs", "udp", SERVICE, "10.0.0.11"], &["udp"]),
        (&["del-vip", "tcp", "192.0.2.99:80"], &["192.0.2.99:80"]),
        (&["set-vip", "tcp", "192.0.2.99:80", "--scheduler", "rr"], &["192.0.2.99:80"]),
        (&["apply", "/nonexistent.toml"], &["/nonexistent.toml"]),
        (&["frobnicate"], &["frobnicate"]),
    ];
    for (arguments, names) in refusals {
        let (_, message) = director.ctl_refused(arguments)?;
        for name in *names {
            ensure!(message.contains(name), "{arguments:?} was refused without a word of {name}: {message}");
        }
    }
    director.ctl(&["add-vip", "tcp", "192.0.2.30:80"])?;
    let (_, message) = director.ctl_refused(&["add-vip", "tcp", "192.0.2.40:80"])?;
    ensure!(message.contains('2'), "a full service table is refused without its capacity: {message}");
    director.ctl(&["del-vip", "tcp", "192.0.2.30:80"])?;

    ensure!(director.ctl(&["save"])? == saved, "a refused change changed something");
    traffic.wait_for_more(20)?;
    traffic.stop()?;
    director.finish()
}

#[test]
fn bad_files_are_refused_whole_and_a_file_cut_anywhere_never_harms() -> Result<()> {
    let (lab, config, director) = started(&[1, 2])?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    let saved = director.ctl(&["save"])?;
    let file = lab.director.directory().join("bad.toml");
    let path = file.to_str().context("not UTF-8")?;
    let good = toml_of(&config)?;

    // One bad line in a file that would otherwise change much.
    let mut other = config.clone();
    other.services[0].real_servers[0].weight = 9;
    other.services.push(lab.service(Protocol::Udp, 53, Algorithm::Rr, &[1]));
    let other = toml_of(&other)?;
    for (from, to, name) in [
        ("weight = 9", "weight = 70000", "65535"),
        ("weight = 9", "wieght = 9", "wieght"),
        ("scheduler = \"rr\"", "scheduler = \"rrr\"", "rrr"),
        ("address = \"10.0.0.11\"", "address = \"10.9.0.11\"", "10.9.0.11"),
        ("protocol = \"udp\"", "protocol = \"dccp\"", "dccp"),
        ("port = 53", "port = 80\nport = 81", "port"),
    ] {
        ensure!(other.contains(from), "{other}");
        fs::write(&file, other.replace(from, to))?;
        for verb in ["check", "apply"] {
            let (_, message) = director.ctl_refused(&[verb, path])?;
            ensure!(message.contains(name), "{verb} refused `{to}` without a word of {name}: {message}");
        }
        ensure!(director.ctl(&["save"])? == saved, "`{to}` was refused but changed something");
    }

    for cut in (0..good.len()).step_by(11) {
        fs::write(&file, &good[..cut])?;
        let output = director.ctl_output(&["check", path])?;
        // Cut between two tables it is a smaller good file.
        let code = output.status.code().context("dr-ctl was killed by a signal")?;
        ensure!(code != 101, "dr-ctl panicked: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(code == 0 || !output.stderr.is_empty(), "cut after {cut} bytes, refused without a word");
        let dry = director.ctl_output(&["apply", path, "--dry-run"])?;
        ensure!(dry.status.code().is_some_and(|code| code != 101), "cut after {cut} bytes: {dry:?}");
    }
    ensure!(director.ctl(&["save"])? == saved);
    traffic.stop()?;
    director.finish()
}
