//! `repo.json`: what a repository is, and how its key is had (`docs/format.md`, section 6).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use object_store::path::Path;
use pgbr_codec::{
    Cipher, Kdf, KeyId, Keyring, LaneSalt, Passphrase, RepositoryId, RepositoryKey, RetiredKey,
    SLOT_NAME_MAX, Slot, WrappingKey,
};
use pgbr_manifest::StanzaName;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::key_cache::KeyCache;
use crate::keys::{self, Layout, ParsedKey};
use crate::probe::{StoreTraits, probe};
use crate::store::{Resolved, Store};

/// The format version that this program reads and writes.
const FORMAT: u32 = 1;
/// The largest `repo.json`, in bytes.
const MAX_REPO_JSON: u64 = 256 << 10;
/// How many key slots a repository has at most.
const MAX_SLOTS: usize = 64;
/// How many keys a repository has had before the one of now, at most.
const MAX_RETIRED: usize = 256;

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
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    keyring: Keyring,
    key: Option<RepositoryKey>,
    /// The slot that it was opened by.
    slot: Option<[u8; 8]>,
    file: File,
    text: Bytes,
    warnings: Vec<String>,
    entropy: Arc<dyn Entropy>,
}

/// `repo.json` without its last field, `auth`. The order of the fields is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    format: u32,
    repository_id: RepositoryId,
    created: i64,
    cipher: Cipher,
    key_id: Option<KeyId>,
    store: StoreTraits,
    slots: Vec<Slot>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<RetiredKey>,
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
        let Inner { store, file, .. } = &*self.inner;
        f.debug_struct("Repo").field("store", store).field("id", &file.repository_id).finish_non_exhaustive()
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
        store.set_create_honoured(traits.create);
        let keys = Layout::new();
        match store.create_resolved(&keys.repo_json(), text.clone(), MAX_REPO_JSON).await? {
            Resolved::Ours => {}
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
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, slot, file, text, warnings, entropy }) })
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
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, slot, file, text, warnings, entropy }) })
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
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, slot, file, text, warnings, entropy }) })
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
    /// [`Error::NotEncrypted`]; [`Error::Codec`] for a passphrase that cannot be used; as the store failed: it opens with it, or does not.
    pub async fn add_slot(&self, new: NewSlot) -> Result<Self> {
        let slots = self.inner.file.slots.clone();
        self.put_slot(slots, new).await
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
    /// [`Error::Invalid`] for an unknown slot or the last one; as the store failed.
    pub async fn remove_slot(&self, id: [u8; 8]) -> Result<Self> {
        let file = &self.inner.file;
        let slots: Vec<Slot> = file.slots.iter().filter(|s| s.id != id).cloned().collect();
        let invalid = |reason: &str| Err(Error::Invalid { what: "key slot", reason: reason.to_owned() });
        if slots.len() == file.slots.len() {
            return invalid("is not one of the repository's");
        }
        if slots.is_empty() {
            return invalid("cannot be removed: nothing else opens the repository");
        }
        let slot = self.inner.slot.filter(|own| *own != id);
        self.replace(File { slots, ..file.clone() }, self.inner.keyring.clone(), self.inner.key.clone(), slot)
            .await
    }

    /// Gives the repository a new key: objects are sealed under it from now on, those that are there stay readable. Only `new` opens it then:
    /// the other passphrases, which nobody here knows, are gone with their slots. Gives the repository as it is now.
    ///
    /// Only for who holds the leases of all stanzas besides: whoever writes with the old key does not know the new one.
    ///
    /// # Errors
    /// As [`Repo::add_slot`]: it opens with the passphrases of before, or with the new one.
    pub async fn rotate_key(&self, new: NewSlot) -> Result<Self> {
        let Inner { key: Some(old), file, entropy, .. } = &*self.inner else {
            return Err(Error::NotEncrypted);
        };
        if file.retired.len() >= MAX_RETIRED {
            return Err(Error::Invalid {
                what: "retired keys",
                reason: format!("are {MAX_RETIRED} at most"),
            });
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
        let mut file = File { key_id: Some(key_id), slots: Vec::new(), retired, ..file.clone() };
        let slot = new_slot(entropy, &key, &file, new).await?;
        let keyring = Keyring::sealed_with(file.repository_id, key_id, &key, before);
        let id = Some(slot.id);
        file.slots = vec![slot];
        self.replace(file, keyring, Some(key), id).await
    }

    async fn put_slot(&self, mut slots: Vec<Slot>, new: NewSlot) -> Result<Self> {
        let Inner { key, slot, keyring, file, entropy, .. } = &*self.inner;
        let Some(key) = key else { return Err(Error::NotEncrypted) };
        if slots.len() >= MAX_SLOTS {
            return Err(Error::Invalid { what: "key slots", reason: format!("are {MAX_SLOTS} at most") });
        }
        let added = new_slot(&**entropy, key, file, new).await?;
        // What was opened by a slot that is replaced is open by the one in its place.
        let slot = slot.filter(|own| slots.iter().any(|slot| slot.id == *own)).or(Some(added.id));
        slots.push(added);
        self.replace(File { slots, ..file.clone() }, keyring.clone(), Some(key.clone()), slot).await
    }

    /// The key slots.
    pub fn slot_infos(&self) -> Vec<SlotInfo> {
        let info = |slot: &Slot| SlotInfo {
            id: slot.id,
            name: slot.name.clone(),
            generated: matches!(slot.kdf, Kdf::Hkdf { .. }),
            in_use: self.inner.slot == Some(slot.id),
        };
        self.inner.file.slots.iter().map(info).collect()
    }

    /// How many keys the repository had before the one of now.
    pub fn retired_keys(&self) -> usize {
        self.inner.file.retired.len()
    }

    /// The ids of the key slots.
    pub fn slots(&self) -> Vec<[u8; 8]> {
        self.inner.file.slots.iter().map(|slot| slot.id).collect()
    }

    /// The repository's key: for a copy that the operator puts in a safe.
    pub fn key(&self) -> Option<&RepositoryKey> {
        self.inner.key.as_ref()
    }

    /// The store it lies in.
    pub fn store(&self) -> &Store {
        &self.inner.store
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

    /// A fresh lane salt: one for each sealing process and kind of object, one for each WAL file and record.
    ///
    /// # Errors
    /// [`Error::Entropy`].
    pub fn lane_salt(&self) -> Result<LaneSalt> {
        Ok(LaneSalt::from_bytes(self.random()?))
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
        let Inner { store, warnings, entropy, .. } = &*self.inner;
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
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, slot, file, text, warnings, entropy }) })
    }
}

/// The keys that older objects are sealed under.
fn retired_keys(file: &File, key_id: KeyId, key: &RepositoryKey) -> Result<Vec<(KeyId, RepositoryKey)>> {
    let open = |retired: &RetiredKey| {
        let opened = retired.unwrap_with(file.repository_id, (key_id, key));
        Ok((retired.key_id, opened.map_err(in_repo_json)?))
    };
    file.retired.iter().map(open).collect()
}

fn in_repo_json(source: pgbr_codec::Error) -> Error {
    Error::Codec { object: "repo.json".to_owned(), source }
}

/// Random bytes from a source.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

impl File {
    /// The text of `repo.json`: the fields, and `auth` over them.
    fn render(&self, keyring: &Keyring) -> Result<Bytes> {
        let failed = |source| Error::Codec {
            object: "repo.json".to_owned(),
            source: pgbr_codec::Error::Json { what: "repo.json", source },
        };
        let fields = serde_json::to_string(self).map_err(failed)?;
        let auth = data_encoding::HEXLOWER.encode(&keyring.auth_tag(fields.as_bytes()));
        let open = fields.strip_suffix('}').unwrap_or(&fields);
        Ok(format!(r#"{open},"auth":"{auth}"}}"#).into())
    }

    /// Reads the text of `repo.json`: its fields, the text that `auth` is over, and `auth`.
    fn parse(key: &Path, text: &[u8]) -> Result<(Self, String, [u8; 32])> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let bad = |reason: &str| Error::corrupt(key, reason);
        let text = std::str::from_utf8(text).map_err(|e| Error::corrupt(key, e))?;
        let version: Version = serde_json::from_str(text).map_err(|e| Error::corrupt(key, e))?;
        if version.format != FORMAT {
            let reason = format!("it is of format version {}, and {FORMAT} is known", version.format);
            return Err(Error::Unsupported { object: key.to_string(), reason });
        }
        let (open, auth) =
            text.rsplit_once(r#","auth":""#).ok_or_else(|| bad("it has no auth at its end"))?;
        let auth =
            auth.strip_suffix(r#""}"#).and_then(keys::hex).ok_or_else(|| bad("auth has no 64 hex digits"))?;
        let fields = format!("{open}}}");
        let file: Self = serde_json::from_str(&fields).map_err(|e| Error::corrupt(key, e))?;
        let (encrypted, has_key) = (file.cipher != Cipher::None, file.key_id.is_some());
        if encrypted != has_key || encrypted == file.slots.is_empty() || file.slots.len() > MAX_SLOTS {
            return Err(bad("cipher, key id and key slots do not fit"));
        }
        if file.retired.len() > if encrypted { MAX_RETIRED } else { 0 } {
            return Err(bad("it has more retired keys than there can be"));
        }
        Ok((file, fields, auth))
    }
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
        let (file, fields, auth) = File::parse(key, &text)?;
        let authentic = |keyring: &Keyring| match keyring.auth_matches(fields.as_bytes(), &auth) {
            true => Ok(()),
            false => Err(Error::corrupt(
                key,
                "it is not authentic: damaged or changed by somebody without the key",
            )),
        };
        match (file.key_id, self.passphrase) {
            (None, Some(_)) => Err(Error::NotEncrypted),
            (None, None) => {
                let keyring = Keyring::plain(file.repository_id);
                authentic(&keyring)?;
                Ok(Opened { file, text, keyring, key: None, slot: None, warning: None })
            }
            (Some(_), None) => Err(Error::PassphraseMissing),
            (Some(key_id), Some(passphrase)) => {
                let (key, slot, warning) = self.unwrap(&file, key_id, passphrase).await?;
                authentic(&Keyring::sealed(file.repository_id, key_id, &key))?;
                let retired = retired_keys(&file, key_id, &key)?;
                let retired = retired.iter().map(|(id, key)| (*id, key));
                let keyring = Keyring::sealed_with(file.repository_id, key_id, &key, retired);
                Ok(Opened { file, text, keyring, key: Some(key), slot: Some(slot), warning })
            }
        }
    }

    /// The repository key, by way of what is kept on this host, then of the cheap slots, then of the costly ones.
    async fn unwrap(
        &self,
        file: &File,
        key_id: KeyId,
        passphrase: &Passphrase,
    ) -> Result<(RepositoryKey, [u8; 8], Option<String>)> {
        let open = |slot: &Slot, key: &WrappingKey| slot.unwrap_with(key, file.repository_id, key_id).ok();
        for slot in &file.slots {
            let kept = self.key_cache.and_then(|cache| cache.load(&slot.id));
            let kept = kept.and_then(|sealed| WrappingKey::open_from_cache(&sealed, passphrase, slot));
            if let Some(key) = kept.and_then(|key| open(slot, &key)) {
                return Ok((key, slot.id, None));
            }
        }
        let cheap = |slot: &&Slot| matches!(slot.kdf, Kdf::Hkdf { .. });
        let ordered = file.slots.iter().filter(cheap).chain(file.slots.iter().filter(|s| !cheap(s)));
        for slot in ordered {
            let wrapping = match derive(slot, passphrase).await {
                Err(pgbr_codec::Error::WrongPassphrase) => continue,
                other => other.map_err(|source| Error::Codec { object: "a key slot".to_owned(), source })?,
            };
            if let Some(key) = open(slot, &wrapping) {
                let warning = if cheap(&slot) { None } else { self.keep(slot, passphrase, &wrapping) };
                return Ok((key, slot.id, warning));
            }
        }
        Err(Error::WrongPassphrase)
    }

    /// Keeps a wrapping key on this host; that it cannot be kept is worth a warning and no more.
    fn keep(&self, slot: &Slot, passphrase: &Passphrase, key: &WrappingKey) -> Option<String> {
        let cache = self.key_cache?;
        let kept = random(self.entropy).and_then(|salt| {
            let sealed = key.seal_for_cache(passphrase, salt);
            let sealed =
                sealed.map_err(|source| Error::Codec { object: "a wrapping key".to_owned(), source })?;
            cache.store(&slot.id, &sealed)
        });
        kept.err().map(|error| format!("the derived key cannot be kept on this host: {error}"))
    }
}

/// Derives a slot's wrapping key where it may block: Argon2id takes its time.
async fn derive(slot: &Slot, passphrase: &Passphrase) -> pgbr_codec::Result<WrappingKey> {
    let (slot, passphrase) = (slot.clone(), passphrase.clone());
    let derived = tokio::task::spawn_blocking(move || slot.wrapping_key(&passphrase)).await;
    derived.unwrap_or(Err(pgbr_codec::Error::Crypto { primitive: "key derivation" }))
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
    };
    let Some(passphrase) = &options.passphrase else {
        return Ok((file, Keyring::plain(repository_id), None));
    };
    let (key_id, key) = (KeyId::from_bytes(random(entropy)?), RepositoryKey::from_bytes(random(entropy)?));
    file.key_id = Some(key_id);
    let slot = NewSlot { passphrase: passphrase.clone(), kdf: options.kdf.clone(), name: None };
    file.slots = vec![new_slot(entropy, &key, &file, slot).await?];
    let keyring = Keyring::sealed(repository_id, key_id, &key);
    Ok((file, keyring, Some(key)))
}

async fn new_slot(entropy: &dyn Entropy, key: &RepositoryKey, file: &File, new: NewSlot) -> Result<Slot> {
    let NewSlot { passphrase, kdf, name } = new;
    if name.as_ref().is_some_and(|name| name.len() > SLOT_NAME_MAX) {
        let reason = format!("is longer than {SLOT_NAME_MAX} bytes");
        return Err(Error::Invalid { what: "name of a key slot", reason });
    }
    let (id, nonce, salt) = (random(entropy)?, random(entropy)?, random(entropy)?);
    let kdf = kdf.unwrap_or_else(|| Kdf::for_passphrase(&passphrase, salt));
    let (repository, key_id) = (file.repository_id, file.key_id.unwrap_or(KeyId::NONE));
    let key = key.clone();
    let wrapped = tokio::task::spawn_blocking(move || {
        Slot::wrap(&key, repository, key_id, &passphrase, id, kdf, nonce)
    });
    let wrapped = wrapped.await.unwrap_or(Err(pgbr_codec::Error::Crypto { primitive: "key derivation" }));
    let wrapped = wrapped.map_err(|source| Error::Codec { object: "a key slot".to_owned(), source })?;
    Ok(wrapped.named(name))
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
