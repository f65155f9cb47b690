//! Links that a restore is asked to make where the backup has a directory or a file: whether it has these.

use std::collections::BTreeSet;

use pgbr_manifest::RelPath;
use pgbr_manifest::merge::Item;
use tokio::runtime::Handle;

use super::origin::{Origin, OurBackup};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::load;

/// What people make a link of. A backup of ours that was told to leave it out gets an empty one, so no index need be read for it.
pub(super) const WAL: &[u8] = b"pg_wal";

/// Sees that the backup has what is to become a link, named by its path in the data directory.
///
/// # Errors
/// [`Error::Map`] for the first that it has not; as its index cannot be read.
pub(super) async fn check_new_links(host: &Host, origin: &Origin, names: &BTreeSet<Vec<u8>>) -> Result<()> {
    let is_ours = matches!(origin, Origin::Ours(_));
    let mut wanted = names
        .iter()
        .filter(|name| !is_ours || name.as_slice() != WAL)
        .map(|name| Ok(RelPath::new([b"pg_data/", name.as_slice()].concat())?))
        .collect::<Result<BTreeSet<RelPath>>>()?;
    if wanted.is_empty() {
        return Ok(());
    }
    let missing = match origin {
        Origin::Theirs(their, _) => {
            wanted.retain(|path| !their.has(path));
            wanted
        }
        Origin::Ours(ours) => missing_in(host, ours, wanted).await?,
    };
    missing.first().map_or(Ok(()), |path| Err(nothing_there(path.strip("pg_data").unwrap_or_default())))
}

/// That a name is of nothing that could become a link.
pub(super) fn nothing_there(name: &[u8]) -> Error {
    let what = format!("link '{}'", String::from_utf8_lossy(name));
    Error::Map { what, reason: "the backup has no such link, directory or file".to_owned() }
}

/// Those that a backup of ours does not have: its list is read as far as the last of them.
async fn missing_in(host: &Host, ours: &OurBackup, wanted: BTreeSet<RelPath>) -> Result<BTreeSet<RelPath>> {
    let (host, place, layers, runtime) =
        (host.clone(), ours.place.clone(), load::layers(&ours.chain), Handle::current());
    let read = move || {
        let mut merge = load::merged(&place, &layers, &runtime);
        let mut missing = wanted;
        while let Some(last) = missing.last() {
            host.stop.check()?;
            let path = match merge.next_item()? {
                Some(Item::File(file)) => file.path,
                Some(Item::Directory { path, .. } | Item::Link { path, .. }) => path,
                Some(_) => continue,
                None => break,
            };
            if path > *last {
                break;
            }
            missing.remove(&path);
        }
        Ok(missing)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Error::Internal { what: "reading an index panicked" })?
}
