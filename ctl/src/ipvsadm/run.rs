//! One run of the tool: what was asked for is done, printed, and told by the exit code.

use std::collections::HashMap;
use std::io::{self, Read, Write};

use super::bytes_of;
use super::command::{Action, Asked, CommandLine, Opt};
use super::convert::{command_of, id_of, mark_of_name, server_id};
use super::director::{Director, Marks, ask, show};
use super::failure::{Failure, Refusal};
use super::format::{self, Columns, Style};
use super::help;
use super::parse::parse;
use super::resolve::Names;
use super::restore::Plan;
use super::rows::{ConnectionRow, ServiceRow, sort};
use super::save::save;
use crate::client::ClientError;
use crate::config::{Config, ServiceConfig, ServiceId, Timeouts, VirtualAddress};
use crate::protocol::{
    CONNECTION_PAGE_ROWS_MAX, CONNECTION_ROWS_MAX, Changed, Command, Connections, ConnectionsQuery,
    EntryKind, ErrorCode, Filter, ServiceView, Show, Stats, Status,
};

/// What the run talks to.
pub(super) struct Run<'a> {
    pub(super) program: &'a str,
    pub(super) director: &'a mut dyn Director,
    pub(super) names: &'a dyn Names,
    pub(super) stdin: &'a mut dyn Read,
    pub(super) stdout: &'a mut dyn Write,
    pub(super) stderr: &'a mut dyn Write,
}

impl Run<'_> {
    /// As `ipvsadm` with these words.
    pub(super) fn ipvsadm(&mut self, words: &[String]) -> i32 {
        let done = if words.is_empty() {
            self.list_all(Style { columns: Columns::Default, is_numeric: false, is_exact: false }, true)
        } else {
            match parse(self.program, words, self.names) {
                Ok(Asked::Help) => self.print(&help::usage(self.program)),
                Ok(Asked::Version) => self.print(&help::version()),
                Ok(Asked::Command(line)) => self.perform(&line),
                Err(misuse) => Err(misuse.into()),
            }
        };
        self.finish(done)
    }

    /// As the script `ipvsadm-save` with these words.
    pub(super) fn save_script(&mut self, words: &[String]) -> i32 {
        let mut is_numeric = false;
        for word in words {
            match word.as_str() {
                "-n" => is_numeric = true,
                word if word.starts_with('-') => {
                    let name = self.program.rsplit('/').next().unwrap_or_default();
                    return self.finish(Err(Failure { exit_code: 1, text: help::save_script(name) }));
                }
                _ => {}
            }
        }
        let done = self.save(is_numeric);
        self.finish(done)
    }

    /// As the script `ipvsadm-restore`: the table is replaced by what the input says, at once.
    pub(super) fn restore_script(&mut self) -> i32 {
        let done = self.restore(true);
        self.finish(done)
    }

    fn finish(&mut self, done: Result<(), Failure>) -> i32 {
        match done {
            Ok(()) => 0,
            Err(failure) => {
                // Nobody is left to tell where that is closed.
                let _ = self.stderr.write_all(&bytes_of(&format!("{}\n", failure.text)));
                failure.exit_code
            }
        }
    }

    /// Writes to the standard output. One that was closed (`| head`) has what it wanted.
    fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure {
                exit_code: 1,
                text: format!("dr-director: the standard output cannot be written: {error}"),
            }),
            _ => Ok(()),
        }
    }

    fn perform(&mut self, line: &CommandLine) -> Result<(), Failure> {
        match line.action {
            Action::List => self.list(line),
            Action::Save => self.save(line.given.has(Opt::Numeric)),
            Action::Restore => self.restore(false),
            _ => self.change(line),
        }
    }

    fn change(&mut self, line: &CommandLine) -> Result<(), Failure> {
        self.try_change(line).map_err(|failure| self.with_group(line, failure))
    }

    fn try_change(&mut self, line: &CommandLine) -> Result<(), Failure> {
        let mut marks = Marks::default();
        let command = match command_of(line, &mut marks, self.director) {
            Ok(Some(command)) => command,
            // Nothing to change, but somebody must be there.
            Ok(None) => return self.ask::<Status>(line.action, &Command::Status).map(|_| ()),
            Err(failure) => return Err(self.what_the_kernel_says_first(line, &mut marks, failure)?),
        };
        let Err(error) = ask::<Changed>(self.director, &command) else { return Ok(()) };
        let ClientError::Refused(reply) = &error else {
            return Err(Failure::of_client(line.action, &error));
        };
        // Only then it matters, and a daemon that denies has closed the connection already.
        let is_missing =
            reply.code == ErrorCode::NotFound && self.running_service(line, &mut marks)?.is_none();
        Err(Failure::of_reply(line.action, reply, is_missing))
    }

    /// The kernel looks for the service before it looks at its attributes, and for the real server before most of
    /// those of a real server.
    fn what_the_kernel_says_first(
        &mut self,
        line: &CommandLine,
        marks: &mut Marks,
        failure: Failure,
    ) -> Result<Failure, Failure> {
        let is = |refusal: Refusal| failure == Failure::from(refusal);
        let is_settled = failure.is_of_no_ipvs()
            || matches!(line.action, Action::StartDaemon | Action::StopDaemon)
            || [Refusal::ServiceExists, Refusal::NoSuchService, Refusal::ServiceNotDefined]
                .into_iter()
                .any(is);
        if is_settled {
            return Ok(failure);
        }
        let service = self.running_service(line, marks)?;
        let has_server = service.as_ref().is_some_and(|service| {
            let named = server_id(line, service.service.id);
            service.real_servers.iter().any(|view| named == view.id())
        });
        let is_out_of_range = is(Refusal::OutOfRange);
        Ok(match (line.action, &service) {
            (Action::AddService, Some(_)) => Refusal::ServiceExists.into(),
            (Action::EditService | Action::DeleteService | Action::Zero, None) => {
                Refusal::NoSuchService.into()
            }
            (Action::AddServer | Action::EditServer | Action::DeleteServer, None) => {
                Refusal::ServiceNotDefined.into()
            }
            (Action::AddServer, Some(_)) if has_server && !is_out_of_range => {
                Refusal::DestinationExists.into()
            }
            (Action::EditServer, Some(_)) if !has_server && !is_out_of_range => {
                Refusal::NoSuchDestination.into()
            }
            _ => failure,
        })
    }

    /// The service that a command line names, if it runs.
    fn running_service(
        &mut self,
        line: &CommandLine,
        marks: &mut Marks,
    ) -> Result<Option<ServiceView>, Failure> {
        let Some(id) = id_of(&line.service, marks, self.director)? else { return Ok(None) };
        let shown = show(self.director, id).map_err(|error| Failure::of_client(line.action, &error))?;
        Ok(shown.and_then(|show| show.services.into_iter().next()))
    }

    /// ipvsadm knows a group by its mark alone: where a command line names one of its VIP:ports instead, the group is named
    /// below what ipvsadm says of a service that is there already or is not.
    fn with_group(&mut self, line: &CommandLine, failure: Failure) -> Failure {
        let about = [Refusal::ServiceExists, Refusal::NoSuchService, Refusal::ServiceNotDefined];
        let is_about_service = about.iter().any(|refusal| failure.text == refusal.to_string());
        let service = &line.service;
        let (address, Some(protocol), 0) = (service.address, service.protocol, service.fwmark) else {
            return failure;
        };
        let named = VirtualAddress { protocol, address, port: service.port };
        let shown: Option<Show> =
            is_about_service.then(|| ask(self.director, &Command::Show(Filter::default())).ok()).flatten();
        let groups = shown.into_iter().flat_map(|show| show.services).map(|view| view.service);
        let owner = groups.into_iter().find(|group| group.members.contains(&named));
        let Some(ServiceConfig { id, fwmark, .. }) = owner else { return failure };
        let how = match fwmark {
            Some(mark) => format!("name it with -f {mark}"),
            None => format!("give it a mark for -f, with `dr-ctl set-vip {id} --fwmark N`"),
        };
        let text = format!("{}\ndr-director: {named} is a member of {id}: {how}", failure.text);
        Failure { text, ..failure }
    }

    fn list(&mut self, line: &CommandLine) -> Result<(), Failure> {
        let given = line.given;
        let style = style_of(line);
        let is_sorted = !given.has(Opt::NoSort);
        if given.has(Opt::Connection) {
            return self.list_connections(given.has(Opt::PersistentConn), style.is_numeric);
        }
        if given.has(Opt::Service) {
            let listed = self.list_service(line, style, is_sorted);
            return listed.map_err(|failure| self.with_group(line, failure));
        }
        if given.has(Opt::Timeout) {
            let status: Status = self.ask(Action::List, &Command::Status)?;
            let timeouts = status.connection_options.timeouts.or(&Timeouts::IPVS);
            let seconds = [timeouts.tcp_established, timeouts.tcp_fin_wait, timeouts.udp];
            return self.print(&format::timeouts(seconds.map(Option::unwrap_or_default)));
        }
        if given.has(Opt::Daemon) {
            // There is none, which ipvsadm tells by silence; but somebody must be there.
            return self.ask::<Status>(Action::List, &Command::Status).map(|_| ());
        }
        self.list_all(style, is_sorted)
    }

    fn list_all(&mut self, style: Style, is_sorted: bool) -> Result<(), Failure> {
        let status: Status = self.ask(Action::List, &Command::Status)?;
        let rows = self.rows(Filter::default(), style, is_sorted)?;
        let mut text = format::header(status.connection_buckets);
        text.push_str(&self.table(&rows, style));
        self.print(&text)
    }

    fn list_service(&mut self, line: &CommandLine, style: Style, is_sorted: bool) -> Result<(), Failure> {
        let mut marks = Marks::default();
        let id = id_of(&line.service, &mut marks, self.director)?;
        let id = id.ok_or_else(|| Refusal::NoSuchService.of_listing())?;
        let rows = self.rows(Filter { service: Some(id) }, style, is_sorted)?;
        if rows.is_empty() {
            return Err(Refusal::NoSuchService.of_listing());
        }
        let text = self.table(&rows, style);
        self.print(&text)
    }

    fn rows(&mut self, filter: Filter, style: Style, is_sorted: bool) -> Result<Vec<ServiceRow>, Failure> {
        let show: Show = self.ask(Action::List, &Command::Show(filter))?;
        let has_counters = matches!(style.columns, Columns::Stats | Columns::Rate);
        let stats: Option<Stats> = match has_counters {
            true => Some(self.ask(Action::List, &Command::Stats(filter))?),
            false => None,
        };
        let stats: HashMap<ServiceId, _> =
            stats.iter().flat_map(|stats| &stats.services).map(|stats| (stats.service, stats)).collect();
        let views = show.services.iter();
        let mut rows: Vec<ServiceRow> =
            views.map(|view| ServiceRow::running(view, stats.get(&view.service.id).copied())).collect();
        if is_sorted {
            sort(&mut rows);
        } else {
            // The kernel puts a new real server at the front of its list.
            rows.iter_mut().for_each(|row| row.real_servers.reverse());
        }
        Ok(rows)
    }

    fn table(&self, rows: &[ServiceRow], style: Style) -> String {
        if !style.is_numeric {
            format::prepare_names(rows, &[], self.names);
        }
        let mut text = format::title(style.columns);
        text.extend(rows.iter().map(|row| format::service(row, style, self.names)));
        text
    }

    fn list_connections(&mut self, has_engine: bool, is_numeric: bool) -> Result<(), Failure> {
        let mut views = Vec::new();
        let matching = loop {
            let offset = views.len() as u32;
            let limit = CONNECTION_PAGE_ROWS_MAX.min(CONNECTION_ROWS_MAX - offset);
            let query = ConnectionsQuery { kind: EntryKind::All, offset, limit, ..Default::default() };
            let page: Connections = self.ask(Action::List, &Command::Connections(query))?;
            let is_last = page.connections.len() < limit as usize;
            views.extend(page.connections);
            if is_last || views.len() >= CONNECTION_ROWS_MAX as usize {
                break page.matching;
            }
        };
        let marks = self.marks_by_name(views.iter().any(|view| view.group.is_some()))?;
        // A group of `-A -f` that is removed has its mark in its name.
        let mark_of =
            |name: &str| marks.get(name).copied().or_else(|| mark_of_name(name)).unwrap_or_default();
        let rows: Vec<ConnectionRow> = views.iter().map(|view| ConnectionRow::new(view, mark_of)).collect();
        if !is_numeric {
            format::prepare_names(&[], &rows, self.names);
        }
        self.print(&format::connections(&rows, has_engine, is_numeric, self.names))?;
        if rows.len() == CONNECTION_ROWS_MAX as usize && matching > rows.len() as u64 {
            return Err(Refusal::ConnectionsCut { shown: rows.len(), matching }.into());
        }
        Ok(())
    }

    fn marks_by_name(&mut self, are_needed: bool) -> Result<HashMap<String, u32>, Failure> {
        if !are_needed {
            return Ok(HashMap::new());
        }
        let show: Show = self.ask(Action::List, &Command::Show(Filter::default()))?;
        let marks = show.services.iter().filter_map(|view| match (view.service.id, view.service.fwmark) {
            (ServiceId::Group(name), Some(mark)) => Some((name.to_string(), mark)),
            _ => None,
        });
        Ok(marks.collect())
    }

    fn save(&mut self, is_numeric: bool) -> Result<(), Failure> {
        let config: Config = self.ask(Action::Save, &Command::Config)?;
        self.print(&save(&config, is_numeric, self.names))
    }

    fn restore(&mut self, is_script: bool) -> Result<(), Failure> {
        let mut input = Vec::new();
        self.stdin.read_to_end(&mut input).map_err(|error| Failure {
            exit_code: 1,
            text: format!("dr-director: the standard input cannot be read: {error}"),
        })?;
        let text = String::from_utf8_lossy(&input);
        let mut plan = Plan::read(self.program, &text, is_script, self.director, self.names)?;
        plan.apply(self.director)?;
        for (number, line) in std::mem::take(&mut plan.listings) {
            self.perform(&line).map_err(|failure| failure.at_line(number))?;
        }
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &mut self,
        action: Action,
        command: &Command,
    ) -> Result<T, Failure> {
        ask(self.director, command).map_err(|error| Failure::of_client(action, &error))
    }
}

/// The format that wins where several are asked for.
fn style_of(line: &CommandLine) -> Style {
    let by_precedence = [
        (Opt::Stats, Columns::Stats),
        (Opt::Rate, Columns::Rate),
        (Opt::Thresholds, Columns::Thresholds),
        (Opt::PersistentConn, Columns::PersistentConn),
        (Opt::TunInfo, Columns::TunInfo),
    ];
    let columns = by_precedence.into_iter().find(|(option, _)| line.given.has(*option));
    Style {
        columns: columns.map_or(Columns::Default, |(_, columns)| columns),
        is_numeric: line.given.has(Opt::Numeric),
        is_exact: line.given.has(Opt::Exact),
    }
}
