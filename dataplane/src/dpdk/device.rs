//! A device that DPDK has probed: what it can, checked against what is wanted, and the way to a started port. The control
//! thread's, at start.

use std::ffi::{CStr, CString, c_int};

use super::driver::{self, Chains};
use super::eal::{device_name, is_pci_address};
use super::error::Errno;
use super::interface::{self, AllMulticast};
use super::mempool::MbufPool;
use super::port::{PortConfig, PortError};
use crate::packet::vlan::TAG_BYTES;
use crate::port::PortCapabilities;

/// No NUMA node in particular (DPDK's SOCKET_ID_ANY).
pub(super) const ANY_SOCKET: c_int = -1;

/// Ethernet header and two VLAN tags.
const LONGEST_LINK_HEADER: u32 = 14 + 2 * TAG_BYTES as u32;

/// A device that DPDK has probed.
pub(super) struct Device {
    pub(super) id: u16,
    pub(super) name: String,
    pub(super) driver: String,
    info: dpdk_sys::rte_eth_dev_info,
}

/// What is going to be configured.
pub(super) struct Plan {
    pub(super) rss: u64,
    rx_offloads: u64,
    tx_offloads: u64,
    /// The MTU is one that the device carries and ethdev does not know of.
    is_beyond_report: bool,
    /// A frame of several segments may be given to the driver.
    pub(super) sends_chains: bool,
}

impl Plan {
    /// The driver frees what it sent in bulk, all into one pool.
    pub(super) fn frees_fast(&self) -> bool {
        self.tx_offloads & dpdk_sys::dr_tx_offload_mbuf_fast_free != 0
    }
}

/// How frames to multicast addresses that nobody asked for by name get through the port's filter.
#[derive(Debug)]
pub(super) enum Multicast {
    /// The driver lets them through.
    ByDriver,
    /// The kernel interface beneath does.
    ByInterface(#[allow(dead_code, reason = "held for its drop")] AllMulticast),
    /// They may not.
    Filtered,
}

/// What came of starting a device.
pub(super) struct Outcome {
    pub(super) mtu: u16,
    pub(super) multicast: Multicast,
}

impl Device {
    pub(super) fn find(device: &str) -> Result<Device, PortError> {
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
    pub(super) fn plan(&self, config: &PortConfig, pool: &MbufPool) -> Result<Plan, PortError> {
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
        let reported = largest_mtu(info.max_mtu, info.max_rx_pktlen);
        let largest =
            driver::largest_mtu(&self.driver, &config.device).map_or(reported, |mtu| mtu.max(reported));
        if let Some(mtu) = config.mtu.filter(|mtu| !(info.min_mtu..=largest).contains(mtu)) {
            return Err(PortError::MtuOutOfRange {
                device: device(),
                driver: self.driver.clone(),
                mtu,
                smallest: info.min_mtu,
                largest,
                hint: if mtu > largest { driver::larger_mtu(&self.driver) } else { "" },
            });
        }
        if let Some(mtu) = config.mtu {
            self.check_mbufs(mtu, pool)?;
        }
        let needs_segments = config.mtu.is_some_and(|mtu| buffer_bytes(mtu) > u32::from(pool.data_room()));
        let tx_offloads = self.tx_offloads(needs_segments);
        let sends_chains = match driver::chains(&self.driver) {
            Chains::AsReported => tx_offloads & dpdk_sys::dr_tx_offload_multi_segs != 0,
            Chains::Always => true,
            Chains::Never => false,
        };
        let mut rx_offloads = dpdk_sys::dr_rx_offload_ipv4_cksum;
        if needs_segments {
            rx_offloads |= dpdk_sys::dr_rx_offload_scatter;
        }
        let flows = dpdk_sys::dr_rss_ip | dpdk_sys::dr_rss_tcp | dpdk_sys::dr_rss_udp | dpdk_sys::dr_rss_sctp;
        Ok(Plan {
            rss: if config.workers > 1 { flows & info.flow_type_rss_offloads } else { 0 },
            rx_offloads: rx_offloads & info.rx_offload_capa,
            tx_offloads,
            is_beyond_report: config.mtu.is_some_and(|mtu| mtu > reported),
            sends_chains,
        })
    }

    /// MBUF_FAST_FREE and MULTI_SEGS exclude each other: what is freed in bulk has one segment. A NIC's driver has its
    /// fast ways to send without MULTI_SEGS only, so it is switched on where frames may come in segments; software loses
    /// nothing by it.
    fn tx_offloads(&self, needs_segments: bool) -> u64 {
        let can = self.info.tx_offload_capa;
        let fast_free = can & dpdk_sys::dr_tx_offload_mbuf_fast_free;
        let segments = can & dpdk_sys::dr_tx_offload_multi_segs;
        match driver::chains(&self.driver) {
            Chains::Never => fast_free,
            _ if needs_segments => segments,
            _ if fast_free != 0 || is_pci_address(&self.name) => fast_free,
            _ => segments,
        }
    }

    /// What the driver says that it can, whether or not it is asked for.
    pub(super) fn capabilities(&self, plan: &Plan) -> PortCapabilities {
        let can = |offload| self.info.tx_offload_capa & offload != 0;
        PortCapabilities {
            tx_ipv4_checksum: can(dpdk_sys::dr_tx_offload_ipv4_cksum),
            tx_udp_checksum: can(dpdk_sys::dr_tx_offload_udp_cksum),
            tx_tcp_checksum: can(dpdk_sys::dr_tx_offload_tcp_cksum),
            segments: plan.sends_chains,
        }
    }

    pub(super) fn configure_and_start(
        &self,
        config: &PortConfig,
        plan: &Plan,
        pool: &MbufPool,
    ) -> Result<Outcome, PortError> {
        // SAFETY: rte_eth_conf is numbers, unions of numbers and pointers; zeros are its documented default.
        let mut conf: dpdk_sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        if plan.rss != 0 {
            // No key of ours: the driver's own.
            conf.rxmode.mq_mode = dpdk_sys::rte_eth_rx_mq_mode::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = plan.rss;
        }
        let mtu_for_ethdev = config.mtu.filter(|_| !plan.is_beyond_report);
        conf.rxmode.mtu = mtu_for_ethdev.map_or(0, u32::from);
        conf.rxmode.offloads = plan.rx_offloads;
        conf.txmode.offloads = plan.tx_offloads;
        let queues = config.workers;
        // SAFETY: the id is DPDK's and claimed by the caller, so that the port is not running and nobody else
        // configures it; conf lives through the call, which copies it.
        let result = unsafe { dpdk_sys::rte_eth_dev_configure(self.id, queues, queues, &raw const conf) };
        self.done("configuring it", result)?;
        let mtu = match config.mtu {
            Some(mtu) if plan.is_beyond_report => self.set_interface_mtu(mtu)?,
            _ => self.set_mtu(mtu_for_ethdev)?,
        };
        self.check_mbufs(mtu, pool)?;
        self.set_up_queues(config, pool)?;
        // SAFETY: as above. A driver that does not know this mode is not in it.
        unsafe { dpdk_sys::rte_eth_promiscuous_disable(self.id) };
        let multicast = self.accept_all_multicast();
        // SAFETY: as above, configured and with all its queues set up.
        self.done("starting it", unsafe { dpdk_sys::rte_eth_dev_start(self.id) })?;
        Ok(Outcome { mtu, multicast })
    }

    /// Neighbour discovery is multicast, to addresses that depend on every VIP.
    fn accept_all_multicast(&self) -> Multicast {
        // SAFETY: the id is DPDK's and claimed by the caller, the port is configured and not started.
        if unsafe { dpdk_sys::rte_eth_allmulticast_enable(self.id) } == 0 {
            return Multicast::ByDriver;
        }
        if !driver::has_interface(&self.driver) {
            return Multicast::Filtered;
        }
        AllMulticast::of(self.info.if_index).map_or(Multicast::Filtered, Multicast::ByInterface)
    }

    /// An MTU that ethdev would refuse: the kernel interface beneath gets it, where there is one.
    fn set_interface_mtu(&self, mtu: u16) -> Result<u16, PortError> {
        if driver::has_interface(&self.driver) {
            interface::set_mtu(self.info.if_index, mtu).map_err(|error| PortError::Refused {
                device: self.name.clone(),
                driver: self.driver.clone(),
                step: "setting the interface's mtu",
                source: error.into(),
            })?;
        }
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
        // Without one, ethdev has 1500 whatever the interface beneath takes.
        let beneath = match driver::has_interface(&self.driver) {
            true => interface::mtu(self.info.if_index).unwrap_or(u16::MAX),
            false => u16::MAX,
        };
        Ok(in_force.min(beneath))
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

    /// A frame of this MTU fits into an mbuf, or the driver takes several for it both ways.
    fn check_mbufs(&self, mtu: u16, pool: &MbufPool) -> Result<(), PortError> {
        let needed = buffer_bytes(mtu);
        let info = &self.info;
        let receives_in_segments = driver::receives_in_segments(&self.driver)
            || info.rx_offload_capa & dpdk_sys::dr_rx_offload_scatter != 0;
        let sends_segments = match driver::chains(&self.driver) {
            Chains::AsReported => info.tx_offload_capa & dpdk_sys::dr_tx_offload_multi_segs != 0,
            Chains::Always => true,
            Chains::Never => false,
        };
        if needed <= u32::from(pool.data_room()) || receives_in_segments && sends_segments {
            return Ok(());
        }
        Err(PortError::MbufsTooSmall { device: self.name.clone(), mtu, needed, data_room: pool.data_room() })
    }

    pub(super) fn mac(&self) -> [u8; 6] {
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

#[cfg(test)]
mod tests {
    use super::*;

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
