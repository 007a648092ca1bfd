//! Slow start, which IPVS has not: under `lc`, `wlc` and `sed` an idle newcomer is the least loaded RS and would get
//! every new connection until it is level with the others.
//!
//! While an RS ramps up, all are compared as if its weight were (elapsed + 1) ÷ slow start seconds of what it is, so
//! that it is level with the others at that part of their load. `lc` and `wlc` then also count the connection that is
//! about to come, as `sed` always does: a load of 0 stays 0 whatever it is divided by.
//!
//! Invariant: with no RS on its ramp, decisions are IPVS's.

use crate::least_loaded::least_loaded;
use crate::{RealServer, Request};

/// The slow start of one service at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ramp {
    request: Request,
    /// Over 0.
    length_seconds: u32,
}

impl Ramp {
    /// The ramp to compare by, if any RS that takes connections is on its own; `length_seconds` 0 is no slow start.
    #[inline]
    pub(crate) fn in_progress(
        length_seconds: u32,
        real_servers: &[RealServer],
        request: &Request,
    ) -> Option<Self> {
        if length_seconds == 0 {
            return None;
        }
        let ramp = Ramp { request: *request, length_seconds };
        let ramps = |real_server: &RealServer| ramp.is_on_its_way(real_server) && real_server.is_eligible();
        real_servers.iter().any(ramps).then_some(ramp)
    }

    fn is_on_its_way(self, real_server: &RealServer) -> bool {
        let joined = real_server.joined_seconds;
        joined.is_some_and(|joined| self.request.seconds_since(joined) < self.length_seconds)
    }

    /// Seconds of the ramp that the RS has behind it, the current one included: 1 to the ramp's length.
    fn seconds_reached(self, real_server: &RealServer) -> u32 {
        let Some(joined_seconds) = real_server.joined_seconds else { return self.length_seconds };
        self.request.seconds_since(joined_seconds).saturating_add(1).min(self.length_seconds)
    }

    /// What stands for the weight, in units of 1 ÷ the ramp's length: below 2⁶⁴.
    #[inline]
    fn effective_weight(self, real_server: &RealServer, weight: u32) -> u64 {
        u64::from(weight) * u64::from(self.seconds_reached(real_server))
    }

    /// Index of the RS with the least `load` for the effective part of its `weight`, the first of equals.
    #[inline]
    pub(crate) fn least(
        self,
        real_servers: &[RealServer],
        load: impl Fn(&RealServer) -> u64,
        weight: impl Fn(&RealServer) -> u32,
    ) -> Option<usize> {
        let effective = |real_server: &RealServer| self.effective_weight(real_server, weight(real_server));
        least_loaded(real_servers.iter().enumerate(), load, effective)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::fixture::{config, real_server, real_servers, request};
    use crate::{Algorithm, Scheduler, SchedulerConfig};

    /// Connections opened in each second, and how long each lasts.
    struct Traffic {
        opened_a_second: usize,
        lasting_seconds: u32,
        /// Whether connections become active (TCP) or stay inactive (UDP).
        becomes_active: bool,
    }

    /// What a second was for the newcomer: its part of the load that it will have one day, and of the connections.
    #[derive(Clone, Copy, Debug)]
    struct Second {
        load: f64,
        opened: f64,
    }

    const SLOW_START_SECONDS: u32 = 60;

    /// Nine RSs of the same weight that are busy, then a newcomer: each second of its slow start and of the next ones.
    fn newcomer(algorithm: Algorithm, slow_start_seconds: u32, traffic: &Traffic) -> Vec<Second> {
        let settings = SchedulerConfig { slow_start_seconds, ..config(algorithm) };
        let mut list = real_servers(&[3; 9]);
        let mut scheduler = Scheduler::new(settings, &list);
        let mut open: VecDeque<u32> = VecDeque::new();
        let population = traffic.opened_a_second * traffic.lasting_seconds as usize;
        let joins_at = 3 * traffic.lasting_seconds;
        let mut seconds = Vec::new();
        for now_seconds in 0..joins_at + SLOW_START_SECONDS + 20 {
            if now_seconds == joins_at {
                let mut longer = list.clone();
                longer.insert(0, RealServer { joined_seconds: Some(now_seconds), ..real_server(99, 3) });
                scheduler = scheduler.next_version(&list, &longer);
                list = longer;
            }
            let mut opened_by_newcomer = 0;
            for _ in 0..traffic.opened_a_second {
                // The oldest ends as a new one begins, so that each lasts as long as it should.
                if open.len() == population {
                    let id = open.pop_front().unwrap();
                    let counts = &list.iter().find(|real_server| real_server.id == id).unwrap().counts;
                    counts.close(traffic.becomes_active);
                }
                let index = scheduler.schedule(&list, &Request { now_seconds, ..request() }).unwrap();
                list[index].counts.open();
                if traffic.becomes_active {
                    list[index].counts.activate();
                }
                open.push_back(list[index].id);
                opened_by_newcomer += usize::from(list[index].id == 99);
            }
            if now_seconds >= joins_at {
                let total: u64 = list.iter().map(|real_server| real_server.counts.load().total()).sum();
                let fair = total as f64 / list.len() as f64;
                let load = list[0].counts.load().total() as f64 / fair;
                let opened = opened_by_newcomer as f64 * list.len() as f64 / traffic.opened_a_second as f64;
                seconds.push(Second { load, opened });
            }
        }
        seconds
    }

    fn mean(seconds: &[Second], part: impl Fn(&Second) -> f64) -> f64 {
        seconds.iter().map(part).sum::<f64>() / seconds.len() as f64
    }

    /// Its load follows the ramp; its share of the connections does too, plus what raises the load.
    fn assert_ramps(algorithm: Algorithm, traffic: &Traffic) {
        let seconds = newcomer(algorithm, SLOW_START_SECONDS, traffic);
        let ramp = SLOW_START_SECONDS as usize;
        for (elapsed, second) in seconds.iter().enumerate().take(ramp) {
            let part = (elapsed + 1) as f64 / ramp as f64;
            // Its part of the others' load, as a part of what all will have once it is level.
            let expected = 10.0 * part / (9.0 + part);
            assert!(
                (second.load - expected).abs() < 0.06,
                "{algorithm} second {elapsed}: {second:?} {expected}"
            );
        }
        let rise = f64::from(traffic.lasting_seconds) / f64::from(SLOW_START_SECONDS);
        for (tenth, ten) in seconds[..ramp].chunks(10).enumerate() {
            let part = (tenth as f64 + 0.55) / 6.0;
            let opened = mean(ten, |second| second.opened);
            let expected = 10.0 * part / (9.0 + part) + rise;
            assert!((opened - expected).abs() < 0.12, "{algorithm} {tenth}: {opened}, {expected} expected");
        }
        let after = mean(&seconds[ramp + 10..], |second| second.opened);
        assert!((after - 1.0).abs() < 0.05, "{algorithm} afterwards: {after}");
    }

    #[test]
    fn slow_start_of_a_newcomer_among_busy_ones_rises_about_linearly() {
        let tcp = Traffic { opened_a_second: 900, lasting_seconds: 5, becomes_active: true };
        let udp = Traffic { becomes_active: false, ..tcp };
        for algorithm in [Algorithm::Lc, Algorithm::Wlc, Algorithm::Sed] {
            assert_ramps(algorithm, &tcp);
        }
        for algorithm in [Algorithm::Lc, Algorithm::Wlc] {
            assert_ramps(algorithm, &udp);
        }
    }

    /// What slow start is for: without it the newcomer gets ten times its share until it is level.
    #[test]
    fn slow_start_off_gives_the_newcomer_everything_at_once() {
        let traffic = Traffic { opened_a_second: 900, lasting_seconds: 20, becomes_active: true };
        for algorithm in [Algorithm::Lc, Algorithm::Wlc, Algorithm::Sed] {
            let off = newcomer(algorithm, 0, &traffic);
            assert_eq!(off[0].opened, 10.0, "{algorithm}");
            let on = newcomer(algorithm, SLOW_START_SECONDS, &traffic);
            assert!(on.iter().all(|second| second.opened < 2.0), "{algorithm}");
        }
    }

    #[test]
    fn slow_start_reaches_the_weight_and_never_begins_below_its_first_part() {
        let ramp = |now_seconds| Ramp { request: Request { now_seconds, ..request() }, length_seconds: 10 };
        let joined = |joined_seconds| RealServer { joined_seconds, ..real_server(1, 7) };
        for (now, joined_seconds, reached, case) in [
            (100, None, 10, "it has none"),
            (100, Some(100), 1, "the first second"),
            (109, Some(100), 10, "the last second"),
            (110, Some(100), 10, "over"),
            (100, Some(101), 1, "the control thread's clock is a second ahead"),
            (3, Some(u32::MAX - 1), 6, "the clock has wrapped"),
        ] {
            assert_eq!(ramp(now).seconds_reached(&joined(joined_seconds)), reached, "{case}");
        }
    }
}
