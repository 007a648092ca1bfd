//! A command line that was understood: what it names and asks for, in ipvsadm's terms. All of ipvsadm's, whether the
//! director can do it or not.

use std::net::{IpAddr, Ipv4Addr};

use scheduler::SchedulerFlags;

pub use crate::config::Family;
use crate::config::{self, Protocol};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for its option")]
pub enum Action {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
}

impl Action {
    /// The name in ipvsadm's messages.
    pub fn name(self) -> &'static str {
        match self {
            Action::AddService => "add-service",
            Action::EditService => "edit-service",
            Action::DeleteService => "delete-service",
            Action::Clear => "flush",
            Action::List => "list",
            Action::AddServer => "add-server",
            Action::DeleteServer => "delete-server",
            Action::EditServer => "edit-server",
            Action::SetTimeouts => "set",
            Action::StartDaemon => "start-daemon",
            Action::StopDaemon => "stop-daemon",
            Action::Restore => "restore",
            Action::Save => "save",
            Action::Zero => "zero",
        }
    }
}

/// What persistent clients are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netmask {
    /// Of an IPv4 service; any bits.
    V4(Ipv4Addr),
    /// Of an IPv6 service: a prefix length, 1 to 128.
    V6(u8),
}

impl Netmask {
    /// Every client for itself.
    pub fn whole(family: Family) -> Netmask {
        match family {
            Family::V4 => Netmask::V4(Ipv4Addr::BROADCAST),
            Family::V6 => Netmask::V6(128),
        }
    }
}

/// A virtual service with the attributes that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// None until the command line names the service.
    pub family: Option<Family>,
    /// TCP for a firewall mark, where it means nothing; none until the command line names the service.
    pub protocol: Option<Protocol>,
    /// VIP; 0.0.0.0 for a firewall mark.
    pub address: IpAddr,
    /// VIP's port, 0 where none was given.
    pub port: u16,
    /// Firewall mark, 0 for none.
    pub fwmark: u32,
    /// At most 15 characters, as the kernel has it; empty where none was given.
    pub scheduler: String,
    /// Seconds.
    pub persistence: Option<u32>,
    /// What `-M` said, or all of the address.
    pub netmask: Netmask,
    /// Persistence engine, at most 16 characters; empty for none.
    pub engine: String,
    /// `-o`.
    pub one_packet: bool,
    /// `-b`.
    pub flags: SchedulerFlags,
}

impl Default for Service {
    fn default() -> Self {
        Service {
            family: None,
            protocol: None,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            fwmark: 0,
            scheduler: String::new(),
            persistence: None,
            netmask: Netmask::whole(Family::V4),
            engine: String::new(),
            one_packet: false,
            flags: SchedulerFlags::default(),
        }
    }
}

/// Checksums of a tunnel's outer header. The flags add up, as in ipvsadm, where only one of them is legal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for its option")]
pub enum Checksum {
    #[default]
    None,
    Plain,
    Remote,
}

/// Encapsulation of `-i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is its name")]
pub enum TunnelType {
    #[default]
    Ipip,
    Gue,
    Gre,
}

impl TunnelType {
    /// ipvsadm's name.
    pub fn name(self) -> &'static str {
        match self {
            TunnelType::Ipip => "ipip",
            TunnelType::Gue => "gue",
            TunnelType::Gre => "gre",
        }
    }
}

/// How `-i` encapsulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// `--tun-type`.
    pub kind: TunnelType,
    /// `--tun-port`, 0 for none.
    pub port: u16,
    /// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
    pub checksum: Checksum,
}

impl From<config::TunnelConfig> for Tunnel {
    fn from(tunnel: config::TunnelConfig) -> Tunnel {
        Tunnel {
            kind: match tunnel.kind {
                config::TunnelType::Ipip => TunnelType::Ipip,
                config::TunnelType::Gre => TunnelType::Gre,
                config::TunnelType::Gue => TunnelType::Gue,
            },
            port: tunnel.port.unwrap_or_default(),
            checksum: match tunnel.checksum {
                config::TunnelChecksum::None => Checksum::None,
                config::TunnelChecksum::Csum => Checksum::Plain,
                config::TunnelChecksum::Remcsum => Checksum::Remote,
            },
        }
    }
}

impl From<Tunnel> for config::TunnelConfig {
    fn from(tunnel: Tunnel) -> config::TunnelConfig {
        config::TunnelConfig {
            kind: match tunnel.kind {
                TunnelType::Ipip => config::TunnelType::Ipip,
                TunnelType::Gre => config::TunnelType::Gre,
                TunnelType::Gue => config::TunnelType::Gue,
            },
            port: Some(tunnel.port).filter(|port| *port != 0),
            checksum: match tunnel.checksum {
                Checksum::None => config::TunnelChecksum::None,
                Checksum::Plain => config::TunnelChecksum::Csum,
                Checksum::Remote => config::TunnelChecksum::Remcsum,
            },
        }
    }
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// `-m`.
    Masquerading,
    /// The director itself.
    Local,
    /// `-i`.
    Tunnel(Tunnel),
    /// `-g`.
    DirectRouting,
}

impl Forwarding {
    /// That of a real server. ipvsadm's name of full NAT is NAT's.
    pub fn of(forwarding: config::Forwarding, tunnel: Option<config::TunnelConfig>) -> Forwarding {
        match forwarding {
            config::Forwarding::Dr => Forwarding::DirectRouting,
            config::Forwarding::Tunnel => Forwarding::Tunnel(tunnel.unwrap_or_default().into()),
            config::Forwarding::Nat | config::Forwarding::FullNat => Forwarding::Masquerading,
        }
    }
}

/// A real server with the attributes that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// RIP.
    pub address: IpAddr,
    /// Its port, the service's where none was given.
    pub port: u16,
    /// `-g`, `-i`, `-m`.
    pub forwarding: Forwarding,
    /// 0 to 2147483647.
    pub weight: u32,
    /// `-x`.
    pub upper_threshold: u32,
    /// `-y`.
    pub lower_threshold: u32,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            forwarding: Forwarding::DirectRouting,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}

/// The option names of ipvsadm's messages, in the order in which it checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named for its name in messages")]
pub enum Opt {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forwarding,
    Weight,
    UpperThreshold,
    LowerThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    OnePacket,
    PersistenceEngine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
}

impl Opt {
    /// Each with its name.
    pub const ALL: [(Opt, &'static str); 34] = [
        (Opt::Numeric, "numeric"),
        (Opt::Connection, "connection"),
        (Opt::Service, "service-address"),
        (Opt::Scheduler, "scheduler"),
        (Opt::Persistent, "persistent"),
        (Opt::Netmask, "netmask"),
        (Opt::Server, "real-server"),
        (Opt::Forwarding, "forwarding-method"),
        (Opt::Weight, "weight"),
        (Opt::UpperThreshold, "u-threshold"),
        (Opt::LowerThreshold, "l-threshold"),
        (Opt::McastInterface, "mcast-interface"),
        (Opt::Timeout, "timeout"),
        (Opt::Daemon, "daemon"),
        (Opt::Stats, "stats"),
        (Opt::Rate, "rate"),
        (Opt::Thresholds, "thresholds"),
        (Opt::PersistentConn, "persistent-conn"),
        (Opt::NoSort, "nosort"),
        (Opt::SyncId, "syncid"),
        (Opt::Exact, "exact"),
        (Opt::OnePacket, "ops"),
        (Opt::PersistenceEngine, "pe"),
        (Opt::SchedulerFlags, "sched-flags"),
        (Opt::McastGroup, "mcast-group"),
        (Opt::McastPort, "mcast-port"),
        (Opt::McastTtl, "mcast-ttl"),
        (Opt::SyncMaxlen, "sync-maxlen"),
        (Opt::TunInfo, "tun-info"),
        (Opt::TunType, "tun-type"),
        (Opt::TunPort, "tun-port"),
        (Opt::TunNocsum, "tun-nocsum"),
        (Opt::TunCsum, "tun-csum"),
        (Opt::TunRemcsum, "tun-remcsum"),
    ];

    /// The name in ipvsadm's messages.
    pub fn name(self) -> &'static str {
        Opt::ALL[self as usize].1
    }
}

/// The options that were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given(u64);

impl Given {
    /// Notes one; false where it was given before.
    pub fn insert(&mut self, option: Opt) -> bool {
        let is_new = !self.has(option);
        self.0 |= 1 << option as u64;
        is_new
    }

    /// Whether it was given.
    pub fn has(self, option: Opt) -> bool {
        self.0 & 1 << option as u64 != 0
    }

    /// Whether one of them was given.
    pub fn has_any(self, options: &[Opt]) -> bool {
        options.iter().any(|option| self.has(*option))
    }
}

/// A whole command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// What to do.
    pub action: Action,
    /// What was given.
    pub given: Given,
    /// The service that it names.
    pub service: Service,
    /// The real server that it names.
    pub server: Server,
    /// tcp, tcpfin and udp of `--set`, in seconds; 0 leaves one as it is.
    pub timeouts: [u32; 3],
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `-h`.
    Help,
    /// `-v`.
    Version,
    /// Anything else.
    Command(Box<CommandLine>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_in_the_table_at_their_number() {
        for (index, (option, name)) in Opt::ALL.into_iter().enumerate() {
            assert_eq!(option as usize, index);
            assert_eq!(option.name(), name);
        }
    }
}
