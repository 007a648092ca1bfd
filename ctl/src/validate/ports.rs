//! Checks of `ports`: names, devices, sizes, and that every network belongs to one port.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::addresses::{PREFIX_LENGTH, not_unicast, role_in_network, supernets};
use super::{Problem, range_problem};
use crate::config::PortConfig;

/// Ports at most.
pub const PORTS_MAX: usize = 64;
/// Addresses of a port at most.
pub const ADDRESSES_MAX: usize = 64;
/// Bytes of a port's name.
pub const NAME_BYTES_MAX: usize = 32;
/// Bytes of a device: EAL's options end there.
pub const DEVICE_BYTES_MAX: usize = 1024;
/// Descriptors of a queue: a burst of 32 twice, to what the largest NICs have.
pub const DESCRIPTORS: RangeInclusive<u16> = 64..=32768;
/// MTU in bytes: RFC 791's least, to what jumbo-frame NICs take.
pub const MTU: RangeInclusive<u16> = 68..=9600;
pub(super) fn check(ports: &[PortConfig]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if ports.len() > PORTS_MAX {
        let message = format!("{} ports are over {PORTS_MAX}", ports.len());
        problems.push(Problem::invalid("ports", message).help("configure fewer ports"));
    }
    for (index, port) in ports.iter().enumerate() {
        check_text(index, port, &mut problems);
        check_sizes(index, port, &mut problems);
        check_addresses(index, port, &mut problems);
    }
    check_duplicates(ports, &mut problems);
    check_networks(ports, &mut problems);
    problems
}

fn check_text(index: usize, port: &PortConfig, problems: &mut Vec<Problem>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !(1..=NAME_BYTES_MAX).contains(&port.name.len()) || !port.name.bytes().all(allowed) {
        let message = format!("`{}` is no port name", port.name.escape_default());
        let help = format!("use 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 _ . -");
        problems.push(Problem::invalid(format!("ports[{index}].name"), message).help(help));
    }
    let is_device = |device: &str| {
        (1..=DEVICE_BYTES_MAX).contains(&device.len()) && !device.contains(|c: char| c.is_control())
    };
    if !is_device(&port.device) {
        let message = format!("`{}` is no device", port.device.escape_default());
        let help = "give a PCI address (0000:03:00.0) or a virtual device (net_af_packet0,iface=eth1)";
        problems.push(Problem::invalid(format!("ports[{index}].device"), message).help(help));
    }
}

fn check_sizes(index: usize, port: &PortConfig, problems: &mut Vec<Problem>) {
    let place = |key: &str| format!("ports[{index}].{key}");
    problems.extend(range_problem(place("rx_descriptors"), port.rx_descriptors, &DESCRIPTORS));
    problems.extend(range_problem(place("tx_descriptors"), port.tx_descriptors, &DESCRIPTORS));
    problems.extend(port.mtu.and_then(|mtu| range_problem(place("mtu"), mtu, &MTU)));
}

fn check_addresses(index: usize, port: &PortConfig, problems: &mut Vec<Problem>) {
    let place = format!("ports[{index}].addresses");
    if port.addresses.is_empty() {
        let problem = Problem::invalid(place, format!("port {} has no address", port.name));
        problems.push(
            problem.help("give the director's own address with its network, such as [\"10.0.0.1/24\"]"),
        );
        return;
    }
    if port.addresses.len() > ADDRESSES_MAX {
        let message = format!("{} addresses are over {ADDRESSES_MAX}", port.addresses.len());
        problems.push(Problem::invalid(place, message).help("give the port fewer addresses"));
    }
    for (number, network) in port.addresses.iter().enumerate() {
        let place = format!("ports[{index}].addresses[{number}]");
        let address = network.addr();
        let help = "give a host's address with its network, such as 10.0.0.1/24";
        if let Some(kind) = not_unicast(address) {
            problems.push(Problem::invalid(place, format!("{address} is {kind}, not a host's")).help(help));
        } else if let Some(role) = role_in_network(address, *network) {
            let message = format!("{address} is {role} of {}, not a host's", network.trunc());
            problems.push(Problem::invalid(place, message).help(help));
        } else if !PREFIX_LENGTH.contains(&network.prefix_len()) {
            problems.push(Problem::invalid(place, "a network of all addresses is not connected").help(help));
        }
    }
}

fn check_duplicates(ports: &[PortConfig], problems: &mut Vec<Problem>) {
    let mut names = HashMap::new();
    let mut devices = HashMap::new();
    for (index, port) in ports.iter().enumerate() {
        let first = *names.entry(port.name.as_str()).or_insert(index);
        if first != index {
            let message = format!("`{}` is the name of ports[{first}] already", port.name);
            let problem = Problem::invalid(format!("ports[{index}].name"), message);
            problems.push(problem.help("give every port a name of its own"));
        }
        // What follows the first comma are arguments, not identity.
        let device = port.device.split(',').next().unwrap_or_default();
        let first = *devices.entry(device).or_insert(index);
        if first != index {
            let message = format!("`{device}` is the device of ports[{first}] already");
            let problem = Problem::invalid(format!("ports[{index}].device"), message);
            problems.push(problem.help("give every port a device of its own"));
        }
    }
}

/// Two networks either are apart or one holds the other, so looking up each one's supernets finds every overlap.
fn check_networks(ports: &[PortConfig], problems: &mut Vec<Problem>) {
    let mut networks = HashMap::new();
    let mut addresses = HashMap::new();
    for (index, port) in ports.iter().enumerate() {
        for (number, network) in port.addresses.iter().enumerate() {
            let place = (index, number);
            networks.entry(network.trunc()).or_insert(place);
            let (first, first_number) = *addresses.entry(network.addr()).or_insert(place);
            if (first, first_number) != place {
                let message =
                    format!("{} is at ports[{first}].addresses[{first_number}] already", network.addr());
                let problem = Problem::invalid(format!("ports[{index}].addresses[{number}]"), message);
                problems.push(problem.help("give every address once"));
            }
        }
    }
    for (index, port) in ports.iter().enumerate() {
        for (number, network) in port.addresses.iter().enumerate() {
            // An address given twice has been reported above.
            if addresses[&network.addr()] != (index, number) {
                continue;
            }
            let overlap = supernets(*network)
                .find_map(|net| networks.get(&net).filter(|(other, _)| *other != index).map(|at| (net, at)));
            let Some((other_network, (other, other_number))) = overlap else { continue };
            let message = format!(
                "{} overlaps {other_network} at ports[{other}].addresses[{other_number}]",
                network.trunc()
            );
            let problem = Problem::invalid(format!("ports[{index}].addresses[{number}]"), message);
            problems.push(problem.help("a network is connected to one port"));
        }
    }
}
