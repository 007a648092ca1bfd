//! A consistent hash over a service's RSs that needs no state: for packets of connections that the connection table
//! has no room for. Every worker and every director sends one client's port to the same RS.
//!
//! `mh`'s table ([`maglev`](crate::maglev)), in which others stand in for the RSs of weight 0 and the unavailable ones. Who
//! does is worked out when a version is made, not when a packet comes. Thresholds have no say: what goes by the ring is
//! not counted by them, and whether an RS is over one changes between two packets of a connection. A drained RS keeps
//! its slots, for nobody could tell its connections from new ones. Built by the control thread, read by workers; immutable.
//!
//! Invariant: what an RS has in `slots` it also has in `resolved` while it is usable, whoever else is.

use std::net::IpAddr;
use std::sync::Arc;

use crate::RealServer;
use crate::hash::fold;
use crate::maglev::{Slots, ascending, client_hash};

/// Other slots that are looked at for a stand-in before it is the next RS in order, which would be the same one for all
/// where those that are left are neighbours. Where a tenth of the RSs is usable, one slot in 848 gets so far.
const PROBES: u32 = 64;

/// Consistent hash over a service's real servers, without state.
///
/// Its table is `mh`'s: the order of the list does not matter, weights do, and an RS whose weight goes to 0 gets its slots
/// back with its weight. 8 KiB up to 4093 RSs, and as much again while one of them is not usable.
#[derive(Debug)]
pub struct HashRing {
    /// Places in `members`. All versions of a list have the same while its RSs and their weights stay.
    slots: Arc<Slots>,
    /// The same, with others in the slots of RSs that are not usable; `slots` itself where all are. Empty if none is.
    resolved: Arc<Slots>,
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
    is_usable: bool,
}

impl HashRing {
    /// The ring of these RSs. Control thread: allocates.
    pub fn new(list: &[RealServer]) -> Self {
        let order = ascending(list);
        let slots = Arc::new(Slots::new(list, &order));
        let members = members(list, &order);
        HashRing { resolved: resolved(&slots, &members), slots, members }
    }

    /// The ring of the next version of its list; this one where nothing has changed for it. With the same RSs and weights
    /// (those over 0 that they have or last had) it shares the table, and who stands in for whom where the same RSs are
    /// usable. Control thread: allocates.
    pub fn next_version(self: &Arc<Self>, list: &[RealServer]) -> Arc<Self> {
        if self.is_of(list) {
            return self.clone();
        }
        let order = ascending(list);
        let members = members(list, &order);
        let is_same = |is_same: fn(&Member, &Member) -> bool| {
            self.members.len() == members.len()
                && self.members.iter().zip(&members).all(|(old, new)| is_same(old, new))
        };
        let has_same_slots = is_same(Member::has_slots_of);
        let slots = if has_same_slots { self.slots.clone() } else { Arc::new(Slots::new(list, &order)) };
        let resolved = if has_same_slots && is_same(|old, new| old.is_usable == new.is_usable) {
            self.resolved.clone()
        } else {
            resolved(&slots, &members)
        };
        Arc::new(HashRing { slots, resolved, members })
    }

    /// Index into `list` of the RS for this client; `None` where none is usable: all are unavailable or have weight 0 and
    /// are not drained.
    ///
    /// `list` is the one that the ring was made for; any other ends in no panic.
    #[inline]
    pub fn pick(&self, list: &[RealServer], client: IpAddr, client_port: u16) -> Option<usize> {
        let place = self.resolved.at(client_hash(fold(client), client_port, 0))?;
        let member = self.members.get(place as usize)?;
        let index = member.index as usize;
        list.get(index).filter(|real_server| real_server.id == member.id).map(|_| index)
    }

    /// Whether a ring made of this list would be equal.
    fn is_of(&self, list: &[RealServer]) -> bool {
        let is_of_list = |member: &Member| {
            let real_server = list.get(member.index as usize);
            real_server.is_some_and(|real_server| Member::of(real_server, member.index) == *member)
        };
        list.len() == self.members.len() && self.members.iter().all(is_of_list)
    }
}

impl Member {
    fn of(real_server: &RealServer, index: u32) -> Self {
        Member {
            index,
            id: real_server.id,
            address: real_server.address,
            port: real_server.port,
            weight: real_server.table_weight(),
            is_usable: real_server.available && (real_server.weight > 0 || real_server.is_drained),
        }
    }

    /// All that decides which slots it has among given others.
    fn has_slots_of(&self, other: &Member) -> bool {
        (self.address, self.port, self.weight) == (other.address, other.port, other.weight)
    }
}

fn members(list: &[RealServer], order: &[u32]) -> Box<[Member]> {
    order.iter().map(|&index| Member::of(&list[index as usize], index)).collect()
}

/// The table with a stand-in in each slot whose RS is not usable: the RS of the first of [`PROBES`] slots that
/// is, each the hash of the slot and a number, as `mh-fallback` looks for one; else the next in order from the last of
/// them.
fn resolved(slots: &Arc<Slots>, members: &[Member]) -> Arc<Slots> {
    if members.iter().all(|member| member.is_usable || member.weight == 0) {
        return slots.clone();
    }
    let Some(first) = members.iter().position(|member| member.is_usable) else {
        return Arc::new(Slots::empty());
    };
    let mut next = first as u32;
    let mut next_from: Vec<u32> = Vec::with_capacity(members.len());
    for (place, member) in members.iter().enumerate().rev() {
        if member.is_usable {
            next = place as u32;
        }
        next_from.push(next);
    }
    next_from.reverse();

    let is_usable = |place: &u32| members[*place as usize].is_usable;
    let stand_in = |slot, place| {
        if is_usable(&place) {
            return place;
        }
        let probe = |offset| slots.at(client_hash(slot, 0, offset)).unwrap_or(place);
        let mut probed = (1..=PROBES).map(probe);
        probed.find(is_usable).unwrap_or_else(|| next_from[probe(PROBES) as usize])
    };
    Arc::new(slots.renumbered(members.len(), stand_in))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::Thresholds;
    use crate::fixture::{real_server, real_servers};

    fn client(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc633_6400 + number).into()
    }

    /// The ids that 500 clients get of a ring that is made for the list.
    fn ids(ring: &HashRing, list: &[RealServer]) -> Vec<Option<u32>> {
        let pick = |number| ring.pick(list, client(number), 40_000).map(|index| list[index].id);
        (0..500).map(pick).collect()
    }

    fn quiesced(list: &[RealServer], index: usize) -> Vec<RealServer> {
        let mut list = list.to_vec();
        list[index].weight = 0;
        list
    }

    fn unavailable(list: &[RealServer], index: usize) -> Vec<RealServer> {
        let mut list = list.to_vec();
        list[index].available = false;
        list
    }

    #[test]
    fn hash_ring_of_a_small_service_is_eight_kibibytes() {
        for (count, slots) in [(0, 0), (1, 4093), (2, 4093), (1000, 4093), (4093, 4093), (4094, 131_071)] {
            let ring = HashRing::new(&real_servers(&vec![1; count]));
            assert_eq!(ring.slots.count(), slots, "{count} RSs");
            assert!(matches!(*ring.slots, Slots::Narrow(_)));
            assert!(Arc::ptr_eq(&ring.slots, &ring.resolved), "no second table");
        }
    }

    /// A table that is sized by the number of RSs moves most clients at each of its steps.
    #[test]
    fn hash_ring_moves_few_clients_when_a_real_server_comes_whatever_their_number() {
        for count in [2, 5, 10, 20, 40, 81, 163, 327] {
            let list = real_servers(&vec![1; count]);
            let mut longer = vec![real_server(count as u32, 1)];
            longer.extend(list.iter().cloned());
            let newcomer = Some(longer[0].id);
            let (before, after) = (HashRing::new(&list), HashRing::new(&longer));
            let picks = ids(&before, &list).into_iter().zip(ids(&after, &longer));
            let moved = picks.filter(|(before, after)| before != after && *after != newcomer).count();
            assert!(moved <= 30, "{moved} of 500 clients moved at {count} RSs");
        }
    }

    #[test]
    fn hash_ring_does_not_depend_on_the_order_of_the_list() {
        let list = unavailable(&real_servers(&[1, 2, 3, 4]), 1);
        let ring = Arc::new(HashRing::new(&list));
        let mut reversed = list.clone();
        reversed.reverse();
        assert_eq!(ids(&HashRing::new(&reversed), &reversed), ids(&ring, &list));
        assert_eq!(ids(&ring.next_version(&reversed), &reversed), ids(&ring, &list));
    }

    #[test]
    fn hash_ring_of_a_reordered_list_shares_both_tables_and_knows_where_everybody_is() {
        let list = unavailable(&real_servers(&[1, 2, 3, 4]), 1);
        let ring = Arc::new(HashRing::new(&list));
        let mut reordered = list.clone();
        reordered.rotate_left(1);
        let next = ring.next_version(&reordered);
        assert!(Arc::ptr_eq(&ring.slots, &next.slots) && Arc::ptr_eq(&ring.resolved, &next.resolved));
        assert_eq!(ids(&next, &reordered), ids(&ring, &list));
        reordered[1].id = 77;
        let of_other_slots = ring.next_version(&reordered);
        assert!(Arc::ptr_eq(&ring.resolved, &of_other_slots.resolved));
        assert!(ids(&of_other_slots, &reordered).contains(&Some(77)));
    }

    #[test]
    fn hash_ring_is_the_very_same_where_nothing_changed_for_it() {
        let list = unavailable(&real_servers(&[1, 2, 3]), 2);
        let ring = Arc::new(HashRing::new(&list));
        let mut same = list.clone();
        same[0].has_threshold = true;
        same[0].joined_seconds = Some(7);
        same[1].counts = Default::default();
        assert!(Arc::ptr_eq(&ring, &ring.next_version(&same)));
    }

    #[test]
    fn hash_ring_shares_its_table_while_members_and_weights_are_the_same() {
        let list = real_servers(&[1, 2, 3]);
        let ring = Arc::new(HashRing::new(&list));
        let is_shared = |list: &[RealServer]| Arc::ptr_eq(&ring.slots, &ring.next_version(list).slots);
        for out in [quiesced(&list, 1), unavailable(&list, 2)] {
            let next = ring.next_version(&out);
            assert!(is_shared(&out) && !Arc::ptr_eq(&next.slots, &next.resolved));
            let back = next.next_version(&list);
            assert!(Arc::ptr_eq(&back.slots, &back.resolved) && Arc::ptr_eq(&back.slots, &ring.slots));
        }
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
    fn hash_ring_has_others_stand_in_and_moves_nobody_else() {
        let list = real_servers(&[1; 5]);
        let before = ids(&HashRing::new(&list), &list);
        for out in [quiesced(&list, 2), unavailable(&list, 2)] {
            let gone = Some(out[2].id);
            let after = ids(&HashRing::new(&out), &out);
            let mut stand_ins: Vec<_> = Vec::new();
            for (&before, &after) in before.iter().zip(&after) {
                assert!(after.is_some() && after != gone);
                if before == gone {
                    stand_ins.push(after);
                } else {
                    assert_eq!(before, after);
                }
            }
            stand_ins.sort_unstable();
            stand_ins.dedup();
            assert_eq!(stand_ins.len(), 4, "they share the clients");
        }
    }

    #[test]
    fn hash_ring_keeps_a_drained_real_server_in_its_place_unless_it_is_unavailable() {
        let list = real_servers(&[1; 5]);
        let before = ids(&HashRing::new(&list), &list);
        let mut drained = quiesced(&list, 2);
        drained[2].is_drained = true;
        assert_eq!(ids(&HashRing::new(&drained), &drained), before);
        let gone = unavailable(&drained, 2);
        assert!(!ids(&HashRing::new(&gone), &gone).contains(&Some(list[2].id)));
    }

    /// A slot in which somebody stands in already has somebody else only if that one goes too.
    #[test]
    fn hash_ring_second_real_server_that_goes_moves_no_client_of_a_third() {
        let list = unavailable(&real_servers(&[3, 1, 4, 1, 5]), 0);
        let both = quiesced(&list, 3);
        let gone = Some(list[3].id);
        let picks = ids(&HashRing::new(&list), &list).into_iter().zip(ids(&HashRing::new(&both), &both));
        for (before, after) in picks {
            assert!(before == after || before == gone);
        }
    }

    #[test]
    fn hash_ring_of_one_usable_real_server_among_many_is_all_that_one_s_and_of_none_is_none() {
        let mut list = real_servers(&[1; 300]);
        list.iter_mut().for_each(|real_server| real_server.weight = 0);
        assert_eq!(ids(&HashRing::new(&list), &list), vec![None; 500]);
        list[100].weight = 1;
        assert_eq!(ids(&HashRing::new(&list), &list), vec![Some(list[100].id); 500]);
        let none = unavailable(&list, 100);
        assert_eq!(ids(&HashRing::new(&none), &none), vec![None; 500]);
        assert_eq!(ids(&HashRing::new(&[]), &[]), vec![None; 500]);
        let never_had_a_weight = [RealServer { last_weight: 0, ..real_server(1, 0) }, real_server(2, 1)];
        assert_eq!(ids(&HashRing::new(&never_had_a_weight), &never_had_a_weight), vec![Some(2); 500]);
    }

    #[test]
    fn hash_ring_does_not_look_at_thresholds() {
        let mut list = real_servers(&[1, 1, 1]);
        let ring = HashRing::new(&list);
        let before = ids(&ring, &list);
        list[0].has_threshold = true;
        list[0].counts.set_thresholds(Thresholds { upper: 1, lower: 0 });
        list[0].counts.open();
        assert!(list[0].counts.is_overloaded());
        assert_eq!(ids(&ring, &list), before);
        assert_eq!(ids(&HashRing::new(&list), &list), before);
    }

    #[test]
    fn hash_ring_with_a_foreign_list_stays_inside_it() {
        let ring = HashRing::new(&real_servers(&[1; 9]));
        for foreign in [real_servers(&[1; 3]), vec![real_server(77, 1)], Vec::new()] {
            ids(&ring, &foreign);
        }
    }

    proptest! {
        /// Whatever came before, a version is the ring of its list, and gives nobody who is not usable.
        #[test]
        fn hash_ring_after_any_history_is_that_of_its_list(
            weights in vec(1..9_u32, 1..12),
            changes in vec((any::<prop::sample::Index>(), 0..4_u32, any::<bool>()), 1..12),
        ) {
            let mut list = real_servers(&weights);
            let mut ring = Arc::new(HashRing::new(&list));
            for (which, weight, available) in changes {
                let changed = &mut list[which.index(weights.len())];
                (changed.weight, changed.available) = (weight, available);
                if weight > 0 {
                    changed.last_weight = weight;
                }
                ring = ring.next_version(&list);
                let picks = ids(&ring, &list);
                prop_assert_eq!(&picks, &ids(&HashRing::new(&list), &list));
                let can = |rs: &RealServer| rs.available && rs.weight > 0;
                prop_assert_eq!(picks[0].is_some(), list.iter().any(can));
                let picked = list.iter().filter(|rs| picks.contains(&Some(rs.id)));
                prop_assert!(picked.into_iter().all(can));
            }
        }
    }
}
