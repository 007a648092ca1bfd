//! Errors (ICMP, ICMPv6) that the worker originates: what is wrong with a packet that is dropped, told to its sender.
//!
//! | dropped as | told |
//! |---|---|
//! | `too_big` | fragmentation needed, packet too big, with the MTU that would do |
//! | `ttl_expired` | time exceeded |
//! | `no_real_server` | port unreachable (`ip_vs_leave`: never a TCP reset) |
//! | `no_connection`, of a real server behind NAT, with `nat_icmp_send` only | port unreachable |
//! | `no_service` of a datagram, SYN or INIT | port unreachable, as from a host: a traceroute to a VIP ends |
//! | `bad_extension_header` of a packet to one of our addresses | parameter problem, where RFC 8200 demands it |
//!
//! As the kernel does: from the address that the packet went to where that is ours, else from the director's own on the way to the
//! sender. It goes back to the MAC address and the VLAN that the packet came from, no route needed. Nobody is told of errors, of later
//! fragments, of anything from or to many (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). One allowance bounds what a
//! worker tells of packets that are too big, and one all else.

use std::net::IpAddr;

use super::Packet;
use super::outlet::Outlet;
use super::parse::addresses;
use crate::allowance::ErrorAllowance;
use crate::clock::Ticks;
use crate::direct_routing;
use crate::link_layer;
use crate::packet::ethernet::{self, EthernetHeader, FRAME_BYTES_MIN};
use crate::packet::icmp_report::{self, BYTES_MAX_V4, BYTES_MAX_V6, Problem};
use crate::packet::ipv4;
use crate::packet::ipv6::{self, Ipv6Header};
use crate::packet::vlan::TAG_BYTES;
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
    pub(super) allowance: &'a mut ErrorAllowance,
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
        Verdict::Drop(DropReason::NoRealServer | DropReason::NoConnection) => {
            Some((IcmpError::Unreachable, port_unreachable))
        }
        Verdict::Drop(DropReason::NoService) if opens(packet) => {
            Some((IcmpError::Unreachable, port_unreachable))
        }
        Verdict::Drop(DropReason::BadExtensionHeader) => {
            let (code, pointer) = packet.extension_error?.parameter_problem()?;
            Some((IcmpError::ParameterProblem, Problem::parameter_problem_v6(code, pointer)))
        }
        _ => None,
    }
}

/// The packet would open a connection where there was a service for it.
fn opens(packet: &Packet) -> bool {
    match packet.protocol {
        ipv4::UDP => true,
        ipv4::TCP | ipv4::SCTP => packet.event.opens(),
        _ => false,
    }
}

impl<Q: QueuePair> Reporter<'_, Q> {
    /// Tells the sender of the packet in `frame`, which is as it was received, that it ends so.
    #[cold]
    #[inline(never)]
    pub(super) fn tell(&mut self, verdict: Verdict, packet: &Packet, frame: &Q::Frame) {
        let Some((ethernet, _)) = EthernetHeader::read(frame.bytes()) else { return };
        let headers = frame.bytes().get(usize::from(packet.ip_offset)..).unwrap_or_default();
        let is_ipv6 = headers.first().is_some_and(|first| first >> 4 == 6);
        let Some((kind, problem)) = problem_of(verdict, packet, is_ipv6) else { return };
        let is_to_us = addresses(headers).is_some_and(|(_, destination)| self.is_ours(destination));
        if ethernet.destination[0] & 1 != 0 || kind == IcmpError::ParameterProblem && !is_to_us {
            return;
        }
        let back = Back { interface: packet.interface, mac: ethernet.source };
        // Nothing is copied of what is more than may be told of.
        let Some(source) = self.permit(kind, problem, headers, back) else { return };
        let mut quote = [0; QUOTE_BYTES_MAX];
        let quoted = frame.copy_to(packet.ip_offset.into(), &mut quote);
        let Some(quote) = quote.get_mut(..quoted) else { return };
        if kind == IcmpError::TooBig && is_to_us && packet.ttl > 1 {
            // As the kernel, which of a client's packet finds this out last, of a real server's first.
            direct_routing::decrement_ttl(quote);
        }
        self.tell_from(source, kind, problem, quote, back);
    }

    /// Sends an error about the packet that `quote` begins with to its source, where such a packet may have one and the
    /// allowance is not used up. Whether it was.
    pub(super) fn send(&mut self, kind: IcmpError, problem: Problem, quote: &[u8], back: Back) -> bool {
        let source = self.permit(kind, problem, quote, back);
        source.is_some_and(|source| self.tell_from(source, kind, problem, quote, back))
    }

    /// From which address the source of the packet that `headers` begin with is told of it; none where it may not be, or where
    /// all that may be told was told.
    fn permit(&mut self, kind: IcmpError, problem: Problem, headers: &[u8], back: Back) -> Option<IpAddr> {
        let is_ipv6 = headers.first().is_some_and(|first| first >> 4 == 6);
        let may_report = match is_ipv6 {
            true => {
                let upper = Ipv6Header::ref_from_prefix(headers).ok();
                let upper = upper.and_then(|(header, payload)| header.upper_layer(payload).ok());
                icmp_report::may_report_v6(headers, upper.as_ref(), &problem, true)
            }
            false => icmp_report::may_report_v4(headers, true),
        };
        if !may_report || back.mac[0] & 1 != 0 {
            return None;
        }
        let source = self.source_towards(headers)?;
        if !self.allowance.take(kind, self.snapshot.options.icmp_packets_per_second, self.now) {
            self.outlet.counters.icmp_suppressed[kind as usize].add(1);
            return None;
        }
        Some(source)
    }

    fn tell_from(
        &mut self,
        source: IpAddr,
        kind: IcmpError,
        problem: Problem,
        quote: &[u8],
        back: Back,
    ) -> bool {
        let made = self.make(problem, quote, source, back);
        match made {
            Some(()) => self.outlet.counters.icmp_errors[kind as usize].add(1),
            None => self.outlet.counters.originated_not_sent.add(1),
        }
        made.is_some()
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
        // An error is no larger than what its link carries.
        if !frame.append(link + most.min(interface.mtu.into())) {
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

    /// It is an address of the director's.
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
