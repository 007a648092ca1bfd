//! Hosts and cables. Whatever happens to the process, nothing of a network stays.
//!
//! Names: namespace `dr<pid>-<network>-<host>`, directory `<temporary>/dr<pid>-<network>`. One network at a time in a
//! process: its workers poll, and two would only measure each other.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process;
use crate::reaper::{self, Reaper};

static HAS_NETWORK: Mutex<bool> = Mutex::new(false);
static NETWORK_IS_GONE: Condvar = Condvar::new();
static NETWORKS_MADE: AtomicU32 = AtomicU32::new(0);

/// Longest name of an interface: the kernel's IFNAMSIZ less the final zero.
const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// Hosts that are joined by cables. Dropped, all of it is gone, the processes on the hosts too.
pub struct Network {
    prefix: String,
    directory: PathBuf,
    // Order matters: all is removed before the next network may start.
    _reaper: Reaper,
    _turn: Turn,
}

/// The right to have a network. Unlike a lock's guard it may go from one test's thread to the next one's.
struct Turn;

impl Turn {
    fn wait() -> Turn {
        // A test that failed while it had its turn has left nothing behind: Drop ran.
        let mut has_network = HAS_NETWORK.lock().unwrap_or_else(PoisonError::into_inner);
        while *has_network {
            has_network = NETWORK_IS_GONE.wait(has_network).unwrap_or_else(PoisonError::into_inner);
        }
        *has_network = true;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *HAS_NETWORK.lock().unwrap_or_else(PoisonError::into_inner) = false;
        NETWORK_IS_GONE.notify_one();
    }
}

impl Network {
    /// A network without hosts. Waits for the end of this process's other network.
    pub fn new() -> Result<Network> {
        let turn = Turn::wait();
        reaper::sweep_stale();
        let number = NETWORKS_MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{number}", reaper::prefix_of(std::process::id()));
        let directory = std::env::temp_dir().join(&name);
        let prefix = format!("{name}-");
        let reaper = Reaper::start(&prefix, &directory)?;
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Network { prefix, directory, _reaper: reaper, _turn: turn })
    }

    /// Where the network's files are, each host's in a directory of its own.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the names of its namespaces start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Adds a host with no interface but `lo`.
    pub fn add_host(&self, name: &str) -> Result<Host> {
        Host::create(name, format!("{}{name}", self.prefix), self.directory.join(name))
    }

    /// Adds a host that is a switch: a bridge `br0` that learns, without spanning tree.
    pub fn add_switch(&self, name: &str) -> Result<Host> {
        let switch = self.add_host(name)?;
        add_bridge(&switch)?;
        Ok(switch)
    }

    /// Joins two hosts, each interface given by host and name. Checksums and segments are made by the sender, not left
    /// to a device that is not there: AF_PACKET would hand on what veth left undone.
    pub fn add_cable(&self, one: (&Host, &str), other: (&Host, &str)) -> Result<()> {
        self.add_cable_of_queues(one, other, 1)
    }

    /// The same with several queues at both ends, which the kernel chooses from by flow: an XDP socket has one of them.
    pub fn add_cable_of_queues(
        &self,
        (one, one_end): (&Host, &str),
        (other, other_end): (&Host, &str),
        queues: u16,
    ) -> Result<()> {
        for end in [one_end, other_end] {
            anyhow::ensure!(end.len() <= INTERFACE_NAME_BYTES_MAX, "interface name {end} is too long");
        }
        let queues = queues.to_string();
        let queues = ["numtxqueues", &queues, "numrxqueues", &queues];
        let mut command = Command::new("ip");
        command.args(["link", "add", one_end, "netns", one.namespace()]).args(queues);
        command.args(["type", "veth", "peer", "name", other_end, "netns", other.namespace()]).args(queues);
        process::run(&mut command)?;
        for (host, end) in [(one, one_end), (other, other_end)] {
            host.run(&["ethtool", "-K", end, "tx", "off", "tso", "off", "gso", "off", "gro", "off"])?;
            host.ip(&format!("link set {end} up"))?;
        }
        Ok(())
    }

    /// Joins a host's interface to a switch and gives it a MAC address; the switch's socket is `to-<host>`.
    pub fn plug_interface(&self, host: &Host, interface: &str, switch: &Host, mac: &str) -> Result<()> {
        self.plug_interface_of_queues(host, interface, switch, mac, 1)
    }

    /// The same with several queues.
    pub fn plug_interface_of_queues(
        &self,
        host: &Host,
        interface: &str,
        switch: &Host,
        mac: &str,
        queues: u16,
    ) -> Result<()> {
        let socket = format!("to-{}", host.name());
        self.add_cable_of_queues((host, interface), (switch, &socket), queues)?;
        host.ip(&format!("link set {interface} address {mac}"))?;
        switch.ip(&format!("link set {socket} master br0")).map(drop)
    }

    /// Joins a host's `eth0` to a switch and gives it a MAC address.
    pub fn plug(&self, host: &Host, switch: &Host, mac: &str) -> Result<()> {
        self.plug_interface(host, "eth0", switch, mac)
    }
}

/// Gives a host a bridge `br0`.
pub fn add_bridge(host: &Host) -> Result<()> {
    host.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
    host.ip("link set br0 up").map(drop)
}
