//! `twos`, power of two choices: two RSs at random, each with the chance of its weight; of the two the one with the
//! less overhead for its weight, the first if they are equal.
//!
//! Matches `net/netfilter/ipvs/ip_vs_twos.c`, its lots from 0 to the sum of the weights inclusive too, which give the
//! first RS of the list (the newest) one lot more than its weight. The kernel compares in 32 bits, this in 64.
//!
//! Invariant: the decision depends on the list and on [`Request::random`] alone.

use crate::{RealServer, Request};

/// Picks; remembers nothing.
#[inline]
pub(crate) fn schedule(real_servers: &[RealServer], request: &Request) -> Option<usize> {
    let weight_of_eligible =
        |real_server: &RealServer| if real_server.is_eligible() { u64::from(real_server.weight) } else { 0 };
    let sum: u64 = real_servers.iter().map(weight_of_eligible).sum();
    if sum == 0 {
        return None;
    }
    let mut first_lot = lot(request.random as u32, sum);
    let mut second_lot = lot((request.random >> 32) as u32, sum);
    let (mut first, mut second) = (None, None);
    let mut last = None;
    for (index, real_server) in real_servers.iter().enumerate() {
        let weight = weight_of_eligible(real_server);
        if weight == 0 {
            continue;
        }
        last = Some(index);
        draw(&mut first, &mut first_lot, index, real_server);
        draw(&mut second, &mut second_lot, index, real_server);
        if first.is_some() && second.is_some() {
            break;
        }
    }
    // A lot that nobody holds: an RS reached its threshold between the two walks.
    match (first, second) {
        (Some(first), Some(second)) if second.is_less_loaded_than(first) => Some(second.index),
        (Some(choice), _) | (None, Some(choice)) => Some(choice.index),
        (None, None) => last,
    }
}

/// A number from 0 to `sum` inclusive out of 32 random bits.
#[inline]
fn lot(random: u32, sum: u64) -> u64 {
    ((u128::from(random) * (u128::from(sum) + 1)) >> 32) as u64
}

#[derive(Clone, Copy)]
struct Choice {
    index: usize,
    overhead: u64,
    weight: u64,
}

impl Choice {
    #[inline]
    fn is_less_loaded_than(self, other: Choice) -> bool {
        self.overhead.wrapping_mul(other.weight) < other.overhead.wrapping_mul(self.weight)
    }
}

/// Takes the RS's lots off the number drawn: it holds the one that they reach.
#[inline]
fn draw(choice: &mut Option<Choice>, lot: &mut u64, index: usize, real_server: &RealServer) {
    if choice.is_some() {
        return;
    }
    let weight = u64::from(real_server.weight);
    if *lot <= weight {
        *choice = Some(Choice { index, overhead: real_server.overhead(), weight });
    } else {
        *lot -= weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{real_servers, request};

    /// A request whose two lots are these, of weights that sum up to `sum`.
    fn with_lots(lots: [u64; 2], sum: u64) -> Request {
        let random_for = |lot: u64| (lot << 32).div_ceil(sum + 1);
        let random = random_for(lots[0]) | random_for(lots[1]) << 32;
        assert_eq!([random as u32, (random >> 32) as u32].map(|half| lot(half, sum)), lots);
        Request { random, ..request() }
    }

    #[test]
    fn twos_lots_fall_to_the_first_real_server_whose_weight_reaches_them() {
        let list = real_servers(&[2, 0, 1, 3]);
        for (drawn, pick) in [(0, 0), (1, 0), (2, 0), (3, 2), (4, 3), (5, 3), (6, 3)] {
            assert_eq!(schedule(&list, &with_lots([drawn, drawn], 6)), Some(pick), "lot {drawn}");
        }
    }

    #[test]
    fn twos_pick_is_the_less_loaded_and_the_first_of_equals() {
        let list = real_servers(&[1, 2]);
        let both = |lots| schedule(&list, &with_lots(lots, 3));
        assert_eq!((both([1, 2]), both([2, 1])), (Some(0), Some(1)), "both idle: the first lot's");
        list[0].counts.open();
        assert_eq!((both([1, 2]), both([2, 1])), (Some(1), Some(1)));
        list[1].counts.open();
        assert_eq!((both([1, 2]), both([2, 1])), (Some(1), Some(1)), "1/2 is less than 1/1");
        list[1].counts.open();
        assert_eq!((both([1, 2]), both([2, 1])), (Some(0), Some(1)), "2/2 is equal to 1/1");
    }

    #[test]
    fn twos_lot_of_any_random_number_is_within_the_sum() {
        for sum in [1, 6, 65_535 * 100] {
            assert_eq!((lot(0, sum), lot(u32::MAX, sum)), (0, sum));
        }
    }
}
