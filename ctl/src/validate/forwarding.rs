//! Checks of how packets reach a real server: does its method go with what else it says, and with its service?

use super::{Problem, Surroundings};
use crate::config::{
    ClientAddress, Family, Forwarding, Protocol, RealServerConfig, ServiceConfig, TunnelChecksum,
    TunnelConfig, TunnelType,
};

/// `prefix` stands before the real server's keys.
pub(super) fn check(
    prefix: &str,
    surroundings: &Surroundings<'_>,
    service: &ServiceConfig,
    real_server: &RealServerConfig,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(check_family(prefix, service, real_server));
    problems.extend(check_port(prefix, real_server));
    problems.extend(check_tunnel(prefix, real_server));
    problems.extend(check_client_address(prefix, service, real_server));
    problems.extend(check_full_nat(prefix, surroundings, service, real_server));
    problems
}

fn check_family(prefix: &str, service: &ServiceConfig, real_server: &RealServerConfig) -> Option<Problem> {
    let (own, wanted) = (Family::of(real_server.address), service.family());
    if own == wanted || real_server.forwarding == Forwarding::Tunnel {
        return None;
    }
    let message = format!("{} is {own}, and {} is {wanted}", real_server.address, service.id());
    let help = format!("give its {wanted} address, or reach it with forwarding = \"tunnel\"");
    Some(Problem::invalid(format!("{prefix}address"), message).help(help))
}

fn check_port(prefix: &str, real_server: &RealServerConfig) -> Option<Problem> {
    let place = format!("{prefix}port");
    let forwarding = real_server.forwarding;
    match real_server.port? {
        0 => {
            Some(Problem::invalid(place, "0 is no port").help("give a port from 1 to 65535, or leave it out"))
        }
        _ if forwarding.is_nat() => None,
        port => {
            let message = format!("{port} is given, and forwarding by {forwarding} keeps the client's port");
            let help = "leave it out, or give forwarding = \"nat\" or \"fullnat\"";
            Some(Problem::invalid(place, message).help(help))
        }
    }
}

fn check_tunnel(prefix: &str, real_server: &RealServerConfig) -> Vec<Problem> {
    let Some(tunnel) = real_server.tunnel else { return Vec::new() };
    let problem = |key: &str, message: String, help: &str| {
        Problem::invalid(format!("{prefix}tunnel{key}"), message).help(help)
    };
    if real_server.forwarding != Forwarding::Tunnel {
        let message = format!("it is given, and forwarding is {}", real_server.forwarding);
        return vec![problem("", message, "leave it out, or give forwarding = \"tunnel\"")];
    }
    let TunnelConfig { kind, port, checksum } = tunnel;
    let mut problems = Vec::new();
    match (kind, port) {
        (TunnelType::Gue, None) => {
            let help = "give the UDP port on which the real server takes GUE, such as 6080";
            problems.push(problem(".port", "it is missing, and gue needs one".to_owned(), help));
        }
        (TunnelType::Gue, Some(0)) => {
            problems.push(problem(".port", "0 is no port".to_owned(), PORT_HELP_OF_GUE))
        }
        (TunnelType::Gue, Some(_)) | (_, None) => {}
        (kind, Some(_)) => {
            problems.push(problem(
                ".port",
                format!("{kind} has no port"),
                "leave it out, or give type = \"gue\"",
            ));
        }
    }
    match (kind, checksum) {
        (_, TunnelChecksum::None) | (TunnelType::Gue, _) | (TunnelType::Gre, TunnelChecksum::Csum) => {}
        (TunnelType::Ipip, _) => {
            problems.push(problem(
                ".checksum",
                "ipip has no checksum".to_owned(),
                "leave it out, or give another type",
            ));
        }
        (TunnelType::Gre, TunnelChecksum::Remcsum) => {
            let message = "gre has no remote checksum".to_owned();
            problems.push(problem(".checksum", message, "give \"none\" or \"csum\", or type = \"gue\""));
        }
    }
    problems
}

const PORT_HELP_OF_GUE: &str = "give a port from 1 to 65535";

pub(super) fn check_client_address(
    prefix: &str,
    service: &ServiceConfig,
    real_server: &RealServerConfig,
) -> Option<Problem> {
    let RealServerConfig { client_address, forwarding, .. } = real_server;
    if *client_address == ClientAddress::None {
        return None;
    }
    let place = format!("{prefix}client_address");
    if *forwarding != Forwarding::FullNat {
        let message = format!(
            "{client_address} is of full NAT, and forwarding by {forwarding} leaves the client's address as it is"
        );
        return Some(Problem::invalid(place, message).help("leave it out, or give forwarding = \"fullnat\""));
    }
    let other = service.addresses().find(|vip| vip.protocol != Protocol::Tcp)?;
    let message = format!("{client_address} is of TCP, and the service has {other}");
    Some(Problem::invalid(place, message).help("give \"none\""))
}

fn check_full_nat(
    prefix: &str,
    surroundings: &Surroundings<'_>,
    service: &ServiceConfig,
    real_server: &RealServerConfig,
) -> Option<Problem> {
    if real_server.forwarding != Forwarding::FullNat {
        return None;
    }
    let place = format!("{prefix}forwarding");
    if service.one_packet {
        let message =
            "fullnat keeps a local port for each client, which a one-packet service has no connection for";
        return Some(Problem::invalid(place, message).help("give another method, or leave one_packet out"));
    }
    let family = Family::of(real_server.address);
    let nat = surroundings.nat?;
    if nat.local_addresses.iter().any(|address| Family::of(*address) == family) {
        return None;
    }
    let message = format!("fullnat needs an {family} address in nat.local_addresses, and there is none");
    let help = "add one: [nat] local_addresses = [\"...\"] in the file, or dr-ctl add-lip";
    Some(Problem::invalid(place, message).help(help))
}
