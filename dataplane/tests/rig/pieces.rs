//! Packets in pieces: cut by a test as a router would cut them, and put together again as a host would.

use std::ops::Range;

use super::fix_checksum;

const ETHERNET: usize = 14;

fn is_ipv6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

/// Where what is cut begins: behind the IP header.
fn payload_at(frame: &[u8]) -> usize {
    ETHERNET + if is_ipv6(frame) { 40 } else { usize::from(frame[14] & 15) * 4 }
}

/// Bytes of the packet behind its IP header.
pub fn payload_length(frame: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    if is_ipv6(frame) { word(18) } else { word(16) - (payload_at(frame) - ETHERNET) }
}

/// The piece with these bytes of the payload of a whole packet, whose identification is `id`; a last one where it ends there.
pub fn piece(frame: &[u8], id: u32, range: Range<usize>) -> Vec<u8> {
    let more = range.end < payload_length(frame);
    raw_piece(frame, id, range.start, more, &frame[payload_at(frame)..][range])
}

/// A piece of any offset and content, right or wrong.
pub fn raw_piece(frame: &[u8], id: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    assert_eq!(offset % 8, 0);
    let start = payload_at(frame);
    let mut piece = frame[..start].to_vec();
    if is_ipv6(frame) {
        let field = offset as u16 | u16::from(more);
        let next = std::mem::replace(&mut piece[20], 44);
        piece[18..20].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
        piece.extend([next, 0]);
        piece.extend(field.to_be_bytes());
        piece.extend(id.to_be_bytes());
        piece.extend(payload);
    } else {
        let field = (offset / 8) as u16 | u16::from(more) << 13;
        piece[16..18].copy_from_slice(&((start - ETHERNET + payload.len()) as u16).to_be_bytes());
        piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&field.to_be_bytes());
        piece.extend(payload);
        fix_checksum(&mut piece);
    }
    piece.resize(piece.len().max(60), 0);
    piece
}

/// All pieces of the packet in order, with `most` bytes of payload each (a multiple of 8).
pub fn pieces(frame: &[u8], id: u32, most: usize) -> Vec<Vec<u8>> {
    let length = payload_length(frame);
    (0..length).step_by(most).map(|start| piece(frame, id, start..length.min(start + most))).collect()
}

/// Offset, whether more follow, and payload of a piece.
pub fn read(piece: &[u8]) -> (usize, bool, &[u8]) {
    let start = payload_at(piece);
    let end = start + payload_length(piece);
    if is_ipv6(piece) {
        assert_eq!(piece[20], 44, "no fragment header");
        let field = u16::from_be_bytes([piece[start + 2], piece[start + 3]]);
        (usize::from(field & !7), field & 1 != 0, &piece[start + 8..end])
    } else {
        let field = u16::from_be_bytes([piece[20], piece[21]]);
        (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, &piece[start..end])
    }
}

/// The payload that a host puts together; none where pieces are missing or contradict each other.
pub fn reassemble<'a>(pieces: impl IntoIterator<Item = &'a Vec<u8>>) -> Option<Vec<u8>> {
    let mut bytes: Vec<Option<u8>> = Vec::new();
    let mut length = None;
    for piece in pieces {
        let (offset, more, payload) = read(piece);
        let end = offset + payload.len();
        if !more && length.replace(end).is_some_and(|length| length != end) {
            return None;
        }
        bytes.resize(bytes.len().max(end), None);
        for (place, &byte) in bytes[offset..end].iter_mut().zip(payload) {
            if place.replace(byte).is_some_and(|before| before != byte) {
                return None;
            }
        }
    }
    if length? != bytes.len() {
        return None;
    }
    bytes.into_iter().collect()
}
