//! One RX and one TX queue of a port: a worker's.
//!
//! The worker owns it, and nothing else touches these two queues. Bursts go through the generated wrappers of
//! `rte_eth_rx_burst` and `rte_eth_tx_burst`: inlining them by hand was measured to gain nothing and would skip DPDK's
//! own callbacks. Counts nothing.

use std::sync::Arc;

use super::mbuf::Mbuf;
use super::mempool::MbufPool;
use super::port::StartedPort;
use crate::packet::ethernet::FRAME_BYTES_MIN;
use crate::port::{BURST, Burst, QueuePair};

const _: () = assert!(BURST <= u16::MAX as usize);

/// What the driver demands of the mbufs that it is given to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// All of the port's pool, direct, of one segment and nobody else's: it frees them in bulk (MBUF_FAST_FREE).
    FastFree,
    /// Nothing: it sends a chain whole.
    Chains,
    /// One segment: of a chain it would send the first part, or read beyond it.
    SingleSegments,
}

/// RX queue n and TX queue n of a port. The port runs as long as one of these is left.
#[derive(Debug)]
pub struct PortQueuePair {
    port: u16,
    queue: u16,
    pool: MbufPool,
    sending: Sending,
    _started: Arc<StartedPort>,
}

impl PortQueuePair {
    /// The only handle to these two queues: the port makes one for each number when it has started.
    pub(super) fn new(
        port: u16,
        queue: u16,
        pool: MbufPool,
        sending: Sending,
        started: Arc<StartedPort>,
    ) -> Self {
        PortQueuePair { port, queue, pool, sending, _started: started }
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
        let offered = self.prepare(burst);
        if offered == 0 {
            return 0;
        }
        // SAFETY: as for RX in `receive`. The first `offered` pointers are mbufs that `burst` owns, and they are what the
        // driver demands (`prepare`): MBUF_FAST_FREE's contract, or one segment each. The driver owns the first `sent` afterwards, so
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

    fn is_unfit(&self, frame: &Mbuf) -> bool {
        !self.is_fit(frame)
    }

    #[inline]
    fn allocate(&mut self) -> Option<Mbuf> {
        Mbuf::allocate(&self.pool)
    }
}

impl PortQueuePair {
    /// Makes of the burst what the driver demands, and returns how many frames from the front may be sent. Nothing is done
    /// about flags: a received mbuf has none that asks a driver for something when it is sent.
    #[inline(always)]
    fn prepare(&self, burst: &mut Burst<Mbuf>) -> usize {
        let are_fit = match self.sending {
            Sending::Chains => true,
            Sending::FastFree => burst.iter().all(|mbuf| mbuf.may_be_fast_freed_into(&self.pool)),
            Sending::SingleSegments => burst.iter().all(Mbuf::is_single_segment),
        };
        if are_fit { burst.len() } else { self.copy_unfit(burst) }
    }

    #[inline(always)]
    fn is_fit(&self, mbuf: &Mbuf) -> bool {
        match self.sending {
            Sending::FastFree => mbuf.may_be_fast_freed_into(&self.pool),
            Sending::Chains => true,
            Sending::SingleSegments => mbuf.is_single_segment(),
        }
    }

    /// Replaces mbufs that the driver must not be given by copies, as far as the pool reaches. The port's pool holds any
    /// frame of its MTU in one mbuf, or the driver takes chains.
    #[cold]
    fn copy_unfit(&self, burst: &mut Burst<Mbuf>) -> usize {
        for (place, mbuf) in burst.iter_mut().enumerate() {
            if self.is_fit(mbuf) {
                continue;
            }
            match mbuf.copy_into(&self.pool, FRAME_BYTES_MIN) {
                Some(copy) => *mbuf = copy,
                None => return place,
            }
        }
        burst.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::eal::{Eal, EalConfig, HugepageUse};
    use crate::dpdk::mempool::PoolConfig;
    use crate::dpdk::port::{Port, PortConfig};
    use crate::port::{ChecksumStatus, Frame, FramePool, PortStatus};

    /// EAL starts once in a process, so these are one test.
    #[test]
    fn what_a_driver_may_not_be_given_is_copied_and_what_is_shared_is_left_alone() {
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
        foreign_mbufs_are_copied_for_a_driver_that_frees_in_bulk_as_far_as_its_pool_reaches(
            pair, &own, &other,
        );
        assert_eq!(port.statistics().tx_packets, 3);
        shared_and_chained_mbufs_are_copied_for_a_driver_that_frees_in_bulk(pair, &own, &other);
        chain_is_copied_for_a_driver_that_sends_single_segments(pair, &own, &other);
        what_was_said_of_a_frame_outlives_its_first_mbuf_and_a_tag_can_be_forgotten(&other);
        shared_mbuf_is_read_and_not_changed(&other);
        assert_eq!((own.available(), other.available()), (3, 63));
    }

    /// No driver without hardware offers MBUF_FAST_FREE, hence a port that is told to keep its contract.
    fn foreign_mbufs_are_copied_for_a_driver_that_frees_in_bulk_as_far_as_its_pool_reaches(
        pair: &mut PortQueuePair,
        own: &MbufPool,
        other: &MbufPool,
    ) {
        pair.sending = Sending::FastFree;
        let mut burst = Burst::new();
        burst.push(own.frame(b"0").unwrap());
        for number in [b"1", b"2", b"3"] {
            burst.push(other.frame(number).unwrap());
        }
        assert!(burst[0].may_be_fast_freed_into(own) && !burst[1].may_be_fast_freed_into(own));
        assert_eq!(pair.transmit(&mut burst), 3, "the pool has two for copies");
        assert_eq!((own.available(), other.available()), (0, 62));
        assert_eq!(pair.transmit(&mut burst), 0);
        assert_eq!(burst.len(), 1);
        assert_eq!(burst[0].bytes()[0], b'3');
        burst.clear();

        pair.receive(&mut burst);
        assert!(burst.iter().all(|mbuf| mbuf.may_be_fast_freed_into(own)));
        assert_eq!(burst.iter().map(|mbuf| mbuf.bytes()[0]).collect::<Vec<_>>(), *b"012");
    }

    fn shared_and_chained_mbufs_are_copied_for_a_driver_that_frees_in_bulk(
        pair: &mut PortQueuePair,
        own: &MbufPool,
        other: &MbufPool,
    ) {
        pair.sending = Sending::FastFree;
        let frame = own.frame(&[1; 100]).unwrap();
        let mut burst = Burst::new();
        burst.push(frame.share(other).unwrap());
        burst.push(other.frame_of_segments([&[2; 50][..], &[3; 70]]).unwrap());
        assert_eq!(pair.transmit(&mut burst), 2);
        pair.receive(&mut burst);
        assert!(burst.iter().all(|mbuf| mbuf.may_be_fast_freed_into(own)));
        assert_eq!(burst[0].bytes(), [1; 100]);
        assert_eq!((&burst[1].bytes()[..50], &burst[1].bytes()[50..]), (&[2; 50][..], &[3; 70][..]));
    }

    fn chain_is_copied_for_a_driver_that_sends_single_segments(
        pair: &mut PortQueuePair,
        own: &MbufPool,
        other: &MbufPool,
    ) {
        pair.sending = Sending::SingleSegments;
        let mut burst = Burst::new();
        burst.push(other.frame(b"as it is").unwrap());
        burst.push(other.frame_of_segments([&[2; 20][..], &[3; 10]]).unwrap());
        assert_eq!(pair.transmit(&mut burst), 2);
        assert_eq!((own.available(), other.available()), (2, 62));
        pair.receive(&mut burst);
        assert!(burst[1].is_contiguous());
        assert_eq!(burst[1].bytes()[..30], [[2; 10], [2; 10], [3; 10]].concat());
        assert_eq!(burst[1].bytes()[30..], [0; 30], "padded to the shortest frame");
        burst.clear();

        // Longer than an mbuf: not to be sent at all, and nothing behind it before it is taken away.
        burst.push(other.frame(&[1; 3000]).unwrap());
        burst.push(other.frame(b"behind").unwrap());
        assert_eq!(pair.transmit(&mut burst), 0);
        assert_eq!((burst.len(), own.available()), (2, 3));
        assert!(pair.is_unfit(&burst[0]) && !pair.is_unfit(&burst[1]));
    }

    fn what_was_said_of_a_frame_outlives_its_first_mbuf_and_a_tag_can_be_forgotten(pool: &MbufPool) {
        let mut frame = pool.frame_of_segments([&[0; 20][..], &[1; 10]]).unwrap();
        frame.set_received_flags(0xa064);
        assert_eq!((frame.vlan_tci(), frame.ip_checksum()), (Some(0xa064), ChecksumStatus::Good));
        assert!(frame.remove_front(20));
        assert_eq!((frame.vlan_tci(), frame.ip_checksum()), (Some(0xa064), ChecksumStatus::Good));
        frame.clear_vlan_tci();
        assert_eq!((frame.vlan_tci(), frame.ip_checksum()), (None, ChecksumStatus::Good));
    }

    fn shared_mbuf_is_read_and_not_changed(pool: &MbufPool) {
        let mut frame = pool.frame_of_segments([&[1; 60][..], &[2; 60]]).unwrap();
        let mut shared = frame.share(pool).unwrap();
        for mbuf in [&mut frame, &mut shared] {
            assert!(!mbuf.is_exclusive() && !mbuf.is_contiguous());
            assert!(mbuf.bytes_mut().is_empty());
            assert!(!mbuf.prepend(1) && !mbuf.remove_front(1) && !mbuf.append(1) && !mbuf.truncate(1));
            assert_eq!((mbuf.length(), mbuf.bytes()), (120, &[1; 60][..]));
        }
        drop(shared);
        assert!(frame.is_exclusive() && frame.prepend(1));
        // The second segment alone is somebody else's too.
        let second = frame.next().as_ref().and_then(|next| next.share(pool));
        assert!(second.is_some() && !frame.is_exclusive());
        assert!(!frame.bytes_mut().is_empty() && !frame.truncate(10));
    }
}
