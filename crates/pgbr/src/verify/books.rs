//! The manifests of all backups that are verified, opened, and the chains that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use pgbr_manifest::BackupLabel;

use super::report::{FindingKind, Findings};
use super::stock::manifest_name;
use crate::error::{Error, Result, with_causes};
use crate::load::{self, Backup, is_unreadable, load};
use crate::place::StanzaPlace;

/// How many manifests are asked for at once.
const MANIFESTS: usize = 16;

/// What the manifests say.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Those that opened.
    pub(super) loaded: BTreeMap<BackupLabel, Arc<Backup>>,
    /// Those that did not, with the number of the finding.
    pub(super) unreadable: BTreeMap<BackupLabel, usize>,
    /// Backups that were there a moment ago.
    pub(super) gone: BTreeSet<BackupLabel>,
    /// What each backup builds on, itself first; the finding where that cannot be used.
    pub(super) chains: BTreeMap<BackupLabel, Chain>,
    /// Backups that others build on and that have no manifest.
    pub(super) missing: BTreeSet<BackupLabel>,
}

/// A backup and what it builds on.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Newest first; those that can be used.
    pub(super) backups: Vec<Arc<Backup>>,
    /// Whether it goes down to a full.
    pub(super) whole: bool,
}

impl Books {
    /// Opens the manifests of these backups and follows their chains. `listed` are all labels that have a manifest.
    pub(super) async fn open(
        place: &StanzaPlace,
        labels: Vec<BackupLabel>,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut books = Self::default();
        let read = labels.into_iter().map(|label| async move { (label, load(&place.backups, label).await) });
        let mut read = futures::stream::iter(read).buffered(MANIFESTS);
        while let Some((label, loaded)) = read.next().await {
            match loaded {
                Ok(backup) => drop(books.loaded.insert(label, Arc::new(backup))),
                Err(Error::Repo(error)) if error.is_not_found() => drop(books.gone.insert(label)),
                Err(error) => {
                    let kind = match is_unreadable(&error) {
                        true => FindingKind::Manifest,
                        // Where the repository answers it is this object that cannot be read.
                        false if is_of_object(&error) => {
                            place.repo.store().check_reached().await?;
                            FindingKind::Unreadable
                        }
                        false => return Err(error),
                    };
                    let number = findings.add(kind, manifest_name(place, &label), with_causes(&error));
                    findings.hurts(number, label);
                    books.unreadable.insert(label, number);
                }
            }
        }
        let labels: Vec<_> = books.loaded.keys().copied().collect();
        for label in labels {
            let chain = books.chain(place, label, findings);
            books.chains.insert(label, chain);
        }
        Ok(books)
    }

    fn chain(&mut self, place: &StanzaPlace, label: BackupLabel, findings: &mut Findings) -> Chain {
        let mut chain = Chain::default();
        let mut next = self.loaded.get(&label).cloned();
        let mut layers = 0;
        // A parent is always older, so this ends; a restore does not follow it for ever either.
        while let Some(backup) = next.take() {
            chain.backups.push(Arc::clone(&backup));
            layers += backup.body.layers.len();
            let Some(parent) = &backup.body.parent else {
                chain.whole = true;
                break;
            };
            let found = self.loaded.get(&parent.label);
            let problem = match found {
                Some(found) => load::too_long(chain.backups.len() + 1, layers + found.body.layers.len())
                    .or_else(|| load::stranger(&backup, parent, found).map(str::to_owned)),
                None if self.unreadable.contains_key(&parent.label) => None,
                None => Some("it is not there".to_owned()),
            };
            match (problem, found) {
                (None, Some(found)) => next = Some(Arc::clone(found)),
                (None, None) => {
                    self.unreadable
                        .get(&parent.label)
                        .iter()
                        .for_each(|number| findings.hurts(**number, label));
                }
                (Some(problem), _) => {
                    if found.is_none() {
                        self.missing.insert(parent.label);
                    }
                    let object = manifest_name(place, &parent.label);
                    let text = format!("backup {} builds on it: {problem}", backup.summary.label);
                    let number = findings.add(FindingKind::Chain, object, text);
                    findings.hurts(number, label);
                }
            }
        }
        chain
    }
}

/// Whether an error may be of one object alone, as a bad sector of a disk.
pub(super) const fn is_of_object(error: &Error) -> bool {
    use pgbr_repo::Error as Repo;
    matches!(error, Error::Repo(Repo::Unavailable { .. } | Repo::Permission { .. } | Repo::Codec { .. }))
}
