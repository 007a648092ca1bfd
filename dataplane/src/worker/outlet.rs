//! Frames that the worker makes itself: errors, pieces of packets. They wait until the packets of the burst are sent.

use arrayvec::ArrayVec;

use crate::counters::WorkerCounters;
use crate::port::{BURST, Burst, PortId, QueuePair};

/// Frames that wait at once, at most. The largest packet, cut to the smallest MTU that a path may have, is fewer than 140
/// pieces.
pub(super) const CAPACITY: usize = 5 * BURST;

/// Frames that the worker made in this burst, and where they leave.
#[derive(Debug)]
pub(super) struct Originated<F>(ArrayVec<(PortId, F), CAPACITY>);

impl<F> Default for Originated<F> {
    fn default() -> Self {
        Originated(ArrayVec::new())
    }
}

impl<F> Originated<F> {
    /// Nothing waits.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What making and sending such frames takes.
pub(super) struct Outlet<'a, Q: QueuePair> {
    pub(super) queues: &'a mut [Q],
    pub(super) originated: &'a mut Originated<Q::Frame>,
    pub(super) counters: &'a WorkerCounters,
}

impl<Q: QueuePair> Outlet<'_, Q> {
    /// An empty frame that will leave by `port`.
    pub(super) fn allocate(&mut self, port: PortId) -> Option<Q::Frame> {
        self.queues.get_mut(port.index())?.allocate()
    }

    /// Room for so many frames; what waits is sent at once where there would be none else. False where there never is.
    pub(super) fn make_room(&mut self, frames: usize) -> bool {
        if self.originated.0.remaining_capacity() < frames {
            self.send();
        }
        self.originated.0.remaining_capacity() >= frames
    }

    /// Has a frame sent behind the packets of the burst. There is [room](Outlet::make_room) for it.
    pub(super) fn push(&mut self, port: PortId, frame: Q::Frame) {
        if self.make_room(1) {
            let _ = self.originated.0.try_push((port, frame));
        }
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.originated.0.len()
    }

    /// Frees all that was pushed since so many waited.
    pub(super) fn withdraw(&mut self, waiting: usize) {
        self.originated.0.truncate(waiting);
    }

    /// Sends all that waits. What its port does not take is freed.
    pub(super) fn send(&mut self) {
        for (port, frame) in self.originated.0.drain(..) {
            match send_one(self.queues, port, frame) {
                true => self.counters.originated.add(1),
                false => self.counters.originated_not_sent.add(1),
            }
        }
    }
}

/// Sends one frame; whether the port took it.
pub(super) fn send_one<Q: QueuePair>(queues: &mut [Q], port: PortId, frame: Q::Frame) -> bool {
    let mut burst = Burst::<Q::Frame>::new();
    burst.push(frame);
    queues.get_mut(port.index()).map_or(0, |queue| queue.transmit(&mut burst)) == 1
}
