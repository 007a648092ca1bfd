//! Checks of `services`: each service for itself, against the others, the connected networks and the capacities.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use super::Problem;
use super::addresses::{Connected, not_unicast, role_in_network};
use super::service;
use crate::config::{
    DirectorConfig, GroupName, PortConfig, RealServerConfig, ServiceConfig, ServiceId, Timeouts,
    VirtualAddress,
};
use crate::mac::MacAddress;
use crate::protocol::{ErrorCode, OneMember};

/// Sets of timeouts that services have of their own: every packet's service or real server names one by a small number.
pub const TIMEOUT_SETS_MAX: usize = 4096;

pub(super) fn check_all(
    director: &DirectorConfig,
    ports: &[PortConfig],
    services: &[ServiceConfig],
) -> Vec<Problem> {
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems = check_capacities(director, services);
    let vips = vips(services);
    let rules =
        Rules { connected: &connected, networks: &networks, vip: |address| vips.get(&address).copied() };

    let mut taken = Taken::default();
    let mut macs = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let place = format!("services[{index}]");
        taken.take(&place, service, &mut problems);
        rules.check_service(&format!("{place}."), service, &mut problems);
        for (number, real_server) in service.real_servers.iter().enumerate() {
            let Some(mac) = real_server.mac else { continue };
            let first = *macs.entry(real_server.address).or_insert(mac);
            if first != mac {
                problems.push(another_mac(format!("{place}.real_servers[{number}].mac"), real_server, first));
            }
        }
    }
    problems
}

/// What belongs to one service alone, and the place where it was seen first.
#[derive(Default)]
struct Taken {
    addresses: HashMap<VirtualAddress, String>,
    groups: HashMap<GroupName, String>,
    fwmarks: HashMap<u32, String>,
}

impl Taken {
    fn take(&mut self, place: &str, service: &ServiceConfig, problems: &mut Vec<Problem>) {
        let mut already = |place: &str, what: String, first: &str, help: &str| {
            if place != first {
                problems.push(Problem::invalid(place, format!("{what} is at {first} already")).help(help));
            }
        };
        if let ServiceId::Group(name) = service.id {
            let place = format!("{place}.group");
            let first = self.groups.entry(name).or_insert_with(|| place.clone());
            already(&place, service.id.to_string(), first, "give every group a name of its own");
        }
        if let Some(fwmark) = service.fwmark {
            let place = format!("{place}.fwmark");
            let first = self.fwmarks.entry(fwmark).or_insert_with(|| place.clone());
            already(&place, fwmark.to_string(), first, "give every group a number of its own, or none");
        }
        for (prefix, address) in service::addresses(&format!("{place}."), service) {
            let place = prefix.trim_end_matches('.');
            let first = self.addresses.entry(address).or_insert_with(|| place.to_owned());
            let help = "define every protocol, VIP and port once, as a service or as a member of one group";
            already(place, address.to_string(), first, help);
        }
    }
}

/// A neighbour has one MAC, whatever services it serves.
fn another_mac(place: String, real_server: &RealServerConfig, first: MacAddress) -> Problem {
    let message = format!("{} has the MAC {first} in another service", real_server.address);
    Problem::invalid(place, message).help("give a real server the same MAC in every service")
}

pub(super) fn check_new_service(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    new: &ServiceConfig,
) -> Vec<Problem> {
    if running.iter().any(|service| service.id() == new.id()) {
        let key = match new.id() {
            ServiceId::Virtual(_) => "address",
            ServiceId::Group(_) => "group",
        };
        let problem = Problem::new(ErrorCode::Exists, key, format!("{} exists already", new.id()));
        return vec![problem.help("change it with set-vip, add-rs, set-rs and del-rs")];
    }
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems = check_capacities(director, running.iter().chain([new]));
    let vips = vips([new].into_iter().chain(running));
    let rules =
        Rules { connected: &connected, networks: &networks, vip: |address| vips.get(&address).copied() };
    rules.check_service("", new, &mut problems);
    let mut first_at = HashMap::new();
    for (prefix, address) in service::addresses("", new) {
        problems.extend(check_address_is_free(&prefix, address, running));
        let place = prefix.trim_end_matches('.').to_owned();
        let first = first_at.entry(address).or_insert_with(|| place.clone());
        if *first != place {
            let problem = Problem::invalid(place, format!("{address} is at {first} already"));
            problems.push(problem.help("list every member once"));
        }
    }
    problems.extend(check_fwmark_is_free(running, new));
    problems
}

/// The VIP:port is of no service that runs, and the VIP is no real server.
fn check_address_is_free(
    prefix: &str,
    new: VirtualAddress,
    running: &[ServiceConfig],
) -> impl Iterator<Item = Problem> {
    let place = format!("{prefix}address");
    let owner = running.iter().find(|service| service.addresses().any(|address| address == new));
    let taken = owner.map(|service| {
        let message = match service.id() {
            ServiceId::Virtual(_) => format!("{new} exists already"),
            group => format!("{new} belongs to {group} already"),
        };
        Problem::new(ErrorCode::Exists, &place, message).help("remove it there first, or choose another port")
    });
    let is_rip = |service: &&ServiceConfig| service.real_servers.iter().any(|rs| rs.address == new.address);
    let rip = running.iter().find(is_rip).map(|service| {
        let message = format!("{} is a real server of {}", new.address, service.id());
        Problem::invalid(&place, message).help("give the VIP an address of its own")
    });
    taken.into_iter().chain(rip)
}

fn check_fwmark_is_free(running: &[ServiceConfig], new: &ServiceConfig) -> Option<Problem> {
    let fwmark = new.fwmark?;
    let is_owner = |service: &&ServiceConfig| service.fwmark == new.fwmark && service.id() != new.id();
    let owner = running.iter().find(is_owner)?;
    let problem = Problem::new(
        ErrorCode::Exists,
        "fwmark",
        format!("{fwmark} is the number of {} already", owner.id()),
    );
    Some(problem.help("give every group a number of its own, or none"))
}

pub(super) fn check_changed_service(
    director: &DirectorConfig,
    running: &[ServiceConfig],
    changed: &ServiceConfig,
) -> Vec<Problem> {
    let mut problems = service::check("", changed);
    if changed.fwmark.is_some() && matches!(changed.id(), ServiceId::Virtual(_)) {
        let problem = Problem::invalid("fwmark", format!("{} is no group", changed.id()));
        problems.push(problem.help("`ipvsadm -f` knows service groups by it"));
    }
    problems.extend(check_fwmark_is_free(running, changed));
    let others = running.iter().filter(|service| service.id() != changed.id());
    problems.extend(check_capacities(director, others.chain([changed])));
    problems
}

pub(super) fn check_new_member(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    new: &OneMember,
) -> Vec<Problem> {
    let id = ServiceId::Group(new.group);
    let Some(group) = running.iter().find(|service| service.id() == id) else {
        let problem = Problem::new(ErrorCode::NotFound, "group", format!("{id} does not exist"));
        return vec![problem.help("add it with add-group, or see with show what exists")];
    };
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems: Vec<Problem> = check_address_is_free("member.", new.member, running).collect();
    let rules = Rules { connected: &connected, networks: &networks, vip: |address| vip_of(running, address) };
    problems.extend(rules.check_vip("member.address".to_owned(), new.member.address));
    let mut changed = group.clone();
    changed.members.push(new.member);
    let others = running.iter().filter(|service| service.id() != id);
    problems.extend(check_capacities(director, others.chain([&changed])));
    problems
}

pub(super) fn check_new_real_server(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    id: ServiceId,
    new: &RealServerConfig,
) -> Vec<Problem> {
    let Some(service) = running.iter().find(|service| service.id() == id) else {
        let problem = Problem::new(ErrorCode::NotFound, "service", format!("{id} does not exist"));
        let add = match id {
            ServiceId::Virtual(_) => "add-vip",
            ServiceId::Group(_) => "add-group",
        };
        return vec![problem.help(format!("add it with {add}, or see with show what exists"))];
    };
    let place = "real_server.address";
    if service.real_servers.iter().any(|rs| rs.address == new.address) {
        let message = format!("{} is a real server of {id} already", new.address);
        let problem = Problem::new(ErrorCode::Exists, place, message);
        return vec![problem.help("change it with set-rs")];
    }
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems = check_real_server_capacity(director, count_real_servers(running) + 1);
    let rules = Rules { connected: &connected, networks: &networks, vip: |address| vip_of(running, address) };
    problems.extend(rules.check_real_server_address(place, new.address));
    problems.extend(service::check_real_server("real_server.", new));
    let others =
        running.iter().flat_map(|service| &service.real_servers).filter(|rs| rs.address == new.address);
    if let (Some(mac), Some(first)) = (new.mac, others.filter_map(|rs| rs.mac).next())
        && mac != first
    {
        problems.push(another_mac("real_server.mac".to_owned(), new, first));
    }
    problems
}

/// The first service that has each VIP: for more than a few questions.
fn vips<'a>(services: impl IntoIterator<Item = &'a ServiceConfig>) -> HashMap<Ipv4Addr, ServiceId> {
    let mut vips = HashMap::new();
    for service in services {
        for vip in service.addresses() {
            vips.entry(vip.address).or_insert_with(|| service.id());
        }
    }
    vips
}

/// The first service that has this VIP.
fn vip_of(services: &[ServiceConfig], address: Ipv4Addr) -> Option<ServiceId> {
    let serves = |service: &&ServiceConfig| service.addresses().any(|vip| vip.address == address);
    services.iter().find(serves).map(ServiceConfig::id)
}

fn count_real_servers<'a>(services: impl IntoIterator<Item = &'a ServiceConfig>) -> usize {
    services.into_iter().map(|service| service.real_servers.len()).sum()
}

fn check_capacities<'a>(
    director: &DirectorConfig,
    services: impl IntoIterator<Item = &'a ServiceConfig>,
) -> Vec<Problem> {
    let (mut addresses, mut real_servers) = (0, 0);
    let mut timeouts: HashSet<&Timeouts> = HashSet::new();
    for service in services {
        // What is looked up for a packet is a VIP:port; a group without one takes its place all the same.
        addresses += service.addresses().count().max(1);
        real_servers += service.real_servers.len();
        if !service.timeouts.is_empty() {
            timeouts.insert(&service.timeouts);
        }
    }
    let mut problems =
        over_capacity(addresses, director.service_capacity, "virtual services", "service_capacity");
    problems.extend(check_real_server_capacity(director, real_servers));
    if timeouts.len() > TIMEOUT_SETS_MAX {
        let message = format!("{} different sets of timeouts are over {TIMEOUT_SETS_MAX}", timeouts.len());
        let problem = Problem::new(ErrorCode::Full, "services", message);
        problems.push(problem.help("give more services the same timeouts"));
    }
    problems
}

fn check_real_server_capacity(director: &DirectorConfig, count: usize) -> Vec<Problem> {
    over_capacity(count, director.real_server_capacity, "real servers", "real_server_capacity")
}

fn over_capacity(count: usize, capacity: u32, what: &str, key: &str) -> Vec<Problem> {
    if count <= capacity as usize {
        return Vec::new();
    }
    let message = format!("{count} {what} are over director.{key} of {capacity}");
    let help = format!("remove some, or raise director.{key} and restart dr-director");
    vec![Problem::new(ErrorCode::Full, "services", message).help(help)]
}

/// What a service is checked against.
struct Rules<'a, V> {
    connected: &'a Connected<'a>,
    /// `connected` for people.
    networks: &'a str,
    /// The service that has an address as its VIP.
    vip: V,
}

impl<V: Fn(Ipv4Addr) -> Option<ServiceId>> Rules<'_, V> {
    fn check_service(&self, prefix: &str, service: &ServiceConfig, problems: &mut Vec<Problem>) {
        for (place, vip) in service::addresses(prefix, service) {
            problems.extend(self.check_vip(format!("{place}address"), vip.address));
        }
        problems.extend(service::check(prefix, service));
        let mut first_at = HashMap::with_capacity(service.real_servers.len());
        for (index, real_server) in service.real_servers.iter().enumerate() {
            let place = format!("{prefix}real_servers[{index}].address");
            let first = *first_at.entry(real_server.address).or_insert(index);
            if first == index {
                problems.extend(self.check_real_server_address(&place, real_server.address));
            } else {
                let message = format!("{} is at {prefix}real_servers[{first}] already", real_server.address);
                problems.push(Problem::invalid(place, message).help("list every real server once a service"));
            }
            problems
                .extend(service::check_real_server(&format!("{prefix}real_servers[{index}]."), real_server));
        }
    }

    fn check_vip(&self, place: String, address: Ipv4Addr) -> Option<Problem> {
        let help = "a VIP is a unicast host address that belongs to no host but the real servers' lo";
        if let Some(kind) = not_unicast(address) {
            return Some(Problem::invalid(place, format!("{address} is {kind}, which is no VIP")).help(help));
        }
        if let Some(port) = self.connected.port_of_dip(address) {
            let message = format!("{address} is the director's own address (DIP) on port {port}");
            return Some(Problem::invalid(place, message).help(help));
        }
        let (network, port) = self.connected.network_of(address)?;
        let role = role_in_network(address, network)?;
        let message = format!("{address} is {role} of {network} on port {port}");
        Some(Problem::invalid(place, message).help(help))
    }

    fn check_real_server_address(&self, place: &str, address: Ipv4Addr) -> Option<Problem> {
        let help = "give the RS's own address (RIP), in a network of one of the director's ports";
        let problem = |message: String| Some(Problem::invalid(place, message).help(help));
        if let Some(kind) = not_unicast(address) {
            return problem(format!("{address} is {kind}, which is no real server"));
        }
        if let Some(id) = (self.vip)(address) {
            return problem(format!("{address} is the VIP of {id}"));
        }
        if self.connected.is_unknown() {
            return None;
        }
        if let Some(port) = self.connected.port_of_dip(address) {
            return problem(format!("{address} is the director's own address (DIP) on port {port}"));
        }
        let Some((network, port)) = self.connected.network_of(address) else {
            return problem(format!("{address} is in no directly connected network ({})", self.networks));
        };
        let role = role_in_network(address, network)?;
        problem(format!("{address} is {role} of {network} on port {port}"))
    }
}

#[cfg(test)]
mod tests;
