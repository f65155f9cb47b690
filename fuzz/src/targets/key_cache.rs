//! Wrapping keys that are kept on the host: only what was kept opens, and only for its passphrase and slot.

use std::sync::OnceLock;

use pgbr_codec::{Kdf, KeyId, NewLock, Passphrase, RepositoryId, RepositoryKey, Slot, WrappingKey};

struct Kept {
    passphrase: Passphrase,
    slot: Slot,
    key: WrappingKey,
    cached: Vec<u8>,
}

fn kept() -> &'static Kept {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    KEPT.get_or_init(|| {
        let passphrase = Passphrase::generated(&[7; 32]);
        let key = RepositoryKey::from_bytes([8; 32]);
        let (repository, key_id) = (RepositoryId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
        let (slot_id, kdf, nonce) = ([3; 8], Kdf::hkdf([5; 16]), [4; 12]);
        let lock = NewLock { repository, key_id, passphrase: &passphrase, slot_id, kdf, nonce };
        let slot = Slot::wrap(&key, lock).expect("a generated key");
        let key = slot.wrapping_key(&passphrase).expect("a generated key");
        let cached = key.seal_for_cache(&passphrase, [6; 32]).expect("a key of 32 bytes");
        Kept { passphrase, slot, key, cached }
    })
}

pub(crate) fn run(input: (u8, u8, &[u8])) {
    let (at, flip, foreign) = input;
    let Kept { passphrase, slot, key, cached } = kept();
    assert!(WrappingKey::open_from_cache(foreign, passphrase, slot).is_none_or(|_| foreign == cached));
    let mut bytes = cached.clone();
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= flip;
    let opened = WrappingKey::open_from_cache(&bytes, passphrase, slot);
    assert_eq!(opened.map(|opened| *opened.as_bytes()), (flip == 0).then(|| *key.as_bytes()));
}
