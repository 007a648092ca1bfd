//! Neighbour discovery on the wire: who answers for VIPs and DIPs, how hosts hear of a new VIP and the director of a real
//! server's new MAC address, and who keeps an address that two want.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lab::{Capture, DirectorProcess, Family, Host, Method, Site, client, wait};

/// MAC addresses of the director's ports.
const FRONT_MAC: &str = "02:00:0a:00:00:01";
const BACK_MAC: &str = "02:00:0a:01:00:01";

const OTHER_VIP: &str = "2001:db8:ffff::20";

const REQUESTS: u32 = 6;

/// A tcpdump filter for neighbour advertisements (RFC 4861 section 4.4).
const ADVERTISEMENTS: &str = "icmp6 and ip6[40] == 136";

/// A site of IPv6 with the VIP on the real servers' `lo`, and a director.
fn start(real_servers: u8) -> Result<(Site, DirectorProcess)> {
    let site = Site::build(Method::Direct, real_servers, 1)?;
    let rips: Vec<IpAddr> = (1..=real_servers).map(|number| Family::V6.rip(number)).collect();
    let text = site.configuration()? + &site.service(Family::V6, "tcp", 80, &rips, "");
    let director = site.start_director(&text, rips.len())?;
    Ok((site, director))
}

/// The MAC address that a host has for an address, where it knows one.
fn neighbour(host: &Host, address: &str, interface: &str) -> Result<Option<String>> {
    let text = host.ip(&format!("-6 -j neigh show {address} dev {interface}"))?;
    let neighbours: serde_json::Value = serde_json::from_str(&text)?;
    Ok(neighbours[0]["lladdr"].as_str().map(str::to_owned))
}

#[test]
fn director_alone_answers_for_vips_and_dips() -> Result<()> {
    let (site, director) = start(2)?;
    let (vip, dip) = (Family::V6.vip(), Family::V6.dip_back());
    // The real servers, which have the VIP on `lo`, hear all that the gateway asks.
    site.gateway.ip(&format!("-6 route add {vip} dev back"))?;
    let capture = Capture::start(&site.gateway, "back")?;
    for address in [vip, dip] {
        let address = address.to_string();
        site.gateway.run(&["ping", "-6", "-c", "2", "-i", "0.2", "-w", "20", &address])?;
        let mac = neighbour(&site.gateway, &address, "back")?;
        ensure!(mac.as_deref() == Some(BACK_MAC), "{address} is at {mac:?}");
    }
    let capture = capture.stop()?;
    for address in [vip, dip] {
        let IpAddr::V6(address) = address else { continue };
        let words = address.octets().chunks(4).enumerate().fold(String::new(), |filter, (index, word)| {
            let word = word.iter().fold(0, |word, octet| word << 8 | u32::from(*octet));
            format!("{filter} and ip6[{}:4] = {word}", 48 + 4 * index)
        });
        let answers = capture.lines(&format!("{ADVERTISEMENTS}{words}"))?;
        ensure!(!answers.is_empty(), "nobody answered for {address}");
        ensure!(answers.iter().all(|answer| answer.contains(BACK_MAC)), "{answers:#?}");
    }
    director.finish()
}

#[test]
fn hosts_hear_of_a_new_vip_by_an_unsolicited_advertisement() -> Result<()> {
    let (site, director) = start(1)?;
    // The router remembers another director.
    site.router.ip(&format!("-6 neigh replace {OTHER_VIP} lladdr 02:00:00:00:de:ad dev front nud stale"))?;
    director.ctl(&["add-vip", "tcp", &format!("[{OTHER_VIP}]:80")])?;
    wait::until("the router to believe the announcement", || {
        let mac = neighbour(&site.router, OTHER_VIP, "front")?;
        Ok((mac.as_deref() == Some(FRONT_MAC)).then_some(()))
    })?;
    director.finish()
}

#[test]
fn host_that_wants_an_address_of_the_director_does_not_get_it() -> Result<()> {
    let (site, director) = start(1)?;
    let (vip, dip) = (Family::V6.vip(), Family::V6.dip_back());
    site.gateway.set("net/ipv6/conf/back/accept_dad", "1")?;
    for address in [vip, dip] {
        site.gateway.ip(&format!("-6 address add {address}/64 dev back"))?;
        wait::until("duplicate address detection to fail", || {
            let text = site.gateway.ip("-6 -j address show dev back")?;
            let interfaces: serde_json::Value = serde_json::from_str(&text)?;
            let addresses = interfaces[0]["addr_info"].as_array().context("no addresses")?;
            let wanted = addresses.iter().find(|one| one["local"] == address.to_string());
            Ok(wanted.is_some_and(|one| one["dadfailed"] == true).then_some(()))
        })?;
        site.gateway.ip(&format!("-6 address del {address}/64 dev back"))?;
    }
    let answers = client::get_many(&site.client, vip, 80, REQUESTS)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs1"), "{answers:?}");
    site.wait_until_quiet()?;
    director.finish()
}

#[test]
fn traffic_follows_a_real_servers_new_mac() -> Result<()> {
    let (site, director) = start(1)?;
    let host = &site.real_servers[0].host;
    // It tells of its new address by itself, as hosts that move do.
    host.set("net/ipv6/conf/eth0/ndisc_notify", "1")?;
    for number in 1..=3 {
        let mac = format!("02:00:00:00:aa:0{number}");
        host.ip(&format!("link set eth0 address {mac}"))?;
        wait::until("the director to hear of it", || {
            let neighbours = director.neighbours()?.neighbours;
            let known = neighbours.iter().find(|neighbour| neighbour.address == Family::V6.rip(1));
            Ok(known.and_then(|known| known.mac).filter(|known| known.to_string() == mac))
        })?;
        director.wait_until_in_force()?;
        let answers = client::get_many(&site.client, Family::V6.vip(), 80, REQUESTS)?;
        ensure!(answers.len() == REQUESTS as usize, "{answers:?}");
    }
    site.wait_until_quiet()?;
    director.finish()
}
