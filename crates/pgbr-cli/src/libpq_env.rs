//! What PostgreSQL's own client library takes from the environment and the password file, by its rules.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest password file that is read, in bytes.
const PASSFILE_SIZE_MAX: u64 = 1024 * 1024;

/// The `PG...` variables that a connection is made from.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PgEnv {
    /// `PGHOST`
    pub host: Option<String>,
    /// `PGPORT`
    pub port: Option<u16>,
    /// `PGUSER`
    pub user: Option<String>,
    /// `PGDATABASE`
    pub database: Option<String>,
    /// `PGPASSWORD`
    pub password: Option<Zeroizing<String>>,
    /// `PGPASSFILE`, else `.pgpass` in the home directory.
    pub passfile: Option<PathBuf>,
}

/// A line of a password file; a field that is `None` fits anything.
#[derive(PartialEq, Eq)]
struct PassEntry {
    host: Option<String>,
    port: Option<String>,
    database: Option<String>,
    user: Option<String>,
    password: Zeroizing<String>,
}

/// A password file.
#[derive(Default, PartialEq, Eq)]
pub struct Passfile {
    entries: Vec<PassEntry>,
}

/// What a connection is made to, to find its password by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassKey<'a> {
    /// Host name, address or socket directory; `None` for the default socket, which the file calls `localhost`.
    pub host: Option<&'a str>,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: &'a str,
    /// User.
    pub user: &'a str,
}

impl PgEnv {
    /// Picks the variables. Empty ones count as unset, as do ports that are no number.
    pub fn from_env(env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut found = Self::default();
        let mut home = None;
        for (name, value) in env {
            if value.is_empty() {
                continue;
            }
            let text = || value.clone().into_string().ok();
            match name.to_str() {
                Some("PGHOST") => found.host = text(),
                Some("PGPORT") => found.port = text().and_then(|port| port.trim().parse().ok()),
                Some("PGUSER") => found.user = text(),
                Some("PGDATABASE") => found.database = text(),
                Some("PGPASSWORD") => found.password = text().map(Zeroizing::new),
                Some("PGPASSFILE") => found.passfile = Some(PathBuf::from(value)),
                Some("HOME") => home = Some(PathBuf::from(value)),
                _ => {}
            }
        }
        found.passfile = found.passfile.or_else(|| Some(home?.join(".pgpass")));
        found
    }

    /// The password for a connection: `PGPASSWORD`, else from the password file. The second value is a warning.
    pub fn password_for(&self, key: &PassKey<'_>) -> (Option<Zeroizing<String>>, Option<String>) {
        if self.password.is_some() {
            return (self.password.clone(), None);
        }
        match self.passfile.as_deref().map(Passfile::read) {
            None => (None, None),
            Some(Ok(file)) => (file.lookup(key).cloned(), None),
            Some(Err(warning)) => (None, Some(warning)),
        }
    }
}

impl Passfile {
    /// Reads a password file. One that is not there is empty.
    ///
    /// # Errors
    /// A warning, as the client library gives it, if the file must not be used: it is no plain file, others can read it,
    /// or it cannot be read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let failed = |error: std::io::Error| format!("password file '{name}' cannot be read: {error}");
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(failed(error)),
        };
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(format!("password file '{name}' is not a plain file"));
        }
        if let Some(problem) = mode_problem(meta.permissions().mode()) {
            return Err(format!("password file '{name}' {problem}"));
        }
        let mut text = Zeroizing::new(Vec::new());
        file.take(PASSFILE_SIZE_MAX + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > PASSFILE_SIZE_MAX {
            return Err(format!("password file '{name}' is too large"));
        }
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Reads lines `host:port:database:user:password`. `*` fits anything, `\` takes away the meaning of the next
    /// character, lines that begin with `#` and lines with too few fields are left out.
    pub fn parse(text: &str) -> Self {
        Self { entries: text.lines().filter_map(PassEntry::parse).collect() }
    }

    /// The password of the first line that fits.
    pub fn lookup(&self, key: &PassKey<'_>) -> Option<&Zeroizing<String>> {
        let host = key.host.unwrap_or("localhost");
        let port = key.port.to_string();
        let fits = |field: &Option<String>, value: &str| field.as_ref().is_none_or(|field| field == value);
        let entry = self.entries.iter().find(|entry| {
            fits(&entry.host, host)
                && fits(&entry.port, &port)
                && fits(&entry.database, key.database)
                && fits(&entry.user, key.user)
        })?;
        Some(&entry.password).filter(|password| !password.is_empty())
    }
}

/// Why a password file of this mode must not be used.
fn mode_problem(mode: u32) -> Option<&'static str> {
    (mode & 0o077 != 0).then_some("has group or world access; permissions should be u=rw (0600) or less")
}

impl PassEntry {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let mut rest = line;
        let mut field = || {
            let (field, after) = split_field(rest)?;
            rest = after;
            Some(if field == "*" { None } else { Some(unescaped(field)) })
        };
        let (host, port, database, user) = (field()?, field()?, field()?, field()?);
        // The password reaches to the end of the line.
        Some(Self { host, port, database, user, password: Zeroizing::new(unescaped(rest)) })
    }
}

/// The part before the first colon that has no backslash before it, and the part after it.
fn split_field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((text.get(..place)?, text.get(place + 1..)?)),
            _ => {}
        }
    }
    None
}

fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match c {
            // A backslash at the very end stands for itself.
            '\\' => text.push(chars.next().unwrap_or('\\')),
            _ => text.push(c),
        }
    }
    text
}

impl fmt::Debug for PgEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgEnv")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("password", &self.password.as_ref().map(|_| "<redacted>"))
            .field("passfile", &self.passfile)
            .finish()
    }
}

impl fmt::Debug for Passfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passfile").field("entries", &self.entries.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const KEY: PassKey<'_> = PassKey { host: Some("db"), port: 5432, database: "app", user: "backup" };

    fn found(text: &str, key: &PassKey<'_>) -> Option<String> {
        Passfile::parse(text).lookup(key).map(|password| password.to_string())
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        for (text, password) in [
            ("db:5432:app:backup:one\n*:*:*:*:two\n", Some("one")),
            ("db:5433:app:backup:one\n*:*:*:*:two\n", Some("two")),
            ("# db:5432:app:backup:no\r\n*:*:*:backup:three\r\n", Some("three")),
            ("d\\b:5432:app:back\\up:four", Some("four")),
            ("db:5432:app:backup:with\\:colon\\\\and:more", Some("with:colon\\and:more")),
            ("db:5432:app:backup:end\\", Some("end\\")),
            ("db:5432:app:backup:\n*:*:*:*:not reached", None),
            ("db:5432:app:backup", None),
            ("other:*:*:*:x\n\n", None),
            ("db:5432:app:**:x", None),
        ] {
            assert_eq!(found(text, &KEY).as_deref(), password, "{text}");
        }
    }

    #[test]
    fn the_default_socket_is_localhost() {
        let key = PassKey { host: None, ..KEY };
        assert_eq!(found("localhost:*:*:*:x", &key).as_deref(), Some("x"));
        let key = PassKey { host: Some("/run/pg"), ..KEY };
        assert_eq!(found("localhost:*:*:*:x\n/run/pg:*:*:*:y", &key).as_deref(), Some("y"));
    }

    #[test]
    fn a_file_that_others_can_read_is_left_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        let env = PgEnv { passfile: Some(path.clone()), ..PgEnv::default() };
        for (mode, usable) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o610, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (password, warning) = env.password_for(&KEY);
            assert_eq!((password.is_some(), warning.is_none()), (usable, usable), "{mode:o}");
        }
        assert_eq!(Passfile::read(&dir.path().join("none")), Ok(Passfile::default()));
        assert!(Passfile::read(dir.path()).unwrap_err().contains("is not a plain file"));
        let env = PgEnv { password: Some("direct".to_owned().into()), ..env };
        assert_eq!(env.password_for(&KEY).0.as_deref().map(String::as_str), Some("direct"));
    }

    #[test]
    fn variables() {
        let env =
            |pairs: &[(&str, &str)]| PgEnv::from_env(pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())));
        let all = env(&[
            ("PGHOST", "h"),
            ("PGPORT", "6000"),
            ("PGUSER", "u"),
            ("PGDATABASE", "d"),
            ("PGPASSWORD", "hidden"),
            ("HOME", "/home/x"),
        ]);
        assert_eq!((all.host.as_deref(), all.port, all.user.as_deref()), (Some("h"), Some(6000), Some("u")));
        assert_eq!(all.passfile.as_deref(), Some(Path::new("/home/x/.pgpass")));
        assert!(!format!("{all:?}").contains("hidden"));
        let other = env(&[("PGPASSFILE", "/p"), ("HOME", "/home/x"), ("PGPORT", "x"), ("PGHOST", "")]);
        assert_eq!((other.passfile.as_deref(), other.port, other.host), (Some(Path::new("/p")), None, None));
        assert_eq!(env(&[]), PgEnv::default());
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_panic(text in "[a-z*:#\\\\\n\u{e9}]*") {
            let file = Passfile::parse(&text);
            let password = file.lookup(&KEY);
            prop_assert!(password.is_none_or(|password| !password.is_empty()));
        }
    }
}
