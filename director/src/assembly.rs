//! Puts a control thread and its workers together, over ports of any kind: DPDK's in the daemon, ports in memory in
//! tests. Everything that workers use is allocated here, before one runs.

use std::sync::Arc;

use ctl::config::{Config, DirectorConfig, Hugepages};
use dataplane::clock::Clock;
use dataplane::connection::ConnectionTable;
use dataplane::counters::WorkerCounters;
use dataplane::dpdk::region::{Backing, Pages, RegionError};
use dataplane::dpdk::thread::on_cpu;
use dataplane::fragments::FragmentLimits;
use dataplane::host::{HostEnd, HostFrames, HostQueues};
use dataplane::mailbox::Publisher;
use dataplane::path_mtus::PathMtus;
use dataplane::persistence::{TemplateLimits, TemplateTable};
use dataplane::port::{FramePool, PortStatus, QueuePair};
use dataplane::snapshot::shared_counts;
use dataplane::worker::{Peers, Worker, WorkerParts};

use crate::connections::Tables;
use crate::control::{Control, ControlParts, Platform};
use crate::draft::Settings;
use crate::host_interface::{HostAccess, HostInterfaceError, HostInterfaces};
use crate::neighbours::Neighbours;
use crate::services::Services;
use crate::slots::Slots;
use crate::topology::Topology;

/// Started ports, and what belongs to them.
pub struct StartedPorts<Q: QueuePair, P: FramePool<Frame = Q::Frame>> {
    /// By number.
    pub ports: Vec<Box<dyn PortStatus>>,
    /// Queue pairs: by worker, then by port.
    pub queues: Vec<Vec<Q>>,
    /// Where the control thread's frames come from.
    pub pool: P,
}

/// A control thread's state and its workers, none of them running.
pub struct Assembly<Q: QueuePair> {
    /// The control thread's state.
    pub control: Control,
    /// The workers.
    pub workers: Vec<Worker<Q>>,
    /// Frames of the host interfaces, for their thread.
    pub host_frames: Box<dyn HostFrames>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// No memory for a connection table.
    #[error("connection table of worker {worker}, {capacity} connections: {source}")]
    ConnectionTable {
        /// Whose.
        worker: usize,
        /// How large.
        capacity: u32,
        /// Why.
        source: RegionError,
    },
    /// No memory for the persistence templates.
    #[error("table of {capacity} persistence templates (director.template_capacity): {source}")]
    TemplateTable {
        /// How large.
        capacity: u32,
        /// Why.
        source: RegionError,
    },
    /// A host interface that the configuration names.
    #[error("{0}")]
    HostInterface(#[from] HostInterfaceError),
    /// The configuration does not fit its own capacity or the ports.
    #[error("{0}")]
    Refused(ctl::protocol::ErrorReply),
}

/// Makes the control thread's state and one worker for each of `started.queues`. `config` is valid; `worker_cpus` has
/// as many entries as there are workers; `platform` is for people.
pub fn assemble<Q, P>(
    config: Config,
    started: StartedPorts<Q, P>,
    worker_cpus: Vec<usize>,
    clock: &Clock,
    mut platform: Platform,
    access: HostAccess,
) -> Result<Assembly<Q>, AssemblyError>
where
    Q: QueuePair,
    P: FramePool<Frame = Q::Frame> + Clone,
{
    let workers = started.queues.len();
    let capacity = config.director.real_server_capacity as usize;
    let counts = shared_counts(capacity);
    let path_mtus = PathMtus::new(capacity);
    let counters: Vec<_> = (0..workers).map(|_| WorkerCounters::new(capacity)).collect();
    let has_ipv6 = config.has_ipv6();
    let mut topology = Topology::new(&config.ports, &config.routes, &started.ports);
    let access = if config.director.host_packets_per_second == 0 { HostAccess::None } else { access };
    let (host_interfaces, warnings) = HostInterfaces::open(&mut topology, access)?;
    platform.warnings.extend(warnings);
    let templates = template_table(&config.director, has_ipv6)?;
    let slots = Slots::new(counts.clone(), templates.clone(), counters.clone(), path_mtus.clone());
    let mut services = Services::new(slots, &config.director);
    topology.check_mtus(&config.ports).map_err(AssemblyError::Refused)?;
    topology.check_macs(&config.services).map_err(AssemblyError::Refused)?;
    let settings = Settings {
        connections: config.connections.clone().unwrap_or_default(),
        nat: config.nat.clone().unwrap_or_default(),
        services: config.services.clone(),
    };
    services.check_room(&settings).map_err(AssemblyError::Refused)?;
    services.adopt(settings, 1, clock.seconds());
    let mut neighbours = Neighbours::default();
    neighbours.retain_wanted(services.wanted_neighbours(&topology), std::time::Duration::ZERO);
    services.compile(&topology, &neighbours, clock.seconds());
    let first = Arc::new(services.snapshot(&topology, &neighbours, []));
    let (publisher, mailboxes) = Publisher::new(first, workers);
    let host = HostQueues::new();
    let tables = connection_tables(&worker_cpus, &config.director, has_ipv6)?;
    let platform = with_tables(platform, &tables, &templates, config.director.hugepages);
    let buckets = tables.iter().map(|table| table.buckets() as u64).sum();
    let readers = tables.iter().map(ConnectionTable::reader).collect();
    let fragment_capacity = config.director.fragment_capacity_per_worker;
    let peers = Peers::among(&tables);
    let per_worker = started.queues.into_iter().zip(mailboxes).zip(tables).zip(peers).enumerate();
    let made = per_worker.map(|(index, (((queues, mailbox), connections), peers))| {
        Worker::new(WorkerParts {
            index: index as u32,
            workers: workers as u32,
            queues,
            mailbox,
            connections,
            peers,
            templates: templates.clone(),
            path_mtus: path_mtus.clone(),
            counts: counts.clone(),
            counters: counters[index].clone(),
            host: host.clone(),
            fragments: FragmentLimits { capacity: fragment_capacity, ..FragmentLimits::default() },
            clock: clock.clone(),
        })
    });
    let workers = made.collect();
    let host_frames = Box::new(HostEnd::new(host.clone(), started.pool.clone()));
    let control = Control::new(ControlParts {
        config,
        ports: started.ports,
        topology,
        host: Box::new(HostEnd::new(host, started.pool)),
        publisher,
        counters,
        tables: Tables::new(readers, templates, buckets),
        clock: clock.clone(),
        worker_cpus,
        services,
        neighbours,
        host_interfaces,
        has_ipv6,
        platform,
    });
    Ok(Assembly { control, workers, host_frames })
}

/// Shared by all workers, and so on the control thread's NUMA node.
fn template_table(director: &DirectorConfig, has_ipv6: bool) -> Result<Arc<TemplateTable>, AssemblyError> {
    let capacity = director.template_capacity;
    let destinations = director.real_server_capacity;
    let limits = TemplateLimits { capacity, destinations, keeps_call_ids: true, has_ipv6 };
    TemplateTable::new(&limits, pages(director))
        .map_err(|source| AssemblyError::TemplateTable { capacity, source })
}

fn pages(director: &DirectorConfig) -> Pages {
    match director.hugepages {
        Hugepages::Auto => Pages::Any,
        Hugepages::Off => Pages::Ordinary,
        Hugepages::Required => Pages::Hugepages,
    }
}

/// Each made on its worker's CPU, so that it lies on that CPU's NUMA node.
fn connection_tables(
    worker_cpus: &[usize],
    director: &DirectorConfig,
    has_ipv6: bool,
) -> Result<Vec<ConnectionTable>, AssemblyError> {
    let capacity = director.connection_capacity_per_worker;
    let pages = pages(director);
    let table = |(worker, &cpu): (usize, &usize)| {
        on_cpu(cpu, || ConnectionTable::with_families(capacity, has_ipv6, pages))
            .map_err(|source| AssemblyError::ConnectionTable { worker, capacity, source })
    };
    worker_cpus.iter().enumerate().map(table).collect()
}

/// The memory in words, tables included, and what it costs that they have no hugepages.
fn with_tables(
    mut platform: Platform,
    tables: &[ConnectionTable],
    templates: &TemplateTable,
    wanted: Hugepages,
) -> Platform {
    let Some(backing) = tables.first().map(ConnectionTable::backing) else { return platform };
    let connections = tables.iter().map(ConnectionTable::bytes).sum::<usize>().div_ceil(1024);
    let templates = templates.bytes().div_ceil(1024);
    let separator = if platform.memory.is_empty() { "" } else { "; " };
    platform.memory += &format!(
        "{separator}connection tables: {connections} KiB in {backing}; persistence templates: {templates} KiB"
    );
    let kibibytes = connections + templates;
    let pages = match backing {
        Backing::HugePages => return platform,
        Backing::TransparentHugePages => "the kernel backs them with large pages as far as it has any",
        Backing::SmallPages => "they lie in 4 KiB pages",
    };
    let advice = match wanted {
        Hugepages::Off => "set director.hugepages to \"auto\"".to_owned(),
        _ => format!("reserve {} more hugepages of 2 MiB (vm.nr_hugepages)", kibibytes.div_ceil(2048)),
    };
    platform.memory_warnings.push(format!(
        "connection tables have no reserved hugepages: {pages}, and with many connections nearly every packet waits \
         for a TLB miss; {advice} and restart"
    ));
    platform
}
