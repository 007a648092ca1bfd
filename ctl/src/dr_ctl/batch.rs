//! `batch`: the changes of a file, one a line as on the command line, all of them or none.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use ctl::client::ClientError;
use ctl::config_file::{read_text, read_text_from};
use ctl::protocol::{Batch, Changed, Command};

use super::cli::{Arguments, BatchArguments, Verb};
use super::failure::{Failure, said};
use super::{Session, changes};

/// Changes, each with the line that asks for it.
struct Lines {
    commands: Vec<Command>,
    numbers: Vec<usize>,
}

impl Session<'_> {
    pub(super) fn batch(&self, arguments: &BatchArguments) -> Result<(), Failure> {
        let is_standard_input = arguments.file == Path::new("-");
        let path = if is_standard_input { Path::new("<stdin>") } else { &arguments.file };
        let text = match is_standard_input {
            true => read_text_from(io::stdin().lock(), path)?,
            false => read_text(path)?,
        };
        let place = |number: usize| format!("{}:{number}", path.display());
        let Lines { commands, numbers } =
            parse(&text).map_err(|(number, message)| Failure::Line { place: place(number), message })?;
        match self.call::<Changed>(&Command::Batch(Batch { commands })) {
            Ok(changed) => self.print(&changed, changes::describe),
            Err(ClientError::Refused(reply)) => {
                let index = reply.index.and_then(|index| usize::try_from(index).ok());
                match index.and_then(|index| numbers.get(index)) {
                    Some(number) => Err(Failure::RefusedLine { place: place(*number), reply }),
                    None => Err(Failure::Client(ClientError::Refused(reply))),
                }
            }
            Err(error) => Err(Failure::Client(error)),
        }
    }
}

/// An error has the number of its line.
fn parse(text: &str) -> Result<Lines, (usize, String)> {
    let mut lines = Lines { commands: Vec::new(), numbers: Vec::new() };
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        lines.commands.push(parse_line(line).map_err(|message| (number, message))?);
        lines.numbers.push(number);
    }
    Ok(lines)
}

fn parse_line(line: &str) -> Result<Command, String> {
    let words = std::iter::once("dr-ctl").chain(line.split_whitespace()).map(OsString::from);
    let Arguments { verb, .. } = Arguments::read(words).map_err(|error| said(&error))?;
    if matches!(&verb, Verb::DrainRs(drain) if drain.wait().is_some()) {
        return Err("a batch does not --wait".to_owned());
    }
    verb.change()?.ok_or_else(|| "this changes nothing that a batch could change".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_change_and_keeps_its_number() {
        let text = "# all of it\nclear\n\nadd-vip tcp 192.0.2.10:80 --persistent\n  add-rs tcp 192.0.2.10:80 10.0.0.11\n";
        let lines = parse(text).ok().unwrap();
        let verbs: Vec<&str> = lines.commands.iter().map(Command::verb).collect();
        assert_eq!((verbs, lines.numbers), (vec!["clear", "add-vip", "add-rs"], vec![2, 4, 5]));
    }

    #[test]
    fn a_line_that_is_no_change_is_refused_with_its_number() {
        for (text, number, words) in [
            ("clear\nshow\n", 2, "changes nothing"),
            ("batch x\n", 1, "changes nothing"),
            ("apply x\n", 1, "changes nothing"),
            ("\nadd-vip tcp 192.0.2.10\n", 2, "a VIP and a port are wanted"),
            ("drain-rs tcp 192.0.2.10:80 10.0.0.11 --wait\n", 1, "does not --wait"),
            ("add-vip tcp 192.0.2.10:80 --scheduler-flags sh-port\n", 1, "flag of the scheduler sh"),
            ("--help\n", 1, ""),
        ] {
            let (found, message) = parse(text).err().expect(text);
            assert!(found == number && message.contains(words), "{text}: {found}: {message}");
        }
    }
}
