//! Scheduler flags in configuration and protocol: a list of ipvsadm's names (`#[serde(with)]`).

use scheduler::{Algorithm, SchedulerFlags};
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

/// The flags that are set, by the names that this scheduler gives them.
pub fn names(flags: &SchedulerFlags, scheduler: Algorithm) -> Vec<&'static str> {
    let [fallback, port] = match scheduler.name() {
        "sh" => ["sh-fallback", "sh-port"],
        "mh" => ["mh-fallback", "mh-port"],
        _ => ["flag-1", "flag-2"],
    };
    let all = [(flags.fallback, fallback), (flags.port, port), (flags.flag_3, "flag-3")];
    all.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect()
}

/// Why a flag of this name is none of this scheduler.
///
/// # Errors
/// The name belongs to another scheduler.
pub fn check_name(name: &str, scheduler: Algorithm) -> Result<(), String> {
    match name.split_once('-') {
        Some((owner @ ("sh" | "mh"), _)) if owner != scheduler.name() => {
            Err(format!("`{name}` is a flag of the scheduler {owner}, not of {scheduler}"))
        }
        _ => Ok(()),
    }
}

/// Names as text has them, every one known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlagNames(Vec<&'static str>);

impl FlagNames {
    /// The names that `scheduler` gives to `flags`.
    pub(crate) fn new(flags: &SchedulerFlags, scheduler: Algorithm) -> FlagNames {
        FlagNames(names(flags, scheduler))
    }

    /// The flags, of any scheduler.
    pub(crate) fn flags(&self) -> SchedulerFlags {
        let mut flags = SchedulerFlags::default();
        for name in &self.0 {
            set(&mut flags, name);
        }
        flags
    }

    /// The flags, where all of them are this scheduler's.
    pub(crate) fn flags_of(&self, scheduler: Algorithm) -> Result<SchedulerFlags, String> {
        self.0.iter().try_for_each(|name| check_name(name, scheduler))?;
        Ok(self.flags())
    }
}

impl Serialize for FlagNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FlagNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<FlagName>::deserialize(deserializer)
            .map(|names| names.into_iter().map(|name| name.0).collect())
            .map(FlagNames)
    }
}

/// One name; read for itself, so that an error has its place in the list.
struct FlagName(&'static str);

impl<'de> Deserialize<'de> for FlagName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::text::deserialize(deserializer, |text| {
            NAMES.iter().find(|name| **name == text).map(|name| FlagName(name)).ok_or_else(|| {
                let known: Vec<String> = NAMES.iter().map(|known| format!("`{known}`")).collect();
                // In serde's own words for an unknown name, which `explain` knows.
                format!("unknown scheduler flag `{text}`, expected one of {}", known.join(", "))
            })
        })
    }
}

/// Flags that may be absent, of a scheduler that is not known here: written by number, read by any of the names.
pub mod option {
    use super::{Algorithm, Deserialize, Deserializer, FlagNames, SchedulerFlags, Serialize, Serializer};

    /// Writes them by number.
    pub fn serialize<S: Serializer>(
        flags: &Option<SchedulerFlags>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        flags.map(|flags| FlagNames::new(&flags, Algorithm::Rr)).serialize(serializer)
    }

    /// Reads any of the names.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SchedulerFlags>, D::Error> {
        Ok(Option::<FlagNames>::deserialize(deserializer)?.map(|names| names.flags()))
    }
}
