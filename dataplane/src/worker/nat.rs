//! Packets of connections whose addresses are translated.

use super::{Packet, Round};
use crate::connection::table::ConnectionId;
use crate::port::QueuePair;
use crate::verdict::{DropReason, Verdict};

/// A packet that hit the translated connection at `id`, or the entry of its replies.
#[inline(never)]
pub(super) fn pass<Q: QueuePair>(
    _packet: &Packet,
    _index: usize,
    _id: ConnectionId,
    _round: &mut Round<Q>,
) -> Verdict {
    Verdict::Drop(DropReason::NoConnection)
}
