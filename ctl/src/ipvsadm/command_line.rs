//! The words of a command line as popt takes them apart: clusters of short options (`-Ln`), arguments in the same word
//! (`-p77`, `-p=77`, `--persistent=77`) or in the next one, whatever that is, and words that belong to no option.
//! Long names are not abbreviated, `--` ends the options, and an option may stand anywhere.

/// Every option and command, each with ipvsadm's tag of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    TcpService,
    UdpService,
    SctpService,
    FwmarkService,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Masquerading,
    Ipip,
    Gatewaying,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Numeric,
    Connection,
    McastInterface,
    SyncId,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    Exact,
    Ipv6,
    Ops,
    PersistenceEngine,
    SchedulerFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
}

/// What an option takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// An argument, be it the next word.
    Argument,
    /// An argument, or none where the next word starts with `-` or there is none.
    Optional,
}

/// Long name, short name, what it takes.
const TABLE: &[(&str, Option<char>, Takes, Flag)] = {
    use Takes::{Argument, Nothing, Optional};
    &[
        ("add-service", Some('A'), Nothing, Flag::AddService),
        ("edit-service", Some('E'), Nothing, Flag::EditService),
        ("delete-service", Some('D'), Nothing, Flag::DeleteService),
        ("clear", Some('C'), Nothing, Flag::Clear),
        ("list", Some('L'), Nothing, Flag::List),
        ("list", Some('l'), Nothing, Flag::List),
        ("zero", Some('Z'), Nothing, Flag::Zero),
        ("add-server", Some('a'), Nothing, Flag::AddServer),
        ("edit-server", Some('e'), Nothing, Flag::EditServer),
        ("delete-server", Some('d'), Nothing, Flag::DeleteServer),
        ("set", None, Nothing, Flag::Set),
        ("help", Some('h'), Nothing, Flag::Help),
        ("version", Some('v'), Nothing, Flag::Version),
        ("restore", Some('R'), Nothing, Flag::Restore),
        ("save", Some('S'), Nothing, Flag::Save),
        ("start-daemon", None, Argument, Flag::StartDaemon),
        ("stop-daemon", None, Argument, Flag::StopDaemon),
        ("tcp-service", Some('t'), Argument, Flag::TcpService),
        ("udp-service", Some('u'), Argument, Flag::UdpService),
        ("sctp-service", None, Argument, Flag::SctpService),
        ("fwmark-service", Some('f'), Argument, Flag::FwmarkService),
        ("scheduler", Some('s'), Argument, Flag::Scheduler),
        ("persistent", Some('p'), Optional, Flag::Persistent),
        ("netmask", Some('M'), Argument, Flag::Netmask),
        ("real-server", Some('r'), Argument, Flag::RealServer),
        ("masquerading", Some('m'), Nothing, Flag::Masquerading),
        ("ipip", Some('i'), Nothing, Flag::Ipip),
        ("gatewaying", Some('g'), Nothing, Flag::Gatewaying),
        ("weight", Some('w'), Argument, Flag::Weight),
        ("u-threshold", Some('x'), Argument, Flag::UpperThreshold),
        ("l-threshold", Some('y'), Argument, Flag::LowerThreshold),
        ("numeric", Some('n'), Nothing, Flag::Numeric),
        ("connection", Some('c'), Nothing, Flag::Connection),
        ("mcast-interface", None, Argument, Flag::McastInterface),
        ("syncid", None, Argument, Flag::SyncId),
        ("timeout", None, Nothing, Flag::Timeout),
        ("daemon", None, Nothing, Flag::Daemon),
        ("stats", None, Nothing, Flag::Stats),
        ("rate", None, Nothing, Flag::Rate),
        ("thresholds", None, Nothing, Flag::Thresholds),
        ("persistent-conn", None, Nothing, Flag::PersistentConn),
        ("nosort", None, Nothing, Flag::NoSort),
        ("sort", None, Nothing, Flag::Sort),
        ("exact", Some('X'), Nothing, Flag::Exact),
        ("ipv6", Some('6'), Nothing, Flag::Ipv6),
        ("ops", Some('o'), Nothing, Flag::Ops),
        ("pe", None, Argument, Flag::PersistenceEngine),
        ("sched-flags", Some('b'), Argument, Flag::SchedulerFlags),
        ("mcast-group", None, Argument, Flag::McastGroup),
        ("mcast-port", None, Argument, Flag::McastPort),
        ("mcast-ttl", None, Argument, Flag::McastTtl),
        ("sync-maxlen", None, Argument, Flag::SyncMaxlen),
        ("tun-info", None, Nothing, Flag::TunInfo),
        ("tun-type", None, Argument, Flag::TunType),
        ("tun-port", None, Argument, Flag::TunPort),
        ("tun-nocsum", None, Nothing, Flag::TunNocsum),
        ("tun-csum", None, Nothing, Flag::TunCsum),
        ("tun-remcsum", None, Nothing, Flag::TunRemcsum),
    ]
};

/// What popt itself refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NoArgument,
    UnwantedArgument,
    UnknownOption,
}

/// Reads words one option at a time.
pub(super) struct Words<'a> {
    words: &'a [String],
    next: usize,
    /// What is left of a cluster of short options.
    cluster: &'a str,
    is_rest_leftover: bool,
    leftovers: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// `words` without the name of the program.
    pub(super) fn new(words: &'a [String]) -> Words<'a> {
        Words { words, next: 0, cluster: "", is_rest_leftover: false, leftovers: Vec::new() }
    }

    /// The word that was read last: what popt says is bad.
    pub(super) fn last_word(&self) -> &'a str {
        self.next.checked_sub(1).map_or("", |last| &self.words[last])
    }

    /// The next option with its argument; none at the end.
    pub(super) fn next_flag(&mut self) -> Option<Result<(Flag, Option<&'a str>), Refused>> {
        if !self.cluster.is_empty() {
            return Some(self.short());
        }
        while let Some(word) = self.take_word() {
            if self.is_rest_leftover || word == "-" || !word.starts_with('-') {
                self.leftovers.push(word);
                continue;
            }
            if word == "--" {
                self.is_rest_leftover = true;
                continue;
            }
            return Some(match word.strip_prefix("--") {
                Some(long) => self.long(long),
                None => {
                    self.cluster = &word[1..];
                    self.short()
                }
            });
        }
        None
    }

    /// Words that belong to no option, once all options are read.
    pub(super) fn into_leftovers(self) -> impl Iterator<Item = &'a str> {
        self.leftovers.into_iter()
    }

    fn take_word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    fn long(&mut self, text: &'a str) -> Result<(Flag, Option<&'a str>), Refused> {
        let (name, attached) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let entry = TABLE.iter().find(|(long, ..)| *long == name);
        let (.., takes, flag) = *entry.ok_or(Refused::UnknownOption)?;
        match (takes, attached) {
            (Takes::Nothing, None) => Ok((flag, None)),
            (Takes::Nothing, Some(_)) => Err(Refused::UnwantedArgument),
            (_, Some(argument)) => Ok((flag, Some(argument))),
            (takes, None) => self.argument(takes).map(|argument| (flag, argument)),
        }
    }

    fn short(&mut self) -> Result<(Flag, Option<&'a str>), Refused> {
        let mut letters = self.cluster.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        self.cluster = "";
        let entry = TABLE.iter().find(|(_, short, ..)| short.is_some() && *short == letter);
        let (.., takes, flag) = *entry.ok_or(Refused::UnknownOption)?;
        if takes == Takes::Nothing {
            if rest.starts_with('=') {
                return Err(Refused::UnwantedArgument);
            }
            self.cluster = rest;
            return Ok((flag, None));
        }
        if !rest.is_empty() {
            return Ok((flag, Some(rest.strip_prefix('=').unwrap_or(rest))));
        }
        self.argument(takes).map(|argument| (flag, argument))
    }

    /// The argument that is a word of its own.
    fn argument(&mut self, takes: Takes) -> Result<Option<&'a str>, Refused> {
        let next = self.words.get(self.next);
        if takes == Takes::Optional && next.is_none_or(|word| word.starts_with('-')) {
            return Ok(None);
        }
        self.take_word().map(Some).ok_or(Refused::NoArgument)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = Vec<(Flag, Option<String>)>;

    fn read(words: &[&str]) -> Result<(Read, Vec<String>), (Refused, String)> {
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        let mut reader = Words::new(&words);
        let mut flags = Vec::new();
        while let Some(next) = reader.next_flag() {
            let (flag, argument) = next.map_err(|refused| (refused, reader.last_word().to_owned()))?;
            flags.push((flag, argument.map(str::to_owned)));
        }
        Ok((flags, reader.into_leftovers().map(str::to_owned).collect()))
    }

    fn argument(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn arguments_stand_in_the_same_word_or_the_next() {
        for words in [
            &["-At", "1.2.3.4:80"][..],
            &["-A", "-t1.2.3.4:80"],
            &["-A", "-t=1.2.3.4:80"],
            &["-At=1.2.3.4:80"],
            &["--add-service", "--tcp-service=1.2.3.4:80"],
            &["--add-service", "--tcp-service", "1.2.3.4:80"],
        ] {
            let flags = vec![(Flag::AddService, None), (Flag::TcpService, argument("1.2.3.4:80"))];
            assert_eq!(read(words), Ok((flags, vec![])), "{words:?}");
        }
    }

    #[test]
    fn an_optional_argument_is_no_word_that_starts_with_a_dash() {
        for (words, given) in [
            (&["-p"][..], None),
            (&["-p", "-o"], None),
            (&["-p", "77", "-o"], argument("77")),
            (&["-p", "", "-o"], argument("")),
            (&["-p77"], argument("77")),
        ] {
            assert_eq!(read(words).unwrap().0[0], (Flag::Persistent, given), "{words:?}");
        }
        // A compulsory one is whatever comes.
        assert_eq!(read(&["-f", "-1"]).unwrap().0, vec![(Flag::FwmarkService, argument("-1"))]);
    }

    #[test]
    fn what_belongs_to_no_option_is_left_over_and_nothing_after_two_dashes_is_an_option() {
        let (flags, leftovers) = read(&["word", "-C", "-", "", "--", "-D", "--"]).unwrap();
        assert_eq!(flags, vec![(Flag::Clear, None)]);
        assert_eq!(leftovers, ["word", "-", "", "-D", "--"]);
    }

    #[test]
    fn popt_names_the_word_that_it_refuses() {
        for (words, refused, word) in [
            (&["-At"][..], Refused::NoArgument, "-At"),
            (&["-C", "--weight"], Refused::NoArgument, "--weight"),
            (&["--ops=1"], Refused::UnwantedArgument, "--ops=1"),
            (&["-A="], Refused::UnwantedArgument, "-A="),
            (&["--add-serv"], Refused::UnknownOption, "--add-serv"),
            (&["--="], Refused::UnknownOption, "--="),
            (&["-AQ"], Refused::UnknownOption, "-AQ"),
            (&["-\u{e9}"], Refused::UnknownOption, "-\u{e9}"),
        ] {
            // The first of `-A=` and `-AQ` is read before the rest is refused.
            assert_eq!(read(words), Err((refused, word.to_owned())), "{words:?}");
        }
    }
}
