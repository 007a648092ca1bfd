//! A flood of new tuples against established connections, on one worker over a port in memory: what a flood packet costs
//! beside a hit, and that no established connection notices.
//!
//! `cargo run --release -p dataplane --no-default-features --example flood -- --syns 100000000 --established 1000000`
//!
//! Prints nanoseconds a packet with the generator's own cost taken off, and ends with 1 where a connection was lost or moved.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use dataplane::clock::Clock;
use dataplane::connection::ConnectionTable;
use dataplane::counters::WorkerCounters;
use dataplane::dpdk::region::Pages;
use dataplane::host::HostQueues;
use dataplane::mailbox::Publisher;
use dataplane::packet::checksum;
use dataplane::persistence::{TemplateLimits, TemplateTable};
use dataplane::port::{BURST, Burst, ChecksumStatus, Frame, PortId, QueuePair};
use dataplane::snapshot::{
    AddressRole, Destination, DestinationState, InterfaceId, InterfaceSnapshot, Options, PortSnapshot,
    Protocol, Service, ServiceKey, SharedCounts, Snapshot, shared_counts,
};
use dataplane::verdict::StatelessReason;
use dataplane::worker::{Peers, Worker, WorkerParts};
use scheduler::{Algorithm, HashRing, RealServer, Scheduler, SchedulerConfig};

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
const VIP: [u8; 4] = [192, 0, 2, 10];
const REAL_SERVERS: u32 = 16;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FRAME_BYTES: usize = 60;
/// First client addresses of the established connections and of the flood.
const ESTABLISHED_FROM: u32 = u32::from_be_bytes([11, 0, 0, 0]);
const FLOOD_FROM: u32 = u32::from_be_bytes([128, 0, 0, 0]);

/// A frame that carries its bytes with it.
struct Made([u8; FRAME_BYTES]);

impl Frame for Made {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
    fn length(&self) -> usize {
        FRAME_BYTES
    }
    fn is_exclusive(&self) -> bool {
        true
    }
    fn is_contiguous(&self) -> bool {
        true
    }
    // As long as it is and no longer: what is measured here changes no frame's length.
    fn prepend(&mut self, _: usize) -> bool {
        false
    }
    fn remove_front(&mut self, _: usize) -> bool {
        false
    }
    fn append(&mut self, _: usize) -> bool {
        false
    }
    fn truncate(&mut self, _: usize) -> bool {
        false
    }
    fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize {
        let from = self.0.get(offset..).unwrap_or_default();
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        count
    }
    fn vlan_tci(&self) -> Option<u16> {
        None
    }
    fn clear_vlan_tci(&mut self) {}
    fn ip_checksum(&self) -> ChecksumStatus {
        ChecksumStatus::Good
    }
    fn prefetch(&self) {}
}

/// What the port delivers.
#[derive(Clone, Copy)]
struct Traffic {
    first_address: u32,
    protocol: u8,
    flags: u8,
    /// Flows to choose from.
    flows: u64,
    /// Distance between one packet's flow and the next one's; where it has no divisor in common with `flows`, each comes
    /// once before any comes again.
    stride: u64,
    packets: u64,
}

/// A port that makes the frames it receives and remembers to which real server those went that it sends.
struct Generator {
    template: [u8; FRAME_BYTES],
    traffic: Traffic,
    made: u64,
    flow: u64,
    /// Real server by flow, where it is asked for: 255 where none yet.
    went_to: Arc<std::sync::Mutex<Seen>>,
    sent: u64,
}

#[derive(Default)]
struct Seen {
    traffic: Option<Traffic>,
    next: Option<Traffic>,
    by_flow: Vec<u8>,
    moved: u64,
    is_recording: bool,
}

impl Generator {
    fn new(went_to: Arc<std::sync::Mutex<Seen>>) -> Generator {
        let mut template = [0; FRAME_BYTES];
        template[..6].copy_from_slice(&OWN_MAC);
        template[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0xc1]);
        template[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
        template[30..34].copy_from_slice(&VIP);
        template[36..38].copy_from_slice(&80_u16.to_be_bytes());
        // TCP's data offset; UDP's length where the header is UDP's.
        template[38..40].copy_from_slice(&20_u16.to_be_bytes());
        template[46] = 5 << 4;
        let sum = checksum::checksum(&template[14..34]);
        template[24..26].copy_from_slice(&sum.to_be_bytes());
        let nothing = Traffic { first_address: 0, protocol: 6, flags: 0, flows: 1, stride: 1, packets: 0 };
        Generator { template, traffic: nothing, made: 0, flow: 0, went_to, sent: 0 }
    }

    fn make(&mut self) -> Made {
        let Traffic { first_address, flows, stride, .. } = self.traffic;
        let mut frame = Made(self.template);
        let address = first_address.wrapping_add((self.flow >> 15) as u32);
        let port = 1024 + (self.flow as u16 & 0x7fff);
        frame.0[26..30].copy_from_slice(&address.to_be_bytes());
        frame.0[34..36].copy_from_slice(&port.to_be_bytes());
        self.flow += stride;
        if self.flow >= flows {
            self.flow -= flows;
        }
        frame
    }
}

impl QueuePair for Generator {
    type Frame = Made;

    fn receive(&mut self, burst: &mut Burst<Made>) {
        if self.made == self.traffic.packets
            && let Some(next) = self.went_to.lock().unwrap().next.take()
        {
            self.traffic = next;
            (self.made, self.flow) = (0, 0);
            self.template[23] = next.protocol;
            self.template[47] = next.flags;
        }
        let count = (self.traffic.packets - self.made).min(BURST as u64);
        for _ in 0..count {
            let frame = self.make();
            burst.push(frame);
        }
        self.made += count;
    }

    fn transmit(&mut self, burst: &mut Burst<Made>) -> usize {
        let count = burst.len();
        self.sent += count as u64;
        if self.traffic.first_address == ESTABLISHED_FROM {
            let mut seen = self.went_to.lock().unwrap();
            if seen.is_recording {
                for frame in burst.iter() {
                    let address = u32::from_be_bytes(frame.0[26..30].try_into().unwrap());
                    let port = u16::from_be_bytes(frame.0[34..36].try_into().unwrap());
                    let flow =
                        (u64::from(address - ESTABLISHED_FROM) << 15 | u64::from(port - 1024)) as usize;
                    let before = seen.by_flow[flow];
                    if before == 255 {
                        seen.by_flow[flow] = frame.0[5];
                    } else if before != frame.0[5] {
                        seen.moved += 1;
                    }
                }
            }
        }
        burst.clear();
        count
    }

    fn allocate(&mut self) -> Option<Made> {
        Some(Made([0; FRAME_BYTES]))
    }
}

fn snapshot(counts: &SharedCounts, creation_rate_per_worker: u32) -> Snapshot {
    let mut snapshot = Snapshot {
        ports: vec![PortSnapshot { mac: OWN_MAC, untagged: Some(InterfaceId(0)), ..PortSnapshot::default() }],
        interfaces: vec![InterfaceSnapshot { mac: OWN_MAC, mtu: 1500, ..InterfaceSnapshot::default() }],
        options: Options { creation_rate_per_worker, ..Options::default() },
        ..Snapshot::default()
    };
    snapshot.addresses.insert(VIP.into(), AddressRole::Vip);
    let real_servers: Vec<_> = (0..REAL_SERVERS)
        .map(|id| RealServer {
            id,
            address: Ipv4Addr::new(10, 0, 0, id as u8).into(),
            port: 0,
            weight: 1,
            last_weight: 1,
            is_drained: false,
            available: true,
            has_threshold: false,
            joined_seconds: None,
            counts: counts[id as usize].clone(),
        })
        .collect();
    snapshot.destinations = (0..REAL_SERVERS as u8)
        .map(|id| Destination {
            macs: [2, 0, 0, 0, 2, id, 2, 0, 0, 0, 1, 0],
            port: PortId(0),
            state: DestinationState::Forwarding,
            mtu: 1500,
            ..Destination::default()
        })
        .collect();
    let config = SchedulerConfig { algorithm: Algorithm::Wlc, ..SchedulerConfig::default() };
    let service = Arc::new(Service {
        scheduler: Scheduler::new(config, &real_servers),
        ring: Arc::new(HashRing::new(&real_servers)),
        stateless: Arc::default(),
        real_servers,
        persistence: None,
        one_packet: false,
        timeouts: 0,
    });
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let key = ServiceKey { address: VIP.into(), port: 80, protocol };
        snapshot.services.insert(key, service.clone());
    }
    snapshot
}

/// Resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match arguments.nth(1) {
        Some(value) => value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number")),
        None => default,
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Everything around the one worker.
struct Bench {
    worker: Worker<Generator>,
    counters: Arc<WorkerCounters>,
    seen: Arc<std::sync::Mutex<Seen>>,
    own_cost_ns: f64,
}

impl Bench {
    /// Nanoseconds a packet, without the generator's.
    fn run(&mut self, traffic: Traffic, is_recording: bool) -> f64 {
        {
            let mut seen = self.seen.lock().unwrap();
            seen.next = Some(traffic);
            seen.traffic = Some(traffic);
            seen.is_recording = is_recording;
        }
        let goal = self.counters.received.load() + traffic.packets;
        let began = Instant::now();
        while self.counters.received.load() < goal {
            self.worker.poll();
        }
        began.elapsed().as_nanos() as f64 / traffic.packets as f64 - self.own_cost_ns
    }
}

/// What making, receiving and sending a frame costs without a worker.
fn own_cost_ns(traffic: Traffic) -> f64 {
    let seen = Arc::new(std::sync::Mutex::new(Seen { next: Some(traffic), ..Seen::default() }));
    let mut generator = Generator::new(seen);
    let mut burst = Burst::new();
    let began = Instant::now();
    while generator.sent < traffic.packets {
        generator.receive(&mut burst);
        std::hint::black_box(&mut burst);
        generator.transmit(&mut burst);
    }
    began.elapsed().as_nanos() as f64 / traffic.packets as f64
}

fn main() -> ExitCode {
    let syns = argument("--syns", 10_000_000);
    let established = argument("--established", 1_000_000);
    let capacity = argument("--capacity", established * 2);
    let rate = argument("--rate", 125_000);

    let counts = shared_counts(REAL_SERVERS as usize);
    let (mut publisher, mut readers) = Publisher::new(Arc::new(snapshot(&counts, 0)), 1);
    let counters = WorkerCounters::new(REAL_SERVERS as usize);
    let seen =
        Arc::new(std::sync::Mutex::new(Seen { by_flow: vec![255; established as usize], ..Seen::default() }));
    let limits =
        TemplateLimits { capacity: 1024, destinations: REAL_SERVERS, keeps_call_ids: false, has_ipv6: false };
    let connections = ConnectionTable::new(capacity as u32, Pages::Any).unwrap();
    let worker = Worker::new(WorkerParts {
        fragments: dataplane::fragments::FragmentLimits::default(),
        index: 0,
        workers: 1,
        queues: vec![Generator::new(seen.clone())],
        mailbox: readers.remove(0),
        path_mtus: dataplane::path_mtus::PathMtus::new(counts.len()),
        peers: Peers::among(std::slice::from_ref(&connections)).remove(0),
        connections,
        templates: TemplateTable::new(&limits, Pages::Any).unwrap(),
        counts: counts.clone(),
        counters: counters.clone(),
        host: HostQueues::new(),
        clock: Clock::system(),
    });
    // Far apart, so that each hit meets a cold line, as the packets of a million clients do.
    let mut stride = established * 5 / 8 + 1;
    while greatest_common_divisor(stride, established) > 1 {
        stride += 1;
    }
    let of_established = |flags, packets| Traffic {
        first_address: ESTABLISHED_FROM,
        protocol: 6,
        flags,
        flows: established,
        stride,
        packets,
    };
    let flood = |first, protocol, flags, packets| Traffic {
        first_address: FLOOD_FROM.wrapping_add(first),
        protocol,
        flags,
        flows: u64::MAX / 2,
        stride: 1,
        packets,
    };
    let hits = argument("--hits", established * 5);
    let own_cost_ns = own_cost_ns(flood(0, 6, SYN, 5_000_000));
    let mut bench = Bench { worker, counters: counters.clone(), seen: seen.clone(), own_cost_ns };

    println!("{established} connections in a table of {capacity}, generator {own_cost_ns:.1} ns a packet");
    let opened = bench.run(of_established(SYN, established), true);
    bench.run(of_established(ACK, established), true);
    println!("opened, no limit       {opened:7.1} ns a connection");
    let hit = bench.run(of_established(ACK, hits), false);
    println!("hit                    {hit:7.1} ns a packet");

    publisher.publish(Arc::new(snapshot(&counts, rate as u32)));
    let memory = resident_kib();
    let floods = [
        ("SYNs", flood(0, 6, SYN, syns)),
        ("ACKs of no connection", flood(1 << 24, 6, ACK, syns / 10)),
        ("UDP datagrams", flood(2 << 24, 17, 0, syns / 10)),
    ];
    for (name, traffic) in floods {
        let cost = bench.run(traffic, false);
        println!(
            "{:>11} {name:<22} {cost:5.1} ns a packet, {:.2} of a hit, {:.1} Mpps",
            traffic.packets,
            cost / hit,
            1e3 / cost
        );
    }
    let grown = resident_kib().saturating_sub(memory);
    for &reason in StatelessReason::ALL {
        println!("stateless, {:<20} {}", reason.name(), counters.stateless(reason));
    }
    println!("opened {}, adopted {}", counters.connections_opened.load(), counters.adopted.load());
    println!("memory grown by {grown} KiB; in the table {}", counters.connections.load());

    bench.run(of_established(ACK, established), true);
    let lost = counters.dropped_total();
    let moved = seen.lock().unwrap().moved;
    println!("established connections lost {lost}, moved {moved}");
    let is_conserved = counters.received.load()
        == counters.forwarded.load() + counters.punted.load() + counters.dropped_total();
    if lost == 0 && moved == 0 && is_conserved { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
