//! Connections: what each worker remembers of the flows that it forwards.
//!
//! | module | holds |
//! |---|---|
//! | [`both_ways`] | what packets of both directions do to the states, for NAT |
//! | [`bucket`] | what the table finds connections by |
//! | [`companions`] | connections whose addresses are translated |
//! | [`event`] | what a packet is to a state |
//! | [`key`] | what names a connection, and its hash |
//! | [`state`] | IPVS's states as seen from the client's side, and their timeouts |
//! | [`entry`] | a connection, and the entry that holds it |
//! | [`table`] | the table: lookup, insertion, expiry |
//! | [`lookup`] | how other workers find whose a packet is |
//! | [`reader`] | how other threads read it |

pub mod both_ways;
mod bucket;
pub mod companions;
pub mod entry;
pub mod event;
pub mod key;
pub mod lookup;
pub mod reader;
pub mod state;
pub mod table;

pub use companions::Translated;
pub use entry::{Connection, ConnectionFlags, LastHop};
pub use event::Event;
pub use key::{FlowKey, FlowSeed, Ipv6Pair, Tuple};
pub use lookup::TableLookup;
pub use reader::{Record, TableReader};
pub use state::{ConnectionState, StateTimeouts};
pub use table::ConnectionTable;
