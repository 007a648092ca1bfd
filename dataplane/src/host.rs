//! The way between workers and the control thread for whole frames.
//!
//! Up: workers punt frames into bounded queues, ARP and ping apart; full means that the worker counts a drop.
//! Down: the control thread queues frames that it made; worker 0 alone sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::port::{Frame, FramePool, PortId};
use crate::verdict::PuntQueue;

/// Frames that may wait for the control thread, in each of the two queues.
pub const PUNT_QUEUE_CAPACITY: usize = 1024;
/// Frames that may wait for worker 0.
pub const OUTGOING_QUEUE_CAPACITY: usize = 1024;

/// The two queues, shared by the workers and the control thread.
#[derive(Debug)]
pub struct HostQueues<F> {
    arp: ArrayQueue<(PortId, F)>,
    echo: ArrayQueue<(PortId, F)>,
    outgoing: ArrayQueue<(PortId, F)>,
    /// How many frames were ever put into `outgoing`: worker 0 compares it once a burst, because looking into an
    /// empty `ArrayQueue` costs a fence.
    outgoing_queued: CachePadded<AtomicU64>,
}

impl<F: Frame> HostQueues<F> {
    /// Empty queues.
    pub fn new() -> Arc<Self> {
        Arc::new(HostQueues {
            arp: ArrayQueue::new(PUNT_QUEUE_CAPACITY),
            echo: ArrayQueue::new(PUNT_QUEUE_CAPACITY),
            outgoing: ArrayQueue::new(OUTGOING_QUEUE_CAPACITY),
            outgoing_queued: CachePadded::new(AtomicU64::new(0)),
        })
    }

    /// Worker: hands a frame to the control thread, or gives it back where the queue is full.
    pub fn punt(&self, queue: PuntQueue, port: PortId, frame: F) -> Result<(), F> {
        self.punted(queue).push((port, frame)).map_err(|(_, frame)| frame)
    }

    fn punted(&self, queue: PuntQueue) -> &ArrayQueue<(PortId, F)> {
        match queue {
            PuntQueue::Arp => &self.arp,
            PuntQueue::Echo => &self.echo,
        }
    }

    /// Worker 0: how many frames were ever queued for sending.
    #[inline]
    pub fn outgoing_queued(&self) -> u64 {
        self.outgoing_queued.load(Ordering::Acquire)
    }

    /// Worker 0: the next frame to send.
    pub fn next_outgoing(&self) -> Option<(PortId, F)> {
        self.outgoing.pop()
    }
}

/// Why a frame of the control thread could not be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No free buffer, or the frame is larger than one.
    #[error("no buffer for a frame of the control thread: the mbuf pool is exhausted or the frame too large")]
    NoBuffer,
    /// Worker 0 has not drained the queue.
    #[error("worker 0 has {OUTGOING_QUEUE_CAPACITY} frames of the control thread still to send")]
    QueueFull,
}

/// The control thread's end, whatever the ports are made of.
pub trait HostPath: Send {
    /// Copies the next frame of `queue` into `buffer` (cleared first) and returns the port that it came in on.
    fn next_punted(&self, queue: PuntQueue, buffer: &mut Vec<u8>) -> Option<PortId>;

    /// Queues a frame for sending on `port`.
    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError>;
}

/// [`HostPath`] over a pool of frames.
#[derive(Debug)]
pub struct HostEnd<P: FramePool> {
    queues: Arc<HostQueues<P::Frame>>,
    pool: P,
}

impl<P: FramePool> HostEnd<P> {
    /// The control thread's end of `queues`; frames to send come from `pool`.
    pub fn new(queues: Arc<HostQueues<P::Frame>>, pool: P) -> Self {
        HostEnd { queues, pool }
    }
}

impl<P: FramePool> HostPath for HostEnd<P> {
    fn next_punted(&self, queue: PuntQueue, buffer: &mut Vec<u8>) -> Option<PortId> {
        let (port, frame) = self.queues.punted(queue).pop()?;
        buffer.clear();
        buffer.resize(frame.length(), 0);
        frame.copy_to(0, buffer);
        Some(port)
    }

    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError> {
        let frame = self.pool.frame(bytes).ok_or(SendError::NoBuffer)?;
        self.queues.outgoing.push((port, frame)).map_err(|_| SendError::QueueFull)?;
        self.queues.outgoing_queued.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
