//! TCP options: the walk, the MSS of a SYN, and the client's address as an option (TOA).
//!
//! TOA is no standard. DPVS and the kernel module that comes with it, as well as most modules in use, read kind 254: 8 bytes
//! with an IPv4 address, 20 with an IPv6 one; kind, length, port, address. Other modules (of Alibaba's and Huawei's) know the
//! IPv6 form by kind 253. We send 254 and let neither pass from a client.

use std::net::IpAddr;

use zerocopy::{FromBytes, IntoBytes};

use super::checksum::{self, ChecksumDelta};
use super::tcp::{HEADER_BYTES, SYN, TcpHeader};

/// Option: end of the list.
pub const END: u8 = 0;
/// Option: nothing, one byte.
pub const NO_OPERATION: u8 = 1;
/// Option: maximum segment size, 4 bytes.
pub const MSS: u8 = 2;
/// Option: selective acknowledgements, 2 bytes and 8 a block.
pub const SACK: u8 = 5;
/// Option: the client's address.
pub const TOA: u8 = 254;
/// The same for IPv6 elsewhere; never sent.
pub const TOA_V6_ELSEWHERE: u8 = 253;

/// Bytes of all options together, at most: the data offset has four bits.
pub const BYTES_MAX: usize = 40;
/// Bytes of a TOA option with an IPv4 address.
pub const TOA_V4_BYTES: usize = 8;
/// Bytes of a TOA option with an IPv6 address.
pub const TOA_V6_BYTES: usize = 20;

/// One option with a length; end and no-operation are never returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOption {
    /// Its kind.
    pub kind: u8,
    /// Where its kind stands, in bytes from the TCP header on.
    pub offset: usize,
    /// Kind, length and data, in bytes; at least 2.
    pub length: usize,
}

/// The options of a segment in their order. Ends at what is malformed, as receivers do.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    /// The whole header.
    header: &'a [u8],
    offset: usize,
}

impl<'a> TcpOptions<'a> {
    /// None where [`TcpHeader::read`] reads none.
    #[inline]
    pub fn of(segment: &'a [u8]) -> Option<TcpOptions<'a>> {
        let length = TcpHeader::read(segment)?.length();
        Some(TcpOptions { header: segment.get(..length)?, offset: HEADER_BYTES })
    }
}

impl Iterator for TcpOptions<'_> {
    type Item = TcpOption;

    #[inline]
    fn next(&mut self) -> Option<TcpOption> {
        loop {
            match *self.header.get(self.offset)? {
                END => return None,
                NO_OPERATION => self.offset += 1,
                kind => {
                    let length = usize::from(*self.header.get(self.offset + 1)?);
                    let end = self.offset + length;
                    if length < 2 || end > self.header.len() {
                        return None;
                    }
                    let option = TcpOption { kind, offset: self.offset, length };
                    self.offset = end;
                    return Some(option);
                }
            }
        }
    }
}

/// Lowers the MSS of a SYN or SYN-ACK to `mss`, its checksum patched. `segment`: from the TCP header on, payload not needed.
/// True where anything changed. A SYN without the option stays so: its sender then gets the small default anyway.
pub fn clamp_mss(segment: &mut [u8], mss: u16) -> bool {
    if TcpHeader::read(segment).is_none_or(|header| header.flags & SYN == 0) {
        return false;
    }
    let mut delta = ChecksumDelta::NONE;
    let mut from = HEADER_BYTES;
    let mut is_changed = false;
    while let Some(option) = next_of(segment, &[MSS], from) {
        from = option.offset + option.length;
        let at = option.offset + 2;
        let Some(field) = segment.get_mut(at..at + 2).filter(|_| option.length == 4) else { continue };
        let new = mss.to_be_bytes();
        if *field > new[..] {
            delta = delta.bytes(at, field, &new);
            field.copy_from_slice(&new);
            is_changed = true;
        }
    }
    is_changed && patch_checksum(segment, delta)
}

/// Puts no-operations in place of every TOA option that the client sent itself, so that it cannot pretend another address; the
/// checksum is patched. True where there was any.
pub fn erase_toa(segment: &mut [u8]) -> bool {
    let mut delta = ChecksumDelta::NONE;
    let mut is_changed = false;
    // What is erased is no option any more, so the walk begins anew, at most 20 times.
    while let Some(option) = next_of(segment, &[TOA, TOA_V6_ELSEWHERE], HEADER_BYTES) {
        let Some(bytes) = segment.get_mut(option.offset..option.offset + option.length) else { break };
        const NOTHING: [u8; BYTES_MAX] = [NO_OPERATION; BYTES_MAX];
        let Some(nothing) = NOTHING.get(..option.length) else { break };
        delta = delta.bytes(option.offset, bytes, nothing);
        bytes.copy_from_slice(nothing);
        is_changed = true;
    }
    is_changed && patch_checksum(segment, delta)
}

/// The first option of these kinds at `from` or behind.
fn next_of(segment: &[u8], kinds: &[u8], from: usize) -> Option<TcpOption> {
    TcpOptions::of(segment)?.find(|option| kinds.contains(&option.kind) && option.offset >= from)
}

fn patch_checksum(segment: &mut [u8], delta: ChecksumDelta) -> bool {
    let Ok((header, _)) = TcpHeader::mut_from_prefix(segment) else { return false };
    header.checksum.set(delta.apply(header.checksum.get()));
    true
}

/// A TOA option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToaOption {
    bytes: [u8; TOA_V6_BYTES],
    length: u8,
}

impl ToaOption {
    /// Tells the client's address and port.
    pub fn new(address: IpAddr, port: u16) -> ToaOption {
        let mut bytes = [0; TOA_V6_BYTES];
        let length = match address {
            IpAddr::V4(address) => {
                bytes[4..TOA_V4_BYTES].copy_from_slice(&address.octets());
                TOA_V4_BYTES
            }
            IpAddr::V6(address) => {
                bytes[4..].copy_from_slice(&address.octets());
                TOA_V6_BYTES
            }
        };
        bytes[0] = TOA;
        bytes[1] = length as u8;
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        ToaOption { bytes, length: length as u8 }
    }

    /// As it stands in a header: 8 or 20 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

/// The header has room for `bytes` more of options.
#[inline]
pub fn has_room(header: &TcpHeader, bytes: usize) -> bool {
    header.length() + bytes <= HEADER_BYTES + BYTES_MAX
}

/// Puts an option in front of all others. `frame` begins with as many free bytes as the option has, then the old frame, whose
/// TCP header lies `transport` bytes from its start; afterwards it is the new frame, with TCP's data offset and checksum right
/// (that of the pseudo header's new length too). The IP header's length is the caller's.
///
/// None, and nothing done, where the option is no multiple of 4 bytes, the frame too short, or the 40 bytes of options would
/// be exceeded ([`has_room`]).
pub fn insert_option(frame: &mut [u8], transport: usize, option: &[u8]) -> Option<()> {
    let old_header = frame.get(option.len() + transport..).and_then(TcpHeader::read)?;
    if !option.len().is_multiple_of(4) || !has_room(old_header, option.len()) {
        return None;
    }
    let fixed_end = transport + HEADER_BYTES;
    let mut header = *old_header;
    let old_offset = header.data_offset;
    header.data_offset += (option.len() as u8 / 4) << 4;
    // Flags share the word with the data offset, and stay.
    let delta = ChecksumDelta::NONE
        .u16(u16::from(old_offset) << 8, u16::from(header.data_offset) << 8)
        .u16(0, checksum::sum(option))
        .u16(0, option.len() as u16);
    header.checksum.set(delta.apply(header.checksum.get()));
    let head = frame.get_mut(..fixed_end + option.len())?;
    head.copy_within(option.len().., 0);
    head.get_mut(transport..fixed_end)?.copy_from_slice(header.as_bytes());
    head.get_mut(fixed_end..)?.copy_from_slice(option);
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
    use proptest::prelude::*;

    use super::*;

    fn segment(options: &[u8], flags: u8) -> Vec<u8> {
        let mut segment =
            vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0x12, 0x34, 0, 0];
        segment.extend(options);
        segment[12] = (segment.len() / 4) as u8 * 16;
        segment.extend([7; 9]);
        with_checksum(segment)
    }

    fn with_checksum(mut segment: Vec<u8>) -> Vec<u8> {
        segment[16..18].fill(0);
        let checksum = checksum::checksum(&segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    fn walk(options: &[u8]) -> Vec<(u8, usize, usize)> {
        let segment = segment(options, SYN);
        TcpOptions::of(&segment).unwrap().map(|option| (option.kind, option.offset, option.length)).collect()
    }

    #[test]
    fn options_are_walked_and_malformed_ones_stop_the_walk() {
        assert_eq!(walk(&[]), []);
        assert_eq!(walk(&[1, 1, 2, 4, 5, 180, 1, 0]), [(2, 22, 4)]);
        assert_eq!(walk(&[2, 4, 5, 180, 4, 2, 1, 3, 3, 7, 0, 0]), [(2, 20, 4), (4, 24, 2), (3, 27, 3)]);
        assert_eq!(walk(&[0, 2, 4, 5]), []);
        for length in [0, 1] {
            assert_eq!(walk(&[4, 2, 8, length]), [(4, 20, 2)], "length {length}");
        }
        assert_eq!(walk(&[2, 5, 0, 0]), [], "beyond the header");
        assert_eq!(walk(&[1, 1, 1, 8]), [], "no length");
        assert_eq!(walk(&[1; 40]), []);
    }

    #[test]
    fn mss_is_lowered_never_raised_and_the_checksum_follows() {
        for (options, place) in [(&[2, 4, 5, 180][..], 22), (&[1, 2, 4, 5, 180, 1, 1, 0], 23)] {
            for flags in [SYN, SYN | 0x10] {
                let mut bytes = segment(options, flags);
                assert!(clamp_mss(&mut bytes, 1400));
                assert_eq!(bytes[place..place + 2], [5, 120]);
                assert_eq!(checksum::sum(&bytes), 0xffff);
                let before = bytes.clone();
                assert!(!clamp_mss(&mut bytes, 1400) && !clamp_mss(&mut bytes, 1460));
                assert_eq!(bytes, before);
            }
        }
        assert!(!clamp_mss(&mut segment(&[2, 4, 5, 180], 0x10), 1400), "no SYN");
        assert!(!clamp_mss(&mut segment(&[], SYN), 1400), "no option");
        assert!(!clamp_mss(&mut segment(&[2, 3, 5, 180], SYN), 1400), "wrong length");
        let mut twice = segment(&[2, 4, 5, 180, 2, 4, 0xff, 0xff], SYN);
        assert!(clamp_mss(&mut twice, 1400));
        assert_eq!(twice[20..28], [2, 4, 5, 120, 2, 4, 5, 120]);
        assert_eq!(checksum::sum(&twice), 0xffff);
    }

    #[test]
    fn clients_own_toa_is_erased() {
        let mut bytes = segment(&[1, 254, 8, 0, 1, 10, 0, 0, 1, 253, 4, 0, 0, 4, 2, 1], 0x10);
        assert!(erase_toa(&mut bytes));
        assert_eq!(bytes[20..36], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 2, 1]);
        assert_eq!(checksum::sum(&bytes), 0xffff);
        assert!(!erase_toa(&mut bytes));
    }

    #[test]
    fn toa_has_its_modules_bytes() {
        let v4 = ToaOption::new("198.51.100.7".parse().unwrap(), 40000);
        assert_eq!(v4.as_bytes(), [254, 8, 0x9c, 0x40, 198, 51, 100, 7]);
        let v6 = ToaOption::new("2001:db8::7".parse().unwrap(), 40000);
        assert_eq!(v6.as_bytes(), b"\xfe\x14\x9c\x40\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
    }

    #[test]
    fn inserted_option_comes_first_and_the_checksum_holds() {
        for option in [ToaOption::new([198, 51, 100, 7].into(), 40000), ToaOption::new([7; 16].into(), 40000)]
        {
            let mut old = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([1; 4], [2; 4], 9)
                .tcp(7, 9, 1, 2)
                .options(&[TcpOptionElement::WindowScale(7)])
                .unwrap()
                .write(&mut old, b"abc")
                .unwrap();
            let grown = option.as_bytes().len();
            let mut frame = [vec![0xee; grown], old.clone()].concat();
            insert_option(&mut frame, 34, option.as_bytes()).unwrap();
            let total = (old.len() + grown - 14) as u16;
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = parsed.transport else { panic!("no TCP") };
            assert_eq!(tcp.options(), [option.as_bytes(), &[3, 3, 7, 0]].concat());
            assert_eq!(tcp.payload(), b"abc");
            assert_eq!(tcp.calc_checksum_ipv4([1; 4], [2; 4]), Ok(tcp.checksum()));
        }
    }

    #[test]
    fn no_option_is_inserted_without_room() {
        for options in (0..=40).step_by(4) {
            let mut frame = [vec![0; 8], segment(&vec![1; options], 0x10)].concat();
            let before = frame.clone();
            let option = ToaOption::new([1, 2, 3, 4].into(), 5);
            let is_inserted = insert_option(&mut frame, 0, option.as_bytes()).is_some();
            assert_eq!(is_inserted, options <= 32, "{options}");
            assert_eq!(is_inserted, frame != before);
        }
        let mut frame = [vec![0; 3], segment(&[], 0x10)].concat();
        assert_eq!(insert_option(&mut frame, 0, &[1, 1, 1]), None);
        assert_eq!(insert_option(&mut [0; 20], 0, &[1; 4]), None);
    }

    proptest! {
        #[test]
        fn any_options_are_walked_and_changed_within_bounds(
            options in prop::collection::vec(prop_oneof![0..9_u8, 252..=255_u8, any::<u8>()], 0..11)
                .prop_map(|words| words.repeat(4)),
            mss: u16, flags: u8,
        ) {
            let mut bytes = segment(&options[..options.len().min(40)], flags);
            let end = TcpHeader::read(&bytes).unwrap().length();
            for option in TcpOptions::of(&bytes).unwrap() {
                prop_assert!(option.length >= 2 && option.offset + option.length <= end);
            }
            clamp_mss(&mut bytes, mss);
            prop_assert_eq!(checksum::sum(&bytes), 0xffff);
            erase_toa(&mut bytes);
            prop_assert_eq!(checksum::sum(&bytes), 0xffff);
            prop_assert!(!TcpOptions::of(&bytes).unwrap().any(|option| matches!(option.kind, 253 | 254)));
        }
    }
}
