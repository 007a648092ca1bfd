//! A worker's thread: its own core, and a lcore id of EAL's where EAL runs.
//!
//! The order matters. Pin first: registration records the affinity. Register before the first mbuf: without a lcore
//! id DPDK bypasses the pool's per-thread cache, which costs four times as much per mbuf (measured: 27 ns and 7 ns).
//! Unregister last, when everything that the worker owned is dropped.

use std::io;
use std::panic;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use core_affinity::CoreId;

/// CPUs that `core_affinity` can name: the size of glibc's `cpu_set_t`.
const CPU_LIMIT: usize = libc::CPU_SETSIZE as usize;

/// Why a worker's thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// No such CPU, or not one of those that this process may use.
    #[error(
        "{thread}: cannot run on CPU {cpu}: it does not exist, is offline, or the process's cpuset leaves it out"
    )]
    CpuNotAllowed {
        /// The thread's name.
        thread: String,
        /// The CPU asked for.
        cpu: usize,
    },
    /// The operating system made no thread.
    #[error("{thread}: no thread ({source})")]
    NotSpawned {
        /// The thread's name.
        thread: String,
        /// The system's reason.
        source: io::Error,
    },
    /// EAL has no lcore id left.
    #[cfg(feature = "dpdk")]
    #[error(
        "{thread}: DPDK did not register the thread ({source}): it knows no more than its RTE_MAX_LCORE threads"
    )]
    NotRegistered {
        /// The thread's name.
        thread: String,
        /// DPDK's reason.
        source: super::error::Errno,
    },
}

/// CPUs that the calling thread may run on, in ascending order. EAL pins the thread that starts it: to know the
/// process's CPUs, ask before.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    /// Room for 8192 CPUs, the most that Linux can be built for: the kernel refuses a mask smaller than its own.
    const WORDS: usize = 128;
    const BITS: usize = u64::BITS as usize;

    let mut mask = [0_u64; WORDS];
    // SAFETY: the mask is writable for the size given, and 0 means the calling thread. sched_getaffinity fills whole
    // words of the machine's byte order, which u64 is on the 64-bit machines that DPDK runs on.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..WORDS * BITS).filter(|cpu| mask[cpu / BITS] >> (cpu % BITS) & 1 == 1).collect())
}

/// Runs `work` on a thread of its own, pinned to `cpu` and registered with EAL where EAL runs. An error means that
/// `work` was not started. What `work` owns is dropped before the thread is unregistered.
pub fn spawn_worker<T, F>(name: &str, cpu: usize, work: F) -> Result<JoinHandle<T>, ThreadError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (started, start) = mpsc::sync_channel(1);
    let thread = name.to_owned();
    let body = move || {
        let _registration = match pin(&thread, cpu).and_then(|()| register(&thread)) {
            Ok(registration) => {
                drop(started.send(Ok(())));
                registration
            }
            Err(error) => {
                drop(started.send(Err(error)));
                // Ends the thread without a T and without the panic hook; the spawner has the reason.
                panic::resume_unwind(Box::new(()));
            }
        };
        work()
    };
    let handle = Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|source| ThreadError::NotSpawned { thread: name.to_owned(), source })?;
    match start.recv() {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => {
            drop(handle.join());
            Err(error)
        }
        Err(mpsc::RecvError) => {
            drop(handle.join());
            let source = io::Error::other("it ended before it started");
            Err(ThreadError::NotSpawned { thread: name.to_owned(), source })
        }
    }
}

/// What `work` makes on `cpu`, so that memory it touches first lies on that CPU's NUMA node. Where the CPU cannot be
/// had, on any: what needs the CPU itself says so later.
pub fn on_cpu<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let made = scope.spawn(move || {
            if cpu < CPU_LIMIT {
                core_affinity::set_for_current(CoreId { id: cpu });
            }
            work()
        });
        made.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

fn pin(thread: &str, cpu: usize) -> Result<(), ThreadError> {
    let pinned = cpu < CPU_LIMIT
        && core_affinity::set_for_current(CoreId { id: cpu })
        && allowed_cpus().is_ok_and(|cpus| cpus == [cpu]);
    if pinned { Ok(()) } else { Err(ThreadError::CpuNotAllowed { thread: thread.to_owned(), cpu }) }
}

#[cfg(feature = "dpdk")]
fn register(thread: &str) -> Result<Option<super::eal::Registration>, ThreadError> {
    super::eal::Registration::of_current_thread()
        .map_err(|source| ThreadError::NotRegistered { thread: thread.to_owned(), source })
}

/// Without DPDK there is nothing to register with.
#[cfg(not(feature = "dpdk"))]
struct Unregistered;

#[cfg(not(feature = "dpdk"))]
fn register(_thread: &str) -> Result<Unregistered, ThreadError> {
    Ok(Unregistered)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn worker_runs_on_its_cpu_under_its_name_and_returns_its_result() {
        let cpu = *allowed_cpus().unwrap().last().unwrap();
        let worker = spawn_worker("dr-test-worker", cpu, move || {
            (allowed_cpus().unwrap(), std::thread::current().name().map(str::to_owned))
        });
        let (cpus, name) = worker.unwrap().join().unwrap();
        assert_eq!(cpus, [cpu]);
        assert_eq!(name.as_deref(), Some("dr-test-worker"));
    }

    #[test]
    fn cpu_outside_the_spawning_threads_own_mask_is_reached() {
        let cpus = allowed_cpus().unwrap();
        let [first, .., last] = cpus[..] else { return };
        let nested = spawn_worker("dr-test-outer", first, move || {
            spawn_worker("dr-test-inner", last, || allowed_cpus().unwrap()).map(|inner| inner.join().unwrap())
        });
        assert_eq!(nested.unwrap().join().unwrap().unwrap(), [last]);
    }

    #[test]
    fn cpu_that_does_not_exist_is_an_error_and_the_work_never_starts() {
        for cpu in [CPU_LIMIT - 1, CPU_LIMIT, usize::MAX] {
            let ran = Arc::new(AtomicBool::new(false));
            let seen = ran.clone();
            let error = spawn_worker("dr-test", cpu, move || seen.store(true, Ordering::SeqCst)).unwrap_err();
            assert!(matches!(error, ThreadError::CpuNotAllowed { .. }), "{error}");
            assert!(error.to_string().contains(&cpu.to_string()), "{error}");
            assert!(!ran.load(Ordering::SeqCst));
        }
    }
}
