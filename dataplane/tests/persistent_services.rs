//! Services whose clients stay with their real server: by address, network, group, FTP, port 0 and SIP's Call-ID; what ends
//! it, and what a flood does to it.

mod rig;

use dataplane::persistence::TemplateLimits;
use dataplane::snapshot::{
    Destination, DestinationState, Options, Persistence, PersistenceScope, PersistentClient, Protocol,
    SharedCounts, Snapshot,
};
use dataplane::verdict::DropReason::*;
use dataplane::verdict::StatelessReason::*;
use rig::*;
use scheduler::Algorithm;

const TICKS: u32 = dataplane::clock::TICKS_PER_SECOND;
const HTTPS: u16 = 443;
const SIP: u16 = 5060;
const OTHER: [u8; 4] = [203, 0, 113, 9];

fn by_address(port: u16) -> Persistence {
    Persistence {
        timeout_ticks: 360 * TICKS,
        netmask: u128::MAX,
        client: PersistentClient::Address,
        scope: PersistenceScope::Virtual { port },
    }
}

/// What a test's service is.
#[derive(Clone)]
struct Setup {
    members: Vec<(Protocol, u16)>,
    persistence: Persistence,
    one_packet: bool,
    options: Options,
    real_servers: Vec<Rs>,
}

impl Setup {
    fn new(members: &[(Protocol, u16)], persistence: Persistence) -> Setup {
        Setup {
            members: members.to_vec(),
            persistence,
            one_packet: false,
            options: Options::default(),
            real_servers: [2, 1, 0].map(Rs::new).to_vec(),
        }
    }

    fn https() -> Setup {
        Setup::new(&[(Protocol::TCP, HTTPS)], by_address(HTTPS))
    }

    fn sip() -> Setup {
        let persistence = Persistence { client: PersistentClient::CallId, ..by_address(SIP) };
        Setup::new(&[(Protocol::UDP, SIP)], persistence)
    }

    fn snapshot(&self, counts: &SharedCounts) -> Snapshot {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &self.real_servers);
        let add = |snapshot: &mut Snapshot, service: &Setup| {
            add_service(snapshot, counts, Algorithm::Rr, &self.real_servers, &service.members, |made| {
                made.persistence = Some(service.persistence);
                made.one_packet = service.one_packet;
            });
        };
        add(&mut snapshot, self);
        snapshot.options = self.options;
        snapshot
    }

    fn rig(&self, workers: usize) -> Rig {
        Rig::with(workers, 1, 4096, |counts| self.snapshot(counts))
    }

    fn with(&self, change: impl FnOnce(&mut Setup)) -> Setup {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }
}

fn remove(rig: &mut Rig, setup: &Setup, slot: u32) {
    let without = setup.with(|setup| setup.real_servers.retain(|rs| rs.slot != slot));
    let mut snapshot = without.snapshot(&rig.counts);
    snapshot.destinations[slot as usize].state = DestinationState::Removed;
    rig.publish_snapshot(snapshot);
}

fn invite(call_id: &str) -> Vec<u8> {
    format!("INVITE sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/UDP c\r\n{call_id}\r\nCSeq: 1 INVITE\r\n\r\n")
        .into_bytes()
}

#[test]
fn client_keeps_its_real_server_and_others_have_their_own() {
    let mut rig = Setup::https().rig(1);
    for port in 1000..1050 {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, port, SYN)), Some(2));
    }
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, OTHER, 1000, SYN)), Some(1));
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, OTHER, 1001, SYN)), Some(1));
    assert_eq!(rig.templates.len(), 2);
    assert_eq!([0, 1, 2].map(|slot| rig.templates.count(slot)), [0, 1, 1]);
    assert!(rig.connections().iter().all(|connection| connection.link.is_some()));
    assert_eq!(rig.counts(2), (50, 0), "templates are no connections");
    rig.assert_conservation();
}

#[test]
fn client_keeps_its_real_server_on_whichever_worker_its_packets_arrive() {
    for workers in [2, 4] {
        let mut rig = Setup::https().rig(workers);
        let slots: Vec<_> =
            (1024..1324).map(|port| rig.slot_for(&tcp_to(HTTPS, CLIENT, port, SYN)).unwrap()).collect();
        assert!(slots.iter().all(|slot| *slot == slots[0]));
        assert!(rig.counters.iter().all(|counters| counters.connections_opened.load() > 30), "all took part");
        assert_eq!(rig.templates.len(), 1);
        let clients = (0..100_u8).flat_map(|last| (0..6).map(move |port| ([203, 0, 113, last], 1024 + port)));
        for (client, port) in clients {
            rig.pass(&tcp_to(HTTPS, client, port, SYN));
        }
        assert_eq!(rig.templates.len(), 101);
        for last in 0..100_u8 {
            let of_client = |of: &&dataplane::connection::Connection| {
                of.key.client(&of.pair) == std::net::IpAddr::from([203, 0, 113, last])
            };
            let all = rig.connections();
            let mut slots: Vec<_> = all.iter().filter(of_client).map(|of| of.destination).collect();
            assert_eq!(slots.len(), 6);
            slots.dedup();
            assert_eq!(slots.len(), 1);
        }
        // Ten minutes on, all is over and swept by the workers together.
        for _ in 0..10 {
            rig.advance_and_sweep(60);
        }
        assert_eq!((rig.connections().len(), rig.templates.len()), (0, 0));
        rig.assert_conservation();
    }
}

#[test]
fn clients_under_one_netmask_stay_together() {
    let setup = Setup::https().with(|setup| setup.persistence.netmask = 0xffff_ff00);
    let mut rig = setup.rig(1);
    for last in 1..100 {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, [198, 51, 100, last], 1000, SYN)), Some(2));
    }
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, [198, 51, 101, 1], 1000, SYN)), Some(1));
    assert_eq!(rig.templates.len(), 2);
}

#[test]
fn template_lasts_from_the_last_new_connection_and_while_it_controls_any() {
    let mut rig = Setup::https().rig(1);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    rig.advance_and_sweep(300);
    assert_eq!(rig.connections().len(), 0, "the SYN's time is over, not the client's");
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)), Some(2));
    rig.pass(&tcp_to(HTTPS, CLIENT, 1001, ACK));
    for _ in 0..14 {
        rig.advance_and_sweep(60);
    }
    assert_eq!(rig.templates.len(), 1, "840 s, but its connection lives");
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1002, SYN)), Some(2));
    rig.pass(&tcp_to(HTTPS, CLIENT, 1001, RST));
    for _ in 0..8 {
        rig.advance_and_sweep(60);
    }
    assert_eq!(rig.templates.len(), 0);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1003, SYN)), Some(1), "a new turn");
    rig.assert_conservation();
}

#[test]
fn what_shares_a_client_is_the_port_all_ports_or_the_group() {
    let tcp = |port| (Protocol::TCP, port);
    let group = Persistence { scope: PersistenceScope::Group(7), ..by_address(0) };
    for (name, members, persistence, ports) in [
        ("every port", vec![tcp(0)], by_address(0), vec![1, 21, 79, 443, 65535]),
        ("FTP and its data", vec![tcp(21)], by_address(0), vec![21, 20, 1024, 50_000]),
        ("a group", vec![tcp(443), tcp(8443), (Protocol::UDP, 443)], group, vec![443, 8443]),
    ] {
        let mut rig = Setup::new(&members, persistence).rig(1);
        for &port in &ports {
            assert_eq!(rig.slot_for(&tcp_to(port, CLIENT, 1000, SYN)), Some(2), "{name} {port}");
        }
        if members.len() > 1 {
            assert_eq!(rig.slot_for(&udp_to(443, CLIENT, 1000, b"")), Some(2), "{name}: UDP too");
        }
        assert_eq!(rig.templates.len(), 1, "{name}");
        assert_eq!(rig.slot_for(&tcp_to(ports[0], OTHER, 1000, SYN)), Some(1), "{name}");
        assert_eq!(rig.slot_for(&rig::tcp(CLIENT, 1000, SYN)), Some(2), "port 80 has its own service");
        rig.assert_conservation();
    }
    // FTP's data ports are 20 and from 1024 on; and they are a TCP matter.
    let mut rig = Setup::new(&[tcp(21)], by_address(0)).rig(1);
    for frame in
        [tcp_to(22, CLIENT, 1000, SYN), tcp_to(1023, CLIENT, 1000, SYN), udp_to(1024, CLIENT, 1000, b"")]
    {
        assert_eq!(rig.slot_for(&frame), None);
    }
    assert_eq!(rig.dropped(NoService), 3);
    // The client's SYN + ACK of an active data connection.
    assert!(rig.slot_for(&tcp_to(20, CLIENT, 1000, SYN | ACK)).is_some());
}

#[test]
fn ports_of_one_vip_without_a_group_have_a_template_each() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = Setup::https().snapshot(counts);
        add_service(
            &mut snapshot,
            counts,
            Algorithm::Rr,
            &[Rs::new(1)],
            &[(Protocol::TCP, 8443)],
            |service| {
                service.persistence = Some(by_address(8443));
            },
        );
        snapshot
    });
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    assert_eq!(rig.slot_for(&tcp_to(8443, CLIENT, 1000, SYN)), Some(1));
    assert_eq!(rig.templates.len(), 2);
}

#[test]
fn quiesced_drained_and_full_real_servers_keep_their_clients_as_the_settings_say() {
    let setup = Setup::https();
    let quiesced = setup.with(|setup| setup.real_servers[0].weight = 0);
    for (name, refuses_persistent, to) in
        [("weight 0 keeps its clients (IPVS)", false, 2), ("unless they shall leave it", true, 1)]
    {
        let mut rig = setup.rig(1);
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
        rig.pass(&tcp_to(HTTPS, CLIENT, 1000, ACK));
        let mut next = quiesced.snapshot(&rig.counts);
        next.destinations[2].refuses_persistent = refuses_persistent;
        rig.publish_snapshot(next);
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)), Some(to), "{name}");
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1002, SYN)), Some(to), "{name}");
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, ACK)), Some(2), "{name}: connections stay");
        rig.assert_conservation();
    }
    let mut rig = setup.rig(1);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    let full = setup.with(|setup| setup.real_servers[0].upper_threshold = 1);
    set_thresholds(&rig.counts, &full.real_servers);
    rig.publish_snapshot(full.snapshot(&rig.counts));
    assert_eq!(
        rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)),
        Some(2),
        "thresholds do not part it from a client"
    );
    let others: Vec<_> =
        (0..4).map(|last| rig.slot_for(&tcp_to(HTTPS, [203, 0, 113, last], 1000, SYN)).unwrap()).collect();
    assert!(!others.contains(&2), "{others:?}");
}

#[test]
fn client_of_a_removed_real_server_is_scheduled_anew_and_stays_there() {
    let setup = Setup::https();
    let mut rig = setup.rig(1);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    remove(&mut rig, &setup, 2);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, ACK)), None, "its connection");
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)), Some(1), "its next");
    rig.publish_snapshot(setup.snapshot(&rig.counts));
    assert_eq!(
        rig.slot_for(&tcp_to(HTTPS, CLIENT, 1002, SYN)),
        Some(1),
        "the old template is invalid for good"
    );
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, ACK)), Some(2), "the old connection is not");
    rig.advance_and_sweep(1000);
    rig.advance_and_sweep(61);
    assert_eq!((rig.connections().len(), rig.templates.len()), (0, 0), "the slot can be given away");
    rig.assert_conservation();
}

#[test]
fn template_that_nobody_used_meanwhile_survives_the_removal_of_its_real_server() {
    let setup = Setup::https();
    let mut rig = setup.rig(1);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    remove(&mut rig, &setup, 2);
    rig.publish_snapshot(setup.snapshot(&rig.counts));
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)), Some(2), "as IPVS revives it");
}

#[test]
fn syn_on_a_controlled_connection_is_scheduled_anew_only_where_its_real_server_is_gone_or_quiesced() {
    let setup = Setup::https().with(|setup| {
        setup.options = Options { conn_reuse_mode: 3, expire_nodest_conn: true, ..Options::default() };
    });
    let mut rig = setup.rig(1);
    for flags in [SYN, ACK, RST, SYN] {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, flags)), Some(2));
    }
    assert_eq!(rig.counters[0].connections_opened.load(), 1, "the template keeps it in CLOSE");
    rig.publish_snapshot(setup.with(|setup| setup.real_servers[0].weight = 0).snapshot(&rig.counts));
    assert_eq!(
        rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)),
        Some(2),
        "weight 0: its template leads there again"
    );
    assert_eq!(rig.counters[0].connections_opened.load(), 2);
    remove(&mut rig, &setup, 2);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(1));
    rig.assert_conservation();
}

#[test]
fn one_packet_service_with_persistence_keeps_clients_without_connections() {
    let setup = Setup::new(&[(Protocol::UDP, 514)], by_address(514)).with(|setup| setup.one_packet = true);
    let mut rig = setup.rig(1);
    for _ in 0..20 {
        assert_eq!(rig.slot_for(&udp_to(514, CLIENT, 1000, b"")), Some(2));
        assert_eq!(rig.slot_for(&udp_to(514, OTHER, 1000, b"")), Some(1));
    }
    assert_eq!((rig.connections().len(), rig.templates.len()), (0, 2));
    assert_eq!(rig.counters[0].destinations[2].connections.load(), 20);
    rig.advance_and_sweep(300);
    rig.pass(&udp_to(514, CLIENT, 1000, b""));
    rig.advance_and_sweep(100);
    assert_eq!(rig.templates.len(), 1, "each packet re-arms its own");
    rig.advance_and_sweep(300);
    assert_eq!(rig.templates.len(), 0, "none controls a connection");
    rig.assert_conservation();
}

#[test]
fn sip_dialogue_without_netmask_keeps_its_real_server_by_call_id_alone() {
    let setup = Setup::sip().with(|setup| {
        setup.one_packet = true;
        setup.persistence.netmask = 0;
    });
    let mut rig = setup.rig(1);
    let mut slot = |client, call_id: &str| rig.slot_for(&udp_to(SIP, client, 5060, &invite(call_id)));
    assert_eq!(slot(CLIENT, "Call-ID: a84b4c76@pc33.example.com"), Some(2));
    assert_eq!(
        slot(CLIENT, "Call-ID: other@pc33.example.com"),
        Some(1),
        "another dialogue of the same client"
    );
    assert_eq!(slot(OTHER, "i:a84b4c76@pc33.example.com"), Some(2), "the other side of the first");
    assert_eq!(slot(OTHER, "call-id : other@pc33.example.com"), Some(1));
    assert_eq!(slot(OTHER, "Call-ID: A84b4c76@pc33.example.com"), Some(0), "the case of the value counts");
    assert_eq!(rig.templates.len(), 3);
    assert_eq!(rig.connections().len(), 0);
    rig.assert_conservation();
}

#[test]
fn sip_dialogue_is_of_its_client_as_ipvs_has_it() {
    let mut rig = Setup::sip().with(|setup| setup.one_packet = true).rig(1);
    let mut slot = |client, call_id: &str| rig.slot_for(&udp_to(SIP, client, 5060, &invite(call_id)));
    assert_eq!(slot(CLIENT, "i: one"), Some(2));
    assert_eq!(slot(OTHER, "i: one"), Some(1), "the same Call-ID of another client");
    assert_eq!(slot(CLIENT, "i: two"), Some(0));
    assert_eq!(slot(CLIENT, "i: one"), Some(2));
    assert_eq!(rig.templates.len(), 3);
    rig.assert_conservation();
}

#[test]
fn sip_without_one_packet_follows_the_connection_of_the_tuple_as_ipvs_does() {
    let mut rig = Setup::sip().rig(1);
    assert_eq!(rig.slot_for(&udp_to(SIP, CLIENT, 5060, &invite("i: one"))), Some(2));
    assert_eq!(rig.slot_for(&udp_to(SIP, CLIENT, 5060, &invite("i: two"))), Some(2));
    assert_eq!(rig.slot_for(&udp_to(SIP, CLIENT, 5060, b"no SIP at all")), Some(2));
    assert_eq!(rig.slot_for(&udp_to(SIP, OTHER, 5060, &invite("i: two"))), Some(1));
    assert_eq!(rig.slot_for(&udp_to(SIP, CLIENT, 5061, &invite("i: one"))), Some(2), "by its template");
    rig.assert_conservation();
}

#[test]
fn datagram_without_a_proper_call_id_is_dropped_and_counted() {
    let mut rig = Setup::sip().rig(1);
    let bad: Vec<Vec<u8>> = vec![
        vec![],
        b"\r\n\r\n".to_vec(),
        b"INVITE".to_vec(),
        invite("Via: x"),
        invite("Call-ID:"),
        invite("Call-ID: \r\nX: y"),
        invite("Call-ID: a b"),
        invite(&format!("Call-ID: {}", "a".repeat(256))),
        invite(&format!("Call-ID: {}", "a".repeat(1300))),
        invite("Call-ID: a")[..50].to_vec(),
        (0..=255).collect(),
    ];
    for (count, message) in (1..).zip(&bad) {
        assert_eq!(rig.slot_for(&udp_to(SIP, CLIENT, 5060, message)), None, "{}", message.escape_ascii());
        assert_eq!(rig.dropped(BadSip), count);
    }
    // 60 KiB of it come in a frame that no port carries, or in fragments.
    let mut message = invite(&format!("i: {}", "a".repeat(1200)));
    message.truncate(message.len() & !7);
    let mut fragment = udp_to(SIP, CLIENT, 5060, &message);
    fragment[20] = 0x20;
    fix_checksum(&mut fragment);
    assert_eq!(rig.slot_for(&fragment), None);
    assert_eq!(rig.dropped(BadSip), bad.len() as u64 + 1);
    assert_eq!((rig.connections().len(), rig.templates.len()), (0, 0));
    assert!(rig.slot_for(&udp_to(SIP, CLIENT, 5060, &invite(&format!("i: {}", "a".repeat(255))))).is_some());
    rig.assert_conservation();
}

#[test]
fn full_template_table_sends_newcomers_by_the_ring_and_leaves_the_known_where_they_are() {
    let setup = Setup::https();
    let limits = TemplateLimits { capacity: 8, ..template_limits() };
    let mut rig = Rig::with_templates(1, 1, 4096, &limits, |counts| setup.snapshot(counts));
    let client = |number: u8| [203, 0, number, 1];
    let slots: Vec<_> =
        (0..60).map(|number| rig.slot_for(&tcp_to(HTTPS, client(number), 1000, SYN))).collect();
    let untemplated = rig.counters[0].untemplated.load();
    assert!(rig.templates.len() <= 8);
    assert_eq!(untemplated, 60 - u64::from(rig.templates.len()));
    for port in 1001..1005 {
        for (number, slot) in (0..60).zip(&slots) {
            assert_eq!(rig.slot_for(&tcp_to(HTTPS, client(number), port, SYN)), *slot, "{number}");
        }
    }
    for (number, slot) in (0..60).zip(&slots) {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, client(number), 1000, ACK)), *slot, "not cut: {number}");
    }
    assert_eq!((rig.connections().len(), rig.counters[0].stateless_total()), (300, 0));
    rig.assert_conservation();
}

#[test]
fn without_allowance_a_template_is_followed_and_re_armed_and_newcomers_go_by_the_ring() {
    let setup = Setup::https().with(|setup| setup.options.creation_rate_per_worker = 1);
    let mut rig = setup.rig(1);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1000, SYN)), Some(2));
    for port in 1000..1100 {
        rig.pass(&tcp_to(HTTPS, OTHER, port, SYN));
    }
    let stateless = rig.stateless(CreationRate);
    assert!(stateless > 60);
    let templates = rig.templates.len();
    let mut to = Vec::new();
    for last in 0..20 {
        let slots: Vec<_> = (1000..1005)
            .map(|port| rig.slot_for(&tcp_to(HTTPS, [203, 0, 1, last], port, SYN)).unwrap())
            .collect();
        assert!(slots.iter().all(|slot| *slot == slots[0]), "a client stays without a template");
        to.push(slots[0]);
    }
    assert!([0, 1, 2].iter().all(|slot| to.contains(slot)), "{to:?}");
    assert_eq!(rig.templates.len(), templates);
    // The template of the first client is followed, and kept by that.
    for turn in 0..12 {
        for port in 2000..2100 {
            rig.pass(&tcp_to(HTTPS, OTHER, port + turn * 100, SYN));
        }
        let before = rig.counters[0].connections_opened.load();
        let slot = rig.slot_for(&tcp_to(HTTPS, CLIENT, 4000 + turn, SYN));
        let is_followed = rig.counters[0].connections_opened.load() == before;
        assert!(is_followed && slot == Some(2), "{slot:?}");
        rig.advance_and_sweep(40);
    }
    // For as long as one of those may be silent.
    rig.advance_and_sweep(900 + 60 - 41);
    assert_eq!(rig.templates.count(2), 1);
    rig.advance_and_sweep(42);
    assert_eq!(rig.templates.count(2), 0);
    rig.assert_conservation();
}

#[test]
fn unresolved_real_server_of_a_template_drops_without_leaving_a_trace() {
    let setup = Setup::https();
    let mut rig = setup.rig(1);
    rig.pass(&tcp_to(HTTPS, CLIENT, 1000, SYN));
    let mut next = setup.snapshot(&rig.counts);
    next.destinations[2] = Destination { state: DestinationState::Unresolved, ..next.destinations[2] };
    rig.publish_snapshot(next);
    assert_eq!(rig.slot_for(&tcp_to(HTTPS, CLIENT, 1001, SYN)), None);
    assert_eq!(rig.dropped(NoRealServer), 1);
    rig.advance_and_sweep(1000);
    rig.advance_and_sweep(61);
    assert_eq!((rig.connections().len(), rig.templates.len()), (0, 0), "the hold was given back");
}
