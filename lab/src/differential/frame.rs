//! One frame of a scenario: as its text, as the bytes on the wire, and read back where it comes out.
//!
//! The IPv4 identification is the frame's number: direct routing leaves it alone, so it tells which frame came out.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, bail, ensure};

/// MAC address.
pub type Mac = [u8; 6];

/// TTL of a frame that says nothing else.
const TTL: u8 = 64;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Names of TCP's flags, from FIN on, in the order of their bits (RFC 9293 section 3.1).
const TCP_FLAGS: [&str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

/// Names of SCTP's chunk types (RFC 9260 section 3.2).
const SCTP_CHUNKS: [(&str, u8); 15] = [
    ("DATA", 0),
    ("INIT", 1),
    ("INIT_ACK", 2),
    ("SACK", 3),
    ("HEARTBEAT", 4),
    ("HEARTBEAT_ACK", 5),
    ("ABORT", 6),
    ("SHUTDOWN", 7),
    ("SHUTDOWN_ACK", 8),
    ("ERROR", 9),
    ("COOKIE_ECHO", 10),
    ("COOKIE_ACK", 11),
    ("ECNE", 12),
    ("CWR", 13),
    ("SHUTDOWN_COMPLETE", 14),
];

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP without data; the flags' bits.
    Tcp(u8),
    /// UDP with one byte.
    Udp,
    /// SIP in UDP, with this Call-ID if any.
    Sip(Option<String>),
    /// SCTP; the types of its chunks.
    Sctp(Vec<u8>),
}

/// A frame from a client to a virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Client's address and port.
    pub source: SocketAddrV4,
    /// VIP and port.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub payload: Payload,
    /// Time to live as the director receives it.
    pub ttl: u8,
}

impl Frame {
    /// A frame with the usual TTL.
    pub fn new(source: SocketAddrV4, destination: SocketAddrV4, payload: Payload) -> Frame {
        Frame { source, destination, payload, ttl: TTL }
    }

    /// Reads `tcp 198.51.100.7:40000 > 192.0.2.10:80 SYN`; the source may count up: `198.51.100.7:40000+12` is twelve
    /// frames from twelve ports, `198.51.100.7+12:40000` from twelve addresses.
    pub fn parse(text: &str) -> Result<Vec<Frame>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [kind, source, ">", destination, rest @ ..] = &words[..] else {
            bail!("not a frame: `{text}`; write `tcp ADDRESS:PORT > ADDRESS:PORT FLAGS`");
        };
        let (ttl, rest) = match rest.split_last() {
            Some((last, rest)) if last.starts_with("ttl=") => (last["ttl=".len()..].parse()?, rest),
            _ => (TTL, rest),
        };
        let payload = parse_payload(kind, rest).with_context(|| format!("in `{text}`"))?;
        let destination = destination.parse().with_context(|| format!("no address:port: {destination}"))?;
        let sources = parse_sources(source).with_context(|| format!("in `{text}`"))?;
        Ok(sources
            .into_iter()
            .map(|source| Frame { source, destination, payload: payload.clone(), ttl })
            .collect())
    }

    /// The bytes on the wire from `from` to `to`, with `number` as the identification.
    pub fn bytes(&self, number: u16, from: Mac, to: Mac) -> Vec<u8> {
        let (protocol, segment) = self.segment();
        let mut ip = vec![0x45, 0, 0, 0];
        ip.extend(number.to_be_bytes());
        ip.extend([0x40, 0, self.ttl, protocol, 0, 0]);
        ip.extend(self.source.ip().octets());
        ip.extend(self.destination.ip().octets());
        let length = u16::try_from(IPV4_BYTES + segment.len()).expect("a scenario's frame is short");
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        let checksum = !internet_sum(&ip, 0);
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        [&to[..], &from, &ETHERTYPE_IPV4, &ip, &segment].concat()
    }

    fn segment(&self) -> (u8, Vec<u8>) {
        let ports = [self.source.port().to_be_bytes(), self.destination.port().to_be_bytes()].concat();
        match &self.payload {
            Payload::Tcp(flags) => {
                let mut segment = ports;
                segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                let checksum = self.transport_checksum(TCP, &segment);
                segment[16..18].copy_from_slice(&checksum.to_be_bytes());
                (TCP, segment)
            }
            Payload::Udp => (UDP, self.datagram(ports, b"x")),
            Payload::Sip(call_id) => (UDP, self.datagram(ports, sip_request(call_id.as_deref()).as_bytes())),
            Payload::Sctp(chunks) => (SCTP, sctp_packet(ports, chunks)),
        }
    }

    fn datagram(&self, ports: Vec<u8>, data: &[u8]) -> Vec<u8> {
        let mut segment = ports;
        let length = u16::try_from(8 + data.len()).expect("a scenario's datagram is short");
        segment.extend(length.to_be_bytes());
        segment.extend([0, 0]);
        segment.extend(data);
        let checksum = match self.transport_checksum(UDP, &segment) {
            // RFC 768: zero says that there is none.
            0 => 0xffff,
            checksum => checksum,
        };
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    fn transport_checksum(&self, protocol: u8, segment: &[u8]) -> u16 {
        let mut pseudo_header = [self.source.ip().octets(), self.destination.ip().octets()].concat();
        let length = u16::try_from(segment.len()).expect("a scenario's segment is short");
        pseudo_header.extend([0, protocol]);
        pseudo_header.extend(length.to_be_bytes());
        !internet_sum(segment, internet_sum(&pseudo_header, 0))
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = format!("{} > {}", self.source, self.destination);
        match &self.payload {
            Payload::Tcp(flags) => {
                let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| flags & (1 << bit) != 0);
                let names: Vec<&str> = set.map(|(_, name)| *name).collect();
                let names = if names.is_empty() { "NONE".to_owned() } else { names.join(",") };
                write!(f, "tcp {way} {names}")?;
            }
            Payload::Udp => write!(f, "udp {way}")?,
            Payload::Sip(call_id) => write!(f, "sip {way} {}", call_id.as_deref().unwrap_or("-"))?,
            Payload::Sctp(chunks) => {
                let name = |chunk: &u8| SCTP_CHUNKS.iter().find(|(_, number)| number == chunk);
                let names: Vec<String> = chunks
                    .iter()
                    .map(|chunk| name(chunk).map_or(chunk.to_string(), |n| n.0.into()))
                    .collect();
                write!(f, "sctp {way} {}", names.join(","))?;
            }
        }
        if self.ttl == TTL { Ok(()) } else { write!(f, " ttl={}", self.ttl) }
    }
}

/// Number and destination MAC of an IPv4 frame; none for anything else.
pub fn read_forwarded(bytes: &[u8]) -> Option<(u16, Mac)> {
    if bytes.len() < ETHERNET_BYTES + IPV4_BYTES || bytes[12..14] != ETHERTYPE_IPV4 {
        return None;
    }
    // ICMP errors are the director's own frames, with numbers of their own.
    let is_transport = matches!(bytes[ETHERNET_BYTES + 9], TCP | UDP | SCTP);
    let number = u16::from_be_bytes([bytes[ETHERNET_BYTES + 4], bytes[ETHERNET_BYTES + 5]]);
    is_transport.then_some((number, bytes[..6].try_into().ok()?))
}

fn parse_payload(kind: &str, words: &[&str]) -> Result<Payload> {
    Ok(match (kind, words) {
        ("tcp", ["NONE"]) => Payload::Tcp(0),
        ("tcp", [names]) => {
            let mut flags = 0;
            for name in names.split(',') {
                let bit = TCP_FLAGS.iter().position(|flag| *flag == name);
                flags |= 1 << bit.with_context(|| format!("no TCP flag: {name}"))?;
            }
            Payload::Tcp(flags)
        }
        ("udp", []) => Payload::Udp,
        ("sip", ["-"]) => Payload::Sip(None),
        ("sip", [call_id]) => Payload::Sip(Some((*call_id).to_owned())),
        ("sctp", [names]) => {
            let chunk = |name: &str| {
                let known = SCTP_CHUNKS.iter().find(|(chunk, _)| *chunk == name);
                known.map(|(_, number)| *number).or_else(|| name.parse().ok())
            };
            let chunks = names
                .split(',')
                .map(|name| chunk(name).with_context(|| format!("no SCTP chunk: {name}")))
                .collect::<Result<_>>()?;
            Payload::Sctp(chunks)
        }
        _ => bail!("`{kind}` with {words:?} is no frame"),
    })
}

fn parse_sources(text: &str) -> Result<Vec<SocketAddrV4>> {
    let (address, port) = text.split_once(':').context("a source is ADDRESS:PORT")?;
    let counted = |text: &str| -> Result<(String, u16)> {
        Ok(match text.split_once('+') {
            Some((first, count)) => (first.to_owned(), count.parse()?),
            None => (text.to_owned(), 1),
        })
    };
    let ((address, addresses), (port, ports)) = (counted(address)?, counted(port)?);
    let (address, port): (Ipv4Addr, u16) = (address.parse()?, port.parse()?);
    ensure!(addresses == 1 || ports == 1, "either addresses or ports count up: {text}");
    let address = |step: u16| Ipv4Addr::from(u32::from(address) + u32::from(step));
    Ok(if ports > 1 {
        (0..ports).map(|step| SocketAddrV4::new(address(0), port + step)).collect()
    } else {
        (0..addresses).map(|step| SocketAddrV4::new(address(step), port)).collect()
    })
}

fn sip_request(call_id: Option<&str>) -> String {
    let call_id = call_id.map(|id| format!("Call-ID: {id}\r\n")).unwrap_or_default();
    format!(
        "OPTIONS sip:service@example.org SIP/2.0\r\nVia: SIP/2.0/UDP client.example.org;branch=z9hG4bK1\r\n\
         Max-Forwards: 70\r\nFrom: <sip:client@example.org>;tag=1\r\nTo: <sip:service@example.org>\r\n\
         {call_id}CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

fn sctp_packet(ports: Vec<u8>, chunks: &[u8]) -> Vec<u8> {
    let mut packet = ports;
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    for &chunk in chunks {
        // RFC 9260: INIT has 16 bytes after its header, the others here four, which is enough for any of them.
        let length: u8 = if chunk == 1 { 20 } else { 8 };
        packet.extend([chunk, 0, 0, length]);
        packet.extend(std::iter::repeat_n(0, usize::from(length) - 4));
    }
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// The Internet checksum's sum, not yet complemented (RFC 1071).
fn internet_sum(bytes: &[u8], start: u16) -> u16 {
    let mut sum = u32::from(start);
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// CRC32c (RFC 9260 appendix A), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_prints_as_it_was_written() {
        for text in [
            "tcp 198.51.100.7:40000 > 192.0.2.10:80 SYN",
            "tcp 198.51.100.7:40000 > 192.0.2.10:80 FIN,ACK ttl=1",
            "tcp 198.51.100.7:40000 > 192.0.2.10:80 NONE",
            "udp 198.51.100.7:40000 > 192.0.2.10:53",
            "sip 198.51.100.7:40000 > 192.0.2.10:5060 abc@example.org",
            "sip 198.51.100.7:40000 > 192.0.2.10:5060 -",
            "sctp 198.51.100.7:40000 > 192.0.2.10:80 COOKIE_ECHO,ABORT",
            "sctp 198.51.100.7:40000 > 192.0.2.10:80 200",
        ] {
            let frames = Frame::parse(text).unwrap();
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].to_string(), text);
        }
    }

    #[test]
    fn source_counts_up_ports_or_addresses() {
        let ports = Frame::parse("udp 198.51.100.7:40000+3 > 192.0.2.10:53").unwrap();
        assert_eq!(ports[2].to_string(), "udp 198.51.100.7:40002 > 192.0.2.10:53");
        let addresses = Frame::parse("udp 198.51.100.255+2:40000 > 192.0.2.10:53").unwrap();
        assert_eq!(addresses[1].to_string(), "udp 198.51.101.0:40000 > 192.0.2.10:53");
        assert!(Frame::parse("udp 198.51.100.7+2:1+2 > 192.0.2.10:53").is_err());
        assert!(Frame::parse("tcp 198.51.100.7:1 > 192.0.2.10:53").is_err());
        assert!(Frame::parse("tcp 198.51.100.7:1 > 192.0.2.10:53 SIN").is_err());
    }

    #[test]
    fn checksums_are_right_and_the_number_is_read_back() {
        let tcp =
            Frame::parse("tcp 198.51.100.7:40000 > 192.0.2.10:80 SYN").unwrap()[0].bytes(7, [1; 6], [2; 6]);
        assert_eq!(internet_sum(&tcp[14..34], 0), 0xffff);
        assert_eq!(read_forwarded(&tcp), Some((7, [2; 6])));
        // RFC 3720 appendix B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
