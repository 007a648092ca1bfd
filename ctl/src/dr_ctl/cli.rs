//! The command line: the one definition of which help, completions and man pages are made, and the commands that its
//! arguments mean.
//!
//! | file | holds |
//! |---|---|
//! | `services.rs` | how a service is named; verbs that add and change services, groups and members |
//! | `real_servers.rs` | verbs that add, change, drain and remove real servers; full NAT's local addresses |
//! | `queries.rs` | verbs that show what runs, and the options for all connections |
//! | `values.rs` | how single values are read |

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use ctl::protocol::Command;

use super::failure::AFTER_HELP;

mod queries;
mod real_servers;
mod services;
mod values;

pub(crate) use queries::{ConnectionsArguments, SetOptionsArguments};
pub(crate) use real_servers::{
    AddRsArguments, DrainRsArguments, DrainWait, LocalAddressArguments, RealServerArguments, SetRsArguments,
};
pub(crate) use services::{
    AddGroupArguments, AddVipArguments, FilterArguments, IpvsadmArguments, MemberArguments, ServiceArguments,
    SetVipArguments,
};

use queries::OPTION_CHANGES;
use real_servers::REAL_SERVER_CHANGES;
use services::SERVICE_CHANGES;

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/dr-director/control.sock";

/// What names another socket in the environment.
pub(crate) const SOCKET_VARIABLE: &str = "DR_CONTROL_SOCKET";

/// Controls dr-director, the LVS director in user space.
///
/// Adds, changes, removes and shows virtual services and real servers of the dr-director that runs on this host, over
/// its control socket. A change is answered when every worker runs it; a change that is refused changes nothing.
///
/// A service is named by protocol and VIP:PORT (tcp 192.0.2.10:80, tcp [2001:db8::10]:80), a service group by its name
/// (group web).
#[derive(Debug, Parser)]
#[command(name = "dr-ctl", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The daemon's control socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = SOCKET_VARIABLE,
        default_value = DEFAULT_SOCKET,
        help_heading = "Global options"
    )]
    pub(crate) socket: PathBuf,
    /// Print JSON, errors too
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// How long the daemon may take for its answer, 1 to 3600
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        default_value_t = 10,
        allow_hyphen_values = true,
        value_parser = values::number(1..=3600_u64),
        help_heading = "Global options"
    )]
    pub(crate) answer_timeout: u64,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options whose value may be left out. clap wants it behind `=`, for otherwise it takes the next word, whatever that is:
/// `--wait tcp 192.0.2.10:80 10.0.0.11`.
const OPTIONAL_VALUES: [&str; 2] = ["--persistent", "--wait"];

impl Arguments {
    /// Reads a command line, the program's name first. An optional value that is a time may be a word of its own:
    /// `--wait 60s`.
    pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
        let mut joined: Vec<OsString> = Vec::new();
        for word in words {
            // ipvsadm's command line is its own.
            let is_ours = !joined.iter().skip(1).any(|word| word == "ipvsadm");
            match joined.last_mut() {
                Some(last)
                    if is_ours && OPTIONAL_VALUES.iter().any(|option| last == option) && is_time(&word) =>
                {
                    last.push("=");
                    last.push(word);
                }
                _ => joined.push(word),
            }
        }
        Arguments::try_parse_from(joined)
    }
}

/// Digits and a unit, or none; no address and no protocol is one.
fn is_time(word: &OsStr) -> bool {
    let word = word.as_encoded_bytes();
    let digits =
        word.strip_suffix(b"s").or_else(|| word.strip_suffix(b"m")).or_else(|| word.strip_suffix(b"h"));
    let digits = digits.or_else(|| word.strip_suffix(b"d")).unwrap_or(word);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a virtual service
    #[command(after_help = "Examples:\n  dr-ctl add-vip tcp 192.0.2.10:80 --scheduler wrr\n  \
                      dr-ctl add-vip tcp 192.0.2.10:443 --persistent 6m --netmask 255.255.255.0")]
    AddVip(AddVipArguments),
    /// Add a service group: several VIPs and ports, served as one
    #[command(
        after_help = "Example: dr-ctl add-group web --member tcp:192.0.2.10:80 --member tcp:192.0.2.10:443 --persistent"
    )]
    AddGroup(AddGroupArguments),
    /// Change a virtual service or group; what is not named stays
    #[command(
        group = ArgGroup::new("change").required(true).multiple(true).args(SERVICE_CHANGES),
        after_help = "Example: dr-ctl set-vip tcp 192.0.2.10:80 --scheduler wlc --slow-start 60s --no-persistent"
    )]
    SetVip(SetVipArguments),
    /// Remove a virtual service or group and its real servers
    #[command(after_help = "Example: dr-ctl del-vip tcp 192.0.2.10:80")]
    DelVip(ServiceArguments),
    /// Add a VIP and port to a service group
    #[command(after_help = "Example: dr-ctl add-member web tcp:192.0.2.10:8080")]
    AddMember(MemberArguments),
    /// Remove a VIP and port from a service group
    #[command(after_help = "Example: dr-ctl del-member web tcp:192.0.2.10:8080")]
    DelMember(MemberArguments),
    /// Add a real server (RS) to a virtual service
    #[command(after_help = "Examples:\n  dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.11 --weight 2\n  \
                      dr-ctl add-rs tcp 192.0.2.10:80 10.0.0.12:8080 --forwarding nat\n  \
                      dr-ctl add-rs tcp [2001:db8::10]:80 10.0.9.13 --forwarding tunnel --tunnel-type gue --tunnel-port 6080")]
    AddRs(AddRsArguments),
    /// Change weight, thresholds, MAC address, forwarding or drain of a real server
    #[command(
        group = ArgGroup::new("change").required(true).multiple(true).args(REAL_SERVER_CHANGES),
        after_help = "Example: dr-ctl set-rs tcp 192.0.2.10:80 10.0.0.11 --weight 3 --no-drain"
    )]
    SetRs(SetRsArguments),
    /// Remove a real server
    #[command(after_help = "Example: dr-ctl del-rs tcp 192.0.2.10:80 10.0.0.11")]
    DelRs(RealServerArguments),
    /// Give a real server no new connections, and keep the established ones
    #[command(after_help = "Example: dr-ctl drain-rs tcp 192.0.2.10:80 10.0.0.11 --timeout 5m --wait")]
    DrainRs(DrainRsArguments),
    /// Add a local address (LIP) of full NAT
    #[command(after_help = "Example: dr-ctl add-lip 10.0.0.200")]
    AddLip(LocalAddressArguments),
    /// Remove a local address (LIP) of full NAT
    ///
    /// Connections that have it keep it.
    #[command(after_help = "Example: dr-ctl del-lip 10.0.0.200")]
    DelLip(LocalAddressArguments),
    /// Remove every virtual service and group
    Clear,
    /// Make the changes of a file, one a line as on this command line, all of them or none
    #[command(after_help = "Example: printf '%s\\n' 'clear' 'add-vip tcp 192.0.2.10:80' | dr-ctl batch -")]
    Batch(BatchArguments),
    /// Change how connections are kept, for all services; what is not named stays
    #[command(
        group = ArgGroup::new("change").required(true).multiple(true).args(OPTION_CHANGES),
        after_help = "Example: dr-ctl set-options --expire-nodest-conn on --timeout udp=30s"
    )]
    SetOptions(SetOptionsArguments),
    /// Let the counters of services and real servers start at 0 again
    #[command(after_help = "Example: dr-ctl zero tcp 192.0.2.10:80")]
    Zero(FilterArguments),
    /// Show virtual services and real servers
    #[command(after_help = "Example: dr-ctl show tcp 192.0.2.10:80")]
    Show(FilterArguments),
    /// Show counters of services, workers and ports
    #[command(after_help = "Example: dr-ctl stats --json")]
    Stats(FilterArguments),
    /// Show connections
    #[command(
        after_help = "Example: dr-ctl connections tcp 192.0.2.10:80 --client 198.51.100.0/24 --sort expires"
    )]
    Connections(ConnectionsArguments),
    /// Show what is known of the MAC addresses of real servers and gateways
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
    /// Do what ipvsadm does
    ///
    /// A link to dr-ctl that is named ipvsadm, ipvsadm-save or ipvsadm-restore does the same.
    #[command(
        disable_help_flag = true,
        disable_version_flag = true,
        after_help = "Example: dr-ctl ipvsadm -Ln"
    )]
    Ipvsadm(IpvsadmArguments),
    /// Print a shell's completions
    #[command(after_help = "Example: dr-ctl completions bash > /etc/bash_completion.d/dr-ctl")]
    Completions(CompletionsArguments),
    /// Print the man page, or write one for every verb
    #[command(after_help = "Example: dr-ctl man --dir /usr/local/share/man/man1")]
    Man(ManArguments),
}

#[derive(Debug, Args)]
pub(crate) struct BatchArguments {
    /// The file, or - for the standard input; empty lines and those that begin with # are skipped
    pub(crate) file: PathBuf,
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

impl Verb {
    /// The change that it asks for, if it does. An error says which arguments do not go together.
    pub(crate) fn change(&self) -> Result<Option<Command>, String> {
        Ok(Some(match self {
            Verb::AddVip(add) => add.command()?,
            Verb::AddGroup(add) => add.command()?,
            Verb::SetVip(set) => set.command()?,
            Verb::DelVip(service) => service.del_command(),
            Verb::AddMember(member) => Command::AddMember(member.query()),
            Verb::DelMember(member) => Command::DelMember(member.query()),
            Verb::AddRs(add) => add.command()?,
            Verb::SetRs(set) => set.command(),
            Verb::DelRs(del) => Command::DelRs(del.query()),
            Verb::DrainRs(drain) => Command::DrainRs(drain.query()),
            Verb::AddLip(add) => Command::AddLip(add.query()),
            Verb::DelLip(del) => Command::DelLip(del.query()),
            Verb::Clear => Command::Clear,
            Verb::SetOptions(set) => set.command()?,
            Verb::Zero(filter) => Command::Zero(filter.filter()),
            Verb::Batch(_)
            | Verb::Show(_)
            | Verb::Stats(_)
            | Verb::Connections(_)
            | Verb::Neighbours
            | Verb::Status
            | Verb::Apply(_)
            | Verb::Save(_)
            | Verb::Check(_)
            | Verb::Ipvsadm(_)
            | Verb::Completions(_)
            | Verb::Man(_) => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests;
