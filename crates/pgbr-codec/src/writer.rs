//! Keys of who writes and does not read: content is sealed so that only the holder of the repository key opens it (key mode 2).
//!
//! Every repository key has an X25519 key pair, whose private half follows from it and is kept nowhere. A lane of content has a pair of its
//! own; its private half is forgotten when the lane is sealed, its public half stands in the header where other lanes have their salt. What
//! the two pairs agree on, together with a key that all writers have, makes the lane's key: the first keeps writers from reading what others
//! wrote, the second keeps those who have no key at all from writing.

use std::fmt;

use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use crate::frame::Key;
use crate::keys::{KEY_LEN, Secret, class_key, hkdf_sha256};
use crate::slot::{self, WRITER_WRAPPED_LEN};
use crate::{Error, KeyId, LaneSalt, LaneSeed, ObjectKind, RepositoryId, RepositoryKey, Result};

/// Length of a [`WriterKey`] in bytes.
pub(crate) const WRITER_KEY_LEN: usize = 4 * KEY_LEN;

const RETIRED_INFO: &[u8] = b"pgbr retired writer v1";

/// What opens an encrypted repository for writing only: keys for what is known of files (index, manifests, records), and for making content
/// that itself cannot be opened with it.
#[derive(Clone)]
pub struct WriterKey {
    pub(crate) index: Secret,
    pub(crate) meta: Secret,
    pub(crate) write: Secret,
    pub(crate) public: [u8; KEY_LEN],
}

impl WriterKey {
    /// The writer's part of a repository key.
    pub fn of(key: &RepositoryKey) -> Self {
        Self {
            index: class_key(key, "index"),
            meta: class_key(key, "meta"),
            write: class_key(key, "write"),
            public: public_half(&private_half(key)),
        }
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; WRITER_KEY_LEN]> {
        let mut bytes = Zeroizing::new([0; WRITER_KEY_LEN]);
        let parts = [&self.index[..], &self.meta[..], &self.write[..], &self.public[..]];
        for (place, part) in bytes.chunks_exact_mut(KEY_LEN).zip(parts) {
            place.copy_from_slice(part);
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; WRITER_KEY_LEN] = bytes.try_into().ok()?;
        let part = |number: usize| {
            let mut part = Zeroizing::new([0; KEY_LEN]);
            part.copy_from_slice(&bytes[number * KEY_LEN..][..KEY_LEN]);
            part
        };
        Some(Self { index: part(0), meta: part(1), write: part(2), public: *part(3) })
    }
}

impl fmt::Debug for WriterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriterKey(..)")
    }
}

/// What a writer needs of a key that seals nothing any more: what is known of older backups is under it. As it stands in `repo.json`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetiredWriter {
    /// Which generation it is of.
    pub key_id: KeyId,
    /// The nonce that it is wrapped with.
    #[serde(with = "slot::hex")]
    pub nonce: [u8; 12],
    /// The writer's part of the old key, encrypted, and its tag.
    #[serde(with = "slot::hex")]
    pub wrapped: [u8; WRITER_WRAPPED_LEN],
}

impl RetiredWriter {
    /// Wraps the writer's part of an old key for the writers of now; the nonce is fresh random bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`], which does not happen for keys of this length.
    pub fn wrap(
        old: (KeyId, &WriterKey),
        repository: RepositoryId,
        now: (KeyId, &WriterKey),
        nonce: [u8; 12],
    ) -> Result<Self> {
        let (key_id, key) = old;
        let associated = associated(repository, key_id, now.0);
        let wrapped = slot::seal_payload(&wrapping(now.1), nonce, &associated, &key.to_bytes()[..])?;
        Ok(Self { key_id, nonce, wrapped })
    }

    /// The writer's part of the old key.
    ///
    /// # Errors
    ///
    /// [`Error::RetiredKey`] if it was not wrapped for this repository and the writers of this key.
    pub fn unwrap_with(&self, repository: RepositoryId, now: (KeyId, &WriterKey)) -> Result<WriterKey> {
        let mut wrapped = Zeroizing::new(self.wrapped);
        let associated = associated(repository, self.key_id, now.0);
        let opened = slot::open(&wrapping(now.1), self.nonce, &associated, &mut wrapped[..]);
        opened.and_then(WriterKey::from_bytes).ok_or(Error::RetiredKey { key_id: self.key_id })
    }
}

impl fmt::Debug for RetiredWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetiredWriter").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

fn wrapping(now: &WriterKey) -> Secret {
    hkdf_sha256(&[], &now.write[..], &[RETIRED_INFO])
}

fn associated(repository: RepositoryId, old: KeyId, now: KeyId) -> Vec<u8> {
    [RETIRED_INFO, repository.as_bytes(), old.as_bytes(), now.as_bytes()].concat()
}

/// The private half of a repository key's pair.
pub(crate) fn private_half(key: &RepositoryKey) -> Secret {
    class_key(key, "private")
}

/// The public half that goes with a private one.
pub(crate) fn public_half(private: &Secret) -> [u8; KEY_LEN] {
    PublicKey::from(&StaticSecret::from(**private)).to_bytes()
}

/// A new lane of content for the holder of a repository key: what stands in its header for a salt, and what seals it. The seed, which would
/// open it again, is gone.
pub(crate) fn begin_lane(
    seed: LaneSeed,
    (public, write): (&[u8; KEY_LEN], &Secret),
    kind: ObjectKind,
) -> Result<(LaneSalt, Key)> {
    let own = StaticSecret::from(*seed.as_bytes());
    let lane = PublicKey::from(&own).to_bytes();
    let shared = own.diffie_hellman(&PublicKey::from(*public));
    let content = content_key(&shared, write, kind, (&lane, public))
        .ok_or(Error::Unwritable { reason: "the public key of the repository is not one" })?;
    let key = Key::Apart { content: Some(content), end: Some(end_key(write, kind, &lane)) };
    Ok((LaneSalt::from_bytes(lane), key))
}

/// What opens a lane of content: all of it with the private half and the public one that goes with it, else only what ends its objects.
pub(crate) fn reopen_lane(
    lane: LaneSalt,
    private: Option<(&Secret, &[u8; KEY_LEN])>,
    write: &Secret,
    kind: ObjectKind,
) -> Result<Key> {
    let end = Some(end_key(write, kind, lane.as_bytes()));
    let Some((private, public)) = private else { return Ok(Key::Apart { content: None, end }) };
    let shared = StaticSecret::from(**private).diffie_hellman(&PublicKey::from(*lane.as_bytes()));
    match content_key(&shared, write, kind, (lane.as_bytes(), public)) {
        Some(content) => Ok(Key::Apart { content: Some(content), end }),
        None => Err(Error::corrupt("object header", "its lane has no public key")),
    }
}

/// None where a public key is a point of low order: what was agreed on would be no secret.
fn content_key(
    shared: &SharedSecret,
    write: &Secret,
    kind: ObjectKind,
    (lane, public): (&[u8; KEY_LEN], &[u8; KEY_LEN]),
) -> Option<Secret> {
    let mut input = Zeroizing::new([0; 2 * KEY_LEN]);
    input[..KEY_LEN].copy_from_slice(shared.as_bytes());
    input[KEY_LEN..].copy_from_slice(&write[..]);
    let key = hkdf_sha256(lane, &input[..], &[b"pgbr lane v2", &[kind as u8], public]);
    shared.was_contributory().then_some(key)
}

/// The key of the frame that ends an object: writers open it, to take up what a broken run left and to tell a file from another.
fn end_key(write: &Secret, kind: ObjectKind, lane: &[u8; KEY_LEN]) -> Secret {
    hkdf_sha256(lane, &write[..], &[b"pgbr end v2", &[kind as u8]])
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn agreement_is_that_of_the_rfc() {
        let private = |hex| Zeroizing::new(bytes(hex));
        let alice = private("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = private("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = public_half(&bob);
        assert_eq!(public, bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let shared = StaticSecret::from(*alice).diffie_hellman(&PublicKey::from(public));
        assert_eq!(
            *shared.as_bytes(),
            bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
        );
    }

    #[test]
    fn both_sides_of_a_lane_have_the_same_keys() {
        let repository = RepositoryKey::from_bytes([1; 32]);
        let (writer, private) = (WriterKey::of(&repository), private_half(&repository));
        let seed = LaneSeed::from_bytes([2; 32]);
        let (lane, sealed) = begin_lane(seed, (&writer.public, &writer.write), ObjectKind::Wal).unwrap();
        let owner = Some((&private, &writer.public));
        let Key::Apart { content: Some(content), end: Some(end) } = sealed else { panic!("two keys") };
        let reopened = reopen_lane(lane, owner, &writer.write, ObjectKind::Wal).unwrap();
        assert!(
            matches!(&reopened, Key::Apart { content: Some(c), end: Some(e) } if *c == content && *e == end)
        );
        let reopened = reopen_lane(lane, None, &writer.write, ObjectKind::Wal).unwrap();
        assert!(matches!(&reopened, Key::Apart { content: None, end: Some(e) } if *e == end));
        assert_ne!(content, end);

        // A public key that is none is not sealed to.
        let begun = begin_lane(LaneSeed::from_bytes([2; 32]), (&[0; 32], &writer.write), ObjectKind::Wal);
        assert!(matches!(begun, Err(Error::Unwritable { .. })));
    }

    #[test]
    fn a_writer_key_is_kept_whole_and_not_shown() {
        let key = WriterKey::of(&RepositoryKey::from_bytes([1; 32]));
        let back = WriterKey::from_bytes(&key.to_bytes()[..]).unwrap();
        assert_eq!(back.to_bytes(), key.to_bytes());
        assert!(WriterKey::from_bytes(&key.to_bytes()[1..]).is_none());
        assert_eq!(format!("{key:?} {:?}", LaneSeed::from_bytes([7; 32])), "WriterKey(..) LaneSeed(..)");
    }
}
