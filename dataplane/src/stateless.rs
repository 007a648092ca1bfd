//! What a service remembers of packets that were forwarded without state: when there was one last. Their connections must
//! not be cut, nor their clients parted from their real server, when more of them comes.
//!
//! All workers share it, in every version of the service: a client's packets come to any of them. Written at most once a
//! second and worker, read when a connection opens.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::clock::TICKS_PER_SECOND;
use crate::connection::{ConnectionState, StateTimeouts};
use crate::snapshot::Protocol;

/// For so long after a first packet was forwarded without state, new connections of its service go by the ring too: a
/// client that was not answered sends its SYN again, and must not meet another real server. IPVS waits as long in SYN_RECV.
pub const RETRY_SECONDS: u32 = 60;

/// For so long after a packet was forwarded without state, more packets of its connection may come: as long as it may be
/// silent with these timeouts, counted from when an adopted one's time may last have been cut short.
pub fn silence_seconds(timeouts: &StateTimeouts, protocol: Protocol) -> u32 {
    let established = match protocol {
        Protocol::TCP => ConnectionState::Established,
        Protocol::SCTP => ConnectionState::SctpEstablished,
        _ => ConnectionState::Udp,
    };
    (timeouts.ticks(established) / TICKS_PER_SECOND).saturating_add(RETRY_SECONDS)
}

/// The same of a connection of any protocol.
pub fn longest_silence_seconds(timeouts: &StateTimeouts) -> u32 {
    let of = |protocol| silence_seconds(timeouts, protocol);
    of(Protocol::TCP).max(of(Protocol::UDP)).max(of(Protocol::SCTP))
}

/// The last times, in seconds of the workers' clock.
#[derive(Debug, Default)]
pub struct StatelessMemory(CachePadded<Times>);

#[derive(Debug, Default)]
struct Times {
    first: LastTime,
    midway: LastTime,
    untemplated: LastTime,
}

/// A second plus one; 0 is never.
#[derive(Debug, Default)]
struct LastTime(AtomicU32);

impl StatelessMemory {
    /// A packet that may be a connection's first is forwarded without state now.
    pub fn first_forwarded(&self, now_seconds: u32) {
        self.0.first.set(now_seconds);
    }

    /// A packet midway is forwarded without state now, or its connection kept for a short time only.
    pub fn midway_forwarded(&self, now_seconds: u32) {
        self.0.midway.set(now_seconds);
    }

    /// Whether such a first packet was forwarded in the last so many seconds, or less than one more.
    pub fn was_first_within(&self, seconds: u32, now_seconds: u32) -> bool {
        self.0.first.is_within(seconds, now_seconds)
    }

    /// The same of any packet.
    pub fn was_any_within(&self, seconds: u32, now_seconds: u32) -> bool {
        self.0.first.is_within(seconds, now_seconds) || self.0.midway.is_within(seconds, now_seconds)
    }

    /// A persistent client's connection opens now without a template, for want of room.
    pub fn opened_without_template(&self, now_seconds: u32) {
        self.0.untemplated.set(now_seconds);
    }

    /// The same of a connection without a template.
    pub fn was_opened_without_template_within(&self, seconds: u32, now_seconds: u32) -> bool {
        self.0.untemplated.is_within(seconds, now_seconds)
    }
}

impl LastTime {
    fn set(&self, now_seconds: u32) {
        let now = now_seconds.saturating_add(1);
        // A flood sets it once a second, so that workers do not take the line from each other with each packet.
        if self.0.load(Relaxed) < now {
            self.0.store(now, Relaxed);
        }
    }

    fn is_within(&self, seconds: u32, now_seconds: u32) -> bool {
        let last = self.0.load(Relaxed);
        last != 0 && now_seconds.saturating_add(1).saturating_sub(last) <= seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stateless_memory_lasts_for_its_time_and_no_second_longer() {
        let memory = StatelessMemory::default();
        assert!(!memory.was_any_within(u32::MAX, 7), "never");
        memory.first_forwarded(10);
        for (now, is_within) in [(9, true), (10, true), (70, true), (71, false), (u32::MAX, false)] {
            assert_eq!(memory.was_first_within(60, now), is_within, "{now}");
            assert_eq!(memory.was_any_within(60, now), is_within, "{now}");
        }
        memory.midway_forwarded(20);
        memory.midway_forwarded(19);
        assert!(memory.was_any_within(60, 80), "a worker whose clock is behind takes nothing back");
        assert!(!memory.was_first_within(60, 80));
        assert!(!memory.was_opened_without_template_within(u32::MAX, 80));
        memory.opened_without_template(0);
        assert!(memory.was_opened_without_template_within(0, 0));
    }
}
