//! What RSS does: a hash of a frame's flow, the same in both directions, by which its queue is chosen.

use crate::packet::vlan::TAG_BYTES;

/// Of an IPv4 or IPv6 frame, untagged or behind up to two VLAN tags; none for what is no such frame. By addresses and
/// protocol, and by the ports of TCP and UDP unless it is a fragment. Extension headers of IPv6 end it at the addresses.
pub(super) fn of(bytes: &[u8]) -> Option<u64> {
    let mut ether_type_at = 12;
    while matches!(number(bytes, ether_type_at, 2)?, 0x8100 | 0x88a8) && ether_type_at < 12 + 2 * TAG_BYTES {
        ether_type_at += TAG_BYTES;
    }
    let packet = bytes.get(ether_type_at + 2..)?;
    match number(bytes, ether_type_at, 2)? {
        0x0800 => of_ipv4(packet),
        0x86dd => of_ipv6(packet),
        _ => None,
    }
}

fn of_ipv4(packet: &[u8]) -> Option<u64> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let protocol = *packet.get(9)?;
    let addresses = number(packet, 12, 4)? ^ number(packet, 16, 4)?;
    // More fragments, or an offset: no ports in all but the first.
    let is_fragment = number(packet, 6, 2)? & 0x3fff != 0;
    let ports = if is_fragment { 0 } else { ports(packet, header_bytes, protocol)? };
    Some(mix(mix(addresses << 32 | ports << 8 | u64::from(protocol))))
}

fn of_ipv6(packet: &[u8]) -> Option<u64> {
    const HEADER_BYTES: usize = 40;

    let protocol = *packet.get(6)?;
    let halves = [8, 16].map(|at| Some(number(packet, at, 8)? ^ number(packet, at + 16, 8)?));
    let [Some(high), Some(low)] = halves else { return None };
    let ports = ports(packet, HEADER_BYTES, protocol)?;
    Some(mix(mix(high) ^ mix(low) ^ mix(ports << 8 | u64::from(protocol))))
}

/// Both ports as one number, whichever way round; 0 for a protocol without.
fn ports(packet: &[u8], at: usize, protocol: u8) -> Option<u64> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;

    match protocol {
        TCP | UDP => Some(number(packet, at, 2)? ^ number(packet, at + 2, 2)?),
        _ => Some(0),
    }
}

/// Fibonacci hashing: 2^64 divided by the golden ratio.
fn mix(value: u64) -> u64 {
    (value ^ value >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use crate::memory::{MemoryPort, MemoryPortConfig};

    fn tcp(source: u32, source_port: u16, destination: u32, destination_port: u16) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12] = 0x08;
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        frame[30..34].copy_from_slice(&destination.to_be_bytes());
        frame[34..36].copy_from_slice(&source_port.to_be_bytes());
        frame[36..38].copy_from_slice(&destination_port.to_be_bytes());
        frame
    }

    fn tcp6(source: u32, source_port: u16, destination: u32, destination_port: u16) -> Vec<u8> {
        let mut frame = vec![0; 74];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[20] = 6;
        frame[22..26].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        frame[38..42].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        frame[34..38].copy_from_slice(&source.to_be_bytes());
        frame[50..54].copy_from_slice(&destination.to_be_bytes());
        frame[54..56].copy_from_slice(&source_port.to_be_bytes());
        frame[56..58].copy_from_slice(&destination_port.to_be_bytes());
        frame
    }

    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat()
    }

    #[test]
    fn flow_of_ipv6_or_behind_a_tag_is_spread_like_any_other() {
        let (port, _pairs) = MemoryPort::new(MemoryPortConfig { queues: 4, ..MemoryPortConfig::default() });
        let mut flows = [0; 4];
        for number in 0..4000 {
            let there = tcp6(1 + u32::from(number / 1000), 1024 + number, 0xc000_020a, 80);
            let back = tcp6(0xc000_020a, 80, 1 + u32::from(number / 1000), 1024 + number);
            assert_eq!(port.queue_for(&there), port.queue_for(&back));
            assert_eq!(port.queue_for(&there), port.queue_for(&tagged(&tagged(&there))));
            flows[port.queue_for(&there)] += 1;
            let v4 = tcp(0x0a00_0001, 1024 + number, 0xc000_020a, 80);
            assert_eq!(port.queue_for(&v4), port.queue_for(&tagged(&v4)));
        }
        assert!(flows.iter().all(|count| (800..1200).contains(count)), "{flows:?}");
    }

    #[test]
    fn both_directions_of_a_flow_come_to_the_same_queue() {
        let (port, _pairs) = MemoryPort::new(MemoryPortConfig { queues: 3, ..MemoryPortConfig::default() });
        for number in 0..100 {
            let there = tcp(0x0a00_0001, 1024 + number, 0xc000_020a, 80);
            let back = tcp(0xc000_020a, 80, 0x0a00_0001, 1024 + number);
            assert_eq!(port.queue_for(&there), port.queue_for(&back));
        }
    }

    #[test]
    fn flows_spread_over_all_queues_about_evenly() {
        let (port, _pairs) = MemoryPort::new(MemoryPortConfig { queues: 4, ..MemoryPortConfig::default() });
        let mut flows = [0; 4];
        for number in 0..4000 {
            flows
                [port.queue_for(&tcp(0x0a00_0001 + number / 1000, 1024 + number as u16, 0xc000_020a, 80))] +=
                1;
        }
        assert!(flows.iter().all(|count| (800..1200).contains(count)), "{flows:?}");
    }

    #[test]
    fn frames_that_are_no_ipv4_or_cut_short_come_to_queue_0() {
        let (port, _pairs) = MemoryPort::new(MemoryPortConfig { queues: 4, ..MemoryPortConfig::default() });
        let whole = tcp(0x0a00_0001, 1024, 0xc000_020a, 80);
        for length in 0..38 {
            assert_eq!(port.queue_for(&whole[..length]), 0, "{length} bytes");
        }
        assert!(port.inject_spread(&whole[..20]));
        assert_eq!(port.waiting(0), 1);
    }
}
