//! The templates of all workers: IPVS's rules, one template for each key whatever happens at once, nothing left behind.
#![cfg(not(loom))]

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use dataplane::clock::{TICKS_PER_SECOND, Ticks};
use dataplane::dpdk::region::Pages;
use dataplane::persistence::*;
use dataplane::snapshot::Protocol;

const TIMEOUT: u32 = 300 * TICKS_PER_SECOND;
const THREADS: u32 = 12;

fn table(capacity: u32) -> Arc<TemplateTable> {
    let limits = TemplateLimits { capacity, destinations: 64, keeps_call_ids: true, has_ipv6: false };
    TemplateTable::new(&limits, Pages::Any).unwrap()
}

fn key(number: u32) -> TemplateKey {
    TemplateKey::for_client(number.to_be_bytes(), u32::MAX, Ipv4Addr::new(192, 0, 2, 10), 80, Protocol::TCP)
}

fn at(seconds: u32) -> Ticks {
    Ticks(seconds * TICKS_PER_SECOND)
}

/// All that a worker's sweep ends from `from` to `to`, in seconds.
fn sweep(table: &TemplateTable, from: u32, to: u32) -> u32 {
    let mut sweep = TemplateSweep::new(0, 1);
    (from * 256..=to * 256).step_by(16).map(|tick| sweep.expire(table, Ticks(tick))).sum()
}

fn all(table: &TemplateTable) -> Vec<Template> {
    table.read(0, u32::MAX).map(|(template, _)| template).collect()
}

#[test]
fn next_connection_gets_the_first_ones_real_server_and_re_arms_the_timer() {
    let table = table(16);
    assert_eq!(table.hold(&key(1), at(0), TIMEOUT), None);
    let first = table.open(&key(1), at(0), TIMEOUT, 5, b"").unwrap();
    assert!(first.is_new && first.destination == 5);
    table.release(first.id, at(10));
    let second = table.hold(&key(1), at(299), TIMEOUT).unwrap();
    assert_eq!((second.id, second.destination, second.is_new), (first.id, 5, false));
    table.assure(second.id);
    table.release(second.id, at(299));
    let third = table.open(&key(1), at(598), TIMEOUT, 6, b"").unwrap();
    assert_eq!((third.destination, third.is_new), (5, false), "not what was asked for");
    let expected =
        Template { key: key(1), destination: 5, expires: at(898), controlled: 1, is_assured: true };
    assert_eq!(all(&table), [expected]);
    assert_eq!(table.find(&key(1), at(598)), Some(expected));
    assert_eq!((table.count(5), table.count(6), table.len()), (1, 0, 1));
}

#[test]
fn template_ends_at_its_very_second_swept_or_not() {
    let table = table(16);
    let opened = table.open(&key(1), at(0), TIMEOUT, 5, b"").unwrap();
    table.release(opened.id, at(0));
    assert!(table.find(&key(1), at(299)).is_some());
    assert_eq!(table.find(&key(1), at(300)), None);
    assert_eq!(table.count(5), 1, "nobody has looked at it");
    assert_eq!(table.hold(&key(1), at(300), TIMEOUT), None);
    assert_eq!(table.count(5), 0, "who finds it over ends it");
    let opened = table.open(&key(1), at(300), TIMEOUT, 6, b"").unwrap();
    assert!(opened.is_new && opened.destination == 6);
    table.release(opened.id, at(300));
    assert_eq!(sweep(&table, 590, 599), 0);
    assert_eq!(sweep(&table, 600, 605), 1);
    assert!(table.is_empty() && all(&table).is_empty());
}

#[test]
fn template_that_controls_connections_goes_on_for_minutes() {
    let table = table(16);
    let opened = table.open(&key(1), at(0), TIMEOUT, 5, b"").unwrap();
    assert_eq!(sweep(&table, 295, 395), 0);
    assert_eq!(all(&table)[0].expires, at(420), "postponed twice");
    table.release(opened.id, at(400));
    assert_eq!(sweep(&table, 401, 419), 0, "a minute at most after the last of its connections");
    assert_eq!(sweep(&table, 415, 425), 1);
    let opened = table.open(&key(1), at(0), TIMEOUT, 5, b"").unwrap();
    table.release(opened.id, at(310));
    assert_eq!(all(&table)[0].expires, at(360), "as if its timer had been looked at in time");
}

#[test]
fn invalidated_template_is_not_found_and_ends_with_its_last_connection() {
    let table = table(16);
    let old = table.open(&key(1), at(0), TIMEOUT, 5, b"").unwrap();
    table.hold(&key(1), at(0), TIMEOUT).unwrap();
    table.invalidate(old.id);
    table.invalidate(old.id);
    assert_eq!(table.hold(&key(1), at(1), TIMEOUT), None);
    assert!(all(&table).is_empty());
    table.release(old.id, at(1));
    let new = table.open(&key(1), at(1), TIMEOUT, 6, b"").unwrap();
    assert!(new.is_new && new.destination == 6 && new.id != old.id);
    assert_eq!((table.count(5), table.count(6)), (0, 1), "who is not listed is not counted");
    assert_eq!(table.len(), 1);
    assert_eq!(sweep(&table, 0, 250), 0, "its connection keeps it, not its timer");
    table.release(old.id, at(1000));
    assert_eq!((table.count(5), table.count(6)), (0, 1));
}

#[test]
fn full_table_refuses_new_keys_and_gives_all_its_memory_back() {
    let table = table(1000);
    for round in 0..3 {
        let now = at(round * 1000);
        let mut opened = Vec::new();
        let mut refused = 0;
        for number in 0..1100 {
            match table.open(&key(round * 10_000 + number), now, TIMEOUT, number % 64, b"") {
                Ok(template) => opened.push(template),
                Err(TemplateTableFull) => refused += 1,
            }
        }
        assert_eq!((opened.len(), refused), (1000, 100));
        let again = table.open(&key(round * 10_000), now, TIMEOUT, 63, b"").unwrap();
        assert!(!again.is_new, "those that it has go on");
        table.release(again.id, now);
        let ids: HashSet<_> = opened.iter().map(|template| template.id.index()).collect();
        let listed: HashSet<_> = all(&table).iter().map(|template| template.key.client_network()).collect();
        assert_eq!((ids.len(), listed.len(), table.len()), (1000, 1000, 1000));
        opened.iter().for_each(|template| table.release(template.id, now));
        assert_eq!(sweep(&table, round * 1000 + 300, round * 1000 + 310), 1000);
        assert!(table.is_empty());
    }
}

#[test]
fn call_id_is_kept_for_people_and_cut() {
    let table = table(16);
    let long = [b'x'; 100];
    for (call_id, port) in [(&b"a84b4c76e66710@pc33.example.com"[..], 1), (&long, 2), (b"", 3)] {
        let hash = table.hash_call_id(call_id);
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        let key = TemplateKey::for_client([0; 4], 0, vip, port, Protocol::UDP).with_call_id(hash);
        assert!(table.open(&key, at(0), TIMEOUT, 1, call_id).unwrap().is_new);
        let (_, text) = table.read(0, u32::MAX).find(|(template, _)| template.key == key).unwrap();
        assert_eq!(text.unwrap().as_bytes(), &call_id[..call_id.len().min(63)]);
    }
    table.open(&key(1), at(0), TIMEOUT, 1, b"").unwrap();
    assert_eq!(table.read(0, u32::MAX).filter(|(_, text)| text.is_none()).count(), 1);
    assert_ne!(table.hash_call_id(b"a"), self::table(16).hash_call_id(b"a"), "keyed for each table");
}

#[test]
fn workers_shares_of_the_sweep_are_everything_once() {
    let table = table(1000);
    for number in 0..777 {
        let opened = table.open(&key(number), at(0), TIMEOUT, 1, b"").unwrap();
        table.release(opened.id, at(0));
    }
    let mut sweeps: Vec<_> = (0..5).map(|worker| TemplateSweep::new(worker, 5)).collect();
    let mut ended = [0; 5];
    for tick in at(300).0..at(309).0 {
        for (ended, sweep) in ended.iter_mut().zip(&mut sweeps) {
            let now = sweep.expire(&table, Ticks(tick));
            assert!(now <= 32, "bounded");
            *ended += now;
        }
    }
    assert_eq!(ended.iter().sum::<u32>(), 777);
    assert!(ended.iter().all(|&share| (155..=156).contains(&share)), "{ended:?}");
}

#[test]
fn keys_that_meet_in_one_bucket_of_one_table_do_not_in_another() {
    // An attacker who knew the seed of this table would fill a bucket of it, and no more than that.
    let (known, drawn) = (table(4096), table(4096));
    let probe = |number| known.open(&key(number), at(0), TIMEOUT, 1, b"").unwrap();
    let opened: Vec<_> = (0..4000).map(probe).collect();
    let crafted: Vec<_> = (0..known.bucket_bound())
        .map(|bucket| known.read(bucket, 1).map(|(template, _)| template.key).collect::<Vec<_>>())
        .max_by_key(Vec::len)
        .unwrap();
    assert!((6..=14).contains(&crafted.len()), "{} of 4000 templates in the fullest bucket", crafted.len());
    assert_eq!(opened.len(), all(&known).len());
    for key in &crafted {
        drawn.open(key, at(0), TIMEOUT, 1, b"").unwrap();
    }
    let most = (0..drawn.bucket_bound()).map(|bucket| drawn.read(bucket, 1).count()).max().unwrap();
    assert!(most <= 3, "{most} of {} meet again", crafted.len());
}

#[test]
fn threads_that_open_one_key_at_once_get_one_template() {
    let (table, barrier) = (table(4), Barrier::new(THREADS as usize));
    let results: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, barrier, results) = (&table, &barrier, &results);
            scope.spawn(move || {
                for round in 0..400 {
                    let now = at(round * 400);
                    barrier.wait();
                    let opened = table.open(&key(7), now, TIMEOUT, thread, b"").unwrap();
                    let packed = u64::from(opened.destination) << 32 | u64::from(opened.id.index()) << 1;
                    results[thread as usize].store(packed | u64::from(opened.is_new), Ordering::Relaxed);
                    barrier.wait();
                    let results: Vec<_> =
                        results.iter().map(|result| result.load(Ordering::Relaxed)).collect();
                    assert_eq!(results.iter().filter(|&result| result & 1 == 1).count(), 1, "one made it");
                    assert!(results.iter().all(|result| result >> 1 == results[0] >> 1), "{results:?}");
                    assert_eq!(all(table)[0].controlled, THREADS);
                    barrier.wait();
                    if round % 2 == 0 {
                        table.invalidate(opened.id);
                    }
                    table.release(opened.id, now);
                }
            });
        }
    });
    assert!(table.len() <= 1);
}

/// What a thread holds.
struct Held {
    number: u32,
    id: TemplateId,
}

#[test]
fn twelve_threads_of_everything_agree_on_each_key_and_leave_nothing_behind() {
    const KEYS: u32 = 24;
    let table = table(32);
    let clock = AtomicU32::new(0);
    // By key: how many hold it, and the destination that they were told.
    let agreed: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (table, clock, agreed) = (&table, &clock, &agreed);
                scope.spawn(move || {
                    let mut random = u64::from(thread) + 1;
                    let mut sweep = TemplateSweep::new(thread, THREADS);
                    let (mut held, mut ended): (Vec<Held>, u32) = (Vec::new(), 0);
                    for _ in 0..30_000 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let dice = (random >> 33) as u32;
                        // A clock that runs: most templates end soon after they are released.
                        let now = Ticks(clock.fetch_add(dice % 64, Ordering::Relaxed));
                        let number = dice / 64 % KEYS;
                        if dice % 5 < 2 && held.len() < 6 {
                            let timeout = TICKS_PER_SECOND;
                            let opened = match dice % 2 {
                                0 => table.hold(&key(number), now, timeout),
                                _ => table.open(&key(number), now, timeout, thread, b"").ok(),
                            };
                            if let Some(opened) = opened {
                                agree(&agreed[number as usize], number, opened.destination);
                                held.push(Held { number, id: opened.id });
                            }
                        } else if let Some(Held { number, id }) = held.pop() {
                            agreed[number as usize].fetch_sub(1 << 32, Ordering::AcqRel);
                            table.assure(id);
                            if is_invalidated(number) && dice.is_multiple_of(3) {
                                table.invalidate(id);
                            }
                            table.release(id, now);
                        }
                        ended += sweep.expire(table, now);
                    }
                    let now = Ticks(clock.load(Ordering::Relaxed));
                    for Held { number, id } in held {
                        agreed[number as usize].fetch_sub(1 << 32, Ordering::AcqRel);
                        table.release(id, now);
                    }
                    ended
                })
            })
            .collect();
        scope.spawn(|| {
            for _ in 0..2000 {
                for template in all(&table) {
                    assert!((0..KEYS).any(|number| template.key == key(number)));
                    assert!(template.destination < THREADS && template.controlled <= THREADS * 6);
                }
            }
        });
        workers.into_iter().map(|worker| worker.join().unwrap()).sum::<u32>()
    });
    assert!(ended > 1000, "{ended}: expiry took part");
    let now = clock.load(Ordering::Relaxed) / TICKS_PER_SECOND + 62;
    sweep(&table, now, now + 10);
    assert!(table.is_empty() && (0..THREADS).all(|destination| table.count(destination) == 0));
    assert_eq!(all(&table), []);
    // Every entry and every way is there again.
    assert!((0..32).all(|number| table.open(&key(number), at(0), TIMEOUT, 1, b"").is_ok()));
    assert_eq!(table.open(&key(32), at(0), TIMEOUT, 1, b""), Err(TemplateTableFull));
}

fn is_invalidated(number: u32) -> bool {
    number.is_multiple_of(4)
}

/// While somebody holds a key's template, everybody else is told the same destination, unless it was invalidated.
fn agree(agreed: &AtomicU64, number: u32, destination: u32) {
    let before = agreed
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |before| {
            Some((before & !0xffff_ffff | u64::from(destination)) + (1 << 32))
        })
        .unwrap();
    if before >> 32 > 0 && !is_invalidated(number) {
        assert_eq!(before as u32, destination, "key {number} has two templates");
    }
}
