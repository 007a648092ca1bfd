//! Tunnelling (`ip_vs_tunnel_xmit`): the packet is put into another one to the real server.
//!
//! What spreads the packets of many clients over a real server's receive queues: GUE's source port, which is the flow's hash;
//! over IPv6 the flow label of the outer header, the same hash, for IPIP and GRE too. IPIP and GRE over IPv4 have nothing of the
//! kind: both their addresses are alike for all packets, and only a NIC that hashes the inner headers spreads them.

use super::{Packet, oversize};
use crate::direct_routing;
use crate::link_layer;
use crate::packet::checksum::PieceSum;
use crate::packet::ethernet::{self, FRAME_BYTES_MIN};
use crate::packet::ipv4::{self, DONT_FRAGMENT, Ipv4Header};
use crate::packet::ipv6::{self, Ipv6Header};
use crate::packet::outer::InnerPacket;
use crate::packet::tcp::{self, TcpHeader};
use crate::packet::tcp_options;
use crate::packet::vlan::TAG_BYTES;
use crate::port::Frame;
use crate::snapshot::{Destination, Options, Tunnel};
use crate::verdict::{DropReason, Verdict};
use zerocopy::FromBytes;

/// Bytes that are summed at once where they lie in several segments.
const CHUNK: usize = 512;

/// Identifications of outer packets: those of several workers, which send between the same two hosts, are all different.
#[derive(Debug)]
pub(super) struct Identifications {
    worker: u32,
    workers: u32,
    turn: u32,
}

impl Identifications {
    /// Those of the worker with this number, from a random one on.
    pub(super) fn new(worker: u32, workers: u32, random: u64) -> Self {
        let workers = workers.clamp(1, 1 << 15);
        Identifications { worker: worker % workers, workers, turn: random as u16 as u32 }
    }

    /// The next, never 0. One comes again after 65,536 of all workers together, or a few less.
    pub(super) fn next(&mut self) -> u16 {
        loop {
            self.turn += 1;
            if self.turn >= 0x1_0000 / self.workers {
                self.turn = 0;
            }
            let identification = self.turn * self.workers + self.worker;
            if identification != 0 {
                return identification as u16;
            }
        }
    }
}

/// Where a tunnel's packet goes.
pub(super) struct Exit<'a> {
    pub(super) destination: &'a Destination,
    pub(super) tunnel: &'a Tunnel,
    /// Largest outer packet that gets to the real server whole, where less than its interface carries.
    pub(super) path_mtu: Option<u16>,
    pub(super) options: &'a Options,
}

/// What a frame holds once it is rewritten.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewritten {
    /// Where its IP header begins in the frame.
    pub(super) ip_offset: usize,
    /// Length of its packet, in bytes.
    pub(super) length: usize,
    /// Largest packet that gets to the real server whole.
    pub(super) mtu: u16,
}

/// Puts the packet in `frame` into one to the real server, its TTL decremented. The result may be larger than its way carries: then
/// it may be cut. On an error the frame is of no use but to tell its sender.
#[inline]
pub(super) fn encapsulate<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    exit: &Exit,
    identifications: &mut Identifications,
) -> Result<Rewritten, Verdict> {
    let template = exit.tunnel.outer();
    let ip_offset = usize::from(packet.ip_offset);
    let overhead = exit.tunnel.overhead();
    let mut mtu = exit.destination.mtu;
    if let Some(path_mtu) = exit.path_mtu {
        mtu = mtu.min(path_mtu.saturating_sub(overhead));
    }
    let ip = frame.bytes_mut().get_mut(ip_offset..).unwrap_or_default();
    if packet.ip_length > mtu
        && let Some(told) = oversize::refused_for(ip, packet.ip_length, mtu, true, exit.options)
    {
        return Err(Verdict::TooBig(told));
    }
    if packet.protocol == ipv4::TCP && exit.options.tunnel_mss_clamp {
        clamp_mss(ip, packet, mtu);
    }
    direct_routing::decrement_ttl(ip);
    let mut inner = read(ip, packet).ok_or(Verdict::Drop(DropReason::Truncated))?;
    inner.does_not_fragment &= exit.options.pmtu_disc;
    if !template.is_ipv6() && !inner.does_not_fragment {
        inner.identification = identifications.next();
    }
    if template.has_checksum() {
        inner.sum = sum(frame, ip_offset, usize::from(packet.ip_length));
    }
    let link = ethernet::HEADER_BYTES + if exit.destination.vlan == 0 { 0 } else { TAG_BYTES };
    let room = (link + template.length()).saturating_sub(ip_offset);
    if !frame.prepend(room) {
        return Err(Verdict::Drop(DropReason::NoHeadroom));
    }
    let length = template.length() + usize::from(packet.ip_length);
    let end = (link + length).max(FRAME_BYTES_MIN);
    if frame.length() > end {
        // What padded the frame lies within the outer packet's frame now, and pads nothing.
        frame.truncate(end);
    }
    let ether_type = if template.is_ipv6() { ethernet::IPV6 } else { ethernet::IPV4 };
    let bytes = frame.bytes_mut();
    let is_written =
        link_layer::write_header(bytes, &exit.destination.macs, exit.destination.vlan, ether_type.to_bytes());
    let outer = bytes.get_mut(link..).filter(|_| is_written).unwrap_or_default();
    // Only what is over 65,535 bytes cannot be written: no way carries that.
    template.write(&inner, outer).ok_or(Verdict::Drop(DropReason::TooBig))?;
    Ok(Rewritten { ip_offset: link, length, mtu: mtu.saturating_add(overhead) })
}

/// What of the packet that begins with `ip` its outer header depends on, but for identification and sum.
#[inline(always)]
fn read(ip: &[u8], packet: &Packet) -> Option<InnerPacket> {
    let is_ipv6 = ip.first()? >> 4 == 6;
    let (ttl, traffic_class, does_not_fragment) = if is_ipv6 {
        let (header, _) = Ipv6Header::ref_from_prefix(ip).ok()?;
        (header.hop_limit, header.traffic_class(), false)
    } else {
        let (header, _) = Ipv4Header::ref_from_prefix(ip).ok()?;
        let does_not_fragment = header.flags_and_offset.get() & DONT_FRAGMENT != 0;
        (header.ttl, header.traffic_class, does_not_fragment)
    };
    Some(InnerPacket {
        is_ipv6,
        length: packet.ip_length,
        ttl,
        traffic_class,
        does_not_fragment,
        identification: 0,
        flow_hash: (packet.hash >> 32) as u32,
        sum: 0,
    })
}

/// The sum over `length` bytes of the frame from `offset` on.
pub(super) fn sum<F: Frame>(frame: &F, offset: usize, length: usize) -> u16 {
    let mut sum = PieceSum::default();
    if let Some(packet) = frame.bytes().get(offset..offset + length) {
        sum.add(packet);
        return sum.sum();
    }
    let (mut at, end) = (offset, offset + length);
    let mut chunk = [0; CHUNK];
    while at < end {
        let Some(into) = chunk.get_mut(..CHUNK.min(end - at)) else { break };
        let copied = frame.copy_to(at, into);
        if copied == 0 {
            break;
        }
        sum.add(into.get(..copied).unwrap_or_default());
        at += copied;
    }
    sum.sum()
}

/// Lowers the MSS in a SYN to what fits into packets of `mtu` bytes.
fn clamp_mss(ip: &mut [u8], packet: &Packet, mtu: u16) {
    const FLAGS: usize = 13;
    let transport = usize::from(packet.transport_offset).saturating_sub(usize::from(packet.ip_offset));
    let is_syn = ip.get(transport + FLAGS).is_some_and(|flags| flags & tcp::SYN != 0);
    if !is_syn || is_piece(ip) {
        return;
    }
    let ip_header = if ip[0] >> 4 == 6 { ipv6::HEADER_BYTES } else { ipv4::HEADER_BYTES };
    let headers = (ip_header + size_of::<TcpHeader>()) as u16;
    if let Some(segment) = ip.get_mut(transport..) {
        tcp_options::clamp_mss(segment, mtu.saturating_sub(headers));
    }
}

/// The packet is a piece of a larger one, whose transport header may be elsewhere.
fn is_piece(ip: &[u8]) -> bool {
    match ip.first().map(|first| first >> 4) {
        Some(6) => Ipv6Header::ref_from_prefix(ip).is_ok_and(|(header, payload)| {
            header.upper_layer(payload).is_ok_and(|upper| upper.is_fragment())
        }),
        _ => Ipv4Header::ref_from_prefix(ip).is_ok_and(|(header, _)| header.is_fragment()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn identifications_of_all_workers_differ_and_none_is_zero() {
        for workers in [1_u32, 2, 3, 8] {
            let mut seen = HashSet::new();
            let turns = 0x1_0000 / workers - 1;
            for worker in 0..workers {
                let mut identifications = Identifications::new(worker, workers, 0x1234_5678_9abc_def0);
                for _ in 0..turns {
                    assert!(seen.insert(identifications.next()), "of worker {worker} of {workers}");
                }
            }
            assert!(!seen.contains(&0));
        }
    }
}
