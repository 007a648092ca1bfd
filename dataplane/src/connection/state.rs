//! IPVS's connection states as direct routing sees them: packets of the client only (`INPUT-ONLY` of
//! `ip_vs_proto_tcp.c`), each state with its timeout.

use zerocopy::FromZeros;

use crate::clock::TICKS_PER_SECOND;
use crate::packet::tcp::{ACK, FIN, RST, SYN};

/// State of an entry of the connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
#[repr(u8)]
pub enum ConnectionState {
    /// The entry holds no connection.
    #[default]
    Free = 0,
    /// TCP, before its first packet was judged.
    None,
    /// TCP.
    Established,
    /// TCP.
    SynSent,
    /// TCP.
    SynReceived,
    /// TCP.
    FinWait,
    /// TCP.
    TimeWait,
    /// TCP.
    Close,
    /// TCP.
    CloseWait,
    /// TCP.
    LastAck,
    /// TCP.
    Listen,
    /// TCP.
    SynAck,
    /// UDP has one state.
    Udp,
}

use ConnectionState::*;

const STATES: usize = Udp as usize + 1;

/// Seconds without a packet after which a connection is gone, by state (`tcp_timeouts`, `udp_timeouts`).
const TIMEOUT_SECONDS: [u32; STATES] = [0, 2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300];

/// What a TCP packet does to a state, by its strongest flag: RST over SYN over FIN over ACK.
/// Columns: Free None ES SS SR FW TW CL CW LA LI SA Udp.
const ON_SYN: [ConnectionState; STATES] = [
    SynReceived,
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
    Udp,
];
const ON_FIN: [ConnectionState; STATES] = [
    Close, Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait,
    Udp,
];
const ON_ACK: [ConnectionState; STATES] = [
    Established,
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
    Udp,
];
const ON_RST: [ConnectionState; STATES] =
    [Close, Close, Close, Close, SynReceived, Close, Close, Close, Close, LastAck, Listen, Close, Udp];

/// What a packet with none of the four flags does (`tcp_state_idx` < 0): the state becomes CLOSE.
const ON_NOTHING: [ConnectionState; STATES] = {
    let mut states = [Close; STATES];
    states[Udp as usize] = Udp;
    states
};

/// By the flags' five low bits (ACK, PSH, RST, SYN, FIN) and the state.
static TRANSITIONS: [[ConnectionState; STATES]; 32] = {
    let mut table = [ON_NOTHING; 32];
    let mut flags = 0;
    while flags < 32 {
        table[flags] = if flags & RST as usize != 0 {
            ON_RST
        } else if flags & SYN as usize != 0 {
            ON_SYN
        } else if flags & FIN as usize != 0 {
            ON_FIN
        } else if flags & ACK as usize != 0 {
            ON_ACK
        } else {
            ON_NOTHING
        };
        flags += 1;
    }
    table
};

impl ConnectionState {
    /// The state after a TCP packet with `flags` of the client. UDP stays what it is.
    #[inline(always)]
    pub fn after(self, flags: u8) -> ConnectionState {
        TRANSITIONS[usize::from(flags % 32)][self as usize]
    }

    /// Ticks without a packet after which the connection is gone.
    #[inline(always)]
    pub fn timeout_ticks(self) -> u32 {
        TIMEOUT_SECONDS[self as usize] * TICKS_PER_SECOND
    }

    /// IPVS counts the connection as active (`tcp_state_active_table`).
    #[inline(always)]
    pub fn is_active(self) -> bool {
        const ACTIVE: u32 =
            1 << Established as u32 | 1 << SynSent as u32 | 1 << SynReceived as u32 | 1 << SynAck as u32;
        ACTIVE >> self as u32 & 1 != 0
    }

    /// A SYN in this state is a new connection on an old tuple (`is_new_conn_expected` with `conn_reuse_mode` 1).
    #[inline(always)]
    pub fn is_over(self) -> bool {
        matches!(self, TimeWait | Close)
    }

    /// As `ipvsadm -Lc` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Free | None => "NONE",
            Established => "ESTABLISHED",
            SynSent => "SYN_SENT",
            SynReceived => "SYN_RECV",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            Listen => "LISTEN",
            SynAck => "SYNACK",
            Udp => "UDP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP_STATES: [ConnectionState; 11] = [
        None,
        Established,
        SynSent,
        SynReceived,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        Listen,
        SynAck,
    ];

    /// The rows of reference/ipvs.md section 3.3, INPUT-ONLY, as printed there.
    #[test]
    fn transitions_are_the_input_only_table() {
        for (flags, row) in [
            (SYN, "SR ES ES SR SR SR SR SR SR SR SR"),
            (FIN, "CL FW SS TW FW TW CL CW LA LI TW"),
            (ACK, "ES ES SS ES FW TW CL CW CL LI ES"),
            (RST, "CL CL CL SR CL CL CL CL LA LI CL"),
            (0, "CL CL CL CL CL CL CL CL CL CL CL"),
        ] {
            for (state, expected) in TCP_STATES.into_iter().zip(row.split(' ')) {
                let initials = match state.after(flags) {
                    Established => "ES",
                    SynSent => "SS",
                    SynReceived => "SR",
                    FinWait => "FW",
                    TimeWait => "TW",
                    Close => "CL",
                    CloseWait => "CW",
                    LastAck => "LA",
                    Listen => "LI",
                    SynAck => "SA",
                    None | Free | Udp => "?",
                };
                assert_eq!(initials, expected, "{state:?} and flags {flags:#x}");
            }
        }
    }

    #[test]
    fn strongest_flag_decides_whatever_the_others() {
        for flags in 0..=255_u8 {
            let strongest =
                [RST, SYN, FIN, ACK].into_iter().find(|flag| flags & flag != 0).unwrap_or_default();
            for state in TCP_STATES {
                assert_eq!(state.after(flags), state.after(strongest));
            }
            assert_eq!(Udp.after(flags), Udp);
        }
    }

    #[test]
    fn timeouts_are_ipvs_defaults() {
        let seconds = |state: ConnectionState| state.timeout_ticks() / TICKS_PER_SECOND;
        assert_eq!(TCP_STATES.map(seconds), [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120]);
        assert_eq!(seconds(Udp), 300);
    }

    #[test]
    fn active_states_are_those_that_ipvs_counts() {
        assert_eq!(
            TCP_STATES.into_iter().filter(|state| state.is_active()).collect::<Vec<_>>(),
            [Established, SynSent, SynReceived, SynAck]
        );
        assert!(!Udp.is_active());
    }
}
