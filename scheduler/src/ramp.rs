//! Slow start, which IPVS has not: under `lc`, `wlc` and `sed` an idle newcomer is the least loaded RS and would get
//! every new connection until it is level with the others.
//!
//! While an RS ramps up, all are compared as if its weight were (elapsed + 1) ÷ slow start seconds of what it is, so
//! that it is level with the others at that part of their load. `lc` and `wlc` then also count the connection that is
//! about to come, as `sed` always does: a load of 0 stays 0 whatever it is divided by.
//!
//! Invariant: with no RS on its ramp, decisions are IPVS's.

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
        let mut least: Option<(usize, u64, u64)> = None;
        for (index, real_server) in real_servers.iter().enumerate() {
            if !real_server.is_eligible() {
                continue;
            }
            let load = load(real_server);
            let weight = self.effective_weight(real_server, weight(real_server));
            let is_less_loaded = least.is_none_or(|(_, least_load, least_weight)| {
                u128::from(load) * u128::from(least_weight) < u128::from(least_load) * u128::from(weight)
            });
            if is_less_loaded {
                least = Some((index, load, weight));
            }
        }
        least.map(|(index, ..)| index)
    }
}
