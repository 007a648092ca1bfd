//! Until the table branch has it.

use dataplane::clock::Ticks;
use dataplane::snapshot::PersistenceScope;

/// stub
#[derive(Clone, Debug, Default)]
pub struct TemplateReader;
/// stub
#[derive(Clone, Debug)]
pub struct Template {
    /// stub
    pub expires: Ticks,
    /// stub
    pub scope: PersistenceScope,
}
impl TemplateReader {
    /// stub
    pub fn len(&self) -> u32 {
        0
    }
    /// stub
    pub fn capacity(&self) -> u32 {
        16
    }
}
