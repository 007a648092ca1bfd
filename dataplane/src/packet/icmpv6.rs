//! ICMPv6 (RFC 4443): types and codes, the checksum, and the answer to ping.

use super::checksum;
use super::ethernet::{self, EthernetHeader, FRAME_BYTES_MIN};
use super::ipv6::{self, ICMPV6, Ipv6Header};
use zerocopy::IntoBytes;

/// Type: destination unreachable.
pub const DESTINATION_UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: multicast listener query.
pub const MULTICAST_LISTENER_QUERY: u8 = 130;
/// Type of a neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type of a neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Type: redirect.
pub const REDIRECT: u8 = 137;
/// Code of destination unreachable: no route.
pub const NO_ROUTE: u8 = 0;
/// Code of destination unreachable: address.
pub const ADDRESS_UNREACHABLE: u8 = 3;
/// Code of destination unreachable: port.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of parameter problem: a field that cannot be.
pub const ERRONEOUS_FIELD: u8 = 0;
/// Code of parameter problem: a next header that is not known.
pub const UNKNOWN_NEXT_HEADER: u8 = 1;
/// Code of parameter problem: an option that is not known.
pub const UNKNOWN_OPTION: u8 = 2;

/// Type, code, checksum, four bytes of the type's own.
pub const HEADER_BYTES: usize = 8;

/// Hop limit of what the director itself originates (RFC 1700's default), neighbour discovery excepted.
pub const OWN_HOP_LIMIT: u8 = 64;

/// It tells of an error in another packet, which it quotes.
#[inline(always)]
pub fn is_error(kind: u8) -> bool {
    kind < 128
}

/// The message's checksum is right; `message` is all of it.
pub fn is_intact(source: &[u8; 16], destination: &[u8; 16], message: &[u8]) -> bool {
    checksum::is_intact(pseudo_header(source, destination, message), message)
}

/// Writes the checksum into a whole message.
pub fn set_checksum(source: &[u8; 16], destination: &[u8; 16], message: &mut [u8]) {
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
    }
    let checksum = checksum::transport_checksum(pseudo_header(source, destination, message), message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

fn pseudo_header(source: &[u8; 16], destination: &[u8; 16], message: &[u8]) -> u16 {
    checksum::pseudo_header_v6(source, destination, ICMPV6, message.len() as u32)
}

/// The message is an ICMPv6 echo request.
pub fn is_echo_request(message: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && message[..2] == [ECHO_REQUEST, 0]
}

/// The reply to the echo request in `request` (a whole frame without tag), from `own_mac` to the frame's source; none unless
/// it is a whole, well-formed echo request to one address. Extension headers of the request are not repeated.
pub fn echo_reply(request: &[u8], own_mac: [u8; 6]) -> Option<Vec<u8>> {
    let (ethernet, packet) = EthernetHeader::read(request)?;
    if ethernet.ether_type != ethernet::IPV6 || ethernet.source[0] & 1 != 0 {
        return None;
    }
    let (ip, payload) = Ipv6Header::read(packet, packet.len()).ok()?;
    let upper = ip.upper_layer(payload).ok()?;
    let message = packet.get(usize::from(upper.offset)..ip.total_length())?;
    let is_whole_echo_request = upper.protocol == ICMPV6
        && !upper.is_fragment()
        && ip.destination[0] != 0xff
        && ip.source != [0; 16]
        && is_echo_request(message)
        && is_intact(&ip.source, &ip.destination, message);
    if !is_whole_echo_request {
        return None;
    }
    let length = u16::try_from(message.len()).ok()?;
    let mut header = Ipv6Header::new(ip.destination, ip.source, ICMPV6, OWN_HOP_LIMIT, length);
    header.set_traffic_class(ip.traffic_class());
    let total = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + message.len();
    let mut frame = Vec::with_capacity(total.max(FRAME_BYTES_MIN));
    frame.extend(ethernet.source);
    frame.extend(own_mac);
    frame.extend(ethernet::IPV6.to_bytes());
    frame.extend(header.as_bytes());
    let start = frame.len();
    frame.extend(message);
    frame[start] = ECHO_REPLY;
    set_checksum(&header.source, &header.destination, &mut frame[start..]);
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const CLIENT: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";
    const VIP: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x10";

    fn request(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ipv6(CLIENT, VIP, 1)
            .icmpv6_echo_request(77, 3)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn reply_mirrors_request_and_checks_out() {
        for length in [0, 1, 17, 56, 1452] {
            let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let mut request = request(&payload);
            request.extend([0xee; 3]);
            let reply = echo_reply(&request, OWN_MAC).unwrap();
            let parsed = SlicedPacket::from_ethernet(&reply).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("no IPv6") };
            assert_eq!((ip.header().source(), ip.header().destination()), (VIP, CLIENT));
            assert_eq!(ip.header().hop_limit(), 64);
            let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMPv6") };
            assert!(icmp.is_checksum_valid(VIP, CLIENT));
            assert_eq!(icmp.type_u8(), ECHO_REPLY);
            assert_eq!(icmp.bytes5to8(), [0, 77, 0, 3]);
            assert_eq!(icmp.payload(), payload);
            assert_eq!(reply[..12], [CLIENT_MAC, OWN_MAC].concat());
            assert!(reply[62 + length..].iter().all(|&byte| byte == 0), "padding");
        }
    }

    #[test]
    fn no_reply_to_anything_but_a_whole_good_request() {
        let good = request(&[1, 2, 3]);
        for length in 0..good.len() {
            assert_eq!(echo_reply(&good[..length], OWN_MAC), None, "{length} bytes");
        }
        for (name, offset, value) in [
            ("echo reply", 54, 129),
            ("code 1", 55, 1),
            ("bad checksum", 56, 0x55),
            ("UDP", 20, 17),
            ("multicast source MAC", 6, 1),
            ("multicast destination", 38, 0xff),
            ("IPv4", 13, 0),
        ] {
            let mut frame = good.clone();
            frame[offset] = value;
            assert_eq!(echo_reply(&frame, OWN_MAC), None, "{name}");
        }
    }
}
