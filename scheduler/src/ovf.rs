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
