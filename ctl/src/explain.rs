//! serde's messages in the operator's words.
//!
//! serde words its errors the same way for TOML and JSON, and its derive keeps that wording stable: `unknown field`,
//! `invalid value: integer`. A message that is not recognised is passed on as it is.

use crate::nearest::nearest;
use crate::validate::{PORT_HELP, TIMEOUT_SECONDS};

/// Longest part of somebody's input that a message repeats, in characters.
const QUOTED_CHARS_MAX: usize = 100;

/// What serde said, in the operator's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Explained {
    /// The key that it is about, in the table where the error points: one that is missing, or does not go with the
    /// others.
    pub(crate) key: Option<String>,
    /// A number is not in the range of its type.
    pub(crate) is_out_of_range: bool,
    /// What and why.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) help: Option<String>,
}

impl Explained {
    fn new(message: impl Into<String>, help: impl Into<Option<String>>) -> Explained {
        Explained { key: None, is_out_of_range: false, message: message.into(), help: help.into() }
    }
}

/// Explains one of serde's messages. `value` is the text of the value it is about, as the file has it, and `place` is
/// where it stands.
pub(crate) fn explain(raw: &str, value: Option<&str>, place: &str) -> Explained {
    let value = value.unwrap_or_default().trim_matches('"');
    None.or_else(|| explain_unknown(raw, "unknown field ", "unknown key"))
        .or_else(|| explain_unknown(raw, "unknown variant ", "unknown value"))
        .or_else(|| explain_unknown(raw, "unknown scheduler ", "unknown scheduler"))
        .or_else(|| explain_unknown(raw, "unknown scheduler flag ", "unknown scheduler flag"))
        .or_else(|| explain_missing(raw))
        .or_else(|| explain_at_key(raw))
        .or_else(|| explain_number(raw))
        .or_else(|| explain_type(raw))
        .or_else(|| explain_address(raw, value, place))
        .unwrap_or_else(|| Explained::new(clip(raw), None))
}

impl Explained {
    /// What to do about it, at the place where it was found.
    pub(crate) fn help_at(self, place: &str) -> Option<String> {
        if self.is_out_of_range && place.ends_with(".port") {
            let is_of_real_server = place.contains("real_server") || place.ends_with("tunnel.port");
            let help = if is_of_real_server { "give a port from 1 to 65535" } else { PORT_HELP };
            return Some(help.to_owned());
        }
        if self.is_out_of_range && (place.ends_with(".timeout_seconds") || place.contains("timeouts.")) {
            let (min, max) = (TIMEOUT_SECONDS.start(), TIMEOUT_SECONDS.end());
            return Some(format!("give a whole number from {min} to {max}"));
        }
        self.help
    }
}

/// At most [`QUOTED_CHARS_MAX`] characters of a text, without control characters.
pub(crate) fn clip(text: &str) -> String {
    let mut clipped: String = text
        .chars()
        .take(QUOTED_CHARS_MAX * 3)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    if text.chars().nth(QUOTED_CHARS_MAX * 3).is_some() {
        clipped.push_str("...");
    }
    clipped
}

/// ``unknown field `wieght`, expected one of `address`, `weight` ``
fn explain_unknown(raw: &str, start: &str, what: &str) -> Option<Explained> {
    let rest = raw.strip_prefix(start)?.strip_prefix('`')?;
    let (word, known) = match rest.rsplit_once("`, expected ") {
        Some((word, known)) => (word, known.split('`').skip(1).step_by(2).collect::<Vec<_>>()),
        None => (rest.split('`').next()?, Vec::new()),
    };
    let word: String =
        word.chars().take(QUOTED_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let help = match nearest(&word, known.iter().copied()) {
        _ if known.is_empty() => "none is known here".to_owned(),
        Some(meant) => format!("did you mean `{meant}`? Known are {}", known.join(", ")),
        None => format!("known are {}", known.join(", ")),
    };
    Some(Explained::new(format!("{what} `{word}`"), help))
}

fn explain_missing(raw: &str) -> Option<Explained> {
    let key = raw.strip_prefix("missing field `")?.strip_suffix('`')?;
    Some(Explained { key: Some(key.to_owned()), ..Explained::new("it is missing", format!("add `{key}`")) })
}

/// What [`at_key`] starts with.
const AT_KEY: &str = "at key `";

/// An error about one key of a table, found when the whole table had been read.
pub(crate) fn at_key(key: &str, message: &str) -> String {
    format!("{AT_KEY}{key}`: {message}")
}

fn explain_at_key(raw: &str) -> Option<Explained> {
    let (key, message) = raw.strip_prefix(AT_KEY)?.split_once("`: ")?;
    Some(Explained { key: Some(key.to_owned()), ..Explained::new(clip(message), None) })
}

/// ``invalid value: integer `70000`, expected u16``
fn explain_number(raw: &str) -> Option<Explained> {
    let rest = raw.strip_prefix("invalid value: ").or_else(|| raw.strip_prefix("invalid type: "))?;
    let (number, rest) = rest.strip_prefix("integer `")?.split_once('`')?;
    let max = type_max(rest.rsplit_once("expected ")?.1)?;
    let range = Some(format!("give a whole number from 0 to {max}"));
    let message = if number.starts_with('-') {
        format!("{number} is under 0")
    } else {
        format!("{number} is over {max}")
    };
    Some(Explained { is_out_of_range: true, ..Explained::new(message, range) })
}

fn type_max(type_name: &str) -> Option<u64> {
    match type_name {
        "u8" => Some(u8::MAX.into()),
        "u16" => Some(u16::MAX.into()),
        "u32" => Some(u32::MAX.into()),
        "u64" | "usize" => Some(u64::MAX),
        _ => None,
    }
}

/// ``invalid type: string "1", expected u16``
fn explain_type(raw: &str) -> Option<Explained> {
    if raw == "wanted string or table" {
        return Some(Explained::new("text in quotes is wanted here", None));
    }
    let rest = raw.strip_prefix("invalid type: ").or_else(|| raw.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let wanted = match expected {
        "a string" => "text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a boolean or a map" => "true, false or a table of keys and values".to_owned(),
        "`off` or a map" => "\"off\" or a table of keys and values".to_owned(),
        "a sequence" => "a list in [ ]".to_owned(),
        text if text.starts_with("struct ") || text == "a map" => "a table of keys and values".to_owned(),
        text => match type_max(text) {
            Some(max) => format!("a whole number from 0 to {max}"),
            None => text.to_owned(),
        },
    };
    let found = match found {
        "map" => "a table of keys and values".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "null".to_owned(),
        text => format!("the {}", clip(text)),
    };
    Some(Explained::new(format!("{wanted} is wanted here, not {found}"), None))
}

/// The standard library's and ipnet's messages, which do not repeat the value.
fn explain_address(raw: &str, value: &str, place: &str) -> Option<Explained> {
    let key = place.rsplit('.').next().unwrap_or_default();
    let wanted = match raw {
        "invalid IPv4 address syntax" => "IPv4 address such as 192.0.2.10",
        "invalid IP address syntax" if key.starts_with("addresses[") => {
            "address with its network such as 10.0.0.1/24 or 2001:db8::1/64"
        }
        "invalid IP address syntax" if key == "network" => "network such as 10.0.0.0/8 or 2001:db8::/32",
        "invalid IP address syntax" => "IP address such as 192.0.2.10 or 2001:db8::10",
        _ => return None,
    };
    let value: String =
        value.chars().take(QUOTED_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(Explained::new(format!("`{value}` is no {wanted}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_message_is_told_in_the_operators_words() {
        for (raw, message, help) in [
            (
                "unknown field `wieght`, expected one of `address`, `weight`",
                "unknown key `wieght`",
                Some("did you mean `weight`? Known are address, weight"),
            ),
            ("unknown field `x`, expected `tcp` or `udp`", "unknown key `x`", Some("known are tcp, udp")),
            ("unknown field `x`, there are no fields", "unknown key `x`", Some("none is known here")),
            (
                "unknown variant `tcpp`, expected `tcp` or `udp`",
                "unknown value `tcpp`",
                Some("did you mean `tcp`? Known are tcp, udp"),
            ),
            (
                "invalid value: integer `70000`, expected u16",
                "70000 is over 65535",
                Some("give a whole number from 0 to 65535"),
            ),
            (
                "invalid value: integer `-1`, expected u16",
                "-1 is under 0",
                Some("give a whole number from 0 to 65535"),
            ),
            (
                "invalid type: integer `99999999999999999999` as i128, expected u16",
                "99999999999999999999 is over 65535",
                Some("give a whole number from 0 to 65535"),
            ),
            (
                "invalid type: string \"1\", expected u16",
                "a whole number from 0 to 65535 is wanted here, not the string \"1\"",
                None,
            ),
            (
                "invalid type: map, expected a string",
                "text in quotes is wanted here, not a table of keys and values",
                None,
            ),
            ("invalid IPv4 address syntax", "`1.2.3` is no IPv4 address such as 192.0.2.10", None),
            (
                "invalid IP address syntax",
                "`1.2.3` is no IP address such as 192.0.2.10 or 2001:db8::10",
                None,
            ),
            ("something new", "something new", None),
        ] {
            let explained = explain(raw, Some("\"1.2.3\""), "services[0].address");
            assert_eq!((explained.message.as_str(), explained.help.as_deref()), (message, help), "{raw}");
        }
        assert_eq!(explain("missing field `port`", None, "").key.as_deref(), Some("port"));
    }

    /// The parsers of addresses and of networks word it alike.
    #[test]
    fn where_a_network_is_wanted_the_message_says_so() {
        for (place, message) in [
            (
                "ports[0].vlans[1].addresses[0]",
                "`10.0` is no address with its network such as 10.0.0.1/24 or 2001:db8::1/64",
            ),
            ("routes[0].network", "`10.0` is no network such as 10.0.0.0/8 or 2001:db8::/32"),
            ("nat.local_addresses[0]", "`10.0` is no IP address such as 192.0.2.10 or 2001:db8::10"),
        ] {
            assert_eq!(explain("invalid IP address syntax", Some("10.0"), place).message, message);
        }
    }

    #[test]
    fn a_key_of_a_megabyte_does_not_make_a_message_of_a_megabyte() {
        let long = "k".repeat(1 << 20);
        for raw in [
            format!("unknown field `{long}`, expected `tcp` or `udp`"),
            format!("invalid type: string \"{long}\", expected u16"),
            long.clone(),
        ] {
            assert!(explain(&raw, Some(&long), "").message.len() < 1000);
        }
        assert!(explain("invalid IPv4 address syntax", Some(&long), "").message.len() < 1000);
    }
}
