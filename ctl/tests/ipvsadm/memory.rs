//! A director in memory: the control protocol over a configuration, without data plane. Every command goes through its
//! JSON, as over the socket.

use std::net::{IpAddr, Ipv4Addr};

use ctl::client::ClientError;
use ctl::config::{
    Config, ConnectionsConfig, Protocol, RealServerConfig, ServiceConfig, ServiceId, Timeouts,
};
use ctl::ipvsadm::director::Director;
use ctl::ipvsadm::resolve::Names;
use ctl::protocol::{
    Batch, Changed, Command, ConnectionView, Connections, ErrorCode, ErrorReply, PersistenceChange,
    RealServerState, RealServerStats, RealServerView, ServiceStats, ServiceView, Show, Stats, Status,
    TrafficCounters, TrafficRates,
};
use serde::Serialize;

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) config: Config,
    /// Commands that changed something, or tried to.
    pub(crate) changes: Vec<Command>,
    pub(crate) connections: Vec<ConnectionView>,
    /// What every change is refused with.
    pub(crate) refusal: Option<ErrorReply>,
    /// There was no traffic: every count is 0.
    pub(crate) is_idle: bool,
}

impl Director for Memory {
    fn ask(&mut self, command: &Command) -> Result<serde_json::Value, ClientError> {
        let json = serde_json::to_string(command).unwrap();
        let command: Command = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
        match &command {
            Command::Show(filter) => {
                let services = self.matching(filter.service)?.map(|service| self.view(service)).collect();
                value(&Show { services })
            }
            Command::Stats(filter) => {
                let services = self.matching(filter.service)?.map(|service| self.stats(service)).collect();
                value(&Stats { services, totals: Default::default(), workers: vec![], ports: vec![] })
            }
            Command::Connections(query) => {
                let rows = self.connections.iter().skip(query.offset as usize).take(query.limit as usize);
                let matching = self.connections.len() as u64;
                value(&Connections { matching, connections: rows.cloned().collect() })
            }
            Command::Status => value(&self.status()),
            Command::Config => value(&self.config),
            change => {
                self.changes.push(change.clone());
                if let Some(refusal) = &self.refusal {
                    return Err(refusal.clone().into());
                }
                let mut config = self.config.clone();
                apply(&mut config, change)?;
                self.config = config;
                value(&Changed { changes: vec![] })
            }
        }
    }
}

fn value<T: Serialize>(answer: &T) -> Result<serde_json::Value, ClientError> {
    Ok(serde_json::to_value(answer).unwrap())
}

impl Memory {
    fn matching(&self, id: Option<ServiceId>) -> Result<impl Iterator<Item = &ServiceConfig>, ErrorReply> {
        let is_there = self.config.services.iter().any(|service| Some(service.id) == id);
        if id.is_some() && !is_there {
            return Err(not_found());
        }
        Ok(self.config.services.iter().filter(move |service| id.is_none_or(|id| service.id == id)))
    }

    fn status(&self) -> Status {
        let mut options = self.config.connections.clone().unwrap_or_default();
        options.timeouts = options.timeouts.or(&Timeouts::IPVS);
        Status {
            version: String::new(),
            dpdk: String::new(),
            pid: 1,
            uptime_seconds: 1,
            generation: 1,
            services: 0,
            real_servers: 0,
            real_servers_up: 0,
            connections: 0,
            connection_buckets: 4096,
            templates: 0,
            template_capacity: 0,
            buffers: 0,
            buffers_in_use: 0,
            connection_options: options,
            memory: String::new(),
            warnings: vec![],
            ports: vec![],
            nat: self.config.nat.clone().unwrap_or_default(),
            has_ipv6: true,
            routes: vec![],
        }
    }
}

impl Memory {
    fn view(&self, service: &ServiceConfig) -> ServiceView {
        let count = |count| if self.is_idle { 0 } else { count };
        let servers = service.real_servers.iter().map(|server| RealServerView {
            address: server.address,
            port: server.port,
            forwarding: server.forwarding,
            tunnel: server.tunnel(),
            client_address: server.client_address,
            weight: server.weight,
            state: RealServerState::Up,
            mac: None,
            interface: "lan".to_owned(),
            gateway: None,
            active_connections: count(3),
            inactive_connections: count(12),
            persistent_connections: count(5),
            upper_threshold: server.upper_threshold,
            lower_threshold: server.lower_threshold,
            drain: server.drain,
            drain_seconds_left: None,
        });
        let real_servers = servers.collect();
        ServiceView { service: ServiceConfig { real_servers: vec![], ..service.clone() }, real_servers }
    }

    /// Replies come from what is behind NAT alone.
    fn stats(&self, service: &ServiceConfig) -> ServiceStats {
        let count = |count| if self.is_idle { 0 } else { count };
        let counters = |connections, reply| TrafficCounters {
            connections: count(connections),
            packets: count(connections * 80),
            bytes: count(connections * 100_000),
            reply_packets: count(connections * 70 * reply),
            reply_bytes: count(connections * 900_000 * reply),
        };
        let rates = |reply| TrafficRates {
            connections_per_second: count(12),
            packets_per_second: count(340),
            bytes_per_second: count(45_678),
            reply_packets_per_second: count(330 * reply),
            reply_bytes_per_second: count(456_780 * reply),
        };
        let reply_of = |server: &RealServerConfig| u64::from(server.forwarding.is_nat());
        let of_server = |server: &RealServerConfig| RealServerStats {
            address: server.address,
            port: server.port,
            counters: counters(1000, reply_of(server)),
            rates: rates(reply_of(server)),
        };
        let reply = service.real_servers.iter().map(reply_of).max().unwrap_or_default();
        ServiceStats {
            service: service.id,
            totals: counters(1234, reply),
            rates: rates(reply),
            real_servers: service.real_servers.iter().map(of_server).collect(),
        }
    }
}

fn not_found() -> ErrorReply {
    ErrorReply::new(ErrorCode::NotFound, "it does not exist")
}

fn apply(config: &mut Config, command: &Command) -> Result<(), ErrorReply> {
    let exists = || ErrorReply::new(ErrorCode::Exists, "it exists already");
    fn find(config: &mut Config, id: ServiceId) -> Result<&mut ServiceConfig, ErrorReply> {
        config.services.iter_mut().find(|service| service.id == id).ok_or_else(not_found)
    }
    match command {
        Command::AddVip(service) => {
            let is_taken = |other: &ServiceConfig| {
                let is_same = other.fwmark == service.fwmark && other.family() == service.family();
                other.id == service.id || other.fwmark.is_some() && is_same
            };
            if config.services.iter().any(is_taken) {
                return Err(exists());
            }
            config.services.push(service.clone());
        }
        Command::SetVip(set) => {
            let service = find(config, set.service)?;
            service.scheduler = set.scheduler.unwrap_or(service.scheduler);
            service.scheduler_flags = set.scheduler_flags.unwrap_or(service.scheduler_flags);
            service.one_packet = set.one_packet.unwrap_or(service.one_packet);
            match set.persistence {
                Some(PersistenceChange::Off) => service.persistence = None,
                Some(PersistenceChange::On(persistence)) => service.persistence = Some(persistence),
                None => {}
            }
        }
        Command::DelVip(one) => {
            find(config, one.service)?;
            config.services.retain(|service| service.id != one.service);
        }
        Command::AddRs(add) => {
            let servers = &mut find(config, add.service)?.real_servers;
            if servers.iter().any(|server| server.id() == add.real_server.id()) {
                return Err(exists());
            }
            servers.push(add.real_server.clone());
        }
        Command::SetRs(set) => {
            let servers = &mut find(config, set.service)?.real_servers;
            let server = servers.iter_mut().find(|server| server.id() == set.real_server);
            let server = server.ok_or_else(not_found)?;
            server.set_forwarding(set.forwarding, set.tunnel, set.client_address);
            server.weight = set.weight.unwrap_or(server.weight);
            server.upper_threshold = set.upper_threshold.unwrap_or(server.upper_threshold);
            server.lower_threshold = set.lower_threshold.unwrap_or(server.lower_threshold);
        }
        Command::DelRs(one) => {
            let servers = &mut find(config, one.service)?.real_servers;
            let count = servers.len();
            servers.retain(|server| server.id() != one.real_server);
            if servers.len() == count {
                return Err(not_found());
            }
        }
        Command::AddLip(one) => {
            let nat = config.nat.get_or_insert_default();
            if nat.local_addresses.contains(&one.address) {
                return Err(exists());
            }
            nat.local_addresses.push(one.address);
        }
        Command::Clear => config.services.clear(),
        Command::Zero(filter) => {
            if let Some(id) = filter.service {
                find(config, id)?;
            }
        }
        Command::SetOptions(set) => {
            let mut options = config.connections.take().unwrap_or_default();
            options.timeouts = set.timeouts.or(&options.timeouts);
            let ConnectionsConfig { sloppy_tcp, creation_rate_per_worker, pmtu_disc, .. } = &mut options;
            *pmtu_disc = set.pmtu_disc.unwrap_or(*pmtu_disc);
            *sloppy_tcp = set.sloppy_tcp.unwrap_or(*sloppy_tcp);
            *creation_rate_per_worker = set.creation_rate_per_worker.unwrap_or(*creation_rate_per_worker);
            config.connections = Some(options);
        }
        Command::Batch(Batch { commands }) => {
            for (index, command) in commands.iter().enumerate() {
                apply(config, command).map_err(|error| ErrorReply { index: Some(index as u32), ..error })?;
            }
        }
        other => panic!("{} is no command of ipvsadm's", other.verb()),
    }
    Ok(())
}

/// The names that the captures have.
pub(crate) struct FixedNames;

const SERVICES: &[(&str, u16, Protocol)] = &[
    ("http", 80, Protocol::Tcp),
    ("https", 443, Protocol::Tcp),
    ("domain", 53, Protocol::Udp),
    ("syslog", 514, Protocol::Udp),
    ("sip", 5060, Protocol::Udp),
];

impl Names for FixedNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        (host == "localhost").then_some(Ipv4Addr::LOCALHOST)
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        let known = SERVICES.iter().find(|(name, _, of)| *name == service && *of == protocol);
        known.map(|(_, port, _)| *port)
    }

    fn host_of(&self, address: IpAddr) -> Option<String> {
        (address == Ipv4Addr::LOCALHOST).then(|| "localhost".to_owned())
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        let known = SERVICES.iter().find(|(_, known, of)| *known == port && *of == protocol);
        known.map(|(name, ..)| (*name).to_owned())
    }
}

/// What a run printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Printed {
    pub(crate) exit_code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the tool. The first word is its name.
pub(crate) fn run(director: &mut dyn Director, words: &[&str], stdin: &str) -> Printed {
    let words: Vec<std::ffi::OsString> = words.iter().map(Into::into).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut stdin = stdin.as_bytes();
    let exit_code =
        ctl::ipvsadm::run_with(&words, director, &FixedNames, &mut stdin, &mut stdout, &mut stderr);
    Printed {
        exit_code,
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// Runs `ipvsadm` with words that have no blanks in them.
pub(crate) fn ipvsadm(director: &mut dyn Director, line: &str) -> Printed {
    let words: Vec<&str> = ["ipvsadm"].into_iter().chain(line.split_whitespace()).collect();
    run(director, &words, "")
}
