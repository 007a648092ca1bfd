//! The table of fragmented packets against a model that is as simple as its rules, and under floods.

use std::net::Ipv4Addr;

use dataplane::clock::{TICKS_PER_SECOND, Ticks};
use dataplane::fragments::{Fate, First, FragmentKey, FragmentLimits, FragmentTable, Later, Piece};
use dataplane::memory::{MemoryFrame, MemoryPort, MemoryPortConfig};
use dataplane::port::FramePool;
use proptest::prelude::*;

const NOW: Ticks = Ticks(1000);
/// Ways of a bucket; a table of this many packets or fewer has one bucket.
const WAYS: usize = 8;

fn key(id: u32) -> FragmentKey {
    let [high, low, ..] = id.to_be_bytes();
    FragmentKey::v4(Ipv4Addr::new(198, 51, high, low), Ipv4Addr::new(192, 0, 2, 10), 17, id as u16)
}

fn seconds(seconds: u32) -> u32 {
    seconds * TICKS_PER_SECOND
}

fn first(length: u16) -> Piece {
    Piece { offset: 0, length, is_last: false }
}

fn middle(offset: u16, length: u16) -> Piece {
    Piece { offset, length, is_last: false }
}

fn last(offset: u16, length: u16) -> Piece {
    Piece { offset, length, is_last: true }
}

fn none<F>(_: F, fate: Fate) {
    panic!("a frame is given: {fate:?}");
}

/// A table of one bucket.
fn small() -> FragmentTable<u32, u32> {
    FragmentTable::new(FragmentLimits { capacity: 1, held: 6, held_per_packet: 2 })
}

/// What a fragment other than the first comes to, held where it may be: its target, nothing, or the frame. Those that gave way are appended to `gone`.
fn later(
    table: &mut FragmentTable<u32, u32>,
    id: u32,
    piece: Piece,
    now: Ticks,
    frame: u32,
    gone: &mut Vec<(u32, Fate)>,
) -> Result<Option<u32>, u32> {
    match table.on_later(&key(id), piece, now) {
        Later::Known(target) => Ok(Some(target)),
        Later::Refuse => Err(frame),
        Later::Hold => {
            table.hold(&key(id), piece, frame, now, |frame, fate| gone.push((frame, fate))).map(|()| None)
        }
    }
}

#[test]
fn first_fragment_tells_where_the_others_go() {
    let mut table = small();
    assert_eq!(table.on_first(&key(1), first(1480), 7, NOW, none), First::Learned);
    assert_eq!(table.on_later(&key(1), middle(1480, 1480), NOW), Later::Known(7));
    assert_eq!(table.on_later(&key(1), last(2960, 100), NOW), Later::Known(7));
    assert_eq!(table.on_later(&key(2), last(2960, 100), NOW), Later::Hold);
    assert_eq!((table.known(), table.held()), (1, 0));
}

#[test]
fn fragments_before_the_first_wait_for_it_and_go_in_the_order_they_came() {
    let (mut table, mut gone) = (small(), Vec::new());
    assert_eq!(later(&mut table, 1, last(2960, 100), NOW, 10, &mut gone), Ok(None));
    assert_eq!(later(&mut table, 1, middle(1480, 1480), NOW, 11, &mut gone), Ok(None));
    assert_eq!(later(&mut table, 1, middle(1480, 1480), NOW, 12, &mut gone), Err(12), "two a packet");
    assert_eq!(table.held(), 2);
    let learned = table.on_first(&key(1), first(1480), 7, NOW, |frame, fate| gone.push((frame, fate)));
    assert_eq!(learned, First::Learned);
    assert_eq!(gone, [(10, Fate::Forward), (11, Fate::Forward)]);
    assert_eq!(table.held(), 0);
}

#[test]
fn refused_first_fragment_is_remembered_and_takes_no_known_packets_place() {
    let (mut table, mut gone) = (small(), Vec::new());
    for id in 0..WAYS as u32 - 1 {
        assert_eq!(table.on_first(&key(id), first(1480), id, NOW, none), First::Learned);
    }
    for id in 100..200 {
        assert_eq!(table.on_refused(&key(id), first(1480), id, NOW, none), First::Learned);
        assert_eq!(table.on_later(&key(id), middle(1480, 8), NOW), Later::Known(id));
        assert_eq!(table.on_refused(&key(id), first(1480), id, NOW, none), First::Learned, "sent twice");
        assert_eq!(table.on_first(&key(id), first(1480), 1, NOW, none), First::Contradicts);
    }
    assert_eq!(table.known() as usize, WAYS);
    // It gives way to what is held, which does not to it.
    assert_eq!(later(&mut table, 300, middle(1480, 8), NOW, 30, &mut gone), Ok(None));
    assert_eq!(table.on_refused(&key(301), first(1480), 301, NOW, none), First::Learned);
    assert_eq!(table.on_later(&key(301), middle(1480, 8), NOW), Later::Hold, "nothing is remembered of it");
    for id in 0..WAYS as u32 - 1 {
        assert_eq!(table.on_later(&key(id), middle(1480, 8), NOW), Later::Known(id));
    }
    let learned = table.on_refused(&key(300), first(1480), 300, NOW, |frame, fate| gone.push((frame, fate)));
    assert_eq!((learned, &gone[..]), (First::Learned, &[(30, Fate::Forward)][..]));
    // Until it is over, or finished.
    assert_eq!(table.on_later(&key(300), last(1488, 8), NOW), Later::Known(300));
    assert_eq!(table.on_first(&key(300), first(8), 1, NOW, none), First::Learned);
    table.expire(NOW.after(seconds(31)), WAYS, none);
    assert_eq!((table.known(), table.held()), (0, 0));
}

#[test]
fn second_first_fragment_of_other_ports_changes_nothing() {
    let mut table = small();
    table.on_first(&key(1), first(1480), 7, NOW, none);
    assert_eq!(table.on_first(&key(1), first(1480), 8, NOW, none), First::Contradicts);
    assert_eq!(table.on_first(&key(1), first(1480), 7, NOW, none), First::Learned, "sent twice");
    assert_eq!(table.on_later(&key(1), middle(1480, 1480), NOW), Later::Known(7));
}

#[test]
fn identification_is_free_for_another_packet_as_soon_as_the_first_is_finished() {
    let mut table = small();
    table.on_first(&key(1), first(1480), 7, NOW, none);
    table.on_later(&key(1), last(1480, 20), NOW);
    assert_eq!(table.on_later(&key(1), last(1480, 20), NOW), Later::Known(7), "doubled on the way");
    assert_eq!(table.on_first(&key(1), first(1480), 8, NOW, none), First::Learned);
    assert_eq!(table.on_later(&key(1), last(1480, 20), NOW), Later::Known(8));
    // And a second later its fragments wait for a first again.
    let now = NOW.after(seconds(1));
    assert_eq!(table.on_later(&key(1), last(1480, 20), now), Later::Hold);
}

#[test]
fn doubled_first_and_last_fragments_finish_nothing() {
    let mut table = small();
    for _ in 0..3 {
        table.on_first(&key(1), first(1480), 7, NOW, none);
        table.on_later(&key(1), last(2960, 1480), NOW);
    }
    assert_eq!(table.on_first(&key(1), first(1480), 8, NOW, none), First::Contradicts);
    table.on_later(&key(1), middle(1480, 1480), NOW);
    assert_eq!(table.on_first(&key(1), first(1480), 8, NOW, none), First::Learned);
}

#[test]
fn packet_is_forgotten_30_seconds_after_its_first_sight_whatever_comes_meanwhile() {
    let (mut table, mut gone) = (small(), Vec::new());
    table.on_first(&key(1), first(8), 7, NOW, none);
    assert_eq!(later(&mut table, 2, middle(8, 8), NOW, 20, &mut gone), Ok(None));
    for second in 1..30 {
        let now = NOW.after(seconds(second));
        table.on_first(&key(1), first(8), 7, now, none);
        assert_eq!(table.on_later(&key(1), middle(8 * second as u16, 8), now), Later::Known(7));
        table.expire(now, 8, none);
    }
    assert_eq!(later(&mut table, 2, middle(16, 8), NOW.after(seconds(29)), 21, &mut gone), Ok(None));
    let now = NOW.after(seconds(30));
    assert_eq!(table.on_later(&key(1), middle(8, 8), now), Later::Hold);
    assert_eq!(later(&mut table, 2, middle(24, 8), now, 22, &mut gone), Ok(None));
    assert_eq!(gone, [(20, Fate::Expired), (21, Fate::Expired)], "a packet of its own from here on");
    table.expire(now, 8, none);
    assert_eq!((table.known(), table.held()), (0, 1));
}

#[test]
fn held_frames_expire_in_order_and_no_more_packets_a_call_than_asked_for() {
    let (mut table, mut gone) = (small(), Vec::new());
    for id in 1..=3 {
        let now = NOW.after(seconds(id));
        assert_eq!(later(&mut table, id, middle(8, 8), now, id, &mut gone), Ok(None));
    }
    table.expire(NOW.after(seconds(31) - 1), 8, none);
    table.expire(NOW.after(seconds(60)), 2, |frame, fate| gone.push((frame, fate)));
    assert_eq!(gone, [(1, Fate::Expired), (2, Fate::Expired)]);
    table.expire(NOW.after(seconds(60)), 2, |frame, fate| gone.push((frame, fate)));
    assert_eq!(gone[2..], [(3, Fate::Expired)]);
    assert_eq!(table.held(), 0);
}

#[test]
fn refused_first_fragment_frees_what_waited_for_it() {
    let (mut table, mut gone) = (small(), Vec::new());
    assert_eq!(later(&mut table, 1, middle(8, 8), NOW, 1, &mut gone), Ok(None));
    table.forget(&key(2), NOW, none);
    table.forget(&key(1), NOW, |frame, fate| gone.push((frame, fate)));
    assert_eq!((gone, table.held()), (vec![(1, Fate::Refused)], 0));
}

#[test]
fn frame_goes_back_where_its_burst_took_the_room_or_brought_the_first() {
    let mut table = FragmentTable::new(FragmentLimits { held: 1, held_per_packet: 4, capacity: 1 });
    let piece = middle(8, 8);
    assert_eq!(table.on_later(&key(1), piece, NOW), Later::Hold);
    assert_eq!(table.on_later(&key(2), piece, NOW), Later::Hold);
    table.on_first(&key(2), first(8), 7, NOW, none);
    assert_eq!(table.hold(&key(2), piece, 20, NOW, none), Err(20));
    assert_eq!(table.hold(&key(1), piece, 10, NOW, none), Ok(()));
    assert_eq!(table.hold(&key(1), piece, 11, NOW, none), Err(11), "the only place has its own frame");
    table.drain(|frame, _| assert_eq!(frame, 10));
    assert_eq!(table.held(), 0);
}

#[test]
fn table_that_holds_nothing_refuses_and_still_learns() {
    for (held, held_per_packet) in [(0, 4), (4, 0)] {
        let mut table = FragmentTable::new(FragmentLimits { capacity: 8, held, held_per_packet });
        assert_eq!(table.on_later(&key(1), middle(8, 8), NOW), Later::Refuse);
        assert_eq!(table.hold(&key(1), middle(8, 8), 1, NOW, none), Err(1));
        table.on_first(&key(1), first(8), 7, NOW, none);
        assert_eq!(table.on_later(&key(1), middle(8, 8), NOW), Later::Known(7));
    }
}

// ------------------------------------------------------------------------------------------------- model

#[derive(Clone, Debug)]
enum Step {
    First { id: u32, length: u16, target: u32 },
    Later { id: u32, piece: Piece },
    Forget { id: u32 },
    Wait { ticks: u32 },
    Expire { most: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let piece = (1_u16..4, 1_u16..3, any::<bool>()).prop_map(|(offset, length, is_last)| Piece {
        offset: offset * 8,
        length: length * 8,
        is_last,
    });
    let step = prop_oneof![
        3 => (0_u32..14, 1_u16..3, 0_u32..2)
            .prop_map(|(id, length, target)| Step::First { id, length: length * 8, target }),
        5 => (0_u32..14, piece).prop_map(|(id, piece)| Step::Later { id, piece }),
        1 => (0_u32..14).prop_map(|id| Step::Forget { id }),
        1 => prop_oneof![1_u32..300, 2000_u32..9000].prop_map(|ticks| Step::Wait { ticks }),
        1 => (0_usize..4).prop_map(|most| Step::Expire { most }),
    ];
    prop::collection::vec(step, 1..120)
}

/// One bucket, way by way.
struct Model {
    limits: FragmentLimits,
    ways: Vec<Option<Modelled>>,
    now: Ticks,
    /// Frames given, since looked at last.
    gone: Vec<(u32, Fate)>,
    born: u64,
}

#[derive(Default)]
struct Modelled {
    id: u32,
    /// None while it is held.
    target: Option<u32>,
    is_finished: bool,
    seen: u32,
    length: Option<u32>,
    frames: Vec<u32>,
    left: u32,
    born: u64,
}

impl Modelled {
    fn count(&mut self, piece: Piece) {
        if piece.is_last && self.length.is_some() {
            return;
        }
        if piece.is_last {
            self.length = Some(u32::from(piece.offset + piece.length));
        }
        self.seen += u32::from(piece.length);
        self.finish();
    }

    fn finish(&mut self) {
        if self.target.is_some() && !self.is_finished && self.length.is_some_and(|length| self.seen >= length)
        {
            self.is_finished = true;
            self.left = self.left.min(seconds(1));
        }
    }

    /// In the order in which they give way.
    fn rank(&self) -> (u32, u32) {
        match self {
            _ if self.left == 0 => (0, 0),
            _ if self.is_finished => (1, self.left),
            Modelled { target: None, .. } => (2, self.left),
            _ => (3, self.left),
        }
    }
}

impl Model {
    fn new(limits: FragmentLimits) -> Model {
        let ways = std::iter::repeat_with(|| None).take(WAYS).collect();
        Model { limits, ways, now: NOW, gone: Vec::new(), born: 0 }
    }

    fn wait(&mut self, ticks: u32) {
        self.now = self.now.after(ticks);
        for packet in self.ways.iter_mut().flatten() {
            packet.left = packet.left.saturating_sub(ticks);
        }
    }

    fn clear(&mut self, way: usize, fate: Fate) {
        let packet = self.ways[way].take();
        self.gone.extend(packet.into_iter().flat_map(|packet| packet.frames).map(|frame| (frame, fate)));
    }

    /// What is over gives its frames back when it is asked for.
    fn find(&mut self, id: u32) -> Option<usize> {
        let is_id = |packet: &Option<Modelled>| packet.as_ref().is_some_and(|packet| packet.id == id);
        let way = self.ways.iter().position(is_id)?;
        if self.ways[way].as_ref().is_some_and(|packet| packet.left == 0) {
            self.clear(way, Fate::Expired);
            return None;
        }
        Some(way)
    }

    fn room(&self, is_first: bool) -> Option<usize> {
        let rank = |way: &usize| self.ways[*way].as_ref().map_or((0, 0), Modelled::rank);
        let way = (0..WAYS).min_by_key(rank)?;
        (is_first || rank(&way).0 < 3).then_some(way)
    }

    fn take(&mut self, way: usize, id: u32) -> &mut Modelled {
        let is_over = self.ways[way].as_ref().is_none_or(|packet| packet.left == 0);
        self.clear(way, if is_over { Fate::Expired } else { Fate::Evicted });
        self.born += 1;
        self.ways[way].insert(Modelled { id, left: seconds(30), born: self.born, ..Modelled::default() })
    }

    fn held(&self) -> usize {
        self.ways.iter().flatten().map(|packet| packet.frames.len()).sum()
    }

    fn oldest_held(&self) -> Option<usize> {
        let is_held = |way: &usize| self.ways[*way].as_ref().is_some_and(|packet| packet.target.is_none());
        (0..WAYS).filter(is_held).min_by_key(|&way| self.ways[way].as_ref().map(|packet| packet.born))
    }

    fn first(&mut self, id: u32, length: u16, target: u32) -> First {
        if let Some(way) = self.find(id) {
            let packet = self.ways[way].as_mut().unwrap();
            match packet.target {
                Some(known) if !packet.is_finished => {
                    return if known == target { First::Learned } else { First::Contradicts };
                }
                None => {
                    packet.target = Some(target);
                    let frames = std::mem::take(&mut packet.frames);
                    packet.count(first(length));
                    self.gone.extend(frames.into_iter().map(|frame| (frame, Fate::Forward)));
                    return First::Learned;
                }
                Some(_) => self.clear(way, Fate::Evicted),
            }
        }
        let way = self.room(true).unwrap();
        let packet = self.take(way, id);
        packet.target = Some(target);
        packet.count(first(length));
        First::Learned
    }

    fn later(&mut self, id: u32, piece: Piece, frame: u32) -> Result<Option<u32>, u32> {
        let limits = self.limits;
        let way = match self.find(id) {
            Some(way) => {
                let packet = self.ways[way].as_mut().unwrap();
                if packet.target.is_some() {
                    packet.count(piece);
                    return Ok(packet.target);
                }
                if packet.frames.len() as u32 == limits.held_per_packet {
                    return Err(frame);
                }
                way
            }
            None => {
                let way = self.room(false).ok_or(frame)?;
                self.take(way, id);
                way
            }
        };
        if self.held() as u32 == limits.held {
            let oldest = self.oldest_held().unwrap();
            if oldest == way {
                return Err(frame);
            }
            self.clear(oldest, Fate::Evicted);
        }
        let packet = self.ways[way].as_mut().unwrap();
        packet.frames.push(frame);
        packet.count(piece);
        Ok(None)
    }

    fn forget(&mut self, id: u32) {
        if let Some(way) = self.find(id)
            && self.ways[way].as_ref().is_some_and(|packet| packet.target.is_none())
        {
            self.clear(way, Fate::Refused);
        }
    }

    fn expire(&mut self, most: usize) {
        for _ in 0..most {
            match self.oldest_held() {
                Some(way) if self.ways[way].as_ref().is_some_and(|packet| packet.left == 0) => {
                    self.clear(way, Fate::Expired);
                }
                _ => break,
            }
        }
        for packet in &mut self.ways {
            packet.take_if(|packet| packet.target.is_some() && packet.left == 0);
        }
    }

    fn known(&self) -> usize {
        self.ways.iter().flatten().filter(|packet| packet.target.is_some()).count()
    }
}

fn compare(steps: &[Step], limits: FragmentLimits) {
    let mut table = FragmentTable::new(limits);
    let mut model = Model::new(limits);
    let mut gone = Vec::new();
    let mut frames_made = 0;
    let mut frames_left = 0;
    for step in steps {
        let now = model.now;
        match *step {
            Step::First { id, length, target } => {
                let give = |frame, fate| gone.push((frame, fate));
                let learned = table.on_first(&key(id), first(length), target, now, give);
                assert_eq!(learned, model.first(id, length, target), "{step:?}");
            }
            Step::Later { id, piece } => {
                let frame = frames_made;
                frames_made += 1;
                let done = later(&mut table, id, piece, now, frame, &mut gone);
                assert_eq!(done, model.later(id, piece, frame), "{step:?}");
                frames_left += u32::from(done != Ok(None));
            }
            Step::Forget { id } => {
                table.forget(&key(id), now, |frame, fate| gone.push((frame, fate)));
                model.forget(id);
            }
            Step::Wait { ticks } => model.wait(ticks),
            Step::Expire { most } => {
                table.expire(now, most, |frame, fate| gone.push((frame, fate)));
                model.expire(most);
                assert_eq!(table.known() as usize, model.known(), "{step:?}");
            }
        }
        frames_left += gone.len() as u32;
        assert_eq!(std::mem::take(&mut gone), std::mem::take(&mut model.gone), "{step:?}");
        assert_eq!(table.held() as usize, model.held(), "{step:?}");
    }
    table.drain(|_, _| frames_left += 1);
    assert_eq!((table.held(), frames_left), (0, frames_made), "every frame came back once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn table_does_what_the_model_does(steps in steps(), held in 1_u32..7, held_per_packet in 1_u32..4) {
        compare(&steps, FragmentLimits { capacity: 4, held, held_per_packet });
    }
}

// ------------------------------------------------------------------------------------------------- floods

#[test]
fn flood_of_fragments_without_a_first_takes_no_memory_and_no_known_packets_place() {
    const FLOOD: u32 = 10_000_000;
    let limits = FragmentLimits::default();
    let mut table = FragmentTable::<u32, u32>::new(limits);
    // Of so many, some meet in a bucket of eight: those count that are known before the flood.
    for id in 0..limits.capacity {
        table.on_first(&key(id), first(1480), id, NOW, none);
    }
    let known = |table: &mut FragmentTable<u32, u32>, now| {
        let is_known = |id: &u32| table.on_later(&key(*id), middle(1480, 8), now) == Later::Known(*id);
        (0..limits.capacity).filter(is_known).count()
    };
    let before = known(&mut table, NOW);
    assert!(before > 4000, "{before} of 4096");
    let (mut gone, mut refused) = (0_u32, 0_u32);
    let memory = allocation_counter::measure(|| {
        for number in 0..FLOOD {
            let id = 0x4000_0000 + number;
            // All within 25 s.
            let now = NOW.after(number / (FLOOD / seconds(25)));
            match table.on_later(&key(id), middle(1480, 8), now) {
                Later::Hold => {
                    table.hold(&key(id), middle(1480, 8), number, now, |_, _| gone += 1).unwrap();
                }
                Later::Refuse => refused += 1,
                Later::Known(_) => panic!("known: {id}"),
            }
            table.expire(now, 1, |_, _| gone += 1);
        }
    });
    assert_eq!(memory.count_total, 0);
    assert_eq!(table.held(), limits.held);
    assert_eq!(gone + refused + table.held(), FLOOD);
    assert_eq!(known(&mut table, NOW.after(seconds(26))), before);
}

#[test]
fn flood_of_first_fragments_takes_no_memory_and_the_oldest_first() {
    const FLOOD: u32 = 10_000_000;
    let limits = FragmentLimits::default();
    let mut table = FragmentTable::<u32, u32>::new(limits);
    let memory = allocation_counter::measure(|| {
        for id in 0..FLOOD {
            let now = NOW.after(id / (FLOOD / seconds(25)));
            table.on_first(&key(id), first(1480), id, now, none);
            table.expire(now, 1, none);
        }
    });
    assert_eq!(memory.count_total, 0);
    assert!(table.known() <= 2 * limits.capacity);
    let now = NOW.after(seconds(25));
    let newest = FLOOD - limits.capacity / 4..FLOOD;
    let known =
        newest.filter(|id| table.on_later(&key(*id), middle(1480, 8), now) == Later::Known(*id)).count();
    assert!(known > 1000, "{known} of the newest 1024");
}

#[test]
fn packets_that_finish_give_way_before_those_that_wait() {
    let limits = FragmentLimits::default();
    let mut table = FragmentTable::<u32, u32>::new(limits);
    let waiting: Vec<u32> = (0..200).collect();
    for &id in &waiting {
        table.on_first(&key(id), first(1480), id, NOW, none);
    }
    // A second's worth of DNS answers, twice as many as the table has ways.
    for id in 1000..1000 + 4 * limits.capacity {
        table.on_first(&key(id), first(1480), id, NOW, none);
        assert_eq!(table.on_later(&key(id), last(1480, 100), NOW), Later::Known(id));
    }
    for id in waiting {
        assert_eq!(table.on_later(&key(id), middle(1480, 8), NOW), Later::Known(id));
    }
}

#[test]
fn every_buffer_of_a_held_frame_comes_back() {
    let (port, _queues) = MemoryPort::new(MemoryPortConfig { frames: 400, ..MemoryPortConfig::default() });
    let pool = port.pool();
    let mut table = FragmentTable::<u32, MemoryFrame>::new(FragmentLimits::default());
    for id in 0..1000 {
        let frame = pool.frame(&[0; 60]).unwrap();
        assert_eq!(table.on_later(&key(id), last(8, 8), NOW), Later::Hold);
        table.hold(&key(id), last(8, 8), frame, NOW, |frame, _| drop(frame)).unwrap();
    }
    assert_eq!(pool.capacity() - pool.available(), 256);
    for id in 900..950 {
        table.on_first(&key(id), first(8), 7, NOW, |frame, fate| {
            assert_eq!(fate, Fate::Forward);
            drop(frame);
        });
    }
    table.expire(NOW.after(seconds(30)), 100, |frame, _| drop(frame));
    assert_eq!(pool.capacity() - pool.available(), 106);
    drop(table);
    assert_eq!(pool.available(), pool.capacity());
}
