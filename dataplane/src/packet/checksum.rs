//! The Internet checksum (RFC 1071) and its update in place (RFC 1624).
//!
//! A *sum* is the one's complement sum of 16-bit words in network order, a *checksum* its complement, as it stands in a
//! header. A good header or segment, its checksum field and pseudo header included, sums to 0xffff.

/// The one's complement sum of 16-bit words, not yet complemented. An odd last byte counts as followed by zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // The order of bytes does not matter to the sum but for a swap at the end (RFC 1071 section 2 B), nor does it matter
    // how many words are added at once.
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
    total += u64::from(match *words.remainder() {
        [a] => u32::from_ne_bytes([a, 0, 0, 0]),
        [a, b] => u32::from_ne_bytes([a, b, 0, 0]),
        [a, b, c] => u32::from_ne_bytes([a, b, c, 0]),
        _ => 0,
    });
    u16::from_be(fold(total))
}

/// The checksum field for `bytes`, in which that field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Adds the carries in until 16 bits are left.
#[inline(always)]
pub fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    ((total & 0xffff) + (total >> 16)) as u16
}

/// The IPv4 header checksum after TTL − 1: the word of TTL and protocol sank by 0x0100, so the checksum rises by that
/// (RFC 1141; as the kernel does it, the result is never 0xffff).
#[inline(always)]
pub fn after_ttl_decrement(checksum: u16) -> u16 {
    let raised = u32::from(checksum) + 0x0100;
    (raised + u32::from(raised >= 0xffff)) as u16
}

/// The sum over what both have summed.
#[inline(always)]
pub fn add(a: u16, b: u16) -> u16 {
    fold(u64::from(a) + u64::from(b))
}

/// The sum over IPv4's pseudo header (RFC 9293 section 3.1). `length`: of transport header and payload, in bytes.
#[inline(always)]
pub fn pseudo_header_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> u16 {
    let [source, destination] = [source, destination].map(|address| u64::from(u32::from_be_bytes(address)));
    fold(source + destination + u64::from(protocol) + u64::from(length))
}

/// The sum over IPv6's pseudo header (RFC 8200 section 8.1). `protocol`: the upper layer's; `length`: of its header and
/// payload.
#[inline(always)]
pub fn pseudo_header_v6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: u32) -> u16 {
    fold(sum_address_v6(source) + sum_address_v6(destination) + u64::from(protocol) + u64::from(length))
}

/// At most 35 bits.
#[inline(always)]
fn sum_address_v6(address: &[u8; 16]) -> u64 {
    let both = u128::from_be_bytes(*address);
    let (high, low) = ((both >> 64) as u64, both as u64);
    (high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff)
}

/// The checksum field for `segment`, in which that field is zero, behind a pseudo header of this sum.
#[inline]
pub fn transport_checksum(pseudo_header: u16, segment: &[u8]) -> u16 {
    !add(pseudo_header, sum(segment))
}

/// `segment` is as its checksum says. UDP's 0, none at all, is the caller's to know.
#[inline]
pub fn is_intact(pseudo_header: u16, segment: &[u8]) -> bool {
    add(pseudo_header, sum(segment)) == 0xffff
}

/// A computed checksum as it stands in a UDP header, where 0 says that there is none.
#[inline(always)]
pub fn udp_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The sum over what lies in several pieces, each of any length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceSum {
    total: u64,
    is_odd: bool,
}

impl PieceSum {
    /// Adds the next piece.
    #[inline]
    pub fn add(&mut self, piece: &[u8]) {
        let sum = sum(piece);
        self.total += u64::from(if self.is_odd { sum.swap_bytes() } else { sum });
        self.is_odd ^= !piece.len().is_multiple_of(2);
    }

    /// The sum over all pieces.
    #[inline]
    pub fn sum(self) -> u16 {
        fold(self.total)
    }
}

/// What replacing parts of a packet does to the checksums over them: `HC' = ~(~HC + ~m + m')`, RFC 1624's third equation.
/// Collected once, applied to as many checksums as cover the same change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ChecksumDelta {
    /// Sum of all `~m + m'`.
    total: u64,
}

impl ChecksumDelta {
    /// Nothing replaced.
    pub const NONE: ChecksumDelta = ChecksumDelta { total: 0 };

    /// An aligned 16-bit word, for instance a port, is replaced. Also: a part by one of another sum.
    #[inline(always)]
    pub fn u16(self, old: u16, new: u16) -> Self {
        ChecksumDelta { total: self.total + u64::from(!old) + u64::from(new) }
    }

    /// An aligned 32-bit word is replaced.
    #[inline(always)]
    pub fn u32(self, old: u32, new: u32) -> Self {
        ChecksumDelta { total: self.total + u64::from(!old) + u64::from(new) }
    }

    /// An IPv4 address is replaced.
    #[inline(always)]
    pub fn address_v4(self, old: [u8; 4], new: [u8; 4]) -> Self {
        self.u32(u32::from_be_bytes(old), u32::from_be_bytes(new))
    }

    /// An IPv6 address is replaced.
    #[inline(always)]
    pub fn address_v6(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        self.u16(fold(sum_address_v6(old)), fold(sum_address_v6(new)))
    }

    /// Bytes at `offset` from the start of what the checksum covers are replaced. `old` and `new` differ in length by an even
    /// number, or reach to the end: else what follows changes its place in the words.
    #[inline]
    pub fn bytes(self, offset: usize, old: &[u8], new: &[u8]) -> Self {
        let (old, new) = (sum(old), sum(new));
        if offset.is_multiple_of(2) {
            self.u16(old, new)
        } else {
            self.u16(old.swap_bytes(), new.swap_bytes())
        }
    }

    /// Both changes.
    #[inline(always)]
    pub fn and(self, other: ChecksumDelta) -> Self {
        ChecksumDelta { total: self.total + other.total }
    }

    /// In 16 bits, to be kept.
    #[inline(always)]
    pub fn to_u16(self) -> u16 {
        fold(self.total)
    }

    /// What [`ChecksumDelta::to_u16`] made.
    #[inline(always)]
    pub fn from_u16(kept: u16) -> Self {
        ChecksumDelta { total: u64::from(kept) }
    }

    /// The checksum after the change.
    #[inline(always)]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.total)
    }

    /// The checksum of a UDP datagram after the change: 0, none, stays 0; a result of 0 is written 0xffff (RFC 768).
    #[inline(always)]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { udp_field(self.apply(checksum)) }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_1071_example_sums_as_printed() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(checksum(&[]), 0xffff);
    }

    /// Word by word, as RFC 1071 says it.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut total = 0_u32;
        for word in bytes.chunks(2) {
            total += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn pseudo_headers_sum_as_their_bytes() {
        let bytes = [&[198, 51, 100, 7, 192, 0, 2, 10][..], &[0, 17, 0xff, 0xff]].concat();
        assert_eq!(pseudo_header_v4([198, 51, 100, 7], [192, 0, 2, 10], 17, 0xffff), plain_sum(&bytes));
        let (source, destination) = ([0xff; 16], *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
        let bytes = [&source[..], &destination, &[0, 1, 2, 3, 0, 0, 0, 58]].concat();
        assert_eq!(pseudo_header_v6(&source, &destination, 58, 0x0001_0203), plain_sum(&bytes));
    }

    #[test]
    fn segments_built_by_etherparse_are_intact() {
        for length in 0..40_u16 {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8 ^ 0x5a).collect();
            let mut packet = Vec::new();
            PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(7, 9).write(&mut packet, &payload).unwrap();
            let pseudo = pseudo_header_v6(&[1; 16], &[2; 16], 17, u32::from(length) + 8);
            assert!(is_intact(pseudo, &packet[40..]), "{length}");
            packet[46..48].fill(0);
            assert!(!is_intact(pseudo, &packet[40..]));
            let mut built = Vec::new();
            PacketBuilder::ipv4([1; 4], [2; 4], 64).tcp(7, 9, 1, 2).write(&mut built, &payload).unwrap();
            let pseudo = pseudo_header_v4([1; 4], [2; 4], 6, length + 20);
            let field = u16::from_be_bytes([built[36], built[37]]);
            built[36..38].fill(0);
            assert_eq!(transport_checksum(pseudo, &built[20..]), field, "{length}");
        }
    }

    #[test]
    fn udp_without_checksum_stays_so_and_a_result_of_zero_is_written_as_ones() {
        let delta = ChecksumDelta::NONE.u16(80, 8080);
        assert_eq!(delta.apply_udp(0), 0);
        let delta = ChecksumDelta::NONE.u16(0, 0x1234);
        assert_eq!(delta.apply(0x1234), 0);
        assert_eq!(delta.apply_udp(0x1234), 0xffff);
    }

    #[test]
    fn rfc_1624_example_comes_out_as_printed() {
        assert_eq!(ChecksumDelta::NONE.u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    /// Both are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
    }

    proptest! {
        #[test]
        fn fast_sum_agrees_with_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(sum(&bytes), plain_sum(&bytes));
        }

        #[test]
        fn sum_of_pieces_is_that_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            cuts.sort_by_key(|cut| cut.index(bytes.len() + 1));
            let mut pieces = PieceSum::default();
            let mut from = 0;
            for cut in cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]) {
                pieces.add(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(pieces.sum(), sum(&bytes));
        }

        #[test]
        fn delta_equals_full_computation(
            mut bytes in prop::collection::vec(any::<u8>(), 64..64 + 40),
            port in any::<u16>(),
            v4 in any::<[u8; 4]>(),
            v6 in any::<[u8; 16]>(),
            text in any::<[u8; 7]>(),
        ) {
            let before = checksum(&bytes);
            let mut delta = ChecksumDelta::NONE;
            delta = delta.u16(u16::from_be_bytes([bytes[2], bytes[3]]), port);
            bytes[2..4].copy_from_slice(&port.to_be_bytes());
            delta = delta.address_v4(*bytes[4..].first_chunk().unwrap(), v4);
            bytes[4..8].copy_from_slice(&v4);
            delta = delta.address_v6(bytes[8..].first_chunk().unwrap(), &v6);
            bytes[8..24].copy_from_slice(&v6);
            delta = delta.bytes(33, &bytes[33..40], &text);
            bytes[33..40].copy_from_slice(&text);
            delta = delta.and(ChecksumDelta::NONE.bytes(50, &bytes[50..57], &text));
            bytes[50..57].copy_from_slice(&text);
            prop_assert!(same(delta.apply(before), checksum(&bytes)));
            prop_assert!(same(ChecksumDelta::from_u16(delta.to_u16()).apply(before), checksum(&bytes)));
        }
    }

    #[test]
    fn ttl_decrement_equals_full_computation_for_every_ttl_and_many_headers() {
        let mut header = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 0, 6, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10];
        for ttl in 2..=255_u8 {
            for identification in (0..=u16::MAX).step_by(257) {
                header[4..6].copy_from_slice(&identification.to_be_bytes());
                header[8] = ttl;
                header[10..12].fill(0);
                let before = checksum(&header);
                header[8] = ttl - 1;
                let expected = checksum(&header);
                assert_eq!(
                    after_ttl_decrement(before),
                    expected,
                    "ttl {ttl} identification {identification}"
                );
            }
        }
    }
}
