//! Header views: one file a protocol, each in the same order: fields, readers, writers, tests.
//!
//! A view is a `zerocopy` struct over the frame's bytes. Where a reader returned a view, its length check has passed
//! and no accessor can panic.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmp_error;
pub mod icmp_report;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod outer;
pub mod quote;
pub mod sctp;
pub mod sip;
pub mod tcp;
pub mod tunnel_quote;
pub mod udp;
pub mod vlan;
