//! Whole packets as text, layer by layer, and as bytes: what goes in, and what came out to the last bit.
//!
//! ```text
//! ip 198.51.100.7 > 192.0.2.10 df ttl=63 / tcp 40000 > 80 SYN,ACK win=1000 / data=100
//! ip 10.0.0.1 > 10.0.0.11 ttl=63 / udp * > 6080 / gue / ip6 2001:db8:c::7 > 2001:db8:2::10 / udp 40000 > 53
//! ip 10.0.0.254 > 192.0.2.10 / icmp 3/4 mtu=1400 / ip 192.0.2.10 > 198.51.100.7 / tcp 80 > 40000 cut=8
//! ```
//!
//! A field that is not said has its usual value, or the one that follows from the rest: lengths, next protocols,
//! checksums. [`read`] leaves out exactly those fields without which [`build`] makes the same bytes again: so two packets with
//! the same text are equal byte for byte, but for what [`mask`] took out.
//!
//! | module | holds |
//! |---|---|
//! | [`format`](mod@format) | the headers' fields, as a table |
//! | [`text`] | reads and writes the text |
//! | [`build`](mod@build) | text to bytes |
//! | [`read`](mod@read) | bytes to text |
//! | [`mask`](mod@mask) | what is random in the kernel |
//! | [`whole`] | fragments put together, as their receiver does |

use std::collections::BTreeMap;
use std::net::IpAddr;

pub mod build;
pub mod format;
pub mod mask;
pub mod read;
pub mod text;
pub mod whole;

pub use build::build;
pub use format::Kind;
pub use mask::{Known, known_fields, mask};
pub use read::read;
pub use text::parse;

/// One layer of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A header.
    Header(Header),
    /// What is left.
    Data(Vec<u8>),
    /// The start of a frame that came out before, from its IP header on: errors quote it.
    Output(Output),
}

/// A header with the fields that are not as usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which header.
    pub kind: Kind,
    /// Source and destination address of an IP header.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Fields by their name in [`format`](mod@format).
    pub fields: BTreeMap<&'static str, u64>,
    /// What is behind the fixed part, padding included.
    pub options: Vec<u8>,
    /// Only so many bytes of the header are there, and nothing behind it.
    pub cut: Option<usize>,
    /// Only this part of what is behind an IP header, as a fragment.
    pub slice: Option<Slice>,
    /// Random fields, with the number by which equal ones are known.
    pub masked: BTreeMap<&'static str, usize>,
}

/// A fragment: bytes `offset` to `offset + length` of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Bytes before it.
    pub offset: usize,
    /// Its bytes at most.
    pub length: usize,
    /// Identification.
    pub id: u32,
}

/// A quote of what came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// 1 is the first frame of the last step that had any come out.
    pub number: usize,
    /// Bytes of it at most.
    pub length: usize,
}

impl Header {
    /// A header that is as usual.
    pub fn new(kind: Kind) -> Header {
        Header {
            kind,
            addresses: None,
            fields: BTreeMap::new(),
            options: Vec::new(),
            cut: None,
            slice: None,
            masked: BTreeMap::new(),
        }
    }
}

/// Names of fields that a text always shows, and where it does not say their name.
const POSITIONAL: [&str; 5] = ["sport", "dport", "flags", "type", "code"];

/// Byte `place` of the data of every scenario: a counter of two bytes, so that a piece tells where it was cut out.
pub fn pattern(place: usize) -> u8 {
    let [high, low] = ((place / 2) as u16).to_be_bytes();
    if place.is_multiple_of(2) { high } else { low }
}
