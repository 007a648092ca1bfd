//! The configured services, compiled into the snapshot that the workers read.
//!
//! Control thread only. A change is adopted as a whole after everything that can fail has been looked at
//! ([`Services::check_room`]); what it does not name keeps its scheduler, its slots and its connections.
//!
//! Invariant: `running` holds exactly the services in `configured`, and each of their real servers has a slot.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use ctl::config::{Protocol, RealServerConfig, ServiceConfig, ServiceId};
use ctl::protocol::{ErrorCode, ErrorReply, TrafficCounters};
use dataplane::snapshot::{self, AddressRole, Destination, DestinationState, PortSnapshot, ServiceKey, Snapshot};
use scheduler::{RealServer, Scheduler};

use crate::neighbours::{Neighbours, Resolution, Wanted};
use crate::slots::{Instance, Owner, Slots};
use crate::topology::Topology;

/// A service that workers know.
#[derive(Debug)]
struct Running {
    instance: Instance,
    scheduler: Scheduler,
    /// Newest first, as `scheduler` was made for.
    real_servers: Vec<RealServer>,
    slots: HashMap<Ipv4Addr, u32>,
    /// What went to real servers that are gone for good.
    retired: TrafficCounters,
}

/// All services.
#[derive(Debug)]
pub struct Services {
    configured: Vec<ServiceConfig>,
    running: HashMap<ServiceId, Running>,
    slots: Slots,
    last_instance: u64,
}

/// Counters of a service and of its real servers, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// All real servers, removed ones too.
    pub total: TrafficCounters,
    /// Each configured one.
    pub real_servers: Vec<TrafficCounters>,
}

impl Services {
    /// No service.
    pub fn new(slots: Slots) -> Self {
        Services { configured: Vec::new(), running: HashMap::new(), slots, last_instance: 0 }
    }

    /// What is configured, oldest first.
    pub fn configured(&self) -> &[ServiceConfig] {
        &self.configured
    }

    /// The slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Slot of a configured real server.
    pub fn slot(&self, service: ServiceId, address: Ipv4Addr) -> Option<u32> {
        self.running.get(&service)?.slots.get(&address).copied()
    }

    /// Every real server of `candidate` would get a slot.
    pub fn check_room(&self, candidate: &[ServiceConfig]) -> Result<(), ErrorReply> {
        let new = owners(candidate).filter(|owner| !self.slots.holds(*owner)).count();
        let (vacant, capacity) = (self.slots.vacant(), self.slots.capacity());
        if new <= vacant {
            return Ok(());
        }
        // A real server removed by this very change keeps its slot until the workers have let go of it.
        let message = format!(
            "{new} more real servers do not fit: {vacant} of {capacity} places are free and {} are held by removed \
             real servers until their connections have expired",
            self.slots.removed()
        );
        let help = "raise director.real_server_capacity and restart, or remove real servers and try again";
        Err(ErrorReply::new(ErrorCode::Full, message).with_help(help))
    }

    /// Makes `candidate` what is configured, from `generation` on. It is valid and has room. The workers see it when
    /// [`Services::compile`] has run and [`Services::snapshot`] is published.
    pub fn adopt(&mut self, candidate: Vec<ServiceConfig>, generation: u64) {
        let wanted: HashSet<Owner> = owners(&candidate).collect();
        for service in &self.configured {
            for owner in owners(std::slice::from_ref(service)).filter(|owner| !wanted.contains(owner)) {
                let running = self.running.get_mut(&service.id());
                if let Some(slot) = running.and_then(|running| running.slots.remove(&owner.address)) {
                    self.slots.remove(slot, generation);
                }
            }
        }
        let ids: HashSet<ServiceId> = candidate.iter().map(ServiceConfig::id).collect();
        self.running.retain(|id, _| ids.contains(id));
        for service in &candidate {
            let running = self.running.entry(service.id()).or_insert_with(|| {
                self.last_instance += 1;
                Running {
                    instance: Instance(self.last_instance),
                    scheduler: Scheduler::new(service.scheduler, &[]),
                    real_servers: Vec::new(),
                    slots: HashMap::new(),
                    retired: TrafficCounters::default(),
                }
            });
            for address in service.real_servers.iter().map(|real_server| real_server.address) {
                if running.slots.contains_key(&address) {
                    continue;
                }
                let slot = self.slots.take(Owner { service: service.id(), address }, running.instance);
                running.slots.insert(address, slot.expect("check_room found a slot for each real server"));
            }
        }
        self.configured = candidate;
    }

    /// Gives slots back whose real servers are gone, given the oldest generation that a worker runs.
    pub fn collect(&mut self, oldest_running: u64) {
        for retired in self.slots.collect(oldest_running) {
            let running = self.running.get_mut(&retired.owner.service);
            if let Some(running) = running.filter(|running| running.instance == retired.instance) {
                running.retired = sum(running.retired, retired.traffic);
            }
        }
    }

    /// The neighbours that the configured real servers need.
    pub fn wanted_neighbours<'a>(&'a self, topology: &'a Topology) -> impl Iterator<Item = Wanted> + 'a {
        self.configured.iter().flat_map(|service| &service.real_servers).filter_map(|real_server| {
            Some(Wanted {
                address: real_server.address,
                route: topology.route(real_server.address)?,
                static_mac: real_server.mac.map(|mac| mac.0),
            })
        })
    }

    /// Brings schedulers and their lists up to date with configuration and neighbours. A service for which nothing
    /// changes keeps what it has.
    pub fn compile(&mut self, neighbours: &Neighbours) {
        for service in &self.configured {
            let Some(running) = self.running.get_mut(&service.id()) else { continue };
            let list = scheduled(service, &running.slots, &self.slots, neighbours);
            let is_same = running.scheduler.algorithm() == service.scheduler;
            if is_same && have_same_schedule(&running.real_servers, &list) {
                continue;
            }
            running.scheduler = match is_same {
                true => running.scheduler.next_version(&running.real_servers, &list),
                false => Scheduler::new(service.scheduler, &list),
            };
            running.real_servers = list;
        }
    }

    /// The snapshot of what is configured.
    pub fn snapshot(&self, topology: &Topology, neighbours: &Neighbours) -> Snapshot {
        let mut snapshot = Snapshot {
            ports: topology.ports.iter().map(|port| PortSnapshot { mac: port.mac }).collect(),
            destinations: vec![Destination::default(); self.slots.length()],
            ..Snapshot::default()
        };
        for service in &self.configured {
            let id = service.id();
            let Some(running) = self.running.get(&id) else { continue };
            for (&address, &slot) in &running.slots {
                let resolution = neighbours.resolution(address);
                snapshot.destinations[slot as usize] = destination(topology, address, resolution);
                if let Some(route) = topology.route(address) {
                    snapshot.addresses.insert(address, AddressRole::RealServer(route.port));
                }
            }
            let compiled = snapshot::Service {
                scheduler: running.scheduler.clone(),
                real_servers: running.real_servers.clone(),
            };
            snapshot.services.insert(key(id), compiled);
        }
        for (slot, ..) in self.slots.all_removed() {
            snapshot.destinations[slot as usize].state = DestinationState::Removed;
        }
        for service in &self.configured {
            snapshot.addresses.insert(service.address, AddressRole::Vip);
        }
        for port in &topology.ports {
            for dip in &port.addresses {
                snapshot.addresses.insert(dip.addr(), AddressRole::Dip(port.id));
            }
        }
        snapshot
    }

    /// Counters of every configured service, in the order of the configuration.
    pub fn traffic(&self) -> Vec<ServiceTraffic> {
        let mut removed: HashMap<(ServiceId, Instance), TrafficCounters> = HashMap::new();
        for (slot, owner, instance) in self.slots.all_removed() {
            let so_far = removed.entry((owner.service, instance)).or_default();
            *so_far = sum(*so_far, self.slots.traffic(slot));
        }
        let of_service = |service: &ServiceConfig| {
            let running = self.running.get(&service.id())?;
            let slots = service.real_servers.iter().map(|real_server| running.slots.get(&real_server.address));
            let traffic = |slot: Option<&u32>| slot.map_or(TrafficCounters::default(), |&slot| self.slots.traffic(slot));
            let real_servers: Vec<_> = slots.map(traffic).collect();
            let gone = removed.get(&(service.id(), running.instance)).copied().unwrap_or_default();
            let total = real_servers.iter().copied().fold(sum(running.retired, gone), sum);
            Some(ServiceTraffic { total, real_servers })
        };
        let none = || ServiceTraffic { total: TrafficCounters::default(), real_servers: Vec::new() };
        self.configured.iter().map(|service| of_service(service).unwrap_or_else(none)).collect()
    }
}

fn owners(services: &[ServiceConfig]) -> impl Iterator<Item = Owner> + '_ {
    services.iter().flat_map(|service| {
        let real_servers = service.real_servers.iter();
        real_servers.map(|real_server| Owner { service: service.id(), address: real_server.address })
    })
}

fn sum(a: TrafficCounters, b: TrafficCounters) -> TrafficCounters {
    TrafficCounters {
        connections: a.connections.wrapping_add(b.connections),
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
    }
}

/// The weight that counts for new connections.
pub fn effective_weight(real_server: &RealServerConfig) -> u16 {
    if real_server.drain { 0 } else { real_server.weight }
}

/// Newest first: IPVS inserts at the head of its list, and ties go to the first.
fn scheduled(
    service: &ServiceConfig,
    numbers: &HashMap<Ipv4Addr, u32>,
    slots: &Slots,
    neighbours: &Neighbours,
) -> Vec<RealServer> {
    let compiled = service.real_servers.iter().rev().filter_map(|real_server| {
        let id = *numbers.get(&real_server.address)?;
        Some(RealServer {
            id,
            weight: u32::from(effective_weight(real_server)),
            available: neighbours.resolution(real_server.address).is_usable,
            counts: slots.counts(id).clone(),
        })
    });
    compiled.collect()
}

fn have_same_schedule(a: &[RealServer], b: &[RealServer]) -> bool {
    let facts = |real_server: &RealServer| (real_server.id, real_server.weight, real_server.available);
    a.iter().map(facts).eq(b.iter().map(facts))
}

fn destination(topology: &Topology, address: Ipv4Addr, resolution: Resolution) -> Destination {
    let port = topology.route(address).and_then(|route| topology.ports.get(route.port.index()));
    let (Some(port), Some(mac)) = (port, resolution.mac) else {
        return Destination { state: DestinationState::Unresolved, ..Destination::default() };
    };
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&mac);
    macs[6..].copy_from_slice(&port.mac);
    Destination { macs, port: port.id, state: DestinationState::Forwarding, mtu: port.mtu }
}

/// The protocol as workers name it.
pub fn wire_protocol(protocol: Protocol) -> snapshot::Protocol {
    match protocol {
        Protocol::Tcp => snapshot::Protocol::TCP,
        Protocol::Udp => snapshot::Protocol::UDP,
    }
}

fn key(id: ServiceId) -> ServiceKey {
    ServiceKey { address: id.address, port: id.port, protocol: wire_protocol(id.protocol) }
}
