//! Values that are text in configuration and protocol, and more than text in the program.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer;
use serde::de::{Error, Visitor};

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
