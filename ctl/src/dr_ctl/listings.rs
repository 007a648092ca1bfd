//! The verbs that show what runs, as people read it. Words and columns are ipvsadm's where it has them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use ctl::config::{
    ClientAddress, ConnectionsConfig, Forwarding, Netmask, Persistence, PersistenceEngine, ServiceConfig,
    ServiceId, Timeouts,
};
use ctl::mac::MacAddress;
use ctl::protocol::{
    ConnectionView, Connections, ConnectionsQuery, EntryKind, Neighbours, RealServerState, RealServerView,
    ServiceView, Show, Stats, Status, TrafficCounters, TrafficRates,
};
use ctl::scheduler_flags;

use super::tables::Column::{Number, Text};
use super::tables::Table;

const NOTHING: &str = "-";

/// `ipvsadm -Ln`, with state and MAC address of every real server.
pub(super) fn show(show: &Show) -> String {
    let mut table = Table::new([
        Text("  -> RealServer:Port"),
        Text("Forward"),
        Number("Weight"),
        Text("State"),
        Text("MAC"),
        Text("Interface"),
        Text("Thresholds"),
        Number("PersistConn"),
        Number("ActiveConn"),
        Number("InActConn"),
    ]);
    for ServiceView { service, real_servers } in &show.services {
        table.line(describe_service(service));
        for member in &service.members {
            table.line(format!("  member {member}"));
        }
        for rs in real_servers {
            table.row([
                format!("  -> {}", describe_place(service.id, rs)),
                describe_forwarding(rs),
                rs.weight.to_string(),
                describe_state(rs),
                or_nothing(rs.mac),
                match rs.gateway {
                    None => rs.interface.clone(),
                    Some(gateway) => format!("{} via {gateway}", rs.interface),
                },
                describe_thresholds(rs),
                rs.persistent_connections.to_string(),
                rs.active_connections.to_string(),
                rs.inactive_connections.to_string(),
            ]);
        }
    }
    format!("Protocol VIP:Port Scheduler Flags\n{table}")
}

/// Its address and port; without one where it receives on the port that the client chose.
fn describe_place(service: ServiceId, rs: &RealServerView) -> String {
    match rs.port.or(service.port()) {
        Some(port) => SocketAddr::new(rs.address, port).to_string(),
        None => rs.address.to_string(),
    }
}

/// ipvsadm's word, and what is particular: `Route`, `Tunnel gue:6080:+c`, `Masq`, `FullNAT toa`.
fn describe_forwarding(rs: &RealServerView) -> String {
    match (rs.forwarding, rs.client_address) {
        (Forwarding::Dr, _) => "Route".to_owned(),
        (Forwarding::Tunnel, _) => format!("Tunnel {}", rs.tunnel.unwrap_or_default()),
        (Forwarding::Nat, _) => "Masq".to_owned(),
        (Forwarding::FullNat, ClientAddress::None) => "FullNAT".to_owned(),
        (Forwarding::FullNat, how) => format!("FullNAT {how}"),
    }
}

/// As ipvsadm's line of a service: `tcp 192.0.2.10:80 sh (sh-port) persistent 360 mask 255.255.255.0`.
fn describe_service(service: &ServiceConfig) -> String {
    let mut line = service.id.to_string();
    if let Some(fwmark) = service.fwmark {
        line += &format!(" fwmark {fwmark}");
    }
    line += &format!(" {}", service.scheduler);
    let flags = scheduler_flags::names(&service.scheduler_flags, service.scheduler);
    if !flags.is_empty() {
        line += &format!(" ({})", flags.join(","));
    }
    if let Some(Persistence { timeout_seconds, netmask, engine }) = service.persistence {
        line += &format!(" persistent {timeout_seconds}");
        match netmask {
            Netmask::Host => {}
            Netmask::V4(mask) => line += &format!(" mask {mask}"),
            Netmask::V6(length) => line += &format!(" mask {length}"),
        }
        if let Some(PersistenceEngine::Sip) = engine {
            line += " pe sip";
        }
    }
    if service.one_packet {
        line += " ops";
    }
    if service.slow_start_seconds > 0 {
        line += &format!(" slow-start {}", duration(service.slow_start_seconds.into()));
    }
    let timeouts = timeouts_given(&service.timeouts);
    if !timeouts.is_empty() {
        line += &format!(" timeout {}", timeouts.join(","));
    }
    line
}

fn timeouts_given(timeouts: &Timeouts) -> Vec<String> {
    let given = Timeouts::NAMES.iter().zip(timeouts.values());
    given.filter_map(|(name, seconds)| seconds.map(|seconds| format!("{name}={seconds}"))).collect()
}

/// That it is drained is told whatever its state: an operator who waits for its end must see it of a host that is down.
fn describe_state(rs: &RealServerView) -> String {
    let mut text = rs.state.to_string();
    if rs.drain.is_some() && rs.state != RealServerState::Draining {
        text += &format!(", {}", RealServerState::Draining);
    }
    if let Some(seconds) = rs.drain_seconds_left {
        text += &format!(", {} left", duration(seconds));
    }
    text
}

/// The upper one, and the lower one that is in force.
fn describe_thresholds(rs: &RealServerView) -> String {
    match (rs.upper_threshold, rs.lower_threshold) {
        (0, _) => NOTHING.to_owned(),
        (upper, 0) => format!("{upper}/{}", upper - upper / 4),
        (upper, lower) => format!("{upper}/{lower}"),
    }
}

/// `ipvsadm -Ln --stats` and `--rate`, then workers, ports and drops, unless one service alone was asked for.
pub(super) fn stats(stats: &Stats, is_filtered: bool) -> String {
    let services = service_stats(stats).to_string();
    if is_filtered {
        return services;
    }
    let workers = worker_stats(stats);
    let ports = port_stats(stats);
    let totals = totals(stats);
    format!("{services}\n{workers}\n{ports}\n{totals}")
}

fn service_stats(stats: &Stats) -> Table {
    let mut table = Table::new([
        Text("Protocol VIP:Port -> RealServer"),
        Number("Connections"),
        Number("Packets"),
        Number("Bytes"),
        Number("ReplyPackets"),
        Number("ReplyBytes"),
        Number("Conn/s"),
        Number("Packets/s"),
        Number("Bytes/s"),
        Number("ReplyPackets/s"),
        Number("ReplyBytes/s"),
    ]);
    let mut row = |name: String, counters: &TrafficCounters, rates: &TrafficRates| {
        table.row([
            name,
            counters.connections.to_string(),
            counters.packets.to_string(),
            counters.bytes.to_string(),
            counters.reply_packets.to_string(),
            counters.reply_bytes.to_string(),
            rates.connections_per_second.to_string(),
            rates.packets_per_second.to_string(),
            rates.bytes_per_second.to_string(),
            rates.reply_packets_per_second.to_string(),
            rates.reply_bytes_per_second.to_string(),
        ]);
    };
    for service in &stats.services {
        row(service.service.to_string(), &service.totals, &service.rates);
        for rs in &service.real_servers {
            row(format!("  -> {}", rs.id()), &rs.counters, &rs.rates);
        }
    }
    table
}

fn worker_stats(stats: &Stats) -> Table {
    let mut table = Table::new([
        Number("Worker"),
        Number("CPU"),
        Number("Received"),
        Number("Forwarded"),
        Number("Stateless"),
        Number("Punted"),
        Number("ToHost"),
        Number("HandedOver"),
        Number("Dropped"),
        Number("ControlSent"),
        Number("Connections"),
        Number("Capacity"),
        Number("Generation"),
    ]);
    for worker in &stats.workers {
        table.row([
            worker.worker.to_string(),
            worker.cpu.to_string(),
            worker.packets.received.to_string(),
            worker.packets.forwarded.to_string(),
            sum(&worker.stateless).to_string(),
            worker.packets.punted.to_string(),
            worker.packets.to_host.to_string(),
            worker.packets.handed_over.to_string(),
            sum(&worker.packets.drops).to_string(),
            worker.control_frames_sent.to_string(),
            worker.connections.to_string(),
            worker.connection_capacity.to_string(),
            worker.generation.to_string(),
        ]);
    }
    table
}

fn port_stats(stats: &Stats) -> Table {
    let mut table = Table::new([
        Text("Port"),
        Text("Link"),
        Number("RxPackets"),
        Number("RxBytes"),
        Number("TxPackets"),
        Number("TxBytes"),
        Number("RxMissed"),
        Number("RxErrors"),
        Number("RxNoMbuf"),
        Number("TxErrors"),
    ]);
    for port in &stats.ports {
        table.row([
            port.port.clone(),
            link(port.link_is_up).to_owned(),
            port.rx_packets.to_string(),
            port.rx_bytes.to_string(),
            port.tx_packets.to_string(),
            port.tx_bytes.to_string(),
            port.rx_missed.to_string(),
            port.rx_errors.to_string(),
            port.rx_no_mbuf.to_string(),
            port.tx_errors.to_string(),
        ]);
    }
    table
}

fn totals(stats: &Stats) -> String {
    let totals = &stats.totals;
    let mut table = Table::new([Text("All workers"), Number("Packets")]);
    let happened = |reasons: &BTreeMap<String, u64>, table: &mut Table| {
        for (reason, count) in reasons.iter().filter(|(_, count)| **count > 0) {
            table.row([format!("  {reason}"), count.to_string()]);
        }
    };
    table.row(["received".to_owned(), totals.received.to_string()]);
    table.row(["forwarded".to_owned(), totals.forwarded.to_string()]);
    let stateless = all_stateless(stats);
    if sum(&stateless) > 0 {
        table.row(["of them without state".to_owned(), sum(&stateless).to_string()]);
        happened(&stateless, &mut table);
    }
    table.row(["punted".to_owned(), totals.punted.to_string()]);
    let others = [
        ("to the host", totals.to_host),
        ("handed to other workers", totals.handed_over),
        ("taken from other workers", totals.taken_over),
        ("fragments held", totals.fragments_held),
        ("originated beside", totals.originated),
    ];
    for (what, count) in others.into_iter().filter(|(_, count)| *count > 0) {
        table.row([what.to_owned(), count.to_string()]);
    }
    table.row(["dropped".to_owned(), sum(&totals.drops).to_string()]);
    happened(&totals.drops, &mut table);
    table.to_string()
}

fn all_stateless(stats: &Stats) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in stats.workers.iter().flat_map(|worker| &worker.stateless) {
        let sum = all.entry(reason.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    all
}

fn sum(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// `ipvsadm -Lnc`, with the worker.
pub(super) fn connections(answer: &Connections, query: &ConnectionsQuery, is_count: bool) -> String {
    if is_count {
        return format!("{}\n", answer.matching);
    }
    let has_local = answer.connections.iter().any(|connection| connection.local.is_some());
    let has_engine_data = answer.connections.iter().any(|connection| connection.engine_data.is_some());
    let mut columns = vec![
        Text("Protocol"),
        Number("Expire"),
        Text("State"),
        Text("Source"),
        Text("Virtual"),
        Text("Destination"),
        Number("Worker"),
    ];
    columns.extend(has_local.then_some(Text("Local")));
    columns.extend(has_engine_data.then_some(Text("EngineData")));
    let mut table = Table::new(columns);
    for connection in &answer.connections {
        let mut cells = connection_cells(connection);
        if has_local {
            cells.push(connection.local.map_or_else(|| NOTHING.to_owned(), |local| local.to_string()));
        }
        if has_engine_data {
            cells.push(connection.engine_data.clone().unwrap_or_else(|| NOTHING.to_owned()));
        }
        table.row(cells);
    }
    let what = match query.kind {
        EntryKind::Connections => "connections",
        EntryKind::Templates => "persistence templates",
        EntryKind::All => "connections and persistence templates",
    };
    let shown = answer.connections.len();
    let after = if query.offset > 0 { format!(", after the first {}", query.offset) } else { String::new() };
    format!("{table}{shown} of {} {what} shown{after}\n", answer.matching)
}

fn connection_cells(connection: &ConnectionView) -> Vec<String> {
    let endpoint = |address: IpAddr, port: u16| SocketAddr::new(address, port).to_string();
    vec![
        // ipvsadm's word for the template of a group.
        connection.protocol.map_or_else(|| "ip".to_owned(), |protocol| protocol.to_string()),
        format!("{:02}:{:02}", connection.expires_seconds / 60, connection.expires_seconds % 60),
        connection.state.clone(),
        endpoint(connection.client_address, connection.client_port),
        match &connection.group {
            Some(group) => format!("group {group}"),
            None => endpoint(connection.virtual_address, connection.virtual_port),
        },
        endpoint(connection.real_server, connection.real_server_port),
        connection.worker.map_or_else(|| NOTHING.to_owned(), |worker| worker.to_string()),
    ]
}

pub(super) fn neighbours(neighbours: &Neighbours) -> String {
    let mut table = Table::new([
        Text("Address"),
        Text("Interface"),
        Text("State"),
        Text("MAC"),
        Number("Confirmed"),
        Number("Unanswered"),
    ]);
    for neighbour in &neighbours.neighbours {
        let confirmed = neighbour.confirmed_seconds_ago.map(|seconds| format!("{} ago", duration(seconds)));
        table.row([
            neighbour.address.to_string(),
            neighbour.interface.clone(),
            neighbour.state.to_string(),
            or_nothing(neighbour.mac),
            confirmed.unwrap_or_else(|| NOTHING.to_owned()),
            neighbour.unanswered_requests.to_string(),
        ]);
    }
    table.to_string()
}

/// The verdict first.
pub(super) fn status(status: &Status) -> String {
    let mut text = match status.warnings.len() {
        0 => "dr-director is well\n".to_owned(),
        1 => "dr-director runs, with a warning:\n".to_owned(),
        count => format!("dr-director runs, with {count} warnings:\n"),
    };
    for warning in &status.warnings {
        text.push_str(&format!("  - {warning}\n"));
    }
    let facts = [
        ("Version", format!("{}, DPDK {}", status.version, status.dpdk)),
        ("Process", format!("{}, up {}", status.pid, duration(status.uptime_seconds))),
        ("Configuration", format!("generation {}", status.generation)),
        ("Virtual services", status.services.to_string()),
        ("Real servers", format!("{}, {} of them up", status.real_servers, status.real_servers_up)),
        ("Connections", status.connections.to_string()),
        ("Templates", format!("{} of {}", status.templates, status.template_capacity)),
        ("Packet buffers", format!("{} of {}", status.buffers_in_use, status.buffers)),
        ("Options", describe_options(&status.connection_options)),
        ("Timeouts", describe_timeouts(&status.connection_options.timeouts)),
        ("IPv6", if status.has_ipv6 { "on" } else { "off" }.to_owned()),
        ("Local addresses", list_or_nothing(&status.nat.local_addresses)),
        ("Memory", status.memory.clone()),
    ];
    for (name, value) in facts {
        writeln!(text, "{name:<16}  {value}").expect("a String takes whatever is written");
    }
    let mut table = Table::new([
        Text("Port"),
        Text("Link"),
        Text("MAC"),
        Number("MTU"),
        Text("Addresses"),
        Text("Host"),
        Text("Device"),
    ]);
    for port in &status.ports {
        table.row([
            port.name.clone(),
            link(port.link_is_up).to_owned(),
            port.mac.to_string(),
            port.mtu.to_string(),
            list_or_nothing(&port.addresses),
            port.host_interface.clone().unwrap_or_else(|| NOTHING.to_owned()),
            port.device.clone(),
        ]);
        for vlan in &port.vlans {
            table.row([
                format!("{}.{}", port.name, vlan.id),
                link(port.link_is_up).to_owned(),
                port.mac.to_string(),
                vlan.mtu.to_string(),
                list_or_nothing(&vlan.addresses),
                vlan.host_interface.clone().unwrap_or_else(|| NOTHING.to_owned()),
                NOTHING.to_owned(),
            ]);
        }
    }
    format!("{text}\n{table}{}", routes(status))
}

fn routes(status: &Status) -> String {
    if status.routes.is_empty() {
        return String::new();
    }
    let mut table = Table::new([Text("Route"), Text("Gateway"), Text("Interface")]);
    for route in &status.routes {
        let interface = route.interface.clone().unwrap_or_else(|| NOTHING.to_owned());
        table.row([route.network.to_string(), route.gateway.to_string(), interface]);
    }
    format!("\n{table}")
}

fn list_or_nothing<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { NOTHING.to_owned() } else { items.join(",") }
}

/// What is not as by default.
fn describe_options(options: &ConnectionsConfig) -> String {
    let both = options.options().into_iter().zip(ConnectionsConfig::default().options());
    let changed = both.filter(|(option, default)| option != default);
    let changed: Vec<String> = changed.map(|((name, value), _)| format!("{name} {value}")).collect();
    if changed.is_empty() { "defaults".to_owned() } else { changed.join(", ") }
}

/// The three of `ipvsadm -L --timeout`, and what is not as in IPVS.
fn describe_timeouts(timeouts: &Timeouts) -> String {
    const SHOWN: [&str; 3] = ["tcp_established", "tcp_fin_wait", "udp"];
    let effective = timeouts.or(&Timeouts::IPVS).values();
    let all = Timeouts::NAMES.iter().zip(effective).zip(Timeouts::IPVS.values());
    let shown = all.filter(|((name, seconds), ipvs)| SHOWN.contains(name) || seconds != ipvs);
    let shown: Vec<String> =
        shown.filter_map(|((name, seconds), _)| Some(format!("{name} {}", seconds?))).collect();
    shown.join(", ")
}

fn or_nothing(mac: Option<MacAddress>) -> String {
    mac.map_or_else(|| NOTHING.to_owned(), |mac| mac.to_string())
}

fn link(is_up: bool) -> &'static str {
    if is_up { "up" } else { "down" }
}

/// Seconds as people read them: `42s`, `3m05s`, `2h03m`, `4d05h`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if minutes == 0 {
        format!("{seconds}s")
    } else if hours == 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else if days == 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else {
        format!("{days}d{:02}h", hours % 24)
    }
}

#[cfg(test)]
mod tests;
