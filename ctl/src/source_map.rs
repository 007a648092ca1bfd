//! Places in a TOML file: from a byte to the key it belongs to, and from a key to its line.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::validate::Problem;

/// Characters of a line that an excerpt shows, and how many of them stand before the caret at most.
const EXCERPT_CHARS_MAX: usize = 100;
const EXCERPT_CHARS_BEFORE: usize = 60;

/// A TOML text and where its keys are.
pub struct SourceMap<'a> {
    text: &'a str,
    root: DeTable<'a>,
    /// Where each line starts, so that thousands of problems find their lines at once.
    line_starts: Vec<usize>,
}

/// Where something is in a text, for people: both count from 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl<'a> SourceMap<'a> {
    /// Reads a text. One that is no TOML has no places: every lookup finds nothing.
    pub fn new(text: &'a str) -> SourceMap<'a> {
        let root = DeTable::parse(text).map(Spanned::into_inner).unwrap_or_default();
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(offset, _)| offset + 1)).collect();
        SourceMap { text, root, line_starts }
    }

    /// Where the value of a place is (`services[2].real_servers[0].weight`), or else the table that would hold it.
    /// None where the file has not even that.
    pub fn position_of(&self, place: &str) -> Option<Position> {
        self.span_of(place).map(|span| self.position(span.start))
    }

    /// A problem for people, with the line it is on and a caret:
    ///
    /// ```text
    /// lb.toml:7:11: services[0].real_servers[0].address: 10.9.0.1 is in no directly connected network (...)
    ///   |
    /// 7 | address = "10.9.0.1"
    ///   |           ^^^^^^^^^^
    /// ```
    pub fn describe(&self, file_name: &str, problem: &Problem) -> String {
        match self.span_of(&problem.place) {
            Some(span) => {
                format!("{file_name}:{}: {problem}\n{}", self.position(span.start), excerpt(self.text, span))
            }
            None => format!("{file_name}: {problem}"),
        }
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Position { line, column }
    }

    fn span_of(&self, place: &str) -> Option<Range<usize>> {
        let mut steps = place.split(['.', '[']);
        let first = self.root.get(steps.next()?)?;
        let mut found = first;
        for step in steps {
            let next = match (found.get_ref(), step.strip_suffix(']')) {
                (DeValue::Array(items), Some(index)) => {
                    index.parse().ok().and_then(|index: usize| items.get(index))
                }
                (DeValue::Table(table), None) => table.get(step),
                _ => None,
            };
            match next {
                Some(next) => found = next,
                None => break,
            }
        }
        Some(found.span())
    }

    /// The place that a span of bytes belongs to; empty for the file as a whole.
    pub(crate) fn place_at(&self, span: &Range<usize>) -> String {
        let mut best = Best { target: span, place: String::new(), is_exact: false };
        best.search_table(&self.root, "");
        best.place
    }
}

/// The deepest place found so far. A table's own span is its header's alone, so a place inside need not lie within.
struct Best<'s> {
    target: &'s Range<usize>,
    place: String,
    is_exact: bool,
}

impl Best<'_> {
    fn search_table(&mut self, table: &DeTable<'_>, place: &str) {
        for (key, value) in table.iter() {
            let name = key.get_ref();
            let inner = if place.is_empty() { name.to_string() } else { format!("{place}.{name}") };
            self.consider(&key.span(), &inner);
            self.search(value, &inner);
        }
    }

    fn search(&mut self, value: &Spanned<DeValue<'_>>, place: &str) {
        self.consider(&value.span(), place);
        match value.get_ref() {
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.search(item, &format!("{place}[{index}]"));
                }
            }
            DeValue::Table(table) => self.search_table(table, place),
            _ => {}
        }
    }

    fn consider(&mut self, span: &Range<usize>, place: &str) {
        let is_exact = span == self.target;
        let holds = span.start <= self.target.start && self.target.end <= span.end;
        if is_exact || (holds && !self.is_exact) {
            self.place = place.to_owned();
            self.is_exact = is_exact;
        }
    }
}

/// Line and column of a byte.
pub(crate) fn position(text: &str, offset: usize) -> Position {
    let offset =
        (0..=offset.min(text.len())).rev().find(|offset| text.is_char_boundary(*offset)).unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// The line of a span, and carets under the span.
pub(crate) fn excerpt(text: &str, span: Range<usize>) -> String {
    let at = position(text, span.start);
    let line = text.split('\n').nth(at.line - 1).unwrap_or_default().trim_end_matches('\r');
    let skipped = if line.chars().count() > EXCERPT_CHARS_MAX {
        (at.column - 1).saturating_sub(EXCERPT_CHARS_BEFORE)
    } else {
        0
    };
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    let shown: String = line.chars().skip(skipped).take(EXCERPT_CHARS_MAX).map(printable).collect();
    let before = at.column - 1 - skipped;
    let marked =
        text.get(span).map_or(0, |marked| marked.split('\n').next().unwrap_or_default().chars().count());
    let carets = marked.clamp(1, EXCERPT_CHARS_MAX.saturating_sub(before).max(1));
    let gutter = " ".repeat(at.line.to_string().len());
    format!("{gutter} |\n{} | {shown}\n{gutter} | {}{}", at.line, " ".repeat(before), "^".repeat(carets))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[director]\nmemory_mib = 5\n[[services]]\nport = 80\n[[services.real_servers]]\naddress = \"x\"\n\
                        [[services.real_servers]]\naddress = \"y\"\n[[services]]\nreal_servers = [{ address = \"z\" }]\n";

    #[test]
    fn a_place_leads_to_its_line_and_a_byte_to_its_place() {
        let map = SourceMap::new(TEXT);
        for (place, value) in [
            ("director.memory_mib", "5"),
            ("services[0].port", "80"),
            ("services[0].real_servers[0].address", "\"x\""),
            ("services[0].real_servers[1].address", "\"y\""),
            ("services[1].real_servers[0].address", "\"z\""),
        ] {
            let offset = TEXT.find(value).unwrap();
            assert_eq!(map.position_of(place), Some(position(TEXT, offset)), "{place}");
            assert_eq!(map.place_at(&(offset..offset + value.len())), place);
        }
    }

    #[test]
    fn a_place_that_the_file_lacks_leads_to_the_table_that_would_hold_it() {
        let map = SourceMap::new(TEXT);
        for (place, line) in [
            ("services[1].port", Some(9)),
            ("services[7].port", Some(3)),
            ("services", Some(3)),
            ("director.worker_cpus[3]", Some(1)),
            ("ports", None),
            ("", None),
        ] {
            assert_eq!(map.position_of(place).map(|position| position.line), line, "{place}");
        }
    }

    /// Each found by reading the file from its start would take minutes.
    #[test]
    fn fifty_thousand_places_are_found_at_once() {
        let text = "[[services]]\nport = 0\n".repeat(50_000);
        let start = std::time::Instant::now();
        let map = SourceMap::new(&text);
        for index in 0..50_000 {
            let position = map.position_of(&format!("services[{index}].port"));
            assert_eq!(position, Some(Position { line: 2 * index + 2, column: 8 }));
        }
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    }

    #[test]
    fn a_line_of_a_megabyte_is_shown_around_the_caret() {
        let text = format!("a = \"{}\" b \"{}\"", "é".repeat(1 << 19), "x".repeat(1 << 19));
        let offset = text.find(" b ").unwrap() + 1;
        let shown = excerpt(&text, offset..offset + 1);
        assert!(shown.len() < 1000, "{shown}");
        let lines: Vec<&str> = shown.split('\n').collect();
        let caret = lines[2].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[1].chars().nth(caret), Some('b'), "{shown}");
    }

    #[test]
    fn a_span_past_the_end_or_inside_a_character_is_shown_without_a_panic() {
        for text in ["", "é", "a\n", "a\r\nb"] {
            for start in 0..8 {
                for end in start..8 {
                    let shown = excerpt(text, start..end);
                    assert!(shown.contains('^'), "{shown}");
                }
            }
        }
    }
}
