//! One template: 32 bytes, four atomic words. Workers change it, any thread reads it.
//!
//! | word | holds | written by |
//! |---|---|---|
//! | client, service | the [`TemplateKey`] | who took the entry from the free list, before it is live |
//! | control | generation (14 bits), phase (2), controlled connections (24), second of expiry (24) | compare-and-swap |
//! | place | destination slot and "assured"; in a free entry the next free one | as the key; "assured" by who holds it |
//!
//! | phase | may be found | becomes |
//! |---|---|---|
//! | free | no; in the free list, or of the one thread that prepares or dismantles it | live |
//! | live | yes | free, by expiry while nobody is controlled; invalid |
//! | invalid | no | free, by the release of its last connection |
//!
//! A template that controls a connection is not freed, so an index that a connection holds stays that template's. The
//! generation changes when an entry becomes free: a copy with the same one before and after is of one template.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::key::TemplateKey;
use super::reader::Template;
use crate::atomic::AtomicU64;
use crate::clock::{TICKS_PER_SECOND, Ticks};

/// Most connections that one template can control.
pub(super) const CONTROLLED_MAX: u64 = (1 << 24) - 1;
/// What a template whose time is over while it controls connections gets, in seconds, as often as needed (IPVS).
const POSTPONED_SECONDS: u32 = 60;
/// A template is postponed so late, in seconds: connections are looked at every two, and one that was over before the
/// template must have been seen.
const POSTPONED_AFTER_SECONDS: u32 = 4;

const SECONDS: u64 = (1 << 24) - 1;
const CONTROLLED_SHIFT: u32 = 24;
const PHASE_SHIFT: u32 = 48;
const GENERATION_SHIFT: u32 = 50;
const PHASE: u64 = 3 << PHASE_SHIFT;
const LIVE: u64 = 1 << PHASE_SHIFT;
const INVALID: u64 = 2 << PHASE_SHIFT;
const ASSURED: u64 = 1 << 32;

const _: () =
    assert!(TICKS_PER_SECOND == 1 << 8, "a second of 24 bits is a tick of 32 without its last eight");

/// A second, of the 2^24 after which ticks start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Second(u32);

impl Second {
    /// The second that a moment is in.
    pub(super) fn of(moment: Ticks) -> Second {
        Second(moment.0 >> 8)
    }

    /// The first second that begins at or after a moment.
    pub(super) fn from(moment: Ticks) -> Second {
        Second::of(moment.after(TICKS_PER_SECOND - 1))
    }

    fn since(self, earlier: Second) -> u32 {
        self.0.wrapping_sub(earlier.0) & SECONDS as u32
    }

    fn is_past(self, now: Second) -> bool {
        now.since(self) < 1 << 23
    }

    /// The first of the moments one, two, … minutes after this one that is not past.
    fn postponed(self, now: Second) -> Second {
        let minutes = now.since(self) / POSTPONED_SECONDS + 1;
        Second((self.0 + minutes * POSTPONED_SECONDS) & SECONDS as u32)
    }
}

/// The control word at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control(u64);

impl Control {
    pub(super) fn is_live(self) -> bool {
        self.0 & PHASE == LIVE
    }

    pub(super) fn controlled(self) -> u64 {
        self.0 >> CONTROLLED_SHIFT & CONTROLLED_MAX
    }

    /// Its time is over, which ends it unless it controls connections.
    pub(super) fn is_over(self, now: Second) -> bool {
        self.expires().is_past(now)
    }

    fn expires(self) -> Second {
        Second((self.0 & SECONDS) as u32)
    }

    fn expiring(self, at: Second) -> Control {
        Control(self.0 & !SECONDS | u64::from(at.0))
    }

    /// One connection more, the timer re-armed.
    pub(super) fn held(self, expires: Second) -> Control {
        Control(self.0 + (1 << CONTROLLED_SHIFT)).expiring(expires)
    }

    /// One connection less, which was over at `over`. A template whose time was over by then has a minute more from then,
    /// as if its timer had been looked at in time; one whose time was over since then ends.
    fn released(self, over: Second, now: Second) -> Control {
        debug_assert!(self.controlled() > 0, "only what is held is released");
        let less = Control(self.0 - (1 << CONTROLLED_SHIFT));
        match less.controlled() {
            0 if !less.is_live() => less.freed(),
            0 if less.is_over(over) => less.postponed(over),
            0 if less.is_over(now) => less.freed(),
            _ => less,
        }
    }

    /// Its time is over for so long that what it controls was not over before it.
    pub(super) fn is_to_be_postponed(self, now: Second) -> bool {
        let since = self.expires();
        since.is_past(now) && now.since(since) >= POSTPONED_AFTER_SECONDS
    }

    /// A minute more.
    pub(super) fn postponed(self, now: Second) -> Control {
        self.expiring(self.expires().postponed(now))
    }

    fn invalid(self) -> Control {
        Control(self.0 & !PHASE | INVALID)
    }

    fn is_free(self) -> bool {
        self.0 & PHASE == 0
    }

    fn freed(self) -> Control {
        Control((self.0 >> GENERATION_SHIFT).wrapping_add(1) << GENERATION_SHIFT)
    }

    fn is_of_same_template(self, other: Control) -> bool {
        (self.0 ^ other.0) >> GENERATION_SHIFT == 0
    }
}

/// What a release did to a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// It goes on.
    Kept,
    /// It was live and is free; it is still linked and counted.
    Ended,
    /// It was invalid and is free.
    Forgotten,
}

#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(32))]
pub(super) struct Entry {
    client: AtomicU64,
    service: AtomicU64,
    control: AtomicU64,
    place: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    pub(super) fn control(&self) -> Control {
        Control(self.control.load(Acquire))
    }

    pub(super) fn key(&self) -> TemplateKey {
        TemplateKey::from_words([self.client.load(Acquire), self.service.load(Acquire)])
    }

    /// Destination slot of its real server.
    pub(super) fn destination(&self) -> u32 {
        self.place.load(Acquire) as u32
    }

    /// Makes a free entry, which this thread took from the free list, a live template that controls one connection.
    pub(super) fn occupy(&self, key: &TemplateKey, destination: u32, expires: Second) {
        let [client, service] = key.words();
        self.client.store(client, Release);
        self.service.store(service, Release);
        self.place.store(destination.into(), Release);
        let free = Control(self.control.load(Relaxed));
        debug_assert!(free.is_free() && free.controlled() == 0);
        self.control.store(free.held(expires).0 | LIVE, Release);
    }

    /// Changes the control word, if it is still as in `from`.
    pub(super) fn change(&self, from: Control, to: Control) -> bool {
        self.control.compare_exchange(from.0, to.0, AcqRel, Relaxed).is_ok()
    }

    /// Ends a live template that controls nothing, if its control word is still as in `from`. The thread that did this
    /// has the entry to itself.
    pub(super) fn end(&self, from: Control) -> bool {
        debug_assert!(from.is_live() && from.controlled() == 0);
        self.change(from, from.freed())
    }

    /// One connection less, which was over at `over`; whether this freed the entry, so that the thread has it to itself.
    pub(super) fn release(&self, over: Second, now: Second) -> Released {
        loop {
            let before = self.control();
            let after = before.released(over, now);
            if self.change(before, after) {
                return match after.is_free() {
                    false => Released::Kept,
                    true if before.is_live() => Released::Ended,
                    true => Released::Forgotten,
                };
            }
        }
    }

    /// Makes a template that this thread holds invalid; false where somebody else did.
    #[must_use]
    pub(super) fn invalidate(&self) -> bool {
        loop {
            let before = self.control();
            if !before.is_live() {
                return false;
            }
            if self.change(before, before.invalid()) {
                return true;
            }
        }
    }

    /// Marks a template that this thread holds.
    pub(super) fn assure(&self) {
        self.place.fetch_or(ASSURED, Relaxed);
    }

    /// The next free entry, in a free one.
    pub(super) fn next_free(&self) -> u32 {
        self.place.load(Acquire) as u32
    }

    pub(super) fn set_next_free(&self, index: u32) {
        self.place.store(index.into(), Release);
    }

    /// The live template, and what `also` reads of it, for any thread. None where it is not live or ends meanwhile.
    pub(super) fn copy<T>(&self, also: impl FnOnce(&TemplateKey) -> T) -> Option<(Template, T)> {
        let before = self.control();
        if !before.is_live() {
            return None;
        }
        let (key, place) = (self.key(), self.place.load(Acquire));
        let also = also(&key);
        let after = Control(self.control.load(Relaxed));
        let template = Template {
            key,
            destination: place as u32,
            expires: Ticks(after.expires().0 << 8),
            controlled: after.controlled() as u32,
            is_assured: place & ASSURED != 0,
        };
        (after.is_live() && before.is_of_same_template(after)).then_some((template, also))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u32) -> Second {
        Second::of(Ticks(seconds << 8))
    }

    #[test]
    fn seconds_are_never_early_and_compare_across_wrap() {
        assert_eq!(Second::from(Ticks(256)), Second(1));
        assert_eq!(Second::from(Ticks(257)), Second(2));
        assert_eq!(Second::from(Ticks(u32::MAX)), Second(0));
        let late = seconds((1 << 24) - 10);
        assert!(late.is_past(late) && late.is_past(seconds(20)) && !seconds(20).is_past(late));
    }

    #[test]
    fn template_that_controls_connections_is_postponed_by_minutes_from_its_expiry() {
        for (expires, now, postponed) in [(100, 100, 160), (100, 159, 160), (100, 160, 220), (100, 999, 1000)]
        {
            assert_eq!(seconds(expires).postponed(seconds(now)), seconds(postponed), "{now}");
        }
        let last = (1 << 24) - 1;
        assert_eq!(seconds(last).postponed(seconds(3)), seconds(59));
    }

    #[test]
    fn release_of_the_last_connection_frees_what_is_invalid_and_postpones_what_is_over() {
        let entry: Entry = zerocopy::FromZeros::new_zeroed();
        let key = TemplateKey::for_group([10, 0, 0, 1], u32::MAX, 7);
        entry.occupy(&key, 3, seconds(100));
        let live = entry.control();
        assert!(entry.change(live, live.held(seconds(110))));
        let release = |over, now| entry.release(seconds(over), seconds(now));
        assert_eq!(release(200, 200), Released::Kept, "one is left, and the sweep postpones");
        assert_eq!(entry.control().expires(), seconds(110));
        assert_eq!(release(200, 201), Released::Kept);
        assert_eq!((entry.control().controlled(), entry.control().expires()), (0, seconds(230)));
        let live = entry.control();
        assert!(entry.change(live, live.held(seconds(300))));
        assert!(entry.invalidate() && !entry.invalidate());
        assert!(entry.copy(|_| ()).is_none());
        assert_eq!(release(200, 200), Released::Forgotten);
        assert!(entry.control().is_free() && !entry.control().is_of_same_template(live));
    }

    #[test]
    fn template_whose_time_was_over_after_its_last_connection_ends_with_it() {
        let entry: Entry = zerocopy::FromZeros::new_zeroed();
        let key = TemplateKey::for_group([10, 0, 0, 1], u32::MAX, 7);
        for (over, now, released, expires) in [
            (99, 99, Released::Kept, 100),
            (100, 102, Released::Kept, 160),
            (99, 100, Released::Ended, 0),
            (98, 101, Released::Ended, 0),
        ] {
            entry.occupy(&key, 3, seconds(100));
            assert_eq!(entry.release(seconds(over), seconds(now)), released, "{over} {now}");
            assert_eq!(entry.control().expires(), seconds(expires), "{over} {now}");
            let control = entry.control();
            assert!(control.is_free() || entry.end(control));
        }
    }

    #[test]
    fn template_is_postponed_when_its_connections_must_have_been_looked_at() {
        let entry: Entry = zerocopy::FromZeros::new_zeroed();
        entry.occupy(&TemplateKey::for_group([10, 0, 0, 1], u32::MAX, 7), 3, seconds(100));
        for (now, expected) in [(50, false), (100, false), (103, false), (104, true), (300, true)] {
            assert_eq!(entry.control().is_to_be_postponed(seconds(now)), expected, "{now}");
        }
    }

    #[test]
    fn control_word_keeps_its_parts_apart_at_their_extremes() {
        let full = Control(!PHASE | LIVE);
        assert_eq!((full.controlled(), full.expires()), (CONTROLLED_MAX, Second(SECONDS as u32)));
        assert_eq!(full.freed(), Control(0));
        let less = full.released(Second(5), Second(5));
        assert!(less.is_live() && less.controlled() == CONTROLLED_MAX - 1 && less.is_of_same_template(full));
        assert_eq!(less.held(Second(SECONDS as u32)), full);
    }
}
