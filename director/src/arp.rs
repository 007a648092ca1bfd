//! ARP for the director's own addresses, and its questions for next hops (RFC 826, RFC 5227).
//!
//! Pure: packets in, frames out. Frames are untagged; who sends them adds the interface's VLAN tag.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dataplane::packet::arp::{ArpPacket, REPLY, REQUEST};
use dataplane::packet::ethernet::BROADCAST;

use crate::own_addresses::{OwnAddresses, Reaction};
use crate::topology::{Interface, Topology};

/// An ARP frame, ready to be sent.
pub type ArpFrame = [u8; 60];

/// Looks at an ARP packet that came in on `interface`.
pub fn react(
    own: &mut OwnAddresses,
    topology: &Topology,
    interface: &Interface,
    packet: &ArpPacket,
    now: Duration,
) -> Reaction {
    let is_unicast = packet.sender_mac[0] & 1 == 0 && packet.sender_mac != [0; 6];
    if !is_unicast || topology.is_own_mac(packet.sender_mac) {
        return Reaction::default();
    }
    let answers = |address: Ipv4Addr| own.answers(topology, interface.id, IpAddr::V4(address));
    let is_gratuitous = packet.sender_address == packet.target_address;
    let is_question = packet.operation == REQUEST && !is_gratuitous;
    let still_answers = |address: Ipv4Addr| {
        !packet.sender_address.is_unspecified() && own.still_answers(topology, interface.id, address.into())
    };
    let target = packet.target_address;
    let reply = (is_question && (answers(target) || still_answers(target))).then(|| {
        let reply = ArpPacket {
            operation: REPLY,
            sender_mac: interface.mac,
            sender_address: packet.target_address,
            target_mac: packet.sender_mac,
            target_address: packet.sender_address,
        };
        reply.to_frame(packet.sender_mac, interface.mac).to_vec()
    });
    let is_claim = answers(packet.sender_address);
    let is_given_up = own.give_up(topology, interface.id, packet.sender_address.into());
    let claim = || own.claim(interface.id, packet.sender_address.into(), packet.sender_mac, now);
    Reaction { reply, is_claim, new_conflict: is_claim.then(claim).flatten(), is_given_up }
}

/// Gratuitous ARP in request form (RFC 5227 section 3), which every host heeds.
pub fn announcement(address: Ipv4Addr, mac: [u8; 6]) -> ArpFrame {
    request(address, address, mac, None)
}

/// A request for a next hop, as `source` from the interface with MAC `mac`.
pub fn request(target: Ipv4Addr, source: Ipv4Addr, mac: [u8; 6], unicast: Option<[u8; 6]>) -> ArpFrame {
    let packet = ArpPacket {
        operation: REQUEST,
        sender_mac: mac,
        sender_address: source,
        target_mac: [0; 6],
        target_address: target,
    };
    packet.to_frame(unicast.unwrap_or(BROADCAST), mac)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::topology::two_ports;

    const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 77];
    const CONNECTED_VIP: &str = "192.0.2.10";
    const FAR_VIP: &str = "198.51.100.10";
    const LOCAL: &str = "10.100.0.200";

    fn own_addresses() -> OwnAddresses {
        let mut own = OwnAddresses::default();
        let vips = [CONNECTED_VIP, FAR_VIP].map(|text| text.parse().unwrap());
        own.set(HashSet::from(vips), HashSet::from([LOCAL.parse().unwrap()]), Duration::ZERO);
        own
    }

    fn packet(operation: u16, sender: &str, target: &str) -> ArpPacket {
        ArpPacket {
            operation,
            sender_mac: HOST_MAC,
            sender_address: sender.parse().unwrap(),
            target_mac: [0; 6],
            target_address: target.parse().unwrap(),
        }
    }

    fn reaction(own: &mut OwnAddresses, interface: usize, packet: &ArpPacket) -> Reaction {
        let topology = two_ports();
        react(own, &topology, &topology.interfaces[interface], packet, Duration::ZERO)
    }

    #[test]
    fn request_is_answered_on_the_right_interfaces_only() {
        let mut own = own_addresses();
        for (target, interfaces) in [
            (CONNECTED_VIP, [false, false, true]),
            (FAR_VIP, [true, true, true]),
            (LOCAL, [false, true, false]),
            ("10.0.0.1", [true, false, false]),
            ("10.100.0.1", [false, true, false]),
            ("192.0.2.1", [false, false, true]),
            ("192.0.2.11", [false, false, false]),
        ] {
            for (interface, is_answered) in interfaces.into_iter().enumerate() {
                for sender in ["192.0.2.7", "0.0.0.0"] {
                    let reaction = reaction(&mut own, interface, &packet(REQUEST, sender, target));
                    let place = format!("{target} from {sender} on interface {interface}");
                    assert_eq!(reaction.reply.is_some(), is_answered, "{place}");
                    let own_mac = two_ports().interfaces[interface].mac;
                    let Some(reply) = reaction.reply else { continue };
                    assert_eq!(reply[..12], [HOST_MAC, own_mac].concat());
                    let reply = ArpPacket::parse(&reply).unwrap();
                    assert_eq!(
                        (reply.operation, reply.sender_mac, reply.target_mac),
                        (REPLY, own_mac, HOST_MAC)
                    );
                    assert_eq!(reply.sender_address.to_string(), target);
                    assert_eq!(reply.target_address.to_string(), sender);
                }
            }
        }
    }

    #[test]
    fn gratuitous_replies_own_and_group_senders_are_never_answered() {
        let mut own = own_addresses();
        let looped = ArpPacket { sender_mac: [2, 0, 0, 0, 1, 0], ..packet(REQUEST, "192.0.2.7", FAR_VIP) };
        let group = ArpPacket { sender_mac: [0xff; 6], ..looped };
        let zero = ArpPacket { sender_mac: [0; 6], ..looped };
        let gratuitous = packet(REQUEST, FAR_VIP, FAR_VIP);
        let reply = packet(REPLY, "192.0.2.7", FAR_VIP);
        for packet in [looped, group, zero, gratuitous, reply] {
            assert_eq!(reaction(&mut own, 2, &packet).reply, None, "{packet:?}");
        }
    }

    #[test]
    fn claim_of_an_own_address_is_one_always_and_news_once() {
        let mut own = own_addresses();
        let claim = packet(REPLY, CONNECTED_VIP, "192.0.2.7");
        let mut seen = |interface, packet: &ArpPacket| {
            let Reaction { is_claim, new_conflict, .. } = reaction(&mut own, interface, packet);
            (is_claim, new_conflict.is_some())
        };
        assert_eq!(seen(2, &claim), (true, true));
        assert_eq!(seen(2, &claim), (true, false));
        assert_eq!(seen(0, &claim), (false, false), "the VIP is not on interface 0");
        assert_eq!(seen(2, &packet(REQUEST, "192.0.2.1", "192.0.2.1")), (true, true));
        assert_eq!(seen(1, &packet(REPLY, LOCAL, "10.100.0.7")), (true, true));
        let looped = ArpPacket { sender_mac: [2, 0, 0, 0, 1, 1], ..claim };
        assert_eq!(seen(2, &looped), (false, false));
    }

    #[test]
    fn former_local_address_is_answered_until_somebody_takes_it() {
        let mut own = own_addresses();
        own.set(HashSet::from([FAR_VIP.parse().unwrap()]), HashSet::new(), Duration::ZERO);
        let mut seen = |interface, packet: &ArpPacket| {
            let Reaction { reply, is_claim, is_given_up, .. } = reaction(&mut own, interface, packet);
            assert!(!is_claim, "{packet:?}");
            (reply.is_some(), is_given_up)
        };
        let question = packet(REQUEST, "10.100.0.7", LOCAL);
        assert_eq!(seen(1, &question), (true, false));
        assert_eq!(seen(0, &question), (false, false), "of interface 1");
        assert_eq!(seen(1, &packet(REQUEST, "0.0.0.0", LOCAL)), (false, false), "who is about to take it");
        assert_eq!(
            seen(1, &packet(REQUEST, "10.100.0.7", CONNECTED_VIP)),
            (false, false),
            "was no local one"
        );
        assert_eq!(seen(0, &packet(REQUEST, LOCAL, LOCAL)), (false, false), "somewhere else");
        assert_eq!(seen(1, &packet(REQUEST, LOCAL, LOCAL)), (false, true));
        assert_eq!(seen(1, &question), (false, false));
    }

    #[test]
    fn announcement_tells_everybody_who_has_the_address() {
        let vip = FAR_VIP.parse().unwrap();
        let frame = announcement(vip, HOST_MAC);
        assert_eq!(frame[..12], [[0xff; 6], HOST_MAC].concat());
        let packet = ArpPacket::parse(&frame).unwrap();
        assert_eq!((packet.operation, packet.sender_mac, packet.target_mac), (REQUEST, HOST_MAC, [0; 6]));
        assert_eq!((packet.sender_address, packet.target_address), (vip, vip));
    }
}
