//! Sequence numbers of a TCP stream into which the director put bytes, or from which it took some: an address rewritten by the
//! FTP application, a PROXY protocol header. One direction's sequence numbers are shifted, the other's acknowledgements back.

use zerocopy::FromBytes;

use super::checksum::ChecksumDelta;
use super::tcp::{ACK, TcpHeader};
use super::tcp_options::{SACK, TcpOptions};

/// Blocks of selective acknowledgement in one option, at most.
const SACK_BLOCKS_MAX: usize = 4;

/// Adds `by` to the segment's sequence number, modulo 2^32, its checksum patched. `segment`: from the TCP header on.
#[inline]
pub fn shift_sequence(segment: &mut [u8], by: u32) {
    let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) else { return };
    let delta = shift(&mut header.sequence, by);
    header.checksum.set(delta.apply(header.checksum.get()));
}

/// Adds `by` to what the segment acknowledges, modulo 2^32, selectively too; its checksum patched. A segment without ACK
/// acknowledges nothing. `segment`: from the TCP header on, whose options lie in it whole.
#[inline]
pub fn shift_acknowledgement(segment: &mut [u8], by: u32) {
    let Some(header) = TcpHeader::read(segment) else { return };
    if header.flags & ACK == 0 {
        return;
    }
    let has_options = header.length() > size_of::<TcpHeader>();
    let mut delta = ChecksumDelta::NONE;
    if has_options {
        delta = shift_blocks(segment, by);
    }
    let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) else { return };
    delta = delta.and(shift(&mut header.acknowledgement, by));
    header.checksum.set(delta.apply(header.checksum.get()));
}

fn shift_blocks(segment: &mut [u8], by: u32) -> ChecksumDelta {
    let mut delta = ChecksumDelta::NONE;
    let Some(option) =
        TcpOptions::of(segment).and_then(|mut options| options.find(|option| option.kind == SACK))
    else {
        return delta;
    };
    let edges = ((option.length - 2) / 4).min(2 * SACK_BLOCKS_MAX);
    for edge in 0..edges {
        let at = option.offset + 2 + edge * 4;
        let Some(field) = segment.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>()) else { break };
        let old = *field;
        *field = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
        delta = delta.bytes(at, &old, field);
    }
    delta
}

fn shift(field: &mut [u8; 4], by: u32) -> ChecksumDelta {
    let old = u32::from_be_bytes(*field);
    let new = old.wrapping_add(by);
    *field = new.to_be_bytes();
    ChecksumDelta::NONE.u32(old, new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::checksum;

    fn segment(options: &[u8], flags: u8) -> Vec<u8> {
        let mut segment =
            vec![0x9c, 0x40, 0, 80, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 9, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        segment.extend(options);
        segment[12] = (segment.len() / 4) as u8 * 16;
        segment.extend([7; 9]);
        let checksum = checksum::checksum(&segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    #[test]
    fn numbers_wrap_and_the_checksum_follows() {
        let mut bytes = segment(&[], ACK);
        shift_sequence(&mut bytes, 28);
        assert_eq!(bytes[4..8], [0, 0, 0, 12]);
        shift_acknowledgement(&mut bytes, 28_u32.wrapping_neg());
        assert_eq!(bytes[8..12], [0xff, 0xff, 0xff, 0xed]);
        assert_eq!(checksum::sum(&bytes), 0xffff);
    }

    #[test]
    fn selective_acknowledgements_are_shifted_at_odd_offsets_too() {
        let option = [1, 5, 10, 0, 0, 0, 20, 0, 0, 0, 30, 0];
        let mut bytes = segment(&option, ACK);
        shift_acknowledgement(&mut bytes, 5);
        assert_eq!(bytes[20..32], [1, 5, 10, 0, 0, 0, 25, 0, 0, 0, 35, 0]);
        assert_eq!(bytes[8..12], [0, 0, 0, 14]);
        assert_eq!(checksum::sum(&bytes), 0xffff);
    }

    #[test]
    fn what_acknowledges_nothing_stays() {
        let mut bytes = segment(&[], 2);
        let before = bytes.clone();
        shift_acknowledgement(&mut bytes, 5);
        assert_eq!(bytes, before);
        shift_sequence(&mut bytes[..19], 5);
        assert_eq!(bytes, before);
    }

    proptest! {
        #[test]
        fn shifting_back_undoes_it(options in prop::collection::vec(0..12_u8, 0..11).prop_map(|words| words.repeat(4)), by: u32) {
            let mut bytes = segment(&options[..options.len().min(40)], ACK);
            let before = bytes.clone();
            shift_acknowledgement(&mut bytes, by);
            prop_assert_eq!(checksum::sum(&bytes), 0xffff);
            shift_acknowledgement(&mut bytes, by.wrapping_neg());
            prop_assert_eq!(&bytes[..16], &before[..16]);
            prop_assert_eq!(&bytes[18..], &before[18..]);
        }
    }
}
