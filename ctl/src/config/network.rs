//! Ports, VLANs, routes and the addresses of full NAT.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One DPDK port. Its untagged side and each of its VLANs is an interface, to which networks are connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// The name in `dr-ctl`, logs and metrics.
    pub name: String,
    /// The DPDK device: a PCI address (`0000:03:00.0`) or a virtual device with its arguments
    /// (`net_af_packet0,iface=eth1`).
    pub device: String,
    /// The director's own addresses (DIPs) on the untagged side, each with its directly connected network:
    /// `10.0.0.1/24`, `2001:db8::1/64`. May be empty where there are VLANs.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// RX descriptors of each queue.
    #[serde(default = "default_descriptors")]
    pub rx_descriptors: u16,
    /// TX descriptors of each queue.
    #[serde(default = "default_descriptors")]
    pub tx_descriptors: u16,
    /// Largest IP packet, in bytes. None: what the device has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What on the host gets the packets of the untagged side that are for the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_interface: HostInterface,
    /// Frames with two tags, or with a tag of 802.1ad.
    #[serde(default, skip_serializing_if = "is_default")]
    pub qinq: Qinq,
    /// The VLANs (802.1Q) on this port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanConfig>,
}

/// A VLAN of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlanConfig {
    /// 1 to 4094.
    pub id: u16,
    /// The director's own addresses (DIPs) in it, each with its directly connected network.
    pub addresses: Vec<IpNet>,
    /// Largest IP packet, in bytes. None: the port's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What on the host gets the packets of this VLAN that are for the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_interface: HostInterface,
}

/// The tap through which the host has its part of an interface's traffic. In text `auto`, `off`, or a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostInterface {
    /// A tap named `dr-<interface>`, or where that is longer than 15 bytes `dr<port's number>`.
    #[default]
    Auto,
    /// None: packets for the host are dropped.
    Off,
    /// A tap of this name.
    Named(String),
}

/// Frames with two VLAN tags, or with a tag of 802.1ad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Qinq {
    /// Dropped.
    #[default]
    Drop,
    /// Handed to the host interface.
    Pass,
}

/// The way to a network that no interface is connected to. Where several lead to an address, the longest prefix does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The network, `0.0.0.0/0` or `::/0` for every other one.
    pub network: IpNet,
    /// The next hop, in a directly connected network.
    pub gateway: IpAddr,
    /// Name of the interface to the gateway: `lan0`, or `lan0.100` for a VLAN. None: by the gateway's address, which a
    /// link-local one does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// What full NAT has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatConfig {
    /// The addresses (LIPs) that clients have in the eyes of real servers behind full NAT, each in a directly connected
    /// network.
    pub local_addresses: Vec<IpAddr>,
}

/// A layer 3 interface: the untagged side of a port, or a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceConfig<'a> {
    /// Name of the port.
    pub port: &'a str,
    /// None: the untagged side.
    pub vlan: Option<u16>,
    /// DIPs with their networks.
    pub addresses: &'a [IpNet],
    /// Largest IP packet, in bytes, where given.
    pub mtu: Option<u16>,
    /// The host's part.
    pub host_interface: &'a HostInterface,
}

fn default_descriptors() -> u16 {
    1024
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PortConfig {
    /// A port with nothing but its name and device.
    pub fn new(name: impl Into<String>, device: impl Into<String>) -> PortConfig {
        PortConfig {
            name: name.into(),
            device: device.into(),
            addresses: Vec::new(),
            rx_descriptors: default_descriptors(),
            tx_descriptors: default_descriptors(),
            mtu: None,
            host_interface: HostInterface::Auto,
            qinq: Qinq::Drop,
            vlans: Vec::new(),
        }
    }

    /// The untagged side, which may have no address, then the VLANs.
    pub fn interfaces(&self) -> impl Iterator<Item = InterfaceConfig<'_>> {
        let untagged = InterfaceConfig {
            port: &self.name,
            vlan: None,
            addresses: &self.addresses,
            mtu: self.mtu,
            host_interface: &self.host_interface,
        };
        let vlans = self.vlans.iter().map(|vlan| InterfaceConfig {
            port: &self.name,
            vlan: Some(vlan.id),
            addresses: &vlan.addresses,
            mtu: vlan.mtu.or(self.mtu),
            host_interface: &vlan.host_interface,
        });
        std::iter::once(untagged).chain(vlans)
    }
}

impl InterfaceConfig<'_> {
    /// The name by which routes, listings and metrics know it: `lan0`, `lan0.100`.
    pub fn name(&self) -> String {
        match self.vlan {
            None => self.port.to_owned(),
            Some(id) => format!("{}.{id}", self.port),
        }
    }

    /// Name of its host interface; none where it is off. `port_number` is the port's place in the configuration.
    pub fn host_interface_name(&self, port_number: usize) -> Option<String> {
        match self.host_interface {
            HostInterface::Off => None,
            HostInterface::Named(name) => Some(name.clone()),
            HostInterface::Auto => {
                let name = format!("dr-{}", self.name());
                let tail = self.vlan.map(|id| format!(".{id}")).unwrap_or_default();
                let is_short = name.len() <= HostInterface::NAME_BYTES_MAX;
                Some(if is_short { name } else { format!("dr{port_number}{tail}") })
            }
        }
    }
}

impl HostInterface {
    /// Bytes of an interface's name: Linux's `IFNAMSIZ` less its NUL.
    pub const NAME_BYTES_MAX: usize = 15;
}

impl fmt::Display for HostInterface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HostInterface::Auto => "auto",
            HostInterface::Off => "off",
            HostInterface::Named(name) => name,
        })
    }
}

impl Serialize for HostInterface {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostInterface {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, |text| {
            Ok::<_, String>(match text {
                "auto" => HostInterface::Auto,
                "off" => HostInterface::Off,
                name => HostInterface::Named(name.to_owned()),
            })
        })
    }
}
