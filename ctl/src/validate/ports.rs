//! Checks of `ports`: names, devices, sizes, VLANs, and that every network belongs to one interface.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::addresses::{described, is_link_local, not_unicast, role_in_network, supernets};
use super::{Problem, range_problem};
use crate::config::{HostInterface, PortConfig, Qinq, VlanConfig};

/// Ports at most.
pub const PORTS_MAX: usize = 64;
/// Interfaces of all ports at most: the data plane names each by a small number.
pub const INTERFACES_MAX: usize = 4096;
/// Addresses of an interface at most.
pub const ADDRESSES_MAX: usize = 64;
/// Bytes of a port's name.
pub const NAME_BYTES_MAX: usize = 32;
/// Bytes of a device: EAL's options end there.
pub const DEVICE_BYTES_MAX: usize = 1024;
/// Descriptors of a queue: a burst of 32 twice, to what the largest NICs have.
pub const DESCRIPTORS: RangeInclusive<u16> = 64..=32768;
/// MTU in bytes: RFC 791's least, to what jumbo-frame NICs take.
pub const MTU: RangeInclusive<u16> = 68..=9600;
/// The least MTU of an interface with IPv6 addresses (RFC 8200 section 5).
pub const IPV6_MTU_MIN: u16 = 1280;
/// Numbers of VLANs: 802.1Q keeps 0 (no VLAN, priority alone) and 4095 for itself.
pub const VLAN_ID: RangeInclusive<u16> = 1..=4094;

pub(super) fn check(ports: &[PortConfig]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if ports.len() > PORTS_MAX {
        let message = format!("{} ports are over {PORTS_MAX}", ports.len());
        problems.push(Problem::invalid("ports", message).help("configure fewer ports"));
    }
    let interfaces = ports.iter().map(|port| 1 + port.vlans.len()).sum::<usize>();
    if interfaces > INTERFACES_MAX {
        let message = format!("{interfaces} ports and VLANs are over {INTERFACES_MAX}");
        problems.push(Problem::invalid("ports", message).help("configure fewer VLANs"));
    }
    for (index, port) in ports.iter().enumerate() {
        check_text(index, port, &mut problems);
        check_sizes(index, port, &mut problems);
        if port.addresses.is_empty() && port.vlans.is_empty() {
            let problem = Problem::invalid(
                format!("ports[{index}].addresses"),
                format!("port {} has no address and no VLAN", port.name),
            );
            problems.push(problem.help(
                "give the director's own address with its network, such as [\"10.0.0.1/24\"], or a [[ports.vlans]] table",
            ));
        }
        check_qinq(index, port, &mut problems);
        check_addresses(&format!("ports[{index}]"), &port.addresses, &mut problems);
        check_ipv6_mtu(&format!("ports[{index}]"), &port.addresses, port.mtu, &mut problems);
        for (number, vlan) in port.vlans.iter().enumerate() {
            check_vlan(&format!("ports[{index}].vlans[{number}]"), port, vlan, &mut problems);
        }
    }
    check_duplicates(ports, &mut problems);
    check_host_interfaces(ports, &mut problems);
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

/// What passes has to have somebody who takes it.
fn check_qinq(index: usize, port: &PortConfig, problems: &mut Vec<Problem>) {
    let has_host = !port.addresses.is_empty() && port.host_interface != HostInterface::Off;
    if port.qinq == Qinq::Pass && !has_host {
        let message =
            format!("the untagged side of port {} has no host interface to pass frames to", port.name);
        let help = "give the port addresses and a host_interface, or set qinq to \"drop\"";
        problems.push(Problem::invalid(format!("ports[{index}].qinq"), message).help(help));
    }
}

fn check_sizes(index: usize, port: &PortConfig, problems: &mut Vec<Problem>) {
    let place = |key: &str| format!("ports[{index}].{key}");
    problems.extend(range_problem(place("rx_descriptors"), port.rx_descriptors, &DESCRIPTORS));
    problems.extend(range_problem(place("tx_descriptors"), port.tx_descriptors, &DESCRIPTORS));
    problems.extend(port.mtu.and_then(|mtu| range_problem(place("mtu"), mtu, &MTU)));
}

fn check_vlan(place: &str, port: &PortConfig, vlan: &VlanConfig, problems: &mut Vec<Problem>) {
    problems.extend(range_problem(format!("{place}.id"), vlan.id, &VLAN_ID));
    if vlan.addresses.is_empty() {
        let message = format!("VLAN {} of port {} has no address", vlan.id, port.name);
        let help = "give the director's own address with its network, such as [\"10.1.0.1/24\"], or leave the VLAN out";
        problems.push(Problem::invalid(format!("{place}.addresses"), message).help(help));
    }
    check_addresses(place, &vlan.addresses, problems);
    let Some(mtu) = vlan.mtu else {
        // The port's own, which is reported where it is given.
        if !has_ipv6(&port.addresses) {
            check_ipv6_mtu(place, &vlan.addresses, port.mtu, problems);
        }
        return;
    };
    let out_of_range = range_problem(format!("{place}.mtu"), mtu, &MTU);
    let is_in_range = out_of_range.is_none();
    problems.extend(out_of_range);
    if let Some(whole) = port.mtu.filter(|whole| is_in_range && mtu > *whole) {
        let message = format!("{mtu} is over the {whole} of port {}", port.name);
        let help = "give the VLAN the port's mtu or less, or raise the port's";
        problems.push(Problem::invalid(format!("{place}.mtu"), message).help(help));
    }
    check_ipv6_mtu(place, &vlan.addresses, Some(mtu), problems);
}

fn has_ipv6(addresses: &[IpNet]) -> bool {
    addresses.iter().any(|network| network.addr().is_ipv6())
}

fn check_ipv6_mtu(place: &str, addresses: &[IpNet], mtu: Option<u16>, problems: &mut Vec<Problem>) {
    let Some(mtu) = mtu.filter(|mtu| *mtu < IPV6_MTU_MIN && MTU.contains(mtu)) else { return };
    if has_ipv6(addresses) {
        let message = format!("{mtu} is under {IPV6_MTU_MIN}, the least for IPv6 (RFC 8200)");
        let help = format!("give {IPV6_MTU_MIN} or more, or take the IPv6 addresses away");
        problems.push(Problem::invalid(format!("{place}.mtu"), message).help(help));
    }
}

fn check_addresses(interface: &str, addresses: &[IpNet], problems: &mut Vec<Problem>) {
    if addresses.len() > ADDRESSES_MAX {
        let message = format!("{} addresses are over {ADDRESSES_MAX}", addresses.len());
        let problem = Problem::invalid(format!("{interface}.addresses"), message);
        problems.push(problem.help("give the interface fewer addresses"));
    }
    for (number, network) in addresses.iter().enumerate() {
        let place = format!("{interface}.addresses[{number}]");
        let address = network.addr();
        let help = "give a host's address with its network, such as 10.0.0.1/24 or 2001:db8::1/64";
        if let Some(kind) = not_unicast(address) {
            problems.push(Problem::invalid(place, format!("{address} is {kind}, not a host's")).help(help));
        } else if let Some(role) = role_in_network(address, *network) {
            let message = format!("{address} is {role} of {}, not a host's", network.trunc());
            problems.push(Problem::invalid(place, message).help(help));
        } else if network.prefix_len() == 0 {
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
    for (index, port) in ports.iter().enumerate() {
        let mut ids = HashMap::new();
        for (number, vlan) in port.vlans.iter().enumerate() {
            let place = format!("ports[{index}].vlans[{number}].id");
            let first = *ids.entry(vlan.id).or_insert(number);
            if first != number {
                let message = format!("{} is the id of ports[{index}].vlans[{first}] already", vlan.id);
                problems.push(Problem::invalid(place, message).help("list every VLAN of a port once"));
            } else if let Some(other) = names.get(format!("{}.{}", port.name, vlan.id).as_str()) {
                let message = format!(
                    "VLAN {} is named {}.{0}, which is the name of ports[{other}]",
                    vlan.id, port.name
                );
                problems.push(Problem::invalid(place, message).help("give that port another name"));
            }
        }
    }
}

/// Names that Linux takes for an interface, each for one of ours.
fn check_host_interfaces(ports: &[PortConfig], problems: &mut Vec<Problem>) {
    let mut names: HashMap<String, String> = HashMap::new();
    for (index, port) in ports.iter().enumerate() {
        for (number, interface) in port.interfaces().enumerate() {
            // The untagged side comes first.
            let place = match number.checked_sub(1) {
                None => format!("ports[{index}].host_interface"),
                Some(vlan) => format!("ports[{index}].vlans[{vlan}].host_interface"),
            };
            let Some(name) = interface.host_interface_name(index) else { continue };
            if matches!(interface.host_interface, HostInterface::Named(_)) && !is_interface_name(&name) {
                let message = format!("`{}` is no name of an interface", name.escape_default());
                let help = format!(
                    "give \"auto\", \"off\", or 1 to {} characters without blanks, `/` and `:`",
                    HostInterface::NAME_BYTES_MAX
                );
                problems.push(Problem::invalid(place, message).help(help));
                continue;
            }
            if let Some(first) = names.get(&name) {
                // Two of one name are told above.
                if *first == described(&interface) {
                    continue;
                }
                let message = format!("`{name}` is the host interface of {first} already");
                let help = "give every interface a host interface of its own, or \"off\"";
                problems.push(Problem::invalid(place, message).help(help));
            } else {
                names.insert(name, described(&interface));
            }
        }
    }
}

/// Linux's `dev_valid_name`.
fn is_interface_name(name: &str) -> bool {
    let is_taken = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=HostInterface::NAME_BYTES_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(is_taken)
}

/// Every address with its place and the number of its interface. Link-local networks are on every link.
fn places(ports: &[PortConfig]) -> Vec<(String, usize, IpNet)> {
    let mut places = Vec::new();
    let mut interface = 0;
    for (index, port) in ports.iter().enumerate() {
        let mut add = |place: String, addresses: &[IpNet]| {
            let addresses = addresses.iter().enumerate().filter(|(_, net)| !is_link_local(net.addr()));
            places.extend(
                addresses.map(|(number, net)| (format!("{place}.addresses[{number}]"), interface, *net)),
            );
            interface += 1;
        };
        add(format!("ports[{index}]"), &port.addresses);
        for (number, vlan) in port.vlans.iter().enumerate() {
            add(format!("ports[{index}].vlans[{number}]"), &vlan.addresses);
        }
    }
    places
}

/// Two networks either are apart or one holds the other, so looking up each one's supernets finds every overlap.
fn check_networks(ports: &[PortConfig], problems: &mut Vec<Problem>) {
    let places = places(ports);
    let mut networks = HashMap::new();
    let mut addresses = HashMap::new();
    for (place, interface, network) in &places {
        networks.entry(network.trunc()).or_insert((place, *interface));
        let first = *addresses.entry(network.addr()).or_insert(place);
        if first != place {
            let message = format!("{} is at {first} already", network.addr());
            problems.push(Problem::invalid(place, message).help("give every address once"));
        }
    }
    for (place, interface, network) in &places {
        // An address given twice has been reported above.
        if addresses[&network.addr()] != place {
            continue;
        }
        let other = |net: IpNet| {
            let (at, _) = networks.get(&net).filter(|(_, other)| other != interface)?;
            Some((net, *at))
        };
        let Some((other_network, at)) = supernets(*network).find_map(other) else { continue };
        let message = format!("{} overlaps {other_network} at {at}", network.trunc());
        problems.push(Problem::invalid(place, message).help("a network is connected to one port or VLAN"));
    }
}
