//! Tests only: a model of what IPVS does, on one thread, and the comparison of every scheduler with it over random
//! lists, changes and connections.
//!
//! It follows the kernel's walks RS by RS and pass by pass and knows an RS by its id alone, so that it has neither the
//! indices nor the arithmetic of the code that it judges.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Algorithm, RealServer, Scheduler};

#[derive(Debug)]
struct ModelServer {
    id: u32,
    weight: i64,
    available: bool,
    active: i64,
    inactive: i64,
}

/// A place in IPVS's circular list: an RS by its id, or the head (`None`).
type Place = Option<u32>;

/// A virtual service as the kernel keeps it.
#[derive(Debug)]
struct ModelService {
    algorithm: Algorithm,
    servers: Vec<ModelServer>,
    /// rr's and wrr's pointer.
    place: Place,
    interval: i64,
    highest: i64,
    required: i64,
}

impl ModelService {
    fn new(algorithm: Algorithm, list: &[RealServer]) -> Self {
        let model = |real_server: &RealServer| ModelServer {
            id: real_server.id,
            weight: real_server.weight.into(),
            available: real_server.available,
            active: 0,
            inactive: 0,
        };
        let servers = list.iter().map(model).collect();
        let mut service =
            ModelService { algorithm, servers, place: None, interval: 0, highest: 0, required: 0 };
        service.weights_changed();
        service
    }

    fn after(&self, place: Place) -> Place {
        let next = match place {
            None => 0,
            Some(id) => 1 + self.servers.iter().position(|server| server.id == id).unwrap(),
        };
        self.servers.get(next).map(|server| server.id)
    }

    fn server(&mut self, id: u32) -> &mut ModelServer {
        self.servers.iter_mut().find(|server| server.id == id).unwrap()
    }

    fn add(&mut self, id: u32, weight: u32) {
        let newest = ModelServer { id, weight: weight.into(), available: true, active: 0, inactive: 0 };
        self.servers.insert(0, newest);
        self.list_changed();
    }

    fn edit(&mut self, id: u32, weight: u32) {
        self.server(id).weight = weight.into();
        self.list_changed();
    }

    fn delete(&mut self, id: u32) {
        if self.algorithm == Algorithm::Rr && self.place == Some(id) {
            let mut before = None;
            while self.after(before) != Some(id) {
                before = self.after(before);
            }
            self.place = before;
        }
        self.servers.retain(|server| server.id != id);
        self.list_changed();
    }

    fn list_changed(&mut self) {
        if self.algorithm == Algorithm::Wrr {
            self.place = None;
            self.weights_changed();
        }
    }

    fn weights_changed(&mut self) {
        let weights: Vec<i64> = self.servers.iter().map(|server| server.weight).filter(|&w| w > 0).collect();
        let heaviest = weights.iter().copied().max().unwrap_or(0);
        let lightest = weights.iter().copied().min().unwrap_or(0);
        let divides_all = |divisor: &i64| weights.iter().all(|weight| weight % divisor == 0);
        self.interval = (1..=lightest).rev().find(divides_all).unwrap_or(1);
        self.highest = heaviest - (self.interval - 1);
        if self.required == 0 || self.required > self.highest {
            self.required = self.highest;
        } else if self.interval > 1 {
            self.required = self.required / self.interval * self.interval + 1;
        }
    }

    fn schedule(&mut self) -> Place {
        match self.algorithm {
            Algorithm::Rr => self.schedule_rr(),
            Algorithm::Wrr => self.schedule_wrr(),
            Algorithm::Lc => self.least(|_| 1),
            Algorithm::Wlc => self.least(|server| server.weight),
        }
    }

    fn schedule_rr(&mut self) -> Place {
        let mut place = self.place;
        for _ in 0..=self.servers.len() {
            place = self.after(place);
            let Some(id) = place else { continue };
            let server = self.server(id);
            if server.available && server.weight > 0 {
                self.place = place;
                return place;
            }
        }
        None
    }

    fn schedule_wrr(&mut self) -> Place {
        if self.highest == 0 {
            return None;
        }
        let began = self.place;
        let mut place = began;
        let mut is_last_pass = false;
        let mut restarted = false;
        let mut stop = None;
        loop {
            place = self.after(place);
            if let Some(id) = place {
                let required = self.required;
                let server = self.server(id);
                if server.available && server.weight >= required {
                    self.place = place;
                    return place;
                }
                if stop == place {
                    self.place = place;
                    return None;
                }
                continue;
            }
            self.required -= self.interval;
            if self.required <= 0 {
                self.required = self.highest;
                if is_last_pass || began.is_none() {
                    self.place = None;
                    return None;
                }
                restarted = true;
            }
            is_last_pass = self.required <= self.interval;
            if is_last_pass && restarted {
                stop = began;
            }
        }
    }

    /// The least overhead over the divisor, the first of equals, compared as exact fractions.
    fn least(&self, divisor: impl Fn(&ModelServer) -> i64) -> Place {
        let load = |server: &ModelServer| {
            (i128::from(server.active * 257 + server.inactive), i128::from(divisor(server)))
        };
        let takes_part = |server: &&ModelServer| server.available && server.weight > 0;
        let least = self.servers.iter().filter(takes_part).min_by(|a, b| {
            let ((load_a, divisor_a), (load_b, divisor_b)) = (load(a), load(b));
            (load_a * divisor_b).cmp(&(load_b * divisor_a))
        });
        least.map(|server| server.id)
    }
}

/// What happens to a service; `which` picks an RS of the list, modulo its length.
#[derive(Clone, Debug)]
enum Event {
    Schedule { times: usize },
    Add { weight: u32 },
    Edit { which: usize, weight: u32 },
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
    prop_oneof![
        6 => (1..12_usize).prop_map(|times| Event::Schedule { times }),
        2 => weight().prop_map(|weight| Event::Add { weight }),
        2 => (which(), weight()).prop_map(|(which, weight)| Event::Edit { which, weight }),
        2 => which().prop_map(|which| Event::Delete { which }),
        3 => (which(), any::<bool>()).prop_map(|(which, available)| Event::SetAvailable { which, available }),
        2 => which().prop_map(|which| Event::Activate { which }),
        1 => which().prop_map(|which| Event::Deactivate { which }),
        2 => (which(), any::<bool>()).prop_map(|(which, active)| Event::Close { which, active }),
    ]
}

/// The scheduler under test and the model, each fed the same.
struct Pair {
    list: Vec<RealServer>,
    scheduler: Scheduler,
    model: ModelService,
    next_id: u32,
}

impl Pair {
    fn new(algorithm: Algorithm, weights: &[u32]) -> Self {
        let list = crate::fixture::real_servers(weights);
        let scheduler = Scheduler::new(algorithm, &list);
        let model = ModelService::new(algorithm, &list);
        Pair { next_id: list.len() as u32, list, scheduler, model }
    }

    fn replace(&mut self, new: Vec<RealServer>) {
        self.scheduler = self.scheduler.next_version(&self.list, &new);
        self.list = new;
    }

    fn happen(&mut self, event: &Event) -> Result<(), TestCaseError> {
        let chosen = |which: usize| which.checked_rem(self.list.len());
        match *event {
            Event::Schedule { times } => return (0..times).try_for_each(|_| self.schedule_both()),
            Event::Add { weight } => {
                let mut new = self.list.clone();
                let id = self.next_id;
                new.insert(0, RealServer { id, weight, available: true, counts: Arc::default() });
                self.next_id += 1;
                self.model.add(id, weight);
                self.replace(new);
            }
            Event::Edit { which, weight } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                // An edit to the same weight is no change here; IPVS takes it for one.
                if self.list[index].weight != weight {
                    let mut new = self.list.clone();
                    new[index].weight = weight;
                    self.model.edit(new[index].id, weight);
                    self.replace(new);
                }
            }
            Event::Delete { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let mut new = self.list.clone();
                self.model.delete(new.remove(index).id);
                self.replace(new);
            }
            Event::SetAvailable { which, available } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let mut new = self.list.clone();
                new[index].available = available;
                self.model.server(new[index].id).available = available;
                self.replace(new);
            }
            Event::Activate { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.list[index].id);
                if server.inactive > 0 {
                    (server.active, server.inactive) = (server.active + 1, server.inactive - 1);
                    self.list[index].counts.activate();
                }
            }
            Event::Deactivate { which } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.list[index].id);
                if server.active > 0 {
                    (server.active, server.inactive) = (server.active - 1, server.inactive + 1);
                    self.list[index].counts.deactivate();
                }
            }
            Event::Close { which, active } => {
                let Some(index) = chosen(which) else { return Ok(()) };
                let server = self.model.server(self.list[index].id);
                let count = if active { &mut server.active } else { &mut server.inactive };
                if *count > 0 {
                    *count -= 1;
                    self.list[index].counts.close(active);
                }
            }
        }
        Ok(())
    }

    fn schedule_both(&mut self) -> Result<(), TestCaseError> {
        let pick = self.scheduler.schedule(&self.list);
        let expected = self.model.schedule();
        prop_assert_eq!(pick.map(|index| self.list[index].id), expected, "{:?}", self.model);
        if let Some(index) = pick {
            self.list[index].counts.open();
            self.model.server(self.list[index].id).inactive += 1;
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn scheduler_over_any_history_decides_as_the_kernel_model(
        algorithm in prop::sample::select(Algorithm::ALL.to_vec()),
        weights in vec(weight(), 0..6),
        events in vec(event(), 0..60),
    ) {
        let mut pair = Pair::new(algorithm, &weights);
        for event in &events {
            pair.happen(event)?;
        }
    }

    /// Deleting several RSs at once is the same as one after the other.
    #[test]
    fn rr_over_many_deletions_at_once_decides_as_the_kernel_model(
        count in 1..12_usize,
        picks_before in 0..24_usize,
        deleted in vec(any::<bool>(), 12),
    ) {
        let mut pair = Pair::new(Algorithm::Rr, &vec![1; count]);
        (0..picks_before).try_for_each(|_| pair.schedule_both())?;
        let (mut left, mut gone) = (pair.list.clone(), pair.list.clone());
        left.retain(|real_server| !deleted[real_server.id as usize]);
        gone.retain(|real_server| deleted[real_server.id as usize]);
        gone.iter().for_each(|real_server| pair.model.delete(real_server.id));
        pair.replace(left);
        (0..2 * count).try_for_each(|_| pair.schedule_both())?;
    }
}
