//! Real DPDK ports on drivers that need no hardware, hugepages or privileges: frames in and out, errors, mbufs given
//! back. EAL starts once in a process, so all devices are made at once and each is one test's.
#![cfg(feature = "dpdk")]

mod pcap;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dataplane::dpdk::eal::{Eal, EalConfig, EalError, HugepageUse, HugepagesInUse};
use dataplane::dpdk::mbuf::Mbuf;
use dataplane::dpdk::mempool::{MbufPool, PoolConfig};
use dataplane::dpdk::port::{Port, PortConfig, PortError};
use dataplane::dpdk::queue::PortQueuePair;
use dataplane::dpdk::thread::{allowed_cpus, spawn_worker};
use dataplane::port::{BURST, Burst, ChecksumStatus, Frame, FramePool, PortStatus, QueuePair};

/// Started by the first test to need it and never ended: tests run on threads of their own, in any order.
fn eal() -> &'static Eal {
    static EAL: OnceLock<&'static Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        // Renamed into place: under nextest other processes read it meanwhile.
        let unfinished = file(&format!("in.pcap-{}", std::process::id()));
        std::fs::write(&unfinished, pcap::file_of(&pcap_frames())).expect("the target folder is writable");
        std::fs::rename(unfinished, file("in.pcap")).expect("the target folder is writable");
        let devices = [
            "net_ring0".to_owned(),
            "net_ring1".to_owned(),
            "net_ring2".to_owned(),
            "net_null0,size=64".to_owned(),
            "net_null1".to_owned(),
            "net_null2".to_owned(),
            format!("net_pcap0,rx_pcap={},tx_pcap={}", file("in.pcap").display(), file("out.pcap").display()),
            format!("net_pcap1,rx_pcap={},infinite_rx=1", file("in.pcap").display()),
            format!("net_pcap2,rx_pcap={}", file("in.pcap").display()),
        ];
        let config = EalConfig {
            hugepages: HugepageUse::Off,
            memory_mib: 128,
            file_prefix: format!("dr-test-port-{}", std::process::id()),
            devices: devices.into(),
            ..EalConfig::default()
        };
        Box::leak(Box::new(Eal::init(config).expect("EAL starts without hugepages, devices or privileges")))
    })
}

/// In a folder that cargo makes for tests and removes with the target folder.
fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dpdk_port-{name}"))
}

fn pcap_frames() -> Vec<Vec<u8>> {
    (0..40).map(|number| vec![number; 60 + usize::from(number)]).collect()
}

fn pool(mbufs: u32) -> MbufPool {
    MbufPool::new(eal(), &PoolConfig { mbufs, data_room: 2176, near: None })
        .expect("128 MiB hold a few small pools")
}

fn start(device: &str, workers: u16, pool: &MbufPool) -> (Port, Vec<PortQueuePair>) {
    let mut config = PortConfig::new(device, workers);
    (config.rx_descriptors, config.tx_descriptors) = (256, 256);
    Port::start(eal(), &config, pool).expect("the device exists and can do this")
}

#[test]
fn frames_sent_into_a_loopback_come_back_and_are_counted_and_freed() {
    let pool = pool(1023);
    let (port, mut pairs) = start("net_ring0", 1, &pool);
    let pair = &mut pairs[0];
    assert_eq!(port.driver(), "net_ring");
    let mut burst = Burst::new();
    for number in 0..BURST {
        burst.push(pool.frame(&vec![number as u8; 60 + number]).unwrap());
    }
    assert_eq!(pair.transmit(&mut burst), BURST);
    assert!(burst.is_empty());
    assert_eq!(pool.available(), 1023 - BURST as u32);

    pair.receive(&mut burst);
    assert_eq!(burst.len(), BURST);
    for (number, frame) in burst.iter_mut().enumerate() {
        assert_eq!(frame.bytes(), vec![number as u8; 60 + number]);
        assert!(frame.is_contiguous());
        assert_eq!(frame.ip_checksum(), ChecksumStatus::Unknown);
        frame.prefetch();
        frame.bytes_mut()[0] = 0xee;
        assert_eq!(frame.bytes()[0], 0xee);
    }
    let statistics = port.statistics();
    assert_eq!((statistics.rx_packets, statistics.tx_packets), (BURST as u64, BURST as u64));
    assert!(statistics.link_is_up);

    Mbuf::free_burst(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(pool.available(), 1023);
}

#[test]
fn receive_appends_to_a_burst_and_leaves_what_does_not_fit() {
    let pool = pool(1023);
    let (_port, mut pairs) = start("net_ring1", 1, &pool);
    let mut burst = Burst::new();
    for number in 0..2 * BURST {
        burst.push(pool.frame(&[number as u8; 60]).unwrap());
        if burst.is_full() {
            assert_eq!(pairs[0].transmit(&mut burst), BURST);
        }
    }
    burst.push(pool.frame(&[0xaa; 60]).unwrap());
    pairs[0].receive(&mut burst);
    assert_eq!(burst.len(), BURST);
    let firsts: Vec<u8> = burst.iter().map(|frame| frame.bytes()[0]).collect();
    let expected: Vec<u8> = std::iter::once(0xaa).chain(0..BURST as u8 - 1).collect();
    assert_eq!(firsts, expected);
    pairs[0].receive(&mut burst);
    assert_eq!(burst.len(), BURST, "a full burst takes nothing");
    burst.clear();
    pairs[0].receive(&mut burst);
    pairs[0].receive(&mut burst);
    assert_eq!(burst.len(), BURST);
    burst.clear();
    pairs[0].receive(&mut burst);
    assert_eq!(burst.len(), 1);
    drop(burst);
    assert_eq!(pool.available(), 1023);
}

#[test]
fn transmit_into_a_full_queue_keeps_the_rest_in_order() {
    let pool = pool(2047);
    let (port, mut pairs) = start("net_ring2", 1, &pool);
    let mut sent = 0_u32;
    let mut burst = Burst::new();
    loop {
        for number in sent..sent + BURST as u32 {
            burst.push(pool.frame(&number.to_be_bytes()).unwrap());
        }
        let taken = pairs[0].transmit(&mut burst);
        sent += taken as u32;
        if taken < BURST {
            break;
        }
    }
    // A ring of 1024 holds one less.
    assert_eq!(sent, 1023);
    assert_eq!(burst.len(), 1);
    assert_eq!(burst[0].bytes()[..4], sent.to_be_bytes());
    assert_eq!(pairs[0].transmit(&mut burst), 0);
    assert_eq!(burst.len(), 1);
    assert_eq!(pairs[0].transmit(&mut Burst::new()), 0);
    burst.clear();
    loop {
        pairs[0].receive(&mut burst);
        if burst.is_empty() {
            break;
        }
        Mbuf::free_burst(&mut burst);
    }
    assert_eq!(pool.available(), 2047);
    assert_eq!(port.statistics().tx_packets, 1023);
}

#[test]
fn frames_of_a_capture_file_come_in_and_go_out_unchanged() {
    let pool = pool(1023);
    let (port, mut pairs) = start("net_pcap0", 1, &pool);
    let mut burst = Burst::new();
    let mut forwarded = 0;
    while forwarded < 40 {
        pairs[0].receive(&mut burst);
        assert!(!burst.is_empty(), "{forwarded} of 40 frames, then nothing");
        forwarded += pairs[0].transmit(&mut burst);
    }
    let statistics = port.statistics();
    let bytes: u64 = pcap_frames().iter().map(|frame| frame.len() as u64).sum();
    assert_eq!((statistics.rx_packets, statistics.tx_packets), (40, 40));
    assert_eq!((statistics.rx_bytes, statistics.tx_bytes), (bytes, bytes));
    drop(pairs);
    port.stop().unwrap();
    assert_eq!(pcap::frames_of(&std::fs::read(file("out.pcap")).unwrap()), pcap_frames());
    assert_eq!(pool.available(), 1023);
}

#[test]
fn endless_capture_file_keeps_giving_frames() {
    let pool = pool(1023);
    let (port, mut pairs) = start("net_pcap1", 1, &pool);
    let mut burst = Burst::new();
    for _ in 0..100 {
        pairs[0].receive(&mut burst);
        assert_eq!(pairs[0].transmit(&mut burst), BURST);
    }
    assert_eq!(port.statistics().rx_packets, 100 * BURST as u64);
    drop((port, pairs));
    assert_eq!(pool.available(), 1023, "those that the driver held as its copy are back too");
}

#[test]
fn more_workers_than_queues_is_an_error_with_both_numbers_and_the_way_out() {
    let error = Port::start(eal(), &PortConfig::new("net_pcap2,rx_pcap=ignored", 3), &pool(63)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port net_pcap2 (driver net_pcap): 3 workers need 3 RX and 3 TX queues, the port has 1 RX and 1 TX: start at \
         most 1 workers, or give the device 3 `rx_pcap=` and 3 `tx_pcap=` files"
    );
    let error = Port::start(eal(), &PortConfig::new("net_pcap2", 0), &pool(63)).unwrap_err();
    assert!(matches!(error, PortError::NoWorkers { .. }), "{error}");
}

#[test]
fn device_that_is_not_there_is_an_error_that_lists_those_there_are() {
    let error =
        Port::start(eal(), &PortConfig::new("net_tap7,iface=x", 1), &pool(63)).unwrap_err().to_string();
    assert!(error.starts_with("port net_tap7: DPDK has no such device; it has "), "{error}");
    assert!(error.contains("net_ring0"), "{error}");
    let error = Port::start(eal(), &PortConfig::new("0000:03:00.0", 1), &pool(63)).unwrap_err().to_string();
    assert!(error.contains("vfio-pci"), "{error}");
}

#[test]
fn port_runs_until_its_last_queue_pair_is_dropped_and_is_started_once() {
    let pool = pool(1023);
    let (port, mut pairs) = start("net_null1", 2, &pool);
    assert_eq!(pairs.iter().map(PortQueuePair::queue).collect::<Vec<_>>(), [0, 1]);
    let error = Port::start(eal(), &PortConfig::new("net_null1", 1), &pool).unwrap_err();
    assert!(matches!(error, PortError::AlreadyStarted { .. }), "{error}");
    let error = port.stop().unwrap_err();
    assert!(matches!(error, PortError::QueuesInUse { held: 2, .. }), "{error}");
    let mut burst = Burst::new();
    pairs[1].receive(&mut burst);
    assert_eq!(burst.len(), BURST);
    drop(burst);
    drop(pairs);
    assert_eq!(pool.available(), 1023);
    let error = Port::start(eal(), &PortConfig::new("net_null1", 1), &pool).unwrap_err();
    assert!(matches!(error, PortError::NotFound { .. }), "closed for good: {error}");
}

#[test]
fn mtu_and_mbuf_size_that_do_not_go_together_are_an_error_before_anything_starts() {
    let pool = pool(63);
    let mut config = PortConfig::new("net_null2", 1);
    config.mtu = Some(9000);
    let error = Port::start(eal(), &config, &pool).unwrap_err();
    assert!(matches!(error, PortError::MbufsTooSmall { needed: 9150, data_room: 2176, .. }), "{error}");
    config.mtu = Some(20);
    let error = Port::start(eal(), &config, &pool).unwrap_err();
    assert!(matches!(error, PortError::MtuOutOfRange { .. }), "{error}");
    config.mtu = None;
    let (port, _pairs) = Port::start(eal(), &config, &pool).unwrap();
    assert_eq!(port.mtu(), 1500);
    assert_ne!(port.mac(), [0; 6]);
}

#[test]
fn pool_gives_each_mbuf_once_pads_with_zeros_and_takes_several_for_a_long_frame() {
    let pool = pool(63);
    // Every buffer is dirty.
    let dirty: Vec<Mbuf> = std::iter::from_fn(|| pool.frame(&[0xff; 2048])).collect();
    assert_eq!(dirty.len(), 63);
    assert!(pool.frame(b"none left").is_none());
    let buffers: HashSet<*const u8> = dirty.iter().map(|frame| frame.bytes().as_ptr()).collect();
    assert_eq!(buffers.len(), 63);
    drop(dirty);
    assert_eq!((pool.available(), pool.capacity()), (63, 63));

    let short = pool.frame(b"short").unwrap();
    assert_eq!(short.bytes().len(), 60);
    assert!(short.bytes()[5..].iter().all(|&byte| byte == 0));
    assert_eq!(pool.frame(&[1; 2048]).unwrap().bytes(), [1; 2048]);
    let long = pool.frame(&[1; 2049]).unwrap();
    assert_eq!(
        (long.length(), long.bytes().len()),
        (2049, 2048),
        "2176 less the headroom of 128, and one in the next"
    );
    drop(long);
    assert!(pool.frame(&[1; 2048 * 63 + 1]).is_none(), "more than all mbufs hold");
    drop(short);
    assert_eq!(pool.available(), 63);
}

#[test]
fn registered_workers_on_queues_of_one_port_forward_and_give_all_mbufs_back() {
    static STOP: AtomicBool = AtomicBool::new(false);
    eal();
    let pool = pool(4095);
    let (port, pairs) = start("net_null0", 2, &pool);
    let cpu = allowed_cpus().unwrap()[0];
    let workers: Vec<_> = pairs
        .into_iter()
        .map(|mut pair| {
            let work = move || {
                let mut burst = Burst::new();
                let mut sent = 0;
                while !STOP.load(Ordering::Relaxed) {
                    pair.receive(&mut burst);
                    sent += pair.transmit(&mut burst) as u64;
                }
                sent
            };
            spawn_worker("dr-worker", cpu, work).unwrap()
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while port.statistics().tx_packets < 10_000 {
        assert!(Instant::now() < deadline, "{:?}", port.statistics());
        std::thread::sleep(Duration::from_millis(5));
    }
    STOP.store(true, Ordering::Relaxed);
    let sent: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    let statistics = port.statistics();
    assert_eq!((statistics.rx_packets, statistics.tx_packets), (sent, sent));
    assert_eq!(pool.available(), 4095);
    port.stop().unwrap();
}

#[test]
fn second_start_of_eal_is_refused_and_the_first_says_that_it_uses_no_hugepages() {
    let HugepagesInUse::No { reason } = eal().hugepages() else { panic!("started without hugepages") };
    assert_eq!(reason, "hugepages are switched off");
    assert!(matches!(Eal::init(EalConfig::default()), Err(EalError::AlreadyStarted)));
}
