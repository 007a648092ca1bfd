//! One frame in an mbuf or a chain of them, owned: a single pointer, freed into its pool when dropped.
//!
//! Any thread may hold one; a worker frees them through its own cache. The fields are read where `dpdk-sys` says that
//! they are, because DPDK 24.03 moved them into an anonymous struct. All of those read here per packet of one segment lie
//! in the mbuf's first cache line.

use std::ptr::NonNull;

use super::mempool::MbufPool;
use super::prefetch::prefetch_address;
use crate::port::{Burst, ChecksumStatus, Frame};

/// An mbuf that nobody else has, and those chained to it. Same layout as `*mut rte_mbuf`, never null.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<dpdk_sys::rte_mbuf>);

// SAFETY: an mbuf is plain memory with one owner, and its pool takes it back from any thread.
unsafe impl Send for Mbuf {}

/// refcnt 1 and nb_segs 1, read as one number: they are neighbours, and both are u16.
const ALONE: u32 = 0x0001_0001;
const _: () = assert!(dpdk_sys::dr_mbuf_nb_segs == dpdk_sys::dr_mbuf_refcnt + 2);
const _: () = assert!(dpdk_sys::dr_mbuf_refcnt.is_multiple_of(2));

/// The flags that say whose an mbuf's buffer is. Each mbuf of a chain has its own; all others are the frame's and stand in
/// its first mbuf.
const OWNERSHIP: u64 = dpdk_sys::dr_mbuf_indirect | dpdk_sys::dr_mbuf_external;

/// What a driver says of a frame that it received asks for nothing when the frame is sent, so it is left where it is.
const _: () = assert!(
    dpdk_sys::dr_mbuf_tx_offload_mask
        & (OWNERSHIP
            | dpdk_sys::dr_mbuf_rx_ip_cksum_mask
            | dpdk_sys::dr_mbuf_rx_l4_cksum_mask
            | dpdk_sys::dr_mbuf_rx_vlan
            | dpdk_sys::dr_mbuf_rx_vlan_stripped)
        == 0
);

impl Mbuf {
    /// An empty one, or nothing where the pool has none left.
    #[inline]
    pub(super) fn allocate(pool: &MbufPool) -> Option<Mbuf> {
        // SAFETY: the pool is one of mbufs and lives as long as `pool`. What comes back is null or an mbuf of which
        // this is the only reference: a direct one, of one segment, with refcnt 1.
        NonNull::new(unsafe { dpdk_sys::rte_pktmbuf_alloc(pool.as_ptr()) }).map(Mbuf)
    }

    /// Address behind its buffer.
    pub(super) fn buffer_end(&self) -> usize {
        let start: usize = self.field(dpdk_sys::dr_mbuf_buf_addr);
        start + usize::from(self.field::<u16>(dpdk_sys::dr_mbuf_buf_len))
    }

    /// Makes `bytes`, and zeros up to `length`, the frame's contents; false where they do not fit. For a frame that
    /// was just allocated.
    pub(super) fn fill(&mut self, bytes: &[u8], length: usize) -> bool {
        debug_assert!(bytes.len() <= length && self.bytes().is_empty());
        if !self.append(length) {
            return false;
        }
        if let Some(head) = self.bytes_mut().get_mut(..bytes.len()) {
            head.copy_from_slice(bytes);
        }
        true
    }

    /// Puts `tail` behind the last segment; false, and `tail` is freed, where the frame would have too many.
    pub(super) fn chain(&mut self, tail: Mbuf) -> bool {
        let length = self.field::<u32>(dpdk_sys::dr_mbuf_pkt_len);
        let Some(length) = length.checked_add(tail.field(dpdk_sys::dr_mbuf_pkt_len)) else { return false };
        let segments = self.field::<u16>(dpdk_sys::dr_mbuf_nb_segs);
        let Some(segments) = segments.checked_add(tail.field(dpdk_sys::dr_mbuf_nb_segs)) else {
            return false;
        };
        let Some(last) = self.last_mut() else { return false };
        *last.next_mut() = Some(tail);
        self.set_field(dpdk_sys::dr_mbuf_pkt_len, length);
        self.set_field(dpdk_sys::dr_mbuf_nb_segs, segments);
        true
    }

    /// A copy in one mbuf of `pool`, padded with zeros to `least`, or nothing where the pool is empty or the frame longer
    /// than an mbuf.
    pub(super) fn copy_into(&self, pool: &MbufPool, least: usize) -> Option<Mbuf> {
        let mut copy = Mbuf::allocate(pool)?;
        if !copy.append(self.length().max(least)) {
            return None;
        }
        self.copy_to(0, copy.bytes_mut());
        Some(copy)
    }

    /// Meets what MBUF_FAST_FREE demands of every mbuf of a TX queue: of `pool`, direct, one segment, refcnt 1.
    #[inline]
    pub(super) fn may_be_fast_freed_into(&self, pool: &MbufPool) -> bool {
        self.field::<*mut dpdk_sys::rte_mempool>(dpdk_sys::dr_mbuf_pool) == pool.as_ptr()
            && self.field::<u32>(dpdk_sys::dr_mbuf_refcnt) == ALONE
            && self.flags() & OWNERSHIP == 0
    }

    /// All of the frame is in this one mbuf, shared or not.
    #[inline(always)]
    pub(super) fn is_single_segment(&self) -> bool {
        self.field::<u16>(dpdk_sys::dr_mbuf_nb_segs) == 1
    }

    #[inline(always)]
    fn flags(&self) -> u64 {
        self.field(dpdk_sys::dr_mbuf_ol_flags)
    }

    #[inline(always)]
    fn data_length(&self) -> u16 {
        self.field(dpdk_sys::dr_mbuf_data_len)
    }

    /// Neither this mbuf nor its buffer is anybody else's. Where a driver hands over external buffers (mlx5's striding
    /// queues), each mbuf has a stride of its own.
    #[inline(always)]
    fn is_alone(&self) -> bool {
        self.field::<u16>(dpdk_sys::dr_mbuf_refcnt) == 1 && self.flags() & dpdk_sys::dr_mbuf_indirect == 0
    }

    /// Where this mbuf's first byte is.
    #[inline(always)]
    fn data(&self) -> *mut u8 {
        let buffer = self.field::<*mut u8>(dpdk_sys::dr_mbuf_buf_addr);
        buffer.wrapping_add(usize::from(self.field::<u16>(dpdk_sys::dr_mbuf_data_off)))
    }

    /// The mbufs of the chain, this one first.
    #[inline]
    fn segments(&self) -> impl Iterator<Item = &Mbuf> {
        std::iter::successors(Some(self), |segment| segment.next().as_ref())
    }

    /// The last mbuf of the chain.
    fn last_mut(&mut self) -> Option<&mut Mbuf> {
        let mut last = self;
        while last.next().is_some() {
            last = last.next_mut().as_mut()?;
        }
        Some(last)
    }

    /// What is chained to this mbuf.
    #[inline]
    pub(super) fn next(&self) -> &Option<Mbuf> {
        let next = self.0.as_ptr().cast::<Option<Mbuf>>().wrapping_byte_add(dpdk_sys::dr_mbuf_next);
        // SAFETY: the field `next` of a live mbuf is null or points to a live mbuf that belongs to the same frame, so to
        // self. That is how an Option<Mbuf> is laid out (a transparent NonNull), and the field is aligned as a pointer.
        // Nobody writes to it while self is borrowed.
        unsafe { &*next }
    }

    /// The same, to be changed: what is put there instead is freed with the frame.
    #[inline]
    fn next_mut(&mut self) -> &mut Option<Mbuf> {
        let next = self.0.as_ptr().cast::<Option<Mbuf>>().wrapping_byte_add(dpdk_sys::dr_mbuf_next);
        // SAFETY: as in `next`, and &mut self is the only way to this mbuf.
        unsafe { &mut *next }
    }

    /// Frees the first mbuf of a chain; the next one becomes the first, with all that is known of the frame.
    fn free_first(&mut self) {
        let length = self.field::<u32>(dpdk_sys::dr_mbuf_pkt_len) - u32::from(self.data_length());
        let segments = self.field::<u16>(dpdk_sys::dr_mbuf_nb_segs);
        let frame_flags = self.flags() & !OWNERSHIP;
        let tci = self.field::<u16>(dpdk_sys::dr_mbuf_vlan_tci);
        let Some(mut next) = self.next_mut().take() else { return };
        self.set_field(dpdk_sys::dr_mbuf_nb_segs, 1_u16);
        next.set_field(dpdk_sys::dr_mbuf_nb_segs, segments - 1);
        next.set_field(dpdk_sys::dr_mbuf_pkt_len, length);
        next.set_field(dpdk_sys::dr_mbuf_vlan_tci, tci);
        next.set_field(dpdk_sys::dr_mbuf_ol_flags, next.flags() & OWNERSHIP | frame_flags);
        *self = next;
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

    /// Adds to the frame's length; the caller sees to that of the segment.
    #[inline(always)]
    fn add_length(&mut self, bytes: u16) {
        let length = self.field::<u32>(dpdk_sys::dr_mbuf_pkt_len);
        self.set_field(dpdk_sys::dr_mbuf_pkt_len, length + u32::from(bytes));
    }
}

impl Frame for Mbuf {
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        let length = usize::from(self.data_length());
        // SAFETY: DPDK and the functions here keep data_len bytes from data_off on inside of the mbuf's buffer, which is
        // mapped and was zeroed at first, and nobody writes to it while self is borrowed: `bytes_mut` asks for &mut self
        // and sole ownership.
        unsafe { std::slice::from_raw_parts(self.data(), length) }
    }

    #[inline(always)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.is_alone() {
            return &mut [];
        }
        let length = usize::from(self.data_length());
        // SAFETY: as in `bytes`; self is borrowed mutably and nobody else has its buffer.
        unsafe { std::slice::from_raw_parts_mut(self.data(), length) }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.field::<u32>(dpdk_sys::dr_mbuf_pkt_len) as usize
    }

    #[inline(always)]
    fn is_exclusive(&self) -> bool {
        self.is_contiguous() || self.segments().all(Mbuf::is_alone)
    }

    #[inline(always)]
    fn is_contiguous(&self) -> bool {
        self.field::<u32>(dpdk_sys::dr_mbuf_refcnt) == ALONE && self.flags() & dpdk_sys::dr_mbuf_indirect == 0
    }

    #[inline]
    fn prepend(&mut self, bytes: usize) -> bool {
        let data_off = self.field::<u16>(dpdk_sys::dr_mbuf_data_off);
        let Some(bytes) = u16::try_from(bytes).ok().filter(|&bytes| bytes <= data_off) else {
            return false;
        };
        if !self.is_exclusive() {
            return false;
        }
        self.set_field(dpdk_sys::dr_mbuf_data_off, data_off - bytes);
        self.set_field(dpdk_sys::dr_mbuf_data_len, self.data_length() + bytes);
        self.add_length(bytes);
        true
    }

    #[inline]
    fn remove_front(&mut self, bytes: usize) -> bool {
        if bytes > self.length() || !self.is_exclusive() {
            return false;
        }
        let mut left = bytes;
        while !self.is_single_segment() && left >= usize::from(self.data_length()) {
            left -= usize::from(self.data_length());
            self.free_first();
        }
        // Less than the segment has, which is 16 bits.
        let left = left as u16;
        let data_off = self.field::<u16>(dpdk_sys::dr_mbuf_data_off);
        let length = self.field::<u32>(dpdk_sys::dr_mbuf_pkt_len);
        self.set_field(dpdk_sys::dr_mbuf_data_off, data_off + left);
        self.set_field(dpdk_sys::dr_mbuf_data_len, self.data_length() - left);
        self.set_field(dpdk_sys::dr_mbuf_pkt_len, length - u32::from(left));
        true
    }

    #[inline]
    fn append(&mut self, bytes: usize) -> bool {
        let Ok(more) = u16::try_from(bytes) else { return false };
        if !self.is_exclusive() {
            return false;
        }
        let Some(last) = self.last_mut() else { return false };
        let data_off = last.field::<u16>(dpdk_sys::dr_mbuf_data_off);
        let length = last.data_length();
        let room =
            last.field::<u16>(dpdk_sys::dr_mbuf_buf_len).saturating_sub(data_off).saturating_sub(length);
        if more > room {
            return false;
        }
        // SAFETY: `more` bytes after the segment's last are in its buffer (checked above), which is nobody else's (checked
        // above).
        unsafe { last.data().add(usize::from(length)).write_bytes(0, bytes) };
        last.set_field(dpdk_sys::dr_mbuf_data_len, length + more);
        self.add_length(more);
        true
    }

    #[inline]
    fn truncate(&mut self, length: usize) -> bool {
        if length > self.length() || !self.is_exclusive() {
            return false;
        }
        let (mut left, mut kept) = (length, 1_u16);
        let mut segment = &mut *self;
        while left > usize::from(segment.data_length()) {
            left -= usize::from(segment.data_length());
            kept += 1;
            match segment.next_mut() {
                Some(next) => segment = next,
                // A frame is as long as its segments together.
                None => return false,
            }
        }
        // No more than the segment had, which is 16 bits; and so is the frame's length 32.
        segment.set_field(dpdk_sys::dr_mbuf_data_len, left as u16);
        if segment.next().is_some() {
            *segment.next_mut() = None;
        }
        self.set_field(dpdk_sys::dr_mbuf_nb_segs, kept);
        self.set_field(dpdk_sys::dr_mbuf_pkt_len, length as u32);
        true
    }

    fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize {
        let (mut skip, mut copied) = (offset, 0);
        for segment in self.segments() {
            let from = segment.bytes().get(skip..).unwrap_or_default();
            let room = into.get_mut(copied..).unwrap_or_default();
            let count = from.len().min(room.len());
            if let (Some(from), Some(room)) = (from.get(..count), room.get_mut(..count)) {
                room.copy_from_slice(from);
            }
            copied += count;
            skip = skip.saturating_sub(segment.bytes().len());
        }
        copied
    }

    #[inline(always)]
    fn vlan_tci(&self) -> Option<u16> {
        let was_stripped = self.flags() & dpdk_sys::dr_mbuf_rx_vlan_stripped != 0;
        was_stripped.then(|| self.field(dpdk_sys::dr_mbuf_vlan_tci))
    }

    #[inline]
    fn clear_vlan_tci(&mut self) {
        let flags = self.flags() & !(dpdk_sys::dr_mbuf_rx_vlan | dpdk_sys::dr_mbuf_rx_vlan_stripped);
        self.set_field(dpdk_sys::dr_mbuf_ol_flags, flags);
    }

    #[inline(always)]
    fn ip_checksum(&self) -> ChecksumStatus {
        match self.flags() & dpdk_sys::dr_mbuf_rx_ip_cksum_mask {
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
        // SAFETY: self owns the mbuf and those chained to it and is gone after this. Their pool still exists: EAL is not
        // ended while an mbuf is out of its pool.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) };
    }
}

#[cfg(test)]
impl Mbuf {
    /// A second holder of the same buffers.
    pub(super) fn share(&self, pool: &MbufPool) -> Option<Mbuf> {
        // SAFETY: self is a live mbuf, the pool one of mbufs; the clone is null or an mbuf of its own.
        NonNull::new(unsafe { dpdk_sys::rte_pktmbuf_clone(self.0.as_ptr(), pool.as_ptr()) }).map(Mbuf)
    }

    /// As received by a driver that takes tags out and verifies checksums.
    pub(super) fn set_received_flags(&mut self, tci: u16) {
        let said = dpdk_sys::dr_mbuf_rx_vlan
            | dpdk_sys::dr_mbuf_rx_vlan_stripped
            | dpdk_sys::dr_mbuf_rx_ip_cksum_good;
        self.set_field(dpdk_sys::dr_mbuf_ol_flags, self.flags() | said);
        self.set_field(dpdk_sys::dr_mbuf_vlan_tci, tci);
    }
}
