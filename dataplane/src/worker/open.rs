//! The packet belongs to no connection: may it open one, and to which real server?
//!
//! In the order of `ip_vs_schedule`: a service must want the packet, it must be one that opens a connection, and the
//! service's template ([`super::persist`]) or scheduler must name a real server. Where no connection may be made, because
//! the worker has opened too many ([`super::admission`]) or has no room, the packet goes by the service's ring, and nothing
//! is remembered of it but that this happened.
//!
//! A connection whose first packets went that way must not be cut when its later packets are all that the director sees:
//! they are adopted, by the ring again.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use scheduler::Algorithm;

use super::admission::Admission;
use super::local_ports::{LocalPorts, Share};
use super::{Packet, Round, WorkerParts, ftp, lookup, nat, oversize};
use crate::clock::Ticks;
use crate::connection::table::TableFull;
use crate::connection::{Connection, ConnectionFlags, ConnectionState, ConnectionTable, Event, Tuple};
use crate::counters::WorkerCounters;
use crate::persistence::{TemplateId, TemplateTable};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{
    AddressRole, Destination, ForwardingMethod, Options, Protocol, Service, ServiceKey, SharedCounts,
    Snapshot, Translation, Way,
};
use crate::stateless;
use crate::verdict::{DropReason, StatelessReason, Verdict};

/// A connection that is about to open: the packet, its service, and what of the worker is needed.
pub(super) struct Opening<'a> {
    pub(super) packet: &'a Packet,
    pub(super) tuple: Tuple,
    pub(super) service: &'a Service,
    pub(super) snapshot: &'a Snapshot,
    pub(super) templates: &'a TemplateTable,
    pub(super) now: Ticks,
    pub(super) now_seconds: u32,
    /// What the ring knows the client by, with its port.
    pub(super) ring_client: IpAddr,
    pub(super) connections: &'a mut ConnectionTable,
    pub(super) counts: &'a SharedCounts,
    pub(super) counters: &'a WorkerCounters,
    pub(super) admission: &'a mut Admission,
    pub(super) local_ports: &'a mut LocalPorts,
    pub(super) share: Share,
    /// The service is that of the packet's very port.
    pub(super) is_own_port: bool,
    /// Its first packets were forwarded without state.
    pub(super) is_adopted: bool,
    /// The packet's frame.
    pub(super) frame: &'a [u8],
    /// What size would do, where the packet was found too big.
    refused_for: Cell<u16>,
    /// A translated connection was made.
    pub(super) has_translated: bool,
}

/// The destination slot of the real server that the packet goes to, by a new connection or without any. A packet whose addresses
/// are translated is ready then.
#[inline(never)]
pub(super) fn open<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    round: &mut Round<Q>,
) -> Result<u32, Verdict> {
    let slot = admit(packet, index, round)?;
    let snapshot = round.parts.mailbox.current();
    match translation_of(snapshot, slot) {
        Some(_) => Err(nat::send_first(packet, index, round)),
        None => oversize::forward(snapshot, slot, packet),
    }
}

fn admit<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Result<u32, Verdict> {
    let share = Share { index: round.parts.index, workers: round.parts.workers };
    let WorkerParts { mailbox, connections, templates, counts, counters, peers, .. } = &mut *round.parts;
    let (snapshot, now) = (mailbox.current(), round.now);
    let tuple = packet.key.tuple(&packet.pair);
    let key = tuple.service;
    let Some((service, is_own_port)) = service_of(snapshot, key) else {
        return Err(Verdict::Drop(DropReason::NoService));
    };
    if is_own(snapshot, tuple.client) {
        return Err(Verdict::Drop(DropReason::BadSource));
    }
    if packet.ttl <= 1 {
        return Err(Verdict::Drop(DropReason::TtlExpired));
    }
    // What comes from port 20 is an FTP server's, never a client's.
    if packet.key.client_port() == ftp::FTP_DATA {
        return Err(Verdict::Drop(DropReason::NoConnection));
    }
    let silence_seconds =
        || stateless::silence_seconds(lookup::timeouts_of(snapshot, service.timeouts), key.protocol);
    let is_adopted =
        packet.event.is_midway() && service.stateless.was_any_within(silence_seconds(), round.now_seconds);
    if !is_adopted && !may_open(key.protocol, packet.event, &snapshot.options) {
        return Err(Verdict::Drop(DropReason::NoConnection));
    }
    let mut opening = Opening {
        packet,
        tuple,
        service,
        snapshot,
        templates,
        now,
        now_seconds: round.now_seconds,
        ring_client: masked(tuple.client, service),
        connections,
        counts,
        counters,
        admission: round.admission,
        local_ports: round.local_ports,
        share,
        is_own_port,
        is_adopted,
        frame: round.frames.get(index).map_or(&[], |frame| frame.bytes()),
        refused_for: Cell::new(0),
        has_translated: false,
    };
    let slot = match &service.persistence {
        Some(persistence) => opening.persist(persistence),
        None => opening.by_scheduler(),
    };
    if opening.has_translated {
        peers.has_translated();
    }
    slot.map_err(|reason| match reason {
        DropReason::TooBig => Verdict::TooBig(opening.refused_for.get()),
        reason => Verdict::Drop(reason),
    })
}

/// The destination slot that a packet of the client midway in the connection `tuple` would go to, which is not known here:
/// nothing is opened, counted or remembered. For an error about a connection, which is no packet of it; without `schedule_icmp`
/// only where the connection may be one that is forwarded without state.
#[cold]
pub(super) fn without_trace<Q: QueuePair>(
    packet: &Packet,
    tuple: &Tuple,
    round: &mut Round<Q>,
) -> Result<u32, DropReason> {
    let share = Share { index: round.parts.index, workers: round.parts.workers };
    let WorkerParts { mailbox, connections, templates, counts, counters, .. } = &mut *round.parts;
    let snapshot = mailbox.current();
    let key = tuple.service;
    let Some((service, is_own_port)) = service_of(snapshot, key) else { return Err(DropReason::NoService) };
    let timeouts = lookup::timeouts_of(snapshot, service.timeouts);
    let silence_seconds = stateless::silence_seconds(timeouts, key.protocol);
    let is_adopted = service.stateless.was_any_within(silence_seconds, round.now_seconds);
    if !is_adopted && !snapshot.options.schedule_icmp {
        return Err(DropReason::IcmpIgnored);
    }
    let (flow, pair) = tuple.key(connections.seed());
    let packet = Packet { key: flow, pair, event: Event::UDP, ..*packet };
    let mut opening = Opening {
        packet: &packet,
        tuple: *tuple,
        service,
        snapshot,
        templates,
        now: round.now,
        now_seconds: round.now_seconds,
        ring_client: masked(tuple.client, service),
        connections,
        counts,
        counters,
        admission: round.admission,
        local_ports: round.local_ports,
        share,
        is_own_port,
        is_adopted,
        frame: &[],
        refused_for: Cell::new(0),
        has_translated: false,
    };
    opening.templated().map_or_else(|| opening.pick(), Ok)
}

/// The address is the director's: nobody else has it, and answers to it would come back (the kernel: a martian source).
fn is_own(snapshot: &Snapshot, address: IpAddr) -> bool {
    matches!(
        snapshot.addresses.get(&address),
        Some(AddressRole::Vip | AddressRole::Dip(_) | AddressRole::Local(_))
    )
}

/// The service that wants packets to `key`: of this very port; else FTP's, whose data connections may have any high port;
/// else that of every port. FTP's wants them only where it is persistent: nothing else leads them to the right real server. Whether
/// it is the service of this very port is said too.
fn service_of(snapshot: &Snapshot, key: ServiceKey) -> Option<(&Service, bool)> {
    let of_port = |port| snapshot.services.get(&ServiceKey { port, ..key });
    if let Some(service) = of_port(key.port) {
        return Some((service, true));
    }
    let may_be_data = ftp::is_of_data(key.protocol, key.port);
    match snapshot.ftp_services.get(&key.address).filter(|_| may_be_data) {
        Some(service) => service.persistence.is_some().then_some((service, false)),
        None => snapshot.has_every_port.then(|| of_port(0))?.map(|service| (&**service, false)),
    }
}

/// Whether such a packet opens a connection (`tcp_conn_schedule`, `sctp_conn_schedule`).
fn may_open(protocol: Protocol, event: Event, options: &Options) -> bool {
    let is_sloppy = match protocol {
        Protocol::TCP => options.sloppy_tcp,
        Protocol::SCTP => options.sloppy_sctp,
        _ => true,
    };
    event.opens() || is_sloppy && !event.resets()
}

impl<'a> Opening<'a> {
    /// A service whose clients need not stay.
    fn by_scheduler(&mut self) -> Result<u32, DropReason> {
        if !self.is_one_packet()
            && let Err(reason) = self.room().and_then(|()| self.threshold())
        {
            return self.by_ring(reason);
        }
        let slot = self.pick()?;
        self.connect(slot, None)
    }

    /// No connection is kept.
    pub(super) fn is_one_packet(&self) -> bool {
        self.service.one_packet && self.packet.key.protocol() == Protocol::UDP
    }

    /// Whether a connection may be made: there is room, and the allowance is not used up. For what only ends a connection
    /// none is made.
    pub(super) fn room(&mut self) -> Result<(), StatelessReason> {
        if self.connections.is_full() {
            Err(StatelessReason::TableFull)
        } else if self.ends_adopted() {
            Err(StatelessReason::Ending)
        } else if !self.is_allowed() {
            Err(StatelessReason::CreationRate)
        } else {
            Ok(())
        }
    }

    /// Whether a connection that goes on may be made without taking its real server over its threshold. It cannot go to
    /// another one, as a new one can.
    pub(super) fn threshold(&self) -> Result<(), StatelessReason> {
        let is_over = self.is_adopted && self.on_ring().is_some_and(|index| self.is_overloaded(index));
        if is_over { Err(StatelessReason::Threshold) } else { Ok(()) }
    }

    /// Whether the allowance has something left for what is new; only what is made is taken from it.
    pub(super) fn is_allowed(&mut self) -> bool {
        self.admission.allows(self.snapshot.options.creation_rate_per_worker, self.now)
    }

    /// An RST or ABORT of a connection that may have begun without state.
    fn ends_adopted(&self) -> bool {
        self.is_adopted && self.packet.event.resets()
    }

    /// The destination slot for a new connection.
    pub(super) fn pick(&mut self) -> Result<u32, DropReason> {
        if self.follows_stateless()
            && let Some(index) = self.on_ring().filter(|&index| self.is_adopted || self.takes_new(index))
        {
            return self.slot_of(Some(index));
        }
        // The whole address, whatever the netmask: the template keeps a network together, not the hash.
        let request = scheduler::Request {
            client: self.tuple.client,
            client_port: self.tuple.client_port,
            vip: self.tuple.service.address,
            now_seconds: self.now_seconds,
            random: self.admission.random(),
        };
        self.slot_of(self.service.scheduler.schedule(&self.service.real_servers, &request))
    }

    /// Packets of this connection, or of the same client where it has to stay, may have been forwarded by the ring.
    pub(super) fn follows_stateless(&self) -> bool {
        let (memory, now) = (&self.service.stateless, self.now_seconds);
        let timeouts = lookup::timeouts_of(self.snapshot, self.service.timeouts);
        match &self.service.persistence {
            // Any of the client's connections.
            Some(_) => {
                let seconds = stateless::longest_silence_seconds(timeouts);
                memory.was_any_within(seconds, now) || memory.was_opened_without_template_within(seconds, now)
            }
            None if self.is_one_packet() => false,
            None if self.is_adopted => true,
            None if self.packet.key.protocol() == Protocol::UDP => {
                memory.was_first_within(stateless::silence_seconds(timeouts, Protocol::UDP), now)
            }
            None => memory.was_first_within(stateless::RETRY_SECONDS, now),
        }
    }

    /// Where the ring leads this client; each of its connections by itself, unless it has to stay or the scheduler, whose
    /// table the ring's is, has `mh` keep its connections together too.
    pub(super) fn on_ring(&self) -> Option<usize> {
        let scheduler = self.service.scheduler.config();
        let stays = self.service.persistence.is_some()
            || scheduler.algorithm == Algorithm::Mh && !scheduler.flags.port;
        let port = if stays { 0 } else { self.packet.key.client_port() };
        self.service.ring.pick(&self.service.real_servers, self.ring_client, port)
    }

    /// The real server at this index takes new connections.
    pub(super) fn takes_new(&self, index: usize) -> bool {
        self.service.real_servers.get(index).is_some_and(|real_server| real_server.weight > 0)
            && !self.is_overloaded(index)
    }

    fn is_overloaded(&self, index: usize) -> bool {
        let real_server = self.service.real_servers.get(index);
        real_server.is_some_and(|real_server| real_server.has_threshold && real_server.counts.is_overloaded())
    }

    pub(super) fn slot_of(&self, chosen: Option<usize>) -> Result<u32, DropReason> {
        let real_server = chosen.and_then(|index| self.service.real_servers.get(index));
        real_server.map(|real_server| real_server.id).ok_or(DropReason::NoRealServer)
    }

    /// The real server in this slot, where the packet can be sent to it, whole or in pieces.
    pub(super) fn way_to(&self, slot: u32) -> Result<&'a Destination, DropReason> {
        oversize::way_to(self.snapshot, slot, self.packet, self.frame).map_err(|verdict| match verdict {
            Verdict::TooBig(mtu) => {
                self.refused_for.set(mtu);
                DropReason::TooBig
            }
            Verdict::Drop(reason) => reason,
            _ => DropReason::NoRealServer,
        })
    }

    /// Makes the connection, which `template` controls where there is one. Of a one-packet service none is kept: it is
    /// scheduled, counted and forgotten; but where addresses are translated the answer needs it for a while.
    pub(super) fn connect(&mut self, slot: u32, template: Option<TemplateId>) -> Result<u32, DropReason> {
        let way = self.way_to(slot);
        let translation = translation_of(self.snapshot, slot);
        let is_forgotten = translation.is_none() && self.is_one_packet();
        let kept = match (way, translation) {
            (Ok(destination), Some(translation)) => {
                self.insert_translated(slot, destination, &translation, template)
            }
            (Ok(destination), None) if !is_forgotten => self.insert(slot, destination, template),
            (way, _) => way.map(drop),
        };
        if let Some(template) = template.filter(|_| is_forgotten || kept.is_err()) {
            self.templates.release(template, self.now);
        }
        match (kept, template) {
            (Ok(()), _) => {}
            // Its client stays where it is, all the same.
            (Err(DropReason::ConnectionTableFull), Some(_)) => {
                return self.without_state(slot, StatelessReason::TableFull);
            }
            (Err(DropReason::ConnectionTableFull), None) => return self.by_ring(StatelessReason::TableFull),
            (Err(reason), _) => return Err(reason),
        }
        if let Some(counters) = self.counters.destinations.get(slot as usize) {
            counters.connections.add(1);
        }
        Ok(slot)
    }

    /// Puts the connection into the table, or says that it has no room after all.
    fn insert(
        &mut self,
        slot: u32,
        destination: &Destination,
        template: Option<TemplateId>,
    ) -> Result<(), DropReason> {
        let packet = self.packet;
        let state = ConnectionState::first(packet.key.protocol(), packet.event);
        let connection = Connection {
            key: packet.key,
            pair: packet.pair,
            state,
            flags: if self.is_adopted { ConnectionFlags::STATELESS_ADOPTED } else { ConnectionFlags::NONE },
            expires: self.now.after(self.timeout(destination, state)),
            destination: slot,
            link: template.map(TemplateId::index),
        };
        self.connections
            .insert(connection, packet.hash)
            .map_err(|TableFull| DropReason::ConnectionTableFull)?;
        self.inserted(slot, state, template);
        Ok(())
    }

    /// A connection is in the table: it counts.
    pub(super) fn inserted(&mut self, slot: u32, state: ConnectionState, template: Option<TemplateId>) {
        if let Some(counts) = self.counts.get(slot as usize) {
            counts.open();
            if state.is_active() {
                counts.activate();
            }
        }
        if let Some(template) = template.filter(|_| state.is_established()) {
            self.templates.assure(template);
        }
        self.admission.spend();
        self.counters.connections_opened.add(1);
        self.counters.adopted.add(u64::from(self.is_adopted));
    }

    /// Ticks that the new connection may be silent. One that is adopted in the midst of a flood, or when the table has little
    /// room left, may be the flood's, which must not stay as long as an established one: it gets no more than a SYN gets,
    /// until its next packet. Ended too early, it is adopted again: that is remembered.
    pub(super) fn timeout(&self, destination: &Destination, state: ConnectionState) -> u32 {
        let timeouts = lookup::timeouts_of(self.snapshot, destination.timeouts);
        let ticks = timeouts.ticks(state);
        let memory = &self.service.stateless;
        let is_flood = || memory.was_first_within(stateless::RETRY_SECONDS, self.now_seconds);
        if self.is_adopted && (self.connections.is_half_full() || is_flood()) {
            memory.midway_forwarded(self.now_seconds);
            return ticks.min(timeouts.ticks(ConnectionState::SynReceived));
        }
        ticks
    }

    /// Forwards by the ring.
    pub(super) fn by_ring(&mut self, reason: StatelessReason) -> Result<u32, DropReason> {
        let slot = self.slot_of(self.on_ring())?;
        self.without_state(slot, reason)
    }

    /// Forwards the packet and remembers nothing of it. Where its addresses are translated it cannot go so.
    pub(super) fn without_state(&mut self, slot: u32, reason: StatelessReason) -> Result<u32, DropReason> {
        self.way_to(slot)?;
        if translation_of(self.snapshot, slot).is_some() {
            return Err(refusal(reason));
        }
        match self.is_adopted {
            false => self.service.stateless.first_forwarded(self.now_seconds),
            true if self.ends_adopted() => {}
            true => self.service.stateless.midway_forwarded(self.now_seconds),
        }
        self.counters.stateless[reason as usize].add(1);
        Ok(slot)
    }
}

/// Whereto the addresses of packets for the real server in this slot are translated, if they are.
#[inline]
pub(super) fn translation_of(snapshot: &Snapshot, slot: u32) -> Option<Translation> {
    let destination = snapshot.destinations.get(slot as usize)?;
    if !matches!(destination.method, ForwardingMethod::Nat | ForwardingMethod::FullNat) {
        return None;
    }
    match snapshot.ways.get(slot as usize)? {
        Way::Translate(translation) => Some(*translation),
        _ => None,
    }
}

/// Why a packet that cannot go without a connection is dropped.
pub(super) fn refusal(reason: StatelessReason) -> DropReason {
    match reason {
        StatelessReason::TableFull => DropReason::ConnectionTableFull,
        StatelessReason::CreationRate => DropReason::CreationLimit,
        StatelessReason::Threshold | StatelessReason::Ending => DropReason::NoConnection,
    }
}

/// CIP, as far as the service tells clients apart.
fn masked(client: IpAddr, service: &Service) -> IpAddr {
    let mask = service.persistence.map_or(u128::MAX, |persistence| persistence.netmask);
    match client {
        IpAddr::V4(client) => Ipv4Addr::from_bits(client.to_bits() & mask as u32).into(),
        IpAddr::V6(client) => Ipv6Addr::from_bits(client.to_bits() & mask).into(),
    }
}
