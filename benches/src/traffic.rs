//! The traffic: TCP flows to one VIP, as a pcap file that net_pcap replays for ever.
//!
//! Each flow has two frames. First come the SYNs of all flows, in an order that is shuffled and always the same, so
//! that every connection is opened; then an ACK of each, in another such order. From the second replay on every
//! packet finds its connection. Frames are 60 bytes: 64 with the checksum that Ethernet adds.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::Path;

/// The VIP, of the networks for benchmarks (RFC 2544 appendix C.2.2).
pub(crate) const VIRTUAL_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Its port.
pub(crate) const VIRTUAL_PORT: u16 = 80;
/// What net_pcap gives its first port: 02 and "pcap" and its number (`pmd_init_internals` of DPDK's rte_eth_pcap.c).
pub(crate) const PORT_MAC: [u8; 6] = *b"\x02pcap\0";
/// A SYN and an ACK.
pub(crate) const FRAMES_PER_FLOW: u32 = 2;

/// Clients: all of 198.19.0.0/16, the other half of the networks for benchmarks.
const CLIENT_NETWORK: [u8; 2] = [198, 19];
const CLIENT_MAC: [u8; 6] = [0x02, 0, 198, 19, 0, 1];
/// Client ports start behind the reserved ones.
const CLIENT_PORT_MIN: u32 = 1024;
const CLIENT_PORTS: u32 = 65_536 - CLIENT_PORT_MIN;

const FRAME_BYTES: usize = 60;
const ETHERNET_BYTES: usize = 14;
const IP_BYTES: usize = 20;
const TCP_BYTES: usize = 20;
const TCP_AT: usize = ETHERNET_BYTES + IP_BYTES;
const PROTOCOL_TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Flows are shuffled with these: one order for the SYNs, one for the ACKs.
const SEEDS: [(u8, u64); 2] = [(SYN, 0x5eed_0001), (ACK, 0x5eed_0002)];

/// Writes the frames of `flows` flows for a port with this MAC.
pub(crate) fn write_pcap(path: &Path, flows: u32, mac: [u8; 6]) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    write_frames(&mut file, flows, mac)?;
    file.into_inner()?.sync_data()
}

fn write_frames(file: &mut impl Write, flows: u32, mac: [u8; 6]) -> io::Result<()> {
    // The file's header (libpcap's pcap-savefile(5)): magic, version 2.4, zone, accuracy, snapshot length, Ethernet.
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
        file.write_all(&u32::to_le_bytes(word))?;
    }
    for (flags, seed) in SEEDS {
        for flow in shuffled(flows, seed) {
            // Time 0, captured and real length.
            for word in [0, 0, FRAME_BYTES as u32, FRAME_BYTES as u32] {
                file.write_all(&u32::to_le_bytes(word))?;
            }
            file.write_all(&frame(flow, flags, mac))?;
        }
    }
    Ok(())
}

/// One frame of a flow, checksums right.
fn frame(flow: u32, flags: u8, mac: [u8; 6]) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    let (address, port) = client(flow);
    frame[..6].copy_from_slice(&mac);
    frame[6..12].copy_from_slice(&CLIENT_MAC);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);

    let ip = &mut frame[ETHERNET_BYTES..TCP_AT];
    // Version 4, 20 bytes of header; total length; do not fragment; TTL 64.
    ip[0] = 0x45;
    ip[3] = (IP_BYTES + TCP_BYTES) as u8;
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = PROTOCOL_TCP;
    ip[12..16].copy_from_slice(&address.octets());
    ip[16..20].copy_from_slice(&VIRTUAL_ADDRESS.octets());
    let sum = checksum(0, ip);
    ip[10..12].copy_from_slice(&sum);

    let tcp = &mut frame[TCP_AT..TCP_AT + TCP_BYTES];
    tcp[..2].copy_from_slice(&port.to_be_bytes());
    tcp[2..4].copy_from_slice(&VIRTUAL_PORT.to_be_bytes());
    // Sequence number 1, 20 bytes of header, the largest window.
    tcp[7] = 1;
    tcp[12] = 0x50;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&[0xff, 0xff]);
    let pseudo_header =
        [address, VIRTUAL_ADDRESS].map(|address| halves(address.to_bits())).iter().sum::<u32>()
            + u32::from(PROTOCOL_TCP)
            + TCP_BYTES as u32;
    let sum = checksum(pseudo_header, tcp);
    tcp[16..18].copy_from_slice(&sum);
    frame
}

/// Address and port of a flow's client: a bijection, and neighbours in number are not neighbours in port.
fn client(flow: u32) -> (Ipv4Addr, u16) {
    let [.., high, low] = flow.to_be_bytes();
    let address = Ipv4Addr::new(CLIENT_NETWORK[0], CLIENT_NETWORK[1], high, low);
    // Each address has its own first port; its further flows (65,536 apart) have the ports behind that.
    let first = (flow & 0xffff).wrapping_mul(40_503);
    let port = CLIENT_PORT_MIN + (first % CLIENT_PORTS + (flow >> 16)) % CLIENT_PORTS;
    (address, port as u16)
}

fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// The Internet checksum (RFC 1071) of an even number of bytes, on top of `sum`.
fn checksum(sum: u32, bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = halves(halves(sum + words.sum::<u32>()));
    (!(sum as u16)).to_be_bytes()
}

/// The numbers below `count` in an order that depends on the seed alone (Fisher and Yates).
fn shuffled(count: u32, seed: u64) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..count).collect();
    let mut state = seed;
    for last in (1..count).rev() {
        // An index of at most `last`: the product's upper half, which is even enough for an order of packets.
        let index = (u128::from(next_random(&mut state)) * u128::from(last + 1)) >> 64;
        numbers.swap(last as usize, index as usize);
    }
    numbers
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn frame_is_what_an_independent_parser_expects_checksums_included() {
        for flow in [0, 1, 65_535, 65_536, 999_999, 7_999_999] {
            for flags in [SYN, ACK] {
                let frame = frame(flow, flags, PORT_MAC);
                let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
                let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
                let (ip, tcp) = (ip.header(), tcp);
                assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(ip.source(), ip.destination()).unwrap());
                assert_eq!(ip.destination_addr(), VIRTUAL_ADDRESS);
                assert_eq!((tcp.destination_port(), tcp.syn(), tcp.ack()), (80, flags == SYN, flags == ACK));
                assert_eq!((ip.total_len(), frame.len()), (40, 60));
                assert_eq!(frame[..6], PORT_MAC);
            }
        }
    }

    #[test]
    fn flows_have_different_clients_in_the_benchmark_network() {
        let clients: HashSet<_> = (0..1_000_000).map(client).collect();
        assert_eq!(clients.len(), 1_000_000);
        assert!(clients.iter().all(|(address, port)| address.octets()[..2] == [198, 19] && *port >= 1024));
    }

    #[test]
    fn pcap_has_a_syn_of_every_flow_and_then_an_ack_of_every_flow() {
        const FLOWS: usize = 100;
        let mut file = Vec::new();
        write_frames(&mut file, FLOWS as u32, PORT_MAC).unwrap();
        let records: Vec<&[u8]> =
            file[24..].chunks_exact(16 + FRAME_BYTES).map(|record| &record[16..]).collect();
        assert_eq!(file.len(), 24 + 2 * FLOWS * (16 + FRAME_BYTES));
        let pass = |records: &[&[u8]], flags: u8| {
            assert!(records.iter().all(|record| record[TCP_AT + 13] == flags));
            records.iter().map(|record| record[26..36].to_vec()).collect::<Vec<_>>()
        };
        let (syns, acks) = (pass(&records[..FLOWS], SYN), pass(&records[FLOWS..], ACK));
        assert_ne!(syns, acks, "two orders");
        let set = |flows: Vec<Vec<u8>>| flows.into_iter().collect::<HashSet<_>>();
        let (syns, acks) = (set(syns), set(acks));
        assert_eq!((syns.len(), &syns), (FLOWS, &acks));
    }

    #[test]
    fn orders_are_permutations_and_always_the_same() {
        let order = shuffled(1000, 1);
        assert_eq!(order, shuffled(1000, 1));
        assert_ne!(order, shuffled(1000, 2));
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
        assert_eq!(shuffled(1, 1), [0]);
    }
}
