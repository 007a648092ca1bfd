//! Opens connections whose addresses are translated: what their replies are known by, and where these go.

use super::helped::Memory;
use super::introduction::Introduction;
use super::local_ports::Pool;
use super::open::{Opening, refusal};
use super::{close, ftp, nat};
use crate::clock::TICKS_PER_SECOND;
use crate::connection::table::TableFull;
use crate::connection::{Connection, ConnectionFlags, ConnectionState, Translated, Tuple};
use crate::persistence::TemplateId;
use crate::snapshot::{Destination, ForwardingMethod, Protocol, ServiceKey, Translation};
use crate::verdict::DropReason;

/// Seconds that a translated connection of a one-packet service lasts: as long as an answer may take.
const ONE_PACKET_SECONDS: u32 = 5;

impl Opening<'_> {
    /// Puts a connection whose addresses are translated into the table, or says what is in its way.
    pub(super) fn insert_translated(
        &mut self,
        slot: u32,
        destination: &Destination,
        translation: &Translation,
        template: Option<TemplateId>,
    ) -> Result<(), DropReason> {
        // No packet of it was forwarded before.
        if self.is_adopted {
            return Err(DropReason::NoConnection);
        }
        if self.is_one_packet() {
            self.room().map_err(refusal)?;
        }
        let reply = self.reply_of(destination, translation)?;
        let (reply, reply_pair) = reply.key(self.connections.seed());
        let packet = self.packet;
        let state = ConnectionState::first_both_ways(packet.key.protocol(), packet.event);
        let memory = self.memory_of(destination, translation);
        let (flags, ticks) = match self.is_one_packet() {
            true => (ConnectionFlags::ONE_PACKET, ONE_PACKET_SECONDS * TICKS_PER_SECOND),
            false if memory.is_any() => (ConnectionFlags::HELPED, self.timeout(destination, state)),
            false => (ConnectionFlags::NONE, self.timeout(destination, state)),
        };
        let connection = Connection {
            key: packet.key,
            pair: packet.pair,
            state,
            flags,
            expires: self.now.after(ticks),
            destination: slot,
            link: template.map(TemplateId::index),
        };
        let last_hop = nat::last_hop(packet, self.frame);
        let translated = Translated { reply, reply_pair, last_hop, memory: memory.word() };
        let inserted = self.connections.insert_translated(connection, &translated, packet.hash);
        inserted.map_err(|TableFull| DropReason::ConnectionTableFull)?;
        self.has_translated = true;
        self.inserted(slot, state, template);
        Ok(())
    }

    /// What the translation has to remember, where it looks into the packets.
    fn memory_of(&self, destination: &Destination, translation: &Translation) -> Memory {
        let ServiceKey { protocol, port, .. } = self.tuple.service;
        if protocol != Protocol::TCP {
            return Memory::default();
        }
        let introduction = match destination.method {
            ForwardingMethod::FullNat => Introduction::new(translation.client_address),
            _ => Introduction::default(),
        };
        if port == ftp::FTP { Memory::control(introduction) } else { Memory::introduction_only(introduction) }
    }

    /// What the replies of the new connection are known by. With NAT that may be in use, where the client has the same port to
    /// another virtual service: datagrams then go where the last one went, else who is there stays until it is over.
    fn reply_of(
        &mut self,
        destination: &Destination,
        translation: &Translation,
    ) -> Result<Tuple, DropReason> {
        let (tuple, snapshot) = (&self.tuple, self.snapshot);
        let maps_port = translation.port != 0 && (self.is_own_port || self.service.persistence.is_none());
        let port = if maps_port { translation.port } else { tuple.service.port };
        if translation.address.is_ipv4() != tuple.client.is_ipv4() {
            return Err(DropReason::NoRealServer);
        }
        let real_server = (translation.address, port);
        if destination.method == ForwardingMethod::FullNat {
            let pool = Pool::of(&snapshot.local_addresses, translation);
            let connections = &*self.connections;
            let local =
                self.local_ports.choose(pool, real_server, &tuple.service, connections, self.share, self.now);
            return local.ok_or(DropReason::NoLocalPort);
        }
        let client =
            ServiceKey { address: tuple.client, port: tuple.client_port, protocol: tuple.service.protocol };
        let reply = Tuple { client: real_server.0, client_port: real_server.1, service: client };
        let (key, pair) = reply.key(self.connections.seed());
        let Some(other) = self.connections.find(&key, &pair) else { return Ok(reply) };
        let connection = self.connections.connection_of_reply(other);
        let connection = connection.ok_or(DropReason::TupleInUse)?;
        let Connection { state, expires, .. } = self.connections.connection(connection);
        let gives_way =
            tuple.service.protocol == Protocol::UDP || expires.is_past(self.now) || state.is_over(1);
        if !gives_way {
            return Err(DropReason::TupleInUse);
        }
        let gone = self.connections.remove(connection);
        close(&gone, self.now, self.counts, self.templates, self.counters);
        Ok(reply)
    }
}
