//! Numbers, worker → control: counters with one writer each, read by anybody at any time.
//!
//! Only the worker that owns a [`Counter`] adds to it, so a plain load and a relaxed store suffice: no locked
//! instruction, no cache line that two workers write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::verdict::{DropReason, IcmpError, StatelessReason};

/// A number that only one thread changes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only for the owning thread.
    #[inline(always)]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Replaces the value; only for the owning thread.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker sent to one real server (one destination slot). On a cache line of its own, which no other worker
/// writes.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct DestinationCounters {
    /// Connections scheduled to it.
    pub connections: Counter,
    /// Packets that the port took for it.
    pub packets: Counter,
    /// Bytes of these: IP total length, as IPVS counts.
    pub bytes: Counter,
    /// Packets of it that a port took for a client (NAT).
    pub replies: Counter,
    /// Bytes of these.
    pub reply_bytes: Counter,
}

/// All numbers of one worker. When it is between two rounds:
/// `received + taken over = forwarded + punted + to host + handed over + the sum of dropped + fragments held`.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Frames taken from RX queues.
    pub received: Counter,
    /// Frames sent to a real server, or from one to a client.
    pub forwarded: Counter,
    /// Frames handed to the control thread.
    pub punted: Counter,
    /// Frames handed to the host.
    pub to_host: Counter,
    /// Frames that wait for the first fragment of their packet.
    pub fragments_held: Counter,
    /// Fragmented packets whose first fragment has come and whose others are waited for.
    pub fragmented_known: Counter,
    /// First fragments that told where the others of their packets go.
    pub fragmented_learned: Counter,
    /// Frames handed to the worker whose connection they are of.
    pub handed_over: Counter,
    /// Frames that other workers handed over, and which ended here like received ones.
    pub taken_over: Counter,
    /// Frames that the worker made itself and a port took: ICMP errors, pieces of packets.
    pub originated: Counter,
    /// Frames that the worker made itself and a port refused.
    pub originated_not_sent: Counter,
    /// Errors (ICMP) about packets that came in, sent to their senders; they count among what is originated.
    pub icmp_errors: [Counter; IcmpError::COUNT],
    /// Errors that were not made because more were due than may be sent in a second.
    pub icmp_suppressed: [Counter; IcmpError::COUNT],
    /// Frames of the host that a port took.
    pub host_sent: Counter,
    /// Frames of the host that a port refused.
    pub host_not_sent: Counter,
    /// Frames dropped, by [`DropReason`].
    pub dropped: [Counter; DropReason::COUNT],
    /// Packets among those for real servers that went there by consistent hash, without a connection, by
    /// [`StatelessReason`].
    pub stateless: [Counter; StatelessReason::COUNT],
    /// Connections among those opened whose first packets were forwarded without one.
    pub adopted: Counter,
    /// Connections of persistent clients that opened without a template: no room for one, or it would move what goes
    /// without state.
    pub untemplated: Counter,
    /// Frames of the control thread that a port took.
    pub control_sent: Counter,
    /// Frames of the control thread that a port refused.
    pub control_not_sent: Counter,
    /// Rounds of the worker's loop.
    pub rounds: Counter,
    /// Rounds that received nothing.
    pub idle_rounds: Counter,
    /// Connections in the table.
    pub connections: Counter,
    /// Connections opened since start.
    pub connections_opened: Counter,
    /// Connections that ended since start: expired, replaced on their tuple, or left by a removed real server.
    pub connections_expired: Counter,
    /// Per destination slot.
    pub destinations: Box<[DestinationCounters]>,
}

impl WorkerCounters {
    /// All zero, for so many destination slots.
    pub fn new(destinations: usize) -> Arc<Self> {
        Arc::new(WorkerCounters {
            received: Counter::default(),
            forwarded: Counter::default(),
            punted: Counter::default(),
            to_host: Counter::default(),
            fragments_held: Counter::default(),
            fragmented_known: Counter::default(),
            fragmented_learned: Counter::default(),
            handed_over: Counter::default(),
            taken_over: Counter::default(),
            originated: Counter::default(),
            originated_not_sent: Counter::default(),
            icmp_errors: std::array::from_fn(|_| Counter::default()),
            icmp_suppressed: std::array::from_fn(|_| Counter::default()),
            host_sent: Counter::default(),
            host_not_sent: Counter::default(),
            dropped: std::array::from_fn(|_| Counter::default()),
            stateless: std::array::from_fn(|_| Counter::default()),
            adopted: Counter::default(),
            untemplated: Counter::default(),
            control_sent: Counter::default(),
            control_not_sent: Counter::default(),
            rounds: Counter::default(),
            idle_rounds: Counter::default(),
            connections: Counter::default(),
            connections_opened: Counter::default(),
            connections_expired: Counter::default(),
            destinations: (0..destinations).map(|_| DestinationCounters::default()).collect(),
        })
    }

    /// Frames dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load()
    }

    /// Packets forwarded without a connection for `reason`.
    pub fn stateless(&self, reason: StatelessReason) -> u64 {
        self.stateless[reason as usize].load()
    }

    /// Packets forwarded without a connection for any reason.
    pub fn stateless_total(&self) -> u64 {
        self.stateless.iter().map(Counter::load).sum()
    }

    /// Errors sent, of this kind.
    pub fn icmp_errors(&self, kind: IcmpError) -> u64 {
        self.icmp_errors[kind as usize].load()
    }

    /// Errors of this kind that were more than may be sent.
    pub fn icmp_suppressed(&self, kind: IcmpError) -> u64 {
        self.icmp_suppressed[kind as usize].load()
    }

    /// Frames dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(Counter::load).sum()
    }
}
