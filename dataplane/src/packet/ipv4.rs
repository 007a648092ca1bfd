//! IPv4 (RFC 791), checked as RFC 1812 section 5.2.2 demands of a router.

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::{self, ChecksumDelta};
use crate::port::ChecksumStatus;
use crate::verdict::DropReason;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Version 4, header of 20 bytes.
const VERSION_AND_LENGTH_PLAIN: u8 = 0x45;
/// In [`Ipv4Header::flags_and_offset`]: the sender forbids fragmenting.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// In [`Ipv4Header::flags_and_offset`]: more pieces follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// In [`Ipv4Header::flags_and_offset`]: fragment offset in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;
/// More-fragments flag and fragment offset.
const FRAGMENT_MASK: u16 = MORE_FRAGMENTS | OFFSET_MASK;

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
    /// Errors: `Truncated`, `BadIpHeader`, `BadIpChecksum`, `BadSource`, `BadIpOptions`.
    #[inline(always)]
    pub fn read(packet: &[u8], checksum: ChecksumStatus) -> Result<(&Ipv4Header, &[u8]), DropReason> {
        Ipv4Header::read_segmented(packet, packet.len(), checksum)
    }

    /// The same where `packet` may be the first segment only: `length` is that of all segments from the IPv4 header on, the
    /// payload as far as it lies in `packet`.
    #[inline(always)]
    pub fn read_segmented(
        packet: &[u8],
        length: usize,
        checksum: ChecksumStatus,
    ) -> Result<(&Ipv4Header, &[u8]), DropReason> {
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
        if total_length > length {
            return Err(DropReason::Truncated);
        }
        let packet = packet.get(..total_length).unwrap_or(packet);
        let Some((bytes, payload)) = packet.split_at_checked(header_length) else {
            return Err(DropReason::Truncated);
        };
        let checksum_is_good = match checksum {
            ChecksumStatus::Good => true,
            ChecksumStatus::Unknown => match bytes.first_chunk() {
                Some(plain) if header_length == HEADER_BYTES => plain_header_is_intact(plain),
                _ => checksum::sum(bytes) == 0xffff,
            },
            ChecksumStatus::Bad => false,
        };
        if !checksum_is_good {
            return Err(DropReason::BadIpChecksum);
        }
        if header.source_is_impossible() {
            return Err(DropReason::BadSource);
        }
        if header_length != HEADER_BYTES && !options_are_acceptable(bytes) {
            return Err(DropReason::BadIpOptions);
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

    /// It is a piece that holds no transport header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_and_offset.get() & OFFSET_MASK != 0
    }

    /// More pieces follow.
    #[inline(always)]
    pub fn has_more_fragments(&self) -> bool {
        self.flags_and_offset.get() & MORE_FRAGMENTS != 0
    }

    /// The sender forbids fragmenting.
    #[inline(always)]
    pub fn does_not_fragment(&self) -> bool {
        self.flags_and_offset.get() & DONT_FRAGMENT != 0
    }

    /// Where this piece lies in the packet's payload, in bytes; not over 65,528.
    #[inline(always)]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_and_offset.get() & OFFSET_MASK) * 8
    }

    /// Fixed header and options, in bytes.
    #[inline(always)]
    pub fn header_length(&self) -> usize {
        usize::from(self.version_and_length & 15) * 4
    }

    /// Sets the total length, the checksum patched.
    #[inline]
    pub fn set_total_length(&mut self, length: u16) {
        let delta = ChecksumDelta::NONE.u16(self.total_length.get(), length);
        self.checksum.set(delta.apply(self.checksum.get()));
        self.total_length.set(length);
    }

    /// Source address.
    pub fn source_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.source)
    }

    /// Destination address.
    pub fn destination_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.destination)
    }
}

/// Each option lies within the header, and none is a source route: IPVS's kernel drops those, as RFC 7126 section 4.3 has it, for
/// by them a sender picks where a packet goes after the real server.
#[cold]
fn options_are_acceptable(header: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 0x83;
    const STRICT_SOURCE_ROUTE: u8 = 0x89;

    let mut at = HEADER_BYTES;
    while let Some(&kind) = header.get(at) {
        at += match (kind, header.get(at + 1)) {
            (END, _) => return true,
            (NO_OPERATION, _) => 1,
            (LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, _) => return false,
            (_, Some(&length)) if length >= 2 && at + usize::from(length) <= header.len() => {
                usize::from(length)
            }
            _ => return false,
        };
    }
    true
}

/// The sum over a header without options is what a good checksum makes it. The order of bytes does not matter to that,
/// so three loads and few folds do: every packet without a NIC's verdict comes through here.
#[inline(always)]
fn plain_header_is_intact(header: &[u8; HEADER_BYTES]) -> bool {
    let [a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7, c0, c1, c2, c3] = *header;
    let a = u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    let b = u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    let c = u64::from(u32::from_ne_bytes([c0, c1, c2, c3]));
    let total = u128::from(a) + u128::from(b) + u128::from(c);
    let (sum, carry) = (total as u64).overflowing_add((total >> 64) as u64);
    let sum = sum + u64::from(carry);
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(u32::from(carry));
    sum.wrapping_add(sum.rotate_left(16)) >> 16 == 0xffff
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
    fn payload_in_later_segments_counts() {
        let whole = packet(|_| {});
        for first in 20..28 {
            let read = |length| Ipv4Header::read_segmented(&whole[..first], length, ChecksumStatus::Unknown);
            assert_eq!(read(28).unwrap().1.len(), first - 20);
            assert_eq!(read(27).err(), Some(DropReason::Truncated));
        }
        let with_options = packet(|bytes| bytes[0] = 0x47);
        let read = |first: usize| {
            Ipv4Header::read_segmented(&with_options[..first], 28, ChecksumStatus::Good).map(|_| ())
        };
        assert_eq!(read(27), Err(DropReason::Truncated), "header in two segments");
        assert_eq!(read(28), Ok(()));
    }

    #[test]
    fn flags_and_offset_are_apart() {
        let with = |flags_and_offset: u16| {
            let bytes = packet(|bytes| bytes[6..8].copy_from_slice(&flags_and_offset.to_be_bytes()));
            *Ipv4Header::ref_from_prefix(&bytes).unwrap().0
        };
        let header = with(0x4000);
        assert!(header.does_not_fragment() && !header.is_fragment());
        let header = with(0x2000);
        assert!(header.has_more_fragments() && header.is_fragment() && !header.is_later_fragment());
        let header = with(0x1fff);
        assert!(header.is_later_fragment() && !header.has_more_fragments());
        assert_eq!((header.fragment_offset(), header.header_length()), (65_528, 20));
    }

    #[test]
    fn new_total_length_keeps_the_checksum_right() {
        let mut bytes = packet(|_| {});
        bytes.extend([0; 8]);
        Ipv4Header::mut_from_prefix(&mut bytes).unwrap().0.set_total_length(36);
        assert_eq!(read(&bytes), Ok(16));
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
    fn options_that_cannot_be_and_source_routes_are_refused() {
        let with = |options: &[u8]| {
            read(&packet(|bytes| {
                bytes[0] += options.len() as u8 / 4;
                bytes[3] += options.len() as u8;
                bytes.splice(20..20, options.iter().copied());
            }))
        };
        for good in [[0, 0xff, 0, 0], [1; 4], [0x94, 4, 0, 0], [7, 3, 4, 0], [1, 1, 30, 2]] {
            assert_eq!(with(&good), Ok(8), "{good:?}");
        }
        for bad in
            [[30, 0, 0, 0], [30, 1, 0, 0], [30, 5, 0, 0], [1, 1, 1, 30], [0x83, 3, 4, 0], [1, 0x89, 3, 4]]
        {
            assert_eq!(with(&bad), Err(DropReason::BadIpOptions), "{bad:?}");
        }
    }

    #[test]
    fn fast_sum_agrees_with_the_plain_one() {
        let mut header = [0_u8; HEADER_BYTES];
        let mut number = 1_u64;
        for round in 0..200_000 {
            for byte in &mut header {
                number =
                    number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = if round % 3 == 0 { 0xff } else { (number >> 56) as u8 };
            }
            if round % 2 == 0 {
                header[10..12].fill(0);
                let sum = checksum::checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(plain_header_is_intact(&header), checksum::sum(&header) == 0xffff, "{header:02x?}");
        }
        assert!(!plain_header_is_intact(&[0; HEADER_BYTES]));
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
