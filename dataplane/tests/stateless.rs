//! What is forwarded without state stays where it is, keeps to thresholds, and is no other service's matter.

mod rig;

use dataplane::clock::TICKS_PER_SECOND;
use dataplane::persistence::TemplateLimits;
use dataplane::snapshot::{
    Persistence, PersistenceScope, PersistentClient, Protocol, SharedCounts, Snapshot,
};
use dataplane::verdict::DropReason::NoConnection;
use dataplane::verdict::StatelessReason::*;
use rig::*;
use scheduler::Algorithm;

const RATE: u32 = 800;
/// Connections that may open at once under [`RATE`].
const BURST: u32 = 100;
const HTTPS: u16 = 443;
/// A UDP service of its own.
const SYSLOG: u16 = 514;
const PERSISTENT_SECONDS: u32 = 300;

/// [`rig::snapshot`], a persistent service and one more, all with the same real servers.
fn services(counts: &SharedCounts, algorithm: Algorithm, real_servers: &[Rs]) -> Snapshot {
    let mut snapshot = snapshot(counts, 1, algorithm, real_servers);
    add_service(&mut snapshot, counts, algorithm, real_servers, &[(Protocol::TCP, HTTPS)], |service| {
        service.persistence = Some(Persistence {
            timeout_ticks: PERSISTENT_SECONDS * TICKS_PER_SECOND,
            netmask: u128::MAX,
            client: PersistentClient::Address,
            scope: PersistenceScope::Virtual { port: HTTPS },
        });
    });
    add_service(&mut snapshot, counts, algorithm, real_servers, &[(Protocol::UDP, SYSLOG)], |_| {});
    snapshot.options.creation_rate_per_worker = RATE;
    snapshot
}

fn rig(algorithm: Algorithm, real_servers: &[Rs]) -> Rig {
    let rig = Rig::with(1, 1, 1 << 16, |counts| services(counts, algorithm, real_servers));
    set_thresholds(&rig.counts, real_servers);
    rig
}

/// Distinct clients, ports from 1024 on.
fn flow(number: u32) -> ([u8; 4], u16) {
    let [_, a, b, c] = number.to_be_bytes();
    ([20 + (a >> 4), a & 15, b, 1], 1024 + u16::from(c))
}

fn flows(count: u32) -> impl Iterator<Item = ([u8; 4], u16)> {
    (1_000_000..1_000_000 + count).map(flow)
}

/// Takes the allowance and one packet more, each from a client that was not there before, to this port by TCP.
fn flood(rig: &mut Rig, port: u16) {
    let first = rig.total(|counters| counters.received.load()) as u32;
    let stateless = rig.stateless(CreationRate);
    for number in first..=first + BURST {
        let (client, client_port) = flow(number);
        rig.pass(&tcp_to(port, client, client_port, SYN));
    }
    assert!(rig.stateless(CreationRate) > stateless);
}

#[test]
fn threshold_reached_later_moves_no_connection_without_state() {
    let real_servers = [Rs::new(2), Rs { upper_threshold: 60, ..Rs::new(1) }, Rs::new(0)];
    let mut rig = rig(Algorithm::Rr, &real_servers);
    flood(&mut rig, HTTP);
    let without_state: Vec<_> =
        flows(200).map(|(client, port)| (client, port, rig.slot_for(&tcp(client, port, SYN)))).collect();
    for number in 500_000.. {
        let (client, port) = flow(number);
        rig.hand.advance_ticks(1);
        rig.pass(&tcp(client, port, SYN));
        if rig.counts[1].is_overloaded() {
            break;
        }
    }
    flood(&mut rig, HTTP);
    for (client, port, slot) in without_state {
        assert_eq!(rig.slot_for(&tcp(client, port, ACK)), slot);
    }
    rig.assert_conservation();
}

#[test]
fn connection_that_goes_on_takes_no_real_server_over_its_threshold() {
    let real_servers = [1, 0].map(|slot| Rs { upper_threshold: 10, ..Rs::new(slot) });
    let mut rig = rig(Algorithm::Wlc, &real_servers);
    rig.publish_snapshot(services(&rig.counts, Algorithm::Wlc, &[1, 0].map(Rs::new)));
    flood(&mut rig, HTTP);
    rig.publish_snapshot(services(&rig.counts, Algorithm::Wlc, &real_servers));
    rig.advance_and_sweep(400);
    assert_eq!(rig.connections().len(), 0);
    for (number, (client, port)) in flows(500).enumerate() {
        rig.hand.advance_ticks(u32::from(number % 3 == 0));
        assert!(rig.slot_for(&tcp(client, port, ACK)).is_some(), "it is not cut");
    }
    assert_eq!([0, 1].map(|slot| rig.counts(slot)), [(10, 0), (10, 0)]);
    assert_eq!(rig.stateless(Threshold), 480);
    assert_eq!(rig.slot_for(&tcp(CLIENT, 7, SYN)), None, "nobody takes a new one");
    rig.assert_conservation();
}

#[test]
fn new_connection_during_a_flood_goes_by_the_scheduler_where_the_ring_leads_over_a_threshold() {
    let real_servers = [Rs { upper_threshold: 1, ..Rs::new(1) }, Rs::new(0)];
    let mut rig = rig(Algorithm::Rr, &real_servers);
    flood(&mut rig, HTTP);
    assert!(rig.counts[1].is_overloaded());
    for (client, port) in flows(100) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&tcp(client, port, SYN)), Some(0));
    }
    rig.assert_conservation();
}

#[test]
fn drain_moves_no_connection_without_state_and_opens_none_that_is_kept() {
    let mut rig = rig(Algorithm::Rr, &[2, 1, 0].map(Rs::new));
    flood(&mut rig, HTTP);
    let slots: Vec<_> = flows(200).map(|(client, port)| rig.slot_for(&tcp(client, port, SYN))).collect();
    let drained = [Rs::new(2), Rs { is_drained: true, ..Rs::new(1) }, Rs::new(0)];
    rig.publish_snapshot(services(&rig.counts, Algorithm::Rr, &drained));
    for ((client, port), slot) in flows(200).zip(&slots) {
        assert_eq!(rig.slot_for(&tcp(client, port, ACK)), *slot);
    }
    let before = rig.counts(1);
    for number in 500_000..500_100 {
        let (client, port) = flow(number);
        rig.hand.advance_ticks(1);
        assert_ne!(rig.slot_for(&tcp(client, port, SYN)), Some(1), "there is allowance for it");
    }
    assert_eq!(rig.counts(1), before);
    for ((client, port), slot) in flows(200).zip(&slots) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&tcp(client, port, ACK)), *slot, "adopted where it is");
    }
    rig.assert_conservation();
}

#[test]
fn weight_0_takes_from_a_real_server_what_goes_without_state() {
    let mut rig = rig(Algorithm::Rr, &[2, 1, 0].map(Rs::new));
    flood(&mut rig, HTTP);
    let slots: Vec<_> = flows(200).map(|(client, port)| rig.slot_for(&tcp(client, port, SYN))).collect();
    let quiesced = [Rs::new(2), Rs { weight: 0, ..Rs::new(1) }, Rs::new(0)];
    rig.publish_snapshot(services(&rig.counts, Algorithm::Rr, &quiesced));
    for ((client, port), slot) in flows(200).zip(&slots) {
        let now = rig.slot_for(&tcp(client, port, ACK));
        assert!(now.is_some() && if *slot == Some(1) { now != *slot } else { now == *slot });
    }
    rig.assert_conservation();
}

#[test]
fn flood_of_one_service_leaves_the_schedulers_of_others_alone() {
    let real_servers = [Rs::new(1), Rs { weight: 2, ..Rs::new(0) }];
    let mut rig = rig(Algorithm::Fo, &real_servers);
    for number in 0..=BURST {
        let (client, port) = flow(number);
        rig.pass(&udp_to(SYSLOG, client, port, b"log"));
    }
    assert!(rig.stateless(CreationRate) > 0);
    for (client, port) in flows(100) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&tcp(client, port, SYN)), Some(0), "the primary is up");
        assert_eq!(rig.slot_for(&tcp(client, port + 1000, ACK)), None, "nothing of this service is adopted");
    }
    rig.assert_conservation();
}

#[test]
fn flow_without_state_that_is_silent_within_its_timeout_stays() {
    let mut rig = rig(Algorithm::Rr, &[0, 1, 2, 3].map(Rs::new));
    for number in 0..BURST {
        let (client, port) = flow(number);
        rig.pass(&udp(client, port, b""));
    }
    let slots: Vec<_> = flows(200).map(|(client, port)| rig.slot_for(&udp(client, port, b""))).collect();
    rig.advance_and_sweep(299);
    for ((client, port), slot) in flows(200).zip(slots) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&udp(client, port, b"")), slot);
    }
    rig.assert_conservation();
}

#[test]
fn mh_keeps_its_clients_during_a_flood() {
    let mut rig = rig(Algorithm::Mh, &[3, 2, 1, 0].map(Rs::new));
    let clients = || (0..100).map(|last| [77, 1, 1, last]);
    let before: Vec<_> = clients().map(|client| rig.slot_for(&tcp(client, 1000, SYN))).collect();
    flood(&mut rig, HTTP);
    for port in [1001, 1002] {
        let after: Vec<_> = clients().map(|client| rig.slot_for(&tcp(client, port, SYN))).collect();
        assert_eq!(before, after);
        rig.hand.advance_seconds(1);
    }
    rig.assert_conservation();
}

#[test]
fn what_is_no_packet_of_a_living_connection_is_not_adopted() {
    let mut rig = rig(Algorithm::Rr, &[1, 0].map(Rs::new));
    flood(&mut rig, HTTP);
    for flags in [0, FIN, 8, 32] {
        let mut frame = tcp(CLIENT, 1, 0);
        frame[47] = flags;
        assert_eq!(rig.slot_for(&frame), None, "{flags}");
    }
    assert_eq!(rig.dropped(NoConnection), 4);
    let opened = rig.counters[0].connections_opened.load();
    assert!(rig.slot_for(&tcp(CLIENT, 1, RST)).is_some());
    assert_eq!((rig.stateless(Ending), rig.counters[0].connections_opened.load()), (1, opened));
    rig.assert_conservation();
}

#[test]
fn packets_midway_fill_no_more_than_half_of_the_table_for_long() {
    const CAPACITY: u32 = 1024;
    let mut rig = Rig::with(1, 1, CAPACITY, |counts| services(counts, Algorithm::Rr, &[1, 0].map(Rs::new)));
    flood(&mut rig, HTTP);
    rig.advance_and_sweep(62);
    let mut flows = flows(u32::MAX / 2);
    for _ in 0..600 {
        rig.advance_and_sweep(1);
        for (client, port) in flows.by_ref().take(4) {
            rig.pass(&tcp(client, port, ACK));
        }
    }
    let used = rig.connections().len() as u32;
    assert!((CAPACITY / 2..CAPACITY / 2 + 4 * 64).contains(&used), "{used}");
    rig.assert_conservation();
}

/// One frame to one of the workers.
fn to_worker(rig: &mut Rig, worker: usize, frame: &[u8]) -> Option<u32> {
    assert!(rig.ports[0].inject(worker, frame));
    rig.poll();
    rig.ports[0].take_transmitted().first().map(|frame| u32::from(frame[5]))
}

#[test]
fn persistent_client_without_state_on_one_worker_stays_on_the_other() {
    let real_servers = [0, 1, 2, 3].map(Rs::new);
    let mut rig = Rig::with(2, 1, 1 << 14, |counts| services(counts, Algorithm::Rr, &real_servers));
    for number in 0..=BURST {
        let (client, port) = flow(number);
        to_worker(&mut rig, 0, &tcp_to(HTTPS, client, port, SYN));
    }
    for last in 0..40 {
        let client = [88, 1, 1, last];
        let home = to_worker(&mut rig, 0, &tcp_to(HTTPS, client, 1000, SYN));
        assert_eq!(to_worker(&mut rig, 1, &tcp_to(HTTPS, client, 1001, SYN)), home);
        assert_eq!(to_worker(&mut rig, 0, &tcp_to(HTTPS, client, 1000, ACK)), home);
    }
    rig.assert_conservation();
}

/// Twenty clients with a template and no connection that matters, and where each leads.
fn with_templates(rig: &mut Rig) -> Vec<([u8; 4], Option<u32>)> {
    let clients = (0..20).map(|last| [88, 1, 1, last]);
    let homes = clients.map(|client| {
        let home = rig.slot_for(&tcp_to(HTTPS, client, 999, SYN));
        rig.pass(&tcp_to(HTTPS, client, 999, RST));
        (client, home)
    });
    homes.collect()
}

#[test]
fn template_followed_without_state_is_re_armed() {
    let mut rig = rig(Algorithm::Rr, &[0, 1, 2, 3].map(Rs::new));
    let homes = with_templates(&mut rig);
    for _ in 0..2 * PERSISTENT_SECONDS / 50 {
        rig.advance_and_sweep(50);
        flood(&mut rig, HTTPS);
        for &(client, home) in &homes {
            assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1000, ACK)), home);
        }
    }
    assert!(rig.connections().iter().all(|connection| connection.key.client_port() != 1000));
    rig.assert_conservation();
}

#[test]
fn template_followed_without_state_lasts_as_long_as_its_connection_may_be_silent() {
    let mut rig = rig(Algorithm::Rr, &[0, 1, 2, 3].map(Rs::new));
    let homes = with_templates(&mut rig);
    flood(&mut rig, HTTPS);
    for &(client, home) in &homes {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1000, SYN)), home);
    }
    rig.advance_and_sweep(PERSISTENT_SECONDS + 590);
    for &(client, home) in &homes {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1000, ACK)), home);
    }
    rig.assert_conservation();
}

#[test]
fn new_connection_of_a_persistent_client_takes_along_nothing_that_goes_without_state() {
    for change in [Rs { is_drained: true, ..Rs::new(1) }, Rs { upper_threshold: 1, ..Rs::new(1) }] {
        let mut rig = rig(Algorithm::Rr, &[2, 1, 0].map(Rs::new));
        flood(&mut rig, HTTPS);
        let clients = || (0..60).map(|last| [88, 1, 1, last]);
        let homes: Vec<_> = clients().map(|client| rig.slot_for(&tcp_to(HTTPS, client, 1000, SYN))).collect();
        let real_servers = [Rs::new(2), change, Rs::new(0)];
        rig.counts[1].open();
        set_thresholds(&rig.counts, &real_servers);
        rig.publish_snapshot(services(&rig.counts, Algorithm::Rr, &real_servers));
        for (client, home) in clients().zip(&homes) {
            rig.hand.advance_ticks(2);
            assert_ne!(rig.slot_for(&tcp_to(HTTPS, client, 1001, SYN)), Some(1));
            assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1000, ACK)), *home);
        }
        rig.assert_conservation();
    }
}

#[test]
fn connection_whose_time_was_cut_short_is_adopted_again() {
    let mut rig = Rig::with(1, 1, 512, |counts| services(counts, Algorithm::Rr, &[1, 0].map(Rs::new)));
    flood(&mut rig, HTTP);
    let (client, port) = flow(77_777);
    let home = rig.slot_for(&tcp(client, port, SYN));
    rig.advance_and_sweep(880);
    for (client, port) in flows(300) {
        rig.hand.advance_ticks(1);
        rig.pass(&udp_to(SYSLOG, client, port, b"log"));
    }
    assert_eq!(rig.slot_for(&tcp(client, port, ACK)), home);
    rig.advance_and_sweep(90);
    assert_eq!(rig.slot_for(&tcp(client, port, ACK)), home, "it was silent for a minute and a half");
    rig.assert_conservation();
}

#[test]
fn scheduler_decides_again_a_minute_after_the_flood_whatever_goes_on_midway() {
    let real_servers = [Rs { upper_threshold: 1, ..Rs::new(1) }, Rs { upper_threshold: 200, ..Rs::new(0) }];
    let mut rig = rig(Algorithm::Fo, &real_servers);
    flood(&mut rig, HTTP);
    for _ in 0..4 {
        rig.advance_and_sweep(30);
        for (client, port) in flows(10) {
            rig.pass(&tcp(client, port, ACK));
        }
    }
    assert!(rig.stateless(Threshold) > 0);
    let (client, port) = flow(88_888);
    let by_scheduler = rig.slot_for(&tcp(client, port, SYN));
    let others: Vec<_> = (0..20).map(|more| rig.slot_for(&tcp(client, port + 1 + more, SYN))).collect();
    assert!(others.iter().all(|other| *other == by_scheduler), "`fo` has one for all: {others:?}");
    rig.assert_conservation();
}

#[test]
fn full_template_table_leaves_nobody_without_a_connection() {
    let limits = TemplateLimits { capacity: 64, ..template_limits() };
    let real_servers = [0, 1, 2, 3].map(Rs::new);
    let mut rig =
        Rig::with_templates(1, 1, 1 << 16, &limits, |counts| services(counts, Algorithm::Rr, &real_servers));
    for (client, port) in flows(200 * 256).step_by(256) {
        rig.hand.advance_ticks(1);
        rig.pass(&tcp_to(HTTPS, client, port, SYN));
    }
    let clients = || (0..100).map(|last| [88, 1, 1, last]);
    let untemplated = rig.counters[0].untemplated.load();
    let homes: Vec<_> = clients()
        .map(|client| {
            rig.hand.advance_ticks(1);
            rig.slot_for(&tcp_to(HTTPS, client, 1000, SYN))
        })
        .collect();
    assert_eq!(rig.counters[0].untemplated.load() - untemplated, 100);
    assert_eq!(rig.counters[0].stateless_total(), 0);
    for (client, home) in clients().zip(&homes) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1001, SYN)), *home, "its next connection");
    }
    rig.publish_snapshot(services(&rig.counts, Algorithm::Rr, &[9, 8, 7, 0, 1, 2, 3].map(Rs::new)));
    for (client, home) in clients().zip(&homes) {
        assert_eq!(rig.slot_for(&tcp_to(HTTPS, client, 1000, ACK)), *home);
    }
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1, ACK)), None, "other services adopt nothing");
    rig.assert_conservation();
}
