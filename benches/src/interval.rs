//! An interval: counters read twice while a forwarder runs, and what else happened to its core meanwhile.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::cpus::Cpus;
use crate::forwarder::Forwarder;

/// Time that the hypervisor took from the worker's CPU: more makes an interval worth little.
const STEAL_PERCENT_MAX: f64 = 2.0;
/// Time that the worker's thread had its CPU: less does.
const WORKER_PERCENT_MIN: f64 = 98.0;
/// Uncertainty of the interval's length: more does.
const DOUBT_PERCENT_MAX: f64 = 0.5;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Interval {
    /// Its length.
    pub(crate) seconds: f64,
    /// Packets received in it; all were forwarded.
    pub(crate) packets: u64,
    /// Million packets a second.
    pub(crate) mpps: f64,
    /// Time of the worker's core for each packet.
    pub(crate) ns_per_packet: f64,
    /// Steal of the worker's CPU.
    pub(crate) steal_percent: f64,
    /// Share of its CPU that the worker's thread had.
    pub(crate) worker_percent: f64,
    /// How far off `seconds` may be.
    pub(crate) doubt_percent: f64,
    /// From the start of the process until it forwarded.
    pub(crate) start_seconds: f64,
}

impl Interval {
    /// Measures a forwarder that took `start` to start.
    pub(crate) fn measure(
        forwarder: &mut dyn Forwarder,
        flows: u32,
        cpus: &Cpus,
        lengths: Lengths,
        start: Duration,
    ) -> Result<Interval> {
        forwarder.settle(flows)?;
        std::thread::sleep(lengths.warm_up);
        let core_before = CoreTimes::read(cpus.worker, forwarder.id())?;
        let before = forwarder.read()?;
        std::thread::sleep(lengths.interval);
        let after = forwarder.read()?;
        let core_after = CoreTimes::read(cpus.worker, forwarder.id())?;
        before.counters.check(flows)?;
        after.counters.check(flows)?;
        let packets = after.counters.received.saturating_sub(before.counters.received);
        ensure!(packets > 0, "no packet was received in {:.1} s", lengths.interval.as_secs_f64());
        let seconds = (after.at - before.at).as_secs_f64();
        Ok(Interval {
            seconds,
            packets,
            mpps: packets as f64 / seconds / 1e6,
            ns_per_packet: seconds * 1e9 / packets as f64,
            steal_percent: core_after.steal_percent_since(&core_before),
            worker_percent: core_after.worker_percent_since(&core_before),
            doubt_percent: (before.doubt + after.doubt).as_secs_f64() / seconds * 100.0,
            start_seconds: start.as_secs_f64(),
        })
    }

    /// Why it is worth little; empty where it is not.
    pub(crate) fn disturbances(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.steal_percent > STEAL_PERCENT_MAX {
            found.push(format!("steal {:.1} %", self.steal_percent));
        }
        if self.worker_percent < WORKER_PERCENT_MIN {
            found.push(format!("worker had {:.0} % of its CPU", self.worker_percent));
        }
        if self.doubt_percent > DOUBT_PERCENT_MAX {
            found.push(format!("length uncertain by {:.1} %", self.doubt_percent));
        }
        found
    }
}

/// How long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Before an interval.
    pub(crate) warm_up: Duration,
    /// An interval.
    pub(crate) interval: Duration,
}

/// Times of a CPU and of a process's threads since they started.
struct CoreTimes {
    at: std::time::Instant,
    /// In clock ticks.
    steal: u64,
    /// In clock ticks, everything together.
    total: u64,
    /// By thread id: nanoseconds on a CPU.
    threads: Vec<(u32, u64)>,
}

impl CoreTimes {
    fn read(cpu: usize, process: u32) -> Result<CoreTimes> {
        let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let (steal, total) =
            steal_and_total(&stat, cpu).with_context(|| format!("/proc/stat has no cpu{cpu}"))?;
        Ok(CoreTimes { at: std::time::Instant::now(), steal, total, threads: thread_times(process)? })
    }

    fn steal_percent_since(&self, earlier: &CoreTimes) -> f64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.steal.saturating_sub(earlier.steal) as f64 / total as f64 * 100.0
    }

    /// Of the busiest thread, which is the one that polls.
    fn worker_percent_since(&self, earlier: &CoreTimes) -> f64 {
        let gained = self.threads.iter().map(|&(thread, now)| {
            let before =
                earlier.threads.iter().find(|(other, _)| *other == thread).map_or(0, |(_, time)| *time);
            now.saturating_sub(before)
        });
        let nanoseconds = gained.max().unwrap_or(0) as f64;
        nanoseconds / (self.at - earlier.at).as_nanos() as f64 * 100.0
    }
}

/// From /proc/stat (proc_stat(5)): user nice system idle iowait irq softirq steal; guest times are in user's already.
fn steal_and_total(stat: &str, cpu: usize) -> Option<(u64, u64)> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
    let times: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map_while(|time| time.parse().ok()).collect();
    Some((*times.get(7)?, times.iter().sum()))
}

/// From /proc/PID/task/TID/schedstat: time on a CPU, time waiting for one, time slices.
fn thread_times(process: u32) -> Result<Vec<(u32, u64)>> {
    let tasks = format!("/proc/{process}/task");
    let tasks = fs::read_dir(&tasks).with_context(|| tasks.clone())?;
    // A thread may end meanwhile.
    let times = tasks.flatten().filter_map(|task| {
        let thread = task.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some((thread, text.split_whitespace().next()?.parse().ok()?))
    });
    Ok(times.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_read_of_the_right_cpu() {
        let stat = "cpu  10 0 10 10 0 0 0 9 0 0\ncpu1 1 2 3 4 5 6 7 8 9 10\ncpu10 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(steal_and_total(stat, 1), Some((8, 36)));
        assert_eq!(steal_and_total(stat, 10), Some((1, 8)));
        assert_eq!(steal_and_total(stat, 0), None);
    }

    #[test]
    fn worker_is_the_thread_that_gained_most() {
        let at = std::time::Instant::now();
        let earlier = CoreTimes { at, steal: 0, total: 0, threads: vec![(1, 900), (2, 0)] };
        let later = CoreTimes {
            at: at + Duration::from_nanos(1000),
            steal: 1,
            total: 100,
            threads: vec![(1, 950), (2, 990), (3, 10)],
        };
        assert!((later.worker_percent_since(&earlier) - 99.0).abs() < 1e-9);
        assert!((later.steal_percent_since(&earlier) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn own_threads_have_times() {
        assert!(!thread_times(std::process::id()).unwrap().is_empty());
    }

    #[test]
    fn disturbances_name_what_happened() {
        let quiet = Interval {
            seconds: 2.0,
            packets: 1,
            mpps: 0.0,
            ns_per_packet: 0.0,
            steal_percent: 0.5,
            worker_percent: 99.9,
            doubt_percent: 0.01,
            start_seconds: 0.3,
        };
        assert!(quiet.disturbances().is_empty());
        let loud = Interval { steal_percent: 2.1, worker_percent: 50.0, doubt_percent: 1.0, ..quiet };
        let expected = ["steal 2.1 %", "worker had 50 % of its CPU", "length uncertain by 1.0 %"];
        assert_eq!(loud.disturbances(), expected);
    }
}
