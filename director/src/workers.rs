//! The workers' threads: started pinned, watched, stopped in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::dpdk::thread::{ThreadError, spawn_worker};
use dataplane::port::QueuePair;
use dataplane::worker::Worker;

/// A worker stops within a round, microseconds; one that has not by then is left behind.
const STOP_TIMEOUT: Duration = Duration::from_millis(1200);
/// How often the threads are looked at.
const WATCH_PAUSE: Duration = Duration::from_millis(50);

/// Why workers do not run or do not stop.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// A thread could not be started; those before it were stopped.
    #[error("director.worker_cpus: {0}")]
    NotStarted(ThreadError),
    /// A thread does not end.
    #[error("worker {number} has not stopped within {} ms; the process ends around it", STOP_TIMEOUT.as_millis())]
    NotStopped {
        /// Its number.
        number: usize,
    },
    /// A thread ended by a panic.
    #[error(
        "worker {number} panicked, its message is above: this is a defect of dr-director, please report it"
    )]
    Panicked {
        /// Its number.
        number: usize,
    },
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts each worker on its CPU.
    pub fn start<Q: QueuePair>(workers: Vec<Worker<Q>>, cpus: &[usize]) -> Result<Self, WorkersError> {
        let mut started = Workers { stop: Arc::default(), threads: Vec::new() };
        for (number, (mut worker, &cpu)) in workers.into_iter().zip(cpus).enumerate() {
            let stop = started.stop.clone();
            // The worker, and with it its queues, is dropped on its own thread.
            let thread = spawn_worker(&format!("worker-{number}"), cpu, move || worker.run(&stop));
            match thread {
                Ok(thread) => started.threads.push(thread),
                Err(error) => {
                    started.stop()?;
                    return Err(WorkersError::NotStarted(error));
                }
            }
        }
        Ok(started)
    }

    /// Waits until a thread has ended by itself, which none should, and returns its number.
    pub async fn ended(&self) -> usize {
        loop {
            if let Some(number) = self.threads.iter().position(JoinHandle::is_finished) {
                return number;
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// Stops all and waits for them.
    pub fn stop(self) -> Result<(), WorkersError> {
        self.stop.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut result = Ok(());
        for (number, thread) in self.threads.into_iter().enumerate() {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    return Err(WorkersError::NotStopped { number });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.join().is_err() {
                result = Err(WorkersError::Panicked { number });
            }
        }
        result
    }
}
