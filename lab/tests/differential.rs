//! The kernel's answers, recorded in the VM (scripts/golden), against dr-director: every scenario frame by frame, and its
//! listings. What differs is stated in `lab/differential/deviations` and argued in docs/DEVIATIONS.md.
//!
//! `DR_SCENARIOS=PREFIX,...` runs only those whose names start so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use lab::Network;
use lab::differential::collection;
use lab::differential::comparison::differences;
use lab::differential::deviations::Deviations;
use lab::differential::director::{Director, Scenario};
use lab::differential::frame::{Frame, Payload};
use lab::differential::neighbours::address_of;
use lab::differential::run::{Run, State, Subject};
use lab::differential::scenario::{Step, Transcript, has_packets};

/// Scenarios that may wait at the same time.
const WAITING_MAX: usize = 16;

/// A scenario that has begun.
struct Begun {
    name: String,
    scenario: Scenario,
    run: Run,
}

/// Whether nothing that it does changes what others see: then others may run while it waits.
fn is_local(steps: &[Step]) -> bool {
    !steps.iter().any(|step| match step {
        Step::Sysctl(..) => true,
        Step::Ipvsadm(command) => command.starts_with("--set") || command == "-Z",
        _ => false,
    })
}

fn waits(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Wait(_)))
}

/// In an order in which few of them, that follow each other, have names in common: one process may run the others.
fn in_groups(mut scenarios: Vec<(&String, Vec<Step>)>) -> Vec<(&String, Vec<Step>)> {
    let mut ordered = Vec::new();
    while !scenarios.is_empty() {
        let mut seen = BTreeSet::new();
        let (group, others) = scenarios.into_iter().partition::<Vec<_>, _>(|(name, steps)| {
            let names: BTreeSet<String> = Scenario::new(name, steps).names().collect();
            let is_apart = seen.is_disjoint(&names);
            if is_apart {
                seen.extend(names);
            }
            is_apart
        });
        ordered.extend(group);
        scenarios = others;
    }
    ordered
}

/// What came of scenarios.
#[derive(Default)]
struct Outcome {
    transcripts: BTreeMap<String, Transcript>,
    /// Scenarios that could not be run to their end, and why.
    broken: Vec<String>,
}

/// Runs scenarios on one director after the other.
struct Replay {
    director: Director,
    waiting: Vec<Begun>,
    transcripts: BTreeMap<String, Transcript>,
    /// Scenarios that could not be run to their end, and why.
    broken: Vec<String>,
}

impl Replay {
    /// Runs these scenarios on a director of their own.
    fn of(scenarios: Vec<(&String, Vec<Step>)>, start: impl FnOnce() -> Result<Director>) -> Result<Outcome> {
        if scenarios.is_empty() {
            return Ok(Outcome::default());
        }
        let director = start()?;
        let mut replay =
            Replay { director, waiting: Vec::new(), transcripts: BTreeMap::new(), broken: Vec::new() };
        for (name, steps) in scenarios {
            while replay.resume_due()? {}
            replay.begin(name, steps)?;
        }
        replay.finish_waiting()?;
        replay.director.process().assert_conservation()?;
        Ok(Outcome { transcripts: replay.transcripts, broken: replay.broken })
    }

    /// Begins a scenario; it is over afterwards, or waits if it may.
    fn begin(&mut self, name: &str, steps: Vec<Step>) -> Result<()> {
        let scenario = Scenario::new(name, &steps);
        let may_wait = is_local(&steps);
        if self.director.is_used_up(&scenario) || !may_wait || self.waiting.len() >= WAITING_MAX {
            self.finish_waiting()?;
        }
        if self.director.is_used_up(&scenario) {
            self.director.restart()?;
        }
        self.director.begin(scenario.clone());
        let mut begun = Begun { name: name.to_owned(), scenario, run: Run::new(steps) };
        if may_wait {
            return self.advance(begun);
        }
        while begun.run.state() != State::Over {
            begun.run.sleep();
            if let Err(error) = begun.run.advance(&mut self.director) {
                return self.break_off(&begun.name, &error);
            }
        }
        self.end(begun.name, begun.run)
    }

    /// Goes on with a scenario until it waits or is over.
    fn advance(&mut self, mut begun: Begun) -> Result<()> {
        self.director.swap(begun.scenario);
        while begun.run.state() == State::Ready {
            if let Err(error) = begun.run.advance(&mut self.director) {
                return self.break_off(&begun.name, &error);
            }
        }
        if begun.run.state() == State::Over {
            return self.end(begun.name, begun.run);
        }
        begun.scenario = self.director.swap(Scenario::default());
        self.waiting.push(begun);
        Ok(())
    }

    fn break_off(&mut self, name: &str, error: &anyhow::Error) -> Result<()> {
        self.broken.push(format!("{name}: {error:#}"));
        self.director.end().with_context(|| name.to_owned())
    }

    fn end(&mut self, name: String, run: Run) -> Result<()> {
        self.director.end().with_context(|| name.clone())?;
        self.transcripts.insert(name, run.transcript);
        Ok(())
    }

    /// Goes on with a scenario that has waited long enough, if there is one.
    fn resume_due(&mut self) -> Result<bool> {
        let now = Instant::now();
        let Some(place) = self.waiting.iter().position(|begun| begun.run.due() <= Some(now)) else {
            return Ok(false);
        };
        self.resume(place)?;
        Ok(true)
    }

    fn finish_waiting(&mut self) -> Result<()> {
        while let Some(place) = (0..self.waiting.len()).min_by_key(|&place| self.waiting[place].run.due()) {
            self.resume(place)?;
        }
        Ok(())
    }

    fn resume(&mut self, place: usize) -> Result<()> {
        let mut begun = self.waiting.swap_remove(place);
        begun.run.sleep();
        self.advance(begun)
    }
}

#[test]
fn director_does_what_the_kernel_does_or_what_is_stated() -> Result<()> {
    let mut golden = collection::golden()?;
    let wanted = std::env::var("DR_SCENARIOS").unwrap_or_default();
    golden.retain(|name, _| wanted.split(',').any(|prefix| name.starts_with(prefix)));
    ensure!(!golden.is_empty(), "no golden file starts with {wanted}");
    // Those that may wait side by side on one director, those whose settings are everybody's on another, and whole packets on
    // a third after them. Who waits comes first.
    let all = golden.iter().map(|(name, transcript)| (name, transcript.steps()));
    let (packets, others): (Vec<_>, Vec<_>) = all.partition(|(_, steps)| has_packets(steps));
    let (mut local, mut global): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(_, steps)| is_local(steps));
    local.sort_by_key(|(_, steps)| !waits(steps));
    global.sort_by_key(|(_, steps)| !waits(steps));
    let packets = in_groups(packets);
    let network = Network::new()?;
    let (local, others) = std::thread::scope(|scope| {
        let others = scope.spawn(|| -> Result<[Outcome; 2]> {
            let global = Replay::of(global, || Director::start(&network, 1))?;
            Ok([global, Replay::of(packets, || Director::start_for_packets(&network, 1))?])
        });
        (Replay::of(local, || Director::start(&network, 0)), others.join())
    });
    let [global, packets] = others.map_err(|_| anyhow!("the replay has panicked"))??;
    let outcomes = [local?, global, packets];

    let deviations = Deviations::read()?;
    let mut all: Vec<String> = outcomes.iter().flat_map(|outcome| outcome.broken.clone()).collect();
    for (name, transcript) in outcomes.iter().flat_map(|outcome| &outcome.transcripts) {
        all.extend(differences(name, &golden[name], transcript, deviations.rules())?);
    }
    let (unstated, stale) = deviations.check(&all);
    ensure!(unstated.is_empty(), "{} differences are not stated:\n{}", unstated.len(), unstated.join("\n"));
    ensure!(
        stale.is_empty() || !wanted.is_empty(),
        "stated deviations that are none any more:\n{}",
        stale.join("\n")
    );
    Ok(())
}

/// Connections that `twos` is tried with.
const LOTS: u16 = 8000;

/// Shares of [`LOTS`] UDP packets, each of another client's port, among RSs of the weights 1, 2, 3, 4.
fn shares_by_twos(director: &mut Director, vip: Ipv4Addr, options: &str) -> Result<[f64; 4]> {
    let service = SocketAddrV4::new(vip, 53);
    director.ipvsadm(&[&format!("-A -u {service} -s twos {options}")])?;
    for weight in 1..=4 {
        director.ipvsadm(&[&format!("-a -u {service} -r {} -w {weight}", address_of(10 + weight))])?;
    }
    let client = |port| SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 7), port);
    let frames: Vec<Frame> =
        (0..LOTS).map(|lot| Frame::new(client(20_000 + lot), service, Payload::Udp)).collect();
    let outcomes = director.wire().send(&frames.iter().collect::<Vec<_>>())?;
    let share = |octet: u8| {
        outcomes.iter().filter(|&&to| to == Some(address_of(octet))).count() as f64 / f64::from(LOTS)
    };
    Ok([11, 12, 13, 14].map(share))
}

#[test]
fn twos_shares_of_many_connections_are_those_of_the_weights() -> Result<()> {
    let network = Network::new()?;
    let mut director = Director::start(&network, 0)?;
    // Without connections nobody is loaded, and the first lot decides. Of the lots 0 to 10, as IPVS draws them, the RS that
    // was added last has one more. Five standard deviations.
    let by_lot = shares_by_twos(&mut director, Ipv4Addr::new(192, 0, 2, 10), "-o")?;
    for (share, lots) in by_lot.into_iter().zip([1.0, 2.0, 3.0, 5.0]) {
        let ideal: f64 = lots / 11.0;
        let allowed = 5.0 * (ideal * (1.0 - ideal) / f64::from(LOTS)).sqrt();
        ensure!((share - ideal).abs() <= allowed, "one-packet: {by_lot:?}");
    }
    // With them the second lot corrects the first: chance has no part in it any more.
    let by_load = shares_by_twos(&mut director, Ipv4Addr::new(192, 0, 2, 11), "")?;
    for (share, weight) in by_load.into_iter().zip([1.0, 2.0, 3.0, 4.0]) {
        ensure!((share - weight / 10.0).abs() <= 0.005, "with connections: {by_load:?}");
    }
    Ok(())
}

#[test]
fn every_stated_deviation_is_argued() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DEVIATIONS.md"))?;
    let deviations = Deviations::read()?;
    let reasons = deviations.reasons();
    let argued = page.lines().filter_map(|line| line.strip_prefix("### "));
    let argued: BTreeSet<&str> = argued.collect();
    ensure!(reasons == argued, "listed: {reasons:?}\nargued: {argued:?}");
    Ok(())
}
