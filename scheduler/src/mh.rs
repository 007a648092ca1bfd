//! `mh`, Maglev hashing: a table that moves few clients when an RS comes or goes ([`maglev`](crate::maglev)); the slot
//! is a hash of the client's address, with `mh-port` also of its port.
//!
//! Matches `net/netfilter/ipvs/ip_vs_mh.c` but for the table's order and size. An RS keeps its slots when its weight
//! goes to 0; it is replaced, then or while it is overloaded, only with `mh-fallback`.

use crate::hash::fold;
use crate::maglev::{Slots, ascending, client_hash};
use crate::{RealServer, Request, SchedulerFlags};

/// The kernel's default table (`CONFIG_IP_VS_MH_TAB_INDEX` 12).
const LEAST_SLOTS: u32 = 4093;

/// Index of the RS of each slot.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots,
}

impl Table {
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        let order = ascending(real_servers);
        Table { slots: Slots::new(real_servers, &order, LEAST_SLOTS).renumbered(&order) }
    }

    /// Picks.
    #[inline]
    pub(crate) fn schedule(
        &self,
        real_servers: &[RealServer],
        request: &Request,
        flags: SchedulerFlags,
    ) -> Option<usize> {
        let client = fold(request.client);
        let port = if flags.port { request.client_port } else { 0 };
        let hash = client_hash(client, port, 0);
        if let Some(index) = self.eligible_at(hash, real_servers) {
            return Some(index);
        }
        if !flags.fallback || !real_servers.iter().any(RealServer::is_eligible) {
            return None;
        }
        let size = self.slots.count();
        let home = hash.checked_rem(size)?;
        (0..size).find_map(|offset| {
            self.eligible_at(client_hash(client, port, (offset + home) % size), real_servers)
        })
    }

    #[inline]
    fn eligible_at(&self, hash: u32, real_servers: &[RealServer]) -> Option<usize> {
        let index = self.slots.at(hash)? as usize;
        real_servers.get(index)?.is_eligible().then_some(index)
    }
}
