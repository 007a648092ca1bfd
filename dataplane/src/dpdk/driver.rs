//! What drivers do against or beside what they report of themselves. Read in the source of DPDK 22.11 to 25.11 and held by
//! the tests in `tests/dpdk_port.rs`; the control thread asks at start.

use crate::packet::vlan::TAG_BYTES;

/// What a driver does with a frame of several segments that it is given to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chains {
    /// Sends it whole where it reports the offload MULTI_SEGS and that is switched on.
    AsReported,
    /// Sends it whole and does not report that it can.
    Always,
    /// Reports that it can and must not be given one.
    Never,
}

/// net_pcap and net_null go through a whole chain. net_memif spreads a chain over descriptors and never takes the mark of
/// such a spread off a descriptor that begins the next frame: after one chain it glues frames together.
pub(super) fn chains(driver: &str) -> Chains {
    match driver {
        "net_pcap" | "net_null" => Chains::Always,
        "net_memif" => Chains::Never,
        _ => Chains::AsReported,
    }
}

/// A frame longer than an mbuf is received in several, though the driver does not report SCATTER.
pub(super) fn receives_in_segments(driver: &str) -> bool {
    driver == "net_pcap"
}

/// Largest MTU that the device really carries where its driver reports the standard frame's length whatever it is.
/// These do not take a larger one from ethdev, and need not.
pub(super) fn largest_mtu(driver: &str, device: &str) -> Option<u16> {
    let number = |key, default| argument(device, key).and_then(|value| value.parse().ok()).unwrap_or(default);
    // An Ethernet header and the inner one of two tags; the outer one the kernel has apart.
    const HEADER: u16 = 14 + TAG_BYTES as u16;

    match driver {
        "net_af_packet" => Some(number("framesz", AF_PACKET_FRAME).saturating_sub(AF_PACKET_OFFSET + HEADER)),
        "net_memif" => Some(number("bsize", MEMIF_BUFFER).saturating_sub(HEADER + TAG_BYTES as u16)),
        _ => None,
    }
}

/// What to do about an MTU that the device does not carry.
pub(super) fn larger_mtu(driver: &str) -> &'static str {
    match driver {
        "net_af_packet" => {
            ", or add `blocksz=16384,framesz=16384` to the device (and give mbufs of 16480 bytes)"
        }
        "net_memif" => ", or add `bsize=9728` to the device, on both ends",
        _ => "",
    }
}

/// Bytes of a frame of af_packet's ring and of memif's buffer where the device names none.
const AF_PACKET_FRAME: u16 = 2048;
const MEMIF_BUFFER: u16 = 2048;

/// Where the kernel puts an Ethernet frame into a frame of af_packet's ring: its own headers (TPACKET2_HDRLEN and 16 bytes
/// for the link layer, aligned to 16), so that what follows the Ethernet header is aligned.
const AF_PACKET_OFFSET: u16 = 80 - 14;

/// Bytes that af_packet demands of an mbuf, headroom apart: all of a frame of its ring but the kernel's header.
pub(super) fn least_buffer(device: &str) -> u32 {
    const RING_HEADER: u32 = 32;

    argument(device, "framesz")
        .and_then(|value| value.parse::<u32>().ok())
        .map_or(0, |frame| frame.saturating_sub(RING_HEADER))
}

/// The driver hands the pool's memory to the kernel, and only as much of it as its objects would take side by side. They do not
/// lie so where none crosses a page: of what lies beyond, frames that are sent are lost without a word. (22.11; later releases
/// map the whole of it.)
pub(super) fn maps_packed_pool(device: &str) -> bool {
    device.starts_with("net_af_xdp")
}

/// Has a kernel interface beneath it, whose MTU and filters are the kernel's.
pub(super) fn has_interface(driver: &str) -> bool {
    matches!(driver, "net_af_packet" | "net_af_xdp")
}

/// The value of an argument of a device such as `net_memif0,role=client`.
fn argument<'a>(device: &'a str, key: &str) -> Option<&'a str> {
    device
        .split(',')
        .skip(1)
        .filter_map(|argument| argument.split_once('='))
        .find_map(|(name, value)| (name == key).then_some(value))
}

/// How a device of this driver gets more queues.
pub(super) fn more_queues(driver: &str, workers: u16) -> String {
    match driver {
        "net_af_packet" => format!("add `qpairs={workers}` to the device"),
        "net_af_xdp" => format!("add `queue_count={workers}` to the device"),
        "net_virtio_user" => format!("add `queues={workers}` to the device"),
        "net_pcap" => format!("give the device {workers} `rx_pcap=` and {workers} `tx_pcap=` files"),
        _ => "use a device with more queues".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_mtu_follows_the_ring_frame_and_the_buffer_of_the_device() {
        assert_eq!(largest_mtu("net_af_packet", "net_af_packet0,iface=eth1"), Some(1964));
        let jumbo = "net_af_packet0,iface=eth1,blocksz=16384,framesz=16384";
        assert_eq!(largest_mtu("net_af_packet", jumbo), Some(16300));
        assert_eq!(largest_mtu("net_memif", "net_memif0,role=client"), Some(2026));
        assert_eq!(largest_mtu("net_memif", "net_memif0,bsize=9728"), Some(9706));
        assert_eq!(largest_mtu("net_memif", "net_memif0,bsize=many"), Some(2026));
        assert_eq!(largest_mtu("net_tap", "net_tap0"), None);
    }

    #[test]
    fn mbuf_for_af_packet_holds_a_frame_of_its_ring() {
        assert_eq!(least_buffer("net_af_packet0,iface=eth1,framesz=16384"), 16352);
        assert_eq!(least_buffer("net_af_packet0,iface=eth1"), 0);
    }

    #[test]
    fn argument_is_found_by_its_whole_name_and_never_in_the_device_name() {
        assert_eq!(argument("net_tap0,iface=a,mac=b", "mac"), Some("b"));
        assert_eq!(argument("mac=a,iface=b", "mac"), None);
        assert_eq!(argument("net_tap0,fmac=a,mac", "mac"), None);
    }
}
