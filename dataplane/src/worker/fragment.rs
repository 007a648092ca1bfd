//! Pieces of packets.

use super::{Packet, Round};
use crate::port::QueuePair;
use crate::verdict::{DropReason, Verdict};

/// What becomes of a fragment.
#[cold]
#[inline(never)]
pub(super) fn judge<Q: QueuePair>(_packet: &Packet, _index: usize, _round: &mut Round<Q>) -> Verdict {
    Verdict::Drop(DropReason::Fragment)
}
