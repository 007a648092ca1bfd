//! Workers on in-memory ports, driven by hand: what the tests of the worker stand on.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod icmp;
pub mod ipv6;
pub mod nat;
pub mod packet;
pub mod packets;
pub mod pieces;
pub mod tunnels;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::clock::{Clock, ManualClock};
use dataplane::connection::{Connection, ConnectionTable, TableReader};
use dataplane::counters::WorkerCounters;
use dataplane::dpdk::region::Pages;
use dataplane::fragments::FragmentLimits;
use dataplane::host::{HostEnd, HostQueues};
use dataplane::mailbox::Publisher;
use dataplane::memory::{MemoryPool, MemoryPort, MemoryPortConfig, MemoryQueuePair};
use dataplane::path_mtus::PathMtus;
use dataplane::persistence::{TemplateLimits, TemplateTable};
use dataplane::port::PortId;
use dataplane::snapshot::{
    AddressRole, ClientAddress, Destination, DestinationState, ForwardingMethod, InterfaceId,
    InterfaceSnapshot, LocalRange, PortSnapshot, Protocol, Service, ServiceKey, SharedCounts, Snapshot,
    Translation, Way, shared_counts,
};
use dataplane::stateless::StatelessMemory;
use dataplane::verdict::{DropReason, StatelessReason};
use dataplane::worker::{Peers, Worker, WorkerParts};
use etherparse::PacketBuilder;
use scheduler::{Algorithm, HashRing, RealServer, Scheduler, SchedulerConfig, Thresholds};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc1];
pub const CLIENT: [u8; 4] = [198, 51, 100, 7];
pub const VIP: [u8; 4] = [192, 0, 2, 10];
pub const CLIENT_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
pub const VIP_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
/// The pool of full NAT.
pub const LOCAL_ADDRESSES: [[u8; 4]; 2] = [[10, 0, 0, 200], [10, 0, 0, 201]];
pub const LOCAL_ADDRESS_6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0xa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200];
pub const DIP: [u8; 4] = [10, 0, 0, 1];
pub const HTTP: u16 = 80;
pub const DNS: u16 = 53;
pub const DIAMETER: u16 = 3868;
const SLOTS: usize = 64;

pub fn own_mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, port]
}

pub fn rs_macs(slot: u32) -> [u8; 12] {
    [rs_mac(slot), own_mac(0)].concat().try_into().unwrap()
}

pub fn rs_mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 2, slot as u8]
}

/// A real server of the rig: destination slot and weight.
#[derive(Clone, Copy, Debug)]
pub struct Rs {
    pub slot: u32,
    pub weight: u32,
    pub available: bool,
    pub port: u8,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub is_drained: bool,
    pub method: ForwardingMethod,
    /// The port that NAT translates to; 0: none.
    pub translated_port: u16,
    pub client_address: ClientAddress,
    /// VLAN that leads to it.
    pub vlan: u16,
    pub is_ipv6: bool,
    pub mtu: u16,
}

impl Rs {
    pub fn new(slot: u32) -> Rs {
        Rs {
            slot,
            weight: 1,
            available: true,
            port: 0,
            upper_threshold: 0,
            lower_threshold: 0,
            is_drained: false,
            method: ForwardingMethod::Direct,
            translated_port: 0,
            client_address: ClientAddress::None,
            vlan: 0,
            is_ipv6: false,
            mtu: 1500,
        }
    }

    /// Behind NAT, at this port.
    pub fn nat(slot: u32, translated_port: u16) -> Rs {
        Rs { method: ForwardingMethod::Nat, translated_port, ..Rs::new(slot) }
    }

    /// Behind full NAT, at this port.
    pub fn full_nat(slot: u32, translated_port: u16) -> Rs {
        Rs { method: ForwardingMethod::FullNat, ..Rs::nat(slot, translated_port) }
    }

    pub fn address(&self) -> IpAddr {
        match self.is_ipv6 {
            false => Ipv4Addr::new(10, self.port, 0, 11 + self.slot as u8).into(),
            true => {
                Ipv6Addr::new(0x2001, 0xdb8, 0xa, self.port.into(), 0, 0, 0, 11 + self.slot as u16).into()
            }
        }
    }
}

pub struct Rig {
    pub ports: Vec<MemoryPort>,
    pub workers: Vec<Worker<MemoryQueuePair>>,
    pub publisher: Publisher<Snapshot>,
    pub counts: SharedCounts,
    pub counters: Vec<Arc<WorkerCounters>>,
    pub connections: Vec<TableReader>,
    pub templates: Arc<TemplateTable>,
    pub path_mtus: Arc<PathMtus>,
    pub host: HostEnd<MemoryPool>,
    pub hand: ManualClock,
    clock: Clock,
    tells: bool,
    stateless: HashMap<ServiceKey, Arc<StatelessMemory>>,
}

/// TCP VIP:80, UDP VIP:53 and SCTP VIP:3868 over the given real servers, newest first.
pub fn snapshot(counts: &SharedCounts, ports: usize, algorithm: Algorithm, real_servers: &[Rs]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for port in 0..ports as u8 {
        let interface = InterfaceId(port.into());
        let facts = PortSnapshot { mac: own_mac(port), untagged: Some(interface), ..PortSnapshot::default() };
        snapshot.ports.push(facts);
        snapshot.interfaces.push(InterfaceSnapshot {
            port: PortId(port),
            mac: own_mac(port),
            mtu: 1500,
            ..InterfaceSnapshot::default()
        });
        snapshot.addresses.insert([10, port, 0, 1].into(), AddressRole::Dip(interface));
    }
    snapshot.addresses.insert(VIP.into(), AddressRole::Vip);
    snapshot.destinations = vec![Destination::default(); SLOTS];
    for rs in real_servers {
        let port = PortId(rs.port);
        snapshot.destinations[rs.slot as usize] = Destination {
            macs: [rs_mac(rs.slot), own_mac(rs.port)].concat().try_into().unwrap(),
            port,
            state: if rs.available { DestinationState::Forwarding } else { DestinationState::Unresolved },
            mtu: rs.mtu,
            vlan: rs.vlan,
            method: rs.method,
            is_quiesced: rs.weight == 0 || rs.is_drained,
            ..Destination::default()
        };
        if matches!(rs.method, ForwardingMethod::Nat | ForwardingMethod::FullNat) {
            snapshot.ways.resize(SLOTS, Way::Direct);
            snapshot.ways[rs.slot as usize] = Way::Translate(Translation {
                address: rs.address(),
                port: rs.translated_port,
                client_address: rs.client_address,
                local_addresses: LocalRange::ALL,
            });
            snapshot.translated_real_servers.insert(rs.address());
        }
        snapshot.addresses.insert(rs.address(), AddressRole::Neighbour(InterfaceId(rs.port.into())));
    }
    for address in LOCAL_ADDRESSES {
        snapshot.local_addresses.ipv4.push(address.into());
        snapshot.addresses.insert(address.into(), AddressRole::Local(InterfaceId(0)));
    }
    let local: Ipv6Addr = LOCAL_ADDRESS_6.into();
    snapshot.local_addresses.ipv6.push(local);
    snapshot.addresses.insert(local.into(), AddressRole::Local(InterfaceId(0)));
    snapshot.addresses.insert(VIP_6.into(), AddressRole::Vip);
    for member in [(Protocol::TCP, HTTP), (Protocol::UDP, DNS), (Protocol::SCTP, DIAMETER)] {
        for (vip, is_ipv6) in [(IpAddr::from(VIP), false), (VIP_6.into(), true)] {
            let of_family: Vec<Rs> =
                real_servers.iter().filter(|rs| rs.is_ipv6 == is_ipv6).copied().collect();
            if !is_ipv6 || !of_family.is_empty() {
                add_service_at(vip, &mut snapshot, counts, algorithm, &of_family, &[member], |_| {});
            }
        }
    }
    snapshot
}

/// A service over the given real servers, newest first, at these ports of the VIP.
pub fn add_service(
    snapshot: &mut Snapshot,
    counts: &SharedCounts,
    algorithm: Algorithm,
    real_servers: &[Rs],
    members: &[(Protocol, u16)],
    change: impl FnOnce(&mut Service),
) {
    add_service_at(VIP.into(), snapshot, counts, algorithm, real_servers, members, change);
}

/// The same at any VIP.
pub fn add_service_at(
    vip: IpAddr,
    snapshot: &mut Snapshot,
    counts: &SharedCounts,
    algorithm: Algorithm,
    real_servers: &[Rs],
    members: &[(Protocol, u16)],
    change: impl FnOnce(&mut Service),
) {
    let real_servers: Vec<RealServer> = real_servers
        .iter()
        .map(|rs| RealServer {
            id: rs.slot,
            address: rs.address(),
            port: rs.translated_port,
            weight: if rs.is_drained { 0 } else { rs.weight },
            last_weight: rs.weight.max(1),
            is_drained: rs.is_drained,
            available: rs.available,
            has_threshold: rs.upper_threshold > 0,
            joined_seconds: None,
            counts: counts[rs.slot as usize].clone(),
        })
        .collect();
    let config = SchedulerConfig { algorithm, ..SchedulerConfig::default() };
    let mut service = Service {
        scheduler: Scheduler::new(config, &real_servers),
        ring: Arc::new(HashRing::new(&real_servers)),
        stateless: Arc::default(),
        real_servers,
        persistence: None,
        one_packet: false,
        timeouts: 0,
    };
    change(&mut service);
    let service = Arc::new(service);
    for &(protocol, port) in members {
        let key = ServiceKey { address: vip, port, protocol };
        snapshot.services.insert(key, service.clone());
        snapshot.has_every_port |= port == 0;
        if (protocol, port) == (Protocol::TCP, 21) {
            snapshot.ftp_services.insert(vip, service.clone());
            snapshot.ftp_vips.insert(vip);
        }
    }
}

/// A template table with room for every test's clients.
pub fn template_limits() -> TemplateLimits {
    TemplateLimits { capacity: 1024, destinations: SLOTS as u32, keeps_call_ids: true, has_ipv6: true }
}

/// The connection counts of all slots, with the thresholds of these real servers.
pub fn set_thresholds(counts: &SharedCounts, real_servers: &[Rs]) {
    for rs in real_servers {
        let thresholds = Thresholds { upper: rs.upper_threshold, lower: rs.lower_threshold };
        counts[rs.slot as usize].set_thresholds(thresholds);
    }
}

impl Rig {
    pub fn new(
        workers: usize,
        ports: usize,
        capacity: u32,
        algorithm: Algorithm,
        real_servers: &[Rs],
    ) -> Rig {
        let rig =
            Rig::with(workers, ports, capacity, |counts| snapshot(counts, ports, algorithm, real_servers));
        set_thresholds(&rig.counts, real_servers);
        rig
    }

    /// Workers whose first snapshot is `first`.
    pub fn with(
        workers: usize,
        ports: usize,
        capacity: u32,
        first: impl FnOnce(&SharedCounts) -> Snapshot,
    ) -> Rig {
        Rig::with_templates(workers, ports, capacity, &template_limits(), first)
    }

    /// The same, with a template table of this size.
    pub fn with_templates(
        workers: usize,
        ports: usize,
        capacity: u32,
        limits: &TemplateLimits,
        first: impl FnOnce(&SharedCounts) -> Snapshot,
    ) -> Rig {
        let config = MemoryPortConfig::default();
        Rig::with_ports(workers, ports, capacity, limits, &config, false, first)
    }

    /// The same, with ports of this kind. `tells`: the workers originate ICMP errors; else what a test sees leave is what was
    /// forwarded.
    pub fn with_ports(
        workers: usize,
        ports: usize,
        capacity: u32,
        limits: &TemplateLimits,
        config: &MemoryPortConfig,
        tells: bool,
        first: impl FnOnce(&SharedCounts) -> Snapshot,
    ) -> Rig {
        let counts = shared_counts(SLOTS);
        let mut first = first(&counts);
        if !tells {
            first.options.icmp_packets_per_second = 0;
        }
        let stateless =
            first.services.iter().map(|(key, service)| (*key, service.stateless.clone())).collect();
        let (publisher, readers) = Publisher::new(Arc::new(first), workers);
        let (clock, hand) = Clock::manual();
        let mut memory_ports = Vec::new();
        let mut queues: Vec<Vec<MemoryQueuePair>> = (0..workers).map(|_| Vec::new()).collect();
        for port in 0..ports as u8 {
            let config = MemoryPortConfig { queues: workers, mac: own_mac(port), ..config.clone() };
            let (port, pairs) = MemoryPort::new(config);
            memory_ports.push(port);
            for (queues, pair) in queues.iter_mut().zip(pairs) {
                queues.push(pair);
            }
        }
        let host_queues = HostQueues::new();
        let host = HostEnd::new(host_queues.clone(), memory_ports[0].pool());
        let counters: Vec<_> = (0..workers).map(|_| WorkerCounters::new(SLOTS)).collect();
        let templates = TemplateTable::new(limits, Pages::Any).unwrap();
        let path_mtus = PathMtus::new(SLOTS);
        let tables: Vec<_> = (0..workers)
            .map(|_| ConnectionTable::with_families(capacity, true, Pages::Any).unwrap())
            .collect();
        let peers = Peers::among(&tables);
        let connections = tables.iter().map(ConnectionTable::reader).collect();
        let count = workers as u32;
        let workers = queues
            .into_iter()
            .zip(readers)
            .zip(tables)
            .zip(peers)
            .enumerate()
            .map(|(index, (((queues, mailbox), connections), peers))| {
                Worker::new(WorkerParts {
                    index: index as u32,
                    workers: count,
                    queues,
                    mailbox,
                    connections,
                    templates: templates.clone(),
                    peers,
                    counts: counts.clone(),
                    path_mtus: path_mtus.clone(),
                    counters: counters[index].clone(),
                    host: host_queues.clone(),
                    fragments: FragmentLimits::default(),
                    clock: clock.clone(),
                })
            })
            .collect();
        Rig {
            ports: memory_ports,
            workers,
            publisher,
            counts,
            counters,
            connections,
            templates,
            path_mtus,
            host,
            hand,
            clock,
            tells,
            stateless,
        }
    }

    /// One worker, one port, real servers 0, 1, 2 of weight 1, newest first 2, 1, 0.
    pub fn simple(algorithm: Algorithm) -> Rig {
        Rig::new(1, 1, 1024, algorithm, &[Rs::new(2), Rs::new(1), Rs::new(0)])
    }

    /// Injects one frame on port 0, lets every worker run a round and returns what port 0 sent.
    pub fn pass(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        assert!(self.ports[0].inject_spread(frame));
        self.poll();
        self.ports[0].take_transmitted()
    }

    /// The slot of the real server that gets the frame, if any does.
    pub fn slot_for(&mut self, frame: &[u8]) -> Option<u32> {
        let sent = self.pass(frame);
        assert!(sent.len() <= 1);
        sent.first().map(|frame| u32::from(frame[5]))
    }

    /// Injects one frame on a queue of port 0, lets every worker run two rounds, so that what one hands over is sent by the
    /// other, and returns what was sent, with the port.
    pub fn pass_on(&mut self, queue: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        assert!(self.ports[0].inject(queue, frame));
        self.poll();
        self.poll();
        let taken = self.ports.iter().enumerate().map(|(port, of)| (port, of.take_transmitted()));
        taken.flat_map(|(port, frames)| frames.into_iter().map(move |frame| (port, frame))).collect()
    }

    /// Every buffer is back in its pool, but for those of the fragments that wait for their first.
    pub fn assert_no_leak(&self) {
        let pools = self.ports.iter().map(|port| port.pool());
        let out: usize = pools.map(|pool| pool.capacity() - pool.available()).sum();
        assert_eq!(out as u64, self.total(|counters| counters.fragments_held.load()));
    }

    pub fn poll(&mut self) {
        for worker in &mut self.workers {
            worker.poll();
        }
    }

    pub fn publish(&mut self, algorithm: Algorithm, real_servers: &[Rs]) {
        set_thresholds(&self.counts, real_servers);
        let snapshot = snapshot(&self.counts, self.ports.len(), algorithm, real_servers);
        self.publish_snapshot(snapshot);
    }

    /// As the control thread does, which keeps a service's memory over its versions.
    pub fn publish_snapshot(&mut self, mut snapshot: Snapshot) {
        if !self.tells {
            snapshot.options.icmp_packets_per_second = 0;
        }
        // As long as these are there, no other is where one of them was.
        let _given: Vec<_> = snapshot.services.values().cloned().collect();
        let mut kept: HashMap<*const Service, Arc<Service>> = HashMap::new();
        for (key, service) in &mut snapshot.services {
            let stateless = self.stateless.entry(*key).or_insert_with(|| service.stateless.clone());
            let keep = || Arc::new(Service { stateless: stateless.clone(), ..Service::clone(service) });
            *service = kept.entry(Arc::as_ptr(service)).or_insert_with(keep).clone();
        }
        for (address, service) in &mut snapshot.ftp_services {
            let key = ServiceKey { address: *address, port: 21, protocol: Protocol::TCP };
            *service = snapshot.services[&key].clone();
        }
        self.publisher.publish(Arc::new(snapshot));
        self.poll();
        assert!(self.publisher.runs_everywhere(self.publisher.generation()));
    }

    /// The connections of all workers.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections
            .iter()
            .flat_map(|reader| reader.read(0, u32::MAX))
            .map(|record| record.connection)
            .collect()
    }

    /// IPVS's name of the state of the client's connection from this port; empty where there is none.
    pub fn state(&self, client_port: u16) -> &'static str {
        let connections = self.connections();
        let of_port = connections.iter().find(|connection| connection.key.client_port() == client_port);
        of_port.map_or("", |connection| connection.state.name())
    }

    /// Active and inactive connections of a slot's real server.
    pub fn counts(&self, slot: usize) -> (u32, u32) {
        let counts = self.counts[slot].load();
        (counts.active, counts.inactive)
    }

    /// Time passes, and the workers have swept their tables.
    pub fn advance_and_sweep(&mut self, seconds: u32) {
        self.hand.advance_seconds(seconds);
        for _ in 0..100 {
            self.poll();
        }
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.iter().map(|counters| counters.dropped(reason)).sum()
    }

    pub fn stateless(&self, reason: StatelessReason) -> u64 {
        self.counters.iter().map(|counters| counters.stateless(reason)).sum()
    }

    pub fn total(&self, of: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| of(counters)).sum()
    }

    /// The same over a frame that came in several segments, cut at these offsets.
    pub fn pass_segments(&mut self, frame: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        assert!(self.ports[0].inject_segments(0, frame, cuts));
        self.poll();
        self.ports[0].take_transmitted()
    }

    /// Seconds on the workers' clock.
    pub fn seconds(&self) -> u32 {
        self.clock.seconds()
    }

    /// received + taken over = forwarded + punted + to host + handed over + dropped + held, in each worker; what went to real servers
    /// or came from them is what was forwarded; what was handed over was taken.
    pub fn assert_conservation(&self) {
        for counters in &self.counters {
            let came = counters.received.load() + counters.taken_over.load();
            let accounted = counters.forwarded.load()
                + counters.punted.load()
                + counters.to_host.load()
                + counters.handed_over.load()
                + counters.dropped_total()
                + counters.fragments_held.load();
            assert_eq!(came, accounted, "{counters:?}");
            let forwarded: u64 =
                counters.destinations.iter().map(|of| of.packets.load() + of.replies.load()).sum();
            assert_eq!(counters.forwarded.load(), forwarded);
        }
        assert_eq!(
            self.total(|counters| counters.handed_over.load()),
            self.total(|counters| counters.taken_over.load())
        );
    }
}

/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A TCP frame of the client to VIP:80.
pub fn tcp(client: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
    tcp_to(HTTP, client, port, flags)
}

/// A TCP frame of the client to this port of the VIP.
pub fn tcp_to(virtual_port: u16, client: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut builder = PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0)).ipv4(client, VIP, 64).tcp(
        port,
        virtual_port,
        1,
        1000,
    );
    for (flag, set) in [
        (0x01, PacketStepTcp::fin as fn(PacketStepTcp) -> PacketStepTcp),
        (0x02, PacketStepTcp::syn),
        (0x04, PacketStepTcp::rst),
        (0x08, PacketStepTcp::psh),
    ] {
        if flags & flag != 0 {
            builder = set(builder);
        }
    }
    if flags & 0x10 != 0 {
        builder = builder.ack(1);
    }
    builder.write(&mut frame, b"").unwrap();
    frame.resize(frame.len().max(60), 0);
    frame
}

type PacketStepTcp = etherparse::PacketBuilderStep<etherparse::TcpHeader>;

/// A UDP frame of the client to VIP:53.
pub fn udp(client: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    udp_to(DNS, client, port, payload)
}

/// A UDP frame of the client to this port of the VIP.
pub fn udp_to(virtual_port: u16, client: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
        .ipv4(client, VIP, 64)
        .udp(port, virtual_port)
        .write(&mut frame, payload)
        .unwrap();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An SCTP frame of the client to VIP:3868 with these chunks.
pub fn sctp(client: [u8; 4], port: u16, chunks: &[u8]) -> Vec<u8> {
    // UDP's header is as long as SCTP's without its checksum.
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, own_mac(0))
        .ipv4(client, VIP, 64)
        .udp(port, DIAMETER)
        .write(&mut frame, &[&[0; 4], chunks].concat())
        .unwrap();
    frame[23] = 132;
    fix_checksum(&mut frame);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An SCTP chunk of this type, without a value.
pub fn chunk(kind: u8) -> [u8; 4] {
    [kind, 0, 0, 4]
}

/// Makes the IPv4 header checksum right after a test changed the header.
pub fn fix_checksum(frame: &mut [u8]) {
    let header_length = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let end = (14 + header_length).min(frame.len());
    let sum = dataplane::packet::checksum::checksum(&frame[14..end]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
