//! The answers of several repositories as one list of stanzas.

use std::collections::BTreeSet;
use std::sync::Arc;

use pgbr_codec::Cipher;
use pgbr_manifest::manifest::Summary;
use pgbr_manifest::{BackupLabel, StanzaName};
use pgbr_repo::{ClusterId, Error as RepoError};

use super::{InfoReport, StanzaInfo};
use crate::error::{Error, Result};
use crate::theirs::TheirStanza;

/// What [`info`](super::info) said of one repository.
#[derive(Debug)]
pub struct RepoAnswer {
    /// The number of the repository, as in `repo1-path`.
    pub key: u16,
    /// What it holds, or why that is not known.
    pub report: Result<InfoReport>,
}

/// Which backups were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedSet {
    /// All.
    All,
    /// This one.
    One(BackupLabel),
    /// One whose name no backup can have.
    NoLabel,
}

/// How a stanza is: pgBackRest's codes and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StanzaState {
    /// There are backups.
    Ok,
    /// There is no such stanza.
    Missing,
    /// There is no backup yet.
    NoBackups,
    /// There is an archive of pgBackRest's, and its list of backups is lost.
    MissingData,
    /// The repositories say different things.
    Mixed,
    /// The repositories have different clusters.
    Mismatch,
    /// The backup that was asked for is not there.
    SetMissing,
    /// It is not known; the error says why.
    Other,
}

impl StanzaState {
    /// The code.
    pub const fn code(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Missing => 1,
            Self::NoBackups => 2,
            Self::MissingData => 3,
            Self::Mixed => 4,
            Self::Mismatch => 5,
            Self::SetMissing => 6,
            Self::Other => 99,
        }
    }

    /// The words.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing stanza path",
            Self::NoBackups => "no valid backups",
            Self::MissingData => "missing stanza data",
            Self::Mixed => "different across repos",
            Self::Mismatch => "database mismatch across repos",
            Self::SetMissing => "requested backup not found",
            Self::Other => "other",
        }
    }
}

/// A stanza as all repositories that were asked have it.
#[derive(Debug)]
#[non_exhaustive]
pub struct StanzaView {
    /// Its name; none where nothing is known but that a repository cannot be read.
    pub name: Option<StanzaName>,
    /// How it is in all of them.
    pub state: StanzaState,
    /// The repositories, in the order in which they were asked.
    pub repos: Vec<RepoView>,
}

/// A stanza as one repository has it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RepoView {
    /// The number of the repository.
    pub key: u16,
    /// How it is sealed; none where that is not known.
    pub cipher: Option<Cipher>,
    /// How the stanza is.
    pub state: StanzaState,
    /// What is in it; none where the repository cannot be read.
    pub info: Option<StanzaInfo>,
    /// Why the repository cannot be read.
    pub error: Option<Arc<Error>>,
}

/// Which stanzas there are in any of the repositories, by name, and how each is in all of them. `stanza` and `set` are what was asked for.
/// A repository that does not exist has no stanza.
pub fn combine_info(answers: Vec<RepoAnswer>, stanza: Option<&StanzaName>, set: AskedSet) -> Vec<StanzaView> {
    let mut repos: Vec<Repo> = answers.into_iter().map(Repo::of).collect();
    let mut names: BTreeSet<_> =
        repos.iter().flat_map(|repo| &repo.stanzas).map(|s| s.name.clone()).collect();
    names.extend(stanza.cloned());
    if names.is_empty() && repos.iter().any(|repo| repo.error.is_some()) {
        return vec![view(None, &mut repos, set)];
    }
    names.into_iter().map(|name| view(Some(name), &mut repos, set)).collect()
}

impl StanzaView {
    /// The backups of all repositories with the repository that each is in, oldest first; a backup that several have is there several times.
    pub fn backups(&self) -> Vec<(&RepoView, &Summary)> {
        let mut all = Vec::new();
        for repo in &self.repos {
            all.extend(repo.info.iter().flat_map(|info| &info.backups).map(|backup| (repo, backup)));
        }
        // Stable: of two with one label the one in the first repository comes first.
        all.sort_by_key(|(_, backup)| (backup.label.time(), backup.label));
        all
    }
}

/// A repository while its stanzas are handed out.
struct Repo {
    key: u16,
    cipher: Option<Cipher>,
    stanzas: Vec<StanzaInfo>,
    error: Option<Arc<Error>>,
}

impl Repo {
    fn of(answer: RepoAnswer) -> Self {
        let key = answer.key;
        match answer.report {
            Ok(report) => Self { key, cipher: report.cipher, stanzas: report.stanzas, error: None },
            Err(Error::Repo(RepoError::NoRepository { .. })) => {
                Self { key, cipher: None, stanzas: Vec::new(), error: None }
            }
            Err(error) => Self { key, cipher: None, stanzas: Vec::new(), error: Some(Arc::new(error)) },
        }
    }
}

fn view(name: Option<StanzaName>, repos: &mut [Repo], set: AskedSet) -> StanzaView {
    let mut stanzas =
        repos.iter().flat_map(|repo| &repo.stanzas).filter(|stanza| Some(&stanza.name) == name.as_ref());
    // It is missed where none of them has it.
    let set = if stanzas.any(|stanza| has_set(stanza, set)) { AskedSet::All } else { set };
    let repos: Vec<_> = repos.iter_mut().map(|repo| repo_view(name.as_ref(), repo, set)).collect();
    StanzaView { name, state: state_of_all(&repos), repos }
}

fn repo_view(name: Option<&StanzaName>, repo: &mut Repo, set: AskedSet) -> RepoView {
    let (key, cipher, error) = (repo.key, repo.cipher, repo.error.clone());
    if error.is_some() {
        return RepoView { key, cipher, state: StanzaState::Other, info: None, error };
    }
    let place = repo.stanzas.iter().position(|stanza| Some(&stanza.name) == name);
    let found = place.map(|place| repo.stanzas.swap_remove(place));
    let info = found.or_else(|| name.cloned().map(StanzaInfo::missing));
    let state = info.as_ref().map_or(StanzaState::Missing, |info| state_of(info, set));
    RepoView { key, cipher, state, info, error }
}

/// What pgBackRest has, if that can be read.
fn readable(info: &StanzaInfo) -> Option<&TheirStanza> {
    info.theirs.as_ref()?.as_ref().ok()
}

fn has_set(info: &StanzaInfo, set: AskedSet) -> bool {
    let in_theirs = |label| readable(info).is_some_and(|s| s.backups.iter().any(|b| b.label == label));
    match set {
        AskedSet::All => true,
        AskedSet::One(label) => info.set.is_some() || in_theirs(label),
        AskedSet::NoLabel => false,
    }
}

fn state_of(info: &StanzaInfo, set: AskedSet) -> StanzaState {
    let theirs = readable(info);
    if info.error.is_some() || !info.unreadable.is_empty() || matches!(info.theirs, Some(Err(_))) {
        StanzaState::Other
    } else if info.clusters.is_empty() && theirs.is_none() {
        StanzaState::Missing
    } else if info.clusters.is_empty() && theirs.is_some_and(|theirs| !theirs.listed) {
        StanzaState::MissingData
    } else if !has_set(info, set) {
        StanzaState::SetMissing
    } else if info.backups.is_empty() && theirs.is_none_or(|theirs| theirs.backups.is_empty()) {
        StanzaState::NoBackups
    } else {
        StanzaState::Ok
    }
}

fn state_of_all(repos: &[RepoView]) -> StanzaState {
    let identity = |cluster: &ClusterId| (cluster.system_id, cluster.version);
    let current = |repo: &RepoView| repo.info.as_ref()?.clusters.last().map(identity);
    let mut clusters = repos.iter().filter_map(current);
    let first = clusters.next();
    if clusters.any(|cluster| Some(cluster) != first) {
        return StanzaState::Mismatch;
    }
    let mut states = repos.iter().map(|repo| repo.state);
    let first = states.next().unwrap_or(StanzaState::Missing);
    if states.all(|state| state == first) { first } else { StanzaState::Mixed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> StanzaName {
        text.parse().unwrap()
    }

    fn stanza(of: &str, system: u64) -> StanzaInfo {
        let mut info = StanzaInfo::missing(name(of));
        let json = format!(
            r#"{{"number":1,"system-id":{system},"version":"15","catalog-version":1,"control-version":1,"added":1}}"#
        );
        info.clusters.push(serde_json::from_str(&json).unwrap());
        info
    }

    fn has(key: u16, stanzas: Vec<StanzaInfo>) -> RepoAnswer {
        RepoAnswer { key, report: Ok(InfoReport { cipher: Some(Cipher::None), stanzas }) }
    }

    fn down(key: u16) -> RepoAnswer {
        RepoAnswer { key, report: Err(Error::Stopped) }
    }

    fn states(view: &StanzaView) -> (u32, Vec<u32>) {
        (view.state.code(), view.repos.iter().map(|repo| repo.state.code()).collect())
    }

    #[test]
    fn a_stanza_is_shown_once_with_the_state_that_all_repositories_agree_on() {
        let views = combine_info(
            vec![has(1, vec![stanza("a", 7)]), has(2, vec![stanza("a", 7)])],
            None,
            AskedSet::All,
        );
        assert_eq!(views.iter().map(states).collect::<Vec<_>>(), [(2, vec![2, 2])]);
        let views = combine_info(
            vec![has(1, vec![stanza("a", 7)]), has(3, vec![stanza("b", 7)])],
            None,
            AskedSet::All,
        );
        let names: Vec<_> = views.iter().map(|view| view.name.as_ref().unwrap().as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(views.iter().map(states).collect::<Vec<_>>(), [(4, vec![2, 1]), (4, vec![1, 2])]);
        assert_eq!(views[0].repos.iter().map(|repo| repo.key).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn other_clusters_are_a_mismatch() {
        let views = combine_info(
            vec![has(1, vec![stanza("a", 7)]), has(2, vec![stanza("a", 8)])],
            None,
            AskedSet::All,
        );
        assert_eq!(states(&views[0]), (5, vec![2, 2]));
    }

    #[test]
    fn a_repository_that_cannot_be_read_hides_no_other() {
        let views = combine_info(vec![down(1), has(2, vec![stanza("a", 7)])], None, AskedSet::All);
        assert_eq!(states(&views[0]), (4, vec![99, 2]));
        assert!(views[0].repos[0].error.is_some());
        let all_down = combine_info(vec![down(1), down(2)], None, AskedSet::All);
        assert_eq!((all_down.len(), states(&all_down[0])), (1, (99, vec![99, 99])));
        assert!(all_down[0].name.is_none());
        let asked = combine_info(vec![down(1), has(2, Vec::new())], Some(&name("a")), AskedSet::All);
        assert_eq!((asked[0].name.clone(), states(&asked[0])), (Some(name("a")), (4, vec![99, 1])));
        assert!(combine_info(vec![has(1, Vec::new())], None, AskedSet::All).is_empty());
    }

    #[test]
    fn a_backup_that_was_asked_for_is_missed_in_the_repository_that_lacks_it() {
        let set = "20260101-000000F".parse().unwrap();
        let views = combine_info(vec![has(1, vec![stanza("a", 7)])], Some(&name("a")), AskedSet::One(set));
        assert_eq!(states(&views[0]), (6, vec![6]));
        let views = combine_info(vec![has(1, vec![stanza("a", 7)])], Some(&name("a")), AskedSet::NoLabel);
        assert_eq!(states(&views[0]), (6, vec![6]));
    }
}
