//! Key slots: the repository key, or the part of it that only writes, wrapped once for each passphrase that opens it.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::BASE32_NOPAD;
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{KEY_LEN, Secret, hkdf_sha256};
use crate::writer::WRITER_KEY_LEN;
use crate::{Error, KeyId, RepositoryId, RepositoryKey, Result, TAG_LEN, WriterKey};

/// What a passphrase that pgbr generated begins with.
const KEY_PREFIX: &str = "pgbr-key-";
const SLOT_INFO: &[u8] = b"pgbr slot v1";
const WRITER_INFO: &[u8] = b"pgbr writer slot v1";
const CACHE_MAGIC: [u8; 8] = *b"PGBRWKC1";
pub(crate) const WRAPPED_LEN: usize = KEY_LEN + TAG_LEN;
pub(crate) const WRITER_WRAPPED_LEN: usize = WRITER_KEY_LEN + TAG_LEN;

/// What opens a key slot. Wiped when dropped, never shown.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase as the operator gave it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// A generated key as a passphrase: `pgbr-key-` and 52 base32 digits for 32 random bytes, drawn by the caller.
    pub fn generated(bytes: &[u8; KEY_LEN]) -> Self {
        let digits = Zeroizing::new(BASE32_NOPAD.encode(bytes));
        Self(Zeroizing::new(format!("{KEY_PREFIX}{}", Zeroizing::new(digits.to_ascii_lowercase()).as_str())))
    }

    /// The text: for showing a generated key once, or handing it on.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is a key that pgbr generated, strong enough for a fast key derivation.
    pub fn is_generated_key(&self) -> bool {
        self.key_bytes().is_some()
    }

    /// The 32 random bytes of a generated key. Digits are read in either case.
    fn key_bytes(&self) -> Option<Secret> {
        let digits = Zeroizing::new(self.0.strip_prefix(KEY_PREFIX)?.to_ascii_uppercase());
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(digits.as_bytes()).ok()?);
        Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// How a slot's wrapping key comes from its passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields,
    try_from = "ReadKdf"
)]
#[non_exhaustive]
pub enum Kdf {
    /// Argon2id version 1.3: slow, for what a person made up.
    Argon2id {
        /// Memory in KiB: 8 to 1,048,576, and at least 8 a lane.
        memory_kib: u32,
        /// Passes over the memory: 1 to 16.
        passes: u32,
        /// Lanes: 1 to 8.
        lanes: u32,
        /// 16 random bytes.
        #[serde(with = "hex")]
        salt: [u8; 16],
    },
    /// HKDF-SHA-256: fast, for a key that pgbr generated.
    Hkdf {
        /// 16 random bytes.
        #[serde(with = "hex")]
        salt: [u8; 16],
    },
}

/// What [`Kdf`] is read as, before its bounds are checked.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
enum ReadKdf {
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        #[serde(with = "hex")]
        salt: [u8; 16],
    },
    Hkdf {
        #[serde(with = "hex")]
        salt: [u8; 16],
    },
}

impl TryFrom<ReadKdf> for Kdf {
    type Error = Error;

    fn try_from(read: ReadKdf) -> Result<Self> {
        let kdf = match read {
            ReadKdf::Argon2id { memory_kib, passes, lanes, salt } => {
                Self::Argon2id { memory_kib, passes, lanes, salt }
            }
            ReadKdf::Hkdf { salt } => Self::Hkdf { salt },
        };
        kdf.check()?;
        Ok(kdf)
    }
}

impl Kdf {
    /// Argon2id as pgbr writes it: 64 MiB, 3 passes, 1 lane.
    pub fn argon2id(salt: [u8; 16]) -> Self {
        Self::Argon2id { memory_kib: 64 << 10, passes: 3, lanes: 1, salt }
    }

    /// HKDF, which [`Slot::wrap`] accepts for a generated key only.
    pub fn hkdf(salt: [u8; 16]) -> Self {
        Self::Hkdf { salt }
    }

    /// The right one for this passphrase.
    pub fn for_passphrase(passphrase: &Passphrase, salt: [u8; 16]) -> Self {
        if passphrase.is_generated_key() { Self::hkdf(salt) } else { Self::argon2id(salt) }
    }

    fn salt(&self) -> &[u8; 16] {
        match self {
            Self::Argon2id { salt, .. } | Self::Hkdf { salt } => salt,
        }
    }

    fn check(&self) -> Result<()> {
        let Self::Argon2id { memory_kib, passes, lanes, .. } = *self else {
            return Ok(());
        };
        let bounded = |parameter, value, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(Error::KdfOutOfBounds { parameter, value, min, max })
            }
        };
        bounded("lanes", lanes, 1, 8)?;
        bounded("passes", passes, 1, 16)?;
        // Argon2 itself wants 8 KiB a lane.
        bounded("memory-kib", memory_kib, 8 * lanes, 1 << 20)
    }

    /// The expensive step, for Argon2id.
    fn derive(&self, passphrase: &Passphrase) -> Result<Secret> {
        self.check()?;
        match *self {
            Self::Hkdf { ref salt } => {
                // Anything but a generated key is not what this slot was made for.
                let key = passphrase.key_bytes().ok_or(Error::WrongPassphrase)?;
                Ok(hkdf_sha256(salt, &key[..], &[SLOT_INFO]))
            }
            Self::Argon2id { memory_kib, passes, lanes, ref salt } => {
                let failed = |_| Error::Crypto { primitive: "Argon2id" };
                let params = Params::new(memory_kib, passes, lanes, Some(KEY_LEN)).map_err(failed)?;
                let mut memory: Vec<Block> = Vec::new();
                let blocks = params.block_count();
                memory.try_reserve_exact(blocks).map_err(|_| Error::OutOfMemory { kib: memory_kib })?;
                memory.resize(blocks, Block::default());
                let mut key = Zeroizing::new([0; KEY_LEN]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                let text = passphrase.expose().as_bytes();
                let result = argon2.hash_password_into_with_memory(text, salt, &mut key[..], &mut memory);
                memory.zeroize();
                result.map_err(failed)?;
                Ok(key)
            }
        }
    }
}

/// One way to the repository key, as it stands in `repo.json`; or to what is wrapped in `N` bytes instead ([`WriterSlot`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Slot<const N: usize = WRAPPED_LEN> {
    /// Names the slot in its repository.
    #[serde(with = "hex")]
    pub id: [u8; 8],
    /// How the wrapping key comes from the passphrase.
    pub kdf: Kdf,
    /// The nonce that the key is wrapped with.
    #[serde(with = "hex")]
    pub nonce: [u8; 12],
    /// The key, encrypted, and its tag.
    #[serde(with = "hex")]
    pub wrapped: [u8; N],
    /// What the operator calls it; at most [`SLOT_NAME_MAX`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The longest name of a slot, in bytes.
pub const SLOT_NAME_MAX: usize = 100;

/// A way to the part of a repository key that only writes.
pub type WriterSlot = Slot<WRITER_WRAPPED_LEN>;

/// What a slot belongs to, and what is drawn at random for it: slot id, the salt in `kdf` and nonce.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct NewLock<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The generation of the key that is wrapped.
    pub key_id: KeyId,
    /// What is to open the slot.
    pub passphrase: &'a Passphrase,
    /// Names the slot.
    pub slot_id: [u8; 8],
    /// How the wrapping key comes from the passphrase.
    pub kdf: Kdf,
    /// The nonce.
    pub nonce: [u8; 12],
}

impl Slot {
    /// Wraps the repository key for a passphrase.
    ///
    /// # Errors
    ///
    /// [`Error::UnfitPassphrase`] for an empty passphrase, or HKDF with one that pgbr did not generate;
    /// [`Error::KdfOutOfBounds`]; [`Error::OutOfMemory`].
    pub fn wrap(key: &RepositoryKey, lock: NewLock<'_>) -> Result<Self> {
        Self::wrap_bytes(SLOT_INFO, key.as_bytes(), lock)
    }

    /// Unwraps the repository key.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPassphrase`] if the slot does not open with this key for this repository and key id.
    pub fn unwrap_with(
        &self,
        key: &WrappingKey,
        repository: RepositoryId,
        key_id: KeyId,
    ) -> Result<RepositoryKey> {
        let opened = self.unwrap_bytes(SLOT_INFO, key, repository, key_id)?;
        opened.as_slice().try_into().map(RepositoryKey::from_bytes).map_err(|_| Error::WrongPassphrase)
    }
}

impl WriterSlot {
    /// Wraps the writer's part of a repository key for a passphrase.
    ///
    /// # Errors
    ///
    /// As [`Slot::wrap`].
    pub fn wrap_writer(key: &WriterKey, lock: NewLock<'_>) -> Result<Self> {
        Self::wrap_bytes(WRITER_INFO, &key.to_bytes()[..], lock)
    }

    /// Unwraps the writer's part of a repository key.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPassphrase`] if the slot does not open with this key for this repository and key id.
    pub fn unwrap_writer(
        &self,
        key: &WrappingKey,
        repository: RepositoryId,
        key_id: KeyId,
    ) -> Result<WriterKey> {
        let opened = self.unwrap_bytes(WRITER_INFO, key, repository, key_id)?;
        WriterKey::from_bytes(&opened).ok_or(Error::WrongPassphrase)
    }
}

impl<const N: usize> Slot<N> {
    fn wrap_bytes(info: &[u8], key: &[u8], lock: NewLock<'_>) -> Result<Self> {
        let NewLock { repository, key_id, passphrase, slot_id, kdf, nonce } = lock;
        if passphrase.expose().is_empty() {
            return Err(Error::UnfitPassphrase { reason: "it is empty" });
        }
        if matches!(kdf, Kdf::Hkdf { .. }) && !passphrase.is_generated_key() {
            return Err(Error::UnfitPassphrase { reason: "only a generated key may go without Argon2id" });
        }
        let wrapping = kdf.derive(passphrase)?;
        let associated = slot_data(info, repository, key_id, slot_id);
        let wrapped = seal_payload(&wrapping, nonce, &associated, key)?;
        Ok(Self { id: slot_id, kdf, nonce, wrapped, name: None })
    }

    fn unwrap_bytes(
        &self,
        info: &[u8],
        key: &WrappingKey,
        repository: RepositoryId,
        key_id: KeyId,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut wrapped = Zeroizing::new(self.wrapped.to_vec());
        let associated = slot_data(info, repository, key_id, self.id);
        let opened =
            open(&key.key, self.nonce, &associated, &mut wrapped[..]).ok_or(Error::WrongPassphrase)?;
        let length = opened.len();
        wrapped.truncate(length);
        Ok(wrapped)
    }

    /// The same under a name.
    #[must_use]
    pub fn named(self, name: Option<String>) -> Self {
        Self { name, ..self }
    }

    /// Derives the slot's wrapping key from a passphrase: the expensive step, with Argon2id.
    ///
    /// # Errors
    ///
    /// [`Error::WrongPassphrase`] where it cannot be this slot's; [`Error::KdfOutOfBounds`]; [`Error::OutOfMemory`].
    pub fn wrapping_key(&self, passphrase: &Passphrase) -> Result<WrappingKey> {
        let key = self.kdf.derive(passphrase)?;
        Ok(WrappingKey { key, binding: self.binding() })
    }

    /// What a cached wrapping key belongs to: this slot, with this salt.
    fn binding(&self) -> [u8; 24] {
        let mut binding = [0; 24];
        binding[..8].copy_from_slice(&self.id);
        binding[8..].copy_from_slice(self.kdf.salt());
        binding
    }
}

/// What opens one slot: worth keeping where Argon2id is too slow to run each time.
#[derive(Clone)]
pub struct WrappingKey {
    key: Secret,
    binding: [u8; 24],
}

impl WrappingKey {
    /// A key that was kept, for the slot that it came from.
    pub fn from_bytes<const N: usize>(slot: &Slot<N>, bytes: [u8; KEY_LEN]) -> Self {
        Self { key: Zeroizing::new(bytes), binding: slot.binding() }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// Bytes to keep in a file (mode 0600) so that the expensive step is not needed each time; `salt` is fresh random bytes.
    ///
    /// They open with the same passphrase and for the same slot only. Whoever steals them can try passphrases without paying
    /// for Argon2id: the file must not leave the host.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`], which does not happen for a key of this length.
    pub fn seal_for_cache(&self, passphrase: &Passphrase, salt: [u8; 32]) -> Result<Vec<u8>> {
        let mut sealed = *self.key;
        let tag = seal(&cache_key(passphrase, &salt, &self.binding), [0; 12], &CACHE_MAGIC, &mut sealed)?;
        Ok([&CACHE_MAGIC[..], &salt, &sealed, &tag].concat())
    }

    /// The key from what [`WrappingKey::seal_for_cache`] gave; none if it was for another passphrase or slot, or is damaged.
    pub fn open_from_cache<const N: usize>(
        cached: &[u8],
        passphrase: &Passphrase,
        slot: &Slot<N>,
    ) -> Option<Self> {
        let (magic, rest) = cached.split_first_chunk::<8>()?;
        let (salt, sealed) = rest.split_first_chunk::<32>()?;
        if *magic != CACHE_MAGIC {
            return None;
        }
        let mut sealed: Zeroizing<[u8; WRAPPED_LEN]> = Zeroizing::new(sealed.try_into().ok()?);
        let binding = slot.binding();
        let key = open(&cache_key(passphrase, salt, &binding), [0; 12], &CACHE_MAGIC, &mut sealed[..])?;
        Some(Self { key: Zeroizing::new(key.try_into().ok()?), binding })
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(..)")
    }
}

/// The key of one cache file; its salt is used for nothing else, so its nonce may be zero.
fn cache_key(passphrase: &Passphrase, salt: &[u8; 32], binding: &[u8; 24]) -> Secret {
    hkdf_sha256(salt, passphrase.expose().as_bytes(), &[b"pgbr wrapping key cache v1", binding])
}

fn slot_data(info: &[u8], repository: RepositoryId, key_id: KeyId, slot_id: [u8; 8]) -> Vec<u8> {
    [info, repository.as_bytes(), key_id.as_bytes(), &slot_id].concat()
}

fn aes(key: &Secret) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&aead::AES_256_GCM, &key[..]);
    Ok(LessSafeKey::new(key.map_err(|_| Error::Crypto { primitive: "AES-256-GCM" })?))
}

/// Encrypts a key: its bytes and the tag behind them.
pub(crate) fn seal_payload<const N: usize>(
    key: &Secret,
    nonce: [u8; 12],
    associated: &[u8],
    payload: &[u8],
) -> Result<[u8; N]> {
    let failed = || Error::Crypto { primitive: "AES-256-GCM" };
    let mut wrapped = [0; N];
    let (place, tag) = wrapped.split_at_mut_checked(payload.len()).ok_or_else(failed)?;
    let tag: &mut [u8; TAG_LEN] = tag.try_into().map_err(|_| failed())?;
    place.copy_from_slice(payload);
    *tag = seal(key, nonce, associated, place)?;
    Ok(wrapped)
}

/// Encrypts in place and gives the tag.
fn seal(key: &Secret, nonce: [u8; 12], associated: &[u8], place: &mut [u8]) -> Result<[u8; TAG_LEN]> {
    let failed = Error::Crypto { primitive: "AES-256-GCM" };
    let nonce = Nonce::assume_unique_for_key(nonce);
    match aes(key)?.seal_in_place_separate_tag(nonce, Aad::from(associated), place) {
        Ok(tag) => tag.as_ref().try_into().map_err(|_| failed),
        Err(_) => Err(failed),
    }
}

/// Decrypts ciphertext and tag in place.
pub(crate) fn open<'a>(
    key: &Secret,
    nonce: [u8; 12],
    associated: &[u8],
    sealed: &'a mut [u8],
) -> Option<&'a [u8]> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = aes(key).ok()?.open_in_place(nonce, Aad::from(associated), sealed).ok()?;
    Some(opened)
}

/// Byte arrays as lower-case hexadecimal digits, for serde.
pub(crate) mod hex {
    use data_encoding::HEXLOWER;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::header::decode_hex;

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        decode_hex(&text)
            .ok_or_else(|| D::Error::custom(format_args!("{} lower-case hex digits are needed", 2 * N)))
    }
}

/// The same where there may be none.
pub(crate) mod optional_hex {
    use data_encoding::HEXLOWER;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &Option<[u8; N]>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_some(&HEXLOWER.encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        super::hex::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
    const KEY: KeyId = KeyId::from_bytes([2; 16]);

    fn quick(salt: u8) -> Kdf {
        Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1, salt: [salt; 16] }
    }

    fn phrase(text: &str) -> Passphrase {
        Passphrase::new(text)
    }

    fn lock(passphrase: &Passphrase, kdf: Kdf) -> NewLock<'_> {
        NewLock { repository: REPOSITORY, key_id: KEY, passphrase, slot_id: [3; 8], kdf, nonce: [4; 12] }
    }

    fn wrap(passphrase: &Passphrase, kdf: Kdf) -> Result<Slot> {
        Slot::wrap(&RepositoryKey::from_bytes([42; 32]), lock(passphrase, kdf))
    }

    #[test]
    fn a_slot_opens_with_its_passphrase_only() {
        let slot = wrap(&phrase("horse staple"), quick(5)).unwrap();
        let key = slot.wrapping_key(&phrase("horse staple")).unwrap();
        assert_eq!(slot.unwrap_with(&key, REPOSITORY, KEY).unwrap(), RepositoryKey::from_bytes([42; 32]));

        let wrong = slot.wrapping_key(&phrase("horse stable")).unwrap();
        let other = RepositoryId::from_bytes([9; 16]);
        assert!(matches!(slot.unwrap_with(&wrong, REPOSITORY, KEY), Err(Error::WrongPassphrase)));
        assert!(matches!(slot.unwrap_with(&key, other, KEY), Err(Error::WrongPassphrase)));
        assert!(matches!(slot.unwrap_with(&key, REPOSITORY, KeyId::NONE), Err(Error::WrongPassphrase)));
        let moved = Slot { id: [8; 8], ..slot.clone() };
        assert!(matches!(moved.unwrap_with(&key, REPOSITORY, KEY), Err(Error::WrongPassphrase)));
        for bit in 0..WRAPPED_LEN * 8 {
            let mut bad = slot.clone();
            bad.wrapped[bit / 8] ^= 1 << (bit % 8);
            assert!(bad.unwrap_with(&key, REPOSITORY, KEY).is_err());
        }
    }

    #[test]
    fn generated_keys_go_by_hkdf_and_nothing_else_does() {
        let key = Passphrase::generated(&[0xa5; 32]);
        assert_eq!(key.expose().len(), KEY_PREFIX.len() + 52);
        assert!(key.is_generated_key());
        let slot = wrap(&key, Kdf::for_passphrase(&key, [6; 16])).unwrap();
        assert!(matches!(slot.kdf, Kdf::Hkdf { .. }));
        let upper = phrase(&format!("{KEY_PREFIX}{}", key.expose()[KEY_PREFIX.len()..].to_ascii_uppercase()));
        for same in [&key, &upper] {
            let wrapping = slot.wrapping_key(same).unwrap();
            assert!(slot.unwrap_with(&wrapping, REPOSITORY, KEY).is_ok());
        }
        assert!(matches!(slot.wrapping_key(&phrase("made up")), Err(Error::WrongPassphrase)));
        assert!(matches!(wrap(&phrase("made up"), Kdf::hkdf([6; 16])), Err(Error::UnfitPassphrase { .. })));
        assert!(matches!(wrap(&phrase(""), quick(1)), Err(Error::UnfitPassphrase { .. })));
        assert!(matches!(Kdf::for_passphrase(&phrase("made up"), [6; 16]), Kdf::Argon2id { .. }));
        for not in ["", "pgbr-key-", "pgbr-key-abc", &key.expose()[1..], &format!("{}a", key.expose())] {
            assert!(!phrase(not).is_generated_key(), "{not}");
        }
    }

    #[test]
    fn a_writer_slot_opens_with_its_passphrase_only_and_passes_for_no_other_slot() {
        let repository_key = RepositoryKey::from_bytes([42; 32]);
        let writer = WriterKey::of(&repository_key);
        let slot = WriterSlot::wrap_writer(&writer, lock(&phrase("night"), quick(5))).unwrap();
        let key = slot.wrapping_key(&phrase("night")).unwrap();
        let opened = slot.unwrap_writer(&key, REPOSITORY, KEY).unwrap();
        assert_eq!(opened.to_bytes(), writer.to_bytes());
        let wrong = slot.wrapping_key(&phrase("day")).unwrap();
        let other = RepositoryId::from_bytes([9; 16]);
        assert!(matches!(slot.unwrap_writer(&wrong, REPOSITORY, KEY), Err(Error::WrongPassphrase)));
        assert!(matches!(slot.unwrap_writer(&key, other, KEY), Err(Error::WrongPassphrase)));
        assert!(matches!(slot.unwrap_writer(&key, REPOSITORY, KeyId::NONE), Err(Error::WrongPassphrase)));
        for bit in 0..WRITER_WRAPPED_LEN * 8 {
            let mut bad = slot.clone();
            bad.wrapped[bit / 8] ^= 1 << (bit % 8);
            assert!(bad.unwrap_writer(&key, REPOSITORY, KEY).is_err());
        }
        let cached = key.seal_for_cache(&phrase("night"), [7; 32]).unwrap();
        assert!(WrappingKey::open_from_cache(&cached, &phrase("night"), &slot).is_some());
        assert!(WrappingKey::open_from_cache(&cached, &phrase("day"), &slot).is_none());

        let json = serde_json::to_string(&slot).unwrap();
        assert_eq!(serde_json::from_str::<WriterSlot>(&json).unwrap(), slot);
        assert!(serde_json::from_str::<Slot>(&json).is_err());
        let whole = serde_json::to_string(&wrap(&phrase("night"), quick(5)).unwrap()).unwrap();
        assert!(serde_json::from_str::<WriterSlot>(&whole).is_err());
    }

    #[test]
    fn slots_have_the_documented_json() {
        let slot = wrap(&phrase("x"), quick(5)).unwrap();
        let json = serde_json::to_string(&slot).unwrap();
        let wrapped = data_encoding::HEXLOWER.encode(&slot.wrapped);
        assert_eq!(
            json,
            format!(
                r#"{{"id":"0303030303030303","kdf":{{"type":"argon2id","memory-kib":8,"passes":1,"lanes":1,"salt":"05050505050505050505050505050505"}},"nonce":"040404040404040404040404","wrapped":"{wrapped}"}}"#
            )
        );
        assert_eq!(serde_json::from_str::<Slot>(&json).unwrap(), slot);
        let hkdf = r#"{"type":"hkdf","salt":"05050505050505050505050505050505"}"#;
        assert_eq!(serde_json::from_str::<Kdf>(hkdf).unwrap(), Kdf::hkdf([5; 16]));
        assert_eq!(serde_json::to_string(&Kdf::hkdf([5; 16])).unwrap(), hkdf);
    }

    #[test]
    fn hostile_parameters_are_refused_before_anything_is_allocated() {
        let json = |memory: u64, passes: u64, lanes: u64| {
            let text = format!(
                r#"{{"type":"argon2id","memory-kib":{memory},"passes":{passes},"lanes":{lanes},"salt":"05050505050505050505050505050505"}}"#
            );
            serde_json::from_str::<Kdf>(&text)
        };
        assert!(json(8, 1, 1).is_ok() && json(1 << 20, 16, 8).is_ok());
        for (memory, passes, lanes) in [
            (7, 1, 1),
            (63, 1, 8),
            ((1 << 20) + 1, 1, 1),
            (u32::MAX.into(), 1, 1),
            (1 << 40, 1, 1),
            (64, 0, 1),
            (64, 17, 1),
            (64, 1, 0),
            (128, 1, 9),
            (64, 1, u32::MAX.into()),
        ] {
            assert!(json(memory, passes, lanes).is_err(), "{memory} {passes} {lanes}");
        }
        for bad in [
            r#"{"type":"scrypt","salt":"05050505050505050505050505050505"}"#,
            r#"{"type":"hkdf","salt":"0505"}"#,
            r#"{"type":"hkdf","salt":"0505050505050505050505050505050A"}"#,
            r#"{"type":"hkdf","salt":"05050505050505050505050505050505","passes":1}"#,
        ] {
            assert!(serde_json::from_str::<Kdf>(bad).is_err(), "{bad}");
        }
        // Made in memory, past the parser.
        let hostile = Kdf::Argon2id { memory_kib: u32::MAX, passes: 1, lanes: 1, salt: [0; 16] };
        assert!(matches!(
            wrap(&phrase("x"), hostile),
            Err(Error::KdfOutOfBounds { parameter: "memory-kib", .. })
        ));
    }

    #[test]
    fn cached_keys_need_the_passphrase_and_the_slot() {
        let slot = wrap(&phrase("x"), quick(5)).unwrap();
        let key = slot.wrapping_key(&phrase("x")).unwrap();
        let cached = key.seal_for_cache(&phrase("x"), [7; 32]).unwrap();
        let found = WrappingKey::open_from_cache(&cached, &phrase("x"), &slot).unwrap();
        assert_eq!(found.as_bytes(), key.as_bytes());
        assert_eq!(
            WrappingKey::from_bytes(&slot, *key.as_bytes()).seal_for_cache(&phrase("x"), [7; 32]).unwrap(),
            cached
        );

        assert!(WrappingKey::open_from_cache(&cached, &phrase("y"), &slot).is_none());
        let other = Slot { id: [9; 8], ..slot.clone() };
        assert!(WrappingKey::open_from_cache(&cached, &phrase("x"), &other).is_none());
        let salted = Slot { kdf: quick(6), ..slot.clone() };
        assert!(WrappingKey::open_from_cache(&cached, &phrase("x"), &salted).is_none());
        for cut in 0..cached.len() {
            assert!(WrappingKey::open_from_cache(&cached[..cut], &phrase("x"), &slot).is_none());
        }
        for bit in 0..cached.len() * 8 {
            let mut bad = cached.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(WrappingKey::open_from_cache(&bad, &phrase("x"), &slot).is_none());
        }
        assert!(!cached.windows(8).any(|w| key.as_bytes().starts_with(w)));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let slot = wrap(&phrase("hunter2"), quick(5)).unwrap();
        let shown = format!("{:?} {:?}", phrase("hunter2"), slot.wrapping_key(&phrase("hunter2")).unwrap());
        assert_eq!(shown, "Passphrase(..) WrappingKey(..)");
    }
}
