//! What the listings are made of: services and real servers in ipvsadm's terms, IPv6, tunnels and all, and their order.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use scheduler::SchedulerFlags;

use super::command::{Family, Forwarding, Netmask};
use crate::config::{PersistenceEngine, Protocol, RealServerConfig, ServiceConfig, ServiceId};
use crate::protocol::{
    ConnectionView, RealServerStats, RealServerView, ServiceStats, ServiceView, TrafficCounters, TrafficRates,
};

/// What names a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Label {
    /// One VIP:port.
    Virtual {
        /// Layer 4 protocol.
        protocol: Protocol,
        /// VIP.
        address: IpAddr,
        /// Its port.
        port: u16,
    },
    /// A firewall mark.
    Fwmark {
        /// The mark.
        mark: u32,
        /// IPv6 by `-6`.
        family: Family,
    },
    /// A group without a mark, which ipvsadm cannot name.
    Group(String),
}

impl Label {
    /// The virtual port, 0 of what has none.
    pub(super) fn port(&self) -> u16 {
        match self {
            Label::Virtual { port, .. } => *port,
            Label::Fwmark { .. } | Label::Group(_) => 0,
        }
    }

    fn mark(&self) -> u32 {
        match self {
            Label::Fwmark { mark, .. } => *mark,
            _ => 0,
        }
    }

    /// The family of the VIP or mark.
    pub fn family(&self) -> Family {
        match self {
            Label::Virtual { address, .. } => Family::of(*address),
            Label::Fwmark { family, .. } => *family,
            Label::Group(_) => Family::V4,
        }
    }

    /// The protocol by which ports have names.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Label::Virtual { protocol, .. } => Some(*protocol),
            _ => None,
        }
    }
}

/// Counters in the order of the columns: connections, packets in, out, bytes in, out.
pub type Counters = [u64; 5];

/// A service with its real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    /// What names it.
    pub label: Label,
    /// Name of its scheduler.
    pub scheduler: String,
    /// `-b`.
    pub flags: SchedulerFlags,
    /// Seconds.
    pub persistence: Option<u32>,
    /// Of persistence.
    pub netmask: Netmask,
    /// Name of its persistence engine.
    pub engine: Option<String>,
    /// `-o`.
    pub one_packet: bool,
    /// Since the start or the last `-Z`.
    pub counters: Counters,
    /// In a second.
    pub rates: Counters,
    /// Newest last.
    pub real_servers: Vec<RealServerRow>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServerRow {
    /// RIP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Forwarding method.
    pub forwarding: Forwarding,
    /// Weight.
    pub weight: u32,
    /// Upper threshold, 0 for none.
    pub upper_threshold: u32,
    /// Lower threshold.
    pub lower_threshold: u32,
    /// Active connections.
    pub active: u32,
    /// Inactive connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Since the start or the last `-Z`.
    pub counters: Counters,
    /// In a second.
    pub rates: Counters,
}

/// A connection or persistence template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRow {
    /// None for the template of a firewall mark.
    pub protocol: Option<Protocol>,
    /// Seconds.
    pub expires: u32,
    /// IPVS's name of the state.
    pub state: String,
    /// CIP and port.
    pub source: (IpAddr, u16),
    /// VIP and port, or the mark as an address.
    pub destination: (IpAddr, u16),
    /// RIP and port.
    pub real_server: (IpAddr, u16),
    /// Name and data of the persistence engine.
    pub engine: Option<(String, String)>,
}

impl ServiceRow {
    /// The row of a configured service, counts 0.
    pub fn new(service: &ServiceConfig) -> ServiceRow {
        let label = match (service.id, service.fwmark) {
            (ServiceId::Virtual(vip), _) => {
                Label::Virtual { protocol: vip.protocol, address: vip.address, port: vip.port }
            }
            (ServiceId::Group(_), Some(mark)) => Label::Fwmark { mark, family: service.group_family },
            (ServiceId::Group(name), None) => Label::Group(name.to_string()),
        };
        let port = label.port();
        let persistence = service.persistence;
        let netmask = persistence.map(|persistence| persistence.netmask).unwrap_or_default();
        let engine = persistence.and_then(|persistence| persistence.engine);
        ServiceRow {
            label,
            scheduler: service.scheduler.name().to_owned(),
            flags: service.scheduler_flags,
            persistence: persistence.map(|persistence| persistence.timeout_seconds),
            netmask: match service.family() {
                Family::V4 => Netmask::V4(netmask.mask()),
                Family::V6 => Netmask::V6(netmask.prefix_length()),
            },
            engine: engine.map(|engine| engine_name(engine).to_owned()),
            one_packet: service.one_packet,
            counters: [0; 5],
            rates: [0; 5],
            real_servers: service.real_servers.iter().map(|rs| RealServerRow::new(rs, port)).collect(),
        }
    }

    /// The row of a running service. `stats` may be absent where its columns are not shown.
    pub fn running(view: &ServiceView, stats: Option<&ServiceStats>) -> ServiceRow {
        let mut row = ServiceRow::new(&view.service);
        if let Some(stats) = stats {
            row.counters = counters(&stats.totals);
            row.rates = rates(&stats.rates);
        }
        let port = row.label.port();
        let servers = view.real_servers.iter();
        row.real_servers = servers
            .map(|view| {
                let find = |stats: &&RealServerStats| stats.id() == view.id();
                let stats = stats.and_then(|stats| stats.real_servers.iter().find(find));
                RealServerRow::running(view, port, stats)
            })
            .collect();
        row
    }
}

impl RealServerRow {
    fn new(real_server: &RealServerConfig, port: u16) -> RealServerRow {
        RealServerRow {
            address: real_server.address,
            port: real_server.port.unwrap_or(port),
            forwarding: Forwarding::of(real_server.forwarding, real_server.tunnel),
            weight: real_server.weight.into(),
            upper_threshold: real_server.upper_threshold,
            lower_threshold: real_server.lower_threshold,
            active: 0,
            inactive: 0,
            persistent: 0,
            counters: [0; 5],
            rates: [0; 5],
        }
    }

    fn running(view: &RealServerView, port: u16, stats: Option<&RealServerStats>) -> RealServerRow {
        RealServerRow {
            address: view.address,
            port: view.port.unwrap_or(port),
            forwarding: Forwarding::of(view.forwarding, view.tunnel),
            weight: view.weight.into(),
            upper_threshold: view.upper_threshold,
            lower_threshold: view.lower_threshold,
            active: view.active_connections,
            inactive: view.inactive_connections,
            persistent: view.persistent_connections,
            counters: stats.map(|stats| counters(&stats.counters)).unwrap_or_default(),
            rates: stats.map(|stats| rates(&stats.rates)).unwrap_or_default(),
        }
    }
}

impl ConnectionRow {
    /// The row of a connection; `mark_of` knows the mark of a group, 0 for none.
    pub fn new(view: &ConnectionView, mark_of: impl Fn(&str) -> u32) -> ConnectionRow {
        let destination = match &view.group {
            Some(group) => (address_of_mark(mark_of(group.as_str()), view.client_address), 0),
            None => (view.virtual_address, view.virtual_port),
        };
        let engine = view.engine_data.clone();
        ConnectionRow {
            protocol: view.protocol,
            expires: view.expires_seconds,
            state: view.state.clone(),
            source: (view.client_address, view.client_port),
            destination,
            real_server: (view.real_server, if view.group.is_some() { 0 } else { view.real_server_port }),
            engine: engine.map(|data| (engine_name(PersistenceEngine::Sip).to_owned(), data)),
        }
    }
}

/// A mark where the kernel has a VIP: the first 32 bits of an address of the client's family.
fn address_of_mark(mark: u32, client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => Ipv4Addr::from(mark).into(),
        IpAddr::V6(_) => Ipv6Addr::from(u128::from(mark) << 96).into(),
    }
}

/// The kernel's name of an engine.
pub fn engine_name(engine: PersistenceEngine) -> &'static str {
    match engine {
        PersistenceEngine::Sip => "sip",
    }
}

/// Replies pass the director by under direct routing and tunnelling: nothing goes out through it.
fn counters(traffic: &TrafficCounters) -> Counters {
    let TrafficCounters { connections, packets, bytes, reply_packets, reply_bytes } = *traffic;
    [connections, packets, reply_packets, bytes, reply_bytes]
}

fn rates(traffic: &TrafficRates) -> Counters {
    [
        traffic.connections_per_second,
        traffic.packets_per_second,
        traffic.reply_packets_per_second,
        traffic.bytes_per_second,
        traffic.reply_bytes_per_second,
    ]
}

/// Sorts as ipvsadm does: services by mark, family, protocol, address and port, their real servers by address and
/// port. ipvsadm compares each by the sign of a 32-bit difference, so that 192.168.0.1 is before 10.0.0.1 (!). That is
/// no order at all where three addresses lie round the circle (10.0.0.1, 100.64.0.1, 192.168.0.1), and then what
/// ipvsadm prints depends on the kernel's hash; a merge sort, like glibc's qsort, ends whatever the answers.
pub fn sort(services: &mut Vec<ServiceRow>) {
    merge_sort(services, &compare_services);
    services.iter_mut().for_each(sort_real_servers);
}

/// Sorts the real servers of one service.
pub fn sort_real_servers(service: &mut ServiceRow) {
    merge_sort(&mut service.real_servers, &compare_real_servers);
}

fn merge_sort<T: Clone>(rows: &mut Vec<T>, compare: &dyn Fn(&T, &T) -> Ordering) {
    if rows.len() < 2 {
        return;
    }
    let mut right = rows.split_off(rows.len() / 2);
    merge_sort(rows, compare);
    merge_sort(&mut right, compare);
    let left = std::mem::replace(rows, Vec::with_capacity(rows.len() + right.len()));
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        let is_left = compare(first, second) != Ordering::Greater;
        rows.extend(if is_left { left.next() } else { right.next() });
    }
    rows.extend(left);
    rows.extend(right);
}

fn compare_services(one: &ServiceRow, other: &ServiceRow) -> Ordering {
    let is_group = |row: &ServiceRow| matches!(row.label, Label::Group(_));
    let place = |row: &ServiceRow| match row.label {
        Label::Virtual { protocol, address, port } => (protocol_number(protocol), words_of(address), port),
        _ => (0, [0; 4], 0),
    };
    let (one_place, other_place) = (place(one), place(other));
    is_group(one)
        .cmp(&is_group(other))
        .then_with(|| difference(one.label.mark(), other.label.mark()))
        .then_with(|| one.label.family().cmp(&other.label.family()))
        .then_with(|| one_place.0.cmp(&other_place.0))
        .then_with(|| compare_words(one_place.1, other_place.1))
        .then_with(|| one_place.2.cmp(&other_place.2))
        .then_with(|| match (&one.label, &other.label) {
            (Label::Group(one), Label::Group(other)) => one.cmp(other),
            _ => Ordering::Equal,
        })
}

fn compare_real_servers(one: &RealServerRow, other: &RealServerRow) -> Ordering {
    // The first one's family says how much of both is compared.
    let words = match one.address {
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => 4,
    };
    let (one_words, other_words) = (words_of(one.address), words_of(other.address));
    let pairs = one_words.into_iter().zip(other_words).take(words);
    let by_address = pairs.map(|(one, other)| difference(one, other)).find(|order| order.is_ne());
    by_address.unwrap_or(Ordering::Equal).then_with(|| one.port.cmp(&other.port))
}

fn compare_words(one: [u32; 4], other: [u32; 4]) -> Ordering {
    let pairs = one.into_iter().zip(other);
    pairs.map(|(one, other)| difference(one, other)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn difference(one: u32, other: u32) -> Ordering {
    (one.wrapping_sub(other) as i32).cmp(&0)
}

fn words_of(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [address.into(), 0, 0, 0],
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(address: [u8; 4]) -> ServiceRow {
        ServiceRow::new(&ServiceConfig::new(ServiceId::new(Protocol::Tcp, address, 80)))
    }

    fn sorted(mut rows: Vec<ServiceRow>) -> Vec<String> {
        sort(&mut rows);
        let address = |row: &ServiceRow| match &row.label {
            Label::Virtual { address, .. } => address.to_string(),
            Label::Fwmark { mark, .. } => mark.to_string(),
            Label::Group(name) => name.clone(),
        };
        rows.iter().map(address).collect()
    }

    #[test]
    fn an_address_more_than_half_the_circle_away_is_before_as_in_ipvsadm() {
        let (ten, shared, private) =
            (service([10, 0, 0, 1]), service([100, 64, 0, 1]), service([192, 168, 0, 1]));
        assert_eq!(sorted(vec![ten.clone(), private.clone()]), ["192.168.0.1", "10.0.0.1"]);
        assert_eq!(sorted(vec![private.clone(), ten.clone()]), ["192.168.0.1", "10.0.0.1"]);
        assert_eq!(sorted(vec![shared.clone(), ten.clone()]), ["10.0.0.1", "100.64.0.1"]);
        assert_eq!(sorted(vec![private.clone(), shared.clone()]), ["100.64.0.1", "192.168.0.1"]);
        // Each is before the next one, round the circle.
        assert_eq!(sorted(vec![ten, shared, private]).len(), 3);
    }

    #[test]
    fn marks_over_two_to_the_31_are_negative_and_so_first() {
        let mut rows = vec![service([192, 0, 2, 10])];
        for mark in [7, u32::MAX] {
            let label = Label::Fwmark { mark, family: Family::V4 };
            rows.push(ServiceRow { label, ..service([0; 4]) });
        }
        rows.push(ServiceRow { label: Label::Group("web".to_owned()), ..service([0; 4]) });
        assert_eq!(sorted(rows), ["4294967295", "192.0.2.10", "7", "web"]);
    }
}
