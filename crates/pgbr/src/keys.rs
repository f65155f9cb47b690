//! What opens a repository: passphrases are listed, added, changed and removed, and the key behind them is replaced, without a byte of data
//! being written again.

use data_encoding::HEXLOWER;
use pgbr_codec::Cipher;
use pgbr_repo::{Lease, LeaseName, Leases, NewSlot, Repo, SlotInfo};

use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::place::RepoAccess;

/// A passphrase of a repository, as far as it is nobody's secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeySlot {
    /// Names it: 16 hex digits.
    pub id: String,
    /// What the operator calls it.
    pub name: Option<String>,
    /// Whether it is a key that pgbr generated, not something that a person made up.
    pub generated: bool,
    /// Whether it is for writing only: backups are made and WAL is archived with it, and neither is read.
    pub write_only: bool,
    /// Whether it is the one that opened the repository now.
    pub in_use: bool,
}

/// What opens a repository.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyReport {
    /// The passphrases, in the order in which they came.
    pub slots: Vec<KeySlot>,
    /// The key that new objects are sealed under: 32 hex digits, no secret.
    pub key_id: String,
    /// How many keys there were before it, which open what they have sealed.
    pub retired: usize,
}

/// What is to be done about the passphrases of a repository.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_enums, reason = "a new one has to be decided on")]
pub enum KeyChange {
    /// One more opens it.
    Add(NewSlot),
    /// One more opens it for writing only.
    AddWriter(NewSlot),
    /// Another one takes the place of the one that opened it now.
    Change(NewSlot),
    /// The one with this id opens it no more.
    Remove([u8; 8]),
    /// A new key seals what comes from now on, and this passphrase alone opens it.
    Rotate(NewSlot),
}

impl KeySlot {
    fn new(slot: SlotInfo) -> Self {
        let SlotInfo { id, name, generated, write_only, in_use, .. } = slot;
        Self { id: HEXLOWER.encode(&id), name, generated, write_only, in_use }
    }
}

impl KeyReport {
    fn of(repo: &Repo) -> Self {
        Self {
            slots: repo.slot_infos().into_iter().map(KeySlot::new).collect(),
            key_id: repo.keyring().key_id().to_string(),
            retired: repo.retired_keys(),
        }
    }
}

/// Lists what opens a repository.
///
/// # Errors
/// When the repository is not encrypted, or does not open.
pub async fn key_list(host: &Host, repo: &RepoAccess) -> Result<KeyReport> {
    let repo = repo.open(host).await?;
    match repo.cipher() {
        Cipher::Aes256Gcm => Ok(KeyReport::of(&repo)),
        Cipher::None => Err(pgbr_repo::Error::NotEncrypted.into()),
    }
}

/// Changes what opens a repository; gives what does from now on. Holds the lease of the repository's record meanwhile, and for a new key those of
/// all stanzas: no backup and no expire runs while it is replaced. WAL that is pushed goes on, and is readable whichever key it met.
///
/// # Errors
/// When the repository is not encrypted, does not open or opens for writing only; when another process works on a stanza; as the store failed: it opens then as before,
/// or as was asked for.
pub async fn key_change(host: &Host, repo: &RepoAccess, change: KeyChange) -> Result<KeyReport> {
    let mut leases = Vec::new();
    let changed = async {
        let before = repo.open(host).await?;
        before.require_reader("change what opens the repository")?;
        let lease = Held::lease_of(host, Leases::new(&before, None, LeaseName::record())).await?;
        let guard = lease.guard();
        leases.push(lease);
        if matches!(change, KeyChange::Rotate(_)) {
            stanza_leases(host, &before, &mut leases).await?;
        }
        // As it is now that nobody else changes it.
        let opened = repo.open(host).await?.guarded(guard);
        // Where one of the two copies is not what it should be, it would not be known which of them this is about.
        opened.heal().await?;
        let changed = match change {
            KeyChange::Add(slot) => opened.add_slot(slot).await?,
            KeyChange::AddWriter(slot) => opened.add_writer(slot).await?,
            KeyChange::Change(slot) => opened.change_slot(slot).await?,
            KeyChange::Remove(id) => opened.remove_slot(id).await?,
            KeyChange::Rotate(slot) => opened.rotate_key(slot).await?,
        };
        Ok(KeyReport::of(&changed))
    };
    let changed = changed.await;
    for lease in leases.into_iter().rev() {
        lease.release(host).await;
    }
    changed
}

async fn stanza_leases(host: &Host, repo: &Repo, leases: &mut Vec<Held<Lease>>) -> Result<(), Error> {
    for stanza in repo.stanzas().await? {
        leases.push(Held::lease_of(host, Leases::new(repo, Some(&stanza), LeaseName::backup())).await?);
    }
    Ok(())
}
