//! `nq`, never queue: the first RS of the list without an active connection; where all have some, `sed`'s choice.
//!
//! Matches `net/netfilter/ipvs/ip_vs_nq.c`. Invariant: of equals, the first of the list (the newest RS) is picked.
//! UDP is never active, so that over UDP it is always the newest.

use crate::RealServer;
use crate::sed::{expected_connections, least};

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(real_servers: &[RealServer]) -> Option<usize> {
    let is_idle =
        |real_server: &RealServer| real_server.is_eligible() && expected_connections(real_server) == 1;
    real_servers.iter().position(is_idle).or_else(|| least(real_servers))
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::pick_with_counts;

    #[test]
    fn nq_pick_is_the_first_idle_one_and_else_the_least_expected_delay() {
        for (weights, counts, pick, case) in [
            (
                &[1, 9][..],
                &[(0, 5), (0, 0)][..],
                0,
                "idle: the newest, not the heaviest; inactive do not count",
            ),
            (&[9, 1], &[(1, 0), (0, 0)], 1, "a light idle one comes before a heavy one with one connection"),
            (&[0, 1, 1], &[(0, 0), (1, 0), (0, 0)], 2, "weight 0 is not idle"),
            (&[1, 3], &[(1, 0), (5, 0)], 0, "none idle: 2/1 is equal to 6/3, the newest"),
            (&[1, 3], &[(1, 0), (4, 0)], 1, "none idle: 5/3 is less than 2/1"),
        ] {
            assert_eq!(pick_with_counts(Algorithm::Nq, weights, counts), Some(pick), "{case}");
        }
    }
}
