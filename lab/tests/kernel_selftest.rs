//! The kernel's own IPVS selftest for direct routing (`tools/testing/selftests/net/netfilter/ipvs.sh`): its topology and
//! its check, with dr-director on two DPDK ports where the kernel's IPVS was.
//!
//! | host | interfaces |
//! |---|---|
//! | ns0, client | `veth01` and `veth02` in bridge `br0`, 10.0.0.2/24 |
//! | ns1, director | `veth10` to `veth01`, 10.0.0.1/24; `veth12` to `veth21`, 172.16.0.1/24 |
//! | ns2, real server | `veth21`, 172.16.0.2/24; `veth20` to `veth02`, 10.0.0.3/24 |

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, ensure};
use ctl::config::{Protocol, ServiceConfig, ServiceId};
use lab::topology::real_server;
use lab::{Capture, DirectorProcess, Host, Network, PortDriver, RealServer, director, network};
use scheduler::Algorithm;

const VIP: Ipv4Addr = Ipv4Addr::new(207, 175, 44, 110);
const PORT: u16 = 8080;
const RIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

struct Topology {
    client: Host,
    director: Host,
    real_server: RealServer,
    _network: Network,
}

fn topology() -> Result<Topology> {
    let network = Network::new()?;
    let (ns0, ns1, ns2) = (network.add_host("ns0")?, network.add_host("ns1")?, network.add_host("ns2")?);
    network.add_cable((&ns0, "veth01"), (&ns1, "veth10"))?;
    network.add_cable((&ns0, "veth02"), (&ns2, "veth20"))?;
    network.add_cable((&ns1, "veth12"), (&ns2, "veth21"))?;
    network::add_bridge(&ns0)?;
    ns0.ip("link set veth01 master br0")?;
    ns0.ip("link set veth02 master br0")?;
    ns0.add_address("br0", "10.0.0.2/24")?;
    ns0.ip(&format!("route add {VIP} via 10.0.0.1 dev br0"))?;
    ns2.add_address("veth21", &format!("{RIP}/24"))?;
    ns2.add_address("veth20", "10.0.0.3/24")?;
    let real_server = RealServer::set_up(ns2, RIP, VIP)?;
    Ok(Topology { client: ns0, director: ns1, real_server, _network: network })
}

fn start_director(topology: &Topology) -> Result<DirectorProcess> {
    let mut config = director::configuration(&topology.director, 1);
    let device = |number, interface| PortDriver::AfPacket.device(number, interface, 1);
    config.ports.push(director::port("clients", &device(0, "veth10"), Ipv4Addr::new(10, 0, 0, 1), 24)?);
    config.ports.push(director::port("servers", &device(1, "veth12"), Ipv4Addr::new(172, 16, 0, 1), 24)?);
    config.services.push(ServiceConfig {
        scheduler: Algorithm::Rr,
        real_servers: vec![real_server(RIP, 1)],
        ..ServiceConfig::new(ServiceId::new(Protocol::Tcp, VIP, PORT))
    });
    let director = DirectorProcess::start(&topology.director, &config)?;
    director.wait_until_up(1)?;
    Ok(director)
}

fn random_bytes(count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn random_bytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    let topology = topology()?;
    let director = start_director(&topology)?;
    // The other ends of the director's cables.
    let clients_side = Capture::start(&topology.client, "veth01")?;
    let servers_side = Capture::start(&topology.real_server.host, "veth21")?;
    let reply_side = Capture::start(&topology.client, "veth02")?;

    let sent = random_bytes(32)?;
    let (infile, outfile) =
        (topology.client.directory().join("infile"), topology.director.directory().join("outfile"));
    fs::write(&infile, &sent)?;
    let ns2 = &topology.real_server.host;
    let listen = format!("TCP-LISTEN:{PORT},reuseaddr");
    let create = format!("CREATE:{}", outfile.display());
    let mut listener = ns2.spawn(&["socat", "-d", "-d", "-u", "-4", &listen, &create])?;
    listener.wait_for_output("listening on")?;
    let open = format!("OPEN:{}", infile.display());
    topology.client.run(&["socat", "-u", "-4", &open, &format!("TCP:{VIP}:{PORT}")])?;
    ensure!(listener.wait()?.success(), "the listener failed:\n{}", listener.log());
    ensure!(fs::read(&outfile)? == sent, "other bytes arrived");

    let from_vip = format!("ip src {VIP}");
    ensure!(clients_side.stop()?.count(&from_vip)? == 0, "a reply passed the director");
    let servers_side = servers_side.stop()?;
    ensure!(servers_side.count(&from_vip)? == 0, "a reply passed the director");
    ensure!(servers_side.count(&format!("dst host {VIP}"))? >= 4, "the request did not pass the director");
    ensure!(reply_side.stop()?.count(&from_vip)? >= 3, "the reply did not leave by veth20");
    director.finish()
}

/// The selftest's data fits one packet. This takes full-size ones, in one direction more than the director's rings hold.
#[test]
fn four_mebibytes_through_the_vip_arrive_byte_for_byte() -> Result<()> {
    let topology = topology()?;
    let director = start_director(&topology)?;
    let sent = random_bytes(4 << 20)?;
    let listener = topology.real_server.host.enter(|| TcpListener::bind((VIP, PORT)))??;
    let server = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        stream.write_all(b"done")?;
        Ok(received)
    });
    let mut stream = topology.client.connect(VIP, PORT)?;
    stream.write_all(&sent)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    ensure!(answer == "done");
    let received = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    ensure!(received == sent, "other bytes arrived");
    director.finish()
}
