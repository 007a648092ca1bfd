//! dr-director, the daemon: everything that runs on the control thread, around the workers of `dataplane`.
//!
//! All state is owned by one [`control::Control`] on one thread; the other modules are its parts or speak to it.
//!
//! | module | is |
//! |---|---|
//! | [`startup`] | from a configuration file to running workers, and back (feature `dpdk`) |
//! | [`cpus`] | which CPU runs what |
//! | [`assembly`] | a control thread and its workers, over ports of any kind |
//! | [`topology`] | the ports' own addresses, and which port leads where |
//! | [`control`] | the owner of all state: executes commands, publishes snapshots, runs every millisecond |
//! | [`changes`] | commands as edits of the configured services, and what they change in words |
//! | [`services`] | the configured services compiled into a snapshot |
//! | [`slots`] | destination slots: given to real servers, kept while connections name them |
//! | [`neighbours`] | the real servers' MAC addresses: a state machine over given time |
//! | [`arp`] | answers for VIPs and DIPs, announcements, conflicts |
//! | [`connections`] | connections, listed without stopping a worker |
//! | [`views`] | what `show`, `stats`, `neighbours` and `status` answer |
//! | [`socket`] | the control socket |
//! | [`access`] | who may use it |
//! | [`metrics`] | every metric, and their text |
//! | [`http`] | the server of /metrics |
//! | [`rate`] | a token bucket |
//! | [`workers`] | the workers' threads |
//! | [`daemon`] | the tasks of the control thread |

pub mod access;
pub mod arp;
pub mod assembly;
pub mod changes;
pub mod connections;
pub mod control;
pub mod cpus;
pub mod daemon;
pub mod http;
pub mod metrics;
pub mod neighbours;
pub mod rate;
pub mod services;
pub mod slots;
pub mod socket;
#[cfg(feature = "dpdk")]
pub mod startup;
pub mod topology;
pub mod views;
pub mod workers;
