//! VLAN tags (802.1Q, 802.1ad): four bytes between the MACs and the EtherType.

use zerocopy::byteorder::network_endian::U16;

use super::ethernet::{self, EthernetHeader, OLD_SERVICE_VLAN, SERVICE_VLAN, VLAN};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 4;

const MACS: usize = 12;

/// What a frame's tags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagging {
    /// Tag control information of the 802.1Q tag: priority (3 bits), drop eligible (1 bit), VLAN (12 bits).
    pub tci: Option<u16>,
    /// What follows the tag; another tag's where [`Tagging::is_stacked`].
    pub ether_type: U16,
    /// Where that begins, in bytes from the frame's start.
    pub payload: usize,
    /// An 802.1ad tag, or two tags.
    pub is_stacked: bool,
}

/// The VLAN of a tag, 0 to 4095. 0: the tag has a priority only. 4095 is nobody's.
#[inline(always)]
pub fn id(tci: u16) -> u16 {
    tci & 0x0fff
}

fn is_tag(ether_type: U16) -> bool {
    matches!(ether_type, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN)
}

/// The frame's tagging; none where the frame ends before its EtherType. Of stacked tags only the outer is read.
#[inline(always)]
pub fn read(frame: &[u8]) -> Option<Tagging> {
    let (header, rest) = EthernetHeader::read(frame)?;
    let ether_type = header.ether_type;
    if !is_tag(ether_type) {
        return Some(Tagging { tci: None, ether_type, payload: ethernet::HEADER_BYTES, is_stacked: false });
    }
    let &[a, b, c, d] = rest.first_chunk()?;
    let inner = U16::from_bytes([c, d]);
    Some(Tagging {
        tci: Some(u16::from_be_bytes([a, b])),
        ether_type: inner,
        payload: ethernet::HEADER_BYTES + TAG_BYTES,
        is_stacked: ether_type != VLAN || is_tag(inner),
    })
}

/// Makes an untagged frame that begins [`TAG_BYTES`] behind the start of `frame` a tagged one that begins at the start. False,
/// and nothing done, where it is too short.
#[inline]
pub fn push(frame: &mut [u8], tci: u16) -> bool {
    let Some(head) = frame.get_mut(..MACS + TAG_BYTES) else { return false };
    head.copy_within(TAG_BYTES.., 0);
    let ([a, b], [c, d]) = (VLAN.to_bytes(), tci.to_be_bytes());
    head[MACS..].copy_from_slice(&[a, b, c, d]);
    true
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SingleVlanHeaderSlice, VlanId};

    use super::*;

    fn untagged() -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 9);
        builder.udp(1, 2).write(&mut frame, b"abc").unwrap();
        frame
    }

    fn tagged() -> Vec<u8> {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(VlanId::try_new(100).unwrap())
            .ipv4([1; 4], [2; 4], 9);
        builder.udp(1, 2).write(&mut frame, b"abc").unwrap();
        frame
    }

    #[test]
    fn tags_are_read_and_frames_without_too() {
        let plain = Tagging { tci: None, ether_type: ethernet::IPV4, payload: 14, is_stacked: false };
        assert_eq!(read(&untagged()), Some(plain));
        let expected = Tagging { tci: Some(100), payload: 18, ..plain };
        assert_eq!(read(&tagged()), Some(expected));
        let mut priority = tagged();
        priority[14..16].copy_from_slice(&[0xe0, 0]);
        let tci = read(&priority).unwrap().tci.unwrap();
        assert_eq!((tci, id(tci)), (0xe000, 0));
    }

    #[test]
    fn stacked_tags_are_told() {
        for outer in [VLAN, SERVICE_VLAN, OLD_SERVICE_VLAN] {
            let mut frame = tagged();
            let [a, b] = outer.to_bytes();
            frame.splice(12..12, [a, b, 0x00, 0x07]);
            let tagging = read(&frame).unwrap();
            assert_eq!((tagging.tci, tagging.is_stacked, tagging.ether_type), (Some(7), true, VLAN));
        }
        let mut frame = tagged();
        frame[12..14].copy_from_slice(&SERVICE_VLAN.to_bytes());
        assert!(read(&frame).unwrap().is_stacked, "one tag of 802.1ad");
    }

    #[test]
    fn frames_that_end_within_the_tag_are_refused() {
        let frame = tagged();
        for length in 0..18 {
            assert_eq!(read(&frame[..length]), None, "{length}");
        }
        assert!(read(&frame[..18]).is_some());
    }

    #[test]
    fn push_makes_what_etherparse_reads() {
        let mut frame = [vec![0; 4], untagged()].concat();
        assert!(push(&mut frame, 100));
        assert_eq!(frame, tagged());
        assert_eq!(SingleVlanHeaderSlice::from_slice(&frame[14..]).unwrap().vlan_identifier().value(), 100);
        assert!(!push(&mut [0; 15], 1));
    }
}
