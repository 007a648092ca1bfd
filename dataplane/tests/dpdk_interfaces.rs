//! Long and tagged frames over ports on kernel interfaces. Needs root: each test starts itself once more in a network
//! namespace of its own, where it makes its interfaces, and with which they vanish.
#![cfg(feature = "dpdk")]

use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::dpdk::eal::{Eal, EalConfig, HugepageUse};
use dataplane::dpdk::mbuf::Mbuf;
use dataplane::dpdk::mempool::{MbufPool, PoolConfig};
use dataplane::dpdk::port::{Port, PortConfig};
use dataplane::dpdk::queue::PortQueuePair;
use dataplane::packet::checksum::checksum;
use dataplane::port::{Burst, Frame, FramePool, PortStatus, QueuePair};

const STANDARD: u16 = 2176;
/// Room for a frame of af_packet's ring of 16 KiB.
const HUGE: u16 = 16384 - 32 + 128;

/// First bytes of our frames: an address of nobody, so that the kernel's own frames on the interface are told apart.
const MARK: [u8; 6] = [0x02, 0xfe, 0xed, 0, 0, 1];

/// Runs the rest of `test` in a namespace of its own; false in the process that only waits for that.
fn is_inside(test: &str) -> bool {
    if std::env::var_os("DR_TEST_INSIDE").is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("DR_TEST_INSIDE", "1")
        .output()
        .expect("unshare is there (util-linux)");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    print!("{said}");
    false
}

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two ends of a cable, without the kernel's own traffic on them as far as it can be kept off.
fn make_cable(mtu: u16) {
    run(&format!("ip link add east mtu {mtu} type veth peer name west mtu {mtu}"));
    for end in ["east", "west"] {
        drop(run(&format!(
            "sysctl -qw net.ipv6.conf.{end}.disable_ipv6=1; ethtool -K {end} gro off gso off tso off tx off rx off; \
             ip link set {end} up"
        )));
    }
}

fn start_eal(devices: &[String]) -> Eal {
    Eal::init(EalConfig {
        hugepages: HugepageUse::Off,
        memory_mib: 128,
        file_prefix: format!("dr-test-interfaces-{}", std::process::id()),
        devices: devices.to_vec(),
        ..EalConfig::default()
    })
    .unwrap()
}

fn pool(eal: &Eal, mbufs: u32, data_room: u16) -> MbufPool {
    MbufPool::new(eal, &PoolConfig { mbufs, data_room, near: None }).unwrap()
}

fn start(eal: &Eal, device: &str, mtu: Option<u16>, pool: &MbufPool) -> (Port, PortQueuePair) {
    let config = PortConfig { rx_descriptors: 256, tx_descriptors: 256, mtu, ..PortConfig::new(device, 1) };
    let (port, mut pairs) = Port::start(eal, &config, pool).unwrap();
    (port, pairs.remove(0))
}

/// A frame of `length` bytes with these EtherTypes and tags after the addresses.
fn frame(length: usize, after_addresses: &[u8]) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
    frame[..6].copy_from_slice(&MARK);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[12..12 + after_addresses.len()].copy_from_slice(after_addresses);
    frame
}

const IPV4: &[u8] = &[0x08, 0x00];
const IPV6: &[u8] = &[0x86, 0xdd];
const TAGGED: &[u8] = &[0x81, 0x00, 0x60, 0x64, 0x08, 0x00];
const PRIORITY: &[u8] = &[0x81, 0x00, 0xa0, 0x00, 0x86, 0xdd];
const TWICE: &[u8] = &[0x81, 0x00, 0x00, 0x0a, 0x81, 0x00, 0x00, 0x64, 0x08, 0x00];
const PROVIDER: &[u8] = &[0x88, 0xa8, 0x00, 0x0a, 0x81, 0x00, 0x00, 0x64, 0x08, 0x00];

fn whole(frame: &Mbuf) -> Vec<u8> {
    let mut bytes = vec![0; frame.length()];
    frame.copy_to(0, &mut bytes);
    bytes
}

/// Sends the frame, cut into pieces of 311 bytes, and returns the next that comes at the other end, within a second.
fn carry(from: &mut PortQueuePair, to: &mut PortQueuePair, pool: &MbufPool, bytes: &[u8]) -> Option<Mbuf> {
    let mut burst = Burst::new();
    burst.push(pool.frame_of_segments(bytes.chunks(311)).unwrap());
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        from.transmit(&mut burst);
        let mut received = Burst::new();
        to.receive(&mut received);
        if let Some(frame) = received.into_iter().find(|frame| frame.bytes().starts_with(&MARK)) {
            return Some(frame);
        }
    }
    None
}

/// Until frames come through: a driver may be slow to notice the first.
fn warm_up(from: &mut PortQueuePair, to: &mut PortQueuePair, pool: &MbufPool) {
    let sent = (0..20).position(|_| carry(from, to, pool, &frame(60, IPV4)).is_some());
    assert!(sent.is_some(), "nothing comes through");
    while carry(from, to, pool, &frame(60, IPV6)).is_none_or(|frame| frame.bytes()[12..14] != *IPV6) {}
}

/// The frame arrives as it was sent, its tag in it.
fn assert_carried(from: &mut PortQueuePair, to: &mut PortQueuePair, pool: &MbufPool, bytes: &[u8]) {
    let arrived = carry(from, to, pool, bytes);
    let arrived = arrived.unwrap_or_else(|| panic!("{} bytes {:02x?}: nothing", bytes.len(), &bytes[12..22]));
    assert!(whole(&arrived) == bytes, "{} bytes {:02x?}: changed", bytes.len(), &bytes[12..22]);
    assert_eq!(arrived.vlan_tci(), None);
}

/// Three fragments of a UDP datagram of 3,060 bytes.
fn fragments(after_addresses: &[u8]) -> Vec<Vec<u8>> {
    [(0, true, 1480), (1480, true, 1480), (2960, false, 100)]
        .into_iter()
        .map(|(offset, has_more, length): (u16, bool, u16)| {
            let mut ip = [0x45, 0, 0, 0, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            ip[6..8].copy_from_slice(&(offset / 8 + (u16::from(has_more) << 13)).to_be_bytes());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            let mut fragment = frame(12 + after_addresses.len(), after_addresses);
            fragment.extend(ip);
            fragment.extend(vec![0; usize::from(length)]);
            fragment
        })
        .collect()
}

fn is_all_multicast(interface: &str) -> bool {
    run(&format!("ip -d link show {interface}")).contains("allmulti 1")
}

#[test]
fn af_packet_carries_chains_and_tags_and_accepts_multicast() {
    if !is_inside("af_packet_carries_chains_and_tags_and_accepts_multicast") {
        return;
    }
    make_cable(1500);
    assert!(!is_all_multicast("east"));
    let eal = start_eal(&["net_af_packet0,iface=east".to_owned(), "net_af_packet1,iface=west".to_owned()]);
    let pool = pool(&eal, 255, STANDARD);
    let (port, mut east) = start(&eal, "net_af_packet0", None, &pool);
    let (_port, mut west) = start(&eal, "net_af_packet1", None, &pool);
    assert!(port.accepts_all_multicast() && is_all_multicast("east"));
    assert!(port.capabilities().segments);
    warm_up(&mut east, &mut west, &pool);
    for after in [IPV4, TAGGED, PRIORITY, TWICE] {
        assert_carried(&mut east, &mut west, &pool, &frame(60, after));
        assert_carried(&mut east, &mut west, &pool, &frame(1514, after));
    }
    assert_carried(&mut east, &mut west, &pool, &frame(1518, TAGGED));
    // The kernel has the outer tag apart, and the driver puts it back as one of 802.1Q, whatever it was.
    let arrived = carry(&mut east, &mut west, &pool, &frame(60, PROVIDER)).unwrap();
    assert_eq!(arrived.bytes()[12..22], *TWICE);
    // Longer than the interface takes: lost, and the port has said that it is sent.
    assert!(carry(&mut east, &mut west, &pool, &frame(1515, IPV4)).is_none());
    drop(arrived);
    assert_eq!(pool.available(), 255);
    drop((port, east));
    assert!(!is_all_multicast("east"), "given up with the port");
}

#[test]
fn af_packet_reassembles_ipv4_fragments_and_cuts_the_datagram_off() {
    if !is_inside("af_packet_reassembles_ipv4_fragments_and_cuts_the_datagram_off") {
        return;
    }
    make_cable(1500);
    let eal = start_eal(&["net_af_packet0,iface=east".to_owned(), "net_af_packet1,iface=west".to_owned()]);
    let pool = pool(&eal, 255, STANDARD);
    let (_east, mut east) = start(&eal, "net_af_packet0", None, &pool);
    let (_west, mut west) = start(&eal, "net_af_packet1", None, &pool);
    warm_up(&mut east, &mut west, &pool);
    let arrived: Vec<Option<usize>> = fragments(IPV4)
        .iter()
        .map(|fragment| carry(&mut east, &mut west, &pool, fragment).map(|frame| frame.length()))
        .collect();
    // What the driver's own fan-out does, for which it has no switch: docs/OPERATIONS.md says so to the operator.
    assert_eq!(arrived, [None, None, Some(1982)]);
}

#[test]
fn af_packet_with_larger_frames_in_its_ring_carries_jumbo_frames() {
    if !is_inside("af_packet_with_larger_frames_in_its_ring_carries_jumbo_frames") {
        return;
    }
    make_cable(1500);
    let devices = ["net_af_packet0,iface=east", "net_af_packet1,iface=west"]
        .map(|device| format!("{device},blocksz=16384,framesz=16384,framecnt=64"));
    let eal = start_eal(&devices);
    let pool = pool(&eal, 255, HUGE);
    let (port, mut east) = start(&eal, &devices[0], Some(9600), &pool);
    let (_port, mut west) = start(&eal, &devices[1], Some(9600), &pool);
    assert_eq!(port.mtu(), 9600);
    assert!(run("ip link show east").contains("mtu 9600"));
    warm_up(&mut east, &mut west, &pool);
    for after in [IPV4, TAGGED, PRIORITY, TWICE] {
        for length in [60, 1514, 2000, 9000, 9614] {
            assert_carried(&mut east, &mut west, &pool, &frame(length, after));
        }
    }
    assert_carried(&mut east, &mut west, &pool, &frame(9618, TAGGED));
    assert_eq!(pool.available(), 255);
}

#[test]
fn af_packet_says_how_it_takes_a_larger_mtu() {
    if !is_inside("af_packet_says_how_it_takes_a_larger_mtu") {
        return;
    }
    make_cable(1500);
    let eal = start_eal(&["net_af_packet0,iface=east".to_owned()]);
    let pool = pool(&eal, 255, HUGE);
    let config = PortConfig { mtu: Some(9000), ..PortConfig::new("net_af_packet0,iface=east", 1) };
    let error = Port::start(&eal, &config, &pool).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port net_af_packet0 (driver net_af_packet): mtu 9000 is not within 46 and 1964, or add \
         `blocksz=16384,framesz=16384` to the device (and give mbufs of 16480 bytes)"
    );
    let (port, _pair) = start(&eal, "net_af_packet0,iface=east", Some(1900), &pool);
    assert_eq!(port.mtu(), 1900);
}

#[test]
fn af_packet_without_an_mtu_takes_no_more_than_its_interface_and_no_more_than_1500() {
    if !is_inside("af_packet_without_an_mtu_takes_no_more_than_its_interface_and_no_more_than_1500") {
        return;
    }
    make_cable(9000);
    run("ip link set east mtu 1400");
    let devices = ["net_af_packet0,iface=east", "net_af_packet1,iface=west"];
    let eal = start_eal(&devices.map(str::to_owned));
    let pool = pool(&eal, 2047, HUGE);
    let mtus = devices.map(|device| start(&eal, device, None, &pool).0.mtu());
    assert_eq!(mtus, [1400, 1500]);
}

#[test]
fn tap_carries_chains_and_tags_both_ways_and_fragments_as_they_are() {
    if !is_inside("tap_carries_chains_and_tags_both_ways_and_fragments_as_they_are") {
        return;
    }
    let devices = ["net_tap0,iface=tap0".to_owned(), "net_af_packet0,iface=tap0".to_owned()];
    let eal = start_eal(&devices);
    let pool = pool(&eal, 1023, STANDARD);
    let (port, mut tap) = start(&eal, &devices[0], Some(1500), &pool);
    let (_port, mut kernel) = start(&eal, &devices[1], None, &pool);
    assert!(port.accepts_all_multicast() && port.capabilities().tx_tcp_checksum);
    warm_up(&mut tap, &mut kernel, &pool);
    warm_up(&mut kernel, &mut tap, &pool);
    for after in [IPV4, TAGGED, PRIORITY, TWICE] {
        for length in [60, 1514] {
            assert_carried(&mut tap, &mut kernel, &pool, &frame(length, after));
            assert_carried(&mut kernel, &mut tap, &pool, &frame(length, after));
        }
    }
    assert_carried(&mut kernel, &mut tap, &pool, &frame(1514, PROVIDER));
    assert_carried(&mut kernel, &mut tap, &pool, &frame(1518, TAGGED));
    for fragment in fragments(IPV4) {
        assert_carried(&mut kernel, &mut tap, &pool, &fragment);
    }
}

#[test]
fn tap_receives_a_frame_into_several_mbufs_where_they_are_smaller_than_its_mtu() {
    if !is_inside("tap_receives_a_frame_into_several_mbufs_where_they_are_smaller_than_its_mtu") {
        return;
    }
    let devices = ["net_tap0,iface=tap0".to_owned(), "net_af_packet0,iface=tap0".to_owned()];
    let eal = start_eal(&devices);
    let (small, large) = (pool(&eal, 1023, 640), pool(&eal, 1023, STANDARD));
    let (_port, mut tap) = start(&eal, &devices[0], Some(1500), &small);
    let (_port, mut kernel) = start(&eal, &devices[1], None, &large);
    warm_up(&mut kernel, &mut tap, &large);
    let sent = frame(1514, TAGGED);
    let arrived = carry(&mut kernel, &mut tap, &large, &sent).unwrap();
    assert_eq!((arrived.length(), arrived.bytes().len()), (1514, 512));
    assert_eq!(whole(&arrived), sent);
    drop(arrived);
    assert_carried(&mut tap, &mut kernel, &large, &sent);
}

#[test]
fn af_xdp_carries_chains_in_one_mbuf_and_tags_and_fragments_as_they_are() {
    if !is_inside("af_xdp_carries_chains_in_one_mbuf_and_tags_and_fragments_as_they_are") {
        return;
    }
    make_cable(1500);
    let devices = ["net_af_xdp0,iface=east".to_owned(), "net_af_xdp1,iface=west".to_owned()];
    let eal = start_eal(&devices);
    let pool = pool(&eal, 16383, STANDARD);
    let (port, mut east) = start(&eal, &devices[0], None, &pool);
    let (_port, mut west) = start(&eal, &devices[1], None, &pool);
    assert!(port.accepts_all_multicast() && is_all_multicast("east"));
    assert!(!port.capabilities().segments);
    warm_up(&mut east, &mut west, &pool);
    for after in [IPV4, TAGGED, PRIORITY, TWICE, PROVIDER] {
        for length in [60, 1514] {
            assert_carried(&mut east, &mut west, &pool, &frame(length, after));
        }
    }
    assert_carried(&mut east, &mut west, &pool, &frame(1518, TAGGED));
    for fragment in fragments(IPV4).iter().chain(&fragments(TAGGED)) {
        assert_carried(&mut east, &mut west, &pool, fragment);
    }
}

#[test]
fn af_xdp_sends_from_every_buffer_that_the_pool_gives() {
    if !is_inside("af_xdp_sends_from_every_buffer_that_the_pool_gives") {
        return;
    }
    make_cable(1500);
    let devices = ["net_af_xdp0,iface=east".to_owned(), "net_af_xdp1,iface=west".to_owned()];
    let eal = start_eal(&devices);
    let pool = pool(&eal, 16383, STANDARD);
    let (_port, mut east) = start(&eal, &devices[0], None, &pool);
    let (_port, mut west) = start(&eal, &devices[1], None, &pool);
    warm_up(&mut east, &mut west, &pool);
    // All that there are, at once: none of them is the same buffer twice.
    let bytes = frame(60, IPV4);
    let mut frames: Vec<Mbuf> = std::iter::from_fn(|| pool.frame(&bytes)).collect();
    let (mut sent, mut arrived) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    while (!frames.is_empty() || arrived < sent) && Instant::now() < deadline {
        let mut burst = Burst::new();
        burst.extend(frames.drain(..frames.len().min(8)));
        let offered = burst.len();
        east.transmit(&mut burst);
        sent += offered - burst.len();
        frames.extend(burst.drain(..));
        let mut received = Burst::new();
        west.receive(&mut received);
        arrived += received.iter().filter(|frame| frame.bytes().starts_with(&MARK)).count();
    }
    assert_eq!((frames.len(), arrived), (0, sent));
    assert!(sent > 1000, "{sent} only");
}
