//! The usual lab for direct routing: a client, the director and real servers on one switch.
//!
//! | host | address | MAC |
//! |---|---|---|
//! | client | 10.0.0.100 | 02:00:0a:00:00:64 |
//! | director | 10.0.0.1, of the DPDK port, not of the kernel | 02:00:0a:00:00:01 |
//! | rs1, rs2, ... | 10.0.0.11, 10.0.0.12, ... | 02:00:0a:00:00:0b, ... |
//!
//! The client is what a router would be: it holds the VIP's network to be on the wire and asks for the VIP by ARP.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ctl::config::{Config, Protocol, RealServerConfig, ServiceConfig, ServiceId};
use scheduler::Algorithm;

use crate::capture::Capture;
use crate::director::{self, DirectorProcess};
use crate::dissection::Dissection;
use crate::host::Host;
use crate::network::Network;
use crate::quiet;
use crate::real_server::{RealServer, Request};
use crate::wait;

/// The director's own address.
pub const DIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// The virtual services' address (RFC 5737's first network for documentation).
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// The network around [`VIP`], all of it on the wire as the client sees it.
const VIP_NETWORK: &str = "192.0.2.0/24";

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

/// Real servers that fit between [`DIP`] and [`CLIENT`].
const REAL_SERVERS_MAX: u8 = 80;

/// RIP of the first real server, less one.
const REAL_SERVER_BASE: u8 = 10;

/// A port of [`VIP`] that no test makes a service of: discard (RFC 863).
const UNSERVED_PORT: u16 = 9;

/// DPDK driver of the director's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortDriver {
    /// `net_af_packet`: runs on any kernel and any interface. Fragments of IPv4 do not come through it: its sockets ask the
    /// kernel to put them together, and cut off what is longer than a frame.
    #[default]
    AfPacket,
    /// `net_af_xdp`: needs a kernel with BPF and XDP sockets.
    AfXdp,
}

impl PortDriver {
    /// The DPDK device over `interface`, with as many queues as the director has workers.
    pub fn device(self, number: u32, interface: &str, queues: u16) -> String {
        match self {
            PortDriver::AfPacket => format!("net_af_packet{number},iface={interface},qpairs={queues}"),
            PortDriver::AfXdp => format!("net_af_xdp{number},iface={interface},queue_count={queues}"),
        }
    }
}

/// The hosts. Dropped, all of it is gone.
pub struct Lab {
    /// The client.
    pub client: Host,
    /// The director's host; the daemon is started with [`Lab::start_director`].
    pub director: Host,
    /// The switch; `to-<host>` are its sockets.
    pub switch: Host,
    /// The real servers, nginx on port 80.
    pub real_servers: Vec<RealServer>,
    driver: PortDriver,
    workers: u16,
    network: Network,
}

/// What a lab shall be.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    real_servers: u8,
    driver: PortDriver,
    workers: u16,
}

impl Builder {
    /// How many real servers.
    pub fn real_servers(mut self, count: u8) -> Builder {
        self.real_servers = count;
        self
    }

    /// Driver of the director's port.
    pub fn driver(mut self, driver: PortDriver) -> Builder {
        self.driver = driver;
        self
    }

    /// Workers of the director, and queues of its port.
    pub fn workers(mut self, count: u16) -> Builder {
        self.workers = count;
        self
    }

    /// Makes the hosts and starts nginx on the real servers.
    pub fn build(self) -> Result<Lab> {
        ensure!(self.real_servers <= REAL_SERVERS_MAX, "at most {REAL_SERVERS_MAX} real servers fit");
        let network = Network::new()?;
        let switch = network.add_switch("switch")?;
        let client = network.add_host("client")?;
        network.plug(&client, &switch, &mac_of(CLIENT))?;
        client.add_address("eth0", &format!("{CLIENT}/24"))?;
        client.ip(&format!("route add {VIP_NETWORK} dev eth0"))?;
        // No address in the kernel: the DPDK port owns the DIP, and nobody else answers for it.
        let director = network.add_host("director")?;
        network.plug(&director, &switch, &mac_of(DIP))?;
        director.leave_to_dpdk("eth0")?;
        let mut real_servers = Vec::new();
        for number in 1..=self.real_servers {
            let address = Ipv4Addr::new(10, 0, 0, REAL_SERVER_BASE + number);
            let host = network.add_host(&format!("rs{number}"))?;
            network.plug(&host, &switch, &mac_of(address))?;
            host.add_address("eth0", &format!("{address}/24"))?;
            let mut server = RealServer::set_up(host, address, VIP)?;
            server.start_nginx(&[80])?;
            real_servers.push(server);
        }
        let Builder { driver, workers, .. } = self;
        Ok(Lab { client, director, switch, real_servers, driver, workers, network })
    }
}

/// MAC address of the host with this address in a lab.
pub fn mac_of(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

impl Lab {
    /// A lab to be built: three real servers, one worker, AF_PACKET.
    pub fn builder() -> Builder {
        Builder { real_servers: 3, driver: PortDriver::default(), workers: 1 }
    }

    /// The network, for what the usual lab does not have.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The director's configuration in this lab, without a service.
    pub fn configuration(&self) -> Result<Config> {
        let mut config = director::configuration(&self.director, self.workers);
        config.ports.push(director::port("lan", &self.driver.device(0, "eth0", self.workers), DIP, 24)?);
        Ok(config)
    }

    /// The configuration with one service on [`VIP`], the real servers with these weights.
    pub fn configuration_with(
        &self,
        protocol: Protocol,
        port: u16,
        scheduler: Algorithm,
        weights: &[u16],
    ) -> Result<Config> {
        let mut config = self.configuration()?;
        config.services.push(self.service(protocol, port, scheduler, weights));
        Ok(config)
    }

    /// A service on [`VIP`], the first real servers with these weights.
    pub fn service(
        &self,
        protocol: Protocol,
        port: u16,
        scheduler: Algorithm,
        weights: &[u16],
    ) -> ServiceConfig {
        let real_servers = self.real_servers.iter().zip(weights);
        ServiceConfig {
            scheduler,
            real_servers: real_servers.map(|(server, &weight)| real_server(server.address, weight)).collect(),
            ..ServiceConfig::new(ServiceId::new(protocol, VIP, port))
        }
    }

    /// Where the director's control socket is.
    pub fn control_socket(&self) -> PathBuf {
        director::control_socket(&self.director)
    }

    /// Starts the director and waits until it answers and every real server with a weight gets connections.
    pub fn start_director(&self, config: &Config) -> Result<DirectorProcess> {
        let dissection = self.dissect_director()?;
        let director = DirectorProcess::start(&self.director, config)?.dissected_by(dissection);
        let weighted = config.services.iter().flat_map(|service| &service.real_servers);
        director
            .wait_until_up(weighted.filter(|server| server.weight > 0 && server.drain.is_none()).count())?;
        Ok(director)
    }

    /// Gives the client another address of its network, or one behind it: real servers send there by the client.
    pub fn add_client_address(&self, address: Ipv4Addr) -> Result<()> {
        self.client.add_address("eth0", &format!("{address}/32"))?;
        for server in &self.real_servers {
            server.host.ip(&format!("route replace {address}/32 via {CLIENT}"))?;
        }
        Ok(())
    }

    /// RIP of the real server of this name.
    pub fn rip(&self, name: &str) -> Result<String> {
        let server = self.real_servers.iter().find(|server| server.name() == name);
        Ok(server.with_context(|| format!("no real server {name}"))?.address.to_string())
    }

    /// What each real server's nginx has logged, once `count` requests are logged by all together.
    pub fn logged_requests(&self, count: usize) -> Result<Vec<Vec<Request>>> {
        // nginx logs a request after the client has its answer.
        wait::until(&format!("{count} requests in nginx's logs"), || {
            let logs = self.real_servers.iter().map(RealServer::requests).collect::<Result<Vec<_>>>()?;
            Ok((logs.iter().map(Vec::len).sum::<usize>() >= count).then_some(logs))
        })
    }

    /// Waits until TCP has nothing left to send on client and real servers: of requests that are over, the last FIN and ACK
    /// have arrived.
    pub fn wait_until_quiet(&self) -> Result<()> {
        let servers = self.real_servers.iter().map(|server| &server.host);
        quiet::wait([&self.client].into_iter().chain(servers))
    }

    /// Waits until the director's workers have counted all that came of requests that are over. Its counters are exact
    /// then, and stay as they are until the next request.
    ///
    /// A frame that each worker counts after all of it proves it, as what is in one queue stays in order: a datagram to a
    /// port without service, which is dropped as `no_service`.
    pub fn barrier(&self, director: &DirectorProcess) -> Result<()> {
        self.wait_until_quiet()?;
        let counted = || -> Result<Vec<u64>> {
            let stats = director.stats()?;
            Ok(stats.workers.iter().map(|worker| worker.packets.drops["no_service"]).collect())
        };
        let before = counted()?;
        let mut now = before.clone();
        // From another port each, until each worker was given one.
        while now.iter().zip(&before).any(|(now, before)| now == before) {
            let sum: u64 = now.iter().sum();
            self.client.udp_socket(CLIENT, 0)?.send_to(b"barrier", (VIP, UNSERVED_PORT))?;
            // One at a time: the next barrier must not take one of this for its own.
            now = wait::until("the barrier to be counted", || {
                Ok(Some(counted()?).filter(|now| now.iter().sum::<u64>() > sum))
            })?;
        }
        Ok(())
    }

    /// Records everything in the director's cable, both directions, at its other end: at the port itself the kernel
    /// shows no sent frame where a DPDK port bypasses its queues.
    pub fn capture_director(&self) -> Result<Capture> {
        Capture::start(&self.switch, "to-director")
    }

    /// Records all that comes out of the director's cable, for tshark to judge.
    pub fn dissect_director(&self) -> Result<Dissection> {
        Dissection::start(&[(&self.switch, "to-director", &mac_of(DIP))])
    }
}

/// A real server whose MAC address is asked by ARP.
pub fn real_server(address: Ipv4Addr, weight: u16) -> RealServerConfig {
    RealServerConfig { weight, ..RealServerConfig::new(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_tell_the_address_and_devices_name_interface_and_queues() {
        assert_eq!(mac_of(Ipv4Addr::new(10, 0, 0, 11)), "02:00:0a:00:00:0b");
        assert_eq!(PortDriver::AfPacket.device(0, "eth0", 2), "net_af_packet0,iface=eth0,qpairs=2");
        assert_eq!(PortDriver::AfXdp.device(1, "eth1", 1), "net_af_xdp1,iface=eth1,queue_count=1");
    }
}
