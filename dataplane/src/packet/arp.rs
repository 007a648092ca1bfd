//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{self, EthernetHeader, FRAME_BYTES_MIN};

/// Operation of a request.
pub const REQUEST: u16 = 1;
/// Operation of a reply.
pub const REPLY: u16 = 2;

/// Hardware type of Ethernet.
const HARDWARE_ETHERNET: U16 = U16::new(1);

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    hardware_type: U16,
    protocol_type: U16,
    hardware_length: u8,
    protocol_length: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_address: [u8; 4],
    target_mac: [u8; 6],
    target_address: [u8; 4],
}

/// Bytes of an ARP frame without padding.
pub const FRAME_BYTES: usize = ethernet::HEADER_BYTES + size_of::<Wire>();

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// [`REQUEST`] or [`REPLY`].
    pub operation: u16,
    /// MAC of who speaks.
    pub sender_mac: [u8; 6],
    /// Address of who speaks; 0.0.0.0 in a probe (RFC 5227).
    pub sender_address: Ipv4Addr,
    /// MAC of who is spoken to; zero in a request.
    pub target_mac: [u8; 6],
    /// Address asked for, or of who is spoken to.
    pub target_address: Ipv4Addr,
}

impl ArpPacket {
    /// Reads a whole frame; none where it is too short, not for IPv4 over Ethernet, or neither request nor reply.
    pub fn parse(frame: &[u8]) -> Option<ArpPacket> {
        let (header, _) = EthernetHeader::read(frame)?;
        (header.ether_type == ethernet::ARP).then(|| ArpPacket::parse_at(frame, ethernet::HEADER_BYTES))?
    }

    /// The same of a frame that has tags, where it begins at `offset`.
    pub fn parse_at(frame: &[u8], offset: usize) -> Option<ArpPacket> {
        let (wire, _) = Wire::ref_from_prefix(frame.get(offset..)?).ok()?;
        let is_ethernet_ipv4 = wire.hardware_type == HARDWARE_ETHERNET
            && wire.protocol_type == ethernet::IPV4
            && wire.hardware_length == 6
            && wire.protocol_length == 4;
        let operation = wire.operation.get();
        (is_ethernet_ipv4 && matches!(operation, REQUEST | REPLY)).then(|| ArpPacket {
            operation,
            sender_mac: wire.sender_mac,
            sender_address: wire.sender_address.into(),
            target_mac: wire.target_mac,
            target_address: wire.target_address.into(),
        })
    }

    /// The frame from `source` to `destination`, padded with zeros.
    pub fn to_frame(&self, destination: [u8; 6], source: [u8; 6]) -> [u8; FRAME_BYTES_MIN] {
        let mut frame = [0; FRAME_BYTES_MIN];
        let ethernet = EthernetHeader { destination, source, ether_type: ethernet::ARP };
        let wire = Wire {
            hardware_type: HARDWARE_ETHERNET,
            protocol_type: ethernet::IPV4,
            hardware_length: 6,
            protocol_length: 4,
            operation: self.operation.into(),
            sender_mac: self.sender_mac,
            sender_address: self.sender_address.octets(),
            target_mac: self.target_mac,
            target_address: self.target_address.octets(),
        };
        frame[..ethernet::HEADER_BYTES].copy_from_slice(ethernet.as_bytes());
        frame[ethernet::HEADER_BYTES..FRAME_BYTES].copy_from_slice(wire.as_bytes());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO_HAS: ArpPacket = ArpPacket {
        operation: REQUEST,
        sender_mac: [2, 0, 0, 0, 0, 1],
        sender_address: Ipv4Addr::new(10, 0, 0, 1),
        target_mac: [0; 6],
        target_address: Ipv4Addr::new(10, 0, 0, 11),
    };

    #[test]
    fn frame_round_trips_and_is_padded_with_zeros() {
        let frame = WHO_HAS.to_frame(ethernet::BROADCAST, WHO_HAS.sender_mac);
        assert_eq!(ArpPacket::parse(&frame), Some(WHO_HAS));
        assert_eq!(frame[FRAME_BYTES..], [0; FRAME_BYTES_MIN - FRAME_BYTES]);
        assert_eq!(
            frame[..22],
            *b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\x06\0\x01\x08\0\x06\x04\0\x01"
        );
    }

    #[test]
    fn other_types_lengths_and_operations_are_refused() {
        let good = WHO_HAS.to_frame(ethernet::BROADCAST, WHO_HAS.sender_mac);
        for (offset, value) in [(13, 0), (15, 6), (16, 0x86), (18, 8), (19, 16), (21, 0), (21, 3), (20, 255)]
        {
            let mut frame = good;
            frame[offset] = value;
            assert_eq!(ArpPacket::parse(&frame), None, "byte {offset} = {value}");
        }
        for length in 0..FRAME_BYTES {
            assert_eq!(ArpPacket::parse(&good[..length]), None, "{length} bytes");
        }
    }
}
