//! `lblc`, locality-based least connection: the RS that last served the destination address, unless it takes no
//! connections or has more active ones than its weight while another RS has fewer than half of its own; then `wlc`'s
//! choice, which is remembered. For transparent caches, where destinations are many.
//!
//! Matches `net/netfilter/ipvs/ip_vs_lblc.c`, with two differences: an RS over its threshold is not used although it
//! is remembered (the kernel does not look), and the cache is smaller
//! ([`destination_cache`](crate::destination_cache)).

use std::sync::Arc;

use crate::destination_cache::{Cache, Incarnations, Set};
use crate::{RealServer, Request, wlc};

/// What one version of a service remembers, with up to `N` RSs a destination: one here, more under `lblcr`.
#[derive(Clone, Debug)]
pub(crate) struct Locality<const N: usize> {
    pub(crate) cache: Arc<Cache<N>>,
    pub(crate) incarnations: Arc<Incarnations>,
}

impl<const N: usize> Locality<N> {
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        let cache = Cache::new();
        let incarnations = Incarnations::new(&cache, real_servers).into();
        Locality { cache: cache.into(), incarnations }
    }

    /// The same cache for the list `new` that replaces `old`.
    pub(crate) fn carried_over(&self, old: &[RealServer], new: &[RealServer]) -> Self {
        let incarnations = self.incarnations.carried_over(&self.cache, old, new).into();
        Locality { cache: Arc::clone(&self.cache), incarnations }
    }
}

impl Locality<1> {
    /// Picks.
    #[inline]
    pub(crate) fn schedule(
        &self,
        real_servers: &[RealServer],
        request: &Request,
        expiration_seconds: u32,
    ) -> Option<usize> {
        let (place, set) = self.cache.find(request, expiration_seconds);
        let remembered = set.and_then(|set| self.incarnations.index_of(*set.members().first()?));
        if let (Some(index), Some(place)) = (remembered, &place) {
            place.touch(request);
            let is_usable = |real_server: &RealServer| {
                real_server.is_eligible() && !is_beyond_its_weight(real_server, real_servers)
            };
            if real_servers.get(index).is_some_and(is_usable) {
                return Some(index);
            }
        }
        let index = wlc::least(real_servers)?;
        if let (Some(place), Some(number)) = (place, self.incarnations.of(index)) {
            let mut set = Set::empty(request.now_seconds);
            set.insert(number);
            place.write(request, &set);
        }
        Some(index)
    }
}

/// Whether the RS has more active connections than its weight while another one has fewer than half of its own, be
/// that one overloaded or not.
#[inline]
pub(crate) fn is_beyond_its_weight(real_server: &RealServer, real_servers: &[RealServer]) -> bool {
    let active = |real_server: &RealServer| u64::from(real_server.counts.load().active);
    active(real_server) > real_server.weight.into()
        && real_servers.iter().any(|other| active(other) * 2 < other.weight.into())
}

#[cfg(test)]
mod tests {
    use crate::fixture::{real_servers, request, scheduler};
    use crate::{Algorithm, ConnectionCounts, Request, Thresholds};

    #[test]
    fn lblc_keeps_a_destination_until_its_real_server_is_beyond_its_weight() {
        let mut list = real_servers(&[2, 2]);
        let scheduler = scheduler(Algorithm::Lblc, &list);
        let to = |last: u8| Request { vip: [192, 0, 2, last].into(), ..request() };
        assert_eq!(scheduler.schedule(&list, &to(1)), Some(0));
        list[0].counts = ConnectionCounts::with(2, 9).into();
        assert_eq!(scheduler.schedule(&list, &to(1)), Some(0), "as many active ones as its weight");
        assert_eq!(scheduler.schedule(&list, &to(2)), Some(1), "another destination: wlc");
        list[0].counts = ConnectionCounts::with(3, 9).into();
        assert_eq!(scheduler.schedule(&list, &to(1)), Some(1), "more, and the other has fewer than half");
        list[0].counts = ConnectionCounts::with(0, 0).into();
        assert_eq!(scheduler.schedule(&list, &to(1)), Some(1), "remembered");
    }

    #[test]
    fn lblc_stays_beyond_its_weight_where_nobody_has_less_than_half() {
        let mut list = real_servers(&[2, 2]);
        let scheduler = scheduler(Algorithm::Lblc, &list);
        assert_eq!(scheduler.schedule(&list, &request()), Some(0));
        list[0].counts = ConnectionCounts::with(9, 0).into();
        list[1].counts = ConnectionCounts::with(1, 0).into();
        assert_eq!(scheduler.schedule(&list, &request()), Some(0));
    }

    /// Where the kernel would go on using it.
    #[test]
    fn lblc_does_not_use_a_remembered_real_server_over_its_threshold() {
        let mut list = real_servers(&[1, 1]);
        let scheduler = scheduler(Algorithm::Lblc, &list);
        assert_eq!(scheduler.schedule(&list, &request()), Some(0));
        list[0].has_threshold = true;
        list[0].counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
        list[0].counts.open();
        assert_eq!(scheduler.schedule(&list, &request()), Some(1));
    }
}
