//! What stays the same of a repository, kept on this host, so that a WAL file goes there by one request instead of three.
//!
//! Kept are the text of `repo.json` and the record of the stanza: the first holds keys only wrapped, both are authenticated under the repository's key and are checked when they
//! are used, as if they had been read. What no check of theirs can show is that the store holds another repository by now. So they
//! are believed for [`YOUNG`] of the host's boot-time clock and no longer; what a stale one can do in that time is to seal WAL for keys that are gone,
//! and a backup finds that out before it is committed (`WalStore::belongs`). They are never needed: whatever is wrong with them, the store is asked.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use pgbr_manifest::StanzaName;
use pgbr_repo::{FileKeyCache, KeyCache};
use serde::{Deserialize, Serialize};

use crate::host::{Host, boot_id};

/// For how long facts are believed.
pub(super) const YOUNG: Duration = Duration::from_secs(60);
/// The largest file of facts, in bytes: `repo.json` and the record have 256 KiB and 1 MiB at most, and most have a few hundred bytes.
const MAX_FILE: u64 = 4 << 20;

/// The facts of one stanza in one repository, in a directory of mode 0700.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    files: FileKeyCache,
    name: [u8; 8],
    place: String,
}

/// What was kept.
pub(super) struct Kept {
    /// The text of `repo.json`.
    pub(super) repo: Bytes,
    /// The sealed record of the stanza.
    pub(super) stanza: Bytes,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    place: String,
    boot: String,
    /// Milliseconds of the boot-time clock.
    seen: u64,
    repo: String,
    stanza: String,
}

impl Facts {
    /// The facts of a stanza in the repository at `place`, which tells it from every other.
    pub(super) fn new(directory: PathBuf, place: &str, stanza: &StanzaName) -> Self {
        let digest = blake3::hash(format!("{place} {stanza}").as_bytes());
        let mut name = [0; 8];
        name.copy_from_slice(&digest.as_bytes()[..8]);
        let place = digest.to_hex().to_string();
        Self { files: FileKeyCache::new(directory).with_max(MAX_FILE), name, place }
    }

    /// What was kept, if it is of this place and boot and young enough.
    pub(super) fn load(&self, host: &Host) -> Option<Kept> {
        let file: File = serde_json::from_slice(&self.files.load(&self.name)?).ok()?;
        let age = host.clock.monotonic().checked_sub(Duration::from_millis(file.seen))?;
        let ours = file.format == 1 && file.place == self.place && is_this_boot(&file.boot);
        if !ours || age >= YOUNG {
            return None;
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok().map(Bytes::from);
        Some(Kept { repo: decode(&file.repo)?, stanza: decode(&file.stanza)? })
    }

    /// Keeps what was read from the store after `seen` of the boot-time clock. That it cannot be kept costs requests, and nothing else.
    pub(super) fn store(&self, seen: Duration, repo: &[u8], stanza: &[u8]) {
        let file = File {
            format: 1,
            place: self.place.clone(),
            boot: boot_id(),
            seen: u64::try_from(seen.as_millis()).unwrap_or(0),
            repo: BASE64.encode(repo),
            stanza: BASE64.encode(stanza),
        };
        if let Ok(text) = serde_json::to_vec(&file) {
            self.files.store(&self.name, &text).ok();
        }
    }

    /// Takes them away: something did not go as they say.
    pub(super) fn forget(&self) {
        self.files.forget(&self.name);
    }
}

/// Whether this is the boot that the host is in; where the system does not tell, no boot is.
fn is_this_boot(boot: &str) -> bool {
    !boot.is_empty() && boot == boot_id()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use data_encoding::HEXLOWER;

    use super::*;
    use crate::host::Clock;

    struct Set(AtomicU64);

    impl Clock for Set {
        fn now_ns(&self) -> i64 {
            0
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn facts_are_believed_for_a_minute_and_for_their_place_alone() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Set(AtomicU64::new(1000)));
        let host = Host { clock: clock.clone(), ..Host::system() };
        let of =
            |place: &str, stanza: &str| Facts::new(dir.path().join("facts"), place, &stanza.parse().unwrap());
        let facts = of("s3://bucket", "demo");
        assert!(facts.load(&host).is_none());
        facts.store(host.clock.monotonic(), b"repo", b"stanza");
        let kept = facts.load(&host).unwrap();
        assert_eq!((&kept.repo[..], &kept.stanza[..]), (&b"repo"[..], &b"stanza"[..]));
        assert!(of("s3://bucket", "other").load(&host).is_none());
        assert!(of("s3://other", "demo").load(&host).is_none());
        clock.0.store(1059, Ordering::Relaxed);
        assert!(facts.load(&host).is_some());
        for other in [1060, 5000, 999] {
            clock.0.store(other, Ordering::Relaxed);
            assert!(facts.load(&host).is_none(), "{other}");
        }
        clock.0.store(1000, Ordering::Relaxed);
        facts.forget();
        assert!(facts.load(&host).is_none());
    }

    #[test]
    fn facts_that_anything_is_wrong_with_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (path, host) = (dir.path().join("facts"), Host::system());
        let facts = Facts::new(path.clone(), "s3://bucket", &"demo".parse().unwrap());
        facts.store(host.clock.monotonic(), b"repo", b"stanza");
        let file = path.join(HEXLOWER.encode(&facts.name));
        let whole = std::fs::read_to_string(&file).unwrap();
        let text = std::str::from_utf8(whole.as_bytes()).unwrap();
        let other_boot = text.replace(&boot_id(), "another");
        for bad in
            ["", "{}", &whole[..whole.len() / 2], &text.replace("\"format\":1", "\"format\":2"), &other_boot]
        {
            std::fs::write(&file, bad).unwrap();
            assert!(facts.load(&host).is_none(), "{bad}");
        }
        std::fs::write(&file, &whole).unwrap();
        assert!(facts.load(&host).is_some());
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(facts.load(&host).is_none(), "others could have read it");
    }
}
