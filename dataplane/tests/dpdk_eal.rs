//! The whole life of EAL in one process, hence one test: start, work, everything dropped, end, nothing left behind.
#![cfg(feature = "dpdk")]

use std::path::Path;

use dataplane::dpdk::eal::{Eal, EalConfig, EalError, HugepageUse};
use dataplane::dpdk::mempool::{MbufPool, PoolConfig, PoolError};
use dataplane::dpdk::port::{Port, PortConfig};
use dataplane::dpdk::thread::{allowed_cpus, spawn_worker};
use dataplane::port::{Burst, FramePool, QueuePair};

#[test]
fn eal_starts_pins_the_control_thread_ends_once_all_is_dropped_and_leaves_no_folder() {
    let cpus = allowed_cpus().unwrap();
    let control = cpus[0];
    let file_prefix = format!("dr-test-eal-{}", std::process::id());
    let ports = [PortConfig::new("net_null0", 1)];
    let pool_config = PoolConfig::for_ports(&ports);
    let config = EalConfig {
        control_cpus: vec![control],
        hugepages: HugepageUse::Off,
        memory_mib: pool_config.memory_mib() + 32,
        file_prefix: file_prefix.clone(),
        devices: vec!["net_null0".to_owned()],
        ..EalConfig::default()
    };
    let eal = Eal::init(config).unwrap();
    assert_eq!(allowed_cpus().unwrap(), [control]);
    for parent in ["/var/run/dpdk", "/run/dpdk", "/tmp/dpdk"] {
        let folder = Path::new(parent).join(&file_prefix);
        assert!(!folder.exists(), "{} is left behind while EAL runs", folder.display());
    }

    let nothing = PoolConfig { mbufs: 0, ..pool_config.clone() };
    assert!(matches!(MbufPool::new(&eal, &nothing), Err(PoolError::TooSmall { .. })));
    let too_large = PoolConfig { mbufs: (1 << 20) - 1, ..pool_config.clone() };
    let error = MbufPool::new(&eal, &too_large).unwrap_err();
    assert!(error.to_string().contains("need about 2436 MiB, DPDK was started for 74 MiB"), "{error}");

    // The failed attempt took no memory for good, and what `memory_mib` says is enough.
    let pool = MbufPool::new(&eal, &pool_config).unwrap();
    assert_eq!(pool.capacity(), 16_383);
    let (port, mut pairs) = Port::start(&eal, &ports[0], &pool).unwrap();
    let mut pair = pairs.remove(0);
    // The control thread is pinned elsewhere where there are two CPUs, and the worker still gets its own.
    let worker = spawn_worker("dr-worker-0", cpus[cpus.len() - 1], move || {
        let mut burst = Burst::new();
        pair.receive(&mut burst);
        pair.transmit(&mut burst);
        allowed_cpus().unwrap()
    });
    assert_eq!(worker.unwrap().join().unwrap(), [cpus[cpus.len() - 1]]);

    let frame = pool.frame(b"in hand").unwrap();
    port.stop().unwrap();
    drop(frame);
    drop(pool);
    eal.cleanup().unwrap();
    assert!(matches!(Eal::init(EalConfig::default()), Err(EalError::AlreadyStarted)));
    assert!(
        spawn_worker("dr-after", control, || ()).is_ok(),
        "without EAL a worker is pinned and not registered"
    );
}
