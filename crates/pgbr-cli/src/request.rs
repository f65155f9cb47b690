//! From settings to requests: how to reach repositories and clusters, and how to compress.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr::{
    Cipher, ClusterAccess, Codec, Compression, ConnectOptions, LockRequest, LockType, Password, RepoAccess,
    RepoPlace, StandbyUse, StanzaName, WitnessFile,
};

use crate::exit::{CliError, ErrorCode};
use crate::libpq_env::{PassKey, PgEnv};
use crate::log::Logger;
use crate::options::Command;
use crate::settings::Settings;

mod endpoint;
mod repository;

#[cfg(fuzzing)]
pub(crate) use endpoint::read as read_endpoint;
pub(crate) use repository::repo_of;

/// The stanza of a command that needs one.
pub(crate) fn stanza(settings: &Settings) -> Result<StanzaName, CliError> {
    let name = settings.stanza().unwrap_or_default();
    name.parse().map_err(|e: pgbr::ManifestError| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))
}

/// How to reach the repositories of a command that works on all of them: every configured one in order of priority, the lowest key
/// first, or only the one that `--repo` names.
pub(crate) fn repos(settings: &Settings) -> Result<Vec<(u16, RepoAccess)>, CliError> {
    repos_of(settings, &settings.repo_keys())
}

/// How to reach the repositories with these keys, which a command works on together.
pub(crate) fn repos_of(settings: &Settings, keys: &[u16]) -> Result<Vec<(u16, RepoAccess)>, CliError> {
    let access = |key: &u16| match repo_of(settings, *key) {
        // Its secrets cannot be had, say: that is no reason to do nothing in the others.
        Err(error) if keys.len() > 1 => Ok((*key, RepoAccess::new(RepoPlace::Unusable(error.text())))),
        access => Ok((*key, access?)),
    };
    keys.iter().map(access).collect()
}

/// The cipher that the settings ask for in a repository, as they spell it, where it is not the one that it gets.
pub(crate) fn renamed_cipher(settings: &Settings, key: u16) -> Option<(String, Cipher)> {
    let asked = settings.indexed("repo", key, "cipher-type").as_str()?;
    (asked == "aes-256-cbc").then(|| (asked.to_owned(), Cipher::Aes256Gcm))
}

/// The data directory of the cluster that the command works on.
pub(crate) fn pg_data(settings: &Settings) -> Option<PathBuf> {
    let key = settings.keys("pg").first().copied().unwrap_or(1);
    settings.indexed("pg", key, "path").as_path().map(Path::to_owned)
}

/// The data directories of all clusters of the stanza.
pub(crate) fn all_pg_data(settings: &Settings) -> Vec<PathBuf> {
    let path = |key: &u16| settings.indexed("pg", *key, "path").as_path().map(Path::to_owned);
    settings.keys("pg").iter().filter_map(path).collect()
}

/// The data directory of the server that runs this command: the one of all that are configured which it works in, else the first.
pub(crate) fn pg_data_here(settings: &Settings) -> Option<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let all = settings.keys("pg").iter().filter_map(|key| settings.indexed("pg", *key, "path").as_path());
    all.filter(|path| is_same(&here, path)).map(Path::to_owned).next().or_else(|| pg_data(settings))
}

/// Whether two paths lead to one place.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// How to reach the cluster: by its options, and by what libpq takes from the environment where they say nothing.
pub(crate) fn cluster(settings: &Settings, env: &PgEnv, log: &Logger) -> Result<ClusterAccess, CliError> {
    let key = settings.keys("pg").first().copied().unwrap_or(1);
    cluster_of(settings, key, env, log)
}

/// How to reach the other clusters of the stanza: `pg2` and so on.
pub(crate) fn other_clusters(
    settings: &Settings,
    env: &PgEnv,
    log: &Logger,
) -> Result<Vec<ClusterAccess>, CliError> {
    settings.keys("pg").iter().skip(1).map(|key| cluster_of(settings, *key, env, log)).collect()
}

/// Whether a backup reads from a standby.
pub(crate) fn standby(settings: &Settings) -> StandbyUse {
    match settings.get_str("backup-standby") {
        Some("y") => StandbyUse::Always,
        Some("prefer") => StandbyUse::Prefer,
        _ => StandbyUse::Never,
    }
}

fn cluster_of(settings: &Settings, key: u16, env: &PgEnv, log: &Logger) -> Result<ClusterAccess, CliError> {
    let entry = |name| settings.indexed("pg", key, name);
    let pg_data = entry("path").as_path().map(Path::to_owned).ok_or_else(|| {
        CliError::new(ErrorCode::OptionRequired, format!("option 'pg{key}-path' is required"))
    })?;
    let explicit = |name| entry(name).source() != crate::settings::Source::Default;
    let port = match entry("port").as_int() {
        Some(port) if explicit("port") => u16::try_from(port).ok(),
        _ => env.port,
    };
    let port = port.unwrap_or(5432);
    let socket = entry("socket-path").as_str().map(str::to_owned);
    let (socket_path, host) = match socket.or_else(|| env.host.clone()) {
        Some(host) if host.starts_with('/') => (Some(PathBuf::from(host)), None),
        Some(host) => (None, Some(host)),
        None => (None, None),
    };
    let database = match entry("database").as_str() {
        Some(database) if explicit("database") => database.to_owned(),
        other => {
            env.database.clone().or_else(|| other.map(str::to_owned)).unwrap_or_else(|| "postgres".to_owned())
        }
    };
    let user = entry("user").as_str().map(str::to_owned).or_else(|| env.user.clone());
    let socket_text = socket_path.as_ref().map(|p| p.to_string_lossy().into_owned());
    let asked = PassKey {
        host: socket_text.as_deref().or(host.as_deref()),
        port,
        database: &database,
        user: user.as_deref().unwrap_or_default(),
    };
    let (password, warning) = env.password_for(&asked);
    if let Some(warning) = warning {
        log.warn(&warning);
    }
    let timeout = settings.get_time("db-timeout").unwrap_or(Duration::from_secs(1800));
    let connect = ConnectOptions {
        password: password.map(|p| Password::new(p.as_str())),
        application_name: format!("{} [{}]", settings.flavor().program(), settings.command().name()),
        connect_timeout: timeout.min(Duration::from_secs(60)),
        query_timeout: timeout,
        socket_path,
        host,
        port,
        user,
        database,
    };
    Ok(ClusterAccess { connect, pg_data })
}

/// How to compress.
pub(crate) fn compression(settings: &Settings) -> Result<Compression, CliError> {
    if !settings.get_bool("compress") {
        return Ok(Compression::NONE);
    }
    let name = settings.get_str("compress-type").unwrap_or("zst");
    let codec: Codec = name
        .parse()
        .map_err(|e: pgbr::CodecError| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))?;
    let level = settings
        .get_int("compress-level")
        .filter(|_| codec != Codec::None)
        .and_then(|l| i32::try_from(l).ok());
    Compression::new(codec, level).map_err(|e| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))
}

/// Worker threads.
pub(crate) fn threads(settings: &Settings) -> usize {
    settings.get_int("process-max").and_then(|n| usize::try_from(n).ok()).unwrap_or(1)
}

/// Where what stays the same of repositories is kept on this host. What root keeps there, the server's own commands could not use.
pub(crate) fn facts(settings: &Settings) -> Option<PathBuf> {
    let root = rustix::process::geteuid().is_root();
    settings.get_path("lock-path").filter(|_| !root).map(|dir| dir.join("facts"))
}

/// Takes away what is kept of repositories on this host: after a change to what does not change otherwise.
pub(crate) fn forget_facts(settings: &Settings) {
    if let Some(directory) = facts(settings) {
        // What cannot be removed is believed for a minute, and no longer.
        std::fs::remove_dir_all(directory).ok();
    }
}

/// The record of what is in a repository, where one is kept.
pub(crate) fn witness(settings: &Settings, key: u16) -> Option<WitnessFile> {
    let (directory, stanza) = (settings.get_path("witness-path")?, settings.stanza()?);
    Some(WitnessFile::of(directory, stanza, key))
}

/// How long WAL is waited for.
pub(crate) fn archive_timeout(settings: &Settings) -> Duration {
    settings.get_time("archive-timeout").unwrap_or(Duration::from_secs(60))
}

/// The repository that a backup is copied to.
pub(crate) fn to_repo(settings: &Settings) -> Result<u16, CliError> {
    let key = settings.get_int("to-repo").and_then(|key| u16::try_from(key).ok()).unwrap_or_default();
    let invalid = |message| Err(CliError::new(ErrorCode::OptionInvalidValue, message));
    if !settings.keys("repo").contains(&key) {
        return invalid(format!("key '{key}' is not valid for 'to-repo' option"));
    }
    if key == settings.repo_key() {
        return invalid(format!(
            "'to-repo' must name another repository than repo{key}, which is copied from"
        ));
    }
    Ok(key)
}

/// The local locks of a command, as pgBackRest names them: one for each repository that it works on, or may.
pub(crate) fn locks(
    settings: &Settings,
    kind: LockType,
    exec_id: &str,
) -> Result<Vec<LockRequest>, CliError> {
    let directory = settings.get_path("lock-path").unwrap_or(Path::new("/tmp/pgbr")).to_owned();
    let (stanza, pid) = (stanza(settings)?, std::process::id());
    let of_repo = |key| LockRequest {
        directory: directory.clone(),
        stanza: stanza.clone(),
        kind,
        repo_key: u32::from(key),
        exec_id: exec_id.to_owned(),
        pid,
    };
    let keys = match settings.command() {
        // What it reads is kept by a pin.
        Command::RepoCopy => vec![to_repo(settings)?],
        _ => settings.repo_keys(),
    };
    Ok(keys.into_iter().map(of_repo).collect())
}
