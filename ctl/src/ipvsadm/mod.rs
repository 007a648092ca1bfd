//! `ipvsadm` for dr-director: ipvsadm's command line, checks, texts, exit codes and formats, over the control protocol.
//! Runs in the tool's only thread and keeps nothing between runs.
//!
//! | file | holds |
//! |---|---|
//! | `command_line.rs` | words into options, as popt does it |
//! | `parse.rs` | options into a command line that is understood |
//! | `command.rs` | that command line, in ipvsadm's terms |
//! | `check.rs` | which options go together |
//! | `misuse.rs` | what is wrong with a command line: texts and exit codes |
//! | `number.rs` | numbers and addresses as libc reads them |
//! | `resolve.rs` | names of hosts and services |
//! | `convert.rs` | ipvsadm's terms into the director's commands, and what the director cannot do |
//! | `rows.rs` | what listings are made of, and its order |
//! | `format.rs` | every listing, byte for byte |
//! | `save.rs` | `-S` |
//! | `restore.rs` | `-R`: a file into one batch |
//! | `failure.rs` | what the director refused, in ipvsadm's words |
//! | `director.rs` | who is asked |
//! | `run.rs` | one run |
//! | `help.rs` | `-h`, `-v` |
//!
//! The pure parts know all of ipvsadm (IPv6, NAT, tunnels), also where the director does not yet: `convert.rs` alone
//! says no.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

mod check;
pub mod command;
mod command_line;
mod convert;
pub mod director;
pub mod failure;
pub mod format;
mod help;
pub mod misuse;
mod number;
mod parse;
pub mod resolve;
mod restore;
pub mod rows;
mod run;
pub mod save;

pub use parse::parse;

use director::{Daemon, Director};
use resolve::{Names, SystemNames};
use run::Run;

/// Where `-s` says nothing.
pub(crate) const DEFAULT_SCHEDULER: &str = "wlc";

/// Does what a command line says, against the daemon at `socket`. `arguments` starts with the name of the program, as the
/// messages have it: `ipvsadm`, or one of the scripts `ipvsadm-save` and `ipvsadm-restore`.
pub fn run(arguments: Vec<OsString>, socket: &Path) -> ExitCode {
    let (mut stdin, mut stdout, mut stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut daemon = Daemon::at(socket);
    let names = SystemNames::default();
    let code = run_with(&arguments, &mut daemon, &names, &mut stdin, &mut stdout, &mut stderr);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// The same with another director, other names and other streams; returns the exit code, 0 to 255.
pub fn run_with(
    arguments: &[OsString],
    director: &mut dyn Director,
    names: &dyn Names,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
) -> i32 {
    let arguments: Vec<String> =
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let (program, words) = match arguments.split_first() {
        Some((program, words)) => (program.as_str(), words),
        None => ("ipvsadm", &[][..]),
    };
    let name = program.rsplit('/').next().unwrap_or_default();
    let mut run = Run { program, director, names, stdin, stdout, stderr };
    match name {
        "ipvsadm-save" => run.save_script(words),
        // The script reads no arguments.
        "ipvsadm-restore" => run.restore_script(),
        _ => run.ipvsadm(words),
    }
}
