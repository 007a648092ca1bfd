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
