//! Whom a hash moves when one RS goes: clients of the other RSs, who had no reason to.

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
        let pick = |list: &[RealServer], requests: &[Request]| -> Vec<Option<u32>> {
            let scheduler = Scheduler::new(config(algorithm), list);
            let pick = |request| scheduler.schedule(list, request).map(|index| list[index].id);
            requests.iter().map(pick).collect()
        };
        Moved::between(algorithm.name(), pick)
    }

    /// Of the ring that forwards without state.
    pub(crate) fn on_the_ring() -> Self {
        let pick = |list: &[RealServer], requests: &[Request]| -> Vec<Option<u32>> {
            let ring = HashRing::new(list);
            let pick = |request: &Request| ring.pick(list, request.client, request.client_port);
            requests.iter().map(pick).map(|index| index.map(|index| list[index].id)).collect()
        };
        Moved::between("the ring", pick)
    }

    fn between(name: &'static str, pick: impl Fn(&[RealServer], &[Request]) -> Vec<Option<u32>>) -> Self {
        let list = real_servers(1);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let requests: Vec<Request> = (0..CLIENTS).map(|_| random.request(0)).collect();
        let before = pick(&list, &requests);
        let moved = |removed: usize| {
            let mut left = list.clone();
            let gone = Some(left.remove(removed).id);
            let after = pick(&left, &requests);
            let (mut stayed, mut moved) = (0, 0);
            for (before, after) in before.iter().zip(&after).filter(|(before, _)| **before != gone) {
                stayed += 1;
                moved += usize::from(before != after);
            }
            100.0 * moved as f64 / stayed as f64
        };
        let all: Vec<f64> = (0..list.len()).map(moved).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        Moved { name, mean, most: all.into_iter().fold(0.0, f64::max) }
    }
}
