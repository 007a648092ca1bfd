//! What one input of the fuzzer does: frames that arrive, one after the other, at two workers with a service of every method in
//! both families; and what must hold whatever they are.
//!
//! * Nothing panics; every frame is accounted for in every round; every buffer is back in the end, and every connection ends.
//! * Every frame that leaves has the right lengths and header checksums, and, where all that came in had the right transport
//!   checksums, right ones of these; it is no larger than its link carries, and goes to nobody's group.
//! * No error is about an error, about a piece, about a packet to or from many; nothing is answered that was for another MAC.
//! * What leaves is no more than what came in by a bound.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod mutation;
pub mod record;

use dataplane::memory::MemoryFrame;
use dataplane::port::ChecksumStatus;
use dataplane::snapshot::Options;

use crate::inspection;
use crate::network::stage::{Scenery, Stage};
use crate::network::{PORTS, port_mac};
use record::{Kind, Record};

/// Buffers of a port's pool.
const FRAMES: usize = 64;
/// Frames sent that answers and errors may be about.
const REMEMBERED: usize = 8;
/// Bytes of a port's buffer; longer frames arrive in several.
const BUFFER: usize = 2048;

/// The director, made anew for every input.
#[derive(Debug)]
pub struct Fuzzing {
    scenery: Scenery,
}

impl Default for Fuzzing {
    fn default() -> Self {
        let options = Options { schedule_icmp: true, nat_icmp_send: true, ..Options::default() };
        Fuzzing { scenery: Scenery::new(options) }
    }
}

impl Fuzzing {
    /// Runs one input. Panics, with what is wrong, where something does not hold.
    pub fn run(&self, input: &[u8]) {
        let mut run = Run {
            stage: Stage::with_frames(&self.scenery, 2, FRAMES),
            sent: Vec::new(),
            sums_matter: true,
            was_addressed: false,
            bytes_in: 0,
            frames_in: 0,
            bytes_out: 0,
            frames_out: 0,
        };
        for record in record::decode(input) {
            run.step(&record);
        }
        run.round();
        run.finish(&self.scenery);
    }
}

struct Run {
    stage: Stage,
    /// The last frames that left, with their ports.
    sent: Vec<(u8, Vec<u8>)>,
    sums_matter: bool,
    was_addressed: bool,
    bytes_in: usize,
    frames_in: usize,
    bytes_out: usize,
    frames_out: usize,
}

impl Run {
    fn step(&mut self, record: &Record) {
        if record.ticks() > 0 {
            self.round();
            self.stage.hand.advance_ticks(record.ticks());
        }
        let made = match record.kind {
            Kind::Frame => Some((record.port, record.frame.clone())),
            Kind::Answer => {
                record.pick(&self.sent).and_then(|(port, frame)| record::answer(port, frame, &record.frame))
            }
            Kind::Error => {
                record.pick(&self.sent).and_then(|(port, frame)| record::error(port, frame, &record.frame))
            }
        };
        let Some((port, mut bytes)) = made else { return };
        if record.fixes_sums()
            && let Some(packet) = packet_at(&bytes)
        {
            inspection::make_right(&mut bytes[packet..]);
        }
        self.arrive(record, port, &bytes);
        if record.ends_burst() {
            self.stage.ports.iter().for_each(|of| of.set_tx_limit(record.refuses().then_some(0)));
            self.round();
            self.stage.ports.iter().for_each(|of| of.set_tx_limit(None));
        }
    }

    fn arrive(&mut self, record: &Record, port: u8, bytes: &[u8]) {
        let of = &self.stage.ports[usize::from(port)];
        let is_tagged = bytes.len() >= 18 && bytes[12..14] == [0x81, 0];
        let pool = of.pool();
        let frame: Option<MemoryFrame> = if record.is_stripped() && is_tagged && bytes.len() <= BUFFER {
            pool.frame_without_tag(bytes)
        } else {
            let cut = record.cut(bytes.len());
            let (first, rest) = bytes.split_at(cut.min(BUFFER).min(bytes.len()));
            pool.frame_of_segments(std::iter::once(first).chain(rest.chunks(BUFFER)))
        };
        let Some(mut frame) = frame else { return };
        frame.set_shared(record.is_shared());
        // A NIC is believed: one that calls a wrong checksum good is no fault of the director's.
        let sums_are_right = packet_at(bytes).is_none_or(|at| {
            let packet = &bytes[at..];
            inspection::is_right(packet) != Some(false)
        });
        if record.is_nic_good() && record.fixes_sums() {
            frame.set_ip_checksum(ChecksumStatus::Good);
        }
        self.sums_matter &= sums_are_right;
        self.was_addressed |=
            bytes.get(..6) == Some(&port_mac(port)[..]) || bytes.first().is_some_and(|first| first & 1 == 1);
        if of.inject_frame(of.queue_for(bytes), frame).is_ok() {
            self.bytes_in += bytes.len();
            self.frames_in += 1;
        }
    }

    /// Lets the workers run, and looks at what comes out.
    fn round(&mut self) {
        self.stage.poll();
        self.stage.check_conservation().unwrap_or_else(|error| panic!("{error}"));
        drop(self.stage.handed());
        for (port, frame) in self.stage.sent() {
            self.bytes_out += frame.len();
            self.frames_out += 1;
            if let Err(error) = inspection::sent(port, &frame, self.sums_matter) {
                panic!("port {port} sent {}: {error}", record::text(&frame));
            }
            assert!(self.was_addressed, "nothing came to the director, and it sent {}", record::text(&frame));
            if self.sent.len() == REMEMBERED {
                self.sent.remove(0);
            }
            self.sent.push((port, frame));
        }
    }

    fn finish(&mut self, scenery: &Scenery) {
        // Each frame: itself in a tunnel, in pieces of no less than 400 bytes, and one error.
        let frames = self.frames_in * 2 + self.bytes_in / 400 + 1;
        assert!(self.frames_out <= frames, "{} frames in, {} out", self.frames_in, self.frames_out);
        let bytes = 2 * self.bytes_in + 160 * self.frames_out;
        assert!(self.bytes_out <= bytes, "{} bytes in, {} out", self.bytes_in, self.bytes_out);
        self.stage.check_pools().unwrap_or_else(|error| panic!("{error}"));
        self.stage.hand.advance_seconds(100_000);
        for _ in 0..64 {
            self.stage.poll();
        }
        let connections: u64 = self.stage.counters.iter().map(|of| of.connections.load()).sum();
        assert_eq!(connections, 0, "connections that never end");
        scenery.check_counts().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Where the IP packet begins, behind one tag or none.
fn packet_at(frame: &[u8]) -> Option<usize> {
    let at = match frame.get(12..14)? {
        [0x81, 0] => 18,
        _ => 14,
    };
    (frame.len() > at).then_some(at)
}

const _: () = assert!(PORTS == 4, "records have two bits for the port");
