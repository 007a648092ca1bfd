//! The configured services and what is kept of them between changes: slots, cursors, counters, numbers of groups.
//!
//! Control thread only. A change is adopted as a whole after everything that can fail has been looked at
//! ([`Services::check_room`]); what it does not name keeps its scheduler, its slots and its connections. What the workers
//! read is made of it in `services/compile.rs`.
//!
//! Invariant: `running` holds exactly the services in `settings`, and each of their real servers has a slot.

mod compile;
mod group_numbers;
pub(crate) mod local_addresses;
mod network;
mod timeouts;
mod ways;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ctl::config::{
    DirectorConfig, Family, GroupName, NatConfig, Netmask, Protocol, RealServerConfig, RealServerId,
    ServiceConfig, ServiceId,
};
use ctl::protocol::{ErrorCode, ErrorReply, TrafficCounters};
use dataplane::connection::StateTimeouts;
use dataplane::{snapshot, stateless};
use scheduler::Thresholds;

use crate::draft::Settings;
use crate::neighbours::Wanted;
use crate::slots::{Instance, Owner, Slots};
use crate::topology::{Route, Topology};
use crate::traffic::{difference, sum};
use group_numbers::GroupNumbers;

/// A service that workers know.
#[derive(Debug)]
struct Running {
    instance: Instance,
    /// When it became one, in seconds of the workers' clock.
    since_seconds: u32,
    /// What its group's templates are kept under; none where it is no group.
    group: Option<u32>,
    /// What the workers have; none before the first [`Services::compile`].
    compiled: Option<Arc<snapshot::Service>>,
    real_servers: HashMap<RealServerId, RunningRealServer>,
    /// What went to real servers that are gone for good.
    retired: TrafficCounters,
    /// What of all its traffic is not shown since it was zeroed.
    zeroed: TrafficCounters,
}

/// A configured real server of a running service.
#[derive(Clone, Copy, Debug)]
struct RunningRealServer {
    slot: u32,
    /// How it is reached, which never changes; none before it is compiled.
    route: Option<Route>,
    /// The last weight over 0 that it had.
    last_weight: u16,
    /// When its slow start began.
    joined_seconds: Option<u32>,
    /// It had MAC and weight when last compiled.
    is_eligible: bool,
    /// It had a MAC then.
    is_available: bool,
}

/// All services.
#[derive(Debug)]
pub struct Services {
    settings: Settings,
    running: HashMap<ServiceId, Running>,
    slots: Slots,
    numbers: GroupNumbers,
    /// Of the last [`Services::compile`].
    timeouts: Vec<StateTimeouts>,
    last_instance: u64,
    limits: Limits,
}

/// What workers may originate and hand on, fixed from start to end.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    icmp_packets_per_second: u32,
    host_packets_per_second: u32,
}

/// Counters of a service and of its real servers, in the order of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// All real servers, removed ones too.
    pub total: TrafficCounters,
    /// Each configured one.
    pub real_servers: Vec<TrafficCounters>,
}

/// From when on counters count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Their beginning: for Prometheus, whose counters must not go back.
    Ever,
    /// The last `zero`: for people.
    Zeroed,
}

impl Services {
    /// No service, under a director of these capacities.
    pub fn new(slots: Slots, director: &DirectorConfig) -> Self {
        Services {
            settings: Settings::default(),
            running: HashMap::new(),
            slots,
            numbers: GroupNumbers::default(),
            timeouts: Vec::new(),
            last_instance: 0,
            limits: Limits {
                icmp_packets_per_second: director.icmp_packets_per_second,
                host_packets_per_second: director.host_packets_per_second,
            },
        }
    }

    /// What is configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The configured services, oldest first.
    pub fn configured(&self) -> &[ServiceConfig] {
        &self.settings.services
    }

    /// Full NAT's addresses.
    pub fn nat(&self) -> &NatConfig {
        &self.settings.nat
    }

    /// The configured service of this name.
    pub fn find(&self, id: ServiceId) -> Option<&ServiceConfig> {
        self.settings.services.iter().find(|service| service.id == id)
    }

    /// The slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Slot of a configured real server.
    pub fn slot(&self, service: ServiceId, real_server: RealServerId) -> Option<u32> {
        Some(self.running.get(&service)?.real_servers.get(&real_server)?.slot)
    }

    /// Packets of connections that nobody keeps may still come to this service. `now_seconds` is of the workers' clock.
    pub fn may_have_stateless(&self, service: ServiceId, now_seconds: u32) -> bool {
        let compiled = self.running.get(&service).and_then(|running| running.compiled.as_ref());
        compiled.is_some_and(|compiled| {
            let timeouts = self.timeouts.get(usize::from(compiled.timeouts)).unwrap_or(&StateTimeouts::IPVS);
            let seconds = stateless::longest_silence_seconds(timeouts);
            compiled.stateless.was_any_within(seconds, now_seconds)
        })
    }

    /// Which of all services that ever had this name runs.
    pub fn instance(&self, service: ServiceId) -> Option<Instance> {
        self.running.get(&service).map(|running| running.instance)
    }

    /// The published snapshot has a MAC of this real server's next hop.
    pub fn is_available(&self, service: ServiceId, real_server: RealServerId) -> bool {
        let running = self.running.get(&service).and_then(|running| running.real_servers.get(&real_server));
        running.is_some_and(|real_server| real_server.is_available)
    }

    /// Every real server of `candidate` would get a slot.
    pub fn check_room(&self, candidate: &Settings) -> Result<(), ErrorReply> {
        let new = owners(&candidate.services).filter(|owner| !self.slots.holds(*owner)).count();
        let (vacant, capacity) = (self.slots.vacant(), self.slots.capacity());
        if new <= vacant {
            return Ok(());
        }
        // A real server removed by this very change keeps its slot until the workers have let go of it.
        let message = format!(
            "{new} more real servers do not fit: {vacant} of {capacity} places are free and {} are held by removed \
             real servers until their connections and persistent clients are gone",
            self.slots.removed()
        );
        let help = "raise director.real_server_capacity and restart, or remove real servers and try again";
        Err(ErrorReply::new(ErrorCode::Full, message).with_help(help))
    }

    /// Makes `candidate` what is configured, from `generation` on. It is valid and has room. The workers see it when
    /// [`Services::compile`] has run and [`Services::snapshot`] is published.
    pub fn adopt(&mut self, candidate: Settings, generation: u64, now_seconds: u32) {
        self.let_go(&candidate.services, generation);
        for service in &candidate.services {
            self.take_on(service, now_seconds);
        }
        self.settings = candidate;
        self.forget_groups();
    }

    /// Removes what is not among `candidate`.
    fn let_go(&mut self, candidate: &[ServiceConfig], generation: u64) {
        let wanted: HashSet<Owner> = owners(candidate).collect();
        for service in &self.settings.services {
            for owner in owners(std::slice::from_ref(service)).filter(|owner| !wanted.contains(owner)) {
                let running = self.running.get_mut(&service.id);
                let gone = running.and_then(|running| running.real_servers.remove(&owner.real_server));
                if let Some(gone) = gone {
                    self.slots.remove(gone.slot, generation);
                }
            }
        }
        let ids: HashSet<ServiceId> = candidate.iter().map(|service| service.id).collect();
        self.running.retain(|id, _| ids.contains(id));
    }

    fn take_on(&mut self, service: &ServiceConfig, now_seconds: u32) {
        let running = self.running.entry(service.id).or_insert_with(|| {
            self.last_instance += 1;
            Running {
                instance: Instance(self.last_instance),
                since_seconds: now_seconds,
                group: None,
                compiled: None,
                real_servers: HashMap::new(),
                retired: TrafficCounters::default(),
                zeroed: TrafficCounters::default(),
            }
        });
        running.group = match service.id {
            ServiceId::Virtual(_) => None,
            ServiceId::Group(name) => Some(self.numbers.of(name)),
        };
        for real_server in &service.real_servers {
            let id = real_server.id();
            let entry = running.real_servers.entry(id).or_insert_with(|| {
                let owner = Owner { service: service.id, real_server: id };
                let slot = self.slots.take(owner, running.instance);
                RunningRealServer {
                    slot: slot.expect("check_room found a slot for each real server"),
                    route: None,
                    last_weight: 0,
                    joined_seconds: None,
                    is_eligible: false,
                    is_available: false,
                }
            });
            if real_server.weight > 0 {
                entry.last_weight = real_server.weight;
            }
            let thresholds =
                Thresholds { upper: real_server.upper_threshold, lower: real_server.lower_threshold };
            self.slots.set_thresholds(entry.slot, thresholds);
            self.slots.set_forwarding(entry.slot, real_server.forwarding);
        }
    }

    /// Gives slots back whose real servers are gone, given the oldest generation that a worker runs.
    pub fn collect(&mut self, oldest_running: u64) {
        for retired in self.slots.collect(oldest_running) {
            let running = self.running.get_mut(&retired.owner.service);
            if let Some(running) = running.filter(|running| running.instance == retired.instance) {
                running.retired = sum(running.retired, retired.traffic);
            }
        }
        self.forget_groups();
    }

    /// A group that comes again finds its templates while a slot is left that they may name.
    fn forget_groups(&mut self) {
        let is_gone = |name: &GroupName| !self.running.contains_key(&ServiceId::Group(*name));
        if self.numbers.names().any(is_gone) {
            let left: HashSet<ServiceId> =
                self.slots.all_removed().map(|(_, owner, _)| owner.service).collect();
            self.numbers.retain(|name| !is_gone(name) || left.contains(&ServiceId::Group(*name)));
        }
    }

    /// The neighbours that the configured real servers and routes need: a MAC that the configuration gives is the real
    /// server's, not its gateway's.
    pub fn wanted_neighbours<'a>(&'a self, topology: &'a Topology) -> impl Iterator<Item = Wanted> + 'a {
        let real_servers = self.settings.services.iter().flat_map(|service| &service.real_servers);
        let real_servers = real_servers.filter_map(|real_server| {
            let route = topology.route(real_server.address)?;
            let own_mac = real_server.mac.filter(|_| route.next_hop == real_server.address);
            Some(Wanted { route, static_mac: own_mac.map(|mac| mac.0) })
        });
        let gateways = topology.routes().iter().map(|(_, route)| Wanted { route: *route, static_mac: None });
        real_servers.chain(gateways)
    }

    /// Counters of every configured service, in the order of the configuration.
    pub fn traffic(&self, since: Since) -> Vec<ServiceTraffic> {
        let removed = self.removed_traffic();
        let services = self.settings.services.iter();
        services.map(|service| self.traffic_of(service, since, &removed).unwrap_or_default()).collect()
    }

    fn removed_traffic(&self) -> HashMap<(ServiceId, Instance), TrafficCounters> {
        let mut removed = HashMap::new();
        for (slot, owner, instance) in self.slots.all_removed() {
            let so_far = removed.entry((owner.service, instance)).or_default();
            *so_far = sum(*so_far, self.slots.traffic(slot));
        }
        removed
    }

    fn traffic_of(
        &self,
        service: &ServiceConfig,
        since: Since,
        removed: &HashMap<(ServiceId, Instance), TrafficCounters>,
    ) -> Option<ServiceTraffic> {
        let running = self.running.get(&service.id)?;
        let gone = removed.get(&(service.id, running.instance)).copied().unwrap_or_default();
        let mut total = sum(running.retired, gone);
        let mut real_servers = Vec::with_capacity(service.real_servers.len());
        for real_server in &service.real_servers {
            let slot = running.real_servers.get(&real_server.id())?.slot;
            total = sum(total, self.slots.traffic(slot));
            real_servers.push(match since {
                Since::Ever => self.slots.traffic(slot),
                Since::Zeroed => self.slots.traffic_since_zeroed(slot),
            });
        }
        if since == Since::Zeroed {
            total = difference(total, running.zeroed);
        }
        Some(ServiceTraffic { total, real_servers })
    }

    /// Lets the counters that people see start at 0 again; none: those of every service. The slots whose rates start
    /// again too, by service.
    pub fn zero(&mut self, only: Option<ServiceId>) -> Vec<(ServiceId, Vec<u32>)> {
        let totals = self.traffic(Since::Ever);
        let mut zeroed = Vec::new();
        for (service, traffic) in self.settings.services.iter().zip(totals) {
            let Some(running) = self.running.get_mut(&service.id) else { continue };
            if only.is_none_or(|id| id == service.id) {
                running.zeroed = traffic.total;
                let slots: Vec<u32> =
                    running.real_servers.values().map(|real_server| real_server.slot).collect();
                slots.iter().for_each(|&slot| self.slots.zero(slot));
                zeroed.push((service.id, slots));
            }
        }
        zeroed
    }
}

fn owners(services: &[ServiceConfig]) -> impl Iterator<Item = Owner> + '_ {
    services.iter().flat_map(|service| {
        let real_servers = service.real_servers.iter();
        real_servers.map(|real_server| Owner { service: service.id, real_server: real_server.id() })
    })
}

/// The weight that counts for new connections.
pub fn effective_weight(real_server: &RealServerConfig) -> u16 {
    if real_server.drain.is_some() { 0 } else { real_server.weight }
}

/// The bits of a persistent client's address that count in `family`, as workers have them.
pub fn client_mask(netmask: Netmask, family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(netmask.mask().to_bits()),
        Family::V6 => u128::MAX.checked_shl(128 - u32::from(netmask.prefix_length())).unwrap_or(0),
    }
}

/// The protocol as workers name it.
pub fn wire_protocol(protocol: Protocol) -> snapshot::Protocol {
    match protocol {
        Protocol::Tcp => snapshot::Protocol::TCP,
        Protocol::Udp => snapshot::Protocol::UDP,
        Protocol::Sctp => snapshot::Protocol::SCTP,
    }
}

#[cfg(test)]
mod tests;
