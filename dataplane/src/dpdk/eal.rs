//! EAL, DPDK's runtime: started once in a process, ended when nothing uses it any more.
//!
//! The control thread starts it, and is pinned to the control CPUs by that. [`Eal`] stays on that thread. Everything
//! that leads to DPDK's memory holds the `Runtime`; DPDK's memory is unmapped only by [`Eal`], only when nobody else
//! holds the runtime and every mbuf is back in its pool. Otherwise it is left to the end of the process.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::driver;
use super::error::Errno;

/// Hugepages for DPDK's memory: mbufs, rings, driver structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugepageUse {
    /// Where enough are free, else without.
    #[default]
    Auto,
    /// Without.
    Off,
    /// An error where too few are free.
    Required,
}

/// How much DPDK itself logs, to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Errors.
    Error,
    /// Warnings too.
    #[default]
    Warning,
    /// What is normal but worth saying.
    Notice,
    /// What every component does.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Notice => "notice",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// How to start DPDK.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// CPUs that the calling thread is pinned to; none means that it stays as it is.
    pub control_cpus: Vec<usize>,
    /// Hugepages or not.
    pub hugepages: HugepageUse,
    /// Memory for DPDK in MiB: without hugepages all that there is, with [`HugepageUse::Auto`] what has to be free in
    /// hugepages to use them.
    pub memory_mib: u32,
    /// What tells this process's DPDK from another's: letters, digits, `-` and `_`.
    pub file_prefix: String,
    /// The devices to probe, and no others: PCI addresses (`0000:03:00.0`) and virtual devices (`net_tap0,iface=dr0`).
    pub devices: Vec<String>,
    /// Further EAL arguments, as they are.
    pub extra_args: Vec<String>,
    /// DPDK's own log.
    pub log_level: LogLevel,
}

impl Default for EalConfig {
    fn default() -> Self {
        EalConfig {
            control_cpus: Vec::new(),
            hugepages: HugepageUse::Auto,
            memory_mib: 256,
            file_prefix: format!("dr-director-{}", std::process::id()),
            devices: Vec::new(),
            extra_args: Vec::new(),
            log_level: LogLevel::Warning,
        }
    }
}

/// Why DPDK did not start or end.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// A second start in this process.
    #[error("DPDK was started in this process before; it starts once only")]
    AlreadyStarted,
    /// Hugepages are required and there are too few.
    #[error(
        "hugepages: {needed_mib} MiB are required and {free_mib} MiB are free: reserve more \
         (/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages) or do not require them"
    )]
    HugepagesMissing {
        /// MiB asked for.
        needed_mib: u32,
        /// MiB free in hugepages of all sizes.
        free_mib: u64,
    },
    /// The name becomes a folder's.
    #[error("file prefix {0:?}: only letters, digits, `-` and `_`, and at least one")]
    BadFilePrefix(String),
    /// An argument cannot be handed to C.
    #[error("EAL argument {0:?} has a NUL byte in it")]
    NulInArgument(String),
    /// The CPUs of this thread are unknown.
    #[error("cannot read the CPUs of this thread: {0}")]
    CpusUnknown(std::io::Error),
    /// EAL refused.
    #[error("DPDK did not start ({source}); its own message is above on stderr")]
    Refused {
        /// EAL's reason.
        source: Errno,
        /// What it was started with.
        arguments: Vec<String>,
    },
    /// Ports, pools, frames or workers are still there, so DPDK's memory stays until the process ends.
    #[error(
        "DPDK is still in use by {holders} ports, pools or workers and {mbufs} mbufs; it ends with the process"
    )]
    StillInUse {
        /// Values that hold the runtime.
        holders: usize,
        /// Mbufs outside of their pool.
        mbufs: u32,
    },
}

/// What DPDK's memory lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HugepagesInUse {
    /// In hugepages.
    Yes,
    /// In small pages.
    No {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for HugepagesInUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HugepagesInUse::Yes => formatter.write_str("hugepages"),
            HugepagesInUse::No { reason } => write!(formatter, "small pages ({reason})"),
        }
    }
}

/// DPDK, started. Cannot leave the thread that started it.
#[derive(Debug)]
pub struct Eal {
    /// None after `cleanup`.
    runtime: Option<Arc<Runtime>>,
    hugepages: HugepagesInUse,
    /// Not Send (a guard is not), but Sync.
    _on_its_thread: PhantomData<MutexGuard<'static, ()>>,
}

/// What everything that leads to DPDK's memory holds.
#[derive(Debug)]
pub(super) struct Runtime {
    /// Memory that DPDK was given, for messages.
    pub(super) memory_mib: u32,
    /// A driver [maps pools](driver::maps_packed_pool) as if their objects lay side by side.
    pub(super) maps_packed_pools: bool,
    directory: Option<PathBuf>,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    pools: Vec<PoolRecord>,
    started_ports: Vec<u16>,
}

#[derive(Debug)]
struct PoolRecord {
    pool: NonNull<dpdk_sys::rte_mempool>,
    capacity: u32,
}

// SAFETY: the pointer is to a DPDK mempool, whose one use here, counting, any thread may do.
unsafe impl Send for PoolRecord {}

#[derive(Debug)]
enum Life {
    NotStarted,
    Running(Weak<Runtime>),
    Over,
}

static LIFE: Mutex<Life> = Mutex::new(Life::NotStarted);

/// The state is replaced whole, so a panic elsewhere leaves it valid.
fn life() -> MutexGuard<'static, Life> {
    LIFE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Eal {
    /// Starts DPDK and pins the calling thread to the control CPUs.
    pub fn init(config: EalConfig) -> Result<Eal, EalError> {
        let hugepages = choose_hugepages(&config)?;
        let arguments = arguments(&config, hugepages == HugepagesInUse::Yes)?;
        let mut life = life();
        if !matches!(*life, Life::NotStarted) {
            return Err(EalError::AlreadyStarted);
        }
        *life = Life::Over;
        let started = start(&arguments);
        let directory = runtime_directory(&config.file_prefix);
        let runtime = Arc::new(Runtime {
            memory_mib: config.memory_mib,
            maps_packed_pools: config.devices.iter().any(|device| driver::maps_packed_pool(device)),
            directory,
            registry: Mutex::default(),
        });
        // Nothing is kept there with the flags used, and so a killed process leaves nothing behind either.
        runtime.remove_directory();
        started?;
        *life = Life::Running(Arc::downgrade(&runtime));
        Ok(Eal { runtime: Some(runtime), hugepages, _on_its_thread: PhantomData })
    }

    /// What DPDK's memory lies in.
    pub fn hugepages(&self) -> &HugepagesInUse {
        &self.hugepages
    }

    /// DPDK's name and version as it runs.
    pub fn dpdk_version() -> String {
        // SAFETY: returns a static NUL-terminated text, at any time.
        unsafe { CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
    }

    /// Ends DPDK. Everything else of this module has to be dropped before; what is not keeps DPDK as it is until the
    /// process ends. Hugepages are free again when the process ends, in either case. Dropping does the same and says
    /// nothing.
    pub fn cleanup(mut self) -> Result<(), EalError> {
        self.end()
    }

    pub(super) fn runtime(&self) -> &Arc<Runtime> {
        // Some until `end`, which only `cleanup` (that consumes self) and `drop` call.
        self.runtime.as_ref().expect("an Eal that is borrowed has not ended")
    }

    fn end(&mut self) -> Result<(), EalError> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        *life() = Life::Over;
        let runtime = match Arc::try_unwrap(runtime) {
            Ok(runtime) => runtime,
            Err(shared) => {
                let mbufs = shared.mbufs_in_use();
                return Err(EalError::StillInUse { holders: Arc::strong_count(&shared) - 1, mbufs });
            }
        };
        // Counted now that nobody holds a pool to take one from.
        let mbufs = runtime.mbufs_in_use();
        if mbufs > 0 {
            return Err(EalError::StillInUse { holders: 0, mbufs });
        }
        // SAFETY: EAL was started by `init` on this thread (Eal is not Send) and is ended once (`take` above). Nobody
        // uses its memory from here on: ports, queues, pools and registered threads hold the runtime, of which this
        // was the last, and every mbuf was in its pool. A mbuf freed a moment ago by another thread was freed without
        // a cache, since that thread is not registered: once it counts, the pool is touched no more.
        unsafe { dpdk_sys::rte_eal_cleanup() };
        runtime.remove_directory();
        Ok(())
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl Runtime {
    pub(super) fn add_pool(&self, pool: NonNull<dpdk_sys::rte_mempool>, capacity: u32) {
        self.registry().pools.push(PoolRecord { pool, capacity });
    }

    /// True for the first to ask for this port since it was last released.
    pub(super) fn claim_port(&self, port: u16) -> bool {
        let started = &mut self.registry().started_ports;
        let free = !started.contains(&port);
        if free {
            started.push(port);
        }
        free
    }

    pub(super) fn release_port(&self, port: u16) {
        self.registry().started_ports.retain(|&started| started != port);
    }

    fn mbufs_in_use(&self) -> u32 {
        let in_use = |record: &PoolRecord| {
            // SAFETY: pools are created by `MbufPool::new`, recorded here, and freed by rte_eal_cleanup only.
            let available = unsafe { dpdk_sys::rte_mempool_avail_count(record.pool.as_ptr()) };
            record.capacity.saturating_sub(available)
        };
        self.registry().pools.iter().map(in_use).sum()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every change to it is a single push or retain, so a panic elsewhere leaves it valid.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the folder where it is empty, and what is in it otherwise stays for whoever looks.
    fn remove_directory(&self) {
        if let Some(directory) = &self.directory {
            drop(std::fs::remove_dir(directory));
        }
    }
}

/// A thread's lcore id; given back when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    _runtime: Arc<Runtime>,
    /// Not Send: the id belongs to the thread.
    _on_its_thread: PhantomData<*const ()>,
}

impl Registration {
    /// Registers the calling thread, or does nothing where EAL does not run.
    pub(super) fn of_current_thread() -> Result<Option<Self>, Errno> {
        let runtime = match &*life() {
            Life::Running(runtime) => runtime.upgrade(),
            Life::NotStarted | Life::Over => None,
        };
        let Some(runtime) = runtime else { return Ok(None) };
        // SAFETY: EAL runs and goes on running while `runtime` is held.
        match unsafe { dpdk_sys::rte_thread_register() } {
            0 => Ok(Some(Registration { _runtime: runtime, _on_its_thread: PhantomData })),
            _ => Err(Errno::of_thread()),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: this thread (Registration is not Send) was registered by `of_current_thread`, and EAL runs since
        // the runtime is still held.
        unsafe { dpdk_sys::rte_thread_unregister() };
    }
}

/// A device is either a PCI address, `[domain:]bus:device.function`, or the name of a virtual device.
pub(super) fn is_pci_address(device: &str) -> bool {
    let name = device_name(device);
    let Some((address, function)) = name.rsplit_once('.') else { return false };
    let parts: Vec<&str> = address.split(':').collect();
    let hexadecimal = |text: &&str| !text.is_empty() && text.chars().all(|digit| digit.is_ascii_hexdigit());
    matches!(parts.len(), 2 | 3) && parts.iter().all(hexadecimal) && hexadecimal(&function)
}

/// The name that ethdev knows a device by: what stands before its arguments.
pub(super) fn device_name(device: &str) -> &str {
    device.split_once(',').map_or(device, |(name, _)| name)
}

fn choose_hugepages(config: &EalConfig) -> Result<HugepagesInUse, EalError> {
    let free_mib = free_hugepages_mib(Path::new("/sys/kernel/mm/hugepages"));
    let enough = free_mib >= u64::from(config.memory_mib);
    match config.hugepages {
        HugepageUse::Off => Ok(HugepagesInUse::No { reason: "hugepages are switched off".to_owned() }),
        HugepageUse::Auto | HugepageUse::Required if enough => Ok(HugepagesInUse::Yes),
        HugepageUse::Auto => Ok(HugepagesInUse::No {
            reason: format!("{free_mib} MiB of hugepages are free, {} MiB are needed", config.memory_mib),
        }),
        HugepageUse::Required => Err(EalError::HugepagesMissing { needed_mib: config.memory_mib, free_mib }),
    }
}

/// MiB free in hugepages of all sizes; `root` holds a folder `hugepages-<kB>kB` for each.
fn free_hugepages_mib(root: &Path) -> u64 {
    let Ok(sizes) = std::fs::read_dir(root) else { return 0 };
    let free_kib = sizes.flatten().filter_map(|size| {
        let name = size.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 =
            std::fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        kib.checked_mul(free)
    });
    free_kib.sum::<u64>() / 1024
}

/// EAL's command line.
fn arguments(config: &EalConfig, hugepages: bool) -> Result<Vec<String>, EalError> {
    let name_is_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if config.file_prefix.is_empty() || !config.file_prefix.chars().all(name_is_safe) {
        return Err(EalError::BadFilePrefix(config.file_prefix.clone()));
    }
    let cpus = match &config.control_cpus[..] {
        [] => super::thread::allowed_cpus().map_err(EalError::CpusUnknown)?,
        cpus => cpus.to_vec(),
    };
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut arguments = vec![
        "dr-director".to_owned(),
        // One lcore, the control thread; workers register themselves.
        "--lcores".to_owned(),
        format!("0@({})", cpus.join(",")),
        format!("--file-prefix={}", config.file_prefix),
        "--no-shconf".to_owned(),
        "--no-telemetry".to_owned(),
        format!("--log-level={}", config.log_level.name()),
    ];
    if matches!(config.log_level, LogLevel::Info | LogLevel::Debug) {
        // The line above is the limit; each component has a lower one of its own (notice).
        arguments.push(format!("--log-level=*:{}", config.log_level.name()));
    }
    let pci = config.devices.iter().any(|device| is_pci_address(device));
    if hugepages {
        arguments.push("--in-memory".to_owned());
    } else {
        // 22.11 refuses --in-memory with --no-huge; nothing is shared there anyway.
        arguments.extend(["--no-huge".to_owned(), "-m".to_owned(), config.memory_mib.to_string()]);
        if !pci {
            // With physical addresses no mbuf may cross a page, which in 4 KiB pages wastes nearly half.
            arguments.push("--iova-mode=va".to_owned());
        }
    }
    if !pci {
        arguments.push("--no-pci".to_owned());
    }
    for device in &config.devices {
        arguments.push(if is_pci_address(device) { "-a".to_owned() } else { "--vdev".to_owned() });
        arguments.push(device.clone());
    }
    arguments.extend(config.extra_args.iter().cloned());
    Ok(arguments)
}

fn start(arguments: &[String]) -> Result<(), EalError> {
    let arguments_for_c: Vec<CString> = arguments
        .iter()
        .map(|argument| {
            CString::new(argument.as_str()).map_err(|_| EalError::NulInArgument(argument.clone()))
        })
        .collect::<Result<_, _>>()?;
    // Leaked, a few hundred bytes once in a process: EAL keeps pointers to some.
    let mut pointers: Vec<*mut c_char> = arguments_for_c.into_iter().map(CString::into_raw).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    pointers.push(std::ptr::null_mut());
    let pointers = pointers.leak();
    // SAFETY: `pointers` is an argv as C wants it: NUL-terminated strings that may be written and live for ever, and a
    // null at the end. The caller makes sure that EAL is started once. stderr is open for the life of the process.
    let result = unsafe {
        dpdk_sys::dr_log_to_stderr();
        dpdk_sys::rte_eal_init(count, pointers.as_mut_ptr())
    };
    if result < 0 {
        return Err(EalError::Refused { source: Errno::of_thread(), arguments: arguments.to_vec() });
    }
    Ok(())
}

/// EAL's folder for this file prefix; nothing where it does not end in the prefix, so that no other is touched.
fn runtime_directory(file_prefix: &str) -> Option<PathBuf> {
    // SAFETY: always a static NUL-terminated text; empty until EAL has made the folder, which it does early in its start.
    let directory = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
    let directory = PathBuf::from(directory.to_str().ok()?);
    directory.ends_with(file_prefix).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_a_pci_address_or_a_virtual_device() {
        for device in ["0000:03:00.0", "03:00.1", "0000:5e:00.0,mprq_en=0"] {
            assert!(is_pci_address(device), "{device}");
        }
        for device in
            ["net_tap0,iface=dr0", "net_pcap0,rx_pcap=/a/b:c/d.e", "", "net_null0", "03:00", ":.", "eth0.5"]
        {
            assert!(!is_pci_address(device), "{device}");
        }
        assert_eq!(device_name("net_tap0,iface=dr0"), "net_tap0");
        assert_eq!(device_name("net_null0"), "net_null0");
    }

    #[test]
    fn arguments_without_hugepages_and_pci_devices_say_so() {
        let config = EalConfig {
            control_cpus: vec![0, 2],
            memory_mib: 64,
            file_prefix: "test".to_owned(),
            devices: vec!["net_null0,size=60".to_owned()],
            ..EalConfig::default()
        };
        let line = arguments(&config, false).unwrap().join(" ");
        assert_eq!(
            line,
            "dr-director --lcores 0@(0,2) --file-prefix=test --no-shconf --no-telemetry --log-level=warning --no-huge \
             -m 64 --iova-mode=va --no-pci --vdev net_null0,size=60"
        );
    }

    #[test]
    fn arguments_with_hugepages_and_a_pci_device_probe_that_device_only() {
        let config = EalConfig { devices: vec!["0000:03:00.0".to_owned()], ..EalConfig::default() };
        let arguments = arguments(&config, true).unwrap();
        assert!(arguments.contains(&"--in-memory".to_owned()));
        assert!(!arguments.iter().any(|argument| argument == "--no-pci" || argument == "--no-huge"));
        assert!(arguments.ends_with(&["-a".to_owned(), "0000:03:00.0".to_owned()]));
    }

    #[test]
    fn file_prefix_that_leaves_its_folder_is_refused() {
        for prefix in ["", "../x", "a/b", "a b"] {
            let config = EalConfig { file_prefix: prefix.to_owned(), ..EalConfig::default() };
            assert!(matches!(arguments(&config, false), Err(EalError::BadFilePrefix(_))), "{prefix:?}");
        }
    }

    #[test]
    fn required_hugepages_that_are_missing_are_an_error_and_wanted_ones_a_reason() {
        let mut config =
            EalConfig { memory_mib: u32::MAX, hugepages: HugepageUse::Required, ..EalConfig::default() };
        let error = choose_hugepages(&config).unwrap_err();
        assert!(error.to_string().contains("4294967295 MiB are required"), "{error}");
        config.hugepages = HugepageUse::Auto;
        let chosen = choose_hugepages(&config).unwrap();
        assert!(chosen.to_string().contains("4294967295 MiB are needed"), "{chosen}");
    }

    #[test]
    fn free_hugepages_of_a_machine_without_any_are_zero() {
        assert_eq!(free_hugepages_mib(Path::new("/nonexistent")), 0);
    }

    #[test]
    fn version_is_a_release_that_the_bindings_are_written_for() {
        assert!(Eal::dpdk_version().starts_with("DPDK 2"), "{}", Eal::dpdk_version());
    }
}
