//! The packet that an ICMP error quotes: whose connection is it? Quotes are cut short, often behind 8 bytes of transport
//! header.

use std::net::IpAddr;

use zerocopy::FromBytes;

use super::ipv4::{self, Ipv4Header, SCTP, TCP, UDP};
use super::ipv6::Ipv6Header;

/// What a quote says of its packet. Addresses and ports as they stand in it, so that in an error about what we forwarded the
/// destination is a real server's or a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol (for a later IPv6 fragment what its fragment header names).
    pub protocol: u8,
    /// Source and destination port of TCP, UDP or SCTP; none in a later fragment or where the quote ends before them.
    pub ports: Option<(u16, u16)>,
    /// Where the transport header begins, in bytes from the quote's start.
    pub transport: usize,
    /// Bytes of the transport header and its payload that are quoted.
    pub transport_bytes: usize,
    /// Total length of the quoted packet as its header has it; the quote may be shorter.
    pub total_length: usize,
    /// It is a piece of a larger packet.
    pub is_fragment: bool,
    /// It is a piece that holds no transport header.
    pub is_later_fragment: bool,
    /// Its sender forbade fragmenting (IPv6: always).
    pub does_not_fragment: bool,
}

impl Quote {
    /// Reads a quoted packet of IPv4. Neither header checksum nor total length must be right: routers change the one and some
    /// systems misquote the other. None where the header is not whole or no IPv4 header.
    pub fn read_v4(quote: &[u8]) -> Option<Quote> {
        let (header, _) = Ipv4Header::ref_from_prefix(quote).ok()?;
        let transport = header.header_length();
        if header.version_and_length >> 4 != 4 || transport < ipv4::HEADER_BYTES {
            return None;
        }
        let rest = quote.get(transport..)?;
        let is_later_fragment = header.is_later_fragment();
        Some(Quote {
            source: header.source_address().into(),
            destination: header.destination_address().into(),
            protocol: header.protocol,
            ports: ports(header.protocol, is_later_fragment, rest),
            transport,
            transport_bytes: rest.len(),
            total_length: usize::from(header.total_length.get()),
            is_fragment: header.is_fragment(),
            is_later_fragment,
            does_not_fragment: header.does_not_fragment(),
        })
    }

    /// Reads a quoted packet of IPv6; none where the headers up to the transport header are not whole, or refused by
    /// [`Ipv6Header::upper_layer`].
    pub fn read_v6(quote: &[u8]) -> Option<Quote> {
        let (header, payload) = Ipv6Header::ref_from_prefix(quote).ok()?;
        if header.version_class_flow.get() >> 28 != 6 {
            return None;
        }
        let upper = header.upper_layer(payload).ok()?;
        let transport = usize::from(upper.offset);
        let rest = quote.get(transport..)?;
        let is_later_fragment = upper.is_later_fragment();
        Some(Quote {
            source: header.source_address().into(),
            destination: header.destination_address().into(),
            protocol: upper.protocol,
            ports: ports(upper.protocol, is_later_fragment, rest),
            transport,
            transport_bytes: rest.len(),
            total_length: header.total_length(),
            is_fragment: upper.is_fragment(),
            is_later_fragment,
            does_not_fragment: true,
        })
    }

    /// Reads a quoted packet of whichever family it is, for instance one that was in a tunnel.
    pub fn read(quote: &[u8]) -> Option<Quote> {
        match quote.first()? >> 4 {
            4 => Quote::read_v4(quote),
            6 => Quote::read_v6(quote),
            _ => None,
        }
    }
}

fn ports(protocol: u8, is_later_fragment: bool, transport: &[u8]) -> Option<(u16, u16)> {
    if is_later_fragment || !matches!(protocol, TCP | UDP | SCTP) {
        return None;
    }
    let &[a, b, c, d] = transport.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn v4() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 11], [198, 51, 100, 7], 64);
        builder.tcp(80, 40000, 1, 2).write(&mut packet, &[0; 100]).unwrap();
        packet
    }

    fn v6() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(53, 40000).write(&mut packet, &[0; 100]).unwrap();
        packet
    }

    #[test]
    fn ports_are_read_where_four_bytes_of_transport_are_quoted() {
        let packet = v4();
        for length in 0..packet.len() {
            let read = Quote::read(&packet[..length]);
            assert_eq!(read, if length == 0 { None } else { Quote::read_v4(&packet[..length]) });
            assert_eq!(read.is_some(), length >= 20);
            let Some(quote) = read else { continue };
            assert_eq!(quote.ports, (length >= 24).then_some((80, 40000)));
            assert_eq!((quote.transport, quote.transport_bytes), (20, length - 20));
            assert_eq!((quote.protocol, quote.total_length), (6, 140));
        }
        let packet = v6();
        for length in 0..packet.len() {
            let read = Quote::read(&packet[..length]);
            assert_eq!(read.is_some(), length >= 40);
            let Some(quote) = read else { continue };
            assert_eq!(quote.ports, (length >= 44).then_some((53, 40000)));
            assert_eq!((quote.transport, quote.transport_bytes), (40, length - 40));
            assert_eq!((quote.protocol, quote.total_length), (17, 148));
        }
    }

    #[test]
    fn options_and_extension_headers_are_skipped() {
        let mut packet = v4();
        packet[0] = 0x46;
        packet.splice(20..20, [1, 1, 1, 0]);
        assert_eq!(Quote::read_v4(&packet[..32]).unwrap().ports, Some((80, 40000)));
        assert_eq!(Quote::read_v4(&packet[..23]), None);
        let mut packet = v6();
        packet[6] = 60;
        packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
        let quote = Quote::read_v6(&packet[..56]).unwrap();
        assert_eq!((quote.ports, quote.transport, quote.transport_bytes), (Some((53, 40000)), 48, 8));
        assert_eq!(Quote::read_v6(&packet[..47]), None);
    }

    #[test]
    fn fragments_are_told_apart() {
        let mut packet = v4();
        packet[6] = 0x60;
        let quote = Quote::read_v4(&packet).unwrap();
        assert!(quote.is_fragment && !quote.is_later_fragment && quote.does_not_fragment);
        assert_eq!(quote.ports, Some((80, 40000)));
        packet[7] = 9;
        let quote = Quote::read_v4(&packet).unwrap();
        assert!(quote.is_later_fragment && quote.ports.is_none());
        let mut packet = v6();
        packet[6] = 44;
        packet.splice(40..40, [17, 0, 0, 8, 0, 0, 0, 9]);
        let quote = Quote::read_v6(&packet).unwrap();
        assert!(quote.is_later_fragment && quote.ports.is_none());
        assert_eq!((quote.protocol, quote.transport), (17, 48));
    }

    #[test]
    fn other_protocols_have_no_ports_and_other_versions_no_quote() {
        let mut packet = v4();
        packet[9] = 1;
        assert_eq!(Quote::read_v4(&packet).unwrap().ports, None);
        for (version_and_length, is_read) in [(0x45, true), (0x44, false), (0x65, false), (0x05, false)] {
            packet[0] = version_and_length;
            assert_eq!(Quote::read_v4(&packet).is_some(), is_read, "{version_and_length:x}");
        }
        assert_eq!(Quote::read_v6(&packet), None);
    }

    proptest! {
        #[test]
        fn anything_at_all_ends_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0x40_u8..0x70) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
            for quote in [Quote::read_v4(&bytes), Quote::read_v6(&bytes), Quote::read(&bytes)].into_iter().flatten() {
                prop_assert_eq!(quote.transport + quote.transport_bytes, bytes.len());
            }
        }
    }
}
