//! Real servers that are drained until a moment: each is removed when nothing of it is left, or when the moment comes.
//!
//! Control thread only. Deadlines are moments of the wall clock, so that they outlive the process; within one process
//! they are kept on the monotonic clock, so that a step of the wall clock neither hurries nor delays anybody.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use ctl::config::{Drain, ServiceConfig};

use crate::services::Services;
use crate::slots::Owner;

/// The drains that end.
#[derive(Debug, Default)]
pub struct Drains {
    by_owner: HashMap<Owner, Draining>,
}

#[derive(Clone, Copy, Debug)]
struct Draining {
    drain: Drain,
    /// When it is over at the latest.
    deadline: Duration,
    /// The first generation in which it is drained.
    generation: u64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since the daemon's start.
    pub now: Duration,
    /// Since 1970, in seconds.
    pub unix_now: u64,
}

/// A drain that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub owner: Owner,
    /// Why.
    pub reason: Reason,
}

/// Why a drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing of it is left.
    Empty,
    /// Its time is over; so many connections are left.
    Deadline {
        /// Of both kinds.
        connections: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Empty => f.write_str("its last connection is gone"),
            Reason::Deadline { connections } => {
                write!(f, "its time to drain is over; connections left: {connections}")
            }
        }
    }
}

impl Drains {
    /// Takes over what `services` say, which run from `generation` on. A drain that stays as it was keeps its deadline.
    pub fn follow(&mut self, services: &[ServiceConfig], generation: u64, moment: Moment) {
        let mut before = std::mem::take(&mut self.by_owner);
        for service in services {
            for real_server in &service.real_servers {
                let Some(drain) = real_server.drain else { continue };
                let Some(until) = drain.until_unix_seconds else { continue };
                let owner = Owner { service: service.id, real_server: real_server.id() };
                let kept = before.remove(&owner).filter(|known| known.drain == drain);
                let left = Duration::from_secs(until.saturating_sub(moment.unix_now));
                let deadline = moment.now.saturating_add(left);
                let draining = kept.unwrap_or(Draining { drain, deadline, generation });
                self.by_owner.insert(owner, draining);
            }
        }
    }

    /// Those that are over, given the oldest generation that a worker runs. A real server may still get connections from
    /// a worker that does not know of its drain, so before that none is empty; nor while packets without state may still come
    /// to it, of which nobody keeps count. `now_seconds` is of the workers' clock.
    pub fn ended(
        &self,
        services: &Services,
        oldest_running: u64,
        now: Duration,
        now_seconds: u32,
    ) -> Vec<Ended> {
        let ended = self.by_owner.iter().filter_map(|(&owner, draining)| {
            let slot = services.slot(owner.service, owner.real_server)?;
            let connections = services.slots().counts(slot).load().total();
            // Where persistent clients are refused, what is remembered of them leads nowhere.
            let holds_clients = draining.drain.keep_persistent && services.slots().templates(slot) > 0
                || services.may_have_stateless(owner.service, now_seconds);
            let reason = if oldest_running >= draining.generation && connections == 0 && !holds_clients {
                Reason::Empty
            } else if now >= draining.deadline {
                Reason::Deadline { connections }
            } else {
                return None;
            };
            Some(Ended { owner, reason })
        });
        ended.collect()
    }

    /// Seconds until this real server is removed at the latest, rounded up.
    pub fn seconds_left(&self, owner: Owner, now: Duration) -> Option<u64> {
        let left = self.by_owner.get(&owner)?.deadline.saturating_sub(now);
        Some(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }

    /// No drain ends by itself.
    pub fn is_empty(&self) -> bool {
        self.by_owner.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::draft::Settings;
    use crate::neighbours::Neighbours;
    use crate::slots::{close_template, open_template, vacant_slots};
    use crate::topology::two_ports;
    use ctl::config::{Protocol, RealServerConfig, RealServerId, ServiceId};

    const RIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);
    const DEADLINE: u64 = 1_000_100;
    const BEGIN: Moment = Moment { now: Duration::from_secs(50), unix_now: 1_000_000 };

    fn at(seconds: u64) -> Duration {
        BEGIN.now + Duration::from_secs(seconds)
    }

    fn service(drain: Option<Drain>) -> ServiceConfig {
        let id = ServiceId::new(Protocol::Tcp, Ipv4Addr::new(192, 0, 2, 10), 80);
        let real_server = RealServerConfig { drain, ..RealServerConfig::new(RIP) };
        ServiceConfig { real_servers: vec![real_server], ..ServiceConfig::new(id) }
    }

    /// A service whose real server is drained from generation 7 on, with one connection and one template, and the end of
    /// that.
    fn rig(keep_persistent: bool) -> (Drains, Services, Owner, impl FnOnce()) {
        let services = vec![service(Some(Drain { until_unix_seconds: Some(DEADLINE), keep_persistent }))];
        let owner = Owner { service: services[0].id, real_server: RealServerId::new(RIP) };
        let mut drains = Drains::default();
        drains.follow(&services, 7, BEGIN);
        let (slots, _, templates) = vacant_slots(1);
        let mut running = Services::new(slots, &Default::default());
        running.adopt(Settings { services, ..Settings::default() }, 7, 0);
        running.slots().counts(0).open();
        let template = open_template(&templates, 1, 0);
        (drains, running, owner, move || close_template(&templates, template))
    }

    #[test]
    fn drain_ends_with_the_last_connection_and_not_before_every_worker_knows_of_it() {
        let (drains, services, owner, _) = rig(false);
        assert_eq!(drains.ended(&services, 7, at(1), 0), [], "a connection is left");
        services.slots().counts(0).close(false);
        assert_eq!(drains.ended(&services, 6, at(1), 0), [], "a worker may still open one");
        assert_eq!(drains.ended(&services, 7, at(1), 0), [Ended { owner, reason: Reason::Empty }]);
    }

    #[test]
    fn what_goes_without_state_holds_a_drain_until_it_may_come_no_more() {
        let (drains, mut services, owner, _) = rig(false);
        services.compile(&two_ports(), &Neighbours::default(), 0);
        services.slots().counts(0).close(false);
        let topology = two_ports();
        let snapshot = services.snapshot(&topology, &Neighbours::default(), []);
        snapshot.services.values().next().unwrap().stateless.midway_forwarded(1000);
        let last = 1000 + 900 + 60;
        assert_eq!(drains.ended(&services, 7, at(1), last), []);
        let ended = Ended { owner, reason: Reason::Empty };
        assert_eq!(drains.ended(&services, 7, at(1), last + 1), [ended]);
    }

    #[test]
    fn persistent_clients_hold_a_drain_that_keeps_them() {
        let (drains, services, owner, end_template) = rig(true);
        services.slots().counts(0).close(false);
        assert_eq!(drains.ended(&services, 7, at(1), 0), []);
        end_template();
        assert_eq!(drains.ended(&services, 7, at(1), 0), [Ended { owner, reason: Reason::Empty }]);
    }

    #[test]
    fn drain_ends_at_its_deadline_whatever_is_left_and_not_a_moment_earlier() {
        let (drains, services, owner, _) = rig(true);
        assert_eq!(drains.ended(&services, 7, at(100) - Duration::from_millis(1), 0), []);
        assert_eq!(drains.seconds_left(owner, at(100) - Duration::from_millis(1)), Some(1));
        let reason = Reason::Deadline { connections: 1 };
        assert_eq!(drains.ended(&services, 0, at(100), 0), [Ended { owner, reason }]);
        assert_eq!(drains.seconds_left(owner, at(200)), Some(0));
    }

    #[test]
    fn step_of_the_wall_clock_moves_no_deadline_and_a_new_drain_does() {
        let (mut drains, services, owner, _) = rig(false);
        let configured = services.configured().to_vec();
        drains.follow(&configured, 8, Moment { now: at(10), unix_now: DEADLINE + 3600 });
        assert_eq!(drains.seconds_left(owner, at(10)), Some(90));
        services.slots().counts(0).close(false);
        assert_eq!(drains.ended(&services, 7, at(10), 0).len(), 1, "drained since generation 7");
        let drain = Drain { until_unix_seconds: Some(DEADLINE + 60), keep_persistent: false };
        drains.follow(&[service(Some(drain))], 9, Moment { now: at(10), unix_now: DEADLINE });
        assert_eq!(drains.seconds_left(owner, at(10)), Some(60));
        drains.follow(&[service(Some(Drain::default()))], 10, BEGIN);
        assert!(drains.is_empty(), "it stays until somebody removes it");
    }

    #[test]
    fn drain_that_is_taken_back_ends_neither_at_its_deadline_nor_with_the_last_connection() {
        let (mut drains, services, ..) = rig(false);
        services.slots().counts(0).close(false);
        drains.follow(&[service(None)], 8, BEGIN);
        assert_eq!(drains.ended(&services, 8, at(200), 0), []);
    }

    #[test]
    fn deadline_that_was_past_at_the_start_is_now() {
        let services = [service(Some(Drain { until_unix_seconds: Some(5), keep_persistent: false }))];
        let mut drains = Drains::default();
        drains.follow(&services, 1, BEGIN);
        let owner = Owner { service: services[0].id, real_server: RealServerId::new(RIP) };
        assert_eq!(drains.seconds_left(owner, BEGIN.now), Some(0));
    }
}
