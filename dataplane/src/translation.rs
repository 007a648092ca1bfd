//! Network address translation of a packet: other addresses in its IP header, other ports in its transport header, every
//! checksum patched for the change and not computed anew, so that what came damaged stays damaged.
//!
//! The pieces are of use wherever translated headers stand: in packets, in their fragments, in what ICMP errors quote.

use std::net::IpAddr;

use zerocopy::FromBytes;

use crate::connection::Translated;
use crate::connection::key::Tuple;
use crate::packet::checksum::ChecksumDelta;
use crate::packet::ipv4::{self, Ipv4Header};
use crate::packet::ipv6::Ipv6Header;
use crate::packet::sctp::SctpHeader;
use crate::packet::tcp::TcpHeader;
use crate::packet::udp::UdpHeader;

/// An address and a port, host byte order.
pub type Endpoint = (IpAddr, u16);

/// What a packet's source and destination become. Both addresses are of the packet's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its source.
    pub source: Endpoint,
    /// Its destination.
    pub destination: Endpoint,
}

impl Rewrite {
    /// Of packets of the client: to the real server, from the client or, with full NAT, from the local address.
    #[inline]
    pub fn to_real_server(translated: &Translated) -> Rewrite {
        let Tuple { client: real_server, client_port, service } =
            translated.reply.tuple(&translated.reply_pair);
        Rewrite { source: (service.address, service.port), destination: (real_server, client_port) }
    }

    /// Of packets of the real server: from the virtual service to the client. `connection` is what the client's packets are
    /// known by.
    #[inline]
    pub fn to_client(connection: &Tuple) -> Rewrite {
        Rewrite {
            source: (connection.service.address, connection.service.port),
            destination: (connection.client, connection.client_port),
        }
    }

    /// Of packets that go the other way than what this is made for, where they stand in an error: what quotes a packet that was
    /// rewritten already shows it as it was before.
    #[must_use]
    pub fn reversed(self) -> Rewrite {
        Rewrite { source: self.destination, destination: self.source }
    }

    /// Writes the addresses into the IP header that `ip` begins with, which was checked, and patches its checksum. What it does
    /// to checksums over the pseudo header is returned; nothing, and nothing is done, where the families differ.
    #[inline]
    pub fn write_addresses(&self, ip: &mut [u8]) -> Option<ChecksumDelta> {
        match (self.source.0, self.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (header, _) = Ipv4Header::mut_from_prefix(ip).ok()?;
                if header.version_and_length >> 4 != 4 {
                    return None;
                }
                let (source, destination) = (source.octets(), destination.octets());
                let delta = ChecksumDelta::NONE
                    .address_v4(header.source, source)
                    .address_v4(header.destination, destination);
                (header.source, header.destination) = (source, destination);
                header.checksum.set(delta.apply(header.checksum.get()));
                Some(delta)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (header, _) = Ipv6Header::mut_from_prefix(ip).ok()?;
                if header.version_class_flow.get() >> 28 != 6 {
                    return None;
                }
                let (source, destination) = (source.octets(), destination.octets());
                let delta = ChecksumDelta::NONE
                    .address_v6(&header.source, &source)
                    .address_v6(&header.destination, &destination);
                (header.source, header.destination) = (source, destination);
                Some(delta)
            }
            _ => None,
        }
    }

    /// The transport header that `transport` begins with has these ports already.
    pub fn keeps_ports(&self, transport: &[u8]) -> bool {
        let ([a, b], [c, d]) = (self.source.1.to_be_bytes(), self.destination.1.to_be_bytes());
        transport.first_chunk() == Some(&[a, b, c, d])
    }

    /// Writes the ports into the transport header that `transport` begins with and patches its checksum, as far as they are
    /// there; `addresses` is what [`Rewrite::write_addresses`] returned. `length`: of the transport header and all that follows it,
    /// however much of it is in `transport`; SCTP's checksum depends on it. False where the ports are not there.
    #[inline]
    pub fn write_ports(
        &self,
        transport: &mut [u8],
        protocol: u8,
        length: usize,
        addresses: ChecksumDelta,
    ) -> bool {
        let Some(ports) = transport.first_chunk_mut::<4>() else { return false };
        let old = *ports;
        let ([a, b], [c, d]) = (self.source.1.to_be_bytes(), self.destination.1.to_be_bytes());
        let new = [a, b, c, d];
        *ports = new;
        let delta = addresses.u32(u32::from_be_bytes(old), u32::from_be_bytes(new));
        match protocol {
            ipv4::TCP => {
                if let Ok((tcp, _)) = TcpHeader::mut_from_prefix(transport) {
                    tcp.checksum.set(delta.apply(tcp.checksum.get()));
                }
            }
            ipv4::UDP => {
                if let Ok((udp, _)) = UdpHeader::mut_from_prefix(transport) {
                    udp.checksum.set(delta.apply_udp(udp.checksum.get()));
                }
            }
            ipv4::SCTP if old != new => {
                if let Ok((sctp, _)) = SctpHeader::mut_from_prefix(transport) {
                    let checksum = sctp.checksum.to_bytes();
                    sctp.checksum = sctp_checksum(checksum, old, new, length).into();
                }
            }
            _ => {}
        }
        true
    }
}

/// SCTP's checksum after its ports, which the packet of `length` bytes begins with, changed. CRC32c is linear: it changes by what
/// the CRCs of the old and the new ports differ, shifted past all that follows, whatever that is.
fn sctp_checksum(field: [u8; 4], old: [u8; 4], new: [u8; 4], length: usize) -> [u8; 4] {
    let difference = crc32c::crc32c(&old) ^ crc32c::crc32c(&new);
    let shifted = crc32c::crc32c_combine(difference, 0, length.saturating_sub(old.len()));
    (u32::from_le_bytes(field) ^ shifted).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::{checksum, crc32c as sctp_crc};

    #[derive(Clone, Copy, Debug)]
    struct Ends {
        source: Endpoint,
        destination: Endpoint,
    }

    fn packet(ends: Ends, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = match (ends.source.0, ends.destination.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                PacketBuilder::ipv4(source.octets(), destination.octets(), 64)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                PacketBuilder::ipv6(source.octets(), destination.octets(), 64)
            }
            _ => unreachable!(),
        };
        match protocol {
            ipv4::TCP => builder
                .tcp(ends.source.1, ends.destination.1, 7, 9)
                .ack(3)
                .write(&mut packet, payload)
                .unwrap(),
            ipv4::UDP => {
                builder.udp(ends.source.1, ends.destination.1).write(&mut packet, payload).unwrap();
            }
            _ => {
                let mut sctp = [
                    &ends.source.1.to_be_bytes()[..],
                    &ends.destination.1.to_be_bytes(),
                    &[0, 0, 0, 9, 0, 0, 0, 0],
                    payload,
                ]
                .concat();
                sctp_crc::set(&mut sctp);
                builder.write(&mut packet, etherparse::IpNumber(ipv4::SCTP), &sctp).unwrap();
            }
        }
        packet
    }

    fn transport_of(packet: &[u8]) -> usize {
        if packet[0] >> 4 == 4 { 20 } else { 40 }
    }

    fn apply(rewrite: &Rewrite, packet: &mut [u8], protocol: u8) {
        let transport = transport_of(packet);
        let delta = rewrite.write_addresses(packet).unwrap();
        let length = packet.len() - transport;
        assert!(rewrite.write_ports(&mut packet[transport..], protocol, length, delta));
    }

    fn endpoints(is_ipv6: bool) -> impl Strategy<Value = Endpoint> {
        (any::<u128>(), any::<u16>()).prop_map(move |(bits, port)| match is_ipv6 {
            false => (Ipv4Addr::from_bits(bits as u32).into(), port),
            true => (Ipv6Addr::from_bits(bits).into(), port),
        })
    }

    fn ends(is_ipv6: bool) -> impl Strategy<Value = Ends> {
        (endpoints(is_ipv6), endpoints(is_ipv6))
            .prop_map(|(source, destination)| Ends { source, destination })
    }

    fn both() -> impl Strategy<Value = (Ends, Ends)> {
        any::<bool>().prop_flat_map(|is_ipv6| (ends(is_ipv6), ends(is_ipv6)))
    }

    proptest! {
        #[test]
        fn translated_packet_is_the_one_that_would_be_built_so(
            (old, new) in both(),
            protocol in prop::sample::select(&[ipv4::TCP, ipv4::UDP, ipv4::SCTP][..]),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut translated = packet(old, protocol, &payload);
            let rewrite = Rewrite { source: new.source, destination: new.destination };
            apply(&rewrite, &mut translated, protocol);
            let built = packet(new, protocol, &payload);
            let transport = transport_of(&built);
            let field = match protocol {
                ipv4::TCP => transport + 16,
                ipv4::UDP => transport + 6,
                _ => transport + 8,
            };
            // One's complement has two zeros; a header's checksum is right with either.
            if translated != built {
                prop_assert_eq!(&translated[field..field + 2], &[0xff, 0xff]);
                prop_assert!(protocol == ipv4::TCP);
                translated[field..field + 2].copy_from_slice(&[0, 0]);
            }
            prop_assert_eq!(&translated, &built);
            let back = Rewrite { source: old.source, destination: old.destination };
            apply(&back, &mut translated, protocol);
            let original = packet(old, protocol, &payload);
            prop_assert!(translated[..field] == original[..field] && translated[field + 2..] == original[field + 2..]);
        }

        #[test]
        fn what_came_damaged_stays_damaged(
            (old, new) in both(),
            protocol in prop::sample::select(&[ipv4::TCP, ipv4::UDP, ipv4::SCTP][..]),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut damaged = packet(old, protocol, &[5; 40]);
            let transport = transport_of(&damaged);
            let at = damaged.len() - 40 + flip.index(40);
            damaged[at] ^= 4;
            apply(&Rewrite { source: new.source, destination: new.destination }, &mut damaged, protocol);
            let is_intact = match protocol {
                ipv4::SCTP => sctp_crc::is_intact(&damaged[transport..]),
                _ => {
                    let length = damaged.len() - transport;
                    let pseudo = match (new.source.0, new.destination.0) {
                        (IpAddr::V4(source), IpAddr::V4(destination)) => {
                            checksum::pseudo_header_v4(source.octets(), destination.octets(), protocol, length as u16)
                        }
                        (IpAddr::V6(source), IpAddr::V6(destination)) => {
                            checksum::pseudo_header_v6(&source.octets(), &destination.octets(), protocol, length as u32)
                        }
                        _ => unreachable!(),
                    };
                    checksum::is_intact(pseudo, &damaged[transport..])
                }
            };
            prop_assert!(!is_intact);
        }
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let end = |last, port| (IpAddr::from([10, 0, 0, last]), port);
        let ends = Ends { source: end(1, 1024), destination: end(2, 53) };
        let mut datagram = packet(ends, ipv4::UDP, b"question");
        datagram[26..28].fill(0);
        apply(&Rewrite { source: end(1, 1024), destination: end(3, 5353) }, &mut datagram, ipv4::UDP);
        assert_eq!(datagram[26..28], [0, 0]);
        assert_eq!(datagram[16..20], [10, 0, 0, 3]);
        assert_eq!(datagram[22..24], 5353_u16.to_be_bytes());
    }

    #[test]
    fn sctp_checksum_is_left_alone_where_the_ports_stay() {
        let end = |last| (IpAddr::from([10, 0, 0, last]), 3868);
        let mut damaged = packet(Ends { source: end(1), destination: end(2) }, ipv4::SCTP, &[0; 8]);
        damaged[28..32].copy_from_slice(&[1, 2, 3, 4]);
        apply(&Rewrite { source: end(1), destination: end(3) }, &mut damaged, ipv4::SCTP);
        assert_eq!(damaged[28..32], [1, 2, 3, 4]);
    }

    #[test]
    fn other_family_and_missing_ports_are_refused() {
        let v4 = (IpAddr::from([10, 0, 0, 1]), 80);
        let v6 = (IpAddr::from([1; 16]), 80);
        let mut packet = packet(Ends { source: v4, destination: v4 }, ipv4::TCP, b"");
        let before = packet.clone();
        for rewrite in [Rewrite { source: v6, destination: v6 }, Rewrite { source: v4, destination: v6 }] {
            assert!(rewrite.write_addresses(&mut packet).is_none());
        }
        let rewrite = Rewrite { source: v4, destination: v4 };
        for length in 0..4 {
            let missing = &mut packet[20..20 + length];
            assert!(!rewrite.write_ports(missing, ipv4::TCP, 20, ChecksumDelta::NONE));
        }
        assert_eq!(packet, before);
    }
}
