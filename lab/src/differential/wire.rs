//! The far end of the director's cable: the clients and the real servers, as frames.
//!
//! Frames go in in order and come out in order: a barrier, a frame to a service that always forwards, goes in after each
//! batch, and what has not come out before it never will.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::frame::{Frame, Mac, Payload, read_forwarded};
use super::neighbours::{
    BARRIER_REAL_SERVER, DIRECTOR, DIRECTOR_MAC, Neighbour, REAL_SERVERS, ROUTER_MAC, address_of, mac_of,
    mac_text,
};
use crate::host::Host;
use crate::wait::HANGS;

/// The service that always forwards.
pub const BARRIER_SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 254), 9);

/// Such a service for each link: its RS is there.
pub const BARRIER_SERVICES: [SocketAddrV4; 2] =
    [BARRIER_SERVICE, SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 253), 9)];

const BARRIER_CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 9);

/// Frames that go in before their outcome is awaited. Less than any queue on the way.
const BATCH: usize = 32;

/// How long a barrier may take before another one is sent, while the director is not known to forward.
const BARRIER_RETRY: Duration = Duration::from_millis(200);

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// How long one look at the socket may take.
const LOOK: TimeVal = TimeVal::new(0, 100_000);

const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
pub(super) const FRAME_BYTES_MAX: usize = 2048;

/// The far end, and the numbers of its frames.
pub struct Wire {
    /// One a link.
    sockets: Vec<OwnedFd>,
    next_number: u16,
}

/// A frame that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who got it.
    pub by: Neighbour,
    /// From its IP header on.
    pub packet: Vec<u8>,
}

impl Wire {
    /// Opens it on interfaces of `host`, one a link.
    pub fn open(host: &Host, interfaces: &[&str]) -> Result<Wire> {
        let sockets = interfaces.iter().map(|interface| open(host, interface)).collect::<Result<_>>()?;
        Ok(Wire { sockets, next_number: 1 })
    }

    /// Sends one packet to the director, and returns what came out of it on all links.
    pub fn exchange(&mut self, from: Neighbour, packet: &[u8]) -> Result<Vec<Received>> {
        let link = usize::from(from.link);
        let director = Neighbour { link: from.link, number: DIRECTOR };
        let ethertype: [u8; 2] =
            if packet.first().is_some_and(|first| first >> 4 == 6) { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        self.put(link, &[&director.mac(), &from.mac(), &ethertype[..], packet].concat())?;
        // What the director makes itself, errors and pieces, leaves behind the other frames of the burst that it came of. So a
        // barrier tells that the burst is over, and those behind it that all of it came out.
        let mut received = Vec::new();
        let over = self.put_barrier(from, BARRIER_SERVICE)?;
        self.receive_until(0, over, &mut received)?;
        let services: Vec<_> = BARRIER_SERVICES.into_iter().take(self.sockets.len()).collect();
        let barriers: Vec<u16> =
            services.into_iter().map(|service| self.put_barrier(from, service)).collect::<Result<_>>()?;
        for (link, barrier) in barriers.into_iter().enumerate() {
            self.receive_until(link as u8, barrier, &mut received)?;
        }
        Ok(received)
    }

    /// A barrier of this service, in on the link that `from` is on: between two links there is no order. Returns its number.
    fn put_barrier(&mut self, from: Neighbour, service: SocketAddrV4) -> Result<u16> {
        let director = Neighbour { link: from.link, number: DIRECTOR };
        let number = self.number();
        let barrier = Frame::new(BARRIER_CLIENT, service, Payload::Udp);
        self.put(from.link.into(), &barrier.bytes(number, ROUTER_MAC, director.mac()))?;
        Ok(number)
    }

    fn receive_until(&self, link: u8, barrier: u16, received: &mut Vec<Received>) -> Result<()> {
        let director = Neighbour { link, number: DIRECTOR };
        let start = Instant::now();
        let mut bytes = [0; FRAME_BYTES_MAX];
        while start.elapsed() < HANGS {
            let socket = &self.sockets[usize::from(link)];
            let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else { continue };
            let frame = &bytes[..length];
            if is_talk_among_neighbours(frame) || frame[6..12] != director.mac() {
                continue;
            }
            let to = <Mac>::try_from(&frame[..6])?;
            let by = Neighbour::of_mac(to).filter(|by| by.link == link);
            let by = by.with_context(|| format!("a frame went to {} on link {link}", mac_text(to)))?;
            if by.number != BARRIER_REAL_SERVER {
                received.push(Received { by, packet: without_padding(frame).to_vec() });
            } else if read_forwarded(frame).is_some_and(|(number, _)| number == barrier) {
                return Ok(());
            }
        }
        bail!("the barrier did not come out of link {link} within {HANGS:?}")
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
        let number = self.number();
        self.put(0, &frame.bytes(number, ROUTER_MAC, DIRECTOR_MAC))?;
        Ok(number)
    }

    fn number(&mut self) -> u16 {
        let number = self.next_number;
        // Zero is the number of frames that somebody else made.
        self.next_number = number.checked_add(1).unwrap_or(1);
        number
    }

    fn put(&self, link: usize, frame: &[u8]) -> Result<()> {
        let sent = send(self.sockets[link].as_raw_fd(), frame, MsgFlags::empty());
        sent.map(drop).with_context(|| format!("cannot send a frame of {} bytes", frame.len()))
    }

    /// Destination MAC by number of what comes out until the barrier does.
    fn collect_until(&self, barrier: u16, limit: Duration) -> Result<BTreeMap<u16, Mac>> {
        let mut arrived = BTreeMap::new();
        let start = Instant::now();
        let mut bytes = [0; FRAME_BYTES_MAX];
        while start.elapsed() < limit {
            let Ok(length) = recv(self.sockets[0].as_raw_fd(), &mut bytes, MsgFlags::empty()) else {
                continue;
            };
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

/// The packet in a frame. Only the smallest frame there is may be larger than what is in it.
fn without_padding(frame: &[u8]) -> &[u8] {
    const FRAME_BYTES_MIN: usize = 60;
    let packet = &frame[14..];
    let length = match packet {
        [first, _, high, low, ..] if first >> 4 == 4 => usize::from(u16::from_be_bytes([*high, *low])),
        [first, _, _, _, high, low, ..] if first >> 4 == 6 => {
            40 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => packet.len(),
    };
    if frame.len() == FRAME_BYTES_MIN { packet.get(..length).unwrap_or(packet) } else { packet }
}

/// ARP, neighbour discovery, and groups: not what comes of a packet.
fn is_talk_among_neighbours(frame: &[u8]) -> bool {
    const ICMP6: u8 = 58;
    let is_group = |mac: &[u8]| mac[0] & 1 != 0;
    match frame.get(12..14) {
        Some(ethertype) if ethertype == ETHERTYPE_IPV4 => frame.len() < 34 || is_group(frame),
        Some(ethertype) if ethertype == ETHERTYPE_IPV6 => {
            let is_discovery = frame.get(20) == Some(&ICMP6)
                && frame.get(54).is_some_and(|message| (130..=137).contains(message));
            frame.len() < 54 || is_group(frame) || is_discovery
        }
        _ => true,
    }
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
