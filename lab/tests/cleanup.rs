//! Nothing that a network made outlives it: dropped, panicked, interrupted, or killed with its reaper.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use ctl::config::Protocol;
use lab::{DirectorProcess, Lab, Network, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scheduler::Algorithm;

/// These tests hold no network themselves while they look, so that the turn of [`Network`] does not part them.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Every trace of the networks of a process.
fn traces_of(maker: u32) -> Result<BTreeSet<PathBuf>> {
    let prefix = format!("dr{maker}-");
    let mut traces = BTreeSet::new();
    for directory in [Path::new("/run/netns"), &std::env::temp_dir()] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                traces.insert(entry.path());
            }
        }
    }
    for entry in fs::read_dir("/proc")? {
        let command_line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command_line).contains(&prefix) {
            traces.insert(PathBuf::from(String::from_utf8_lossy(&command_line).replace('\0', " ")));
        }
    }
    Ok(traces)
}

fn assert_nothing_left(maker: u32) -> Result<()> {
    let mut left = BTreeSet::new();
    wait::until("the end of the lab's traces", || {
        left = traces_of(maker)?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("left: {left:?}"))
}

/// Another process whose lab stands until that process ends: `quickstart --keep`, and in its client host a process that
/// nobody looks after.
fn maker() -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("--keep").process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    let stands =
        BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("until Ctrl-C"));
    let prefix = format!("dr{}-0-", child.id());
    let stray = Command::new("ip")
        .args(["netns", "exec", &format!("{prefix}client"), "sh", "-c", &stray_command(&prefix)])
        .status()?;
    if !stands || !stray.success() {
        child.kill()?;
        anyhow::bail!("quickstart --keep did not get as far as to stay");
    }
    Ok(child)
}

/// Starts a process in a session of its own, deaf to every signal that it may be deaf to.
fn stray_command(prefix: &str) -> String {
    let deaf = "trap '' HUP INT TERM; while :; do sleep 1; done";
    format!("setsid sh -c \"{deaf}\" {prefix} >/dev/null 2>&1 &")
}

/// A lab with dr-director in it, and with processes that nobody looks after.
fn busy_lab() -> Result<(Lab, DirectorProcess)> {
    let lab = Lab::builder().real_servers(1).build()?;
    let director = lab.start_director(&lab.configuration_with(Protocol::Tcp, 80, Algorithm::Rr, &[1])?)?;
    lab.client.run(&["sh", "-c", &stray_command(lab.network().prefix())])?;
    Ok((lab, director))
}

#[test]
fn dropped_network_leaves_nothing() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (lab, _director) = busy_lab()?;
    let traces = traces_of(std::process::id())?;
    // The namespaces, the directory, nginx, dr-director, the stray one and the reaper at least: the search does find them.
    ensure!(traces.len() >= 9, "{traces:?}");
    drop(lab);
    ensure!(traces_of(std::process::id())?.is_empty(), "{:?}", traces_of(std::process::id())?);
    Ok(())
}

#[test]
fn panic_leaves_nothing() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let thread = std::thread::spawn(|| {
        let _busy = busy_lab().unwrap();
        panic!("on purpose");
    });
    ensure!(thread.join().is_err());
    ensure!(traces_of(std::process::id())?.is_empty(), "{:?}", traces_of(std::process::id())?);
    // Nor does it keep the next one from being made.
    drop(Network::new()?);
    Ok(())
}

#[test]
fn signals_and_sigkill_leave_nothing() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = maker()?;
        ensure!(traces_of(child.id())?.len() >= 9);
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        child.wait()?;
        assert_nothing_left(child.id()).with_context(|| format!("after {signal}"))?;
    }
    Ok(())
}

#[test]
fn next_network_sweeps_what_a_killed_reaper_left() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = maker()?;
    let reaper = reaper_of(child.id())?;
    kill(reaper, Signal::SIGKILL)?;
    child.kill()?;
    child.wait()?;
    ensure!(traces_of(child.id())?.len() >= 8, "a reaper that was killed removed it all the same");
    drop(Network::new()?);
    assert_nothing_left(child.id())
}

#[test]
fn network_without_its_reaper_is_removed_by_its_owner() -> Result<()> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (lab, _director) = busy_lab()?;
    kill(reaper_of(std::process::id())?, Signal::SIGKILL)?;
    drop(lab);
    ensure!(traces_of(std::process::id())?.is_empty(), "{:?}", traces_of(std::process::id())?);
    Ok(())
}

/// The reaper of a process's first living network.
fn reaper_of(maker: u32) -> Result<Pid> {
    let prefix = format!("lab-reaper\0dr{maker}-");
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let command_line = fs::read(path.join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command_line).contains(&prefix) {
            let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
            return Ok(Pid::from_raw(name.parse()?));
        }
    }
    anyhow::bail!("process {maker} has no reaper")
}
