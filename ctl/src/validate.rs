//! Is a configuration valid? Every check that needs no host: the daemon repeats them before each change, `dr-ctl`
//! makes them before it asks the daemon.
//!
//! All checks are linear in the configuration: a file with tens of thousands of real servers takes milliseconds.
//! Every problem is reported, not the first one alone.

use std::fmt;
use std::net::IpAddr;

use crate::config::{
    Config, ConnectionsConfig, DirectorConfig, NatConfig, PortConfig, RealServerConfig, RouteConfig,
    ServiceConfig, ServiceId,
};
use crate::explain::clip;
use crate::protocol::{
    CONNECTION_ROWS_MAX, CONNECTION_STATES, ConnectionsQuery, DrainRs, ErrorCode, OneMember,
};

mod addresses;
mod connections;
mod director;
mod forwarding;
mod nat;
mod ports;
mod routes;
mod service;
mod services;

pub use connections::{CONN_REUSE_MODE, TIMEOUT_SECONDS};
pub use director::{
    CONNECTION_CAPACITY, CONTROL_SOCKET_BYTES_MAX, CPU_MAX, FRAGMENT_CAPACITY, HOST_PACKETS_PER_SECOND,
    ICMP_PACKETS_PER_SECOND, MBUF_COUNT, MBUF_DATA_ROOM, MEMORY_MIB, REAL_SERVER_CAPACITY, SERVICE_CAPACITY,
    TEMPLATE_CAPACITY, WORKERS_MAX,
};
pub use nat::LOCAL_ADDRESSES_MAX;
pub use ports::{
    ADDRESSES_MAX, DESCRIPTORS, DEVICE_BYTES_MAX, INTERFACES_MAX, IPV6_MTU_MIN, MTU, NAME_BYTES_MAX,
    PORTS_MAX, VLAN_ID,
};
pub use routes::ROUTES_MAX;
pub use service::{DRAIN_UNTIL_UNIX_SECONDS, FWMARK, PREFIX_LENGTH, SLOW_START_SECONDS, THRESHOLD};
pub use services::TIMEOUT_SETS_MAX;

/// Which ports there are, for people.
pub const PORT_HELP: &str =
    "give a port from 1 to 65535; a persistent service or a group may have 0, for every port";

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `Invalid` or `Full`; for a single change `Exists` and `NotFound` too.
    pub code: ErrorCode,
    /// Where: `services[2].real_servers[0].weight`.
    pub place: String,
    /// What and why: `70000 is over 65535`.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Problem {
    fn new(code: ErrorCode, place: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { code, place: place.into(), message: message.into(), help: None }
    }

    fn invalid(place: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::new(ErrorCode::Invalid, place, message)
    }

    fn help(self, help: impl Into<String>) -> Problem {
        Problem { help: Some(help.into()), ..self }
    }
}

/// What services are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Capacities, and whether there is room for IPv6. A daemon that runs gives [`Ipv6`](crate::config::Ipv6)'s `on` or
    /// `off` here, as its tables are.
    pub director: &'a DirectorConfig,
    /// Must be valid, or empty: then what depends on them is not judged.
    pub ports: &'a [PortConfig],
    /// Must be valid.
    pub routes: &'a [RouteConfig],
    /// Full NAT's; none: what depends on them is not judged.
    pub nat: Option<&'a NatConfig>,
}

impl<'a> Surroundings<'a> {
    /// Those in a configuration. One with ports is all that there is; one without (`apply` takes it) leaves what
    /// runs as it is.
    pub fn of(config: &'a Config) -> Surroundings<'a> {
        const NO_NAT: &NatConfig = &NatConfig { local_addresses: Vec::new() };
        let nat = config.nat.as_ref().or_else(|| (!config.ports.is_empty()).then_some(NO_NAT));
        Surroundings { director: &config.director, ports: &config.ports, routes: &config.routes, nat }
    }
}

/// Checks all of a configuration. One without ports passes (`apply` takes it); what depends on the ports is then
/// left to the daemon.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn validate(config: &Config) -> Result<(), Vec<Problem>> {
    let mut problems = validate_director(&config.director);
    problems.extend(validate_ports(&config.ports));
    problems.extend(validate_routes(&config.ports, &config.routes));
    if let Some(connections) = &config.connections {
        problems.extend(validate_connections("connections.", connections));
    }
    let surroundings = Surroundings::of(config);
    if let Some(nat) = &config.nat {
        problems.extend(validate_nat("nat.", &surroundings, &config.services, nat));
    }
    problems.extend(validate_services(&surroundings, &config.services));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// [`validate`], and that the daemon can start with it: it has a port.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn validate_for_start(config: &Config) -> Result<(), Vec<Problem>> {
    let mut problems = validate(config).err().unwrap_or_default();
    if config.ports.is_empty() {
        let problem =
            Problem::invalid("ports", "there is none, and dr-director forwards nothing without a port")
                .help("add a [[ports]] table with name, device and addresses");
        problems.push(problem);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks `director`.
pub fn validate_director(director: &DirectorConfig) -> Vec<Problem> {
    director::check(director)
}

/// Checks `ports`.
pub fn validate_ports(ports: &[PortConfig]) -> Vec<Problem> {
    ports::check(ports)
}

/// Checks `routes` against each other and the ports' networks.
pub fn validate_routes(ports: &[PortConfig], routes: &[RouteConfig]) -> Vec<Problem> {
    routes::check(ports, routes)
}

/// Checks `nat` against the ports' networks and the services that there are; places start with `prefix`, which is
/// `"nat."` for a file.
pub fn validate_nat(
    prefix: &str,
    surroundings: &Surroundings<'_>,
    services: &[ServiceConfig],
    nat: &NatConfig,
) -> Vec<Problem> {
    nat::check(prefix, surroundings, services, nat)
}

/// Checks a local address that is to be added to those of full NAT, none of which it is. Places are those of the verb's
/// arguments: `address`.
pub fn validate_new_local_address(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: IpAddr,
) -> Vec<Problem> {
    nat::check_new(surroundings, running, new)
}

/// Checks that a local address can be removed: real servers behind full NAT keep another one.
pub fn validate_removed_local_address(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    removed: IpAddr,
) -> Vec<Problem> {
    nat::check_removed(surroundings, running, removed)
}

/// Checks `connections`; places start with `prefix`, which is `"connections."` for a file and empty for `set-options`.
pub fn validate_connections(prefix: &str, connections: &ConnectionsConfig) -> Vec<Problem> {
    connections::check(prefix, connections)
}

/// Checks `services` against each other and what surrounds them.
pub fn validate_services(surroundings: &Surroundings<'_>, services: &[ServiceConfig]) -> Vec<Problem> {
    services::check_all(surroundings, services)
}

/// Checks one service that is to be added to those that run, which do not have it yet. Places are those of the verb's
/// arguments: `real_servers[0].address`.
pub fn validate_new_service(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: &ServiceConfig,
) -> Vec<Problem> {
    services::check_new_service(surroundings, running, new)
}

/// Checks one real server that is to be added to a service that runs, which does not have it yet. Places are those of the
/// verb's arguments: `real_server.address`.
pub fn validate_new_real_server(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    service: ServiceId,
    new: &RealServerConfig,
) -> Vec<Problem> {
    services::check_new_real_server(surroundings, running, service, new)
}

/// Checks a service as `set-vip` leaves it, against those that run, itself as it was among them. Places are those of the
/// verb's arguments: `persistence.timeout_seconds`.
pub fn validate_changed_service(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    changed: &ServiceConfig,
) -> Vec<Problem> {
    services::check_changed_service(surroundings, running, changed)
}

/// Checks a member that is to be added to a group that runs, which does not have it yet. Places are those of the verb's
/// arguments: `member.address`.
pub fn validate_new_member(
    surroundings: &Surroundings<'_>,
    running: &[ServiceConfig],
    new: &OneMember,
) -> Vec<Problem> {
    services::check_new_member(surroundings, running, new)
}

/// Checks a real server of a service as `set-rs` leaves it. Places are those of the verb's arguments:
/// `lower_threshold`.
pub fn validate_changed_real_server(
    surroundings: &Surroundings<'_>,
    service: &ServiceConfig,
    changed: &RealServerConfig,
) -> Vec<Problem> {
    services::check_changed_real_server(surroundings, service, changed)
}

/// Checks the arguments of `connections`.
pub fn validate_connections_query(query: &ConnectionsQuery) -> Vec<Problem> {
    let mut problems = Vec::new();
    let rows = u64::from(query.offset) + u64::from(query.limit);
    if rows > u64::from(CONNECTION_ROWS_MAX) {
        let message = format!("with limit it is {rows}, which is over {CONNECTION_ROWS_MAX}");
        let help = "ask for fewer clients, one service or one real server";
        problems.push(Problem::invalid("offset", message).help(help));
    }
    if let Some(state) = query.state.as_deref().filter(|state| !CONNECTION_STATES.contains(state)) {
        let message = format!("`{}` is no state", clip(state));
        let help = format!("known are {}", CONNECTION_STATES.join(", "));
        problems.push(Problem::invalid("state", message).help(help));
    }
    problems
}

/// Checks the arguments of `drain-rs`.
pub fn validate_drain(drain: &DrainRs) -> Vec<Problem> {
    let timeout = drain.timeout_seconds;
    let problem = timeout.and_then(|seconds| range_problem("timeout_seconds", seconds, &TIMEOUT_SECONDS));
    Vec::from_iter(problem)
}

/// A number out of its range.
fn range_problem<T: PartialOrd + fmt::Display>(
    place: impl Into<String>,
    value: T,
    range: &std::ops::RangeInclusive<T>,
) -> Option<Problem> {
    let (min, max) = (range.start(), range.end());
    let message = if value < *min {
        format!("{value} is under {min}")
    } else if value > *max {
        format!("{value} is over {max}")
    } else {
        return None;
    };
    Some(Problem::invalid(place, message).help(format!("give a whole number from {min} to {max}")))
}

#[cfg(test)]
mod forwarding_tests;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod tests;
