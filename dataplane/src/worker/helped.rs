//! Translated connections whose segments need more than other addresses: FTP's ([`super::ftp`]), and those whose real server is to
//! learn the client's address ([`super::introduction`]).
//!
//! What such a connection remembers lies in one word of its extension:
//!
//! | connection | bits 0 to 39 | bits 40 to 61 | bits 62, 63 |
//! |---|---|---|---|
//! | any | its [`Introduction`] | 0 | 0 |
//! | FTP's control connection | the same | its place among the [`Streams`] and 1, 0: none (13); data connections awaited (4); since when (5) | 2 |
//! | FTP's data connection | entry of its control connection (32) | 8 bits into this: when it was kept last (16); it is awaited still (1) | 1 |
//!
//! The order of changes matters to the sequence numbers: a line is replaced in the client's stream before a PROXY header is put in front of
//! that, and on the way back the acknowledgement loses the header before it is set back behind the line.

use super::admission::Admission;
use super::introduction::{Introduction, Onward};
use super::local_ports::{LocalPorts, Share};
use super::outlet::Outlet;
use super::segment::Segment;
use super::streams::{CAPACITY, Shift, Streams};
use super::{Packet, Part, Round, WorkerParts, ftp};
use crate::clock::Ticks;
use crate::connection::table::ConnectionId;
use crate::connection::{ConnectionState, ConnectionTable, Translated, Tuple};
use crate::counters::WorkerCounters;
use crate::packet::tcp::{ACK, TcpHeader};
use crate::packet::tcp_options;
use crate::packet::tcp_sequence::{shift_acknowledgement, shift_sequence};
use crate::persistence::TemplateTable;
use crate::port::{Frame, PortId, QueuePair};
use crate::snapshot::{SharedCounts, Snapshot};
use crate::translation::Endpoint;
use crate::verdict::DropReason;

/// What a connection remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory(u64);

const PLACE_SHIFT: u32 = 40;
const PLACE: u64 = (1 << 13) - 1;
const _: () = assert!(CAPACITY as u64 <= PLACE);
const AWAITED_SHIFT: u32 = 53;
const AWAITED: u64 = (1 << 4) - 1;
const SINCE_SHIFT: u32 = 57;
const SINCE: u64 = (1 << 5) - 1;
const KEPT_SHIFT: u32 = 32;
const IS_AWAITED: u64 = 1 << 48;
const DATA: u64 = 1 << 62;
const CONTROL: u64 = 2 << 62;

/// Seconds after which a data connection that was announced and never came does not count any more.
const AWAITED_SECONDS: u32 = 8;

impl Memory {
    /// Of a connection whose real server learns its client's address, or not.
    pub(super) fn introduction_only(introduction: Introduction) -> Memory {
        Memory(introduction.word())
    }

    /// Of a control connection of FTP.
    pub(super) fn control(introduction: Introduction) -> Memory {
        Memory(CONTROL | introduction.word())
    }

    /// Of a data connection of the control connection with this entry.
    pub(super) fn data(control: u32, kept_seconds: u16) -> Memory {
        Memory(DATA | u64::from(control) | u64::from(kept_seconds) << KEPT_SHIFT)
    }

    /// Of one that nobody has opened yet.
    pub(super) fn awaited_data(control: u32, kept_seconds: u16) -> Memory {
        Memory(Memory::data(control, kept_seconds).0 | IS_AWAITED)
    }

    /// What a word of an extension says.
    pub(super) fn of(word: u64) -> Memory {
        Memory(word)
    }

    /// As it stands there.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// There is something to remember.
    pub(super) fn is_any(self) -> bool {
        self.is_control() || self.as_data().is_some() || self.introduction().is_any()
    }

    fn is_ftp(self) -> bool {
        self.0 & (CONTROL | DATA) != 0
    }

    pub(super) fn is_control(self) -> bool {
        self.0 & CONTROL != 0
    }

    /// Of a data connection: the entry of its control connection, and when that was kept last.
    pub(super) fn as_data(self) -> Option<(u32, u16)> {
        (self.0 & (DATA | CONTROL) == DATA).then_some((self.0 as u32, (self.0 >> KEPT_SHIFT) as u16))
    }

    /// Of a data connection: nobody has opened it yet.
    fn is_awaited(self) -> bool {
        self.0 & IS_AWAITED != 0
    }

    /// Of a control connection: it may announce one data connection more. There is no bound to those that come.
    pub(super) fn may_await(self, now_seconds: u32) -> bool {
        self.awaited(now_seconds) < AWAITED
    }

    fn awaited(self, now_seconds: u32) -> u64 {
        let since = self.0 >> SINCE_SHIFT & SINCE;
        let gone = u64::from(now_seconds / AWAITED_SECONDS).wrapping_sub(since) & SINCE;
        (self.0 >> AWAITED_SHIFT & AWAITED).saturating_sub(gone)
    }

    /// One data connection more is awaited.
    #[must_use]
    pub(super) fn with_one_awaited(self, now_seconds: u32) -> Memory {
        self.with_awaited((self.awaited(now_seconds) + 1).min(AWAITED), now_seconds)
    }

    /// One of them came.
    #[must_use]
    pub(super) fn with_one_come(self, now_seconds: u32) -> Memory {
        self.with_awaited(self.awaited(now_seconds).saturating_sub(1), now_seconds)
    }

    fn with_awaited(self, awaited: u64, now_seconds: u32) -> Memory {
        let since = u64::from(now_seconds / AWAITED_SECONDS) & SINCE;
        let rest = self.0 & !(AWAITED << AWAITED_SHIFT | SINCE << SINCE_SHIFT);
        Memory(rest | awaited << AWAITED_SHIFT | since << SINCE_SHIFT)
    }

    /// What the real server is to learn of the client.
    pub(super) fn introduction(self) -> Introduction {
        match self.as_data() {
            Some(_) => Introduction::default(),
            None => Introduction::of(self.0),
        }
    }

    #[must_use]
    fn with_introduction(self, introduction: Introduction) -> Memory {
        let rest = self.0 & !((1 << PLACE_SHIFT) - 1);
        Memory(rest | introduction.word())
    }

    fn place(self) -> Option<u32> {
        ((self.0 >> PLACE_SHIFT & PLACE) as u32).checked_sub(1)
    }

    #[must_use]
    fn with_place(self, place: u32) -> Memory {
        Memory(self.0 & !(PLACE << PLACE_SHIFT) | u64::from(place + 1) << PLACE_SHIFT)
    }
}

/// The connection of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helped {
    pub(super) id: ConnectionId,
    /// Its reply entry.
    pub(super) reply: ConnectionId,
    pub(super) translated: Translated,
    /// Client and virtual service.
    pub(super) client: Tuple,
    /// The real server's destination slot.
    pub(super) slot: u32,
    /// After the segment.
    pub(super) state: ConnectionState,
}

impl Helped {
    /// The real server's address and port.
    pub(super) fn real_server(&self) -> Endpoint {
        let reply = self.translated.reply.tuple(&self.translated.reply_pair);
        (reply.client, reply.client_port)
    }

    /// What the real server takes for the client.
    pub(super) fn local(&self) -> Endpoint {
        let reply = self.translated.reply.tuple(&self.translated.reply_pair);
        (reply.service.address, reply.service.port)
    }

    /// The real server does not see the client's address.
    pub(super) fn is_full_nat(&self) -> bool {
        self.local() != (self.client.client, self.client.client_port)
    }
}

/// What the worker has for connections that others announce.
pub(super) struct Desk<'a> {
    pub(super) connections: &'a mut ConnectionTable,
    pub(super) snapshot: &'a Snapshot,
    pub(super) counts: &'a SharedCounts,
    pub(super) templates: &'a TemplateTable,
    pub(super) counters: &'a WorkerCounters,
    pub(super) admission: &'a mut Admission,
    pub(super) local_ports: &'a mut LocalPorts,
    pub(super) streams: &'a mut Streams,
    pub(super) share: Share,
    pub(super) now: Ticks,
    pub(super) now_seconds: u32,
}

/// Where a segment comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    /// Where its IP header lies in the frame now.
    pub(super) ip_offset: usize,
    /// It leaves by this port.
    pub(super) port: PortId,
    /// The largest packet that may go to the real server.
    pub(super) mtu: u16,
    /// The largest packet that this one's own way carries.
    pub(super) way_mtu: u16,
    pub(super) is_reply: bool,
}

/// Does to the segment in this frame, whose addresses are final, what else its connection needs.
#[inline(never)]
pub(super) fn pass<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    helped: &Helped,
    course: &Course,
    round: &mut Round<Q>,
) -> Result<(), DropReason> {
    let memory = Memory::of(helped.translated.memory);
    let share = Share { index: round.parts.index, workers: round.parts.workers };
    let WorkerParts { queues, counters, connections, mailbox, counts, templates, peers, .. } =
        &mut *round.parts;
    if memory.is_ftp() {
        peers.has_ftp(round.now_seconds);
    }
    let mut desk = Desk {
        connections,
        snapshot: mailbox.current(),
        counts,
        templates,
        counters,
        admission: round.admission,
        local_ports: round.local_ports,
        streams: round.streams,
        share,
        now: round.now,
        now_seconds: round.now_seconds,
    };
    let Some(frame) = round.frames.get_mut(index) else { return Err(DropReason::NoConnection) };
    let mut segment = Segment {
        frame,
        ip_offset: course.ip_offset,
        transport: course.ip_offset + usize::from(packet.transport_offset) - usize::from(packet.ip_offset),
        ip_length: packet.ip_length.into(),
    };
    let mut outlet = Outlet { queues, originated: round.originated, counters };
    let mut onward = Onward {
        port: course.port,
        mtu: course.mtu,
        outlet: &mut outlet,
        is_first_fragment: packet.part == Part::First,
    };
    let mut after = memory;
    let passed = match (memory.as_data(), course.is_reply) {
        (Some((control, kept)), _) => {
            let is_awaited = memory.is_awaited() && helped.state == ConnectionState::Listen;
            if memory.is_awaited() && !is_awaited {
                ftp::has_come(control, helped, &mut desk);
            }
            let kept = ftp::keep(control, kept, helped, &mut desk);
            after =
                if is_awaited { Memory::awaited_data(control, kept) } else { Memory::data(control, kept) };
            Ok(())
        }
        (None, false) => control(&mut after, helped, &mut segment, course, &mut desk)
            .and_then(|()| after.introduction().to_real_server(&helped.client, &mut segment, &mut onward))
            .map(|introduction| after = after.with_introduction(introduction)),
        (None, true) => {
            let introduction = after.introduction().to_client(&helped.client, &mut segment, course.mtu);
            after = after.with_introduction(introduction);
            control(&mut after, helped, &mut segment, course, &mut desk)
        }
    };
    let is_too_long = segment.ip_length > course.way_mtu.into();
    if after != memory {
        desk.connections.set_memory(helped.reply, after.word());
    }
    passed?;
    // A line became longer in a packet that had no room for it: the other side's network would not see it whole, and a port may break.
    if is_too_long && packet.ip_length <= course.way_mtu { Err(DropReason::TooBig) } else { Ok(()) }
}

/// A segment of FTP's control connection: a line in it may be replaced, and because of those before its numbers change.
fn control<F: Frame>(
    memory: &mut Memory,
    helped: &Helped,
    segment: &mut Segment<F>,
    course: &Course,
    desk: &mut Desk,
) -> Result<(), DropReason> {
    let (true, Some(header)) = (memory.is_control(), segment.header()) else { return Ok(()) };
    let is_looked_at = helped.state == ConnectionState::Established && segment.payload_length() > 0;
    let replacement = match is_looked_at {
        true if course.is_reply => ftp::answer(helped, memory, segment, desk)?,
        true => ftp::command(helped, memory, segment, desk)?,
        false => None,
    };
    let longer = replacement.as_ref().map_or(0, |new| new.longer());
    let place = match memory.place() {
        None if longer != 0 => {
            let (key, pair) = helped.client.key(desk.connections.seed());
            let place = desk.streams.open(helped.id, key, pair, desk.connections);
            Some(place.ok_or(DropReason::TooManyStreams)?)
        }
        place => place,
    };
    let mut unshifted = Default::default();
    let stream = place.and_then(|place| desk.streams.get_mut(place)).unwrap_or(&mut unshifted);
    let (own, other) = match course.is_reply {
        false => (&mut stream.to_real_server, &stream.to_client),
        true => (&mut stream.to_client, &stream.to_real_server),
    };
    let sequence = u32::from_be_bytes(header.sequence);
    let shifted_by = own.of_sequence(sequence);
    if shifted_by != 0 {
        shift_sequence(segment.bytes_mut(), shifted_by);
    }
    set_back(segment, &header, other);
    if let Some(new) = replacement {
        let (begin, length) = (new.range.start as u32, new.range.len() as u32);
        segment.replace(new.range, new.text.as_bytes())?;
        if longer != 0 {
            own.replaced(sequence.wrapping_add(begin), length, longer);
        }
    }
    if let Some(place) = place {
        *memory = memory.with_place(place);
    }
    Ok(())
}

/// What the segment acknowledges is what its addressee counts.
fn set_back<F: Frame>(segment: &mut Segment<F>, header: &TcpHeader, shift: &Shift) {
    if header.flags & ACK == 0 || !shift.is_any() {
        return;
    }
    let before = u32::from_be_bytes(header.acknowledgement);
    let (acknowledged, is_behind) = shift.acknowledged(before);
    if is_behind {
        shift_acknowledgement(segment.bytes_mut(), acknowledged.wrapping_sub(before));
        return;
    }
    // What is received behind the line is shifted otherwise than what is acknowledged.
    segment.erase_options(tcp_options::SACK);
    segment.set_acknowledgement(acknowledged);
}
