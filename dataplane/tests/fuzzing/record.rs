//! The fuzzer's input: records of six bytes and a frame. Whatever bytes there are, they are records.

use crate::inspection;

const HEADER: usize = 6;
/// Records of one input, at most.
pub const RECORDS_MAX: usize = 24;
/// Bytes of one frame, at most.
pub const FRAME_MAX: usize = 9_100;

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    flags: u8,
    cut: u8,
    time: u8,
    pub kind: Kind,
    /// By which port the frame comes in.
    pub port: u8,
    /// Which of the frames sent last is meant.
    which: u8,
    /// The frame; of an answer or error, what is to be put into it.
    pub frame: Vec<u8>,
}

/// What a record's bytes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A frame.
    Frame,
    /// What the receiver of a frame that was sent answers.
    Answer,
    /// What a router on its way says of it.
    Error,
}

/// Bits of a record's first byte.
pub const FIX: u8 = 1;
pub const STRIP: u8 = 2;
pub const SHARED: u8 = 4;
pub const NIC_GOOD: u8 = 8;
pub const CUT: u8 = 16;
/// What follows comes in the same burst.
pub const MORE: u8 = 32;
/// Ports send nothing in this round.
pub const REFUSE: u8 = 64;

impl Record {
    /// A frame that comes in alone, its checksums made right.
    pub fn frame(port: u8, frame: Vec<u8>) -> Record {
        Record { flags: FIX, cut: 0, time: 0, kind: Kind::Frame, port, which: 0, frame }
    }

    pub fn new(kind: Kind, flags: u8, frame: Vec<u8>) -> Record {
        Record { flags, kind, ..Record::frame(0, frame) }
    }

    pub fn set(&mut self, flags: u8, cut: u8, time: u8) {
        (self.flags, self.cut, self.time) = (flags, cut, time);
    }

    pub fn flags(&self) -> u8 {
        self.flags
    }

    pub fn fixes_sums(&self) -> bool {
        self.flags & FIX != 0
    }

    pub fn is_stripped(&self) -> bool {
        self.flags & STRIP != 0
    }

    pub fn is_shared(&self) -> bool {
        self.flags & SHARED != 0
    }

    pub fn is_nic_good(&self) -> bool {
        self.flags & NIC_GOOD != 0
    }

    pub fn ends_burst(&self) -> bool {
        self.flags & MORE == 0
    }

    pub fn refuses(&self) -> bool {
        self.flags & REFUSE != 0
    }

    /// Where the frame's first segment ends.
    pub fn cut(&self, length: usize) -> usize {
        if self.flags & CUT == 0 { length } else { usize::from(self.cut).min(length) }
    }

    /// Time that passes before it: none, or 2^0 to 2^17 ticks.
    pub fn ticks(&self) -> u32 {
        if self.time == 0 { 0 } else { 1 << (self.time % 18) }
    }

    pub fn pick<'a>(&self, sent: &'a [(u8, Vec<u8>)]) -> Option<(u8, &'a [u8])> {
        // Mostly the last one.
        let back = usize::from(self.which) % sent.len().max(1);
        sent.iter().rev().nth(back).map(|(port, frame)| (*port, frame.as_slice()))
    }
}

/// The records of an input.
pub fn decode(mut input: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some((header, rest)) = input.split_first_chunk::<HEADER>()
        && records.len() < RECORDS_MAX
    {
        let [flags, cut, time, kind, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        let kind_of = match kind >> 2 & 3 {
            1 => Kind::Answer,
            2 => Kind::Error,
            _ => Kind::Frame,
        };
        let frame = frame[..length.min(FRAME_MAX)].to_vec();
        records.push(Record { flags, cut, time, kind: kind_of, port: kind & 3, which: kind >> 4, frame });
        input = rest;
    }
    records
}

/// The input of these records.
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut input = Vec::new();
    for record in records.iter().take(RECORDS_MAX) {
        let kind = match record.kind {
            Kind::Frame => 0,
            Kind::Answer => 1,
            Kind::Error => 2,
        };
        let length = record.frame.len().min(FRAME_MAX);
        input.extend([record.flags, record.cut, record.time, record.which << 4 | kind << 2 | record.port]);
        input.extend((length as u16).to_be_bytes());
        input.extend(&record.frame[..length]);
    }
    input
}

/// MACs swapped, without the tag put in; and where the packet begins.
fn back(frame: &[u8]) -> Option<(Vec<u8>, usize)> {
    let at = if frame.get(12..14)? == [0x81, 0] { 18 } else { 14 };
    let mut link = [&frame[6..12], &frame[..6]].concat();
    link.extend(&frame[12..at]);
    Some((link, at))
}

/// The answer to a frame that left by `port`: addresses and ports the other way round, TCP flags and payload as `with` says, and
/// its other bytes xored over the packet's.
pub fn answer(port: u8, frame: &[u8], with: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (mut link, at) = back(frame)?;
    let mut packet = frame[at..].to_vec();
    let (ends, width) = if packet.first()? >> 4 == 6 { (8..40, 16) } else { (12..20, 4) };
    let old = packet.get(ends.clone())?.to_vec();
    packet[ends].copy_from_slice(&[&old[width..], &old[..width]].concat());
    if width == 4 {
        packet[8] = 64
    } else {
        packet[7] = 64
    }
    let transport = crate::network::forwarding::transport(&packet)?;
    if let Some(ports) = packet.get_mut(transport.at..transport.at + 4) {
        ports.swap(0, 2);
        ports.swap(1, 3);
    }
    if transport.protocol == 6
        && let Some(flags) = packet.get_mut(transport.at + 13)
    {
        *flags = with.first().copied().unwrap_or(0x12);
    }
    let length = crate::network::forwarding::length(&packet).min(packet.len());
    packet.truncate(length);
    packet.extend(with.iter().skip(1).take(1400));
    set_length(&mut packet);
    link.extend(packet);
    Some((port, link))
}

/// The error of a router about a frame that left by `port`: type, code, the four bytes behind the checksum and how many bytes are
/// quoted are the first seven of `with`.
pub fn error(port: u8, frame: &[u8], with: &[u8]) -> Option<(u8, Vec<u8>)> {
    let (mut link, at) = back(frame)?;
    let quoted = &frame[at..];
    let mut header = [3, 4, 0, 0, 5, 0x78, 255];
    let count = with.len().min(7);
    header[..count].copy_from_slice(&with[..count]);
    let most = usize::from(header[6]) * 5;
    let is_ipv6 = quoted.first()? >> 4 == 6;
    let quote = &quoted[..quoted.len().min(most)];
    let mut packet = if is_ipv6 {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 58, 60];
        packet.extend([0x20, 1, 0x0d, 0xb8, 0, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet.extend(quoted.get(8..24)?);
        packet
    } else {
        let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 60, 1, 0, 0, 203, 0, 113, 1];
        packet.extend(quoted.get(12..16)?);
        packet
    };
    packet.extend([header[0], header[1], 0, 0, header[2], header[3], header[4], header[5]]);
    packet.extend(quote);
    set_length(&mut packet);
    link.extend(packet);
    Some((port, link))
}

/// The length in the IP header is the packet's, its checksums are right.
pub fn set_length(packet: &mut [u8]) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let length = (packet.len() as u16).to_be_bytes();
            packet[2..4].copy_from_slice(&length);
        }
        Some(6) if packet.len() >= 40 => {
            let length = ((packet.len() - 40) as u16).to_be_bytes();
            packet[4..6].copy_from_slice(&length);
        }
        _ => return,
    }
    if let Some(of) = crate::network::forwarding::transport(packet)
        && of.protocol == 17
        && !of.is_piece
        && packet.len() >= of.at + 8
    {
        let length = ((packet.len() - of.at) as u16).to_be_bytes();
        packet[of.at + 4..of.at + 6].copy_from_slice(&length);
    }
    inspection::make_right(packet);
}

/// In hexadecimal.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
