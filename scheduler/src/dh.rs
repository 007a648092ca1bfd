//! `dh`, destination hashing: a table of 256 slots, which the RSs share in turn whatever their weights; the slot is a
//! hash of the packet's destination address.
//!
//! Matches `net/netfilter/ipvs/ip_vs_dh.c`: no other RS stands in for one that takes no connections. Invariant: the
//! table depends on which RSs there are and in which order, and on nothing else.

use crate::hash::{fold, hash_32};
use crate::{RealServer, Request};

/// The kernel's default (`CONFIG_IP_VS_DH_TAB_BITS`).
const BITS: u32 = 8;

/// Index of the RS of each slot.
#[derive(Debug)]
pub(crate) struct Table {
    slots: [u32; 1 << BITS],
}

impl Table {
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        let mut slots = [0; 1 << BITS];
        let in_turn = (0..real_servers.len() as u32).cycle();
        slots.iter_mut().zip(in_turn).for_each(|(slot, index)| *slot = index);
        Table { slots }
    }

    /// Picks.
    #[inline]
    pub(crate) fn schedule(&self, real_servers: &[RealServer], request: &Request) -> Option<usize> {
        let slot = hash_32(fold(request.vip), BITS);
        let index = *self.slots.get(slot as usize)? as usize;
        real_servers.get(index)?.is_eligible().then_some(index)
    }
}
