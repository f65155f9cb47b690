//! info.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use pgbr::{
    AskedSet, BackupLabel, BackupType, Cipher, DrillFacts, Error, HoldState, Host, InfoRequest, LockHolder,
    LockType, RepoAnswer, RepoError, RepoView, StanzaInfo, StanzaState, StanzaView, TheirBackup, TheirSet,
    TheirStanza, combine_info, info,
};

use super::{info_json, info_text};
use crate::exit::{CliError, ErrorCode};
use crate::failure::of_repo;
use crate::request;
use crate::run::{Context, Outcome, print};
use crate::settings::Settings;

/// What a stanza is called of which nothing is known, as pgBackRest says it.
const UNKNOWN: &str = "[invalid]";

/// A stanza as it is shown.
pub(super) struct Shown<'a> {
    pub(super) name: &'a str,
    pub(super) status: Status,
    /// The cipher of all repositories, or `mixed`.
    pub(super) cipher: String,
    pub(super) repos: Vec<ShownRepo<'a>>,
    pub(super) restore: Option<LockHolder>,
    /// Only backups of this type.
    pub(super) kind: Option<BackupType>,
    /// The version that a backup is said to be made by.
    pub(super) version: Option<&'static str>,
    pub(super) set: Option<&'a str>,
    view: &'a StanzaView,
}

/// A stanza in one repository as it is shown.
pub(super) struct ShownRepo<'a> {
    pub(super) key: u16,
    pub(super) cipher: String,
    pub(super) status: Status,
    /// None where the repository cannot be read.
    pub(super) info: Option<&'a StanzaInfo>,
    /// Who makes a backup or expires.
    pub(super) backup: Option<LockHolder>,
    note_errors: BTreeMap<BackupLabel, Vec<String>>,
}

/// A backup in the repository that it is in.
#[derive(Clone, Copy)]
pub(super) struct ShownBackup<'a> {
    pub(super) repo: &'a ShownRepo<'a>,
    pub(super) info: &'a StanzaInfo,
    pub(super) summary: &'a pgbr::Summary,
}

/// A backup of pgBackRest's in the repository that it is in.
#[derive(Clone, Copy)]
pub(super) struct ShownTheirs<'a> {
    pub(super) key: u16,
    pub(super) stanza: &'a TheirStanza,
    pub(super) entry: &'a TheirBackup,
}

/// A backup of either kind.
#[derive(Clone, Copy)]
pub(super) enum AnyBackup<'a> {
    Ours(ShownBackup<'a>),
    Theirs(ShownTheirs<'a>),
}

/// The last drill of a stanza.
pub(super) struct LastDrill<'a> {
    /// The repository that it was made from.
    pub(super) key: u16,
    /// The backup.
    pub(super) label: BackupLabel,
    pub(super) facts: &'a DrillFacts,
}

/// Code and words, as pgBackRest has them.
pub(super) struct Status {
    pub(super) code: u32,
    pub(super) message: String,
}

pub(super) async fn run(context: &Context, host: &Host) -> Outcome {
    let settings = &context.settings;
    let stanza = settings.stanza().map(|_| request::stanza(settings)).transpose()?;
    let asked = asked_set(settings);
    let set = if let AskedSet::One(label) = asked { Some(label) } else { None };
    let json = settings.get_str("output") == Some("json");
    let progress_only = progress_only(settings)?;
    let recovery_windows = settings.get_bool("recovery-window") && !progress_only;
    let answers = request::repos(settings)?.into_iter().map(|(key, repo)| {
        let request = InfoRequest { repo, stanza: stanza.clone(), set, recovery_windows };
        let host = context.host_of(host, key);
        async move { RepoAnswer { key, report: info(&host, request).await } }
    });
    let answers = futures::future::join_all(answers).await;
    // There is nothing else to show.
    if let [RepoAnswer { key, report: Err(error) }] = answers.as_slice()
        && !matches!(error, Error::Repo(RepoError::NoRepository { .. }))
    {
        return Err(of_repo(context.failure(error), *key));
    }
    let views = combine_info(answers, stanza.as_ref(), asked);
    let shown: Vec<_> = views.iter().map(|view| show(context, view)).collect();
    let now = host.clock.now_ns().div_euclid(1_000_000_000);
    match json {
        true => print(&info_json::render(&shown, progress_only, now))?,
        false => print(&info_text::render(&shown, progress_only, &host.zone, now))?,
    }
    Ok(0)
}

/// Which backups are asked for; text that is no label names one that is not there, as in pgBackRest.
fn asked_set(settings: &Settings) -> AskedSet {
    settings.get_str("set").map_or(AskedSet::All, |set| set.parse().map_or(AskedSet::NoLabel, AskedSet::One))
}

/// Whether only the state of the stanzas is told, and what is under way.
fn progress_only(settings: &Settings) -> Result<bool, CliError> {
    let only = settings.get_str("detail-level") == Some("progress");
    if only && settings.get_str("set").is_some() {
        let message = "option 'set' cannot be used with option 'detail-level' = 'progress'";
        return Err(CliError::new(ErrorCode::OptionInvalid, message));
    }
    Ok(only)
}

fn show<'a>(context: &'a Context, view: &'a StanzaView) -> Shown<'a> {
    let settings = &context.settings;
    let directory = settings.get_path("lock-path").unwrap_or(Path::new("/tmp/pgbr"));
    // A lock that cannot be looked at is not known to be held.
    let holder = |repo: &RepoView, kind| {
        let stanza = view.name.as_ref()?;
        pgbr::lock_holder(directory, stanza, kind, u32::from(repo.key)).ok().flatten()
    };
    let repos: Vec<_> =
        view.repos.iter().map(|repo| show_repo(context, repo, holder(repo, LockType::Backup))).collect();
    let first = repos.first().map_or("none", |repo| repo.cipher.as_str());
    let cipher = if repos.iter().all(|repo| repo.cipher == first) { first } else { "mixed" }.to_owned();
    let mut status = Status { code: view.state.code(), message: view.state.message().to_owned() };
    if let ([repo], StanzaState::Other) = (repos.as_slice(), view.state) {
        status.message.clone_from(&repo.status.message);
    }
    Shown {
        name: view.name.as_ref().map_or(UNKNOWN, |name| name.as_str()),
        status,
        cipher,
        repos,
        restore: view.repos.iter().find_map(|repo| holder(repo, LockType::Restore)),
        kind: settings.get_str("type").and_then(|kind| kind.parse().ok()),
        version: (settings.flavor().program() == "pgbackrest").then(|| settings.flavor().version()),
        set: settings.get_str("set"),
        view,
    }
}

fn show_repo<'a>(context: &Context, repo: &'a RepoView, backup: Option<LockHolder>) -> ShownRepo<'a> {
    let info = repo.info.as_ref();
    let encrypted = || {
        let asked = context.settings.indexed("repo", repo.key, "cipher-type").as_str();
        if asked.is_some_and(|cipher| cipher != "none") { Cipher::Aes256Gcm } else { Cipher::None }
    };
    let theirs = info.and_then(|info| info.theirs.as_ref()?.as_ref().ok());
    // As pgBackRest: of a stanza that it cannot tell whole, or of which it was asked something else, it tells nothing.
    let is_told = !matches!(repo.state, StanzaState::MissingData | StanzaState::SetMissing);
    if let Some(Err(error)) = theirs.and_then(|theirs| theirs.set.as_ref()) {
        context
            .log
            .warn(&format!("the backup set cannot be told of in full: {}", context.failure(error).text()));
    }
    let cipher = match (repo.cipher, theirs) {
        (None, Some(theirs)) => if theirs.encrypted { "aes-256-cbc" } else { "none" }.to_owned(),
        (cipher, _) => cipher.unwrap_or_else(encrypted).to_string(),
    };
    ShownRepo {
        key: repo.key,
        cipher,
        status: status(context, repo),
        info: info.filter(|_| is_told),
        backup,
        note_errors: info.map(|info| note_errors(info, context)).unwrap_or_default(),
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

fn status(context: &Context, repo: &RepoView) -> Status {
    let stanza = repo.info.as_ref();
    let theirs = || stanza?.theirs.as_ref()?.as_ref().err();
    let error = repo.error.as_deref().or_else(|| stanza?.error.as_ref()).or_else(theirs);
    let text = |error| {
        let described = of_repo(context.failure(error), repo.key);
        format!("[{}] {}", described.code.class(), described.text())
    };
    let message = match (error, stanza.and_then(|info| info.unreadable.first())) {
        (Some(error), _) => text(error),
        (None, Some((label, error))) => format!("backup {label}: {}", text(error)),
        (None, None) => repo.state.message().to_owned(),
    };
    Status { code: repo.state.code(), message }
}

/// How many seconds ago something was; a clock that is behind makes none of it negative.
pub(super) fn age(at: i64, now: i64) -> u64 {
    u64::try_from(now.saturating_sub(at)).unwrap_or_default()
}

impl<'a> Shown<'a> {
    /// The backups to show, oldest first.
    pub(super) fn backups(&'a self) -> impl Iterator<Item = ShownBackup<'a>> {
        let all = self.view.backups().into_iter().filter_map(|(view, summary)| {
            let repo = self.repos.iter().find(|repo| repo.key == view.key)?;
            Some(ShownBackup { repo, info: repo.info?, summary })
        });
        all.filter(|backup| {
            self.kind.is_none_or(|kind| backup.summary.kind == kind)
                && self.set.is_none_or(|set| backup.summary.label.to_string() == set)
        })
    }

    /// The backups that pgBackRest has, oldest first in each repository.
    pub(super) fn theirs(&'a self) -> impl Iterator<Item = ShownTheirs<'a>> {
        let of_repo = |repo: &'a ShownRepo<'a>| {
            let stanza = repo.theirs();
            stanza.into_iter().flat_map(|stanza| {
                stanza.backups.iter().map(|entry| ShownTheirs { key: repo.key, stanza, entry })
            })
        };
        self.repos.iter().flat_map(of_repo).filter(|backup| {
            self.kind.is_none_or(|kind| backup.entry.kind == kind)
                && self.set.is_none_or(|set| backup.entry.label.to_string() == set)
        })
    }

    /// All backups: those of a repository by their labels, and the repositories merged by when a backup ended, so that the last is the one that
    /// ended last. A clock may have stepped back between two of one repository.
    pub(super) fn all_backups(&'a self) -> Vec<AnyBackup<'a>> {
        let ours = self.backups().map(AnyBackup::Ours);
        let mut of_repos: BTreeMap<u16, VecDeque<AnyBackup<'a>>> = BTreeMap::new();
        for backup in ours.chain(self.theirs().map(AnyBackup::Theirs)) {
            of_repos.entry(backup.key()).or_default().push_back(backup);
        }
        for backups in of_repos.values_mut() {
            backups.make_contiguous().sort_by_key(|backup| (backup.label().time(), backup.label()));
        }
        let mut all = Vec::new();
        let next = |backups: &VecDeque<AnyBackup<'_>>| backups.front().map(AnyBackup::stopped);
        while let Some(first) =
            of_repos.values_mut().filter(|backups| !backups.is_empty()).min_by_key(|backups| next(backups))
        {
            all.extend(first.pop_front());
        }
        all
    }

    /// The drill that ended last, in all repositories.
    pub(super) fn last_drill(&'a self) -> Option<LastDrill<'a>> {
        let of_repo = |repo: &'a ShownRepo<'a>| {
            let (label, facts) = repo.info?.last_drill()?;
            Some(LastDrill { key: repo.key, label, facts })
        };
        self.repos.iter().filter_map(of_repo).max_by_key(|drill| drill.facts.stop)
    }

    /// Whether it is looked for in more than one repository.
    pub(super) fn is_several(&self) -> bool {
        self.repos.len() > 1
    }
}

impl ShownRepo<'_> {
    /// What pgBackRest has in it.
    pub(super) fn theirs(&self) -> Option<&TheirStanza> {
        self.info?.theirs.as_ref()?.as_ref().ok()
    }
}

impl AnyBackup<'_> {
    /// Whether it is of the cluster with this system identifier and version.
    pub(super) fn is_of(&self, (system_id, version): &(u64, String)) -> bool {
        match self {
            Self::Ours(backup) => {
                let database = &backup.summary.database;
                (database.system_id.as_u64(), database.version.to_string()) == (*system_id, version.clone())
            }
            Self::Theirs(backup) => {
                let number = backup.entry.cluster.as_u32();
                let cluster = backup.stanza.clusters.iter().find(|cluster| cluster.number == number);
                cluster.is_some_and(|c| (c.system_id, &c.version) == (*system_id, version))
            }
        }
    }

    /// The repository.
    const fn key(&self) -> u16 {
        match self {
            Self::Ours(backup) => backup.repo.key,
            Self::Theirs(backup) => backup.key,
        }
    }

    /// When it ended.
    const fn stopped(&self) -> i64 {
        match self {
            Self::Ours(backup) => backup.summary.time.stop,
            Self::Theirs(backup) => backup.entry.stopped,
        }
    }

    fn label(&self) -> BackupLabel {
        match self {
            Self::Ours(backup) => backup.summary.label,
            Self::Theirs(backup) => backup.entry.label,
        }
    }
}

/// A path as pgBackRest names it: without that of the data directory.
pub(super) fn of_data_directory(path: &str) -> &str {
    path.strip_prefix("pg_data/").unwrap_or(path)
}

impl<'a> ShownTheirs<'a> {
    /// It in full, where it was asked for.
    pub(super) fn set(&self) -> Option<&'a TheirSet> {
        self.stanza.set.as_ref()?.as_ref().ok()
    }
}

impl ShownBackup<'_> {
    /// The labels that it builds on, oldest first.
    pub(super) fn references(&self) -> Vec<String> {
        let mut labels = Vec::new();
        let mut next = self.summary.prior;
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

    /// Its holds.
    pub(super) fn holds(&self) -> impl Iterator<Item = &HoldState> {
        self.info.holds.iter().filter(|hold| hold.label == self.summary.label)
    }

    /// How its newest drill ended.
    pub(super) fn drill(&self) -> Option<&DrillFacts> {
        self.info.drills.iter().find(|(label, _)| *label == self.summary.label).map(|(_, facts)| facts)
    }

    /// Its body, where it was asked for in full.
    pub(super) fn body(&self) -> Option<&pgbr::Body> {
        self.info.set.as_ref().filter(|(set, _)| set.label == self.summary.label).map(|(_, body)| body)
    }

    /// Its files that had pages with a wrong checksum, where it was asked for in full, as pgBackRest names them: those of the data directory
    /// without its name.
    pub(super) fn error_list(&self) -> impl Iterator<Item = &str> {
        let named = self.body().map_or(&[][..], |_| &self.info.set_errors);
        named.iter().map(|path| of_data_directory(path))
    }

    /// What is wrong with the notes on it.
    pub(super) fn note_errors(&self) -> &[String] {
        self.repo.note_errors.get(&self.summary.label).map_or(&[], Vec::as_slice)
    }
}
