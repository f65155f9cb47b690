//! The user that servers and pgbr run as: `postgres` when the tests run as root, else whoever runs them.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// Runs a program as another user; of util-linux.
const SWITCH: &str = "/usr/bin/setpriv";
/// What divides its options from the program.
const END: &str = "--";

/// Makes `command` run as the operator, in `/`, in the C locale, without any variable that would steer PostgreSQL,
/// pgBackRest or pgbr. Set the working directory, variables and standard streams of the command after this call.
pub fn as_operator(command: &mut Command) -> &mut Command {
    let operator = operator();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PG", "PGBR_", "PGBACKREST_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    if let Some(ids) = &operator.switch_to {
        *command = switched(command, ids);
        command.env("HOME", "/tmp").env("USER", &operator.name).env("LOGNAME", &operator.name);
    }
    command.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8").current_dir("/");
    command
}

/// The program of a command and its arguments, without what [`as_operator`] has put before them: for another program that is to run it.
pub fn words_of(command: &Command) -> Vec<OsString> {
    let words: Vec<OsString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_owned).collect();
    match words.iter().position(|word| word == END) {
        Some(end) if words[0] == SWITCH => words[end + 1..].to_vec(),
        _ => words,
    }
}

/// The same program as another user. Not by the standard library: it has to fork for that, and with it copies the page tables of a test
/// process, which take longer than `setpriv` does. Without it, it spawns.
fn switched(command: &Command, ids: &Ids) -> Command {
    let mut by = Command::new(SWITCH);
    by.arg(format!("--reuid={}", ids.uid)).arg(format!("--regid={}", ids.gid)).args(["--clear-groups", END]);
    by.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => by.env(name, value),
            None => by.env_remove(name),
        };
    }
    by
}

/// The program that [`as_operator`]'s command could not start because it is missing, by how that ended.
pub(crate) fn missing_program(command: &Command, code: Option<i32>, stderr: &str) -> Option<OsString> {
    let says_so = code == Some(127) && stderr.starts_with("setpriv: failed to execute ");
    match command.get_program() == SWITCH && says_so {
        true => words_of(command).into_iter().next(),
        false => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_program() {
        let words = ["sh", "--", "-c", "id -un; id -Gn; pwd"];
        let mut command = Command::new(words[0]);
        command.arg(words[1]);
        as_operator(&mut command).args(&words[2..]);
        assert_eq!(words_of(&command), words);
        assert_eq!(words_of(Command::new("sh").args(&words[1..])), words);
    }

    #[test]
    fn the_operator_has_no_group_of_root() {
        let mut command = Command::new("sh");
        let finished = crate::run(
            as_operator(&mut command).args(["-c", "id -un; id -Gn; pwd"]),
            "",
            std::time::Duration::from_secs(60),
        );
        let said: Vec<&str> = finished.stdout.lines().collect();
        assert_eq!((said[0], said[2]), (operator_name(), "/"), "{finished:#?}");
        assert!(!is_other_user() || said[1] == operator_name(), "{finished:#?}");
    }
}
