//! The configured services as the workers read them.
//!
//! A service for which nothing changes keeps what was compiled before, cursor and hash ring included, so that a change of
//! one among thousands costs a look at each of the others.

use std::net::IpAddr;
use std::sync::Arc;

use ctl::config::{
    ConnectionsConfig, PersistenceEngine, Protocol, RealServerConfig, ServiceConfig, ServiceId,
    VirtualAddress,
};
use dataplane::clock::TICKS_PER_SECOND;
use dataplane::snapshot::{
    AddressRole, Destination, DestinationState, Options, Persistence, PersistenceScope, PersistentClient,
    Service, ServiceKey, Snapshot, Way,
};
use scheduler::{HashRing, RealServer, Scheduler, SchedulerConfig};

use super::local_addresses::LocalPools;
use super::network;
use super::timeouts::TimeoutTable;
use super::ways;
use super::{Limits, Running, RunningRealServer, Services, client_mask, effective_weight, wire_protocol};
use crate::neighbours::Neighbours;
use crate::slots::Slots;
use crate::topology::{Route, Topology};

/// IPVS's special port: a client of FTP stays on its real server with data connections too.
const FTP: u16 = 21;
/// Real servers that come up within the first seconds of their service are no newcomers: ARP takes that long.
const SETTLING_SECONDS: u32 = 3;

/// What a service's real servers are compiled with.
struct Surroundings<'a> {
    topology: &'a Topology,
    neighbours: &'a Neighbours,
    slots: &'a Slots,
    now_seconds: u32,
}

impl Services {
    /// Brings what the workers read up to date with configuration and neighbours. `now_seconds` is of the workers' clock.
    pub fn compile(&mut self, topology: &Topology, neighbours: &Neighbours, now_seconds: u32) {
        let Services { settings, running, slots, .. } = self;
        let surroundings = Surroundings { topology, neighbours, slots, now_seconds };
        let mut timeouts = TimeoutTable::new(&settings.connections.timeouts);
        for service in &settings.services {
            let place = timeouts.place(&service.timeouts);
            if let Some(running) = running.get_mut(&service.id) {
                compile(service, running, &settings.connections, place, &surroundings);
            }
        }
        self.timeouts = timeouts.into_entries();
    }

    /// The snapshot of what was compiled. `former` are addresses that full NAT's pool had: their connections go on.
    pub fn snapshot(
        &self,
        topology: &Topology,
        neighbours: &Neighbours,
        former: impl IntoIterator<Item = IpAddr>,
    ) -> Snapshot {
        let pools = LocalPools::new(&self.settings.nat, topology);
        let mut snapshot = Snapshot {
            ports: network::ports(topology),
            interfaces: network::interfaces(topology),
            routes: network::routes(topology, neighbours),
            local_addresses: pools.addresses().clone(),
            destinations: vec![Destination::default(); self.slots.length()],
            timeouts: self.timeouts.clone(),
            options: options(&self.settings.connections, self.limits),
            ..Snapshot::default()
        };
        for service in &self.settings.services {
            let Some(running) = self.running.get(&service.id) else { continue };
            self.add_destinations(service, running, (topology, neighbours, &pools), &mut snapshot);
            let Some(compiled) = &running.compiled else { continue };
            for address in service.addresses() {
                snapshot.has_every_port |= address.port == 0;
                if is_ftp(address) {
                    snapshot.ftp_vips.insert(address.address);
                    // A group is never FTP's service, as a firewall mark's is not.
                    if service.id == ServiceId::Virtual(address) {
                        snapshot.ftp_services.insert(address.address, compiled.clone());
                    }
                }
                snapshot.services.insert(key(address), compiled.clone());
            }
        }
        for (slot, ..) in self.slots.all_removed() {
            let destination = &mut snapshot.destinations[slot as usize];
            destination.state = DestinationState::Removed;
            destination.incarnation = self.slots.incarnation(slot);
        }
        // What one still sends to its clients reaches them, whichever worker receives it.
        snapshot.translated_real_servers.extend(self.slots.translated());
        self.add_addresses(topology, former, &mut snapshot);
        snapshot
    }

    /// Why the director listens to what. Where validation allows an address two roles, the later one counts.
    fn add_addresses(
        &self,
        topology: &Topology,
        former: impl IntoIterator<Item = IpAddr>,
        snapshot: &mut Snapshot,
    ) {
        for (_, route) in topology.routes() {
            snapshot.addresses.insert(route.next_hop, AddressRole::Neighbour(route.interface));
        }
        for address in self.settings.services.iter().flat_map(ServiceConfig::addresses) {
            snapshot.addresses.insert(address.address, AddressRole::Vip);
        }
        for address in former.into_iter().chain(self.settings.nat.local_addresses.iter().copied()) {
            if let Some(route) = topology.connection(address) {
                snapshot.addresses.insert(address, AddressRole::Local(route.interface));
            }
        }
        // Link-local ones may be several interfaces': the first of them has it here.
        for interface in topology.interfaces.iter().rev() {
            let own = interface.addresses.iter().map(|dip| dip.addr());
            for address in own.chain([IpAddr::V6(interface.link_local())]) {
                snapshot.addresses.insert(address, AddressRole::Dip(interface.id));
            }
        }
    }

    fn add_destinations(
        &self,
        service: &ServiceConfig,
        running: &Running,
        (topology, neighbours, pools): (&Topology, &Neighbours, &LocalPools),
        snapshot: &mut Snapshot,
    ) {
        let timeouts = running.compiled.as_ref().map_or(0, |compiled| compiled.timeouts);
        for real_server in &service.real_servers {
            let Some(known) = running.real_servers.get(&real_server.id()) else { continue };
            let slot = known.slot as usize;
            let way = known.route.and_then(|route| ways::way(real_server, &route, pools));
            snapshot.destinations[slot] = Destination {
                timeouts,
                incarnation: self.slots.incarnation(known.slot),
                method: ways::method(real_server.forwarding),
                is_quiesced: effective_weight(real_server) == 0,
                refuses_persistent: self.refuses_persistent(real_server),
                ..next_hop(topology, neighbours, known.route, way)
            };
            let Some(route) = known.route else { continue };
            snapshot.addresses.insert(route.next_hop, AddressRole::Neighbour(route.interface));
            if let Some(way) = way.filter(|way| *way != Way::Direct) {
                snapshot.ways.resize(snapshot.ways.len().max(slot + 1), Way::Direct);
                snapshot.ways[slot] = way;
            }
        }
    }

    /// A drain says itself what becomes of persistent clients; without one, the option for quiesced real servers does.
    fn refuses_persistent(&self, real_server: &RealServerConfig) -> bool {
        match real_server.drain {
            Some(drain) => !drain.keep_persistent,
            None => real_server.weight == 0 && self.settings.connections.expire_quiescent_template,
        }
    }
}

fn compile(
    service: &ServiceConfig,
    running: &mut Running,
    connections: &ConnectionsConfig,
    timeouts: u16,
    surroundings: &Surroundings<'_>,
) {
    let is_same_list = update_real_servers(service, running, surroundings);
    let config = scheduler_config(service, connections);
    let persistence = persistence(service, running.group);
    let old = running.compiled.as_deref();
    let is_same = old.is_some_and(|old| {
        old.scheduler.config() == config
            && old.persistence == persistence
            && old.one_packet == service.one_packet
            && old.timeouts == timeouts
    });
    if is_same && is_same_list {
        return;
    }
    let real_servers = match old {
        Some(old) if is_same_list => old.real_servers.clone(),
        _ => scheduled(service, running, surroundings.slots),
    };
    let scheduler = match old {
        Some(old) if old.scheduler.config().algorithm == config.algorithm => {
            old.scheduler.next_version(&old.real_servers, &real_servers).with_config(config)
        }
        _ => Scheduler::new(config, &real_servers),
    };
    let ring = match old {
        Some(old) if is_same_list => old.ring.clone(),
        Some(old) => old.ring.next_version(&real_servers),
        None => Arc::new(HashRing::new(&real_servers)),
    };
    let stateless = old.map(|old| old.stateless.clone()).unwrap_or_default();
    let one_packet = service.one_packet;
    running.compiled = Some(Arc::new(Service {
        scheduler,
        real_servers,
        ring,
        stateless,
        persistence,
        one_packet,
        timeouts,
    }));
}

/// What goes without state stays with it. One of weight 0 has nothing of that kind to keep.
fn is_drained(real_server: &RealServerConfig) -> bool {
    real_server.drain.is_some() && real_server.weight > 0
}

/// Brings what is known of the service's real servers up to date. Whether the list that was compiled before still says
/// so; it is newest first, as IPVS inserts at the head and ties go to the first.
fn update_real_servers(
    service: &ServiceConfig,
    running: &mut Running,
    surroundings: &Surroundings<'_>,
) -> bool {
    let old = running.compiled.as_ref().map_or(&[][..], |compiled| &compiled.real_servers);
    let mut is_same = running.compiled.is_some() && old.len() == service.real_servers.len();
    let has_settled = surroundings.now_seconds.wrapping_sub(running.since_seconds) >= SETTLING_SECONDS;
    for (place, real_server) in service.real_servers.iter().rev().enumerate() {
        let Some(known) = running.real_servers.get_mut(&real_server.id()) else { continue };
        let weight = effective_weight(real_server);
        known.route = known.route.or_else(|| surroundings.topology.route(real_server.address));
        known.is_available =
            known.route.is_some_and(|route| surroundings.neighbours.resolution(&route).is_usable);
        let is_eligible = known.is_available && weight > 0;
        if is_eligible && !known.is_eligible && has_settled && service.slow_start_seconds > 0 {
            known.joined_seconds = Some(surroundings.now_seconds);
        }
        known.is_eligible = is_eligible;
        is_same = is_same && {
            let old = &old[place];
            old.id == known.slot
                && old.weight == u32::from(weight)
                && old.last_weight == u32::from(known.last_weight)
                && old.is_drained == is_drained(real_server)
                && old.available == known.is_available
                && old.has_threshold == (real_server.upper_threshold > 0)
                && old.joined_seconds == known.joined_seconds
        };
    }
    is_same
}

fn scheduled(service: &ServiceConfig, running: &Running, slots: &Slots) -> Vec<RealServer> {
    let compiled = service.real_servers.iter().rev().filter_map(|real_server| {
        let known: &RunningRealServer = running.real_servers.get(&real_server.id())?;
        Some(RealServer {
            id: known.slot,
            address: real_server.address,
            port: real_server.port.or(service.id.port()).unwrap_or(0),
            weight: u32::from(effective_weight(real_server)),
            last_weight: u32::from(known.last_weight),
            is_drained: is_drained(real_server),
            available: known.is_available,
            has_threshold: real_server.upper_threshold > 0,
            joined_seconds: known.joined_seconds,
            counts: slots.counts(known.slot).clone(),
        })
    });
    compiled.collect()
}

fn scheduler_config(service: &ServiceConfig, connections: &ConnectionsConfig) -> SchedulerConfig {
    SchedulerConfig {
        algorithm: service.scheduler,
        flags: service.scheduler_flags,
        slow_start_seconds: service.slow_start_seconds,
        lblc_expiration_seconds: connections.lblc_expiration_seconds,
    }
}

fn persistence(service: &ServiceConfig, group: Option<u32>) -> Option<Persistence> {
    let configured = service.persistence?;
    let scope = match (service.id, group) {
        (ServiceId::Virtual(address), _) => {
            PersistenceScope::Virtual { port: if is_ftp(address) { 0 } else { address.port } }
        }
        (ServiceId::Group(_), number) => PersistenceScope::Group(number?),
    };
    Some(Persistence {
        timeout_ticks: configured.timeout_seconds.saturating_mul(TICKS_PER_SECOND),
        netmask: client_mask(configured.netmask, service.family()),
        client: match configured.engine {
            None => PersistentClient::Address,
            Some(PersistenceEngine::Sip) => PersistentClient::CallId,
        },
        scope,
    })
}

fn options(connections: &ConnectionsConfig, limits: Limits) -> Options {
    Options {
        sloppy_tcp: connections.sloppy_tcp,
        sloppy_sctp: connections.sloppy_sctp,
        secure_tcp: connections.secure_tcp,
        conn_reuse_mode: connections.conn_reuse_mode,
        expire_nodest_conn: connections.expire_nodest_conn,
        creation_rate_per_worker: connections.creation_rate_per_worker,
        icmp_packets_per_second: limits.icmp_packets_per_second,
        host_packets_per_second: limits.host_packets_per_second,
        pmtu_disc: connections.pmtu_disc,
        tunnel_mss_clamp: connections.tunnel_mss_clamp,
        schedule_icmp: connections.schedule_icmp,
        nat_icmp_send: connections.nat_icmp_send,
    }
}

/// Whereto frames go for a real server: to itself, or to its gateway.
fn next_hop(
    topology: &Topology,
    neighbours: &Neighbours,
    route: Option<Route>,
    way: Option<Way>,
) -> Destination {
    let unresolved = Destination { state: DestinationState::Unresolved, ..Destination::default() };
    let (Some(route), Some(way)) = (route, way) else { return unresolved };
    let interface = topology.interface(route.interface);
    let (Some(interface), Some(mac)) = (interface, neighbours.resolution(&route).mac) else {
        return unresolved;
    };
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&mac);
    macs[6..].copy_from_slice(&interface.mac);
    Destination {
        macs,
        vlan: interface.vlan,
        port: interface.port,
        state: DestinationState::Forwarding,
        mtu: interface.mtu.saturating_sub(ways::overhead(&way)),
        ..Destination::default()
    }
}

fn is_ftp(address: VirtualAddress) -> bool {
    address.protocol == Protocol::Tcp && address.port == FTP
}

fn key(address: VirtualAddress) -> ServiceKey {
    ServiceKey { address: address.address, port: address.port, protocol: wire_protocol(address.protocol) }
}
