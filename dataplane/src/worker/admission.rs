//! What keeps a flood of new tuples from costing more than its packets: so many connections may open in a second and no
//! more. Whatever comes above that is forwarded without state.

use std::hash::BuildHasher;

use crate::allowance::Allowance;
use crate::clock::Ticks;

/// A worker's allowance for new connections.
#[derive(Debug)]
pub(super) struct Admission {
    allowance: Allowance,
    random: u64,
}

impl Admission {
    /// A full allowance.
    pub(super) fn new(now: Ticks) -> Self {
        let random = std::hash::RandomState::new().hash_one(0);
        Admission { allowance: Allowance::new(now), random }
    }

    /// Whether an allowance of `rate` a second has one connection more. 0: there is no limit.
    pub(super) fn allows(&mut self, rate: u32, now: Ticks) -> bool {
        rate == 0 || self.allowance.allows(rate, now)
    }

    /// Takes one connection that was allowed from the allowance.
    pub(super) fn spend(&mut self) {
        self.allowance.spend();
    }

    /// The next random number (SplitMix64).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(admission: &mut Admission, rate: u32, now: u32) -> usize {
        let mut take = |_: &u32| {
            let is_allowed = admission.allows(rate, Ticks(now));
            if is_allowed {
                admission.spend();
            }
            is_allowed
        };
        (0..1_000_000).take_while(&mut take).count()
    }

    #[test]
    fn burst_is_an_eighth_of_a_second_and_at_least_32() {
        for (rate, burst) in [(1, 32), (100, 32), (256, 32), (800, 100), (125_000, 15_625)] {
            assert_eq!(taken(&mut Admission::new(Ticks(0)), rate, 0), burst, "{rate}");
        }
    }

    #[test]
    fn rate_over_many_seconds_is_exact() {
        for rate in [1, 7, 255, 256, 257, 1000, 125_000, 1_000_001] {
            let mut admission = Admission::new(Ticks(0));
            let burst = taken(&mut admission, rate, 0);
            let total: usize = (1..=256 * 5).map(|tick| taken(&mut admission, rate, tick)).sum();
            assert_eq!(total, rate as usize * 5, "{rate}, after a burst of {burst}");
        }
    }

    #[test]
    fn idle_time_fills_up_to_one_burst_and_zero_is_no_limit() {
        let mut admission = Admission::new(Ticks(u32::MAX - 10));
        taken(&mut admission, 800, u32::MAX - 10);
        assert_eq!(taken(&mut admission, 800, 1_000_000), 100, "over the wrap of ticks too");
        assert_eq!(taken(&mut admission, 0, 1_000_000), 1_000_000);
        assert_eq!(taken(&mut admission, 800, 1_000_000), 0, "a limit that comes back goes on");
        assert_eq!(taken(&mut admission, u32::MAX, 1_000_001), 1_000_000);
    }

    #[test]
    fn random_numbers_differ() {
        let mut admission = Admission::new(Ticks(0));
        let mut seen: Vec<_> = (0..1000).map(|_| admission.random()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        assert_ne!(admission.random(), Admission::new(Ticks(0)).random(), "each worker has its own");
    }
}
