//! Rates of every real server and service, kept by looking at a few counters each tick.
//!
//! Control thread only. IPVS looks at everything at once, which stalls a kernel with thousands of services; here each
//! slot has its own moment within the two seconds, and a service adds up what its slots had since its own last moment. So
//! a tick costs the same small amount however it falls.

use std::collections::HashMap;
use std::time::Duration;

use ctl::config::ServiceId;
use ctl::protocol::{TrafficCounters, TrafficRates};

use crate::estimator::{Estimator, PERIOD};
use crate::slots::{Instance, Owner, Slots};
use crate::traffic;

/// Looks in one tick at most: a tick that comes late makes up for what it can. 64,000 a second, four times what the
/// largest default capacity needs.
const LOOKS_PER_TICK: usize = 64;

/// All rates.
#[derive(Debug)]
pub struct Rates {
    slots: Vec<SlotRate>,
    services: HashMap<ServiceId, ServiceRate>,
    /// The next slot to look at.
    next: usize,
    pass_began: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct SlotRate {
    /// Whose rates these are.
    owner: Option<(Owner, Instance)>,
    estimator: Estimator,
    counted: TrafficCounters,
    looked: Duration,
}

#[derive(Clone, Copy, Debug)]
struct ServiceRate {
    instance: Instance,
    estimator: Estimator,
    /// Since the last pass.
    so_far: TrafficCounters,
}

impl Rates {
    /// No rates yet, of so many slots.
    pub fn new(capacity: usize) -> Self {
        Rates {
            slots: vec![SlotRate::default(); capacity],
            services: HashMap::new(),
            next: 0,
            pass_began: Duration::ZERO,
        }
    }

    /// Looks at the slots whose moment has come.
    pub fn tick(&mut self, slots: &Slots, now: Duration) {
        let due = self.due(now);
        let end = due.min(self.next + LOOKS_PER_TICK);
        while self.next < end {
            self.look(slots, self.next as u32, now);
            self.next += 1;
        }
        if self.next == self.slots.len() && now >= self.pass_began + PERIOD {
            self.end_pass(now);
        }
    }

    /// So many slots are to have been looked at by now.
    fn due(&self, now: Duration) -> usize {
        let passed = now.saturating_sub(self.pass_began).min(PERIOD).as_micros();
        (self.slots.len() as u128 * passed / PERIOD.as_micros()) as usize
    }

    fn look(&mut self, slots: &Slots, number: u32, now: Duration) {
        let rate = &mut self.slots[number as usize];
        let owner = slots.user(number);
        let counted = if owner.is_some() { slots.traffic(number) } else { TrafficCounters::default() };
        let elapsed = match owner == rate.owner {
            true => now.saturating_sub(rate.looked),
            false => {
                // It counts from 0 since a moment within the last period.
                *rate = SlotRate { owner, ..SlotRate::default() };
                PERIOD
            }
        };
        let Some((Owner { service, .. }, instance)) = owner else { return };
        let since = traffic::difference(counted, rate.counted);
        rate.estimator.add(since, elapsed);
        (rate.counted, rate.looked) = (counted, now);
        let fresh =
            ServiceRate { instance, estimator: Estimator::default(), so_far: TrafficCounters::default() };
        let service = self.services.entry(service).or_insert(fresh);
        if service.instance.0 < instance.0 {
            *service = fresh;
        }
        // A slot that is left of a service of the same name counts for nobody.
        if service.instance == instance {
            service.so_far = traffic::sum(service.so_far, since);
        }
    }

    fn end_pass(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.pass_began);
        for service in self.services.values_mut() {
            service.estimator.add(service.so_far, elapsed);
            service.so_far = TrafficCounters::default();
        }
        // Removed ones go when they are still.
        self.services.retain(|_, service| service.estimator != Estimator::default());
        self.next = 0;
        self.pass_began = now;
    }

    /// Rates of the real server that has this slot.
    pub fn of_slot(&self, number: u32, owner: (Owner, Instance)) -> TrafficRates {
        let rate = self.slots.get(number as usize).filter(|rate| rate.owner == Some(owner));
        rate.map_or(TrafficRates::default(), |rate| rate.estimator.rates())
    }

    /// Rates of a service, removed real servers included.
    pub fn of_service(&self, service: ServiceId, instance: Instance) -> TrafficRates {
        let rate = self.services.get(&service).filter(|rate| rate.instance == instance);
        rate.map_or(TrafficRates::default(), |rate| rate.estimator.rates())
    }

    /// Rates start at 0 again, and count what comes from now on.
    pub fn reset(
        &mut self,
        service: ServiceId,
        numbers: impl Iterator<Item = u32>,
        slots: &Slots,
        now: Duration,
    ) {
        self.services.remove(&service);
        for number in numbers {
            let (owner, counted) = (slots.user(number), slots.traffic(number));
            let estimator = Estimator::default();
            self.slots[number as usize] = SlotRate { owner, estimator, counted, looked: now };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use ctl::config::{Protocol, RealServerId};
    use dataplane::counters::WorkerCounters;

    use super::*;
    use crate::slots::vacant_slots;

    const CAPACITY: usize = 4;
    const INSTANCE: Instance = Instance(1);

    fn owner(host: u8) -> Owner {
        let service = ServiceId::new(Protocol::Tcp, Ipv4Addr::new(192, 0, 2, 10), 80);
        Owner { service, real_server: RealServerId::new(Ipv4Addr::new(10, 0, 0, host)) }
    }

    fn rig() -> (Rates, Slots, Arc<WorkerCounters>) {
        let (slots, counters, _) = vacant_slots(CAPACITY);
        (Rates::new(CAPACITY), slots, counters)
    }

    /// Two real servers get 200 and 100 packets in every two seconds.
    fn run(rates: &mut Rates, slots: &Slots, counters: &WorkerCounters, milliseconds: std::ops::Range<u64>) {
        for now in milliseconds {
            if now % 20 == 10 {
                counters.destinations[0].packets.add(2);
                counters.destinations[1].packets.add(1);
            }
            rates.tick(slots, Duration::from_millis(now));
        }
    }

    #[test]
    fn real_servers_and_their_service_come_to_their_rates() {
        let (mut rates, mut slots, counters) = rig();
        slots.take(owner(1), INSTANCE);
        slots.take(owner(2), INSTANCE);
        run(&mut rates, &slots, &counters, 0..60_001);
        assert_eq!(rates.of_slot(0, (owner(1), INSTANCE)).packets_per_second, 100);
        assert_eq!(rates.of_slot(1, (owner(2), INSTANCE)).packets_per_second, 50);
        assert_eq!(rates.of_service(owner(1).service, INSTANCE).packets_per_second, 150);
        assert_eq!(rates.of_slot(2, (owner(3), INSTANCE)), TrafficRates::default());
        assert_eq!(rates.of_service(owner(1).service, Instance(2)), TrafficRates::default());
    }

    #[test]
    fn slot_of_another_real_server_starts_at_nothing_and_a_reset_one_too() {
        let (mut rates, mut slots, counters) = rig();
        slots.take(owner(1), INSTANCE);
        slots.take(owner(2), INSTANCE);
        run(&mut rates, &slots, &counters, 0..20_000);
        slots.remove(0, 2);
        slots.collect(2);
        slots.take(owner(3), INSTANCE);
        assert_eq!(rates.of_slot(0, (owner(3), INSTANCE)), TrafficRates::default());
        rates.reset(owner(2).service, [1].into_iter(), &slots, Duration::from_secs(20));
        assert_eq!(rates.of_slot(1, (owner(2), INSTANCE)), TrafficRates::default());
        assert_eq!(rates.of_service(owner(2).service, INSTANCE), TrafficRates::default());
        run(&mut rates, &slots, &counters, 20_001..80_000);
        assert_eq!(rates.of_slot(0, (owner(3), INSTANCE)).packets_per_second, 100);
        assert_eq!(rates.of_slot(1, (owner(2), INSTANCE)).packets_per_second, 50);
    }

    #[test]
    fn tick_after_a_stall_looks_at_a_bounded_number_and_catches_up() {
        let (slots, ..) = vacant_slots(10_000);
        let mut rates = Rates::new(10_000);
        rates.tick(&slots, Duration::from_secs(60));
        assert_eq!(rates.next, LOOKS_PER_TICK);
        for tick in 0..200 {
            rates.tick(&slots, Duration::from_millis(60_000 + tick));
        }
        assert!(rates.next < LOOKS_PER_TICK * 50, "a pass has ended: {}", rates.next);
    }
}
