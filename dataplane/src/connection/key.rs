//! What names a connection (IPVS: protocol, CIP:cport, VIP:vport), and its hash.

use std::hash::BuildHasher;
use std::net::Ipv4Addr;

use zerocopy::FromZeros;

use crate::snapshot::{Protocol, ServiceKey};

/// Protocol, client and virtual service of an IPv4 connection. Addresses and ports as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(C)]
pub struct FlowKey {
    /// CIP.
    pub client_address: [u8; 4],
    /// VIP.
    pub virtual_address: [u8; 4],
    /// Client's port.
    pub client_port: [u8; 2],
    /// VIP's port.
    pub virtual_port: [u8; 2],
    /// TCP or UDP.
    pub protocol: u8,
}

impl FlowKey {
    /// The virtual service that it is addressed to.
    pub fn service(&self) -> ServiceKey {
        ServiceKey {
            address: Ipv4Addr::from(self.virtual_address),
            port: u16::from_be_bytes(self.virtual_port),
            protocol: Protocol(self.protocol),
        }
    }
}

/// Drawn once a process, so that nobody can craft flows that meet in one bucket.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeed {
    addresses: u64,
    ports: u64,
    mix: u64,
}

impl FlowSeed {
    /// From the operating system's randomness.
    pub fn random() -> FlowSeed {
        let random = std::hash::RandomState::new();
        FlowSeed { addresses: random.hash_one(1), ports: random.hash_one(2), mix: random.hash_one(3) | 1 }
    }

    /// The hash of a key: two rounds of a folded 64 × 64 bit product, each with a secret operand.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let [c0, c1, c2, c3] = key.client_address;
        let [v0, v1, v2, v3] = key.virtual_address;
        let addresses = u64::from_ne_bytes([c0, c1, c2, c3, v0, v1, v2, v3]);
        let [p0, p1] = key.client_port;
        let [q0, q1] = key.virtual_port;
        let ports = u64::from_ne_bytes([p0, p1, q0, q1, key.protocol, 0, 0, 0]);
        let first = folded_product(addresses ^ self.addresses, ports ^ self.ports);
        folded_product(first ^ addresses, self.mix)
    }
}

#[inline(always)]
fn folded_product(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_spreads_sequential_flows_over_high_and_low_bits() {
        let seed = FlowSeed::random();
        let mut low = vec![0_u32; 1024];
        let mut high = vec![0_u32; 1024];
        for flow in 0..(1_u32 << 18) {
            let [a, b, c, d] = flow.to_be_bytes();
            let key = FlowKey {
                client_address: [198, 18, a, b],
                virtual_address: [192, 0, 2, 10],
                client_port: [c, d],
                virtual_port: [0, 80],
                protocol: 6,
            };
            let hash = seed.hash(&key);
            low[hash as usize & 1023] += 1;
            high[(hash >> 54) as usize] += 1;
        }
        // 256 expected in each; a fair spread (Poisson) leaves ±8 σ = ±128 with certainty.
        for counts in [low, high] {
            assert!(counts.iter().all(|&count| (128..=384).contains(&count)), "{counts:?}");
        }
    }

    #[test]
    fn seeds_differ_between_tables() {
        let key = FlowKey { protocol: 6, ..FlowKey::default() };
        assert_ne!(FlowSeed::random().hash(&key), FlowSeed::random().hash(&key));
    }
}
