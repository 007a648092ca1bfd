//! What a forwarding method needs, as the workers read it, and what it adds to a packet.

use ctl::config::{self, Forwarding, RealServerConfig, TunnelChecksum, TunnelConfig, TunnelType};
use dataplane::snapshot::{
    ClientAddress, ForwardingMethod, LocalRange, Translation, Tunnel, TunnelKind, Way,
};

use super::local_addresses::LocalPools;
use crate::topology::Route;

/// The forwarding method as workers name it.
pub(super) fn method(forwarding: Forwarding) -> ForwardingMethod {
    match forwarding {
        Forwarding::Dr => ForwardingMethod::Direct,
        Forwarding::Tunnel => ForwardingMethod::Tunnel,
        Forwarding::Nat => ForwardingMethod::Nat,
        Forwarding::FullNat => ForwardingMethod::FullNat,
    }
}

/// What the method of `real_server`, which `route` leads to, needs. None: a tunnel for whose packets the director has no
/// source, which validation refuses.
pub(super) fn way(real_server: &RealServerConfig, route: &Route, pools: &LocalPools) -> Option<Way> {
    if let Some(tunnel) = real_server.tunnel() {
        return Tunnel::new(kind(tunnel), route.packet_source?, real_server.address).map(Way::Tunnel);
    }
    if !real_server.forwarding.is_nat() {
        return Some(Way::Direct);
    }
    Some(Way::Translate(Translation {
        address: real_server.address,
        port: real_server.port.unwrap_or(0),
        client_address: match real_server.client_address {
            config::ClientAddress::None => ClientAddress::None,
            config::ClientAddress::Toa => ClientAddress::Toa,
            config::ClientAddress::ProxyV2 => ClientAddress::ProxyV2,
        },
        local_addresses: pools.of(route.interface, real_server.address).unwrap_or(LocalRange::ALL),
    }))
}

/// What `remcsum` adds is for packets that the sender's own host made; forwarded ones have the checksum alone.
fn kind(tunnel: TunnelConfig) -> TunnelKind {
    let has_checksum = tunnel.checksum != TunnelChecksum::None;
    match tunnel.kind {
        TunnelType::Ipip => TunnelKind::Ipip,
        TunnelType::Gre => TunnelKind::Gre { has_checksum },
        TunnelType::Gue => TunnelKind::Gue { port: tunnel.port.unwrap_or(0), has_checksum },
    }
}

/// Bytes that the method adds in front of a packet: the MTU for what clients send is so much smaller.
pub(super) fn overhead(way: &Way) -> u16 {
    match way {
        Way::Tunnel(tunnel) => tunnel.overhead(),
        Way::Direct | Way::Translate(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ctl::config::NatConfig;
    use dataplane::snapshot::InterfaceId;

    use super::*;
    use crate::topology::two_ports;

    /// Towards `next_hop` behind interface 0.
    fn route(next_hop: IpAddr, source: Option<&str>) -> Route {
        let packet_source = source.map(|source| source.parse().unwrap());
        let source = packet_source.unwrap_or(next_hop);
        Route { interface: InterfaceId(0), source, packet_source, next_hop }
    }

    fn real_server(address: &str, tunnel: &str) -> RealServerConfig {
        let text = format!("address = '{address}'\nforwarding = 'tunnel'\ntunnel = {tunnel}\n");
        let service = format!(
            "[[services]]\naddress = '192.0.2.10'\nprotocol = 'tcp'\nport = 80\n[[services.real_servers]]\n{text}"
        );
        config::Config::from_toml(&service, "test").unwrap().services.remove(0).real_servers.remove(0)
    }

    #[test]
    fn tunnel_costs_what_its_headers_take() {
        for (address, tunnel, bytes) in [
            ("10.0.0.11", "{ type = 'ipip' }", 20),
            ("2001:db8::11", "{ type = 'ipip' }", 40),
            ("10.0.0.11", "{ type = 'gre' }", 24),
            ("10.0.0.11", "{ type = 'gre', checksum = 'csum' }", 28),
            ("10.0.0.11", "{ type = 'gue', port = 6080 }", 32),
            ("10.0.0.11", "{ type = 'gue', port = 6080, checksum = 'csum' }", 32),
            ("2001:db8::11", "{ type = 'gue', port = 6080, checksum = 'remcsum' }", 52),
        ] {
            let real_server = real_server(address, tunnel);
            let source = match real_server.address {
                IpAddr::V4(_) => "10.0.0.1",
                IpAddr::V6(_) => "2001:db8::1",
            };
            let route = route(real_server.address, Some(source));
            let way = way(&real_server, &route, &LocalPools::default()).unwrap();
            assert_eq!(overhead(&way), bytes, "{address} {tunnel}");
        }
        assert_eq!(overhead(&Way::Direct), 0);
    }

    #[test]
    fn way_says_what_the_method_needs() {
        let nat = NatConfig { local_addresses: vec!["10.0.0.200".parse().unwrap()] };
        let pools = LocalPools::new(&nat, &two_ports());
        let gue = real_server("10.0.0.11", "{ type = 'gue', port = 6080, checksum = 'csum' }");
        let kind = TunnelKind::Gue { port: 6080, has_checksum: true };
        let from_dip = route(gue.address, Some("10.0.0.1"));
        let tunnel = Tunnel::new(kind, from_dip.source, gue.address).unwrap();
        assert_eq!(way(&gue, &from_dip, &pools), Some(Way::Tunnel(tunnel)));
        assert_eq!(way(&gue, &route(gue.address, None), &pools), None);
        let mut translated = RealServerConfig::new(gue.address);
        assert_eq!(way(&translated, &from_dip, &pools), Some(Way::Direct));
        translated.port = Some(8080);
        translated.forwarding = Forwarding::FullNat;
        translated.client_address = config::ClientAddress::Toa;
        let expected = Translation {
            address: gue.address,
            port: 8080,
            client_address: ClientAddress::Toa,
            local_addresses: LocalRange { start: 0, end: 1 },
        };
        assert_eq!(way(&translated, &from_dip, &pools), Some(Way::Translate(expected)));
        let elsewhere = Route { interface: InterfaceId(1), ..from_dip };
        let expected = Translation { local_addresses: LocalRange::ALL, ..expected };
        assert_eq!(way(&translated, &elsewhere, &pools), Some(Way::Translate(expected)));
    }
}
