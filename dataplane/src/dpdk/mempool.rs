//! The pool of mbufs: one for all ports, made before they start.
//!
//! One, because drivers that free transmitted mbufs in bulk (MBUF_FAST_FREE) put them all into the pool of the first:
//! a frame that came in on one port and leaves on another has to be of that port's pool too. Every registered thread
//! has a cache of its own in front of it. The pool's memory is given back when EAL ends.

use std::ffi::CString;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::device::{self, ANY_SOCKET};
use super::driver;
use super::eal::{Eal, HugepagesInUse, Runtime};
use super::error::Errno;
use super::mbuf::Mbuf;
use super::port::PortConfig;
use crate::host;
use crate::packet::ethernet::FRAME_BYTES_MIN;
use crate::port::{BURST, FramePool, PoolUsage};
use crate::worker;

/// Mbufs that a thread keeps to itself, at most; half of what DPDK allows, eight bursts.
const CACHE: u32 = 256;
const _: () = assert!(CACHE <= dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE);

/// What an mbuf costs besides its data room: the mempool's header, the mbuf, and padding that spreads the objects
/// over the memory channels.
const BYTES_BESIDE_DATA: u64 = 64 + dpdk_sys::dr_mbuf_size as u64 + 64;

/// The pool's own ring and caches (128 lcores of 12 KiB), and what an allocator in whole pages adds to them.
const BYTES_BESIDE_MBUFS: u64 = 4 << 20;

/// How large a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Mbufs; a power of two less one uses memory best.
    pub mbufs: u32,
    /// Bytes of an mbuf for data, with the 128 bytes of headroom.
    pub data_room: u16,
    /// The device whose NUMA node it should lie on.
    pub near: Option<String>,
}

impl PoolConfig {
    /// Enough for these ports: all descriptors full, each worker with its bursts in hand and all that it may hold, every
    /// thread's cache full, and the queues to and from the control thread and the host full.
    pub fn for_ports(ports: &[PortConfig]) -> Self {
        let workers = ports.iter().map(|port| u64::from(port.workers)).max().unwrap_or(0);
        let queues: u64 = ports
            .iter()
            .map(|port| {
                let descriptors = u64::from(port.rx_descriptors) + u64::from(port.tx_descriptors);
                u64::from(port.workers) * (descriptors + 4 * BURST as u64)
            })
            .sum();
        // The control thread has a cache as well. DPDK flushes one at one and a half times its size.
        let caches = (workers + 1) * u64::from(CACHE) * 3 / 2;
        let held = workers * worker::FRAMES_HELD_MAX as u64 + host::FRAMES_MAX as u64;
        // A ring, and so a pool, holds a power of two less one.
        let mbufs = (queues + caches + held + 1).next_power_of_two() - 1;
        let by_driver =
            ports.iter().map(|port| driver::least_buffer(&port.device) + dpdk_sys::RTE_PKTMBUF_HEADROOM);
        let frame = by_driver.max().unwrap_or(0);
        PoolConfig {
            mbufs: u32::try_from(mbufs).unwrap_or(u32::MAX),
            data_room: u16::try_from(frame.max(dpdk_sys::RTE_MBUF_DEFAULT_BUF_SIZE)).unwrap_or(u16::MAX),
            near: ports.first().map(|port| port.device.clone()),
        }
    }

    /// About how much memory it needs, in MiB, rounded up.
    pub fn memory_mib(&self) -> u32 {
        let bytes =
            u64::from(self.mbufs) * (u64::from(self.data_room) + BYTES_BESIDE_DATA) + BYTES_BESIDE_MBUFS;
        u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
    }

    /// A cache no larger than lets every thread of a small pool have one.
    fn cache(&self) -> u32 {
        (self.mbufs / 16).min(CACHE)
    }
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Too few, or a data room that holds no frame.
    #[error(
        "mbuf pool: {mbufs} mbufs with {data_room} bytes: at least 1 mbuf and {smallest} bytes are needed"
    )]
    TooSmall {
        /// Mbufs asked for.
        mbufs: u32,
        /// Data room asked for.
        data_room: u16,
        /// The least data room.
        smallest: u16,
    },
    /// DPDK refused, mostly for want of memory.
    #[error(
        "mbuf pool: DPDK did not make {mbufs} mbufs with {data_room} bytes ({source}): they need about \
         {needed_mib} MiB, DPDK was started for {memory_mib} MiB; give it more memory or hugepages, or use \
         fewer descriptors or mbufs"
    )]
    Refused {
        /// Mbufs asked for.
        mbufs: u32,
        /// Data room asked for.
        data_room: u16,
        /// What that takes.
        needed_mib: u32,
        /// What EAL was started with.
        memory_mib: u32,
        /// DPDK's reason.
        source: Errno,
    },
}

/// A handle to the pool; clones are handles to the same.
#[derive(Clone, Debug)]
pub struct MbufPool {
    pool: NonNull<dpdk_sys::rte_mempool>,
    capacity: u32,
    data_room: u16,
    _runtime: Arc<Runtime>,
}

// SAFETY: DPDK's mempool is made for use by many threads; a cache in it is used by the thread of its lcore id only.
unsafe impl Send for MbufPool {}
// SAFETY: as above.
unsafe impl Sync for MbufPool {}

impl MbufPool {
    /// A pool of this size, all of it allocated.
    pub fn new(eal: &Eal, config: &PoolConfig) -> Result<MbufPool, PoolError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);

        let PoolConfig { mbufs, data_room, .. } = *config;
        let smallest = dpdk_sys::RTE_PKTMBUF_HEADROOM as u16 + FRAME_BYTES_MIN as u16;
        if mbufs == 0 || data_room < smallest {
            return Err(PoolError::TooSmall { mbufs, data_room, smallest });
        }
        let name =
            CString::new(format!("dr_mbufs_{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap_or_default();
        let socket = config.near.as_deref().map_or(ANY_SOCKET, device::socket_of);
        let runtime = eal.runtime();
        let has_small_pages = *eal.hugepages() != HugepagesInUse::Yes;
        let mbufs = match runtime.maps_packed_pools && has_small_pages {
            true => with_those_beyond(mbufs, data_room),
            false => mbufs,
        };
        // SAFETY: EAL runs, since `eal` is borrowed; the name is NUL-terminated and copied; DPDK checks the numbers.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create(name.as_ptr(), mbufs, config.cache(), 0, data_room, socket)
        };
        let Some(pool) = NonNull::new(pool) else {
            return Err(PoolError::Refused {
                mbufs,
                data_room,
                needed_mib: config.memory_mib(),
                memory_mib: runtime.memory_mib,
                source: Errno::of_thread(),
            });
        };
        let mut pool = MbufPool { pool, capacity: mbufs, data_room, _runtime: runtime.clone() };
        if runtime.maps_packed_pools {
            pool.capacity -= pool.give_up_those_beyond();
        }
        runtime.add_pool(pool.pool, pool.capacity);
        Ok(pool)
    }

    /// Takes the mbufs out for good that a [driver](super::driver::maps_packed_pool) does not map; returns how many.
    fn give_up_those_beyond(&self) -> u32 {
        // SAFETY: a pool that was just made, read by nobody else.
        let end = unsafe { dpdk_sys::dr_mempool_packed_end(self.pool.as_ptr()) };
        let all: Vec<Mbuf> = std::iter::from_fn(|| Mbuf::allocate(self)).collect();
        let beyond = all.into_iter().filter(|mbuf| mbuf.buffer_end() > end);
        // The pool's memory goes all the same when EAL ends.
        beyond.map(mem::forget).count() as u32
    }

    /// Mbufs in all.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Mbufs in the pool and the threads' caches: exact while nobody takes or gives any.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as the runtime, which self holds; any thread may count.
        unsafe { dpdk_sys::rte_mempool_avail_count(self.pool.as_ptr()) }
    }

    /// Bytes of an mbuf for data, with the headroom.
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// A frame of these segments, each in an mbuf of its own; nothing where the pool has too few mbufs, one is too small,
    /// or there is no segment.
    pub fn frame_of_segments<'a>(&self, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<Mbuf> {
        let segment = |bytes: &[u8]| {
            let mut segment = Mbuf::allocate(self)?;
            segment.fill(bytes, bytes.len()).then_some(segment)
        };
        let mut segments = segments.into_iter();
        let mut frame = segment(segments.next()?)?;
        segments.all(|bytes| segment(bytes).is_some_and(|next| frame.chain(next))).then_some(frame)
    }

    pub(super) fn as_ptr(&self) -> *mut dpdk_sys::rte_mempool {
        self.pool.as_ptr()
    }
}

impl FramePool for MbufPool {
    type Frame = Mbuf;

    /// Pads with zeros to the shortest Ethernet frame: what another packet left in the buffer must not go out.
    fn frame(&self, bytes: &[u8]) -> Option<Mbuf> {
        let room = usize::from(self.data_room) - dpdk_sys::RTE_PKTMBUF_HEADROOM as usize;
        if bytes.len() <= room {
            let mut mbuf = Mbuf::allocate(self)?;
            return mbuf.fill(bytes, bytes.len().max(FRAME_BYTES_MIN)).then_some(mbuf);
        }
        self.frame_of_segments(bytes.chunks(room))
    }

    fn usage(&self) -> PoolUsage {
        PoolUsage { buffers: self.capacity, in_use: self.capacity.saturating_sub(self.available()) }
    }
}

/// As many as it takes for `mbufs` of them to be mapped, without hugepages: there each lies in a page of its own, or few of them do.
fn with_those_beyond(mbufs: u32, data_room: u16) -> u32 {
    const PAGE: u64 = 4096;
    let element = dpdk_sys::dr_mbuf_size as u32 + u32::from(data_room);
    // SAFETY: computes; no details are asked for.
    let object = u64::from(unsafe { dpdk_sys::rte_mempool_calc_obj_size(element, 0, std::ptr::null_mut()) });
    let Some(bytes_each) = PAGE.checked_div(PAGE / object.max(1)) else { return mbufs };
    let all = (u64::from(mbufs) * bytes_each).div_ceil(object);
    u32::try_from(all).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_for_ports_holds_every_descriptor_burst_cache_and_queue() {
        let one = PoolConfig::for_ports(&[PortConfig::new("net_null0", 1)]);
        // 1024 + 1024 descriptors, 128 in bursts, 2 caches of 384, 1440 that the worker holds, 5120 for control thread and
        // host: 9504, in 2^14 - 1.
        assert_eq!(one, PoolConfig { mbufs: 16_383, data_room: 2176, near: Some("net_null0".to_owned()) });
        let four = PoolConfig::for_ports(&[PortConfig::new("net_null0", 4), PortConfig::new("net_null1", 4)]);
        // 8 queue pairs of 2176, 5 caches of 384, 4 times 1440, 5120: 30,208.
        assert_eq!(four.mbufs, 32_767);
    }

    #[test]
    fn data_room_is_what_drivers_want_however_large_the_mtu() {
        let mut port = PortConfig::new("net_null0", 1);
        port.mtu = Some(9000);
        // In several, where the driver can.
        assert_eq!(PoolConfig::for_ports(&[port.clone()]).data_room, 2176);
        port.device = "net_af_packet0,iface=eth1,framesz=16384,blocksz=16384".to_owned();
        assert_eq!(PoolConfig::for_ports(&[port]).data_room, 16384 - 32 + 128);
    }

    #[test]
    fn memory_of_a_pool_is_said_in_whole_mib() {
        let config = PoolConfig { mbufs: 8191, data_room: 2176, near: None };
        assert_eq!(config.memory_mib(), 23);
    }
}
