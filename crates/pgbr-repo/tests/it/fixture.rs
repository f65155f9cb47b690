//! What the tests have in common: randomness, passphrases, repositories in new directories.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use pgbr_codec::{Cipher, Passphrase};
use pgbr_manifest::{BackupLabel, PgVersion, StanzaName, SystemId};
use pgbr_repo::{CreateOptions, Entropy, NewCluster, Repo, Result, Store};

use pgbr_testkit::{Fault, FaultStore};

/// Bytes that differ with every call in this process: enough for tests, and nothing more.
pub(crate) struct Counter;

static CALLS: AtomicU64 = AtomicU64::new(0);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        let call = CALLS.fetch_add(1, Ordering::SeqCst);
        blake3::Hasher::new().update(&call.to_le_bytes()).finalize_xof().fill(bytes);
        Ok(())
    }
}

pub(crate) fn entropy() -> Arc<dyn Entropy> {
    Arc::new(Counter)
}

pub(crate) const NOW: i64 = 1_790_000_000;

pub(crate) fn passphrase() -> Passphrase {
    Passphrase::generated(&[7; 32])
}

pub(crate) fn sealed() -> CreateOptions {
    CreateOptions {
        cipher: Cipher::Aes256Gcm,
        passphrase: Some(passphrase()),
        kdf: None,
        now: NOW,
        entropy: entropy(),
    }
}

pub(crate) fn plain() -> CreateOptions {
    CreateOptions { cipher: Cipher::None, passphrase: None, ..sealed() }
}

pub(crate) fn local(directory: &Path) -> Store {
    Store::local(directory, true).unwrap()
}

/// A store in a directory with something wrong, and its wrapper.
pub(crate) fn faulty(directory: &Path, fault: Fault) -> (Store, Arc<FaultStore>) {
    let mut wrapper = None;
    let store = Store::local_wrapped(directory, true, |inner| {
        let faults = FaultStore::new(inner, fault);
        wrapper = Some(Arc::clone(&faults));
        faults
    });
    (store.unwrap(), wrapper.unwrap())
}

pub(crate) async fn open(store: Store) -> Result<Repo> {
    Repo::open(store, Some(&passphrase()), None, entropy()).await
}

/// A new encrypted repository in a directory.
pub(crate) async fn repo(directory: &Path) -> Repo {
    Repo::create(local(directory), sealed()).await.unwrap()
}

/// The repository in a directory by way of a store with something wrong. Requests count from the first after the opening.
pub(crate) async fn faulty_repo(directory: &Path, fault: Fault) -> (Repo, Arc<FaultStore>) {
    let (store, wrapper) = faulty(directory, fault.later(1));
    let repo = open(store).await.unwrap();
    assert_eq!(wrapper.requests(), 1, "a repository is opened by one request");
    (repo, wrapper)
}

/// A new repository in a store that ignores conditional creates.
pub(crate) async fn repo_without_creates(directory: &Path) -> Repo {
    let (store, _) = faulty(directory, Fault::IgnoresCreate);
    let repo = Repo::create(store, sealed()).await.unwrap();
    assert!(!repo.traits().create);
    repo
}

pub(crate) fn stanza() -> StanzaName {
    "main".parse().unwrap()
}

pub(crate) fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

pub(crate) const fn cluster(system_id: u64) -> NewCluster {
    NewCluster {
        system_id: SystemId::new(system_id),
        version: PgVersion::V15,
        catalog_version: 202_209_061,
        control_version: 1300,
    }
}

/// Content that compresses a little and differs with its seed.
pub(crate) fn content(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    for chunk in bytes.chunks_mut(16) {
        let half = chunk.len() / 2;
        chunk[..half].fill(b' ');
    }
    bytes.into()
}

/// Flips a bit of a file.
pub(crate) fn damage(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}
