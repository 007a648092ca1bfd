//! The real servers' MAC addresses: a state machine over time that is passed in, so that tests own the clock.
//!
//! | state | asks | leaves it |
//! |---|---|---|
//! | unresolved | broadcast, at once, after 100 ms, after 300 ms, then every second | by any ARP of the RS |
//! | reachable | nothing for 30 s | then probing |
//! | probing | three times its last MAC, three times everybody, a second apart | by any ARP of the RS; else failed |
//! | failed | broadcast every second | by any ARP of the RS |
//! | static | never | never: the configuration gave the MAC |
//!
//! One neighbour serves all virtual services that name its address. Requests over all neighbours are bounded and go
//! to whoever has waited longest, so tens of thousands of silent RSs cannot starve the others.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ctl::protocol::NeighbourState;
use dataplane::port::PortId;

use crate::rate::RateLimit;
use crate::topology::Route;

/// Pauses after the first requests to an RS that was never heard.
const FIRST_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(200)];
/// Pause between requests afterwards.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an ARP packet of the RS confirms its MAC. Linux's neighbours: 30 s (`base_reachable_time_ms`).
const CONFIRMED_FOR: Duration = Duration::from_secs(30);
/// Requests to the last MAC alone, then to everybody, before an RS counts as failed. Linux's: 3 (`ucast_solicit`,
/// `mcast_solicit`).
const UNICAST_PROBES: u32 = 3;
const PROBES: u32 = UNICAST_PROBES + 3;
/// Requests a second over all neighbours, and at once: worker 0 sends them between its bursts.
const REQUESTS_PER_SECOND: u32 = 1000;
const REQUESTS_AT_ONCE: u32 = 64;

/// A neighbour that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The RIP.
    pub address: Ipv4Addr,
    /// How it is reached.
    pub route: Route,
    /// Its MAC, where the configuration gives it.
    pub static_mac: Option<[u8; 6]>,
}

/// What the snapshot is to do with an RS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The last MAC known: where established connections go.
    pub mac: Option<[u8; 6]>,
    /// It may get new connections.
    pub is_usable: bool,
}

/// An ARP request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Out of which port and as which DIP.
    pub route: Route,
    /// Asked for.
    pub target: Ipv4Addr,
    /// Only to this MAC; to everybody where none.
    pub unicast: Option<[u8; 6]>,
}

/// What an ARP packet of an RS taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing: no RS that is asked for by ARP on that port.
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
    },
}

/// One neighbour, for `dr-ctl neighbours` and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The RIP.
    pub address: Ipv4Addr,
    /// The port that leads to it.
    pub port: PortId,
    /// State.
    pub state: NeighbourState,
    /// The last MAC known.
    pub mac: Option<[u8; 6]>,
    /// When its ARP was last heard.
    pub confirmed: Option<Duration>,
    /// Requests since then.
    pub unanswered: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    route: Route,
    state: NeighbourState,
    mac: Option<[u8; 6]>,
    confirmed: Option<Duration>,
    unanswered: u32,
    /// Its place in the queue.
    due: Option<Duration>,
}

/// All neighbours.
#[derive(Debug)]
pub struct Neighbours {
    entries: HashMap<Ipv4Addr, Entry>,
    /// Who is to be looked at next, longest waiting first.
    queue: BTreeSet<(Duration, Ipv4Addr)>,
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
    /// Keeps exactly the neighbours in `wanted`; of two that name one address, the first with a static MAC counts.
    pub fn retain_wanted(&mut self, wanted: impl IntoIterator<Item = Wanted>, now: Duration) {
        let mut by_address: HashMap<Ipv4Addr, Wanted> = HashMap::new();
        for one in wanted {
            let known = by_address.entry(one.address).or_insert(one);
            known.static_mac = known.static_mac.or(one.static_mac);
        }
        let queue = &mut self.queue;
        self.entries.retain(|address, entry| {
            let is_wanted = by_address.get(address).is_some_and(|wanted| wanted.route == entry.route);
            if let Some(due) = entry.due.filter(|_| !is_wanted) {
                queue.remove(&(due, *address));
            }
            is_wanted
        });
        for (address, wanted) in by_address {
            self.want(address, wanted, now);
        }
    }

    fn want(&mut self, address: Ipv4Addr, wanted: Wanted, now: Duration) {
        let entry = self.entries.entry(address).or_insert(Entry {
            route: wanted.route,
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
                    self.queue.remove(&(due, address));
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
                Self::look_again(&mut self.queue, address, entry, now);
            }
            None if entry.due.is_none() => Self::look_again(&mut self.queue, address, entry, now),
            None => {}
        }
    }

    fn look_again(
        queue: &mut BTreeSet<(Duration, Ipv4Addr)>,
        address: Ipv4Addr,
        entry: &mut Entry,
        at: Duration,
    ) {
        if let Some(due) = entry.due.replace(at) {
            queue.remove(&(due, address));
        }
        queue.insert((at, address));
    }

    /// An ARP packet from `address` with sender MAC `mac` came in on `port`.
    pub fn hear(&mut self, port: PortId, address: Ipv4Addr, mac: [u8; 6], now: Duration) -> Heard {
        let is_unicast = mac[0] & 1 == 0 && mac != [0; 6];
        let Some(entry) =
            self.entries.get_mut(&address).filter(|entry| entry.route.port == port && is_unicast)
        else {
            return Heard::Ignored;
        };
        if entry.state == NeighbourState::Static {
            return Heard::Ignored;
        }
        let was_usable = matches!(entry.state, NeighbourState::Reachable | NeighbourState::Probing);
        let before = entry.mac.replace(mac);
        entry.state = NeighbourState::Reachable;
        entry.confirmed = Some(now);
        entry.unanswered = 0;
        // Its place in the queue stays: whoever is looked at too early is put back. That keeps this cheap when an RS
        // sends ARP all the time.
        match before {
            Some(from) if from != mac => Heard::Moved { from },
            _ => Heard::Confirmed { recovered: !was_usable },
        }
    }

    /// Hands the requests that are due to `send`; true when an RS failed, so that the snapshot has to change.
    pub fn poll(&mut self, now: Duration, mut send: impl FnMut(Request)) -> bool {
        let mut has_failure = false;
        while let Some(&(due, address)) = self.queue.first() {
            if due > now {
                break;
            }
            let Some(entry) = self.entries.get_mut(&address) else {
                self.queue.remove(&(due, address));
                continue;
            };
            let fresh_until = entry.confirmed.map(|confirmed| confirmed + CONFIRMED_FOR);
            if let Some(until) =
                fresh_until.filter(|until| entry.state == NeighbourState::Reachable && *until > now)
            {
                Self::look_again(&mut self.queue, address, entry, until);
                continue;
            }
            if !self.limit.take(now) {
                break;
            }
            has_failure |= Self::advance(entry);
            let is_unicast = entry.state == NeighbourState::Probing && entry.unanswered < UNICAST_PROBES;
            send(Request { route: entry.route, target: address, unicast: entry.mac.filter(|_| is_unicast) });
            let pause = match entry.state {
                NeighbourState::Unresolved => {
                    FIRST_PAUSES.get(entry.unanswered as usize).copied().unwrap_or(PAUSE)
                }
                _ => PAUSE,
            };
            entry.unanswered = entry.unanswered.saturating_add(1);
            Self::look_again(&mut self.queue, address, entry, now + pause);
        }
        has_failure
    }

    /// Moves an RS that is due on to the state that its next request belongs to; true when it failed.
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

    /// What is known of `address`.
    pub fn resolution(&self, address: Ipv4Addr) -> Resolution {
        self.entries.get(&address).map_or(Resolution::default(), |entry| Resolution {
            mac: entry.mac,
            is_usable: matches!(
                entry.state,
                NeighbourState::Reachable | NeighbourState::Probing | NeighbourState::Static
            ),
        })
    }

    /// Every neighbour, by port and address.
    pub fn all(&self) -> Vec<Neighbour> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|(&address, entry)| Neighbour {
                address,
                port: entry.route.port,
                state: entry.state,
                mac: entry.mac,
                confirmed: entry.confirmed,
                unanswered: entry.unanswered,
            })
            .collect();
        all.sort_unstable_by_key(|neighbour| (neighbour.port, neighbour.address));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
    const ROUTE: Route = Route { port: PortId(0), dip: Ipv4Addr::new(10, 0, 0, 1) };
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 11];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 99];

    fn wanted(address: Ipv4Addr, static_mac: Option<[u8; 6]>) -> Wanted {
        Wanted { address, route: ROUTE, static_mac }
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
                assert_eq!((request.target, request.route), (RS, ROUTE));
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
        assert_eq!(neighbours.resolution(RS), Resolution::default());
        assert_eq!(neighbours.all()[0].unanswered, 6);
    }

    #[test]
    fn answered_neighbour_is_left_alone_then_probed_and_then_failed_but_keeps_its_mac() {
        let mut neighbours = one();
        assert_eq!(requests(&mut neighbours, 0..50).len(), 1);
        let heard = neighbours.hear(PortId(0), RS, MAC, Duration::from_millis(50));
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(neighbours.resolution(RS), Resolution { mac: Some(MAC), is_usable: true });
        assert_eq!(requests(&mut neighbours, 50..30_050), []);
        assert_eq!(state(&neighbours), NeighbourState::Reachable);
        let sent = requests(&mut neighbours, 30_050..36_050);
        let to = [Some(MAC), Some(MAC), Some(MAC), None, None, None];
        let expected: Vec<_> =
            to.into_iter().enumerate().map(|(i, to)| (30_050 + 1000 * i as u64, to)).collect();
        assert_eq!(sent, expected);
        assert_eq!(state(&neighbours), NeighbourState::Probing);
        assert!(neighbours.resolution(RS).is_usable);
        let mut failed = false;
        for now in (36_050..37_040).step_by(10) {
            failed |=
                neighbours.poll(Duration::from_millis(now), |request| assert_eq!(request.unicast, None));
        }
        assert!(failed);
        assert_eq!(state(&neighbours), NeighbourState::Failed);
        assert_eq!(neighbours.resolution(RS), Resolution { mac: Some(MAC), is_usable: false });
        assert_eq!(requests(&mut neighbours, 37_050..40_050).len(), 3, "it goes on being asked");
        let heard = neighbours.hear(PortId(0), RS, MAC, Duration::from_secs(41));
        assert_eq!(heard, Heard::Confirmed { recovered: true });
        assert_eq!(requests(&mut neighbours, 41_000..70_990), []);
    }

    #[test]
    fn moved_mac_is_reported_once_and_any_arp_confirms() {
        let mut neighbours = one();
        neighbours.hear(PortId(0), RS, MAC, Duration::from_secs(1));
        let heard = neighbours.hear(PortId(0), RS, OTHER_MAC, Duration::from_secs(2));
        assert_eq!(heard, Heard::Moved { from: MAC });
        let heard = neighbours.hear(PortId(0), RS, OTHER_MAC, Duration::from_secs(20));
        assert_eq!(heard, Heard::Confirmed { recovered: false });
        assert_eq!(neighbours.resolution(RS).mac, Some(OTHER_MAC));
        assert_eq!(requests(&mut neighbours, 20_000..50_000), [], "confirmed at 20 s");
        assert_eq!(requests(&mut neighbours, 50_000..50_010), [(50_000, Some(OTHER_MAC))]);
    }

    #[test]
    fn foreign_multicast_and_zero_senders_teach_nothing() {
        let mut neighbours = one();
        let now = Duration::ZERO;
        assert_eq!(neighbours.hear(PortId(0), Ipv4Addr::new(10, 0, 0, 12), MAC, now), Heard::Ignored);
        assert_eq!(neighbours.hear(PortId(1), RS, MAC, now), Heard::Ignored, "another port");
        assert_eq!(neighbours.hear(PortId(0), RS, [1, 0, 0, 0, 0, 11], now), Heard::Ignored);
        assert_eq!(neighbours.hear(PortId(0), RS, [0xff; 6], now), Heard::Ignored);
        assert_eq!(neighbours.hear(PortId(0), RS, [0; 6], now), Heard::Ignored);
        assert_eq!(state(&neighbours), NeighbourState::Unresolved);
    }

    #[test]
    fn static_mac_is_never_asked_for_nor_changed_and_ends_in_a_broadcast_probe() {
        let mut neighbours = one();
        neighbours.retain_wanted([wanted(RS, None), wanted(RS, Some(MAC))], Duration::ZERO);
        assert_eq!(requests(&mut neighbours, 0..100_000), []);
        assert_eq!(neighbours.hear(PortId(0), RS, OTHER_MAC, Duration::from_secs(100)), Heard::Ignored);
        assert_eq!(neighbours.resolution(RS), Resolution { mac: Some(MAC), is_usable: true });
        neighbours.retain_wanted([wanted(RS, None)], Duration::from_secs(100));
        assert_eq!(state(&neighbours), NeighbourState::Probing);
        assert_eq!(neighbours.resolution(RS), Resolution { mac: Some(MAC), is_usable: true });
        assert_eq!(requests(&mut neighbours, 100_000..101_500), [(100_000, None), (101_000, None)]);
    }

    #[test]
    fn unwanted_neighbour_is_forgotten_and_wanted_again_starts_anew() {
        let mut neighbours = one();
        neighbours.hear(PortId(0), RS, MAC, Duration::ZERO);
        neighbours.retain_wanted([], Duration::ZERO);
        assert!(neighbours.all().is_empty());
        assert!(neighbours.queue.is_empty());
        assert_eq!(neighbours.hear(PortId(0), RS, MAC, Duration::ZERO), Heard::Ignored);
        neighbours.retain_wanted([wanted(RS, None)], Duration::from_secs(9));
        assert_eq!(requests(&mut neighbours, 9000..9050), [(9000, None)]);
    }

    #[test]
    fn silent_thousands_share_the_request_rate_round_robin() {
        let mut neighbours = Neighbours::default();
        let addresses: Vec<_> = (0..20_000_u32).map(|i| Ipv4Addr::from(0x0a00_0100 + i)).collect();
        neighbours.retain_wanted(addresses.iter().map(|&address| wanted(address, None)), Duration::ZERO);
        let mut asked: HashMap<Ipv4Addr, u32> = HashMap::new();
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
