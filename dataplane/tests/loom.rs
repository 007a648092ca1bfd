//! Every interleaving of two or three threads on the lock-free tables, tried by loom:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p dataplane --no-default-features --test loom`. Without the flag there is
//! nothing here.
#![cfg(loom)]

use std::sync::Arc;

use dataplane::clock::{TICKS_PER_SECOND, Ticks};
use dataplane::connection::{
    Connection, ConnectionFlags, ConnectionState, ConnectionTable, FlowKey, TableReader,
};
use dataplane::dpdk::region::Pages;
use dataplane::persistence::*;
use loom::thread;

const TIMEOUT: u32 = 300 * TICKS_PER_SECOND;
const START: Ticks = Ticks(0);
const OVER: Ticks = Ticks(TIMEOUT);
const LATER: Ticks = Ticks(10 * TIMEOUT);

/// Tries the interleavings with at most so many preemptions.
fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(body);
}

fn templates(capacity: u32) -> Arc<TemplateTable> {
    let limits = TemplateLimits { capacity, destinations: 4, keeps_call_ids: false, has_ipv6: false };
    TemplateTable::new(&limits, Pages::Any).unwrap()
}

fn key(group: u32) -> TemplateKey {
    TemplateKey::for_group([10, 0, 0, 1], u32::MAX, group)
}

fn open(table: &TemplateTable, now: Ticks, destination: u32) -> Opened {
    table.open(&key(1), now, TIMEOUT, destination, b"").unwrap()
}

fn all(table: &TemplateTable) -> Vec<Template> {
    table.read(0, u32::MAX).map(|(template, _)| template).collect()
}

/// With nothing held any more, all of it ends, and every entry can be used again.
fn assert_nothing_is_lost(table: &TemplateTable) {
    let mut sweep = TemplateSweep::new(0, 1);
    sweep.expire(table, LATER);
    assert!(table.is_empty() && all(table).is_empty());
    for group in 0..table.capacity() {
        assert!(table.open(&key(group), LATER, TIMEOUT, 3, b"").is_ok_and(|opened| opened.is_new));
    }
}

/// Two threads with a table, and what they return.
fn two<T: 'static>(
    table: &Arc<TemplateTable>,
    first: impl FnOnce(&TemplateTable) -> T + 'static,
    second: impl FnOnce(&TemplateTable) -> T + 'static,
) -> (T, T) {
    let (of_first, of_second) = (table.clone(), table.clone());
    let first = thread::spawn(move || first(&of_first));
    let second = thread::spawn(move || second(&of_second));
    (first.join().unwrap(), second.join().unwrap())
}

#[test]
fn two_that_open_one_key_at_once_share_one_template() {
    model(4, || {
        let table = templates(2);
        let (a, b) = two(&table, |table| open(table, START, 0), |table| open(table, START, 1));
        assert_eq!((a.id, a.destination), (b.id, b.destination));
        assert!(a.is_new != b.is_new);
        let listed = all(&table);
        assert_eq!((listed.len(), listed[0].controlled), (1, 2));
        assert_eq!(table.count(a.destination), 1);
        assert_eq!(table.len(), 1);
        table.release(a.id, START);
        table.release(b.id, START);
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn three_that_open_one_key_at_once_share_one_template() {
    model(2, || {
        let table = templates(3);
        let third = {
            let table = table.clone();
            thread::spawn(move || open(&table, START, 2))
        };
        let (a, b) = two(&table, |table| open(table, START, 0), |table| open(table, START, 1));
        let c = third.join().unwrap();
        assert!(
            a.id == b.id && b.id == c.id && a.destination == b.destination && b.destination == c.destination
        );
        assert_eq!([a, b, c].iter().filter(|opened| opened.is_new).count(), 1);
        [a, b, c].iter().for_each(|opened| table.release(opened.id, START));
        assert_nothing_is_lost(&table);
    });
}

/// Who looked at the bucket when the old template was linked may find the new one in its way that is withdrawn later.
#[test]
fn hold_while_two_replace_the_template_never_keeps_the_one_that_is_withdrawn() {
    model(2, || {
        let table = templates(3);
        let old = open(&table, START, 0);
        let holding = {
            let table = table.clone();
            thread::spawn(move || table.hold(&key(1), START, TIMEOUT))
        };
        let replace = move |table: &TemplateTable| {
            table.invalidate(old.id);
            table.release(old.id, START);
            open(table, START, 2)
        };
        let (a, b) = two(&table, replace, |table| open(table, START, 1));
        let held = holding.join().unwrap();
        // Who was early got the old one.
        assert!(b.destination == 0 || (a.id, a.destination) == (b.id, b.destination));
        assert!(held.is_none_or(|held| held.destination == 0 || held.destination == a.destination));
        [Some(a), Some(b), held].iter().flatten().for_each(|opened| table.release(opened.id, START));
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn hold_and_expiry_at_one_instant_agree_who_was_first() {
    model(4, || {
        let table = templates(2);
        let old = open(&table, START, 0);
        table.release(old.id, START);
        // The second worker's clock is a little behind: to it the template is not over yet.
        let (ended, held) = two(
            &table,
            |table| (Some(TemplateSweep::new(0, 1).expire(table, OVER)), None),
            |table| (None, table.hold(&key(1), Ticks(OVER.0 - 1), TIMEOUT)),
        );
        assert_eq!(ended.0 == Some(0), held.1.is_some());
        assert_eq!(table.count(0), u32::from(held.1.is_some()));
        if let Some(held) = held.1 {
            assert_eq!((held.id, held.destination), (old.id, 0));
            table.release(held.id, OVER);
        }
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn two_that_open_a_key_whose_template_is_over_share_the_new_one() {
    model(3, || {
        let table = templates(3);
        let old = open(&table, START, 0);
        table.release(old.id, START);
        let (a, b) = two(&table, |table| open(table, OVER, 1), |table| open(table, OVER, 2));
        assert!(a.is_new != b.is_new && a.id == b.id && a.destination == b.destination);
        assert_eq!((table.count(0), table.len()), (0, 1));
        table.release(a.id, OVER);
        table.release(b.id, OVER);
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn opening_where_another_ends_or_renews_the_template_leaves_one() {
    model(3, || {
        let table = templates(3);
        let old = open(&table, START, 0);
        table.release(old.id, START);
        let (a, b) = two(
            &table,
            |table| open(table, OVER, 1),
            |table| {
                TemplateSweep::new(0, 1).expire(table, OVER);
                open(table, Ticks(OVER.0 - 1), 2)
            },
        );
        assert_eq!((a.id, a.destination), (b.id, b.destination));
        assert_eq!((table.count(a.destination), table.len()), (1, 1));
        table.release(a.id, OVER);
        table.release(b.id, OVER);
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn invalidation_and_hold_at_once_lose_neither_connection_nor_template() {
    model(4, || {
        let table = templates(2);
        let old = open(&table, START, 0);
        let (_, held) = two(
            &table,
            move |table| {
                table.invalidate(old.id);
                table.release(old.id, START);
                None
            },
            |table| table.hold(&key(1), START, TIMEOUT),
        );
        assert!(all(&table).is_empty());
        assert_eq!(table.count(0), 0, "one that nobody can find is counted no more, held or not");
        if let Some(held) = held {
            table.release(held.id, START);
        }
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn two_that_invalidate_and_open_anew_share_the_new_one() {
    model(3, || {
        let table = templates(3);
        let first = open(&table, START, 0);
        let second = open(&table, START, 0);
        let renew = |held: Opened, destination| {
            move |table: &TemplateTable| {
                table.invalidate(held.id);
                table.release(held.id, START);
                open(table, START, destination)
            }
        };
        let (a, b) = two(&table, renew(first, 1), renew(second, 2));
        // The second one's invalidation is of the old template, whenever it comes.
        assert_eq!((a.destination, a.id), (b.destination, b.id));
        assert_eq!((table.count(0), table.len()), (0, 1));
        table.release(a.id, START);
        table.release(b.id, START);
        assert_nothing_is_lost(&table);
    });
}

#[test]
fn listing_of_changing_templates_shows_no_torn_one() {
    model(3, || {
        let table = templates(1);
        let old = table.open(&key(0), START, TIMEOUT, 0, b"").unwrap();
        let (listed, _) = two(&table, all, move |table| {
            table.invalidate(old.id);
            table.release(old.id, START);
            table.open(&key(1), START, TIMEOUT, 1, b"").unwrap();
            Vec::new()
        });
        for template in &listed {
            assert_eq!((template.key, template.controlled), (key(template.destination), 1));
        }
        assert!(listed.len() <= 1);
    });
}

/// Every field says which one it is.
fn connection(number: u8, step: u32) -> Connection {
    Connection {
        key: FlowKey::new([10, 0, 0, number], [192, 0, 2, 10], [4, number], [0, 80], 6),
        state: if step == 0 { ConnectionState::Established } else { ConnectionState::FinWait },
        flags: ConnectionFlags(number & 1),
        expires: Ticks(u32::from(number) << 8 | step),
        destination: number.into(),
        link: Some(number.into()),
        ..Connection::default()
    }
}

fn read(reader: &TableReader) -> Option<Connection> {
    let copy = reader.read(0, u32::MAX).next().map(|record| record.connection);
    if let Some(copy) = copy {
        assert_eq!(copy, connection(copy.destination as u8, copy.expires.0 & 1), "torn");
    }
    copy
}

#[test]
fn reader_of_an_entry_that_changes_hands_sees_one_connection_or_none() {
    model(4, || {
        let mut table = ConnectionTable::new(1, Pages::Any).unwrap();
        let reader = table.reader();
        let reading = thread::spawn(move || read(&reader));
        for number in [1, 2] {
            let hash = table.hash(&connection(number, 0).key);
            let id = table.insert(connection(number, 0), hash).unwrap();
            let moved = connection(number, 1);
            table.update(id, moved.state, moved.expires);
            table.remove(id);
        }
        reading.join().unwrap();
    });
}

#[test]
fn reader_sees_a_lasting_connection_whatever_its_packets_do() {
    model(5, || {
        let mut table = ConnectionTable::new(1, Pages::Any).unwrap();
        let hash = table.hash(&connection(1, 0).key);
        let id = table.insert(connection(1, 0), hash).unwrap();
        let reader = table.reader();
        let reading = thread::spawn(move || read(&reader));
        for step in [1, 0, 1] {
            let moved = connection(1, step);
            table.update(id, moved.state, moved.expires);
        }
        assert!(reading.join().unwrap().is_some());
    });
}
