//! The cluster that is backed up: one whose server runs, or one that is stopped.

use pgbr_manifest::manifest::ClusterFacts;
use pgbr_manifest::{Lsn, RelPath, TimelineId};
use pgbr_pg::{ControlFile, DirectoryRule, Exclusions, RunningBackup};
use pgbr_repo::NewCluster;

use super::BackupRequest;
use super::offline::Stopped;
use super::standby::{Servers, Standby, find as find_servers};
use crate::cluster::{Connected, check_archiving};
use crate::error::{Error, Result};
use crate::host::Host;

/// The cluster that is backed up.
pub(super) enum Cluster {
    /// Its server runs.
    Online {
        primary: Box<Connected>,
        /// Where data files are read from, if not from the primary.
        standby: Option<Standby>,
    },
    /// It is stopped.
    Offline(Stopped),
}

impl Cluster {
    /// Finds its server, and notes in the request where it is; or sees that there is none.
    pub(super) async fn find(host: &Host, request: &mut BackupRequest) -> Result<Self> {
        if !request.online {
            return Ok(Self::Offline(Stopped::find(host, &request.cluster.pg_data, request.force)?));
        }
        let clusters: Vec<_> = [&request.cluster].into_iter().chain(&request.others).collect();
        let Servers { access, primary, standby } = find_servers(host, &clusters, request.standby).await?;
        request.cluster = access;
        Ok(Self::Online { primary: Box::new(primary), standby })
    }

    pub(super) fn identity(&self) -> NewCluster {
        match self {
            Self::Online { primary, .. } => primary.identity(),
            Self::Offline(stopped) => stopped.identity(),
        }
    }

    /// Sees that it can be backed up.
    pub(super) fn check(&self, request: &BackupRequest) -> Result<()> {
        if (request.copies_wal() || !request.online) && leaves_out_wal(request)? {
            let what = format!("--exclude of '{}' with a backup that brings its WAL", RelPath::PG_WAL);
            return Err(Error::Unsupported { what });
        }
        match self {
            Self::Online { primary, .. } => check_cluster(primary, request),
            Self::Offline(_) => Ok(()),
        }
    }

    /// As it is now.
    pub(super) async fn facts(&self) -> Result<ClusterFacts> {
        match self {
            Self::Online { primary, .. } => {
                let timeline = primary.session.timeline_id().await?;
                Ok(manifest_facts(&primary.facts, &primary.control, timeline))
            }
            Self::Offline(stopped) => Ok(stopped.facts()),
        }
    }
}

/// What is copied, while it is: it tells how far the log has come, and whether all is still as it must be.
pub(super) enum Watched<'a> {
    Running(&'a RunningBackup, Option<&'a Standby>),
    Stopped(&'a Stopped),
}

impl Watched<'_> {
    /// From where on the log makes up for torn pages.
    pub(super) fn replayed_from(&self) -> Lsn {
        match self {
            Self::Running(running, _) => running.start_lsn(),
            Self::Stopped(stopped) => stopped.replayed_from(),
        }
    }

    /// How far the log has come.
    pub(super) async fn upper(&self) -> Result<Lsn> {
        match self {
            Self::Running(running, _) => Ok(running.insert_lsn().await?),
            Self::Stopped(stopped) => Ok(stopped.end()),
        }
    }

    /// The same, and an error where the backup cannot go on.
    pub(super) async fn look(&self) -> Result<Lsn> {
        let upper = self.upper().await?;
        match self {
            Self::Running(running, Some(standby)) => standby.check(running.timeline()).await?,
            Self::Running(_, None) => {}
            Self::Stopped(stopped) => stopped.check()?,
        }
        Ok(upper)
    }

    pub(super) fn standby(&self) -> Option<&Standby> {
        match self {
            Self::Running(_, standby) => *standby,
            Self::Stopped(_) => None,
        }
    }
}

/// Whether the operator leaves out what lies in `pg_wal`, or some of it.
fn leaves_out_wal(request: &BackupRequest) -> Result<bool> {
    let rules = Exclusions::new(&request.exclude, true);
    let directory = RelPath::new(RelPath::PG_WAL)?;
    let segment = directory.join("0".repeat(24))?;
    Ok(rules.directory(&directory) == DirectoryRule::Skip || rules.skips_file(&segment))
}

fn check_cluster(connected: &Connected, request: &BackupRequest) -> Result<()> {
    if connected.facts.in_recovery {
        return Err(Error::Standby);
    }
    if connected.facts.wal_level == "minimal" {
        return Err(Error::Unfit { reason: "wal_level is minimal".to_owned() });
    }
    if request.archive_check {
        check_archiving(&connected.facts, &request.archive_program, request.archive_mode_check)?;
    }
    Ok(())
}

pub(super) fn manifest_facts(
    facts: &pgbr_pg::ClusterFacts,
    control: &ControlFile,
    timeline: TimelineId,
) -> ClusterFacts {
    ClusterFacts {
        catalog_version: control.catalog_version,
        control_version: control.control_version,
        block_size: control.block_size,
        segment_pages: control.relseg_size,
        wal_segment_size: facts.wal_segment_size,
        data_checksums: facts.data_checksums,
        timeline,
        data_directory: facts.data_directory.to_string_lossy().into_owned(),
    }
}
