//! Persistent clients: one real server for all requests of a client, over workers, ports and changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use ctl::protocol::{Connections, RealServerState};
use lab::{DirectorProcess, Lab, VIP, client, director, wait};

const SERVICE: [&str; 2] = ["tcp", "192.0.2.10:80"];
const GROUP: [&str; 2] = ["group", "shop"];
const RIPS: [&str; 3] = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];

/// Addresses of clients in the lab's own network, as many as a round of rr over three real servers takes twice.
const CLIENTS: [Ipv4Addr; 6] = [
    Ipv4Addr::new(10, 0, 0, 100),
    Ipv4Addr::new(10, 0, 0, 101),
    Ipv4Addr::new(10, 0, 0, 102),
    Ipv4Addr::new(10, 0, 0, 103),
    Ipv4Addr::new(10, 0, 0, 104),
    Ipv4Addr::new(10, 0, 0, 105),
];

/// Two clients of another network.
const FAR_CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 7), Ipv4Addr::new(10, 1, 0, 200)];

/// A director with a service as `dr-ctl` makes it with `arguments`, three real servers that listen on 80 and 81, and
/// the clients' addresses.
fn started(workers: u16, service: [&str; 2], arguments: &[&str]) -> Result<(Lab, DirectorProcess)> {
    let mut lab = Lab::builder().workers(workers).build()?;
    for server in &mut lab.real_servers {
        server.stop_nginx();
        server.start_nginx(&[80, 81])?;
    }
    for &address in CLIENTS[1..].iter().chain(&FAR_CLIENTS) {
        lab.add_client_address(address)?;
    }
    let director = lab.start_director(&lab.configuration()?)?;
    director.ctl(arguments)?;
    for rip in RIPS {
        director.ctl(&["add-rs", service[0], service[1], rip])?;
    }
    director.wait_until_up(RIPS.len())?;
    Ok((lab, director))
}

/// A service on port 80, rr.
fn started_with_http(workers: u16, options: &[&str]) -> Result<(Lab, DirectorProcess)> {
    let add = ["add-vip", "tcp", "192.0.2.10:80", "--scheduler", "rr", "--persistent", "60"];
    started(workers, SERVICE, &[&add, options].concat())
}

/// The one real server that answers all requests of a client.
fn home(lab: &Lab, client: Ipv4Addr, port: u16, requests: u32) -> Result<String> {
    let servers = client::get_many_from(&lab.client, client, VIP, port, requests)?;
    let shares = client::shares(servers.iter().map(String::as_str));
    ensure!(shares.len() == 1, "{client} was answered by {shares:?}");
    shares.into_keys().next().context("no answer")
}

/// The templates.
fn templates(director: &DirectorProcess) -> Result<Connections> {
    Ok(serde_json::from_value(director.ctl_json(&["connections", "--templates"])?)?)
}

/// nginx's logs say the same: each client was seen by one real server alone.
fn assert_one_server_a_client(lab: &Lab, requests: usize) -> Result<()> {
    let logs = lab.logged_requests(requests)?;
    let mut seen = BTreeSet::new();
    for log in &logs {
        for client in log.iter().map(|request| request.client).collect::<BTreeSet<IpAddr>>() {
            ensure!(seen.insert(client), "{client} was seen by two real servers");
        }
    }
    let logged: usize = logs.iter().map(Vec::len).sum();
    ensure!(logged == requests, "{logged} of {requests} requests are logged");
    Ok(())
}

/// So many of the clients are on each real server.
fn assert_clients_on_each(homes: &[String], expected: u32) -> Result<()> {
    let shares = client::shares(homes.iter().map(String::as_str));
    ensure!(shares.len() == RIPS.len() && shares.values().all(|&count| count == expected), "{shares:?}");
    Ok(())
}

fn each_client_has_one_real_server(workers: u16) -> Result<()> {
    let (lab, director) = started_with_http(workers, &[])?;
    let homes = CLIENTS.iter().map(|&client| home(&lab, client, 80, 20)).collect::<Result<Vec<_>>>()?;
    assert_clients_on_each(&homes, 2)?;
    for (client, first) in CLIENTS.iter().zip(&homes) {
        ensure!(home(&lab, *client, 80, 5)? == *first, "{client} came back and was elsewhere");
    }
    assert_one_server_a_client(&lab, CLIENTS.len() * 25)?;
    let templates = templates(&director)?;
    ensure!(templates.matching == CLIENTS.len() as u64, "{templates:?}");
    let stats = director.stats()?;
    ensure!(stats.workers.len() == usize::from(workers));
    ensure!(stats.workers.iter().all(|worker| worker.packets.forwarded > 0), "idle: {:?}", stats.workers);
    let show = director.show()?;
    ensure!(
        show.services[0].real_servers.iter().all(|server| server.persistent_connections == 2),
        "{show:?}"
    );
    director.finish()
}

#[test]
fn each_client_has_one_real_server_and_clients_are_spread() -> Result<()> {
    each_client_has_one_real_server(1)
}

#[test]
fn two_workers_know_the_same_clients() -> Result<()> {
    if director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    each_client_has_one_real_server(2)
}

#[test]
fn netmask_keeps_the_clients_of_a_network_together() -> Result<()> {
    let (lab, director) = started_with_http(1, &["--netmask", "255.255.255.0"])?;
    let near = CLIENTS.iter().map(|&client| home(&lab, client, 80, 5)).collect::<Result<BTreeSet<_>>>()?;
    let far = FAR_CLIENTS.iter().map(|&client| home(&lab, client, 80, 5)).collect::<Result<BTreeSet<_>>>()?;
    ensure!(near.len() == 1 && far.len() == 1, "{near:?} {far:?}");
    ensure!(near != far, "rr gave two networks the same real server");
    let templates = templates(&director)?;
    let networks: BTreeSet<_> =
        templates.connections.iter().map(|template| template.client_address).collect();
    let expected = [Ipv4Addr::new(10, 0, 0, 0), Ipv4Addr::new(10, 1, 0, 0)];
    ensure!(networks == expected.map(IpAddr::from).into(), "{templates:?}");
    director.finish()
}

#[test]
fn group_keeps_a_client_over_its_ports() -> Result<()> {
    let members = ["--member", "tcp:192.0.2.10:80", "--member", "tcp:192.0.2.10:81"];
    let add = ["add-group", "shop", "--scheduler", "rr", "--persistent", "60"];
    let (lab, director) = started(1, GROUP, &[&add[..], &members].concat())?;
    let mut homes = Vec::new();
    for client in CLIENTS {
        let http = home(&lab, client, 80, 5)?;
        ensure!(home(&lab, client, 81, 5)? == http, "{client} has another real server on port 81");
        ensure!(home(&lab, client, 80, 5)? == http);
        homes.push(http);
    }
    assert_clients_on_each(&homes, 2)?;
    ensure!(templates(&director)?.matching == CLIENTS.len() as u64);
    assert_one_server_a_client(&lab, CLIENTS.len() * 15)?;

    // A member that goes takes no connection any more; the other one still knows the clients.
    director.ctl(&["del-member", "shop", "tcp:192.0.2.10:81"])?;
    let refused = lab.client.output(&["curl", "-sS", "--max-time", "1", "http://192.0.2.10:81/"])?;
    ensure!(!refused.status.success(), "port 81 is served yet");
    ensure!(home(&lab, CLIENTS[0], 80, 5)? == homes[0]);
    director.finish()
}

#[test]
fn service_of_every_port_keeps_a_client_over_all_of_them() -> Result<()> {
    let add = ["add-vip", "tcp", "192.0.2.10:0", "--scheduler", "rr", "--persistent", "60"];
    let (lab, director) = started(1, ["tcp", "192.0.2.10:0"], &add)?;
    let mut homes = Vec::new();
    for client in CLIENTS {
        let http = home(&lab, client, 80, 5)?;
        ensure!(home(&lab, client, 81, 5)? == http, "{client} has another real server on port 81");
        homes.push(http);
    }
    assert_clients_on_each(&homes, 2)?;
    // A service of the very port goes first.
    director.ctl(&["add-vip", "tcp", "192.0.2.10:81", "--scheduler", "rr"])?;
    for rip in RIPS {
        director.ctl(&["add-rs", "tcp", "192.0.2.10:81", rip])?;
    }
    director.wait_until_up(2 * RIPS.len())?;
    let servers = client::get_many_from(&lab.client, CLIENTS[0], VIP, 81, 6)?;
    let shares = client::shares(servers.iter().map(String::as_str));
    ensure!(shares.values().eq(&[2, 2, 2]), "{shares:?}");
    ensure!(home(&lab, CLIENTS[0], 80, 5)? == homes[0]);
    director.finish()
}

#[test]
fn weight_0_keeps_the_client_until_quiescent_templates_expire() -> Result<()> {
    let (lab, director) = started_with_http(1, &[])?;
    let first = home(&lab, CLIENTS[0], 80, 5)?;
    let rip = lab.rip(&first)?;
    director.ctl(&["set-rs", SERVICE[0], SERVICE[1], &rip, "--weight", "0"])?;
    ensure!(home(&lab, CLIENTS[0], 80, 5)? == first, "weight 0 ended persistence, as it does not in IPVS");
    for client in &CLIENTS[1..] {
        ensure!(home(&lab, *client, 80, 2)? != first, "weight 0 gets new clients");
    }
    director.ctl(&["set-options", "--expire-quiescent-template", "on"])?;
    let second = home(&lab, CLIENTS[0], 80, 5)?;
    ensure!(second != first, "the client is still on the real server of weight 0");
    // It has come to stay.
    director.ctl(&["set-rs", SERVICE[0], SERVICE[1], &rip, "--weight", "1"])?;
    ensure!(home(&lab, CLIENTS[0], 80, 5)? == second);
    director.finish()
}

#[test]
fn clients_of_a_removed_real_server_move_and_the_others_stay() -> Result<()> {
    let (lab, director) = started_with_http(1, &[])?;
    let before = CLIENTS.iter().map(|&client| home(&lab, client, 80, 3)).collect::<Result<Vec<_>>>()?;
    let removed = before[0].clone();
    let rip = lab.rip(&removed)?;
    director.ctl(&["del-rs", SERVICE[0], SERVICE[1], &rip])?;
    let after = CLIENTS.iter().map(|&client| home(&lab, client, 80, 3)).collect::<Result<Vec<_>>>()?;
    for (client, (before, after)) in CLIENTS.iter().zip(before.iter().zip(&after)) {
        if *before == removed {
            ensure!(*after != removed, "{client} was answered by a real server that is gone");
        } else {
            ensure!(after == before, "{client} moved from {before} to {after}");
        }
    }
    // Back again, it is given new clients, and the old ones stay where they have gone.
    director.ctl(&["add-rs", SERVICE[0], SERVICE[1], &rip])?;
    director.wait_until_up(RIPS.len())?;
    for (client, after) in CLIENTS.iter().zip(&after) {
        ensure!(home(&lab, *client, 80, 3)? == *after, "{client} moved when {removed} came back");
    }
    director.finish()
}

#[test]
fn persistent_client_passes_a_threshold_and_others_do_not() -> Result<()> {
    let (lab, director) = started_with_http(1, &["--timeout", "tcp_fin_wait=60"])?;
    let first = home(&lab, CLIENTS[0], 80, 3)?;
    director.ctl(&["set-rs", SERVICE[0], SERVICE[1], &lab.rip(&first)?, "--upper-threshold", "3"])?;
    wait::until("the real server to be overloaded", || {
        let states = director.show()?.services[0].real_servers.clone();
        Ok(states.iter().any(|server| server.state == RealServerState::Overloaded).then_some(()))
    })?;
    ensure!(home(&lab, CLIENTS[0], 80, 5)? == first);
    for client in &CLIENTS[1..] {
        ensure!(home(&lab, *client, 80, 2)? != first, "an overloaded real server got a new client");
    }
    director.finish()
}
