//! What can go wrong, the exit code of each, and how it is told: `error: what, where, why` and `help: what to do`.

use std::io::{self, Write};
use std::path::PathBuf;

use ctl::client::ClientError;
use ctl::config_file::ConfigError;
use ctl::protocol::{ErrorCode, ErrorReply};
use ctl::source_map::SourceMap;
use ctl::validate::Problem;
use serde::Serialize;

/// Exit codes that scripts can rely on.
pub(crate) mod exit {
    pub(crate) const OK: u8 = 0;
    pub(crate) const OTHER: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const NOT_FOUND: u8 = 3;
    pub(crate) const EXISTS: u8 = 4;
    pub(crate) const REFUSED: u8 = 5;
    pub(crate) const UNREACHABLE: u8 = 6;
    pub(crate) const DENIED: u8 = 7;
    pub(crate) const TIMEOUT: u8 = 8;
    pub(crate) const PROTOCOL: u8 = 9;
    pub(crate) const DRAIN_CHANGED: u8 = 10;
}

/// What help and man page say at their end.
pub(crate) const AFTER_HELP: &str = "\
Environment:
  DR_CONTROL_SOCKET  the daemon's control socket, where --socket does not name it

Exit codes:
  0  done
  1  dr-director failed, or something else did
  2  the command line is wrong
  3  the service, real server or file does not exist
  4  the service or real server exists already
  5  refused: the configuration is not valid, or a table is full
  6  dr-director cannot be reached
  7  permission denied
  8  no answer in time, or a drain that did not end in time
  9  dr-director speaks another version of the protocol, or what came is no answer
  10  somebody else ended or changed the drain that was waited for";

/// Problems of one file that are printed; the others are counted.
const PROBLEMS_SHOWN_MAX: usize = 50;

/// Why a run of the tool failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No result from the daemon.
    Client(ClientError),
    /// A configuration file that cannot be read or written, or is none.
    File(ConfigError),
    /// A configuration file that is not valid.
    Problems { file_name: String, text: String, problems: Vec<Problem> },
    /// Arguments that do not go together.
    Usage { message: String },
    /// A line of a batch that is no change.
    Line { place: String, message: String },
    /// The daemon's error about a line of a batch.
    RefusedLine { place: String, reply: ErrorReply },
    /// The time to wait for a drain is over.
    StillDraining { message: String },
    /// Somebody else ended or changed the drain that was waited for.
    DrainChanged { message: String },
    /// The standard output cannot be written.
    Output(io::Error),
    /// A generated file cannot be written.
    Generated { path: PathBuf, source: io::Error },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::File(error)
    }
}

/// A failure for programs.
#[derive(Serialize)]
struct Reported<'a> {
    error: Report<'a>,
}

#[derive(Serialize)]
struct Report<'a> {
    code: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<ReportedProblem<'a>>,
}

#[derive(Serialize)]
struct ReportedProblem<'a> {
    code: ErrorCode,
    place: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Client(error) => match error {
                ClientError::Unreachable { .. } | ClientError::Disconnected { .. } => exit::UNREACHABLE,
                ClientError::Denied { .. } => exit::DENIED,
                ClientError::Timeout { .. } => exit::TIMEOUT,
                ClientError::TooLong { .. }
                | ClientError::WrongVersion { .. }
                | ClientError::Garbled { .. } => exit::PROTOCOL,
                ClientError::Refused(reply) => exit_code_of(reply.code),
            },
            Failure::File(error) => exit_code_of(error.code()),
            Failure::Problems { .. } => exit::REFUSED,
            Failure::Usage { .. } | Failure::Line { .. } => exit::USAGE,
            Failure::RefusedLine { reply, .. } => exit_code_of(reply.code),
            Failure::StillDraining { .. } => exit::TIMEOUT,
            Failure::DrainChanged { .. } => exit::DRAIN_CHANGED,
            Failure::Output(_) => exit::OTHER,
            Failure::Generated { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::DENIED
            }
            Failure::Generated { .. } => exit::OTHER,
        }
    }

    /// Tells it on the standard error.
    pub(crate) fn report(&self, as_json: bool) {
        let text = if as_json { self.as_json() } else { self.as_text() };
        // Nobody is left to tell where that is closed.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    fn as_text(&self) -> String {
        let Failure::Problems { file_name, text, problems } = self else {
            let help = self.help().map(|help| format!("help: {help}\n")).unwrap_or_default();
            return format!("error: {}\n{help}", self.message());
        };
        let map = SourceMap::new(text);
        let mut output = String::new();
        for problem in problems.iter().take(PROBLEMS_SHOWN_MAX) {
            output.push_str(&format!("error: {}\n", map.describe(file_name, problem)));
            if let Some(help) = &problem.help {
                output.push_str(&format!("help: {help}\n"));
            }
        }
        let hidden = problems.len().saturating_sub(PROBLEMS_SHOWN_MAX);
        if hidden > 0 {
            output.push_str(&format!("error: {file_name}: {hidden} more problems are not shown\n"));
        }
        output
    }

    fn as_json(&self) -> String {
        let map = match self {
            Failure::Problems { text, .. } => SourceMap::new(text),
            _ => SourceMap::new(""),
        };
        let report = Report {
            code: self.code_name(),
            message: self.message(),
            help: self.help(),
            problems: self.problems().iter().map(|problem| reported(problem, &map)).collect(),
        };
        super::pretty_json(&Reported { error: report })
    }

    fn problems(&self) -> &[Problem] {
        match self {
            Failure::Problems { problems, .. } => problems,
            _ => &[],
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Client(error) => error.to_string(),
            Failure::File(error) => error.to_string(),
            Failure::Problems { file_name, problems, .. } => {
                let what = if problems.len() == 1 { "problem" } else { "problems" };
                format!("{file_name}: {} {what}", problems.len())
            }
            Failure::Usage { message }
            | Failure::StillDraining { message }
            | Failure::DrainChanged { message } => message.clone(),
            Failure::Line { place, message } => format!("{place}: {message}"),
            Failure::RefusedLine { place, reply } => format!("{place}: {reply}"),
            Failure::Output(error) => format!("the standard output cannot be written: {error}"),
            Failure::Generated { path, source } => format!("{}: cannot be written: {source}", path.display()),
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Failure::Client(error) => error.help(),
            Failure::File(error) => error.help().map(str::to_owned),
            Failure::Usage { .. } => Some("see dr-ctl --help".to_owned()),
            Failure::Line { .. } => Some("write every line as on dr-ctl's command line".to_owned()),
            Failure::RefusedLine { reply, .. } => reply.help.clone(),
            Failure::StillDraining { .. } => Some("wait longer, or remove it with del-rs".to_owned()),
            Failure::DrainChanged { .. } => {
                Some("see show, and dr-director's log, which has every change and whose it is".to_owned())
            }
            Failure::Problems { .. } | Failure::Output(_) | Failure::Generated { .. } => None,
        }
    }

    fn code_name(&self) -> &'static str {
        match self {
            Failure::Client(error) => match error {
                ClientError::Unreachable { .. } | ClientError::Disconnected { .. } => "unreachable",
                ClientError::Denied { .. } => "denied",
                ClientError::Timeout { .. } => "timeout",
                ClientError::TooLong { .. } | ClientError::Garbled { .. } => "bad_request",
                ClientError::WrongVersion { .. } => "wrong_version",
                ClientError::Refused(reply) => name_of(reply.code),
            },
            Failure::File(error) => name_of(error.code()),
            Failure::Problems { .. } => "invalid",
            Failure::Usage { .. } | Failure::Line { .. } => "usage",
            Failure::RefusedLine { reply, .. } => name_of(reply.code),
            Failure::StillDraining { .. } => "timeout",
            Failure::DrainChanged { .. } => "drain_changed",
            Failure::Output(_) | Failure::Generated { .. } => "internal",
        }
    }
}

fn reported<'a>(problem: &'a Problem, map: &SourceMap<'_>) -> ReportedProblem<'a> {
    let position = map.position_of(&problem.place);
    ReportedProblem {
        code: problem.code,
        place: &problem.place,
        line: position.map(|position| position.line),
        column: position.map(|position| position.column),
        message: &problem.message,
        help: problem.help.as_deref(),
    }
}

/// What is wrong with a command line, in one line.
pub(crate) fn said(error: &clap::Error) -> String {
    let text = error.to_string();
    // All but the usage lines, which start after an empty one.
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    said.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tells a wrong command line to a program.
pub(crate) fn report_usage_as_json(error: &clap::Error) {
    let message = said(error);
    let help = Some("see dr-ctl --help".to_owned());
    let report = Report { code: "usage", message, help, problems: Vec::new() };
    let _ = io::stderr().write_all(super::pretty_json(&Reported { error: report }).as_bytes());
}

fn exit_code_of(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::BadRequest | ErrorCode::WrongVersion => exit::PROTOCOL,
        ErrorCode::NotFound => exit::NOT_FOUND,
        ErrorCode::Exists => exit::EXISTS,
        ErrorCode::Invalid | ErrorCode::Full => exit::REFUSED,
        ErrorCode::Denied => exit::DENIED,
        ErrorCode::Timeout => exit::TIMEOUT,
        ErrorCode::Internal => exit::OTHER,
    }
}

/// As the protocol writes it.
fn name_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadRequest => "bad_request",
        ErrorCode::WrongVersion => "wrong_version",
        ErrorCode::NotFound => "not_found",
        ErrorCode::Exists => "exists",
        ErrorCode::Invalid => "invalid",
        ErrorCode::Full => "full",
        ErrorCode::Denied => "denied",
        ErrorCode::Timeout => "timeout",
        ErrorCode::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_named_as_the_protocol_writes_it() {
        for code in [
            ErrorCode::BadRequest,
            ErrorCode::WrongVersion,
            ErrorCode::NotFound,
            ErrorCode::Exists,
            ErrorCode::Invalid,
            ErrorCode::Full,
            ErrorCode::Denied,
            ErrorCode::Timeout,
            ErrorCode::Internal,
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), name_of(code));
        }
    }

    #[test]
    fn problems_past_the_fiftieth_are_counted() {
        let problem = Problem {
            code: ErrorCode::Invalid,
            place: "services[0].port".to_owned(),
            message: "0 is under 1".to_owned(),
            help: None,
        };
        let failure = Failure::Problems {
            file_name: "lb.toml".to_owned(),
            text: "[[services]]\nport = 0\n".to_owned(),
            problems: vec![problem; 60],
        };
        let text = failure.as_text();
        assert!(text.starts_with(
            "error: lb.toml:2:8: services[0].port: 0 is under 1\n  |\n2 | port = 0\n  |        ^\n"
        ));
        assert!(text.ends_with("error: lb.toml: 10 more problems are not shown\n"));
    }
}
