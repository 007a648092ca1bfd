//! What names a template. Any thread; a value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connection::{FlowSeed, Ipv6Pair};
use crate::snapshot::{Protocol, ServiceKey};

/// Clients and what they came for, by SIP with their Call-ID. The kind makes it never zero.
///
/// Addresses of IPv6 do not fit: 96 bits of digests with a secret stand for them, so that a million templates have two that
/// are taken for one with a probability of 2^-57. The addresses are there to be read.
#[derive(Clone, Copy, Debug)]
pub struct TemplateKey {
    /// CIP under its netmask (32 bits, low), hash of the Call-ID (32, high). IPv6: a digest of all that.
    client: u64,
    /// VIP or group (32 bits), virtual port (16), protocol (8), kind (8). IPv6: another digest for the VIP.
    service: u64,
    /// The clients' network and the VIP (IPv6).
    pair: Ipv6Pair,
}

impl PartialEq for TemplateKey {
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for TemplateKey {}

/// What a template's clients came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateScope {
    /// A virtual service. Port 0 is every port of the VIP, and FTP.
    Service(ServiceKey),
    /// A group of virtual services (IPVS: a fwmark), whatever port and protocol.
    Group(u32),
}

// Kinds: of a service or a group, and with or without Call-ID.
const CLIENT: u8 = 1;
const GROUP: u8 = 2;
const CALL_ID: u8 = 4;
const IPV6: u8 = 8;

impl TemplateKey {
    /// Clients of one network at one virtual service. `netmask` as a number, 255.255.255.0 is `0xffff_ff00`.
    pub fn for_client(
        client: [u8; 4],
        netmask: u32,
        vip: Ipv4Addr,
        virtual_port: u16,
        protocol: Protocol,
    ) -> TemplateKey {
        let service = service(vip.to_bits(), virtual_port, protocol.0, CLIENT);
        TemplateKey { client: network(client, netmask), service, pair: Ipv6Pair::NONE }
    }

    /// Clients of one network at a group of virtual services.
    pub fn for_group(client: [u8; 4], netmask: u32, group: u32) -> TemplateKey {
        let service = service(group, 0, 0, GROUP);
        TemplateKey { client: network(client, netmask), service, pair: Ipv6Pair::NONE }
    }

    /// Clients of one network at one virtual service, both of IPv6, in a table of this seed.
    pub fn for_ipv6_client(
        seed: &FlowSeed,
        client: Ipv6Addr,
        netmask: u128,
        vip: Ipv6Addr,
        virtual_port: u16,
        protocol: Protocol,
    ) -> TemplateKey {
        let network = Ipv6Addr::from_bits(client.to_bits() & netmask);
        let pair = Ipv6Pair::new(network.octets(), vip.octets());
        let [digest, other] = seed.digests(&pair);
        TemplateKey {
            client: digest,
            service: service(other as u32, virtual_port, protocol.0, CLIENT | IPV6),
            pair,
        }
    }

    /// Clients of one network, of IPv6, at a group of virtual services.
    pub fn for_ipv6_group(seed: &FlowSeed, client: Ipv6Addr, netmask: u128, group: u32) -> TemplateKey {
        let network = Ipv6Addr::from_bits(client.to_bits() & netmask);
        let pair = Ipv6Pair::new(network.octets(), [0; 16]);
        let [digest, _] = seed.digests(&pair);
        TemplateKey { client: digest, service: service(group, 0, 0, GROUP | IPV6), pair }
    }

    /// The same with a Call-ID of this hash ([`super::TemplateTable::hash_call_id`]): SIP dialogues of those clients.
    /// With the netmask 0 the Call-ID decides alone, as in IPVS.
    #[must_use]
    pub fn with_call_id(self, hash: u32) -> TemplateKey {
        let [client, service] = self.words();
        let client = match self.is_ipv6() {
            false => u64::from(hash) << 32 | client,
            true => client.wrapping_add(u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        };
        TemplateKey { client, service: service | u64::from(CALL_ID), ..self }
    }

    /// Its addresses are IPv6's.
    pub fn is_ipv6(&self) -> bool {
        self.service as u8 & IPV6 != 0
    }

    /// The clients' network address.
    pub fn client_network(&self) -> IpAddr {
        match self.is_ipv6() {
            false => Ipv4Addr::from_bits(self.client as u32).into(),
            true => self.pair.client().into(),
        }
    }

    /// The addresses of IPv6, to be kept beside the words.
    pub(super) fn pair(&self) -> &Ipv6Pair {
        &self.pair
    }

    /// The same with addresses that were kept.
    pub(super) fn with_pair(self, pair: Ipv6Pair) -> TemplateKey {
        TemplateKey { pair, ..self }
    }

    /// What they came for.
    pub fn scope(&self) -> TemplateScope {
        let [a, b, c, d, high, low, protocol, kind] = self.service.to_be_bytes();
        let number = [a, b, c, d];
        if kind & GROUP != 0 {
            return TemplateScope::Group(u32::from_be_bytes(number));
        }
        let address = match kind & IPV6 {
            0 => Ipv4Addr::from(number).into(),
            _ => self.pair.vip().into(),
        };
        TemplateScope::Service(ServiceKey {
            address,
            port: u16::from_be_bytes([high, low]),
            protocol: Protocol(protocol),
        })
    }

    /// It is of a Call-ID.
    pub fn has_call_id(&self) -> bool {
        self.service as u8 & CALL_ID != 0
    }

    pub(super) fn words(&self) -> [u64; 2] {
        [self.client, self.service]
    }

    pub(super) fn from_words([client, service]: [u64; 2]) -> TemplateKey {
        TemplateKey { client, service, pair: Ipv6Pair::NONE }
    }
}

fn network(client: [u8; 4], netmask: u32) -> u64 {
    u64::from(u32::from_be_bytes(client) & netmask)
}

fn service(number: u32, virtual_port: u16, protocol: u8, kind: u8) -> u64 {
    let [a, b, c, d] = number.to_be_bytes();
    let [high, low] = virtual_port.to_be_bytes();
    u64::from_be_bytes([a, b, c, d, high, low, protocol, kind])
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    #[test]
    fn clients_of_one_network_have_one_key_for_each_service() {
        let key = |client, port, protocol| TemplateKey::for_client(client, 0xffff_ff00, VIP, port, protocol);
        let first = key([198, 51, 100, 7], 80, Protocol::TCP);
        assert_eq!(first, key([198, 51, 100, 200], 80, Protocol::TCP));
        assert_ne!(first, key([198, 51, 101, 7], 80, Protocol::TCP));
        assert_ne!(first, key([198, 51, 100, 7], 443, Protocol::TCP));
        assert_ne!(first, key([198, 51, 100, 7], 80, Protocol::UDP));
        assert_eq!(first.client_network(), Ipv4Addr::new(198, 51, 100, 0));
        let service = ServiceKey { address: VIP.into(), port: 80, protocol: Protocol::TCP };
        assert_eq!(first.scope(), TemplateScope::Service(service));
        assert!(!first.has_call_id());
    }

    #[test]
    fn group_and_call_id_never_meet_a_client() {
        let zero = TemplateKey::for_client([0; 4], 0, Ipv4Addr::UNSPECIFIED, 0, Protocol(0));
        let group = TemplateKey::for_group([0; 4], 0, 0);
        let call = zero.with_call_id(0);
        assert!(zero != group && group != call && call != zero);
        assert_eq!(
            TemplateKey::for_group([10, 1, 2, 3], u32::MAX, 70_000).scope(),
            TemplateScope::Group(70_000)
        );
        let call = TemplateKey::for_group([10, 1, 2, 3], u32::MAX, 70_000).with_call_id(1);
        assert!(call.has_call_id());
        assert_eq!(call.scope(), TemplateScope::Group(70_000));
    }

    #[test]
    fn call_id_and_client_decide_together_and_without_netmask_the_call_id_alone() {
        let call = |client, mask, hash| {
            TemplateKey::for_client(client, mask, VIP, 5060, Protocol::UDP).with_call_id(hash)
        };
        let (one, other) = ([198, 51, 100, 7], [198, 51, 100, 8]);
        assert_ne!(call(one, u32::MAX, u32::MAX), call(other, u32::MAX, u32::MAX));
        assert_ne!(call(one, u32::MAX, 1), call(one, u32::MAX, 2));
        assert_eq!(call(one, 0, 1), call(other, 0, 1));
        let call = call(one, u32::MAX, u32::MAX);
        assert_eq!(call.client_network(), Ipv4Addr::from(one));
        let service = ServiceKey { address: VIP.into(), port: 5060, protocol: Protocol::UDP };
        assert_eq!(call.scope(), TemplateScope::Service(service));
    }
}
