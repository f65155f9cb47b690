//! What is looked at before anything in the target is touched.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use pgbr_manifest::{BackupLabel, SystemId, WalSegmentName};
use pgbr_pg::{RecoveryGoal, read_control_file};

use super::RestoreRequest;
use super::archives::Archives;
use super::target::{CONTROL, Places};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{self, Backup};
use crate::place::StanzaPlace;
use crate::theirs::is_of_content;

/// How many backups of a chain are looked at at once.
const CHECKS: usize = 16;

/// Sees that the repository holds all packs of a chain.
pub(super) async fn check_chain(host: &Host, place: &StanzaPlace, chain: &[Backup]) -> Result<()> {
    let checks = futures::stream::iter(chain.iter().map(|backup| check_packs(host, place, backup)));
    checks.buffered(CHECKS).try_collect().await
}

/// Sees that every pack is there with its size.
pub(crate) async fn check_packs(host: &Host, place: &StanzaPlace, backup: &Backup) -> Result<()> {
    let label = backup.summary.label;
    let tables = backup.body.layers.iter().map(|layer| load::pack_sizes(host, place, label, layer));
    let tables = futures::stream::iter(tables).then(|table| table).try_collect::<Vec<_>>();
    let (listed, tables) = futures::join!(place.backups.list_packs(&label), tables);
    let sizes: BTreeMap<_, _> = listed?.iter().map(|p| ((p.attempt, p.index, p.number), p.size)).collect();
    let missing = |attempt: u64, index: bool, number: u32, size: u64| {
        let name = format!("pack {attempt:016x}-{}{number:08x}", if index { "i" } else { "" });
        match sizes.get(&(attempt, index, number)) {
            Some(found) if *found == size => None,
            Some(found) => Some(format!("{name} has {found} bytes, not {size}")),
            None => Some(format!("{name} is missing")),
        }
    };
    let damaged = |reason| Error::Damaged { label, reason };
    // A pack that is missing explains why what is in it could not be read.
    for layer in &backup.body.layers {
        for (number, size) in (0..).zip(&layer.index_packs) {
            if let Some(reason) = missing(layer.attempt, true, number, *size) {
                return Err(damaged(reason));
            }
        }
    }
    for (layer, table) in backup.body.layers.iter().zip(tables?) {
        for (number, size) in table {
            if let Some(reason) = missing(layer.attempt, false, number, size) {
                return Err(damaged(reason));
            }
        }
    }
    Ok(())
}

/// Sees that recovery can begin: the segment with the checkpoint's redo position opens. Where the archive is not asked for WAL, or is not
/// the only place that has it, one that does not is told of: the files of the backup are what is wanted.
pub(super) async fn check_first_segment(
    host: &Host,
    archives: &Archives,
    request: &RestoreRequest,
    label: BackupLabel,
    segment: WalSegmentName,
) -> Result<()> {
    let checked = match archives.check(segment).await {
        Ok(true) => return Ok(()),
        Ok(false) => Error::FirstSegment { label, segment },
        Err(error) => error,
    };
    let is_known = match &checked {
        Error::FirstSegment { .. } => true,
        Error::Repo(error) => error.is_unverified(),
        other => is_of_content(other),
    };
    // Of a store that does not answer nobody knows what it holds.
    if !is_known || !gets_wal_elsewhere(request) {
        return Err(checked);
    }
    host.warn(format!("{}: recovery needs it from elsewhere", with_causes(&checked)));
    Ok(())
}

/// Whether WAL may come from somebody else than the archive.
fn gets_wal_elsewhere(request: &RestoreRequest) -> bool {
    let by_another_command =
        || request.recovery_options.iter().any(|(name, _)| name.replace('-', "_") == "restore_command");
    let by_the_operator =
        matches!(request.goal, RecoveryGoal::None | RecoveryGoal::Preserve | RecoveryGoal::Standby);
    by_the_operator || by_another_command()
}

/// Says so when the target holds another cluster than the backup: it may be there by mistake.
pub(super) fn warn_of_another_cluster(host: &Host, places: &Places, wanted: SystemId) {
    let Ok((control, _)) = read_control_file(places.pg_data.join(CONTROL)) else { return };
    let found = control.system_id;
    if found != wanted {
        let place = places.pg_data.display();
        host.warn(format!(
            "'{place}' holds the cluster with system identifier {found}, which is replaced by the one of the backup, {wanted}"
        ));
    }
}
