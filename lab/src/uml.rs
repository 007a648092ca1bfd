//! Tests that need more of a kernel than this machine's need have: tunnels, VLANs, SCTP. They run in User-mode Linux
//! (`lab/uml/run`), all of a test binary in one start of it, and each result is reported where the test was asked for.
//!
//! ```text
//!  cargo test --test tunnels gre      the tests outside: the first starts the guest, each reports the result of its own
//!    └─ lab/uml/run tunnels gre       the same binary inside: network namespaces, director and all
//! ```
//!
//! The guest has one CPU, which the director's worker polls on. What a director sent is therefore dissected outside, from
//! the captures that the tests inside leave.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::dissection;
use crate::network::Network;
use crate::process::{self, Process};

/// Set inside, to the directory that is the one way out.
const OUTPUT_VARIABLE: &str = "DR_UML_OUTPUT";

/// The same, where it is mounted inside.
const OUTPUT_INSIDE: &str = "/out";

/// Memory of the guest: all of its files are in there.
const MEMORY_MIB: &str = "3072";

/// How long a guest may take.
const GUEST_HANGS: Duration = Duration::from_secs(1800);

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What became of each test in the guest.
struct Results {
    output: String,
    outcomes: HashMap<String, bool>,
    faults: HashMap<String, String>,
}

static RESULTS: OnceLock<Result<Results>> = OnceLock::new();

/// The directory that a test inside leaves its captures in; nothing outside.
pub fn captures_directory() -> Option<PathBuf> {
    std::env::var_os(OUTPUT_VARIABLE).map(PathBuf::from)
}

/// A test of this name: inside it is run, outside its result is reported.
pub fn test(name: &str, test: impl FnOnce() -> Result<()>) -> Result<()> {
    if captures_directory().is_some() {
        return test();
    }
    let results = RESULTS.get_or_init(run).as_ref().map_err(|error| anyhow!("{error:#}"))?;
    match results.outcomes.get(name) {
        Some(true) => results.faults.get(name).map_or(Ok(()), |fault| bail!("{fault}")),
        Some(false) => bail!("in User-mode Linux:\n{}", output_of(name, &results.output)),
        None => bail!("User-mode Linux did not run it:\n{}", results.output),
    }
}

/// Has the kernel inside load modules.
pub fn load_modules(modules: &[&str]) -> Result<()> {
    process::run(Command::new("modprobe").arg("-a").args(modules)).map(drop)
}

/// Runs all tests of this binary that the command line asks for in a guest. It is on a host of its own: with the network
/// everything of it goes, whatever becomes of this process.
fn run() -> Result<Results> {
    let network = Network::new()?;
    let host = network.add_host("uml")?;
    let captures = host.directory().join("out");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package is in no workspace")?;
    let mut command = host.command(root.join("lab/uml/run"));
    command.current_dir(root).env("DR_UML_MEMORY_MIB", MEMORY_MIB);
    command.arg(&captures).args(["env", &format!("{OUTPUT_VARIABLE}={OUTPUT_INSIDE}")]);
    command
        .arg(std::env::current_exe()?)
        .args(filters(std::env::args().skip(1)))
        .args(["--test-threads=1", "--color=never"]);
    let start = Instant::now();
    let mut guest = Process::spawn(command, "uml", host.directory())?;
    while guest.ended()?.is_none() {
        ensure!(
            start.elapsed() < GUEST_HANGS,
            "User-mode Linux has not ended in {GUEST_HANGS:?}:\n{}",
            guest.log()
        );
        std::thread::sleep(POLL_INTERVAL);
    }
    let output = guest.log();
    let outcomes = outcomes(&output);
    ensure!(!outcomes.is_empty(), "no test was run in User-mode Linux:\n{output}");
    Ok(Results { outcomes, faults: dissect(&captures)?, output })
}

/// What of a test binary's command line says which tests to run.
fn filters(arguments: impl Iterator<Item = String>) -> Vec<String> {
    arguments.filter(|argument| argument == "--exact" || !argument.starts_with('-')).collect()
}

/// Each test's result, as libtest prints it: `test name ... ok`.
fn outcomes(output: &str) -> HashMap<String, bool> {
    let outcome = |line: &str| {
        let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
        // What a test prints by itself may come between the two.
        let passed = rest.ends_with("ok");
        (passed || rest.ends_with("FAILED")).then(|| (name.to_owned(), passed))
    };
    output.lines().filter_map(outcome).collect()
}

/// What libtest printed of a test that failed.
fn output_of<'a>(name: &str, output: &'a str) -> &'a str {
    let title = format!("---- {name} stdout ----");
    let Some(start) = output.find(&title) else { return output };
    let rest = &output[start + title.len()..];
    &rest[..rest.find("\n---- ").or_else(|| rest.find("\n\nfailures:")).unwrap_or(rest.len())]
}

/// Judges the captures that the tests have left, each in a directory of its name.
fn dissect(directory: &Path) -> Result<HashMap<String, String>> {
    let mut faults = HashMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if !path.is_dir() {
            continue;
        }
        for start in std::fs::read_dir(&path)? {
            let start = start?.path();
            let files: Vec<PathBuf> =
                std::fs::read_dir(&start)?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
            if let Err(error) = dissection::judge(&files, &start) {
                faults.insert(name.clone(), format!("{error:#}"));
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 3 tests\ntest one ... ok\ntest two ... says\nFAILED\ntest three ... FAILED\n\n\
        failures:\n\n---- three stdout ----\nError: reason\n\n\nfailures:\n    three\n\n\
        test result: FAILED. 2 passed; 1 failed\n";

    #[test]
    fn results_and_reasons_are_those_that_libtest_prints() {
        let outcomes = outcomes(OUTPUT);
        assert_eq!(outcomes, [("one".to_owned(), true), ("three".to_owned(), false)].into());
        assert_eq!(output_of("three", OUTPUT).trim(), "Error: reason");
        assert_eq!(output_of("four", OUTPUT), OUTPUT);
    }

    #[test]
    fn filters_go_in_and_what_is_about_output_stays_out() {
        let arguments = ["gre", "--nocapture", "--exact", "--test-threads=4"].map(str::to_owned);
        assert_eq!(filters(arguments.into_iter()), ["gre", "--exact"]);
    }
}
