//! repo-copy.

use std::fmt::Write;

use pgbr::{CopyReport, CopyRequest, CopyWal, Host, repo_copy};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let (from, to) = (settings.repo_key(), request::to_repo(settings)?);
    let set =
        match settings.get_str("set") {
            None | Some("latest") => None,
            Some(label) => Some(label.parse().map_err(|e: pgbr::ManifestError| {
                CliError::new(ErrorCode::OptionInvalidValue, e.to_string())
            })?),
        };
    let request = CopyRequest {
        from: request::repo_of(settings, from)?,
        to: request::repo_of(settings, to)?,
        stanza: request::stanza(settings)?,
        set,
        wal: if settings.get_str("wal") == Some("newest") { CopyWal::Newest } else { CopyWal::Needed },
        check: settings.get_bool("verify"),
        compression: request::compression(settings)?,
        threads: request::threads(settings),
        dry_run: settings.get_bool("dry-run"),
    };
    let report = repo_copy(host, request).await.map_err(|e| context.failure(&e))?;
    let (stanza, log) = (request::stanza(settings)?, &context.log);
    for backup in report.backups.iter().filter(|backup| !backup.copied) {
        log.info(&format!("backup {} is in repo{to} already", backup.label));
    }
    if !report.dry_run {
        let copied: Vec<_> = report.backups.iter().filter(|backup| backup.copied).collect();
        let bytes = format_size(copied.iter().map(|backup| backup.bytes).sum());
        log.info(&format!(
            "stanza '{stanza}': {} backup(s) of {bytes} and {} WAL file(s) of {} copied from repo{from} to repo{to}",
            copied.len(),
            report.wal.copied,
            format_size(report.wal.bytes)
        ));
    }
    if !report.dry_run {
        super::witness::keep(context, host, to).await;
    }
    super::requests::tell(context, from, &report.requests_from);
    super::requests::tell(context, to, &report.requests_to);
    match settings.get_str("output") {
        Some("json") => print(&format!("{}\n", serde_json::to_string(&report).unwrap_or_default()))?,
        Some(_) if report.dry_run => print(&text(&report, from, to))?,
        _ => {}
    }
    Ok(0)
}

/// What a dry run tells.
fn text(report: &CopyReport, from: u16, to: u16) -> String {
    let mut text =
        format!("copy of backup {} from repo{from} to repo{to}, nothing is changed\n", report.label);
    if report.stanza_made {
        text.push_str("    the stanza would be made\n");
    }
    // Writing to a string does not fail.
    for backup in &report.backups {
        let fate = if backup.copied { "copy" } else { "there" };
        let (kind, label, size) = (backup.kind, backup.label, format_size(backup.bytes));
        writeln!(text, "    {fate}: {kind} backup {label}, {size}").ok();
    }
    let last = report.wal.last.map_or_else(|| "none".to_owned(), |last| last.to_string());
    writeln!(text, "    wal: {} file(s) at most, up to {last}", report.wal.copied).ok();
    text
}
