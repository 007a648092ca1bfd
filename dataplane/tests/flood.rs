//! A flood of new tuples: no established connection is lost or moved, nothing is allocated, every packet is accounted for.

mod rig;

use dataplane::connection::ConnectionFlags;
use dataplane::snapshot::{Options, Snapshot};
use dataplane::verdict::DropReason::*;
use dataplane::verdict::StatelessReason::*;
use rig::*;
use scheduler::Algorithm;

const RATE: u32 = 800;
/// Connections that may open at once under [`RATE`].
const BURST: u64 = 100;

fn limited(rate: u32) -> impl Fn(&dataplane::snapshot::SharedCounts) -> Snapshot {
    move |counts| {
        let real_servers = [Rs::new(2), Rs::new(1), Rs::new(0)];
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers);
        snapshot.options = Options { creation_rate_per_worker: rate, ..Options::default() };
        snapshot
    }
}

/// Distinct clients, ports from 1024 on.
fn flow(number: u32) -> ([u8; 4], u16) {
    let [_, a, b, c] = number.to_be_bytes();
    ([20 + (a >> 4), a & 15, b, 1], 1024 + u16::from(c))
}

/// Makes so many frames arrive and lets the worker take them; returns where each went that was forwarded.
fn offer(rig: &mut Rig, frames: impl Iterator<Item = Vec<u8>>) -> Vec<u32> {
    let mut went_to = Vec::new();
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        for frame in frames.by_ref().take(512) {
            assert!(rig.ports[0].inject(0, &frame));
        }
        while rig.ports[0].waiting(0) > 0 {
            rig.poll();
        }
        rig.ports[0].drain_transmitted(0, |frame| went_to.push(u32::from(frame[5])));
    }
    went_to
}

#[test]
fn connections_open_at_the_rate_and_no_faster() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    let flood = |from: u32| {
        (from..from + 1000).map(|number| {
            let (client, port) = flow(number);
            tcp(client, port, SYN)
        })
    };
    assert_eq!(offer(&mut rig, flood(0)).len(), 1000, "every packet is forwarded");
    assert_eq!(rig.counters[0].connections_opened.load(), BURST);
    assert_eq!(rig.stateless(CreationRate), 1000 - BURST);
    rig.hand.advance_ticks(32);
    offer(&mut rig, flood(1000));
    assert_eq!(rig.counters[0].connections_opened.load(), BURST + u64::from(RATE) / 8);
    rig.hand.advance_seconds(1);
    offer(&mut rig, flood(2000));
    assert_eq!(
        rig.counters[0].connections_opened.load(),
        2 * BURST + u64::from(RATE) / 8,
        "one burst at most"
    );
    let scheduled: u64 = rig.counters[0].destinations.iter().map(|of| of.connections.load()).sum();
    assert_eq!(
        scheduled,
        rig.counters[0].connections_opened.load(),
        "packets without state are no connections"
    );
    rig.assert_conservation();
}

#[test]
fn client_whose_syn_was_forwarded_without_state_is_not_cut() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    let flows: Vec<_> = (0..1000).map(flow).collect();
    let syns: Vec<_> = flows.iter().map(|&(client, port)| rig.slot_for(&tcp(client, port, SYN))).collect();
    for _ in 0..3 {
        for (&(client, port), slot) in flows.iter().zip(&syns) {
            assert_eq!(rig.slot_for(&tcp(client, port, ACK)), *slot, "still at the rate's limit");
            assert_eq!(rig.slot_for(&tcp(client, port, SYN)), *slot, "sent again");
        }
    }
    assert_eq!(rig.counters[0].adopted.load(), 0);
    // The flood is over: their next packets find an allowance, one tick after the other.
    for (&(client, port), slot) in flows.iter().zip(&syns) {
        rig.hand.advance_ticks(1);
        assert_eq!(rig.slot_for(&tcp(client, port, ACK)), *slot);
    }
    assert_eq!(rig.connections().len(), 1000, "all have a connection now");
    assert_eq!(rig.counters[0].adopted.load(), 1000 - BURST);
    assert_eq!(rig.counters[0].connections_opened.load(), 1000);
    let adopted = rig.connections();
    let adopted = adopted.iter().filter(|of| of.flags.contains(ConnectionFlags::STATELESS_ADOPTED));
    assert_eq!(adopted.clone().count() as u64, 1000 - BURST);
    assert!(adopted.clone().all(|connection| connection.state.name() == "ESTABLISHED"));
    let active: u32 = (0..3).map(|slot| rig.counts(slot).0).sum();
    assert_eq!(active, 1000, "adopted ones count as any other");
    rig.assert_conservation();
}

#[test]
fn adoption_ends_with_the_time_that_a_connection_may_be_silent() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    let firsts =
        (0..200).map(flow).flat_map(|(client, port)| [tcp(client, port, SYN), sctp(client, port, &chunk(1))]);
    offer(&mut rig, firsts);
    assert_eq!(rig.stateless(CreationRate), 400 - BURST);
    rig.hand.advance_seconds(959);
    assert!(rig.slot_for(&tcp(CLIENT, 1000, ACK)).is_some());
    assert!(rig.slot_for(&sctp(CLIENT, 1000, &chunk(0))).is_some(), "SCTP's too");
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, SYN | RST)), rig.slot_for(&tcp(CLIENT, 1000, ACK)));
    assert!(rig.slot_for(&tcp(CLIENT, 1001, SYN | RST)).is_none(), "that is nobody's packet");
    rig.hand.advance_seconds(2);
    assert!(rig.slot_for(&tcp(CLIENT, 1002, ACK)).is_none());
    assert_eq!(rig.dropped(NoConnection), 2);
    rig.assert_conservation();
}

#[test]
fn connection_adopted_in_a_flood_stays_no_longer_than_a_syn_until_its_next_packet() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    offer(&mut rig, (0..200).map(flow).map(|(client, port)| tcp(client, port, SYN)));
    rig.hand.advance_seconds(1);
    let slots: Vec<_> = (0..2).map(|port| rig.slot_for(&tcp(CLIENT, 1000 + port, ACK))).collect();
    assert_eq!((rig.state(1000), rig.counters[0].adopted.load()), ("ESTABLISHED", 2));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1000, ACK)), slots[0], "a second packet: not the flood's");
    rig.advance_and_sweep(61);
    assert_eq!((rig.state(1000), rig.state(1001)), ("ESTABLISHED", ""));
    rig.advance_and_sweep(838);
    assert_eq!(rig.state(1000), "ESTABLISHED");
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1001, ACK)), slots[1], "but the other is adopted again");
    rig.assert_conservation();
}

#[test]
fn without_a_flood_nothing_is_adopted() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    rig.pass(&tcp(CLIENT, 1000, SYN));
    assert_eq!(rig.slot_for(&tcp(CLIENT, 1001, ACK)), None);
    assert_eq!(rig.dropped(NoConnection), 1);
    assert_eq!(rig.counters[0].stateless_total(), 0);
}

#[test]
fn without_a_real_server_a_flood_is_dropped_and_counted() {
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[Rs { weight: 0, ..Rs::new(0) }]);
        snapshot.options.creation_rate_per_worker = RATE;
        snapshot
    });
    let syns = (0..1000).map(flow).map(|(client, port)| tcp(client, port, SYN));
    assert!(offer(&mut rig, syns).is_empty());
    assert_eq!(rig.dropped(NoRealServer), 1000);
    assert_eq!(rig.counters[0].stateless_total(), 0);
    rig.assert_conservation();
}

/// 200 thousand connections and 2 million packets of a flood; `examples/flood.rs` does the same at any size.
#[test]
fn flood_costs_no_established_connection() {
    const ESTABLISHED: u32 = 200_000;
    const FLOOD: u32 = 2_000_000;
    let mut rig = Rig::with(1, 1, ESTABLISHED + 50_000, limited(0));
    // Every frame is made from this one: a million builders would take longer than the flood.
    let frame = |number: u32, base: u8, flags: u8| {
        let mut frame = tcp([base, 0, 0, 1], 1024, flags);
        frame[27..30].copy_from_slice(&(number >> 8).to_be_bytes()[1..]);
        frame[35] = number as u8;
        fix_checksum(&mut frame);
        frame
    };
    let established = |flags| (0..ESTABLISHED).map(move |number| frame(number, 20, flags));
    let before = offer(&mut rig, established(SYN));
    assert_eq!(offer(&mut rig, established(ACK)), before);
    rig.publish_snapshot(limited(RATE)(&rig.counts));

    let mut forwarded = 0;
    let mut in_worker = 0;
    for batch in 0..FLOOD / 512 {
        for number in batch * 512..(batch + 1) * 512 {
            let flags = [SYN, ACK, SYN, FIN | ACK][number as usize % 4];
            let mut frame = frame(number, 60, flags);
            if number % 8 == 2 {
                // UDP to VIP:53.
                frame[23] = 17;
                frame[36..40].copy_from_slice(&[0, 53, 0, 20]);
                fix_checksum(&mut frame);
            }
            assert!(rig.ports[0].inject(0, &frame));
        }
        let worker = &mut rig.workers[0];
        let calls = allocation_counter::measure(|| (0..16).for_each(|_| worker.poll()));
        in_worker += calls.count_total;
        forwarded += rig.ports[0].drain_transmitted(0, |_| {});
        rig.hand.advance_ticks(1);
    }
    assert_eq!(in_worker, 0, "no allocation");
    let counters = &rig.counters[0];
    let new = counters.connections_opened.load() - u64::from(ESTABLISHED);
    assert_eq!(counters.stateless(TableFull), 0);
    let dropped = rig.dropped(NoConnection);
    assert_eq!(
        forwarded as u64 + dropped,
        u64::from(FLOOD / 512 * 512),
        "what is not forwarded came before the first packet without state"
    );
    assert!(dropped <= 2 * BURST, "{dropped}");
    assert_eq!(rig.stateless(CreationRate) + new, forwarded as u64);
    let seconds = FLOOD / 512 / 256;
    assert!(new <= BURST + u64::from(RATE * (seconds + 1)), "{new} in {seconds} s");

    assert_eq!(offer(&mut rig, established(ACK)), before, "none lost, none moved");
    rig.assert_conservation();
}

#[test]
fn what_cannot_open_a_connection_takes_nothing_from_the_allowance() {
    let mut rig = Rig::with(1, 1, 1 << 16, |counts| {
        let mut snapshot = limited(RATE)(counts);
        let down = [Rs { available: false, ..Rs::new(5) }];
        let other = rig::snapshot(counts, 1, Algorithm::Rr, &down);
        let dns = snapshot.services.keys().find(|key| key.port == DNS).copied().unwrap();
        snapshot.services.insert(dns, other.services[&dns].clone());
        snapshot
    });
    let down = (0..10_000).map(|number| {
        let (client, port) = flow(number);
        udp(client, port, b"")
    });
    assert!(offer(&mut rig, down).is_empty());
    assert_eq!(rig.dropped(NoRealServer), 10_000);
    let sound = (0..BURST as u32).map(|number| {
        let (client, port) = flow(number);
        tcp(client, port, SYN)
    });
    assert_eq!(offer(&mut rig, sound).len(), BURST as usize);
    assert_eq!((rig.counters[0].connections_opened.load(), rig.stateless(CreationRate)), (BURST, 0));
    rig.assert_conservation();
}

#[test]
fn rst_of_what_may_have_begun_without_state_is_forwarded_and_makes_no_connection() {
    let mut rig = Rig::with(1, 1, 1 << 16, limited(RATE));
    let syns = (0..1000).map(|number| {
        let (client, port) = flow(number);
        tcp(client, port, SYN)
    });
    offer(&mut rig, syns);
    rig.hand.advance_seconds(10);
    let opened = rig.counters[0].connections_opened.load();
    let (client, port) = flow(5000);
    let to = rig.slot_for(&tcp(client, port, ACK));
    assert_eq!(rig.counters[0].connections_opened.load(), opened + 1, "an ACK is adopted");
    let (client, port) = flow(5001);
    assert!(to.is_some() && rig.slot_for(&tcp(client, port, RST)).is_some());
    assert_eq!(rig.counters[0].connections_opened.load(), opened + 1);
    rig.assert_conservation();
}
