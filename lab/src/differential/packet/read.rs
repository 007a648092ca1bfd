//! Bytes to layers: every field at first, then without those that follow from the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::build::build;
use super::format::{Field, GUE_PORTS, Kind};
use super::{Header, Layer, POSITIONAL};

/// Least bytes of a header that is cut off: ICMP's quotes have as many of what is behind IP (RFC 792).
const CUT_BYTES_MIN: usize = 8;

/// The layers of a packet from its IP header on.
pub fn read(bytes: &[u8]) -> Vec<Layer> {
    let mut layers = Vec::new();
    read_packet(bytes, &mut layers);
    reduce(&mut layers, bytes);
    layers
}

fn read_packet(bytes: &[u8], layers: &mut Vec<Layer>) {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => read_layer(Kind::Ip, bytes, layers),
        Some(6) => read_layer(Kind::Ip6, bytes, layers),
        _ => read_data(bytes, layers),
    }
}

fn read_data(bytes: &[u8], layers: &mut Vec<Layer>) {
    if !bytes.is_empty() {
        layers.push(Layer::Data(bytes.to_vec()));
    }
}

fn read_layer(kind: Kind, bytes: &[u8], layers: &mut Vec<Layer>) {
    let is_ip = matches!(kind, Kind::Ip | Kind::Ip6);
    if bytes.len() < kind.bytes() && (is_ip || bytes.len() < CUT_BYTES_MIN) {
        return read_data(bytes, layers);
    }
    let mut header = Header::new(kind);
    for field in kind.fields().iter().filter(|field| field.bit + field.bits <= bytes.len() * 8) {
        header.fields.insert(field.name, take(bytes, field));
    }
    if bytes.len() < kind.bytes() {
        header.cut = Some(bytes.len());
        return layers.push(Layer::Header(header));
    }
    header.addresses = match kind {
        Kind::Ip => Some((address4(&bytes[12..16]), address4(&bytes[16..20]))),
        Kind::Ip6 => Some((address6(&bytes[8..24]), address6(&bytes[24..40]))),
        _ => None,
    };
    let value = |name: &str| header.fields.get(name).copied().unwrap_or(0);
    let header_bytes = match kind {
        Kind::Ip => value("ihl") as usize * 4,
        Kind::Tcp => value("doff") as usize * 4,
        Kind::HopByHop6 | Kind::Destination6 | Kind::Routing6 => value("ehl") as usize * 8 + 8,
        Kind::Gre if value("csum") == 1 => 8,
        Kind::Gue => 4 + value("hlen") as usize * 4,
        _ => kind.bytes(),
    };
    let header_bytes = header_bytes.clamp(kind.bytes(), bytes.len());
    let payload = &bytes[header_bytes..];
    let is_later_fragment = value("off") != 0;
    let next = match kind {
        Kind::Udp if GUE_PORTS.contains(&value("dport")) => Some(Kind::Gue),
        Kind::Gre => match value("proto") {
            0x0800 => Some(Kind::Ip),
            0x86dd => Some(Kind::Ip6),
            _ => None,
        },
        Kind::Tcp | Kind::Udp | Kind::Sctp => None,
        _ => kind_of_protocol(value("proto")),
    };
    let is_quoting = kind.quotes(value("type"));
    header.options = bytes[kind.bytes()..header_bytes].to_vec();
    layers.push(Layer::Header(header));
    match next {
        _ if is_later_fragment => read_data(payload, layers),
        _ if is_quoting => read_packet(payload, layers),
        _ if matches!(kind, Kind::Icmp | Kind::Icmp6) => read_data(payload, layers),
        Some(next) => read_layer(next, payload, layers),
        None => read_data(payload, layers),
    }
}

fn kind_of_protocol(protocol: u64) -> Option<Kind> {
    let kinds = super::format::KINDS.iter().map(|(kind, _)| *kind);
    kinds.filter(|kind| *kind != Kind::Gue).find(|kind| kind.protocol() == protocol)
}

fn take(bytes: &[u8], field: &Field) -> u64 {
    (field.bit..field.bit + field.bits)
        .fold(0, |value, bit| value << 1 | u64::from(bytes[bit / 8] >> (7 - bit % 8) & 1))
}

fn address4(bytes: &[u8]) -> IpAddr {
    <[u8; 4]>::try_from(bytes).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from).into()
}

fn address6(bytes: &[u8]) -> IpAddr {
    <[u8; 16]>::try_from(bytes).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from).into()
}

/// Takes out the fields without which the bytes are the same.
fn reduce(layers: &mut [Layer], bytes: &[u8]) {
    debug_assert!(build(layers) == bytes, "not the same bytes: {layers:?}");
    for place in 0..layers.len() {
        let Layer::Header(header) = &layers[place] else { continue };
        let names: Vec<&'static str> =
            header.fields.keys().copied().filter(|name| !POSITIONAL.contains(name)).collect();
        for name in names {
            try_without(layers, place, bytes, |header| {
                header.fields.remove(name);
            });
        }
        // GRE's checksum.
        if matches!(&layers[place], Layer::Header(header) if header.kind == Kind::Gre) {
            try_without(layers, place, bytes, |header| header.options.clear());
        }
    }
}

fn try_without(layers: &mut [Layer], place: usize, bytes: &[u8], change: impl FnOnce(&mut Header)) {
    let before = layers[place].clone();
    if let Layer::Header(header) = &mut layers[place] {
        change(header);
    }
    if build(layers) != bytes {
        layers[place] = before;
    }
}
