//! The templates of all workers: one table, fixed capacity, allocated at start, without locks.
//!
//! Written when a connection opens or closes, never for another packet. A bucket names the templates of the keys that
//! hash to it ([`super::bucket`]), half as many buckets as templates, so that of 14 ways a full table uses two on the
//! average; the entries ([`super::entry`]) come from one [`super::free_list`]. A lookup looks at one bucket, whatever
//! the keys: at most 14 tags, of which one in 256 that is not the key's leads to another line.
//!
//! Invariants:
//! - Two live templates never have one key. Who finds that a template of his key is over ends it before he makes another.
//! - Who opens or holds a template controls it until he releases it, and it is his key's all that time: its words do not
//!   change hands. What [`TemplateTable::open`] and [`TemplateTable::hold`] return is right whatever other workers do.
//! - Each entry is in the free list, or in the hands of one thread, or live in exactly one way, or invalid and held.
//! - The count of a destination slot is never less than the templates by which it can be found, so that a slot whose count
//!   is 0, and that no connection names, may be given away once no worker has a configuration that leads to it.
//!
//! A hold is one compare-and-swap of the control word. It may happen on an entry that is not linked there any more, or not
//! yet (see [`super::bucket`]); so who holds looks at the bucket once more, and releases and looks again if it was so.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

use super::bucket::{Bucket, Links, NAMES_MAX, Name};
use super::entry::{CONTROLLED_MAX, Entry, Released, Second};
use super::free_list::FreeList;
use super::key::TemplateKey;
use super::reader::StoredText;
use crate::atomic::{AtomicU32, Memory, spin_loop};
use crate::clock::Ticks;
use crate::connection::FlowSeed;
use crate::connection::reader::PairEntry;
use crate::dpdk::region::{Pages, RegionError};

/// Templates for each bucket in a full table.
const TEMPLATES_PER_BUCKET: usize = 2;
/// How often a worker looks again at a bucket without a free way where others are about to publish or to withdraw: 14
/// workers that open templates in one bucket at the same instant.
const LOOKS_WHERE_CLAIMED: u32 = 100;
/// Largest capacity: 2^24 templates are 1 GB.
pub const TEMPLATE_CAPACITY_MAX: u32 = NAMES_MAX;

/// How large a table is.
#[derive(Clone, Copy, Debug)]
pub struct TemplateLimits {
    /// Templates, 1 to [`TEMPLATE_CAPACITY_MAX`] (more is cut to that).
    pub capacity: u32,
    /// Destination slots.
    pub destinations: u32,
    /// Keep the text of Call-IDs, 64 bytes a template.
    pub keeps_call_ids: bool,
    /// Keep the addresses of IPv6, 32 bytes a template.
    pub has_ipv6: bool,
}

/// The templates of all workers.
#[derive(Debug)]
pub struct TemplateTable {
    seed: FlowSeed,
    call_id_seed: RandomState,
    pub(super) buckets: Memory<Bucket>,
    pub(super) entries: Memory<Entry>,
    /// By entry; empty where the texts are not kept.
    pub(super) texts: Memory<StoredText>,
    /// By entry; empty where there is no IPv6.
    pub(super) pairs: Memory<PairEntry>,
    /// By destination slot.
    counts: Memory<TemplateCount>,
    free: FreeList,
}

/// Templates of a destination slot, alone on its line.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
struct TemplateCount(AtomicU32);

/// A template that its user holds: one of the connections that it controls is his.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateId(u32);

/// A template that now controls one connection more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What to release it by.
    pub id: TemplateId,
    /// Destination slot of its real server: of the template that was there, or as asked for.
    pub destination: u32,
    /// It was made just now.
    pub is_new: bool,
}

/// No room: no free entry, no free way in the key's bucket, or the template controls as many connections as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateTableFull;

/// What a key, and a moment, mean to the table.
struct Search<'a> {
    key: &'a TemplateKey,
    hash: u64,
    now: Second,
    expires: Second,
}

enum Found {
    Held(Opened),
    Saturated,
    /// The bucket changed meanwhile.
    Moved,
    Absent,
}

/// An entry that is prepared and a way that is claimed for it.
struct Prepared {
    way: usize,
    index: u32,
}

impl TemplateTable {
    /// An empty table, every page of it touched, on the NUMA node of the calling thread's CPU.
    pub fn new(limits: &TemplateLimits, pages: Pages) -> Result<Arc<TemplateTable>, RegionError> {
        let capacity = limits.capacity.clamp(1, TEMPLATE_CAPACITY_MAX) as usize;
        let entries = Memory::new(capacity, pages)?;
        Ok(Arc::new(TemplateTable {
            seed: FlowSeed::random(),
            call_id_seed: RandomState::new(),
            buckets: Memory::new(capacity.div_ceil(TEMPLATES_PER_BUCKET), pages)?,
            texts: Memory::new(if limits.keeps_call_ids { capacity } else { 0 }, pages)?,
            pairs: Memory::new(if limits.has_ipv6 { capacity } else { 0 }, pages)?,
            counts: Memory::new(limits.destinations as usize, pages)?,
            free: FreeList::new(&entries),
            entries,
        }))
    }

    /// Templates that it can hold.
    pub fn capacity(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Templates of this destination slot that can be found (IPVS: `persistconns`).
    pub fn count(&self, destination: u32) -> u32 {
        self.counts.get(destination as usize).map_or(0, |count| count.0.load(Acquire))
    }

    /// Templates of all destination slots that can be found.
    pub fn len(&self) -> u32 {
        self.counts.iter().map(|count| count.0.load(Acquire)).sum()
    }

    /// It holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.buckets)
            + size_of_val(&*self.entries)
            + size_of_val(&*self.texts)
            + size_of_val(&*self.pairs)
            + size_of_val(&*self.counts)
    }

    /// What keys of IPv6 are made with.
    pub fn seed(&self) -> &FlowSeed {
        &self.seed
    }

    /// The hash of a Call-ID, keyed at random: two texts have the same one by accident only, once in 2^32. Dialogues that do
    /// share a template, those of different clients too under the netmask 0: they go to one real server and stay there.
    pub fn hash_call_id(&self, call_id: &[u8]) -> u32 {
        self.call_id_seed.hash_one(call_id) as u32
    }

    /// The template of `key`, for one more connection: it controls it from now on, and its timer is re-armed. None where
    /// there is none or it can control no more. Who then finds that its real server may not be used invalidates and
    /// releases it.
    pub fn hold(&self, key: &TemplateKey, now: Ticks, timeout_ticks: u32) -> Option<Opened> {
        let search = self.search(key, now, timeout_ticks);
        let bucket = self.bucket(search.hash);
        loop {
            match self.look(bucket, bucket.links(), &search) {
                Found::Held(opened) => return Some(opened),
                Found::Moved => {}
                Found::Absent | Found::Saturated => return None,
            }
        }
    }

    /// As [`TemplateTable::hold`]; where there is none, makes one that leads to `destination`. Another worker may have made
    /// one meanwhile: the destination that counts is the one returned. `call_id` is for people to read, empty unless
    /// the key is of one.
    pub fn open(
        &self,
        key: &TemplateKey,
        now: Ticks,
        timeout_ticks: u32,
        destination: u32,
        call_id: &[u8],
    ) -> Result<Opened, TemplateTableFull> {
        let search = self.search(key, now, timeout_ticks);
        let bucket = self.bucket(search.hash);
        let mut prepared: Option<Prepared> = None;
        let mut looks = 0;
        let result = loop {
            let mut links = bucket.links();
            match self.look(bucket, links, &search) {
                Found::Held(opened) => break Ok(opened),
                Found::Saturated => break Err(TemplateTableFull),
                Found::Moved => continue,
                Found::Absent => {}
            }
            if prepared.is_none() {
                let Some(way) = links.free_way() else {
                    looks += 1;
                    if links.has_claimed() && looks < LOOKS_WHERE_CLAIMED {
                        spin_loop();
                        continue;
                    }
                    break Err(TemplateTableFull);
                };
                let Some(claimed) = bucket.claim(links, way) else { continue };
                links = claimed;
                let Some(index) = self.prepare(&search, destination, call_id) else {
                    bucket.unclaim(way);
                    break Err(TemplateTableFull);
                };
                bucket.set_name(way, Name::new(index, search.hash));
                prepared = Some(Prepared { way, index });
            }
            // Nothing of the key was live when `links` were read; this succeeds only if nothing became live since.
            if let Some(Prepared { way, index }) = prepared
                && bucket.publish(links, way)
            {
                return Ok(Opened { id: TemplateId(index), destination, is_new: true });
            }
        };
        if let Some(prepared) = prepared {
            self.withdraw(bucket, &prepared, search.now);
        }
        result
    }

    /// A connection that the template controlled is gone. The template stays until its time is over, an invalidated one
    /// goes with its last connection.
    pub fn release(&self, id: TemplateId, now: Ticks) {
        self.release_after(id, now, now);
    }

    /// The same of a connection whose time was over at `over`, which was noticed `now`.
    pub fn release_after(&self, id: TemplateId, over: Ticks, now: Ticks) {
        self.release_entry(id.0, Second::of(over), Second::of(now));
    }

    /// A connection that the template controls is established.
    pub fn assure(&self, id: TemplateId) {
        if let Some(entry) = self.entries.get(id.0 as usize) {
            entry.assure();
        }
    }

    /// The real server of a template that is held may not be used any more: nobody finds it from now on.
    pub fn invalidate(&self, id: TemplateId) {
        let Some(entry) = self.entries.get(id.0 as usize) else { return };
        if entry.invalidate() {
            self.uncount(entry);
            self.bucket(self.hash(&entry.key())).unlink(id.0);
        }
    }

    /// Entries that may hold a template: all before this one.
    pub(super) fn touched(&self) -> u32 {
        self.free.touched()
    }

    /// Ends the template at `index` if its time is over, or `is_left` says so of its destination slot; one that still
    /// controls connections gets a minute more.
    pub(super) fn expire_entry(&self, index: u32, now: Ticks, is_left: impl Fn(u32) -> bool) -> bool {
        let Some(entry) = self.entries.get(index as usize) else { return false };
        let (control, now) = (entry.control(), Second::of(now));
        if !control.is_live() || !(control.is_over(now) || is_left(entry.destination())) {
            return false;
        }
        if control.controlled() > 0 {
            if !control.is_to_be_postponed(now) {
                return false;
            }
            // Who changed it meanwhile has re-armed the timer or postponed it as well.
            entry.change(control, control.postponed(now));
            return false;
        }
        let is_mine = entry.end(control);
        if is_mine {
            self.dismantle(index, entry);
        }
        is_mine
    }

    /// Looks for the key under `links`, and holds what it finds.
    fn look(&self, bucket: &Bucket, links: Links, search: &Search) -> Found {
        for way in links.live() {
            let name = bucket.name(way);
            if !name.suits(search.hash) {
                continue;
            }
            let Some(entry) = self.entries.get(name.index() as usize) else { continue };
            loop {
                let control = entry.control();
                if !control.is_live() || entry.key() != *search.key {
                    break;
                }
                if control.controlled() == 0 && control.is_over(search.now) {
                    if entry.end(control) {
                        self.dismantle(name.index(), entry);
                        return Found::Moved;
                    }
                    continue;
                }
                if control.controlled() == CONTROLLED_MAX {
                    return Found::Saturated;
                }
                if !entry.change(control, control.held(search.expires)) {
                    continue;
                }
                // Nobody can end it from here on, so what is linked now stays.
                if bucket.names(way, name) && entry.key() == *search.key {
                    let (id, destination) = (TemplateId(name.index()), entry.destination());
                    return Found::Held(Opened { id, destination, is_new: false });
                }
                self.release_entry(name.index(), search.now, search.now);
                return Found::Moved;
            }
        }
        Found::Absent
    }

    /// An entry with a template for the key, live but not linked.
    fn prepare(&self, search: &Search, destination: u32, call_id: &[u8]) -> Option<u32> {
        let index = self.free.pop(&self.entries)?;
        if let Some(text) = self.texts.get(index as usize).filter(|_| search.key.has_call_id()) {
            text.write(call_id);
        }
        if let Some(pair) = self.pairs.get(index as usize).filter(|_| search.key.is_ipv6()) {
            pair.store(search.key.pair());
        }
        if let Some(count) = self.counts.get(destination as usize) {
            count.0.fetch_add(1, AcqRel);
        }
        self.entries.get(index as usize)?.occupy(search.key, destination, search.expires);
        Some(index)
    }

    /// Gives up what was prepared. Another worker may hold it, until it looks at the bucket.
    fn withdraw(&self, bucket: &Bucket, prepared: &Prepared, now: Second) {
        let Some(entry) = self.entries.get(prepared.index as usize) else { return };
        let is_mine = entry.invalidate();
        debug_assert!(is_mine, "nobody finds out what nobody could hold for good");
        self.uncount(entry);
        bucket.unclaim(prepared.way);
        self.release_entry(prepared.index, now, now);
    }

    fn release_entry(&self, index: u32, over: Second, now: Second) {
        let Some(entry) = self.entries.get(index as usize) else { return };
        match entry.release(over, now) {
            Released::Kept => {}
            Released::Ended => self.dismantle(index, entry),
            Released::Forgotten => self.free.push(&self.entries, index),
        }
    }

    /// Unlinks and frees a template that this thread has ended.
    fn dismantle(&self, index: u32, entry: &Entry) {
        self.bucket(self.hash(&entry.key())).unlink(index);
        self.uncount(entry);
        self.free.push(&self.entries, index);
    }

    /// Its destination has one template less that can be found.
    fn uncount(&self, entry: &Entry) {
        if let Some(count) = self.counts.get(entry.destination() as usize) {
            count.0.fetch_sub(1, AcqRel);
        }
    }

    fn search<'a>(&self, key: &'a TemplateKey, now: Ticks, timeout_ticks: u32) -> Search<'a> {
        let expires = Second::from(now.after(timeout_ticks));
        Search { key, hash: self.hash(key), now: Second::of(now), expires }
    }

    pub(super) fn hash(&self, key: &TemplateKey) -> u64 {
        self.seed.hash_words(key.words())
    }

    pub(super) fn bucket(&self, hash: u64) -> &Bucket {
        let buckets = self.buckets.len() as u64;
        &self.buckets[((u64::from(hash as u32) * buckets) >> 32) as usize]
    }
}

impl TemplateId {
    /// As an entry of the connection table keeps it; below [`TEMPLATE_CAPACITY_MAX`].
    pub fn index(self) -> u32 {
        self.0
    }

    /// What a connection that the template controls has kept.
    pub fn from_index(index: u32) -> TemplateId {
        TemplateId(index)
    }
}
