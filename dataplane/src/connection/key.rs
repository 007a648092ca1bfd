//! What names a connection (IPVS: protocol, CIP:cport, VIP:vport), and its hash.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::FromZeros;

use crate::snapshot::{Protocol, ServiceKey};

/// Protocol, client and virtual service of a connection, as two words so that it is compared and hashed from registers:
/// built field by field in memory, a packet waited longest for its own key (a store that the load behind it could not
/// forward). IPv6 addresses do not fit: a digest stands for them ([`FlowSeed::ipv6_key`]), and who looks a key up
/// compares the [`Ipv6Pair`] too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(C)]
pub struct FlowKey {
    /// CIP, VIP, as on the wire; IPv6: their digest.
    addresses: u64,
    /// Client's port, VIP's port (both as on the wire), protocol, family, two zero bytes.
    ports_and_protocol: u64,
}

/// Both addresses of an IPv6 connection; zeros of an IPv4 one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Pair([u64; 4]);

/// A connection's name in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// CIP.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The virtual service.
    pub service: ServiceKey,
}

/// The byte of a [`FlowKey`] that says IPv6.
const IPV6: u8 = 6;

impl Ipv6Pair {
    /// Of an IPv4 connection.
    pub const NONE: Ipv6Pair = Ipv6Pair([0; 4]);

    /// From the wire's fields.
    #[inline(always)]
    pub fn new(client: [u8; 16], vip: [u8; 16]) -> Ipv6Pair {
        let [client_high, client_low] = halves(client);
        let [vip_high, vip_low] = halves(vip);
        Ipv6Pair([client_high, client_low, vip_high, vip_low])
    }

    /// CIP.
    pub fn client(&self) -> Ipv6Addr {
        let [high, low, ..] = self.0;
        whole([high, low])
    }

    /// VIP.
    pub fn vip(&self) -> Ipv6Addr {
        let [.., high, low] = self.0;
        whole([high, low])
    }

    #[inline(always)]
    pub(super) const fn words(&self) -> &[u64; 4] {
        &self.0
    }

    pub(super) const fn from_words(words: [u64; 4]) -> Ipv6Pair {
        Ipv6Pair(words)
    }
}

#[inline(always)]
fn halves(address: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

fn whole([high, low]: [u64; 2]) -> Ipv6Addr {
    let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (high.to_ne_bytes(), low.to_ne_bytes());
    Ipv6Addr::from([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

impl FlowKey {
    /// Nobody's key.
    pub const EMPTY: FlowKey = FlowKey { addresses: 0, ports_and_protocol: 0 };

    /// From the wire's fields, of IPv4.
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

    /// Its addresses are in an [`Ipv6Pair`].
    #[inline(always)]
    pub fn is_ipv6(&self) -> bool {
        self.ports_and_protocol.to_ne_bytes()[5] == IPV6
    }

    /// CIP; `pair` is that of an IPv6 key.
    pub fn client(&self, pair: &Ipv6Pair) -> IpAddr {
        if self.is_ipv6() {
            return pair.client().into();
        }
        let [a, b, c, d, ..] = self.addresses.to_ne_bytes();
        Ipv4Addr::new(a, b, c, d).into()
    }

    /// VIP; `pair` is that of an IPv6 key.
    pub fn vip(&self, pair: &Ipv6Pair) -> IpAddr {
        if self.is_ipv6() {
            return pair.vip().into();
        }
        let [_, _, _, _, a, b, c, d] = self.addresses.to_ne_bytes();
        Ipv4Addr::new(a, b, c, d).into()
    }

    /// Client's port.
    pub fn client_port(&self) -> u16 {
        let [high, low, ..] = self.ports_and_protocol.to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// VIP's port.
    pub fn virtual_port(&self) -> u16 {
        let [_, _, high, low, ..] = self.ports_and_protocol.to_ne_bytes();
        u16::from_be_bytes([high, low])
    }

    /// TCP, UDP or SCTP.
    pub fn protocol(&self) -> Protocol {
        Protocol(self.ports_and_protocol.to_ne_bytes()[4])
    }

    /// The virtual service that it is addressed to; `pair` is that of an IPv6 key.
    pub fn service(&self, pair: &Ipv6Pair) -> ServiceKey {
        ServiceKey { address: self.vip(pair), port: self.virtual_port(), protocol: self.protocol() }
    }

    /// The same as a table with this seed knows it; `pair` is that of an IPv6 key.
    #[inline]
    #[must_use]
    pub fn under(&self, seed: &FlowSeed, pair: &Ipv6Pair) -> FlowKey {
        if !self.is_ipv6() {
            return *self;
        }
        let [p0, p1, q0, q1, protocol, ..] = self.ports_and_protocol.to_ne_bytes();
        seed.ipv6_key(pair, [p0, p1], [q0, q1], protocol)
    }

    /// In words; `pair` is that of an IPv6 key.
    pub fn tuple(&self, pair: &Ipv6Pair) -> Tuple {
        Tuple { client: self.client(pair), client_port: self.client_port(), service: self.service(pair) }
    }
}

impl Tuple {
    /// The key and the addresses by which a table with this seed knows it.
    pub fn key(&self, seed: &FlowSeed) -> (FlowKey, Ipv6Pair) {
        let ports = (self.client_port.to_be_bytes(), self.service.port.to_be_bytes());
        let protocol = self.service.protocol.0;
        match (self.client, self.service.address) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                (FlowKey::new(client.octets(), vip.octets(), ports.0, ports.1, protocol), Ipv6Pair::NONE)
            }
            (client, vip) => {
                let pair = Ipv6Pair::new(in_ipv6(client).octets(), in_ipv6(vip).octets());
                (seed.ipv6_key(&pair, ports.0, ports.1, protocol), pair)
            }
        }
    }
}

/// An IPv4 address as IPv6 writes it (RFC 4291 section 2.5.5.2).
pub fn in_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
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

    /// The key of an IPv6 connection in a table of this seed. The digest's operands are secret, so that nobody can craft
    /// flows that have one digest.
    #[inline(always)]
    pub fn ipv6_key(
        &self,
        pair: &Ipv6Pair,
        client_port: [u8; 2],
        virtual_port: [u8; 2],
        protocol: u8,
    ) -> FlowKey {
        let [a, b, c, d] = pair.0;
        let client = folded_product(a ^ self.addresses, b ^ self.mix);
        let both = folded_product(c ^ client ^ self.ports, d ^ self.mix.rotate_left(32));
        let ([p0, p1], [q0, q1]) = (client_port, virtual_port);
        FlowKey {
            addresses: both ^ client,
            ports_and_protocol: u64::from_ne_bytes([p0, p1, q0, q1, protocol, IPV6, 0, 0]),
        }
    }

    /// Two digests of a pair that have nothing to do with each other.
    pub(crate) fn digests(&self, pair: &Ipv6Pair) -> [u64; 2] {
        let key = self.ipv6_key(pair, [0; 2], [0; 2], 0);
        let [a, b, c, d] = pair.0;
        let first = folded_product(a ^ self.ports, c ^ self.addresses.rotate_left(17));
        [key.addresses, folded_product(b ^ first, d ^ self.addresses)]
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
