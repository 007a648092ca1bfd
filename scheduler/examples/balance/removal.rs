//! Whom a hash moves when one RS goes: clients of the other RSs, who had no reason to.

use std::ops::Range;

use scheduler::{Algorithm, HashRing, RealServer, Request, Scheduler};

use crate::measure::{Random, config, real_servers};

/// Clients that are asked for before and after.
pub(crate) const CLIENTS: usize = 20_000;

/// Per cent of the clients of the RSs that stayed, over the removal of each RS by itself.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) name: &'static str,
    pub(crate) mean: f64,
    pub(crate) most: f64,
}

impl Moved {
    /// Of a scheduler that hashes clients.
    pub(crate) fn under(algorithm: Algorithm) -> Self {
        let name = match algorithm {
            Algorithm::Sh => "`sh`",
            _ => "`mh`",
        };
        let pick = |list: &[RealServer], requests: &[Request]| picks(algorithm, list, requests);
        Moved::between(name, &real_servers(1), 0..real_servers(1).len(), pick)
    }

    /// Of `mh` when the weights' greatest common divisor goes with the RS: all have twice their weight, the newest 3.
    pub(crate) fn with_the_divisor() -> Self {
        let mut list = real_servers(2);
        list[0].weight = 3;
        let pick = |list: &[RealServer], requests: &[Request]| picks(Algorithm::Mh, list, requests);
        Moved::between("`mh`, the weights' divisor goes from 1 to 2", &list, 0..1, pick)
    }

    /// Of the ring that forwards without state.
    pub(crate) fn on_the_ring() -> Self {
        let pick = |list: &[RealServer], requests: &[Request]| -> Vec<Option<u32>> {
            let ring = HashRing::new(list);
            let pick = |request: &Request| ring.pick(list, request.client, request.client_port);
            requests.iter().map(pick).map(|index| index.map(|index| list[index].id)).collect()
        };
        Moved::between("the ring", &real_servers(1), 0..real_servers(1).len(), pick)
    }

    fn between(
        name: &'static str,
        list: &[RealServer],
        removals: Range<usize>,
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
        let all: Vec<f64> = removals.map(moved).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        Moved { name, mean, most: all.into_iter().fold(0.0, f64::max) }
    }
}

/// The ids of the RSs that the requests get.
fn picks(algorithm: Algorithm, list: &[RealServer], requests: &[Request]) -> Vec<Option<u32>> {
    let scheduler = Scheduler::new(config(algorithm), list);
    let pick = |request| scheduler.schedule(list, request).map(|index| list[index].id);
    requests.iter().map(pick).collect()
}
