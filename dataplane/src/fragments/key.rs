//! What names a fragmented packet: the fields that all its fragments have in common.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::connection::FlowSeed;

/// IPv6 has one number for the fragments of any protocol: the Next Header of a fragment other than the first says nothing
/// (RFC 8200 section 4.5).
const IPV6_FRAGMENT: u8 = 44;

/// Source, destination, protocol and identification (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    source: [u64; 2],
    destination: [u64; 2],
    /// Identification in the high half, protocol in the lowest byte.
    id_and_protocol: u64,
}

impl FragmentKey {
    /// Nobody's key.
    pub(super) const EMPTY: FragmentKey =
        FragmentKey { source: [0; 2], destination: [0; 2], id_and_protocol: 0 };

    /// Of an IPv4 packet.
    #[inline]
    pub fn v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, id: u16) -> FragmentKey {
        // As an IPv4-mapped address, whose first half no IPv6 packet on a wire has.
        let mapped = |address: Ipv4Addr| [0, 0xffff << 32 | u64::from(address.to_bits())];
        FragmentKey {
            source: mapped(source),
            destination: mapped(destination),
            id_and_protocol: u64::from(id) << 32 | u64::from(protocol),
        }
    }

    /// Of an IPv6 packet.
    #[inline]
    pub fn v6(source: Ipv6Addr, destination: Ipv6Addr, id: u32) -> FragmentKey {
        let halves = |address: Ipv6Addr| {
            let bits = address.to_bits();
            [(bits >> 64) as u64, bits as u64]
        };
        FragmentKey {
            source: halves(source),
            destination: halves(destination),
            id_and_protocol: u64::from(id) << 32 | u64::from(IPV6_FRAGMENT),
        }
    }

    /// Nobody can craft keys that meet: `seed` is drawn for each table.
    #[inline]
    pub(super) fn hash(&self, seed: &FlowSeed) -> u64 {
        let [s0, s1] = self.source;
        let [d0, d1] = self.destination;
        let source = seed.hash_words([s0, s1]);
        let addresses = seed.hash_words([d0 ^ source, d1]);
        seed.hash_words([self.id_and_protocol, addresses])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_in_every_field() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let v6 = |address: Ipv4Addr| address.to_ipv6_mapped();
        let keys = [
            FragmentKey::v4(a, b, 17, 1),
            FragmentKey::v4(b, a, 17, 1),
            FragmentKey::v4(a, b, 6, 1),
            FragmentKey::v4(a, b, 17, 2),
            FragmentKey::v6(v6(a), v6(b), 1),
            FragmentKey::v6(v6(a), v6(b), 0x0001_0000),
        ];
        let seed = FlowSeed::random();
        for (number, key) in keys.iter().enumerate() {
            for other in &keys[..number] {
                assert_ne!(key, other);
                assert_ne!(key.hash(&seed), other.hash(&seed));
            }
        }
    }

    #[test]
    fn hash_spreads_sequential_ids_over_high_and_low_bits() {
        let seed = FlowSeed::random();
        let (mut low, mut high) = ([0_u32; 64], [0_u32; 64]);
        for id in 0..=u16::MAX {
            let key = FragmentKey::v4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), 17, id);
            let hash = key.hash(&seed);
            low[hash as usize & 63] += 1;
            high[(hash >> 58) as usize] += 1;
        }
        // 1,024 expected in each, give or take eight times its root.
        assert!(low.iter().chain(&high).all(|count| (768..1280).contains(count)), "{low:?} {high:?}");
    }
}
