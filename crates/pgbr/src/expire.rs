//! Expire: backups and WAL that retention does not keep are taken away, in an order that is safe at every moment.
//!
//! 1. Manifests, each before what it builds on, each removal durable before the next. From then on the backup does not exist.
//! 2. What lies under all labels is listed, *then* pins are read, *then* manifests again. A backup that was committed meanwhile on top of one
//!    that was just removed gets it back.
//! 3. Packs that no manifest names and no pin covers, those of broken runs included; not those that the next backup may take up.
//! 4. WAL, last.
//!
//! An expire that dies in between leaves rubbish, which the next one takes away.

mod notes;
mod report;
mod stock;
mod sweep;
mod wal;

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgbr_manifest::retention::{Asked, ExpireInput, ExpirePlan, Policy, Reason, plan_expire};
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{HoldId, Holds, Lease, Pins, RemovedManifest};

pub use self::report::{ArchiveFate, BackupFate, ExpireReport, ExpiredBackups, Rubbish, RunFate, WalRange};
use self::stock::Stock;
use crate::error::{Error, Result, with_causes};
use crate::held::Held;
use crate::host::Host;
use crate::observe::Event;
use crate::place::{RepoAccess, StanzaPlace};
use crate::report::requests_since;
use crate::theirs::not_theirs;
use crate::witness::{self, WitnessFile};
use crate::writer::Writer;

/// What to expire.
#[derive(Debug, Clone)]
pub struct ExpireRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The rules.
    pub policy: Policy,
    /// What policy does not keep, or a backup by name.
    pub asked: Asked,
    /// Whether to say what would be done, and touch nothing.
    pub dry_run: bool,
    /// A record elsewhere of what is in the repository: what goes is struck out of it first.
    pub witness: Option<WitnessFile>,
    /// A file of this host in which to note since when pins of other hosts give no sign of life; none: they are waited for by nobody.
    pub notes: Option<PathBuf>,
}

/// Takes away what retention does not keep.
///
/// # Errors
/// When another process writes to the stanza; when the clock cannot be right; when what was named must stay, or is one of pgBackRest's; as the repository failed: what was
/// done until then has been told to the observer, and the next run goes on.
pub async fn expire(host: &Host, request: ExpireRequest) -> Result<ExpireReport> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    if request.dry_run {
        return Expire::new(host, &place, &request, None).run().await;
    }
    let lease = Held::lease(host, &place).await?;
    let done = Expire::new(host, &place.guarded(&lease), &request, Some(&lease)).run().await;
    lease.release(host).await;
    done
}

/// As [`expire()`], with a right to write that was kept; it is released. Where to is said by that: the repository and the stanza of the request
/// count for nothing.
///
/// # Errors
/// As [`expire()`].
pub async fn expire_as(host: &Host, writer: Writer, request: ExpireRequest) -> Result<ExpireReport> {
    let Writer { place, lease } = writer;
    let before = place.repo.store().requests();
    let lease_of = (!request.dry_run).then_some(&lease);
    let mut done = Expire::new(host, &place.guarded(&lease), &request, lease_of).run().await;
    lease.release(host).await;
    if let Ok(report) = &mut done {
        report.requests = requests_since(&place.repo, before);
    }
    done
}

/// Which backup to hold.
#[derive(Debug, Clone)]
pub struct HoldRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// Why, for people to read; at most 1000 characters.
    pub reason: String,
}

/// Puts a backup on hold: expire leaves it, and what it builds on, until the hold is released. Takes the stanza's lease, as expire does.
///
/// # Errors
/// [`Error::UnknownBackup`]; [`Error::TheirBackup`]; when another process writes to the stanza; as the repository failed.
pub async fn hold(host: &Host, request: HoldRequest) -> Result<HoldId> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let lease = Held::lease(host, &place).await?;
    let held = async {
        if !place.backups.exists(&request.label).await? {
            not_theirs(&request.repo, &request.stanza, request.label).await?;
            return Err(Error::UnknownBackup { label: request.label });
        }
        let (label, reason, holder) = (request.label, request.reason, host.owner.as_str().to_owned());
        let record = pgbr_repo::HoldRequest { label, reason, holder, now: host.now_seconds() };
        Ok(Holds::new(&place.repo, place.stanza.name()).put(record).await?)
    };
    let held = held.await;
    lease.release(host).await;
    held
}

/// Which holds to release.
#[derive(Debug, Clone)]
pub struct ReleaseHoldRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// The backup.
    pub label: BackupLabel,
    /// One of its holds; none: all of them.
    pub id: Option<HoldId>,
}

/// Releases holds of a backup, whether or not it exists; gives how many there were.
///
/// # Errors
/// As the repository failed.
pub async fn release_hold(host: &Host, request: ReleaseHoldRequest) -> Result<usize> {
    let place = request.repo.open_stanza(host, &request.stanza).await?;
    let holds = Holds::new(&place.repo, place.stanza.name());
    let mut released = 0;
    for hold in holds.list().await? {
        if hold.label == request.label && request.id.is_none_or(|id| id == hold.id) {
            holds.release(&hold.label, &hold.id).await?;
            released += 1;
        }
    }
    Ok(released)
}

/// One run of expire.
struct Expire<'a> {
    host: &'a Host,
    place: &'a StanzaPlace,
    request: &'a ExpireRequest,
    /// None in a dry run.
    lease: Option<&'a Held<Lease>>,
    pins: Pins,
}

impl<'a> Expire<'a> {
    fn new(
        host: &'a Host,
        place: &'a StanzaPlace,
        request: &'a ExpireRequest,
        lease: Option<&'a Held<Lease>>,
    ) -> Self {
        let pins = Pins::new(&place.repo, place.stanza.name());
        Self { host, place, request, lease, pins }
    }

    async fn run(&self) -> Result<ExpireReport> {
        let mut watch = notes::load(self.host, self.request.notes.as_deref());
        let stock = self.stock(&mut watch).await?;
        if self.lease.is_some() {
            notes::save(self.host, self.request.notes.as_deref(), &watch, &stock.pins);
        }
        let plan = self.plan(&stock)?;
        self.check_named(&stock, &plan).await?;
        let mut report = ExpireReport::new(self.request.dry_run, &plan);
        self.warn(&stock, &plan, &mut report);
        for set in &plan.sets {
            let text =
                ExpiredBackups { rule: report::rule(set.reason, &set.labels), labels: set.labels.clone() };
            self.host.tell(Event::Expiring { expired: text });
        }
        let removed = self.remove_manifests(&plan).await?;
        let changed = self.sweep(&stock, &removed, &mut watch, &mut report).await?;
        if changed {
            let text = "other commands were at work meanwhile: WAL is left to the next expire";
            self.host.tell(Event::Note { text: text.to_owned() });
        } else {
            self.expire_wal(&stock, &plan, &mut report).await?;
        }
        report.requests = crate::report::requests(&self.place.repo);
        Ok(report)
    }

    fn plan(&self, stock: &Stock) -> Result<ExpirePlan> {
        let input = ExpireInput {
            backups: &stock.candidates,
            archives: &stock.archives,
            current: self.place.stanza.archive_id(),
            policy: &self.request.policy,
            asked: self.request.asked,
            now: self.host.now_seconds(),
        };
        Ok(plan_expire(&input)?)
    }

    /// Refuses a backup that was named and is not ours to remove.
    async fn check_named(&self, stock: &Stock, plan: &ExpirePlan) -> Result<()> {
        match self.unknown(stock, plan) {
            Some(label) => not_theirs(&self.request.repo, &self.request.stanza, label).await,
            None => Ok(()),
        }
    }

    /// The backup that was named, where neither it nor anything of it is there.
    fn unknown(&self, stock: &Stock, plan: &ExpirePlan) -> Option<BackupLabel> {
        match self.request.asked {
            Asked::Set(label) if plan.unknown && !stock.unfinished.contains(&label) => Some(label),
            _ => None,
        }
    }

    /// Tells what the operator should know before anything is touched.
    fn warn(&self, stock: &Stock, plan: &ExpirePlan, report: &mut ExpireReport) {
        let mut warnings = Vec::new();
        for (label, error) in &stock.unreadable {
            warnings.push(format!(
                "backup {label} cannot be read and stays, with all WAL: {error}\n\
                 HINT: when it is lost for good, remove it with 'expire --set={label}'."
            ));
        }
        if stock.pins.iter().any(|pin| pin.record.is_none()) {
            warnings.push(
                "a pin cannot be read: until it is a day old, it covers everything, and nothing expires"
                    .to_owned(),
            );
        }
        for backup in plan.backups.iter().filter(|b| b.keep && b.reasons.contains(&Reason::Incomplete)) {
            let label = backup.label;
            warnings.push(format!(
                "backup {label} cannot be restored, a backup that it builds on is missing: it stays\n\
                 HINT: when that is lost for good, remove it with 'expire --set={label}'."
            ));
        }
        if let Some(label) = self.unknown(stock, plan) {
            warnings.push(format!(
                "backup {label} does not exist\n\
                 HINT: run the info command and confirm the backup is listed"
            ));
        }
        if plan.newest_goes {
            warnings.push(
                "expiring latest backup: the ability to perform point-in-time-recovery (PITR) may be affected\n\
                 HINT: non-default settings for 'retention-archive'/'retention-archive-type' (even in prior expires) can cause \
                 gaps in the WAL."
                    .to_owned(),
            );
        }
        warnings.iter().for_each(|text| self.host.warn(text.as_str()));
        report.warnings = warnings;
    }

    /// Step 1.
    async fn remove_manifests(&self, plan: &ExpirePlan) -> Result<BTreeMap<BackupLabel, RemovedManifest>> {
        let mut removed = BTreeMap::new();
        let Some(lease) = self.lease else { return Ok(removed) };
        self.strike_out(&plan.removals().collect::<Vec<_>>()).await;
        for label in plan.removals() {
            self.host.stop.check()?;
            lease.check().await?;
            // A label that is in doubt after an error has no manifest, or has it still: the next run sees which.
            removed.insert(label, self.place.backups.remove_manifest(&label).await?);
        }
        Ok(removed)
    }

    /// Tells the record elsewhere what goes. Where it cannot be told, a verify will say of backups that they are missing, and no harm is done.
    async fn strike_out(&self, labels: &[BackupLabel]) {
        let Some(file) = self.request.witness.as_ref().filter(|_| !labels.is_empty()) else { return };
        if let Err(error) = witness::leave(self.host, file, labels).await {
            self.host.warn(format!(
                "the record of the repository cannot be told what expires: {}",
                with_causes(&error)
            ));
        }
    }

    async fn check(&self) -> Result<()> {
        self.host.stop.check()?;
        match self.lease {
            Some(lease) => lease.check().await,
            None => Ok(()),
        }
    }
}
