//! LVS's weighted schedulers: which real server (RS) gets a new connection.
//!
//! Any worker decides, on atomics alone, and weights hold over all workers together: connection counts, cursors and
//! caches are shared, so that within one version of a list the workers together get what Linux IPVS would have given
//! for the same requests. The control thread makes schedulers ([`Scheduler::new`], [`Scheduler::next_version`]).
//!
//! | file | what it is |
//! |---|---|
//! | `algorithm.rs` | the fourteen names, and the settings of a service's scheduler |
//! | `connection_counts.rs` | connections and thresholds of one RS |
//! | `rr.rs`, `wrr.rs` | round robin, weighted round robin |
//! | `lc.rs`, `wlc.rs` | least connection, weighted least connection (the default) |
//! | `sed.rs`, `nq.rs` | shortest expected delay, never queue |
//! | `least_loaded.rs` | the comparison of these four, `lblc`, `lblcr` and slow start |
//! | `ramp.rs` | slow start of a newcomer under `lc`, `wlc` and `sed` |
//! | `fo.rs`, `ovf.rs` | weighted failover, overflow |
//! | `twos.rs` | power of two choices |
//! | `dh.rs`, `sh.rs` | destination hashing, source hashing |
//! | `mh.rs`, `hash_ring.rs`, `maglev.rs` | Maglev hashing, a consistent hash without state, the table of both |
//! | `lblc.rs`, `lblcr.rs`, `destination_cache.rs` | locality-based least connection, with replication, what both remember |
//! | `hash.rs`, `sync.rs` | the kernel's hashes; the standard library's atomics or the model checker's |
//! | `fixture.rs`, `kernel_model.rs`, `comparison.rs` | tests only: threads and lists; a model of IPVS; every scheduler compared with it |
//!
//! Invariant: [`Scheduler::schedule`] takes no lock, allocates nothing and cannot panic, whatever list it is given.
//!
//! Memory order: every atomic here is `Relaxed`, but for two: the counts where thresholds are edited
//! (`connection_counts.rs`) and the version of a remembered destination (`destination_cache.rs`). Each other is a
//! number complete in itself that publishes no other memory, and read-modify-write operations on one atomic are
//! totally ordered without a fence.

#[cfg(test)]
mod comparison;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod kernel_model;

mod algorithm;
mod connection_counts;
mod destination_cache;
mod dh;
mod fo;
mod hash;
mod hash_ring;
mod lblc;
mod lblcr;
mod lc;
mod least_loaded;
mod maglev;
mod mh;
mod nq;
mod ovf;
mod ramp;
mod rr;
mod sed;
mod sh;
mod sync;
mod twos;
mod wlc;
mod wrr;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

pub use algorithm::{Algorithm, SchedulerConfig, SchedulerFlags, UnknownAlgorithm};
pub use connection_counts::{ConnectionCounts, Counts, Thresholds};
pub use hash_ring::HashRing;

/// What a scheduler may know of the packet that asks for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The client's address (CIP), whole whatever the persistence's netmask, as in IPVS: key of `sh` and `mh`.
    pub client: IpAddr,
    /// The client's port, 0 where the protocol has none: read with `sh-port` and `mh-port`.
    pub client_port: u16,
    /// The packet's destination address: key of `dh`, `lblc` and `lblcr`.
    pub vip: IpAddr,
    /// Seconds since the daemon's start; may wrap, and may differ from another thread's by a second or so.
    pub now_seconds: u32,
    /// Random, fresh for each request: read by `twos`.
    pub random: u64,
}

impl Request {
    /// Seconds from `then_seconds` to now, 0 if that is a little ahead, as another thread's clock may be.
    #[inline]
    fn seconds_since(&self, then_seconds: u32) -> u32 {
        let difference = self.now_seconds.wrapping_sub(then_seconds) as i32;
        difference.max(0) as u32
    }
}

/// A real server as the schedulers see it.
#[derive(Clone, Debug)]
pub struct RealServer {
    /// Index of its destination slot; unique in its list, and the same from version to version of that list.
    pub id: u32,
    /// Its address (RIP).
    pub address: IpAddr,
    /// Its port as configured; `mh` hashes it.
    pub port: u16,
    /// Share of new connections, 0 to 65535; 0 (quiesced, IPVS) gets none and keeps those that it has.
    pub weight: u32,
    /// The last weight over 0 that it had, 0 if it never had any: `mh` keeps its slots by it while `weight` is 0.
    pub last_weight: u32,
    /// It takes no new connections, for which `weight` is 0, but what goes by the ring stays with it.
    pub is_drained: bool,
    /// False: skipped whatever its weight, as IPVS skips a destination flagged `OVERLOAD`.
    pub available: bool,
    /// Whether it has an upper threshold: only then [`ConnectionCounts::is_overloaded`] is read.
    pub has_threshold: bool,
    /// When its slow start began, on the clock of [`Request::now_seconds`]; `None`: it has none.
    pub joined_seconds: Option<u32>,
    /// Its connections over all workers.
    pub counts: Arc<ConnectionCounts>,
}

impl RealServer {
    /// Whether it takes new connections at all.
    #[inline]
    fn is_eligible(&self) -> bool {
        self.available && self.weight > 0 && !(self.has_threshold && self.counts.is_overloaded())
    }

    /// IPVS's estimate of what its connections cost it.
    #[inline]
    fn overhead(&self) -> u64 {
        self.counts.load().overhead()
    }

    /// The weight that `mh`'s table has of it.
    fn table_weight(&self) -> u32 {
        if self.weight > 0 { self.weight } else { self.last_weight }
    }

    /// Whether it is the same RS in another version of its list, not another one in its slot.
    fn is_same_as(&self, other: &RealServer) -> bool {
        self.identity() == other.identity()
    }

    /// What it keeps from version to version.
    fn identity(&self) -> (u32, IpAddr, u16) {
        (self.id, self.address, self.port)
    }
}

/// The scheduler of one version of one virtual service's list of RSs. A clone shares cursor and cache.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    state: State,
}

/// What an algorithm remembers between decisions, or has worked out before.
#[derive(Clone, Debug)]
enum State {
    Rr(Arc<rr::Cursor>),
    Wrr(Arc<wrr::Cursor>),
    Lc,
    Wlc,
    Lblc(lblc::Locality<1>),
    Lblcr(lblc::Locality<{ lblcr::MEMBERS_MAX }>),
    Dh(Arc<dh::Table>),
    Sh(Arc<sh::Table>),
    Sed,
    Nq,
    Fo,
    Ovf,
    Mh(Arc<mh::Table>),
    Twos,
}

impl Scheduler {
    /// A scheduler at its start for the list `list`, newest first. Control thread: allocates.
    pub fn new(config: SchedulerConfig, list: &[RealServer]) -> Self {
        let state = match config.algorithm {
            Algorithm::Rr => State::Rr(Arc::new(rr::Cursor::new())),
            Algorithm::Wrr => State::Wrr(Arc::new(wrr::Cursor::new(list))),
            Algorithm::Lc => State::Lc,
            Algorithm::Wlc => State::Wlc,
            Algorithm::Lblc => State::Lblc(lblc::Locality::new(list)),
            Algorithm::Lblcr => State::Lblcr(lblc::Locality::new(list)),
            Algorithm::Dh => State::Dh(Arc::new(dh::Table::new(list))),
            Algorithm::Sh => State::Sh(Arc::new(sh::Table::new(list))),
            Algorithm::Sed => State::Sed,
            Algorithm::Nq => State::Nq,
            Algorithm::Fo => State::Fo,
            Algorithm::Ovf => State::Ovf,
            Algorithm::Mh => State::Mh(Arc::new(mh::Table::new(list))),
            Algorithm::Twos => State::Twos,
        };
        Scheduler { config, state }
    }

    /// The settings that it was made with.
    pub fn config(&self) -> SchedulerConfig {
        self.config
    }

    /// The same scheduler, cursor and cache included, with other settings of the same algorithm.
    pub fn with_config(self, config: SchedulerConfig) -> Scheduler {
        debug_assert_eq!(self.config.algorithm, config.algorithm);
        Scheduler { config, ..self }
    }

    /// Index into `list` of the RS for a new connection; `None` when no RS takes it.
    ///
    /// `list` is the list that the scheduler was made for, newest first, for IPVS inserts at the head and its first
    /// RS wins ties. The caller opens the connection in the RS's counts at once ([`ConnectionCounts::open`]):
    /// schedulers that go by counts, and thresholds, are off by at most one connection for each thread that is
    /// between the two.
    #[inline]
    pub fn schedule(&self, list: &[RealServer], request: &Request) -> Option<usize> {
        let SchedulerConfig { flags, slow_start_seconds, lblc_expiration_seconds, .. } = self.config;
        match &self.state {
            State::Rr(cursor) => cursor.schedule(list),
            State::Wrr(cursor) => cursor.schedule(list),
            State::Lc => lc::schedule(list, request, slow_start_seconds),
            State::Wlc => wlc::schedule(list, request, slow_start_seconds),
            State::Lblc(locality) => locality.schedule(list, request, lblc_expiration_seconds),
            State::Lblcr(locality) => locality.schedule(list, request, lblc_expiration_seconds),
            State::Dh(table) => table.schedule(list, request),
            State::Sh(table) => table.schedule(list, request, flags),
            State::Sed => sed::schedule(list, request, slow_start_seconds),
            State::Nq => nq::schedule(list),
            State::Fo => fo::schedule(list),
            State::Ovf => ovf::schedule(list),
            State::Mh(table) => table.schedule(list, request, flags),
            State::Twos => twos::schedule(list, request),
        }
    }

    /// The scheduler for the list `new` that replaces `old`; it goes on as IPVS's does when RSs are added, edited and
    /// deleted. Control thread: allocates.
    ///
    /// Cursors and tables are shared by both versions where nothing changed that they depend on. Elsewhere the new
    /// cursor starts from where the old one is now; what workers still decide on the old version does not move it.
    /// The cache of `lblc` and `lblcr` is always shared.
    pub fn next_version(&self, old: &[RealServer], new: &[RealServer]) -> Scheduler {
        let state = match &self.state {
            State::Rr(cursor) if !are_same(old, new, |_| 0) => {
                State::Rr(Arc::new(cursor.carried_over(old, new)))
            }
            State::Wrr(cursor) if !are_same(old, new, |real_server| real_server.weight) => {
                State::Wrr(Arc::new(cursor.carried_over(new)))
            }
            State::Lblc(locality) if !are_same(old, new, |_| 0) => {
                State::Lblc(locality.carried_over(old, new))
            }
            State::Lblcr(locality) if !are_same(old, new, |_| 0) => {
                State::Lblcr(locality.carried_over(old, new))
            }
            State::Dh(_) if !are_same(old, new, |_| 0) => State::Dh(Arc::new(dh::Table::new(new))),
            State::Sh(_) if !are_same(old, new, |real_server| real_server.weight) => {
                State::Sh(Arc::new(sh::Table::new(new)))
            }
            State::Mh(_) if !are_same(old, new, RealServer::table_weight) => {
                State::Mh(Arc::new(mh::Table::new(new)))
            }
            unchanged => unchanged.clone(),
        };
        Scheduler { config: self.config, state }
    }
}

/// Where the RSs of one version of a list are, to look those of another up: a list may have a million, too many to be
/// searched for each.
#[derive(Debug)]
struct Places(HashMap<(u32, IpAddr, u16), usize>);

impl Places {
    fn of(list: &[RealServer]) -> Self {
        Places(list.iter().enumerate().map(|(index, real_server)| (real_server.identity(), index)).collect())
    }

    /// Its index in the list; `None`: it is not there.
    fn find(&self, real_server: &RealServer) -> Option<usize> {
        self.0.get(&real_server.identity()).copied()
    }
}

/// Whether both lists hold the same RSs in the same order with the same `weight`.
fn are_same(old: &[RealServer], new: &[RealServer], weight: impl Fn(&RealServer) -> u32) -> bool {
    let is_same = |(a, b): (&RealServer, &RealServer)| a.is_same_as(b) && weight(a) == weight(b);
    old.len() == new.len() && old.iter().zip(new).all(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{picks, real_servers, request, scheduler};

    #[test]
    fn algorithm_names_read_back_as_themselves() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert_eq!(algorithm.to_string(), algorithm.name());
        }
        let names = "rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos";
        assert_eq!(Algorithm::ALL.map(Algorithm::name).join(" "), names);
        assert_eq!(Algorithm::default(), Algorithm::Wlc);
    }

    #[test]
    fn algorithm_unknown_name_is_refused_with_the_known_ones() {
        for name in ["", "WLC", " rr", "least\n"] {
            let error = name.parse::<Algorithm>().unwrap_err();
            assert_eq!(error.name, name);
            assert_eq!(
                error.to_string(),
                format!(
                    "{name:?} is no known scheduler; known are rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, \
                     ovf, mh, twos"
                )
            );
        }
    }

    #[test]
    fn scheduler_keeps_its_algorithm_over_versions() {
        let old = real_servers(&[1, 2]);
        let new = real_servers(&[1, 2, 3]);
        for algorithm in Algorithm::ALL {
            let scheduler = scheduler(algorithm, &old);
            assert_eq!(scheduler.config().algorithm, algorithm);
            assert_eq!(scheduler.next_version(&old, &new).config().algorithm, algorithm);
            assert_eq!(scheduler.next_version(&old, &old).config().algorithm, algorithm);
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
                let scheduler = scheduler(algorithm, &list);
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
                    let scheduler = scheduler(algorithm, &made_for);
                    for _ in 0..50 {
                        scheduler.schedule(&made_for, &request());
                        if let Some(index) = scheduler.schedule(&foreign, &request()) {
                            assert!(foreign[index].is_eligible(), "{algorithm} {weights:?}");
                        }
                    }
                }
            }
        }
    }
}
