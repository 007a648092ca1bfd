//! TCP (RFC 9293): ports and flags, no more is needed to forward.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// FIN flag.
pub const FIN: u8 = 0x01;
/// SYN flag.
pub const SYN: u8 = 0x02;
/// RST flag.
pub const RST: u8 = 0x04;
/// ACK flag.
pub const ACK: u8 = 0x10;

/// The fixed 20 bytes; options may follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Sequence number.
    pub sequence: [u8; 4],
    /// Acknowledgement number.
    pub acknowledgement: [u8; 4],
    /// Header length in words (4 bits), reserved bits.
    pub data_offset: u8,
    /// Flags.
    pub flags: u8,
    /// Receive window.
    pub window: U16,
    /// Of pseudo header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = size_of::<TcpHeader>();

impl TcpHeader {
    /// The header; none where the segment is too short for it or its data offset is impossible.
    #[inline(always)]
    pub fn read(segment: &[u8]) -> Option<&TcpHeader> {
        let (header, _) = TcpHeader::ref_from_prefix(segment).ok()?;
        let header_length = header.length();
        (header_length >= HEADER_BYTES && header_length <= segment.len()).then_some(header)
    }

    /// Fixed header and options, in bytes.
    #[inline(always)]
    pub fn length(&self) -> usize {
        usize::from(self.data_offset >> 4) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_offset_must_lie_between_header_and_segment() {
        let mut segment = [0; 24];
        for (offset, is_good) in [(0, false), (4, false), (5, true), (6, true), (7, false), (15, false)] {
            segment[12] = offset << 4;
            assert_eq!(TcpHeader::read(&segment).is_some(), is_good, "{offset}");
        }
        segment[12] = 5 << 4;
        assert!(TcpHeader::read(&segment[..19]).is_none());
    }
}
