//! Keys of a repository: one secret, class keys for its kinds of objects, a lane key for every sealing process.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::hkdf;
use zeroize::Zeroizing;

use crate::{
    Error, KeyId, KeyMode, LaneKey, LaneSalt, ObjectHeader, ObjectKind, Opener, RepositoryId, Result, Sealer,
};

/// Length of every key.
pub const KEY_LEN: usize = 32;

/// 32 secret bytes that are wiped when they are dropped.
pub(crate) type Secret = Zeroizing<[u8; KEY_LEN]>;

/// The secret of an encrypted repository: whoever has it can read and forge everything in it.
#[derive(Clone, PartialEq, Eq)]
pub struct RepositoryKey(Secret);

impl RepositoryKey {
    /// The key with these bytes; the caller draws them at random.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes: for wrapping, and for a copy that the operator puts in a safe.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepositoryKey(..)")
    }
}

/// How a repository's objects are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// Plain objects, with tags that find damage.
    None,
    /// AES-256-GCM.
    Aes256Gcm,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Aes256Gcm => "aes-256-gcm",
        })
    }
}

impl FromStr for Cipher {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "aes-256-gcm" => Ok(Self::Aes256Gcm),
            other => Err(Error::UnknownCipherName(other.chars().take(40).collect())),
        }
    }
}

impl serde::Serialize for Cipher {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cipher {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The keys of one repository, or of one without encryption its identity: makes sealers and openers. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Keys>);

struct Keys {
    repository: RepositoryId,
    key_id: KeyId,
    class: ClassKeys,
    /// Of keys that seal nothing any more.
    retired: BTreeMap<KeyId, ClassKeys>,
}

enum ClassKeys {
    Plain { tag: Secret, auth: Secret },
    Sealed { data: Secret, index: Secret, meta: Secret, wal: Secret, auth: Secret },
}

impl ClassKeys {
    fn of(key: &RepositoryKey) -> Self {
        let derive = |class: &str| hkdf_sha256(&[], key.as_bytes(), &[b"pgbr class v1 ", class.as_bytes()]);
        Self::Sealed {
            data: derive("data"),
            index: derive("index"),
            meta: derive("meta"),
            wal: derive("wal"),
            auth: derive("auth"),
        }
    }
}

impl Keyring {
    /// The keyring of a repository without encryption: its tags find damage and swaps, not a forger.
    pub fn plain(repository: RepositoryId) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, repository.as_bytes()));
        let class = ClassKeys::Plain { tag: derive("pgbr 1 plain tag"), auth: derive("pgbr 1 plain auth") };
        Self(Arc::new(Keys { repository, key_id: KeyId::NONE, class, retired: BTreeMap::new() }))
    }

    /// The keyring of an encrypted repository.
    pub fn sealed(repository: RepositoryId, key_id: KeyId, key: &RepositoryKey) -> Self {
        Self::sealed_with(repository, key_id, key, [])
    }

    /// The same with keys that older objects are sealed under.
    pub fn sealed_with<'a>(
        repository: RepositoryId,
        key_id: KeyId,
        key: &RepositoryKey,
        retired: impl IntoIterator<Item = (KeyId, &'a RepositoryKey)>,
    ) -> Self {
        let retired = retired.into_iter().map(|(id, key)| (id, ClassKeys::of(key))).collect();
        Self(Arc::new(Keys { repository, key_id, class: ClassKeys::of(key), retired }))
    }

    /// The repository.
    pub fn repository(&self) -> RepositoryId {
        self.0.repository
    }

    /// The key's identity, [`KeyId::NONE`] without encryption.
    pub fn key_id(&self) -> KeyId {
        self.0.key_id
    }

    /// How its objects are sealed.
    pub fn cipher(&self) -> Cipher {
        match self.0.class {
            ClassKeys::Plain { .. } => Cipher::None,
            ClassKeys::Sealed { .. } => Cipher::Aes256Gcm,
        }
    }

    /// A sealer of objects of one kind, in the lane of this salt, which must be fresh random bytes of this process.
    pub fn sealer(&self, kind: ObjectKind, salt: LaneSalt) -> Sealer {
        self.lane_key(kind, salt).sealer()
    }

    /// The key of one lane and kind of object, for a worker that must not have the others.
    pub fn lane_key(&self, kind: ObjectKind, salt: LaneSalt) -> LaneKey {
        self.lane_key_of(self.key_id(), &self.0.class, kind, salt)
    }

    /// An opener for the objects of a lane that was sealed under this key, the present one or a retired one; none where it is neither.
    pub fn lane_opener(&self, key_id: KeyId, kind: ObjectKind, salt: LaneSalt) -> Option<Opener> {
        let class = self.class_keys(key_id)?;
        Some(self.lane_key_of(key_id, class, kind, salt).opener())
    }

    fn class_keys(&self, key_id: KeyId) -> Option<&ClassKeys> {
        if key_id == self.key_id() { Some(&self.0.class) } else { self.0.retired.get(&key_id) }
    }

    fn lane_key_of(&self, key_id: KeyId, class: &ClassKeys, kind: ObjectKind, salt: LaneSalt) -> LaneKey {
        let (repository, mode) = (self.repository(), self.mode());
        let header = ObjectHeader { kind, mode, repository, key_id, salt, attempt: 0, pack: 0 };
        let class_key = match class {
            ClassKeys::Plain { tag, .. } => return LaneKey::new(header, tag.clone()),
            ClassKeys::Sealed { data, index, meta, wal, .. } => match kind {
                ObjectKind::DataPack => data,
                ObjectKind::IndexPack => index,
                ObjectKind::Manifest | ObjectKind::Record => meta,
                ObjectKind::Wal => wal,
            },
        };
        LaneKey::new(header, hkdf_sha256(salt.as_bytes(), &class_key[..], &[b"pgbr lane v1", &[kind as u8]]))
    }

    /// An opener for the object with this header, and for all others of its lane and kind.
    ///
    /// # Errors
    ///
    /// [`Error::OtherRepository`], [`Error::ModeMismatch`], [`Error::OtherKey`].
    pub fn opener(&self, header: &ObjectHeader) -> Result<Opener> {
        let (repository, key_id, mode) = (self.repository(), self.key_id(), self.mode());
        if header.repository != repository {
            return Err(Error::OtherRepository { expected: repository, found: header.repository });
        }
        if header.mode != mode {
            return Err(Error::ModeMismatch { expected: mode, found: header.mode });
        }
        let opener = self.lane_opener(header.key_id, header.kind, header.salt);
        opener.ok_or(Error::OtherKey { expected: key_id, found: header.key_id })
    }

    /// The value of `auth` in `repo.json` over the JSON text without it.
    pub fn auth_tag(&self, text: &[u8]) -> [u8; 32] {
        let (ClassKeys::Plain { auth, .. } | ClassKeys::Sealed { auth, .. }) = &self.0.class;
        *blake3::keyed_hash(auth, text).as_bytes()
    }

    /// Whether `auth` is the value over that text, in constant time.
    pub fn auth_matches(&self, text: &[u8], auth: &[u8; 32]) -> bool {
        blake3::Hash::from_bytes(self.auth_tag(text)) == blake3::Hash::from_bytes(*auth)
    }

    fn mode(&self) -> KeyMode {
        match self.0.class {
            ClassKeys::Plain { .. } => KeyMode::None,
            ClassKeys::Sealed { .. } => KeyMode::RepositoryKey,
        }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("repository", &self.0.repository)
            .field("key_id", &self.0.key_id)
            .field("cipher", &self.cipher())
            .finish_non_exhaustive()
    }
}

/// HKDF-SHA-256 (RFC 5869) to one key.
pub(crate) fn hkdf_sha256(salt: &[u8], input: &[u8], info: &[&[u8]]) -> Secret {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(input)
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key[..]))
        .expect("HKDF-SHA-256 gives up to 8160 bytes, and 32 are asked for in a place of 32");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 3: no salt, no info; and test case 1 cut to 32 bytes.
    #[test]
    fn hkdf_is_that_of_the_rfc() {
        let hex = |key: Secret| data_encoding::HEXLOWER.encode(&key[..]);
        assert_eq!(
            hex(hkdf_sha256(&[], &[0x0b; 22], &[])),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
        );
        let salt: Vec<u8> = (0..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        assert_eq!(
            hex(hkdf_sha256(&salt, &[0x0b; 22], &[&info[..4], &info[4..]])),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
    }

    #[test]
    fn openers_refuse_what_is_not_theirs() {
        let (ours, other) = (RepositoryId::from_bytes([1; 16]), RepositoryId::from_bytes([2; 16]));
        let key = RepositoryKey::from_bytes([7; 32]);
        let header =
            |ring: &Keyring| ring.sealer(ObjectKind::Record, LaneSalt::from_bytes([3; 32])).header(0, 0);
        let sealed = Keyring::sealed(ours, KeyId::from_bytes([9; 16]), &key);
        let plain = Keyring::plain(ours);

        assert!(sealed.opener(&header(&sealed)).is_ok());
        assert!(plain.opener(&header(&plain)).is_ok());
        assert!(matches!(sealed.opener(&header(&plain)), Err(Error::ModeMismatch { .. })));
        assert!(matches!(plain.opener(&header(&sealed)), Err(Error::ModeMismatch { .. })));
        assert!(matches!(plain.opener(&header(&Keyring::plain(other))), Err(Error::OtherRepository { .. })));
        let next = Keyring::sealed(ours, KeyId::from_bytes([8; 16]), &key);
        assert!(matches!(sealed.opener(&header(&next)), Err(Error::OtherKey { .. })));

        // A key that was retired opens what it sealed, and seals nothing.
        let newer = RepositoryKey::from_bytes([6; 32]);
        let old_id = KeyId::from_bytes([9; 16]);
        let both = Keyring::sealed_with(ours, KeyId::from_bytes([8; 16]), &newer, [(old_id, &key)]);
        assert!(both.opener(&header(&sealed)).is_ok());
        assert_eq!(header(&both).key_id, KeyId::from_bytes([8; 16]));
        assert!(both.lane_opener(KeyId::NONE, ObjectKind::Wal, LaneSalt::from_bytes([3; 32])).is_none());
    }

    #[test]
    fn auth_depends_on_key_and_text() {
        let id = RepositoryId::from_bytes([1; 16]);
        let ring = |key| Keyring::sealed(id, KeyId::NONE, &RepositoryKey::from_bytes(key));
        let tag = ring([1; 32]).auth_tag(b"{}");
        assert!(ring([1; 32]).auth_matches(b"{}", &tag));
        assert!(!ring([2; 32]).auth_matches(b"{}", &tag));
        assert!(!ring([1; 32]).auth_matches(b"{ }", &tag));
        assert!(!Keyring::plain(id).auth_matches(b"{}", &tag));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = RepositoryKey::from_bytes([0xab; 32]);
        let ring = Keyring::sealed(RepositoryId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]), &key);
        let shown =
            format!("{key:?} {ring:?} {:?}", ring.sealer(ObjectKind::Wal, LaneSalt::from_bytes([3; 32])));
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
