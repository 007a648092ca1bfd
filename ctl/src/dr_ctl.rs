//! The tool: reads the command line, asks the daemon, prints. One file a group of verbs.
//!
//! | file | holds |
//! |---|---|
//! | `cli.rs` | the one definition of the command line; help, man pages and completions come from it |
//! | `changes.rs` | the verbs that change what runs |
//! | `batch.rs` | `batch`: many of them from a file |
//! | `drain.rs` | `drain-rs --wait` |
//! | `listings.rs` | the verbs that show what runs |
//! | `files.rs` | `apply`, `save`, `check` |
//! | `generated.rs` | `completions`, `man` |
//! | `tables.rs` | aligned columns |
//! | `failure.rs` | errors, their exit codes, how they are printed |

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use ctl::client::{Client, ClientError, DEFAULT_TIMEOUT};
use ctl::protocol::Command;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod batch;
mod changes;
mod cli;
mod drain;
mod failure;
mod files;
mod generated;
mod listings;
mod tables;

use cli::{Arguments, DEFAULT_SOCKET, SOCKET_VARIABLE, Verb};
use failure::{Failure, exit};

/// Names of links to dr-ctl under which it is ipvsadm.
const IPVSADM_NAMES: [&str; 3] = ["ipvsadm", "ipvsadm-save", "ipvsadm-restore"];

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    if is_called_as_ipvsadm() {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
        let socket = socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from);
        // Messages have the name as it was called, with its path.
        return ctl::ipvsadm::run(std::env::args_os().collect(), &socket, DEFAULT_TIMEOUT);
    }
    let arguments = match Arguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    let session = Session { arguments: &arguments };
    let done = match &arguments.verb {
        Verb::Ipvsadm(_) if arguments.json => {
            Err(Failure::Usage { message: "ipvsadm prints what ipvsadm prints: it has no --json".to_owned() })
        }
        Verb::Ipvsadm(ipvsadm) => {
            let words = std::iter::once(OsString::from("ipvsadm")).chain(ipvsadm.arguments.iter().cloned());
            return ctl::ipvsadm::run(words.collect(), &arguments.socket, session.answer_timeout());
        }
        _ => session.perform(),
    };
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            failure.report(arguments.json);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn is_called_as_ipvsadm() -> bool {
    let called = std::env::args_os().next();
    let name = called.as_ref().and_then(|called| Path::new(called).file_name());
    name.is_some_and(|name| IPVSADM_NAMES.iter().any(|known| name == *known))
}

/// `--help` and `--version` arrive here too, as clap has it.
fn refuse_arguments(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().any(|argument| argument == "--json");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell where the output is closed.
            let _ = error.print();
            ExitCode::from(exit::OK)
        }
        _ if wants_json => {
            failure::report_usage_as_json(error);
            ExitCode::from(exit::USAGE)
        }
        _ => {
            let _ = error.print();
            ExitCode::from(exit::USAGE)
        }
    }
}

/// One run of the tool.
struct Session<'a> {
    arguments: &'a Arguments,
}

impl Session<'_> {
    fn perform(&self) -> Result<(), Failure> {
        match &self.arguments.verb {
            Verb::DrainRs(drain) => match drain.wait() {
                Some(wait) => self.drain_and_wait(&wait),
                None => self.change(&Command::DrainRs(drain.query())),
            },
            Verb::Batch(batch) => self.batch(batch),
            Verb::Show(filter) => self.list(&Command::Show(filter.filter()), listings::show),
            Verb::Stats(filter) => {
                let is_filtered = filter.filter().service.is_some();
                self.list(&Command::Stats(filter.filter()), |stats| listings::stats(stats, is_filtered))
            }
            Verb::Connections(arguments) => {
                let query = arguments.query();
                let command = Command::Connections(query.clone());
                self.list(&command, |answer| listings::connections(answer, &query, arguments.count))
            }
            Verb::Neighbours => self.list(&Command::Neighbours, listings::neighbours),
            Verb::Status => self.list(&Command::Status, listings::status),
            Verb::Apply(apply) => self.apply(apply),
            Verb::Save(save) => self.save(save),
            Verb::Check(check) => self.check(check),
            Verb::Completions(completions) => print(&generated::completions(completions.shell)),
            Verb::Man(man) => generated::man(man.dir.as_deref()),
            verb => match verb.change() {
                Ok(Some(command)) => self.change(&command),
                Ok(None) => unreachable!("{verb:?} is none of the verbs above and changes nothing"),
                Err(message) => Err(Failure::Usage { message }),
            },
        }
    }

    /// Asks the daemon, and prints the result: as JSON, or as the text that `render` makes of it.
    fn list<T: DeserializeOwned + Serialize>(
        &self,
        command: &Command,
        render: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let result: T = self.call(command)?;
        self.print(&result, render)
    }

    fn call<T: DeserializeOwned>(&self, command: &Command) -> Result<T, ClientError> {
        Client::connect_within(&self.arguments.socket, self.answer_timeout())?.call(command)
    }

    fn answer_timeout(&self) -> Duration {
        Duration::from_secs(self.arguments.answer_timeout)
    }

    fn print<T: Serialize>(&self, result: &T, render: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        if self.arguments.json { print(&pretty_json(result)) } else { print(&render(result)) }
    }
}

fn pretty_json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("keys are strings: always JSON");
    text.push('\n');
    text
}

/// Writes to the standard output. One that was closed (`| head`) has what it wanted.
fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}
