//! `drain` in text: `true`, `false`, or a table (`#[serde(with)]`).

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Drain;

/// Writes `true` where nothing else is said.
pub(crate) fn serialize<S: Serializer>(drain: &Option<Drain>, serializer: S) -> Result<S::Ok, S::Error> {
    match drain {
        None => serializer.serialize_bool(false),
        Some(drain) if *drain == Drain::default() => serializer.serialize_bool(true),
        Some(drain) => drain.serialize(serializer),
    }
}

/// Reads either form.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Drain>, D::Error> {
    deserializer.deserialize_any(DrainVisitor)
}

/// serde's `untagged` would lose place and reason of an error in the table.
struct DrainVisitor;

impl<'de> Visitor<'de> for DrainVisitor {
    type Value = Option<Drain>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boolean or a map")
    }

    fn visit_bool<E>(self, is_draining: bool) -> Result<Option<Drain>, E> {
        Ok(is_draining.then(Drain::default))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<Drain>, A::Error> {
        Drain::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}
