//! `mh`, Maglev hashing: a table that moves few clients when an RS comes or goes ([`maglev`](crate::maglev)); the slot
//! is a hash of the client's address, with `mh-port` also of its port.
//!
//! Matches `net/netfilter/ipvs/ip_vs_mh.c` but for how the table is filled. An RS keeps its slots when its weight goes
//! to 0; it is replaced, then or while it is overloaded, only with `mh-fallback`.

use crate::hash::fold;
use crate::maglev::{Slots, ascending, client_hash};
use crate::{RealServer, Request, SchedulerFlags};

/// Index of the RS of each slot.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots,
}

impl Table {
    pub(crate) fn new(real_servers: &[RealServer]) -> Self {
        let order = ascending(real_servers);
        let places = Slots::new(real_servers, &order);
        Table { slots: places.renumbered(order.len(), |_, place| order[place as usize]) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{real_server, request};

    const NONE: SchedulerFlags = SchedulerFlags { fallback: false, port: false, flag_3: false };
    const PORT: SchedulerFlags = SchedulerFlags { port: true, ..NONE };
    const FALLBACK: SchedulerFlags = SchedulerFlags { fallback: true, ..NONE };

    /// 10.0.0.11:80 with weight 3, 10.0.0.12:80 with 1, 10.0.0.13:8080 with 2.
    fn three() -> Vec<RealServer> {
        let with = |(last, weight, port)| RealServer {
            address: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
            port,
            ..real_server(last.into(), weight)
        };
        [(11, 3, 80), (12, 1, 80), (13, 2, 8080)].map(with).to_vec()
    }

    fn from(client: &str) -> Request {
        Request { client: client.parse().unwrap(), client_port: 40_000, ..request() }
    }

    fn slots_of(table: &Table) -> Vec<u32> {
        (0..table.slots.count()).map(|slot| table.slots.at(slot).unwrap()).collect()
    }

    /// Worked out apart from this code, in another language.
    #[test]
    fn mh_table_and_slots_are_those_worked_out_by_hand() {
        let list = three();
        let table = Table::new(&list);
        let slots = slots_of(&table);
        let first = [1, 2, 2, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0, 2, 2, 1, 0, 2, 2, 1, 0, 0, 2, 1];
        assert_eq!(slots[..24], first);
        let counts = [0, 1, 2].map(|index| slots.iter().filter(|&&slot| slot == index).count());
        assert_eq!(counts, [2047, 682, 1364]);
        for (client, pick, pick_with_port, stand_in) in
            [("198.51.100.7", 0, 2, 2), ("203.0.113.9", 2, 0, 0), ("192.0.2.200", 0, 0, 2)]
        {
            assert_eq!(table.schedule(&list, &from(client), NONE), Some(pick), "{client}");
            assert_eq!(table.schedule(&list, &from(client), PORT), Some(pick_with_port), "{client}");
            let mut quiesced = list.clone();
            quiesced[pick].weight = 0;
            assert_eq!(table.schedule(&quiesced, &from(client), NONE), None, "{client}");
            assert_eq!(table.schedule(&quiesced, &from(client), FALLBACK), Some(stand_in), "{client}");
        }
    }

    #[test]
    fn mh_of_two_directors_agrees_whatever_the_order_of_addition() {
        let list = three();
        let clients: Vec<_> = (0..200).map(|last| from(&format!("198.51.100.{last}"))).collect();
        let ids = |list: &[RealServer]| -> Vec<u32> {
            let table = Table::new(list);
            clients.iter().map(|client| list[table.schedule(list, client, NONE).unwrap()].id).collect()
        };
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            assert_eq!(ids(&order.map(|index| list[index].clone())), ids(&list), "{order:?}");
        }
    }

    #[test]
    fn mh_weight_zero_and_back_moves_nobody_else() {
        let list = three();
        let mut quiesced = list.clone();
        quiesced[0].weight = 0;
        assert_eq!(slots_of(&Table::new(&quiesced)), slots_of(&Table::new(&list)));
        quiesced.iter_mut().for_each(|real_server| real_server.weight = 0);
        let nobody = Table::new(&quiesced);
        assert_eq!(nobody.schedule(&quiesced, &from("198.51.100.7"), FALLBACK), None);
    }
}
