//! Checks of `routes`: every network once, and a gateway that a directly connected network leads to.

use std::collections::HashMap;

use super::Problem;
use super::addresses::{Connected, is_link_local, not_unicast, role_in_network};
use crate::config::{Family, PortConfig, RouteConfig};

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
    let names: Vec<String> =
        ports.iter().flat_map(PortConfig::interfaces).map(|interface| interface.name()).collect();
    let mut first_at = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let first = *first_at.entry(route.network.trunc()).or_insert(index);
        if let Some(problem) = check_network(index, first, route, &connected) {
            problems.push(problem);
        }
        if let Some(problem) = check_gateway(index, route, &connected, &networks, &names) {
            problems.push(problem);
        }
    }
    problems
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
    names: &[String],
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
    if let Some(name) = interface.as_ref().filter(|name| !names.contains(name)) {
        let message = format!("`{}` is no port and no VLAN of one", name.escape_default());
        let known = names.iter().take(16).map(String::as_str).collect::<Vec<_>>().join(", ");
        let place = format!("routes[{index}].interface");
        return Some(Problem::invalid(place, message).help(format!("known are {known}")));
    }
    if is_link_local(*gateway) {
        return match interface {
            Some(_) => None,
            None => problem(
                format!("{gateway} is link-local, and may be on any interface"),
                "say on which it is with `interface`",
            ),
        };
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
