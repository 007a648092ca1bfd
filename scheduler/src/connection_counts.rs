//! Connection counts of one RS, and whether they have reached its threshold. Workers write them when a connection
//! opens, changes state or closes, never per packet; most schedulers read them for every new connection. The control
//! thread sets the thresholds.
//!
//! Invariant: both counts and the overload flag come from the same instant, because all three live in one atomic: a
//! flip is one addition, and where thresholds are set, a count and what it makes of the flag are one exchange.
//!
//! Memory order: [`ConnectionCounts::set_thresholds`] stores the thresholds and then exchanges the counts (release);
//! a worker exchanges the counts (acquire) and then looks at the thresholds once more. Whichever exchange comes second
//! sees what the other side did before its own, so an edit and a connection that meet cannot leave a stale flag.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crossbeam::utils::CachePadded;

use crate::sync::AtomicU64;

/// The RS has reached its upper threshold and not yet left its lower one (IPVS: `IP_VS_DEST_F_OVERLOAD`).
const OVERLOADED: u64 = 1 << 63;
/// One active connection: bits 32 to 62.
const ACTIVE: u64 = 1 << 32;
/// One inactive connection: bits 0 to 31.
const INACTIVE: u64 = 1;
/// What moves one connection from inactive to active.
const FLIP: u64 = ACTIVE - INACTIVE;
/// The most connections of one kind, as many as IPVS's `int` holds.
const COUNT_MAX: u32 = i32::MAX as u32;

/// Connection counts of one real server, shared by all workers, alone on their cache line.
///
/// At most 2³¹ − 1 connections of each kind. Callers pair the calls: every connection is opened once, closed once,
/// and flipped only to the kind that it is not.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    line: CachePadded<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Flag, active, inactive.
    packed: AtomicU64,
    /// Upper threshold in the high half, lower in the low half; 0: none.
    thresholds: AtomicU64,
}

/// Thresholds of one RS (`ipvsadm -x -y`), in connections of both kinds together; 0: none.
///
/// The RS gets no new connection from the one that makes `upper` on, until fewer than `lower` are left, or fewer than
/// three quarters of `upper` where `lower` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections at which it is overloaded (`ipvsadm -x`). 0: never.
    pub upper: u32,
    /// Connections below which it is so no more (`ipvsadm -y`), at most `upper`. 0: three quarters of it.
    pub lower: u32,
}

impl Thresholds {
    fn pack(self) -> u64 {
        u64::from(self.upper) << 32 | u64::from(self.lower)
    }

    fn unpack(packed: u64) -> Self {
        Thresholds { upper: (packed >> 32) as u32, lower: packed as u32 }
    }

    /// The counts with the flag that they call for; between the thresholds it stays as it is.
    ///
    /// As IPVS does at every open, close and edit.
    fn judge(self, packed: u64) -> u64 {
        let total = unpack(packed).total();
        let cleared_below = if self.lower > 0 { self.lower } else { self.upper - self.upper / 4 };
        if self.upper == 0 {
            packed & !OVERLOADED
        } else if total >= u64::from(self.upper) {
            packed | OVERLOADED
        } else if total < u64::from(cleared_below) {
            packed & !OVERLOADED
        } else {
            packed
        }
    }
}

fn unpack(packed: u64) -> Counts {
    Counts { active: (packed >> 32) as u32 & COUNT_MAX, inactive: packed as u32 }
}

impl ConnectionCounts {
    /// No connection yet, no thresholds.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        ConnectionCounts {
            line: CachePadded::new(Line { packed: AtomicU64::new(0), thresholds: AtomicU64::new(0) }),
        }
    }

    /// No connection yet, no thresholds. (The model checker's atomics have no constants.)
    #[cfg(loom)]
    pub fn new() -> Self {
        ConnectionCounts::default()
    }

    /// Counts as if so many connections had been opened.
    #[cfg(test)]
    pub(crate) fn with(active: u32, inactive: u32) -> Self {
        assert!(active <= COUNT_MAX && inactive <= COUNT_MAX);
        let counts = ConnectionCounts::new();
        counts.line.packed.store(u64::from(active) << 32 | u64::from(inactive), Relaxed);
        counts
    }

    /// A new connection; IPVS counts it as inactive until its state says otherwise.
    #[inline]
    pub fn open(&self) {
        self.change(INACTIVE);
    }

    /// An inactive connection became active (IPVS: TCP reached ESTABLISHED).
    #[inline]
    pub fn activate(&self) {
        // The total and with it the flag stay.
        self.line.packed.fetch_add(FLIP, Relaxed);
    }

    /// An active connection became inactive (IPVS: TCP left ESTABLISHED).
    #[inline]
    pub fn deactivate(&self) {
        self.line.packed.fetch_sub(FLIP, Relaxed);
    }

    /// A connection is gone; `was_active` says which kind it was.
    #[inline]
    pub fn close(&self, was_active: bool) {
        self.change(if was_active { ACTIVE } else { INACTIVE }.wrapping_neg());
    }

    /// Both counts as they were at one instant.
    #[inline]
    pub fn load(&self) -> Counts {
        unpack(self.line.packed.load(Relaxed))
    }

    /// Whether the RS has reached its upper threshold and not yet left its lower one. Never without thresholds.
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.line.packed.load(Relaxed) & OVERLOADED != 0
    }

    /// Sets or, with 0, removes the thresholds, and judges the counts by them at once. Control thread.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.line.thresholds.store(thresholds.pack(), Relaxed);
        self.exchange(0, thresholds);
    }

    /// Adds `difference`, a two's complement, and sets the flag accordingly.
    #[inline]
    fn change(&self, difference: u64) {
        let seen = self.line.thresholds.load(Relaxed);
        if seen == 0 {
            self.line.packed.fetch_add(difference, Acquire);
        } else {
            self.exchange(difference, Thresholds::unpack(seen));
        }
        if self.line.thresholds.load(Relaxed) != seen {
            self.judge_again(seen);
        }
    }

    /// The thresholds were edited in the same instant: the counts are judged by the new ones.
    #[cold]
    fn judge_again(&self, mut seen: u64) {
        loop {
            let thresholds = self.line.thresholds.load(Relaxed);
            if thresholds == seen {
                return;
            }
            seen = thresholds;
            self.exchange(0, Thresholds::unpack(thresholds));
        }
    }

    /// One exchange, which happens even where it changes nothing: it is what the other side's exchange meets.
    fn exchange(&self, difference: u64, thresholds: Thresholds) {
        let mut packed = self.line.packed.load(Relaxed);
        loop {
            let next = thresholds.judge(packed.wrapping_add(difference));
            match self.line.packed.compare_exchange_weak(packed, next, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(moved) => packed = moved,
            }
        }
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

    fn with_thresholds(upper: u32, lower: u32) -> ConnectionCounts {
        let counts = ConnectionCounts::new();
        counts.set_thresholds(Thresholds { upper, lower });
        counts
    }

    /// At how many connections the flag comes on the way up, and goes on the way down.
    #[test]
    fn thresholds_set_the_flag_at_the_upper_and_clear_it_below_the_lower() {
        for (upper, lower, cleared_at) in [
            (8, 3, 2),
            (8, 8, 7),
            (8, 1, 0),
            (8, 0, 5),
            (7, 0, 5),
            (6, 0, 4),
            (5, 0, 3),
            (4, 0, 2),
            (3, 0, 2),
            (2, 0, 1),
            (1, 0, 0),
        ] {
            let counts = with_thresholds(upper, lower);
            for total in 1..=upper + 2 {
                counts.open();
                if total % 2 == 0 {
                    counts.activate();
                }
                assert_eq!(counts.is_overloaded(), total >= upper, "{upper} {lower}: up at {total}");
            }
            for total in (0..upper + 2).rev() {
                counts.close(counts.load().active > 0);
                assert_eq!(counts.is_overloaded(), total > cleared_at, "{upper} {lower}: down at {total}");
            }
            assert_eq!(counts.load(), Counts::default());
        }
    }

    #[test]
    fn thresholds_edited_judge_the_connections_that_are_there() {
        let counts = ConnectionCounts::with(3, 2);
        for (upper, lower, is_overloaded, case) in [
            (5, 0, true, "reached"),
            (6, 5, true, "between them: as it was"),
            (6, 0, true, "between them: as it was"),
            (9, 0, false, "below three quarters"),
            (6, 5, false, "between them: as it was"),
            (3, 0, true, "passed"),
            (0, 0, false, "removed"),
        ] {
            counts.set_thresholds(Thresholds { upper, lower });
            assert_eq!(counts.is_overloaded(), is_overloaded, "{upper} {lower}: {case}");
            assert_eq!(counts.load(), Counts { active: 3, inactive: 2 });
        }
    }

    #[test]
    fn thresholds_at_their_extremes_neither_wrap_nor_mix() {
        let max = i32::MAX as u32;
        let counts = ConnectionCounts::with(max, max);
        assert_eq!(counts.load(), Counts { active: max, inactive: max });
        counts.set_thresholds(Thresholds { upper: u32::MAX, lower: u32::MAX });
        assert!(!counts.is_overloaded());
        counts.set_thresholds(Thresholds { upper: max, lower: 1 });
        assert!(counts.is_overloaded());
        assert_eq!(counts.load(), Counts { active: max, inactive: max });
    }
}
