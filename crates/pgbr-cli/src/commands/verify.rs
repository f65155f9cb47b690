//! verify.

use pgbr::{FindingLevel, Host, RepoAccess, VerifyReport, VerifyRequest, verify};

use super::each::each;
use super::verify_text;
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::Settings;
use crate::size::format_size;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let several = settings.repo_keys().len() > 1;
    let mut reports = Vec::new();
    let step = async |key, repo| {
        let host = context.host_of(host, key);
        let report = verify(&host, build(settings, repo)?).await.map_err(|e| context.failure(&e))?;
        tell(context, key, several, &report);
        let ended = judge(&report);
        reports.push((key, report));
        ended
    };
    let done = each(context, step).await;
    show(settings, several, &reports)?;
    done
}

fn build(settings: &Settings, repo: RepoAccess) -> Result<VerifyRequest, CliError> {
    let set = settings.get_str("set").map(str::parse).transpose();
    let set = set.map_err(|e: pgbr::ManifestError| {
        CliError::new(ErrorCode::OptionInvalidValue, e.to_string())
            .hint("use the info command to see the backups there are")
    })?;
    Ok(VerifyRequest {
        repo,
        stanza: request::stanza(settings)?,
        set,
        quick: settings.get_bool("quick"),
        threads: request::threads(settings),
    })
}

/// Logs what was found: errors as errors, though the command goes on.
fn tell(context: &Context, key: u16, several: bool, report: &VerifyReport) {
    let log = &context.log;
    let repo = if several { format!("repo{key}: ") } else { String::new() };
    for finding in &report.findings {
        let mut text = format!("{repo}{}: {}: {}", finding.object, finding.text, finding.meaning);
        if finding.more > 0 {
            text.push_str(&format!(" ({} more of this kind are not told)", finding.more));
        }
        match finding.level {
            FindingLevel::Error => {
                log.error(&CliError::new(ErrorCode::FileInvalid, text).hint(finding.advice.as_str()));
            }
            FindingLevel::Warning => log.warn(&format!("{text}\nHINT: {}", finding.advice)),
            FindingLevel::Info => log.detail(&text),
        }
    }
    let unneeded = report.unneeded.iter().fold((0, 0), |(n, bytes), u| (n + u.count, bytes + u.bytes));
    if unneeded.0 > 0 {
        let size = format_size(unneeded.1);
        log.info(&format!("{repo}{} object(s) of {size} are not needed: they harm nobody", unneeded.0));
    }
    if report.counts.gone > 0 {
        log.info(&format!("{repo}{} backup(s) expired meanwhile", report.counts.gone));
    }
    let counts = &report.counts;
    log.detail(&format!(
        "{repo}{} manifest(s), {} pack(s), {} list(s) of files and {} WAL object(s) verified, {} read",
        counts.manifests,
        counts.packs,
        counts.lists,
        counts.wal,
        format_size(counts.bytes)
    ));
    super::requests::tell(context, key, &report.requests);
}

/// How the command ends for one repository.
fn judge(report: &VerifyReport) -> Result<(), CliError> {
    if report.clean {
        return Ok(());
    }
    let errors = report.findings.iter().filter(|finding| finding.level == FindingLevel::Error).count();
    let message = format!("stanza '{}' has errors: {errors} were found", report.stanza);
    Err(CliError::new(ErrorCode::FileInvalid, message)
        .hint("run verify with --output=text --verbose for all of it; each error says what can be done"))
}

/// Prints what the options ask for: with several repositories one object, or one paragraph, for each.
fn show(settings: &Settings, several: bool, reports: &[(u16, VerifyReport)]) -> Result<(), CliError> {
    match settings.get_str("output") {
        Some("json") => {
            let json = |(key, report): &(u16, VerifyReport)| {
                let mut json = serde_json::to_value(report).unwrap_or_default();
                if let Some(object) = json.as_object_mut() {
                    object.insert("repo-key".to_owned(), (*key).into());
                }
                json
            };
            let all: Vec<_> = reports.iter().map(json).collect();
            print(&format!("{}\n", serde_json::Value::from(all)))
        }
        Some("text") => {
            for (key, report) in reports {
                let head = if several { format!("repo{key}:\n") } else { String::new() };
                print(&(head + &verify_text::render(report, settings.get_bool("verbose"))))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
