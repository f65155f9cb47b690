//! expire, on its own and after a backup.

use std::fmt::Write;

use pgbr::{
    Asked, BackupType, ExpireReport, ExpireRequest, FullRetention, Host, ManifestError, Periods, Policy,
    RepoAccess, expire, expire_as,
};

use super::each::each;
use super::{theirs, witness};
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::{Settings, Source};
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    if context.settings.get_bool("pgbackrest-remove") {
        return theirs::remove(context, host).await;
    }
    let (settings, asked) = (&context.settings, asked(&context.settings)?);
    let several = settings.repo_keys().len() > 1;
    let mut reports = Vec::new();
    let step = async |key, repo| {
        let request = build(settings, key, repo, asked)?;
        let host = context.host_of(host, key);
        let expired = match context.take_writer(key) {
            Some(writer) => expire_as(&host, writer, request).await,
            None => expire(&host, request).await,
        };
        let report = expired.map_err(|e| context.failure(&e))?;
        tell_work(context, key, &report);
        if !report.dry_run {
            witness::keep(context, &host, key).await;
            if report.satisfies(&policy(settings, key)?) {
                theirs::tell_rest(context, key).await;
            }
        }
        reports.push((key, report));
        Ok(())
    };
    let done = each(context, step).await;
    show(settings, several, &reports)?;
    done
}

fn tell_work(context: &Context, key: u16, report: &ExpireReport) {
    let log = &context.log;
    if report.packs.count > 0 {
        let (count, size) = (report.packs.count, format_size(report.packs.bytes));
        log.detail(&format!("repo{key}: {count} pack(s) of {size} removed"));
    }
    if report.leftovers.count > 0 {
        let (count, size) = (report.leftovers.count, format_size(report.leftovers.bytes));
        log.detail(&format!("repo{key}: {count} file(s) of {size} removed that interrupted writes had left"));
    }
    super::requests::tell(context, key, &report.requests);
}

/// Prints what the options ask for: with several repositories one object, or one paragraph, for each.
fn show(settings: &Settings, several: bool, reports: &[(u16, ExpireReport)]) -> Result<(), CliError> {
    let output = settings.get_str("output").filter(|_| several || !reports.is_empty());
    if output == Some("json") {
        let json = |(key, report): &(u16, ExpireReport)| {
            let mut json = serde_json::to_value(report).unwrap_or_default();
            if let Some(object) = json.as_object_mut().filter(|_| several) {
                object.insert("repo-key".to_owned(), (*key).into());
            }
            json
        };
        let mut all: Vec<_> = reports.iter().map(json).collect();
        let json = if several { all.into() } else { all.pop().unwrap_or_default() };
        return print(&format!("{json}\n"));
    }
    for (key, report) in reports.iter().filter(|(_, report)| output.is_some() && report.dry_run) {
        let head = if several { format!("repo{key}:\n") } else { String::new() };
        print(&(head + &text(report)))?;
    }
    Ok(())
}

fn build(settings: &Settings, key: u16, repo: RepoAccess, asked: Asked) -> Result<ExpireRequest, CliError> {
    let notes = settings.get_path("lock-path").zip(settings.stanza());
    Ok(ExpireRequest {
        repo,
        stanza: request::stanza(settings)?,
        policy: policy(settings, key)?,
        asked,
        dry_run: settings.get_bool("dry-run"),
        witness: request::witness(settings, key),
        notes: notes.map(|(directory, stanza)| directory.join(format!("{stanza}-expire-{key}.notes"))),
    })
}

fn policy(settings: &Settings, key: u16) -> Result<Policy, CliError> {
    let entry = |name: &str| settings.indexed("repo", key, &format!("retention-{name}"));
    let count = |name: &str| entry(name).as_int().and_then(|count| u32::try_from(count).ok());
    let archive_type = entry("archive-type").as_str().unwrap_or("full").parse::<BackupType>();
    let before = settings.get_str("archive-expire-before").map(str::parse).transpose();
    let by_time = entry("full-type").as_str() == Some("time");
    Ok(Policy {
        full: count("full"),
        full_type: if by_time { FullRetention::Time } else { FullRetention::Count },
        diff: count("diff"),
        archive: count("archive"),
        archive_type: archive_type.map_err(|e| invalid(&e))?,
        periods: Periods {
            daily: count("daily"),
            weekly: count("weekly"),
            monthly: count("monthly"),
            yearly: count("yearly"),
        },
        archive_before: before.map_err(|e: ManifestError| invalid(&e))?,
    })
}

fn asked(settings: &Settings) -> Result<Asked, CliError> {
    let oldest = settings.get_bool("oldest");
    let Some(set) = settings.get_str("set").filter(|_| settings.source("set") != Source::Default) else {
        return Ok(if oldest { Asked::Oldest } else { Asked::Policy });
    };
    if oldest {
        let message = "option 'oldest' is not valid with option 'set'";
        return Err(CliError::new(ErrorCode::OptionInvalid, message));
    }
    let label = set.parse().map_err(|_| {
        CliError::new(ErrorCode::OptionInvalidValue, format!("'{set}' is not a valid backup label format"))
    })?;
    Ok(Asked::Set(label))
}

fn invalid(error: &ManifestError) -> CliError {
    CliError::new(ErrorCode::OptionInvalidValue, error.to_string())
}

/// What a dry run tells: everything, with its reason.
fn text(report: &ExpireReport) -> String {
    let mut text = String::new();
    let fate = |keep: bool| if keep { "keep  " } else { "remove" };
    // Writing to a string does not fail.
    for backup in &report.backups {
        let (label, reasons) = (backup.label, backup.reasons.join("; "));
        writeln!(text, "{} {} backup {label}: {reasons}", fate(backup.keep), backup.kind).ok();
    }
    for run in &report.unfinished {
        let (label, packs, size) = (run.label, run.packs, format_size(run.bytes));
        writeln!(
            text,
            "{} unfinished backup {label} ({packs} packs, {size}): {}",
            fate(run.keep),
            run.reason
        )
        .ok();
    }
    for archive in &report.archives {
        for range in &archive.ranges {
            let (first, last, size) = (range.start, range.stop, format_size(range.bytes));
            let (id, files) = (archive.archive, range.files);
            writeln!(
                text,
                "{} {id} WAL {first} to {last} ({files} files, {size}): {}",
                fate(range.keep),
                range.reason
            )
            .ok();
        }
    }
    text
}
