//! Everything between the director and its neighbours: ARP, neighbour discovery and ping, as workers hand them up, and
//! what is asked, answered and announced.
//!
//! Control thread only. Frames come without VLAN tag and with their interface; those to be sent get the interface's tag
//! here, at one place.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use ctl::mac::MacAddress;
use dataplane::host::HostPath;
use dataplane::packet::arp::{ArpPacket, REPLY};
use dataplane::packet::ethernet::{EthernetHeader, IPV4, IPV6, VLAN};
use dataplane::packet::mld::ListenerQuery;
use dataplane::packet::ndp::{NeighbourKind, NeighbourMessage};
use dataplane::packet::{icmp, icmpv6};
use dataplane::port::{PoolUsage, PortId};
use dataplane::snapshot::InterfaceId;
use dataplane::verdict::PuntQueue;

use crate::host_interface::HostInterfaces;
use crate::multicast_listening::{self, MulticastListening};
use crate::neighbours::{Evidence, Heard, Neighbours, Wanted};
use crate::own_addresses::{Conflict, OwnAddresses, Reaction};
use crate::rate::RateLimit;
use crate::topology::{Interface, Topology};
use crate::{arp, control, neighbour_discovery};

/// Packets of neighbours taken from the workers in one tick: their queue holds 1024, and one costs about a microsecond.
const NEIGHBOUR_PACKETS_PER_TICK: usize = 512;
/// Pings answered in one tick, 64,000 a second: a flood must leave room for neighbours in worker 0's queue.
const ECHOES_PER_TICK: usize = 64;
/// Announcements made in one tick, so that thousands do not fill worker 0's queue.
const ANNOUNCED_PER_TICK: usize = 32;
/// Reports of groups sent in one tick.
const REPORTS_PER_TICK: usize = 16;

/// What was done by ARP, or by neighbour discovery, since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolutionCounters {
    /// Requests, or solicitations, for next hops.
    pub requests_sent: u64,
    /// Answers for the director's own addresses.
    pub replies_sent: u64,
    /// Announcements of VIPs and local addresses.
    pub announcements_sent: u64,
    /// Packets in which somebody else claims an address of the director.
    pub conflicts: u64,
    /// Changes of a next hop's MAC.
    pub mac_changes: u64,
    /// Packets from the workers.
    pub punted: u64,
}

/// What the control thread did for its neighbours since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighbourhoodCounters {
    /// By ARP.
    pub arp: ResolutionCounters,
    /// By neighbour discovery.
    pub discovery: ResolutionCounters,
    /// Answers to ping, of either family.
    pub echo_replies_sent: u64,
    /// Frames made for sending that found no buffer or a full queue.
    pub not_sent: u64,
    /// Pings from the workers.
    pub punted_echoes: u64,
}

impl NeighbourhoodCounters {
    fn of(&mut self, address: IpAddr) -> &mut ResolutionCounters {
        if address.is_ipv4() { &mut self.arp } else { &mut self.discovery }
    }
}

/// See the module.
pub struct Neighbourhood {
    /// Next hops.
    pub neighbours: Neighbours,
    /// What the director answers for.
    pub own_addresses: OwnAddresses,
    /// Since start.
    pub counters: NeighbourhoodCounters,
    listening: MulticastListening,
    frames: Frames,
    punted: Vec<u8>,
    /// The snapshot lags behind the neighbours.
    has_changed: bool,
    log_limit: RateLimit,
}

/// Where frames go.
struct Frames {
    host: Box<dyn HostPath>,
    host_interfaces: HostInterfaces,
    tagged: Vec<u8>,
}

impl Frames {
    /// Sends an untagged frame out of `interface`, in its VLAN.
    fn send(&mut self, interface: &Interface, frame: &[u8]) -> bool {
        let Some(tag) = vlan_tag(interface) else {
            return self.host.send(interface.port, frame).is_ok();
        };
        let (macs, rest) = frame.split_at(12.min(frame.len()));
        self.tagged.clear();
        for part in [macs, &tag, rest] {
            self.tagged.extend_from_slice(part);
        }
        self.host.send(interface.port, &self.tagged).is_ok()
    }
}

/// Between the MAC addresses and the EtherType of `interface`'s frames; none where they are untagged.
pub fn vlan_tag(interface: &Interface) -> Option<[u8; 4]> {
    let ([a, b], [c, d]) = (VLAN.to_bytes(), interface.vlan.to_be_bytes());
    (interface.vlan != 0).then_some([a, b, c, d])
}

impl Neighbourhood {
    /// Nobody was asked and nothing was announced yet.
    pub fn new(
        topology: &Topology,
        neighbours: Neighbours,
        host: Box<dyn HostPath>,
        host_interfaces: HostInterfaces,
    ) -> Self {
        Neighbourhood {
            listening: MulticastListening::start(topology),
            neighbours,
            own_addresses: OwnAddresses::default(),
            counters: NeighbourhoodCounters::default(),
            frames: Frames { host, host_interfaces, tagged: Vec::new() },
            punted: Vec::new(),
            has_changed: false,
            log_limit: control::log_limit(),
        }
    }

    /// The ports' buffers.
    pub fn buffers(&self) -> PoolUsage {
        self.frames.host.buffers()
    }

    /// The host's part of the traffic.
    pub fn host_interfaces(&self) -> &HostInterfaces {
        &self.frames.host_interfaces
    }

    /// Who is behind this port's link now may never have heard of the director.
    pub fn link_came_up(&mut self, topology: &Topology, port: PortId, now: Duration) {
        self.own_addresses.announce_on(topology, port, now);
        self.listening.link_came_up(topology, port, now);
    }

    /// Follows a change of what is configured.
    pub fn follow(
        &mut self,
        wanted: impl IntoIterator<Item = Wanted>,
        vips: HashSet<IpAddr>,
        local: HashSet<IpAddr>,
        now: Duration,
    ) {
        self.neighbours.retain_wanted(wanted, now);
        self.own_addresses.set(vips, local, now);
    }

    /// The snapshot that is being made has what is known now.
    pub fn snapshot_made(&mut self) {
        self.has_changed = false;
    }

    /// What is known differs from what the last snapshot has.
    pub fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Takes what the workers handed up.
    pub fn take_punted(&mut self, topology: &Topology, now: Duration) {
        let mut frame = std::mem::take(&mut self.punted);
        for _ in 0..NEIGHBOUR_PACKETS_PER_TICK {
            let Some(id) = self.frames.host.next_punted(PuntQueue::Neighbour, &mut frame) else { break };
            let Some(interface) = topology.interface(id) else { continue };
            if let Some(packet) = ArpPacket::parse(&frame) {
                self.counters.arp.punted += 1;
                self.take_arp(topology, interface, &frame, &packet, now);
            } else if let Some(packet) = NeighbourMessage::parse(&frame) {
                self.counters.discovery.punted += 1;
                self.take_discovery(topology, interface, &frame, &packet, now);
            } else if let Some(query) = ListenerQuery::parse(&frame) {
                self.counters.discovery.punted += 1;
                self.listening.take(&self.own_addresses, topology, interface, query, now);
            }
        }
        for _ in 0..ECHOES_PER_TICK {
            let Some(id) = self.frames.host.next_punted(PuntQueue::Echo, &mut frame) else { break };
            if let Some(interface) = topology.interface(id) {
                self.take_ping(interface, &frame);
            }
        }
        self.punted = frame;
    }

    fn take_arp(
        &mut self,
        topology: &Topology,
        interface: &Interface,
        frame: &[u8],
        packet: &ArpPacket,
        now: Duration,
    ) {
        let reaction = arp::react(&mut self.own_addresses, topology, interface, packet, now);
        self.carry_out(topology, interface, packet.sender_address.into(), reaction, now);
        if topology.is_own_mac(packet.sender_mac) {
            return;
        }
        // The host resolves its own peers; the director has asked for none of its own addresses.
        let target = IpAddr::V4(packet.target_address);
        if packet.operation == REPLY && topology.is_dip_of(interface.id, target) {
            self.frames.host_interfaces.deliver(interface.id, frame);
        }
        let evidence = Evidence::Arp { mac: packet.sender_mac };
        self.hear(topology, interface.id, packet.sender_address.into(), evidence, now);
    }

    fn take_discovery(
        &mut self,
        topology: &Topology,
        interface: &Interface,
        frame: &[u8],
        message: &NeighbourMessage,
        now: Duration,
    ) {
        if topology.is_own_mac(message.source_mac) {
            return;
        }
        let own = &mut self.own_addresses;
        let reaction = neighbour_discovery::react(own, topology, interface, message, now);
        let is_claim = reaction.is_claim;
        let claimed = IpAddr::V6(neighbour_discovery::claimed(message));
        self.carry_out(topology, interface, claimed, reaction, now);
        match (message.kind, message.link_address) {
            (NeighbourKind::Solicitation, Some(mac)) => {
                self.hear(topology, interface.id, claimed, Evidence::Solicitation { mac }, now);
            }
            (NeighbourKind::Solicitation, None) => {}
            (NeighbourKind::Advertisement { is_solicited, overrides, .. }, mac) => {
                let evidence = Evidence::Advertisement { mac, is_solicited, is_override: overrides };
                self.hear(topology, interface.id, claimed, evidence, now);
                // The host resolves its own peers, and is to hear nothing of the director's addresses.
                if !is_claim {
                    self.frames.host_interfaces.deliver(interface.id, frame);
                }
            }
        }
    }

    /// Sends the answer, counts, and tells of a conflict.
    fn carry_out(
        &mut self,
        topology: &Topology,
        interface: &Interface,
        claimed: IpAddr,
        reaction: Reaction,
        now: Duration,
    ) {
        if let Some(reply) = &reaction.reply {
            let is_sent = self.send(interface, reply);
            self.counters.of(claimed).replies_sent += u64::from(is_sent);
        }
        self.counters.of(claimed).conflicts += u64::from(reaction.is_claim);
        self.has_changed |= reaction.is_given_up;
        let news = reaction.new_conflict.filter(|_| self.log_limit.take(now));
        if let Some(Conflict { address, mac, interface, .. }) = news {
            tracing::warn!(
                "{mac} claims {address} on {}: another host has an address of the director",
                topology.name(interface)
            );
        }
    }

    fn hear(
        &mut self,
        topology: &Topology,
        interface: InterfaceId,
        address: IpAddr,
        evidence: Evidence,
        now: Duration,
    ) {
        match self.neighbours.hear(interface, address, evidence, now) {
            Heard::Ignored | Heard::Confirmed { recovered: false } => {}
            Heard::Confirmed { recovered: true } => self.has_changed = true,
            Heard::Moved { from, to } => {
                self.has_changed = true;
                self.counters.of(address).mac_changes += 1;
                if self.log_limit.take(now) {
                    let (from, to, name) = (MacAddress(from), MacAddress(to), topology.name(interface));
                    tracing::info!("neighbour {address} on {name} moved from MAC {from} to {to}");
                }
            }
        }
    }

    fn take_ping(&mut self, interface: &Interface, frame: &[u8]) {
        self.counters.punted_echoes += 1;
        let ether_type = EthernetHeader::read(frame).map(|(header, _)| header.ether_type);
        let reply = match ether_type {
            Some(IPV4) => icmp::echo_reply(frame, interface.mac),
            Some(IPV6) => icmpv6::echo_reply(frame, interface.mac),
            _ => None,
        };
        if let Some(reply) = reply {
            let is_sent = self.send(interface, &reply);
            self.counters.echo_replies_sent += u64::from(is_sent);
        }
    }

    fn send(&mut self, interface: &Interface, frame: &[u8]) -> bool {
        let is_sent = self.frames.send(interface, frame);
        self.counters.not_sent += u64::from(!is_sent);
        is_sent
    }

    /// Sends requests and announcements that are due.
    pub fn send_due(&mut self, topology: &Topology, now: Duration) {
        let Neighbourhood { neighbours, own_addresses, listening, counters, frames, .. } = self;
        let has_failure = neighbours.poll(now, |request| {
            let Some(interface) = topology.interface(request.interface) else { return };
            let is_sent = match (request.target, request.source) {
                (IpAddr::V4(target), IpAddr::V4(source)) => {
                    frames.send(interface, &arp::request(target, source, interface.mac, request.unicast))
                }
                (IpAddr::V6(target), IpAddr::V6(source)) => {
                    let (mac, unicast) = (interface.mac, request.unicast);
                    frames.send(interface, &neighbour_discovery::request(target, source, mac, unicast))
                }
                _ => return,
            };
            counters.of(request.target).requests_sent += u64::from(is_sent);
            counters.not_sent += u64::from(!is_sent);
        });
        own_addresses.poll_announcements(topology, now, ANNOUNCED_PER_TICK, |interface, address| {
            let is_sent = match address {
                IpAddr::V4(address) => frames.send(interface, &arp::announcement(address, interface.mac)),
                IpAddr::V6(address) => {
                    // Who asks for it must reach us first.
                    frames.send(interface, &multicast_listening::report_of(address, interface))
                        && frames.send(interface, &neighbour_discovery::announcement(address, interface.mac))
                }
            };
            counters.of(address).announcements_sent += u64::from(is_sent);
            counters.not_sent += u64::from(!is_sent);
            is_sent
        });
        for _ in 0..REPORTS_PER_TICK {
            let Some((interface, frame)) = listening.next(own_addresses, topology, now) else { break };
            counters.not_sent += u64::from(!frames.send(interface, &frame));
        }
        self.has_changed |= has_failure;
    }
}
