//! A notation for frames that people read: `eth / ip4 client > vip ttl=1 / tcp 40000 > 80 S`. Layers stand from the outside in,
//! between slashes. What is not said is what a well-behaved host would send: lengths, checksums, next headers, padding to 60
//! bytes. What is said stands, however wrong. Nothing here uses the product's code.
//!
//! | layer | fields |
//! |---|---|
//! | `eth A > B` | `type=`; left out, it is the client's to the director, or the director's to the client in what comes out |
//! | `from rs`, `to rs` | the Ethernet header, with its tag, between a real server and the director |
//! | `vlan 100` | `tpid=0x8100 pcp=0 type=` |
//! | `llc` | the EtherType field is the length |
//! | `arp OP A > B` | `smac= tmac= htype= ptype= hlen= plen=` |
//! | `ip4 A > B` | `ttl=64 tos=0 id=1 df mf off=0 piece=0..8 proto= len= ihl= ver= sum= opt=HEX` |
//! | `ip6 A > B` | `ttl=64 tos=0 flow=0 next= len= ver=` |
//! | `ip A > B` | the one or the other, by the family of the case |
//! | `hbh`, `dopt` | `opt=HEX next= len=` |
//! | `rt` | `type=0 left=0 words=0 next= len=` |
//! | `frag` | `id=1 mf off=0 piece=0..8 next= res=` |
//! | `ah` | `words=4 next=` |
//! | `tcp A > B FLAGS` | `seq=1 ack=0 win=1000 urg=0 doff= sum= mss= opt=HEX flags=` |
//! | `udp A > B` | `len= sum=` |
//! | `sctp A > B` | `tag=1 sum=` |
//! | `chunk TYPE` | `flags=0 len= value=HEX` |
//! | `icmp T/C`, `icmp6 T/C` | `mtu= pointer= id= seq= rest=HEX sum= quote=BYTES` |
//! | `gre` | `flags=0 proto= csum` |
//! | `gue` | `b0=0 proto= flags=0` |
//! | `data N`, `zeros N`, `hex HEX`, `text WORD`, `address A` | payload |
//! | `pad N` | bytes behind the packet that belong to nobody |
//! | `cut N` | the frame ends after N bytes |
//!
//! A number may be `?`, which is whatever the frame has that it is compared with; the port `lport` is the local one that full NAT chose; `len=+1` and `len=-1` are off by one, `sum=bad` is a checksum
//! with a bit wrong. `piece=A..B` makes a fragment of what the inner layers come to as a whole datagram.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

mod build;
mod layer;
pub mod sums;

use std::net::IpAddr;

pub use layer::Layer;

/// Shortest frame that a port hands over; shorter ones come padded with zeros.
pub const FRAME_BYTES_MIN: usize = 60;

/// What the names in frames mean.
pub trait Names {
    /// An address, in the family where it is said.
    fn address(&self, name: &str, is_ipv6: bool) -> Option<IpAddr>;
    /// A MAC address.
    fn mac(&self, name: &str) -> Option<[u8; 6]>;
    /// MAC of a real server, MAC of the director's port towards it and the VLAN between them, 0 where there is none.
    fn link(&self, name: &str) -> Option<([u8; 6], [u8; 6], u16)>;
    /// `ip` is IPv6.
    fn is_ipv6(&self) -> bool;
    /// A port that has a name.
    fn port(&self, name: &str) -> Option<u16>;
}

/// Which way a frame goes, which says what its Ethernet header is where none is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// The layers of a frame, from the outside in.
pub fn parse(text: &str) -> Result<Vec<Layer>, String> {
    text.split(" / ").map(|layer| Layer::parse(layer.trim())).collect()
}

/// A frame, and where it may be cut into segments.
#[derive(Clone, Debug)]
pub struct Built {
    pub bytes: Vec<u8>,
    /// Where layers begin, ascending.
    pub boundaries: Vec<usize>,
    /// Behind the transport header of the packet, where it has one.
    pub headers_end: Option<usize>,
}

/// The frame; `actual` is what a `?` is taken from.
pub fn build(layers: &[Layer], names: &dyn Names, way: Way, actual: Option<&[u8]>) -> Result<Built, String> {
    build::frame(layers, names, way, actual)
}

/// The frame's bytes.
pub fn frame(text: &str, names: &dyn Names, way: Way, actual: Option<&[u8]>) -> Result<Vec<u8>, String> {
    Ok(build(&parse(text)?, names, way, actual)?.bytes)
}

/// Bytes written in hexadecimal.
pub fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>().ok_or(text)?;
    if digits.len() % 2 == 1 {
        return Err(format!("{text}: half a byte"));
    }
    Ok(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}
