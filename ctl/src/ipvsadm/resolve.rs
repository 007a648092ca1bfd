//! Names of hosts and services, both ways, by the system's own rules (`/etc/hosts`, DNS, `/etc/services`, whatever
//! nsswitch.conf says). The reverse look-ups go through getent(1), glibc's command for them: std has none.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::process::{Command, Stdio};

use crate::config::Protocol;

/// What turns names into numbers and back.
pub trait Names {
    /// The IPv4 address of a host.
    fn address_of(&self, host: &str) -> Option<Ipv4Addr>;
    /// The port of a service.
    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16>;
    /// The name of a host.
    fn host_of(&self, address: IpAddr) -> Option<String>;
    /// The name of a service.
    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String>;
    /// Looks all of these up in one go, where one by one would be slow.
    fn prepare(&self, _addresses: &[IpAddr], _ports: &[(u16, Protocol)]) {}
}

/// Knows no name at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {
    fn address_of(&self, _host: &str) -> Option<Ipv4Addr> {
        None
    }

    fn port_of(&self, _service: &str, _protocol: Protocol) -> Option<u16> {
        None
    }

    fn host_of(&self, _address: IpAddr) -> Option<String> {
        None
    }

    fn service_of(&self, _port: u16, _protocol: Protocol) -> Option<String> {
        None
    }
}

/// The system's, each asked for once.
#[derive(Debug, Default)]
pub struct SystemNames {
    hosts: RefCell<HashMap<IpAddr, Option<String>>>,
    services: RefCell<HashMap<(u16, Protocol), Option<String>>>,
    ports: RefCell<HashMap<(String, Protocol), Option<u16>>>,
}

/// Keys of one getent: far below the kernel's limit for a command line.
const KEYS_MAX: usize = 500;

impl Names for SystemNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        if host.is_empty() {
            return None;
        }
        let mut found = (host, 0).to_socket_addrs().ok()?;
        found.find_map(|address| match address {
            SocketAddr::V4(address) => Some(*address.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        // getent takes a number for a port and a slash for the protocol's; neither is in a name.
        if service.is_empty() || service.contains('/') || service.parse::<i64>().is_ok() {
            return None;
        }
        let key = (service.to_owned(), protocol);
        *self.ports.borrow_mut().entry(key).or_insert_with(|| {
            let output = getent("services", &[format!("{service}/{protocol}")]);
            output.lines().find_map(parse_service).map(|(_, port, _)| port)
        })
    }

    fn host_of(&self, address: IpAddr) -> Option<String> {
        self.prepare(&[address], &[]);
        self.hosts.borrow().get(&address).cloned().flatten()
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        self.prepare(&[], &[(port, protocol)]);
        self.services.borrow().get(&(port, protocol)).cloned().flatten()
    }

    fn prepare(&self, addresses: &[IpAddr], ports: &[(u16, Protocol)]) {
        learn(&self.hosts, addresses, "hosts", IpAddr::to_string, |line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        });
        let key = |(port, protocol): &(u16, Protocol)| format!("{port}/{protocol}");
        learn(&self.services, ports, "services", key, |line| {
            let (name, port, protocol) = parse_service(line)?;
            Some(((port, protocol), name.to_owned()))
        });
    }
}

/// Asks for what is not known yet.
fn learn<K: Copy + Eq + std::hash::Hash>(
    known: &RefCell<HashMap<K, Option<String>>>,
    keys: &[K],
    database: &str,
    text: impl Fn(&K) -> String,
    parse: impl Fn(&str) -> Option<(K, String)>,
) {
    let mut known = known.borrow_mut();
    let mut unknown = Vec::new();
    for key in keys {
        known.entry(*key).or_insert_with(|| {
            unknown.push(text(key));
            None
        });
    }
    for keys in unknown.chunks(KEYS_MAX) {
        for (key, name) in getent(database, keys).lines().filter_map(&parse) {
            known.insert(key, Some(name));
        }
    }
}

/// `http 80/tcp www`.
fn parse_service(line: &str) -> Option<(&str, u16, Protocol)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let (port, protocol) = words.next()?.split_once('/')?;
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = protocols.into_iter().find(|known| known.name() == protocol)?;
    Some((name, port.parse().ok()?, protocol))
}

/// What getent prints. Keys that it does not find it leaves out; where there is no getent, all are.
fn getent(database: &str, keys: &[String]) -> String {
    let mut command = Command::new("getent");
    command.arg(database).arg("--").args(keys).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_names_are_found_both_ways() {
        let names = SystemNames::default();
        assert_eq!(names.port_of("http", Protocol::Tcp), Some(80));
        assert_eq!(names.port_of("http", Protocol::Sctp), None);
        assert_eq!(names.service_of(443, Protocol::Tcp).as_deref(), Some("https"));
        assert_eq!(names.address_of("localhost"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(names.host_of(IpAddr::V4(Ipv4Addr::LOCALHOST)).as_deref(), Some("localhost"));
    }

    #[test]
    fn what_is_no_name_is_not_looked_up() {
        let names = SystemNames::default();
        for name in ["", "-1", "65536", "http/tcp", "/", "--help"] {
            assert_eq!(names.port_of(name, Protocol::Tcp), None, "{name:?}");
        }
        assert_eq!(names.address_of(""), None);
    }
}
