//! Tries out what a store honours before a repository is made in it.
//!
//! Some S3 servers ignore `If-None-Match`, or check it without being atomic, and say nothing: it has to be tried. What a repository can do
//! without is not tried, and not used: uploads in several parts, copies, and the deletion of many objects by one request.

use bytes::Bytes;
use futures::stream::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::keys::Layout;
use crate::store::{Created, Store};

/// What the probe found, as it stands in `repo.json` for the life of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct StoreTraits {
    /// Whether a conditional create never overwrites and has one winner in a race. Where it does not, names carry an attempt or
    /// a digest.
    pub create: bool,
}

/// How many creates race for one name.
const RACERS: u8 = 4;
/// How many races are run: a check that is not atomic may well win one by luck.
const RACES: u8 = 3;

/// Tries conditional create, ranged read, listing and deletion under a name that nothing else uses.
///
/// # Errors
/// [`Error::UnfitStore`] where the store lacks what no repository can do without; else as the store failed.
pub(crate) async fn probe(store: &Store, id: &str) -> Result<StoreTraits> {
    let traits = try_out(store, id).await;
    let cleaned = clean(store, id).await;
    let traits = traits?;
    cleaned?;
    Ok(traits)
}

async fn try_out(store: &Store, id: &str) -> Result<StoreTraits> {
    let unfit = |reason| Error::UnfitStore { place: store.place().to_owned(), reason };
    let directory = Layout::new().probe_dir(id);
    let key = directory.clone().join("object");
    let first = Bytes::from_static(b"what was stored first stays");

    store.overwrite(&key, first.clone()).await?;
    let second = store.create_asked(&key, Bytes::from_static(b"something else")).await?;
    let kept = store.get(&key, 1024).await? == first;
    if !kept {
        store.overwrite(&key, first.clone()).await?;
    }
    match store.get_range(&key, 5..8).await {
        Ok(part) if part == first.slice(5..8) => {}
        // The whole of it was given right before.
        Ok(_) | Err(Error::Unavailable { .. }) => {
            store.get(&key, 1024).await?;
            return Err(unfit("it does not give the part of an object that was asked for"));
        }
        Err(error) => return Err(error),
    }
    let listed: Vec<_> = store.list(&directory).try_collect().await?;
    if !listed.iter().any(|o| o.key == key && o.size == first.len() as u64) {
        return Err(unfit("it does not list an object that was just stored"));
    }
    let level = store.level(&Layout::new().probes_dir()).await?;
    if !level.directories.iter().any(|name| name == id) || !level.objects.is_empty() {
        return Err(unfit("it does not list one level of names"));
    }
    let last = Bytes::from_static(b"what was stored last is what is read");
    store.overwrite(&key, last.clone()).await?;
    if store.get(&key, 1024).await? != last {
        return Err(unfit("it does not give what was just stored in the place of something else"));
    }
    store.delete(&key).await?;
    if store.exists(&key).await? {
        return Err(unfit("it does not delete objects"));
    }

    let mut create_honoured = kept && second == Some(Created::AlreadyThere);
    for race in 0..RACES {
        create_honoured = create_honoured && one_winner(store, id, race).await?;
    }
    Ok(StoreTraits { create: create_honoured })
}

/// Lets several creates race for a name: one must win, and its content must be the one that is there.
async fn one_winner(store: &Store, id: &str, race: u8) -> Result<bool> {
    let key = Layout::new().probe_dir(id).join(format!("race-{race}"));
    let content = |racer: u8| Bytes::from(vec![racer; 512]);
    let racers = (0..RACERS).map(|racer| store.create_asked(&key, content(racer)));
    let outcomes = futures::future::try_join_all(racers).await?;
    let won = |outcome: &Option<Created>| *outcome == Some(Created::New);
    let refused = outcomes.iter().filter(|o| **o == Some(Created::AlreadyThere)).count();
    let Some((winner, _)) = (0..RACERS).zip(&outcomes).find(|(_, outcome)| won(outcome)) else {
        return Ok(false);
    };
    Ok(refused + 1 == outcomes.len() && store.get(&key, 1024).await? == content(winner))
}

async fn clean(store: &Store, id: &str) -> Result<()> {
    let left: Vec<_> = store.list(&Layout::new().probe_dir(id)).try_collect().await?;
    for object in left {
        store.delete(&object.key).await?;
    }
    Ok(())
}
