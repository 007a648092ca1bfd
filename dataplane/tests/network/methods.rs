//! The forwarding methods of the network's services.

use dataplane::snapshot::{ClientAddress, ForwardingMethod, TunnelKind};

/// Port of GUE.
pub const GUE_PORT: u16 = 6080;

/// How a VIP's packets get to its real server.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    pub name: &'static str,
    pub forwarding: ForwardingMethod,
    pub tunnel: Option<TunnelKind>,
    /// Family of the tunnel where it is not the packet's own.
    outer: Option<Family>,
    pub client_address: ClientAddress,
    /// Port and VLAN of the link to the real server.
    link: (u8, u16),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    V4,
    V6,
}

const DIRECT: Method = Method {
    name: "dr",
    forwarding: ForwardingMethod::Direct,
    tunnel: None,
    outer: None,
    client_address: ClientAddress::None,
    link: (0, 0),
};

const fn tunnel(name: &'static str, kind: TunnelKind, outer: Family) -> Method {
    Method {
        name,
        forwarding: ForwardingMethod::Tunnel,
        tunnel: Some(kind),
        outer: Some(outer),
        link: (1, 0),
        ..DIRECT
    }
}

const fn full_nat(name: &'static str, client_address: ClientAddress) -> Method {
    Method { name, forwarding: ForwardingMethod::FullNat, client_address, link: (1, 0), ..DIRECT }
}

const GRE: TunnelKind = TunnelKind::Gre { has_checksum: false };
const GRE_CSUM: TunnelKind = TunnelKind::Gre { has_checksum: true };
const GUE: TunnelKind = TunnelKind::Gue { port: GUE_PORT, has_checksum: false };
const GUE_CSUM: TunnelKind = TunnelKind::Gue { port: GUE_PORT, has_checksum: true };

/// All of them; `ipip6` and the like are tunnels of IPv6, whatever is inside.
pub const METHODS: [Method; 17] = [
    DIRECT,
    Method { name: "dr-vlan", link: (2, 200), ..DIRECT },
    Method { name: "dr-jumbo", link: (3, 0), ..DIRECT },
    tunnel("ipip", TunnelKind::Ipip, Family::V4),
    tunnel("gre", GRE, Family::V4),
    tunnel("gre-csum", GRE_CSUM, Family::V4),
    tunnel("gue", GUE, Family::V4),
    tunnel("gue-csum", GUE_CSUM, Family::V4),
    tunnel("ipip6", TunnelKind::Ipip, Family::V6),
    tunnel("gre6", GRE, Family::V6),
    tunnel("gre6-csum", GRE_CSUM, Family::V6),
    tunnel("gue6", GUE, Family::V6),
    tunnel("gue6-csum", GUE_CSUM, Family::V6),
    Method { name: "nat", forwarding: ForwardingMethod::Nat, link: (1, 0), ..DIRECT },
    full_nat("fullnat", ClientAddress::None),
    full_nat("fullnat-toa", ClientAddress::Toa),
    full_nat("fullnat-proxy", ClientAddress::ProxyV2),
];

/// The method of this name.
pub fn named(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.name == name)
}

impl Method {
    fn number(&self) -> u8 {
        METHODS.iter().position(|method| method.name == self.name).expect("one of all") as u8
    }

    /// Last byte of the VIP.
    pub fn vip(&self) -> u8 {
        10 + self.number()
    }

    /// Last byte of the RIP.
    pub fn rip(&self) -> u8 {
        11 + self.number()
    }

    /// Number of the network that leads to the real server.
    pub fn network(&self) -> u8 {
        if self.link.1 == 0 { self.link.0 } else { self.link.1 as u8 }
    }

    pub fn link(&self) -> (u8, u16) {
        self.link
    }

    /// MAC address of the real server, or of the gateway to it.
    pub fn mac(&self) -> [u8; 6] {
        match self.tunnel {
            Some(_) => super::GATEWAY_MAC,
            None => [2, 0, 0, 0, 2, self.number()],
        }
    }

    pub fn is_translated(&self) -> bool {
        matches!(self.forwarding, ForwardingMethod::Nat | ForwardingMethod::FullNat)
    }

    /// Family of what the real server gets, where the client's packet is of this one.
    pub fn outer_is_ipv6(&self, is_ipv6: bool) -> bool {
        self.outer.map_or(is_ipv6, |outer| outer == Family::V6)
    }
}
