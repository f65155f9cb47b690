//! check.

use pgbr::{AgeLimits, Aged, AgesRequest, CheckRequest, Host, RepoAccess, TooOld, check, too_old};

use super::each::{each, summary};
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome};
use crate::settings::Settings;
use crate::size::format_age;

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    match context.settings.stanza() {
        Some(_) => check_stanza(context, host).await,
        None => check_all(context, host).await,
    }
}

/// Checks every stanza of the config files. What is wrong with one does not keep it from the next.
async fn check_all(context: &Context, host: &Host) -> Outcome {
    let (stanzas, log) = (&context.settings.stanzas, &context.log);
    if stanzas.is_empty() {
        log.warn(
            "no stanzas found to check\n\
             HINT: are there non-empty stanza sections in the configuration?",
        );
    }
    let mut failed: Vec<(String, CliError)> = Vec::new();
    for (name, settings) in stanzas {
        log.info(&format!("check stanza '{name}'"));
        let checked = match settings {
            Ok(settings) => check_with(context, host, settings).await,
            Err(error) => Err(error.clone()),
        };
        let Err(error) = checked else { continue };
        log.error(&CliError { message: format!("stanza '{name}': {}", error.message), ..error.clone() });
        let stopped = error.code == ErrorCode::Term;
        failed.push((format!("'{name}'"), error));
        if stopped {
            break;
        }
    }
    summary("check", "stanza ", &failed).map_or(Ok(0), Err)
}

async fn check_with(context: &Context, host: &Host, settings: &Settings) -> Outcome {
    let told = context.settings.warnings();
    settings.warnings().iter().filter(|text| !told.contains(text)).for_each(|text| context.log.warn(text));
    let told = context.settings.notes();
    settings.notes().iter().filter(|text| !told.contains(text)).for_each(|text| context.log.detail(text));
    check_stanza(&context.with(settings.clone()), host).await
}

async fn check_stanza(context: &Context, host: &Host) -> Outcome {
    each(context, async |key, repo| {
        // Before the check makes a segment of its own.
        let ages = ages(context, host, key, &repo).await;
        check_one(context, host, key, repo).await.and(ages)
    })
    .await
}

async fn check_one(context: &Context, host: &Host, key: u16, repo: RepoAccess) -> Result<(), CliError> {
    let settings = &context.settings;
    let place = repo.place.to_string();
    let request = CheckRequest {
        repo,
        stanza: request::stanza(settings)?,
        cluster: request::cluster(settings, &context.env, &context.log)?,
        others: request::other_clusters(settings, &context.env, &context.log)?,
        standby: request::standby(settings),
        archive_check: settings.get_bool("archive-check"),
        archive_mode_check: settings.get_bool("archive-mode-check"),
        archive_timeout: request::archive_timeout(settings),
        archive_program: settings.flavor().program().to_owned(),
    };
    let host = context.host_of(host, key);
    let report = check(&host, request).await.map_err(|e| context.failure(&e))?;
    match report.segment {
        Some(segment) => {
            context
                .log
                .info(&format!("WAL segment {segment} successfully archived to '{place}' on repo{key}"));
        }
        None if report.standby => context.log.info("switch wal not performed because this is a standby"),
        None => {}
    }
    Ok(())
}

/// Warns of each thing that is older than its option allows; that there was any is the error that the check ends with, if it finds no other.
async fn ages(context: &Context, host: &Host, key: u16, repo: &RepoAccess) -> Result<(), CliError> {
    let settings = &context.settings;
    let limits = AgeLimits {
        backup: settings.get_time(option(Aged::Backup)),
        wal: settings.get_time(option(Aged::Wal)),
        drill: settings.get_time(option(Aged::Drill)),
    };
    if !limits.any() {
        return Ok(());
    }
    let request = AgesRequest { repo: repo.clone(), stanza: request::stanza(settings)?, limits };
    let found = too_old(&context.host_of(host, key), request).await.map_err(|e| context.failure(&e))?;
    for old in &found {
        context.log.warn(&warning(old, key, settings.flavor().program()));
    }
    let options: Vec<&str> = found.iter().map(|old| option(old.what)).collect();
    match options.is_empty() {
        true => Ok(()),
        false => Err(CliError::new(ErrorCode::TooOld, format!("older than allowed: {}", options.join(", ")))),
    }
}

const fn option(what: Aged) -> &'static str {
    match what {
        Aged::Backup => "backup-age-max",
        Aged::Wal => "wal-age-max",
        Aged::Drill => "drill-age-max",
    }
}

/// What is too old, how old it is, how old it may be, and what to do.
fn warning(old: &TooOld, key: u16, program: &str) -> String {
    let found = match (&old.newest, old.what) {
        (None, Aged::Backup) => "there is no backup of this cluster".to_owned(),
        (None, Aged::Wal) => "there is no WAL of this cluster".to_owned(),
        (None, Aged::Drill) => "no backup that is there was proven by a drill".to_owned(),
        (Some((name, age)), what) => {
            let ago = format_age(age.as_secs());
            match what {
                Aged::Backup => format!("the newest backup {name} ended {ago} ago"),
                Aged::Wal => format!("the newest WAL segment {name} was archived {ago} ago"),
                Aged::Drill => format!("the last drill that proved a backup, {name}, ended {ago} ago"),
            }
        }
    };
    let advice = match old.what {
        Aged::Backup => format!("make one with '{program} backup --repo={key}', and see why none was made"),
        Aged::Wal => {
            "see pg_stat_archiver and the log of the server; one that writes little needs archive_timeout"
                .to_owned()
        }
        Aged::Drill => format!("make one with '{program} drill --repo={key}'"),
    };
    let limit = format_age(old.limit.as_secs());
    format!("repo{key}: {found}, and {} is {limit}: {advice}", option(old.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_option() {
        for what in [Aged::Backup, Aged::Wal, Aged::Drill] {
            assert!(crate::options::id_of(option(what)).is_some(), "{what:?}");
        }
    }
}
