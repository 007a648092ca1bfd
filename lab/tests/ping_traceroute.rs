//! ping and traceroute to a VIP from behind a router, in both families and by each forwarding method.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Family, Method, Site, wait};

/// The addresses that traceroute names, hop by hop.
fn traceroute(site: &Site, family: Family, probe: &[&str]) -> Result<Vec<IpAddr>> {
    let limit = wait::HANGS.as_secs().to_string();
    let vip = family.vip().to_string();
    // One probe a hop and one at a time: whoever originates errors may do so at a limited rate.
    let mut command = vec!["traceroute", family.option(), "-n", "-q", "1", "-N", "1", "-w", &limit];
    command.extend(probe);
    command.push(&vip);
    let text = site.client.run(&command)?;
    let hop = |line: &str| line.split_whitespace().nth(1)?.parse().ok();
    text.lines().skip(1).map(|line| hop(line).with_context(|| format!("no address: {text}"))).collect()
}

fn vip_is_reached_hop_by_hop(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 2, 1)?;
    let rips = [family.rip(1), family.rip(2)];
    let text = site.configuration()? + &site.service(family, "tcp", 80, &rips, "");
    let director = site.start_director(&text, rips.len())?;
    let vip = family.vip();
    let router = site.clients_router(family);

    let limit = wait::HANGS.as_secs().to_string();
    for size in ["0", "56", "1400"] {
        let ping = ["ping", family.option(), "-c", "1", "-W", &limit, "-s", size, &vip.to_string()];
        let text = site.client.run(&ping)?;
        ensure!(text.contains(" 1 received") && !text.contains("wrong"), "{size} bytes: {text}");
    }
    // TCP to the service: the director is a hop, as a kernel's would be, and the real server answers.
    let hops = traceroute(&site, family, &["-T", "-p", "80"])?;
    // It speaks for itself, or for the VIP as a kernel that has it.
    ensure!([family.dip(), vip].iter().any(|&director| hops == [router, director, vip]), "by TCP: {hops:?}");
    // Echo requests are the director's own.
    let hops = traceroute(&site, family, &["-I"])?;
    ensure!(hops == [router, vip], "by ICMP: {hops:?}");
    director.finish()
}

#[test]
fn direct_routing_over_ipv4() -> Result<()> {
    vip_is_reached_hop_by_hop(Method::Direct, Family::V4)
}

#[test]
fn direct_routing_over_ipv6() -> Result<()> {
    vip_is_reached_hop_by_hop(Method::Direct, Family::V6)
}

#[test]
fn nat_over_ipv4() -> Result<()> {
    vip_is_reached_hop_by_hop(Method::Nat, Family::V4)
}

#[test]
fn nat_over_ipv6() -> Result<()> {
    vip_is_reached_hop_by_hop(Method::Nat, Family::V6)
}
