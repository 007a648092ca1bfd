//! The way between workers and the control thread for whole frames.
//!
//! Up: workers punt frames into bounded queues, what neighbours say and ping apart, and what is for the host itself in a third
//! one; full means that the worker counts a drop. Frames go up without VLAN tag, with the interface that they came in on.
//! Down: the control thread queues frames that it made, the host interfaces those of the host; worker 0 alone sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use crate::allowance::SharedAllowance;
use crate::clock::Ticks;
use crate::port::{Frame, FramePool, PoolUsage, PortId};
use crate::snapshot::InterfaceId;
use crate::verdict::PuntQueue;

/// Frames that may wait for the control thread, in each of the two queues.
pub const PUNT_QUEUE_CAPACITY: usize = 1024;
/// Frames that may wait for worker 0, in each of its two queues.
pub const OUTGOING_QUEUE_CAPACITY: usize = 1024;
/// Frames that may wait for the host.
pub const HOST_QUEUE_CAPACITY: usize = 1024;
/// Frames that may wait in all of these queues.
pub const FRAMES_MAX: usize = 2 * PUNT_QUEUE_CAPACITY + 2 * OUTGOING_QUEUE_CAPACITY + HOST_QUEUE_CAPACITY;

/// The queues, shared by the workers, the control thread and the host interfaces.
#[derive(Debug)]
pub struct HostQueues<F> {
    neighbour: ArrayQueue<(InterfaceId, F)>,
    echo: ArrayQueue<(InterfaceId, F)>,
    host: ArrayQueue<(InterfaceId, F)>,
    outgoing: Outgoing<F>,
    from_host: Outgoing<F>,
    /// What may go to the host still, by [`PortId`].
    allowances: Box<[SharedAllowance]>,
}

/// Frames that worker 0 is to send.
#[derive(Debug)]
struct Outgoing<F> {
    frames: ArrayQueue<(PortId, F)>,
    /// How many were ever queued: worker 0 compares it once a burst, because looking into an empty `ArrayQueue` costs a
    /// fence.
    queued: CachePadded<AtomicU64>,
}

/// Who made a frame that worker 0 sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The control thread.
    Control,
    /// The host, through a host interface.
    Host,
}

impl<F> Outgoing<F> {
    fn new() -> Self {
        Outgoing {
            frames: ArrayQueue::new(OUTGOING_QUEUE_CAPACITY),
            queued: CachePadded::new(AtomicU64::new(0)),
        }
    }
}

impl<F: Frame> HostQueues<F> {
    /// Empty queues.
    pub fn new() -> Arc<Self> {
        Arc::new(HostQueues {
            neighbour: ArrayQueue::new(PUNT_QUEUE_CAPACITY),
            echo: ArrayQueue::new(PUNT_QUEUE_CAPACITY),
            host: ArrayQueue::new(HOST_QUEUE_CAPACITY),
            outgoing: Outgoing::new(),
            from_host: Outgoing::new(),
            allowances: std::iter::repeat_with(SharedAllowance::default).take(1 << u8::BITS).collect(),
        })
    }

    /// Worker: one more frame that came in on `port` may go to the host, of `rate` a second.
    pub fn may_take(&self, port: PortId, rate: u32, now: Ticks) -> bool {
        self.allowances.get(port.index()).is_some_and(|allowance| allowance.take(rate, now))
    }

    /// Worker: hands a frame to the control thread, or gives it back where the queue is full.
    pub fn punt(&self, queue: PuntQueue, interface: InterfaceId, frame: F) -> Result<(), F> {
        self.punted(queue).push((interface, frame)).map_err(|(_, frame)| frame)
    }

    /// Worker: hands a frame to the host, or gives it back where the queue is full.
    pub fn to_host(&self, interface: InterfaceId, frame: F) -> Result<(), F> {
        self.host.push((interface, frame)).map_err(|(_, frame)| frame)
    }

    fn punted(&self, queue: PuntQueue) -> &ArrayQueue<(InterfaceId, F)> {
        match queue {
            PuntQueue::Neighbour => &self.neighbour,
            PuntQueue::Echo => &self.echo,
        }
    }

    fn outgoing_of(&self, origin: Origin) -> &Outgoing<F> {
        match origin {
            Origin::Control => &self.outgoing,
            Origin::Host => &self.from_host,
        }
    }

    /// Worker 0: how many frames were ever queued for sending.
    #[inline]
    pub fn outgoing_queued(&self, origin: Origin) -> u64 {
        self.outgoing_of(origin).queued.load(Ordering::Acquire)
    }

    /// Worker 0: the next frame to send.
    pub fn next_outgoing(&self, origin: Origin) -> Option<(PortId, F)> {
        self.outgoing_of(origin).frames.pop()
    }
}

/// Why a frame of the control thread could not be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No free buffer, or the frame is larger than one.
    #[error("no buffer for a frame to send: the mbuf pool is exhausted or the frame too large")]
    NoBuffer,
    /// Worker 0 has not drained the queue.
    #[error("worker 0 has {OUTGOING_QUEUE_CAPACITY} frames still to send")]
    QueueFull,
}

/// The control thread's end, whatever the ports are made of.
pub trait HostPath: Send {
    /// Copies the next frame of `queue`, which has no VLAN tag, into `buffer` (cleared first) and returns the interface that
    /// it came in on.
    fn next_punted(&self, queue: PuntQueue, buffer: &mut Vec<u8>) -> Option<InterfaceId>;

    /// Queues a frame for sending on `port`, with the VLAN tag that it is to have.
    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError>;

    /// How many of the ports' buffers are in use.
    fn buffers(&self) -> PoolUsage;
}

/// The host interfaces' end, for a thread of their own.
pub trait HostFrames: Send {
    /// Copies the next frame for the host, which has no VLAN tag of its interface, into `buffer` (cleared first) and returns
    /// the interface that it came in on.
    fn next(&self, buffer: &mut Vec<u8>) -> Option<InterfaceId>;

    /// Queues a frame of the host for sending on `port`, with the VLAN tag that it is to have.
    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError>;
}

/// [`HostPath`] or [`HostFrames`] over a pool of frames.
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

impl<P: FramePool> HostEnd<P> {
    fn queue(&self, origin: Origin, port: PortId, bytes: &[u8]) -> Result<(), SendError> {
        let frame = self.pool.frame(bytes).ok_or(SendError::NoBuffer)?;
        let outgoing = self.queues.outgoing_of(origin);
        outgoing.frames.push((port, frame)).map_err(|_| SendError::QueueFull)?;
        outgoing.queued.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

impl<P: FramePool> HostPath for HostEnd<P> {
    fn next_punted(&self, queue: PuntQueue, buffer: &mut Vec<u8>) -> Option<InterfaceId> {
        let (interface, frame) = self.queues.punted(queue).pop()?;
        copy_whole(&frame, buffer);
        Some(interface)
    }

    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError> {
        self.queue(Origin::Control, port, bytes)
    }

    fn buffers(&self) -> PoolUsage {
        self.pool.usage()
    }
}

impl<P: FramePool> HostFrames for HostEnd<P> {
    fn next(&self, buffer: &mut Vec<u8>) -> Option<InterfaceId> {
        let (interface, frame) = self.queues.host.pop()?;
        copy_whole(&frame, buffer);
        Some(interface)
    }

    fn send(&self, port: PortId, bytes: &[u8]) -> Result<(), SendError> {
        self.queue(Origin::Host, port, bytes)
    }
}

fn copy_whole<F: Frame>(frame: &F, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(frame.length(), 0);
    let copied = frame.copy_to(0, buffer);
    buffer.truncate(copied);
}
