//! dr-director in a namespace: one process for many scenarios, each on VIPs of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::collection::vip_network;
use super::listing;
use super::neighbours::{BARRIER_REAL_SERVER, DIRECTOR_MAC, REAL_SERVERS, Responder, address_of, mac_text};
use super::run::Subject;
use super::scenario::Step;
use super::wire::{BARRIER_SERVICE, Wire};
use crate::director::{DirectorProcess, allowed_cpus, configuration, port};
use crate::host::Host;
use crate::network::Network;
use crate::topology::PortDriver;

/// Scenarios after which the process is started afresh: the connections of all of them are in every listing.
const SCENARIOS_PER_PROCESS: usize = 60;

/// Barriers after which a worker that was off its CPU has ended all connections whose time is over: it looks at 32 a round,
/// a barrier takes a round, and the scenarios that wait open less than a thousand.
const SWEEP_BARRIERS: usize = 32;

/// `ipvsadm --set` as a director starts with.
const TIMEOUTS: &str = "--set 900 120 300";

/// The daemon as a director.
pub struct Director {
    process: DirectorProcess,
    wire: Wire,
    _neighbours: Responder,
    host: Host,
    place: usize,
    scenario: Scenario,
    /// VIPs' networks and marks that this process has seen.
    seen: BTreeSet<String>,
    scenarios: usize,
}

/// What belongs to one scenario.
#[derive(Clone, Debug, Default)]
pub struct Scenario {
    network: String,
    /// Members of groups by mark: the kernel's rules are there before and after the service, a group's members are not.
    members: BTreeMap<u32, Vec<Value>>,
    marks: BTreeSet<u32>,
    options: BTreeSet<String>,
}

impl Scenario {
    /// The scenario of this name.
    pub fn new(name: &str, steps: &[Step]) -> Scenario {
        let mark = |step: &Step| if let Step::Member { mark, .. } = step { Some(*mark) } else { None };
        Scenario {
            network: vip_network(name),
            marks: steps.iter().filter_map(mark).collect(),
            ..Scenario::default()
        }
    }

    /// Whether a VIP:port or a mark is one of its own.
    fn has(&self, service: &str) -> bool {
        service.starts_with(&self.network)
            || self.marks.iter().any(|mark| {
                // A mark is listed as itself, and as an address in its templates.
                service == mark.to_string() || service == format!("{}:0", Ipv4Addr::from(*mark))
            })
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.marks.iter().map(u32::to_string).chain([self.network.clone()])
    }
}

impl Director {
    /// Starts the daemon on a cable of its own in `network`, which must outlive it; `place` tells apart those that run at the
    /// same time, so that their workers have CPUs of their own where there are two.
    pub fn start(network: &Network, place: usize) -> Result<Director> {
        let far_end = network.add_host(&format!("far-end-{place}"))?;
        let host = network.add_host(&format!("director-{place}"))?;
        network.add_cable((&host, "eth0"), (&far_end, "to-director"))?;
        host.ip(&format!("link set eth0 address {}", mac_text(DIRECTOR_MAC)))?;
        // The port's address is not the kernel's.
        host.ip("link set eth0 arp off")?;
        let neighbours = Responder::start(&far_end, "to-director")?;
        let wire = Wire::open(&far_end, &["to-director"])?;
        let process = start_process(&host, place)?;
        let (scenario, seen) = (Scenario::default(), BTreeSet::new());
        let mut director =
            Director { process, wire, _neighbours: neighbours, host, place, scenario, seen, scenarios: 0 };
        director.make_barrier()?;
        Ok(director)
    }

    /// Whether the process has had enough, or knows something of this scenario already.
    pub fn is_used_up(&self, scenario: &Scenario) -> bool {
        self.scenarios >= SCENARIOS_PER_PROCESS || scenario.names().any(|name| self.seen.contains(&name))
    }

    /// Starts the process afresh: no scenario may be running.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill_in_place()?;
        self.process = start_process(&self.host, self.place)?;
        self.seen.clear();
        self.scenarios = 0;
        self.make_barrier()
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
                self.process.ctl(&["ipvsadm", "-D", words[1], words[2]])?;
            }
        }
        for option in std::mem::take(&mut self.scenario.options) {
            match option.as_str() {
                "--set" => self.ipvsadm(&[TIMEOUTS])?,
                name => self.set_option(name, if name == "conn_reuse_mode" { "1" } else { "0" })?,
            }
        }
        Ok(())
    }

    /// The daemon.
    pub fn process(&self) -> &DirectorProcess {
        &self.process
    }

    /// The service that always forwards, with every RS that a scenario may use: their MACs are known from now on, and a
    /// scenario need not wait for ARP.
    fn make_barrier(&mut self) -> Result<()> {
        let service = BARRIER_SERVICE.to_string();
        self.ipvsadm(&[&format!("-A -u {service} -s wrr")])?;
        for octet in REAL_SERVERS.chain([BARRIER_REAL_SERVER]) {
            self.ipvsadm(&[&format!("-a -u {service} -r {} -w 1", address_of(octet))])?;
        }
        self.process.wait_until_up(REAL_SERVERS.count() + 1)?;
        for octet in REAL_SERVERS {
            self.ipvsadm(&[&format!("-e -u {service} -r {} -w 0", address_of(octet))])?;
        }
        self.wire.wait_until_forwarding()
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

fn start_process(host: &Host, place: usize) -> Result<DirectorProcess> {
    let mut config = configuration(host, 1);
    let cpus = allowed_cpus();
    config.director.worker_cpus = cpus.iter().rev().copied().cycle().skip(place).take(1).collect();
    config.director.control_cpus = cpus.iter().copied().cycle().skip(place).take(1).collect();
    let device = PortDriver::AfPacket.device(0, "eth0", 1);
    config.ports.push(port("lan", &device, address_of(DIRECTOR_MAC[5]), 24)?);
    DirectorProcess::start(host, &config)
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
