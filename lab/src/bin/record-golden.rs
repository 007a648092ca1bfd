//! Runs scenarios through the kernel's IPVS and writes their golden files: in the VM, see scripts/golden.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use lab::Network;
use lab::differential::kernel::{self, Kernel};
use lab::differential::{collection, run};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: record-golden OUTPUT_DIRECTORY [NAME_PREFIX...]";
    let output = PathBuf::from(arguments.next().context(usage)?);
    let prefixes: Vec<String> = arguments.collect();
    kernel::load_modules()?;
    let network = Network::new()?;
    let far_end = network.add_host("far-end")?;
    let mut failed = 0;
    for (number, (name, steps)) in collection::scenarios()?.into_iter().enumerate() {
        if !prefixes.is_empty() && !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut kernel = Kernel::set_up(&network, &far_end, number)?;
        match run::run(&steps, &mut kernel) {
            Ok(transcript) => fs::write(output.join(&name), transcript.to_string())?,
            Err(error) => {
                println!("{name}: {error:#}");
                failed += 1;
            }
        }
        kernel.remove()?;
    }
    anyhow::ensure!(failed == 0, "{failed} scenarios could not be recorded");
    Ok(())
}
