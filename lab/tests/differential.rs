//! The kernel's answers, recorded in the VM (scripts/golden), against dr-director: every scenario frame by frame, and its
//! listings. What differs is stated in `lab/differential/deviations` and argued in docs/DEVIATIONS.md.
//!
//! `DR_SCENARIOS=PREFIX,...` runs only those whose names start so.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use lab::Network;
use lab::differential::collection;
use lab::differential::comparison::{Deviations, differences};
use lab::differential::director::{Director, Scenario};
use lab::differential::run::{Run, State};
use lab::differential::scenario::{Step, Transcript};

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
    fn of(scenarios: Vec<(&String, Vec<Step>)>, network: &Network, place: usize) -> Result<Replay> {
        let director = Director::start(network, place)?;
        let mut replay =
            Replay { director, waiting: Vec::new(), transcripts: BTreeMap::new(), broken: Vec::new() };
        for (name, steps) in scenarios {
            while replay.resume_due()? {}
            replay.begin(name, steps)?;
        }
        replay.finish_waiting()?;
        replay.director.process().assert_conservation()?;
        Ok(replay)
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
    // Those that may wait side by side on one director, those whose settings are everybody's on another. Who waits comes
    // first.
    let (mut local, mut global): (Vec<_>, Vec<_>) = golden
        .iter()
        .map(|(name, transcript)| (name, transcript.steps()))
        .partition(|(_, steps)| is_local(steps));
    local.sort_by_key(|(_, steps)| !waits(steps));
    global.sort_by_key(|(_, steps)| !waits(steps));
    let network = Network::new()?;
    let (local, global) = std::thread::scope(|scope| {
        let other = scope.spawn(|| Replay::of(global, &network, 1));
        (Replay::of(local, &network, 0), other.join())
    });
    let global = global.map_err(|_| anyhow!("the replay has panicked"))??;
    let replays = [local?, global];

    let mut all: Vec<String> = replays.iter().flat_map(|replay| replay.broken.clone()).collect();
    for (name, transcript) in replays.iter().flat_map(|replay| &replay.transcripts) {
        all.extend(differences(name, &golden[name], transcript)?);
    }
    let deviations = Deviations::read()?;
    let (unstated, stale) = deviations.check(&all);
    ensure!(unstated.is_empty(), "{} differences are not stated:\n{}", unstated.len(), unstated.join("\n"));
    ensure!(
        stale.is_empty() || !wanted.is_empty(),
        "stated deviations that are none any more:\n{}",
        stale.join("\n")
    );
    Ok(())
}

#[test]
fn every_stated_deviation_is_argued() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DEVIATIONS.md"))?;
    let deviations = Deviations::read()?;
    let reasons = deviations.reasons();
    let argued = page.lines().filter_map(|line| line.strip_prefix("### "));
    let argued: std::collections::BTreeSet<&str> = argued.collect();
    ensure!(reasons == argued, "listed: {reasons:?}\nargued: {argued:?}");
    Ok(())
}
