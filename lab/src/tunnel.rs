//! The real servers' ends of tunnels, by the kernel's own devices: they take what comes from any director.

use std::net::IpAddr;

use anyhow::Result;

use crate::real_server::RealServer;
use crate::site::Family;
use crate::uml;

/// The port of GUE, which `dissection.lua` knows too.
pub const GUE_PORT: u16 = 6080;

/// The kernel's modules that the ends need.
const MODULES: [&str; 7] = ["ipip", "sit", "ip6_tunnel", "ip_gre", "ip6_gre", "fou", "fou6"];

/// A kind of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IP in IP, of any two families.
    Ipip,
    /// GRE without a checksum.
    Gre,
    /// GRE with one.
    GreChecksum,
    /// GUE without a UDP checksum.
    Gue,
    /// GUE with one.
    GueChecksum,
    /// GUE with remote checksum offload.
    GueRemoteChecksum,
}

impl Kind {
    /// All.
    pub const ALL: [Kind; 6] =
        [Kind::Ipip, Kind::Gre, Kind::GreChecksum, Kind::Gue, Kind::GueChecksum, Kind::GueRemoteChecksum];

    /// The real server's keys in a configuration, from a comma on.
    pub fn configuration(self) -> String {
        let keys = match self {
            Kind::Ipip => "type = \"ipip\"".to_owned(),
            Kind::Gre => "type = \"gre\"".to_owned(),
            Kind::GreChecksum => "type = \"gre\", checksum = \"csum\"".to_owned(),
            Kind::Gue => format!("type = \"gue\", port = {GUE_PORT}"),
            Kind::GueChecksum => format!("type = \"gue\", port = {GUE_PORT}, checksum = \"csum\""),
            Kind::GueRemoteChecksum => format!("type = \"gue\", port = {GUE_PORT}, checksum = \"remcsum\""),
        };
        format!(", tunnel = {{ {keys} }}")
    }

    /// The device that a packet comes out of at its end ([`add_ends`]), once what is between IP and IP was taken off.
    pub fn device(self, inner: Family, outer: Family) -> &'static str {
        match (self, outer, inner) {
            (Kind::Gre | Kind::GreChecksum, Family::V4, _) => "gre4",
            (Kind::Gre | Kind::GreChecksum, Family::V6, _) => "gre6",
            (_, Family::V4, Family::V4) => "tunl0",
            (_, Family::V4, Family::V6) => "sit0",
            (_, Family::V6, _) => "in6",
        }
    }

    /// Bytes that it puts before a packet, the outer header among them.
    pub fn overhead(self, outer: Family) -> usize {
        outer.header_bytes()
            + match self {
                Kind::Ipip => 0,
                Kind::Gre => 4,
                Kind::GreChecksum => 8,
                Kind::Gue | Kind::GueChecksum => 8 + 4,
                Kind::GueRemoteChecksum => 8 + 4 + 8,
            }
    }
}

/// Loads what [`add_ends`] needs.
pub fn load_modules() -> Result<()> {
    uml::load_modules(&MODULES)
}

/// Gives a real server ends of every kind of tunnel to its RIPs. A GRE device takes either packets with a checksum or
/// those without.
pub fn add_ends(server: &RealServer, four: IpAddr, six: IpAddr, gre_checksum: bool) -> Result<()> {
    let host = &server.host;
    // IPv4 and IPv6 in IPv4, IPv4 and IPv6 in IPv6. GUE's packets come to these after their header was taken off.
    host.ip("link set tunl0 up")?;
    host.ip("link set sit0 up")?;
    host.ip(&format!("link add in6 type ip6tnl mode any local {six} remote ::"))?;
    host.ip("link set in6 up")?;
    let (gre, gre6) = if gre_checksum { ("csum", "icsum ocsum") } else { ("", "") };
    host.ip(&format!("link add gre4 type gre local {four} {gre}"))?;
    host.ip("link set gre4 up")?;
    host.ip(&format!("link add gre6 type ip6gre local {six} remote :: {gre6}"))?;
    host.ip("link set gre6 up")?;
    for family in Family::ALL {
        host.ip(&format!("{} fou add port {GUE_PORT} gue", family.option()))?;
    }
    Ok(())
}
