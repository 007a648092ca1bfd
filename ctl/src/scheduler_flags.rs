//! Scheduler flags in configuration and protocol: a list of ipvsadm's names (`#[serde(with)]`).

use scheduler::SchedulerFlags;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Every name, flag-1 first; `sh` and `mh` give names to the first two.
pub const NAMES: &[&str] =
    &["flag-1", "flag-2", "flag-3", "sh-fallback", "sh-port", "mh-fallback", "mh-port"];

/// Sets the flag of this name; false where there is none.
pub fn set(flags: &mut SchedulerFlags, name: &str) -> bool {
    let flag = match name {
        "flag-1" | "sh-fallback" | "mh-fallback" => &mut flags.fallback,
        "flag-2" | "sh-port" | "mh-port" => &mut flags.port,
        "flag-3" => &mut flags.flag_3,
        _ => return false,
    };
    *flag = true;
    true
}

/// Writes them by number.
pub(crate) fn serialize<S: Serializer>(flags: &SchedulerFlags, serializer: S) -> Result<S::Ok, S::Error> {
    let set = [(flags.fallback, "flag-1"), (flags.port, "flag-2"), (flags.flag_3, "flag-3")];
    let names: Vec<&str> = set.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect();
    names.serialize(serializer)
}

/// Reads any of the names.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SchedulerFlags, D::Error> {
    let mut flags = SchedulerFlags::default();
    for name in Vec::<String>::deserialize(deserializer)? {
        if !set(&mut flags, &name) {
            let known: Vec<String> = NAMES.iter().map(|known| format!("`{known}`")).collect();
            let message = format!("unknown scheduler flag `{name}`, expected one of {}", known.join(", "));
            return Err(D::Error::custom(message));
        }
    }
    Ok(flags)
}

/// The same where they may be absent.
pub mod option {
    use super::{Deserializer, SchedulerFlags, Serializer};

    /// Writes them by number.
    pub fn serialize<S: Serializer>(
        flags: &Option<SchedulerFlags>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match flags {
            Some(flags) => super::serialize(flags, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads any of the names.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SchedulerFlags>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}
