//! Time in the data plane: a 32-bit tick of 1/256 s, cheap to read once a burst and small enough for an entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::FromZeros;

use crate::dpdk::tsc;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 256;

/// A moment. Comparisons hold over less than half of the 194 days after which ticks start again; the longest timeout
/// (31 days, IPVS's limit) is well within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
pub struct Ticks(pub u32);

impl Ticks {
    /// The moment so many ticks later.
    #[inline(always)]
    pub fn after(self, ticks: u32) -> Ticks {
        Ticks(self.0.wrapping_add(ticks))
    }

    /// Ticks from `earlier` to this moment.
    #[inline(always)]
    pub fn since(self, earlier: Ticks) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// This moment has come.
    #[inline(always)]
    pub fn is_past(self, now: Ticks) -> bool {
        now.0.wrapping_sub(self.0) as i32 >= 0
    }
}

/// Where a worker reads the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The CPU's time-stamp counter.
    Tsc {
        /// Counter at tick 0.
        start: u64,
        /// Ticks a count, scaled by 2^64.
        scale: u64,
    },
    /// Set by a test.
    Manual(ManualClock),
}

/// A clock that moves when told to.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU32>);

impl Clock {
    /// The machine's clock, at tick 0 now.
    pub fn system() -> Clock {
        let scale =
            (u128::from(TICKS_PER_SECOND) << 64) / u128::from(tsc::hz().max(u64::from(TICKS_PER_SECOND) + 1));
        Clock::Tsc { start: tsc::now(), scale: scale as u64 }
    }

    /// A clock for tests, and the hand that moves it.
    pub fn manual() -> (Clock, ManualClock) {
        let hand = ManualClock::default();
        (Clock::Manual(hand.clone()), hand)
    }

    /// Now.
    #[inline(always)]
    pub fn now(&self) -> Ticks {
        self.read().0
    }

    /// Seconds since tick 0, which unlike ticks go on for 136 years.
    pub fn seconds(&self) -> u32 {
        self.read().1
    }

    /// Both, of one moment.
    #[inline(always)]
    pub fn read(&self) -> (Ticks, u32) {
        let ticks = match self {
            Clock::Tsc { start, scale } => {
                let counts = tsc::now().wrapping_sub(*start);
                ((u128::from(counts) * u128::from(*scale)) >> 64) as u64
            }
            Clock::Manual(hand) => u64::from(hand.0.load(Ordering::Relaxed)),
        };
        (Ticks(ticks as u32), (ticks / u64::from(TICKS_PER_SECOND)) as u32)
    }
}

impl ManualClock {
    /// Moves on.
    pub fn advance_seconds(&self, seconds: u32) {
        self.advance_ticks(seconds * TICKS_PER_SECOND);
    }

    /// Moves on by so many ticks.
    pub fn advance_ticks(&self, ticks: u32) {
        self.0.fetch_add(ticks, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn ticks_compare_across_wrap() {
        let late = Ticks(u32::MAX - 5);
        assert!(!late.after(10).is_past(late));
        assert!(late.after(10).is_past(late.after(10)));
        assert_eq!(late.after(10).since(late), 10);
    }

    #[test]
    fn system_clock_runs_at_its_rate() {
        let clock = Clock::system();
        let around = Instant::now();
        let start = clock.now();
        let within = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        let ticks_of = |began: Instant| began.elapsed().as_secs_f64() * f64::from(TICKS_PER_SECOND);
        let least = ticks_of(within);
        let ticks = f64::from(clock.now().since(start));
        let most = ticks_of(around);
        assert!(least * 0.98 - 1.0 < ticks && ticks < most * 1.02 + 1.0, "{ticks} ticks, {least} to {most}");
    }
}
