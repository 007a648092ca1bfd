//! LVS's weighted schedulers: which real server (RS) gets a new connection.
//!
//! Any worker decides, on atomics alone, and weights hold over all workers together: connection counts and the
//! cursors of `rr` and `wrr` are shared, so that within one version of a list the workers together get what Linux IPVS
//! would have given for the same requests. The control thread makes schedulers ([`Scheduler::new`],
//! [`Scheduler::next_version`]).
//!
//! | file | what it is |
//! |---|---|
//! | `connection_counts.rs` | active and inactive connections of one RS, in one atomic |
//! | `rr.rs` | round robin |
//! | `wrr.rs` | weighted round robin |
//! | `lc.rs` | least connection |
//! | `wlc.rs` | weighted least connection, the default |
//! | `fixture.rs`, `kernel_model.rs` | tests only: threads and lists; a model of IPVS that every scheduler is compared with |
//!
//! Invariant: [`Scheduler::schedule`] takes no lock, allocates nothing and cannot panic, whatever list it is given.
//!
//! Memory order: every atomic here is `Relaxed`. Each is a number complete in itself that publishes no other memory,
//! and read-modify-write operations on one atomic are totally ordered without a fence.

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod kernel_model;

mod connection_counts;
mod lc;
mod rr;
mod wlc;
mod wrr;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use connection_counts::{ConnectionCounts, Counts};

/// A scheduling algorithm, by LVS's name (`ipvsadm -s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Round robin: the next RS of the list, weights only say whether it takes part.
    Rr,
    /// Weighted round robin: shares exactly in proportion to the weights, interleaved.
    Wrr,
    /// Least connection: the RS with the least overhead, weights only say whether it takes part.
    Lc,
    /// Weighted least connection: the RS with the least overhead for its weight; LVS's default.
    #[default]
    Wlc,
}

/// `ipvsadm -b`: three flags, of which `sh` and `mh` give names to the first two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags {
    /// flag-1: where the RS that the hash names takes no connections, another one does (`sh-fallback`, `mh-fallback`).
    pub fallback: bool,
    /// flag-2: the client's port is part of the hash (`sh-port`, `mh-port`).
    pub port: bool,
    /// flag-3.
    pub flag_3: bool,
}

impl Algorithm {
    /// Every algorithm that this crate knows.
    pub const ALL: [Algorithm; 4] = [Algorithm::Rr, Algorithm::Wrr, Algorithm::Lc, Algorithm::Wlc];

    /// LVS's name, as `ipvsadm -s` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Rr => "rr",
            Algorithm::Wrr => "wrr",
            Algorithm::Lc => "lc",
            Algorithm::Wlc => "wlc",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// Reads LVS's name, in lower case as LVS has it.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| UnknownAlgorithm { name: name.to_owned() })
    }
}

/// A name that is no scheduler's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no known scheduler; known are {}", Algorithm::ALL.map(Algorithm::name).join(", "))]
pub struct UnknownAlgorithm {
    /// The name as it was given.
    pub name: String,
}

/// A real server as the schedulers see it.
#[derive(Clone, Debug)]
pub struct RealServer {
    /// Index of its destination slot; unique in its list, and the same from version to version of that list.
    pub id: u32,
    /// Share of new connections, 0 to 65535; 0 (quiesced, IPVS) gets none and keeps those that it has.
    pub weight: u32,
    /// False: skipped whatever its weight, as IPVS skips a destination flagged `OVERLOAD`.
    pub available: bool,
    /// Its connections over all workers.
    pub counts: Arc<ConnectionCounts>,
}

impl RealServer {
    /// Whether it takes new connections at all.
    fn is_eligible(&self) -> bool {
        self.available && self.weight > 0
    }
}

/// The scheduler of one version of one virtual service's list of RSs. A clone shares the cursor.
#[derive(Clone, Debug)]
pub struct Scheduler {
    state: State,
}

/// The algorithm with what it remembers between decisions.
#[derive(Clone, Debug)]
enum State {
    Rr(Arc<rr::Cursor>),
    Wrr(Arc<wrr::Cursor>),
    Lc,
    Wlc,
}

impl Scheduler {
    /// A scheduler at its start for the list `real_servers`, newest first.
    pub fn new(algorithm: Algorithm, real_servers: &[RealServer]) -> Self {
        let state = match algorithm {
            Algorithm::Rr => State::Rr(Arc::new(rr::Cursor::new())),
            Algorithm::Wrr => State::Wrr(Arc::new(wrr::Cursor::new(real_servers))),
            Algorithm::Lc => State::Lc,
            Algorithm::Wlc => State::Wlc,
        };
        Scheduler { state }
    }

    /// The algorithm that it was made with.
    pub fn algorithm(&self) -> Algorithm {
        match self.state {
            State::Rr(_) => Algorithm::Rr,
            State::Wrr(_) => Algorithm::Wrr,
            State::Lc => Algorithm::Lc,
            State::Wlc => Algorithm::Wlc,
        }
    }

    /// Index into `real_servers` of the RS for a new connection; `None` when no RS takes any.
    ///
    /// `real_servers` is the list that the scheduler was made for, newest first, for IPVS inserts at the head and
    /// its first RS wins ties. The caller opens the connection in the RS's counts at once
    /// ([`ConnectionCounts::open`]): `lc` and `wlc` are off by at most one connection for each thread that is between
    /// the two.
    #[inline]
    pub fn schedule(&self, real_servers: &[RealServer]) -> Option<usize> {
        match &self.state {
            State::Rr(cursor) => cursor.schedule(real_servers),
            State::Wrr(cursor) => cursor.schedule(real_servers),
            State::Lc => lc::schedule(real_servers),
            State::Wlc => wlc::schedule(real_servers),
        }
    }

    /// The scheduler for the list `new` that replaces `old`; the cursor goes on as IPVS's does when RSs are added,
    /// edited and deleted.
    ///
    /// Where nothing changed but `available`, both versions share one cursor. Elsewhere the new cursor starts from
    /// where the old one is now; what workers still decide on the old version does not move it.
    pub fn next_version(&self, old: &[RealServer], new: &[RealServer]) -> Scheduler {
        let state = match &self.state {
            unchanged if have_same_weights(old, new) => unchanged.clone(),
            State::Rr(cursor) => State::Rr(Arc::new(cursor.carried_over(old, new))),
            State::Wrr(cursor) => State::Wrr(Arc::new(cursor.carried_over(new))),
            State::Lc => State::Lc,
            State::Wlc => State::Wlc,
        };
        Scheduler { state }
    }
}

/// Whether both lists hold the same RSs in the same order with the same weights.
fn have_same_weights(old: &[RealServer], new: &[RealServer]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(a, b)| a.id == b.id && a.weight == b.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{picks, real_servers};

    #[test]
    fn algorithm_names_read_back_as_themselves() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(algorithm.to_string(), algorithm.name());
        }
        assert_eq!(Algorithm::ALL.map(Algorithm::name), ["rr", "wrr", "lc", "wlc"]);
        assert_eq!(Algorithm::default(), Algorithm::Wlc);
    }

    #[test]
    fn algorithm_unknown_name_is_refused_with_the_known_ones() {
        for name in ["", "WLC", " rr", "least\n"] {
            let error = name.parse::<Algorithm>().unwrap_err();
            assert_eq!(error.name, name);
            assert_eq!(
                error.to_string(),
                format!("{name:?} is no known scheduler; known are rr, wrr, lc, wlc")
            );
        }
    }

    #[test]
    fn scheduler_keeps_its_algorithm_over_versions() {
        let old = real_servers(&[1, 2]);
        let new = real_servers(&[1, 2, 3]);
        for algorithm in Algorithm::ALL {
            let scheduler = Scheduler::new(algorithm, &old);
            assert_eq!(scheduler.algorithm(), algorithm);
            assert_eq!(scheduler.next_version(&old, &new).algorithm(), algorithm);
            assert_eq!(scheduler.next_version(&old, &old).algorithm(), algorithm);
        }
    }

    #[test]
    fn schedule_without_an_eligible_real_server_is_none() {
        let mut all_unavailable = real_servers(&[1, 2, 3]);
        all_unavailable.iter_mut().for_each(|real_server| real_server.available = false);
        let mut only_zero_is_available = real_servers(&[0, 2]);
        only_zero_is_available[1].available = false;
        for list in [real_servers(&[]), real_servers(&[0, 0]), all_unavailable, only_zero_is_available] {
            for algorithm in Algorithm::ALL {
                let scheduler = Scheduler::new(algorithm, &list);
                assert_eq!(picks(&scheduler, &list, 3), [None; 3], "{algorithm} {list:?}");
            }
        }
    }

    /// The contract asks for the list that the scheduler was made for; a broken one must still end in no panic.
    #[test]
    fn schedule_over_a_foreign_list_stays_inside_it() {
        let made_for = real_servers(&[6, 4, 65535, 2, 0, 8]);
        let gcd_is_large = real_servers(&[60, 60]);
        for made_for in [made_for, gcd_is_large] {
            for weights in [&[][..], &[1], &[0], &[u32::MAX, u32::MAX, 1], &[1, 1, 1, 1, 1, 1, 1, 3]] {
                let foreign = real_servers(weights);
                foreign.iter().for_each(|real_server| real_server.counts.activate());
                for algorithm in Algorithm::ALL {
                    let scheduler = Scheduler::new(algorithm, &made_for);
                    for _ in 0..50 {
                        scheduler.schedule(&made_for);
                        if let Some(index) = scheduler.schedule(&foreign) {
                            assert!(foreign[index].is_eligible(), "{algorithm} {weights:?}");
                        }
                    }
                }
            }
        }
    }
}
