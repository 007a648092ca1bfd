//! Is a configuration valid? Every check that needs no host: the daemon repeats them before each change, `dr-ctl`
//! makes them before it asks the daemon.
//!
//! All checks are linear in the configuration: a file with tens of thousands of real servers takes milliseconds.
//! Every problem is reported, not the first one alone.

use std::fmt;

use crate::config::{
    Config, ConnectionsConfig, DirectorConfig, PortConfig, RealServerConfig, ServiceConfig, ServiceId,
};
use crate::explain::clip;
use crate::protocol::{
    CONNECTION_ROWS_MAX, CONNECTION_STATES, ConnectionsQuery, DrainRs, ErrorCode, OneMember,
};

mod addresses;
mod connections;
mod director;
mod ports;
mod service;
mod services;

pub use connections::{CONN_REUSE_MODE, TIMEOUT_SECONDS};
pub use director::{
    CONNECTION_CAPACITY, CONTROL_SOCKET_BYTES_MAX, CPU_MAX, MBUF_COUNT, MBUF_DATA_ROOM, MEMORY_MIB,
    REAL_SERVER_CAPACITY, SERVICE_CAPACITY, TEMPLATE_CAPACITY, WORKERS_MAX,
};
pub use ports::{ADDRESSES_MAX, DESCRIPTORS, DEVICE_BYTES_MAX, MTU, NAME_BYTES_MAX, PORTS_MAX};
pub use service::{DRAIN_UNTIL_UNIX_SECONDS, FWMARK, SLOW_START_SECONDS, THRESHOLD};
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

/// Checks all of a configuration. One without ports passes (`apply` takes it); what depends on the ports is then
/// left to the daemon.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn validate(config: &Config) -> Result<(), Vec<Problem>> {
    let mut problems = validate_director(&config.director);
    problems.extend(validate_ports(&config.ports));
    if let Some(connections) = &config.connections {
        problems.extend(validate_connections("connections.", connections));
    }
    problems.extend(validate_services(&config.director, &config.ports, &config.services));
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

/// Checks `connections`; places start with `prefix`, which is `"connections."` for a file and empty for `set-options`.
pub fn validate_connections(prefix: &str, connections: &ConnectionsConfig) -> Vec<Problem> {
    connections::check(prefix, connections)
}

/// Checks `services` against each other, the ports' networks and the capacities. `ports` must be valid, or empty:
/// then what depends on them is not judged.
pub fn validate_services(
    director: &DirectorConfig,
    ports: &[PortConfig],
    services: &[ServiceConfig],
) -> Vec<Problem> {
    services::check_all(director, ports, services)
}

/// Checks one service that is to be added to those that run. Places are those of the verb's arguments:
/// `real_servers[0].address`.
pub fn validate_new_service(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    new: &ServiceConfig,
) -> Vec<Problem> {
    services::check_new_service(director, ports, running, new)
}

/// Checks one real server that is to be added to a service that runs. Places are those of the verb's arguments:
/// `real_server.address`.
pub fn validate_new_real_server(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    service: ServiceId,
    new: &RealServerConfig,
) -> Vec<Problem> {
    services::check_new_real_server(director, ports, running, service, new)
}

/// Checks a service as `set-vip` leaves it, against those that run, itself as it was among them. Places are those of the
/// verb's arguments: `persistence.timeout_seconds`.
pub fn validate_changed_service(
    director: &DirectorConfig,
    running: &[ServiceConfig],
    changed: &ServiceConfig,
) -> Vec<Problem> {
    services::check_changed_service(director, running, changed)
}

/// Checks a member that is to be added to a group that runs. Places are those of the verb's arguments:
/// `member.address`.
pub fn validate_new_member(
    director: &DirectorConfig,
    ports: &[PortConfig],
    running: &[ServiceConfig],
    new: &OneMember,
) -> Vec<Problem> {
    services::check_new_member(director, ports, running, new)
}

/// Checks a real server as `set-rs` leaves it, its MAC address apart. Places are those of the verb's arguments:
/// `lower_threshold`.
pub fn validate_changed_real_server(changed: &RealServerConfig) -> Vec<Problem> {
    service::check_real_server("", changed)
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
mod tests;
