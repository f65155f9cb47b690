//! The WAL archive: one object a file, never overwritten, and never "missing" by mistake.
//!
//! A push is one conditional create. Where the name is taken, the whole stored object is read and checked (by who only writes against what
//! its trailer says of its bytes; an object of before there were writers tells them nothing, and the push fails):
//!
//! | stored | pushed | then |
//! |---|---|---|
//! | the same content | anything | success |
//! | other content that verifies | segment, `.history`, `.backup` | [`Error::WalConflict`]; what is stored stays |
//! | other content that verifies | `.partial` | stored as `<file>-<digest>`; success |
//! | damaged | anything | stored as `<file>-<digest>`; success with a warning |
//!
//! A get reads one object and checks it; where that is missing or damaged it looks for the variants of the name and takes the one that
//! verifies. In a store that does not honour conditional creates every name carries its digest, and two contents of one name are an error.

mod get;
mod list;
mod seal;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use object_store::path::Path;
use pgbr_codec::{Compression, OBJECT_HEADER_LEN, ObjectHeader, WalTrailer};
use pgbr_manifest::{ArchiveId, StanzaName, SystemId, WalFileName, WalSegmentName};

use crate::error::{Error, Result};
use crate::keys::{Layout, WalDigest};
use crate::repo_file::Repo;
use crate::store::{Created, Store};

pub use get::{WalFound, WalGet, WalSaved};
pub use list::{WalBounds, WalEntry};
pub use seal::WalContent;

/// The largest content of a WAL file, in bytes: PostgreSQL's largest segment.
const MAX_CONTENT: u64 = 1 << 30;
/// The largest content of a file that is no segment, in bytes: histories have some 50 bytes a timeline.
const MAX_SMALL_CONTENT: u64 = 16 << 20;
/// The largest object of a WAL file, in bytes: each piece may be stored as it is, with 40 bytes more.
const MAX_OBJECT: u64 = MAX_CONTENT + (1 << 20);

/// How many heads of objects are looked at at once.
const HEADS: usize = 16;

/// The WAL archive of a stanza.
#[derive(Debug, Clone)]
pub struct WalStore {
    repo: Repo,
    stanza: StanzaName,
}

/// What to push.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WalPush {
    /// The archive of the cluster.
    pub archive: ArchiveId,
    /// The file's name.
    pub file: WalFileName,
    /// Its content.
    pub source: WalSource,
    /// The cluster's system identifier, where the content says it.
    pub system_id: Option<SystemId>,
    /// How to compress it.
    pub compression: Compression,
    /// On how many threads to compress and seal: 1 to 64.
    pub workers: usize,
}

impl WalPush {
    /// A push without compression, on one thread.
    pub const fn new(archive: ArchiveId, file: WalFileName, source: WalSource) -> Self {
        Self { archive, file, source, system_id: None, compression: Compression::NONE, workers: 1 }
    }

    /// With the cluster's system identifier.
    #[must_use]
    pub const fn with_system_id(mut self, system_id: SystemId) -> Self {
        self.system_id = Some(system_id);
        self
    }

    /// With this compression, on so many threads.
    #[must_use]
    pub const fn with_compression(mut self, compression: Compression, workers: usize) -> Self {
        self.compression = compression;
        self.workers = workers;
        self
    }
}

/// Where the content of a WAL file comes from.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "content is in a file or in memory")]
pub enum WalSource {
    /// A file.
    Path(PathBuf),
    /// Memory.
    Bytes(Bytes),
}

/// What became of a push. All of these are success.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushOutcome {
    /// It was stored.
    Stored {
        /// The size of the object.
        size: u64,
    },
    /// It was there with the same content.
    SameAlreadyThere,
    /// What is stored under its name is damaged: it was stored beside it. Worth a warning.
    StoredBeside {
        /// The key that it was stored under.
        object: String,
        /// What is wrong with the one that was there.
        damage: String,
    },
    /// A `.partial` of other content is there: this one was kept beside it.
    PartialKept {
        /// The key that it was stored under.
        object: String,
    },
}

/// What stands under a key.
enum Stored {
    /// A file of the right name with this digest.
    Sound([u8; 32]),
    /// Something that does not verify.
    Unsound(Error),
    /// Nothing.
    Nothing,
}

impl WalStore {
    /// The archive of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.clone(), stanza: stanza.clone() }
    }

    /// Archives a file. When this returns, the file is durable.
    ///
    /// # Errors
    /// [`Error::WalConflict`] where it is archived with other content; [`Error::WriteOnly`] where it is archived and only who reads can tell what
    /// that is; [`Error::Local`] where the source cannot be read; as the store failed. Pushing again is always safe.
    pub async fn push(&self, push: WalPush) -> Result<PushOutcome> {
        let WalPush { archive, file, source, system_id, compression, workers } = push;
        let content = WalContent::read(source, compression, workers).await?;
        self.push_content(archive, file, system_id, &content).await
    }

    /// As [`WalStore::push`], for content that was read and compressed before and may go to several repositories.
    ///
    /// # Errors
    /// As [`WalStore::push`].
    pub async fn push_content(
        &self,
        archive: ArchiveId,
        file: WalFileName,
        system_id: Option<SystemId>,
        content: &WalContent,
    ) -> Result<PushOutcome> {
        if content.size() > max_content(&file) {
            let reason = format!("of {} bytes is larger than {}", content.size(), max_content(&file));
            return Err(Error::Invalid { what: "WAL file", reason });
        }
        let object = content.seal(&self.repo, file, system_id).await?;
        let pushed = Pushed { archive, file, object, digest: content.digest() };
        match self.store().create_honoured() {
            true => self.push_create(&pushed).await,
            false => self.push_variant(&pushed).await,
        }
    }

    /// Puts a sealed file where conditional creates are honoured.
    async fn push_create(&self, pushed: &Pushed) -> Result<PushOutcome> {
        let key = Layout::new().wal(&self.stanza, pushed.archive, &pushed.file);
        let failed = match self.store().create(&key, pushed.object.clone()).await {
            Ok(Created::New) => return Ok(pushed.stored()),
            Ok(Created::AlreadyThere) => None,
            Err(error) => Some(error),
        };
        // "Exists" may be our own request, repeated, and a request that failed may have stored the object.
        let stored = match self.examine(&key, &pushed.file).await {
            Ok(stored) => stored,
            Err(error) => return Err(failed.unwrap_or(error)),
        };
        match (stored, failed) {
            (Stored::Sound(digest), _) if digest == pushed.digest => {
                self.store().settle(&key).await?;
                Ok(PushOutcome::SameAlreadyThere)
            }
            (_, Some(failed)) => Err(failed),
            (Stored::Sound(_), None) if matches!(pushed.file, WalFileName::Partial(_)) => {
                Ok(PushOutcome::PartialKept { object: self.put_variant(pushed).await? })
            }
            (Stored::Sound(digest), None) => Err(pushed.conflict(&digest)),
            (Stored::Unsound(damage), None) => {
                self.refuse_other_variants(pushed).await?;
                let object = self.put_variant(pushed).await?;
                // Another process may have done the same with other content.
                self.refuse_other_variants(pushed).await?;
                Ok(PushOutcome::StoredBeside { object, damage: damage.to_string() })
            }
            // It was there a moment ago: whoever took it away is still at work. PostgreSQL tries again.
            (Stored::Nothing, None) => Err(Error::not_found(&key)),
        }
    }

    /// Puts a sealed file where a create may overwrite: under a name that no other content has, between two looks at the others.
    async fn push_variant(&self, pushed: &Pushed) -> Result<PushOutcome> {
        self.refuse_other_variants(pushed).await?;
        let key = Layout::new().wal_variant(
            &self.stanza,
            pushed.archive,
            &pushed.file,
            WalDigest::of(&pushed.digest),
        );
        if let Stored::Sound(digest) = self.examine(&key, &pushed.file).await? {
            if digest != pushed.digest {
                return Err(pushed.conflict(&digest));
            }
            self.store().settle(&key).await?;
            return Ok(PushOutcome::SameAlreadyThere);
        }
        // Nothing, or the same content damaged: there is nothing to lose.
        self.store().overwrite(&key, pushed.object.clone()).await?;
        self.refuse_other_variants(pushed).await?;
        Ok(pushed.stored())
    }

    /// Puts a sealed file under the name that carries its digest.
    async fn put_variant(&self, pushed: &Pushed) -> Result<String> {
        let key = Layout::new().wal_variant(
            &self.stanza,
            pushed.archive,
            &pushed.file,
            WalDigest::of(&pushed.digest),
        );
        let failed = match self.store().create(&key, pushed.object.clone()).await {
            Ok(Created::New) => return Ok(key.to_string()),
            Ok(Created::AlreadyThere) => None,
            Err(error) => Some(error),
        };
        match self.examine(&key, &pushed.file).await {
            Ok(Stored::Sound(digest)) if digest == pushed.digest => {
                self.store().settle(&key).await?;
                Ok(key.to_string())
            }
            Ok(Stored::Sound(digest)) => Err(failed.unwrap_or_else(|| pushed.conflict(&digest))),
            Ok(Stored::Unsound(error)) | Err(error) => Err(failed.unwrap_or(error)),
            Ok(Stored::Nothing) => Err(failed.unwrap_or_else(|| Error::not_found(&key))),
        }
    }

    /// Finds whether another content of this name is archived beside, and verifies; a `.partial` may have several.
    async fn refuse_other_variants(&self, pushed: &Pushed) -> Result<()> {
        if matches!(pushed.file, WalFileName::Partial(_)) {
            return Ok(());
        }
        for entry in self.variants(pushed.archive, &pushed.file).await? {
            if entry.digest == Some(WalDigest::of(&pushed.digest)) {
                continue;
            }
            if let Stored::Sound(digest) = self.examine(&entry.key, &pushed.file).await?
                && digest != pushed.digest
            {
                return Err(pushed.conflict(&digest));
            }
        }
        Ok(())
    }

    /// Reads the whole object under a key and finds whether it is a sound file of this name.
    async fn examine(&self, key: &Path, file: &WalFileName) -> Result<Stored> {
        let object = match self.store().get(key, MAX_OBJECT).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(Stored::Nothing),
            Err(error) if error.is_unverified() => return Ok(Stored::Unsound(error)),
            Err(error) => return Err(error),
        };
        let checked = match self.repo.reads() {
            true => {
                get::open(&self.repo, key, file, object, std::io::sink()).await.map(|(trailer, _)| trailer)
            }
            false => get::check(&self.repo, key, file, object).await,
        };
        match checked {
            Ok(trailer) => Ok(Stored::Sound(trailer.digest)),
            Err(error) if error.is_unverified() => Ok(Stored::Unsound(error)),
            Err(Error::WriteOnly { .. }) => {
                Err(Error::WriteOnly { doing: format!("compare the file with '{key}'") })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether all that is archived under a file's name and verifies is this content; `None` where nothing is. Content that only who reads could
    /// tell is compared all the same, as a push does.
    ///
    /// # Errors
    /// [`Error::WriteOnly`] for what was archived before there were writers, where this is one; as the store failed.
    pub async fn holds(
        &self,
        archive: ArchiveId,
        file: &WalFileName,
        content: &[u8],
    ) -> Result<Option<bool>> {
        let digest = *blake3::hash(content).as_bytes();
        let mut keys = vec![Layout::new().wal(&self.stanza, archive, file)];
        keys.retain(|_| self.store().create_honoured());
        keys.extend(self.variants(archive, file).await?.into_iter().map(|entry| entry.key));
        let mut same = None;
        for key in keys {
            if let Stored::Sound(stored) = self.examine(&key, file).await? {
                same = Some(same.unwrap_or(true) && stored == digest);
            }
        }
        Ok(same)
    }

    /// Sees that segments in the archive were sealed for this repository as it is now, by a small read of each one's head: whoever pushed
    /// them may have known another repository that was here before, and what its keys sealed is lost.
    ///
    /// # Errors
    /// [`Error::Foreign`] for the first that was not, [`Error::NotFound`] for one that is missing, and as the store failed.
    pub async fn belongs(&self, archive: ArchiveId, segments: &[WalSegmentName]) -> Result<()> {
        let heads = segments.iter().map(|segment| self.segment_belongs(archive, *segment));
        futures::stream::iter(heads).buffer_unordered(HEADS).try_collect().await
    }

    /// Which of these segments are in the archive under names of their own and were sealed for this repository, by a small read of each
    /// one's head. In a store that does not honour conditional creates none has such a name: [`WalStore::segments_present`] lists.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn segments_here(
        &self,
        archive: ArchiveId,
        segments: &[WalSegmentName],
    ) -> Result<BTreeSet<WalSegmentName>> {
        let heads = segments.iter().map(|segment| async move {
            let key = Layout::new().wal(&self.stanza, archive, &WalFileName::Segment(*segment));
            match self.head_belongs(&key).await {
                Ok(()) => Ok(Some(*segment)),
                Err(error) if error.is_not_found() || error.is_unverified() => Ok(None),
                Err(error) => Err(error),
            }
        });
        futures::stream::iter(heads)
            .buffer_unordered(HEADS)
            .try_filter_map(|here| async move { Ok(here) })
            .try_collect()
            .await
    }

    async fn segment_belongs(&self, archive: ArchiveId, segment: WalSegmentName) -> Result<()> {
        let file = WalFileName::Segment(segment);
        let key = Layout::new().wal(&self.stanza, archive, &file);
        let mut error = match self.store().create_honoured() {
            true => match self.head_belongs(&key).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() || error.is_unverified() => error,
                Err(error) => return Err(error),
            },
            false => Error::not_found(&key),
        };
        for entry in self.variants(archive, &file).await? {
            match self.head_belongs(&entry.key).await {
                Ok(()) => return Ok(()),
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    async fn head_belongs(&self, key: &Path) -> Result<()> {
        let head = self.store().get_range(key, 0..OBJECT_HEADER_LEN as u64).await?;
        let header = ObjectHeader::parse(&head).map_err(|e| Error::from_codec(key, e))?;
        self.repo.keyring().check(&header).map_err(|e| Error::from_codec(key, e))
    }

    fn store(&self) -> &Store {
        self.repo.store()
    }
}

/// A sealed file on its way.
struct Pushed {
    archive: ArchiveId,
    file: WalFileName,
    object: Bytes,
    digest: [u8; 32],
}

impl Pushed {
    fn stored(&self) -> PushOutcome {
        PushOutcome::Stored { size: self.object.len() as u64 }
    }

    fn conflict(&self, stored: &[u8; 32]) -> Error {
        Error::WalConflict {
            file: self.file.to_string(),
            stored: WalDigest::of(stored).to_string(),
            given: WalDigest::of(&self.digest).to_string(),
        }
    }
}

/// The largest content that a file of this name may have, in bytes.
const fn max_content(file: &WalFileName) -> u64 {
    match file {
        WalFileName::Segment(_) | WalFileName::Partial(_) => MAX_CONTENT,
        _ => MAX_SMALL_CONTENT,
    }
}

/// Whether a trailer is of the file that was asked for.
fn check_name(key: &Path, file: &WalFileName, trailer: &WalTrailer) -> Result<()> {
    match trailer.name == file.to_string() {
        true => Ok(()),
        false => Err(Error::corrupt(key, format_args!("it holds the WAL file '{}'", trailer.name))),
    }
}
