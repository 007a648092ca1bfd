//! The timeouts of a snapshot: everybody's first, then each different set that services have of their own, once.

use std::collections::HashMap;

use ctl::config::Timeouts;
use dataplane::connection::StateTimeouts;

/// See the module.
pub(super) struct TimeoutTable {
    everybody: Timeouts,
    entries: Vec<StateTimeouts>,
    places: HashMap<Vec<Option<u32>>, u16>,
}

impl TimeoutTable {
    /// With what `connections` says, and IPVS where that says nothing.
    pub(super) fn new(connections: &Timeouts) -> Self {
        let everybody = connections.or(&Timeouts::IPVS);
        TimeoutTable { everybody, entries: vec![compiled(&everybody)], places: HashMap::new() }
    }

    /// Place of the timeouts of a service that says these.
    pub(super) fn place(&mut self, own: &Timeouts) -> u16 {
        let all = own.or(&self.everybody);
        if all == self.everybody {
            return 0;
        }
        let next = u16::try_from(self.entries.len()).expect("validation bounds their number");
        let place = *self.places.entry(all.values()).or_insert(next);
        if place == next {
            self.entries.push(compiled(&all));
        }
        place
    }

    /// As workers read it.
    pub(super) fn into_entries(self) -> Vec<StateTimeouts> {
        self.entries
    }
}

fn compiled(all: &Timeouts) -> StateTimeouts {
    StateTimeouts::from_seconds(all.values().into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use dataplane::clock::TICKS_PER_SECOND;
    use dataplane::connection::ConnectionState;

    use super::*;

    #[test]
    fn every_timeout_is_that_of_its_state() {
        for (place, state) in ConnectionState::ALL.iter().enumerate() {
            let mut timeouts = Timeouts::IPVS;
            *timeouts.values_mut()[place] = Some(77);
            let name = Timeouts::NAMES[place].split_once('_').map_or("udp", |(_, name)| name);
            assert_eq!(compiled(&timeouts).ticks(*state), 77 * TICKS_PER_SECOND, "{name}");
        }
        assert_eq!(Timeouts::NAMES.len(), ConnectionState::ALL.len());
    }

    #[test]
    fn equal_timeouts_share_a_place_and_those_of_everybody_the_first() {
        let connections = Timeouts { udp: Some(30), ..Timeouts::default() };
        let mut table = TimeoutTable::new(&connections);
        let own = Timeouts { tcp_established: Some(60), ..Timeouts::default() };
        assert_eq!(table.place(&Timeouts::default()), 0);
        assert_eq!(table.place(&Timeouts { udp: Some(30), ..Timeouts::default() }), 0);
        assert_eq!(table.place(&own), 1);
        assert_eq!(table.place(&Timeouts { udp: Some(31), ..own }), 2);
        assert_eq!(table.place(&Timeouts { udp: Some(30), ..own }), 1);
        let entries = table.into_entries();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].ticks(ConnectionState::Udp), 30 * TICKS_PER_SECOND);
        assert_eq!(entries[0].ticks(ConnectionState::Established), 900 * TICKS_PER_SECOND);
        assert_eq!(entries[1].ticks(ConnectionState::Established), 60 * TICKS_PER_SECOND);
        assert_eq!(entries[1].ticks(ConnectionState::Udp), 30 * TICKS_PER_SECOND);
    }
}
