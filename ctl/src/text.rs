//! Values that are one thing in configuration and protocol and another in the program.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads text with `parse`. Done inside the visitor, so that an error has the text's own place and not that of the
/// table around it.
pub(crate) fn deserialize<'de, D, T, E>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    deserializer.deserialize_str(TextVisitor { parse, value: PhantomData })
}

struct TextVisitor<T, P> {
    parse: P,
    value: PhantomData<T>,
}

impl<T, P, E> Visitor<'_> for TextVisitor<T, P>
where
    P: FnOnce(&str) -> Result<T, E>,
    E: fmt::Display,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<Failure: Error>(self, text: &str) -> Result<T, Failure> {
        (self.parse)(text).map_err(Failure::custom)
    }
}

/// Reads a table as `Text`, and makes a value of it. Done inside the visitor, so that an error has the table's place and
/// not that of what is around it, as with serde's `try_from`.
pub(crate) fn deserialize_table<'de, D, Text, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    Text: Deserialize<'de>,
    T: TryFrom<Text, Error = String>,
{
    deserializer.deserialize_map(TableVisitor { text: PhantomData::<Text>, value: PhantomData })
}

struct TableVisitor<Text, T> {
    text: PhantomData<Text>,
    value: PhantomData<T>,
}

impl<'de, Text, T> Visitor<'de> for TableVisitor<Text, T>
where
    Text: Deserialize<'de>,
    T: TryFrom<Text, Error = String>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let text = Text::deserialize(MapAccessDeserializer::new(map))?;
        T::try_from(text).map_err(A::Error::custom)
    }
}
