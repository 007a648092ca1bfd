//! Who may use the control socket: root, the daemon's own user, and the members of the control group.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// The process at the other end, as the kernel tells it (SO_PEERCRED): what it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process id; 0 where it is of another PID namespace.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
}

/// The rule.
#[derive(Clone, Copy, Debug)]
pub struct AccessRule {
    own_uid: Uid,
    group: Option<Gid>,
}

impl AccessRule {
    /// Root, this process's user, and the members of `group`.
    pub fn new(group: Option<Gid>) -> Self {
        AccessRule { own_uid: Uid::effective(), group }
    }

    /// Root or the daemon's own user: needs no look into a database.
    pub fn admits_at_once(&self, caller: Caller) -> bool {
        let is_of_group = self.group.is_some_and(|group| group.as_raw() == caller.gid);
        caller.uid == 0 || caller.uid == self.own_uid.as_raw() || is_of_group
    }

    /// By the user and group databases, which may be on the network: not for the control thread.
    pub fn admits_by_database(&self, caller: Caller) -> bool {
        let Some(group) = self.group else { return false };
        let Ok(Some(user)) = User::from_uid(Uid::from_raw(caller.uid)) else { return false };
        let Ok(name) = CString::new(user.name) else { return false };
        getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
    }
}

/// A group by its name.
pub fn find_group(name: &str) -> Result<Gid, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(format!(
            "there is no group {name:?}: create it (`groupadd --system {name}`) or correct the name"
        )),
        Err(error) => Err(format!("group {name:?} cannot be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller { pid: 1, uid, gid }
    }

    #[test]
    fn root_own_user_and_group_are_admitted_and_nobody_else() {
        let own = Uid::effective().as_raw();
        let rule = AccessRule::new(Some(Gid::from_raw(4242)));
        for (caller, is_admitted) in [
            (caller(0, 0), true),
            (caller(own, 77), true),
            (caller(31_337, 4242), true),
            (caller(31_337, 4243), false),
        ] {
            let admitted = rule.admits_at_once(caller) || rule.admits_by_database(caller);
            assert_eq!(admitted, is_admitted, "{caller:?}");
        }
        let without_group = AccessRule::new(None);
        assert!(!without_group.admits_at_once(caller(31_337, 0)), "root's group is not root");
        assert!(!without_group.admits_by_database(caller(31_337, 0)));
    }

    #[test]
    fn supplementary_members_are_found_in_the_database() {
        // `daemon` (uid 1) has primary group 1 on every Debian.
        let rule = AccessRule::new(Some(Gid::from_raw(1)));
        assert!(rule.admits_by_database(caller(1, 65_534)));
        assert!(!rule.admits_by_database(caller(65_534, 65_534)));
    }

    #[test]
    fn unknown_group_is_named() {
        assert!(find_group("no-such-group").unwrap_err().contains("no-such-group"));
        assert_eq!(find_group("root"), Ok(Gid::from_raw(0)));
    }
}
