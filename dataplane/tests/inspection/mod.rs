//! Whether a frame is right: its lengths, checksums and what it may hold at all, read by code that is not the product's.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::net::IpAddr;

use crate::network::forwarding::{Transport, length, transport};
use crate::network::methods::GUE_PORT;
use crate::network::{MTUS, port_mac};
use crate::notation::sums;

/// VLANs of each port; 0: untagged.
const VLANS: [&[u16]; 4] = [&[0, 100], &[0], &[200], &[0]];

/// What is wrong with a frame that a port of the director sent. `sums_matter`: whatever the frame was made of had the right
/// transport checksum.
pub fn sent(port: u8, frame: &[u8], sums_matter: bool) -> Result<(), String> {
    let header = frame.get(..14).ok_or("no Ethernet header")?;
    if header[6..12] != port_mac(port) {
        return Err("from another MAC address than the port's".into());
    }
    if header[0] & 1 == 1 {
        return Err("to a group".into());
    }
    let (vlan, at) = match header[12..14] {
        [0x81, 0] => (u16::from_be_bytes([frame[14], frame[15]]), 18),
        _ => (0, 14),
    };
    if !VLANS[usize::from(port)].contains(&vlan) {
        return Err(format!("VLAN {vlan} on port {port}"));
    }
    let packet = frame.get(at..).filter(|packet| !packet.is_empty()).ok_or("nothing behind the tag")?;
    let version = match frame[at - 2..at] {
        [0x08, 0x00] => 4,
        [0x86, 0xdd] => 6,
        _ => return Err("neither IPv4 nor IPv6".into()),
    };
    let mtu = if port == 3 { MTUS[4] } else { MTUS[0] };
    if ip(packet, version, sums_matter)? > usize::from(mtu) {
        return Err("larger than the link carries".into());
    }
    Ok(())
}

/// The packet's length, where all is right with it.
fn ip(packet: &[u8], version: u8, sums_matter: bool) -> Result<usize, String> {
    let (header, ttl) = if version == 4 { (20, packet.get(8)) } else { (40, packet.get(7)) };
    if packet.len() < header || packet[0] >> 4 != version {
        return Err(format!("no IPv{version} header"));
    }
    if ttl == Some(&0) {
        return Err("sent with TTL 0".into());
    }
    let length = length(packet);
    let packet = packet.get(..length).ok_or("longer than its frame")?;
    if version == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        if header < 20 || header > length {
            return Err("impossible header length".into());
        }
        if sums::sum(&packet[..header]) != 0xffff {
            return Err("wrong header checksum".into());
        }
    }
    // A chain of extension headers that is too long or broken is not for this to judge: it is in no packet that may pass.
    let Some(of) = transport(packet) else { return Err("its extension headers have no end".into()) };
    if of.is_piece {
        return Ok(length);
    }
    let payload = packet.get(of.at..).ok_or("its headers are longer than itself")?;
    if sums_matter && is_right(packet) == Some(false) {
        return Err(format!("wrong checksum of protocol {}", of.protocol));
    }
    match of.protocol {
        4 => drop(ip(payload, 4, sums_matter).map_err(inside)?),
        41 => drop(ip(payload, 6, sums_matter).map_err(inside)?),
        47 => drop(gre(payload, sums_matter)?),
        17 if payload.get(2..4) == Some(&GUE_PORT.to_be_bytes()[..]) => gue(payload, sums_matter)?,
        1 | 58 => error(payload, of.protocol == 58)?,
        _ => {}
    }
    Ok(length)
}

fn inside(error: String) -> String {
    format!("in a tunnel: {error}")
}

fn gre(payload: &[u8], sums_matter: bool) -> Result<usize, String> {
    let at = match payload.get(..2) {
        Some([0, 0]) => 4,
        Some([0x80, 0]) if sums::sum(payload) == 0xffff => 8,
        _ => return Err("a GRE header that is none of ours, or its checksum".into()),
    };
    let version = match payload.get(2..4) {
        Some([0x08, 0]) => 4,
        Some([0x86, 0xdd]) => 6,
        _ => return Err("GRE of neither IPv4 nor IPv6".into()),
    };
    ip(payload.get(at..).unwrap_or_default(), version, sums_matter).map_err(inside)
}

/// A client may send what looks like GUE to a service, so that only what is GUE indeed is looked into.
fn gue(payload: &[u8], sums_matter: bool) -> Result<(), String> {
    let version = match payload.get(8..12) {
        Some([0, 4, 0, 0]) => 4,
        Some([0, 41, 0, 0]) => 6,
        _ => return Ok(()),
    };
    ip(payload.get(12..).unwrap_or_default(), version, sums_matter).map_err(inside).map(drop)
}

/// An error must not be about another error, nor about a piece that is not the first, nor about what goes to or comes from many
/// (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
fn error(message: &[u8], is_ipv6: bool) -> Result<(), String> {
    let Some(&kind) = message.first() else { return Ok(()) };
    let is_error = if is_ipv6 { kind < 128 } else { [3, 4, 5, 11, 12].contains(&kind) };
    let quote = message.get(8..).unwrap_or_default();
    let header = if is_ipv6 { 40 } else { 20 };
    if !is_error || quote.len() < header {
        return Ok(());
    }
    let source = if is_ipv6 { quote[8] } else { quote[12] };
    if source == 0xff || !is_ipv6 && (source == 0 || source == 127 || source >= 224) {
        return Err("an error about what comes from a group".into());
    }
    let Some(Transport { at, protocol, is_later, .. }) = transport(quote) else { return Ok(()) };
    if is_later && !(is_ipv6 && [2, 4].contains(&kind)) {
        return Err("an error about a piece that is not the first".into());
    }
    let quoted = quote.get(at).copied();
    let is_about_error = match protocol {
        1 if !is_ipv6 => quoted.is_some_and(|kind| [3, 4, 5, 11, 12].contains(&kind)),
        58 if is_ipv6 => quoted.is_some_and(|kind| kind < 128),
        _ => false,
    };
    if is_about_error && !is_later {
        return Err("an error about an error".into());
    }
    Ok(())
}

/// Whether the transport checksum is right; none where the packet has none that can be judged.
pub fn is_right(packet: &[u8]) -> Option<bool> {
    let (place, right) = right_sum(packet)?;
    let found = packet.get(place..place + right.len())?;
    // Both are zero in ones' complement.
    let is_zero = |sum: &[u8]| sum == [0, 0] || sum == [0xff, 0xff];
    Some(found == right || is_zero(found) && is_zero(&right))
}

/// Gives the packet the right transport checksum, where it has one.
pub fn make_right(packet: &mut [u8]) {
    if packet.len() >= 20 && packet[0] >> 4 == 4 {
        let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
        packet[10..12].fill(0);
        let sum = sums::internet(&packet[..header]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some((place, right)) = right_sum(packet) {
        packet[place..place + right.len()].copy_from_slice(&right);
    }
}

/// Where the transport checksum lies, and what it must be.
fn right_sum(packet: &[u8]) -> Option<(usize, Vec<u8>)> {
    let is_ipv6 = match packet.first()? >> 4 {
        4 if packet.len() >= 20 && packet[0] & 15 >= 5 => false,
        6 if packet.len() >= 40 => true,
        _ => return None,
    };
    // A header longer than the packet leaves nothing to judge.
    let packet =
        packet.get(..length(packet)).filter(|packet| packet.len() >= if is_ipv6 { 40 } else { 20 })?;
    let Transport { at, protocol, is_piece, .. } = transport(packet)?;
    let payload = packet.get(at..).filter(|_| !is_piece)?;
    let (source, destination): (IpAddr, IpAddr) = if is_ipv6 {
        let (source, destination) = (packet[8..24].first_chunk::<16>()?, packet[24..40].first_chunk::<16>()?);
        ((*source).into(), (*destination).into())
    } else {
        let (source, destination) = (packet[12..16].first_chunk::<4>()?, packet[16..20].first_chunk::<4>()?);
        ((*source).into(), (*destination).into())
    };
    let (place, least) = match protocol {
        1 if !is_ipv6 => (2, 8),
        6 => (16, 20),
        17 => (6, 8),
        58 if is_ipv6 => (2, 4),
        132 => (8, 12),
        _ => return None,
    };
    let mut payload = payload.to_vec();
    if payload.len() < least {
        return None;
    }
    if protocol == 17 {
        if payload[6..8] == [0, 0] {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
        if length < 8 || length > payload.len() {
            return None;
        }
        payload.truncate(length);
    }
    if protocol == 132 {
        payload[8..12].fill(0);
        return Some((at + place, sums::crc32c(&payload).to_vec()));
    }
    payload[place..place + 2].fill(0);
    let sum = match protocol {
        1 => sums::internet(&payload),
        _ => sums::transport(source, destination, protocol, &payload),
    };
    let sum = if protocol == 17 && sum == 0 { 0xffff } else { sum };
    Some((at + place, sum.to_be_bytes().to_vec()))
}
