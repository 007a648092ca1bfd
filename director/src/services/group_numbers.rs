//! The numbers that groups' persistence templates are kept under.
//!
//! Each is given once, and never is it the group's fwmark: people move marks from one group to another, and clients must
//! not move with them. A group that is removed and added again has the number that it had, and so its templates, for as
//! long as one of its real servers' slots is left.

use std::collections::HashMap;

use ctl::config::GroupName;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct GroupNumbers {
    by_name: HashMap<GroupName, u32>,
    next: u32,
}

impl GroupNumbers {
    /// The number of this group.
    pub(super) fn of(&mut self, name: GroupName) -> u32 {
        let GroupNumbers { by_name, next } = self;
        *by_name.entry(name).or_insert_with(|| {
            let number = *next;
            // With a new group every second they last for 136 years.
            *next = number.wrapping_add(1);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GroupName {
        text.parse().unwrap()
    }

    #[test]
    fn groups_keep_their_numbers_and_none_is_given_twice() {
        let mut numbers = GroupNumbers::default();
        assert_eq!(numbers.of(name("a")), 0);
        assert_eq!(numbers.of(name("b")), 1);
        assert_eq!(numbers.of(name("a")), 0);
        numbers.retain(|kept| *kept != name("a"));
        assert_eq!(numbers.of(name("a")), 2);
        assert_eq!(numbers.of(name("b")), 1);
    }
}
