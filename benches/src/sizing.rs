//! How many mbufs, connections and hugepages a number of flows takes. Both forwarders get the same.

use ctl::validate::{MBUF_DATA_ROOM, MEMORY_MIB};

use crate::traffic::FRAMES_PER_FLOW;

/// DPDK's RTE_PKTMBUF_HEADROOM.
const HEADROOM: u16 = 128;
/// Bytes of an mbuf, headroom included: room for a frame of 60 and no more than needed, since net_pcap keeps every
/// packet of the file in an mbuf. As small as the director's configuration takes.
pub(crate) const MBUF_DATA_ROOM_WANTED: u16 = 256;
/// Ethernet header and two VLAN tags, which the director's mbufs must hold beside its MTU.
const LINK_HEADER: u16 = 14 + 2 * 4;
/// Mbufs beside those that net_pcap keeps: bursts, the threads' caches, the queues of the control thread.
const MBUFS_BESIDE_TRAFFIC: u32 = 16_383;
/// An mbuf beside its data: the mempool's header, the mbuf, padding.
const BYTES_BESIDE_DATA: u64 = 64 + 128 + 64;
/// What EAL, ethdev and allocation in whole pages take besides.
const DPDK_BESIDE_MIB: u64 = 32;
/// Connections that the director can hold, at least: no operator would save on less.
const CONNECTION_CAPACITY_MIN: u32 = 1 << 16;
/// Most bytes that a connection costs in its table.
const CONNECTION_BYTES: u64 = 80;
/// The director's tables are regions of whole pages each.
const PAGES_BESIDE: u64 = 8;
/// 2 MiB.
pub(crate) const HUGEPAGE_MIB: u64 = 2;

/// Sizes for a number of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizing {
    /// Packets in the pcap file.
    pub(crate) frames: u32,
    /// Mbufs in the pool.
    pub(crate) mbufs: u32,
    /// Bytes of an mbuf, headroom included.
    pub(crate) mbuf_data_room: u16,
    /// Largest IP packet that such an mbuf takes.
    pub(crate) mtu: u16,
    /// Memory of DPDK, in MiB.
    pub(crate) dpdk_mib: u32,
    /// Connections that the director can hold.
    pub(crate) connection_capacity: u32,
}

impl Sizing {
    /// Sizes for `flows` flows.
    pub(crate) fn of(flows: u32) -> Sizing {
        let frames = flows * FRAMES_PER_FLOW;
        let mbufs = frames + MBUFS_BESIDE_TRAFFIC;
        let mbuf_data_room = MBUF_DATA_ROOM_WANTED.max(*MBUF_DATA_ROOM.start());
        // The pool has a ring, and net_pcap has one of its packets: 8 bytes each, in a power of two.
        let rings = 8 * u64::from((mbufs + 1).next_power_of_two() + (frames + 1).next_power_of_two());
        let pool = u64::from(mbufs) * (u64::from(mbuf_data_room) + BYTES_BESIDE_DATA);
        let capacity = (u64::from(flows) * 13 / 10).next_power_of_two() as u32;
        Sizing {
            frames,
            mbufs,
            mbuf_data_room,
            mtu: (mbuf_data_room - HEADROOM - LINK_HEADER).min(1500),
            dpdk_mib: ((mebibytes(pool + rings) + DPDK_BESIDE_MIB) as u32).max(*MEMORY_MIB.start()),
            connection_capacity: capacity.max(CONNECTION_CAPACITY_MIN),
        }
    }

    /// Hugepages that the larger of the two processes takes, the director.
    pub(crate) fn hugepages(&self) -> u64 {
        let tables = mebibytes(u64::from(self.connection_capacity) * CONNECTION_BYTES);
        (u64::from(self.dpdk_mib) + tables).div_ceil(HUGEPAGE_MIB) + PAGES_BESIDE
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_flows_have_an_mbuf_for_every_packet_and_room_in_the_table() {
        let sizing = Sizing::of(1_000_000);
        assert_eq!((sizing.frames, sizing.mbufs), (2_000_000, 2_016_383));
        assert!(sizing.connection_capacity >= 1_300_000);
        assert!(u64::from(sizing.dpdk_mib) << 20 > 2_016_383 * (192 + u64::from(sizing.mbuf_data_room)));
    }

    #[test]
    fn sizes_are_ones_that_the_director_takes() {
        for flows in [1, 8_000_000] {
            let sizing = Sizing::of(flows);
            assert!(ctl::validate::MBUF_COUNT.contains(&sizing.mbufs), "{sizing:?}");
            assert!(MBUF_DATA_ROOM.contains(&sizing.mbuf_data_room), "{sizing:?}");
            assert!(ctl::validate::MTU.contains(&sizing.mtu), "{sizing:?}");
            assert!(MEMORY_MIB.contains(&sizing.dpdk_mib), "{sizing:?}");
            assert!(ctl::validate::CONNECTION_CAPACITY.contains(&sizing.connection_capacity), "{sizing:?}");
        }
    }
}
