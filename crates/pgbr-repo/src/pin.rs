//! Pins: who works on a chain of backups says so, and expire leaves the chain alone.
//!
//! The orders that make it safe (every interleaving of them is, and with either side reversed they are not; see this file's tests):
//!
//! - Who reads or writes a chain puts its pin, and *then* checks that the manifests of the chain exist.
//! - A writer besides checks its pin and its parent right before and right after it puts its manifest, and takes the manifest back if
//!   one of them is gone. It releases its pin last.
//! - Expire removes manifests for good, and *then* lists packs, then reads the pins, then the manifests. A pack is rubbish only if no
//!   manifest names it and no pin covers its attempt or its backup. A manifest that was put meanwhile and depends on one that was just
//!   removed gets its parent back: no pack of it has been touched yet. (An expire that dies right there leaves a child without its
//!   parent; only a lost lease lets the two run side by side at all, and the child is then refused by name.)
//!
//! A pin is created once and is never rewritten, so that its removal is final: its owner cannot bring it back by giving a sign of life. The
//! signs of life are an object beside it. A pin is live until it is released, or until an observer has seen the sign of life
//! unchanged for the pin's time-to-live ([`Watch`]); then the observer may break it, and the owner finds that out by [`Pin::check`].

use std::collections::BTreeMap;
use std::time::Duration;

use pgbr_manifest::{BackupLabel, StanzaName};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::keys::{Layout, ParsedKey, PinId};
use crate::record::{self, Record};
use crate::repo_file::Repo;
use crate::store::Created;
use crate::watch::Watch;

/// What a pin's owner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PinKind {
    /// Makes a backup.
    Backup,
    /// Restores one.
    Restore,
    /// Verifies one.
    Verify,
    /// Copies one elsewhere.
    Copy,
}

/// What to pin.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct PinRequest {
    /// What its owner does.
    pub kind: PinKind,
    /// The backups that are read: a whole chain.
    pub labels: Vec<BackupLabel>,
    /// The run whose packs are written.
    pub attempt: Option<u64>,
    /// Host and process, for people to read.
    pub holder: String,
    /// The time now in Unix seconds, for people to read.
    pub now: i64,
    /// How long the owner may go without a sign of life, 1 second to 30 days. A sign should come several times as often.
    pub ttl: Duration,
}

/// What a pin says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct PinRecord {
    record: String,
    name: String,
    /// What its owner does.
    pub kind: PinKind,
    /// The backups that are read.
    pub labels: Vec<BackupLabel>,
    /// The run whose packs are written.
    #[serde(with = "attempt_hex")]
    pub attempt: Option<u64>,
    /// Host and process.
    pub holder: String,
    /// When it was made, in Unix seconds on its owner's clock: for people, not to compute with.
    pub created: i64,
    /// Its time-to-live in seconds.
    pub ttl_seconds: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    record: String,
    name: String,
    beat: u64,
}

impl Record for PinRecord {
    const KIND: &'static str = "pin";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

impl Record for Beat {
    const KIND: &'static str = "beat";

    fn identity(&self) -> (&str, &str) {
        (&self.record, &self.name)
    }
}

/// The bounds of a time-to-live, in seconds.
const TTL: std::ops::RangeInclusive<u64> = 1..=30 * 86_400;
/// The time-to-live of a pin that cannot be read.
const TTL_UNREADABLE: Duration = Duration::from_secs(86_400);
/// How many labels a pin names at most.
const MAX_LABELS: usize = 10_000;

/// The pins of a stanza.
#[derive(Debug, Clone)]
pub struct Pins {
    repo: Repo,
    stanza: StanzaName,
}

/// A pin as an observer finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinState {
    /// Its name.
    pub id: PinId,
    /// What it says; `None` where it cannot be read: then it covers everything.
    pub record: Option<PinRecord>,
    /// Its last sign of life.
    pub beat: u64,
}

/// A pin of this process. Dropping it leaves it in place, to be released by nobody and to go stale.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    id: PinId,
    beat: u64,
    /// Whether a sign of life may be there.
    has_beaten: bool,
}

impl Pins {
    /// The pins of `stanza` in `repo`.
    pub fn new(repo: &Repo, stanza: &StanzaName) -> Self {
        Self { repo: repo.unguarded(), stanza: stanza.clone() }
    }

    /// Puts a pin. Only afterwards check that the manifests of what it names exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a time-to-live out of bounds; as the store failed.
    pub async fn put(&self, request: PinRequest) -> Result<Pin> {
        let ttl_seconds = request.ttl.as_secs();
        if !TTL.contains(&ttl_seconds) || request.labels.len() > MAX_LABELS {
            let reason = format!("of {ttl_seconds} s for {} backups is out of bounds", request.labels.len());
            return Err(Error::Invalid { what: "pin", reason });
        }
        let id = PinId(self.repo.random()?);
        let key = Layout::new().pin(&self.stanza, &id);
        let record = PinRecord {
            record: PinRecord::KIND.to_owned(),
            name: key.to_string(),
            kind: request.kind,
            labels: request.labels,
            attempt: request.attempt,
            holder: request.holder.chars().take(200).collect(),
            created: request.now,
            ttl_seconds,
        };
        let object = record::seal(&self.repo, &record)?;
        // Its name is random: whatever stands there is ours.
        match self.repo.store().create(&key, object).await? {
            Created::New => {}
            Created::AlreadyThere => self.repo.store().settle(&key).await?,
        }
        Ok(Pin { pins: self.clone(), id, beat: 0, has_beaten: false })
    }

    /// The pins there are, sorted by name.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn list(&self) -> Result<Vec<PinState>> {
        let level = self.repo.store().level(&Layout::new().pin_dir(&self.stanza)).await?;
        let mut found: BTreeMap<PinId, (bool, bool)> = BTreeMap::new();
        for object in level.objects {
            if let Some(ParsedKey::Pin { id, beat, .. }) = ParsedKey::parse(&object.key) {
                let parts = found.entry(id).or_default();
                *(if beat { &mut parts.1 } else { &mut parts.0 }) = true;
            }
        }
        let mut pins = Vec::new();
        for (id, (pin, beat)) in found {
            // A sign of life alone is what a broken pin's owner has left.
            if pin && let Some(state) = self.state(id, beat).await? {
                pins.push(state);
            }
        }
        Ok(pins)
    }

    /// Takes a pin away for good that is not alive any more.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn break_stale(&self, id: &PinId) -> Result<()> {
        let keys = Layout::new();
        self.repo.store().delete_durable(&keys.pin(&self.stanza, id)).await?;
        self.repo.store().delete(&keys.pin_beat(&self.stanza, id)).await
    }

    async fn state(&self, id: PinId, has_beat: bool) -> Result<Option<PinState>> {
        let keys = Layout::new();
        let record = match record::read(&self.repo, &keys.pin(&self.stanza, &id)).await {
            Ok(record) => Some(record),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if error.is_unverified() => None,
            Err(error) => return Err(error),
        };
        let beat = match has_beat {
            true => match record::read::<Beat>(&self.repo, &keys.pin_beat(&self.stanza, &id)).await {
                Ok(beat) => beat.beat,
                Err(error) if error.is_not_found() || error.is_unverified() => 0,
                Err(error) => return Err(error),
            },
            false => 0,
        };
        Ok(Some(PinState { id, record, beat }))
    }
}

impl PinState {
    /// Whether the pin says that this backup is being read, or may say so.
    pub fn covers_label(&self, label: &BackupLabel) -> bool {
        self.record.as_ref().is_none_or(|record| record.labels.contains(label))
    }

    /// Whether the pin says that this run is writing packs, or may say so.
    pub fn covers_attempt(&self, attempt: u64) -> bool {
        self.record.as_ref().is_none_or(|record| record.attempt == Some(attempt))
    }

    /// Whether an observer has seen it without a sign of life for its time-to-live, at this time of its monotonic clock.
    pub fn is_stale(&self, watch: &mut Watch, now: Duration) -> bool {
        let unchanged = watch.observe(&format!("pin {}", self.id), &self.beat.to_string(), now);
        let ttl = self.record.as_ref().map_or(TTL_UNREADABLE, |record| {
            Duration::from_secs(record.ttl_seconds.clamp(*TTL.start(), *TTL.end()))
        });
        unchanged >= ttl
    }
}

impl Pin {
    /// Its name.
    pub const fn id(&self) -> PinId {
        self.id
    }

    /// Gives a sign of life.
    ///
    /// # Errors
    /// [`Error::PinLost`] where the pin was broken; as the store failed.
    pub async fn beat(&mut self) -> Result<()> {
        self.check().await?;
        let key = Layout::new().pin_beat(&self.pins.stanza, &self.id);
        let beat =
            Beat { record: Beat::KIND.to_owned(), name: key.to_string(), beat: self.beat.saturating_add(1) };
        let object = record::seal(&self.pins.repo, &beat)?;
        self.has_beaten = true;
        self.pins.repo.store().overwrite(&key, object).await?;
        self.beat = beat.beat;
        Ok(())
    }

    /// Makes sure that the pin is still there.
    ///
    /// # Errors
    /// [`Error::PinLost`] where it was broken: the work is to be given up, and a manifest that was put to be taken back; as the
    /// store failed.
    pub async fn check(&self) -> Result<()> {
        let key = Layout::new().pin(&self.pins.stanza, &self.id);
        match self.pins.repo.store().exists(&key).await? {
            true => Ok(()),
            false => Err(Error::PinLost { pin: self.id.to_string() }),
        }
    }

    /// Takes the pin away for good: after the work has been done, or given up and cleaned up.
    ///
    /// # Errors
    /// As the store failed; the pin then goes stale by itself.
    pub async fn release(self) -> Result<()> {
        match self.has_beaten {
            true => self.pins.break_stale(&self.id).await,
            false => {
                self.pins.repo.store().delete_durable(&Layout::new().pin(&self.pins.stanza, &self.id)).await
            }
        }
    }
}

#[cfg(test)]
mod order;

/// Attempts as the 16 hex digits that stand in the names of packs: JSON numbers of that size are not read alike everywhere.
mod attempt_hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(attempt: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        attempt.map(|attempt| format!("{attempt:016x}")).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let bytes = crate::keys::hex(&text).ok_or_else(|| D::Error::custom("16 hex digits are needed"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }
}
