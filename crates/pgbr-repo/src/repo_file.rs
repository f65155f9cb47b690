//! `repo.json`: what a repository is, and how its key is had (`docs/format.md`, section 6).

mod export;
mod slots;
mod text;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use object_store::path::Path;
use pgbr_codec::{
    Cipher, Kdf, KeyId, Keyring, LaneSeed, NewLock, Passphrase, RepositoryId, RepositoryKey, RetiredKey,
    RetiredWriter, Slot, WrappingKey, WriterKey, WriterSlot,
};
use pgbr_manifest::StanzaName;

use self::slots::{AnySlot, Unwrapped, derive, new_slot, opened_by, owner_slot};
#[cfg(fuzzing)]
pub(crate) use self::text::read_and_write;
use self::text::{FORMAT, FORMAT_WRITERS, File, MAX_RETIRED, MAX_SLOTS, in_repo_json, retired_keys};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::key_cache::KeyCache;
use crate::keys::{self, Layout, ParsedKey};
use crate::probe::{StoreTraits, probe};
use crate::store::{Created, Resolved, Store};

pub use self::export::Imported;

/// The largest `repo.json`, in bytes.
const MAX_REPO_JSON: u64 = 256 << 10;

/// A source of random bytes: the operating system's, given by the caller.
pub trait Entropy: Send + Sync {
    /// Fills the whole slice with bytes that nobody can foretell.
    ///
    /// # Errors
    /// [`Error::Entropy`] where there are none.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
}

/// How a repository is to be made.
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct CreateOptions {
    /// How its objects are sealed.
    pub cipher: Cipher,
    /// What opens its first key slot; needed with a cipher and refused without.
    pub passphrase: Option<Passphrase>,
    /// How the slot's key is derived, with a random salt; by default as fits the passphrase.
    pub kdf: Option<Kdf>,
    /// The time now, in Unix seconds.
    pub now: i64,
    /// Where random bytes come from.
    pub entropy: Arc<dyn Entropy>,
}

/// An open repository. Cheap to clone.
#[derive(Clone)]
pub struct Repo {
    store: Store,
    inner: Arc<Inner>,
}

struct Inner {
    keyring: Keyring,
    key: Option<RepositoryKey>,
    /// The slot that it was opened by.
    slot: Option<[u8; 8]>,
    file: File,
    text: Bytes,
    warnings: Vec<String>,
    entropy: Arc<dyn Entropy>,
}

/// A way to the key of a repository, as far as it is nobody's secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlotInfo {
    /// Names it.
    pub id: [u8; 8],
    /// What the operator calls it.
    pub name: Option<String>,
    /// Whether what opens it is a key that pgbr generated, not something made up by a person.
    pub generated: bool,
    /// Whether it opens the repository for writing only.
    pub write_only: bool,
    /// Whether the repository was opened by it.
    pub in_use: bool,
}

/// A passphrase that is to open a repository.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct NewSlot {
    /// The passphrase.
    pub passphrase: Passphrase,
    /// How its key is derived, with a random salt; by default as fits the passphrase.
    pub kdf: Option<Kdf>,
    /// What the operator calls it.
    pub name: Option<String>,
}

impl NewSlot {
    /// A passphrase without a name, derived as fits it.
    pub const fn new(passphrase: Passphrase) -> Self {
        Self { passphrase, kdf: None, name: None }
    }
}

impl fmt::Debug for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (store, id) = (&self.store, &self.inner.file.repository_id);
        f.debug_struct("Repo").field("store", store).field("id", id).finish_non_exhaustive()
    }
}

impl Repo {
    /// Makes a repository in a store that holds none, after trying out what the store honours.
    ///
    /// # Errors
    /// [`Error::RepositoryExists`] where there is a `repo.json` or anything else under `pgbr/`: creating over sealed objects would
    /// lose the key to them. [`Error::PassphraseMissing`], [`Error::NotEncrypted`], [`Error::UnfitStore`], and as the store failed.
    pub async fn create(store: Store, options: CreateOptions) -> Result<Self> {
        match (options.cipher, &options.passphrase) {
            (Cipher::Aes256Gcm, None) => return Err(Error::PassphraseMissing),
            (Cipher::None, Some(_)) => return Err(Error::NotEncrypted),
            _ => {}
        }
        let rubbish = refuse_if_used(&store).await?;
        let probe_id = data_encoding::HEXLOWER.encode(&random::<16>(&*options.entropy)?);
        let traits = probe(&store, &probe_id).await?;
        store.remove_empty_directories(&Layout::new().probe_root()).await?;

        let (file, keyring, key) = new_file(&options, traits).await?;
        let text = file.render(&keyring)?;
        let keys = Layout::new();
        match put_first(&store, &text, traits).await? {
            Resolved::Ours => store.set_create_honoured(traits.create),
            Resolved::Others(_) => return Err(exists(&store, keys.repo_json())),
        }
        store.overwrite(&keys.repo_json_copy(), text.clone()).await?;
        // Without conditional creates another process may have overwritten ours: whoever is there last has won.
        if !traits.create && store.get(&keys.repo_json(), MAX_REPO_JSON).await? != text {
            return Err(exists(&store, keys.repo_json()));
        }
        store.expect_repository();
        // Whoever still probes beside us has lost. It is in nobody's way where it cannot be removed.
        store.delete_all(rubbish).await.ok();
        store.remove_empty_directories(&Layout::new().probe_root()).await?;
        let (entropy, warnings) = (options.entropy, Vec::new());
        let slot = file.slots.first().map(|slot| slot.id);
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy }) })
    }

    /// Opens the repository in a store; from the copy of `repo.json` where the first is missing or damaged, with a warning.
    ///
    /// # Errors
    /// [`Error::NoRepository`] (which does not prove that there is none: a disk may not be mounted), [`Error::PassphraseMissing`],
    /// [`Error::NotEncrypted`], [`Error::WrongPassphrase`], [`Error::Unsupported`] for another format version, [`Error::Corrupt`]
    /// where both copies are damaged, and as the store failed.
    pub async fn open(
        store: Store,
        passphrase: Option<&Passphrase>,
        key_cache: Option<&dyn KeyCache>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let keys = Layout::new();
        let opening = Opening { store: &store, passphrase, key_cache, entropy: &*entropy };
        let (opened, mut warnings) = match opening.try_open(&keys.repo_json()).await {
            Ok(opened) => (opened, Vec::new()),
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(first) => match opening.try_open(&keys.repo_json_copy()).await {
                Ok(opened) => (opened, vec![format!("using the copy of repo.json: {first}")]),
                Err(second) => return Err(worse(&store, first, second)),
            },
        };
        let Opened { file, text, keyring, key, slot, warning } = opened;
        warnings.extend(warning);
        store.set_create_honoured(file.store.create);
        store.expect_repository();
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy }) })
    }

    /// Opens a repository by the text of its `repo.json` that was kept on this host ([`Repo::text`]), without asking the store. It is checked
    /// as one that was read; whether it is still the store's is for the caller to bound.
    ///
    /// # Errors
    /// As [`Repo::open`].
    pub async fn open_kept(
        store: Store,
        text: Bytes,
        passphrase: Option<&Passphrase>,
        key_cache: Option<&dyn KeyCache>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let opening = Opening { store: &store, passphrase, key_cache, entropy: &*entropy };
        let Opened { file, text, keyring, key, slot, warning } =
            opening.open_text(&Layout::new().repo_json(), text).await?;
        store.set_create_honoured(file.store.create);
        store.expect_repository();
        let warnings = warning.into_iter().collect();
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy }) })
    }

    /// The text of `repo.json` as it was opened: keys are in it wrapped only.
    pub fn text(&self) -> &Bytes {
        &self.inner.text
    }

    /// Writes `repo.json` and its copy again where one is missing or is not what was opened; tells whether anything was done.
    ///
    /// Only for who holds the lease of the repository's record: it would undo a change of key slots that happens meanwhile.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn heal(&self) -> Result<bool> {
        let mut wrong = self.check_copies().await?;
        // The copy first: a crash in between leaves a `repo.json` that is right, if old.
        wrong.reverse();
        for (key, _) in &wrong {
            self.store().overwrite(key, self.inner.text.clone()).await?;
        }
        Ok(!wrong.is_empty())
    }

    /// What is wrong with `repo.json` and with its copy, each by its key; nothing where both are as they were opened.
    ///
    /// Of two that differ one may be older: that of a change of key slots which broke off between the two.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn check_copies(&self) -> Result<Vec<(Path, Error)>> {
        let keys = Layout::new();
        let mut wrong = Vec::new();
        for key in [keys.repo_json(), keys.repo_json_copy()] {
            match self.store().get(&key, MAX_REPO_JSON).await {
                Ok(text) if text == self.inner.text => {}
                Ok(_) => {
                    let error = Error::corrupt(&key, "it is not what the repository was opened with");
                    wrong.push((key, error));
                }
                Err(error) if error.is_not_found() || error.is_damage() => wrong.push((key, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(wrong)
    }

    /// Adds a key slot, so that one more passphrase opens the repository; gives the repository as it is now.
    ///
    /// Only for who holds the lease of the repository's record, as all that changes slots.
    ///
    /// # Errors
    /// [`Error::NotEncrypted`], [`Error::WriteOnly`]; [`Error::Codec`] for a passphrase that cannot be used; [`Error::Invalid`] for one that
    /// opens the repository for writing only; as the store failed: it opens with it, or does not.
    pub async fn add_slot(&self, new: NewSlot) -> Result<Self> {
        let slots = self.inner.file.slots.clone();
        self.put_slot(slots, new).await
    }

    /// Adds a key slot for writing only: who has the passphrase makes backups and archives WAL, and reads neither. From the first one on content
    /// is sealed so that all who write can go on with what others wrote (key mode 2). Gives the repository as it is now.
    ///
    /// # Errors
    /// As [`Repo::add_slot`]; [`Error::Invalid`] for a passphrase that opens the repository for reading.
    pub async fn add_writer(&self, new: NewSlot) -> Result<Self> {
        let Inner { slot, keyring, file, entropy, .. } = &*self.inner;
        let key = self.owner_key()?;
        let mut writers = file.writers.clone().unwrap_or_default();
        if writers.len() >= MAX_SLOTS {
            return Err(too_many("key slots for writing", MAX_SLOTS));
        }
        if opened_by(&file.slots.iter().map(AnySlot::Owner).collect::<Vec<_>>(), &new.passphrase, file)
            .await?
        {
            return Err(taken("for reading and writing"));
        }
        let key_id = file.key_id.unwrap_or(KeyId::NONE);
        let writer = WriterKey::of(key);
        let wrapped = writer.clone();
        let wrap = move |lock: NewLock<'_>| WriterSlot::wrap_writer(&wrapped, lock);
        writers.push(new_slot(&**entropy, file, new, wrap).await?);
        let mut retired_writers = Vec::new();
        for (id, old) in retired_keys(file, key_id, key)? {
            let (now, nonce) = ((key_id, &writer), random(&**entropy)?);
            let entry = RetiredWriter::wrap((id, &WriterKey::of(&old)), file.repository_id, now, nonce);
            retired_writers.push(entry.map_err(in_repo_json)?);
        }
        let file = File { format: FORMAT_WRITERS, writers: Some(writers), retired_writers, ..file.clone() };
        self.replace(file, keyring.clone().for_writers(), Some(key.clone()), *slot).await
    }

    /// Puts a passphrase in the place of the one that the repository was opened with; gives the repository as it is now.
    ///
    /// # Errors
    /// As [`Repo::add_slot`]: either of the two opens it.
    pub async fn change_slot(&self, new: NewSlot) -> Result<Self> {
        let mut slots = self.inner.file.slots.clone();
        slots.retain(|slot| Some(slot.id) != self.inner.slot);
        self.put_slot(slots, new).await
    }

    /// Removes the key slot with this id; gives the repository as it is now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown slot or the last one that reads; [`Error::WriteOnly`]; as the store failed.
    pub async fn remove_slot(&self, id: [u8; 8]) -> Result<Self> {
        let Inner { slot, keyring, key, file, .. } = &*self.inner;
        self.require_reader(CHANGE_KEYS)?;
        let mut changed = file.clone();
        changed.slots.retain(|slot| slot.id != id);
        changed.writers.iter_mut().for_each(|writers| writers.retain(|slot| slot.id != id));
        if changed.writers.as_ref().is_none_or(Vec::is_empty) {
            changed.retired_writers.clear();
        }
        let invalid = |reason: &str| Err(Error::Invalid { what: "key slot", reason: reason.to_owned() });
        if changed == *file {
            return invalid("is not one of the repository's");
        }
        if changed.slots.is_empty() {
            return invalid("cannot be removed: nothing else opens the repository for reading");
        }
        let slot = slot.filter(|own| *own != id);
        self.replace(changed, keyring.clone(), key.clone(), slot).await
    }

    /// Gives the repository a new key: objects are sealed under it from now on, those that are there stay readable. Only `new` opens it then:
    /// the other passphrases, which nobody here knows, are gone with their slots, those for writing as well. Gives the repository as it is now.
    ///
    /// Only for who holds the leases of all stanzas besides: whoever writes with the old key does not know the new one.
    ///
    /// # Errors
    /// As [`Repo::add_slot`]: it opens with the passphrases of before, or with the new one.
    pub async fn rotate_key(&self, new: NewSlot) -> Result<Self> {
        let Inner { file, entropy, .. } = &*self.inner;
        let old = self.owner_key()?;
        if file.retired.len() >= MAX_RETIRED {
            return Err(too_many("retired keys", MAX_RETIRED));
        }
        let entropy = &**entropy;
        let old_id = file.key_id.unwrap_or(KeyId::NONE);
        let (key_id, key) =
            (KeyId::from_bytes(random(entropy)?), RepositoryKey::from_bytes(random(entropy)?));
        let before = retired_keys(file, old_id, old)?;
        let before = before.iter().map(|(id, key)| (*id, key)).chain([(old_id, old)]);
        let mut retired = Vec::new();
        for (id, old) in before.clone() {
            let wrapped = RetiredKey::wrap((id, old), file.repository_id, (key_id, &key), random(entropy)?);
            retired.push(wrapped.map_err(in_repo_json)?);
        }
        let writers = file.writers.as_ref().map(|_| Vec::new());
        let (key_id, slots, retired_writers) = (Some(key_id), Vec::new(), Vec::new());
        let mut file = File { key_id, slots, retired, writers, retired_writers, ..file.clone() };
        let slot = owner_slot(entropy, &key, &file, new).await?;
        let keyring = file.keyring(&key, before);
        let id = Some(slot.id);
        file.slots = vec![slot];
        self.replace(file, keyring, Some(key), id).await
    }

    async fn put_slot(&self, mut slots: Vec<Slot>, new: NewSlot) -> Result<Self> {
        let Inner { slot, keyring, file, entropy, .. } = &*self.inner;
        let key = self.owner_key()?;
        if slots.len() >= MAX_SLOTS {
            return Err(too_many("key slots", MAX_SLOTS));
        }
        // A host that has it for writing could read from now on.
        let writers: Vec<_> = file.writers.iter().flatten().map(AnySlot::Writer).collect();
        if opened_by(&writers, &new.passphrase, file).await? {
            return Err(taken("for writing only"));
        }
        let added = owner_slot(&**entropy, key, file, new).await?;
        // What was opened by a slot that is replaced is open by the one in its place.
        let slot = slot.filter(|own| slots.iter().any(|slot| slot.id == *own)).or(Some(added.id));
        slots.push(added);
        self.replace(File { slots, ..file.clone() }, keyring.clone(), Some(key.clone()), slot).await
    }

    /// The key slots.
    pub fn slot_infos(&self) -> Vec<SlotInfo> {
        let file = &self.inner.file;
        let info = |(id, name, kdf, write_only): (_, &Option<String>, &Kdf, _)| SlotInfo {
            id,
            name: name.clone(),
            generated: matches!(kdf, Kdf::Hkdf { .. }),
            write_only,
            in_use: self.inner.slot == Some(id),
        };
        let owners = file.slots.iter().map(|slot| (slot.id, &slot.name, &slot.kdf, false));
        let writers = file.writers.iter().flatten().map(|slot| (slot.id, &slot.name, &slot.kdf, true));
        owners.chain(writers).map(info).collect()
    }

    /// Whether the content of backups and of WAL can be read: not where it was opened by a passphrase for writing only.
    pub fn reads(&self) -> bool {
        self.inner.keyring.reads()
    }

    /// Sees that it was opened for reading; `doing` is what for, as `restore a backup`.
    ///
    /// # Errors
    /// [`Error::WriteOnly`].
    pub fn require_reader(&self, doing: &str) -> Result<()> {
        if self.reads() { Ok(()) } else { Err(Error::WriteOnly { doing: doing.to_owned() }) }
    }

    fn owner_key(&self) -> Result<&RepositoryKey> {
        self.require_reader(CHANGE_KEYS)?;
        self.inner.key.as_ref().ok_or(Error::NotEncrypted)
    }

    /// How many keys the repository had before the one of now.
    pub fn retired_keys(&self) -> usize {
        self.inner.file.retired.len()
    }

    /// Which keys those are, as objects name them.
    pub fn retired_key_ids(&self) -> Vec<KeyId> {
        self.inner.file.retired.iter().map(|retired| retired.key_id).collect()
    }

    /// The ids of the key slots.
    pub fn slots(&self) -> Vec<[u8; 8]> {
        self.slot_infos().into_iter().map(|slot| slot.id).collect()
    }

    /// The repository's key: for a copy that the operator puts in a safe. None without encryption, or where it was opened for writing only.
    pub fn key(&self) -> Option<&RepositoryKey> {
        self.inner.key.as_ref()
    }

    /// The store it lies in.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The same for who holds a lease: nothing is overwritten or taken away through it once that may be another's. Pins and leases are their
    /// owner's whatever happens, and go their own way.
    #[must_use]
    pub fn guarded(&self, guard: Arc<dyn Guard>) -> Self {
        Self { store: self.store.guarded(guard), inner: Arc::clone(&self.inner) }
    }

    pub(crate) fn unguarded(&self) -> Self {
        Self { store: self.store.unguarded(), inner: Arc::clone(&self.inner) }
    }

    /// The keys that its objects are sealed and opened with.
    pub fn keyring(&self) -> &Keyring {
        &self.inner.keyring
    }

    /// Its identity, which every object repeats.
    pub fn id(&self) -> RepositoryId {
        self.inner.file.repository_id
    }

    /// How its objects are sealed.
    pub fn cipher(&self) -> Cipher {
        self.inner.file.cipher
    }

    /// When it was made, in Unix seconds.
    pub fn created(&self) -> i64 {
        self.inner.file.created
    }

    /// What the probe found when it was made.
    pub fn traits(&self) -> StoreTraits {
        self.inner.file.store
    }

    /// What the operator should know about how it was opened.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// What a new lane is made of: one for each sealing process and kind of object, one for each WAL file and record.
    ///
    /// # Errors
    /// [`Error::Entropy`].
    pub fn lane_seed(&self) -> Result<LaneSeed> {
        LaneSeed::draw(|bytes| self.inner.entropy.fill(bytes))
    }

    /// Fresh random bytes.
    ///
    /// # Errors
    /// [`Error::Entropy`].
    pub fn random<const N: usize>(&self) -> Result<[u8; N]> {
        random(&*self.inner.entropy)
    }

    /// The stanzas in it, sorted.
    ///
    /// # Errors
    /// As the store failed.
    pub async fn stanzas(&self) -> Result<Vec<StanzaName>> {
        let keys = Layout::new();
        let mut found = Vec::new();
        for name in self.store().level(&keys.root()).await?.directories {
            let Some(stanza) = keys::parse_stanza(&name) else { continue };
            if self.store().exists(&keys.stanza(&stanza)).await?
                || self.store().exists(&keys.stanza_copy(&stanza)).await?
            {
                found.push(stanza);
            }
        }
        Ok(found)
    }

    /// The copy first: a crash in between leaves a `repo.json` that is right, if old.
    async fn replace(
        &self,
        file: File,
        keyring: Keyring,
        key: Option<RepositoryKey>,
        slot: Option<[u8; 8]>,
    ) -> Result<Self> {
        let keys = Layout::new();
        let (store, Inner { warnings, entropy, .. }) = (&self.store, &*self.inner);
        if store.get(&keys.repo_json(), MAX_REPO_JSON).await? != self.inner.text {
            return Err(Error::Invalid {
                what: "repo.json",
                reason: "was changed since it was opened: open it again".to_owned(),
            });
        }
        let text = file.render(&keyring)?;
        if text.len() as u64 > MAX_REPO_JSON {
            let reason = format!("would have more than {MAX_REPO_JSON} bytes");
            return Err(Error::Invalid { what: "repo.json", reason });
        }
        store.overwrite(&keys.repo_json_copy(), text.clone()).await?;
        store.overwrite(&keys.repo_json(), text.clone()).await?;
        let (store, warnings, entropy) = (store.clone(), warnings.clone(), Arc::clone(entropy));
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy }) })
    }
}

/// What a passphrase for writing only is not good for.
const CHANGE_KEYS: &str = "change what opens the repository";

fn too_many(what: &'static str, most: usize) -> Error {
    Error::Invalid { what, reason: format!("are {most} at most") }
}

fn taken(how: &str) -> Error {
    let reason = format!("opens the repository {how} already: one passphrase cannot be for both");
    Error::Invalid { what: "the new passphrase", reason }
}

/// Random bytes from a source.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// What is needed to open one of the two copies.
struct Opening<'a> {
    store: &'a Store,
    passphrase: Option<&'a Passphrase>,
    key_cache: Option<&'a dyn KeyCache>,
    entropy: &'a dyn Entropy,
}

struct Opened {
    file: File,
    text: Bytes,
    keyring: Keyring,
    key: Option<RepositoryKey>,
    slot: Option<[u8; 8]>,
    warning: Option<String>,
}

impl Opening<'_> {
    async fn try_open(&self, key: &Path) -> Result<Opened> {
        let text = self.store.get(key, MAX_REPO_JSON).await?;
        self.open_text(key, text).await
    }

    async fn open_text(&self, key: &Path, text: Bytes) -> Result<Opened> {
        let (file, tags) = File::parse(key, &text)?;
        match (file.key_id, self.passphrase) {
            (None, Some(_)) => Err(Error::NotEncrypted),
            (None, None) => {
                let keyring = Keyring::plain(file.repository_id);
                tags.check(key, &keyring)?;
                Ok(Opened { file, text, keyring, key: None, slot: None, warning: None })
            }
            (Some(_), None) => Err(Error::PassphraseMissing),
            (Some(key_id), Some(passphrase)) => {
                let Unlocked { key: opened, slot, warning } = self.unlock(&file, key_id, passphrase).await?;
                let slot = Some(slot);
                match opened {
                    Unwrapped::Owner(own) => {
                        tags.check(key, &file.keyring(&own, []))?;
                        let retired = retired_keys(&file, key_id, &own)?;
                        let keyring = file.keyring(&own, retired.iter().map(|(id, key)| (*id, key)));
                        Ok(Opened { file, text, keyring, key: Some(own), slot, warning })
                    }
                    Unwrapped::Writer(own) => {
                        tags.check(key, &Keyring::writer(file.repository_id, key_id, &own, []))?;
                        let keyring = file.writer_keyring(key_id, &own)?;
                        Ok(Opened { file, text, keyring, key: None, slot, warning })
                    }
                }
            }
        }
    }

    /// The repository key, or what a writer has of it: by way of what is kept on this host, then of the cheap slots, then of the costly ones.
    async fn unlock(&self, file: &File, key_id: KeyId, passphrase: &Passphrase) -> Result<Unlocked> {
        let id = file.repository_id;
        let slots = file.any_slots();
        for slot in &slots {
            let kept = self.key_cache.and_then(|cache| cache.load(&slot.id()));
            let kept = kept.and_then(|sealed| slot.unsealed(&sealed, passphrase));
            if let Some(key) = kept.and_then(|key| slot.unwrap_with(&key, id, key_id)) {
                return Ok(Unlocked { key, slot: slot.id(), warning: None });
            }
        }
        let (cheap, costly): (Vec<_>, Vec<_>) = slots.into_iter().partition(AnySlot::is_cheap);
        for slot in cheap.into_iter().chain(costly) {
            let Some(wrapping) = derive(slot, passphrase).await? else { continue };
            if let Some(key) = slot.unwrap_with(&wrapping, id, key_id) {
                let warning = if slot.is_cheap() { None } else { self.keep(slot, passphrase, &wrapping) };
                return Ok(Unlocked { key, slot: slot.id(), warning });
            }
        }
        Err(Error::WrongPassphrase)
    }

    /// Keeps a wrapping key on this host; that it cannot be kept is worth a warning and no more.
    fn keep(&self, slot: AnySlot<'_>, passphrase: &Passphrase, key: &WrappingKey) -> Option<String> {
        let cache = self.key_cache?;
        let kept = random(self.entropy).and_then(|salt| {
            let sealed = key.seal_for_cache(passphrase, salt);
            let sealed =
                sealed.map_err(|source| Error::Codec { object: "a wrapping key".to_owned(), source })?;
            cache.store(&slot.id(), &sealed)
        });
        kept.err().map(|error| format!("the derived key cannot be kept on this host: {error}"))
    }
}

/// What a passphrase has opened.
struct Unlocked {
    key: Unwrapped,
    slot: [u8; 8],
    warning: Option<String>,
}

/// Finds out that nothing is there but what an interrupted probe has left, and gives that.
async fn refuse_if_used(store: &Store) -> Result<Vec<Path>> {
    let mut listed = store.list(&Layout::new().root());
    let mut rubbish = Vec::new();
    while let Some(object) = listed.try_next().await? {
        if ParsedKey::parse(&object.key).is_some() || !object.key.as_ref().contains("/repo.json.probe/") {
            return Err(exists(store, object.key));
        }
        rubbish.push(object.key);
    }
    Ok(rubbish)
}

/// Puts the `repo.json` of a new repository. It is asked for as a create even where the probe found that creates are not honoured: whoever made a
/// repository here meanwhile has taken the probe's objects away, which looks like that, and what it made must not be overwritten.
async fn put_first(store: &Store, text: &Bytes, traits: StoreTraits) -> Result<Resolved> {
    let key = Layout::new().repo_json();
    let asked = if traits.create { None } else { Some(store.create_asked(&key, text.clone()).await?) };
    let honoured = match asked {
        Some(Some(Created::New)) => return Ok(Resolved::Ours),
        None | Some(Some(Created::AlreadyThere)) => true,
        // The store knows no such thing.
        Some(None) => false,
    };
    store.set_create_honoured(honoured);
    store.create_resolved(&key, text.clone(), MAX_REPO_JSON).await
}

fn exists(store: &Store, object: Path) -> Error {
    Error::RepositoryExists { place: store.place().to_owned(), object: object.to_string() }
}

async fn new_file(
    options: &CreateOptions,
    store: StoreTraits,
) -> Result<(File, Keyring, Option<RepositoryKey>)> {
    let entropy = &*options.entropy;
    let repository_id = RepositoryId::from_bytes(random(entropy)?);
    let mut file = File {
        format: FORMAT,
        repository_id,
        created: options.now,
        cipher: options.cipher,
        key_id: None,
        store,
        slots: Vec::new(),
        retired: Vec::new(),
        writers: None,
        retired_writers: Vec::new(),
    };
    let Some(passphrase) = &options.passphrase else {
        return Ok((file, Keyring::plain(repository_id), None));
    };
    let (key_id, key) = (KeyId::from_bytes(random(entropy)?), RepositoryKey::from_bytes(random(entropy)?));
    file.key_id = Some(key_id);
    let slot = NewSlot { passphrase: passphrase.clone(), kdf: options.kdf.clone(), name: None };
    file.slots = vec![owner_slot(entropy, &key, &file, slot).await?];
    let keyring = file.keyring(&key, []);
    Ok((file, keyring, Some(key)))
}

/// Which of the two copies' errors says more: what could be read wins over what could not.
fn worse(store: &Store, first: Error, second: Error) -> Error {
    let missing = |e: &Error| e.is_not_found();
    if missing(&first) && missing(&second) {
        return Error::NoRepository { place: store.place().to_owned() };
    }
    let telling = |e: &Error| {
        matches!(
            e,
            Error::WrongPassphrase
                | Error::PassphraseMissing
                | Error::NotEncrypted
                | Error::Unsupported { .. }
                | Error::Codec { .. }
        )
    };
    if !telling(&first) && (telling(&second) || missing(&first)) { second } else { first }
}
