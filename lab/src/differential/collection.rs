//! Every scenario and every golden file, by name.
//!
//! A hand-made scenario is `lab/differential/scenarios/NAME`, its golden file `lab/differential/golden/NAME`; a generated one is
//! its golden file alone, `generated-SEED` or `packets-SEED`.
//!
//! One director runs many scenarios, and its connections outlive them: so each has VIPs of its own. A scenario says
//! 192.0.2.x, and that network becomes one that comes of its name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::generator;
use super::packet_generator;
use super::scenario::{self, Step, Transcript};

/// How many scenarios are generated, from the seeds 1, 2, 3, ...
pub const GENERATED: u32 = 220;

/// How many scenarios of whole packets are generated.
pub const GENERATED_PACKETS: u32 = 60;

/// The VIPs' network in a scenario's text.
const VIP_NETWORK: &str = "192.0.2.";

/// The same for IPv6.
const VIP_NETWORK6: &str = "2001:db8:2::";

/// Where scenarios, golden files and the list of deviations are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("differential")
}

/// All scenarios by name: the hand-made, and those from seeds.
pub fn scenarios() -> Result<BTreeMap<String, Vec<Step>>> {
    let mut scenarios = BTreeMap::new();
    for (name, text) in files(&directory().join("scenarios"))? {
        scenarios.insert(name.clone(), read(&name, &text)?);
    }
    for seed in 1..=GENERATED {
        let name = format!("generated-{seed:03}");
        scenarios.insert(name.clone(), read(&name, &generator::generate(seed))?);
    }
    for seed in 1..=GENERATED_PACKETS {
        let name = format!("packets-{seed:03}");
        scenarios.insert(name.clone(), read(&name, &packet_generator::generate(seed))?);
    }
    Ok(scenarios)
}

/// All golden files by name.
pub fn golden() -> Result<BTreeMap<String, Transcript>> {
    let files = files(&directory().join("golden"))?;
    let read = |(name, text): (String, String)| {
        let transcript = Transcript::parse(&text).with_context(|| format!("golden/{name}"))?;
        Ok((name, transcript))
    };
    files.into_iter().map(read).collect()
}

fn read(name: &str, text: &str) -> Result<Vec<Step>> {
    let text = text.replace(VIP_NETWORK, &vip_network(name)).replace(VIP_NETWORK6, &vip_network6(name));
    scenario::parse(&text).with_context(|| name.to_owned())
}

/// The VIPs' network of a scenario: one of 32,768 in 10.128.0.0/9.
pub fn vip_network(name: &str) -> String {
    let [high, low] = hash(name).to_be_bytes();
    format!("10.{}.{low}.", 128 | high)
}

/// The IPv6 VIPs' network of a scenario: one of 32,768 of 64 bits in 2001:db8:2::/48.
pub fn vip_network6(name: &str) -> String {
    format!("2001:db8:2:{:x}::", 0x8000 | hash(name))
}

/// FNV-1a, 32 bits, folded.
fn hash(name: &str) -> u16 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) as u16
}

fn files(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
        files.push((name, fs::read_to_string(&path)?));
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_is_read_and_its_marks_are_its_own() {
        let mut marks: BTreeMap<u32, String> = BTreeMap::new();
        for (name, steps) in scenarios().unwrap() {
            let own: BTreeSet<u32> = steps
                .iter()
                .filter_map(|step| if let Step::Member { mark, .. } = step { Some(*mark) } else { None })
                .collect();
            for mark in own {
                let other = marks.insert(mark, name.clone());
                assert_eq!(other, None, "mark {mark} of {name}");
            }
        }
    }

    #[test]
    fn golden_files_are_of_the_scenarios_that_there_are() {
        let (scenarios, golden) = (scenarios().unwrap(), golden().unwrap());
        assert!(scenarios.keys().eq(golden.keys()), "run scripts/golden");
        for (name, transcript) in golden {
            assert!(transcript.steps() == scenarios[&name], "{name} has changed: run scripts/golden");
        }
    }
}
