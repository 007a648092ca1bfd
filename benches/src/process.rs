//! A process that ends with this one, whatever ends this one.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cpus::Cpus;

/// A forwarder gives back gigabytes of memory when it ends.
const END_LIMIT: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(5);

/// A process in a group of its own. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts a program on all CPUs; what it says on stderr goes to a log in `directory`.
    pub(crate) fn start(
        name: &'static str,
        program: &[&str],
        arguments: &[String],
        directory: &Path,
        cpus: &Cpus,
    ) -> Result<Process> {
        let log = directory.join(format!("{name}.log"));
        // The kernel kills it when this process is gone. setpriv sets that and becomes the program.
        let mut command = Command::new("setpriv");
        // DPDK makes its folder there, and testpmd leaves it behind.
        command.env("RUNTIME_DIRECTORY", directory);
        command.args(["--pdeathsig", "KILL"]).args(program).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?).process_group(0);
        let child = cpus.with_all(|| command.spawn())?.context("cannot start setpriv (util-linux)")?;
        Ok(Process { child, name, log })
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its two pipes, once.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// What it said on stderr so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.id())?), Signal::SIGTERM)?)
    }

    /// Waits for its end, which has to be a success.
    pub(crate) fn wait(mut self) -> Result<()> {
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            match self.ended()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
                None => std::thread::sleep(PAUSE),
            }
        }
        bail!("{} did not end within {} s", self.name, END_LIMIT.as_secs())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
