//! The control protocol: newline-delimited JSON over a Unix socket, one request a line, one answer a line, in order.
//!
//! ```text
//! → {"version":1,"verb":"add-rs","arguments":{"service":{"protocol":"tcp","address":"192.0.2.10","port":80},
//!    "real_server":{"address":"10.0.0.11","weight":2}}}
//! ← {"version":1,"generation":7,"result":{"changes":["added real server 10.0.0.11 to tcp 192.0.2.10:80, weight 2"]}}
//! ← {"version":1,"error":{"code":"not_found","message":"...","help":"..."}}
//! ```

mod answers;
mod commands;

use serde::{Deserialize, Serialize};

use crate::validate::Problem;

pub use answers::*;
pub use commands::*;

/// Version of this protocol. A request with another one is refused with both named.
pub const VERSION: u32 = 1;

/// Longest request line, in bytes, newline included: a batch of [`BATCH_COMMANDS_MAX`] real servers, each of about 140
/// bytes, is about as long.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;

/// Commands of one `batch`, which take more memory than the shortest text of one: so many are about 170 MB.
pub const BATCH_COMMANDS_MAX: usize = 500_000;

/// One answer: `result` or `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`].
    pub version: u32,
    /// Configuration generation that every worker runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReply>,
}

/// An error as the daemon answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// For programs; `dr-ctl` makes its exit code of it.
    pub code: ErrorCode,
    /// What, where and why.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Which command of a `batch` it is about, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

impl Response {
    /// An answer with a result. The types of this module always serialize; one that does not is answered as an
    /// internal error.
    pub fn ok<T: Serialize>(generation: u64, result: &T) -> Response {
        match serde_json::to_value(result) {
            Ok(value) => {
                Response { version: VERSION, generation: Some(generation), result: Some(value), error: None }
            }
            Err(error) => Response::error(ErrorReply::new(
                ErrorCode::Internal,
                format!("the result cannot be written as JSON: {error}"),
            )),
        }
    }

    /// An answer that says why not.
    pub fn error(error: ErrorReply) -> Response {
        Response { version: VERSION, generation: None, result: None, error: Some(error) }
    }

    /// The answer as it goes over the socket, newline included.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("keys are strings and numbers finite: always JSON");
        line.push(b'\n');
        line
    }
}

impl ErrorReply {
    /// An error without help.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorReply {
        ErrorReply { code, message: message.into(), help: None, index: None }
    }

    /// The same with what to do about it.
    pub fn with_help(self, help: impl Into<String>) -> ErrorReply {
        ErrorReply { help: Some(help.into()), ..self }
    }

    /// One answer for all that is wrong: code and help of the first problem, ten of them in the message.
    /// `problems` must not be empty.
    pub fn from_problems(problems: &[Problem]) -> ErrorReply {
        const SHOWN_MAX: usize = 10;
        let first = problems.first().expect("an error has a reason");
        let mut lines: Vec<String> = problems.iter().take(SHOWN_MAX).map(Problem::to_string).collect();
        if problems.len() > SHOWN_MAX {
            lines.push(format!("... and {} more problems", problems.len() - SHOWN_MAX));
        }
        ErrorReply { code: first.code, message: lines.join("\n"), help: first.help.clone(), index: None }
    }
}

/// Classes of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not JSON, not a request, too long, unknown verb, wrong types.
    BadRequest,
    /// Another protocol version.
    WrongVersion,
    /// The service or real server named does not exist.
    NotFound,
    /// It exists already.
    Exists,
    /// Understood, but not a valid configuration.
    Invalid,
    /// A capacity is used up.
    Full,
    /// The caller may not.
    Denied,
    /// The workers did not take the change in time.
    Timeout,
    /// The daemon failed.
    Internal,
}
