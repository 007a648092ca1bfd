//! How templates end whose time is over: each worker looks at its share of them, a bounded number a round.
//!
//! The worker owns its [`TemplateSweep`]. Shares are parts of the entries that were ever used, and move as more are; an
//! entry that two workers look at is ended by one of them.

use super::table::TemplateTable;
use crate::clock::{TICKS_PER_SECOND, Ticks};

/// Every template is looked at this often: well within the minute by which one is postponed.
const SWEEP_TICKS: u64 = 4 * TICKS_PER_SECOND as u64;
/// Templates looked at in one round, at most.
const ENTRIES_PER_ROUND: u64 = 32;

/// One worker's share of ending templates.
#[derive(Clone, Debug)]
pub struct TemplateSweep {
    worker: u64,
    workers: u64,
    /// Index of the entry to look at next.
    at: u32,
    /// Entries to look at that are due, in units of 1 / [`SWEEP_TICKS`] entries.
    due: u64,
    swept: Ticks,
}

impl TemplateSweep {
    /// The share of one of `workers`, numbered from 0.
    pub fn new(worker: u32, workers: u32) -> TemplateSweep {
        let workers = u64::from(workers.max(1));
        TemplateSweep { worker: u64::from(worker), workers, at: 0, due: 0, swept: Ticks::default() }
    }

    /// Looks at a bounded number of templates, so that each is looked at every four seconds: ends those whose time is
    /// over, gives a minute more to those that control connections. How many have ended.
    pub fn expire(&mut self, table: &TemplateTable, now: Ticks) -> u32 {
        self.expire_where(table, now, |_| false)
    }

    /// The same, and ends those too that control nothing and whose destination slot `is_left` says so of.
    pub fn expire_where(&mut self, table: &TemplateTable, now: Ticks, is_left: impl Fn(u32) -> bool) -> u32 {
        let elapsed = u64::from(now.since(self.swept));
        if elapsed == 0 && self.due < SWEEP_TICKS {
            return 0;
        }
        self.swept = now;
        let touched = u64::from(table.touched());
        let start = (touched * self.worker / self.workers) as u32;
        let end = (touched * (self.worker + 1) / self.workers) as u32;
        let share = u64::from(end - start);
        self.due = (self.due + share * elapsed).min(share * SWEEP_TICKS);
        let looked_at = (self.due / SWEEP_TICKS).min(ENTRIES_PER_ROUND);
        self.due -= looked_at * SWEEP_TICKS;
        let mut ended = 0;
        for _ in 0..looked_at {
            if !(start..end).contains(&self.at) {
                self.at = start;
            }
            ended += u32::from(table.expire_entry(self.at, now, &is_left));
            self.at += 1;
        }
        ended
    }
}
