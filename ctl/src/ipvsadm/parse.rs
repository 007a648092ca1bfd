//! From words to a [`CommandLine`]: what each option means, in the order in which they stand, as ipvsadm reads them.
//! Some of it depends on that order: `-6` wants `-f` before it, `-M` is read by the family known so far, and `-r`
//! without a port takes the port that the service has so far.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use scheduler::SchedulerFlags;

use super::check::check;
use super::command::{
    Action, Asked, Checksum, CommandLine, Family, Forwarding, Given, Netmask, Opt, Server, Service, Tunnel,
    TunnelType,
};
use super::command_line::{Flag, Refused, Words};
use super::misuse::Misuse;
use super::number::{atoi, inet_aton, number};
use super::resolve::Names;
use crate::config::{Persistence, Protocol};

/// Longest timeout that ipvsadm takes: 31 days.
const TIMEOUT_SECONDS_MAX: i64 = 86_400 * 31;

/// Names in the kernel: `IP_VS_SCHEDNAME_MAXLEN` less its NUL, `IP_VS_PENAME_MAXLEN`.
const SCHEDULER_NAME_MAX: usize = 15;
const ENGINE_NAME_MAX: usize = 16;

/// What ipvsadm keeps of `-b`: a buffer of 128 less its NUL.
const SCHEDULER_FLAGS_MAX: usize = 127;

/// Reads a command line (without the program's name, which is `program`) and checks it.
///
/// # Errors
/// What ipvsadm refuses before it talks to the kernel.
pub fn parse(program: &str, words: &[String], names: &dyn Names) -> Result<Asked, Misuse> {
    let try_help = || Misuse::TryHelp { program: program.to_owned() };
    let mut words = Words::new(words);
    // The command comes first. Whatever is wrong with it, ipvsadm points to its help.
    let Some(Ok((flag, argument))) = words.next_flag() else { return Err(try_help()) };
    let action = match flag {
        Flag::Help => return Ok(Asked::Help),
        Flag::Version => return Ok(Asked::Version),
        flag => action_of(flag).ok_or_else(try_help)?,
    };
    let is_daemon_state = matches!(argument, Some("master" | "backup"));
    match action {
        Action::StartDaemon if !is_daemon_state => return Err(Misuse::StartDaemon),
        Action::StopDaemon if !is_daemon_state => return Err(Misuse::StopDaemon),
        _ => {}
    }
    let mut reader = Reader {
        command: CommandLine {
            action,
            given: Given::default(),
            service: Service::default(),
            server: Server::default(),
            timeouts: [0; 3],
        },
        tunnel: Tunnel::default(),
        scheduler_flags: "",
        names,
    };
    while let Some(next) = words.next_flag() {
        let word = || words.last_word().to_owned();
        let (flag, argument) = next.map_err(|refused| match refused {
            Refused::NoArgument => Misuse::MissingArgument { word: word() },
            Refused::UnwantedArgument => Misuse::UnwantedArgument { word: word() },
            Refused::UnknownOption => Misuse::UnknownOption { word: word() },
        })?;
        if action_of(flag).is_some() || matches!(flag, Flag::Help | Flag::Version) {
            return Err(Misuse::SecondCommand(word()));
        }
        reader.read(flag, argument)?;
    }
    let mut command = reader.finish(words.into_leftovers())?;
    check(&mut command)?;
    Ok(Asked::Command(Box::new(command)))
}

fn action_of(flag: Flag) -> Option<Action> {
    Some(match flag {
        Flag::AddService => Action::AddService,
        Flag::EditService => Action::EditService,
        Flag::DeleteService => Action::DeleteService,
        Flag::Clear => Action::Clear,
        Flag::List => Action::List,
        Flag::Zero => Action::Zero,
        Flag::AddServer => Action::AddServer,
        Flag::EditServer => Action::EditServer,
        Flag::DeleteServer => Action::DeleteServer,
        Flag::Set => Action::SetTimeouts,
        Flag::Restore => Action::Restore,
        Flag::Save => Action::Save,
        Flag::StartDaemon => Action::StartDaemon,
        Flag::StopDaemon => Action::StopDaemon,
        _ => return None,
    })
}

/// A command line while it is read.
struct Reader<'a> {
    command: CommandLine,
    tunnel: Tunnel,
    /// `-b`, which is read once the scheduler is known.
    scheduler_flags: &'a str,
    names: &'a dyn Names,
}

impl<'a> Reader<'a> {
    fn read(&mut self, flag: Flag, argument: Option<&'a str>) -> Result<(), Misuse> {
        let text = argument.unwrap_or_default();
        if let Some(option) = option_of(flag)
            && !self.command.given.insert(option)
        {
            return Err(Misuse::Multiple(option.name()));
        }
        let CommandLine { service, server, .. } = &mut self.command;
        match flag {
            Flag::TcpService => self.read_service(Protocol::Tcp, text)?,
            Flag::UdpService => self.read_service(Protocol::Udp, text)?,
            Flag::SctpService => self.read_service(Protocol::Sctp, text)?,
            Flag::FwmarkService => {
                let fwmark = number(text, 1, u32::MAX.into()).and_then(|mark| u32::try_from(mark).ok());
                service.fwmark = fwmark.ok_or_else(|| Misuse::Fwmark(text.to_owned()))?;
                service.family = Some(Family::V4);
                // By which ipvsadm looks up the names of the real servers' ports.
                service.protocol = Some(Protocol::Tcp);
            }
            Flag::Ipv6 => {
                if service.fwmark == 0 {
                    return Err(Misuse::Ipv6BeforeFwmark);
                }
                service.family = Some(Family::V6);
                service.netmask = Netmask::whole(Family::V6);
            }
            Flag::Scheduler => service.scheduler = cut(text, SCHEDULER_NAME_MAX).to_owned(),
            Flag::Persistent => {
                let seconds = argument.map(|text| timeout(text, 1)).transpose()?;
                service.persistence = Some(seconds.unwrap_or(Persistence::TIMEOUT_SECONDS));
            }
            Flag::Netmask => self.read_netmask(text)?,
            Flag::PersistenceEngine => service.engine = cut(text, ENGINE_NAME_MAX).to_owned(),
            Flag::Ops => service.one_packet = true,
            Flag::SchedulerFlags => self.scheduler_flags = cut(text, SCHEDULER_FLAGS_MAX),
            Flag::RealServer => {
                let place = read_address(text, service.protocol, self.names).ok_or(Misuse::ServerAddress)?;
                server.address = place.address;
                server.port = place.port.unwrap_or(service.port);
            }
            Flag::Masquerading => server.forwarding = Forwarding::Masquerading,
            Flag::Ipip => server.forwarding = Forwarding::Tunnel(Tunnel::default()),
            Flag::Gatewaying => server.forwarding = Forwarding::DirectRouting,
            Flag::Weight => server.weight = natural(text, Misuse::Weight)?,
            Flag::UpperThreshold => server.upper_threshold = natural(text, Misuse::UpperThreshold)?,
            Flag::LowerThreshold => server.lower_threshold = natural(text, Misuse::LowerThreshold)?,
            Flag::TunType => {
                self.tunnel.kind = match text {
                    "ipip" => TunnelType::Ipip,
                    "gue" => TunnelType::Gue,
                    "gre" => TunnelType::Gre,
                    _ => return Err(Misuse::TunnelType),
                }
            }
            Flag::TunPort => {
                let port = number(text, 1, 65_535).ok_or(Misuse::TunnelPort)?;
                self.tunnel.port = port as u16;
            }
            Flag::TunCsum => self.tunnel.checksum = Checksum::Plain,
            Flag::TunRemcsum => self.tunnel.checksum = Checksum::Remote,
            flag => check_sync_daemon(flag, text)?,
        }
        Ok(())
    }

    fn read_service(&mut self, protocol: Protocol, text: &str) -> Result<(), Misuse> {
        let place = read_address(text, Some(protocol), self.names).ok_or(Misuse::ServiceAddress)?;
        let service = &mut self.command.service;
        service.protocol = Some(protocol);
        service.address = place.address;
        service.family = Some(Family::of(place.address));
        service.port = place.port.unwrap_or(service.port);
        if place.address.is_ipv6() {
            service.netmask = Netmask::whole(Family::V6);
        }
        Ok(())
    }

    fn read_netmask(&mut self, text: &str) -> Result<(), Misuse> {
        let service = &mut self.command.service;
        if service.family == Some(Family::V6) {
            let prefix = u8::try_from(atoi(text)).ok().filter(|prefix| (1..=128).contains(prefix));
            service.netmask = Netmask::V6(prefix.ok_or(Misuse::Netmask6)?);
        } else {
            let mask = inet_aton(text).or_else(|| self.names.address_of(text)).ok_or(Misuse::Netmask)?;
            service.netmask = Netmask::V4(mask);
        }
        Ok(())
    }

    /// What only is known when all options are: the words of `--set`, left-over words, `-b`.
    fn finish(mut self, mut leftovers: impl Iterator<Item = &'a str>) -> Result<CommandLine, Misuse> {
        let command = &mut self.command;
        if command.action == Action::SetTimeouts {
            let words: Vec<&str> = leftovers.by_ref().take(3).collect();
            let [tcp, tcp_fin, udp] = words.as_slice() else { return Err(Misuse::ThreeTimeouts) };
            command.timeouts = [timeout(tcp, 0)?, timeout(tcp_fin, 0)?, timeout(udp, 0)?];
        }
        if let Some(word) = leftovers.next() {
            return Err(Misuse::UnexpectedArgument(word.to_owned()));
        }
        if !self.scheduler_flags.is_empty() {
            command.service.flags = read_flags(&command.service.scheduler, self.scheduler_flags)?;
        }
        if let Forwarding::Tunnel(tunnel) = &mut command.server.forwarding {
            *tunnel = self.tunnel;
        }
        Ok(self.command)
    }
}

/// The name under which an option may be given once; `-6`, `--sort` may be given as often as one likes.
fn option_of(flag: Flag) -> Option<Opt> {
    Some(match flag {
        Flag::TcpService | Flag::UdpService | Flag::SctpService | Flag::FwmarkService => Opt::Service,
        Flag::Scheduler => Opt::Scheduler,
        Flag::Persistent => Opt::Persistent,
        Flag::Netmask => Opt::Netmask,
        Flag::RealServer => Opt::Server,
        Flag::Masquerading | Flag::Ipip | Flag::Gatewaying => Opt::Forwarding,
        Flag::Weight => Opt::Weight,
        Flag::UpperThreshold => Opt::UpperThreshold,
        Flag::LowerThreshold => Opt::LowerThreshold,
        Flag::Numeric => Opt::Numeric,
        Flag::Connection => Opt::Connection,
        Flag::McastInterface => Opt::McastInterface,
        Flag::SyncId => Opt::SyncId,
        Flag::Timeout => Opt::Timeout,
        Flag::Daemon => Opt::Daemon,
        Flag::Stats => Opt::Stats,
        Flag::Rate => Opt::Rate,
        Flag::Thresholds => Opt::Thresholds,
        Flag::PersistentConn => Opt::PersistentConn,
        Flag::NoSort => Opt::NoSort,
        Flag::Exact => Opt::Exact,
        Flag::Ops => Opt::OnePacket,
        Flag::PersistenceEngine => Opt::PersistenceEngine,
        Flag::SchedulerFlags => Opt::SchedulerFlags,
        Flag::McastGroup => Opt::McastGroup,
        Flag::McastPort => Opt::McastPort,
        Flag::McastTtl => Opt::McastTtl,
        Flag::SyncMaxlen => Opt::SyncMaxlen,
        Flag::TunInfo => Opt::TunInfo,
        Flag::TunType => Opt::TunType,
        Flag::TunPort => Opt::TunPort,
        Flag::TunNocsum => Opt::TunNocsum,
        Flag::TunCsum => Opt::TunCsum,
        Flag::TunRemcsum => Opt::TunRemcsum,
        _ => return None,
    })
}

/// The options of the sync daemons: checked, and not kept while there are none.
fn check_sync_daemon(flag: Flag, text: &str) -> Result<(), Misuse> {
    let (max, min, misuse) = match flag {
        Flag::SyncId => (255, 0, Misuse::SyncId),
        Flag::McastPort => (65_535, 1, Misuse::McastPort),
        Flag::McastTtl => (255, 1, Misuse::McastTtl),
        // The longest UDP datagram over IPv4.
        Flag::SyncMaxlen => (65_535 - 20 - 8, 1, Misuse::SyncMaxlen),
        Flag::McastGroup if text.contains(':') => {
            let is_group = text.parse().is_ok_and(|address: Ipv6Addr| address.is_multicast());
            return if is_group { Ok(()) } else { Err(Misuse::Group6(text.to_owned())) };
        }
        Flag::McastGroup => {
            let is_group = text.parse().is_ok_and(|address: Ipv4Addr| address.is_multicast());
            return if is_group { Ok(()) } else { Err(Misuse::Group4(text.to_owned())) };
        }
        _ => return Ok(()),
    };
    number(text, min, max).map(|_| ()).ok_or(misuse)
}

fn timeout(text: &str, min: i64) -> Result<u32, Misuse> {
    let seconds = number(text, min, TIMEOUT_SECONDS_MAX).ok_or_else(|| Misuse::Timeout(text.to_owned()))?;
    Ok(seconds as u32)
}

/// 0 to what an int holds.
fn natural(text: &str, misuse: Misuse) -> Result<u32, Misuse> {
    number(text, 0, i32::MAX.into()).map(|number| number as u32).ok_or(misuse)
}

/// The first `bytes` of a text, or fewer where a letter would be cut.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Where a service or real server is.
struct Place {
    address: IpAddr,
    port: Option<u16>,
}

/// `host[:port]`, an IPv6 address, or one in brackets with a port.
fn read_address(text: &str, protocol: Option<Protocol>, names: &dyn Names) -> Option<Place> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (host, bracketed_port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, Some(port.strip_prefix(':')?))
        }
        None => (text, None),
    };
    let (address, port) = match host.parse::<Ipv6Addr>() {
        Ok(address) => (IpAddr::V6(address), bracketed_port),
        // What stands in brackets is read like what does not: its own last colon counts, the one behind it does not.
        Err(_) => {
            let (host, port) = host.rsplit_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
            let address = inet_aton(host).or_else(|| names.address_of(host))?;
            (IpAddr::V4(address), port)
        }
    };
    let port = match port {
        Some(port) => Some(read_port(port, protocol, names)?),
        None => None,
    };
    Some(Place { address, port })
}

fn read_port(text: &str, protocol: Option<Protocol>, names: &dyn Names) -> Option<u16> {
    let port = number(text, 0, 65_535).map(|port| port as u16);
    port.or_else(|| names.port_of(text, protocol?))
}

/// `-b`: names between commas, some of them of one scheduler only.
fn read_flags(scheduler: &str, text: &str) -> Result<SchedulerFlags, Misuse> {
    let scheduler = if scheduler.is_empty() { super::DEFAULT_SCHEDULER } else { scheduler };
    let mut flags = SchedulerFlags::default();
    let mut names = text.split(',').filter(|name| !name.is_empty()).peekable();
    // ipvsadm crashes on commas alone.
    if names.peek().is_none() {
        return Err(Misuse::SchedulerFlag(text.to_owned()));
    }
    for name in names {
        if !crate::scheduler_flags::set(&mut flags, name) {
            return Err(Misuse::SchedulerFlag(name.to_owned()));
        }
        let of_scheduler = name.split_once('-').map(|(of, _)| of).filter(|of| *of != "flag");
        if of_scheduler.is_some_and(|of| of != scheduler) {
            return Err(Misuse::IncompatibleSchedulerFlag(name.to_owned()));
        }
    }
    Ok(flags)
}
