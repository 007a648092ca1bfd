//! ICMP errors that the director sends: when one may be sent at all, and its bytes.
//!
//! A report is a whole IP packet in a buffer of the caller's, who puts the Ethernet header in front. It quotes the packet as
//! its sender sent it: the caller gives it from before any rewrite.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::ipv4::{self, DONT_FRAGMENT, Ipv4Header};
use super::ipv6::{self, ICMPV6, Ipv6Header, MTU_MIN, UpperLayer};
use super::{checksum, icmp, icmpv6};

/// Largest report of IPv4, its IP header included (RFC 1812 section 4.3.2.3).
pub const BYTES_MAX_V4: usize = 576;
/// Largest report of IPv6, its IP header included (RFC 4443 section 2.4 c).
pub const BYTES_MAX_V6: usize = MTU_MIN as usize;

const MESSAGE_BYTES: usize = 8;
/// Precedence of internetwork control (RFC 1812 section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// What of the packet's type of service its report gets: neither precedence nor ECN, as in Linux but for ECN.
const KEPT_SERVICE: u8 = 0x1c;

/// What is wrong with a packet: type, code and the four bytes of the type's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes whose meaning depends on the type.
    pub rest: u32,
}

impl Problem {
    /// IPv4: destination unreachable, for instance [`icmp::PORT_UNREACHABLE`].
    pub const fn unreachable_v4(code: u8) -> Problem {
        Problem { kind: icmp::DESTINATION_UNREACHABLE, code, rest: 0 }
    }

    /// IPv4: too big and not to be fragmented.
    pub const fn fragmentation_needed(mtu: u16) -> Problem {
        Problem { kind: icmp::DESTINATION_UNREACHABLE, code: icmp::FRAGMENTATION_NEEDED, rest: mtu as u32 }
    }

    /// IPv4: TTL exceeded in transit.
    pub const fn time_exceeded_v4() -> Problem {
        Problem { kind: icmp::TIME_EXCEEDED, code: 0, rest: 0 }
    }

    /// IPv4: the byte at `pointer` is wrong.
    pub const fn parameter_problem_v4(pointer: u8) -> Problem {
        Problem { kind: icmp::PARAMETER_PROBLEM, code: 0, rest: (pointer as u32) << 24 }
    }

    /// IPv6: destination unreachable, for instance [`icmpv6::PORT_UNREACHABLE`].
    pub const fn unreachable_v6(code: u8) -> Problem {
        Problem { kind: icmpv6::DESTINATION_UNREACHABLE, code, rest: 0 }
    }

    /// IPv6: packet too big.
    pub const fn packet_too_big(mtu: u32) -> Problem {
        Problem { kind: icmpv6::PACKET_TOO_BIG, code: 0, rest: mtu }
    }

    /// IPv6: hop limit exceeded in transit.
    pub const fn time_exceeded_v6() -> Problem {
        Problem { kind: icmpv6::TIME_EXCEEDED, code: 0, rest: 0 }
    }

    /// IPv6: the byte at `pointer` is wrong; code and pointer as [`ipv6::ExtensionError::parameter_problem`] says them.
    pub const fn parameter_problem_v6(code: u8, pointer: u16) -> Problem {
        Problem { kind: icmpv6::PARAMETER_PROBLEM, code, rest: pointer as u32 }
    }

    fn header(self) -> [u8; MESSAGE_BYTES] {
        let [a, b, c, d] = self.rest.to_be_bytes();
        [self.kind, self.code, 0, 0, a, b, c, d]
    }
}

/// The sender of this packet may be told of a problem (RFC 1122 section 3.2.2): the packet tells of no error itself, is no
/// later fragment, and went from one host to one host, also on the link (`is_link_unicast`: to one MAC).
pub fn may_report_v4(packet: &[u8], is_link_unicast: bool) -> bool {
    let Ok((header, _)) = Ipv4Header::ref_from_prefix(packet) else { return false };
    let [source, destination] = [header.source[0], header.destination[0]];
    // Nobody's address, or that of many: 0/8, 127/8, multicast, class E and broadcast.
    let is_one_host = |first: u8| first != 0 && first != 127 && first < 224;
    if !is_link_unicast || header.is_later_fragment() || !is_one_host(source) || !is_one_host(destination) {
        return false;
    }
    header.protocol != ipv4::ICMP
        || packet.get(header.header_length()).is_some_and(|&kind| icmp::is_query(kind))
}

/// The sender of this packet may be told of this problem (RFC 4443 section 2.4 e): the packet tells of no error and redirects
/// nobody, and went from one host to one host, also on the link (`is_link_unicast`: to one MAC). Packets too big and unknown
/// options may be told of to senders of multicast. Of a later fragment only that it is too big. `upper`: where it could be
/// found; without it the packet is looked into as far as it can be, and nobody is told of one that may be an error.
pub fn may_report_v6(
    packet: &[u8],
    upper: Option<&UpperLayer>,
    problem: &Problem,
    is_link_unicast: bool,
) -> bool {
    let Ok((header, _)) = Ipv6Header::ref_from_prefix(packet) else { return false };
    let is_too_big = problem.kind == icmpv6::PACKET_TOO_BIG;
    let is_unknown_option =
        (problem.kind, problem.code) == (icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_OPTION);
    let is_to_one = is_link_unicast && header.destination[0] != 0xff;
    let loopback = 1_u128.to_be_bytes();
    let is_from_one = header.source[0] != 0xff && header.source != [0; 16] && header.source != loopback;
    if !is_from_one || !(is_to_one || is_too_big || is_unknown_option) {
        return false;
    }
    let end = match upper {
        Some(upper) if upper.is_later_fragment() => return is_too_big && upper.protocol != ICMPV6,
        Some(upper) => Some((upper.protocol, usize::from(upper.offset))),
        None => packet.get(ipv6::HEADER_BYTES..).and_then(|payload| header.refused_upper_layer(payload)),
    };
    match end {
        Some((ICMPV6, offset)) => {
            packet.get(offset).is_some_and(|&kind| !icmpv6::is_error(kind) && kind != icmpv6::REDIRECT)
        }
        Some(_) => true,
        None => false,
    }
}

/// Writes the report about `packet` from `source` to the packet's source into `buffer`, and returns its length: as much of the
/// packet as fits [`BYTES_MAX_V4`] and the buffer. `packet`: from its IPv4 header on, padding may follow. None where it has no
/// header, or the buffer no room for one.
pub fn report_v4(problem: Problem, packet: &[u8], source: [u8; 4], buffer: &mut [u8]) -> Option<usize> {
    let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
    let quote = packet.get(..usize::from(header.total_length.get())).unwrap_or(packet);
    let room = buffer.len().min(BYTES_MAX_V4).checked_sub(ipv4::HEADER_BYTES + MESSAGE_BYTES)?;
    let quote = quote.get(..room).unwrap_or(quote);
    if quote.len() < ipv4::HEADER_BYTES {
        return None;
    }
    let length = ipv4::HEADER_BYTES + MESSAGE_BYTES + quote.len();
    let (ip, message) = buffer.get_mut(..length)?.split_first_chunk_mut::<{ ipv4::HEADER_BYTES }>()?;
    let mut outer = Ipv4Header {
        version_and_length: 0x45,
        traffic_class: header.traffic_class & KEPT_SERVICE | INTERNETWORK_CONTROL,
        total_length: U16::new(length as u16),
        // Never fragmented, so that it needs no identification (RFC 6864).
        identification: U16::ZERO,
        flags_and_offset: U16::new(DONT_FRAGMENT),
        ttl: icmp::OWN_TTL,
        protocol: ipv4::ICMP,
        checksum: U16::ZERO,
        source,
        destination: header.source,
    };
    outer.checksum.set(checksum::checksum(outer.as_bytes()));
    ip.copy_from_slice(outer.as_bytes());
    write_message(problem, quote, message)?;
    let checksum = checksum::checksum(message);
    message.get_mut(2..4)?.copy_from_slice(&checksum.to_be_bytes());
    Some(length)
}

/// The same for IPv6, up to [`BYTES_MAX_V6`].
pub fn report_v6(problem: Problem, packet: &[u8], source: &[u8; 16], buffer: &mut [u8]) -> Option<usize> {
    let (header, _) = Ipv6Header::ref_from_prefix(packet).ok()?;
    let quote = packet.get(..header.total_length()).unwrap_or(packet);
    let room = buffer.len().min(BYTES_MAX_V6).checked_sub(ipv6::HEADER_BYTES + MESSAGE_BYTES)?;
    let quote = quote.get(..room).unwrap_or(quote);
    if quote.len() < ipv6::HEADER_BYTES {
        return None;
    }
    let payload_length = MESSAGE_BYTES + quote.len();
    let length = ipv6::HEADER_BYTES + payload_length;
    let (ip, message) = buffer.get_mut(..length)?.split_first_chunk_mut::<{ ipv6::HEADER_BYTES }>()?;
    let outer = Ipv6Header::new(*source, header.source, ICMPV6, icmpv6::OWN_HOP_LIMIT, payload_length as u16);
    ip.copy_from_slice(outer.as_bytes());
    write_message(problem, quote, message)?;
    icmpv6::set_checksum(source, &header.source, message);
    Some(length)
}

fn write_message(problem: Problem, quote: &[u8], message: &mut [u8]) -> Option<()> {
    let (head, body) = message.split_first_chunk_mut()?;
    *head = problem.header();
    body.get_mut(..quote.len())?.copy_from_slice(quote);
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::packet::icmp_error::ErrorMessage;
    use crate::packet::quote::Quote;

    const CLIENT: [u8; 4] = [198, 51, 100, 7];
    const VIP: [u8; 4] = [192, 0, 2, 10];
    const CLIENT6: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";
    const VIP6: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x10";

    fn v4(payload: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(CLIENT, VIP, 1).udp(40000, 53);
        builder.write(&mut packet, &vec![0xa5; payload]).unwrap();
        packet
    }

    fn v6(payload: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(CLIENT6, VIP6, 1).udp(40000, 53);
        builder.write(&mut packet, &vec![0xa5; payload]).unwrap();
        packet
    }

    #[test]
    fn v4_report_quotes_as_much_as_fits_and_checks_out() {
        for (payload, expected) in [(0, 56), (100, 156), (520, 576), (521, 576), (1472, 576)] {
            let mut packet = v4(payload);
            packet[1] = 0xff;
            let total = packet.len();
            packet.extend([0xee; 18]);
            let mut buffer = [0xdd; 600];
            let problem = Problem::fragmentation_needed(1400);
            let length = report_v4(problem, &packet, VIP, &mut buffer).unwrap();
            assert_eq!(length, expected);
            assert!(buffer[length..].iter().all(|&byte| byte == 0xdd));
            let parsed = SlicedPacket::from_ip(&buffer[..length]).unwrap();
            let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
            let header = ip.header();
            assert_eq!((header.source(), header.destination(), header.ttl()), (VIP, CLIENT, 64));
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            assert_eq!(buffer[1], 0xdc);
            let Some(TransportSlice::Icmpv4(icmp)) = parsed.transport else { panic!("no ICMP") };
            assert_eq!(checksum::sum(icmp.slice()), 0xffff);
            assert!(matches!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(_)));
            let message = ErrorMessage::read_v4(icmp.slice()).unwrap();
            assert_eq!(message.mtu_v4(), Some(1400));
            assert_eq!(message.quote, &packet[..total.min(548)]);
            assert_eq!(Quote::read(message.quote).unwrap().ports, Some((40000, 53)));
        }
    }

    #[test]
    fn v6_report_quotes_as_much_as_fits_and_checks_out() {
        for (payload, expected) in [(0, 96), (101, 197), (1184, 1280), (1185, 1280), (1452, 1280)] {
            let mut packet = v6(payload);
            let total = packet.len();
            packet.extend([0xee; 7]);
            let mut buffer = [0xdd; 1300];
            let length = report_v6(Problem::packet_too_big(1400), &packet, &VIP6, &mut buffer).unwrap();
            assert_eq!(length, expected);
            let parsed = SlicedPacket::from_ip(&buffer[..length]).unwrap();
            let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("no IPv6") };
            assert_eq!((ip.header().source(), ip.header().destination()), (VIP6, CLIENT6));
            let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMPv6") };
            assert!(icmp.is_checksum_valid(VIP6, CLIENT6));
            assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1400 });
            let message = ErrorMessage::read_v6(icmp.slice()).unwrap();
            assert_eq!(message.quote, &packet[..total.min(1232)]);
        }
    }

    #[test]
    fn problems_have_their_types_bytes() {
        for (problem, bytes) in [
            (Problem::unreachable_v4(3), [3, 3, 0, 0, 0, 0, 0, 0]),
            (Problem::fragmentation_needed(0x0578), [3, 4, 0, 0, 0, 0, 5, 0x78]),
            (Problem::time_exceeded_v4(), [11, 0, 0, 0, 0, 0, 0, 0]),
            (Problem::parameter_problem_v4(20), [12, 0, 0, 0, 20, 0, 0, 0]),
            (Problem::unreachable_v6(4), [1, 4, 0, 0, 0, 0, 0, 0]),
            (Problem::packet_too_big(0x0500), [2, 0, 0, 0, 0, 0, 5, 0]),
            (Problem::time_exceeded_v6(), [3, 0, 0, 0, 0, 0, 0, 0]),
            (Problem::parameter_problem_v6(2, 42), [4, 2, 0, 0, 0, 0, 0, 42]),
        ] {
            assert_eq!(problem.header(), bytes);
        }
    }

    #[test]
    fn no_report_without_a_header_to_quote_or_room() {
        let packet = v4(100);
        assert_eq!(report_v4(Problem::time_exceeded_v4(), &packet[..19], VIP, &mut [0; 600]), None);
        assert_eq!(report_v4(Problem::time_exceeded_v4(), &packet, VIP, &mut [0; 47]), None);
        assert_eq!(report_v4(Problem::time_exceeded_v4(), &packet, VIP, &mut [0; 48]), Some(48));
        let packet = v6(100);
        assert_eq!(report_v6(Problem::time_exceeded_v6(), &packet[..39], &VIP6, &mut [0; 600]), None);
        assert_eq!(report_v6(Problem::time_exceeded_v6(), &packet, &VIP6, &mut [0; 87]), None);
        assert_eq!(report_v6(Problem::time_exceeded_v6(), &packet, &VIP6, &mut [0; 88]), Some(88));
    }

    #[test]
    fn v4_reports_are_sent_of_nothing_that_could_multiply_them() {
        let may = |change: &dyn Fn(&mut [u8])| {
            let mut packet = v4(8);
            change(&mut packet);
            may_report_v4(&packet, true)
        };
        assert!(may(&|_| {}));
        assert!(!may_report_v4(&v4(8), false), "to many MACs");
        assert!(!may_report_v4(&v4(8)[..19], true));
        assert!(may(&|packet| packet[6] = 0x20), "first fragment");
        assert!(!may(&|packet| packet[7] = 1), "later fragment");
        for first in [0, 127, 224, 239, 240, 255] {
            assert!(!may(&|packet| packet[12] = first), "from {first}");
            assert!(!may(&|packet| packet[16] = first), "to {first}");
        }
        for kind in 0..=255_u8 {
            let is_query = matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
            assert_eq!(may(&|packet| (packet[9], packet[20]) = (1, kind)), is_query, "{kind}");
        }
        let mut echo = v4(8);
        echo[9] = 1;
        assert!(!may_report_v4(&echo[..20], true), "unknown type");
    }

    #[test]
    fn v6_reports_are_sent_of_nothing_that_could_multiply_them() {
        let problem = Problem::time_exceeded_v6();
        let too_big = Problem::packet_too_big(1280);
        let option = Problem::parameter_problem_v6(2, 42);
        let may = |problem: &Problem, is_link_unicast: bool, change: &dyn Fn(&mut [u8])| {
            let mut packet = v6(8);
            change(&mut packet);
            let (header, payload) = Ipv6Header::ref_from_prefix(&packet).unwrap();
            may_report_v6(&packet, header.upper_layer(payload).ok().as_ref(), problem, is_link_unicast)
        };
        assert!(may(&problem, true, &|_| {}));
        assert!(!may(&problem, false, &|_| {}));
        for problem in [&problem, &too_big, &option] {
            let is_for_many = problem != &Problem::time_exceeded_v6();
            assert_eq!(may(problem, true, &|packet| packet[24] = 0xff), is_for_many);
            assert_eq!(may(problem, false, &|_| {}), is_for_many);
            assert!(!may(problem, true, &|packet| packet[8] = 0xff));
            assert!(!may(problem, true, &|packet| packet[8..24].fill(0)));
            assert!(!may(problem, true, &|packet| {
                packet[8..23].fill(0);
                packet[23] = 1;
            }));
        }
        for kind in 0..=255_u8 {
            let may = may(&problem, true, &|packet| (packet[6], packet[40]) = (58, kind));
            assert_eq!(may, kind >= 128 && kind != 137, "{kind}");
        }
        let later = |next_header: u8| {
            move |packet: &mut [u8]| {
                packet[6] = 44;
                packet[40..48].copy_from_slice(&[next_header, 0, 0, 8, 0, 0, 0, 1]);
            }
        };
        assert!(!may(&problem, true, &later(17)));
        assert!(may(&too_big, true, &later(17)));
        assert!(!may(&too_big, true, &later(58)));
    }

    proptest! {
        #[test]
        fn anything_at_all_is_reported_within_bounds(
            mut packet in prop::collection::vec(any::<u8>(), 0..1500),
            room in 0..1400_usize,
            version in prop_oneof![Just(0x45_u8), Just(0x60)],
        ) {
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            let problem = Problem { kind: 3, code: 1, rest: 9 };
            let mut buffer = vec![0; room];
            may_report_v4(&packet, true);
            may_report_v6(&packet, None, &problem, true);
            if let Some(length) = report_v4(problem, &packet, VIP, &mut buffer) {
                prop_assert!(length <= room.min(576));
                prop_assert_eq!(checksum::sum(&buffer[20..length]), 0xffff);
            }
            if let Some(length) = report_v6(problem, &packet, &VIP6, &mut buffer) {
                prop_assert!(length <= room.min(1280));
                prop_assert!(icmpv6::is_intact(&VIP6, packet[8..].first_chunk().unwrap(), &buffer[40..length]));
            }
        }
    }
}
