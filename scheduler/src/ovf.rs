//! `ovf`, overflow: the heaviest RS with no more active connections than its weight, so that a weight is also a
//! capacity; none when all are beyond theirs.
//!
//! Matches `net/netfilter/ipvs/ip_vs_ovf.c`, which admits weight + 1 active connections. Invariant: of equals, the
//! first of the list (the newest RS) is picked. UDP is never active, so that over UDP it is `fo`.

use crate::RealServer;

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(real_servers: &[RealServer]) -> Option<usize> {
    let mut heaviest: Option<(usize, u32)> = None;
    for (index, real_server) in real_servers.iter().enumerate() {
        if heaviest.is_none_or(|(_, weight)| real_server.weight > weight)
            && real_server.is_eligible()
            && real_server.counts.load().active <= real_server.weight
        {
            heaviest = Some((index, real_server.weight));
        }
    }
    heaviest.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::pick_with_counts;

    #[test]
    fn ovf_pick_is_the_heaviest_that_is_not_beyond_its_weight() {
        for (weights, counts, pick, case) in [
            (&[2, 3][..], &[(0, 0), (3, 0)][..], Some(1), "as many as its weight: one more is admitted"),
            (&[2, 3], &[(0, 0), (4, 0)], Some(0), "more than its weight: the next heaviest"),
            (&[2, 3], &[(3, 0), (4, 0)], None, "all beyond"),
            (&[3, 3], &[(1, 0), (0, 0)], Some(0), "equals: the newest"),
            (&[2, 3], &[(0, 0), (0, 900)], Some(1), "inactive ones do not count"),
            (&[0, 1], &[(0, 0), (2, 0)], None, "weight 0 takes nothing over"),
        ] {
            assert_eq!(pick_with_counts(Algorithm::Ovf, weights, counts), pick, "{case}");
        }
    }
}
