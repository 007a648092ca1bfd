//! UDP (RFC 768).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// All 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port; 0 where no answer is wanted.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// Header and payload, in bytes.
    pub length: U16,
    /// Of pseudo header, header and payload; 0 where there is none.
    pub checksum: U16,
}

impl UdpHeader {
    /// The header; none where the packet is too short for it or its length is impossible.
    #[inline(always)]
    pub fn read(datagram: &[u8]) -> Option<&UdpHeader> {
        UdpHeader::read_of(datagram, datagram.len())
    }

    /// The same of a datagram of `available` bytes, of which `datagram` is the beginning.
    #[inline(always)]
    pub fn read_of(datagram: &[u8], available: usize) -> Option<&UdpHeader> {
        let (header, _) = UdpHeader::ref_from_prefix(datagram).ok()?;
        let length = usize::from(header.length.get());
        (length >= size_of::<UdpHeader>() && length <= available).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_must_lie_between_header_and_packet() {
        let mut datagram = [0; 12];
        for (length, is_good) in [(0, false), (7, false), (8, true), (12, true), (13, false), (255, false)] {
            datagram[5] = length;
            assert_eq!(UdpHeader::read(&datagram).is_some(), is_good, "{length}");
        }
        datagram[5] = 8;
        assert!(UdpHeader::read(&datagram[..7]).is_none());
    }
}
