//! `dr-ctl`: the command line of dr-director.

use std::process::ExitCode;

mod dr_ctl;

fn main() -> ExitCode {
    dr_ctl::run()
}
