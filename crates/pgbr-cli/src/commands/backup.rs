//! backup.

use std::collections::BTreeMap;

use pgbr::{BackupRequest, BackupType, Host, backup};

use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let request = build(context)?;
    let report = backup(host, request).await.map_err(|e| context.failure(&e))?;
    let log = &context.log;
    for (path, pages) in &report.bad_files {
        log.warn(&format!("invalid page checksums in '{path}': {pages} page(s)"));
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
    log.info(&format!(
        "stored {} in {} request(s) to the repository",
        format_size(report.sizes.stored_delta),
        requests(&report.requests)
    ));
    Ok(0)
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
        repo: request::repo(settings)?,
        stanza: request::stanza(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        kind: kind.map_err(|e| CliError::new(ErrorCode::OptionInvalidValue, e.to_string()))?,
        compression: request::compression(settings)?,
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
