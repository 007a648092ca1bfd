//! The MAC addresses of next hops: real servers in connected networks and gateways. A state machine over time that is
//! passed in, so that tests own the clock; ARP and neighbour discovery (RFC 4861) alike.
//!
//! | state | asks | leaves it |
//! |---|---|---|
//! | unresolved | everybody, at once, after 100 ms, after 300 ms, then every second | when heard |
//! | reachable | nothing for 30 s | then probing; at once where only a new MAC was heard |
//! | probing | three times its last MAC, three times everybody, a second apart | when confirmed; else failed |
//! | failed | everybody, every second | when heard |
//! | static | never | never: the configuration gave the MAC |
//!
//! Any ARP packet confirms its sender. In IPv6 only an answer does; what else is heard gives a MAC, which is used and
//! probed (RFC 4861's STALE). "Everybody" is the broadcast address, or the solicited-node multicast address.
//!
//! One neighbour serves all real servers that are reached through it, of all virtual services. Requests over all
//! neighbours are bounded and go to whoever has waited longest, so tens of thousands of silent ones cannot starve the
//! others.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use ctl::protocol::NeighbourState;
use dataplane::snapshot::InterfaceId;

use crate::rate::RateLimit;
use crate::topology::Route;

/// Pauses after the first requests to a neighbour that was never heard.
const FIRST_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(200)];
/// Pause between requests afterwards (RFC 4861: RETRANS_TIMER).
const PAUSE: Duration = Duration::from_secs(1);
/// How long a neighbour is confirmed (RFC 4861: REACHABLE_TIME; Linux: `base_reachable_time_ms`).
const CONFIRMED_FOR: Duration = Duration::from_secs(30);
/// Requests to the last MAC alone, then to everybody, before a neighbour counts as failed. Linux's: 3 (`ucast_solicit`,
/// `mcast_solicit`).
const UNICAST_PROBES: u32 = 3;
const PROBES: u32 = UNICAST_PROBES + 3;
/// Requests a second over all neighbours, and at once: worker 0 sends them between its bursts.
const REQUESTS_PER_SECOND: u32 = 1000;
const REQUESTS_AT_ONCE: u32 = 64;

/// What names a neighbour: IPv6 link-local addresses are unique to an interface only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    interface: InterfaceId,
    address: IpAddr,
}

/// A neighbour that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The neighbour is the next hop of this.
    pub route: Route,
    /// Its MAC, where the configuration gives it.
    pub static_mac: Option<[u8; 6]>,
}

/// What the snapshot is to do with what a neighbour leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The last MAC known: where established connections go.
    pub mac: Option<[u8; 6]>,
    /// New connections may go there.
    pub is_usable: bool,
}

/// A request to send: ARP, or a neighbour solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Out of this interface.
    pub interface: InterfaceId,
    /// As this address of the director.
    pub source: IpAddr,
    /// Asked for.
    pub target: IpAddr,
    /// Only to this MAC; to everybody where none.
    pub unicast: Option<[u8; 6]>,
}

/// A packet that tells of its sender's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Any ARP packet.
    Arp {
        /// Sender's MAC.
        mac: [u8; 6],
    },
    /// A neighbour solicitation, or whatever else carries a source link-layer address.
    Solicitation {
        /// Source link-layer address.
        mac: [u8; 6],
    },
    /// A neighbour advertisement.
    Advertisement {
        /// Target link-layer address.
        mac: Option<[u8; 6]>,
        /// Flag S: it answers.
        is_solicited: bool,
        /// Flag O: the MAC replaces another.
        is_override: bool,
    },
}

/// What a neighbour's packet taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: nobody who is asked for on that interface, or no news.
    Ignored,
    /// Its MAC is what was known; `recovered` when it had been unresolved or failed.
    Confirmed {
        /// It gets new connections again.
        recovered: bool,
    },
    /// Its MAC is now another one.
    Moved {
        /// The one before.
        from: [u8; 6],
        /// The new one.
        to: [u8; 6],
    },
}

/// One neighbour, for `dr-ctl neighbours` and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Where it is.
    pub interface: InterfaceId,
    /// State.
    pub state: NeighbourState,
    /// The last MAC known.
    pub mac: Option<[u8; 6]>,
    /// When it was last confirmed.
    pub confirmed: Option<Duration>,
    /// Requests since then.
    pub unanswered: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// As whom it is asked.
    source: IpAddr,
    state: NeighbourState,
    mac: Option<[u8; 6]>,
    confirmed: Option<Duration>,
    unanswered: u32,
    /// Its place in the queue.
    due: Option<Duration>,
}

impl Entry {
    fn is_usable(&self) -> bool {
        matches!(self.state, NeighbourState::Reachable | NeighbourState::Probing | NeighbourState::Static)
    }
}

/// All neighbours.
#[derive(Debug)]
pub struct Neighbours {
    entries: HashMap<Key, Entry>,
    /// Who is to be looked at next, longest waiting first.
    queue: BTreeSet<(Duration, Key)>,
    limit: RateLimit,
}

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours {
            entries: HashMap::new(),
            queue: BTreeSet::new(),
            limit: RateLimit::new(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE),
        }
    }
}

impl Neighbours {
    /// Keeps exactly the neighbours in `wanted`; of two that name one, the first with a static MAC counts.
    pub fn retain_wanted(&mut self, wanted: impl IntoIterator<Item = Wanted>, now: Duration) {
        let mut by_key: HashMap<Key, Wanted> = HashMap::new();
        for one in wanted {
            let known = by_key.entry(key(&one.route)).or_insert(one);
            known.static_mac = known.static_mac.or(one.static_mac);
        }
        let queue = &mut self.queue;
        self.entries.retain(|key, entry| {
            let is_wanted = by_key.contains_key(key);
            if let Some(due) = entry.due.filter(|_| !is_wanted) {
                queue.remove(&(due, *key));
            }
            is_wanted
        });
        for (key, wanted) in by_key {
            self.want(key, wanted, now);
        }
    }

    fn want(&mut self, key: Key, wanted: Wanted, now: Duration) {
        let entry = self.entries.entry(key).or_insert(Entry {
            source: wanted.route.source,
            state: NeighbourState::Unresolved,
            mac: None,
            confirmed: None,
            unanswered: 0,
            due: None,
        });
        let is_static = entry.state == NeighbourState::Static;
        match wanted.static_mac {
            Some(mac) => {
                if let Some(due) = entry.due.take() {
                    self.queue.remove(&(due, key));
                }
                entry.state = NeighbourState::Static;
                entry.mac = Some(mac);
                entry.confirmed = None;
                entry.unanswered = 0;
            }
            // It keeps the MAC that it was given until somebody answers, and everybody is asked at once.
            None if is_static => {
                entry.state = NeighbourState::Probing;
                entry.unanswered = UNICAST_PROBES;
                Self::look_again(&mut self.queue, key, entry, now);
            }
            None if entry.due.is_none() => Self::look_again(&mut self.queue, key, entry, now),
            None => {}
        }
    }

    fn look_again(queue: &mut BTreeSet<(Duration, Key)>, key: Key, entry: &mut Entry, at: Duration) {
        if let Some(due) = entry.due.replace(at) {
            queue.remove(&(due, key));
        }
        queue.insert((at, key));
    }

    /// A packet from or of `address` came in on `interface`.
    pub fn hear(
        &mut self,
        interface: InterfaceId,
        address: IpAddr,
        evidence: Evidence,
        now: Duration,
    ) -> Heard {
        let key = Key { interface, address };
        let known = self.entries.get_mut(&key).filter(|entry| entry.state != NeighbourState::Static);
        let Some(entry) = known else { return Heard::Ignored };
        match evidence {
            Evidence::Arp { mac } if is_unicast(mac) => Self::confirm(entry, mac, now),
            Evidence::Solicitation { mac } if is_unicast(mac) => {
                Self::suspect(&mut self.queue, key, entry, mac, now)
            }
            Evidence::Advertisement { mac, is_solicited, is_override } => {
                // RFC 4861 section 7.2.5. Who answers a unicast request may leave its MAC out.
                let Some(mac) = mac.or(entry.mac).filter(|mac| is_unicast(*mac)) else {
                    return Heard::Ignored;
                };
                let is_known = entry.mac.is_none_or(|known| known == mac);
                if !is_known && !is_override {
                    return Self::doubt(&mut self.queue, key, entry, now);
                }
                match is_solicited {
                    true => Self::confirm(entry, mac, now),
                    false => Self::suspect(&mut self.queue, key, entry, mac, now),
                }
            }
            _ => Heard::Ignored,
        }
    }

    fn confirm(entry: &mut Entry, mac: [u8; 6], now: Duration) -> Heard {
        let was_usable = entry.is_usable();
        let before = entry.mac.replace(mac);
        entry.state = NeighbourState::Reachable;
        entry.confirmed = Some(now);
        entry.unanswered = 0;
        // Its place in the queue stays: whoever is looked at too early is put back. That keeps this cheap when a
        // neighbour sends all the time.
        match before {
            Some(from) if from != mac => Heard::Moved { from, to: mac },
            _ => Heard::Confirmed { recovered: !was_usable },
        }
    }

    /// A MAC was heard, and nobody knows whether requests reach it: it is used and probed.
    fn suspect(
        queue: &mut BTreeSet<(Duration, Key)>,
        key: Key,
        entry: &mut Entry,
        mac: [u8; 6],
        now: Duration,
    ) -> Heard {
        let was_usable = entry.is_usable();
        let before = entry.mac.replace(mac);
        if before == Some(mac) && was_usable {
            return Heard::Ignored;
        }
        entry.state = NeighbourState::Probing;
        entry.unanswered = 0;
        Self::look_again(queue, key, entry, now);
        match before {
            Some(from) if from != mac => Heard::Moved { from, to: mac },
            _ => Heard::Confirmed { recovered: !was_usable },
        }
    }

    /// Somebody says another MAC and that it does not replace the one known: that one is probed.
    fn doubt(queue: &mut BTreeSet<(Duration, Key)>, key: Key, entry: &mut Entry, now: Duration) -> Heard {
        if entry.state == NeighbourState::Reachable {
            entry.state = NeighbourState::Probing;
            entry.unanswered = 0;
            Self::look_again(queue, key, entry, now);
        }
        Heard::Ignored
    }

    /// Hands the requests that are due to `send`; true when a neighbour failed, so that the snapshot has to change.
    pub fn poll(&mut self, now: Duration, mut send: impl FnMut(Request)) -> bool {
        let mut has_failure = false;
        while let Some(&(due, key)) = self.queue.first() {
            if due > now {
                break;
            }
            let Some(entry) = self.entries.get_mut(&key) else {
                self.queue.remove(&(due, key));
                continue;
            };
            let fresh_until = entry.confirmed.map(|confirmed| confirmed + CONFIRMED_FOR);
            if let Some(until) =
                fresh_until.filter(|until| entry.state == NeighbourState::Reachable && *until > now)
            {
                Self::look_again(&mut self.queue, key, entry, until);
                continue;
            }
            if !self.limit.take(now) {
                break;
            }
            has_failure |= Self::advance(entry);
            let is_unicast = entry.state == NeighbourState::Probing && entry.unanswered < UNICAST_PROBES;
            send(Request {
                interface: key.interface,
                source: entry.source,
                target: key.address,
                unicast: entry.mac.filter(|_| is_unicast),
            });
            let pause = match entry.state {
                NeighbourState::Unresolved => {
                    FIRST_PAUSES.get(entry.unanswered as usize).copied().unwrap_or(PAUSE)
                }
                _ => PAUSE,
            };
            entry.unanswered = entry.unanswered.saturating_add(1);
            Self::look_again(&mut self.queue, key, entry, now + pause);
        }
        has_failure
    }

    /// Moves a neighbour that is due on to the state that its next request belongs to; true when it failed.
    fn advance(entry: &mut Entry) -> bool {
        match entry.state {
            NeighbourState::Reachable => {
                entry.state = NeighbourState::Probing;
                entry.unanswered = 0;
                false
            }
            NeighbourState::Probing if entry.unanswered >= PROBES => {
                entry.state = NeighbourState::Failed;
                true
            }
            _ => false,
        }
    }

    /// What is known of the next hop of `route`.
    pub fn resolution(&self, route: &Route) -> Resolution {
        self.entries.get(&key(route)).map_or(Resolution::default(), |entry| Resolution {
            mac: entry.mac,
            is_usable: entry.is_usable(),
        })
    }

    /// Every neighbour, by interface and address.
    pub fn all(&self) -> Vec<Neighbour> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(key, entry)| Neighbour {
                address: key.address,
                interface: key.interface,
                state: entry.state,
                mac: entry.mac,
                confirmed: entry.confirmed,
                unanswered: entry.unanswered,
            })
            .collect();
        all.sort_unstable_by_key(|neighbour| (neighbour.interface, neighbour.address));
        all
    }
}

fn key(route: &Route) -> Key {
    Key { interface: route.interface, address: route.next_hop }
}

fn is_unicast(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const RS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));
    const DIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const HERE: InterfaceId = InterfaceId(0);
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 99];

    fn route(next_hop: IpAddr) -> Route {
        Route { interface: HERE, source: DIP, packet_source: Some(DIP), next_hop }
    }

    fn wanted(address: IpAddr, static_mac: Option<[u8; 6]>) -> Wanted {
        Wanted { route: route(address), static_mac }
    }

    fn arp(neighbours: &mut Neighbours, mac: [u8; 6], now: Duration) -> Heard {
        neighbours.hear(HERE, RS, Evidence::Arp { mac }, now)
    }

    fn one() -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.retain_wanted([wanted(RS, None)], Duration::ZERO);
        neighbours
    }

    /// Polls every 10 ms over `range` (milliseconds) and returns when requests went out, and to whom.
    fn requests(neighbours: &mut Neighbours, range: std::ops::Range<u64>) -> Vec<(u64, Option<[u8; 6]>)> {
        let mut sent = Vec::new();
        for now in range.step_by(10) {
            neighbours.poll(Duration::from_millis(now), |request| {
                assert_eq!((request.interface, request.source, request.target), (HERE, DIP, RS));
                sent.push((now, request.unicast));
            });
        }
        sent
    }

    fn state(neighbours: &Neighbours) -> NeighbourState {
        neighbours.all()[0].state
    }

    #[test]
    fn unresolved_neighbour_is_asked_fast_thrice_then_every_second() {
        let mut neighbours = one();
        let sent = requests(&mut neighbours, 0..3500);
        assert_eq!(sent, [0, 100, 300, 1300, 2300, 3300].map(|at| (at, None)));
        assert_eq!(neighbours.resolution(&route(RS)), Resolution::default());
        assert_eq!(neighbours.all()[0].unanswered, 6);
    }

    #[test]
    fn answered_neighbour_is_left_alone_then_probed_and_then_failed_but_keeps_its_mac() {
        let mut neighbours = one();
        assert_eq!(requests(&mut neighbours, 0..50).len(), 1);
        let heard = arp(&mut neighbours, MAC, Duration::from_millis(50));
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(neighbours.resolution(&route(RS)), Resolution { mac: Some(MAC), is_usable: true });
        assert_eq!(requests(&mut neighbours, 50..30_050), []);
        assert_eq!(state(&neighbours), NeighbourState::Reachable);
        let sent = requests(&mut neighbours, 30_050..36_050);
        let to = [Some(MAC), Some(MAC), Some(MAC), None, None, None];
        let expected: Vec<_> =
            to.into_iter().enumerate().map(|(i, to)| (30_050 + 1000 * i as u64, to)).collect();
        assert_eq!(sent, expected);
        assert_eq!(state(&neighbours), NeighbourState::Probing);
        assert!(neighbours.resolution(&route(RS)).is_usable);
        let mut failed = false;
        for now in (36_050..37_040).step_by(10) {
            failed |=
                neighbours.poll(Duration::from_millis(now), |request| assert_eq!(request.unicast, None));
        }
        assert!(failed);
        assert_eq!(state(&neighbours), NeighbourState::Failed);
        assert_eq!(neighbours.resolution(&route(RS)), Resolution { mac: Some(MAC), is_usable: false });
        assert_eq!(requests(&mut neighbours, 37_050..40_050).len(), 3, "it goes on being asked");
        let heard = arp(&mut neighbours, MAC, Duration::from_secs(41));
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(requests(&mut neighbours, 41_000..70_990), []);
    }

    #[test]
    fn moved_mac_is_reported_once_and_any_arp_confirms() {
        let mut neighbours = one();
        arp(&mut neighbours, MAC, Duration::from_secs(1));
        let heard = arp(&mut neighbours, OTHER_MAC, Duration::from_secs(2));
        assert_eq!(heard, Heard::Moved { from: MAC, to: OTHER_MAC });
        let heard = arp(&mut neighbours, OTHER_MAC, Duration::from_secs(20));
        assert_eq!(heard, Heard::Confirmed { recovered: false });
        assert_eq!(neighbours.resolution(&route(RS)).mac, Some(OTHER_MAC));
        assert_eq!(requests(&mut neighbours, 20_000..50_000), [], "confirmed at 20 s");
        assert_eq!(requests(&mut neighbours, 50_000..50_010), [(50_000, Some(OTHER_MAC))]);
    }

    #[test]
    fn foreign_multicast_and_zero_senders_teach_nothing() {
        let mut neighbours = one();
        let now = Duration::ZERO;
        let (other, heard) = (IpAddr::from([10, 0, 0, 12]), Evidence::Arp { mac: MAC });
        assert_eq!(neighbours.hear(HERE, other, heard, now), Heard::Ignored);
        assert_eq!(neighbours.hear(InterfaceId(1), RS, heard, now), Heard::Ignored, "another interface");
        for mac in [[1, 0, 0, 0, 0, 11], [0xff; 6], [0; 6]] {
            for evidence in [
                Evidence::Arp { mac },
                Evidence::Solicitation { mac },
                Evidence::Advertisement { mac: Some(mac), is_solicited: true, is_override: true },
            ] {
                assert_eq!(neighbours.hear(HERE, RS, evidence, now), Heard::Ignored, "{evidence:?}");
            }
        }
        assert_eq!(state(&neighbours), NeighbourState::Unresolved);
    }

    #[test]
    fn static_mac_is_never_asked_for_nor_changed_and_ends_in_a_broadcast_probe() {
        let mut neighbours = one();
        neighbours.retain_wanted([wanted(RS, None), wanted(RS, Some(MAC))], Duration::ZERO);
        assert_eq!(requests(&mut neighbours, 0..100_000), []);
        assert_eq!(arp(&mut neighbours, OTHER_MAC, Duration::from_secs(100)), Heard::Ignored);
        assert_eq!(neighbours.resolution(&route(RS)), Resolution { mac: Some(MAC), is_usable: true });
        neighbours.retain_wanted([wanted(RS, None)], Duration::from_secs(100));
        assert_eq!(state(&neighbours), NeighbourState::Probing);
        assert_eq!(neighbours.resolution(&route(RS)), Resolution { mac: Some(MAC), is_usable: true });
        assert_eq!(requests(&mut neighbours, 100_000..101_500), [(100_000, None), (101_000, None)]);
    }

    fn advertised(mac: Option<[u8; 6]>, is_solicited: bool, is_override: bool) -> Evidence {
        Evidence::Advertisement { mac, is_solicited, is_override }
    }

    #[test]
    fn advertisement_confirms_where_it_answers_and_is_probed_where_not() {
        let at = Duration::from_secs(1);
        let mut answered = one();
        let heard = answered.hear(HERE, RS, advertised(Some(MAC), true, false), at);
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(state(&answered), NeighbourState::Reachable);
        for evidence in [Evidence::Solicitation { mac: MAC }, advertised(Some(MAC), false, true)] {
            let mut told = one();
            assert_eq!(told.hear(HERE, RS, evidence, at), Heard::Confirmed { recovered: true });
            assert_eq!(state(&told), NeighbourState::Probing);
            assert_eq!(told.resolution(&route(RS)), Resolution { mac: Some(MAC), is_usable: true });
            assert_eq!(requests(&mut told, 1000..1010), [(1000, Some(MAC))], "{evidence:?}");
            let heard = told.hear(HERE, RS, advertised(None, true, true), at);
            assert_eq!(heard, Heard::Confirmed { recovered: false });
            assert_eq!(state(&told), NeighbourState::Reachable, "an answer to a unicast request");
            assert_eq!(told.hear(HERE, RS, evidence, at), Heard::Ignored, "no news");
            assert_eq!(state(&told), NeighbourState::Reachable);
        }
        assert_eq!(one().hear(HERE, RS, advertised(None, true, true), at), Heard::Ignored, "whose MAC?");
    }

    #[test]
    fn other_mac_replaces_the_known_one_only_where_it_says_so() {
        let at = Duration::from_secs(1);
        let mut neighbours = one();
        neighbours.hear(HERE, RS, advertised(Some(MAC), true, true), at);
        let heard = neighbours.hear(HERE, RS, advertised(Some(OTHER_MAC), true, false), at);
        assert_eq!(heard, Heard::Ignored);
        assert_eq!(neighbours.resolution(&route(RS)).mac, Some(MAC));
        assert_eq!(requests(&mut neighbours, 1000..1010), [(1000, Some(MAC))], "doubted and probed");
        let heard = neighbours.hear(HERE, RS, advertised(Some(OTHER_MAC), false, true), at);
        assert_eq!(heard, Heard::Moved { from: MAC, to: OTHER_MAC });
        assert_eq!(state(&neighbours), NeighbourState::Probing);
        assert_eq!(requests(&mut neighbours, 1010..1020), [(1010, Some(OTHER_MAC))]);
        let heard = neighbours.hear(HERE, RS, Evidence::Solicitation { mac: MAC }, at);
        assert_eq!(heard, Heard::Moved { from: OTHER_MAC, to: MAC });
    }

    #[test]
    fn failed_neighbour_that_is_heard_is_used_and_probed() {
        let mut neighbours = one();
        neighbours.hear(HERE, RS, advertised(Some(MAC), true, true), Duration::ZERO);
        requests(&mut neighbours, 30_000..40_000);
        assert_eq!(state(&neighbours), NeighbourState::Failed);
        let heard = neighbours.hear(HERE, RS, Evidence::Solicitation { mac: MAC }, Duration::from_secs(40));
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(requests(&mut neighbours, 40_000..40_010), [(40_000, Some(MAC))]);
    }

    #[test]
    fn one_address_on_two_interfaces_is_two_neighbours() {
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let source = "fe80::2".parse().unwrap();
        let on = |interface| Route { interface, source, packet_source: None, next_hop: gateway };
        let routes = [on(InterfaceId(0)), on(InterfaceId(1))];
        let mut neighbours = Neighbours::default();
        let wanted = routes.map(|route| Wanted { route, static_mac: None });
        neighbours.retain_wanted(wanted, Duration::ZERO);
        let evidence = advertised(Some(MAC), true, true);
        neighbours.hear(InterfaceId(1), gateway, evidence, Duration::ZERO);
        assert_eq!(neighbours.resolution(&routes[0]).mac, None);
        assert_eq!(neighbours.resolution(&routes[1]).mac, Some(MAC));
    }

    #[test]
    fn unwanted_neighbour_is_forgotten_and_wanted_again_starts_anew() {
        let mut neighbours = one();
        arp(&mut neighbours, MAC, Duration::ZERO);
        neighbours.retain_wanted([], Duration::ZERO);
        assert!(neighbours.all().is_empty());
        assert!(neighbours.queue.is_empty());
        assert_eq!(arp(&mut neighbours, MAC, Duration::ZERO), Heard::Ignored);
        neighbours.retain_wanted([wanted(RS, None)], Duration::from_secs(9));
        assert_eq!(requests(&mut neighbours, 9000..9050), [(9000, None)]);
    }

    #[test]
    fn silent_thousands_share_the_request_rate_round_robin() {
        let mut neighbours = Neighbours::default();
        let addresses: Vec<_> =
            (0..20_000_u32).map(|i| IpAddr::from(Ipv4Addr::from(0x0a00_0100 + i))).collect();
        neighbours.retain_wanted(addresses.iter().map(|&address| wanted(address, None)), Duration::ZERO);
        let mut asked: HashMap<IpAddr, u32> = HashMap::new();
        for now in 0..40_000 {
            let mut sent = 0;
            neighbours.poll(Duration::from_millis(now), |request| {
                *asked.entry(request.target).or_default() += 1;
                sent += 1;
            });
            assert!(sent <= REQUESTS_AT_ONCE);
        }
        let total: u32 = asked.values().sum();
        assert!((39_000..=40_064).contains(&total), "{total}");
        assert!(asked.len() == 20_000 && asked.values().all(|&count| (1..=3).contains(&count)));
    }
}
