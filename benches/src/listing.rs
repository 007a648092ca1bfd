//! `--listing`: the director's rate while its connections are listed again and again, beside its rate without.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ctl::client::Client;
use ctl::protocol::{Command, ConnectionOrder, Connections, ConnectionsQuery};

use crate::interval::Interval;
use crate::report;
use crate::results::Spread;

/// Listings one after the other, each a page out of all connections sorted. Stopped when dropped.
pub(crate) struct Listing {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Listings>>>,
}

/// What was listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listings {
    count: u32,
    /// Connections that each found.
    matching: u64,
    time: Duration,
}

impl Listing {
    /// Starts it: so many a second, or as many as there can be.
    pub(crate) fn start(socket: &Path, per_second: u32) -> Result<Listing> {
        let mut client = Client::connect(socket)?;
        let query = ConnectionsQuery { sort: ConnectionOrder::Expires, limit: 100, ..Default::default() };
        let is_over = Arc::new(AtomicBool::new(false));
        let asked = is_over.clone();
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let mut listings = Listings { count: 0, matching: 0, time: Duration::ZERO };
            while !asked.load(Ordering::Relaxed) {
                let answer: Connections = client.call(&Command::Connections(query.clone()))?;
                listings.count += 1;
                listings.matching = answer.matching;
                let next = began + Duration::from_secs(1) * listings.count / per_second;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(Listings { time: began.elapsed(), ..listings })
        });
        Ok(Listing { is_over, thread: Some(thread) })
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<Listings> {
        self.end().context("a listing is ended once")?
    }

    fn end(&mut self) -> Option<Result<Listings>> {
        self.is_over.store(true, Ordering::Relaxed);
        let joined = self.thread.take()?.join();
        Some(joined.unwrap_or_else(|_| Err(anyhow!("the thread that lists panicked"))))
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.end();
    }
}

/// An interval without a listing and one with.
pub(crate) struct Pair {
    quiet: Interval,
    listed: Interval,
    listings: Listings,
}

impl Pair {
    /// Of one director.
    pub(crate) fn new(quiet: Interval, listed: Interval, listings: Listings) -> Pair {
        Pair { quiet, listed, listings }
    }
}

/// What it came to.
pub(crate) fn line(flows: u32, pairs: &[Pair]) -> String {
    let spread = |value: fn(&Pair) -> f64| Spread::of(pairs.iter().map(value).collect());
    let ratio = spread(|pair| pair.listed.mpps / pair.quiet.mpps);
    let disturbed = pairs
        .iter()
        .filter(|pair| !(pair.quiet.disturbances().is_empty() && pair.listed.disturbances().is_empty()));
    format!(
        "{:>9} flows: {:.2} Mpps, while listed {:.2} Mpps, ratio {:.3} ({:.3}..{:.3}); {:.1} listings a second, each of \
         {} connections; {} of {} pairs disturbed",
        report::grouped(flows),
        spread(|pair| pair.quiet.mpps).median,
        spread(|pair| pair.listed.mpps).median,
        ratio.median,
        ratio.min,
        ratio.max,
        spread(|pair| f64::from(pair.listings.count) / pair.listings.time.as_secs_f64()).median,
        pairs.last().map_or(0, |pair| pair.listings.matching),
        disturbed.count(),
        pairs.len(),
    )
}
