//! Frames in memory and the pool of their buffers. Any thread may hold one; nothing here allocates but what makes a frame
//! of several segments, which only a test does.

use std::fmt;
use std::iter;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::packet::ethernet::FRAME_BYTES_MIN;
use crate::port::{ChecksumStatus, Frame, FramePool, PoolUsage};

/// A fixed number of frame buffers; clones are the same pool.
#[derive(Clone, Debug)]
pub struct MemoryPool {
    free: Arc<Buffers>,
    frame_size: usize,
    headroom: usize,
}

type Buffers = ArrayQueue<Box<[u8]>>;

impl MemoryPool {
    pub(super) fn new(frames: usize, frame_size: usize, headroom: usize) -> Self {
        let free = ArrayQueue::new(frames.max(1));
        for _ in 0..frames {
            // As many as fit, so none is refused.
            drop(free.push(vec![0; headroom + frame_size].into_boxed_slice()));
        }
        MemoryPool { free: Arc::new(free), frame_size, headroom }
    }

    /// Buffers in all.
    pub fn capacity(&self) -> usize {
        self.free.capacity()
    }

    /// Buffers that are free.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// A frame of these segments, each in a buffer of its own; nothing where the pool has too few buffers, one is too
    /// small, or there is no segment.
    pub fn frame_of_segments<'a>(&self, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<MemoryFrame> {
        let mut segments = segments.into_iter();
        let first = segments.next()?;
        let mut frame = self.take(first, first.len())?;
        for bytes in segments {
            frame.rest.push(Segment::take(&self.free, self.headroom, bytes, bytes.len())?);
        }
        Some(frame)
    }

    /// A frame whose outermost VLAN tag the port took out and keeps beside it. `tagged` has at least both MAC addresses
    /// and the tag.
    pub fn frame_without_tag(&self, tagged: &[u8]) -> Option<MemoryFrame> {
        const TAG: std::ops::Range<usize> = 12..16;
        let bytes = [&tagged[..TAG.start], &tagged[TAG.end..]].concat();
        let mut frame = self.take(&bytes, bytes.len())?;
        frame.vlan_tci = Some(u16::from_be_bytes([tagged[14], tagged[15]]));
        Some(frame)
    }

    pub(super) fn take(&self, bytes: &[u8], length: usize) -> Option<MemoryFrame> {
        Some(MemoryFrame {
            first: Segment::take(&self.free, self.headroom, bytes, length)?,
            rest: Vec::new(),
            is_shared: false,
            checksum: ChecksumStatus::Unknown,
            vlan_tci: None,
            home: self.free.clone(),
        })
    }
}

impl FramePool for MemoryPool {
    type Frame = MemoryFrame;

    /// Padded with zeros to the shortest Ethernet frame, as a real port's.
    fn frame(&self, bytes: &[u8]) -> Option<MemoryFrame> {
        if bytes.len() <= self.frame_size {
            return self.take(bytes, bytes.len().max(FRAME_BYTES_MIN));
        }
        self.frame_of_segments(bytes.chunks(self.frame_size.max(1)))
    }

    fn usage(&self) -> PoolUsage {
        let (all, free) = (self.capacity(), self.available());
        PoolUsage { buffers: all as u32, in_use: all.saturating_sub(free) as u32 }
    }
}

/// A buffer and which part of it is the frame's.
struct Segment {
    buffer: Box<[u8]>,
    start: usize,
    length: usize,
}

impl Segment {
    /// One with `bytes`, and zeros up to `length`.
    fn take(free: &Buffers, headroom: usize, bytes: &[u8], length: usize) -> Option<Segment> {
        let mut buffer = free.pop()?;
        let data = buffer.get_mut(headroom..).and_then(|data| data.get_mut(..length));
        let Some((head, tail)) = data.map(|data| data.split_at_mut(bytes.len())) else {
            drop(free.push(buffer));
            return None;
        };
        head.copy_from_slice(bytes);
        tail.fill(0);
        Some(Segment { buffer, start: headroom, length })
    }

    /// The queue has room for every buffer there is; an empty boxed slice takes no memory.
    fn give_back(&mut self, free: &Buffers) {
        drop(free.push(std::mem::take(&mut self.buffer)));
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.length]
    }
}

/// A frame in one or more of the pool's buffers, which return there when it is dropped.
pub struct MemoryFrame {
    first: Segment,
    rest: Vec<Segment>,
    is_shared: bool,
    checksum: ChecksumStatus,
    vlan_tci: Option<u16>,
    home: Arc<Buffers>,
}

impl MemoryFrame {
    /// Says of itself that somebody else has its buffers too.
    pub fn set_shared(&mut self, is_shared: bool) {
        self.is_shared = is_shared;
    }

    /// Says of itself what a NIC would of the IPv4 header checksum.
    pub fn set_ip_checksum(&mut self, checksum: ChecksumStatus) {
        self.checksum = checksum;
    }

    /// Says of itself that the port took this tag out.
    pub fn set_vlan_tci(&mut self, tci: Option<u16>) {
        self.vlan_tci = tci;
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        iter::once(&self.first).chain(&self.rest)
    }
}

impl Frame for MemoryFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        self.first.bytes()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        if self.is_shared { &mut [] } else { self.first.bytes_mut() }
    }

    #[inline]
    fn length(&self) -> usize {
        self.first.length + self.rest.iter().map(|segment| segment.length).sum::<usize>()
    }

    #[inline]
    fn is_exclusive(&self) -> bool {
        !self.is_shared
    }

    #[inline]
    fn is_contiguous(&self) -> bool {
        !self.is_shared && self.rest.is_empty()
    }

    fn prepend(&mut self, bytes: usize) -> bool {
        if self.is_shared || bytes > self.first.start {
            return false;
        }
        self.first.start -= bytes;
        self.first.length += bytes;
        true
    }

    fn remove_front(&mut self, bytes: usize) -> bool {
        if self.is_shared || bytes > self.length() {
            return false;
        }
        let mut left = bytes;
        while left >= self.first.length && !self.rest.is_empty() {
            left -= self.first.length;
            std::mem::replace(&mut self.first, self.rest.remove(0)).give_back(&self.home);
        }
        self.first.start += left;
        self.first.length -= left;
        true
    }

    fn append(&mut self, bytes: usize) -> bool {
        let last = self.rest.last_mut().unwrap_or(&mut self.first);
        let end = last.start + last.length;
        if self.is_shared || bytes > last.buffer.len() - end {
            return false;
        }
        last.buffer[end..end + bytes].fill(0);
        last.length += bytes;
        true
    }

    fn truncate(&mut self, length: usize) -> bool {
        if self.is_shared || length > self.length() {
            return false;
        }
        let mut surplus = self.length() - length;
        while let Some(mut last) = self.rest.pop_if(|last| last.length <= surplus) {
            surplus -= last.length;
            last.give_back(&self.home);
        }
        self.rest.last_mut().unwrap_or(&mut self.first).length -= surplus;
        true
    }

    fn copy_to(&self, offset: usize, into: &mut [u8]) -> usize {
        let (mut skip, mut copied) = (offset, 0);
        for segment in self.segments() {
            let from = segment.bytes().get(skip..).unwrap_or_default();
            let count = from.len().min(into.len() - copied);
            into[copied..copied + count].copy_from_slice(&from[..count]);
            copied += count;
            skip = skip.saturating_sub(segment.length);
        }
        copied
    }

    #[inline]
    fn vlan_tci(&self) -> Option<u16> {
        self.vlan_tci
    }

    #[inline]
    fn clear_vlan_tci(&mut self) {
        self.vlan_tci = None;
    }

    #[inline]
    fn ip_checksum(&self) -> ChecksumStatus {
        self.checksum
    }

    #[inline]
    fn prefetch(&self) {
        crate::dpdk::prefetch::prefetch_slice_index(&self.first.buffer, self.first.start);
    }
}

impl Drop for MemoryFrame {
    fn drop(&mut self) {
        self.first.give_back(&self.home);
        self.rest.iter_mut().for_each(|segment| segment.give_back(&self.home));
    }
}

impl fmt::Debug for MemoryFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.segments().map(Segment::bytes)).finish()
    }
}
