//! Maglev's table: every RS walks the slots in an order of its own, a hash of its address and port, and they take free
//! ones in rounds, each as many as its turns, until none is left. When one RS goes, the others keep most of theirs.
//!
//! As `net/netfilter/ipvs/ip_vs_mh.c` fills it, but for two things: the RSs have their turn in ascending order of
//! address and port, so that the order in which they were added does not matter; and the table is larger than the
//! kernel's where a round would not fit into that, so that every RS with a weight gets a slot. Control thread.
//!
//! Invariant: the slots depend on the RSs' addresses, ports and weights, and on nothing else.

use crate::RealServer;
use crate::hash::{fold, hsiphash};

/// The kernel's `IP_VS_MH_TAB_SIZE`s, and further primes below powers of two for what does not fit into them: up to
/// 63 turns of 65536 RSs.
const PRIMES: [u32; 15] = [
    251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287, 1_048_573,
    2_097_143, 4_194_301,
];
/// Turns have at most so many bits: half of the kernel's default `CONFIG_IP_VS_MH_TAB_INDEX`, 12.
const TURN_BITS: u32 = 6;
/// The kernel's keys, in both halves: of the first slot, and of the client.
const FIRST_KEY: u64 = 2_654_435_761;
/// Of the step to the next slot.
const STEP_KEY: u64 = 2_654_446_892;

/// The hash that decides a client's slot, before it is reduced to the table's size. `offset` is the probe's.
#[inline]
pub(crate) fn client_hash(folded_client: u32, port: u16, offset: u32) -> u32 {
    hsiphash(offset.wrapping_add(port.into()).wrapping_add(folded_client), FIRST_KEY)
}

/// One number a slot, in two bytes where that is enough.
#[derive(Debug)]
pub(crate) enum Slots {
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl Slots {
    /// The table of the RSs of `real_servers`: in each slot the place of an RS in `order`. Empty if no RS has a weight.
    ///
    /// `order` holds indices into `real_servers` as [`ascending`] gives them. At least `least_slots` slots, if there
    /// is so large a table.
    pub(crate) fn new(real_servers: &[RealServer], order: &[u32], least_slots: u32) -> Self {
        let members: Vec<&RealServer> = order.iter().map(|&index| &real_servers[index as usize]).collect();
        let slots = fill(&members, least_slots);
        if members.len() <= usize::from(u16::MAX) + 1 {
            Slots::Narrow(slots.into_iter().map(|place| place as u16).collect())
        } else {
            Slots::Wide(slots.into_boxed_slice())
        }
    }

    /// How many there are.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        match self {
            Slots::Narrow(slots) => slots.len() as u32,
            Slots::Wide(slots) => slots.len() as u32,
        }
    }

    /// The number in the slot that a hash falls to.
    #[inline]
    pub(crate) fn at(&self, hash: u32) -> Option<u32> {
        let slot = hash.checked_rem(self.count())? as usize;
        match self {
            Slots::Narrow(slots) => slots.get(slot).map(|&place| place.into()),
            Slots::Wide(slots) => slots.get(slot).copied(),
        }
    }

    /// The same slots with other numbers in them.
    pub(crate) fn renumbered(self, numbers: &[u32]) -> Self {
        match self {
            Slots::Narrow(mut slots) => {
                slots.iter_mut().for_each(|place| *place = numbers[usize::from(*place)] as u16);
                Slots::Narrow(slots)
            }
            Slots::Wide(mut slots) => {
                slots.iter_mut().for_each(|place| *place = numbers[*place as usize]);
                Slots::Wide(slots)
            }
        }
    }
}

/// Indices of the list in ascending order of address and port.
pub(crate) fn ascending(real_servers: &[RealServer]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..real_servers.len() as u32).collect();
    order.sort_by_key(|&index| {
        let real_server = &real_servers[index as usize];
        (real_server.address, real_server.port)
    });
    order
}

/// What an RS has of the table while it is being filled.
struct Walk {
    slot: u32,
    step: u32,
    turns: u32,
}

fn fill(members: &[&RealServer], least_slots: u32) -> Vec<u32> {
    let turns = turns(members);
    let round: u64 = turns.iter().map(|&turns| u64::from(turns)).sum();
    if round == 0 {
        return Vec::new();
    }
    let enough = |&&size: &&u32| u64::from(size) >= round.max(least_slots.into());
    let size = *PRIMES.iter().find(enough).unwrap_or(&PRIMES[PRIMES.len() - 1]);

    let walk = |(member, &turns): (&&RealServer, &u32)| {
        let key = fold(member.address).wrapping_add(member.port.into());
        Walk { slot: hsiphash(key, FIRST_KEY) % size, step: hsiphash(key, STEP_KEY) % (size - 1) + 1, turns }
    };
    let mut walks: Vec<Walk> = members.iter().zip(&turns).map(walk).collect();
    const FREE: u32 = u32::MAX;
    let mut slots = vec![FREE; size as usize];
    let mut free = size;
    loop {
        for (place, walk) in walks.iter_mut().enumerate() {
            for _ in 0..walk.turns {
                // A step has no divisor in common with a prime, so that a walk comes by every slot.
                while slots[walk.slot as usize] != FREE {
                    walk.slot = (walk.slot + walk.step) % size;
                }
                slots[walk.slot as usize] = place as u32;
                free -= 1;
                if free == 0 {
                    return slots;
                }
            }
        }
    }
}

/// How many slots in a round each takes: its weight in units of the greatest common divisor, halved for all until the
/// heaviest has at most [`TURN_BITS`] bits; at least one where it has a weight.
fn turns(members: &[&RealServer]) -> Vec<u32> {
    let weights = || members.iter().map(|member| member.table_weight());
    let unit = weights().fold(0, crate::wrr::gcd).max(1);
    let heaviest = weights().max().unwrap_or(0) / unit;
    let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(TURN_BITS);
    weights().map(|weight| ((weight / unit) >> shift).max(u32::from(weight > 0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{real_server, real_servers};

    fn slots(list: &[RealServer], least_slots: u32) -> Vec<u32> {
        let slots = Slots::new(list, &ascending(list), least_slots);
        (0..slots.count()).map(|slot| slots.at(slot).unwrap()).collect()
    }

    #[test]
    fn primes_are_prime_and_ascend() {
        for prime in PRIMES {
            let root = f64::from(prime).sqrt() as u32;
            assert!((2..=root).all(|divisor| prime % divisor != 0), "{prime}");
        }
        assert!(PRIMES.is_sorted());
    }

    /// Weights whose round does not fit into the kernel's table leave none without a slot.
    #[test]
    fn maglev_serves_every_real_server_whatever_the_weights() {
        let cases: [(Vec<u32>, usize); 4] = [
            (vec![1; 4093], 4093),
            (vec![1; 4094], 8191),
            ((0..300).map(|number| 1 + number % 63).collect(), 16_381),
            (vec![65_535, 1, 1, 65_535, 7], 4093),
        ];
        for (weights, size) in cases {
            let slots = slots(&real_servers(&weights), 4093);
            assert_eq!(slots.len(), size);
            let mut served = vec![0; weights.len()];
            slots.iter().for_each(|&place| served[place as usize] += 1);
            assert!(served.iter().all(|&slots| slots > 0));
        }
    }

    #[test]
    fn maglev_of_nobody_is_empty() {
        assert!(slots(&[], 4093).is_empty());
        let never_had_a_weight = RealServer { last_weight: 0, ..real_server(0, 0) };
        assert!(slots(std::slice::from_ref(&never_had_a_weight), 4093).is_empty());
        let only_one = [never_had_a_weight, real_server(1, 3)];
        assert!(slots(&only_one, 251).iter().all(|&place| place == 1));
    }

    #[test]
    fn maglev_numbers_over_sixteen_bits_are_kept_whole() {
        let list: Vec<RealServer> = (0..65_537).map(|id| real_server(id, 1)).collect();
        let slots = slots(&list, 0);
        assert_eq!(slots.len(), 131_071);
        assert!(slots.contains(&65_536));
    }
}
