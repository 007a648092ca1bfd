//! Tests only: every scheduler compared with the model of IPVS over random lists, changes and connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixture::real_server;
use crate::kernel_model::{ModelServer, ModelService};
use crate::{Algorithm, RealServer, Request, Scheduler, SchedulerConfig, SchedulerFlags, Thresholds};

/// What happens to a service; `which` picks an RS of the list, modulo its length.
#[derive(Clone, Debug)]
enum Event {
    Schedule { times: usize, client: u32, port: u16, vip: u8, random: u64 },
    Pass { seconds: u32 },
    Add { weight: u32 },
    Edit { which: usize, weight: u32 },
    SetThresholds { which: usize, upper: u32, lower: u32 },
    Delete { which: usize },
    SetAvailable { which: usize, available: bool },
    Activate { which: usize },
    Deactivate { which: usize },
    Close { which: usize, active: bool },
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![
        1 => Just(0),
        4 => 1..6_u32,
        4 => (1..6_u32).prop_map(|weight| weight * 6),
        1 => 0..300_u32,
        1 => Just(65535),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let which = || any::<usize>();
    let schedule = (1..12_usize, any::<u32>(), any::<u16>(), 0..6_u8, any::<u64>())
        .prop_map(|(times, client, port, vip, random)| Event::Schedule { times, client, port, vip, random });
    prop_oneof![
        8 => schedule,
        2 => (0..40_u32).prop_map(|seconds| Event::Pass { seconds }),
        2 => weight().prop_map(|weight| Event::Add { weight }),
        2 => (which(), weight()).prop_map(|(which, weight)| Event::Edit { which, weight }),
        2 => (which(), 0..12_u32, 0..12_u32).prop_map(|(which, upper, lower)| {
            Event::SetThresholds { which, upper, lower: lower.min(upper) }
        }),
        2 => which().prop_map(|which| Event::Delete { which }),
        3 => (which(), any::<bool>()).prop_map(|(which, available)| Event::SetAvailable { which, available }),
        4 => which().prop_map(|which| Event::Activate { which }),
        1 => which().prop_map(|which| Event::Deactivate { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, active)| Event::Close { which, active }),
    ]
}

/// IPv4 and IPv6, so that the destinations of one service differ in both.
fn vip(number: u8) -> IpAddr {
    if number.is_multiple_of(2) {
        Ipv4Addr::new(192, 0, 2, number).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into()
    }
}

/// The scheduler under test and the model, each fed the same.
struct Pair {
    list: Vec<RealServer>,
    /// The model's keys of the list.
    keys: Vec<u32>,
    scheduler: Scheduler,
    model: ModelService,
    next_key: u32,
    now_seconds: u32,
    /// Spreads the random numbers of one event's requests.
    picks: u64,
}

/// An address for each key, in an order other than theirs.
fn address(key: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + key * 7919 % 65_521).into()
}

fn model_of(real_server: &RealServer, key: u32) -> ModelServer {
    ModelServer {
        key,
        address: real_server.address,
        port: real_server.port,
        weight: real_server.weight.into(),
        last_weight: real_server.weight.into(),
        available: true,
        active: 0,
        inactive: 0,
        thresholds: Thresholds::default(),
        overload: false,
    }
}

impl Pair {
    fn new(config: SchedulerConfig, weights: &[u32]) -> Self {
        let mut list = crate::fixture::real_servers(weights);
        list.iter_mut().for_each(|real_server| real_server.address = address(real_server.id));
        let keys: Vec<u32> = list.iter().map(|real_server| real_server.id).collect();
        let servers = list.iter().map(|real_server| model_of(real_server, real_server.id)).collect();
        let scheduler = Scheduler::new(config, &list);
        let model = ModelService::new(config, servers);
        Pair { next_key: list.len() as u32, list, keys, scheduler, model, now_seconds: 1000, picks: 0 }
    }

    fn replace(&mut self, new: Vec<RealServer>) {
        self.scheduler = self.scheduler.next_version(&self.list, &new);
        self.list = new;
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let chosen = |which: usize| which.checked_rem(self.list.len());
        match *event {
            Event::Schedule { times, client, port, vip: number, random } => {
                for _ in 0..times {
                    self.picks += 1;
                    let request = Request {
                        client: Ipv4Addr::from_bits(client).into(),
                        client_port: port,
                        vip: vip(number),
                        now_seconds: self.now_seconds,
                        random: random.wrapping_mul(2 * self.picks + 1),
                    };
                    self.schedule_both(&request)?;
                }
            }
            Event::Pass { seconds } => self.now_seconds += seconds,
            Event::Add { weight } => self.add(weight),
            Event::Edit { which, weight } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                // An edit to the same weight is no change here; IPVS takes it for one.
                if self.list[index].weight != weight {
                    let mut new = self.list.clone();
                    new[index].weight = weight;
                    if weight > 0 {
                        new[index].last_weight = weight;
                    }
                    self.model.edit(self.keys[index], weight);
                    self.replace(new);
                }
            }
            Event::SetThresholds { which, upper, lower } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let thresholds = Thresholds { upper, lower };
                let mut new = self.list.clone();
                new[index].has_threshold = upper > 0;
                new[index].counts.set_thresholds(thresholds);
                let server = self.model.server(self.keys[index]);
                server.thresholds = thresholds;
                server.update_overload();
                self.replace(new);
            }
            Event::Delete { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let mut new = self.list.clone();
                new.remove(index);
                self.model.delete(self.keys.remove(index));
                self.replace(new);
            }
            Event::SetAvailable { which, available } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let mut new = self.list.clone();
                new[index].available = available;
                self.model.server(self.keys[index]).available = available;
                self.replace(new);
            }
            Event::Activate { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.keys[index]);
                if server.inactive > 0 {
                    (server.active, server.inactive) = (server.active + 1, server.inactive - 1);
                    self.list[index].counts.activate();
                }
            }
            Event::Deactivate { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.keys[index]);
                if server.active > 0 {
                    (server.active, server.inactive) = (server.active - 1, server.inactive + 1);
                    self.list[index].counts.deactivate();
                }
            }
            Event::Close { which, active } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.keys[index]);
                let count = if active { &mut server.active } else { &mut server.inactive };
                if *count > 0 {
                    *count -= 1;
                    server.update_overload();
                    self.list[index].counts.close(active);
                }
            }
        }
        Ok(())
    }

    /// In the lowest free slot, which a deleted RS may have had.
    fn add(&mut self, weight: u32) {
        let mut new = self.list.clone();
        let id = (0..).find(|id| new.iter().all(|taken| taken.id != *id)).unwrap();
        let newest = RealServer { address: address(self.next_key), ..real_server(id, weight) };
        self.model.add(model_of(&newest, self.next_key));
        self.keys.insert(0, self.next_key);
        self.next_key += 1;
        new.insert(0, newest);
        self.replace(new);
    }

    fn schedule_both(&mut self, request: &Request) -> Result<(), TestCaseError> {
        let pick = self.scheduler.schedule(&self.list, request);
        let expected = self.model.schedule(request);
        prop_assert_eq!(pick.map(|index| self.keys[index]), expected, "{:?}", self.scheduler.config());
        if let Some(index) = pick {
            self.list[index].counts.open();
            let server = self.model.server(self.keys[index]);
            server.inactive += 1;
            server.update_overload();
        }
        for (real_server, &key) in self.list.iter().zip(&self.keys) {
            prop_assert_eq!(real_server.counts.is_overloaded(), self.model.server(key).overload);
        }
        Ok(())
    }
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let algorithm = prop::sample::select(Algorithm::ALL.to_vec());
    (algorithm, any::<[bool; 3]>(), prop::sample::select(vec![1, 30, 86_400])).prop_map(
        |(algorithm, [fallback, port, flag_3], lblc_expiration_seconds)| SchedulerConfig {
            algorithm,
            flags: SchedulerFlags { fallback, port, flag_3 },
            slow_start_seconds: 0,
            lblc_expiration_seconds,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn scheduler_over_any_history_decides_as_the_kernel_model(
        config in config(),
        weights in vec(weight(), 0..6),
        events in vec(event(), 0..60),
    ) {
        let mut pair = Pair::new(config, &weights);
        for event in &events {
            pair.happen(event)?;
        }
    }

    /// RSs of one weight, whatever it is, and of weight 0: there `mh` is the kernel's.
    #[test]
    fn mh_of_equal_weights_decides_as_the_kernel_model(
        weight in prop_oneof![1..100_u32, Just(65_535)],
        has_weight in vec(any::<bool>(), 1..80),
        which in any::<usize>(),
        [fallback, port] in any::<[bool; 2]>(),
        clients in vec((any::<u32>(), any::<u16>()), 100),
    ) {
        let flags = SchedulerFlags { fallback, port, flag_3: false };
        let config = SchedulerConfig { algorithm: Algorithm::Mh, flags, ..Default::default() };
        let weights: Vec<u32> = has_weight.iter().map(|&has| if has { weight } else { 0 }).collect();
        let mut pair = Pair::new(config, &weights);
        pair.happen(&Event::Add { weight })?;
        pair.happen(&Event::Edit { which, weight: 0 })?;
        for (client, port) in clients {
            pair.happen(&Event::Schedule { times: 1, client, port, vip: 0, random: 1 })?;
        }
    }

    /// Few destinations of small RSs with active connections, so that they go beyond their weights, share destinations,
    /// and are left alone for about as long as it takes one of them to leave.
    #[test]
    fn locality_of_busy_destinations_decides_as_the_kernel_model(
        algorithm in prop::sample::select(vec![Algorithm::Lblc, Algorithm::Lblcr]),
        weights in vec(0..4_u32, 2..6),
        steps in vec((any::<usize>(), 0..12_u32, 0..5_u8, 0..3_u32), 20..120),
    ) {
        let config = SchedulerConfig { algorithm, lblc_expiration_seconds: 3, ..Default::default() };
        let mut pair = Pair::new(config, &weights);
        for (which, kind, number, seconds) in steps {
            let event = match kind {
                0..5 => Event::Schedule { times: 1, client: 1, port: 1, vip: number % 2, random: 1 },
                5..8 => Event::Activate { which },
                8 => Event::Close { which, active: number % 2 == 0 },
                9 => Event::Edit { which, weight: number.into() },
                10 => Event::SetAvailable { which, available: number > 0 },
                _ => Event::Pass { seconds },
            };
            pair.happen(&event)?;
        }
    }

    /// An hour after the last RS joined, and off: the same.
    #[test]
    fn slow_start_without_a_newcomer_decides_as_the_kernel_model(
        algorithm in prop::sample::select(vec![Algorithm::Lc, Algorithm::Wlc, Algorithm::Sed]),
        weights in vec(weight(), 0..6),
        joined in vec(prop::option::of(0..400_u32), 6),
        events in vec(event(), 0..30),
    ) {
        let config = SchedulerConfig { algorithm, slow_start_seconds: 600, ..Default::default() };
        let mut pair = Pair::new(config, &weights);
        let new = pair.list.iter().zip(joined);
        let new = new.map(|(rs, joined_seconds)| RealServer { joined_seconds, ..rs.clone() }).collect();
        pair.replace(new);
        for event in &events {
            pair.happen(event)?;
        }
    }

    /// Deleting several RSs at once is the same as one after the other.
    #[test]
    fn deletions_at_once_decide_as_the_kernel_model(
        algorithm in prop::sample::select(vec![
            Algorithm::Rr, Algorithm::Dh, Algorithm::Sh, Algorithm::Mh, Algorithm::Lblc, Algorithm::Lblcr,
        ]),
        count in 1..12_usize,
        picks_before in 0..24_usize,
        deleted in vec(any::<bool>(), 12),
    ) {
        let config = SchedulerConfig { algorithm, ..Default::default() };
        let mut pair = Pair::new(config, &vec![1; count]);
        let request = crate::fixture::request();
        (0..picks_before).try_for_each(|_| pair.schedule_both(&request))?;
        let mut left = pair.list.clone();
        left.retain(|real_server| !deleted[real_server.id as usize]);
        let gone: Vec<u32> = pair.keys.iter().copied().filter(|&key| deleted[key as usize]).collect();
        pair.keys.retain(|&key| !deleted[key as usize]);
        gone.into_iter().for_each(|key| pair.model.delete(key));
        pair.replace(left);
        (0..2 * count).try_for_each(|_| pair.schedule_both(&request))?;
    }
}
