//! Sums and differences of traffic counters. They wrap, as the workers' counters do.

use ctl::protocol::TrafficCounters;

fn each(a: TrafficCounters, b: TrafficCounters, combine: fn(u64, u64) -> u64) -> TrafficCounters {
    TrafficCounters {
        connections: combine(a.connections, b.connections),
        packets: combine(a.packets, b.packets),
        bytes: combine(a.bytes, b.bytes),
        reply_packets: combine(a.reply_packets, b.reply_packets),
        reply_bytes: combine(a.reply_bytes, b.reply_bytes),
    }
}

/// Both together.
pub fn sum(a: TrafficCounters, b: TrafficCounters) -> TrafficCounters {
    each(a, b, u64::wrapping_add)
}

/// What came from `earlier` to `later`.
pub fn difference(later: TrafficCounters, earlier: TrafficCounters) -> TrafficCounters {
    each(later, earlier, u64::wrapping_sub)
}
