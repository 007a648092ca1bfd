//! One core for the worker under test, another for everything else: this program, testpmd's command line, the
//! director's control thread.

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// Who runs where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    /// The worker under test: the last CPU, farthest from where the kernel puts its own work.
    pub(crate) worker: usize,
    /// Everything else: the first CPU.
    pub(crate) others: usize,
    allowed: CpuSet,
}

impl Cpus {
    /// Chooses from those that this process may use, and moves this thread out of the worker's way. Where there is one
    /// CPU, it is shared, and every interval says how little the worker had of it.
    pub(crate) fn choose() -> Result<Cpus> {
        let allowed = sched_getaffinity(SELF).context("the CPUs that this process may use cannot be read")?;
        let numbers: Vec<usize> =
            (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        let (Some(&others), Some(&worker)) = (numbers.first(), numbers.last()) else {
            bail!("this process may use no CPU");
        };
        let cpus = Cpus { worker, others, allowed };
        cpus.move_to_others()?;
        Ok(cpus)
    }

    /// Does `start` with all CPUs allowed: a process started there may use them.
    pub(crate) fn with_all<T>(&self, start: impl FnOnce() -> T) -> Result<T> {
        sched_setaffinity(SELF, &self.allowed).context("cannot use all CPUs")?;
        let started = start();
        self.move_to_others()?;
        Ok(started)
    }

    fn move_to_others(&self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.others)?;
        sched_setaffinity(SELF, &set).with_context(|| format!("cannot move to CPU {}", self.others))
    }
}
