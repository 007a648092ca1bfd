//! The configuration: what the file, `dr-ctl apply` and `dr-ctl save` say, one schema for all.
//!
//! `director` and `ports` are read once at start; `services` is what runs and may change at any time.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use scheduler::Algorithm;
use serde::{Deserialize, Serialize};

use crate::mac::MacAddress;

/// All of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The process: threads, memory, capacities, sockets.
    #[serde(default)]
    pub director: DirectorConfig,
    /// The ports, in the order of their numbers.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
    /// The virtual services.
    #[serde(default)]
    pub services: Vec<ServiceConfig>,
}

/// What the process is given at start. A change needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorConfig {
    /// CPU of each worker. Empty: one worker on the last CPU that the process may use.
    pub worker_cpus: Vec<usize>,
    /// CPUs of the control thread. Empty: every allowed CPU that has no worker.
    pub control_cpus: Vec<usize>,
    /// Hugepages: `auto` uses them where enough are free, `required` refuses to start without, `off` never does.
    pub hugepages: Hugepages,
    /// Memory for DPDK, in MiB.
    pub memory_mib: u32,
    /// Packet buffers (mbufs) in the one pool of all ports. None: computed from descriptors and workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbuf_count: Option<u32>,
    /// Bytes of each packet buffer, DPDK's headroom of 128 included.
    pub mbuf_data_room: u16,
    /// Connections that each worker can hold.
    pub connection_capacity_per_worker: u32,
    /// Virtual services that can be configured.
    pub service_capacity: u32,
    /// Real servers that can be configured, over all services; removed ones count until their connections are gone.
    pub real_server_capacity: u32,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Group that may use the control socket beside root; its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_group: Option<String>,
    /// Where /metrics is served. None, written `"off"`: not at all.
    #[serde(with = "metrics_listen")]
    pub metrics_listen: Option<SocketAddr>,
    /// Further arguments for DPDK's EAL.
    pub eal_arguments: Vec<String>,
}

/// Whether DPDK's memory and the connection tables come from hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Where enough are free.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Or else refuse to start.
    Required,
}

/// One DPDK port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// The name in `dr-ctl`, logs and metrics.
    pub name: String,
    /// The DPDK device: a PCI address (`0000:03:00.0`) or a virtual device with its arguments
    /// (`net_af_packet0,iface=eth1`).
    pub device: String,
    /// The director's own addresses (DIPs) on this port, each with its directly connected network: `10.0.0.1/24`.
    pub addresses: Vec<Ipv4Net>,
    /// RX descriptors of each queue.
    #[serde(default = "default_descriptors")]
    pub rx_descriptors: u16,
    /// TX descriptors of each queue.
    #[serde(default = "default_descriptors")]
    pub tx_descriptors: u16,
    /// Largest IP packet, in bytes. None: what the device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

fn default_descriptors() -> u16 {
    1024
}

/// Layer 4 protocol of a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What names a virtual service: protocol, VIP, port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceId {
    /// Layer 4 protocol.
    pub protocol: Protocol,
    /// The VIP.
    pub address: Ipv4Addr,
    /// The port, 1 to 65535.
    pub port: u16,
}

/// A virtual service and its real servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Layer 4 protocol.
    pub protocol: Protocol,
    /// The VIP.
    pub address: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// How a real server is picked for a new connection.
    #[serde(default, with = "crate::algorithm")]
    pub scheduler: Algorithm,
    /// The real servers, oldest first.
    #[serde(default)]
    pub real_servers: Vec<RealServerConfig>,
}

/// A real server of a virtual service. It receives on the service's own port (direct routing maps none).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealServerConfig {
    /// The RIP, in a directly connected network of a port.
    pub address: Ipv4Addr,
    /// Share of new connections, 0 to 65535; 0 gets none.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// The MAC address, instead of asking by ARP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Draining: no new connections, whatever the weight.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

fn default_weight() -> u16 {
    1
}

impl Default for DirectorConfig {
    fn default() -> Self {
        DirectorConfig {
            worker_cpus: Vec::new(),
            control_cpus: Vec::new(),
            hugepages: Hugepages::Auto,
            memory_mib: 512,
            mbuf_count: None,
            mbuf_data_room: 2176,
            connection_capacity_per_worker: 1 << 20,
            service_capacity: 4096,
            real_server_capacity: 16384,
            control_socket: PathBuf::from("/run/dr-director/control.sock"),
            control_group: None,
            metrics_listen: Some(SocketAddr::from(([127, 0, 0, 1], 9190))),
            eal_arguments: Vec::new(),
        }
    }
}

impl ServiceConfig {
    /// What names it.
    pub fn id(&self) -> ServiceId {
        ServiceId { protocol: self.protocol, address: self.address, port: self.port }
    }
}

impl Protocol {
    /// Its name in configuration and protocol.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.protocol, self.address, self.port)
    }
}

/// `metrics_listen` as text: TOML has no null, so "not at all" needs a word.
mod metrics_listen {
    use std::net::SocketAddr;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        listen: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match listen {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        crate::text::deserialize(deserializer, |text| {
            if text == "off" {
                return Ok(None);
            }
            text.parse().map(Some).map_err(|_| {
                format!("`{text}` is neither an address with a port such as 127.0.0.1:9190 nor `off`")
            })
        })
    }
}
