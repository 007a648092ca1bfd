//! Layers to bytes.

use std::net::IpAddr;

use super::format::{Field, Kind, NO_PROTOCOL, Usual};
use super::{Header, Layer, Slice};

/// Addresses of the IP header that a layer is behind.
type Addresses = Option<(IpAddr, IpAddr)>;

/// The bytes of these layers. What came out before must have been put in already ([`Layer::Output`]).
pub fn build(layers: &[Layer]) -> Vec<u8> {
    build_behind(layers, None)
}

fn build_behind(layers: &[Layer], addresses: Addresses) -> Vec<u8> {
    let Some((first, rest)) = layers.split_first() else { return Vec::new() };
    match first {
        Layer::Data(bytes) => bytes.clone(),
        Layer::Output(_) => Vec::new(),
        Layer::Header(header) => {
            let addresses = header.addresses.or(addresses);
            let payload = build_behind(rest, addresses);
            let next = next_protocol(header.kind, rest);
            match header.slice {
                Some(slice) => build_slice(header, slice, &payload, next),
                None => build_header(header, &payload, next, addresses),
            }
        }
    }
}

/// Number of what is behind a header of this kind.
fn next_protocol(kind: Kind, rest: &[Layer]) -> u64 {
    match (kind, rest.first()) {
        (Kind::Gre, Some(Layer::Header(next))) if next.kind == Kind::Ip6 => 0x86dd,
        (Kind::Gre, _) => 0x0800,
        (_, Some(Layer::Header(next))) => next.kind.protocol(),
        _ => NO_PROTOCOL,
    }
}

fn build_slice(header: &Header, slice: Slice, payload: &[u8], next: u64) -> Vec<u8> {
    let Slice { offset, length, id } = slice;
    let end = payload.len().min(offset + length);
    let piece = payload.get(offset..end).unwrap_or_default();
    let is_more = end < payload.len();
    let mut whole = header.clone();
    whole.slice = None;
    let mut fragment = if header.kind == Kind::Ip { whole.clone() } else { Header::new(Kind::Fragment6) };
    for (name, value) in [("id", u64::from(id)), ("off", (offset / 8) as u64), ("mf", is_more.into())] {
        fragment.fields.entry(name).or_insert(value);
    }
    if header.kind == Kind::Ip {
        return build_header(&fragment, piece, next, header.addresses);
    }
    let piece = build_header(&fragment, piece, next, header.addresses);
    build_header(&whole, &piece, Kind::Fragment6.protocol(), header.addresses)
}

fn build_header(header: &Header, payload: &[u8], next: u64, addresses: Addresses) -> Vec<u8> {
    let kind = header.kind;
    let mut options = header.options.clone();
    let has_gre_checksum = kind == Kind::Gre && header.fields.get("csum") == Some(&1);
    if has_gre_checksum && options.is_empty() {
        options = vec![0; 4];
    }
    let mut bytes = vec![0; kind.bytes()];
    bytes.extend(&options);
    if let Some((source, destination)) = header.addresses {
        let place = if kind == Kind::Ip { 12 } else { 8 };
        let both = [octets(source), octets(destination)].concat();
        bytes[place..place + both.len()].copy_from_slice(&both);
    }
    let header_bytes = bytes.len();
    bytes.extend(payload);
    for field in kind.fields() {
        let value = match (header.fields.get(field.name), field.usual) {
            (Some(value), _) => *value,
            (None, Usual::Is(value)) => value,
            (None, Usual::Follows) => match field.name {
                "ihl" | "doff" => (header_bytes / 4) as u64,
                "hlen" => (options.len() / 4) as u64,
                "ehl" => (header_bytes / 8).saturating_sub(1) as u64,
                "len" if kind == Kind::Ip6 => payload.len() as u64,
                "len" => bytes.len() as u64,
                "proto" => next,
                _ => 0,
            },
        };
        put(&mut bytes, field, value);
    }
    if !header.fields.contains_key("sum")
        && let Some(field) = kind.field("sum")
    {
        let sum = checksum(kind, &bytes, header_bytes, addresses);
        put(&mut bytes, field, sum);
    }
    if has_gre_checksum && header.options.is_empty() {
        let sum = !internet_sum(&bytes, 0);
        bytes[4..6].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some(cut) = header.cut {
        bytes.truncate(cut);
    }
    bytes
}

fn put(bytes: &mut [u8], field: &Field, value: u64) {
    let value = if field.bits < 64 { value & ((1 << field.bits) - 1) } else { value };
    for bit in 0..field.bits {
        let (place, mask) = ((field.bit + bit) / 8, 0x80 >> ((field.bit + bit) % 8));
        let is_set = value >> (field.bits - 1 - bit) & 1 != 0;
        bytes[place] = if is_set { bytes[place] | mask } else { bytes[place] & !mask };
    }
}

fn checksum(kind: Kind, bytes: &[u8], header_bytes: usize, addresses: Addresses) -> u64 {
    let sum = match kind {
        Kind::Ip => !internet_sum(&bytes[..header_bytes], 0),
        Kind::Icmp => !internet_sum(bytes, 0),
        Kind::Sctp => return u64::from(crc32c(bytes).swap_bytes()),
        _ => {
            let mut pseudo_header = Vec::new();
            if let Some((source, destination)) = addresses {
                pseudo_header.extend(octets(source));
                pseudo_header.extend(octets(destination));
            }
            pseudo_header.extend((bytes.len() as u32).to_be_bytes());
            pseudo_header.extend((kind.protocol() as u32).to_be_bytes());
            !internet_sum(bytes, internet_sum(&pseudo_header, 0))
        }
    };
    // RFC 768: zero says that there is none.
    if kind == Kind::Udp && sum == 0 { 0xffff } else { u64::from(sum) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum's sum, not yet complemented (RFC 1071).
pub fn internet_sum(bytes: &[u8], start: u16) -> u16 {
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
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}
