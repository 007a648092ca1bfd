//! `lblcr`, locality-based least connection with replication: the least loaded of the RSs that serve the destination
//! address; where none of them takes connections, or that one is beyond its weight as under `lblc`, `wlc`'s choice
//! joins them. The most loaded of several leaves them when nobody has joined or left for the expiration time.
//!
//! Matches `net/netfilter/ipvs/ip_vs_lblcr.c`, with two differences: an RS that is deleted leaves the set at once (the
//! kernel keeps it, and takes it back if it is added again), and set and cache are bounded
//! ([`destination_cache`](crate::destination_cache)): where [`MEMBERS_MAX`] RSs serve one destination, the most loaded
//! makes room for the next.

use crate::destination_cache::Set;
use crate::lblc::{Locality, is_beyond_its_weight};
use crate::{RealServer, Request, wlc};

/// RSs that may serve one destination. The kernel's set has no limit; 1024 sets of 32 take 150 KiB a service.
pub(crate) const MEMBERS_MAX: usize = if cfg!(loom) { 2 } else { 32 };

impl Locality<MEMBERS_MAX> {
    /// Picks.
    #[inline]
    pub(crate) fn schedule(
        &self,
        real_servers: &[RealServer],
        request: &Request,
        expiration_seconds: u32,
    ) -> Option<usize> {
        let (place, remembered) = self.cache.find(request, expiration_seconds);
        let mut set = remembered.unwrap_or(Set::empty(request.now_seconds));
        set.retain(|number| self.incarnations.index_of(number).is_some());
        let least = self.least(&set, real_servers);
        if let (Some(place), true) = (&place, remembered.is_some()) {
            place.touch(request);
        }

        let is_settled = request.seconds_since(set.modified_seconds) > expiration_seconds;
        if set.members().len() > 1 && is_settled {
            self.remove_most_loaded(&mut set, real_servers, request);
        }
        let is_beyond = |index: usize| {
            real_servers.get(index).is_some_and(|least| is_beyond_its_weight(least, real_servers))
        };
        let pick = match least {
            Some(index) if !is_beyond(index) => Some(index),
            _ => {
                let index = wlc::least(real_servers);
                self.insert(&mut set, index, real_servers, request);
                index
            }
        };
        if let (Some(place), true) = (place, remembered != Some(set) && !set.members().is_empty()) {
            place.write(request, &set);
        }
        pick
    }

    /// Index of the least loaded RS of the set that takes connections, the first of equals.
    fn least(&self, set: &Set<MEMBERS_MAX>, real_servers: &[RealServer]) -> Option<usize> {
        let mut least: Option<(usize, u64, u64)> = None;
        for index in set.members().iter().filter_map(|&number| self.incarnations.index_of(number)) {
            let Some(real_server) = real_servers.get(index).filter(|member| member.is_eligible()) else {
                continue;
            };
            let (overhead, weight) = (real_server.overhead(), u64::from(real_server.weight));
            if least.is_none_or(|(_, least_overhead, least_weight)| {
                overhead.wrapping_mul(least_weight) < least_overhead.wrapping_mul(weight)
            }) {
                least = Some((index, overhead, weight));
            }
        }
        least.map(|(index, ..)| index)
    }

    /// Removes the RS with the most overhead for its weight, the first of equals; none if all weights are 0.
    fn remove_most_loaded(&self, set: &mut Set<MEMBERS_MAX>, real_servers: &[RealServer], request: &Request) {
        let mut most: Option<(u32, u64, u64)> = None;
        for &number in set.members() {
            let index = self.incarnations.index_of(number);
            let Some(real_server) = index.and_then(|index| real_servers.get(index)) else { continue };
            if real_server.weight == 0 {
                continue;
            }
            let (overhead, weight) = (real_server.overhead(), u64::from(real_server.weight));
            if most.is_none_or(|(_, most_overhead, most_weight)| {
                overhead.wrapping_mul(most_weight) > most_overhead.wrapping_mul(weight)
            }) {
                most = Some((number, overhead, weight));
            }
        }
        if let Some((most_loaded, ..)) = most {
            set.retain(|number| number != most_loaded);
            set.modified_seconds = request.now_seconds;
        }
    }

    /// Adds the RS in front, if it is not among them.
    fn insert(
        &self,
        set: &mut Set<MEMBERS_MAX>,
        index: Option<usize>,
        real_servers: &[RealServer],
        request: &Request,
    ) {
        let Some(number) = index.and_then(|index| self.incarnations.of(index)) else { return };
        if set.members().contains(&number) {
            return;
        }
        if !set.insert(number) {
            self.remove_most_loaded(set, real_servers, request);
            set.insert(number);
        }
        set.modified_seconds = request.now_seconds;
    }
}
