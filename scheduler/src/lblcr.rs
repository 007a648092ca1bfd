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
        let indices = set.members().iter().filter_map(|&number| self.incarnations.index_of(number));
        wlc::least_of(indices.filter_map(|index| Some((index, real_servers.get(index)?))))
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

#[cfg(test)]
mod tests {
    use crate::fixture::{config, real_server, real_servers, request};
    use crate::{Algorithm, ConnectionCounts, RealServer, Request, Scheduler, SchedulerConfig};

    use super::MEMBERS_MAX;

    fn lblcr(list: &[RealServer]) -> Scheduler {
        Scheduler::new(SchedulerConfig { lblc_expiration_seconds: 60, ..config(Algorithm::Lblcr) }, list)
    }

    fn at(now_seconds: u32) -> Request {
        Request { now_seconds, ..request() }
    }

    #[test]
    fn lblcr_adds_a_real_server_when_the_least_loaded_is_beyond_its_weight_and_drops_the_most_loaded_later() {
        let mut list = real_servers(&[2, 2, 2]);
        let scheduler = lblcr(&list);
        assert_eq!(scheduler.schedule(&list, &at(0)), Some(0));
        list[0].counts = ConnectionCounts::with(3, 0).into();
        assert_eq!(scheduler.schedule(&list, &at(1)), Some(1), "the second joins");
        list[2].counts = ConnectionCounts::with(0, 1).into();
        list[1].counts = ConnectionCounts::with(0, 2).into();
        assert_eq!(scheduler.schedule(&list, &at(30)), Some(1), "wlc would take the third");
        assert_eq!(scheduler.schedule(&list, &at(61)), Some(1), "60 s after the last change: not yet");
        assert_eq!(scheduler.schedule(&list, &at(62)), Some(1), "the first, most loaded, leaves");
        list[0].counts = ConnectionCounts::with(0, 0).into();
        assert_eq!(scheduler.schedule(&list, &at(63)), Some(1), "it would be the least loaded");
    }

    #[test]
    fn lblcr_set_that_is_full_makes_room_by_its_most_loaded() {
        let count = MEMBERS_MAX as u32 + 1;
        let mut list: Vec<RealServer> = (0..count).map(|id| real_server(id, 1)).collect();
        let scheduler = lblcr(&list);
        for index in 0..list.len() {
            assert_eq!(scheduler.schedule(&list, &at(0)), Some(index));
            // Beyond its weight, the earlier the more.
            list[index].counts = ConnectionCounts::with(2 + count - index as u32, 0).into();
            list.iter_mut().skip(index + 1).for_each(|idle| idle.counts = Default::default());
        }
        list[0].counts = Default::default();
        list[count as usize - 1].counts = ConnectionCounts::with(1, 0).into();
        assert_eq!(scheduler.schedule(&list, &at(0)), Some(count as usize - 1), "the first has left the set");
    }
}
