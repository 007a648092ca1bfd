//! Checks of `connections`: how connections are kept, and for how long.

use std::ops::RangeInclusive;

use super::{Problem, range_problem};
use crate::config::{ConnectionsConfig, Timeouts};

/// Timeouts of connections, in seconds: IPVS's, up to 31 days.
pub const TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=2_678_400;
/// `conn_reuse_mode`: two bits.
pub const CONN_REUSE_MODE: RangeInclusive<u8> = 0..=3;

pub(super) fn check(prefix: &str, connections: &ConnectionsConfig) -> Vec<Problem> {
    let mut problems = check_timeouts(prefix, &connections.timeouts);
    let place = format!("{prefix}conn_reuse_mode");
    problems.extend(range_problem(place, connections.conn_reuse_mode, &CONN_REUSE_MODE));
    let place = format!("{prefix}lblc_expiration_seconds");
    problems.extend(range_problem(place, connections.lblc_expiration_seconds, &TIMEOUT_SECONDS));
    problems
}

pub(super) fn check_timeouts(prefix: &str, timeouts: &Timeouts) -> Vec<Problem> {
    let given = Timeouts::NAMES.iter().zip(timeouts.values());
    let given = given.filter_map(|(name, seconds)| seconds.map(|seconds| (name, seconds)));
    given
        .filter_map(|(name, seconds)| {
            range_problem(format!("{prefix}timeouts.{name}"), seconds, &TIMEOUT_SECONDS)
        })
        .collect()
}
