//! The list of files that a backup gives with all it builds on, as a restore reads it: what of it is harmed, and whether it is the one that
//! the manifest says.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use pgbr_manifest::merge::Item;
use pgbr_manifest::{
    BackupLabel, FileDigester, GRAIN, ListDigester, Nesting, RelPath, WalSegmentName, ZERO_GRAIN,
};
use tokio::runtime::Handle;

use super::Verify;
use super::books::{Books, Chain};
use super::budget::{Due, Unit};
use super::packs::{Cases, Harm};
use super::report::{Cause, FileCounts, FindingKind};
use super::stock::manifest_name;
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{self, Backup, ChainLayer, is_unreadable};
use crate::place::StanzaPlace;

/// The most damaged files that are named.
const MAX_NAMED: usize = 1000;
/// After how many grains of zeros a stop is looked for.
const ZEROS_AT_ONCE: u64 = 1 << 20;

/// What was found of a list of files.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) files: FileCounts,
    /// Paths of files that are harmed.
    pub(super) damaged: Vec<String>,
    /// Findings that harm files of it.
    hurt: BTreeSet<usize>,
}

impl Verify<'_> {
    /// Reads the lists that are due.
    pub(super) async fn lists(&mut self, books: &Books, cases: &Cases, due: &Due) -> Result<()> {
        let takes = |label: &BackupLabel, chain: &Chain| {
            let packs =
                chain.backups.iter().flat_map(|backup| &backup.body.layers).flat_map(|l| &l.index_packs);
            due.takes(&Unit::list(*label), packs.sum())
        };
        let wanted = books.chains.iter().filter(|(label, chain)| chain.whole && takes(label, chain));
        let wanted = wanted.map(|(label, _)| *label).collect();
        self.read_lists(books, cases, wanted).await
    }

    /// Reads those of backups that something was found wrong with, whenever they were read before: who is hurt is told as it is.
    pub(super) async fn harmed_lists(&mut self, books: &Books, cases: &Cases) -> Result<()> {
        let harmed = |chain: &Chain| cases.of_chain(&chain.backups).iter().any(|case| !case.harm.is_none());
        let wanted = books.chains.iter().filter(|(_, chain)| chain.whole && harmed(chain));
        let wanted = wanted.map(|(label, _)| *label).collect();
        self.read_lists(books, cases, wanted).await
    }

    async fn read_lists(&mut self, books: &Books, cases: &Cases, labels: Vec<BackupLabel>) -> Result<()> {
        let wanted = labels.iter().filter_map(|label| Some((label, books.chains.get(label)?)));
        let threads = self.request.threads.max(1);
        let reads: Vec<_> =
            wanted.filter_map(|(label, chain)| Some((*label, Read::new(self, chain, cases)?))).collect();
        let reads = reads.into_iter().map(|(label, read)| async move {
            let read = tokio::task::spawn_blocking(move || read.run()).await;
            (label, read.unwrap_or(Err(Error::Internal { what: "reading an index panicked" })))
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(threads);
        while let Some((label, read)) = reads.next().await {
            self.host.stop.check()?;
            self.counts.lists += 1;
            self.listed(books, cases, label, read).await?;
        }
        Ok(())
    }

    async fn listed(
        &mut self,
        books: &Books,
        cases: &Cases,
        label: BackupLabel,
        read: Result<Listed>,
    ) -> Result<()> {
        let chain = books.chains.get(&label).map(|chain| chain.backups.as_slice()).unwrap_or_default();
        for number in cases.of_chain(chain).iter().flat_map(|case| &case.harm.blocks) {
            self.findings.hurts(*number, label);
        }
        let unit = Unit::list(label);
        match read {
            Ok(listed) => {
                listed.hurt.iter().for_each(|number| self.findings.hurts(*number, label));
                self.listed.insert(label, listed);
                self.budget.verified(&unit);
            }
            Err(error) => {
                self.budget.damaged(&unit);
                let number = self.list_fault(label, error).await?;
                self.findings.hurts(number, label);
            }
        }
        Ok(())
    }

    async fn list_fault(&mut self, label: BackupLabel, error: Error) -> Result<usize> {
        let missing = matches!(&error, Error::Repo(error) if error.is_not_found());
        if !missing && !is_unreadable(&error) {
            let text = self.unreadable(error).await?;
            return Ok(self.findings.add(FindingKind::Unreadable, manifest_name(self.place, &label), text));
        }
        let text = with_causes(&error);
        // As the walk through the layer itself has said it.
        Ok(match error {
            Error::Damaged { label: of, .. } if of != label || text.contains("index pack") => {
                let text = format!("its index cannot be read: {text}");
                self.findings.add(FindingKind::IndexDamaged, manifest_name(self.place, &of), text)
            }
            _ => self.findings.add(FindingKind::List, manifest_name(self.place, &label), text),
        })
    }
}

/// One list that is to be read.
struct Read {
    host: Host,
    place: StanzaPlace,
    newest: Arc<Backup>,
    layers: Vec<ChainLayer>,
    harms: Vec<Harm>,
    runtime: Handle,
}

impl Read {
    fn new(verify: &Verify<'_>, chain: &Chain, cases: &Cases) -> Option<Self> {
        let cases = cases.of_chain(&chain.backups);
        let layer = |case: &&super::packs::LayerCase| ChainLayer {
            label: case.label,
            layer: Arc::clone(&case.layer),
        };
        Some(Self {
            host: verify.host.clone(),
            place: verify.place.clone(),
            newest: Arc::clone(chain.backups.first()?),
            layers: cases.iter().map(layer).collect(),
            harms: cases.iter().map(|case| case.harm.clone()).collect(),
            runtime: Handle::current(),
        })
    }

    fn run(&self) -> Result<Listed> {
        let mut merge = load::merged(&self.place, &self.layers, &self.runtime);
        let mut list = ListDigester::new(&self.newest.body.hash_key);
        let (mut listed, mut open): (Listed, Option<OpenFile>) = (Listed::default(), None);
        let mut brought = 0;
        let mut nesting = Nesting::default();
        let mut pass = |path: &RelPath, is_directory| {
            nesting.pass(path, is_directory).map_err(|error| self.damaged(error.to_string()))
        };
        while let Some(item) = merge.next_item()? {
            self.host.stop.check()?;
            match item {
                Item::Directory { path, .. } => {
                    pass(&path, true)?;
                    list.directory(path.as_bytes());
                }
                Item::Link { path, target, .. } => {
                    pass(&path, false)?;
                    list.link(path.as_bytes(), &target);
                }
                Item::File(file) => {
                    pass(&file.path, false)?;
                    let digester = FileDigester::new(&self.newest.body.hash_key, file.size);
                    open = Some(OpenFile { path: file.path, size: file.size, digester, at: 0, cause: None });
                }
                Item::Grains { source, grain, stream, hashes } => {
                    let Some(open) = &mut open else { continue };
                    let bytes = open.bytes(grain, hashes.len() as u64);
                    let harm = self.harms.get(source).into_iter();
                    for (cause, finding) in harm.flat_map(|harm| harm.of(stream..stream + bytes)) {
                        open.cause = open.cause.or(Some(cause));
                        listed.hurt.insert(finding);
                    }
                    hashes.iter().for_each(|hash| open.digester.push(*hash));
                    open.at += hashes.len() as u64;
                }
                Item::Zeros { count, .. } => {
                    let Some(open) = &mut open else { continue };
                    self.zeros(open, count)?;
                }
                Item::Absent { grain, .. } => {
                    let path = open.map(|open| open.path.to_string()).unwrap_or_default();
                    return Err(self.damaged(format!("'{path}' lacks grain {grain} in all of its chain")));
                }
                Item::End(end) => {
                    let Some(file) = open.take() else { continue };
                    if file.at != file.size.div_ceil(GRAIN as u64) || file.digester.finish() != end.digest {
                        return Err(self.damaged(format!("'{}' is not complete in the index", file.path)));
                    }
                    list.file(file.path.as_bytes(), end.size, end.digest);
                    brought += u64::from(self.is_needed_wal(&file.path, end.size));
                    listed.files.add(file.cause);
                    if file.cause.is_some() && listed.damaged.len() < MAX_NAMED {
                        listed.damaged.push(file.path.to_string());
                    }
                }
            }
        }
        let body = &self.newest.body;
        self.check_wal(brought)?;
        match list.finish() == (body.resolved_entries, body.resolved_digest) {
            true => Ok(listed),
            false => {
                Err(self
                    .damaged("its index does not give the list of files that its manifest says".to_owned()))
            }
        }
    }

    /// Whether a file is a segment that the backup needs.
    fn is_needed_wal(&self, path: &RelPath, size: u64) -> bool {
        let (wal, bytes) = (self.newest.summary.wal, self.newest.body.cluster.wal_segment_size.bytes());
        let name = std::str::from_utf8(path.file_name()).ok().filter(|_| path.is_wal_segment());
        let segment = name.and_then(|name| name.parse::<WalSegmentName>().ok());
        segment.is_some_and(|segment| (wal.start..=wal.stop).contains(&segment)) && size == u64::from(bytes)
    }

    /// Sees that a backup that says that it brings its WAL does.
    fn check_wal(&self, brought: u64) -> Result<()> {
        let (summary, size) = (&self.newest.summary, self.newest.body.cluster.wal_segment_size);
        let needed = summary.wal.start.number(size).zip(summary.wal.stop.number(size));
        let needed = needed.and_then(|(first, last)| last.checked_sub(first)?.checked_add(1));
        match summary.wal_inside && needed.is_none_or(|needed| brought < needed) {
            true => Err(self.damaged("it does not bring all of the WAL that it needs".to_owned())),
            false => Ok(()),
        }
    }

    fn zeros(&self, open: &mut OpenFile, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            self.host.stop.check()?;
            let now = left.min(ZEROS_AT_ONCE);
            (0..now).for_each(|_| open.digester.push(ZERO_GRAIN));
            (open.at, left) = (open.at + now, left - now);
        }
        Ok(())
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Damaged { label: self.newest.summary.label, reason }
    }
}

/// The file that the merge gives.
struct OpenFile {
    path: RelPath,
    size: u64,
    digester: FileDigester,
    /// The next grain.
    at: u64,
    /// What harms it, where anything does.
    cause: Option<Cause>,
}

impl OpenFile {
    /// How many bytes so many grains have.
    fn bytes(&self, grain: u64, count: u64) -> u64 {
        let start = grain.saturating_mul(GRAIN as u64);
        self.size.saturating_sub(start).min(count.saturating_mul(GRAIN as u64))
    }
}
