//! HTTP through a VIP by each forwarding method that needs no tunnel, in both families, with routers between everybody.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lab::{Capture, Family, Method, Site, client, director, wait};

const REQUESTS: u32 = 120;

/// Requests through a service of two real servers on the switch, and, where the method can reach it, the one behind the
/// gateway; and everything that must be true of them.
fn requests_are_spread_and_answered(method: Method, family: Family, workers: u16, port: u16) -> Result<()> {
    let mut site = Site::build(method, 2, workers)?;
    let (vip, client_address) = (family.vip(), family.client());
    let mut rips = vec![family.rip(1), family.rip(2)];
    if method != Method::Direct {
        rips.push(family.far_rip());
    }
    let mut more = String::new();
    if port != 80 {
        for server in &mut site.real_servers {
            server.start_nginx(&[port])?;
        }
        more = format!(", port = {port}");
    }
    let text = site.configuration()? + &site.service(family, "tcp", 80, &rips, &more);
    let director = site.start_director(&text, rips.len())?;
    let front = Capture::start(&site.router, "front")?;
    let clients = Capture::start(&site.router, "clients")?;

    let answers = client::get_many(&site.client, vip, 80, REQUESTS)?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let shares = client::shares(answers.iter().map(|answer| answer.server.as_str()));
    let share = REQUESTS / rips.len() as u32;
    let names = ["rs1", "rs2", "far"].into_iter().take(rips.len()).map(str::to_owned);
    let expected: BTreeMap<String, u32> = names.map(|name| (name, share)).collect();
    ensure!(shares == expected, "{shares:?}, not {expected:?}");

    // nginx logs a request after the client has its answer.
    let logged = || site.real_servers.iter().map(lab::RealServer::requests).collect::<Result<Vec<_>>>();
    let requests = wait::until("the requests in nginx's logs", || {
        Ok(Some(logged()?.concat()).filter(|requests| requests.len() >= REQUESTS as usize))
    })?;
    let seen = if method == Method::FullNat { family.local() } else { client_address };
    ensure!(requests.iter().all(|request| request.client == seen), "{requests:?}");
    if !method.replies_pass() {
        ensure!(requests.iter().all(|request| request.server == vip), "{requests:?}");
    }

    site.wait_until_quiet()?;
    let (front, clients) = (front.stop()?, clients.stop()?);
    let replies = front.count(&format!("src host {vip}"))?;
    if method.replies_pass() {
        ensure!(replies >= u64::from(REQUESTS) * 4, "{replies} packets of replies passed the director");
        for rip in &rips {
            let foreign = clients.count(&format!("host {rip}"))?;
            ensure!(foreign == 0, "the client's side saw {rip} in {foreign} packets");
        }
    } else {
        ensure!(replies == 0, "{replies} packets of replies passed the director");
    }
    let stats = director.stats()?;
    ensure!(stats.services[0].totals.connections == u64::from(REQUESTS), "{:?}", stats.services[0].totals);
    ensure!(stats.workers.iter().all(|worker| worker.packets.forwarded > 0), "idle: {:?}", stats.workers);
    director.finish()
}

#[test]
fn direct_routing_over_ipv4() -> Result<()> {
    requests_are_spread_and_answered(Method::Direct, Family::V4, 1, 80)
}

#[test]
fn direct_routing_over_ipv6() -> Result<()> {
    requests_are_spread_and_answered(Method::Direct, Family::V6, 1, 80)
}

#[test]
fn nat_over_ipv4() -> Result<()> {
    requests_are_spread_and_answered(Method::Nat, Family::V4, 1, 80)
}

#[test]
fn nat_over_ipv6() -> Result<()> {
    requests_are_spread_and_answered(Method::Nat, Family::V6, 1, 80)
}

#[test]
fn nat_to_another_port() -> Result<()> {
    requests_are_spread_and_answered(Method::Nat, Family::V4, 1, 8080)?;
    requests_are_spread_and_answered(Method::Nat, Family::V6, 1, 8080)
}

#[test]
fn nat_with_two_workers_hands_replies_to_their_owner() -> Result<()> {
    if director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    requests_are_spread_and_answered(Method::Nat, Family::V4, 2, 80)?;
    requests_are_spread_and_answered(Method::Nat, Family::V6, 2, 80)
}

#[test]
fn full_nat_over_ipv4() -> Result<()> {
    requests_are_spread_and_answered(Method::FullNat, Family::V4, 1, 80)
}

#[test]
fn full_nat_over_ipv6() -> Result<()> {
    requests_are_spread_and_answered(Method::FullNat, Family::V6, 1, 80)
}

#[test]
fn full_nat_with_two_workers_to_another_port() -> Result<()> {
    if director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    requests_are_spread_and_answered(Method::FullNat, Family::V4, 2, 8080)
}
