//! The verbs that change what runs: all print what they changed.

use ctl::protocol::{Changed, Command};

use super::Session;
use super::failure::Failure;

impl Session<'_> {
    pub(super) fn change(&self, command: &Command) -> Result<(), Failure> {
        self.list(command, describe)
    }
}

/// One line a change.
pub(super) fn describe(changed: &Changed) -> String {
    if changed.changes.is_empty() {
        return "no changes\n".to_owned();
    }
    changed.changes.iter().map(|change| format!("{change}\n")).collect()
}
