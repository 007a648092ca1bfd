//! Connections: what each worker remembers of the flows that it forwards.
//!
//! | module | holds |
//! |---|---|
//! | [`event`] | what a packet is to a state |
//! | [`key`] | what names a connection, and its hash |
//! | [`state`] | IPVS's states as seen from the client's side, and their timeouts |
//! | [`table`] | the table: lookup, insertion, expiry |

pub mod event;
pub mod key;
pub mod state;
pub mod table;

pub use event::Event;
pub use key::{FlowKey, FlowSeed};
pub use state::{ConnectionState, StateTimeouts};
pub use table::{Connection, ConnectionTable};
