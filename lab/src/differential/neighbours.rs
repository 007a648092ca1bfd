//! Who is on the director's links: addresses, MAC addresses, and answers to ARP and neighbour discovery as real hosts
//! would give them.
//!
//! Host 11 of link 0 is 10.0.0.11, 2001:db8:0:1::11 and 02:00:0a:00:00:0b; of link 1 10.1.0.11, 2001:db8:0:2::11 and
//! 02:00:0a:01:00:0b. An IPv6 address's last group is read as a decimal number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::Result;
use nix::sys::socket::{MsgFlags, recv, send};

use super::frame::Mac;
use super::packet::build::internet_sum;
use super::wire::{FRAME_BYTES_MAX, open};
use crate::host::Host;

/// Number of the director on every link.
pub const DIRECTOR: u8 = 1;

/// MAC address of the director's end of link 0.
pub const DIRECTOR_MAC: Mac = mac_of(DIRECTOR);

/// Number of the router that the clients are behind, on link 0.
pub const ROUTER: u8 = 254;

/// MAC address of the router.
pub const ROUTER_MAC: Mac = mac_of(ROUTER);

/// Number of the gateway that some real servers are behind, on link 0.
pub const GATEWAY: u8 = 253;

/// The director's routes, besides that to everywhere by the router: real servers behind the gateway, and clients behind a
/// router on link 1, where packets must be smaller.
pub const ROUTES: [(&str, Neighbour); 5] = [
    ("::/0", Neighbour { link: 0, number: ROUTER }),
    ("10.9.0.0/24", Neighbour { link: 0, number: GATEWAY }),
    ("2001:db8:9::/64", Neighbour { link: 0, number: GATEWAY }),
    ("203.0.113.0/24", Neighbour { link: 1, number: ROUTER }),
    ("2001:db8:d::/48", Neighbour { link: 1, number: ROUTER }),
];

/// Numbers of the real servers that a scenario may use.
pub const REAL_SERVERS: std::ops::RangeInclusive<u8> = 11..=26;

/// Number of the RS behind a barrier, on every link.
pub const BARRIER_REAL_SERVER: u8 = 250;

/// Links of a director, and the largest packet on each.
pub const LINK_MTUS: [u16; 2] = [1500, 1400];

/// A host on one of the director's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Number of the link.
    pub link: u8,
    /// Number of the host.
    pub number: u8,
}

impl Neighbour {
    /// The host with this address.
    pub fn of(address: Ipv4Addr) -> Option<Neighbour> {
        match address.octets() {
            [10, link, 0, number] if usize::from(link) < LINK_MTUS.len() => Some(Neighbour { link, number }),
            _ => None,
        }
    }

    /// The host with this MAC address.
    pub fn of_mac(mac: Mac) -> Option<Neighbour> {
        let [2, 0, rest @ ..] = mac else { return None };
        Self::of(Ipv4Addr::from(rest))
    }

    /// Its MAC address.
    pub const fn mac(self) -> Mac {
        [2, 0, 10, self.link, 0, self.number]
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.link, 0, self.number)
    }

    /// Its IPv6 address.
    pub fn address6(self) -> Ipv6Addr {
        let number = self.number;
        let last = u16::from(number / 100) << 8 | u16::from(number / 10 % 10) << 4 | u16::from(number % 10);
        Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(self.link) + 1, 0, 0, 0, last)
    }

    fn of6(address: Ipv6Addr) -> Option<Neighbour> {
        let last = address.segments()[7];
        let number = (last >> 8) * 100 + (last >> 4 & 0xf) * 10 + (last & 0xf);
        let link = u8::try_from(address.segments()[3].checked_sub(1)?).ok()?;
        let neighbour = Neighbour { link, number: u8::try_from(number).ok()? };
        (neighbour.address6() == address && usize::from(link) < LINK_MTUS.len()).then_some(neighbour)
    }
}

/// It is an address of the director's on one of the links.
pub fn is_director(address: IpAddr) -> bool {
    let neighbour = match address {
        IpAddr::V4(address) => Neighbour::of(address),
        IpAddr::V6(address) => Neighbour::of6(address),
    };
    neighbour.is_some_and(|neighbour| neighbour.number == DIRECTOR)
}

/// MAC address of 10.0.0.`number`.
pub const fn mac_of(number: u8) -> Mac {
    Neighbour { link: 0, number }.mac()
}

/// Address 10.0.0.`number`.
pub fn address_of(number: u8) -> Ipv4Addr {
    Neighbour { link: 0, number }.address()
}

/// A MAC address as `ip` writes it.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Answers ARP and neighbour solicitations for everybody on a link but the director, until dropped.
pub struct Responder {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts it on an interface of `host`.
    pub fn start(host: &Host, interface: &str) -> Result<Responder> {
        let socket = open(host, interface)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; FRAME_BYTES_MAX];
            while !flag.load(Ordering::Relaxed) {
                let Ok(length) = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) else { continue };
                let question = &bytes[..length];
                if let Some(answer) = arp_answer(question).or_else(|| advertisement(question)) {
                    // The director asks again if this one is lost.
                    let _ = send(socket.as_raw_fd(), &answer, MsgFlags::empty());
                }
            }
        });
        Ok(Responder { is_over, thread: Some(thread) })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to an ARP request, the director's own addresses aside (RFC 826).
fn arp_answer(bytes: &[u8]) -> Option<Vec<u8>> {
    const REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    if bytes.len() < 42 || bytes[12..22] != REQUEST {
        return None;
    }
    let (asker, target) = (&bytes[22..32], &bytes[38..42]);
    let neighbour = Neighbour::of(Ipv4Addr::from(<[u8; 4]>::try_from(target).ok()?))?;
    // Not for the director's own address, nor for one that it probes before it uses it.
    if neighbour.number == DIRECTOR || asker[6..] == [0; 4] {
        return None;
    }
    let mac = neighbour.mac();
    let mut answer = [&asker[..6], &mac, &REQUEST].concat();
    answer[21] = 2;
    answer.extend(mac);
    answer.extend(target);
    answer.extend(asker);
    Some(answer)
}

/// The answer to a neighbour solicitation, the director's own addresses aside (RFC 4861 section 7.2.4).
fn advertisement(bytes: &[u8]) -> Option<Vec<u8>> {
    const SOLICITATION: u8 = 135;
    const ICMP6: u8 = 58;
    if bytes.len() < 78 || bytes[12..14] != [0x86, 0xdd] || bytes[20] != ICMP6 || bytes[54] != SOLICITATION {
        return None;
    }
    let (asker_mac, asker, target) = (&bytes[6..12], &bytes[22..38], &bytes[62..78]);
    let neighbour = Neighbour::of6(Ipv6Addr::from(<[u8; 16]>::try_from(target).ok()?))?;
    if neighbour.number == DIRECTOR || asker == [0; 16] {
        return None;
    }
    // Type 136, solicited and override, with the target's MAC.
    let mut message = [&[136, 0, 0, 0, 0x60, 0, 0, 0], target, &[2, 1], &neighbour.mac()].concat();
    let length = message.len() as u8;
    let pseudo_header = [target, asker, &[0, 0, 0, length, 0, 0, 0, ICMP6]].concat();
    let sum = !internet_sum(&message, internet_sum(&pseudo_header, 0));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let ip = [0x60, 0, 0, 0, 0, length, ICMP6, 255];
    Some([asker_mac, &neighbour.mac(), &[0x86, 0xdd], &ip, target, asker, &message].concat())
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

    #[test]
    fn solicitation_for_a_real_server_is_answered_and_for_the_director_not() {
        let solicit = |target: Ipv6Addr| {
            let asker = Neighbour { link: 1, number: DIRECTOR };
            let ip = [0x60, 0, 0, 0, 0, 32, 58, 255];
            let body = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &[1, 1], &asker.mac()].concat();
            let addresses = [asker.address6().octets(), target.octets()].concat();
            advertisement(&[&[0x33; 6], &asker.mac(), &[0x86, 0xdd][..], &ip, &addresses, &body].concat())
        };
        let server = Neighbour { link: 1, number: 126 };
        assert_eq!(server.address6().to_string(), "2001:db8:0:2::126");
        let answer = solicit(server.address6()).unwrap();
        let text = super::super::packet::text::Text(&super::super::packet::read(&answer[14..])).to_string();
        assert_eq!(text.split(" / ").next(), Some("ip6 2001:db8:0:2::126 > 2001:db8:0:2::1 ttl=255"));
        assert!(text.contains(" icmp6 136/0 rest=0x6000 / hex="), "{text}");
        assert_eq!(answer[6..12], server.mac());
        assert_eq!(solicit("2001:db8:0:2::1".parse().unwrap()), None);
        assert_eq!(solicit("2001:db8:0:2::99a".parse().unwrap()), None);
    }
}
