//! The far end of the director's cable: the clients and the real servers, as frames.
//!
//! Frames go in in order and come out in order: a barrier, a frame to a service that always forwards, goes in after each
//! batch, and what has not come out before it never will.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::frame::{Frame, Mac, Payload, read_forwarded};
use crate::host::Host;
use crate::wait::HANGS;

/// MAC address of the director's end.
pub const DIRECTOR_MAC: Mac = mac_of(1);

/// MAC address of the router that the clients are behind.
pub const ROUTER_MAC: Mac = mac_of(ROUTER);

/// Last octet of the router's address.
pub const ROUTER: u8 = 254;

/// Last octets of the real servers that a scenario may use: 10.0.0.11 to 10.0.0.26.
pub const REAL_SERVERS: std::ops::RangeInclusive<u8> = 11..=26;

/// Last octet of the RS behind [`BARRIER_SERVICE`].
pub const BARRIER_REAL_SERVER: u8 = 250;

/// The service that always forwards.
pub const BARRIER_SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 254), 9);

const BARRIER_CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 9);

/// Frames that go in before their outcome is awaited. Less than any queue on the way.
const BATCH: usize = 32;

/// How long a barrier may take before another one is sent, while the director is not known to forward.
const BARRIER_RETRY: Duration = Duration::from_millis(200);

/// How long one look at the socket may take.
const LOOK: TimeVal = TimeVal::new(0, 100_000);

const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const FRAME_BYTES_MAX: usize = 2048;

/// MAC address of 10.0.0.`octet`.
pub const fn mac_of(octet: u8) -> Mac {
    [2, 0, 10, 0, 0, octet]
}

/// Address 10.0.0.`octet`.
pub fn address_of(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, octet)
}

/// A MAC address as `ip` writes it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The far end, and the numbers of its frames.
pub struct Wire {
    socket: OwnedFd,
    next_number: u16,
}

impl Wire {
    /// Opens it on an interface of `host`.
    pub fn open(host: &Host, interface: &str) -> Result<Wire> {
        Ok(Wire { socket: open(host, interface)?, next_number: 1 })
    }

    /// Sends frames and returns what came of each: the RS that got it, or nothing.
    pub fn send(&mut self, frames: &[&Frame]) -> Result<Vec<Option<Ipv4Addr>>> {
        let mut outcomes = Vec::with_capacity(frames.len());
        for batch in frames.chunks(BATCH) {
            outcomes.extend(self.send_batch(batch)?);
        }
        Ok(outcomes)
    }

    fn send_batch(&mut self, frames: &[&Frame]) -> Result<Vec<Option<Ipv4Addr>>> {
        let numbers = frames.iter().map(|frame| self.inject(frame)).collect::<Result<Vec<u16>>>()?;
        let barrier = self.inject(&barrier())?;
        let arrived = self.collect_until(barrier, HANGS)?;
        let outcome = |number: &u16| -> Result<Option<Ipv4Addr>> {
            let Some(mac) = arrived.get(number) else { return Ok(None) };
            let is_known = *mac == mac_of(mac[5]) && REAL_SERVERS.contains(&mac[5]);
            anyhow::ensure!(is_known, "a frame went to {}", mac_text(*mac));
            Ok(Some(address_of(mac[5])))
        };
        numbers.iter().map(outcome).collect()
    }

    /// So many barriers, one after the other: the director's worker has gone as many rounds at least.
    pub fn pass_barriers(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.send_batch(&[])?;
        }
        Ok(())
    }

    /// Waits until the director forwards at all.
    pub fn wait_until_forwarding(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let barrier = self.inject(&barrier())?;
            match self.collect_until(barrier, BARRIER_RETRY) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > HANGS => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn inject(&mut self, frame: &Frame) -> Result<u16> {
        let number = self.next_number;
        // Zero is the number of frames that somebody else made.
        self.next_number = number.checked_add(1).unwrap_or(1);
        let bytes = frame.bytes(number, ROUTER_MAC, DIRECTOR_MAC);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).context("cannot send a frame")?;
        Ok(number)
    }

    /// Destination MAC by number of what comes out until the barrier does.
    fn collect_until(&self, barrier: u16, limit: Duration) -> Result<BTreeMap<u16, Mac>> {
        let mut arrived = BTreeMap::new();
        let start = Instant::now();
        let mut bytes = [0; FRAME_BYTES_MAX];
        while start.elapsed() < limit {
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else { continue };
            let Some((number, mac)) = read_forwarded(&bytes[..length]) else { continue };
            if mac == mac_of(BARRIER_REAL_SERVER) && number == barrier {
                return Ok(arrived);
            }
            if mac != ROUTER_MAC {
                anyhow::ensure!(arrived.insert(number, mac).is_none(), "frame {number} came out twice");
            }
        }
        bail!("the barrier did not come out within {limit:?}")
    }
}

fn barrier() -> Frame {
    Frame::new(BARRIER_CLIENT, BARRIER_SERVICE, Payload::Udp)
}

/// Answers ARP for the real servers, as real hosts would, until dropped.
pub struct ArpResponder {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ArpResponder {
    /// Starts it on an interface of `host`.
    pub fn start(host: &Host, interface: &str) -> Result<ArpResponder> {
        let socket = open(host, interface)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; FRAME_BYTES_MAX];
            while !flag.load(Ordering::Relaxed) {
                let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else { continue };
                if let Some(answer) = arp_answer(&bytes[..length]) {
                    // The director asks again if this one is lost.
                    let _ = send(socket.as_raw_fd(), &answer, MsgFlags::empty());
                }
            }
        });
        Ok(ArpResponder { is_over, thread: Some(thread) })
    }
}

impl Drop for ArpResponder {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to an ARP request for 10.0.0.x, the director's own address aside (RFC 826).
fn arp_answer(bytes: &[u8]) -> Option<Vec<u8>> {
    const REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    if bytes.len() < 42 || bytes[12..22] != REQUEST {
        return None;
    }
    let (asker, target) = (&bytes[22..32], &bytes[38..42]);
    let [10, 0, 0, octet] = *target else { return None };
    // Not for the director's own address, nor for one that it probes before it uses it.
    if octet == DIRECTOR_MAC[5] || asker[6..] == [0; 4] {
        return None;
    }
    let mac = mac_of(octet);
    let mut answer = [&asker[..6], &mac, &REQUEST].concat();
    answer[21] = 2;
    answer.extend(mac);
    answer.extend(target);
    answer.extend(asker);
    Some(answer)
}

/// A packet socket on one interface, of all protocols.
pub(crate) fn open(host: &Host, interface: &str) -> Result<OwnedFd> {
    host.enter(|| -> Result<OwnedFd> {
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
                .context("cannot open a packet socket (needs CAP_NET_RAW)")?;
        let link = getifaddrs()?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address.as_ref().and_then(|address| address.as_link_addr().copied()))
            .with_context(|| format!("no interface {interface}"))?;
        bind(socket.as_raw_fd(), &link)?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        setsockopt(&socket, ReceiveTimeout, &LOOK)?;
        Ok(socket)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arp_request_for_a_real_server_is_answered_and_for_the_director_not() {
        let mut request = [&[0xff; 6][..], &DIRECTOR_MAC, &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]].concat();
        request.extend(DIRECTOR_MAC);
        request.extend([10, 0, 0, 1]);
        request.extend([0; 6]);
        request.extend([10, 0, 0, 11]);
        let answer = arp_answer(&request).unwrap();
        assert_eq!(answer[..6], DIRECTOR_MAC);
        assert_eq!(answer[20..32], [0, 2, 2, 0, 10, 0, 0, 11, 10, 0, 0, 11]);
        request[41] = 1;
        assert_eq!(arp_answer(&request), None);
    }
}
