//! Waiting with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often [`until`] asks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Asks until there is an answer. An error of `ask` ends it at once; at the deadline the error says what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain: {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
