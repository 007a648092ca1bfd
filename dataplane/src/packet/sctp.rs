//! SCTP (RFC 9260): ports, and the type of the first chunk. Neither verification tag nor checksum is looked at: both are the
//! endpoints' matter.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::connection::Event;

/// The common header: 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    /// Source port.
    pub source_port: U16,
    /// Destination port.
    pub destination_port: U16,
    /// The receiver's tag of the association; 0 with INIT.
    pub verification_tag: U32,
    /// CRC32c of the packet.
    pub checksum: U32,
}

/// What every chunk begins with: 4 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    /// Type.
    pub kind: u8,
    /// Flags of the type.
    pub flags: u8,
    /// Header and value, in bytes, without the padding to a multiple of 4.
    pub length: U16,
}

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

impl SctpHeader {
    /// The header and the packet's event; none where the packet is too short for the header and a first chunk, or that
    /// chunk's length is impossible.
    #[inline]
    pub fn read(packet: &[u8]) -> Option<(&SctpHeader, Event)> {
        SctpHeader::read_of(packet, packet.len())
    }

    /// The same of a packet of `available` bytes, of which `packet` is the beginning.
    #[inline]
    pub fn read_of(packet: &[u8], available: usize) -> Option<(&SctpHeader, Event)> {
        let (header, chunks) = SctpHeader::ref_from_prefix(packet).ok()?;
        let (chunk, _) = ChunkHeader::ref_from_prefix(chunks).ok()?;
        let length = usize::from(chunk.length.get());
        if length < size_of::<ChunkHeader>() || size_of::<SctpHeader>() + length > available {
            return None;
        }
        let event = match chunk.kind {
            COOKIE_ECHO | COOKIE_ACK if is_abort(chunks, length.next_multiple_of(4)) => {
                Event::SCTP_COOKIE_ABORT
            }
            COOKIE_ECHO => Event::SCTP_COOKIE_ECHO,
            COOKIE_ACK => Event::SCTP_COOKIE_ACK,
            INIT => Event::SCTP_INIT,
            INIT_ACK => Event::SCTP_INIT_ACK,
            ABORT => Event::SCTP_ABORT,
            SHUTDOWN => Event::SCTP_SHUTDOWN,
            SHUTDOWN_ACK => Event::SCTP_SHUTDOWN_ACK,
            SHUTDOWN_COMPLETE => Event::SCTP_SHUTDOWN_COMPLETE,
            ERROR => Event::SCTP_ERROR,
            _ => Event::SCTP_DATA,
        };
        Some((header, event))
    }
}

/// A whole chunk header stands at `offset`, and it is an ABORT's. As in IPVS, its own length does not matter.
fn is_abort(chunks: &[u8], offset: usize) -> bool {
    let chunk = chunks.get(offset..).and_then(|rest| ChunkHeader::ref_from_prefix(rest).ok());
    chunk.is_some_and(|(chunk, _)| chunk.kind == ABORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[u8]) -> Vec<u8> {
        [&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0], chunks].concat()
    }

    fn event(chunks: &[u8]) -> Option<Event> {
        SctpHeader::read(&packet(chunks)).map(|(_, event)| event)
    }

    #[test]
    fn ports_are_read() {
        let packet = packet(&[0, 3, 0, 4]);
        let (header, _) = SctpHeader::read(&packet).unwrap();
        assert_eq!((header.source_port.get(), header.destination_port.get()), (12345, 80));
    }

    #[test]
    fn first_chunks_type_is_the_event() {
        for kind in 0..=255 {
            let expected = match kind {
                1 => Event::SCTP_INIT,
                2 => Event::SCTP_INIT_ACK,
                6 => Event::SCTP_ABORT,
                7 => Event::SCTP_SHUTDOWN,
                8 => Event::SCTP_SHUTDOWN_ACK,
                9 => Event::SCTP_ERROR,
                10 => Event::SCTP_COOKIE_ECHO,
                11 => Event::SCTP_COOKIE_ACK,
                14 => Event::SCTP_SHUTDOWN_COMPLETE,
                _ => Event::SCTP_DATA,
            };
            assert_eq!(event(&[kind, 0, 0, 4]), Some(expected), "{kind}");
        }
    }

    #[test]
    fn abort_behind_a_cookie_is_an_abort_and_behind_data_is_not() {
        let abort = Some(Event::SCTP_COOKIE_ABORT);
        assert_eq!(event(&[10, 0, 0, 5, 7, 0, 0, 0, 6, 0, 0, 4]), abort, "padded cookie");
        assert_eq!(event(&[11, 0, 0, 4, 6, 0, 0, 4]), abort);
        assert_eq!(event(&[11, 0, 0, 4, 6, 0, 0]), Some(Event::SCTP_COOKIE_ACK), "cut off");
        assert_eq!(event(&[11, 0, 0, 4, 0, 0, 0, 4]), Some(Event::SCTP_COOKIE_ACK));
        assert_eq!(event(&[0, 0, 0, 4, 6, 0, 0, 4]), Some(Event::SCTP_DATA));
    }

    #[test]
    fn every_prefix_and_impossible_length_is_refused() {
        let whole = packet(&[1, 0, 0, 8, 0, 0, 0, 0]);
        for length in 0..whole.len() {
            assert!(SctpHeader::read(&whole[..length]).is_none(), "{length}");
        }
        assert!(SctpHeader::read(&whole).is_some());
        for length in [0_u16, 1, 3, 9, 255, 0xffff] {
            let [high, low] = length.to_be_bytes();
            assert_eq!(event(&[1, 0, high, low, 0, 0, 0, 0]), None, "{length}");
        }
    }
}
