//! A service whose clients stay with their real server, until the table branch has templates.

use super::open::Opening;
use crate::snapshot::Persistence;
use crate::verdict::{DropReason, StatelessReason};

impl Opening<'_> {
    /// A service whose clients stay.
    pub(super) fn persist(self, _persistence: &Persistence, _frame: &[u8]) -> Result<u32, DropReason> {
        self.by_ring(StatelessReason::TemplateTableFull)
    }
}
