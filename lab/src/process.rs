//! Processes that end with their owner, and commands whose failure says why.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::wait;

/// A process in a group of its own, its output in a file. Dropped, it is killed with its children.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; what it prints goes to `<directory>/<name>.log`.
    pub fn spawn(mut command: Command, name: &str, directory: &Path) -> Result<Process> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Process { child, name: name.to_owned(), log, status: None })
    }

    /// Process id, which is its group's too.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far, to both of its outputs.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("the end of {} (process {})", self.name, self.id());
        wait::until(&what, || self.ended())
    }

    /// Waits until it printed `text`; its early end is an error that has its output.
    pub fn wait_for_output(&mut self, text: &str) -> Result<()> {
        let what = format!("`{text}` from {}", self.name);
        wait::until(&what, || {
            if self.log().contains(text) {
                return Ok(Some(()));
            }
            match self.ended()? {
                Some(status) => {
                    bail!("{} ended with {status} before it said `{text}`:\n{}", self.name, self.log())
                }
                None => Ok(None),
            }
        })
    }

    /// Sends a signal to the process and its children.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.ended()?.is_none(), "{} has ended already:\n{}", self.name, self.log());
        killpg(self.group()?, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// SIGKILL, and waits.
    pub fn kill(&mut self) -> Result<()> {
        // The group may outlive its leader, and an id that was waited for may be somebody else's: leader first.
        if self.ended()?.is_none() {
            killpg(self.group()?, Signal::SIGKILL)?;
            self.status = Some(self.child.wait()?);
        }
        Ok(())
    }

    fn group(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.id())?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only for a process that is gone.
        let _ = self.kill();
    }
}

/// Runs `command` to its end; a failure has what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Runs `command` to its end, whatever that is.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))
}

/// What a command printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
