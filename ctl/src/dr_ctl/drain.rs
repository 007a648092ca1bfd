//! `drain-rs --wait`: looks every second what is left, until the real server is gone or has no connections, for as long as
//! the drain is the one that was set. Somebody else may end or change it meanwhile, and then nothing that was waited for
//! has happened.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ctl::client::ClientError;
use ctl::config::Drain;
use ctl::protocol::{Changed, Command, DrainRs, ErrorCode, Filter, RealServerView, Show};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use serde::Serialize;

use super::cli::DrainWait;
use super::failure::Failure;
use super::listings::duration;
use super::{Session, changes, print};

/// How often it looks.
const INTERVAL_MILLISECONDS: u16 = 1000;

/// What the daemon may need to remove a real server after its deadline.
const GRACE: Duration = Duration::from_secs(10);

/// Result of `drain-rs --wait`.
#[derive(Serialize)]
struct Drained {
    changes: Vec<String>,
    /// It is gone; else it has no connections left and stays, drained.
    is_removed: bool,
    waited_seconds: u64,
}

/// What one look finds.
enum Found {
    /// It is not there, or its service is not.
    Gone,
    There(Box<RealServerView>),
    /// The daemon did not answer in time: the next look may find more.
    NoAnswer(ClientError),
}

impl Session<'_> {
    pub(super) fn drain_and_wait(&self, wait: &DrainWait) -> Result<(), Failure> {
        let changed: Changed = self.call(&Command::DrainRs(wait.drain))?;
        let is_talkative = !self.arguments.json;
        if is_talkative {
            print(&changes::describe(&changed))?;
        }
        let start = Instant::now();
        let (mut drain_set, mut counts_said) = (None, None);
        loop {
            let found = self.look(wait)?;
            let is_time_over = time_max(wait).is_some_and(|max| start.elapsed() >= max);
            match found {
                Found::Gone => return self.tell_end(wait, changed, true, start.elapsed()),
                Found::NoAnswer(error) if is_time_over => return Err(error.into()),
                Found::NoAnswer(_) => {}
                Found::There(left) => {
                    check_drain(&wait.drain, drain_set, left.drain)?;
                    drain_set = left.drain;
                    if wait.drain.timeout_seconds.is_none() && is_empty(&left, wait.drain.keep_persistent) {
                        return self.tell_end(wait, changed, false, start.elapsed());
                    }
                    let counts = describe(&left);
                    if is_time_over {
                        let DrainRs { real_server, service, .. } = wait.drain;
                        let message = format!("{real_server} of {service} is still there: {counts}");
                        return Err(Failure::StillDraining { message });
                    }
                    if is_talkative && counts_said.as_ref() != Some(&counts) {
                        let is_first = counts_said.is_none();
                        let deadline = left.drain_seconds_left.filter(|_| is_first).map(describe_deadline);
                        print(&format!("{counts}{}\n", deadline.unwrap_or_default()))?;
                    }
                    counts_said = Some(counts);
                }
            }
            sleep_while_somebody_reads()?;
        }
    }

    fn look(&self, wait: &DrainWait) -> Result<Found, ClientError> {
        let command = Command::Show(Filter { service: Some(wait.drain.service) });
        match self.call::<Show>(&command) {
            Ok(show) => {
                let mut real_servers = show.services.into_iter().flat_map(|service| service.real_servers);
                let found = real_servers.find(|real_server| real_server.id() == wait.drain.real_server);
                Ok(found.map_or(Found::Gone, |left| Found::There(Box::new(left))))
            }
            Err(ClientError::Refused(reply)) if reply.code == ErrorCode::NotFound => Ok(Found::Gone),
            Err(error @ ClientError::Timeout { .. }) => Ok(Found::NoAnswer(error)),
            Err(error) => Err(error),
        }
    }

    fn tell_end(
        &self,
        wait: &DrainWait,
        changed: Changed,
        is_removed: bool,
        waited: Duration,
    ) -> Result<(), Failure> {
        let Changed { changes } = changed;
        let drained = Drained { changes, is_removed, waited_seconds: waited.as_secs() };
        self.print(&drained, |drained| {
            let end = if drained.is_removed { "is removed" } else { "has no connections left" };
            let waited = duration(drained.waited_seconds);
            format!(
                "real server {} of {} {end}, after {waited}\n",
                wait.drain.real_server, wait.drain.service
            )
        })
    }
}

/// Refuses a drain that is not the one of the last look or, at the first look, not of the kind that was asked for.
fn check_drain(asked: &DrainRs, last: Option<Drain>, now: Option<Drain>) -> Result<(), Failure> {
    let is_of_the_kind = now.is_some_and(|now| {
        now.until_unix_seconds.is_some() == asked.timeout_seconds.is_some()
            && now.keep_persistent == asked.keep_persistent
    });
    if is_of_the_kind && last.is_none_or(|last| now == Some(last)) {
        return Ok(());
    }
    let what = match now {
        None => "it is drained no more and gets new connections",
        Some(_) => "it is drained in another way or until another time",
    };
    let DrainRs { real_server, service, .. } = asked;
    let message = format!("the drain of {real_server} of {service} was changed by somebody else: {what}");
    Err(Failure::DrainChanged { message })
}

/// Nobody waits for the end of a wait whose output is closed (`| head -1`). A write would find that out only with the
/// next thing to say, which may be hours later.
fn sleep_while_somebody_reads() -> Result<(), Failure> {
    let output = io::stdout();
    // Closed and broken ones are told whatever is asked for.
    let mut watched = [PollFd::new(output.as_fd(), PollFlags::empty())];
    match poll(&mut watched, INTERVAL_MILLISECONDS) {
        Ok(0) | Err(Errno::EINTR) => Ok(()),
        Ok(_) => Err(Failure::Output(io::ErrorKind::BrokenPipe.into())),
        Err(errno) => Err(Failure::Output(errno.into())),
    }
}

/// None: for ever.
fn time_max(wait: &DrainWait) -> Option<Duration> {
    let own = wait.seconds_max.map(|seconds| Duration::from_secs(seconds.into()));
    let deadline = wait.drain.timeout_seconds;
    own.or_else(|| deadline.map(|seconds| Duration::from_secs(seconds.into()) + GRACE))
}

/// No connection is left, and no client that may still open one.
fn is_empty(left: &RealServerView, keeps_persistent: bool) -> bool {
    let has_clients = keeps_persistent && left.persistent_connections > 0;
    left.active_connections == 0 && left.inactive_connections == 0 && !has_clients
}

fn describe(left: &RealServerView) -> String {
    let RealServerView { active_connections, inactive_connections, persistent_connections, .. } = left;
    format!(
        "connections left: {active_connections} active, {inactive_connections} inactive, {persistent_connections} \
         persistence templates"
    )
}

fn describe_deadline(seconds_left: u64) -> String {
    format!("; it goes in {} at the latest", duration(seconds_left))
}
