//! The one safe door to DPDK and to the few things that Rust has no safe way to say. All unsafe code of the workspace
//! is in this folder (and in `dpdk-sys`, which is generated).
//!
//! Always there:
//! - [`lanes`]: eight 16-bit numbers compared at once
//! - [`prefetch`]: starts loading a cache line
//! - [`region`]: a slice of zeroed memory on hugepages that never faults
//! - [`tsc`]: the cycle counter as a clock
//! - [`thread`]: a worker's thread, pinned and (where EAL runs) registered with it
//!
//! With the feature `dpdk`:
//! - [`eal`]: starts and ends DPDK, once in a process
//! - [`mempool`]: the mbuf pool, one for all ports
//! - [`mbuf`]: one received or made frame
//! - [`port`]: one started device
//! - `device`, `driver`, `interface`: how it is started, what drivers do beside what they report, the kernel interface
//!   beneath
//! - [`queue`]: a worker's RX and TX queue of a port
//! - [`error`]: errno, translated once
//!
//! What holds the safety together: everything that leads to DPDK's memory (pool, port, queue pair, registered thread)
//! holds the [`eal`] runtime, and DPDK's memory is unmapped only when nothing does and every mbuf is back in its pool.
#![allow(unsafe_code)]

#[cfg(feature = "dpdk")]
mod device;
#[cfg(feature = "dpdk")]
mod driver;
#[cfg(feature = "dpdk")]
pub mod eal;
#[cfg(feature = "dpdk")]
pub mod error;
#[cfg(feature = "dpdk")]
mod interface;
pub mod lanes;
#[cfg(feature = "dpdk")]
pub mod mbuf;
#[cfg(feature = "dpdk")]
pub mod mempool;
#[cfg(feature = "dpdk")]
pub mod port;
pub mod prefetch;
#[cfg(feature = "dpdk")]
pub mod queue;
pub mod region;
pub mod thread;
pub mod tsc;
