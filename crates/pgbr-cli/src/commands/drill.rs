//! drill.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use pgbr::{
    CheckResult, DrillReport, DrillRequest, Host, Places, RepoAccess, drill_data_dir, drill_from,
    drill_source, split_statements,
};

use super::restore;
use crate::exit::{CliError, ErrorCode};
use crate::run::{Context, Outcome, print};
use crate::settings::shell_word;
use crate::size::format_size;

/// Where distributions put the programs of a version: before and after its number.
const PLACES: [(&str, &str); 2] = [("/usr/lib/postgresql/", "/bin"), ("/usr/pgsql-", "/bin")];
/// The largest file of statements that is read.
const MAX_SQL_FILE: u64 = 4 << 20;
/// More than the path of a directory.
const MAX_PATH: u64 = 8 << 10;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let directory = directory(context)?;
    let (bins, sql) = (bins(context), statements(context)?);
    let build = |repo| request(context, repo, &directory, &bins, &sql);
    let choose = async |host: Host, request: DrillRequest| {
        let source = drill_source(&host, &request).await?;
        Ok((host, request, source))
    };
    let (host, request, source) = restore::first_of(context, host, build, choose).await?;
    let report = drill_from(&host, request, source).await.map_err(|e| context.failure(&e))?;
    if context.settings.get_str("output") == Some("json") {
        print(&format!("{}\n", serde_json::to_value(&report).unwrap_or_default()))?;
    }
    if let Some(path) = &report.kept {
        context.log.info(&format!("the directory of the drill is kept: '{}'", path.display()));
    }
    match report.ok {
        true => {
            context.log.info(&proven(&report));
            Ok(0)
        }
        false => Err(refuted(&report)),
    }
}

fn request(
    context: &Context,
    repo: RepoAccess,
    directory: &Path,
    bins: &[PathBuf],
    sql: &[String],
) -> Result<DrillRequest, CliError> {
    let settings = &context.settings;
    // The files that a recovery of the cluster itself fetches ahead are not taken from it.
    let data = drill_data_dir(directory);
    let more =
        [format!("--pg1-path={}", shell_word(&data.to_string_lossy())), "--no-archive-async".to_owned()];
    let restore_command = restore::restore_command(context, &more)?;
    let text = |name, other: &str| settings.get_str(name).unwrap_or(other).to_owned();
    Ok(DrillRequest {
        restore: restore::request_of(context, repo, Places::default(), restore_command)?,
        directory: directory.to_owned(),
        bins: bins.to_vec(),
        user: text("drill-user", "postgres"),
        database: text("drill-db", "postgres"),
        sql: sql.to_vec(),
        options: settings.get_hash("drill-option").to_vec(),
        writable: ["lock-path", "log-path"]
            .iter()
            .filter_map(|name| settings.get_path(name))
            .map(Path::to_owned)
            .collect(),
        timeout: settings.get_time("drill-timeout").unwrap_or(Duration::from_secs(3600)),
        keep: settings.get_bool("drill-keep"),
    })
}

/// A name that no other drill has, and a short one: the path of a socket is limited.
fn directory(context: &Context) -> Result<PathBuf, CliError> {
    let path = context.settings.get_path("drill-path");
    let path =
        path.ok_or_else(|| CliError::new(ErrorCode::OptionRequired, "option 'drill-path' is required"))?;
    // The server works in its data directory: links in the path do no harm, what is relative would.
    let random = context.exec_id.rsplit('-').next().unwrap_or_default();
    Ok(path.join(format!("drill-{random}")))
}

/// Where programs of PostgreSQL may be: the place that is named, or all that are usual.
fn bins(context: &Context) -> Vec<PathBuf> {
    if let Some(path) = context.settings.get_path("pg-bin-path") {
        return vec![path.to_owned()];
    }
    let major = |major| PLACES.map(|(before, after)| PathBuf::from(format!("{before}{major}{after}")));
    let mut all: Vec<PathBuf> = (13..=18).flat_map(major).collect();
    all.extend(told_by_pg_config());
    all
}

fn told_by_pg_config() -> Option<PathBuf> {
    let mut asked = Process::new("pg_config");
    asked.arg("--bindir").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = asked.spawn().ok()?;
    let mut text = String::new();
    let read = child.stdout.take()?.take(MAX_PATH).read_to_string(&mut text);
    child.wait().ok();
    let path = PathBuf::from(text.trim_end_matches('\n'));
    (read.is_ok() && path.is_absolute()).then_some(path)
}

/// The statements on the command line and in config files, then those of the file.
fn statements(context: &Context) -> Result<Vec<String>, CliError> {
    let settings = &context.settings;
    let mut statements = settings.get_list("drill-sql").to_vec();
    let Some(path) = settings.get_path("drill-sql-file") else { return Ok(statements) };
    let failed = |code, why: String| {
        CliError::new(code, format!("unable to read '{}' (option 'drill-sql-file'): {why}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(|e| failed(ErrorCode::FileOpen, e.to_string()))?;
    let mut text = String::new();
    let read = file.take(MAX_SQL_FILE + 1).read_to_string(&mut text);
    read.map_err(|e| failed(ErrorCode::FileRead, e.to_string()))?;
    if text.len() as u64 > MAX_SQL_FILE {
        return Err(failed(
            ErrorCode::FileInvalid,
            format!("it is larger than {}", format_size(MAX_SQL_FILE)),
        ));
    }
    statements.extend(split_statements(&text));
    Ok(statements)
}

fn seconds(ms: u64) -> String {
    format!("{}.{}s", ms / 1000, ms % 1000 / 100)
}

fn count(report: &DrillReport, result: CheckResult) -> usize {
    report.checks.iter().filter(|check| check.result == result).count()
}

fn proven(report: &DrillReport) -> String {
    let (size, files) = (format_size(report.bytes), report.files);
    let (passed, skipped) = (count(report, CheckResult::Passed), count(report, CheckResult::Skipped));
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    format!(
        "backup {} is proven: restored {size} in {files} file(s) in {}, recovered to {} in {}, {passed} check(s) passed{skipped} in {}",
        report.label,
        seconds(report.restore_ms),
        report.goal,
        report.recovery_ms.map_or_else(|| "?".to_owned(), seconds),
        seconds(report.checks_ms)
    )
}

fn refuted(report: &DrillReport) -> CliError {
    let hint =
        "the next backup may be sound: make one, and a drill of it. older ones: drill with --set=LABEL.";
    let keep = "with --drill-keep the restored cluster stays, with the log of its server, to be looked into.";
    if let Some(failure) = &report.failure {
        let message = format!("backup {} did not recover to {}: {failure}", report.label, report.goal);
        let error = CliError::new(ErrorCode::DbInvalid, message);
        let late = "a tablespace that was created after the backup has its files outside of the drill, which may not write there: make a backup, and a drill of that.";
        let error = if failure.contains("pg_tblspc") { error.hint(late) } else { error.hint(hint) };
        return error.hint(keep);
    }
    let failed = report.checks.iter().filter(|check| check.result == CheckResult::Failed);
    let failed: Vec<String> = failed
        .map(|check| {
            let subject = check.subject.as_ref().map(|sql| format!(" '{sql}'")).unwrap_or_default();
            format!("{}{subject}: {}", check.name, check.detail.as_deref().unwrap_or("failed"))
        })
        .collect();
    let message = format!(
        "backup {} was restored, and {} of {} check(s) failed: {}",
        report.label,
        failed.len(),
        report.checks.len(),
        failed.join("; ")
    );
    CliError::new(ErrorCode::DbInvalid, message).hint(hint).hint(keep)
}
