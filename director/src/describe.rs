//! What two settings differ in, in words: one line a change, the same for every command.
//!
//! Pure. Empty means that nothing changes that workers or people would notice, and then nothing is published.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use ctl::config::{
    ClientAddress, ConnectionsConfig, Drain, Family, Forwarding, NatConfig, Netmask, Persistence,
    PersistenceEngine, RealServerConfig, RealServerId, ServiceConfig, ServiceId, Timeouts, VirtualAddress,
};
use ctl::protocol::MacSource;
use scheduler::SchedulerFlags;

use crate::draft::Settings;
use crate::utc;

/// What changes from `old` to `new`.
pub fn describe(old: &Settings, new: &Settings) -> Vec<String> {
    let (old_by_id, new_by_id) = (by_id(old), by_id(new));
    let mut lines = Vec::new();
    connections(&old.connections, &new.connections, &mut lines);
    local_addresses(&old.nat, &new.nat, &mut lines);
    for gone in old.services.iter().filter(|service| !new_by_id.contains_key(&service.id)) {
        let title = title(gone.id);
        lines.push(match gone.real_servers.len() {
            0 => format!("removed {title}"),
            1 => format!("removed {title} with its real server"),
            count => format!("removed {title} with its {count} real servers"),
        });
    }
    for service in &new.services {
        match old_by_id.get(&service.id) {
            Some(before) => changed_service(before, service, &mut lines),
            None => added_service(service, &mut lines),
        }
    }
    lines
}

fn by_id(settings: &Settings) -> HashMap<ServiceId, &ServiceConfig> {
    settings.services.iter().map(|service| (service.id, service)).collect()
}

fn real_servers_by_id(service: &ServiceConfig) -> HashMap<RealServerId, &RealServerConfig> {
    service.real_servers.iter().map(|real_server| (real_server.id(), real_server)).collect()
}

/// `VIP tcp 192.0.2.10:80`, `group web`.
fn title(id: ServiceId) -> String {
    match id {
        ServiceId::Virtual(_) => format!("VIP {id}"),
        ServiceId::Group(_) => id.to_string(),
    }
}

/// Adds a line where `old` and `new` differ.
fn changed<T: Display + PartialEq>(what: impl Display, old: T, new: T, lines: &mut Vec<String>) {
    if old != new {
        lines.push(format!("{what}: {old} -> {new}"));
    }
}

fn connections(old: &ConnectionsConfig, new: &ConnectionsConfig, lines: &mut Vec<String>) {
    timeouts("", &old.timeouts, &new.timeouts, &Timeouts::IPVS, lines);
    for ((name, old), (_, new)) in old.options().into_iter().zip(new.options()) {
        changed(name, old, new, lines);
    }
}

/// Their order means nothing.
fn local_addresses(old: &NatConfig, new: &NatConfig, lines: &mut Vec<String>) {
    let (before, after): (HashSet<_>, HashSet<_>) =
        (old.local_addresses.iter().collect(), new.local_addresses.iter().collect());
    let gone = old.local_addresses.iter().filter(|address| !after.contains(address));
    lines.extend(gone.map(|address| format!("removed local address {address}")));
    let come = new.local_addresses.iter().filter(|address| !before.contains(address));
    lines.extend(come.map(|address| format!("added local address {address}")));
}

/// What is absent is of the wider scope; where that is known, its value is told.
fn timeouts(of: &str, old: &Timeouts, new: &Timeouts, wider: &Timeouts, lines: &mut Vec<String>) {
    let said = |own: Option<u32>, wider: Option<u32>| match (own, wider) {
        (Some(seconds), _) => format!("{seconds} s"),
        (None, Some(seconds)) => format!("default ({seconds} s)"),
        (None, None) => "default".to_owned(),
    };
    let values = old.values().into_iter().zip(new.values()).zip(wider.values());
    for (name, ((old, new), wider)) in Timeouts::NAMES.iter().zip(values) {
        if old != new {
            lines.push(format!("timeout {name}{of}: {} -> {}", said(old, wider), said(new, wider)));
        }
    }
}

fn added_service(service: &ServiceConfig, lines: &mut Vec<String>) {
    let mut line = format!("added {}, scheduler {}", title(service.id), service.scheduler);
    if service.scheduler_flags != SchedulerFlags::default() {
        line += &format!(" with {}", flags(service.scheduler_flags));
    }
    if matches!(service.id, ServiceId::Group(_)) && service.family() == Family::V6 {
        line += ", IPv6";
    }
    if let Some(fwmark) = service.fwmark {
        line += &format!(", fwmark {fwmark}");
    }
    if service.slow_start_seconds > 0 {
        line += &format!(", slow start {} s", service.slow_start_seconds);
    }
    if let Some(persistence) = service.persistence {
        line += &format!(", persistence {}", persistent(Some(persistence)));
    }
    if service.one_packet {
        line += ", one-packet scheduling";
    }
    lines.push(line);
    timeouts(
        &format!(" of {}", service.id),
        &Timeouts::default(),
        &service.timeouts,
        &Timeouts::default(),
        lines,
    );
    lines.extend(service.members.iter().map(|member| format!("added member {member} to {}", service.id)));
    lines.extend(service.real_servers.iter().map(|real_server| added(service.id, real_server)));
}

fn changed_service(old: &ServiceConfig, new: &ServiceConfig, lines: &mut Vec<String>) {
    let id = new.id;
    changed(format_args!("scheduler of {id}"), old.scheduler, new.scheduler, lines);
    changed(
        format_args!("scheduler flags of {id}"),
        flags(old.scheduler_flags),
        flags(new.scheduler_flags),
        lines,
    );
    let slow_start = |service: &ServiceConfig| format!("{} s", service.slow_start_seconds);
    changed(format_args!("slow start of {id}"), slow_start(old), slow_start(new), lines);
    let (before, after) = (persistent(old.persistence), persistent(new.persistence));
    changed(format_args!("persistence of {id}"), before, after, lines);
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    changed(format_args!("one-packet scheduling of {id}"), on(old.one_packet), on(new.one_packet), lines);
    let mark = |mark: Option<u32>| mark.map_or("none".to_owned(), |mark| mark.to_string());
    changed(format_args!("fwmark of {id}"), mark(old.fwmark), mark(new.fwmark), lines);
    changed(format_args!("family of {id}"), old.family(), new.family(), lines);
    timeouts(&format!(" of {id}"), &old.timeouts, &new.timeouts, &Timeouts::default(), lines);
    members(id, &old.members, &new.members, lines);
    if old.real_servers != new.real_servers {
        real_servers(old, new, lines);
    }
}

/// Their order means nothing.
fn members(id: ServiceId, old: &[VirtualAddress], new: &[VirtualAddress], lines: &mut Vec<String>) {
    let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), new.iter().collect());
    let gone = old.iter().filter(|member| !after.contains(member));
    lines.extend(gone.map(|member| format!("removed member {member} from {id}")));
    let come = new.iter().filter(|member| !before.contains(member));
    lines.extend(come.map(|member| format!("added member {member} to {id}")));
}

fn real_servers(old: &ServiceConfig, new: &ServiceConfig, lines: &mut Vec<String>) {
    let id = new.id;
    let (old_ones, new_ones) = (real_servers_by_id(old), real_servers_by_id(new));
    for gone in old.real_servers.iter().filter(|real_server| !new_ones.contains_key(&real_server.id())) {
        lines.push(format!("removed real server {} from {id}", gone.id()));
    }
    for real_server in &new.real_servers {
        match old_ones.get(&real_server.id()) {
            Some(before) => changed_real_server(id, before, real_server, lines),
            None => lines.push(added(id, real_server)),
        }
    }
    let kept = |list: &[RealServerConfig], others: &HashMap<RealServerId, &RealServerConfig>| {
        list.iter().map(RealServerConfig::id).filter(|id| others.contains_key(id)).collect::<Vec<_>>()
    };
    // A new one in the middle changes the order that schedulers see, but its own line says enough.
    if kept(&old.real_servers, &new_ones) != kept(&new.real_servers, &old_ones) {
        lines.push(format!("reordered the real servers of {id}"));
    }
}

fn added(service: ServiceId, real_server: &RealServerConfig) -> String {
    let mut line =
        format!("added real server {} to {service}, weight {}", real_server.id(), real_server.weight);
    if real_server.forwarding != Forwarding::Dr {
        line += &format!(", forwarding {}", forwarding(real_server));
    }
    if let Some(mac) = real_server.mac {
        line += &format!(", MAC {mac}");
    }
    if real_server.upper_threshold > 0 {
        line += &format!(", thresholds {}", thresholds(real_server));
    }
    if let Some(drain) = real_server.drain {
        line += &format!(", draining{}", draining(drain));
    }
    line
}

fn changed_real_server(
    service: ServiceId,
    old: &RealServerConfig,
    new: &RealServerConfig,
    lines: &mut Vec<String>,
) {
    let name = format!("real server {} of {service}", new.id());
    changed(format_args!("weight of {name}"), old.weight, new.weight, lines);
    changed(format_args!("forwarding of {name}"), forwarding(old), forwarding(new), lines);
    let source = |mac: Option<_>| mac.map_or(MacSource::Arp, MacSource::Static);
    if old.mac != new.mac {
        lines.push(format!("MAC of {name}: {} -> {}", source(old.mac), source(new.mac)));
    }
    changed(format_args!("thresholds of {name}"), thresholds(old), thresholds(new), lines);
    match (old.drain, new.drain) {
        (None, None) => {}
        (Some(old), Some(new)) if old == new => {}
        (_, Some(drain)) => lines.push(format!("draining {name}{}", draining(drain))),
        (Some(_), None) => lines.push(format!("ended draining {name}")),
    }
}

/// `dr`, `tunnel gue:6080:+c`, `fullnat with toa`.
fn forwarding(real_server: &RealServerConfig) -> String {
    let tunnel = real_server.tunnel().map_or(String::new(), |tunnel| format!(" {tunnel}"));
    let client_address = match real_server.client_address {
        ClientAddress::None => String::new(),
        other => format!(" with {other}"),
    };
    format!("{}{tunnel}{client_address}", real_server.forwarding)
}

/// `100/80`; the lower one may be left to IPVS.
fn thresholds(real_server: &RealServerConfig) -> String {
    match (real_server.upper_threshold, real_server.lower_threshold) {
        (0, 0) => "none".to_owned(),
        (upper, 0) => upper.to_string(),
        (upper, lower) => format!("{upper}/{lower}"),
    }
}

fn draining(drain: Drain) -> String {
    let until = drain.until_unix_seconds.map_or(String::new(), |until| {
        format!(", removed with its last connection or at {}", utc::text(until))
    });
    let kept = if drain.keep_persistent { ", its persistent clients stay" } else { "" };
    format!("{until}{kept}")
}

fn flags(flags: SchedulerFlags) -> String {
    let named = [(flags.fallback, "flag-1"), (flags.port, "flag-2"), (flags.flag_3, "flag-3")];
    let set: Vec<_> = named.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(", ") }
}

fn persistent(persistence: Option<Persistence>) -> String {
    let Some(Persistence { timeout_seconds, netmask, engine }) = persistence else { return "off".to_owned() };
    let netmask = match netmask {
        Netmask::Host => String::new(),
        Netmask::V4(mask) => format!(", netmask {mask}"),
        Netmask::V6(length) => format!(", prefix length {length}"),
    };
    let engine = match engine {
        None => "",
        Some(PersistenceEngine::Sip) => ", engine sip",
    };
    format!("{timeout_seconds} s{netmask}{engine}")
}
