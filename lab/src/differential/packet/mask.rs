//! Takes out what is random in the kernel and need not be equal: docs/DEVIATIONS.md, "What is masked".
//!
//! Equal values of one step get equal numbers: whether two fragments belong together is seen.

use std::collections::BTreeSet;

use super::format::{GUE_PORTS, Kind, USUAL_ID};
use super::{Header, Layer};
use crate::differential::neighbours::is_director;

/// Names and values of fields that are not random, though they may be elsewhere.
pub type Known = BTreeSet<(&'static str, u64)>;

/// The random values of a scenario.
#[derive(Debug, Default)]
pub struct Seen {
    /// Those of this step, in the order in which they came.
    step: Vec<(&'static str, u64)>,
    /// Those of all steps: errors quote them later.
    all: Known,
}

impl Seen {
    /// What follows is of another step.
    pub fn next_step(&mut self) {
        self.step.clear();
    }

    fn number(&mut self, name: &'static str, value: u64) -> usize {
        self.all.insert((name, value));
        let place = self.step.iter().position(|seen| *seen == (name, value)).unwrap_or_else(|| {
            self.step.push((name, value));
            self.step.len() - 1
        });
        self.step[..=place].iter().filter(|(other, _)| *other == name).count()
    }
}

/// Headers at the front that may have random fields, if no error quotes them: IPv6, its fragment header, UDP.
const OUTERMOST: usize = 3;

/// Masks what is random in a packet that came out; `known` is what is not, because it came in ([`known_fields`]). All that the
/// director puts in front of a packet is random, whatever else has the same value by chance.
pub fn mask(layers: &mut [Layer], known: &Known, seen: &mut Seen) {
    let (mut is_quoted, mut is_own) = (false, false);
    for (place, layer) in layers.iter_mut().enumerate() {
        let Layer::Header(header) = layer else { continue };
        if let Some((source, _)) = header.addresses {
            is_own = place == 0 && is_director(source);
        }
        for name in ["flow", "id", "sport"] {
            let Some(value) = random_field(header, name) else { continue };
            let is_known = known.contains(&(name, value)) && !is_own;
            let may_be_random = match is_quoted {
                true => seen.all.contains(&(name, value)),
                false => place < OUTERMOST,
            };
            if may_be_random && !is_known {
                mask_field(header, name, seen.number(name, value));
                // Of a fragment: it cannot be told whether it is right, and it depends on the port.
                if name == "sport" && header.fields.get("sum").is_some_and(|sum| *sum != 0) {
                    mask_field(header, "sum", 1);
                }
            }
        }
        is_quoted |= matches!(header.kind, Kind::Icmp | Kind::Icmp6);
    }
}

/// What may be random elsewhere, and is said here.
pub fn known_fields(layers: &[Layer]) -> Known {
    let of_header = |header: &Header| {
        let is_said = |name: &&str| !header.masked.contains_key(name);
        let of_slice = header.slice.map(|slice| ("id", u64::from(slice.id)));
        let of_field = |name| random_field(header, name).map(|value| (name, value));
        let said: Vec<_> = ["flow", "id", "sport"].into_iter().filter(is_said).filter_map(of_field).collect();
        said.into_iter().chain(of_slice)
    };
    let headers = layers.iter().filter_map(|layer| match layer {
        Layer::Header(header) => Some(header),
        _ => None,
    });
    headers.flat_map(of_header).collect()
}

/// The value of a field that may be random in such a header. Zero is said: it is not.
fn random_field(header: &Header, name: &str) -> Option<u64> {
    let is_gue = header.fields.get("dport").is_some_and(|port| GUE_PORTS.contains(port));
    let usual = match (header.kind, name) {
        (Kind::Ip, "id") => USUAL_ID,
        (Kind::Ip6, "flow") | (Kind::Fragment6, "id") => 0,
        (Kind::Udp, "sport") if is_gue => 0,
        _ => return None,
    };
    Some(header.fields.get(name).copied().unwrap_or(usual)).filter(|value| *value != 0)
}

fn mask_field(header: &mut Header, name: &'static str, number: usize) {
    header.fields.remove(name);
    header.masked.insert(name, number);
}
