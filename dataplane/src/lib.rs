//! What a worker does: frames in, a real server for each connection, frames out.
//!
//! | module | holds |
//! |---|---|
//! | [`port`] | what a port is to the data plane: traits |
//! | [`dpdk`] | real ports, and all unsafe code of the workspace |
//! | [`memory`] | ports in memory, for tests and for building without DPDK |
//! | [`packet`] | views of Ethernet, ARP, IPv4, TCP, UDP, SCTP, SIP and ICMP |
//! | [`snapshot`] | the configuration as workers read it |
//! | [`mailbox`] | how a snapshot reaches the workers |
//! | [`connection`] | the connection table, the states, expiry, how others read it |
//! | [`persistence`] | the templates that keep a client with its real server, shared by all workers |
//! | [`direct_routing`] | the rewrite of a forwarded frame |
//! | [`fragments`] | where the fragments of a packet go, learned from its first |
//! | [`stateless`] | when packets of a service were last forwarded without state |
//! | [`translation`] | other addresses and ports in a packet |
//! | [`path_mtus`] | what was learnt of the paths of tunnels |
//! | [`verdict`] | what becomes of a packet, reasons to drop one |
//! | [`counters`] | numbers, one writer each |
//! | [`host`] | frames from and to the control thread |
//! | [`clock`] | time in the data plane |
//! | [`worker`] | the loop |

mod allowance;
mod atomic;
pub mod clock;
pub mod connection;
pub mod counters;
pub mod direct_routing;
pub mod dpdk;
pub mod fragments;
pub mod host;
pub mod link_layer;
pub mod mailbox;
pub mod memory;
pub mod packet;
pub mod path_mtus;
pub mod persistence;
pub mod port;
pub mod snapshot;
pub mod stateless;
pub mod translation;
pub mod verdict;
pub mod worker;
