//! One device (a NIC's port or a virtual device), configured and started, with a queue pair for each worker.
//!
//! The control thread starts it, reads its counters and link, and stops it; the workers have its queues. It is
//! stopped and closed when the last of [`Port`] and its queue pairs is dropped, never earlier.

use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;

use super::eal::{Eal, Runtime, device_name, is_pci_address};
use super::error::Errno;
use super::mempool::MbufPool;
use super::queue::PortQueuePair;
use crate::port::{PortStatistics, PortStatus};

/// No NUMA node in particular (DPDK's SOCKET_ID_ANY).
pub(super) const ANY_SOCKET: c_int = -1;

/// Descriptors of a queue where the configuration names none: 1024 frames are 0.1 ms at 10 Mpps.
const DEFAULT_DESCRIPTORS: u16 = 1024;

/// Ethernet header and two VLAN tags.
const LONGEST_LINK_HEADER: u32 = 14 + 2 * 4;

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
    #[error("port {device} (driver {driver}): mtu {mtu} is not within {smallest} and {largest}")]
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
    },
    /// A frame of that MTU does not fit into an mbuf.
    #[error(
        "port {device}: mtu {mtu} needs mbufs of {needed} bytes, the pool's have {data_room}: raise the mbuf data \
         room or lower the mtu"
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
        let mtu = match device.configure_and_start(config, &plan, pool) {
            Ok(mtu) => mtu,
            Err(error) => {
                runtime.release_port(device.id);
                return Err(error);
            }
        };
        let fast_free =
            (plan.tx_offloads & dpdk_sys::dr_tx_offload_mbuf_fast_free != 0).then(|| pool.clone());
        let started = Arc::new(StartedPort {
            id: device.id,
            mac: device.mac(),
            name: device.name,
            driver: device.driver,
            mtu,
            uses_rss: plan.rss != 0,
            pool: pool.clone(),
            runtime: runtime.clone(),
        });
        let pairs = (0..config.workers)
            .map(|queue| {
                PortQueuePair::new(started.id, queue, pool.clone(), fast_free.clone(), started.clone())
            })
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

    /// All zeros where the driver counts nothing.
    fn statistics(&self) -> PortStatistics {
        // SAFETY: rte_eth_stats is plain numbers; zeros are valid.
        let mut stats: dpdk_sys::rte_eth_stats = unsafe { std::mem::zeroed() };
        // SAFETY: the port is started (`started` holds it), stats is writable. Reading counters and link from this
        // thread while workers use the queues is what these functions are for.
        let link_is_up = unsafe {
            if dpdk_sys::rte_eth_stats_get(self.started.id, &raw mut stats) != 0 {
                stats = std::mem::zeroed();
            }
            dpdk_sys::dr_eth_link_is_up(self.started.id) == 1
        };
        PortStatistics {
            rx_packets: stats.ipackets,
            rx_bytes: stats.ibytes,
            tx_packets: stats.opackets,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_mbuf: stats.rx_nombuf,
            tx_errors: stats.oerrors,
            link_is_up,
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

/// A device that DPDK has probed.
struct Device {
    id: u16,
    name: String,
    driver: String,
    info: dpdk_sys::rte_eth_dev_info,
}

/// What is going to be configured.
struct Plan {
    rss: u64,
    rx_offloads: u64,
    tx_offloads: u64,
}

impl Device {
    fn find(device: &str) -> Result<Device, PortError> {
        let name = device_name(device);
        let Some(id) = port_id(name) else {
            let hint = if is_pci_address(device) {
                "; bind the device to vfio-pci (dpdk-devbind.py --bind=vfio-pci) and see DPDK's message on stderr"
            } else {
                "; DPDK's message on stderr says why it made none of that name (arguments, driver package librte-net-*)"
            };
            return Err(PortError::NotFound { device: name.to_owned(), found: port_names(), hint });
        };
        // SAFETY: rte_eth_dev_info is numbers and pointers; zeros are valid.
        let mut info: dpdk_sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
        // SAFETY: the id is one that DPDK gave, info is writable.
        let result = unsafe { dpdk_sys::rte_eth_dev_info_get(id, &raw mut info) };
        let mut found = Device { id, name: name.to_owned(), driver: String::new(), info };
        found.done("reading what the device can", result)?;
        if !info.driver_name.is_null() {
            // SAFETY: not null, and then a static NUL-terminated text of the driver's.
            found.driver = unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
        }
        Ok(found)
    }

    /// Checks the configuration against what the device can.
    fn plan(&self, config: &PortConfig, pool: &MbufPool) -> Result<Plan, PortError> {
        let info = &self.info;
        let device = || self.name.clone();
        if config.workers == 0 {
            return Err(PortError::NoWorkers { device: device() });
        }
        if info.max_rx_queues.min(info.max_tx_queues) < config.workers {
            return Err(PortError::TooFewQueues {
                device: device(),
                driver: self.driver.clone(),
                workers: config.workers,
                rx_queues: info.max_rx_queues,
                tx_queues: info.max_tx_queues,
            });
        }
        let largest = largest_mtu(info.max_mtu, info.max_rx_pktlen);
        if let Some(mtu) = config.mtu.filter(|mtu| !(info.min_mtu..=largest).contains(mtu)) {
            return Err(PortError::MtuOutOfRange {
                device: device(),
                driver: self.driver.clone(),
                mtu,
                smallest: info.min_mtu,
                largest,
            });
        }
        if let Some(mtu) = config.mtu {
            self.check_mbufs(mtu, pool)?;
        }
        let flows = dpdk_sys::dr_rss_ip | dpdk_sys::dr_rss_tcp | dpdk_sys::dr_rss_udp;
        Ok(Plan {
            rss: if config.workers > 1 { flows & info.flow_type_rss_offloads } else { 0 },
            rx_offloads: dpdk_sys::dr_rx_offload_ipv4_cksum & info.rx_offload_capa,
            tx_offloads: dpdk_sys::dr_tx_offload_mbuf_fast_free & info.tx_offload_capa,
        })
    }

    /// Returns the MTU in force.
    fn configure_and_start(
        &self,
        config: &PortConfig,
        plan: &Plan,
        pool: &MbufPool,
    ) -> Result<u16, PortError> {
        // SAFETY: rte_eth_conf is numbers, unions of numbers and pointers; zeros are its documented default.
        let mut conf: dpdk_sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        if plan.rss != 0 {
            // No key of ours: the driver's own.
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = plan.rss;
        }
        conf.rxmode.mtu = config.mtu.map_or(0, u32::from);
        conf.rxmode.offloads = plan.rx_offloads;
        conf.txmode.offloads = plan.tx_offloads;
        let queues = config.workers;
        // SAFETY: the id is DPDK's and claimed by the caller, so that the port is not running and nobody else
        // configures it; conf lives through the call, which copies it.
        let result = unsafe { dpdk_sys::rte_eth_dev_configure(self.id, queues, queues, &raw const conf) };
        self.done("configuring it", result)?;
        let mtu = self.set_mtu(config.mtu)?;
        self.check_mbufs(mtu, pool)?;
        self.set_up_queues(config, pool)?;
        // SAFETY: as above. Not every driver knows these modes; those that do not are in neither.
        unsafe {
            dpdk_sys::rte_eth_promiscuous_disable(self.id);
            dpdk_sys::rte_eth_allmulticast_disable(self.id);
        }
        // SAFETY: as above, configured and with all its queues set up.
        self.done("starting it", unsafe { dpdk_sys::rte_eth_dev_start(self.id) })?;
        Ok(mtu)
    }

    /// The MTU was part of the configuration; drivers of kernel interfaces set the interface's only when told so.
    fn set_mtu(&self, mtu: Option<u16>) -> Result<u16, PortError> {
        if let Some(mtu) = mtu {
            // SAFETY: the port is configured and not started.
            let result = unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.id, mtu) };
            if result != -libc::ENOTSUP {
                self.done("setting the mtu", result)?;
            }
        }
        let mut in_force = 0;
        // SAFETY: the id is DPDK's, `in_force` is writable.
        let result = unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.id, &raw mut in_force) };
        self.done("reading the mtu", result)?;
        Ok(in_force)
    }

    fn set_up_queues(&self, config: &PortConfig, pool: &MbufPool) -> Result<(), PortError> {
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port is configured; both numbers are writable.
        let result = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.id, &raw mut rx, &raw mut tx) };
        self.done("fitting the numbers of descriptors", result)?;
        let socket = self.socket();
        for queue in 0..config.workers {
            // SAFETY: the port is configured for that many queues and not started; no queue configuration means the
            // driver's default with the port's offloads; the pool's memory lives as long as EAL.
            let (rx_result, tx_result) = unsafe {
                let none = std::ptr::null();
                (
                    dpdk_sys::rte_eth_rx_queue_setup(
                        self.id,
                        queue,
                        rx,
                        socket,
                        std::ptr::null(),
                        pool.as_ptr(),
                    ),
                    dpdk_sys::rte_eth_tx_queue_setup(self.id, queue, tx, socket, none),
                )
            };
            self.done("setting up an RX queue", rx_result)?;
            self.done("setting up a TX queue", tx_result)?;
        }
        Ok(())
    }

    fn check_mbufs(&self, mtu: u16, pool: &MbufPool) -> Result<(), PortError> {
        let needed = buffer_bytes(mtu);
        if needed <= u32::from(pool.data_room()) {
            return Ok(());
        }
        Err(PortError::MbufsTooSmall { device: self.name.clone(), mtu, needed, data_room: pool.data_room() })
    }

    fn mac(&self) -> [u8; 6] {
        let mut mac = dpdk_sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: the id is DPDK's, `mac` is writable. On failure it stays zero.
        unsafe { dpdk_sys::rte_eth_macaddr_get(self.id, &raw mut mac) };
        mac.addr_bytes
    }

    /// The NUMA node, as the queue set-up wants it: u32::MAX for none.
    fn socket(&self) -> u32 {
        // SAFETY: the id is DPDK's.
        unsafe { dpdk_sys::rte_eth_dev_socket_id(self.id) }.cast_unsigned()
    }

    fn done(&self, step: &'static str, result: c_int) -> Result<(), PortError> {
        Errno::check(result).map(drop).map_err(|source| PortError::Refused {
            device: self.name.clone(),
            driver: self.driver.clone(),
            step,
            source,
        })
    }
}

/// The NUMA node of a device, or [`ANY_SOCKET`].
pub(super) fn socket_of(device: &str) -> c_int {
    // SAFETY: the id is one that DPDK gave.
    port_id(device_name(device)).map_or(ANY_SOCKET, |id| unsafe { dpdk_sys::rte_eth_dev_socket_id(id) })
}

/// Bytes of an mbuf that holds any frame of this MTU, with the headroom.
pub(super) fn buffer_bytes(mtu: u16) -> u32 {
    u32::from(mtu) + LONGEST_LINK_HEADER + dpdk_sys::RTE_PKTMBUF_HEADROOM
}

/// What the driver's two limits allow, as rte_eth_dev_configure counts: a driver without a limit of its own on the MTU
/// (u16::MAX) is taken to need an Ethernet header and checksum of its longest frame.
fn largest_mtu(max_mtu: u16, max_rx_pktlen: u32) -> u16 {
    const HEADER_AND_CHECKSUM: u32 = 14 + 4;

    match max_rx_pktlen.checked_sub(u32::from(max_mtu)) {
        Some(_) if max_mtu != u16::MAX => max_mtu,
        _ => {
            u16::try_from(max_rx_pktlen.saturating_sub(HEADER_AND_CHECKSUM)).unwrap_or(u16::MAX).min(max_mtu)
        }
    }
}

/// By name; a PCI address may lack its domain.
fn port_id(name: &str) -> Option<u16> {
    let mut names = vec![name.to_owned()];
    if is_pci_address(name) {
        names.push(format!("0000:{name}"));
        names.push(name.to_ascii_lowercase());
    }
    names.into_iter().find_map(|name| {
        let name = CString::new(name).ok()?;
        let mut id = 0;
        // SAFETY: a NUL-terminated text and a writable number.
        let result = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
        (result == 0).then_some(id)
    })
}

fn port_names() -> Vec<String> {
    let mut names = Vec::new();
    let mut next = 0;
    loop {
        // SAFETY: any number is allowed; returns the next id in use, or RTE_MAX_ETHPORTS or more where there is none.
        let id = unsafe { dpdk_sys::rte_eth_find_next(next) };
        if u32::from(id) >= dpdk_sys::RTE_MAX_ETHPORTS {
            return names;
        }
        let mut name = [0; dpdk_sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: the buffer has the length that the function is documented to need.
        if unsafe { dpdk_sys::rte_eth_dev_get_name_by_port(id, name.as_mut_ptr()) } == 0 {
            // SAFETY: on success the buffer holds a NUL-terminated text.
            names.push(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned());
        }
        next = id + 1;
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// How a device of this driver gets more queues.
fn more_queues(driver: &str, workers: u16) -> String {
    match driver {
        "net_af_packet" => format!("add `qpairs={workers}` to the device"),
        "net_af_xdp" => format!("add `queue_count={workers}` to the device"),
        "net_virtio_user" => format!("add `queues={workers}` to the device"),
        "net_pcap" => format!("give the device {workers} `rx_pcap=` and {workers} `tx_pcap=` files"),
        _ => "use a device with more queues".to_owned(),
    }
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

    #[test]
    fn largest_mtu_is_the_stricter_of_the_drivers_two_limits() {
        assert_eq!(largest_mtu(u16::MAX, 1518), 1500, "net_af_packet");
        assert_eq!(largest_mtu(u16::MAX, u32::MAX), u16::MAX, "net_pcap");
        assert_eq!(largest_mtu(9706, 9728), 9706, "net_i40e");
        assert_eq!(largest_mtu(9000, 1518), 1500);
    }

    #[test]
    fn buffer_holds_the_mtu_two_tags_and_the_headroom() {
        assert_eq!(buffer_bytes(1500), 1500 + 22 + 128);
    }
}
