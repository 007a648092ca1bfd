//! Tests only: a model of what IPVS does, on one thread.
//!
//! It follows the kernel's walks RS by RS, pass by pass and slot by slot, and knows an RS by its key alone, so that it
//! has neither the indices nor the arithmetic of the code that it judges. `hash.rs` it shares: that has vectors of its
//! own. Where the project differs from IPVS on purpose, the model does too and says "Ours".

use std::collections::HashMap;
use std::net::IpAddr;

use crate::hash::{fold, hash_32, hsiphash};
use crate::{Algorithm, Request, SchedulerConfig, Thresholds};

/// An RS; its key is never another's.
#[derive(Clone, Debug)]
pub(crate) struct ModelServer {
    pub(crate) key: u32,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) weight: i64,
    pub(crate) last_weight: i64,
    /// Ours: as an RS that IPVS flags overloaded.
    pub(crate) available: bool,
    pub(crate) active: i64,
    pub(crate) inactive: i64,
    pub(crate) thresholds: Thresholds,
    pub(crate) overload: bool,
}

impl ModelServer {
    fn total(&self) -> i64 {
        self.active + self.inactive
    }

    fn overhead(&self) -> i128 {
        i128::from(self.active * 256 + self.total())
    }

    fn is_overloaded(&self) -> bool {
        self.overload || !self.available
    }

    fn takes_part(&self) -> bool {
        !self.is_overloaded() && self.weight > 0
    }

    /// IPVS 7.x evaluates at every bind, unbind and edit.
    pub(crate) fn update_overload(&mut self) {
        let (upper, lower) = (i64::from(self.thresholds.upper), i64::from(self.thresholds.lower));
        if upper == 0 {
            self.overload = false;
        } else if self.total() >= upper {
            self.overload = true;
        } else if lower == 0 && self.total() * 4 < upper * 3 || lower != 0 && self.total() < lower {
            self.overload = false;
        }
    }

    pub(crate) fn edit_weight(&mut self, weight: i64) {
        self.weight = weight;
        if weight != 0 {
            self.last_weight = weight;
        }
    }
}

/// A place in IPVS's circular list: an RS by its key, or the head (`None`).
type Place = Option<u32>;

#[derive(Debug)]
struct Remembered {
    /// Keys, the head of the kernel's list first.
    set: Vec<u32>,
    last_use: u32,
    last_modified: u32,
}

/// A virtual service as the kernel keeps it.
#[derive(Debug)]
pub(crate) struct ModelService {
    config: SchedulerConfig,
    servers: Vec<ModelServer>,
    /// rr's and wrr's pointer.
    place: Place,
    interval: i64,
    highest: i64,
    required: i64,
    /// Of dh, sh and mh.
    table: Vec<u32>,
    /// Of lblc and lblcr.
    cache: HashMap<IpAddr, Remembered>,
}

impl ModelService {
    pub(crate) fn new(config: SchedulerConfig, servers: Vec<ModelServer>) -> Self {
        let mut service = ModelService {
            config,
            servers,
            place: None,
            interval: 0,
            highest: 0,
            required: 0,
            table: Vec::new(),
            cache: HashMap::new(),
        };
        service.weights_changed();
        service.assign_table();
        service
    }

    fn after(&self, place: Place) -> Place {
        let next = match place {
            None => 0,
            Some(key) => 1 + self.servers.iter().position(|server| server.key == key).unwrap(),
        };
        self.servers.get(next).map(|server| server.key)
    }

    fn get(&self, key: u32) -> &ModelServer {
        self.servers.iter().find(|server| server.key == key).unwrap()
    }

    pub(crate) fn server(&mut self, key: u32) -> &mut ModelServer {
        self.servers.iter_mut().find(|server| server.key == key).unwrap()
    }

    pub(crate) fn add(&mut self, newest: ModelServer) {
        self.servers.insert(0, newest);
        self.list_changed();
    }

    pub(crate) fn edit(&mut self, key: u32, weight: u32) {
        self.server(key).edit_weight(weight.into());
        self.list_changed();
    }

    pub(crate) fn delete(&mut self, key: u32) {
        if self.config.algorithm == Algorithm::Rr && self.place == Some(key) {
            let mut before = None;
            while self.after(before) != Some(key) {
                before = self.after(before);
            }
            self.place = before;
        }
        self.servers.retain(|server| server.key != key);
        // Ours: the kernel keeps it in lblcr's sets.
        self.cache.values_mut().for_each(|remembered| remembered.set.retain(|&member| member != key));
        self.list_changed();
    }

    fn list_changed(&mut self) {
        if self.config.algorithm == Algorithm::Wrr {
            self.place = None;
            self.weights_changed();
        }
        self.assign_table();
    }

    fn weights_changed(&mut self) {
        let weights: Vec<i64> = self.servers.iter().map(|server| server.weight).filter(|&w| w > 0).collect();
        let heaviest = weights.iter().copied().max().unwrap_or(0);
        self.interval = greatest_common_divisor(&weights);
        self.highest = heaviest - (self.interval - 1);
        if self.required == 0 || self.required > self.highest {
            self.required = self.highest;
        } else if self.interval > 1 {
            self.required = self.required / self.interval * self.interval + 1;
        }
    }

    fn assign_table(&mut self) {
        self.table = match self.config.algorithm {
            _ if self.servers.is_empty() => Vec::new(),
            Algorithm::Dh => self.assign(|_| 1),
            Algorithm::Sh => self.assign(|server| server.weight),
            Algorithm::Mh => self.populate(),
            _ => return,
        }
    }

    /// 256 slots; each RS stays on until it has `slots` of them.
    fn assign(&self, slots: impl Fn(&ModelServer) -> i64) -> Vec<u32> {
        let mut table = Vec::new();
        let mut place = None;
        let mut assigned = 0;
        while table.len() < 256 {
            if place.is_none() {
                place = self.after(None);
            }
            let server = self.get(place.unwrap());
            table.push(server.key);
            assigned += 1;
            if assigned >= slots(server) {
                place = self.after(place);
                assigned = 0;
            }
        }
        table
    }

    fn populate(&self) -> Vec<u32> {
        const SIZE: usize = 4093;
        // Ours: in this order, not the list's.
        let mut servers: Vec<&ModelServer> =
            self.servers.iter().filter(|server| server.last_weight > 0).collect();
        servers.sort_by_key(|server| (server.address, server.port));
        let Some(first) = servers.first() else { return Vec::new() };
        let turns = if servers.iter().all(|server| server.last_weight == first.last_weight) {
            rounds(&servers, SIZE)
        } else {
            // Ours: the kernel goes in rounds.
            shares(&servers, SIZE)
        };

        let key = |server: &ModelServer| fold(server.address).wrapping_add(server.port.into());
        let first = |server: &&ModelServer| hsiphash(key(server), 2_654_435_761) as usize % SIZE;
        let skip = |server: &ModelServer| hsiphash(key(server), 2_654_446_892) as usize % (SIZE - 1) + 1;
        let mut permutation: Vec<usize> = servers.iter().map(first).collect();
        let mut table = vec![None; SIZE];
        for index in turns {
            while table[permutation[index]].is_some() {
                permutation[index] += skip(servers[index]);
                if permutation[index] >= SIZE {
                    permutation[index] -= SIZE;
                }
            }
            table[permutation[index]] = Some(servers[index].key);
        }
        table.into_iter().map(Option::unwrap).collect()
    }

    pub(crate) fn schedule(&mut self, request: &Request) -> Place {
        match self.config.algorithm {
            Algorithm::Rr => self.schedule_rr(),
            Algorithm::Wrr => self.schedule_wrr(),
            Algorithm::Lc => self.least(ModelServer::overhead, |_| 1),
            Algorithm::Wlc => self.wlc(),
            Algorithm::Lblc => self.schedule_lblc(request),
            Algorithm::Lblcr => self.schedule_lblcr(request),
            Algorithm::Dh => self.hashed(hash_32(fold(request.vip), 8) as usize),
            Algorithm::Sh => self.schedule_sh(request),
            Algorithm::Sed => self.sed(),
            Algorithm::Nq => {
                let idle = self.servers.iter().find(|server| server.takes_part() && server.active == 0);
                idle.map(|server| server.key).or_else(|| self.sed())
            }
            Algorithm::Fo => self.heaviest(|_| true),
            Algorithm::Ovf => self.heaviest(|server| server.active <= server.weight),
            Algorithm::Mh => self.schedule_mh(request),
            Algorithm::Twos => self.schedule_twos(request),
        }
    }

    fn schedule_rr(&mut self) -> Place {
        let mut place = self.place;
        for _ in 0..=self.servers.len() {
            place = self.after(place);
            let Some(key) = place else { continue };
            if self.get(key).takes_part() {
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
            if let Some(key) = place {
                let server = self.get(key);
                if !server.is_overloaded() && server.weight >= self.required {
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

    /// The least load over the divisor, the first of equals, compared as exact fractions.
    fn least(
        &self,
        load: impl Fn(&ModelServer) -> i128,
        divisor: impl Fn(&ModelServer) -> i64,
    ) -> Option<u32> {
        let least = self
            .servers
            .iter()
            .filter(|server| server.takes_part())
            .min_by(|a, b| (load(a) * i128::from(divisor(b))).cmp(&(load(b) * i128::from(divisor(a)))));
        least.map(|server| server.key)
    }

    fn wlc(&self) -> Option<u32> {
        self.least(ModelServer::overhead, |server| server.weight)
    }

    fn sed(&self) -> Option<u32> {
        self.least(|server| i128::from(server.active + 1), |server| server.weight)
    }

    fn heaviest(&self, fits: impl Fn(&ModelServer) -> bool) -> Option<u32> {
        let mut heaviest: Option<&ModelServer> = None;
        for server in self.servers.iter().filter(|server| server.takes_part() && fits(server)) {
            if heaviest.is_none_or(|heaviest| server.weight > heaviest.weight) {
                heaviest = Some(server);
            }
        }
        heaviest.map(|server| server.key)
    }

    fn hashed(&self, slot: usize) -> Option<u32> {
        let key = *self.table.get(slot)?;
        self.get(key).takes_part().then_some(key)
    }

    fn schedule_sh(&self, request: &Request) -> Option<u32> {
        let port = if self.config.flags.port { request.client_port } else { 0 };
        let slot = |offset: u32| {
            let hash = hash_32(u32::from(port).wrapping_add(fold(request.client)), 8);
            (offset + hash) as usize & 255
        };
        self.with_fallback(slot, 256)
    }

    fn schedule_mh(&self, request: &Request) -> Option<u32> {
        let size = self.table.len() as u32;
        if size == 0 {
            return None;
        }
        let port = if self.config.flags.port { request.client_port } else { 0 };
        let slot = |offset: u32| {
            let word = offset.wrapping_add(port.into()).wrapping_add(fold(request.client));
            (hsiphash(word, 2_654_435_761) % size) as usize
        };
        self.with_fallback(slot, size)
    }

    fn with_fallback(&self, slot: impl Fn(u32) -> usize, size: u32) -> Option<u32> {
        let home = slot(0);
        if !self.config.flags.fallback {
            return self.hashed(home);
        }
        let probes = (0..size).map(|offset| slot((offset + home as u32) % size));
        self.hashed(home).or_else(|| probes.into_iter().find_map(|slot| self.hashed(slot)))
    }

    fn schedule_twos(&self, request: &Request) -> Option<u32> {
        let servers: Vec<_> = self.servers.iter().filter(|server| server.takes_part()).collect();
        let total: i64 = servers.iter().map(|server| server.weight).sum();
        let choose = |random: u64| {
            let mut lot = ((u128::from(random & 0xffff_ffff) * (total as u128 + 1)) >> 32) as i64;
            servers.iter().find(|server| {
                lot -= server.weight;
                lot <= 0
            })
        };
        let (first, second) = (choose(request.random)?, choose(request.random >> 32)?);
        let is_better =
            i128::from(second.weight) * first.overhead() > i128::from(first.weight) * second.overhead();
        Some(if is_better { second.key } else { first.key })
    }

    fn is_beyond_its_weight(&self, key: u32) -> bool {
        let server = self.get(key);
        server.active > server.weight && self.servers.iter().any(|other| other.active * 2 < other.weight)
    }

    /// Ours: an entry ends at its expiration, the kernel's at the next sweep.
    fn forget_expired(&mut self, request: &Request) {
        let expiration = self.config.lblc_expiration_seconds;
        self.cache.retain(|_, remembered| request.now_seconds - remembered.last_use < expiration);
    }

    fn schedule_lblc(&mut self, request: &Request) -> Option<u32> {
        self.forget_expired(request);
        if let Some(remembered) = self.cache.get_mut(&request.vip) {
            remembered.last_use = request.now_seconds;
            // Ours: the kernel uses it although it is overloaded.
            let key = remembered.set.first().copied();
            if let Some(key) =
                key.filter(|&key| self.get(key).takes_part() && !self.is_beyond_its_weight(key))
            {
                return Some(key);
            }
        }
        let pick = self.wlc()?;
        let now = request.now_seconds;
        self.cache.insert(request.vip, Remembered { set: vec![pick], last_use: now, last_modified: now });
        Some(pick)
    }

    fn schedule_lblcr(&mut self, request: &Request) -> Option<u32> {
        self.forget_expired(request);
        let now = request.now_seconds;
        let Some(mut remembered) = self.cache.remove(&request.vip) else {
            let pick = self.wlc()?;
            self.cache.insert(request.vip, Remembered { set: vec![pick], last_use: now, last_modified: now });
            return Some(pick);
        };
        remembered.last_use = now;
        let ratio = |&key: &u32| (self.get(key).overhead(), i128::from(self.get(key).weight));
        let usable = remembered.set.iter().copied().filter(|&key| self.get(key).takes_part());
        let least = usable.min_by(|a, b| {
            let ((load_a, weight_a), (load_b, weight_b)) = (ratio(a), ratio(b));
            (load_a * weight_b).cmp(&(load_b * weight_a))
        });
        if remembered.set.len() > 1 && now - remembered.last_modified > self.config.lblc_expiration_seconds {
            let mut most: Option<u32> = None;
            for &key in remembered.set.iter().filter(|&&key| self.get(key).weight > 0) {
                let (load, weight) = ratio(&key);
                if most.as_ref().map(ratio).is_none_or(|(moh, mw)| moh * weight < load * mw) {
                    most = Some(key);
                }
            }
            if let Some(most) = most {
                remembered.set.retain(|&key| key != most);
                remembered.last_modified = now;
            }
        }
        let pick = match least {
            Some(key) if !self.is_beyond_its_weight(key) => Some(key),
            _ => {
                let pick = self.wlc();
                if let Some(pick) = pick.filter(|pick| !remembered.set.contains(pick)) {
                    remembered.set.insert(0, pick);
                    remembered.last_modified = now;
                }
                pick
            }
        };
        self.cache.insert(request.vip, remembered);
        pick
    }
}

/// Whose turn it is, slot by slot, in the kernel's `mh`: so many turns each, round after round.
fn rounds(servers: &[&ModelServer], slots: usize) -> Vec<usize> {
    let weights: Vec<i64> = servers.iter().map(|server| server.last_weight).collect();
    let unit = greatest_common_divisor(&weights);
    let mut most = weights.iter().max().unwrap() / unit;
    let mut shift = 0;
    while most >= 64 {
        most /= 2;
        shift += 1;
    }
    let turns = |weight: i64| ((weight / unit) >> shift).max(1) as usize;
    let round: Vec<usize> = (weights.iter().enumerate())
        .flat_map(|(index, &weight)| std::iter::repeat_n(index, turns(weight)))
        .collect();
    round.into_iter().cycle().take(slots).collect()
}

/// Ours: whoever has had the fewest turns for its weight before this one, the first of equals.
fn shares(servers: &[&ModelServer], slots: usize) -> Vec<usize> {
    let mut had = vec![0; servers.len()];
    let mut turns = Vec::new();
    while turns.len() < slots {
        let mut next = 0;
        for index in 1..servers.len() {
            if had[index] * servers[next].last_weight < had[next] * servers[index].last_weight {
                next = index;
            }
        }
        had[next] += 1;
        turns.push(next);
    }
    turns
}

/// 1 for none.
fn greatest_common_divisor(weights: &[i64]) -> i64 {
    let lightest = weights.iter().copied().min().unwrap_or(0);
    let divides_all = |divisor: &i64| weights.iter().all(|weight| weight % divisor == 0);
    (1..=lightest).rev().find(divides_all).unwrap_or(1)
}
