//! `fo`, weighted failover: everything to the heaviest RS that takes connections.
//!
//! Matches `net/netfilter/ipvs/ip_vs_fo.c`. Invariant: of equals, the first of the list (the newest RS) is picked.

use crate::RealServer;

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(real_servers: &[RealServer]) -> Option<usize> {
    let mut heaviest: Option<(usize, u32)> = None;
    for (index, real_server) in real_servers.iter().enumerate() {
        if heaviest.is_none_or(|(_, weight)| real_server.weight > weight) && real_server.is_eligible() {
            heaviest = Some((index, real_server.weight));
        }
    }
    heaviest.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use crate::Algorithm;
    use crate::fixture::{picks_that_open, real_servers};

    #[test]
    fn fo_pick_is_the_heaviest_that_is_there_and_the_newest_of_equals() {
        let mut list = real_servers(&[2, 7, 7, 65535]);
        list[3].available = false;
        assert_eq!(picks_that_open(Algorithm::Fo, &list, 3), [Some(1); 3]);
        list[1].weight = 0;
        assert_eq!(picks_that_open(Algorithm::Fo, &list, 3), [Some(2); 3]);
        list[2].available = false;
        assert_eq!(picks_that_open(Algorithm::Fo, &list, 3), [Some(0); 3]);
    }
}
