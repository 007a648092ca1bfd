//! `apply`, `save`, `check`: configuration files.

use std::io;
use std::path::Path;

use ctl::config::Config;
use ctl::config_file::{ConfigError, check_names_services, read_text, read_text_from};
use ctl::protocol::{Apply, Changed, Command, ErrorCode};
use ctl::validate::{Problem, validate};
use serde::Serialize;

use super::cli::{ApplyArguments, CheckArguments, SaveArguments};
use super::failure::Failure;
use super::{Session, changes, print};

/// A configuration file that was read.
struct ConfigFile {
    name: String,
    text: String,
    config: Config,
}

/// Result of `check`.
#[derive(Serialize)]
struct Checked {
    file: String,
    services: usize,
    real_servers: usize,
    ports: usize,
}

/// Result of `save FILE`.
#[derive(Serialize)]
struct Saved<'a> {
    file: &'a Path,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        let is_standard_input = path == Path::new("-");
        let name = if is_standard_input { "<stdin>".into() } else { path.to_string_lossy() };
        let text = if is_standard_input {
            read_text_from(io::stdin().lock(), Path::new(name.as_ref()))?
        } else {
            read_text(path)?
        };
        let config = Config::from_toml(&text, &name)?;
        Ok(ConfigFile { name: name.into_owned(), text, config })
    }

    /// Refuses problems that `matters` picks.
    fn validate(self, matters: impl Fn(&Problem) -> bool) -> Result<ConfigFile, Failure> {
        let mut problems = validate(&self.config).err().unwrap_or_default();
        problems.retain(matters);
        if problems.is_empty() {
            return Ok(self);
        }
        Err(Failure::Problems { file_name: self.name, text: self.text, problems })
    }
}

impl Session<'_> {
    /// The daemon judges capacities: a file without `director` is measured by those of the daemon, not by defaults.
    pub(super) fn apply(&self, arguments: &ApplyArguments) -> Result<(), Failure> {
        let file = ConfigFile::read(&arguments.file)?.validate(|problem| problem.code != ErrorCode::Full)?;
        check_names_services(&file.text, &file.name)?;
        let dry_run = arguments.dry_run;
        self.list(&Command::Apply(Apply { config: Box::new(file.config), dry_run }), |changed: &Changed| {
            let changes = changes::describe(changed);
            if dry_run && !changed.changes.is_empty() {
                format!("dry run, nothing was done. This would be:\n{changes}")
            } else {
                changes
            }
        })
    }

    pub(super) fn save(&self, arguments: &SaveArguments) -> Result<(), Failure> {
        let config: Config = self.call(&Command::Config)?;
        let Some(file) = arguments.file.as_ref().filter(|file| *file != Path::new("-")) else {
            return self.print(&config, Config::to_saved_toml);
        };
        config.write_atomically(file)?;
        self.print(&Saved { file }, |saved| format!("saved to {}\n", saved.file.display()))
    }

    pub(super) fn check(&self, arguments: &CheckArguments) -> Result<(), Failure> {
        let ConfigFile { name, config, .. } = ConfigFile::read(&arguments.file)?.validate(|_| true)?;
        let checked = Checked {
            file: name,
            services: config.services.len(),
            real_servers: config.services.iter().map(|service| service.real_servers.len()).sum(),
            ports: config.ports.len(),
        };
        self.print(&checked, |checked| {
            let Checked { file, services, real_servers, ports } = checked;
            format!(
                "{file}: valid: virtual services {services}, real servers {real_servers}, ports {ports}\n"
            )
        })?;
        if checked.ports == 0 && !self.arguments.json {
            return print(
                "note: without [[ports]] dr-director does not start with it, and the real servers' networks were not \
                 checked\n",
            );
        }
        Ok(())
    }
}
