//! The addresses that the director answers for by ARP and neighbour discovery: where each is answered, when it is
//! announced, and who else claims it.
//!
//! Decides and counts only; [`crate::control`] receives and sends. A VIP in a connected network is answered on that
//! interface alone, a VIP in none on every interface; a DIP or an address of full NAT's pool on its own interface; the
//! link-local address of an interface there. An address that left the pool may have connections still: it is answered as
//! before, but nobody who is about to take it is told that it is taken, and it is given up to who takes it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ctl::mac::MacAddress;
use dataplane::port::PortId;
use dataplane::snapshot::InterfaceId;

use crate::topology::{Interface, Topology};

/// An address is announced when it is added or a port's link comes up, and again so long after each time before: the first
/// may be lost, and a switch may take seconds until it forwards (keepalived's `vrrp_garp_master_delay`: 5 s).
const ANNOUNCE_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// How long a conflict is shown after it was last seen.
const CONFLICT_SHOWN: Duration = Duration::from_secs(300);

/// Somebody else claims an address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The VIP, DIP or local address.
    pub address: IpAddr,
    /// Who.
    pub mac: MacAddress,
    /// Where.
    pub interface: InterfaceId,
    /// When last.
    pub seen: Duration,
}

/// What a packet means to the director's own addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// The answer to send on the interface that the packet came in on, untagged.
    pub reply: Option<Vec<u8>>,
    /// Somebody else claims an address of ours.
    pub is_claim: bool,
    /// The claim, where it is news.
    pub new_conflict: Option<Conflict>,
    /// Somebody else has taken an address that was in the pool: it is the director's no more.
    pub is_given_up: bool,
}

/// An announcement to be made.
#[derive(Clone, Copy, Debug)]
struct Announcement {
    due: Duration,
    address: IpAddr,
    /// On the address's interfaces of this port; none: on all.
    port: Option<PortId>,
    /// Made on so many of them.
    made: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct OwnAddresses {
    vips: HashSet<IpAddr>,
    /// The pool of full NAT.
    local: HashSet<IpAddr>,
    /// Those that were in the pool.
    former: HashSet<IpAddr>,
    /// By how often each was made, and within that by when it is due.
    announcements: [VecDeque<Announcement>; ANNOUNCE_AGAIN.len() + 1],
    /// At most one an address of ours, so bounded by the configuration.
    conflicts: BTreeMap<(IpAddr, InterfaceId), Conflict>,
}

impl OwnAddresses {
    /// The VIPs and local addresses that are configured now; new ones are announced.
    pub fn set(&mut self, vips: HashSet<IpAddr>, local: HashSet<IpAddr>, now: Duration) {
        let has = |address: &IpAddr| self.vips.contains(address) || self.local.contains(address);
        let mut new: Vec<_> = vips.union(&local).filter(|address| !has(address)).copied().collect();
        new.sort_unstable();
        let is_gone = |address: &IpAddr| has(address) && !vips.contains(address) && !local.contains(address);
        self.conflicts.retain(|(address, _), _| !is_gone(address));
        self.former.extend(self.local.iter());
        self.former.retain(|address| !vips.contains(address) && !local.contains(address));
        (self.vips, self.local) = (vips, local);
        self.announce(new, None, now);
    }

    fn announce(&mut self, addresses: Vec<IpAddr>, port: Option<PortId>, now: Duration) {
        let announcement = |address| Announcement { due: now, address, port, made: 0 };
        self.announcements[0].extend(addresses.into_iter().map(announcement));
    }

    /// The link of `port` came up: who is behind it now may never have heard of the addresses that are announced there.
    pub fn announce_on(&mut self, topology: &Topology, port: PortId, now: Duration) {
        // Those of the last time are stale, and a link that comes and goes must not let them grow.
        self.announcements.iter_mut().for_each(|queue| queue.retain(|one| one.port != Some(port)));
        let is_there = |address: &&IpAddr| {
            topology.interfaces_of_vip(**address).iter().any(|interface| interface.port == port)
        };
        let mut addresses: Vec<_> = self.vips.union(&self.local).filter(is_there).copied().collect();
        addresses.sort_unstable();
        self.announce(addresses, Some(port), now);
    }

    /// Addresses that were in the pool and are nobody else's yet.
    pub fn former(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.former.iter().copied()
    }

    /// `address` was in the pool, and is answered on `interface` for the sake of its connections.
    pub fn still_answers(&self, topology: &Topology, interface: InterfaceId, address: IpAddr) -> bool {
        self.former.contains(&address)
            && topology.interfaces_of_vip(address).iter().any(|one| one.id == interface)
    }

    /// Somebody else uses `address` on `interface`: it is given up where it was in the pool.
    pub fn give_up(&mut self, topology: &Topology, interface: InterfaceId, address: IpAddr) -> bool {
        self.still_answers(topology, interface, address) && self.former.remove(&address)
    }

    /// The director answers for `address` on `interface`.
    pub fn answers(&self, topology: &Topology, interface: InterfaceId, address: IpAddr) -> bool {
        topology.is_dip_of(interface, address)
            || topology.is_link_local_of(interface, address)
            || self.interfaces(topology, address).iter().any(|one| one.id == interface)
    }

    /// Every address of IPv6 that the director answers for on `interface`.
    pub fn ipv6_on<'a>(
        &'a self,
        topology: &'a Topology,
        interface: &'a Interface,
    ) -> impl Iterator<Item = Ipv6Addr> + 'a {
        let own = interface.addresses.iter().map(|dip| dip.addr());
        let others = self.vips.iter().chain(&self.local).chain(&self.former).copied();
        let others = others
            .filter(|&address| topology.interfaces_of_vip(address).iter().any(|one| one.id == interface.id));
        let is_ipv6 = |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        };
        own.chain(others).filter_map(is_ipv6).chain([interface.link_local()])
    }

    /// Where a VIP or local address is answered and announced.
    fn interfaces<'a>(&self, topology: &'a Topology, address: IpAddr) -> &'a [Interface] {
        let is_ours = self.vips.contains(&address) || self.local.contains(&address);
        if is_ours { topology.interfaces_of_vip(address) } else { &[] }
    }

    /// Somebody else, `mac`, uses `address`, which the director answers for on `interface`: a conflict, unless the last
    /// one of this address was made by the same host and is still shown.
    pub fn claim(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        mac: [u8; 6],
        now: Duration,
    ) -> Option<Conflict> {
        let conflict = Conflict { address, mac: MacAddress(mac), interface, seen: now };
        let before = self.conflicts.insert((address, interface), conflict);
        let is_known = before.is_some_and(|before| before.mac == conflict.mac && is_shown(&before, now));
        (!is_known).then_some(conflict)
    }

    /// Conflicts seen lately.
    pub fn conflicts(&self, now: Duration) -> impl Iterator<Item = &Conflict> {
        self.conflicts.values().filter(move |conflict| is_shown(conflict, now))
    }

    /// Hands at most `limit` announcements that are due to `send`, each with its interface; one that `send` refuses is
    /// tried again at the next poll.
    pub fn poll_announcements(
        &mut self,
        topology: &Topology,
        now: Duration,
        limit: usize,
        mut send: impl FnMut(&Interface, IpAddr) -> bool,
    ) {
        let mut left = limit;
        while left > 0 {
            let is_due = |queue: &VecDeque<Announcement>| queue.front().is_some_and(|next| next.due <= now);
            let Some(round) = self.announcements.iter().position(is_due) else { return };
            let Some(mut next) = self.announcements[round].pop_front() else { return };
            let is_meant = |one: &&Interface| next.port.is_none_or(|port| one.port == port);
            let interfaces = self.interfaces(topology, next.address).iter().filter(is_meant);
            let mut waiting = interfaces.skip(next.made).peekable();
            let mut is_refused = false;
            while let Some(interface) = waiting.peek().filter(|_| left > 0 && !is_refused) {
                is_refused = !send(interface, next.address);
                if !is_refused {
                    waiting.next();
                    (next.made, left) = (next.made + 1, left - 1);
                }
            }
            if waiting.peek().is_some() {
                self.announcements[round].push_front(next);
            } else if let Some(pause) = ANNOUNCE_AGAIN.get(round) {
                self.announcements[round + 1].push_back(Announcement { due: now + *pause, made: 0, ..next });
            }
            if is_refused {
                return;
            }
        }
    }
}

fn is_shown(conflict: &Conflict, now: Duration) -> bool {
    now.saturating_sub(conflict.seen) < CONFLICT_SHOWN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::two_ports;

    const CONNECTED: &str = "192.0.2.10";
    const FAR: &str = "198.51.100.10";
    const CONNECTED_6: &str = "2001:db8::10";
    const LOCAL: &str = "10.100.0.200";
    const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 77];

    fn set(texts: &[&str]) -> HashSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses() -> OwnAddresses {
        let mut addresses = OwnAddresses::default();
        addresses.set(set(&[CONNECTED, FAR, CONNECTED_6]), set(&[LOCAL]), Duration::ZERO);
        addresses
    }

    #[test]
    fn each_address_is_answered_on_its_own_interfaces_only() {
        let (topology, addresses) = (two_ports(), addresses());
        for (address, interfaces) in [
            (CONNECTED, [false, false, true]),
            (FAR, [true, true, true]),
            (CONNECTED_6, [false, false, true]),
            (LOCAL, [false, true, false]),
            ("10.0.0.1", [true, false, false]),
            ("10.100.0.1", [false, true, false]),
            ("2001:db8::1", [false, false, true]),
            ("fe80::ff:fe00:100", [true, true, false]),
            ("fe80::ff:fe00:101", [false, false, true]),
            ("192.0.2.11", [false, false, false]),
            ("2001:db8::11", [false, false, false]),
        ] {
            let answers =
                |number| addresses.answers(&topology, InterfaceId(number), address.parse().unwrap());
            assert_eq!([0, 1, 2].map(answers), interfaces, "{address}");
        }
    }

    #[test]
    fn link_local_dip_of_several_interfaces_is_answered_on_each() {
        let text = r#"
            [[ports]]
            name = "lan"
            device = "memory0"
            vlans = [
                { id = 100, addresses = ["fe80::1/64"] },
                { id = 200, addresses = ["fe80::1/64"] },
                { id = 300, addresses = ["fe80::2/64"] },
            ]
        "#;
        let config = ctl::config::Config::from_toml(text, "test").unwrap();
        let topology = crate::topology::of_config(&config);
        let answers = |address: &str| {
            let answers =
                |number| addresses().answers(&topology, InterfaceId(number), address.parse().unwrap());
            [0, 1, 2].map(answers)
        };
        assert_eq!(answers("fe80::1"), [true, true, false]);
        assert_eq!(answers("fe80::2"), [false, false, true]);
    }

    #[test]
    fn claim_is_reported_once_by_each_host_and_shown_for_a_while() {
        let mut addresses = addresses();
        let vip = CONNECTED.parse().unwrap();
        let mut claim =
            |mac, seconds| addresses.claim(InterfaceId(2), vip, mac, Duration::from_secs(seconds)).is_some();
        assert!(claim(HOST_MAC, 0));
        assert!(!claim(HOST_MAC, 299));
        assert!(claim([2; 6], 300));
        assert!(claim(HOST_MAC, 301));
        assert!(claim(HOST_MAC, 601), "it was shown no more");
        assert_eq!(addresses.conflicts(Duration::from_secs(900)).count(), 1);
        assert_eq!(addresses.conflicts(Duration::from_secs(901)).count(), 0);
        addresses.set(set(&[FAR]), set(&[]), Duration::from_secs(610));
        assert_eq!(addresses.conflicts(Duration::from_secs(610)).count(), 0, "a VIP no more");
    }

    fn announced(addresses: &mut OwnAddresses, now: u64, limit: usize, accepts: bool) -> Vec<(u16, String)> {
        let mut sent = Vec::new();
        addresses.poll_announcements(
            &two_ports(),
            Duration::from_millis(now),
            limit,
            |interface, address| {
                sent.push((interface.id.0, address.to_string()));
                accepts
            },
        );
        sent
    }

    #[test]
    fn addresses_of_a_port_whose_link_comes_up_are_announced_there_three_times() {
        let mut addresses = addresses();
        for now in [0, 1000, 5000] {
            assert_eq!(announced(&mut addresses, now, 100, true).len(), 6);
        }
        assert_eq!(announced(&mut addresses, 60_000, 100, true), []);
        let outside = [CONNECTED, FAR, CONNECTED_6].map(|address| (2, address.to_owned()));
        let up = |addresses: &mut OwnAddresses, seconds| {
            addresses.announce_on(&two_ports(), PortId(1), Duration::from_secs(seconds));
        };
        up(&mut addresses, 60);
        assert_eq!(announced(&mut addresses, 60_100, 100, true), outside);
        // Again, before the rest of the first time is due.
        up(&mut addresses, 61);
        for now in [61_000, 62_000, 66_000] {
            assert_eq!(announced(&mut addresses, now, 100, true), outside, "{now}");
            assert_eq!(announced(&mut addresses, now + 900, 100, true), []);
        }
        assert_eq!(announced(&mut addresses, 99_000, 100, true), []);
    }

    #[test]
    fn new_address_is_announced_now_after_a_second_and_after_five_where_it_is_answered() {
        let mut addresses = addresses();
        let all = [(1, LOCAL), (2, CONNECTED), (0, FAR), (1, FAR), (2, FAR), (2, CONNECTED_6)]
            .map(|(interface, address)| (interface, address.to_owned()));
        assert_eq!(announced(&mut addresses, 0, 100, false).len(), 1, "refused, to be tried again");
        assert_eq!(announced(&mut addresses, 1, 3, true), all[..3]);
        assert_eq!(announced(&mut addresses, 2, 100, true), all[3..], "no interface twice or left out");
        assert_eq!(announced(&mut addresses, 1000, 100, true), []);
        addresses.set(set(&[CONNECTED, FAR, CONNECTED_6]), set(&[LOCAL]), Duration::from_millis(500));
        assert_eq!(announced(&mut addresses, 1002, 100, true), all);
        assert_eq!(announced(&mut addresses, 5001, 100, true), []);
        assert_eq!(announced(&mut addresses, 5002, 100, true), all);
        assert_eq!(announced(&mut addresses, 99_000, 100, true), []);
        addresses.set(set(&[FAR]), set(&[]), Duration::from_secs(100));
        addresses.set(set(&[FAR, CONNECTED]), set(&[]), Duration::from_secs(101));
        assert_eq!(announced(&mut addresses, 101_000, 100, true), [(2, CONNECTED.to_owned())]);
    }

    #[test]
    fn address_that_is_gone_is_not_announced() {
        let mut addresses = addresses();
        addresses.set(set(&[CONNECTED]), set(&[]), Duration::ZERO);
        assert_eq!(announced(&mut addresses, 0, 100, true), [(2, CONNECTED.to_owned())]);
        addresses.set(set(&[]), set(&[]), Duration::ZERO);
        assert_eq!(announced(&mut addresses, 2000, 100, true), []);
    }
}
