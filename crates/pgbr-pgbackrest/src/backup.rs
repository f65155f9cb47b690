//! Backups: which of them can be used, and the content of their files.

mod blocks;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::Arc;

use pgbr_manifest::BackupLabel;

use crate::backup_info::{BackupEntry, BackupInfo};
use crate::block_map::{BlockMap, MapShape, SuperBlock};
use crate::cipher::{Decrypt, Framing};
use crate::compression::{Compression, Decompress};
use crate::content::{Content, Expected, Size};
use crate::error::{Error, Result};
use crate::layout;
use crate::manifest::{File, Manifest, Place};
use crate::objects::ObjectReader;
use crate::repository::{Loaded, Stanza};

/// The backups of a stanza.
#[derive(Debug)]
#[non_exhaustive]
pub struct Backups {
    stanza: Stanza,
    /// What `backup.info` says, with all backups that it lists.
    pub info: Loaded<BackupInfo>,
    /// Those that can be used, by label.
    pub usable: Vec<BackupEntry>,
    /// Those of the list that cannot.
    pub dropped: Vec<Dropped>,
    /// Finished backups that the list does not have: whoever made them did not get to list them. pgBackRest adds them at its next backup.
    pub unlisted: Vec<BackupLabel>,
    /// Backups that are being made, or that broke off.
    pub unfinished: Vec<BackupLabel>,
}

/// A backup that is listed and cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// Its label.
    pub label: BackupLabel,
    /// The backup without a manifest: it itself, or one that it needs.
    pub missing: BackupLabel,
}

/// What lies under the label of a backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Manifest,
    CopyAlone,
    Neither,
}

impl Backups {
    pub(crate) fn find(stanza: Stanza, info: Loaded<BackupInfo>) -> Result<Self> {
        let objects = &stanza.repository.objects;
        let root = layout::backups(&stanza.name);
        let level = objects.level(&root).map_err(|error| Error::from_source(&root, error))?;
        let labels = level.directories.iter().filter_map(|name| name.parse::<BackupLabel>().ok());
        let mut found = BTreeMap::new();
        for label in labels {
            found.insert(label, find_manifest(&stanza, label)?);
        }
        let listed: BTreeSet<BackupLabel> = info.info.backups.iter().map(|entry| entry.label).collect();
        let (usable, dropped) =
            plan_usable(&info.info.backups, |label| found.get(&label) == Some(&Found::Manifest));
        let unlisted = |kind| {
            let of_kind = found.iter().filter(move |(_, found)| **found == kind).map(|(label, _)| *label);
            of_kind.filter(|label| !listed.contains(label)).collect()
        };
        let (unlisted, unfinished) = (unlisted(Found::Manifest), unlisted(Found::CopyAlone));
        Ok(Self { stanza, info, usable, dropped, unlisted, unfinished })
    }

    /// Opens a backup that can be used.
    ///
    /// # Errors
    /// [`Error::NoBackup`], or as its manifest cannot be used.
    pub fn open(&self, label: BackupLabel) -> Result<Backup> {
        if self.usable.iter().any(|entry| entry.label == label) {
            return self.stanza.backup(&self.info.info, label);
        }
        let dropped = self.dropped.iter().find(|dropped| dropped.label == label);
        let reason = match dropped {
            Some(Dropped { missing, .. }) if *missing != label => {
                format!(": it needs {missing}, whose manifest is gone")
            }
            Some(_) => ": its manifest is gone".to_owned(),
            None if self.unlisted.contains(&label) => ": it is not in the list".to_owned(),
            None if self.unfinished.contains(&label) => ": it is not finished".to_owned(),
            None => String::new(),
        };
        Err(Error::NoBackup { stanza: self.stanza.name.clone(), label, reason })
    }
}

fn find_manifest(stanza: &Stanza, label: BackupLabel) -> Result<Found> {
    let manifest = layout::manifest(&stanza.name, label);
    let copy = layout::copy_of(&manifest);
    for (object, found) in [(manifest, Found::Manifest), (copy, Found::CopyAlone)] {
        match stanza.repository.objects.size(&object).map_err(|error| Error::from_source(&object, error)) {
            Ok(_) => return Ok(found),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Found::Neither)
}

/// A backup can be used if it has a manifest and so has each that it needs.
fn plan_usable(
    listed: &[BackupEntry],
    has_manifest: impl Fn(BackupLabel) -> bool,
) -> (Vec<BackupEntry>, Vec<Dropped>) {
    let priors: BTreeMap<_, _> = listed.iter().map(|entry| (entry.label, entry.prior)).collect();
    // From prior to prior, no more often than there are backups: what is listed wrongly could lead round.
    let chain = |entry: &BackupEntry| {
        let next = |label: &BackupLabel| priors.get(label).copied().flatten();
        std::iter::successors(Some(entry.label), next).take(listed.len())
    };
    let (mut usable, mut dropped) = (Vec::new(), Vec::new());
    for entry in listed {
        let mut needed =
            [entry.label].into_iter().chain(entry.references.iter().copied()).chain(chain(entry));
        match needed.find(|label| !has_manifest(*label)) {
            None => usable.push(entry.clone()),
            Some(missing) => dropped.push(Dropped { label: entry.label, missing }),
        }
    }
    (usable, dropped)
}

/// A backup whose manifest has been read. Cheap to clone, but for the error.
#[derive(Debug)]
pub struct Backup {
    pub(crate) stanza: Stanza,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) from_copy: Option<Error>,
}

/// Where the stored bytes of a file lie.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The key of the object.
    pub object: String,
    /// Which bytes of it.
    pub range: Range<u64>,
}

impl Backup {
    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What was wrong with the manifest, where it is its copy that was read.
    pub fn from_copy(&self) -> Option<&Error> {
        self.from_copy.as_ref()
    }

    /// Where the stored bytes of one of its files lie; `None` for an empty file, of which nothing has to be read.
    ///
    /// Of a file that is stored as blocks these are what this backup (or the one that it refers to) stores and the block map.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no object can be named so.
    pub fn stored(&self, file: &File) -> Result<Option<Stored>> {
        if file.size == 0 {
            return Ok(None);
        }
        let (stanza, owner) = (&self.stanza.name, self.manifest.owner(file));
        let stored = match file.place {
            Place::Bundle { id, offset } => Stored {
                object: layout::bundle(stanza, owner, id),
                range: offset..offset.saturating_add(file.stored_size),
            },
            Place::Own => {
                let whole = self.manifest.options.compression.extension();
                let ending = if file.blocks.is_some() { layout::BLOCKS } else { whole };
                let object = layout::own_file(stanza, owner, &file.path, ending)?;
                Stored { object, range: 0..file.stored_size }
            }
        };
        Ok(Some(stored))
    }

    /// The content of one of its files.
    ///
    /// # Errors
    /// Where that cannot even begin: as [`Backup::stored`] and [`Backup::block_map`]. All else comes from the content.
    pub fn open(&self, file: &File) -> Result<Content> {
        let Some(stored) = self.stored(file)? else {
            return Ok(self.content(file, String::new(), io::empty()));
        };
        let bundled = matches!(file.place, Place::Bundle { .. });
        match self.block_map(file)? {
            Some(map) => {
                let blocks = blocks::BlockReader::new(self.clone_for_reading(), file, map);
                Ok(self.content(file, stored.object, blocks))
            }
            None => {
                let framing = if bundled { self.manifest.options.bundle_framing() } else { Framing::Normal };
                let plain = self.decode(&stored, framing)?;
                Ok(self.content(file, stored.object, plain))
            }
        }
    }

    /// The stored bytes of one of its files as they are, to be looked at or copied without a passphrase; `None` for an empty file.
    ///
    /// They are held against their own checksum where the manifest has one: it does where anything was done to the content. That finds what
    /// changes no content, too: bits that fill up the last byte of a stream, a super block that no map needs any more.
    ///
    /// # Errors
    /// As [`Backup::stored`]. All else comes from the content.
    pub fn open_stored(&self, file: &File) -> Result<Option<Content>> {
        let Some(stored) = self.stored(file)? else { return Ok(None) };
        let plain =
            self.manifest.options.compression == Compression::None && self.manifest.passphrase.is_none();
        let as_it_was = (plain && file.blocks.is_none()).then_some(file.checksum);
        let expected = Expected {
            file: file.path.to_string(),
            object: stored.object.clone(),
            size: Size::Exactly(file.stored_size),
            checksum: file.stored_checksum.or(as_it_was),
        };
        let objects = Arc::clone(&self.stanza.repository.objects);
        Ok(Some(Content::new(ObjectReader::new(objects, stored.object, stored.range), expected)))
    }

    /// The map of the blocks of a file that is stored so.
    ///
    /// # Errors
    /// Where it cannot be read or decoded; [`Error::Unsupported`] where it is that of a beta.
    pub fn block_map(&self, file: &File) -> Result<Option<BlockMap>> {
        let (Some(blocks), Some(stored)) = (file.blocks, self.stored(file)?) else { return Ok(None) };
        self.check_blocks(&stored.object)?;
        let start = stored.range.end.saturating_sub(blocks.map_size).max(stored.range.start);
        let map = Stored { object: stored.object, range: start..stored.range.end };
        let mut bytes = Vec::new();
        self.decrypt(&map, Framing::Raw)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::from_stream(&map.object, error))?;
        let shape = MapShape {
            block_size: blocks.size,
            checksum_width: blocks.checksum_width,
            file_size: file.size,
            references: self.manifest.references.len(),
        };
        BlockMap::decode(&map.object, &bytes, shape).map(Some)
    }

    /// What 2.44 and 2.45 could be told to do, as a beta, is not what later versions do.
    fn check_blocks(&self, object: &str) -> Result<()> {
        let version = &self.manifest.written_by;
        let mut numbers = version.split(['.', 'd']).map(|number| number.parse::<u32>().unwrap_or(0));
        if (numbers.next(), numbers.next()) > (Some(2), Some(45)) {
            return Ok(());
        }
        let what =
            format!("it has blocks as the beta of pgBackRest {version} stored them, which no release reads");
        Err(Error::Unsupported { object: object.to_owned(), what })
    }

    /// Where a super block of a file lies.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not of this backup or no object can be named so.
    pub fn stored_super_block(&self, file: &File, block: &SuperBlock) -> Result<Stored> {
        let stanza = &self.stanza.name;
        let Some(label) = self.manifest.references.get(block.reference).copied() else {
            let (object, what) = (layout::manifest(stanza, self.manifest.label), file.path.to_string());
            return Err(Error::Invalid {
                object,
                what,
                reason: "has a block of a backup that is not known".to_owned(),
            });
        };
        let object = match block.bundle {
            Some(id) => layout::bundle(stanza, label, id),
            None => layout::own_file(stanza, label, &file.path, layout::BLOCKS)?,
        };
        Ok(Stored { object, range: block.offset..block.offset.saturating_add(block.stored_size) })
    }

    /// A super block of a file, uncompressed: for a restore that needs some blocks of it. Its blocks are to be held against
    /// [`BlockMap::fits`].
    ///
    /// # Errors
    /// Where it cannot be read, or has not the size that the map says.
    pub fn super_block(&self, file: &File, block: &SuperBlock) -> Result<Vec<u8>> {
        let stored = self.stored_super_block(file, block)?;
        let mut content = Vec::new();
        // One byte more, to see that there is none.
        let limit = block.size.saturating_add(1);
        let mut source = self.decode(&stored, Framing::Raw)?.take(limit);
        source.read_to_end(&mut content).map_err(|error| Error::from_stream(&stored.object, error))?;
        if content.len() as u64 != block.size {
            let reason = format!("the super block at byte {} has not {} bytes", block.offset, block.size);
            return Err(Error::damaged(&stored.object, reason));
        }
        Ok(content)
    }

    fn content(&self, file: &File, object: String, source: impl Read + Send + 'static) -> Content {
        let (size, checksum) = (Size::Exactly(file.size), Some(file.checksum));
        Content::new(source, Expected { file: file.path.to_string(), object, size, checksum })
    }

    fn decrypt(&self, stored: &Stored, framing: Framing) -> Box<dyn BufRead + Send> {
        let objects = Arc::clone(&self.stanza.repository.objects);
        let reader = ObjectReader::new(objects, stored.object.clone(), stored.range.clone());
        match &self.manifest.passphrase {
            None => Box::new(reader),
            Some(passphrase) => Box::new(Decrypt::new(reader, passphrase, framing)),
        }
    }

    fn decode(&self, stored: &Stored, framing: Framing) -> Result<Decompress<Box<dyn BufRead + Send>>> {
        let (input, compression) = (self.decrypt(stored, framing), self.manifest.options.compression);
        decompress(&stored.object, input, compression, framing)
    }

    fn clone_for_reading(&self) -> Self {
        Self { stanza: self.stanza.clone(), manifest: Arc::clone(&self.manifest), from_copy: None }
    }
}

/// What decompresses an object.
pub(crate) fn decompress<R: BufRead>(
    object: &str,
    input: R,
    compression: Compression,
    framing: Framing,
) -> Result<Decompress<R>> {
    Decompress::new(input, compression, framing).map_err(|error| Error::from_stream(object, error))
}
