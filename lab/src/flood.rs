//! A flood of SYNs, each of another client, as frames on the client's cable.
//!
//! A flood that is to be counted goes as fast as the director takes it and no faster: what a full ring loses before the director
//! has seen it is nothing that a test of the director could tell of.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ctl::protocol::Stats;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use serde_json::json;

use crate::differential::frame::{Frame, Mac, Payload};
use crate::differential::{neighbours, wire};
use crate::director::{self, DirectorProcess};
use crate::host::Host;
use crate::wait;

/// The first source: 198.18.0.0/15 is for benchmarks (RFC 2544), and nobody here has a route to it.
const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Addresses of 198.18.0.0/15.
const SOURCE_COUNT: u64 = 1 << 17;

/// First source port.
const PORT_FIRST: u64 = 1024;

const TCP_SYN: u8 = 2;

/// SYNs of a counted flood that are on their way at once: with what else there is, less than a ring of a port holds that is
/// given 4,096 frames.
pub const WINDOW: u64 = 1024;

/// Frames between two pauses.
const BURST: u64 = 64;

/// A flood that goes on until all is sent, or it is stopped.
pub struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Starts one of `count` SYNs from `host`'s `eth0` to the host with MAC address `to`, with this pause after each 64.
    pub fn start(
        host: &Host,
        to: Mac,
        destination: SocketAddrV4,
        count: u64,
        pause: Duration,
    ) -> Result<Flood> {
        Self::start_paced(host, to, destination, count, move |_| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            Ok(())
        })
    }

    /// The same with a pace of another kind: it is told after each 64 how many were sent, and returns when the next ones may
    /// be.
    pub fn start_paced(
        host: &Host,
        to: Mac,
        destination: SocketAddrV4,
        count: u64,
        mut pace: impl FnMut(u64) -> Result<()> + Send + 'static,
    ) -> Result<Flood> {
        let socket = wire::open(host, "eth0")?;
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (is_over, sent) = (Arc::clone(&is_over), Arc::clone(&sent));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < count {
                    for _ in 0..BURST {
                        let number = sent.load(Ordering::Relaxed);
                        let bytes = syn(number, destination).bytes(number as u16, neighbours::ROUTER_MAC, to);
                        match send(socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
                            Ok(_) => sent.store(number + 1, Ordering::Relaxed),
                            // The cable is full for the moment.
                            Err(Errno::ENOBUFS | Errno::EAGAIN) => break,
                            Err(error) => return Err(error).context("cannot send a frame"),
                        }
                    }
                    pace(sent.load(Ordering::Relaxed))?;
                }
                Ok(())
            })
        };
        Ok(Flood { is_over, sent, thread: Some(thread) })
    }

    /// The same as fast as `director` takes them: `counted` says of its counters how many it has seen, and no more than
    /// [`WINDOW`] are on their way.
    pub fn start_counted(
        host: &Host,
        to: Mac,
        destination: SocketAddrV4,
        count: u64,
        director: &DirectorProcess,
        counted: impl Fn(&Stats) -> u64 + Send + 'static,
    ) -> Result<Flood> {
        let socket = director.socket().to_owned();
        let line = json!({ "version": ctl::protocol::VERSION, "verb": "stats" }).to_string();
        let now = move || -> Result<u64> {
            let stats = director::request(&socket, &line)?["result"].take();
            Ok(counted(&serde_json::from_value(stats)?))
        };
        let before = now()?;
        let mut seen = 0;
        Self::start_paced(host, to, destination, count, move |sent| {
            if sent <= seen + WINDOW {
                return Ok(());
            }
            wait::until(&format!("{sent} packets of a flood to be counted"), || {
                seen = now()? - before;
                Ok((sent <= seen + WINDOW).then_some(()))
            })
        })
    }

    /// SYNs sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and returns how many SYNs were sent.
    pub fn stop(mut self) -> Result<u64> {
        self.end().ok_or_else(|| anyhow!("it was ended before"))??;
        Ok(self.sent())
    }

    fn end(&mut self) -> Option<Result<()>> {
        self.is_over.store(true, Ordering::Relaxed);
        let joined = self.thread.take()?.join();
        Some(joined.unwrap_or_else(|_| Err(anyhow!("the flood's thread panicked"))))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.end() {
            eprintln!("flood: {error:#}");
        }
    }
}

/// The SYN with this number, no two of which have the same source before 2^17 × 64512 of them.
fn syn(number: u64, destination: SocketAddrV4) -> Frame {
    let address = u32::from(SOURCES) + (number % SOURCE_COUNT) as u32;
    let port = PORT_FIRST + number / SOURCE_COUNT % (65536 - PORT_FIRST);
    let source = SocketAddrV4::new(Ipv4Addr::from(address), port as u16);
    Frame::new(source, destination, Payload::Tcp(TCP_SYN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stay_in_their_network_and_ports_count_up_after_the_last_one() {
        let destination = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 80);
        let source = |number| syn(number, destination).source.to_string();
        assert_eq!(source(0), "198.18.0.0:1024");
        assert_eq!(source(SOURCE_COUNT - 1), "198.19.255.255:1024");
        assert_eq!(source(SOURCE_COUNT), "198.18.0.0:1025");
        assert_eq!(source(SOURCE_COUNT * 64511), "198.18.0.0:65535");
        assert_eq!(source(SOURCE_COUNT * 64512), "198.18.0.0:1024");
    }
}
