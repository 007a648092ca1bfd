//! Checks of `nat`: the local addresses of full NAT are the director's, and nobody else's.

use std::collections::HashMap;
use std::net::IpAddr;

use super::addresses::{Connected, not_routable, role_in_network};
use super::{Problem, Surroundings};
use crate::config::{Family, Forwarding, NatConfig, ServiceConfig};
use crate::protocol::ErrorCode;

/// Local addresses at most: each has some 60,000 ports for each real server.
pub const LOCAL_ADDRESSES_MAX: usize = 1024;

pub(super) fn check(
    prefix: &str,
    surroundings: &Surroundings<'_>,
    services: &[ServiceConfig],
    nat: &NatConfig,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(check_count(&format!("{prefix}local_addresses"), nat.local_addresses.len()));
    let connected = Connected::new(surroundings.ports, surroundings.routes);
    let networks = connected.describe();
    let owners = Owners::of(services);
    let mut first_at = HashMap::new();
    for (index, address) in nat.local_addresses.iter().enumerate() {
        let place = format!("{prefix}local_addresses[{index}]");
        let first = *first_at.entry(*address).or_insert(index);
        if first == index {
            problems.extend(check_address(&place, *address, &connected, &networks, &owners));
        } else {
            let message = format!("{address} is at {prefix}local_addresses[{first}] already");
            problems.push(Problem::invalid(place, message).help("give every address once"));
        }
    }
    problems
}

pub(super) fn check_new(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: IpAddr,
) -> Vec<Problem> {
    let known = surroundings.nat.map(|nat| nat.local_addresses.as_slice()).unwrap_or_default();
    let connected = Connected::new(surroundings.ports, surroundings.routes);
    let networks = connected.describe();
    let mut problems = Vec::from_iter(check_count("address", known.len() + 1));
    problems.extend(check_address("address", new, &connected, &networks, &Owners::of(running)));
    problems
}

pub(super) fn check_removed(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    removed: IpAddr,
) -> Vec<Problem> {
    let known = surroundings.nat.map(|nat| nat.local_addresses.as_slice()).unwrap_or_default();
    let family = Family::of(removed);
    let is_last = !known.iter().any(|other| *other != removed && Family::of(*other) == family);
    let needs = |service: &&ServiceConfig| {
        service
            .real_servers
            .iter()
            .any(|rs| rs.forwarding == Forwarding::FullNat && Family::of(rs.address) == family)
    };
    let user = running.iter().find(needs).filter(|_| is_last);
    let problem = user.map(|service| {
        let message = format!(
            "{removed} is the last {family} local address, and real servers of {} are behind full NAT",
            service.id()
        );
        Problem::invalid("address", message)
            .help("add another one first with add-lip, or change these real servers")
    });
    Vec::from_iter(problem)
}

fn check_count(place: &str, count: usize) -> Option<Problem> {
    (count > LOCAL_ADDRESSES_MAX).then(|| {
        let message = format!("{count} local addresses are over {LOCAL_ADDRESSES_MAX}");
        Problem::new(ErrorCode::Full, place, message).help("give fewer")
    })
}

/// Whose an address is already.
struct Owners(HashMap<IpAddr, String>);

impl Owners {
    fn of(services: &[ServiceConfig]) -> Owners {
        let mut owners = HashMap::new();
        for service in services {
            for vip in service.addresses() {
                owners.entry(vip.address).or_insert_with(|| format!("the VIP of {}", service.id()));
            }
            for real_server in &service.real_servers {
                owners
                    .entry(real_server.address)
                    .or_insert_with(|| format!("a real server of {}", service.id()));
            }
        }
        Owners(owners)
    }
}

fn check_address(
    place: &str,
    address: IpAddr,
    connected: &Connected,
    networks: &str,
    owners: &Owners,
) -> Option<Problem> {
    let help = "give a free address in a network of one of the director's ports or VLANs";
    let problem = |message: String| Some(Problem::invalid(place, message).help(help));
    if let Some(kind) = not_routable(address) {
        return problem(format!("{address} is {kind}, which is no local address"));
    }
    if let Some(owner) = owners.0.get(&address) {
        return problem(format!("{address} is {owner}"));
    }
    if connected.is_unknown() {
        return None;
    }
    if let Some(owner) = connected.owner(address) {
        return problem(format!("{address} is {owner}"));
    }
    let Some((network, interface)) = connected.network_of(address) else {
        return problem(format!("{address} is in no directly connected network ({networks})"));
    };
    let role = role_in_network(address, network)?;
    problem(format!("{address} is {role} of {network} on {interface}"))
}
