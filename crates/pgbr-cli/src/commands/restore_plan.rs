//! restore with dry-run: what would be done, as text or JSON.

use std::fmt::Write;

use pgbr::{Host, Reach, RestoreDryRun, RestoreRequest, WalReach, Work, restore_dry_run};
use serde_json::json;

use super::restore::with_first;
use crate::exit::CliError;
use crate::run::{Context, Outcome, print};
use crate::size::format_size;

/// Tells what a restore would do, and ends as it would.
pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let several = context.settings.repo_keys().len() > 1;
    let look = async |host: Host, request: RestoreRequest| {
        let mut found = restore_dry_run(&host, request).await?;
        match found.refusal.take_if(|refusal| several && refusal.is_of_repository()) {
            Some(refusal) => Err(refusal),
            None => Ok(found),
        }
    };
    let found = with_first(context, host, look).await?;
    let refusal = found.refusal.as_ref().map(|error| context.failure(error));
    let shown = match context.settings.get_str("output") {
        Some("json") => json_of(&found, refusal.as_ref()),
        _ => text_of(&found, refusal.as_ref()),
    };
    print(&shown)?;
    refusal.map_or(Ok(0), Err)
}

fn json_of(found: &RestoreDryRun, refusal: Option<&CliError>) -> String {
    let mut json = json!(found);
    let refusal = refusal.map(|error| json!({"code": error.code.number(), "message": error.text()}));
    if let Some(object) = json.as_object_mut() {
        object.insert("would-run".to_owned(), json!(refusal.is_none()));
        object.insert("refusal".to_owned(), json!(refusal));
    }
    format!("{json}\n")
}

fn text_of(found: &RestoreDryRun, refusal: Option<&CliError>) -> String {
    let mut text = String::new();
    let mut line = |part: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        writeln!(text, "{part}").ok();
    };
    line(format_args!("restore of {} backup {}, nothing is changed", found.kind, found.label));
    line(format_args!("    to: {}", found.pg_data.display()));
    for (oid, place) in &found.tablespaces {
        line(format_args!("    tablespace {oid} to: {}", place.display()));
    }
    if !found.hollow_databases.is_empty() {
        line(format_args!("    databases restored as zeros: {}", found.hollow_databases.join(", ")));
    }
    line(format_args!("    cluster size: {}", format_size(found.bytes)));
    if let Some(work) = &found.work {
        work_of(work, &mut line);
    }
    if let Some(wal) = &found.wal {
        wal_of(wal, &mut line);
    }
    if let Some(error) = refusal {
        line(format_args!("    would be refused: [{:03}] {}", error.code.number(), error.message));
    } else {
        line(format_args!("    would be done"));
    }
    text
}

fn wal_of(wal: &WalReach, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let last = wal.last.map_or_else(|| "none".to_owned(), |last| last.to_string());
    line(format_args!("    wal in the archive: {} to {last}, {} segment(s)", wal.first, wal.segments));
    let reach = match wal.target {
        Reach::Yes => "can be reached",
        Reach::No => "cannot be reached",
        Reach::Unknown => "may be reached",
    };
    line(format_args!("    target: {reach}: {}", wal.reason));
}

fn work_of(work: &Work, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let fetched: u64 = work.fetched.iter().map(|part| part.bytes).sum();
    let (kept, fetched) = (format_size(work.kept), format_size(fetched));
    line(format_args!("    files: {}, kept: {kept}, fetched: {fetched}", work.files));
    for part in &work.fetched {
        let bytes = format_size(part.bytes);
        line(format_args!("        from {}: {bytes} in {} part(s)", part.label, part.frames));
    }
    let removed = format_size(work.removed_bytes);
    line(format_args!("    removed: {} file(s), {removed}", work.removed_files));
}
