//! Keys of a repository: one secret, class keys for its kinds of objects, a lane key for every sealing process.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use ring::hkdf;
use zeroize::Zeroizing;

use crate::frame::Key;
use crate::{
    Error, KeyId, KeyMode, LaneKey, LaneSalt, LaneSeed, ObjectHeader, ObjectKind, Opener, RepositoryId,
    Result, Sealer, WriterKey, writer,
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
pub struct Keyring {
    keys: Arc<Keys>,
    /// Whether content is sealed so that writers can go on with it.
    for_writers: bool,
}

struct Keys {
    repository: RepositoryId,
    key_id: KeyId,
    class: ClassKeys,
    /// Of keys that seal nothing any more.
    retired: BTreeMap<KeyId, ClassKeys>,
}

enum ClassKeys {
    Plain {
        tag: Secret,
        auth: Secret,
    },
    Sealed {
        index: Secret,
        meta: Secret,
        write: Secret,
        /// The public half of the key pair: taken from the private one where it is needed.
        public: OnceLock<[u8; KEY_LEN]>,
        reading: Option<ReadingKeys>,
    },
}

/// What a key that only writes does not have.
struct ReadingKeys {
    data: Secret,
    wal: Secret,
    auth: Secret,
    private: Secret,
}

impl ClassKeys {
    fn of(key: &RepositoryKey) -> Self {
        Self::Sealed {
            index: class_key(key, "index"),
            meta: class_key(key, "meta"),
            write: class_key(key, "write"),
            public: OnceLock::new(),
            reading: Some(ReadingKeys {
                data: class_key(key, "data"),
                wal: class_key(key, "wal"),
                auth: class_key(key, "auth"),
                private: writer::private_half(key),
            }),
        }
    }

    fn of_writer(key: &WriterKey) -> Self {
        let WriterKey { index, meta, write, public } = key.clone();
        Self::Sealed { index, meta, write, public: OnceLock::from(public), reading: None }
    }

    /// What opens a lane: and seals it, but for key mode 2.
    fn lane(&self, mode: KeyMode, kind: ObjectKind, salt: LaneSalt) -> Result<Key> {
        let (index, meta, write, public, reading) = match self {
            Self::Plain { tag, .. } => return Ok(Key::One(tag.clone())),
            Self::Sealed { index, meta, write, public, reading } => (index, meta, write, public, reading),
        };
        if mode == KeyMode::PublicKey {
            let pair = reading.as_ref().map(|reading| (&reading.private, public_of(public, reading)));
            return writer::reopen_lane(salt, pair, write, kind);
        }
        let reading = || reading.as_ref().ok_or(Error::WriteOnly { kind });
        let class_key = match kind {
            ObjectKind::DataPack => &reading()?.data,
            ObjectKind::IndexPack => index,
            ObjectKind::Manifest | ObjectKind::Record => meta,
            ObjectKind::Wal => &reading()?.wal,
        };
        Ok(Key::One(hkdf_sha256(salt.as_bytes(), &class_key[..], &[b"pgbr lane v1", &[kind as u8]])))
    }
}

/// The key of one class of objects, of a repository key.
pub(crate) fn class_key(key: &RepositoryKey, class: &str) -> Secret {
    hkdf_sha256(&[], key.as_bytes(), &[b"pgbr class v1 ", class.as_bytes()])
}

fn public_of<'a>(public: &'a OnceLock<[u8; KEY_LEN]>, reading: &ReadingKeys) -> &'a [u8; KEY_LEN] {
    public.get_or_init(|| writer::public_half(&reading.private))
}

impl Keyring {
    /// The keyring of a repository without encryption: its tags find damage and swaps, not a forger.
    pub fn plain(repository: RepositoryId) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, repository.as_bytes()));
        let class = ClassKeys::Plain { tag: derive("pgbr 1 plain tag"), auth: derive("pgbr 1 plain auth") };
        Self::of(Keys { repository, key_id: KeyId::NONE, class, retired: BTreeMap::new() })
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
        Self::of(Keys { repository, key_id, class: ClassKeys::of(key), retired })
    }

    /// The keyring of who only writes, with what is needed of keys that older objects are sealed under.
    pub fn writer<'a>(
        repository: RepositoryId,
        key_id: KeyId,
        key: &WriterKey,
        retired: impl IntoIterator<Item = (KeyId, &'a WriterKey)>,
    ) -> Self {
        let retired = retired.into_iter().map(|(id, key)| (id, ClassKeys::of_writer(key))).collect();
        Self::of(Keys { repository, key_id, class: ClassKeys::of_writer(key), retired }).for_writers()
    }

    fn of(keys: Keys) -> Self {
        Self { keys: Arc::new(keys), for_writers: false }
    }

    /// The same for a repository that has writers: who reads it seals content as they do (key mode 2), so that they can go on with it.
    #[must_use]
    pub fn for_writers(self) -> Self {
        Self { for_writers: true, ..self }
    }

    /// The repository.
    pub fn repository(&self) -> RepositoryId {
        self.keys.repository
    }

    /// The key's identity, [`KeyId::NONE`] without encryption.
    pub fn key_id(&self) -> KeyId {
        self.keys.key_id
    }

    /// How its objects are sealed.
    pub fn cipher(&self) -> Cipher {
        match self.keys.class {
            ClassKeys::Plain { .. } => Cipher::None,
            ClassKeys::Sealed { .. } => Cipher::Aes256Gcm,
        }
    }

    /// Whether it opens content, and not only writes it.
    pub fn reads(&self) -> bool {
        !matches!(self.keys.class, ClassKeys::Sealed { reading: None, .. })
    }

    /// The key mode that objects of a kind are sealed in.
    pub fn mode(&self, kind: ObjectKind) -> KeyMode {
        match self.keys.class {
            ClassKeys::Plain { .. } => KeyMode::None,
            ClassKeys::Sealed { .. } if self.for_writers && kind.is_content() => KeyMode::PublicKey,
            ClassKeys::Sealed { .. } => KeyMode::RepositoryKey,
        }
    }

    /// A sealer of objects of one kind, in a lane of its own that is made of this seed.
    ///
    /// # Errors
    ///
    /// [`Error::Unwritable`] where the public key of the repository is none: nobody could open what it seals.
    pub fn sealer(&self, kind: ObjectKind, seed: LaneSeed) -> Result<Sealer> {
        Ok(self.lane_key(kind, seed)?.sealer())
    }

    /// The key of a new lane for one kind of object, for a worker that must not have the others.
    ///
    /// # Errors
    ///
    /// As [`Keyring::sealer`].
    pub fn lane_key(&self, kind: ObjectKind, seed: LaneSeed) -> Result<LaneKey> {
        let mode = self.mode(kind);
        let class = &self.keys.class;
        let (salt, key) = match (mode, class) {
            (KeyMode::PublicKey, ClassKeys::Sealed { write, public, reading, .. }) => {
                let public = match reading {
                    Some(reading) => Some(public_of(public, reading)),
                    None => public.get(),
                };
                let public = public.ok_or(Error::Unwritable { reason: "there is no public key" })?;
                writer::begin_lane(seed, (public, write), kind)?
            }
            _ => {
                let salt = LaneSalt::from_bytes(*seed.as_bytes());
                (salt, class.lane(mode, kind, salt)?)
            }
        };
        Ok(LaneKey::new(self.lane_header(self.key_id(), mode, kind, salt), key))
    }

    /// An opener for the objects of a lane that was sealed in this mode and under this key, the present one or a retired one.
    ///
    /// # Errors
    ///
    /// [`Error::OtherKey`], [`Error::ModeMismatch`]; [`Error::WriteOnly`] for content that the key does not open at all. In key mode 2 a key
    /// that only writes opens what ends an object, and nothing else of it.
    pub fn lane_opener(
        &self,
        key_id: KeyId,
        mode: KeyMode,
        kind: ObjectKind,
        salt: LaneSalt,
    ) -> Result<Opener> {
        let class = self.class_keys(key_id, mode, kind)?;
        let key = class.lane(mode, kind, salt)?;
        Ok(LaneKey::new(self.lane_header(key_id, mode, kind, salt), key).opener())
    }

    /// An opener for the object with this header, and for all others of its lane and kind.
    ///
    /// # Errors
    ///
    /// [`Error::OtherRepository`], and as [`Keyring::lane_opener`].
    pub fn opener(&self, header: &ObjectHeader) -> Result<Opener> {
        self.check(header)?;
        self.lane_opener(header.key_id, header.mode, header.kind, header.salt)
    }

    /// Sees that an object was sealed for this repository, under a key of it: that of now or a retired one. It need not be one that opens here.
    ///
    /// # Errors
    ///
    /// [`Error::OtherRepository`], [`Error::ModeMismatch`], [`Error::OtherKey`].
    pub fn check(&self, header: &ObjectHeader) -> Result<()> {
        let repository = self.repository();
        if header.repository != repository {
            return Err(Error::OtherRepository { expected: repository, found: header.repository });
        }
        self.class_keys(header.key_id, header.mode, header.kind).map(|_| ())
    }

    /// The keys of a generation that seals objects of this kind in this mode.
    fn class_keys(&self, key_id: KeyId, mode: KeyMode, kind: ObjectKind) -> Result<&ClassKeys> {
        let fits = match self.keys.class {
            ClassKeys::Plain { .. } => mode == KeyMode::None,
            ClassKeys::Sealed { .. } => {
                mode == KeyMode::RepositoryKey || (mode == KeyMode::PublicKey && kind.is_content())
            }
        };
        if !fits {
            return Err(Error::ModeMismatch { expected: self.mode(kind), found: mode });
        }
        let own = (key_id == self.key_id()).then_some(&self.keys.class);
        let found = own.or_else(|| self.keys.retired.get(&key_id));
        found.ok_or(Error::OtherKey { expected: self.key_id(), found: key_id })
    }

    fn lane_header(&self, key_id: KeyId, mode: KeyMode, kind: ObjectKind, salt: LaneSalt) -> ObjectHeader {
        ObjectHeader { kind, mode, repository: self.repository(), key_id, salt, attempt: 0, pack: 0 }
    }

    /// The value of `auth` in `repo.json` over the JSON text without it; none of a key that only writes.
    pub fn auth_tag(&self, text: &[u8]) -> Option<[u8; 32]> {
        let auth = match &self.keys.class {
            ClassKeys::Plain { auth, .. } => auth,
            ClassKeys::Sealed { reading, .. } => &reading.as_ref()?.auth,
        };
        Some(*blake3::keyed_hash(auth, text).as_bytes())
    }

    /// Whether `auth` is the value over that text, in constant time.
    pub fn auth_matches(&self, text: &[u8], auth: &[u8; 32]) -> bool {
        let own = self.auth_tag(text);
        own.is_some_and(|own| blake3::Hash::from_bytes(own) == blake3::Hash::from_bytes(*auth))
    }

    /// The value of `writer-auth` in `repo.json` over the JSON text without it and `auth`: what tells who only writes that the text was made by
    /// somebody with a key. None without encryption.
    pub fn writer_auth_tag(&self, text: &[u8]) -> Option<[u8; 32]> {
        let ClassKeys::Sealed { write, .. } = &self.keys.class else { return None };
        let auth = hkdf_sha256(&[], &write[..], &[b"pgbr writer auth v1"]);
        Some(*blake3::keyed_hash(&auth, text).as_bytes())
    }

    /// Whether `auth` is that value, in constant time.
    pub fn writer_auth_matches(&self, text: &[u8], auth: &[u8; 32]) -> bool {
        let own = self.writer_auth_tag(text);
        own.is_some_and(|own| blake3::Hash::from_bytes(own) == blake3::Hash::from_bytes(*auth))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("repository", &self.repository())
            .field("key_id", &self.key_id())
            .field("cipher", &self.cipher())
            .field("reads", &self.reads())
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
        let header = |ring: &Keyring| {
            ring.sealer(ObjectKind::Record, LaneSeed::from_bytes([3; 32])).unwrap().header(0, 0)
        };
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
        let (mode, salt) = (KeyMode::RepositoryKey, LaneSalt::from_bytes([3; 32]));
        let other = both.lane_opener(KeyId::NONE, mode, ObjectKind::Wal, salt);
        assert!(matches!(other, Err(Error::OtherKey { .. })));
    }

    #[test]
    fn auth_depends_on_key_and_text() {
        let id = RepositoryId::from_bytes([1; 16]);
        let ring = |key| Keyring::sealed(id, KeyId::NONE, &RepositoryKey::from_bytes(key));
        let tag = ring([1; 32]).auth_tag(b"{}").unwrap();
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
            format!("{key:?} {ring:?} {:?}", ring.sealer(ObjectKind::Wal, LaneSeed::from_bytes([3; 32])));
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
