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
//! The pure parts know all of ipvsadm, also where the director does not (sync daemons): `convert.rs` alone says no.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

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

/// Does what a command line says, against the daemon at `socket`, which has `answer_timeout` for each answer. `arguments`
/// starts with the name of the program, as the messages have it: `ipvsadm`, or one of the scripts `ipvsadm-save` and
/// `ipvsadm-restore`, with the path by which it was called.
pub fn run(arguments: Vec<OsString>, socket: &Path, answer_timeout: Duration) -> ExitCode {
    let (mut stdin, mut stdout, mut stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut daemon = Daemon::within(socket, answer_timeout);
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
        arguments.iter().map(|argument| text_of(argument.as_encoded_bytes())).collect();
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

/// What a byte that is not UTF-8 is in our texts: a letter for private use that nobody writes, this many above it.
const NO_UTF_8: u32 = 0x10_ff00;

/// Bytes as text, from which [`bytes_of`] makes the same bytes again: ipvsadm repeats a word as it was given.
fn text_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let others = chunk.invalid().iter().map(|byte| char::from_u32(NO_UTF_8 + u32::from(*byte)));
        text.extend(others.flatten());
    }
    text
}

/// The bytes of a text.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match u32::from(letter).checked_sub(NO_UTF_8).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}
