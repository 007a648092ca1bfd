//! dr-director with one virtual service and 16 real servers, asked over its control socket.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ctl::client::Client;
use ctl::config::{
    Config, ConnectionsConfig, DirectorConfig, HostInterface, Hugepages, PortConfig, Protocol,
    RealServerConfig, ServiceConfig, ServiceId,
};
use ctl::mac::MacAddress;
use ctl::protocol::{Command, Filter, Stats, Status};

use crate::cpus::Cpus;
use crate::forwarder::{Counters, Forwarder, Reading};
use crate::process::Process;
use crate::sizing::Sizing;
use crate::traffic::{PORT_MAC, VIRTUAL_ADDRESS, VIRTUAL_PORT};

/// Real servers.
pub(crate) const REAL_SERVERS: u8 = 16;
/// Until it forwards: EAL, and the whole pcap file read into mbufs.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Until every flow has its connection: one replay of the file.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// A running director.
pub(crate) struct Director {
    process: Process,
    client: Client,
    socket: PathBuf,
    /// Version of DPDK, as it says.
    pub(crate) dpdk: String,
}

impl Director {
    /// Starts it, and waits until it answers.
    pub(crate) fn start(
        device: &str,
        sizing: &Sizing,
        hugepages: bool,
        cpus: &Cpus,
        directory: &Path,
    ) -> Result<Director> {
        let socket = directory.join("control.sock");
        let file = directory.join("director.toml");
        configuration(device, sizing, hugepages, cpus, &socket)?.write_atomically(&file)?;
        let program = program()?;
        let arguments = ["--config".to_owned(), file.display().to_string()];
        let program = program.to_str().context("the path of dr-director is no UTF-8")?;
        let mut process = Process::start("director", &[program], &arguments, directory, cpus)?;
        let mut client = connect(&mut process, &socket)?;
        let status: Status = client.call(&Command::Status)?;
        let mac = MacAddress(PORT_MAC);
        ensure!(
            status.ports.iter().all(|port| port.mac == mac),
            "the port does not have the MAC {mac} that the traffic is for: {:?}",
            status.ports
        );
        ensure!(status.real_servers_up == u32::from(REAL_SERVERS), "not every real server is up: {status:?}");
        Ok(Director { process, client, socket, dpdk: status.dpdk })
    }

    /// Its control socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    fn counters(&mut self) -> Result<Counters> {
        let stats: Stats = self.client.call(&Command::Stats(Filter::default()))?;
        let totals = stats.totals;
        let mut lost: Vec<_> = totals.drops.into_iter().filter(|(_, count)| *count > 0).collect();
        if totals.punted > 0 {
            lost.push(("punted".to_owned(), totals.punted));
        }
        let held = stats.workers.iter().map(|worker| worker.connections).sum();
        let opened = stats.services.iter().map(|service| service.totals.connections).sum();
        Ok(Counters {
            received: totals.received,
            forwarded: totals.forwarded,
            lost,
            connections: Some((held, opened)),
        })
    }
}

impl Forwarder for Director {
    fn id(&self) -> u32 {
        self.process.id()
    }

    fn settle(&mut self, flows: u32) -> Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let counters = self.counters()?;
            if counters.connections.is_some_and(|(held, _)| held >= u64::from(flows)) {
                return Ok(());
            }
            if let Some(status) = self.process.ended()? {
                bail!("dr-director ended with {status}:\n{}", self.process.log());
            }
            ensure!(
                Instant::now() < deadline,
                "{flows} flows, and after {} s dr-director has {counters:?}",
                SETTLE_LIMIT.as_secs()
            );
            std::thread::sleep(PAUSE);
        }
    }

    fn read(&mut self) -> Result<Reading> {
        Reading::take(|| self.counters())
    }

    fn stop(self: Box<Self>) -> Result<()> {
        drop(self.client);
        self.process.terminate()?;
        self.process.wait()
    }
}

fn connect(process: &mut Process, socket: &Path) -> Result<Client> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        // It listens before it is ready, and answers then.
        let mut client = Client::connect(socket).ok();
        if client.as_mut().is_some_and(|client| client.call::<Status>(&Command::Status).is_ok())
            && let Some(client) = client
        {
            return Ok(client);
        }
        if let Some(status) = process.ended()? {
            bail!("dr-director ended at its start with {status}:\n{}", process.log());
        }
        let limit = START_LIMIT.as_secs();
        ensure!(Instant::now() < deadline, "dr-director did not answer within {limit} s:\n{}", process.log());
        std::thread::sleep(PAUSE);
    }
}

fn configuration(
    device: &str,
    sizing: &Sizing,
    hugepages: bool,
    cpus: &Cpus,
    socket: &Path,
) -> Result<Config> {
    let real_server = |number: u8| RealServerConfig {
        mac: Some(MacAddress([0x02, 0, 198, 18, 1, number])),
        ..RealServerConfig::new(Ipv4Addr::new(198, 18, 1, number))
    };
    // wlc, which is the default of LVS.
    let service = ServiceConfig::new(ServiceId::new(Protocol::Tcp, VIRTUAL_ADDRESS, VIRTUAL_PORT));
    Ok(Config {
        director: DirectorConfig {
            worker_cpus: vec![cpus.worker],
            control_cpus: vec![cpus.others],
            hugepages: if hugepages { Hugepages::Required } else { Hugepages::Off },
            memory_mib: sizing.dpdk_mib,
            mbuf_count: Some(sizing.mbufs),
            mbuf_data_room: Some(sizing.mbuf_data_room),
            connection_capacity_per_worker: sizing.connection_capacity,
            control_socket: socket.to_owned(),
            metrics_listen: None,
            ..DirectorConfig::default()
        },
        ports: vec![PortConfig {
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: Some(sizing.mtu),
            host_interface: HostInterface::Off,
            addresses: vec!["198.18.1.254/24".parse()?],
            ..PortConfig::new("bench", device)
        }],
        // Every flow becomes a connection, however fast they come.
        connections: Some(ConnectionsConfig { creation_rate_per_worker: 0, ..ConnectionsConfig::default() }),
        services: vec![ServiceConfig {
            real_servers: (1..=REAL_SERVERS).map(real_server).collect(),
            ..service
        }],
        ..Config::default()
    })
}

/// dr-director of the same build: beside this program.
fn program() -> Result<PathBuf> {
    let path = crate::results::build_directory()?.join("dr-director");
    ensure!(
        path.is_file(),
        "{} is missing: build it with `cargo build --package director` (and --release for numbers), or run scripts/bench",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_one_that_the_director_takes() {
        let sizing = Sizing::of(1_000_000);
        let cpus = Cpus::choose().unwrap();
        let socket = Path::new("/tmp/control.sock");
        let config =
            configuration("net_pcap0,rx_pcap=/tmp/x.pcap,infinite_rx=1", &sizing, true, &cpus, socket);
        let config = config.unwrap();
        assert_eq!(ctl::validate::validate_for_start(&config), Ok(()));
        assert_eq!(config.services[0].real_servers.len(), 16);
    }

    #[test]
    fn configuration_for_pktgen_is_one_that_the_director_takes() {
        let file = crate::machine::sources().join("scripts/pktgen/director.toml");
        let config = Config::load(&file).unwrap();
        assert_eq!(ctl::validate::validate_for_start(&config), Ok(()));
        let expected = ServiceId::new(Protocol::Tcp, VIRTUAL_ADDRESS, VIRTUAL_PORT);
        assert_eq!(config.services[0].id(), expected);
    }
}
