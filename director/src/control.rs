//! The owner of all state of the control thread: makes changes, publishes snapshots, and looks every millisecond at what
//! the workers punted, whom to ask for a MAC address, which drains are over and which slots are free again.
//!
//! Control thread only, shared by its tasks through a `RefCell` that is never borrowed across an await. Commands are
//! executed one after the other; only the wait for the workers overlaps, and a later generation implies the earlier.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ctl::config::{Config, ServiceConfig};
use ctl::protocol::{Changed, Command, ErrorReply, Filter, OneRealServer};
use ctl::request::VERBS;
use dataplane::clock::Clock;
use dataplane::counters::WorkerCounters;
use dataplane::host::{HostFrames, HostPath};
use dataplane::mailbox::Publisher;
use dataplane::port::PortStatus;
use dataplane::snapshot::Snapshot;

use crate::alarms::Alarms;
use crate::changes::{self, Circumstances};
use crate::connections::Tables;
use crate::describe::describe;
use crate::draft::{Draft, Settings};
use crate::drain::{Drains, Ended, Moment};
use crate::host_interface::{HostInterfaces, HostThread};
use crate::neighbourhood::Neighbourhood;
use crate::neighbours::Neighbours;
use crate::rate::RateLimit;
use crate::rates::Rates;
use crate::services::Services;
use crate::topology::Topology;
use crate::utc;

/// How often [`Control::tick`] is to be called.
pub const TICK: Duration = Duration::from_millis(1);
/// Snapshots for neighbours alone are at least so far apart, and take at most a quarter of the control thread's time: an
/// RS whose MAC flaps, or thousands that answer one after the other, must not keep it busy. One of 16,000 RSs takes 4 ms.
const NEIGHBOUR_SNAPSHOT_PAUSE: Duration = Duration::from_millis(5);
const NEIGHBOUR_SNAPSHOT_SHARE: u32 = 4;
/// How often slots, old snapshots and links are looked at.
const COLLECT_PAUSE: Duration = Duration::from_millis(100);

/// Drains that end at once and are named in the log; the rest is counted.
const ENDED_DRAINS_LOGGED: usize = 8;

/// The control thread's state as its tasks share it.
pub type SharedControl = Rc<RefCell<Control>>;

/// What the process runs on, in words.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// DPDK's version, or that there is none.
    pub dpdk: String,
    /// What the memory consists of.
    pub memory: String,
    /// What is wrong with that.
    pub memory_warnings: Vec<String>,
    /// What else is not as it should be.
    pub warnings: Vec<String>,
}

/// What [`Control`] is made of.
pub struct ControlParts {
    /// `director`, `ports` and `routes` that run; the rest is what `services` was made with.
    pub config: Config,
    /// The ports, started.
    pub ports: Vec<Box<dyn PortStatus>>,
    /// Their addresses.
    pub topology: Topology,
    /// Frames from and to the workers.
    pub host: Box<dyn HostPath>,
    /// Snapshots to the workers.
    pub publisher: Publisher<Snapshot>,
    /// Numbers of each worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Connections and templates of all workers.
    pub tables: Tables,
    /// The workers' clock.
    pub clock: Clock,
    /// CPU of each worker.
    pub worker_cpus: Vec<usize>,
    /// The services of the first snapshot.
    pub services: Services,
    /// The neighbours of the first snapshot.
    pub neighbours: Neighbours,
    /// Devices through which the host has its part of the traffic.
    pub host_interfaces: HostInterfaces,
    /// The tables have room for IPv6.
    pub has_ipv6: bool,
    /// What it runs on.
    pub platform: Platform,
}

/// See the module.
pub struct Control {
    pub(crate) config: Config,
    pub(crate) ports: Vec<Box<dyn PortStatus>>,
    pub(crate) topology: Topology,
    pub(crate) publisher: Publisher<Snapshot>,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) worker_cpus: Vec<usize>,
    pub(crate) services: Services,
    pub(crate) neighbourhood: Neighbourhood,
    pub(crate) has_ipv6: bool,
    pub(crate) platform: Platform,
    /// Requests since start, by verb and outcome.
    pub(crate) requests: BTreeMap<(&'static str, &'static str), u64>,
    /// Clients of the control socket now.
    pub(crate) clients: usize,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) tables: Tables,
    pub(crate) clock: Clock,
    pub(crate) rates: Rates,
    pub(crate) drains: Drains,
    /// When the next snapshot for neighbours alone may be made.
    neighbours_pause_ends: Duration,
    collected: Duration,
    /// Of each port, when last looked at.
    links_up: Vec<bool>,
    pub(crate) alarms: Alarms,
    log_limit: RateLimit,
}

/// For what others can provoke: ten lines at once, one a second.
pub(crate) fn log_limit() -> RateLimit {
    RateLimit::new(1, 10)
}

/// A change that was published, or that there was nothing to publish for.
#[derive(Clone, Debug)]
pub struct Published {
    /// The generation that has it.
    pub generation: u64,
    /// In words.
    pub changed: Changed,
}

impl Control {
    /// A control thread that has sent nothing yet. VIPs are announced and RSs asked for from the first tick on.
    pub fn new(parts: ControlParts) -> Self {
        let rates = Rates::new(parts.services.slots().capacity());
        let neighbourhood =
            Neighbourhood::new(&parts.topology, parts.neighbours, parts.host, parts.host_interfaces);
        let links_up = parts.ports.iter().map(|port| port.link_is_up()).collect();
        let mut control = Control {
            config: Config { connections: None, nat: None, services: Vec::new(), ..parts.config },
            ports: parts.ports,
            topology: parts.topology,
            publisher: parts.publisher,
            counters: parts.counters,
            worker_cpus: parts.worker_cpus,
            services: parts.services,
            neighbourhood,
            has_ipv6: parts.has_ipv6,
            platform: parts.platform,
            requests: VERBS.iter().map(|verb| ((*verb, "ok"), 0)).collect(),
            clients: 0,
            started: Instant::now(),
            started_at: SystemTime::now(),
            tables: parts.tables,
            clock: parts.clock,
            rates,
            drains: Drains::default(),
            neighbours_pause_ends: Duration::ZERO,
            collected: Duration::ZERO,
            links_up,
            alarms: Alarms::default(),
            log_limit: log_limit(),
        };
        control.follow_addresses(Duration::ZERO);
        let moment = Moment { now: Duration::ZERO, unix_now: utc::now() };
        control.drains.follow(control.services.configured(), control.publisher.generation(), moment);
        control
    }

    /// Starts the thread of the host interfaces, where there are any.
    pub fn start_host_thread(&self, frames: Box<dyn HostFrames>) -> std::io::Result<Option<HostThread>> {
        HostThread::start(self.neighbourhood.host_interfaces(), &self.topology, frames)
    }

    /// As the tasks of the control thread share it.
    pub fn shared(self) -> SharedControl {
        Rc::new(RefCell::new(self))
    }

    /// Time since start: what the state machines count in.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The oldest generation that a worker runs.
    pub fn oldest_running(&self) -> u64 {
        self.publisher.running().min().unwrap_or_else(|| self.publisher.generation())
    }

    /// The newest generation.
    pub fn newest_generation(&self) -> u64 {
        self.publisher.generation()
    }

    /// The configuration that runs.
    pub fn running_config(&self) -> Config {
        let Settings { connections, nat, services } = self.services.settings().clone();
        Config { connections: Some(connections), nat: Some(nat), services, ..self.config.clone() }
    }

    /// Publishes what a command changes, all or nothing; none where it is no change.
    pub fn change(&mut self, command: &Command) -> Result<Option<Published>, ErrorReply> {
        self.services.collect(self.oldest_running());
        let is_acceptable = |candidate: &Settings| {
            self.topology.check_macs(&candidate.services)?;
            self.services.check_room(candidate)
        };
        let circumstances = Circumstances {
            fixed: &self.config,
            has_ipv6: self.has_ipv6,
            unix_now: utc::now(),
            is_acceptable: &is_acceptable,
        };
        let running = self.services.settings();
        let Some(candidate) = changes::candidate(&circumstances, running, command)? else { return Ok(None) };
        let mut changes = describe(running, &candidate);
        let is_dry = matches!(command, Command::Apply(apply) if apply.dry_run);
        if !is_dry && !changes.is_empty() {
            self.adopt(candidate);
        }
        match command {
            Command::Zero(filter) => changes.push(self.zero(filter)),
            Command::Batch(batch) => {
                let zeroed = batch.commands.iter().filter_map(|command| match command {
                    Command::Zero(filter) => Some(self.zero(filter)),
                    _ => None,
                });
                changes.extend(zeroed);
            }
            _ => {}
        }
        Ok(Some(Published { generation: self.publisher.generation(), changed: Changed { changes } }))
    }

    /// Lets counters and rates start at 0 again; in words. The workers have no part in it.
    fn zero(&mut self, filter: &Filter) -> String {
        let now = self.now();
        let zeroed = self.services.zero(filter.service);
        let count = zeroed.len();
        for (service, slots) in zeroed {
            self.rates.reset(service, slots.into_iter(), self.services.slots(), now);
        }
        match filter.service {
            Some(service) => format!("counters of {service} start at 0"),
            None => format!("counters of all {count} virtual services start at 0"),
        }
    }

    fn adopt(&mut self, candidate: Settings) {
        let now = self.now();
        let generation = self.publisher.generation() + 1;
        self.drains.follow(&candidate.services, generation, Moment { now, unix_now: utc::now() });
        self.services.adopt(candidate, generation, self.clock.seconds());
        self.follow_addresses(now);
        self.publish(now);
        // A new RS is asked for at once.
        self.neighbourhood.send_due(&self.topology, now);
    }

    /// Removes real servers that are drained.
    fn end_drains(&mut self, now: Duration) {
        let ended = self.drains.ended(&self.services, self.oldest_running(), now, self.clock.seconds());
        if ended.is_empty() {
            return;
        }
        let mut draft = Draft::new(self.services.settings());
        for (number, Ended { owner, reason }) in ended.iter().enumerate() {
            let remove =
                Command::DelRs(OneRealServer { service: owner.service, real_server: owner.real_server });
            // It is configured: `ended` found its slot.
            let _ = draft.edit(&remove, 0);
            if number < ENDED_DRAINS_LOGGED {
                tracing::info!(
                    "removed drained real server {} from {}: {reason}",
                    owner.real_server,
                    owner.service
                );
            }
        }
        if let Some(more) = ended.len().checked_sub(ENDED_DRAINS_LOGGED).filter(|&more| more > 0) {
            tracing::info!("removed {more} more drained real servers");
        }
        self.adopt(draft.finish());
    }

    /// Neighbours are asked for, and new addresses announced.
    fn follow_addresses(&mut self, now: Duration) {
        let addresses = self.services.configured().iter().flat_map(ServiceConfig::addresses);
        let vips = addresses.map(|address| address.address).collect();
        let local = self.services.nat().local_addresses.iter().copied().collect();
        let wanted = self.services.wanted_neighbours(&self.topology);
        self.neighbourhood.follow(wanted, vips, local, now);
    }

    fn publish(&mut self, now: Duration) {
        let neighbours = &self.neighbourhood.neighbours;
        self.services.compile(&self.topology, neighbours, self.clock.seconds());
        let former = self.neighbourhood.own_addresses.former();
        let snapshot = self.services.snapshot(&self.topology, neighbours, former);
        self.publisher.publish(Arc::new(snapshot));
        self.neighbourhood.snapshot_made();
        let cost = self.now().saturating_sub(now);
        self.neighbours_pause_ends = now + NEIGHBOUR_SNAPSHOT_PAUSE.max(cost * NEIGHBOUR_SNAPSHOT_SHARE);
    }

    /// What is to be done every millisecond.
    pub fn tick(&mut self) {
        let now = self.now();
        self.neighbourhood.take_punted(&self.topology, now);
        self.neighbourhood.send_due(&self.topology, now);
        if self.neighbourhood.has_changed() && now >= self.neighbours_pause_ends {
            self.publish(now);
        }
        if now.saturating_sub(self.collected) >= COLLECT_PAUSE {
            self.collected = now;
            self.publisher.reclaim();
            for text in self.alarms.look(&self.counters, now) {
                tracing::warn!("{text}");
            }
            self.watch_links(now);
            self.services.collect(self.oldest_running());
            if !self.drains.is_empty() {
                self.end_drains(now);
            }
        }
        self.rates.tick(self.services.slots(), now);
    }

    /// Announces again what is answered behind a link that came up.
    fn watch_links(&mut self, now: Duration) {
        for ((port, facts), was_up) in self.ports.iter().zip(&self.topology.ports).zip(&mut self.links_up) {
            let is_up = port.link_is_up();
            if is_up == std::mem::replace(was_up, is_up) {
                continue;
            }
            if is_up {
                self.neighbourhood.link_came_up(&self.topology, facts.id, now);
            }
            if self.log_limit.take(now) {
                tracing::info!("port {}: link {}", facts.name, if is_up { "up" } else { "down" });
            }
        }
    }

    /// Something that others can provoke may be logged: ten at once, one a second.
    pub fn may_log(&mut self) -> bool {
        let now = self.now();
        self.log_limit.take(now)
    }

    /// Counts a request by its verb and outcome.
    pub fn count_request(&mut self, verb: &'static str, outcome: &'static str) {
        *self.requests.entry((verb, outcome)).or_default() += 1;
    }
}
