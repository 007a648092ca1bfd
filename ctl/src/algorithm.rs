//! A scheduler's name in configuration and protocol (`#[serde(with)]`: the scheduler crate knows no serde).

use scheduler::Algorithm;
use serde::{Deserializer, Serializer};

/// Writes LVS's name.
pub fn serialize<S: Serializer>(algorithm: &Algorithm, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(algorithm.name())
}

/// Reads LVS's name; the error lists the known ones.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Algorithm, D::Error> {
    crate::text::deserialize(deserializer, |name| {
        name.parse().map_err(|_| {
            let known: Vec<String> = Algorithm::ALL.iter().map(|known| format!("`{known}`")).collect();
            // In serde's own words for an unknown name, which `explain` knows.
            format!("unknown scheduler `{name}`, expected one of {}", known.join(", "))
        })
    })
}

/// The same where it may be absent.
pub mod option {
    use serde::Deserialize;

    use super::{Algorithm, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Name(#[serde(deserialize_with = "super::deserialize")] Algorithm);

    /// Writes LVS's name.
    pub fn serialize<S: Serializer>(algorithm: &Option<Algorithm>, serializer: S) -> Result<S::Ok, S::Error> {
        match algorithm {
            Some(algorithm) => super::serialize(algorithm, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads LVS's name.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Algorithm>, D::Error> {
        Ok(Option::<Name>::deserialize(deserializer)?.map(|Name(algorithm)| algorithm))
    }
}
