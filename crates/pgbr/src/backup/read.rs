//! Reading: what one worker does with one file, or with one run of a large one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use pgbr_manifest::index::{Fields, FileRecord, Record};
use pgbr_manifest::{HashKey, RelPath};
use pgbr_pg::{FileReader, PageContext, RelationFile, filenode_map_is_whole, read_control_file};

use super::gather::Expected;
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

/// What a branch of the copy makes of a file.
pub(crate) enum Share {
    /// Nothing: the branch is lost.
    Lost,
    /// It cannot have changed since the branch's parent, whatever other branches need of it.
    Unread {
        /// As the scan found it.
        record: FileRecord,
        /// The parent's end of it.
        end: Fields,
        /// Whether its record is written whatever the parent has: a link leads to it.
        forced: bool,
    },
    /// It is compared with what the parent has, or new.
    Compared {
        /// The parent's record of it.
        prior: Option<FileRecord>,
        /// As above.
        forced: bool,
        /// Whether the parent has something there that has to be said to be gone if it vanishes.
        hides: bool,
    },
}

impl Share {
    /// Whether the branch has to see what the file holds.
    pub(crate) const fn is_read(&self) -> bool {
        matches!(self, Self::Compared { .. })
    }

    /// Whether its parent has the file, and so hashes to compare with.
    pub(crate) const fn has_prior(&self) -> bool {
        matches!(self, Self::Compared { prior: Some(_), .. })
    }
}

/// What the parent of a branch has in the place of what is read.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// The hashes.
    pub(crate) known: Expected,
    /// The end of the file, where it ends there.
    pub(crate) end: Option<Fields>,
}

/// A file that is read in one piece.
pub(crate) struct Small {
    pub(crate) source: PathBuf,
    pub(crate) record: Candidate,
    /// Of each branch, as in all that follows.
    pub(crate) shares: Vec<Share>,
    /// In the places of the first run; those of later runs come with them.
    pub(crate) before: Vec<Before>,
}

/// A file that is open and read in runs.
pub(crate) struct OpenRun {
    pub(crate) reader: FileReader,
    pub(crate) record: Arc<FileRecord>,
    pub(crate) relation: Option<RelationFile>,
    pub(crate) shares: Vec<Share>,
}

/// One thing to do, in index order.
pub(crate) enum Work {
    /// Nothing to read; `same` where the parent has it just so.
    Entry { record: Record, same: Vec<bool> },
    /// What the parent of this branch has there is gone.
    Removed { branch: usize, path: RelPath },
    /// A file that no branch has to see: it cannot have changed, or is gone.
    Unread { path: RelPath, shares: Vec<Share> },
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
    /// What the parents have there.
    pub(crate) before: Vec<Before>,
}

/// What was read.
pub(crate) struct Found {
    /// The bytes, as many as announced: what was missing is zeros.
    pub(crate) bytes: Vec<u8>,
    /// The hash of each grain, by the key of each branch; empty for one that does not compare.
    pub(crate) hashes: Vec<Vec<u64>>,
    /// Pages with a wrong checksum, counted in the file.
    pub(crate) bad: Vec<u32>,
    /// Where the file ended, when that was before the announced size.
    pub(crate) end: Option<u64>,
}

/// What became of it.
pub(crate) enum Done {
    Entry {
        record: Record,
        same: Vec<bool>,
    },
    Removed {
        branch: usize,
        path: RelPath,
    },
    /// Nobody has to see it, or it was gone when it was to be opened.
    Unread {
        path: RelPath,
        shares: Vec<Share>,
    },
    Small {
        record: Arc<FileRecord>,
        found: Found,
        shares: Vec<Share>,
        before: Vec<Before>,
    },
    Run {
        file: Arc<OpenRun>,
        place: RunPlace,
        found: Found,
    },
    /// It grew beyond what is read in one piece.
    TooLarge {
        file: OpenRun,
        before: Vec<Before>,
    },
}

/// How to look at what is read.
#[derive(Clone)]
pub(crate) struct Lens {
    /// The keys of hashes, of each branch.
    pub(crate) keys: Arc<[HashKey]>,
    /// How page checksums are checked; none where the cluster has none.
    pub(crate) pages: Option<Arc<PageContext>>,
    /// Pages in a segment of a relation.
    pub(crate) segment_pages: u32,
}

/// Does one thing.
pub(crate) fn perform(work: Work, lens: &Lens) -> Result<Done> {
    match work {
        Work::Entry { record, same } => Ok(Done::Entry { record, same }),
        Work::Removed { branch, path } => Ok(Done::Removed { branch, path }),
        Work::Unread { path, shares } => Ok(Done::Unread { path, shares }),
        Work::Small(small) => read_small(small, lens),
        Work::Control(small) => read_control(small, lens),
        Work::Run { file, place, mut buffer } => {
            let got = file.reader.read_run(place.offset, &mut buffer)?;
            let at = Place {
                reader: &file.reader,
                record: &file.record,
                relation: file.relation.as_ref(),
                offset: place.offset,
            };
            let found = at.examine(buffer, got, lens, &file.shares)?;
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

fn read_small(small: Small, lens: &Lens) -> Result<Done> {
    let Small { source, record: mut candidate, shares, before } = small;
    let Some(reader) = open(&source)? else {
        if MUST_HAVE.contains(&candidate.record.path.as_bytes()) {
            return Err(Error::Unfit { reason: format!("'{}' vanished", source.display()) });
        }
        return Ok(Done::Unread { path: candidate.record.path, shares });
    };
    take_stat(&mut candidate, &reader);
    let Candidate { record, relation } = candidate;
    if record.size > 2 * RUN as u64 {
        let file = OpenRun { reader, record: Arc::new(record), relation, shares };
        return Ok(Done::TooLarge { file, before });
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
    let found = place.examine(bytes, got, lens, &shares)?;
    Ok(Done::Small { record: Arc::new(record), found, shares, before })
}

fn read_control(small: Small, lens: &Lens) -> Result<Done> {
    let Small { source, record: Candidate { mut record, .. }, shares, before } = small;
    let (_, bytes) = read_control_file(&source)?;
    record.size = bytes.len() as u64;
    let hashes = lens.hashes(&bytes, &shares);
    let found = Found { bytes, hashes, bad: Vec::new(), end: None };
    Ok(Done::Small { record: Arc::new(record), found, shares, before })
}

impl Lens {
    fn hashes(&self, bytes: &[u8], shares: &[Share]) -> Vec<Vec<u64>> {
        let of = |(key, share): (&HashKey, &Share)| match share.is_read() {
            true => hash_grains(key, bytes),
            false => Vec::new(),
        };
        self.keys.iter().zip(shares).map(of).collect()
    }
}

struct Place<'a> {
    reader: &'a FileReader,
    record: &'a FileRecord,
    relation: Option<&'a RelationFile>,
    offset: u64,
}

impl Place<'_> {
    fn examine(&self, mut bytes: Vec<u8>, got: usize, lens: &Lens, shares: &[Share]) -> Result<Found> {
        if let Some(missing) = bytes.get_mut(got..) {
            missing.fill(0);
        }
        let end = (got < bytes.len()).then_some(self.offset + got as u64);
        let mut bad = Vec::new();
        if let (Some(pages), true) = (lens.pages.as_deref(), self.record.flags.checksums) {
            let segment_start = self.relation.map_or(0, |r| r.first_block(lens.segment_pages));
            let context = PageContext { segment_start, ..pages.clone() };
            let first = u32::try_from(self.offset / u64::from(pages.block_size.max(1))).unwrap_or(u32::MAX);
            bad = self.reader.check_pages(bytes.get_mut(..got).unwrap_or_default(), first, &context)?;
        }
        let hashes = lens.hashes(&bytes, shares);
        Ok(Found { bytes, hashes, bad, end })
    }
}
