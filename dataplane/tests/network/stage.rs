//! Workers over ports in memory, small enough to be made anew for every case.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::clock::{Clock, ManualClock};
use dataplane::connection::ConnectionTable;
use dataplane::counters::WorkerCounters;
use dataplane::dpdk::region::Pages;
use dataplane::fragments::FragmentLimits;
use dataplane::host::{HostEnd, HostFrames, HostPath, HostQueues};
use dataplane::mailbox::Publisher;
use dataplane::memory::{MemoryFrame, MemoryPool, MemoryPort, MemoryPortConfig, MemoryQueuePair};
use dataplane::path_mtus::PathMtus;
use dataplane::persistence::{TemplateLimits, TemplateTable};
use dataplane::snapshot::{InterfaceId, Options, SharedCounts, Snapshot, shared_counts};
use dataplane::verdict::{DropReason, IcmpError, PuntQueue};
use dataplane::worker::{Peers, Worker, WorkerParts};

use super::{PORTS, SLOTS, port_mac};

/// Connections of a worker.
const CONNECTIONS: u32 = 256;
/// Frames of each port's pool.
const FRAMES: usize = 96;
/// What waits to be sent on a port: more than the most pieces that one packet is cut into.
const TX: usize = 256;

/// What stages have in common, because making it costs more than a case.
#[derive(Debug)]
pub struct Scenery {
    counts: SharedCounts,
    snapshot: Arc<Snapshot>,
    host: Arc<HostQueues<MemoryFrame>>,
}

impl Scenery {
    pub fn new(options: Options) -> Scenery {
        let counts = shared_counts(SLOTS);
        let snapshot = Arc::new(super::snapshot(&counts, options));
        Scenery { counts, snapshot, host: HostQueues::new() }
    }

    /// No real server has a connection left.
    pub fn check_counts(&self) -> Result<(), String> {
        let slots = self.counts.iter().map(|of| of.load()).enumerate();
        match slots.into_iter().find(|(_, counts)| (counts.active, counts.inactive) != (0, 0)) {
            Some((slot, counts)) => Err(format!("slot {slot} is left with {counts:?}")),
            None => Ok(()),
        }
    }
}

/// What happened to the frames that went in, by the names of counters.
pub type Counts = BTreeMap<String, u64>;

/// A frame that the control thread or the host got: the queue, the interface, the bytes.
pub type Handed = (&'static str, InterfaceId, Vec<u8>);

pub struct Stage {
    pub ports: Vec<MemoryPort>,
    pub workers: Vec<Worker<MemoryQueuePair>>,
    pub counters: Vec<Arc<WorkerCounters>>,
    pub hand: ManualClock,
    host: HostEnd<MemoryPool>,
    _publisher: Publisher<Snapshot>,
}

impl Stage {
    pub fn new(scenery: &Scenery, workers: usize) -> Stage {
        Stage::with_frames(scenery, workers, FRAMES)
    }

    /// With so many buffers for each port.
    pub fn with_frames(scenery: &Scenery, workers: usize, frames: usize) -> Stage {
        let (publisher, readers) = Publisher::new(scenery.snapshot.clone(), workers);
        let (clock, hand) = Clock::manual();
        let mut ports = Vec::new();
        let mut queues: Vec<Vec<MemoryQueuePair>> = (0..workers).map(|_| Vec::new()).collect();
        for port in 0..PORTS as u8 {
            let config = MemoryPortConfig {
                queues: workers,
                mac: port_mac(port),
                frames,
                rx_capacity: 64,
                tx_capacity: TX,
                ..MemoryPortConfig::default()
            };
            let (port, pairs) = MemoryPort::new(config);
            ports.push(port);
            for (queues, pair) in queues.iter_mut().zip(pairs) {
                queues.push(pair);
            }
        }
        let limits =
            TemplateLimits { capacity: 64, destinations: SLOTS as u32, keeps_call_ids: true, has_ipv6: true };
        let templates = TemplateTable::new(&limits, Pages::Any).expect("memory");
        let counters: Vec<_> = (0..workers).map(|_| WorkerCounters::new(SLOTS)).collect();
        let table = |_| ConnectionTable::with_families(CONNECTIONS, true, Pages::Any).expect("memory");
        let tables: Vec<_> = (0..workers).map(table).collect();
        let path_mtus = PathMtus::new(SLOTS);
        let peers = Peers::among(&tables);
        let parts = queues.into_iter().zip(readers).zip(tables).zip(peers).enumerate();
        let workers = parts.map(|(index, (((queues, mailbox), connections), peers))| {
            Worker::new(WorkerParts {
                index: index as u32,
                workers: workers as u32,
                queues,
                mailbox,
                connections,
                peers,
                templates: templates.clone(),
                counts: scenery.counts.clone(),
                path_mtus: path_mtus.clone(),
                counters: counters[index].clone(),
                host: scenery.host.clone(),
                fragments: FragmentLimits { capacity: 64, held: 32, held_per_packet: 16 },
                clock: clock.clone(),
            })
        });
        let workers = workers.collect();
        let host = HostEnd::new(scenery.host.clone(), ports[0].pool());
        Stage { ports, workers, counters, hand, host, _publisher: publisher }
    }

    /// As many rounds as it takes that nothing is under way from worker to worker.
    pub fn poll(&mut self) {
        for _ in 0..2 {
            for worker in &mut self.workers {
                worker.poll();
            }
        }
    }

    /// What came out, port by port.
    pub fn sent(&self) -> Vec<(u8, Vec<u8>)> {
        let ports = self.ports.iter().enumerate();
        ports
            .flat_map(|(port, of)| of.take_transmitted().into_iter().map(move |frame| (port as u8, frame)))
            .collect()
    }

    /// What the control thread and the host were handed.
    pub fn handed(&self) -> Vec<Handed> {
        let mut handed = Vec::new();
        let mut buffer = Vec::new();
        for (name, queue) in [("neighbour", PuntQueue::Neighbour), ("echo", PuntQueue::Echo)] {
            while let Some(interface) = self.host.next_punted(queue, &mut buffer) {
                handed.push((name, interface, std::mem::take(&mut buffer)));
            }
        }
        while let Some(interface) = HostFrames::next(&self.host, &mut buffer) {
            handed.push(("host", interface, std::mem::take(&mut buffer)));
        }
        handed
    }

    /// All counters that say what became of frames; those at 0 left out.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::new();
        for counters in &self.counters {
            let mut add = |name: &str, count: u64| {
                if count > 0 {
                    *counts.entry(name.to_string()).or_default() += count;
                }
            };
            add("forwarded", counters.forwarded.load());
            add("punted", counters.punted.load());
            add("to_host", counters.to_host.load());
            add("held", counters.fragments_held.load());
            add("originated", counters.originated.load());
            add("originated_not_sent", counters.originated_not_sent.load());
            add("stateless", counters.stateless_total());
            for &reason in DropReason::ALL {
                add(reason.name(), counters.dropped(reason));
            }
            for &kind in IcmpError::ALL {
                add(&format!("icmp_{}", kind.name()), counters.icmp_errors(kind));
                add(&format!("icmp_{}_suppressed", kind.name()), counters.icmp_suppressed(kind));
            }
            add("replies", counters.destinations.iter().map(|of| of.replies.load()).sum());
        }
        counts
    }

    /// Every frame that came in is somewhere, once.
    pub fn check_conservation(&self) -> Result<(), String> {
        for counters in &self.counters {
            let ended = counters.forwarded.load()
                + counters.punted.load()
                + counters.to_host.load()
                + counters.handed_over.load()
                + counters.dropped_total()
                + counters.fragments_held.load();
            let came = counters.received.load() + counters.taken_over.load();
            if came != ended {
                return Err(format!("{came} frames came, {ended} are accounted for: {counters:?}"));
            }
            let of_destinations = counters.destinations.iter();
            let counted: u64 = of_destinations.map(|of| of.packets.load() + of.replies.load()).sum();
            if counted != counters.forwarded.load() {
                return Err(format!("{} forwarded, {counted} by destination", counters.forwarded.load()));
            }
        }
        Ok(())
    }

    /// Lets what waits give up, takes all that lies in queues, and says which pool has not all its frames back.
    pub fn check_pools(&mut self) -> Result<(), String> {
        drop(self.sent());
        drop(self.handed());
        if self.counters.iter().any(|counters| counters.fragments_held.load() > 0) {
            self.hand.advance_seconds(31);
            for _ in 0..32 {
                self.poll();
            }
        }
        for (number, port) in self.ports.iter().enumerate() {
            let (free, all) = (port.pool().available(), port.pool().capacity());
            if free != all {
                return Err(format!("port {number}: {free} of {all} frames are back"));
            }
        }
        self.check_conservation()
    }
}
