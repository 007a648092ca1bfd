//! Every metric of the director, each defined once, and their text.
//!
//! A scrape has two halves: [`Scrape::take`] copies numbers on the control thread, microseconds a hundred real
//! servers, and [`Scrape::to_text`] makes families and text of them on a thread of its own, so that a large one delays
//! no ARP answer. docs/METRICS.md is the page for people; a test compares the two.

use std::time::SystemTime;

use ctl::config::{ServiceId, VirtualAddress};
use ctl::protocol::{
    Filter, NeighbourState, Neighbours, RealServerState, RealServerView, Show, Stats, TrafficCounters,
    WorkerStats,
};
use dataplane::counters;
use dataplane::port::PoolUsage;
use dataplane::verdict::IcmpError;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

use crate::control::Control;
use crate::host_interface::HostInterfaceCounters;
use crate::neighbourhood::NeighbourhoodCounters;
use crate::services::Since;

macro_rules! metrics {
    ($($variant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Metric { $(#[doc = $help] $variant,)+ }

        impl Metric {
            /// All metrics, in the order in which they are exported.
            pub const ALL: &[Metric] = &[$(Metric::$variant,)+];

            /// Name, in Prometheus's conventions.
            pub fn name(self) -> &'static str {
                match self { $(Metric::$variant => $name,)+ }
            }

            /// Counter or gauge.
            pub fn kind(self) -> MetricType {
                match self { $(Metric::$variant => MetricType::$kind,)+ }
            }

            /// Names of its labels.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Metric::$variant => &[$($label),*],)+ }
            }

            /// One sentence.
            pub fn help(self) -> &'static str {
                match self { $(Metric::$variant => $help,)+ }
            }
        }
    };
}

metrics! {
    BuildInfo = GAUGE "dr_build_info" ["version", "dpdk"]
        "Always 1; the versions of dr-director and DPDK are labels.";
    StartTime = GAUGE "dr_start_time_seconds" []
        "When dr-director started, in seconds since 1970.";
    ConfigGeneration = GAUGE "dr_config_generation" []
        "Newest generation of what the workers run; rises with every change of the configuration and of a real server's MAC.";
    WorkerConfigGeneration = GAUGE "dr_worker_config_generation" ["worker"]
        "Generation of the configuration that the worker runs.";
    ServiceConnections = COUNTER "dr_service_connections_total" ["protocol", "vip", "port", "group"]
        "Connections scheduled, removed real servers included.";
    ServicePackets = COUNTER "dr_service_packets_total" ["protocol", "vip", "port", "group"]
        "Packets sent to real servers, removed ones included.";
    ServiceBytes = COUNTER "dr_service_bytes_total" ["protocol", "vip", "port", "group"]
        "Bytes of these packets, IP total length.";
    ServiceReplyPackets = COUNTER "dr_service_reply_packets_total" ["protocol", "vip", "port", "group"]
        "Packets of real servers, removed ones included, sent to clients (NAT and full NAT).";
    ServiceReplyBytes = COUNTER "dr_service_reply_bytes_total" ["protocol", "vip", "port", "group"]
        "Bytes of these packets, IP total length.";
    RealServerConnections = COUNTER "dr_real_server_connections_total" ["protocol", "vip", "port", "group", "real_server"]
        "Connections scheduled to the real server.";
    RealServerPackets = COUNTER "dr_real_server_packets_total" ["protocol", "vip", "port", "group", "real_server"]
        "Packets sent to the real server.";
    RealServerBytes = COUNTER "dr_real_server_bytes_total" ["protocol", "vip", "port", "group", "real_server"]
        "Bytes of these packets, IP total length.";
    RealServerReplyPackets = COUNTER "dr_real_server_reply_packets_total" ["protocol", "vip", "port", "group", "real_server"]
        "Packets of the real server sent to clients (NAT and full NAT).";
    RealServerReplyBytes = COUNTER "dr_real_server_reply_bytes_total" ["protocol", "vip", "port", "group", "real_server"]
        "Bytes of these packets, IP total length.";
    RealServerActive = GAUGE "dr_real_server_active_connections" ["protocol", "vip", "port", "group", "real_server"]
        "Connections that IPVS would call active.";
    RealServerInactive = GAUGE "dr_real_server_inactive_connections" ["protocol", "vip", "port", "group", "real_server"]
        "All other connections that the director remembers.";
    RealServerPersistent = GAUGE "dr_real_server_persistent_connections" ["protocol", "vip", "port", "group", "real_server"]
        "Persistence templates that name the real server: clients that stay with it.";
    RealServerWeight = GAUGE "dr_real_server_weight" ["protocol", "vip", "port", "group", "real_server"]
        "Configured weight.";
    RealServerUp = GAUGE "dr_real_server_up" ["protocol", "vip", "port", "group", "real_server"]
        "1 where it gets new connections; 0 where unresolved, draining, of weight 0 or overloaded.";
    RealServerOverloaded = GAUGE "dr_real_server_overloaded" ["protocol", "vip", "port", "group", "real_server"]
        "1 from its upper threshold on until it falls below the lower one.";
    RealServerUpperThreshold = GAUGE "dr_real_server_upper_threshold" ["protocol", "vip", "port", "group", "real_server"]
        "Connections from which on it gets no new ones; 0: no limit.";
    RealServerLowerThreshold = GAUGE "dr_real_server_lower_threshold" ["protocol", "vip", "port", "group", "real_server"]
        "Connections below which it gets new ones again; 0: three quarters of the upper threshold.";
    Templates = GAUGE "dr_persistence_templates" []
        "Persistent clients that are remembered.";
    TemplateCapacity = GAUGE "dr_persistence_template_capacity" []
        "Persistent clients that can be remembered.";
    WorkerReceived = COUNTER "dr_worker_received_packets_total" ["worker"]
        "Packets taken from RX queues.";
    WorkerForwarded = COUNTER "dr_worker_forwarded_packets_total" ["worker"]
        "Packets sent to a real server, or from one to a client.";
    WorkerPunted = COUNTER "dr_worker_punted_packets_total" ["worker"]
        "Packets handed to the control thread: ARP, neighbour discovery and ping.";
    WorkerToHost = COUNTER "dr_worker_to_host_packets_total" ["worker"]
        "Packets handed to a host interface.";
    WorkerHandedOver = COUNTER "dr_worker_handed_over_packets_total" ["worker"]
        "Packets handed to the worker whose connection they are of.";
    WorkerTakenOver = COUNTER "dr_worker_taken_over_packets_total" ["worker"]
        "Packets that other workers handed over, and which ended here like received ones.";
    WorkerOriginated = COUNTER "dr_worker_originated_packets_total" ["worker"]
        "Packets that the worker made itself and sent: ICMP errors, pieces of packets.";
    WorkerOriginatedNotSent = COUNTER "dr_worker_originated_not_sent_packets_total" ["worker"]
        "Packets that the worker made itself and a port refused.";
    WorkerIcmpErrors = COUNTER "dr_worker_icmp_errors_total" ["worker", "kind"]
        "ICMP errors among these that went to the senders of packets.";
    WorkerIcmpSuppressed = COUNTER "dr_worker_icmp_suppressed_total" ["worker", "kind"]
        "ICMP errors that were not made because more were due than may be sent in a second.";
    WorkerFragmentsHeld = GAUGE "dr_worker_fragments_held" ["worker"]
        "Fragments that wait for the first one of their packet.";
    WorkerFragmentedKnown = GAUGE "dr_worker_fragmented_packets" ["worker"]
        "Fragmented packets whose first fragment has come and whose others are waited for.";
    WorkerFragmentedLearned = COUNTER "dr_worker_fragmented_learned_packets_total" ["worker"]
        "First fragments that told where the others of their packets go.";
    WorkerHostSent = COUNTER "dr_worker_host_sent_packets_total" ["worker"]
        "Packets of the host that the worker sent.";
    WorkerHostNotSent = COUNTER "dr_worker_host_not_sent_packets_total" ["worker"]
        "Packets of the host that a port refused.";
    WorkerDropped = COUNTER "dr_worker_dropped_packets_total" ["worker", "reason"]
        "Packets dropped; every reason is exported, also at 0.";
    WorkerStateless = COUNTER "dr_worker_stateless_packets_total" ["worker", "reason"]
        "Packets among the forwarded for which no connection was kept; every reason is exported, also at 0.";
    WorkerAdopted = COUNTER "dr_worker_adopted_connections_total" ["worker"]
        "Connections among the opened whose first packets were forwarded without one.";
    WorkerUntemplated = COUNTER "dr_worker_untemplated_connections_total" ["worker"]
        "Connections of persistent clients that opened without a template: no room for one, or it would move what goes without state.";
    WorkerControlSent = COUNTER "dr_worker_control_sent_packets_total" ["worker"]
        "Packets of the control thread that the worker sent.";
    WorkerControlNotSent = COUNTER "dr_worker_control_not_sent_packets_total" ["worker"]
        "Packets of the control thread that a port refused.";
    WorkerConnections = GAUGE "dr_worker_connections" ["worker"]
        "Connections in the worker's table.";
    WorkerConnectionCapacity = GAUGE "dr_worker_connection_capacity" ["worker"]
        "Connections that the worker's table can hold.";
    WorkerConnectionsOpened = COUNTER "dr_worker_connections_opened_total" ["worker"]
        "Connections opened.";
    WorkerConnectionsExpired = COUNTER "dr_worker_connections_expired_total" ["worker"]
        "Connections that ended: expired, replaced on their tuple, or left by a removed real server.";
    WorkerRounds = COUNTER "dr_worker_rounds_total" ["worker"]
        "Rounds of the worker's loop.";
    WorkerIdleRounds = COUNTER "dr_worker_idle_rounds_total" ["worker"]
        "Rounds that received nothing.";
    PortUp = GAUGE "dr_port_up" ["port"]
        "1 where the link is up.";
    PortReceivedPackets = COUNTER "dr_port_received_packets_total" ["port"]
        "Packets received by the driver.";
    PortReceivedBytes = COUNTER "dr_port_received_bytes_total" ["port"]
        "Bytes received by the driver.";
    PortSentPackets = COUNTER "dr_port_sent_packets_total" ["port"]
        "Packets sent by the driver.";
    PortSentBytes = COUNTER "dr_port_sent_bytes_total" ["port"]
        "Bytes sent by the driver.";
    PortMissed = COUNTER "dr_port_missed_packets_total" ["port"]
        "Packets lost because no RX descriptor was free: the workers are too slow.";
    PortReceiveErrors = COUNTER "dr_port_receive_errors_total" ["port"]
        "Packets received with an error.";
    PortNoMbuf = COUNTER "dr_port_no_mbuf_packets_total" ["port"]
        "Packets not received for want of a buffer.";
    PortSendErrors = COUNTER "dr_port_send_errors_total" ["port"]
        "Packets that the driver failed to send.";
    Buffers = GAUGE "dr_buffers" []
        "Buffers for packets of all ports.";
    BuffersInUse = GAUGE "dr_buffers_in_use" []
        "Buffers that packets are in, or that the ports' rings hold.";
    Neighbours = GAUGE "dr_neighbours" ["state"]
        "Real servers and gateways by what is known of their MAC.";
    NeighbourState = GAUGE "dr_neighbour_state" ["address", "interface", "state"]
        "1 for the state that the real server or gateway is in, 0 for the others.";
    ArpRequests = COUNTER "dr_arp_requests_sent_total" []
        "ARP requests sent for real servers and gateways.";
    ArpReplies = COUNTER "dr_arp_replies_sent_total" []
        "ARP requests for VIPs, DIPs and local addresses answered.";
    ArpAnnouncements = COUNTER "dr_arp_announcements_sent_total" []
        "Gratuitous ARP packets sent for VIPs and local addresses.";
    ArpConflicts = COUNTER "dr_arp_conflicts_total" []
        "ARP packets in which another host claims an address of the director.";
    ArpMacChanges = COUNTER "dr_arp_mac_changes_total" []
        "Changes of the MAC of a real server or gateway, heard by ARP.";
    NdSolicitations = COUNTER "dr_nd_solicitations_sent_total" []
        "Neighbour solicitations sent for real servers and gateways.";
    NdAdvertisements = COUNTER "dr_nd_advertisements_sent_total" []
        "Neighbour solicitations for VIPs, DIPs and local addresses answered.";
    NdAnnouncements = COUNTER "dr_nd_announcements_sent_total" []
        "Unsolicited neighbour advertisements sent for VIPs and local addresses.";
    NdConflicts = COUNTER "dr_nd_conflicts_total" []
        "Packets of neighbour discovery in which another host claims an address of the director.";
    NdMacChanges = COUNTER "dr_nd_mac_changes_total" []
        "Changes of the MAC of a real server or gateway, heard by neighbour discovery.";
    EchoReplies = COUNTER "dr_icmp_echo_replies_sent_total" []
        "Pings to a VIP or DIP answered.";
    Punted = COUNTER "dr_punted_packets_total" ["kind"]
        "Packets that the control thread took from the workers.";
    HostDelivered = COUNTER "dr_host_delivered_packets_total" ["interface"]
        "Packets that the host got through the host interface.";
    HostNotDelivered = COUNTER "dr_host_not_delivered_packets_total" ["interface"]
        "Packets that the host interface did not take: it is down, or its queue full.";
    HostTaken = COUNTER "dr_host_taken_packets_total" ["interface"]
        "Packets of the host taken for sending.";
    HostNotTaken = COUNTER "dr_host_not_taken_packets_total" ["interface"]
        "Packets of the host for which there was no buffer.";
    ControlNotSent = COUNTER "dr_control_frames_not_sent_total" []
        "Packets of the control thread lost before a worker saw them: no buffer, or the queue to worker 0 full.";
    ControlRequests = COUNTER "dr_control_requests_total" ["verb", "code"]
        "Requests on the control socket by outcome.";
    ControlClients = GAUGE "dr_control_clients" []
        "Clients of the control socket.";
    DestinationSlots = GAUGE "dr_real_server_slots" ["use"]
        "Places for real servers: configured, removed with connections left, vacant.";
}

/// Names of a real server's neighbour states, as labels.
const NEIGHBOUR_STATES: [NeighbourState; 5] = [
    NeighbourState::Unresolved,
    NeighbourState::Reachable,
    NeighbourState::Probing,
    NeighbourState::Failed,
    NeighbourState::Static,
];

/// All numbers of one moment.
#[derive(Clone, Debug)]
pub struct Scrape {
    dpdk: String,
    started_at: SystemTime,
    generation: u64,
    show: Show,
    stats: Stats,
    neighbours: Neighbours,
    workers: Vec<WorkerNumbers>,
    neighbourhood: NeighbourhoodCounters,
    host: Vec<(String, HostInterfaceCounters)>,
    requests: Vec<(&'static str, &'static str, u64)>,
    clients: usize,
    slots: [(&'static str, usize); 3],
    templates: [u64; 2],
    buffers: PoolUsage,
}

/// What `stats` does not tell.
#[derive(Clone, Copy, Debug)]
struct WorkerNumbers {
    rounds: u64,
    idle_rounds: u64,
    opened: u64,
    expired: u64,
    adopted: u64,
    untemplated: u64,
    control_not_sent: u64,
    originated_not_sent: u64,
    icmp_errors: [u64; IcmpError::COUNT],
    icmp_suppressed: [u64; IcmpError::COUNT],
    fragmented_known: u64,
    fragmented_learned: u64,
    host_sent: u64,
    host_not_sent: u64,
}

impl Scrape {
    /// Copies the numbers, on the control thread.
    pub fn take(control: &Control) -> Scrape {
        let all = Filter::default();
        let workers = control.counters.iter().map(|counters| WorkerNumbers {
            // Idle rounds first, so that there are never more of them than rounds.
            idle_rounds: counters.idle_rounds.load(),
            rounds: counters.rounds.load(),
            opened: counters.connections_opened.load(),
            expired: counters.connections_expired.load(),
            adopted: counters.adopted.load(),
            untemplated: counters.untemplated.load(),
            control_not_sent: counters.control_not_sent.load(),
            originated_not_sent: counters.originated_not_sent.load(),
            icmp_errors: counters.icmp_errors.each_ref().map(counters::Counter::load),
            icmp_suppressed: counters.icmp_suppressed.each_ref().map(counters::Counter::load),
            fragmented_known: counters.fragmented_known.load(),
            fragmented_learned: counters.fragmented_learned.load(),
            host_sent: counters.host_sent.load(),
            host_not_sent: counters.host_not_sent.load(),
        });
        let host_interfaces = control.neighbourhood.host_interfaces();
        let host = control.topology.interfaces.iter().map(|interface| {
            (interface.name.clone(), host_interfaces.counters(interface.id).unwrap_or_default())
        });
        let requests = control.requests.iter().map(|(&(verb, code), &count)| (verb, code, count));
        let slots = control.services.slots();
        let (vacant, removed) = (slots.vacant(), slots.removed());
        Scrape {
            dpdk: control.platform.dpdk.clone(),
            started_at: control.started_at,
            generation: control.publisher.generation(),
            show: control.show(&all).unwrap_or(Show { services: Vec::new() }),
            stats: control.stats_since(&all, Since::Ever).unwrap_or_else(|_| no_stats()),
            neighbours: control.neighbours_view(),
            workers: workers.collect(),
            neighbourhood: control.neighbourhood.counters,
            host: host.collect(),
            requests: requests.collect(),
            clients: control.clients,
            slots: [
                ("configured", slots.capacity() - vacant - removed),
                ("removed", removed),
                ("vacant", vacant),
            ],
            buffers: control.neighbourhood.buffers(),
            templates: [control.tables.templates.len(), control.tables.templates.capacity()].map(u64::from),
        }
    }

    /// The text that Prometheus reads.
    pub fn to_text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.families())
    }

    /// Every family that has a sample.
    pub fn families(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        self.add_process(&mut families);
        self.add_services(&mut families);
        self.stats
            .workers
            .iter()
            .zip(&self.workers)
            .for_each(|(stats, numbers)| add_worker(&mut families, stats, numbers));
        self.add_ports(&mut families);
        self.add_neighbours(&mut families);
        self.add_control(&mut families);
        families.finish()
    }

    fn add_process(&self, families: &mut Families) {
        families.add(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION"), &self.dpdk], 1.0);
        let started = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        families.add(Metric::StartTime, &[], started.as_secs_f64());
        families.count(Metric::ConfigGeneration, &[], self.generation);
    }

    fn add_services(&self, families: &mut Families) {
        for (service, stats) in self.show.services.iter().zip(&self.stats.services) {
            let names = service_labels(service.service.id);
            let labels = names.each_ref().map(String::as_str);
            for (metric, value) in [
                (Metric::ServiceConnections, stats.totals.connections),
                (Metric::ServicePackets, stats.totals.packets),
                (Metric::ServiceBytes, stats.totals.bytes),
                (Metric::ServiceReplyPackets, stats.totals.reply_packets),
                (Metric::ServiceReplyBytes, stats.totals.reply_bytes),
            ] {
                families.count(metric, &labels, value);
            }
            for (view, counters) in service.real_servers.iter().zip(&stats.real_servers) {
                add_real_server(families, labels, view, &counters.counters);
            }
        }
        let [held, capacity] = self.templates;
        families.count(Metric::Templates, &[], held);
        families.count(Metric::TemplateCapacity, &[], capacity);
    }

    fn add_ports(&self, families: &mut Families) {
        for port in &self.stats.ports {
            let labels = [&*port.port];
            for (metric, value) in [
                (Metric::PortUp, u64::from(port.link_is_up)),
                (Metric::PortReceivedPackets, port.rx_packets),
                (Metric::PortReceivedBytes, port.rx_bytes),
                (Metric::PortSentPackets, port.tx_packets),
                (Metric::PortSentBytes, port.tx_bytes),
                (Metric::PortMissed, port.rx_missed),
                (Metric::PortReceiveErrors, port.rx_errors),
                (Metric::PortNoMbuf, port.rx_no_mbuf),
                (Metric::PortSendErrors, port.tx_errors),
            ] {
                families.count(metric, &labels, value);
            }
        }
        families.count(Metric::Buffers, &[], self.buffers.buffers.into());
        families.count(Metric::BuffersInUse, &[], self.buffers.in_use.into());
    }

    fn add_neighbours(&self, families: &mut Families) {
        let neighbours = &self.neighbours.neighbours;
        for state in NEIGHBOUR_STATES {
            let count = neighbours.iter().filter(|neighbour| neighbour.state == state).count();
            families.count(Metric::Neighbours, &[&state.to_string()], count as u64);
        }
        for neighbour in neighbours {
            let address = neighbour.address.to_string();
            for state in NEIGHBOUR_STATES {
                let labels = [&*address, &*neighbour.interface, &*state.to_string()];
                families.count(Metric::NeighbourState, &labels, u64::from(neighbour.state == state));
            }
        }
    }

    fn add_control(&self, families: &mut Families) {
        let NeighbourhoodCounters { arp, discovery, echo_replies_sent, not_sent, punted_echoes } =
            self.neighbourhood;
        for (metric, value) in [
            (Metric::ArpRequests, arp.requests_sent),
            (Metric::ArpReplies, arp.replies_sent),
            (Metric::ArpAnnouncements, arp.announcements_sent),
            (Metric::ArpConflicts, arp.conflicts),
            (Metric::ArpMacChanges, arp.mac_changes),
            (Metric::NdSolicitations, discovery.requests_sent),
            (Metric::NdAdvertisements, discovery.replies_sent),
            (Metric::NdAnnouncements, discovery.announcements_sent),
            (Metric::NdConflicts, discovery.conflicts),
            (Metric::NdMacChanges, discovery.mac_changes),
            (Metric::EchoReplies, echo_replies_sent),
            (Metric::ControlNotSent, not_sent),
        ] {
            families.count(metric, &[], value);
        }
        for (kind, count) in [("arp", arp.punted), ("nd", discovery.punted), ("icmp", punted_echoes)] {
            families.count(Metric::Punted, &[kind], count);
        }
        for (interface, counters) in &self.host {
            for (metric, value) in [
                (Metric::HostDelivered, counters.delivered),
                (Metric::HostNotDelivered, counters.not_delivered),
                (Metric::HostTaken, counters.taken),
                (Metric::HostNotTaken, counters.not_taken),
            ] {
                families.count(metric, &[interface], value);
            }
        }
        for &(verb, code, count) in &self.requests {
            families.count(Metric::ControlRequests, &[verb, code], count);
        }
        families.count(Metric::ControlClients, &[], self.clients as u64);
        for (name, count) in self.slots {
            families.count(Metric::DestinationSlots, &[name], count as u64);
        }
    }
}

/// Protocol, VIP and port, or the group; Prometheus takes an empty label for none.
fn service_labels(id: ServiceId) -> [String; 4] {
    match id {
        ServiceId::Virtual(VirtualAddress { protocol, address, port }) => {
            [protocol.to_string(), address.to_string(), port.to_string(), String::new()]
        }
        ServiceId::Group(name) => [String::new(), String::new(), String::new(), name.to_string()],
    }
}

fn add_real_server(
    families: &mut Families,
    [protocol, vip, port, group]: [&str; 4],
    view: &RealServerView,
    counters: &TrafficCounters,
) {
    let real_server = view.id().to_string();
    let labels = [protocol, vip, port, group, &*real_server];
    for (metric, value) in [
        (Metric::RealServerConnections, counters.connections),
        (Metric::RealServerPackets, counters.packets),
        (Metric::RealServerBytes, counters.bytes),
        (Metric::RealServerReplyPackets, counters.reply_packets),
        (Metric::RealServerReplyBytes, counters.reply_bytes),
        (Metric::RealServerActive, u64::from(view.active_connections)),
        (Metric::RealServerInactive, u64::from(view.inactive_connections)),
        (Metric::RealServerPersistent, u64::from(view.persistent_connections)),
        (Metric::RealServerWeight, u64::from(view.weight)),
        (Metric::RealServerUp, u64::from(view.state == RealServerState::Up)),
        (Metric::RealServerOverloaded, u64::from(view.state == RealServerState::Overloaded)),
        (Metric::RealServerUpperThreshold, u64::from(view.upper_threshold)),
        (Metric::RealServerLowerThreshold, u64::from(view.lower_threshold)),
    ] {
        families.count(metric, &labels, value);
    }
}

fn no_stats() -> Stats {
    Stats { services: Vec::new(), totals: Default::default(), workers: Vec::new(), ports: Vec::new() }
}

fn add_worker(families: &mut Families, stats: &WorkerStats, numbers: &WorkerNumbers) {
    let worker = stats.worker.to_string();
    for (metric, value) in [
        (Metric::WorkerConfigGeneration, stats.generation),
        (Metric::WorkerReceived, stats.packets.received),
        (Metric::WorkerForwarded, stats.packets.forwarded),
        (Metric::WorkerPunted, stats.packets.punted),
        (Metric::WorkerToHost, stats.packets.to_host),
        (Metric::WorkerHandedOver, stats.packets.handed_over),
        (Metric::WorkerTakenOver, stats.packets.taken_over),
        (Metric::WorkerOriginated, stats.packets.originated),
        (Metric::WorkerOriginatedNotSent, numbers.originated_not_sent),
        (Metric::WorkerFragmentsHeld, stats.packets.fragments_held),
        (Metric::WorkerFragmentedKnown, numbers.fragmented_known),
        (Metric::WorkerFragmentedLearned, numbers.fragmented_learned),
        (Metric::WorkerHostSent, numbers.host_sent),
        (Metric::WorkerHostNotSent, numbers.host_not_sent),
        (Metric::WorkerAdopted, numbers.adopted),
        (Metric::WorkerUntemplated, numbers.untemplated),
        (Metric::WorkerControlSent, stats.control_frames_sent),
        (Metric::WorkerControlNotSent, numbers.control_not_sent),
        (Metric::WorkerConnections, stats.connections),
        (Metric::WorkerConnectionCapacity, stats.connection_capacity),
        (Metric::WorkerConnectionsOpened, numbers.opened),
        (Metric::WorkerConnectionsExpired, numbers.expired),
        (Metric::WorkerRounds, numbers.rounds),
        (Metric::WorkerIdleRounds, numbers.idle_rounds),
    ] {
        families.count(metric, &[&worker], value);
    }
    for (place, kind) in IcmpError::ALL.iter().enumerate() {
        let labels = [&*worker, kind.name()];
        families.count(Metric::WorkerIcmpErrors, &labels, numbers.icmp_errors[place]);
        families.count(Metric::WorkerIcmpSuppressed, &labels, numbers.icmp_suppressed[place]);
    }
    for (reason, &count) in &stats.packets.drops {
        families.count(Metric::WorkerDropped, &[&worker, reason], count);
    }
    for (reason, &count) in &stats.stateless {
        families.count(Metric::WorkerStateless, &[&worker, reason], count);
    }
}

/// Samples by metric.
struct Families(Vec<Vec<Sample>>);

impl Default for Families {
    fn default() -> Self {
        Families(vec![Vec::new(); Metric::ALL.len()])
    }
}

impl Families {
    /// Whole numbers, exact up to 2^53.
    fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, value as f64);
    }

    fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.labels().len(), labels.len(), "{}", metric.name());
        let named = metric.labels().iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut sample = Sample::from_label(named.collect());
        match metric.kind() {
            MetricType::COUNTER => {
                let mut counter = Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
        }
        self.0[metric as usize].push(sample);
    }

    fn finish(self) -> Vec<MetricFamily> {
        let filled = Metric::ALL.iter().zip(self.0).filter(|(_, samples)| !samples.is_empty());
        let families = filled.map(|(metric, samples)| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name().to_owned());
            family.set_help(metric.help().to_owned());
            family.set_field_type(metric.kind());
            family.set_metric(samples);
            family
        });
        families.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_prometheus_conventions() {
        for &metric in Metric::ALL {
            let name = metric.name();
            assert!(
                name.starts_with("dr_") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            );
            assert_eq!(name.ends_with("_total"), metric.kind() == MetricType::COUNTER, "{name}");
            assert!(metric.help().ends_with('.'), "{name}");
            assert_eq!(Metric::ALL[metric as usize], metric);
        }
    }

    #[test]
    fn label_values_are_escaped_by_the_encoder() {
        let mut families = Families::default();
        families.count(Metric::PortUp, &["a\"b\\c\nd"], 1);
        let text = TextEncoder::new().encode_to_string(&families.finish()).unwrap();
        assert!(text.contains(r#"dr_port_up{port="a\"b\\c\nd"} 1"#), "{text}");
    }
}
