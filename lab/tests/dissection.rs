//! tshark as the judge of what a director sent: what is wrong is found, and what is right is not blamed.

use anyhow::{Result, ensure};
use lab::{Dissection, Host, Network, PacketSocket};

const SOURCE: [u8; 4] = [10, 0, 0, 1];
const DESTINATION: [u8; 4] = [10, 0, 0, 2];
const UDP: u8 = 17;
const TCP: u8 = 6;
const IPIP: u8 = 4;
const GUE_PORT: u16 = 6080;

/// RFC 1071's, of all parts in a row; each but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn put(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([SOURCE, DESTINATION].concat());
    put(&mut packet, 2, 20 + payload.len() as u16);
    let sum = checksum(&[&packet]);
    put(&mut packet, 10, sum);
    packet.extend(payload);
    packet
}

fn pseudo_header(protocol: u8, length: usize) -> Vec<u8> {
    [&SOURCE[..], &DESTINATION, &[0, protocol], &(length as u16).to_be_bytes()].concat()
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [40_000_u16, port, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(payload);
    let sum = checksum(&[&pseudo_header(UDP, datagram.len()), &datagram]);
    put(&mut datagram, 6, sum);
    datagram
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = [40_000_u16, 80].map(u16::to_be_bytes).concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0]);
    segment.extend(payload);
    let sum = checksum(&[&pseudo_header(TCP, segment.len()), &segment]);
    put(&mut segment, 16, sum);
    segment
}

/// A TCP segment whose checksum field has what the kernel leaves there for a device, or for a remote checksum: the
/// pseudo-header's sum.
fn unfinished_tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = tcp(payload);
    let sum = !checksum(&[&pseudo_header(TCP, segment.len())]);
    put(&mut segment, 16, sum);
    segment
}

/// GUE around an IPv4 packet, and with `remote` the private flag and the remote checksum of its TCP.
fn gue(inner: &[u8], remote: bool) -> Vec<u8> {
    let header: &[u8] = if remote { &[2, IPIP, 0, 1, 0x80, 0, 0, 0, 0, 20, 0, 36] } else { &[0, IPIP, 0, 0] };
    udp(GUE_PORT, &[header, inner].concat())
}

fn spoilt(mut packet: Vec<u8>, offset: usize) -> Vec<u8> {
    packet[offset] ^= 0x55;
    packet
}

/// Sends IPv4 packets from one host to another, and has the dissection's word on them.
fn verdict(one: &Host, other: &Host, packets: &[Vec<u8>]) -> Result<Result<u64>> {
    let dissection = Dissection::start(&[(other, "eth0", "02:00:00:00:00:01")])?;
    let socket = PacketSocket::open(one, "eth0")?;
    for packet in packets {
        let frame = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0], &packet[..]].concat();
        socket.send(&frame)?;
    }
    Ok(dissection.finish())
}

#[test]
fn sound_packets_pass_and_each_fault_is_found() -> Result<()> {
    let network = Network::new()?;
    let (one, other) = (network.add_host("one")?, network.add_host("other")?);
    network.add_cable((&one, "eth0"), (&other, "eth0"))?;
    let whole = ipv4(TCP, &tcp(b"whole"));
    let unfinished = ipv4(TCP, &unfinished_tcp(b"odd"));
    let fragments = |payload: &[u8]| -> [Vec<u8>; 2] {
        let mut pieces = [ipv4(UDP, &payload[..16]), ipv4(UDP, &payload[16..])];
        for (piece, offset) in pieces.iter_mut().zip([0x2000, 2]) {
            put(piece, 6, offset);
            put(piece, 10, 0);
            let sum = checksum(&[&piece[..20]]);
            put(piece, 10, sum);
        }
        pieces
    };
    let datagram = udp(9, b"thirty-two bytes of a payload...");
    let sound: Vec<Vec<u8>> = [
        ipv4(UDP, &udp(53, b"no DNS at all")),
        ipv4(TCP, &tcp(b"neither")),
        ipv4(IPIP, &whole),
        ipv4(UDP, &gue(&whole, false)),
        ipv4(UDP, &gue(&unfinished, true)),
    ]
    .into_iter()
    .chain(fragments(&datagram))
    .collect();
    ensure!(verdict(&one, &other, &sound)?? == sound.len() as u64);

    let faults = [
        ("an IPv4 checksum", spoilt(whole.clone(), 10)),
        ("a TCP checksum", spoilt(whole.clone(), 36)),
        ("a UDP checksum", ipv4(UDP, &spoilt(udp(9, b"odd"), 8))),
        ("an inner checksum", ipv4(IPIP, &spoilt(whole.clone(), 36))),
        ("a cut TCP header", ipv4(TCP, &tcp(b"")[..12])),
        ("a checksum inside GUE", ipv4(UDP, &gue(&spoilt(whole.clone(), 36), false))),
        ("a checksum that no receiver will make whole", ipv4(UDP, &gue(&unfinished, false))),
        ("a remote checksum that comes out wrong", ipv4(UDP, &gue(&spoilt(unfinished, 36), true))),
        ("a GUE header that is none", ipv4(UDP, &spoilt(gue(&whole, false), 8))),
    ];
    let [first, last] = fragments(&spoilt(datagram, 20));
    let packets: Vec<Vec<u8>> = faults.iter().map(|(_, packet)| packet.clone()).chain(sound).collect();
    let packets = [&[last, first], &packets[..]].concat();
    let text = verdict(&one, &other, &packets)?.err().map(|error| error.to_string()).unwrap_or_default();
    // The first frame completes no datagram: the second one is told.
    let found = |number: usize| text.contains(&format!("\n{number}\t02:00:00:00:00:01\t"));
    ensure!(found(2), "a checksum over two fragments: {text}");
    for (number, (fault, _)) in faults.iter().enumerate() {
        ensure!(found(3 + number), "{fault}, frame {}: {text}", 3 + number);
    }
    let count = format!("the director sent {} frames ", 1 + faults.len());
    ensure!(text.starts_with(&count), "{text}");
    Ok(())
}
