//! Verify: what is in a repository is read and compared with what it must be, before somebody needs it.
//!
//! 1. List what lies in the stanza; pin the backups; *then* open their manifests, and see which build on which.
//! 2. Read every pack once, whatever builds on it: every frame must open, every grain have its hash, every footer agree with index and frame
//!    table (`packs.rs`, `pack.rs`).
//! 3. Put the list of files of each backup together over its chain, as a restore does: who takes a grain from a damaged frame is hurt, and
//!    nobody else; the list must be the one that the manifest says (`lists.rs`).
//! 4. Read every object of every WAL file, and follow the WAL from each backup (`wal.rs`, the crate's `reach.rs`).
//! 5. Tell what nothing needs (`stock.rs`), and what all of it means (`report.rs`).
//!
//! No lease is taken: backups and WAL that come meanwhile are left out, and a backup that expires meanwhile is no finding.

mod books;
mod budget;
mod lists;
mod pack;
mod packs;
mod report;
mod stock;
mod theirs;
mod wal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use pgbr_manifest::manifest::Summary;
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{Error as RepoError, LedgerOf, Ledgers, Pin, PinKind};

use self::books::{Books, is_of_object};
pub use self::budget::VerifyBudget;
use self::budget::{Book, Budget, Due, Unit};
use self::lists::Listed;
use self::packs::Cases;
pub use self::report::{
    BackupStatus, FileCounts, Finding, FindingKind, FindingLevel, Recovery, RecoveryEnd, SegmentRange,
    Unneeded, VerifiedArchive, VerifiedBackup, VerifyCounts, VerifyCoverage, VerifyReport,
};
use self::report::{Cause, Findings};
use self::stock::Stock;
use self::theirs::{TheirPart, sealed, verify_theirs};
pub use self::theirs::{VerifiedTheirArchive, VerifiedTheirs};
use self::wal::Archive;
use crate::error::{Error, Result, with_causes};
use crate::held::Held;
use crate::host::Host;
use crate::load::{self, Backup};
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace, is_absent};
use crate::witness::{self, VerifyWitness};

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// One backup with all that it builds on, and the WAL since; none: everything.
    pub set: Option<BackupLabel>,
    /// Whether only existence and sizes are looked at: manifests and histories are read, and nothing else.
    pub quick: bool,
    /// How much is read, beginning with what was read longest ago; none: everything.
    pub budget: Option<VerifyBudget>,
    /// A record elsewhere of what must be there.
    pub witness: Option<VerifyWitness>,
    /// How many packs and WAL files are looked at, at once.
    pub threads: usize,
}

/// Verifies a stanza in one repository. What is wrong is told in the report.
///
/// # Errors
/// When the repository or the stanza cannot be opened, or fails meanwhile; [`Error::UnknownBackup`]; [`Error::BadWitness`].
pub async fn verify(host: &Host, request: VerifyRequest) -> Result<VerifyReport> {
    let mut findings = Findings::default();
    let theirs = verify_theirs(host, &request, &mut findings).await;
    let opened = request.repo.open_to_read(host, &request.stanza, "verify what is stored").await;
    let place = match (opened, &theirs) {
        (Ok(place), _) => place,
        // Only pgBackRest has something there, or may have.
        (Err(error), Ok(TheirPart::Nothing)) => return Err(error),
        (Err(error), _) if is_absent(&error) => {
            return report_of_theirs(request, theirs?, findings);
        }
        (Err(error), _) => return Err(error),
    };
    let stock = Stock::take(&place).await?;
    if request.set.is_some_and(|set| !stock.backups().contains(&set)) {
        return report_of_theirs(request, theirs?, findings);
    }
    let theirs = theirs.or_else(|error| sealed(error, &request, &mut findings))?;
    let labels = wanted(&place, &request, &stock).await?;
    let pin = pin(host, &place, &labels).await?;
    let verified = async {
        let book = read_ledgers(host, &place, &request, &stock).await?;
        let mut verify = Verify::new(host, &place, &request, stock, book);
        verify.findings = findings;
        verify.run(labels).await
    };
    let verified = verified.await;
    if let Some(pin) = pin {
        pin.release(host).await;
    }
    let report = verified?;
    let theirs = theirs.told(&report.findings);
    Ok(VerifyReport { theirs, ..report })
}

/// Where nothing of ours was asked for.
fn report_of_theirs(request: VerifyRequest, theirs: TheirPart, findings: Findings) -> Result<VerifyReport> {
    let (findings, findings_left_out) = findings.finish(&BTreeSet::new());
    let theirs = theirs.told(&findings);
    if let Some(label) = request.set.filter(|_| theirs.is_none()) {
        return Err(Error::UnknownBackup { label });
    }
    Ok(VerifyReport {
        stanza: request.stanza.to_string(),
        set: request.set,
        quick: request.quick,
        clean: !findings.iter().any(|finding| finding.level == FindingLevel::Error),
        backups: Vec::new(),
        archives: Vec::new(),
        findings,
        findings_left_out,
        unneeded: Vec::new(),
        counts: VerifyCounts::default(),
        coverage: None,
        witness: None,
        requests: BTreeMap::new(),
        theirs,
    })
}

/// The backups to verify: all, or one with what it builds on as far as summaries tell.
async fn wanted(place: &StanzaPlace, request: &VerifyRequest, stock: &Stock) -> Result<Vec<BackupLabel>> {
    let all = stock.backups();
    let Some(set) = request.set else { return Ok(all) };
    if !all.contains(&set) {
        return Err(Error::UnknownBackup { label: set });
    }
    let (mut labels, mut next) = (Vec::new(), Some(set));
    while let Some(label) = next {
        labels.push(label);
        let summary = load::summaries_of(&place.backups, vec![label]).await.pop();
        // Who cannot be read is told when its manifest is opened.
        next = summary.and_then(|(_, summary)| summary.ok()).and_then(|summary| summary.prior);
    }
    labels.reverse();
    Ok(labels)
}

/// Pins the backups; those that are gone by now are found out when their manifests are opened.
async fn pin(host: &Host, place: &StanzaPlace, labels: &[BackupLabel]) -> Result<Option<Held<Pin>>> {
    match Held::pin_blindly(host, place, PinKind::Verify, labels.to_vec()).await {
        Ok(pin) => Ok(Some(pin)),
        // What is on read-only media can be verified: what another host takes away meanwhile is noticed at the end.
        Err(Error::Repo(RepoError::Permission { .. })) => {
            host.warn(
                "the repository cannot be written to: nothing keeps others from removing backups meanwhile",
            );
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The ledgers, where it matters what was read before.
async fn read_ledgers(
    host: &Host,
    place: &StanzaPlace,
    request: &VerifyRequest,
    stock: &Stock,
) -> Result<Book> {
    let (mut book, ledgers) = (Book::default(), Ledgers::new(&place.repo, place.stanza.name()));
    if request.quick || (request.budget.is_none() && request.set.is_none()) {
        return Ok(book);
    }
    let read = stock.ledgers.iter().map(|of| {
        let ledgers = &ledgers;
        async move { (of, ledgers.read(of).await) }
    });
    let mut read = futures::stream::iter(read).buffered(LEDGERS);
    while let Some((of, parts)) = read.next().await {
        book.read(of.clone(), parts?.unwrap_or_default(), host.now_seconds());
    }
    Ok(book)
}

/// How many ledgers are read or written at once.
const LEDGERS: usize = 16;

/// A verify under way.
struct Verify<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    request: &'a VerifyRequest,
    stock: Stock,
    findings: Findings,
    counts: VerifyCounts,
    budget: Budget,
    /// The lists of files that could be read.
    listed: BTreeMap<BackupLabel, Listed>,
    recovery: BTreeMap<BackupLabel, Vec<Recovery>>,
    /// Objects of WAL that were found damaged.
    wal_damage: BTreeMap<String, (Cause, String)>,
    /// The directories of WAL that there are.
    logs_seen: BTreeSet<LedgerOf>,
    /// Whether ledgers cannot be written.
    read_only: bool,
    /// Bytes that are to be read, as far as is known.
    total: u64,
    /// When the record elsewhere was written.
    witness: Option<i64>,
}

impl<'a> Verify<'a> {
    fn new(
        host: &'a Host,
        place: &'a StanzaPlace,
        request: &'a VerifyRequest,
        stock: Stock,
        book: Book,
    ) -> Self {
        Self {
            host,
            place,
            request,
            stock,
            findings: Findings::default(),
            counts: VerifyCounts::default(),
            budget: Budget::new(host, request.budget, book),
            listed: BTreeMap::new(),
            recovery: BTreeMap::new(),
            wal_damage: BTreeMap::new(),
            logs_seen: BTreeSet::new(),
            read_only: request.quick,
            total: 0,
            witness: None,
        }
    }

    async fn run(mut self, labels: Vec<BackupLabel>) -> Result<VerifyReport> {
        self.copies().await?;
        let others = self.others(&labels).await;
        let books = Books::open(self.place, labels, &mut self.findings).await?;
        self.counts.manifests = books.loaded.len() as u64;
        if let Some(label) = self.request.set.filter(|set| books.gone.contains(set)) {
            return Err(Error::UnknownBackup { label });
        }
        self.witness(&books).await?;
        let backups: Vec<Arc<Backup>> = books.loaded.values().cloned().collect();
        let mut cases = Cases::of(self.place, backups.iter());
        self.total = self.bytes_of(&books);
        self.index_sizes(&mut cases);
        let archives = self.archives(&books, &others).await?;
        let rest = match (self.request.quick, self.request.budget) {
            (true, _) => {
                self.data_sizes(&mut cases, &backups).await?;
                Due::Nothing
            }
            (false, None) => {
                self.packs(&mut cases, &Due::All).await?;
                self.lists(&books, &cases, &Due::All).await?;
                Due::All
            }
            (false, Some(_)) => {
                self.by_age(&books, &mut cases, &archives).await?;
                Due::Nothing
            }
        };
        self.blocked(&books, &cases);
        let mut verified = Vec::new();
        for archive in &archives {
            verified.push(self.archive(archive, &rest).await?);
        }
        self.keep_ledgers().await?;
        self.drop_ledgers().await;
        self.report(&books, &cases, verified).await
    }

    /// Reads what was read longest ago, until the budget is spent.
    async fn by_age(&mut self, books: &Books, cases: &mut Cases, archives: &[Archive]) -> Result<()> {
        for due in self.budget.plan() {
            if due.is_spent() {
                break;
            }
            self.packs(cases, &due).await?;
            self.lists(books, cases, &due).await?;
            for archive in archives {
                self.wal_due(archive, &due).await?;
            }
            self.keep_ledgers().await?;
        }
        self.harmed_lists(books, cases).await
    }

    /// Writes the ledgers that have changed. One that cannot be written makes the next run read more, and that is all.
    async fn keep_ledgers(&mut self) -> Result<()> {
        let ledgers = Ledgers::new(&self.place.repo, self.place.stanza.name());
        for (of, parts) in self.budget.take_changed() {
            if !self.read_only
                && let Err(error) = ledgers.write(&of, parts).await
            {
                self.read_only = true;
                self.host.warn(format!("when what was verified cannot be noted: {error}"));
            }
            self.budget.forget(&of);
        }
        Ok(())
    }

    /// Takes away ledgers of backups and WAL that are gone.
    async fn drop_ledgers(&self) {
        let is_gone = |of: &LedgerOf| match of {
            LedgerOf::Backup(label) => !self.stock.labels.contains_key(label),
            LedgerOf::Log(..) => !self.logs_seen.contains(of),
        };
        let gone: Vec<LedgerOf> = self.stock.ledgers.iter().filter(|of| is_gone(of)).cloned().collect();
        let ledgers = Ledgers::new(&self.place.repo, self.place.stanza.name());
        if !self.read_only
            && self.request.set.is_none()
            && let Err(error) = ledgers.remove(&gone).await
        {
            self.host.warn(format!("notes on what was verified and is gone stay: {error}"));
        }
    }

    /// The two copies of what the repository says of itself, and of the stanza's record.
    async fn copies(&mut self) -> Result<()> {
        let mut wrong = self.place.repo.check_copies().await?;
        wrong.extend(self.place.stanza.check_copies().await?);
        for (key, error) in wrong {
            self.findings.add(FindingKind::Copy, key.to_string(), with_causes(&error));
        }
        Ok(())
    }

    /// What a record elsewhere knows and the repository does not.
    async fn witness(&mut self, books: &Books) -> Result<()> {
        let Some(asked) = &self.request.witness else { return Ok(()) };
        let compared =
            witness::compare(self.host, &self.request.repo, self.place, asked, &books.loaded).await?;
        self.witness = compared.written;
        for deviation in compared.found {
            let kind = match (deviation.is_error(), asked.accept) {
                (true, false) => FindingKind::Witness,
                (true, true) => FindingKind::WitnessAccepted,
                (false, _) => FindingKind::WitnessBehind,
            };
            let told = deviation.tell(self.place, &self.host.zone);
            let number = self.findings.add(kind, told.object, told.text);
            self.findings.explain(number, told.meaning, told.advice);
        }
        Ok(())
    }

    /// The summaries of backups that are not verified: which WAL is theirs tells what retention has left.
    async fn others(&self, labels: &[BackupLabel]) -> Vec<Summary> {
        let others: Vec<_> =
            self.stock.backups().into_iter().filter(|label| !labels.contains(label)).collect();
        let read = load::summaries_of(&self.place.backups, others).await;
        read.into_iter().filter_map(|(_, summary)| summary.ok()).collect()
    }

    fn bytes_of(&self, books: &Books) -> u64 {
        let packs = self.stock.labels.iter().filter(|(label, _)| books.loaded.contains_key(label));
        packs.flat_map(|(_, objects)| &objects.packs).map(|pack| pack.size).sum()
    }

    fn progress(&self) {
        let done = self.counts.bytes;
        self.host.tell(Event::Progress { done, total: self.total.max(done) });
    }

    /// Backups that no restore begins with, because a pack of their chain is missing or has a wrong size.
    fn blocked(&mut self, books: &Books, cases: &Cases) {
        for (label, chain) in &books.chains {
            for number in cases.of_chain(&chain.backups).iter().flat_map(|case| &case.harm.blocks) {
                self.findings.hurts(*number, *label);
            }
        }
    }

    /// Why an object could not be read, where the repository answers; else the error ends the verify.
    async fn unreadable(&self, error: Error) -> Result<String> {
        if !is_of_object(&error) {
            return Err(error);
        }
        self.place.repo.store().check_reached().await?;
        Ok(format!("it cannot be read: {}", with_causes(&error)))
    }

    async fn report(
        mut self,
        books: &Books,
        cases: &Cases,
        archives: Vec<VerifiedArchive>,
    ) -> Result<VerifyReport> {
        self.count_packs(cases);
        books.chains.keys().for_each(|label| self.budget.count(&Unit::list(*label)));
        let mut gone = books.gone.clone();
        for label in self.hurt_backups(books) {
            if !self.place.backups.exists(&label).await? {
                gone.insert(label);
            }
        }
        self.counts.gone = gone.len() as u64;
        let pins = stock::pins(self.place).await?;
        let progress = self.stock.in_progress(&pins);
        let stock = std::mem::take(&mut self.stock);
        let unneeded = match self.request.set {
            Some(_) => Vec::new(),
            None => stock::unneeded(self.host, self.place, stock, books, &pins).await?,
        };
        let (findings, findings_left_out) = std::mem::take(&mut self.findings).finish(&gone);
        let mut backups = self.backups(books, &gone, &findings, &progress);
        backups.sort_by_key(|backup| (backup.label.time(), backup.label));
        Ok(VerifyReport {
            stanza: self.request.stanza.to_string(),
            set: self.request.set,
            quick: self.request.quick,
            clean: !findings.iter().any(|finding| finding.level == FindingLevel::Error),
            backups,
            archives,
            findings,
            findings_left_out,
            unneeded,
            counts: self.counts,
            coverage: self.budget.coverage(),
            witness: self.witness,
            theirs: None,
            requests: crate::report::requests(&self.place.repo),
        })
    }

    /// Backups that something was found wrong with, as far as is known before all is told.
    fn hurt_backups(&self, books: &Books) -> BTreeSet<BackupLabel> {
        let known = books.loaded.keys().chain(books.unreadable.keys());
        known.filter(|label| self.findings.names(label)).copied().collect()
    }

    fn backups(
        &mut self,
        books: &Books,
        gone: &BTreeSet<BackupLabel>,
        findings: &[Finding],
        progress: &BTreeSet<BackupLabel>,
    ) -> Vec<VerifiedBackup> {
        let there = books.loaded.keys().chain(books.unreadable.keys()).filter(|label| !gone.contains(label));
        let known = there.map(|label| (*label, None));
        let missing = books.missing.iter().filter(|label| !books.loaded.contains_key(label));
        let known = known.chain(missing.map(|label| (*label, Some(BackupStatus::ManifestMissing))));
        let progress = progress.iter().filter(|_| self.request.set.is_none());
        let known: Vec<_> =
            known.chain(progress.map(|label| (*label, Some(BackupStatus::InProgress)))).collect();
        let backup = |(label, status): (BackupLabel, Option<BackupStatus>)| {
            let of = |finding: &Finding| finding.backups.contains(&label) || finding.limits.contains(&label);
            let hurt = findings.iter().any(|finding| finding.backups.contains(&label));
            let listed = self.listed.remove(&label);
            VerifiedBackup {
                label,
                kind: label.backup_type(),
                status: status.unwrap_or(if hurt { BackupStatus::Invalid } else { BackupStatus::Valid }),
                files: listed.as_ref().map(|listed| listed.files),
                damaged_files: listed.map(|listed| listed.damaged).unwrap_or_default(),
                findings: (0..findings.len()).filter(|at| findings.get(*at).is_some_and(of)).collect(),
                recovery: self.recovery.remove(&label).unwrap_or_default(),
            }
        };
        known.into_iter().map(backup).collect()
    }
}
