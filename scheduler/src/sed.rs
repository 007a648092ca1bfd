//! `sed`, shortest expected delay: the RS with the least (active connections + 1) for its weight; inactive ones do
//! not count.
//!
//! Matches `net/netfilter/ipvs/ip_vs_sed.c`. Invariant: of equals, the first of the list (the newest RS) is picked.
//! UDP is never active, so that over UDP it is always the newest of the heaviest.

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
        Some(ramp) => ramp.least(real_servers, expected_connections, |real_server| real_server.weight),
    }
}

/// Active connections once this one has come.
#[inline]
pub(crate) fn expected_connections(real_server: &RealServer) -> u64 {
    u64::from(real_server.counts.load().active) + 1
}

/// The choice without slow start, `nq`'s too where nobody is idle.
#[inline]
pub(crate) fn least(real_servers: &[RealServer]) -> Option<usize> {
    let weight = |real_server: &RealServer| real_server.weight.into();
    least_loaded(real_servers.iter().enumerate(), expected_connections, weight)
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::{pick_with_counts, picks_that_open, real_servers};

    #[test]
    fn sed_pick_is_the_least_expected_delay_and_the_newest_of_equals() {
        for (weights, counts, pick, case) in [
            (&[1, 3][..], &[(0, 0), (0, 0)][..], 1, "idle: the heaviest, 1/3 is less than 1/1"),
            (&[1, 3], &[(0, 0), (2, 0)], 0, "1/1 is equal to 3/3: the newest"),
            (&[1, 3], &[(0, 0), (1, 0)], 1, "2/3 is less than 1/1"),
            (&[2, 3], &[(1, 0), (1, 0)], 1, "2/3 is less than 2/2"),
            (&[1, 1], &[(0, 900), (0, 0)], 0, "inactive ones do not count"),
            (&[65535, 65535], &[(i32::MAX as u32, 0), (i32::MAX as u32 - 1, 0)], 1, "extremes"),
        ] {
            assert_eq!(pick_with_counts(Algorithm::Sed, weights, counts), Some(pick), "{case}");
        }
    }

    #[test]
    fn sed_over_udp_is_the_newest_of_the_heaviest() {
        let list = real_servers(&[2, 3, 3, 1]);
        assert_eq!(picks_that_open(Algorithm::Sed, &list, 3), [Some(1); 3]);
    }
}
