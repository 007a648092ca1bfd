//! `drain-rs --wait`: looks every second what is left, until the real server is gone or has no connections.

use std::thread;
use std::time::{Duration, Instant};

use ctl::client::ClientError;
use ctl::protocol::{Changed, Command, ErrorCode, Filter, RealServerView, Show};
use serde::Serialize;

use super::cli::DrainWait;
use super::failure::Failure;
use super::listings::duration;
use super::{Session, changes, print};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);

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

impl Session<'_> {
    pub(super) fn drain_and_wait(&self, wait: &DrainWait) -> Result<(), Failure> {
        let changed: Changed = self.call(&Command::DrainRs(wait.drain))?;
        let is_talkative = !self.arguments.json;
        if is_talkative {
            print(&changes::describe(&changed))?;
        }
        let start = Instant::now();
        let mut last_said = String::new();
        loop {
            let left = self.left(wait)?;
            let is_over = match &left {
                None => true,
                Some(left) => wait.drain.timeout_seconds.is_none() && connections(left) == 0,
            };
            if is_over {
                return self.tell_end(wait, changed, left.is_none(), start.elapsed());
            }
            let said = left.as_ref().map(describe).unwrap_or_default();
            if is_talkative && said != last_said {
                print(&format!("{said}\n"))?;
            }
            if time_max(wait).is_some_and(|max| start.elapsed() >= max) {
                let message =
                    format!("{} of {} is still there: {said}", wait.drain.address, wait.drain.service);
                return Err(Failure::StillDraining { message });
            }
            last_said = said;
            thread::sleep(INTERVAL);
        }
    }

    /// None: it is gone, or its service is.
    fn left(&self, wait: &DrainWait) -> Result<Option<RealServerView>, ClientError> {
        let command = Command::Show(Filter { service: Some(wait.drain.service) });
        match self.call::<Show>(&command) {
            Ok(show) => {
                let mut real_servers = show.services.into_iter().flat_map(|service| service.real_servers);
                Ok(real_servers.find(|real_server| real_server.address == wait.drain.address))
            }
            Err(ClientError::Refused(reply)) if reply.code == ErrorCode::NotFound => Ok(None),
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
            format!("real server {} of {} {end}, after {waited}\n", wait.drain.address, wait.drain.service)
        })
    }
}

/// None: for ever.
fn time_max(wait: &DrainWait) -> Option<Duration> {
    let own = wait.seconds_max.map(|seconds| Duration::from_secs(seconds.into()));
    let deadline = wait.drain.timeout_seconds;
    own.or_else(|| deadline.map(|seconds| Duration::from_secs(seconds.into()) + GRACE))
}

fn connections(left: &RealServerView) -> u64 {
    u64::from(left.active_connections) + u64::from(left.inactive_connections)
}

fn describe(left: &RealServerView) -> String {
    let RealServerView { active_connections, inactive_connections, persistent_connections, .. } = left;
    let counts = format!(
        "connections left: {active_connections} active, {inactive_connections} inactive, {persistent_connections} \
         persistence templates"
    );
    match left.drain_seconds_left {
        Some(seconds) => format!("{counts}; it goes in {} at the latest", duration(seconds)),
        None => counts,
    }
}
