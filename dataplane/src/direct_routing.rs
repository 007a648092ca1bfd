//! Direct routing: the frame goes to the real server as it came, but for the MACs and the TTL.

use crate::packet::checksum::after_ttl_decrement;
use crate::packet::{ethernet, ipv4};
use crate::snapshot::Destination;

const TTL: usize = ethernet::HEADER_BYTES + 8;
const CHECKSUM: usize = ethernet::HEADER_BYTES + 10;
const HEADERS: usize = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
const HOP_LIMIT: usize = ethernet::HEADER_BYTES + 7;

/// Destination MAC = the next hop's, source MAC = the director's, TTL − 1 with the checksum patched, as IPVS does in
/// `ip_vs_dr_xmit`. `frame` has no tag and holds a checked IPv4 packet whose TTL is over 1.
#[inline(always)]
pub fn rewrite(frame: &mut [u8], destination: &Destination) {
    let Some(headers) = frame.first_chunk_mut::<HEADERS>() else {
        debug_assert!(false, "the frame was parsed");
        return;
    };
    headers[..12].copy_from_slice(&destination.macs);
    headers[TTL] -= 1;
    let checksum = u16::from_be_bytes([headers[CHECKSUM], headers[CHECKSUM + 1]]);
    headers[CHECKSUM..CHECKSUM + 2].copy_from_slice(&after_ttl_decrement(checksum).to_be_bytes());
}

/// The same of IPv6, whose hop limit no checksum covers.
#[inline(always)]
pub fn rewrite_ipv6(frame: &mut [u8], destination: &Destination) {
    let Some(headers) = frame.first_chunk_mut::<{ HOP_LIMIT + 1 }>() else {
        debug_assert!(false, "the frame was parsed");
        return;
    };
    headers[..12].copy_from_slice(&destination.macs);
    headers[HOP_LIMIT] -= 1;
}

/// TTL or hop limit − 1 of the packet that `ip` begins with, which was checked and whose TTL is over 1.
#[inline(always)]
pub fn decrement_ttl(ip: &mut [u8]) {
    let Some(headers) = ip.first_chunk_mut::<{ ipv4::HEADER_BYTES }>() else {
        debug_assert!(false, "the frame was parsed");
        return;
    };
    if headers[0] >> 4 == 6 {
        headers[7] -= 1;
        return;
    }
    headers[8] -= 1;
    let checksum = u16::from_be_bytes([headers[10], headers[11]]);
    headers[10..12].copy_from_slice(&after_ttl_decrement(checksum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::port::PortId;
    use crate::snapshot::DestinationState;

    #[test]
    fn only_macs_ttl_and_checksum_change() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 51, 100, 7], [192, 0, 2, 10], 2)
            .udp(1234, 53)
            .write(&mut frame, b"payload")
            .unwrap();
        let before = frame.clone();
        let macs = *b"\x02\0\0\0\0\x0b\x02\0\0\0\0\x01";
        let destination = Destination {
            macs,
            port: PortId(0),
            state: DestinationState::Forwarding,
            mtu: 1500,
            ..Destination::default()
        };
        rewrite(&mut frame, &destination);
        assert_eq!(frame[..12], macs);
        assert_eq!(frame[TTL], 1);
        let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap();
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        assert_eq!(frame[12..TTL], before[12..TTL]);
        assert_eq!(frame[TTL + 1..CHECKSUM], before[TTL + 1..CHECKSUM]);
        assert_eq!(frame[CHECKSUM + 2..], before[CHECKSUM + 2..]);
    }
}
