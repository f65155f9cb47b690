//! WAL: directory by directory, so that what stays as a whole is not even listed.

use pgbr_manifest::retention::{ArchivePlan, ExpirePlan, LogVerdict, WalReason};
use pgbr_manifest::{ArchiveId, WalSegmentName};
use pgbr_repo::{WalEntry, WalLog};

use super::stock::Stock;
use super::sweep::DELETIONS;
use super::{ArchiveFate, Expire, ExpireReport, WalRange};
use crate::error::Result;
use crate::observe::Event;

impl Expire<'_> {
    /// Step 4.
    pub(super) async fn expire_wal(
        &self,
        stock: &Stock,
        plan: &ExpirePlan,
        report: &mut ExpireReport,
    ) -> Result<()> {
        for (archive, plan) in stock.archives.iter().zip(&plan.archives) {
            self.tell_kept(plan);
            let mut fate = ArchiveFate { archive: *archive, ranges: Vec::new() };
            let done = self.expire_archive(plan, &mut fate, report).await;
            let gone = fate.ranges.iter().filter(|range| !range.keep);
            gone.clone().for_each(|range| {
                let (archive, start, stop) = (*archive, range.start, range.stop);
                self.host.tell(Event::WalExpired { archive, start, stop });
            });
            if gone.count() == 0 && done.is_ok() {
                self.host.tell(Event::NoWalExpired { archive: *archive });
            }
            report.archives.push(fate);
            done?;
        }
        Ok(())
    }

    fn tell_kept(&self, plan: &ArchivePlan) {
        let archive = plan.archive;
        if let Some(reason) = plan.all {
            let text = format!("{archive} all WAL stays: {reason}");
            self.host.tell(Event::Detail { text });
        }
        for range in &plan.ranges {
            let text = match (range.reason, range.to) {
                (WalReason::From(label), _) => {
                    format!("{archive} archive retention on backup {label}, start = {}", range.from)
                }
                (WalReason::Consistent(label), Some(to)) => {
                    format!(
                        "{archive} archive retention on backup {label}, start = {}, stop = {to}",
                        range.from
                    )
                }
                (reason, _) => format!("{archive} archive retention from {}: {reason}", range.from),
            };
            self.host.tell(Event::Detail { text });
        }
    }

    async fn expire_archive(
        &self,
        plan: &ArchivePlan,
        fate: &mut ArchiveFate,
        report: &mut ExpireReport,
    ) -> Result<()> {
        let (archive, wal) = (plan.archive, &self.place.wal);
        if plan.all.is_some() && self.lease.is_some() {
            return Ok(());
        }
        for log in wal.logs(archive).await? {
            self.host.stop.check()?;
            let verdict = log.span().map(|(first, last)| plan.decide_log(first, last));
            if matches!(verdict, Some(LogVerdict::Stays(_))) && self.lease.is_some() {
                continue;
            }
            self.expire_log(plan, archive, &log, fate, report).await?;
        }
        if plan.goes() && self.lease.is_some() {
            let left = wal.delete_wal(&wal.histories(archive).await?).await?;
            self.tell_undeleted(&format!("histories of archive {archive}"), &left, report);
            wal.tidy_archive(archive).await?;
        }
        Ok(())
    }

    async fn expire_log(
        &self,
        plan: &ArchivePlan,
        archive: ArchiveId,
        log: &WalLog,
        fate: &mut ArchiveFate,
        report: &mut ExpireReport,
    ) -> Result<()> {
        let wal = &self.place.wal;
        let files = wal.files(archive, log).await?;
        let all = files.len();
        let mut going: Vec<WalEntry> = Vec::new();
        let mut ranges = Vec::new();
        for entry in files {
            let Some(segment) = entry.file.segment() else { continue };
            let reason = plan.decide(segment);
            add(&mut ranges, segment, reason, entry.size);
            if reason == WalReason::Unneeded {
                going.push(entry);
            }
        }
        let emptied = going.len() == all;
        if self.lease.is_some() && !going.is_empty() {
            self.check().await?;
            for files in going.chunks(DELETIONS) {
                self.host.stop.check()?;
                let left = wal.delete_wal(files).await?;
                self.tell_undeleted(&format!("WAL files of archive {archive}"), &left, report);
            }
            if emptied {
                wal.tidy(archive, log).await?;
            }
        }
        for (range, reason) in ranges {
            join(&mut fate.ranges, range, reason);
        }
        Ok(())
    }
}

/// Adds a file to the last range, if that has the same fate.
fn add(ranges: &mut Vec<(WalRange, WalReason)>, segment: WalSegmentName, reason: WalReason, bytes: u64) {
    match ranges.last_mut() {
        Some((range, before)) if *before == reason => {
            range.stop = segment;
            range.files += 1;
            range.bytes += bytes;
        }
        _ => {
            let keep = reason != WalReason::Unneeded;
            let reason_text = reason.to_string();
            let range =
                WalRange { start: segment, stop: segment, files: 1, bytes, keep, reason: reason_text };
            ranges.push((range, reason));
        }
    }
}

/// Adds the first range of a directory to the last one of the directory before, if they have the same fate.
fn join(ranges: &mut Vec<WalRange>, range: WalRange, reason: WalReason) {
    match ranges.last_mut() {
        Some(last) if last.reason == reason.to_string() => {
            last.stop = range.stop;
            last.files += range.files;
            last.bytes += range.bytes;
        }
        _ => ranges.push(range),
    }
}
