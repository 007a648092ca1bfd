//! The text of a packet.

use std::fmt::{self, Write};
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use super::format::{Field, KINDS, Kind, TCP_FLAGS, Written};
use super::{Header, Layer, Output, POSITIONAL, Slice, pattern};

/// Bytes of a quote that says no length: more than any.
const WHOLE: usize = usize::MAX;

/// Reads layers, separated by ` / `.
pub fn parse(text: &str) -> Result<Vec<Layer>> {
    text.split(" / ").map(|layer| parse_layer(layer).with_context(|| format!("in `{layer}`"))).collect()
}

fn parse_layer(text: &str) -> Result<Layer> {
    if let Some(quoted) = text.strip_prefix("text=") {
        return Ok(Layer::Data(parse_quoted(quoted)?));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let (name, rest) = words.split_first().context("a layer is empty")?;
    if let Some(length) = name.strip_prefix("data=") {
        let (length, offset) = length.split_once('@').unwrap_or((length, "0"));
        let (length, offset): (usize, usize) = (length.parse()?, offset.parse()?);
        return Ok(Layer::Data((offset..offset + length).map(pattern).collect()));
    }
    if let Some(hex) = name.strip_prefix("hex=") {
        return Ok(Layer::Data(parse_hex(hex)?));
    }
    if let Some(number) = name.strip_prefix("out") {
        let (number, length) = number.split_once(':').unwrap_or((number, ""));
        let number = if number.is_empty() { 1 } else { number.parse()? };
        let length = if length.is_empty() { WHOLE } else { length.parse()? };
        return Ok(Layer::Output(Output { number, length }));
    }
    let kind = KINDS.iter().find(|(_, known)| known == name).context("no such layer")?.0;
    parse_header(kind, rest).map(Layer::Header)
}

fn parse_header(kind: Kind, words: &[&str]) -> Result<Header> {
    let mut header = Header::new(kind);
    let words = match (kind, words) {
        (Kind::Ip | Kind::Ip6, [source, ">", destination, rest @ ..]) => {
            let ends: (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
            let is_of_kind = |address: IpAddr| address.is_ipv4() == (kind == Kind::Ip);
            ensure!(is_of_kind(ends.0) && is_of_kind(ends.1), "addresses are not of its family");
            header.addresses = Some(ends);
            rest
        }
        (Kind::Ip | Kind::Ip6, _) => bail!("write ADDRESS > ADDRESS"),
        (Kind::Tcp | Kind::Udp | Kind::Sctp, [source, ">", destination, rest @ ..]) => {
            match source.strip_prefix('*') {
                Some(number) => drop(header.masked.insert("sport", number.parse()?)),
                None => drop(header.fields.insert("sport", source.parse()?)),
            }
            header.fields.insert("dport", destination.parse()?);
            rest
        }
        (Kind::Tcp | Kind::Udp | Kind::Sctp, _) => bail!("write PORT > PORT"),
        (Kind::Icmp | Kind::Icmp6, [message, rest @ ..]) => {
            let (message, code) = message.split_once('/').context("write TYPE/CODE")?;
            header.fields.insert("type", message.parse()?);
            header.fields.insert("code", code.parse()?);
            rest
        }
        _ => words,
    };
    for word in words {
        parse_word(&mut header, word).with_context(|| format!("`{word}`"))?;
    }
    let is_whole = header.cut.is_none();
    ensure!(kind != Kind::Tcp || !is_whole || header.fields.contains_key("flags"), "no flags, not even NONE");
    Ok(header)
}

fn parse_word(header: &mut Header, word: &str) -> Result<()> {
    let Some((name, value)) = word.split_once('=') else {
        if let Some(field) = header.kind.field(word) {
            ensure!(field.written == Written::Flag, "is no flag");
            header.fields.insert(field.name, 1);
            return Ok(());
        }
        ensure!(header.kind == Kind::Tcp, "no such flag");
        header.fields.insert("flags", parse_tcp_flags(word)?);
        return Ok(());
    };
    match name {
        "opts" => header.options = parse_hex(value)?,
        "cut" => header.cut = Some(value.parse()?),
        "frag" => {
            let parts: Vec<&str> = value.split(':').collect();
            let [offset, length, id] = parts[..] else { bail!("write frag=OFFSET:LENGTH:ID") };
            let slice = Slice { offset: offset.parse()?, length: length.parse()?, id: id.parse()? };
            ensure!(matches!(header.kind, Kind::Ip | Kind::Ip6), "only IP has fragments");
            ensure!(slice.offset.is_multiple_of(8), "a fragment starts at a multiple of 8 bytes");
            header.slice = Some(slice);
        }
        _ => {
            let field = header.kind.field(name).context("no such field")?;
            if let Some(number) = value.strip_prefix('*') {
                header.masked.insert(field.name, number.parse()?);
                return Ok(());
            }
            let value = match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16)?,
                None => value.parse()?,
            };
            header.fields.insert(field.name, value / unit(field));
        }
    }
    Ok(())
}

/// Bytes in one of a field.
fn unit(field: &Field) -> u64 {
    if field.name == "off" { 8 } else { 1 }
}

fn parse_tcp_flags(names: &str) -> Result<u64> {
    if names == "NONE" {
        return Ok(0);
    }
    names.split(',').try_fold(0, |flags, name| {
        let bit = TCP_FLAGS.iter().position(|flag| *flag == name);
        Ok(flags | 1 << bit.with_context(|| format!("no TCP flag: {name}"))?)
    })
}

fn parse_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "an odd number of digits");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

/// Reads `"227 Entering Passive Mode\r\n"`.
fn parse_quoted(text: &str) -> Result<Vec<u8>> {
    let inner =
        text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).context("write text=\"...\"")?;
    Ok(inner.replace("\\r", "\r").replace("\\n", "\n").into_bytes())
}

/// Layers as they are written.
pub struct Text<'a>(pub &'a [Layer]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, layer) in self.0.iter().enumerate() {
            if place > 0 {
                write!(f, " / ")?;
            }
            match layer {
                Layer::Header(header) => write_header(header, f)?,
                Layer::Data(bytes) => write_data(bytes, f)?,
                Layer::Output(output) => write_output(*output, f)?,
            }
        }
        Ok(())
    }
}

fn write_output(output: Output, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "out")?;
    if output.number != 1 {
        write!(f, "{}", output.number)?;
    }
    if output.length == WHOLE { Ok(()) } else { write!(f, ":{}", output.length) }
}

fn write_header(header: &Header, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let value = |name: &str| header.fields.get(name).copied().unwrap_or(0);
    write!(f, "{}", header.kind.name())?;
    match header.kind {
        Kind::Ip | Kind::Ip6 => {
            if let Some((source, destination)) = header.addresses {
                write!(f, " {source} > {destination}")?;
            }
        }
        Kind::Tcp | Kind::Udp | Kind::Sctp => {
            write_port(header, "sport", f)?;
            write!(f, " >")?;
            write_port(header, "dport", f)?;
        }
        Kind::Icmp | Kind::Icmp6 => write!(f, " {}/{}", value("type"), value("code"))?,
        _ => {}
    }
    if header.kind == Kind::Tcp && header.fields.contains_key("flags") {
        let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| value("flags") & (1 << bit) != 0);
        let names: Vec<&str> = set.map(|(_, name)| *name).collect();
        write!(f, " {}", if names.is_empty() { "NONE".to_owned() } else { names.join(",") })?;
    }
    for field in header.kind.fields().iter().filter(|field| !POSITIONAL.contains(&field.name)) {
        if let Some(number) = header.masked.get(field.name) {
            write!(f, " {}=*{number}", field.name)?;
        }
        let Some(value) = header.fields.get(field.name) else { continue };
        match field.written {
            Written::Flag if *value == 1 => write!(f, " {}", field.name)?,
            Written::Hex => {
                write!(f, " {}=0x{value:0width$x}", field.name, width = field.bits.div_ceil(4))?;
            }
            _ => write!(f, " {}={}", field.name, value * unit(field))?,
        }
    }
    if let Some(Slice { offset, length, id }) = header.slice {
        write!(f, " frag={offset}:{length}:{id}")?;
    }
    if !header.options.is_empty() {
        write!(f, " opts={}", hex(&header.options))?;
    }
    header.cut.map_or(Ok(()), |cut| write!(f, " cut={cut}"))
}

fn write_port(header: &Header, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match header.masked.get(name) {
        Some(number) => write!(f, " *{number}"),
        None => write!(f, " {}", header.fields.get(name).copied().unwrap_or(0)),
    }
}

fn write_data(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match pattern_offset(bytes) {
        Some(0) => write!(f, "data={}", bytes.len()),
        Some(offset) => write!(f, "data={}@{offset}", bytes.len()),
        None if is_text(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            write!(f, "text=\"{}\"", text.replace('\r', "\\r").replace('\n', "\\n"))
        }
        None => write!(f, "hex={}", hex(bytes)),
    }
}

/// Whether bytes are lines that a text can have as they are.
fn is_text(bytes: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~' | b'\r' | b'\n');
    let has_separator = bytes.windows(3).any(|three| three == b" / ");
    bytes.ends_with(b"\n") && bytes.iter().all(is_plain) && !has_separator
}

/// Where in the pattern these bytes are.
fn pattern_offset(bytes: &[u8]) -> Option<usize> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let is_at = |offset: &usize| bytes.iter().enumerate().all(|(at, byte)| *byte == pattern(offset + at));
    let even = word(0).map(|count| count * 2);
    let odd = word(1).filter(|count| *count > 0).map(|count| count * 2 - 1);
    Some(0).into_iter().chain(even).chain(odd).find(is_at)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::{build, read};
    use super::*;

    /// Text that is as short as it can be.
    const PACKETS: [&str; 15] = [
        "ip 198.51.100.7 > 192.0.2.10 df / tcp 40000 > 80 SYN",
        "ip 198.51.100.7 > 192.0.2.10 tos=0xb8 id=77 mf ttl=1 / tcp 40000 > 80 NONE seq=5 win=10 opts=020405b4 / data=20",
        "ip 198.51.100.7 > 192.0.2.10 sum=0x0001 / udp 40000 > 53 sum=0x0000 / data=5",
        "ip 198.51.100.7 > 192.0.2.10 / udp 40000 > 53 len=100 sum=0x1234 / hex=616263",
        "ip6 2001:db8:c::7 > 2001:db8:2::10 tos=0x01 flow=0x12345 / hop6 opts=010400000000 / tcp 1 > 2 SYN,ACK,ECE",
        "ip6 2001:db8:c::7 > 2001:db8:2::10 / frag6 off=8 mf id=9 / data=16@8",
        "ip6 2001:db8:c::7 > 2001:db8:2::10 / icmp6 2/0 mtu=1400 / ip6 ::1 > ::2 len=1460 / udp 1 > 2 len=1460 sum=0x0102 / data=8",
        "ip 10.0.0.254 > 192.0.2.10 / icmp 3/4 mtu=1400 / ip 192.0.2.10 > 198.51.100.7 len=40 / tcp 80 > 40000 cut=8",
        "ip 10.0.0.1 > 10.0.0.11 id=0 df / ip 198.51.100.7 > 192.0.2.10 / udp 1 > 2",
        "ip 10.0.0.1 > 10.0.0.11 / gre csum / ip6 ::1 > ::2 / udp 1 > 2",
        "ip 10.0.0.1 > 10.0.0.11 / udp 1 > 6080 / gue / ip 1.1.1.1 > 2.2.2.2 / udp 1 > 2",
        "ip 10.0.0.1 > 10.0.0.11 / udp 1 > 6080 / gue gflags=0x0001 opts=8000000000180006 / ip6 ::1 > ::2 / icmp6 128/0 / data=8",
        "ip 198.51.100.7 > 192.0.2.10 / sctp 1 > 2 / hex=0100001400000000000000000000000000000000",
        "ip 198.51.100.7 > 192.0.2.10 off=1480 / data=9@1471",
        "ip 198.51.100.7 > 192.0.2.10 / tcp 40000 > 21 PSH,ACK / text=\"PORT 198,51,100,7,195,80\\r\\n\"",
    ];

    #[test]
    fn packet_is_read_back_as_it_was_written() {
        for text in PACKETS {
            let layers = parse(text).unwrap();
            assert_eq!(Text(&layers).to_string(), text);
            assert_eq!(Text(&read(&build(&layers))).to_string(), text);
        }
    }

    #[test]
    fn masked_fields_are_read_as_they_were_written() {
        let text = "ip 10.0.0.1 > 10.0.0.11 id=*2 mf / udp *1 > 6080 len=1500 sum=*1 / gue / ip 1.1.1.1 > 2.2.2.2 / udp 1 > 2";
        assert_eq!(Text(&parse(text).unwrap()).to_string(), text);
    }

    #[test]
    fn fragments_are_pieces_of_the_whole() {
        let piece = |frag: &str, family: &str| {
            let text = format!("{family} frag={frag}:7 / udp 1 > 2 / data=30");
            Text(&read(&build(&parse(&text).unwrap()))).to_string()
        };
        let ip = "ip 198.51.100.7 > 192.0.2.10";
        let first = piece("0:16", ip);
        assert!(first.starts_with("ip 198.51.100.7 > 192.0.2.10 id=7 mf / udp 1 > 2 len=38 sum="), "{first}");
        assert!(first.ends_with(" / data=8"), "{first}");
        assert_eq!(piece("16:99", ip), "ip 198.51.100.7 > 192.0.2.10 id=7 off=16 proto=17 / data=22@8");
        let ip6 = piece("16:8", "ip6 ::1 > ::2");
        assert_eq!(ip6, "ip6 ::1 > ::2 / frag6 proto=17 off=16 mf id=7 / data=8@8");
    }

    #[test]
    fn what_is_no_packet_says_why() {
        for text in [
            "ip 198.51.100.7 > 2001:db8::1",
            "ip 198.51.100.7 > 192.0.2.10 / tcp 1 > 2",
            "ip 198.51.100.7 > 192.0.2.10 / tcp 1 > 2 SIN",
            "ip 198.51.100.7 > 192.0.2.10 / udp 1 > 2 x=1",
            "ip 198.51.100.7 > 192.0.2.10 frag=4:8:1",
            "nothing",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
