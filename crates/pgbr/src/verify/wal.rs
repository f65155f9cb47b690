//! The archives: every object of every WAL file is read, and what is there is followed from each backup.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use pgbr_manifest::manifest::Summary;
use pgbr_manifest::{
    ArchiveId, BackupLabel, TimelineHistory, TimelineId, WalFileName, WalSegmentName, WalSegmentSize,
};
use pgbr_repo::{ClusterId, LedgerOf, Listed, WalEntry, WalGet, WalLog};

use super::Verify;
use super::books::Books;
use super::budget::{Due, Unit};
use super::report::{Cause, FileCounts, FindingKind, Recovery, RecoveryEnd, SegmentRange, VerifiedArchive};
use crate::error::{Error, Result, with_causes};
use crate::reach::{End, Lack, Point, Reached, Rows, Shelf, Way, plan_reach};

/// How long is waited between looks at what seems to be missing: it may be on its way, or be taken away with what follows.
const LOOKS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// An archive that is to be read.
pub(super) struct Archive {
    pub(super) id: ArchiveId,
    cluster: Option<ClusterId>,
    size: WalSegmentSize,
    /// All backups of it.
    points: Vec<Point>,
    /// Only what is not before this, on its timeline and later ones.
    from: Option<WalSegmentName>,
}

/// An archive as it was read.
struct Look {
    shelf: Shelf,
    files: FileCounts,
    /// The findings about segments and histories that are damaged.
    damage: BTreeMap<(TimelineId, u64), usize>,
    bad_histories: BTreeMap<TimelineId, usize>,
}

/// What one object of a file is.
enum Object {
    Sound([u8; 32]),
    Damaged(Cause, String),
    /// It was not read.
    Unread,
}

impl Verify<'_> {
    /// The archives of the backups that are verified, or all there are.
    pub(super) async fn archives(&mut self, books: &Books, others: &[Summary]) -> Result<Vec<Archive>> {
        let loaded: Vec<_> = books.loaded.values().cloned().collect();
        let asked = self.request.set;
        let mut ids: BTreeSet<ArchiveId> = BTreeSet::new();
        if asked.is_none() {
            ids.extend(self.place.wal.archives().await?);
        }
        let mut points: BTreeMap<ArchiveId, Vec<Point>> = BTreeMap::new();
        let mut sizes: BTreeMap<ArchiveId, WalSegmentSize> = BTreeMap::new();
        for backup in &loaded {
            if let Some(id) = self.archive_of(&backup.summary) {
                sizes.insert(id, backup.body.cluster.wal_segment_size);
            }
        }
        for summary in loaded.iter().map(|backup| &backup.summary).chain(others) {
            let label = summary.label;
            let Some(id) = self.archive_of(summary) else {
                let text =
                    format!("it is of cluster {} of the stanza, which knows no such", summary.database.id);
                let object = super::stock::manifest_name(self.place, &label);
                let number = self.findings.add(FindingKind::Cluster, object, text);
                self.findings.hurts(number, label);
                continue;
            };
            if asked.is_none_or(|asked| asked == label) {
                ids.insert(id);
            }
            let size = sizes.get(&id).copied().unwrap_or(WalSegmentSize::DEFAULT);
            let (start, stop) = (summary.wal.start, summary.wal.stop);
            let (Some(first), Some(last)) = (start.number(size), stop.number(size)) else {
                let text = format!(
                    "segment name {start} or {stop} cannot occur with segments of {} bytes",
                    size.bytes()
                );
                let object = super::stock::manifest_name(self.place, &label);
                let number = self.findings.add(FindingKind::Cluster, object, text);
                self.findings.hurts(number, label);
                continue;
            };
            let (timeline, lsn) = (stop.timeline(), summary.lsn.stop);
            let (inside, begun) = (summary.wal_inside, summary.offline);
            let point = Point { label, timeline, start: first, stop: last, lsn, inside, begun };
            points.entry(id).or_default().push(point);
        }
        let of = |id: ArchiveId| Archive {
            id,
            cluster: self.place.stanza.history().iter().find(|cluster| cluster.archive_id() == id).copied(),
            size: sizes.get(&id).copied().unwrap_or(WalSegmentSize::DEFAULT),
            points: points.remove(&id).unwrap_or_default(),
            from: asked.and_then(|asked| books.loaded.get(&asked)).map(|backup| backup.summary.wal.start),
        };
        Ok(ids.into_iter().map(of).collect())
    }

    fn archive_of(&self, summary: &Summary) -> Option<ArchiveId> {
        let known = self.place.stanza.history().iter();
        let mut known = known.filter(|cluster| cluster.number == summary.database.id);
        known.next().map(ClusterId::archive_id)
    }

    /// Reads what is due of an archive, and follows it from each backup.
    pub(super) async fn archive(&mut self, archive: &Archive, due: &Due) -> Result<VerifiedArchive> {
        let mut look = Look {
            shelf: Shelf::default(),
            files: FileCounts::default(),
            damage: BTreeMap::new(),
            bad_histories: BTreeMap::new(),
        };
        self.histories(archive, &mut look).await?;
        for log in self.logs(archive).await? {
            self.host.stop.check()?;
            self.log(archive, &log, due, &mut look).await?;
            self.logs_seen.insert(LedgerOf::Log(archive.id, log));
        }
        let reached = self.settled(archive, &mut look).await?;
        self.lost_histories(archive, &look);
        for reached in &reached {
            self.reached(archive, &look, reached).await?;
        }
        let name = |timeline, number| WalSegmentName::from_number(timeline, number, archive.size);
        let rows =
            look.shelf.rows.iter().flat_map(|(timeline, rows)| rows.iter().map(move |row| (*timeline, row)));
        let range = |(timeline, (first, last)): (TimelineId, (u64, u64))| SegmentRange {
            start: name(timeline, first),
            stop: name(timeline, last),
            segments: (last - first).saturating_add(1),
        };
        Ok(VerifiedArchive { id: archive.id, ranges: rows.map(range).collect(), files: look.files })
    }

    /// The directories of an archive that hold something that is asked for.
    async fn logs(&self, archive: &Archive) -> Result<Vec<WalLog>> {
        let wanted = |log: &WalLog| {
            archive.from.is_none_or(|from| {
                let first = from.on_timeline(log.timeline());
                log.timeline() >= from.timeline() && log.span().is_some_and(|(_, last)| last >= first)
            })
        };
        Ok(self.place.wal.logs(archive.id).await?.into_iter().filter(wanted).collect())
    }

    /// The histories: they are small and tell the way, so all of them are read.
    async fn histories(&mut self, archive: &Archive, look: &mut Look) -> Result<()> {
        let (entries, strange) = self.place.wal.contents(archive.id, None).await?;
        strange.into_iter().for_each(|object| self.stock.strange.add(object));
        let mut by_file: BTreeMap<WalFileName, Vec<WalEntry>> = BTreeMap::new();
        entries.into_iter().for_each(|entry| by_file.entry(entry.file).or_default().push(entry));
        for (file, entries) in by_file {
            let WalFileName::History(timeline) = file else { continue };
            let mut objects = Vec::new();
            for entry in entries {
                let object = self.object(archive, &entry).await?;
                objects.extend(object.map(|object| (entry.key.to_string(), object)));
            }
            let fault = self.file(archive, look, &file, objects);
            let parsed = match self.place.wal.get(archive.id, &file).await {
                Ok(WalGet::Found(found)) => match TimelineHistory::parse(timeline, &found.content) {
                    Ok(history) => Some(history),
                    Err(error) => {
                        let number =
                            self.findings.add(FindingKind::WalDamaged, file.to_string(), with_causes(&error));
                        look.bad_histories.insert(timeline, number);
                        None
                    }
                },
                Ok(WalGet::Missing) => None,
                Err(error) => {
                    self.damaged_wal(error.into(), &file.to_string()).await?;
                    None
                }
            };
            match (parsed, fault) {
                (Some(history), _) => drop(look.shelf.histories.insert(timeline, history)),
                (None, Some(number)) => drop(look.bad_histories.insert(timeline, number)),
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Passes over an error that says what [`Verify::file`] has told.
    async fn damaged_wal(&mut self, error: Error, name: &str) -> Result<()> {
        if let Error::Repo(pgbr_repo::Error::WalAmbiguous { .. }) = &error {
            return Ok(());
        }
        if !crate::load::is_unreadable(&error) {
            let text = self.unreadable(error).await?;
            self.findings.add(FindingKind::Unreadable, name, text);
        }
        Ok(())
    }

    /// Reads what is due of the archives, for a run with a budget: what is damaged is kept for when all is told.
    pub(super) async fn wal_due(&mut self, archive: &Archive, due: &Due) -> Result<()> {
        for log in self.logs(archive).await? {
            self.host.stop.check()?;
            if due.may_take_wal(archive.id, &log) {
                let (units, _) = self.units(archive, &log).await?;
                self.read_log(archive, units, due).await?;
            }
        }
        Ok(())
    }

    /// Reads what is due of one directory, and takes note of all that is in it.
    async fn log(&mut self, archive: &Archive, log: &WalLog, due: &Due, look: &mut Look) -> Result<()> {
        let (units, strange) = self.units(archive, log).await?;
        strange.into_iter().for_each(|object| self.stock.strange.add(object));
        let counted: Vec<Unit> = units.keys().cloned().collect();
        for (file, objects) in self.read_log(archive, units, due).await? {
            self.file(archive, look, &file, objects);
        }
        counted.iter().for_each(|unit| self.budget.count(unit));
        if matches!(due, Due::All) {
            self.keep_ledgers().await?;
        }
        Ok(())
    }

    /// What lies in one directory, as far as it is asked for, by segment; and what is no WAL.
    async fn units(
        &self,
        archive: &Archive,
        log: &WalLog,
    ) -> Result<(BTreeMap<Unit, Vec<WalEntry>>, Vec<Listed>)> {
        let (entries, strange) = self.place.wal.contents(archive.id, Some(log)).await?;
        let mut units: BTreeMap<Unit, Vec<WalEntry>> = BTreeMap::new();
        for entry in entries {
            let asked = |segment: WalSegmentName| {
                archive.from.is_none_or(|from| segment >= from.on_timeline(segment.timeline()))
            };
            if entry.file.segment().is_some_and(asked)
                && let Some(unit) = unit(archive, &entry)
            {
                units.entry(unit).or_default().push(entry);
            }
        }
        Ok((units, strange))
    }

    /// Reads what is due, and gives the objects of each file.
    async fn read_log(
        &mut self,
        archive: &Archive,
        units: BTreeMap<Unit, Vec<WalEntry>>,
        due: &Due,
    ) -> Result<BTreeMap<WalFileName, Vec<(String, Object)>>> {
        let (wal, at_once, quick) = (self.place.wal.clone(), self.at_once(), self.request.quick);
        // Whether a unit is due is asked when its turn comes: the budget may be spent by then.
        let reads = units.into_iter().map(|(unit, entries)| {
            let takes = !quick && due.takes(&unit, entries.iter().map(|entry| entry.size).sum());
            let wal = wal.clone();
            async move {
                let mut read = Vec::new();
                for entry in entries {
                    let trailer = if takes { Some(wal.verify(&entry).await) } else { None };
                    read.push((entry, trailer));
                }
                (unit, read, takes)
            }
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(at_once);
        let mut by_file: BTreeMap<WalFileName, Vec<(String, Object)>> = BTreeMap::new();
        while let Some((unit, read, takes)) = reads.next().await {
            self.host.stop.check()?;
            let mut sound = true;
            for (entry, trailer) in read {
                let key = entry.key.to_string();
                let object = match trailer {
                    None => Some(self.not_read(&entry)),
                    Some(trailer) => self.read(archive, &entry, trailer.map_err(Error::from)).await?,
                };
                if let Some(Object::Damaged(cause, text)) = &object {
                    sound = false;
                    if takes {
                        self.wal_damage.insert(key.clone(), (*cause, text.clone()));
                    }
                }
                by_file.entry(entry.file).or_default().extend(object.map(|object| (key, object)));
            }
            match (takes, sound) {
                (true, true) => self.budget.verified(&unit),
                (true, false) => self.budget.damaged(&unit),
                (false, _) => {}
            }
        }
        Ok(by_file)
    }

    /// An object that is not read now: what is known of it already, or what its size tells.
    fn not_read(&self, entry: &WalEntry) -> Object {
        match self.wal_damage.get(entry.key.as_ref()) {
            Some((cause, text)) => Object::Damaged(*cause, text.clone()),
            None if entry.is_too_small() => {
                Object::Damaged(Cause::Size, format!("it has {} bytes, fewer than any WAL file", entry.size))
            }
            None => Object::Unread,
        }
    }

    /// One object, read now.
    async fn object(&mut self, archive: &Archive, entry: &WalEntry) -> Result<Option<Object>> {
        let read = self.place.wal.verify(entry).await;
        self.read(archive, entry, read.map_err(Error::from)).await
    }

    /// What was read of an object; none where it is gone.
    async fn read(
        &mut self,
        archive: &Archive,
        entry: &WalEntry,
        read: Result<pgbr_codec::WalTrailer>,
    ) -> Result<Option<Object>> {
        let trailer = match read {
            Ok(trailer) => trailer,
            Err(Error::Repo(error)) if error.is_not_found() => return Ok(None),
            Err(error) => {
                let (cause, text) = match crate::load::is_unreadable(&error) {
                    true => (Cause::Checksum, with_causes(&error)),
                    false => (Cause::Other, self.unreadable(error).await?),
                };
                return Ok(Some(Object::Damaged(cause, text)));
            }
        };
        self.counts.wal += 1;
        self.counts.bytes += entry.size;
        self.progress();
        Ok(Some(wrong(archive, entry, &trailer).unwrap_or(Object::Sound(trailer.digest))))
    }

    /// Takes note of a file by what its objects are. Gives the finding where none of them serves.
    fn file(
        &mut self,
        archive: &Archive,
        look: &mut Look,
        file: &WalFileName,
        objects: Vec<(String, Object)>,
    ) -> Option<usize> {
        if objects.is_empty() {
            return None;
        }
        let contents: BTreeSet<[u8; 32]> = objects
            .iter()
            .filter_map(|(_, object)| if let Object::Sound(digest) = object { Some(*digest) } else { None })
            .collect();
        let serves = objects.iter().any(|(_, object)| !matches!(object, Object::Damaged(..)));
        let several = contents.len() > 1 && !matches!(file, WalFileName::Partial(_));
        let mut cause = None;
        let mut finding = None;
        for (key, object) in &objects {
            if let Object::Damaged(of, text) = object {
                let kind = if serves { FindingKind::WalSpare } else { FindingKind::WalDamaged };
                finding = Some(self.findings.add(kind, key, text));
                cause = Some(*of);
            }
        }
        if several {
            let text = format!("{} sound objects of it hold different things", contents.len());
            finding = Some(self.findings.add(FindingKind::WalAmbiguous, file.to_string(), text));
            cause = Some(Cause::Other);
        }
        let unusable = !serves || several;
        look.files.add(cause.filter(|_| unusable));
        if let WalFileName::BackupHistory(segment, _) = file {
            look.shelf.marks.extend(segment.number(archive.size).map(|number| (segment.timeline(), number)));
        }
        if let WalFileName::Segment(segment) = file
            && let Some(number) = segment.number(archive.size)
        {
            let timeline = segment.timeline();
            match finding.filter(|_| unusable) {
                Some(finding) => {
                    look.shelf.damaged.insert((timeline, number));
                    look.damage.insert((timeline, number), finding);
                }
                None => look.shelf.rows.entry(timeline).or_default().add(number),
            }
        }
        finding.filter(|_| unusable)
    }

    /// Follows the WAL from each backup, once more where something seems to be missing: segments may come out of order, and expire may be
    /// taking them away.
    async fn settled(&mut self, archive: &Archive, look: &mut Look) -> Result<Vec<Reached>> {
        let mut points = archive.points.clone();
        for wait in LOOKS {
            let reached = plan_reach(&look.shelf, &points, archive.size);
            if !reached.iter().any(lacks_something) {
                return Ok(reached);
            }
            self.host.clock.sleep(wait).await;
            look.shelf.rows = self.present(archive, &look.shelf).await?;
            let mut left = Vec::new();
            for point in points {
                if self.place.backups.exists(&point.label).await? {
                    left.push(point);
                }
            }
            points = left;
        }
        Ok(plan_reach(&look.shelf, &points, archive.size))
    }

    /// The segments that are there now, without those that are damaged.
    async fn present(&self, archive: &Archive, shelf: &Shelf) -> Result<BTreeMap<TimelineId, Rows>> {
        let mut rows: BTreeMap<TimelineId, Rows> = BTreeMap::new();
        for log in self.logs(archive).await? {
            self.host.stop.check()?;
            for entry in self.place.wal.files(archive.id, &log).await? {
                let WalFileName::Segment(segment) = entry.file else { continue };
                let Some(number) = segment.number(archive.size) else { continue };
                let timeline = segment.timeline();
                if !shelf.damaged.contains(&(timeline, number)) && !entry.is_too_small() {
                    rows.entry(timeline).or_default().add(number);
                }
            }
        }
        Ok(rows)
    }

    /// Timelines with segments and without a history: who comes from an earlier one does not find the way.
    fn lost_histories(&mut self, archive: &Archive, look: &Look) {
        let earlier = |timeline: TimelineId| {
            let wanted = self.request.set;
            let points =
                archive.points.iter().filter(move |point| wanted.is_none_or(|set| set == point.label));
            points.filter(move |point| point.timeline < timeline).map(|point| point.label).collect::<Vec<_>>()
        };
        let mut lost = Vec::new();
        for (timeline, _) in look.shelf.rows.iter().filter(|(timeline, _)| timeline.as_u32() > 1) {
            let known =
                look.shelf.histories.contains_key(timeline) || look.bad_histories.contains_key(timeline);
            if !known {
                lost.push((timeline.history_file(), None, earlier(*timeline)));
            }
        }
        for (timeline, number) in &look.bad_histories {
            lost.push((timeline.history_file(), Some(*number), earlier(*timeline)));
        }
        for (file, number, labels) in lost {
            if labels.is_empty() && number.is_none() {
                continue;
            }
            let number = number.unwrap_or_else(|| {
                let text =
                    "the history of a timeline that has WAL here is missing: nobody finds the way to it";
                self.findings.add(FindingKind::HistoryMissing, file, text)
            });
            labels.into_iter().for_each(|label| self.findings.limits(number, label));
        }
    }

    /// Notes how far recovery from one backup goes, and why not further.
    async fn reached(&mut self, archive: &Archive, look: &Look, reached: &Reached) -> Result<()> {
        let label = reached.label;
        if self.request.set.is_some_and(|set| set != label) {
            return Ok(());
        }
        let Some(point) = archive.points.iter().find(|point| point.label == label) else { return Ok(()) };
        for (number, lack) in &reached.lacks {
            let known =
                look.damage.get(&(point.timeline, *number)).copied().filter(|_| *lack == Lack::Damaged);
            let segment = WalSegmentName::from_number(point.timeline, *number, archive.size);
            let finding = known.unwrap_or_else(|| {
                let text = "it is missing in the archive, and a backup needs it to become consistent";
                self.findings.add(FindingKind::WalNeeded, segment.to_string(), text)
            });
            self.findings.hurts(finding, label);
        }
        for way in &reached.ways {
            self.way(archive, look, label, way).await?;
        }
        Ok(())
    }

    async fn way(&mut self, archive: &Archive, look: &Look, label: BackupLabel, way: &Way) -> Result<()> {
        let name = |timeline, number| WalSegmentName::from_number(timeline, number, archive.size);
        let missing = |timeline, first: u64, last: u64| {
            let count = (last - first).saturating_add(1);
            match count {
                1 => "it is missing in the archive".to_owned(),
                _ => format!("{count} segments up to {} are missing in the archive", name(timeline, last)),
            }
        };
        let (end, finding) = match way.end {
            End::Archive => (RecoveryEnd::ArchiveEnds, None),
            End::Expired(timeline, first, last) => {
                let text = format!("{}, as retention leaves it", missing(timeline, first, last));
                let number =
                    self.findings.add(FindingKind::WalExpired, name(timeline, first).to_string(), text);
                (RecoveryEnd::Expired, Some(number))
            }
            End::Gap(timeline, first, last) => {
                let behind = archive
                    .points
                    .iter()
                    .any(|p| p.timeline == timeline && p.stop.checked_add(1) == Some(first));
                let doubt = behind && self.place.is_busy(self.host).await?;
                let kind = if doubt { FindingKind::WalDoubt } else { FindingKind::WalGap };
                let text = format!("{}, and later ones are there", missing(timeline, first, last));
                let number = self.findings.add(kind, name(timeline, first).to_string(), text);
                (RecoveryEnd::Gap, Some(number))
            }
            End::Damaged(timeline, number) => {
                (RecoveryEnd::Damaged, look.damage.get(&(timeline, number)).copied())
            }
        };
        finding.into_iter().for_each(|number| self.findings.limits(number, label));
        let last = Some(name(way.last.0, way.last.1));
        self.recovery.entry(label).or_default().push(Recovery { timeline: way.to, last, end });
        Ok(())
    }
}

fn lacks_something(reached: &Reached) -> bool {
    reached.lacks.iter().any(|(_, lack)| *lack == Lack::Missing)
        || reached.ways.iter().any(|way| matches!(way.end, End::Gap(..)))
}

/// What a sound object cannot be.
fn wrong(archive: &Archive, entry: &WalEntry, trailer: &pgbr_codec::WalTrailer) -> Option<Object> {
    let size = u64::from(archive.size.bytes());
    if matches!(entry.file, WalFileName::Segment(_)) && trailer.size != size && !archive.points.is_empty() {
        let text = format!("it holds {} bytes, and a segment has {size}", trailer.size);
        return Some(Object::Damaged(Cause::Size, text));
    }
    let own = archive.cluster.map(|cluster| cluster.system_id.as_u64());
    match (trailer.system_id, own) {
        (Some(found), Some(own)) if found != own => {
            let text = format!("it is of the cluster with system identifier {found}, not {own}");
            Some(Object::Damaged(Cause::Other, text))
        }
        _ => None,
    }
}

/// The segment that an object counts with.
fn unit(archive: &Archive, entry: &WalEntry) -> Option<Unit> {
    let log = WalLog::of(&entry.file)?;
    let name = entry.file.segment()?.to_string();
    let number = u32::from_str_radix(name.get(16..)?, 16).ok()?;
    Some(Unit::wal(archive.id, log, number))
}
