//! The blocking client of the control socket, for `dr-ctl` and for tests. One request at a time; the timeout holds for
//! the whole of it, however slowly the answer trickles in.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Gid, Group};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::protocol::{Command, ErrorReply, REQUEST_BYTES_MAX, Response, VERSION};
use crate::request::encode_request;

/// How long a request may take unless told otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer that is taken, in bytes: a hundred thousand connections are a fifth of it.
pub const ANSWER_BYTES_MAX: usize = 128 << 20;

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    path: PathBuf,
    timeout: Duration,
    /// What came after the last answer's newline. An honest daemon sends nothing there.
    surplus: Vec<u8>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("{}: cannot connect to dr-director: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller may not use the socket.
    #[error("{}: you may not use the control socket", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Group that may, where it could be found out.
        group: Option<String>,
    },
    /// No whole answer in time.
    #[error("{}: dr-director gave no answer within {} s", path.display(), timeout.as_secs_f64())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The time it had.
        timeout: Duration,
    },
    /// The daemon closed the connection, or it broke, before the answer was whole.
    #[error("{}: the connection ended before the answer was whole{}", path.display(), reason(source))]
    Disconnected {
        /// The socket.
        path: PathBuf,
        /// Why, where it did not merely close.
        source: Option<io::Error>,
    },
    /// The request is longer than the protocol allows.
    #[error("the request is {bytes} bytes, over the {REQUEST_BYTES_MAX} of the control protocol")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The answer is of another protocol version.
    #[error("{}: this dr-ctl speaks version {VERSION} of the control protocol, the daemon version {found}", path.display())]
    WrongVersion {
        /// The socket.
        path: PathBuf,
        /// The daemon's.
        found: u32,
    },
    /// What came is not an answer of this protocol.
    #[error("{}: what came is no answer of dr-director: {message}", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The daemon's own error.
    #[error(transparent)]
    Refused(#[from] ErrorReply),
}

fn reason(source: &Option<io::Error>) -> String {
    source.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
}

impl ClientError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            ClientError::Unreachable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "is dr-director running? Start it, or name its socket with --socket".to_owned()
                }
                _ => "name the daemon's control socket with --socket".to_owned(),
            },
            ClientError::Denied { group: Some(group), .. } => {
                format!("become root, or join the group {group} (usermod -aG {group} USER) and log in again")
            }
            ClientError::Denied { group: None, .. } => {
                "become root, or join the group named by director.control_group".to_owned()
            }
            ClientError::Timeout { .. } => {
                "give it longer with --answer-timeout, and see dr-director's log. A change may have been made all the same: \
                 look with show"
                    .to_owned()
            }
            ClientError::Disconnected { .. } => {
                "see dr-director's log. A change may have been made all the same: look with show".to_owned()
            }
            ClientError::TooLong { .. } => "apply fewer services at once".to_owned(),
            ClientError::WrongVersion { .. } => "use the dr-ctl of the daemon's release".to_owned(),
            ClientError::Garbled { .. } => "is this dr-director's control socket? See --socket".to_owned(),
            ClientError::Refused(reply) => return reply.help.clone(),
        })
    }
}

/// What any version of the protocol answers.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Client {
    /// Connects, with [`DEFAULT_TIMEOUT`].
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Timeout`.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Client::connect_within(path, DEFAULT_TIMEOUT)
    }

    /// Connects; `timeout` holds for this, and again for every request.
    ///
    /// # Errors
    /// `Unreachable`, `Denied`, `Timeout`.
    pub fn connect_within(path: &Path, timeout: Duration) -> Result<Client, ClientError> {
        let stream = open_stream(path, timeout).map_err(|errno| connect_error(path, timeout, errno))?;
        Ok(Client { stream, path: path.to_owned(), timeout, surplus: Vec::new() })
    }

    /// Sends a command and awaits its answer, which may be an error of the daemon's. After any other error the
    /// connection is of no use any more.
    ///
    /// # Errors
    /// All but `Unreachable`, `Denied` and `Refused`.
    pub fn request(&mut self, command: &Command) -> Result<Response, ClientError> {
        let request = encode_request(command);
        if request.len() > REQUEST_BYTES_MAX {
            return Err(ClientError::TooLong { bytes: request.len() });
        }
        let deadline = Instant::now() + self.timeout;
        // A daemon that refuses a request may do so, and close, before it has read all of it: its answer is worth
        // more than the failure to write.
        let written = self.write(&request, deadline);
        if let Err(timeout @ ClientError::Timeout { .. }) = written {
            return Err(timeout);
        }
        let line = match (self.read_line(deadline), written) {
            (Ok(line), _) => line,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        self.parse(&line)
    }

    /// Sends a command and takes its result.
    ///
    /// # Errors
    /// As [`request`](Client::request), and `Refused` with the daemon's error.
    pub fn call<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T, ClientError> {
        let response = self.request(command)?;
        if let Some(error) = response.error {
            return Err(ClientError::Refused(error));
        }
        let result = response.result.unwrap_or_default();
        serde_json::from_value(result)
            .map_err(|error| self.garbled(format!("result of {}: {error}", command.verb())))
    }

    fn parse(&self, line: &[u8]) -> Result<Response, ClientError> {
        let not_an_answer = |error: serde_json::Error| self.garbled(error.to_string());
        let Versioned { version } = serde_json::from_slice(line).map_err(not_an_answer)?;
        if version != VERSION {
            return Err(ClientError::WrongVersion { path: self.path.clone(), found: version });
        }
        let response: Response = serde_json::from_slice(line).map_err(not_an_answer)?;
        if response.result.is_some() == response.error.is_some() {
            return Err(self.garbled("it has neither or both of result and error".to_owned()));
        }
        Ok(response)
    }

    fn write(&mut self, mut request: &[u8], deadline: Instant) -> Result<(), ClientError> {
        while !request.is_empty() {
            let remaining = self.remaining(deadline)?;
            self.stream.set_write_timeout(Some(remaining)).map_err(|error| self.broken(error))?;
            match self.stream.write(request) {
                Ok(0) => return Err(ClientError::Disconnected { path: self.path.clone(), source: None }),
                Ok(written) => request = &request[written..],
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn read_line(&mut self, deadline: Instant) -> Result<Vec<u8>, ClientError> {
        let mut line = std::mem::take(&mut self.surplus);
        let mut buffer = vec![0; 64 << 10];
        let mut searched = 0;
        loop {
            if let Some(newline) = line[searched..].iter().position(|byte| *byte == b'\n') {
                self.surplus = line.split_off(searched + newline + 1);
                return Ok(line);
            }
            searched = line.len();
            if line.len() > ANSWER_BYTES_MAX {
                return Err(self.garbled(format!("it is longer than {ANSWER_BYTES_MAX} bytes")));
            }
            let remaining = self.remaining(deadline)?;
            self.stream.set_read_timeout(Some(remaining)).map_err(|error| self.broken(error))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Disconnected { path: self.path.clone(), source: None }),
                Ok(read) => line.extend_from_slice(&buffer[..read]),
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn remaining(&self, deadline: Instant) -> Result<Duration, ClientError> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(ClientError::Timeout { path: self.path.clone(), timeout: self.timeout });
        }
        // The kernel counts in microseconds, and zero would mean for ever.
        Ok(remaining.max(Duration::from_micros(1)))
    }

    fn broken(&self, error: io::Error) -> ClientError {
        ClientError::Disconnected { path: self.path.clone(), source: Some(error) }
    }

    fn garbled(&self, message: String) -> ClientError {
        ClientError::Garbled { path: self.path.clone(), message: crate::explain::clip(&message) }
    }
}

/// Whether to look at the clock and try again.
fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// std's connect waits for ever where the daemon's backlog is full; the kernel's heeds the send timeout.
fn open_stream(path: &Path, timeout: Duration) -> Result<UnixStream, Errno> {
    let address = UnixAddr::new(path)?;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let microseconds = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(&descriptor, SendTimeout, &TimeVal::microseconds(microseconds))?;
    connect(descriptor.as_raw_fd(), &address)?;
    Ok(UnixStream::from(descriptor))
}

fn connect_error(path: &Path, timeout: Duration, errno: Errno) -> ClientError {
    let path = path.to_owned();
    match errno {
        Errno::EAGAIN | Errno::EINTR => ClientError::Timeout { path, timeout },
        Errno::EACCES | Errno::EPERM => {
            let group = group_of(&path);
            ClientError::Denied { path, group }
        }
        errno => ClientError::Unreachable { path, source: errno.into() },
    }
}

/// The group of the socket, where it is one that people join.
fn group_of(path: &Path) -> Option<String> {
    let gid = std::fs::metadata(path).ok()?.gid();
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten()?;
    (gid != 0).then_some(group.name)
}

#[cfg(test)]
mod tests;
