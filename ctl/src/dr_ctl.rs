//! The tool: reads the command line, asks the daemon, prints. One file a group of verbs.
//!
//! | file | holds |
//! |---|---|
//! | `cli.rs` | the one definition of the command line; help, man pages and completions come from it |
//! | `changes.rs` | the verbs that change one service or real server |
//! | `listings.rs` | the verbs that show what runs |
//! | `files.rs` | `apply`, `save`, `check` |
//! | `generated.rs` | `completions`, `man` |
//! | `tables.rs` | aligned columns |
//! | `failure.rs` | errors, their exit codes, how they are printed |

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use ctl::client::{Client, ClientError};
use ctl::protocol::Command;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod changes;
mod cli;
mod failure;
mod files;
mod generated;
mod listings;
mod tables;

use cli::{Arguments, Verb};
use failure::{Failure, exit};

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse_arguments(&error),
    };
    let session = Session { arguments: &arguments };
    match session.perform() {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => {
            failure.report(arguments.json);
            ExitCode::from(failure.exit_code())
        }
    }
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
            Verb::AddVip(add) => self.change(&add.command()),
            Verb::SetVip(set) => self.change(&set.command()),
            Verb::DelVip(del) => self.change(&del.command()),
            Verb::AddRs(add) => self.change(&add.command()),
            Verb::SetRs(set) => self.change(&set.command()),
            Verb::DelRs(del) => self.change(&Command::DelRs(del.query())),
            Verb::DrainRs(drain) => self.change(&Command::DrainRs(drain.query())),
            Verb::Show(filter) => self.list(&Command::Show(filter.filter()), listings::show),
            Verb::Stats(filter) => {
                let is_filtered = filter.filter().service.is_some();
                self.list(&Command::Stats(filter.filter()), |stats| listings::stats(stats, is_filtered))
            }
            Verb::Connections(query) => {
                self.list(&Command::Connections(query.query()), listings::connections)
            }
            Verb::Neighbours => self.list(&Command::Neighbours, listings::neighbours),
            Verb::Status => self.list(&Command::Status, listings::status),
            Verb::Apply(apply) => self.apply(apply),
            Verb::Save(save) => self.save(save),
            Verb::Check(check) => self.check(check),
            Verb::Completions(completions) => print(&generated::completions(completions.shell)),
            Verb::Man(man) => generated::man(man.dir.as_deref()),
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
        let timeout = Duration::from_secs(self.arguments.timeout);
        Client::connect_within(&self.arguments.socket, timeout)?.call(command)
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
