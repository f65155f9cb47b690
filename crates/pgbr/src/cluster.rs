//! The running cluster against its stanza: the same one, in the right place, archiving.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{WalSegmentName, WalSegmentSize};
use pgbr_pg::{ClusterFacts, ConnectOptions, ControlFile, Session, read_control_file};
use pgbr_repo::{NewCluster, Stanza};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::StanzaPlace;

/// How soon it is looked again whether WAL has come.
const WAL_LOOK: Duration = Duration::from_millis(100);
/// And how late, where each look is a request to a store elsewhere.
const MAX_WAL_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether the server has handed a segment over: at a file of this machine.
const STATUS_LOOK: Duration = Duration::from_millis(10);
/// So many segments are looked for by their names, which costs a small read each; more by listing, a request a directory.
const FEW: usize = 4;
/// Each look of this number is by listing: a segment whose own name is taken by a damaged object lies under another one.
const LISTED_LOOK: u32 = 4;

/// How to reach a cluster: its server and its data directory.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// How to connect.
    pub connect: ConnectOptions,
    /// The data directory on this machine.
    pub pg_data: PathBuf,
}

/// A connection to a server whose data directory is the one that was given.
pub(crate) struct Connected {
    pub(crate) session: Session,
    pub(crate) facts: ClusterFacts,
    pub(crate) control: ControlFile,
}

impl ClusterAccess {
    /// Connects, and sees that server and directory belong together.
    pub(crate) async fn connect(&self) -> Result<Connected> {
        let session = Session::connect(&self.connect).await?;
        let facts = session.facts().await?;
        let (control, _) = read_control_file(self.pg_data.join("global/pg_control"))?;
        if !same_directory(&facts.data_directory, &self.pg_data) {
            return Err(Error::OtherDirectory {
                found: facts.data_directory,
                expected: self.pg_data.clone(),
            });
        }
        if control.system_id != facts.system_id {
            let reason = "its data directory and its server are of different clusters".to_owned();
            return Err(Error::Unfit { reason });
        }
        Ok(Connected { session, facts, control })
    }
}

fn same_directory(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

impl Connected {
    pub(crate) fn identity(&self) -> NewCluster {
        NewCluster {
            system_id: self.facts.system_id,
            version: self.facts.version,
            catalog_version: self.control.catalog_version,
            control_version: self.control.control_version,
        }
    }
}

/// Sees that this is the stanza's current cluster.
pub(crate) fn check_identity(stanza: &Stanza, cluster: &NewCluster) -> Result<()> {
    let current = stanza.current();
    if current.is(cluster) {
        return Ok(());
    }
    Err(Error::OtherCluster {
        stanza: stanza.name().to_string(),
        expected: current.system_id,
        expected_version: current.version.to_string(),
        found: cluster.system_id,
        found_version: cluster.version.to_string(),
    })
}

/// Sees that the server archives, and by a command that calls this program; with `mode_check` that its standbys do not, too.
pub(crate) fn check_archiving(facts: &ClusterFacts, program: &str, mode_check: bool) -> Result<()> {
    match facts.archive_mode.as_str() {
        "off" => return Err(Error::ArchiveDisabled),
        "always" if mode_check => return Err(Error::ArchiveAlways),
        _ => {}
    }
    if facts.archive_library.is_empty() && !facts.archive_command.contains(program) {
        return Err(Error::ArchiveCommand {
            command: facts.archive_command.clone(),
            expected: program.to_owned(),
        });
    }
    Ok(())
}

/// Makes the server end a WAL segment, and gives its name: what is seen to arrive in the archive shows the whole way.
pub(crate) async fn end_segment(session: &Session, size: WalSegmentSize) -> Result<WalSegmentName> {
    // Something has to be in the segment, or the server does not end it.
    session.create_restore_point("pgbr archive check").await?;
    let end = session.switch_wal().await?;
    let timeline = session.timeline_id().await?;
    Ok(WalSegmentName::containing(timeline, end.previous_byte(), size))
}

/// Waits until all these segments are in the archive, for good. `pg_data` is the data directory of the server that archives them.
pub(crate) async fn wait_for_wal(
    host: &Host,
    place: &StanzaPlace,
    pg_data: &Path,
    segments: &[WalSegmentName],
    timeout: Duration,
) -> Result<()> {
    let archive = place.stanza.archive_id();
    let Some(last) = segments.last() else { return Ok(()) };
    let begun = host.clock.monotonic();
    let (mut missing, mut pause) = (segments.to_vec(), WAL_LOOK);
    let (mut unknown, mut looks) = (segments.to_vec(), 0_u32);
    let store = place.repo.store();
    let longest = if store.is_local() { WAL_LOOK } else { MAX_WAL_LOOK };
    loop {
        host.stop.check()?;
        if !store.is_local() {
            until_handed_over(pg_data, *last, longest).await;
        }
        // What was seen once is not looked for again: nobody expires it while a backup is made.
        looks += 1;
        let present = if missing.len() <= FEW && store.create_honoured() && !looks.is_multiple_of(LISTED_LOOK)
        {
            let here = place.wal.segments_here(archive, &missing).await?;
            unknown.retain(|segment| !here.contains(segment));
            here
        } else {
            place.wal.segments_present(archive, missing.iter().copied()).await?
        };
        missing.retain(|segment| !present.contains(segment));
        let Some(missing) = missing.first() else {
            place.wal.settle(archive, segments).await?;
            // Whoever pushed them may have known a repository that was here before, whose keys are lost.
            return Ok(Box::pin(place.wal.belongs(archive, &unknown)).await?);
        };
        if host.clock.monotonic().saturating_sub(begun) >= timeout {
            return Err(Error::ArchiveTimeout { segment: *missing, seconds: timeout.as_secs() });
        }
        host.clock.sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Waits, not for long, while the server says that it has not handed a segment over: to look for it in the archive would be in vain, and a
/// request each time.
async fn until_handed_over(pg_data: &Path, segment: WalSegmentName, at_most: Duration) {
    let waiting = pg_data.join(format!("pg_wal/archive_status/{segment}.ready"));
    let end = tokio::time::Instant::now() + at_most;
    while tokio::time::Instant::now() < end && tokio::fs::try_exists(&waiting).await.unwrap_or(false) {
        tokio::time::sleep(STATUS_LOOK).await;
    }
}

/// More segments than are written during any backup.
const MAX_SEGMENTS: u64 = 1 << 22;

/// The segments from the one with byte `start` to the one with the byte before `stop`. `None` where these are more than any backup needs.
pub(crate) fn segments_between(
    timeline: pgbr_manifest::TimelineId,
    start: pgbr_manifest::Lsn,
    stop: pgbr_manifest::Lsn,
    size: WalSegmentSize,
) -> Option<Vec<WalSegmentName>> {
    let number = |lsn: pgbr_manifest::Lsn| lsn.as_u64() / u64::from(size.bytes());
    let first = number(start);
    let last = number(stop.previous_byte()).max(first);
    let name = |number| WalSegmentName::from_number(timeline, number, size);
    (last - first < MAX_SEGMENTS).then(|| (first..=last).map(name).collect())
}
