//! IPv4 (RFC 791), checked as RFC 1812 section 5.2.2 demands of a router.

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum;
use crate::port::ChecksumStatus;
use crate::verdict::DropReason;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Version 4, header of 20 bytes.
const VERSION_AND_LENGTH_PLAIN: u8 = 0x45;
/// More-fragments flag and fragment offset.
const FRAGMENT_MASK: u16 = 0x3fff;

/// The fixed 20 bytes; options may follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    /// Version (4 bits) and header length in words (4 bits).
    pub version_and_length: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Header and payload, in bytes.
    pub total_length: U16,
    /// Identification of the fragments of one packet.
    pub identification: U16,
    /// Flags (3 bits) and fragment offset in units of 8 bytes (13 bits).
    pub flags_and_offset: U16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Of the header, options included.
    pub checksum: U16,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = size_of::<Ipv4Header>();

impl Ipv4Header {
    /// The header of a packet that may be forwarded, and its payload, without what pads the frame.
    ///
    /// Errors: `Truncated`, `BadIpHeader`, `BadIpChecksum`, `BadSource`.
    #[inline(always)]
    pub fn read(packet: &[u8], checksum: ChecksumStatus) -> Result<(&Ipv4Header, &[u8]), DropReason> {
        let Ok((header, _)) = Ipv4Header::ref_from_prefix(packet) else {
            return Err(DropReason::Truncated);
        };
        let header_length = match header.version_and_length {
            VERSION_AND_LENGTH_PLAIN => HEADER_BYTES,
            other if other >> 4 == 4 && other & 15 > 5 => usize::from(other & 15) * 4,
            _ => return Err(DropReason::BadIpHeader),
        };
        let total_length = usize::from(header.total_length.get());
        if total_length < header_length {
            return Err(DropReason::BadIpHeader);
        }
        let Some(packet) = packet.get(..total_length) else {
            return Err(DropReason::Truncated);
        };
        let (bytes, payload) = packet.split_at(header_length);
        let checksum_is_good = match checksum {
            ChecksumStatus::Good => true,
            ChecksumStatus::Unknown => header_sum(bytes) == 0xffff,
            ChecksumStatus::Bad => false,
        };
        if !checksum_is_good {
            return Err(DropReason::BadIpChecksum);
        }
        if header.source_is_impossible() {
            return Err(DropReason::BadSource);
        }
        Ok((header, payload))
    }

    /// RFC 1812 section 5.3.7: 0/8, 127/8, multicast, class E and broadcast are nobody's source address; a source
    /// equal to the destination is the LAND attack.
    #[inline(always)]
    fn source_is_impossible(&self) -> bool {
        let first = self.source[0];
        first == 0 || first == 127 || first >= 224 || self.source == self.destination
    }

    /// It is a piece of a larger packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.flags_and_offset.get() & FRAGMENT_MASK != 0
    }

    /// Destination address.
    pub fn destination_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.destination)
    }

    /// Source address.
    pub fn source_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.source)
    }
}

/// Sum over a header of whole 32-bit words; the order of bytes does not matter to whether it is 0xffff.
#[inline(always)]
fn header_sum(header: &[u8]) -> u16 {
    let word = |bytes: &[u8; 4]| u64::from(u32::from_ne_bytes(*bytes));
    checksum::fold(header.as_chunks::<4>().0.iter().map(word).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 28, 1, 2, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10];
        bytes.extend([0; 8]);
        change(&mut bytes);
        let header_length = usize::from(bytes[0] & 15) * 4;
        bytes[10..12].fill(0);
        let sum = checksum::checksum(&bytes[..header_length.clamp(20, bytes.len())]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<usize, DropReason> {
        Ipv4Header::read(bytes, ChecksumStatus::Unknown).map(|(_, payload)| payload.len())
    }

    #[test]
    fn good_header_is_read_and_padding_left_out() {
        assert_eq!(read(&packet(|_| {})), Ok(8));
        assert_eq!(read(&packet(|bytes| bytes.extend([0xff; 18]))), Ok(8));
    }

    #[test]
    fn every_prefix_is_truncated() {
        let whole = packet(|_| {});
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), Err(DropReason::Truncated), "{length}");
        }
    }

    #[test]
    fn options_are_skipped_and_summed() {
        let with_options = packet(|bytes| {
            bytes[0] = 0x46;
            bytes[3] = 32;
            bytes.splice(20..20, [1, 1, 1, 0]);
        });
        assert_eq!(read(&with_options), Ok(8));
        let mut broken = with_options.clone();
        broken[20] = 7;
        assert_eq!(read(&broken), Err(DropReason::BadIpChecksum));
    }

    #[test]
    fn impossible_headers_are_named() {
        for (name, bytes, reason) in [
            ("version 5", packet(|bytes| bytes[0] = 0x55), DropReason::BadIpHeader),
            ("version 0", packet(|bytes| bytes[0] = 0x05), DropReason::BadIpHeader),
            ("header of 4 words", packet(|bytes| bytes[0] = 0x44), DropReason::BadIpHeader),
            ("header longer than packet", packet(|bytes| bytes[0] = 0x4f), DropReason::BadIpHeader),
            ("total length 19", packet(|bytes| bytes[3] = 19), DropReason::BadIpHeader),
            ("total length 0", packet(|bytes| bytes[3] = 0), DropReason::BadIpHeader),
            ("total length over frame", packet(|bytes| bytes[3] = 29), DropReason::Truncated),
            ("total length 65535", packet(|bytes| bytes[2..4].fill(255)), DropReason::Truncated),
            ("source 0.0.0.0", packet(|bytes| bytes[12..16].fill(0)), DropReason::BadSource),
            ("source 127.0.0.1", packet(|bytes| bytes[12] = 127), DropReason::BadSource),
            ("source multicast", packet(|bytes| bytes[12] = 224), DropReason::BadSource),
            ("source broadcast", packet(|bytes| bytes[12..16].fill(255)), DropReason::BadSource),
            ("land", packet(|bytes| bytes.copy_within(16..20, 12)), DropReason::BadSource),
        ] {
            assert_eq!(read(&bytes), Err(reason), "{name}");
        }
    }

    #[test]
    fn checksum_is_believed_where_the_nic_looked() {
        let mut bytes = packet(|_| {});
        assert_eq!(Ipv4Header::read(&bytes, ChecksumStatus::Bad).err(), Some(DropReason::BadIpChecksum));
        bytes[10] ^= 1;
        assert_eq!(read(&bytes), Err(DropReason::BadIpChecksum));
        assert!(Ipv4Header::read(&bytes, ChecksumStatus::Good).is_ok());
    }
}
