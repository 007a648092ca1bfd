//! What came of a run: every interval, medians and spreads, the bars.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::interval::Interval;
use crate::machine::Machine;

/// Least ratio to testpmd's macswap, by flows: goals, and information unless --assert is given.
const BARS: [(u32, f64); 3] = [(1024, 0.45), (65_536, 0.42), (1_000_000, 0.38)];

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    /// Where.
    pub(crate) machine: Machine,
    /// How.
    pub(crate) method: Method,
    /// What, for each number of flows.
    pub(crate) cases: Vec<Case>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Method {
    /// Pairs of intervals for each number of flows.
    pub(crate) rounds: u32,
    /// Length of an interval, as asked for.
    pub(crate) interval_seconds: f64,
    /// Time before each.
    pub(crate) warm_up_seconds: f64,
    /// CPU of the worker.
    pub(crate) worker_cpu: usize,
    /// Bytes of an mbuf, headroom included, on both sides.
    pub(crate) mbuf_data_room: u16,
    /// 2 MiB pages that were free for either side; 0: memory in small pages.
    pub(crate) hugepages: u64,
    /// Real servers of the director's service.
    pub(crate) real_servers: u8,
}

/// One number of flows.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Case {
    /// Flows.
    pub(crate) flows: u32,
    /// Mbufs, on both sides.
    pub(crate) mbufs: u32,
    /// Connections that the director could hold.
    pub(crate) connection_capacity: u32,
    /// Every pair.
    pub(crate) pairs: Vec<Pair>,
    /// The bar, where there is one.
    pub(crate) bar: Option<f64>,
    /// What they come to.
    pub(crate) summary: Summary,
}

/// Two intervals, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pair {
    /// testpmd's.
    pub(crate) testpmd: Interval,
    /// The director's.
    pub(crate) director: Interval,
    /// The director's rate by testpmd's.
    pub(crate) ratio: f64,
    /// What makes it worth little.
    pub(crate) disturbances: Vec<String>,
}

/// Medians and spreads over the pairs that count.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    /// Pairs that count: the undisturbed ones, or all where fewer than half are undisturbed.
    pub(crate) pairs_counted: usize,
    /// Pairs that were disturbed.
    pub(crate) pairs_disturbed: usize,
    /// Disturbed pairs count, for want of others.
    pub(crate) is_noisy: bool,
    /// testpmd, million packets a second.
    pub(crate) testpmd_mpps: Spread,
    /// The director, million packets a second.
    pub(crate) director_mpps: Spread,
    /// testpmd, nanoseconds of the core for each packet.
    pub(crate) testpmd_ns: Spread,
    /// The director, nanoseconds of the core for each packet.
    pub(crate) director_ns: Spread,
    /// Of the pairs' ratios, which is not the ratio of the medians.
    pub(crate) ratio: Spread,
}

/// A median and how the values lie around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Half are below.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// A quarter is below.
    pub(crate) lower_quartile: f64,
    /// Three quarters are below.
    pub(crate) upper_quartile: f64,
    /// The most.
    pub(crate) max: f64,
}

impl Pair {
    /// Of two intervals.
    pub(crate) fn new(testpmd: Interval, director: Interval) -> Pair {
        let named = |name: &str, interval: &Interval| {
            interval.disturbances().into_iter().map(|what| format!("{name}: {what}")).collect::<Vec<_>>()
        };
        let disturbances = [named("testpmd", &testpmd), named("director", &director)].concat();
        Pair { ratio: director.mpps / testpmd.mpps, testpmd, director, disturbances }
    }
}

impl Summary {
    /// Of at least one pair.
    pub(crate) fn of(pairs: &[Pair]) -> Summary {
        let quiet: Vec<&Pair> = pairs.iter().filter(|pair| pair.disturbances.is_empty()).collect();
        let is_noisy = quiet.len() * 2 < pairs.len();
        let counted = if is_noisy { pairs.iter().collect() } else { quiet.clone() };
        let spread = |value: fn(&Pair) -> f64| Spread::of(counted.iter().map(|pair| value(pair)).collect());
        Summary {
            pairs_counted: counted.len(),
            pairs_disturbed: pairs.len() - quiet.len(),
            is_noisy,
            testpmd_mpps: spread(|pair| pair.testpmd.mpps),
            director_mpps: spread(|pair| pair.director.mpps),
            testpmd_ns: spread(|pair| pair.testpmd.ns_per_packet),
            director_ns: spread(|pair| pair.director.ns_per_packet),
            ratio: spread(|pair| pair.ratio),
        }
    }
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(mut values: Vec<f64>) -> Spread {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len() - 1;
        // Between two values in proportion, as numpy and R do by default.
        let quantile = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Spread {
            median: quantile(0.5),
            min: values[0],
            lower_quartile: quantile(0.25),
            upper_quartile: quantile(0.75),
            max: values[last],
        }
    }
}

impl Case {
    /// Whether the ratio's median reaches the bar, where there is one.
    pub(crate) fn meets_bar(&self) -> Option<bool> {
        self.bar.map(|bar| self.summary.ratio.median >= bar)
    }
}

/// The bar for a number of flows.
pub(crate) fn bar(flows: u32) -> Option<f64> {
    BARS.iter().find(|(of, _)| *of == flows).map(|(_, bar)| *bar)
}

impl Results {
    /// Writes the JSON.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("{} cannot be made", directory.display()))?;
        }
        fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// Where results go unless told otherwise: `target/bench/results.json`.
pub(crate) fn default_file() -> Result<PathBuf> {
    let build = build_directory()?;
    Ok(build.parent().unwrap_or(&build).join("bench/results.json"))
}

/// Where this program is, `target/release`, or above it where its tests are.
pub(crate) fn build_directory() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let directory = program.parent().context("the program has no directory")?;
    let is_test = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_test { directory.parent().unwrap_or(directory) } else { directory }.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn interval(mpps: f64, worker_percent: f64) -> Interval {
        Interval {
            seconds: 2.0,
            packets: (mpps * 2e6) as u64,
            mpps,
            ns_per_packet: 1e3 / mpps,
            steal_percent: 0.0,
            worker_percent,
            doubt_percent: 0.0,
            start_seconds: 0.3,
        }
    }

    /// Results made up for tests of what shows them.
    pub(crate) fn made_up() -> Results {
        let case = |flows, rates: &[(f64, f64, f64)]| {
            let pairs: Vec<Pair> = rates
                .iter()
                .map(|&(testpmd, director, worker)| {
                    Pair::new(interval(testpmd, 100.0), interval(director, worker))
                })
                .collect();
            let summary = Summary::of(&pairs);
            Case { flows, mbufs: 1, connection_capacity: 1, pairs, bar: bar(flows), summary }
        };
        Results {
            machine: Machine::describe("22.11.0".to_owned()),
            method: Method {
                rounds: 3,
                interval_seconds: 2.0,
                warm_up_seconds: 1.0,
                worker_cpu: 1,
                mbuf_data_room: 256,
                hugepages: 100,
                real_servers: 16,
            },
            cases: vec![
                case(1, &[(50.0, 30.0, 100.0), (52.0, 31.0, 100.0), (51.0, 30.5, 100.0)]),
                case(1024, &[(40.0, 20.0, 100.0), (42.0, 20.0, 100.0), (41.0, 12.0, 60.0)]),
                case(1_000_000, &[(25.0, 9.0, 50.0), (26.0, 9.0, 50.0), (24.0, 9.0, 100.0)]),
            ],
        }
    }

    #[test]
    fn spread_of_known_values() {
        let expected = Spread { median: 2.5, min: 1.0, lower_quartile: 1.75, upper_quartile: 3.25, max: 4.0 };
        assert_eq!(Spread::of(vec![4.0, 1.0, 3.0, 2.0]), expected);
        let one = Spread::of(vec![7.0]);
        assert_eq!((one.median, one.min, one.upper_quartile), (7.0, 7.0, 7.0));
    }

    #[test]
    fn disturbed_pairs_do_not_count_unless_most_are() {
        let results = made_up();
        let [_, some, most] = &results.cases[..] else { panic!("three cases") };
        assert_eq!((some.summary.pairs_counted, some.summary.pairs_disturbed), (2, 1));
        assert!(!some.summary.is_noisy && some.summary.ratio.min > 0.47);
        assert_eq!((most.summary.pairs_counted, most.summary.pairs_disturbed), (3, 2));
        assert!(most.summary.is_noisy);
    }

    #[test]
    fn bars_are_met_or_missed_by_the_median_and_other_flows_have_none() {
        let met: Vec<_> = made_up().cases.iter().map(Case::meets_bar).collect();
        assert_eq!(met, [None, Some(true), Some(false)]);
    }

    #[test]
    fn results_are_written_as_json_into_a_directory_that_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/b/results.json");
        made_up().write(&file).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(read["cases"][1]["flows"], 1024);
        assert_eq!(read["cases"][1]["summary"]["ratio"]["max"], 0.5);
    }
}
