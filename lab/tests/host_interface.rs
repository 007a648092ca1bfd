//! What is for the director's own host goes there through the host interface of the same DPDK port: SSH and iperf3 to the
//! DIP while the VIP is loaded, connections of the host's own, and a flood at the DIP that the VIP's traffic does not feel.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ctl::config::Protocol;
use ctl::protocol::Stats;
use lab::client::Traffic;
use lab::differential::neighbours;
use lab::iperf::{self, IperfServer, Stream};
use lab::ssh::SshServer;
use lab::topology::CLIENT;
use lab::{Capture, DIP, DirectorProcess, Family, Flood, Lab, Method, PortDriver, Site, VIP, wait};
use scheduler::Algorithm;

/// The host's device towards the router, by the name of the port.
const HOST_INTERFACE: &str = "dr-front";

/// Answers of the VIP's that must come after each thing that is done with the DIP.
const ANSWERS: u32 = 20;

/// A slow stream of datagrams, of which none need get lost.
const DATAGRAM_BITS_PER_SECOND: u32 = 2_000_000;

/// More than that is a stream that does not work. On a machine with little CPU left the host's own queues overflow.
const LOST_PERCENT_MAX: f64 = 20.0;

/// A site with one service of each family, and a director whose host knows the way to the clients.
fn start(driver: PortDriver) -> Result<(Site, DirectorProcess)> {
    let mut site = Site::build(Method::Direct, 1, 1)?;
    site.driver = driver;
    let mut text = site.configuration_with("", "")?;
    for family in Family::ALL {
        text += &site.service(family, "tcp", 80, &[family.rip(1)], "");
    }
    let director = site.start_director(&text, 2)?;
    for family in Family::ALL {
        let (option, router) = (family.option(), family.router());
        site.director.ip(&format!("{option} route add default via {router} dev {HOST_INTERFACE}"))?;
    }
    Ok((site, director))
}

/// Does `work` with a server on the director's host while the VIP is loaded.
fn with_a_loaded_vip<S>(
    server: impl FnOnce(&Site) -> Result<S>,
    work: impl Fn(&S, &Site, Family) -> Result<()>,
) -> Result<()> {
    let (site, director) = start(PortDriver::AfPacket)?;
    let server = server(&site)?;
    let host = Capture::start(&site.director, HOST_INTERFACE)?;
    for family in Family::ALL {
        let traffic = Traffic::start(&site.client, family.vip(), 80)?;
        work(&server, &site, family).with_context(|| format!("{family:?}"))?;
        traffic.wait_for_more(ANSWERS)?;
        traffic.stop()?;
    }
    site.wait_until_quiet()?;
    let host = host.stop()?;
    for family in Family::ALL {
        let (dip, vip) = (family.dip(), family.vip());
        ensure!(host.count(&format!("dst host {dip}"))? > 0, "nothing for {dip} came to the host");
        ensure!(host.count(&format!("host {vip}"))? == 0, "the host saw packets of {vip}");
    }
    let totals = director.stats()?.totals;
    ensure!(totals.to_host > 0, "{totals:?}");
    director.finish()
}

#[test]
fn ssh_to_the_dip_works_while_the_vip_is_loaded() -> Result<()> {
    with_a_loaded_vip(
        |site| SshServer::start(&site.director),
        |server, site, family| {
            let said = server.run(&site.client, family.dip(), "echo $SSH_CONNECTION")?;
            let client = format!("{} ", family.client());
            ensure!(said.starts_with(&client) && said.contains(&format!(" {} 22", family.dip())), "{said}");
            server.copy(&site.client, family.dip())
        },
    )
}

#[test]
fn iperf3_to_the_dip_works_while_the_vip_is_loaded() -> Result<()> {
    with_a_loaded_vip(
        |site| IperfServer::start(&site.director),
        |_, site, family| {
            for stream in [Stream::Upload, Stream::Download, Stream::Datagrams(DATAGRAM_BITS_PER_SECOND)] {
                let received = iperf::measure(&site.client, family.dip(), stream)?;
                println!("{family:?} {stream:?}: {received:?}");
                ensure!(received.bytes > 100_000, "{stream:?}: {received:?}");
                ensure!(received.lost_percent < LOST_PERCENT_MAX, "{stream:?}: {received:?}");
            }
            Ok(())
        },
    )
}

#[test]
fn host_speaks_with_neighbours_and_beyond_the_router_through_either_port() -> Result<()> {
    // af_packet knows no fragments of IPv4.
    let (site, director) = start(PortDriver::AfXdp)?;
    for family in Family::ALL {
        let url = |address: IpAddr| match address {
            IpAddr::V4(_) => format!("http://{address}/"),
            IpAddr::V6(_) => format!("http://[{address}]/"),
        };
        // A real server, whose MAC address the director asks for as well, and one that it knows nothing of.
        for (address, name) in [(family.rip(1), "rs1"), (family.far_rip(), "far")] {
            let gateway = family.gateway();
            if name == "far" {
                site.director.ip(&format!("{} route add {address} via {gateway}", family.option()))?;
            }
            let answer =
                site.director.run(&["curl", "--silent", "--show-error", "--max-time", "20", &url(address)]);
            ensure!(answer.as_ref().is_ok_and(|answer| answer == name), "{address}: {answer:?}");
        }
        let client = family.client().to_string();
        // More than a packet: it goes and comes in fragments, which are the host's own affair.
        let ping = ["ping", family.option(), "-c", "3", "-i", "0.2", "-w", "20", "-s", "3000", &client];
        let said = site.director.run(&ping)?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
    }
    site.wait_until_quiet()?;
    director.finish()
}

/// Packets that the host gets in a second.
const HOST_PACKETS_PER_SECOND: u32 = 1000;

/// Datagrams to the VIP of one slice, and slices of each kind.
const DATAGRAMS: u32 = 400;
const SLICES: u32 = 6;

/// Time between two of them.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(1);

/// Datagrams that are on their way at once, at most: less than any queue holds.
const WINDOW: usize = 128;

/// An answer that takes longer is none.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// How many of the packets to the DIP the director has counted, on whatever they ended.
fn counted_for_host(stats: &Stats) -> u64 {
    let totals = &stats.totals;
    totals.to_host + totals.drops["host_rate"] + totals.drops["host_queue_full"]
}

/// What became of the datagrams of a kind of slices.
#[derive(Debug, Default)]
struct Answered {
    asked: u64,
    answered: u64,
    times: Vec<Duration>,
}

impl Answered {
    fn share(&self) -> f64 {
        self.answered as f64 / self.asked as f64
    }

    fn median(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times[self.times.len() / 2]
    }
}

/// Datagrams to the VIP at a steady rate, and their answers. No more than [`WINDOW`] are on their way: whoever is off its CPU
/// for a while loses none.
fn ask_slice(socket: &UdpSocket, answered: &mut Answered) -> Result<()> {
    let mut waiting = HashSet::new();
    let mut asked = Vec::new();
    while asked.len() < DATAGRAMS as usize || !waiting.is_empty() {
        if asked.len() < DATAGRAMS as usize && waiting.len() < WINDOW {
            socket.send_to(asked.len().to_string().as_bytes(), (VIP, 53))?;
            waiting.insert(asked.len());
            asked.push(Instant::now());
            std::thread::sleep(DATAGRAM_PAUSE);
        }
        let mut buffer = [0; 64];
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let number: usize = answer.rsplit(' ').next().unwrap_or_default().parse()?;
            if waiting.remove(&number) {
                answered.times.push(asked[number].elapsed());
            }
        }
        if asked.last().is_some_and(|last| last.elapsed() > ANSWER_TIME_MAX) {
            break;
        }
    }
    answered.asked += u64::from(DATAGRAMS);
    answered.answered += u64::from(DATAGRAMS) - waiting.len() as u64;
    Ok(())
}

#[test]
fn flood_at_the_dip_costs_the_vip_not_one_percent_of_its_traffic() -> Result<()> {
    let lab = Lab::builder().build()?;
    let servers: Vec<_> =
        lab.real_servers.iter().map(|server| server.start_udp(VIP, 53)).collect::<Result<_>>()?;
    let mut config = lab.configuration_with(Protocol::Udp, 53, Algorithm::Rr, &[1, 1, 1])?;
    config.services.push(lab.service(Protocol::Tcp, 80, Algorithm::Rr, &[1, 1, 1]));
    config.director.host_packets_per_second = HOST_PACKETS_PER_SECOND;
    config.ports[0].device.push_str(",framecnt=4096");
    let director = lab.start_director(&config)?;
    let traffic = Traffic::start(&lab.client, VIP, 80)?;
    let socket = lab.client.udp_socket(CLIENT, 0)?;
    socket.set_nonblocking(true)?;

    let (mut quiet, mut flooded) = (Answered::default(), Answered::default());
    let (mut sent, mut flood_time) = (0, Duration::ZERO);
    for _ in 0..SLICES {
        ask_slice(&socket, &mut quiet)?;
        let start = Instant::now();
        let (dip, to) = (SocketAddrV4::new(DIP, 22), neighbours::mac_of(1));
        let flood = Flood::start_counted(&lab.client, to, dip, u64::MAX, &director, counted_for_host)?;
        ask_slice(&socket, &mut flooded)?;
        sent += flood.stop()?;
        flood_time += start.elapsed();
    }
    // Over TCP each request is answered too: one that fails ends it.
    traffic.wait_for_more(ANSWERS)?;
    traffic.stop()?;

    let (quiet_median, flooded_median) = (quiet.median(), flooded.median());
    println!(
        "{sent} SYNs to the DIP in {flood_time:?}; medians {quiet_median:?} without, {flooded_median:?} with them"
    );
    ensure!(quiet.answered > 0 && flooded.share() >= 0.99 * quiet.share(), "{quiet:?}\n{flooded:?}");

    let counted = wait::until("the flood to be counted", || {
        let stats = director.stats()?;
        Ok((counted_for_host(&stats) >= sent).then_some(stats))
    })?;
    ensure!(counted_for_host(&counted) == sent, "{sent} were sent to the DIP: {:?}", counted.totals);
    // An eighth of a second's at once, and what it gets in the seconds that it lasts, of which the first ones begin full.
    let share = u64::from(HOST_PACKETS_PER_SECOND);
    let most = (flood_time.as_secs_f64() * share as f64) as u64 + share / 8 * u64::from(SLICES) + share;
    let (to_host, refused) = (counted.totals.to_host, counted.totals.drops["host_rate"]);
    ensure!(to_host <= most, "{to_host} of {sent} came to the host in {flood_time:?}, over {most}");
    ensure!(
        to_host > 0 && refused > 10 * to_host,
        "{to_host} came to the host, {refused} were over the rate"
    );
    drop(servers);
    director.finish()
}

#[test]
fn without_a_host_interface_packets_to_the_dip_are_dropped_and_pings_answered() -> Result<()> {
    let lab = Lab::builder().real_servers(1).build()?;
    let mut config = lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1])?;
    config.director.host_packets_per_second = 0;
    let director = lab.start_director(&config)?;
    let dip = DIP.to_string();
    lab.client.run(&["ping", "-c", "1", "-w", "20", &dip])?;
    let before = director.stats()?.totals.drops["no_service"];
    lab.client.udp_socket(CLIENT, 0)?.send_to(b"nobody", (DIP, 7))?;
    wait::until("a packet to the DIP that is dropped", || {
        let totals = director.stats()?.totals;
        if totals.to_host > 0 {
            bail!("{totals:?}");
        }
        Ok((totals.drops["no_service"] > before).then_some(()))
    })?;
    let interfaces = lab.director.ip("-br link")?;
    ensure!(!interfaces.contains("dr-"), "{interfaces}");
    director.finish()
}
