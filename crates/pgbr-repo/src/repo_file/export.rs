//! A `repo.json` for the safe, and the way back from it.
//!
//! What is exported is the text of `repo.json` as it would be with one slot alone, for a passphrase of its own. It opens what was sealed until
//! then, whatever becomes of `repo.json`, of its copy and of the passphrases in them. No passphrase of the repository is in it, those for writing
//! only neither: what was removed does not come back by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pgbr_codec::{KeyId, KeyMode, OBJECT_HEADER_LEN, ObjectHeader};
use pgbr_manifest::WalFileName;

use super::{
    Bytes, Entropy, Error, FORMAT_WRITERS, File, Inner, Layout, MAX_REPO_JSON, NewSlot, Opened, Opening,
    Passphrase, Path, Repo, Resolved, Result, Slot, Store, TryStreamExt, owner_slot, retired_keys,
};
use crate::keys::ParsedKey;

/// What an exported key is called in errors.
const NAME: &str = "exported key";

/// What was done with an exported key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Imported {
    /// `repo.json` was made from it.
    Made {
        /// Keys that objects are sealed under and that came after it.
        unknown: Vec<KeyId>,
        /// Whether the repository has or had passphrases for writing only: none of them is in it.
        for_writers: bool,
    },
    /// `repo.json` was there: a passphrase was added.
    Added,
}

/// One of the two copies of `repo.json`, as an exported key finds it.
enum Found {
    /// It is not there, or damaged.
    Lost,
    /// It is of the exported key.
    Same(Box<Repo>),
    /// The exported key has replaced the one in it.
    Older,
    /// The exported key is not the newest of this repository.
    Newer(Option<KeyId>),
    /// It is of another repository.
    Other(String),
}

/// What the objects of a repository tell of its keys.
struct Belongings {
    /// Keys that came after the exported one.
    unknown: Vec<KeyId>,
    /// Whether content is sealed as of a repository with writers.
    for_writers: bool,
}

/// What to look at for [`Belongings`].
#[derive(Default)]
struct Telling {
    /// What the repository says of its stanzas and backups.
    records: Vec<Path>,
    /// A data pack of each run: one process has sealed them all.
    packs: BTreeMap<(String, u64), Path>,
    /// The last segment of each archive.
    wal: BTreeMap<String, Path>,
}

impl Repo {
    /// The text of a `repo.json` that opens by `new` alone.
    ///
    /// # Errors
    /// [`Error::NotEncrypted`], [`Error::WriteOnly`]; [`Error::Codec`] for a passphrase that cannot be used.
    pub async fn export(&self, new: NewSlot) -> Result<Bytes> {
        self.require_reader("export the key")?;
        let Inner { key, keyring, file, entropy, .. } = &*self.inner;
        let key = key.as_ref().ok_or(Error::NotEncrypted)?;
        let slot = owner_slot(&**entropy, key, file, new).await?;
        file.opened_alone_by(slot).render(keyring)
    }

    /// Opens a repository by what [`Repo::export`] gave, without a look at its `repo.json`.
    ///
    /// # Errors
    /// [`Error::WrongPassphrase`], [`Error::Corrupt`], [`Error::NotEncrypted`].
    pub async fn open_exported(
        store: Store,
        exported: Bytes,
        passphrase: &Passphrase,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self> {
        let opening =
            Opening { store: &store, passphrase: Some(passphrase), key_cache: None, entropy: &*entropy };
        let Opened { file, text, keyring, key, slot, .. } =
            opening.open_text(&Path::from(NAME), exported).await?;
        store.set_create_honoured(file.store.create);
        let warnings = Vec::new();
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy }) })
    }

    /// For a repository that was opened by an exported key: the same as its own `repo.json` says, which is there; none where that and its
    /// copy are lost, or of a key that the exported one has replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the exported key is not of this repository, opens nothing in it, or was replaced since; as the store failed.
    pub async fn present(&self) -> Result<Option<Self>> {
        Ok(self.look().await?.0)
    }

    /// For a repository that was opened by an exported key: lets `new` open it. Where `repo.json` and its copy are lost they are made again,
    /// with this slot alone; else it is added to the slots that are there, those for writing only among them.
    ///
    /// Where it is [`present`](Repo::present), only for who holds the lease of the repository's record.
    ///
    /// # Errors
    /// As [`Repo::present`]; [`Error::Invalid`] for a passphrase that opens it for writing only; [`Error::WriteOnly`].
    pub async fn import(&self, new: NewSlot) -> Result<(Self, Imported)> {
        let (present, older) = self.look().await?;
        if let Some(present) = present {
            present.heal().await?;
            return Ok((present.add_slot(new).await?, Imported::Added));
        }
        let Belongings { unknown, for_writers } = self.check_belongs().await?;
        let file = if for_writers { self.inner.file.of_writers() } else { self.inner.file.clone() };
        Ok((self.make(file, new, older).await?, Imported::Made { unknown, for_writers }))
    }

    /// The repository that is here; and whether a `repo.json` is that the exported key has replaced.
    async fn look(&self) -> Result<(Option<Self>, bool)> {
        let keys = Layout::new();
        let mut older = false;
        for copy in [keys.repo_json(), keys.repo_json_copy()] {
            match self.find(&copy).await? {
                Found::Lost => {}
                Found::Same(present) => return Ok((Some(*present), false)),
                Found::Older => older = true,
                Found::Newer(Some(key)) => {
                    return Err(unfit(format!("was replaced by key {key} after it was exported")));
                }
                Found::Newer(None) => return Err(unfit("is of no key that repo.json knows".to_owned())),
                Found::Other(id) => {
                    return Err(unfit(format!("is of another repository than {id}, which is here")));
                }
            }
        }
        self.check_belongs().await?;
        Ok((None, older))
    }

    async fn find(&self, copy: &Path) -> Result<Found> {
        let text = match self.store().get(copy, MAX_REPO_JSON).await {
            Ok(text) => text,
            Err(error) if error.is_not_found() || error.is_damage() => return Ok(Found::Lost),
            Err(error) => return Err(error),
        };
        let (file, tags) = match File::parse(copy, &text) {
            Ok(parsed) => parsed,
            Err(error @ Error::Unsupported { .. }) => return Err(error),
            Err(_) => return Ok(Found::Lost),
        };
        let Inner { key, file: own, entropy, .. } = &*self.inner;
        if file.repository_id != own.repository_id {
            return Ok(Found::Other(file.repository_id.to_string()));
        }
        if file.key_id == own.key_id {
            let (Some(key), Some(key_id)) = (key, file.key_id) else { return Ok(Found::Lost) };
            if tags.check(copy, &file.keyring(key, [])).is_err() {
                return Ok(Found::Lost);
            }
            // It may have come to have writers since the export.
            let retired = retired_keys(&file, key_id, key)?;
            let keyring = file.keyring(key, retired.iter().map(|(id, key)| (*id, key)));
            let (store, key, entropy) = (self.store.clone(), Some(key.clone()), Arc::clone(entropy));
            let (slot, warnings) = (None, Vec::new());
            let inner = Arc::new(Inner { keyring, key, slot, file, text, warnings, entropy });
            return Ok(Found::Same(Box::new(Self { store, inner })));
        }
        let is_retired =
            |id: Option<KeyId>, of: &File| of.retired.iter().any(|retired| Some(retired.key_id) == id);
        Ok(match is_retired(file.key_id, own) {
            true => Found::Older,
            false if is_retired(own.key_id, &file) => Found::Newer(file.key_id),
            false => Found::Newer(None),
        })
    }

    /// Sees that the keys open something of what is here.
    async fn check_belongs(&self) -> Result<Belongings> {
        let file = &self.inner.file;
        let known: BTreeSet<KeyId> =
            file.retired.iter().map(|retired| retired.key_id).chain(file.key_id).collect();
        let Telling { records, packs, wal } = self.telling().await?;
        let (mut unknown, mut ours, mut other) = (BTreeSet::new(), false, None);
        for record in &records {
            let Some(header) = self.header_of(record).await? else { continue };
            if header.repository != file.repository_id {
                other = Some(header.repository);
            } else if known.contains(&header.key_id) {
                ours = true;
            } else {
                unknown.insert(header.key_id);
            }
        }
        match (ours, other) {
            (true, _) => {}
            (false, Some(other)) => {
                return Err(unfit(format!("is of another repository than {other}, which is here")));
            }
            (false, None) => return Err(unfit("opens nothing of what is here".to_owned())),
        }
        let mut for_writers = file.writers.is_some();
        let mut content = packs.values().chain(wal.values());
        while !for_writers && let Some(object) = content.next() {
            let header = self.header_of(object).await?;
            for_writers = header.is_some_and(|header| {
                header.repository == file.repository_id && header.mode == KeyMode::PublicKey
            });
        }
        Ok(Belongings { unknown: unknown.into_iter().collect(), for_writers })
    }

    /// Lists what is here, and picks what tells enough of it.
    async fn telling(&self) -> Result<Telling> {
        let mut telling = Telling::default();
        let mut listed = self.store().list(&Layout::new().root());
        while let Some(object) = listed.try_next().await? {
            match ParsedKey::parse(&object.key) {
                Some(ParsedKey::Stanza { .. } | ParsedKey::Manifest { .. }) => {
                    telling.records.push(object.key);
                }
                Some(ParsedKey::Pack { stanza, label, attempt, index: false, .. }) => {
                    telling.packs.insert((format!("{stanza} {label}"), attempt), object.key);
                }
                Some(ParsedKey::Wal { stanza, id, file: WalFileName::Segment(_), .. }) => {
                    let last = telling.wal.entry(format!("{stanza} {id}")).or_insert(object.key.clone());
                    *last = object.key.max(last.clone());
                }
                _ => {}
            }
        }
        Ok(telling)
    }

    /// The header of an object; none where it is gone or is none.
    async fn header_of(&self, object: &Path) -> Result<Option<ObjectHeader>> {
        match self.store().get_range(object, 0..OBJECT_HEADER_LEN as u64).await {
            Ok(head) => Ok(ObjectHeader::parse(&head).ok()),
            Err(error) if error.is_not_found() || error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes `repo.json` and its copy, so that `new` alone opens them; where none is to be replaced, only if there is none.
    async fn make(&self, file: File, new: NewSlot, replace: bool) -> Result<Self> {
        let (store, key, entropy) = (&self.store, self.owner_key()?, &self.inner.entropy);
        let slot = owner_slot(&**entropy, key, &file, new).await?;
        let id = Some(slot.id);
        let file = file.opened_alone_by(slot);
        let keyring = match file.writers {
            Some(_) => self.inner.keyring.clone().for_writers(),
            None => self.inner.keyring.clone(),
        };
        let text = file.render(&keyring)?;
        let keys = Layout::new();
        store.overwrite(&keys.repo_json_copy(), text.clone()).await?;
        let is_there = store.exists(&keys.repo_json()).await?;
        // What is there and is not to be replaced is damaged: it was looked at.
        if replace || is_there || !store.create_honoured() {
            store.overwrite(&keys.repo_json(), text.clone()).await?;
        } else if let Resolved::Others(_) =
            store.create_resolved(&keys.repo_json(), text.clone(), MAX_REPO_JSON).await?
        {
            return Err(super::exists(store, keys.repo_json()));
        }
        store.expect_repository();
        let (store, key, warnings, entropy) =
            (store.clone(), Some(key.clone()), Vec::new(), Arc::clone(entropy));
        Ok(Self { store, inner: Arc::new(Inner { keyring, key, slot: id, file, text, warnings, entropy }) })
    }
}

impl File {
    /// The same with one slot, and no writers.
    fn opened_alone_by(&self, slot: Slot) -> Self {
        let writers = self.writers.as_ref().map(|_| Vec::new());
        Self { slots: vec![slot], writers, retired_writers: Vec::new(), ..self.clone() }
    }

    /// The same of a repository that had writers.
    fn of_writers(&self) -> Self {
        let writers = Some(self.writers.clone().unwrap_or_default());
        Self { format: FORMAT_WRITERS, writers, ..self.clone() }
    }
}

fn unfit(reason: String) -> Error {
    Error::Invalid { what: NAME, reason }
}
