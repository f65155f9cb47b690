//! Whether a manifest may stand whose writer has found, right after it was put, that it was taken for dead.
//!
//! What it names may have been swept before it was there: then it must not be believed, and is taken back. But whoever took over may have seen it
//! and built on it, where the writer stood still for long after its put: then it stays, for it was whole when that was done, and taken back it would
//! take the other with it.
//!
//! Who builds on it pins it first, and sees that it is there right before and right after its own commit. So it finds out, or is found out, unless
//! all of its run falls into the moment between the look and the removal; that is why a look that took long is not relied on.

use pgbr_manifest::BackupLabel;
use pgbr_repo::{Error as RepoError, PinKind, PinRecord, Pins};

use crate::error::{Error, Result};
use crate::held::is_fresh;
use crate::host::Host;
use crate::load::{load, summaries_of};
use crate::place::StanzaPlace;
use crate::restore::check_packs;

/// How often it is looked, where looks take too long to be relied on.
const LOOKS: usize = 5;

/// Takes the manifest of a run back because of `lost`, which it gives. Where another backup was built on it that can be restored, it stays instead,
/// and that is success.
pub(crate) async fn take_back(
    host: &Host,
    place: &StanzaPlace,
    (label, attempt): (BackupLabel, u64),
    lost: Error,
) -> Result<()> {
    let taken_for_dead =
        matches!(&lost, Error::Repo(RepoError::PinLost { .. } | RepoError::LeaseLost { .. }));
    for _ in 0..LOOKS {
        let now = host.clock.monotonic();
        if taken_for_dead && is_built_on(place, label).await? && is_whole(host, place, label).await? {
            let text =
                format!("another process took this one for dead and built on backup {label}: it stays");
            host.warn(text);
            return Ok(());
        }
        if !taken_for_dead || is_fresh(&host.clock, now) {
            place.backups.withdraw_manifest(&label, attempt).await?;
            break;
        }
    }
    Err(lost)
}

/// Whether a backup builds on this one, or is being made on top of it.
async fn is_built_on(place: &StanzaPlace, label: BackupLabel) -> Result<bool> {
    let pins = Pins::new(&place.repo, place.stanza.name()).list().await?;
    let builds = |pin: &PinRecord| {
        let writes = matches!(pin.kind, PinKind::Backup | PinKind::Copy) && pin.attempt.is_some();
        // The last label is that of the backup which is being made.
        writes && pin.labels.split_last().is_some_and(|(_, below)| below.contains(&label))
    };
    if pins.iter().filter_map(|pin| pin.record.as_ref()).any(builds) {
        return Ok(true);
    }
    let labels = place.backups.list_labels().await?.into_iter();
    let labels = labels.filter(|other| *other != label && other.full() == label.full()).collect();
    let summaries = summaries_of(&place.backups, labels).await;
    Ok(summaries.into_iter().any(|(_, summary)| summary.is_ok_and(|summary| summary.prior == Some(label))))
}

/// Whether all packs are there, as far as names and sizes tell.
async fn is_whole(host: &Host, place: &StanzaPlace, label: BackupLabel) -> Result<bool> {
    match check_packs(host, place, &load(&place.backups, label).await?).await {
        Ok(()) => Ok(true),
        Err(Error::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
