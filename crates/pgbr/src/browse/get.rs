//! Gives what is in a file of a repository.

use object_store::path::Path;
use pgbr_codec::open_record;
use pgbr_manifest::{ArchiveId, BackupLabel, StanzaName, WalFileName};
use pgbr_pgbackrest::BackupInfo as TheirList;
use pgbr_repo::{BackupStore, ParsedKey, Repo, Stanza, WalGet, WalStore};

use super::info_file::{agree, archive_info, backup_info};
use super::view::Aim;
use super::{Browser, RepoPath};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::summaries;
use crate::place::RepoAccess;
use crate::theirs::{Theirs, is_of_content};

/// The largest file that is given, in bytes: a WAL segment of 1 GiB, and what sealing adds to it.
const MAX_FILE: u64 = (1 << 30) + (1 << 20);

/// What to get.
#[derive(Debug, Clone)]
pub struct RepoGetRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// Which file.
    pub path: RepoPath,
    /// As it is stored, neither opened nor decompressed.
    pub raw: bool,
}

/// A file of a repository.
#[derive(Debug)]
pub struct RepoFile {
    /// Its content.
    pub content: Vec<u8>,
    /// Whether the name that it was asked for by promises a zstd stream, which the caller then makes of the content.
    pub as_zst: bool,
}

/// Gives a file; `None` where the repository was reached and the file is not in it.
///
/// # Errors
/// When the repository cannot be opened; when the file is damaged; [`Error::Unsupported`] for what has no other form than the raw one; as
/// the store failed.
pub async fn repo_get(host: &Host, request: RepoGetRequest) -> Result<Option<RepoFile>> {
    if request.repo.place.is_not_there() {
        return Ok(None);
    }
    let browser = Browser::new(&request.repo)?;
    let Some(target) = browser.find(&request.path).await? else { return Ok(None) };
    let plain = |content: Vec<u8>| Ok(Some(RepoFile { content, as_zst: false }));
    let key = target.object.key;
    let parsed = ParsedKey::parse(&key);
    if request.raw || matches!(parsed, None | Some(ParsedKey::Repo { .. })) {
        return plain(browser.store.get(&key, MAX_FILE).await?.to_vec());
    }
    let repo = request.repo.open(host).await?;
    match (target.aim, parsed) {
        (Some(Aim::Info { stanza, backup, .. }), _) => match backup {
            true => plain(backup_list(host, &request.repo, &repo, &stanza).await?),
            false => {
                let opened = Stanza::open(&repo, &stanza).await?;
                plain(archive_info(opened.history(), &host.program).into_bytes())
            }
        },
        (Some(Aim::Manifest { stanza, label }), _)
        | (None, Some(ParsedKey::Manifest { stanza, label, .. })) => {
            plain(manifest(&repo, &stanza, &label).await?)
        }
        (Some(Aim::Wal { stanza, id, file, zst, .. }), _) => {
            let content = wal(host, &repo, &stanza, id, &file).await?;
            Ok(content.map(|content| RepoFile { content, as_zst: zst }))
        }
        (None, Some(ParsedKey::Wal { stanza, id, file, .. })) => {
            let content = wal(host, &repo, &stanza, id, &file).await?;
            Ok(content.map(|content| RepoFile { content, as_zst: false }))
        }
        (None, Some(ParsedKey::Pack { .. })) => {
            Err(Error::Unsupported { what: format!("'{key}' in another form than the raw one") })
        }
        (None, _) => plain(record(&browser, &repo, &key).await?),
    }
}

/// The list of backups: ours, and those of pgBackRest beside them, for who watches the path has to see all that can be restored.
async fn backup_list(host: &Host, access: &RepoAccess, repo: &Repo, stanza: &StanzaName) -> Result<Vec<u8>> {
    let opened = Stanza::open(repo, stanza).await?;
    let mut backups = Vec::new();
    for (label, summary) in summaries(&BackupStore::new(repo, stanza)).await? {
        match summary {
            Ok(summary) => backups.push(summary),
            Err(error) => host.warn(format!("backup {label} cannot be read: {error}")),
        }
    }
    // What the store does not give now may be there the next time: then theirs are not to seem gone.
    let theirs = match their_list(access, stanza).await {
        Err(error) if !is_of_content(&error) => return Err(error),
        Ok(Some(list)) if !agree(opened.history(), &list) => {
            host.warn("the backups of pgBackRest are left out: by the same number it means another cluster");
            None
        }
        Ok(list) => list,
        Err(error) => {
            host.warn(format!("the backups of pgBackRest are left out: {}", with_causes(&error)));
            None
        }
    };
    Ok(backup_info(opened.history(), &backups, theirs.as_ref(), &host.program).into_bytes())
}

async fn their_list(access: &RepoAccess, stanza: &StanzaName) -> Result<Option<TheirList>> {
    let Some(theirs) = Theirs::look(access).await?.map(Theirs::or_plain) else { return Ok(None) };
    theirs.list(stanza).await
}

/// The JSON of a manifest's summary: the rest of it is for programs, and holds a key.
async fn manifest(repo: &Repo, stanza: &StanzaName, label: &BackupLabel) -> Result<Vec<u8>> {
    let summary = BackupStore::new(repo, stanza).read_summary(label).await?;
    let mut line = summary.trim_ascii_end().to_vec();
    line.push(b'\n');
    Ok(line)
}

async fn wal(
    host: &Host,
    repo: &Repo,
    stanza: &StanzaName,
    id: ArchiveId,
    file: &WalFileName,
) -> Result<Option<Vec<u8>>> {
    match WalStore::new(repo, stanza).get(id, file).await? {
        WalGet::Found(found) => {
            found.warnings.iter().for_each(|warning| host.warn(warning.as_str()));
            Ok(Some(found.content))
        }
        WalGet::Missing => Ok(None),
    }
}

/// The JSON of a record.
async fn record(browser: &Browser, repo: &Repo, key: &Path) -> Result<Vec<u8>> {
    let object = browser.store.get(key, MAX_FILE).await?;
    let mut json = open_record(repo.keyring(), &object)?.to_vec();
    json.push(b'\n');
    Ok(json)
}
