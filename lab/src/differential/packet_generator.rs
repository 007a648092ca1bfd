//! Scenarios of whole packets from seeds: services of every forwarding method side by side, clients, real servers and
//! routers that send whatever they may, in any order.
//!
//! What a generated scenario keeps clear of, so that it shows nothing that is stated already (docs/DEVIATIONS.md): packets of
//! TTL 1 that would open a connection, UDP without a checksum through NAT, answers without a connection, errors that
//! quote too little.

use std::fmt::Write;

use super::generator::Random;

/// Steps after the configuration.
const STEPS: std::ops::RangeInclusive<usize> = 40..=70;

/// Client's address, of each family and link: those of link 1 are behind its router.
const CLIENTS: [[&str; 2]; 2] = [["198.51.100.7", "203.0.113.7"], ["2001:db8:c::7", "2001:db8:d::7"]];

/// A router somewhere, of each family.
const ROUTERS: [&str; 2] = ["198.51.100.1", "2001:db8:e::1"];

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8:2::10"];

const TUNNELS: [&str; 6] = [
    "-i",
    "-i --tun-type gre",
    "-i --tun-type gre --tun-csum",
    "-i --tun-type gue --tun-port 6080",
    "-i --tun-type gue --tun-port 6081 --tun-csum",
    "-i --tun-type gue --tun-port 6082 --tun-remcsum",
];

/// Errors by family, as both directions of NAT and every other method treat alike.
const ERRORS: [&[&str]; 2] = [
    &["icmp 3/0", "icmp 3/1", "icmp 3/3", "icmp 3/13", "icmp 3/4 mtu=1280", "icmp 11/0", "icmp 11/1"],
    &[
        "icmp6 1/0",
        "icmp6 1/3",
        "icmp6 1/4",
        "icmp6 2/0 mtu=1300",
        "icmp6 3/0",
        "icmp6 3/1",
        "icmp6 4/1 mtu=40",
    ],
];

const TOS: [&str; 8] = ["", "", "", " tos=0xb8", " tos=0x02", " tos=0x01", " tos=0x03", " tos=0x29"];

/// The scenario of a seed, as text.
pub fn generate(seed: u32) -> String {
    Generator::new(seed).write()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone)]
struct Service {
    protocol: Protocol,
    /// Index into the tables by family.
    family: usize,
    port: u16,
    is_nat: bool,
    /// Address, port and neighbour of the RS.
    real_server: (String, u16, String),
}

#[derive(Clone)]
struct Connection {
    service: Service,
    client_link: usize,
    port: u16,
    /// The RS has answered, in NAT.
    is_answered: bool,
}

struct Generator {
    random: Random,
    text: String,
    services: Vec<Service>,
    connections: Vec<Connection>,
    next_id: u32,
}

impl Generator {
    fn new(seed: u32) -> Generator {
        let random = Random::new(seed ^ 0x5eed_0000);
        let mut generator = Generator {
            random,
            text: String::new(),
            services: Vec::new(),
            connections: Vec::new(),
            next_id: 100,
        };
        for number in 0..3 + generator.random.below(3) as u16 {
            generator.add_service(number);
        }
        generator
    }

    fn write(mut self) -> String {
        let (from, to) = (*STEPS.start(), *STEPS.end());
        let steps = from + self.random.below(to - from);
        for step in 1..=steps {
            self.step();
            if step == steps / 2 || step == steps {
                self.line("list");
            }
        }
        self.text
    }

    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn add_service(&mut self, number: u16) {
        let protocol = *self.random.pick(&[Protocol::Tcp, Protocol::Udp, Protocol::Udp, Protocol::Sctp]);
        let family = self.random.below(2);
        let port = 5000 + number;
        let kind = self.random.below(100);
        let (is_nat, is_tunnel) = (kind < 40, kind >= 60);
        let outer = if is_tunnel && self.random.percent(40) { 1 - family } else { family };
        let octet = 11 + number;
        let place = self.random.below(if is_tunnel || is_nat { 3 } else { 2 });
        let address = match (outer, place) {
            (0, 2) => format!("10.9.0.{octet}"),
            (0, link) => format!("10.{link}.0.{octet}"),
            (_, 2) => format!("2001:db8:9::{octet}"),
            (_, link) => format!("2001:db8:0:{}::{octet}", link + 1),
        };
        let neighbour = if place == 2 { "10.0.0.253".to_owned() } else { format!("10.{place}.0.{octet}") };
        let rs_port = if is_nat && self.random.percent(70) { 8000 + number } else { port };
        let method = match (is_nat, is_tunnel) {
            (true, _) => "-m",
            (_, true) => *self.random.pick(&TUNNELS),
            _ => "-g",
        };
        let flag = match protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
            Protocol::Sctp => "--sctp-service",
        };
        let bracketed = |address: &str| {
            if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
        };
        let (vip, rs) = (bracketed(VIPS[family]), bracketed(&address));
        self.line(&format!("ipvsadm -A {flag} {vip}:{port} -s rr"));
        self.line(&format!("ipvsadm -a {flag} {vip}:{port} -r {rs}:{rs_port} {method}"));
        let real_server = (address, rs_port, neighbour);
        self.services.push(Service { protocol, family, port, is_nat, real_server });
    }

    fn step(&mut self) {
        if self.connections.is_empty() {
            return self.open();
        }
        match self.random.below(100) {
            0..25 => self.open(),
            25..50 => self.go_on(),
            50..70 => self.answer(),
            70..80 => self.error_of_client(),
            80..87 => self.error_of_real_server(),
            87..93 => self.fragments(),
            93..97 => self.too_big(),
            _ => self.expire(),
        }
    }

    fn ip(&mut self, family: usize, source: &str, destination: &str, more: &str) -> String {
        let name = ["ip", "ip6"][family];
        let tos = *self.random.pick(&TOS);
        let flags = match (family, self.random.below(4)) {
            (0, 0) => String::new(),
            (0, 1) => format!(" id={}", 2 + self.random.below(60_000)),
            (0, _) => " df".to_owned(),
            (_, 0) => format!(" flow=0x{:05x}", 1 + self.random.below(0xffff)),
            _ => String::new(),
        };
        let ttl = 3 + self.random.below(250);
        format!("{name} {source} > {destination}{tos}{flags} ttl={ttl}{more}")
    }

    /// A transport header and data from one port to another; `flags` are TCP's, `chunk` SCTP's.
    fn segment(protocol: Protocol, ports: (u16, u16), flags: &str, chunk: &str, bytes: usize) -> String {
        let (from, to) = ports;
        let data = if bytes == 0 { String::new() } else { format!(" / data={bytes}") };
        match protocol {
            Protocol::Tcp => format!("tcp {from} > {to} {flags}{data}"),
            Protocol::Udp => format!("udp {from} > {to}{data}"),
            Protocol::Sctp => format!("sctp {from} > {to} / hex={chunk}"),
        }
    }

    /// Sends one packet of a connection's client.
    fn send(&mut self, connection: &Connection, flags: &str, chunk: &str, bytes: usize) {
        let Connection { service, client_link, port, .. } = connection;
        let client = CLIENTS[service.family][*client_link];
        let ip = self.ip(service.family, client, VIPS[service.family], "");
        let segment = Self::segment(service.protocol, (*port, service.port), flags, chunk, bytes);
        self.line(&format!("from 10.{client_link}.0.254: {ip} / {segment}"));
    }

    fn bytes(&mut self) -> usize {
        *self.random.pick(&[0, 1, 2, 20, 21, 100, 511, 900, 1200])
    }

    fn open(&mut self) {
        let service = self.random.pick(&self.services).clone();
        let client_link = usize::from(self.random.percent(20));
        let port = 20_000 + self.random.below(40_000) as u16;
        let connection = Connection { service, client_link, port, is_answered: false };
        let bytes = if connection.service.protocol == Protocol::Udp { self.bytes() } else { 0 };
        self.send(&connection, "SYN", INIT, bytes);
        self.connections.push(connection);
    }

    fn go_on(&mut self) {
        let connection = self.random.pick(&self.connections).clone();
        let flags = *self.random.pick(&["ACK", "ACK", "PSH,ACK", "FIN,ACK", "RST,ACK"]);
        let chunk = *self.random.pick(&[COOKIE_ECHO, DATA, SHUTDOWN]);
        let bytes = self.bytes();
        self.send(&connection, flags, chunk, bytes);
    }

    /// A NAT connection, chosen at random.
    fn nat(&mut self) -> Option<usize> {
        let nat: Vec<usize> =
            (0..self.connections.len()).filter(|&place| self.connections[place].service.is_nat).collect();
        (!nat.is_empty()).then(|| *self.random.pick(&nat))
    }

    fn answer(&mut self) {
        let Some(place) = self.nat() else { return self.go_on() };
        let flags = if self.connections[place].is_answered {
            *self.random.pick(&["ACK", "PSH,ACK", "FIN,ACK"])
        } else {
            "SYN,ACK"
        };
        self.connections[place].is_answered = true;
        let bytes = self.bytes();
        self.answer_with(place, flags, bytes, "");
    }

    fn answer_with(&mut self, place: usize, flags: &str, bytes: usize, more: &str) {
        let Connection { service, client_link, port, .. } = self.connections[place].clone();
        let (address, rs_port, neighbour) = &service.real_server;
        let client = CLIENTS[service.family][client_link];
        let ip = self.ip(service.family, address, client, more);
        let segment = Self::segment(service.protocol, (*rs_port, port), flags, INIT_ACK, bytes);
        self.line(&format!("from {neighbour}: {ip} / {segment}"));
    }

    /// An error about what the client got: in NAT an answer that came out, else one that went past the director.
    fn error_of_client(&mut self) {
        let place = self.random.below(self.connections.len());
        let Connection { service, client_link, port, .. } = self.connections[place].clone();
        let (vip, client) = (VIPS[service.family], CLIENTS[service.family][client_link]);
        let error = *self.random.pick(ERRORS[service.family]);
        let quote = if service.is_nat {
            let bytes = self.bytes();
            self.answer_with(place, "ACK", bytes, "");
            let least = if service.family == 0 { 28 } else { 48 };
            if self.random.percent(50) { "out".to_owned() } else { format!("out:{least}") }
        } else {
            let ip = self.ip(service.family, vip, client, "");
            let segment = Self::segment(service.protocol, (service.port, port), "ACK", DATA, 100);
            format!("{ip} / {segment}")
        };
        let source = if self.random.percent(50) { client } else { ROUTERS[service.family] };
        let ip = self.ip(service.family, source, vip, "");
        self.line(&format!("from 10.{client_link}.0.254: {ip} / {error} / {quote}"));
    }

    /// An error about what the RS got in NAT.
    fn error_of_real_server(&mut self) {
        let Some(place) = self.nat() else { return self.error_of_client() };
        let connection = self.connections[place].clone();
        let bytes = self.bytes();
        self.send(&connection, "ACK", DATA, bytes);
        let Connection { service, client_link, .. } = connection;
        let (address, _, neighbour) = &service.real_server;
        let error = *self.random.pick(ERRORS[service.family]);
        let client = CLIENTS[service.family][client_link];
        let source = if self.random.percent(50) { address } else { ROUTERS[service.family] };
        let ip = self.ip(service.family, source, client, "");
        self.line(&format!("from {neighbour}: {ip} / {error} / out"));
    }

    /// A datagram in pieces, in any order.
    fn fragments(&mut self) {
        let datagrams: Vec<usize> = (0..self.connections.len())
            .filter(|&place| self.connections[place].service.protocol == Protocol::Udp)
            .collect();
        if datagrams.is_empty() {
            return self.go_on();
        }
        let place = *self.random.pick(&datagrams);
        let Connection { service, client_link, port, .. } = self.connections[place].clone();
        let bytes = 1300 + self.random.below(1500);
        let (udp, each) = (8, 1000);
        let mut pieces: Vec<usize> = (0..(udp + bytes).div_ceil(each)).collect();
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, self.random.below(at + 1));
        }
        self.next_id += 1;
        let ttl = 3 + self.random.below(250);
        let (is_answer, client) =
            (service.is_nat && self.random.percent(50), CLIENTS[service.family][client_link]);
        let (address, rs_port, neighbour) = &service.real_server;
        let name = ["ip", "ip6"][service.family];
        for piece in pieces {
            // Each fits into any tunnel.
            let slice = format!("ttl={ttl} frag={}:{each}:{}", piece * each, self.next_id);
            let vip = VIPS[service.family];
            let line = if is_answer {
                format!(
                    "from {neighbour}: {name} {address} > {client} {slice} / udp {rs_port} > {port} / data={bytes}"
                )
            } else {
                let from = format!("from 10.{client_link}.0.254");
                format!(
                    "{from}: {name} {client} > {vip} {slice} / udp {port} > {} / data={bytes}",
                    service.port
                )
            };
            self.line(&line);
        }
    }

    /// As big as the client's link lets it.
    fn too_big(&mut self) {
        let connection = self.random.pick(&self.connections).clone();
        let headers = [40, 60][connection.service.family];
        let link = [1500, 1400][connection.client_link];
        self.send(&connection, "ACK", DATA, link - headers);
    }

    /// TTL 1 of a datagram whose connection is known.
    fn expire(&mut self) {
        let connection = self.random.pick(&self.connections).clone();
        let Connection { service, client_link, port, .. } = connection;
        if service.protocol != Protocol::Udp {
            return self.go_on();
        }
        let name = ["ip", "ip6"][service.family];
        let (client, vip) = (CLIENTS[service.family][client_link], VIPS[service.family]);
        let bytes = self.bytes();
        let segment = Self::segment(service.protocol, (port, service.port), "", "", bytes);
        self.line(&format!("from 10.{client_link}.0.254: {name} {client} > {vip} ttl=1 / {segment}"));
    }
}

const INIT: &str = "0100001400000000000000000000000000000000";
const INIT_ACK: &str = "0200001400000000000000000000000000000000";
const COOKIE_ECHO: &str = "0a000008aabbccdd";
const DATA: &str = "0003001400000001000000020000000361626364";
const SHUTDOWN: &str = "0700000800000001";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::scenario;

    #[test]
    fn every_seed_gives_a_scenario_and_always_the_same() {
        for seed in 1..=400 {
            let text = generate(seed);
            let steps = scenario::parse(&text).unwrap();
            assert!(steps.len() >= 45, "seed {seed}");
            assert_eq!(text, generate(seed));
        }
    }
}
