//! `dr-ctl connections`: the connections of all workers and the persistence templates, filtered, sorted, a page of them.
//!
//! A listing runs on a thread of its own, on the control thread's CPUs, and reads the tables as they are: workers do
//! nothing for it and ARP does not wait for it. Its memory is bounded by the page that is asked for, its time by the
//! tables' size. At most [`AT_ONCE`] run; others wait.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ctl::config::{GroupName, Protocol, ServiceConfig, ServiceId};
use ctl::protocol::{
    CONNECTION_PAGE_ROWS_MAX, CONNECTION_ROWS_MAX, CONNECTION_STATES, ConnectionOrder, ConnectionView,
    Connections, ConnectionsQuery, EntryKind, ErrorCode, ErrorReply,
};
use dataplane::clock::{Clock, TICKS_PER_SECOND, Ticks};
use dataplane::connection::{Connection, ConnectionState, TableReader};
use dataplane::persistence::reader::CallIdText;
use dataplane::persistence::{Template, TemplateScope, TemplateTable};
use dataplane::snapshot;
use tokio::sync::Semaphore;

use crate::control::{Control, SharedControl};
use crate::draft::no_service;
use crate::selection::Selection;
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
    client: Option<ipnet::Ipv4Net>,
    /// Under which mask the template of a slot knows its clients; empty where nobody asks for clients.
    masks: Vec<u32>,
    vip: Option<Ipv4Addr>,
    state: Option<String>,
    /// By number of the state.
    states: [bool; 256],
}

/// A row while it is sorted.
#[derive(Clone, Debug)]
struct Row {
    /// What the listing is sorted by.
    order: u64,
    client: Ipv4Addr,
    client_port: u16,
    virtual_port: u16,
    vip: Ipv4Addr,
    /// None of a group.
    protocol: Option<Protocol>,
    worker: Option<u16>,
    slot: u32,
    expires_ticks: u32,
    state: &'static str,
    template: Option<Box<TemplateFacts>>,
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
        let compare = move |a: &Row, b: &Row| {
            let ordering = compare(a, b);
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
            for connection in table.read(from, ENTRIES_AT_ONCE) {
                if self.filter.admits(&connection, now) {
                    see(self.row(worker, &connection, now));
                }
            }
            from += ENTRIES_AT_ONCE;
            std::thread::yield_now();
        }
    }

    fn row(&self, worker: u16, connection: &Connection, now: Ticks) -> Row {
        let (key, service) = (&connection.key, connection.key.service());
        let row = Row {
            order: 0,
            client: key.client_address(),
            client_port: key.client_port(),
            virtual_port: service.port,
            vip: service.address,
            protocol: protocol(service.protocol),
            worker: Some(worker),
            slot: connection.destination,
            expires_ticks: connection.expires.since(now),
            state: connection.state.name(),
            template: None,
        };
        let service_order = service_order(row.protocol, service.address.to_bits(), service.port);
        self.ordered(row, service_order)
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
        let (vip, number, virtual_port, protocol) = match template.key.scope() {
            TemplateScope::Service(key) => {
                (key.address, key.address.to_bits(), key.port, protocol(key.protocol))
            }
            // As IPVS lists them: the mark in the VIP's place. The number keeps groups without one apart.
            TemplateScope::Group(number) => (self.mark_of(group), number, 0, None),
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
        };
        self.ordered(row, service_order(protocol, number, virtual_port))
    }

    /// The group's mark as an address; 0.0.0.0 where it has none.
    fn mark_of(&self, group: Option<GroupName>) -> Ipv4Addr {
        let mark = group.and_then(|name| self.marks.get(&name).copied());
        Ipv4Addr::from_bits(mark.unwrap_or_default())
    }

    fn view(&self, row: Row) -> ConnectionView {
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
            real_server: self.real_server(row.slot),
            worker: row.worker.map(u32::from),
        }
    }

    /// A slot that never led anywhere is in no table.
    fn real_server(&self, slot: u32) -> Ipv4Addr {
        let owner = self.owners.get(slot as usize).copied().flatten();
        owner.map_or(Ipv4Addr::UNSPECIFIED, |owner| owner.address)
    }

    fn ordered(&self, row: Row, service_order: u64) -> Row {
        let order = match self.sort {
            ConnectionOrder::Client => 0,
            ConnectionOrder::Service => service_order,
            ConnectionOrder::RealServer => u64::from(self.real_server(row.slot).to_bits()),
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

/// Groups come first; `number` is the VIP or the group's number.
fn service_order(protocol: Option<Protocol>, number: u32, virtual_port: u16) -> u64 {
    let protocol = protocol.map_or(0, |protocol| 1 + protocol as u64);
    protocol << 48 | u64::from(number) << 16 | u64::from(virtual_port)
}

/// Names of states differ within their first eight letters, or sort by them well enough.
fn first_bytes(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let count = name.len().min(bytes.len());
    bytes[..count].copy_from_slice(&name.as_bytes()[..count]);
    u64::from_be_bytes(bytes)
}

fn compare(a: &Row, b: &Row) -> Ordering {
    let key = |row: &Row| {
        (
            row.order,
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
fn masks(owners: &[Option<Owner>], services: &[ServiceConfig]) -> Vec<u32> {
    let persistent = services.iter().filter_map(|service| Some((service.id, service.persistence?.netmask)));
    let by_service: HashMap<ServiceId, u32> = persistent.map(|(id, mask)| (id, mask.to_bits())).collect();
    let mask = |owner: &Owner| by_service.get(&owner.service).copied();
    owners.iter().map(|owner| owner.as_ref().and_then(mask).unwrap_or(u32::MAX)).collect()
}

impl Filter {
    fn new(query: &ConnectionsQuery, owners: &[Option<Owner>], services: &[ServiceConfig]) -> Self {
        let is_wanted = |owner: &Owner| {
            query.service.is_none_or(|id| id == owner.service)
                && query.real_server.is_none_or(|address| address == owner.address)
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

    fn admits(&self, connection: &Connection, now: Ticks) -> bool {
        // Over, and not swept yet.
        !connection.expires.is_past(now)
            && self.states[connection.state as usize]
            && self.admits_slot(connection.destination)
            && self.client.is_none_or(|network| network.contains(&connection.key.client_address()))
            && self.vip.is_none_or(|vip| vip == connection.key.service().address)
    }

    fn admits_template(&self, template: &Template, now: Ticks) -> bool {
        let is_of_vip = |vip| match template.key.scope() {
            TemplateScope::Service(key) => key.address == vip,
            TemplateScope::Group(_) => false,
        };
        // One of a whole network is of each client in it.
        let mask = self.masks.get(template.destination as usize).copied().unwrap_or(u32::MAX);
        let is_of_network = |network: ipnet::Ipv4Net| {
            let difference = network.addr().to_bits() ^ template.key.client_network().to_bits();
            difference & network.netmask().to_bits() & mask == 0
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
