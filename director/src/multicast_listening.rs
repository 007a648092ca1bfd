//! Which groups the director listens to, and whom it tells: switches that look into multicast listener discovery (RFC 4541)
//! carry neighbour discovery to nobody else.
//!
//! Decides only; [`crate::neighbourhood`] receives and sends. The groups are the solicited-node addresses of what the director
//! answers for. A query is answered at once, for there is one director and not a crowd of hosts; but on an interface not more often
//! than once a second, nor before the last answer is sent, so that nobody makes it talk or remember.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv6Addr;
use std::time::Duration;

use dataplane::packet::mld::{self, ListenerQuery};
use dataplane::packet::ndp::solicited_node;
use dataplane::port::PortId;
use dataplane::snapshot::InterfaceId;

use crate::own_addresses::OwnAddresses;
use crate::topology::{Interface, Topology};

/// The pause after an answer.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
/// At start all is told, and once more after this time, for the first may be lost.
const AGAIN: Duration = Duration::from_secs(1);

/// Frames to be sent on an interface.
#[derive(Debug)]
struct Report {
    interface: InterfaceId,
    groups: Vec<Ipv6Addr>,
    is_v1: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct MulticastListening {
    reports: VecDeque<Report>,
    /// When interfaces are told of all groups without being asked.
    due: Vec<(Duration, InterfaceId)>,
    answered: BTreeMap<InterfaceId, Duration>,
}

impl MulticastListening {
    /// All interfaces that speak IPv6 are to be told of all.
    pub fn start(topology: &Topology) -> Self {
        let mut listening = MulticastListening::default();
        for port in &topology.ports {
            listening.link_came_up(topology, port.id, Duration::ZERO);
        }
        listening
    }

    /// The interfaces of `port` that speak IPv6 are to be told of all.
    pub fn link_came_up(&mut self, topology: &Topology, port: PortId, now: Duration) {
        let interfaces = topology.interfaces.iter();
        let interfaces = interfaces.filter(|interface| interface.port == port && interface.has_ipv6());
        for id in interfaces.map(|interface| interface.id) {
            self.due.retain(|(_, other)| *other != id);
            self.due.extend([(now, id), (now + AGAIN, id)]);
        }
    }

    /// Somebody asks on `interface`.
    pub fn take(
        &mut self,
        own: &OwnAddresses,
        topology: &Topology,
        interface: &Interface,
        query: ListenerQuery,
        now: Duration,
    ) {
        let is_soon = |last: &Duration| now.saturating_sub(*last) < ANSWER_PAUSE;
        let is_under_way = self.reports.iter().any(|report| report.interface == interface.id);
        if is_under_way || self.answered.get(&interface.id).is_some_and(is_soon) {
            return;
        }
        self.answered.insert(interface.id, now);
        self.report(own, topology, interface, query);
    }

    fn report(
        &mut self,
        own: &OwnAddresses,
        topology: &Topology,
        interface: &Interface,
        query: ListenerQuery,
    ) {
        let groups = own.ipv6_on(topology, interface).map(solicited_node);
        let groups = groups.filter(|group| query.group.is_none_or(|asked| asked == *group));
        // Addresses whose last three bytes are the same share a group.
        let groups: Vec<Ipv6Addr> = groups.collect::<BTreeSet<_>>().into_iter().collect();
        let per_frame = if query.is_v1 { 1 } else { mld::GROUPS_MAX };
        let report = |groups: &[Ipv6Addr]| Report {
            interface: interface.id,
            groups: groups.to_vec(),
            is_v1: query.is_v1,
        };
        self.reports.extend(groups.chunks(per_frame).map(report));
    }

    /// The next frame that is due, and its interface.
    pub fn next<'a>(
        &mut self,
        own: &OwnAddresses,
        topology: &'a Topology,
        now: Duration,
    ) -> Option<(&'a Interface, Vec<u8>)> {
        for (_, id) in self.due.extract_if(.., |(due, _)| *due <= now).collect::<Vec<_>>() {
            if let Some(interface) = topology.interface(id) {
                self.report(own, topology, interface, ListenerQuery { group: None, is_v1: false });
            }
        }
        let Report { interface, groups, is_v1 } = self.reports.pop_front()?;
        let interface = topology.interface(interface)?;
        let (source, mac) = (interface.link_local(), interface.mac);
        let frame = match (is_v1, groups.first()) {
            (true, Some(&group)) => mld::report_v1(group, source, mac),
            _ => mld::report(&groups, source, mac),
        };
        Some((interface, frame))
    }
}

/// The frame that tells `interface` of one more address.
pub fn report_of(address: Ipv6Addr, interface: &Interface) -> Vec<u8> {
    mld::report(&[solicited_node(address)], interface.link_local(), interface.mac)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::IpAddr;

    use super::*;
    use crate::topology::two_ports;

    const GENERAL: ListenerQuery = ListenerQuery { group: None, is_v1: false };

    fn own_addresses() -> OwnAddresses {
        let mut own = OwnAddresses::default();
        let vips =
            ["192.0.2.10", "2001:db8::10", "2001:db8:1::10"].map(|text| text.parse::<IpAddr>().unwrap());
        own.set(HashSet::from(vips), HashSet::new(), Duration::ZERO);
        own
    }

    /// Lengths and interfaces of what is sent at this time.
    fn sent(listening: &mut MulticastListening, seconds: u64) -> Vec<(u16, usize)> {
        let (topology, own, now) = (two_ports(), own_addresses(), Duration::from_secs(seconds));
        std::iter::from_fn(|| listening.next(&own, &topology, now))
            .map(|(interface, frame)| (interface.id.0, frame.len()))
            .collect()
    }

    fn ask(listening: &mut MulticastListening, query: ListenerQuery, seconds: u64) {
        let topology = two_ports();
        let interface = &topology.interfaces[2];
        listening.take(&own_addresses(), &topology, interface, query, Duration::from_secs(seconds));
    }

    #[test]
    fn every_interface_is_told_of_all_groups_twice() {
        let mut listening = MulticastListening::start(&two_ports());
        let first = sent(&mut listening, 0);
        assert!(!first.is_empty() && sent(&mut listening, 0).is_empty());
        assert_eq!(sent(&mut listening, 1), first);
        assert!(sent(&mut listening, 100).is_empty());
        listening.link_came_up(&two_ports(), PortId(1), Duration::from_secs(100));
        let again = sent(&mut listening, 100);
        assert!(again.iter().all(|(interface, _)| *interface == 2) && !again.is_empty());
        assert_eq!(sent(&mut listening, 101), again);
    }

    #[test]
    fn query_is_not_taken_before_the_answer_to_the_last_one_is_sent() {
        let mut listening = MulticastListening::default();
        for seconds in 0..100 {
            ask(&mut listening, ListenerQuery { is_v1: true, ..GENERAL }, seconds);
        }
        assert_eq!(sent(&mut listening, 100).len(), 3);
    }

    #[test]
    fn query_is_answered_once_a_second_with_the_groups_that_it_asks_for() {
        let mut listening = MulticastListening::default();
        // Two VIPs share a group; DIP and link-local address have their own.
        const REPORT: usize = 14 + 48 + 8 + 3 * 20;
        const REPORT_V1: usize = 14 + 48 + 24;
        ask(&mut listening, GENERAL, 10);
        ask(&mut listening, GENERAL, 10);
        assert_eq!(sent(&mut listening, 10), [(2, REPORT)]);
        ask(&mut listening, ListenerQuery { is_v1: true, ..GENERAL }, 11);
        assert_eq!(sent(&mut listening, 11), [(2, REPORT_V1); 3]);
        let of_a_vip = Some(solicited_node("2001:db8::10".parse().unwrap()));
        ask(&mut listening, ListenerQuery { group: of_a_vip, ..GENERAL }, 12);
        assert_eq!(sent(&mut listening, 12), [(2, REPORT - 40)]);
        ask(&mut listening, ListenerQuery { group: Some("ff02::1:ff00:99".parse().unwrap()), ..GENERAL }, 13);
        assert_eq!(sent(&mut listening, 13), []);
    }
}
