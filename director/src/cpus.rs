//! Which CPU runs what: workers alone on theirs, the control thread on the rest.

/// CPUs as they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPlan {
    /// One worker each.
    pub workers: Vec<usize>,
    /// The control thread runs on any of these.
    pub control: Vec<usize>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// The process may use no CPU; the system's answer was empty.
    #[error("the system names no CPU that this process may use")]
    None,
    /// A CPU of the configuration is not allowed.
    #[error(
        "{key}: CPU {cpu} is not among those that this process may use ({allowed}): choose others, or allow it \
         (taskset, CPUAffinity= of the systemd unit, cpuset of the container)"
    )]
    NotAllowed {
        /// Where it is written.
        key: String,
        /// The CPU.
        cpu: usize,
        /// Those that would do.
        allowed: String,
    },
}

/// Plans over `allowed`, the CPUs that the process may use (asked before EAL pins its threads). An empty list in the
/// configuration means: one worker on the last CPU, the control thread on all that have no worker, or where none is
/// left, beside the last worker.
pub fn plan(worker_cpus: &[usize], control_cpus: &[usize], allowed: &[usize]) -> Result<CpuPlan, CpuError> {
    let last = *allowed.last().ok_or(CpuError::None)?;
    for (key, cpus) in [("director.worker_cpus", worker_cpus), ("director.control_cpus", control_cpus)] {
        if let Some((place, &cpu)) = cpus.iter().enumerate().find(|(_, cpu)| !allowed.contains(cpu)) {
            return Err(CpuError::NotAllowed { key: format!("{key}[{place}]"), cpu, allowed: list(allowed) });
        }
    }
    let workers = if worker_cpus.is_empty() { vec![last] } else { worker_cpus.to_vec() };
    let rest: Vec<_> = allowed.iter().copied().filter(|cpu| !workers.contains(cpu)).collect();
    let control = match (control_cpus.is_empty(), rest.is_empty()) {
        (false, _) => control_cpus.to_vec(),
        (true, false) => rest,
        (true, true) => workers.last().copied().into_iter().collect(),
    };
    Ok(CpuPlan { workers, control })
}

impl CpuPlan {
    /// Puts the calling thread, and the threads that it makes, on the control CPUs.
    pub fn pin_control_thread(&self) -> nix::Result<()> {
        let mut cpus = nix::sched::CpuSet::new();
        for &cpu in &self.control {
            cpus.set(cpu)?;
        }
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)
    }

    /// A worker may have to share its CPU with the control thread.
    pub fn is_shared(&self) -> bool {
        self.control.iter().any(|cpu| self.workers.contains(cpu))
    }
}

/// `0, 2, 3`.
pub fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(workers: &[usize], control: &[usize], allowed: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let plan = plan(workers, control, allowed).unwrap();
        (plan.workers, plan.control)
    }

    #[test]
    fn defaults_take_the_last_cpu_for_the_worker_and_the_rest_for_control() {
        assert_eq!(planned(&[], &[], &[0, 1, 4]), (vec![4], vec![0, 1]));
        assert_eq!(planned(&[0, 1], &[], &[0, 1, 4]), (vec![0, 1], vec![4]));
        assert_eq!(planned(&[], &[1], &[0, 1, 4]), (vec![4], vec![1]));
    }

    #[test]
    fn single_cpu_is_shared() {
        let plan = plan(&[], &[], &[3]).unwrap();
        assert_eq!((&plan.workers, &plan.control), (&vec![3], &vec![3]));
        assert!(plan.is_shared());
        assert_eq!(planned(&[0, 1], &[], &[0, 1]), (vec![0, 1], vec![1]));
    }

    #[test]
    fn cpu_that_is_not_allowed_is_named_with_its_place() {
        let error = plan(&[1, 9], &[], &[0, 1]).unwrap_err().to_string();
        assert!(error.starts_with(
            "director.worker_cpus[1]: CPU 9 is not among those that this process may use (0, 1)"
        ));
        assert_eq!(plan(&[], &[], &[]), Err(CpuError::None));
    }
}
