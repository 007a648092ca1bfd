//! The least loaded real server: the comparison of `lc`, `wlc`, `sed`, `nq`, `lblc`, `lblcr` and slow start. Matches
//! IPVS's, which compares the same products in 64 bits.

use crate::RealServer;

/// Index of the RS that takes connections and has the least `load` for its `weight`, the first of equals.
///
/// Compares load / weight by cross multiplication in 128 bits, which no load and no weight goes beyond.
#[inline]
pub(crate) fn least_loaded<'a>(
    candidates: impl Iterator<Item = (usize, &'a RealServer)>,
    load: impl Fn(&RealServer) -> u64,
    weight: impl Fn(&RealServer) -> u64,
) -> Option<usize> {
    let mut least: Option<(usize, u64, u64)> = None;
    for (index, real_server) in candidates {
        if !real_server.is_eligible() {
            continue;
        }
        let (load, weight) = (load(real_server), weight(real_server));
        let is_less_loaded = least.is_none_or(|(_, least_load, least_weight)| {
            u128::from(load) * u128::from(least_weight) < u128::from(least_load) * u128::from(weight)
        });
        if is_less_loaded {
            least = Some((index, load, weight));
        }
    }
    least.map(|(index, ..)| index)
}
