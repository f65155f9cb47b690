//! Key slots of both kinds: those for reading and writing, and those for writing only.

use pgbr_codec::{
    Kdf, KeyId, NewLock, Passphrase, RepositoryId, RepositoryKey, SLOT_NAME_MAX, Slot, WrappingKey,
    WriterKey, WriterSlot,
};

use super::text::File;
use super::{Entropy, NewSlot, random};
use crate::error::{Error, Result};

/// What a slot has opened.
pub(super) enum Unwrapped {
    /// The repository's key.
    Owner(RepositoryKey),
    /// What a writer has of it.
    Writer(WriterKey),
}

/// A slot of either kind.
#[derive(Clone, Copy)]
pub(super) enum AnySlot<'a> {
    Owner(&'a Slot),
    Writer(&'a WriterSlot),
}

impl File {
    pub(super) fn any_slots(&self) -> Vec<AnySlot<'_>> {
        let writers = self.writers.iter().flatten().map(AnySlot::Writer);
        self.slots.iter().map(AnySlot::Owner).chain(writers).collect()
    }
}

impl AnySlot<'_> {
    pub(super) fn id(&self) -> [u8; 8] {
        match self {
            Self::Owner(slot) => slot.id,
            Self::Writer(slot) => slot.id,
        }
    }

    pub(super) fn is_cheap(&self) -> bool {
        let kdf = match self {
            Self::Owner(slot) => &slot.kdf,
            Self::Writer(slot) => &slot.kdf,
        };
        matches!(kdf, Kdf::Hkdf { .. })
    }

    pub(super) fn unsealed(&self, sealed: &[u8], passphrase: &Passphrase) -> Option<WrappingKey> {
        match self {
            Self::Owner(slot) => WrappingKey::open_from_cache(sealed, passphrase, slot),
            Self::Writer(slot) => WrappingKey::open_from_cache(sealed, passphrase, slot),
        }
    }

    pub(super) fn unwrap_with(
        &self,
        key: &WrappingKey,
        repository: RepositoryId,
        key_id: KeyId,
    ) -> Option<Unwrapped> {
        match self {
            Self::Owner(slot) => slot.unwrap_with(key, repository, key_id).map(Unwrapped::Owner).ok(),
            Self::Writer(slot) => slot.unwrap_writer(key, repository, key_id).map(Unwrapped::Writer).ok(),
        }
    }
}

/// Derives a slot's wrapping key where it may block: Argon2id takes its time. None for a passphrase that cannot be the slot's.
pub(super) async fn derive(slot: AnySlot<'_>, passphrase: &Passphrase) -> Result<Option<WrappingKey>> {
    let passphrase = passphrase.clone();
    let derived = match slot {
        AnySlot::Owner(slot) => {
            let slot = slot.clone();
            tokio::task::spawn_blocking(move || slot.wrapping_key(&passphrase))
        }
        AnySlot::Writer(slot) => {
            let slot = slot.clone();
            tokio::task::spawn_blocking(move || slot.wrapping_key(&passphrase))
        }
    };
    match derived.await.unwrap_or(Err(pgbr_codec::Error::Crypto { primitive: "key derivation" })) {
        Ok(key) => Ok(Some(key)),
        Err(pgbr_codec::Error::WrongPassphrase) => Ok(None),
        Err(source) => Err(Error::Codec { object: "a key slot".to_owned(), source }),
    }
}

/// Whether a passphrase opens one of these slots.
pub(super) async fn opened_by(slots: &[AnySlot<'_>], passphrase: &Passphrase, file: &File) -> Result<bool> {
    let key_id = file.key_id.unwrap_or(KeyId::NONE);
    for slot in slots {
        let key = derive(*slot, passphrase).await?;
        if key.and_then(|key| slot.unwrap_with(&key, file.repository_id, key_id)).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A slot for the repository's key.
pub(super) async fn owner_slot(
    entropy: &dyn Entropy,
    key: &RepositoryKey,
    file: &File,
    new: NewSlot,
) -> Result<Slot> {
    let key = key.clone();
    new_slot(entropy, file, new, move |lock| Slot::wrap(&key, lock)).await
}

/// A slot of either kind, wrapped where it may block.
pub(super) async fn new_slot<const N: usize>(
    entropy: &dyn Entropy,
    file: &File,
    new: NewSlot,
    wrap: impl FnOnce(NewLock<'_>) -> pgbr_codec::Result<Slot<N>> + Send + 'static,
) -> Result<Slot<N>> {
    let NewSlot { passphrase, kdf, name } = new;
    if name.as_ref().is_some_and(|name| name.len() > SLOT_NAME_MAX) {
        let reason = format!("is longer than {SLOT_NAME_MAX} bytes");
        return Err(Error::Invalid { what: "name of a key slot", reason });
    }
    let (slot_id, nonce, salt) = (random(entropy)?, random(entropy)?, random(entropy)?);
    let kdf = kdf.unwrap_or_else(|| Kdf::for_passphrase(&passphrase, salt));
    let (repository, key_id) = (file.repository_id, file.key_id.unwrap_or(KeyId::NONE));
    let wrapped = tokio::task::spawn_blocking(move || {
        wrap(NewLock { repository, key_id, passphrase: &passphrase, slot_id, kdf, nonce })
    });
    let wrapped = wrapped.await.unwrap_or(Err(pgbr_codec::Error::Crypto { primitive: "key derivation" }));
    let wrapped = wrapped.map_err(|source| Error::Codec { object: "a key slot".to_owned(), source })?;
    Ok(wrapped.named(name))
}
