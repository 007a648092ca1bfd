//! From ipvsadm's terms to the director's commands, and what the director cannot do.

use std::net::{IpAddr, Ipv4Addr};

use super::command::{Action, CommandLine, Family, Forwarding, Netmask, Service};
use super::director::{Director, Marks};
use super::failure::{Failure, Refusal};
use super::rows::engine_name;
use crate::config::{
    self, GroupName, Persistence, PersistenceEngine, RealServerConfig, ServiceConfig, ServiceId, Timeouts,
};
use crate::protocol::{
    AddRs, Command, Filter, OneRealServer, OneService, PersistenceChange, SetOptions, SetRs, SetVip,
};

/// The name of the group that `-A -f` makes.
pub(super) fn group_name(mark: u32) -> GroupName {
    format!("fwmark-{mark}").parse().expect("letters, a dash and at most 10 digits are a name")
}

/// The mark in such a name.
pub(super) fn mark_of_name(name: &str) -> Option<u32> {
    let mark: u32 = name.strip_prefix("fwmark-")?.parse().ok()?;
    (group_name(mark).as_str() == name).then_some(mark)
}

/// What names the service that a command line names, if the director can have one by that name.
pub(super) fn id_of(
    service: &Service,
    marks: &mut Marks,
    director: &mut dyn Director,
) -> Result<Option<ServiceId>, Failure> {
    match (service.fwmark, service.family, service.address, service.protocol) {
        (0, _, address, Some(protocol)) => Ok(Some(ServiceId::new(protocol, address, service.port))),
        (mark, Some(Family::V4), ..) if mark != 0 => Ok(marks.group(mark, director)?.map(ServiceId::Group)),
        _ => Ok(None),
    }
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
            of_server(line, id)?
        }
        Action::List | Action::Save | Action::Restore => unreachable!("they change nothing themselves"),
    }))
}

fn new_service(service: &Service) -> Result<ServiceConfig, Refusal> {
    let id = match (service.fwmark, service.family, service.address, service.protocol) {
        (0, _, address, Some(protocol)) => ServiceId::new(protocol, address, service.port),
        (mark, Some(Family::V4), ..) if mark != 0 => ServiceId::Group(group_name(mark)),
        _ => return Err(Refusal::Ipv6),
    };
    let mut config = ServiceConfig::new(id);
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

fn of_server(line: &CommandLine, id: ServiceId) -> Result<Command, Refusal> {
    let server = &line.server;
    let has_port_of_service = match id {
        ServiceId::Virtual(vip) => server.port == vip.port,
        ServiceId::Group(_) => server.port == 0,
    };
    if line.action == Action::DeleteServer {
        let address = server.address;
        if !has_port_of_service {
            return Err(Refusal::NoSuchDestination);
        }
        return Ok(Command::DelRs(OneRealServer { service: id, real_server: address.into() }));
    }
    // In the kernel's order: thresholds before everything.
    if server.lower_threshold > server.upper_threshold {
        return Err(Refusal::OutOfRange);
    }
    match server.forwarding {
        Forwarding::Masquerading => return Err(Refusal::Forwarding("-m")),
        Forwarding::Tunnel(_) => return Err(Refusal::Forwarding("-i")),
        Forwarding::DirectRouting | Forwarding::Local => {}
    }
    let IpAddr::V4(address) = server.address else { return Err(Refusal::Ipv6) };
    if is_no_host(address) {
        return Err(Refusal::NotUnicast);
    }
    if !has_port_of_service {
        return Err(Refusal::Port(server.port));
    }
    let weight = u16::try_from(server.weight).map_err(|_| Refusal::Weight)?;
    let (upper_threshold, lower_threshold) = (server.upper_threshold, server.lower_threshold);
    if line.action == Action::AddServer {
        let real_server =
            RealServerConfig { weight, upper_threshold, lower_threshold, ..RealServerConfig::new(address) };
        return Ok(Command::AddRs(AddRs { service: id, real_server }));
    }
    Ok(Command::SetRs(SetRs {
        weight: Some(weight),
        upper_threshold: Some(upper_threshold),
        lower_threshold: Some(lower_threshold),
        ..SetRs::new(id, IpAddr::from(address).into())
    }))
}

/// What the kernel's routing says of it: neither unicast nor its own.
fn is_no_host(address: Ipv4Addr) -> bool {
    address.is_unspecified() || address.is_multicast() || address.is_broadcast()
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
