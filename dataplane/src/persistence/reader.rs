//! How other threads list the templates: straight from the table, without a worker doing anything for it.
//!
//! A template never changes its bucket or its way, so a scan of all buckets sees each one that lives through it exactly
//! once.

use std::sync::atomic::Ordering::{Acquire, Release};

use super::key::TemplateKey;
use super::table::TemplateTable;
use crate::atomic::AtomicU64;
use crate::clock::Ticks;
use crate::connection::Ipv6Pair;
use crate::connection::reader::PairEntry;

/// Bytes kept of a Call-ID.
pub const CALL_ID_BYTES: usize = 63;

/// A template, copied out of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// What names it.
    pub key: TemplateKey,
    /// Destination slot of its real server.
    pub destination: u32,
    /// When its time is over, in whole seconds.
    pub expires: Ticks,
    /// Connections that it controls.
    pub controlled: u32,
    /// One of them was established (IPVS lists ASSURED instead of NONE).
    pub is_assured: bool,
}

/// The start of a Call-ID, for people to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallIdText {
    /// The text, then its length in the last byte.
    bytes: [u8; CALL_ID_BYTES + 1],
}

impl CallIdText {
    /// The first [`CALL_ID_BYTES`] bytes as they came on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        let length = usize::from(self.bytes[CALL_ID_BYTES]);
        self.bytes.get(..length).unwrap_or_default()
    }
}

/// A Call-ID's text in the table: written before the template is live, read as the template's other words are.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(64))]
pub(super) struct StoredText([AtomicU64; (CALL_ID_BYTES + 1) / 8]);

impl StoredText {
    pub(super) fn write(&self, call_id: &[u8]) {
        let mut bytes = [0; CALL_ID_BYTES + 1];
        let length = call_id.len().min(CALL_ID_BYTES);
        bytes[..length].copy_from_slice(&call_id[..length]);
        bytes[CALL_ID_BYTES] = length as u8;
        let (words, _) = bytes.as_chunks::<8>();
        for (stored, word) in self.0.iter().zip(words) {
            stored.store(u64::from_ne_bytes(*word), Release);
        }
    }

    fn read(&self) -> CallIdText {
        let mut bytes = [0; CALL_ID_BYTES + 1];
        let (words, _) = bytes.as_chunks_mut::<8>();
        for (word, stored) in words.iter_mut().zip(&self.0) {
            *word = stored.load(Acquire).to_ne_bytes();
        }
        CallIdText { bytes }
    }
}

impl TemplateTable {
    /// No template is in this bucket or a later one.
    pub fn bucket_bound(&self) -> u32 {
        self.buckets.len() as u32
    }

    /// The templates of the buckets `from` to `from + count`, each as it was at one instant, and the Call-ID's text
    /// where one names it. A template that is made or ends meanwhile may be there or not; one that is over but not yet
    /// swept is there, an invalidated one is not.
    pub fn read(&self, from: u32, count: u32) -> impl Iterator<Item = (Template, Option<CallIdText>)> + '_ {
        let end = from.saturating_add(count).min(self.bucket_bound());
        let buckets = self.buckets.get(from as usize..end as usize).unwrap_or_default();
        buckets.iter().flat_map(|bucket| {
            bucket.links().live().filter_map(|way| {
                let name = bucket.name(way);
                let index = name.index() as usize;
                let also = |key: &TemplateKey| {
                    let text =
                        key.has_call_id().then(|| self.texts.get(index).map(StoredText::read)).flatten();
                    (text, self.pair(index, key))
                };
                let (template, (text, pair)) = self.entries.get(index)?.copy(also)?;
                let template = Template { key: template.key.with_pair(pair), ..template };
                bucket.names(way, name).then_some((template, text))
            })
        })
    }

    /// The template of `key`, unless its time is over; neither held nor re-armed.
    pub fn find(&self, key: &TemplateKey, now: Ticks) -> Option<Template> {
        let hash = self.hash(key);
        let bucket = self.bucket(hash);
        bucket.links().live().find_map(|way| {
            let name = bucket.name(way);
            let entry = self.entries.get(name.index() as usize).filter(|_| name.suits(hash))?;
            let (template, pair) = entry.copy(|key| self.pair(name.index() as usize, key))?;
            let template = Template { key: template.key.with_pair(pair), ..template };
            let is_there = template.controlled > 0 || !template.expires.is_past(now);
            (template.key == *key && is_there && bucket.names(way, name)).then_some(template)
        })
    }

    fn pair(&self, index: usize, key: &TemplateKey) -> Ipv6Pair {
        let pair = self.pairs.get(index).filter(|_| key.is_ipv6());
        pair.map_or(Ipv6Pair::NONE, PairEntry::load)
    }
}
