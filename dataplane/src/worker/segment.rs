//! A TCP segment in a frame whose bytes change: put in, taken out or replaced, with every length and checksum right afterwards.
//!
//! Headers and, for what replaces payload, the payload lie in the frame's first buffer.

use zerocopy::FromBytes;

use crate::packet::checksum::{self, ChecksumDelta};
use crate::packet::ethernet::FRAME_BYTES_MIN;
use crate::packet::ipv4::{self, Ipv4Header};
use crate::packet::ipv6::{self, Ipv6Header};
use crate::packet::tcp::{ACK, HEADER_BYTES, TcpHeader};
use crate::packet::tcp_options::{self, NO_OPERATION, TcpOption, TcpOptions};
use crate::port::Frame;
use crate::verdict::DropReason;

/// Bytes of the timestamps option, two no-operations in front of it, so that it ends on a word.
const TIMESTAMPS_BYTES: usize = 12;
/// Option: timestamps, 10 bytes.
const TIMESTAMPS: u8 = 8;

/// A frame with a TCP segment in it, as far as that is whole in its packet.
#[derive(Debug)]
pub(super) struct Segment<'a, F> {
    pub(super) frame: &'a mut F,
    /// Where the IP header begins in the frame.
    pub(super) ip_offset: usize,
    /// Where the TCP header begins in the frame.
    pub(super) transport: usize,
    /// IP total length, in bytes.
    pub(super) ip_length: usize,
}

impl<F: Frame> Segment<'_, F> {
    /// From the TCP header on, as far as the first buffer reaches, without what pads the frame.
    pub(super) fn bytes(&self) -> &[u8] {
        let bytes = self.frame.bytes();
        let end = self.end().min(bytes.len());
        bytes.get(self.transport..end).unwrap_or_default()
    }

    /// The same, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let (transport, end) = (self.transport, self.end());
        let bytes = self.frame.bytes_mut();
        let end = end.min(bytes.len());
        bytes.get_mut(transport..end).unwrap_or_default()
    }

    /// Its header.
    pub(super) fn header(&self) -> Option<TcpHeader> {
        TcpHeader::read(self.bytes()).copied()
    }

    /// Bytes of its payload, in whatever buffer.
    pub(super) fn payload_length(&self) -> usize {
        let header = self.header().map_or(0, |header| header.length());
        (self.end()).saturating_sub(self.transport + header)
    }

    /// Where the packet ends in the frame.
    fn end(&self) -> usize {
        self.ip_offset + self.ip_length
    }

    /// An option in front of all others, of a multiple of 4 bytes. Where there is no room for it, all but the timestamps give way.
    pub(super) fn put_option(&mut self, option: &[u8]) -> Result<(), DropReason> {
        let header = self.header().ok_or(DropReason::BadTransportHeader)?;
        if tcp_options::has_room(&header, option.len()) {
            return self.insert_option(option);
        }
        let timestamps = self.timestamps();
        let length = header.length() - HEADER_BYTES;
        let has_both = option.len() + TIMESTAMPS_BYTES <= length;
        let mut options = [NO_OPERATION; tcp_options::BYTES_MAX];
        if let Some(place) = options.get_mut(..option.len()) {
            place.copy_from_slice(option);
        }
        if let (Some(timestamps), true) = (timestamps, has_both)
            && let Some(place) = options.get_mut(option.len()..option.len() + TIMESTAMPS_BYTES)
        {
            place.copy_from_slice(&timestamps);
        }
        let segment = self.bytes_mut();
        let Some(place) = segment.get_mut(HEADER_BYTES..HEADER_BYTES + length) else {
            return Err(DropReason::BadTransportHeader);
        };
        let new = options.get(..length).unwrap_or_default();
        let delta = ChecksumDelta::NONE.bytes(HEADER_BYTES, place, new);
        place.copy_from_slice(new);
        patch(segment, delta);
        match timestamps {
            Some(timestamps) if !has_both => self.insert_option(&timestamps),
            _ => Ok(()),
        }
    }

    fn insert_option(&mut self, option: &[u8]) -> Result<(), DropReason> {
        if !self.frame.prepend(option.len()) {
            return Err(DropReason::NoHeadroom);
        }
        let inserted = tcp_options::insert_option(self.frame.bytes_mut(), self.transport, option);
        inserted.ok_or(DropReason::BadTransportHeader)?;
        self.set_ip_length(self.ip_length + option.len());
        Ok(())
    }

    /// The timestamps option, two no-operations in front of it.
    fn timestamps(&self) -> Option<[u8; TIMESTAMPS_BYTES]> {
        let segment = self.bytes();
        let found = TcpOptions::of(segment)?.find(|option| option.kind == TIMESTAMPS)?;
        let option = segment.get(found.offset..found.offset + found.length)?;
        let mut whole = [NO_OPERATION; TIMESTAMPS_BYTES];
        whole.get_mut(2..)?.copy_from_slice(option.get(..TIMESTAMPS_BYTES - 2)?);
        (found.length == TIMESTAMPS_BYTES - 2).then_some(whole)
    }

    /// No-operations in the place of every option of this kind.
    pub(super) fn erase_options(&mut self, kind: u8) {
        let segment = self.bytes_mut();
        // What is erased is no option any more, so that the walk begins anew, at most 20 times.
        while let Some(TcpOption { offset, length, .. }) =
            TcpOptions::of(segment).and_then(|mut options| options.find(|option| option.kind == kind))
        {
            let Some(place) = segment.get_mut(offset..offset + length) else { return };
            const NOTHING: [u8; tcp_options::BYTES_MAX] = [NO_OPERATION; tcp_options::BYTES_MAX];
            let Some(nothing) = NOTHING.get(..length) else { return };
            let delta = ChecksumDelta::NONE.bytes(offset, place, nothing);
            place.copy_from_slice(nothing);
            patch(segment, delta);
        }
    }

    /// Sets what it acknowledges.
    pub(super) fn set_acknowledgement(&mut self, new: u32) {
        let segment = self.bytes_mut();
        let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) else { return };
        let delta = ChecksumDelta::NONE.u32(u32::from_be_bytes(header.acknowledgement), new);
        header.acknowledgement = new.to_be_bytes();
        header.checksum.set(delta.apply(header.checksum.get()));
    }

    /// Bytes in front of its payload: an even number of them.
    pub(super) fn put_in_front(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        let header = self.header().ok_or(DropReason::BadTransportHeader)?.length();
        if !self.frame.prepend(bytes.len()) {
            return Err(DropReason::NoHeadroom);
        }
        let data = self.transport + header;
        let head = self.frame.bytes_mut().get_mut(..data + bytes.len());
        let head = head.ok_or(DropReason::BadTransportHeader)?;
        head.copy_within(bytes.len().., 0);
        head.get_mut(data..).ok_or(DropReason::BadTransportHeader)?.copy_from_slice(bytes);
        // The pseudo header's length too.
        let delta = ChecksumDelta::NONE.u16(0, checksum::sum(bytes)).u16(0, bytes.len() as u16);
        self.set_ip_length(self.ip_length + bytes.len());
        patch(self.bytes_mut(), delta);
        Ok(())
    }

    /// A frame of its own with these bytes in the place of the payload, made of `frame`, which is empty.
    pub(super) fn write_alone(&self, bytes: &[u8], mut frame: F) -> Option<F> {
        let header = self.header()?.length();
        let data = self.transport + header;
        let end = data + bytes.len();
        if !frame.append(end.max(FRAME_BYTES_MIN)) {
            return None;
        }
        let into = frame.bytes_mut();
        into.get_mut(..data)?.copy_from_slice(self.frame.bytes().get(..data)?);
        into.get_mut(data..end)?.copy_from_slice(bytes);
        let (ip_offset, transport) = (self.ip_offset, self.transport);
        let ip_length = end - ip_offset;
        let (tcp, _) = TcpHeader::mut_from_prefix(into.get_mut(transport..)?).ok()?;
        tcp.flags = ACK;
        let mut alone = Segment { frame: &mut frame, ip_offset, transport, ip_length: self.ip_length };
        alone.set_ip_length(ip_length);
        alone.compute_checksum();
        Some(frame)
    }

    /// The segment is as its checksum says, all of it in the first buffer.
    pub(super) fn is_intact(&self) -> bool {
        self.frame.is_contiguous() && checksum::is_intact(self.pseudo_header(), self.bytes())
    }

    /// Replaces `range` of the payload, which lies with all of the segment in the first buffer. The checksum is computed anew.
    pub(super) fn replace(&mut self, range: std::ops::Range<usize>, new: &[u8]) -> Result<(), DropReason> {
        let header = self.header().ok_or(DropReason::BadTransportHeader)?.length();
        let (from, to) = (self.transport + header + range.start, self.transport + header + range.end);
        let (old_end, new_end) = (self.end(), self.end() + new.len() - range.len());
        if from > to || to > old_end {
            return Err(DropReason::BadTransportHeader);
        }
        if !self.frame.truncate(old_end) || new_end > old_end && !self.frame.append(new_end - old_end) {
            return Err(DropReason::NoHeadroom);
        }
        let bytes = self.frame.bytes_mut();
        if bytes.len() < old_end.max(new_end) {
            return Err(DropReason::BadTransportHeader);
        }
        bytes.copy_within(to..old_end, from + new.len());
        let place = bytes.get_mut(from..from + new.len());
        place.ok_or(DropReason::BadTransportHeader)?.copy_from_slice(new);
        if new_end < old_end {
            self.frame.truncate(new_end);
        }
        if new_end < FRAME_BYTES_MIN {
            self.frame.append(FRAME_BYTES_MIN - new_end);
        }
        self.set_ip_length(new_end - self.ip_offset);
        self.compute_checksum();
        Ok(())
    }

    fn set_ip_length(&mut self, length: usize) {
        self.ip_length = length;
        let ip = self.frame.bytes_mut().get_mut(self.ip_offset..).unwrap_or_default();
        if ip.first().is_some_and(|first| first >> 4 == 6) {
            if let Ok((header, _)) = Ipv6Header::mut_from_prefix(ip) {
                header.payload_length.set(length.saturating_sub(ipv6::HEADER_BYTES) as u16);
            }
        } else if let Ok((header, _)) = Ipv4Header::mut_from_prefix(ip) {
            let delta = ChecksumDelta::NONE.u16(header.total_length.get(), length as u16);
            header.total_length.set(length as u16);
            header.checksum.set(delta.apply(header.checksum.get()));
        }
    }

    fn pseudo_header(&self) -> u16 {
        let ip = self.frame.bytes().get(self.ip_offset..).unwrap_or_default();
        let length = self.end().saturating_sub(self.transport);
        if ip.first().is_some_and(|first| first >> 4 == 6) {
            return Ipv6Header::ref_from_prefix(ip).map_or(0, |(header, _)| {
                checksum::pseudo_header_v6(&header.source, &header.destination, ipv4::TCP, length as u32)
            });
        }
        Ipv4Header::ref_from_prefix(ip).map_or(0, |(header, _)| {
            checksum::pseudo_header_v4(header.source, header.destination, ipv4::TCP, length as u16)
        })
    }

    fn compute_checksum(&mut self) {
        let pseudo_header = self.pseudo_header();
        let segment = self.bytes_mut();
        if let Ok((header, _)) = TcpHeader::mut_from_prefix(&mut *segment) {
            header.checksum.set(0);
        }
        let checksum = checksum::transport_checksum(pseudo_header, segment);
        if let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) {
            header.checksum.set(checksum);
        }
    }
}

fn patch(segment: &mut [u8], delta: ChecksumDelta) {
    if let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) {
        header.checksum.set(delta.apply(header.checksum.get()));
    }
}
