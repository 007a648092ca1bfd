//! ARP and ping: who answers for VIP and DIP, and how the director follows its real servers.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ctl::config::Protocol;
use ctl::protocol::{NeighbourState, RealServerState};
use lab::topology::{CLIENT, mac_of};
use lab::{Capture, DIP, DirectorProcess, Host, Lab, Recording, VIP, client, wait};
use scheduler::Algorithm;

/// A second VIP in the client's network.
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);

/// How soon traffic must follow a real server that announced its new MAC address.
const FOLLOW_LIMIT_SECONDS: f64 = 0.1;

#[test]
fn director_alone_answers_arp_for_vip_and_dip() -> Result<()> {
    let lab = Lab::builder().build()?;
    let config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Wrr, &[1, 2, 3])?;
    let director = lab.start_director(&config)?;
    for address in [VIP, DIP] {
        let macs = client::arping(&lab.client, address, 3)?;
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
            let ping = ["ping", "-c", "3", "-i", "0.02", "-W", &limit, "-M", "do", "-s", size, &address];
            let text = lab.client.run(&ping)?;
            // ping compares the bytes that come back.
            ensure!(text.contains(" 3 received") && !text.contains("wrong"), "{size} bytes: {text}");
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
    for (convention, mac) in [("-U", "02:00:00:00:aa:01"), ("-A", "02:00:00:00:aa:02")] {
        let capture = Capture::start(&lab.client, "eth0")?;
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let questions = scope.spawn(|| ask_all_the_time(&lab.client, &stopped));
            let changed = change_mac(&server.host, convention, mac, server.address);
            std::thread::sleep(Duration::from_millis(300));
            stopped.store(true, Ordering::Relaxed);
            questions.join().map_err(|_| anyhow::anyhow!("the questions panicked"))??;
            changed
        })?;
        let recording = capture.stop()?;
        let seconds = follow_time(&recording, mac, server.address)?;
        println!("{convention}: traffic followed after {:.2} ms", seconds * 1e3);
        ensure!(seconds <= FOLLOW_LIMIT_SECONDS, "{convention}: traffic followed after {seconds} s");
    }
    director.finish()
}

/// A question each millisecond over one connection, the answers unread.
fn ask_all_the_time(client: &Host, stopped: &AtomicBool) -> Result<()> {
    let socket = client.udp_socket(CLIENT, 0)?;
    while !stopped.load(Ordering::Relaxed) {
        socket.send_to(b"?", (VIP, 53))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Changes a MAC address while traffic runs, and announces it a while later.
fn change_mac(host: &Host, convention: &str, mac: &str, address: Ipv4Addr) -> Result<()> {
    std::thread::sleep(Duration::from_millis(200));
    host.ip(&format!("link set eth0 address {mac}"))?;
    std::thread::sleep(Duration::from_millis(300));
    host.run(&["arping", convention, "-c", "1", "-I", "eth0", &address.to_string()]).map(drop)
}

/// Seconds between the announcement and the first answer from the new MAC address.
fn follow_time(recording: &Recording, mac: &str, address: Ipv4Addr) -> Result<f64> {
    let is_gratuitous = format!("arp and arp[14:4] = {0} and arp[24:4] = {0}", u32::from(address));
    let announced = recording.times(&format!("{is_gratuitous} and ether src {mac}"))?;
    let announced = *announced.first().context("there was no announcement")?;
    let answers = recording.times(&format!("udp and ip src {VIP}"))?;
    let before = answers.iter().filter(|&&time| time < announced).count();
    let after = answers.iter().find(|&&time| time > announced).context("no answer after the announcement")?;
    // It was interrupted: the real server takes no frame for its old address.
    let last_before = answers.iter().rfind(|&&time| time < announced);
    let last_before = last_before.context("no answer before the change")?;
    ensure!(
        before > 50 && announced - last_before > 0.2,
        "the change of MAC address did not interrupt the traffic"
    );
    Ok(after - announced)
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
