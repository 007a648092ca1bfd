//! Errors (ICMP, ICMPv6) that the worker originates: what is wrong with a packet that is dropped, told to its sender.
//!
//! | dropped as | told |
//! |---|---|
//! | `too_big` | fragmentation needed, packet too big, with the MTU that would do |
//! | `ttl_expired` | time exceeded |
//! | `no_real_server` | port unreachable (`ip_vs_leave`: never a TCP reset) |
//! | `no_service`, UDP only | port unreachable, as from a host: a traceroute to a VIP ends |
//! | `bad_extension_header` of a packet to one of our addresses | parameter problem, where RFC 8200 demands it |
//!
//! As the kernel does: from the address that the packet went to where that is ours, else from the director's own on the way to the
//! sender. It goes back to the MAC address and the VLAN that the packet came from, no route needed. Nobody is told of errors, of later
//! fragments, of anything from or to many (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). One allowance bounds all that a worker
//! tells.

use std::net::IpAddr;

use super::Packet;
use super::allowance::Allowance;
use super::outlet::Outlet;
use super::parse::addresses;
use crate::clock::Ticks;
use crate::direct_routing;
use crate::link_layer;
use crate::packet::ethernet::{self, EthernetHeader, FRAME_BYTES_MIN, TAG_BYTES};
use crate::packet::icmp_report::{self, BYTES_MAX_V4, BYTES_MAX_V6, Problem};
use crate::packet::ipv4;
use crate::packet::ipv6::{self, Ipv6Header};
use crate::packet::{icmp, icmpv6};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{AddressRole, InterfaceId, Snapshot};
use crate::verdict::{DropReason, IcmpError, Verdict};
use zerocopy::FromBytes;

/// The most that any error quotes.
const QUOTE_BYTES_MAX: usize = BYTES_MAX_V6 - ipv6::HEADER_BYTES - icmpv6::HEADER_BYTES;

/// What telling takes.
pub(super) struct Reporter<'a, Q: QueuePair> {
    pub(super) outlet: Outlet<'a, Q>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) allowance: &'a mut Allowance,
    pub(super) now: Ticks,
}

/// On which link an error goes to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Back {
    pub(super) interface: InterfaceId,
    pub(super) mac: [u8; 6],
}

/// Whether a packet that ends so may have its sender told; cheap, most are not.
#[inline]
pub(super) fn is_told(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::TooBig(_)
            | Verdict::Drop(
                DropReason::TtlExpired
                    | DropReason::NoRealServer
                    | DropReason::NoService
                    | DropReason::BadExtensionHeader
            )
    )
}

/// What is wrong with a packet that ends so.
fn problem_of(verdict: Verdict, packet: &Packet, is_ipv6: bool) -> Option<(IcmpError, Problem)> {
    let port_unreachable = match is_ipv6 {
        true => Problem::unreachable_v6(icmpv6::PORT_UNREACHABLE),
        false => Problem::unreachable_v4(icmp::PORT_UNREACHABLE),
    };
    match verdict {
        Verdict::TooBig(mtu) if is_ipv6 => Some((IcmpError::TooBig, Problem::packet_too_big(mtu.into()))),
        Verdict::TooBig(mtu) => Some((IcmpError::TooBig, Problem::fragmentation_needed(mtu))),
        Verdict::Drop(DropReason::TtlExpired) => {
            let problem = if is_ipv6 { Problem::time_exceeded_v6() } else { Problem::time_exceeded_v4() };
            Some((IcmpError::TimeExceeded, problem))
        }
        Verdict::Drop(DropReason::NoRealServer) => Some((IcmpError::Unreachable, port_unreachable)),
        Verdict::Drop(DropReason::NoService) if packet.protocol == ipv4::UDP => {
            Some((IcmpError::Unreachable, port_unreachable))
        }
        Verdict::Drop(DropReason::BadExtensionHeader) => {
            let (code, pointer) = packet.extension_error?.parameter_problem()?;
            Some((IcmpError::ParameterProblem, Problem::parameter_problem_v6(code, pointer)))
        }
        _ => None,
    }
}

impl<Q: QueuePair> Reporter<'_, Q> {
    /// Tells the sender of the packet in `frame`, which is as it was received, that it ends so.
    #[cold]
    #[inline(never)]
    pub(super) fn tell(&mut self, verdict: Verdict, packet: &Packet, frame: &Q::Frame) {
        let Some((ethernet, _)) = EthernetHeader::read(frame.bytes()) else { return };
        let mut quote = [0; QUOTE_BYTES_MAX];
        let quoted = frame.copy_to(packet.ip_offset.into(), &mut quote);
        let Some(quote) = quote.get_mut(..quoted) else { return };
        let is_ipv6 = quote.first().is_some_and(|first| first >> 4 == 6);
        let Some((kind, problem)) = problem_of(verdict, packet, is_ipv6) else { return };
        if kind == IcmpError::TooBig && packet.ttl > 1 {
            // As the kernel, which finds this out last.
            direct_routing::decrement_ttl(quote);
        }
        if kind == IcmpError::ParameterProblem && !self.is_to_us(quote) {
            return;
        }
        let back = Back { interface: packet.interface, mac: ethernet.source };
        if ethernet.destination[0] & 1 == 0 {
            self.send(kind, problem, quote, back);
        }
    }

    /// Sends an error about the packet that `quote` begins with to its source, where such a packet may have one and the
    /// allowance is not used up. Whether it was.
    pub(super) fn send(&mut self, kind: IcmpError, problem: Problem, quote: &[u8], back: Back) -> bool {
        let is_ipv6 = quote.first().is_some_and(|first| first >> 4 == 6);
        let may_report = match is_ipv6 {
            true => {
                let upper = Ipv6Header::ref_from_prefix(quote).ok();
                let upper = upper.and_then(|(header, payload)| header.upper_layer(payload).ok());
                icmp_report::may_report_v6(quote, upper.as_ref(), &problem, true)
            }
            false => icmp_report::may_report_v4(quote, true),
        };
        if !may_report || back.mac[0] & 1 != 0 {
            return false;
        }
        let Some(source) = self.source_towards(quote) else { return false };
        if !self.allowance.take(self.snapshot.options.icmp_packets_per_second, self.now) {
            self.outlet.counters.icmp_suppressed[kind as usize].add(1);
            return false;
        }
        match self.make(problem, quote, source, back) {
            Some(()) => self.outlet.counters.icmp_errors[kind as usize].add(1),
            None => self.outlet.counters.originated_not_sent.add(1),
        }
        true
    }

    fn make(&mut self, problem: Problem, quote: &[u8], source: IpAddr, back: Back) -> Option<()> {
        let interface = self.snapshot.interfaces.get(back.interface.index())?;
        let [a, b, c, d, e, f] = back.mac;
        let [g, h, i, j, k, l] = interface.mac;
        let macs = [a, b, c, d, e, f, g, h, i, j, k, l];
        let link = ethernet::HEADER_BYTES + if interface.vlan == 0 { 0 } else { TAG_BYTES };
        let (ether_type, most) = match source {
            IpAddr::V4(_) => (ethernet::IPV4, BYTES_MAX_V4),
            IpAddr::V6(_) => (ethernet::IPV6, BYTES_MAX_V6),
        };
        let mut frame = self.outlet.allocate(interface.port)?;
        if !frame.append(link + most) {
            return None;
        }
        let (header, report) = frame.bytes_mut().split_at_mut_checked(link)?;
        if !link_layer::write_header(header, &macs, interface.vlan, ether_type.to_bytes()) {
            return None;
        }
        let length = match source {
            IpAddr::V4(source) => icmp_report::report_v4(problem, quote, source.octets(), report)?,
            IpAddr::V6(source) => icmp_report::report_v6(problem, quote, &source.octets(), report)?,
        };
        frame.truncate((link + length).max(FRAME_BYTES_MIN));
        self.outlet.push(interface.port, frame);
        Some(())
    }

    /// The packet goes to an address of the director's.
    fn is_to_us(&self, quote: &[u8]) -> bool {
        addresses(quote).is_some_and(|(_, destination)| self.is_ours(destination))
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        let role = self.snapshot.addresses.get(&address);
        matches!(role, Some(AddressRole::Vip | AddressRole::Dip(_) | AddressRole::Local(_)))
    }

    /// The address from which the sender of the packet is told.
    fn source_towards(&self, quote: &[u8]) -> Option<IpAddr> {
        let (source, destination) = addresses(quote)?;
        if self.is_ours(destination) {
            return Some(destination);
        }
        let own = self.snapshot.routes.next_hop(source)?.source;
        (own.is_ipv4() == source.is_ipv4()).then_some(own)
    }
}
