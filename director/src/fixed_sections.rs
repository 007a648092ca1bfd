//! `director`, `ports` and `routes` are read once, at start: where a file to apply gives them, they must be what runs.

use ctl::config::{Config, DirectorConfig, PortConfig};
use ctl::protocol::{ErrorCode, ErrorReply};

/// A key of `director` that has its default counts as absent.
pub fn check(fixed: &Config, file: &Config) -> Result<(), ErrorReply> {
    let mut differing = differing_director_keys(&fixed.director, &file.director);
    if !file.ports.is_empty() && file.ports.len() != fixed.ports.len() {
        differing.push(format!("ports: the file has {}, {} run", file.ports.len(), fixed.ports.len()));
    } else {
        for (number, (given, running)) in file.ports.iter().zip(&fixed.ports).enumerate() {
            let keys = differing_port_keys(running, given);
            differing
                .extend(keys.into_iter().map(|key| format!("ports[{number}].{key}: differs from what runs")));
        }
    }
    if !file.routes.is_empty() && file.routes != fixed.routes {
        differing.push("routes: differ from what runs".to_owned());
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
    macro_rules! differing {
        ($($key:ident),+) => {{
            // Taken apart, so that a new key cannot be forgotten here.
            let DirectorConfig { $($key),+ } = given;
            [$((stringify!($key), *$key != default.$key && *$key != running.$key)),+]
        }};
    }
    let keys = differing!(
        worker_cpus,
        control_cpus,
        hugepages,
        memory_mib,
        connection_capacity_per_worker,
        template_capacity,
        service_capacity,
        real_server_capacity,
        control_socket,
        control_group,
        metrics_listen,
        ipv6,
        host_packets_per_second,
        icmp_packets_per_second,
        fragment_capacity_per_worker,
        eal_arguments,
        mbuf_count,
        mbuf_data_room
    );
    let differing = keys.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(key, _)| format!("director.{key}: differs from what runs")).collect()
}

fn differing_port_keys(running: &PortConfig, given: &PortConfig) -> Vec<&'static str> {
    macro_rules! differing {
        ($($key:ident),+) => {{
            let PortConfig { $($key),+ } = given;
            [$((stringify!($key), *$key != running.$key)),+]
        }};
    }
    let keys =
        differing!(name, device, addresses, rx_descriptors, tx_descriptors, mtu, host_interface, qinq, vlans);
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
