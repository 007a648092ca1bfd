//! The traffic, what each RS gets of it, and what it ideally would.

use std::net::Ipv4Addr;
use std::sync::Arc;

use scheduler::{
    Algorithm, ConnectionCounts, RealServer, Request, Scheduler, SchedulerConfig, SchedulerFlags,
};

/// Connections opened.
pub(crate) const CONNECTIONS: usize = 1_000_000;
/// Real servers.
pub(crate) const REAL_SERVERS: u32 = 100;
/// Connections open at once; one at random closes for each that opens.
pub(crate) const OPEN: usize = 30_000;
/// Destination addresses, for `dh`, `lblc` and `lblcr`.
pub(crate) const DESTINATIONS: usize = 1000;
/// `ovf` takes a weight for a capacity: 200 to 1000 in place of 1 to 5.
pub(crate) const OVF_SCALE: u32 = 200;

/// Marsaglia's xorshift: the same sequence on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// From a random client and port to one of the destinations, in the given second.
    pub(crate) fn request(&mut self, now_seconds: u32) -> Request {
        let client = self.next();
        Request {
            client: Ipv4Addr::from_bits(client as u32).into(),
            client_port: (client >> 32) as u16,
            vip: Ipv4Addr::from_bits(0xc612_0000 + self.below(DESTINATIONS) as u32).into(),
            now_seconds,
            random: self.next(),
        }
    }
}

/// A hundred of the weights 1 to 5 in turn, times `scale`.
pub(crate) fn real_servers(scale: u32) -> Vec<RealServer> {
    let weights: Vec<u32> = (0..REAL_SERVERS).map(|id| scale * (1 + id % 5)).collect();
    real_servers_of(&weights)
}

/// Of these weights, newest first; the oldest is 10.0.0.1 and has id 0 and the first weight.
pub(crate) fn real_servers_of(weights: &[u32]) -> Vec<RealServer> {
    let with = |(id, &weight): (u32, &u32)| RealServer {
        id,
        address: Ipv4Addr::from_bits(0x0a00_0001 + id).into(),
        port: 80,
        weight,
        last_weight: weight,
        is_drained: false,
        available: true,
        has_threshold: false,
        joined_seconds: None,
        counts: Arc::new(ConnectionCounts::new()),
    };
    let mut list: Vec<RealServer> = (0..).zip(weights).map(with).collect();
    list.reverse();
    list
}

pub(crate) fn config(algorithm: Algorithm) -> SchedulerConfig {
    let flags = SchedulerFlags { fallback: false, port: true, flag_3: false };
    SchedulerConfig { algorithm, flags, ..Default::default() }
}

/// What one RS got, and what it ideally would have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) measured: f64,
    pub(crate) ideal: f64,
}

impl Share {
    /// Per cent above its ideal, where it has one.
    pub(crate) fn deviation(self) -> Option<f64> {
        (self.ideal > 0.0).then(|| 100.0 * (self.measured - self.ideal) / self.ideal)
    }
}

/// All RSs under one scheduler.
#[derive(Debug)]
pub(crate) struct Spread {
    pub(crate) algorithm: Algorithm,
    /// The ideal in words.
    pub(crate) ideal: &'static str,
    pub(crate) shares: Vec<Share>,
    /// Connections that no RS took.
    pub(crate) refused: usize,
}

impl Spread {
    /// Opens the million connections.
    pub(crate) fn measured(algorithm: Algorithm) -> Self {
        let scale = if algorithm == Algorithm::Ovf { OVF_SCALE } else { 1 };
        let list = real_servers(scale);
        let scheduler = Scheduler::new(config(algorithm), &list);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut opened = vec![0_usize; list.len()];
        let mut open: Vec<usize> = Vec::with_capacity(OPEN);
        let mut refused = 0;
        for number in 0..CONNECTIONS {
            if open.len() == OPEN {
                let closed = open.swap_remove(random.below(OPEN));
                list[closed].counts.close(true);
            }
            // A thousand connections a second.
            let request = random.request((number / 1000) as u32);
            let Some(index) = scheduler.schedule(&list, &request) else {
                refused += 1;
                continue;
            };
            list[index].counts.open();
            list[index].counts.activate();
            opened[index] += 1;
            open.push(index);
        }
        let (ideal, ideals) = ideal(algorithm, &list);
        let share = |(&opened, part): (&usize, f64)| Share {
            measured: opened as f64,
            ideal: part * (CONNECTIONS - refused) as f64,
        };
        Spread { algorithm, ideal, shares: opened.iter().zip(ideals).map(share).collect(), refused }
    }

    fn deviations(&self) -> impl Iterator<Item = f64> {
        self.shares.iter().filter_map(|share| share.deviation())
    }

    /// Per cent, without their signs, of all RSs that have an ideal.
    pub(crate) fn mean_deviation(&self) -> f64 {
        self.deviations().map(f64::abs).sum::<f64>() / self.deviations().count() as f64
    }

    /// The lowest and the highest.
    pub(crate) fn extremes(&self) -> (f64, f64) {
        self.deviations().fold((f64::MAX, f64::MIN), |(low, high), each| (low.min(each), high.max(each)))
    }

    /// RSs that should have got connections and got none.
    pub(crate) fn starved(&self) -> usize {
        self.shares.iter().filter(|share| share.ideal > 0.0 && share.measured == 0.0).count()
    }
}

/// In words, and the part of the connections that each RS should get.
fn ideal(algorithm: Algorithm, list: &[RealServer]) -> (&'static str, Vec<f64>) {
    let weight = |real_server: &RealServer| f64::from(real_server.weight);
    let sum: f64 = list.iter().map(weight).sum();
    match algorithm {
        Algorithm::Rr | Algorithm::Lc | Algorithm::Dh => {
            ("equal", vec![1.0 / f64::from(REAL_SERVERS); list.len()])
        }
        Algorithm::Fo => ("all to the newest of the heaviest", filled(list, |_| OPEN)),
        Algorithm::Ovf => (
            "weight + 1 at once, the heaviest first",
            filled(list, |real_server| real_server.weight as usize + 1),
        ),
        _ => ("by weight", list.iter().map(|real_server| weight(real_server) / sum).collect()),
    }
}

/// The parts when the open connections fill one RS after the other, the heaviest first and of equals the newest.
fn filled(list: &[RealServer], capacity: impl Fn(&RealServer) -> usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..list.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(list[index].weight));
    let mut parts = vec![0.0; list.len()];
    let mut left = OPEN;
    for index in order {
        let taken = capacity(&list[index]).min(left);
        parts[index] = taken as f64 / OPEN as f64;
        left -= taken;
    }
    parts
}
