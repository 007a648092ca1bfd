//! What the tool asks the director: behind a trait, so that the tests' director is one in memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::command::{Action, Family};
use super::failure::Failure;
use crate::client::{Client, ClientError, DEFAULT_TIMEOUT};
use crate::config::{GroupName, ServiceId};
use crate::protocol::{Command, ErrorCode, ErrorReply, Filter, Show};

/// Who answers commands of the control protocol.
pub trait Director {
    /// The result of a command.
    ///
    /// # Errors
    /// As [`Client::call`].
    fn ask(&mut self, command: &Command) -> Result<serde_json::Value, ClientError>;
}

/// The daemon behind a control socket, connected to when it is asked for the first time.
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    answer_timeout: Duration,
    client: Option<Client>,
}

impl Daemon {
    /// The one at `socket`.
    pub fn at(socket: &Path) -> Daemon {
        Daemon::within(socket, DEFAULT_TIMEOUT)
    }

    /// The one at `socket`, which has so long for each answer.
    pub fn within(socket: &Path, answer_timeout: Duration) -> Daemon {
        Daemon { socket: socket.to_owned(), answer_timeout, client: None }
    }
}

impl Director for Daemon {
    fn ask(&mut self, command: &Command) -> Result<serde_json::Value, ClientError> {
        if self.client.is_none() {
            self.client = Some(Client::connect_within(&self.socket, self.answer_timeout)?);
        }
        let client = self.client.as_mut().expect("connected above");
        client.call(command)
    }
}

/// Asks, and reads the answer.
pub(super) fn ask<T: DeserializeOwned>(
    director: &mut dyn Director,
    command: &Command,
) -> Result<T, ClientError> {
    serde_json::from_value(director.ask(command)?).map_err(|error| {
        let message = format!("the answer to {} is of another kind: {error}", command.verb());
        ClientError::Refused(ErrorReply::new(ErrorCode::BadRequest, message))
    })
}

/// Whether a service runs, and its real servers.
pub(super) fn show(director: &mut dyn Director, service: ServiceId) -> Result<Option<Show>, ClientError> {
    match ask::<Show>(director, &Command::Show(Filter { service: Some(service) })) {
        Ok(show) => Ok(Some(show).filter(|show| !show.services.is_empty())),
        Err(ClientError::Refused(reply)) if reply.code == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which group has which firewall mark, one of each family, as far as it matters: asked for where a command line names a mark, and kept up
/// to date with the changes that are not made yet.
#[derive(Debug, Default)]
pub(super) struct Marks {
    groups: Option<HashMap<(u32, Family), GroupName>>,
}

impl Marks {
    /// Every service is removed.
    pub(super) fn clear(&mut self) {
        self.groups = Some(HashMap::new());
    }

    /// The group of a mark.
    pub(super) fn group(
        &mut self,
        mark: u32,
        family: Family,
        director: &mut dyn Director,
    ) -> Result<Option<GroupName>, Failure> {
        if self.groups.is_none() {
            let show: Show = ask(director, &Command::Show(Filter::default()))
                .map_err(|error| Failure::of_client(Action::AddService, &error))?;
            let groups =
                show.services.iter().filter_map(|view| match (view.service.id, view.service.fwmark) {
                    (ServiceId::Group(name), Some(mark)) => Some(((mark, view.service.family()), name)),
                    _ => None,
                });
            self.groups = Some(groups.collect());
        }
        Ok(self.groups.as_ref().and_then(|groups| groups.get(&(mark, family)).copied()))
    }

    /// A group with a mark is added; who adds it has asked for the mark before.
    pub(super) fn insert(&mut self, mark: u32, family: Family, name: GroupName) {
        if let Some(groups) = &mut self.groups {
            groups.insert((mark, family), name);
        }
    }

    /// A group is removed.
    pub(super) fn remove(&mut self, name: GroupName) {
        if let Some(groups) = &mut self.groups {
            groups.retain(|_, known| *known != name);
        }
    }
}
