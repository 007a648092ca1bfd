//! The numbers that groups' persistence templates are kept under.
//!
//! A group with an fwmark has that one. Others get numbers from [`FIRST`] up, each given once: a number of a removed
//! group must not lead a client to templates of that group. A group that is removed and added again has the number that
//! it had, and so its templates, for as long as one of its real servers' slots is left.

use std::collections::{HashMap, HashSet};

use ctl::config::{GroupName, ServiceConfig};

/// Marks that people choose are small.
const FIRST: u32 = 0x8000_0000;

/// See the module.
#[derive(Debug)]
pub(super) struct GroupNumbers {
    by_name: HashMap<GroupName, u32>,
    marks: HashSet<u32>,
    next: u32,
}

impl Default for GroupNumbers {
    fn default() -> Self {
        GroupNumbers { by_name: HashMap::new(), marks: HashSet::new(), next: FIRST }
    }
}

impl GroupNumbers {
    /// The marks of these services are theirs from now on: a number given before that is among them is taken back.
    pub(super) fn reserve(&mut self, services: &[ServiceConfig]) {
        self.marks = services.iter().filter_map(|service| service.fwmark).collect();
        self.by_name.retain(|_, number| !self.marks.contains(number));
    }

    /// The number of this group.
    pub(super) fn of(&mut self, name: GroupName, fwmark: Option<u32>) -> u32 {
        if let Some(mark) = fwmark {
            return mark;
        }
        let GroupNumbers { by_name, marks, next } = self;
        *by_name.entry(name).or_insert_with(|| {
            while marks.contains(next) {
                *next = following(*next);
            }
            let number = *next;
            *next = following(number);
            number
        })
    }

    /// Groups that were given numbers.
    pub(super) fn names(&self) -> impl Iterator<Item = &GroupName> {
        self.by_name.keys()
    }

    /// Forgets the numbers of all other groups.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&GroupName) -> bool) {
        self.by_name.retain(|name, _| is_kept(name));
    }
}

/// After two thousand million groups it starts again.
fn following(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GroupName {
        text.parse().unwrap()
    }

    fn marked(mark: u32) -> ServiceConfig {
        let group = ctl::config::ServiceId::Group(name("marked"));
        ServiceConfig { fwmark: Some(mark), ..ServiceConfig::new(group) }
    }

    #[test]
    fn groups_keep_their_numbers_and_none_is_given_twice() {
        let mut numbers = GroupNumbers::default();
        assert_eq!(numbers.of(name("a"), None), FIRST);
        assert_eq!(numbers.of(name("b"), None), FIRST + 1);
        assert_eq!(numbers.of(name("a"), None), FIRST);
        assert_eq!(numbers.of(name("a"), Some(7)), 7);
        numbers.retain(|kept| *kept != name("a"));
        assert_eq!(numbers.of(name("a"), None), FIRST + 2);
    }

    #[test]
    fn mark_that_somebody_chooses_is_nobody_elses_number() {
        let mut numbers = GroupNumbers::default();
        numbers.reserve(&[marked(FIRST + 1)]);
        assert_eq!(numbers.of(name("a"), None), FIRST);
        assert_eq!(numbers.of(name("b"), None), FIRST + 2);
        numbers.reserve(&[marked(FIRST + 2)]);
        assert_eq!(numbers.of(name("b"), None), FIRST + 3, "its own was taken");
        assert_eq!(numbers.of(name("a"), None), FIRST);
    }
}
