//! backup.

use std::collections::BTreeMap;

use pgbr::{BackupRequest, BackupType, BadFile, Host, backup};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    if settings.repo_keys().len() > 1 {
        let key = settings.repo_key();
        context.log.info(&format!("repo option not specified, defaulting to repo{key}"));
    }
    let request = build(context)?;
    let report = backup(host, request).await.map_err(|e| context.failure(&e))?;
    let log = &context.log;
    for file in &report.bad_files {
        log.warn(&format!("invalid page checksums in '{}' at {}", file.path, pages(file)));
    }
    if report.bad_pages > 0 {
        let pages = report.bad_pages;
        log.warn(&format!(
            "{pages} page(s) have a wrong checksum: the backup is complete and is marked as having errors"
        ));
    }
    for skipped in &report.skipped {
        log.warn(&format!("not copied: {skipped}"));
    }
    log.info(&format!(
        "{} backup size = {}, file total = {}",
        report.kind,
        format_size(report.sizes.database),
        report.files
    ));
    if let Some(resumed) = report.resumed {
        let (raw, stored) = (format_size(resumed.raw), format_size(resumed.stored));
        let again = format_size(resumed.again);
        log.info(&format!("resumed: {raw} ({stored} in the repository) were stored before, {again} of it sent again or dropped"));
    }
    log.info(&format!(
        "stored {} in {} request(s) to the repository",
        format_size(report.sizes.stored_delta),
        requests(&report.requests)
    ));
    // It is the newest backup, so nobody expires it before this.
    if settings.get_bool("hold") {
        let key = settings.repo_key();
        let (repo, stanza) = (request::repo_of(settings, key)?, request::stanza(settings)?);
        let held = super::hold::apply(context, host, (key, repo), stanza, report.label).await;
        held.map_err(|e| context.failure(&e))?;
    }
    Ok(0)
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

fn requests(counts: &BTreeMap<&'static str, u64>) -> u64 {
    ["puts", "gets", "lists", "deletes"].iter().filter_map(|kind| counts.get(kind)).sum()
}

fn build(context: &Context) -> Result<BackupRequest, CliError> {
    let settings = &context.settings;
    if !settings.get_bool("online") {
        return Err(CliError::new(
            ErrorCode::FeatureNotSupported,
            "backup of a stopped cluster is not supported yet",
        ));
    }
    let kind = settings.get_str("type").unwrap_or("incr").parse::<BackupType>();
    let pack_size = settings.indexed("repo", settings.repo_key(), "pack-size").as_size();
    Ok(BackupRequest {
        repo: request::repo_of(settings, settings.repo_key())?,
        stanza: request::stanza(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        standby: request::standby(settings),
        kind: kind.map_err(|e| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))?,
        compression: request::compression(settings)?,
        delta: settings.get_bool("delta"),
        resume: settings.get_bool("resume"),
        threads: request::threads(settings),
        pack_size: pack_size.and_then(|size| usize::try_from(size).ok()).unwrap_or(16 << 20),
        start_fast: settings.get_bool("start-fast"),
        archive_check: settings.get_bool("archive-check"),
        archive_mode_check: settings.get_bool("archive-mode-check"),
        archive_timeout: request::archive_timeout(settings),
        checksum_page: settings.entry("checksum-page").as_bool(),
        exclude: settings.get_list("exclude").to_vec(),
        annotation: settings.get_hash("annotation").iter().cloned().collect(),
        archive_program: settings.flavor().program().to_owned(),
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
