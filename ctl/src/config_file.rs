//! The configuration as a TOML file: read with errors that show the line, written so that it is whole or not there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::config::Config;
use crate::explain::explain;
use crate::protocol::ErrorCode;
use crate::source_map::{Position, SourceMap, excerpt, position};

/// Longest configuration file, in bytes: hundreds of thousands of real servers.
pub const CONFIG_BYTES_MAX: usize = 16 << 20;

/// Why a configuration file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too long.
    #[error("{}: it is longer than {CONFIG_BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The text is not a configuration.
    #[error(transparent)]
    Text(Box<TextError>),
    /// The file cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A text that is not a configuration: no TOML, an unknown key, a wrong type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file_name}:{position}: {}{message}\n{excerpt}", place_prefix(place))]
pub struct TextError {
    /// The file's name, as given.
    pub file_name: String,
    /// Where in the file.
    pub position: Position,
    /// Where in the configuration (`services[2].real_servers[0].weight`); empty where the text is no TOML.
    pub place: String,
    /// What and why.
    pub message: String,
    /// The line, and a caret under what is wrong.
    pub excerpt: String,
    /// What to do about it.
    pub help: Option<String>,
}

fn place_prefix(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}

impl ConfigError {
    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        match self {
            ConfigError::Text(error) => error.help.as_deref(),
            ConfigError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("give the path of a file that exists, or - for the standard input")
            }
            ConfigError::Unreadable { source, .. } | ConfigError::Unwritable { source, .. } => {
                match source.kind() {
                    io::ErrorKind::PermissionDenied => Some("use an account that may"),
                    io::ErrorKind::NotFound => Some("make its folder first"),
                    _ => None,
                }
            }
            ConfigError::TooLong { .. } => Some("a configuration is TOML text: is this the right file?"),
        }
    }

    /// Its class.
    pub fn code(&self) -> ErrorCode {
        match self {
            ConfigError::Text(_) | ConfigError::TooLong { .. } => ErrorCode::Invalid,
            ConfigError::Unreadable { source, .. } | ConfigError::Unwritable { source, .. } => {
                match source.kind() {
                    io::ErrorKind::NotFound => ErrorCode::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorCode::Denied,
                    _ => ErrorCode::Internal,
                }
            }
        }
    }
}

/// Reads a configuration file as text.
///
/// # Errors
/// `Unreadable`, `TooLong`, and `Text` where it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    read_text_from(file, path)
}

/// [`read_text`] from anything that is open already; `path` is for messages.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_from(source: impl Read, path: &Path) -> Result<String, ConfigError> {
    let mut bytes = Vec::new();
    source
        .take(CONFIG_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        // Up to `offset` the two agree byte for byte.
        let span = offset..offset + char::REPLACEMENT_CHARACTER.len_utf8();
        let help = Some("save the file as UTF-8".to_owned());
        text_error(&text, &path.to_string_lossy(), span, String::new(), "this byte is not UTF-8", help)
    })?;
    check_whole(&text, &path.to_string_lossy())?;
    Ok(text)
}

/// First and last line of a saved file: TOML cut between two tables is TOML still, and what it lacks would be removed.
const SAVED_FIRST_LINE: &str = "# Saved by dr-ctl; whole only with its last line.";
const SAVED_LAST_LINE: &str = "# end";

/// A file that was cut: it ends amid a line, or was saved and lacks its last one.
fn check_whole(text: &str, file_name: &str) -> Result<(), ConfigError> {
    let cut = |message| {
        let help = Some("take a whole copy; end the last line with a newline".to_owned());
        Err(text_error(text, file_name, text.len()..text.len(), String::new(), message, help))
    };
    if !text.is_empty() && !text.ends_with('\n') {
        return cut("the file ends amid a line: it may be cut");
    }
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    if text.starts_with(SAVED_FIRST_LINE) && last != Some(SAVED_LAST_LINE) {
        return cut("the file is cut: its last line, `# end`, is missing");
    }
    Ok(())
}

/// What is applied is all that runs afterwards, so a text that does not name `services` at all is no order to remove them.
///
/// # Errors
/// `Text`.
pub fn check_names_services(text: &str, file_name: &str) -> Result<(), ConfigError> {
    #[derive(Deserialize)]
    struct Named {
        services: Option<serde::de::IgnoredAny>,
    }
    if toml::from_str::<Named>(text).is_ok_and(|named| named.services.is_some()) {
        return Ok(());
    }
    let help = Some("write `services = []` to remove every virtual service".to_owned());
    let message = "it is missing, and what is applied replaces all that runs";
    Err(text_error(text, file_name, text.len()..text.len(), "services".to_owned(), message, help))
}

fn text_error(
    text: &str,
    file_name: &str,
    span: std::ops::Range<usize>,
    place: String,
    message: &str,
    help: Option<String>,
) -> ConfigError {
    ConfigError::Text(Box::new(TextError {
        file_name: file_name.to_owned(),
        position: position(text, span.start),
        place,
        message: message.to_owned(),
        excerpt: excerpt(text, span),
        help,
    }))
}

impl Config {
    /// Reads a configuration from TOML; `file_name` is for messages. Whether it is valid says
    /// [`validate`](crate::validate::validate).
    ///
    /// # Errors
    /// `Text`: the text is no TOML, or a key is unknown or missing, or a value has the wrong type.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Config, ConfigError> {
        let no_toml = |error: toml::de::Error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            let message = explain(error.message(), None, "").message;
            text_error(text, file_name, span, String::new(), &message, None)
        };
        let root = DeTable::parse(text).map_err(no_toml)?;
        if let Some((span, place)) = first_list_for_a_table(root.get_ref()) {
            let message = "a table of keys and values is wanted here, not a list";
            return Err(text_error(text, file_name, span, place, message, None));
        }
        Config::deserialize(Deserializer::from(root)).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let mut place = SourceMap::new(text).place_at(&span);
            let explained = explain(error.message(), text.get(span.clone()), &place);
            if let Some(key) = &explained.key {
                place = format!("{place}.{key}");
            }
            let message = explained.message.clone();
            let help = explained.help_at(&place);
            text_error(text, file_name, span, place, &message, help)
        })
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// As [`read_text`] and [`Config::from_toml`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::from_toml(&read_text(path)?, &path.to_string_lossy())
    }

    /// The configuration as TOML; [`Config::from_toml`] reads the same configuration back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self)
            .expect("the schema has only what TOML can write: text, integers, booleans, lists, tables")
    }

    /// As a file is saved: [`Config::to_toml`] between two lines by which a cut copy is known.
    pub fn to_saved_toml(&self) -> String {
        format!("{SAVED_FIRST_LINE}\n{}{SAVED_LAST_LINE}\n", self.to_toml())
    }

    /// Writes the configuration file whole or not at all: beside it first, then renamed. An existing file keeps its
    /// mode and owner, and stays as it was on any failure; a link stays a link.
    ///
    /// # Errors
    /// `Unwritable`.
    pub fn write_atomically(&self, path: &Path) -> Result<(), ConfigError> {
        replace_file(path, self.to_saved_toml().as_bytes())
            .map_err(|source| ConfigError::Unwritable { path: path.to_owned(), source })
    }
}

/// serde's derive takes a list for a struct, by position. Nobody means that in a configuration.
fn first_list_for_a_table(root: &DeTable<'_>) -> Option<(std::ops::Range<usize>, String)> {
    first_list(root, "", &["director", "connections", "nat"], &["ports", "routes", "services"])
}

/// Within one table: under `tables` stand tables, under `lists` lists of tables.
fn first_list(
    table: &DeTable<'_>,
    prefix: &str,
    tables: &[&str],
    lists: &[&str],
) -> Option<(std::ops::Range<usize>, String)> {
    for key in tables {
        let found = table.get(*key).and_then(|value| is_list(value, || format!("{prefix}{key}")));
        if found.is_some() {
            return found;
        }
    }
    for key in lists {
        let (tables, lists): (&[&str], &[&str]) = match *key {
            "ports" => (&[], &["vlans"]),
            "services" => (&["persistence", "timeouts"], &["members", "real_servers"]),
            "real_servers" => (&["tunnel", "drain"], &[]),
            _ => (&[], &[]),
        };
        for (index, item) in items(table.get(*key)) {
            let place = format!("{prefix}{key}[{index}]");
            let found = match item.get_ref().as_table() {
                Some(table) => first_list(table, &format!("{place}."), tables, lists),
                None => is_list(item, || place),
            };
            if found.is_some() {
                return found;
            }
        }
    }
    None
}

fn items<'t, 'a>(
    value: Option<&'t Spanned<DeValue<'a>>>,
) -> impl Iterator<Item = (usize, &'t Spanned<DeValue<'a>>)> {
    value.and_then(|value| value.get_ref().as_array()).into_iter().flat_map(|items| items.iter()).enumerate()
}

fn is_list(
    value: &Spanned<DeValue<'_>>,
    place: impl FnOnce() -> String,
) -> Option<(std::ops::Range<usize>, String)> {
    value.get_ref().is_array().then(|| (value.span(), place()))
}

/// The file that a path leads to over links, whether it is there or not.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_link(path) {
            // A ring of links is another error.
            Ok(link) => target_of(&path.with_file_name(link)),
            Err(_) => Ok(path.to_owned()),
        },
        target => target,
    }
}

fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let target = target_of(path)?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // 0666 less the umask, as any new file; the temporary one has the final mode before it has content.
    let permissions = fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".dr-").permissions(permissions).tempfile_in(folder)?;
    match fs::metadata(&target) {
        Ok(old) if !old.is_file() => return Err(io::Error::other("it is not a regular file")),
        Ok(old) => {
            // Giving files away is root's alone; the writer's own ownership is the best that others can do.
            let _ = fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
            file.as_file().set_permissions(old.permissions())?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(&target)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
pub(crate) mod any;
#[cfg(test)]
mod tests;
