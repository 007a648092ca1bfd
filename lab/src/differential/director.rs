//! dr-director in a namespace: one process for many scenarios, each on VIPs of its own.
//!
//! For scenarios of whole packets it has all links, both families, and the routes that the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::collection::{vip_network, vip_network6};
use super::listing;
use super::neighbours::{BARRIER_REAL_SERVER, DIRECTOR, REAL_SERVERS, Responder, address_of, mac_text};
use super::neighbours::{LINK_MTUS, Neighbour, ROUTER, ROUTES};
use super::run::Subject;
use super::scenario::Step;
use super::traces;
use super::wire::{BARRIER_SERVICE, BARRIER_SERVICES, Wire};
use crate::director::{DirectorProcess, allowed_cpus, configuration, control_socket};
use crate::host::Host;
use crate::network::Network;
use crate::topology::PortDriver;

/// Scenarios after which the process is started afresh: the connections of all of them are in every listing.
const SCENARIOS_PER_PROCESS: usize = 60;

/// Barriers after which a worker that was off its CPU has ended all connections whose time is over: it looks at 32 a round,
/// a barrier takes a round, and the scenarios that wait open less than a thousand.
const SWEEP_BARRIERS: usize = 32;

/// Numbers of the real servers that scenarios of whole packets use.
const PACKET_REAL_SERVERS: std::ops::RangeInclusive<u8> = 11..=18;

/// Services that keep every RS of those scenarios known: nobody sends to them.
const KNOWN_SERVICES: [&str; 2] = ["192.0.2.252:9", "[2001:db8:2::fc]:9"];

/// Options whose value at the start is not 0.
const STARTS_WITH_1: [&str; 2] = ["conn_reuse_mode", "pmtu_disc"];

/// `ipvsadm --set` as a director starts with.
const TIMEOUTS: &str = "--set 900 120 300";

/// The daemon as a director.
pub struct Director {
    links: usize,
    process: DirectorProcess,
    wire: Wire,
    _neighbours: Vec<Responder>,
    host: Host,
    place: usize,
    scenario: Scenario,
    /// [Names](Scenario::names) that this process has seen.
    seen: BTreeSet<String>,
    scenarios: usize,
}

/// What belongs to one scenario.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    network: String,
    /// The same of IPv6, as it is listed.
    network6: String,
    /// Members of groups by mark: the kernel's rules are there before and after the service, a group's members are not.
    members: BTreeMap<u32, Vec<Value>>,
    marks: BTreeSet<u32>,
    options: BTreeSet<String>,
    traces: BTreeSet<String>,
}

impl Scenario {
    /// The scenario of this name.
    pub fn new(name: &str, steps: &[Step]) -> Scenario {
        let mark = |step: &Step| if let Step::Member { mark, .. } = step { Some(*mark) } else { None };
        Scenario {
            network: vip_network(name),
            network6: format!("[{}", vip_network6(name)),
            marks: steps.iter().filter_map(mark).collect(),
            traces: traces::of(steps),
            ..Scenario::default()
        }
    }

    /// Whether a VIP:port or a mark is one of its own.
    fn has(&self, service: &str) -> bool {
        [&self.network, &self.network6].into_iter().any(|network| service.starts_with(network))
            || self.marks.iter().any(|mark| {
                // A mark is listed as itself, and as an address in its templates: the first 32 bits of it.
                let (as_ip, as_ip6) = (Ipv4Addr::from(*mark), Ipv6Addr::from(u128::from(*mark) << 96));
                [mark.to_string(), format!("{as_ip}:0"), format!("[{as_ip6}]:0")]
                    .contains(&service.to_owned())
            })
    }

    /// What two scenarios in one process must not have in common.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let marks = self.marks.iter().map(u32::to_string);
        marks.chain([self.network.clone(), self.network6.clone()]).chain(self.traces.iter().cloned())
    }
}

impl Director {
    /// Starts the daemon on cables of its own in `network`, which must outlive it; `place` tells apart those that run at the
    /// same time, so that their workers have CPUs of their own where there are two.
    pub fn start(network: &Network, place: usize) -> Result<Director> {
        Self::start_on(network, place, 1)
    }

    /// The same for scenarios of whole packets.
    pub fn start_for_packets(network: &Network, place: usize) -> Result<Director> {
        Self::start_on(network, place, LINK_MTUS.len())
    }

    fn start_on(network: &Network, place: usize, links: usize) -> Result<Director> {
        let far_end = network.add_host(&format!("far-end-{place}-{links}"))?;
        let host = network.add_host(&format!("director-{place}-{links}"))?;
        let ends: Vec<String> = (0..links).map(|link| format!("to-director{link}")).collect();
        let mut neighbours = Vec::new();
        for (link, end) in ends.iter().enumerate() {
            network.add_cable((&host, &format!("eth{link}")), (&far_end, end))?;
            let mac = mac_text(Neighbour { link: link as u8, number: DIRECTOR }.mac());
            host.ip(&format!("link set eth{link} address {mac}"))?;
            // The port's address is not the kernel's.
            host.ip(&format!("link set eth{link} arp off"))?;
            neighbours.push(Responder::start(&far_end, end)?);
        }
        let wire = Wire::open(&far_end, &ends.iter().map(String::as_str).collect::<Vec<_>>())?;
        let process = start_process(&host, place, links)?;
        let (scenario, seen) = (Scenario::default(), BTreeSet::new());
        let mut director = Director {
            links,
            process,
            wire,
            _neighbours: neighbours,
            host,
            place,
            scenario,
            seen,
            scenarios: 0,
        };
        director.make_barriers()?;
        Ok(director)
    }

    /// Whether the process has had enough, or knows something of this scenario already.
    pub fn is_used_up(&self, scenario: &Scenario) -> bool {
        self.scenarios >= SCENARIOS_PER_PROCESS || scenario.names().any(|name| self.seen.contains(&name))
    }

    /// Starts the process afresh: no scenario may be running.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill_in_place()?;
        self.process = start_process(&self.host, self.place, self.links)?;
        self.seen.clear();
        self.scenarios = 0;
        self.make_barriers()
    }

    /// What follows is of a new scenario.
    pub fn begin(&mut self, scenario: Scenario) {
        self.seen.extend(scenario.names());
        self.scenarios += 1;
        self.scenario = scenario;
    }

    /// What follows is of this scenario; returns the one that was before.
    pub fn swap(&mut self, scenario: Scenario) -> Scenario {
        std::mem::replace(&mut self.scenario, scenario)
    }

    /// Removes the scenario's services and takes back its options. Its connections stay until they expire.
    pub fn end(&mut self) -> Result<()> {
        let saved = self.process.ctl(&["ipvsadm", "-Sn"])?;
        for line in saved.lines().filter(|line| line.starts_with("-A")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if self.scenario.has(words[2]) {
                let family = words.get(3).copied().filter(|word| *word == "-6");
                let service = ["ipvsadm", "-D", words[1], words[2]].into_iter().chain(family);
                self.process.ctl(&service.collect::<Vec<_>>())?;
            }
        }
        for option in std::mem::take(&mut self.scenario.options) {
            match option.as_str() {
                "--set" => self.ipvsadm(&[TIMEOUTS])?,
                name => self.set_option(name, if STARTS_WITH_1.contains(&name) { "1" } else { "0" })?,
            }
        }
        Ok(())
    }

    /// The daemon.
    pub fn process(&self) -> &DirectorProcess {
        &self.process
    }

    /// The services that always forward, with every RS that a scenario may use: their MACs are known from now on, and a
    /// scenario need not wait for ARP.
    fn make_barriers(&mut self) -> Result<()> {
        let service = BARRIER_SERVICE.to_string();
        self.ipvsadm(&[&format!("-A -u {service} -s wrr")])?;
        for octet in REAL_SERVERS.chain([BARRIER_REAL_SERVER]) {
            self.ipvsadm(&[&format!("-a -u {service} -r {} -w 1", address_of(octet))])?;
        }
        let mut known = REAL_SERVERS.count() + 1;
        for (link, service) in BARRIER_SERVICES.iter().enumerate().take(self.links).skip(1) {
            let real_server = Neighbour { link: link as u8, number: BARRIER_REAL_SERVER }.address();
            self.ipvsadm(&[&format!("-A -u {service} -s rr"), &format!("-a -u {service} -r {real_server}")])?;
            known += 1;
        }
        if self.links > 1 {
            known += self.make_known()?;
        }
        self.process.wait_until_up(known)?;
        for octet in REAL_SERVERS {
            self.ipvsadm(&[&format!("-e -u {service} -r {} -w 0", address_of(octet))])?;
        }
        self.wire.wait_until_forwarding()
    }

    /// Makes every RS of scenarios of whole packets known, of both families, on all links and behind the gateway. Returns
    /// how many.
    fn make_known(&mut self) -> Result<usize> {
        for service in KNOWN_SERVICES {
            self.ipvsadm(&[&format!("-A -u {service} -s rr")])?;
        }
        let mut known = 0;
        for number in PACKET_REAL_SERVERS {
            for link in 0..self.links as u8 {
                let neighbour = Neighbour { link, number };
                let (address, address6) = (neighbour.address(), neighbour.address6());
                self.ipvsadm(&[
                    &format!("-a -u {} -r {address}:9 -i", KNOWN_SERVICES[0]),
                    &format!("-a -u {} -r [{address6}]:9 -i", KNOWN_SERVICES[1]),
                ])?;
                known += 2;
            }
            self.ipvsadm(&[
                &format!("-a -u {} -r 10.9.0.{number}:9 -i", KNOWN_SERVICES[0]),
                &format!("-a -u {} -r [2001:db8:9::{number}]:9 -i", KNOWN_SERVICES[1]),
            ])?;
            known += 2;
        }
        Ok(known)
    }

    fn add_members(&self, mark: u32) -> Result<()> {
        let Some(members) = self.scenario.members.get(&mark) else { return Ok(()) };
        let show = self.process.ctl_json(&["show"])?;
        let group = group_of(&show, mark).with_context(|| format!("no group for mark {mark}: {show}"))?;
        members.iter().try_for_each(|member| self.add_member_to(&group, member))
    }

    /// A VIP:port that is another's stays that one's: what becomes of its frames shows it.
    fn add_member_to(&self, group: &str, member: &Value) -> Result<()> {
        let answer = self.ask("add-member", &json!({ "group": group, "member": member }))?;
        ensure!(answer["error"]["code"] == json!("exists") || answer.get("error").is_none(), "{answer}");
        Ok(())
    }

    fn set_option(&self, name: &str, value: &str) -> Result<()> {
        let number: u32 = value.parse()?;
        let value = match name {
            "conn_reuse_mode" => json!(number),
            // 3 is always; 1 and 2 depend on how much memory is free.
            "secure_tcp" if number == 3 => json!(true),
            "secure_tcp" if number != 0 => bail!("secure_tcp={number} has no counterpart"),
            _ => json!(number != 0),
        };
        self.request("set-options", &json!({ name: value }))
    }

    fn request(&self, verb: &str, arguments: &Value) -> Result<()> {
        let answer = self.ask(verb, arguments)?;
        ensure!(answer.get("error").is_none(), "{verb} {arguments}: {answer}");
        Ok(())
    }

    fn ask(&self, verb: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "version": ctl::protocol::VERSION, "verb": verb, "arguments": arguments });
        let answer = self.process.request(&line.to_string())?;
        if answer["error"]["code"] == json!("timeout") {
            self.process.wait_until_in_force()?;
            return Ok(json!({}));
        }
        Ok(answer)
    }
}

fn start_process(host: &Host, place: usize, links: usize) -> Result<DirectorProcess> {
    let mut config = configuration(host, 1);
    let cpus = allowed_cpus();
    config.director.worker_cpus = cpus.iter().rev().copied().cycle().skip(place).take(1).collect();
    config.director.control_cpus = cpus.iter().copied().cycle().skip(place).take(1).collect();
    let mut file = toml::Table::try_from(&config)?;
    let is_for_packets = links > 1;
    if is_for_packets {
        file.entry("director").or_insert_with(table).as_table_mut().context("no table")?.extend([
            ("ipv6".to_owned(), "on".into()),
            // An error is compared with the kernel's, which has no limit here.
            ("icmp_packets_per_second".to_owned(), 1_000_000.into()),
        ]);
        // The kernel leaves a SYN as it is.
        let connections = toml::Table::from_iter([("tunnel_mss_clamp".to_owned(), false.into())]);
        file.insert("connections".to_owned(), connections.into());
        file.insert("routes".to_owned(), toml::Value::Array(routes()));
    }
    let ports = (0..links).map(|link| port(link as u8, is_for_packets)).collect();
    file.insert("ports".to_owned(), toml::Value::Array(ports));
    let path = host.directory().join("director.toml");
    std::fs::write(&path, toml::to_string(&file)?)?;
    DirectorProcess::start_with_file(host, &path, &control_socket(host))
}

fn table() -> toml::Value {
    toml::Table::new().into()
}

fn port(link: u8, is_for_packets: bool) -> toml::Value {
    let director = Neighbour { link, number: DIRECTOR };
    let mut addresses = vec![toml::Value::from(format!("{}/24", director.address()))];
    // af_packet does not hand on fragments.
    let driver = if is_for_packets { PortDriver::AfXdp } else { PortDriver::AfPacket };
    let device = driver.device(u32::from(link), &format!("eth{link}"), 1);
    let mut port = toml::Table::from_iter([
        ("name".to_owned(), format!("lan{link}").into()),
        ("device".to_owned(), device.into()),
        ("mtu".to_owned(), i64::from(LINK_MTUS[usize::from(link)]).into()),
    ]);
    if is_for_packets {
        addresses.push(format!("{}/64", director.address6()).into());
        port.insert("host_interface".to_owned(), "off".into());
    }
    port.insert("addresses".to_owned(), toml::Value::Array(addresses));
    port.into()
}

fn routes() -> Vec<toml::Value> {
    let route = |(network, gateway): (&str, Neighbour)| {
        let address = if network.contains(':') {
            gateway.address6().to_string()
        } else {
            gateway.address().to_string()
        };
        let route = [("network".to_owned(), network.into()), ("gateway".to_owned(), address.into())];
        toml::Table::from_iter(route).into()
    };
    [("0.0.0.0/0", Neighbour { link: 0, number: ROUTER })].into_iter().chain(ROUTES).map(route).collect()
}

/// Name of the group with this mark, wherever `show` has it.
fn group_of(show: &Value, mark: u32) -> Option<String> {
    match show {
        Value::Object(fields) if fields.get("fwmark") == Some(&json!(mark)) => {
            fields.get("group").and_then(Value::as_str).map(str::to_owned)
        }
        Value::Object(fields) => fields.values().find_map(|value| group_of(value, mark)),
        Value::Array(values) => values.iter().find_map(|value| group_of(value, mark)),
        _ => None,
    }
}

impl Subject for Director {
    fn ipvsadm(&mut self, commands: &[&str]) -> Result<()> {
        for command in commands {
            let words: Vec<&str> = ["ipvsadm"].into_iter().chain(command.split_whitespace()).collect();
            self.process.ctl(&words)?;
            match words[1..] {
                ["-A", "-f", mark, ..] => self.add_members(mark.parse()?)?,
                ["--set", ..] => {
                    self.scenario.options.insert("--set".to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.scenario.options.insert(name.to_owned());
        self.set_option(name, value)
    }

    fn add_member(&mut self, mark: u32, protocol: &str, vip: IpAddr, port: u16) -> Result<()> {
        let member = json!({ "protocol": protocol, "address": vip, "port": port });
        self.scenario.members.entry(mark).or_default().push(member.clone());
        if let Some(group) = group_of(&self.process.ctl_json(&["show"])?, mark) {
            self.add_member_to(&group, &member)?;
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<String>> {
        self.wire.pass_barriers(SWEEP_BARRIERS)?;
        let list = self.process.ctl(&["ipvsadm", "-Ln"])?;
        let persistent = self.process.ctl(&["ipvsadm", "-Ln", "--persistent-conn"])?;
        let connections = self.process.ctl(&["ipvsadm", "-Lcn", "--persistent-conn"])?;
        let is_ours = |service: &str| self.scenario.has(service);
        let mut lines = listing::services(&list, &persistent, is_ours)?;
        lines.extend(listing::connections(&connections, is_ours)?);
        Ok(lines)
    }

    fn statistics(&mut self) -> Result<Vec<String>> {
        self.wire.pass_barriers(SWEEP_BARRIERS)?;
        let list = self.process.ctl(&["ipvsadm", "-Ln", "--stats", "--exact"])?;
        listing::statistics(&list, |service: &str| self.scenario.has(service))
    }

    fn settle(&mut self, _: Duration) {
        // A command is answered when every worker runs what it changed.
    }

    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
