//! bench: dr-director beside dpdk-testpmd on the same traffic, the same core and the same port.
//!
//! | file | holds |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`traffic`] | the frames of every flow, as pcap files |
//! | [`sizing`] | mbufs, memory and hugepages that a number of flows takes, the same for both |
//! | [`hugepages`] | taken from the kernel, and given back whatever happens |
//! | [`cpus`] | one core for the worker under test, another for everything else |
//! | [`process`] | a process that ends with this one |
//! | [`testpmd`], [`director`] | the two that are compared, as a [`forwarder::Forwarder`] each |
//! | [`interval`] | counters read twice, and what makes the time between them worth little |
//! | [`listing`] | `--listing`: what listings of connections cost the worker |
//! | [`run`] | pairs of intervals for every number of flows |
//! | [`results`] | what came of it: the JSON, medians and spreads, the bars |
//! | [`machine`] | where it ran |
//! | [`report`] | tables: for the terminal, for README.md |
//! | [`plot`] | the SVG |
//! | [`publish`] | README.md and docs/bench.svg |

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

mod arguments;
mod cpus;
mod director;
mod forwarder;
mod hugepages;
mod interval;
mod listing;
mod machine;
mod plot;
mod process;
mod publish;
mod report;
mod results;
mod run;
mod sizing;
mod testpmd;
mod traffic;

use arguments::{Arguments, Plan};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match bench(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(directory) = &arguments.write_traffic {
        let mac = arguments.port_mac.map_or(traffic::PORT_MAC, |mac| mac.0);
        run::write_traffic(directory, &arguments.plan().flows, mac)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan: Plan = arguments.plan();
    if let Some(per_second) = arguments.listing {
        run::listing(&plan, per_second)?;
        return Ok(ExitCode::SUCCESS);
    }
    let results = run::run(&plan)?;
    let file = match &arguments.json {
        Some(file) => file.clone(),
        None => results::default_file()?,
    };
    results.write(&file)?;
    let drawing = file.with_extension("svg");
    std::fs::write(&drawing, plot::svg(&results))
        .with_context(|| format!("{} cannot be written", drawing.display()))?;
    print!("{}", report::for_terminal(&results));
    println!("Every interval: {}, plot: {}", file.display(), drawing.display());
    if arguments.publish {
        publish::publish(&results)?;
    }
    let missed = results.cases.iter().any(|case| case.meets_bar() == Some(false));
    Ok(if arguments.assert && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
