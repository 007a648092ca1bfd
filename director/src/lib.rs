//! dr-director, the daemon: everything that runs on the control thread, around the workers of `dataplane`.
//!
//! All state is owned by one [`control::Control`] on one thread; the other modules are its parts or speak to it.
//!
//! | module | is |
//! |---|---|
//! | [`startup`] | from a configuration file to running workers, and back (feature `dpdk`) |
//! | [`cpus`] | which CPU runs what |
//! | [`assembly`] | a control thread and its workers, over ports of any kind |
//! | [`topology`] | ports, their interfaces and addresses, and which next hop leads where |
//! | [`control`] | the owner of all state: makes changes, publishes snapshots, runs every millisecond |
//! | [`commands`] | a command from its arrival to its answer |
//! | [`changes`] | what a command makes of what runs, checked; batches |
//! | [`draft`] | commands as edits |
//! | [`describe`] | what two settings differ in, in words |
//! | [`fixed_sections`] | what of a file cannot be applied |
//! | [`services`] | the configured services, and the snapshot compiled of them |
//! | [`slots`] | destination slots: given to real servers, kept while connections name them |
//! | [`drain`] | real servers that are removed when they are drained |
//! | [`rates`], [`estimator`], [`traffic`] | rates as IPVS estimates them; sums of counters |
//! | [`neighbours`] | the next hops' MAC addresses: a state machine over given time |
//! | [`own_addresses`] | what the director answers for, announces, and who else claims it |
//! | [`arp`], [`neighbour_discovery`] | the packets of both, for IPv4 and IPv6 |
//! | [`neighbourhood`] | all of these over the workers' frames, and ping |
//! | [`host_interface`] | the host's part of the traffic, through taps |
//! | [`alarms`] | drops that somebody should look at |
//! | [`connections`], [`selection`] | connections, listed without stopping a worker; the first rows of many |
//! | [`views`] | what `show`, `stats`, `neighbours` and `status` answer |
//! | [`socket`] | the control socket |
//! | [`access`] | who may use it |
//! | [`metrics`] | every metric, and their text |
//! | [`http`] | the server of /metrics |
//! | [`rate`] | a token bucket |
//! | [`utc`] | the wall clock and its text |
//! | [`workers`] | the workers' threads |
//! | [`daemon`] | the tasks of the control thread |

pub mod access;
pub mod alarms;
pub mod arp;
pub mod assembly;
pub mod changes;
pub mod commands;
pub mod connections;
pub mod control;
pub mod cpus;
pub mod daemon;
pub mod describe;
pub mod draft;
pub mod drain;
pub mod estimator;
pub mod fixed_sections;
pub mod host_interface;
pub mod http;
pub mod metrics;
pub mod multicast_listening;
pub mod neighbour_discovery;
pub mod neighbourhood;
pub mod neighbours;
pub mod own_addresses;
pub mod rate;
pub mod rates;
pub mod selection;
pub mod services;
pub mod slots;
pub mod socket;
#[cfg(feature = "dpdk")]
pub mod startup;
pub mod topology;
pub mod traffic;
pub mod utc;
pub mod views;
pub mod workers;
