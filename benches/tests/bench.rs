//! The whole bench, shortest form: it measures both, and leaves nothing behind, even killed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// testpmd and the director start and stop, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(60);

fn bench(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).env("TMPDIR", temporary);
    command
}

/// Command lines of processes that name `directory`.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(name)).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {} s", LIMIT.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn quick_run_measures_both_and_leaves_nothing() {
    let (temporary, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let json = kept.path().join("results.json");
    let output = bench(temporary.path(), &["--quick", "--json", json.to_str().unwrap()]).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let results: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let pair = &results["cases"][0]["pairs"][0];
    for forwarder in ["testpmd", "director"] {
        assert!(pair[forwarder]["packets"].as_u64().unwrap() > 1000, "{results}");
    }
    assert!(pair["ratio"].as_f64().unwrap() > 0.0, "{results}");
    assert!(fs::read_to_string(json.with_extension("svg")).unwrap().contains("1,024 flows"));
    assert!(is_empty(temporary.path()) && processes_of(temporary.path()).is_empty());
}

#[test]
fn listings_are_made_while_the_director_is_measured() {
    let temporary = tempfile::tempdir().unwrap();
    let output = bench(temporary.path(), &["--quick", "--listing", "10"]).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1,024 flows") && said.contains("each of 1024 connections"), "{said}");
    assert!(is_empty(temporary.path()) && processes_of(temporary.path()).is_empty());
}

#[test]
fn killed_bench_takes_its_processes_and_files_along() {
    let temporary = tempfile::tempdir().unwrap();
    let arguments = ["--flows", "1", "--rounds", "1", "--seconds", "600", "--no-hugepages"];
    let mut child = bench(temporary.path(), &arguments).stderr(Stdio::null()).spawn().unwrap();
    let runs = || processes_of(temporary.path()).iter().any(|line| line.contains("--forward-mode=macswap"));
    wait_until("testpmd runs", runs);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("its processes are gone", || processes_of(temporary.path()).is_empty());
    wait_until("its files are gone", || is_empty(temporary.path()));
}
