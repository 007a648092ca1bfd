//! Whom a hash moves when one RS goes: clients of the other RSs, who had no reason to.

use std::collections::BTreeSet;

use scheduler::{Algorithm, HashRing, RealServer, Request, Scheduler};

use crate::measure::{Random, config, real_servers, real_servers_of};

/// Clients that are asked for before and after.
pub(crate) const CLIENTS: usize = 20_000;
/// Numbers of RSs of which one goes under `mh`.
pub(crate) const COUNTS: [usize; 6] = [2, 10, 50, 100, 400, 1000];
/// Of more RSs only so many go, each by itself, and the one in the middle.
pub(crate) const REMOVALS: usize = 20;

/// Per cent of the clients of the RSs that stayed, over the removal of each RS by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    pub(crate) mean: f64,
    pub(crate) most: f64,
}

impl Moved {
    /// Of the hundred RSs, under a scheduler that hashes clients.
    pub(crate) fn under(algorithm: Algorithm) -> Self {
        Moved::between(&real_servers(1), 0..real_servers(1).len(), |list, requests| {
            picks(algorithm, list, requests)
        })
    }

    /// Of the hundred RSs, on the ring that forwards without state.
    pub(crate) fn on_the_ring() -> Self {
        Moved::between(&real_servers(1), 0..real_servers(1).len(), |list, requests| {
            let ring = HashRing::new(list);
            let pick = |request: &Request| ring.pick(list, request.client, request.client_port);
            requests.iter().map(pick).map(|index| index.map(|index| list[index].id)).collect()
        })
    }

    fn between(
        list: &[RealServer],
        removals: impl IntoIterator<Item = usize>,
        pick: impl Fn(&[RealServer], &[Request]) -> Vec<Option<u32>>,
    ) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let requests: Vec<Request> = (0..CLIENTS).map(|_| random.request(0)).collect();
        let before = pick(list, &requests);
        let moved = |removed: usize| {
            let mut left = list.to_vec();
            let gone = Some(left.remove(removed).id);
            let after = pick(&left, &requests);
            let (mut stayed, mut moved) = (0, 0);
            for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before != gone) {
                stayed += 1;
                moved += usize::from(before != after);
            }
            100.0 * moved as f64 / stayed as f64
        };
        let all: Vec<f64> = removals.into_iter().map(moved).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        Moved { mean, most: all.into_iter().fold(0.0, f64::max) }
    }
}

/// `mh` over RSs whose weights are of one kind.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// One for each of [`COUNTS`].
    pub(crate) moved: [Moved; COUNTS.len()],
}

impl Kind {
    pub(crate) fn all() -> Vec<Self> {
        let odd = |count: usize, weight| {
            let mut weights = vec![100; count];
            weights[count / 2] = weight;
            weights
        };
        vec![
            Kind::of("equal", |count| vec![1; count]),
            Kind::of("1 to 5 in turn", |count| (1..=5).cycle().take(count).collect()),
            Kind::of("100, one 99", |count| odd(count, 99)),
            Kind::of("100, one 1", |count| odd(count, 1)),
            Kind::of("random, 1 to 65535", |count| {
                let mut random = Random(0x2545_f491_4f6c_dd1d);
                (0..count).map(|_| 1 + (random.next() % 65_535) as u32).collect()
            }),
            Kind::with_a_heavy_one(),
        ]
    }

    fn of(name: &'static str, weights: impl Fn(usize) -> Vec<u32>) -> Self {
        let moved =
            COUNTS.map(|count| Moved::between(&real_servers_of(&weights(count)), removals(count), mh));
        Kind { name, moved }
    }

    /// The one that goes has as much as a quarter of the weight of all others.
    fn with_a_heavy_one() -> Self {
        let moved = COUNTS.map(|count| {
            let mut weights = vec![4; count];
            weights[count / 2] = count as u32 - 1;
            Moved::between(&real_servers_of(&weights), [middle(count)], mh)
        });
        Kind { name: "equal but one, which has a fifth of all and goes", moved }
    }
}

/// Where the RS with the id in the middle is in the list.
fn middle(count: usize) -> usize {
    count - 1 - count / 2
}

/// Indices spread over the list, the middle one among them.
fn removals(count: usize) -> BTreeSet<usize> {
    let spread = |number| number * (count - 1) / (REMOVALS - 1);
    (0..REMOVALS).map(spread).chain([middle(count)]).collect()
}

fn mh(list: &[RealServer], requests: &[Request]) -> Vec<Option<u32>> {
    picks(Algorithm::Mh, list, requests)
}

/// The ids of the RSs that the requests get.
fn picks(algorithm: Algorithm, list: &[RealServer], requests: &[Request]) -> Vec<Option<u32>> {
    let scheduler = Scheduler::new(config(algorithm), list);
    let pick = |request| scheduler.schedule(list, request).map(|index| list[index].id);
    requests.iter().map(pick).collect()
}
