//! Mbufs in chains, and frames that are longer than an mbuf or tagged, over ports that need no privileges: nothing of
//! them is lost, and every mbuf comes back. EAL starts once in a process, so all devices are made at once and each is one
//! test's. What kernel interfaces do with such frames is in `dpdk_interfaces.rs`.
#![cfg(feature = "dpdk")]

mod frame_model;
mod pcap;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use dataplane::clock::{TICKS_PER_SECOND, Ticks};
use dataplane::dpdk::eal::{Eal, EalConfig, HugepageUse};
use dataplane::dpdk::mbuf::Mbuf;
use dataplane::dpdk::mempool::{MbufPool, PoolConfig};
use dataplane::dpdk::port::{Port, PortConfig, PortError};
use dataplane::dpdk::queue::PortQueuePair;
use dataplane::fragments::{FragmentKey, FragmentLimits, FragmentTable, Later, Piece};
use dataplane::port::{Burst, Frame, FramePool, PortStatus, QueuePair};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Room for an Ethernet frame in one mbuf, and for one of 9,600 bytes with both tags.
const STANDARD: u16 = 2176;
const JUMBO: u16 = 9600 + 22 + 128;

fn eal() -> &'static Eal {
    static EAL: OnceLock<&'static Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let unfinished = file(&format!("in.pcap-{}", std::process::id()));
        std::fs::write(&unfinished, pcap::file_of(&long_and_tagged()))
            .expect("the target folder is writable");
        std::fs::rename(unfinished, file("in.pcap")).expect("the target folder is writable");
        let mut devices = vec![
            "net_ring0".to_owned(),
            "net_ring1".to_owned(),
            "net_null0".to_owned(),
            format!("net_pcap0,rx_pcap={},tx_pcap={}", file("in.pcap").display(), file("out.pcap").display()),
        ];
        for (pair, arguments) in [(0, ""), (1, ",bsize=9728")] {
            let socket = format!("socket=dr-test-{}-{pair}", std::process::id());
            devices.push(format!("net_memif{},role=server,id={pair},{socket}{arguments}", 2 * pair));
            devices.push(format!("net_memif{},role=client,id={pair},{socket}{arguments}", 2 * pair + 1));
        }
        let config = EalConfig {
            hugepages: HugepageUse::Off,
            memory_mib: 256,
            file_prefix: format!("dr-test-frames-{}", std::process::id()),
            devices,
            ..EalConfig::default()
        };
        Box::leak(Box::new(Eal::init(config).expect("EAL starts without hugepages, devices or privileges")))
    })
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dpdk_frames-{name}"))
}

fn pool(mbufs: u32, data_room: u16) -> MbufPool {
    MbufPool::new(eal(), &PoolConfig { mbufs, data_room, near: None })
        .expect("256 MiB hold a few small pools")
}

fn start(device: &str, mtu: Option<u16>, pool: &MbufPool) -> (Port, PortQueuePair) {
    let config = PortConfig { rx_descriptors: 256, tx_descriptors: 256, mtu, ..PortConfig::new(device, 1) };
    let (port, mut pairs) = Port::start(eal(), &config, pool).unwrap();
    (port, pairs.remove(0))
}

/// Frames of many lengths, some tagged once or twice.
fn long_and_tagged() -> Vec<Vec<u8>> {
    [60, 1514, 1518, 2047, 2048, 2049, 4000, 4096, 9014, 9618]
        .into_iter()
        .enumerate()
        .map(|(number, length)| {
            let mut frame: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
            match number % 3 {
                0 => frame[12..14].copy_from_slice(&[0x08, 0x00]),
                1 => frame[12..18].copy_from_slice(&[0x81, 0x00, 0x60, 0x64, 0x08, 0x00]),
                _ => frame[12..22].copy_from_slice(&[0x88, 0xa8, 0, 10, 0x81, 0x00, 0, 100, 0x86, 0xdd]),
            }
            frame
        })
        .collect()
}

fn whole(frame: &Mbuf) -> Vec<u8> {
    let mut bytes = vec![0; frame.length()];
    assert_eq!(frame.copy_to(0, &mut bytes), bytes.len());
    bytes
}

/// Sends everything through `from`, and returns what `to` receives, in order.
fn carry(from: &mut PortQueuePair, to: &mut PortQueuePair, frames: Vec<Mbuf>) -> Vec<Mbuf> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let expected = frames.len();
    let mut received = Vec::new();
    let mut frames = frames.into_iter();
    let mut outgoing = Burst::new();
    while received.len() < expected {
        assert!(Instant::now() < deadline, "{} of {expected} frames", received.len());
        let room = outgoing.remaining_capacity();
        outgoing.extend(frames.by_ref().take(room));
        from.transmit(&mut outgoing);
        let mut incoming = Burst::new();
        to.receive(&mut incoming);
        received.extend(incoming);
    }
    received
}

fn wait_for_link(port: &Port) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !port.statistics().link_is_up {
        assert!(Instant::now() < deadline, "no link");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn mbufs_are_what_the_model_says_after_each_change() {
    let pool = pool(63, STANDARD);
    let strategy = (frame_model::segments(), frame_model::steps());
    TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })
        .run(&strategy, |(segments, steps)| {
            let contents = frame_model::contents(&segments);
            let frame = pool.frame_of_segments(contents.iter().map(Vec::as_slice)).unwrap();
            let in_use = || (pool.capacity() - pool.available()) as usize;
            frame_model::compare(frame, contents, &steps, in_use);
            Ok(())
        })
        .unwrap();
}

/// Cut into pieces that no boundary of a buffer or header has anything to do with.
fn in_pieces(pool: &MbufPool, bytes: &[u8]) -> Mbuf {
    pool.frame_of_segments(bytes.chunks(701)).unwrap()
}

#[test]
fn chain_goes_through_a_ring_as_it_is_and_its_first_segments_can_be_taken_off() {
    let pool = pool(255, STANDARD);
    let (port, mut pair) = start("net_ring0", Some(9600), &pool);
    assert!(port.capabilities().segments);
    let frames = long_and_tagged();
    let mut burst: Burst<Mbuf> = frames.iter().map(|bytes| in_pieces(&pool, bytes)).collect();
    assert_eq!(pair.transmit(&mut burst), frames.len());
    pair.receive(&mut burst);
    assert_eq!(burst.iter().map(whole).collect::<Vec<_>>(), frames);
    let last = burst.last_mut().unwrap();
    assert_eq!((last.length(), last.bytes().len()), (9618, 701));
    assert!(last.remove_front(1500) && last.prepend(98));
    assert_eq!(
        (last.length(), last.bytes().len()),
        (9618 - 1402, 701),
        "what was the third segment is full again"
    );
    assert!(!last.prepend(1403), "there is headroom, but not as much");
    let mut burst: Burst<Mbuf> = burst.into_iter().collect();
    Mbuf::free_burst(&mut burst);
    assert_eq!(pool.available(), 255);
}

#[test]
fn chain_is_copied_for_a_port_that_may_not_be_given_one_and_comes_through_a_pair_of_memif() {
    let pool = pool(1023, JUMBO);
    let (server, mut there) = start("net_memif2,bsize=9728", Some(9600), &pool);
    let (client, mut here) = start("net_memif3,bsize=9728", Some(9600), &pool);
    assert_eq!((server.mtu(), client.mtu()), (9600, 9600));
    assert!(!server.capabilities().segments);
    wait_for_link(&server);
    wait_for_link(&client);
    // Round the ring of 1024 more than once: a descriptor left as part of a chain would glue two frames together.
    for _ in 0..120 {
        let frames = long_and_tagged().iter().map(|bytes| in_pieces(&pool, bytes)).collect();
        let answers = carry(&mut here, &mut there, frames);
        assert_eq!(answers.iter().map(whole).collect::<Vec<_>>(), long_and_tagged());
        let received = carry(&mut there, &mut here, answers);
        assert_eq!(received.iter().map(whole).collect::<Vec<_>>(), long_and_tagged());
    }
    assert_eq!(pool.available(), 1023);
}

#[test]
fn mtu_of_a_memif_is_what_its_buffers_hold() {
    let config = |device: &str, mtu| PortConfig { mtu: Some(mtu), ..PortConfig::new(device, 1) };
    let large = pool(63, JUMBO);
    let error = Port::start(eal(), &config("net_memif0", 9000), &large).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port net_memif0 (driver net_memif): mtu 9000 is not within 46 and 2026, or add `bsize=9728` to the device, on \
         both ends"
    );
    let small = pool(63, STANDARD);
    let error = Port::start(eal(), &config("net_memif0,bsize=9728", 9000), &small).unwrap_err();
    assert!(
        matches!(error, PortError::MbufsTooSmall { needed: 9150, .. }),
        "chains are not for memif: {error}"
    );
    let (port, _pair) = start("net_memif0", Some(2026), &large);
    assert_eq!(port.mtu(), 2026);
}

#[test]
fn long_and_tagged_frames_of_a_capture_file_come_in_chains_and_go_out_unchanged() {
    let pool = pool(255, STANDARD);
    let (port, mut pair) = start("net_pcap0", Some(9600), &pool);
    let frames = long_and_tagged();
    let mut burst = Burst::new();
    let mut forwarded = 0;
    while forwarded < frames.len() {
        pair.receive(&mut burst);
        assert!(!burst.is_empty(), "{forwarded} frames, then nothing");
        assert!(burst.iter().all(|frame| frame.is_contiguous() == (frame.length() <= 2048)));
        assert!(burst.iter().all(|frame| frame.vlan_tci().is_none()));
        forwarded += pair.transmit(&mut burst);
    }
    drop(pair);
    port.stop().unwrap();
    assert_eq!(pcap::frames_of(&std::fs::read(file("out.pcap")).unwrap()), frames);
    assert_eq!(pool.available(), 255);
}

#[test]
fn chain_that_is_sent_to_nowhere_comes_back_whole() {
    let pool = pool(255, STANDARD);
    let (port, mut pair) = start("net_null0", None, &pool);
    let mut burst: Burst<Mbuf> = long_and_tagged().iter().map(|bytes| in_pieces(&pool, bytes)).collect();
    assert_eq!(pair.transmit(&mut burst), 10);
    drop((port, pair));
    assert_eq!(pool.available(), 255);
}

#[test]
fn allocated_frame_is_empty_with_headroom_and_ends_with_the_pool() {
    let pool = pool(15, STANDARD);
    let (_port, mut pair) = start("net_ring1", None, &pool);
    let mut frame = pair.allocate().unwrap();
    assert_eq!((frame.length(), frame.is_contiguous()), (0, true));
    assert!(frame.append(2048) && frame.prepend(128));
    assert!(!frame.append(1) && !frame.prepend(1));
    assert_eq!(frame.length(), usize::from(STANDARD));
    let others: Vec<Mbuf> = std::iter::from_fn(|| pair.allocate()).collect();
    assert_eq!(others.len(), 14);
}

#[test]
fn every_mbuf_of_a_held_fragment_comes_back() {
    let pool = pool(1023, STANDARD);
    let limits = FragmentLimits::default();
    let mut table = FragmentTable::<u32, Mbuf>::new(limits);
    let (now, piece) = (Ticks(0), Piece { offset: 8, length: 8, is_last: true });
    let key = |id| FragmentKey::v4(Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 10), 17, id);
    for id in 0..2000 {
        // Of one mbuf and of two.
        let frame = pool.frame(&vec![0; 60 + 4000 * usize::from(id % 2)]).unwrap();
        assert_eq!(table.on_later(&key(id), piece, now), Later::Hold);
        table.hold(&key(id), piece, frame, now, |frame, _| drop(frame)).unwrap();
    }
    assert_eq!(pool.capacity() - pool.available(), limits.held / 2 * 3);
    let mut released = Burst::new();
    for id in 1990..2000 {
        table.on_first(&key(id), piece, 7, now, |frame, _| released.push(frame));
    }
    assert_eq!(released.len(), 10);
    Mbuf::free_burst(&mut released);
    table.expire(now.after(31 * TICKS_PER_SECOND), 100, |frame, _| drop(frame));
    assert_eq!(table.held(), limits.held - 110);
    table.drain(|frame, _| drop(frame));
    assert_eq!(pool.available(), pool.capacity());
}
