//! The Internet checksum (RFC 1071) and its update in place (RFC 1624).

/// The one's complement sum of 16-bit words, not yet complemented. An odd last byte counts as followed by zero.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 = words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    fold(total)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example_sums_as_printed() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(checksum(&[]), 0xffff);
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
