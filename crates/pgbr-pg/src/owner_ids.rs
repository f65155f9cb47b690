//! Numbers of users and groups by their names, for a restore that runs as root.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Group, User};
use rustix::fs::{Gid, Uid};

use crate::error::{Error, Result};

/// How many names are remembered.
const MAX_NAMES: usize = 1000;

/// Finds the numbers of names, asked once each; what this machine does not know is owned as the data directory is.
#[derive(Debug)]
pub struct OwnerIds {
    default: (Uid, Gid),
    users: HashMap<String, Uid>,
    groups: HashMap<String, Gid>,
}

impl OwnerIds {
    /// With the owner of `directory` for all names that are unknown.
    ///
    /// # Errors
    /// When the directory cannot be examined.
    pub fn of_directory(directory: impl AsRef<Path>) -> Result<Self> {
        let meta = fs::metadata(&directory).map_err(Error::io("examine", &directory))?;
        let default = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        Ok(Self { default, users: HashMap::new(), groups: HashMap::new() })
    }

    /// The numbers of a user and a group.
    pub fn ids(&mut self, user: &str, group: &str) -> (Uid, Gid) {
        let (default_user, default_group) = self.default;
        let find_user =
            || User::from_name(user).ok().flatten().map_or(default_user, |u| Uid::from_raw(u.uid.as_raw()));
        let find_group = || {
            Group::from_name(group).ok().flatten().map_or(default_group, |g| Gid::from_raw(g.gid.as_raw()))
        };
        (remembered(&mut self.users, user, find_user), remembered(&mut self.groups, group, find_group))
    }
}

/// The number of a name, asked for where it is not known.
fn remembered<Id: Copy>(known: &mut HashMap<String, Id>, name: &str, ask: impl FnOnce() -> Id) -> Id {
    if let Some(id) = known.get(name) {
        return *id;
    }
    let id = ask();
    if known.len() < MAX_NAMES {
        known.insert(name.to_owned(), id);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_owned_as_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let meta = fs::metadata(&directory).unwrap();
        let mut owners = OwnerIds::of_directory(&directory).unwrap();
        assert_eq!(owners.ids("root", "root"), (Uid::ROOT, Gid::ROOT));
        assert_eq!(owners.ids("", "no such group"), (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid())));
    }
}
