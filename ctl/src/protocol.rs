//! The control protocol: newline-delimited JSON over a Unix socket, one request a line, one answer a line, in order.
//!
//! ```text
//! → {"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},
//!    "real_server":{"address":"10.0.0.11","weight":2}}}
//! ← {"version":1,"generation":7,"result":{"changes":["added real server 10.0.0.11 to tcp 192.0.2.10:80, weight 2"]}}
//! ← {"version":1,"error":{"code":"not_found","message":"...","help":"..."}}
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use scheduler::{Algorithm, SchedulerFlags};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{
    Config, ConnectionsConfig, GroupName, Persistence, Protocol, RealServerConfig, ServiceConfig, ServiceId,
    Timeouts, VirtualAddress,
};
use crate::mac::{InvalidMac, MacAddress};
use crate::validate::Problem;

/// Version of this protocol. A request with another one is refused with both named.
pub const VERSION: u32 = 1;

/// Longest request line, in bytes, newline included: room for `apply` with tens of thousands of real servers.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// What a client asks for: `verb` and `arguments` of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "arguments", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "one command at a time, moved a few times and used up")]
pub enum Command {
    /// Adds a virtual service, with its real servers if any.
    AddVip(ServiceConfig),
    /// Changes a virtual service.
    SetVip(SetVip),
    /// Removes a virtual service and its real servers.
    DelVip(OneService),
    /// Adds a VIP:port to a service group.
    AddMember(OneMember),
    /// Removes a VIP:port from a service group.
    DelMember(OneMember),
    /// Adds a real server.
    AddRs(AddRs),
    /// Changes weight, MAC or drain of a real server.
    SetRs(SetRs),
    /// Removes a real server.
    DelRs(OneRealServer),
    /// Stops new connections to a real server and keeps the established ones; removes it in the end where asked to.
    DrainRs(DrainRs),
    /// Removes every virtual service (`ipvsadm -C`).
    Clear,
    /// Several changes, all or none.
    Batch(Batch),
    /// Changes how connections are kept, for all services.
    SetOptions(SetOptions),
    /// Lets counters of services and real servers start at 0 again (`ipvsadm -Z`).
    Zero(Filter),
    /// The virtual services and real servers that run.
    Show(Filter),
    /// Counters.
    Stats(Filter),
    /// Connections.
    Connections(ConnectionsQuery),
    /// What is known of the real servers' MAC addresses.
    Neighbours,
    /// Is it well, and what is it?
    Status,
    /// Makes `config.services` what runs.
    Apply(Apply),
    /// The configuration that runs, as `save` writes it.
    Config,
}

/// Arguments that name a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneService {
    /// The service.
    pub service: ServiceId,
}

/// Arguments of `set-vip`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVip {
    /// The service.
    pub service: ServiceId,
    /// Its new scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::algorithm::option")]
    pub scheduler: Option<Algorithm>,
    /// Its new scheduler flags, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::scheduler_flags::option")]
    pub scheduler_flags: Option<SchedulerFlags>,
    /// Its new slow start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_seconds: Option<u32>,
    /// Its new persistence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceChange>,
    /// Whether each UDP packet is scheduled for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_packet: Option<bool>,
    /// Timeouts to change, those that it names; 0 takes back what the service says of one.
    #[serde(default, skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    /// Its new number for `ipvsadm -f`, groups only; 0 takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u32>,
}

impl SetVip {
    /// No change of `service`.
    pub fn new(service: ServiceId) -> SetVip {
        SetVip {
            service,
            scheduler: None,
            scheduler_flags: None,
            slow_start_seconds: None,
            persistence: None,
            one_packet: None,
            timeouts: Timeouts::default(),
            fwmark: None,
        }
    }
}

/// New persistence of a service: `"off"`, or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistenceChange {
    /// None any more.
    Off,
    /// This one.
    #[serde(untagged)]
    On(Persistence),
}

/// Arguments that name a member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneMember {
    /// The group.
    pub group: GroupName,
    /// The VIP:port.
    pub member: VirtualAddress,
}

/// Arguments of `drain-rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRs {
    /// The service.
    pub service: ServiceId,
    /// The RIP.
    pub address: Ipv4Addr,
    /// It is removed when its last connection is gone, and after so many seconds at the latest. None: it stays,
    /// drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Clients that persistence keeps on it still open new connections there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_persistent: bool,
}

/// Arguments of `batch`. An error says in `index` which command it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Changes, in their order; no `batch` and no `apply` among them.
    pub commands: Vec<Command>,
}

/// Arguments of `set-options`: what is absent stays. See [`ConnectionsConfig`](crate::config::ConnectionsConfig).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "ConnectionsConfig says what each is")]
pub struct SetOptions {
    /// Those to change; 0 takes back what is said of one.
    #[serde(skip_serializing_if = "Timeouts::is_empty")]
    pub timeouts: Timeouts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_sctp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conn_reuse_mode: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_nodest_conn: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_quiescent_template: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lblc_expiration_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_rate_per_worker: Option<u32>,
}

/// Arguments of `add-rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddRs {
    /// The service.
    pub service: ServiceId,
    /// The real server to add.
    pub real_server: RealServerConfig,
}

/// Arguments that name a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneRealServer {
    /// The service.
    pub service: ServiceId,
    /// The RIP.
    pub address: Ipv4Addr,
}

/// Arguments of `set-rs`: what is absent stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRs {
    /// The service.
    pub service: ServiceId,
    /// The RIP.
    pub address: Ipv4Addr,
    /// New weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// New source of the MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacSource>,
    /// Start or end draining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// New upper threshold, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    /// New lower threshold, 0 for three quarters of the upper one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
}

impl SetRs {
    /// No change of this real server.
    pub fn new(service: ServiceId, address: Ipv4Addr) -> SetRs {
        SetRs {
            service,
            address,
            weight: None,
            mac: None,
            drain: None,
            upper_threshold: None,
            lower_threshold: None,
        }
    }
}

/// Where a real server's MAC address comes from: `"arp"`, or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacSource {
    /// Asked by ARP.
    Arp,
    /// Given.
    Static(MacAddress),
}

impl FromStr for MacSource {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        if text == "arp" {
            return Ok(MacSource::Arp);
        }
        text.parse().map(MacSource::Static)
    }
}

impl fmt::Display for MacSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MacSource::Arp => f.write_str("arp"),
            MacSource::Static(mac) => mac.fmt(f),
        }
    }
}

impl Serialize for MacSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, str::parse)
    }
}

/// Narrows a listing; what is absent matches all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
}

/// Arguments of `connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsQuery {
    /// Only of this service or group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// Only of clients in this network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ipnet::Ipv4Net>,
    /// Only to this VIP, on any port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<Ipv4Addr>,
    /// Only to this real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub real_server: Option<Ipv4Addr>,
    /// Only in this state, by IPVS's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Persistence templates instead of connections, or both, as `ipvsadm -Lc` shows.
    pub kind: EntryKind,
    /// Order of the rows.
    pub sort: ConnectionOrder,
    /// Reverses the order.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
    /// Rows to leave out at the front; with `limit` at most 1,000,000.
    pub offset: u32,
    /// Rows at most in the answer; all matching ones are counted.
    pub limit: u32,
}

impl Default for ConnectionsQuery {
    fn default() -> Self {
        ConnectionsQuery {
            service: None,
            client: None,
            vip: None,
            real_server: None,
            state: None,
            kind: EntryKind::default(),
            sort: ConnectionOrder::default(),
            descending: false,
            offset: 0,
            limit: 1000,
        }
    }
}

/// What is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Connections.
    #[default]
    Connections,
    /// Persistence templates.
    Templates,
    /// Both.
    All,
}

/// By what a listing of connections is sorted; ties by client, VIP and protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionOrder {
    /// CIP, then client's port.
    #[default]
    Client,
    /// Protocol, VIP, then port.
    Service,
    /// RIP.
    RealServer,
    /// IPVS's name of the state.
    State,
    /// Seconds until it expires.
    Expires,
}

/// Arguments of `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The whole file; `director` and `ports` must be what runs or absent.
    pub config: Config,
    /// Say what would change, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// One answer: `result` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`].
    pub version: u32,
    /// Configuration generation that every worker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReply>,
}

/// An error as the daemon answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// For programs; `dr-ctl` makes its exit code of it.
    pub code: ErrorCode,
    /// What, where and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Which command of a `batch` it is about, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

impl Response {
    /// An answer with a result. The types of this module always serialize; one that does not is answered as an
    /// internal error.
    pub fn ok<T: Serialize>(generation: u64, result: &T) -> Response {
        match serde_json::to_value(result) {
            Ok(value) => {
                Response { version: VERSION, generation: Some(generation), result: Some(value), error: None }
            }
            Err(error) => Response::error(ErrorReply::new(
                ErrorCode::Internal,
                format!("the result cannot be written as JSON: {error}"),
            )),
        }
    }

    /// An answer that says why not.
    pub fn error(error: ErrorReply) -> Response {
        Response { version: VERSION, generation: None, result: None, error: Some(error) }
    }

    /// The answer as it goes over the socket, newline included.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("keys are strings and numbers finite: always JSON");
        line.push(b'\n');
        line
    }
}

impl ErrorReply {
    /// An error without help.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorReply {
        ErrorReply { code, message: message.into(), help: None, index: None }
    }

    /// The same with what to do about it.
    pub fn with_help(self, help: impl Into<String>) -> ErrorReply {
        ErrorReply { help: Some(help.into()), ..self }
    }

    /// One answer for all that is wrong: code and help of the first problem, ten of them in the message.
    /// `problems` must not be empty.
    pub fn from_problems(problems: &[Problem]) -> ErrorReply {
        const SHOWN_MAX: usize = 10;
        let first = problems.first().expect("an error has a reason");
        let mut lines: Vec<String> = problems.iter().take(SHOWN_MAX).map(Problem::to_string).collect();
        if problems.len() > SHOWN_MAX {
            lines.push(format!("... and {} more problems", problems.len() - SHOWN_MAX));
        }
        ErrorReply { code: first.code, message: lines.join("\n"), help: first.help.clone(), index: None }
    }
}

/// Classes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, not a request, too long, unknown verb, wrong types.
    BadRequest,
    /// Another protocol version.
    WrongVersion,
    /// The service or real server named does not exist.
    NotFound,
    /// It exists already.
    Exists,
    /// Understood, but not a valid configuration.
    Invalid,
    /// A capacity is used up.
    Full,
    /// The caller may not.
    Denied,
    /// The workers did not take the change in time.
    Timeout,
    /// The daemon failed.
    Internal,
}

/// Result of every change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// One line a change, for people; empty: nothing to change.
    pub changes: Vec<String>,
}

/// Result of `show`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Show {
    /// The services, by protocol, address and port.
    pub services: Vec<ServiceView>,
}

/// A running virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its configuration; real servers apart, which are in `real_servers`.
    pub service: ServiceConfig,
    /// Real servers, oldest first.
    pub real_servers: Vec<RealServerView>,
}

/// A running real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerView {
    /// RIP.
    pub address: Ipv4Addr,
    /// Configured weight.
    pub weight: u16,
    /// Whether it gets new connections, and if not, why.
    pub state: RealServerState,
    /// MAC address, where known.
    pub mac: Option<MacAddress>,
    /// Name of the port that leads to it.
    pub port: String,
    /// Active connections, as IPVS counts them.
    pub active_connections: u32,
    /// Inactive connections, as IPVS counts them.
    pub inactive_connections: u32,
    /// Persistence templates that name it.
    pub persistent_connections: u32,
    /// Upper threshold; 0: none.
    pub upper_threshold: u32,
    /// Lower threshold; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// Seconds until it is removed, where it is drained with a deadline.
    pub drain_seconds_left: Option<u64>,
}

/// Whether a real server gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RealServerState {
    /// It does.
    Up,
    /// Its MAC address is not known.
    Unresolved,
    /// It is being drained.
    Draining,
    /// Its weight is 0.
    Quiesced,
    /// It has reached its upper threshold and not yet fallen below the lower one.
    Overloaded,
}

impl fmt::Display for RealServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RealServerState::Up => "up",
            RealServerState::Unresolved => "unresolved",
            RealServerState::Draining => "draining",
            RealServerState::Quiesced => "quiesced",
            RealServerState::Overloaded => "overloaded",
        })
    }
}

/// Result of `stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per service and real server.
    pub services: Vec<ServiceStats>,
    /// All workers together.
    pub totals: PacketTotals,
    /// Each worker.
    pub workers: Vec<WorkerStats>,
    /// Each port.
    pub ports: Vec<PortStats>,
}

/// Counters of one virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStats {
    /// What names it.
    pub service: ServiceId,
    /// All real servers together, removed ones too.
    pub totals: TrafficCounters,
    /// Rates of the same.
    pub rates: TrafficRates,
    /// Each real server, by address.
    pub real_servers: Vec<RealServerStats>,
}

/// Counters of one real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerStats {
    /// RIP.
    pub address: Ipv4Addr,
    /// Its counters.
    #[serde(flatten)]
    pub counters: TrafficCounters,
    /// Rates of the same.
    pub rates: TrafficRates,
}

/// Rates as IPVS estimates them: every 2 s a quarter of the way to the rate of these 2 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRates {
    /// Connections scheduled in a second.
    pub connections_per_second: u64,
    /// Packets forwarded in a second.
    pub packets_per_second: u64,
    /// Bytes forwarded in a second.
    pub bytes_per_second: u64,
}

/// Packets sent to real servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded: IP total length, as IPVS counts.
    pub bytes: u64,
}

/// Where the received packets went: received = forwarded + punted + the sum of `drops`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketTotals {
    /// Taken from RX queues.
    pub received: u64,
    /// Sent to a real server.
    pub forwarded: u64,
    /// Handed to the control thread.
    pub punted: u64,
    /// Dropped, by reason; every reason is listed.
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// Counters of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Number of the worker.
    pub worker: u32,
    /// Its CPU.
    pub cpu: u32,
    /// Its packets.
    #[serde(flatten)]
    pub packets: PacketTotals,
    /// Frames of the control thread that it sent.
    pub control_frames_sent: u64,
    /// Connections that it holds.
    pub connections: u64,
    /// Connections that it can hold.
    pub connection_capacity: u64,
    /// Packets among the forwarded that went by consistent hash, without state; by reason, every one listed.
    pub stateless: std::collections::BTreeMap<String, u64>,
    /// Configuration generation that it runs.
    pub generation: u64,
}

/// Counters of one port, as its driver reports them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Name of the port.
    pub port: String,
    /// Link.
    pub link_is_up: bool,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Lost for want of a descriptor.
    pub rx_missed: u64,
    /// Received with an error.
    pub rx_errors: u64,
    /// Not received for want of a buffer.
    pub rx_no_mbuf: u64,
    /// Not sent.
    pub tx_errors: u64,
}

/// Result of `connections`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Connections that match.
    pub matching: u64,
    /// The first of them, as many as asked for.
    pub connections: Vec<ConnectionView>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionView {
    /// Protocol; none for a template of a group.
    pub protocol: Option<Protocol>,
    /// A persistence template, not a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_template: bool,
    /// What its persistence engine knows the client by (a Call-ID), where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_data: Option<String>,
    /// The group, for a template of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// State, by IPVS's name.
    pub state: String,
    /// Seconds until it expires.
    pub expires_seconds: u32,
    /// CIP.
    pub client_address: Ipv4Addr,
    /// Client's port.
    pub client_port: u16,
    /// VIP.
    pub virtual_address: Ipv4Addr,
    /// VIP's port.
    pub virtual_port: u16,
    /// RIP.
    pub real_server: Ipv4Addr,
    /// Worker that holds it; none for a template, which all workers share.
    pub worker: Option<u32>,
}

/// Result of `neighbours`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbours {
    /// By port and address.
    pub neighbours: Vec<NeighbourView>,
}

/// What is known of a real server's MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourView {
    /// RIP.
    pub address: Ipv4Addr,
    /// Name of the port.
    pub port: String,
    /// State.
    pub state: NeighbourState,
    /// MAC address, the last one known.
    pub mac: Option<MacAddress>,
    /// Seconds since it last said so; none where it never did.
    pub confirmed_seconds_ago: Option<u64>,
    /// Requests sent since then.
    pub unanswered_requests: u32,
}

/// States of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourState {
    /// Asked for, never answered.
    Unresolved,
    /// Confirmed lately.
    Reachable,
    /// Being asked again; its last MAC is used meanwhile.
    Probing,
    /// It answered once and does so no more.
    Failed,
    /// Given by the configuration.
    Static,
}

impl fmt::Display for NeighbourState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NeighbourState::Unresolved => "unresolved",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Probing => "probing",
            NeighbourState::Failed => "failed",
            NeighbourState::Static => "static",
        })
    }
}

/// Result of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of dr-director.
    pub version: String,
    /// Version of DPDK, or "none (in-memory ports)".
    pub dpdk: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Newest configuration generation.
    pub generation: u64,
    /// Virtual services.
    pub services: u32,
    /// Real servers.
    pub real_servers: u32,
    /// Real servers that get new connections.
    pub real_servers_up: u32,
    /// Connections held by all workers.
    pub connections: u64,
    /// Buckets of all connection tables together: the `size` of `ipvsadm -L`.
    pub connection_buckets: u64,
    /// Persistence templates held.
    pub templates: u64,
    /// Persistence templates that can be held.
    pub template_capacity: u64,
    /// How connections are kept; every timeout is given.
    pub connection_options: ConnectionsConfig,
    /// What the memory consists of, for people.
    pub memory: String,
    /// What somebody should look at; empty: all well.
    pub warnings: Vec<String>,
    /// The ports.
    pub ports: Vec<PortView>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// Name.
    pub name: String,
    /// DPDK device.
    pub device: String,
    /// MAC address.
    pub mac: MacAddress,
    /// DIPs with their networks.
    pub addresses: Vec<ipnet::Ipv4Net>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Link.
    pub link_is_up: bool,
}
