//! Tests of IPv6 headers.

use etherparse::{IpHeaders, PacketBuilder};
use proptest::prelude::*;

use super::*;

const SOURCE: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";
const VIP: [u8; 16] = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x10";
const LINK_LOCAL: [u8; 16] = *b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x07";

fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header::new(SOURCE, VIP, next_header, 64, payload.len() as u16);
    [header.as_bytes(), payload].concat()
}

fn read(packet: &[u8]) -> Result<usize, DropReason> {
    Ipv6Header::read(packet, packet.len()).map(|(_, payload)| payload.len())
}

fn walk(packet: &[u8]) -> Result<UpperLayer, ExtensionError> {
    let (header, payload) = Ipv6Header::read(packet, packet.len()).unwrap();
    header.upper_layer(payload)
}

fn ends_at(protocol: u8, offset: u16) -> Result<UpperLayer, ExtensionError> {
    Ok(UpperLayer { protocol, offset, fragment: None })
}

#[test]
fn built_by_etherparse_is_read_and_padding_left_out() {
    let mut frame = Vec::new();
    PacketBuilder::ipv6(SOURCE, VIP, 9).udp(1, 2).write(&mut frame, b"abc").unwrap();
    frame.extend([0xff; 5]);
    let (header, payload) = Ipv6Header::read(&frame, frame.len()).unwrap();
    assert_eq!((header.source, header.destination, header.hop_limit), (SOURCE, VIP, 9));
    assert_eq!((payload.len(), header.total_length()), (11, 51));
    assert_eq!(header.upper_layer(payload), ends_at(UDP, 40));
}

#[test]
fn payload_in_later_segments_counts() {
    let whole = packet(UDP, &[0; 100]);
    let (_, payload) = Ipv6Header::read(&whole[..60], whole.len()).unwrap();
    assert_eq!(payload.len(), 20);
    assert_eq!(Ipv6Header::read(&whole[..60], whole.len() - 1).err(), Some(DropReason::Truncated));
    assert_eq!(Ipv6Header::read(&whole[..39], whole.len()).err(), Some(DropReason::Truncated));
}

#[test]
fn every_prefix_is_truncated() {
    let whole = packet(UDP, &[0; 8]);
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), Err(DropReason::Truncated), "{length}");
    }
}

#[test]
fn class_and_label_are_apart() {
    let mut header = Ipv6Header::new(SOURCE, VIP, UDP, 64, 0);
    header.version_class_flow.set(0x6a5f_1234);
    assert_eq!((header.traffic_class(), header.flow_label()), (0xa5, 0xf_1234));
    header.set_traffic_class(0x5a);
    assert_eq!(header.version_class_flow.get(), 0x65af_1234);
}

#[test]
fn impossible_headers_are_named() {
    let change = |change: &dyn Fn(&mut Ipv6Header)| {
        let mut header = Ipv6Header::new(SOURCE, VIP, TCP, 64, 8);
        change(&mut header);
        [header.as_bytes(), &[0; 8]].concat()
    };
    let source = |source: &str, destination: &str| {
        let (source, destination): (Ipv6Addr, Ipv6Addr) =
            (source.parse().unwrap(), destination.parse().unwrap());
        change(&|header| (header.source, header.destination) = (source.octets(), destination.octets()))
    };
    use DropReason::{BadIpHeader, BadSource, Truncated};
    for (name, bytes, expected) in [
        ("version 4", change(&|header| header.version_class_flow.set(4 << 28)), Err(BadIpHeader)),
        ("version 7", change(&|header| header.version_class_flow.set(7 << 28)), Err(BadIpHeader)),
        ("payload over frame", change(&|header| header.payload_length.set(9)), Err(Truncated)),
        (
            "jumbogram",
            change(&|header| (header.payload_length, header.next_header) = (U16::new(0), 0)),
            Err(BadIpHeader),
        ),
        ("empty", change(&|header| (header.payload_length, header.next_header) = (U16::new(0), 59)), Ok(0)),
        ("unspecified", source("::", "2001:db8::10"), Err(BadSource)),
        ("loopback", source("::1", "2001:db8::10"), Err(BadSource)),
        ("multicast", source("ff02::1", "2001:db8::10"), Err(BadSource)),
        ("mapped", source("::ffff:198.51.100.7", "2001:db8::10"), Err(BadSource)),
        ("land", source("2001:db8::10", "2001:db8::10"), Err(BadSource)),
        ("land of link-locals", source("fe80::1", "fe80::1"), Err(BadSource)),
        ("land of ::2", source("::2", "::2"), Err(BadSource)),
        ("link-local to global", source("fe80::1", "2001:db8::10"), Err(BadSource)),
        ("febf to global", source("febf::1", "2001:db8::10"), Err(BadSource)),
        ("fec0 to global", source("fec0::1", "2001:db8::10"), Ok(8)),
        ("link-local to link-local", source("fe80::1", "fe80::2"), Ok(8)),
        ("link-local to multicast", source("fe80::1", "ff02::5"), Ok(8)),
        ("unique local", source("fd00::1", "2001:db8::10"), Ok(8)),
        ("NAT64", source("64:ff9b::1", "2001:db8::10"), Ok(8)),
        ("::2", source("::2", "2001:db8::10"), Ok(8)),
    ] {
        assert_eq!(read(&bytes), expected, "{name}");
    }
}

#[test]
fn neighbour_discovery_may_come_from_where_nothing_else_does() {
    let with = |source, destination, hop_limit| {
        let header = Ipv6Header::new(source, destination, ICMPV6, hop_limit, 0);
        read(header.as_bytes())
    };
    let solicited_node = *b"\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x10";
    assert_eq!(with([0; 16], solicited_node, 255), Ok(0), "duplicate address detection");
    assert_eq!(with([0; 16], solicited_node, 64), Err(DropReason::BadSource));
    assert_eq!(with([0; 16], VIP, 255), Err(DropReason::BadSource));
    assert_eq!(with(LINK_LOCAL, VIP, 255), Ok(0), "a router's probe");
    assert_eq!(with(LINK_LOCAL, VIP, 64), Err(DropReason::BadSource));
}

#[test]
fn chains_end_where_the_upper_layer_begins() {
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let chain = |kinds: &[u8], last: u8| {
        let mut payload = Vec::new();
        for (index, _) in kinds.iter().enumerate() {
            let mut header = options;
            header[0] = *kinds.get(index + 1).unwrap_or(&last);
            payload.extend(header);
        }
        payload.extend([0; 20]);
        packet(*kinds.first().unwrap_or(&last), &payload)
    };
    assert_eq!(walk(&chain(&[], TCP)), ends_at(TCP, 40));
    assert_eq!(walk(&chain(&[HOP_BY_HOP], UDP)), ends_at(UDP, 48));
    assert_eq!(walk(&chain(&[HOP_BY_HOP, DESTINATION_OPTIONS], SCTP)), ends_at(SCTP, 56));
    assert_eq!(walk(&chain(&[DESTINATION_OPTIONS; 8], TCP)), ends_at(TCP, 104));
    assert_eq!(walk(&chain(&[DESTINATION_OPTIONS; 9], TCP)), Err(ExtensionError::TooLong));
    assert_eq!(walk(&chain(&[DESTINATION_OPTIONS], ESP)), ends_at(ESP, 48));
    assert_eq!(walk(&chain(&[DESTINATION_OPTIONS], NO_NEXT_HEADER)), ends_at(NO_NEXT_HEADER, 48));
    assert_eq!(walk(&chain(&[], 200)), ends_at(200, 40));
    for kinds in [&[DESTINATION_OPTIONS, HOP_BY_HOP][..], &[HOP_BY_HOP, HOP_BY_HOP]] {
        assert_eq!(walk(&chain(kinds, TCP)), Err(ExtensionError::Misplaced(40)));
    }
}

#[test]
fn authentication_counts_in_words() {
    let mut payload = vec![TCP, 4, 0, 0];
    payload.extend([0; 40]);
    assert_eq!(walk(&packet(AUTHENTICATION, &payload)), ends_at(TCP, 64));
}

#[test]
fn hop_by_hop_options_decide_by_their_type() {
    let in_header = |next_header: u8, destination: [u8; 16], kind: u8, length: u8| {
        let options = [TCP, 0, kind, length, 0, 0, 0, 0];
        let header = Ipv6Header::new(SOURCE, destination, next_header, 64, 8);
        walk(&[header.as_bytes(), &options].concat())
    };
    let with = |destination, kind, length| in_header(HOP_BY_HOP, destination, kind, length);
    let multicast = *b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    assert_eq!(with(VIP, 0x04, 1), ends_at(TCP, 48));
    assert_eq!(with(VIP, 0x3e, 4), ends_at(TCP, 48));
    assert_eq!(with(VIP, 0x3e, 5), Err(ExtensionError::Malformed(42)));
    assert_eq!(with(VIP, 1, 255), Err(ExtensionError::Malformed(42)));
    assert_eq!(with(VIP, 0x41, 4), Err(ExtensionError::Discard));
    assert_eq!(with(VIP, 0x81, 4), Err(ExtensionError::UnknownOption(42)));
    assert_eq!(with(VIP, 0xc9, 4), Err(ExtensionError::UnknownOption(42)));
    assert_eq!(with(multicast, 0x81, 4), Err(ExtensionError::UnknownOption(42)));
    assert_eq!(with(multicast, 0xc9, 4), Err(ExtensionError::Discard));
    // Those of a destination options header are the real server's to judge; what cannot be is nobody's.
    for kind in [0x04, 0x41, 0x81, 0xc9] {
        assert_eq!(in_header(DESTINATION_OPTIONS, VIP, kind, 4), ends_at(TCP, 48), "{kind:#x}");
        assert_eq!(in_header(DESTINATION_OPTIONS, VIP, kind, 5), Err(ExtensionError::Malformed(42)));
    }
    // An option whose length byte is beyond its header.
    let tail = packet(DESTINATION_OPTIONS, &[TCP, 0, 1, 3, 0, 0, 0, 5, 0, 0, 0, 0]);
    assert_eq!(walk(&tail), Err(ExtensionError::Malformed(47)));
}

#[test]
fn routing_is_followed_by_nobody() {
    let with = |kind, left| walk(&packet(ROUTING, &[TCP, 0, kind, left, 0, 0, 0, 0]));
    for kind in [0, 2, 3, 4, 255] {
        assert_eq!(with(kind, 1), Err(ExtensionError::Routing(42)), "{kind}");
        assert_eq!(with(kind, 0), ends_at(TCP, 48), "{kind}");
    }
    assert_eq!(ExtensionError::Routing(42).parameter_problem(), Some((0, 42)));
}

fn fragment(next_header: u8, offset_and_more: u16, rest: &[u8]) -> Vec<u8> {
    let [high, low] = offset_and_more.to_be_bytes();
    packet(FRAGMENT, &[&[next_header, 0, high, low, 1, 2, 3, 4], rest].concat())
}

#[test]
fn fragments_say_where_they_belong() {
    let first = walk(&fragment(UDP, 1, &[0; 16])).unwrap();
    assert_eq!((first.protocol, first.offset), (UDP, 48));
    let expected =
        Fragment { header: 40, offset: 0, more: true, identification: 0x0102_0304, next_header: UDP };
    assert_eq!(first.fragment, Some(expected));
    assert!(first.is_fragment() && !first.is_later_fragment());

    let later = walk(&fragment(DESTINATION_OPTIONS, 16, &[0xff; 3])).unwrap();
    assert_eq!((later.protocol, later.offset), (DESTINATION_OPTIONS, 48), "no walk into the middle");
    assert!(later.is_fragment() && later.is_later_fragment());

    let atomic = walk(&fragment(TCP, 0, &[0; 20])).unwrap();
    assert!(!atomic.is_fragment() && atomic.fragment.is_some());

    let beyond_options = walk(&fragment(DESTINATION_OPTIONS, 1, &[UDP, 0, 1, 4, 0, 0, 0, 0])).unwrap();
    assert_eq!((beyond_options.protocol, beyond_options.offset), (UDP, 56));
}

#[test]
fn fragments_that_cannot_be_are_refused() {
    assert_eq!(walk(&fragment(UDP, 1, &[0; 15])), Err(ExtensionError::Malformed(4)));
    assert_eq!(walk(&fragment(UDP, 0xfff8, &[0; 8])), Err(ExtensionError::Malformed(42)));
    assert!(walk(&fragment(UDP, 0xfff8, &[0; 7])).is_ok());
    let twice = fragment(FRAGMENT, 0, &[UDP, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(walk(&twice), Err(ExtensionError::Malformed(40)));
}

#[test]
fn refused_chain_is_walked_all_the_same() {
    let refused = |payload: &[u8]| {
        let packet = packet(HOP_BY_HOP, payload);
        assert!(walk(&packet).is_err());
        let (header, payload) = Ipv6Header::ref_from_prefix(&packet).unwrap();
        header.refused_upper_layer(payload)
    };
    assert_eq!(refused(&[ICMPV6, 0, 0x9e, 4, 0, 0, 0, 0, 1]), Some((ICMPV6, 48)));
    assert_eq!(refused(&[ROUTING, 0, 0x9e, 4, 0, 0, 0, 0, TCP, 0, 0, 1, 0, 0, 0, 0]), Some((TCP, 56)));
    assert_eq!(refused(&[DESTINATION_OPTIONS, 0, 0x9e, 4, 0, 0, 0, 0, TCP]), None);
    assert_eq!(refused(&[FRAGMENT, 0, 0x9e, 4, 0, 0, 0, 0, ICMPV6, 0, 0, 8, 0, 0, 0, 1]), None);
}

#[test]
fn longer_than_the_bound_is_too_long_whatever_is_there() {
    let padded = |words: u8| {
        let mut header = vec![0; (usize::from(words) + 1) * 8];
        (header[0], header[1]) = (TCP, words);
        walk(&packet(DESTINATION_OPTIONS, &header))
    };
    assert_eq!(padded(31), ends_at(TCP, 296));
    assert_eq!(padded(32), Err(ExtensionError::TooLong));
    assert_eq!(walk(&packet(AUTHENTICATION, &[TCP, 255, 0, 0])), Err(ExtensionError::TooLong));
}

#[test]
fn chain_cut_anywhere_is_truncated() {
    let whole = [ROUTING, 0, 1, 4, 0, 0, 0, 0, FRAGMENT, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let whole = [&whole[..], &[UDP, 0, 0, 1, 0, 0, 0, 0]].concat();
    let header = Ipv6Header::new(SOURCE, VIP, HOP_BY_HOP, 64, 40);
    assert_eq!(header.upper_layer(&whole).map(|upper| upper.offset), Ok(72));
    for length in 0..whole.len() {
        assert_eq!(header.upper_layer(&whole[..length]), Err(ExtensionError::Truncated), "{length}");
    }
}

proptest! {
    #[test]
    fn anything_at_all_ends_within_bounds(
        next in prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
        payload in prop::collection::vec(prop_oneof![4 => Just(0_u8), 1 => Just(60), 1 => Just(44), 1 => any::<u8>()], 0..400),
    ) {
        let header = Ipv6Header::new(SOURCE, VIP, next, 64, payload.len() as u16);
        if let Ok(upper) = header.upper_layer(&payload) {
            prop_assert!(usize::from(upper.offset) <= LAST);
            prop_assert!(usize::from(upper.offset) <= HEADER_BYTES + payload.len());
        }
    }

    #[test]
    fn what_etherparse_walks_we_walk_alike(
        next in prop_oneof![Just(0_u8), Just(43), Just(51), Just(60)],
        payload in prop::collection::vec(prop_oneof![8 => Just(0_u8), 1 => Just(60), 1 => Just(6)], 60..120),
    ) {
        let packet = packet(next, &payload);
        let Ok(ours) = walk(&packet) else { return Ok(()) };
        let Ok((_, rest)) = IpHeaders::from_slice(&packet) else { return Ok(()) };
        // It stops where a kind of header comes again.
        if !is_extension(rest.ip_number.0) {
            prop_assert_eq!(ours.protocol, rest.ip_number.0);
            prop_assert_eq!(usize::from(ours.offset), packet.len() - rest.payload.len());
        }
    }
}
