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
