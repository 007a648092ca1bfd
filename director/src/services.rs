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
use dataplane::snapshot::{
    self, AddressRole, Destination, DestinationState, PortSnapshot, ServiceKey, Snapshot,
};
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
    /// Those of them that may get connections, weight apart.
    available: HashSet<Ipv4Addr>,
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
                    available: HashSet::new(),
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
            running.available = service
                .real_servers
                .iter()
                .map(|real_server| real_server.address)
                .filter(|&address| neighbours.resolution(address).is_usable)
                .collect();
            running.real_servers = list;
        }
    }

    /// The published snapshot has a MAC for this real server.
    pub fn is_available(&self, service: ServiceId, address: Ipv4Addr) -> bool {
        self.running.get(&service).is_some_and(|running| running.available.contains(&address))
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
            let slots =
                service.real_servers.iter().map(|real_server| running.slots.get(&real_server.address));
            let traffic = |slot: Option<&u32>| {
                slot.map_or(TrafficCounters::default(), |&slot| self.slots.traffic(slot))
            };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ctl::config::Config;
    use dataplane::counters::WorkerCounters;
    use dataplane::snapshot::{SharedCounts, shared_counts};

    use super::*;
    use crate::topology::two_ports;

    const CAPACITY: usize = 4;

    /// Services over two ports, one worker that follows at once.
    struct Rig {
        services: Services,
        neighbours: Neighbours,
        topology: Topology,
        counts: SharedCounts,
        counters: Arc<WorkerCounters>,
        generation: u64,
    }

    impl Rig {
        fn new(services: &str) -> Rig {
            let counts = shared_counts(CAPACITY);
            let counters = WorkerCounters::new(CAPACITY);
            let slots = Slots::new(counts.clone(), vec![counters.clone()]);
            let mut rig = Rig {
                services: Services::new(slots),
                neighbours: Neighbours::default(),
                topology: two_ports(),
                counts,
                counters,
                generation: 0,
            };
            rig.change(services).unwrap();
            rig
        }

        /// `tcp 80 rr: 11, 12*2, 13=` is the VIP 192.0.2.10 with real servers 10.0.0.11 and so on; `*` gives a weight,
        /// `=` leaves the MAC to ARP.
        fn change(&mut self, services: &str) -> Result<Snapshot, ErrorReply> {
            let candidate = parse(services);
            self.services.collect(self.generation);
            self.services.check_room(&candidate)?;
            self.generation += 1;
            self.services.adopt(candidate, self.generation);
            self.neighbours.retain_wanted(self.services.wanted_neighbours(&self.topology), Duration::ZERO);
            Ok(self.snapshot())
        }

        fn snapshot(&mut self) -> Snapshot {
            self.services.compile(&self.neighbours);
            self.services.snapshot(&self.topology, &self.neighbours)
        }

        fn slot(&self, host: u8) -> u32 {
            self.services.slot(parse("tcp 80 rr:")[0].id(), Ipv4Addr::new(10, 0, 0, host)).unwrap()
        }

        fn send(&self, slot: u32, packets: u64) {
            self.counters.destinations[slot as usize].packets.add(packets);
        }

        fn total(&self) -> u64 {
            self.services.traffic()[0].total.packets
        }
    }

    fn parse(services: &str) -> Vec<ServiceConfig> {
        let mut text = String::new();
        for line in services.split(';').map(str::trim).filter(|line| !line.is_empty()) {
            let (head, real_servers) = line.split_once(':').unwrap();
            let head: Vec<_> = head.split(' ').collect();
            text += &format!(
                "[[services]]\naddress = '192.0.2.10'\nprotocol = '{}'\nport = {}\nscheduler = '{}'\n",
                head[0], head[1], head[2]
            );
            for one in real_servers.split(',').map(str::trim).filter(|one| !one.is_empty()) {
                let (name, by_arp) = one.strip_suffix('=').map_or((one, false), |name| (name, true));
                let (host, weight) = name.split_once('*').unwrap_or((name, "1"));
                text += &format!("[[services.real_servers]]\naddress = '10.0.0.{host}'\nweight = {weight}\n");
                text += &if by_arp { String::new() } else { format!("mac = '02:00:00:00:00:{host}'\n") };
            }
        }
        Config::from_toml(&text, "test").unwrap().services
    }

    fn picks(snapshot: &Snapshot, port: u16, count: usize) -> Vec<u32> {
        let key =
            ServiceKey { address: Ipv4Addr::new(192, 0, 2, 10), port, protocol: snapshot::Protocol::TCP };
        let service = &snapshot.services[&key];
        let pick =
            || service.scheduler.schedule(&service.real_servers).map(|index| service.real_servers[index].id);
        (0..count).filter_map(|_| pick()).collect()
    }

    #[test]
    fn snapshot_holds_services_destinations_and_every_address_with_its_role() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12=");
        let snapshot = rig.snapshot();
        assert_eq!(snapshot.destinations.len(), 2);
        let resolved = snapshot.destinations[rig.slot(11) as usize];
        assert_eq!(resolved.macs, [2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 1, 0]);
        assert_eq!((resolved.state, resolved.mtu, resolved.port.0), (DestinationState::Forwarding, 1500, 0));
        assert_eq!(snapshot.destinations[rig.slot(12) as usize].state, DestinationState::Unresolved);
        let role = |text: &str| snapshot.addresses.get(&text.parse::<Ipv4Addr>().unwrap()).copied();
        assert_eq!(role("192.0.2.10"), Some(AddressRole::Vip));
        assert_eq!(role("10.0.0.11"), Some(AddressRole::RealServer(dataplane::port::PortId(0))));
        assert_eq!(role("192.0.2.1"), Some(AddressRole::Dip(dataplane::port::PortId(1))));
        assert_eq!(role("10.0.0.13"), None);
        assert_eq!(snapshot.addresses.len(), 3 + 1 + 2);
        let slot = rig.slot(11);
        assert_eq!(picks(&snapshot, 80, 3), [slot; 3], "12 has no MAC");
    }

    #[test]
    fn newest_real_server_comes_first_for_the_scheduler() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12");
        let snapshot = rig.change("tcp 80 rr: 11, 12, 13").unwrap();
        let key =
            ServiceKey { address: Ipv4Addr::new(192, 0, 2, 10), port: 80, protocol: snapshot::Protocol::TCP };
        let ids: Vec<_> =
            snapshot.services[&key].real_servers.iter().map(|real_server| real_server.id).collect();
        assert_eq!(ids, [rig.slot(13), rig.slot(12), rig.slot(11)]);
    }

    #[test]
    fn untouched_service_keeps_its_cursor_through_changes_of_others() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12; tcp 81 wrr: 11");
        let before = rig.snapshot();
        let first = picks(&before, 80, 1);
        let after = rig.change("tcp 80 rr: 11, 12; tcp 81 wlc: 11*7, 12").unwrap();
        let second = picks(&after, 80, 1);
        assert_ne!(first, second, "round robin went on");
        assert_eq!(picks(&before, 80, 1), first, "a worker on the old snapshot shares the cursor");
    }

    #[test]
    fn removed_real_server_holds_its_slot_and_comes_back_to_it() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12");
        let slot = rig.slot(12);
        rig.counts[slot as usize].open();
        let removed = rig.change("tcp 80 rr: 11").unwrap();
        assert_eq!(removed.destinations[slot as usize].state, DestinationState::Removed);
        assert_eq!(picks(&removed, 80, 4), [rig.slot(11); 4]);
        let others = rig.change("tcp 80 rr: 11, 13, 14").unwrap();
        assert_eq!(others.destinations[slot as usize].state, DestinationState::Removed);
        let error = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap_err();
        assert_eq!(error.code, ErrorCode::Full);
        assert!(error.message.contains("1 are held by removed"), "{}", error.message);
        let back = rig.change("tcp 80 rr: 11, 13, 14, 12").unwrap();
        assert_eq!(rig.slot(12), slot);
        assert_eq!(back.destinations[slot as usize].state, DestinationState::Forwarding);
    }

    #[test]
    fn slot_is_free_again_when_its_last_connection_is_gone() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12");
        let slot = rig.slot(12);
        rig.counts[slot as usize].open();
        rig.change("tcp 80 rr: 11").unwrap();
        rig.change("tcp 80 rr: 11, 13, 14").unwrap();
        rig.counts[slot as usize].close(false);
        let reused = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap();
        assert_eq!(rig.slot(15), slot);
        assert_eq!(reused.destinations[slot as usize].macs[5], 0x15);
    }

    #[test]
    fn refused_change_changes_nothing() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12, 13, 14");
        let before = format!("{:?}", rig.snapshot().destinations);
        let configured = rig.services.configured().to_vec();
        assert!(rig.change("tcp 80 rr: 11, 12, 13, 14, 15; tcp 81 rr: 16").is_err());
        assert_eq!(format!("{:?}", rig.snapshot().destinations), before);
        assert_eq!(rig.services.configured(), configured);
        assert_eq!(rig.services.slots().vacant(), 0);
    }

    #[test]
    fn service_total_never_goes_back_when_real_servers_come_and_go() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12");
        rig.send(rig.slot(11), 10);
        let slot = rig.slot(12);
        rig.send(slot, 5);
        rig.counts[slot as usize].open();
        assert_eq!(rig.total(), 15);
        rig.change("tcp 80 rr: 11").unwrap();
        assert_eq!(rig.total(), 15, "12 is removed and has a connection");
        rig.counts[slot as usize].close(false);
        rig.services.collect(rig.generation);
        assert_eq!(rig.total(), 15, "12 is gone");
        rig.change("tcp 80 rr: 11, 13").unwrap();
        assert_eq!(rig.slot(13), slot);
        assert_eq!(rig.services.traffic()[0].real_servers[1].packets, 0, "13 starts at nothing");
        rig.send(slot, 2);
        assert_eq!(rig.total(), 17);
        rig.change("").unwrap();
        rig.change("tcp 80 rr: 11").unwrap();
        assert_eq!(rig.total(), 0, "a new service of the same name starts again");
    }

    #[test]
    fn failed_neighbour_gets_no_new_connections_and_keeps_the_old() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12=");
        let address = Ipv4Addr::new(10, 0, 0, 12);
        let mac = [2, 0, 0, 0, 0, 0x12];
        rig.neighbours.hear(dataplane::port::PortId(0), address, mac, Duration::ZERO);
        let (slot, other) = (rig.slot(12), rig.slot(11));
        assert!(picks(&rig.snapshot(), 80, 2).contains(&slot));
        for second in 30..40 {
            rig.neighbours.poll(Duration::from_secs(second), |_| {});
        }
        let snapshot = rig.snapshot();
        assert_eq!(picks(&snapshot, 80, 2), [other; 2]);
        assert_eq!(snapshot.destinations[slot as usize].state, DestinationState::Forwarding);
        assert_eq!(snapshot.destinations[slot as usize].macs[..6], mac);
    }

    #[test]
    fn draining_and_weight_zero_get_nothing_and_a_new_scheduler_starts_anew() {
        let mut rig = Rig::new("tcp 80 rr: 11, 12");
        let mut candidate = parse("tcp 80 rr: 11, 12");
        candidate[0].real_servers[0].drain = true;
        rig.services.adopt(candidate, 2);
        let (first, second) = (rig.slot(11), rig.slot(12));
        assert_eq!(picks(&rig.snapshot(), 80, 3), [second; 3]);
        let snapshot = rig.change("tcp 80 wrr: 11*2, 12*0").unwrap();
        assert_eq!(picks(&snapshot, 80, 3), [first; 3]);
    }
}
