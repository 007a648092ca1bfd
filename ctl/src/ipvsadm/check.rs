//! What ipvsadm checks once a command line is read: which options go with which command and tunnel type, in the order
//! of its tables, and what the options mean together.

use super::command::{Action, CommandLine, Family, Forwarding, Given, Opt, TunnelType};
use super::misuse::Misuse;
use crate::config::Protocol;

/// What a command or tunnel type says of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Required,
    Illegal,
    /// At most one of these.
    Exclusive,
    Optional,
}

/// Checks a command line and puts in what it left out.
pub(super) fn check(command: &mut CommandLine) -> Result<(), Misuse> {
    check_options(command.action, command.given)?;
    match command.action {
        Action::AddService | Action::EditService => check_service(command),
        Action::AddServer | Action::EditServer => check_server(command),
        Action::List => check_list(command.given),
        _ => Ok(()),
    }
}

fn rule(action: Action, option: Opt) -> Rule {
    use Opt::*;
    use Rule::{Exclusive, Illegal, Optional, Required};
    match (action, option) {
        (Action::AddService | Action::EditService, Service) => Required,
        (
            Action::AddService | Action::EditService,
            Scheduler | Persistent | Netmask | OnePacket | PersistenceEngine | SchedulerFlags,
        ) => Optional,
        (Action::DeleteService, Service) => Required,
        (Action::AddServer | Action::EditServer | Action::DeleteServer, Service | Server) => Required,
        (
            Action::AddServer | Action::EditServer,
            Forwarding | Weight | UpperThreshold | LowerThreshold | TunType | TunPort | TunNocsum | TunCsum
            | TunRemcsum,
        ) => Optional,
        (Action::List, Connection | Service | Timeout | Daemon) => Exclusive,
        (
            Action::List,
            Numeric | Stats | Rate | Thresholds | PersistentConn | NoSort | SyncId | Exact | TunInfo,
        ) => Optional,
        (Action::StartDaemon, McastInterface | SyncId | McastGroup | McastPort | McastTtl | SyncMaxlen) => {
            Optional
        }
        (Action::StopDaemon, SyncId) => Optional,
        (Action::Save, Numeric) => Optional,
        (Action::Zero, Service) => Optional,
        _ => Illegal,
    }
}

fn check_options(action: Action, given: Given) -> Result<(), Misuse> {
    let command = action.name();
    let mut exclusive = None;
    for (option, name) in Opt::ALL {
        match (rule(action, option), given.has(option)) {
            (Rule::Required, false) => return Err(Misuse::Missing { option: name, command }),
            (Rule::Illegal, true) => return Err(Misuse::Illegal { option: name, command }),
            (Rule::Exclusive, true) => match exclusive {
                None => exclusive = Some(name),
                Some(other) => return Err(Misuse::Conflict { option: name, other, command }),
            },
            _ => {}
        }
    }
    Ok(())
}

fn check_service(command: &mut CommandLine) -> Result<(), Misuse> {
    let service = &mut command.service;
    if service.fwmark == 0 && service.port == 0 && service.persistence.is_none() {
        return Err(Misuse::ZeroPort);
    }
    if service.one_packet && service.fwmark == 0 && service.protocol != Some(Protocol::Udp) {
        return Err(Misuse::OnePacket);
    }
    if service.scheduler.is_empty() {
        service.scheduler = super::DEFAULT_SCHEDULER.to_owned();
    }
    Ok(())
}

fn check_server(command: &mut CommandLine) -> Result<(), Misuse> {
    let CommandLine { service, server, given, .. } = command;
    let tunnel = match server.forwarding {
        Forwarding::Tunnel(tunnel) => Some(tunnel.kind),
        _ => None,
    };
    if service.fwmark == 0 && server.forwarding != Forwarding::Masquerading {
        server.port = service.port;
    }
    if service.family != Some(Family::of(server.address)) && tunnel.is_none() {
        return Err(Misuse::Family);
    }
    let tunnel_options = [Opt::TunType, Opt::TunPort, Opt::TunNocsum, Opt::TunCsum, Opt::TunRemcsum];
    match tunnel {
        None if given.has_any(&tunnel_options) => Err(Misuse::TunnelWithoutMethod),
        None => Ok(()),
        Some(kind) => check_tunnel(kind, *given),
    }
}

fn check_tunnel(kind: TunnelType, given: Given) -> Result<(), Misuse> {
    let tunnel = kind.name();
    let mut exclusive = None;
    for option in [Opt::TunPort, Opt::TunNocsum, Opt::TunCsum, Opt::TunRemcsum] {
        let rule = match (kind, option) {
            (TunnelType::Gue, Opt::TunPort) => Rule::Required,
            (TunnelType::Gue, _) | (TunnelType::Gre, Opt::TunNocsum | Opt::TunCsum) => Rule::Exclusive,
            _ => Rule::Illegal,
        };
        let name = option.name();
        match (rule, given.has(option)) {
            (Rule::Required, false) => return Err(Misuse::TunnelMissing { option: name, tunnel }),
            (Rule::Illegal, true) => return Err(Misuse::TunnelIllegal { option: name, tunnel }),
            (Rule::Exclusive, true) => match exclusive {
                None => exclusive = Some(name),
                Some(other) => return Err(Misuse::TunnelConflict { option: name, other, tunnel }),
            },
            _ => {}
        }
    }
    Ok(())
}

fn check_list(given: Given) -> Result<(), Misuse> {
    let is_no_table = given.has_any(&[Opt::Connection, Opt::Timeout, Opt::Daemon]);
    let has_counts = given.has_any(&[Opt::Stats, Opt::Rate, Opt::Thresholds]);
    let is_no_entry = given.has_any(&[Opt::Timeout, Opt::Daemon]);
    if is_no_table && has_counts || is_no_entry && given.has(Opt::PersistentConn) {
        return Err(Misuse::ListConflict);
    }
    Ok(())
}
