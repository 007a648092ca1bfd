//! Connections whose addresses are translated, in the connection table: three entries each, of which two are companions
//! without a life of their own ([`super::entry`] shows how they name each other).

use std::num::NonZeroU32;

use super::entry::{Connection, ConnectionFlags, LastHop};
use super::key::{FlowKey, Ipv6Pair};
use super::state::ConnectionState;
use super::table::{ConnectionId, ConnectionTable, TableFull};

/// What a translated connection has beside itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// What its replies are known by.
    pub reply: FlowKey,
    /// The same, where they are IPv6's.
    pub reply_pair: Ipv6Pair,
    /// Where its replies go.
    pub last_hop: LastHop,
    /// What its translation remembers.
    pub memory: u64,
}

impl ConnectionTable {
    /// The template that controls `connection`, one of this table.
    #[inline(always)]
    pub fn template(&self, connection: &Connection) -> Option<u32> {
        if !connection.flags.contains(ConnectionFlags::TRANSLATED) {
            return connection.link;
        }
        self.entry(self.extension_of(connection.link?)).link()
    }

    /// The reply entry of the connection at `id`; none where its addresses are not translated.
    #[inline(always)]
    pub fn reply(&self, id: ConnectionId) -> Option<ConnectionId> {
        self.linked(id, ConnectionFlags::TRANSLATED)
    }

    /// The connection that the reply entry at `id` belongs to; none where it is no reply entry.
    #[inline(always)]
    pub fn connection_of_reply(&self, id: ConnectionId) -> Option<ConnectionId> {
        self.linked(id, ConnectionFlags::COMPANION)
    }

    /// What the entry at `id` names, where it has this flag; else that may be a template.
    #[inline(always)]
    fn linked(&self, id: ConnectionId, flag: ConnectionFlags) -> Option<ConnectionId> {
        let entry = self.entry(id.index());
        let link = entry.link().filter(|_| entry.standing().flags.contains(flag));
        link.and_then(NonZeroU32::new).map(ConnectionId)
    }

    /// What the translated connection with the reply entry at `reply` has beside itself.
    pub fn translated(&self, reply: ConnectionId) -> Translated {
        let [memory, last_hop] = self.entry(self.extension_of(reply.index())).words();
        Translated {
            reply: self.entry(reply.index()).key(),
            reply_pair: self.entries.pair(reply.index()),
            last_hop: LastHop::from_word(last_hop),
            memory,
        }
    }

    /// Replaces where its replies go and what its translation remembers.
    pub fn set_translated(&mut self, reply: ConnectionId, last_hop: LastHop, memory: u64) {
        self.entry(self.extension_of(reply.index())).set_words([memory, last_hop.word()]);
    }

    /// Replaces what its translation remembers.
    pub fn set_memory(&mut self, reply: ConnectionId, memory: u64) {
        let entry = self.entry(self.extension_of(reply.index()));
        let [_, last_hop] = entry.words();
        entry.set_words([memory, last_hop]);
    }

    /// The connection whose entry has this number, if there is one; never a companion.
    pub fn id_of(&self, number: u32) -> Option<ConnectionId> {
        let number = NonZeroU32::new(number)?;
        let connection = self.entries.slots.get(number.get() as usize)?.connection();
        let is_companion = connection.flags.contains(ConnectionFlags::COMPANION);
        (connection.state != ConnectionState::Free && !is_companion).then_some(ConnectionId(number))
    }

    /// Sets flags of the connection at `id`, and clears others.
    pub fn change_flags(&mut self, id: ConnectionId, set: ConnectionFlags, clear: ConnectionFlags) {
        self.entry(id.index()).change_flags(set, clear);
    }

    /// The index of the extension that belongs to the reply entry at this index.
    #[inline(always)]
    fn extension_of(&self, reply: u32) -> u32 {
        self.entry(reply).slot()
    }

    /// Adds a connection whose addresses are translated, with its companions: all three entries or none. Neither its key nor
    /// `translated.reply` is in the table; `connection.link` is its template.
    pub fn insert_translated(
        &mut self,
        connection: Connection,
        translated: &Translated,
        hash: u64,
    ) -> Result<ConnectionId, TableFull> {
        let companion = |key, pair, destination, link| Connection {
            key,
            pair,
            flags: ConnectionFlags::COMPANION,
            destination,
            link,
            ..connection
        };
        // An extension has no key and no bucket.
        let extension = self.take_free_entry().ok_or(TableFull)?;
        self.entry(extension.index()).occupy(&companion(FlowKey::EMPTY, Ipv6Pair::NONE, 0, connection.link));
        let words = [translated.memory, translated.last_hop.word()];
        self.entry(extension.index()).set_words(words);
        self.used += 1;
        let reply_hash = self.hash(&translated.reply);
        let reply = companion(translated.reply, translated.reply_pair, extension.index(), None);
        let inserted = self.insert(reply, reply_hash).and_then(|reply| {
            let flags = connection.flags.with(ConnectionFlags::TRANSLATED);
            let connection = Connection { flags, link: Some(reply.index()), ..connection };
            let id = self.insert(connection, hash).inspect_err(|TableFull| self.give_back(reply))?;
            self.entry(reply.index()).set_place(extension.index(), id.index());
            Ok(id)
        });
        match inserted {
            Ok(_) => self.companions += 2,
            Err(TableFull) => self.free(extension),
        }
        inserted
    }

    /// Removes the connection at `id`, with its companions where it has such, and returns it; its link is its template then.
    pub fn remove(&mut self, id: ConnectionId) -> Connection {
        let connection = self.connection(id);
        debug_assert!(connection.state != ConnectionState::Free);
        let template = self.template(&connection);
        if let Some(reply) = self.reply(id) {
            let extension = self.extension_of(reply.index());
            self.give_back(reply);
            if let Some(extension) = NonZeroU32::new(extension) {
                self.free(ConnectionId(extension));
            }
            self.companions -= 2;
        }
        self.give_back(id);
        Connection {
            link: template,
            flags: connection.flags.without(ConnectionFlags::TRANSLATED),
            ..connection
        }
    }
}
