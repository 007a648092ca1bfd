//! `wlc`, weighted least connection: the RS with the least overhead
//! ([`Counts::overhead`](crate::Counts::overhead)) for its weight. LVS's default.
//!
//! Matches `net/netfilter/ipvs/ip_vs_wlc.c`. Invariant: of equals, the first of the list (the newest RS) is picked.

use crate::least_loaded::least_loaded;
use crate::ramp::Ramp;
use crate::{RealServer, Request};

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(
    real_servers: &[RealServer],
    request: &Request,
    slow_start_seconds: u32,
) -> Option<usize> {
    match Ramp::in_progress(slow_start_seconds, real_servers, request) {
        None => least(real_servers),
        Some(ramp) => ramp.least(
            real_servers,
            |real_server| real_server.overhead() + 1,
            |real_server| real_server.weight,
        ),
    }
}

/// The RS with the least overhead for its weight; also what `lblc` and `lblcr` fill their caches with.
#[inline]
pub(crate) fn least(real_servers: &[RealServer]) -> Option<usize> {
    least_of(real_servers.iter().enumerate())
}

/// The same among some of them.
#[inline]
pub(crate) fn least_of<'a>(candidates: impl Iterator<Item = (usize, &'a RealServer)>) -> Option<usize> {
    least_loaded(candidates, RealServer::overhead, |real_server| real_server.weight.into())
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::{assert_spread_of_eight_threads, pick_with_counts, picks_that_open, real_servers};

    /// As many connections of one kind as a count holds.
    const MAX: u32 = i32::MAX as u32;

    #[test]
    fn wlc_pick_is_the_least_overhead_for_its_weight_and_the_newest_of_equals() {
        for (weights, counts, pick, case) in [
            (&[1, 9][..], &[(0, 0), (0, 0)][..], 0, "idle: the newest, not the heaviest"),
            (&[1, 2, 4], &[(0, 1), (0, 2), (0, 4)], 0, "the first of equals"),
            (&[2, 3], &[(0, 3), (0, 4)], 1, "4/3 is less than 3/2"),
            (&[3, 2], &[(0, 3), (0, 2)], 0, "3/3 is equal to 2/2"),
            (&[1, 3], &[(1, 0), (0, 770)], 1, "770/3 is less than 257"),
            (&[1, 3], &[(1, 0), (0, 771)], 0, "771/3 is equal to 257"),
            (&[65535, 65535], &[(MAX, MAX), (MAX, MAX - 1)], 1, "extremes need over 32 bits"),
            (&[65534, 65535], &[(MAX, MAX), (MAX, MAX)], 1, "extremes by weight alone"),
        ] {
            assert_eq!(pick_with_counts(Algorithm::Wlc, weights, counts), Some(pick), "{case}");
        }
    }

    #[test]
    fn wlc_skips_weight_zero_and_unavailable() {
        let mut list = real_servers(&[0, 900, 1, 2]);
        list[1].available = false;
        assert_eq!(picks_that_open(Algorithm::Wlc, &list, 6), [2, 3, 3, 2, 3, 3].map(Some));
    }

    #[test]
    fn wlc_idle_newcomer_takes_everything_until_it_is_level() {
        let list = real_servers(&[1, 1]);
        (0..4).for_each(|_| list[1].counts.open());
        assert_eq!(picks_that_open(Algorithm::Wlc, &list, 7), [0, 0, 0, 0, 0, 1, 0].map(Some));
    }

    #[test]
    fn wlc_spread_of_eight_threads_is_within_the_number_of_threads() {
        assert_spread_of_eight_threads(Algorithm::Wlc, &[1, 2, 3], &[1, 2, 3]);
    }
}
