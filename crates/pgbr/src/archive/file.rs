//! A WAL file of the server: what it is, whose it is, and that it stays what it is while it is read.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pgbr_codec::Compression;
use pgbr_manifest::{SystemId, WalFileName};
use pgbr_pg::{WAL_HEADER_BYTES, WalHeader, check_segment};
use pgbr_repo::{PushOutcome, Stanza, WalContent, WalSource};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::place::StanzaPlace;

/// What tells one state of a file from any other: the server writes to a segment or gives it another name as soon as it is archived, and
/// both change these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    /// What a file is now.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(Error::io("open", path))?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, inode, size, modified, changed } = self;
        write!(f, "{device}-{inode}-{size}-{}.{}-{}.{}", modified.0, modified.1, changed.0, changed.1)
    }
}

/// A WAL file that is to be archived.
#[derive(Debug)]
pub(super) struct WalFile {
    pub(super) name: WalFileName,
    path: PathBuf,
    pub(super) id: FileId,
    header: Option<WalHeader>,
}

impl WalFile {
    /// Looks at a file. Its last component is its name in the archive.
    pub(super) fn open(path: &Path, header_check: bool) -> Result<Self> {
        let name: WalFileName = name_of(path).parse()?;
        let id = FileId::of(path)?;
        let mut file = Self { name, path: path.to_owned(), id, header: None };
        if header_check && matches!(name, WalFileName::Segment(_) | WalFileName::Partial(_)) {
            let header = read_header(path)?;
            file.header = Some(WalHeader::parse(&header).map_err(|e| file.foreign(e))?);
        }
        Ok(file)
    }

    /// Whether it says itself whose it is: what is kept of a repository can be checked against that.
    pub(super) const fn tells_its_cluster(&self) -> bool {
        self.header.is_some()
    }

    /// Sees that it is of the stanza's cluster and has the place in the log that its name says.
    pub(super) fn check(&self, stanza: &Stanza) -> Result<Option<SystemId>> {
        let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = self.name else {
            return Ok(None);
        };
        let Some(header) = &self.header else { return Ok(None) };
        let current = stanza.current();
        check_segment(segment, self.id.size, header, current.system_id, current.version)
            .map_err(|e| self.foreign(e))?;
        Ok(Some(current.system_id))
    }

    /// Reads and compresses it. The server may take a segment for another use as soon as anybody has told it that the segment is archived:
    /// what was read is good only if the file is what it was before.
    pub(super) async fn content(&self, compression: Compression, threads: usize) -> Result<WalContent> {
        let source = WalSource::Path(self.path.clone());
        let content = WalContent::read(source, compression, threads.max(1)).await?;
        if FileId::of(&self.path)? != self.id || content.size() != self.id.size {
            let reason = "was changed while it was read".to_owned();
            return Err(Error::Wal { file: self.name.to_string(), reason });
        }
        Ok(content)
    }

    /// Stores what was read in one repository. When this returns, it is durable there.
    pub(super) async fn push(
        &self,
        host: &Host,
        place: &StanzaPlace,
        content: &WalContent,
    ) -> Result<PushOutcome> {
        let system = self.check(&place.stanza)?;
        let outcome = place.wal.push_content(place.stanza.archive_id(), self.name, system, content).await?;
        if let PushOutcome::StoredBeside { object, damage } = &outcome {
            let file = self.name;
            host.warn(format!(
                "the archived {file} is damaged ({damage}); it was stored again as '{object}'"
            ));
        }
        Ok(outcome)
    }

    fn foreign(&self, source: pgbr_pg::Error) -> Error {
        Error::ForeignWal { file: self.name.to_string(), source }
    }
}

/// The last component of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The first bytes of a segment; fewer where it is shorter.
pub(super) fn read_header(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut page = Vec::with_capacity(WAL_HEADER_BYTES);
    file.take(WAL_HEADER_BYTES as u64).read_to_end(&mut page).map_err(Error::io("read", path))?;
    Ok(page)
}
