//! ICMP errors that others send, of both families: what is wrong, and the packet that they quote.

use super::{icmp, icmpv6};

/// Type, code, checksum, four bytes of the type's own.
pub const HEADER_BYTES: usize = 8;

/// Quotes of RFC 4884 have at least so many bytes in front of the extensions; a length field below says something else.
const EXTENDED_QUOTE_BYTES_MIN: usize = 128;

/// An error message. Its checksum is not looked at here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage<'a> {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes whose meaning depends on the type.
    pub rest: u32,
    /// The quoted packet from its IP header on, as far as it goes; begins [`HEADER_BYTES`] behind the message's start. Without
    /// the extensions that may follow it (RFC 4884).
    pub quote: &'a [u8],
}

impl<'a> ErrorMessage<'a> {
    /// An ICMP message of type destination unreachable, source quench, time exceeded or parameter problem. Redirects are not
    /// for connections, as in IPVS.
    pub fn read_v4(message: &'a [u8]) -> Option<ErrorMessage<'a>> {
        let (kind, code, rest, quote) = split(message)?;
        if !icmp::is_error(kind) || kind == icmp::REDIRECT {
            return None;
        }
        let words = if kind == icmp::SOURCE_QUENCH { 0 } else { usize::from(rest[1]) };
        Some(ErrorMessage { kind, code, rest: u32::from_be_bytes(rest), quote: cut(quote, words * 4) })
    }

    /// An ICMPv6 message of type destination unreachable, packet too big, time exceeded or parameter problem, or of a type that
    /// is an error, whatever it means (RFC 4443 section 2.4 a).
    pub fn read_v6(message: &'a [u8]) -> Option<ErrorMessage<'a>> {
        let (kind, code, rest, quote) = split(message)?;
        let words = match kind {
            icmpv6::DESTINATION_UNREACHABLE | icmpv6::TIME_EXCEEDED => usize::from(rest[0]),
            0 => return None,
            kind if icmpv6::is_error(kind) => 0,
            _ => return None,
        };
        Some(ErrorMessage { kind, code, rest: u32::from_be_bytes(rest), quote: cut(quote, words * 8) })
    }

    /// The MTU that an ICMP fragmentation needed tells; 0 from routers older than RFC 1191.
    pub fn mtu_v4(&self) -> Option<u16> {
        let is_too_big =
            (self.kind, self.code) == (icmp::DESTINATION_UNREACHABLE, icmp::FRAGMENTATION_NEEDED);
        is_too_big.then_some(self.rest as u16)
    }

    /// The MTU that an ICMPv6 packet too big tells.
    pub fn mtu_v6(&self) -> Option<u32> {
        (self.kind == icmpv6::PACKET_TOO_BIG).then_some(self.rest)
    }
}

fn split(message: &[u8]) -> Option<(u8, u8, [u8; 4], &[u8])> {
    let (&[kind, code, _, _, a, b, c, d], quote) = message.split_first_chunk()?;
    Some((kind, code, [a, b, c, d], quote))
}

fn cut(quote: &[u8], length: usize) -> &[u8] {
    match quote.get(..length) {
        Some(packet) if length >= EXTENDED_QUOTE_BYTES_MIN => packet,
        _ => quote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, code: u8, rest: [u8; 4], quote: usize) -> Vec<u8> {
        [&[kind, code, 0, 0][..], &rest, &vec![7; quote]].concat()
    }

    #[test]
    fn errors_are_read_and_nothing_else() {
        for kind in 0..=255 {
            let message = message(kind, 1, [0; 4], 20);
            let v4 = ErrorMessage::read_v4(&message);
            assert_eq!(v4.is_some(), [3, 4, 11, 12].contains(&kind), "{kind}");
            let v6 = ErrorMessage::read_v6(&message);
            assert_eq!(v6.is_some(), (1..128).contains(&kind), "{kind}");
            for read in [v4, v6].into_iter().flatten() {
                assert_eq!((read.kind, read.code, read.quote), (kind, 1, &message[8..]));
            }
        }
        let whole = message(3, 4, [0; 4], 0);
        for length in 0..8 {
            assert_eq!(ErrorMessage::read_v4(&whole[..length]), None);
            assert_eq!(ErrorMessage::read_v6(&whole[..length]), None);
        }
    }

    #[test]
    fn mtu_is_where_its_type_has_it() {
        let v4 = message(3, 4, [0, 0, 5, 120], 20);
        assert_eq!(ErrorMessage::read_v4(&v4).unwrap().mtu_v4(), Some(1400));
        assert_eq!(ErrorMessage::read_v4(&message(3, 3, [0, 0, 5, 120], 20)).unwrap().mtu_v4(), None);
        let v6 = message(2, 0, [0, 0, 5, 120], 20);
        assert_eq!(ErrorMessage::read_v6(&v6).unwrap().mtu_v6(), Some(1400));
        assert_eq!(ErrorMessage::read_v6(&message(1, 0, [0, 0, 5, 120], 20)).unwrap().mtu_v6(), None);
    }

    #[test]
    fn extensions_are_no_part_of_the_quote() {
        let quoted = |message: &[u8], is_v6: bool| {
            let read = if is_v6 { ErrorMessage::read_v6(message) } else { ErrorMessage::read_v4(message) };
            read.unwrap().quote.len()
        };
        assert_eq!(quoted(&message(11, 0, [0, 32, 0, 0], 148), false), 128);
        assert_eq!(quoted(&message(2, 0, [16, 0, 0, 0], 148), true), 148, "too big has none");
        assert_eq!(quoted(&message(1, 0, [16, 0, 0, 0], 148), true), 128);
        assert_eq!(quoted(&message(11, 0, [0, 32, 0, 0], 100), false), 100, "longer than there is");
        assert_eq!(quoted(&message(11, 0, [0, 5, 0, 0], 100), false), 100, "shorter than may be");
        assert_eq!(quoted(&message(4, 0, [0, 32, 0, 0], 148), false), 148, "source quench has none");
    }
}
