//! IPv6 (RFC 8200): the fixed header, checked, and a bounded walk of the extension headers.
//!
//! The walk looks at eight headers and 256 bytes at most. Every error says whether its sender may be told, and what.

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::packet::ipv4::{SCTP, TCP, UDP};
use crate::verdict::DropReason;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: encapsulating security payload; what follows cannot be read.
pub const ESP: u8 = 50;
/// Next header: authentication.
pub const AUTHENTICATION: u8 = 51;
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;
/// Next header: nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Least MTU of a link that carries IPv6 (RFC 8200 section 5).
pub const MTU_MIN: u16 = 1280;
/// Extension headers that the walk looks at, at most. RFC 8200 section 4.1 names seven, destination options twice.
pub const EXTENSION_HEADERS_MAX: usize = 8;
/// Bytes of extension headers that the walk looks at, at most.
pub const EXTENSION_BYTES_MAX: usize = 256;
/// Bytes of a fragment header.
pub const FRAGMENT_HEADER_BYTES: usize = 8;

const VERSION_6: u32 = 6 << 28;
const LAST: usize = HEADER_BYTES + EXTENSION_BYTES_MAX;

/// The fixed 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    /// Version (4 bits), traffic class (8 bits: DSCP and ECN), flow label (20 bits).
    pub version_class_flow: U32,
    /// What follows the fixed header, in bytes.
    pub payload_length: U16,
    /// What follows.
    pub next_header: u8,
    /// IPv6's TTL.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
}

/// Bytes of the fixed header.
pub const HEADER_BYTES: usize = size_of::<Ipv6Header>();

/// The 8 bytes of a fragment header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// What the fragmentable part begins with.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (13 bits), two reserved bits, more-fragments flag.
    pub offset_and_more: U16,
    /// Identification of the fragments of one packet.
    pub identification: U32,
}

/// What a fragment header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where the fragment header begins, in bytes from the IPv6 header on.
    pub header: u16,
    /// Offset of this piece in the fragmentable part, in bytes.
    pub offset: u16,
    /// More pieces follow.
    pub more: bool,
    /// Identification of the packet's fragments.
    pub identification: u32,
    /// What the fragmentable part begins with; the same in all of a packet's fragments, or should be.
    pub next_header: u8,
}

impl Fragment {
    /// A whole packet in one piece (RFC 6946): to be handled apart from any real fragments.
    pub fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// Where the extension headers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// Protocol of the upper layer's header; [`ESP`] and [`NO_NEXT_HEADER`] count as such. In a later fragment what the
    /// fragment header names, extension header or not.
    pub protocol: u8,
    /// Where it begins, in bytes from the IPv6 header on. May be the packet's end.
    pub offset: u16,
    /// The fragment header, where there is one.
    pub fragment: Option<Fragment>,
}

impl UpperLayer {
    /// It is a piece of a larger packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_atomic())
    }

    /// It is a piece that holds no upper-layer header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }
}

/// Why a chain of extension headers is refused. Pointers count bytes from the IPv6 header on, as in a parameter problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionError {
    /// The packet ends within the chain.
    Truncated,
    /// More than [`EXTENSION_HEADERS_MAX`] headers or [`EXTENSION_BYTES_MAX`] bytes.
    TooLong,
    /// An unknown option whose type says: discard, say nothing.
    Discard,
    /// A field that cannot be: an option beyond its header, a second fragment header, a fragment over 65,535 bytes.
    Malformed(u16),
    /// A routing header with segments left, which nobody may have us follow (RFC 5095 section 3 for type 0).
    Routing(u16),
    /// A hop-by-hop header that is not the first one.
    Misplaced(u16),
    /// An unknown option whose type says: discard and tell.
    UnknownOption(u16),
}

impl ExtensionError {
    /// Code and pointer of the parameter problem (RFC 4443 section 3.4) that the sender may get.
    pub fn parameter_problem(self) -> Option<(u8, u16)> {
        match self {
            ExtensionError::Truncated | ExtensionError::TooLong | ExtensionError::Discard => None,
            ExtensionError::Malformed(pointer) | ExtensionError::Routing(pointer) => Some((0, pointer)),
            ExtensionError::Misplaced(pointer) => Some((1, pointer)),
            ExtensionError::UnknownOption(pointer) => Some((2, pointer)),
        }
    }
}

impl From<ExtensionError> for DropReason {
    fn from(error: ExtensionError) -> DropReason {
        match error {
            ExtensionError::Truncated => DropReason::Truncated,
            _ => DropReason::BadIpHeader,
        }
    }
}

impl Ipv6Header {
    /// The header of a packet that may be forwarded, and the payload as far as it lies in `packet`, without what pads the
    /// frame. `packet` begins with the IPv6 header and may be the first segment only; `length` is that of all segments from
    /// there on.
    ///
    /// Errors: `Truncated`, `BadIpHeader` (jumbograms too), `BadSource`.
    #[inline(always)]
    pub fn read(packet: &[u8], length: usize) -> Result<(&Ipv6Header, &[u8]), DropReason> {
        let Ok((header, rest)) = Ipv6Header::ref_from_prefix(packet) else {
            return Err(DropReason::Truncated);
        };
        let payload_length = usize::from(header.payload_length.get());
        let is_jumbogram = payload_length == 0 && header.next_header == HOP_BY_HOP;
        if header.version_class_flow.get() >> 28 != 6 || is_jumbogram {
            return Err(DropReason::BadIpHeader);
        }
        if HEADER_BYTES + payload_length > length {
            return Err(DropReason::Truncated);
        }
        if header.source_is_impossible() {
            return Err(DropReason::BadSource);
        }
        Ok((header, rest.get(..payload_length).unwrap_or(rest)))
    }

    /// RFC 4291: unspecified (but for duplicate address detection), loopback, multicast and IPv4-mapped are nobody's source
    /// address; a source equal to the destination is the LAND attack. A link-local one leaves its link for nobody, but routers
    /// solicit their neighbours from theirs, whatever address they look for.
    #[inline(always)]
    fn source_is_impossible(&self) -> bool {
        let (high, low) = halves(&self.source);
        match high >> 56 {
            0 if high == 0 && low >> 32 == 0 => match low {
                0 => !self.may_be_neighbour_discovery() || self.destination[0] != 0xff,
                1 => true,
                _ => self.source == self.destination,
            },
            0 if high == 0 && low >> 32 == 0xffff => true,
            0xff => true,
            0xfe if is_link_local(&self.source) => {
                self.source == self.destination
                    || !(is_link_local(&self.destination)
                        || self.destination[0] == 0xff
                        || self.may_be_neighbour_discovery())
            }
            _ => self.source == self.destination,
        }
    }

    fn may_be_neighbour_discovery(&self) -> bool {
        self.next_header == ICMPV6 && self.hop_limit == 255
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// The flow label, 20 bits.
    #[inline(always)]
    pub fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }

    /// Sets DSCP and ECN.
    #[inline(always)]
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        let rest = self.version_class_flow.get() & !0x0ff0_0000;
        self.version_class_flow.set(rest | u32::from(traffic_class) << 20);
    }

    /// Header and payload, in bytes.
    #[inline(always)]
    pub fn total_length(&self) -> usize {
        HEADER_BYTES + usize::from(self.payload_length.get())
    }

    /// Source address.
    pub fn source_address(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.source)
    }

    /// Destination address.
    pub fn destination_address(&self) -> Ipv6Addr {
        Ipv6Addr::from(self.destination)
    }

    /// A header of traffic class and flow label zero.
    pub fn new(
        source: [u8; 16],
        destination: [u8; 16],
        next_header: u8,
        hop_limit: u8,
        payload_length: u16,
    ) -> Self {
        Ipv6Header {
            version_class_flow: U32::new(VERSION_6),
            payload_length: U16::new(payload_length),
            next_header,
            hop_limit,
            source,
            destination,
        }
    }

    /// The upper layer's header. `payload` is what follows the fixed header, as far as it is there: the first segment, or what
    /// a quote holds of it.
    #[inline(always)]
    pub fn upper_layer(&self, payload: &[u8]) -> Result<UpperLayer, ExtensionError> {
        match self.next_header {
            protocol @ (TCP | UDP | SCTP | ICMPV6) => {
                Ok(UpperLayer { protocol, offset: HEADER_BYTES as u16, fragment: None })
            }
            _ => self.walk(payload),
        }
    }

    /// What stands at the end of a chain that [`Ipv6Header::upper_layer`] refuses, whatever its headers say: protocol and where it
    /// begins, in bytes from the IPv6 header on. None where `payload` or the bounds end before, or a later fragment does not tell.
    pub fn refused_upper_layer(&self, payload: &[u8]) -> Option<(u8, usize)> {
        let (mut next, mut offset) = (self.next_header, 0);
        for _ in 0..=EXTENSION_HEADERS_MAX {
            if !is_extension(next) {
                return Some((next, HEADER_BYTES + offset));
            }
            let &[following, length, third, fourth] = payload.get(offset..)?.first_chunk()?;
            let is_later_fragment = next == FRAGMENT && (third, fourth & !7) != (0, 0);
            if is_later_fragment {
                // It may be in the midst of an error.
                let is_known = following != ICMPV6 && !is_extension(following);
                return is_known.then_some((following, HEADER_BYTES + offset + FRAGMENT_HEADER_BYTES));
            }
            offset += header_bytes(next, length);
            next = following;
        }
        None
    }

    fn walk(&self, payload: &[u8]) -> Result<UpperLayer, ExtensionError> {
        let is_multicast = self.destination[0] == 0xff;
        let mut next = self.next_header;
        // Where the byte lies that said `next`.
        let mut said_at = 6;
        let mut offset = HEADER_BYTES;
        let mut fragment = None;
        for _ in 0..EXTENSION_HEADERS_MAX {
            if !is_extension(next) {
                return Ok(UpperLayer { protocol: next, offset: offset as u16, fragment });
            }
            if next == HOP_BY_HOP && offset != HEADER_BYTES {
                return Err(ExtensionError::Misplaced(said_at));
            }
            let rest = payload.get(offset - HEADER_BYTES..).ok_or(ExtensionError::Truncated)?;
            let Some(&[following, length, _, fourth]) = rest.first_chunk() else {
                return Err(ExtensionError::Truncated);
            };
            let bytes = header_bytes(next, length);
            if offset + bytes > LAST {
                return Err(ExtensionError::TooLong);
            }
            let header = rest.get(..bytes).ok_or(ExtensionError::Truncated)?;
            match next {
                HOP_BY_HOP | DESTINATION_OPTIONS => check_options(header, offset, is_multicast)?,
                ROUTING if fourth != 0 => {
                    return Err(ExtensionError::Routing(offset as u16 + 2));
                }
                FRAGMENT if fragment.is_some() => return Err(ExtensionError::Malformed(said_at)),
                FRAGMENT => {
                    let piece = self.fragment(header, offset)?;
                    if piece.offset != 0 {
                        let offset = (offset + bytes) as u16;
                        return Ok(UpperLayer { protocol: following, offset, fragment: Some(piece) });
                    }
                    fragment = Some(piece);
                }
                _ => {}
            }
            said_at = offset as u16;
            next = following;
            offset += bytes;
        }
        if is_extension(next) {
            return Err(ExtensionError::TooLong);
        }
        Ok(UpperLayer { protocol: next, offset: offset as u16, fragment })
    }

    /// RFC 8200 section 4.5: all pieces but the last hold a multiple of 8 bytes, and the whole has 65,535 bytes at most.
    fn fragment(&self, bytes: &[u8], offset: usize) -> Result<Fragment, ExtensionError> {
        let (header, _) = FragmentHeader::ref_from_prefix(bytes).map_err(|_| ExtensionError::Truncated)?;
        let offset_and_more = header.offset_and_more.get();
        let fragment = Fragment {
            header: offset as u16,
            offset: offset_and_more & !7,
            more: offset_and_more & 1 != 0,
            identification: header.identification.get(),
            next_header: header.next_header,
        };
        let end = offset + FRAGMENT_HEADER_BYTES;
        let piece = self.total_length().checked_sub(end).ok_or(ExtensionError::Truncated)?;
        if fragment.more && !piece.is_multiple_of(8) {
            return Err(ExtensionError::Malformed(4));
        }
        if usize::from(fragment.offset) + piece > usize::from(u16::MAX) {
            return Err(ExtensionError::Malformed(fragment.header + 2));
        }
        Ok(fragment)
    }
}

/// Bytes of an extension header by the length that stands in it.
#[inline(always)]
fn header_bytes(kind: u8, length: u8) -> usize {
    match kind {
        FRAGMENT => FRAGMENT_HEADER_BYTES,
        AUTHENTICATION => (usize::from(length) + 2) * 4,
        _ => (usize::from(length) + 1) * 8,
    }
}

fn is_extension(next_header: u8) -> bool {
    matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// The options of a hop-by-hop or destination options header that lies at `offset`. Of those that a node must know, only
/// padding is known here; the two high bits of all others say what becomes of the packet (RFC 8200 section 4.2).
fn check_options(header: &[u8], offset: usize, is_multicast: bool) -> Result<(), ExtensionError> {
    const PAD_1: u8 = 0;
    let mut at = 2;
    while let Some(&kind) = header.get(at) {
        let pointer = (offset + at) as u16;
        if kind == PAD_1 {
            at += 1;
            continue;
        }
        let end = header.get(at + 1).map(|&length| at + 2 + usize::from(length));
        let Some(end) = end.filter(|end| *end <= header.len()) else {
            return Err(ExtensionError::Malformed(pointer));
        };
        match kind >> 6 {
            0 => {}
            1 => return Err(ExtensionError::Discard),
            3 if is_multicast => return Err(ExtensionError::Discard),
            _ => return Err(ExtensionError::UnknownOption(pointer)),
        }
        at = end;
    }
    Ok(())
}

/// fe80::/10.
#[inline(always)]
pub fn is_link_local(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_be_bytes(*address);
    ((both >> 64) as u64, both as u64)
}

#[cfg(test)]
mod tests {
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
            (
                "empty",
                change(&|header| (header.payload_length, header.next_header) = (U16::new(0), 59)),
                Ok(0),
            ),
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
    fn options_decide_by_their_type() {
        let with = |destination: [u8; 16], kind: u8, length: u8| {
            let options = [TCP, 0, kind, length, 0, 0, 0, 0];
            let header = Ipv6Header::new(SOURCE, destination, DESTINATION_OPTIONS, 64, 8);
            walk(&[header.as_bytes(), &options].concat())
        };
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
            let packet = packet(DESTINATION_OPTIONS, payload);
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
}
