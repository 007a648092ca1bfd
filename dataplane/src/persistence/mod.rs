//! Persistence templates, until the table branch has them.

use crate::clock::Ticks;

/// What a template is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateKey;

/// No room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateTableFull;

/// The templates of all workers.
#[derive(Debug, Default)]
pub struct TemplateTable;

impl TemplateTable {
    /// Gives a template back.
    pub fn release(&self, _template: u32, _now: Ticks) {}
    /// Its client has a connection that is established.
    pub fn assure(&self, _template: u32) {}
}
