//! SCTP's checksum: CRC32c over the whole packet, the field itself taken as zero (RFC 9260 section 6.8 and appendix A).
//!
//! There is no pseudo header: addresses may change without it.

use crc32c::crc32c_append;

/// Bytes of the common header.
const HEADER_BYTES: usize = 12;
/// Where the field stands.
const FIELD: std::ops::Range<usize> = 8..12;

/// The checksum over a packet that lies in pieces.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SctpChecksum(u32);

impl SctpChecksum {
    /// Begins with the first piece, which holds the common header; none where it does not.
    #[inline]
    pub fn new(first: &[u8]) -> Option<SctpChecksum> {
        let (before, rest) = first.split_at_checked(FIELD.start)?;
        let (_, chunks) = rest.split_at_checked(HEADER_BYTES - FIELD.start)?;
        let crc = crc32c_append(crc32c_append(0, before), &[0; HEADER_BYTES - FIELD.start]);
        Some(SctpChecksum(crc32c_append(crc, chunks)))
    }

    /// Adds the next piece.
    #[inline]
    pub fn and(self, piece: &[u8]) -> SctpChecksum {
        SctpChecksum(crc32c_append(self.0, piece))
    }

    /// As it stands in the header.
    #[inline]
    pub fn field(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
}

/// The packet is as its checksum says. `packet`: all of it, from the SCTP header on.
pub fn is_intact(packet: &[u8]) -> bool {
    SctpChecksum::new(packet).is_some_and(|checksum| packet.get(FIELD) == Some(&checksum.field()[..]))
}

/// Writes the checksum into a whole packet; nothing where it is too short for a header.
pub fn set(packet: &mut [u8]) {
    let Some(checksum) = SctpChecksum::new(packet) else { return };
    if let Some(field) = packet.get_mut(FIELD) {
        field.copy_from_slice(&checksum.field());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, by the polynomial 0x1EDC6F41 reflected.
    fn plain_crc(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
            }
        }
        !crc
    }

    #[test]
    fn vectors_of_rfc_3720_come_out_as_printed() {
        // Appendix B.4; bytes as on the wire.
        assert_eq!(SctpChecksum(crc32c_append(0, &[0; 32])).field(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(SctpChecksum(crc32c_append(0, &[0xff; 32])).field(), [0x43, 0xab, 0xa8, 0x62]);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(SctpChecksum(crc32c_append(0, &ascending)).field(), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn packets_shorter_than_a_header_have_none() {
        for length in 0..12 {
            let mut packet = vec![1; length];
            set(&mut packet);
            assert_eq!(packet, vec![1; length]);
            assert!(!is_intact(&packet));
        }
    }

    proptest! {
        #[test]
        fn set_checksum_is_that_over_the_packet_with_a_zero_field(
            mut packet in prop::collection::vec(any::<u8>(), 12..200), cut in 12..200_usize,
        ) {
            let mut zeroed = packet.clone();
            zeroed[8..12].fill(0);
            set(&mut packet);
            prop_assert_eq!(&packet[8..12], plain_crc(&zeroed).to_le_bytes());
            prop_assert!(is_intact(&packet));
            let (first, second) = packet.split_at(cut.min(packet.len()));
            let checksum = SctpChecksum::new(first).unwrap().and(second);
            prop_assert_eq!(&checksum.field()[..], &packet[8..12]);
            let last = packet.len() - 1;
            packet[last] ^= 1;
            prop_assert!(!is_intact(&packet));
        }
    }
}
