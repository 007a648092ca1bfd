//! `wrr`, weighted round robin: the list is walked in passes, each with a required weight that is one interval (the
//! gcd of the weights) lower than the last; an RS gets a connection in every pass that it has the weight for.
//!
//! Matches `net/netfilter/ipvs/ip_vs_wrr.c` of Linux 6.1, where it ends up after a failure included. Invariant: every
//! decision is one step of the one mark, so that concurrent workers together see the kernel's sequence.
//!
//! The kernel walks pass after pass until an RS fits, which takes as many passes as the heaviest weight when the heavy
//! RSs are unavailable. [`Cursor::step`] computes where that walk ends from at most three looks at the list.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering::Relaxed;

use crossbeam::utils::CachePadded;

use crate::RealServer;
use crate::sync::AtomicU64;

/// The mark, with what the walk needs to know of the weights. Those never change: other weights are another cursor.
#[derive(Debug)]
pub(crate) struct Cursor {
    mark: CachePadded<AtomicU64>,
    /// IPVS's `di`: the gcd of all weights over 0, 1 if there is none.
    interval: NonZeroU32,
    /// IPVS's `mw`, required in the first pass: the heaviest weight less (interval − 1), so that the last pass
    /// requires 1. 0 if all weights are.
    highest: u32,
}

/// Where the walk is. One atomic holds it: position in the high 32 bits, required weight in the low 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// IPVS's `cl`: index where the walk goes on, one past the RS of the last connection; 0 is the list head.
    position: u32,
    /// IPVS's `cw`: the weight that an RS needs in this pass, 1 to `highest`.
    required: u32,
}

impl Mark {
    fn pack(self) -> u64 {
        u64::from(self.position) << 32 | u64::from(self.required)
    }

    fn unpack(packed: u64) -> Self {
        Mark { position: (packed >> 32) as u32, required: packed as u32 }
    }
}

impl Cursor {
    /// At the list head, in the first pass.
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        Cursor::for_weights(real_servers, |_, highest| highest)
    }

    /// The cursor after a change of the list: IPVS goes back to the head and keeps the pass as far as the new weights
    /// have it. One call is one change of IPVS's, however many RSs differ.
    pub(crate) fn carried_over(&self, new: &[RealServer]) -> Self {
        let required = Mark::unpack(self.mark.load(Relaxed)).required;
        Cursor::for_weights(new, |interval, highest| {
            if required > highest || required == 0 {
                highest
            } else if interval.get() > 1 {
                required / interval * interval.get() + 1
            } else {
                required
            }
        })
    }

    fn for_weights(real_servers: &[RealServer], required: impl FnOnce(NonZeroU32, u32) -> u32) -> Self {
        let weights = || real_servers.iter().map(|real_server| real_server.weight);
        let interval = NonZeroU32::new(weights().fold(0, gcd)).unwrap_or(NonZeroU32::MIN);
        let highest = weights().max().unwrap_or(0).saturating_sub(interval.get() - 1);
        let mark = Mark { position: 0, required: required(interval, highest) };
        Cursor { mark: CachePadded::new(AtomicU64::new(mark.pack())), interval, highest }
    }

    /// Picks and moves on.
    #[inline]
    pub(crate) fn schedule(&self, real_servers: &[RealServer]) -> Option<usize> {
        let mut packed = self.mark.load(Relaxed);
        loop {
            let (next_mark, pick) = self.step(Mark::unpack(packed), real_servers);
            let next_packed = next_mark.pack();
            // A lone RS, or none, leaves the mark where it is: no write, so that its cache line stays shared.
            if next_packed == packed {
                return pick;
            }
            match self.mark.compare_exchange_weak(packed, next_packed, Relaxed, Relaxed) {
                Ok(_) => return pick,
                Err(moved) => packed = moved,
            }
        }
    }

    /// One decision: where the mark goes, and the index of the RS.
    #[inline]
    fn step(&self, mark: Mark, real_servers: &[RealServer]) -> (Mark, Option<usize>) {
        let Mark { position, required } = mark;
        let picked = |index: usize, required| (Mark { position: index as u32 + 1, required }, Some(index));
        if self.highest == 0 {
            return (mark, None);
        }

        // 1. The rest of this pass. Mostly it ends here.
        let rest = real_servers.get(position as usize..).unwrap_or(&[]);
        if let Some(offset) = first_with(required, rest) {
            return picked(position as usize + offset, required);
        }

        // 2. Nobody: the kernel has looked at everybody in a last pass. Begun within a last pass, it goes on from the
        //    first pass to the next last one and stops there where it began; else it stops at the end of the list.
        let Some((heaviest_index, heaviest)) = heaviest_eligible(real_servers) else {
            let began_within_last_pass = position > 0 && required <= self.interval.get();
            let left = if began_within_last_pass {
                Mark { position, required: 1 }
            } else {
                Mark { position: 0, required: self.highest }
            };
            return (left, None);
        };

        // 3. The next pass from the list head, and of the passes that nobody available has the weight for, none. It
        //    finds an RS, and never gets below 1: the interval divides the heaviest, so a pass lies in
        //    1..=heaviest. (`max` only guards against a list that the cursor was not made for.)
        let mut required =
            if required > self.interval.get() { required - self.interval.get() } else { self.highest };
        if required > heaviest {
            let passes = (required - heaviest - 1) / self.interval + 1;
            required = required.saturating_sub(passes.saturating_mul(self.interval.get())).max(1);
        }
        // Nobody only if a threshold was reached since the look before: then the RS that was free at that one.
        picked(first_with(required, real_servers).unwrap_or(heaviest_index), required)
    }
}

/// Index of the first RS with at least this weight that takes connections.
#[inline]
fn first_with(required: u32, real_servers: &[RealServer]) -> Option<usize> {
    let fits = |real_server: &RealServer| real_server.weight >= required && real_server.is_eligible();
    real_servers.iter().position(fits)
}

/// The heaviest of the RSs that take connections, with its weight, which is over 0.
fn heaviest_eligible(real_servers: &[RealServer]) -> Option<(usize, u32)> {
    let eligible = real_servers.iter().enumerate().filter(|(_, real_server)| real_server.is_eligible());
    eligible.map(|(index, real_server)| (index, real_server.weight)).max_by_key(|&(_, weight)| weight)
}

/// Greatest common divisor; gcd(0, n) = n.
pub(crate) fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{THREADS, picks, picks_in_parallel, real_servers, request, scheduler, without};
    use crate::{Algorithm, Scheduler};

    fn wrr(weights: &[u32]) -> (Scheduler, Vec<RealServer>) {
        let list = real_servers(weights);
        (scheduler(Algorithm::Wrr, &list), list)
    }

    fn reweighted(list: &[RealServer], weights: &[u32]) -> Vec<RealServer> {
        let edit = |(real_server, &weight): (&RealServer, &u32)| RealServer { weight, ..real_server.clone() };
        list.iter().zip(weights).map(edit).collect()
    }

    fn with_unavailable(list: &[RealServer], unavailable: &[usize]) -> Vec<RealServer> {
        let mut list = list.to_vec();
        unavailable.iter().for_each(|&index| list[index].available = false);
        list
    }

    #[test]
    fn wrr_sequence_is_the_one_worked_out_by_hand() {
        for (weights, period) in [
            (&[1, 2, 3][..], &[2, 1, 2, 0, 1, 2][..]),
            (&[3, 2, 1], &[0, 0, 1, 0, 1, 2]),
            (&[2, 4, 6], &[2, 1, 2, 0, 1, 2]),
            (&[6, 9], &[1, 0, 1, 0, 1]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[0, 2, 0, 1], &[1, 1, 3]),
            (&[65535], &[0]),
        ] {
            let (scheduler, list) = wrr(weights);
            let expected: Vec<_> = period.iter().copied().map(Some).cycle().take(3 * period.len()).collect();
            assert_eq!(picks(&scheduler, &list, 3 * period.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn wrr_skips_unavailable_and_keeps_the_shares_of_the_others() {
        for (unavailable, period) in [
            (&[2][..], [1, 0, 1, 1, 0, 1].map(Some)),
            (&[1], [2, 2, 0, 2, 2, 2].map(Some)),
            (&[1, 2], [Some(0); 6]),
            (&[0, 1, 2], [None; 6]),
        ] {
            let (scheduler, list) = wrr(&[1, 2, 3]);
            let list = with_unavailable(&list, unavailable);
            assert_eq!(picks(&scheduler, &list, 6), period, "{unavailable:?}");
        }
    }

    #[test]
    fn wrr_heavy_unavailable_real_server_leaves_the_light_ones_their_turn() {
        let (scheduler, list) = wrr(&[65535, 2, 1]);
        let list = with_unavailable(&list, &[0]);
        assert_eq!(picks(&scheduler, &list, 6), [1, 1, 2, 1, 1, 2].map(Some));
    }

    /// Weights 2, 4, 6: interval 2, passes 5, 3, 1. Where the kernel's `cl` and `cw` are after `err_over`.
    #[test]
    fn wrr_failure_leaves_the_mark_where_the_kernel_does() {
        let list = real_servers(&[2, 4, 6]);
        let nobody = with_unavailable(&list, &[0, 1, 2]);
        let cursor = Cursor::new(&list);
        for (mark, left, case) in [
            ((0, 5), (0, 5), "head, first pass: every pass is walked, the end is the head"),
            ((0, 1), (0, 5), "head, last pass: everybody was seen at once"),
            ((2, 3), (0, 5), "inside, not the last pass: the end is the head"),
            ((3, 5), (0, 5), "behind the last, first pass"),
            ((2, 1), (2, 1), "inside a last pass: around to the same place of the next last pass"),
            ((3, 1), (3, 1), "behind the last in the last pass"),
        ] {
            let mark = Mark { position: mark.0, required: mark.1 };
            let left = Mark { position: left.0, required: left.1 };
            assert_eq!(cursor.step(mark, &nobody), (left, None), "{case}");
        }
    }

    #[test]
    fn wrr_all_zero_fails_and_leaves_the_mark() {
        let list = real_servers(&[0, 0]);
        let cursor = Cursor::new(&list);
        let mark = Mark { position: 0, required: 0 };
        assert_eq!(Mark::unpack(cursor.mark.load(Relaxed)), mark);
        assert_eq!(cursor.step(mark, &list), (mark, None));
    }

    #[test]
    fn wrr_version_after_all_weights_were_zero_starts_in_the_first_pass() {
        let (scheduler, list) = wrr(&[0, 0, 0]);
        let edited = reweighted(&list, &[0, 2, 6]);
        let next = scheduler.next_version(&list, &edited);
        assert_eq!(picks(&next, &edited, 5), [2, 2, 1, 2, 2].map(Some));
    }

    #[test]
    fn wrr_version_after_a_weight_edit_goes_to_the_head_and_keeps_its_pass() {
        let (scheduler, list) = wrr(&[1, 2, 3]);
        assert_eq!(picks(&scheduler, &list, 2), [2, 1].map(Some));
        let edited = reweighted(&list, &[2, 2, 3]);
        let next = scheduler.next_version(&list, &edited);
        assert_eq!(picks(&next, &edited, 7), [0, 1, 2, 0, 1, 2, 2].map(Some));
    }

    #[test]
    fn wrr_version_with_a_larger_gcd_rounds_its_pass() {
        let (scheduler, list) = wrr(&[1, 2, 3]);
        assert_eq!(picks(&scheduler, &list, 2), [2, 1].map(Some));
        let edited = reweighted(&list, &[2, 4, 6]);
        let next = scheduler.next_version(&list, &edited);
        assert_eq!(picks(&next, &edited, 6), [1, 2, 0, 1, 2, 2].map(Some));
    }

    #[test]
    fn wrr_version_with_lighter_weights_starts_in_the_first_pass() {
        let (scheduler, list) = wrr(&[1, 9]);
        assert_eq!(scheduler.schedule(&list, &request()), Some(1));
        let edited = reweighted(&list, &[1, 3]);
        let next = scheduler.next_version(&list, &edited);
        assert_eq!(picks(&next, &edited, 5), [1, 1, 0, 1, 1].map(Some));
    }

    #[test]
    fn wrr_version_after_an_addition_or_a_deletion_goes_to_the_head() {
        let (scheduler, three) = wrr(&[1, 1, 1]);
        assert_eq!(picks(&scheduler, &three, 2), [0, 1].map(Some));
        let two = without(&three, &[0]);
        let shorter = scheduler.next_version(&three, &two);
        assert_eq!(picks(&shorter, &two, 3), [0, 1, 0].map(Some));
        let longer = shorter.next_version(&two, &three);
        assert_eq!(picks(&longer, &three, 3), [0, 1, 2].map(Some));
    }

    #[test]
    fn wrr_version_that_differs_in_availability_shares_the_mark() {
        let (scheduler, list) = wrr(&[1, 2, 3]);
        let partial = with_unavailable(&list, &[1]);
        let next = scheduler.next_version(&list, &partial);
        let alternating = [
            scheduler.schedule(&list, &request()),
            next.schedule(&partial, &request()),
            scheduler.schedule(&list, &request()),
            next.schedule(&partial, &request()),
            scheduler.schedule(&list, &request()),
        ];
        assert_eq!(alternating, [2, 2, 0, 2, 2].map(Some));
    }

    #[test]
    fn wrr_shares_of_eight_threads_over_whole_periods_are_exact() {
        const PERIODS: usize = 4_000;
        for weights in [[1, 2, 3], [6, 0, 2]] {
            let (scheduler, list) = wrr(&weights);
            let divisor = weights.into_iter().fold(0, gcd) as usize;
            let period = weights.iter().sum::<u32>() as usize / divisor;
            let shares = picks_in_parallel(&scheduler, &list, period * PERIODS);
            assert_eq!(shares, weights.map(|weight| THREADS * PERIODS * weight as usize / divisor));
        }
    }
}
