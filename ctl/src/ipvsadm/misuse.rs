//! What is wrong with a command line: ipvsadm's texts and exit codes. Nothing was asked of the daemon yet.

/// A command line that ipvsadm refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No command, or not at the front.
    #[error("Try `{program} -h' or '{program} --help' for more information.")]
    TryHelp {
        /// The name that the tool was called by.
        program: String,
    },
    /// An option at the end that wants an argument.
    #[error("{word}: missing argument")]
    MissingArgument {
        /// The word of the command line.
        word: String,
    },
    /// `--ops=1`.
    #[error("{word}: option does not take an argument")]
    UnwantedArgument {
        /// The word of the command line.
        word: String,
    },
    /// An option that there is none of.
    #[error("{word}: unknown option")]
    UnknownOption {
        /// The word of the command line.
        word: String,
    },
    /// A command after the command.
    #[error("invalid option `{0}'")]
    SecondCommand(String),
    /// A word that belongs to no option.
    #[error("unexpected argument {0}")]
    UnexpectedArgument(String),
    /// An option twice.
    #[error("multiple '{0}' options specified")]
    Multiple(&'static str),
    /// An option that the command needs.
    #[error("You need to supply the '{option}' option for the '{command}' command")]
    Missing {
        /// ipvsadm's name of it.
        option: &'static str,
        /// ipvsadm's name of it.
        command: &'static str,
    },
    /// An option that the command does not have.
    #[error("Illegal '{option}' option with the '{command}' command")]
    Illegal {
        /// ipvsadm's name of it.
        option: &'static str,
        /// ipvsadm's name of it.
        command: &'static str,
    },
    /// Two options of which one is too many.
    #[error("The option '{option}' conflicts with the '{other}' option in the '{command}' command")]
    Conflict {
        /// ipvsadm's name of it.
        option: &'static str,
        /// ipvsadm's name of it.
        other: &'static str,
        /// ipvsadm's name of it.
        command: &'static str,
    },
    /// An option that the tunnel type needs.
    #[error("You need to supply the '{option}' option for the '{tunnel}' tunnel type")]
    TunnelMissing {
        /// ipvsadm's name of it.
        option: &'static str,
        /// Its name.
        tunnel: &'static str,
    },
    /// An option that the tunnel type does not have.
    #[error("Illegal '{option}' option with the '{tunnel}' tunnel type")]
    TunnelIllegal {
        /// ipvsadm's name of it.
        option: &'static str,
        /// Its name.
        tunnel: &'static str,
    },
    /// Two tunnel options of which one is too many.
    #[error("The option '{option}' conflicts with the '{other}' option in the '{tunnel}' tunnel type")]
    TunnelConflict {
        /// ipvsadm's name of it.
        option: &'static str,
        /// ipvsadm's name of it.
        other: &'static str,
        /// Its name.
        tunnel: &'static str,
    },
    /// Listing formats that do not go with what is listed.
    #[error("options conflicts in the list command")]
    ListConflict,
    /// `-t`, `-u`, `--sctp-service`.
    #[error("illegal virtual server address[:port] specified")]
    ServiceAddress,
    /// `-r`.
    #[error("illegal real server address[:port] specified")]
    ServerAddress,
    /// `-f`.
    #[error("invalid fwmark value `{0}' specified")]
    Fwmark(String),
    /// `-p` and `--set`.
    #[error("invalid timeout value `{0}' specified")]
    Timeout(String),
    /// `--set`.
    #[error("--set option requires 3 timeout values")]
    ThreeTimeouts,
    /// `-M` of an IPv4 service.
    #[error("illegal virtual server persistent mask specified")]
    Netmask,
    /// `-M` of an IPv6 service.
    #[error("illegal ipv6 netmask specified")]
    Netmask6,
    /// `-6` where no `-f` is before it. The empty line after it is ipvsadm's.
    #[error("-6 used before -f\n")]
    Ipv6BeforeFwmark,
    /// `-b`: a name that there is none of.
    #[error("invalid scheduler flag `{0}'")]
    SchedulerFlag(String),
    /// `-b`: a name of another scheduler.
    #[error("incompatible scheduler flag `{0}'")]
    IncompatibleSchedulerFlag(String),
    /// `-w`.
    #[error("illegal weight specified")]
    Weight,
    /// `-x`.
    #[error("illegal u_threshold specified")]
    UpperThreshold,
    /// `-y`.
    #[error("illegal l_threshold specified")]
    LowerThreshold,
    /// `--tun-type`.
    #[error("illegal tunnel type specified")]
    TunnelType,
    /// `--tun-port`.
    #[error("illegal tunnel port specified")]
    TunnelPort,
    /// Tunnel options without `-i`.
    #[error("Tunnel options conflict with forward method")]
    TunnelWithoutMethod,
    /// IPv4 and IPv6 together without `-i`.
    #[error("Different address family is allowed only for tunneling servers")]
    Family,
    /// Port 0 without `-p`.
    #[error("Zero port specified for non-persistent service")]
    ZeroPort,
    /// `-o` of another protocol.
    #[error("One-Packet Scheduling is only for UDP virtual services")]
    OnePacket,
    /// `--start-daemon` of neither.
    #[error("illegal start-daemon parameter specified")]
    StartDaemon,
    /// `--stop-daemon` of neither.
    #[error("illegal start_daemon specified")]
    StopDaemon,
    /// `--syncid`.
    #[error("illegal syncid specified")]
    SyncId,
    /// `--sync-maxlen`.
    #[error("illegal sync-maxlen specified")]
    SyncMaxlen,
    /// `--mcast-group` without a colon.
    #[error("invalid IPv4 mcast-group `{0}'")]
    Group4(String),
    /// `--mcast-group` with a colon.
    #[error("invalid IPv6 mcast-group `{0}'")]
    Group6(String),
    /// `--mcast-port`.
    #[error("illegal mcast-port specified")]
    McastPort,
    /// `--mcast-ttl`.
    #[error("illegal mcast-ttl specified")]
    McastTtl,
}

impl Misuse {
    /// ipvsadm's exit code: what popt refuses is -1, what ipvsadm refuses is 2.
    pub fn exit_code(&self) -> i32 {
        match self {
            Misuse::TryHelp { .. }
            | Misuse::MissingArgument { .. }
            | Misuse::UnwantedArgument { .. }
            | Misuse::UnknownOption { .. } => 255,
            _ => 2,
        }
    }
}
