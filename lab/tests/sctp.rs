//! SCTP associations through a VIP, by direct routing and NAT. In User-mode Linux, whose kernel has SCTP.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lab::transfer::random_bytes;
use lab::{Family, Method, Site, uml};

const PORT: u16 = 7;

/// Ports of the associations' clients: one for the test program of lksctp, then those of transfers.
const CLIENT_PORT: u16 = 7000;

const FILE_BYTES: usize = 1 << 20;

/// How lksctp's test program says that all went well.
const SUCCESS: &str = "Client: Sending packets.(1/1)";

fn socat_address(kind: &str, address: IpAddr, more: &str) -> String {
    match address {
        IpAddr::V4(_) => format!("SCTP4{kind}{more}"),
        IpAddr::V6(_) => format!("SCTP6{kind}{more}"),
    }
}

/// Bytes of the client's to the real server over one association, or back; they must be the same there.
fn transfer(site: &Site, service: SocketAddr, server: IpAddr, is_upload: bool) -> Result<()> {
    let sent = random_bytes(FILE_BYTES)?;
    let (from, to) = (site.client.directory().join("from"), site.client.directory().join("to"));
    fs::write(&from, &sent)?;
    let _ = fs::remove_file(&to);
    let (open, create) = (format!("OPEN:{}", from.display()), format!("CREATE:{}", to.display()));
    let bound = SocketAddr::new(server, PORT).to_string();
    let bound = bound.trim_end_matches(&format!(":{PORT}"));
    let listen = socat_address("-LISTEN", server, &format!(":{PORT},bind={bound},reuseaddr"));
    let connect = socat_address("", server, &format!(":{service}"));
    let host = &site.real_servers[0].host;
    let words: [&str; 2] = if is_upload { [&listen, &create] } else { [&open, &listen] };
    let mut listener = host.spawn(&["socat", "-d", "-d", "-u", words[0], words[1]])?;
    listener.wait_for_output("listening on")?;
    let words: [&str; 2] = if is_upload { [&open, &connect] } else { [&connect, &create] };
    site.client.run(&["socat", "-u", words[0], words[1]])?;
    ensure!(listener.wait()?.success(), "the listener failed:\n{}", listener.log());
    ensure!(fs::read(&to)? == sent, "other bytes arrived");
    Ok(())
}

fn associations(method: Method, family: Family) -> Result<()> {
    uml::load_modules(&["sctp"])?;
    let site = Site::build(method, 1, 1)?;
    let rip = family.rip(1);
    let director =
        site.start_director(&(site.configuration()? + &site.service(family, "sctp", PORT, &[rip], "")), 1)?;
    let server = if method.replies_pass() { rip } else { family.vip() };
    let service = SocketAddr::new(family.vip(), PORT);
    for is_upload in [true, false] {
        transfer(&site, service, server, is_upload)?;
    }

    let (port, client_port) = (PORT.to_string(), CLIENT_PORT.to_string());
    let host = &site.real_servers[0].host;
    let mut listener = host.spawn(&["sctp_test", "-H", &server.to_string(), "-P", &port, "-l"])?;
    listener.wait_for_output("Server: Receiving packets")?;
    let (client, vip) = (family.client().to_string(), family.vip().to_string());
    let command = ["sctp_test", "-H", &client, "-P", &client_port, "-h", &vip, "-p", &port, "-s", "-x", "1"];
    let said = site.client.run(&command)?;
    ensure!(said.contains(SUCCESS), "{said}");

    let stats = director.stats()?;
    ensure!(stats.services[0].totals.connections == 3, "{:?}", stats.services[0].totals);
    director.finish()
}

#[test]
fn direct_routing_over_ipv4() -> Result<()> {
    uml::test("direct_routing_over_ipv4", || associations(Method::Direct, Family::V4))
}

#[test]
fn nat_over_ipv4() -> Result<()> {
    uml::test("nat_over_ipv4", || associations(Method::Nat, Family::V4))
}

#[test]
fn nat_over_ipv6() -> Result<()> {
    uml::test("nat_over_ipv6", || associations(Method::Nat, Family::V6))
}
