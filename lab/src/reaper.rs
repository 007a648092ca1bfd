//! Removal of everything that a network made, by a process of its own: dropped, panicked, interrupted or killed with
//! SIGKILL, its maker's end closes a pipe, and that is what the reaper waits for. One path for all of them.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

const SCRIPT: &str = include_str!("reaper.sh");

/// Where `ip netns` keeps the names.
const NAMESPACES: &str = "/run/netns";

/// Removes when it is dropped, or when this process ends.
pub(crate) struct Reaper {
    child: Child,
    prefix: String,
    directory: PathBuf,
}

impl Reaper {
    /// Starts it, before there is anything to remove.
    pub(crate) fn start(prefix: &str, directory: &Path) -> Result<Reaper> {
        let child = command(prefix, directory)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start sh, the reaper")?;
        Ok(Reaper { child, prefix: prefix.to_owned(), directory: directory.to_owned() })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A reaper that somebody killed reads no more: the second one below does its work.
            let _ = stdin.write_all(b"done\n");
        }
        let removed = self.child.wait().is_ok_and(|status| status.success());
        if !removed && !remove(&self.prefix, &self.directory) {
            eprintln!(
                "lab: could not remove {}* of {NAMESPACES} and {}",
                self.prefix,
                self.directory.display()
            );
        }
    }
}

/// Name prefix of the namespaces and directories of one process.
pub(crate) fn prefix_of(pid: u32) -> String {
    format!("dr{pid}-")
}

/// Removes what processes left that are no more: their reapers were killed too.
pub(crate) fn sweep_stale() {
    let temporary = std::env::temp_dir();
    for directory in [Path::new(NAMESPACES), &temporary] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((pid, network)) = name.to_str().and_then(maker_of) else { continue };
            // A reaper that is at it right now is not disturbed: either may find a thing gone.
            if !Path::new("/proc").join(pid.to_string()).exists() {
                let network = format!("{}{network}", prefix_of(pid));
                remove(&format!("{network}-"), &temporary.join(network));
            }
        }
    }
}

/// The process that made a namespace or directory of this name, and the number of its network.
fn maker_of(name: &str) -> Option<(u32, u32)> {
    let (pid, rest) = name.strip_prefix("dr")?.split_once('-')?;
    let network = rest.split_once('-').map_or(rest, |(network, _host)| network);
    Some((pid.parse().ok()?, network.parse().ok()?))
}

fn remove(prefix: &str, directory: &Path) -> bool {
    command(prefix, directory).stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn command(prefix: &str, directory: &Path) -> Command {
    let mut command = Command::new("sh");
    // A group of its own: Ctrl-C in the terminal must end its maker, not it.
    command.args(["-c", SCRIPT, "lab-reaper", prefix]).arg(directory).process_group(0);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_maker_and_foreign_names_do_not() {
        assert_eq!(maker_of("dr4711-0-client"), Some((4711, 0)));
        assert_eq!(maker_of("dr4711-12"), Some((4711, 12)));
        for foreign in
            ["dr", "dr-0-client", "dr4711", "dr4711-client", "dr4711-0x", "drx-0-a", "blue", "director-1"]
        {
            assert_eq!(maker_of(foreign), None, "{foreign}");
        }
    }
}
