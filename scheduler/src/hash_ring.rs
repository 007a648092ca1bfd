//! A consistent hash over a service's RSs that needs no state: for packets of connections that the connection table
//! has no room for. Every worker and every director sends one client's port to the same RS.
//!
//! `mh`'s table ([`maglev`](crate::maglev)), but sized to the number of RSs, so that thousands of services stay small.
//! Built by the control thread, read by workers; immutable.

use std::net::IpAddr;
use std::sync::Arc;

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
    /// Places in `members`. All versions of a list have the same while its RSs and their weights stay.
    slots: Arc<Slots>,
    /// Ascending by address and port.
    members: Box<[Member]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    /// Where it is in the list that the ring was made for.
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
        HashRing { slots: slots(list, &order), members: members(list, &order) }
    }

    /// The ring of the next version of its list; this one where nothing has changed for it. With the same RSs and weights
    /// (those over 0 that they have or last had) in another order it shares the table. Control thread: allocates.
    pub fn next_version(self: &Arc<Self>, list: &[RealServer]) -> Arc<Self> {
        let order = ascending(list);
        let members = members(list, &order);
        if self.members == members {
            return self.clone();
        }
        let is_same = self.members.len() == members.len()
            && self.members.iter().zip(&members).all(|(old, new)| old.has_slots_of(new));
        let slots = if is_same { self.slots.clone() } else { slots(list, &order) };
        Arc::new(HashRing { slots, members })
    }

    /// Index into `list` of the RS for this client; `None` when no RS takes connections.
    ///
    /// An RS that takes none (weight 0, unavailable) is passed over by further probes, at most 16, and then along the
    /// list. One over its threshold is passed over too, unless there are only such. `list` is the one that the ring was
    /// made for; any other ends in no panic.
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

    /// Where the member is in `list`; `None` where that is not the ring's.
    #[inline]
    fn index_in(&self, list: &[RealServer], place: u32) -> Option<usize> {
        let member = self.members.get(place as usize)?;
        let index = member.index as usize;
        list.get(index).filter(|real_server| real_server.id == member.id).map(|_| index)
    }
}

impl Member {
    /// All that decides which slots it has among given others.
    fn has_slots_of(&self, other: &Member) -> bool {
        (self.address, self.port, self.weight) == (other.address, other.port, other.weight)
    }
}

fn slots(list: &[RealServer], order: &[u32]) -> Arc<Slots> {
    let least_slots = (list.len() as u32).saturating_mul(SLOTS_EACH).min(SLOTS_MAX);
    Arc::new(Slots::new(list, order, least_slots))
}

fn members(list: &[RealServer], order: &[u32]) -> Box<[Member]> {
    let member = |&index: &u32| {
        let real_server = &list[index as usize];
        Member {
            index,
            id: real_server.id,
            address: real_server.address,
            port: real_server.port,
            weight: real_server.table_weight(),
        }
    };
    order.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::fixture::{real_server, real_servers};

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc633_6400 + number).into()
    }

    fn ids(ring: &HashRing, list: &[RealServer]) -> Vec<Option<u32>> {
        let pick = |number| ring.pick(list, client(number), 40_000).map(|index| list[index].id);
        (0..500).map(pick).collect()
    }

    #[test]
    fn hash_ring_is_small_and_grows_with_the_number_of_real_servers() {
        for (count, slots) in
            [(0, 0), (1, 251), (2, 251), (3, 509), (10, 1021), (100, 16_381), (2000, 131_071)]
        {
            let ring = HashRing::new(&real_servers(&vec![1; count]));
            assert_eq!(ring.slots.count(), slots, "{count} RSs");
        }
    }

    #[test]
    fn hash_ring_does_not_depend_on_the_order_of_the_list() {
        let list = real_servers(&[1, 2, 3, 4]);
        let ring = Arc::new(HashRing::new(&list));
        let mut reversed = list.clone();
        reversed.reverse();
        assert_eq!(ids(&HashRing::new(&reversed), &reversed), ids(&ring, &list));
        assert_eq!(ids(&ring.next_version(&reversed), &reversed), ids(&ring, &list));
    }

    #[test]
    fn hash_ring_of_a_reordered_list_shares_the_table_and_knows_where_everybody_is() {
        let list = real_servers(&[1, 2, 3, 4]);
        let ring = Arc::new(HashRing::new(&list));
        let mut reordered = list.clone();
        reordered.rotate_left(1);
        reordered[0].id = 77;
        let next = ring.next_version(&reordered);
        assert!(Arc::ptr_eq(&ring.slots, &next.slots));
        for place in 0..4 {
            let (old, new) =
                (ring.index_in(&list, place).unwrap(), next.index_in(&reordered, place).unwrap());
            assert_eq!(list[old].address, reordered[new].address);
        }
    }

    #[test]
    fn hash_ring_is_shared_by_the_same_members_and_weights_only() {
        let list = real_servers(&[1, 2, 3]);
        let ring = Arc::new(HashRing::new(&list));
        let is_shared = |list: &[RealServer]| Arc::ptr_eq(&ring.slots, &ring.next_version(list).slots);
        let mut drained = list.clone();
        drained[1].weight = 0;
        drained[2].available = false;
        assert!(is_shared(&list) && is_shared(&drained));
        assert!(Arc::ptr_eq(&ring, &ring.next_version(&drained)), "everybody is where it was");
        let mut heavier = list.clone();
        heavier[0].weight = 9;
        let mut replaced = list.clone();
        replaced[0].address = client(1);
        for other in [&list[1..], &heavier, &replaced, &[]] {
            assert!(!is_shared(other));
            assert_eq!(ids(&ring.next_version(other), other), ids(&HashRing::new(other), other));
        }
    }

    #[test]
    fn hash_ring_passes_over_ineligible_real_servers_and_moves_nobody_else() {
        let list = real_servers(&[1; 5]);
        let ring = HashRing::new(&list);
        let before = ids(&ring, &list);
        for is_weight in [true, false] {
            let mut drained = list.clone();
            if is_weight {
                drained[2].weight = 0
            } else {
                drained[2].available = false
            }
            let gone = Some(drained[2].id);
            for (before, after) in before.iter().zip(ids(&ring, &drained)) {
                assert_ne!(after, gone);
                assert!(*before == gone || *before == after);
            }
        }
        let mut only_one = list.clone();
        only_one.iter_mut().skip(1).for_each(|real_server| real_server.weight = 0);
        assert_eq!(ids(&ring, &only_one), vec![Some(list[0].id); 500]);
        only_one[0].available = false;
        assert_eq!(ids(&ring, &only_one), vec![None; 500]);
        assert_eq!(ids(&HashRing::new(&[]), &[]), vec![None; 500]);
    }

    #[test]
    fn hash_ring_takes_overloaded_real_servers_only_where_there_are_no_others() {
        let mut list = real_servers(&[1, 1, 1]);
        let ring = HashRing::new(&list);
        for index in [0, 1] {
            list[index].has_threshold = true;
            list[index].counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
            list[index].counts.open();
        }
        assert_eq!(ids(&ring, &list), vec![Some(list[2].id); 500]);
        list[2].weight = 0;
        let picked = ids(&ring, &list);
        assert!(picked.contains(&Some(list[0].id)) && picked.contains(&Some(list[1].id)));
        assert!(!picked.contains(&None) && !picked.contains(&Some(list[2].id)));
    }

    #[test]
    fn hash_ring_with_a_foreign_list_stays_inside_it() {
        let ring = HashRing::new(&real_servers(&[1; 9]));
        for foreign in [real_servers(&[1; 3]), vec![real_server(77, 1)], Vec::new()] {
            ids(&ring, &foreign);
        }
    }
}
