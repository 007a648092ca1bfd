//! Header views: one file a protocol, each in the same order: fields, readers, writers, tests. What is made of several of
//! them stands beside: quotes in ICMP errors, tunnels' outer headers.
//!
//! | for | files |
//! |---|---|
//! | the link | [`ethernet`], [`vlan`], [`arp`], [`ndp`] |
//! | IP | [`ipv4`], [`ipv6`], [`checksum`] |
//! | ICMP | [`icmp`] and [`icmpv6`] (types, ping), [`icmp_error`] (read), [`icmp_report`] (written), [`quote`], [`tunnel_quote`] |
//! | transport | [`tcp`], [`tcp_options`], [`tcp_sequence`], [`udp`], [`sctp`], [`crc32c`] |
//! | applications | [`sip`], [`ftp`], [`proxy`] |
//! | tunnels | [`outer`] |
//!
//! A view is a `zerocopy` struct over the frame's bytes. Where a reader returned a view, its length check has passed
//! and no accessor can panic.

pub mod arp;
pub mod checksum;
pub mod crc32c;
pub mod ethernet;
pub mod ftp;
pub mod icmp;
pub mod icmp_error;
pub mod icmp_report;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod mld;
pub mod ndp;
pub mod outer;
pub mod proxy;
pub mod quote;
pub mod sctp;
pub mod sip;
pub mod tcp;
pub mod tcp_options;
pub mod tcp_sequence;
pub mod tunnel_quote;
pub mod udp;
pub mod vlan;
