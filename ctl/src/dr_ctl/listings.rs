//! The verbs that show what runs, as people read it. Words and columns are ipvsadm's where it has them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use ctl::config::ServiceId;
use ctl::mac::MacAddress;
use ctl::protocol::{Connections, Neighbours, PacketTotals, Show, Stats, Status, TrafficCounters};

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
        Text("Port"),
        Number("ActiveConn"),
        Number("InActConn"),
    ]);
    for service in &show.services {
        let id = ServiceId { protocol: service.protocol, address: service.address, port: service.port };
        table.line(format!("{id} {}", service.scheduler));
        for rs in &service.real_servers {
            table.row([
                format!("  -> {}:{}", rs.address, service.port),
                "Route".to_owned(),
                rs.weight.to_string(),
                rs.state.to_string(),
                or_nothing(rs.mac),
                rs.port.clone(),
                rs.active_connections.to_string(),
                rs.inactive_connections.to_string(),
            ]);
        }
    }
    format!("Protocol VIP:Port Scheduler\n{table}")
}

/// `ipvsadm -Ln --stats`, then workers, ports and drops, unless one service alone was asked for.
pub(super) fn stats(stats: &Stats, is_filtered: bool) -> String {
    let services = service_stats(stats).to_string();
    if is_filtered {
        return services;
    }
    let workers = worker_stats(stats);
    let ports = port_stats(stats);
    let totals = totals(&stats.totals);
    format!("{services}\n{workers}\n{ports}\n{totals}")
}

fn service_stats(stats: &Stats) -> Table {
    let mut table = Table::new([
        Text("Protocol VIP:Port -> RealServer"),
        Number("Connections"),
        Number("Packets"),
        Number("Bytes"),
    ]);
    let mut row = |name: String, counters: &TrafficCounters| {
        table.row([
            name,
            counters.connections.to_string(),
            counters.packets.to_string(),
            counters.bytes.to_string(),
        ]);
    };
    for service in &stats.services {
        let id = ServiceId { protocol: service.protocol, address: service.address, port: service.port };
        row(id.to_string(), &service.totals);
        for rs in &service.real_servers {
            row(format!("  -> {}", rs.address), &rs.counters);
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
        Number("Punted"),
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
            worker.packets.punted.to_string(),
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

fn totals(totals: &PacketTotals) -> String {
    let mut table = Table::new([Text("All workers"), Number("Packets")]);
    table.row(["received".to_owned(), totals.received.to_string()]);
    table.row(["forwarded".to_owned(), totals.forwarded.to_string()]);
    table.row(["punted".to_owned(), totals.punted.to_string()]);
    table.row(["dropped".to_owned(), sum(&totals.drops).to_string()]);
    for (reason, count) in totals.drops.iter().filter(|(_, count)| **count > 0) {
        table.row([format!("  {reason}"), count.to_string()]);
    }
    table.to_string()
}

fn sum(drops: &BTreeMap<String, u64>) -> u64 {
    drops.values().fold(0, |sum, count| sum.saturating_add(*count))
}

/// `ipvsadm -Lnc`, with the worker.
pub(super) fn connections(connections: &Connections) -> String {
    let mut table = Table::new([
        Text("Protocol"),
        Number("Expire"),
        Text("State"),
        Text("Source"),
        Text("Virtual"),
        Text("Destination"),
        Number("Worker"),
    ]);
    for connection in &connections.connections {
        let endpoint = |address: Ipv4Addr, port: u16| format!("{address}:{port}");
        table.row([
            connection.protocol.to_string(),
            format!("{:02}:{:02}", connection.expires_seconds / 60, connection.expires_seconds % 60),
            connection.state.clone(),
            endpoint(connection.client_address, connection.client_port),
            endpoint(connection.virtual_address, connection.virtual_port),
            endpoint(connection.real_server, connection.virtual_port),
            connection.worker.to_string(),
        ]);
    }
    let shown = connections.connections.len();
    format!("{table}{shown} of {} connections shown\n", connections.matching)
}

pub(super) fn neighbours(neighbours: &Neighbours) -> String {
    let mut table = Table::new([
        Text("RealServer"),
        Text("Port"),
        Text("State"),
        Text("MAC"),
        Number("Confirmed"),
        Number("Unanswered"),
    ]);
    for neighbour in &neighbours.neighbours {
        let confirmed = neighbour.confirmed_seconds_ago.map(|seconds| format!("{} ago", duration(seconds)));
        table.row([
            neighbour.address.to_string(),
            neighbour.port.clone(),
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
        Text("Device"),
    ]);
    for port in &status.ports {
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        table.row([
            port.name.clone(),
            link(port.link_is_up).to_owned(),
            port.mac.to_string(),
            port.mtu.to_string(),
            addresses.join(","),
            port.device.clone(),
        ]);
    }
    format!("{text}\n{table}")
}

fn or_nothing(mac: Option<MacAddress>) -> String {
    mac.map_or_else(|| NOTHING.to_owned(), |mac| mac.to_string())
}

fn link(is_up: bool) -> &'static str {
    if is_up { "up" } else { "down" }
}

/// Seconds as people read them: `42s`, `3m05s`, `2h03m`, `4d05h`.
fn duration(seconds: u64) -> String {
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
