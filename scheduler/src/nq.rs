//! `nq`, never queue: the first RS of the list without an active connection; where all have some, `sed`'s choice.
//!
//! Matches `net/netfilter/ipvs/ip_vs_nq.c`. Invariant: of equals, the first of the list (the newest RS) is picked.
//! UDP is never active, so that over UDP it is always the newest.

use crate::RealServer;
use crate::sed::expected_connections;

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(real_servers: &[RealServer]) -> Option<usize> {
    let mut least: Option<(usize, u64, u64)> = None;
    for (index, real_server) in real_servers.iter().enumerate() {
        if !real_server.is_eligible() {
            continue;
        }
        let expected = expected_connections(real_server);
        if expected == 1 {
            return Some(index);
        }
        let weight = u64::from(real_server.weight);
        if least
            .is_none_or(|(_, least_expected, least_weight)| expected * least_weight < least_expected * weight)
        {
            least = Some((index, expected, weight));
        }
    }
    least.map(|(index, ..)| index)
}
