//! Full NAT: how the real server learns who the client is, because all that it sees is a local address.
//!
//! | by | where it stands |
//! |---|---|
//! | TOA, a TCP option | in each segment of the client that acknowledges nothing but the real server's SYN: one of them completes the handshake, and modules read it there |
//! | PROXY protocol, version 2 | in front of the stream's first byte: the client's first segment behind its SYN carries it, payload or none, and each that begins where that did, until the real server has acknowledged it |
//!
//! The PROXY header makes the stream that the real server sees longer than the client's: sequence numbers to it are shifted on, its
//! acknowledgements shifted back. What it acknowledges of the header the client never hears of. The real server of a protocol in
//! which it speaks first gets the header with the handshake's last segment. Where header and payload exceed what the way carries, the
//! header goes as a segment of its own; for TOA the real server's SYN tells the client so much smaller an MSS.
//!
//! What a client says of itself is erased: TOA options, and TCP Fast Open where a header has to come first.

use crate::connection::Tuple;
use crate::packet::proxy::ProxyHeader;
use crate::packet::tcp::{ACK, HEADER_BYTES, RST, SYN, TcpHeader};
use crate::packet::tcp_options::{self, ToaOption};
use crate::packet::tcp_sequence::{shift_acknowledgement, shift_sequence};
use crate::packet::{ipv4, ipv6, proxy};
use crate::port::{Frame, PortId, QueuePair};
use crate::snapshot::ClientAddress;
use crate::verdict::DropReason;

use super::outlet::Outlet;
use super::segment::Segment;

/// Option: TCP Fast Open (RFC 7413).
const FAST_OPEN: u8 = 34;

/// What a connection remembers of it, in the low 40 bits of its memory. The lowest 32 are the sequence number behind a SYN: TOA's
/// the real server's, PROXY's the client's. Both are learned from the real server's SYN: one that says it is the client's may be
/// anybody's, and the real server of a connection that stands answers none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Introduction(u64);

/// The sequence number is known.
const KNOWN: u64 = 1 << 32;
/// PROXY: the real server has acknowledged the header.
const DONE: u64 = 1 << 33;
/// PROXY: the header was sent.
const SENT: u64 = 1 << 34;
const TOA: u64 = 1 << 35;
const PROXY: u64 = 1 << 36;
const BITS: u64 = (1 << 40) - 1;

impl Introduction {
    /// That of a new connection.
    pub(super) fn new(by: ClientAddress) -> Introduction {
        Introduction(match by {
            ClientAddress::None => 0,
            ClientAddress::Toa => TOA,
            ClientAddress::ProxyV2 => PROXY,
        })
    }

    /// What [`Introduction::word`] gave; the other bits of the word may be anything.
    pub(super) fn of(word: u64) -> Introduction {
        Introduction(word & BITS)
    }

    /// In the low 40 bits.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// There is one.
    pub(super) fn is_any(self) -> bool {
        self.has(TOA) || self.has(PROXY)
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    fn number(self) -> u32 {
        self.0 as u32
    }

    #[must_use]
    fn with_number(self, number: u32) -> Introduction {
        Introduction(self.0 & (TOA | PROXY) | KNOWN | u64::from(number))
    }

    #[must_use]
    fn with(self, bit: u64) -> Introduction {
        Introduction(self.0 | bit)
    }
}

/// Where a segment goes.
pub(super) struct Onward<'a, 'b, Q: QueuePair> {
    pub(super) port: PortId,
    pub(super) mtu: u16,
    pub(super) outlet: &'a mut Outlet<'b, Q>,
    /// The segment is the beginning of a packet that comes in fragments.
    pub(super) is_first_fragment: bool,
}

impl Introduction {
    /// A segment of the client, whose addresses and ports are rewritten already. `who`: the client and the virtual service.
    pub(super) fn to_real_server<Q: QueuePair>(
        self,
        who: &Tuple,
        segment: &mut Segment<Q::Frame>,
        onward: &mut Onward<Q>,
    ) -> Result<Introduction, DropReason> {
        let Some(header) = segment.header() else { return Ok(self) };
        if self.has(TOA) {
            self.toa(who, &header, segment, onward)
        } else if self.has(PROXY) {
            self.proxy(who, &header, segment, onward)
        } else {
            Ok(self)
        }
    }

    /// A segment of the real server. `mtu`: of the way to it.
    pub(super) fn to_client<F: Frame>(self, who: &Tuple, segment: &mut Segment<F>, mtu: u16) -> Introduction {
        let Some(header) = segment.header() else { return self };
        if self.has(TOA) {
            self.toa_reply(who, &header, segment, mtu)
        } else if self.has(PROXY) && header.flags & ACK != 0 {
            self.proxy_reply(who, &header, segment)
        } else {
            self
        }
    }

    fn toa<Q: QueuePair>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<Q::Frame>,
        onward: &Onward<Q>,
    ) -> Result<Introduction, DropReason> {
        if header.flags & SYN != 0 {
            tcp_options::erase_toa(segment.bytes_mut());
            return Ok(self);
        }
        let acknowledged = u32::from_be_bytes(header.acknowledgement);
        let is_next = self.has(KNOWN) && header.flags & ACK != 0 && acknowledged == self.number();
        if self.has(KNOWN) && !is_next {
            return Ok(self);
        }
        tcp_options::erase_toa(segment.bytes_mut());
        let option = ToaOption::new(who.client, who.client_port);
        let option = option.as_bytes();
        let fits = segment.ip_length + option.len() <= usize::from(onward.mtu);
        if is_next && header.flags & RST == 0 && fits && !onward.is_first_fragment {
            segment.put_option(option)?;
        }
        Ok(self)
    }

    fn toa_reply<F: Frame>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<F>,
        mtu: u16,
    ) -> Introduction {
        if header.flags & (SYN | ACK) != SYN | ACK {
            return self;
        }
        let (ip, option) = match who.client.is_ipv4() {
            true => (ipv4::HEADER_BYTES, tcp_options::TOA_V4_BYTES),
            false => (ipv6::HEADER_BYTES, tcp_options::TOA_V6_BYTES),
        };
        let most = usize::from(mtu).saturating_sub(ip + HEADER_BYTES + option);
        tcp_options::clamp_mss(segment.bytes_mut(), most as u16);
        self.with_number(u32::from_be_bytes(header.sequence).wrapping_add(1))
    }

    fn proxy<Q: QueuePair>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<Q::Frame>,
        onward: &mut Onward<Q>,
    ) -> Result<Introduction, DropReason> {
        let sequence = u32::from_be_bytes(header.sequence);
        if header.flags & SYN != 0 {
            segment.erase_options(FAST_OPEN);
            return Ok(self);
        }
        if !self.has(KNOWN) {
            return Ok(self);
        }
        let ahead = sequence.wrapping_sub(self.number()).cast_signed();
        let is_reset = header.flags & RST != 0;
        if self.has(DONE) || ahead > 0 || is_reset && self.has(SENT) {
            shift_sequence(segment.bytes_mut(), header_bytes(who) as u32);
            return Ok(self);
        }
        if ahead < 0 || is_reset {
            return Ok(self);
        }
        if onward.is_first_fragment {
            return Err(DropReason::Fragment);
        }
        self.send_header(who, segment, onward)?;
        Ok(self.with(SENT))
    }

    fn send_header<Q: QueuePair>(
        self,
        who: &Tuple,
        segment: &mut Segment<Q::Frame>,
        onward: &mut Onward<Q>,
    ) -> Result<(), DropReason> {
        let vip = (who.service.address, who.service.port);
        let proxy = ProxyHeader::new((who.client, who.client_port), vip).ok_or(DropReason::NoRealServer)?;
        let proxy = proxy.as_bytes();
        if segment.ip_length + proxy.len() <= usize::from(onward.mtu) {
            return segment.put_in_front(proxy);
        }
        let frame = onward.outlet.allocate(onward.port).ok_or(DropReason::NoBuffer)?;
        let frame = segment.write_alone(proxy, frame).ok_or(DropReason::NoBuffer)?;
        onward.outlet.push(onward.port, frame);
        shift_sequence(segment.bytes_mut(), proxy.len() as u32);
        Ok(())
    }

    fn proxy_reply<F: Frame>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<F>,
    ) -> Introduction {
        let acknowledged = u32::from_be_bytes(header.acknowledgement);
        if header.flags & SYN != 0 {
            let is_again = self.has(KNOWN) && acknowledged == self.number();
            return if is_again { self } else { self.with_number(acknowledged) };
        }
        if !self.has(KNOWN) {
            return self;
        }
        let bytes = header_bytes(who) as u32;
        let ahead = acknowledged.wrapping_sub(self.number()).cast_signed();
        if self.has(DONE) || ahead >= bytes.cast_signed() {
            shift_acknowledgement(segment.bytes_mut(), bytes.wrapping_neg());
            return self.with(DONE);
        }
        // What it has of the payload behind a header that it has not cannot be said to the client.
        segment.erase_options(tcp_options::SACK);
        if ahead > 0 {
            segment.set_acknowledgement(self.number());
        }
        self
    }
}

/// Bytes of the PROXY header.
fn header_bytes(who: &Tuple) -> usize {
    if who.client.is_ipv4() { proxy::V4_BYTES } else { proxy::V6_BYTES }
}
