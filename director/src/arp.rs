//! ARP for the director's own addresses: who is answered what, when a VIP is announced, and who else claims one.
//!
//! Decides and counts only; [`crate::control`] receives and sends. A VIP in a connected network is answered on that
//! port alone, a VIP in none on every port, a DIP on its own port.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use ctl::mac::MacAddress;
use dataplane::packet::arp::{ArpPacket, REPLY, REQUEST};
use dataplane::packet::ethernet::BROADCAST;
use dataplane::port::PortId;

use crate::topology::{PortFacts, Topology};

/// A VIP is announced when it is added and once more after this time, for the first may be lost.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
/// How long a conflict is shown after it was last seen.
const CONFLICT_SHOWN: Duration = Duration::from_secs(300);

/// An ARP frame, ready to be sent.
pub type ArpFrame = [u8; 60];

/// What the control thread did with ARP and ping since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArpCounters {
    /// Requests for real servers.
    pub requests_sent: u64,
    /// Answers for VIPs and DIPs.
    pub replies_sent: u64,
    /// Gratuitous ARP for VIPs.
    pub announcements_sent: u64,
    /// ARP packets in which somebody else claims a VIP or DIP.
    pub conflicts: u64,
    /// Changes of a real server's MAC.
    pub mac_changes: u64,
    /// Answers to ping.
    pub echo_replies_sent: u64,
    /// Frames made for sending that found no buffer or a full queue.
    pub not_sent: u64,
    /// Frames from the workers: ARP.
    pub punted_arp: u64,
    /// Frames from the workers: everything else.
    pub punted_icmp: u64,
}

/// Somebody else claims an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The VIP or DIP.
    pub address: Ipv4Addr,
    /// Who.
    pub mac: MacAddress,
    /// Where.
    pub port: PortId,
    /// When last.
    pub seen: Duration,
}

/// What an ARP packet means to the director's own addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// The answer to send on the port that the packet came in on.
    pub reply: Option<ArpFrame>,
    /// A claim, where the last one of this address was made by somebody else or is no longer shown.
    pub new_conflict: Option<Conflict>,
}

/// Addresses to answer for, announcements to make, conflicts to show.
#[derive(Debug, Default)]
pub struct ArpResponder {
    vips: HashSet<Ipv4Addr>,
    announcements: VecDeque<(Duration, Ipv4Addr)>,
    repeats: VecDeque<(Duration, Ipv4Addr)>,
    /// At most one an address of ours, so bounded by the configuration.
    conflicts: BTreeMap<Ipv4Addr, Conflict>,
    /// Since start.
    pub counters: ArpCounters,
}

impl ArpResponder {
    /// The VIPs that are configured now; new ones are announced.
    pub fn set_vips(&mut self, vips: HashSet<Ipv4Addr>, now: Duration) {
        let mut new: Vec<_> = vips.difference(&self.vips).copied().collect();
        new.sort_unstable();
        self.announcements.extend(new.into_iter().map(|vip| (now, vip)));
        let gone: Vec<_> = self.vips.difference(&vips).copied().collect();
        for vip in gone {
            self.conflicts.remove(&vip);
        }
        self.vips = vips;
    }

    /// The director answers for `address` on `port`.
    pub fn answers(&self, topology: &Topology, port: PortId, address: Ipv4Addr) -> bool {
        topology.port_of_dip(address) == Some(port)
            || self.vips.contains(&address) && topology.ports_of_vip(address).any(|facts| facts.id == port)
    }

    /// Looks at an ARP packet that came in on `port`.
    pub fn react(
        &mut self,
        topology: &Topology,
        port: PortId,
        packet: &ArpPacket,
        now: Duration,
    ) -> Reaction {
        let is_unicast = packet.sender_mac[0] & 1 == 0 && packet.sender_mac != [0; 6];
        let Some(facts) = topology.ports.get(port.index()) else { return Reaction::default() };
        if !is_unicast || topology.is_own_mac(packet.sender_mac) {
            return Reaction::default();
        }
        let is_gratuitous = packet.sender_address == packet.target_address;
        let is_question = packet.operation == REQUEST && !is_gratuitous;
        let reply = (is_question && self.answers(topology, port, packet.target_address)).then(|| {
            let reply = ArpPacket {
                operation: REPLY,
                sender_mac: facts.mac,
                sender_address: packet.target_address,
                target_mac: packet.sender_mac,
                target_address: packet.sender_address,
            };
            reply.to_frame(packet.sender_mac, facts.mac)
        });
        let new_conflict = match self.answers(topology, port, packet.sender_address) {
            true => self.claim(port, packet, now),
            false => None,
        };
        Reaction { reply, new_conflict }
    }

    fn claim(&mut self, port: PortId, packet: &ArpPacket, now: Duration) -> Option<Conflict> {
        self.counters.conflicts += 1;
        let address = packet.sender_address;
        let conflict = Conflict { address, mac: MacAddress(packet.sender_mac), port, seen: now };
        let before = self.conflicts.insert(address, conflict);
        let is_known = before.is_some_and(|before| before.mac == conflict.mac && is_shown(&before, now));
        (!is_known).then_some(conflict)
    }

    /// Conflicts seen lately.
    pub fn conflicts(&self, now: Duration) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values().filter(move |conflict| is_shown(conflict, now))
    }

    /// Hands at most `limit` announcements that are due to `send`, each with its port; one that `send` refuses is
    /// tried again at the next poll.
    pub fn poll_announcements(
        &mut self,
        topology: &Topology,
        now: Duration,
        limit: usize,
        mut send: impl FnMut(&PortFacts, ArpFrame) -> bool,
    ) {
        for _ in 0..limit {
            let (vip, is_first) = match (self.announcements.front(), self.repeats.front()) {
                (Some(&(_, vip)), _) => (vip, true),
                (None, Some(&(due, vip))) if due <= now => (vip, false),
                _ => return,
            };
            let is_sent = !self.vips.contains(&vip)
                || topology.ports_of_vip(vip).all(|port| send(port, announcement(vip, port.mac)));
            if !is_sent {
                return;
            }
            if is_first {
                self.announcements.pop_front();
                self.repeats.push_back((now + ANNOUNCE_AGAIN, vip));
            } else {
                self.repeats.pop_front();
            }
        }
    }
}

fn is_shown(conflict: &Conflict, now: Duration) -> bool {
    now.saturating_sub(conflict.seen) < CONFLICT_SHOWN
}

/// Gratuitous ARP in request form (RFC 5227 section 3), which every host heeds.
fn announcement(vip: Ipv4Addr, mac: [u8; 6]) -> ArpFrame {
    let packet = ArpPacket {
        operation: REQUEST,
        sender_mac: mac,
        sender_address: vip,
        target_mac: [0; 6],
        target_address: vip,
    };
    packet.to_frame(BROADCAST, mac)
}

/// A request for a real server, as DIP `dip` from the port with MAC `mac`.
pub fn request(target: Ipv4Addr, dip: Ipv4Addr, mac: [u8; 6], unicast: Option<[u8; 6]>) -> ArpFrame {
    let packet = ArpPacket {
        operation: REQUEST,
        sender_mac: mac,
        sender_address: dip,
        target_mac: [0; 6],
        target_address: target,
    };
    packet.to_frame(unicast.unwrap_or(BROADCAST), mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::two_ports;

    const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 77];
    const CONNECTED_VIP: &str = "192.0.2.10";
    const FAR_VIP: &str = "198.51.100.10";

    fn responder() -> ArpResponder {
        let mut responder = ArpResponder::default();
        let vips = [CONNECTED_VIP, FAR_VIP].map(|text| text.parse().unwrap());
        responder.set_vips(HashSet::from(vips), Duration::ZERO);
        responder
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

    fn react(responder: &mut ArpResponder, port: u8, packet: &ArpPacket) -> Reaction {
        responder.react(&two_ports(), PortId(port), packet, Duration::ZERO)
    }

    #[test]
    fn request_is_answered_on_the_right_ports_only() {
        let mut responder = responder();
        for (target, ports) in [
            (CONNECTED_VIP, [false, true]),
            (FAR_VIP, [true, true]),
            ("10.0.0.1", [true, false]),
            ("192.0.2.1", [false, true]),
            ("192.0.2.11", [false, false]),
        ] {
            for (port, is_answered) in ports.into_iter().enumerate() {
                for sender in ["192.0.2.7", "0.0.0.0"] {
                    let reaction = react(&mut responder, port as u8, &packet(REQUEST, sender, target));
                    assert_eq!(
                        reaction.reply.is_some(),
                        is_answered,
                        "{target} from {sender} on port {port}"
                    );
                    let own_mac = [2, 0, 0, 0, 1, port as u8];
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
        let mut responder = responder();
        let own = ArpPacket { sender_mac: [2, 0, 0, 0, 1, 0], ..packet(REQUEST, "192.0.2.7", FAR_VIP) };
        let group = ArpPacket { sender_mac: [0xff; 6], ..own };
        let zero = ArpPacket { sender_mac: [0; 6], ..own };
        let gratuitous = packet(REQUEST, FAR_VIP, FAR_VIP);
        let reply = packet(REPLY, "192.0.2.7", FAR_VIP);
        for packet in [own, group, zero, gratuitous, reply] {
            assert_eq!(react(&mut responder, 1, &packet).reply, None, "{packet:?}");
        }
    }

    #[test]
    fn claim_of_an_own_address_is_counted_always_and_reported_once() {
        let mut responder = responder();
        let claim = packet(REPLY, CONNECTED_VIP, "192.0.2.7");
        assert!(react(&mut responder, 1, &claim).new_conflict.is_some());
        assert!(react(&mut responder, 1, &claim).new_conflict.is_none());
        assert!(react(&mut responder, 0, &claim).new_conflict.is_none(), "the VIP is not on port 0");
        assert!(react(&mut responder, 1, &packet(REQUEST, "192.0.2.1", "192.0.2.1")).new_conflict.is_some());
        let looped = ArpPacket { sender_mac: [2, 0, 0, 0, 1, 1], ..claim };
        assert!(react(&mut responder, 1, &looped).new_conflict.is_none());
        assert_eq!(responder.counters.conflicts, 3);
        assert_eq!(responder.conflicts(Duration::from_secs(299)).count(), 2);
        assert_eq!(responder.conflicts(Duration::from_secs(300)).count(), 0);
    }

    fn announced(responder: &mut ArpResponder, now: u64, accepts: bool) -> Vec<(u8, Ipv4Addr)> {
        let mut sent = Vec::new();
        responder.poll_announcements(&two_ports(), Duration::from_millis(now), 100, |port, frame| {
            assert_eq!(frame[..12], [[0xff; 6], port.mac].concat());
            let packet = ArpPacket::parse(&frame).unwrap();
            assert_eq!((packet.operation, packet.sender_mac), (REQUEST, port.mac));
            assert_eq!(packet.sender_address, packet.target_address);
            sent.push((port.id.0, packet.sender_address));
            accepts
        });
        sent
    }

    #[test]
    fn new_vip_is_announced_now_and_after_a_second_where_it_is_answered() {
        let mut responder = responder();
        let (connected, far) = (CONNECTED_VIP.parse().unwrap(), FAR_VIP.parse().unwrap());
        let all = [(1, connected), (0, far), (1, far)];
        assert_eq!(announced(&mut responder, 0, false).len(), 1, "refused, to be tried again");
        assert_eq!(announced(&mut responder, 1, true), all);
        assert_eq!(announced(&mut responder, 1000, true), []);
        responder.set_vips(HashSet::from([connected, far]), Duration::from_millis(500));
        assert_eq!(announced(&mut responder, 1001, true), all);
        assert_eq!(announced(&mut responder, 99_000, true), []);
        responder.set_vips(HashSet::from([far]), Duration::from_secs(100));
        responder.set_vips(HashSet::from([far, connected]), Duration::from_secs(101));
        assert_eq!(announced(&mut responder, 101_000, true), [(1, connected)]);
    }
}
