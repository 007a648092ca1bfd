//! A request as a line of JSON. Both sides: what `dr-ctl` writes, and the daemon's reader, which turns whatever arrives
//! into a command or an error that names the place. It never panics and needs memory in proportion to the line.

use std::fmt;
use std::ops::Range;
use std::str;

use scheduler::Algorithm;
use serde::de::{DeserializeOwned, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::explain::{clip, explain};
use crate::nearest::nearest;
use crate::protocol::{
    AddRs, BATCH_COMMANDS_MAX, Batch, Command, DrainRs, ErrorCode, ErrorReply, OneRealServer,
    REQUEST_BYTES_MAX, SetRs, VERSION,
};
use crate::scheduler_flags::FlagNames;

/// Every verb, as it goes over the socket.
pub const VERBS: &[&str] = &[
    "add-vip",
    "set-vip",
    "del-vip",
    "add-member",
    "del-member",
    "add-rs",
    "set-rs",
    "del-rs",
    "drain-rs",
    "add-lip",
    "del-lip",
    "clear",
    "batch",
    "set-options",
    "zero",
    "show",
    "stats",
    "connections",
    "neighbours",
    "status",
    "apply",
    "config",
];

impl Command {
    /// Its verb, as it goes over the socket.
    pub fn verb(&self) -> &'static str {
        match self {
            Command::AddVip(_) => "add-vip",
            Command::SetVip(_) => "set-vip",
            Command::DelVip(_) => "del-vip",
            Command::AddMember(_) => "add-member",
            Command::DelMember(_) => "del-member",
            Command::AddRs(_) => "add-rs",
            Command::SetRs(_) => "set-rs",
            Command::DelRs(_) => "del-rs",
            Command::DrainRs(_) => "drain-rs",
            Command::AddLip(_) => "add-lip",
            Command::DelLip(_) => "del-lip",
            Command::Clear => "clear",
            Command::Batch(_) => "batch",
            Command::SetOptions(_) => "set-options",
            Command::Zero(_) => "zero",
            Command::Show(_) => "show",
            Command::Stats(_) => "stats",
            Command::Connections(_) => "connections",
            Command::Neighbours => "neighbours",
            Command::Status => "status",
            Command::Apply(_) => "apply",
            Command::Config => "config",
        }
    }

    /// Whether it changes what runs, and so is logged with its caller.
    pub fn is_change(&self) -> bool {
        match self {
            Command::AddVip(_)
            | Command::SetVip(_)
            | Command::DelVip(_)
            | Command::AddRs(_)
            | Command::SetRs(_)
            | Command::DelRs(_)
            | Command::AddMember(_)
            | Command::DelMember(_)
            | Command::DrainRs(_)
            | Command::AddLip(_)
            | Command::DelLip(_)
            | Command::Clear
            | Command::Batch(_)
            | Command::SetOptions(_)
            | Command::Zero(_) => true,
            Command::Apply(apply) => !apply.dry_run,
            Command::Show(_)
            | Command::Stats(_)
            | Command::Connections(_)
            | Command::Neighbours
            | Command::Status
            | Command::Config => false,
        }
    }
}

/// A command as it goes over the socket, newline included.
pub fn encode_request(command: &Command) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        version: u32,
        #[serde(flatten)]
        command: &'a Command,
    }

    let line = Line { version: VERSION, command };
    let mut bytes = serde_json::to_vec(&line).expect("keys are strings: always JSON");
    bytes.push(b'\n');
    bytes
}

/// Reads a request.
///
/// # Errors
/// `WrongVersion` where the version is absent or another one; `Invalid` where a number is out of its range, otherwise
/// `BadRequest`, with the place (`arguments.real_server.weight: 70000 is over 65535`).
pub fn parse_request(line: &[u8]) -> Result<Command, ErrorReply> {
    if line.len() > REQUEST_BYTES_MAX {
        let message = format!("the request is longer than {REQUEST_BYTES_MAX} bytes");
        return Err(bad(message).with_help("split it, or apply a shorter configuration"));
    }
    let text = str::from_utf8(line)
        .map_err(|error| bad(format!("byte {} of the request is not UTF-8", error.valid_up_to() + 1)))?;
    check_version(text)?;
    let envelope: Envelope<'_> = read("", text)?;
    let verb = envelope.verb.ok_or_else(|| {
        bad("verb: it is missing".to_owned()).with_help(format!("known verbs are {}", VERBS.join(", ")))
    })?;
    let verb: String = read("verb", verb.get())?;
    read_command("arguments", &verb, envelope.arguments.map_or("{}", RawValue::get))
}

/// Reads the commands of a batch, each with an error of its own place and index.
fn read_batch(root: &str, arguments: &str) -> Result<Batch, ErrorReply> {
    #[derive(Deserialize)]
    #[serde(expecting = "a map", deny_unknown_fields)]
    struct Arguments<'a> {
        #[serde(borrow)]
        commands: BatchCommands<'a>,
    }
    #[derive(Deserialize)]
    #[serde(expecting = "a map", deny_unknown_fields)]
    struct Nested<'a> {
        #[serde(borrow)]
        verb: &'a RawValue,
        #[serde(borrow)]
        arguments: Option<&'a RawValue>,
    }

    check_object(root, arguments)?;
    let Arguments { commands: BatchCommands(commands) } = read(root, arguments)?;
    let read_nested = |(index, command): (usize, &RawValue)| {
        let root = format!("{root}.commands[{index}]");
        let nested = || {
            check_object(&root, command.get())?;
            let Nested { verb, arguments } = read(&root, command.get())?;
            let verb: String = read(&format!("{root}.verb"), verb.get())?;
            if matches!(verb.as_str(), "batch" | "apply") {
                let message = format!("{root}.verb: `{verb}` is none of a batch");
                return Err(bad(message).with_help("send it by itself"));
            }
            let command =
                read_command(&format!("{root}.arguments"), &verb, arguments.map_or("{}", RawValue::get))?;
            if command.is_change() {
                return Ok(command);
            }
            Err(bad(format!("{root}.verb: `{verb}` changes nothing")).with_help("send it by itself"))
        };
        nested().map_err(|error| ErrorReply { index: u32::try_from(index).ok(), ..error })
    };
    let commands = commands.into_iter().enumerate().map(read_nested).collect::<Result<_, _>>()?;
    Ok(Batch { commands })
}

/// The commands of a batch as text, [`BATCH_COMMANDS_MAX`] at most.
struct BatchCommands<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for BatchCommands<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchCommandsVisitor)
    }
}

struct BatchCommandsVisitor;

impl<'de> Visitor<'de> for BatchCommandsVisitor {
    type Value = BatchCommands<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<BatchCommands<'de>, A::Error> {
        let mut commands = Vec::new();
        while let Some(command) = list.next_element()? {
            if commands.len() == BATCH_COMMANDS_MAX {
                return Err(A::Error::custom(format_args!(
                    "a batch has at most {BATCH_COMMANDS_MAX} commands"
                )));
            }
            commands.push(command);
        }
        Ok(BatchCommands(commands))
    }
}

#[derive(Deserialize)]
#[serde(expecting = "a map")]
struct Versioned<'a> {
    #[serde(borrow)]
    version: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map", deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(borrow, rename = "version")]
    _version: Option<&'a RawValue>,
    #[serde(borrow)]
    verb: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// The version comes first: another one may have other keys and other verbs.
fn check_version(text: &str) -> Result<(), ErrorReply> {
    if !text.trim_start().starts_with('{') {
        // serde's derive would take a list for the object, by position.
        let _: serde::de::IgnoredAny = read("", text)?;
        return Err(bad("a request is an object: {\"version\":1,\"verb\":...}".to_owned()));
    }
    let versioned: Versioned<'_> = read("", text)?;
    let found = versioned.version.map_or("none", RawValue::get);
    if found == VERSION.to_string() {
        return Ok(());
    }
    let message =
        format!("version: this is version {VERSION} of the protocol, the request is of {}", clip(found));
    let help = format!("use the dr-ctl of the same release, or say \"version\":{VERSION}");
    Err(ErrorReply::new(ErrorCode::WrongVersion, message).with_help(help))
}

fn read_command(root: &str, verb: &str, arguments: &str) -> Result<Command, ErrorReply> {
    Ok(match verb {
        "add-vip" => Command::AddVip(read_arguments(root, arguments)?),
        "set-vip" => {
            let set = read_arguments(root, arguments)?;
            check_flag_names(root, arguments)?;
            Command::SetVip(set)
        }
        "del-vip" => Command::DelVip(read_arguments(root, arguments)?),
        "add-member" => Command::AddMember(read_arguments(root, arguments)?),
        "del-member" => Command::DelMember(read_arguments(root, arguments)?),
        // A port that is the service's own is as good as none.
        "add-rs" => {
            let mut add: AddRs = read_arguments(root, arguments)?;
            add.real_server.port = add.real_server.id().within(add.service).port;
            Command::AddRs(add)
        }
        "set-rs" => {
            let mut set: SetRs = read_arguments(root, arguments)?;
            set.real_server = set.real_server.within(set.service);
            Command::SetRs(set)
        }
        "del-rs" => {
            let mut del: OneRealServer = read_arguments(root, arguments)?;
            del.real_server = del.real_server.within(del.service);
            Command::DelRs(del)
        }
        "drain-rs" => {
            let mut drain: DrainRs = read_arguments(root, arguments)?;
            drain.real_server = drain.real_server.within(drain.service);
            Command::DrainRs(drain)
        }
        "add-lip" => Command::AddLip(read_arguments(root, arguments)?),
        "del-lip" => Command::DelLip(read_arguments(root, arguments)?),
        "clear" => read_none(root, arguments, Command::Clear)?,
        "batch" => Command::Batch(read_batch(root, arguments)?),
        "set-options" => Command::SetOptions(read_arguments(root, arguments)?),
        "zero" => Command::Zero(read_arguments(root, arguments)?),
        "show" => Command::Show(read_arguments(root, arguments)?),
        "stats" => Command::Stats(read_arguments(root, arguments)?),
        "connections" => Command::Connections(read_arguments(root, arguments)?),
        "neighbours" => read_none(root, arguments, Command::Neighbours)?,
        "status" => read_none(root, arguments, Command::Status)?,
        "apply" => {
            let apply = read_arguments(root, arguments)?;
            check_names_services(arguments)?;
            Command::Apply(apply)
        }
        "config" => read_none(root, arguments, Command::Config)?,
        unknown => {
            let help = match nearest(unknown, VERBS.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`? Known verbs are {}", VERBS.join(", ")),
                None => format!("known verbs are {}", VERBS.join(", ")),
            };
            let place = root.strip_suffix("arguments").unwrap_or_default();
            return Err(bad(format!("{place}verb: unknown verb `{}`", clip(unknown))).with_help(help));
        }
    })
}

/// A new scheduler has no flags of another one. Where the scheduler stays, which one it is knows the daemon, and names
/// are as good as numbers.
fn check_flag_names(root: &str, arguments: &str) -> Result<(), ErrorReply> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default, with = "crate::algorithm::option")]
        scheduler: Option<Algorithm>,
        scheduler_flags: Option<FlagNames>,
    }
    let named: Named = read(root, arguments)?;
    let Some((scheduler, flags)) = named.scheduler.zip(named.scheduler_flags) else { return Ok(()) };
    flags.flags_of(scheduler).map(|_| ()).map_err(|message| bad(format!("{root}.scheduler_flags: {message}")))
}

/// What is applied is all that runs afterwards: a configuration that does not name `services` is no order to remove them.
fn check_names_services(arguments: &str) -> Result<(), ErrorReply> {
    #[derive(Deserialize)]
    struct Arguments {
        config: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        services: Option<serde::de::IgnoredAny>,
    }
    let named: Arguments = read("arguments", arguments)?;
    match named.config.services {
        Some(_) => Ok(()),
        None => {
            Err(bad("arguments.config.services: it is missing, and what is applied replaces all that runs"
                .to_owned())
            .with_help("give an empty list to remove every virtual service"))
        }
    }
}

/// A verb that has no arguments.
fn read_none(root: &str, arguments: &str, command: Command) -> Result<Command, ErrorReply> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    read_arguments::<Nothing>(root, arguments).map(|_| command)
}

fn read_arguments<T: DeserializeOwned>(root: &str, arguments: &str) -> Result<T, ErrorReply> {
    const WANTED: &str = "a table of keys and values is wanted here, not a list";
    // `null` is as good as nothing; anything else but an object is not.
    let arguments = if arguments == "null" { "{}" } else { arguments };
    check_object(root, arguments)?;
    // serde's derive takes a list for a struct, by position. Nobody means that in a request.
    let end = walk(arguments, arguments.len(), is_list_for_an_object);
    if end.is_stopped {
        return Err(bad(format!("{}: {WANTED}", place(root, &end.steps))));
    }
    read(root, arguments)
}

fn check_object(place: &str, json: &str) -> Result<(), ErrorReply> {
    if json.starts_with('{') {
        return Ok(());
    }
    let key = place.rsplit('.').next().unwrap_or_default();
    let message = format!("{place}: a table of keys and values is wanted here");
    Err(bad(message).with_help(format!("give an object: \"{key}\":{{...}}")))
}

fn is_list_for_an_object(steps: &[Step<'_>]) -> bool {
    match steps {
        [.., Step::Key(key)] => matches!(
            *key,
            "service"
                | "real_server"
                | "member"
                | "config"
                | "director"
                | "connections"
                | "timeouts"
                | "persistence"
                | "drain"
                | "tunnel"
                | "nat"
        ),
        [.., Step::Key(key), Step::Index(_)] => {
            matches!(*key, "services" | "real_servers" | "ports" | "vlans" | "routes" | "members")
        }
        _ => false,
    }
}

fn read<'a, T: Deserialize<'a>>(root: &str, json: &'a str) -> Result<T, ErrorReply> {
    serde_json::from_str(json).map_err(|error| {
        let raw = error.to_string();
        let raw = raw.rsplit_once(" at line ").map_or(raw.as_str(), |(message, _)| message);
        let offset = byte_offset(json, &error);
        if !error.is_data() {
            let root = if root.is_empty() { String::new() } else { format!("{root}: ") };
            return bad(format!("{root}byte {}: not JSON: {}", offset.max(1), clip(raw)));
        }
        let mut end = walk(json, offset, |_| false);
        let explained = explain(raw, json.get(end.value), &place(root, &end.steps));
        end.steps.extend(explained.key.as_deref().map(Step::Key));
        let place = place(root, &end.steps);
        // As good as one that a check finds later.
        let code = if explained.is_out_of_range { ErrorCode::Invalid } else { ErrorCode::BadRequest };
        let prefix = if place.is_empty() { String::new() } else { format!("{place}: ") };
        let message = format!("{prefix}{}", explained.message);
        ErrorReply { help: explained.help_at(&place), ..ErrorReply::new(code, message) }
    })
}

fn bad(message: String) -> ErrorReply {
    ErrorReply::new(ErrorCode::BadRequest, message)
}

/// How much of the text was read when an error was found. serde_json counts lines from 1 and columns in bytes.
fn byte_offset(json: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let start: usize = json.split_inclusive('\n').take(lines_before).map(str::len).sum();
    (start + error.column()).min(json.len())
}

/// A step on the way from the root of a JSON value to one of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// `arguments.services[2].port`
fn place(root: &str, steps: &[Step<'_>]) -> String {
    let mut place = String::from(root);
    for step in steps {
        match step {
            Step::Key(key) => {
                let dot = if place.is_empty() { "" } else { "." };
                place.push_str(&format!("{dot}{}", clip(key)));
            }
            Step::Index(index) => place.push_str(&format!("[{index}]")),
        }
    }
    place
}

/// Where a walk through a JSON text ended.
struct End<'a> {
    steps: Vec<Step<'a>>,
    /// The last string or number on the way.
    value: Range<usize>,
    is_stopped: bool,
}

/// Walks over the first `offset` bytes, or to the first list at whose place `stops_at_list` holds. The text up to there
/// is good JSON, as far as a reader that stopped there knows; in other text the place is a guess, never a panic.
fn walk(json: &str, offset: usize, stops_at_list: impl Fn(&[Step<'_>]) -> bool) -> End<'_> {
    let bytes = &json.as_bytes()[..offset];
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut value = 0..0;
    let mut position = 0;
    let mut expects_key = false;
    while let Some(&byte) = bytes.get(position) {
        let start = position;
        position += 1;
        match byte {
            b'{' => {
                steps.push(Step::Key(""));
                expects_key = true;
            }
            b'[' => {
                if stops_at_list(&steps) {
                    return End { steps, value, is_stopped: true };
                }
                steps.push(Step::Index(0));
                expects_key = false;
            }
            b'}' | b']' => {
                steps.pop();
                expects_key = false;
            }
            b',' => match steps.last_mut() {
                Some(Step::Index(index)) => *index += 1,
                Some(Step::Key(_)) => expects_key = true,
                None => {}
            },
            b'"' => {
                position = end_of_string(bytes, position);
                value = start..position;
                if let (true, Some(Step::Key(key))) = (expects_key, steps.last_mut()) {
                    *key = json.get(start + 1..position - 1).unwrap_or_default();
                    expects_key = false;
                }
            }
            b'0'..=b'9' | b'-' => {
                let is_number = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                position += bytes[position..].iter().take_while(|byte| is_number(byte)).count();
                value = start..position;
            }
            _ => {}
        }
    }
    // An object of which no key was read has no step of its own.
    if steps.last() == Some(&Step::Key("")) {
        steps.pop();
    }
    End { steps, value, is_stopped: false }
}

/// The position after the quote that ends a string; `position` is after the one that begins it.
fn end_of_string(bytes: &[u8], mut position: usize) -> usize {
    while let Some(&byte) = bytes.get(position) {
        position += 1;
        match byte {
            b'"' => return position,
            b'\\' => position += 1,
            _ => {}
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests;
