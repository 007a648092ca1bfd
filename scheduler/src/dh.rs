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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Algorithm;
    use crate::fixture::{real_servers, request, scheduler};

    fn to(vip: &str) -> Request {
        Request { vip: vip.parse().unwrap(), ..request() }
    }

    /// Slots 171, 64 and 53 of the product of the address and 0x61C88647, worked out apart from this code.
    #[test]
    fn dh_slot_is_the_hash_of_the_destination_and_weights_do_not_matter() {
        let list = real_servers(&[900, 1, 2]);
        let scheduler = scheduler(Algorithm::Dh, &list);
        for (vip, pick) in [("198.51.100.7", 171 % 3), ("203.0.113.9", 64 % 3), ("192.0.2.200", 53 % 3)] {
            assert_eq!(scheduler.schedule(&list, &to(vip)), Some(pick), "{vip}");
        }
    }

    #[test]
    fn dh_has_nobody_stand_in_and_weight_zero_keeps_its_slots() {
        let mut list = real_servers(&[1, 1, 1]);
        let before = scheduler(Algorithm::Dh, &list);
        list[1].weight = 0;
        let after = before.next_version(&real_servers(&[1, 1, 1]), &list);
        assert_eq!(after.schedule(&list, &to("203.0.113.9")), None);
        assert_eq!(after.schedule(&list, &to("192.0.2.200")), Some(2));
    }
}
