//! The run: for every number of flows, pairs of intervals, testpmd and the director in turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::arguments::Plan;
use crate::cpus::Cpus;
use crate::director::{Director, REAL_SERVERS};
use crate::forwarder::Forwarder;
use crate::hugepages::Borrowed;
use crate::interval::{Interval, Lengths};
use crate::listing::{self, Listing};
use crate::machine::Machine;
use crate::report;
use crate::results::{Case, Method, Pair, Results, Summary, bar};
use crate::sizing::Sizing;
use crate::testpmd::Testpmd;
use crate::traffic;

/// What stays the same for a run.
struct Bench<'a> {
    plan: &'a Plan,
    cpus: Cpus,
    borrowed: Borrowed,
    /// 2 MiB pages that were made free; 0: memory in small pages.
    hugepages: u64,
    /// Version of DPDK, once a director has said it.
    dpdk: String,
}

/// Measures.
pub(crate) fn run(plan: &Plan) -> Result<Results> {
    let mut bench = Bench::new(plan)?;
    let cases = plan.flows.iter().map(|&flows| bench.case(flows)).collect::<Result<Vec<_>>>()?;
    Ok(Results {
        machine: Machine::describe(bench.dpdk.clone()),
        method: Method {
            rounds: plan.rounds,
            interval_seconds: plan.interval.as_secs_f64(),
            warm_up_seconds: plan.warm_up.as_secs_f64(),
            worker_cpu: bench.cpus.worker,
            mbuf_data_room: Sizing::of(1).mbuf_data_room,
            hugepages: bench.hugepages,
            real_servers: REAL_SERVERS,
        },
        cases,
    })
}

/// Measures what listings of connections cost, and prints it.
pub(crate) fn listing(plan: &Plan, per_second: u32) -> Result<()> {
    let mut bench = Bench::new(plan)?;
    for &flows in &plan.flows {
        bench.listing(flows, per_second)?;
    }
    println!("{}", Machine::describe(bench.dpdk).in_words());
    Ok(())
}

/// Writes a pcap file for each number of flows, for the port with this MAC.
pub(crate) fn write_traffic(directory: &Path, flows: &[u32], mac: [u8; 6]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    for &flows in flows {
        let file = directory.join(format!("{flows}.pcap"));
        traffic::write_pcap(&file, flows, mac)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        println!("{}: {} frames", file.display(), Sizing::of(flows).frames);
    }
    Ok(())
}

impl Bench<'_> {
    fn new(plan: &Plan) -> Result<Bench<'_>> {
        let sizings = plan.flows.iter().map(|&flows| Sizing::of(flows));
        let hugepages =
            if plan.hugepages { sizings.map(|sizing| sizing.hugepages()).max().unwrap_or(0) } else { 0 };
        if cfg!(debug_assertions) {
            eprintln!("bench: built without --release: the director's rates say nothing");
        }
        let (cpus, borrowed) = (Cpus::choose()?, Borrowed::new(hugepages)?);
        Ok(Bench { plan, cpus, borrowed, hugepages, dpdk: "unknown".to_owned() })
    }

    /// The pcap file of so many flows, and the device that plays it for ever.
    fn traffic(&self, flows: u32) -> Result<(PathBuf, String)> {
        let traffic = self.borrowed.directory().join(format!("{flows}.pcap"));
        traffic::write_pcap(&traffic, flows, traffic::PORT_MAC)
            .with_context(|| format!("{} cannot be written", traffic.display()))?;
        let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", traffic.display());
        Ok((traffic, device))
    }

    fn case(&mut self, flows: u32) -> Result<Case> {
        let sizing = Sizing::of(flows);
        let (traffic, device) = self.traffic(flows)?;
        let mut pairs = Vec::new();
        for round in 1..=self.plan.rounds {
            let pair = self.pair(flows, &sizing, &device, round);
            let pair = pair.with_context(|| format!("{} flows, round {round}", report::grouped(flows)))?;
            eprintln!("{}", report::pair_line(flows, round, self.plan.rounds, &pair));
            pairs.push(pair);
        }
        fs::remove_file(&traffic)?;
        let summary = Summary::of(&pairs);
        let Sizing { mbufs, connection_capacity, .. } = sizing;
        Ok(Case { flows, mbufs, connection_capacity, pairs, bar: bar(flows), summary })
    }

    /// One interval of each; who is first changes from round to round, so that neither profits from a drift.
    fn pair(&mut self, flows: u32, sizing: &Sizing, device: &str, round: u32) -> Result<Pair> {
        if round % 2 == 1 {
            let testpmd = self.testpmd(flows, sizing, device).context("testpmd")?;
            let director = self.director(flows, sizing, device).context("director")?;
            Ok(Pair::new(testpmd, director))
        } else {
            let director = self.director(flows, sizing, device).context("director")?;
            let testpmd = self.testpmd(flows, sizing, device).context("testpmd")?;
            Ok(Pair::new(testpmd, director))
        }
    }

    fn testpmd(&self, flows: u32, sizing: &Sizing, device: &str) -> Result<Interval> {
        let began = Instant::now();
        let (hugepages, directory) = (self.plan.hugepages, self.borrowed.directory());
        let testpmd = Testpmd::start(device, sizing, hugepages, &self.cpus, directory)?;
        self.measure(Box::new(testpmd), flows, began)
    }

    fn director(&mut self, flows: u32, sizing: &Sizing, device: &str) -> Result<Interval> {
        let began = Instant::now();
        let director = self.start_director(sizing, device)?;
        self.measure(Box::new(director), flows, began)
    }

    fn start_director(&mut self, sizing: &Sizing, device: &str) -> Result<Director> {
        let (hugepages, directory) = (self.plan.hugepages, self.borrowed.directory());
        let director = Director::start(device, sizing, hugepages, &self.cpus, directory)?;
        self.dpdk.clone_from(&director.dpdk);
        Ok(director)
    }

    /// One director; intervals without and with a listing in turns.
    fn listing(&mut self, flows: u32, per_second: u32) -> Result<()> {
        let (traffic, device) = self.traffic(flows)?;
        let began = Instant::now();
        let mut director = self.start_director(&Sizing::of(flows), &device)?;
        let start = began.elapsed();
        let mut pairs = Vec::new();
        for _ in 0..self.plan.rounds {
            let quiet = Interval::measure(&mut director, flows, &self.cpus, self.lengths(), start)?;
            let listing = Listing::start(director.socket(), per_second)?;
            let listed = Interval::measure(&mut director, flows, &self.cpus, self.lengths(), start)?;
            pairs.push(listing::Pair::new(quiet, listed, listing.stop()?));
        }
        Box::new(director).stop()?;
        fs::remove_file(&traffic)?;
        println!("{}", listing::line(flows, &pairs));
        Ok(())
    }

    fn lengths(&self) -> Lengths {
        Lengths { warm_up: self.plan.warm_up, interval: self.plan.interval }
    }

    fn measure(&self, mut forwarder: Box<dyn Forwarder>, flows: u32, began: Instant) -> Result<Interval> {
        let interval =
            Interval::measure(&mut *forwarder, flows, &self.cpus, self.lengths(), began.elapsed())?;
        forwarder.stop()?;
        ensure!(interval.mpps.is_finite(), "the interval has no length");
        Ok(interval)
    }
}
