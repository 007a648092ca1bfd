//! From a configuration file to running workers, and back.
//!
//! What can fail without touching a NIC comes first: the file, CPUs, control socket, /metrics; then EAL, mbufs, ports,
//! connection tables, workers. Everything is undone in the opposite order. The main thread is the control thread: EAL
//! pins it to the control CPUs.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ctl::config::{Config, Hugepages};
use ctl::config_file::read_text;
use ctl::source_map::SourceMap;
use ctl::validate::validate_for_start;
use dataplane::clock::Clock;
use dataplane::dpdk::eal::{Eal, EalConfig, EalError, HugepageUse, HugepagesInUse};
use dataplane::dpdk::mempool::{MbufPool, PoolConfig};
use dataplane::dpdk::port::{Port, PortConfig};
use dataplane::dpdk::queue::PortQueuePair;
use dataplane::dpdk::thread::allowed_cpus;
use dataplane::port::PortStatus;
use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::assembly::{Assembly, StartedPorts, assemble};
use crate::control::{Platform, SharedControl};
use crate::cpus::{self, CpuPlan};
use crate::host_interface::HostAccess;
use crate::socket::ControlSocket;
use crate::workers::{Workers, WorkersError};
use crate::{daemon, http};

/// Threads that make metrics text or look up groups may still run for so long.
const RUNTIME_TIMEOUT: Duration = Duration::from_millis(200);

/// What is wrong with a configuration file, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct InvalidConfig(pub Vec<String>);

/// Reads a configuration file and checks it. Everything that is wrong with it is told at once.
pub fn read_config(path: &Path) -> Result<Config> {
    let with_help = |text: String, help: Option<&str>| match help {
        Some(help) => format!("{text}\n  help: {help}"),
        None => text,
    };
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            let text = with_help(error.to_string(), error.help());
            match error.code() {
                ctl::protocol::ErrorCode::Invalid => bail!(InvalidConfig(vec![text])),
                _ => bail!(text),
            }
        }
    };
    if let Err(problems) = validate_for_start(&config) {
        let text = read_text(path)?;
        let map = SourceMap::new(&text);
        let file = path.display().to_string();
        let line = |problem: &ctl::validate::Problem| {
            with_help(map.describe(&file, problem), problem.help.as_deref())
        };
        bail!(InvalidConfig(problems.iter().map(line).collect()));
    }
    Ok(config)
}

/// The log goes to stderr through a thread of its own with a bounded queue, so that a reader that stalls stops nobody.
/// What still waits is written when the guard is dropped.
fn start_log() -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(is_terminal).init();
    guard
}

/// Why the control thread ended.
enum Ending {
    Signal(&'static str),
    WorkerEnded(usize),
}

/// Runs the director until a signal ends it.
pub fn run(config: Config) -> Result<()> {
    let allowed = allowed_cpus().context("the CPUs that this process may use cannot be read")?;
    let plan = cpus::plan(&config.director.worker_cpus, &config.director.control_cpus, &allowed)?;
    // Until the runtime listens to them they wait, so that a start is never left half undone.
    let stop_signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    stop_signals.thread_block().context("signals")?;
    // Before EAL starts: it puts its own threads on what this thread may use.
    plan.pin_control_thread().context("director.control_cpus")?;
    let _log = start_log();
    let socket =
        ControlSocket::bind(&config.director.control_socket, config.director.control_group.as_deref())?;
    let metrics = config.director.metrics_listen.map(|address| {
        let help = "choose a free address of this host, or \"off\"";
        http::listen(address)
            .map_err(|error| anyhow!("director.metrics_listen: cannot listen on {address} ({error}): {help}"))
    });
    let metrics = metrics.transpose()?;
    let eal = start_eal(&config, &plan)?;
    let (started, warnings) = start_ports(&eal, &config, plan.workers.len())?;
    let platform = describe_platform(&eal, config.director.hugepages, warnings);
    let Assembly { control, workers, host_frames } =
        assemble(config, started, plan.workers.clone(), &Clock::system(), platform, HostAccess::Taps)?;
    let control = control.shared();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control thread's runtime cannot be made")?;
    let workers = Workers::start(workers, &plan.workers)?;
    let host_thread = control.borrow().start_host_thread(host_frames).context("host interfaces")?;
    let ending = runtime.block_on(serve(&control, &plan, &socket, metrics, &workers));
    // Nobody is accepted or answered any more.
    runtime.shutdown_timeout(RUNTIME_TIMEOUT);
    match &ending {
        Ok(Ending::Signal(name)) => tracing::info!("stopping: {name}"),
        Ok(Ending::WorkerEnded(number)) => tracing::error!("stopping: worker {number} ended by itself"),
        Err(error) => tracing::error!("stopping: {error:#}"),
    }
    // It holds buffers of the ports.
    drop(host_thread);
    let stopped = workers.stop();
    // The ports go with the last handle to the control thread's state: the workers' queues are gone already.
    drop(control);
    match &stopped {
        // Its thread still uses DPDK's memory.
        Err(WorkersError::NotStopped { .. }) => std::mem::forget(eal),
        _ => eal.cleanup().unwrap_or_else(|error| tracing::warn!("{error}")),
    }
    drop(socket);
    stopped?;
    match ending? {
        Ending::Signal(_) => {
            tracing::info!("stopped");
            Ok(())
        }
        Ending::WorkerEnded(number) => {
            Err(anyhow!("worker {number} ended by itself: this is a defect of dr-director"))
        }
    }
}

fn start_eal(config: &Config, plan: &CpuPlan) -> Result<Eal> {
    let director = &config.director;
    let hugepages = match director.hugepages {
        Hugepages::Auto => HugepageUse::Auto,
        Hugepages::Off => HugepageUse::Off,
        Hugepages::Required => HugepageUse::Required,
    };
    let eal_config = EalConfig {
        control_cpus: plan.control.clone(),
        hugepages,
        memory_mib: director.memory_mib,
        devices: config.ports.iter().map(|port| port.device.clone()).collect(),
        extra_args: director.eal_arguments.clone(),
        ..EalConfig::default()
    };
    Eal::init(eal_config).map_err(|error| match error {
        EalError::Refused { .. } => {
            let ports: Vec<_> = config.ports.iter().enumerate().map(|(at, port)| place(at, port)).collect();
            anyhow!("{}: {error}; check these devices and director.eal_arguments", ports.join(", "))
        }
        other => anyhow!(other),
    })
}

/// A port as its configuration places it: `ports[0] (lan, net_af_packet0,iface=eth1)`.
fn place(number: usize, port: &ctl::config::PortConfig) -> String {
    format!("ports[{number}] ({}, {})", port.name, port.device)
}

/// The ports, started, and what is not as it should be with them.
fn start_ports(
    eal: &Eal,
    config: &Config,
    workers: usize,
) -> Result<(StartedPorts<PortQueuePair, MbufPool>, Vec<String>)> {
    let queues =
        u16::try_from(workers).context("director.worker_cpus: more workers than a port can have queues")?;
    let device = |port: &ctl::config::PortConfig| PortConfig {
        device: port.device.clone(),
        workers: queues,
        rx_descriptors: port.rx_descriptors,
        tx_descriptors: port.tx_descriptors,
        mtu: port.mtu,
    };
    let devices: Vec<_> = config.ports.iter().map(device).collect();
    let computed = PoolConfig::for_ports(&devices);
    let pool_config = PoolConfig {
        mbufs: config.director.mbuf_count.unwrap_or(computed.mbufs),
        data_room: config.director.mbuf_data_room.unwrap_or(computed.data_room),
        ..computed
    };
    let pool = MbufPool::new(eal, &pool_config)?;
    let mut warnings = Vec::new();
    let mut ports: Vec<Box<dyn PortStatus>> = Vec::new();
    let mut by_worker: Vec<Vec<PortQueuePair>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, (device, named)) in devices.iter().zip(&config.ports).enumerate() {
        let (port, pairs) = Port::start(eal, device, &pool).with_context(|| place(number, named))?;
        tracing::info!(
            "port {}: {}, driver {}, MAC {}, MTU {}, {queues} queue pairs{}",
            named.name,
            port.name(),
            port.driver(),
            ctl::mac::MacAddress(port.mac()),
            port.mtu(),
            if port.uses_rss() { " fed by RSS" } else { "" }
        );
        if queues > 1 && !port.uses_rss() {
            tracing::warn!(
                "port {}: driver {} has no RSS: how it spreads packets over {queues} workers is its own affair, if it does",
                named.name,
                port.driver()
            );
        }
        if !port.accepts_all_multicast() {
            warnings.push(format!(
                "port {}: driver {} does not accept every multicast address: where its device filters, IPv6 neighbour \
                 discovery does not reach the director",
                named.name,
                port.driver()
            ));
        }
        ports.push(Box::new(port));
        for (queues, pair) in by_worker.iter_mut().zip(pairs) {
            queues.push(pair);
        }
    }
    Ok((StartedPorts { ports, queues: by_worker, pool }, warnings))
}

fn describe_platform(eal: &Eal, wanted: Hugepages, warnings: Vec<String>) -> Platform {
    let advice = match wanted {
        Hugepages::Off => "set director.hugepages to \"auto\"",
        _ => "reserve hugepages (vm.nr_hugepages)",
    };
    let memory_warnings = match eal.hugepages() {
        HugepagesInUse::Yes => Vec::new(),
        HugepagesInUse::No { reason } => vec![format!(
            "DPDK runs without hugepages ({reason}): packet buffers lie in 4 KiB pages, so packets wait for TLB misses \
             and the top rate is lower; {advice} and restart"
        )],
    };
    let version = Eal::dpdk_version();
    let dpdk = version.strip_prefix("DPDK ").unwrap_or(&version).to_owned();
    let memory = format!("packet buffers in {}", eal.hugepages());
    Platform { dpdk, memory, memory_warnings, warnings }
}

fn log_start(
    control: &SharedControl,
    plan: &CpuPlan,
    socket: &ControlSocket,
    metrics: Option<&std::net::TcpListener>,
) {
    let control = control.borrow();
    tracing::info!("DPDK {}, control thread on CPU {}", control.platform.dpdk, cpus::list(&plan.control));
    tracing::info!("memory: {}", control.platform.memory);
    let platform = &control.platform;
    platform.memory_warnings.iter().chain(&platform.warnings).for_each(|warning| tracing::warn!("{warning}"));
    if plan.is_shared() {
        tracing::warn!(
            "the control thread shares CPU {} with a worker: ARP, configuration and metrics are slow, and the worker \
             loses packets whenever they run; give the process one more CPU than it has workers",
            cpus::list(&plan.control)
        );
    }
    let status = control.status();
    let metrics = metrics.and_then(|listener| listener.local_addr().ok());
    tracing::info!(
        "ready: {} workers, {} ports, {} services, control socket {}, metrics {}",
        plan.workers.len(),
        status.ports.len(),
        status.services,
        socket.path().display(),
        metrics.map_or("off".to_owned(), |address| format!("http://{address}/metrics"))
    );
}

async fn serve(
    control: &SharedControl,
    plan: &CpuPlan,
    socket: &ControlSocket,
    metrics: Option<std::net::TcpListener>,
    workers: &Workers,
) -> Result<Ending> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    // A signal that came during the start takes effect now.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock().context("signals")?;
    log_start(control, plan, socket, metrics.as_ref());
    let stop = pin!(async {
        tokio::select! {
            _ = terminate.recv() => Ending::Signal("SIGTERM"),
            _ = interrupt.recv() => Ending::Signal("SIGINT"),
            number = workers.ended() => Ending::WorkerEnded(number),
        }
    });
    daemon::run(control.clone(), socket, metrics, stop).await.context("control socket")
}
