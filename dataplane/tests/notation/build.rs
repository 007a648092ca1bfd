//! From layers to bytes. A layer is written when what it holds is known, so that lengths and checksums are right at once.

use std::cell::RefCell;
use std::net::IpAddr;

use super::layer::{Derived, Layer, Number};
use super::{Built, FRAME_BYTES_MIN, Names, Way, sums};

type Result<T> = std::result::Result<T, String>;

/// Protocol of what is no layer of its own: for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

pub fn frame(layers: &[Layer], names: &dyn Names, way: Way, actual: Option<&[u8]>) -> Result<Built> {
    let (inner, tail): (Vec<_>, Vec<_>) =
        layers.iter().cloned().partition(|layer| !["pad", "cut"].contains(&layer.name.as_str()));
    let is_whole = inner.first().is_some_and(|first| first.name == "bytes");
    let mut all = link(&inner, names, way)?;
    all.extend(inner.iter().filter(|layer| !["from", "to"].contains(&layer.name.as_str())).cloned());
    let builder = Builder { names, actual, marks: RefCell::default(), headers_end: RefCell::default() };
    let mut bytes = match is_whole {
        true => super::hex(inner[0].first_word()?)?,
        false => builder.layers(&all, 0, None)?,
    };
    for layer in tail.iter().filter(|layer| layer.name == "pad") {
        bytes.extend(vec![0xee; super::layer::number(layer.first_word()?)? as usize]);
    }
    if !is_whole && bytes.len() < FRAME_BYTES_MIN {
        bytes.resize(FRAME_BYTES_MIN, 0);
    }
    for layer in tail.iter().filter(|layer| layer.name == "cut") {
        bytes.truncate(super::layer::number(layer.first_word()?)? as usize);
    }
    for layer in all.iter().chain(&tail) {
        layer.check()?;
    }
    let length = bytes.len();
    let mut boundaries = builder.marks.into_inner();
    boundaries.retain(|at| (1..length).contains(at));
    boundaries.sort_unstable();
    boundaries.dedup();
    Ok(Built { bytes, boundaries, headers_end: builder.headers_end.into_inner() })
}

/// The Ethernet header that is not written, or is written as a link.
fn link(layers: &[Layer], names: &dyn Names, way: Way) -> Result<Vec<Layer>> {
    let first = layers.first().ok_or("no layer")?;
    let text = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    Ok(match first.name.as_str() {
        "eth" | "bytes" => Vec::new(),
        "from" | "to" => {
            let word = first.first_word()?;
            let (real_server, port, vlan) = names.link(word).ok_or_else(|| format!("{word} is nobody"))?;
            let (real_server, port) = (text(real_server), text(port));
            let ends = if first.name == "from" { (&real_server, &port) } else { (&port, &real_server) };
            let mut link = vec![Layer::new("eth", Some((ends.0, ends.1)), &[])];
            if vlan != 0 {
                link.push(Layer::new("vlan", None, &[]).word(&vlan.to_string(), true));
            }
            link
        }
        _ if way == Way::In => vec![Layer::new("eth", Some(("client", "dut")), &[])],
        _ => vec![Layer::new("eth", Some(("dut", "client")), &[])],
    })
}

struct Builder<'a> {
    names: &'a dyn Names,
    actual: Option<&'a [u8]>,
    marks: RefCell<Vec<usize>>,
    headers_end: RefCell<Option<usize>>,
}

/// The addresses that go into a pseudo header.
type Ends = Option<(IpAddr, IpAddr)>;

impl Builder<'_> {
    /// What these layers come to, from `at` on in the frame.
    fn layers(&self, layers: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let Some((layer, rest)) = layers.split_first() else { return Ok(Vec::new()) };
        self.marks.borrow_mut().push(at);
        match layer.name.as_str() {
            "eth" => self.ethernet(layer, rest, at),
            "vlan" => self.vlan(layer, rest, at),
            "llc" => self.layers(rest, at, ends),
            "arp" => self.arp(layer),
            "ip" if self.names.is_ipv6() => self.ipv6(layer, rest, at),
            "ip" | "ip4" => self.ipv4(layer, rest, at),
            "ip6" => self.ipv6(layer, rest, at),
            "hbh" | "dopt" | "rt" | "ah" => self.extension(layer, rest, at, ends),
            "frag" => self.fragment(layer, rest, at, ends),
            "tcp" => self.tcp(layer, rest, at, ends),
            "udp" => self.udp(layer, rest, at, ends),
            "sctp" => self.sctp(layer, rest, at),
            "chunk" => self.chunk(layer, rest, at),
            "icmp" | "icmp6" => self.icmp(layer, rest, at, ends),
            "gre" => self.gre(layer, rest, at),
            "gue" => self.gue(layer, rest, at),
            "address" => {
                let mut bytes = match self.address(layer.first_word()?, self.names.is_ipv6())? {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                bytes.extend(self.layers(rest, at + bytes.len(), ends)?);
                Ok(bytes)
            }
            _ => {
                let mut bytes = payload(layer)?;
                bytes.extend(self.layers(rest, at + bytes.len(), ends)?);
                Ok(bytes)
            }
        }
    }

    /// A number of so many bytes at this place of the frame.
    fn number(&self, into: &mut Vec<u8>, at: usize, number: Number, bytes: usize) {
        let start = at + into.len();
        match number {
            Number::Is(value) => into.extend(&value.to_be_bytes()[8 - bytes..]),
            Number::Any => {
                let found = self.actual.and_then(|actual| actual.get(start..start + bytes));
                into.extend(found.map_or(vec![0; bytes], <[u8]>::to_vec));
            }
        }
    }

    /// Writes a length or checksum whose right value is `right`.
    fn derive(&self, bytes: &mut [u8], at: usize, place: usize, derived: Derived, right: u16) {
        let value = match derived {
            Derived::Right => right,
            Derived::Off(by) => (i64::from(right) + by) as u16,
            Derived::Is(value) => value as u16,
            Derived::Bad => right ^ 0x0100,
            Derived::Any => {
                let found = self.actual.and_then(|actual| actual.get(at + place..at + place + 2));
                found.map_or(0, |found| u16::from_be_bytes([found[0], found[1]]))
            }
        };
        bytes[place..place + 2].copy_from_slice(&value.to_be_bytes());
    }

    fn mac(&self, text: &str) -> Result<[u8; 6]> {
        if let Some(mac) = self.names.mac(text) {
            return Ok(mac);
        }
        let parts: Vec<&str> = text.split(':').collect();
        let bytes: Option<Vec<u8>> = parts.iter().map(|part| u8::from_str_radix(part, 16).ok()).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{text} is no MAC address"))
    }

    fn address(&self, text: &str, is_ipv6: bool) -> Result<IpAddr> {
        let address = self.names.address(text, is_ipv6).or_else(|| text.parse().ok());
        address
            .filter(|address| address.is_ipv6() == is_ipv6)
            .ok_or_else(|| format!("{text} is no address here"))
    }

    fn ethernet(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let (from, to) = layer.ends()?;
        let mut bytes = [self.mac(to)?, self.mac(from)?].concat();
        let payload = self.layers(rest, at + 14, None)?;
        let ether_type = match rest.first() {
            Some(first) if first.name == "llc" => payload.len() as u64,
            first => self.ether_type(first)?,
        };
        self.number(&mut bytes, at, layer.number("type", ether_type)?, 2);
        Ok([bytes, payload].concat())
    }

    /// What names this layer in front of it.
    fn ether_type(&self, layer: Option<&Layer>) -> Result<u64> {
        let Some(layer) = layer else { return Ok(0) };
        Ok(match layer.name.as_str() {
            "ip" if self.names.is_ipv6() => 0x86dd,
            "ip" | "ip4" => 0x0800,
            "ip6" => 0x86dd,
            "arp" => 0x0806,
            "vlan" => layer.fixed("tpid", 0x8100)?,
            // For experiments (IEEE 802).
            _ => 0x88b5,
        })
    }

    fn vlan(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let vlan = super::layer::number(layer.first_word()?)?;
        let mut bytes = Vec::new();
        self.number(&mut bytes, at, Number::Is(layer.fixed("pcp", 0)? << 13 | vlan), 2);
        self.number(&mut bytes, at, layer.number("type", self.ether_type(rest.first())?)?, 2);
        bytes.extend(self.layers(rest, at + 4, None)?);
        Ok(bytes)
    }

    fn arp(&self, layer: &Layer) -> Result<Vec<u8>> {
        let (from, to) = layer.ends()?;
        let operation = match layer.first_word()? {
            "request" => 1,
            "reply" => 2,
            number => super::layer::number(number)?,
        };
        let mut bytes = Vec::new();
        for (field, default, length) in
            [("htype", 1, 2), ("ptype", 0x0800, 2), ("hlen", 6, 1), ("plen", 4, 1)]
        {
            self.number(&mut bytes, 0, Number::Is(layer.fixed(field, default)?), length);
        }
        self.number(&mut bytes, 0, Number::Is(operation), 2);
        for (end, field, default) in [(from, "smac", "client"), (to, "tmac", "00:00:00:00:00:00")] {
            bytes.extend(self.mac(layer.text(field).unwrap_or(default))?);
            let IpAddr::V4(address) = self.address(end, false)? else { return Err("ARP is IPv4's".into()) };
            bytes.extend(address.octets());
        }
        Ok(bytes)
    }

    fn ipv4(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let (from, to) = layer.ends()?;
        let (source, destination) = (self.address(from, false)?, self.address(to, false)?);
        let mut options = layer.bytes("opt")?;
        options.resize(options.len().next_multiple_of(4), 0);
        let header = 20 + options.len();
        let mut payload = self.layers(rest, at + header, Some((source, destination)))?;
        let (mut offset, mut more) = (layer.fixed("off", 0)?, layer.has("mf"));
        if let Some(piece) = layer.range("piece")? {
            (offset, more) = (piece.start as u64 / 8, more || piece.end < payload.len());
            payload = payload.get(piece).ok_or("a piece of what is not there")?.to_vec();
        }
        let flags =
            u64::from(layer.has("df")) << 14 | u64::from(more) << 13 | u64::from(layer.has("rf")) << 15;
        let version = layer.fixed("ver", 4)? << 4 | layer.fixed("ihl", header as u64 / 4)?;
        let protocol = rest.first().map_or(EXPERIMENT, protocol_of);
        let mut bytes = Vec::new();
        self.number(&mut bytes, at, Number::Is(version), 1);
        self.number(&mut bytes, at, layer.number("tos", 0)?, 1);
        bytes.extend([0; 2]);
        self.number(&mut bytes, at, layer.number("id", 1)?, 2);
        self.number(&mut bytes, at, Number::Is(flags | offset), 2);
        self.number(&mut bytes, at, layer.number("ttl", 64)?, 1);
        self.number(&mut bytes, at, layer.number("proto", protocol.into())?, 1);
        bytes.extend([0; 2]);
        for address in [source, destination] {
            let IpAddr::V4(address) = address else { return Err("a mix of families".into()) };
            bytes.extend(address.octets());
        }
        bytes.extend(options);
        self.derive(&mut bytes, at, 2, layer.derived("len")?, (header + payload.len()) as u16);
        let right = sums::internet(&bytes);
        self.derive(&mut bytes, at, 10, layer.derived("sum")?, right);
        bytes.extend(payload);
        Ok(bytes)
    }

    fn ipv6(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let (from, to) = layer.ends()?;
        let (source, destination) = (self.address(from, true)?, self.address(to, true)?);
        let payload = self.layers(rest, at + 40, Some((source, destination)))?;
        let mut bytes = Vec::new();
        let class = layer.number("tos", 0)?;
        match (class, layer.number("flow", 0)?) {
            (Number::Is(class), Number::Is(flow)) => {
                let word = layer.fixed("ver", 6)? << 28 | class << 20 | flow;
                self.number(&mut bytes, at, Number::Is(word), 4);
            }
            (Number::Is(class), Number::Any) => {
                let mut found = Vec::new();
                self.number(&mut found, at, Number::Any, 4);
                bytes.extend([0x60 | (class >> 4) as u8, ((class & 15) << 4) as u8 | found[1] & 15]);
                bytes.extend(&found[2..]);
            }
            (Number::Any, _) => return Err("tos=? is not known here".into()),
        }
        bytes.extend([0; 2]);
        let next = rest.first().map_or(EXPERIMENT, protocol_of);
        self.number(&mut bytes, at, layer.number("next", next.into())?, 1);
        self.number(&mut bytes, at, layer.number("ttl", 64)?, 1);
        for address in [source, destination] {
            let IpAddr::V6(address) = address else { return Err("a mix of families".into()) };
            bytes.extend(address.octets());
        }
        self.derive(&mut bytes, at, 4, layer.derived("len")?, payload.len() as u16);
        // Words that only the other family has.
        let _ = ["df"].map(|word| layer.has(word));
        let _ = layer.text("id");
        bytes.extend(payload);
        Ok(bytes)
    }

    fn extension(&self, layer: &Layer, rest: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let mut body = match layer.name.as_str() {
            "rt" => {
                let mut body = vec![layer.fixed("type", 0)? as u8, layer.fixed("left", 0)? as u8];
                body.extend(vec![0; 4 + 8 * layer.fixed("words", 0)? as usize]);
                body
            }
            "ah" => vec![0; 4 * layer.fixed("words", 4)? as usize + 6],
            _ => layer.bytes("opt")?,
        };
        if layer.name != "ah" {
            // PadN, or Pad1 where there is room for no more.
            match (body.len() + 2).next_multiple_of(8) - body.len() - 2 {
                0 => {}
                1 => body.push(0),
                more => {
                    body.extend([1, more as u8 - 2]);
                    body.extend(vec![0; more - 2]);
                }
            }
        }
        let length = if layer.name == "ah" { (body.len() + 2) / 4 - 2 } else { (body.len() + 2) / 8 - 1 };
        let next = rest.first().map_or(EXPERIMENT, protocol_of);
        let mut bytes = Vec::new();
        self.number(&mut bytes, at, layer.number("next", next.into())?, 1);
        self.number(&mut bytes, at, layer.number("len", length as u64)?, 1);
        bytes.extend(body);
        bytes.extend(self.layers(rest, at + bytes.len(), ends)?);
        Ok(bytes)
    }

    fn fragment(&self, layer: &Layer, rest: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let mut payload = self.layers(rest, at + 8, ends)?;
        let (mut offset, mut more) = (layer.fixed("off", 0)?, layer.has("mf"));
        if let Some(piece) = layer.range("piece")? {
            (offset, more) = (piece.start as u64 / 8, more || piece.end < payload.len());
            payload = payload.get(piece).ok_or("a piece of what is not there")?.to_vec();
        }
        let next = rest.first().map_or(EXPERIMENT, protocol_of);
        let mut bytes = Vec::new();
        self.number(&mut bytes, at, layer.number("next", next.into())?, 1);
        self.number(&mut bytes, at, Number::Is(layer.fixed("res", 0)?), 1);
        self.number(&mut bytes, at, Number::Is(offset << 3 | u64::from(more)), 2);
        self.number(&mut bytes, at, layer.number("id", 1)?, 4);
        bytes.extend(payload);
        Ok(bytes)
    }

    fn ports(&self, layer: &Layer, at: usize) -> Result<Vec<u8>> {
        let (from, to) = layer.ends()?;
        let mut bytes = Vec::new();
        for port in [from, to] {
            let port = match (port, self.names.port(port)) {
                ("?", _) => Number::Any,
                (_, Some(named)) => Number::Is(named.into()),
                (number, None) => Number::Is(super::layer::number(number)?),
            };
            self.number(&mut bytes, at, port, 2);
        }
        Ok(bytes)
    }

    /// The transport header of the packet itself, not of one that it quotes, ends here.
    fn headers_end(&self, at: usize) {
        self.headers_end.borrow_mut().get_or_insert(at);
    }

    fn tcp(&self, layer: &Layer, rest: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let mut options = Vec::new();
        if let Some(mss) = layer.text("mss") {
            options.extend([2, 4]);
            self.number(&mut options, 0, Number::Is(super::layer::number(mss)?), 2);
        }
        options.extend(layer.bytes("opt")?);
        options.resize(options.len().next_multiple_of(4), 0);
        let letters: u64 = layer
            .words
            .iter()
            .flat_map(|word| word.chars())
            .fold(0, |flags, letter| flags | "FSRPAUECN".find(letter).map_or(0, |place| 1 << place));
        for word in &layer.words {
            if !word.chars().all(|letter| "FSRPAUECN".contains(letter)) {
                return Err(format!("{word} is no TCP flag"));
            }
            let _ = layer.has(word);
        }
        let flags = layer.fixed("flags", letters)?;
        let data_offset = layer.fixed("doff", 5 + options.len() as u64 / 4)?;
        let mut bytes = self.ports(layer, at)?;
        self.number(&mut bytes, at, layer.number("seq", 1)?, 4);
        self.number(&mut bytes, at, layer.number("ack", 0)?, 4);
        self.number(&mut bytes, at, Number::Is(data_offset << 12 | flags), 2);
        self.number(&mut bytes, at, layer.number("win", 1000)?, 2);
        bytes.extend([0; 2]);
        self.number(&mut bytes, at, layer.number("urg", 0)?, 2);
        bytes.extend(options);
        self.headers_end(at + bytes.len());
        bytes.extend(self.layers(rest, at + bytes.len(), None)?);
        let right = transport_sum(ends, 6, &bytes);
        self.derive(&mut bytes, at, 16, layer.derived("sum")?, right);
        Ok(bytes)
    }

    fn udp(&self, layer: &Layer, rest: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let mut bytes = self.ports(layer, at)?;
        bytes.extend([0; 4]);
        self.headers_end(at + bytes.len());
        bytes.extend(self.layers(rest, at + 8, None)?);
        let length = bytes.len() as u16;
        self.derive(&mut bytes, at, 4, layer.derived("len")?, length);
        // Zero would mean that there is none (RFC 768).
        let right = match transport_sum(ends, 17, &bytes) {
            0 => 0xffff,
            sum => sum,
        };
        self.derive(&mut bytes, at, 6, layer.derived("sum")?, right);
        Ok(bytes)
    }

    fn sctp(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let mut bytes = self.ports(layer, at)?;
        self.number(&mut bytes, at, layer.number("tag", 1)?, 4);
        bytes.extend([0; 4]);
        bytes.extend(self.layers(rest, at + 12, None)?);
        self.headers_end(at + bytes.len().min(16));
        let mut sum = sums::crc32c(&bytes);
        match layer.derived("sum")? {
            Derived::Right => {}
            Derived::Is(value) => sum = (value as u32).to_be_bytes(),
            Derived::Any => {
                if let Some(found) = self.actual.and_then(|actual| actual.get(at + 8..at + 12)) {
                    sum.copy_from_slice(found);
                }
            }
            Derived::Bad | Derived::Off(_) => sum[1] ^= 1,
        }
        bytes[8..12].copy_from_slice(&sum);
        Ok(bytes)
    }

    fn chunk(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        const INIT: u64 = 1;
        let kind = match layer.first_word()? {
            "INIT" => INIT,
            number => super::layer::number(number)?,
        };
        let value = match layer.text("value") {
            Some(text) => super::hex(text)?,
            // The fixed parameters that both INIT and INIT ACK have.
            None if kind == INIT || kind == 2 => {
                [[0, 0, 0, 7], [0, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]].concat()
            }
            None => Vec::new(),
        };
        let mut bytes = vec![kind as u8, layer.fixed("flags", 0)? as u8, 0, 0];
        let length = 4 + value.len() as u16;
        bytes.extend(value);
        self.derive(&mut bytes, at, 2, layer.derived("len")?, length);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(self.layers(rest, at + bytes.len(), None)?);
        Ok(bytes)
    }

    fn icmp(&self, layer: &Layer, rest: &[Layer], at: usize, ends: Ends) -> Result<Vec<u8>> {
        let is_ipv6 = layer.name == "icmp6";
        let word = layer.first_word()?;
        let (kind, code) = word.split_once('/').ok_or_else(|| format!("{word} is no type/code"))?;
        let (kind, code) = (super::layer::number(kind)?, super::layer::number(code)?);
        let mut bytes = vec![kind as u8, code as u8, 0, 0];
        let (mtu, pointer) = (layer.fixed("mtu", 0)?, layer.fixed("pointer", 0)?);
        let (id, seq) = (layer.fixed("id", 0)?, layer.fixed("seq", 0)?);
        let rest_of_header = match (layer.text("rest"), is_ipv6) {
            (Some(text), _) => super::hex(text)?,
            (None, true) => ((mtu | pointer | id << 16 | seq) as u32).to_be_bytes().to_vec(),
            (None, false) => ((pointer << 24 | mtu | id << 16 | seq) as u32).to_be_bytes().to_vec(),
        };
        bytes.extend(rest_of_header);
        let outer = self.headers_end.take();
        let mut quote = self.layers(rest, at + bytes.len(), None)?;
        self.headers_end.replace(outer);
        if let Some(most) = layer.text("quote") {
            quote.truncate(super::layer::number(most)? as usize);
        }
        bytes.extend(quote);
        self.headers_end(at + bytes.len());
        let right = if is_ipv6 { transport_sum(ends, 58, &bytes) } else { sums::internet(&bytes) };
        self.derive(&mut bytes, at, 2, layer.derived("sum")?, right);
        Ok(bytes)
    }

    fn gre(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let has_sum = layer.has("csum");
        let mut bytes = Vec::new();
        self.number(&mut bytes, at, layer.number("flags", if has_sum { 0x8000 } else { 0 })?, 2);
        self.number(&mut bytes, at, layer.number("proto", self.ether_type(rest.first())?)?, 2);
        if has_sum {
            bytes.extend([0; 4]);
        }
        bytes.extend(self.layers(rest, at + bytes.len(), None)?);
        if has_sum {
            let right = sums::internet(&bytes);
            self.derive(&mut bytes, at, 4, layer.derived("sum")?, right);
        }
        Ok(bytes)
    }

    fn gue(&self, layer: &Layer, rest: &[Layer], at: usize) -> Result<Vec<u8>> {
        let protocol = rest.first().map_or(EXPERIMENT, |first| self.inner_protocol(first));
        let mut bytes = vec![layer.fixed("b0", 0)? as u8];
        self.number(&mut bytes, at, layer.number("proto", protocol.into())?, 1);
        self.number(&mut bytes, at, layer.number("flags", 0)?, 2);
        bytes.extend(self.layers(rest, at + 4, None)?);
        Ok(bytes)
    }

    fn inner_protocol(&self, layer: &Layer) -> u8 {
        if layer.name == "ip" && self.names.is_ipv6() { 41 } else { protocol_of(layer) }
    }
}

fn transport_sum(ends: Ends, protocol: u8, bytes: &[u8]) -> u16 {
    match ends {
        Some((source, destination)) => sums::transport(source, destination, protocol, bytes),
        None => sums::internet(bytes),
    }
}

/// The number by which an IP header says that this layer follows.
fn protocol_of(layer: &Layer) -> u8 {
    match layer.name.as_str() {
        "hbh" => 0,
        "icmp" => 1,
        "ip" | "ip4" => 4,
        "tcp" => 6,
        "udp" => 17,
        "ip6" => 41,
        "rt" => 43,
        "frag" => 44,
        "gre" => 47,
        "ah" => 51,
        "icmp6" => 58,
        "dopt" => 60,
        "sctp" => 132,
        _ => EXPERIMENT,
    }
}

fn payload(layer: &Layer) -> Result<Vec<u8>> {
    let word = layer.first_word()?;
    Ok(match layer.name.as_str() {
        // No period of a power of two: a piece that went astray shows.
        "data" => (0..super::layer::number(word)?).map(|place| (place % 251) as u8).collect(),
        "zeros" => vec![0; super::layer::number(word)? as usize],
        "hex" => super::hex(word)?,
        "text" => word.as_bytes().to_vec(),
        name => return Err(format!("{name} is no layer")),
    })
}
