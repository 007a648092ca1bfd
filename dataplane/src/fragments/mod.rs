//! Where the fragments of a packet go: learned from the first fragment, which alone has the ports, without putting the
//! packet together. One table a worker, fixed capacity, allocated at start; O(1) whatever comes.
//!
//! A packet is **held** while only other fragments than its first have come: they wait in an [`Arena`], few a packet and a
//! bounded number in all. It is **known** from its first fragment on, and **finished** when as many bytes have come as its
//! last fragment says.
//!
//! | what comes | for a packet that is | does |
//! |---|---|---|
//! | first fragment | new, held, finished | known by its target, or refused; what was held goes there too |
//! | | known or refused, same target | nothing: it was sent twice |
//! | | known or refused, another target | [`First::Contradicts`]: an attack, to be dropped. The target stays |
//! | other fragment | known, refused, finished | goes to the target |
//! | | new, held | is held, within the bounds |
//!
//! A packet is forgotten 30 s after its first sight ([`LIFETIME_SECONDS`]), never later; 1 s after it finished, for what the
//! network doubled, because identifications come round again.
//!
//! What is full gives way: in a bucket, what is over or finished goes first, then what is refused, then the oldest held
//! packet, and for a first fragment that goes somewhere at last the oldest known one. So neither first fragments that go
//! nowhere nor fragments whose first never comes, however many, take a known packet's place, and these hold no more frames
//! than there are places; with those full, the packet held longest is given up. Not decided here, by RFC 5722 and 1858:
//! nothing is reassembled, so overlaps are the real server's to refuse, as without a director.
//!
//! Invariants:
//! - A key is in its bucket only, and in one way of those that are not over.
//! - A way is in the list of the held, in order of age, exactly while its state is held; only then has it frames.

mod arena;
mod key;

use self::arena::{Arena, Chain};
pub use self::key::FragmentKey;
use crate::clock::{TICKS_PER_SECOND, Ticks};
use crate::connection::FlowSeed;
use crate::dpdk::lanes::equal_lanes;

/// How long a packet is remembered from its first fragment seen: Linux's `ipfrag_time`, which IPVS's reassembly has.
pub const LIFETIME_SECONDS: u32 = 30;
/// How long after it finished.
const AFTERLIFE_SECONDS: u32 = 1;

/// Largest capacity.
pub const FRAGMENT_CAPACITY_MAX: u32 = 1 << 20;

const WAYS: usize = 8;
/// Packets for each bucket in a full table: half its ways, so that hardly a bucket overflows before the table does.
const PACKETS_PER_BUCKET: usize = 4;

/// Index of no way.
const NONE: u32 = u32::MAX;

/// How large a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Packets known or held at once, 1 to [`FRAGMENT_CAPACITY_MAX`] (more is cut to that).
    pub capacity: u32,
    /// Frames held for packets whose first fragment has not come, all together.
    pub held: u32,
    /// Frames held for one packet.
    pub held_per_packet: u32,
}

impl Default for FragmentLimits {
    /// All fragments of one packet of 65,535 bytes at an MTU of 1,280 bytes may come before its first.
    fn default() -> Self {
        FragmentLimits { capacity: 4096, held: 256, held_per_packet: 64 }
    }
}

/// Which part of its packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes of the packet's payload (of the fragmentable part).
    pub offset: u16,
    /// How long it is, in bytes.
    pub length: u16,
    /// No more fragments follow it.
    pub is_last: bool,
}

/// What becomes of a first fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It goes to its target, and so do the others from now on.
    Learned,
    /// An earlier first fragment of the packet named another target, which stays: drop it.
    Contradicts,
}

/// What becomes of a fragment that is not the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later<T> {
    /// It goes where the first went.
    Known(T),
    /// The first has not come: hand it to [`FragmentTable::hold`].
    Hold,
    /// The first has not come, and there is no room to wait for it: drop it.
    Refuse,
}

/// What becomes of a frame that was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The first fragment came: it goes where that goes.
    Forward,
    /// The first fragment did not come in time: drop it.
    Expired,
    /// Another packet needed the place: drop it.
    Evicted,
    /// The first fragment was refused: drop it.
    Refused,
}

/// What a worker knows of fragmented packets. `T` says where one goes.
#[derive(Debug)]
pub struct FragmentTable<T, F> {
    seed: FlowSeed,
    buckets: Box<[Bucket]>,
    /// [`WAYS`] for each bucket.
    packets: Box<[Packet<T>]>,
    arena: Arena<F>,
    held_per_packet: u32,
    /// Ends of the list of held packets by age.
    oldest: u32,
    newest: u32,
    /// Packets known or finished, those over and not yet swept as well.
    known: u32,
    /// The bucket to be swept next.
    sweep: usize,
}

/// What is looked at of all ways, in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Bucket {
    tags: [u16; WAYS],
    states: [State; WAYS],
    expires: [Ticks; WAYS],
}

impl Bucket {
    const EMPTY: Bucket = Bucket { tags: [0; WAYS], states: [State::Free; WAYS], expires: [Ticks(0); WAYS] };
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// In the order in which they give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum State {
    Free,
    Finished,
    /// Known, and goes nowhere.
    Refused,
    Held,
    Known,
}

#[derive(Clone, Copy, Debug)]
struct Packet<T> {
    key: FragmentKey,
    target: Option<T>,
    /// Payload bytes that have come.
    seen: u32,
    /// Payload bytes of the packet, known from its last fragment on; 0 before.
    length: u32,
    frames: Chain,
    older: u32,
    newer: u32,
}

impl<T> Packet<T> {
    const EMPTY: Packet<T> = Packet {
        key: FragmentKey::EMPTY,
        target: None,
        seen: 0,
        length: 0,
        frames: Chain::EMPTY,
        older: NONE,
        newer: NONE,
    };

    /// A last fragment counts once. One in the middle that was doubled counts twice and may end the packet early; what is
    /// then still to come has [`AFTERLIFE_SECONDS`].
    fn count(&mut self, piece: Piece) {
        if piece.is_last {
            if self.length != 0 {
                return;
            }
            self.length = u32::from(piece.offset) + u32::from(piece.length);
        }
        self.seen = self.seen.saturating_add(u32::from(piece.length));
    }

    fn is_complete(&self) -> bool {
        self.length != 0 && self.seen >= self.length
    }
}

/// A key's place in the table: its bucket, and what its tag is there.
#[derive(Clone, Copy)]
struct Home {
    bucket: usize,
    tag: u16,
}

/// A way of a bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    bucket: usize,
    way: usize,
}

impl Way {
    fn of(index: u32) -> Way {
        Way { bucket: index as usize / WAYS, way: index as usize % WAYS }
    }

    fn index(self) -> usize {
        self.bucket * WAYS + self.way
    }
}

impl<T: Copy + PartialEq, F> FragmentTable<T, F> {
    /// An empty table.
    pub fn new(limits: FragmentLimits) -> FragmentTable<T, F> {
        let capacity = limits.capacity.clamp(1, FRAGMENT_CAPACITY_MAX) as usize;
        let buckets = capacity.div_ceil(PACKETS_PER_BUCKET);
        FragmentTable {
            seed: FlowSeed::random(),
            buckets: vec![Bucket::EMPTY; buckets].into_boxed_slice(),
            packets: vec![Packet::EMPTY; buckets * WAYS].into_boxed_slice(),
            arena: Arena::new(limits.held.min(FRAGMENT_CAPACITY_MAX)),
            held_per_packet: limits.held_per_packet,
            oldest: NONE,
            newest: NONE,
            known: 0,
            sweep: 0,
        }
    }

    /// Frames held now.
    pub fn held(&self) -> u32 {
        self.arena.held()
    }

    /// Packets whose first fragment has come, those as well that are over and wait for [`FragmentTable::expire`].
    pub fn known(&self) -> u32 {
        self.known
    }

    /// A first fragment of this target came. `give` gets what was held for its packet ([`Fate::Forward`], in the order of
    /// arrival), and what had to give way.
    pub fn on_first(
        &mut self,
        key: &FragmentKey,
        piece: Piece,
        target: T,
        now: Ticks,
        give: impl FnMut(F, Fate),
    ) -> First {
        self.on_first_of(State::Known, key, piece, target, now, give)
    }

    /// A first fragment came that goes nowhere; `target` says why.
    pub fn on_refused(
        &mut self,
        key: &FragmentKey,
        piece: Piece,
        target: T,
        now: Ticks,
        give: impl FnMut(F, Fate),
    ) -> First {
        self.on_first_of(State::Refused, key, piece, target, now, give)
    }

    fn on_first_of(
        &mut self,
        state: State,
        key: &FragmentKey,
        piece: Piece,
        target: T,
        now: Ticks,
        mut give: impl FnMut(F, Fate),
    ) -> First {
        let home = self.home(key);
        match self.find_timely(key, home, now, &mut give) {
            Some((way, State::Known | State::Refused)) => {
                let known = self.packet(way).and_then(|packet| packet.target);
                return if known == Some(target) { First::Learned } else { First::Contradicts };
            }
            Some((way, State::Held)) => {
                self.unlink(way);
                self.release(way, Fate::Forward, &mut give);
                self.learn(way, state, piece, target, now);
                return First::Learned;
            }
            // Finished: this is another packet of the same identification.
            Some((way, _)) => self.clear(way, Fate::Evicted, &mut give),
            None => {}
        }
        if let Some(way) = self.room(home, state, now) {
            self.take(way, home, key, now, &mut give);
            self.learn(way, state, piece, target, now);
        }
        First::Learned
    }

    /// A fragment that is not the first came.
    pub fn on_later(&mut self, key: &FragmentKey, piece: Piece, now: Ticks) -> Later<T> {
        let home = self.home(key);
        match self.find(key, home, now) {
            // Held too long: what it is now, `hold` finds out.
            Some((way, State::Held)) if self.is_over(way, now) => Later::Hold,
            Some((way, State::Held)) => {
                let held = self.packet(way).map_or(0, |packet| packet.frames.length());
                if held < self.held_per_packet { Later::Hold } else { Later::Refuse }
            }
            Some((way, _)) => {
                let Some(packet) = self.packet_mut(way) else { return Later::Refuse };
                packet.count(piece);
                let target = packet.target;
                self.finish_if_complete(way, now);
                target.map_or(Later::Refuse, Later::Known)
            }
            None if self.held_per_packet == 0 || self.arena.capacity() == 0 => Later::Refuse,
            None => self.room(home, State::Held, now).map_or(Later::Refuse, |_| Later::Hold),
        }
    }

    /// Holds the frame of a fragment for which [`Later::Hold`] was the answer, or gives it back where meanwhile others of
    /// the burst have taken the room, or the first has come. `give` gets what had to give way.
    pub fn hold(
        &mut self,
        key: &FragmentKey,
        piece: Piece,
        frame: F,
        now: Ticks,
        mut give: impl FnMut(F, Fate),
    ) -> Result<(), F> {
        let home = self.home(key);
        let way = match self.find_timely(key, home, now, &mut give) {
            Some((way, State::Held)) => way,
            Some(_) => return Err(frame),
            None => match self.room(home, State::Held, now) {
                Some(way) if self.held_per_packet > 0 && self.arena.capacity() > 0 => {
                    self.take(way, home, key, now, &mut give);
                    self.set(way, State::Held);
                    self.link(way);
                    way
                }
                _ => return Err(frame),
            },
        };
        if self.arena.held() == self.arena.capacity() {
            // The only one may be the packet itself.
            if Way::of(self.oldest) == way {
                return Err(frame);
            }
            self.clear(Way::of(self.oldest), Fate::Evicted, &mut give);
        }
        let (limit, arena) = (self.held_per_packet, &mut self.arena);
        match self.packets.get_mut(way.index()) {
            Some(packet) if packet.frames.length() < limit => {
                arena.push(&mut packet.frames, frame)?;
                packet.count(piece);
                Ok(())
            }
            _ => Err(frame),
        }
    }

    /// The first fragment of a packet was refused: its other fragments are nobody's. `give` gets those held.
    pub fn forget(&mut self, key: &FragmentKey, now: Ticks, mut give: impl FnMut(F, Fate)) {
        if let Some((way, State::Held)) = self.find_timely(key, self.home(key), now, &mut give) {
            self.clear(way, Fate::Refused, &mut give);
        }
    }

    /// Gives up what has been held too long, `most` packets at most, and sweeps the next bucket. Called every round.
    pub fn expire(&mut self, now: Ticks, most: usize, mut give: impl FnMut(F, Fate)) {
        for _ in 0..most {
            let way = Way::of(self.oldest);
            if !self.is_over(way, now) {
                break;
            }
            self.clear(way, Fate::Expired, &mut give);
        }
        // The held have their turn above, in order of age.
        let bucket = self.sweep;
        for way in (0..WAYS).map(|way| Way { bucket, way }) {
            let is_known = |(state, _)| matches!(state, State::Known | State::Refused | State::Finished);
            if self.state(way).is_some_and(is_known) && self.is_over(way, now) {
                self.clear(way, Fate::Expired, &mut give);
            }
        }
        self.sweep = if self.sweep + 1 < self.buckets.len() { self.sweep + 1 } else { 0 };
    }

    /// Gives back every frame held, when the worker ends.
    pub fn drain(&mut self, mut give: impl FnMut(F, Fate)) {
        while self.state(Way::of(self.oldest)).is_some() {
            self.clear(Way::of(self.oldest), Fate::Expired, &mut give);
        }
    }

    #[inline]
    fn home(&self, key: &FragmentKey) -> Home {
        let hash = key.hash(&self.seed);
        // The high half chooses the bucket, the low one tells its packets apart.
        let bucket = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        Home { bucket: bucket as usize, tag: hash as u16 }
    }

    /// As [`FragmentTable::find`], where what is held for the key beyond its time is given up first.
    fn find_timely(
        &mut self,
        key: &FragmentKey,
        home: Home,
        now: Ticks,
        give: &mut impl FnMut(F, Fate),
    ) -> Option<(Way, State)> {
        let (way, state) = self.find(key, home, now)?;
        if self.is_over(way, now) {
            self.clear(way, Fate::Expired, give);
            return None;
        }
        Some((way, state))
    }

    /// The way of a packet that is not over. One held beyond its time is found until its frames are given back.
    fn find(&self, key: &FragmentKey, home: Home, now: Ticks) -> Option<(Way, State)> {
        let bucket = self.buckets.get(home.bucket)?;
        let mut equal = equal_lanes(&bucket.tags, home.tag);
        while equal != 0 {
            let way = Way { bucket: home.bucket, way: equal.trailing_zeros() as usize / 2 };
            equal &= equal - 1;
            let Some((state, _)) = self.state(way) else { continue };
            let is_gone = state == State::Free || state != State::Held && self.is_over(way, now);
            if !is_gone && self.packet(way).is_some_and(|packet| packet.key == *key) {
                return Some((way, state));
            }
        }
        None
    }

    /// The way of the bucket that gives way to a packet of state `state`.
    fn room(&self, home: Home, state: State, now: Ticks) -> Option<Way> {
        let bucket = self.buckets.get(home.bucket)?;
        let rank = |(&state, &expires): (&State, &Ticks)| {
            // What is over is as good as free, whatever it was.
            let is_free = state == State::Free || expires.is_past(now);
            if is_free { (State::Free, 0) } else { (state, expires.since(now)) }
        };
        let ways = bucket.states.iter().zip(&bucket.expires).map(rank).enumerate();
        let (way, (least, _)) = ways.min_by_key(|&(_, rank)| rank)?;
        (least <= state).then_some(Way { bucket: home.bucket, way })
    }

    /// Makes a way the key's, for a packet seen first now.
    fn take(&mut self, way: Way, home: Home, key: &FragmentKey, now: Ticks, give: &mut impl FnMut(F, Fate)) {
        let fate = if self.is_over(way, now) { Fate::Expired } else { Fate::Evicted };
        self.clear(way, fate, give);
        if let Some(packet) = self.packet_mut(way) {
            *packet = Packet { key: *key, ..Packet::EMPTY };
        }
        let Some(bucket) = self.buckets.get_mut(way.bucket) else { return };
        if let (Some(tag), Some(expires)) = (bucket.tags.get_mut(way.way), bucket.expires.get_mut(way.way)) {
            *tag = home.tag;
            *expires = now.after(LIFETIME_SECONDS * TICKS_PER_SECOND);
        }
    }

    /// From now on the packet goes to `target`.
    fn learn(&mut self, way: Way, state: State, piece: Piece, target: T, now: Ticks) {
        if let Some(packet) = self.packet_mut(way) {
            packet.target = Some(target);
            packet.count(piece);
        }
        self.set(way, state);
        self.known += 1;
        self.finish_if_complete(way, now);
    }

    fn finish_if_complete(&mut self, way: Way, now: Ticks) {
        if !self.packet(way).is_some_and(Packet::is_complete) {
            return;
        }
        let Some(bucket) = self.buckets.get_mut(way.bucket) else { return };
        let (state, expires) = (bucket.states.get_mut(way.way), bucket.expires.get_mut(way.way));
        if let (Some(state @ (State::Known | State::Refused)), Some(expires)) = (state, expires) {
            *state = State::Finished;
            let afterlife = now.after(AFTERLIFE_SECONDS * TICKS_PER_SECOND);
            if !expires.is_past(afterlife) {
                *expires = afterlife;
            }
        }
    }

    /// Frees a way, whatever it is.
    fn clear(&mut self, way: Way, fate: Fate, give: &mut impl FnMut(F, Fate)) {
        match self.state(way) {
            Some((State::Held, _)) => {
                self.unlink(way);
                self.release(way, fate, give);
            }
            Some((State::Known | State::Refused | State::Finished, _)) => self.known -= 1,
            _ => {}
        }
        self.set(way, State::Free);
    }

    /// Gives the frames that are held for a packet.
    fn release(&mut self, way: Way, fate: Fate, give: &mut impl FnMut(F, Fate)) {
        let Some(packet) = self.packets.get_mut(way.index()) else { return };
        while let Some(frame) = self.arena.pop(&mut packet.frames) {
            give(frame, fate);
        }
    }

    /// Puts a packet at the young end of the list of the held.
    fn link(&mut self, way: Way) {
        let (index, older) = (way.index() as u32, self.newest);
        if let Some(packet) = self.packet_mut(way) {
            (packet.older, packet.newer) = (older, NONE);
        }
        match self.packets.get_mut(older as usize) {
            Some(packet) => packet.newer = index,
            None => self.oldest = index,
        }
        self.newest = index;
    }

    fn unlink(&mut self, way: Way) {
        let Some(&Packet { older, newer, .. }) = self.packet(way) else { return };
        match self.packets.get_mut(older as usize) {
            Some(packet) => packet.newer = newer,
            None => self.oldest = newer,
        }
        match self.packets.get_mut(newer as usize) {
            Some(packet) => packet.older = older,
            None => self.newest = older,
        }
    }

    fn packet(&self, way: Way) -> Option<&Packet<T>> {
        self.packets.get(way.index())
    }

    fn packet_mut(&mut self, way: Way) -> Option<&mut Packet<T>> {
        self.packets.get_mut(way.index())
    }

    fn state(&self, way: Way) -> Option<(State, Ticks)> {
        let bucket = self.buckets.get(way.bucket)?;
        Some((*bucket.states.get(way.way)?, *bucket.expires.get(way.way)?))
    }

    fn is_over(&self, way: Way, now: Ticks) -> bool {
        self.state(way).is_some_and(|(_, expires)| expires.is_past(now))
    }

    fn set(&mut self, way: Way, state: State) {
        let bucket = self.buckets.get_mut(way.bucket);
        if let Some(place) = bucket.and_then(|bucket| bucket.states.get_mut(way.way)) {
            *place = state;
        }
    }
}
