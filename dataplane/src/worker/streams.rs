//! TCP streams that change their length on the way, because a line in them was rewritten: what that does to sequence numbers.
//!
//! A worker remembers a bounded number of them. Nobody says when one is over: a place is taken again once its connection is not in
//! the table any more.

use crate::connection::table::ConnectionId;
use crate::connection::{ConnectionTable, FlowKey, Ipv6Pair};

/// Streams that a worker remembers.
pub(super) const CAPACITY: usize = 4096;
/// Places that are looked at for one to take.
const LOOKS: usize = 64;

/// One direction of a stream: everything behind the text that was replaced last is shifted, and what was in front of it by what was
/// replaced before (IPVS: `ip_vs_seq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shift {
    /// Sequence numbers of the text's first byte and of the one behind it, as its sender counts.
    begin: u32,
    end: u32,
    before: u32,
    behind: u32,
}

impl Shift {
    /// There is one.
    pub(super) fn is_any(&self) -> bool {
        self.before != 0 || self.behind != 0
    }

    /// What is added to the sequence number of a segment.
    pub(super) fn of_sequence(&self, sequence: u32) -> u32 {
        if is_after(sequence, self.begin) { self.behind } else { self.before }
    }

    /// What is acknowledged, as the sender counts, by a receiver that acknowledges so much; and whether that is what is behind the text.
    pub(super) fn acknowledged(&self, acknowledged: u32) -> (u32, bool) {
        if !is_after(acknowledged, self.begin.wrapping_add(self.before)) {
            return (acknowledged.wrapping_sub(self.before), false);
        }
        if is_after(self.end.wrapping_add(self.behind), acknowledged) {
            return (self.begin, false);
        }
        (acknowledged.wrapping_sub(self.behind), true)
    }

    /// The text from `begin` on is replaced by one that is so much longer. A text that was replaced already, and is sent again,
    /// changes nothing.
    pub(super) fn replaced(&mut self, begin: u32, length: u32, longer: u32) {
        if !self.is_any() || is_after(begin, self.begin) {
            let behind = self.behind.wrapping_add(longer);
            *self = Shift { begin, end: begin.wrapping_add(length), before: self.behind, behind };
        }
    }
}

/// In sequence space.
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// Both directions of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    owner: Option<ConnectionId>,
    key: FlowKey,
    pair: Ipv6Pair,
    /// What the client sends.
    pub(super) to_real_server: Shift,
    /// What the real server sends.
    pub(super) to_client: Shift,
}

/// The streams of a worker.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Box<[Stream]>,
    /// Where the search for a place goes on.
    next: usize,
}

impl Streams {
    /// None.
    pub(super) fn new() -> Streams {
        Streams { streams: std::iter::repeat_n(Stream::default(), CAPACITY).collect(), next: 0 }
    }

    /// The stream in this place.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Stream> {
        self.streams.get_mut(place as usize)
    }

    /// A place for the stream of the connection at `owner`. None where all that were looked at are taken.
    pub(super) fn open(
        &mut self,
        owner: ConnectionId,
        key: FlowKey,
        pair: Ipv6Pair,
        connections: &ConnectionTable,
    ) -> Option<u32> {
        for _ in 0..LOOKS {
            let place = self.next;
            self.next = (place + 1) % self.streams.len().max(1);
            let stream = self.streams.get_mut(place)?;
            let is_taken = stream.owner.is_some_and(|owner| {
                // Its own connection may have had a place before it was opened anew on its tuple.
                connections.find(&stream.key, &stream.pair) == Some(owner)
            });
            if !is_taken {
                *stream = Stream { owner: Some(owner), key, pair, ..Stream::default() };
                return Some(place as u32);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_sent_again_is_shifted_as_the_first_time() {
        let mut shift = Shift::default();
        assert_eq!((shift.of_sequence(7), shift.acknowledged(7)), (0, (7, true)));
        shift.replaced(1000, 20, 3);
        for _ in 0..2 {
            assert_eq!((shift.of_sequence(1000), shift.of_sequence(1030)), (0, 3));
            shift.replaced(1000, 20, 3);
        }
        shift.replaced(2000, 20, 5_u32.wrapping_neg());
        assert_eq!((shift.of_sequence(1030), shift.of_sequence(2000)), (3, 3));
        assert_eq!(shift.of_sequence(2030), 2_u32.wrapping_neg());
    }

    proptest! {
        /// A stream of bytes in which texts are replaced one after the other, each once all in front of it was acknowledged.
        #[test]
        fn what_is_acknowledged_is_never_more_than_was_received(
            start: u32,
            texts in prop::collection::vec((1..100_u32, 1..60_u32, 1..60_u32), 1..6),
        ) {
            let mut shift = Shift::default();
            let (mut sent, mut received) = (start, start);
            for (gap, old, new) in texts {
                let (begin, at) = (sent.wrapping_add(gap), received.wrapping_add(gap));
                prop_assert_eq!(sent.wrapping_add(shift.of_sequence(sent.wrapping_add(1))), received);
                shift.replaced(begin, old, new.wrapping_sub(old));
                prop_assert_eq!(begin.wrapping_add(shift.of_sequence(begin)), at);
                prop_assert_eq!(shift.acknowledged(at), (begin, false));
                for inside in 1..new {
                    prop_assert_eq!(shift.acknowledged(at.wrapping_add(inside)), (begin, false));
                }
                (sent, received) = (begin.wrapping_add(old), at.wrapping_add(new));
                prop_assert_eq!(shift.acknowledged(received), (sent, true));
                prop_assert_eq!(shift.acknowledged(received.wrapping_add(9)), (sent.wrapping_add(9), true));
                prop_assert_eq!(sent.wrapping_add(shift.of_sequence(sent)), received);
            }
        }
    }
}
