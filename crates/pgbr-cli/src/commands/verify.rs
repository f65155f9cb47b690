//! verify.

use jiff::tz::TimeZone;
use pgbr::{
    FindingLevel, Host, RepoAccess, VerifyBudget, VerifyCoverage, VerifyReport, VerifyRequest, verify,
};

use super::each::each;
use super::{verify_text, witness};
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::Settings;
use crate::size::{format_size, parse_size, parse_time};

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let several = settings.repo_keys().len() > 1;
    let mut reports = Vec::new();
    let step = async |key, repo| {
        let host = context.host_of(host, key);
        let report = verify(&host, build(settings, key, repo)?).await.map_err(|e| context.failure(&e))?;
        tell(context, &host, key, several, &report);
        let ended = judge(&report);
        reports.push((key, report));
        ended
    };
    let done = each(context, step).await;
    show(host, settings, several, &reports)?;
    done
}

fn build(settings: &Settings, key: u16, repo: RepoAccess) -> Result<VerifyRequest, CliError> {
    let set = settings.get_str("set").map(str::parse).transpose();
    let set = set.map_err(|e: pgbr::ManifestError| {
        CliError::new(ErrorCode::OptionInvalidValue, e.to_string())
            .hint("use the info command to see the backups there are")
    })?;
    let (quick, budget) = (settings.get_bool("quick"), budget(settings)?);
    if quick && budget.is_some() {
        let message = "option 'budget' is not valid with option 'quick'";
        return Err(CliError::new(ErrorCode::OptionInvalid, message).hint("quick reads hardly anything"));
    }
    Ok(VerifyRequest {
        repo,
        stanza: request::stanza(settings)?,
        set,
        quick,
        budget,
        witness: witness::to_compare(settings, key)?,
        threads: request::threads(settings),
    })
}

/// A time (`30m`, `2h`) or a size (`50GiB`). What could be either, as `30m`, is a time.
fn budget(settings: &Settings) -> Result<Option<VerifyBudget>, CliError> {
    let Some(text) = settings.get_str("budget") else { return Ok(None) };
    let invalid = || {
        CliError::new(ErrorCode::OptionInvalidValue, format!("'{text}' is not valid for 'budget' option"))
            .hint("a budget is a time as 30m or 2h, or a size as 500MiB or 50GiB")
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let time = parse_time(text).filter(|_| !is_number).map(VerifyBudget::Time);
    let size = || parse_size(text).filter(|_| !is_number).map(VerifyBudget::Bytes);
    time.or_else(size).map(Some).ok_or_else(invalid)
}

/// Logs what was found: errors as errors, though the command goes on.
fn tell(context: &Context, host: &Host, key: u16, several: bool, report: &VerifyReport) {
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
    if let Some(written) = report.witness {
        log.info(&format!("{repo}compared with the record of {}", moment(written, &host.zone)));
    } else if request::witness(&context.settings, key).is_some() {
        log.info(&format!("{repo}there is no record elsewhere to compare with yet"));
    }
    if let Some(coverage) = &report.coverage {
        log.info(&format!("{repo}{}", covered(coverage, &host.zone)));
    }
    super::requests::tell(context, key, &report.requests);
}

/// What a budget has left.
pub(super) fn covered(coverage: &VerifyCoverage, zone: &TimeZone) -> String {
    let VerifyCoverage { read, left, never, oldest, .. } = coverage;
    let mut text = format!("{read} of {} packs, lists and WAL segments were read", read + left);
    if *left > 0 {
        text.push_str(&format!("; {left} are left, of which {never} were never read"));
    }
    if let Some(oldest) = *oldest {
        text.push_str(&format!("; the oldest of the others was read at {}", moment(oldest, zone)));
    }
    text
}

/// A moment in Unix seconds, for people.
pub(super) fn moment(seconds: i64, zone: &TimeZone) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
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
fn show(
    host: &Host,
    settings: &Settings,
    several: bool,
    reports: &[(u16, VerifyReport)],
) -> Result<(), CliError> {
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
                print(&(head + &verify_text::render(report, settings.get_bool("verbose"), &host.zone)))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
