//! Verbs that add and change services, groups and their members; how a service is named.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use ctl::config::{
    Family, GroupName, Netmask, Persistence, PersistenceEngine, Protocol, ServiceConfig, ServiceId,
    VirtualAddress,
};
use ctl::protocol::{Command, OneMember, OneService, PersistenceChange, SetVip};
use ctl::validate::{FWMARK, PREFIX_LENGTH, SLOW_START_SECONDS, TIMEOUT_SECONDS};
use scheduler::Algorithm;

use super::values::{
    PROTOCOLS, StateTimeout, engine, family, flags_named, member, netmask, number, protocol, protocol_named,
    scheduler, scheduler_flag, seconds, timeouts, vip_and_port,
};

/// A service: `tcp 192.0.2.10:80` or `group web`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceArguments {
    pub(super) id: ServiceId,
}

/// A service, or all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilterArguments {
    pub(super) id: Option<ServiceId>,
}

/// Two words whose meanings hang together, which clap's derive cannot say.
fn name_arguments(command: clap::Command, is_required: bool) -> clap::Command {
    let kinds = PROTOCOLS.map(|(name, _)| name).into_iter().chain(["group"]);
    let only = if is_required { "" } else { "Only of this service: its " };
    let (kind, name) = if is_required {
        ("Protocol of the service", "VIP and port of the service")
    } else {
        ("protocol", "VIP and port")
    };
    let kind = Arg::new("protocol")
        .value_name("PROTOCOL")
        .required(is_required)
        .value_parser(PossibleValuesParser::new(kinds))
        .help(format!("{only}{kind}, or `group`"));
    let name = Arg::new("name")
        .value_name("VIP:PORT|NAME")
        .required(is_required)
        .help(format!("{only}{name}, such as 192.0.2.10:80 or [2001:db8::10]:80, or the name of the group"));
    // Clap wants what a positional argument requires to be defined.
    let kind = if is_required { kind } else { kind.requires("name") };
    command.arg(kind).arg(name)
}

fn named(matches: &ArgMatches) -> Result<Option<ServiceId>, clap::Error> {
    let text = |id: &str| matches.get_one::<String>(id).map(String::as_str);
    let Some((kind, name)) = text("protocol").zip(text("name")) else { return Ok(None) };
    let id = match protocol_named(kind) {
        Some(protocol) => vip_and_port(name).map(|vip| ServiceId::new(protocol, vip.ip(), vip.port())),
        None => name.parse().map(ServiceId::Group),
    };
    id.map(Some)
        .map_err(|message| invalid(format!("invalid value '{name}' for '<VIP:PORT|NAME>': {message}")))
}

fn invalid(message: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, message)
}

impl Args for ServiceArguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        name_arguments(command, true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServiceArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let id = named(matches)?.ok_or_else(|| clap::Error::new(ErrorKind::MissingRequiredArgument))?;
        Ok(ServiceArguments { id })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for FilterArguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        name_arguments(command, false)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for FilterArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(FilterArguments { id: named(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct AddVipArguments {
    /// Protocol of the service
    #[arg(value_parser = protocol())]
    protocol: Protocol,
    /// VIP and port of the service, such as 192.0.2.10:80 or [2001:db8::10]:80; port 0 is every port (with
    /// --persistent)
    #[arg(value_name = "VIP:PORT", value_parser = vip_and_port)]
    vip: SocketAddr,
    #[command(flatten)]
    options: NewServiceOptions,
}

#[derive(Debug, Args)]
pub(crate) struct AddGroupArguments {
    /// Name of the group: 1 to 31 letters, digits, `-`, `_` or `.`
    #[arg(value_name = "NAME")]
    group: GroupName,
    /// A VIP and port of the group, such as tcp:192.0.2.10:80 or tcp:[2001:db8::10]:80; may be given several times
    #[arg(long = "member", value_name = "PROTOCOL:VIP:PORT", value_parser = member)]
    members: Vec<VirtualAddress>,
    /// Number by which `ipvsadm -f` knows the group, 1 to 4294967295
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = number(FWMARK))]
    fwmark: Option<u32>,
    /// Family of the group's members; without it that of the first one, ipv4 where there is none
    #[arg(long, value_name = "FAMILY", value_parser = family())]
    family: Option<Family>,
    #[command(flatten)]
    options: NewServiceOptions,
}

#[derive(Debug, Args)]
struct NewServiceOptions {
    /// How a real server is picked for a new connection
    #[arg(long, default_value = Algorithm::default().name(), value_parser = scheduler())]
    scheduler: Algorithm,
    #[command(flatten)]
    common: ServiceOptions,
}

/// What new services and changes say alike.
#[derive(Debug, Args)]
struct ServiceOptions {
    /// Flags of the scheduler, with commas between
    #[arg(long, value_name = "FLAGS", value_delimiter = ',', value_parser = scheduler_flag())]
    scheduler_flags: Option<Vec<String>>,
    /// Time over which a newcomer gets its full share (lc, wlc, sed), up to 1d; 0: at once
    #[arg(long, value_name = "TIME", value_parser = seconds(SLOW_START_SECONDS))]
    slow_start: Option<u32>,
    /// A client stays with its real server, for this time after its last new connection
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "360",
        value_parser = seconds(TIMEOUT_SECONDS)
    )]
    persistent: Option<u32>,
    /// IPv4 clients that are one under this mask stay together, such as 255.255.255.0
    #[arg(long, value_name = "MASK", requires = "persistent", value_parser = netmask)]
    netmask: Option<Ipv4Addr>,
    /// IPv6 clients whose addresses begin with the same so many bits stay together, 1 to 128
    #[arg(
        long,
        value_name = "LENGTH",
        requires = "persistent",
        conflicts_with = "netmask",
        allow_hyphen_values = true,
        value_parser = number(PREFIX_LENGTH)
    )]
    prefix_length: Option<u8>,
    /// What a client is known by, instead of its address: sip is SIP's Call-ID, over UDP
    #[arg(long, value_name = "ENGINE", requires = "persistent", value_parser = engine())]
    persistence_engine: Option<PersistenceEngine>,
    /// Schedule each UDP packet for itself
    #[arg(long)]
    one_packet: bool,
    /// Timeout of a state for this service, such as tcp_established=3600 or udp=30s; with commas between, or given
    /// several times
    #[arg(long, value_name = "STATE=TIME", value_delimiter = ',')]
    timeout: Vec<StateTimeout>,
}

#[derive(Debug, Args)]
pub(crate) struct SetVipArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// How a real server is picked for a new connection
    #[arg(long, value_parser = scheduler())]
    scheduler: Option<Algorithm>,
    #[command(flatten)]
    common: ServiceOptions,
    /// Clients stay with no real server any more
    #[arg(long, conflicts_with = "persistent")]
    no_persistent: bool,
    /// Keep connections again
    #[arg(long, conflicts_with = "one_packet")]
    no_one_packet: bool,
    /// Number by which `ipvsadm -f` knows the group; 0: none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, value_parser = number(0..=u32::MAX))]
    fwmark: Option<u32>,
}

/// Of which `set-vip` needs one.
pub(super) const SERVICE_CHANGES: [&str; 9] = [
    "scheduler",
    "scheduler_flags",
    "slow_start",
    "persistent",
    "no_persistent",
    "one_packet",
    "no_one_packet",
    "timeout",
    "fwmark",
];

#[derive(Debug, Args)]
pub(crate) struct MemberArguments {
    /// Name of the group
    #[arg(value_name = "NAME")]
    group: GroupName,
    /// The VIP and port, such as tcp:192.0.2.10:80 or tcp:[2001:db8::10]:80
    #[arg(value_name = "PROTOCOL:VIP:PORT", value_parser = member)]
    member: VirtualAddress,
}

/// All that follows is for ipvsadm's own reader.
#[derive(Debug, Args)]
pub(crate) struct IpvsadmArguments {
    /// ipvsadm's arguments
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<OsString>,
}

impl ServiceArguments {
    pub(crate) fn del_command(&self) -> Command {
        Command::DelVip(OneService { service: self.id })
    }
}

impl NewServiceOptions {
    fn service(&self, id: ServiceId) -> Result<ServiceConfig, String> {
        let common = &self.common;
        let names = common.scheduler_flags.as_deref().unwrap_or_default();
        Ok(ServiceConfig {
            scheduler: self.scheduler,
            scheduler_flags: flags_named(names, Some(self.scheduler))?,
            slow_start_seconds: common.slow_start.unwrap_or_default(),
            persistence: common.persistence(),
            one_packet: common.one_packet,
            timeouts: timeouts(&common.timeout)?,
            ..ServiceConfig::new(id)
        })
    }
}

impl ServiceOptions {
    fn persistence(&self) -> Option<Persistence> {
        self.persistent.map(|timeout_seconds| Persistence {
            timeout_seconds,
            netmask: match (self.netmask, self.prefix_length) {
                (Some(mask), _) => Netmask::ipv4(mask),
                (None, Some(length)) => Netmask::ipv6(length),
                (None, None) => Netmask::Host,
            },
            engine: self.persistence_engine,
        })
    }
}

impl AddVipArguments {
    pub(crate) fn command(&self) -> Result<Command, String> {
        let id = ServiceId::new(self.protocol, self.vip.ip(), self.vip.port());
        self.options.service(id).map(Command::AddVip)
    }
}

impl AddGroupArguments {
    pub(crate) fn command(&self) -> Result<Command, String> {
        let service = self.options.service(ServiceId::Group(self.group))?;
        let first = self.members.first().map(|member| Family::of(member.address));
        Ok(Command::AddVip(ServiceConfig {
            members: self.members.clone(),
            group_family: self.family.or(first).unwrap_or_default(),
            fwmark: self.fwmark,
            ..service
        }))
    }
}

impl SetVipArguments {
    pub(crate) fn command(&self) -> Result<Command, String> {
        let common = &self.common;
        let flags = common.scheduler_flags.as_deref().map(|names| flags_named(names, self.scheduler));
        let off = self.no_persistent.then_some(PersistenceChange::Off);
        Ok(Command::SetVip(SetVip {
            service: self.service.id,
            scheduler: self.scheduler,
            scheduler_flags: flags.transpose()?,
            slow_start_seconds: common.slow_start,
            persistence: common.persistence().map(PersistenceChange::On).or(off),
            one_packet: (common.one_packet || self.no_one_packet).then_some(common.one_packet),
            timeouts: timeouts(&common.timeout)?,
            fwmark: self.fwmark,
        }))
    }
}

impl MemberArguments {
    pub(crate) fn query(&self) -> OneMember {
        OneMember { group: self.group, member: self.member }
    }
}
