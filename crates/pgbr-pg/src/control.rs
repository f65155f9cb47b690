//! `global/pg_control`: what a cluster is and the state it was left in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbr_manifest::{Lsn, PgVersion, SystemId, TimelineId, WalSegmentSize};

use crate::error::{Error, Result};

/// The file has this size in every supported version (`PG_CONTROL_FILE_SIZE`).
pub const CONTROL_FILE_BYTES: usize = 8192;
/// How often a control file with a wrong checksum is read before it counts as damaged.
const TRIES: usize = 20;
/// How long the server may take to finish the write that was seen half-way.
const PAUSE: Duration = Duration::from_millis(10);
/// The magic number of `pg_filenode.map` (src/backend/utils/cache/relmapper.c).
const FILENODE_MAP_MAGIC: u32 = 0x0059_2717;

/// The state of a cluster (`DBState` in src/include/catalog/pg_control.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the control file of the supported versions knows these")]
pub enum ClusterState {
    /// Starting up.
    StartUp,
    /// Shut down cleanly.
    ShutDown,
    /// Shut down while in recovery.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// In crash recovery.
    InCrashRecovery,
    /// In archive recovery: a standby, or a restore that goes on.
    InArchiveRecovery,
    /// In production, or crashed there.
    InProduction,
}

/// What the control file says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ControlFile {
    /// The number that initdb gave.
    pub system_id: SystemId,
    /// The major version, from control and catalog version together.
    pub version: PgVersion,
    /// `pg_control_version`; 13 to 16 share one.
    pub control_version: u32,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// The state it was left in.
    pub state: ClusterState,
    /// When the file was last written, in seconds since 1970.
    pub time: i64,
    /// The last checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo_lsn: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it.
    pub previous_timeline: TimelineId,
    /// Whether full pages were logged at that checkpoint.
    pub full_page_writes: bool,
    /// The next transaction id: epoch in the upper, xid in the lower half.
    pub next_xid: u64,
    /// The next OID.
    pub next_oid: u32,
    /// When the checkpoint was made, in seconds since 1970.
    pub checkpoint_time: i64,
    /// Where a recovery becomes consistent; on a standby, the end of the backup.
    pub min_recovery_point: Lsn,
    /// The timeline of that point.
    pub min_recovery_timeline: TimelineId,
    /// Where a restored backup began, while recovery has not reached its end.
    pub backup_start_point: Lsn,
    /// Where it ends, if that is known.
    pub backup_end_point: Lsn,
    /// Whether the record of the backup's end must still be met.
    pub backup_end_required: bool,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
    /// Whether hint bits are logged.
    pub wal_log_hints: bool,
    /// `max_connections`; a standby needs at least these five.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// Bytes in a page.
    pub block_size: u32,
    /// Pages in a segment of a relation.
    pub relseg_size: u32,
    /// Bytes in a page of WAL.
    pub wal_block_size: u32,
    /// Bytes in a segment of WAL.
    pub wal_segment_size: WalSegmentSize,
    /// 0: pages have no checksums.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads the file's bytes.
    ///
    /// # Errors
    /// When it is short, of another byte order or width, of an unknown version or build, or when its checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Fields { bytes }.control_file().map_err(|reason| Error::ControlFile { path: None, reason })
    }

    /// Whether pages carry checksums.
    pub const fn has_page_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// Reads a control file that a server may be writing: again and again until its checksum is right. Gives it with its bytes.
///
/// Waits with `std::thread::sleep` where it must, at most a fifth of a second; call it where that does no harm.
///
/// # Errors
/// When it cannot be read; when it stays damaged.
pub fn read_control_file(path: impl AsRef<Path>) -> Result<(ControlFile, Vec<u8>)> {
    let path = path.as_ref();
    let read = || crate::reader::read_bounded(path, CONTROL_FILE_BYTES);
    parse_until_whole(read, || std::thread::sleep(PAUSE)).map_err(|error| in_file(error, path))
}

/// The loop of [`read_control_file`] over any source.
fn parse_until_whole(
    mut read: impl FnMut() -> Result<Vec<u8>>,
    mut pause: impl FnMut(),
) -> Result<(ControlFile, Vec<u8>)> {
    let mut bytes = read()?;
    let mut same = 0;
    for _ in 1..TRIES {
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            // A write in progress is over after one pause; the same wrong bytes three times over are no write in progress.
            Err(error) if same >= 3 => return Err(error),
            Err(_) => pause(),
        }
        let again = read()?;
        same = if again == bytes { same + 1 } else { 0 };
        bytes = again;
    }
    ControlFile::parse(&bytes).map(|control| (control, bytes))
}

fn in_file(error: Error, path: &Path) -> Error {
    match error {
        Error::ControlFile { reason, .. } => Error::ControlFile { path: Some(PathBuf::from(path)), reason },
        other => other,
    }
}

/// Whether `pg_filenode.map` is whole: magic and checksum are right. It is 512 bytes up to 15 and 524 from 16 on.
pub fn filenode_map_is_whole(bytes: &[u8]) -> bool {
    let Some((head, crc)) = bytes.split_last_chunk::<4>() else { return false };
    // Up to 15 the checksum is followed by four bytes that fill the struct up to 512.
    let padded = bytes.len() == 512;
    let (covered, crc) = match head.split_last_chunk::<4>() {
        Some((covered, inner)) if padded => (covered, inner),
        _ => (head, crc),
    };
    let magic =
        bytes.first_chunk::<4>().is_some_and(|magic| u32::from_le_bytes(*magic) == FILENODE_MAP_MAGIC);
    magic && matches!(bytes.len(), 512 | 524) && crc32c::crc32c(covered) == u32::from_le_bytes(*crc)
}

/// The bytes and how to take values from them. All offsets are those of 64-bit little-endian builds.
struct Fields<'a> {
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn control_file(&self) -> Result<ControlFile, String> {
        let control_version = self.u32(8)?;
        if control_version != 0 && control_version.trailing_zeros() >= 16 {
            return Err("it is of a machine with the other byte order".to_owned());
        }
        let crc_at = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            other => return Err(format!("its version {other} is not known")),
        };
        let covered = self.bytes.get(..crc_at).ok_or("it is too short")?;
        if crc32c::crc32c(covered) != self.u32(crc_at)? {
            return Err("its checksum is wrong (damaged, or of a changed PostgreSQL)".to_owned());
        }
        let control = self.fields(control_version)?;
        self.check_build(&control)?;
        Ok(control)
    }

    fn fields(&self, control_version: u32) -> Result<ControlFile, String> {
        let catalog_version = self.u32(12)?;
        let version = PgVersion::ALL
            .into_iter()
            .find(|v| v.control_version() == control_version && v.catalog_version() == catalog_version)
            .ok_or_else(|| format!("catalog version {catalog_version} is not known"))?;
        Ok(ControlFile {
            system_id: SystemId::new(self.u64(0)?),
            version,
            control_version,
            catalog_version,
            state: state(self.u32(16)?)?,
            time: self.u64(24)?.cast_signed(),
            checkpoint_lsn: self.lsn(32)?,
            redo_lsn: self.lsn(40)?,
            timeline: TimelineId::new(self.u32(48)?),
            previous_timeline: TimelineId::new(self.u32(52)?),
            full_page_writes: self.bool(56)?,
            next_xid: self.u64(64)?,
            next_oid: self.u32(72)?,
            checkpoint_time: self.u64(104)?.cast_signed(),
            min_recovery_point: self.lsn(136)?,
            min_recovery_timeline: TimelineId::new(self.u32(144)?),
            backup_start_point: self.lsn(152)?,
            backup_end_point: self.lsn(160)?,
            backup_end_required: self.bool(168)?,
            wal_level: self.u32(172)?,
            wal_log_hints: self.bool(176)?,
            max_connections: self.u32(180)?,
            max_worker_processes: self.u32(184)?,
            max_wal_senders: self.u32(188)?,
            max_prepared_transactions: self.u32(192)?,
            max_locks_per_transaction: self.u32(196)?,
            block_size: self.u32(216)?,
            relseg_size: self.u32(220)?,
            wal_block_size: self.u32(224)?,
            wal_segment_size: WalSegmentSize::new(self.u32(228)?).map_err(|e| e.to_string())?,
            data_checksum_version: self.u32(252)?,
        })
    }

    fn check_build(&self, control: &ControlFile) -> Result<(), String> {
        if self.u32(204)? != 8 {
            return Err("it is of a 32-bit build, which is not supported".to_owned());
        }
        if self.u64(208)? != 1_234_567.0_f64.to_bits() {
            return Err("its floating point format is not known".to_owned());
        }
        for (what, size) in [("page", control.block_size), ("WAL page", control.wal_block_size)] {
            if !size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&size) {
                return Err(format!("its {what} size {size} cannot be"));
            }
        }
        if control.relseg_size == 0 {
            return Err("its relation segment size is 0".to_owned());
        }
        Ok(())
    }

    fn chunk<const N: usize>(&self, at: usize) -> Result<[u8; N], String> {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<N>())
            .copied()
            .ok_or_else(|| "it is too short".to_owned())
    }

    fn u32(&self, at: usize) -> Result<u32, String> {
        self.chunk(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, String> {
        self.chunk(at).map(u64::from_le_bytes)
    }

    fn lsn(&self, at: usize) -> Result<Lsn, String> {
        self.u64(at).map(Lsn::new)
    }

    fn bool(&self, at: usize) -> Result<bool, String> {
        self.chunk::<1>(at).map(|[byte]| byte != 0)
    }
}

fn state(number: u32) -> Result<ClusterState, String> {
    Ok(match number {
        0 => ClusterState::StartUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        other => return Err(format!("its state {other} is not known")),
    })
}

#[cfg(test)]
mod tests;
