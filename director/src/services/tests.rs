//! What is compiled of configurations, and what is kept over their changes.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ctl::config::{Config, ConnectionsConfig, Drain, Forwarding, Persistence, Timeouts};
use dataplane::clock::TICKS_PER_SECOND;
use dataplane::connection::ConnectionState;
use dataplane::counters::WorkerCounters;
use dataplane::persistence::TemplateTable;
use dataplane::snapshot::{
    AddressRole, DestinationState, ForwardingMethod, InterfaceId, PersistenceScope, PersistentClient,
    ServiceKey, Snapshot, Way,
};
use scheduler::Request;

use super::*;
use crate::neighbours::{Evidence, Neighbours};
use crate::slots::{close_template, open_template, vacant_slots};
use crate::topology::two_ports;

const CAPACITY: usize = 4;

/// Services over two ports, one worker that follows at once.
struct Rig {
    services: Services,
    neighbours: Neighbours,
    topology: Topology,
    counters: Arc<WorkerCounters>,
    templates: Arc<TemplateTable>,
    generation: u64,
    now_seconds: u32,
}

impl Rig {
    fn new(services: &str) -> Rig {
        let (slots, counters, templates) = vacant_slots(CAPACITY);
        let mut rig = Rig {
            services: Services::new(slots, &Default::default()),
            neighbours: Neighbours::default(),
            topology: two_ports(),
            counters,
            templates,
            generation: 0,
            now_seconds: 0,
        };
        rig.change(services).unwrap();
        rig
    }

    /// `tcp 80 rr: 11, 12*2, 13=` is the VIP 192.0.2.10 with real servers 10.0.0.11 and so on; `*` gives a weight,
    /// `=` leaves the MAC to ARP.
    fn change(&mut self, services: &str) -> Result<Snapshot, ErrorReply> {
        self.adopt(Settings { services: parse(services), ..Settings::default() })
    }

    /// The same, each service edited.
    fn edit(&mut self, services: &str, edit: impl Fn(&mut ServiceConfig)) -> Snapshot {
        let mut services = parse(services);
        services.iter_mut().for_each(edit);
        self.adopt(Settings { services, ..Settings::default() }).unwrap()
    }

    fn adopt(&mut self, candidate: Settings) -> Result<Snapshot, ErrorReply> {
        self.services.collect(self.generation);
        self.services.check_room(&candidate)?;
        self.generation += 1;
        self.services.adopt(candidate, self.generation, self.now_seconds);
        self.neighbours.retain_wanted(self.services.wanted_neighbours(&self.topology), Duration::ZERO);
        Ok(self.snapshot())
    }

    fn snapshot(&mut self) -> Snapshot {
        self.services.compile(&self.topology, &self.neighbours, self.now_seconds);
        self.services.snapshot(&self.topology, &self.neighbours, [])
    }

    fn slot(&self, host: u8) -> u32 {
        self.services.slot(parse("tcp 80 rr:")[0].id(), rip(host)).unwrap()
    }

    /// The real server 10.0.0.`host` says that its MAC ends in its number.
    fn hear(&mut self, host: u8) {
        let mac = [2, 0, 0, 0, 0, host / 10 * 16 + host % 10];
        self.neighbours.hear(InterfaceId(0), rip(host).address, Evidence::Arp { mac }, Duration::ZERO);
    }

    fn counts(&self, slot: u32) -> &scheduler::ConnectionCounts {
        self.services.slots().counts(slot)
    }

    fn send(&self, slot: u32, packets: u64) {
        self.counters.destinations[slot as usize].packets.add(packets);
    }

    fn total(&self) -> u64 {
        self.services.traffic(Since::Ever)[0].total.packets
    }
}

fn rip(host: u8) -> RealServerId {
    RealServerId::new(Ipv4Addr::new(10, 0, 0, host))
}

/// The VIP of every service here.
fn vip() -> IpAddr {
    IpAddr::from([192, 0, 2, 10])
}

fn parse(services: &str) -> Vec<ServiceConfig> {
    let mut text = String::new();
    for line in services.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let (head, real_servers) = line.split_once(':').unwrap();
        let head: Vec<_> = head.split(' ').collect();
        text += &format!(
            "[[services]]\naddress = '192.0.2.10'\nprotocol = '{}'\nport = {}\nscheduler = '{}'\n",
            head[0], head[1], head[2]
        );
        for one in real_servers.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (name, by_arp) = one.strip_suffix('=').map_or((one, false), |name| (name, true));
            let (host, weight) = name.split_once('*').unwrap_or((name, "1"));
            text += &format!("[[services.real_servers]]\naddress = '10.0.0.{host}'\nweight = {weight}\n");
            text += &if by_arp { String::new() } else { format!("mac = '02:00:00:00:00:{host}'\n") };
        }
    }
    Config::from_toml(&text, "test").unwrap().services
}

fn request() -> Request {
    let client = IpAddr::from([198, 51, 100, 7]);
    Request { client, client_port: 5000, vip: IpAddr::from([192, 0, 2, 10]), now_seconds: 0, random: 0 }
}

/// The service of `192.0.2.10:port`.
fn compiled(snapshot: &Snapshot, protocol: snapshot::Protocol, port: u16) -> &Arc<snapshot::Service> {
    &snapshot.services[&ServiceKey { address: vip(), port, protocol }]
}

fn picks(snapshot: &Snapshot, port: u16, count: usize) -> Vec<u32> {
    let key = ServiceKey { address: vip(), port, protocol: snapshot::Protocol::TCP };
    let service = &snapshot.services[&key];
    let pick = || {
        let index = service.scheduler.schedule(&service.real_servers, &request());
        index.map(|index| service.real_servers[index].id)
    };
    (0..count).filter_map(|_| pick()).collect()
}

#[test]
fn snapshot_holds_services_destinations_and_every_address_with_its_role() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12=");
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.destinations.len(), 2);
    let resolved = snapshot.destinations[rig.slot(11) as usize];
    assert_eq!(resolved.macs, [2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 1, 0]);
    assert_eq!((resolved.state, resolved.mtu, resolved.port.0), (DestinationState::Forwarding, 1500, 0));
    assert_eq!(snapshot.destinations[rig.slot(12) as usize].state, DestinationState::Unresolved);
    let role = |text: &str| snapshot.addresses.get(&text.parse::<IpAddr>().unwrap()).copied();
    assert_eq!(role("192.0.2.10"), Some(AddressRole::Vip));
    assert_eq!(role("10.0.0.11"), Some(AddressRole::Neighbour(InterfaceId(0))));
    assert_eq!(role("192.0.2.1"), Some(AddressRole::Dip(InterfaceId(2))));
    assert_eq!(role("10.0.0.13"), None);
    assert_eq!(role("10.100.0.1"), Some(AddressRole::Dip(InterfaceId(1))));
    assert_eq!(role("10.0.0.254"), Some(AddressRole::Neighbour(InterfaceId(0))), "a gateway");
    assert_eq!(role("fe80::9"), Some(AddressRole::Neighbour(InterfaceId(1))), "another");
    assert_eq!(role("fe80::ff:fe00:101"), Some(AddressRole::Dip(InterfaceId(2))), "of port 1");
    assert_eq!(
        snapshot.addresses.len(),
        6 + 2 + 1 + 2 + 2,
        "DIPs, link-local ones, VIP, real servers, gateways"
    );
    let slot = rig.slot(11);
    assert_eq!(picks(&snapshot, 80, 3), [slot; 3], "12 has no MAC");
}

/// Real servers by every method, in a VLAN and behind gateways.
const METHODS: &str = r#"
    [[services]]
    address = "192.0.2.10"
    protocol = "tcp"
    port = 80
    real_servers = [
        { address = "10.100.0.11", mac = "02:00:00:00:00:11" },
        { address = "203.0.113.12", mac = "02:00:00:00:00:12", forwarding = "nat", port = 8080 },
        { address = "2001:db8:ff::13", forwarding = "tunnel", tunnel = { type = "gue", port = 6080 } },
    ]
    [[services]]
    address = "2001:db8::10"
    protocol = "udp"
    port = 53
    persistence = { prefix_length = 64 }
    real_servers = [{ address = "2001:db8:100::14", forwarding = "fullnat" }]
"#;

#[test]
fn real_servers_of_every_method_are_reached_by_their_next_hops() {
    let mut rig = Rig::new("");
    let nat = ctl::config::NatConfig {
        local_addresses: ["10.0.0.200", "2001:db8:100::200"].map(|text| text.parse().unwrap()).to_vec(),
    };
    let services = Config::from_toml(METHODS, "test").unwrap().services;
    let ids = [services[0].id, services[1].id];
    rig.adopt(Settings { services, nat, ..Settings::default() }).unwrap();
    let gateways = [(0, "10.0.0.254", [2, 0, 0, 0, 0, 0xfe]), (1, "fe80::9", [2, 0, 0, 0, 0, 9])];
    for (interface, gateway, mac) in gateways {
        let heard = Evidence::Advertisement { mac: Some(mac), is_solicited: true, is_override: true };
        rig.neighbours.hear(InterfaceId(interface), gateway.parse().unwrap(), heard, Duration::ZERO);
        rig.neighbours.hear(
            InterfaceId(interface),
            gateway.parse().unwrap(),
            Evidence::Arp { mac },
            Duration::ZERO,
        );
    }
    let snapshot = rig.snapshot();
    let destination = |service: usize, id: &str| {
        let slot = rig.services.slot(ids[service], id.parse().unwrap()).unwrap() as usize;
        (snapshot.destinations[slot], snapshot.ways.get(slot).copied().unwrap_or_default())
    };
    let (direct, way) = destination(0, "10.100.0.11");
    assert_eq!((direct.vlan, direct.mtu, direct.method), (100, 1400, ForwardingMethod::Direct));
    assert_eq!((direct.macs, way), (*b"\x02\0\0\0\0\x11\x02\0\0\0\x01\0", Way::Direct));
    let (translated, way) = destination(0, "203.0.113.12:8080");
    assert_eq!((translated.vlan, translated.mtu, translated.method), (0, 1500, ForwardingMethod::Nat));
    assert_eq!(translated.macs[..6], gateways[0].2, "the real server's own MAC is of no use");
    assert!(matches!(way, Way::Translate(translation) if translation.port == 8080));
    let (tunnelled, way) = destination(0, "2001:db8:ff::13");
    assert_eq!((tunnelled.vlan, tunnelled.mtu), (100, 1400 - 52));
    assert_eq!(tunnelled.macs[..6], gateways[1].2);
    let Way::Tunnel(tunnel) = way else { panic!("{way:?}") };
    // No router forwards what comes from a link-local address.
    assert_eq!(tunnel.source().to_string(), "2001:db8:100::1");
    let (unresolved, way) = destination(1, "2001:db8:100::14");
    assert_eq!(
        (unresolved.state, unresolved.method),
        (DestinationState::Unresolved, ForwardingMethod::FullNat)
    );
    assert!(matches!(way, Way::Translate(translation) if translation.port == 0));
    let key =
        ServiceKey { address: "2001:db8::10".parse().unwrap(), port: 53, protocol: snapshot::Protocol::UDP };
    assert_eq!(snapshot.services[&key].persistence.unwrap().netmask, u128::MAX << 64);
    let role = |text: &str| snapshot.addresses.get(&text.parse::<IpAddr>().unwrap()).copied();
    assert_eq!(role("10.0.0.200"), Some(AddressRole::Local(InterfaceId(0))));
    assert_eq!(role("2001:db8:100::200"), Some(AddressRole::Local(InterfaceId(1))));
    assert_eq!(role("203.0.113.12"), None, "no neighbour");
    assert_eq!(snapshot.local_addresses.ipv4, [Ipv4Addr::new(10, 0, 0, 200)]);
    assert_eq!(snapshot.local_addresses.ipv6.len(), 1);
    let next_hop = |text: &str| snapshot.routes.next_hop(text.parse().unwrap()).copied();
    assert_eq!(next_hop("203.0.113.99").unwrap().mac, Some(gateways[0].2));
    assert_eq!(next_hop("2001:db8:ff::99").unwrap().source, tunnel.source(), "errors to clients too");
    assert_eq!(next_hop("192.0.2.99").unwrap().mac, None, "connected");
    assert_eq!(next_hop("198.51.100.7"), None);
}

#[test]
fn interfaces_and_ports_are_told_by_their_numbers() {
    let snapshot = Rig::new("").snapshot();
    let interfaces: Vec<_> = snapshot.interfaces.iter().map(|one| (one.port.0, one.vlan, one.mtu)).collect();
    assert_eq!(interfaces, [(0, 0, 1500), (0, 100, 1400), (1, 0, 1500)]);
    assert_eq!(
        (snapshot.ports[0].untagged, snapshot.ports[1].untagged),
        (Some(InterfaceId(0)), Some(InterfaceId(2)))
    );
    assert_eq!(snapshot.ports[0].vlans.get(&100), Some(&InterfaceId(1)));
    assert!(snapshot.ports[1].vlans.is_empty());
}

#[test]
fn newest_real_server_comes_first_for_the_scheduler() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let snapshot = rig.change("tcp 80 rr: 11, 12, 13").unwrap();
    let key = ServiceKey { address: vip(), port: 80, protocol: snapshot::Protocol::TCP };
    let ids: Vec<_> = snapshot.services[&key].real_servers.iter().map(|real_server| real_server.id).collect();
    assert_eq!(ids, [rig.slot(13), rig.slot(12), rig.slot(11)]);
}

#[test]
fn untouched_service_keeps_its_cursor_through_changes_of_others() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12; tcp 81 wrr: 11");
    let before = rig.snapshot();
    let first = picks(&before, 80, 1);
    let after = rig.change("tcp 80 rr: 11, 12; tcp 81 wlc: 11*7, 12").unwrap();
    let second = picks(&after, 80, 1);
    assert_ne!(first, second, "round robin went on");
    assert_eq!(picks(&before, 80, 1), first, "a worker on the old snapshot shares the cursor");
}

#[test]
fn removed_real_server_holds_its_slot_and_comes_back_to_it() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let slot = rig.slot(12);
    rig.counts(slot).open();
    let removed = rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(removed.destinations[slot as usize].state, DestinationState::Removed);
    assert_eq!(picks(&removed, 80, 4), [rig.slot(11); 4]);
    let others = rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    assert_eq!(others.destinations[slot as usize].state, DestinationState::Removed);
    let error = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap_err();
    assert_eq!(error.code, ErrorCode::Full);
    assert!(error.message.contains("1 are held by removed"), "{}", error.message);
    let back = rig.change("tcp 80 rr: 11, 13, 14, 12").unwrap();
    assert_eq!(rig.slot(12), slot);
    assert_eq!(back.destinations[slot as usize].state, DestinationState::Forwarding);
}

#[test]
fn slot_is_free_again_when_its_last_connection_is_gone() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let slot = rig.slot(12);
    rig.counts(slot).open();
    rig.change("tcp 80 rr: 11").unwrap();
    rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    rig.counts(slot).close(false);
    let reused = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap();
    assert_eq!(rig.slot(15), slot);
    assert_eq!(reused.destinations[slot as usize].macs[5], 0x15);
}

#[test]
fn refused_change_changes_nothing() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12, 13, 14");
    let before = format!("{:?}", rig.snapshot().destinations);
    let configured = rig.services.configured().to_vec();
    assert!(rig.change("tcp 80 rr: 11, 12, 13, 14, 15; tcp 81 rr: 16").is_err());
    assert_eq!(format!("{:?}", rig.snapshot().destinations), before);
    assert_eq!(rig.services.configured(), configured);
    assert_eq!(rig.services.slots().vacant(), 0);
}

#[test]
fn removed_real_server_behind_nat_is_known_while_it_has_connections_and_its_slot_is_another_s_after_it() {
    let nat = |service: &mut ServiceConfig| service.real_servers[0].forwarding = Forwarding::Nat;
    let mut rig = Rig::new("");
    rig.edit("tcp 80 rr: 11, 12", nat);
    let slot = rig.slot(11);
    rig.counts(slot).open();
    let snapshot = rig.edit("tcp 80 rr: 11, 12", |_| {});
    assert_eq!(snapshot.translated_real_servers, [rip(11).address].into_iter().collect(), "edited");
    let snapshot = rig.change("tcp 80 rr: 12").unwrap();
    assert!(snapshot.translated_real_servers.contains(&rip(11).address), "removed");
    let before = snapshot.destinations[slot as usize];
    rig.counts(slot).close(false);
    let snapshot = rig.change("tcp 80 rr: 12, 13").unwrap();
    assert!(snapshot.translated_real_servers.is_empty());
    assert_eq!(rig.slot(13), slot);
    assert_ne!(snapshot.destinations[slot as usize].incarnation, before.incarnation);
}

#[test]
fn service_total_never_goes_back_when_real_servers_come_and_go() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    rig.send(rig.slot(11), 10);
    let slot = rig.slot(12);
    rig.send(slot, 5);
    rig.counts(slot).open();
    assert_eq!(rig.total(), 15);
    rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(rig.total(), 15, "12 is removed and has a connection");
    rig.counts(slot).close(false);
    rig.services.collect(rig.generation);
    assert_eq!(rig.total(), 15, "12 is gone");
    rig.change("tcp 80 rr: 11, 13").unwrap();
    assert_eq!(rig.slot(13), slot);
    assert_eq!(rig.services.traffic(Since::Ever)[0].real_servers[1].packets, 0, "13 starts at nothing");
    rig.send(slot, 2);
    assert_eq!(rig.total(), 17);
    rig.change("").unwrap();
    rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(rig.total(), 0, "a new service of the same name starts again");
}

#[test]
fn failed_neighbour_gets_no_new_connections_and_keeps_the_old() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12=");
    let mac = [2, 0, 0, 0, 0, 0x12];
    rig.hear(12);
    let (slot, other) = (rig.slot(12), rig.slot(11));
    assert!(picks(&rig.snapshot(), 80, 2).contains(&slot));
    for second in 30..40 {
        rig.neighbours.poll(Duration::from_secs(second), |_| {});
    }
    let snapshot = rig.snapshot();
    assert_eq!(picks(&snapshot, 80, 2), [other; 2]);
    assert_eq!(snapshot.destinations[slot as usize].state, DestinationState::Forwarding);
    assert_eq!(snapshot.destinations[slot as usize].macs[..6], mac);
}

#[test]
fn draining_and_weight_zero_get_nothing_and_a_new_scheduler_starts_anew() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let drained =
        rig.edit("tcp 80 rr: 11, 12", |service| service.real_servers[0].drain = Some(Drain::default()));
    let (first, second) = (rig.slot(11), rig.slot(12));
    assert_eq!(picks(&drained, 80, 3), [second; 3]);
    let destination = drained.destinations[first as usize];
    assert!(destination.is_quiesced && destination.refuses_persistent);
    let kept = rig.edit("tcp 80 rr: 11, 12", |service| {
        service.real_servers[0].drain = Some(Drain { keep_persistent: true, ..Drain::default() });
    });
    assert!(!kept.destinations[first as usize].refuses_persistent);
    let snapshot = rig.change("tcp 80 wrr: 11*2, 12*0").unwrap();
    assert_eq!(picks(&snapshot, 80, 3), [first; 3]);
}

#[test]
fn persistent_clients_leave_as_the_drain_says_and_a_quiesced_real_server_as_the_option_does() {
    let mut rig = Rig::new("tcp 80 rr: 11*0, 12");
    let drains = [None, Some(false), Some(true)];
    for (expire_quiescent_template, refuses) in [(false, [false, true, false]), (true, [true, true, false])] {
        for (keep_persistent, refuses) in drains.into_iter().zip(refuses) {
            let mut services = parse("tcp 80 rr: 11*0, 12");
            let drain = |keep_persistent| Drain { keep_persistent, ..Drain::default() };
            services[0].real_servers[0].drain = keep_persistent.map(drain);
            let connections = ConnectionsConfig { expire_quiescent_template, ..Default::default() };
            let snapshot = rig.adopt(Settings { services, connections, ..Settings::default() }).unwrap();
            let destination = snapshot.destinations[rig.slot(11) as usize];
            assert!(destination.is_quiesced);
            assert_eq!(
                destination.refuses_persistent, refuses,
                "expire_quiescent_template {expire_quiescent_template}, drain {keep_persistent:?}"
            );
            assert!(!snapshot.destinations[rig.slot(12) as usize].refuses_persistent);
        }
    }
}

#[test]
fn service_for_which_nothing_changes_is_the_very_same() {
    let mut rig = Rig::new("tcp 80 wlc: 11, 12; tcp 81 wlc: 11");
    let before = rig.snapshot();
    let after = rig.change("tcp 80 wlc: 11, 12; tcp 81 wlc: 11*7").unwrap();
    let same = |port| {
        let of = |snapshot| compiled(snapshot, snapshot::Protocol::TCP, port).clone();
        Arc::ptr_eq(&of(&before), &of(&after))
    };
    assert!(same(80) && !same(81));
}

#[test]
fn hash_ring_is_kept_while_real_servers_and_who_takes_connections_are_the_same() {
    let mut rig = Rig::new("tcp 80 wlc: 11, 12");
    let ring = |snapshot: &Snapshot| compiled(snapshot, snapshot::Protocol::TCP, 80).ring.clone();
    let before = ring(&rig.snapshot());
    let other_scheduler = ring(&rig.change("tcp 80 rr: 11, 12").unwrap());
    assert!(Arc::ptr_eq(&before, &other_scheduler));
    for other in ["tcp 80 rr: 11, 12*0", "tcp 80 rr: 11, 12*3"] {
        assert!(!Arc::ptr_eq(&before, &ring(&rig.change(other).unwrap())), "{other}");
    }
}

#[test]
fn hash_ring_of_reordered_real_servers_leaves_clients_where_they_are() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12, 13");
    let client = |number| IpAddr::from([198, 51, 100, number]);
    let picks = |snapshot: &Snapshot| -> Vec<IpAddr> {
        let service = compiled(snapshot, snapshot::Protocol::TCP, 80);
        let pick = |number| service.ring.pick(&service.real_servers, client(number), 5000).unwrap();
        (0..100).map(|number| service.real_servers[pick(number)].address).collect()
    };
    let before = picks(&rig.snapshot());
    for order in ["13, 11, 12", "12, 13, 11"] {
        assert_eq!(picks(&rig.change(&format!("tcp 80 rr: {order}")).unwrap()), before, "{order}");
    }
}

#[test]
fn settings_of_a_scheduler_change_without_its_cursor() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let before = rig.snapshot();
    let first = picks(&before, 80, 1);
    let services = parse("tcp 80 rr: 11, 12");
    let connections = ConnectionsConfig { lblc_expiration_seconds: 5, ..ConnectionsConfig::default() };
    let after = rig.adopt(Settings { services, connections, ..Settings::default() }).unwrap();
    assert_eq!(compiled(&after, snapshot::Protocol::TCP, 80).scheduler.config().lblc_expiration_seconds, 5);
    assert_ne!(picks(&after, 80, 1), first);
}

#[test]
fn group_is_one_service_at_each_of_its_addresses() {
    let mut rig = Rig::new("");
    let text = r#"
        [[services]]
        group = "web"
        members = [
            { protocol = "tcp", address = "192.0.2.10", port = 80 },
            { protocol = "udp", address = "192.0.2.10", port = 443 },
            { protocol = "tcp", address = "192.0.2.11", port = 0 },
        ]
        persistence = { timeout_seconds = 60, netmask = "255.255.255.0" }
        real_servers = [{ address = "10.0.0.11", mac = "02:00:00:00:00:11" }]
        [[services]]
        group = "marked"
        fwmark = 7
        persistence = {}
        members = [
            { protocol = "tcp", address = "192.0.2.10", port = 81 },
            { protocol = "tcp", address = "192.0.2.10", port = 21 },
        ]
    "#;
    let services = Config::from_toml(text, "test").unwrap().services;
    let snapshot = rig.adopt(Settings { services: services.clone(), ..Settings::default() }).unwrap();
    assert_eq!(snapshot.services.len(), 5);
    let web = compiled(&snapshot, snapshot::Protocol::TCP, 80);
    assert!(Arc::ptr_eq(web, compiled(&snapshot, snapshot::Protocol::UDP, 443)));
    assert!(snapshot.has_every_port);
    assert!(snapshot.ftp_services.is_empty(), "a group is not FTP's");
    assert_eq!(snapshot.ftp_vips.iter().collect::<Vec<_>>(), [&vip()], "but has FTP");
    let persistence = web.persistence.unwrap();
    assert_eq!((persistence.timeout_ticks, persistence.netmask), (60 * TICKS_PER_SECOND, 0xffff_ff00));
    assert_eq!(persistence.scope, PersistenceScope::Group(0));
    assert_eq!(web.real_servers[0].port, 0);
    let marked = compiled(&snapshot, snapshot::Protocol::TCP, 81);
    assert_eq!(marked.persistence.unwrap().scope, PersistenceScope::Group(1), "not its mark");
    for vip in ["192.0.2.10", "192.0.2.11"] {
        assert_eq!(snapshot.addresses[&vip.parse::<IpAddr>().unwrap()], AddressRole::Vip);
    }
    let slot = rig.services.slot(services[0].id, rip(11)).unwrap();
    let template = open_template(&rig.templates, 1, slot);
    rig.change("").unwrap();
    let again = rig.adopt(Settings { services: services.clone(), ..Settings::default() }).unwrap();
    let scope =
        |snapshot: &Snapshot| compiled(snapshot, snapshot::Protocol::TCP, 80).persistence.unwrap().scope;
    assert_eq!(scope(&again), PersistenceScope::Group(0), "its templates are left");
    close_template(&rig.templates, template);
    rig.change("").unwrap();
    rig.services.collect(rig.generation);
    let anew = rig.adopt(Settings { services, ..Settings::default() }).unwrap();
    assert_eq!(scope(&anew), PersistenceScope::Group(3), "nothing of it was left");
}

/// Clients of a group stay with its real servers, whoever has the mark.
#[test]
fn mark_that_is_set_moved_or_taken_back_changes_no_groups_templates() {
    let mut rig = Rig::new("");
    let persistence = Persistence { timeout_seconds: 60, ..Persistence::default() };
    let mut services = parse("tcp 80 rr: 11; tcp 81 rr: 12");
    for (service, name) in services.iter_mut().zip(["a", "b"]) {
        service.members = service.addresses().collect();
        service.id = ServiceId::Group(name.parse().unwrap());
        service.persistence = Some(persistence);
    }
    let mut scopes = |marks: [Option<u32>; 2]| {
        services.iter_mut().zip(marks).for_each(|(service, mark)| service.fwmark = mark);
        let settings = Settings { services: services.clone(), ..Settings::default() };
        let snapshot = rig.adopt(settings).unwrap();
        let scope = |port| compiled(&snapshot, snapshot::Protocol::TCP, port).persistence.unwrap().scope;
        [scope(80), scope(81)]
    };
    let first = scopes([Some(7), None]);
    assert_ne!(first[0], first[1]);
    for marks in [[None, Some(7)], [Some(8), Some(7)], [Some(1), Some(0x8000_0000)], [None, None]] {
        assert_eq!(scopes(marks), first, "{marks:?}");
    }
}

#[test]
fn persistence_of_ftp_and_of_every_port_is_for_the_whole_vip() {
    let mut rig = Rig::new("");
    let persistence = Persistence::default();
    let snapshot = rig.edit("tcp 21 rr: 11; tcp 0 rr: 11; tcp 80 rr: 11; udp 21 rr: 11", |service| {
        service.persistence = Some(persistence);
    });
    assert!(snapshot.has_every_port);
    assert_eq!(snapshot.ftp_services.keys().collect::<Vec<_>>(), [&vip()]);
    for (protocol, port, scope) in [
        (snapshot::Protocol::TCP, 21, 0),
        (snapshot::Protocol::TCP, 0, 0),
        (snapshot::Protocol::TCP, 80, 80),
        (snapshot::Protocol::UDP, 21, 21),
    ] {
        let compiled = compiled(&snapshot, protocol, port).persistence.unwrap();
        assert_eq!(compiled.scope, PersistenceScope::Virtual { port: scope }, "{port}");
        assert_eq!(compiled.client, PersistentClient::Address);
    }
}

#[test]
fn timeouts_of_a_service_are_those_of_its_destinations() {
    let mut rig = Rig::new("");
    let own = Timeouts { udp: Some(5), ..Timeouts::default() };
    let mut services = parse("tcp 80 rr: 11; tcp 81 rr: 12");
    services[0].timeouts = own;
    let connections = ConnectionsConfig {
        timeouts: Timeouts { tcp_established: Some(60), ..Timeouts::default() },
        ..ConnectionsConfig::default()
    };
    let snapshot = rig.adopt(Settings { services, connections, ..Settings::default() }).unwrap();
    let seconds = |slot: usize, state| {
        snapshot.timeouts[usize::from(snapshot.destinations[slot].timeouts)].ticks(state) / TICKS_PER_SECOND
    };
    let first = rig.slot(11) as usize;
    let second = 1 - first;
    assert_eq!(seconds(first, ConnectionState::Udp), 5);
    assert_eq!(seconds(second, ConnectionState::Udp), 300);
    assert_eq!([first, second].map(|slot| seconds(slot, ConnectionState::Established)), [60, 60]);
}

#[test]
fn thresholds_hold_from_their_configuration_to_their_removal() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let (slot, other) = (rig.slot(11), rig.slot(12));
    rig.counts(slot).open();
    rig.counts(slot).open();
    let set = |upper| move |service: &mut ServiceConfig| service.real_servers[0].upper_threshold = upper;
    let limited = rig.edit("tcp 80 rr: 11, 12", set(2));
    assert!(rig.counts(slot).is_overloaded(), "an edit is judged at once");
    assert_eq!(picks(&limited, 80, 3), [other; 3]);
    let raised = rig.edit("tcp 80 rr: 11, 12", set(9));
    assert!(picks(&raised, 80, 2).contains(&slot));
    rig.edit("tcp 80 rr: 11, 12", set(2));
    let unlimited = rig.edit("tcp 80 rr: 11, 12", set(0));
    assert!(picks(&unlimited, 80, 2).contains(&slot));
}

#[test]
fn newcomers_of_a_running_service_start_slowly_and_its_first_do_not() {
    let mut rig = Rig::new("");
    let slow = |service: &mut ServiceConfig| service.slow_start_seconds = 30;
    let joined = |snapshot: &Snapshot| -> Vec<Option<u32>> {
        let real_servers = &compiled(snapshot, snapshot::Protocol::TCP, 80).real_servers;
        real_servers.iter().rev().map(|real_server| real_server.joined_seconds).collect()
    };
    rig.now_seconds = 100;
    assert_eq!(joined(&rig.edit("tcp 80 wlc: 11, 12=", slow)), [None, None]);
    rig.now_seconds = 101;
    rig.hear(12);
    assert_eq!(joined(&rig.snapshot()), [None, None], "ARP took a second");
    rig.now_seconds = 200;
    assert_eq!(joined(&rig.edit("tcp 80 wlc: 11, 12=, 13", slow)), [None, None, Some(200)]);
    rig.now_seconds = 300;
    assert_eq!(joined(&rig.edit("tcp 80 wlc: 11*0, 12=, 13", slow)), [None, None, Some(200)]);
    rig.now_seconds = 310;
    assert_eq!(joined(&rig.edit("tcp 80 wlc: 11, 12=, 13", slow)), [Some(310), None, Some(200)]);
}

#[test]
fn removed_real_server_comes_back_to_its_persistent_clients() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let slot = rig.slot(12);
    let template = open_template(&rig.templates, 1, slot);
    rig.change("tcp 80 rr: 11").unwrap();
    rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    assert_eq!(rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap_err().code, ErrorCode::Full);
    rig.change("tcp 80 rr: 11, 13, 14, 12").unwrap();
    assert_eq!(rig.slot(12), slot);
    rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    close_template(&rig.templates, template);
    rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap();
    assert_eq!(rig.slot(15), slot);
}

#[test]
fn zero_is_for_people_and_one_service_and_prometheus_goes_on() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12; tcp 81 rr: 11");
    let (first, gone) = (rig.slot(11), rig.slot(12));
    rig.send(first, 10);
    rig.send(gone, 5);
    rig.change("tcp 80 rr: 11; tcp 81 rr: 11").unwrap();
    let service = rig.services.configured()[0].id;
    assert_eq!(rig.services.zero(Some(service)), [(service, vec![first])]);
    rig.send(first, 2);
    let packets = |since| {
        let traffic = &rig.services.traffic(since)[0];
        (traffic.total.packets, traffic.real_servers[0].packets)
    };
    assert_eq!((packets(Since::Zeroed), packets(Since::Ever)), ((2, 2), (17, 12)));
}

/// What a change costs beside what it changes: printed, the best of several.
#[test]
fn change_of_one_real_server_among_sixteen_thousand_is_compiled() {
    let (slots, ..) = vacant_slots(16_000);
    let (mut services, mut neighbours, topology) =
        (Services::new(slots, &Default::default()), Neighbours::default(), two_ports());
    let mut settings = Settings::default();
    for number in 0..160 {
        let id = ServiceId::new(Protocol::Tcp, vip(), 1 + number);
        let real_server = |host: u32| RealServerConfig {
            mac: Some(ctl::mac::MacAddress([2, 0, 0, 0, 0, 1])),
            ..RealServerConfig::new(Ipv4Addr::from(0x0a00_1000 + u32::from(number) * 100 + host))
        };
        let real_servers = (0..100).map(real_server).collect();
        settings.services.push(ServiceConfig { real_servers, ..ServiceConfig::new(id) });
    }
    services.adopt(settings.clone(), 1, 0);
    neighbours.retain_wanted(services.wanted_neighbours(&topology), Duration::ZERO);
    services.compile(&topology, &neighbours, 0);
    let mut best = Duration::MAX;
    for round in 0..10 {
        settings.services[7].real_servers[7].weight = 2 + round;
        services.adopt(settings.clone(), 2, 0);
        let begun = std::time::Instant::now();
        services.compile(&topology, &neighbours, 0);
        let snapshot = services.snapshot(&topology, &neighbours, []);
        best = best.min(begun.elapsed());
        assert_eq!(snapshot.destinations.len(), 16_000);
    }
    println!("compiled in {best:?}");
}
