//! One frame in an mbuf, owned: a single pointer, freed into its pool when dropped.
//!
//! Any thread may hold one; a worker frees them through its own cache. The fields are read where `dpdk-sys` says that
//! they are, because DPDK 24.03 moved them into an anonymous struct. All of those read here per packet lie in the
//! mbuf's first cache line.

use std::ptr::NonNull;

use super::mempool::MbufPool;
use super::prefetch::prefetch_address;
use crate::port::{Burst, ChecksumStatus, Frame};

/// An mbuf that nobody else has. Same layout as `*mut rte_mbuf`, never null.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<dpdk_sys::rte_mbuf>);

// SAFETY: an mbuf is plain memory with one owner, and its pool takes it back from any thread.
unsafe impl Send for Mbuf {}

/// refcnt 1 and nb_segs 1, read as one number: they are neighbours, and both are u16.
const ALONE: u32 = 0x0001_0001;
const _: () = assert!(dpdk_sys::dr_mbuf_nb_segs == dpdk_sys::dr_mbuf_refcnt + 2);
const _: () = assert!(dpdk_sys::dr_mbuf_refcnt.is_multiple_of(2));

impl Mbuf {
    /// An empty one, or nothing where the pool has none left.
    pub(super) fn allocate(pool: &MbufPool) -> Option<Mbuf> {
        // SAFETY: the pool is one of mbufs and lives as long as `pool`. What comes back is null or an mbuf of which
        // this is the only reference: a direct one, of one segment, with refcnt 1.
        NonNull::new(unsafe { dpdk_sys::rte_pktmbuf_alloc(pool.as_ptr()) }).map(Mbuf)
    }

    /// Makes `bytes`, and zeros up to `length`, the frame's contents; false where they do not fit. For a frame that
    /// was just allocated.
    pub(super) fn fill(&mut self, bytes: &[u8], length: usize) -> bool {
        debug_assert!(bytes.len() <= length);
        let data_off = self.field::<u16>(dpdk_sys::dr_mbuf_data_off);
        let room = self.field::<u16>(dpdk_sys::dr_mbuf_buf_len).saturating_sub(data_off);
        let Some(data_len) = u16::try_from(length).ok().filter(|&length| length <= room) else {
            return false;
        };
        if !self.is_contiguous() {
            return false;
        }
        // SAFETY: `length` bytes from data_off on are in the mbuf's buffer (checked above), the buffer is this mbuf's
        // alone (checked above), and DPDK's memory was zeroed when it was mapped, so the bytes are initialised.
        let data = unsafe { std::slice::from_raw_parts_mut(self.data(), length) };
        let (head, tail) = data.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        tail.fill(0);
        self.set_field(dpdk_sys::dr_mbuf_data_len, data_len);
        self.set_field(dpdk_sys::dr_mbuf_pkt_len, u32::from(data_len));
        true
    }

    /// Meets what MBUF_FAST_FREE demands of every mbuf of a TX queue: of `pool`, direct, one segment, refcnt 1.
    #[inline]
    pub(super) fn may_be_fast_freed_into(&self, pool: &MbufPool) -> bool {
        let flags = self.field::<u64>(dpdk_sys::dr_mbuf_ol_flags);
        self.field::<*mut dpdk_sys::rte_mempool>(dpdk_sys::dr_mbuf_pool) == pool.as_ptr()
            && self.field::<u32>(dpdk_sys::dr_mbuf_refcnt) == ALONE
            && flags & (dpdk_sys::dr_mbuf_indirect | dpdk_sys::dr_mbuf_external) == 0
    }

    /// All of the frame is in this one mbuf, shared or not.
    pub(super) fn is_single_segment(&self) -> bool {
        self.field::<u16>(dpdk_sys::dr_mbuf_nb_segs) == 1
    }

    /// Where the frame's first byte is.
    #[inline(always)]
    fn data(&self) -> *mut u8 {
        let buffer = self.field::<*mut u8>(dpdk_sys::dr_mbuf_buf_addr);
        buffer.wrapping_add(usize::from(self.field::<u16>(dpdk_sys::dr_mbuf_data_off)))
    }

    /// `offset` is one of `dpdk_sys::dr_mbuf_*` and `T` that field's type (or [`ALONE`]'s u32).
    #[inline(always)]
    fn field<T: Copy>(&self, offset: usize) -> T {
        debug_assert!(offset + size_of::<T>() <= dpdk_sys::dr_mbuf_size);
        // SAFETY: self is a live mbuf, and the callers (all in this file) give offsets from DPDK's own offsetof with
        // the field's type, so the read is inside of it, aligned (ALONE: to 2, hence unaligned) and initialised.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<T>().read_unaligned() }
    }

    /// As [`Mbuf::field`].
    #[inline(always)]
    fn set_field<T: Copy>(&mut self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= dpdk_sys::dr_mbuf_size);
        // SAFETY: as in `field`, and &mut self is the only way to this mbuf.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<T>().write_unaligned(value) };
    }
}

impl Frame for Mbuf {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        let length = usize::from(self.field::<u16>(dpdk_sys::dr_mbuf_data_len));
        // SAFETY: DPDK and `fill` keep data_len bytes from data_off on inside of the mbuf's buffer, which is mapped
        // and was zeroed at first, and nobody writes to it while self is borrowed: `bytes_mut` asks for &mut self and
        // sole ownership.
        unsafe { std::slice::from_raw_parts(self.data(), length) }
    }

    /// Empty where the buffer is shared or in several segments: another holder may be reading it.
    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.is_contiguous() {
            return &mut [];
        }
        let length = usize::from(self.field::<u16>(dpdk_sys::dr_mbuf_data_len));
        // SAFETY: as in `bytes`; self is borrowed mutably and refcnt 1 of a mbuf that is not indirect means that
        // nobody else has its buffer. Where a driver hands over external buffers (mlx5's striding queues), each mbuf has
        // a stride of its own.
        unsafe { std::slice::from_raw_parts_mut(self.data(), length) }
    }

    #[inline(always)]
    fn is_contiguous(&self) -> bool {
        self.field::<u32>(dpdk_sys::dr_mbuf_refcnt) == ALONE
            && self.field::<u64>(dpdk_sys::dr_mbuf_ol_flags) & dpdk_sys::dr_mbuf_indirect == 0
    }

    #[inline(always)]
    fn ip_checksum(&self) -> ChecksumStatus {
        match self.field::<u64>(dpdk_sys::dr_mbuf_ol_flags) & dpdk_sys::dr_mbuf_rx_ip_cksum_mask {
            dpdk_sys::dr_mbuf_rx_ip_cksum_good => ChecksumStatus::Good,
            dpdk_sys::dr_mbuf_rx_ip_cksum_bad => ChecksumStatus::Bad,
            _ => ChecksumStatus::Unknown,
        }
    }

    #[inline(always)]
    fn prefetch(&self) {
        prefetch_address(self.data());
    }

    fn free_burst(burst: &mut Burst<Self>) {
        let Ok(count) = u32::try_from(burst.len()) else { return };
        let mbufs = burst.as_mut_ptr().cast::<*mut dpdk_sys::rte_mbuf>();
        // SAFETY: an Mbuf is laid out as the pointer that it is, so `mbufs` are `count` mbufs, each owned by `burst`.
        // The length is set first: from there on they are the pool's.
        unsafe {
            burst.set_len(0);
            dpdk_sys::rte_pktmbuf_free_bulk(mbufs, count);
        }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: self owns the mbuf and is gone after this. Its pool still exists: EAL is not ended while an mbuf is
        // out of its pool.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) };
    }
}
