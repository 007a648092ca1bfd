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
                HOP_BY_HOP | DESTINATION_OPTIONS => check_options(next, header, offset, is_multicast)?,
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
/// padding is known here; the two high bits of all others say what becomes of the packet (RFC 8200 section 4.2). In destination
/// options they say it to the packet's destination, which is the real server: as in IPVS, it judges them.
fn check_options(
    kind_of_header: u8,
    header: &[u8],
    offset: usize,
    is_multicast: bool,
) -> Result<(), ExtensionError> {
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
            _ if kind_of_header == DESTINATION_OPTIONS => {}
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
mod tests;
