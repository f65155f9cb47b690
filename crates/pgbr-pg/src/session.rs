//! A conversation with a server: who it is, and a backup from start to stop.

use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt;
use pgbr_manifest::{Lsn, PgVersion, SystemId, TimelineId, WalSegmentSize};
use tokio_postgres::{CancelToken, Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::error::{Error, Result, ServerError};

mod backup;

pub use backup::{FinishedBackup, RunningBackup};

/// How long a cancel request may take before it is given up.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// An open session with a server.
///
/// Opened by [`Session::connect`]. Statements go one after the other; dropping the session ends it, and with it a backup that
/// it began. A statement that does not answer in time is cancelled and reported; drop the session then.
#[derive(Debug)]
pub struct Session {
    client: Client,
    version: PgVersion,
    query_timeout: Duration,
}

/// Cancels what a session is waiting for, from outside. Made by [`Session::canceller`].
#[derive(Clone)]
pub struct Canceller(CancelToken);

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").finish_non_exhaustive()
    }
}

impl Canceller {
    /// Asks the server to give up the statement that it works on. Best effort: nothing tells whether it did.
    pub async fn cancel(&self) {
        let _late = tokio::time::timeout(CANCEL_TIMEOUT, self.0.cancel_query(NoTls)).await;
    }
}

/// What a server says about its cluster.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClusterFacts {
    /// Major version.
    pub version: PgVersion,
    /// `server_version_num`, as 150020.
    pub version_num: u32,
    /// `system_identifier` of the control file.
    pub system_id: SystemId,
    /// The data directory, as the server spells it.
    pub data_directory: PathBuf,
    /// `postgresql.conf`, wherever it lies.
    pub config_file: Option<PathBuf>,
    /// `pg_hba.conf`, wherever it lies.
    pub hba_file: Option<PathBuf>,
    /// `pg_ident.conf`, wherever it lies.
    pub ident_file: Option<PathBuf>,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// The command for WAL segments; empty when there is none.
    pub archive_command: String,
    /// The module for WAL segments (15 and later); empty when there is none.
    pub archive_library: String,
    /// Whether this is a standby or a server in recovery.
    pub in_recovery: bool,
    /// Size of a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// Size of a page in bytes.
    pub block_size: u32,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Whether full pages are logged after a checkpoint.
    pub full_page_writes: bool,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// The server's time zone for messages and labels (`log_timezone`).
    pub timezone: String,
    /// Time between checkpoints.
    pub checkpoint_timeout: Duration,
}

/// A database, for selective restores.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Database {
    /// Its OID, the name of its directories.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a template.
    pub is_template: bool,
    /// The OID of `template0`, which pgBackRest calls the last system OID.
    pub last_system_oid: u32,
}

/// What a statement gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judged {
    /// How many rows.
    pub rows: u64,
    /// The first of them whose first column is false, counted from 1.
    pub refuted: Option<u64>,
}

/// A tablespace other than the two that every cluster has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its directory; relative to the data directory for one "in place".
    pub location: PathBuf,
}

impl Session {
    /// Sets up a fresh connection; see [`Session::connect`].
    pub(crate) async fn prepare(client: Client, query_timeout: Duration) -> Result<Self> {
        // Only to have the methods; the version is the first thing asked.
        let mut session = Self { client, version: PgVersion::V13, query_timeout };
        let found: u32 = session.value("tell its version", "SHOW server_version_num").await?;
        session.version = PgVersion::from_major(found / 10_000)
            .ok_or_else(|| Error::UnsupportedVersion { found: format!("{}", found / 10_000) })?;
        let mut settings = vec![
            "statement_timeout = 0",
            "lock_timeout = 0",
            "idle_in_transaction_session_timeout = 0",
            "search_path = pg_catalog",
            "datestyle = 'ISO, YMD'",
            "timezone = 'UTC'",
            "standard_conforming_strings = on",
            "client_encoding = 'UTF8'",
        ];
        settings.extend((session.version >= PgVersion::V14).then_some("idle_session_timeout = 0"));
        settings.extend((session.version >= PgVersion::V17).then_some("transaction_timeout = 0"));
        for setting in settings {
            session.rows("prepare the session", &format!("SET SESSION {setting}")).await?;
        }
        Ok(session)
    }

    /// A handle that cancels what this session waits for: where a session is just dropped, the server goes on with its statement.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.client.cancel_token())
    }

    /// The major version of the server.
    pub const fn version(&self) -> PgVersion {
        self.version
    }

    /// What the server says about its cluster.
    ///
    /// # Errors
    /// When the role may not read settings such as `data_directory` (grant it `pg_read_all_settings`).
    pub async fn facts(&self) -> Result<ClusterFacts> {
        const WHAT: &str = "tell its settings";
        let rows = self.rows(WHAT, "SELECT name, setting FROM pg_settings").await?;
        let find = |name: &str| {
            rows.iter()
                .find(|row| row.try_get(0).ok().flatten() == Some(name))
                .and_then(|row| row.try_get(1).ok().flatten())
        };
        let text = |name: &'static str| {
            find(name).map(str::to_owned).ok_or_else(|| Error::Answer {
                what: "its settings",
                reason: format!("'{name}' is not shown; grant the role pg_read_all_settings"),
            })
        };
        let number = |name: &'static str| text(name).and_then(|value| parse::<u32>("its settings", &value));
        let path = |name: &str| find(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let id = "SELECT system_identifier::text FROM pg_control_system()";
        Ok(ClusterFacts {
            version: self.version,
            version_num: number("server_version_num")?,
            system_id: SystemId::new(signed_id(
                &self.value::<String>("tell its system identifier", id).await?,
            )?),
            data_directory: text("data_directory")?.into(),
            config_file: path("config_file"),
            hba_file: path("hba_file"),
            ident_file: path("ident_file"),
            archive_mode: text("archive_mode")?,
            archive_command: find("archive_command")
                .filter(|c| *c != "(disabled)")
                .unwrap_or_default()
                .to_owned(),
            archive_library: find("archive_library").unwrap_or_default().to_owned(),
            in_recovery: self.is_in_recovery().await?,
            wal_segment_size: WalSegmentSize::new(number("wal_segment_size")?)?,
            block_size: number("block_size")?,
            data_checksums: text("data_checksums")? == "on",
            full_page_writes: text("full_page_writes")? == "on",
            wal_level: text("wal_level")?,
            timezone: text("log_timezone")?,
            checkpoint_timeout: Duration::from_secs(number("checkpoint_timeout")?.into()),
        })
    }

    /// All databases, by OID.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn databases(&self) -> Result<Vec<Database>> {
        let sql = "SELECT d.oid::text, d.datname::text, d.datistemplate::text, \
                   (SELECT t.oid::text FROM pg_database t WHERE t.datname = 'template0') \
                   FROM pg_database d ORDER BY d.oid";
        let rows = self.rows("list its databases", sql).await?;
        rows.iter()
            .map(|row| {
                Ok(Database {
                    oid: column(row, 0)?,
                    name: column(row, 1)?,
                    is_template: column::<String>(row, 2)? == "true",
                    last_system_oid: row
                        .try_get(3)
                        .ok()
                        .flatten()
                        .map_or(Ok(0), |oid| parse("its databases", oid))?,
                })
            })
            .collect()
    }

    /// The tablespaces other than `pg_default` and `pg_global`, by OID.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn tablespaces(&self) -> Result<Vec<Tablespace>> {
        let sql = "SELECT t.oid::text, t.spcname::text, pg_tablespace_location(t.oid) FROM pg_tablespace t \
                   WHERE t.spcname NOT IN ('pg_default', 'pg_global') ORDER BY t.oid";
        let rows = self.rows("list its tablespaces", sql).await?;
        rows.iter()
            .map(|row| {
                let location: String = column(row, 2)?;
                Ok(Tablespace { oid: column(row, 0)?, name: column(row, 1)?, location: location.into() })
            })
            .collect()
    }

    /// The server's clock, in microseconds since 1970 UTC.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn clock(&self) -> Result<i64> {
        self.value("tell the time", CLOCK).await
    }

    /// Whether the server is in recovery, as a standby is.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn is_in_recovery(&self) -> Result<bool> {
        Ok(self.value::<String>("tell whether it is in recovery", "SELECT pg_is_in_recovery()::text").await?
            == "true")
    }

    /// The timeline that the server writes on; on a standby that of its last restartpoint. After a promotion the control file has the new one only with the next
    /// checkpoint, minutes later.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn timeline_id(&self) -> Result<TimelineId> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())::bigint \
                   ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END::text";
        self.value("tell its timeline", sql).await.map(TimelineId::new)
    }

    /// The newest timeline that anything in the data directory of a standby can be of: that of its last restartpoint, or of the position up to
    /// which it must replay before its files are consistent, which is moved before a page of a later one is written.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn replica_timeline(&self) -> Result<TimelineId> {
        let sql = "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text \
                   FROM pg_control_checkpoint() c, pg_control_recovery() r";
        self.value("tell its timeline", sql).await.map(TimelineId::new)
    }

    /// A position that no page now in the data directory has passed: where the next record goes, on a standby what is replayed.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn insert_lsn(&self) -> Result<Lsn> {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                   ELSE pg_current_wal_insert_lsn() END::text";
        self.value("tell its WAL position", sql).await
    }

    /// How far a standby has replayed; `None` on a primary that did not go through recovery.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn replay_lsn(&self) -> Result<Option<Lsn>> {
        const WHAT: &str = "tell how far it has replayed";
        let rows = self.rows(WHAT, "SELECT pg_last_wal_replay_lsn()::text").await?;
        let value = rows.first().and_then(|row| row.try_get(0).ok().flatten());
        value.map(|text| parse(WHAT, text)).transpose()
    }

    /// When the last transaction that was replayed had been committed, in UTC; none where no recovery of this server has met any.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn last_replayed_commit(&self) -> Result<Option<String>> {
        const WHAT: &str = "tell what it has replayed";
        let rows = self.rows(WHAT, "SELECT pg_last_xact_replay_timestamp()::text").await?;
        let value = rows.first().and_then(|row| row.try_get(0).ok().flatten());
        value.map(|text| parse(WHAT, text)).transpose()
    }

    /// The redo position of the last checkpoint (on a standby: restartpoint).
    ///
    /// # Errors
    /// When the server fails.
    pub async fn checkpoint_redo_lsn(&self) -> Result<Lsn> {
        self.value("tell its last checkpoint", "SELECT redo_lsn::text FROM pg_control_checkpoint()").await
    }

    /// Where the record of the last checkpoint begins (on a standby: of the last restartpoint).
    ///
    /// # Errors
    /// When the server fails.
    pub async fn checkpoint_lsn(&self) -> Result<Lsn> {
        let sql = "SELECT checkpoint_lsn::text FROM pg_control_checkpoint()";
        self.value("tell its last checkpoint", sql).await
    }

    /// Makes a checkpoint (on a standby: a restartpoint) at once.
    ///
    /// # Errors
    /// When the role may not (superuser, from 15 on `pg_checkpoint`).
    pub async fn checkpoint(&self) -> Result<()> {
        self.rows("make a checkpoint", "CHECKPOINT").await.map(drop)
    }

    /// Ends the current WAL segment, so that it is archived. The end of the log before the switch.
    ///
    /// # Errors
    /// When the server is in recovery or the role may not.
    pub async fn switch_wal(&self) -> Result<Lsn> {
        self.value("switch to the next WAL segment", "SELECT pg_switch_wal()::text").await
    }

    /// Writes a named point into the log; without it, nothing happened since the last switch and a switch does nothing.
    ///
    /// # Errors
    /// When the server is in recovery, the role may not, or the name has more than 63 bytes.
    pub async fn create_restore_point(&self, name: &str) -> Result<Lsn> {
        let sql = format!("SELECT pg_create_restore_point({})::text", literal(name));
        self.value("create a restore point", &sql).await
    }

    /// The server's version as it spells it, as `15.20 (Debian 15.20-1)`.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn version_text(&self) -> Result<String> {
        self.value("tell its version", "SHOW server_version").await
    }

    /// Whether an extension can be created: its files are there.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn offers_extension(&self, name: &str) -> Result<bool> {
        let sql = format!(
            "SELECT (count(*) > 0)::text FROM pg_available_extensions WHERE name = {}",
            literal(name)
        );
        Ok(self.value::<String>("list its extensions", &sql).await? == "true")
    }

    /// Runs a statement of somebody else's, with the search path of its database and role, and tells how many rows it gave and the first of
    /// them whose first column is false. Rows are looked at as they come, and not kept.
    ///
    /// # Errors
    /// When the statement fails or does not end in time.
    pub async fn judge(&self, sql: &str) -> Result<Judged> {
        const WHAT: &str = "run the statement";
        self.rows("prepare the session", "RESET search_path").await?;
        let judge = async {
            let mut judged = Judged { rows: 0, refuted: None };
            let mut messages = pin!(self.client.simple_query_raw(sql).await?);
            while let Some(message) = messages.try_next().await? {
                let SimpleQueryMessage::Row(row) = message else { continue };
                judged.rows += 1;
                // In the text of the protocol a boolean is one letter; `false` is what a cast makes of it.
                if judged.refuted.is_none() && matches!(row.try_get(0), Ok(Some("f" | "false"))) {
                    judged.refuted = Some(judged.rows);
                }
            }
            Ok(judged)
        };
        match tokio::time::timeout(self.query_timeout, judge).await {
            Ok(judged) => judged.map_err(|error: tokio_postgres::Error| Error::Query {
                what: WHAT,
                source: ServerError::from(error),
            }),
            Err(_) => {
                self.canceller().cancel().await;
                Err(Error::Timeout { what: WHAT, after: self.query_timeout })
            }
        }
    }

    /// The process id of the server process that answers.
    pub(crate) async fn backend_pid(&self) -> Result<i32> {
        self.value("tell its process id", "SELECT pg_backend_pid()::text").await
    }

    /// The first column of the only row.
    async fn value<T: FromStr>(&self, what: &'static str, sql: &str) -> Result<T> {
        let rows = self.rows(what, sql).await?;
        match rows.as_slice() {
            [row] => column(row, 0),
            other => Err(Error::Answer { what, reason: format!("{} rows instead of one", other.len()) }),
        }
    }

    /// All rows of a statement; what it is for goes into the error.
    async fn rows(&self, what: &'static str, sql: &str) -> Result<Vec<SimpleQueryRow>> {
        match tokio::time::timeout(self.query_timeout, self.client.simple_query(sql)).await {
            Ok(Ok(messages)) => Ok(messages
                .into_iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                })
                .collect()),
            Ok(Err(error)) => Err(Error::Query { what, source: ServerError::from(error) }),
            Err(_) => {
                self.canceller().cancel().await;
                Err(Error::Timeout { what, after: self.query_timeout })
            }
        }
    }
}

/// The clock in whole microseconds since 1970 UTC.
const CLOCK: &str = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text";

/// A column of a row, as text that parses.
fn column<T: FromStr>(row: &SimpleQueryRow, index: usize) -> Result<T> {
    const WHAT: &str = "a question";
    match row.try_get(index) {
        Ok(Some(text)) => parse(WHAT, text),
        Ok(None) => Err(Error::Answer { what: WHAT, reason: format!("column {index} is null") }),
        Err(error) => Err(Error::Answer { what: WHAT, reason: ServerError::from(error).to_string() }),
    }
}

fn parse<T: FromStr>(what: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::Answer {
        what,
        reason: format!("'{}'", text.chars().take(100).collect::<String>()),
    })
}

/// SQL shows the system identifier as a signed number.
fn signed_id(text: &str) -> Result<u64> {
    parse::<i64>("its system identifier", text).map(i64::cast_unsigned)
}

/// A string constant; `standard_conforming_strings` is on in every session of ours.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_constants_cannot_be_left() {
        assert_eq!(literal("a'b\\"), "'a''b\\'");
        assert_eq!(literal("'; DROP"), "'''; DROP'");
        assert_eq!(literal("a\0b"), "'ab'");
    }

    #[test]
    fn system_identifiers_may_look_negative() {
        assert_eq!(signed_id("-1").unwrap(), u64::MAX);
        assert_eq!(signed_id("7").unwrap(), 7);
        assert!(signed_id("x").is_err());
    }
}
