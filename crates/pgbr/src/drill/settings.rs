//! What the server of a drill is told, so that it touches nothing but what was restored. Pure.

use std::path::Path;

use pgbr_manifest::PgVersion;

use crate::error::{Error, Result};

/// The port, which is but a part of the socket's name.
pub(super) const PORT: u16 = 5432;
/// The longest path of a socket that the system takes, in bytes.
const MAX_SOCKET: usize = 107;

/// What would let the server out of its directory, or let others in: an operator's setting must not change it.
const FIXED: [&str; 11] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "data_directory",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "restore_command",
    "unix_socket_directories",
];

/// Where the server of a drill works.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerPlace<'a> {
    /// The directory of the drill, and of the socket.
    pub(super) directory: &'a Path,
    /// The data directory below it.
    pub(super) pg_data: &'a Path,
    /// The config file where the data directory has none: it lay elsewhere.
    pub(super) config_file: Option<&'a Path>,
}

/// Settings for the command line, where they win over whatever the restored files say. `extra` comes last.
pub(super) fn plan_settings(
    version: PgVersion,
    place: ServerPlace<'_>,
    extra: &[(String, String)],
) -> Result<Vec<(String, String)>> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
    let inside = |name: &str| place.directory.join(name).display().to_string();
    if let Some(path) = place.config_file {
        set("config_file", &path.display().to_string());
    }
    // A restored file may name the directory of the cluster that it was taken from.
    set("data_directory", &place.pg_data.display().to_string());
    set("hba_file", &inside("pg_hba.conf"));
    set("ident_file", &inside("pg_ident.conf"));
    set("unix_socket_directories", &quoted(place.directory));
    set("port", &PORT.to_string());
    CLOSED.iter().chain(PLAIN).for_each(|(name, value)| set(name, value));
    let since = |first, names: &[(&'static str, &'static str)]| {
        if version >= first { names.to_vec() } else { Vec::new() }
    };
    let until = |last, names: &[(&'static str, &'static str)]| {
        if version <= last { names.to_vec() } else { Vec::new() }
    };
    // What one version does not know, it does not start with.
    let of_version = [
        until(PgVersion::V14, &[("stats_temp_directory", "pg_stat_tmp")]),
        until(PgVersion::V15, &[("promote_trigger_file", "")]),
        since(PgVersion::V15, &[("archive_library", "")]),
        since(
            PgVersion::V17,
            &[("event_triggers", "off"), ("summarize_wal", "off"), ("sync_replication_slots", "off")],
        ),
        since(PgVersion::V18, &[("io_method", "worker")]),
    ];
    of_version.iter().flatten().for_each(|(name, value)| set(name, value));
    for (name, value) in extra {
        settings.push(checked(name, value)?);
    }
    Ok(settings)
}

/// Nobody is heard but on the socket, nothing is sent anywhere, nothing of anybody else's is run.
const CLOSED: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_group", ""),
    ("unix_socket_permissions", "0700"),
    ("bonjour", "off"),
    ("ssl", "off"),
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("hot_standby", "off"),
    // A restored subscriber must not take from its publisher what the real one is to get.
    ("max_logical_replication_workers", "0"),
    ("max_wal_senders", "0"),
    // Nobody confirms what is written here.
    ("synchronous_standby_names", ""),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("external_pid_file", ""),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
];

/// Words that can be read by a program, and no more memory and work than a drill needs.
const PLAIN: &[(&str, &str)] = &[
    ("cluster_name", "pgbr drill"),
    ("lc_messages", "C"),
    ("log_line_prefix", "%m [%p] "),
    ("log_min_messages", "warning"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("autovacuum", "off"),
    ("default_transaction_read_only", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("jit", "off"),
    // What is lost with the machine is a drill.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
];

/// A directory in a list of directories.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('"', "\"\""))
}

/// An operator's setting: a name that may be set, and a value of one line.
fn checked(name: &str, value: &str) -> Result<(String, String)> {
    let clean = name.replace('-', "_").to_ascii_lowercase();
    let bad = |reason| Err(Error::Setting { name: name.chars().take(100).collect(), reason });
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if clean.len() > 128 || !clean.split('.').all(word) {
        return bad("it is not the name of a setting");
    }
    if FIXED.contains(&clean.as_str()) {
        return bad("it keeps the server of a drill apart from everything else");
    }
    if value.contains(['\n', '\r', '\0']) {
        return bad("a value is one line");
    }
    Ok((clean, value.to_owned()))
}

/// Sees that the path of the socket is one that the system takes.
pub(super) fn check_socket(directory: &Path) -> Result<()> {
    let socket = directory.join(format!(".s.PGSQL.{PORT}"));
    let length = socket.as_os_str().len();
    if length <= MAX_SOCKET {
        return Ok(());
    }
    let reason = format!("the path of the socket in it has {length} bytes, and {MAX_SOCKET} are allowed");
    Err(Error::DrillDirectory { path: directory.to_owned(), reason })
}

/// A config file for a server whose own lay outside of its data directory.
pub(super) fn own_config(max_prepared_transactions: u32) -> String {
    // Transactions that were prepared come back by recovery, and have to find room.
    format!("# Made for a drill.\nmax_prepared_transactions = {max_prepared_transactions}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(version: PgVersion, extra: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let extra: Vec<_> = extra.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let place = ServerPlace {
            directory: Path::new("/scratch/d"),
            pg_data: Path::new("/scratch/d/data"),
            config_file: None,
        };
        plan_settings(version, place, &extra)
    }

    fn value(settings: &[(String, String)], name: &str) -> Option<String> {
        settings.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn nothing_leads_out_of_the_directory() {
        for version in [PgVersion::V13, PgVersion::V15, PgVersion::V18] {
            let settings = plan(version, &[]).unwrap();
            for name in
                ["listen_addresses", "archive_command", "primary_conninfo", "shared_preload_libraries"]
            {
                assert_eq!(value(&settings, name).as_deref(), Some(""), "{name}");
            }
            assert_eq!(value(&settings, "data_directory").as_deref(), Some("/scratch/d/data"));
            assert_eq!(value(&settings, "unix_socket_directories").as_deref(), Some("\"/scratch/d\""));
            assert_eq!(value(&settings, "archive_mode").as_deref(), Some("off"));
            assert_eq!(value(&settings, "config_file"), None);
            let names: std::collections::BTreeSet<_> = settings.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), settings.len(), "each is set once");
        }
    }

    #[test]
    fn a_version_is_told_what_it_knows() {
        for (name, known) in [
            ("stats_temp_directory", [true, true, false, false, false, false]),
            ("promote_trigger_file", [true, true, true, false, false, false]),
            ("archive_library", [false, false, true, true, true, true]),
            ("summarize_wal", [false, false, false, false, true, true]),
            ("io_method", [false, false, false, false, false, true]),
        ] {
            for (major, known) in (13..).zip(known) {
                let version = PgVersion::from_major(major).unwrap();
                assert_eq!(value(&plan(version, &[]).unwrap(), name).is_some(), known, "{name} {major}");
            }
        }
    }

    #[test]
    fn an_operators_settings_come_last_but_do_not_open_the_door() {
        let settings = plan(PgVersion::V15, &[("shared-buffers", "1GB"), ("foo.bar", "x")]).unwrap();
        assert_eq!(value(&settings, "shared_buffers").as_deref(), Some("1GB"));
        assert_eq!(settings.last().unwrap().0, "foo.bar");
        for (name, value) in [
            ("Port", "1"),
            ("data-directory", "/x"),
            ("a b", "x"),
            ("", "x"),
            ("1c", "x"),
            ("work_mem", "1\n2"),
        ] {
            assert!(matches!(plan(PgVersion::V15, &[(name, value)]), Err(Error::Setting { .. })), "{name}");
        }
    }

    #[test]
    fn a_socket_has_to_fit() {
        let at = |length: usize| Path::new("/").join("d".repeat(length - 1));
        assert!(check_socket(&at(93)).is_ok());
        let error = check_socket(&at(94)).unwrap_err().to_string();
        assert!(error.contains("108 bytes, and 107 are allowed"), "{error}");
    }
}
