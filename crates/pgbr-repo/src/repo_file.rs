//! `repo.json`: what a repository is, and how its key is had (`docs/format.md`, section 6).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use object_store::path::Path;
use pgbr_codec::{
    Cipher, Kdf, KeyId, Keyring, LaneSalt, Passphrase, RepositoryId, RepositoryKey, Slot, WrappingKey,
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
        refuse_if_used(&store).await?;
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
        let entropy = options.entropy;
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, file, text, warnings: Vec::new(), entropy }) })
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
        let Opened { file, text, keyring, key, warning } = opened;
        warnings.extend(warning);
        store.set_create_honoured(file.store.create);
        store.expect_repository();
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, file, text, warnings, entropy }) })
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
        let Opened { file, text, keyring, key, warning } =
            opening.open_text(&Layout::new().repo_json(), text).await?;
        store.set_create_honoured(file.store.create);
        store.expect_repository();
        let warnings = warning.into_iter().collect();
        Ok(Self { inner: Arc::new(Inner { store, keyring, key, file, text, warnings, entropy }) })
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
        let keys = Layout::new();
        let mut healed = false;
        for key in [keys.repo_json_copy(), keys.repo_json()] {
            let same = match self.store().get(&key, MAX_REPO_JSON).await {
                Ok(text) => text == self.inner.text,
                Err(error) if error.is_not_found() || error.is_damage() => false,
                Err(error) => return Err(error),
            };
            if !same {
                self.store().overwrite(&key, self.inner.text.clone()).await?;
                healed = true;
            }
        }
        Ok(healed)
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
    /// # Errors
    /// [`Error::NotEncrypted`]; [`Error::Codec`] for a passphrase that cannot be used; as the store failed.
    pub async fn add_slot(&self, passphrase: &Passphrase, kdf: Option<Kdf>) -> Result<Self> {
        let Some(key) = &self.inner.key else { return Err(Error::NotEncrypted) };
        let file = &self.inner.file;
        if file.slots.len() >= MAX_SLOTS {
            return Err(Error::Invalid { what: "key slots", reason: format!("are {MAX_SLOTS} at most") });
        }
        let slot = new_slot(&*self.inner.entropy, key, file, passphrase, kdf).await?;
        let slots = file.slots.iter().cloned().chain([slot]).collect();
        self.replace_slots(slots).await
    }

    /// Removes the key slot with this id; gives the repository as it is now.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown slot or the last one; as the store failed.
    pub async fn remove_slot(&self, id: [u8; 8]) -> Result<Self> {
        let slots: Vec<Slot> = self.inner.file.slots.iter().filter(|s| s.id != id).cloned().collect();
        let invalid = |reason: &str| Err(Error::Invalid { what: "key slot", reason: reason.to_owned() });
        if slots.len() == self.inner.file.slots.len() {
            return invalid("is not one of the repository's");
        }
        if slots.is_empty() {
            return invalid("cannot be removed: nothing else opens the repository");
        }
        self.replace_slots(slots).await
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
    async fn replace_slots(&self, slots: Vec<Slot>) -> Result<Self> {
        let keys = Layout::new();
        let Inner { store, keyring, key, file, warnings, entropy, .. } = &*self.inner;
        if store.get(&keys.repo_json(), MAX_REPO_JSON).await? != self.inner.text {
            return Err(Error::Invalid {
                what: "repo.json",
                reason: "was changed since it was opened: open it again".to_owned(),
            });
        }
        let file = File { slots, ..file.clone() };
        let text = file.render(keyring)?;
        store.overwrite(&keys.repo_json_copy(), text.clone()).await?;
        store.overwrite(&keys.repo_json(), text.clone()).await?;
        let inner = Inner {
            store: store.clone(),
            keyring: keyring.clone(),
            key: key.clone(),
            file,
            text,
            warnings: warnings.clone(),
            entropy: Arc::clone(entropy),
        };
        Ok(Self { inner: Arc::new(inner) })
    }
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
    warning: Option<String>,
}

impl Opening<'_> {
    async fn try_open(&self, key: &Path) -> Result<Opened> {
        let text = self.store.get(key, MAX_REPO_JSON).await?;
        self.open_text(key, text).await
    }

    async fn open_text(&self, key: &Path, text: Bytes) -> Result<Opened> {
        let (file, fields, auth) = File::parse(key, &text)?;
        let (keyring, repository_key, warning) = match (file.key_id, self.passphrase) {
            (None, Some(_)) => return Err(Error::NotEncrypted),
            (None, None) => (Keyring::plain(file.repository_id), None, None),
            (Some(_), None) => return Err(Error::PassphraseMissing),
            (Some(key_id), Some(passphrase)) => {
                let (key, warning) = self.unwrap(&file, key_id, passphrase).await?;
                (Keyring::sealed(file.repository_id, key_id, &key), Some(key), warning)
            }
        };
        match keyring.auth_matches(fields.as_bytes(), &auth) {
            true => Ok(Opened { file, text, keyring, key: repository_key, warning }),
            false => Err(Error::corrupt(
                key,
                "it is not authentic: damaged or changed by somebody without the key",
            )),
        }
    }

    /// The repository key, by way of what is kept on this host, then of the cheap slots, then of the costly ones.
    async fn unwrap(
        &self,
        file: &File,
        key_id: KeyId,
        passphrase: &Passphrase,
    ) -> Result<(RepositoryKey, Option<String>)> {
        let open = |slot: &Slot, key: &WrappingKey| slot.unwrap_with(key, file.repository_id, key_id).ok();
        for slot in &file.slots {
            let kept = self.key_cache.and_then(|cache| cache.load(&slot.id));
            let kept = kept.and_then(|sealed| WrappingKey::open_from_cache(&sealed, passphrase, slot));
            if let Some(key) = kept.and_then(|key| open(slot, &key)) {
                return Ok((key, None));
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
                return Ok((key, warning));
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

async fn refuse_if_used(store: &Store) -> Result<()> {
    let mut listed = store.list(&Layout::new().root());
    while let Some(object) = listed.try_next().await? {
        // What an interrupted probe has left is in nobody's way.
        if ParsedKey::parse(&object.key).is_some() || !object.key.as_ref().contains("/repo.json.probe/") {
            return Err(exists(store, object.key));
        }
    }
    Ok(())
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
    };
    let Some(passphrase) = &options.passphrase else {
        return Ok((file, Keyring::plain(repository_id), None));
    };
    let (key_id, key) = (KeyId::from_bytes(random(entropy)?), RepositoryKey::from_bytes(random(entropy)?));
    file.key_id = Some(key_id);
    file.slots = vec![new_slot(entropy, &key, &file, passphrase, options.kdf.clone()).await?];
    let keyring = Keyring::sealed(repository_id, key_id, &key);
    Ok((file, keyring, Some(key)))
}

async fn new_slot(
    entropy: &dyn Entropy,
    key: &RepositoryKey,
    file: &File,
    passphrase: &Passphrase,
    kdf: Option<Kdf>,
) -> Result<Slot> {
    let (id, nonce, salt) = (random(entropy)?, random(entropy)?, random(entropy)?);
    let kdf = kdf.unwrap_or_else(|| Kdf::for_passphrase(passphrase, salt));
    let (repository, key_id) = (file.repository_id, file.key_id.unwrap_or(KeyId::NONE));
    let (key, passphrase) = (key.clone(), passphrase.clone());
    let wrapped = tokio::task::spawn_blocking(move || {
        Slot::wrap(&key, repository, key_id, &passphrase, id, kdf, nonce)
    });
    let wrapped = wrapped.await.unwrap_or(Err(pgbr_codec::Error::Crypto { primitive: "key derivation" }));
    wrapped.map_err(|source| Error::Codec { object: "a key slot".to_owned(), source })
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
