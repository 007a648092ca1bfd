//! Destination slots: the numbers by which connections, counters and snapshots name a real server of a service.
//!
//! Control thread only. A slot goes to another real server only when no worker can still mean the old one: every
//! worker runs a snapshot in which the slot is marked removed, and no connection and no persistence template names it.
//! Re-adding the same real server before that takes its slot back with both, as IPVS takes a destination out of its trash.
//!
//! Invariant: `removed` holds exactly the slots in state `Removed`, `vacant` exactly those in state `Vacant`,
//! `by_owner` exactly the rest and the removed.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ctl::config::{Forwarding, RealServerId, ServiceId};
use ctl::protocol::TrafficCounters;
use dataplane::counters::WorkerCounters;
use dataplane::path_mtus::PathMtus;
use dataplane::persistence::TemplateTable;
use dataplane::snapshot::SharedCounts;
use scheduler::{ConnectionCounts, Thresholds};

use crate::traffic;

/// A real server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The service.
    pub service: ServiceId,
    /// What names it there.
    pub real_server: RealServerId,
}

/// Tells a service from one of the same name that was removed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Instance(pub u64);

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Vacant,
    /// A configured real server.
    Configured,
    /// One that was removed in this generation.
    Removed {
        /// First generation without it.
        generation: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    usage: Use,
    /// The last one, where vacant.
    owner: Option<Owner>,
    instance: Instance,
    /// What the workers' counters stood at when the slot was given to this owner: they are never reset, for only
    /// their worker may write them.
    baseline: TrafficCounters,
    /// What of the owner's traffic is not shown since it was zeroed.
    zeroed: TrafficCounters,
    thresholds: Thresholds,
    /// Of the owner, the last one where vacant.
    forwarding: Forwarding,
    /// How often it was given away.
    incarnation: u16,
    /// Some of the owner's connections may be translated.
    has_translated: bool,
}

/// A slot that became vacant, and what had been sent through it for its last owner.
#[derive(Clone, Copy, Debug)]
pub struct Retired {
    /// Whose it was.
    pub owner: Owner,
    /// Of which service.
    pub instance: Instance,
    /// All that went through it.
    pub traffic: TrafficCounters,
}

/// All slots.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    vacant: BTreeSet<u32>,
    removed: BTreeSet<u32>,
    by_owner: HashMap<Owner, u32>,
    counts: SharedCounts,
    templates: Arc<TemplateTable>,
    counters: Vec<Arc<WorkerCounters>>,
    path_mtus: Arc<PathMtus>,
}

impl Slots {
    /// As many vacant slots as `counts`, `templates`, `path_mtus` and each of `counters` have.
    pub fn new(
        counts: SharedCounts,
        templates: Arc<TemplateTable>,
        counters: Vec<Arc<WorkerCounters>>,
        path_mtus: Arc<PathMtus>,
    ) -> Self {
        let slot = Slot {
            usage: Use::Vacant,
            owner: None,
            instance: Instance(0),
            baseline: TrafficCounters::default(),
            zeroed: TrafficCounters::default(),
            thresholds: Thresholds::default(),
            forwarding: Forwarding::default(),
            incarnation: 0,
            has_translated: false,
        };
        let capacity = u32::try_from(counts.len()).expect("validation bounds the capacity");
        Slots {
            slots: vec![slot; counts.len()],
            vacant: (0..capacity).collect(),
            removed: BTreeSet::new(),
            by_owner: HashMap::new(),
            counts,
            templates,
            counters,
            path_mtus,
        }
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots that can be given away.
    pub fn vacant(&self) -> usize {
        self.vacant.len()
    }

    /// Slots of removed real servers.
    pub fn removed(&self) -> usize {
        self.removed.len()
    }

    /// `owner` has a slot, whether configured or removed.
    pub fn holds(&self, owner: Owner) -> bool {
        self.by_owner.contains_key(&owner)
    }

    /// Gives `owner` its slot: the one that it had where that is not gone yet, or the lowest vacant one. None where
    /// all are used.
    pub fn take(&mut self, owner: Owner, instance: Instance) -> Option<u32> {
        if let Some(&number) = self.by_owner.get(&owner) {
            let is_same_service = self.slots[number as usize].instance == instance;
            let baseline = if is_same_service { None } else { Some(self.counted(number)) };
            let slot = &mut self.slots[number as usize];
            slot.usage = Use::Configured;
            slot.instance = instance;
            // As IPVS: statistics go on where the service is the same, and start again for a new one.
            if let Some(baseline) = baseline {
                (slot.baseline, slot.zeroed) = (baseline, TrafficCounters::default());
            }
            self.removed.remove(&number);
            return Some(number);
        }
        let number = self.vacant.pop_first()?;
        let baseline = self.counted(number);
        let slot = &mut self.slots[number as usize];
        (slot.usage, slot.owner, slot.instance) = (Use::Configured, Some(owner), instance);
        (slot.baseline, slot.zeroed) = (baseline, TrafficCounters::default());
        slot.has_translated = false;
        slot.incarnation = slot.incarnation.wrapping_add(1);
        self.by_owner.insert(owner, number);
        self.path_mtus.forget(number);
        Some(number)
    }

    /// The real server of slot `number` is not configured from `generation` on. Its thresholds stay while its connections
    /// do: one that comes back overloaded is so until its connections are few enough, as in IPVS.
    pub fn remove(&mut self, number: u32, generation: u64) {
        self.slots[number as usize].usage = Use::Removed { generation };
        self.removed.insert(number);
    }

    /// The real server of slot `number` has these thresholds from now on.
    pub fn set_thresholds(&mut self, number: u32, thresholds: Thresholds) {
        let slot = &mut self.slots[number as usize];
        if slot.thresholds != thresholds {
            slot.thresholds = thresholds;
            self.counts[number as usize].set_thresholds(thresholds);
        }
    }

    /// Packets reach the real server of slot `number` like this from now on.
    pub fn set_forwarding(&mut self, number: u32, forwarding: Forwarding) {
        let slot = &mut self.slots[number as usize];
        slot.forwarding = forwarding;
        slot.has_translated |= forwarding.is_nat();
    }

    /// How often slot `number` was given away.
    pub fn incarnation(&self, number: u32) -> u16 {
        self.slots[number as usize].incarnation
    }

    /// Addresses of all real servers, removed ones too, of whose connections some may be translated.
    pub fn translated(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let owners = self.by_owner.iter().filter(|(_, number)| self.slots[**number as usize].has_translated);
        owners.map(|(owner, _)| owner.real_server.address)
    }

    /// Makes vacant what nobody can mean any more, given the oldest generation that a worker runs.
    pub fn collect(&mut self, oldest_running: u64) -> Vec<Retired> {
        let gone: Vec<u32> =
            self.removed.iter().copied().filter(|&number| self.is_gone(number, oldest_running)).collect();
        gone.into_iter().filter_map(|number| self.vacate(number)).collect()
    }

    /// The generation is looked at first: once every worker runs it, neither connection nor template is opened to the
    /// slot any more, so counts of zero stay zero.
    fn is_gone(&self, number: u32, oldest_running: u64) -> bool {
        let Use::Removed { generation } = self.slots[number as usize].usage else { return false };
        let counts = &self.counts[number as usize];
        oldest_running >= generation && counts.load().total() == 0 && self.templates(number) == 0
    }

    fn vacate(&mut self, number: u32) -> Option<Retired> {
        let traffic = self.traffic(number);
        self.set_thresholds(number, Thresholds::default());
        let slot = &mut self.slots[number as usize];
        slot.usage = Use::Vacant;
        self.removed.remove(&number);
        self.vacant.insert(number);
        let owner = slot.owner?;
        self.by_owner.remove(&owner);
        Some(Retired { owner, instance: slot.instance, traffic })
    }

    /// The connection counts of slot `number`.
    pub fn counts(&self, number: u32) -> &Arc<ConnectionCounts> {
        &self.counts[number as usize]
    }

    /// Persistence templates that name slot `number`.
    pub fn templates(&self, number: u32) -> u32 {
        self.templates.count(number)
    }

    /// What went to the owner of slot `number`, over all workers.
    pub fn traffic(&self, number: u32) -> TrafficCounters {
        traffic::difference(self.counted(number), self.slots[number as usize].baseline)
    }

    /// The same since it was zeroed.
    pub fn traffic_since_zeroed(&self, number: u32) -> TrafficCounters {
        traffic::difference(self.traffic(number), self.slots[number as usize].zeroed)
    }

    /// What people see of slot `number`'s traffic starts at 0 again.
    pub fn zero(&mut self, number: u32) {
        self.slots[number as usize].zeroed = self.traffic(number);
    }

    fn counted(&self, number: u32) -> TrafficCounters {
        let mut sum = TrafficCounters::default();
        for worker in &self.counters {
            let counters = &worker.destinations[number as usize];
            sum.connections = sum.connections.wrapping_add(counters.connections.load());
            sum.packets = sum.packets.wrapping_add(counters.packets.load());
            sum.bytes = sum.bytes.wrapping_add(counters.bytes.load());
            sum.reply_packets = sum.reply_packets.wrapping_add(counters.replies.load());
            sum.reply_bytes = sum.reply_bytes.wrapping_add(counters.reply_bytes.load());
        }
        sum
    }

    /// The real server that slot `number` leads to, or led to last.
    pub fn owner(&self, number: u32) -> Option<Owner> {
        self.slots.get(number as usize)?.owner
    }

    /// The real server whose traffic slot `number` counts, configured or removed; none where the slot is vacant.
    pub fn user(&self, number: u32) -> Option<(Owner, Instance)> {
        let slot = self.slots.get(number as usize).filter(|slot| slot.usage != Use::Vacant)?;
        Some((slot.owner?, slot.instance))
    }

    /// Whom each slot leads to, or led to last: for who reads connections elsewhere.
    pub fn owners(&self) -> Vec<Option<Owner>> {
        self.slots.iter().map(|slot| slot.owner).collect()
    }

    /// How packets reach whom each slot leads to, or led to last.
    pub fn forwardings(&self) -> Vec<Forwarding> {
        self.slots.iter().map(|slot| slot.forwarding).collect()
    }

    /// Removed real servers: slot, owner and instance of its service.
    pub fn all_removed(&self) -> impl Iterator<Item = (u32, Owner, Instance)> + '_ {
        self.removed.iter().filter_map(|&number| {
            let slot = &self.slots[number as usize];
            slot.owner.map(|owner| (number, owner, slot.instance))
        })
    }

    /// One more than the highest slot that is not vacant.
    pub fn length(&self) -> usize {
        self.slots.iter().rposition(|slot| slot.usage != Use::Vacant).map_or(0, |last| last + 1)
    }
}

/// Vacant slots of one worker, its counters, and the templates.
#[cfg(test)]
pub(crate) fn vacant_slots(capacity: usize) -> (Slots, Arc<WorkerCounters>, Arc<TemplateTable>) {
    use dataplane::dpdk::region::Pages;
    use dataplane::persistence::TemplateLimits;

    let limits =
        TemplateLimits { capacity: 64, destinations: capacity as u32, keeps_call_ids: false, has_ipv6: true };
    let templates = TemplateTable::new(&limits, Pages::Ordinary).expect("memory for a test");
    let counters = WorkerCounters::new(capacity);
    let counts = dataplane::snapshot::shared_counts(capacity);
    (
        Slots::new(counts, templates.clone(), vec![counters.clone()], PathMtus::new(capacity)),
        counters,
        templates,
    )
}

/// A persistent client of its own for `slot`.
#[cfg(test)]
pub(crate) fn open_template(
    templates: &TemplateTable,
    client: u8,
    slot: u32,
) -> dataplane::persistence::TemplateId {
    use dataplane::clock::Ticks;
    use dataplane::persistence::TemplateKey;

    let key = TemplateKey::for_group([198, 51, 100, client], u32::MAX, 7);
    templates.open(&key, Ticks(0), 1 << 20, slot, b"").expect("room for a test").id
}

/// The end of one.
#[cfg(test)]
pub(crate) fn close_template(templates: &TemplateTable, id: dataplane::persistence::TemplateId) {
    templates.invalidate(id);
    templates.release(id, dataplane::clock::Ticks(0));
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ctl::config::Protocol;

    use super::*;

    fn owner(host: u8) -> Owner {
        let service = ServiceId::new(Protocol::Tcp, Ipv4Addr::new(192, 0, 2, 10), 80);
        Owner { service, real_server: RealServerId::new(Ipv4Addr::new(10, 0, 0, host)) }
    }

    fn slots(capacity: usize) -> (Slots, Arc<WorkerCounters>) {
        let (slots, counters, _) = vacant_slots(capacity);
        (slots, counters)
    }

    #[test]
    fn removed_slot_waits_for_every_worker_and_for_its_last_connection() {
        let (mut slots, _) = slots(2);
        let slot = slots.take(owner(1), Instance(1)).unwrap();
        slots.counts(slot).open();
        slots.remove(slot, 5);
        assert!(slots.collect(4).is_empty(), "a worker may still open connections");
        assert!(slots.collect(5).is_empty(), "one connection is left");
        assert_eq!(slots.take(owner(2), Instance(1)), Some(1), "another one does not get it");
        assert_eq!(slots.take(owner(3), Instance(1)), None);
        slots.counts(slot).close(false);
        assert!(slots.collect(4).is_empty(), "generation 5 does not run everywhere");
        assert_eq!(slots.collect(5).len(), 1);
        assert_eq!(slots.owner(slot), Some(owner(1)), "still told to a listing");
        assert_eq!(slots.take(owner(3), Instance(1)), Some(slot));
    }

    #[test]
    fn removed_slot_waits_for_its_last_template_and_keeps_its_thresholds_until_then() {
        let (mut slots, _, templates) = vacant_slots(1);
        let slot = slots.take(owner(1), Instance(1)).unwrap();
        slots.set_thresholds(slot, Thresholds { upper: 1, lower: 0 });
        let template = open_template(&templates, 1, slot);
        slots.counts(slot).open();
        assert!(slots.counts(slot).is_overloaded());
        slots.remove(slot, 2);
        assert!(slots.counts(slot).is_overloaded(), "it may come back");
        slots.counts(slot).close(false);
        assert!(slots.collect(2).is_empty(), "a template is left");
        close_template(&templates, template);
        assert_eq!(slots.collect(2).len(), 1);
        slots.take(owner(2), Instance(1)).unwrap();
        slots.counts(slot).open();
        assert!(!slots.counts(slot).is_overloaded(), "another one's threshold");
    }

    #[test]
    fn zeroed_counters_are_zero_for_people_and_go_on_for_prometheus() {
        let (mut slots, counters) = slots(1);
        let slot = slots.take(owner(1), Instance(1)).unwrap();
        counters.destinations[0].packets.add(5);
        slots.zero(slot);
        counters.destinations[0].packets.add(2);
        assert_eq!((slots.traffic(slot).packets, slots.traffic_since_zeroed(slot).packets), (7, 2));
        slots.remove(slot, 2);
        slots.collect(2);
        slots.take(owner(2), Instance(1)).unwrap();
        assert_eq!(slots.traffic_since_zeroed(slot).packets, 0);
    }

    #[test]
    fn same_real_server_takes_its_slot_back_with_its_connections() {
        let (mut slots, counters) = slots(4);
        slots.take(owner(1), Instance(1)).unwrap();
        let slot = slots.take(owner(2), Instance(1)).unwrap();
        slots.counts(slot).open();
        counters.destinations[slot as usize].packets.add(7);
        slots.remove(slot, 2);
        assert_eq!(slots.take(owner(2), Instance(1)), Some(slot));
        assert_eq!(slots.traffic(slot).packets, 7);
        assert_eq!(slots.counts(slot).load().total(), 1);
        assert!(slots.collect(u64::MAX).is_empty());
        slots.remove(slot, 3);
        assert_eq!(slots.take(owner(2), Instance(2)), Some(slot));
        assert_eq!(slots.traffic(slot).packets, 0, "a new service starts counting again");
    }

    #[test]
    fn counters_start_at_zero_for_each_owner_though_never_reset() {
        let (mut slots, counters) = slots(1);
        let slot = slots.take(owner(1), Instance(1)).unwrap();
        counters.destinations[0].bytes.add(1000);
        slots.remove(slot, 2);
        let retired = slots.collect(2);
        assert_eq!(retired[0].traffic.bytes, 1000);
        slots.take(owner(2), Instance(1)).unwrap();
        assert_eq!(slots.traffic(0), TrafficCounters::default());
        counters.destinations[0].bytes.add(1);
        assert_eq!(slots.traffic(0).bytes, 1);
        assert_eq!(slots.length(), 1);
    }
}
