//! Rates as IPVS estimates them (`ip_vs_est.c`): every 2 s a quarter of the way to the rate of these 2 s, in the kernel's
//! own fixed point, so that `ipvsadm -L --rate` shows here what it shows there.
//!
//! Pure: counters and time go in. What runs it when is `rates.rs`.

use std::time::Duration;

use ctl::protocol::{TrafficCounters, TrafficRates};

/// Time between two looks at the counters.
pub const PERIOD: Duration = Duration::from_secs(2);

/// Binary places behind the point of connections and packets a second.
const COUNT_SHIFT: u32 = 10;
/// The same of bytes a second.
const BYTE_SHIFT: u32 = 5;

/// The rates of one service or real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    connections: u64,
    packets: u64,
    bytes: u64,
    reply_packets: u64,
    reply_bytes: u64,
}

impl Estimator {
    /// So much came in `elapsed`. The kernel's sum where that is [`PERIOD`]; a look that came late counts for the time
    /// that it was.
    pub fn add(&mut self, counted: TrafficCounters, elapsed: Duration) {
        let milliseconds = elapsed.as_millis().max(1);
        approach(&mut self.connections, scaled(counted.connections, COUNT_SHIFT, milliseconds));
        approach(&mut self.packets, scaled(counted.packets, COUNT_SHIFT, milliseconds));
        approach(&mut self.bytes, scaled(counted.bytes, BYTE_SHIFT, milliseconds));
        approach(&mut self.reply_packets, scaled(counted.reply_packets, COUNT_SHIFT, milliseconds));
        approach(&mut self.reply_bytes, scaled(counted.reply_bytes, BYTE_SHIFT, milliseconds));
    }

    /// As `ip_vs_read_estimator` rounds them.
    pub fn rates(&self) -> TrafficRates {
        TrafficRates {
            connections_per_second: (self.connections + 0x1ff) >> COUNT_SHIFT,
            packets_per_second: (self.packets + 0x1ff) >> COUNT_SHIFT,
            bytes_per_second: (self.bytes + 0xf) >> BYTE_SHIFT,
            reply_packets_per_second: (self.reply_packets + 0x1ff) >> COUNT_SHIFT,
            reply_bytes_per_second: (self.reply_bytes + 0xf) >> BYTE_SHIFT,
        }
    }
}

fn scaled(count: u64, shift: u32, milliseconds: u128) -> i64 {
    let per_second = ((u128::from(count) * 1000) << shift) / milliseconds;
    i64::try_from(per_second).unwrap_or(i64::MAX)
}

/// The shift of a negative difference rounds down, as in the kernel: a rate falls to 0 and does not stop above it.
fn approach(average: &mut u64, rate: i64) {
    let difference = rate.saturating_sub_unsigned(*average);
    *average = average.saturating_add_signed(difference >> 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(connections: u64, packets: u64, bytes: u64) -> TrafficCounters {
        TrafficCounters { connections, packets, bytes, reply_packets: packets, reply_bytes: bytes }
    }

    fn rates(estimator: &Estimator) -> [u64; 3] {
        let rates = estimator.rates();
        assert_eq!(rates.reply_packets_per_second, rates.packets_per_second);
        assert_eq!(rates.reply_bytes_per_second, rates.bytes_per_second);
        [rates.connections_per_second, rates.packets_per_second, rates.bytes_per_second]
    }

    /// Worked out by hand from `ip_vs_est.c`: 200 connections in 2 s are (200 << 9) = 102,400, a quarter of it 25,600,
    /// shown (25,600 + 511) >> 10 = 25; then 25,600 + (102,400 - 25,600 >> 2) = 44,800, shown 44; and so on. Packets are
    /// ten times that. 6,000 bytes in 2 s are (6,000 << 4) = 96,000.
    #[test]
    fn steady_load_is_approached_in_the_kernels_steps() {
        let mut estimator = Estimator::default();
        let mut shown = Vec::new();
        for _ in 0..6 {
            estimator.add(counted(200, 2_000, 6_000), PERIOD);
            shown.push(rates(&estimator));
        }
        assert_eq!(
            shown,
            [
                [25, 250, 750],
                [44, 437, 1312],
                [58, 578, 1734],
                [68, 684, 2051],
                [76, 763, 2288],
                [82, 822, 2466]
            ]
        );
    }

    #[test]
    fn silence_brings_a_rate_down_to_nothing() {
        let mut estimator = Estimator::default();
        estimator.add(counted(8, 8, 8), PERIOD);
        // (8 << 9) >> 2 = 1024, shown (1024 + 511) >> 10 = 1.
        assert_eq!(rates(&estimator), [1, 1, 1]);
        estimator.add(TrafficCounters::default(), PERIOD);
        // 1024 - 256 = 768, shown (768 + 511) >> 10 = 1.
        assert_eq!(rates(&estimator)[0], 1);
        for _ in 0..40 {
            estimator.add(TrafficCounters::default(), PERIOD);
        }
        assert_eq!(estimator, Estimator::default());
    }

    #[test]
    fn late_look_counts_for_the_time_that_passed() {
        let (mut on_time, mut late) = (Estimator::default(), Estimator::default());
        on_time.add(counted(100, 100, 100), PERIOD);
        late.add(counted(250, 250, 250), PERIOD * 5 / 2);
        assert_eq!(on_time, late);
    }

    #[test]
    fn impossible_numbers_saturate() {
        let mut estimator = Estimator::default();
        estimator.add(counted(u64::MAX, u64::MAX, u64::MAX), Duration::ZERO);
        estimator.add(counted(u64::MAX, u64::MAX, u64::MAX), PERIOD);
        assert!(rates(&estimator).iter().all(|&rate| rate > 0));
    }
}
