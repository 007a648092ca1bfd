//! One RX and one TX queue of a port: a worker's.
//!
//! The worker owns it, and nothing else touches these two queues. Bursts go through the generated wrappers of
//! `rte_eth_rx_burst` and `rte_eth_tx_burst`: inlining them by hand was measured to gain nothing and would skip DPDK's
//! own callbacks. Counts nothing.

use std::sync::Arc;

use super::mbuf::Mbuf;
use super::mempool::MbufPool;
use super::port::StartedPort;
use crate::port::{BURST, Burst, Frame, FramePool, QueuePair};

const _: () = assert!(BURST <= u16::MAX as usize);

/// RX queue n and TX queue n of a port. The port runs as long as one of these is left.
#[derive(Debug)]
pub struct PortQueuePair {
    port: u16,
    queue: u16,
    pool: MbufPool,
    /// The pool to keep MBUF_FAST_FREE's contract with; none where the port does not use it.
    fast_free: Option<MbufPool>,
    _started: Arc<StartedPort>,
}

impl PortQueuePair {
    /// The only handle to these two queues: the port makes one for each number when it has started.
    pub(super) fn new(
        port: u16,
        queue: u16,
        pool: MbufPool,
        fast_free: Option<MbufPool>,
        started: Arc<StartedPort>,
    ) -> Self {
        PortQueuePair { port, queue, pool, fast_free, _started: started }
    }

    /// The queue's number.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl QueuePair for PortQueuePair {
    type Frame = Mbuf;

    /// Some drivers receive in multiples of four or more and give nothing where less than that still fits.
    #[inline]
    fn receive(&mut self, burst: &mut Burst<Mbuf>) {
        let held = burst.len();
        let room = burst.remaining_capacity();
        // SAFETY: RX queue `queue` of `port` was set up and started and goes on running while `_started` is held; this
        // worker is its only user (&mut self of its only handle). `room` pointers fit after the first `held`. The
        // driver writes as many mbufs as it returns, each ours from then on, and an Mbuf is laid out as the pointer.
        unsafe {
            let spare = burst.as_mut_ptr().add(held).cast::<*mut dpdk_sys::rte_mbuf>();
            let received = dpdk_sys::rte_eth_rx_burst(self.port, self.queue, spare, room as u16);
            burst.set_len(held + usize::from(received).min(room));
        }
    }

    #[inline]
    fn transmit(&mut self, burst: &mut Burst<Mbuf>) -> usize {
        let offered = match &self.fast_free {
            Some(pool) if !burst.iter().all(|mbuf| mbuf.may_be_fast_freed_into(pool)) => {
                copy_foreign(burst, pool)
            }
            _ => burst.len(),
        };
        if offered == 0 {
            return 0;
        }
        // SAFETY: as for RX in `receive`. The first `offered` pointers are mbufs that `burst` owns; MBUF_FAST_FREE's
        // contract holds for them where it is in use (checked above). The driver owns the first `sent` afterwards, so
        // they leave the burst without being dropped, and the others move to the front.
        unsafe {
            let mbufs = burst.as_mut_ptr();
            let sent = dpdk_sys::rte_eth_tx_burst(self.port, self.queue, mbufs.cast(), offered as u16);
            let sent = usize::from(sent).min(offered);
            let left = burst.len() - sent;
            burst.set_len(0);
            std::ptr::copy(mbufs.add(sent), mbufs, left);
            burst.set_len(left);
            sent
        }
    }

    #[inline]
    fn allocate(&mut self) -> Option<Mbuf> {
        Mbuf::allocate(&self.pool)
    }
}

/// Replaces mbufs that the driver must not free in bulk by copies from `pool`, and returns how many from the front
/// may be sent: all, unless the pool is empty or a frame is in several segments.
#[cold]
fn copy_foreign(burst: &mut Burst<Mbuf>, pool: &MbufPool) -> usize {
    for (place, mbuf) in burst.iter_mut().enumerate() {
        if mbuf.may_be_fast_freed_into(pool) {
            continue;
        }
        match pool.frame(mbuf.bytes()) {
            Some(copy) if mbuf.is_single_segment() => *mbuf = copy,
            _ => return place,
        }
    }
    burst.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::eal::{Eal, EalConfig, HugepageUse};
    use crate::dpdk::mempool::PoolConfig;
    use crate::dpdk::port::{Port, PortConfig};
    use crate::port::PortStatus;

    /// No driver without hardware offers MBUF_FAST_FREE, hence a port that is told to keep its contract. The only unit
    /// test that starts EAL: it starts once in a process.
    #[test]
    fn foreign_mbufs_are_copied_for_a_driver_that_frees_in_bulk_as_far_as_its_pool_reaches() {
        let config = EalConfig {
            hugepages: HugepageUse::Off,
            memory_mib: 32,
            file_prefix: format!("dr-test-queue-{}", std::process::id()),
            devices: vec!["net_ring0".to_owned()],
            ..EalConfig::default()
        };
        let eal = Eal::init(config).unwrap();
        let pool = |mbufs| MbufPool::new(&eal, &PoolConfig { mbufs, data_room: 2176, near: None }).unwrap();
        let (own, other) = (pool(3), pool(63));
        let (port, mut pairs) = Port::start(&eal, &PortConfig::new("net_ring0", 1), &own).unwrap();
        let pair = &mut pairs[0];
        pair.fast_free = Some(own.clone());

        let mut burst = Burst::new();
        burst.push(own.frame(b"0").unwrap());
        for number in [b"1", b"2", b"3"] {
            burst.push(other.frame(number).unwrap());
        }
        assert!(burst[0].may_be_fast_freed_into(&own) && !burst[1].may_be_fast_freed_into(&own));
        assert_eq!(pair.transmit(&mut burst), 3, "the pool has two for copies");
        assert_eq!((own.available(), other.available()), (0, 62));
        assert_eq!(pair.transmit(&mut burst), 0);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].bytes()[0], b'3');
        burst.clear();

        pair.receive(&mut burst);
        assert!(burst.iter().all(|mbuf| mbuf.may_be_fast_freed_into(&own)));
        assert_eq!(burst.iter().map(|mbuf| mbuf.bytes()[0]).collect::<Vec<_>>(), *b"012");
        assert_eq!(port.statistics().tx_packets, 3);
        burst.clear();
        assert_eq!((own.available(), other.available()), (3, 63));
    }
}
