//! The command line, and what it asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ctl::mac::MacAddress;

/// Flows of the published runs.
const FLOWS: [u32; 4] = [1, 1024, 65_536, 1_000_000];

/// Pairs of intervals: an odd number has a median that was measured.
const ROUNDS: u32 = 7;

/// Most flows: two frames each, and director.mbuf_count ends at 2^24.
const FLOWS_MAX: i64 = 8_000_000;

/// Runs dpdk-testpmd (macswap) and dr-director in turns, on one worker core and the same traffic, and compares their
/// packet rates. Exit code 0: measured; 1: something failed or did not balance, or with --assert a bar was missed.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Arguments {
    /// Numbers of TCP flows.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = FLOWS,
          value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows: Vec<u32>,

    /// Pairs of intervals, one of each forwarder, for every number of flows.
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Length of an interval.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: Duration,

    /// Time before an interval, once every flow has its connection.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,

    /// Leave the hugepages alone: slower, on both sides.
    #[arg(long)]
    no_hugepages: bool,

    /// Does it still work? 1,024 flows, one round of a second, no hugepages.
    #[arg(long, conflicts_with_all = ["flows", "rounds", "seconds", "warm_up", "publish", "assert"])]
    quick: bool,

    /// What listings of connections cost the worker, instead: the director alone, without any and with so many a second.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with_all = ["publish", "assert", "json", "write_traffic"])]
    pub(crate) listing: Option<u32>,

    /// Exit code 1 where the ratio is below its bar.
    #[arg(long)]
    pub(crate) assert: bool,

    /// Draw docs/bench.svg and put the table into README.md.
    #[arg(long)]
    pub(crate) publish: bool,

    /// Where the results go, and beside them the plot [default: bench/results.json of the target directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Only write the traffic, a pcap file for each number of flows, to run either forwarder by hand.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) write_traffic: Option<PathBuf>,

    /// MAC that the written traffic is for [default: net_pcap's].
    #[arg(long, value_name = "MAC", requires = "write_traffic")]
    pub(crate) port_mac: Option<MacAddress>,
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Numbers of flows.
    pub(crate) flows: Vec<u32>,
    /// Pairs for each.
    pub(crate) rounds: u32,
    /// Length of an interval.
    pub(crate) interval: Duration,
    /// Time before each.
    pub(crate) warm_up: Duration,
    /// Memory in hugepages.
    pub(crate) hugepages: bool,
}

impl Arguments {
    /// What is to be measured.
    pub(crate) fn plan(&self) -> Plan {
        if self.quick {
            return Plan {
                flows: vec![1024],
                rounds: 1,
                interval: Duration::from_secs(1),
                warm_up: Duration::from_millis(200),
                hugepages: false,
            };
        }
        Plan {
            flows: self.flows.clone(),
            rounds: self.rounds,
            interval: self.seconds,
            warm_up: self.warm_up,
            hugepages: !self.no_hugepages,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err(format!("{text} is not within 0.1 and 3600"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_published_run_and_quick_is_one_short_pair_without_hugepages() {
        let plan = Arguments::parse_from(["bench"]).plan();
        assert_eq!((plan.flows.as_slice(), plan.rounds, plan.hugepages), (&FLOWS[..], ROUNDS, true));
        let quick = Arguments::parse_from(["bench", "--quick"]).plan();
        assert_eq!((quick.flows.as_slice(), quick.rounds, quick.hugepages), (&[1024][..], 1, false));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            ["--flows", "0"],
            ["--flows", "1,8000001"],
            ["--rounds", "0"],
            ["--seconds", "0"],
            ["--seconds", "NaN"],
            ["--warm-up", "x"],
            ["--quick", "--assert"],
            ["--port-mac", "02:00:00:00:00:01"],
        ] {
            let line = ["bench"].into_iter().chain(arguments);
            assert!(Arguments::try_parse_from(line).is_err(), "{arguments:?}");
        }
    }
}
