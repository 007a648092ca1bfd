//! Full NAT: real servers that know no way to the clients learn who they are by PROXY protocol or by the TOA option, the
//! pool of local addresses may run dry, and a real server may never answer.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use ctl::protocol::Stats;
use lab::client::{self, Connection};
use lab::transfer::RandomFile;
use lab::{Capture, DirectorProcess, Family, Flood, Method, Site, wait};

/// Where nginx expects PROXY protocol.
const PROXIED_PORT: u16 = 8081;

const FILE_BYTES: usize = 8 << 20;

const REQUESTS: usize = 10;

/// Local ports of an address towards one real server: from 1024 on.
const LOCAL_PORTS: u64 = 65536 - 1024;

/// SYNs of as many clients beyond these.
const SYNS_BEYOND: u64 = 3000;

/// Room for the three entries of each of so many connections.
const CONNECTION_CAPACITY: u32 = 1 << 18;

/// A second local address, which the pool has not at first.
const OTHER_LOCAL: &str = "10.1.0.201";

/// Seconds after which a connection is forgotten whose SYN was never answered.
const SYN_SECONDS: u32 = 3;

/// Words of `/proxied`: client, its port, VIP, port of the service.
fn proxied(client: IpAddr, client_port: u16, service: SocketAddr) -> String {
    format!("{client} {client_port} {} {}", service.ip(), service.port())
}

fn proxy_protocol(family: Family) -> Result<()> {
    let mut site = Site::build(Method::FullNat, 1, 1)?;
    let listen: Vec<String> =
        ["80", "[::]:80", "8081 proxy_protocol", "[::]:8081 proxy_protocol"].map(str::to_owned).into();
    site.real_servers[0].start_nginx_on(&listen, &[80, PROXIED_PORT])?;
    let service = SocketAddr::new(family.vip(), 80);
    let more = format!(", port = {PROXIED_PORT}, client_address = \"proxy-v2\"");
    let text = site.configuration()? + &site.service(family, "tcp", 80, &[family.rip(1)], &more);
    let director = site.start_director(&text, 1)?;

    // Many requests over one connection: the header comes once, and all after it is shifted by it.
    let mut connection = Connection::open(&site.client, family.vip(), 80)?;
    let expected = proxied(family.client(), connection.client_port()?, service);
    for _ in 0..REQUESTS {
        let said = connection.get("/proxied")?;
        ensure!(said == expected, "nginx was told `{said}`, not `{expected}`");
    }
    drop(connection);
    let answers = client::get_many(&site.client, family.vip(), 80, REQUESTS as u32)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs1"), "{answers:?}");
    let file = RandomFile::create(site.network().directory(), FILE_BYTES)?;
    file.offer(&site.real_servers[0])?;
    file.download(&site.client, service)?;
    file.upload(&site.client, service, &site.real_servers[0])?;
    site.wait_until_quiet()?;
    director.finish()
}

#[test]
fn nginx_learns_by_proxy_protocol_who_its_clients_are_over_ipv4() -> Result<()> {
    proxy_protocol(Family::V4)
}

#[test]
fn nginx_learns_by_proxy_protocol_who_its_clients_are_over_ipv6() -> Result<()> {
    proxy_protocol(Family::V6)
}

/// A tcpdump filter for packets that have the option in front of all others: kind 254, length, port and address.
fn toa(client: IpAddr, port: u16) -> String {
    let (octets, options) = match client {
        IpAddr::V4(address) => (address.octets().to_vec(), "tcp[20"),
        IpAddr::V6(address) => (address.octets().to_vec(), "ip6[60"),
    };
    let mut bytes = vec![254, 4 + octets.len() as u8];
    bytes.extend(port.to_be_bytes());
    bytes.extend(octets);
    let (layer, first) = options.split_at(options.find('[').map_or(0, |at| at + 1));
    let first: usize = first.parse().unwrap_or_default();
    let words = bytes.chunks(4).enumerate().map(|(number, word)| {
        let value = word.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        format!("{layer}{}:4] = {value}", first + 4 * number)
    });
    words.collect::<Vec<_>>().join(" and ")
}

fn client_address_as_a_tcp_option(family: Family) -> Result<()> {
    let site = Site::build(Method::FullNat, 1, 1)?;
    let service = SocketAddr::new(family.vip(), 80);
    let text = site.configuration()?
        + &site.service(family, "tcp", 80, &[family.rip(1)], ", client_address = \"toa\"");
    let director = site.start_director(&text, 1)?;
    let host = &site.real_servers[0].host;
    let (servers, clients) =
        (Capture::start_whole(host, "eth0", "toa", "tcp")?, Capture::start(&site.router, "clients")?);
    let mut ports = Vec::new();
    for _ in 0..REQUESTS {
        let mut connection = Connection::open(&site.client, family.vip(), 80)?;
        ports.push(connection.client_port()?);
        ensure!(connection.get("/")? == "rs1");
    }
    let file = RandomFile::create(site.network().directory(), FILE_BYTES)?;
    file.offer(&site.real_servers[0])?;
    file.download(&site.client, service)?;
    file.upload(&site.client, service, &site.real_servers[0])?;
    site.wait_until_quiet()?;
    let (servers, clients) = (servers.stop()?, clients.stop()?);
    for port in ports {
        let told =
            servers.lines(&format!("src host {} and {}", family.local(), toa(family.client(), port)))?;
        ensure!(!told.is_empty(), "no packet tells of port {port}");
        ensure!(
            told[0].contains("Flags [.]"),
            "the first that says so is no answer to a SYN-ACK: {}",
            told[0]
        );
    }
    let back = clients.lines("tcp")?;
    ensure!(back.iter().all(|line| !line.contains("exp-")), "a client was sent the option");
    director.finish()
}

#[test]
fn client_address_goes_to_the_real_server_as_a_tcp_option_over_ipv4() -> Result<()> {
    client_address_as_a_tcp_option(Family::V4)
}

#[test]
fn client_address_goes_to_the_real_server_as_a_tcp_option_over_ipv6() -> Result<()> {
    client_address_as_a_tcp_option(Family::V6)
}

fn received(stats: &Stats) -> u64 {
    stats.totals.received
}

/// A flood from the client's cable to the VIP, through the router, of so many SYNs.
fn flood(site: &Site, director: &DirectorProcess, count: u64) -> Result<u64> {
    let router = site.router.mac("clients")?;
    let mut to = [0; 6];
    for (octet, text) in to.iter_mut().zip(router.split(':')) {
        *octet = u8::from_str_radix(text, 16)?;
    }
    let IpAddr::V4(vip) = Family::V4.vip() else { unreachable!("an IPv4 VIP") };
    let flood =
        Flood::start_counted(&site.client, to, SocketAddrV4::new(vip, 80), count, director, received)?;
    wait::until("the flood to be sent", || Ok((flood.sent() >= count).then_some(())))?;
    flood.stop()
}

#[test]
fn local_addresses_that_run_dry_are_counted_and_alarmed_and_one_more_helps() -> Result<()> {
    let site = Site::build(Method::FullNat, 1, 1)?;
    let vip = Family::V4.vip();
    let director = format!("connection_capacity_per_worker = {CONNECTION_CAPACITY}");
    let text = site.configuration_with("", "host_interface = \"off\"")?;
    // The lab's own capacity is a tenth of what this takes.
    let capacity = text
        .lines()
        .find(|line| line.starts_with("connection_capacity_per_worker"))
        .context("no capacity")?;
    let text = text.replace(capacity, &director).replace("iface=front", "iface=front,framecnt=4096")
        + &site.service(Family::V4, "tcp", 80, &[Family::V4.rip(1)], "")
        // Nor has the flood to be slow.
        + "\n[connections]\ncreation_rate_per_worker = 0\n";
    let director = site.start_director(&text, 1)?;
    // Nobody answers the flood, on whichever way.
    site.router.ip("route add blackhole 198.18.0.0/15")?;
    let server = &site.real_servers[0].host;
    server.ip(&format!("route add blackhole {}", Family::V4.local()))?;
    ensure!(director.status()?.warnings.iter().all(|warning| !warning.contains("local address")));

    let count = LOCAL_PORTS + SYNS_BEYOND;
    let sent = flood(&site, &director, count)?;
    let stats = wait::until("the flood to be counted", || {
        let stats = director.stats()?;
        Ok((stats.totals.forwarded + stats.totals.drops["no_local_port"] >= sent).then_some(stats))
    })?;
    let (forwarded, dropped) = (stats.totals.forwarded, stats.totals.drops["no_local_port"]);
    println!("{sent} SYNs: {forwarded} forwarded, {dropped} dropped for want of a local port");
    ensure!(forwarded <= LOCAL_PORTS && dropped >= SYNS_BEYOND, "{:?}", stats.totals);
    ensure!(forwarded >= LOCAL_PORTS * 9 / 10, "{forwarded} of {LOCAL_PORTS} local ports were used");
    wait::until("an alarm that says what to do", || {
        let warnings = director.status()?.warnings;
        let is_alarm = |text: &String| text.contains("local address") && text.contains("add-lip");
        Ok(warnings.into_iter().find(is_alarm))
    })?;
    let metrics = director.metrics()?;
    let sample = "dr_worker_dropped_packets_total{worker=\"0\",reason=\"no_local_port\"} ";
    let shown = metrics.lines().find_map(|line| line.strip_prefix(sample)?.parse::<f64>().ok());
    ensure!(shown.is_some_and(|shown| shown >= dropped as f64), "`{sample}` shows {shown:?}, not {dropped}");

    // Another local address helps at once.
    director.ctl(&["add-lip", OTHER_LOCAL])?;
    let answers = client::get_many(&site.client, vip, 80, REQUESTS as u32)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs1"), "{answers:?}");
    director.finish()
}

#[test]
fn local_addresses_come_and_go_and_connections_keep_theirs() -> Result<()> {
    let site = Site::build(Method::FullNat, 1, 1)?;
    let vip = Family::V4.vip();
    let text = site.configuration()? + &site.service(Family::V4, "tcp", 80, &[Family::V4.rip(1)], "");
    let director = site.start_director(&text, 1)?;
    let mut kept = Connection::open(&site.client, vip, 80)?;
    ensure!(kept.get("/")? == "rs1");
    director.ctl(&["add-lip", OTHER_LOCAL])?;
    director.ctl(&["del-lip", &Family::V4.local().to_string()])?;
    ensure!(kept.get("/")? == "rs1", "a connection ended with the local address in the pool");
    client::get_many(&site.client, vip, 80, REQUESTS as u32)?;
    let requests = wait::until("the requests in nginx's log", || {
        Ok(Some(site.real_servers[0].requests()?).filter(|requests| requests.len() >= REQUESTS + 2))
    })?;
    let other: IpAddr = OTHER_LOCAL.parse()?;
    let of_kept = requests.iter().filter(|request| request.client == Family::V4.local()).count();
    let of_other = requests.iter().filter(|request| request.client == other).count();
    ensure!((of_kept, of_other) == (2, REQUESTS), "{requests:?}");
    drop(kept);
    site.wait_until_quiet()?;

    // The last one stays: without it nothing could go there.
    let (code, message) = director.ctl_refused(&["del-lip", OTHER_LOCAL])?;
    ensure!(code == 5 && message.contains(OTHER_LOCAL) && message.contains("add-lip"), "{code}: {message}");
    director.finish()
}

/// A real server that takes SYNs and says nothing: its connections are forgotten after a while, and it is served again
/// as soon as it answers.
fn real_server_that_never_answers(method: Method, family: Family) -> Result<()> {
    let site = Site::build(method, 1, 1)?;
    let vip = family.vip();
    let text = format!(
        "{}{}[connections.timeouts]\ntcp_syn_recv = {SYN_SECONDS}\ntcp_syn_sent = {SYN_SECONDS}\n",
        site.configuration()?,
        site.service(family, "tcp", 80, &[family.rip(1)], "")
    );
    let director = site.start_director(&text, 1)?;
    let server = &site.real_servers[0].host;
    let (option, bits) = (family.option(), family.bits());
    let way = match method {
        Method::FullNat => format!("{}/{bits}", family.local()),
        _ => format!("{}/{bits}", family.client()),
    };
    server.ip(&format!("{option} route add blackhole {way}"))?;
    let service = SocketAddr::new(vip, 80);
    let url = format!("http://{service}/");
    let curl = ["curl", "--silent", "--show-error", "--max-time", "4", &url];
    let silent = site.client.output(&curl)?;
    // Curl's 28: a time-out.
    ensure!(silent.status.code() == Some(28), "{silent:?}");
    let stats = director.stats()?;
    ensure!(stats.services[0].totals.connections >= 1, "{:?}", stats.services[0]);
    ensure!(stats.services[0].totals.reply_packets == 0, "{:?}", stats.services[0]);
    wait::until("the connections that nobody answered to be forgotten", || {
        Ok((director.status()?.connections == 0).then_some(()))
    })?;
    let shown = director.show()?;
    let real_server = &shown.services[0].real_servers[0];
    ensure!((real_server.active_connections, real_server.inactive_connections) == (0, 0), "{real_server:?}");

    server.ip(&format!("{option} route del blackhole {way}"))?;
    let answers = client::get_many(&site.client, vip, 80, REQUESTS as u32)?;
    ensure!(answers.iter().all(|answer| answer.server == "rs1"), "{answers:?}");
    site.wait_until_quiet()?;
    director.finish()
}

#[test]
fn real_server_behind_nat_that_never_answers_leaves_nothing_behind() -> Result<()> {
    real_server_that_never_answers(Method::Nat, Family::V4)?;
    real_server_that_never_answers(Method::Nat, Family::V6)
}

#[test]
fn real_server_behind_full_nat_that_never_answers_leaves_nothing_behind() -> Result<()> {
    real_server_that_never_answers(Method::FullNat, Family::V4)?;
    real_server_that_never_answers(Method::FullNat, Family::V6)
}
