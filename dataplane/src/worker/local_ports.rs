//! Full NAT: which local address and port stands for the client.
//!
//! A local port modulo the number of workers is the index of the worker that has the connection, so no two workers can choose the
//! same one, and who gets a reply knows whose it is. Ports are taken in turn, beginning elsewhere for each real server, so that one
//! that was used comes again as late as can be: a real server may still have it in TIME_WAIT.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::clock::Ticks;
use crate::connection::{ConnectionTable, Tuple};
use crate::snapshot::{LocalAddresses, ServiceKey, Translation};

/// First local port: those below are systems' own.
const PORT_MIN: u32 = 1024;
/// One more than the last.
const PORT_END: u32 = 1 << 16;
/// Ports that are tried. Where nine in ten are used, one search in 700,000 finds none of 128 free.
const TRIES: u32 = 128;
/// The same right after none was found: what comes in a flood then must not cost 128 looks each.
const TRIES_WHEN_DRY: u32 = 4;

/// Where a worker's search for a local port begins.
#[derive(Debug, Default)]
pub(super) struct LocalPorts {
    next: u64,
    dry: Option<Ticks>,
}

/// A worker, of how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) index: u32,
    pub(super) workers: u32,
}

impl Share {
    /// First of the local ports that are this worker's, and how many there are.
    fn ports(self) -> (u32, u32) {
        let workers = self.workers.max(1);
        let first = PORT_MIN.next_multiple_of(workers) + self.index % workers;
        let first = if first >= PORT_MIN + workers { first - workers } else { first };
        (first, (PORT_END.saturating_sub(first)).div_ceil(workers))
    }
}

/// The local addresses to choose from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pool<'a> {
    V4(&'a [Ipv4Addr]),
    V6(&'a [Ipv6Addr]),
    /// This one only.
    One(IpAddr),
}

impl Pool<'_> {
    /// Those that may stand for the clients of a real server.
    pub(super) fn of<'a>(addresses: &'a LocalAddresses, real_server: &Translation) -> Pool<'a> {
        match real_server.address {
            IpAddr::V4(_) => Pool::V4(real_server.local_addresses.of(&addresses.ipv4)),
            IpAddr::V6(_) => Pool::V6(real_server.local_addresses.of(&addresses.ipv6)),
        }
    }

    fn len(self) -> usize {
        match self {
            Pool::V4(addresses) => addresses.len(),
            Pool::V6(addresses) => addresses.len(),
            Pool::One(_) => 1,
        }
    }

    fn get(self, index: usize) -> Option<IpAddr> {
        match self {
            Pool::V4(addresses) => addresses.get(index).map(|&address| address.into()),
            Pool::V6(addresses) => addresses.get(index).map(|&address| address.into()),
            Pool::One(address) => Some(address),
        }
    }
}

impl LocalPorts {
    /// What replies of `real_server`, an address and a port, to a local address are known by, such that `connections` knows none yet.
    /// `service` has the protocol. None where no local port is left, or no local address of the family.
    pub(super) fn choose(
        &mut self,
        pool: Pool,
        real_server: (IpAddr, u16),
        service: &ServiceKey,
        connections: &ConnectionTable,
        share: Share,
        now: Ticks,
    ) -> Option<Tuple> {
        let addresses = pool.len() as u64;
        let (first, ports) = share.ports();
        if addresses == 0 || ports == 0 {
            return None;
        }
        let reply = |address, port| Tuple {
            client: real_server.0,
            client_port: real_server.1,
            service: ServiceKey { address, port, protocol: service.protocol },
        };
        let (of_real_server, _) = reply(real_server.0, 0).key(connections.seed());
        let begin = connections.hash(&of_real_server) >> 32;
        let tries = if self.dry == Some(now) { TRIES_WHEN_DRY } else { TRIES };
        for _ in 0..tries {
            let place = self.next;
            self.next = place.wrapping_add(1);
            let address = pool.get((place % addresses) as usize)?;
            let port = first
                + ((place / addresses).wrapping_add(begin) % u64::from(ports)) as u32 * share.workers.max(1);
            let tuple = reply(address, port as u16);
            let (key, pair) = tuple.key(connections.seed());
            if connections.find(&key, &pair).is_none() {
                return Some(tuple);
            }
        }
        self.dry = Some(now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_all_ports_from_1024_on_by_their_remainder() {
        for workers in [1, 2, 3, 7, 16, 64, 1023, 1024, 1025, 2000] {
            let mut owners = vec![0; 1 << 16];
            for index in 0..workers {
                let (first, ports) = Share { index, workers }.ports();
                for port in (0..ports).map(|place| first + place * workers) {
                    assert_eq!(port % workers, index);
                    owners[port as usize] += 1;
                }
            }
            assert!(owners[..1024].iter().all(|&owners| owners == 0), "{workers}");
            assert!(owners[1024..].iter().all(|&owners| owners == 1), "{workers}");
        }
    }
}
