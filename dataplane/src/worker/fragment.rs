//! Fragments of packets, each forwarded by itself to where the first of its packet goes: nothing is put together.
//!
//! | fragment | goes |
//! |---|---|
//! | of a packet to the director's own address | to the host |
//! | the first | as a packet of its connection, found or opened by its ports, or to the worker that has it; what was held for its packet follows it |
//! | another one, the first known | where that went |
//! | another one, the first not yet seen | is held, for 30 s at most, within the bounds of [`FragmentTable`] |
//! | of a packet whose first fragment was dropped | is dropped for the same reason |
//!
//! What is refused, because nobody sends it who means well: fragments that are empty, reach beyond 65,535 bytes (the ping of
//! death) or, but for the last, are no multiple of 8 bytes long; a first one that does not hold the whole fixed transport header
//! (RFC 1858); one of TCP that would overwrite the flags (RFC 3128); a second first one that leads elsewhere. Overlaps are the real
//! server's to refuse: it gets what was sent.
//!
//! The length of UDP's header is that of the whole datagram and not looked at here.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use zerocopy::FromBytes;

use super::{Packet, Part, Round, Worker, WorkerParts, icmp, leg, lookup, other, oversize};
use crate::clock::Ticks;
use crate::connection::{Event, FlowKey, Ipv6Pair};
use crate::counters::WorkerCounters;
use crate::fragments::{Fate, First, FragmentKey, FragmentLimits, FragmentTable, Later, Piece};
use crate::packet::ipv4::{self, Ipv4Header};
use crate::packet::ipv6::{self, FRAGMENT_HEADER_BYTES, Ipv6Header};
use crate::packet::sctp::{ChunkHeader, SctpHeader};
use crate::packet::tcp::{self, TcpHeader};
use crate::packet::udp::UdpHeader;
use crate::port::{BURST, Frame, QueuePair};
use crate::snapshot::{AddressRole, Snapshot};
use crate::verdict::{DropReason, HandOver, PacketKind, Verdict};

/// Frames held at once, whatever the limits say: what the first fragments of one burst may set free has to be sent.
pub(super) const HELD_MAX: usize = 256;
/// Frames that go on their way behind the burst in which their first fragments came: those held, and those of the burst.
const RELEASED_MAX: usize = HELD_MAX + BURST;
/// Packets that are given up in one round, at most.
const EXPIRED_PER_ROUND: usize = 4;
/// Offset of the fragment that would overwrite the end of TCP's fixed header, flags included.
const INTO_TCP_HEADER: u16 = 8;

/// Where the fragments of a packet go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// To the real server in this destination slot, as long as it is the same one: no connection may keep the slot for it.
    Forward { slot: u32, incarnation: u16 },
    /// As the entry of this key says, with other addresses.
    Translate {
        key: FlowKey,
        pair: Ipv6Pair,
        /// The packet is an ICMP error about one of the connection's.
        is_error: bool,
    },
    /// To this worker.
    HandOver(u16),
    /// Nowhere.
    Drop(DropReason),
}

impl Target {
    /// Where the others go when the first, which belongs to the entry of this key, went so.
    fn of(verdict: Verdict, (key, pair): (FlowKey, Ipv6Pair), is_error: bool, snapshot: &Snapshot) -> Target {
        match verdict {
            Verdict::Forward(slot) | Verdict::ForwardInPieces(slot) => {
                Target::Forward { slot, incarnation: incarnation(snapshot, slot) }
            }
            Verdict::Ready(_) | Verdict::InPieces(_) => Target::Translate { key, pair, is_error },
            Verdict::HandOver(HandOver { worker, .. }) => Target::HandOver(worker),
            Verdict::Drop(reason) => Target::Drop(reason),
            // The sender is told once.
            Verdict::TooBig(_) => Target::Drop(DropReason::TooBig),
            Verdict::Hold | Verdict::Punt(_) | Verdict::Host => Target::Drop(DropReason::Fragment),
        }
    }

    /// What becomes of the fragment in this frame, which is not the first.
    fn verdict<Q: QueuePair>(self, packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
        match self {
            Target::Forward { slot, incarnation: of } => {
                let snapshot = round.parts.mailbox.current();
                if incarnation(snapshot, slot) != of {
                    return Verdict::Drop(DropReason::RealServerRemoved);
                }
                let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
                oversize::follow(snapshot, slot, packet, frame)
            }
            Target::Translate { key, pair, is_error } => match round.parts.connections.find(&key, &pair) {
                Some(id) => leg::pass_later_fragment(packet, index, id, is_error, round),
                None => Verdict::Drop(DropReason::NoConnection),
            },
            // Where two workers have taken each other for the owner, nothing goes round.
            Target::HandOver(_) if packet.is_taken_over => Verdict::Drop(DropReason::NoConnection),
            Target::HandOver(worker) => Verdict::HandOver(HandOver { worker, kind: PacketKind::Fragment }),
            Target::Drop(reason) => Verdict::Drop(reason),
        }
    }
}

/// A fragment that waits for the first of its packet, or is on its way behind it.
#[derive(Debug)]
struct Waiting<F> {
    frame: F,
    packet: Packet,
}

/// The fragmented packets that a worker knows, and the frames of those whose first fragment has not come.
#[derive(Debug)]
pub(super) struct Fragments<F> {
    table: FragmentTable<Target, Waiting<F>>,
    /// Their first fragment is in the burst that is being forwarded.
    released: Box<ArrayVec<(Waiting<F>, Target), RELEASED_MAX>>,
}

impl<F: Frame> Fragments<F> {
    /// None yet.
    pub(super) fn new(limits: FragmentLimits) -> Self {
        let held = limits.held.min(HELD_MAX as u32);
        Fragments {
            table: FragmentTable::new(FragmentLimits { held, ..limits }),
            released: Box::new(ArrayVec::new_const()),
        }
    }

    /// Gives up what has waited too long, and keeps the gauges. For every round.
    #[inline(always)]
    pub(super) fn expire(&mut self, now: Ticks, counters: &WorkerCounters) {
        if self.table.known() + self.table.held() > 0 {
            self.expire_some(now, counters);
        }
    }

    #[cold]
    fn expire_some(&mut self, now: Ticks, counters: &WorkerCounters) {
        self.table.expire(now, EXPIRED_PER_ROUND, |waiting, fate| give_up(waiting, fate, counters));
        self.gauge(counters);
    }

    fn gauge(&self, counters: &WorkerCounters) {
        counters.fragments_held.set(self.table.held().into());
        counters.fragmented_known.set(self.table.known().into());
    }

    /// Holds a frame whose verdict was [`Verdict::Hold`]; given back where there is no room for it. It is on its way already
    /// where the first came later in the same burst.
    #[cold]
    pub(super) fn hold(
        &mut self,
        frame: F,
        packet: &Packet,
        now: Ticks,
        counters: &WorkerCounters,
    ) -> Result<(), F> {
        let Some(Fragment { key, piece, .. }) = Fragment::read(frame.bytes(), packet) else {
            return Err(frame);
        };
        let waiting = Waiting { frame, packet: *packet };
        let held =
            self.table.hold(&key, piece, waiting, now, |waiting, fate| give_up(waiting, fate, counters));
        self.gauge(counters);
        let Err(waiting) = held else { return Ok(()) };
        match self.table.on_later(&key, piece, now) {
            Later::Known(target) => {
                self.released.try_push((waiting, target)).map_err(|full| full.element().0.frame)
            }
            Later::Hold | Later::Refuse => Err(waiting.frame),
        }
    }

    /// The first fragment of a packet goes to `target`: what was held follows. False where an earlier first one went elsewhere.
    fn learn(&mut self, fragment: &Fragment, target: Target, now: Ticks, counters: &WorkerCounters) -> bool {
        let released = &mut self.released;
        let give = |waiting, fate| match fate {
            Fate::Forward => {
                if let Err(full) = released.try_push((waiting, target)) {
                    give_up(full.element().0, Fate::Evicted, counters);
                }
            }
            fate => give_up(waiting, fate, counters),
        };
        let first = match target {
            Target::Drop(_) => self.table.on_refused(&fragment.key, fragment.piece, target, now, give),
            _ => self.table.on_first(&fragment.key, fragment.piece, target, now, give),
        };
        counters.fragmented_learned.add(u64::from(first == First::Learned));
        first == First::Learned
    }
}

/// Frees a frame that waited in vain.
fn give_up<F: Frame>(waiting: Waiting<F>, fate: Fate, counters: &WorkerCounters) {
    let reason = match fate {
        Fate::Expired => DropReason::FragmentTimeout,
        Fate::Forward | Fate::Evicted | Fate::Refused => DropReason::FragmentEvicted,
    };
    counters.dropped[reason as usize].add(1);
    drop(waiting.frame);
}

impl<Q: QueuePair> Worker<Q> {
    /// Forwards the frames whose first fragments came in the burst just forwarded.
    #[inline(always)]
    pub(super) fn forward_released(&mut self, now: Ticks, now_seconds: u32) {
        while !self.fragments.released.is_empty() {
            self.forward_some_released(now, now_seconds);
        }
    }

    #[cold]
    fn forward_some_released(&mut self, now: Ticks, now_seconds: u32) {
        let count = self.fragments.released.len().min(BURST);
        let mut targets = [Target::Drop(DropReason::Fragment); BURST];
        let places = self.packets.iter_mut().zip(&mut targets);
        for ((waiting, of), (packet, target)) in self.fragments.released.drain(..count).zip(places) {
            (*packet, *target) = (waiting.packet, of);
            self.rx.push(waiting.frame);
        }
        let mut round = Round {
            parts: &mut self.parts,
            admission: &mut self.admission,
            local_ports: &mut self.local_ports,
            streams: &mut self.streams,
            frames: &mut self.rx,
            originated: &mut self.originated,
            fragments: &mut self.fragments,
            icmp_allowance: &mut self.icmp_allowance,
            now,
            now_seconds,
        };
        for (index, (packet, target)) in self.packets.iter_mut().zip(targets).take(count).enumerate() {
            let verdict = target.verdict(packet, index, &mut round);
            packet.settle(verdict);
        }
        self.dispose(now, now_seconds);
        self.packets.iter_mut().take(count).for_each(|packet| packet.is_taken_over = false);
        self.fragments.gauge(&self.parts.counters);
    }
}

/// Which of all real servers that ever had this slot has it.
fn incarnation(snapshot: &Snapshot, slot: u32) -> u16 {
    snapshot.destinations.get(slot as usize).map_or(0, |destination| destination.incarnation)
}

/// A fragment, its IP header checked.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    key: FragmentKey,
    piece: Piece,
    source: IpAddr,
    destination: IpAddr,
    /// Bytes in front of the fragmentable part that count into the packet's 65,535: IPv4's header, but not IPv6's fixed one.
    header: usize,
}

impl Fragment {
    fn read(frame: &[u8], packet: &Packet) -> Option<Fragment> {
        let ip = frame.get(usize::from(packet.ip_offset)..)?;
        if ip.first()? >> 4 == 6 {
            return Fragment::read_v6(ip);
        }
        let (ip, _) = Ipv4Header::ref_from_prefix(ip).ok()?;
        let (source, destination) = (ip.source_address(), ip.destination_address());
        let header = ip.header_length();
        Some(Fragment {
            key: FragmentKey::v4(source, destination, ip.protocol, ip.identification.get()),
            piece: Piece {
                offset: ip.fragment_offset() as u16,
                length: ip.total_length.get().checked_sub(header as u16)?,
                is_last: !ip.has_more_fragments(),
            },
            source: source.into(),
            destination: destination.into(),
            header,
        })
    }

    fn read_v6(ip: &[u8]) -> Option<Fragment> {
        let (ip, payload) = Ipv6Header::ref_from_prefix(ip).ok()?;
        let fragment = ip.upper_layer(payload).ok()?.fragment?;
        let (source, destination) = (ip.source_address(), ip.destination_address());
        let header = usize::from(fragment.header).checked_sub(ipv6::HEADER_BYTES)?;
        let length = usize::from(ip.payload_length.get()).checked_sub(header + FRAGMENT_HEADER_BYTES)?;
        Some(Fragment {
            key: FragmentKey::v6(source, destination, fragment.identification),
            piece: Piece { offset: fragment.offset, length: length as u16, is_last: !fragment.more },
            source: source.into(),
            destination: destination.into(),
            header,
        })
    }

    fn is_first(&self) -> bool {
        self.piece.offset == 0
    }

    /// Nobody sends such a fragment who means well.
    fn is_impossible(&self, protocol: u8) -> bool {
        let Piece { offset, length, is_last } = self.piece;
        let end = self.header + usize::from(offset) + usize::from(length);
        length == 0
            || !is_last && !length.is_multiple_of(8)
            || end > usize::from(u16::MAX)
            || protocol == ipv4::TCP && offset == INTO_TCP_HEADER
    }
}

/// What becomes of a fragment.
#[cold]
#[inline(never)]
pub(super) fn judge<Q: QueuePair>(packet: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let Some(fragment) = Fragment::read(frame, packet) else { return Verdict::Drop(DropReason::Truncated) };
    let snapshot = round.parts.mailbox.current();
    match snapshot.addresses.get(&fragment.destination) {
        Some(AddressRole::Vip) => {}
        Some(AddressRole::Dip(_)) => return other::not_a_service(fragment.destination, packet, snapshot),
        _ if may_be_reply(&fragment, round) => {}
        _ => return other::not_a_service(fragment.destination, packet, snapshot),
    }
    if fragment.is_impossible(packet.protocol) {
        return Verdict::Drop(DropReason::BadFragment);
    }
    if fragment.is_first() {
        return first(packet, &fragment, index, round);
    }
    if packet.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    match round.fragments.table.on_later(&fragment.key, fragment.piece, round.now) {
        Later::Known(target) => target.verdict(packet, index, round),
        Later::Hold => Verdict::Hold,
        Later::Refuse => Verdict::Drop(DropReason::FragmentEvicted),
    }
}

/// It comes from a real server whose addresses are translated.
fn may_be_reply<Q: QueuePair>(fragment: &Fragment, round: &Round<Q>) -> bool {
    let sources = &round.parts.mailbox.current().translated_real_servers;
    round.parts.peers.translate() && (sources.is_empty() || sources.contains(&fragment.source))
}

fn first<Q: QueuePair>(packet: &Packet, fragment: &Fragment, index: usize, round: &mut Round<Q>) -> Verdict {
    // The packet keeps the key and the hash that all its fragments have.
    let first = Packet { part: Part::First, ..*packet };
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let is_error = icmp::is_error(packet, icmp::message(frame, packet));
    let (key, verdict) = match is_error {
        true => {
            let key = icmp::key_of_quoted(&first, index, round).unwrap_or_default();
            (key, icmp::judge(&first, index, fragment.destination, round))
        }
        false => match flow(&first, fragment, index, round) {
            Ok(flow) => ((flow.key, flow.pair), forward(&flow, index, round)),
            Err(reason) => (Default::default(), Verdict::Drop(reason)),
        },
    };
    let target = Target::of(verdict, key, is_error, round.parts.mailbox.current());
    if !round.fragments.learn(fragment, target, round.now, &round.parts.counters) {
        return Verdict::Drop(DropReason::BadFragment);
    }
    match verdict {
        Verdict::HandOver(HandOver { worker, .. }) => {
            Verdict::HandOver(HandOver { worker, kind: PacketKind::Fragment })
        }
        verdict => verdict,
    }
}

/// What becomes of a first fragment: that of a packet of its connection.
fn forward<Q: QueuePair>(flow: &Packet, index: usize, round: &mut Round<Q>) -> Verdict {
    let WorkerParts { connections, peers, .. } = &*round.parts;
    let is_known = connections.find(&flow.key, &flow.pair).is_some();
    if !is_known
        && !flow.is_taken_over
        && let Some(worker) = peers.owner_of(&flow.key, &flow.pair)
    {
        return Verdict::HandOver(HandOver { worker: worker as u16, kind: PacketKind::Fragment });
    }
    let verdict = lookup::pass_alone(flow, index, round).map_or_else(|verdict| verdict, Verdict::Forward);
    let WorkerParts { connections, peers, .. } = &*round.parts;
    if !is_known && flow.event == Event::UDP && connections.find(&flow.key, &flow.pair).is_some() {
        peers.has_fragmented(round.now_seconds);
    }
    verdict
}

/// A packet whose first fragment is in this frame, with what its transport header says.
fn flow<Q: QueuePair>(
    packet: &Packet,
    fragment: &Fragment,
    index: usize,
    round: &Round<Q>,
) -> Result<Packet, DropReason> {
    let frame = round.frames.get(index).map_or(&[][..], |frame| frame.bytes());
    let is_secure = round.parts.mailbox.current().options.secure_tcp;
    let (event, client_port, virtual_port) = ports(packet.protocol, icmp::message(frame, packet), is_secure)?;
    let connections = &round.parts.connections;
    let key = match (fragment.source, fragment.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            FlowKey::new(source.octets(), destination.octets(), client_port, virtual_port, packet.protocol)
        }
        _ => connections.seed().ipv6_key(&packet.pair, client_port, virtual_port, packet.protocol),
    };
    Ok(Packet { key, hash: connections.hash(&key), candidate: None, event, ..*packet })
}

/// Event, source and destination port of the packet whose first fragment holds `transport`.
fn ports(protocol: u8, transport: &[u8], is_secure: bool) -> Result<(Event, [u8; 2], [u8; 2]), DropReason> {
    // However long the packet may be.
    let whole = usize::from(u16::MAX);
    let (event, source, destination) = match protocol {
        ipv4::TCP => {
            let (tcp, _) = TcpHeader::ref_from_prefix(transport).map_err(|_| DropReason::BadFragment)?;
            if tcp.length() < tcp::HEADER_BYTES {
                return Err(DropReason::BadTransportHeader);
            }
            (Event::tcp(tcp.flags, is_secure), tcp.source_port, tcp.destination_port)
        }
        ipv4::UDP => {
            let udp = UdpHeader::read_of(transport, whole).ok_or(DropReason::BadTransportHeader)?;
            (Event::UDP, udp.source_port, udp.destination_port)
        }
        ipv4::SCTP => {
            let is_whole = transport.len() >= size_of::<SctpHeader>() + size_of::<ChunkHeader>();
            let reason = if is_whole { DropReason::BadTransportHeader } else { DropReason::BadFragment };
            let (sctp, event) = SctpHeader::read_of(transport, whole).ok_or(reason)?;
            (event, sctp.source_port, sctp.destination_port)
        }
        _ => return Err(DropReason::Fragment),
    };
    Ok((event, source.to_bytes(), destination.to_bytes()))
}
