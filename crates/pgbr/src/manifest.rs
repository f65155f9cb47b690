//! manifest: what a backup holds, file by file, and which backup stores it.
//!
//! It is told in the form that pgBackRest's own command has. Of ours it has what our format knows of a single file: how much of it is stored, and
//! where, nobody knows, for files share what is compressed together.

use std::collections::BTreeMap;

use pgbr_manifest::merge::Item;
use pgbr_manifest::{BackupLabel, BackupType, GRAIN, RelPath, StanzaName};
use pgbr_pgbackrest::{Backup as TheirBackup, Backups as TheirBackups, Blocks, File, Place, SuperBlock};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{self, Backup, ChainLayer};
use crate::place::{RepoAccess, StanzaPlace, is_absent};
use crate::theirs::{Theirs, is_of_content, off_thread};

/// Bytes in the hash of a grain.
const GRAIN_HASH: u64 = 8;

/// Which backup to tell of, and which of its files.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct ManifestRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup; none for the newest.
    pub set: Option<BackupLabel>,
    /// Which files.
    pub files: FilesAsked,
}

/// Of which files to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the command has these")]
pub enum FilesAsked {
    /// All.
    All,
    /// This one, with where each block of it is.
    One(String),
    /// Those that the backup itself stores something of.
    Own,
    /// Those that this other backup stores.
    Of(BackupLabel),
}

impl FilesAsked {
    fn has(&self, name: &str, reference: Option<BackupLabel>) -> bool {
        match self {
            Self::All => true,
            Self::One(wanted) => wanted == name,
            Self::Own => reference.is_none(),
            Self::Of(label) => reference == Some(*label),
        }
    }

    const fn wants_blocks(&self) -> bool {
        matches!(self, Self::One(_))
    }
}

/// What a backup holds. As JSON it is pgBackRest's.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BackupManifest {
    /// The backup.
    pub label: BackupLabel,
    /// The backups that hold its files, oldest first; it itself is the last.
    #[serde(rename = "reference")]
    pub references: Vec<BackupLabel>,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: BackupType,
    /// When it was made.
    pub time: ManifestTime,
    /// Whether files share objects.
    pub bundle: Bundling,
    /// Whether files are stored as blocks.
    pub block: Blocking,
    /// Its files, in the order of its list.
    #[serde(rename = "fileList")]
    pub files: Vec<ManifestFile>,
}

/// When a backup was made, in Unix seconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct ManifestTime {
    /// When it began.
    pub start: i64,
    /// When copying began.
    pub copy: i64,
    /// When it ended.
    pub stop: i64,
}

/// Whether files of a backup share objects.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct Bundling {
    /// They do.
    pub bundle: bool,
    /// Without a head of their own.
    pub raw: bool,
}

/// Whether files of a backup are stored as blocks.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct Blocking {
    /// They are.
    pub block: bool,
}

/// A file of a backup.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ManifestFile {
    /// Its path in the backup.
    pub name: String,
    /// The backup that stores it; none where this one stores it, or a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<BackupLabel>,
    /// Its bytes.
    pub size: u64,
    /// Its checksum: SHA-1 of its content, for ours the keyed digest that our list of files has.
    pub checksum: String,
    /// What is stored of it; unknown for ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<FileBytes>,
    /// Where, if it shares an object; unknown for ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<InBundle>,
    /// Its blocks, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<FileBlocks>,
}

/// Some bytes.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct FileBytes {
    /// How many.
    pub size: u64,
}

/// A place in a bundle.
#[derive(Debug, Clone, Copy, Serialize)]
#[non_exhaustive]
pub struct InBundle {
    /// The number of the bundle.
    pub id: u64,
    /// Where in it.
    pub offset: u64,
}

/// How a file is stored as blocks.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileBlocks {
    /// Bytes in a block.
    pub size: u64,
    /// Where they are.
    pub map: FileMap,
    /// Bytes in the checksum of a block.
    pub checksum: FileBytes,
}

/// Where the blocks of a file are.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FileMap {
    /// Bytes that this takes; ours has it in the index, with all else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What a restore reads of which backup, where one file was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Vec<BlocksOf>>,
}

/// What is read of one backup for the blocks of a file.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BlocksOf {
    /// The backup: an index into the references.
    pub reference: usize,
    /// The object that is read, below the directory of backups; unknown for ours.
    #[serde(skip)]
    pub object: Option<String>,
    /// Reads, and their bytes; unknown for ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<BlockAmount>,
    /// Blocks that were compressed together, and the bytes that they make; unknown for ours.
    #[serde(rename = "superBlock", skip_serializing_if = "Option::is_none")]
    pub super_block: Option<BlockAmount>,
    /// The blocks.
    pub block: BlockCount,
}

/// So many, of so many bytes together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct BlockAmount {
    /// How many.
    pub total: u64,
    /// Their bytes.
    pub size: u64,
}

/// So many.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct BlockCount {
    /// How many.
    pub total: u64,
}

/// Tells what a backup holds, of ours or of pgBackRest's. Nothing is changed.
///
/// # Errors
/// [`Error::UnknownBackup`]; [`Error::UnknownFile`]; as the repository cannot be read, or the backup is damaged.
pub async fn manifest(host: &Host, request: ManifestRequest) -> Result<BackupManifest> {
    let ours = match request.repo.open_made(host, &request.stanza).await {
        Err(error) if is_absent(&error) => Err(error),
        opened => Ok(opened?),
    };
    let of_ours = match &ours {
        Ok(place) => place.backups.list_backups().await?,
        Err(_) => Vec::new(),
    };
    let (theirs, listed) = beside(host, &request, &of_ours).await?;
    let of_theirs: Vec<BackupLabel> =
        listed.iter().flat_map(|listed| &listed.usable).map(|entry| entry.label).collect();
    let newest = || of_ours.iter().chain(&of_theirs).copied().max_by_key(|label| (label.time(), *label));
    let Some(label) = request.set.or_else(newest) else {
        return Err(match ours {
            Err(error) if listed.is_none() => error,
            _ => Error::NoBackup {
                source: pgbr_manifest::Error::Unfit { reason: "there are no backup sets".to_owned() },
            },
        });
    };
    let files = match (&ours, &theirs) {
        (Ok(place), _) if of_ours.contains(&label) => {
            of_our_backup(host, place, label, &request.files).await?
        }
        (_, Some(theirs)) if of_theirs.contains(&label) => {
            let backup = theirs.backup(&request.stanza, label).await?;
            let (asked, directory) = (request.files.clone(), format!("backup/{}/", request.stanza));
            off_thread(move || of_their_backup(&backup, &asked, &directory)).await?
        }
        _ => return Err(Error::UnknownBackup { label }),
    };
    match request.files {
        FilesAsked::One(name) if files.files.is_empty() => Err(Error::UnknownFile { label, name }),
        _ => Ok(files),
    }
}

/// What pgBackRest has beside ours, and its list, where that is asked for.
async fn beside(
    host: &Host,
    request: &ManifestRequest,
    of_ours: &[BackupLabel],
) -> Result<(Option<Theirs>, Option<TheirBackups>)> {
    if request.set.is_some_and(|set| of_ours.contains(&set)) {
        return Ok((None, None));
    }
    let Some(theirs) = Theirs::look(&request.repo).await?.map(Theirs::or_plain) else {
        return Ok((None, None));
    };
    match theirs.backups(&request.stanza).await {
        Ok(listed) => Ok((Some(theirs), listed)),
        // The newest of ours can be told of all the same.
        Err(error) if request.set.is_none() && !of_ours.is_empty() && is_of_content(&error) => {
            host.warn(format!("the backups of pgBackRest are left out: {}", with_causes(&error)));
            Ok((None, None))
        }
        Err(error) => Err(error),
    }
}

fn of_their_backup(backup: &TheirBackup, asked: &FilesAsked, directory: &str) -> Result<BackupManifest> {
    let manifest = backup.manifest();
    let of = |file: &File| {
        let bundle = match file.place {
            Place::Own => None,
            Place::Bundle { id, offset } => Some(InBundle { id, offset }),
        };
        let block = match &file.blocks {
            Some(blocks) => Some(their_blocks(backup, file, blocks, asked, directory)?),
            None => None,
        };
        Ok(ManifestFile {
            name: file.path.to_string(),
            reference: file.reference,
            size: file.size,
            checksum: file.checksum.to_string(),
            repo: Some(FileBytes { size: file.stored_size }),
            bundle,
            block,
        })
    };
    let wanted = manifest.files.iter().filter(|file| asked.has(&file.path.to_string(), file.reference));
    Ok(BackupManifest {
        label: manifest.label,
        references: manifest.references.clone(),
        kind: manifest.kind,
        time: ManifestTime { start: manifest.started, copy: manifest.copy_started, stop: manifest.stopped },
        bundle: Bundling { bundle: manifest.options.bundle, raw: manifest.options.bundle_raw },
        block: Blocking { block: manifest.options.block_incr },
        files: wanted.map(of).collect::<Result<_>>()?,
    })
}

fn their_blocks(
    backup: &TheirBackup,
    file: &File,
    blocks: &Blocks,
    asked: &FilesAsked,
    directory: &str,
) -> Result<FileBlocks> {
    let map = if asked.wants_blocks() { backup.block_map(file)? } else { None };
    let delta = match &map {
        Some(map) => {
            let mut of: BTreeMap<usize, Reads> = BTreeMap::new();
            map.runs().iter().for_each(|run| of.entry(run.super_block.reference).or_default().add(run));
            Some(of.into_values().map(|reads| reads.told(backup, file, directory)).collect::<Result<_>>()?)
        }
        None => None,
    };
    let map = FileMap { size: Some(blocks.map_size), delta };
    let checksum = FileBytes { size: u64::from(blocks.checksum_width) };
    Ok(FileBlocks { size: blocks.size, map, checksum })
}

/// What is read of one backup of pgBackRest's: super blocks that lie side by side by one read.
#[derive(Default)]
struct Reads {
    last: Option<SuperBlock>,
    read: BlockAmount,
    super_block: BlockAmount,
    block: BlockCount,
}

impl Reads {
    fn add(&mut self, run: &pgbr_pgbackrest::Run) {
        let next = run.super_block;
        let is_new = self.last.is_none_or(|last| last.offset != next.offset);
        if is_new {
            let goes_on =
                self.last.is_some_and(|last| last.offset.saturating_add(last.stored_size) == next.offset);
            self.read.total += u64::from(!goes_on);
            self.read.size = self.read.size.saturating_add(next.stored_size);
            self.super_block.total += 1;
            self.super_block.size = self.super_block.size.saturating_add(next.size);
        }
        self.block.total = self.block.total.saturating_add(run.count);
        self.last = Some(next);
    }

    fn told(self, backup: &TheirBackup, file: &File, directory: &str) -> Result<BlocksOf> {
        let Some(last) = self.last else { return Err(Error::Internal { what: "blocks of no super block" }) };
        let object = backup.stored_super_block(file, &last)?.object;
        Ok(BlocksOf {
            reference: last.reference,
            object: Some(object.strip_prefix(directory).unwrap_or(&object).to_owned()),
            read: Some(self.read),
            super_block: Some(self.super_block),
            block: self.block,
        })
    }
}

async fn of_our_backup(
    host: &Host,
    place: &StanzaPlace,
    label: BackupLabel,
    asked: &FilesAsked,
) -> Result<BackupManifest> {
    place.repo.require_reader("manifest")?;
    let chain = load::chain(place, label, &[]).await?;
    let read = OurFiles {
        host: host.clone(),
        place: place.clone(),
        references: chain.iter().rev().map(|backup| backup.summary.label).collect(),
        layers: load::layers(&chain),
        asked: asked.clone(),
        runtime: Handle::current(),
    };
    let (references, newest) = (read.references.clone(), chain.into_iter().next());
    let Some(Backup { summary, body, .. }) = newest else {
        return Err(Error::Internal { what: "a chain without a backup" });
    };
    let files = tokio::task::spawn_blocking(move || read.run())
        .await
        .map_err(|_| Error::Internal { what: "reading an index panicked" })??;
    let copy = body.copy_start_ns.div_euclid(1_000_000_000);
    Ok(BackupManifest {
        label,
        references,
        kind: summary.kind,
        time: ManifestTime { start: summary.time.start, copy, stop: summary.time.stop },
        // A pack is full of frames of many files, and every file is one of pages.
        bundle: Bundling { bundle: true, raw: false },
        block: Blocking { block: true },
        files,
    })
}

/// The list of files that a backup of ours gives with all it builds on.
struct OurFiles {
    host: Host,
    place: StanzaPlace,
    /// Oldest first.
    references: Vec<BackupLabel>,
    layers: Vec<ChainLayer>,
    asked: FilesAsked,
    runtime: Handle,
}

impl OurFiles {
    fn run(&self) -> Result<Vec<ManifestFile>> {
        let mut merge = load::merged(&self.place, &self.layers, &self.runtime);
        let (mut files, mut open): (Vec<ManifestFile>, Option<OpenFile>) = (Vec::new(), None);
        while let Some(item) = merge.next_item()? {
            self.host.stop.check()?;
            match item {
                Item::File(file) => open = Some(OpenFile { path: file.path, grains: BTreeMap::new() }),
                Item::Grains { source, hashes, .. } => {
                    let at = self.reference_of(source);
                    if let (Some(open), Some(at)) = (&mut open, at) {
                        *open.grains.entry(at).or_default() += hashes.len() as u64;
                    }
                }
                Item::End(end) => {
                    let told = open.take().map(|open| self.told(open, end.size, &end.digest.0));
                    let has = |file: &ManifestFile| self.asked.has(&file.name, file.reference);
                    files.extend(told.filter(has));
                }
                Item::Directory { .. } | Item::Link { .. } | Item::Zeros { .. } | Item::Absent { .. } => {}
            }
        }
        Ok(files)
    }

    /// The backup that a source of the merge is a layer of.
    fn reference_of(&self, source: usize) -> Option<usize> {
        let label = self.layers.get(source)?.label;
        self.references.iter().position(|known| *known == label)
    }

    fn told(&self, open: OpenFile, size: u64, digest: &[u8]) -> ManifestFile {
        let newest = open.grains.keys().max().copied();
        let itself = self.references.len().saturating_sub(1);
        let of = |(reference, total)| BlocksOf {
            reference,
            object: None,
            read: None,
            super_block: None,
            block: BlockCount { total },
        };
        let delta = self.asked.wants_blocks().then(|| open.grains.into_iter().map(of).collect());
        ManifestFile {
            name: open.path.to_string(),
            reference: newest.filter(|at| *at != itself).and_then(|at| self.references.get(at)).copied(),
            size,
            checksum: data_encoding::HEXLOWER.encode(digest),
            repo: None,
            bundle: None,
            block: (size > 0).then_some(FileBlocks {
                size: GRAIN as u64,
                map: FileMap { size: None, delta },
                checksum: FileBytes { size: GRAIN_HASH },
            }),
        }
    }
}

/// The file that the merge gives.
struct OpenFile {
    path: RelPath,
    /// How many of its grains each backup stores; zeros are stored by none.
    grains: BTreeMap<usize, u64>,
}
