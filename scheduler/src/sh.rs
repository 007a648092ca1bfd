//! `sh`, source hashing: a table of 256 slots, of which each RS in turn takes as many as its weight, one where it is
//! 0; the slot is a hash of the client's address, with `sh-port` also of its port.
//!
//! Matches `net/netfilter/ipvs/ip_vs_sh.c`: an RS that takes no connections is replaced only with `sh-fallback`, which
//! goes on to the next slots. Invariant: the table depends on which RSs there are, in which order and with which
//! weights, and on nothing else.

use crate::hash::{fold, hash_32};
use crate::{RealServer, Request, SchedulerFlags};

/// The kernel's default (`CONFIG_IP_VS_SH_TAB_BITS`).
const BITS: u32 = 8;
const SLOTS: usize = 1 << BITS;

/// Index of the RS of each slot.
#[derive(Debug)]
pub(crate) struct Table {
    slots: [u32; SLOTS],
}

impl Table {
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        let mut slots = [0; SLOTS];
        let in_turn = real_servers
            .iter()
            .enumerate()
            .flat_map(|(index, real_server)| (0..real_server.weight.max(1)).map(move |_| index as u32))
            .cycle();
        slots.iter_mut().zip(in_turn).for_each(|(slot, index)| *slot = index);
        Table { slots }
    }

    /// Picks.
    #[inline]
    pub(crate) fn schedule(
        &self,
        real_servers: &[RealServer],
        request: &Request,
        flags: SchedulerFlags,
    ) -> Option<usize> {
        let port = if flags.port { request.client_port } else { 0 };
        let home = hash_32(u32::from(port).wrapping_add(fold(request.client)), BITS) as usize;
        if let Some(index) = self.eligible_at(home, real_servers) {
            return Some(index);
        }
        if !flags.fallback {
            return None;
        }
        // Each probe is the home slot, moved by an offset that itself begins at the home slot.
        (0..SLOTS).find_map(|offset| self.eligible_at(offset + 2 * home, real_servers))
    }

    #[inline]
    fn eligible_at(&self, slot: usize, real_servers: &[RealServer]) -> Option<usize> {
        let index = *self.slots.get(slot % SLOTS)? as usize;
        real_servers.get(index)?.is_eligible().then_some(index)
    }
}
