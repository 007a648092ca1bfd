//! The worker: one thread, one core, one RX and one TX queue of every port, run to completion.
//!
//! A round takes a burst from each port and moves it through passes, so that one packet's cache miss is hidden behind
//! the next one's work:
//!
//! | pass | file | per packet | waits for |
//! |---|---|---|---|
//! | 1. parse | [`parse`] | headers checked, flow key read | the headers' cache line |
//! | 2. hash | [`lookup`] | key hashed, bucket prefetched | nothing |
//! | 3. candidate | [`lookup`] | tag found, entry prefetched | the bucket's line |
//! | 4. resolve | [`lookup`] | connection found and its state moved, or one opened ([`open`]) | the entry's line |
//! | 5. rewrite | [`transmit`] | MACs and TTL; into a tunnel ([`tunnel`]) | nothing |
//! | 6. sort | [`transmit`] | only where a burst does not leave whole by one port: frames to their port's lane, control thread or drop | nothing |
//! | 7. send | [`transmit`] | per burst: TX, counters | nothing |
//!
//! The thread owns its queues, connection table and counters. It never allocates, locks, logs or makes a system call.
//! Between two rounds `received + taken over = forwarded + punted + to host + handed over + dropped + fragments held` holds exactly.
//! What the worker makes itself is counted apart and leaves behind the burst ([`outlet`]): errors about what is dropped
//! ([`icmp_errors`]), and the pieces of what is too big ([`oversize`], [`fragmentation`]), which is itself counted as forwarded.
//!
//! What is no plain packet of a flow is judged in pass 4 by a file of its own: pieces of packets ([`fragment`]), translated
//! connections ([`nat`]), everything that is neither TCP, UDP nor SCTP ([`other`]). What is of another worker's connection is
//! handed to that worker ([`handover`]).

mod admission;
mod fragment;
mod fragmentation;
mod ftp;
mod handover;
mod helped;
mod icmp;
mod icmp_errors;
mod icmp_nat;
mod introduction;
mod leg;
mod local_ports;
mod lookup;
mod nat;
mod open;
mod open_translated;
mod other;
mod outlet;
mod oversize;
mod parse;
mod persist;
mod reuse;
mod segment;
mod streams;
mod transmit;
mod tunnel;
mod tunnel_errors;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::allowance::ErrorAllowance;
use crate::clock::{Clock, Ticks};
use crate::connection::table::ConnectionId;
use crate::connection::{Connection, ConnectionTable, Event, FlowKey, Ipv6Pair};
use crate::counters::WorkerCounters;
use crate::fragments::FragmentLimits;
use crate::host::HostQueues;
use crate::mailbox::MailboxReader;
use crate::packet::ipv6::ExtensionError;
use crate::path_mtus::PathMtus;
use crate::persistence::{TemplateId, TemplateSweep, TemplateTable};
use crate::port::{BURST, Burst, PortId, QueuePair};
use crate::snapshot::{InterfaceId, SharedCounts, Snapshot};
use crate::verdict::{DropReason, HandOver, PacketKind, PuntQueue, Ready, Verdict};

use admission::Admission;
use fragment::Fragments;
use icmp_errors::Reporter;
use local_ports::LocalPorts;
use outlet::{Originated, Outlet};
use parse::Ingress;
use streams::Streams;
use transmit::TxLane;
use tunnel::Identifications;

pub use handover::{INBOX_CAPACITY, Peers};

/// Frames that a worker may hold besides those of its bursts: fragments, what others hand over, and what it makes itself.
pub const FRAMES_HELD_MAX: usize = fragment::HELD_MAX + INBOX_CAPACITY + outlet::CAPACITY;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts<Q: QueuePair> {
    /// Number of the worker; worker 0 sends the control thread's frames.
    pub index: u32,
    /// How many workers there are: each ages its share of the templates.
    pub workers: u32,
    /// Its queues, by [`PortId`].
    pub queues: Vec<Q>,
    /// Where its configuration comes from.
    pub mailbox: MailboxReader<Snapshot>,
    /// Its connections.
    pub connections: ConnectionTable,
    /// The templates of all workers.
    pub templates: Arc<TemplateTable>,
    /// The other workers.
    pub peers: Peers<Q::Frame>,
    /// Connection counts of all destination slots.
    pub counts: SharedCounts,
    /// What was learnt of the paths to all destination slots.
    pub path_mtus: Arc<PathMtus>,
    /// Its numbers.
    pub counters: Arc<WorkerCounters>,
    /// Frames to and from the control thread.
    pub host: Arc<HostQueues<Q::Frame>>,
    /// How many fragmented packets it may know, and how many of their frames hold.
    pub fragments: FragmentLimits,
    /// What time it is.
    pub clock: Clock,
}

/// A worker.
#[derive(Debug)]
pub struct Worker<Q: QueuePair> {
    parts: WorkerParts<Q>,
    admission: Admission,
    local_ports: LocalPorts,
    streams: Streams,
    template_sweep: TemplateSweep,
    rx: Burst<Q::Frame>,
    packets: Box<[Packet; BURST]>,
    dropped: Burst<Q::Frame>,
    /// By [`PortId`].
    tx: Vec<TxLane<Q::Frame>>,
    originated: Originated<Q::Frame>,
    fragments: Fragments<Q::Frame>,
    /// ICMP errors that may be sent still.
    icmp_allowance: ErrorAllowance,
    /// Of outer packets.
    identifications: Identifications,
    /// What worker 0 took so far of the frames of the control thread, and of the host.
    taken_from: [u64; 2],
}

/// What the passes know of one packet of the burst.
#[derive(Clone, Copy, Debug)]
struct Packet {
    step: Step,
    /// Where it is ready: the port that it leaves by.
    exit: PortId,
    /// Where it is ready: it comes from the real server, not from the client.
    is_reply: bool,
    /// Where it is forwarded or ready: the real server's destination slot.
    slot: u32,
    key: FlowKey,
    /// Of IPv6 only; else anything.
    pair: Ipv6Pair,
    hash: u64,
    candidate: Option<ConnectionId>,
    event: Event,
    ttl: u8,
    /// What follows the IP header and its extensions.
    protocol: u8,
    /// Where the IP header begins in the frame.
    ip_offset: u8,
    /// Where the transport header begins in the frame.
    transport_offset: u16,
    /// IP total length, in bytes.
    ip_length: u16,
    /// The interface that it came in on.
    interface: InterfaceId,
    /// Another worker received it and handed it over.
    is_taken_over: bool,
    /// What of a packet the frame holds: whole ones, but where its file says otherwise ([`fragment`]).
    part: Part,
    /// Why its extension headers do not lead to a transport header.
    extension_error: Option<ExtensionError>,
}

/// What of a packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// The beginning, ports included.
    First,
}

/// How far a packet has come: what is to be judged still, or its [`Verdict`], in two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A packet of a flow, to be looked up.
    Flow,
    /// A piece of a packet.
    Fragment,
    /// IP, but neither TCP, UDP nor SCTP.
    Other,
    /// [`Verdict::Forward`].
    Forward,
    /// [`Verdict::ForwardInPieces`].
    ForwardInPieces,
    /// [`Verdict::Ready`].
    Ready,
    /// [`Verdict::InPieces`].
    InPieces,
    /// [`Verdict::Hold`].
    Hold,
    /// [`Verdict::HandOver`]; the worker's index stands in the place of the slot.
    HandOver(PacketKind),
    /// [`Verdict::Punt`].
    Punt(PuntQueue),
    /// [`Verdict::Host`].
    Host,
    /// [`Verdict::Drop`].
    Drop(DropReason),
    /// [`Verdict::TooBig`]; what size would do stands in the place of the slot.
    TooBig,
}

/// What pass 4 works with.
struct Round<'a, Q: QueuePair> {
    parts: &'a mut WorkerParts<Q>,
    admission: &'a mut Admission,
    local_ports: &'a mut LocalPorts,
    streams: &'a mut Streams,
    frames: &'a mut Burst<Q::Frame>,
    originated: &'a mut Originated<Q::Frame>,
    fragments: &'a mut Fragments<Q::Frame>,
    icmp_allowance: &'a mut ErrorAllowance,
    now: Ticks,
    now_seconds: u32,
}

impl<Q: QueuePair> Round<'_, Q> {
    /// For errors about packets.
    fn reporter(&mut self) -> Reporter<'_, Q> {
        let WorkerParts { queues, counters, mailbox, .. } = &mut *self.parts;
        Reporter {
            outlet: Outlet { queues, originated: self.originated, counters },
            snapshot: mailbox.current(),
            allowance: self.icmp_allowance,
            now: self.now,
        }
    }
}

impl Packet {
    const EMPTY: Packet = Packet {
        step: Step::Drop(DropReason::Truncated),
        exit: PortId(0),
        is_reply: false,
        slot: 0,
        key: FlowKey::EMPTY,
        pair: Ipv6Pair::NONE,
        hash: 0,
        candidate: None,
        event: Event::UDP,
        ttl: 0,
        protocol: 0,
        ip_offset: 0,
        transport_offset: 0,
        ip_length: 0,
        interface: InterfaceId(0),
        is_taken_over: false,
        part: Part::Whole,
        extension_error: None,
    };

    /// The verdict of one that is dropped.
    fn lost(&self) -> Option<Verdict> {
        match self.step {
            Step::Drop(reason) => Some(Verdict::Drop(reason)),
            Step::TooBig => Some(Verdict::TooBig(self.slot as u16)),
            _ => None,
        }
    }

    /// It ends in this verdict.
    fn settle(&mut self, verdict: Verdict) {
        self.step = match verdict {
            Verdict::Forward(slot) => {
                self.slot = slot;
                Step::Forward
            }
            Verdict::ForwardInPieces(slot) => {
                self.slot = slot;
                Step::ForwardInPieces
            }
            Verdict::Ready(Ready { slot, port, is_reply }) => {
                (self.slot, self.exit, self.is_reply) = (slot, port, is_reply);
                Step::Ready
            }
            Verdict::InPieces(Ready { slot, port, is_reply }) => {
                (self.slot, self.exit, self.is_reply) = (slot, port, is_reply);
                Step::InPieces
            }
            Verdict::TooBig(mtu) => {
                self.slot = mtu.into();
                Step::TooBig
            }
            Verdict::Hold => Step::Hold,
            Verdict::HandOver(HandOver { worker, kind }) => {
                self.slot = worker.into();
                Step::HandOver(kind)
            }
            Verdict::Punt(queue) => Step::Punt(queue),
            Verdict::Host => Step::Host,
            Verdict::Drop(reason) => Step::Drop(reason),
        };
    }
}

impl<Q: QueuePair> Worker<Q> {
    /// A worker that has not received anything yet.
    pub fn new(parts: WorkerParts<Q>) -> Self {
        let (ports, now) = (parts.queues.len(), parts.clock.now());
        let mut admission = Admission::new(now);
        Worker {
            identifications: Identifications::new(parts.index, parts.workers, admission.random()),
            admission,
            local_ports: LocalPorts::default(),
            streams: Streams::new(),
            originated: Originated::default(),
            fragments: Fragments::new(parts.fragments),
            icmp_allowance: ErrorAllowance::new(now),
            template_sweep: TemplateSweep::new(parts.index, parts.workers),
            parts,
            rx: Burst::new(),
            packets: Box::new([Packet::EMPTY; BURST]),
            dropped: Burst::new(),
            tx: (0..ports).map(|_| TxLane::default()).collect(),
            taken_from: [0; 2],
        }
    }

    /// Rounds until `stop`.
    pub fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.poll();
        }
    }

    /// One round: a burst from every port, then a bounded share of expiry and the control thread's frames.
    #[inline]
    pub fn poll(&mut self) {
        self.parts.mailbox.refresh();
        let (now, now_seconds) = self.parts.clock.read();
        let mut received = 0;
        for port in 0..self.parts.queues.len() {
            self.parts.queues[port].receive(&mut self.rx);
            if !self.rx.is_empty() {
                received += self.rx.len();
                self.forward_burst(PortId(port as u8), now, now_seconds);
            }
        }
        self.take_over(now, now_seconds);
        self.parts.counters.rounds.add(1);
        self.parts.counters.idle_rounds.add(u64::from(received == 0));
        self.expire(now);
        self.fragments.expire(now, &self.parts.counters);
        if self.parts.index == 0 {
            self.send_for_others();
        }
    }

    fn forward_burst(&mut self, port: PortId, now: Ticks, now_seconds: u32) {
        let count = self.rx.len() as u64;
        let snapshot = self.parts.mailbox.current();
        // The control thread gives every snapshot all ports.
        let Some(facts) = snapshot.ports.get(port.index()) else { return self.drop_all() };
        let ingress = Ingress {
            mac: facts.mac,
            untagged: facts.untagged,
            is_secure: snapshot.options.secure_tcp,
            port: facts,
            snapshot,
            seed: self.parts.connections.seed(),
        };
        parse::parse(&self.rx, &ingress, &mut self.packets);
        if facts.trims {
            parse::trim(&mut self.rx, &self.packets);
        }
        self.parts.counters.received.add(count);
        self.judge_burst(now, now_seconds);
    }

    fn expire(&mut self, now: Ticks) {
        let WorkerParts { mailbox, connections, templates, counts, counters, .. } = &mut self.parts;
        let snapshot = mailbox.current();
        // With the snapshot of a removed real server in force, one round trip of the sweep ends all its connections, and
        // their templates with them; those that control none go with the templates' sweep.
        let expires_removed = snapshot.options.expire_nodest_conn;
        let is_left = |slot: u32| expires_removed && lookup::is_removed(snapshot, slot);
        connections.expire_where(now, is_left, |gone| {
            if let Some(template) = gone.link.filter(|_| is_left(gone.destination)) {
                templates.invalidate(TemplateId::from_index(template));
            }
            close(gone, now, counts, templates, counters);
        });
        counters.connections.set(u64::from(connections.len()));
        self.template_sweep.expire_where(templates, now, is_left);
    }
}

/// A connection, whose link is its template, is gone: its real server has one less, and its template one less to keep.
fn close(
    gone: &Connection,
    now: Ticks,
    counts: &SharedCounts,
    templates: &TemplateTable,
    counters: &WorkerCounters,
) {
    if let Some(counts) = counts.get(gone.destination as usize) {
        counts.close(gone.state.is_active());
    }
    if let Some(template) = gone.link {
        let over = if gone.expires.is_past(now) { gone.expires } else { now };
        templates.release_after(TemplateId::from_index(template), over, now);
    }
    counters.connections_expired.add(1);
}
