//! Changes to inputs that know what frames are made of; what they know nothing of is left to libFuzzer.

use std::net::IpAddr;

use super::record::{self, Kind, Record};
use crate::network::forwarding::transport;
use crate::network::methods::METHODS;
use crate::network::{SERVICES, View, port_mac};
use crate::notation::Names;

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u32) -> Random {
        Random(u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Changes the records a little. `mutate` changes bytes in a way that knows nothing of them.
pub fn mutate(records: &mut Vec<Record>, random: &mut Random, mutate: &mut dyn FnMut(&mut Vec<u8>)) {
    if records.is_empty() {
        records.push(Record::frame(0, fresh(random)));
        return;
    }
    let count = records.len();
    let index = random.below(count);
    let record = &mut records[index];
    match random.below(16) {
        0 | 1 => mutate(&mut record.frame),
        2 => {
            let copy = record.clone();
            let at = random.below(records.len() + 1);
            records.insert(at, copy);
        }
        3 if count > 1 => drop(records.remove(index)),
        4 => {
            let other = random.below(records.len());
            records.swap(index, other);
        }
        5 => {
            let flags = record.flags() ^ 1 << random.below(7);
            let (cut, time) = (random.byte() % 120, if random.below(4) == 0 { random.byte() } else { 0 });
            record.set(flags, cut, time);
        }
        6 => record.port = random.below(4) as u8,
        7 => records.insert(index + 1, reaction(random)),
        8 => {
            let pieces = pieces(&records[index], random);
            records.splice(index..=index, pieces);
        }
        9 => records.insert(index, Record::frame(random.below(4) as u8 / 3, fresh(random))),
        10 => resize(&mut record.frame, random),
        11 => tag(&mut record.frame, random),
        12 => extend(&mut record.frame, random),
        _ => change_field(record, random),
    }
    records.truncate(record::RECORDS_MAX);
}

/// Some of the one input and some of the other.
pub fn cross(one: &[Record], other: &[Record], random: &mut Random) -> Vec<Record> {
    let head = &one[..random.below(one.len() + 1)];
    let tail = &other[random.below(other.len() + 1)..];
    [head, tail].concat()
}

fn view(random: &mut Random) -> View {
    View::new(&METHODS[random.below(METHODS.len())], random.below(2) == 1)
}

/// An address that means something.
fn address(random: &mut Random, is_ipv6: bool) -> Vec<u8> {
    let names = [
        "vip",
        "vip",
        "vip",
        "rs",
        "dip",
        "dip-1",
        "lip",
        "client",
        "client2",
        "stranger",
        "hop",
        "router",
        "vip-unserved",
        "vip-empty",
        "vip-quiesced",
        "vip-unresolved",
        "vip-1400",
        "vip-ftp",
        "vip-any",
        "vip-sip",
    ];
    let name = random.pick(&names);
    let view = View { is_ipv6, ..view(random) };
    match view.address(name, is_ipv6) {
        Some(IpAddr::V4(address)) => address.octets().to_vec(),
        Some(IpAddr::V6(address)) => address.octets().to_vec(),
        None => vec![0xff; if is_ipv6 { 16 } else { 4 }],
    }
}

fn port(random: &mut Random) -> [u8; 2] {
    let (_, service, translated) = random.pick(&SERVICES);
    let ports = [service, service, translated, 20, 21, 5060, 6080, 40_000, 40_001, 0, random.next() as u16];
    random.pick(&ports).to_be_bytes()
}

/// A client's first packet to a service.
fn fresh(random: &mut Random) -> Vec<u8> {
    let view = view(random);
    let (protocol, port, _) = random.pick(&SERVICES);
    let client_port = 40_000 + random.below(4);
    let transport = match protocol.0 {
        6 => format!("tcp {client_port} > {port} S mss=1460"),
        17 => format!("udp {client_port} > {port} / data {}", random.below(1400)),
        _ => format!("sctp {client_port} > {port} / chunk INIT"),
    };
    let text = format!("ip client > vip / {transport}");
    crate::notation::frame(&text, &view, crate::notation::Way::In, None).unwrap_or_default()
}

fn reaction(random: &mut Random) -> Record {
    let kind = if random.below(2) == 0 { Kind::Answer } else { Kind::Error };
    let frame = match kind {
        Kind::Answer => {
            let mut with = vec![random.pick(&[0x12, 0x10, 0x18, 0x11, 0x04, 0x02])];
            with.extend(vec![0x20; random.below(200)]);
            if random.below(4) == 0 {
                with.extend(b"227 Entering Passive Mode (10,1,0,24,200,10)\r\n");
            }
            with
        }
        _ => {
            let kind = random.pick(&[3, 3, 1, 2, 4, 11, 12, 5, 0]);
            vec![kind, random.byte() % 6, 0, 0, random.byte() % 8, random.byte(), random.byte()]
        }
    };
    Record::new(kind, record::FIX, frame)
}

fn packet_of(frame: &[u8]) -> Option<(usize, bool)> {
    let at = super::packet_at(frame)?;
    match frame[at] >> 4 {
        4 if frame.len() >= at + 20 => Some((at, false)),
        6 if frame.len() >= at + 40 => Some((at, true)),
        _ => None,
    }
}

/// The record's packet in two or three pieces, sometimes in another order, sometimes not quite fitting.
fn pieces(record: &Record, random: &mut Random) -> Vec<Record> {
    let Some((at, is_ipv6)) = packet_of(&record.frame) else { return vec![record.clone()] };
    let header = at + if is_ipv6 { 40 } else { usize::from(record.frame[at] & 15) * 4 };
    let is_whole = header >= at + 20 && header + 16 <= record.frame.len();
    if record.kind != Kind::Frame || !is_whole {
        return vec![record.clone()];
    }
    let payload = record.frame[header..].to_vec();
    let count = 2 + random.below(2);
    let size = (payload.len() / count).next_multiple_of(8).max(8);
    let id = random.byte();
    let mut pieces = Vec::new();
    for (number, piece) in payload.chunks(size).enumerate() {
        let mut offset = number * size / 8;
        if random.below(8) == 0 {
            offset = offset.wrapping_sub(1) & 0x1fff;
        }
        let more = (number + 1) * size < payload.len() || random.below(12) == 0;
        let mut frame = record.frame[..header].to_vec();
        if is_ipv6 {
            let next = std::mem::replace(&mut frame[at + 6], 44);
            let field = ((offset << 3) as u16 | u16::from(more)).to_be_bytes();
            frame.extend([next, 0, field[0], field[1], 0, 0, 0, id]);
        } else {
            let field = (offset as u16 | u16::from(more) << 13).to_be_bytes();
            frame[at + 4..at + 8].copy_from_slice(&[0, id, field[0], field[1]]);
        }
        frame.extend(piece);
        record::set_length(&mut frame[at..]);
        let mut piece = record.clone();
        piece.frame = frame;
        pieces.push(piece);
    }
    if random.below(3) == 0 {
        pieces.reverse();
    }
    pieces
}

/// Another length of the payload.
fn resize(frame: &mut Vec<u8>, random: &mut Random) {
    let Some((at, _)) = packet_of(frame) else { return };
    let sizes = [0, 8, 20, 100, 536, 1280, 1380, 1400, 1452, 1480, 1500, 3000, 9000];
    let size = at + random.pick(&sizes) + random.below(9);
    frame.resize(size.clamp(at + 20, record::FRAME_MAX), 0x55);
    if packet_of(frame).is_some() {
        record::set_length(&mut frame[at..]);
    }
}

fn tag(frame: &mut Vec<u8>, random: &mut Random) {
    if frame.len() < 16 {
        return;
    }
    if frame[12..14] == [0x81, 0] && random.below(2) == 0 {
        frame.drain(12..16);
    } else {
        let vlan = random.pick(&[0_u16, 100, 100, 200, 4095]).to_be_bytes();
        let high = random.pick(&[0x81, 0x81, 0x81, 0x88]);
        frame.splice(12..12, [high, if high == 0x81 { 0 } else { 0xa8 }, vlan[0], vlan[1]]);
    }
}

/// Puts an option or an extension header in.
fn extend(frame: &mut Vec<u8>, random: &mut Random) {
    let Some((at, is_ipv6)) = packet_of(frame) else { return };
    if is_ipv6 {
        let kind = random.pick(&[0, 43, 44, 51, 60]);
        let next = std::mem::replace(&mut frame[at + 6], kind);
        let header = match kind {
            43 => [next, 0, random.byte() % 5, random.byte() % 2, 0, 0, 0, 0],
            44 => [next, 0, 0, 0, 0, 0, 0, 9],
            _ => [next, 0, random.pick(&[1, 1, 5, 0x1e, 0x5e, 0x9e, 0xde]), 4, 0, 0, 0, 0],
        };
        frame.splice(at + 40..at + 40, header);
    } else if frame[at] & 15 < 15 && frame.len() >= at + 20 {
        frame[at] += 1;
        let option =
            random.pick(&[[1, 1, 1, 1], [0x94, 4, 0, 0], [0, 0, 0, 0], [7, 4, 4, 0], [0x83, 3, 4, 0]]);
        frame.splice(at + 20..at + 20, option);
    }
    record::set_length(&mut frame[at..]);
}

/// One field of the IP or transport header.
fn change_field(record: &mut Record, random: &mut Random) {
    let frame = &mut record.frame;
    if record.kind != Kind::Frame {
        let place = random.below(frame.len());
        if let Some(byte) = frame.get_mut(place) {
            *byte = random.byte();
        }
        return;
    }
    let Some((at, is_ipv6)) = packet_of(frame) else { return };
    let transport_at = transport(&frame[at..]).map_or(usize::MAX, |of| at + of.at);
    let mut set = |place: usize, bytes: &[u8]| {
        if let Some(field) = frame.get_mut(place..place.saturating_add(bytes.len())) {
            field.copy_from_slice(bytes);
        }
    };
    let small = random.pick(&[0, 1, 2, 64, 255]);
    let protocol = random.pick(&[1, 4, 6, 6, 17, 17, 41, 44, 47, 58, 132, 0, 43, 60]);
    match random.below(12) {
        0 => set(at + if is_ipv6 { 7 } else { 8 }, &[small]),
        1 => set(at + if is_ipv6 { 6 } else { 9 }, &[protocol]),
        2 if is_ipv6 => set(at + 8, &address(random, true)),
        2 => set(at + 12, &address(random, false)),
        3 if is_ipv6 => set(at + 24, &address(random, true)),
        3 => set(at + 16, &address(random, false)),
        4 if !is_ipv6 => set(at + 6, &[random.pick(&[0, 0x20, 0x40, 0x80]), random.pick(&[0, 0, 1, 2, 185])]),
        5 => set(transport_at.saturating_add(2), &port(random)),
        6 => set(transport_at, &port(random)),
        7 => set(transport_at.saturating_add(13), &[random.byte()]),
        8 => set(transport_at.saturating_add(random.below(20)), &[random.byte()]),
        9 => set(at + 1, &[random.byte()]),
        10 => set(0, &port_mac(random.below(4) as u8)),
        _ => set(at + random.below(40), &[random.byte()]),
    }
}
