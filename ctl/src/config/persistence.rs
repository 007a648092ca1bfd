//! How long and by what a client stays with its real server.

use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::explain::at_key;

/// How long and by what a client stays with its real server (`ipvsadm -p -M --pe`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "PersistenceText")]
pub struct Persistence {
    /// Seconds after its last new connection.
    pub timeout_seconds: u32,
    /// Clients that are one under this mask stay together. In text `netmask` (IPv4) or `prefix_length` (IPv6).
    pub netmask: Netmask,
    /// What a client is known by, instead of its address.
    pub engine: Option<PersistenceEngine>,
}

/// How much of a client's address counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Netmask {
    /// All of it, in either family: every client for itself.
    #[default]
    Host,
    /// These bits of an IPv4 address. All of them are written [`Netmask::Host`]; see [`Netmask::ipv4`].
    V4(Ipv4Addr),
    /// So many leading bits of an IPv6 address, 1 to 127. 128 are written [`Netmask::Host`]; see [`Netmask::ipv6`].
    V6(u8),
}

/// IPVS's persistence engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PersistenceEngine {
    /// SIP's Call-ID, over UDP.
    Sip,
}

impl Persistence {
    /// `ipvsadm -p` without a number.
    pub const TIMEOUT_SECONDS: u32 = 360;
}

impl Default for Persistence {
    fn default() -> Self {
        Persistence { timeout_seconds: Persistence::TIMEOUT_SECONDS, netmask: Netmask::Host, engine: None }
    }
}

impl Netmask {
    /// IPv4's.
    pub fn ipv4(mask: Ipv4Addr) -> Netmask {
        if mask == Ipv4Addr::BROADCAST { Netmask::Host } else { Netmask::V4(mask) }
    }

    /// IPv6's: so many leading bits.
    pub fn ipv6(prefix_length: u8) -> Netmask {
        if prefix_length == 128 { Netmask::Host } else { Netmask::V6(prefix_length) }
    }

    /// The mask of IPv4 clients. IPv6's says nothing of them: all bits.
    pub fn mask(self) -> Ipv4Addr {
        match self {
            Netmask::V4(mask) => mask,
            Netmask::Host | Netmask::V6(_) => Ipv4Addr::BROADCAST,
        }
    }

    /// The prefix length of IPv6 clients. IPv4's says nothing of them: all bits.
    pub fn prefix_length(self) -> u8 {
        match self {
            Netmask::V6(length) => length,
            Netmask::Host | Netmask::V4(_) => 128,
        }
    }
}

/// [`Persistence`] in configuration and protocol.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PersistenceText {
    #[serde(default = "default_timeout")]
    timeout_seconds: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netmask: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix_length: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<PersistenceEngine>,
}

fn default_timeout() -> u32 {
    Persistence::TIMEOUT_SECONDS
}

impl From<Persistence> for PersistenceText {
    fn from(persistence: Persistence) -> Self {
        let Persistence { timeout_seconds, netmask, engine } = persistence;
        let (netmask, prefix_length) = match netmask {
            Netmask::Host => (None, None),
            Netmask::V4(mask) => (Some(mask), None),
            Netmask::V6(length) => (None, Some(length)),
        };
        PersistenceText { timeout_seconds, netmask, prefix_length, engine }
    }
}

impl TryFrom<PersistenceText> for Persistence {
    type Error = String;

    fn try_from(text: PersistenceText) -> Result<Self, String> {
        let PersistenceText { timeout_seconds, netmask, prefix_length, engine } = text;
        let netmask = match (netmask, prefix_length) {
            (None, None) => Netmask::Host,
            (Some(mask), None) => Netmask::ipv4(mask),
            (None, Some(length)) => Netmask::ipv6(length),
            (Some(_), Some(_)) => {
                let message = "give `netmask` for IPv4 clients or `prefix_length` for IPv6 clients, not both";
                return Err(at_key("prefix_length", message));
            }
        };
        Ok(Persistence { timeout_seconds, netmask, engine })
    }
}

impl<'de> Deserialize<'de> for Persistence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize_table::<_, PersistenceText, _>(deserializer)
    }
}
