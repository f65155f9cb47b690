//! The user that servers and pgbr run as: `postgres` when the tests run as root, else whoever runs them.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Makes `command` run as the operator, in `/`, in the C locale, without any variable that would steer PostgreSQL,
/// pgBackRest or pgbr. Set the working directory or variables that the command does need after this call.
pub fn as_operator(command: &mut Command) -> &mut Command {
    let operator = operator();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PG", "PGBR_", "PGBACKREST_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8").current_dir("/");
    if let Some(ids) = &operator.switch_to {
        // With a user id set and none of its own groups named, the standard library clears the groups of root.
        command.uid(ids.uid).gid(ids.gid);
        command.env("HOME", "/tmp").env("USER", &operator.name).env("LOGNAME", &operator.name);
    }
    command
}

/// The operator's user name.
pub fn operator_name() -> &'static str {
    &operator().name
}

/// Gives a file or directory to the operator (nothing below it).
///
/// # Panics
/// When the owner cannot be changed.
pub fn own(path: &Path) {
    if let Some(ids) = &operator().switch_to {
        chown(path, Some(ids.uid), Some(ids.gid))
            .unwrap_or_else(|error| panic!("could not give {} to the operator: {error}", path.display()));
    }
}

/// Whether the operator is another user than the one that runs the tests.
pub(crate) fn is_other_user() -> bool {
    operator().switch_to.is_some()
}

struct Operator {
    name: String,
    /// Only when the tests run as root.
    switch_to: Option<Ids>,
}

struct Ids {
    uid: u32,
    gid: u32,
}

fn operator() -> &'static Operator {
    static OPERATOR: OnceLock<Operator> = OnceLock::new();
    OPERATOR.get_or_init(|| {
        let uid = rustix::process::geteuid();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        if uid.is_root() {
            let ids = passwd.lines().find_map(|line| ids_of(line, "postgres")).unwrap_or_else(|| {
                panic!("the tests run as root and there is no user postgres: run scripts/setup-tests.sh")
            });
            Operator { name: "postgres".to_owned(), switch_to: Some(ids) }
        } else {
            let name = passwd.lines().find_map(|line| name_of(line, uid.as_raw())).unwrap_or_else(|| {
                std::env::var("USER").unwrap_or_else(|_| panic!("user id {} has no name", uid.as_raw()))
            });
            Operator { name, switch_to: None }
        }
    })
}

/// `name:x:uid:gid:…` of the named user.
fn ids_of(line: &str, name: &str) -> Option<Ids> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields.as_slice() {
        [user, _, uid, gid, ..] if *user == name => {
            Some(Ids { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        }
        _ => None,
    }
}

fn name_of(line: &str, uid: u32) -> Option<String> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields.as_slice() {
        [user, _, id, ..] if id.parse() == Ok(uid) => Some((*user).to_owned()),
        _ => None,
    }
}
