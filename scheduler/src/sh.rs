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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{real_servers, request};

    const NONE: SchedulerFlags = SchedulerFlags { fallback: false, port: false, flag_3: false };
    const PORT: SchedulerFlags = SchedulerFlags { port: true, ..NONE };
    const FALLBACK: SchedulerFlags = SchedulerFlags { fallback: true, ..NONE };

    fn from(client: &str) -> Request {
        Request { client: client.parse().unwrap(), client_port: 40_000, ..request() }
    }

    /// Weights 3, 1, 2: six slots in turn, 0 0 0 1 2 2. The slots were worked out apart from this code: the product of
    /// address (and port) and 0x61C88647, its high eight bits.
    #[test]
    fn sh_slot_is_the_hash_of_the_client_and_with_sh_port_of_its_port() {
        let list = real_servers(&[3, 1, 2]);
        let table = Table::new(&list);
        let in_turn = [0, 0, 0, 1, 2, 2];
        for (client, slot, slot_with_port) in
            [("198.51.100.7", 171, 79), ("203.0.113.9", 64, 228), ("192.0.2.200", 53, 217)]
        {
            assert_eq!(table.schedule(&list, &from(client), NONE), Some(in_turn[slot % 6]), "{client}");
            let with_port = Some(in_turn[slot_with_port % 6]);
            assert_eq!(table.schedule(&list, &from(client), PORT), with_port, "{client} with its port");
        }
    }

    #[test]
    fn sh_weight_zero_has_one_slot_and_nobody_stands_in_without_sh_fallback() {
        let list = real_servers(&[3, 0, 2]);
        let table = Table::new(&list);
        // Slot 171 is the fourth of six: the one of weight 0.
        assert_eq!(table.schedule(&list, &from("198.51.100.7"), NONE), None);
        // The first probe is twice the slot: 342 - 256 = 86, the third of six.
        assert_eq!(table.schedule(&list, &from("198.51.100.7"), FALLBACK), Some(0));
    }

    #[test]
    fn sh_weights_beyond_the_table_leave_no_slot_to_the_last() {
        let list = real_servers(&[200, 200, 1]);
        let counts =
            [0, 1, 2].map(|index| Table::new(&list).slots.iter().filter(|&&slot| slot == index).count());
        assert_eq!(counts, [200, 56, 0]);
    }
}
