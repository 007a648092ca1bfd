//! `rr`, round robin: the RS after the one that got the last connection, weight 0 and unavailable ones skipped.
//!
//! Matches `net/netfilter/ipvs/ip_vs_rr.c`. Invariant: every decision is one step of the one cursor, so that
//! concurrent workers together see the kernel's sequence.

use std::sync::atomic::Ordering::Relaxed;

use crossbeam::utils::CachePadded;

use crate::sync::AtomicUsize;
use crate::{Places, RealServer};

/// Where the next search begins: an index into the list of RSs, one past the RS of the last connection.
/// 0 is IPVS's pointer at the list head, before the first RS.
#[derive(Debug)]
pub(crate) struct Cursor {
    position: CachePadded<AtomicUsize>,
}

impl Cursor {
    /// At the list head: the first pick is the first, newest, RS.
    pub(crate) fn new() -> Self {
        Cursor::at(0)
    }

    fn at(position: usize) -> Self {
        Cursor { position: CachePadded::new(AtomicUsize::new(position)) }
    }

    /// The cursor on the RS where it was; if that one is deleted, on the nearest before it that is still there, as
    /// IPVS steps back at each deletion; else at the list head.
    pub(crate) fn carried_over(&self, old: &[RealServer], new: &[RealServer]) -> Self {
        let places = Places::of(new);
        let up_to_last_pick = old.iter().take(self.position.load(Relaxed));
        let nearest = up_to_last_pick.rev().find_map(|survivor| places.find(survivor));
        let position = nearest.map_or(0, |index| index + 1);
        Cursor::at(position)
    }

    /// Picks and moves on.
    #[inline]
    pub(crate) fn schedule(&self, real_servers: &[RealServer]) -> Option<usize> {
        let mut position = self.position.load(Relaxed);
        loop {
            let index = next_from(position, real_servers)?;
            let next_position = index + 1;
            // A lone RS leaves the cursor where it is: no write, so that its cache line stays shared.
            if next_position == position {
                return Some(index);
            }
            match self.position.compare_exchange_weak(position, next_position, Relaxed, Relaxed) {
                Ok(_) => return Some(index),
                Err(moved) => position = moved,
            }
        }
    }
}

/// The first eligible RS from `position` on, once around.
#[inline]
fn next_from(position: usize, real_servers: &[RealServer]) -> Option<usize> {
    let (before, after) = real_servers.split_at_checked(position).unwrap_or((real_servers, &[]));
    match after.iter().position(RealServer::is_eligible) {
        Some(offset) => Some(before.len() + offset),
        None => before.iter().position(RealServer::is_eligible),
    }
}

#[cfg(test)]
mod tests {
    use crate::fixture::{
        THREADS, in_parallel, picks, picks_in_parallel, real_servers, request, scheduler, without,
    };
    use crate::{Algorithm, RealServer, Scheduler};

    /// A scheduler over five RSs (ids 4, 3, 2, 1, 0, newest first) that last picked the RS at `index`.
    fn five_stopped_at(index: usize) -> (Scheduler, Vec<RealServer>) {
        let list = real_servers(&[1; 5]);
        let scheduler = scheduler(Algorithm::Rr, &list);
        for expected in 0..=index {
            assert_eq!(scheduler.schedule(&list, &request()), Some(expected));
        }
        (scheduler, list)
    }

    fn next_id(scheduler: &Scheduler, list: &[RealServer]) -> Option<u32> {
        scheduler.schedule(list, &request()).map(|index| list[index].id)
    }

    #[test]
    fn rr_starts_with_the_newest_and_ignores_how_large_weights_are() {
        let list = real_servers(&[1, 900, 2]);
        let scheduler = scheduler(Algorithm::Rr, &list);
        assert_eq!(picks(&scheduler, &list, 7), [0, 1, 2, 0, 1, 2, 0].map(Some));
    }

    #[test]
    fn rr_skips_weight_zero_and_unavailable() {
        let mut list = real_servers(&[0, 1, 1, 0, 1]);
        list[2].available = false;
        let scheduler = scheduler(Algorithm::Rr, &list);
        assert_eq!(picks(&scheduler, &list, 5), [1, 4, 1, 4, 1].map(Some));
    }

    #[test]
    fn rr_lone_eligible_is_picked_every_time() {
        let list = real_servers(&[0, 1, 0]);
        let scheduler = scheduler(Algorithm::Rr, &list);
        assert_eq!(picks(&scheduler, &list, 3), [Some(1); 3]);
    }

    #[test]
    fn rr_without_a_hit_keeps_its_place() {
        let (scheduler, mut list) = five_stopped_at(2);
        list.iter_mut().for_each(|real_server| real_server.available = false);
        assert_eq!(picks(&scheduler, &list, 2), [None; 2]);
        list.iter_mut().for_each(|real_server| real_server.available = true);
        assert_eq!(scheduler.schedule(&list, &request()), Some(3));
    }

    #[test]
    fn rr_version_after_an_addition_goes_on_behind_the_last_pick() {
        let (scheduler, list) = five_stopped_at(2);
        let mut longer = real_servers(&[1; 6]);
        longer[0].id = 77;
        longer[1..].clone_from_slice(&list);
        let next = scheduler.next_version(&list, &longer);
        assert_eq!(picks(&next, &longer, 5), [4, 5, 0, 1, 2].map(Some));
    }

    #[test]
    fn rr_version_at_the_head_after_an_addition_starts_with_the_newcomer() {
        let list = real_servers(&[1; 2]);
        let longer = real_servers(&[1; 3]);
        let next = scheduler(Algorithm::Rr, &list).next_version(&list, &longer);
        assert_eq!(next_id(&next, &longer), Some(2));
    }

    #[test]
    fn rr_version_after_a_weight_edit_goes_on_behind_the_last_pick() {
        let (scheduler, list) = five_stopped_at(2);
        let mut edited = list.clone();
        edited[3].weight = 0;
        let next = scheduler.next_version(&list, &edited);
        assert_eq!(picks(&next, &edited, 3), [4, 0, 1].map(Some));
    }

    /// Last pick: id 2 (index 2) of ids 4, 3, 2, 1, 0.
    #[test]
    fn rr_version_after_a_deletion_goes_on_where_ipvs_does() {
        for (deleted, next_pick, case) in [
            (&[2][..], 1, "the last pick itself: from its predecessor on"),
            (&[2, 3], 1, "the last pick and its predecessor: from the one before"),
            (&[2, 3, 4], 1, "all up to the last pick: from the head"),
            (&[1], 0, "the next one: it is skipped"),
            (&[4], 1, "one before: nothing moves"),
            (&[0, 1], 4, "all behind: around to the newest"),
            (&[0, 1, 2], 4, "the last pick and all behind: around to the newest"),
            (&[0, 1, 3, 4], 2, "all others: it is the only one left"),
        ] {
            let (scheduler, list) = five_stopped_at(2);
            let shorter = without(&list, deleted);
            let next = scheduler.next_version(&list, &shorter);
            assert_eq!(next_id(&next, &shorter), Some(next_pick), "{case}");
        }
    }

    #[test]
    fn rr_version_after_deleting_the_first_just_picked_starts_at_the_head() {
        let (scheduler, list) = five_stopped_at(0);
        let shorter = without(&list, &[4]);
        assert_eq!(next_id(&scheduler.next_version(&list, &shorter), &shorter), Some(3));
    }

    #[test]
    fn rr_version_over_an_emptied_list_starts_over() {
        let (scheduler, list) = five_stopped_at(3);
        let emptied = scheduler.next_version(&list, &[]);
        assert_eq!(emptied.schedule(&[], &request()), None);
        let refilled = emptied.next_version(&[], &list);
        assert_eq!(next_id(&refilled, &list), Some(4));
    }

    #[test]
    fn rr_version_that_differs_in_availability_shares_the_cursor() {
        let (scheduler, list) = five_stopped_at(0);
        let mut resolved = list.clone();
        resolved[2].available = false;
        let next = scheduler.next_version(&list, &resolved);
        assert_eq!(scheduler.schedule(&list, &request()), Some(1));
        assert_eq!(next.schedule(&resolved, &request()), Some(3));
        assert_eq!(scheduler.schedule(&list, &request()), Some(4));
        assert_eq!(next.schedule(&resolved, &request()), Some(0));
    }

    #[test]
    fn rr_shares_of_eight_threads_over_whole_periods_are_exact() {
        const PERIODS: usize = 4_000;
        let list = real_servers(&[5, 0, 1, 1, 7]);
        let scheduler = scheduler(Algorithm::Rr, &list);
        let shares = picks_in_parallel(&scheduler, &list, 4 * PERIODS);
        let each = THREADS * PERIODS;
        assert_eq!(shares, [each, 0, each, each, each]);
    }

    #[test]
    fn rr_two_versions_at_once_that_differ_in_availability_lose_no_turn() {
        const PERIODS: usize = 2_000;
        let list = real_servers(&[1; 3]);
        let mut other = list.clone();
        other.iter_mut().for_each(|real_server| real_server.counts = Default::default());
        let scheduler = scheduler(Algorithm::Rr, &list);
        let next = scheduler.next_version(&list, &other);
        in_parallel(|thread| {
            for _ in 0..3 * PERIODS {
                let (version, list) = if thread % 2 == 0 { (&scheduler, &list) } else { (&next, &other) };
                list[version.schedule(list, &request()).unwrap()].counts.open();
            }
        });
        for (a, b) in list.iter().zip(&other) {
            assert_eq!(a.counts.load().total() + b.counts.load().total(), (THREADS * PERIODS) as u64);
        }
    }
}
