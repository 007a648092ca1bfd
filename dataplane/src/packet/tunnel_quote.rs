//! An ICMP error about a packet that we put into a tunnel quotes our outer header first: what was inside?

use std::net::IpAddr;

use super::ethernet;
use super::ipv4::UDP;
use super::outer::{GRE, GRE_CHECKSUM, GUE_BYTES, IPV4_INSIDE, IPV6_INSIDE, TunnelKind};
use super::quote::Quote;

const UDP_BYTES: usize = 8;

/// The quote of a tunnel's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelQuote {
    /// The director's address.
    pub source: IpAddr,
    /// The real server's address.
    pub destination: IpAddr,
    /// How the packet was wrapped. Any UDP may be GUE: whether the real server has a tunnel of this kind, and at this port, is
    /// the caller's to look up.
    pub kind: TunnelKind,
    /// Where the wrapped packet begins, in bytes from the quote's start, where the quote reaches that far. It may have no byte
    /// of it.
    pub inner: Option<usize>,
    /// Total length of the outer packet as its header has it.
    pub total_length: usize,
}

impl TunnelQuote {
    /// None where the quoted packet is no tunnel's, is a later fragment, or has what ours never have: options of GRE but the
    /// checksum, a control message of GUE.
    pub fn read(quote: &[u8]) -> Option<TunnelQuote> {
        let outer = Quote::read(quote)?;
        if outer.is_later_fragment {
            return None;
        }
        let rest = quote.get(outer.transport..)?;
        let (kind, skipped) = match outer.protocol {
            IPV4_INSIDE | IPV6_INSIDE => (TunnelKind::Ipip, Some(0)),
            GRE => read_gre(rest)?,
            UDP => read_gue(rest, outer.ports?.1)?,
            _ => return None,
        };
        let inner = skipped.map(|skipped| outer.transport + skipped).filter(|inner| *inner <= quote.len());
        Some(TunnelQuote {
            source: outer.source,
            destination: outer.destination,
            kind,
            inner,
            total_length: outer.total_length,
        })
    }
}

fn read_gre(bytes: &[u8]) -> Option<(TunnelKind, Option<usize>)> {
    let &[a, b, c, d] = bytes.first_chunk()?;
    let has_checksum = match u16::from_be_bytes([a, b]) {
        0 => false,
        GRE_CHECKSUM => true,
        _ => return None,
    };
    let kind = TunnelKind::Gre { has_checksum };
    let is_ip = [ethernet::IPV4, ethernet::IPV6].iter().any(|known| known.to_bytes() == [c, d]);
    is_ip.then_some((kind, Some(kind.bytes())))
}

/// The quote may end with the UDP header: eight bytes is all that RFC 792 asks for.
fn read_gue(bytes: &[u8], port: u16) -> Option<(TunnelKind, Option<usize>)> {
    let has_checksum = bytes.get(6..UDP_BYTES).is_some_and(|field| field != [0, 0]);
    let kind = TunnelKind::Gue { port, has_checksum };
    let Some(&[version_and_length, protocol, ..]) = bytes.get(UDP_BYTES..UDP_BYTES + GUE_BYTES) else {
        return Some((kind, None));
    };
    // Version 0, no control message; options are skipped.
    let is_packet = version_and_length & 0xe0 == 0 && matches!(protocol, IPV4_INSIDE | IPV6_INSIDE);
    let options = usize::from(version_and_length & 0x1f) * 4;
    is_packet.then_some((kind, Some(UDP_BYTES + GUE_BYTES + options)))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::packet::checksum;
    use crate::packet::outer::{InnerPacket, OuterTemplate};

    const KINDS: [TunnelKind; 5] = [
        TunnelKind::Ipip,
        TunnelKind::Gre { has_checksum: false },
        TunnelKind::Gre { has_checksum: true },
        TunnelKind::Gue { port: 6080, has_checksum: false },
        TunnelKind::Gue { port: 6080, has_checksum: true },
    ];

    fn wrapped(kind: TunnelKind, is_ipv6: bool) -> (OuterTemplate, Vec<u8>) {
        let (source, destination) =
            if is_ipv6 { ("2001:db8::1", "2001:db8::11") } else { ("10.0.0.1", "10.0.0.11") };
        let template =
            OuterTemplate::new(kind, source.parse().unwrap(), destination.parse().unwrap()).unwrap();
        let mut packet = Vec::new();
        PacketBuilder::ipv4([198, 51, 100, 7], [192, 0, 2, 10], 9)
            .udp(40000, 53)
            .write(&mut packet, &[7; 9])
            .unwrap();
        let inner = InnerPacket {
            is_ipv6: false,
            length: packet.len() as u16,
            ttl: 9,
            traffic_class: 0,
            does_not_fragment: true,
            identification: 1,
            flow_hash: 5,
            sum: checksum::sum(&packet),
        };
        let mut whole = vec![0; template.length()];
        template.write(&inner, &mut whole).unwrap();
        whole.extend(packet);
        (template, whole)
    }

    #[test]
    fn what_we_wrap_is_found_again_in_quotes_of_any_length() {
        for is_ipv6 in [false, true] {
            for kind in KINDS {
                let (template, whole) = wrapped(kind, is_ipv6);
                let ip_length = template.length() - kind.bytes();
                for length in 0..=whole.len() {
                    let read = TunnelQuote::read(&whole[..length]);
                    let least = match kind {
                        TunnelKind::Ipip => 0,
                        TunnelKind::Gre { .. } => 4,
                        TunnelKind::Gue { .. } => 8,
                    };
                    if length < ip_length + least {
                        assert!(read.is_none_or(|read| read.inner.is_none()), "{kind:?} {length}");
                        continue;
                    }
                    let read = read.unwrap();
                    assert_eq!(read.kind, kind);
                    assert_eq!(
                        read.destination,
                        if is_ipv6 { "2001:db8::11" } else { "10.0.0.11" }.parse::<IpAddr>().unwrap()
                    );
                    assert_eq!(read.total_length, whole.len());
                    assert_eq!(read.inner, (length >= template.length()).then_some(template.length()));
                }
                let inner = TunnelQuote::read(&whole).unwrap().inner.unwrap();
                assert_eq!(Quote::read(&whole[inner..]).unwrap().ports, Some((40000, 53)));
            }
        }
    }

    #[test]
    fn what_we_never_send_is_refused() {
        let changed = |kind, offset: usize, value: u8| {
            let (_, mut whole) = wrapped(kind, false);
            whole[offset] = value;
            TunnelQuote::read(&whole)
        };
        let [ipip, gre, _, gue, _] = KINDS;
        assert!(changed(gre, 20, 0).is_some());
        assert_eq!(changed(gre, 20, 0x20), None, "key");
        assert_eq!(changed(gre, 21, 1), None, "version 1");
        assert_eq!(changed(gre, 23, 1), None, "EtherType");
        assert_eq!(changed(gue, 28, 0x20), None, "control message");
        assert_eq!(changed(gue, 28, 0x40), None, "version 1");
        assert_eq!(changed(gue, 29, 6), None, "TCP");
        assert_eq!(changed(gue, 28, 1).unwrap().inner, Some(36), "options");
        assert_eq!(changed(gue, 28, 31).unwrap().inner, None, "options beyond the quote");
        assert_eq!(changed(ipip, 9, 6), None);
        assert_eq!(changed(ipip, 7, 1), None, "later fragment");
    }

    proptest! {
        #[test]
        fn anything_at_all_ends_within_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
            protocol in prop_oneof![Just(4_u8), Just(17), Just(41), Just(47)],
        ) {
            let mut bytes = bytes;
            if bytes.len() > 9 {
                (bytes[0], bytes[9]) = (0x45, protocol);
            }
            if let Some(inner) = TunnelQuote::read(&bytes).and_then(|read| read.inner) {
                prop_assert!(inner <= bytes.len());
            }
        }
    }
}
