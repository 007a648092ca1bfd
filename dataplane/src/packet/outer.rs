//! The header that a tunnel puts in front of a packet: IPIP, GRE (RFC 2784) and GUE (draft-ietf-intarea-gue, version 0), over
//! IPv4 and IPv6, around either.
//!
//! | kind | behind the outer IP header | bytes |
//! |---|---|---|
//! | ipip | nothing; protocol 4 (IPv4 inside) or 41 (IPv6 inside) | 0 |
//! | gre | flags 0, EtherType | 4 |
//! | gre with checksum | flags 0x8000, EtherType, checksum of GRE header and packet, 0 | 8 |
//! | gue | UDP (source port by flow, checksum 0), then 0, protocol 4 or 41, 0, 0 | 12 |
//! | gue with checksum | the same with UDP's checksum | 12 |
//!
//! IPVS's `remcsum` adds an option only where the packet's own checksum is still to be computed, which nothing that was
//! received over a wire is: then it is GUE with checksum.
//!
//! As IPVS does it: TTL and traffic class are the packet's, but for a congestion mark (CE), which becomes ECT(0) outside (RFC
//! 3168's full functionality). Not as IPVS: the flow label of an outer IPv6 header is the flow's hash (RFC 6438), for what
//! balances by it.

use std::net::IpAddr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum;
use super::ethernet;
use super::ipv4::{self, DONT_FRAGMENT, Ipv4Header, UDP};
use super::ipv6::{self, Ipv6Header};
use super::udp::UdpHeader;

/// Protocol number of IPv4 in something.
pub const IPV4_INSIDE: u8 = 4;
/// Protocol number of IPv6 in something.
pub const IPV6_INSIDE: u8 = 41;
/// Protocol number of GRE.
pub const GRE: u8 = 47;
/// Bytes of a GUE header without options.
pub const GUE_BYTES: usize = 4;
/// GRE flag: a checksum follows.
pub const GRE_CHECKSUM: u16 = 0x8000;
/// Largest outer header: IPv6, UDP, GUE.
pub const BYTES_MAX: usize = ipv6::HEADER_BYTES + size_of::<UdpHeader>() + GUE_BYTES;

/// Source ports of GUE: Linux's default range of ephemeral ports, 32,768 to 60,999, from which IPVS takes them.
const SOURCE_PORTS: (u16, u32) = (32_768, 28_232);

const ECN: u8 = 3;
const CONGESTION_EXPERIENCED: u8 = 3;
const ECN_CAPABLE_0: u8 = 2;

/// How packets are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// An IP header only.
    Ipip,
    /// GRE.
    Gre {
        /// GRE's checksum is there.
        has_checksum: bool,
    },
    /// GUE.
    Gue {
        /// UDP port that the real server listens on.
        port: u16,
        /// UDP's checksum is there.
        has_checksum: bool,
    },
}

impl TunnelKind {
    /// Bytes behind the outer IP header.
    pub const fn bytes(self) -> usize {
        match self {
            TunnelKind::Ipip => 0,
            TunnelKind::Gre { has_checksum: false } => 4,
            TunnelKind::Gre { has_checksum: true } => 8,
            TunnelKind::Gue { .. } => size_of::<UdpHeader>() + GUE_BYTES,
        }
    }
}

/// What of a packet its outer header depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket {
    /// It is IPv6.
    pub is_ipv6: bool,
    /// Its total length in bytes.
    pub length: u16,
    /// Its TTL or hop limit, which was lowered already.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// What an outer IPv4 header shall say. IPVS: the packet's own flag where `pmtu_disc` is set; no for IPv6 inside.
    pub does_not_fragment: bool,
    /// Identification of an outer IPv4 header; where that may be fragmented 0 is written as 1, so that pieces can always be
    /// told apart.
    pub identification: u16,
    /// Alike for all packets of a flow.
    pub flow_hash: u32,
    /// Sum over all of the packet (see [`checksum`]), as it goes into the tunnel. Not looked at unless
    /// [`OuterTemplate::has_checksum`].
    pub sum: u16,
}

/// What all packets to one real server have in common: made by the control thread, read by workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct OuterTemplate {
    bytes: [u8; BYTES_MAX],
    kind: TunnelKind,
    is_ipv6: bool,
    length: u8,
    /// Over the outer header's constant words where it is IPv4, over the constant words of pseudo header, UDP and GUE where it
    /// is GUE.
    ip_sum: u16,
    udp_sum: u16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GreHeader {
    flags: U16,
    protocol: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GreChecksum {
    checksum: U16,
    reserved: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GueHeader {
    udp: UdpHeader,
    /// Version (2 bits), control flag, length of options in words (5 bits): all 0.
    version_and_length: u8,
    protocol: u8,
    flags: U16,
}

impl OuterTemplate {
    /// From the director's address to the real server's; none where they are of two families.
    pub fn new(kind: TunnelKind, source: IpAddr, destination: IpAddr) -> Option<OuterTemplate> {
        let protocol = match kind {
            TunnelKind::Ipip => 0,
            TunnelKind::Gre { .. } => GRE,
            TunnelKind::Gue { .. } => UDP,
        };
        let mut bytes = [0; BYTES_MAX];
        let ip_length = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    version_and_length: 0x45,
                    traffic_class: 0,
                    total_length: U16::ZERO,
                    identification: U16::ZERO,
                    flags_and_offset: U16::ZERO,
                    ttl: 0,
                    protocol,
                    checksum: U16::ZERO,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                bytes[..ipv4::HEADER_BYTES].copy_from_slice(header.as_bytes());
                ipv4::HEADER_BYTES
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header::new(source.octets(), destination.octets(), protocol, 0, 0);
                bytes[..ipv6::HEADER_BYTES].copy_from_slice(header.as_bytes());
                ipv6::HEADER_BYTES
            }
            _ => return None,
        };
        let is_ipv6 = ip_length == ipv6::HEADER_BYTES;
        let ip_sum = checksum::sum(&bytes[..ip_length]);
        let rest = &mut bytes[ip_length..];
        let mut udp_sum = 0;
        match kind {
            TunnelKind::Ipip => {}
            TunnelKind::Gre { has_checksum } => {
                rest[..2].copy_from_slice(&(u16::from(has_checksum) * GRE_CHECKSUM).to_be_bytes());
            }
            TunnelKind::Gue { port, .. } => {
                rest[2..4].copy_from_slice(&port.to_be_bytes());
                udp_sum = match (source, destination) {
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        checksum::pseudo_header_v6(&source.octets(), &destination.octets(), UDP, port.into())
                    }
                    (IpAddr::V4(source), IpAddr::V4(destination)) => {
                        checksum::pseudo_header_v4(source.octets(), destination.octets(), UDP, port)
                    }
                    _ => 0,
                };
            }
        }
        let length = (ip_length + kind.bytes()) as u8;
        Some(OuterTemplate { bytes, kind, is_ipv6, length, ip_sum, udp_sum })
    }

    /// Bytes of the outer header: what the tunnel takes off the MTU.
    #[inline(always)]
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// The outer header is IPv6.
    #[inline(always)]
    pub fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// [`InnerPacket::sum`] is needed.
    #[inline(always)]
    pub fn has_checksum(&self) -> bool {
        match self.kind {
            TunnelKind::Ipip => false,
            TunnelKind::Gre { has_checksum } | TunnelKind::Gue { has_checksum, .. } => has_checksum,
        }
    }

    /// Writes the outer header into the first [`OuterTemplate::length`] bytes of `into`. None where there is no room, or outer
    /// header and packet are over 65,535 bytes; then what `into` holds is of no use.
    #[inline]
    pub fn write(&self, inner: &InnerPacket, into: &mut [u8]) -> Option<()> {
        let template = self.bytes.get(..self.length())?;
        let into = into.get_mut(..self.length())?;
        into.copy_from_slice(template);
        let inside = if inner.is_ipv6 { IPV6_INSIDE } else { IPV4_INSIDE };
        let payload = u16::try_from(self.kind.bytes() + usize::from(inner.length)).ok()?;
        let ip_protocol = match self.kind {
            TunnelKind::Ipip => Some(inside),
            _ => None,
        };
        let rest = if self.is_ipv6 {
            let (header, rest) = Ipv6Header::mut_from_prefix(into).ok()?;
            write_ipv6(header, inner, payload, ip_protocol);
            rest
        } else {
            let (header, rest) = Ipv4Header::mut_from_prefix(into).ok()?;
            self.write_ipv4(header, inner, payload, ip_protocol)?;
            rest
        };
        match self.kind {
            TunnelKind::Ipip => Some(()),
            TunnelKind::Gre { has_checksum } => write_gre(rest, inner, has_checksum),
            TunnelKind::Gue { has_checksum, .. } => {
                self.write_gue(rest, inner, inside, payload, has_checksum)
            }
        }
    }

    #[inline(always)]
    fn write_ipv4(
        &self,
        header: &mut Ipv4Header,
        inner: &InnerPacket,
        payload: u16,
        protocol: Option<u8>,
    ) -> Option<()> {
        let total_length = payload.checked_add(ipv4::HEADER_BYTES as u16)?;
        let identification = inner.identification.max(u16::from(!inner.does_not_fragment));
        let flags = u16::from(inner.does_not_fragment) * DONT_FRAGMENT;
        header.traffic_class = outer_traffic_class(inner.traffic_class);
        header.total_length.set(total_length);
        header.identification.set(identification);
        header.flags_and_offset.set(flags);
        header.ttl = inner.ttl;
        if let Some(protocol) = protocol {
            header.protocol = protocol;
        }
        let total = u64::from(self.ip_sum)
            + u64::from(header.traffic_class)
            + u64::from(total_length)
            + u64::from(identification)
            + u64::from(flags)
            + (u64::from(inner.ttl) << 8)
            + u64::from(protocol.unwrap_or_default());
        header.checksum.set(!checksum::fold(total));
        Some(())
    }

    #[inline(always)]
    fn write_gue(
        &self,
        bytes: &mut [u8],
        inner: &InnerPacket,
        inside: u8,
        length: u16,
        has_checksum: bool,
    ) -> Option<()> {
        let (header, _) = GueHeader::mut_from_prefix(bytes).ok()?;
        let source_port = source_port(inner.flow_hash);
        header.udp.source_port.set(source_port);
        header.udp.length.set(length);
        header.protocol = inside;
        if has_checksum {
            // The length stands in the pseudo header too.
            let total = u64::from(self.udp_sum)
                + u64::from(source_port)
                + 2 * u64::from(length)
                + u64::from(inside)
                + u64::from(inner.sum);
            header.udp.checksum.set(checksum::udp_field(!checksum::fold(total)));
        }
        Some(())
    }
}

#[inline(always)]
fn write_ipv6(header: &mut Ipv6Header, inner: &InnerPacket, payload: u16, protocol: Option<u8>) {
    let class = u32::from(outer_traffic_class(inner.traffic_class));
    header.version_class_flow = U32::new(6 << 28 | class << 20 | inner.flow_hash & 0x000f_ffff);
    header.payload_length.set(payload);
    header.hop_limit = inner.ttl;
    if let Some(protocol) = protocol {
        header.next_header = protocol;
    }
}

#[inline(always)]
fn write_gre(bytes: &mut [u8], inner: &InnerPacket, has_checksum: bool) -> Option<()> {
    let protocol = if inner.is_ipv6 { ethernet::IPV6 } else { ethernet::IPV4 };
    let (header, rest) = GreHeader::mut_from_prefix(bytes).ok()?;
    header.protocol = protocol;
    if has_checksum {
        let (field, _) = GreChecksum::mut_from_prefix(rest).ok()?;
        let total = u64::from(GRE_CHECKSUM) + u64::from(protocol.get()) + u64::from(inner.sum);
        field.checksum.set(!checksum::fold(total));
    }
    Some(())
}

#[inline(always)]
fn outer_traffic_class(inner: u8) -> u8 {
    if inner & ECN == CONGESTION_EXPERIENCED { inner & !ECN | ECN_CAPABLE_0 } else { inner }
}

#[inline(always)]
fn source_port(flow_hash: u32) -> u16 {
    let (first, count) = SOURCE_PORTS;
    first + ((u64::from(flow_hash) * u64::from(count)) >> 32) as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{
        Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    use super::*;

    const KINDS: [TunnelKind; 5] = [
        TunnelKind::Ipip,
        TunnelKind::Gre { has_checksum: false },
        TunnelKind::Gre { has_checksum: true },
        TunnelKind::Gue { port: 6080, has_checksum: false },
        TunnelKind::Gue { port: 6080, has_checksum: true },
    ];

    fn v4() -> (IpAddr, IpAddr) {
        ("10.0.0.1".parse().unwrap(), "10.0.0.11".parse().unwrap())
    }

    fn v6() -> (IpAddr, IpAddr) {
        ("2001:db8::1".parse().unwrap(), "2001:db8::11".parse().unwrap())
    }

    fn template(kind: TunnelKind, (source, destination): (IpAddr, IpAddr)) -> OuterTemplate {
        OuterTemplate::new(kind, source, destination).unwrap()
    }

    fn inner_packet(is_ipv6: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        if is_ipv6 {
            PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut packet, payload).unwrap();
        } else {
            PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut packet, payload).unwrap();
        }
        packet
    }

    fn inner(packet: &[u8]) -> InnerPacket {
        InnerPacket {
            is_ipv6: packet[0] >> 4 == 6,
            length: packet.len() as u16,
            ttl: 63,
            traffic_class: 0xb8,
            does_not_fragment: true,
            identification: 77,
            flow_hash: 0x8123_4567,
            sum: checksum::sum(packet),
        }
    }

    fn wrap(template: &OuterTemplate, inner: &InnerPacket, packet: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xee; template.length()];
        template.write(inner, &mut bytes).unwrap();
        bytes.extend(packet);
        bytes
    }

    #[test]
    fn bytes_are_as_documented() {
        let packet = inner_packet(false, b"12345");
        let plain = inner(&packet);
        let header = |kind, addresses| {
            let template = template(kind, addresses);
            let bytes = wrap(&template, &plain, &packet);
            bytes[..template.length()].to_vec()
        };
        let ip = b"\x45\xb8\0\x35\0\x4d\x40\0\x3f\x04\x26\x02\x0a\0\0\x01\x0a\0\0\x0b".to_vec();
        let ipip = header(TunnelKind::Ipip, v4());
        assert_eq!(ipip[..10], ip[..10]);
        assert_eq!(ipip[12..], ip[12..]);
        let gre = header(TunnelKind::Gre { has_checksum: false }, v4());
        assert_eq!((gre[9], &gre[20..]), (47, &b"\0\0\x08\0"[..]));
        let gue = header(TunnelKind::Gue { port: 6080, has_checksum: false }, v6());
        assert_eq!(gue[..8], *b"\x6b\x83\x45\x67\0\x2d\x11\x3f");
        let source_port = 32768 + ((0x8123_4567_u64 * 28232) >> 32) as u16;
        assert_eq!(gue[40..42], source_port.to_be_bytes());
        assert_eq!(gue[42..], *b"\x17\xc0\0\x2d\0\0\0\x04\0\0");
    }

    #[test]
    fn every_kind_in_every_mix_checks_out() {
        for addresses in [v4(), v6()] {
            for is_inner_ipv6 in [false, true] {
                for kind in KINDS {
                    for length in [0, 1, 5, 1000] {
                        let packet = inner_packet(is_inner_ipv6, &vec![0x5a; length]);
                        let template = template(kind, addresses);
                        check(kind, &template, &wrap(&template, &inner(&packet), &packet), &packet);
                    }
                }
            }
        }
    }

    fn check(kind: TunnelKind, template: &OuterTemplate, whole: &[u8], packet: &[u8]) {
        let is_inner_ipv6 = packet[0] >> 4 == 6;
        let (ip_length, protocol) = if template.is_ipv6() {
            let header = Ipv6HeaderSlice::from_slice(whole).unwrap();
            assert_eq!((header.hop_limit(), header.traffic_class()), (63, 0xb8));
            assert_eq!(usize::from(header.payload_length()) + 40, whole.len());
            (40, header.next_header().0)
        } else {
            let header = Ipv4HeaderSlice::from_slice(whole).unwrap();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!((header.ttl(), whole[1], header.identification()), (63, 0xb8, 77));
            assert!(header.dont_fragment() && !header.more_fragments());
            assert_eq!(usize::from(header.total_len()), whole.len());
            (20, header.protocol().0)
        };
        let rest = &whole[ip_length..template.length()];
        let inside = if is_inner_ipv6 { 41 } else { 4 };
        match kind {
            TunnelKind::Ipip => assert_eq!(protocol, inside),
            TunnelKind::Gre { has_checksum } => {
                assert_eq!(protocol, 47);
                assert_eq!(rest[0], if has_checksum { 0x80 } else { 0 });
                assert_eq!(rest[2..4], if is_inner_ipv6 { [0x86, 0xdd] } else { [8, 0] });
                assert!(!has_checksum || checksum::sum(&whole[ip_length..]) == 0xffff);
            }
            TunnelKind::Gue { has_checksum, .. } => {
                let parsed = SlicedPacket::from_ip(whole).unwrap();
                let Some(TransportSlice::Udp(udp)) = parsed.transport else { panic!("no UDP") };
                assert_eq!((udp.destination_port(), protocol), (6080, 17));
                assert!((32_768..=60_999).contains(&udp.source_port()));
                assert_eq!(udp.payload(), [&[0, inside, 0, 0][..], packet].concat());
                let expected = match parsed.net {
                    Some(NetSlice::Ipv4(ip)) => udp.to_header().calc_checksum_ipv4_raw(
                        ip.header().source(),
                        ip.header().destination(),
                        udp.payload(),
                    ),
                    Some(NetSlice::Ipv6(ip)) => udp.to_header().calc_checksum_ipv6_raw(
                        ip.header().source(),
                        ip.header().destination(),
                        udp.payload(),
                    ),
                    _ => panic!("no IP"),
                };
                assert_eq!(udp.checksum(), if has_checksum { expected.unwrap() } else { 0 });
            }
        }
        assert_eq!(whole[template.length()..], *packet);
        assert_eq!(template.length(), ip_length + kind.bytes());
    }

    #[test]
    fn congestion_mark_stays_inside() {
        for (inner, outer) in [(0, 0), (1, 1), (2, 2), (3, 2), (0xbb, 0xba), (0xfd, 0xfd)] {
            assert_eq!(outer_traffic_class(inner), outer, "{inner:02x}");
        }
    }

    #[test]
    fn identification_is_never_zero_and_fragmenting_is_the_callers_choice() {
        let packet = inner_packet(false, &[]);
        let inner = InnerPacket { identification: 0, does_not_fragment: false, ..inner(&packet) };
        let whole = wrap(&template(TunnelKind::Ipip, v4()), &inner, &packet);
        let header = Ipv4HeaderSlice::from_slice(&whole).unwrap();
        assert_eq!((header.identification(), header.dont_fragment()), (1, false));
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
    }

    #[test]
    fn source_ports_span_the_range() {
        assert_eq!((source_port(0), source_port(u32::MAX)), (32_768, 60_999));
    }

    #[test]
    fn nothing_over_65535_bytes_and_nothing_into_too_small_a_buffer() {
        for addresses in [v4(), v6()] {
            for kind in KINDS {
                let template = template(kind, addresses);
                let head = if template.is_ipv6() { kind.bytes() } else { template.length() };
                let most = InnerPacket { length: 65_535 - head as u16, ..inner(&inner_packet(false, &[])) };
                let mut buffer = [0; BYTES_MAX];
                assert!(template.write(&most, &mut buffer).is_some());
                if head > 0 {
                    let more = InnerPacket { length: most.length + 1, ..most };
                    assert!(template.write(&more, &mut buffer).is_none());
                }
                assert!(template.write(&most, &mut buffer[..template.length() - 1]).is_none());
            }
        }
        assert_eq!(OuterTemplate::new(TunnelKind::Ipip, v4().0, v6().1), None);
        assert_eq!(size_of::<OuterTemplate>(), 64);
    }

    proptest! {
        #[test]
        fn checksums_hold_whatever_the_packet(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            is_outer_ipv6: bool, is_inner_ipv6: bool, kind in 0..5_usize,
            hash: u32, identification: u16, ttl: u8, traffic_class: u8, does_not_fragment: bool,
        ) {
            let packet = inner_packet(is_inner_ipv6, &payload);
            let template = template(KINDS[kind], if is_outer_ipv6 { v6() } else { v4() });
            let inner = InnerPacket {
                flow_hash: hash, identification, ttl, traffic_class, does_not_fragment, ..inner(&packet)
            };
            let whole = wrap(&template, &inner, &packet);
            let ip_length = template.length() - KINDS[kind].bytes();
            if !is_outer_ipv6 {
                prop_assert_eq!(checksum::sum(&whole[..20]), 0xffff);
            }
            let segment = &whole[ip_length..];
            match KINDS[kind] {
                TunnelKind::Gre { has_checksum: true } => prop_assert_eq!(checksum::sum(segment), 0xffff),
                TunnelKind::Gue { has_checksum: true, .. } => {
                    let pseudo = checksum::add(
                        checksum::sum(&whole[ip_length - if is_outer_ipv6 { 32 } else { 8 }..ip_length]),
                        17 + segment.len() as u16,
                    );
                    prop_assert!(checksum::is_intact(pseudo, segment));
                }
                _ => {}
            }
        }
    }
}
