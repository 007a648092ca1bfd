//! FTP behind NAT, active and passive, in both families: data connections go through the VIP, whatever the real server
//! says of itself.

use anyhow::{Result, ensure};
use lab::ftp::{FtpServer, Mode, PORT};
use lab::{Capture, Family, Method, Site};

/// Every way to ask for data connections, by curl and by a session of `ftp`, from one real server.
fn transfers_in_every_mode(family: Family, workers: u16) -> Result<()> {
    let site = Site::build(Method::Nat, 1, workers)?;
    let vip = family.vip();
    let server = FtpServer::start(&site.real_servers[0].host, family)?;
    let rip = family.rip(1);
    let text = site.configuration()? + &site.service(family, "tcp", PORT, &[rip], "");
    let director = site.start_director(&text, 1)?;
    let clients = Capture::start(&site.router, "clients")?;

    for &mode in Mode::all(family) {
        server.transfer(&site.client, vip, mode)?;
    }
    server.session(&site.client, vip)?;

    site.wait_until_quiet()?;
    let clients = clients.stop()?;
    let foreign = clients.lines(&format!("host {rip}"))?;
    ensure!(foreign.is_empty(), "the client's side saw {rip}: {}", foreign[0]);
    let active =
        clients.count(&format!("src host {vip} and tcp src port 20 and tcp[tcpflags] & tcp-syn != 0"));
    // tcpdump cannot look into TCP over IPv6.
    ensure!(family == Family::V6 || active? >= 4, "no data connection of port 20");
    director.finish()
}

#[test]
fn transfers_in_every_mode_over_ipv4() -> Result<()> {
    transfers_in_every_mode(Family::V4, 1)
}

#[test]
fn transfers_in_every_mode_over_ipv6() -> Result<()> {
    transfers_in_every_mode(Family::V6, 1)
}

#[test]
fn transfers_in_every_mode_with_two_workers() -> Result<()> {
    if lab::director::allowed_cpus().len() < 2 {
        println!("needs two CPUs");
        return Ok(());
    }
    transfers_in_every_mode(Family::V4, 2)?;
    transfers_in_every_mode(Family::V6, 2)
}
