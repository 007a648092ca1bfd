//! So many a second and no more, in whole numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{TICKS_PER_SECOND, Ticks};
use crate::verdict::IcmpError;

/// Least that may be taken at once, however small the rate.
const BURST_MIN: u64 = 32;
/// Parts of a second whose share may be taken at once.
const BURSTS_PER_SECOND: u64 = 8;
/// Credit that one costs: then a tick gives as much as the rate a second is.
const COST: u64 = TICKS_PER_SECOND as u64;

/// What may be taken still, refilled by the tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    credit: u64,
    refilled: Ticks,
}

impl Allowance {
    /// A full one.
    pub(crate) fn new(now: Ticks) -> Self {
        Allowance { credit: u64::MAX, refilled: now }
    }

    /// Whether there is one left of `rate` a second.
    pub(crate) fn allows(&mut self, rate: u32, now: Ticks) -> bool {
        let rate = u64::from(rate);
        let most = (rate / BURSTS_PER_SECOND).max(BURST_MIN) * COST;
        let gained = u64::from(now.since(self.refilled)) * rate;
        self.refilled = now;
        self.credit = self.credit.saturating_add(gained).min(most);
        self.credit >= COST
    }

    /// Takes one that was allowed.
    pub(crate) fn spend(&mut self) {
        self.credit = self.credit.saturating_sub(COST);
    }

    /// Takes one if there is one left of `rate` a second; of a rate of 0 there never is.
    pub(crate) fn take(&mut self, rate: u32, now: Ticks) -> bool {
        let is_allowed = rate > 0 && self.allows(rate, now);
        if is_allowed {
            self.spend();
        }
        is_allowed
    }
}

/// The same for several workers, who take from it without waiting for each other.
#[derive(Debug)]
pub(crate) struct SharedAllowance(AtomicU64);

impl SharedAllowance {
    /// Takes one if there is one left of `rate` a second; of a rate of 0 there never is.
    pub(crate) fn take(&self, rate: u32, now: Ticks) -> bool {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let mut left = Allowance::of_word(word);
            // Another worker's round may have begun later. So little later: what looks like more is long ago.
            let is_ahead = left.refilled.since(now) < TICKS_PER_SECOND;
            let now = if is_ahead { left.refilled } else { now };
            left.take(rate, now).then(|| left.word())
        });
        taken.is_ok()
    }
}

impl Default for SharedAllowance {
    /// A full one, from tick 0 on.
    fn default() -> Self {
        SharedAllowance(AtomicU64::new(u64::from(u32::MAX) << 32))
    }
}

impl Allowance {
    /// In one word, with what a rate of up to 134 million a second may have at once.
    fn word(self) -> u64 {
        self.credit.min(u32::MAX.into()) << 32 | u64::from(self.refilled.0)
    }

    fn of_word(word: u64) -> Self {
        Allowance { credit: word >> 32, refilled: Ticks(word as u32) }
    }
}

/// What a worker may tell of errors still. That a packet is too big is told whatever else there is to tell: without it
/// connections stall.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorAllowance {
    too_big: Allowance,
    others: Allowance,
}

impl ErrorAllowance {
    /// Full ones.
    pub(crate) fn new(now: Ticks) -> Self {
        ErrorAllowance { too_big: Allowance::new(now), others: Allowance::new(now) }
    }

    /// Takes one error of this kind, where less than `rate` a second were told.
    pub(crate) fn take(&mut self, kind: IcmpError, rate: u32, now: Ticks) -> bool {
        let allowance = if kind == IcmpError::TooBig { &mut self.too_big } else { &mut self.others };
        allowance.take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_allowance_gives_all_together_the_rate_and_one_of_them_all_of_it() {
        let shared = SharedAllowance::default();
        let take = |times, tick| (0..times).filter(|_| shared.take(1000, Ticks(tick))).count();
        assert_eq!(take(1000, 0), 125, "an eighth of a second's at once");
        assert_eq!(take(1000, 256), 125);
        // From now on as fast as it is refilled, 1000 / 256 a tick.
        let taken: usize = (257..=512).map(|tick| take(10, tick)).sum();
        assert_eq!(taken, 1000);
        assert_eq!(take(10, 500), 0, "a worker whose round began before");
        assert!(!shared.take(0, Ticks(10_000)));
        // Longer than half of what ticks count.
        let long_after = 512 + (1 << 31) + 1000;
        assert_eq!((take(1000, long_after), take(1000, long_after + 256)), (125, 125));
    }

    #[test]
    fn too_big_is_told_when_all_else_is_used_up() {
        let mut left = ErrorAllowance::new(Ticks(0));
        while left.take(IcmpError::Unreachable, 100, Ticks(0)) {}
        assert!(left.take(IcmpError::TooBig, 100, Ticks(0)));
        while left.take(IcmpError::TooBig, 100, Ticks(0)) {}
        assert!(!left.take(IcmpError::TimeExceeded, 100, Ticks(0)));
    }
}
