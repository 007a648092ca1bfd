//! dr-director: the command line. All else is in the library.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use director::startup::{self, InvalidConfig};

/// The exit code for a configuration that is refused, as dr-ctl has it.
const REFUSED: u8 = 5;

/// An LVS director in user space: forwards packets for virtual services to real servers by direct routing, tunnels or NAT.
#[derive(Debug, Parser)]
#[command(name = "dr-director", version, after_help = "The log goes to stderr; RUST_LOG=debug says more.")]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/dr-director/director.toml")]
    config: PathBuf,

    /// Check the configuration file, start nothing. Exit code 5 where it is refused.
    #[arg(long)]
    check: bool,

    #[command(subcommand)]
    generated: Option<Generated>,
}

#[derive(Debug, Subcommand)]
enum Generated {
    /// Print the man page.
    #[command(hide = true)]
    Man,
    /// Print a shell's completions.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do where stderr is closed.
            let _ = writeln!(io::stderr(), "dr-director: {}", describe(&error));
            let is_refused = arguments.check && error.downcast_ref::<InvalidConfig>().is_some();
            if is_refused { ExitCode::from(REFUSED) } else { ExitCode::FAILURE }
        }
    }
}

/// The error and its causes, each said once: most messages quote their cause already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.generated {
        Some(Generated::Man) => {
            clap_mangen::Man::new(Arguments::command()).render(&mut io::stdout())?;
            return Ok(());
        }
        Some(Generated::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Arguments::command(), "dr-director", &mut io::stdout());
            return Ok(());
        }
        None => {}
    }
    let config = startup::read_config(&arguments.config)?;
    if arguments.check {
        let real_servers: usize = config.services.iter().map(|service| service.real_servers.len()).sum();
        let (file, services) = (arguments.config.display(), config.services.len());
        writeln!(io::stdout(), "{file}: ok, {services} services, {real_servers} real servers")?;
        return Ok(());
    }
    startup::run(config)
}
