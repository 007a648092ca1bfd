//! Seconds since 1970 as people read them, and the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

const SECONDS_A_DAY: u64 = 86_400;
/// A cycle of the Gregorian calendar: 400 years.
const DAYS_A_CYCLE: u64 = 146_097;
/// From 0000-03-01, where cycles begin, to 1970-01-01.
const DAYS_TO_1970: u64 = 719_468;

/// Now, in seconds since 1970; a clock before that is at 0.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `2026-11-20T19:24:00Z`. (RFC 3339; days as in Hinnant's `civil_from_days`: years begin in March, so that a leap
/// day is a year's last.)
pub fn text(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / SECONDS_A_DAY + DAYS_TO_1970, unix_seconds % SECONDS_A_DAY);
    let (cycle, day) = (days / DAYS_A_CYCLE, days % DAYS_A_CYCLE);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = cycle * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `date -u -d @N +%FT%TZ` prints them.
    #[test]
    fn moments_read_as_date_prints_them() {
        for (seconds, text_) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_763_666_640, "2025-11-20T19:24:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(text(seconds), text_);
        }
        assert!(!text(u64::MAX).is_empty());
    }
}
