//! Cuts packets that are too big for their way into pieces (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! The packet is copied: its buffers go back as they came. All pieces are made before any is sent, so that a pool which runs dry
//! loses the packet whole and wastes nobody's bandwidth with a part of it. Pieces leave behind the other packets of the burst.

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, IntoBytes};

use super::outlet::Outlet;
use crate::packet::ethernet::{self, FRAME_BYTES_MIN};
use crate::packet::ipv4::{DONT_FRAGMENT, Ipv4Header, MORE_FRAGMENTS, OFFSET_MASK};
use crate::packet::ipv6::{self, FRAGMENT, FRAGMENT_HEADER_BYTES, FragmentHeader, Ipv6Header};
use crate::packet::{checksum, ipv4, vlan};
use crate::port::{Frame, PortId, QueuePair};
use crate::verdict::DropReason;

/// Pieces are no larger than this where a buffer does not hold what the way carries: every port's buffers hold it.
const PIECE_BYTES_SURE: u16 = 1280;
/// Largest IPv4 header.
const HEADER_BYTES_MAX: usize = 60;
/// Largest Ethernet header: with a tag.
const LINK_BYTES_MAX: usize = ethernet::HEADER_BYTES + vlan::TAG_BYTES;

/// A packet to be cut: final but for its length, its frame's Ethernet header included.
pub(super) struct Whole<'a, F> {
    pub(super) frame: &'a F,
    /// Where its IP header begins in the frame.
    pub(super) ip_offset: usize,
    /// Largest piece, its IP header included.
    pub(super) mtu: u16,
    /// Identification of IPv6 pieces; those of IPv4 have the packet's own.
    pub(super) identification: u32,
    /// By which the pieces leave.
    pub(super) port: PortId,
}

/// Has the packet sent in pieces. An IPv6 packet is one that the director itself sends (an outer one): nobody else's is cut.
///
/// Errors, and then no piece is sent: `NoBuffer`; `TooBig` where the MTU is none.
#[cold]
#[inline(never)]
pub(super) fn cut<Q: QueuePair>(whole: &Whole<Q::Frame>, outlet: &mut Outlet<Q>) -> Result<(), DropReason> {
    match cut_to(whole, whole.mtu, outlet) {
        Err(DropReason::NoBuffer) if whole.mtu > PIECE_BYTES_SURE => cut_to(whole, PIECE_BYTES_SURE, outlet),
        result => result,
    }
}

fn cut_to<Q: QueuePair>(whole: &Whole<Q::Frame>, mtu: u16, outlet: &mut Outlet<Q>) -> Result<(), DropReason> {
    let headers = Headers::read(whole).ok_or(DropReason::BadIpHeader)?;
    let most = usize::from(mtu).saturating_sub(headers.length()) & !7;
    if most == 0 || !outlet.make_room(headers.payload.div_ceil(most)) {
        return Err(DropReason::TooBig);
    }
    let waiting = outlet.waiting();
    let mut offset = 0;
    while offset < headers.payload {
        let bytes = most.min(headers.payload - offset);
        let piece = outlet.allocate(whole.port).and_then(|frame| headers.piece(whole, offset, bytes, frame));
        let Some(piece) = piece else {
            outlet.withdraw(waiting);
            return Err(DropReason::NoBuffer);
        };
        outlet.push(whole.port, piece);
        offset += bytes;
    }
    Ok(())
}

/// What all pieces have in front.
struct Headers {
    link: [u8; LINK_BYTES_MAX],
    ip: [u8; HEADER_BYTES_MAX],
    /// Bytes of the IP header in the packet.
    ip_bytes: usize,
    /// Bytes behind that, which are cut.
    payload: usize,
    is_ipv6: bool,
}

impl Headers {
    fn read<F: Frame>(whole: &Whole<F>) -> Option<Headers> {
        let bytes = whole.frame.bytes();
        let packet = bytes.get(whole.ip_offset..)?;
        let is_ipv6 = packet.first()? >> 4 == 6;
        let (ip_bytes, length) = if is_ipv6 {
            (ipv6::HEADER_BYTES, Ipv6Header::ref_from_prefix(packet).ok()?.0.total_length())
        } else {
            let (header, _) = Ipv4Header::ref_from_prefix(packet).ok()?;
            (header.header_length(), usize::from(header.total_length.get()))
        };
        let (mut link, mut ip) = ([0; LINK_BYTES_MAX], [0; HEADER_BYTES_MAX]);
        link.get_mut(..whole.ip_offset)?.copy_from_slice(bytes.get(..whole.ip_offset)?);
        ip.get_mut(..ip_bytes)?.copy_from_slice(packet.get(..ip_bytes)?);
        Some(Headers { link, ip, ip_bytes, payload: length.checked_sub(ip_bytes)?, is_ipv6 })
    }

    /// Bytes of a piece's IP headers.
    fn length(&self) -> usize {
        self.ip_bytes + if self.is_ipv6 { FRAGMENT_HEADER_BYTES } else { 0 }
    }

    /// Makes `frame`, which is empty, the piece with `bytes` of the payload from `offset` on.
    fn piece<F: Frame>(&self, whole: &Whole<F>, offset: usize, bytes: usize, mut frame: F) -> Option<F> {
        let (ip_offset, data) = (whole.ip_offset, whole.ip_offset + self.length());
        let end = data + bytes;
        if !frame.append(end.max(FRAME_BYTES_MIN)) {
            return None;
        }
        let into = frame.bytes_mut();
        into.get_mut(..ip_offset)?.copy_from_slice(self.link.get(..ip_offset)?);
        into.get_mut(ip_offset..ip_offset + self.ip_bytes)?.copy_from_slice(self.ip.get(..self.ip_bytes)?);
        let has_more = offset + bytes < self.payload;
        let headers = into.get_mut(ip_offset..data)?;
        if self.is_ipv6 {
            write_v6(headers, offset, bytes, has_more, whole.identification)?;
        } else {
            write_v4(headers, offset, bytes, has_more)?;
        }
        let copied = whole.frame.copy_to(ip_offset + self.ip_bytes + offset, into.get_mut(data..end)?);
        (copied == bytes).then_some(frame)
    }
}

/// Makes the packet's IPv4 header that of a piece. The packet may be a piece itself.
fn write_v4(bytes: &mut [u8], offset: usize, payload: usize, has_more: bool) -> Option<()> {
    if offset > 0 {
        erase_options_of_the_first(bytes.get_mut(ipv4::HEADER_BYTES..)?);
    }
    let length = bytes.len();
    let (header, _) = Ipv4Header::mut_from_prefix(bytes).ok()?;
    let old = header.flags_and_offset.get();
    let more = if has_more { MORE_FRAGMENTS } else { old & MORE_FRAGMENTS };
    let place = (old & OFFSET_MASK) + (offset / 8) as u16;
    header.total_length.set((length + payload) as u16);
    header.flags_and_offset.set(old & DONT_FRAGMENT | more | place & OFFSET_MASK);
    header.checksum.set(0);
    let checksum = checksum::checksum(bytes);
    bytes.get_mut(10..12)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// Options without the copied flag stand in the first piece only (RFC 791 section 3.1). In the others, as in Linux, no-operations
/// stand in their place.
fn erase_options_of_the_first(options: &mut [u8]) {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let length = match (kind, options.get(at + 1)) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&length)) if length >= 2 => usize::from(length),
            _ => return,
        };
        let Some(option) = options.get_mut(at..at + length) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        at += length;
    }
}

/// Makes the packet's IPv6 header, behind which there is room for a fragment header, those of a piece.
fn write_v6(
    bytes: &mut [u8],
    offset: usize,
    payload: usize,
    has_more: bool,
    identification: u32,
) -> Option<()> {
    let (header, rest) = Ipv6Header::mut_from_prefix(bytes).ok()?;
    let fragment = FragmentHeader {
        next_header: header.next_header,
        reserved: 0,
        offset_and_more: U16::new(offset as u16 | u16::from(has_more)),
        identification: identification.into(),
    };
    header.next_header = FRAGMENT;
    header.payload_length.set((FRAGMENT_HEADER_BYTES + payload) as u16);
    rest.get_mut(..FRAGMENT_HEADER_BYTES)?.copy_from_slice(fragment.as_bytes());
    Some(())
}
