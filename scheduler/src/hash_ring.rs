//! A consistent hash over a service's RSs that needs no state: for packets of connections that the connection table
//! has no room for. Every worker and every director sends one client's port to the same RS.
//!
//! `mh`'s table ([`maglev`](crate::maglev)), but sized to the number of RSs, so that thousands of services stay small.
//! Built by the control thread, read by workers; immutable.

use std::net::IpAddr;

use crate::RealServer;
use crate::hash::fold;
use crate::maglev::{Slots, ascending, client_hash};

/// Slots an RS, so that shares are within a per cent or so of the weights', and so is what moves when an RS goes.
const SLOTS_EACH: u32 = 100;
/// Above it tables grow only as far as every RS needs to get a slot: the largest of the kernel's.
const SLOTS_MAX: u32 = 131_071;
/// Other slots that are looked at before the list is walked.
const PROBES: u32 = 16;

/// Consistent hash over a service's real servers, without state.
///
/// Its table is `mh`'s: the order of the list does not matter, weights do, and an RS whose weight goes to 0 keeps its
/// slots. At least 100 slots an RS up to 1310 RSs; at most 251 slots for two, 509 for five.
#[derive(Debug)]
pub struct HashRing {
    /// Places in `members`.
    slots: Slots,
    /// Ascending by address and port.
    members: Box<[Member]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    /// Where it was in the list that the ring was made for.
    index: u32,
    id: u32,
    address: IpAddr,
    port: u16,
    weight: u32,
}

impl HashRing {
    /// The ring of these RSs. Control thread: allocates.
    pub fn new(list: &[RealServer]) -> Self {
        let order = ascending(list);
        let least_slots = (list.len() as u32).saturating_mul(SLOTS_EACH).min(SLOTS_MAX);
        HashRing { slots: Slots::new(list, &order, least_slots), members: members(list) }
    }

    /// Index into `list` of the RS for this client; `None` when no RS takes connections.
    ///
    /// An RS that takes none (weight 0, unavailable) is passed over by further probes, at most 16, and then along the
    /// list. One over its threshold is passed over too, unless there are only such. `list` is one that
    /// [`HashRing::is_for`] holds of; any other ends in no panic.
    #[inline]
    pub fn pick(&self, list: &[RealServer], client: IpAddr, client_port: u16) -> Option<usize> {
        let client = fold(client);
        let hash = client_hash(client, client_port, 0);
        let mut overloaded = None;
        let mut judge = |place: u32| {
            let index = self.index_in(list, place)?;
            let real_server = list.get(index)?;
            if real_server.is_eligible() {
                return Some(index);
            }
            if overloaded.is_none() && real_server.available && real_server.weight > 0 {
                overloaded = Some(index);
            }
            None
        };
        if let Some(index) = judge(self.slots.at(hash)?) {
            return Some(index);
        }
        let probe = |offset| self.slots.at(client_hash(client, client_port, offset));
        if let Some(index) = (1..=PROBES).filter_map(probe).find_map(&mut judge) {
            return Some(index);
        }
        let count = self.members.len() as u32;
        let first = hash.checked_rem(count)?;
        let index = (first..count).chain(0..first).find_map(&mut judge);
        index.or(overloaded)
    }

    /// Whether the ring is that of `list` too: the same RSs with the same weights (those over 0 that they have or last
    /// had), in whichever order. Then the next version may share it.
    pub fn is_for(&self, list: &[RealServer]) -> bool {
        let is_same = |(a, b): (&Member, &Member)| *a == Member { index: a.index, ..b.clone() };
        self.members.len() == list.len() && self.members.iter().zip(&members(list)).all(is_same)
    }

    /// Where the member is in `list`: mostly where it was.
    #[inline]
    fn index_in(&self, list: &[RealServer], place: u32) -> Option<usize> {
        let member = self.members.get(place as usize)?;
        match list.get(member.index as usize) {
            Some(real_server) if real_server.id == member.id => Some(member.index as usize),
            _ => list.iter().position(|real_server| real_server.id == member.id),
        }
    }
}

fn members(list: &[RealServer]) -> Box<[Member]> {
    let member = |index: u32| {
        let real_server = &list[index as usize];
        Member {
            index,
            id: real_server.id,
            address: real_server.address,
            port: real_server.port,
            weight: real_server.table_weight(),
        }
    };
    ascending(list).into_iter().map(member).collect()
}
