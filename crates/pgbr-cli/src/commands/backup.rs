//! backup.

use std::sync::Arc;

use pgbr::{BackupRepo, BackupReport, BackupRequest, BackupType, BadFile, Host, backup};

use super::each::Failures;
use super::witness;
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let (keys, key) = (settings.backup_keys(), settings.repo_key());
    if settings.keys("repo").len() > 1 && !settings.entry("repo").is_set() {
        context.log.info(&format!("repo option not specified, defaulting to repo{key}"));
    }
    let request = build(context, host, &keys)?;
    let backups = backup(host, request).await.map_err(|e| context.failure(&e))?;
    context.keep(backups.writers);
    let mut failures = Failures::new(context, keys.len());
    for report in &backups.made {
        match finish(context, host, report, keys.len() > 1).await {
            Ok(()) => {
                witness::keep(context, host, report.repo).await;
                context.has_grown(report.repo);
            }
            Err(error) => failures.add(report.repo, error),
        }
    }
    for failed in backups.failed {
        failures.add(failed.repo, context.failure(&failed.error));
    }
    failures.end().map(|()| 0)
}

/// Tells what was backed up to one repository.
async fn finish(
    context: &Context,
    host: &Host,
    report: &BackupReport,
    several: bool,
) -> Result<(), CliError> {
    let (settings, log, key) = (&context.settings, &context.log, report.repo);
    let of = if several { format!("repo{key}: ") } else { String::new() };
    for file in &report.bad_files {
        log.warn(&format!("{of}invalid page checksums in '{}' at {}", file.path, pages(file)));
    }
    if report.bad_pages > 0 {
        let pages = report.bad_pages;
        log.warn(&format!(
            "{of}{pages} page(s) have a wrong checksum: the backup is complete and is marked as having errors"
        ));
    }
    for skipped in &report.skipped {
        log.warn(&format!("{of}not copied: {skipped}"));
    }
    let (kind, size) = (report.kind, format_size(report.sizes.delta));
    log.info(&format!("{of}{kind} backup size = {size}, file total = {}", report.files));
    if let Some(resumed) = report.resumed {
        let (raw, stored) = (format_size(resumed.raw), format_size(resumed.stored));
        let again = format_size(resumed.again);
        log.info(&format!("{of}resumed: {raw} ({stored} in the repository) were stored before, {again} of it sent again or dropped"));
    }
    log.info(&format!(
        "{of}stored {} in {} request(s) to the repository",
        format_size(report.sizes.stored_delta),
        super::requests::count(&report.requests)
    ));
    super::requests::tell(context, key, &report.requests);
    // It is the newest backup, so nobody expires it before this.
    if settings.get_bool("hold") {
        let (repo, stanza) = (request::repo_of(settings, key)?, request::stanza(settings)?);
        let held = super::hold::apply(context, host, (key, repo), stanza, report.label).await;
        held.map_err(|e| context.failure(&e))?;
    }
    Ok(())
}

/// `page 1` or `pages 1, 5-7 and 3 more`.
fn pages(file: &BadFile) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &page in &file.first {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(page) => *last = page,
            _ => ranges.push((page, page)),
        }
    }
    let text = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let named = ranges.iter().map(text).collect::<Vec<_>>().join(", ");
    let noun = if file.pages == 1 { "page" } else { "pages" };
    match file.pages.saturating_sub(file.first.len() as u64) {
        0 => format!("{noun} {named}"),
        more => format!("{noun} {named} and {more} more"),
    }
}

fn build(context: &Context, host: &Host, keys: &[u16]) -> Result<BackupRequest, CliError> {
    let settings = &context.settings;
    let kind = settings.get_str("type").unwrap_or("incr").parse::<BackupType>();
    let repo = |(key, access)| {
        let pack_size = settings.indexed("repo", key, "pack-size").as_size();
        let pack_size = pack_size.and_then(|size| usize::try_from(size).ok());
        let observer = (keys.len() > 1).then(|| Arc::clone(&context.host_of(host, key).observer));
        let plain = BackupRepo::new(key, access);
        BackupRepo { pack_size: pack_size.unwrap_or(plain.pack_size), observer, ..plain }
    };
    Ok(BackupRequest {
        repos: request::repos_of(settings, keys)?.into_iter().map(repo).collect(),
        stanza: request::stanza(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        standby: request::standby(settings),
        online: settings.get_bool("online"),
        force: settings.get_bool("force"),
        kind: kind.map_err(|e| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))?,
        compression: request::compression(settings)?,
        delta: settings.get_bool("delta"),
        resume: settings.get_bool("resume"),
        threads: request::threads(settings),
        start_fast: settings.get_bool("start-fast"),
        archive_check: settings.get_bool("archive-check"),
        archive_copy: settings.get_bool("archive-copy"),
        archive_mode_check: settings.get_bool("archive-mode-check"),
        archive_timeout: request::archive_timeout(settings),
        checksum_page: settings.entry("checksum-page").as_bool(),
        exclude: settings.get_list("exclude").to_vec(),
        annotation: settings.get_hash("annotation").iter().cloned().collect(),
        archive_program: settings.flavor().program().to_owned(),
        // A hold is put under a lease of its own.
        keep_writers: settings.get_bool("expire-auto") && !settings.get_bool("hold"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named() {
        let text =
            |first: &[u32], all| pages(&BadFile { path: String::new(), pages: all, first: first.to_vec() });
        assert_eq!(text(&[7], 1), "page 7");
        assert_eq!(text(&[0, 1, 2, 9], 4), "pages 0-2, 9");
        assert_eq!(text(&[1, 3, 4], 10), "pages 1, 3-4 and 7 more");
    }
}
