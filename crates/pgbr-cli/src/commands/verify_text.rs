//! The text of verify: pgBackRest's lines first, then what they mean.

use std::fmt::Write;

use jiff::tz::TimeZone;
use pgbr::{BackupStatus, FileCounts, FindingLevel, RecoveryEnd, SegmentRange, VerifiedBackup, VerifyReport};

use crate::size::format_size;

/// All of it; what is as it should be with `verbose` only.
pub(super) fn render(report: &VerifyReport, verbose: bool, zone: &TimeZone) -> String {
    let mut text =
        format!("stanza: {}\nstatus: {}", report.stanza, if report.clean { "ok" } else { "error" });
    let (their_archives, their_backups) = match &report.theirs {
        Some(theirs) => (theirs.archives.as_slice(), theirs.backups.as_slice()),
        None => Default::default(),
    };
    if verbose && report.archives.is_empty() && their_archives.is_empty() {
        text.push_str("\n  archiveId: none found");
    }
    let is_told = |files: &FileCounts| verbose || files.valid != files.checked;
    for archive in their_archives.iter().filter(|archive| is_told(&archive.files)) {
        archive_lines(&mut text, &archive.id, &archive.files, &archive.ranges, verbose);
        text.push_str("\n    by pgBackRest");
    }
    for archive in report.archives.iter().filter(|archive| is_told(&archive.files)) {
        archive_lines(&mut text, &archive.id.to_string(), &archive.files, &archive.ranges, verbose);
    }
    if verbose && report.backups.is_empty() && their_backups.is_empty() {
        text.push_str("\n  backup: none found");
    }
    let wrong =
        |backup: &VerifiedBackup| !matches!(backup.status, BackupStatus::Valid | BackupStatus::InProgress);
    let their_quick = report.theirs.as_ref().is_some_and(|theirs| theirs.quick);
    for backup in their_backups.iter().filter(|backup| verbose || wrong(backup)) {
        backup_lines(&mut text, their_quick, backup, verbose);
        text.push_str("\n    by pgBackRest");
    }
    for backup in report.backups.iter().filter(|backup| verbose || wrong(backup)) {
        backup_lines(&mut text, report.quick, backup, verbose);
    }
    finding_lines(&mut text, report, verbose);
    if verbose {
        unneeded_lines(&mut text, report);
    }
    if let Some(written) = report.witness.filter(|_| verbose) {
        write!(text, "\n  witness: compared with the record of {}", super::verify::moment(written, zone))
            .ok();
    }
    if let Some(coverage) = &report.coverage {
        write!(text, "\n  budget: {}", super::verify::covered(coverage, zone)).ok();
    }
    text + "\n"
}

// Writing to a string does not fail.

fn counts(text: &mut String, files: &FileCounts) {
    let FileCounts { missing, checksum_invalid, size_invalid, other, .. } = files;
    write!(
        text,
        "\n    missing: {missing}, checksum invalid: {checksum_invalid}, size invalid: {size_invalid}, other: {other}"
    )
    .ok();
}

fn archive_lines(text: &mut String, id: &str, files: &FileCounts, ranges: &[SegmentRange], verbose: bool) {
    write!(
        text,
        "\n  archiveId: {id}, total WAL checked: {}, total valid WAL: {}",
        files.checked, files.valid
    )
    .ok();
    counts(text, files);
    for range in ranges.iter().filter(|_| verbose) {
        write!(text, "\n    wal start: {}, wal stop: {}", range.start, range.stop).ok();
    }
}

fn backup_lines(text: &mut String, quick: bool, backup: &VerifiedBackup, verbose: bool) {
    let status = match backup.status {
        BackupStatus::Valid => "valid",
        BackupStatus::ManifestMissing => "manifest missing",
        BackupStatus::InProgress => "in-progress",
        _ => "invalid",
    };
    let files = backup.files.unwrap_or_default();
    write!(
        text,
        "\n  backup: {}, status: {status}, total files checked: {}, total valid files: {}",
        backup.label, files.checked, files.valid
    )
    .ok();
    counts(text, &files);
    if quick {
        text.push_str("\n    quick: only existence and sizes were looked at");
    }
    for path in backup.damaged_files.iter().filter(|_| verbose) {
        write!(text, "\n    damaged file: {path}").ok();
    }
    for way in backup.recovery.iter().filter(|_| verbose) {
        let last = way.last.map_or_else(|| "nowhere".to_owned(), |last| last.to_string());
        let why = match way.end {
            RecoveryEnd::ArchiveEnds => "the archive ends there",
            RecoveryEnd::Expired => "what follows was expired",
            RecoveryEnd::Gap => "what follows is missing",
            RecoveryEnd::Damaged => "what follows is damaged",
            _ => "it goes no further",
        };
        write!(text, "\n    recovery on timeline {} up to {last}: {why}", way.timeline.as_u32()).ok();
    }
}

fn finding_lines(text: &mut String, report: &VerifyReport, verbose: bool) {
    for finding in report.findings.iter().filter(|f| verbose || f.level == FindingLevel::Error) {
        let level = match finding.level {
            FindingLevel::Error => "error",
            FindingLevel::Warning => "warning",
            FindingLevel::Info => "info",
        };
        write!(text, "\n  {level}: {}: {}", finding.object, finding.text).ok();
        write!(text, "\n    what it means: {}", finding.meaning).ok();
        if !finding.advice.is_empty() {
            write!(text, "\n    what to do: {}", finding.advice).ok();
        }
        if finding.more > 0 {
            write!(text, "\n    and {} more of this kind", finding.more).ok();
        }
    }
}

fn unneeded_lines(text: &mut String, report: &VerifyReport) {
    for unneeded in &report.unneeded {
        let (what, object, count, size) =
            (unneeded.what, &unneeded.object, unneeded.count, format_size(unneeded.bytes));
        write!(text, "\n  not needed: {object}: {what}, {count} of {size}: {}", unneeded.advice).ok();
    }
}
