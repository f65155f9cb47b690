//! What opens a repository: passphrases are listed, added, changed and removed, and the key behind them is replaced, without a byte of data
//! being written again.

mod block;

use data_encoding::HEXLOWER;
use pgbr_codec::{Cipher, Passphrase, RepositoryId};
use pgbr_repo::{Imported, Lease, LeaseName, Leases, NewSlot, Repo, SlotInfo};
use zeroize::Zeroizing;

#[cfg(fuzzing)]
pub(crate) use self::block::read_block;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::place::RepoAccess;
use crate::witness::RepoJson;

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
    /// The repository.
    #[serde(skip)]
    pub(crate) repository: RepositoryId,
    /// What its record says, for a record elsewhere.
    #[serde(skip)]
    pub(crate) repo_json: RepoJson,
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
            repository: repo.id(),
            repo_json: RepoJson::of(repo),
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

/// A key of a repository for the safe.
#[non_exhaustive]
pub struct ExportedKey {
    /// What to print: it opens the repository together with its passphrase.
    pub text: Zeroizing<String>,
    /// The key: 32 hex digits, no secret.
    pub key_id: String,
    /// How many keys before it are in it.
    pub retired: usize,
}

impl std::fmt::Debug for ExportedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportedKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What became of an import.
#[derive(Debug)]
#[non_exhaustive]
pub struct ImportReport {
    /// What opens the repository now.
    pub keys: KeyReport,
    /// Whether `repo.json` had to be made again; else a passphrase was added.
    pub made: bool,
    /// Keys that came after the export, as hex digits: what was sealed under them does not open. Not all objects were looked at.
    pub unknown: Vec<String>,
    /// Whether `repo.json` was made again of a repository with passphrases for writing only: these are to be added again.
    pub writers_gone: bool,
}

/// The keys of a repository, wrapped for a passphrase of their own: what [`key_import`] brings the repository back with, when `repo.json` and its
/// copy are lost or nobody knows a passphrase any more. With `open` the passphrase stands in the text.
///
/// # Errors
/// When the repository is not encrypted, does not open, or opens for writing only.
pub async fn key_export(
    host: &Host,
    repo: &RepoAccess,
    passphrase: Passphrase,
    open: bool,
) -> Result<ExportedKey> {
    let repo = repo.open(host).await?;
    let exported = repo.export(NewSlot::new(passphrase.clone())).await?;
    let (key_id, retired) = (repo.keyring().key_id().to_string(), repo.retired_keys());
    let at = jiff::Timestamp::from_second(host.now_seconds()).unwrap_or_default();
    let head = [
        "Exported key of a repository of pgbr.".to_owned(),
        format!("repository {}, key {key_id} and {retired} before it, exported at {at}", repo.id()),
        match open {
            true => "WHOEVER HAS THIS TEXT AND THE REPOSITORY CAN READ AND CHANGE ALL OF IT.".to_owned(),
            false => {
                "It opens the repository together with the passphrase that it was exported for.".to_owned()
            }
        },
        "To use it: pgbr key-import --export-file=FILE. Export anew after each key-rotate.".to_owned(),
    ];
    let text = block::render(&head, &exported, open.then_some(&passphrase));
    Ok(ExportedKey { text, key_id, retired })
}

/// Lets the passphrase of `access` open a repository again, by what [`key_export`] gave. `repo.json` is made anew where it and its copy are lost.
/// `passphrase` opens the exported key, where that does not hold it itself.
///
/// # Errors
/// [`Error::BadExport`] for a text that cannot be read; [`Error::OpensAlready`]; when the passphrase does not open it; when it is of another
/// repository, or was replaced since; as the store failed.
pub async fn key_import(
    host: &Host,
    access: &RepoAccess,
    text: &[u8],
    passphrase: Option<Passphrase>,
) -> Result<ImportReport> {
    let Some(new) = access.passphrase.clone() else { return Err(pgbr_repo::Error::PassphraseMissing.into()) };
    let block = block::parse(text).map_err(|reason| Error::BadExport { reason })?;
    let Some(passphrase) = passphrase.or(block.passphrase) else { return Err(Error::ExportPassphrase) };
    // One for writing only goes on: where it is refused is where it is known what else is wrong.
    if access.open(host).await.is_ok_and(|repo| repo.reads()) {
        return Err(Error::OpensAlready);
    }
    let (store, entropy) = (access.place.store(false)?, host.entropy.clone());
    let exported = Repo::open_exported(store, block.exported.into(), &passphrase, entropy).await?;
    let (repo, imported) = match exported.present().await? {
        // Nobody can change what is lost, and of several who make it again one does.
        None => exported.import(NewSlot::new(new)).await?,
        Some(present) => {
            let lease = Held::lease_of(host, Leases::new(&present, None, LeaseName::record())).await?;
            let imported = exported.guarded(lease.guard()).import(NewSlot::new(new)).await;
            lease.release(host).await;
            imported?
        }
    };
    let (made, unknown, writers_gone) = match imported {
        Imported::Made { unknown, for_writers } => {
            (true, unknown.iter().map(ToString::to_string).collect(), for_writers)
        }
        _ => (false, Vec::new(), false),
    };
    Ok(ImportReport { keys: KeyReport::of(&repo), made, unknown, writers_gone })
}

async fn stanza_leases(host: &Host, repo: &Repo, leases: &mut Vec<Held<Lease>>) -> Result<(), Error> {
    for stanza in repo.stanzas().await? {
        leases.push(Held::lease_of(host, Leases::new(repo, Some(&stanza), LeaseName::backup())).await?);
    }
    Ok(())
}
