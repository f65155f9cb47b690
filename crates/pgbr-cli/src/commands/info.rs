//! info.

use std::collections::BTreeMap;
use std::path::Path;

use pgbr::{
    BackupLabel, BackupType, HoldState, Host, InfoReport, InfoRequest, LockHolder, LockType, RepoError,
    StanzaInfo, StanzaName, info,
};

use super::{info_json, info_text};
use crate::exit::{CliError, ErrorCode};
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::Settings;

/// A stanza as it is shown.
pub(super) struct Shown<'a> {
    pub(super) info: &'a StanzaInfo,
    pub(super) cipher: &'a str,
    pub(super) repo_key: u16,
    pub(super) status: Status,
    pub(super) backup: Option<LockHolder>,
    pub(super) restore: Option<LockHolder>,
    /// Only backups of this type.
    pub(super) kind: Option<BackupType>,
    /// The version that a backup is said to be made by.
    pub(super) version: Option<&'static str>,
    pub(super) set: Option<&'a str>,
    note_errors: BTreeMap<BackupLabel, Vec<String>>,
}

/// Code and words, as pgBackRest has them.
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let stanza = settings.stanza().map(|_| request::stanza(settings)).transpose()?;
    let set =
        match settings.get_str("set") {
            None => None,
            Some(label) => Some(label.parse().map_err(|e: pgbr::ManifestError| {
                CliError::new(ErrorCode::OptionInvalidValue, e.to_string())
            })?),
        };
    let asked = InfoRequest { repo: request::repo(settings)?, stanza: stanza.clone(), set };
    let report = match info(host, asked).await {
        Ok(report) => report,
        Err(pgbr::Error::Repo(RepoError::NoRepository { .. })) => nothing(stanza),
        Err(error) => return Err(context.failure(&error)),
    };
    let cipher = report.cipher.to_string();
    let shown: Vec<_> = report.stanzas.iter().map(|found| show(settings, found, &cipher, context)).collect();
    if settings.get_str("output") == Some("json") {
        print(&info_json::render(&shown, settings.get_str("detail-level") == Some("progress")))?;
    } else {
        print(&info_text::render(&shown, &host.zone))?;
    }
    Ok(0)
}

/// Where there is no repository, a stanza that was asked for is missing, and none is listed.
fn nothing(stanza: Option<StanzaName>) -> InfoReport {
    InfoReport { cipher: pgbr::Cipher::None, stanzas: stanza.map(StanzaInfo::missing).into_iter().collect() }
}

fn show<'a>(settings: &'a Settings, info: &'a StanzaInfo, cipher: &'a str, context: &Context) -> Shown<'a> {
    let repo_key = settings.repo_key();
    let directory = settings.get_path("lock-path").unwrap_or(Path::new("/tmp/pgbr"));
    // A lock that cannot be looked at is not known to be held.
    let holder = |kind| pgbr::lock_holder(directory, &info.name, kind, u32::from(repo_key)).ok().flatten();
    let version = (settings.flavor().program() == "pgbackrest").then(|| settings.flavor().version());
    let kind = settings.get_str("type").and_then(|kind| kind.parse().ok());
    Shown {
        info,
        cipher,
        repo_key,
        status: status(info, settings, context),
        backup: holder(LockType::Backup),
        restore: holder(LockType::Restore),
        kind,
        version,
        set: settings.get_str("set"),
        note_errors: note_errors(info, context),
    }
}

/// Says which annotations may be missing or old, and keeps it for the backups that are shown.
fn note_errors(info: &StanzaInfo, context: &Context) -> BTreeMap<BackupLabel, Vec<String>> {
    let mut errors: BTreeMap<BackupLabel, Vec<String>> = BTreeMap::new();
    for (label, error) in &info.unreadable_notes {
        let text = context.failure(error).message;
        context.log.warn(&format!("annotations of backup {label} may be missing or old: {text}"));
        errors.entry(*label).or_default().push(text);
    }
    errors
}

fn status(info: &StanzaInfo, settings: &Settings, context: &Context) -> Status {
    let of = |code, message: &str| Status { code, message: message.to_owned() };
    if let Some(error) = &info.error {
        return Status { code: 99, message: context.failure(error).text() };
    }
    if let Some((label, error)) = info.unreadable.first() {
        return Status { code: 99, message: format!("backup {label}: {}", context.failure(error).text()) };
    }
    if info.clusters.is_empty() {
        return of(1, "missing stanza path");
    }
    if settings.get_str("set").is_some() && info.set.is_none() {
        return of(6, "requested backup not found");
    }
    if info.backups.is_empty() {
        return of(2, "no valid backups");
    }
    of(0, "ok")
}

impl Shown<'_> {
    /// The backups to show, oldest first.
    pub(super) fn backups(&self) -> impl Iterator<Item = &pgbr::Summary> {
        self.info.backups.iter().filter(|backup| {
            self.kind.is_none_or(|kind| backup.kind == kind)
                && self.set.is_none_or(|set| backup.label.to_string() == set)
        })
    }

    /// The labels that a backup builds on, oldest first.
    pub(super) fn references(&self, backup: &pgbr::Summary) -> Vec<String> {
        let mut labels = Vec::new();
        let mut next = backup.prior;
        while let Some(label) = next {
            labels.push(label.to_string());
            next = match self.info.backups.iter().find(|b| b.label == label) {
                Some(prior) => prior.prior,
                // It cannot be read; the full that all of them build on is known by name.
                None => Some(label.full()).filter(|full| *full != label),
            };
        }
        labels.reverse();
        labels
    }

    /// The holds of a backup.
    pub(super) fn holds(&self, backup: &pgbr::Summary) -> impl Iterator<Item = &HoldState> {
        self.info.holds.iter().filter(|hold| hold.label == backup.label)
    }

    /// Files of the backup asked for that had pages with a wrong checksum, as pgBackRest names them: those of the data directory without its name.
    pub(super) fn error_list(&self) -> impl Iterator<Item = &str> {
        self.info.set_errors.iter().map(|path| path.strip_prefix("pg_data/").unwrap_or(path))
    }

    /// What is wrong with the notes on a backup.
    pub(super) fn note_errors(&self, backup: &pgbr::Summary) -> &[String] {
        self.note_errors.get(&backup.label).map_or(&[], Vec::as_slice)
    }
}
