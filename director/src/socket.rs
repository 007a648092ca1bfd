//! The control socket: newline-delimited JSON, one client a task, every client bounded in bytes and time.
//!
//! Control thread only. What a client may cost: a request of at most [`REQUEST_BYTES_MAX`] within
//! [`REQUEST_TIMEOUT`], all requests together, from their first byte to their answer, at most [`BUFFERED_BYTES_MAX`] and a
//! small one of each client (memory is taken as the bytes come), an answer that it reads within
//! [`ANSWER_TIMEOUT`]. At most [`CLIENTS_MAX`] clients; one more, and the one idle longest is told and closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ctl::protocol::{Command, ErrorCode, ErrorReply, REQUEST_BYTES_MAX, Response};
use ctl::request::parse_request;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, chown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::access::{self, AccessRule, Caller};
use crate::commands::{Executed, execute};
use crate::control::SharedControl;

/// Clients at once.
pub const CLIENTS_MAX: usize = 256;
/// From a request's first byte to its newline.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// From an answer's first byte to its last, taken by the client's socket buffer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests of all clients together, from their first byte to their answer: two of the longest. What is made of their text
/// takes a few times that. Small requests, of at most [`LARGE_REQUEST_BYTES`], are served above it too: somebody must be
/// able to look while others load large tables.
pub const BUFFERED_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// Read from a client at once.
const READ_BYTES: usize = 64 * 1024;
/// Requests and answers larger than this are parsed and written on another thread: tens of milliseconds.
pub const LARGE_REQUEST_BYTES: usize = 64 * 1024;
const LARGE_ANSWER_ROWS: usize = 256;
/// A group database that does not answer by then admits nobody.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after accept failed, so that a lack of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is missing and cannot be made.
    #[error("control socket {path}: its directory cannot be made: {source}")]
    Directory {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens there.
    #[error(
        "control socket {path}: a director listens there already; stop it, or set director.control_socket"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file, directory or something else is in its place.
    #[error("control socket {path}: something that is no socket is in its place; move it away")]
    NotASocket {
        /// The socket.
        path: PathBuf,
    },
    /// The group is not known.
    #[error("control socket {path}: director.control_group: {reason}")]
    Group {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system refused.
    #[error("control socket {path}: {step}: {source}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What was refused.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A listening control socket; dropping it removes it from the file system.
#[derive(Debug)]
pub struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    /// Device and inode: only what was made here is removed.
    identity: (u64, u64),
    rule: AccessRule,
}

impl ControlSocket {
    /// Listens at `path`, for root, the own user and `group`.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let owned = path.to_owned();
        let refused = |step| move |source| SocketError::Refused { path: path.to_owned(), step, source };
        let group = group.map(access::find_group).transpose();
        let group = group.map_err(|reason| SocketError::Group { path: path.to_owned(), reason })?;
        make_directory(path, group)
            .map_err(|source| SocketError::Directory { path: path.to_owned(), source })?;
        remove_stale(path)?;
        // 0660 from its first instant: the mask covers what chmod would come too late for. Nothing else makes files
        // now, for the workers never do.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = std::os::unix::net::UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(refused("listening there"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(refused("looking at it"))?;
        let identity = (metadata.dev(), metadata.ino());
        let bound = ControlSocket { listener, path: owned, identity, rule: AccessRule::new(group) };
        bound.listener.set_nonblocking(true).map_err(refused("making it non-blocking"))?;
        chown(path, None, group)
            .map_err(|errno| refused("giving it to director.control_group")(errno.into()))?;
        Ok(bound)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            // Nothing can be done about it, and the next start finds that nobody listens.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make_directory(path: &Path, group: Option<Gid>) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
    else {
        return Ok(());
    };
    DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    chown(parent, None, group).map_err(io::Error::from)
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let refused = |step| move |source| SocketError::Refused { path: path.to_owned(), step, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("looking at it")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|e| refused("trying it")(e.into()))?;
    let address = UnixAddr::new(path).map_err(|errno| refused("trying it")(errno.into()))?;
    match connect(probe.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => {
            std::fs::remove_file(path).map_err(refused("removing what a former one left"))
        }
        // A full backlog is somebody's too.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(errno) => Err(refused("trying whether somebody listens there")(errno.into())),
    }
}

/// A client as the others know it.
#[derive(Debug)]
struct Client {
    /// When its last request was answered, or it connected: bytes that trickle in do not count as life.
    idle_since: Cell<Instant>,
    is_served: Cell<bool>,
    eviction: Notify,
}

/// All clients.
#[derive(Debug, Default)]
struct Clients {
    by_number: RefCell<BTreeMap<u64, Rc<Client>>>,
    buffered: Cell<usize>,
}

impl Clients {
    /// Makes room for one more; false where every client is being served.
    fn make_room(&self) -> bool {
        let mut clients = self.by_number.borrow_mut();
        if clients.len() < CLIENTS_MAX {
            return true;
        }
        let idle = clients.iter().filter(|(_, client)| !client.is_served.get());
        let Some(number) = idle.min_by_key(|(_, client)| client.idle_since.get()).map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(client) = clients.remove(&number) {
            client.eviction.notify_one();
        }
        true
    }
}

/// Serves clients for ever.
pub async fn serve(control: SharedControl, socket: &ControlSocket) -> io::Result<Infallible> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let clients = Rc::new(Clients::default());
    for number in 0_u64.. {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !clients.make_room() {
            let reply = ErrorReply::new(ErrorCode::Full, format!("{CLIENTS_MAX} clients are being served"));
            tell(&stream, reply.with_help("try again in a moment"));
            continue;
        }
        let client = Rc::new(Client {
            idle_since: Cell::new(Instant::now()),
            is_served: Cell::new(false),
            eviction: Notify::new(),
        });
        clients.by_number.borrow_mut().insert(number, client.clone());
        control.borrow_mut().clients = clients.by_number.borrow().len();
        let session = Session {
            control: control.clone(),
            rule: socket.rule,
            clients: clients.clone(),
            client,
            stream,
            received: Vec::new(),
            searched: 0,
            accounted: 0,
        };
        tokio::task::spawn_local(session.run(number));
    }
    unreachable!("more than 2^64 clients")
}

/// Tells a client something without waiting for it.
fn tell(stream: &UnixStream, reply: ErrorReply) {
    // A client whose buffer is full is closed unheard.
    let _ = stream.try_write(&Response::error(reply).to_line());
}

/// Why a client's turn is over.
enum End {
    /// It closed, or failed.
    Closed,
    /// It is told this and closed.
    Told(ErrorReply),
    /// Somebody else needs its place.
    Evicted,
}

/// One client.
struct Session {
    control: SharedControl,
    rule: AccessRule,
    clients: Rc<Clients>,
    client: Rc<Client>,
    stream: UnixStream,
    /// Read and not yet executed.
    received: Vec<u8>,
    /// Bytes of it that are known to hold no newline.
    searched: usize,
    /// This client's share of [`Clients::buffered`].
    accounted: usize,
}

impl Session {
    async fn run(mut self, number: u64) {
        let end = match self.admit().await {
            Ok(caller) => self.serve(caller).await,
            Err(end) => end,
        };
        match end {
            End::Closed => {}
            End::Told(reply) => {
                let _ = self.write(&Response::error(reply).to_line()).await;
            }
            End::Evicted => {
                let reason =
                    format!("closed: {CLIENTS_MAX} clients are connected and this one was idle longest");
                tell(&self.stream, ErrorReply::new(ErrorCode::Full, reason).with_help("connect again"));
            }
        }
        self.account(0);
        self.clients.by_number.borrow_mut().remove(&number);
        self.control.borrow_mut().clients = self.clients.by_number.borrow().len();
    }

    async fn admit(&mut self) -> Result<Caller, End> {
        let credentials = self.stream.peer_cred().map_err(|_| End::Closed)?;
        let caller =
            Caller { pid: credentials.pid().unwrap_or(0), uid: credentials.uid(), gid: credentials.gid() };
        let rule = self.rule;
        let is_admitted = rule.admits_at_once(caller) || {
            let lookup = tokio::task::spawn_blocking(move || rule.admits_by_database(caller));
            matches!(timeout(DATABASE_TIMEOUT, lookup).await, Ok(Ok(true)))
        };
        if is_admitted {
            return Ok(caller);
        }
        self.control.borrow_mut().count_request("connect", code_name(ErrorCode::Denied));
        if self.control.borrow_mut().may_log() {
            tracing::warn!(
                "control socket: denied to pid {}, uid {}, gid {}",
                caller.pid,
                caller.uid,
                caller.gid
            );
        }
        let message = format!("user {} may not command this director", caller.uid);
        let help = "run as root, or as a member of the group in director.control_group";
        Err(End::Told(ErrorReply::new(ErrorCode::Denied, message).with_help(help)))
    }

    async fn serve(&mut self, caller: Caller) -> End {
        loop {
            let line = match self.next_line().await {
                Ok(line) => line,
                Err(end) => return end,
            };
            self.client.is_served.set(true);
            let answer = answer(&self.control, caller, line).await;
            self.account(self.received.len());
            let is_written = self.write(&answer).await;
            self.client.is_served.set(false);
            self.client.idle_since.set(Instant::now());
            if is_written.is_err() {
                return End::Closed;
            }
            // A client that sends without pause leaves the others their turn.
            tokio::task::yield_now().await;
        }
    }

    /// The next request without its newline.
    async fn next_line(&mut self) -> Result<Vec<u8>, End> {
        let mut deadline = None;
        loop {
            let newline = self.received[self.searched..].iter().position(|&byte| byte == b'\n');
            if let Some(offset) = newline {
                let rest = self.received.split_off(self.searched + offset + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                self.searched = 0;
                line.pop();
                return Ok(line);
            }
            self.searched = self.received.len();
            if self.received.len() >= REQUEST_BYTES_MAX {
                return Err(self.refuse(
                    ErrorCode::BadRequest,
                    format!("no newline within {REQUEST_BYTES_MAX} bytes: a request is one line of JSON"),
                ));
            }
            if !self.received.is_empty() && deadline.is_none() {
                deadline = Some(Instant::now() + REQUEST_TIMEOUT);
            }
            self.read(deadline).await?;
        }
    }

    async fn read(&mut self, deadline: Option<Instant>) -> Result<(), End> {
        let client = self.client.clone();
        self.received.reserve(if self.received.is_empty() { 1024 } else { READ_BYTES });
        let room = REQUEST_BYTES_MAX - self.received.len();
        let mut limited = (&mut self.stream).take(room as u64);
        let reading = limited.read_buf(&mut self.received);
        let far = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let read = tokio::select! {
            read = timeout_at(deadline.unwrap_or(far), reading) => read,
            () = client.eviction.notified() => return Err(End::Evicted),
        };
        match read {
            Ok(Ok(0)) => {
                let is_half = !self.received.is_empty();
                let reason = "the connection ended within a request: a request ends with a newline";
                Err(if is_half { self.refuse(ErrorCode::BadRequest, reason) } else { End::Closed })
            }
            Ok(Ok(_)) => {
                let mine = self.received.len();
                self.account(mine);
                if mine > LARGE_REQUEST_BYTES && self.clients.buffered.get() > BUFFERED_BYTES_MAX {
                    let reason = format!("other requests hold most of {BUFFERED_BYTES_MAX} bytes already");
                    return Err(self.refuse(ErrorCode::Full, reason));
                }
                Ok(())
            }
            Ok(Err(_)) => Err(End::Closed),
            Err(_) => {
                let reason = format!("no whole request within {} s of its start", REQUEST_TIMEOUT.as_secs());
                Err(self.refuse(ErrorCode::BadRequest, reason))
            }
        }
    }

    fn refuse(&self, code: ErrorCode, reason: impl Into<String>) -> End {
        self.control.borrow_mut().count_request("invalid", code_name(code));
        End::Told(ErrorReply::new(code, reason))
    }

    /// Keeps the sum over all clients, where this one's share becomes `now`.
    fn account(&mut self, now: usize) {
        let total = &self.clients.buffered;
        total.set(total.get() - self.accounted + now);
        self.accounted = now;
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(ANSWER_TIMEOUT, self.stream.write_all(bytes)).await?
    }
}

/// Executes one request, logs it where it is a change, and writes the answer.
async fn answer(control: &SharedControl, caller: Caller, line: Vec<u8>) -> Vec<u8> {
    let parsed = match line.len() > LARGE_REQUEST_BYTES {
        true => {
            tokio::task::spawn_blocking(move || parse_request(&line)).await.unwrap_or_else(|_| Err(crashed()))
        }
        false => parse_request(&line),
    };
    let command = match parsed {
        Ok(command) => command,
        Err(reply) => {
            control.borrow_mut().count_request("invalid", code_name(reply.code));
            return Response::error(reply).to_line();
        }
    };
    let result = execute(control, &command).await;
    let outcome = result.as_ref().map_or_else(|reply| code_name(reply.code), |_| "ok");
    control.borrow_mut().count_request(command.verb(), outcome);
    if command.is_change() {
        log_change(control, caller, &command, outcome, &result);
    }
    match result {
        Ok(executed) if executed.rows() > LARGE_ANSWER_ROWS => {
            let written = tokio::task::spawn_blocking(move || executed.to_line()).await;
            written.unwrap_or_else(|_| Response::error(crashed()).to_line())
        }
        Ok(executed) => executed.to_line(),
        Err(reply) => Response::error(reply).to_line(),
    }
}

/// Changes of one request that the log names, so that an `apply` of thousands stays one line.
const CHANGES_LOGGED: usize = 8;

fn log_change(
    control: &SharedControl,
    caller: Caller,
    command: &Command,
    outcome: &str,
    result: &Result<Executed, ErrorReply>,
) {
    let generation = match result {
        Ok(executed) => executed.generation,
        Err(_) => control.borrow().oldest_running(),
    };
    let Caller { pid, uid, gid } = caller;
    let changes = result.as_ref().map_or(&[][..], Executed::changes);
    let named = changes.iter().take(CHANGES_LOGGED).map(|change| format!("; {change}")).collect::<String>();
    let more = match changes.len().saturating_sub(CHANGES_LOGGED) {
        0 => String::new(),
        count => format!("; and {count} more"),
    };
    tracing::info!(
        "change by pid {pid}, uid {uid}, gid {gid}: {}: {outcome}, generation {generation}{named}{more}",
        command.verb()
    );
}

fn crashed() -> ErrorReply {
    ErrorReply::new(ErrorCode::Internal, "the request crashed a thread of the director; its log says more")
}

/// The error's name in metrics and log, as in the protocol.
pub fn code_name(code: ErrorCode) -> &'static str {
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
