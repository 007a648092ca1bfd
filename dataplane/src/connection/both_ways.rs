//! IPVS's connection states where the director sees both directions, as it does with NAT: the tables `INPUT`, for packets of
//! the client, and `OUTPUT`, for those of the real server, of `ip_vs_proto_tcp.c` and `ip_vs_proto_sctp.c`. Under `secure_tcp`
//! TCP has other rows for some events.

use super::event::Event;
use super::state::ConnectionState::{
    self, Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    None as NO, SynAck as SA, SynReceived as SR, SynSent as SS, TimeWait as TW,
};
use super::state::{NO_FLAG, Row, Table, sctp, table, tcp};
use crate::packet::tcp::{ACK, FIN, RST, SYN};
use crate::snapshot::Protocol;

// Columns: NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK.
const IN_SYN: Row = tcp([SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR]);
const IN_SYN_SECURE: Row = tcp([SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA]);
const IN_FIN: Row = tcp([CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW]);
const IN_FIN_SECURE: Row = tcp([CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA]);
const IN_ACK: Row = tcp([ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES]);
const IN_ACK_SECURE: Row = tcp([ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA]);
const IN_RST: Row = tcp([CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR]);
const IN_RST_SECURE: Row = tcp([CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL]);
const OUT_SYN: Row = tcp([SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR]);
const OUT_SYN_SECURE: Row = tcp([SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA]);
const OUT_FIN: Row = tcp([TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW]);
const OUT_ACK: Row = tcp([ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES]);
const OUT_RST: Row = tcp([CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL]);

/// SCTP's rows of both tables by event.
mod sctp_rows {
    use super::super::event::Event;
    use super::super::state::ConnectionState::{
        SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE, SctpCookieReplied as CR,
        SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES, SctpInit as IN, SctpInit1 as I1,
        SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
    };
    use super::{Row, sctp};

    // Columns: NONE, INIT1, INIT, C-SENT, C-REPLIED, C-WAIT, COOKIE, C-ECHOED, ESTABLISHED, S-SENT, S-RECEIVED, S-ACK-SENT,
    // REJECTED, CLOSED.
    pub(super) const INPUT: [(Event, Row); 11] = [
        (Event::SCTP_DATA, sctp([ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_INIT, sctp([I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN])),
        (Event::SCTP_INIT_ACK, sctp([CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_COOKIE_ECHO, sctp([CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_COOKIE_ACK, sctp([ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_SHUTDOWN, sctp([SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL])),
        (Event::SCTP_SHUTDOWN_ACK, sctp([CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL])),
        (Event::SCTP_SHUTDOWN_COMPLETE, sctp([CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL])),
        (Event::SCTP_ERROR, sctp([CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_ABORT, IN_ABORT),
        (Event::SCTP_COOKIE_ABORT, IN_ABORT),
    ];
    const IN_ABORT: Row = sctp([CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL]);
    pub(super) const OUTPUT: [(Event, Row); 11] = [
        (Event::SCTP_DATA, sctp([ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_INIT, sctp([CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW])),
        (Event::SCTP_INIT_ACK, sctp([CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_COOKIE_ECHO, sctp([CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_COOKIE_ACK, sctp([ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_SHUTDOWN, sctp([SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL])),
        (Event::SCTP_SHUTDOWN_ACK, sctp([SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL])),
        (Event::SCTP_SHUTDOWN_COMPLETE, sctp([CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_ERROR, sctp([CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL])),
        (Event::SCTP_ABORT, OUT_ABORT),
        (Event::SCTP_COOKIE_ABORT, OUT_ABORT),
    ];
    const OUT_ABORT: Row = sctp([CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL]);
}

static INPUT: Table = table(
    [
        (RST, IN_RST, IN_RST_SECURE),
        (SYN, IN_SYN, IN_SYN_SECURE),
        (FIN, IN_FIN, IN_FIN_SECURE),
        (ACK, IN_ACK, IN_ACK_SECURE),
        (0, NO_FLAG, NO_FLAG),
    ],
    sctp_rows::INPUT,
);
static OUTPUT: Table = table(
    [
        (RST, OUT_RST, OUT_RST),
        (SYN, OUT_SYN, OUT_SYN_SECURE),
        (FIN, OUT_FIN, OUT_FIN),
        (ACK, OUT_ACK, OUT_ACK),
        (0, NO_FLAG, NO_FLAG),
    ],
    sctp_rows::OUTPUT,
);

impl ConnectionState {
    /// The state of a connection seen both ways, whose first packet is this one of the client.
    pub fn first_both_ways(protocol: Protocol, event: Event) -> ConnectionState {
        ConnectionState::before_first(protocol).after_client(event)
    }

    /// The state of a connection seen both ways after a packet of the client.
    #[inline(always)]
    pub fn after_client(self, event: Event) -> ConnectionState {
        INPUT[event.index()][self as usize]
    }

    /// The state of a connection seen both ways after a packet of the real server.
    #[inline(always)]
    pub fn after_real_server(self, event: Event) -> ConnectionState {
        OUTPUT[event.index()][self as usize]
    }
}

const _: () = assert!(matches!(ConnectionState::before_first(Protocol::TCP), NO));

#[cfg(test)]
mod tests {
    use super::*;

    type After = fn(ConnectionState, Event) -> ConnectionState;

    /// Compares a row as it is printed with what `event` does to the states from place `first` of all, whose initials those are.
    fn assert_row(after: After, event: Event, first: usize, initials: &str, expected: &str) {
        let initials: Vec<_> = initials.split(' ').collect();
        let states = &ConnectionState::ALL[first..first + initials.len()];
        let row: Vec<_> = states
            .iter()
            .map(|state| initials[states.iter().position(|other| *other == after(*state, event)).unwrap()])
            .collect();
        assert_eq!(row.join(" "), expected, "{event:?}");
    }

    #[test]
    fn tcp_rows_are_those_of_both_tables() {
        let input: After = ConnectionState::after_client;
        let output: After = ConnectionState::after_real_server;
        const CLOSES: &str = "CL CL CL CL CL CL CL CL CL CL CL";
        for (after, flags, normal, secure) in [
            (input, SYN, "SR ES ES SR SR SR SR SR SR SR SR", "SR ES ES SR SR SR SR SR SR SR SA"),
            (input, FIN, "CL CW SS TW TW TW CL CW LA LI TW", "CL CW SS TW TW TW CL CW LA LI SA"),
            (input, ACK, "ES ES SS ES FW TW CL CW CL LI ES", "ES ES SS SR FW TW CL CW CL LI SA"),
            (input, RST, "CL CL CL SR CL CL CL CL LA LI SR", "CL CL CL SR CL CL CL CL LA LI CL"),
            (input, 0, CLOSES, CLOSES),
            (output, SYN, "SS ES SS SR SS SS SS SS SS LI SR", "SS ES SS SA SS SS SS SS SS LI SA"),
            (output, FIN, "TW FW SS TW FW TW CL TW LA LI TW", "TW FW SS TW FW TW CL TW LA LI TW"),
            (output, ACK, "ES ES SS ES FW TW CL CW LA ES ES", "ES ES SS ES FW TW CL CW LA ES ES"),
            (output, RST, "CL CL SS CL CL TW CL CL CL CL CL", "CL CL SS CL CL TW CL CL CL CL CL"),
            (output, 0, CLOSES, CLOSES),
        ] {
            for (event, row) in [(Event::tcp(flags, false), normal), (Event::tcp(flags, true), secure)] {
                assert_row(after, event, 0, "NO ES SS SR FW TW CL CW LA LI SA", row);
            }
        }
    }

    #[test]
    fn sctp_rows_are_those_of_both_tables() {
        let input: After = ConnectionState::after_client;
        let output: After = ConnectionState::after_real_server;
        for (event, rows) in [
            (Event::SCTP_DATA, ["ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL"; 2]),
            (
                Event::SCTP_INIT,
                ["I1 IN IN CS CR CW CO CE ES SS SR SA IN IN", "CW CW CW CW CW CW CW CW ES CW CW CW CW CW"],
            ),
            (
                Event::SCTP_INIT_ACK,
                ["CW CW CW CS CR CO CO CE ES SS SR SA RJ CL", "CS CS CS CS CR CW CO CE ES SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_COOKIE_ECHO,
                ["CR IN IN CR CR CW CO CE ES SS SR SA RJ CL", "CE CE CE CE CE CE CE CE ES SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_COOKIE_ACK,
                ["ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL", "ES ES ES ES ES ES ES ES ES SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_SHUTDOWN,
                ["SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL", "SS SS SS SS SS SS SS SS SS SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_SHUTDOWN_ACK,
                ["CL IN IN CS CR CW CO CE ES CL SR CL RJ CL", "SA SA SA SA SA CW CO CE ES SA SA SA RJ CL"],
            ),
            (
                Event::SCTP_SHUTDOWN_COMPLETE,
                ["CL CL CL CS CR CW CO CE ES SS SR CL RJ CL", "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_ERROR,
                ["CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL", "CL CL CL CL CL CW CO CE ES SS SR SA RJ CL"],
            ),
            (
                Event::SCTP_ABORT,
                ["CL CL CL CL CL RJ CL CL CL CL CL CL CL CL", "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL"],
            ),
            (
                Event::SCTP_COOKIE_ABORT,
                ["CL CL CL CL CL RJ CL CL CL CL CL CL CL CL", "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL"],
            ),
        ] {
            for (after, row) in [input, output].into_iter().zip(rows) {
                assert_row(after, event, 12, "NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL", row);
            }
        }
    }

    #[test]
    fn first_packets_state_is_by_the_clients_table() {
        for (protocol, event, state) in [
            (Protocol::TCP, Event::tcp(SYN, false), SR),
            (Protocol::TCP, Event::tcp(SYN, true), SR),
            (Protocol::TCP, Event::tcp(ACK, false), ES),
            (Protocol::UDP, Event::UDP, ConnectionState::Udp),
            (Protocol::SCTP, Event::SCTP_INIT, ConnectionState::SctpInit1),
        ] {
            assert_eq!(ConnectionState::first_both_ways(protocol, event), state);
        }
    }
}
