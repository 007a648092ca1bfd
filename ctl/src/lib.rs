//! What `dr-director` and `dr-ctl` share: the configuration schema and the control protocol.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the schema of the configuration file |
//! | [`config_file`] | the file itself: TOML read with errors that show the line, written atomically |
//! | [`validate`] | is a configuration, or a change to it, valid? |
//! | [`source_map`] | from a place in the configuration to its line in the file |
//! | [`protocol`] | requests and answers on the control socket |
//! | [`request`] | a request as a line of JSON, read with errors that name the place |
//! | [`ipvsadm`] | ipvsadm's command line and output |
//! | [`client`] | the blocking client of the control socket |
//! | [`mac`] | MAC addresses as people write them |
//! | [`nearest`] | what an unknown word was meant to be |

pub mod algorithm;
pub mod client;
pub mod config;
pub mod config_file;
mod drain;
mod explain;
pub mod ipvsadm;
pub mod mac;
pub mod nearest;
pub mod protocol;
pub mod request;
pub mod scheduler_flags;
mod service_text;
pub mod source_map;
mod text;
pub mod validate;
