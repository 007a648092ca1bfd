//! HTTP through a VIP by direct routing: exact shares, real client addresses, replies past the director.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ctl::config::Protocol;
use lab::topology::{CLIENT, mac_of};
use lab::{DIP, Lab, PortDriver, VIP, client, director};
use scheduler::Algorithm;

const REQUESTS: u32 = 600;
const WEIGHTS: [u16; 3] = [1, 2, 3];
const SHARES: [usize; 3] = [100, 200, 300];

/// 600 requests through a director with so many workers, and everything that must be true of them.
fn shares_are_exact_and_replies_go_past(workers: u16) -> Result<()> {
    let lab = Lab::builder().workers(workers).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &WEIGHTS)?;
    let director = lab.start_director(&config)?;
    let capture = lab.capture_director()?;

    let answers = client::get_many(&lab.client, VIP, 80, REQUESTS)?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let ports: BTreeSet<u16> = answers.iter().map(|answer| answer.client_port).collect();
    ensure!(ports.len() == answers.len(), "the client used a port twice: {} ports", ports.len());

    let logs = lab.logged_requests(REQUESTS as usize)?;
    let shares: Vec<usize> = logs.iter().map(Vec::len).collect();
    ensure!(shares == SHARES, "weights 1, 2, 3 were given {shares:?}");
    for (server, log) in lab.real_servers.iter().zip(&logs) {
        let seen: BTreeSet<u16> = log.iter().map(|request| request.client_port).collect();
        let answered = answers.iter().filter(|answer| answer.server == server.name());
        ensure!(
            seen == answered.map(|answer| answer.client_port).collect(),
            "{}: other clients",
            server.name()
        );
        ensure!(log.iter().all(|request| request.client == CLIENT && request.server == VIP), "{log:?}");
    }

    lab.barrier(&director)?;
    let recording = capture.stop()?;
    let (requests, director_mac) = (format!("dst host {VIP} and tcp dst port 80"), mac_of(DIP));
    let received = recording.count(&format!("{requests} and ether dst {director_mac}"))?;
    let sent = recording.count(&format!("{requests} and ether src {director_mac}"))?;
    ensure!(received >= u64::from(REQUESTS) * 4 && received == sent, "{received} came in, {sent} went out");
    let replies = recording.lines(&format!("ip src {VIP} and tcp"))?;
    ensure!(replies.is_empty(), "{} replies at the director, first {}", replies.len(), replies[0]);
    // Linux sends with a TTL of 64, and the director is one hop.
    let other_ttl = recording.count(&format!("{requests} and ether src {director_mac} and ip[8] != 63"))?;
    ensure!(other_ttl == 0, "{other_ttl} packets were sent with another TTL than 63");

    let totals = director.assert_conservation()?;
    ensure!(totals.forwarded == sent, "forwarded {} by its counters, {sent} on the wire", totals.forwarded);
    let stats = director.stats()?;
    ensure!(stats.services[0].totals.connections == u64::from(REQUESTS), "{:?}", stats.services[0].totals);
    ensure!(stats.services[0].totals.packets == sent, "{:?}", stats.services[0].totals);
    for (server, share) in stats.services[0].real_servers.iter().zip(SHARES) {
        ensure!(server.counters.connections == share as u64, "{server:?}");
    }
    ensure!(stats.workers.len() == usize::from(workers));
    ensure!(stats.workers.iter().all(|worker| worker.packets.forwarded > 0), "idle: {:?}", stats.workers);
    director.finish()
}

#[test]
fn weights_1_2_3_of_600_requests_give_100_200_300() -> Result<()> {
    shares_are_exact_and_replies_go_past(1)
}

#[test]
fn two_workers_on_two_queues_give_the_same_shares() -> Result<()> {
    if director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    shares_are_exact_and_replies_go_past(2)
}

#[test]
fn af_xdp_port_gives_the_same_shares() -> Result<()> {
    let lab = Lab::builder().driver(PortDriver::AfXdp).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &WEIGHTS)?;
    let director = lab.start_director(&config)?;
    let answers = client::get_many(&lab.client, VIP, 80, REQUESTS)?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let shares: Vec<usize> = lab.logged_requests(REQUESTS as usize)?.iter().map(Vec::len).collect();
    ensure!(shares == SHARES, "weights 1, 2, 3 were given {shares:?}");
    director.finish()
}
