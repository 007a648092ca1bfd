//! `dr-ctl connections`: the connections of all workers and the persistence templates, filtered, sorted, a page of them.
//!
//! A listing runs on a thread of its own, on the control thread's CPUs, and reads the tables as they are: workers do
//! nothing for it and ARP does not wait for it. Its memory is bounded by the page that is asked for, its time by the
//! tables' size. At most [`AT_ONCE`] run; others wait.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ctl::config::{Forwarding, GroupName, Protocol, ServiceConfig, ServiceId};
use ctl::protocol::{
    CONNECTION_PAGE_ROWS_MAX, CONNECTION_ROWS_MAX, CONNECTION_STATES, ConnectionOrder, ConnectionView,
    Connections, ConnectionsQuery, EntryKind, ErrorCode, ErrorReply,
};
use dataplane::clock::{Clock, TICKS_PER_SECOND, Ticks};
use dataplane::connection::{ConnectionState, Record, TableReader};
use dataplane::persistence::reader::CallIdText;
use dataplane::persistence::{Template, TemplateScope, TemplateTable};
use dataplane::snapshot;
use tokio::sync::Semaphore;

use crate::control::{Control, SharedControl};
use crate::draft::no_service;
use crate::selection::Selection;
use crate::services::client_mask;
use crate::slots::Owner;

/// Listings that run at once.
pub const AT_ONCE: usize = 2;
/// How long a listing may wait for others.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);
/// Entries read before the thread offers its CPU to the control thread, and the clock is read again.
const ENTRIES_AT_ONCE: u32 = 16_384;

/// Name of an assured template's state; others are `NONE`.
const ASSURED: &str = "ASSURED";
const NOT_ASSURED: &str = "NONE";

/// What listings read.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The connections of each worker.
    pub workers: Vec<TableReader>,
    /// The templates of all workers.
    pub templates: Arc<TemplateTable>,
    /// Buckets of all connection tables together.
    pub buckets: u64,
    turns: Arc<Semaphore>,
}

impl Tables {
    /// Tables that nobody reads yet.
    pub fn new(workers: Vec<TableReader>, templates: Arc<TemplateTable>, buckets: u64) -> Self {
        Tables { workers, templates, buckets, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// Lists connections.
pub async fn list(control: &SharedControl, query: &ConnectionsQuery) -> Result<Connections, ErrorReply> {
    check(query)?;
    let turns = control.borrow().tables.turns.clone();
    let busy = || {
        let message = format!("{AT_ONCE} listings of connections are still under way");
        ErrorReply::new(ErrorCode::Timeout, message).with_help("try again in a moment")
    };
    let turn = tokio::time::timeout(QUEUE_PATIENCE, turns.acquire_owned()).await.map_err(|_| busy())?;
    let listing = Listing::new(&control.borrow(), query)?;
    // The turn goes with the thread: one whose client has left still runs to its end.
    let run = move || {
        let _turn = turn;
        listing.run()
    };
    tokio::task::spawn_blocking(run).await.map_err(|_| {
        ErrorReply::new(
            ErrorCode::Internal,
            "the listing crashed a thread of the director; its log says more",
        )
    })
}

fn check(query: &ConnectionsQuery) -> Result<(), ErrorReply> {
    let reach = query.offset.checked_add(query.limit).filter(|reach| *reach <= CONNECTION_ROWS_MAX);
    if reach.is_none() {
        let (offset, limit) = (query.offset, query.limit);
        let message = format!("offset {offset} and limit {limit} are over {CONNECTION_ROWS_MAX} together");
        return Err(ErrorReply::new(ErrorCode::Invalid, message)
            .with_help("narrow the listing by service, client, VIP, real server or state"));
    }
    let Some(state) = &query.state else { return Ok(()) };
    if CONNECTION_STATES.iter().any(|name| name.eq_ignore_ascii_case(state)) {
        return Ok(());
    }
    Err(ErrorReply::new(ErrorCode::Invalid, format!("state: {state:?} is no state of a connection"))
        .with_help(format!("known are {}", CONNECTION_STATES.join(", "))))
}

/// A listing, with all that it needs of the control thread's state.
struct Listing {
    tables: Tables,
    clock: Clock,
    filter: Filter,
    owners: Vec<Option<Owner>>,
    forwardings: Vec<Forwarding>,
    /// Places of the slots in the order of their real servers.
    ranks: Vec<u32>,
    /// The fwmarks of the groups that have one.
    marks: HashMap<GroupName, u32>,
    sort: ConnectionOrder,
    descending: bool,
    offset: usize,
    limit: usize,
}

/// A query against what tables hold.
struct Filter {
    kind: EntryKind,
    /// By slot; none: all.
    slots: Option<Vec<bool>>,
    client: Option<ipnet::IpNet>,
    /// Under which mask the template of a slot knows its clients; empty where nobody asks for clients.
    masks: Vec<u128>,
    vip: Option<IpAddr>,
    state: Option<String>,
    /// By number of the state.
    states: [bool; 256],
}

/// A row while it is sorted.
#[derive(Clone, Debug)]
struct Row {
    /// What the listing is sorted by.
    order: u64,
    client: IpAddr,
    client_port: u16,
    virtual_port: u16,
    vip: IpAddr,
    /// None of a group.
    protocol: Option<Protocol>,
    worker: Option<u16>,
    slot: u32,
    expires_ticks: u32,
    state: &'static str,
    template: Option<Box<TemplateFacts>>,
    translation: Option<Box<Translation>>,
}

/// What only translated connections have.
#[derive(Clone, Copy, Debug)]
struct Translation {
    real_server: SocketAddr,
    /// Full NAT's.
    local: Option<SocketAddr>,
}

/// What only templates have.
#[derive(Clone, Debug)]
struct TemplateFacts {
    group: Option<GroupName>,
    engine_data: Option<String>,
}

impl Listing {
    fn new(control: &Control, query: &ConnectionsQuery) -> Result<Self, ErrorReply> {
        let services = &control.services;
        if let Some(id) = query.service.filter(|id| services.find(*id).is_none()) {
            return Err(no_service(id));
        }
        let owners = services.slots().owners();
        Ok(Listing {
            forwardings: services.slots().forwardings(),
            ranks: ranks(&owners),
            tables: control.tables.clone(),
            clock: control.clock.clone(),
            filter: Filter::new(query, &owners, services.configured()),
            owners,
            marks: marks(services.configured()),
            sort: query.sort,
            descending: query.descending,
            offset: query.offset as usize,
            limit: query.limit.min(CONNECTION_PAGE_ROWS_MAX) as usize,
        })
    }

    fn run(self) -> Connections {
        let descending = self.descending;
        let by_service = self.sort == ConnectionOrder::Service;
        let compare = move |a: &Row, b: &Row| {
            let ordering = compare(a, b, by_service);
            if descending { ordering.reverse() } else { ordering }
        };
        let mut selection = Selection::new(self.offset + self.limit, compare);
        let mut matching = 0;
        let mut see = |row: Row| {
            matching += 1;
            selection.add(row);
        };
        if self.filter.kind != EntryKind::Templates {
            for (worker, table) in self.tables.workers.iter().enumerate() {
                self.read_connections(worker as u16, table, &mut see);
            }
        }
        if self.filter.kind != EntryKind::Connections {
            self.read_templates(&mut see);
        }
        let rows = selection.finish(self.offset);
        Connections { matching, connections: rows.into_iter().map(|row| self.view(row)).collect() }
    }

    fn read_connections(&self, worker: u16, table: &TableReader, see: &mut impl FnMut(Row)) {
        let mut from = 0;
        while from < table.used_bound() {
            let now = self.clock.now();
            for record in table.read(from, ENTRIES_AT_ONCE) {
                if self.filter.admits(&record, now) {
                    see(self.row(worker, &record, now));
                }
            }
            from += ENTRIES_AT_ONCE;
            std::thread::yield_now();
        }
    }

    fn row(&self, worker: u16, record: &Record, now: Ticks) -> Row {
        let (connection, tuple) = (&record.connection, record.tuple());
        let service = tuple.service;
        // A reply goes from the real server to the client, or to what stands for it.
        let translation = record.reply.map(|reply| {
            let (seen, client) = (
                SocketAddr::new(reply.service.address, reply.service.port),
                SocketAddr::new(tuple.client, tuple.client_port),
            );
            let real_server = SocketAddr::new(reply.client, reply.client_port);
            Box::new(Translation { real_server, local: (seen != client).then_some(seen) })
        });
        let row = Row {
            order: 0,
            client: tuple.client,
            client_port: tuple.client_port,
            virtual_port: service.port,
            vip: service.address,
            protocol: protocol(service.protocol),
            worker: Some(worker),
            slot: connection.destination,
            expires_ticks: connection.expires.since(now),
            state: connection.state.name(),
            template: None,
            translation,
        };
        self.ordered(row, 0)
    }

    fn read_templates(&self, see: &mut impl FnMut(Row)) {
        let table = &self.tables.templates;
        let mut from = 0;
        while from < table.bucket_bound() {
            let now = self.clock.now();
            for (template, call_id) in table.read(from, ENTRIES_AT_ONCE) {
                if self.filter.admits_template(&template, now) {
                    see(self.template_row(&template, call_id, now));
                }
            }
            from += ENTRIES_AT_ONCE;
            std::thread::yield_now();
        }
    }

    fn template_row(&self, template: &Template, call_id: Option<CallIdText>, now: Ticks) -> Row {
        let owner = self.owners.get(template.destination as usize).copied().flatten();
        let group = match owner.map(|owner| owner.service) {
            Some(ServiceId::Group(name)) => Some(name),
            _ => None,
        };
        let engine_data = call_id.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
        let (vip, group_number, virtual_port, protocol) = match template.key.scope() {
            TemplateScope::Service(key) => (key.address, 0, key.port, protocol(key.protocol)),
            // As IPVS lists them: the mark in the VIP's place. The number keeps groups without one apart.
            TemplateScope::Group(number) => (self.mark_of(group, template.key.is_ipv6()), number, 0, None),
        };
        let row = Row {
            order: 0,
            client: template.key.client_network(),
            client_port: 0,
            virtual_port,
            vip,
            protocol,
            worker: None,
            slot: template.destination,
            // One that is past its time stays while it controls connections.
            expires_ticks: if template.expires.is_past(now) { 0 } else { template.expires.since(now) },
            state: state_of(template),
            template: Some(Box::new(TemplateFacts { group, engine_data })),
            translation: None,
        };
        self.ordered(row, group_number)
    }

    /// The group's mark as an address, in its first four bytes; all zeros where it has none.
    fn mark_of(&self, group: Option<GroupName>, is_ipv6: bool) -> IpAddr {
        let mark = group.and_then(|name| self.marks.get(&name).copied()).unwrap_or_default();
        match is_ipv6 {
            false => Ipv4Addr::from_bits(mark).into(),
            true => Ipv6Addr::from_bits(u128::from(mark) << 96).into(),
        }
    }

    fn view(&self, row: Row) -> ConnectionView {
        let (real_server, forwarding) = (self.real_server(&row), self.forwarding(&row));
        let is_template = row.template.is_some();
        let facts = row.template.map_or(TemplateFacts { group: None, engine_data: None }, |facts| *facts);
        ConnectionView {
            protocol: row.protocol,
            is_template,
            engine_data: facts.engine_data,
            group: facts.group,
            state: row.state.to_owned(),
            expires_seconds: row.expires_ticks.div_ceil(TICKS_PER_SECOND),
            client_address: row.client,
            client_port: row.client_port,
            virtual_address: row.vip,
            virtual_port: row.virtual_port,
            real_server: real_server.ip(),
            real_server_port: real_server.port(),
            forwarding,
            local: row.translation.and_then(|translation| translation.local),
            worker: row.worker.map(u32::from),
        }
    }

    /// Where its packets go. A slot that never led anywhere is in no table.
    fn real_server(&self, row: &Row) -> SocketAddr {
        let owner = self.owners.get(row.slot as usize).copied().flatten();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], row.virtual_port));
        let configured = owner.map_or(nowhere, |Owner { real_server, .. }| {
            SocketAddr::new(real_server.address, real_server.port.unwrap_or(row.virtual_port))
        });
        row.translation.as_ref().map_or(configured, |translation| translation.real_server)
    }

    /// A connection goes on as it began, whatever its real server has been set to since.
    fn forwarding(&self, row: &Row) -> Forwarding {
        match &row.translation {
            Some(translation) if translation.local.is_some() => Forwarding::FullNat,
            Some(_) => Forwarding::Nat,
            None => self.forwardings.get(row.slot as usize).copied().unwrap_or_default(),
        }
    }

    /// Groups come first, by their numbers.
    fn ordered(&self, row: Row, group_number: u32) -> Row {
        let order = match self.sort {
            ConnectionOrder::Client => 0,
            ConnectionOrder::Service => match row.protocol {
                None => u64::from(group_number),
                Some(protocol) => (1 + protocol as u64) << 32,
            },
            ConnectionOrder::RealServer => {
                u64::from(self.ranks.get(row.slot as usize).copied().unwrap_or_default())
            }
            ConnectionOrder::State => first_bytes(row.state),
            ConnectionOrder::Expires => u64::from(row.expires_ticks),
        };
        Row { order, ..row }
    }
}

fn marks(services: &[ServiceConfig]) -> HashMap<GroupName, u32> {
    let mark = |service: &ServiceConfig| match service.id {
        ServiceId::Group(name) => Some((name, service.fwmark?)),
        ServiceId::Virtual(_) => None,
    };
    services.iter().filter_map(mark).collect()
}

/// The place of each slot among all, by its real server's address and port; those of one real server share it.
fn ranks(owners: &[Option<Owner>]) -> Vec<u32> {
    let mut known: Vec<_> = owners.iter().flatten().map(|owner| owner.real_server).collect();
    known.sort_unstable();
    known.dedup();
    let rank = |owner: &Owner| known.binary_search(&owner.real_server).map_or(0, |place| place as u32 + 1);
    owners.iter().map(|owner| owner.as_ref().map_or(0, rank)).collect()
}

/// Names of states differ within their first eight letters, or sort by them well enough.
fn first_bytes(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let count = name.len().min(bytes.len());
    bytes[..count].copy_from_slice(&name.as_bytes()[..count]);
    u64::from_be_bytes(bytes)
}

fn compare(a: &Row, b: &Row, by_service: bool) -> Ordering {
    let key = |row: &Row| {
        (
            row.order,
            by_service.then_some((row.vip, row.virtual_port)),
            row.client,
            row.client_port,
            row.vip,
            row.virtual_port,
            row.protocol,
            row.worker,
            row.slot,
        )
    };
    key(a).cmp(&key(b))
}

fn state_of(template: &Template) -> &'static str {
    if template.is_assured { ASSURED } else { NOT_ASSURED }
}

fn protocol(protocol: snapshot::Protocol) -> Option<Protocol> {
    match protocol {
        snapshot::Protocol::TCP => Some(Protocol::Tcp),
        snapshot::Protocol::UDP => Some(Protocol::Udp),
        snapshot::Protocol::SCTP => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The mask of persistence of the service that has each slot.
fn masks(owners: &[Option<Owner>], services: &[ServiceConfig]) -> Vec<u128> {
    let persistent = services.iter().filter_map(|service| {
        Some((service.id, client_mask(service.persistence?.netmask, service.family())))
    });
    let by_service: HashMap<ServiceId, u128> = persistent.collect();
    let mask = |owner: &Owner| by_service.get(&owner.service).copied();
    owners.iter().map(|owner| owner.as_ref().and_then(mask).unwrap_or(u128::MAX)).collect()
}

/// An IPv4 address in the low bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Filter {
    fn new(query: &ConnectionsQuery, owners: &[Option<Owner>], services: &[ServiceConfig]) -> Self {
        let is_wanted = |owner: &Owner| {
            query.service.is_none_or(|id| id == owner.service)
                && query.real_server.is_none_or(|wanted| {
                    wanted.address == owner.real_server.address
                        && (wanted.port.is_none() || wanted.within(owner.service) == owner.real_server)
                })
        };
        let slots = || owners.iter().map(|owner| owner.as_ref().is_some_and(is_wanted)).collect();
        let mut states = [query.state.is_none(); 256];
        for &state in ConnectionState::ALL {
            states[state as usize] |=
                query.state.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(state.name()));
        }
        Filter {
            kind: query.kind,
            slots: (query.service.is_some() || query.real_server.is_some()).then(slots),
            client: query.client,
            masks: query.client.map(|_| masks(owners, services)).unwrap_or_default(),
            vip: query.vip,
            state: query.state.clone(),
            states,
        }
    }

    fn admits(&self, record: &Record, now: Ticks) -> bool {
        let connection = &record.connection;
        // Over, and not swept yet.
        !connection.expires.is_past(now)
            && self.states[connection.state as usize]
            && self.admits_slot(connection.destination)
            && self.client.is_none_or(|network| network.contains(&record.tuple().client))
            && self.vip.is_none_or(|vip| vip == record.tuple().service.address)
    }

    fn admits_template(&self, template: &Template, now: Ticks) -> bool {
        let is_of_vip = |vip| match template.key.scope() {
            TemplateScope::Service(key) => key.address == vip,
            TemplateScope::Group(_) => false,
        };
        // One of a whole network is of each client in it.
        let mask = self.masks.get(template.destination as usize).copied().unwrap_or(u128::MAX);
        let is_of_network = |network: ipnet::IpNet| {
            let client = template.key.client_network();
            let difference = bits(network.addr()) ^ bits(client);
            network.addr().is_ipv4() == client.is_ipv4() && difference & bits(network.netmask()) & mask == 0
        };
        (template.controlled > 0 || !template.expires.is_past(now))
            && self.state.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(state_of(template)))
            && self.admits_slot(template.destination)
            && self.client.is_none_or(is_of_network)
            && self.vip.is_none_or(is_of_vip)
    }

    fn admits_slot(&self, slot: u32) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.get(slot as usize).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
