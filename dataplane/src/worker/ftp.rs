//! FTP's data connections behind NAT (`ip_vs_ftp`): who waits where is said in the control connection, in addresses that the other
//! side does not know.
//!
//! | said | by | becomes | opened here |
//! |---|---|---|---|
//! | PORT, EPRT | client | with full NAT a local address and port | the connection from the real server's data port (one below its control port) to the client |
//! | 227, 229 | real server | VIP, and its port or the next one that is free | a connection without client's port, which the client's SYN completes |
//!
//! Both wait in the state LISTEN. An address that is not the speaker's own is left alone, and a port below 1024 of a real
//! server: nobody has the director open a connection to elsewhere (FTP bounce), or to another service. Only whole lines at a
//! segment's start are looked at, in an established connection, as the kernel does; a damaged segment is left as it is. The
//! data connection keeps the control connection, which is silent meanwhile, from ending. Those that are awaited take from the
//! allowance for new connections, and a control connection may await 15.
//!
//! All connections of a control connection are its worker's; packets of them that others receive are handed over.

use super::helped::{Desk, Helped, Memory};
use super::local_ports::Pool;
use super::segment::Segment;
use super::{Packet, Round, WorkerParts, close, lookup, nat};
use crate::connection::table::{ConnectionId, TableFull};
use crate::connection::{Connection, ConnectionFlags, ConnectionState, Translated, Tuple};
use crate::packet::ftp::{self, FtpAddress, FtpText};
use crate::port::{Frame, QueuePair};
use crate::snapshot::{Protocol, ServiceKey, Snapshot};
use crate::translation::Endpoint;
use crate::verdict::{DropReason, HandOver, PacketKind, Verdict};

/// FTP's port.
pub(super) const FTP: u16 = 21;
/// Port of data connections in active mode.
pub(super) const FTP_DATA: u16 = 20;
/// First port of data connections in passive mode.
const FTP_PASSIVE_MIN: u16 = 1024;
/// Ports of the VIP that are tried for one in passive mode.
const TRIES: u16 = 16;
/// Seconds after which a data connection keeps its control connection again.
const KEEP_SECONDS: u16 = 30;

/// A text in the payload that becomes another one.
pub(super) struct Replacement {
    pub(super) range: std::ops::Range<usize>,
    pub(super) text: FtpText,
}

impl Replacement {
    /// By how many bytes the text becomes longer, modulo 2^32.
    pub(super) fn longer(&self) -> u32 {
        (self.text.as_bytes().len() as u32).wrapping_sub(self.range.len() as u32)
    }
}

/// A data connection that is awaited already.
#[derive(Clone, Copy)]
struct Awaited {
    id: ConnectionId,
    real_server: Endpoint,
    /// What the real server takes for the client.
    local: Endpoint,
}

/// What a segment of the client says of a data connection, which is awaited from now on, and what is to stand there instead.
pub(super) fn command<F: Frame>(
    helped: &Helped,
    memory: &mut Memory,
    segment: &Segment<F>,
    desk: &mut Desk,
) -> Result<Option<Replacement>, DropReason> {
    let client = helped.client;
    let said = line(segment, ftp::read_command).filter(|said| said.address == Some(client.client));
    let Some(said) = said else { return Ok(None) };
    let port = client.service.port.wrapping_sub(1);
    let data = Tuple { client_port: said.port, service: ServiceKey { port, ..client.service }, ..client };
    let (address, control_port) = helped.real_server();
    let real_server = (address, control_port.wrapping_sub(1));
    let local = match desk.awaited(&data) {
        Some(awaited) if awaited.real_server == real_server => {
            desk.listen(awaited.id, helped);
            awaited.local
        }
        // The same port for another real server: whatever that was, the client has done with it.
        Some(awaited) => {
            desk.end(awaited.id);
            desk.await_data(&data, real_server, helped, memory)?
        }
        None => desk.await_data(&data, real_server, helped, memory)?,
    };
    let text = FtpText::new(said.form, local.0, local.1).filter(|_| helped.is_full_nat());
    Ok(text.map(|text| Replacement { range: said.range, text }))
}

/// The same of a segment of the real server.
pub(super) fn answer<F: Frame>(
    helped: &Helped,
    memory: &mut Memory,
    segment: &Segment<F>,
    desk: &mut Desk,
) -> Result<Option<Replacement>, DropReason> {
    let Some(said) = line(segment, ftp::read_reply) else { return Ok(None) };
    let (client, real_server) = (helped.client, (helped.real_server().0, said.port));
    let vip = client.service.address;
    let is_elsewhere = said.address.is_some_and(|address| address != real_server.0 && address != vip);
    if is_elsewhere || said.port < FTP_PASSIVE_MIN {
        return Ok(None);
    }
    for port in (0..TRIES).map(|offset| said.port.wrapping_add(offset)) {
        // The client's port is not known yet.
        let data = Tuple { client_port: 0, service: ServiceKey { port, ..client.service }, ..client };
        if port < FTP_PASSIVE_MIN || desk.snapshot.services.contains_key(&data.service) {
            continue;
        }
        match desk.awaited(&data) {
            Some(awaited) if awaited.real_server == real_server => desk.listen(awaited.id, helped),
            Some(_) => continue,
            None => {
                desk.await_data(&data, real_server, helped, memory)?;
            }
        }
        let text = FtpText::new(said.form, vip, port);
        return Ok(text.map(|text| Replacement { range: said.range, text }));
    }
    Err(DropReason::NoLocalPort)
}

/// What the first line of an undamaged segment says.
fn line<F: Frame>(segment: &Segment<F>, read: impl Fn(&[u8]) -> Option<FtpAddress>) -> Option<FtpAddress> {
    let payload = segment.bytes().get(segment.header()?.length()..)?;
    read(payload).filter(|_| segment.is_intact())
}

/// A data connection lives: its control connection, whose entry is `control`, may not end meanwhile. When that was seen to last, in
/// seconds, is returned.
pub(super) fn keep(control: u32, kept: u16, helped: &Helped, desk: &mut Desk) -> u16 {
    let now = desk.now_seconds as u16;
    if now.wrapping_sub(kept) < KEEP_SECONDS {
        return kept;
    }
    if let Some((id, connection)) = desk.control_of(helped, control)
        && !connection.expires.is_past(desk.now)
    {
        let expires = desk.now.after(desk.ticks(connection.state, helped.slot));
        desk.connections.update(id, connection.state, expires);
    }
    now
}

/// A data connection that its control connection, whose entry is `control`, has announced is opened.
pub(super) fn has_come(control: u32, helped: &Helped, desk: &mut Desk) {
    let control = desk.control_of(helped, control);
    let Some(reply) = control.and_then(|(id, _)| desk.connections.reply(id)) else { return };
    let memory = Memory::of(desk.connections.translated(reply).memory).with_one_come(desk.now_seconds);
    desk.connections.set_memory(reply, memory.word());
}

impl Desk<'_> {
    fn ticks(&self, state: ConnectionState, slot: u32) -> u32 {
        let destination = self.snapshot.destinations.get(slot as usize);
        let timeouts = destination.map_or(0, |destination| destination.timeouts);
        lookup::timeouts_of(self.snapshot, timeouts).ticks(state)
    }

    /// The control connection of a data connection, if the entry of this number is still that.
    fn control_of(&self, data: &Helped, number: u32) -> Option<(ConnectionId, Connection)> {
        let id = self.connections.id_of(number)?;
        let connection = self.connections.connection(id);
        let Tuple { client, service, .. } = connection.key.tuple(&connection.pair);
        let ServiceKey { address, protocol, .. } = data.client.service;
        let is_its = connection.flags.contains(ConnectionFlags::TRANSLATED.with(ConnectionFlags::HELPED))
            && (client, service) == (data.client.client, ServiceKey { address, port: FTP, protocol })
            && connection.destination == data.slot;
        is_its.then_some((id, connection))
    }

    fn awaited(&self, data: &Tuple) -> Option<Awaited> {
        let (key, pair) = data.key(self.connections.seed());
        let id = self.connections.find(&key, &pair)?;
        let translated = self.connections.translated(self.connections.reply(id)?);
        let reply = translated.reply.tuple(&translated.reply_pair);
        let local = (reply.service.address, reply.service.port);
        Some(Awaited { id, real_server: (reply.client, reply.client_port), local })
    }

    /// It is awaited again.
    fn listen(&mut self, id: ConnectionId, helped: &Helped) {
        let before = self.connections.connection(id);
        let expires = self.now.after(self.ticks(ConnectionState::Listen, helped.slot));
        self.connections.update(id, ConnectionState::Listen, expires);
        if before.state.is_active()
            && let Some(counts) = self.counts.get(before.destination as usize)
        {
            counts.deactivate();
        }
    }

    fn end(&mut self, id: ConnectionId) {
        let gone = self.connections.remove(id);
        close(&gone, self.now, self.counts, self.templates, self.counters);
    }

    /// A data connection is awaited; what the real server is to take for the client is returned.
    fn await_data(
        &mut self,
        data: &Tuple,
        real_server: Endpoint,
        helped: &Helped,
        memory: &mut Memory,
    ) -> Result<Endpoint, DropReason> {
        let rate = self.snapshot.options.creation_rate_per_worker;
        if !memory.may_await(self.now_seconds) || !self.admission.allows(rate, self.now) {
            return Err(DropReason::CreationLimit);
        }
        let protocol = Protocol::TCP;
        let reply = |address, port| Tuple {
            client: real_server.0,
            client_port: real_server.1,
            service: ServiceKey { address, port, protocol },
        };
        let reply = match helped.is_full_nat() {
            false => Some(reply(data.client, data.client_port)),
            // Servers want the data connection from and to the control connection's peer.
            true => self.local_ports.choose(
                Pool::One(helped.local().0),
                real_server,
                &data.service,
                self.connections,
                self.share,
                self.now,
            ),
        };
        let reply = reply.ok_or(DropReason::NoLocalPort)?;
        let (reply_key, reply_pair) = reply.key(self.connections.seed());
        if self.connections.find(&reply_key, &reply_pair).is_some() {
            return Err(DropReason::TupleInUse);
        }
        let (key, pair) = data.key(self.connections.seed());
        let connection = Connection {
            key,
            pair,
            state: ConnectionState::Listen,
            flags: ConnectionFlags::HELPED,
            expires: self.now.after(self.ticks(ConnectionState::Listen, helped.slot)),
            destination: helped.slot,
            link: None,
        };
        let awaited = Memory::awaited_data(helped.id.number(), self.now_seconds as u16);
        let last_hop = helped.translated.last_hop;
        let translated = Translated { reply: reply_key, reply_pair, last_hop, memory: awaited.word() };
        let hash = self.connections.hash(&key);
        let inserted = self.connections.insert_translated(connection, &translated, hash);
        inserted.map_err(|TableFull| DropReason::ConnectionTableFull)?;
        if let Some(counts) = self.counts.get(helped.slot as usize) {
            counts.open();
        }
        *memory = memory.with_one_awaited(self.now_seconds);
        self.admission.spend();
        self.counters.connections_opened.add(1);
        Ok((reply.service.address, reply.service.port))
    }
}

/// The packet may be one of FTP's data connections that no service opens.
#[inline]
pub(super) fn may_be_data(packet: &Packet, snapshot: &Snapshot) -> bool {
    !snapshot.ftp_vips.is_empty() && is_of_data(packet.key.protocol(), packet.key.virtual_port())
}

/// FTP's data connections may have this port of a VIP.
pub(super) fn is_of_data(protocol: Protocol, port: u16) -> bool {
    protocol == Protocol::TCP && (port == FTP_DATA || port >= FTP_PASSIVE_MIN)
}

/// What becomes of such a packet of no connection of this worker, where a data connection of the client is awaited there, or is
/// another worker's.
#[cold]
#[inline(never)]
pub(super) fn judge_data<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    round: &mut Round<Q>,
) -> Option<Verdict> {
    let tuple = packet.key.tuple(&packet.pair);
    let WorkerParts { mailbox, connections, peers, .. } = &*round.parts;
    let snapshot = mailbox.current();
    if !snapshot.ftp_vips.contains(&tuple.service.address)
        || snapshot.services.contains_key(&tuple.service)
        || !peers.have_ftp(round.now_seconds)
    {
        return None;
    }
    let (key, pair) = Tuple { client_port: 0, ..tuple }.key(connections.seed());
    if let Some(id) = connections.find(&key, &pair) {
        return packet.event.opens().then(|| complete(packet, index, id, round));
    }
    let owner = || peers.owner_of(&packet.key, &packet.pair).or_else(|| peers.owner_of(&key, &pair));
    let worker = (!packet.is_taken_over).then(owner)??;
    Some(Verdict::HandOver(HandOver { worker: worker as u16, kind: PacketKind::Flow }))
}

/// The client's SYN says its port.
fn complete<Q: QueuePair>(
    packet: &Packet,
    index: usize,
    awaited: ConnectionId,
    round: &mut Round<Q>,
) -> Verdict {
    let connections = &mut round.parts.connections;
    let Some(reply) = connections.reply(awaited) else { return Verdict::Drop(DropReason::NoConnection) };
    let mut translated = connections.translated(reply);
    let mut tuple = translated.reply.tuple(&translated.reply_pair);
    if tuple.service.port == 0 {
        tuple.service.port = packet.key.client_port();
        (translated.reply, translated.reply_pair) = tuple.key(connections.seed());
    }
    let before = connections.remove(awaited);
    let is_known = connections.find(&translated.reply, &translated.reply_pair).is_some();
    let is_over = before.expires.is_past(round.now);
    let connection = Connection { key: packet.key, pair: packet.pair, ..before };
    let inserted = match is_known || is_over {
        true => Err(TableFull),
        false => connections.insert_translated(connection, &translated, packet.hash),
    };
    match inserted {
        Ok(id) => nat::pass(packet, index, id, round),
        Err(TableFull) => {
            let parts = &*round.parts;
            close(&before, round.now, &parts.counts, &parts.templates, &parts.counters);
            Verdict::Drop(if is_known { DropReason::TupleInUse } else { DropReason::NoConnection })
        }
    }
}
