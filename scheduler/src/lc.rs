//! `lc`, least connection: the RS with the least overhead ([`Counts::overhead`](crate::Counts::overhead)); weights
//! only say whether it takes part.
//!
//! Matches `net/netfilter/ipvs/ip_vs_lc.c`. Invariant: of equals, the first of the list (the newest RS) is picked.

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
        Some(ramp) => ramp.least(real_servers, |real_server| real_server.overhead() + 1, |_| 1),
    }
}

#[inline]
fn least(real_servers: &[RealServer]) -> Option<usize> {
    least_loaded(real_servers.iter().enumerate(), RealServer::overhead, |_| 1)
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::{assert_spread_of_eight_threads, pick_with_counts, picks_that_open, real_servers};

    /// As many connections of one kind as a count holds.
    const MAX: u32 = i32::MAX as u32;

    #[test]
    fn lc_pick_is_the_least_overhead_and_the_newest_of_equals() {
        for (counts, pick, case) in [
            (&[(0, 0), (0, 0)][..], 0, "all idle: the newest"),
            (&[(0, 2), (0, 1), (0, 1)], 1, "the first of equals"),
            (&[(1, 0), (0, 256)], 1, "256 inactive are less than one active"),
            (&[(1, 0), (0, 257)], 0, "257 inactive are equal to one active"),
            (&[(1, 0), (0, 258)], 0, "258 inactive are more than one active"),
            (&[(MAX, 0), (MAX, MAX), (MAX - 1, 255)], 2, "extremes"),
        ] {
            let weights: Vec<u32> = (1..=counts.len() as u32).collect();
            assert_eq!(pick_with_counts(Algorithm::Lc, &weights, counts), Some(pick), "{case}");
        }
    }

    #[test]
    fn lc_skips_weight_zero_and_unavailable() {
        let mut list = real_servers(&[0, 3, 1, 1]);
        list[1].available = false;
        assert_eq!(picks_that_open(Algorithm::Lc, &list, 4), [2, 3, 2, 3].map(Some));
    }

    #[test]
    fn lc_levels_out_whatever_the_weights() {
        let list = real_servers(&[1, 50, 2]);
        assert_eq!(picks_that_open(Algorithm::Lc, &list, 6), [0, 1, 2, 0, 1, 2].map(Some));
    }

    #[test]
    fn lc_spread_of_eight_threads_is_within_the_number_of_threads() {
        assert_spread_of_eight_threads(Algorithm::Lc, &[3, 1, 2], &[1, 1, 1]);
    }
}
