//! Backs up a running cluster and restores it into another directory, by the library alone.
//!
//! ```text
//! backup_and_restore PG_DATA SOCKET_DIR PORT REPOSITORY TARGET
//! ```
//!
//! PostgreSQL needs a program to hand its WAL to and to get it back from. Here it is this one:
//!
//! ```text
//! archive_mode = on
//! archive_command = '/path/to/backup_and_restore push REPOSITORY %p'
//! ```
//!
//! and the restored cluster is told to call `backup_and_restore get REPOSITORY %f %p`.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use pgbr::{
    ArchiveGetRequest, ArchivePushRequest, BackupLabel, BackupRepo, BackupRequest, BackupType, ClusterAccess,
    Codec, Compression, ConnectOptions, Got, Host, Places, RepoAccess, RestoreRequest, StandbyUse,
    StanzaCreateRequest, StanzaName, archive_get, archive_push, backup, restore, stanza_create,
};

type Outcome<T = ExitCode> = Result<T, Box<dyn Error>>;

/// What PostgreSQL takes for a failure of the command, where lower codes mean that there is no more WAL.
const STOP_RECOVERY: u8 = 250;

/// The engine's functions are async: they need a tokio runtime. What costs CPU runs on threads of their own, so one thread is enough.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (done, failure) = match args.as_slice() {
        ["push", repo, file] => (push(repo, file).await, 1),
        ["get", repo, file, destination] => (get(repo, file, destination).await, STOP_RECOVERY),
        [pg_data, socket_dir, port, repo, target] => {
            (back_up_and_restore(pg_data, socket_dir, port, repo, target).await, 1)
        }
        _ => (Err("usage: backup_and_restore PG_DATA SOCKET_DIR PORT REPOSITORY TARGET".into()), 2),
    };
    done.unwrap_or_else(|error| {
        // An error tells what went wrong at its own level; why stands in its sources.
        let causes = std::iter::successors(Some(&*error), |error| (*error).source());
        let text: Vec<String> = causes.map(ToString::to_string).collect();
        writeln!(std::io::stderr(), "{}", text.join(": ")).ok();
        ExitCode::from(failure)
    })
}

/// A stanza is one cluster, with its backups and its WAL, in a repository that may hold several.
fn stanza() -> Outcome<StanzaName> {
    Ok("demo".parse()?)
}

async fn back_up_and_restore(
    pg_data: &str,
    socket_dir: &str,
    port: &str,
    repo: &str,
    target: &str,
) -> Outcome {
    // Clock, randomness and a listener come from outside; this is the machine as it is, with nobody listening.
    let host = Host::system();
    let cluster = ClusterAccess {
        connect: ConnectOptions {
            socket_path: Some(socket_dir.into()),
            port: port.parse()?,
            user: Some("postgres".to_owned()),
            ..ConnectOptions::default()
        },
        pg_data: pg_data.into(),
    };

    // The repository is made with the first stanza. `RepoAccess::with_passphrase` would encrypt it.
    let repository = RepoAccess::plain(std::path::absolute(repo)?);
    let request = StanzaCreateRequest {
        repo: repository.clone(),
        stanza: stanza()?,
        cluster: cluster.clone(),
        others: Vec::new(),
        online: true,
    };
    stanza_create(&host, request).await?;

    // When this returns, the backup and all WAL that it needs are durable.
    let request = BackupRequest {
        repos: vec![BackupRepo::new(1, repository.clone())],
        stanza: stanza()?,
        cluster,
        others: Vec::new(),
        standby: StandbyUse::Never,
        online: true,
        force: false,
        kind: BackupType::Full,
        delta: false,
        resume: true,
        compression: Compression::new(Codec::Zst, None)?,
        threads: 2,
        start_fast: true,
        archive_check: true,
        archive_copy: false,
        archive_mode_check: true,
        archive_timeout: Duration::from_secs(60),
        checksum_page: None,
        exclude: Vec::new(),
        annotation: BTreeMap::from([("made-by".to_owned(), "an example".to_owned())]),
        // The engine sees that the server archives by a command that calls us.
        archive_program: "backup_and_restore".to_owned(),
        keep_writers: false,
    };
    // One for each repository.
    let made = backup(&host, request).await?.made.remove(0);
    let mut out = std::io::stdout();
    writeln!(out, "backup {}: {} files, {} bytes", made.label, made.files, made.sizes.database)?;

    restore_into(&host, repository, made.label, Path::new(target)).await?;
    writeln!(out, "restored into {target}")?;
    Ok(ExitCode::SUCCESS)
}

/// Restores to the end of the WAL: the server recovers when it is started, and is a primary then.
async fn restore_into(host: &Host, repo: RepoAccess, label: BackupLabel, target: &Path) -> Outcome<()> {
    std::fs::create_dir_all(target)?;
    let (command, places) =
        (restore_command(&repo)?, Places { pg_data: target.to_owned(), ..Places::default() });
    let request = RestoreRequest::new(repo, stanza()?, places, command);
    restore(host, RestoreRequest { set: Some(label), archive_off: true, threads: 2, ..request }).await?;
    Ok(())
}

/// This program, as the restored server is to call it.
fn restore_command(repo: &RepoAccess) -> Outcome<String> {
    let program = std::env::current_exe()?;
    Ok(format!("'{}' get '{}' %f \"%p\"", program.display(), repo.place))
}

/// What `archive_command` calls: exit code 0 only when the segment is durable in the archive.
async fn push(repo: &str, file: &str) -> Outcome {
    let request = ArchivePushRequest {
        repos: vec![(1, RepoAccess::plain(repo))],
        stanza: stanza()?,
        file: PathBuf::from(file),
        compression: Compression::new(Codec::Zst, None)?,
        threads: 1,
        header_check: true,
        facts: None,
    };
    archive_push(&Host::system(), request).await?;
    Ok(ExitCode::SUCCESS)
}

/// What `restore_command` calls: 1 says that the WAL ends here, so it is said only where the archive was reached.
async fn get(repo: &str, file: &str, destination: &str) -> Outcome {
    let request = ArchiveGetRequest {
        repos: vec![(1, RepoAccess::plain(repo))],
        stanza: stanza()?,
        file: file.to_owned(),
        destination: PathBuf::from(destination),
        pg_data: None,
        timeout: Duration::from_secs(10),
        facts: None,
    };
    match archive_get(&Host::system(), request).await? {
        Got::Found { .. } => Ok(ExitCode::SUCCESS),
        Got::Missing => Ok(ExitCode::from(1)),
    }
}
