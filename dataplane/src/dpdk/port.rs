//! One device (a NIC's port or a virtual device), configured and started, with a queue pair for each worker.
//!
//! The control thread starts it, reads its counters and link, and stops it; the workers have its queues. It is
//! stopped and closed when the last of [`Port`] and its queue pairs is dropped, never earlier.

use std::sync::Arc;

use super::device::{Device, Multicast, Outcome};
use super::driver::more_queues;
use super::eal::{Eal, Runtime};
use super::error::Errno;
use super::mempool::MbufPool;
use super::queue::{PortQueuePair, Sending};
use crate::port::{PortCapabilities, PortStatistics, PortStatus};

/// Descriptors of a queue where the configuration names none: 1024 frames are 0.1 ms at 10 Mpps.
const DEFAULT_DESCRIPTORS: u16 = 1024;

/// How to start a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The device as in [`super::eal::EalConfig::devices`].
    pub device: String,
    /// Queue pairs: one for each worker.
    pub workers: u16,
    /// Frames that wait for a worker, per queue; adjusted to what the driver can.
    pub rx_descriptors: u16,
    /// Frames that wait to be sent, per queue; adjusted to what the driver can.
    pub tx_descriptors: u16,
    /// Largest IP packet in bytes; none leaves it to DPDK, which takes 1500.
    pub mtu: Option<u16>,
}

impl PortConfig {
    /// `device` with a queue pair for each of `workers`, all else by default.
    pub fn new(device: impl Into<String>, workers: u16) -> Self {
        PortConfig {
            device: device.into(),
            workers,
            rx_descriptors: DEFAULT_DESCRIPTORS,
            tx_descriptors: DEFAULT_DESCRIPTORS,
            mtu: None,
        }
    }
}

/// Why a port did not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// DPDK has no such device.
    #[error("port {device}: DPDK has no such device; it has {}{hint}", list(found))]
    NotFound {
        /// The device asked for.
        device: String,
        /// Names of the devices there are.
        found: Vec<String>,
        /// What to do about it.
        hint: &'static str,
    },
    /// It is started already.
    #[error("port {device}: started already; name each device once")]
    AlreadyStarted {
        /// The device.
        device: String,
    },
    /// Fewer queues than workers.
    #[error(
        "port {device} (driver {driver}): {workers} workers need {workers} RX and {workers} TX queues, the port has \
         {rx_queues} RX and {tx_queues} TX: start at most {} workers, or {}",
        rx_queues.min(tx_queues),
        more_queues(driver, *workers)
    )]
    TooFewQueues {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// Workers that each need a queue pair.
        workers: u16,
        /// RX queues that the port has.
        rx_queues: u16,
        /// TX queues that the port has.
        tx_queues: u16,
    },
    /// A port without queues is none.
    #[error("port {device}: 0 workers; at least one is needed")]
    NoWorkers {
        /// The device.
        device: String,
    },
    /// The driver cannot do this MTU.
    #[error("port {device} (driver {driver}): mtu {mtu} is not within {smallest} and {largest}{hint}")]
    MtuOutOfRange {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// MTU asked for.
        mtu: u16,
        /// The least.
        smallest: u16,
        /// The most.
        largest: u16,
        /// What to do about it.
        hint: &'static str,
    },
    /// A frame of that MTU does not fit into an mbuf.
    #[error(
        "port {device}: mtu {mtu} needs mbufs of {needed} bytes, the pool's have {data_room}, and the driver does not \
         take several for a frame: raise the mbuf data room or lower the mtu"
    )]
    MbufsTooSmall {
        /// The device.
        device: String,
        /// MTU in force.
        mtu: u16,
        /// Data room that it needs.
        needed: u32,
        /// Data room that the pool has.
        data_room: u16,
    },
    /// A step of the start failed in the driver.
    #[error("port {device} (driver {driver}): {step} failed ({source}); DPDK's own message is on stderr")]
    Refused {
        /// The device.
        device: String,
        /// Its driver.
        driver: String,
        /// What was being done.
        step: &'static str,
        /// DPDK's reason.
        source: Errno,
    },
    /// A worker still has queues of it; it stops when the last is dropped.
    #[error("port {device}: {held} of its queue pairs are still in use; it stops when the last is dropped")]
    QueuesInUse {
        /// The device.
        device: String,
        /// Queue pairs not dropped.
        held: usize,
    },
}

/// A started port, as the control thread has it.
#[derive(Debug)]
pub struct Port {
    started: Arc<StartedPort>,
}

/// What stops the port when nobody has it any more.
#[derive(Debug)]
pub(super) struct StartedPort {
    id: u16,
    name: String,
    driver: String,
    mac: [u8; 6],
    mtu: u16,
    uses_rss: bool,
    multicast: Multicast,
    capabilities: PortCapabilities,
    pool: MbufPool,
    runtime: Arc<Runtime>,
}

impl Port {
    /// Configures and starts the device and returns it with one queue pair for each worker, in the order of their
    /// numbers. Received frames come from `pool`, and so should frames to send.
    pub fn start(
        eal: &Eal,
        config: &PortConfig,
        pool: &MbufPool,
    ) -> Result<(Port, Vec<PortQueuePair>), PortError> {
        let runtime = eal.runtime();
        let device = Device::find(&config.device)?;
        let plan = device.plan(config, pool)?;
        if !runtime.claim_port(device.id) {
            return Err(PortError::AlreadyStarted { device: device.name });
        }
        let Outcome { mtu, multicast } = match device.configure_and_start(config, &plan, pool) {
            Ok(outcome) => outcome,
            Err(error) => {
                runtime.release_port(device.id);
                return Err(error);
            }
        };
        let sending = match (plan.frees_fast(), plan.sends_chains) {
            (true, _) => Sending::FastFree,
            (false, true) => Sending::Chains,
            (false, false) => Sending::SingleSegments,
        };
        let started = Arc::new(StartedPort {
            id: device.id,
            mac: device.mac(),
            capabilities: device.capabilities(&plan),
            name: device.name,
            driver: device.driver,
            mtu,
            uses_rss: plan.rss != 0,
            multicast,
            pool: pool.clone(),
            runtime: runtime.clone(),
        });
        let pairs = (0..config.workers)
            .map(|queue| PortQueuePair::new(started.id, queue, pool.clone(), sending, started.clone()))
            .collect();
        Ok((Port { started }, pairs))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.started.name
    }

    /// The DPDK driver that runs it.
    pub fn driver(&self) -> &str {
        &self.started.driver
    }

    /// The NIC spreads flows over the queues by RSS. Without it, several queues are the driver's own affair.
    pub fn uses_rss(&self) -> bool {
        self.started.uses_rss
    }

    /// Frames to every multicast address reach the director, which IPv6 neighbour discovery needs. Where not, the driver
    /// has no such mode, and what its device filters it filters.
    pub fn accepts_all_multicast(&self) -> bool {
        !matches!(self.started.multicast, Multicast::Filtered)
    }

    /// The pool that its frames come from.
    pub fn pool(&self) -> MbufPool {
        self.started.pool.clone()
    }

    /// Stops and closes the port; the device cannot be started again in this process. The queue pairs have to be
    /// dropped before: what is left of them keeps the port running until it is dropped too.
    pub fn stop(self) -> Result<(), PortError> {
        let device = self.started.name.clone();
        match Arc::try_unwrap(self.started) {
            Ok(started) => {
                drop(started);
                Ok(())
            }
            Err(shared) => Err(PortError::QueuesInUse { device, held: Arc::strong_count(&shared) - 1 }),
        }
    }
}

impl PortStatus for Port {
    fn mac(&self) -> [u8; 6] {
        self.started.mac
    }

    fn mtu(&self) -> u16 {
        self.started.mtu
    }

    fn capabilities(&self) -> PortCapabilities {
        self.started.capabilities
    }

    fn link_is_up(&self) -> bool {
        // SAFETY: the port is started (`started` holds it). Reading the link from this thread while workers use the queues
        // is what this function is for.
        unsafe { dpdk_sys::dr_eth_link_is_up(self.started.id) == 1 }
    }

    /// All zeros where the driver counts nothing.
    fn statistics(&self) -> PortStatistics {
        // SAFETY: rte_eth_stats is plain numbers; zeros are valid.
        let mut stats: dpdk_sys::rte_eth_stats = unsafe { std::mem::zeroed() };
        // SAFETY: the port is started (`started` holds it), stats is writable. Reading counters from this thread while
        // workers use the queues is what this function is for.
        unsafe {
            if dpdk_sys::rte_eth_stats_get(self.started.id, &raw mut stats) != 0 {
                stats = std::mem::zeroed();
            }
        }
        PortStatistics {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_mbuf: stats.rx_nombuf,
            tx_errors: stats.oerrors,
            link_is_up: self.link_is_up(),
        }
    }
}

impl Drop for StartedPort {
    fn drop(&mut self) {
        // SAFETY: the port was started by `Port::start` and claimed, so that nobody else stops it; no queue pair is
        // left (each holds self), so no thread is in a burst function. EAL runs: `runtime` is dropped after this.
        unsafe {
            dpdk_sys::rte_eth_dev_stop(self.id);
            dpdk_sys::rte_eth_dev_close(self.id);
        }
        self.runtime.release_port(self.id);
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_queues_name_the_port_both_numbers_and_the_way_out() {
        let error = PortError::TooFewQueues {
            device: "net_af_packet0".to_owned(),
            driver: "net_af_packet".to_owned(),
            workers: 4,
            rx_queues: 1,
            tx_queues: 2,
        };
        assert_eq!(
            error.to_string(),
            "port net_af_packet0 (driver net_af_packet): 4 workers need 4 RX and 4 TX queues, the port has 1 RX \
             and 2 TX: start at most 1 workers, or add `qpairs=4` to the device"
        );
    }
}
