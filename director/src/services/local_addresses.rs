//! Which of full NAT's local addresses stand for clients towards a real server: those of the interface that leads to it, where
//! there are any, so that it answers into a network that it is in; else all of its family.

use std::collections::HashMap;
use std::net::IpAddr;

use ctl::config::NatConfig;
use dataplane::snapshot::{InterfaceId, LocalAddresses, LocalRange};

use crate::topology::Topology;

/// The local addresses, and where those of each interface are among them.
#[derive(Debug, Default)]
pub(crate) struct LocalPools {
    addresses: LocalAddresses,
    /// By interface; true: IPv6.
    ranges: HashMap<(InterfaceId, bool), LocalRange>,
}

impl LocalPools {
    /// Of the configured addresses, each of which is in a connected network.
    pub(crate) fn new(nat: &NatConfig, topology: &Topology) -> LocalPools {
        let interface = |address| Some((topology.connection(address)?.interface, address));
        let mut located: Vec<_> =
            nat.local_addresses.iter().filter_map(|address| interface(*address)).collect();
        located.sort_by_key(|(interface, _)| *interface);
        let mut pools = LocalPools::default();
        for (interface, address) in located {
            let LocalAddresses { ipv4, ipv6 } = &mut pools.addresses;
            let place = match address {
                IpAddr::V4(_) => ipv4.len(),
                IpAddr::V6(_) => ipv6.len(),
            } as u16;
            match address {
                IpAddr::V4(address) => ipv4.push(address),
                IpAddr::V6(address) => ipv6.push(address),
            }
            let first = LocalRange { start: place, end: place };
            let range = pools.ranges.entry((interface, address.is_ipv6())).or_insert(first);
            range.end = place + 1;
        }
        pools
    }

    /// All, those of one interface side by side.
    pub(crate) fn addresses(&self) -> &LocalAddresses {
        &self.addresses
    }

    /// Those of the family of `real_server` on the interface that leads to it; none: it has to do with the others.
    pub(crate) fn of(&self, interface: InterfaceId, real_server: IpAddr) -> Option<LocalRange> {
        self.ranges.get(&(interface, real_server.is_ipv6())).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::two_ports;

    #[test]
    fn local_addresses_of_an_interface_lie_side_by_side() {
        let texts =
            ["192.0.2.200", "10.0.0.200", "2001:db8:100::200", "192.0.2.201", "10.100.0.200", "10.0.7.200"];
        let nat = NatConfig { local_addresses: texts.map(|text| text.parse().unwrap()).to_vec() };
        let pools = LocalPools::new(&nat, &two_ports());
        let addresses = pools.addresses().ipv4.iter().map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(addresses, ["10.0.0.200", "10.0.7.200", "10.100.0.200", "192.0.2.200", "192.0.2.201"]);
        let range = |interface, real_server: &str| {
            let range = pools.of(InterfaceId(interface), real_server.parse().unwrap())?;
            Some((range.start, range.end))
        };
        assert_eq!(range(0, "10.0.0.11"), Some((0, 2)));
        assert_eq!(range(1, "10.100.0.11"), Some((2, 3)));
        assert_eq!(range(2, "192.0.2.11"), Some((3, 5)));
        assert_eq!(range(1, "2001:db8:100::11"), Some((0, 1)));
        assert_eq!(range(2, "2001:db8::11"), None);
    }
}
