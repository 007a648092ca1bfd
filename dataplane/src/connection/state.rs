//! IPVS's connection states, each with its timeout, as direct routing and tunnelling see them: packets of the client only
//! (`INPUT-ONLY` of `ip_vs_proto_tcp.c` and `ip_vs_proto_sctp.c`). [`super::both_ways`] has the tables for NAT.
//!
//! What a packet does to a state is one look into [`TRANSITIONS`], by the packet's [`Event`] and the state.

use zerocopy::FromZeros;

use super::event::Event;
use crate::clock::TICKS_PER_SECOND;
use crate::packet::tcp as tcp_flags;
use crate::snapshot::Protocol;

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $state:ident = $name:literal, $seconds:literal;)+) => {
        /// State of an entry of the connection table.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
        #[repr(u8)]
        pub enum ConnectionState {
            /// The entry holds no connection.
            #[default]
            Free = 0,
            $($(#[doc = $doc])+ $state,)+
        }

        impl ConnectionState {
            /// Every state that a connection can have, in the order of the configuration's timeouts.
            pub const ALL: &[ConnectionState] = &[$(ConnectionState::$state,)+];

            /// As `ipvsadm -Lc` calls it.
            pub fn name(self) -> &'static str {
                match self {
                    ConnectionState::Free => "NONE",
                    $(ConnectionState::$state => $name,)+
                }
            }
        }

        /// IPVS's timeouts in seconds, by state.
        const IPVS_SECONDS: [u32; STATES] = {
            let mut seconds = [0; STATES];
            $(seconds[ConnectionState::$state as usize] = $seconds;)+
            seconds
        };
    };
}

states! {
    /// TCP, before its first packet was judged.
    None = "NONE", 2;
    /// TCP.
    Established = "ESTABLISHED", 900;
    /// TCP.
    SynSent = "SYN_SENT", 120;
    /// TCP.
    SynReceived = "SYN_RECV", 60;
    /// TCP.
    FinWait = "FIN_WAIT", 120;
    /// TCP.
    TimeWait = "TIME_WAIT", 120;
    /// TCP.
    Close = "CLOSE", 10;
    /// TCP.
    CloseWait = "CLOSE_WAIT", 60;
    /// TCP.
    LastAck = "LAST_ACK", 30;
    /// TCP.
    Listen = "LISTEN", 120;
    /// TCP.
    SynAck = "SYNACK", 120;
    /// UDP has one state.
    Udp = "UDP", 300;
    /// SCTP, before its first packet was judged.
    SctpNone = "NONE", 2;
    /// SCTP.
    SctpInit1 = "INIT1", 4;
    /// SCTP.
    SctpInit = "INIT", 61;
    /// SCTP.
    SctpCookieSent = "C-SENT", 61;
    /// SCTP.
    SctpCookieReplied = "C-REPLIED", 61;
    /// SCTP.
    SctpCookieWait = "C-WAIT", 61;
    /// SCTP.
    SctpCookie = "COOKIE", 61;
    /// SCTP.
    SctpCookieEchoed = "C-ECHOED", 61;
    /// SCTP.
    SctpEstablished = "ESTABLISHED", 900;
    /// SCTP.
    SctpShutdownSent = "S-SENT", 61;
    /// SCTP.
    SctpShutdownReceived = "S-RECEIVED", 61;
    /// SCTP.
    SctpShutdownAckSent = "S-ACK-SENT", 61;
    /// SCTP.
    SctpRejected = "REJECTED", 4;
    /// SCTP.
    SctpClosed = "CLOSED", 61;
}

use ConnectionState::*;

/// Places for states in a table: a power of two, so that a row is found by a shift and no look-up checks its bounds.
pub const STATES: usize = 32;
const _: () = assert!((SctpClosed as usize) < STATES);

pub(super) type Row = [ConnectionState; STATES];

/// No packet of another protocol meets a state, and an event that does not concern it changes nothing.
const UNCHANGED: Row = {
    let mut row = [Free; STATES];
    let mut place = 0;
    while place < ConnectionState::ALL.len() {
        row[ConnectionState::ALL[place] as usize] = ConnectionState::ALL[place];
        place += 1;
    }
    row
};

const fn row<const N: usize>(first: ConnectionState, states: [ConnectionState; N]) -> Row {
    let mut row = UNCHANGED;
    let mut place = 0;
    while place < N {
        row[first as usize + place] = states[place];
        place += 1;
    }
    row
}

pub(super) const fn tcp(states: [ConnectionState; 11]) -> Row {
    row(None, states)
}

pub(super) const fn sctp(states: [ConnectionState; 14]) -> Row {
    row(SctpNone, states)
}

// Columns: NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK.
const SYN: Row = tcp([
    SynReceived,
    Established,
    Established,
    SynReceived,
    SynReceived,
    SynReceived,
    SynReceived,
    SynReceived,
    SynReceived,
    SynReceived,
    SynReceived,
]);
/// The table for denial-of-service attacks differs in this row only.
const SYN_SECURE: Row = tcp([
    SynAck,
    Established,
    Established,
    SynReceived,
    SynAck,
    SynAck,
    SynAck,
    SynAck,
    SynAck,
    SynAck,
    SynAck,
]);
const FIN: Row =
    tcp([Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait]);
const ACK: Row = tcp([
    Established,
    Established,
    SynSent,
    Established,
    FinWait,
    TimeWait,
    Close,
    CloseWait,
    Close,
    Listen,
    Established,
]);
const RST: Row = tcp([Close, Close, Close, SynReceived, Close, Close, Close, Close, LastAck, Listen, Close]);
/// A packet with none of the four flags (`tcp_state_idx` < 0).
pub(super) const NO_FLAG: Row = tcp([Close; 11]);

// Columns: NONE, INIT1, INIT, C-SENT, C-REPLIED, C-WAIT, COOKIE, C-ECHOED, ESTABLISHED, S-SENT, S-RECEIVED, S-ACK-SENT,
// REJECTED, CLOSED; abbreviated as in the table that they come from.
use {
    SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR,
    SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};
const SCTP_DATA: Row = sctp([ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL]);
const SCTP_INIT: Row = sctp([I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN]);
const SCTP_INIT_ACK: Row = sctp([CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL]);
const SCTP_COOKIE_ECHO: Row = sctp([ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL]);
const SCTP_COOKIE_ACK: Row = sctp([ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL]);
const SCTP_SHUTDOWN: Row = sctp([SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL]);
const SCTP_SHUTDOWN_ACK: Row = sctp([CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL]);
const SCTP_SHUTDOWN_COMPLETE: Row = sctp([CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL]);
const SCTP_ERROR: Row = sctp([CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL]);
const SCTP_ABORT: Row = sctp([CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL]);

/// By event and state.
pub(super) type Table = [Row; Event::COUNT];

/// The table of these rows: of TCP by the strongest flag, strongest first, normal and under `secure_tcp`; of SCTP by event. A TCP
/// event is the five low flags (ACK, PSH, RST, SYN, FIN).
pub(super) const fn table(tcp: [(u8, Row, Row); 5], sctp: [(Event, Row); 11]) -> Table {
    let mut table = [UNCHANGED; Event::COUNT];
    let mut flags = 0_u8;
    while flags < 32 {
        let mut place = 0;
        while place < tcp.len() {
            let (flag, normal, secure) = tcp[place];
            if flags & flag != 0 || flag == 0 {
                table[Event::tcp(flags, false).index()] = normal;
                table[Event::tcp(flags, true).index()] = secure;
                break;
            }
            place += 1;
        }
        flags += 1;
    }
    let mut place = 0;
    while place < sctp.len() {
        table[sctp[place].0.index()] = sctp[place].1;
        place += 1;
    }
    table
}

static TRANSITIONS: Table = table(
    [
        (tcp_flags::RST, RST, RST),
        (tcp_flags::SYN, SYN, SYN_SECURE),
        (tcp_flags::FIN, FIN, FIN),
        (tcp_flags::ACK, ACK, ACK),
        (0, NO_FLAG, NO_FLAG),
    ],
    [
        (Event::SCTP_DATA, SCTP_DATA),
        (Event::SCTP_INIT, SCTP_INIT),
        (Event::SCTP_INIT_ACK, SCTP_INIT_ACK),
        (Event::SCTP_COOKIE_ECHO, SCTP_COOKIE_ECHO),
        (Event::SCTP_COOKIE_ACK, SCTP_COOKIE_ACK),
        (Event::SCTP_SHUTDOWN, SCTP_SHUTDOWN),
        (Event::SCTP_SHUTDOWN_ACK, SCTP_SHUTDOWN_ACK),
        (Event::SCTP_SHUTDOWN_COMPLETE, SCTP_SHUTDOWN_COMPLETE),
        (Event::SCTP_ERROR, SCTP_ERROR),
        (Event::SCTP_ABORT, SCTP_ABORT),
        (Event::SCTP_COOKIE_ABORT, SCTP_ABORT),
    ],
);

impl ConnectionState {
    /// The state of a connection whose first packet is this.
    pub fn first(protocol: Protocol, event: Event) -> ConnectionState {
        ConnectionState::before_first(protocol).after(event)
    }

    /// What there is before the first packet.
    pub(super) const fn before_first(protocol: Protocol) -> ConnectionState {
        match protocol {
            Protocol::UDP => Udp,
            Protocol::SCTP => SctpNone,
            _ => None,
        }
    }

    /// The state after a packet of the client, where only those are seen.
    #[inline(always)]
    pub fn after(self, event: Event) -> ConnectionState {
        TRANSITIONS[event.index()][self as usize]
    }

    /// IPVS counts the connection as active (`tcp_state_active_table`; SCTP: only ESTABLISHED).
    #[inline(always)]
    pub fn is_active(self) -> bool {
        const ACTIVE: u32 = 1 << Established as u32
            | 1 << SynSent as u32
            | 1 << SynReceived as u32
            | 1 << SynAck as u32
            | 1 << SctpEstablished as u32;
        ACTIVE >> self as u32 & 1 != 0
    }

    /// The handshake is done: TCP's and SCTP's ESTABLISHED.
    pub fn is_established(self) -> bool {
        matches!(self, Established | SctpEstablished)
    }

    /// A SYN or INIT in this state is a new connection on an old tuple (`is_new_conn_expected`). `conn_reuse_mode`: 0
    /// never, 2 in FIN_WAIT too, which for a director that sees one direction is where every closed connection ends.
    pub fn is_over(self, conn_reuse_mode: u8) -> bool {
        match self {
            TimeWait | Close | SctpClosed => conn_reuse_mode != 0,
            FinWait => conn_reuse_mode & 2 != 0,
            _ => false,
        }
    }
}

/// Ticks without a packet after which a connection is gone, by state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct StateTimeouts([u32; STATES]);

impl StateTimeouts {
    /// IPVS's own (`tcp_timeouts`, `udp_timeouts`, `sctp_timeouts`).
    pub const IPVS: StateTimeouts = {
        let mut ticks = IPVS_SECONDS;
        let mut place = 0;
        while place < STATES {
            ticks[place] *= TICKS_PER_SECOND;
            place += 1;
        }
        StateTimeouts(ticks)
    };

    /// From seconds in the order of [`ConnectionState::ALL`]; where there are fewer, the rest are IPVS's.
    pub fn from_seconds(seconds: impl IntoIterator<Item = u32>) -> StateTimeouts {
        let mut timeouts = StateTimeouts::IPVS;
        for (&state, seconds) in ConnectionState::ALL.iter().zip(seconds) {
            timeouts.0[state as usize] = seconds.saturating_mul(TICKS_PER_SECOND);
        }
        timeouts
    }

    /// The timeout of a state, in ticks.
    #[inline(always)]
    pub fn ticks(&self, state: ConnectionState) -> u32 {
        self.0[state as usize]
    }
}

impl Default for StateTimeouts {
    fn default() -> Self {
        StateTimeouts::IPVS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tcp;

    const TCP_STATES: &str = "NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK \
                              LISTEN SYNACK";
    const TCP_INITIALS: &str = "NO ES SS SR FW TW CL CW LA LI SA";
    const SCTP_STATES: &str = "NONE INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED ESTABLISHED S-SENT \
                               S-RECEIVED S-ACK-SENT REJECTED CLOSED";
    const SCTP_INITIALS: &str = "NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL";

    fn tcp_states() -> &'static [ConnectionState] {
        &ConnectionState::ALL[..11]
    }

    fn sctp_states() -> &'static [ConnectionState] {
        &ConnectionState::ALL[12..]
    }

    /// Compares a printed row with what `event` does to `states`, whose names and initials are those.
    fn assert_row(event: Event, states: &[ConnectionState], names: &str, initials: &str, expected: &str) {
        assert_eq!(states.iter().map(|state| state.name()).collect::<Vec<_>>().join(" "), names);
        let initials: Vec<_> = initials.split(' ').collect();
        let row: Vec<_> = states
            .iter()
            .map(|state| {
                let after = state.after(event);
                initials[states.iter().position(|state| *state == after).unwrap()]
            })
            .collect();
        assert_eq!(row.join(" "), expected, "{event:?}");
    }

    /// The rows of IPVS's tables `INPUT-ONLY`, as its source's comments print them.
    #[test]
    fn tcp_transitions_are_the_input_only_tables() {
        for (flags, normal, secure) in [
            (tcp::SYN, "SR ES ES SR SR SR SR SR SR SR SR", "SA ES ES SR SA SA SA SA SA SA SA"),
            (tcp::FIN, "CL FW SS TW FW TW CL CW LA LI TW", "CL FW SS TW FW TW CL CW LA LI TW"),
            (tcp::ACK, "ES ES SS ES FW TW CL CW CL LI ES", "ES ES SS ES FW TW CL CW CL LI ES"),
            (tcp::RST, "CL CL CL SR CL CL CL CL LA LI CL", "CL CL CL SR CL CL CL CL LA LI CL"),
            (0, "CL CL CL CL CL CL CL CL CL CL CL", "CL CL CL CL CL CL CL CL CL CL CL"),
        ] {
            for (event, row) in [(Event::tcp(flags, false), normal), (Event::tcp(flags, true), secure)] {
                assert_row(event, tcp_states(), TCP_STATES, TCP_INITIALS, row);
            }
        }
    }

    #[test]
    fn sctp_transitions_are_the_input_only_table() {
        for (event, row) in [
            (Event::SCTP_DATA, "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL"),
            (Event::SCTP_INIT, "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN"),
            (Event::SCTP_INIT_ACK, "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL"),
            (Event::SCTP_COOKIE_ECHO, "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL"),
            (Event::SCTP_COOKIE_ACK, "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL"),
            (Event::SCTP_SHUTDOWN, "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL"),
            (Event::SCTP_SHUTDOWN_ACK, "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL"),
            (Event::SCTP_SHUTDOWN_COMPLETE, "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL"),
            (Event::SCTP_ERROR, "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
            (Event::SCTP_ABORT, "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL"),
            (Event::SCTP_COOKIE_ABORT, "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL"),
        ] {
            assert_row(event, sctp_states(), SCTP_STATES, SCTP_INITIALS, row);
        }
    }

    #[test]
    fn strongest_tcp_flag_decides_whatever_the_others() {
        for flags in 0..=255_u8 {
            let strongest =
                [tcp::RST, tcp::SYN, tcp::FIN, tcp::ACK].into_iter().find(|flag| flags & flag != 0);
            for is_secure in [false, true] {
                let event = Event::tcp(flags, is_secure);
                for state in tcp_states() {
                    assert_eq!(
                        state.after(event),
                        state.after(Event::tcp(strongest.unwrap_or_default(), is_secure))
                    );
                }
            }
        }
    }

    #[test]
    fn events_leave_other_protocols_states_alone() {
        for event in Event::all() {
            let protocols = [tcp_states(), &[Udp], sctp_states()];
            let moved: Vec<_> = protocols
                .iter()
                .map(|states| states.iter().any(|state| state.after(event) != *state))
                .collect();
            assert!(moved.iter().filter(|moved| **moved).count() <= 1, "{event:?} {moved:?}");
            assert_eq!(Free.after(event), Free);
            assert_eq!(Udp.after(event), Udp);
        }
    }

    #[test]
    fn first_states_are_those_of_a_connection_that_was_none() {
        let syn = Event::tcp(tcp::SYN, false);
        assert_eq!(ConnectionState::first(Protocol::TCP, syn), SynReceived);
        assert_eq!(ConnectionState::first(Protocol::TCP, Event::tcp(tcp::SYN, true)), SynAck);
        assert_eq!(ConnectionState::first(Protocol::UDP, Event::UDP), Udp);
        assert_eq!(ConnectionState::first(Protocol::SCTP, Event::SCTP_INIT), SctpInit1);
        assert_eq!(ConnectionState::first(Protocol::SCTP, Event::SCTP_DATA), SctpEstablished);
    }

    #[test]
    fn timeouts_are_ipvs_defaults_and_any_can_be_set() {
        let seconds = |timeouts: &StateTimeouts| {
            ConnectionState::ALL
                .iter()
                .map(|state| timeouts.ticks(*state) / TICKS_PER_SECOND)
                .collect::<Vec<_>>()
        };
        let ipvs = [
            2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300, 2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61,
            61, 4, 61,
        ];
        assert_eq!(seconds(&StateTimeouts::IPVS), ipvs);
        assert_eq!(seconds(&StateTimeouts::from_seconds([])), ipvs);
        let own: Vec<u32> = (1..=26).collect();
        assert_eq!(seconds(&StateTimeouts::from_seconds(own.iter().copied())), own);
    }

    #[test]
    fn active_states_are_those_that_ipvs_counts() {
        let active: Vec<_> = ConnectionState::ALL.iter().copied().filter(|state| state.is_active()).collect();
        assert_eq!(active, [Established, SynSent, SynReceived, SynAck, SctpEstablished]);
    }

    #[test]
    fn states_that_are_over_follow_the_bits_of_conn_reuse_mode() {
        for (mode, over) in [
            (0, &[][..]),
            (1, &[TimeWait, Close, SctpClosed]),
            (2, &[FinWait, TimeWait, Close, SctpClosed]),
            (3, &[FinWait, TimeWait, Close, SctpClosed]),
        ] {
            let found: Vec<_> =
                ConnectionState::ALL.iter().copied().filter(|state| state.is_over(mode)).collect();
            assert_eq!(found, over, "{mode}");
        }
    }
}
