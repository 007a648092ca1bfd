//! What a packet is to its connection's state, in one byte that parsing makes.
//!
//! Numbered so that a TCP event is the packet's flags as they are, and so that one mask tells a packet that opens a
//! connection, whatever its protocol: the bit of SYN without that of RST.

use crate::packet::tcp::{ACK, RST, SYN};

/// A packet's event. Made only by the constructors and constants below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(u8);

/// TCP under the table for denial-of-service attacks.
const SECURE: u8 = 32;
/// The first number that is not TCP's.
const OTHERS: u8 = 64;

impl Event {
    /// Rows that a table by event has.
    pub const COUNT: usize = 128;

    /// UDP has one.
    pub const UDP: Event = Event(OTHERS);
    /// SCTP: an INIT, which opens an association.
    pub const SCTP_INIT: Event = Event(OTHERS | SYN);
    /// SCTP: an ABORT.
    pub const SCTP_ABORT: Event = Event(OTHERS | RST);
    /// SCTP: an ABORT behind a COOKIE ECHO or COOKIE ACK. It is an ABORT to a state; whether it may open an association is
    /// the first chunk's matter.
    pub const SCTP_COOKIE_ABORT: Event = Event(OTHERS | 40);
    /// SCTP: DATA, SACK, heartbeats and all that is not named here.
    pub const SCTP_DATA: Event = Event(OTHERS | 8);
    /// SCTP.
    pub const SCTP_INIT_ACK: Event = Event(OTHERS | 9);
    /// SCTP.
    pub const SCTP_COOKIE_ECHO: Event = Event(OTHERS | 16);
    /// SCTP.
    pub const SCTP_COOKIE_ACK: Event = Event(OTHERS | 17);
    /// SCTP.
    pub const SCTP_SHUTDOWN: Event = Event(OTHERS | 24);
    /// SCTP.
    pub const SCTP_SHUTDOWN_ACK: Event = Event(OTHERS | 25);
    /// SCTP.
    pub const SCTP_SHUTDOWN_COMPLETE: Event = Event(OTHERS | 32);
    /// SCTP.
    pub const SCTP_ERROR: Event = Event(OTHERS | 33);

    /// Of a TCP packet with these flags; `is_secure`: under the table for denial-of-service attacks.
    #[inline(always)]
    pub const fn tcp(flags: u8, is_secure: bool) -> Event {
        Event((flags % 32) | if is_secure { SECURE } else { 0 })
    }

    /// Row in a table of [`Event::COUNT`].
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.0 as usize % Event::COUNT
    }

    /// It opens a connection: a SYN that is no RST, or an INIT. UDP opens too, but never anew on a tuple that is known.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (SYN | RST) == SYN
    }

    /// A SYN, also one that is an RST, or an INIT: not a packet in the middle of a connection.
    pub const fn is_first(self) -> bool {
        self.0 & SYN != 0
    }

    /// A packet in the middle of a connection, or one that ends it: TCP with ACK or RST and without SYN, SCTP but INIT.
    pub const fn is_midway(self) -> bool {
        match self.0 {
            tcp if tcp < OTHERS => tcp & SYN == 0 && tcp & (ACK | RST) != 0,
            other => other != Event::UDP.0 && other != Event::SCTP_INIT.0,
        }
    }

    /// A TCP packet with RST, or an ABORT as the first chunk.
    pub const fn resets(self) -> bool {
        self.0 & RST != 0
    }

    /// Every number, whether some packet has it or none.
    #[cfg(test)]
    pub(crate) fn all() -> impl Iterator<Item = Event> {
        (0..Event::COUNT as u8).map(Event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCTP: [Event; 11] = [
        Event::SCTP_INIT,
        Event::SCTP_ABORT,
        Event::SCTP_COOKIE_ABORT,
        Event::SCTP_DATA,
        Event::SCTP_INIT_ACK,
        Event::SCTP_COOKIE_ECHO,
        Event::SCTP_COOKIE_ACK,
        Event::SCTP_SHUTDOWN,
        Event::SCTP_SHUTDOWN_ACK,
        Event::SCTP_SHUTDOWN_COMPLETE,
        Event::SCTP_ERROR,
    ];

    #[test]
    fn only_syn_without_rst_and_init_open() {
        for flags in 0..=255_u8 {
            for is_secure in [false, true] {
                let event = Event::tcp(flags, is_secure);
                assert_eq!(event.opens(), flags & SYN != 0 && flags & RST == 0);
                assert_eq!((event.is_first(), event.resets()), (flags & SYN != 0, flags & RST != 0));
                assert_eq!(event.is_midway(), flags & SYN == 0 && flags & (ACK | RST) != 0);
            }
        }
        let opening: Vec<_> = SCTP.into_iter().filter(|event| event.opens()).collect();
        assert_eq!(opening, [Event::SCTP_INIT]);
        assert!(SCTP.into_iter().all(|event| event.is_first() == (event == Event::SCTP_INIT)));
        assert!(SCTP.into_iter().all(|event| event.resets() == (event == Event::SCTP_ABORT)));
        assert!(SCTP.into_iter().all(|event| event.is_midway() != event.is_first()));
        assert!(!Event::UDP.opens() && !Event::UDP.is_first() && !Event::UDP.resets());
        assert!(!Event::UDP.is_midway());
    }

    #[test]
    fn no_two_events_share_a_number() {
        let mut numbers: Vec<_> = SCTP.into_iter().chain([Event::UDP]).map(Event::index).collect();
        for flags in 0..32 {
            numbers.extend([Event::tcp(flags, false).index(), Event::tcp(flags, true).index()]);
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 64 + 12);
    }
}
