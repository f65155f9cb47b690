//! Reading: what one worker does with one file, or with one run of a large one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use pgbr_manifest::index::{Fields, FileRecord, Record};
use pgbr_manifest::{HashKey, RelPath};
use pgbr_pg::{FileReader, PageContext, RelationFile, filenode_map_is_whole, read_control_file};

use super::gather::{Expected, Prior};
use crate::error::{Error, Result};
use crate::run::{RUN, hash_grains};

/// Files whose absence means that this is no cluster.
const MUST_HAVE: [&[u8]; 3] =
    [b"pg_data/PG_VERSION", b"pg_data/global/pg_filenode.map", b"pg_data/global/pg_control"];
/// How often a file that is rewritten in place is read again until it is whole.
const MAP_TRIES: usize = 20;

/// A file that the scan found.
pub(crate) struct Candidate {
    pub(crate) record: FileRecord,
    pub(crate) relation: Option<RelationFile>,
}

/// A file that is read in one piece.
pub(crate) struct Small {
    pub(crate) source: PathBuf,
    pub(crate) record: Candidate,
    /// What the parent has of it.
    pub(crate) prior: Option<Prior>,
    /// Whether its record is written whatever the parent has: a link leads to it.
    pub(crate) forced: bool,
    /// Whether the parent has something there that has to be said to be gone if it vanishes.
    pub(crate) hides: bool,
}

/// A file that is open and read in runs.
pub(crate) struct OpenRun {
    pub(crate) reader: FileReader,
    pub(crate) record: Arc<FileRecord>,
    pub(crate) relation: Option<RelationFile>,
    /// The parent's record of it.
    pub(crate) prior: Option<FileRecord>,
    /// As in [`Small`].
    pub(crate) forced: bool,
}

/// One thing to do, in index order.
pub(crate) enum Work {
    /// Nothing to read; `same` where the parent has it just so.
    Entry { record: Record, same: bool },
    /// What the parent has there is gone.
    Removed(RelPath),
    /// A file that cannot have changed.
    Unread { record: FileRecord, end: Fields, forced: bool },
    /// A whole file.
    Small(Small),
    /// The control file.
    Control(Small),
    /// A run of a large file.
    Run { file: Arc<OpenRun>, place: RunPlace, buffer: Vec<u8> },
}

/// Which run of a file it is, and what the parent has there.
pub(crate) struct RunPlace {
    /// Its first byte.
    pub(crate) offset: u64,
    /// Whether the file ends with it.
    pub(crate) last: bool,
    /// The parent's hashes.
    pub(crate) known: Expected,
    /// The parent's end of the file, with its last run.
    pub(crate) end: Option<Fields>,
}

/// What was read.
pub(crate) struct Found {
    /// The bytes, as many as announced: what was missing is zeros.
    pub(crate) bytes: Vec<u8>,
    /// The hash of each grain.
    pub(crate) hashes: Vec<u64>,
    /// Pages with a wrong checksum, counted in the file.
    pub(crate) bad: Vec<u32>,
    /// Where the file ended, when that was before the announced size.
    pub(crate) end: Option<u64>,
}

/// What became of it.
pub(crate) enum Done {
    Entry {
        record: Record,
        same: bool,
    },
    /// The parent has something there that is gone.
    Removed(RelPath),
    Unread {
        record: FileRecord,
        end: Fields,
        forced: bool,
    },
    /// It was gone when it was to be opened, and the parent does not have it either.
    Vanished,
    Small {
        record: FileRecord,
        found: Found,
        prior: Option<Prior>,
        forced: bool,
    },
    Run {
        file: Arc<OpenRun>,
        place: RunPlace,
        found: Found,
    },
    /// It grew beyond what is read in one piece.
    TooLarge {
        file: OpenRun,
        known: Expected,
        end: Option<Fields>,
    },
}

/// Does one thing.
pub(crate) fn perform(
    work: Work,
    key: &HashKey,
    pages: Option<&PageContext>,
    segment_pages: u32,
) -> Result<Done> {
    match work {
        Work::Entry { record, same } => Ok(Done::Entry { record, same }),
        Work::Removed(path) => Ok(Done::Removed(path)),
        Work::Unread { record, end, forced } => Ok(Done::Unread { record, end, forced }),
        Work::Small(small) => read_small(small, key, pages, segment_pages),
        Work::Control(small) => read_control(small, key),
        Work::Run { file, place, mut buffer } => {
            let got = file.reader.read_run(place.offset, &mut buffer)?;
            let at = Place {
                reader: &file.reader,
                record: &file.record,
                relation: file.relation.as_ref(),
                offset: place.offset,
            };
            let found = at.examine(buffer, got, key, pages, segment_pages)?;
            Ok(Done::Run { file, place, found })
        }
    }
}

/// Opens a file; none where it is gone, or something else has come in its place: as what else comes late, the next backup finds it.
pub(crate) fn open(source: &Path) -> Result<Option<FileReader>> {
    match FileReader::open(source) {
        Err(pgbr_pg::Error::NotA { .. }) => Ok(None),
        opened => Ok(opened?),
    }
}

/// What the open file says of itself counts, not what the listing said.
pub(crate) fn take_stat(candidate: &mut Candidate, reader: &FileReader) {
    candidate.record.size = reader.size();
    candidate.record.mtime_ns = reader.mtime_ns();
    candidate.record.ctime_ns = reader.ctime_ns();
    candidate.record.inode = reader.inode();
}

fn read_small(small: Small, key: &HashKey, pages: Option<&PageContext>, segment_pages: u32) -> Result<Done> {
    let Small { source, record: mut candidate, prior, forced, hides } = small;
    let Some(reader) = open(&source)? else {
        if MUST_HAVE.contains(&candidate.record.path.as_bytes()) {
            return Err(Error::Unfit { reason: format!("'{}' vanished", source.display()) });
        }
        // A link that leads nowhere any more is all that is left.
        return Ok(match hides {
            true => Done::Removed(candidate.record.path),
            false => Done::Vanished,
        });
    };
    take_stat(&mut candidate, &reader);
    let Candidate { record, relation } = candidate;
    if record.size > 2 * RUN as u64 {
        let (prior, known, end) = match prior {
            Some(Prior { record, known, end }) => (Some(record), known, end),
            None => (None, Expected::default(), None),
        };
        let file = OpenRun { reader, record: Arc::new(record), relation, prior, forced };
        return Ok(Done::TooLarge { file, known, end });
    }
    let mut bytes = vec![0; usize::try_from(record.size).unwrap_or(0)];
    let mut got = reader.read_run(0, &mut bytes)?;
    if record.path.file_name() == b"pg_filenode.map" {
        for _ in 0..MAP_TRIES {
            if filenode_map_is_whole(&bytes) {
                break;
            }
            sleep(Duration::from_millis(10));
            got = reader.read_run(0, &mut bytes)?;
        }
    }
    let place = Place { reader: &reader, record: &record, relation: relation.as_ref(), offset: 0 };
    let found = place.examine(bytes, got, key, pages, segment_pages)?;
    Ok(Done::Small { record, found, prior, forced })
}

fn read_control(small: Small, key: &HashKey) -> Result<Done> {
    let Small { source, record: Candidate { mut record, .. }, prior, forced, .. } = small;
    let (_, bytes) = read_control_file(&source)?;
    record.size = bytes.len() as u64;
    let hashes = hash_grains(key, &bytes);
    Ok(Done::Small { record, found: Found { bytes, hashes, bad: Vec::new(), end: None }, prior, forced })
}

struct Place<'a> {
    reader: &'a FileReader,
    record: &'a FileRecord,
    relation: Option<&'a RelationFile>,
    offset: u64,
}

impl Place<'_> {
    fn examine(
        &self,
        mut bytes: Vec<u8>,
        got: usize,
        key: &HashKey,
        pages: Option<&PageContext>,
        segment_pages: u32,
    ) -> Result<Found> {
        if let Some(missing) = bytes.get_mut(got..) {
            missing.fill(0);
        }
        let end = (got < bytes.len()).then_some(self.offset + got as u64);
        let mut bad = Vec::new();
        if let (Some(pages), true) = (pages, self.record.flags.checksums) {
            let segment_start = self.relation.map_or(0, |r| r.first_block(segment_pages));
            let context = PageContext { segment_start, ..pages.clone() };
            let first = u32::try_from(self.offset / u64::from(pages.block_size.max(1))).unwrap_or(u32::MAX);
            bad = self.reader.check_pages(bytes.get_mut(..got).unwrap_or_default(), first, &context)?;
        }
        let hashes = hash_grains(key, &bytes);
        Ok(Found { bytes, hashes, bad, end })
    }
}
