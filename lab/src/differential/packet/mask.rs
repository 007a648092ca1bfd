//! Takes out what is random in the kernel and need not be equal: docs/DEVIATIONS.md, "What is masked".
//!
//! Equal values of one step get equal numbers: whether two fragments belong together is seen.

use std::collections::BTreeSet;

use super::format::{GUE_PORTS, Kind};
use super::{Header, Layer};

/// The random values of one step, in the order in which they came.
#[derive(Debug, Default)]
pub struct Seen(Vec<(&'static str, u64)>);

impl Seen {
    fn number(&mut self, name: &'static str, value: u64) -> usize {
        let place = self.0.iter().position(|seen| *seen == (name, value)).unwrap_or_else(|| {
            self.0.push((name, value));
            self.0.len() - 1
        });
        self.0[..=place].iter().filter(|(other, _)| *other == name).count()
    }
}

/// Masks the outermost headers of a packet that came out; `kept` are the identifications of the frame that went in.
pub fn mask(layers: &mut [Layer], kept: &BTreeSet<u64>, seen: &mut Seen) {
    for layer in layers.iter_mut().take(2) {
        let Layer::Header(header) = layer else { continue };
        let is_gue = header.fields.get("dport").is_some_and(|port| GUE_PORTS.contains(port));
        match header.kind {
            Kind::Ip | Kind::Fragment6 => {
                let usual = if header.kind == Kind::Ip { super::format::USUAL_ID } else { 0 };
                let id = header.fields.get("id").copied().unwrap_or(usual);
                // Zero is said: it is not random.
                if id != 0 && !kept.contains(&id) {
                    mask_field(header, "id", seen.number("id", id));
                }
            }
            Kind::Udp if is_gue => {
                let port = header.fields.get("sport").copied().unwrap_or(0);
                mask_field(header, "sport", seen.number("sport", port));
            }
            _ => {}
        }
    }
}

fn mask_field(header: &mut Header, name: &'static str, number: usize) {
    header.fields.remove(name);
    header.masked.insert(name, number);
}
