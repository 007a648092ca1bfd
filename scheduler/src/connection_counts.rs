//! Connection counts of one RS. Workers write them when a connection opens, changes state or closes, never per
//! packet; `lc` and `wlc` read them for every new connection.
//!
//! Invariant: both halves come from the same instant, because both live in one atomic and a flip is one addition.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

/// One active connection: the high 32 bits.
const ACTIVE: u64 = 1 << 32;
/// One inactive connection: the low 32 bits.
const INACTIVE: u64 = 1;
/// What moves one connection from inactive to active.
const FLIP: u64 = ACTIVE - INACTIVE;

/// Connection counts of one real server, shared by all workers, alone on its cache line.
///
/// At most 2³² − 1 connections of each kind. Callers pair the calls: every connection is opened once, closed once,
/// and flipped only to the kind that it is not.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    packed: CachePadded<AtomicU64>,
}

impl ConnectionCounts {
    /// No connection yet.
    pub const fn new() -> Self {
        ConnectionCounts { packed: CachePadded::new(AtomicU64::new(0)) }
    }

    /// Counts as if so many connections had been opened.
    #[cfg(test)]
    pub(crate) const fn with(active: u32, inactive: u32) -> Self {
        let packed = (active as u64) << 32 | inactive as u64;
        ConnectionCounts { packed: CachePadded::new(AtomicU64::new(packed)) }
    }

    /// A new connection; IPVS counts it as inactive until its state says otherwise.
    #[inline]
    pub fn open(&self) {
        self.packed.fetch_add(INACTIVE, Relaxed);
    }

    /// An inactive connection became active (IPVS: TCP reached ESTABLISHED).
    #[inline]
    pub fn activate(&self) {
        self.packed.fetch_add(FLIP, Relaxed);
    }

    /// An active connection became inactive (IPVS: TCP left ESTABLISHED).
    #[inline]
    pub fn deactivate(&self) {
        self.packed.fetch_sub(FLIP, Relaxed);
    }

    /// A connection is gone; `was_active` says which kind it was.
    #[inline]
    pub fn close(&self, was_active: bool) {
        self.packed.fetch_sub(if was_active { ACTIVE } else { INACTIVE }, Relaxed);
    }

    /// Both counts as they were at one instant.
    #[inline]
    pub fn load(&self) -> Counts {
        let packed = self.packed.load(Relaxed);
        Counts { active: (packed >> 32) as u32, inactive: packed as u32 }
    }
}

/// The connections of one RS at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections in a state that IPVS calls active (`ActiveConn` of `ipvsadm -Ln`).
    pub active: u32,
    /// All others (`InActConn` of `ipvsadm -Ln`).
    pub inactive: u32,
}

impl Counts {
    /// Connections of both kinds.
    #[inline]
    pub fn total(self) -> u64 {
        u64::from(self.active) + u64::from(self.inactive)
    }

    /// What the connections cost the RS by IPVS's estimate: 257 × active + inactive.
    ///
    /// As `ip_vs_dest_conn_overhead` computes it (`active << 8` plus all connections) in the include/net/ip_vs.h of
    /// Debian's linux-headers 6.1.0-56 and 6.12.117. Older kernels had 256 × active + inactive.
    #[inline]
    pub fn overhead(self) -> u64 {
        (u64::from(self.active) << 8) + self.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{THREADS, in_parallel};

    #[test]
    fn connection_life_moves_between_the_counts() {
        static COUNTS: ConnectionCounts = ConnectionCounts::new();
        let counts = &COUNTS;
        let expect = |active, inactive| assert_eq!(counts.load(), Counts { active, inactive });
        expect(0, 0);
        counts.open();
        counts.open();
        expect(0, 2);
        counts.activate();
        expect(1, 1);
        counts.activate();
        expect(2, 0);
        counts.deactivate();
        expect(1, 1);
        counts.close(true);
        expect(0, 1);
        counts.close(false);
        expect(0, 0);
    }

    #[test]
    fn counts_at_their_extremes_neither_wrap_nor_mix() {
        let counts = Counts { active: u32::MAX, inactive: u32::MAX };
        assert_eq!(counts.total(), 2 * 0xffff_ffff);
        assert_eq!(counts.overhead(), 258 * 0xffff_ffff);
        assert_eq!(Counts { active: 1, inactive: 0 }.overhead(), 257);
        assert_eq!(Counts { active: 3, inactive: 5 }.overhead(), 776);
        assert_eq!(Counts { active: 3, inactive: 5 }.total(), 8);
    }

    #[test]
    fn connection_counts_own_their_cache_line() {
        assert!(align_of::<ConnectionCounts>() >= 64);
        assert_eq!(size_of::<ConnectionCounts>() % 64, 0);
    }

    #[test]
    fn flips_under_eight_threads_are_exact_and_never_torn() {
        const ROUNDS: u32 = 5_000;
        let counts = ConnectionCounts::new();
        (0..THREADS).for_each(|_| counts.open());
        in_parallel(|_| {
            for _ in 0..ROUNDS {
                counts.activate();
                assert_eq!(counts.load().total(), THREADS as u64);
                counts.deactivate();
                assert_eq!(counts.load().total(), THREADS as u64);
            }
            counts.activate();
        });
        assert_eq!(counts.load(), Counts { active: THREADS as u32, inactive: 0 });
    }

    #[test]
    fn opens_and_closes_under_eight_threads_are_exact() {
        const ROUNDS: u32 = 5_000;
        let counts = ConnectionCounts::new();
        in_parallel(|_| {
            for round in 0..ROUNDS {
                counts.open();
                counts.open();
                counts.activate();
                counts.close(round % 2 == 0);
                if round % 2 == 1 {
                    counts.deactivate();
                }
            }
        });
        assert_eq!(counts.load(), Counts { active: 0, inactive: THREADS as u32 * ROUNDS });
    }
}
