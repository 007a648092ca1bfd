//! Every output of ipvsadm's, byte for byte, as a function of rows. Numbers of columns and cuts are ipvsadm's.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};

use super::command::{Checksum, Family, Forwarding, Netmask, Tunnel, TunnelType};
use super::resolve::{Names, NoNames};
use super::rows::{ConnectionRow, Counters, Label, RealServerRow, ServiceRow};
use crate::config::Protocol;

/// What `-L` shows of each service and real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for its option")]
pub enum Columns {
    Default,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunInfo,
}

/// How listings look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// What is shown.
    pub columns: Columns,
    /// `-n`: no names.
    pub is_numeric: bool,
    /// `-X`: no K, M, G, T.
    pub is_exact: bool,
}

/// Longest address with port, name with service, in ipvsadm: a buffer of 60 less its NUL.
const PLACE_MAX: usize = 59;
/// Where ipvsadm cuts an IPv4 service and an IPv4 real server.
const SERVICE_MAX: usize = 33;
const REAL_SERVER_MAX: usize = 28;

/// The first line of a whole table. The version is that of the kernel's IPVS, which has been this one since 2004.
pub fn header(connection_buckets: u64) -> String {
    format!("IP Virtual Server version 1.2.1 (size={connection_buckets})\n")
}

/// The two lines that name the columns.
pub fn title(columns: Columns) -> String {
    let first = "Prot LocalAddress:Port";
    match columns {
        Columns::Stats => {
            format!(
                "{first:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n  -> RemoteAddress:Port\n",
                "Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"
            )
        }
        Columns::Rate => {
            format!(
                "{first:<33} {:>8} {:>8} {:>8} {:>8} {:>8}\n  -> RemoteAddress:Port\n",
                "CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"
            )
        }
        Columns::Thresholds => format!(
            "{first:<33} {:<10} {:<10} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::PersistentConn => format!(
            "{first:<33} {:<9} {:<11} {:<10} {:<10}\n  -> RemoteAddress:Port\n",
            "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
        Columns::TunInfo => format!(
            "{first} Scheduler Flags\n  -> {:<28} Forward {:<13} Weight ActiveConn InActConn\n",
            "RemoteAddress:Port", "TunnelInfo"
        ),
        Columns::Default => format!(
            "{first} Scheduler Flags\n  -> {:<28} Forward Weight ActiveConn InActConn\n",
            "RemoteAddress:Port"
        ),
    }
}

/// A service and its real servers, in the order in which they stand.
pub fn service(row: &ServiceRow, style: Style, names: &dyn Names) -> String {
    let names: &dyn Names = if style.is_numeric { &NoNames } else { names };
    let mut text = String::new();
    let label = service_label(&row.label, names);
    match style.columns {
        Columns::Stats => append(&mut text, format_args!("{label:<33}{}", numbers(&row.counters, style))),
        Columns::Rate => append(&mut text, format_args!("{label:<33}{}", numbers(&row.rates, style))),
        _ => append(&mut text, format_args!("{label} {}{}", row.scheduler, attributes(row))),
    }
    text.push('\n');
    for real_server in &row.real_servers {
        text.push_str(&real_server_line(real_server, row.label.protocol(), style, names));
    }
    text
}

fn service_label(label: &Label, names: &dyn Names) -> String {
    match label {
        Label::Virtual { protocol, address, port } => {
            let place = place(*address, *port, Some(*protocol), names);
            let text = format!("{:<4} {place}", protocol_name(*protocol));
            if address.is_ipv4() { cut(&text, SERVICE_MAX).to_owned() } else { text }
        }
        // ipvsadm prints the mark as a signed number.
        Label::Fwmark { mark, family: Family::V4 } => format!("FWM  {}", *mark as i32),
        Label::Fwmark { mark, family: Family::V6 } => format!("FWM  {} IPv6", *mark as i32),
        Label::Group(name) => format!("FWM  {name}"),
    }
}

/// What stands behind the scheduler.
fn attributes(row: &ServiceRow) -> String {
    let mut text = String::new();
    if row.flags != Default::default() {
        append(&mut text, format_args!(" ({})", flag_names(row)));
    }
    if let Some(seconds) = row.persistence {
        append(&mut text, format_args!(" persistent {seconds}"));
        if let Some(mask) = partial_mask(row) {
            append(&mut text, format_args!(" mask {mask}"));
        }
        if let Some(engine) = &row.engine {
            append(&mut text, format_args!(" pe {engine}"));
        }
    }
    if row.one_packet {
        text.push_str(" ops");
    }
    text
}

/// The mask where it is not all of the address.
pub(super) fn partial_mask(row: &ServiceRow) -> Option<String> {
    match row.netmask {
        Netmask::V4(Ipv4Addr::BROADCAST) | Netmask::V6(128) => None,
        Netmask::V4(mask) => Some(mask.to_string()),
        Netmask::V6(prefix) => Some(prefix.to_string()),
    }
}

/// The flags by the names that the scheduler gives them; `sh` and `mh` have no third one.
pub(super) fn flag_names(row: &ServiceRow) -> String {
    let names: [&str; 3] = match row.scheduler.as_str() {
        "sh" => ["sh-fallback", "sh-port", ""],
        "mh" => ["mh-fallback", "mh-port", ""],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let set = [row.flags.fallback, row.flags.port, row.flags.flag_3];
    let names = names.into_iter().zip(set).filter(|(name, is_set)| *is_set && !name.is_empty());
    names.map(|(name, _)| name).collect::<Vec<_>>().join(",")
}

fn real_server_line(
    row: &RealServerRow,
    protocol: Option<Protocol>,
    style: Style,
    names: &dyn Names,
) -> String {
    let mut place = place(row.address, row.port, protocol, names);
    if row.address.is_ipv4() {
        place.truncate(cut(&place, REAL_SERVER_MAX).len());
    }
    let RealServerRow { weight, active, inactive, .. } = row;
    let forward = forward_name(row.forwarding);
    match style.columns {
        Columns::Stats => format!("  -> {place:<28}{}\n", numbers(&row.counters, style)),
        Columns::Rate => {
            // The first three are never shortened here.
            let [connections, packets_in, packets_out, bytes @ ..] = row.rates;
            let bytes = bytes.map(|bytes| number(bytes, style)).concat();
            format!("  -> {place:<28} {connections:>8} {packets_in:>8} {packets_out:>8}{bytes}\n")
        }
        Columns::Thresholds => {
            let RealServerRow { upper_threshold, lower_threshold, .. } = row;
            format!(
                "  -> {place:<28} {upper_threshold:<10} {lower_threshold:<10} {active:<10} {inactive:<10}\n"
            )
        }
        Columns::PersistentConn => {
            format!("  -> {place:<28} {weight:<9} {:<11} {active:<10} {inactive:<10}\n", row.persistent)
        }
        Columns::TunInfo => {
            let tunnel = tunnel_info(row.forwarding);
            format!("  -> {place:<28} {forward:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}\n")
        }
        Columns::Default => {
            format!("  -> {place:<28} {forward:<7} {weight:<6} {active:<10} {inactive:<10}\n")
        }
    }
}

fn forward_name(forwarding: Forwarding) -> &'static str {
    match forwarding {
        Forwarding::Masquerading => "Masq",
        Forwarding::Local => "Local",
        Forwarding::Tunnel(_) => "Tunnel",
        Forwarding::DirectRouting => "Route",
    }
}

fn tunnel_info(forwarding: Forwarding) -> String {
    let Forwarding::Tunnel(Tunnel { kind, port, checksum }) = forwarding else { return "n/a".to_owned() };
    let checksum = match checksum {
        Checksum::None => "-c",
        Checksum::Plain => "+c",
        Checksum::Remote => "r+c",
    };
    match kind {
        TunnelType::Ipip => "ipip".to_owned(),
        // ipvsadm has 15 characters for it: `gue:65535:r+c` fits.
        TunnelType::Gue => format!("gue:{port}:{checksum}"),
        TunnelType::Gre => format!("gre:{checksum}"),
    }
}

fn numbers(counters: &Counters, style: Style) -> String {
    counters.iter().map(|counter| number(*counter, style)).collect()
}

/// A number in 9 columns; from 100 million on in thousands and so on, cut, not rounded.
fn number(value: u64, style: Style) -> String {
    if style.is_exact {
        let digits = value.to_string();
        let width = if digits.len() <= 8 { 9 } else { digits.len() + 1 };
        return format!("{digits:>width$}");
    }
    match value {
        0..100_000_000 => format!("{value:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", value / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", value / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", value / 1_000_000_000),
        100_000_000_000_000.. => format!("{:>8}T", value / 1_000_000_000_000),
    }
}

/// `-Lc`: the title and a line each.
pub fn connections(rows: &[ConnectionRow], has_engine: bool, is_numeric: bool, names: &dyn Names) -> String {
    let names: &dyn Names = if is_numeric { &NoNames } else { names };
    let mut text = "IPVS connection entries\n".to_owned();
    let columns = format!("pro expire {:<11} {:<18} {:<18}", "state", "source", "virtual");
    if has_engine {
        let last = "destination";
        append(&mut text, format_args!("{columns} {last:<18} {:<16} pe_data\n", "pe name"));
    } else {
        append(&mut text, format_args!("{columns} destination\n"));
    }
    for row in rows {
        let ConnectionRow { protocol, expires, state, .. } = row;
        let name = protocol.map_or("IP", protocol_name);
        let place = |(address, port)| place(address, port, *protocol, names);
        let expire = format!("{:02}:{:02}", expires / 60, expires % 60);
        let (source, destination) = (place(row.source), place(row.destination));
        let real_server = place(row.real_server);
        append(&mut text, format_args!("{name:<3} {expire:<6} {state:<11} {source:<18} {destination:<18}"));
        match &row.engine {
            Some((engine, data)) if has_engine => {
                // ipvsadm reads a word of it.
                let data = data.split_whitespace().next().unwrap_or_default();
                append(&mut text, format_args!(" {real_server:<16} {engine:<18} {data}\n"));
            }
            _ => append(&mut text, format_args!(" {real_server}\n")),
        }
    }
    text
}

/// `-L --timeout`: seconds of tcp, tcpfin and udp.
pub fn timeouts([tcp, tcp_fin, udp]: [u32; 3]) -> String {
    format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n")
}

/// What [`service`] and [`connections`] will look up, to be looked up in one go.
pub fn prepare_names(services: &[ServiceRow], connections: &[ConnectionRow], names: &dyn Names) {
    let mut addresses = Vec::new();
    let mut ports = Vec::new();
    for service in services {
        let protocol = service.label.protocol();
        if let Label::Virtual { address, port, protocol } = service.label {
            addresses.push(address);
            ports.push((port, protocol));
        }
        for real_server in &service.real_servers {
            addresses.push(real_server.address);
            ports.extend(protocol.map(|protocol| (real_server.port, protocol)));
        }
    }
    for row in connections {
        for (address, port) in [row.source, row.destination, row.real_server] {
            addresses.push(address);
            ports.extend(row.protocol.map(|protocol| (port, protocol)));
        }
    }
    names.prepare(&addresses, &ports);
}

/// `address:port` or `host:service`, IPv6 in brackets.
pub(super) fn place(address: IpAddr, port: u16, protocol: Option<Protocol>, names: &dyn Names) -> String {
    let host = names.host_of(address).unwrap_or_else(|| address.to_string());
    let service = protocol.and_then(|protocol| names.service_of(port, protocol));
    let service = service.unwrap_or_else(|| port.to_string());
    let text = if address.is_ipv4() { format!("{host}:{service}") } else { format!("[{host}]:{service}") };
    cut(&text, PLACE_MAX).to_owned()
}

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// The first `characters` of a text.
fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

fn append(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes everything");
}
