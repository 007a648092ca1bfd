//! Differences that every packet of a kind has, as rules that make of the kernel's packet the director's.
//!
//! ```text
//! ~ ip id=*1 / icmp => ip id=0 df / icmp
//! ```
//!
//! A packet whose first layers are these kinds with these values, `*1` for what is masked, gets those on the right instead. The
//! first rule that fits applies, and then the director's packet must be so: a rule allows nothing, it demands.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::packet::format::{KINDS, Kind, Usual};
use super::packet::text::Text;
use super::packet::{Header, Layer, parse};

/// What a rule begins with.
pub const MARK: &str = "~ ";

/// Rules in their order.
#[derive(Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    text: String,
    from: Vec<Pattern>,
    to: Vec<Pattern>,
}

/// A layer's kind and some of its fields.
#[derive(Debug)]
struct Pattern {
    kind: Kind,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Is(u64),
    Masked,
}

impl Rules {
    /// No rule: packets stay as they are.
    pub fn none() -> Rules {
        Rules::default()
    }

    /// Reads rules, each a line.
    pub fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Rules> {
        lines
            .map(|line| Rule::read(line).with_context(|| format!("in `{line}`")))
            .collect::<Result<_>>()
            .map(Rules)
    }

    /// Packets that came out in one step, each with who got it, as these rules say, their masks numbered anew. `applied` are
    /// the rules that did.
    pub fn apply<'a>(&'a self, packets: &[String], applied: &mut BTreeSet<&'a str>) -> Result<Vec<String>> {
        let mut numbers = BTreeMap::new();
        let mut ruled = Vec::new();
        for packet in packets {
            let (by, text) = packet.split_once(": ").context("no receiver")?;
            let mut layers = parse(text).with_context(|| format!("in `{text}`"))?;
            if let Some(rule) = self.0.iter().find(|rule| rule.fits(&layers)) {
                rule.rewrite(&mut layers);
                applied.insert(&rule.text);
            }
            number_masks(&mut layers, &mut numbers);
            ruled.push(format!("{by}: {}", Text(&layers)));
        }
        Ok(ruled)
    }
}

impl Rule {
    fn read(line: &str) -> Result<Rule> {
        let (from, to) = line
            .strip_prefix(MARK)
            .and_then(|rule| rule.split_once(" => "))
            .context("write `~ LAYERS => LAYERS`")?;
        let side = |text: &str| text.split(" / ").map(Pattern::read).collect::<Result<Vec<_>>>();
        let (from, to) = (side(from)?, side(to)?);
        ensure!(from.iter().map(|layer| layer.kind).eq(to.iter().map(|layer| layer.kind)), "other layers");
        Ok(Rule { text: line.to_owned(), from, to })
    }

    fn fits(&self, layers: &[Layer]) -> bool {
        layers.len() >= self.from.len()
            && self.from.iter().zip(layers).all(|(pattern, layer)| match layer {
                Layer::Header(header) => pattern.fits(header),
                _ => false,
            })
    }

    fn rewrite(&self, layers: &mut [Layer]) {
        for (pattern, layer) in self.to.iter().zip(layers) {
            if let Layer::Header(header) = layer {
                pattern.fields.iter().for_each(|(name, value)| value.put(name, header));
            }
        }
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Pattern> {
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default();
        let (kind, _) = *KINDS.iter().find(|(_, known)| *known == name).context("no such layer")?;
        let field = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, "1"));
            let name = kind.field(name).with_context(|| format!("no such field: {name}"))?.name;
            let value = match (value, value.strip_prefix("0x")) {
                ("*1", _) => Value::Masked,
                (_, Some(hex)) => Value::Is(u64::from_str_radix(hex, 16)?),
                _ => Value::Is(value.parse()?),
            };
            Ok((name, value))
        };
        Ok(Pattern { kind, fields: words.map(field).collect::<Result<_>>()? })
    }

    fn fits(&self, header: &Header) -> bool {
        header.kind == self.kind
            && self.fields.iter().all(|(name, value)| match header.masked.contains_key(name) {
                true => *value == Value::Masked,
                false => {
                    *value == Value::Is(header.fields.get(name).copied().unwrap_or(usual(self.kind, name)))
                }
            })
    }
}

impl Value {
    fn put(self, name: &'static str, header: &mut Header) {
        header.fields.remove(name);
        header.masked.remove(name);
        match self {
            Value::Is(value) if value == usual(header.kind, name) => {}
            Value::Is(value) => drop(header.fields.insert(name, value)),
            Value::Masked => drop(header.masked.insert(name, NEW)),
        }
    }
}

/// The number of what a rule masks; no packet has it.
const NEW: usize = 0;

fn usual(kind: Kind, name: &str) -> u64 {
    match kind.field(name).map(|field| field.usual) {
        Some(Usual::Is(value)) => value,
        _ => 0,
    }
}

/// Numbers of masked values in the order in which they come; `numbers` are those of their step.
fn number_masks(layers: &mut [Layer], numbers: &mut BTreeMap<&'static str, Vec<usize>>) {
    for layer in layers {
        let Layer::Header(header) = layer else { continue };
        for (name, number) in &mut header.masked {
            let known = numbers.entry(name).or_default();
            let place = known.iter().position(|other| other == number).unwrap_or_else(|| {
                known.push(*number);
                known.len() - 1
            });
            *number = place + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(rules: &[&str], packets: &[&str]) -> (Vec<String>, usize) {
        let rules = Rules::read(rules.iter().copied()).unwrap();
        let packets: Vec<String> = packets.iter().map(|packet| format!("10.0.0.254: {packet}")).collect();
        let mut used = BTreeSet::new();
        let got = rules.apply(&packets, &mut used).unwrap();
        (got.iter().map(|packet| packet.replace("10.0.0.254: ", "")).collect(), used.len())
    }

    #[test]
    fn first_rule_that_fits_applies_and_no_other() {
        let rules = [
            "~ ip tos=0xc2 id=*1 / icmp => ip tos=0xc0 id=0 df / icmp",
            "~ ip id=*1 / icmp => ip id=0 df / icmp",
            "~ ip6 flow=0 / ip => ip6 flow=*1 / ip",
        ];
        let own = "ip 1.1.1.1 > 2.2.2.2 tos=0xc2 id=*1 / icmp 3/3 / ip 2.2.2.2 > 1.1.1.1 id=*2 / udp 1 > 2";
        let expected =
            "ip 1.1.1.1 > 2.2.2.2 tos=0xc0 id=0 df / icmp 3/3 / ip 2.2.2.2 > 1.1.1.1 id=*1 / udp 1 > 2";
        assert_eq!(applied(&rules, &[own]), (vec![expected.to_owned()], 1));
        let tunnelled = "ip6 ::1 > ::2 ttl=63 / ip 1.1.1.1 > 2.2.2.2 / udp 1 > 2";
        let expected = tunnelled.replace(" ttl", " flow=*1 ttl");
        assert_eq!(applied(&rules, &[tunnelled, tunnelled]), (vec![expected.clone(), expected], 1));
        for other in [
            "ip 1.1.1.1 > 2.2.2.2 tos=0xc2 / icmp 3/3 / ip 2.2.2.2 > 1.1.1.1 / udp 1 > 2",
            "ip 1.1.1.1 > 2.2.2.2 id=*1 / udp 1 > 2",
            "ip6 ::1 > ::2 flow=0x00001 / ip 1.1.1.1 > 2.2.2.2 / udp 1 > 2",
            "ip6 ::1 > ::2",
        ] {
            assert_eq!(applied(&rules, &[other]), (vec![other.to_owned()], 0));
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (line, why) in [
            ("~ ip id=1", "write `~ LAYERS => LAYERS`"),
            ("~ ip => ip6", "other layers"),
            ("~ ip => ip / udp", "other layers"),
            ("~ ipx => ipx", "no such layer"),
            ("~ ip length=3 => ip", "no such field: length"),
        ] {
            let error = Rules::read([line].into_iter()).unwrap_err();
            assert_eq!(error.root_cause().to_string(), why, "{line}");
        }
    }
}
