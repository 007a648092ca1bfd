//! The command line: the one definition of which help, completions and man pages are made, and the commands that its
//! arguments mean.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use ctl::config::{Protocol, RealServerConfig, ServiceConfig, ServiceId};
use ctl::mac::MacAddress;
use ctl::protocol::{
    AddRs, Command, ConnectionsQuery, Filter, MacSource, OneRealServer, OneService, SetRs, SetVip,
};
use scheduler::Algorithm;

use super::failure::AFTER_HELP;

/// Controls dr-director, the LVS director in user space.
///
/// Adds, changes, removes and shows virtual services and real servers of the dr-director that runs on this host, over
/// its control socket. A change is answered when every worker runs it; a change that is refused changes nothing.
#[derive(Debug, Parser)]
#[command(name = "dr-ctl", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The daemon's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "DR_CONTROL_SOCKET",
        default_value = "/run/dr-director/control.sock",
        help_heading = "Global options"
    )]
    pub(crate) socket: PathBuf,
    /// Print JSON, errors too
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// How long the daemon may take, 1 to 3600
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600),
        help_heading = "Global options"
    )]
    pub(crate) timeout: u64,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a virtual service
    #[command(after_help = "Example: dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrr")]
    AddVip(AddVipArguments),
    /// Change the scheduler of a virtual service
    #[command(after_help = "Example: dr-ctl set-vip tcp 192.0.2.10:80 --scheduler wlc")]
    SetVip(SetVipArguments),
    /// Remove a virtual service and its real servers
    #[command(after_help = "Example: dr-ctl del-vip tcp 192.0.2.10:80")]
    DelVip(ServiceArguments),
    /// Add a real server (RS) to a virtual service
    #[command(after_help = "Example: dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 2")]
    AddRs(AddRsArguments),
    /// Change weight, MAC address or drain of a real server
    #[command(
        group = ArgGroup::new("change").required(true).multiple(true).args(["weight", "mac", "drain", "no_drain"]),
        after_help = "Example: dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 3 --no-drain"
    )]
    SetRs(SetRsArguments),
    /// Remove a real server
    #[command(after_help = "Example: dr-ctl del-rs tcp 192.0.2.10:80 10.0.0.11")]
    DelRs(RealServerArguments),
    /// Give a real server no new connections, and keep the established ones
    #[command(after_help = "Example: dr-ctl drain-rs tcp 192.0.2.10:80 10.0.0.11")]
    DrainRs(RealServerArguments),
    /// Show virtual services and real servers
    #[command(after_help = "Example: dr-ctl show tcp 192.0.2.10:80")]
    Show(FilterArguments),
    /// Show counters of services, workers and ports
    #[command(after_help = "Example: dr-ctl stats --json")]
    Stats(FilterArguments),
    /// Show connections
    #[command(after_help = "Example: dr-ctl connections tcp 192.0.2.10:80 --client 198.51.100.7")]
    Connections(ConnectionsArguments),
    /// Show what is known of the real servers' MAC addresses
    Neighbours,
    /// Show whether dr-director is well
    Status,
    /// Make the services of a configuration file what runs, and print what that changes
    #[command(after_help = "Example: dr-ctl apply /etc/dr-director/director.toml --dry-run")]
    Apply(ApplyArguments),
    /// Write what runs as a configuration file
    #[command(after_help = "Example: dr-ctl save /etc/dr-director/director.toml")]
    Save(SaveArguments),
    /// Check a configuration file; needs no dr-director
    #[command(after_help = "Example: dr-ctl check /etc/dr-director/director.toml")]
    Check(CheckArguments),
    /// Print a shell's completions
    #[command(after_help = "Example: dr-ctl completions bash > /etc/bash_completion.d/dr-ctl")]
    Completions(CompletionsArguments),
    /// Print the man page, or write one for every verb
    #[command(after_help = "Example: dr-ctl man --dir /usr/local/share/man/man1")]
    Man(ManArguments),
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ServiceArguments {
    /// Protocol of the service
    #[arg(value_parser = protocol_parser())]
    protocol: Protocol,
    /// VIP and port of the service, such as 192.0.2.10:80
    #[arg(value_name = "VIP:PORT", value_parser = parse_vip_and_port)]
    vip: SocketAddrV4,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct FilterArguments {
    /// Only of this service: its protocol
    #[arg(value_parser = protocol_parser(), requires = "vip")]
    protocol: Option<Protocol>,
    /// Only of this service: its VIP and port, such as 192.0.2.10:80
    #[arg(value_name = "VIP:PORT", value_parser = parse_vip_and_port)]
    vip: Option<SocketAddrV4>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct RealServerArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// Address of the real server (RIP)
    #[arg(value_name = "RIP")]
    address: Ipv4Addr,
}

#[derive(Debug, Args)]
pub(crate) struct AddVipArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// How a real server is picked for a new connection
    #[arg(long, default_value = Algorithm::default().name(), value_parser = scheduler_parser())]
    scheduler: Algorithm,
}

#[derive(Debug, Args)]
pub(crate) struct SetVipArguments {
    #[command(flatten)]
    service: ServiceArguments,
    /// How a real server is picked for a new connection
    #[arg(long, value_parser = scheduler_parser())]
    scheduler: Algorithm,
}

#[derive(Debug, Args)]
pub(crate) struct AddRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..))]
    weight: u16,
    /// MAC address of the real server, instead of asking by ARP
    #[arg(long)]
    mac: Option<MacAddress>,
}

#[derive(Debug, Args)]
pub(crate) struct SetRsArguments {
    #[command(flatten)]
    real_server: RealServerArguments,
    /// Share of new connections, 0 to 65535; 0 gets none
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..))]
    weight: Option<u16>,
    /// MAC address of the real server, or `arp` to ask for it
    #[arg(long, value_name = "MAC|arp")]
    mac: Option<MacSource>,
    /// Give it no new connections, and keep the established ones
    #[arg(long, conflicts_with = "no_drain")]
    drain: bool,
    /// Give it new connections again
    #[arg(long)]
    no_drain: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArguments {
    #[command(flatten)]
    service: FilterArguments,
    /// Only of this client
    #[arg(long, value_name = "CIP")]
    client: Option<Ipv4Addr>,
    /// Only to this real server
    #[arg(long, value_name = "RIP")]
    real_server: Option<Ipv4Addr>,
    /// Show so many at most, 1 to 100000; all that match are counted
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArguments {
    /// The configuration file, or - for the standard input
    pub(crate) file: PathBuf,
    /// Print what would change, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArguments {
    /// Where to; without it, to the standard output
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The configuration file, or - for the standard input
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Folder for the pages of dr-ctl and of every verb; it is made where it is missing
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

fn protocol_parser() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(["tcp", "udp"])
        .map(|name| if name == "tcp" { Protocol::Tcp } else { Protocol::Udp })
}

fn scheduler_parser() -> impl TypedValueParser<Value = Algorithm> {
    let names = Algorithm::ALL.iter().map(|algorithm| algorithm.name());
    PossibleValuesParser::new(names).try_map(|name| name.parse::<Algorithm>())
}

fn parse_vip_and_port(text: &str) -> Result<SocketAddrV4, String> {
    let vip: SocketAddrV4 =
        text.parse().map_err(|_| "a VIP and a port are wanted, such as 192.0.2.10:80".to_owned())?;
    if vip.port() == 0 { Err("port 0 is under 1".to_owned()) } else { Ok(vip) }
}

impl ServiceArguments {
    fn id(&self) -> ServiceId {
        ServiceId { protocol: self.protocol, address: *self.vip.ip(), port: self.vip.port() }
    }

    pub(crate) fn command(&self) -> Command {
        Command::DelVip(OneService { service: self.id() })
    }
}

impl FilterArguments {
    pub(crate) fn filter(&self) -> Filter {
        let id = |(protocol, vip): (Protocol, SocketAddrV4)| ServiceId {
            protocol,
            address: *vip.ip(),
            port: vip.port(),
        };
        Filter { service: self.protocol.zip(self.vip).map(id) }
    }
}

impl RealServerArguments {
    pub(crate) fn query(&self) -> OneRealServer {
        OneRealServer { service: self.service.id(), address: self.address }
    }
}

impl AddVipArguments {
    pub(crate) fn command(&self) -> Command {
        let ServiceId { protocol, address, port } = self.service.id();
        let real_servers = Vec::new();
        Command::AddVip(ServiceConfig { protocol, address, port, scheduler: self.scheduler, real_servers })
    }
}

impl SetVipArguments {
    pub(crate) fn command(&self) -> Command {
        Command::SetVip(SetVip { service: self.service.id(), scheduler: self.scheduler })
    }
}

impl AddRsArguments {
    pub(crate) fn command(&self) -> Command {
        let OneRealServer { service, address } = self.real_server.query();
        let real_server = RealServerConfig { address, weight: self.weight, mac: self.mac, drain: false };
        Command::AddRs(AddRs { service, real_server })
    }
}

impl SetRsArguments {
    pub(crate) fn command(&self) -> Command {
        let OneRealServer { service, address } = self.real_server.query();
        let drain = (self.drain || self.no_drain).then_some(self.drain);
        Command::SetRs(SetRs { service, address, weight: self.weight, mac: self.mac, drain })
    }
}

impl ConnectionsArguments {
    pub(crate) fn query(&self) -> ConnectionsQuery {
        let service = self.service.filter().service;
        ConnectionsQuery { service, client: self.client, real_server: self.real_server, limit: self.limit }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use ctl::request::{VERBS, encode_request, parse_request};

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_verb_of_the_protocol_has_its_command() {
        let command = Arguments::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        for verb in VERBS.iter().filter(|verb| **verb != "config") {
            assert!(names.contains(verb), "{verb}");
        }
    }

    #[test]
    fn arguments_become_the_commands_that_they_mean() {
        let cases = [
            (
                "dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrr",
                r#"{"version":1,"verb":"add-vip","arguments":{"protocol":"tcp","address":"192.0.2.10","port":80,"scheduler":"wrr"}}"#,
            ),
            (
                "dr-ctl set-vip udp 192.0.2.10:53 --scheduler lc",
                r#"{"version":1,"verb":"set-vip","arguments":{"service":{"protocol":"udp","address":"192.0.2.10","port":53},"scheduler":"lc"}}"#,
            ),
            (
                "dr-ctl del-vip tcp 192.0.2.10:80",
                r#"{"version":1,"verb":"del-vip","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80}}}"#,
            ),
            (
                "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 2 --mac 02:00:00:00:00:0b",
                r#"{"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"real_server":{"address":"10.0.0.11","weight":2,"mac":"02:00:00:00:00:0b"}}}"#,
            ),
            (
                "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 0 --mac arp --drain",
                r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"address":"10.0.0.11","weight":0,"mac":"arp","drain":true}}"#,
            ),
            (
                "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --no-drain",
                r#"{"version":1,"verb":"set-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"address":"10.0.0.11","drain":false}}"#,
            ),
            (
                "dr-ctl connections tcp 192.0.2.10:80 --client 198.51.100.7 --real-server 10.0.0.11 --limit 5",
                r#"{"version":1,"verb":"connections","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},"client":"198.51.100.7","real_server":"10.0.0.11","limit":5}}"#,
            ),
            ("dr-ctl show", r#"{"version":1,"verb":"show"}"#),
        ];
        for (line, request) in cases {
            let command = match parse(line).unwrap().verb {
                Verb::AddVip(arguments) => arguments.command(),
                Verb::SetVip(arguments) => arguments.command(),
                Verb::DelVip(arguments) => arguments.command(),
                Verb::AddRs(arguments) => arguments.command(),
                Verb::SetRs(arguments) => arguments.command(),
                Verb::Connections(arguments) => Command::Connections(arguments.query()),
                Verb::Show(arguments) => Command::Show(arguments.filter()),
                verb => panic!("{verb:?}"),
            };
            assert_eq!(Ok(&command), parse_request(request.as_bytes()).as_ref(), "{line}");
            assert_eq!(Ok(&command), parse_request(&encode_request(&command)).as_ref(), "{line}");
        }
    }

    #[test]
    fn arguments_out_of_range_or_half_are_refused() {
        for line in [
            "dr-ctl",
            "dr-ctl add-vip",
            "dr-ctl add-vip tcp",
            "dr-ctl add-vip sctp 192.0.2.10:80",
            "dr-ctl add-vip tcp 192.0.2.10",
            "dr-ctl add-vip tcp 192.0.2.10:0",
            "dr-ctl add-vip tcp 192.0.2.10:65536",
            "dr-ctl add-vip tcp [2001:db8::1]:80",
            "dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrrr",
            "dr-ctl add-rs tcp 192.0.2.10:80",
            "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 65536",
            "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight -1",
            "dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --mac 01:00:00:00:00:01",
            "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11",
            "dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --drain --no-drain",
            "dr-ctl set-vip tcp 192.0.2.10:80",
            "dr-ctl show tcp",
            "dr-ctl show --timeout 0",
            "dr-ctl connections --limit 0",
            "dr-ctl completions csh",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
