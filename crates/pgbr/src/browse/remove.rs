//! Takes objects of a repository away, by their real paths, and none that a backup needs.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::path::Path;
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{Error as RepoError, PREFIX, ParsedKey};

use super::{Browser, RepoPath};
use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::place::{RepoAccess, RepoPlace};

/// What to remove.
#[derive(Debug, Clone)]
pub struct RepoRmRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// What: a file, or all that is below a directory.
    pub path: RepoPath,
    /// Remove a directory that is not empty.
    pub recurse: bool,
    /// Remove what backups or the repository itself need, too.
    pub force: bool,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepoRmReport {
    /// How many objects.
    pub objects: u64,
}

/// Removes objects. While it does, no backup of the stanzas is made or expired, unless `force` is given.
///
/// # Errors
/// [`Error::Kept`] for the root, for what is in the view only, for a directory that is not empty without `recurse`, and for what is needed
/// without `force`; when another process writes to the stanza; as the store failed.
pub async fn repo_rm(host: &Host, request: RepoRmRequest) -> Result<RepoRmReport> {
    let browser = Browser::new(&request.repo)?;
    let parts = request.path.parts();
    let kept = |reason: String| Error::Kept { path: parts.join("/"), reason };
    let Some(directory) = request.path.key().filter(|_| !parts.is_empty()) else {
        return Err(kept("it is the repository itself; stanza-delete removes a stanza".to_owned()));
    };
    let target = browser.find(&request.path).await?;
    let keys = match target {
        Some(target) if target.aim.is_none() => vec![target.object.key],
        Some(target) => return Err(kept(format!("it is another form of '{}'", target.object.key))),
        None => browser.store.list(&directory).map_ok(|object| object.key).try_collect::<Vec<_>>().await?,
    };
    let is_directory = keys.first() != Some(&directory) && !keys.is_empty();
    if is_directory && !request.recurse {
        return Err(Error::Recurse);
    }
    if keys.is_empty() && !browser.view(&parts, false).await?.is_empty() {
        return Err(kept(format!("what it shows is in '{PREFIX}/'")));
    }
    stay_inside(&request.repo.place, &keys)?;
    if request.force {
        return remove(&browser, &directory, keys).await;
    }
    let leases = leases(host, &request.repo, &keys).await?;
    let removed = async {
        refuse_needed(&browser, &keys).await?;
        remove(&browser, &directory, keys).await
    };
    let removed = removed.await;
    for lease in leases {
        lease.release(host).await;
    }
    removed
}

/// In a local store a link could lead out of the repository.
fn stay_inside(place: &RepoPlace, keys: &[Path]) -> Result<()> {
    let RepoPlace::Directory(root) = place else { return Ok(()) };
    let io = |path: &std::path::Path, source| Error::Io { doing: "look at", path: path.to_owned(), source };
    let root = root.canonicalize().map_err(|e| io(root, e))?;
    for key in keys {
        let above = root.join(key.as_ref());
        let above = above.parent().unwrap_or(&root);
        if !above.canonicalize().map_err(|e| io(above, e))?.starts_with(&root) {
            return Err(Error::Kept {
                path: key.to_string(),
                reason: "it lies outside of the repository".to_owned(),
            });
        }
    }
    Ok(())
}

/// The leases of all stanzas that objects are of, so that nobody writes or expires backups meanwhile.
async fn leases(host: &Host, repo: &RepoAccess, keys: &[Path]) -> Result<Vec<Held<pgbr_repo::Lease>>> {
    let stanzas: BTreeMap<StanzaName, ()> =
        keys.iter().filter_map(|key| Some((stanza_of(key)?, ()))).collect();
    let mut leases = Vec::new();
    for stanza in stanzas.into_keys() {
        match repo.open_stanza(host, &stanza).await {
            Ok(place) => leases.push(Held::lease(host, &place).await?),
            // Nobody can work in it.
            Err(Error::Repo(RepoError::StanzaMissing { .. } | RepoError::NoRepository { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(leases)
}

fn stanza_of(key: &Path) -> Option<StanzaName> {
    match ParsedKey::parse(key)? {
        ParsedKey::Stanza { stanza, .. }
        | ParsedKey::Manifest { stanza, .. }
        | ParsedKey::Run { stanza, .. }
        | ParsedKey::Pack { stanza, .. }
        | ParsedKey::Wal { stanza, .. }
        | ParsedKey::Pin { stanza, .. }
        | ParsedKey::Hold { stanza, .. }
        | ParsedKey::Note { stanza, .. }
        | ParsedKey::Drill { stanza, .. } => Some(stanza),
        ParsedKey::Lease { stanza, .. } => stanza,
        _ => None,
    }
}

async fn refuse_needed(browser: &Browser, keys: &[Path]) -> Result<()> {
    let mut backups: BTreeMap<StanzaName, Vec<BackupLabel>> = BTreeMap::new();
    for key in keys {
        let Some(parsed) = ParsedKey::parse(key) else { continue };
        let labels = match stanza_of(key) {
            Some(stanza) if !backups.contains_key(&stanza) => {
                let labels = browser.labels(&stanza).await?;
                backups.entry(stanza).or_insert(labels)
            }
            Some(stanza) => backups.entry(stanza).or_default(),
            None => &mut Vec::new(),
        };
        if let Some(reason) = need(&parsed, labels) {
            return Err(Error::Kept { path: key.to_string(), reason });
        }
    }
    Ok(())
}

/// Why an object is needed, given the backups of its stanza that are listed.
fn need(object: &ParsedKey, backups: &[BackupLabel]) -> Option<String> {
    let listed = |label: &BackupLabel| backups.contains(label);
    match object {
        ParsedKey::Repo { .. } => Some("without it the repository cannot be opened".to_owned()),
        ParsedKey::Stanza { .. } => Some("without it the stanza cannot be opened".to_owned()),
        ParsedKey::Manifest { label, .. } => {
            Some(format!("it is backup {label}, which expire --set removes"))
        }
        ParsedKey::Run { label, .. } | ParsedKey::Pack { label, .. } => {
            let user = backups.iter().find(|backup| backup.full() == label.full())?;
            Some(format!("backup {user} may need it"))
        }
        ParsedKey::Wal { .. } => backups.first().map(|backup| format!("backup {backup} may need it")),
        ParsedKey::Hold { label, .. } | ParsedKey::Note { label, .. } if listed(label) => {
            Some(format!("it belongs to backup {label}"))
        }
        ParsedKey::Pin { .. } | ParsedKey::Lease { .. } => {
            Some("a command that is at work may need it".to_owned())
        }
        _ => None,
    }
}

/// Manifests go before what they name, so that nothing is listed that has lost a part.
async fn remove(browser: &Browser, directory: &Path, keys: Vec<Path>) -> Result<RepoRmReport> {
    let objects = keys.len() as u64;
    let is_manifest = |key: &Path| matches!(ParsedKey::parse(key), Some(ParsedKey::Manifest { .. }));
    let (manifests, others): (Vec<Path>, Vec<Path>) = keys.into_iter().partition(is_manifest);
    for key in &manifests {
        browser.store.delete_durable(key).await?;
    }
    if let Some(first) = browser.store.delete_all(others).await?.into_iter().next() {
        return Err(first.error.into());
    }
    browser.store.remove_empty_directories(directory).await?;
    Ok(RepoRmReport { objects })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_backups_need_is_known_by_its_name() {
        let backups: Vec<BackupLabel> = ["20261122-120000F", "20261122-120000F_20261123-120000D"]
            .iter()
            .map(|label| label.parse().unwrap())
            .collect();
        let needed = |key: &str, backups: &[BackupLabel]| {
            need(&ParsedKey::parse(&Path::from(key)).unwrap_or_else(|| panic!("{key} is no key")), backups)
        };
        let pack = "pack/0123456789abcdef-00000000";
        let of = |label: &str| format!("pgbr/demo/backup/{label}/{pack}");
        assert!(needed("pgbr/repo.json", &[]).is_some());
        assert!(needed("pgbr/demo/stanza.json.copy", &[]).is_some());
        assert!(needed("pgbr/demo/backup/20261122-120000F/manifest", &backups).is_some());
        assert!(needed(&of("20261122-120000F"), &backups).is_some());
        // A backup of the same full may build on one whose manifest is lost.
        assert!(needed(&of("20261122-120000F_20261122-180000I"), &backups).is_some());
        assert_eq!(needed(&of("20261101-120000F"), &backups), None);
        let wal = "pgbr/demo/archive/15-1/0000000100000000/000000010000000000000004";
        assert_eq!(needed(wal, &backups), Some("backup 20261122-120000F may need it".to_owned()));
        assert_eq!(needed(wal, &[]), None);
    }
}
