//! So many a second and no more, in whole numbers.

use crate::clock::{TICKS_PER_SECOND, Ticks};

/// Least that may be taken at once, however small the rate.
const BURST_MIN: u64 = 32;
/// Parts of a second whose share may be taken at once.
const BURSTS_PER_SECOND: u64 = 8;
/// Credit that one costs: then a tick gives as much as the rate a second is.
const COST: u64 = TICKS_PER_SECOND as u64;

/// What may be taken still, refilled by the tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    credit: u64,
    refilled: Ticks,
}

impl Allowance {
    /// A full one.
    pub(super) fn new(now: Ticks) -> Self {
        Allowance { credit: u64::MAX, refilled: now }
    }

    /// Whether there is one left of `rate` a second.
    pub(super) fn allows(&mut self, rate: u32, now: Ticks) -> bool {
        let rate = u64::from(rate);
        let most = (rate / BURSTS_PER_SECOND).max(BURST_MIN) * COST;
        let gained = u64::from(now.since(self.refilled)) * rate;
        self.refilled = now;
        self.credit = self.credit.saturating_add(gained).min(most);
        self.credit >= COST
    }

    /// Takes one that was allowed.
    pub(super) fn spend(&mut self) {
        self.credit = self.credit.saturating_sub(COST);
    }

    /// Takes one if there is one left of `rate` a second; of a rate of 0 there never is.
    pub(super) fn take(&mut self, rate: u32, now: Ticks) -> bool {
        let is_allowed = rate > 0 && self.allows(rate, now);
        if is_allowed {
            self.spend();
        }
        is_allowed
    }
}
