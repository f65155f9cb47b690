//! Retired keys: what a repository's objects were sealed with before its key was changed, wrapped under the key of now.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::keys::{KEY_LEN, hkdf_sha256};
use crate::slot::{self, WRAPPED_LEN};
use crate::{Error, KeyId, RepositoryId, RepositoryKey, Result};

const INFO: &[u8] = b"pgbr retired key v1";

/// A key that opens old objects and seals no new ones, as it stands in `repo.json`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RetiredKey {
    /// Which generation it is: what its objects repeat.
    pub key_id: KeyId,
    /// The nonce that it is wrapped with.
    #[serde(with = "slot::hex")]
    pub nonce: [u8; 12],
    /// The key, encrypted, and its tag.
    #[serde(with = "slot::hex")]
    pub wrapped: [u8; WRAPPED_LEN],
}

impl RetiredKey {
    /// Wraps an old key under the one of now; the nonce is fresh random bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Crypto`], which does not happen for keys of this length.
    pub fn wrap(
        old: (KeyId, &RepositoryKey),
        repository: RepositoryId,
        now: (KeyId, &RepositoryKey),
        nonce: [u8; 12],
    ) -> Result<Self> {
        let (key_id, key) = old;
        let associated = associated(repository, key_id, now.0);
        let wrapped = slot::seal_payload(&wrapping(now.1), nonce, &associated, key.as_bytes())?;
        Ok(Self { key_id, nonce, wrapped })
    }

    /// The old key.
    ///
    /// # Errors
    ///
    /// [`Error::RetiredKey`] if it was not wrapped for this repository under this key.
    pub fn unwrap_with(
        &self,
        repository: RepositoryId,
        now: (KeyId, &RepositoryKey),
    ) -> Result<RepositoryKey> {
        let mut wrapped = zeroize::Zeroizing::new(self.wrapped);
        let associated = associated(repository, self.key_id, now.0);
        let opened = slot::open(&wrapping(now.1), self.nonce, &associated, &mut wrapped[..]);
        let key = opened.and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok());
        key.map(RepositoryKey::from_bytes).ok_or(Error::RetiredKey { key_id: self.key_id })
    }
}

impl fmt::Debug for RetiredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetiredKey").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

fn wrapping(now: &RepositoryKey) -> crate::keys::Secret {
    hkdf_sha256(&[], now.as_bytes(), &[INFO])
}

fn associated(repository: RepositoryId, old: KeyId, now: KeyId) -> Vec<u8> {
    [INFO, repository.as_bytes(), old.as_bytes(), now.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_key_opens_where_it_was_wrapped_and_nowhere_else() {
        let repository = RepositoryId::from_bytes([1; 16]);
        let (old, now) = (RepositoryKey::from_bytes([2; 32]), RepositoryKey::from_bytes([3; 32]));
        let (old_id, now_id) = (KeyId::from_bytes([4; 16]), KeyId::from_bytes([5; 16]));
        let retired = RetiredKey::wrap((old_id, &old), repository, (now_id, &now), [6; 12]).unwrap();
        assert!(retired.unwrap_with(repository, (now_id, &now)).unwrap() == old);
        let elsewhere = RepositoryId::from_bytes([9; 16]);
        let refused = |retired: &RetiredKey, repository, id, key| {
            matches!(retired.unwrap_with(repository, (id, key)), Err(Error::RetiredKey { .. }))
        };
        assert!(refused(&retired, elsewhere, now_id, &now));
        assert!(refused(&retired, repository, old_id, &now));
        assert!(refused(&retired, repository, now_id, &old));
        assert!(refused(&RetiredKey { key_id: now_id, ..retired.clone() }, repository, now_id, &now));
        for bit in 0..WRAPPED_LEN * 8 {
            let mut bad = retired.clone();
            bad.wrapped[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&bad, repository, now_id, &now));
        }
        let text = serde_json::to_string(&retired).unwrap();
        assert_eq!(serde_json::from_str::<RetiredKey>(&text).unwrap(), retired);
    }
}
