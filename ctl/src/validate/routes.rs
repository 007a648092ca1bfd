//! Checks of `routes`: every network once, and a gateway that a directly connected network leads to, or that is on an
//! interface with addresses.

use std::collections::HashMap;

use super::Problem;
use super::addresses::{Connected, described, is_link_local, not_unicast, role_in_network};
use super::ports::{IPV6_MTU_MIN, MTU};
use crate::config::{Family, InterfaceConfig, PortConfig, RouteConfig};

/// Routes at most.
pub const ROUTES_MAX: usize = 65_536;

pub(super) fn check(ports: &[PortConfig], routes: &[RouteConfig]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if routes.len() > ROUTES_MAX {
        let message = format!("{} routes are over {ROUTES_MAX}", routes.len());
        problems.push(Problem::invalid("routes", message).help("configure fewer routes"));
    }
    let connected = Connected::new(ports, &[]);
    let networks = connected.describe();
    let interfaces = Interfaces::of(ports);
    let mut first_at = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let first = *first_at.entry(route.network.trunc()).or_insert(index);
        if let Some(problem) = check_network(index, first, route, &connected) {
            problems.push(problem);
        }
        if let Some(problem) = check_gateway(index, route, &connected, &networks, &interfaces) {
            problems.push(problem);
        }
    }
    problems
}

/// The ports' untagged sides and their VLANs by name.
struct Interfaces<'a> {
    by_name: HashMap<String, InterfaceConfig<'a>>,
    /// What to do about a name that none of them has.
    help: String,
}

impl<'a> Interfaces<'a> {
    fn of(ports: &'a [PortConfig]) -> Interfaces<'a> {
        let all = || ports.iter().flat_map(PortConfig::interfaces);
        let known = all().filter(|interface| !interface.addresses.is_empty()).take(16);
        let known: Vec<_> = known.map(|interface| interface.name()).collect();
        let mut by_name = HashMap::new();
        for interface in all() {
            by_name.entry(interface.name()).or_insert(interface);
        }
        Interfaces { by_name, help: format!("known are {}", known.join(", ")) }
    }

    /// The interface of this name, or why there is none: without addresses the director has no part in it.
    fn find(&self, name: &str) -> Result<&InterfaceConfig<'a>, String> {
        match self.by_name.get(name) {
            Some(interface) if interface.addresses.is_empty() => {
                Err(format!("`{name}` has no addresses of its own, and so is no interface of the director"))
            }
            Some(interface) => Ok(interface),
            None => Err(format!("`{}` is no port and no VLAN of one", name.escape_default())),
        }
    }
}

fn check_network(index: usize, first: usize, route: &RouteConfig, connected: &Connected) -> Option<Problem> {
    let place = format!("routes[{index}].network");
    let network = route.network;
    if network != network.trunc() {
        let message = format!("{} is an address in {}, not a network", network.addr(), network.trunc());
        return Some(Problem::invalid(place, message).help(format!("write {}", network.trunc())));
    }
    if first != index {
        let problem = Problem::invalid(place, format!("{network} is at routes[{first}] already"));
        return Some(problem.help("give every network one gateway"));
    }
    let (_, interface) = connected.network_of(network.addr()).filter(|(directly, _)| *directly == network)?;
    let problem = Problem::invalid(place, format!("{network} is directly connected, on {interface}"));
    Some(problem.help("leave the route out, or give a smaller or larger network"))
}

fn check_gateway(
    index: usize,
    route: &RouteConfig,
    connected: &Connected,
    networks: &str,
    interfaces: &Interfaces<'_>,
) -> Option<Problem> {
    let RouteConfig { network, gateway, interface } = route;
    let place = format!("routes[{index}].gateway");
    let problem = |message: String, help: &str| Some(Problem::invalid(&place, message).help(help));
    let help = "give the address of a router in a network of one of the director's ports or VLANs";
    let (wanted, found) = (Family::of(network.addr()), Family::of(*gateway));
    if wanted != found {
        return problem(format!("{gateway} is {found}, and the network {network} is {wanted}"), help);
    }
    if let Some(kind) = not_unicast(*gateway) {
        return problem(format!("{gateway} is {kind}, which is no router"), help);
    }
    if connected.is_unknown() {
        return None;
    }
    let named = match interface.as_deref().map(|name| interfaces.find(name)).transpose() {
        Ok(named) => named,
        Err(message) => {
            let place = format!("routes[{index}].interface");
            return Some(Problem::invalid(place, message).help(&*interfaces.help));
        }
    };
    if is_link_local(*gateway) {
        let Some(interface) = named else {
            let message = format!("{gateway} is link-local, and may be on any interface");
            return problem(message, "say on which it is with `interface`");
        };
        if interface.addresses.iter().any(|dip| dip.addr() == *gateway) {
            let on = described(interface);
            return problem(format!("{gateway} is the director's own address (DIP) on {on}"), help);
        }
        // One with IPv6 addresses is told so of its `mtu`.
        let has_ipv4_alone = interface.addresses.iter().all(|dip| dip.addr().is_ipv4());
        let mtu = interface.mtu.filter(|mtu| has_ipv4_alone && *mtu < IPV6_MTU_MIN && MTU.contains(mtu))?;
        let message = format!(
            "{gateway} is on {}, whose mtu of {mtu} is under {IPV6_MTU_MIN}, the least for IPv6 (RFC 8200)",
            described(interface)
        );
        return problem(message, &format!("give that interface an mtu of {IPV6_MTU_MIN} or more"));
    }
    if let Some(interface) = connected.interface_of_dip(*gateway) {
        return problem(format!("{gateway} is the director's own address (DIP) on {interface}"), help);
    }
    let Some((directly, on)) = connected.network_of(*gateway) else {
        return problem(format!("{gateway} is in no directly connected network ({networks})"), help);
    };
    if let Some(role) = role_in_network(*gateway, directly) {
        return problem(format!("{gateway} is {role} of {directly} on {on}"), help);
    }
    let name = on.split(' ').next_back().unwrap_or_default();
    if interface.as_deref().is_some_and(|wanted| wanted != name) {
        let place = format!("routes[{index}].interface");
        let message = format!("the gateway {gateway} is in {directly} on {on}");
        return Some(Problem::invalid(place, message).help(format!("write \"{name}\", or leave it out")));
    }
    None
}
