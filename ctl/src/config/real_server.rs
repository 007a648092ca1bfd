//! Real servers: what names one, and how packets reach it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ServiceId;
use crate::mac::MacAddress;

/// A real server of a virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealServerConfig {
    /// The RIP, in a directly connected network or one that a route leads to.
    pub address: IpAddr,
    /// The port on which it receives, under NAT and full NAT. None: the service's own, or the one that the client
    /// chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Share of new connections, 0 to 65535; 0 gets none.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// The MAC address, instead of asking for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// How packets reach it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forwarding: Forwarding,
    /// What the client's address is handed on by, under full NAT and TCP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_address: ClientAddress,
    /// From so many connections on it gets no new ones (`ipvsadm -x`); 0: no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upper_threshold: u32,
    /// Below so many it gets new ones again (`ipvsadm -y`); 0: below three quarters of `upper_threshold`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lower_threshold: u32,
    // Tables last, so that TOML can write them.
    /// How `tunnel` encapsulates. None: IPIP; the default is kept as none, see [`TunnelConfig::unless_default`].
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "tunnel_unless_default")]
    pub tunnel: Option<TunnelConfig>,
    /// Draining: no new connections, whatever the weight.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::drain")]
    pub drain: Option<Drain>,
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Direct routing: as they are, to its MAC address (`ipvsadm -g`).
    #[default]
    Dr,
    /// Within packets to its own address (`ipvsadm -i`).
    Tunnel,
    /// With its own address instead of the VIP; replies pass the director (`ipvsadm -m`).
    Nat,
    /// NAT that replaces the client's address too, by one of [`NatConfig`](super::NatConfig)'s.
    FullNat,
}

/// How a tunnel encapsulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelConfig {
    /// What the outer packet is; `type` in text.
    #[serde(rename = "type", default)]
    pub kind: TunnelType,
    /// UDP port of GUE, which no other type has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Checksum of the outer header, in GRE and GUE.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checksum: TunnelChecksum,
}

/// Encapsulations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// IP in IP (RFC 2003, RFC 2473).
    #[default]
    Ipip,
    /// Generic Routing Encapsulation (RFC 2784).
    Gre,
    /// Generic UDP Encapsulation (draft-ietf-intarea-gue).
    Gue,
}

/// Checksums of outer headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// None.
    #[default]
    None,
    /// GRE's own or UDP's.
    Csum,
    /// UDP's, and the inner one left to the receiver (remote checksum offload of GUE).
    Remcsum,
}

/// What tells a real server behind full NAT who its client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// Nothing.
    #[default]
    None,
    /// A TCP option (TOA).
    Toa,
    /// A header of the PROXY protocol, version 2, before the first data.
    ProxyV2,
}

/// How a real server is drained. In text `true`, or a table with these keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// It is removed when its last connection is gone, and at this time at the latest (seconds since 1970 UTC). None:
    /// it stays, drained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_unix_seconds: Option<u64>,
    /// Clients that persistence keeps on it still open new connections there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_persistent: bool,
}

/// What names a real server within its service. In text `10.0.0.11`, `10.0.0.11:8080`, `2001:db8::11` or
/// `[2001:db8::11]:8080`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RealServerId {
    /// RIP.
    pub address: IpAddr,
    /// Its port; none where it is the service's own.
    pub port: Option<u16>,
}

fn default_weight() -> u16 {
    1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn tunnel_unless_default<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<TunnelConfig>, D::Error> {
    Ok(Option::<TunnelConfig>::deserialize(deserializer)?.and_then(TunnelConfig::unless_default))
}

impl RealServerConfig {
    /// A real server of weight 1, by direct routing, whose MAC address is asked for.
    pub fn new(address: impl Into<IpAddr>) -> RealServerConfig {
        RealServerConfig {
            address: address.into(),
            port: None,
            weight: default_weight(),
            mac: None,
            forwarding: Forwarding::Dr,
            tunnel: None,
            client_address: ClientAddress::None,
            upper_threshold: 0,
            lower_threshold: 0,
            drain: None,
        }
    }

    /// What names it within its service.
    pub fn id(&self) -> RealServerId {
        RealServerId { address: self.address, port: self.port }
    }

    /// How it is encapsulated, where it is.
    pub fn tunnel(&self) -> Option<TunnelConfig> {
        (self.forwarding == Forwarding::Tunnel).then(|| self.tunnel.unwrap_or_default())
    }

    /// Changes how packets reach it, as `set-rs` does. What is not said stays, as far as the new method has it.
    pub fn set_forwarding(
        &mut self,
        forwarding: Option<Forwarding>,
        tunnel: Option<TunnelConfig>,
        client_address: Option<ClientAddress>,
    ) {
        if let Some(forwarding) = forwarding {
            if forwarding != Forwarding::Tunnel {
                self.tunnel = None;
            }
            if forwarding != Forwarding::FullNat {
                self.client_address = ClientAddress::None;
            }
            self.forwarding = forwarding;
        }
        if let Some(tunnel) = tunnel {
            self.tunnel = tunnel.unless_default();
        }
        self.client_address = client_address.unwrap_or(self.client_address);
    }
}

impl Forwarding {
    /// Each with its name in configuration and protocol.
    pub const ALL: [(&'static str, Forwarding); 4] = [
        ("dr", Forwarding::Dr),
        ("tunnel", Forwarding::Tunnel),
        ("nat", Forwarding::Nat),
        ("fullnat", Forwarding::FullNat),
    ];

    /// Its name in configuration and protocol.
    pub fn name(self) -> &'static str {
        match self {
            Forwarding::Dr => "dr",
            Forwarding::Tunnel => "tunnel",
            Forwarding::Nat => "nat",
            Forwarding::FullNat => "fullnat",
        }
    }

    /// It rewrites addresses, so that replies pass the director.
    pub fn is_nat(self) -> bool {
        matches!(self, Forwarding::Nat | Forwarding::FullNat)
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl TunnelConfig {
    /// None where it is IPIP, which nothing said means too.
    pub fn unless_default(self) -> Option<TunnelConfig> {
        (self != TunnelConfig::default()).then_some(self)
    }
}

/// As `ipvsadm --tun-info`: `ipip`, `gre:+c`, `gue:6080:r+c`.
impl fmt::Display for TunnelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checksum = match self.checksum {
            TunnelChecksum::None => "-c",
            TunnelChecksum::Csum => "+c",
            TunnelChecksum::Remcsum => "r+c",
        };
        match self.kind {
            TunnelType::Ipip => f.write_str("ipip"),
            TunnelType::Gre => write!(f, "gre:{checksum}"),
            TunnelType::Gue => write!(f, "gue:{}:{checksum}", self.port.unwrap_or_default()),
        }
    }
}

impl TunnelType {
    /// Each with its name.
    pub const ALL: [(&'static str, TunnelType); 3] =
        [("ipip", TunnelType::Ipip), ("gre", TunnelType::Gre), ("gue", TunnelType::Gue)];

    /// Its name in configuration, protocol and ipvsadm.
    pub fn name(self) -> &'static str {
        match self {
            TunnelType::Ipip => "ipip",
            TunnelType::Gre => "gre",
            TunnelType::Gue => "gue",
        }
    }
}

impl fmt::Display for TunnelType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl TunnelChecksum {
    /// Each with its name in configuration and protocol.
    pub const ALL: [(&'static str, TunnelChecksum); 3] = [
        ("none", TunnelChecksum::None),
        ("csum", TunnelChecksum::Csum),
        ("remcsum", TunnelChecksum::Remcsum),
    ];
}

impl ClientAddress {
    /// Each with its name in configuration and protocol.
    pub const ALL: [(&'static str, ClientAddress); 3] =
        [("none", ClientAddress::None), ("toa", ClientAddress::Toa), ("proxy-v2", ClientAddress::ProxyV2)];

    /// Its name in configuration and protocol.
    pub fn name(self) -> &'static str {
        match self {
            ClientAddress::None => "none",
            ClientAddress::Toa => "toa",
            ClientAddress::ProxyV2 => "proxy-v2",
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl RealServerId {
    /// One that receives on the service's own port.
    pub fn new(address: impl Into<IpAddr>) -> RealServerId {
        RealServerId { address: address.into(), port: None }
    }

    /// The name as `service` has it: without the port where that is the service's own.
    pub fn within(self, service: ServiceId) -> RealServerId {
        RealServerId { port: self.port.filter(|port| Some(*port) != service.port()), ..self }
    }
}

impl From<IpAddr> for RealServerId {
    fn from(address: IpAddr) -> RealServerId {
        RealServerId::new(address)
    }
}

impl From<[u8; 4]> for RealServerId {
    fn from(address: [u8; 4]) -> RealServerId {
        RealServerId::new(address)
    }
}

impl fmt::Display for RealServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

impl FromStr for RealServerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // std reads a zone in an IPv6 socket address.
        let id = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(address), _) => RealServerId::new(address),
            (_, Ok(place)) if !text.contains('%') && place.port() != 0 => {
                RealServerId { address: place.ip(), port: Some(place.port()) }
            }
            _ => {
                return Err(format!(
                    "`{text}` is no real server such as 10.0.0.11, 10.0.0.11:8080 or [2001:db8::11]:8080"
                ));
            }
        };
        Ok(id)
    }
}

impl Serialize for RealServerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RealServerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, str::parse)
    }
}
