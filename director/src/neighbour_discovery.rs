//! Neighbour discovery for the director's own addresses (RFC 4861), safe for others' duplicate address detection
//! (RFC 4862).
//!
//! Pure: packets in, frames out. Frames are untagged; who sends them adds the interface's VLAN tag.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dataplane::packet::ndp::{self, NeighbourKind, NeighbourMessage};

use crate::own_addresses::{OwnAddresses, Reaction};
use crate::topology::{Interface, Topology};

/// Looks at a packet that came in on `interface`.
///
/// A solicitation for an address of ours is answered; from nobody yet (`::`) it is somebody who is about to take that
/// address, and learns from the answer that it is taken.
pub fn react(
    own: &mut OwnAddresses,
    topology: &Topology,
    interface: &Interface,
    message: &NeighbourMessage,
    now: Duration,
) -> Reaction {
    if topology.is_own_mac(message.source_mac) {
        return Reaction::default();
    }
    let is_question = message.kind == NeighbourKind::Solicitation;
    let is_ours = |address: Ipv6Addr| own.answers(topology, interface.id, IpAddr::V6(address));
    let still_answers =
        |address: Ipv6Addr| !message.is_probe() && own.still_answers(topology, interface.id, address.into());
    let is_answered = is_question && (is_ours(message.target) || still_answers(message.target));
    let reply = is_answered.then(|| message.answer(interface.mac).to_vec());
    let claimed = claimed(message);
    let is_claim = is_ours(claimed);
    let is_given_up = own.give_up(topology, interface.id, claimed.into());
    let claim = || own.claim(interface.id, claimed.into(), message.source_mac, now);
    Reaction { reply, is_claim, new_conflict: is_claim.then(claim).flatten(), is_given_up }
}

/// The address that the sender says it has, or is about to have.
pub fn claimed(message: &NeighbourMessage) -> Ipv6Addr {
    match message.kind {
        NeighbourKind::Solicitation if !message.is_probe() => message.source,
        _ => message.target,
    }
}

/// A request for a next hop, as `source` from the interface with MAC `mac`.
pub fn request(target: Ipv6Addr, source: Ipv6Addr, mac: [u8; 6], unicast: Option<[u8; 6]>) -> Vec<u8> {
    match unicast {
        None => ndp::solicitation(target, source, mac).to_vec(),
        Some(target_mac) => ndp::unicast_solicitation(target, target_mac, source, mac).to_vec(),
    }
}

/// What tells everybody that `address` is here.
pub fn announcement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    ndp::unsolicited_advertisement(address, mac).to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::topology::two_ports;

    const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 77];
    const HOST: &str = "2001:db8::7";
    const CONNECTED_VIP: &str = "2001:db8::10";
    const FAR_VIP: &str = "2001:db8:1::10";
    const LOCAL: &str = "2001:db8:100::200";

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn own_addresses() -> OwnAddresses {
        let mut own = OwnAddresses::default();
        let vips = [CONNECTED_VIP, FAR_VIP].map(|text| address(text).into());
        own.set(HashSet::from(vips), HashSet::from([address(LOCAL).into()]), Duration::ZERO);
        own
    }

    fn reaction(own: &mut OwnAddresses, interface: usize, frame: &[u8]) -> Reaction {
        let (topology, message) = (two_ports(), NeighbourMessage::parse(frame).unwrap());
        react(own, &topology, &topology.interfaces[interface], &message, Duration::ZERO)
    }

    #[test]
    fn solicitation_is_answered_on_the_right_interfaces_only() {
        let mut own = own_addresses();
        for (target, interfaces) in [
            (CONNECTED_VIP, [false, false, true]),
            (FAR_VIP, [true, true, true]),
            (LOCAL, [false, true, false]),
            ("2001:db8:100::1", [false, true, false]),
            ("2001:db8::1", [false, false, true]),
            ("fe80::ff:fe00:100", [true, true, false]),
            ("2001:db8::11", [false, false, false]),
        ] {
            for (interface, is_answered) in interfaces.into_iter().enumerate() {
                for source in [HOST, "fe80::7"] {
                    let question = ndp::solicitation(address(target), address(source), HOST_MAC);
                    let reaction = reaction(&mut own, interface, &question);
                    let place = format!("{target} from {source} on interface {interface}");
                    assert_eq!(reaction.reply.is_some(), is_answered, "{place}");
                    assert!(!reaction.is_claim, "{place}");
                    let Some(reply) = reaction.reply else { continue };
                    let own_mac = two_ports().interfaces[interface].mac;
                    assert_eq!(reply[..12], [HOST_MAC, own_mac].concat());
                    let reply = NeighbourMessage::parse(&reply).unwrap();
                    assert_eq!((reply.source, reply.target), (address(target), address(target)));
                    assert_eq!((reply.destination, reply.link_address), (address(source), Some(own_mac)));
                    let kind = NeighbourKind::Advertisement {
                        is_router: false,
                        is_solicited: true,
                        overrides: true,
                    };
                    assert_eq!(reply.kind, kind);
                }
            }
        }
    }

    #[test]
    fn who_is_about_to_take_our_address_is_told_and_shown() {
        let mut own = own_addresses();
        let probe = ndp::duplicate_address_probe(address(CONNECTED_VIP), HOST_MAC);
        let Reaction { reply, is_claim, new_conflict, .. } = reaction(&mut own, 2, &probe);
        let reply = NeighbourMessage::parse(&reply.unwrap()).unwrap();
        assert_eq!((reply.destination, reply.target), (ndp::ALL_NODES, address(CONNECTED_VIP)));
        assert!(matches!(reply.kind, NeighbourKind::Advertisement { is_solicited: false, .. }));
        assert!(is_claim && new_conflict.is_some());
        let other = ndp::duplicate_address_probe(address("2001:db8::99"), HOST_MAC);
        assert_eq!(reaction(&mut own, 2, &other), Reaction::default());
    }

    #[test]
    fn claim_is_an_advertisement_of_our_address_or_a_solicitation_from_it() {
        let mut own = own_addresses();
        let advertised = ndp::unsolicited_advertisement(address(CONNECTED_VIP), HOST_MAC);
        let asked = ndp::solicitation(address(HOST), address(CONNECTED_VIP), HOST_MAC);
        for (frame, interface, is_claim, is_news) in [
            (&advertised, 2, true, true),
            (&advertised, 2, true, false),
            (&asked, 2, true, false),
            (&advertised, 0, false, false),
        ] {
            let reaction = reaction(&mut own, interface, frame);
            assert_eq!(reaction.reply, None);
            assert_eq!((reaction.is_claim, reaction.new_conflict.is_some()), (is_claim, is_news));
        }
    }

    #[test]
    fn former_local_address_is_answered_until_somebody_takes_it() {
        let mut own = own_addresses();
        own.set(HashSet::new(), HashSet::new(), Duration::ZERO);
        let question = ndp::solicitation(address(LOCAL), address("2001:db8:100::7"), HOST_MAC);
        let probe = ndp::duplicate_address_probe(address(LOCAL), HOST_MAC);
        let reacted = reaction(&mut own, 1, &question);
        assert!(reacted.reply.is_some() && !reacted.is_given_up);
        let reacted = reaction(&mut own, 1, &probe);
        assert_eq!(reacted, Reaction { is_given_up: true, ..Reaction::default() });
        assert_eq!(reaction(&mut own, 1, &question), Reaction::default());
    }

    #[test]
    fn own_packets_that_come_back_are_nothing() {
        let (mut own, mac) = (own_addresses(), two_ports().interfaces[2].mac);
        for frame in [
            ndp::unsolicited_advertisement(address(CONNECTED_VIP), mac).to_vec(),
            ndp::solicitation(address("2001:db8::1"), address(CONNECTED_VIP), mac).to_vec(),
            ndp::duplicate_address_probe(address("2001:db8::1"), mac).to_vec(),
        ] {
            assert_eq!(reaction(&mut own, 2, &frame), Reaction::default());
        }
    }
}
