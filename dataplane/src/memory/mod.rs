//! Ports in memory: the same traits as DPDK's ports, for tests and for machines without DPDK.
//!
//! A test holds [`MemoryPort`], the world outside of the port: it injects frames and takes what was transmitted. A
//! worker holds a [`MemoryQueuePair`]. Rings are bounded and frames come from a pool allocated at the start, so a
//! worker over this port allocates nothing, as over a real one.

mod flow_hash;
mod frame;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

pub use self::frame::{MemoryFrame, MemoryPool};
use crate::port::{Burst, Frame, PortCapabilities, PortStatistics, PortStatus, QueuePair};

/// Bytes before a frame's first, as in an mbuf.
pub const HEADROOM: usize = 128;

/// How large a port in memory is.
#[derive(Clone, Debug)]
pub struct MemoryPortConfig {
    /// Queue pairs.
    pub queues: usize,
    /// Frames that wait for a worker, per queue.
    pub rx_capacity: usize,
    /// Frames that wait for the test, per queue.
    pub tx_capacity: usize,
    /// Frames in the pool; all queues share them.
    pub frames: usize,
    /// Bytes of the largest frame of one segment.
    pub frame_size: usize,
    /// Bytes free before a frame's first.
    pub headroom: usize,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// The port's MTU in bytes.
    pub mtu: u16,
}

impl Default for MemoryPortConfig {
    fn default() -> Self {
        MemoryPortConfig {
            queues: 1,
            rx_capacity: 1024,
            tx_capacity: 1024,
            frames: 8192,
            frame_size: 2048,
            headroom: HEADROOM,
            mac: [0x02, 0, 0, 0, 0, 0x01],
            mtu: 1500,
        }
    }
}

/// The test's side of a port; clones are the same port.
#[derive(Clone, Debug)]
pub struct MemoryPort {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: Vec<Queue>,
    pool: MemoryPool,
    mac: [u8; 6],
    mtu: u16,
    link_is_up: AtomicBool,
    /// Frames that one `transmit` takes at most.
    tx_limit: AtomicUsize,
}

/// The rings of a queue pair and its numbers. Each number has one writer but for those of injection, where several
/// test threads may inject.
#[derive(Debug)]
struct Queue {
    rx: ArrayQueue<MemoryFrame>,
    tx: ArrayQueue<MemoryFrame>,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    rx_missed: AtomicU64,
    rx_no_mbuf: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    replayed: AtomicU64,
    replay_stopped: AtomicBool,
}

impl Queue {
    fn new(config: &MemoryPortConfig) -> Self {
        Queue {
            rx: ArrayQueue::new(config.rx_capacity.max(1)),
            tx: ArrayQueue::new(config.tx_capacity.max(1)),
            rx_packets: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            rx_missed: AtomicU64::new(0),
            rx_no_mbuf: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            replay_stopped: AtomicBool::new(false),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl MemoryPort {
    /// A port with its link up, and its queue pairs in the order of their numbers.
    pub fn new(config: MemoryPortConfig) -> (MemoryPort, Vec<MemoryQueuePair>) {
        let shared = Arc::new(Shared {
            queues: (0..config.queues).map(|_| Queue::new(&config)).collect(),
            pool: MemoryPool::new(config.frames, config.frame_size, config.headroom),
            mac: config.mac,
            mtu: config.mtu,
            link_is_up: AtomicBool::new(true),
            tx_limit: AtomicUsize::new(usize::MAX),
        });
        let pairs = (0..config.queues)
            .map(|queue| MemoryQueuePair { shared: shared.clone(), queue, replay: None, verify: None })
            .collect();
        (MemoryPort { shared }, pairs)
    }

    /// Lets a frame arrive on a queue. False, and counted as missed or for want of a buffer, where the queue is full,
    /// the pool is empty, or the frame is larger than a buffer.
    pub fn inject(&self, queue: usize, bytes: &[u8]) -> bool {
        self.inject_made(queue, self.shared.pool.take(bytes, bytes.len()))
    }

    /// The same for a frame that arrives in several segments, cut at these offsets (ascending).
    pub fn inject_segments(&self, queue: usize, bytes: &[u8], cuts: &[usize]) -> bool {
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain(std::iter::once(bytes.len()));
        let segments = starts.zip(ends).map(|(start, end)| &bytes[start..end]);
        self.inject_made(queue, self.shared.pool.frame_of_segments(segments))
    }

    /// The same for a tagged frame whose outermost VLAN tag the port takes out, as af_packet and some NICs do.
    pub fn inject_untagging(&self, queue: usize, tagged: &[u8]) -> bool {
        self.inject_made(queue, self.shared.pool.frame_without_tag(tagged))
    }

    fn inject_made(&self, queue: usize, frame: Option<MemoryFrame>) -> bool {
        match frame {
            Some(frame) => self.inject_frame(queue, frame).is_ok(),
            None => {
                add(&self.shared.queues[queue].rx_no_mbuf, 1);
                false
            }
        }
    }

    /// The same for a frame made from the pool and marked, given back where the queue is full.
    pub fn inject_frame(&self, queue: usize, frame: MemoryFrame) -> Result<(), MemoryFrame> {
        let queue = &self.shared.queues[queue];
        queue.rx.push(frame).inspect_err(|_| add(&queue.rx_missed, 1))
    }

    /// Lets a frame arrive on the queue that its flow belongs to.
    pub fn inject_spread(&self, bytes: &[u8]) -> bool {
        self.inject(self.queue_for(bytes), bytes)
    }

    /// The queue of a frame's flow, as RSS has it: by addresses, protocol and ports, both directions on the same; a
    /// fragment's by its addresses; 0 for what is neither IPv4 nor IPv6.
    pub fn queue_for(&self, bytes: &[u8]) -> usize {
        let hash = flow_hash::of(bytes).unwrap_or(0);
        // The high bits are the well-mixed ones of a multiplicative hash.
        usize::try_from(hash >> 32).unwrap_or(0) % self.shared.queues.len().max(1)
    }

    /// Frames on a queue that the worker has not received yet.
    pub fn waiting(&self, queue: usize) -> usize {
        self.shared.queues[queue].rx.len()
    }

    /// All frames transmitted and not taken yet, queue by queue.
    pub fn take_transmitted(&self) -> Vec<Vec<u8>> {
        (0..self.shared.queues.len()).flat_map(|queue| self.take_transmitted_on(queue)).collect()
    }

    /// Those of one queue.
    pub fn take_transmitted_on(&self, queue: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.drain_transmitted(queue, |bytes| frames.push(bytes.to_vec()));
        frames
    }

    /// Shows each frame transmitted on a queue to `see` and returns how many there were.
    pub fn drain_transmitted(&self, queue: usize, mut see: impl FnMut(&[u8])) -> usize {
        // At most one ring full: a worker that keeps sending must not keep this from returning.
        let waiting = self.shared.queues[queue].tx.len();
        std::iter::from_fn(|| self.shared.queues[queue].tx.pop())
            .take(waiting)
            .map(|frame| see(&whole(&frame)))
            .count()
    }

    /// Frames that one call of `transmit` takes at most: `Some(0)` is a port that sends nothing, `None` one with no
    /// limit but its ring.
    pub fn set_tx_limit(&self, limit: Option<usize>) {
        self.shared.tx_limit.store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Takes the link up or down, which changes what the port says of it and nothing else.
    pub fn set_link(&self, is_up: bool) {
        self.shared.link_is_up.store(is_up, Ordering::Relaxed);
    }

    /// The pool of the port's frames.
    pub fn pool(&self) -> MemoryPool {
        self.shared.pool.clone()
    }

    /// Ends [`MemoryQueuePair::replay`] on all queues.
    pub fn stop_replay(&self) {
        for queue in &self.shared.queues {
            queue.replay_stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Frames that the replay on a queue has delivered.
    pub fn replayed(&self, queue: usize) -> u64 {
        self.shared.queues[queue].replayed.load(Ordering::Relaxed)
    }
}

impl PortStatus for MemoryPort {
    fn mac(&self) -> [u8; 6] {
        self.shared.mac
    }

    fn mtu(&self) -> u16 {
        self.shared.mtu
    }

    fn capabilities(&self) -> PortCapabilities {
        PortCapabilities { segments: true, ..PortCapabilities::default() }
    }

    fn link_is_up(&self) -> bool {
        self.shared.link_is_up.load(Ordering::Relaxed)
    }

    fn statistics(&self) -> PortStatistics {
        let sum = |number: fn(&Queue) -> &AtomicU64| {
            self.shared.queues.iter().map(|queue| number(queue).load(Ordering::Relaxed)).sum()
        };
        PortStatistics {
            rx_packets: sum(|queue| &queue.rx_packets),
            rx_bytes: sum(|queue| &queue.rx_bytes),
            tx_packets: sum(|queue| &queue.tx_packets),
            tx_bytes: sum(|queue| &queue.tx_bytes),
            rx_missed: sum(|queue| &queue.rx_missed),
            rx_errors: 0,
            rx_no_mbuf: sum(|queue| &queue.rx_no_mbuf),
            tx_errors: 0,
            link_is_up: self.link_is_up(),
        }
    }
}

/// All bytes of a frame.
fn whole(frame: &MemoryFrame) -> Cow<'_, [u8]> {
    if frame.length() == frame.bytes().len() {
        return Cow::Borrowed(frame.bytes());
    }
    let mut bytes = vec![0; frame.length()];
    frame.copy_to(0, &mut bytes);
    Cow::Owned(bytes)
}

/// A worker's RX and TX queue of a port in memory.
pub struct MemoryQueuePair {
    shared: Arc<Shared>,
    queue: usize,
    replay: Option<Replay>,
    verify: Option<Verify>,
}

/// Sees each frame that is transmitted.
type Verify = Box<dyn FnMut(&[u8]) + Send>;

/// Frames that arrive for ever, round and round.
#[derive(Debug)]
struct Replay {
    frames: Vec<Vec<u8>>,
    next: usize,
}

impl MemoryQueuePair {
    /// From now on `receive` always finds a frame: the next of these, round and round, until
    /// [`MemoryPort::stop_replay`]. What was injected comes first. A frame waits where the pool is empty.
    pub fn replay(&mut self, frames: Vec<Vec<u8>>) {
        self.shared.queues[self.queue].replay_stopped.store(false, Ordering::Relaxed);
        self.replay = (!frames.is_empty()).then_some(Replay { frames, next: 0 });
    }

    /// From now on each frame transmitted is shown to `see` on the worker's thread and then freed, instead of waiting
    /// in the ring.
    pub fn verify(&mut self, see: impl FnMut(&[u8]) + Send + 'static) {
        self.verify = Some(Box::new(see));
    }
}

impl QueuePair for MemoryQueuePair {
    type Frame = MemoryFrame;

    fn receive(&mut self, burst: &mut Burst<MemoryFrame>) {
        let queue = &self.shared.queues[self.queue];
        let held = burst.len();
        while !burst.is_full() {
            let Some(frame) = queue.rx.pop() else { break };
            burst.push(frame);
        }
        if let Some(replay) = self.replay.as_mut().filter(|_| !queue.replay_stopped.load(Ordering::Relaxed)) {
            let injected = burst.len();
            while !burst.is_full() {
                let bytes = &replay.frames[replay.next];
                let Some(frame) = self.shared.pool.take(bytes, bytes.len()) else { break };
                burst.push(frame);
                replay.next = (replay.next + 1) % replay.frames.len();
            }
            add(&queue.replayed, (burst.len() - injected) as u64);
        }
        let received = &burst[held..];
        add(&queue.rx_packets, received.len() as u64);
        add(&queue.rx_bytes, received.iter().map(|frame| frame.length() as u64).sum());
    }

    fn transmit(&mut self, burst: &mut Burst<MemoryFrame>) -> usize {
        let queue = &self.shared.queues[self.queue];
        let limit = self.shared.tx_limit.load(Ordering::Relaxed);
        let room = match self.verify {
            Some(_) => usize::MAX,
            // This worker is the only one that pushes, so what is free stays free.
            None => queue.tx.capacity() - queue.tx.len(),
        };
        let count = burst.len().min(limit).min(room);
        for frame in burst.drain(..count) {
            add(&queue.tx_bytes, frame.length() as u64);
            match &mut self.verify {
                Some(see) => see(&whole(&frame)),
                None => drop(queue.tx.push(frame)),
            }
        }
        add(&queue.tx_packets, count as u64);
        count
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.shared.pool.take(&[], 0)
    }
}

impl fmt::Debug for MemoryQueuePair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryQueuePair").field("queue", &self.queue).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{BURST, ChecksumStatus, FramePool};

    fn port(config: MemoryPortConfig) -> (MemoryPort, MemoryQueuePair) {
        let (port, mut pairs) = MemoryPort::new(config);
        (port, pairs.remove(0))
    }

    #[test]
    fn injected_frames_are_received_in_order_and_transmitted_ones_taken() {
        let (port, mut pair) = port(MemoryPortConfig::default());
        assert!(port.inject(0, b"first"));
        assert!(port.inject(0, b"second"));
        assert_eq!(port.waiting(0), 2);
        let mut burst = Burst::new();
        pair.receive(&mut burst);
        assert_eq!(burst.len(), 2);
        burst[1].bytes_mut()[0] = b'S';
        assert_eq!(pair.transmit(&mut burst), 2);
        assert_eq!(port.take_transmitted(), [b"first".to_vec(), b"Second".to_vec()]);
        assert_eq!(port.pool().available(), port.pool().capacity());
        let statistics = port.statistics();
        assert_eq!((statistics.rx_packets, statistics.rx_bytes), (2, 11));
        assert_eq!((statistics.tx_packets, statistics.tx_bytes), (2, 11));
        assert!(statistics.link_is_up);
    }

    #[test]
    fn receive_appends_and_leaves_what_does_not_fit() {
        let (port, mut pair) = port(MemoryPortConfig::default());
        for number in 0..BURST as u8 + 3 {
            assert!(port.inject(0, &[number]));
        }
        let mut burst = Burst::new();
        burst.push(port.pool().frame(b"held").unwrap());
        pair.receive(&mut burst);
        assert!(burst.is_full());
        assert_eq!(burst[1].bytes(), [0]);
        assert_eq!(port.waiting(0), 4);
        pair.receive(&mut burst);
        assert_eq!(port.waiting(0), 4);
    }

    #[test]
    fn full_ring_and_empty_pool_refuse_and_are_counted() {
        let (port, _pair) =
            port(MemoryPortConfig { rx_capacity: 1, frames: 2, ..MemoryPortConfig::default() });
        assert!(port.inject(0, b"fits"));
        assert!(!port.inject(0, b"ring full"));
        assert_eq!(port.pool().available(), 1, "the refused frame's buffer is back");
        let frames = port.pool().frame(b"the other buffer");
        assert!(!port.inject(0, b"no buffer"));
        drop(frames);
        assert!(!port.inject(0, &[0; 2049]), "larger than a buffer");
        let statistics = port.statistics();
        assert_eq!((statistics.rx_missed, statistics.rx_no_mbuf), (1, 2));
    }

    #[test]
    fn pool_pads_a_short_frame_with_zeros_over_what_the_buffer_held() {
        let (port, _pair) = port(MemoryPortConfig { frames: 1, ..MemoryPortConfig::default() });
        drop(port.pool().frame(&[0xff; 64]));
        let frame = port.pool().frame(b"short").unwrap();
        assert_eq!(frame.bytes().len(), 60);
        assert!(frame.bytes()[5..].iter().all(|&byte| byte == 0));
        assert!(port.pool().frame(b"exhausted").is_none());
    }

    #[test]
    fn transmit_takes_from_the_front_what_limit_and_ring_allow() {
        let (port, mut pair) = port(MemoryPortConfig { tx_capacity: 3, ..MemoryPortConfig::default() });
        for number in 0..6 {
            port.inject(0, &[number]);
        }
        let mut burst = Burst::new();
        pair.receive(&mut burst);
        port.set_tx_limit(Some(0));
        assert_eq!(pair.transmit(&mut burst), 0);
        port.set_tx_limit(Some(2));
        assert_eq!(pair.transmit(&mut burst), 2);
        port.set_tx_limit(None);
        assert_eq!(pair.transmit(&mut burst), 1, "the ring has room for one more");
        assert_eq!(burst[0].bytes(), [3]);
        assert_eq!(port.take_transmitted_on(0), [[0], [1], [2]]);
        assert_eq!(pair.transmit(&mut burst), 3);
        assert_eq!(port.statistics().tx_packets, 6);
    }

    #[test]
    fn marks_on_an_injected_frame_reach_the_worker() {
        let (port, mut pair) = port(MemoryPortConfig::default());
        let mut frame = port.pool().frame(b"marked").unwrap();
        frame.set_shared(true);
        frame.set_ip_checksum(ChecksumStatus::Bad);
        port.inject_frame(0, frame).unwrap();
        let mut burst = Burst::new();
        pair.receive(&mut burst);
        assert!(!burst[0].is_contiguous());
        assert_eq!(burst[0].ip_checksum(), ChecksumStatus::Bad);
        drop(burst);
        let fresh = port.pool().frame(b"fresh").unwrap();
        assert!(fresh.is_contiguous());
        assert_eq!(fresh.ip_checksum(), ChecksumStatus::Unknown);
    }

    #[test]
    fn replay_delivers_round_and_round_until_stopped_and_verify_sees_every_frame() {
        let (port, mut pair) = port(MemoryPortConfig { frames: 40, ..MemoryPortConfig::default() });
        let seen = Arc::new(AtomicU64::new(0));
        let count = seen.clone();
        pair.replay(vec![vec![1; 60], vec![2; 60], vec![3; 60]]);
        pair.verify(move |bytes| {
            let expected = count.fetch_add(1, Ordering::Relaxed) % 3 + 1;
            assert_eq!(u64::from(bytes[0]), expected);
        });
        let mut burst = Burst::new();
        for _ in 0..100 {
            pair.receive(&mut burst);
            assert_eq!(pair.transmit(&mut burst), BURST);
        }
        assert_eq!(port.replayed(0), 100 * BURST as u64);
        assert_eq!(seen.load(Ordering::Relaxed), port.replayed(0));
        port.stop_replay();
        pair.receive(&mut burst);
        assert!(burst.is_empty());
        assert_eq!(port.pool().available(), 40);
    }

    #[test]
    fn link_is_what_the_test_says() {
        let (port, _pair) = port(MemoryPortConfig { mtu: 9000, ..MemoryPortConfig::default() });
        port.set_link(false);
        assert!(!port.statistics().link_is_up);
        assert_eq!((port.mtu(), port.mac()), (9000, [2, 0, 0, 0, 0, 1]));
    }
}
