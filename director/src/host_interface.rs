//! The host's part of the traffic: a tap for each interface, through which the kernel speaks with the DIP's address.
//! SSH, BGP and NTP on the DIP work over a port that the kernel does not see.
//!
//! Workers queue what is for the host; a thread of its own writes it to the tap ([`thread`]) and queues for worker 0 what it
//! reads there, so that a flood of the host's packets delays no answer of the control thread. The director alone answers ARP
//! and neighbour solicitations for the DIP, and the tap sees none of them; answers to the host's own questions the
//! control thread hands on ([`HostInterfaces::deliver`]).
//!
//! A tap goes when the process does, whatever ends it.

mod setup;
mod thread;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use dataplane::snapshot::InterfaceId;
use tun_rs::SyncDevice;

use crate::topology::Topology;

pub use thread::HostThread;

/// Whether host interfaces may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAccess {
    /// As taps of the kernel.
    Taps,
    /// None: tests, which are not to change the machine that they run on.
    None,
}

/// A device that the configuration names is not there.
#[derive(Debug, thiserror::Error)]
#[error("host_interface \"{device}\" of {interface}: {reason}; {help}, or set host_interface to \"off\"")]
pub struct HostInterfaceError {
    /// The device.
    pub device: String,
    /// The director's interface.
    pub interface: String,
    /// Why not.
    pub reason: String,
    /// What to do.
    pub help: &'static str,
}

/// What passed a host interface since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostInterfaceCounters {
    /// Packets that the host got.
    pub delivered: u64,
    /// Packets that the device did not take.
    pub not_delivered: u64,
    /// Packets of the host that were queued for sending.
    pub taken: u64,
    /// Packets of the host for which there was no buffer.
    pub not_taken: u64,
}

/// A tap.
struct Device {
    tap: SyncDevice,
    delivered: AtomicU64,
    not_delivered: AtomicU64,
    taken: AtomicU64,
    not_taken: AtomicU64,
}

impl Device {
    /// Hands a frame to the host; false where the device does not take it.
    fn deliver(&self, frame: &[u8]) -> bool {
        let is_delivered = self.tap.send(frame).is_ok();
        let counter = if is_delivered { &self.delivered } else { &self.not_delivered };
        counter.fetch_add(1, Relaxed);
        is_delivered
    }

    /// The next frame of the host, without waiting.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tap.recv(buffer)
    }
}

/// All host interfaces; a handle, of which each thread has its own.
#[derive(Clone, Default)]
pub struct HostInterfaces {
    /// By [`InterfaceId`].
    devices: Arc<[Option<Device>]>,
}

impl HostInterfaces {
    /// Makes what the configuration asks for, tells `topology` of it, and says what could not be made. One that the
    /// configuration names must be.
    pub fn open(
        topology: &mut Topology,
        access: HostAccess,
    ) -> Result<(HostInterfaces, Vec<String>), HostInterfaceError> {
        if access == HostAccess::None {
            return Ok((HostInterfaces::default(), Vec::new()));
        }
        let mut devices = Vec::with_capacity(topology.interfaces.len());
        let mut missing: Vec<(String, Vec<String>)> = Vec::new();
        for interface in &mut topology.interfaces {
            let opened = interface.host_interface.clone().map(|name| (setup::open(&name, interface), name));
            let device = match opened {
                None => None,
                Some((Ok(tap), _)) => Some(Device::new(tap)),
                Some((Err(error), device)) => {
                    let reason = error.to_string();
                    if interface.needs_host_interface {
                        let (interface, help) = (interface.name.clone(), error.help());
                        return Err(HostInterfaceError { device, interface, reason, help });
                    }
                    match missing.iter_mut().find(|(known, _)| *known == reason) {
                        Some((_, devices)) => devices.push(device),
                        None => missing.push((reason, vec![device])),
                    }
                    None
                }
            };
            interface.has_host = device.is_some();
            devices.push(device);
        }
        let warnings = missing.iter().map(|(reason, devices)| warning(reason, devices)).collect();
        Ok((HostInterfaces { devices: devices.into() }, warnings))
    }

    fn device(&self, interface: InterfaceId) -> Option<&Device> {
        self.devices.get(interface.index())?.as_ref()
    }

    /// Hands an untagged frame that came in on `interface` to the host, where it has a part of that.
    pub fn deliver(&self, interface: InterfaceId, frame: &[u8]) {
        if let Some(device) = self.device(interface) {
            device.deliver(frame);
        }
    }

    /// What passed the host interface of `interface`; none where there is none.
    pub fn counters(&self, interface: InterfaceId) -> Option<HostInterfaceCounters> {
        self.device(interface).map(|device| HostInterfaceCounters {
            delivered: device.delivered.load(Relaxed),
            not_delivered: device.not_delivered.load(Relaxed),
            taken: device.taken.load(Relaxed),
            not_taken: device.not_taken.load(Relaxed),
        })
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.devices.iter().all(Option::is_none)
    }
}

impl Device {
    fn new(tap: SyncDevice) -> Device {
        Device {
            tap,
            delivered: AtomicU64::new(0),
            not_delivered: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            not_taken: AtomicU64::new(0),
        }
    }
}

fn warning(reason: &str, devices: &[String]) -> String {
    const NAMED: usize = 4;
    let mut names = devices.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = devices.len().checked_sub(NAMED).filter(|&more| more > 0) {
        names += &format!(" and {more} more");
    }
    format!(
        "no host interface {names} ({reason}): packets for the host itself, such as SSH to the DIP, are dropped; run as root \
         or with CAP_NET_ADMIN, or set host_interface to \"off\""
    )
}
