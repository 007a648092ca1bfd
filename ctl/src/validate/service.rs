//! Checks of one service by itself: do its options go together, and are its numbers in their ranges? What IPVS refuses
//! is refused here.

use std::ops::RangeInclusive;

use super::connections::{TIMEOUT_SECONDS, check_timeouts};
use super::{PORT_HELP, Problem, range_problem};
use crate::config::{
    Family, Netmask, Persistence, PersistenceEngine, Protocol, RealServerConfig, ServiceConfig, ServiceId,
    Timeouts, VirtualAddress,
};

/// Seconds of a slow start: up to a day.
pub const SLOW_START_SECONDS: RangeInclusive<u32> = 0..=86_400;
/// Numbers for `ipvsadm -f`.
pub const FWMARK: RangeInclusive<u32> = 1..=u32::MAX;
/// Prefix lengths of persistent IPv6 clients: what IPVS takes.
pub const PREFIX_LENGTH: RangeInclusive<u8> = 1..=128;
/// Thresholds of a real server: what IPVS takes, `INT_MAX`.
pub const THRESHOLD: RangeInclusive<u32> = 0..=i32::MAX as u32;
/// When a drain may end, in seconds since 1970 UTC: to the end of the year 9999.
pub const DRAIN_UNTIL_UNIX_SECONDS: RangeInclusive<u64> = 0..=253_402_300_799;
/// Schedulers that give a newcomer its share slowly.
const SLOW_STARTERS: [&str; 3] = ["lc", "wlc", "sed"];

/// What stands before the keys of every VIP:port of a service (`services[2].members[0].`), and the VIP:port.
pub(super) fn addresses(prefix: &str, service: &ServiceConfig) -> Vec<(String, VirtualAddress)> {
    match service.id {
        ServiceId::Virtual(address) => vec![(prefix.to_owned(), address)],
        ServiceId::Group(_) => {
            let members = service.members.iter().enumerate();
            members.map(|(index, member)| (format!("{prefix}members[{index}]."), *member)).collect()
        }
    }
}

/// All but the real servers.
pub(super) fn check(prefix: &str, service: &ServiceConfig) -> Vec<Problem> {
    let mut problems = Vec::new();
    let own = match service.id {
        ServiceId::Virtual(address) => Some(address),
        ServiceId::Group(_) => None,
    };
    if own.is_some_and(|own| own.port == 0) && service.persistence.is_none() {
        // IPVS: "Zero port specified for non-persistent service".
        let message = "0 is every port, which a service without persistence cannot have";
        problems.push(Problem::invalid(format!("{prefix}port"), message).help(PORT_HELP));
    }
    problems
        .extend(service.fwmark.and_then(|fwmark| range_problem(format!("{prefix}fwmark"), fwmark, &FWMARK)));
    problems.extend(check_slow_start(prefix, service));
    let other = own.map(|own| own.protocol).filter(|protocol| *protocol != Protocol::Udp);
    if let (Some(protocol), true) = (other, service.one_packet) {
        let message =
            format!("one-packet scheduling is of UDP services and groups, and this one is {protocol}");
        let problem = Problem::invalid(format!("{prefix}one_packet"), message);
        problems.push(problem.help("leave it out: a connection is scheduled once"));
    }
    if let Some(persistence) = &service.persistence {
        let prefix = format!("{prefix}persistence.");
        problems.extend(check_persistence(&prefix, persistence, other));
        problems.extend(check_netmask(&prefix, persistence.netmask, service));
    }
    problems.extend(check_timeouts(prefix, &service.timeouts));
    if let Some(own) = own {
        problems.extend(check_own_timeouts(prefix, own.protocol, &service.timeouts));
    }
    problems
}

/// Each timeout is of the protocol with which its name begins; those of another one would never hold.
fn check_own_timeouts(prefix: &str, protocol: Protocol, timeouts: &Timeouts) -> Vec<Problem> {
    let is_in_range = |seconds: u32| TIMEOUT_SECONDS.contains(&seconds);
    let given = Timeouts::NAMES.iter().zip(timeouts.values());
    let given = given.filter(|(_, seconds)| seconds.is_some_and(is_in_range));
    let of_protocol = |name: &str| name.split('_').next() == Some(protocol.to_string().as_str());
    let others = given.filter(|(name, _)| !of_protocol(name));
    others
        .map(|(name, _)| {
            let message = format!("this service is {protocol}, and has no connections in that state");
            Problem::invalid(format!("{prefix}timeouts.{name}"), message)
                .help(format!("leave it out, or give a timeout whose name begins with {protocol}"))
        })
        .collect()
}

fn check_slow_start(prefix: &str, service: &ServiceConfig) -> Option<Problem> {
    let place = format!("{prefix}slow_start_seconds");
    if service.slow_start_seconds > 0 && !SLOW_STARTERS.contains(&service.scheduler.name()) {
        let known = SLOW_STARTERS.join(", ");
        let message = format!("the scheduler {} has no slow start", service.scheduler);
        return Some(
            Problem::invalid(place, message).help(format!("give 0, or one of the schedulers {known}")),
        );
    }
    range_problem(place, service.slow_start_seconds, &SLOW_START_SECONDS)
}

/// `other` is the protocol of a service that is not of UDP.
fn check_persistence(prefix: &str, persistence: &Persistence, other: Option<Protocol>) -> Vec<Problem> {
    let place = format!("{prefix}timeout_seconds");
    let mut problems = Vec::from_iter(range_problem(place, persistence.timeout_seconds, &TIMEOUT_SECONDS));
    if let (Some(PersistenceEngine::Sip), Some(protocol)) = (persistence.engine, other) {
        let message = format!("sip reads SIP over UDP, and this service is {protocol}");
        let problem = Problem::invalid(format!("{prefix}engine"), message);
        problems.push(problem.help("leave it out: clients are then known by their address"));
    }
    problems
}

/// How much of a client's address counts is said as its family has it.
fn check_netmask(prefix: &str, netmask: Netmask, service: &ServiceConfig) -> Option<Problem> {
    match (netmask, service.family()) {
        (Netmask::Host, _) | (Netmask::V4(_), Family::V4) => None,
        (Netmask::V6(length), Family::V6) => {
            range_problem(format!("{prefix}prefix_length"), length, &PREFIX_LENGTH)
        }
        (Netmask::V4(mask), Family::V6) => {
            let message = format!("{mask} is a mask of IPv4, and {} is IPv6", service.id());
            let help = "give prefix_length instead, 1 to 128";
            Some(Problem::invalid(format!("{prefix}netmask"), message).help(help))
        }
        (Netmask::V6(length), Family::V4) => {
            let message = format!("{length} is a prefix length of IPv6, and {} is IPv4", service.id());
            let help = "give netmask instead, such as 255.255.255.0";
            Some(Problem::invalid(format!("{prefix}prefix_length"), message).help(help))
        }
    }
}

/// All of a real server but its addresses and how packets reach it.
pub(super) fn check_real_server(prefix: &str, real_server: &RealServerConfig) -> Vec<Problem> {
    let RealServerConfig { upper_threshold: upper, lower_threshold: lower, drain, .. } = real_server;
    let place = |key: &str| format!("{prefix}{key}");
    let mut problems: Vec<Problem> = [
        range_problem(place("upper_threshold"), *upper, &THRESHOLD),
        range_problem(place("lower_threshold"), *lower, &THRESHOLD),
        drain.and_then(|drain| drain.until_unix_seconds).and_then(|until| {
            range_problem(place("drain.until_unix_seconds"), until, &DRAIN_UNTIL_UNIX_SECONDS)
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if problems.is_empty() && lower > upper {
        // IPVS: ERANGE.
        let message = match upper {
            0 => format!("{lower} is given and no upper threshold"),
            upper => format!("{lower} is over the upper threshold of {upper}"),
        };
        let help = "give an upper threshold and a lower one that is not above it; a lower one of 0 is three quarters of the upper";
        problems.push(Problem::invalid(place("lower_threshold"), message).help(help));
    }
    problems
}
