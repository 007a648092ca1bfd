//! One entry of the connection table: 32 bytes, four atomic words, so that any thread may read what its worker writes.
//!
//! | word | holds |
//! |---|---|
//! | addresses, ports | the [`FlowKey`] |
//! | life | when it expires (32 bits), which connection of this entry it is (16), flags (8), state (8) |
//! | place | destination slot (32); template, of a translated connection its reply, in a free entry the next free one (32) |
//!
//! A connection of NAT takes three entries, of which the last two are its **companions**, which have no life of their own:
//!
//! | entry | key | place |
//! |---|---|---|
//! | the connection | client to VIP | slot, reply |
//! | reply | real server to client (full NAT: to the local address) | extension, connection |
//! | extension | none: in its first words what the translation remembers and the [`LastHop`] | nothing, template |
//!
//! The worker that owns the table is the only writer; it reads its own words relaxed. Other threads read through
//! [`Entry::copy`], which is a sequence lock whose sequence is the life word:
//!
//! - an entry that is freed gets [`ConnectionState::Free`] before any other word changes;
//! - an entry that is used gets its state, and a number one higher than before, after all other words are there.
//!
//! So a reader that finds the same number in the life word before and after the other words has seen one connection,
//! unless 65,536 connections used the entry meanwhile. Stores are Release and the reader's loads Acquire: who sees a word
//! of the next connection also sees that the life word has changed. On x86-64 both are plain moves. A packet's update is one
//! store of the life word, so that state and expiry are always of the same packet.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use zerocopy::TryFromBytes;

use super::key::{FlowKey, Ipv6Pair};
use super::state::ConnectionState;
use crate::atomic::AtomicU64;
use crate::clock::Ticks;
use crate::snapshot::InterfaceId;

/// No template.
const NOTHING: u32 = u32::MAX;

/// What is known of a connection beside its state; a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFlags(pub u8);

impl ConnectionFlags {
    /// None.
    pub const NONE: ConnectionFlags = ConnectionFlags(0);
    /// First seen midway: it was forwarded without an entry before.
    pub const STATELESS_ADOPTED: ConnectionFlags = ConnectionFlags(1);
    /// Its addresses are translated (NAT, full NAT): it has companions.
    pub const TRANSLATED: ConnectionFlags = ConnectionFlags(2);
    /// A companion of a translated connection.
    pub const COMPANION: ConnectionFlags = ConnectionFlags(4);
    /// No packet of it was seen from the real server (IPVS: `NOOUTPUT`).
    pub const NO_OUTPUT: ConnectionFlags = ConnectionFlags(8);
    /// The translation looks into the packets: FTP's control connection, or a PROXY protocol header.
    pub const HELPED: ConnectionFlags = ConnectionFlags(16);
    /// Of a one-packet service: it lasts for the answer only, whatever comes.
    pub const ONE_PACKET: ConnectionFlags = ConnectionFlags(32);

    /// All of `other` are among these.
    #[inline(always)]
    pub const fn contains(self, other: ConnectionFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Any of `other` is among these.
    #[inline(always)]
    pub const fn intersects(self, other: ConnectionFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// These without `other`.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, other: ConnectionFlags) -> ConnectionFlags {
        ConnectionFlags(self.0 & !other.0)
    }

    /// These and `other`.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, other: ConnectionFlags) -> ConnectionFlags {
        ConnectionFlags(self.0 | other.0)
    }
}

/// Where frames of a connection's client come from, and so where its replies go: MAC address and interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastHop {
    /// Source MAC of the client's frames.
    pub mac: [u8; 6],
    /// The interface that they come in on.
    pub interface: InterfaceId,
}

/// Set in the word of a last hop, so that an extension never looks like the entry of a [`FlowKey`], whose last byte is 0.
const IS_LAST_HOP: u16 = 0x8000;

impl LastHop {
    pub(super) fn word(self) -> u64 {
        let ([a, b, c, d, e, f], [low, high]) = (self.mac, (self.interface.0 | IS_LAST_HOP).to_le_bytes());
        u64::from_le_bytes([a, b, c, d, e, f, low, high])
    }

    pub(super) fn from_word(word: u64) -> LastHop {
        let [a, b, c, d, e, f, low, high] = word.to_le_bytes();
        LastHop {
            mac: [a, b, c, d, e, f],
            interface: InterfaceId(u16::from_le_bytes([low, high]) & !IS_LAST_HOP),
        }
    }
}

/// A connection, copied out of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// What names it.
    pub key: FlowKey,
    /// Its addresses, where it is one of IPv6 (left out on the way of a packet that changes nothing).
    pub pair: Ipv6Pair,
    /// Its state; never [`ConnectionState::Free`].
    pub state: ConnectionState,
    /// What else is known of it.
    pub flags: ConnectionFlags,
    /// When it is gone unless a packet comes.
    pub expires: Ticks,
    /// Destination slot of its real server.
    pub destination: u32,
    /// The persistence template that controls it, below `u32::MAX`; of a translated one the reply, whose extension has the
    /// template ([`super::ConnectionTable::template`]).
    pub link: Option<u32>,
}

/// What a packet that changes nothing needs of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: ConnectionState,
    /// What else is known of it.
    pub flags: ConnectionFlags,
    /// When it is gone unless a packet comes.
    pub expires: Ticks,
    /// Destination slot of its real server.
    pub destination: u32,
}

/// An entry, used or free. All zeros is a free one.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(32))]
pub(super) struct Entry {
    addresses: AtomicU64,
    ports: AtomicU64,
    life: AtomicU64,
    place: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() == 32);
const _: () = assert!(size_of::<ConnectionState>() == 1);

const FLAGS_SHIFT: u32 = 8;
const NUMBER_SHIFT: u32 = 16;
const EXPIRES_SHIFT: u32 = 32;
const NUMBER: u64 = 0xffff << NUMBER_SHIFT;
/// What a packet does not change in the life word.
const LASTING: u64 = NUMBER | 0xff << FLAGS_SHIFT;

impl Entry {
    /// It holds the connection of `key`. A free entry has [`FlowKey::EMPTY`], which no packet has: nobody's address
    /// is 0.0.0.0.
    #[inline(always)]
    pub(super) fn is(&self, key: &FlowKey) -> bool {
        let [addresses, ports] = key.words();
        self.addresses.load(Relaxed) == addresses && self.ports.load(Relaxed) == ports
    }

    /// What names its connection.
    #[inline(always)]
    pub(super) fn key(&self) -> FlowKey {
        FlowKey::from_words([self.addresses.load(Relaxed), self.ports.load(Relaxed)])
    }

    /// It holds a connection, which is over, or whose destination slot `is_left` says so of.
    #[inline(always)]
    pub(super) fn is_over(&self, now: Ticks, is_left: impl Fn(u32) -> bool) -> bool {
        let life = self.life.load(Relaxed);
        let is_companion = life & u64::from(ConnectionFlags::COMPANION.0) << FLAGS_SHIFT != 0;
        state(life) != ConnectionState::Free
            && !is_companion
            && (expires(life).is_past(now) || is_left(self.place.load(Relaxed) as u32))
    }

    /// Its connection, for the worker that writes it.
    #[inline(always)]
    pub(super) fn connection(&self) -> Connection {
        self.connection_of(self.key())
    }

    /// The little that every packet needs of it.
    #[inline(always)]
    pub(super) fn standing(&self) -> Standing {
        let life = self.life.load(Relaxed);
        let destination = self.slot();
        Standing { state: state(life), flags: flags(life), expires: expires(life), destination }
    }

    /// The same where the key is known: the compiler does not leave out a relaxed load that nobody needs.
    #[inline(always)]
    pub(super) fn connection_of(&self, key: FlowKey) -> Connection {
        connection(key, self.life.load(Relaxed), self.place.load(Relaxed))
    }

    /// Its connection, for any thread, and what `also` reads of the same one. None where it holds none, or where it changes
    /// hands during the call. A companion is none.
    pub(super) fn copy<T>(&self, also: impl FnOnce(&Connection) -> T) -> Option<(Connection, T)> {
        let before = self.life.load(Acquire);
        let is_companion = flags(before).contains(ConnectionFlags::COMPANION);
        if state(before) == ConnectionState::Free || is_companion {
            return None;
        }
        let key = FlowKey::from_words([self.addresses.load(Acquire), self.ports.load(Acquire)]);
        let place = self.place.load(Acquire);
        let also = also(&connection(key, before, place));
        let after = self.life.load(Relaxed);
        let is_same = state(after) != ConnectionState::Free && (before ^ after) & NUMBER == 0;
        is_same.then(|| (connection(key, after, place), also))
    }

    /// What follows the slot in the place word: a template or a companion.
    #[inline(always)]
    pub(super) fn link(&self) -> Option<u32> {
        let link = (self.place.load(Relaxed) >> 32) as u32;
        (link != NOTHING).then_some(link)
    }

    /// What the place word has where a connection has its slot.
    #[inline(always)]
    pub(super) fn slot(&self) -> u32 {
        self.place.load(Relaxed) as u32
    }

    /// The first two words, of an extension.
    #[inline(always)]
    pub(super) fn words(&self) -> [u64; 2] {
        [self.addresses.load(Relaxed), self.ports.load(Relaxed)]
    }

    /// Replaces them.
    #[inline(always)]
    pub(super) fn set_words(&self, [first, second]: [u64; 2]) {
        self.addresses.store(first, Release);
        self.ports.store(second, Release);
    }

    /// Sets flags, and clears others.
    pub(super) fn change_flags(&self, set: ConnectionFlags, clear: ConnectionFlags) {
        let life = self.life.load(Relaxed);
        let flags = u64::from(flags(life).without(clear).with(set).0) << FLAGS_SHIFT;
        self.life.store(life & !(0xff << FLAGS_SHIFT) | flags, Release);
    }

    /// Puts a connection into this free entry.
    pub(super) fn occupy(&self, connection: &Connection) {
        let [addresses, ports] = connection.key.words();
        self.set_place(connection.destination, connection.link.unwrap_or(NOTHING));
        self.addresses.store(addresses, Release);
        self.ports.store(ports, Release);
        let number = self.life.load(Relaxed).wrapping_add(1 << NUMBER_SHIFT) & NUMBER;
        let flags = u64::from(connection.flags.0) << FLAGS_SHIFT;
        self.life.store(life(number | flags, connection.state, connection.expires), Release);
    }

    /// Frees it; `next` is the next free entry.
    pub(super) fn free(&self, next: Option<NonZeroU32>) {
        let number = self.life.load(Relaxed) & NUMBER;
        self.life.store(life(number, ConnectionState::Free, Ticks::default()), Release);
        let [addresses, ports] = FlowKey::EMPTY.words();
        self.addresses.store(addresses, Release);
        self.ports.store(ports, Release);
        self.set_place(0, next.map_or(0, NonZeroU32::get));
    }

    /// Moves the connection's state and its expiry.
    #[inline(always)]
    pub(super) fn update(&self, state: ConnectionState, expires: Ticks) {
        let lasting = self.life.load(Relaxed) & LASTING;
        self.life.store(life(lasting, state, expires), Release);
    }

    /// The next free entry, in a free one.
    pub(super) fn next_free(&self) -> Option<NonZeroU32> {
        NonZeroU32::new((self.place.load(Relaxed) >> 32) as u32)
    }

    pub(super) fn set_place(&self, destination: u32, link: u32) {
        self.place.store(u64::from(destination) | u64::from(link) << 32, Release);
    }
}

#[inline(always)]
fn life(lasting: u64, state: ConnectionState, expires: Ticks) -> u64 {
    u64::from(expires.0) << EXPIRES_SHIFT | lasting | state as u64
}

#[inline(always)]
fn expires(life: u64) -> Ticks {
    Ticks((life >> EXPIRES_SHIFT) as u32)
}

#[inline(always)]
fn flags(life: u64) -> ConnectionFlags {
    ConnectionFlags((life >> FLAGS_SHIFT) as u8)
}

/// A byte that is no state was never stored; it reads as [`ConnectionState::Free`].
#[inline(always)]
fn state(life: u64) -> ConnectionState {
    ConnectionState::try_read_from_bytes(&[life as u8]).unwrap_or_default()
}

#[inline(always)]
fn connection(key: FlowKey, life: u64, place: u64) -> Connection {
    let link = (place >> 32) as u32;
    Connection {
        key,
        pair: Ipv6Pair::NONE,
        state: state(life),
        flags: flags(life),
        expires: expires(life),
        destination: place as u32,
        link: (link != NOTHING).then_some(link),
    }
}
