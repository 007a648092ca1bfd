//! Makes one tap: with the port's MAC address, so that frames need no rewriting, the interface's MTU and its DIPs.
//!
//! The kernel is kept from what the director does: it detects no duplicates of the DIPs, believes no router and makes
//! itself no address.

use std::path::Path;

use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::topology::Interface;

/// Why a tap could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    /// By the tun driver.
    #[error("the kernel makes no tap ({0})")]
    Tap(std::io::Error),
    /// Something else has its name.
    #[error("an interface of this name exists and is no tap")]
    Exists,
    /// MAC, MTU or link.
    #[error("the tap cannot be set up ({0})")]
    Device(std::io::Error),
    /// Routing netlink.
    #[error("the tap gets no address {address} ({reason})")]
    Address {
        /// Which.
        address: IpNet,
        /// Why.
        reason: String,
    },
}

impl SetupError {
    /// What to do about it.
    pub(super) fn help(&self) -> &'static str {
        match self {
            SetupError::Exists => "give another name, or remove that interface",
            _ => "run as root or with CAP_NET_ADMIN",
        }
    }
}

/// The tap `name` for `interface`, up.
pub(super) fn open(name: &str, interface: &Interface) -> Result<SyncDevice, SetupError> {
    if !Path::new("/dev/net/tun").exists() {
        // The crate would make the node, which is the host's affair.
        return Err(SetupError::Tap(std::io::ErrorKind::NotFound.into()));
    }
    // One that was made for us beforehand is taken.
    let known = Path::new("/sys/class/net").join(name);
    if known.exists() && !known.join("tun_flags").exists() {
        return Err(SetupError::Exists);
    }
    let builder = DeviceBuilder::new().name(name).layer(Layer::L2).enable(false);
    let tap = builder.build_sync().map_err(SetupError::Tap)?;
    set_up(name, interface, &tap)?;
    Ok(tap)
}

fn set_up(name: &str, interface: &Interface, tap: &SyncDevice) -> Result<(), SetupError> {
    tap.set_nonblocking(true).map_err(SetupError::Device)?;
    tap.set_mac_address(interface.mac).map_err(SetupError::Device)?;
    tap.set_mtu(interface.mtu).map_err(SetupError::Device)?;
    let settings = [
        // The director has the addresses already, and defends them.
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
        // The link-local address is the one that the director answers for.
        ("addr_gen_mode", "0"),
        ("disable_ipv6", if interface.has_ipv6() { "0" } else { "1" }),
    ];
    for (key, value) in settings {
        // What cannot be set here (a read-only /proc, a kernel without IPv6) costs a needless packet at most.
        if let Err(error) = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{key}"), value) {
            tracing::debug!("net.ipv6.conf.{name}.{key}: {error}");
        }
    }
    let index = tap.if_index().map_err(SetupError::Device)?;
    add_addresses(index, &interface.addresses)?;
    tap.enabled(true).map_err(SetupError::Device)
}

fn add_addresses(index: u32, addresses: &[IpNet]) -> Result<(), SetupError> {
    let failed = |reason: String| {
        let address = addresses.first().copied().unwrap_or_default();
        SetupError::Address { address, reason }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| failed(error.to_string()))?;
        let connection = tokio::spawn(connection);
        for &address in addresses {
            let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
            if address.addr().is_ipv6() {
                detect_no_duplicates(request.message_mut());
            }
            let added = request.execute().await;
            added.map_err(|error| SetupError::Address { address, reason: error.to_string() })?;
        }
        connection.abort();
        Ok(())
    })
}

/// The director has the address already, and defends it.
fn detect_no_duplicates(message: &mut AddressMessage) {
    message.header.flags |= AddressHeaderFlags::Nodad;
}
