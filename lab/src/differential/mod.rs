//! The differential test against the kernel: the same frames in the same order go into the kernel's IPVS and into
//! dr-director, and what came of each is compared, and after it the listing.
//!
//! ```text
//!  scenario ──► run ──┬──► kernel (in the VM) ──────► transcript = golden file
//!                     └──► dr-director ─────────────► transcript ──► comparison ──► differences
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`scenario`] | the scenario's text: steps, and what came of them |
//! | [`frame`] | one frame of a scenario, as text and as bytes |
//! | [`packet`] | a whole packet of a scenario, as text and as bytes |
//! | [`neighbours`] | who is on the director's links |
//! | [`listing`] | what `ipvsadm -L` shows, without what depends on the moment |
//! | [`generator`] | scenarios from seeds |
//! | [`packet_generator`] | the same of whole packets |
//! | [`collection`] | every scenario, every golden file, by name |
//! | [`wire`] | the far end of the director's cable: frames in, forwarded frames out |
//! | [`run`] | a scenario through either of the two |
//! | [`kernel`] | the kernel's IPVS in a namespace |
//! | [`traces`] | what a scenario leaves in the director, so that others cannot be run by the same |
//! | [`director`] | dr-director in a namespace |
//! | [`comparison`] | differences |
//! | [`deviations`] | those that are stated |
//! | [`rules`] | those that every packet of a kind has |

pub mod collection;
pub mod comparison;
pub mod deviations;
pub mod director;
pub mod frame;
pub mod generator;
pub mod kernel;
pub mod listing;
pub mod neighbours;
pub mod packet;
pub mod packet_generator;
pub mod rules;
pub mod run;
pub mod scenario;
pub mod traces;
pub mod wire;
