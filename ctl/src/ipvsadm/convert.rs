//! From ipvsadm's terms to the director's commands, and what the director cannot do.

use std::net::IpAddr;

use super::command::{Action, CommandLine, Family, Forwarding, Netmask, Service};
use super::director::{Director, Marks, show};
use super::failure::{Failure, Refusal};
use super::rows::engine_name;
use crate::config::{
    self, GroupName, Persistence, PersistenceEngine, RealServerConfig, RealServerId, ServiceConfig,
    ServiceId, Timeouts, TunnelConfig,
};
use crate::protocol::{
    AddRs, Command, Filter, OneRealServer, OneService, PersistenceChange, SetOptions, SetRs, SetVip,
};

/// What the name of an IPv6 mark's group has behind the number.
const IPV6_TAIL: &str = "-ipv6";

/// The name of the group that `-A -f` makes.
pub(super) fn group_name(mark: u32, family: Family) -> GroupName {
    let tail = if family == Family::V6 { IPV6_TAIL } else { "" };
    let name = format!("fwmark-{mark}{tail}");
    name.parse().expect("letters, dashes and at most 11 digits are a name")
}

/// The mark in such a name.
pub(super) fn mark_of_name(name: &str) -> Option<u32> {
    let number = name.strip_prefix("fwmark-")?;
    let (number, family) = match number.strip_suffix(IPV6_TAIL) {
        Some(number) => (number, Family::V6),
        None => (number, Family::V4),
    };
    let mark: u32 = number.parse().ok()?;
    (group_name(mark, family).as_str() == name).then_some(mark)
}

/// What names the service that a command line names, if the director has one by that name.
pub(super) fn id_of(
    service: &Service,
    marks: &mut Marks,
    director: &mut dyn Director,
) -> Result<Option<ServiceId>, Failure> {
    match (service.fwmark, service.family, service.protocol) {
        (0, _, Some(protocol)) => Ok(Some(ServiceId::new(protocol, service.address, service.port))),
        (mark, Some(family), _) if mark != 0 => {
            Ok(marks.group(mark, family, director)?.map(ServiceId::Group))
        }
        _ => Ok(None),
    }
}

/// What names the real server that a command line names.
pub(super) fn server_id(line: &CommandLine, id: ServiceId) -> RealServerId {
    let port = Some(line.server.port).filter(|port| *port != 0);
    RealServerId { address: line.server.address, port }.within(id)
}

/// The command of a command line that changes something; none where it changes nothing (`--set 0 0 0`).
pub(super) fn command_of(
    line: &CommandLine,
    marks: &mut Marks,
    director: &mut dyn Director,
) -> Result<Option<Command>, Failure> {
    let service = &line.service;
    let is_zero_of_all = service.fwmark == 0 && service.address.is_unspecified() && service.port == 0;
    Ok(Some(match line.action {
        Action::AddService => {
            if service.fwmark != 0 && id_of(service, marks, director)?.is_some() {
                return Err(Refusal::ServiceExists.into());
            }
            Command::AddVip(new_service(service)?)
        }
        Action::Clear => Command::Clear,
        Action::Zero if is_zero_of_all => Command::Zero(Filter::default()),
        Action::SetTimeouts => return Ok(set_timeouts(line.timeouts)),
        Action::StartDaemon => return Err(Refusal::SyncDaemon.into()),
        Action::StopDaemon => return Err(Refusal::NoDaemon.into()),
        Action::EditService | Action::DeleteService | Action::Zero => {
            let id = id_of(service, marks, director)?.ok_or(Refusal::NoSuchService)?;
            match line.action {
                Action::EditService => Command::SetVip(edited_service(id, service)?),
                Action::DeleteService => Command::DelVip(OneService { service: id }),
                _ => Command::Zero(Filter { service: Some(id) }),
            }
        }
        Action::AddServer | Action::EditServer | Action::DeleteServer => {
            let id = id_of(service, marks, director)?.ok_or(Refusal::ServiceNotDefined)?;
            of_server(line, id, director)?
        }
        Action::List | Action::Save | Action::Restore => unreachable!("they change nothing themselves"),
    }))
}

fn new_service(service: &Service) -> Result<ServiceConfig, Refusal> {
    let (id, group_family) = match (service.fwmark, service.family, service.protocol) {
        (mark, Some(family), _) if mark != 0 => (ServiceId::Group(group_name(mark, family)), family),
        (_, _, Some(protocol)) => (ServiceId::new(protocol, service.address, service.port), Family::V4),
        _ => unreachable!("a service is named by a mark or by protocol, address and port"),
    };
    let mut config = ServiceConfig::new(id);
    config.group_family = group_family;
    config.fwmark = Some(service.fwmark).filter(|mark| *mark != 0);
    config.scheduler = service.scheduler.parse().map_err(|_| Refusal::SchedulerOrEngine)?;
    config.scheduler_flags = service.flags;
    config.persistence = persistence_of(service)?;
    config.one_packet = service.one_packet;
    Ok(config)
}

/// `-E` gives every attribute anew, also those that it does not name. What only dr-director has (slow start, timeouts
/// of the service, members) stays.
fn edited_service(id: ServiceId, service: &Service) -> Result<SetVip, Refusal> {
    let persistence = match persistence_of(service)? {
        Some(persistence) => PersistenceChange::On(persistence),
        None => PersistenceChange::Off,
    };
    Ok(SetVip {
        scheduler: Some(service.scheduler.parse().map_err(|_| Refusal::SchedulerOrEngine)?),
        scheduler_flags: Some(service.flags),
        persistence: Some(persistence),
        one_packet: Some(service.one_packet),
        ..SetVip::new(id)
    })
}

/// A netmask and an engine without `-p` have no effect, here as in the kernel, and are not kept.
fn persistence_of(service: &Service) -> Result<Option<Persistence>, Refusal> {
    let engine = match service.engine.as_str() {
        "" => None,
        name if name == engine_name(PersistenceEngine::Sip) => Some(PersistenceEngine::Sip),
        _ => return Err(Refusal::SchedulerOrEngine),
    };
    let netmask = match service.netmask {
        Netmask::V4(mask) => config::Netmask::ipv4(mask),
        Netmask::V6(length) => config::Netmask::ipv6(length),
    };
    Ok(service.persistence.map(|timeout_seconds| Persistence { timeout_seconds, netmask, engine }))
}

fn of_server(line: &CommandLine, id: ServiceId, director: &mut dyn Director) -> Result<Command, Failure> {
    let server = &line.server;
    let real_server = server_id(line, id);
    if line.action == Action::DeleteServer {
        // Of no real server here: one that is added with port 0 has the service's own.
        if server.port == 0 && id.port().is_some_and(|port| port != 0) {
            return Err(Refusal::NoSuchDestination.into());
        }
        return Ok(Command::DelRs(OneRealServer { service: id, real_server }));
    }
    // In the kernel's order: thresholds before everything.
    if server.lower_threshold > server.upper_threshold {
        return Err(Refusal::OutOfRange.into());
    }
    if is_no_host(server.address) {
        return Err(Refusal::NotUnicast.into());
    }
    let forwarding = match server.forwarding {
        Forwarding::Masquerading => config::Forwarding::Nat,
        Forwarding::Tunnel(_) => config::Forwarding::Tunnel,
        Forwarding::DirectRouting | Forwarding::Local => config::Forwarding::Dr,
    };
    let tunnel = match server.forwarding {
        Forwarding::Tunnel(tunnel) => Some(TunnelConfig::from(tunnel)),
        _ => None,
    };
    if let (Some(port), false) = (real_server.port, forwarding.is_nat()) {
        return Err(Refusal::Port(port).into());
    }
    let weight = u16::try_from(server.weight).map_err(|_| Refusal::Weight)?;
    let (upper_threshold, lower_threshold) = (server.upper_threshold, server.lower_threshold);
    if line.action == Action::AddServer {
        let real_server = RealServerConfig {
            port: real_server.port,
            weight,
            forwarding,
            tunnel: tunnel.and_then(TunnelConfig::unless_default),
            upper_threshold,
            lower_threshold,
            ..RealServerConfig::new(real_server.address)
        };
        return Ok(Command::AddRs(AddRs { service: id, real_server }));
    }
    // ipvsadm has no other word for full NAT, and to name NAT again is no wish to leave it.
    let keeps_full_nat =
        forwarding == config::Forwarding::Nat && is_behind_full_nat(id, real_server, director)?;
    Ok(Command::SetRs(SetRs {
        weight: Some(weight),
        forwarding: Some(if keeps_full_nat { config::Forwarding::FullNat } else { forwarding }),
        tunnel,
        upper_threshold: Some(upper_threshold),
        lower_threshold: Some(lower_threshold),
        ..SetRs::new(id, real_server)
    }))
}

fn is_behind_full_nat(
    id: ServiceId,
    real_server: RealServerId,
    director: &mut dyn Director,
) -> Result<bool, Failure> {
    let shown = show(director, id).map_err(|error| Failure::of_client(Action::EditServer, &error))?;
    let services = shown.into_iter().flat_map(|show| show.services);
    let mut real_servers = services.flat_map(|service| service.real_servers);
    let found = real_servers.find(|view| view.id() == real_server);
    Ok(found.is_some_and(|view| view.forwarding == config::Forwarding::FullNat))
}

/// What the kernel's routing says of it: neither unicast nor its own.
fn is_no_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_unspecified() || address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_multicast() || address.is_unicast_link_local()
        }
    }
}

/// 0 leaves one as it is.
fn set_timeouts([tcp, tcp_fin, udp]: [u32; 3]) -> Option<Command> {
    let given = |seconds: u32| Some(seconds).filter(|seconds| *seconds != 0);
    let timeouts = Timeouts {
        tcp_established: given(tcp),
        tcp_fin_wait: given(tcp_fin),
        udp: given(udp),
        ..Timeouts::default()
    };
    (!timeouts.is_empty()).then(|| Command::SetOptions(SetOptions { timeouts, ..SetOptions::default() }))
}
