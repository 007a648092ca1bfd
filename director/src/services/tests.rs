use std::sync::Arc;
use std::time::Duration;

use ctl::config::Config;
use dataplane::counters::WorkerCounters;
use dataplane::snapshot::{SharedCounts, shared_counts};

use super::*;
use crate::topology::two_ports;

const CAPACITY: usize = 4;

/// Services over two ports, one worker that follows at once.
struct Rig {
    services: Services,
    neighbours: Neighbours,
    topology: Topology,
    counts: SharedCounts,
    counters: Arc<WorkerCounters>,
    generation: u64,
}

impl Rig {
    fn new(services: &str) -> Rig {
        let counts = shared_counts(CAPACITY);
        let counters = WorkerCounters::new(CAPACITY);
        let slots = Slots::new(counts.clone(), vec![counters.clone()]);
        let mut rig = Rig {
            services: Services::new(slots),
            neighbours: Neighbours::default(),
            topology: two_ports(),
            counts,
            counters,
            generation: 0,
        };
        rig.change(services).unwrap();
        rig
    }

    /// `tcp 80 rr: 11, 12*2, 13=` is the VIP 192.0.2.10 with real servers 10.0.0.11 and so on; `*` gives a weight,
    /// `=` leaves the MAC to ARP.
    fn change(&mut self, services: &str) -> Result<Snapshot, ErrorReply> {
        let candidate = parse(services);
        self.services.collect(self.generation);
        self.services.check_room(&candidate)?;
        self.generation += 1;
        self.services.adopt(candidate, self.generation);
        self.neighbours.retain_wanted(self.services.wanted_neighbours(&self.topology), Duration::ZERO);
        Ok(self.snapshot())
    }

    fn snapshot(&mut self) -> Snapshot {
        self.services.compile(&self.neighbours);
        self.services.snapshot(&self.topology, &self.neighbours)
    }

    fn slot(&self, host: u8) -> u32 {
        self.services.slot(parse("tcp 80 rr:")[0].id(), Ipv4Addr::new(10, 0, 0, host)).unwrap()
    }

    fn send(&self, slot: u32, packets: u64) {
        self.counters.destinations[slot as usize].packets.add(packets);
    }

    fn total(&self) -> u64 {
        self.services.traffic()[0].total.packets
    }
}

fn parse(services: &str) -> Vec<ServiceConfig> {
    let mut text = String::new();
    for line in services.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let (head, real_servers) = line.split_once(':').unwrap();
        let head: Vec<_> = head.split(' ').collect();
        text += &format!(
            "[[services]]\naddress = '192.0.2.10'\nprotocol = '{}'\nport = {}\nscheduler = '{}'\n",
            head[0], head[1], head[2]
        );
        for one in real_servers.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (name, by_arp) = one.strip_suffix('=').map_or((one, false), |name| (name, true));
            let (host, weight) = name.split_once('*').unwrap_or((name, "1"));
            text += &format!("[[services.real_servers]]\naddress = '10.0.0.{host}'\nweight = {weight}\n");
            text += &if by_arp { String::new() } else { format!("mac = '02:00:00:00:00:{host}'\n") };
        }
    }
    Config::from_toml(&text, "test").unwrap().services
}

fn picks(snapshot: &Snapshot, port: u16, count: usize) -> Vec<u32> {
    let key =
        ServiceKey { address: Ipv4Addr::new(192, 0, 2, 10), port, protocol: snapshot::Protocol::TCP };
    let service = &snapshot.services[&key];
    let pick =
        || service.scheduler.schedule(&service.real_servers).map(|index| service.real_servers[index].id);
    (0..count).filter_map(|_| pick()).collect()
}

#[test]
fn snapshot_holds_services_destinations_and_every_address_with_its_role() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12=");
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.destinations.len(), 2);
    let resolved = snapshot.destinations[rig.slot(11) as usize];
    assert_eq!(resolved.macs, [2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 1, 0]);
    assert_eq!((resolved.state, resolved.mtu, resolved.port.0), (DestinationState::Forwarding, 1500, 0));
    assert_eq!(snapshot.destinations[rig.slot(12) as usize].state, DestinationState::Unresolved);
    let role = |text: &str| snapshot.addresses.get(&text.parse::<Ipv4Addr>().unwrap()).copied();
    assert_eq!(role("192.0.2.10"), Some(AddressRole::Vip));
    assert_eq!(role("10.0.0.11"), Some(AddressRole::RealServer(dataplane::port::PortId(0))));
    assert_eq!(role("192.0.2.1"), Some(AddressRole::Dip(dataplane::port::PortId(1))));
    assert_eq!(role("10.0.0.13"), None);
    assert_eq!(snapshot.addresses.len(), 3 + 1 + 2);
    let slot = rig.slot(11);
    assert_eq!(picks(&snapshot, 80, 3), [slot; 3], "12 has no MAC");
}

#[test]
fn newest_real_server_comes_first_for_the_scheduler() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let snapshot = rig.change("tcp 80 rr: 11, 12, 13").unwrap();
    let key =
        ServiceKey { address: Ipv4Addr::new(192, 0, 2, 10), port: 80, protocol: snapshot::Protocol::TCP };
    let ids: Vec<_> =
        snapshot.services[&key].real_servers.iter().map(|real_server| real_server.id).collect();
    assert_eq!(ids, [rig.slot(13), rig.slot(12), rig.slot(11)]);
}

#[test]
fn untouched_service_keeps_its_cursor_through_changes_of_others() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12; tcp 81 wrr: 11");
    let before = rig.snapshot();
    let first = picks(&before, 80, 1);
    let after = rig.change("tcp 80 rr: 11, 12; tcp 81 wlc: 11*7, 12").unwrap();
    let second = picks(&after, 80, 1);
    assert_ne!(first, second, "round robin went on");
    assert_eq!(picks(&before, 80, 1), first, "a worker on the old snapshot shares the cursor");
}

#[test]
fn removed_real_server_holds_its_slot_and_comes_back_to_it() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let slot = rig.slot(12);
    rig.counts[slot as usize].open();
    let removed = rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(removed.destinations[slot as usize].state, DestinationState::Removed);
    assert_eq!(picks(&removed, 80, 4), [rig.slot(11); 4]);
    let others = rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    assert_eq!(others.destinations[slot as usize].state, DestinationState::Removed);
    let error = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap_err();
    assert_eq!(error.code, ErrorCode::Full);
    assert!(error.message.contains("1 are held by removed"), "{}", error.message);
    let back = rig.change("tcp 80 rr: 11, 13, 14, 12").unwrap();
    assert_eq!(rig.slot(12), slot);
    assert_eq!(back.destinations[slot as usize].state, DestinationState::Forwarding);
}

#[test]
fn slot_is_free_again_when_its_last_connection_is_gone() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let slot = rig.slot(12);
    rig.counts[slot as usize].open();
    rig.change("tcp 80 rr: 11").unwrap();
    rig.change("tcp 80 rr: 11, 13, 14").unwrap();
    rig.counts[slot as usize].close(false);
    let reused = rig.change("tcp 80 rr: 11, 13, 14, 15").unwrap();
    assert_eq!(rig.slot(15), slot);
    assert_eq!(reused.destinations[slot as usize].macs[5], 0x15);
}

#[test]
fn refused_change_changes_nothing() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12, 13, 14");
    let before = format!("{:?}", rig.snapshot().destinations);
    let configured = rig.services.configured().to_vec();
    assert!(rig.change("tcp 80 rr: 11, 12, 13, 14, 15; tcp 81 rr: 16").is_err());
    assert_eq!(format!("{:?}", rig.snapshot().destinations), before);
    assert_eq!(rig.services.configured(), configured);
    assert_eq!(rig.services.slots().vacant(), 0);
}

#[test]
fn service_total_never_goes_back_when_real_servers_come_and_go() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    rig.send(rig.slot(11), 10);
    let slot = rig.slot(12);
    rig.send(slot, 5);
    rig.counts[slot as usize].open();
    assert_eq!(rig.total(), 15);
    rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(rig.total(), 15, "12 is removed and has a connection");
    rig.counts[slot as usize].close(false);
    rig.services.collect(rig.generation);
    assert_eq!(rig.total(), 15, "12 is gone");
    rig.change("tcp 80 rr: 11, 13").unwrap();
    assert_eq!(rig.slot(13), slot);
    assert_eq!(rig.services.traffic()[0].real_servers[1].packets, 0, "13 starts at nothing");
    rig.send(slot, 2);
    assert_eq!(rig.total(), 17);
    rig.change("").unwrap();
    rig.change("tcp 80 rr: 11").unwrap();
    assert_eq!(rig.total(), 0, "a new service of the same name starts again");
}

#[test]
fn failed_neighbour_gets_no_new_connections_and_keeps_the_old() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12=");
    let address = Ipv4Addr::new(10, 0, 0, 12);
    let mac = [2, 0, 0, 0, 0, 0x12];
    rig.neighbours.hear(dataplane::port::PortId(0), address, mac, Duration::ZERO);
    let (slot, other) = (rig.slot(12), rig.slot(11));
    assert!(picks(&rig.snapshot(), 80, 2).contains(&slot));
    for second in 30..40 {
        rig.neighbours.poll(Duration::from_secs(second), |_| {});
    }
    let snapshot = rig.snapshot();
    assert_eq!(picks(&snapshot, 80, 2), [other; 2]);
    assert_eq!(snapshot.destinations[slot as usize].state, DestinationState::Forwarding);
    assert_eq!(snapshot.destinations[slot as usize].macs[..6], mac);
}

#[test]
fn draining_and_weight_zero_get_nothing_and_a_new_scheduler_starts_anew() {
    let mut rig = Rig::new("tcp 80 rr: 11, 12");
    let mut candidate = parse("tcp 80 rr: 11, 12");
    candidate[0].real_servers[0].drain = true;
    rig.services.adopt(candidate, 2);
    let (first, second) = (rig.slot(11), rig.slot(12));
    assert_eq!(picks(&rig.snapshot(), 80, 3), [second; 3]);
    let snapshot = rig.change("tcp 80 wrr: 11*2, 12*0").unwrap();
    assert_eq!(picks(&snapshot, 80, 3), [first; 3]);
}
