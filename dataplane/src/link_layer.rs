//! The Ethernet header of a frame to send, with or without a VLAN tag.

use crate::packet::ethernet::{self, FRAME_BYTES_MIN};
use crate::packet::vlan::TAG_BYTES;
use crate::port::Frame;

/// Gives the frame, whose IP header is at `ip_offset`, these MACs and this VLAN (0: no tag), and returns where its IP header
/// is then; none where there is no room for a tag. A frame that loses its tag is padded to 60 bytes.
pub fn write<F: Frame>(frame: &mut F, ip_offset: usize, macs: &[u8; 12], vlan: u16) -> Option<usize> {
    let wanted = ethernet::HEADER_BYTES + if vlan == 0 { 0 } else { TAG_BYTES };
    let ether_type = *frame.bytes().get(ip_offset.checked_sub(2)?..)?.first_chunk::<2>()?;
    let is_fit = match wanted.checked_sub(ip_offset) {
        Some(0) => true,
        Some(more) => frame.prepend(more),
        None => frame.remove_front(ip_offset - wanted) && pad(frame),
    };
    if !is_fit {
        return None;
    }
    write_header(frame.bytes_mut(), macs, vlan, ether_type).then_some(wanted)
}

/// A tagged frame may be 60 bytes long with its tag: not all ports pad what is shorter without it.
fn pad<F: Frame>(frame: &mut F) -> bool {
    let missing = FRAME_BYTES_MIN.saturating_sub(frame.length());
    missing == 0 || frame.append(missing)
}

/// Writes the whole header into the beginning of `bytes`; false where it does not fit.
pub fn write_header(bytes: &mut [u8], macs: &[u8; 12], vlan: u16, ether_type: [u8; 2]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk_mut::<12>() else { return false };
    *header = *macs;
    if vlan == 0 {
        return rest.first_chunk_mut::<2>().map(|field| *field = ether_type).is_some();
    }
    let ([a, b], [c, d]) = (ethernet::VLAN.to_bytes(), vlan.to_be_bytes());
    let [e, f] = ether_type;
    rest.first_chunk_mut::<6>().map(|field| *field = [a, b, c, d, e, f]).is_some()
}
