//! ICMP errors of both families, built from their parts.

use std::net::IpAddr;

use dataplane::packet::checksum;
use dataplane::packet::icmpv6::set_checksum;

use super::packet::{End, FrameOf};
use super::{CLIENT_MAC, own_mac, rs_mac};

/// An error in a frame.
#[derive(Clone, Debug)]
pub struct ErrorOf {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub kind: u8,
    pub code: u8,
    pub rest: u32,
    pub quote: Vec<u8>,
}

impl ErrorOf {
    /// From the client's side. Destination unreachable: too big.
    pub fn new(source: IpAddr, destination: IpAddr, quote: &[u8]) -> ErrorOf {
        let (kind, code) = if source.is_ipv6() { (2, 0) } else { (3, 4) };
        ErrorOf {
            source_mac: CLIENT_MAC,
            destination_mac: own_mac(0),
            source,
            destination,
            ttl: 64,
            kind,
            code,
            rest: 1400,
            quote: quote.to_vec(),
        }
    }

    pub fn of_kind(self, kind: u8, code: u8) -> ErrorOf {
        ErrorOf { kind, code, rest: 0, ..self }
    }

    /// As the real server's side sends it.
    pub fn sent_by(self, slot: u32) -> ErrorOf {
        ErrorOf { source_mac: rs_mac(slot), ..self }
    }

    /// One hop later, at the real server.
    pub fn at_rs(self, slot: u32) -> ErrorOf {
        ErrorOf { source_mac: own_mac(0), destination_mac: rs_mac(slot), ttl: self.ttl - 1, ..self }
    }

    /// One hop later, at the client.
    pub fn at_client(self) -> ErrorOf {
        ErrorOf { source_mac: own_mac(0), destination_mac: CLIENT_MAC, ttl: self.ttl - 1, ..self }
    }

    pub fn between(self, source: IpAddr, destination: IpAddr) -> ErrorOf {
        ErrorOf { source, destination, ..self }
    }

    pub fn quoting(self, quote: &[u8]) -> ErrorOf {
        ErrorOf { quote: quote.to_vec(), ..self }
    }

    pub fn message(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest.to_be_bytes());
        message.extend(&self.quote);
        match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                set_checksum(&source.octets(), &destination.octets(), &mut message);
            }
            _ => {
                let sum = checksum::checksum(&message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
        }
        message
    }

    /// Padded to the least that Ethernet sends.
    pub fn frame(&self) -> Vec<u8> {
        let message = self.message();
        let mut frame = [self.destination_mac, self.source_mac].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = etherparse::Ipv4Header::new(
                    message.len() as u16,
                    self.ttl,
                    etherparse::IpNumber::ICMP,
                    source.octets(),
                    destination.octets(),
                )
                .unwrap();
                header.header_checksum = header.calc_header_checksum();
                frame.extend([8, 0]);
                header.write(&mut frame).unwrap();
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = etherparse::Ipv6Header {
                    payload_length: message.len() as u16,
                    next_header: etherparse::IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                frame.extend([0x86, 0xdd]);
                header.write(&mut frame).unwrap();
            }
            _ => panic!("one family"),
        }
        frame.extend(message);
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

/// The packet of a frame without options and extension headers.
pub fn packet_of(frame: &FrameOf) -> Vec<u8> {
    frame.build()[14..].to_vec()
}

/// The packet between others: addresses, ports and IPv4's header checksum, nothing else.
pub fn quoted_between(packet: &[u8], source: End, destination: End) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let ports = match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&destination.octets());
            super::packets::set_header_checksum(&mut packet);
            usize::from(packet[0] & 15) * 4
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet[8..24].copy_from_slice(&source.octets());
            packet[24..40].copy_from_slice(&destination.octets());
            40
        }
        _ => panic!("one family"),
    };
    packet[ports..ports + 2].copy_from_slice(&source.1.to_be_bytes());
    packet[ports + 2..ports + 4].copy_from_slice(&destination.1.to_be_bytes());
    packet
}
