//! The thread between the taps and the workers' queues. It runs on the control thread's CPUs.
//!
//! No worker wakes it, for that would be a system call on their way: it looks into their queue as often as there is
//! something to do, and a thousand times a second at least.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::host::{HostFrames, SendError};
use dataplane::packet::ethernet::FRAME_BYTES_MIN;
use dataplane::packet::vlan::TAG_BYTES;
use dataplane::port::PortId;
use nix::poll::{PollFd, PollFlags, ppoll};

use super::{Device, HostInterfaces};
use crate::neighbourhood::vlan_tag;
use crate::topology::Topology;

/// Frames of one direction before the other has its turn.
const BURST: usize = 64;
/// Sleep where nothing was to do just now, and for a while.
const PAUSE_MIN: Duration = Duration::from_micros(100);
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// The longest frame that a tap gives: an IP packet of 65,535 bytes and its headers.
const FRAME_BYTES_MAX: usize = 65_535 + 14;
/// Between the MAC addresses and the rest of a frame.
const MACS_BYTES: usize = 12;

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub struct HostThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HostThread {
    /// Starts it; none where there is no host interface.
    pub fn start(
        interfaces: &HostInterfaces,
        topology: &Topology,
        frames: Box<dyn HostFrames>,
    ) -> io::Result<Option<HostThread>> {
        if interfaces.is_empty() {
            return Ok(None);
        }
        let stop = Arc::<AtomicBool>::default();
        let mut bridge = Bridge {
            interfaces: interfaces.clone(),
            ways: topology.interfaces.iter().map(|one| (one.port, vlan_tag(one))).collect(),
            frames,
            incoming: Vec::new(),
            outgoing: vec![0; TAG_BYTES + FRAME_BYTES_MAX],
            waiting: None,
        };
        let stopped = stop.clone();
        let body = move || bridge.run(&stopped);
        let thread = std::thread::Builder::new().name("host-interfaces".to_owned()).spawn(body)?;
        Ok(Some(HostThread { stop, thread: Some(thread) }))
    }
}

impl Drop for HostThread {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the host interfaces panicked: this is a defect of dr-director");
        }
    }
}

struct Bridge {
    interfaces: HostInterfaces,
    /// Port and tag of each interface's frames.
    ways: Vec<(PortId, Option<[u8; TAG_BYTES]>)>,
    frames: Box<dyn HostFrames>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// A frame of the host for which worker 0's queue had no room: it waits, and the taps with it, so that the host's
    /// senders slow down instead of losing packets.
    waiting: Option<(usize, PortId, Vec<u8>)>,
}

impl Bridge {
    fn run(&mut self, stop: &AtomicBool) {
        let mut pause = PAUSE_MIN;
        while !stop.load(Relaxed) {
            let count = self.deliver() + self.take();
            if count > 0 {
                pause = PAUSE_MIN;
                continue;
            }
            self.sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Hands a burst to the host; how many there were.
    fn deliver(&mut self) -> usize {
        let mut count = 0;
        while count < BURST
            && let Some(interface) = self.frames.next(&mut self.incoming)
        {
            self.interfaces.deliver(interface, &self.incoming);
            count += 1;
        }
        count
    }

    /// Queues a burst of each tap for sending; how many there were.
    fn take(&mut self) -> usize {
        if let Some((number, port, frame)) = self.waiting.take() {
            let sent = self.frames.send(port, &frame);
            if sent == Err(SendError::QueueFull) {
                self.waiting = Some((number, port, frame));
                return 0;
            }
            self.count(number, sent.is_ok());
        }
        let interfaces = self.interfaces.clone();
        let devices = interfaces.devices.iter().enumerate();
        let mut count = 0;
        for (number, device) in devices.filter_map(|(number, device)| Some((number, device.as_ref()?))) {
            for _ in 0..BURST {
                let Some(frame) = self.read(number, device) else { break };
                count += 1;
                let (port, _) = self.ways[number];
                let sent = self.frames.send(port, &self.outgoing[frame.clone()]);
                if sent == Err(SendError::QueueFull) {
                    self.waiting = Some((number, port, self.outgoing[frame].to_vec()));
                    return count;
                }
                self.count(number, sent.is_ok());
            }
        }
        count
    }

    fn count(&self, number: usize, is_taken: bool) {
        if let Some(Some(device)) = self.interfaces.devices.get(number) {
            let counter = if is_taken { &device.taken } else { &device.not_taken };
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Reads a frame, gives it the tag that it is to have and pads it; where it lies in `outgoing`.
    fn read(&mut self, number: usize, device: &Device) -> Option<std::ops::Range<usize>> {
        let length =
            device.read(&mut self.outgoing[TAG_BYTES..]).ok().filter(|&length| length > MACS_BYTES)?;
        let end = TAG_BYTES + length.max(FRAME_BYTES_MIN);
        self.outgoing[TAG_BYTES + length..end].fill(0);
        let Some((_, Some(tag))) = self.ways.get(number) else { return Some(TAG_BYTES..end) };
        self.outgoing.copy_within(TAG_BYTES..TAG_BYTES + MACS_BYTES, 0);
        self.outgoing[MACS_BYTES..MACS_BYTES + TAG_BYTES].copy_from_slice(tag);
        Some(0..end)
    }

    /// Until a tap has something, or the time is over.
    fn sleep(&self, pause: Duration) {
        let mut waited_for: Vec<_> = match self.waiting {
            Some(_) => Vec::new(),
            None => {
                let devices = self.interfaces.devices.iter().flatten();
                devices.map(|device| PollFd::new(device.tap.as_fd(), PollFlags::POLLIN)).collect()
            }
        };
        // An interruption is as good as the end of the pause.
        let _ = ppoll(&mut waited_for, Some(pause.into()), None);
    }
}
