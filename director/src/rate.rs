//! A token bucket over time that is passed in: bounds what the control thread sends and logs.

use std::time::Duration;

/// So many tokens a second, so many saved up at most (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Time that one token takes to grow.
    interval: Duration,
    /// How far ahead of its rate a taker may be.
    tolerance: Duration,
    /// When the next token would be due at the rate.
    due: Duration,
}

impl RateLimit {
    /// `per_second` tokens a second and `burst` at once, both at least 1; full at the start.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        assert!(per_second > 0 && burst > 0);
        let nanoseconds = 1_000_000_000 / per_second as u64;
        RateLimit {
            interval: Duration::from_nanos(nanoseconds),
            tolerance: Duration::from_nanos(nanoseconds * (burst as u64 - 1)),
            due: Duration::ZERO,
        }
    }

    /// Takes a token where there is one.
    pub fn take(&mut self, now: Duration) -> bool {
        let due = self.due.max(now);
        let has_token = due - now <= self.tolerance;
        if has_token {
            self.due = due + self.interval;
        }
        has_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut limit = RateLimit::new(10, 3);
        let at = Duration::from_millis;
        let taken = |limit: &mut RateLimit, now| (0..10).filter(|_| limit.take(now)).count();
        assert_eq!(taken(&mut limit, at(0)), 3);
        assert_eq!(taken(&mut limit, at(99)), 0);
        assert_eq!(taken(&mut limit, at(100)), 1);
        assert_eq!(taken(&mut limit, at(350)), 2);
        assert_eq!(taken(&mut limit, at(60_000)), 3);
    }
}
