//! Full NAT: how the real server learns who the client is, because all that it sees is a local address.
//!
//! | by | where it stands |
//! |---|---|
//! | TOA, a TCP option | in each segment of the client behind its SYN, until a segment of the real server shows that one of them completed the handshake: modules read it there |
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
use crate::packet::tcp::{ACK, FIN, HEADER_BYTES, RST, SYN, TcpHeader};
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

/// What a connection remembers of it, in the low 40 bits of its memory. The lowest 32 are the sequence number behind the client's
/// SYN, as the real server's SYN acknowledges it: one that says it is the client's may be anybody's, and the real server of a
/// connection that stands answers none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Introduction(u64);

/// The sequence number is known.
const KNOWN: u64 = 1 << 32;
/// The real server has what it was to learn: TOA's handshake is complete, PROXY's header acknowledged.
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

    /// Bytes by which a packet of this family's client may still become longer.
    pub(super) fn may_add(self, is_ipv4: bool) -> usize {
        if self.has(DONE) {
            0
        } else if self.has(TOA) {
            toa_bytes(is_ipv4)
        } else if self.has(PROXY) {
            header_bytes(is_ipv4)
        } else {
            0
        }
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
        if !self.is_any() || header.flags & ACK == 0 {
            self
        } else if header.flags & SYN != 0 {
            self.begin(who, &header, segment, mtu)
        } else if !self.has(KNOWN) {
            self
        } else if self.has(TOA) {
            self.toa_reply(&header, segment)
        } else {
            self.proxy_reply(who, &header, segment)
        }
    }

    /// The real server's SYN.
    fn begin<F: Frame>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<F>,
        mtu: u16,
    ) -> Introduction {
        if self.has(TOA) {
            let is_ipv4 = who.client.is_ipv4();
            let ip = if is_ipv4 { ipv4::HEADER_BYTES } else { ipv6::HEADER_BYTES };
            let most = usize::from(mtu).saturating_sub(ip + HEADER_BYTES + toa_bytes(is_ipv4));
            tcp_options::clamp_mss(segment.bytes_mut(), most as u16);
        }
        let number = u32::from_be_bytes(header.acknowledgement);
        let is_again = self.has(KNOWN) && number == self.number();
        if is_again { self } else { self.with_number(number) }
    }

    fn toa<Q: QueuePair>(
        self,
        who: &Tuple,
        header: &TcpHeader,
        segment: &mut Segment<Q::Frame>,
        onward: &Onward<Q>,
    ) -> Result<Introduction, DropReason> {
        if self.has(DONE) && header.flags & SYN == 0 {
            return Ok(self);
        }
        tcp_options::erase_toa(segment.bytes_mut());
        let completes = self.has(KNOWN) && header.flags & (SYN | ACK | RST) == ACK;
        let option = ToaOption::new(who.client, who.client_port);
        let option = option.as_bytes();
        let fits = segment.ip_length + option.len() <= usize::from(onward.mtu);
        if completes && fits && !onward.is_first_fragment {
            segment.put_option(option)?;
        }
        Ok(self)
    }

    /// It acknowledges data, or has some itself: the handshake is complete.
    fn toa_reply<F: Frame>(self, header: &TcpHeader, segment: &Segment<F>) -> Introduction {
        let acknowledged = u32::from_be_bytes(header.acknowledgement);
        let is_ahead = acknowledged.wrapping_sub(self.number()).cast_signed() > 0;
        let is_complete = is_ahead || header.flags & FIN != 0 || segment.payload_length() > 0;
        if is_complete { self.with(DONE) } else { self }
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
            shift_sequence(segment.bytes_mut(), header_bytes(who.client.is_ipv4()) as u32);
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
        let bytes = header_bytes(who.client.is_ipv4()) as u32;
        let acknowledged = u32::from_be_bytes(header.acknowledgement);
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

fn toa_bytes(is_ipv4: bool) -> usize {
    if is_ipv4 { tcp_options::TOA_V4_BYTES } else { tcp_options::TOA_V6_BYTES }
}

/// Bytes of the PROXY header.
fn header_bytes(is_ipv4: bool) -> usize {
    if is_ipv4 { proxy::V4_BYTES } else { proxy::V6_BYTES }
}
