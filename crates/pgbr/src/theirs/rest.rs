//! What pgBackRest still holds of a stanza: how much that is, and how all of it is taken away for good.
//!
//! Nothing here writes pgBackRest's format, so a stanza goes as a whole. Its list of backups goes first: from then on neither program takes a
//! backup for one that is there. Then go the backups, `archive.info`, and the WAL. A run that dies in between leaves what nobody lists, and the
//! next one takes it away.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::stream::TryStreamExt;
use object_store::path::Path as Key;
use pgbr_manifest::{StanzaName, WalSegmentName};
use pgbr_repo::{Lease, PinKind, Pins, Store, held_locks_of_any_version};

use super::{Theirs, off_thread};
use crate::error::{Error, Result};
use crate::held::Held;
use crate::host::Host;
use crate::place::{RepoAccess, RepoPlace, StanzaPlace};

/// More objects are not counted.
const MAX_COUNTED: u64 = 200_000;
/// How many objects are taken away at a time.
const DELETIONS: usize = 1000;

/// What pgBackRest holds of a stanza in a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TheirRest {
    /// Files or objects.
    pub objects: u64,
    /// Their bytes; what lies in several places by hard links counts once.
    pub bytes: u64,
    /// Whether it was not counted to the end, as there is more than anybody needs to know.
    pub more: bool,
}

/// What pgBackRest has of a stanza, to be removed.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "filled in by the caller; a new field has to be decided on")]
pub struct TheirsRemoveRequest {
    /// The repository.
    pub repo: RepoAccess,
    /// The stanza.
    pub stanza: StanzaName,
    /// Directories in which processes of pgBackRest on this host have their locks.
    pub lock_paths: Vec<PathBuf>,
    /// The name of this run in locks that it holds itself.
    pub exec_id: String,
    /// Whether to say what would go, and to touch nothing.
    pub dry_run: bool,
}

/// How much pgBackRest holds of a stanza: one request where that is nothing at all, else one listing of its backups and one of its WAL besides.
///
/// # Errors
/// Where the repository cannot be reached.
pub async fn theirs_rest(access: &RepoAccess, stanza: &StanzaName) -> Result<TheirRest> {
    let (tree, mut rest) = (Tree::of(access)?, TheirRest::default());
    if let Tree::Store(store) = &tree
        && !Theirs::is_in(store).await?
    {
        return Ok(rest);
    }
    for root in roots(stanza) {
        tree.count(&root, &mut rest).await?;
    }
    Ok(rest)
}

/// Removes all that pgBackRest has of a stanza, its WAL included, and gives what there was.
///
/// # Errors
/// [`Error::TheirsNeeded`] where there is no backup of ours to take their place, [`Error::TheirsInUse`] where a process of pgBackRest on this host or
/// a restore is at work, or pgBackRest still archives; when another process writes to our stanza; as the repository failed: the next run goes
/// on.
pub async fn theirs_remove(host: &Host, request: TheirsRemoveRequest) -> Result<TheirRest> {
    let place = request.repo.open_made(host, &request.stanza).await?;
    if place.backups.list_backups().await?.is_empty() {
        return Err(Error::TheirsNeeded { stanza: request.stanza });
    }
    refuse_in_use(host, &request, &place).await?;
    let rest = theirs_rest(&request.repo, &request.stanza).await?;
    if request.dry_run {
        return Ok(rest);
    }
    let lease = Held::lease(host, &place).await?;
    let removed = remove(host, &request, &lease).await;
    lease.release(host).await;
    removed.map(|()| rest)
}

/// The directories of pgBackRest for a stanza, in the order in which they go.
fn roots(stanza: &StanzaName) -> [String; 2] {
    [format!("backup/{stanza}"), format!("archive/{stanza}")]
}

async fn remove(host: &Host, request: &TheirsRemoveRequest, lease: &Held<Lease>) -> Result<()> {
    let tree = Tree::of(&request.repo)?;
    for (root, info) in roots(&request.stanza).into_iter().zip(["backup.info", "archive.info"]) {
        host.stop.check()?;
        lease.check().await?;
        // While there is a copy, it is used.
        for name in [info.to_owned(), format!("{info}.copy")] {
            tree.remove_one(&format!("{root}/{name}")).await?;
        }
        tree.remove_all(host, &root, lease).await?;
    }
    Ok(())
}

async fn refuse_in_use(host: &Host, request: &TheirsRemoveRequest, place: &StanzaPlace) -> Result<()> {
    let in_use = |reason: String| Err(Error::TheirsInUse { stanza: request.stanza.clone(), reason });
    for directory in &request.lock_paths {
        for lock in held_locks_of_any_version(directory, &request.stanza)? {
            let (id, pid) = (lock.holder.exec_id.as_ref(), lock.holder.pid);
            // A process of ours leaves what pgBackRest has alone, but for a restore.
            let restores = lock.path.to_string_lossy().contains("-restore");
            let harmless = !restores && lock.confirmed && pid.is_some_and(is_of_this_program);
            if id != Some(&request.exec_id) && !harmless {
                let holder = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
                return in_use(format!("{holder} holds '{}'", lock.path.display()));
            }
        }
    }
    for pin in Pins::new(&place.repo, place.stanza.name()).list().await? {
        let Some(record) = pin.record else { continue };
        if record.kind == PinKind::Restore && !host.owner.knows_dead(&record.holder) {
            return in_use(format!("{} restores", record.holder));
        }
    }
    match archived_by_them_alone(request, place).await? {
        Some(segment) => in_use(format!(
            "its newest segment, {segment}, is newer than any of ours: does the server's archive_command still call pgBackRest?"
        )),
        None => Ok(()),
    }
}

/// The newest segment of the cluster in their archive where that is newer than all in ours. What cannot be read any more tells nothing.
async fn archived_by_them_alone(
    request: &TheirsRemoveRequest,
    place: &StanzaPlace,
) -> Result<Option<WalSegmentName>> {
    let current = place.stanza.current();
    let wal = match Theirs::unseen(&request.repo, Some(place.repo.store()))?
        .or_plain()
        .find_wal(&request.stanza)
        .await
    {
        Ok(Some(wal)) => wal,
        Ok(None) | Err(Error::PgBackRest(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut theirs = None;
    for archive in wal.archives_of(current.system_id, current.version.into()) {
        theirs = theirs.max(wal.newest(archive).await?);
    }
    let ours = place.wal.bounds(current.archive_id()).await?.map(|bounds| bounds.last);
    Ok(theirs.filter(|theirs| ours.is_none_or(|ours| ours < *theirs)))
}

/// Whether a process of this host runs this very program. Ours let nobody look into them, which no pgBackRest does.
fn is_of_this_program(pid: u32) -> bool {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(found) => fs::read_link("/proc/self/exe").is_ok_and(|own| own == found),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
            user == Some(&rustix::process::getuid().as_raw().to_string())
        }
        Err(_) => false,
    }
}

/// Where files or objects lie. A directory is not gone through as a store: links of pgBackRest's and names that no object has must go as well.
enum Tree {
    Directory(PathBuf),
    Store(Store),
}

impl Tree {
    fn of(access: &RepoAccess) -> Result<Self> {
        match &access.place {
            RepoPlace::Directory(path) => Ok(Self::Directory(path.clone())),
            place => Ok(Self::Store(place.store(false)?)),
        }
    }

    async fn count(&self, root: &str, rest: &mut TheirRest) -> Result<()> {
        match self {
            Self::Directory(path) => {
                let (path, mut found) = (path.join(root), *rest);
                *rest = off_thread(move || {
                    count_files(&path, &mut found)?;
                    Ok(found)
                })
                .await?;
            }
            Self::Store(store) => {
                let mut listed = store.list(&Key::from(root));
                while let Some(object) = listed.try_next().await? {
                    if !rest.add(object.size) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// For good, before this returns.
    async fn remove_one(&self, key: &str) -> Result<()> {
        match self {
            Self::Directory(path) => {
                let path = path.join(key);
                off_thread(move || {
                    match fs::remove_file(&path) {
                        Err(error) if is_missing(&error) => return Ok(()),
                        removed => removed.map_err(Error::io("remove", &path))?,
                    }
                    sync_parent(&path)
                })
                .await
            }
            Self::Store(store) => Ok(store.delete_durable(&Key::from(key)).await?),
        }
    }

    async fn remove_all(&self, host: &Host, root: &str, lease: &Held<Lease>) -> Result<()> {
        match self {
            Self::Directory(path) => {
                let path = path.join(root);
                off_thread(move || {
                    remove_files(&path)?;
                    sync_parent(&path)
                })
                .await
            }
            Self::Store(store) => {
                let mut listed =
                    store.list(&Key::from(root)).try_chunks(DELETIONS).map_err(|broken| broken.1);
                while let Some(objects) = listed.try_next().await? {
                    host.stop.check()?;
                    lease.check().await?;
                    let keys = objects.into_iter().map(|object| object.key).collect();
                    if let Some(first) = store.delete_all(keys).await?.into_iter().next() {
                        return Err(first.error.into());
                    }
                }
                Ok(())
            }
        }
    }
}

impl TheirRest {
    /// One more; false where it is not counted any further.
    const fn add(&mut self, bytes: u64) -> bool {
        self.more = self.objects >= MAX_COUNTED;
        if !self.more {
            self.objects += 1;
            self.bytes += bytes;
        }
        !self.more
    }
}

fn count_files(root: &Path, rest: &mut TheirRest) -> Result<()> {
    let mut seen = HashSet::new();
    let count = |_: &Path, about: &fs::Metadata| {
        let again = about.nlink() > 1 && !seen.insert((about.dev(), about.ino()));
        let bytes = if about.is_file() && !again { about.len() } else { 0 };
        if rest.add(bytes) { Ok(ControlFlow::Continue(())) } else { Ok(ControlFlow::Break(())) }
    };
    walk(root, count).map(drop)
}

/// Removes a directory with all in it: links, and not what they lead to, but for a link in the place of the directory itself.
fn remove_files(root: &Path) -> Result<()> {
    let gone = |removed: io::Result<()>, path: &Path| match removed {
        Err(error) if is_missing(&error) => Ok(()),
        removed => removed.map_err(Error::io("remove", path)),
    };
    let remove = |path: &Path, _: &fs::Metadata| {
        gone(fs::remove_file(path), path)?;
        Ok(ControlFlow::Continue(()))
    };
    let remove_directory = |directory: &PathBuf| match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            gone(fs::remove_file(directory), directory)
        }
        removed => gone(removed, directory),
    };
    // Each comes behind the one that it lies in.
    walk(root, remove)?.iter().rev().try_for_each(remove_directory)
}

/// Shows all that lies below a directory and is none itself, until there was enough; gives the directories. What goes meanwhile is left out.
fn walk(
    root: &Path,
    mut show: impl FnMut(&Path, &fs::Metadata) -> Result<ControlFlow<()>>,
) -> Result<Vec<PathBuf>> {
    let (mut left, mut directories) = (vec![root.to_owned()], Vec::new());
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_missing(&error) => continue,
            entries => entries.map_err(Error::io("list", &directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &directory))?;
            let path = entry.path();
            // Of a link itself, not of what it leads to.
            let about = match entry.metadata() {
                Err(error) if is_missing(&error) => continue,
                about => about.map_err(Error::io("look at", &path))?,
            };
            if about.is_dir() {
                left.push(path);
            } else if show(&path, &about)?.is_break() {
                return Ok(directories);
            }
        }
        directories.push(directory);
    }
    Ok(directories)
}

fn sync_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent().filter(|parent| parent.exists()) else { return Ok(()) };
    let synced = fs::File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(Error::io("sync", parent))
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
