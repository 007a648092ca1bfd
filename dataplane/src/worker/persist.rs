//! A service whose clients stay with their real server: the client's template decides before the scheduler does
//! (`ip_vs_sched_persist`).

use std::net::{IpAddr, Ipv6Addr};

use super::open::Opening;
use super::{Packet, lookup};
use crate::clock::TICKS_PER_SECOND;
use crate::connection::key::in_ipv6;
use crate::packet::sip;
use crate::packet::udp::UdpHeader;
use crate::persistence::{TemplateKey, TemplateTableFull};
use crate::snapshot::{DestinationState, Persistence, PersistenceScope, PersistentClient, Protocol};
use crate::stateless;
use crate::verdict::{DropReason, StatelessReason};

impl Opening<'_> {
    /// A service whose clients stay. A template counts wherever its real server may still be used, whatever the thresholds
    /// say. Where no connection may be made it is followed and re-armed all the same. Where there is no room for a template
    /// the client goes where the ring says, again and again, and so stays too.
    pub(super) fn persist(&mut self, persistence: &Persistence) -> Result<u32, DropReason> {
        let call_id = match persistence.client {
            PersistentClient::Address => &[][..],
            PersistentClient::CallId => call_id_of(self.frame, self.packet).ok_or(DropReason::BadSip)?,
        };
        let mut key = self.template_key(persistence);
        if persistence.client == PersistentClient::CallId {
            key = key.with_call_id(self.templates.hash_call_id(call_id));
            // Two words in the place of one: client and Call-ID decide together. The ring's hash has no secret: every
            // director sends a dialogue to the same real server.
            let call_id = u128::from(fnv1a(call_id)) << 32;
            let network = match key.client_network() {
                IpAddr::V4(network) => u128::from(network.to_bits()),
                IpAddr::V6(network) => network.to_bits().rotate_left(64),
            };
            self.ring_client = IpAddr::V6(Ipv6Addr::from_bits(network ^ call_id));
        }
        let is_one_packet = self.is_one_packet();
        let room = if is_one_packet { Ok(()) } else { self.room() };
        if let Some(template) = self.templates.hold(&key, self.now, self.template_ticks(persistence, room)) {
            let stays = self.may_stay_with(template.destination);
            if let (true, Ok(())) = (stays, room) {
                return self.connect(template.destination, Some(template.id));
            }
            if !stays {
                self.templates.invalidate(template.id);
            }
            self.templates.release(template.id, self.now);
            if let (true, Err(reason)) = (stays, room) {
                return self.without_state(template.destination, reason);
            }
        }
        if let Err(reason) = room.and_then(|()| self.threshold()) {
            return self.by_ring(reason);
        }
        // A one-packet service's template is all that it makes.
        if is_one_packet && !self.is_allowed() {
            return self.by_ring(StatelessReason::CreationRate);
        }
        let slot = self.pick()?;
        self.way_to(slot)?;
        if self.is_off_ring(slot) {
            self.counters.untemplated.add(1);
            return self.connect(slot, None);
        }
        match self.templates.open(&key, self.now, persistence.timeout_ticks, slot, call_id) {
            // Another worker may have been faster: then the client goes where that one says.
            Ok(template) => {
                if is_one_packet && template.is_new {
                    self.admission.spend();
                }
                self.connect(template.destination, Some(template.id))
            }
            Err(TemplateTableFull) => self.without_template(&key, slot),
        }
    }

    /// Where the template leads that the client has with its address alone, which stays as it is. None where it may not stay
    /// there.
    pub(super) fn templated(&self) -> Option<u32> {
        let persistence = self.service.persistence.as_ref()?;
        if persistence.client != PersistentClient::Address {
            return None;
        }
        let template = self.templates.find(&self.template_key(persistence), self.now)?;
        Some(template.destination).filter(|&slot| self.may_stay_with(slot))
    }

    /// A template that is followed without state has to last as long as the connection may be silent.
    fn template_ticks(&self, persistence: &Persistence, room: Result<(), StatelessReason>) -> u32 {
        let timeouts = lookup::timeouts_of(self.snapshot, self.service.timeouts);
        let silence = || stateless::longest_silence_seconds(timeouts).saturating_mul(TICKS_PER_SECOND);
        match room {
            Ok(()) => persistence.timeout_ticks,
            Err(_) => persistence.timeout_ticks.max(silence()),
        }
    }

    /// The client's connections without state, if it has such, go by the ring elsewhere: a template to this real server
    /// would take them along.
    fn is_off_ring(&self, slot: u32) -> bool {
        self.follows_stateless() && self.slot_of(self.on_ring()) != Ok(slot)
    }

    /// There is no room for a template, or it controls as many connections as it can: one that there is leads, else the ring
    /// does, so that the client's next connection finds the same real server; `slot` where that is over its threshold.
    fn without_template(&mut self, key: &TemplateKey, slot: u32) -> Result<u32, DropReason> {
        let known = self.templates.find(key, self.now).map(|template| template.destination);
        let on_ring = || self.on_ring().filter(|&index| self.takes_new(index));
        let slot = match known.filter(|&slot| self.may_stay_with(slot)) {
            Some(known) => known,
            None => on_ring().map_or(Ok(slot), |index| self.slot_of(Some(index)))?,
        };
        self.service.stateless.opened_without_template(self.now_seconds);
        self.counters.untemplated.add(1);
        self.connect(slot, None)
    }

    /// A client that was on this real server may stay there with its new connection (`ip_vs_check_template`).
    fn may_stay_with(&self, slot: u32) -> bool {
        self.snapshot.destinations.get(slot as usize).is_some_and(|destination| {
            let is_there =
                matches!(destination.state, DestinationState::Forwarding | DestinationState::Unresolved);
            is_there && !destination.refuses_persistent
        })
    }

    fn template_key(&self, persistence: &Persistence) -> TemplateKey {
        let (seed, mask, tuple) = (self.templates.seed(), persistence.netmask, &self.tuple);
        let (vip, protocol) = (tuple.service.address, tuple.service.protocol);
        match (tuple.client, vip, persistence.scope) {
            (IpAddr::V4(client), IpAddr::V4(vip), PersistenceScope::Virtual { port }) => {
                TemplateKey::for_client(client.octets(), mask as u32, vip, port, protocol)
            }
            (IpAddr::V4(client), _, PersistenceScope::Group(number)) => {
                TemplateKey::for_group(client.octets(), mask as u32, number)
            }
            (client, vip, PersistenceScope::Virtual { port }) => {
                let (client, vip) = (in_ipv6(client), in_ipv6(vip));
                TemplateKey::for_ipv6_client(seed, client, mask, vip, port, protocol)
            }
            (client, _, PersistenceScope::Group(number)) => {
                TemplateKey::for_ipv6_group(seed, in_ipv6(client), mask, number)
            }
        }
    }
}

/// FNV-1a, 32 bits.
fn fnv1a(text: &[u8]) -> u32 {
    text.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The Call-ID in a frame that was parsed; none in one that is not UDP. The frame may hold the beginning of the datagram only:
/// a first fragment, a first segment.
fn call_id_of<'a>(frame: &'a [u8], packet: &Packet) -> Option<&'a [u8]> {
    let end = usize::from(packet.ip_offset) + usize::from(packet.ip_length);
    let datagram = frame.get(..end).unwrap_or(frame).get(usize::from(packet.transport_offset)..)?;
    let udp = UdpHeader::read_of(datagram, usize::from(u16::MAX))?;
    let length = usize::from(udp.length.get()).min(datagram.len());
    let message = datagram.get(size_of::<UdpHeader>()..length);
    sip::call_id(message.filter(|_| packet.key.protocol() == Protocol::UDP)?)
}
