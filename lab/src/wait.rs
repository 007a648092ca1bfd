//! Waiting with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What takes so long hangs. One for all: on a busy machine anything may be off its CPU for seconds, and a wait that ends
/// well ends early.
pub const HANGS: Duration = Duration::from_secs(60);

/// How often [`until`] asks.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Asks until there is an answer. An error of `ask` ends it at once; after [`HANGS`] the error says what was waited for.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if start.elapsed() > HANGS {
            bail!("waited {HANGS:?} in vain: {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
