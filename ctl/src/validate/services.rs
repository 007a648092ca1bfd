//! Checks of `services`: each service for itself, against the others, the connected networks and the capacities.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::addresses::{Connected, Way, not_routable, role_in_network};
use super::{Problem, Surroundings, forwarding, service};
use crate::config::{
    DirectorConfig, Family, Forwarding, GroupName, Ipv6, RealServerConfig, ServiceConfig, ServiceId,
    Timeouts, VirtualAddress,
};
use crate::mac::MacAddress;
use crate::protocol::{ErrorCode, OneMember};

/// Sets of timeouts that services have of their own: every packet's service or real server names one by a small number.
pub const TIMEOUT_SETS_MAX: usize = 4096;

pub(super) fn check_all(surroundings: &Surroundings<'_>, services: &[ServiceConfig]) -> Vec<Problem> {
    let mut problems = check_capacities(surroundings.director, services);
    let vips = vips(services);
    let rules = Rules::new(surroundings, |address| vips.get(&address).copied());

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
    fwmarks: HashMap<(u32, Family), String>,
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
            let first = self.fwmarks.entry((fwmark, service.family())).or_insert_with(|| place.clone());
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
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: &ServiceConfig,
) -> Vec<Problem> {
    let mut problems = check_capacities(surroundings.director, running.iter().chain([new]));
    let vips = vips([new].into_iter().chain(running));
    let rules = Rules::new(surroundings, |address| vips.get(&address).copied());
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
    let is_owner = |service: &&ServiceConfig| {
        service.fwmark == new.fwmark && service.family() == new.family() && service.id() != new.id()
    };
    let owner = running.iter().find(is_owner)?;
    let problem = Problem::new(
        ErrorCode::Exists,
        "fwmark",
        format!("{fwmark} is the number of {} already", owner.id()),
    );
    Some(problem.help("give every group a number of its own, or none"))
}

pub(super) fn check_changed_service(
    surroundings: &Surroundings<'_>,
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
    for (number, real_server) in changed.real_servers.iter().enumerate() {
        problems.extend(forwarding::check(
            &format!("real_servers[{number}]."),
            surroundings,
            changed,
            real_server,
        ));
    }
    problems.extend(check_capacities(surroundings.director, others.chain([changed])));
    problems
}

pub(super) fn check_new_member(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: &OneMember,
) -> Vec<Problem> {
    let id = ServiceId::Group(new.group);
    let Some(group) = running.iter().find(|service| service.id() == id) else { return Vec::new() };
    let mut problems: Vec<Problem> = check_address_is_free("member.", new.member, running).collect();
    let rules = Rules::new(surroundings, |address| vip_of(running, address));
    problems.extend(rules.check_vip("member.address".to_owned(), new.member.address));
    problems.extend(check_member_family("member.address".to_owned(), group, new.member));
    let mut changed = group.clone();
    changed.members.push(new.member);
    problems.extend(rules.check_handed_on(&changed));
    let others = running.iter().filter(|service| service.id() != id);
    problems.extend(check_capacities(surroundings.director, others.chain([&changed])));
    problems
}

pub(super) fn check_new_real_server(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    id: ServiceId,
    new: &RealServerConfig,
) -> Vec<Problem> {
    let Some(service) = running.iter().find(|service| service.id() == id) else { return Vec::new() };
    let mut problems = check_real_server_capacity(surroundings.director, count_real_servers(running) + 1);
    let rules = Rules::new(surroundings, |address| vip_of(running, address));
    problems.extend(rules.check_real_server("real_server.", service, new));
    let others =
        running.iter().flat_map(|service| &service.real_servers).filter(|rs| rs.address == new.address);
    if let (Some(mac), Some(first)) = (new.mac, others.filter_map(|rs| rs.mac).next())
        && mac != first
    {
        problems.push(another_mac("real_server.mac".to_owned(), new, first));
    }
    problems
}

pub(super) fn check_changed_real_server(
    surroundings: &Surroundings<'_>,
    service: &ServiceConfig,
    changed: &RealServerConfig,
) -> Vec<Problem> {
    let rules = Rules::new(surroundings, |_| None);
    let mut problems = Vec::from_iter(rules.check_mac("", changed));
    problems.extend(rules.check_tunnel_source("", changed));
    problems.extend(service::check_real_server("", changed));
    let mut of_forwarding = forwarding::check("", surroundings, service, changed);
    // The port is part of the real server's name.
    for problem in of_forwarding.iter_mut().filter(|problem| problem.place == "port") {
        let help =
            "remove it and add it anew without a port (del-rs, add-rs), or give forwarding nat or fullnat";
        problem.help = Some(help.to_owned());
    }
    problems.extend(of_forwarding);
    problems
}

/// A group's members are of its family.
fn check_member_family(place: String, group: &ServiceConfig, member: VirtualAddress) -> Option<Problem> {
    let (own, wanted) = (Family::of(member.address), group.family());
    (own != wanted).then(|| {
        let message = format!("{} is {own}, and {} is {wanted}", member.address, group.id());
        let help = "make one group for each family: an empty group is IPv4 unless made with family = \"ipv6\" (--family ipv6)";
        Problem::invalid(place, message).help(help)
    })
}

/// The first service that has each VIP: for more than a few questions.
fn vips<'a>(services: impl IntoIterator<Item = &'a ServiceConfig>) -> HashMap<IpAddr, ServiceId> {
    let mut vips = HashMap::new();
    for service in services {
        for vip in service.addresses() {
            vips.entry(vip.address).or_insert_with(|| service.id());
        }
    }
    vips
}

/// The first service that has this VIP.
fn vip_of(services: &[ServiceConfig], address: IpAddr) -> Option<ServiceId> {
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
    surroundings: &'a Surroundings<'a>,
    connected: Connected,
    /// `connected` for people.
    networks: String,
    local_addresses: HashSet<IpAddr>,
    /// The service that has an address as its VIP.
    vip: V,
}

impl<'a, V: Fn(IpAddr) -> Option<ServiceId>> Rules<'a, V> {
    fn new(surroundings: &'a Surroundings<'a>, vip: V) -> Rules<'a, V> {
        let connected = Connected::new(surroundings.ports, surroundings.routes);
        let networks = connected.describe();
        let local_addresses =
            surroundings.nat.iter().flat_map(|nat| nat.local_addresses.iter().copied()).collect();
        Rules { surroundings, connected, networks, local_addresses, vip }
    }

    fn check_service(&self, prefix: &str, service: &ServiceConfig, problems: &mut Vec<Problem>) {
        for (place, vip) in service::addresses(prefix, service) {
            let place = format!("{place}address");
            problems.extend(self.check_vip(place.clone(), vip.address));
            problems.extend(check_member_family(place, service, vip));
        }
        problems.extend(service::check(prefix, service));
        let mut first_at = HashMap::with_capacity(service.real_servers.len());
        for (index, real_server) in service.real_servers.iter().enumerate() {
            let place = format!("{prefix}real_servers[{index}].");
            let id = real_server.id().within(service.id());
            let first = *first_at.entry(id).or_insert(index);
            if first == index {
                problems.extend(self.check_real_server(&place, service, real_server));
            } else {
                let message = format!("{id} is at {prefix}real_servers[{first}] already");
                let problem = Problem::invalid(format!("{place}address"), message);
                problems.push(problem.help("list every real server once a service"));
            }
        }
    }

    fn check_vip(&self, place: String, address: IpAddr) -> Option<Problem> {
        let help = "a VIP is a unicast host address that belongs to no host but the real servers' lo";
        let problem = |message: String| Some(Problem::invalid(&place, message).help(help));
        if let Some(kind) = not_routable(address) {
            return problem(format!("{address} is {kind}, which is no VIP"));
        }
        if address.is_ipv6() && self.surroundings.director.ipv6 == Ipv6::Off {
            let message = format!("{address} is IPv6, for which the connection tables have no room");
            let help = "give director.ipv6 = \"on\" in the configuration file, and restart dr-director";
            return Some(Problem::invalid(place, message).help(help));
        }
        if self.local_addresses.contains(&address) {
            return problem(format!("{address} is a local address of full NAT"));
        }
        if let Some(owner) = self.connected.owner(address) {
            return problem(format!("{address} is {owner}"));
        }
        let (network, interface) = self.connected.network_of(address)?;
        let role = role_in_network(address, network)?;
        problem(format!("{address} is {role} of {network} on {interface}"))
    }

    /// All of a real server but that it is there once.
    fn check_real_server(
        &self,
        prefix: &str,
        service: &ServiceConfig,
        real_server: &RealServerConfig,
    ) -> Vec<Problem> {
        let address = self.check_real_server_address(&format!("{prefix}address"), real_server.address);
        let mut problems = Vec::from_iter(address);
        problems.extend(self.check_mac(prefix, real_server));
        problems.extend(self.check_tunnel_source(prefix, real_server));
        problems.extend(service::check_real_server(prefix, real_server));
        problems.extend(forwarding::check(prefix, self.surroundings, service, real_server));
        problems
    }

    fn check_real_server_address(&self, place: &str, address: IpAddr) -> Option<Problem> {
        let help =
            "give the RS's own address (RIP), in a network of one of the director's ports or behind a route";
        let problem = |message: String| Some(Problem::invalid(place, message).help(help));
        if let Some(kind) = not_routable(address) {
            return problem(format!("{address} is {kind}, which is no real server"));
        }
        if let Some(id) = (self.vip)(address) {
            return problem(format!("{address} is the VIP of {id}"));
        }
        if self.local_addresses.contains(&address) {
            return problem(format!("{address} is a local address of full NAT"));
        }
        if self.connected.is_unknown() {
            return None;
        }
        if let Some(interface) = self.connected.interface_of_dip(address) {
            return problem(format!("{address} is the director's own address (DIP) on {interface}"));
        }
        match self.connected.way_to(address) {
            Some(Way::Connected(network, interface)) => {
                let role = role_in_network(address, network)?;
                problem(format!("{address} is {role} of {network} on {interface}"))
            }
            Some(Way::Gateway(_)) => None,
            None => {
                let is_alone = self.surroundings.routes.is_empty();
                let and = if is_alone { "" } else { ", and no route leads there" };
                problem(format!("{address} is in no directly connected network ({}){and}", self.networks))
            }
        }
    }

    /// Frames to what is behind a gateway go to the gateway's MAC address.
    fn check_mac(&self, prefix: &str, real_server: &RealServerConfig) -> Option<Problem> {
        let address = real_server.address;
        let gateway = self.connected.gateway_to(address).filter(|_| real_server.mac.is_some())?;
        let message = format!("{address} is behind the gateway {gateway}, whose MAC address is asked for");
        Some(Problem::invalid(format!("{prefix}mac"), message).help("leave it out"))
    }

    /// Outer packets that leave through a link-local gateway need an address of the director's to come from.
    fn check_tunnel_source(&self, prefix: &str, real_server: &RealServerConfig) -> Option<Problem> {
        let RealServerConfig { address, forwarding, .. } = *real_server;
        let connected = &self.connected;
        if forwarding != Forwarding::Tunnel || connected.is_unknown() || connected.has_global_ipv6() {
            return None;
        }
        let gateway = connected.gateway_to(address).filter(IpAddr::is_ipv6)?;
        let message = format!(
            "{address} is behind the gateway {gateway}, and the director has no IPv6 address but link-local ones, from \
             which no router takes a tunnel's packets"
        );
        let help = "give a port or VLAN an IPv6 address in the configuration file, and restart dr-director";
        Some(Problem::invalid(format!("{prefix}address"), message).help(help))
    }

    /// A group that gets another member: what its real servers are told of clients is told by TCP.
    fn check_handed_on(&self, group: &ServiceConfig) -> Vec<Problem> {
        let check = |real_server| forwarding::check_client_address("member.", group, real_server);
        Vec::from_iter(group.real_servers.iter().find_map(check))
    }
}

#[cfg(test)]
mod tests;
