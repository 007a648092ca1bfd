//! `-R`: lines as ipvsadm takes them apart, and one batch made of them, all or none.
//!
//! ipvsadm splits at blanks and knows no quotes; the word `ipvsadm` is dropped wherever it stands. Comments, which
//! ipvsadm leaves to ipvsadm-restore, are skipped, but for ours, which say what ipvsadm has no option for.

use super::command::{Action, Asked, CommandLine};
use super::convert::command_of;
use super::director::{Director, Marks, show};
use super::failure::Failure;
use super::misuse::Misuse;
use super::parse::parse;
use super::resolve::Names;
use super::save::{BEGIN, END, Extension, MARKER};
use crate::client::ClientError;
use crate::config::{Forwarding, NatConfig, ServiceId};
use crate::protocol::{Batch, Changed, Command, ErrorCode, ErrorReply, OneLocalAddress, Status};

/// What a file asks for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The changes, in the order of their lines.
    commands: Vec<Command>,
    /// Line and action of each.
    origins: Vec<(usize, Action)>,
    /// Listings, which show what there is when all changes are made.
    pub(super) listings: Vec<(usize, CommandLine)>,
    marks: Marks,
    /// What the next line is to have in addition, and the line that says so.
    pending: Option<(usize, Extension)>,
    /// Where a file that we saved has not come to its end yet: the line that began it.
    begun: Option<usize>,
    /// A file that we saved is in it whole, be it of an empty table.
    is_whole: bool,
}

/// Line 0: what ipvsadm-restore does before it reads.
const BEFORE_THE_FIRST: usize = 0;

impl Plan {
    /// Reads a file. `is_script`: as ipvsadm-restore, which clears first.
    ///
    /// # Errors
    /// The first line that is wrong, by its number.
    pub(super) fn read(
        program: &str,
        text: &str,
        is_script: bool,
        director: &mut dyn Director,
        names: &dyn Names,
    ) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        if is_script {
            plan.marks.clear();
            plan.push(BEFORE_THE_FIRST, Action::Clear, Command::Clear);
        }
        for (index, line) in text.split('\n').enumerate() {
            let number = index + 1;
            plan.read_line(program, number, line, director, names)
                .map_err(|failure| failure.at_line(number))?;
        }
        // First, for it explains what else may be amiss.
        if let Some(number) = plan.begun {
            return Err(cut().at_line(number));
        }
        if let Some((number, _)) = plan.pending.take() {
            return Err(misplaced(None).at_line(number));
        }
        let has_changes = plan.origins.iter().any(|(number, _)| *number != BEFORE_THE_FIRST);
        if is_script && !has_changes && !plan.is_whole {
            return Err(nothing_to_restore());
        }
        Ok(plan)
    }

    fn read_line(
        &mut self,
        program: &str,
        number: usize,
        line: &str,
        director: &mut dyn Director,
        names: &dyn Names,
    ) -> Result<(), Failure> {
        if let Some(said) = own_comment(line) {
            return self.read_comment(number, said, director);
        }
        let words = words_of(line);
        if words.is_empty() {
            return Ok(());
        }
        let try_help = || Misuse::TryHelp { program: program.to_owned() };
        let line = match parse(program, &words, names)? {
            Asked::Command(line) if line.action != Action::Restore => *line,
            _ => return Err(try_help().into()),
        };
        if matches!(line.action, Action::List | Action::Save) {
            self.listings.push((number, line));
            return Ok(());
        }
        let command = command_of(&line, &mut self.marks, director)?;
        let command = self.complete(command)?;
        if let Some(command) = command {
            self.note_marks(&command);
            self.push(number, line.action, command);
        }
        Ok(())
    }

    /// A comment of ours.
    fn read_comment(
        &mut self,
        number: usize,
        said: &str,
        director: &mut dyn Director,
    ) -> Result<(), Failure> {
        if said == END {
            (self.begun, self.is_whole) = (None, true);
            return Ok(());
        }
        self.begun.get_or_insert(number);
        if said == BEGIN { Ok(()) } else { self.read_extension(number, said, director) }
    }

    fn read_extension(
        &mut self,
        number: usize,
        json: &str,
        director: &mut dyn Director,
    ) -> Result<(), Failure> {
        if let Some((_, pending)) = &self.pending {
            return Err(misplaced(Some(pending)));
        }
        let extension = serde_json::from_str(json).map_err(|error| Failure {
            exit_code: 2,
            text: format!("dr-director: the comment says nothing that is known: {error}"),
        })?;
        match extension {
            Extension::Connections(options) => {
                self.push(number, Action::SetTimeouts, Command::SetOptions(options));
            }
            Extension::Nat(nat) => self.push_local_addresses(number, &nat, director)?,
            // One with a mark has a line of its own.
            Extension::AddService(service) if service.fwmark.is_some() => return Err(marked()),
            Extension::AddService(service) => {
                self.push(number, Action::AddService, Command::AddVip(service));
            }
            Extension::Service(_) | Extension::RealServer(_) => self.pending = Some((number, extension)),
        }
        Ok(())
    }

    /// Those that there are already stay.
    fn push_local_addresses(
        &mut self,
        number: usize,
        nat: &NatConfig,
        director: &mut dyn Director,
    ) -> Result<(), Failure> {
        let status: Status = super::director::ask(director, &Command::Status)
            .map_err(|error| Failure::of_client(Action::Restore, &error))?;
        for address in &nat.local_addresses {
            if !status.nat.local_addresses.contains(address) {
                let command = Command::AddLip(OneLocalAddress { address: *address });
                self.push(number, Action::SetTimeouts, command);
            }
        }
        Ok(())
    }

    /// The command with what the comment before it says.
    fn complete(&mut self, command: Option<Command>) -> Result<Option<Command>, Failure> {
        let Some((_, extension)) = self.pending.take() else { return Ok(command) };
        match (extension, command) {
            (Extension::Service(extension), Some(Command::AddVip(mut service))) => {
                match (extension.group, service.id) {
                    (Some(group), ServiceId::Group(_)) => service.id = ServiceId::Group(group),
                    (Some(_), ServiceId::Virtual(_)) => return Err(of_groups_only("a group's name")),
                    (None, _) => {}
                }
                if !extension.members.is_empty() && matches!(service.id, ServiceId::Virtual(_)) {
                    return Err(of_groups_only("members"));
                }
                service.members = extension.members;
                service.slow_start_seconds = extension.slow_start_seconds;
                service.timeouts = extension.timeouts;
                Ok(Some(Command::AddVip(service)))
            }
            (Extension::RealServer(extension), Some(Command::AddRs(mut add))) => {
                add.real_server.mac = extension.mac;
                add.real_server.drain = extension.drain;
                if extension.is_full_nat {
                    if add.real_server.forwarding != Forwarding::Nat {
                        return Err(of_nat_only());
                    }
                    add.real_server.forwarding = Forwarding::FullNat;
                    add.real_server.client_address = extension.client_address;
                }
                Ok(Some(Command::AddRs(add)))
            }
            (extension, _) => Err(misplaced(Some(&extension))),
        }
    }

    /// Later lines name the groups as they are by then.
    fn note_marks(&mut self, command: &Command) {
        match command {
            Command::Clear => self.marks.clear(),
            Command::AddVip(service) => {
                if let (ServiceId::Group(name), Some(mark)) = (service.id, service.fwmark) {
                    self.marks.insert(mark, service.family(), name);
                }
            }
            Command::DelVip(one) => {
                if let ServiceId::Group(name) = one.service {
                    self.marks.remove(name);
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, number: usize, action: Action, command: Command) {
        self.commands.push(command);
        self.origins.push((number, action));
    }

    /// Makes the changes, all or none.
    ///
    /// # Errors
    /// The director's, by the number of the line that it is about.
    pub(super) fn apply(&mut self, director: &mut dyn Director) -> Result<(), Failure> {
        if self.commands.is_empty() {
            return Ok(());
        }
        let batch = Command::Batch(Batch { commands: std::mem::take(&mut self.commands) });
        let error = match super::director::ask::<Changed>(director, &batch) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let Command::Batch(Batch { commands }) = batch else { unreachable!("made above") };
        let ClientError::Refused(reply) = &error else {
            return Err(Failure::of_client(Action::Restore, &error));
        };
        let Some((index, (number, action))) = self.origin_of(reply) else {
            return Err(Failure::of_reply(Action::Restore, reply, false));
        };
        let is_missing = match service_of(&commands[index]) {
            Some(id) if reply.code == ErrorCode::NotFound => !is_defined(&commands[..index], id, director)?,
            _ => false,
        };
        let failure = Failure::of_reply(action, reply, is_missing);
        Err(if number == BEFORE_THE_FIRST { failure } else { failure.at_line(number) })
    }

    fn origin_of(&self, reply: &ErrorReply) -> Option<(usize, (usize, Action))> {
        let index = usize::try_from(reply.index?).ok()?;
        self.origins.get(index).map(|origin| (index, *origin))
    }
}

/// What a comment of ours says, if the line is one. People write it with other blanks, or none.
fn own_comment(line: &str) -> Option<&str> {
    let (hash, name) = MARKER.split_once(' ').expect("the marker is a hash and a name");
    Some(line.trim_start().strip_prefix(hash)?.trim_start().strip_prefix(name)?.trim())
}

/// The words of a line, up to a comment.
fn words_of(line: &str) -> Vec<String> {
    let words = line.split([' ', '\t', '\r']).take_while(|word| !word.starts_with('#'));
    let words = words.filter(|word| !word.is_empty() && *word != "ipvsadm").map(str::to_owned);
    let mut words: Vec<String> = words.collect();
    for index in 1..words.len() {
        if matches!(words[index - 1].as_str(), "-f" | "--fwmark-service")
            && let Some(mark) = wrapped_mark(&words[index])
        {
            words[index] = mark.to_string();
        }
    }
    words
}

/// The mark that ipvsadm saves as a negative number: one over 2147483647.
fn wrapped_mark(word: &str) -> Option<u32> {
    let number: i32 = word.parse().ok()?;
    (number < 0).then_some(number.cast_unsigned())
}

fn misplaced(extension: Option<&Extension>) -> Failure {
    let wanted = match extension {
        Some(Extension::Service(_)) => "adds a service (-A)",
        Some(Extension::RealServer(_)) => "adds a real server (-a)",
        _ => "it is about",
    };
    Failure {
        exit_code: 2,
        text: format!(
            "dr-director: a comment that starts with `{MARKER}` stands before the line that {wanted}"
        ),
    }
}

fn marked() -> Failure {
    Failure { exit_code: 2, text: "dr-director: `-A -f` adds a group that has a firewall mark".to_owned() }
}

fn of_groups_only(what: &str) -> Failure {
    Failure { exit_code: 2, text: format!("dr-director: only a firewall mark (-f) has {what}") }
}

fn of_nat_only() -> Failure {
    Failure { exit_code: 2, text: "dr-director: only a real server behind NAT (-m) has full NAT".to_owned() }
}

fn cut() -> Failure {
    let text = format!(
        "dr-director: the file that begins here was cut: no line `{MARKER} {END}` comes after it\n\
         dr-director: help: save again; where the rest is known not to matter, add that line"
    );
    Failure { exit_code: 2, text }
}

/// ipvsadm-restore behind a save that failed would remove every service.
fn nothing_to_restore() -> Failure {
    let text = "dr-director: there is nothing to restore, and nothing was changed\n\
                dr-director: help: was what should be restored saved? `ipvsadm -C` removes every service";
    Failure { exit_code: 2, text: text.to_owned() }
}

fn service_of(command: &Command) -> Option<ServiceId> {
    match command {
        Command::AddRs(add) => Some(add.service),
        Command::SetRs(set) => Some(set.service),
        Command::DelRs(one) => Some(one.service),
        _ => None,
    }
}

/// Whether a service is there once these commands are done.
fn is_defined(commands: &[Command], id: ServiceId, director: &mut dyn Director) -> Result<bool, Failure> {
    for command in commands.iter().rev() {
        match command {
            Command::Clear => return Ok(false),
            Command::AddVip(service) if service.id == id => return Ok(true),
            Command::DelVip(one) if one.service == id => return Ok(false),
            _ => {}
        }
    }
    let shown = show(director, id).map_err(|error| Failure::of_client(Action::Restore, &error))?;
    Ok(shown.is_some())
}
