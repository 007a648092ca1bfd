//! Packets of clients, of both families, and what a host makes of what it receives: reassembly, decapsulation, checksums.

use std::collections::BTreeMap;

use dataplane::packet::checksum;
use dataplane::packet::outer::TunnelKind;
use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use super::{CLIENT, CLIENT_MAC, VIP, own_mac};

pub const CLIENT6: [u8; 16] = *b"\x20\x01\x0d\xb8\0\x01\0\0\0\0\0\0\0\0\0\x07";
pub const VIP6: [u8; 16] = *b"\x20\x01\x0d\xb8\0\x02\0\0\0\0\0\0\0\0\0\x10";

/// The IP header of a client's packet, as far as tests care.
#[derive(Clone, Debug)]
pub struct Ip {
    pub is_ipv6: bool,
    pub ttl: u8,
    pub traffic_class: u8,
    pub identification: u16,
    pub does_not_fragment: bool,
    pub flow_label: u32,
    pub options: Vec<u8>,
}

impl Ip {
    pub fn v4() -> Ip {
        Ip {
            is_ipv6: false,
            ttl: 61,
            traffic_class: 0,
            identification: 0x1234,
            does_not_fragment: true,
            flow_label: 0,
            options: Vec::new(),
        }
    }

    pub fn v6() -> Ip {
        Ip { is_ipv6: true, flow_label: 0x54321, ..Ip::v4() }
    }

    pub fn of(is_ipv6: bool) -> Ip {
        if is_ipv6 { Ip::v6() } else { Ip::v4() }
    }

    pub fn may_be_cut(self) -> Ip {
        Ip { does_not_fragment: false, ..self }
    }

    pub fn ttl(self, ttl: u8) -> Ip {
        Ip { ttl, ..self }
    }

    pub fn traffic_class(self, traffic_class: u8) -> Ip {
        Ip { traffic_class, ..self }
    }

    /// The packet with this payload behind the header.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.is_ipv6 {
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                payload_length: payload.len() as u16,
                next_header: IpNumber(protocol),
                hop_limit: self.ttl,
                source: CLIENT6,
                destination: VIP6,
            };
            header.write(&mut packet).unwrap();
        } else {
            let length = (payload.len() + self.options.len()) as u16;
            let mut header =
                Ipv4Header::new(payload.len() as u16, self.ttl, IpNumber(protocol), CLIENT, VIP).unwrap();
            header.total_len = 20 + length;
            header.options = self.options[..].try_into().unwrap();
            header.dscp = (self.traffic_class >> 2).try_into().unwrap();
            header.ecn = (self.traffic_class & 3).try_into().unwrap();
            header.identification = self.identification;
            header.dont_fragment = self.does_not_fragment;
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut packet).unwrap();
        }
        packet.extend(payload);
        packet
    }

    /// A datagram to the VIP's port 53.
    pub fn udp(&self, port: u16, payload: &[u8]) -> Vec<u8> {
        self.udp_to(53, port, payload)
    }

    pub fn udp_to(&self, virtual_port: u16, port: u16, payload: &[u8]) -> Vec<u8> {
        let header = match self.is_ipv6 {
            true => UdpHeader::with_ipv6_checksum(port, virtual_port, &self.plain_v6(), payload),
            false => UdpHeader::with_ipv4_checksum(port, virtual_port, &self.plain_v4(), payload),
        };
        self.packet(17, &[&header.unwrap().to_bytes()[..], payload].concat())
    }

    /// A segment to the VIP's port 80 with these options, raw.
    pub fn tcp(&self, port: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(port, 80, 1000, 65_000);
        header.set_options_raw(options).unwrap();
        let mut segment = header.to_bytes().to_vec();
        segment[13] = flags;
        segment.extend(payload);
        set_transport_checksum(self.is_ipv6, 6, &mut segment, 16);
        self.packet(6, &segment)
    }

    fn plain_v4(&self) -> Ipv4Header {
        Ipv4Header::new(0, 1, IpNumber::UDP, CLIENT, VIP).unwrap()
    }

    fn plain_v6(&self) -> Ipv6Header {
        Ipv6Header { source: CLIENT6, destination: VIP6, ..Ipv6Header::default() }
    }
}

fn pseudo_header(is_ipv6: bool, protocol: u8, length: usize) -> u16 {
    match is_ipv6 {
        true => checksum::pseudo_header_v6(&CLIENT6, &VIP6, protocol, length as u32),
        false => checksum::pseudo_header_v4(CLIENT, VIP, protocol, length as u16),
    }
}

fn set_transport_checksum(is_ipv6: bool, protocol: u8, segment: &mut [u8], at: usize) {
    segment[at..at + 2].fill(0);
    let pseudo_header = pseudo_header(is_ipv6, protocol, segment.len());
    let field = checksum::transport_checksum(pseudo_header, segment);
    segment[at..at + 2].copy_from_slice(&field.to_be_bytes());
}

/// The frame of a packet from the client to port 0, in this VLAN (0: untagged).
pub fn framed(vlan: u16, packet: &[u8]) -> Vec<u8> {
    framed_between(&[own_mac(0), CLIENT_MAC].concat(), vlan, packet)
}

/// The frame of a packet with these MAC addresses, padded to 60 bytes.
pub fn framed_between(macs: &[u8], vlan: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = macs.to_vec();
    if vlan != 0 {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The VLAN (0: untagged) and the packet of a frame, without what pads it.
pub fn unframed(frame: &[u8]) -> (u16, Vec<u8>) {
    let (vlan, offset) = match frame[12..14] {
        [0x81, 0] => (u16::from_be_bytes([frame[14], frame[15]]) & 0x0fff, 18),
        _ => (0, 14),
    };
    let packet = &frame[offset..];
    let is_ipv6 = packet[0] >> 4 == 6;
    assert_eq!(frame[offset - 2..offset], if is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
    let length = length(packet);
    assert!(packet.len() >= length, "the frame holds its packet");
    // With a tag that came late, 64.
    assert!(packet.len() == length || frame.len() <= 64, "nothing but short frames is padded");
    (vlan, packet[..length].to_vec())
}

/// The length that the packet's header says.
pub fn length(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        version => panic!("version {version}"),
    }
}

/// The packet one hop further.
pub fn one_hop_further(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    set_header_checksum(&mut packet);
    packet
}

pub fn set_header_checksum(packet: &mut [u8]) {
    let end = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let field = checksum::checksum(&packet[..end]);
    packet[10..12].copy_from_slice(&field.to_be_bytes());
}

/// An outer packet, taken apart as its receiver does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub source: Vec<u8>,
    pub destination: Vec<u8>,
    pub ttl: u8,
    pub traffic_class: u8,
    pub does_not_fragment: bool,
    /// 0 of IPv6.
    pub identification: u16,
    /// 0 of IPv4.
    pub flow_label: u32,
    /// Of GUE only.
    pub source_port: Option<u16>,
}

/// Takes the inner packet out, all checksums looked at.
pub fn decapsulate(packet: &[u8], kind: TunnelKind) -> (Outer, Vec<u8>) {
    assert_eq!(packet.len(), length(packet));
    let is_ipv6 = packet[0] >> 4 == 6;
    let (mut outer, protocol, pseudo_header, rest) = if is_ipv6 {
        let (header, rest) = Ipv6Header::from_slice(packet).unwrap();
        let outer = Outer {
            source: header.source.to_vec(),
            destination: header.destination.to_vec(),
            ttl: header.hop_limit,
            traffic_class: header.traffic_class,
            does_not_fragment: true,
            identification: 0,
            flow_label: header.flow_label.value(),
            source_port: None,
        };
        let pseudo_header =
            checksum::pseudo_header_v6(&header.source, &header.destination, 17, rest.len() as u32);
        (outer, header.next_header.0, pseudo_header, rest)
    } else {
        let (header, rest) = Ipv4Header::from_slice(packet).unwrap();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert!(!header.more_fragments && header.fragment_offset.value() == 0);
        let outer = Outer {
            source: header.source.to_vec(),
            destination: header.destination.to_vec(),
            ttl: header.time_to_live,
            traffic_class: header.dscp.value() << 2 | header.ecn.value(),
            does_not_fragment: header.dont_fragment,
            identification: header.identification,
            flow_label: 0,
            source_port: None,
        };
        let pseudo_header =
            checksum::pseudo_header_v4(header.source, header.destination, 17, rest.len() as u16);
        (outer, header.protocol.0, pseudo_header, rest)
    };
    let (inside, inner) = match kind {
        TunnelKind::Ipip => (protocol, rest),
        TunnelKind::Gre { has_checksum } => {
            assert_eq!((protocol, rest[0], rest[1]), (47, if has_checksum { 0x80 } else { 0 }, 0));
            let inside = match rest[2..4] {
                [8, 0] => 4,
                [0x86, 0xdd] => 41,
                _ => panic!("{:?}", &rest[2..4]),
            };
            if has_checksum {
                assert_eq!((checksum::sum(rest), &rest[6..8]), (0xffff, &[0, 0][..]));
            }
            (inside, &rest[if has_checksum { 8 } else { 4 }..])
        }
        TunnelKind::Gue { port, has_checksum } => {
            let udp = UdpHeader::from_slice(rest).unwrap().0;
            assert_eq!((protocol, udp.destination_port, usize::from(udp.length)), (17, port, rest.len()));
            assert_eq!(udp.checksum != 0, has_checksum);
            assert!(!has_checksum || checksum::is_intact(pseudo_header, rest));
            assert_eq!((rest[8], &rest[10..12]), (0, &[0, 0][..]));
            outer.source_port = Some(udp.source_port);
            (rest[9], &rest[12..])
        }
    };
    assert_eq!(inside, if inner[0] >> 4 == 6 { 41 } else { 4 });
    (outer, inner.to_vec())
}

/// Puts pieces together, in any order, as their receiver does: none missing, none over another. A packet in one piece stays as
/// it is.
pub fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    if let [whole] = pieces {
        return whole.clone();
    }
    let Some(first) = pieces.iter().find(|piece| place(piece).0 == 0) else { panic!("no first piece") };
    let is_ipv6 = first[0] >> 4 == 6;
    let header = header_bytes(first);
    let mut parts = BTreeMap::new();
    let mut total = None;
    for piece in pieces {
        let (offset, has_more, identification) = place(piece);
        assert_eq!(identification, place(first).2, "one identification");
        let data = &piece[header_bytes(piece) + if is_ipv6 { 8 } else { 0 }..];
        assert!(!has_more || data.len().is_multiple_of(8) && !data.is_empty());
        if !is_ipv6 {
            assert_eq!(checksum::sum(&piece[..header_bytes(piece)]), 0xffff);
        }
        if !has_more {
            assert_eq!(total.replace(offset + data.len()), None, "one last piece");
        }
        assert!(parts.insert(offset, data.to_vec()).is_none());
    }
    let mut payload = Vec::new();
    for (offset, data) in parts {
        assert_eq!(offset, payload.len(), "no gap, no overlap");
        payload.extend(data);
    }
    assert_eq!(Some(payload.len()), total);
    let mut packet = first[..header].to_vec();
    if is_ipv6 {
        packet[6] = first[40];
        packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    } else {
        packet[6] &= 0x40;
        packet[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
        set_header_checksum(&mut packet);
    }
    packet.extend(payload);
    packet
}

fn header_bytes(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 6 { 40 } else { usize::from(packet[0] & 15) * 4 }
}

/// Offset, more-fragments flag and identification of a piece.
fn place(piece: &[u8]) -> (usize, bool, u32) {
    if piece[0] >> 4 == 4 {
        let word = u16::from_be_bytes([piece[6], piece[7]]);
        let identification = u16::from_be_bytes([piece[4], piece[5]]).into();
        return (usize::from(word & 0x1fff) * 8, word & 0x2000 != 0, identification);
    }
    assert_eq!(piece[6], 44, "a fragment header");
    let word = u16::from_be_bytes([piece[42], piece[43]]);
    let identification = u32::from_be_bytes(piece[44..48].try_into().unwrap());
    (usize::from(word & !7), word & 1 != 0, identification)
}
