//! Connections of NAT from their opening to their end: states, timers, room, what other connections do to them.

mod rig;

use std::net::IpAddr;

use dataplane::snapshot::{
    DestinationState, LocalRange, Persistence, PersistenceScope, PersistentClient, Protocol, Snapshot, Way,
};
use dataplane::verdict::DropReason;
use rig::nat::*;
use rig::packet::*;
use rig::*;
use scheduler::Algorithm;

#[test]
fn states_move_by_the_tables_for_both_ways_and_both_ways_arm_the_timer() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    let client = FrameOf::tcp(CIP, vip(HTTP), 0);
    let server = FrameOf::tcp(rip(&rs, 8080), CIP, 0).sent_by(0);
    let with = |frame: &FrameOf, of| FrameOf {
        layer: Layer::Tcp { flags: of, sequence: 1, acknowledgement: 2, options: Vec::new() },
        ..frame.clone()
    };
    // A whole life, each side closing in turn; its state and the seconds that it may be silent then.
    for (frame, state, seconds, counts) in [
        (with(&client, SYN), "SYN_RECV", 60, (1, 0)),
        (with(&server, SYN | ACK), "SYN_RECV", 60, (1, 0)),
        (with(&client, ACK), "ESTABLISHED", 900, (1, 0)),
        (with(&server, ACK | PSH), "ESTABLISHED", 900, (1, 0)),
        (with(&client, FIN | ACK), "CLOSE_WAIT", 60, (0, 1)),
        (with(&server, ACK), "CLOSE_WAIT", 60, (0, 1)),
        (with(&server, FIN | ACK), "TIME_WAIT", 120, (0, 1)),
        (with(&client, ACK), "TIME_WAIT", 120, (0, 1)),
    ] {
        become_of(&mut rig, &frame);
        assert_eq!(rig.state(CIP.1), state);
        assert_eq!(rig.counts(0), counts);
        rig.advance_and_sweep(seconds - 1);
        assert_eq!(rig.state(CIP.1), state, "{frame:?}");
    }
    rig.advance_and_sweep(3);
    assert!(rig.connections().is_empty());
    assert_eq!((rig.counts(0), rig.counters[0].connections.load()), ((0, 0), 0));
    assert_dropped(&mut rig, &with(&server, ACK), DropReason::NoConnection);
    assert_dropped(&mut rig, &with(&client, ACK), DropReason::NoConnection);
    assert_settled(&rig);
}

#[test]
fn connection_over_is_over_for_its_replies_before_the_sweep() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    become_of(&mut rig, &FrameOf::udp(CIP, vip(DNS), b"question"));
    let answer = FrameOf::udp(rip(&rs, 8080), CIP, b"answer").sent_by(0);
    rig.hand.advance_seconds(299);
    become_of(&mut rig, &answer);
    rig.hand.advance_seconds(300);
    assert_dropped(&mut rig, &answer, DropReason::NoConnection);
    assert_eq!((rig.counts(0), rig.connections().len()), ((0, 0), 0));
    assert_eq!(rig.counters[0].connections_expired.load(), 1);
    become_of(&mut rig, &FrameOf::udp(CIP, vip(DNS), b"question"));
    become_of(&mut rig, &answer);
    assert_settled(&rig);
}

#[test]
fn table_full_is_a_counted_drop_and_leaves_the_others_alone() {
    let rs = Rs::nat(0, 8080);
    let mut rig = Rig::new(1, 1, 12, Algorithm::Rr, &[rs]);
    let syn = |client_port| FrameOf::tcp((CIP.0, client_port), vip(HTTP), SYN);
    for client_port in 1..=4 {
        become_of(&mut rig, &syn(client_port));
    }
    for client_port in 5..=8 {
        assert_dropped(&mut rig, &syn(client_port), DropReason::ConnectionTableFull);
    }
    assert_eq!((rig.counts(0), rig.connections().len()), ((4, 0), 4));
    for client_port in 1..=4 {
        become_of(&mut rig, &FrameOf::tcp((CIP.0, client_port), vip(HTTP), ACK));
        let answer = FrameOf::tcp(rip(&rs, 8080), (CIP.0, client_port), ACK).sent_by(0);
        become_of(&mut rig, &answer);
    }
    assert_eq!(rig.total(|counters| counters.stateless_total()), 0);
    rig.advance_and_sweep(1000);
    assert_eq!(rig.counts(0), (0, 0));
    for client_port in 5..=8 {
        become_of(&mut rig, &syn(client_port));
    }
    assert_settled(&rig);
}

#[test]
fn more_new_connections_than_allowed_are_dropped_and_never_adopted() {
    let rs = Rs::nat(0, 8080);
    let mut rig = Rig::with(1, 1, 4096, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.options.creation_rate_per_worker = 100;
        snapshot
    });
    let mut sent = 0;
    for client_port in 1001..=1100 {
        sent += rig.pass_on(0, &FrameOf::tcp((CIP.0, client_port), vip(HTTP), SYN).padded()).len();
    }
    assert_eq!(sent, 32);
    assert_eq!(rig.dropped(DropReason::CreationLimit), 68);
    let ack = FrameOf::tcp((CIP.0, 1077), vip(HTTP), ACK);
    assert_dropped(&mut rig, &ack, DropReason::NoConnection);
    assert_settled(&rig);
}

#[test]
fn pool_of_local_addresses_that_runs_dry_is_a_counted_drop_until_a_port_is_free() {
    let rs = Rs::full_nat(0, 8080);
    let mut rig = Rig::with(1, 1, 1 << 18, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.local_addresses.ipv4.truncate(1);
        snapshot
    });
    let syn = |number: u32| {
        let [_, _, c, d] = number.to_be_bytes();
        FrameOf::tcp(([198, 18, c, d].into(), 40_000), vip(HTTP), SYN)
    };
    let all = 65_536 - 1024;
    let mut locals = std::collections::HashSet::new();
    for number in 0..all {
        assert!(locals.insert(source_of(&become_of(&mut rig, &syn(number)))), "each once");
    }
    for number in all..all + 10 {
        assert_dropped(&mut rig, &syn(number), DropReason::NoLocalPort);
    }
    assert_eq!(rig.counts(0), (all, 0));
    rig.hand.advance_seconds(100);
    for _ in 0..65_536 * 3 / 32 + 100 {
        rig.poll();
    }
    assert_eq!(rig.counts(0), (0, 0));
    become_of(&mut rig, &syn(all));
    assert_settled(&rig);
}

#[test]
fn real_server_sees_the_local_addresses_that_are_for_it_and_no_other() {
    let real_servers = [Rs::full_nat(0, 8080), Rs::full_nat(1, 8080)];
    let mut rig = Rig::with(1, 1, 4096, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers);
        assert_eq!(snapshot.local_addresses.ipv4.len(), 2);
        for (slot, start) in [(0, 1), (1, 0)] {
            let Way::Translate(translation) = &mut snapshot.ways[slot] else { panic!("full NAT") };
            translation.local_addresses = LocalRange { start, end: start + 1 };
        }
        snapshot
    });
    let mut seen = [0; 2];
    for client_port in 1001..=1020 {
        let sent = become_of(&mut rig, &FrameOf::tcp((CIP.0, client_port), vip(HTTP), SYN));
        let slot = usize::from(sent[..6] == rs_mac(1));
        assert_eq!(source_of(&sent).0, IpAddr::from(LOCAL_ADDRESSES[1 - slot]), "real server {slot}");
        seen[slot] += 1;
    }
    assert_eq!(seen, [10, 10]);
    assert_settled(&rig);
}

#[test]
fn full_nat_without_local_addresses_of_the_family_is_a_counted_drop() {
    for is_ipv6 in [false, true] {
        let rs = Rs { is_ipv6, ..Rs::full_nat(0, 8080) };
        let mut rig = Rig::with(1, 1, 64, |counts| {
            let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
            match is_ipv6 {
                false => snapshot.local_addresses.ipv4.clear(),
                true => snapshot.local_addresses.ipv6.clear(),
            }
            snapshot
        });
        let syn = match is_ipv6 {
            false => FrameOf::tcp(CIP, vip(HTTP), SYN),
            true => FrameOf::tcp(client_6(40_000), vip_6(HTTP), SYN),
        };
        assert_dropped(&mut rig, &syn, DropReason::NoLocalPort);
        assert_eq!((rig.counts(0), rig.connections().len()), ((0, 0), 0));
        assert_settled(&rig);
    }
}

/// VIP:80 and VIP:81 before the same real server.
fn two_services(rs: Rs) -> Rig {
    Rig::with(1, 1, 4096, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        for member in [(Protocol::TCP, 81), (Protocol::UDP, 54)] {
            add_service(&mut snapshot, counts, Algorithm::Rr, &[rs], &[member], |_| {});
        }
        snapshot
    })
}

#[test]
fn client_port_that_the_real_server_knows_from_another_service_is_refused_until_that_is_over() {
    let rs = Rs::nat(0, 8080);
    let mut rig = two_services(rs);
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(80), SYN));
    assert_dropped(&mut rig, &FrameOf::tcp(CIP, vip(81), SYN), DropReason::TupleInUse);
    become_of(&mut rig, &FrameOf::tcp((CIP.0, 1), vip(81), SYN));
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(80), RST));
    become_of(&mut rig, &FrameOf::tcp(rip(&rs, 8080), CIP, RST).sent_by(0));
    assert_eq!(rig.state(CIP.1), "CLOSE");
    become_of(&mut rig, &FrameOf::tcp(CIP, vip(81), SYN));
    let answer = FrameOf::tcp(vip(81), CIP, SYN | ACK);
    let from_rs = answer.clone().between(rip(&rs, 8080), CIP).sent_by(0);
    assert_becomes(&mut rig, &from_rs, &answer.at_client());
    assert_eq!((rig.counts(0), rig.connections().len()), ((2, 0), 2));
    assert_settled(&rig);
}

#[test]
fn datagrams_of_one_client_port_to_two_services_are_answered_by_the_last_asked() {
    let rs = Rs::nat(0, 5353);
    let mut rig = two_services(rs);
    for port in [53, 54, 53, 54] {
        become_of(&mut rig, &FrameOf::udp(CIP, vip(port), b"question"));
        let answer = FrameOf::udp(vip(port), CIP, b"answer");
        let from_rs = answer.clone().between(rip(&rs, 5353), CIP).sent_by(0);
        assert_becomes(&mut rig, &from_rs, &answer.at_client());
        assert_eq!((rig.counts(0), rig.connections().len()), ((0, 1), 1));
    }
    assert_settled(&rig);
}

#[test]
fn full_nat_gives_two_services_of_one_client_port_a_local_port_each() {
    let rs = Rs::full_nat(0, 8080);
    let mut rig = two_services(rs);
    let locals = [80, 81].map(|port| source_of(&become_of(&mut rig, &FrameOf::tcp(CIP, vip(port), SYN))));
    assert_ne!(locals[0], locals[1]);
    for (local, port) in locals.into_iter().zip([80, 81]) {
        let answer = FrameOf::tcp(vip(port), CIP, SYN | ACK);
        let from_rs = answer.clone().between(rip(&rs, 8080), local).sent_by(0);
        assert_becomes(&mut rig, &from_rs, &answer.at_client());
    }
    assert_settled(&rig);
}

#[test]
fn one_packet_service_keeps_a_connection_for_the_answer_and_no_longer() {
    let real_servers = [Rs::nat(1, 5353), Rs::nat(0, 5353)];
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers);
        let member = (Protocol::UDP, DNS);
        add_service(&mut snapshot, counts, Algorithm::Rr, &real_servers, &[member], |service| {
            service.one_packet = true;
        });
        snapshot
    });
    let question = FrameOf::udp(CIP, vip(DNS), b"question");
    let mut slots = Vec::new();
    for _ in 0..4 {
        let sent = become_of(&mut rig, &question);
        let rs = real_servers.iter().find(|rs| rs_mac(rs.slot) == sent[..6]).unwrap();
        slots.push(rs.slot);
        let answer = FrameOf::udp(vip(DNS), CIP, b"answer");
        let from_rs = answer.clone().between(rip(rs, 5353), CIP).sent_by(rs.slot);
        rig.hand.advance_seconds(4);
        assert_becomes(&mut rig, &from_rs, &answer.at_client());
        rig.hand.advance_seconds(1);
    }
    assert_eq!(slots, [slots[0], slots[1], slots[0], slots[1]]);
    assert_ne!(slots[0], slots[1]);
    rig.advance_and_sweep(8);
    assert!(rig.connections().is_empty());
    assert_settled(&rig);
}

#[test]
fn removed_real_servers_clients_are_cut_off_and_revived_with_it() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs, Rs::nat(1, 8080)]);
    let mut removed = snapshot(&rig.counts, 1, Algorithm::Rr, &[Rs::nat(1, 8080)]);
    let request = |flags| FrameOf::tcp(CIP, vip(HTTP), flags);
    let sent = become_of(&mut rig, &request(SYN));
    let slot = u32::from(sent[5]);
    let rs = Rs::nat(slot, 8080);
    let other = Rs::nat(1 - slot, 8080);
    become_of(&mut rig, &request(ACK));
    let answer = FrameOf::tcp(rip(&rs, 8080), CIP, ACK).sent_by(slot);
    if slot == 1 {
        removed = snapshot(&rig.counts, 1, Algorithm::Rr, &[other]);
    }
    removed.destinations[slot as usize].state = DestinationState::Removed;
    removed.translated_real_servers.insert(rs.address());
    rig.publish_snapshot(removed.clone());
    rig.hand.advance_seconds(500);
    assert_dropped(&mut rig, &request(ACK), DropReason::RealServerRemoved);
    become_of(&mut rig, &answer);
    rig.publish(Algorithm::Rr, &[rs, other]);
    become_of(&mut rig, &request(ACK));
    rig.hand.advance_seconds(500);
    become_of(&mut rig, &answer);
    // What the removed one still sends keeps nothing.
    rig.publish_snapshot(removed.clone());
    rig.hand.advance_seconds(600);
    become_of(&mut rig, &answer);
    rig.hand.advance_seconds(300);
    assert_dropped(&mut rig, &answer, DropReason::NoConnection);
    assert_eq!(rig.counts(slot as usize), (0, 0));
    // A SYN goes elsewhere at once.
    rig.publish(Algorithm::Rr, &[rs]);
    become_of(&mut rig, &request(SYN));
    rig.publish_snapshot(removed);
    let sent = become_of(&mut rig, &request(SYN));
    assert_eq!(u32::from(sent[5]), other.slot);
    assert_eq!((rig.counts(slot as usize), rig.counts(other.slot as usize)), ((0, 0), (1, 0)));
    assert_settled(&rig);
}

#[test]
fn expire_nodest_conn_ends_translated_connections_with_their_companions() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    for client_port in 0..100 {
        become_of(&mut rig, &FrameOf::tcp((CIP.0, 1000 + client_port), vip(HTTP), SYN));
    }
    let mut removed = snapshot(&rig.counts, 1, Algorithm::Rr, &[rs]);
    removed.destinations[0].state = DestinationState::Removed;
    removed.options.expire_nodest_conn = true;
    rig.publish_snapshot(removed);
    rig.advance_and_sweep(3);
    assert_eq!((rig.counts(0), rig.connections().len()), ((0, 0), 0));
    assert_dropped(
        &mut rig,
        &FrameOf::tcp(rip(&rs, 8080), (CIP.0, 1000), ACK).sent_by(0),
        DropReason::NoConnection,
    );
    assert_settled(&rig);
}

#[test]
fn syn_on_a_closed_connection_is_scheduled_anew_and_in_fin_wait_it_stays() {
    let real_servers = [Rs::nat(1, 8080), Rs::nat(0, 8080)];
    for mode in [1, 3] {
        let mut rig = Rig::with(1, 1, 64, |counts| {
            let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers);
            snapshot.options.conn_reuse_mode = mode;
            snapshot
        });
        let request = |flags| FrameOf::tcp(CIP, vip(HTTP), flags);
        let slot = become_of(&mut rig, &request(SYN))[5];
        let rs = Rs::nat(slot.into(), 8080);
        become_of(&mut rig, &request(ACK));
        become_of(&mut rig, &FrameOf::tcp(rip(&rs, 8080), CIP, FIN | ACK).sent_by(rs.slot));
        assert_eq!(rig.state(CIP.1), "FIN_WAIT");
        assert_eq!(become_of(&mut rig, &request(SYN))[5], slot, "the director saw both directions");
        become_of(&mut rig, &request(RST));
        become_of(&mut rig, &FrameOf::tcp(rip(&rs, 8080), CIP, RST).sent_by(rs.slot));
        assert_eq!(rig.state(CIP.1), "CLOSE");
        assert_ne!(become_of(&mut rig, &request(SYN))[5], slot);
        assert_eq!(rig.connections().len(), 1);
        assert_settled(&rig);
    }
}

#[test]
fn template_keeps_a_client_with_its_translated_real_server() {
    let real_servers = [Rs::nat(2, 8080), Rs::full_nat(1, 8080), Rs::nat(0, 8080)];
    let mut rig = Rig::with(1, 1, 1024, |counts| {
        let mut snapshot = snapshot(counts, 1, Algorithm::Rr, &real_servers);
        let member = (Protocol::TCP, HTTP);
        add_service(&mut snapshot, counts, Algorithm::Rr, &real_servers, &[member], |service| {
            service.persistence = Some(Persistence {
                timeout_ticks: 100 * 256,
                netmask: u128::MAX,
                client: PersistentClient::Address,
                scope: PersistenceScope::Virtual { port: HTTP },
            });
        });
        snapshot
    });
    for client in 1..=6 {
        let of = |port| FrameOf::tcp(([198, 51, 100, client].into(), port), vip(HTTP), SYN);
        let slot = become_of(&mut rig, &of(1000))[5];
        for port in 1001..1005 {
            assert_eq!(become_of(&mut rig, &of(port))[5], slot);
        }
    }
    assert_eq!(rig.templates.len(), 6);
    // The templates last as long as their connections, and no longer.
    rig.advance_and_sweep(59);
    assert_eq!(rig.connections().len(), 30);
    rig.advance_and_sweep(3);
    assert_eq!((rig.connections().len(), rig.templates.len()), (0, 6));
    rig.advance_and_sweep(200);
    assert_eq!(rig.templates.len(), 0);
    assert_settled(&rig);
}

#[test]
fn real_server_over_its_threshold_gets_no_new_connection() {
    let full = Rs { upper_threshold: 3, ..Rs::nat(1, 8080) };
    let mut rig = rig(&[full, Rs::nat(0, 8080)]);
    let slots: Vec<u8> = (0..20)
        .map(|port| become_of(&mut rig, &FrameOf::tcp((CIP.0, 1000 + port), vip(HTTP), SYN))[5])
        .collect();
    assert_eq!(slots.iter().filter(|&&slot| slot == 1).count(), 3);
    rig.advance_and_sweep(70);
    let slots: Vec<u8> = (0..4)
        .map(|port| become_of(&mut rig, &FrameOf::tcp((CIP.0, 2000 + port), vip(HTTP), SYN))[5])
        .collect();
    assert_eq!(slots.iter().filter(|&&slot| slot == 1).count(), 2, "connections that are over count no more");
    assert_settled(&rig);
}

#[test]
fn methods_live_side_by_side_in_one_service() {
    let real_servers = [Rs::nat(2, 8080), Rs::full_nat(1, 8080), Rs::new(0)];
    let mut rig = rig(&real_servers);
    for client_port in 1000..1030 {
        let client = (CIP.0, client_port);
        let request = FrameOf::tcp(client, vip(HTTP), SYN);
        let sent = become_of(&mut rig, &request);
        match sent[5] {
            0 => assert_eq!(sent, request.at_rs(0).padded()),
            1 => assert_ne!(source_of(&sent), client),
            _ => assert_eq!(sent, request.between(client, rip(&real_servers[0], 8080)).at_rs(2).padded()),
        }
    }
    assert_eq!([0, 1, 2].map(|slot| rig.counts(slot)), [(10, 0); 3]);
    assert_settled(&rig);
}

#[test]
fn connection_keeps_its_translation_when_the_method_changes() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    let request = |client_port, flags| FrameOf::tcp((CIP.0, client_port), vip(HTTP), flags);
    become_of(&mut rig, &request(1, SYN));
    rig.publish(Algorithm::Rr, &[Rs::new(0)]);
    become_of(&mut rig, &request(2, SYN));
    let translated = request(1, ACK).between((CIP.0, 1), rip(&rs, 8080)).at_rs(0);
    assert_becomes(&mut rig, &request(1, ACK), &translated);
    assert_becomes(&mut rig, &request(2, ACK), &request(2, ACK).at_rs(0));
    rig.publish(Algorithm::Rr, &[rs]);
    assert_becomes(&mut rig, &request(2, ACK), &request(2, ACK).at_rs(0));
    let answer = FrameOf::tcp(vip(HTTP), (CIP.0, 1), ACK);
    let from_rs = answer.clone().between(rip(&rs, 8080), (CIP.0, 1)).sent_by(0);
    assert_becomes(&mut rig, &from_rs, &answer.at_client());
    assert_settled(&rig);
}

#[test]
fn listing_shows_each_translated_connection_once_with_what_its_replies_are_known_by() {
    let rs = Rs::nat(0, 8080);
    let mut rig = rig(&[rs]);
    for client_port in 1000..1010 {
        become_of(&mut rig, &FrameOf::tcp((CIP.0, client_port), vip(HTTP), SYN));
    }
    let records: Vec<_> = rig.connections[0].read(0, u32::MAX).collect();
    assert_eq!(records.len(), 10);
    for record in records {
        let reply = record.reply.unwrap();
        assert_eq!((reply.client, reply.client_port), rip(&rs, 8080));
        assert_eq!((reply.service.address, reply.service.port), (CIP.0, record.tuple().client_port));
        assert_eq!((record.tuple().client, record.tuple().service.port), (CIP.0, HTTP));
    }
}

/// A snapshot that says nothing of the real servers behind NAT still finds their replies' connections.
#[test]
fn full_nat_needs_no_more_than_its_pool() {
    let rs = Rs::full_nat(0, 8080);
    let mut rig = Rig::with(1, 1, 64, |counts| {
        let mut snapshot: Snapshot = snapshot(counts, 1, Algorithm::Rr, &[rs]);
        snapshot.translated_real_servers.clear();
        snapshot
    });
    let local = source_of(&become_of(&mut rig, &FrameOf::tcp(CIP, vip(HTTP), SYN)));
    let answer = FrameOf::tcp(vip(HTTP), CIP, SYN | ACK);
    let from_rs = answer.clone().between(rip(&rs, 8080), local).sent_by(0);
    assert_becomes(&mut rig, &from_rs, &answer.at_client());
    assert_settled(&rig);
}
