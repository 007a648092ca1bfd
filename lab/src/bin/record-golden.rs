//! Runs scenarios through the kernel's IPVS and writes their golden files: in the VM, see scripts/golden.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::Network;
use lab::differential::collection;
use lab::differential::kernel::{self, Kernel};
use lab::differential::run::Run;
use lab::differential::scenario;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: record-golden OUTPUT_DIRECTORY PART PARTS [NAME_PREFIX...]";
    let output = PathBuf::from(arguments.next().context(usage)?);
    let part: usize = arguments.next().context(usage)?.parse()?;
    let parts: usize = arguments.next().context(usage)?.parse()?;
    let prefixes: Vec<String> = arguments.collect();
    kernel::load_modules()?;
    let network = Network::new()?;
    let far_end = network.add_host("far-end")?;
    let mut failed = 0;
    let mut scenarios: Vec<_> = collection::scenarios()?.into_iter().collect();
    if !prefixes.is_empty() {
        scenarios.retain(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    }
    for (number, (name, steps)) in scenarios.into_iter().enumerate().filter(|(n, _)| n % parts == part) {
        let vips6 = scenario::has_packets(&steps).then(|| collection::vip_network6(&name));
        let mut kernel = Kernel::set_up(&network, &far_end, number, vips6.as_deref())?;
        match Run::new(steps).finish(&mut kernel).with_context(|| name.clone()) {
            Ok(transcript) => fs::write(output.join(&name), transcript.to_string())?,
            Err(error) => {
                println!("{error:#}");
                failed += 1;
            }
        }
        kernel.remove()?;
    }
    anyhow::ensure!(failed == 0, "{failed} scenarios could not be recorded");
    Ok(())
}
