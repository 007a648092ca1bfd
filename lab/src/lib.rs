//! Test hosts: network namespaces joined by veth pairs, real servers with real nginx, and `dr-director` on a real DPDK port
//! among them. Every end-to-end test and the quickstart stand on it.
//!
//! ```text
//!  client ──┐                ┌── rs1  (VIP on lo, nginx)
//!           ├── switch (br0)─┼── rs2
//! director ─┘                └── rs3
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`network`] | hosts and cables, and that nothing of them stays |
//! | [`host`] | one host: its addresses, commands and sockets |
//! | [`topology`] | the usual lab: client, director, real servers on one switch |
//! | [`quiet`] | when nothing is on its way any more |
//! | [`selftest`] | the kernel's own test of IPVS |
//! | [`site`] | client, director and real servers with routers between them |
//! | [`real_server`] | a real server: VIP on `lo`, nginx, UDP |
//! | [`director`] | the daemon under test and what is asked of it |
//! | [`client`] | requests over HTTP and UDP, ARP |
//! | [`differential`] | the same frames through the kernel and through the director |
//! | [`flood`] | SYNs of as many clients |
//! | [`capture`] | proof of what passed an interface |
//! | [`dissection`] | all that the director sent, judged by tshark |
//! | [`dns`], [`ftp`] | servers of these protocols, and what clients ask of them |
//! | [`iperf`], [`ssh`] | the same of these, for the director's own host |
//! | [`packet_socket`] | frames as they are |
//! | [`process`] | processes that end with their owner |
//! | [`transfer`] | large files in both directions |
//! | [`tunnel`] | the real servers' ends of tunnels |
//! | [`uml`] | tests that run under another kernel, User-mode Linux |
//! | [`wait`] | waiting with a deadline |
//!
//! Needs root: namespaces and packet sockets do.

pub mod capture;
pub mod client;
pub mod differential;
pub mod director;
pub mod dissection;
pub mod dns;
pub mod flood;
pub mod ftp;
pub mod host;
pub mod iperf;
pub mod network;
pub mod packet_socket;
pub mod process;
pub mod quiet;
pub mod real_server;
mod reaper;
pub mod selftest;
pub mod site;
pub mod ssh;
pub mod topology;
pub mod transfer;
pub mod tunnel;
pub mod uml;
pub mod wait;

pub use capture::{Capture, Recording};
pub use director::DirectorProcess;
pub use dissection::Dissection;
pub use flood::Flood;
pub use host::Host;
pub use network::Network;
pub use packet_socket::PacketSocket;
pub use process::Process;
pub use real_server::{RealServer, UdpServer};
pub use site::{Family, Method, Site};
pub use topology::{DIP, Lab, PortDriver, VIP};
