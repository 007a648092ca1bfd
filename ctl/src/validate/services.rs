//! Checks of `services`: each service for itself, against the others, the connected networks and the capacities.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::Problem;
use super::addresses::{Connected, not_unicast, role_in_network};
use crate::config::{DirectorConfig, PortConfig, RealServerConfig, ServiceConfig, ServiceId, VirtualAddress};
use crate::mac::MacAddress;
use crate::protocol::ErrorCode;

pub(super) fn check_all(
    director: &DirectorConfig,
    ports: &[PortConfig],
    services: &[ServiceConfig],
) -> Vec<Problem> {
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems = check_capacities(director, services.len(), count_real_servers(services));
    let mut vips = HashMap::with_capacity(services.len());
    for service in services {
        for member in service.addresses() {
            vips.entry(member.address).or_insert_with(|| service.id());
        }
    }
    let rules =
        Rules { connected: &connected, networks: &networks, vip: |address| vips.get(&address).copied() };

    let mut first_at = HashMap::with_capacity(services.len());
    let mut macs = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let place = format!("services[{index}]");
        let first = *first_at.entry(service.id()).or_insert(index);
        if first != index {
            let message = format!("{} is at services[{first}] already", service.id());
            problems.push(Problem::invalid(&place, message).help("define every protocol, VIP and port once"));
        }
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
        let problem = Problem::new(ErrorCode::Exists, "address", format!("{} exists already", new.id()));
        return vec![problem.help("change it with set-vip, add-rs, set-rs and del-rs")];
    }
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems =
        check_capacities(director, running.len() + 1, count_real_servers(running) + new.real_servers.len());
    let vip = |address| {
        let own = serves(new, address).then(|| new.id());
        own.or_else(|| vip_of(running, address))
    };
    Rules { connected: &connected, networks: &networks, vip }.check_service("", new, &mut problems);
    for (place, vip) in places_of_addresses("", new) {
        let is_rip =
            |service: &&ServiceConfig| service.real_servers.iter().any(|rs| rs.address == vip.address);
        if let Some(service) = running.iter().find(is_rip) {
            let message = format!("{} is a real server of {}", vip.address, service.id());
            let problem = Problem::invalid(format!("{place}address"), message);
            problems.push(problem.help("give the VIP an address of its own"));
        }
    }
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
        return vec![problem.help("add it with add-vip, or see with show what exists")];
    };
    let place = "real_server.address";
    if service.real_servers.iter().any(|rs| rs.address == new.address) {
        let message = format!("{} is a real server of {id} already", new.address);
        let problem = Problem::new(ErrorCode::Exists, place, message);
        return vec![problem.help("change it with set-rs")];
    }
    let connected = Connected::new(ports);
    let networks = connected.describe();
    let mut problems = check_capacities(director, running.len(), count_real_servers(running) + 1);
    let rules = Rules { connected: &connected, networks: &networks, vip: |address| vip_of(running, address) };
    problems.extend(rules.check_real_server_address(place, new.address));
    let others =
        running.iter().flat_map(|service| &service.real_servers).filter(|rs| rs.address == new.address);
    if let (Some(mac), Some(first)) = (new.mac, others.filter_map(|rs| rs.mac).next())
        && mac != first
    {
        problems.push(another_mac("real_server.mac".to_owned(), new, first));
    }
    problems
}

fn vip_of(services: &[ServiceConfig], address: Ipv4Addr) -> Option<ServiceId> {
    services.iter().find(|service| serves(service, address)).map(ServiceConfig::id)
}

fn serves(service: &ServiceConfig, vip: Ipv4Addr) -> bool {
    service.addresses().any(|member| member.address == vip)
}

/// What stands before the keys of every VIP:port of a service, and the VIP:port.
fn places_of_addresses(prefix: &str, service: &ServiceConfig) -> Vec<(String, VirtualAddress)> {
    match service.id {
        ServiceId::Virtual(address) => vec![(prefix.to_owned(), address)],
        ServiceId::Group(_) => {
            let members = service.members.iter().enumerate();
            members.map(|(index, member)| (format!("{prefix}members[{index}]."), *member)).collect()
        }
    }
}

fn count_real_servers(services: &[ServiceConfig]) -> usize {
    services.iter().map(|service| service.real_servers.len()).sum()
}

fn check_capacities(director: &DirectorConfig, services: usize, real_servers: usize) -> Vec<Problem> {
    let counts = [
        (services, director.service_capacity, "virtual services", "service_capacity"),
        (real_servers, director.real_server_capacity, "real servers", "real_server_capacity"),
    ];
    let over = counts.into_iter().filter(|(count, capacity, ..)| *count > *capacity as usize);
    over.map(|(count, capacity, what, key)| {
        let message = format!("{count} {what} are over director.{key} of {capacity}");
        let help = format!("remove some, or raise director.{key} and restart dr-director");
        Problem::new(ErrorCode::Full, "services", message).help(help)
    })
    .collect()
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
        for (place, vip) in places_of_addresses(prefix, service) {
            problems.extend(self.check_vip(format!("{place}address"), vip.address));
        }
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
