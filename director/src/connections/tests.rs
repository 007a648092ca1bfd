//! Listings over tables made by hand, and one of a million while it is written.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ctl::config::{Netmask, Persistence, RealServerId};
use dataplane::connection::{Connection, ConnectionFlags, ConnectionTable, FlowKey, Ipv6Pair};
use dataplane::dpdk::region::Pages;
use dataplane::persistence::{TemplateKey, TemplateLimits};
use dataplane::snapshot::Protocol as Wire;

use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

fn owner(host: u8) -> Owner {
    let service = ServiceId::new(Protocol::Tcp, VIP, 80);
    Owner { service, real_server: RealServerId::new(Ipv4Addr::new(10, 0, 0, host)) }
}

fn query() -> ConnectionsQuery {
    ConnectionsQuery::default()
}

fn templates() -> Arc<TemplateTable> {
    let limits = TemplateLimits { capacity: 64, destinations: 4, keeps_call_ids: true, has_ipv6: true };
    TemplateTable::new(&limits, Pages::Ordinary).unwrap()
}

fn table(capacity: u32) -> ConnectionTable {
    ConnectionTable::new(capacity, Pages::Ordinary).unwrap()
}

fn insert(
    table: &mut ConnectionTable,
    client: u32,
    vip: Ipv4Addr,
    state: ConnectionState,
    seconds: u32,
    slot: u32,
) {
    let protocol = if state == ConnectionState::Udp { Wire::UDP } else { Wire::TCP };
    let port = 80_u16.to_be_bytes();
    let key = FlowKey::new(client.to_be_bytes(), vip.octets(), [0x13, 0x88], port, protocol.0);
    let connection = Connection {
        key,
        state,
        flags: ConnectionFlags::NONE,
        expires: Ticks(seconds * TICKS_PER_SECOND),
        destination: slot,
        ..Connection::default()
    };
    table.insert(connection, table.hash(&key)).unwrap();
}

/// A real server of a group.
fn of_group(name: &str, host: u8) -> Owner {
    Owner { service: ServiceId::Group(name.parse().unwrap()), ..owner(host) }
}

/// The group `marked` has the mark 5.
fn test_marks() -> HashMap<GroupName, u32> {
    let group = |name, fwmark| ServiceConfig { fwmark, ..ServiceConfig::new(of_group(name, 1).service) };
    marks(&[group("marked", Some(5)), group("unmarked", None)])
}

/// The group `marked` knows its clients by networks of 256.
fn test_services() -> [ServiceConfig; 1] {
    let netmask = Netmask::ipv4([255, 255, 255, 0].into());
    let persistence = Persistence { timeout_seconds: 60, netmask, engine: None };
    [ServiceConfig { persistence: Some(persistence), ..ServiceConfig::new(of_group("marked", 1).service) }]
}

/// Slot 0 is 10.0.0.12's, slot 1 10.0.0.11's; 2 and 3 are of the groups `marked` and `unmarked`. It is second 10.
fn listed(
    tables: &[&ConnectionTable],
    templates: &Arc<TemplateTable>,
    query: &ConnectionsQuery,
) -> Connections {
    check(query).unwrap();
    let owners =
        vec![Some(owner(12)), Some(owner(11)), Some(of_group("marked", 13)), Some(of_group("unmarked", 14))];
    let (clock, hand) = Clock::manual();
    hand.advance_seconds(10);
    let listing = Listing {
        tables: Tables::new(tables.iter().map(|table| table.reader()).collect(), templates.clone(), 0),
        clock,
        filter: Filter::new(query, &owners, &test_services()),
        forwardings: vec![Forwarding::Dr; owners.len()],
        ranks: ranks(&owners),
        owners,
        marks: test_marks(),
        sort: query.sort,
        descending: query.descending,
        offset: query.offset as usize,
        limit: query.limit.min(CONNECTION_PAGE_ROWS_MAX) as usize,
    };
    listing.run()
}

/// Two workers' connections: five that live and one that is over.
fn small() -> [ConnectionTable; 2] {
    let (mut first, mut second) = (table(16), table(16));
    insert(&mut first, 3, VIP, ConnectionState::Established, 100, 0);
    insert(&mut first, 1, VIP, ConnectionState::SynReceived, 40, 1);
    insert(&mut first, 9, VIP, ConnectionState::Established, 10, 0);
    insert(&mut second, 2, OTHER_VIP, ConnectionState::Udp, 30, 0);
    insert(&mut second, 5, VIP, ConnectionState::FinWait, 50, 1);
    insert(&mut second, 4, VIP, ConnectionState::Established, 20, 0);
    [first, second]
}

fn clients(connections: &Connections) -> Vec<u32> {
    connections.connections.iter().map(|row| bits(row.client_address) as u32).collect()
}

#[test]
fn rows_come_in_every_order_forwards_and_backwards() {
    let [first, second] = small();
    let templates = templates();
    for (sort, order) in [
        (ConnectionOrder::Client, [1, 2, 3, 4, 5]),
        (ConnectionOrder::Service, [1, 3, 4, 5, 2]),
        (ConnectionOrder::RealServer, [1, 5, 2, 3, 4]),
        (ConnectionOrder::State, [3, 4, 5, 1, 2]),
        (ConnectionOrder::Expires, [4, 2, 1, 5, 3]),
    ] {
        let all = listed(&[&first, &second], &templates, &ConnectionsQuery { sort, ..query() });
        assert_eq!(clients(&all), order, "{sort:?}");
        let backwards = ConnectionsQuery { sort, descending: true, offset: 1, limit: 2, ..query() };
        let page = listed(&[&first, &second], &templates, &backwards);
        assert_eq!(clients(&page), [order[3], order[2]], "{sort:?}");
        assert_eq!(page.matching, 5, "all are counted");
    }
}

#[test]
fn filters_admit_what_they_say() {
    let [first, second] = small();
    let templates = templates();
    let client = |text: &str| Some(text.parse().unwrap());
    for (query, found) in [
        (ConnectionsQuery { vip: Some(OTHER_VIP.into()), ..query() }, &[2][..]),
        (ConnectionsQuery { state: Some("established".to_owned()), ..query() }, &[3, 4]),
        (ConnectionsQuery { real_server: Some(owner(11).real_server), ..query() }, &[1, 5]),
        (ConnectionsQuery { client: client("0.0.0.4/31"), ..query() }, &[4, 5]),
        (ConnectionsQuery { service: Some(owner(11).service), ..query() }, &[1, 2, 3, 4, 5]),
        (ConnectionsQuery { service: Some(ServiceId::new(Protocol::Tcp, VIP, 81)), ..query() }, &[]),
        (ConnectionsQuery { limit: 0, ..query() }, &[]),
    ] {
        assert_eq!(clients(&listed(&[&first, &second], &templates, &query)), found, "{query:?}");
    }
}

#[test]
fn row_says_what_the_entry_holds() {
    let [_, second] = small();
    let all = listed(&[&second], &templates(), &query());
    let row = &all.connections[0];
    assert_eq!((row.protocol, &*row.state, row.expires_seconds), (Some(Protocol::Udp), "UDP", 20));
    assert_eq!((row.client_port, row.virtual_address, row.virtual_port), (5000, OTHER_VIP.into(), 80));
    assert_eq!(
        (row.real_server, row.worker, row.is_template),
        (owner(12).real_server.address, Some(0), false)
    );
}

#[test]
fn templates_are_listed_for_themselves_and_with_connections() {
    let [first, _] = small();
    let templates = templates();
    let open = |key: &TemplateKey, slot, call_id: &[u8]| {
        templates.open(key, Ticks(0), 100 * TICKS_PER_SECOND, slot, call_id).unwrap().id
    };
    let one = open(&TemplateKey::for_client([0, 0, 0, 7], u32::MAX, VIP, 80, Wire::TCP), 0, b"");
    open(&TemplateKey::for_group([0, 0, 0, 8], u32::MAX, 70), 2, b"");
    let hash = templates.hash_call_id(b"a@b");
    let of_client = TemplateKey::for_client([0, 0, 0, 6], u32::MAX, VIP, 5060, Wire::UDP);
    open(&of_client.with_call_id(hash), 1, b"a@b");
    templates.assure(one);
    let of_kind = |kind| listed(&[&first], &templates, &ConnectionsQuery { kind, ..query() });
    assert_eq!((of_kind(EntryKind::Connections).matching, of_kind(EntryKind::All).matching), (2, 5));
    let rows = of_kind(EntryKind::Templates).connections;
    let [call, client, group] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&*client.state, client.client_port, client.worker), ("ASSURED", 0, None));
    assert_eq!((client.virtual_address, client.virtual_port), (VIP.into(), 80));
    assert_eq!((&*group.state, group.protocol), ("NONE", None));
    assert_eq!(group.virtual_address, Ipv4Addr::new(0, 0, 0, 5), "the mark, as IPVS has it");
    assert_eq!((call.engine_data.as_deref(), call.virtual_port), (Some("a@b"), 5060));
    assert_eq!(call.client_address, Ipv4Addr::new(0, 0, 0, 6));
    let assured = ConnectionsQuery { kind: EntryKind::All, state: Some("ASSURED".to_owned()), ..query() };
    assert_eq!(clients(&listed(&[&first], &templates, &assured)), [7]);
}

#[test]
fn template_of_a_network_is_found_by_every_client_in_it() {
    let templates = templates();
    let [service] = test_services();
    let mask = service.persistence.unwrap().netmask.mask().to_bits();
    let key = TemplateKey::for_group([198, 51, 100, 7], mask, 70);
    templates.open(&key, Ticks(0), 100 * TICKS_PER_SECOND, 2, b"").unwrap();
    for (client, found) in
        [("198.51.100.9/32", 1), ("198.51.100.128/25", 1), ("198.51.0.0/16", 1), ("198.51.101.9/32", 0)]
    {
        let client = Some(client.parse().unwrap());
        let query = ConnectionsQuery { kind: EntryKind::Templates, client, ..query() };
        assert_eq!(listed(&[], &templates, &query).matching, found, "{client:?}");
    }
}

#[test]
fn templates_of_groups_without_a_mark_have_no_vip_and_stay_apart_by_service() {
    let templates = templates();
    for (client, group, slot) in [(1, 70, 2), (2, 71, 3), (3, 70, 2), (4, 71, 3)] {
        let key = TemplateKey::for_group([0, 0, 0, client], u32::MAX, group);
        templates.open(&key, Ticks(0), 100 * TICKS_PER_SECOND, slot, b"").unwrap();
    }
    let sort = ConnectionOrder::Service;
    let all = listed(&[], &templates, &ConnectionsQuery { kind: EntryKind::Templates, sort, ..query() });
    assert_eq!(clients(&all), [1, 3, 2, 4]);
    let said = |row: &ConnectionView| (row.group.unwrap().to_string(), bits(row.virtual_address));
    let said: Vec<_> = all.connections.iter().map(said).collect();
    let (marked, unmarked) = (("marked".to_owned(), 5), ("unmarked".to_owned(), 0));
    assert_eq!(said, [marked.clone(), marked, unmarked.clone(), unmarked]);
}

#[test]
fn what_cannot_be_listed_is_refused() {
    let state = check(&ConnectionsQuery { state: Some("OPEN".to_owned()), ..query() }).unwrap_err();
    assert_eq!(state.code, ErrorCode::Invalid);
    assert!(state.help.unwrap().contains("ESTABLISHED"));
    for state in ConnectionState::ALL.iter().map(|state| state.name()).chain([ASSURED, NOT_ASSURED]) {
        check(&ConnectionsQuery { state: Some(state.to_owned()), ..query() }).unwrap();
    }
    for (offset, limit) in [(CONNECTION_ROWS_MAX, 1), (u32::MAX, u32::MAX), (0, CONNECTION_ROWS_MAX + 1)] {
        assert_eq!(
            check(&ConnectionsQuery { offset, limit, ..query() }).unwrap_err().code,
            ErrorCode::Invalid
        );
    }
    check(&ConnectionsQuery { offset: CONNECTION_ROWS_MAX - 1, limit: 1, ..query() }).unwrap();
}

/// A million connections stay, others come and go as fast as a worker can make them.
#[test]
fn million_connections_are_counted_exactly_while_others_come_and_go() {
    const STABLE: u32 = 1_000_000;
    const FLEETING: u32 = 1000;
    let mut table = table(STABLE + 4 * FLEETING);
    for client in 0..STABLE {
        insert(&mut table, 0x6440_0000 + client, VIP, ConnectionState::Established, 900, client % 2);
        if client % 1000 == 0 {
            // Among the others, not behind them.
            insert(&mut table, client, OTHER_VIP, ConnectionState::Established, 900, 0);
        }
    }
    let reader = table.reader();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut generation = 0;
            while !stop.load(Relaxed) {
                table.expire(Ticks(0), |_| {});
                for number in 0..FLEETING {
                    let client = generation * FLEETING + number;
                    let port = 80_u16.to_be_bytes();
                    let key =
                        FlowKey::new(client.to_be_bytes(), OTHER_VIP.octets(), [0, 1], port, Wire::TCP.0);
                    let hash = table.hash(&key);
                    match table.hit(&key, &Ipv6Pair::NONE, hash, None).map(|hit| hit.id()) {
                        Some(id) => _ = table.remove(id),
                        None => insert_fleeting(&mut table, key, hash),
                    }
                }
                generation = (generation + 1) % 2;
                std::thread::yield_now();
            }
        });
        let owners = vec![Some(owner(12)), Some(owner(11))];
        for offset in [0, 500, 999_000] {
            let query = ConnectionsQuery { vip: Some(VIP.into()), offset, limit: 1000, ..query() };
            let listing = Listing {
                tables: Tables::new(vec![reader.clone()], templates(), 0),
                clock: Clock::manual().0,
                filter: Filter::new(&query, &owners, &[]),
                owners: owners.clone(),
                forwardings: vec![Forwarding::Dr; 2],
                ranks: ranks(&owners),
                marks: test_marks(),
                sort: query.sort,
                descending: false,
                offset: offset as usize,
                limit: 1000,
            };
            let begun = std::time::Instant::now();
            let page = listing.run();
            assert_eq!(page.matching, u64::from(STABLE));
            let expected: Vec<u32> = (0..1000).map(|number| 0x6440_0000 + offset + number).collect();
            assert_eq!(clients(&page), expected);
            assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
        }
        stop.store(true, Relaxed);
    });
}

fn insert_fleeting(table: &mut ConnectionTable, key: FlowKey, hash: u64) {
    let connection = Connection {
        key,
        state: ConnectionState::SynReceived,
        expires: Ticks(TICKS_PER_SECOND),
        ..Connection::default()
    };
    table.insert(connection, hash).unwrap();
}
