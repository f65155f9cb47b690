//! A backup from start to stop, as types: only a session that began one can stop it.

use pgbr_manifest::{Lsn, PgVersion, TimelineId};

use super::{CLOCK, Session, column, literal};
use crate::error::{Error, Result};
use crate::label_file::BackupLabelFile;

/// The longest label, in bytes (`MAXPGPATH` in the server).
const MAX_LABEL_BYTES: usize = 1000;

/// A backup that the server has begun. Dropping it ends the session, and the server gives the backup up.
#[derive(Debug)]
pub struct RunningBackup {
    session: Session,
    pid: i32,
    start_lsn: Lsn,
    timeline: TimelineId,
    start_time: i64,
    in_recovery: bool,
}

/// What a finished backup must be stored with.
#[derive(Debug)]
#[non_exhaustive]
pub struct FinishedBackup {
    /// The session, free again.
    pub session: Session,
    /// Where the WAL that the backup needs ends: the segment with the byte before it is the last.
    pub stop_lsn: Lsn,
    /// The server's clock at the stop, in microseconds since 1970 UTC.
    pub stop_time: i64,
    /// The timeline that the backup was begun on.
    pub timeline: TimelineId,
    /// The content of `backup_label`, to be stored byte by byte.
    pub label_file: String,
    /// The content of `tablespace_map`; empty when there are no tablespaces, and then the file must not exist.
    pub tablespace_map: String,
}

impl Session {
    /// Begins a backup: a checkpoint, at once (`fast`) or spread over minutes.
    ///
    /// Control characters in the label become spaces, and it is cut to what the server takes.
    ///
    /// # Errors
    /// When the server refuses (rights, `wal_level`, a standby whose primary had `full_page_writes` off) or takes too long.
    pub async fn start_backup(self, label: &str, fast: bool) -> Result<RunningBackup> {
        let label = literal(&clean_label(label));
        let sql = match self.version {
            PgVersion::V13 | PgVersion::V14 => {
                format!("SELECT pg_start_backup({label}, {fast}, false)::text")
            }
            PgVersion::V15 | PgVersion::V16 | PgVersion::V17 | PgVersion::V18 => {
                format!("SELECT pg_backup_start({label}, {fast})::text")
            }
        };
        let pid = self.backend_pid().await?;
        let start_lsn = self.value("start the backup", &sql).await?;
        let timeline = self.timeline_id().await?;
        let start_time = self.value("tell the time", CLOCK).await?;
        let in_recovery = self.is_in_recovery().await?;
        let backup = RunningBackup { session: self, pid, start_lsn, timeline, start_time, in_recovery };
        backup.same_session().await?;
        Ok(backup)
    }
}

impl RunningBackup {
    /// Where replay begins: changes from here on are in the WAL.
    pub const fn start_lsn(&self) -> Lsn {
        self.start_lsn
    }

    /// The timeline of the start.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The server's clock just after the start, in microseconds since 1970 UTC.
    pub const fn start_time(&self) -> i64 {
        self.start_time
    }

    /// Whether the backup is taken from a standby.
    pub const fn from_standby(&self) -> bool {
        self.in_recovery
    }

    /// A position that no page now in the data directory has passed; see [`Session::insert_lsn`].
    ///
    /// # Errors
    /// When the server fails.
    pub async fn insert_lsn(&self) -> Result<Lsn> {
        self.session.insert_lsn().await
    }

    /// Checks that the backup can still be finished: the same server process answers and a standby has not been promoted.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self) -> Result<()> {
        self.same_session().await?;
        if self.session.is_in_recovery().await? == self.in_recovery {
            return Ok(());
        }
        let reason = "the standby was promoted during the backup".to_owned();
        Err(Error::Answer { what: "the backup", reason })
    }

    /// The session, for questions.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the backup. Does not wait for the archive: that every segment has arrived, the caller must see for itself.
    ///
    /// # Errors
    /// When the session is not the one that began, when the standby was promoted meanwhile, or when the server fails. The backup
    /// is lost then.
    pub async fn stop(self) -> Result<FinishedBackup> {
        const WHAT: &str = "stop the backup";
        self.same_session().await?;
        let function = match self.session.version {
            PgVersion::V13 | PgVersion::V14 => "pg_stop_backup(false, false)",
            PgVersion::V15 | PgVersion::V16 | PgVersion::V17 | PgVersion::V18 => "pg_backup_stop(false)",
        };
        let sql = format!("SELECT lsn::text, labelfile, spcmapfile FROM {function}");
        let rows = self.session.rows(WHAT, &sql).await?;
        let [row] = rows.as_slice() else {
            return Err(Error::Answer { what: WHAT, reason: format!("{} rows instead of one", rows.len()) });
        };
        let label_file: String = column(row, 1)?;
        let tablespace_map = row.try_get(2).ok().flatten().unwrap_or_default().to_owned();
        let label = BackupLabelFile::parse(&label_file)?;
        if label.start_lsn != self.start_lsn {
            let reason =
                format!("its label begins at {}, the backup began at {}", label.start_lsn, self.start_lsn);
            return Err(Error::Answer { what: WHAT, reason });
        }
        Ok(FinishedBackup {
            stop_lsn: column(row, 0)?,
            stop_time: self.session.value("tell the time", CLOCK).await?,
            timeline: label.timeline.unwrap_or(self.timeline),
            label_file,
            tablespace_map,
            session: self.session,
        })
    }

    async fn same_session(&self) -> Result<()> {
        let answers = self.session.backend_pid().await?;
        if answers == self.pid { Ok(()) } else { Err(Error::SessionLost { began: self.pid, answers }) }
    }
}

/// What the server's line-based parser of labels can take.
fn clean_label(label: &str) -> String {
    let mut clean = String::new();
    for c in label.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if clean.len() + c.len_utf8() > MAX_LABEL_BYTES {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_on_one_line() {
        assert_eq!(clean_label("a\nb\tc"), "a b c");
        assert_eq!(clean_label(&"ä".repeat(2000)).len(), 1000);
    }
}
