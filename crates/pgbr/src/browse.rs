//! Looks into a repository: by the paths that tools made for pgBackRest know, and by the real ones.
//!
//! Below `archive/` and `backup/` a view is shown: stanzas, archives with their WAL, backups by label, as pgBackRest would have them there.
//! It is made of the names of the real objects, which lie below `pgbr/` and are shown as well. What really lies in `archive/` and `backup/`,
//! because pgBackRest has put it there, is shown beside the view.

mod get;
mod info_file;
mod remove;
mod view;

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::path::Path;
use pgbr_repo::{Listed, Store};

use crate::error::{Error, Result};
use crate::place::{RepoAccess, RepoPlace};
use crate::theirs::off_thread;

pub use get::{RepoFile, RepoGetRequest, repo_get};
pub use remove::{RepoRmReport, RepoRmRequest, repo_rm};

/// A path in a repository, as its parts: none of them leads upwards, so it cannot leave the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepoPath(Vec<String>);

impl RepoPath {
    /// Reads a path relative to the repository's root, which is the empty path.
    ///
    /// # Errors
    /// [`Error::Path`] for `.` and `..`, empty parts and characters that no name has.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad =
            |part: &str| part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control);
        let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
        match parts.iter().find(|part| bad(part)) {
            Some(part) => Err(Error::Path {
                path: text.to_owned(),
                reason: match part.as_str() {
                    "" => "has an empty part",
                    "." | ".." => "has a part '.' or '..'",
                    _ => "has a character that no name has",
                },
            }),
            None => Ok(Self(parts)),
        }
    }

    fn parts(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// As the key of an object, where it can be one.
    fn key(&self) -> Option<Path> {
        Path::parse(self.0.join("/")).ok()
    }
}

/// What there is under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a view of a repository has these three")]
pub enum RepoEntry {
    /// A file.
    File {
        /// Its size in bytes, as it is stored.
        size: u64,
        /// When it was put, in Unix seconds by the store's clock.
        modified: i64,
    },
    /// A directory.
    Directory,
    /// A link.
    Link {
        /// Where it leads to: most often a name in the same directory.
        to: String,
    },
}

impl From<&Listed> for RepoEntry {
    fn from(listed: &Listed) -> Self {
        Self::File { size: listed.size, modified: listed.modified }
    }
}

/// Entries by the parts of their names below what was listed: in this order each directory stands before its content.
pub type RepoEntries = BTreeMap<Vec<String>, RepoEntry>;

/// What to list.
#[derive(Debug, Clone)]
pub struct RepoLsRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// Where.
    pub path: RepoPath,
    /// With all that is below.
    pub recurse: bool,
}

/// What was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a path leads to a file or to a directory")]
pub enum RepoListing {
    /// The path is that of a file.
    File(RepoEntry),
    /// The path is that of a directory; one that is not there is empty, as in an object store.
    Directory(RepoEntries),
}

/// Lists a path. No key is needed: nothing is opened.
///
/// # Errors
/// As the store failed.
pub async fn repo_ls(request: RepoLsRequest) -> Result<RepoListing> {
    if request.repo.place.is_not_there() {
        return Ok(RepoListing::Directory(RepoEntries::new()));
    }
    let browser = Browser::new(&request.repo)?;
    if let Some(target) = browser.find(&request.path).await? {
        return Ok(RepoListing::File(RepoEntry::from(&target.object)));
    }
    let entries = browser.real(&request.path, request.recurse).await?;
    let mut entries = match request.repo.place {
        RepoPlace::Directory(root) => {
            let directory = request.path.0.iter().fold(root, |at, part| at.join(part));
            off_thread(move || Ok(with_links(&directory, entries))).await?
        }
        _ => entries,
    };
    entries.extend(browser.view(&request.path.parts(), request.recurse).await?);
    Ok(RepoListing::Directory(entries))
}

/// A store that is looked into.
struct Browser {
    store: Store,
}

/// A file that was found: the object behind it, and what it is to be shown as.
struct Target {
    object: Listed,
    aim: Option<view::Aim>,
}

impl Browser {
    fn new(repo: &RepoAccess) -> Result<Self> {
        Ok(Self { store: repo.place.store(false)? })
    }

    /// The file that a path leads to: that of the view, else the real one.
    async fn find(&self, path: &RepoPath) -> Result<Option<Target>> {
        if let Some(aim) = view::Aim::of(&path.parts())
            && let Some(object) = self.object_of(&aim).await?
        {
            return Ok(Some(Target { object, aim: Some(aim) }));
        }
        let Some(key) = path.key().filter(|key| !key.as_ref().is_empty()) else { return Ok(None) };
        let mut above = path.0.clone();
        above.pop();
        let Some(above) = RepoPath(above).key() else { return Ok(None) };
        let level = self.store.level(&above).await?;
        Ok(level
            .objects
            .into_iter()
            .find(|object| object.key == key)
            .map(|object| Target { object, aim: None }))
    }

    /// What really lies below a path.
    async fn real(&self, path: &RepoPath, recurse: bool) -> Result<RepoEntries> {
        let mut entries = RepoEntries::new();
        let Some(directory) = path.key() else { return Ok(entries) };
        let depth = path.0.len();
        if !recurse {
            let level = self.store.level(&directory).await?;
            entries.extend(level.directories.into_iter().map(|name| (vec![name], RepoEntry::Directory)));
            for object in &level.objects {
                entries.extend(object.key.filename().map(|name| (vec![name.to_owned()], object.into())));
            }
            return Ok(entries);
        }
        let mut listed = self.store.list(&directory);
        while let Some(object) = listed.try_next().await? {
            let parts: Vec<String> =
                object.key.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect();
            add(&mut entries, parts, RepoEntry::from(&object));
        }
        Ok(entries)
    }
}

/// Shows links to directories as such, and nothing behind them: pgBackRest has one, `latest`, beside the backup that it leads to.
fn with_links(directory: &std::path::Path, mut entries: RepoEntries) -> RepoEntries {
    let link = |(name, entry): (&Vec<String>, &RepoEntry)| {
        let path = name.iter().fold(directory.to_owned(), |at, part| at.join(part));
        let to = std::fs::read_link(path).ok().filter(|_| *entry == RepoEntry::Directory)?;
        Some((name.clone(), RepoEntry::Link { to: to.to_string_lossy().into_owned() }))
    };
    let links: RepoEntries = entries.iter().filter_map(link).collect();
    entries.retain(|name, _| !(1..=name.len()).any(|depth| links.contains_key(&name[..depth])));
    entries.extend(links);
    entries
}

/// Adds an entry and the directories above it.
fn add(entries: &mut RepoEntries, parts: Vec<String>, entry: RepoEntry) {
    for depth in 1..parts.len() {
        let above = parts.iter().take(depth).cloned().collect();
        entries.entry(above).or_insert(RepoEntry::Directory);
    }
    if !parts.is_empty() {
        entries.insert(parts, entry);
    }
}

/// Reads what may be a path, and what it means; the name of a WAL file in it is read as that file again.
#[cfg(fuzzing)]
pub(crate) fn read_path(text: &str) {
    let Ok(path) = RepoPath::parse(text) else { return };
    assert!(path.0.iter().all(|part| !part.is_empty() && part != "." && part != ".."));
    path.key();
    let parts = path.parts();
    if let Some(view::Aim::Wal { file, .. }) = view::Aim::of(&parts) {
        assert!(parts.last().is_some_and(|name| name.starts_with(&file.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for good in ["", "a", "archive/demo/15-1", "pgbr/demo/x.y"] {
            assert!(RepoPath::parse(good).is_ok(), "{good}");
        }
        for bad in ["..", "a/../b", "./a", "a//b", "/a", "a/", "a/.", "a\nb"] {
            assert!(matches!(RepoPath::parse(bad), Err(Error::Path { .. })), "{bad}");
        }
    }

    #[test]
    fn directories_stand_before_their_content() {
        let mut entries = RepoEntries::new();
        let file = || RepoEntry::File { size: 1, modified: 2 };
        for name in ["b/c/d", "a-b", "a", "b/a"] {
            add(&mut entries, name.split('/').map(str::to_owned).collect(), file());
        }
        let names: Vec<String> = entries.keys().map(|parts| parts.join("/")).collect();
        assert_eq!(names, ["a", "a-b", "b", "b/a", "b/c", "b/c/d"]);
        assert_eq!(entries[&vec!["b".to_owned()]], RepoEntry::Directory);
    }
}
