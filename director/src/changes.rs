//! What a command makes of what runs, checked as a whole: the settings to publish, or the error.
//!
//! Pure: what runs goes in, what is to run comes out. A command is edited in (`draft.rs`), then checked; a batch is
//! checked once, and where that finds something the command that brought it in is searched: the one that names what is
//! wrong is tried first, the rest by halving.

use std::collections::HashSet;

use ctl::config::{
    Config, DirectorConfig, Ipv6, NatConfig, RealServerConfig, RealServerId, ServiceConfig, ServiceId,
};
use ctl::protocol::{Apply, Batch, Command, ErrorCode, ErrorReply};
use ctl::validate::{self, Problem, Surroundings};

use crate::draft::{Draft, Settings};
use crate::fixed_sections;
use crate::slots::Owner;
use crate::utc;

/// What changes are checked against and counted from.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// `director`, `ports` and `routes` that run.
    pub fixed: &'a Config,
    /// The tables have room for IPv6.
    pub has_ipv6: bool,
    /// The wall clock, in seconds since 1970.
    pub unix_now: u64,
    /// What only this host can tell of valid settings.
    pub is_acceptable: &'a dyn Fn(&Settings) -> Result<(), ErrorReply>,
}

impl Circumstances<'_> {
    /// Judges settings with the local addresses `nat`.
    fn judge(
        &self,
        nat: &NatConfig,
        problems: impl FnOnce(&Surroundings<'_>) -> Vec<Problem>,
    ) -> Vec<Problem> {
        let Config { director, ports, routes, .. } = self.fixed;
        let ipv6 = if self.has_ipv6 { Ipv6::On } else { Ipv6::Off };
        let director = DirectorConfig { ipv6, ..director.clone() };
        problems(&Surroundings { director: &director, ports, routes, nat: Some(nat) })
    }
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
    let mut draft = Draft::new(running);
    edit(&mut draft, circumstances, command)?;
    check(problems_of_new(circumstances, running, command))?;
    let candidate = draft.finish();
    check(problems_of_changed(circumstances, running, &candidate, command))?;
    (circumstances.is_acceptable)(&candidate)?;
    Ok(candidate)
}

/// An edit, its own arguments checked.
fn edit(draft: &mut Draft, circumstances: &Circumstances<'_>, command: &Command) -> Result<(), ErrorReply> {
    let unix_now = circumstances.unix_now;
    match command {
        Command::DrainRs(drain) => check(validate::validate_drain(drain))?,
        Command::AddRs(add) => check_drain_to_come("real_server", &add.real_server, unix_now)?,
        Command::AddVip(service) => check_drains_to_come("", service, unix_now, |_| true)?,
        _ => {}
    }
    draft.edit(command, circumstances.unix_now)
}

/// A file that was saved during a drain is restored or applied when its deadline has passed: the real server would be
/// removed as soon as it is there, and nobody would know why it is missing. (At a start, where nobody is there to be
/// asked, that is what happens.)
fn check_drain_to_come(place: &str, new: &RealServerConfig, unix_now: u64) -> Result<(), ErrorReply> {
    let passed = new.drain.and_then(|drain| drain.until_unix_seconds).filter(|until| *until <= unix_now);
    let Some(until) = passed else { return Ok(()) };
    let message = format!(
        "{place}.drain.until_unix_seconds: {until} ({}) has passed: real server {} would be removed at once",
        utc::text(until),
        new.id()
    );
    let help = "leave the real server out, or its drain, or drain it with `true`, which has no deadline";
    Err(ErrorReply::new(ErrorCode::Invalid, message).with_help(help))
}

/// The same of those real servers of a service that `is_new` picks; places start with `prefix`.
fn check_drains_to_come(
    prefix: &str,
    service: &ServiceConfig,
    unix_now: u64,
    is_new: impl Fn(&RealServerConfig) -> bool,
) -> Result<(), ErrorReply> {
    let real_servers = service.real_servers.iter().enumerate();
    real_servers.filter(|(_, real_server)| is_new(real_server)).try_for_each(|(index, real_server)| {
        check_drain_to_come(&format!("{prefix}real_servers[{index}]"), real_server, unix_now)
    })
}

/// What is wrong with what a command adds. Places are those of its arguments.
fn problems_of_new(circumstances: &Circumstances<'_>, running: &Settings, command: &Command) -> Vec<Problem> {
    let services = &running.services;
    circumstances.judge(&running.nat, |surroundings| match command {
        Command::AddVip(new) => validate::validate_new_service(surroundings, services, new),
        Command::AddMember(new) => validate::validate_new_member(surroundings, services, new),
        Command::AddRs(new) => {
            validate::validate_new_real_server(surroundings, services, new.service, &new.real_server)
        }
        Command::AddLip(new) => validate::validate_new_local_address(surroundings, services, new.address),
        Command::DelLip(one) => validate::validate_removed_local_address(surroundings, services, one.address),
        _ => Vec::new(),
    })
}

/// What is wrong with what a command leaves. What only takes away, and a weight or drain, cannot break a rule.
fn problems_of_changed(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    candidate: &Settings,
    command: &Command,
) -> Vec<Problem> {
    circumstances.judge(&candidate.nat, |surroundings| match command {
        Command::SetVip(set) => {
            let changed = find(candidate, set.service);
            changed.map_or(Vec::new(), |changed| {
                validate::validate_changed_service(surroundings, &running.services, changed)
            })
        }
        Command::SetRs(set) => {
            let service = find(candidate, set.service);
            let changed = service.and_then(|service| Some((service, service.real_server(set.real_server)?)));
            let mut problems = changed.map_or(Vec::new(), |(service, changed)| {
                validate::validate_changed_real_server(surroundings, service, changed)
            });
            // Whose MAC that is depends on all others.
            if set.mac.is_some() {
                problems.extend(validate::validate_services(surroundings, &candidate.services));
            }
            problems
        }
        Command::SetOptions(_) => validate::validate_connections("", &candidate.connections),
        _ => Vec::new(),
    })
}

fn find(settings: &Settings, id: ServiceId) -> Option<&ServiceConfig> {
    settings.services.iter().find(|service| service.id == id)
}

/// Why a whole is refused.
struct Invalid {
    error: Box<ErrorReply>,
    /// What the first problem is about.
    suspect: Option<Suspect>,
}

/// A service or one of its real servers.
#[derive(Clone, Copy)]
struct Suspect {
    service: ServiceId,
    real_server: Option<RealServerId>,
}

impl Suspect {
    /// What a problem's place names: `services[2].real_servers[7].address`.
    fn of(problem: &Problem, candidate: &Settings) -> Option<Suspect> {
        let index_behind = |list: &str| {
            let (_, rest) = problem.place.split_once(list)?;
            rest.split_once(']')?.0.parse::<usize>().ok()
        };
        let service = candidate.services.get(index_behind("services[")?)?;
        let real_server = index_behind(".real_servers[").and_then(|index| service.real_servers.get(index));
        Some(Suspect { service: service.id, real_server: real_server.map(RealServerConfig::id) })
    }

    fn is_of(&self, command: &Command) -> bool {
        let is_mine = |id: RealServerId| self.real_server.is_none_or(|mine| mine == id.within(self.service));
        match command {
            Command::AddVip(service) => service.id == self.service,
            Command::SetVip(set) => set.service == self.service,
            Command::AddMember(one) => ServiceId::Group(one.group) == self.service,
            Command::AddRs(add) => add.service == self.service && is_mine(add.real_server.id()),
            Command::SetRs(set) => set.service == self.service && is_mine(set.real_server),
            _ => false,
        }
    }
}

/// Checks the whole. Places are those of the configuration.
fn check_all(circumstances: &Circumstances<'_>, candidate: &Settings) -> Result<(), Invalid> {
    let mut problems = validate::validate_connections("connections.", &candidate.connections);
    let (services, nat) = (&candidate.services, &candidate.nat);
    problems.extend(circumstances.judge(nat, |surroundings| {
        let mut problems = validate::validate_nat("nat.", surroundings, services, nat);
        problems.extend(validate::validate_services(surroundings, services));
        problems
    }));
    let suspect = problems.first().and_then(|problem| Suspect::of(problem, candidate));
    check(problems).map_err(|error| Invalid { error: Box::new(error), suspect })?;
    (circumstances.is_acceptable)(candidate)
        .map_err(|error| Invalid { error: Box::new(error), suspect: None })
}

fn check(problems: Vec<Problem>) -> Result<(), ErrorReply> {
    if problems.is_empty() { Ok(()) } else { Err(ErrorReply::from_problems(&problems)) }
}

fn applied(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    apply: &Apply,
) -> Result<Settings, ErrorReply> {
    fixed_sections::check(circumstances.fixed, &apply.config)?;
    let candidate = Settings {
        connections: apply.config.connections.clone().unwrap_or_else(|| running.connections.clone()),
        nat: apply.config.nat.clone().unwrap_or_else(|| running.nat.clone()),
        services: apply.config.services.clone(),
    };
    check_all(circumstances, &candidate).map_err(|invalid| *invalid.error)?;
    // One whose time is over this very moment is about to go by itself: what runs is no news.
    let drained = |services: &[ServiceConfig]| -> HashSet<(Owner, u64)> {
        let drains = services.iter().flat_map(|service| {
            let real_servers = service.real_servers.iter();
            real_servers.map(|one| (Owner { service: service.id, real_server: one.id() }, one.drain))
        });
        drains.filter_map(|(owner, drain)| Some((owner, drain?.until_unix_seconds?))).collect()
    };
    let running = drained(&running.services);
    for (index, service) in candidate.services.iter().enumerate() {
        let is_new = |one: &RealServerConfig| {
            let owner = Owner { service: service.id, real_server: one.id() };
            let until = one.drain.and_then(|drain| drain.until_unix_seconds);
            until.is_some_and(|until| !running.contains(&(owner, until)))
        };
        check_drains_to_come(&format!("services[{index}]."), service, circumstances.unix_now, is_new)?;
    }
    Ok(candidate)
}

fn batched(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    batch: &Batch,
) -> Result<Settings, ErrorReply> {
    let (outcome, refused) = edited(circumstances, running, &batch.commands);
    let count = refused.as_ref().map_or(batch.commands.len(), |(count, _)| *count);
    // What is wrong with the commands before it comes first.
    if let Err(invalid) = check_all(circumstances, &outcome) {
        return Err(blame(circumstances, running, &batch.commands[..count], invalid));
    }
    match refused {
        None => Ok(outcome),
        Some((count, error)) => Err(at(count, error)),
    }
}

/// The outcome of `commands` up to the first that is refused, and which that is.
fn edited(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    commands: &[Command],
) -> (Settings, Option<(usize, ErrorReply)>) {
    let mut draft = Draft::new(running);
    let mut edits = commands.iter().map(|command| edit(&mut draft, circumstances, command)).enumerate();
    let refused = edits.find_map(|(place, result)| Some((place, result.err()?)));
    (draft.finish(), refused)
}

/// The error of the command that made something invalid of what its predecessors left valid. `commands` as a whole are
/// refused with `found`; what runs is valid. Each look makes and checks as many commands anew, of which there may be hundreds
/// of thousands: where the command that names what is wrong is the one, two looks are all.
fn blame(
    circumstances: &Circumstances<'_>,
    running: &Settings,
    commands: &[Command],
    found: Invalid,
) -> ErrorReply {
    let Invalid { error, mut suspect } = found;
    let outcome = |count: usize| edited(circumstances, running, &commands[..count]).0;
    let (mut valid, mut invalid) = (0, commands.len());
    let mut guesses = 0..GUESSES_MAX;
    while invalid - valid > 1 {
        let suspect_now = suspect.filter(|_| guesses.next().is_some());
        let guess = suspect_now
            .and_then(|suspect| commands[valid..invalid].iter().rposition(|command| suspect.is_of(command)));
        let count = match guess {
            // With it, where all before it is known to be valid; else without it.
            Some(0) => valid + 1,
            Some(offset) => valid + offset,
            None => valid + (invalid - valid) / 2,
        };
        match check_all(circumstances, &outcome(count)) {
            Ok(()) => valid = count,
            Err(earlier) => (invalid, suspect) = (count, earlier.suspect),
        }
    }
    let Some(command) = commands.get(valid) else { return *error };
    // Alone, it is explained within its own arguments.
    let explained = single(circumstances, &outcome(valid), command).err();
    at(valid, explained.unwrap_or(*error))
}

fn at(index: usize, error: ErrorReply) -> ErrorReply {
    ErrorReply { index: Some(index as u32), ..error }
}

/// Looks for which the command is guessed; whoever is wrong in many ways is found by halving after that.
const GUESSES_MAX: usize = 6;

#[cfg(test)]
mod tests;
