//! The names of the schedulers, and the settings of one service's scheduler.

use std::fmt;
use std::str::FromStr;

/// A scheduling algorithm, by LVS's name (`ipvsadm -s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Round robin: the next RS of the list, weights only say whether it takes part.
    Rr,
    /// Weighted round robin: shares exactly in proportion to the weights, interleaved.
    Wrr,
    /// Least connection: the RS with the least overhead, weights only say whether it takes part.
    Lc,
    /// Weighted least connection: the RS with the least overhead for its weight; LVS's default.
    #[default]
    Wlc,
    /// Locality-based least connection: the RS that last served the destination address, while it is not overloaded.
    Lblc,
    /// The same with replication: the least loaded of several RSs that serve the destination address.
    Lblcr,
    /// Destination hashing: the RS by the destination address, weights only say whether it takes part.
    Dh,
    /// Source hashing: the RS by the client's address.
    Sh,
    /// Shortest expected delay: the RS with the least active connections, this one included, for its weight.
    Sed,
    /// Never queue: an RS without an active connection if there is one, else as `Sed`.
    Nq,
    /// Weighted failover: all to the heaviest RS that is there.
    Fo,
    /// Overflow: all to the heaviest RS whose active connections are not above its weight.
    Ovf,
    /// Maglev hashing: the RS by the client's address, and few clients move when an RS goes.
    Mh,
    /// Power of two choices: the less loaded of two RSs at random.
    Twos,
}

impl Algorithm {
    /// Every algorithm that this crate knows: IPVS's fourteen.
    pub const ALL: [Algorithm; 14] = [
        Algorithm::Rr,
        Algorithm::Wrr,
        Algorithm::Lc,
        Algorithm::Wlc,
        Algorithm::Lblc,
        Algorithm::Lblcr,
        Algorithm::Dh,
        Algorithm::Sh,
        Algorithm::Sed,
        Algorithm::Nq,
        Algorithm::Fo,
        Algorithm::Ovf,
        Algorithm::Mh,
        Algorithm::Twos,
    ];

    /// LVS's name, as `ipvsadm -s` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Rr => "rr",
            Algorithm::Wrr => "wrr",
            Algorithm::Lc => "lc",
            Algorithm::Wlc => "wlc",
            Algorithm::Lblc => "lblc",
            Algorithm::Lblcr => "lblcr",
            Algorithm::Dh => "dh",
            Algorithm::Sh => "sh",
            Algorithm::Sed => "sed",
            Algorithm::Nq => "nq",
            Algorithm::Fo => "fo",
            Algorithm::Ovf => "ovf",
            Algorithm::Mh => "mh",
            Algorithm::Twos => "twos",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// Reads LVS's name, in lower case as LVS has it.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        known.ok_or_else(|| UnknownAlgorithm { name: name.to_owned() })
    }
}

/// A name that is no scheduler's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no known scheduler; known are {}", Algorithm::ALL.map(Algorithm::name).join(", "))]
pub struct UnknownAlgorithm {
    /// The name as it was given.
    pub name: String,
}

/// Flags of a scheduler (`ipvsadm -b`): flag-1 to flag-3, of which `sh` and `mh` give names to the first two. Other
/// schedulers ignore them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags {
    /// flag-1, `sh-fallback`, `mh-fallback`: another RS stands in for one that takes no connections.
    pub fallback: bool,
    /// flag-2, `sh-port`, `mh-port`: the client's port is hashed too.
    pub port: bool,
    /// flag-3: no scheduler of IPVS has a use for it.
    pub flag_3: bool,
}

/// The settings of one service's scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The algorithm (`ipvsadm -s`).
    pub algorithm: Algorithm,
    /// Its flags (`ipvsadm -b`).
    pub flags: SchedulerFlags,
    /// Beyond IPVS: how long a newcomer's share rises under `lc`, `wlc` and `sed`, from its
    /// [`joined_seconds`](crate::RealServer::joined_seconds) on. 0: off.
    pub slow_start_seconds: u32,
    /// How long `lblc` and `lblcr` remember a destination that nobody asks for, and how long `lblcr` leaves a set of
    /// RSs alone (`net.ipv4.vs.lblc_expiration`, `lblcr_expiration`).
    pub lblc_expiration_seconds: u32,
}

impl Default for SchedulerConfig {
    /// IPVS's: `wlc` without flags or slow start, destinations remembered for a day.
    fn default() -> Self {
        SchedulerConfig {
            algorithm: Algorithm::default(),
            flags: SchedulerFlags::default(),
            slow_start_seconds: 0,
            lblc_expiration_seconds: 24 * 60 * 60,
        }
    }
}
