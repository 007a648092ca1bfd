//! ARP and ping: who answers for VIP and DIP, and how the director follows its real servers.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ctl::config::Protocol;
use ctl::protocol::{NeighbourState, RealServerState};
use lab::topology::{CLIENT, mac_of};
use lab::{Capture, DIP, DirectorProcess, Lab, VIP, client, wait};
use scheduler::Algorithm;

/// A second VIP in the client's network.
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);

/// How soon traffic must follow a real server that announced its new MAC address.
const FOLLOW_LIMIT_SECONDS: f64 = 0.1;

/// Questions before a change of MAC address, and between it and its announcement.
const QUESTIONS: u32 = 50;

#[test]
fn director_alone_answers_arp_for_vip_and_dip() -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 2, 3])?;
    let director = lab.start_director(&config)?;
    for address in [VIP, DIP] {
        let macs = wait::until("an answer to arping", || {
            Ok(Some(client::arping(&lab.client, address, 3)?).filter(|macs| !macs.is_empty()))
        })?;
        ensure!(macs.iter().eq([&mac_of(DIP)]), "{address}: {macs:?}");
    }
    ensure!(client::arping(&lab.client, OTHER_VIP, 1)?.is_empty(), "an address of nobody was answered");
    director.finish()
}

#[test]
fn vip_and_dip_answer_ping_of_every_size() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1])?;
    let director = lab.start_director(&config)?;
    let limit = wait::HANGS.as_secs().to_string();
    for address in [VIP, DIP] {
        for size in ["0", "1", "18", "56", "999", "1472"] {
            let address = address.to_string();
            for _ in 0..3 {
                // One at a time: after the first answer ping waits for others no longer than twice as long as for that.
                let ping = ["ping", "-c", "1", "-W", &limit, "-M", "do", "-s", size, &address];
                let text = lab.client.run(&ping)?;
                // ping compares the bytes that come back.
                ensure!(text.contains(" 1 received") && !text.contains("wrong"), "{size} bytes: {text}");
            }
        }
    }
    director.finish()
}

#[test]
fn vip_is_announced_by_gratuitous_arp_when_it_is_added() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1])?;
    let director = lab.start_director(&config)?;
    // A router remembers the director of before.
    lab.client.ip(&format!("neigh replace {OTHER_VIP} lladdr 02:00:00:00:de:ad dev eth0 nud stale"))?;
    let capture = Capture::start(&lab.client, "eth0")?;
    director.ctl(&["add-vip", "tcp", "192.0.2.20:80"])?;
    let neighbour = || lab.client.ip(&format!("neigh show {OTHER_VIP}"));
    wait::until("the client to believe the announcement", || {
        Ok(neighbour()?.contains(&mac_of(DIP)).then_some(()))
    })
    .with_context(|| format!("{:?}", neighbour()))?;
    // ARP's bytes 14 to 17 are the sender's address, 24 to 27 the one asked for.
    let announcement =
        format!("arp and ether broadcast and arp[14:4] = {0} and arp[24:4] = {0}", u32::from(OTHER_VIP));
    let recording = capture.stop()?;
    let lines = recording.lines(&announcement)?;
    ensure!(!lines.is_empty() && lines.iter().all(|line| line.contains(&mac_of(DIP))), "{lines:?}");
    director.finish()
}

#[test]
fn traffic_follows_a_new_mac_within_100_ms_of_its_announcement() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let server = &lab.real_servers[0];
    let _udp = server.start_udp(VIP, 53)?;
    let config = lab.configuration_with(Protocol::Udp, 53, Algorithm::Rr, &[1])?;
    let director = lab.start_director(&config)?;
    // Gratuitous ARP is a request in one convention and a reply in the other: RFC 5227 section 3.
    for (number, convention) in ["-U", "-A"].into_iter().enumerate() {
        // The fastest of five, as far as they are needed: a busy machine adds to each, and nothing takes away from one.
        let mut times = Vec::new();
        while times.iter().all(|&seconds| seconds > FOLLOW_LIMIT_SECONDS) {
            ensure!(times.len() < 5, "{convention}: traffic followed after {times:?} s");
            let mac = format!("02:00:00:00:aa:{number:x}{}", times.len());
            times.push(follow_time(&lab, convention, &mac)?);
        }
        println!("{convention}: traffic followed after {times:?} s");
    }
    director.finish()
}

/// Seconds between a real server's announcement of a new MAC address and the first answer from there.
fn follow_time(lab: &Lab, convention: &str, mac: &str) -> Result<f64> {
    let server = &lab.real_servers[0];
    let capture = Capture::start(&lab.client, "eth0")?;
    let socket = lab.client.udp_socket(CLIENT, 0)?;
    // One after the other, so that none is on its way when the address changes: for an answer after that the real server
    // would ask for the client by ARP, and that tells the director too.
    for _ in 0..QUESTIONS {
        client::ask(&socket, VIP, 53, "?")?;
    }
    server.host.ip(&format!("link set eth0 address {mac}"))?;
    let asked = AtomicU32::new(0);
    std::thread::scope(|scope| -> Result<()> {
        let asker = scope.spawn(|| ask_until_answered(&socket, &asked));
        wait::until("questions to the old address", || {
            Ok((asked.load(Ordering::Relaxed) >= QUESTIONS).then_some(()))
        })?;
        server.host.run(&["arping", convention, "-c", "1", "-I", "eth0", &server.address.to_string()])?;
        asker.join().map_err(|_| anyhow::anyhow!("the questions panicked"))?
    })?;
    let recording = capture.stop()?;
    let is_gratuitous = format!("arp and arp[14:4] = {0} and arp[24:4] = {0}", u32::from(server.address));
    let announced = recording.times(&format!("{is_gratuitous} and ether src {mac}"))?;
    let announced = announced.first().context("there was no announcement")?;
    let answers = recording.times(&format!("udp and ip src {VIP} and ether src {mac}"))?;
    let first = answers.first().context("no answer after the announcement")?;
    // The real server takes no frame for its old address.
    ensure!(first > announced, "the change of MAC address did not interrupt the traffic");
    Ok(first - announced)
}

/// A question each millisecond over one connection, until one is answered.
fn ask_until_answered(socket: &UdpSocket, asked: &AtomicU32) -> Result<()> {
    socket.set_nonblocking(true)?;
    let start = Instant::now();
    while socket.recv(&mut [0; 64]).is_err() {
        ensure!(start.elapsed() < wait::HANGS, "no question was answered");
        socket.send_to(b"?", (VIP, 53))?;
        asked.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn real_server_without_link_is_unresolved_and_gets_nothing_until_it_is_back() -> Result<()> {
    let lab = Lab::builder().build()?;
    lab.switch.ip("link set to-rs2 down")?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1, 1, 1])?;
    let director = DirectorProcess::start(&lab.director, &config)?;
    director.wait_until_up(2)?;
    let view = &director.show()?.services[0].real_servers[1];
    ensure!(view.state == RealServerState::Unresolved && view.mac.is_none(), "{view:?}");
    ensure!(state_of(&director, lab.real_servers[1].address)? == NeighbourState::Unresolved);

    client::get_many(&lab.client, VIP, 80, 60)?;
    let shares: Vec<usize> = lab.logged_requests(60)?.iter().map(Vec::len).collect();
    ensure!(shares == [30, 0, 30], "{shares:?}");

    lab.switch.ip("link set to-rs2 up")?;
    director.wait_until_up(3)?;
    ensure!(state_of(&director, lab.real_servers[1].address)? == NeighbourState::Reachable);
    client::get_many(&lab.client, VIP, 80, 60)?;
    let shares: Vec<usize> = lab.logged_requests(120)?.iter().map(Vec::len).collect();
    ensure!(shares == [50, 20, 50], "{shares:?}");
    director.finish()
}

#[test]
fn real_server_with_a_static_mac_is_never_asked() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let server = &lab.real_servers[0];
    // Deaf to ARP: no address of it is answered for (arp_ignore 8).
    server.host.set("net/ipv4/conf/all/arp_ignore", "8")?;
    ensure!(client::arping(&lab.client, server.address, 1)?.is_empty(), "it answers ARP");
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1])?;
    config.services[0].real_servers[0].mac = Some(mac_of(server.address).parse()?);
    let capture = lab.capture_director()?;
    let director = lab.start_director(&config)?;
    ensure!(state_of(&director, server.address)? == NeighbourState::Static);
    let answers = client::get_many(&lab.client, VIP, 80, 10)?;
    ensure!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let questions = capture.stop()?.count(&format!(
        "arp and ether src {} and arp[24:4] = {}",
        mac_of(DIP),
        u32::from(server.address)
    ))?;
    ensure!(questions == 0, "asked {questions} times");

    // Over the socket: to be asked by ARP, it fails; given again, it serves again.
    director.ctl(&["set-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--mac", "arp"])?;
    wait::until("the deaf real server to get no connections", || {
        Ok((director.show()?.services[0].real_servers[0].state == RealServerState::Unresolved).then_some(()))
    })?;
    director.ctl(&["set-rs", "tcp", "192.0.2.10:80", "10.0.0.11", "--mac", &mac_of(server.address)])?;
    client::get_many(&lab.client, VIP, 80, 10)?;
    director.finish()
}

fn state_of(director: &DirectorProcess, address: Ipv4Addr) -> Result<NeighbourState> {
    let neighbours = director.neighbours()?.neighbours;
    let neighbour = neighbours.iter().find(|neighbour| neighbour.address == address);
    neighbour
        .map(|neighbour| neighbour.state)
        .with_context(|| format!("{address} is not among {neighbours:?}"))
}
