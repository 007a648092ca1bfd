//! Frames as they are, on an interface of a host: what no socket of the kernel's would send, and what it would not show.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::differential::wire;
use crate::host::Host;

/// Longer than any frame of a lab.
const FRAME_BYTES_MAX: usize = 16 << 10;

/// An AF_PACKET socket bound to one interface.
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Opens it; it sees what the interface receives from now on.
    pub fn open(host: &Host, interface: &str) -> Result<PacketSocket> {
        Ok(PacketSocket { socket: wire::open(host, interface)? })
    }

    /// Sends a frame from its destination MAC on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a frame").map(drop)
    }

    /// The first frame of those that arrive within `limit` for which `wanted` is true.
    pub fn receive(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while Instant::now() < end {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if wanted(&buffer[..length]) => return Ok(Some(buffer[..length].to_vec())),
                // The socket's own time limit is shorter.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot receive a frame"),
            }
        }
        Ok(None)
    }
}
