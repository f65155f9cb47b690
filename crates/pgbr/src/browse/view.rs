//! The view: which names pgBackRest's tools see, and which objects stand behind them.

use futures::TryStreamExt;
use object_store::path::Path;
use pgbr_manifest::{ArchiveId, BackupLabel, StanzaName, WalFileName};
use pgbr_repo::{Layout, Listed, PREFIX, ParsedKey, WalDigest, WalLog};

use super::{Browser, RepoEntries, RepoEntry, add};
use crate::error::Result;

/// Names of the two trees, and of what lies in them.
const ARCHIVE: &str = "archive";
const BACKUP: &str = "backup";
const ARCHIVE_INFO: &str = "archive.info";
const BACKUP_INFO: &str = "backup.info";
const MANIFEST: &str = "backup.manifest";
const LATEST: &str = "latest";
const COPY: &str = ".copy";

/// What the names of segments end with: tools look for it, and what is read under such a name is a stream of this kind.
const ZST: &str = ".zst";

/// A file of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Aim {
    /// `archive.info` or `backup.info`.
    Info { stanza: StanzaName, backup: bool, copy: bool },
    /// `backup.manifest`.
    Manifest { stanza: StanzaName, label: BackupLabel },
    /// A WAL file; `zst` where its name asks for a compressed stream.
    Wal { stanza: StanzaName, id: ArchiveId, file: WalFileName, digest: Option<String>, zst: bool },
}

impl Aim {
    /// What a path means, if it is that of a file of the view.
    pub(super) fn of(parts: &[&str]) -> Option<Self> {
        match *parts {
            [tree @ (ARCHIVE | BACKUP), stanza, name] => {
                let backup = tree == BACKUP;
                let plain = name.strip_suffix(COPY);
                let info = if backup { BACKUP_INFO } else { ARCHIVE_INFO };
                let stanza = stanza.parse().ok()?;
                (plain.unwrap_or(name) == info).then_some(Self::Info {
                    stanza,
                    backup,
                    copy: plain.is_some(),
                })
            }
            [BACKUP, stanza, label, MANIFEST] => {
                Some(Self::Manifest { stanza: stanza.parse().ok()?, label: label.parse().ok()? })
            }
            [ARCHIVE, stanza, id, ref inside @ ..] => {
                let (log, name) = match *inside {
                    [name] => (None, name),
                    [log, name] => (Some(log), name),
                    _ => return None,
                };
                let (file, digest, zst) = wal_file(name)?;
                let of_log = WalLog::of(&file).map(|log| log.to_string());
                let wal = Self::Wal { stanza: stanza.parse().ok()?, id: id.parse().ok()?, file, digest, zst };
                (of_log.as_deref() == log).then_some(wal)
            }
            _ => None,
        }
    }
}

/// The name of a WAL file's object in the view.
fn wal_name(file: &WalFileName, digest: Option<&WalDigest>) -> String {
    let digest = digest.map(|digest| format!("-{digest}")).unwrap_or_default();
    let ending = if is_compressed(file) { ZST } else { "" };
    format!("{file}{digest}{ending}")
}

/// Whether pgBackRest compresses a file of this kind.
fn is_compressed(file: &WalFileName) -> bool {
    matches!(file, WalFileName::Segment(_) | WalFileName::Partial(_))
}

/// The WAL file that a name of the view is of, the digest in the name, and whether it ends as a compressed one.
fn wal_file(name: &str) -> Option<(WalFileName, Option<String>, bool)> {
    let (plain, zst) = match name.strip_suffix(ZST) {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let parsed = |text: &str| text.parse::<WalFileName>().ok().filter(|file| !zst || is_compressed(file));
    match plain.rsplit_once('-') {
        Some((file, digest)) => parsed(file).map(|file| (file, Some(digest.to_owned()), zst)),
        None => parsed(plain).map(|file| (file, None, zst)),
    }
}

impl Browser {
    /// The object behind a file of the view.
    pub(super) async fn object_of(&self, aim: &Aim) -> Result<Option<Listed>> {
        let keys = Layout::new();
        let directory = match aim {
            Aim::Info { stanza, .. } => keys.stanza_dir(stanza),
            Aim::Manifest { stanza, label } => keys.label_dir(stanza, label),
            Aim::Wal { stanza, id, file, .. } => match WalLog::of(file) {
                Some(log) => keys.wal_dir(stanza, *id, &log),
                None => keys.archive_dir(stanza, *id),
            },
        };
        let level = self.store.level(&directory).await?;
        let is_it = |object: &&Listed| match (ParsedKey::parse(&object.key), aim) {
            (Some(ParsedKey::Stanza { copy, .. }), Aim::Info { copy: wanted, .. }) => copy == *wanted,
            (Some(ParsedKey::Manifest { .. }), Aim::Manifest { .. }) => true,
            (Some(ParsedKey::Wal { file, digest, .. }), Aim::Wal { file: wanted, digest: of, .. }) => {
                let digest = digest.map(|digest| digest.to_string());
                // A name without a digest means the file, whichever object holds it.
                file == *wanted && (of.is_none() || digest == *of)
            }
            _ => false,
        };
        Ok(level.objects.iter().find(is_it).cloned())
    }

    /// The entries of the view below a path.
    pub(super) async fn view(&self, at: &[&str], recurse: bool) -> Result<RepoEntries> {
        let mut entries = RepoEntries::new();
        let mut todo: Vec<Vec<String>> = vec![at.iter().map(|part| (*part).to_owned()).collect()];
        while let Some(directory) = todo.pop() {
            let below = directory.get(at.len()..).unwrap_or_default().to_vec();
            let parts: Vec<&str> = directory.iter().map(String::as_str).collect();
            for (name, entry) in self.view_level(&parts, recurse).await? {
                if recurse && entry == RepoEntry::Directory && name.len() == 1 && !is_archive(&parts) {
                    todo.push(directory.iter().chain(&name).cloned().collect());
                }
                add(&mut entries, below.iter().cloned().chain(name).collect(), entry);
            }
        }
        Ok(entries)
    }

    /// One level of the view, but all of an archive where `deep` asks for it: one listing of all its objects is cheaper than one for
    /// each of its directories.
    async fn view_level(&self, at: &[&str], deep: bool) -> Result<RepoEntries> {
        match *at {
            [] if self.stanzas().await?.is_empty() => Ok(RepoEntries::new()),
            [] => Ok(directories([ARCHIVE.to_owned(), BACKUP.to_owned()])),
            [ARCHIVE | BACKUP] => Ok(directories(self.stanzas().await?)),
            [tree @ (ARCHIVE | BACKUP), stanza, ref inside @ ..] => match stanza.parse() {
                Ok(stanza) if tree == ARCHIVE => self.archive_level(&stanza, inside, deep).await,
                Ok(stanza) => self.backup_level(&stanza, inside).await,
                Err(_) => Ok(RepoEntries::new()),
            },
            _ => Ok(RepoEntries::new()),
        }
    }

    async fn stanzas(&self) -> Result<Vec<String>> {
        let level = self.store.level(&Path::from(PREFIX)).await?;
        let is_stanza = |name: &String| !name.starts_with("repo.json") && name.parse::<StanzaName>().is_ok();
        let mut stanzas = Vec::new();
        for name in level.directories.into_iter().filter(is_stanza) {
            let Ok(stanza) = name.parse() else { continue };
            if !self.info_files(&stanza, "").await?.is_empty() {
                stanzas.push(name);
            }
        }
        Ok(stanzas)
    }

    /// The two info files of a stanza, by the objects that stand for them.
    async fn info_files(&self, stanza: &StanzaName, info: &str) -> Result<RepoEntries> {
        let level = self.store.level(&Layout::new().stanza_dir(stanza)).await?;
        let name = |object: &Listed| match ParsedKey::parse(&object.key) {
            Some(ParsedKey::Stanza { copy, .. }) => Some(format!("{info}{}", if copy { COPY } else { "" })),
            _ => None,
        };
        Ok(level.objects.iter().filter_map(|object| Some((vec![name(object)?], object.into()))).collect())
    }

    async fn archive_level(&self, stanza: &StanzaName, inside: &[&str], deep: bool) -> Result<RepoEntries> {
        let keys = Layout::new();
        let directory = match *inside {
            [] => {
                let mut entries = self.info_files(stanza, ARCHIVE_INFO).await?;
                let level = self.store.level(&keys.archives_dir(stanza)).await?;
                let ids = level.directories.into_iter().filter(|name| name.parse::<ArchiveId>().is_ok());
                entries.extend(directories(ids));
                return Ok(entries);
            }
            [id, ref log @ ..] => match (id.parse(), log) {
                (Ok(id), []) => keys.archive_dir(stanza, id),
                (Ok(id), [log]) => match WalLog::parse(log) {
                    Some(log) => keys.wal_dir(stanza, id, &log),
                    None => return Ok(RepoEntries::new()),
                },
                _ => return Ok(RepoEntries::new()),
            },
        };
        let mut entries = RepoEntries::new();
        let objects = match deep {
            true => self.store.list(&directory).try_collect::<Vec<_>>().await?,
            false => {
                let level = self.store.level(&directory).await?;
                let logs = level.directories.into_iter().filter(|name| WalLog::parse(name).is_some());
                entries.extend(directories(logs));
                level.objects
            }
        };
        let in_log = inside.len() == 2;
        for object in &objects {
            let Some(ParsedKey::Wal { file, digest, .. }) = ParsedKey::parse(&object.key) else { continue };
            let log = WalLog::of(&file).filter(|_| !in_log).map(|log| log.to_string());
            let parts = log.into_iter().chain([wal_name(&file, digest.as_ref())]).collect();
            add(&mut entries, parts, object.into());
        }
        Ok(entries)
    }

    async fn backup_level(&self, stanza: &StanzaName, inside: &[&str]) -> Result<RepoEntries> {
        match *inside {
            [] => {
                let mut entries = self.info_files(stanza, BACKUP_INFO).await?;
                let labels = self.labels(stanza).await?;
                let newest = labels.iter().max_by_key(|label| (label.time(), **label));
                let latest =
                    newest.map(|label| (vec![LATEST.to_owned()], RepoEntry::Link { to: label.to_string() }));
                entries.extend(latest);
                entries.extend(directories(labels.iter().map(BackupLabel::to_string)));
                Ok(entries)
            }
            [label] => match label.parse() {
                Ok(label) => {
                    let aim = Aim::Manifest { stanza: stanza.clone(), label };
                    let manifest = self.object_of(&aim).await?;
                    Ok(manifest.iter().map(|object| (vec![MANIFEST.to_owned()], object.into())).collect())
                }
                Err(_) => Ok(RepoEntries::new()),
            },
            _ => Ok(RepoEntries::new()),
        }
    }

    /// The backups of a stanza, sorted: those that have a manifest.
    pub(super) async fn labels(&self, stanza: &StanzaName) -> Result<Vec<BackupLabel>> {
        let level = self.store.level(&Layout::new().backup_dir(stanza)).await?;
        let mut labels = Vec::new();
        for label in level.directories.iter().filter_map(|name| name.parse().ok()) {
            let aim = Aim::Manifest { stanza: stanza.clone(), label };
            if self.object_of(&aim).await?.is_some() {
                labels.push(label);
            }
        }
        labels.sort_unstable();
        Ok(labels)
    }
}

/// Whether a path is that of an archive, which is listed as a whole.
fn is_archive(parts: &[&str]) -> bool {
    matches!(parts, [ARCHIVE, _, _, ..])
}

fn directories(names: impl IntoIterator<Item = String>) -> RepoEntries {
    names.into_iter().map(|name| (vec![name], RepoEntry::Directory)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aim(path: &str) -> Option<Aim> {
        Aim::of(&path.split('/').collect::<Vec<_>>())
    }

    #[test]
    fn files_of_the_view() {
        let wal = |path: &str| match aim(path) {
            Some(Aim::Wal { file, digest, zst, .. }) => Some((file.to_string(), digest, zst)),
            _ => None,
        };
        let log = "archive/demo/15-1/0000000100000000";
        let segment = "000000010000000000000004";
        assert_eq!(wal(&format!("{log}/{segment}.zst")), Some((segment.to_owned(), None, true)));
        assert_eq!(wal(&format!("{log}/{segment}")), Some((segment.to_owned(), None, false)));
        let digest = "0123456789abcdef".to_owned();
        let variant = wal(&format!("{log}/{segment}-{digest}.zst"));
        assert_eq!(variant, Some((segment.to_owned(), Some(digest), true)));
        let history = wal("archive/demo/15-1/00000002.history");
        assert_eq!(history, Some(("00000002.history".to_owned(), None, false)));
        // Each has one place.
        assert_eq!(wal(&format!("archive/demo/15-1/{segment}.zst")), None);
        assert_eq!(wal(&format!("{log}/00000002.history")), None);
        assert_eq!(wal(&format!("archive/demo/15-1/0000000200000000/{segment}.zst")), None);
        assert_eq!(wal("archive/demo/15-1/00000002.history.zst"), None);

        assert!(matches!(
            aim("archive/demo/archive.info"),
            Some(Aim::Info { backup: false, copy: false, .. })
        ));
        assert!(matches!(
            aim("backup/demo/backup.info.copy"),
            Some(Aim::Info { backup: true, copy: true, .. })
        ));
        assert!(matches!(aim("backup/demo/20261122-120000F/backup.manifest"), Some(Aim::Manifest { .. })));
        for none in
            ["archive/demo/backup.info", "backup/demo/x/backup.manifest", "archive", "pgbr/demo/stanza.json"]
        {
            assert_eq!(aim(none), None, "{none}");
        }
    }

    #[test]
    fn names_of_wal_lead_back_to_it() {
        let digest = WalDigest::of(&[7; 32]);
        for name in [
            "000000010000000000000004",
            "000000010000000000000004.partial",
            "000000010000000000000004.00000028.backup",
            "00000002.history",
        ] {
            let file: WalFileName = name.parse().unwrap();
            for digest in [None, Some(&digest)] {
                let shown = wal_name(&file, digest);
                let (back, found, zst) = wal_file(&shown).unwrap();
                assert_eq!((back, zst), (file, is_compressed(&file)), "{shown}");
                assert_eq!(found, digest.map(ToString::to_string), "{shown}");
            }
        }
    }
}
