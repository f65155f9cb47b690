//! Names of users and groups, asked once each.

use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

/// What the operating system calls users and groups; a number that it does not know has the empty name.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    pub(crate) fn user(&mut self, uid: u32) -> String {
        self.users.entry(uid).or_insert_with(|| user_name(uid).unwrap_or_default()).clone()
    }

    pub(crate) fn group(&mut self, gid: u32) -> String {
        let ask = || Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
        self.groups.entry(gid).or_insert_with(|| ask().unwrap_or_default()).clone()
    }
}

/// The name of the user that this process acts as.
pub(crate) fn current_user() -> Option<String> {
    user_name(geteuid().as_raw())
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_have_no_name() {
        let mut owners = Owners::default();
        assert_eq!(owners.user(0), "root");
        assert_eq!(owners.group(0), "root");
        assert_eq!(owners.user(3_999_999_999), "");
        assert_eq!(owners.group(3_999_999_999), "");
    }
}
