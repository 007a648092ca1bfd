//! Every scheduler over real HTTP: the shares of 60 requests, one after the other, and of 60 connections that stay open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use lab::client::{self, Connection};
use lab::{DirectorProcess, Lab, wait};

const RIPS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];

const REQUESTS: u32 = 60;

/// What the requests of each real server must be.
#[derive(Clone, Copy, Debug)]
enum Shares {
    /// These.
    Exact([u32; 3]),
    /// All on one, whichever the hash names.
    One,
    /// Some on each.
    Each,
}
use Shares::{Each, Exact, One};

/// Weights 10, 20, 30. One after the other: each connection has ended, and counts as inactive, when the next one comes.
/// The newest real server, `rs3`, wins ties, and is the heaviest. `ovf` and `lblc` let a real server have one active
/// connection more than its weight before they look for another.
const EXPECTED: [(&str, Shares, Shares); 14] = [
    // scheduler, requests one after the other, connections that stay open
    ("rr", Exact([20, 20, 20]), Exact([20, 20, 20])),
    ("wrr", Exact([10, 20, 30]), Exact([10, 20, 30])),
    ("lc", Exact([20, 20, 20]), Exact([20, 20, 20])),
    ("wlc", Exact([10, 20, 30]), Exact([10, 20, 30])),
    ("lblc", Exact([0, 0, 60]), Exact([8, 21, 31])),
    ("lblcr", Exact([0, 0, 60]), Exact([8, 21, 31])),
    ("dh", One, One),
    ("sh", One, One),
    ("sed", Exact([0, 0, 60]), Exact([10, 20, 30])),
    ("nq", Exact([0, 0, 60]), Exact([10, 20, 30])),
    ("fo", Exact([0, 0, 60]), Exact([0, 0, 60])),
    ("ovf", Exact([0, 0, 60]), Exact([8, 21, 31])),
    ("mh", One, One),
    ("twos", Each, Each),
];

/// A VIP of its own for each service: no connection of one is counted for another.
fn vip(number: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(192, 0, 2, u8::try_from(100 + number)?))
}

/// Adds a service with three real servers of these weights.
fn add_service(lab: &Lab, director: &DirectorProcess, vip: Ipv4Addr, scheduler: &[&str]) -> Result<()> {
    let service = format!("{vip}:80");
    director.ctl(&[&["add-vip", "tcp", &service, "--scheduler"], scheduler].concat())?;
    for (rip, weight) in RIPS.iter().zip(["10", "20", "30"]) {
        director.ctl(&["add-rs", "tcp", &service, rip, "--weight", weight])?;
    }
    for server in &lab.real_servers {
        server.add_vip(vip)?;
    }
    Ok(())
}

fn check(what: &str, expected: Shares, servers: &[String]) -> Result<()> {
    let by_name = client::shares(servers.iter().map(String::as_str));
    let shares = ["rs1", "rs2", "rs3"].map(|name| by_name.get(name).copied().unwrap_or(0));
    let is_right = match expected {
        Exact(expected) => shares == expected,
        One => by_name.len() == 1,
        Each => by_name.len() == RIPS.len(),
    };
    ensure!(is_right && servers.len() == REQUESTS as usize, "{what}: {shares:?}, not {expected:?}");
    Ok(())
}

#[test]
fn sixty_requests_one_after_the_other_are_shared_as_each_scheduler_says() -> Result<()> {
    let lab = Lab::builder().build()?;
    let director = lab.start_director(&lab.configuration()?)?;
    for (number, (scheduler, _, _)) in EXPECTED.iter().enumerate() {
        add_service(&lab, &director, vip(number)?, &[scheduler])?;
    }
    director.wait_until_up(RIPS.len() * EXPECTED.len())?;
    for (number, (scheduler, expected, _)) in EXPECTED.iter().enumerate() {
        let answers = client::get_many(&lab.client, vip(number)?, 80, REQUESTS)?;
        let servers: Vec<String> = answers.into_iter().map(|answer| answer.server).collect();
        check(scheduler, *expected, &servers)?;
    }
    let stats = director.stats()?;
    let scheduled = stats.services.iter().map(|service| service.totals.connections);
    ensure!(scheduled.eq([u64::from(REQUESTS); EXPECTED.len()]), "{:?}", stats.services);
    director.finish()
}

#[test]
fn sixty_open_connections_are_shared_as_each_scheduler_says() -> Result<()> {
    let lab = Lab::builder().build()?;
    let director = lab.start_director(&lab.configuration()?)?;
    for (number, (scheduler, _, _)) in EXPECTED.iter().enumerate() {
        add_service(&lab, &director, vip(number)?, &[scheduler])?;
    }
    director.wait_until_up(RIPS.len() * EXPECTED.len())?;
    for (number, (scheduler, _, expected)) in EXPECTED.iter().enumerate() {
        let (mut connections, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..REQUESTS {
            let mut connection = Connection::open(&lab.client, vip(number)?, 80)?;
            servers.push(connection.get("/")?);
            connections.push(connection);
        }
        check(scheduler, *expected, &servers)?;
        for (connection, server) in connections.iter_mut().zip(&servers) {
            let now = connection.get("/").with_context(|| format!("{scheduler}: on an open connection"))?;
            ensure!(now == *server, "{scheduler} moved an open connection");
        }
        let active = director.show()?.services.into_iter().flat_map(|service| service.real_servers);
        ensure!(active.map(|server| server.active_connections).sum::<u32>() == REQUESTS, "{scheduler}");
        drop(connections);
        // What closes is inactive once the director has seen the FIN.
        wait::until("the connections to be inactive", || {
            let servers = director.show()?.services.into_iter().flat_map(|service| service.real_servers);
            let active: u32 = servers.map(|server| server.active_connections).sum();
            Ok((active == 0).then_some(()))
        })?;
    }
    director.finish()
}

/// Home of each of 24 clients, who come twice with different ports.
fn homes(lab: &Lab, vip: Ipv4Addr) -> Result<BTreeMap<Ipv4Addr, BTreeSet<String>>> {
    let mut homes = BTreeMap::new();
    for octet in 101..=124 {
        let client = Ipv4Addr::new(10, 0, 0, octet);
        let servers = client::get_many_from(&lab.client, client, vip, 80, 3)?;
        homes.insert(client, servers.into_iter().collect());
    }
    Ok(homes)
}

#[test]
fn source_hashes_spread_clients_and_keep_each_and_with_the_port_they_spread_one() -> Result<()> {
    let lab = Lab::builder().build()?;
    for octet in 101..=124 {
        lab.add_client_address(Ipv4Addr::new(10, 0, 0, octet))?;
    }
    let director = lab.start_director(&lab.configuration()?)?;
    let cases = [("sh", "sh-port", "sh-fallback"), ("mh", "mh-port", "mh-fallback")];
    for (number, (scheduler, port, fallback)) in cases.into_iter().enumerate() {
        add_service(&lab, &director, vip(3 * number)?, &[scheduler])?;
        add_service(&lab, &director, vip(3 * number + 1)?, &[scheduler, "--scheduler-flags", port])?;
        add_service(&lab, &director, vip(3 * number + 2)?, &[scheduler, "--scheduler-flags", fallback])?;
    }
    director.wait_until_up(RIPS.len() * 6)?;
    for (number, (scheduler, _, _)) in cases.into_iter().enumerate() {
        let by_client = homes(&lab, vip(3 * number)?)?;
        ensure!(by_client.values().all(|servers| servers.len() == 1), "{scheduler}: {by_client:?}");
        let all: BTreeSet<_> = by_client.values().flatten().collect();
        ensure!(all.len() > 1, "{scheduler}: 24 clients on one real server");
        ensure!(homes(&lab, vip(3 * number)?)? == by_client, "{scheduler}: clients that came back moved");

        let answers = client::get_many(&lab.client, vip(3 * number + 1)?, 80, REQUESTS)?;
        let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
        ensure!(shares.len() == RIPS.len(), "{scheduler} over ports: {shares:?}");

        // Of weight 0, its clients go to others with fallback, and are refused without.
        let (client, quiesced) = by_client.iter().next().context("no client")?;
        let quiesced = quiesced.first().context("no real server")?;
        let rip = lab.rip(quiesced)?;
        let set_weight = |number: usize, weight: &str| -> Result<()> {
            let service = format!("{}:80", vip(number)?);
            director.ctl(&["set-rs", "tcp", &service, &rip, "--weight", weight]).map(drop)
        };
        set_weight(3 * number + 2, "0")?;
        let moved = homes(&lab, vip(3 * number + 2)?)?;
        ensure!(moved.values().flatten().all(|server| server != quiesced), "{scheduler}: {moved:?}");
        // sh is given a new table with each change of weights, so that this client may be another one's.
        if scheduler == "mh" {
            set_weight(3 * number, "0")?;
            let url = format!("http://{}/", vip(3 * number)?);
            let curl = ["curl", "-sS", "--max-time", "1", "--interface", &client.to_string(), &url];
            ensure!(!lab.client.output(&curl)?.status.success(), "{client} was not refused");
        }
    }
    director.finish()
}
