//! Why a command failed: ipvsadm's text for it and ipvsadm's exit code. Where that text would not say what is wrong,
//! the director's own reason stands on lines of their own below it.

use crate::client::ClientError;
use crate::protocol::{ErrorCode, ErrorReply};

use super::command::Action;
use super::misuse::Misuse;

/// A failure as it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit code.
    pub exit_code: i32,
    /// One line or more, without the last newline.
    pub text: String,
}

/// What ipvsadm exits with where the kernel refused: -1.
const REFUSED: i32 = 255;
/// What ipvsadm exits with where a listing failed.
const LISTING_FAILED: i32 = 1;
/// What ipvsadm exits with where there is no IPVS.
const NO_IPVS: i32 = 2;
/// What it says then, before the reason.
const NO_IPVS_TEXT: &str = "Can't initialize ipvs: ";

/// What ipvsadm says to whom the kernel refuses everything.
const NOT_ROOT: &str = "Permission denied (you must be root)";

impl From<Misuse> for Failure {
    fn from(misuse: Misuse) -> Failure {
        Failure { exit_code: misuse.exit_code(), text: misuse.to_string() }
    }
}

/// A right command line that the kernel would refuse, or that the director cannot do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// EEXIST.
    #[error("Service already exists")]
    ServiceExists,
    /// EEXIST.
    #[error("Destination already exists")]
    DestinationExists,
    /// ESRCH of a service's own commands and of listings.
    #[error("No such service")]
    NoSuchService,
    /// ESRCH of a real server's commands.
    #[error("Service not defined")]
    ServiceNotDefined,
    /// ENOENT of a real server's commands.
    #[error("No such destination")]
    NoSuchDestination,
    /// ENOENT of a service's commands.
    #[error("Scheduler or persistence engine not found")]
    SchedulerOrEngine,
    /// ERANGE: the lower threshold is over the upper one.
    #[error("Numerical result out of range")]
    OutOfRange,
    /// EINVAL: an address that no host has.
    #[error("Invalid operation.  Possibly wrong module version, address not unicast, ...")]
    NotUnicast,
    /// ESRCH of `--stop-daemon`.
    #[error("No daemon is running")]
    NoDaemon,
    /// More than the director's and the manual's 65535.
    #[error("{}", Misuse::Weight)]
    Weight,
    /// `-f` and `-r host:port`.
    #[error(
        "dr-director: a real server of a firewall mark receives, but under NAT (-m), on the port that the client asked \
         for; leave :{0} out"
    )]
    Port(u16),
    /// `--start-daemon`.
    #[error("dr-director: it has no sync daemons yet")]
    SyncDaemon,
    /// More connections than the control protocol lists.
    #[error("dr-director: only the first {shown} of {matching} connections are listed")]
    ConnectionsCut {
        /// Those that are.
        shown: usize,
        /// Those that there are.
        matching: u64,
    },
}

impl Refusal {
    /// As a listing that fails, which exits with another code.
    pub(super) fn of_listing(self) -> Failure {
        Failure { exit_code: LISTING_FAILED, text: self.to_string() }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let exit_code = match refusal {
            Refusal::Weight => Misuse::Weight.exit_code(),
            Refusal::ConnectionsCut { .. } => LISTING_FAILED,
            _ => REFUSED,
        };
        Failure { exit_code, text: refusal.to_string() }
    }
}

impl Failure {
    /// The same as of a line of a file.
    pub(super) fn at_line(self, line: usize) -> Failure {
        Failure { text: format!("line {line}: {}", self.text), ..self }
    }

    /// What ipvsadm's text for an errno is, and the director's reason for it.
    fn with_reason(action: Action, errno_text: &str, reply: &ErrorReply) -> Failure {
        let text = format!("{errno_text}\n{}", own_reason(&reply.message, reply.help.as_deref()));
        Failure { exit_code: exit_code_of(action), text }
    }

    /// What the director refused, in ipvsadm's terms. Whether it is the service or the real server that does not exist,
    /// the caller knows and says with `is_service_missing`.
    pub(super) fn of_reply(action: Action, reply: &ErrorReply, is_service_missing: bool) -> Failure {
        let is_of_server = matches!(action, Action::AddServer | Action::EditServer | Action::DeleteServer);
        let refusal = match reply.code {
            ErrorCode::NotFound if !is_of_server => Refusal::NoSuchService,
            ErrorCode::NotFound if is_service_missing => Refusal::ServiceNotDefined,
            ErrorCode::NotFound => Refusal::NoSuchDestination,
            ErrorCode::Exists if action == Action::AddService => Refusal::ServiceExists,
            ErrorCode::Exists if action == Action::AddServer => Refusal::DestinationExists,
            // The kernel refuses as much before ipvsadm says what it wants.
            ErrorCode::Denied => {
                return Failure::no_ipvs(NOT_ROOT, &own_reason(&reply.message, reply.help.as_deref()));
            }
            ErrorCode::Exists | ErrorCode::Invalid => {
                return Failure::with_reason(action, &Refusal::NotUnicast.to_string(), reply);
            }
            ErrorCode::Full => return Failure::with_reason(action, "Memory allocation problem", reply),
            ErrorCode::BadRequest | ErrorCode::WrongVersion => {
                return Failure::with_reason(action, "Module is wrong version", reply);
            }
            ErrorCode::Timeout | ErrorCode::Internal => {
                let text = own_reason(&reply.message, reply.help.as_deref());
                return Failure { exit_code: exit_code_of(action), text };
            }
        };
        Failure { exit_code: exit_code_of(action), text: refusal.to_string() }
    }

    /// Nobody is there to be asked, or nobody that listens to this user.
    fn no_ipvs(reason: &str, own_reason: &str) -> Failure {
        let text = format!(
            "{NO_IPVS_TEXT}{reason}\n\
             Are you sure that IP Virtual Server is built in the kernel or as module?\n{own_reason}"
        );
        Failure { exit_code: NO_IPVS, text }
    }

    /// Nobody can be asked anything more.
    pub(super) fn is_of_no_ipvs(&self) -> bool {
        self.text.starts_with(NO_IPVS_TEXT)
    }

    /// The director did not answer.
    pub(super) fn of_client(action: Action, error: &ClientError) -> Failure {
        let own = own_reason(&error.to_string(), error.help().as_deref());
        match error {
            ClientError::Unreachable { source, .. } => Failure::no_ipvs(&strerror(source), &own),
            ClientError::Denied { .. } => Failure::no_ipvs(NOT_ROOT, &own),
            ClientError::Refused(reply) => Failure::of_reply(action, reply, false),
            _ => Failure { exit_code: exit_code_of(action), text: own },
        }
    }
}

fn exit_code_of(action: Action) -> i32 {
    if matches!(action, Action::List | Action::Save) { LISTING_FAILED } else { REFUSED }
}

/// `dr-director: …` on every line.
fn own_reason(message: &str, help: Option<&str>) -> String {
    let help = help.map(|help| format!("help: {help}"));
    let lines = message.lines().map(str::to_owned).chain(help);
    lines.map(|line| format!("dr-director: {line}")).collect::<Vec<_>>().join("\n")
}

/// An error of the system without the number that std writes behind it.
fn strerror(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
