//! `ipvsadm` as `dr-ctl` plays it.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Does what ipvsadm does, against the daemon at `socket`. The first argument is the name that it was called by:
/// `ipvsadm`, `ipvsadm-save` or `ipvsadm-restore`.
pub fn run(arguments: Vec<OsString>, socket: &Path) -> ExitCode {
    let name = arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    eprintln!("{name}: this dr-ctl ({}) has no ipvsadm", socket.display());
    ExitCode::from(2)
}
