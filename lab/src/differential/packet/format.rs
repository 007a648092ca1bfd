//! The headers' fields: where they are, and what they are if nothing is said.

/// Identification of an IPv4 packet that does not say one.
pub const USUAL_ID: u64 = 1;

/// UDP ports behind which a GUE header is.
pub const GUE_PORTS: std::ops::RangeInclusive<u64> = 6080..=6089;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 (RFC 791).
    Ip,
    /// IPv6 (RFC 8200).
    Ip6,
    /// IPv6's fragment header.
    Fragment6,
    /// IPv6's hop-by-hop options.
    HopByHop6,
    /// IPv6's destination options.
    Destination6,
    /// IPv6's routing header.
    Routing6,
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260, the common header.
    Sctp,
    /// RFC 792.
    Icmp,
    /// RFC 4443.
    Icmp6,
    /// RFC 2784.
    Gre,
    /// Generic UDP encapsulation, version 0 (draft-ietf-intarea-gue).
    Gue,
}

/// What a field is if nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// This.
    Is(u64),
    /// What follows from the rest.
    Follows,
}

/// How a text writes a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// `name=10`
    Decimal,
    /// `name=0x0a`
    Hex,
    /// `name` if it is 1.
    Flag,
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in a text.
    pub name: &'static str,
    /// Its first bit.
    pub bit: usize,
    /// Its width.
    pub bits: usize,
    /// Its usual value.
    pub usual: Usual,
    /// How it is written.
    pub written: Written,
}

const fn field(name: &'static str, bit: usize, bits: usize, usual: Usual, written: Written) -> Field {
    Field { name, bit, bits, usual, written }
}

use Usual::{Follows, Is};
use Written::{Decimal, Flag, Hex};

// An IP header's addresses are no fields.
const IP: &[Field] = &[
    field("version", 0, 4, Is(4), Decimal),
    field("ihl", 4, 4, Follows, Decimal),
    field("tos", 8, 8, Is(0), Hex),
    field("len", 16, 16, Follows, Decimal),
    field("id", 32, 16, Is(USUAL_ID), Decimal),
    field("rf", 48, 1, Is(0), Flag),
    field("df", 49, 1, Is(0), Flag),
    field("mf", 50, 1, Is(0), Flag),
    field("off", 51, 13, Is(0), Decimal),
    field("ttl", 64, 8, Is(64), Decimal),
    field("proto", 72, 8, Follows, Decimal),
    field("sum", 80, 16, Follows, Hex),
];
const IP6: &[Field] = &[
    field("version", 0, 4, Is(6), Decimal),
    field("tos", 4, 8, Is(0), Hex),
    field("flow", 12, 20, Is(0), Hex),
    field("len", 32, 16, Follows, Decimal),
    field("proto", 48, 8, Follows, Decimal),
    field("ttl", 56, 8, Is(64), Decimal),
];
const FRAGMENT6: &[Field] = &[
    field("proto", 0, 8, Follows, Decimal),
    field("reserved", 8, 8, Is(0), Hex),
    field("off", 16, 13, Is(0), Decimal),
    field("rf", 29, 2, Is(0), Hex),
    field("mf", 31, 1, Is(0), Flag),
    field("id", 32, 32, Is(0), Decimal),
];
const EXTENSION6: &[Field] = &[field("proto", 0, 8, Follows, Decimal), field("ehl", 8, 8, Follows, Decimal)];
const TCP: &[Field] = &[
    field("sport", 0, 16, Is(0), Decimal),
    field("dport", 16, 16, Is(0), Decimal),
    field("seq", 32, 32, Is(1), Decimal),
    field("ack", 64, 32, Is(1), Decimal),
    field("doff", 96, 4, Follows, Decimal),
    field("reserved", 100, 4, Is(0), Hex),
    field("flags", 104, 8, Is(0), Hex),
    field("win", 112, 16, Is(65535), Decimal),
    field("sum", 128, 16, Follows, Hex),
    field("urg", 144, 16, Is(0), Decimal),
];
const UDP: &[Field] = &[
    field("sport", 0, 16, Is(0), Decimal),
    field("dport", 16, 16, Is(0), Decimal),
    field("len", 32, 16, Follows, Decimal),
    field("sum", 48, 16, Follows, Hex),
];
const SCTP: &[Field] = &[
    field("sport", 0, 16, Is(0), Decimal),
    field("dport", 16, 16, Is(0), Decimal),
    field("tag", 32, 32, Is(1), Decimal),
    field("sum", 64, 32, Follows, Hex),
];
// For both: what `mtu` is in one type of message, `rest` is in all the others.
const ICMP: &[Field] = &[
    field("type", 0, 8, Is(0), Decimal),
    field("code", 8, 8, Is(0), Decimal),
    field("sum", 16, 16, Follows, Hex),
    field("rest", 32, 16, Is(0), Hex),
    field("mtu", 48, 16, Is(0), Decimal),
];
const GRE: &[Field] = &[
    field("csum", 0, 1, Is(0), Flag),
    field("gflags", 1, 15, Is(0), Hex),
    field("proto", 16, 16, Follows, Hex),
];
const GUE: &[Field] = &[
    field("version", 0, 2, Is(0), Decimal),
    field("control", 2, 1, Is(0), Flag),
    field("hlen", 3, 5, Follows, Decimal),
    field("proto", 8, 8, Follows, Decimal),
    field("gflags", 16, 16, Is(0), Hex),
];

/// Every kind and its name.
pub const KINDS: [(Kind, &str); 13] = [
    (Kind::Ip, "ip"),
    (Kind::Ip6, "ip6"),
    (Kind::Fragment6, "frag6"),
    (Kind::HopByHop6, "hop6"),
    (Kind::Destination6, "dst6"),
    (Kind::Routing6, "rt6"),
    (Kind::Tcp, "tcp"),
    (Kind::Udp, "udp"),
    (Kind::Sctp, "sctp"),
    (Kind::Icmp, "icmp"),
    (Kind::Icmp6, "icmp6"),
    (Kind::Gre, "gre"),
    (Kind::Gue, "gue"),
];

/// Names of TCP's flags, in the order of their bits.
pub const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

impl Kind {
    /// Its fields.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Kind::Ip => IP,
            Kind::Ip6 => IP6,
            Kind::Fragment6 => FRAGMENT6,
            Kind::HopByHop6 | Kind::Destination6 | Kind::Routing6 => EXTENSION6,
            Kind::Tcp => TCP,
            Kind::Udp => UDP,
            Kind::Sctp => SCTP,
            Kind::Icmp | Kind::Icmp6 => ICMP,
            Kind::Gre => GRE,
            Kind::Gue => GUE,
        }
    }

    /// The field of this name.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// Bytes of its fixed part.
    pub fn bytes(self) -> usize {
        match self {
            Kind::Ip | Kind::Tcp => 20,
            Kind::Ip6 => 40,
            Kind::Sctp => 12,
            Kind::Gre | Kind::Gue => 4,
            Kind::HopByHop6 | Kind::Destination6 | Kind::Routing6 => 2,
            Kind::Fragment6 | Kind::Udp | Kind::Icmp | Kind::Icmp6 => 8,
        }
    }

    /// Its number as the next protocol of an IP, IPv6 or GUE header.
    pub fn protocol(self) -> u64 {
        match self {
            Kind::Ip => 4,
            Kind::Ip6 => 41,
            Kind::Fragment6 => 44,
            Kind::HopByHop6 => 0,
            Kind::Destination6 => 60,
            Kind::Routing6 => 43,
            Kind::Tcp => 6,
            Kind::Udp => 17,
            Kind::Sctp => 132,
            Kind::Icmp => 1,
            Kind::Icmp6 => 58,
            Kind::Gre => 47,
            // Behind UDP, which has no such number.
            Kind::Gue => NO_PROTOCOL,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Whether a message of this type is an error, which quotes a packet.
    pub fn quotes(self, message_type: u64) -> bool {
        match self {
            Kind::Icmp => matches!(message_type, 3 | 4 | 5 | 11 | 12),
            Kind::Icmp6 => message_type < 128,
            _ => false,
        }
    }
}

/// IPv6's "no next header", for data behind IP.
pub const NO_PROTOCOL: u64 = 59;
