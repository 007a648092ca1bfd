//! Persistence: what keeps a client with the real server that it had before.
//!
//! | module | holds |
//! |---|---|
//! | [`key`] | what names a template: clients and what they came for, or a Call-ID |
//! | [`table`] | the templates of all workers: find, open, hold, release, invalidate |
//! | [`sweep`] | each worker's share of ending those whose time is over |
//! | [`reader`] | how other threads list them |
//! | `bucket`, `entry`, `free_list` | the words that all of this is made of, and which thread may change which |
//!
//! IPVS's rules (`ip_vs_sched_persist`): each new connection re-arms its template's timer; a template whose time is over
//! while it controls connections goes on for another minute; one whose real server may not be used is invalidated, and
//! the next connection makes a new one.

mod bucket;
mod entry;
mod free_list;
pub mod key;
pub mod reader;
pub mod sweep;
pub mod table;

pub use key::{TemplateKey, TemplateScope};
pub use reader::Template;
pub use sweep::TemplateSweep;
pub use table::{Opened, TemplateId, TemplateLimits, TemplateTable, TemplateTableFull};
