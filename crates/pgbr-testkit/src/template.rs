//! Data directories that `initdb` made once in a process, and copies of them.
//!
//! `initdb` takes most of a second of a processor, and the tests want hundreds of clusters. A copy differs from what `initdb` would make
//! in nothing but what one cluster shares with none: its system identifier, which stands in the control file and in the first page of WAL.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cluster::succeed;
use crate::operator::as_operator;
use crate::scratch::Scratch;

/// Where the long header of the first page of a WAL segment has the system identifier (`XLogLongPageHeaderData.xlp_sysid`).
const IDENTIFIER_IN_WAL: u64 = 24;

/// The length of `pg_control` that is in one sector, and so may hold something (`PG_CONTROL_MAX_SAFE_SIZE`).
const CONTROL_LENGTH: usize = 512;

/// One data directory, for all copies. Its scratch directory goes with the process.
#[derive(Debug)]
struct Template {
    scratch: Scratch,
    control: Vec<u8>,
}

/// Makes `data` as the `initdb` command that `make` completes with a data directory would. Commands are the same whose `key` is.
pub(crate) fn copy(key: &str, data: &Path, make: impl FnOnce(&Path)) {
    static TEMPLATES: Mutex<BTreeMap<String, Arc<OnceLock<Template>>>> = Mutex::new(BTreeMap::new());
    let place = {
        let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(templates.entry(key.to_owned()).or_default())
    };
    place.get_or_init(|| Template::new(make)).copy(data);
}

impl Template {
    fn new(make: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new();
        let data = data_in(&scratch);
        make(&data);
        let control = fs::read(control_of(&data)).expect("initdb writes a control file");
        Self { scratch, control }
    }

    fn copy(&self, data: &Path) {
        let mut command = Command::new("cp");
        // Most of the WAL segment is zeros. Times are those of the copy, as initdb's would be.
        as_operator(&mut command).args(["-R", "--preserve=mode", "--sparse=always"]);
        succeed(command.arg(data_in(&self.scratch)).arg(data), "");
        let (old, new) = (identifier_of(&self.control), fresh_identifier().to_ne_bytes());
        fs::write(control_of(data), with_identifier(&self.control, new)).expect("the copy can be written");
        for segment in segments_of(data) {
            let file = OpenOptions::new().read(true).write(true).open(segment).expect("a WAL segment");
            let mut found = [0; 8];
            file.read_exact_at(&mut found, IDENTIFIER_IN_WAL).expect("it has a header");
            assert_eq!(found, old, "the header of a WAL segment is not laid out as it was");
            file.write_all_at(&new, IDENTIFIER_IN_WAL).expect("the copy can be written");
        }
    }
}

fn data_in(scratch: &Scratch) -> PathBuf {
    scratch.path().join("data")
}

fn control_of(data: &Path) -> PathBuf {
    data.join("global/pg_control")
}

fn segments_of(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("pg_wal")).expect("initdb makes it");
    let paths = entries.map(|entry| entry.expect("it can be listed").path()).filter(|path| path.is_file());
    let segments: Vec<_> = paths.collect();
    assert!(!segments.is_empty(), "initdb has left no WAL in {}", data.display());
    segments
}

/// It stands first in every version.
fn identifier_of(control: &[u8]) -> [u8; 8] {
    control[..8].try_into().expect("eight bytes")
}

/// A control file with another identifier and a checksum that fits again. Where the checksum stands differs between versions: it is the
/// word that is the CRC-32C of all before it.
fn with_identifier(control: &[u8], identifier: [u8; 8]) -> Vec<u8> {
    let end = (8..CONTROL_LENGTH - 4).step_by(4).find(|end| {
        let crc = crc32c::crc32c(&control[..*end]);
        control[*end..end + 4] == crc.to_ne_bytes()
    });
    let end = end.expect("a control file has a checksum");
    let mut changed = control.to_owned();
    changed[..8].copy_from_slice(&identifier);
    let crc = crc32c::crc32c(&changed[..end]);
    changed[end..end + 4].copy_from_slice(&crc.to_ne_bytes());
    changed
}

/// Made as PostgreSQL makes it, of the time and the process; no two of one process are the same.
fn fresh_identifier() -> u64 {
    static LAST: Mutex<u64> = Mutex::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is right");
    let time = (now.as_secs() << 32) | (u64::from(now.subsec_micros()) << 12);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    *last = (time | u64::from(std::process::id() & 0xfff)).max(*last + (1 << 12));
    *last
}
