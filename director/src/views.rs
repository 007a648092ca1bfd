//! What `show`, `stats`, `neighbours` and `status` answer: the state in the protocol's words. Reads, changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ctl::config::{ConnectionsConfig, Forwarding, RealServerConfig, ServiceConfig, Timeouts};
use ctl::mac::MacAddress;
use ctl::protocol::{
    ErrorReply, Filter, NeighbourState, NeighbourView, Neighbours, PacketTotals, PortStats, PortView,
    RealServerState, RealServerStats, RealServerView, ServiceStats, ServiceView, Show, Stats, Status,
    VlanView, WorkerStats,
};
use dataplane::counters::WorkerCounters;
use dataplane::verdict::{DropReason, StatelessReason};

use crate::control::Control;
use crate::draft::no_service;
use crate::services::local_addresses::LocalPools;
use crate::services::{ServiceTraffic, Since};
use crate::slots::Owner;
use crate::topology::Interface;

/// Names listed in one warning; the rest is counted.
const NAMED_IN_WARNING: usize = 5;

impl Control {
    /// Answers `show`.
    pub fn show(&self, filter: &Filter) -> Result<Show, ErrorReply> {
        let mut services: Vec<_> =
            self.filtered(filter)?.into_iter().map(|(_, service)| self.service_view(service)).collect();
        services.sort_unstable_by_key(|view| view.service.id);
        Ok(Show { services })
    }

    fn filtered(&self, filter: &Filter) -> Result<Vec<(usize, &ServiceConfig)>, ErrorReply> {
        let all = self.services.configured().iter().enumerate();
        let Some(id) = filter.service else { return Ok(all.collect()) };
        let mut found = all.filter(|(_, service)| service.id() == id);
        found.next().map(|one| vec![one]).ok_or_else(|| no_service(id))
    }

    fn service_view(&self, service: &ServiceConfig) -> ServiceView {
        let mut real_servers: Vec<_> = service
            .real_servers
            .iter()
            .map(|real_server| self.real_server_view(service, real_server))
            .collect();
        real_servers.sort_unstable_by_key(RealServerView::id);
        let service = ServiceConfig {
            id: service.id,
            members: service.members.clone(),
            group_family: service.group_family,
            fwmark: service.fwmark,
            scheduler: service.scheduler,
            scheduler_flags: service.scheduler_flags,
            slow_start_seconds: service.slow_start_seconds,
            persistence: service.persistence,
            one_packet: service.one_packet,
            timeouts: service.timeouts,
            real_servers: Vec::new(),
        };
        ServiceView { service, real_servers }
    }

    fn real_server_view(&self, service: &ServiceConfig, real_server: &RealServerConfig) -> RealServerView {
        let (address, id) = (real_server.address, real_server.id());
        let slot = self.services.slot(service.id(), id);
        let connections = slot.map(|slot| self.services.slots().counts(slot).load()).unwrap_or_default();
        let owner = Owner { service: service.id(), real_server: id };
        let route = self.topology.route(address);
        RealServerView {
            address,
            port: real_server.port,
            forwarding: real_server.forwarding,
            tunnel: real_server.tunnel(),
            client_address: real_server.client_address,
            weight: real_server.weight,
            state: self.real_server_state(service, real_server),
            mac: route.and_then(|route| self.neighbourhood.neighbours.resolution(&route).mac).map(MacAddress),
            interface: route.map_or("", |route| self.topology.name(route.interface)).to_owned(),
            gateway: route.map(|route| route.next_hop).filter(|next_hop| *next_hop != address),
            active_connections: connections.active,
            inactive_connections: connections.inactive,
            persistent_connections: slot.map_or(0, |slot| self.services.slots().templates(slot)),
            upper_threshold: real_server.upper_threshold,
            lower_threshold: real_server.lower_threshold,
            drain: real_server.drain,
            drain_seconds_left: self.drains.seconds_left(owner, self.now()),
        }
    }

    /// As the workers have it, not as ARP will soon make it.
    fn real_server_state(&self, service: &ServiceConfig, real_server: &RealServerConfig) -> RealServerState {
        if !self.services.is_available(service.id(), real_server.id()) {
            RealServerState::Unresolved
        } else if real_server.drain.is_some() {
            RealServerState::Draining
        } else if real_server.weight == 0 {
            RealServerState::Quiesced
        } else if self.is_overloaded(service, real_server) {
            RealServerState::Overloaded
        } else {
            RealServerState::Up
        }
    }

    /// It has reached its upper threshold, whatever else keeps it from new connections.
    fn is_overloaded(&self, service: &ServiceConfig, real_server: &RealServerConfig) -> bool {
        let slot = self.services.slot(service.id(), real_server.id());
        slot.is_some_and(|slot| self.services.slots().counts(slot).is_overloaded())
    }

    /// Answers `stats`.
    pub fn stats(&self, filter: &Filter) -> Result<Stats, ErrorReply> {
        self.stats_since(filter, Since::Zeroed)
    }

    /// The same with counters of services and real servers since `since`.
    pub fn stats_since(&self, filter: &Filter, since: Since) -> Result<Stats, ErrorReply> {
        let services = self.filtered(filter)?;
        let traffic = self.services.traffic(since);
        let mut services: Vec<_> = services
            .into_iter()
            .map(|(place, service)| self.service_stats(service, &traffic[place]))
            .collect();
        services.sort_unstable_by_key(|stats| stats.service);
        let workers = self.worker_stats();
        let totals = workers.iter().fold(PacketTotals::default(), |sum, worker| add(sum, &worker.packets));
        Ok(Stats { services, totals, workers, ports: self.port_stats() })
    }

    fn service_stats(&self, service: &ServiceConfig, traffic: &ServiceTraffic) -> ServiceStats {
        let id = service.id();
        let instance = self.services.instance(id);
        let rates_of = |real_server| {
            let (slot, instance) = (self.services.slot(id, real_server)?, instance?);
            Some(self.rates.of_slot(slot, (Owner { service: id, real_server }, instance)))
        };
        let ids = service.real_servers.iter().map(RealServerConfig::id);
        let mut real_servers: Vec<_> = ids
            .zip(&traffic.real_servers)
            .map(|(id, &counters)| RealServerStats {
                address: id.address,
                port: id.port,
                counters,
                rates: rates_of(id).unwrap_or_default(),
            })
            .collect();
        real_servers.sort_unstable_by_key(RealServerStats::id);
        let rates = instance.map(|instance| self.rates.of_service(id, instance)).unwrap_or_default();
        ServiceStats { service: id, totals: traffic.total, rates, real_servers }
    }

    fn worker_stats(&self) -> Vec<WorkerStats> {
        let running = self.publisher.running();
        let workers =
            self.counters.iter().zip(running).enumerate().map(|(worker, (counters, generation))| {
                WorkerStats {
                    worker: worker as u32,
                    cpu: self.worker_cpus.get(worker).copied().unwrap_or_default() as u32,
                    packets: packet_totals(counters),
                    control_frames_sent: counters.control_sent.load(),
                    connections: counters.connections.load(),
                    connection_capacity: u64::from(self.config.director.connection_capacity_per_worker),
                    stateless: StatelessReason::ALL
                        .iter()
                        .map(|&reason| (reason.name().to_owned(), counters.stateless(reason)))
                        .collect(),
                    generation,
                }
            });
        workers.collect()
    }

    fn port_stats(&self) -> Vec<PortStats> {
        let named = self.topology.ports.iter().zip(&self.ports);
        let ports = named.map(|(facts, port)| {
            let statistics = port.statistics();
            PortStats {
                port: facts.name.clone(),
                link_is_up: statistics.link_is_up,
                rx_packets: statistics.rx_packets,
                rx_bytes: statistics.rx_bytes,
                tx_packets: statistics.tx_packets,
                tx_bytes: statistics.tx_bytes,
                rx_missed: statistics.rx_missed,
                rx_errors: statistics.rx_errors,
                rx_no_mbuf: statistics.rx_no_mbuf,
                tx_errors: statistics.tx_errors,
            }
        });
        ports.collect()
    }

    /// Answers `neighbours`.
    pub fn neighbours_view(&self) -> Neighbours {
        let now = self.now();
        let neighbours = self.neighbourhood.neighbours.all().into_iter().map(|neighbour| NeighbourView {
            address: neighbour.address,
            interface: self.topology.name(neighbour.interface).to_owned(),
            state: neighbour.state,
            mac: neighbour.mac.map(MacAddress),
            confirmed_seconds_ago: neighbour
                .confirmed
                .map(|confirmed| now.saturating_sub(confirmed).as_secs()),
            unanswered_requests: neighbour.unanswered,
        });
        Neighbours { neighbours: neighbours.collect() }
    }

    /// Answers `status`.
    pub fn status(&self) -> Status {
        let services = self.services.configured();
        let real_servers = services.iter().map(|service| service.real_servers.len()).sum::<usize>();
        let real_servers_up = services.iter().map(|service| self.count_up(service)).sum::<usize>();
        let ports: Vec<PortView> = self.port_views();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dpdk: self.platform.dpdk.clone(),
            pid: std::process::id(),
            uptime_seconds: self.now().as_secs(),
            generation: self.publisher.generation(),
            services: services.len() as u32,
            real_servers: real_servers as u32,
            real_servers_up: real_servers_up as u32,
            connections: self.counters.iter().map(|counters| counters.connections.load()).sum(),
            connection_buckets: self.tables.buckets,
            templates: u64::from(self.tables.templates.len()),
            template_capacity: u64::from(self.tables.templates.capacity()),
            buffers: self.neighbourhood.buffers().buffers,
            buffers_in_use: self.neighbourhood.buffers().in_use,
            connection_options: self.connection_options(),
            nat: self.services.nat().clone(),
            has_ipv6: self.has_ipv6,
            routes: self.config.routes.clone(),
            memory: self.platform.memory.clone(),
            warnings: self.warnings(&ports),
            ports,
        }
    }

    fn port_views(&self) -> Vec<PortView> {
        let views = self.topology.ports.iter().zip(&self.ports).map(|(facts, port)| {
            let untagged = facts.untagged.and_then(|id| self.topology.interface(id));
            let mut vlans: Vec<_> = facts
                .vlans
                .values()
                .filter_map(|&id| self.topology.interface(id))
                .map(|interface| VlanView {
                    id: interface.vlan,
                    addresses: interface.addresses.clone(),
                    mtu: interface.mtu,
                    host_interface: host_interface(interface),
                })
                .collect();
            vlans.sort_unstable_by_key(|vlan| vlan.id);
            PortView {
                name: facts.name.clone(),
                device: facts.device.clone(),
                mac: MacAddress(facts.mac),
                addresses: untagged.map_or(Vec::new(), |interface| interface.addresses.clone()),
                mtu: facts.mtu,
                link_is_up: port.link_is_up(),
                host_interface: untagged.and_then(host_interface),
                vlans,
            }
        });
        views.collect()
    }

    fn connection_options(&self) -> ConnectionsConfig {
        let connections = self.services.settings().connections.clone();
        ConnectionsConfig { timeouts: connections.timeouts.or(&Timeouts::IPVS), ..connections }
    }

    fn count_up(&self, service: &ServiceConfig) -> usize {
        let states =
            service.real_servers.iter().map(|real_server| self.real_server_state(service, real_server));
        states.filter(|state| *state == RealServerState::Up).count()
    }

    fn warnings(&self, ports: &[PortView]) -> Vec<String> {
        let mut warnings = self.platform.memory_warnings.clone();
        warnings.extend(self.platform.warnings.iter().cloned());
        let down = ports.iter().filter(|port| !port.link_is_up);
        warnings.extend(down.map(|port| format!("port {}: link down", port.name)));
        warnings.extend(self.full_tables());
        warnings.extend(self.full_templates());
        warnings.extend(self.alarms.warnings(self.now()));
        let neighbours = self.neighbourhood.neighbours.all();
        for (state, what) in [
            (NeighbourState::Unresolved, "never answered, so nothing goes there"),
            (NeighbourState::Failed, "answer no more, so no new connections go there"),
        ] {
            let names = neighbours.iter().filter(|neighbour| neighbour.state == state);
            let names: Vec<_> = names.map(|neighbour| neighbour.address.to_string()).collect();
            warnings.extend(named("real servers or gateways", &names, what));
        }
        let foreign: Vec<_> = self.without_local_address().into_iter().collect();
        let what = "have no local address on their interface and must have a route to another's network: add one there \
                    with `dr-ctl add-lip`";
        warnings.extend(named("real servers behind full NAT", &foreign, what));
        let is_dead = |service: &&ServiceConfig| self.count_up(service) == 0;
        let dead = self.services.configured().iter().filter(is_dead);
        let dead: Vec<_> = dead.map(|service| service.id().to_string()).collect();
        warnings.extend(named("virtual services", &dead, "have no real server that gets new connections"));
        warnings.extend(self.neighbourhood.own_addresses.conflicts(self.now()).map(|conflict| {
            let help = match conflict.address {
                IpAddr::V4(_) => "take it off that host's ARP (arp_ignore=1, arp_announce=2)",
                IpAddr::V6(_) => "have it on no interface but lo of that host",
            };
            let interface = self.topology.name(conflict.interface);
            format!("{} is claimed by {} as well, on {interface}: {help}", conflict.address, conflict.mac)
        }));
        warnings
    }

    /// Real servers behind full NAT on whose interface there is no local address, each with the interface.
    fn without_local_address(&self) -> BTreeSet<String> {
        let pools = LocalPools::new(self.services.nat(), &self.topology);
        let real_servers = self.services.configured().iter().flat_map(|service| &service.real_servers);
        let full_nat = real_servers.filter(|real_server| real_server.forwarding == Forwarding::FullNat);
        let foreign = full_nat.filter_map(|real_server| {
            let interface = self.topology.route(real_server.address)?.interface;
            let has_none = pools.of(interface, real_server.address).is_none();
            has_none.then(|| format!("{} on {}", real_server.address, self.topology.name(interface)))
        });
        foreign.collect()
    }

    fn full_tables(&self) -> impl Iterator<Item = String> + '_ {
        let capacity = u64::from(self.config.director.connection_capacity_per_worker);
        self.counters.iter().enumerate().filter_map(move |(worker, counters)| {
            let connections = counters.connections.load();
            (connections * 10 > capacity * 9).then(|| {
                format!(
                    "worker {worker} holds {connections} of at most {capacity} connections: raise \
                     director.connection_capacity_per_worker"
                )
            })
        })
    }

    fn full_templates(&self) -> Option<String> {
        let (held, capacity) = (self.tables.templates.len(), self.tables.templates.capacity());
        (u64::from(held) * 10 > u64::from(capacity) * 9).then(|| {
            format!(
                "{held} of at most {capacity} persistent clients are remembered: raise director.template_capacity, or \
                 shorten persistence timeouts or masks"
            )
        })
    }
}

/// The host's device, where it is there.
fn host_interface(interface: &Interface) -> Option<String> {
    interface.host_interface.clone().filter(|_| interface.has_host)
}

fn named(kind: &str, names: &[String], what: &str) -> Option<String> {
    let shown = &names[..names.len().min(NAMED_IN_WARNING)];
    let rest = match names.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!names.is_empty()).then(|| format!("{kind} that {what}: {}{rest}", shown.join(", ")))
}

/// Read while the worker goes on, so under traffic the numbers are apart by what it does meanwhile.
fn packet_totals(counters: &WorkerCounters) -> PacketTotals {
    PacketTotals {
        received: counters.received.load(),
        forwarded: counters.forwarded.load(),
        punted: counters.punted.load(),
        to_host: counters.to_host.load(),
        fragments_held: counters.fragments_held.load(),
        handed_over: counters.handed_over.load(),
        taken_over: counters.taken_over.load(),
        originated: counters.originated.load(),
        drops: DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), counters.dropped(reason)))
            .collect(),
    }
}

fn add(mut sum: PacketTotals, worker: &PacketTotals) -> PacketTotals {
    sum.received += worker.received;
    sum.forwarded += worker.forwarded;
    sum.punted += worker.punted;
    sum.to_host += worker.to_host;
    sum.handed_over += worker.handed_over;
    sum.taken_over += worker.taken_over;
    sum.fragments_held += worker.fragments_held;
    sum.originated += worker.originated;
    for (reason, count) in &worker.drops {
        *sum.drops.entry(reason.clone()).or_default() += count;
    }
    sum
}
