//! `-S`: the configuration as lines that ipvsadm loads. What ipvsadm cannot save is in it too: `-x` and `-y` on the
//! lines of the real servers, `--set` on a line of its own, and all else in comments, which ipvsadm-restore skips. So are
//! the first line and the last one, which tell a whole file from one that was cut.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::command::{Checksum, Family, Forwarding, TunnelType};
use super::convert::group_name;
use super::format::{flag_names, partial_mask, place, prepare_names};
use super::resolve::{Names, NoNames};
use super::rows::{Label, RealServerRow, ServiceRow, sort};
use crate::config::{
    self, ClientAddress, Config, ConnectionsConfig, Drain, GroupName, NatConfig, Protocol, RealServerConfig,
    ServiceConfig, ServiceId, Timeouts, VirtualAddress,
};
use crate::mac::MacAddress;
use crate::protocol::SetOptions;

/// What starts a comment that is ours.
pub(super) const MARKER: &str = "# dr-director:";

/// What the first and the last line of a file say behind [`MARKER`].
pub(super) const BEGIN: &str = "begin";
pub(super) const END: &str = "end";

/// What a comment of ours says, in JSON behind [`MARKER`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Extension {
    /// How connections are kept.
    Connections(SetOptions),
    /// Full NAT's local addresses.
    Nat(NatConfig),
    /// Of the service that the next line adds.
    Service(ServiceExtension),
    /// Of the real server that the next line adds.
    RealServer(RealServerExtension),
    /// A group that no `-f` can name, with all that it has.
    AddService(ServiceConfig),
}

/// What ipvsadm does not know of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceExtension {
    /// Name of the group, where it is not the one that `-A -f` gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The VIP:ports of the group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<VirtualAddress>,
    /// Slow start.
    #[serde(skip_serializing_if = "is_default")]
    pub slow_start_seconds: u32,
    /// Its own timeouts.
    #[serde(skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
}

/// What ipvsadm does not know of a real server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RealServerExtension {
    /// Its MAC address, where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Its drain.
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::drain")]
    pub drain: Option<Drain>,
    /// It is behind full NAT, which ipvsadm takes for NAT.
    #[serde(skip_serializing_if = "is_default")]
    pub is_full_nat: bool,
    /// What the client's address is handed on by, under full NAT.
    #[serde(skip_serializing_if = "is_default")]
    pub client_address: ClientAddress,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A configuration as `-S` prints it.
pub fn save(config: &Config, is_numeric: bool, names: &dyn Names) -> String {
    let names: &dyn Names = if is_numeric { &NoNames } else { names };
    let (nameable, others): (Vec<&ServiceConfig>, Vec<&ServiceConfig>) =
        config.services.iter().partition(|service| is_nameable(service));
    let mut rows = Vec::with_capacity(nameable.len());
    let mut configs = HashMap::with_capacity(nameable.len());
    for service in nameable {
        let row = ServiceRow::new(service);
        configs.insert(row.label.clone(), service);
        rows.push(row);
    }
    sort(&mut rows);
    prepare_names(&rows, &[], names);

    let mut text = format!("{MARKER} {BEGIN}\n");
    text += &connection_lines(config.connections.as_ref().unwrap_or(&ConnectionsConfig::default()));
    let nat = config.nat.as_ref().filter(|nat| !nat.local_addresses.is_empty());
    text.push_str(&comment(nat.cloned().map(Extension::Nat)));
    for row in &rows {
        let service = configs[&row.label];
        text.push_str(&comment(service_extension(service).map(Extension::Service)));
        text.push_str(&service_line(row, names));
        let place = |config: &RealServerConfig| (config.address, config.port.unwrap_or(row.label.port()));
        let extensions: HashMap<(IpAddr, u16), &RealServerConfig> =
            service.real_servers.iter().map(|config| (place(config), config)).collect();
        for real_server in &row.real_servers {
            let extension = extensions
                .get(&(real_server.address, real_server.port))
                .and_then(|config| real_server_extension(config));
            text.push_str(&comment(extension.map(Extension::RealServer)));
            text.push_str(&real_server_line(row, real_server, names));
        }
    }
    for service in others {
        text.push_str(&comment(Some(Extension::AddService(service.clone()))));
    }
    text.push_str(&format!("{MARKER} {END}\n"));
    text
}

fn is_nameable(service: &ServiceConfig) -> bool {
    matches!(service.id, ServiceId::Virtual(_)) || service.fwmark.is_some()
}

fn comment(extension: Option<Extension>) -> String {
    let Some(extension) = extension else { return String::new() };
    let json = serde_json::to_string(&extension).expect("keys are strings: always JSON");
    format!("{MARKER} {json}\n")
}

/// `--set` where one of its three is not IPVS's, and whatever else is not.
fn connection_lines(connections: &ConnectionsConfig) -> String {
    let mut others = connections.timeouts;
    let set = [others.tcp_established.take(), others.tcp_fin_wait.take(), others.udp.take()];
    let mut text = String::new();
    if set != [None; 3] {
        // 0 leaves one as it is.
        let [tcp, tcp_fin, udp] = set.map(Option::unwrap_or_default);
        text.push_str(&format!("--set {tcp} {tcp_fin} {udp}\n"));
    }
    let options = changed_options(connections, others);
    text.push_str(&comment((options != SetOptions::default()).then_some(Extension::Connections(options))));
    text
}

fn changed_options(connections: &ConnectionsConfig, timeouts: Timeouts) -> SetOptions {
    fn changed<T: PartialEq>(value: T, default: T) -> Option<T> {
        (value != default).then_some(value)
    }
    let default = ConnectionsConfig::default();
    SetOptions {
        timeouts,
        sloppy_tcp: changed(connections.sloppy_tcp, default.sloppy_tcp),
        sloppy_sctp: changed(connections.sloppy_sctp, default.sloppy_sctp),
        secure_tcp: changed(connections.secure_tcp, default.secure_tcp),
        conn_reuse_mode: changed(connections.conn_reuse_mode, default.conn_reuse_mode),
        expire_nodest_conn: changed(connections.expire_nodest_conn, default.expire_nodest_conn),
        expire_quiescent_template: changed(
            connections.expire_quiescent_template,
            default.expire_quiescent_template,
        ),
        lblc_expiration_seconds: changed(
            connections.lblc_expiration_seconds,
            default.lblc_expiration_seconds,
        ),
        creation_rate_per_worker: changed(
            connections.creation_rate_per_worker,
            default.creation_rate_per_worker,
        ),
        pmtu_disc: changed(connections.pmtu_disc, default.pmtu_disc),
        tunnel_mss_clamp: changed(connections.tunnel_mss_clamp, default.tunnel_mss_clamp),
        schedule_icmp: changed(connections.schedule_icmp, default.schedule_icmp),
        nat_icmp_send: changed(connections.nat_icmp_send, default.nat_icmp_send),
    }
}

fn service_extension(service: &ServiceConfig) -> Option<ServiceExtension> {
    let group = match (service.id, service.fwmark) {
        (ServiceId::Group(name), Some(mark)) => {
            Some(name).filter(|name| *name != group_name(mark, service.family()))
        }
        _ => None,
    };
    let extension = ServiceExtension {
        group,
        members: service.members.clone(),
        slow_start_seconds: service.slow_start_seconds,
        timeouts: service.timeouts,
    };
    (extension != ServiceExtension::default()).then_some(extension)
}

fn real_server_extension(real_server: &RealServerConfig) -> Option<RealServerExtension> {
    let extension = RealServerExtension {
        mac: real_server.mac,
        drain: real_server.drain,
        is_full_nat: real_server.forwarding == config::Forwarding::FullNat,
        client_address: real_server.client_address,
    };
    (extension != RealServerExtension::default()).then_some(extension)
}

/// What names the service on a line.
fn service_words(label: &Label, names: &dyn Names) -> String {
    match label {
        Label::Virtual { protocol, address, port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", place(*address, *port, Some(*protocol), names))
        }
        // ipvsadm writes marks over 2147483647 as negative numbers, which it does not read back.
        Label::Fwmark { mark, family: Family::V4 } => format!("-f {mark}"),
        Label::Fwmark { mark, family: Family::V6 } => format!("-f {mark} -6"),
        Label::Group(_) => unreachable!("a group without a mark is saved in a comment"),
    }
}

/// `-A`.
pub fn service_line(row: &ServiceRow, names: &dyn Names) -> String {
    let mut text = format!("-A {} -s {}", service_words(&row.label, names), row.scheduler);
    if let Some(seconds) = row.persistence {
        text.push_str(&format!(" -p {seconds}"));
        if let Some(mask) = partial_mask(row) {
            text.push_str(&format!(" -M {mask}"));
        }
    }
    if let Some(engine) = &row.engine {
        text.push_str(&format!(" --pe {engine}"));
    }
    if row.one_packet {
        text.push_str(" -o");
    }
    let mut flags = flag_names(row);
    // ipvsadm leaves the third one out where the scheduler has no name for it, and where it is alone writes `-b` alone.
    if row.flags.flag_3 && matches!(row.scheduler.as_str(), "sh" | "mh") {
        flags.push_str(if flags.is_empty() { "flag-3" } else { ",flag-3" });
    }
    if !flags.is_empty() {
        text.push_str(&format!(" -b {flags}"));
    }
    text.push('\n');
    text
}

/// `-a`.
pub fn real_server_line(service: &ServiceRow, row: &RealServerRow, names: &dyn Names) -> String {
    let place = place(row.address, row.port, service.label.protocol(), names);
    let method = match row.forwarding {
        Forwarding::Masquerading => "-m",
        Forwarding::Tunnel(_) => "-i",
        Forwarding::Local | Forwarding::DirectRouting => "-g",
    };
    let words = service_words(&service.label, names);
    let mut text = format!("-a {words} -r {place} {method} -w {}", row.weight);
    if let Forwarding::Tunnel(tunnel) = row.forwarding {
        let checksum = match tunnel.checksum {
            Checksum::None => "--tun-nocsum",
            Checksum::Plain => "--tun-csum",
            Checksum::Remote => "--tun-remcsum",
        };
        text.push_str(&format!(" --tun-type {}", tunnel.kind.name()));
        match tunnel.kind {
            TunnelType::Ipip => {}
            TunnelType::Gue => text.push_str(&format!(" --tun-port {} {checksum}", tunnel.port)),
            TunnelType::Gre => text.push_str(&format!(" {checksum}")),
        }
    }
    if row.upper_threshold != 0 {
        text.push_str(&format!(" -x {}", row.upper_threshold));
    }
    if row.lower_threshold != 0 {
        text.push_str(&format!(" -y {}", row.lower_threshold));
    }
    text.push('\n');
    text
}
