//! `drain` in text: `true`, `false`, or a table (`#[serde(with)]`).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Drain;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum DrainText {
    Flag(bool),
    Table(Drain),
}

/// Writes `true` where nothing else is said.
pub(crate) fn serialize<S: Serializer>(drain: &Option<Drain>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = match *drain {
        None => DrainText::Flag(false),
        Some(drain) if drain == Drain::default() => DrainText::Flag(true),
        Some(drain) => DrainText::Table(drain),
    };
    text.serialize(serializer)
}

/// Reads either form.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Drain>, D::Error> {
    Ok(match DrainText::deserialize(deserializer)? {
        DrainText::Flag(false) => None,
        DrainText::Flag(true) => Some(Drain::default()),
        DrainText::Table(drain) => Some(drain),
    })
}
