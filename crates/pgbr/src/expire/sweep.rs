//! Packs that no manifest names and no pin covers, and files that interrupted puts have left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use pgbr_manifest::BackupLabel;
use pgbr_manifest::retention::{Asked, Candidate};
use pgbr_repo::{Drills, LabelObjects, Notes, PackObject, PinState, RemovedManifest, Undeleted, Watch};

use super::stock::{Stock, is_dead};
use super::{Expire, ExpireReport, RunFate};
use crate::error::Result;
use crate::load::{is_unreadable, load};
use crate::observe::Event;

/// How many deletions are asked for between two looks at whether to stop.
pub(super) const DELETIONS: usize = 1000;
/// How old a staging file must be, in seconds, where its owner may be alive: one that is being put changes or goes away within seconds.
const STAGING_AGE: i64 = 86_400;

/// What is to be done about the packs under a label.
enum Fate {
    /// A manifest names all of them.
    Named,
    /// They may be of use.
    Stay(&'static str),
    /// They go, except those of runs that a manifest names or a pin covers; what runs said of themselves goes, except where a pin covers it.
    Go { named: BTreeSet<u64>, pinned: BTreeSet<u64> },
}

/// Labels without a manifest that keep their packs.
struct Spared {
    /// The next backup may take it up.
    resumable: Option<BackupLabel>,
    /// Backups build on them: their manifests were not removed by expire, which begins with the dependants, and may be found again.
    needed: BTreeSet<BackupLabel>,
}

/// What the backups that exist build on, as far as they tell.
fn needed(stock: &Stock, existing: &BTreeSet<BackupLabel>) -> BTreeSet<BackupLabel> {
    let dependants = stock.candidates.iter().filter(|candidate| existing.contains(&candidate.label));
    let named =
        |candidate: &Candidate| [Some(candidate.label.full()), candidate.facts.and_then(|facts| facts.prior)];
    dependants.flat_map(named).flatten().collect()
}

impl Expire<'_> {
    /// Steps 2 and 3. True where others were at work, so that what was planned may not hold any more.
    pub(super) async fn sweep(
        &self,
        stock: &Stock,
        removed: &BTreeMap<BackupLabel, RemovedManifest>,
        watch: &mut Watch,
        report: &mut ExpireReport,
    ) -> Result<bool> {
        if self.lease.is_some() && stock.tidy && removed.is_empty() && !self.place.repo.store().is_local() {
            // Each look is a request there. What an expire has left behind that broke off is taken away with what goes next.
            return Ok(false);
        }
        if self.lease.is_some() && !stock.pins.is_empty() {
            self.break_dead_pins(watch).await?;
        }
        let survey = self.place.backups.survey().await?;
        let pins = match self.lease {
            Some(_) => self.pins.list().await?,
            None => stock.pins.iter().filter(|pin| !is_dead(self.host, pin, watch)).cloned().collect(),
        };
        let mut existing = self.existing(&survey).await?;
        let back = self.put_parents_back(stock, removed, &mut existing).await?;
        // In a dry run nothing was removed, and all is told as if it had been.
        let gone: BTreeSet<BackupLabel> = match self.lease {
            Some(_) => removed.keys().copied().collect(),
            None => report.backups.iter().filter(|backup| !backup.keep).map(|backup| backup.label).collect(),
        };
        existing.retain(|label| self.lease.is_some() || !gone.contains(label));
        let spared =
            Spared { resumable: self.resumable(&survey, &existing).await?, needed: needed(stock, &existing) };
        // Before the packs: a directory with such a file in it is not empty.
        self.sweep_leftovers(&pins, report).await?;
        for (label, objects) in &survey {
            self.host.stop.check()?;
            let fate = self.fate(*label, objects, &existing, &spared, &pins).await?;
            self.carry_out(*label, objects, fate, gone.contains(label), report).await?;
        }
        for label in stock.unfinished.iter().filter(|label| !survey.contains_key(label)) {
            // Directories that an expire which broke off has emptied.
            if self.lease.is_some() {
                self.place.backups.tidy(label).await?;
            }
        }
        if self.lease.is_some() {
            self.sweep_notes(&existing).await?;
            self.sweep_drills(&existing).await?;
        }
        let pinned = gone.iter().any(|label| pins.iter().any(|pin| pin.covers_label(label)));
        let strangers = existing.iter().any(|label| !stock.candidates.iter().any(|c| c.label == *label));
        Ok(back || pinned || strangers)
    }

    /// The backups that exist, after the pins were read. A manifest that the survey saw is there: all that were to go went before it.
    async fn existing(&self, survey: &BTreeMap<BackupLabel, LabelObjects>) -> Result<BTreeSet<BackupLabel>> {
        let mut existing = BTreeSet::new();
        for label in self.place.backups.list_labels().await? {
            let seen = survey.get(&label).is_some_and(|objects| objects.manifest);
            if seen || self.place.backups.exists(&label).await? {
                existing.insert(label);
            }
        }
        Ok(existing)
    }

    async fn break_dead_pins(&self, watch: &mut Watch) -> Result<()> {
        for pin in self.pins.list().await? {
            if is_dead(self.host, &pin, watch) {
                self.pins.break_stale(&pin.id).await?;
                let holder =
                    pin.record.map_or_else(|| "nobody knows whom".to_owned(), |record| record.holder);
                self.host.tell(Event::Note {
                    text: format!("removed the pin of a process that has ended: {holder}"),
                });
            }
        }
        Ok(())
    }

    /// A backup that was committed while what it builds on was removed gets that back. Its writer has seen neither: only a lost lease lets the
    /// two run side by side.
    async fn put_parents_back(
        &self,
        stock: &Stock,
        removed: &BTreeMap<BackupLabel, RemovedManifest>,
        existing: &mut BTreeSet<BackupLabel>,
    ) -> Result<bool> {
        let known = |label: &BackupLabel| stock.candidates.iter().any(|candidate| candidate.label == *label);
        let news: Vec<BackupLabel> = existing.iter().copied().filter(|label| !known(label)).collect();
        let mut needed: BTreeSet<BackupLabel> = BTreeSet::new();
        for label in news {
            match load(&self.place.backups, label).await {
                Ok(backup) => needed.extend(backup.summary.prior),
                // Nobody knows which one it builds on.
                Err(error) if is_unreadable(&error) => {
                    needed.extend(
                        removed.keys().filter(|other| other.full() == label.full() && **other < label),
                    );
                }
                Err(crate::Error::Repo(error)) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let mut back = false;
        // Newest first: each names what it builds on in turn.
        while let Some(label) = needed.pop_last() {
            let Some(manifest) = removed.get(&label) else { continue };
            self.place.backups.put_back(manifest).await?;
            self.host
                .warn(format!("backup {label} was put back: a backup that builds on it was made meanwhile"));
            existing.insert(label);
            back = true;
            let facts = stock.candidates.iter().find(|c| c.label == label).and_then(|c| c.facts);
            needed.extend(facts.and_then(|facts| facts.prior));
        }
        Ok(back)
    }

    /// The unfinished backup that the next run may take up: the newest of all labels, with what it builds on.
    async fn resumable(
        &self,
        survey: &BTreeMap<BackupLabel, LabelObjects>,
        existing: &BTreeSet<BackupLabel>,
    ) -> Result<Option<BackupLabel>> {
        let newest = survey.keys().chain(existing).copied().max_by_key(|label| (label.time(), *label));
        let Some(newest) = newest.filter(|newest| !existing.contains(newest)) else { return Ok(None) };
        if self.request.asked == Asked::Set(newest) {
            return Ok(None);
        }
        let runs = self.place.backups.list_runs(&newest).await?;
        let Some(facts) = runs.into_iter().rev().find_map(|run| run.facts) else { return Ok(None) };
        let whole = facts.parent.is_none_or(|parent| existing.contains(&parent.label));
        Ok(whole.then_some(newest))
    }

    async fn fate(
        &self,
        label: BackupLabel,
        objects: &LabelObjects,
        existing: &BTreeSet<BackupLabel>,
        spared: &Spared,
        pins: &[PinState],
    ) -> Result<Fate> {
        let runs: BTreeSet<u64> =
            objects.packs.iter().map(|pack| pack.attempt).chain(objects.runs.iter().copied()).collect();
        if pins.iter().any(|pin| pin.covers_label(&label)) {
            return Ok(Fate::Stay("a running command uses it"));
        }
        let pinned: BTreeSet<u64> =
            runs.iter().copied().filter(|run| pins.iter().any(|pin| pin.covers_attempt(*run))).collect();
        if !existing.contains(&label) {
            return Ok(match () {
                () if spared.resumable == Some(label) => Fate::Stay("the next backup may resume it"),
                () if spared.needed.contains(&label) => {
                    Fate::Stay("its manifest is lost, and a backup builds on it")
                }
                () => Fate::Go { named: BTreeSet::new(), pinned },
            });
        }
        if objects.is_of_one_run() {
            return Ok(Fate::Named);
        }
        match load(&self.place.backups, label).await {
            Ok(backup) => {
                let named = backup.body.layers.iter().map(|layer| layer.attempt).collect();
                Ok(Fate::Go { named, pinned })
            }
            Err(error) if is_unreadable(&error) => Ok(Fate::Stay("its manifest cannot be read")),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(
        &self,
        label: BackupLabel,
        objects: &LabelObjects,
        fate: Fate,
        expired: bool,
        report: &mut ExpireReport,
    ) -> Result<()> {
        let (going, reason): (Vec<PackObject>, _) = match &fate {
            Fate::Named => return Ok(()),
            Fate::Stay(reason) => (Vec::new(), *reason),
            Fate::Go { named, pinned } => {
                let goes =
                    |pack: &&PackObject| !named.contains(&pack.attempt) && !pinned.contains(&pack.attempt);
                (objects.packs.iter().filter(goes).copied().collect(), "nothing needs it")
            }
        };
        let stays = matches!(fate, Fate::Stay(_));
        if !expired && (stays && !objects.manifest || !going.is_empty()) {
            let bytes = |packs: &[PackObject]| packs.iter().map(|pack| pack.size).sum();
            let packs = if stays { &objects.packs } else { &going };
            let fate = RunFate { label, packs: packs.len() as u64, bytes: bytes(packs), keep: stays, reason };
            self.host.tell(Event::UnfinishedRun { fate: fate.clone() });
            report.unfinished.push(fate);
        }
        going.iter().for_each(|pack| report.packs.add(pack.size));
        if let (Some(_), Fate::Go { pinned, .. }) = (self.lease, &fate) {
            self.remove(label, objects, &going, pinned, report).await?;
        }
        if expired && !stays {
            self.host.tell(Event::BackupExpired { label });
        }
        Ok(())
    }

    async fn remove(
        &self,
        label: BackupLabel,
        objects: &LabelObjects,
        going: &[PackObject],
        pinned: &BTreeSet<u64>,
        report: &mut ExpireReport,
    ) -> Result<()> {
        self.check().await?;
        let backups = &self.place.backups;
        let mut left = Vec::new();
        for packs in going.chunks(DELETIONS) {
            self.host.stop.check()?;
            left.extend(backups.delete_packs(&label, packs).await?);
        }
        report.packs.count = report.packs.count.saturating_sub(left.len() as u64);
        // What a run said of itself is of use while its backup is not there and may be taken up.
        for run in objects.runs.iter().filter(|run| !pinned.contains(run)) {
            match backups.delete_run(&label, *run).await {
                // It is as the packs, of which it tells: rubbish that the store will not let go of.
                Err(pgbr_repo::Error::Permission { .. }) if !left.is_empty() => {}
                other => other?,
            }
        }
        self.tell_undeleted(&format!("packs of backup {label}"), &left, report);
        Ok(backups.tidy(&label).await?)
    }

    /// Tells what the store would not let go of. It is rubbish, and each later expire tries again.
    pub(super) fn tell_undeleted(&self, what: &str, left: &[Undeleted], report: &mut ExpireReport) {
        let Some(first) = left.first() else { return };
        report.undeleted += left.len() as u64;
        let why = std::error::Error::source(&first.error).map(|source| format!(": {source}"));
        self.host.warn(format!(
            "unable to remove {} of the {what}, the first is '{}': {}{}",
            left.len(),
            first.key,
            first.error,
            why.unwrap_or_default()
        ));
    }

    /// Notes on backups that are gone, also by an earlier expire that did not come so far.
    async fn sweep_notes(&self, existing: &BTreeSet<BackupLabel>) -> Result<()> {
        let notes = Notes::new(&self.place.repo, self.place.stanza.name());
        for label in notes.labels().await?.iter().filter(|label| !existing.contains(label)) {
            notes.remove_all(label).await?;
        }
        Ok(())
    }

    /// The same for what became of drills.
    async fn sweep_drills(&self, existing: &BTreeSet<BackupLabel>) -> Result<()> {
        let drills = Drills::new(&self.place.repo, self.place.stanza.name());
        for label in drills.labels().await?.iter().filter(|label| !existing.contains(label)) {
            drills.remove_all(label).await?;
        }
        Ok(())
    }

    /// Staging files of a local store. Below the backups only a writer with a pin puts anything, and others wait for our lease.
    async fn sweep_leftovers(&self, pins: &[PinState], report: &mut ExpireReport) -> Result<()> {
        let writers =
            pins.iter().any(|pin| pin.record.as_ref().is_none_or(|record| record.attempt.is_some()));
        let mut leftovers = if writers { Vec::new() } else { self.place.backups.leftovers().await? };
        let limit = self.host.now_seconds().saturating_sub(STAGING_AGE);
        let is_old = |modified: std::time::SystemTime| {
            let since = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            i64::try_from(since).is_ok_and(|since| since < limit)
        };
        leftovers.extend(self.place.wal.leftovers().await?.into_iter().filter(|file| is_old(file.modified)));
        for leftover in leftovers {
            report.leftovers.add(leftover.size);
            if self.lease.is_some() {
                self.place.repo.store().remove_leftover(leftover).await?;
            }
        }
        Ok(())
    }
}
