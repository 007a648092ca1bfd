//! Commands as edits of the configured services, and what two configurations differ in, in words.
//!
//! Pure: what runs goes in, what is to run comes out. One list of changes for all commands, `apply` included.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ctl::config::{Config, DirectorConfig, PortConfig, RealServerConfig, ServiceConfig, ServiceId};
use ctl::protocol::{Command, ErrorCode, ErrorReply, MacSource, SetRs};
use ctl::validate;

/// The services that `command` asks for where `running` run, checked; none where it is no change. `fixed` gives
/// `director` and `ports`.
pub fn candidate(
    fixed: &Config,
    running: &[ServiceConfig],
    command: &Command,
) -> Result<Option<Vec<ServiceConfig>>, ErrorReply> {
    let (director, ports) = (&fixed.director, &fixed.ports[..]);
    let mut services = running.to_vec();
    match command {
        Command::AddVip(new) => {
            check(validate::validate_new_service(director, ports, &services, new))?;
            services.push(new.clone());
        }
        Command::SetVip(set) => service(&mut services, set.service)?.scheduler = set.scheduler,
        Command::DelVip(one) => {
            service(&mut services, one.service)?;
            services.retain(|service| service.id() != one.service);
        }
        Command::AddRs(add) => {
            service(&mut services, add.service)?;
            check(validate::validate_new_real_server(
                director,
                ports,
                &services,
                add.service,
                &add.real_server,
            ))?;
            service(&mut services, add.service)?.real_servers.push(add.real_server.clone());
        }
        Command::SetRs(set) => {
            edit(real_server(&mut services, set.service, set.address)?, set);
            // No weight and no drain is invalid.
            if let Some(mac) = set.mac {
                set_mac(&mut services, set.address, mac);
                check(validate::validate_services(director, ports, &services))?;
            }
        }
        Command::DelRs(one) => {
            real_server(&mut services, one.service, one.address)?;
            service(&mut services, one.service)?.real_servers.retain(|rs| rs.address != one.address);
        }
        Command::DrainRs(one) => real_server(&mut services, one.service, one.address)?.drain = true,
        Command::Apply(apply) => {
            check_fixed_sections(director, ports, &apply.config)?;
            check(validate::validate_services(director, ports, &apply.config.services))?;
            services.clone_from(&apply.config.services);
        }
        Command::Show(_)
        | Command::Stats(_)
        | Command::Connections(_)
        | Command::Neighbours
        | Command::Status
        | Command::Config => return Ok(None),
    }
    Ok(Some(services))
}

fn edit(real_server: &mut RealServerConfig, set: &SetRs) {
    real_server.weight = set.weight.unwrap_or(real_server.weight);
    real_server.drain = set.drain.unwrap_or(real_server.drain);
}

/// A MAC belongs to the host: every service that has this real server gets it.
fn set_mac(services: &mut [ServiceConfig], address: Ipv4Addr, mac: MacSource) {
    let all = services.iter_mut().flat_map(|service| &mut service.real_servers);
    for real_server in all.filter(|real_server| real_server.address == address) {
        real_server.mac = match mac {
            MacSource::Arp => None,
            MacSource::Static(mac) => Some(mac),
        };
    }
}

fn check(problems: Vec<validate::Problem>) -> Result<(), ErrorReply> {
    if problems.is_empty() { Ok(()) } else { Err(ErrorReply::from_problems(&problems)) }
}

fn service(services: &mut [ServiceConfig], id: ServiceId) -> Result<&mut ServiceConfig, ErrorReply> {
    services.iter_mut().find(|service| service.id() == id).ok_or_else(|| no_service(id))
}

fn real_server(
    services: &mut [ServiceConfig],
    id: ServiceId,
    address: Ipv4Addr,
) -> Result<&mut RealServerConfig, ErrorReply> {
    let mut real_servers = service(services, id)?.real_servers.iter_mut();
    real_servers.find(|real_server| real_server.address == address).ok_or_else(|| {
        ErrorReply::new(ErrorCode::NotFound, format!("virtual service {id} has no real server {address}"))
            .with_help("`dr-ctl show` lists the real servers of each virtual service")
    })
}

/// No such virtual service runs.
pub fn no_service(id: ServiceId) -> ErrorReply {
    ErrorReply::new(ErrorCode::NotFound, format!("no virtual service {id}"))
        .with_help("`dr-ctl show` lists the virtual services; `dr-ctl add-vip` adds one")
}

/// `director` and `ports` are read once, at start: where the file gives them they must be what runs. A key that has
/// its default counts as absent.
fn check_fixed_sections(
    director: &DirectorConfig,
    ports: &[PortConfig],
    file: &Config,
) -> Result<(), ErrorReply> {
    let mut differing = differing_director_keys(director, &file.director);
    if !file.ports.is_empty() && file.ports.len() != ports.len() {
        differing.push(format!("ports: the file has {}, {} run", file.ports.len(), ports.len()));
    } else {
        for (number, (given, running)) in file.ports.iter().zip(ports).enumerate() {
            let keys = differing_port_keys(running, given);
            differing
                .extend(keys.into_iter().map(|key| format!("ports[{number}].{key}: differs from what runs")));
        }
    }
    if differing.is_empty() {
        return Ok(());
    }
    let message = format!("{}; a change of it needs a restart", differing.join("; "));
    let help = "restart dr-director with this file, or take the keys out of what is applied";
    Err(ErrorReply::new(ErrorCode::Invalid, message).with_help(help))
}

fn differing_director_keys(running: &DirectorConfig, given: &DirectorConfig) -> Vec<String> {
    let default = DirectorConfig::default();
    // Taken apart, so that a new key cannot be forgotten here.
    let DirectorConfig {
        worker_cpus,
        control_cpus,
        hugepages,
        memory_mib,
        connection_capacity_per_worker,
        service_capacity,
        real_server_capacity,
        control_socket,
        control_group,
        metrics_listen,
        eal_arguments,
        mbuf_count,
        mbuf_data_room,
    } = given;
    macro_rules! differing {
        ($($key:ident),+) => {
            [$((stringify!($key), *$key != default.$key && *$key != running.$key)),+]
        };
    }
    let keys = differing!(
        worker_cpus,
        control_cpus,
        hugepages,
        memory_mib,
        connection_capacity_per_worker,
        service_capacity,
        real_server_capacity,
        control_socket,
        control_group,
        metrics_listen,
        eal_arguments,
        mbuf_count,
        mbuf_data_room
    );
    let differing = keys.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| format!("director.{key}: differs from what runs")).collect()
}

fn differing_port_keys(running: &PortConfig, given: &PortConfig) -> Vec<&'static str> {
    let PortConfig { name, device, addresses, rx_descriptors, tx_descriptors, mtu } = given;
    macro_rules! differing {
        ($($key:ident),+) => { [$((stringify!($key), *$key != running.$key)),+] };
    }
    let keys = differing!(name, device, addresses, rx_descriptors, tx_descriptors, mtu);
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// What changes from `old` to `new`, one line each; empty: nothing that workers or people would notice.
pub fn describe(old: &[ServiceConfig], new: &[ServiceConfig]) -> Vec<String> {
    let old_by_id: HashMap<ServiceId, &ServiceConfig> =
        old.iter().map(|service| (service.id(), service)).collect();
    let new_by_id: HashMap<ServiceId, &ServiceConfig> =
        new.iter().map(|service| (service.id(), service)).collect();
    let mut lines = Vec::new();
    for gone in old.iter().filter(|service| !new_by_id.contains_key(&service.id())) {
        lines.push(match gone.real_servers.len() {
            0 => format!("removed VIP {}", gone.id()),
            1 => format!("removed VIP {} with its real server", gone.id()),
            count => format!("removed VIP {} with its {count} real servers", gone.id()),
        });
    }
    for service in new {
        match old_by_id.get(&service.id()) {
            Some(before) => describe_service(before, service, &mut lines),
            None => {
                lines.push(format!("added VIP {}, scheduler {}", service.id(), service.scheduler));
                lines.extend(service.real_servers.iter().map(|real_server| added(service.id(), real_server)));
            }
        }
    }
    lines
}

fn added(service: ServiceId, real_server: &RealServerConfig) -> String {
    let mut line =
        format!("added real server {} to {service}, weight {}", real_server.address, real_server.weight);
    if let Some(mac) = real_server.mac {
        line += &format!(", MAC {mac}");
    }
    if real_server.drain {
        line += ", draining";
    }
    line
}

fn describe_service(old: &ServiceConfig, new: &ServiceConfig, lines: &mut Vec<String>) {
    let id = new.id();
    if old.scheduler != new.scheduler {
        lines.push(format!("scheduler of {id}: {} -> {}", old.scheduler, new.scheduler));
    }
    if old.real_servers == new.real_servers {
        return;
    }
    let by_address = |service: &ServiceConfig| -> HashMap<Ipv4Addr, RealServerConfig> {
        service.real_servers.iter().map(|real_server| (real_server.address, real_server.clone())).collect()
    };
    let (old_ones, new_ones) = (by_address(old), by_address(new));
    for gone in old.real_servers.iter().filter(|real_server| !new_ones.contains_key(&real_server.address)) {
        lines.push(format!("removed real server {} from {id}", gone.address));
    }
    for real_server in &new.real_servers {
        match old_ones.get(&real_server.address) {
            Some(before) => describe_real_server(id, before, real_server, lines),
            None => lines.push(added(id, real_server)),
        }
    }
    let kept = |list: &[RealServerConfig], others: &HashMap<Ipv4Addr, RealServerConfig>| -> Vec<Ipv4Addr> {
        list.iter()
            .map(|real_server| real_server.address)
            .filter(|address| others.contains_key(address))
            .collect()
    };
    // A new one in the middle changes the order that schedulers see, but its own line says enough.
    if kept(&old.real_servers, &new_ones) != kept(&new.real_servers, &old_ones) {
        lines.push(format!("reordered the real servers of {id}"));
    }
}

fn describe_real_server(
    service: ServiceId,
    old: &RealServerConfig,
    new: &RealServerConfig,
    lines: &mut Vec<String>,
) {
    let name = format!("real server {} of {service}", new.address);
    if old.weight != new.weight {
        lines.push(format!("weight of {name}: {} -> {}", old.weight, new.weight));
    }
    let source = |mac: Option<_>| mac.map_or(MacSource::Arp, MacSource::Static);
    if old.mac != new.mac {
        lines.push(format!("MAC of {name}: {} -> {}", source(old.mac), source(new.mac)));
    }
    match (old.drain, new.drain) {
        (false, true) => lines.push(format!("draining {name}")),
        (true, false) => lines.push(format!("ended draining {name}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use ctl::protocol::{AddRs, Apply, OneRealServer, OneService, SetVip};
    use scheduler::Algorithm;

    use super::*;

    const FILE: &str = r#"
        [director]
        service_capacity = 100
        [[ports]]
        name = "inside"
        device = "memory0"
        addresses = ["10.0.0.1/24"]
        [[services]]
        protocol = "tcp"
        address = "192.0.2.10"
        port = 80
        real_servers = [
            { address = "10.0.0.11" },
            { address = "10.0.0.12", weight = 2 },
            { address = "10.0.0.13" },
        ]
        [[services]]
        protocol = "udp"
        address = "192.0.2.10"
        port = 53
        scheduler = "rr"
    "#;

    fn config(text: &str) -> Config {
        Config::from_toml(text, "test").unwrap()
    }

    fn first(config: &Config) -> ServiceId {
        config.services[0].id()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    /// What `command` would change, in words.
    fn changes(command: &Command) -> Result<Vec<String>, ErrorReply> {
        let running = config(FILE);
        let candidate = candidate(&running, &running.services, command)?.expect("a change");
        Ok(describe(&running.services, &candidate))
    }

    fn applied(text: &str) -> Result<Vec<String>, ErrorReply> {
        changes(&Command::Apply(Apply { config: config(text), dry_run: false }))
    }

    #[test]
    fn single_changes_are_told_in_one_line() {
        let running = config(FILE);
        let service = first(&running);
        let set = SetRs { service, address: address("10.0.0.11"), weight: None, mac: None, drain: None };
        let mac: ctl::mac::MacAddress = "02:00:00:00:00:0b".parse().unwrap();
        let new = RealServerConfig { address: address("10.0.0.14"), weight: 9, mac: Some(mac), drain: true };
        for (command, line) in [
            (
                Command::DelVip(OneService { service }),
                "removed VIP tcp 192.0.2.10:80 with its 3 real servers",
            ),
            (
                Command::SetVip(SetVip { service, scheduler: Algorithm::Wrr }),
                "scheduler of tcp 192.0.2.10:80: wlc -> wrr",
            ),
            (
                Command::AddRs(AddRs { service, real_server: new }),
                "added real server 10.0.0.14 to tcp 192.0.2.10:80, weight 9, MAC 02:00:00:00:00:0b, draining",
            ),
            (
                Command::SetRs(SetRs { weight: Some(5), ..set.clone() }),
                "weight of real server 10.0.0.11 of tcp 192.0.2.10:80: 1 -> 5",
            ),
            (
                Command::SetRs(SetRs { mac: Some(MacSource::Static(mac)), ..set.clone() }),
                "MAC of real server 10.0.0.11 of tcp 192.0.2.10:80: arp -> 02:00:00:00:00:0b",
            ),
            (
                Command::DrainRs(OneRealServer { service, address: set.address }),
                "draining real server 10.0.0.11 of tcp 192.0.2.10:80",
            ),
            (
                Command::DelRs(OneRealServer { service, address: set.address }),
                "removed real server 10.0.0.11 from tcp 192.0.2.10:80",
            ),
        ] {
            assert_eq!(changes(&command).unwrap(), [line], "{command:?}");
        }
        for nothing in [
            Command::SetRs(SetRs { weight: Some(1), ..set.clone() }),
            Command::SetRs(set),
            Command::SetVip(SetVip { service, scheduler: Algorithm::Wlc }),
        ] {
            assert!(changes(&nothing).unwrap().is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn what_does_not_exist_or_does_already_is_refused_by_its_code() {
        let running = config(FILE);
        let service = first(&running);
        let missing = ServiceId { port: 81, ..service };
        let real_server =
            RealServerConfig { address: address("10.0.0.11"), weight: 1, mac: None, drain: false };
        let outside = RealServerConfig { address: address("10.1.0.11"), ..real_server.clone() };
        let new = RealServerConfig { address: address("10.0.0.99"), ..real_server.clone() };
        for (command, code) in [
            (Command::DelVip(OneService { service: missing }), ErrorCode::NotFound),
            (Command::SetVip(SetVip { service: missing, scheduler: Algorithm::Rr }), ErrorCode::NotFound),
            (Command::AddVip(running.services[0].clone()), ErrorCode::Exists),
            (Command::AddRs(AddRs { service: missing, real_server: new }), ErrorCode::NotFound),
            (Command::AddRs(AddRs { service, real_server }), ErrorCode::Exists),
            (Command::AddRs(AddRs { service, real_server: outside }), ErrorCode::Invalid),
            (Command::DelRs(OneRealServer { service, address: address("10.0.0.99") }), ErrorCode::NotFound),
            (Command::DrainRs(OneRealServer { service, address: address("10.0.0.99") }), ErrorCode::NotFound),
        ] {
            let error = changes(&command).unwrap_err();
            assert_eq!(error.code, code, "{command:?}: {}", error.message);
        }
    }

    #[test]
    fn apply_tells_every_difference_and_nothing_of_what_stays() {
        assert_eq!(applied(FILE).unwrap(), Vec::<String>::new());
        let text = FILE
            .replace(r#"{ address = "10.0.0.11" },"#, "")
            .replace("weight = 2", "weight = 3, drain = true")
            .replace("udp", "tcp")
            .replace("53", "443");
        assert_eq!(
            applied(&text).unwrap(),
            [
                "removed VIP udp 192.0.2.10:53",
                "removed real server 10.0.0.11 from tcp 192.0.2.10:80",
                "weight of real server 10.0.0.12 of tcp 192.0.2.10:80: 2 -> 3",
                "draining real server 10.0.0.12 of tcp 192.0.2.10:80",
                "added VIP tcp 192.0.2.10:443, scheduler rr",
            ]
        );
        let swapped = FILE.replace("0.11", "0.x").replace("0.13", "0.11").replace("0.x", "0.13");
        assert_eq!(applied(&swapped).unwrap(), ["reordered the real servers of tcp 192.0.2.10:80"]);
        assert_eq!(applied("").unwrap().len(), 2, "an empty file removes both");
    }

    #[test]
    fn apply_of_other_fixed_sections_is_refused_with_the_keys() {
        let services_only = FILE.split_once("[[services]]").unwrap().1;
        assert_eq!(applied(&format!("[[services]]{services_only}")).unwrap(), Vec::<String>::new());
        for (from, to, key) in [
            ("service_capacity = 100", "service_capacity = 101", "director.service_capacity"),
            ("service_capacity = 100", "worker_cpus = [1]", "director.worker_cpus"),
            ("memory0", "memory1", "ports[0].device"),
            ("10.0.0.1/24", "10.0.0.1/25", "ports[0].addresses"),
            (
                "[[services]]\n        protocol = \"udp\"",
                "[[ports]]\nname=\"b\"\ndevice=\"c\"\naddresses=[]\n[[services]]\n        protocol = \"udp\"",
                "ports: the file has 2, 1 run",
            ),
        ] {
            let text = FILE.replace(from, to);
            assert_ne!(text, FILE, "{from}");
            let error = applied(&text).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid);
            assert!(
                error.message.contains(key) && error.message.contains("needs a restart"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn invalid_apply_names_its_place() {
        let error = applied(&FILE.replace("10.0.0.13", "10.9.0.13")).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.message.contains("services[0].real_servers[2].address"), "{}", error.message);
    }
}
