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
