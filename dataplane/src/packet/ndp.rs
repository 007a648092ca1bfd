//! Neighbour discovery over Ethernet (RFC 4861, RFC 4862): solicitations and advertisements. IPv6's ARP.
//!
//! Frames here have no VLAN tag.

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ethernet::{self, EthernetHeader};
use super::icmpv6::{self, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION};
use super::ipv6::{self, ICMPV6, Ipv6Header};

/// Hop limit of every message: nobody off the link can make it.
pub const HOP_LIMIT: u8 = 255;
/// ff02::1, all nodes of the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Router flag of an advertisement.
const ROUTER: u8 = 0x80;
/// Solicited flag of an advertisement.
const SOLICITED: u8 = 0x40;
/// Override flag of an advertisement.
const OVERRIDE: u8 = 0x20;
/// Option: the sender's link-layer address.
const SOURCE_LINK_ADDRESS: u8 = 1;
/// Option: the target's link-layer address.
const TARGET_LINK_ADDRESS: u8 = 2;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    kind: u8,
    code: u8,
    checksum: U16,
    flags: u8,
    reserved: [u8; 3],
    target: [u8; 16],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct LinkAddressOption {
    kind: u8,
    /// In units of 8 bytes.
    length: u8,
    address: [u8; 6],
}

const MESSAGE_BYTES: usize = size_of::<Wire>() + size_of::<LinkAddressOption>();
const MESSAGE_AT: usize = ethernet::HEADER_BYTES + ipv6::HEADER_BYTES;

/// Bytes of a frame with a link-layer address option; no padding is needed.
pub const FRAME_BYTES: usize = MESSAGE_AT + MESSAGE_BYTES;
/// Bytes of a frame that probes for a duplicate address, which has no option.
pub const PROBE_FRAME_BYTES: usize = MESSAGE_AT + size_of::<Wire>();

const _: () = assert!(PROBE_FRAME_BYTES >= ethernet::FRAME_BYTES_MIN);

/// Which of the two, and what only one of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourKind {
    /// Who has the target?
    Solicitation,
    /// The target is here.
    Advertisement {
        /// The sender is a router.
        is_router: bool,
        /// It answers a solicitation of one host.
        is_solicited: bool,
        /// It replaces what is known.
        overrides: bool,
    },
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourMessage {
    /// Solicitation or advertisement.
    pub kind: NeighbourKind,
    /// MAC that the frame came from.
    pub source_mac: [u8; 6],
    /// Address of who speaks; `::` while it probes for duplicates of the target.
    pub source: Ipv6Addr,
    /// Address of who is spoken to.
    pub destination: Ipv6Addr,
    /// Address asked for, or told of.
    pub target: Ipv6Addr,
    /// MAC of who asks, or of the target; not in every message.
    pub link_address: Option<[u8; 6]>,
}

impl NeighbourMessage {
    /// Reads a whole frame; none unless it is valid by RFC 4861 sections 7.1.1 and 7.1.2 and unfragmented (RFC 6980). MACs of
    /// many, and zero, are nobody's.
    pub fn parse(frame: &[u8]) -> Option<NeighbourMessage> {
        let (ethernet, packet) = EthernetHeader::read(frame)?;
        if ethernet.ether_type != ethernet::IPV6 || !is_one_station(ethernet.source) {
            return None;
        }
        let (ip, payload) = Ipv6Header::read(packet, packet.len()).ok()?;
        let upper = ip.upper_layer(payload).ok()?;
        if ip.hop_limit != HOP_LIMIT || upper.protocol != ICMPV6 || upper.fragment.is_some() {
            return None;
        }
        let bytes = packet.get(usize::from(upper.offset)..ip.total_length())?;
        let (wire, options) = Wire::ref_from_prefix(bytes).ok()?;
        let is_valid =
            wire.code == 0 && wire.target[0] != 0xff && icmpv6::is_intact(&ip.source, &ip.destination, bytes);
        if !is_valid {
            return None;
        }
        let (kind, link_option) = match wire.kind {
            NEIGHBOUR_SOLICITATION => (NeighbourKind::Solicitation, SOURCE_LINK_ADDRESS),
            NEIGHBOUR_ADVERTISEMENT => (advertisement_kind(wire.flags), TARGET_LINK_ADDRESS),
            _ => return None,
        };
        let message = NeighbourMessage {
            kind,
            source_mac: ethernet.source,
            source: ip.source_address(),
            destination: ip.destination_address(),
            target: wire.target.into(),
            link_address: link_address(options, link_option)?,
        };
        message.fits_its_addresses().then_some(message)
    }

    /// A probe for duplicates goes to the target's solicited-node address and names no MAC; what goes to many answers nobody's
    /// solicitation.
    fn fits_its_addresses(&self) -> bool {
        match self.kind {
            NeighbourKind::Solicitation if self.is_probe() => {
                self.destination == solicited_node(self.target) && self.link_address.is_none()
            }
            NeighbourKind::Solicitation => true,
            NeighbourKind::Advertisement { is_solicited, .. } => {
                !(self.source.is_unspecified() || self.destination.is_multicast() && is_solicited)
            }
        }
    }

    /// It is a solicitation that looks for duplicates of the target (RFC 4862 section 5.4.2).
    pub fn is_probe(&self) -> bool {
        self.kind == NeighbourKind::Solicitation && self.source.is_unspecified()
    }

    /// The frame that answers this solicitation where the target is ours; a probe is answered to all nodes, so that it fails.
    pub fn answer(&self, own_mac: [u8; 6]) -> [u8; FRAME_BYTES] {
        if self.is_probe() {
            return unsolicited_advertisement(self.target, own_mac);
        }
        let destination_mac = self.link_address.unwrap_or(self.source_mac);
        advertisement(self.target, own_mac, self.source, destination_mac, SOLICITED | OVERRIDE)
    }
}

/// Kind and target of what looks like a solicitation or advertisement: enough to tell whom it concerns, not that it is valid.
/// `message`: from the ICMPv6 header on.
#[inline]
pub fn target(message: &[u8]) -> Option<(u8, [u8; 16])> {
    let (wire, _) = Wire::ref_from_prefix(message).ok()?;
    matches!(wire.kind, NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT).then_some((wire.kind, wire.target))
}

fn advertisement_kind(flags: u8) -> NeighbourKind {
    NeighbourKind::Advertisement {
        is_router: flags & ROUTER != 0,
        is_solicited: flags & SOLICITED != 0,
        overrides: flags & OVERRIDE != 0,
    }
}

/// The address in the first option of this kind. None where an option cannot be, or the address nobody's.
fn link_address(mut options: &[u8], kind: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while !options.is_empty() {
        let &[option, units] = options.first_chunk()?;
        let (bytes, rest) = options.split_at_checked(usize::from(units) * 8)?;
        if units == 0 {
            return None;
        }
        if option == kind && found.is_none() {
            let (option, _) = LinkAddressOption::ref_from_prefix(bytes).ok()?;
            if units != 1 || !is_one_station(option.address) {
                return None;
            }
            found = Some(option.address);
        }
        options = rest;
    }
    Some(found)
}

fn is_one_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// The solicited-node address of `address`: ff02::1:ff00:0 and its last three bytes (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// The MAC to which packets for a multicast address go (RFC 2464 section 7).
pub fn multicast_mac(address: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The frame that asks all for `target`'s MAC. `source` is one of the asker's addresses.
pub fn solicitation(target: Ipv6Addr, source: Ipv6Addr, own_mac: [u8; 6]) -> [u8; FRAME_BYTES] {
    let destination = solicited_node(target);
    solicit(target, source, own_mac, destination, multicast_mac(destination))
}

/// The frame that asks `target`, known to be at `target_mac`, whether it is still there.
pub fn unicast_solicitation(
    target: Ipv6Addr,
    target_mac: [u8; 6],
    source: Ipv6Addr,
    own_mac: [u8; 6],
) -> [u8; FRAME_BYTES] {
    solicit(target, source, own_mac, target, target_mac)
}

fn solicit(
    target: Ipv6Addr,
    source: Ipv6Addr,
    own_mac: [u8; 6],
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
) -> [u8; FRAME_BYTES] {
    let wire = wire(NEIGHBOUR_SOLICITATION, 0, target);
    let option = LinkAddressOption { kind: SOURCE_LINK_ADDRESS, length: 1, address: own_mac };
    frame(&wire, option, source, own_mac, destination, destination_mac)
}

/// The frame that asks whether somebody else has `target` already (duplicate address detection).
pub fn duplicate_address_probe(target: Ipv6Addr, own_mac: [u8; 6]) -> [u8; PROBE_FRAME_BYTES] {
    let destination = solicited_node(target);
    let mut frame = [0; PROBE_FRAME_BYTES];
    let wire = wire(NEIGHBOUR_SOLICITATION, 0, target);
    write_headers(&mut frame, &wire, Ipv6Addr::UNSPECIFIED, own_mac, destination, multicast_mac(destination));
    let [source, destination] = [[0; 16], destination.octets()];
    icmpv6::set_checksum(&source, &destination, &mut frame[MESSAGE_AT..]);
    frame
}

/// The frame that tells all nodes where `target` is now.
pub fn unsolicited_advertisement(target: Ipv6Addr, own_mac: [u8; 6]) -> [u8; FRAME_BYTES] {
    advertisement(target, own_mac, ALL_NODES, multicast_mac(ALL_NODES), OVERRIDE)
}

fn advertisement(
    target: Ipv6Addr,
    own_mac: [u8; 6],
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
    flags: u8,
) -> [u8; FRAME_BYTES] {
    let wire = wire(NEIGHBOUR_ADVERTISEMENT, flags, target);
    let option = LinkAddressOption { kind: TARGET_LINK_ADDRESS, length: 1, address: own_mac };
    frame(&wire, option, target, own_mac, destination, destination_mac)
}

fn wire(kind: u8, flags: u8, target: Ipv6Addr) -> Wire {
    Wire { kind, code: 0, checksum: U16::ZERO, flags, reserved: [0; 3], target: target.octets() }
}

fn frame(
    wire: &Wire,
    option: LinkAddressOption,
    source: Ipv6Addr,
    source_mac: [u8; 6],
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    write_headers(&mut frame, wire, source, source_mac, destination, destination_mac);
    frame[PROBE_FRAME_BYTES..].copy_from_slice(option.as_bytes());
    icmpv6::set_checksum(&source.octets(), &destination.octets(), &mut frame[MESSAGE_AT..]);
    frame
}

/// All but option and checksum, into a frame of its final length.
fn write_headers(
    frame: &mut [u8],
    wire: &Wire,
    source: Ipv6Addr,
    source_mac: [u8; 6],
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
) {
    let ethernet =
        EthernetHeader { destination: destination_mac, source: source_mac, ether_type: ethernet::IPV6 };
    let length = (frame.len() - MESSAGE_AT) as u16;
    let ip = Ipv6Header::new(source.octets(), destination.octets(), ICMPV6, HOP_LIMIT, length);
    frame[..ethernet::HEADER_BYTES].copy_from_slice(ethernet.as_bytes());
    frame[ethernet::HEADER_BYTES..MESSAGE_AT].copy_from_slice(ip.as_bytes());
    frame[MESSAGE_AT..PROBE_FRAME_BYTES].copy_from_slice(wire.as_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const RS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];
    const DIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const RIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x0012, 0x3456);

    fn check(frame: &[u8]) {
        let parsed = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv6(ip)) = parsed.net else { panic!("no IPv6") };
        assert_eq!(ip.header().hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = parsed.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(ip.header().source(), ip.header().destination()));
        assert_eq!(icmp.slice().len(), frame.len() - 54);
    }

    #[test]
    fn solicitation_goes_to_the_solicited_node() {
        let frame = solicitation(RIP, DIP, OWN_MAC);
        check(&frame);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let message = NeighbourMessage::parse(&frame).unwrap();
        let expected = NeighbourMessage {
            kind: NeighbourKind::Solicitation,
            source_mac: OWN_MAC,
            source: DIP,
            destination: "ff02::1:ff12:3456".parse().unwrap(),
            target: RIP,
            link_address: Some(OWN_MAC),
        };
        assert_eq!(message, expected);
        assert!(!message.is_probe());

        let frame = unicast_solicitation(RIP, RS_MAC, DIP, OWN_MAC);
        check(&frame);
        assert_eq!(frame[..6], RS_MAC);
        assert_eq!(NeighbourMessage::parse(&frame), Some(NeighbourMessage { destination: RIP, ..expected }));
    }

    #[test]
    fn answer_goes_to_who_asked() {
        let question = NeighbourMessage::parse(&solicitation(RIP, DIP, OWN_MAC)).unwrap();
        let frame = question.answer(RS_MAC);
        check(&frame);
        assert_eq!(frame[..12], [OWN_MAC, RS_MAC].concat());
        let kind = NeighbourKind::Advertisement { is_router: false, is_solicited: true, overrides: true };
        let expected = NeighbourMessage {
            kind,
            source_mac: RS_MAC,
            source: RIP,
            destination: DIP,
            target: RIP,
            link_address: Some(RS_MAC),
        };
        assert_eq!(NeighbourMessage::parse(&frame), Some(expected));
        let without_option = NeighbourMessage { link_address: None, ..question };
        assert_eq!(without_option.answer(RS_MAC), frame);
    }

    #[test]
    fn probe_is_answered_to_all_nodes() {
        let frame = duplicate_address_probe(DIP, OWN_MAC);
        check(&frame);
        let probe = NeighbourMessage::parse(&frame).unwrap();
        assert!(probe.is_probe());
        let frame = probe.answer(RS_MAC);
        check(&frame);
        assert_eq!(frame, unsolicited_advertisement(DIP, RS_MAC));
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        let answer = NeighbourMessage::parse(&frame).unwrap();
        let kind = NeighbourKind::Advertisement { is_router: false, is_solicited: false, overrides: true };
        assert_eq!((answer.kind, answer.destination, answer.source), (kind, ALL_NODES, DIP));
    }

    /// The checksum right again after a change.
    fn changed(mut frame: Vec<u8>, change: impl Fn(&mut Vec<u8>)) -> Option<NeighbourMessage> {
        change(&mut frame);
        let length = (frame.len() - MESSAGE_AT) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        let (source, destination) = (frame[22..38].try_into().unwrap(), frame[38..54].try_into().unwrap());
        icmpv6::set_checksum(&source, &destination, &mut frame[54..]);
        NeighbourMessage::parse(&frame)
    }

    #[test]
    fn whatever_rfc_4861_calls_invalid_is_refused() {
        let good = solicitation(RIP, DIP, OWN_MAC).to_vec();
        let refused = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
            assert_eq!(changed(good.clone(), change), None, "{name}");
        };
        assert!(changed(good.clone(), |_| {}).is_some());
        refused("hop limit 254", &|frame| frame[21] = 254);
        refused("code 1", &|frame| frame[55] = 1);
        refused("router solicitation", &|frame| frame[54] = 133);
        refused("multicast target", &|frame| frame[62] = 0xff);
        refused("option of length 0", &|frame| frame[79] = 0);
        refused("option beyond the message", &|frame| frame[79] = 2);
        refused("half an option", &|frame| frame.truncate(82));
        refused("one byte of an option", &|frame| frame.truncate(79));
        refused("too short", &|frame| frame.truncate(77));
        refused("multicast MAC in option", &|frame| frame[80] = 1);
        refused("zero MAC in option", &|frame| frame[80..86].fill(0));
        refused("multicast source MAC", &|frame| frame[6] = 1);
        refused("probe with option", &|frame| frame[22..38].fill(0));
        refused("probe to another node", &|frame| {
            frame[22..38].fill(0);
            frame.truncate(78);
            frame[53] ^= 1;
        });
        refused("long link-layer address", &|frame| {
            frame[79] = 2;
            frame.extend([0; 8]);
        });
        let mut broken = good.clone();
        broken[56] ^= 1;
        assert_eq!(NeighbourMessage::parse(&broken), None, "checksum");
        for length in 0..good.len() {
            assert_eq!(NeighbourMessage::parse(&good[..length]), None, "{length}");
        }
        let advertisement = unsolicited_advertisement(DIP, RS_MAC).to_vec();
        assert_eq!(changed(advertisement, |frame| frame[58] |= SOLICITED), None, "solicited by all");
    }

    #[test]
    fn unknown_options_are_skipped_and_none_are_needed() {
        let good = solicitation(RIP, DIP, OWN_MAC).to_vec();
        let nonce = changed(good.clone(), |frame| drop(frame.splice(78..78, [14, 1, 1, 2, 3, 4, 5, 6])));
        assert_eq!(nonce.unwrap().link_address, Some(OWN_MAC));
        let bare = changed(good, |frame| frame.truncate(78));
        assert_eq!(bare.unwrap().link_address, None);
    }

    #[test]
    fn fragments_and_late_padding_are_told_apart() {
        let mut padded = duplicate_address_probe(DIP, OWN_MAC).to_vec();
        padded.extend([0; 20]);
        assert!(NeighbourMessage::parse(&padded).is_some());
        let mut fragmented = solicitation(RIP, DIP, OWN_MAC).to_vec();
        fragmented[20] = 44;
        fragmented.splice(54..54, [58, 0, 0, 0, 0, 0, 0, 9]);
        fragmented[19] += 8;
        assert_eq!(NeighbourMessage::parse(&fragmented), None);
    }

    #[test]
    fn target_is_found_without_checks() {
        let frame = solicitation(RIP, DIP, OWN_MAC);
        assert_eq!(target(&frame[54..]), Some((135, RIP.octets())));
        assert_eq!(target(&frame[54..77]), None);
        assert_eq!(target(&[128; 24]), None);
    }

    proptest! {
        #[test]
        fn options_of_any_bytes_are_read_or_refused(options in prop::collection::vec(0..4_u8, 0..64)) {
            let good = solicitation(RIP, DIP, OWN_MAC).to_vec();
            changed(good, |frame| {
                frame.truncate(78);
                frame.extend(&options);
            });
        }
    }
}
