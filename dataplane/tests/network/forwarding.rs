//! What a real server gets of a client's packet, by the forwarding methods' definitions and not by the product's code.

use std::net::IpAddr;

use dataplane::snapshot::{ForwardingMethod, Options, TunnelKind};

use super::View;
use super::methods::GUE_PORT;
use crate::notation::{self, FRAME_BYTES_MIN, Layer, Names, Way, sums};

const ETHERNET: usize = 14;

/// The frame for the real server. `frame` is the client's, with a tag or without; what the director may choose is taken from
/// `actual`.
pub fn forwarded(view: &View, frame: &[u8], options: &Options, actual: &[u8]) -> Result<Vec<u8>, String> {
    let untagged = stripped(frame);
    let mut out = to_real_server(view, &untagged, options, actual)?;
    if untagged.len() < frame.len() {
        out.resize(out.len().max(FRAME_BYTES_MIN), 0);
    }
    Ok(out)
}

fn to_real_server(view: &View, frame: &[u8], options: &Options, actual: &[u8]) -> Result<Vec<u8>, String> {
    let mut packet = frame[ETHERNET..].to_vec();
    decrement_ttl(&mut packet);
    match view.method.forwarding {
        ForwardingMethod::Tunnel => {
            packet.truncate(length(&packet));
            return tunnelled(view, &packet, options, actual);
        }
        ForwardingMethod::Nat | ForwardingMethod::FullNat => translate(view, &mut packet, actual)?,
        ForwardingMethod::Direct => {}
    }
    let mut out = link(view)?;
    out.extend(&frame[12..14]);
    out.extend(packet);
    Ok(out)
}

fn stripped(frame: &[u8]) -> Vec<u8> {
    match frame.get(12..14) {
        Some([0x81, 0]) if frame.len() >= 16 => [&frame[..12], &frame[16..]].concat(),
        _ => frame.to_vec(),
    }
}

/// The frame without its VLAN tag, padded again where it is too short then.
pub fn without_tag(frame: &[u8]) -> Vec<u8> {
    let mut untagged = stripped(frame);
    if untagged.len() < frame.len() {
        untagged.resize(untagged.len().max(FRAME_BYTES_MIN), 0);
    }
    untagged
}

/// MACs and tag of the frame.
fn link(view: &View) -> Result<Vec<u8>, String> {
    let (real_server, port, vlan) = view.link("rs").ok_or("no link")?;
    let mut link = [real_server, port].concat();
    if vlan != 0 {
        link.extend([0x81, 0]);
        link.extend(vlan.to_be_bytes());
    }
    Ok(link)
}

/// Length of the packet by its header.
pub fn length(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        _ => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
    }
}

pub fn decrement_ttl(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        fix_header_checksum(packet);
    } else {
        packet[7] -= 1;
    }
}

fn fix_header_checksum(packet: &mut [u8]) {
    let header = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = sums::internet(&packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 2003, 2473, 2784, GUE; TTL, DS field, DF as IPVS has them; ECN by RFC 6040.
fn tunnelled(view: &View, inner: &[u8], options: &Options, actual: &[u8]) -> Result<Vec<u8>, String> {
    let kind = view.method.tunnel.ok_or("no tunnel")?;
    let is_inner_ipv6 = inner[0] >> 4 == 6;
    let (ttl, class, df) = if is_inner_ipv6 {
        (inner[7], inner[0] << 4 | inner[1] >> 4, false)
    } else {
        (inner[8], inner[1], inner[6] & 0x40 != 0)
    };
    let df = df && options.pmtu_disc;
    let class = if class & 3 == 3 { class & !3 | 2 } else { class };
    let (protocol, ether_type) = if is_inner_ipv6 { (41, "0x86dd") } else { (4, "0x0800") };
    let outer_is_ipv6 = view.method.outer_is_ipv6(view.is_ipv6);
    let name = if outer_is_ipv6 { "ip6" } else { "ip4" };
    let outer_protocol = match kind {
        TunnelKind::Ipip => protocol,
        TunnelKind::Gre { .. } => 47,
        TunnelKind::Gue { .. } => 17,
    };
    let mut ip = Layer::new(name, Some(("dip-rs", "rs")), &[]).with("ttl", ttl).with("tos", class);
    ip = match outer_is_ipv6 {
        true => ip.with("next", outer_protocol).with("flow", "?"),
        false => ip.with("proto", outer_protocol).with("id", if df { "0" } else { "?" }).word("df", df),
    };
    let mut layers = vec![Layer::new("to", None, &[]).word("rs", true), ip];
    match kind {
        TunnelKind::Ipip => {}
        TunnelKind::Gre { has_checksum } => {
            layers.push(Layer::new("gre", None, &[("proto", ether_type)]).word("csum", has_checksum));
        }
        TunnelKind::Gue { has_checksum, .. } => {
            let udp = Layer::new("udp", Some(("?", &GUE_PORT.to_string())), &[]);
            layers.push(if has_checksum { udp } else { udp.with("sum", 0) });
            layers.push(Layer::new("gue", None, &[]).with("proto", protocol));
        }
    }
    let digits: String = inner.iter().map(|byte| format!("{byte:02x}")).collect();
    layers.push(Layer::new("hex", None, &[]).word(&digits, true));
    let out = notation::build(&layers, view, Way::Out, Some(actual))?.bytes;
    if !actual.is_empty() && !outer_is_ipv6 && !df && out[ETHERNET + 4..ETHERNET + 6] == [0, 0] {
        return Err("an outer packet that may be cut has the identification 0".into());
    }
    Ok(out)
}

/// Where a packet's transport header lies, and its protocol; whether the packet is a fragment, and a later one.
pub struct Transport {
    pub at: usize,
    pub protocol: u8,
    pub is_piece: bool,
    pub is_later: bool,
}

/// Behind all headers that may stand in front of it.
pub fn transport(packet: &[u8]) -> Option<Transport> {
    if packet.first()? >> 4 == 4 {
        let header = packet.get(..20)?;
        let field = u16::from_be_bytes([header[6], header[7]]);
        return Some(Transport {
            at: usize::from(header[0] & 15) * 4,
            protocol: header[9],
            is_piece: field & 0x3fff != 0,
            is_later: field & 0x1fff != 0,
        });
    }
    let (mut next, mut at, mut is_piece, mut is_later) = (*packet.get(6)?, 40, false, false);
    while [0, 43, 44, 51, 60].contains(&next) && !is_later {
        let header = packet.get(at..at + 8)?;
        let bytes = match next {
            44 => {
                let field = u16::from_be_bytes([header[2], header[3]]);
                (is_piece, is_later) = (field & 0xfff9 != 0, field & 0xfff8 != 0);
                8
            }
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
        at += bytes;
    }
    Some(Transport { at, protocol: next, is_piece, is_later })
}

/// Destination and its port become the real server's; with full NAT the source a local address, whose port is the director's
/// choice.
fn translate(view: &View, packet: &mut [u8], actual: &[u8]) -> Result<(), String> {
    let is_full = view.method.forwarding == ForwardingMethod::FullNat;
    let octets = |name| match view.address(name, view.is_ipv6) {
        Some(IpAddr::V4(address)) => Ok(address.octets().to_vec()),
        Some(IpAddr::V6(address)) => Ok(address.octets().to_vec()),
        None => Err("no such address"),
    };
    let width = if view.is_ipv6 { 16 } else { 4 };
    let source_at = if view.is_ipv6 { 8 } else { 12 };
    let ends = source_at..source_at + 2 * width;
    let mut old = packet[ends.clone()].to_vec();
    let mut new = old.clone();
    new[width..].copy_from_slice(&octets("rs")?);
    if is_full {
        new[..width].copy_from_slice(&octets("lip")?);
    }
    let of = transport(packet).ok_or("no transport header")?;
    packet[ends].copy_from_slice(&new);
    if !view.is_ipv6 {
        fix_header_checksum(packet);
    }
    if of.is_later {
        return Ok(());
    }
    let end = length(packet);
    let ports = of.at..of.at + 4;
    old.extend(&packet[ports.clone()]);
    let port = u16::from_be_bytes([packet[of.at + 2], packet[of.at + 3]]);
    let translated = super::SERVICES.iter().find(|(protocol, of_service, translated)| {
        protocol.0 == of.protocol && *of_service == port && *translated != 0
    });
    if let Some((_, _, translated)) = translated {
        packet[of.at + 2..of.at + 4].copy_from_slice(&translated.to_be_bytes());
    }
    if is_full {
        let chosen = actual.get(ETHERNET + of.at..ETHERNET + of.at + 2).unwrap_or(&[0xff, 0xff]);
        packet[of.at..of.at + 2].copy_from_slice(chosen);
        if u16::from_be_bytes([chosen[0], chosen[1]]) < 1024 {
            return Err("a local port below 1024".into());
        }
    }
    new.extend(&packet[ports.clone()]);
    if of.protocol == 132 {
        if old[2 * width..] != new[2 * width..] {
            packet[of.at + 8..of.at + 12].fill(0);
            let sum = sums::crc32c(&packet[of.at..end]);
            packet[of.at + 8..of.at + 12].copy_from_slice(&sum);
        }
        return Ok(());
    }
    let sum_at = of.at + if of.protocol == 6 { 16 } else { 6 };
    let sum = u16::from_be_bytes([packet[sum_at], packet[sum_at + 1]]);
    if of.protocol == 17 && sum == 0 {
        // There is none (RFC 768).
        return Ok(());
    }
    let sum = sums::patched(sum, &old, &new);
    let sum = if of.protocol == 17 && sum == 0 { 0xffff } else { sum };
    packet[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
