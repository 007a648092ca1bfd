//! What names a connection (IPVS: protocol, CIP:cport, VIP:vport), and its hash.

use std::hash::BuildHasher;
use std::net::Ipv4Addr;

use zerocopy::FromZeros;

use crate::snapshot::{Protocol, ServiceKey};

/// Protocol, client and virtual service of an IPv4 connection, as two words so that it is compared and hashed from
/// registers: built field by field in memory, a packet waited longest for its own key (a store that the load behind it
/// could not forward).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(C)]
pub struct FlowKey {
    /// CIP, VIP, as on the wire.
    addresses: u64,
    /// Client's port, VIP's port (both as on the wire), protocol, three zero bytes.
    ports_and_protocol: u64,
}

impl FlowKey {
    /// Nobody's key.
    pub const EMPTY: FlowKey = FlowKey { addresses: 0, ports_and_protocol: 0 };

    /// From the wire's fields.
    #[inline(always)]
    pub fn new(
        client: [u8; 4],
        vip: [u8; 4],
        client_port: [u8; 2],
        virtual_port: [u8; 2],
        protocol: u8,
    ) -> FlowKey {
        let ([c0, c1, c2, c3], [v0, v1, v2, v3]) = (client, vip);
        let ([p0, p1], [q0, q1]) = (client_port, virtual_port);
        FlowKey {
            addresses: u64::from_ne_bytes([c0, c1, c2, c3, v0, v1, v2, v3]),
            ports_and_protocol: u64::from_ne_bytes([p0, p1, q0, q1, protocol, 0, 0, 0]),
        }
    }

    /// Both words, as an entry stores them.
    #[inline(always)]
    pub(super) const fn words(&self) -> [u64; 2] {
        [self.addresses, self.ports_and_protocol]
    }

    /// From what [`FlowKey::words`] gave.
    #[inline(always)]
    pub(super) const fn from_words([addresses, ports_and_protocol]: [u64; 2]) -> FlowKey {
        FlowKey { addresses, ports_and_protocol }
    }

    /// CIP.
    pub fn client_address(&self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.addresses.to_ne_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// Client's port.
    pub fn client_port(&self) -> u16 {
        let [high, low, ..] = self.ports_and_protocol.to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// TCP, UDP or SCTP.
    pub fn protocol(&self) -> Protocol {
        Protocol(self.ports_and_protocol.to_ne_bytes()[4])
    }

    /// The virtual service that it is addressed to.
    pub fn service(&self) -> ServiceKey {
        let [_, _, _, _, a, b, c, d] = self.addresses.to_ne_bytes();
        let [_, _, high, low, ..] = self.ports_and_protocol.to_ne_bytes();
        ServiceKey {
            address: Ipv4Addr::new(a, b, c, d),
            port: u16::from_be_bytes([high, low]),
            protocol: self.protocol(),
        }
    }
}

/// Drawn for each table, so that nobody can craft flows that meet in one bucket.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeed {
    addresses: u64,
    ports: u64,
    mix: u64,
}

impl FlowSeed {
    /// From the operating system's randomness; always the same in a model of loom, which replays what it tries.
    pub fn random() -> FlowSeed {
        if cfg!(loom) {
            return FlowSeed { addresses: 1 << 40 | 1, ports: 1 << 50 | 1, mix: 1 << 60 | 1 };
        }
        let random = std::hash::RandomState::new();
        FlowSeed { addresses: random.hash_one(1), ports: random.hash_one(2), mix: random.hash_one(3) | 1 }
    }

    /// The hash of a key: two rounds of a folded 64 × 64 bit product, each with a secret operand.
    #[inline(always)]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_words(key.words())
    }

    /// The same of any two words.
    #[inline(always)]
    pub(crate) fn hash_words(&self, [a, b]: [u64; 2]) -> u64 {
        let first = folded_product(a ^ self.addresses, b ^ self.ports);
        folded_product(first ^ a, self.mix)
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
            let key = FlowKey::new([198, 18, a, b], [192, 0, 2, 10], [c, d], [0, 80], 6);
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
    fn flows_crafted_to_collide_under_one_seed_spread_under_another() {
        let (known, drawn) = (FlowSeed::random(), FlowSeed::random());
        let home = |seed: &FlowSeed, key: &FlowKey| (seed.hash(key) as u32 >> 22) as usize;
        let mut counts = [0_u32; 1024];
        let crafted = (0..1_u32 << 20).map(|flow| {
            let [a, b, c, d] = flow.to_be_bytes();
            FlowKey::new([198, 18, a, b], [192, 0, 2, 10], [c, d], [0, 80], 6)
        });
        crafted.filter(|key| home(&known, key) == 7).for_each(|key| counts[home(&drawn, &key)] += 1);
        let all: u32 = counts.iter().sum();
        assert!((800..1250).contains(&all), "{all} flows of one home");
        // One expected in each; Poisson has more than 12 in one of 1024 once in ten million runs.
        assert!(counts.iter().all(|&count| count <= 12), "{counts:?}");
    }

    #[test]
    fn seeds_differ_between_tables() {
        let key = FlowKey::new([198, 51, 100, 7], [192, 0, 2, 10], [4, 0], [0, 80], 6);
        assert_ne!(FlowSeed::random().hash(&key), FlowSeed::random().hash(&key));
    }
}
