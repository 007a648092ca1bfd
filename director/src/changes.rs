//! What a command makes of what runs, checked as a whole: the settings to publish, or the error.
//!
//! Pure: what runs goes in, what is to run comes out. A command is edited in (`draft.rs`), then checked; a batch is
//! checked once, and where that finds something the command that brought it in is searched by halving.

use ctl::config::Config;
use ctl::protocol::{Apply, Batch, Command, ErrorReply};
use ctl::validate::{self, Problem};

use crate::draft::{Draft, Settings};
use crate::fixed_sections;

/// What changes are checked against and counted from.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// `director` and `ports` that run.
    pub fixed: &'a Config,
    /// The wall clock, in seconds since 1970.
    pub unix_now: u64,
}

/// The settings that `command` asks for where `running` run, checked; none where it is no change.
pub fn candidate(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    command: &Command,
) -> Result<Option<Settings>, ErrorReply> {
    match command {
        Command::Show(_)
        | Command::Stats(_)
        | Command::Connections(_)
        | Command::Neighbours
        | Command::Status
        | Command::Config => Ok(None),
        Command::Apply(apply) => applied(circumstances, running, apply).map(Some),
        Command::Batch(batch) => batched(circumstances, running, batch).map(Some),
        change => single(circumstances, running, change).map(Some),
    }
}

fn single(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    command: &Command,
) -> Result<Settings, ErrorReply> {
    // These name the place within their arguments.
    check(match command {
        Command::AddVip(new) => {
            let Config { director, ports, .. } = circumstances.fixed;
            validate::validate_new_service(director, ports, &running.services, new)
        }
        Command::AddRs(new) => {
            let Config { director, ports, .. } = circumstances.fixed;
            let (service, real_server) = (new.service, &new.real_server);
            validate::validate_new_real_server(director, ports, &running.services, service, real_server)
        }
        _ => Vec::new(),
    })?;
    let mut draft = Draft::new(running);
    draft.edit(command, circumstances.unix_now)?;
    let candidate = draft.finish();
    if can_be_invalid(command) {
        check(problems(circumstances, &candidate))?;
    }
    Ok(candidate)
}

/// Whether the whole is to be checked again: what only takes away, and a weight or drain, cannot break a rule.
fn can_be_invalid(command: &Command) -> bool {
    match command {
        Command::SetVip(_) | Command::AddMember(_) | Command::SetOptions(_) => true,
        Command::SetRs(set) => {
            set.mac.is_some() || set.upper_threshold.is_some() || set.lower_threshold.is_some()
        }
        _ => false,
    }
}

fn problems(circumstances: &Circumstances<'_>, candidate: &Settings) -> Vec<Problem> {
    let Config { director, ports, .. } = circumstances.fixed;
    let mut problems = validate::validate_connections(&candidate.connections);
    problems.extend(validate::validate_services(director, ports, &candidate.services));
    problems
}

fn check(problems: Vec<Problem>) -> Result<(), ErrorReply> {
    if problems.is_empty() { Ok(()) } else { Err(ErrorReply::from_problems(&problems)) }
}

fn applied(circumstances: &Circumstances<'_>, running: &Settings, apply: &Apply) -> Result<Settings, ErrorReply> {
    fixed_sections::check(circumstances.fixed, &apply.config)?;
    let candidate = Settings {
        connections: apply.config.connections.clone().unwrap_or_else(|| running.connections.clone()),
        services: apply.config.services.clone(),
    };
    check(problems(circumstances, &candidate))?;
    Ok(candidate)
}

fn batched(circumstances: &Circumstances<'_>, running: &Settings, batch: &Batch) -> Result<Settings, ErrorReply> {
    let commands = &batch.commands[..];
    let (outcome, refused) = edited(circumstances, running, commands);
    let problems = problems(circumstances, &outcome);
    let Some((count, error)) = refused else {
        return match problems.is_empty() {
            true => Ok(outcome),
            false => Err(blame(circumstances, running, commands, &problems)),
        };
    };
    // The commands before it come first.
    Err(match problems.is_empty() {
        true => at(count, error),
        false => blame(circumstances, running, &commands[..count], &problems),
    })
}

/// The outcome of `commands` up to the first that is refused, and which that is.
fn edited(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    commands: &[Command],
) -> (Settings, Option<(usize, ErrorReply)>) {
    let mut draft = Draft::new(running);
    let mut edits = commands.iter().map(|command| draft.edit(command, circumstances.unix_now)).enumerate();
    let refused = edits.find_map(|(place, result)| Some((place, result.err()?)));
    (draft.finish(), refused)
}

/// The error of the command that made a valid outcome of its predecessors invalid. `commands` as a whole are invalid,
/// for `problems`; what runs is valid.
fn blame(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    commands: &[Command],
    problems_of_all: &[Problem],
) -> ErrorReply {
    let outcome = |count: usize| edited(circumstances, running, &commands[..count]).0;
    let (mut valid, mut invalid) = (0, commands.len());
    while invalid - valid > 1 {
        let middle = valid + (invalid - valid) / 2;
        match problems(circumstances, &outcome(middle)).is_empty() {
            true => valid = middle,
            false => invalid = middle,
        }
    }
    // Alone, it is explained within its own arguments.
    let error = single(circumstances, &outcome(valid), &commands[valid]).err();
    at(valid, error.unwrap_or_else(|| ErrorReply::from_problems(problems_of_all)))
}

fn at(index: usize, error: ErrorReply) -> ErrorReply {
    ErrorReply { index: Some(index as u32), ..error }
}

#[cfg(test)]
mod tests;
