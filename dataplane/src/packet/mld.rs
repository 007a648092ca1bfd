//! Multicast listener discovery over Ethernet (RFC 2710, RFC 3810): switches that look into it carry a group, and with it
//! neighbour discovery, only to who says that it listens.
//!
//! Frames here have no VLAN tag.

use std::net::{IpAddr, Ipv6Addr};

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{self, EthernetHeader};
use super::icmpv6::{self, MULTICAST_LISTENER_QUERY};
use super::ipv6::{self, HOP_BY_HOP, ICMPV6, Ipv6Header};
use super::ndp::multicast_mac;

/// Type: a listener's report of version 1.
const REPORT_V1: u8 = 131;
/// Type: a listener's report of version 2.
const REPORT_V2: u8 = 143;
/// ff02::16, all routers that speak version 2.
const ALL_ROUTERS_V2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Hop limit of every message.
const HOP_LIMIT: u8 = 1;
/// Of a record: the sender listens to all sources of the group, and did before.
const IS_ALL_SOURCES: u8 = 2;
/// A router alert for multicast listener discovery (RFC 2711), in a header of hop-by-hop options.
const ROUTER_ALERT: [u8; 8] = [ICMPV6, 0, 5, 2, 0, 0, 1, 0];

const MESSAGE_AT: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES + ROUTER_ALERT.len();

/// Groups of one report, at most: what the least MTU of IPv6 holds.
pub const GROUPS_MAX: usize = 60;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    kind: u8,
    code: u8,
    checksum: U16,
    /// Of a query: how soon it is to be answered.
    response_delay: U16,
    reserved: U16,
    group: [u8; 16],
}

/// What queries of version 2 have more, at least.
const V2_QUERY_BYTES: usize = size_of::<Wire>() + 4;

/// Who listens to which groups?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerQuery {
    /// Who listens to this group; none: to any.
    pub group: Option<Ipv6Addr>,
    /// It is of version 1, and so is what it understands.
    pub is_v1: bool,
}

/// What follows an IPv6 header with hop-by-hop options looks like a query.
pub fn is_query(payload: &[u8]) -> bool {
    payload.starts_with(&[ICMPV6, 0]) && payload.get(ROUTER_ALERT.len()) == Some(&MULTICAST_LISTENER_QUERY)
}

/// Nobody off the link can have sent it (RFC 3810 section 6.2).
pub fn is_from_the_link(source: IpAddr, hop_limit: u8) -> bool {
    hop_limit == HOP_LIMIT && matches!(source, IpAddr::V6(source) if source.is_unicast_link_local())
}

impl ListenerQuery {
    /// Reads a whole frame; none unless it is valid by RFC 3810 section 6.2.
    pub fn parse(frame: &[u8]) -> Option<ListenerQuery> {
        let (ethernet, packet) = EthernetHeader::read(frame)?;
        if ethernet.ether_type != ethernet::IPV6 {
            return None;
        }
        let (ip, payload) = Ipv6Header::read(packet, packet.len()).ok()?;
        let upper = ip.upper_layer(payload).ok()?;
        let is_from_the_link = is_from_the_link(ip.source_address().into(), ip.hop_limit);
        if !is_from_the_link || ip.next_header != HOP_BY_HOP || upper.fragment.is_some() {
            return None;
        }
        let message = packet.get(usize::from(upper.offset)..ip.total_length())?;
        let (wire, _) = Wire::ref_from_prefix(message).ok()?;
        let is_query = upper.protocol == ICMPV6
            && (wire.kind, wire.code) == (MULTICAST_LISTENER_QUERY, 0)
            && icmpv6::is_intact(&ip.source, &ip.destination, message);
        let is_v1 = message.len() == size_of::<Wire>();
        let group = Ipv6Addr::from(wire.group);
        (is_query && (is_v1 || message.len() >= V2_QUERY_BYTES))
            .then_some(ListenerQuery { group: Some(group).filter(|group| !group.is_unspecified()), is_v1 })
    }
}

/// The frame by which the host `source` with this MAC says that it listens to these groups, of which the first
/// [`GROUPS_MAX`] count.
pub fn report(groups: &[Ipv6Addr], source: Ipv6Addr, own_mac: [u8; 6]) -> Vec<u8> {
    let groups = &groups[..groups.len().min(GROUPS_MAX)];
    let mut message = vec![REPORT_V2, 0, 0, 0, 0, 0];
    message.extend((groups.len() as u16).to_be_bytes());
    for group in groups {
        message.extend([IS_ALL_SOURCES, 0, 0, 0]);
        message.extend(group.octets());
    }
    frame(message, source, own_mac, ALL_ROUTERS_V2)
}

/// The same in version 1, of one group.
pub fn report_v1(group: Ipv6Addr, source: Ipv6Addr, own_mac: [u8; 6]) -> Vec<u8> {
    let wire = Wire {
        kind: REPORT_V1,
        code: 0,
        checksum: U16::ZERO,
        response_delay: U16::ZERO,
        reserved: U16::ZERO,
        group: group.octets(),
    };
    frame(wire.as_bytes().to_vec(), source, own_mac, group)
}

fn frame(mut message: Vec<u8>, source: Ipv6Addr, own_mac: [u8; 6], destination: Ipv6Addr) -> Vec<u8> {
    icmpv6::set_checksum(&source.octets(), &destination.octets(), &mut message);
    let length = (ROUTER_ALERT.len() + message.len()) as u16;
    let ip = Ipv6Header::new(source.octets(), destination.octets(), HOP_BY_HOP, HOP_LIMIT, length);
    let destination = multicast_mac(destination);
    let ethernet = EthernetHeader { destination, source: own_mac, ether_type: ethernet::IPV6 };
    let mut frame = Vec::with_capacity(MESSAGE_AT + message.len());
    for part in [ethernet.as_bytes(), ip.as_bytes(), &ROUTER_ALERT, &message] {
        frame.extend_from_slice(part);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ndp::solicited_node;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// The frame that asks who listens to `group`, or to any, in either version.
    fn query(group: Option<Ipv6Addr>, is_v1: bool, source: Ipv6Addr, own_mac: [u8; 6]) -> Vec<u8> {
        const ALL_NODES: Ipv6Addr = crate::packet::ndp::ALL_NODES;
        let mut message = vec![MULTICAST_LISTENER_QUERY, 0, 0, 0, 0x27, 0x10, 0, 0];
        message.extend(group.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
        message.extend([2, 125, 0, 0].iter().take(if is_v1 { 0 } else { 4 }));
        frame(message, source, own_mac, group.unwrap_or(ALL_NODES))
    }

    #[test]
    fn queries_of_both_versions_are_read() {
        let (router, group) = (address("fe80::9"), solicited_node(address("2001:db8::10")));
        for group in [None, Some(group)] {
            for is_v1 in [false, true] {
                let frame = query(group, is_v1, router, MAC);
                assert_eq!(ListenerQuery::parse(&frame), Some(ListenerQuery { group, is_v1 }));
                assert!(is_query(&frame[54..]));
            }
        }
    }

    #[test]
    fn query_that_cannot_be_is_none() {
        let good = query(None, false, address("fe80::9"), MAC);
        for (at, value, why) in [
            (12, 8, "IPv4"),
            (20, ICMPV6, "no hop-by-hop options"),
            (21, 255, "a hop limit that a router may have made of 256"),
            (22, 0x20, "no link-local source"),
            (62, 131, "a report"),
            (63, 1, "a code"),
            (70, 1, "the checksum"),
        ] {
            let mut frame = good.clone();
            frame[at] = value;
            assert_eq!(ListenerQuery::parse(&frame), None, "{why}");
        }
        for length in 0..good.len() {
            assert_eq!(ListenerQuery::parse(&good[..length]), None, "{length} bytes");
        }
        assert_eq!(ListenerQuery::parse(&query(None, false, address("2001:db8::9"), MAC)), None);
    }

    #[test]
    fn reports_are_to_those_who_ask_and_intact() {
        let (own, groups) = (address("fe80::1"), vec![solicited_node(address("2001:db8::10")); 61]);
        let many = report(&groups, own, MAC);
        assert_eq!(many.len(), MESSAGE_AT + 8 + 60 * 20);
        assert_eq!(many[..6], [0x33, 0x33, 0, 0, 0, 0x16]);
        assert_eq!(many[MESSAGE_AT + 7], 60);
        let one = report_v1(groups[0], own, MAC);
        assert_eq!(one[..6], [0x33, 0x33, 0xff, 0, 0, 0x10]);
        for frame in [many, one] {
            let (ip, payload) = Ipv6Header::read(&frame[14..], frame.len() - 14).unwrap();
            assert_eq!((ip.hop_limit, ip.next_header, ip.source_address()), (1, HOP_BY_HOP, own));
            assert_eq!(ip.upper_layer(payload).unwrap().offset, 48);
            assert!(icmpv6::is_intact(&ip.source, &ip.destination, &frame[MESSAGE_AT..]));
        }
    }
}
