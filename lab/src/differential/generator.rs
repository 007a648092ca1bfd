//! Scenarios from seeds: the same seed gives the same text for ever, so the random numbers are made here.
//!
//! What a generated scenario keeps clear of, so that it shows nothing that is stated already (docs/DEVIATIONS.md): a SYN on a
//! tuple whose RS was removed, edits that change no weight, RSs of `mh` added in another than the descending order or of other
//! weights than 0 and 1, thresholds under `lblc`, and RSs of `lblcr` that come back.
//! It never waits, and so never has to say when.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Schedulers that decide without chance.
const SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "sed", "nq", "fo", "ovf", "dh", "sh", "mh", "lblc", "lblcr"];

/// Schedulers whose key is the destination: they get many VIPs behind one firewall mark.
const BY_DESTINATION: [&str; 3] = ["dh", "lblc", "lblcr"];

/// Steps after the first configuration.
const STEPS: std::ops::RangeInclusive<u32> = 60..=110;

/// Firewall marks of generated scenarios are this and their seed; hand-made ones have smaller ones.
const MARK_BASE: u32 = 10_000;

const WEIGHTS: [u32; 15] = [0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 7, 10, 100];

/// Last octets of the real servers.
const REAL_SERVERS: std::ops::RangeInclusive<u8> = 11..=20;

const TCP_FRAMES: [&str; 12] =
    ["ACK", "ACK", "ACK", "ACK", "PSH,ACK", "FIN,ACK", "FIN,ACK", "FIN", "RST", "RST,ACK", "NONE", "SYN,ACK"];

const SCTP_FRAMES: [&str; 9] = [
    "DATA",
    "DATA",
    "SACK",
    "HEARTBEAT",
    "SHUTDOWN",
    "SHUTDOWN_ACK",
    "SHUTDOWN_COMPLETE",
    "ABORT",
    "COOKIE_ECHO,ABORT",
];

/// The scenario of a seed, as text.
pub fn generate(seed: u32) -> String {
    Generator::new(seed).write()
}

/// xorshift64* (Vigna 2016).
pub(super) struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub(super) fn new(seed: u32) -> Random {
        // Any number but zero; the product spreads the small seeds.
        let mut random = Random(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

struct RealServer {
    octet: u8,
    weight: u32,
    upper: u32,
    lower: u32,
}

/// A client's tuple, and how many RSs had been removed when it was first seen.
#[derive(Clone, Copy)]
struct Tuple {
    protocol: Protocol,
    source: SocketAddrV4,
    destination: SocketAddrV4,
    removals: u32,
}

struct Generator {
    random: Random,
    text: String,
    scheduler: &'static str,
    /// `-t 192.0.2.10:80`, `-f 10001`.
    service: String,
    /// What `-A` and `-E` say after the scheduler.
    options: String,
    /// Where clients may send to.
    destinations: Vec<(Protocol, SocketAddrV4)>,
    has_thresholds: bool,
    is_edited: bool,
    clients: usize,
    real_servers: Vec<RealServer>,
    tuples: Vec<Tuple>,
    removals: u32,
    /// Octets of RSs that were removed.
    removed: Vec<u8>,
    next_port: u16,
}

impl Generator {
    fn new(seed: u32) -> Generator {
        let mut random = Random::new(seed);
        let scheduler = SCHEDULERS[seed as usize % SCHEDULERS.len()];
        let mut generator = Generator {
            text: String::new(),
            scheduler,
            service: String::new(),
            options: String::new(),
            destinations: Vec::new(),
            has_thresholds: random.percent(35) && scheduler != "lblc",
            is_edited: random.percent(20),
            clients: *random.pick(&[2, 5, 20, 200]),
            real_servers: Vec::new(),
            tuples: Vec::new(),
            removals: 0,
            removed: Vec::new(),
            next_port: 20_000 + (random.below(1000) * 16) as u16,
            random,
        };
        generator.choose_service(seed);
        generator
    }

    fn write(mut self) -> String {
        let add = format!("ipvsadm -A {} -s {}{}", self.service, self.scheduler, self.options);
        self.line(&add);
        let first = 2 + self.random.below(4);
        for _ in 0..first {
            self.add_real_server();
        }
        let (from, to) = (*STEPS.start(), *STEPS.end());
        let steps = from + self.random.below((to - from) as usize) as u32;
        for step in 1..=steps {
            self.step();
            if step == steps / 3 || step == steps * 2 / 3 || step == steps {
                self.line("list");
            }
        }
        self.text
    }

    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn choose_service(&mut self, seed: u32) {
        let by_destination = BY_DESTINATION.contains(&self.scheduler);
        let kind = self.random.below(100);
        let vip = |octet: u8, port: u16| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, octet), port);
        if by_destination || kind < 12 {
            let mark = MARK_BASE + seed;
            self.service = format!("-f {mark}");
            if by_destination {
                self.destinations = (20..34).map(|octet| (Protocol::Tcp, vip(octet, 80))).collect();
            } else {
                self.destinations = vec![
                    (Protocol::Tcp, vip(10, 80)),
                    (Protocol::Tcp, vip(10, 443)),
                    (Protocol::Udp, vip(10, 443)),
                    (Protocol::Tcp, vip(11, 80)),
                ];
            }
            for (protocol, destination) in self.destinations.clone() {
                let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
                self.line(&format!("member {mark} {name} {destination}"));
            }
        } else if kind < 75 {
            self.service = format!("-t {}", vip(10, 80));
            self.destinations = vec![(Protocol::Tcp, vip(10, 80))];
        } else if kind < 90 {
            self.service = format!("-u {}", vip(10, 53));
            self.destinations = vec![(Protocol::Udp, vip(10, 53))];
        } else {
            self.service = format!("--sctp-service {}", vip(10, 5000));
            self.destinations = vec![(Protocol::Sctp, vip(10, 5000))];
        }
        self.choose_options(by_destination);
    }

    fn choose_options(&mut self, by_destination: bool) {
        let flags = match self.scheduler {
            "sh" => ["", "", " -b sh-port", " -b sh-fallback", " -b sh-fallback,sh-port"],
            "mh" => ["", "", " -b mh-port", " -b mh-fallback", " -b mh-fallback,mh-port"],
            _ => [""; 5],
        };
        self.options += *self.random.pick(&flags);
        if !by_destination && self.random.percent(30) {
            self.options +=
                *self.random.pick(&[" -p 300", " -p 600 -M 255.255.255.0", " -p 60 -M 255.255.255.252"]);
            if self.random.percent(30) {
                self.line("sysctl expire_quiescent_template=1");
            }
        }
        if self.random.percent(15) {
            let mode = *self.random.pick(&["0", "2", "3"]);
            self.line(&format!("sysctl conn_reuse_mode={mode}"));
        }
        if self.random.percent(10) {
            self.line("sysctl sloppy_tcp=1");
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.open(),
            45..74 => self.go_on(),
            74..81 => self.open_again(),
            81 => self.miss(),
            82..89 => self.edit_real_server(),
            89..91 => self.remove_real_server(),
            91..95 => self.add_real_server(),
            95..97 => self.edit_service(),
            _ => self.quiesce_or_revive(),
        }
    }

    fn open(&mut self) {
        let (protocol, destination) = *self.random.pick(&self.destinations);
        let client = self.random.below(self.clients) as u32;
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 51, 100, 0)) + client * 13 % 1024);
        let source = SocketAddrV4::new(address, self.next_port);
        self.next_port += 1 + self.random.below(3) as u16;
        self.tuples.push(Tuple { protocol, source, destination, removals: self.removals });
        match protocol {
            Protocol::Tcp => self.line(&format!("tcp {source} > {destination} SYN")),
            Protocol::Udp => self.line(&format!("udp {source} > {destination}")),
            Protocol::Sctp => {
                self.line(&format!("sctp {source} > {destination} INIT"));
                // Its first state lasts four seconds, less than a slow machine may take to the next listing.
                let next = *self.random.pick(&["COOKIE_ECHO", "COOKIE_ECHO", "COOKIE_ECHO,DATA", "INIT"]);
                self.line(&format!("sctp {source} > {destination} {next}"));
            }
        }
    }

    /// A packet of a tuple that was seen, which opens nothing, unless it is UDP.
    fn go_on(&mut self) {
        if self.tuples.is_empty() {
            return self.open();
        }
        let tuple = *self.random.pick(&self.tuples);
        let Tuple { protocol, source, destination, removals } = tuple;
        match protocol {
            Protocol::Tcp => {
                let flags = *self.random.pick(&TCP_FRAMES);
                // It has SYN too.
                let flags = if flags == "SYN,ACK" && removals != self.removals { "ACK" } else { flags };
                self.line(&format!("tcp {source} > {destination} {flags}"));
            }
            Protocol::Udp => self.line(&format!("udp {source} > {destination}")),
            Protocol::Sctp => {
                let chunks = *self.random.pick(&SCTP_FRAMES);
                self.line(&format!("sctp {source} > {destination} {chunks}"));
            }
        }
    }

    fn open_again(&mut self) {
        let removals = self.removals;
        let whole: Vec<Tuple> =
            self.tuples.iter().filter(|tuple| tuple.removals == removals).copied().collect();
        if whole.is_empty() {
            return self.open();
        }
        let Tuple { protocol, source, destination, .. } = *self.random.pick(&whole);
        match protocol {
            Protocol::Tcp => self.line(&format!("tcp {source} > {destination} SYN")),
            Protocol::Udp => self.line(&format!("udp {source} > {destination}")),
            Protocol::Sctp => {
                self.line(&format!("sctp {source} > {destination} INIT"));
                self.line(&format!("sctp {source} > {destination} COOKIE_ECHO"));
            }
        }
    }

    /// A packet to a port that no service has.
    fn miss(&mut self) {
        let port = 30_000 + self.random.below(1000);
        self.line(&format!("tcp 198.51.100.9:{port} > 192.0.2.99:8080 SYN"));
    }

    fn weight(&mut self) -> u32 {
        match self.scheduler {
            "ovf" => *self.random.pick(&[0, 1, 2, 2, 3, 4, 5, 6]),
            "mh" => (*self.random.pick(&WEIGHTS)).min(1),
            _ => *self.random.pick(&WEIGHTS),
        }
    }

    fn thresholds(&mut self) -> (u32, u32) {
        if !self.has_thresholds || self.random.percent(50) {
            return (0, 0);
        }
        let upper = 1 + self.random.below(8) as u32;
        let lower = if self.random.percent(50) { 0 } else { self.random.below(upper as usize + 1) as u32 };
        (upper, lower)
    }

    fn server_command(&self, verb: &str, server: &RealServer) -> String {
        let RealServer { octet, weight, upper, lower } = server;
        let mut command = format!("ipvsadm {verb} {} -r 10.0.0.{octet} -g -w {weight}", self.service);
        if *upper > 0 {
            let _ = write!(command, " -x {upper} -y {lower}");
        }
        command
    }

    fn add_real_server(&mut self) {
        let taken = |octet: &u8| self.real_servers.iter().any(|server| server.octet == *octet);
        let mut free: Vec<u8> = REAL_SERVERS.filter(|octet| !taken(octet)).collect();
        if self.scheduler == "mh" {
            let lowest = self.real_servers.iter().map(|server| server.octet).min().unwrap_or(u8::MAX);
            free.retain(|octet| *octet < lowest);
            // From above, so that there is room below.
            free = free.split_off(free.len().saturating_sub(3));
        }
        if self.scheduler == "lblcr" {
            free.retain(|octet| !self.removed.contains(octet));
        }
        if free.is_empty() || self.real_servers.len() >= 6 {
            return self.edit_real_server();
        }
        let octet = *self.random.pick(&free);
        let (weight, (upper, lower)) = (self.weight(), self.thresholds());
        let server = RealServer { octet, weight, upper, lower };
        let command = self.server_command("-a", &server);
        self.line(&command);
        self.real_servers.push(server);
    }

    fn remove_real_server(&mut self) {
        if self.real_servers.is_empty() {
            return self.add_real_server();
        }
        let place = self.random.below(self.real_servers.len());
        let server = self.real_servers.remove(place);
        self.removals += 1;
        self.removed.push(server.octet);
        let command = format!("ipvsadm -d {} -r 10.0.0.{}", self.service, server.octet);
        self.line(&command);
    }

    fn edit_real_server(&mut self) {
        let weight = self.weight();
        self.change_weight(weight);
    }

    fn quiesce_or_revive(&mut self) {
        let weight = if self.random.percent(60) { 0 } else { 1 };
        self.change_weight(weight);
    }

    fn change_weight(&mut self, weight: u32) {
        if self.real_servers.is_empty() {
            return self.open();
        }
        let (upper, lower) = self.thresholds();
        let place = self.random.below(self.real_servers.len());
        let server = &mut self.real_servers[place];
        let weight = match weight {
            same if same != server.weight => same,
            1 if self.scheduler == "mh" => 0,
            same => same + 1,
        };
        *server = RealServer { octet: server.octet, weight, upper, lower };
        let command = self.server_command("-e", &self.real_servers[place]);
        self.line(&command);
    }

    /// Another scheduler for the same service.
    fn edit_service(&mut self) {
        let is_simple = |name: &str| SCHEDULERS[..8].contains(&name);
        if !self.is_edited || !is_simple(self.scheduler) {
            return self.edit_real_server();
        }
        let others: Vec<&'static str> =
            SCHEDULERS[..8].iter().filter(|name| **name != self.scheduler).copied().collect();
        self.scheduler = *self.random.pick(&others);
        let command = format!("ipvsadm -E {} -s {}{}", self.service, self.scheduler, self.options);
        self.line(&command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::scenario;

    #[test]
    fn every_seed_gives_a_scenario_and_always_the_same() {
        for seed in 1..=400 {
            let text = generate(seed);
            let steps = scenario::parse(&text).unwrap();
            assert!(steps.len() >= 60, "seed {seed}");
            assert_eq!(text, generate(seed));
        }
    }

    #[test]
    fn real_servers_of_mh_come_in_descending_order_and_are_of_equal_weights() {
        for seed in (10..400).step_by(SCHEDULERS.len()) {
            let text = generate(seed);
            assert!(text.contains("-s mh"), "seed {seed}");
            let mut present: Vec<u8> = Vec::new();
            for line in text.lines() {
                let Some((_, octet)) = line.split_once("-r 10.0.0.") else { continue };
                let weight = octet.split_once("-w ").map(|(_, weight)| weight.split(' ').next().unwrap());
                assert!(matches!(weight, None | Some("0" | "1")), "seed {seed}: {line}");
                let octet = octet.split(' ').next().unwrap().parse().unwrap();
                if line.starts_with("ipvsadm -a") {
                    assert!(present.iter().all(|other| octet < *other), "seed {seed}: {line}");
                    present.push(octet);
                } else if line.starts_with("ipvsadm -d") {
                    present.retain(|other| *other != octet);
                }
            }
        }
    }
}
