//! ICMP echo (RFC 792): the director answers ping to its VIPs and DIPs.

use super::checksum;
use super::ethernet::{self, EthernetHeader, FRAME_BYTES_MIN};
use super::ipv4::{self, Ipv4Header};
use crate::port::ChecksumStatus;

/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 3;
/// Type: source quench, which nobody sends any more (RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of destination unreachable: host.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of destination unreachable: protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of destination unreachable: port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: too big and not to be fragmented.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Type, code, checksum, identifier, sequence number.
pub const HEADER_BYTES: usize = 8;

/// TTL of what the director itself originates (RFC 1700's default).
pub const OWN_TTL: u8 = 64;

/// It tells of an error in another packet, which it quotes: about such a message no other may be sent (RFC 1122 section
/// 3.2.2).
#[inline(always)]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, DESTINATION_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// It asks something, or answers.
#[inline(always)]
pub fn is_query(kind: u8) -> bool {
    matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18)
}

/// The payload of an IPv4 packet is an ICMP echo request.
pub fn is_echo_request(message: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && message[..2] == [ECHO_REQUEST, 0]
}

/// The reply to the echo request in `request` (a whole frame), from `own_mac` to the frame's source; none unless it is a
/// whole, well-formed echo request.
pub fn echo_reply(request: &[u8], own_mac: [u8; 6]) -> Option<Vec<u8>> {
    let (ethernet, packet) = EthernetHeader::read(request)?;
    let (ip, message) = Ipv4Header::read(packet, ChecksumStatus::Unknown).ok()?;
    let is_whole_echo_request = ethernet.ether_type == ethernet::IPV4
        && ethernet.source[0] & 1 == 0
        && ip.protocol == ipv4::ICMP
        && !ip.is_fragment()
        && is_echo_request(message)
        && checksum::sum(message) == 0xffff;
    if !is_whole_echo_request {
        return None;
    }
    let total_length = ipv4::HEADER_BYTES + message.len();
    let mut frame = Vec::with_capacity((ethernet::HEADER_BYTES + total_length).max(FRAME_BYTES_MIN));
    frame.extend(ethernet.source);
    frame.extend(own_mac);
    frame.extend(ethernet::IPV4.to_bytes());
    frame.extend([0x45, ip.traffic_class]);
    frame.extend(u16::try_from(total_length).ok()?.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, OWN_TTL, ipv4::ICMP, 0, 0]);
    frame.extend(ip.destination);
    frame.extend(ip.source);
    let sum = checksum::checksum(&frame[ethernet::HEADER_BYTES..]);
    frame[ethernet::HEADER_BYTES + 10..ethernet::HEADER_BYTES + 12].copy_from_slice(&sum.to_be_bytes());
    let start = frame.len();
    frame.extend(message);
    frame[start] = ECHO_REPLY;
    frame[start + 2..start + 4].fill(0);
    let sum = checksum::checksum(&frame[start..]);
    frame[start + 2..start + 4].copy_from_slice(&sum.to_be_bytes());
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn request(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 1)
            .icmpv4_echo_request(77, 3)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn reply_mirrors_request_and_checks_out() {
        for length in [0, 1, 17, 56, 1472] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let reply = echo_reply(&request(&payload), OWN_MAC).unwrap();
            assert!(reply.len() >= FRAME_BYTES_MIN);
            let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
            assert_eq!(ip.header().source(), [192, 0, 2, 10]);
            assert_eq!(ip.header().destination(), [198, 51, 100, 7]);
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            assert_eq!(ip.header().ttl(), 64);
            let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("no ICMP") };
            assert!(icmp.is_checksum_valid_for_test());
            assert_eq!(icmp.type_u8(), ECHO_REPLY);
            assert_eq!(icmp.bytes5to8(), [0, 77, 0, 3]);
            assert_eq!(icmp.payload(), payload);
            assert_eq!(reply[..12], [CLIENT_MAC, OWN_MAC].concat());
        }
    }

    trait ChecksumIsValid {
        fn is_checksum_valid_for_test(&self) -> bool;
    }

    impl ChecksumIsValid for etherparse::Icmpv4Slice<'_> {
        fn is_checksum_valid_for_test(&self) -> bool {
            checksum::sum(self.slice()) == 0xffff
        }
    }

    #[test]
    fn no_reply_to_anything_but_a_whole_good_request() {
        let good = request(&[1, 2, 3]);
        for length in 0..good.len() {
            assert_eq!(echo_reply(&good[..length], OWN_MAC), None, "{length} bytes");
        }
        for (name, offset, value) in [
            ("echo reply", 34, 0),
            ("code 1", 35, 1),
            ("bad checksum", 36, 0x55),
            ("fragment", 20, 0x20),
            ("UDP", 23, 17),
            ("multicast source MAC", 6, 1),
            ("bad IP checksum", 24, 0x99),
        ] {
            let mut frame = good.clone();
            frame[offset] = value;
            assert_eq!(echo_reply(&frame, OWN_MAC), None, "{name}");
        }
    }
}
