//! The hashes of IPVS's schedulers, fixed for ever: two directors, and a director and a kernel, must agree on them.

use std::net::IpAddr;

/// The 32-bit golden ratio of the kernel's include/linux/hash.h.
const GOLDEN_RATIO: u32 = 0x61C8_8647;

/// An address in 32 bits: IPv4 as it is, IPv6 as the exclusive or of its four words.
#[inline]
pub(crate) fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The kernel's `hash_32`: the high bits of a product; 1 to 32 of them.
#[inline]
pub(crate) fn hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(GOLDEN_RATIO) >> (32 - bits)
}

/// The kernel's `hsiphash` of one 32-bit word, both halves of its key being `key`: on 64-bit kernels the low half of
/// SipHash-1-3 over the word's four bytes, little-endian.
#[inline]
pub(crate) fn hsiphash(word: u32, key: u64) -> u32 {
    siphash::<1, 3>(word, [key, key]) as u32
}

/// SipHash of one 32-bit word: `BLOCK` rounds a block, `LAST` rounds at the end.
#[inline]
fn siphash<const BLOCK: usize, const LAST: usize>(word: u32, [k0, k1]: [u64; 2]) -> u64 {
    // The last block: the length in bytes on top, below it the bytes that fill no whole block.
    let block = 4 << 56 | u64::from(word);
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    state[3] ^= block;
    (0..BLOCK).for_each(|_| sip_round(&mut state));
    state[0] ^= block;
    state[2] ^= 0xff;
    (0..LAST).for_each(|_| sip_round(&mut state));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

#[inline]
fn sip_round([a, b, c, d]: &mut [u64; 4]) {
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    #[test]
    fn fold_is_the_address_or_the_exclusive_or_of_its_words() {
        for (address, folded) in [
            ("192.0.2.1", 0xc000_0201),
            ("0.0.0.0", 0),
            ("::1", 1),
            ("2001:db8:1:2:3:4:5:6", 0x2001_0db8 ^ 0x0001_0002 ^ 0x0003_0004 ^ 0x0005_0006),
        ] {
            assert_eq!(fold(address.parse().unwrap()), folded, "{address}");
        }
    }

    #[test]
    fn hash_32_takes_the_high_bits_of_the_product() {
        assert_eq!(hash_32(0, 8), 0);
        assert_eq!(hash_32(1, 8), 0x61);
        assert_eq!(hash_32(1, 32), 0x61C8_8647);
        assert_eq!(hash_32(2, 8), 0xc3);
        assert_eq!(hash_32(0xc000_0201, 32), 0x32d5_1447);
    }

    /// Worked out apart from this code, in another language.
    #[test]
    fn hsiphash_with_the_keys_of_mh_is_as_worked_out_by_hand() {
        for (word, first, second) in [
            (0, 0x1d5a_77c2, 0xf882_433f),
            (1, 0x16ec_66b2, 0x8210_aad1),
            (0xc000_0201, 0x9288_9c88, 0xc6fe_83e5),
        ] {
            assert_eq!(hsiphash(word, 2_654_435_761), first);
            assert_eq!(hsiphash(word, 2_654_446_892), second);
        }
    }

    /// Two other implementations: std's SipHash-1-3, whose key is zero, and its SipHash-2-4 with keys.
    #[test]
    #[expect(deprecated)]
    fn siphash_is_the_standard_library_s() {
        for word in [0, 1, 0xff, 0xc000_0201, u32::MAX] {
            let mut zero_key = DefaultHasher::new();
            zero_key.write(&word.to_le_bytes());
            assert_eq!(siphash::<1, 3>(word, [0, 0]), zero_key.finish());
            for keys in [[0, 0], [2_654_435_761; 2], [1, u64::MAX]] {
                let mut keyed = std::hash::SipHasher::new_with_keys(keys[0], keys[1]);
                keyed.write(&word.to_le_bytes());
                assert_eq!(siphash::<2, 4>(word, keys), keyed.finish());
            }
        }
    }
}
