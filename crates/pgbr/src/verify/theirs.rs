//! What pgBackRest has of a stanza beside ours: every file of each of its backups and every object of its WAL is read to its end.
//!
//! A file that several backups share is read once and counts for each of them. What pgBackRest removes or adds meanwhile is no finding.
//! Manifests are opened one after the other, for that of a million files takes 280 MB.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgbr_manifest::{BackupLabel, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgbr_pgbackrest::{
    Archive, ArchiveId, Backup, BackupEntry, Backups, Content, Error as TheirError, File, Manifest, Objects,
    Stanza, WalObject, WalRange,
};
use pgbr_repo::Store;
use serde::Serialize;
use tokio::runtime::Handle;

use super::VerifyRequest;
use super::report::{
    BackupStatus, Cause, FileCounts, Finding, FindingKind, Findings, SegmentRange, VerifiedBackup,
};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::observe::Event;
use crate::pool::{Pool, Urgency};
use crate::reach::Rows;
use crate::theirs::{StoreObjects, Theirs, off_thread, there};

/// How much is read at once.
const CHUNK: usize = 1 << 20;
/// Files that are out for each worker.
const FILES_A_THREAD: usize = 8;
/// The most damaged files of a backup that are named.
const MAX_NAMED: usize = 1000;

/// What pgBackRest has of the stanza, verified.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VerifiedTheirs {
    /// Backups, oldest first; nothing is told of how far a recovery from them goes.
    pub backups: Vec<VerifiedBackup>,
    /// Archives.
    pub archives: Vec<VerifiedTheirArchive>,
    /// Whether only existence and sizes were looked at: it was asked for, or a budget was set, which counts what is ours alone.
    pub quick: bool,
    /// Bytes that were read, as stored.
    pub bytes: u64,
    /// Files of backups and of WAL that were read.
    pub files: u64,
}

/// How an archive of pgBackRest was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VerifiedTheirArchive {
    /// The archive, as `15-1`.
    pub id: String,
    /// Unbroken rows of segments that are there, and sound as far as they were read.
    pub ranges: Vec<SegmentRange>,
    /// Its segments.
    pub files: FileCounts,
}

impl TheirPart {
    /// What is told of it.
    pub(super) fn told(self, findings: &[Finding]) -> Option<VerifiedTheirs> {
        match self {
            Self::Verified(theirs) => Some(theirs.with_places(findings)),
            Self::Nothing | Self::OtherSet | Self::Sealed => None,
        }
    }
}

impl VerifiedTheirs {
    /// With the places of what was found of each backup.
    fn with_places(mut self, findings: &[Finding]) -> Self {
        for backup in &mut self.backups {
            let of = |finding: &Finding| {
                finding.backups.contains(&backup.label) || finding.limits.contains(&backup.label)
            };
            backup.findings =
                (0..).zip(findings).filter(|(_, finding)| of(finding)).map(|(at, _)| at).collect();
        }
        self
    }
}

/// What there was of pgBackRest's.
pub(super) enum TheirPart {
    /// Nothing.
    Nothing,
    /// The backup that was asked for is not one of its.
    OtherSet,
    /// It cannot be opened.
    Sealed,
    /// This.
    Verified(VerifiedTheirs),
}

/// Verifies what pgBackRest has of the stanza that is asked for.
///
/// # Errors
/// Where the repository fails. What is wrong with what is in it is among the findings.
pub(super) async fn verify_theirs(
    host: &Host,
    request: &VerifyRequest,
    findings: &mut Findings,
) -> Result<TheirPart> {
    let Some(theirs) = Theirs::look(&request.repo).await?.map(Theirs::or_plain) else {
        return Ok(TheirPart::Nothing);
    };
    let (store, runtime) = (theirs.store().clone(), Handle::current());
    let objects = StoreObjects::new(store.clone());
    let quick = request.quick || request.budget.is_some();
    let (host, set, threads) = (host.clone(), request.set, request.threads);
    let stanza = theirs.readable(&request.stanza).await?;
    let work = move || {
        let mut verify = TheirVerify {
            host,
            store,
            objects,
            runtime,
            stanza,
            set,
            quick,
            threads,
            findings: Findings::default(),
            of_files: Findings::default(),
            done: 0,
            total: 0,
            told: VerifiedTheirs { quick, ..VerifiedTheirs::default() },
        };
        let any = verify.run()?;
        Ok((any, verify.told, verify.findings))
    };
    match off_thread(work).await? {
        (false, ..) if request.set.is_some() => Ok(TheirPart::OtherSet),
        (false, ..) => Ok(TheirPart::Nothing),
        (true, told, found) => {
            findings.take(found);
            Ok(TheirPart::Verified(told))
        }
    }
}

/// Beside ours it is a finding that what pgBackRest has cannot be opened, as by a passphrase that ours alone have now.
///
/// # Errors
/// With any other error.
pub(super) fn sealed(error: Error, request: &VerifyRequest, findings: &mut Findings) -> Result<TheirPart> {
    match error {
        Error::PgBackRest(error) if !is_of_object(&error) => {
            // Who asks for a backup of ours asks for nothing of theirs.
            if request.set.is_none() {
                let object = object_of(&error, "backup.info");
                findings.add(FindingKind::TheirSealed, object, with_causes(&error));
            }
            Ok(TheirPart::Sealed)
        }
        error => Err(error),
    }
}

struct TheirVerify {
    host: Host,
    store: Store,
    objects: StoreObjects,
    runtime: Handle,
    stanza: Stanza,
    set: Option<BackupLabel>,
    quick: bool,
    threads: usize,
    findings: Findings,
    /// What is found of files of backups, to be told behind what is found of WAL.
    of_files: Findings,
    /// Bytes of files of backups that were read.
    done: u64,
    /// Bytes that all of them have, as the list says.
    total: u64,
    told: VerifiedTheirs,
}

/// What is kept of a backup once its manifest is closed.
struct Needs {
    wal: WalRange,
    archive: ArchiveId,
    /// Whether it brings its own WAL.
    has_own: bool,
}

impl Needs {
    fn of(manifest: &Manifest) -> Self {
        let archive = ArchiveId::new(manifest.cluster.version, manifest.cluster.id);
        Self { wal: manifest.wal, archive, has_own: manifest.options.archive_copy }
    }
}

/// Backups whose manifests could be read.
type Read = BTreeMap<BackupLabel, Needs>;

/// A stored file of a backup: its object, and where in that it begins.
type Spot = (String, u64);

/// What was found of stored files that are damaged: why, and the number of the finding.
type Damage = BTreeMap<Spot, (Cause, usize)>;

/// Segments by timeline.
type Shelf = BTreeMap<TimelineId, Rows>;

impl TheirVerify {
    /// True where there is anything.
    fn run(&mut self) -> Result<bool> {
        let backups = self.loaded("backup.info", Stanza::backups)?;
        if self.set.is_some() && !self.lists(backups.as_ref()) {
            return Ok(false);
        }
        if let Some(error) = backups.as_ref().and_then(|backups| backups.info.from_copy.as_ref()) {
            self.findings.add(FindingKind::TheirCopy, object_of(error, "backup.info"), with_causes(error));
        }
        let listed = std::mem::take(&mut self.findings);
        let archive = self.loaded("archive.info", Stanza::archive)?.map(Arc::new);
        let found = backups.is_some() || archive.is_some();
        let shelves = match &archive {
            Some(archive) => self.archive(archive, backups.as_ref())?,
            None => BTreeMap::new(),
        };
        let of_wal = std::mem::replace(&mut self.findings, listed);
        let read = match &backups {
            Some(backups) => self.backups(backups)?,
            None => Read::new(),
        };
        self.findings.take(of_wal);
        let of_files = std::mem::take(&mut self.of_files);
        self.findings.take(of_files);
        self.needed_wal(&read, &shelves);
        self.told.backups.sort_by_key(|backup| (backup.label.time(), backup.label));
        Ok(found || !self.told.backups.is_empty())
    }

    /// An info file, where it can be read; none where there is none, or where it is damaged, which is a finding.
    fn loaded<T>(
        &mut self,
        name: &str,
        load: impl FnOnce(&Stanza) -> Result<T, TheirError>,
    ) -> Result<Option<T>> {
        match there(load(&self.stanza)) {
            Err(Error::PgBackRest(error)) => {
                let error = self.judge(error)?;
                self.findings.add(FindingKind::TheirList, object_of(&error, name), with_causes(&error));
                Ok(None)
            }
            loaded => loaded,
        }
    }

    fn lists(&self, backups: Option<&Backups>) -> bool {
        let listed = |backups: &Backups| backups.info.info.backups.iter().any(|b| Some(b.label) == self.set);
        backups.is_some_and(listed)
    }

    /// Looks at all backups, oldest first, so that each file is read with the backup that stores it. Those that are being made are told, too.
    fn backups(&mut self, backups: &Backups) -> Result<Read> {
        let listed = &backups.info.info.backups;
        let wanted: BTreeMap<BackupLabel, &BackupEntry> = listed
            .iter()
            .filter(|entry| self.set.is_none_or(|set| set == entry.label))
            .map(|entry| (entry.label, entry))
            .collect();
        let stored = |entry: &BackupEntry| match self.set {
            Some(_) => entry.sizes.stored,
            None => entry.sizes.stored_delta,
        };
        self.total = wanted.values().map(|entry| stored(entry)).fold(0, u64::saturating_add);
        let (mut read, mut damage, mut missing) = (Read::new(), Damage::new(), Vec::new());
        for label in wanted.into_keys() {
            self.host.stop.check()?;
            if let Some(backup) = self.opened(backups, label, &mut missing)? {
                self.files(&backup, &read, &mut damage)?;
                read.insert(label, Needs::of(backup.manifest()));
            }
        }
        self.without_manifest(missing)?;
        let newest = read.keys().max().copied();
        let at_work = backups.unfinished.iter().copied().filter(|label| Some(*label) > newest);
        for label in at_work.take(if self.set.is_none() { MAX_NAMED } else { 0 }) {
            self.tell(label, BackupStatus::InProgress, None, Vec::new());
        }
        Ok(read)
    }

    /// Reads a manifest. A backup whose manifest is damaged is told at once, one that has none is put aside.
    fn opened(
        &mut self,
        backups: &Backups,
        label: BackupLabel,
        missing: &mut Vec<(BackupLabel, String)>,
    ) -> Result<Option<Arc<Backup>>> {
        let error = match self.stanza.backup(&backups.info.info, label) {
            Ok(backup) => {
                if let Some(error) = backup.from_copy() {
                    let object = object_of(error, "backup.manifest");
                    let number = self.findings.add(FindingKind::TheirCopy, object, with_causes(error));
                    self.findings.limits(number, label);
                }
                return Ok(Some(Arc::new(backup)));
            }
            Err(error) => error,
        };
        let object = object_of(&error, "backup.manifest");
        if error.is_not_found() {
            missing.push((label, object));
        } else {
            let text = with_causes(&self.judge(error)?);
            self.tell_lost(label, BackupStatus::Invalid, object, text);
        }
        Ok(None)
    }

    /// Tells of the backups that have no manifest, once all else has been read. An expire of pgBackRest takes manifests away first, and writes the list
    /// when all are gone: who is no longer listed has expired.
    fn without_manifest(&mut self, missing: Vec<(BackupLabel, String)>) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let listed = self.listed_now()?;
        for (label, object) in missing.into_iter().filter(|(label, _)| listed.contains(label)) {
            self.tell_lost(label, BackupStatus::ManifestMissing, object, "it is missing".to_owned());
        }
        Ok(())
    }

    fn tell_lost(&mut self, label: BackupLabel, status: BackupStatus, object: String, text: String) {
        let number = self.findings.add(FindingKind::TheirManifest, object, text);
        self.findings.hurts(number, label);
        self.tell(label, status, None, Vec::new());
    }

    /// The backups that are listed by now.
    fn listed_now(&self) -> Result<BTreeSet<BackupLabel>> {
        let info = there(self.stanza.backup_info())?;
        Ok(info.iter().flat_map(|info| &info.info.backups).map(|entry| entry.label).collect())
    }

    fn tell(
        &mut self,
        label: BackupLabel,
        status: BackupStatus,
        files: Option<FileCounts>,
        damaged_files: Vec<String>,
    ) {
        let (kind, findings, recovery) = (label.backup_type(), Vec::new(), Vec::new());
        self.told.backups.push(VerifiedBackup {
            label,
            kind,
            status,
            files,
            damaged_files,
            findings,
            recovery,
        });
    }

    /// Looks at the files of a backup, but for those that an older one stores, which were looked at with that.
    fn files(&mut self, backup: &Arc<Backup>, read: &Read, damage: &mut Damage) -> Result<()> {
        let manifest = backup.manifest();
        let is_due = |file: &File| file.reference.is_none_or(|of| !read.contains_key(&of));
        let due: Vec<usize> = (0..manifest.files.len())
            .filter(|at| manifest.files.get(*at).is_some_and(|file| file.size > 0 && is_due(file)))
            .collect();
        let found = if self.quick { self.sizes(backup, &due)? } else { self.read(backup, due)? };
        if !self.settle(backup, found, damage)? {
            return Ok(());
        }
        let mut damaged = Vec::new();
        let files = self.count(backup, damage, &mut damaged);
        let hurt = files.valid != files.checked;
        let status = if hurt { BackupStatus::Invalid } else { BackupStatus::Valid };
        self.tell(manifest.label, status, Some(files), damaged);
        Ok(())
    }

    /// Reads files to their ends, on all cores; gives those that are damaged.
    fn read(&mut self, backup: &Arc<Backup>, due: Vec<usize>) -> Result<Vec<(usize, TheirError)>> {
        let (of, mut found) = (Arc::clone(backup), Vec::new());
        let work = move |at: usize, buffer: &mut [u8]| {
            let Some(file) = of.manifest().files.get(at) else { return (at, Ok(())) };
            (at, of.open(file).and_then(|content| drain(content, buffer)).map(drop))
        };
        let host = self.host.clone();
        in_parallel(&host, self.threads, due, work, |(at, result)| {
            if let Some(file) = backup.manifest().files.get(at) {
                self.told.bytes = self.told.bytes.saturating_add(file.stored_size);
                self.done = self.done.saturating_add(file.stored_size);
                self.told.files += 1;
            }
            let (done, total) = (self.done, self.total.max(self.done));
            self.host.tell(Event::Progress { done, total });
            if let Err(error) = result {
                found.push((at, error));
            }
            Ok(())
        })?;
        found.sort_by_key(|(at, _)| *at);
        Ok(found)
    }

    /// Looks only at sizes: one listing for each directory that a file's object should lie in.
    fn sizes(&self, backup: &Backup, due: &[usize]) -> Result<Vec<(usize, TheirError)>> {
        let mut listed: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut found = Vec::new();
        for at in due {
            self.host.stop.check()?;
            let Some(file) = backup.manifest().files.get(*at) else { continue };
            let stored = match backup.stored(file) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(error) => {
                    found.push((*at, error));
                    continue;
                }
            };
            let (directory, name) = stored.object.rsplit_once('/').unwrap_or(("", &stored.object));
            if !listed.contains_key(directory) {
                let level = self.objects.level(directory);
                let level = level.map_err(|source| TheirError::Unavailable {
                    object: directory.to_owned(),
                    source: source.into(),
                })?;
                listed.insert(directory.to_owned(), level.objects.into_iter().collect());
            }
            let object = stored.object.clone();
            match listed.get(directory).and_then(|names| names.get(name)) {
                None => found.push((*at, TheirError::NotFound { object })),
                Some(size) if *size < stored.range.end => {
                    let reason = format!("it ends at byte {size}, {} are needed", stored.range.end);
                    found.push((*at, TheirError::Damaged { object, reason }));
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    /// Makes findings of what was damaged. False where the backup has expired meanwhile.
    fn settle(
        &mut self,
        backup: &Backup,
        found: Vec<(usize, TheirError)>,
        damage: &mut Damage,
    ) -> Result<bool> {
        let label = backup.manifest().label;
        if found.iter().any(|(_, error)| error.is_not_found()) && !self.listed_now()?.contains(&label) {
            return Ok(false);
        }
        for (at, error) in found {
            let Some(file) = backup.manifest().files.get(at) else { continue };
            let error = self.judge(error)?;
            let text = format!("'{}': {}", file.path, with_causes(&error));
            let number = self.of_files.add(FindingKind::TheirFile, object_of(&error, ""), text);
            if let Some(spot) = spot(backup, file) {
                damage.insert(spot, (cause(&error), number));
            }
        }
        Ok(true)
    }

    /// Counts the files of a backup, wherever they lie, and says which are damaged.
    fn count(&mut self, backup: &Backup, damage: &Damage, damaged: &mut Vec<String>) -> FileCounts {
        let mut counts = FileCounts::default();
        for file in &backup.manifest().files {
            let spot = if damage.is_empty() { None } else { spot(backup, file) };
            let wrong = spot.and_then(|spot| damage.get(&spot)).copied();
            counts.add(wrong.map(|(cause, _)| cause));
            if let Some((_, number)) = wrong {
                self.of_files.hurts(number, backup.manifest().label);
                if damaged.len() < MAX_NAMED {
                    damaged.push(file.path.to_string());
                }
            }
        }
        counts
    }

    /// An error that is about an object: what cannot be read while the repository answers is damaged. Any other ends the verify.
    fn judge(&self, error: TheirError) -> Result<TheirError> {
        if !is_of_object(&error) {
            return Err(error.into());
        }
        self.runtime.block_on(self.store.check_reached())?;
        Ok(error)
    }

    fn archive(
        &mut self,
        archive: &Arc<Archive>,
        backups: Option<&Backups>,
    ) -> Result<BTreeMap<ArchiveId, (WalSegmentSize, Shelf)>> {
        if let Some(error) = &archive.info.from_copy {
            self.findings.add(FindingKind::TheirCopy, object_of(error, "archive.info"), with_causes(error));
        }
        // Of one backup only what it needs and what follows.
        let listed = backups.map_or(&[][..], |backups| &backups.info.info.backups);
        let from =
            listed.iter().find(|entry| Some(entry.label) == self.set).and_then(|entry| entry.wal.start);
        let mut shelves = BTreeMap::new();
        for id in archive.ids()? {
            let mut objects = archive.histories(id)?;
            for directory in archive.directories(id)? {
                self.host.stop.check()?;
                if from.is_none_or(|from| directory >= from.directory()) {
                    objects.extend(archive.files(id, &directory)?);
                }
            }
            shelves.insert(id, self.one_archive(archive, id, objects)?);
        }
        Ok(shelves)
    }

    fn one_archive(
        &mut self,
        archive: &Arc<Archive>,
        id: ArchiveId,
        mut objects: Vec<WalObject>,
    ) -> Result<(WalSegmentSize, Shelf)> {
        let size = segment_size(archive, &objects)?;
        let (mut files, mut shelf) = (FileCounts::default(), Shelf::new());
        let bad = match self.quick {
            true => BTreeMap::new(),
            false => self.read_wal(archive, id, &mut objects, size)?,
        };
        let mut by_file: BTreeMap<WalFileName, Vec<&WalObject>> = BTreeMap::new();
        objects.iter().for_each(|object| by_file.entry(object.file).or_default().push(object));
        for (file, objects) in by_file {
            let mut wrong: Option<Cause> = None;
            for error in objects.iter().filter_map(|object| bad.get(&object.object)) {
                self.findings.add(FindingKind::TheirWal, object_of(error, ""), with_causes(error));
                wrong = Some(cause(error));
            }
            let contents: BTreeSet<_> = objects.iter().map(|object| object.checksum).collect();
            if contents.len() > 1 {
                let names: Vec<_> = objects.iter().map(|object| object.object.as_str()).collect();
                let text = format!("it is there with different content: {}", names.join(", "));
                self.findings.add(FindingKind::TheirWal, file.to_string(), text);
                wrong = wrong.or(Some(Cause::Other));
            }
            // As pgBackRest counts.
            let WalFileName::Segment(segment) = file else { continue };
            files.add(wrong);
            if wrong.is_none()
                && let Some(number) = segment.number(size)
            {
                shelf.entry(segment.timeline()).or_default().add(number);
            }
        }
        let ranges = ranges(&shelf, size);
        self.told.archives.push(VerifiedTheirArchive { id: id.to_string(), ranges, files });
        Ok((size, shelf))
    }

    /// Reads WAL to its end; gives what is damaged or missing, by object. What has expired meanwhile is neither: it is taken from the objects.
    fn read_wal(
        &mut self,
        archive: &Arc<Archive>,
        id: ArchiveId,
        objects: &mut Vec<WalObject>,
        size: WalSegmentSize,
    ) -> Result<BTreeMap<String, TheirError>> {
        let of = Arc::clone(archive);
        let size = u64::from(size.bytes());
        let work = move |object: WalObject, buffer: &mut [u8]| {
            let read = of.open(&object, Some(size)).and_then(|content| drain(content, buffer)).map(drop);
            (object, read)
        };
        let (host, mut bad, mut missed) = (self.host.clone(), BTreeMap::new(), Vec::new());
        in_parallel(&host, self.threads, objects.clone(), work, |(object, read)| {
            self.told.bytes = self.told.bytes.saturating_add(object.stored_size);
            self.told.files += 1;
            match read {
                Ok(()) => {}
                Err(error) if error.is_not_found() => missed.push((object, error)),
                Err(error) => drop(bad.insert(object.object, self.judge(error)?)),
            }
            Ok(())
        })?;
        let listed = listed_again(archive, id, missed.iter().map(|(object, _)| object))?;
        let mut gone = BTreeSet::new();
        for (object, error) in missed {
            match listed.contains(&object.object) {
                true => drop(bad.insert(object.object, self.judge(error)?)),
                false => drop(gone.insert(object.object)),
            }
        }
        objects.retain(|object| !gone.contains(&object.object));
        Ok(bad)
    }

    /// Sees that each backup finds the WAL that makes it consistent, unless it brings its own.
    fn needed_wal(&mut self, read: &Read, shelves: &BTreeMap<ArchiveId, (WalSegmentSize, Shelf)>) {
        for (label, needs) in read {
            let (Some(start), Some(stop)) = (needs.wal.start, needs.wal.stop) else { continue };
            if needs.has_own || !self.told.backups.iter().any(|told| told.label == *label) {
                continue;
            }
            let lacks = match shelves.get(&needs.archive) {
                Some((size, shelf)) => first_missing(start, stop, *size, shelf),
                None => Some(start),
            };
            let Some(segment) = lacks else { continue };
            let text = "it is not in the archive, or damaged".to_owned();
            let number = self.findings.add(FindingKind::TheirWalNeeded, segment.to_string(), text);
            self.findings.hurts(number, *label);
            if let Some(told) = self.told.backups.iter_mut().find(|told| told.label == *label) {
                told.status = BackupStatus::Invalid;
            }
        }
    }
}

fn spot(backup: &Backup, file: &File) -> Option<Spot> {
    let stored = backup.stored(file).ok()??;
    Some((stored.object, stored.range.start))
}

/// The size of the segments of an archive: that of the first which can be read.
fn segment_size(archive: &Archive, objects: &[WalObject]) -> Result<WalSegmentSize> {
    let mut buffer = vec![0; CHUNK];
    for object in objects.iter().filter(|object| matches!(object.file, WalFileName::Segment(_))) {
        let length = archive.open(object, None).and_then(|content| drain(content, &mut buffer));
        let size = match length {
            Ok(length) => u32::try_from(length).ok().and_then(|bytes| WalSegmentSize::new(bytes).ok()),
            Err(error) if is_of_object(&error) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(size) = size {
            return Ok(size);
        }
    }
    Ok(WalSegmentSize::DEFAULT)
}

/// What an archive has by now in the directories of these objects.
fn listed_again<'a>(
    archive: &Archive,
    id: ArchiveId,
    objects: impl Iterator<Item = &'a WalObject>,
) -> Result<BTreeSet<String>> {
    let of = |object: &WalObject| object.file.segment().map(|segment| segment.directory());
    let directories: BTreeSet<Option<String>> = objects.map(of).collect();
    let mut listed = BTreeSet::new();
    for directory in directories {
        let found = match directory {
            Some(directory) => archive.files(id, &directory)?,
            None => archive.histories(id)?,
        };
        listed.extend(found.into_iter().map(|object| object.object));
    }
    Ok(listed)
}

fn ranges(shelf: &Shelf, size: WalSegmentSize) -> Vec<SegmentRange> {
    let rows = shelf.iter().flat_map(|(timeline, rows)| rows.iter().map(|row| (*timeline, row)));
    let range = |(timeline, (first, last)): (TimelineId, (u64, u64))| SegmentRange {
        start: WalSegmentName::from_number(timeline, first, size),
        stop: WalSegmentName::from_number(timeline, last, size),
        segments: last - first + 1,
    };
    rows.map(range).collect()
}

/// The first segment that a backup lacks to be consistent.
fn first_missing(
    start: WalSegmentName,
    stop: WalSegmentName,
    size: WalSegmentSize,
    shelf: &Shelf,
) -> Option<WalSegmentName> {
    let (Some(first), Some(last)) = (start.number(size), stop.number(size)) else { return Some(start) };
    let end = shelf.get(&start.timeline()).and_then(|rows| rows.end_of(first));
    match end {
        Some(end) if end >= last => None,
        Some(end) => Some(WalSegmentName::from_number(start.timeline(), end + 1, size)),
        None => Some(start),
    }
}

/// Reads to the end; gives the length.
fn drain(mut content: Content, buffer: &mut [u8]) -> Result<u64, TheirError> {
    let mut length = 0;
    loop {
        match content.next(buffer)? {
            0 => return Ok(length),
            amount => length += amount as u64,
        }
    }
}

/// Does something with each item, on some threads, and takes the results as they come.
fn in_parallel<T: Send + 'static, R: Send + 'static>(
    host: &Host,
    threads: usize,
    items: Vec<T>,
    work: impl Fn(T, &mut [u8]) -> R + Send + Sync + 'static,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let work = Arc::new(work);
    let make = || {
        let (work, mut buffer) = (Arc::clone(&work), vec![0; CHUNK]);
        move |item| work(item, &mut buffer)
    };
    let pool = Pool::start(threads, make).map_err(Error::io("start a thread for", "workers"))?;
    let (mut out, limit) = (0, threads.max(1) * FILES_A_THREAD);
    for item in items {
        if out == limit {
            host.stop.check()?;
            take(pool.next_result()?)?;
            out -= 1;
        }
        pool.submit(Urgency::Begin, item);
        out += 1;
    }
    for _ in 0..out {
        host.stop.check()?;
        take(pool.next_result()?)?;
    }
    Ok(())
}

/// Whether an error is about one object, not about the repository or the passphrase.
const fn is_of_object(error: &TheirError) -> bool {
    !matches!(
        error,
        TheirError::Encrypted { .. }
            | TheirError::NotEncrypted { .. }
            | TheirError::WrongPassphrase { .. }
            | TheirError::UnsupportedFormat { .. }
    )
}

/// What an error is about, else what is given.
fn object_of(error: &TheirError, other: &str) -> String {
    match error {
        TheirError::NotFound { object }
        | TheirError::Unavailable { object, .. }
        | TheirError::NoCopy { object, .. }
        | TheirError::Encrypted { object }
        | TheirError::NotEncrypted { object }
        | TheirError::WrongPassphrase { object }
        | TheirError::UnsupportedFormat { object, .. }
        | TheirError::Unsupported { object, .. }
        | TheirError::InfoChecksum { object, .. }
        | TheirError::Invalid { object, .. }
        | TheirError::Damaged { object, .. }
        | TheirError::ContentMismatch { object, .. }
        | TheirError::TooLarge { object, .. } => object.clone(),
        _ => other.to_owned(),
    }
}

/// As pgBackRest counts it.
fn cause(error: &TheirError) -> Cause {
    match error {
        TheirError::NotFound { .. } => Cause::Missing,
        TheirError::Damaged { reason, .. } if reason.starts_with("it ends at") => Cause::Size,
        TheirError::Damaged { .. } | TheirError::ContentMismatch { .. } | TheirError::InfoChecksum { .. } => {
            Cause::Checksum
        }
        _ => Cause::Other,
    }
}
