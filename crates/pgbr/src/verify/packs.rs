//! All packs of all layers: one thread walks the indexes and says what each pack must hold, packs are fetched ahead, and looked at on all
//! cores. Each is read once, whatever builds on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use pgbr_manifest::BackupLabel;
use pgbr_manifest::RelPath;
use pgbr_manifest::index::{FrameCursor, FramePlace, IndexCursor, PackFrames, Record};
use pgbr_manifest::manifest::Layer;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::Verify;
use super::budget::{Due, Unit};
use super::pack::{Fault, LayerKeys, Span, Wanted, grain_len};
use super::report::{Cause, FindingKind};
use super::stock::{manifest_name, pack_name};
use crate::error::{Error, Result, with_causes};
use crate::host::Host;
use crate::load::{Backup, LayerNodes, is_unreadable, pack_sizes};
use crate::place::StanzaPlace;

/// How many packs wait to be asked for.
const WAITING: usize = 2;
/// The most missing packs of a backup that are told one by one.
const MAX_MISSING: usize = 100;
/// The most grains that a pack holds: their hashes stand in its footer, too, in rows of 1 MiB at most.
const MAX_GRAINS: usize = (1 << 20) / 8;
/// The most parts of one layer that are told apart; one more makes all behind the last count as harmed.
const MAX_PARTS: usize = 100_000;

/// A layer of a backup, and what is wrong with it.
pub(super) struct LayerCase {
    pub(super) label: BackupLabel,
    pub(super) layer: Arc<Layer>,
    keys: LayerKeys,
    pub(super) harm: Harm,
}

/// What of a layer cannot be restored.
#[derive(Debug, Clone, Default)]
pub(super) struct Harm {
    /// By their beginning once all are there.
    parts: Vec<Part>,
    /// Findings because of which no backup of the chain is restored: it refuses to begin.
    pub(super) blocks: BTreeSet<usize>,
}

/// A part of the stream that cannot be restored, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    start: u64,
    end: u64,
    cause: Cause,
    finding: usize,
    /// The furthest end of all parts up to this one.
    reach: u64,
}

impl Harm {
    fn add(&mut self, range: Range<u64>, cause: Cause, finding: usize) {
        let full = self.parts.len() >= MAX_PARTS;
        match self.parts.last_mut() {
            Some(last) if last.end == range.start && (last.cause, last.finding) == (cause, finding) => {
                last.end = range.end;
            }
            Some(last) if full => (last.start, last.end) = (last.start.min(range.start), u64::MAX),
            _ => self.parts.push(Part { start: range.start, end: range.end, cause, finding, reach: 0 }),
        }
    }

    /// Parts may overlap: so that a search by the beginning finds all, each knows how far those before it reach.
    fn settle(&mut self) {
        self.parts.sort_unstable();
        let mut reach = 0;
        for part in &mut self.parts {
            reach = reach.max(part.end);
            part.reach = reach;
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.parts.is_empty() && self.blocks.is_empty()
    }

    /// What is wrong with a part of the stream: causes and findings.
    pub(super) fn of(&self, range: Range<u64>) -> impl Iterator<Item = (Cause, usize)> + '_ {
        let first = self.parts.partition_point(|part| part.reach <= range.start);
        let near = self.parts.get(first..).unwrap_or_default().iter();
        let touched = near.take_while(move |part| part.start < range.end);
        touched.filter(move |part| part.end > range.start).map(|part| (part.cause, part.finding))
    }
}

impl LayerCase {
    fn all_of(place: &StanzaPlace, backup: &Backup) -> Vec<Self> {
        let (label, keys) = (backup.summary.label, place.repo.keyring());
        let case = |layer: &Layer| {
            let layer = Arc::new(layer.clone());
            let keys = LayerKeys::new(keys, &layer, &backup.body.hash_key);
            Self { label, layer, keys, harm: Harm::default() }
        };
        backup.body.layers.iter().map(case).collect()
    }

    fn name(&self, place: &StanzaPlace, index: bool, number: u32) -> String {
        pack_name(place, &self.label, (self.layer.attempt, index, number))
    }
}

/// All layers, in the order of backups; those of a backup oldest first.
pub(super) struct Cases {
    pub(super) all: Vec<LayerCase>,
    /// The place of the first layer of each backup.
    first: BTreeMap<BackupLabel, usize>,
}

impl Cases {
    pub(super) fn of<'a>(place: &StanzaPlace, backups: impl Iterator<Item = &'a Arc<Backup>>) -> Self {
        let (mut all, mut first) = (Vec::new(), BTreeMap::new());
        for backup in backups {
            first.insert(backup.summary.label, all.len());
            all.extend(LayerCase::all_of(place, backup));
        }
        Self { all, first }
    }

    fn first_of(&mut self, label: BackupLabel) -> Option<&mut LayerCase> {
        self.first.get(&label).and_then(|first| self.all.get_mut(*first))
    }

    /// The layers of a chain, newest first, as a merge has them.
    pub(super) fn of_chain(&self, chain: &[Arc<Backup>]) -> Vec<&LayerCase> {
        let of = |backup: &Arc<Backup>| {
            let first = self.first.get(&backup.summary.label).copied().unwrap_or(usize::MAX);
            let count = backup.body.layers.len();
            self.all.get(first..first.saturating_add(count)).unwrap_or_default().iter().rev()
        };
        chain.iter().flat_map(of).collect()
    }
}

/// Something that the walk came to.
enum Step {
    Data {
        case: usize,
        wanted: Wanted,
    },
    Index {
        case: usize,
        number: u32,
        size: u64,
    },
    /// The frame table cannot be read from here on.
    TableBroken {
        case: usize,
        stream: u64,
        error: Error,
    },
    /// The index cannot be read.
    IndexBroken {
        case: usize,
        error: Error,
    },
    /// The two do not agree.
    Disagree {
        case: usize,
        text: &'static str,
    },
}

/// A pack that was looked at.
struct Looked {
    step: Step,
    bytes: u64,
    faults: Result<Vec<Fault>>,
}

impl Verify<'_> {
    /// Reads the packs that are due, and notes what is wrong in findings and cases.
    pub(super) async fn packs(&mut self, cases: &mut Cases, due: &Due) -> Result<()> {
        let (to, coming) = mpsc::channel::<Step>(WAITING);
        let layers: Vec<_> = cases.all.iter().map(|case| (case.label, Arc::clone(&case.layer))).collect();
        let walk = Walk { host: self.host.clone(), place: self.place.clone(), due: due.clone(), to };
        let walk = tokio::task::spawn_blocking({
            let runtime = Handle::current();
            move || walk.run(&layers, &runtime)
        });
        let keys: Arc<Vec<LayerKeys>> = Arc::new(cases.all.iter().map(|case| case.keys.clone()).collect());
        let cores = Arc::new(Semaphore::new(self.request.threads.max(1)));
        let (place, labels) = (self.place, Arc::new(cases.all.iter().map(|c| c.label).collect::<Vec<_>>()));
        let look = |step: Step| {
            let (keys, cores, labels) = (Arc::clone(&keys), Arc::clone(&cores), Arc::clone(&labels));
            async move { look(place, &labels, &keys, &cores, step).await }
        };
        let steps = futures::stream::unfold(coming, |mut coming| async move {
            coming.recv().await.map(|step| (step, coming))
        });
        let mut looked = Box::pin(steps.map(look).buffer_unordered(self.at_once()));
        while let Some(looked) = looked.next().await {
            self.host.stop.check()?;
            self.take(cases, looked).await?;
        }
        drop(looked);
        let walked = walk.await.map_err(|_| Error::Internal { what: "walking the indexes panicked" })?;
        cases.all.iter_mut().for_each(|case| case.harm.settle());
        walked
    }

    async fn take(&mut self, cases: &mut Cases, looked: Looked) -> Result<()> {
        let Looked { step, bytes, faults } = looked;
        match &step {
            Step::TableBroken { case, stream, error } => {
                let number = self.broken(cases, *case, "its frame table", error)?;
                if let Some(case) = cases.all.get_mut(*case) {
                    case.harm.add(*stream..u64::MAX, Cause::Other, number);
                }
                return Ok(());
            }
            // Who reads the list of files over this layer finds it, too, and is hurt.
            Step::IndexBroken { case, error } => {
                return self.broken(cases, *case, "its index", error).map(drop);
            }
            Step::Disagree { case, text } => {
                if let Some(case) = cases.all.get_mut(*case) {
                    let object = manifest_name(self.place, &case.label);
                    case.harm.blocks.insert(self.findings.add(FindingKind::IndexDamaged, object, *text));
                }
                return Ok(());
            }
            Step::Data { .. } | Step::Index { .. } => {}
        }
        self.counts.packs += 1;
        self.counts.bytes += bytes;
        self.progress();
        let (case, index, number, range) = match &step {
            Step::Data { case, wanted } => (*case, false, wanted.frames.pack, Some(wanted.range())),
            Step::Index { case, number, .. } => (*case, true, *number, None),
            _ => return Ok(()),
        };
        let Some(case) = cases.all.get_mut(case) else { return Ok(()) };
        let object = case.name(self.place, index, number);
        let faults = match faults {
            Ok(faults) => faults,
            Err(error) => vec![self.unread(error, range).await?],
        };
        let unit = Unit::pack(case.label, case.layer.attempt, index, number);
        if faults.is_empty() {
            self.budget.verified(&unit);
            return Ok(());
        }
        self.budget.damaged(&unit);
        self.note(case, &object, faults);
        Ok(())
    }

    /// An index or frame table that cannot be read: where the repository fails, all ends.
    fn broken(&mut self, cases: &Cases, case: usize, what: &str, error: &Error) -> Result<usize> {
        match cases.all.get(case) {
            Some(case) => self.unread_node(case, what, error),
            None => Err(Error::Internal { what: "an unknown layer" }),
        }
    }

    fn unread_table(&mut self, case: &LayerCase, error: &Error) -> Result<usize> {
        self.unread_node(case, "its frame table", error)
    }

    fn unread_node(&mut self, case: &LayerCase, what: &str, error: &Error) -> Result<usize> {
        let missing = matches!(error, Error::Repo(error) if error.is_not_found());
        if !missing && !is_unreadable(error) {
            return Err(Error::Unusable { reason: with_causes(error) });
        }
        let object = manifest_name(self.place, &case.label);
        let text = format!("{what} cannot be read: {}", with_causes(error));
        Ok(self.findings.add(FindingKind::IndexDamaged, object, text))
    }

    /// Notes what is wrong with a pack: one finding of each kind.
    fn note(&mut self, case: &mut LayerCase, object: &str, faults: Vec<Fault>) {
        let mut texts: BTreeMap<FindingKind, (String, usize)> = BTreeMap::new();
        let kind = |cause| match cause {
            Cause::Missing => FindingKind::PackMissing,
            Cause::Size => FindingKind::PackSize,
            Cause::Other | Cause::Checksum => FindingKind::PackDamaged,
        };
        for fault in &faults {
            texts.entry(kind(fault.cause)).or_insert_with(|| (fault.text.clone(), 0)).1 += 1;
        }
        let mut numbers = BTreeMap::new();
        for (kind, (mut text, count)) in texts {
            if count > 1 {
                text.push_str(&format!("; {} more like it", count - 1));
            }
            numbers.insert(kind, self.findings.add(kind, object, text));
        }
        for fault in faults {
            let Some(number) = numbers.get(&kind(fault.cause)).copied() else { continue };
            if matches!(fault.cause, Cause::Missing | Cause::Size) {
                case.harm.blocks.insert(number);
            }
            if let Some(range) = fault.range {
                case.harm.add(range, fault.cause, number);
            }
        }
    }

    /// Why a pack could not be read, where the repository can be.
    async fn unread(&mut self, error: Error, range: Option<Range<u64>>) -> Result<Fault> {
        let missing = matches!(&error, Error::Repo(error) if error.is_not_found());
        if missing {
            return Ok(Fault { cause: Cause::Missing, range, text: "it is missing".to_owned() });
        }
        if is_unreadable(&error) {
            return Ok(Fault { cause: Cause::Size, range, text: with_causes(&error) });
        }
        let text = self.unreadable(error).await?;
        Ok(Fault { cause: Cause::Other, range, text })
    }

    /// Compares the listing with the index packs that the manifests name.
    pub(super) fn index_sizes(&mut self, cases: &mut Cases) {
        for case in &mut cases.all {
            let found = self.packs_of(case.label, case.layer.attempt, true);
            let wanted: Vec<(u32, u64)> = (0..).zip(case.layer.index_packs.iter().copied()).collect();
            self.compare(case, true, &found, &wanted);
        }
    }

    /// Compares it with the data packs that they name. A manifest says how many there are and what all have together; what each has is read
    /// where broken runs had a part in it, which may lack some.
    pub(super) async fn data_sizes(&mut self, cases: &mut Cases, backups: &[Arc<Backup>]) -> Result<()> {
        for backup in backups {
            let label = backup.summary.label;
            if let ([layer], Some(case)) = (backup.body.layers.as_slice(), cases.first_of(label)) {
                let found = self.packs_of(label, layer.attempt, false);
                let wanted = (0..layer.data_packs).filter(|number| !found.contains_key(number));
                let missing: Vec<(u32, u64)> =
                    wanted.clone().take(MAX_MISSING).map(|number| (number, 0)).collect();
                self.compare(case, false, &found, &missing);
                let more = wanted.count() - missing.len();
                if more > 0 {
                    let text = format!("{more} more of its packs are missing");
                    let fault = Fault { cause: Cause::Missing, range: None, text };
                    self.note(case, &manifest_name(self.place, &label), vec![fault]);
                }
                let own: u64 = found.range(..layer.data_packs).map(|(_, size)| *size).sum();
                let index: u64 = layer.index_packs.iter().sum();
                let all = own.saturating_add(index);
                let said = backup.summary.sizes.stored_delta;
                if all != said && missing.is_empty() {
                    let text = format!("the packs of the backup have {all} bytes together, not {said}");
                    let fault = Fault { cause: Cause::Size, range: None, text };
                    self.note(case, &manifest_name(self.place, &label), vec![fault]);
                }
                continue;
            }
            for case in cases.all.iter_mut().filter(|case| case.label == label) {
                let wanted = match pack_sizes(self.host, self.place, label, &case.layer).await {
                    Ok(wanted) => wanted,
                    Err(error) => {
                        let number = self.unread_table(case, &error)?;
                        case.harm.blocks.insert(number);
                        continue;
                    }
                };
                let found = self.packs_of(label, case.layer.attempt, false);
                self.compare(case, false, &found, &wanted);
            }
        }
        Ok(())
    }

    /// Counts the packs for what a budget has left.
    pub(super) fn count_packs(&mut self, cases: &Cases) {
        for case in &cases.all {
            for index in [true, false] {
                for number in self.packs_of(case.label, case.layer.attempt, index).into_keys() {
                    self.budget.count(&Unit::pack(case.label, case.layer.attempt, index, number));
                }
            }
        }
    }

    /// The packs of a run in the listing, by number, with their sizes.
    fn packs_of(&self, label: BackupLabel, attempt: u64, index: bool) -> BTreeMap<u32, u64> {
        let packs = self.stock.labels.get(&label).map(|objects| objects.packs.as_slice()).unwrap_or_default();
        let own = packs.iter().filter(|pack| (pack.attempt, pack.index) == (attempt, index));
        own.map(|pack| (pack.number, pack.size)).collect()
    }

    fn compare(
        &mut self,
        case: &mut LayerCase,
        index: bool,
        found: &BTreeMap<u32, u64>,
        wanted: &[(u32, u64)],
    ) {
        for (number, size) in wanted {
            let (cause, text) = match found.get(number) {
                Some(found) if found == size => continue,
                Some(found) => (Cause::Size, format!("it has {found} bytes, not {size}")),
                None => (Cause::Missing, "it is missing".to_owned()),
            };
            let object = case.name(self.place, index, *number);
            self.note(case, &object, vec![Fault { cause, range: None, text }]);
        }
    }

    /// How many objects are on their way or looked at, at once.
    pub(super) fn at_once(&self) -> usize {
        let threads = self.request.threads.max(1);
        // A store elsewhere takes its time for each request.
        if self.place.repo.store().is_local() { threads + 1 } else { (2 * threads).max(4) }
    }
}

/// Fetches a pack and looks at it. What is no pack is passed on.
async fn look(
    place: &StanzaPlace,
    labels: &[BackupLabel],
    keys: &Arc<Vec<LayerKeys>>,
    cores: &Semaphore,
    step: Step,
) -> Looked {
    let (case, index, number) = match &step {
        Step::Data { case, wanted } => (*case, false, wanted.frames.pack),
        Step::Index { case, number, .. } => (*case, true, *number),
        _ => return Looked { step, bytes: 0, faults: Ok(Vec::new()) },
    };
    let attempt = keys.get(case).map(LayerKeys::attempt).unwrap_or_default();
    let Some(label) = labels.get(case) else {
        return Looked { step, bytes: 0, faults: Err(Error::Internal { what: "an unknown layer" }) };
    };
    let object = match place.backups.get_pack(label, attempt, number, index).await {
        Ok(object) => object,
        Err(error) => return Looked { step, bytes: 0, faults: Err(error.into()) },
    };
    let bytes = object.len() as u64;
    // A semaphore that is never closed gives its permits.
    let _core = cores.acquire().await.ok();
    let keys = Arc::clone(keys);
    let checked = tokio::task::spawn_blocking(move || {
        let faults = keys.get(case).map(|keys| check(keys, &step, &object));
        (step, faults.unwrap_or_default())
    });
    match checked.await {
        Ok((step, faults)) => Looked { step, bytes, faults: Ok(faults) },
        Err(_) => Looked {
            step: Step::Disagree { case, text: "" },
            bytes: 0,
            faults: Err(Error::Internal { what: "looking at a pack panicked" }),
        },
    }
}

fn check(keys: &LayerKeys, step: &Step, object: &Bytes) -> Vec<Fault> {
    match step {
        Step::Data { wanted, .. } => keys.check_data(wanted, object),
        Step::Index { number, size, .. } => keys.check_index(*number, *size, object),
        _ => Vec::new(),
    }
}

/// Goes through the layers, one after the other.
struct Walk {
    host: Host,
    place: StanzaPlace,
    due: Due,
    to: mpsc::Sender<Step>,
}

impl Walk {
    fn run(&self, layers: &[(BackupLabel, Arc<Layer>)], runtime: &Handle) -> Result<()> {
        for (case, (label, layer)) in layers.iter().enumerate() {
            for (number, size) in (0..).zip(layer.index_packs.iter().copied()) {
                if self.due.takes(&Unit::pack(*label, layer.attempt, true, number), size) {
                    self.step(Step::Index { case, number, size })?;
                }
            }
            if self.due.may_take_data(*label, layer.attempt, layer.data_packs) {
                self.layer(case, *label, layer, runtime)?;
            }
        }
        Ok(())
    }

    fn step(&self, step: Step) -> Result<()> {
        self.host.stop.check()?;
        // Who listens goes away when the command has failed already.
        self.to.blocking_send(step).map_err(|_| Error::Stopped)
    }

    fn layer(&self, case: usize, label: BackupLabel, layer: &Arc<Layer>, runtime: &Handle) -> Result<()> {
        let mut nodes = LayerNodes::new(&self.place, label, layer, runtime.clone());
        let mut table = FrameCursor::new(layer.frames);
        let mut index = Expected::new(&self.place, label, layer, runtime);
        let (mut open, mut seen): (Option<Wanted>, BTreeSet<u32>) = (None, BTreeSet::new());
        let mut stream = 0;
        loop {
            self.host.stop.check()?;
            let frame = match table.next_frame(&mut nodes) {
                Ok(frame) => frame,
                Err(error) => {
                    self.close(case, label, layer, open.take(), &mut index)?;
                    return self.step(Step::TableBroken { case, stream, error });
                }
            };
            if open.as_ref().is_some_and(|open| frame.is_none_or(|frame| open.frames.pack != frame.pack)) {
                self.close(case, label, layer, open.take(), &mut index)?;
            }
            let Some(frame) = frame else { break };
            if open.is_none() && !seen.insert(frame.pack) {
                let text = "its frame table comes back to a pack";
                self.step(Step::Disagree { case, text })?;
            }
            let open = open.get_or_insert_with(|| begin(&frame));
            open.frames.frames.push((frame.raw_len, frame.len));
            stream = frame.stream + u64::from(frame.raw_len);
        }
        match index.rest() {
            Err(error) => self.step(Step::IndexBroken { case, error }),
            Ok(length) if (length, stream) != (layer.stream, layer.stream) && !index.failed => {
                let text =
                    "its index, its frame table and its manifest do not agree on the length of the stream";
                self.step(Step::Disagree { case, text })
            }
            Ok(_) => Ok(()),
        }
    }

    fn close(
        &self,
        case: usize,
        label: BackupLabel,
        layer: &Layer,
        open: Option<Wanted>,
        index: &mut Expected,
    ) -> Result<()> {
        let Some(mut wanted) = open else { return Ok(()) };
        if !index.failed {
            match index.take(wanted.range().end) {
                Ok(spans) => wanted.spans = Some(spans),
                Err(error) => self.step(Step::IndexBroken { case, error })?,
            }
        }
        let unit = Unit::pack(label, layer.attempt, false, wanted.frames.pack);
        match self.due.takes(&unit, wanted.frames.pack_size) {
            true => self.step(Step::Data { case, wanted }),
            false => Ok(()),
        }
    }
}

fn begin(frame: &FramePlace) -> Wanted {
    let frames = PackFrames {
        pack: frame.pack,
        pack_size: frame.pack_size,
        lane: frame.lane,
        offset: frame.offset,
        first: frame.number,
        frames: Vec::new(),
    };
    Wanted { frames, stream: frame.stream, spans: None }
}

/// The grains of a layer in the order of the stream, as its index has them.
struct Expected {
    label: BackupLabel,
    nodes: LayerNodes,
    cursor: IndexCursor,
    file: Option<(Arc<RelPath>, u64)>,
    /// What was read and not yet taken.
    left: Option<Span>,
    stream: u64,
    /// Whether the index cannot be read any further.
    failed: bool,
}

impl Expected {
    fn new(place: &StanzaPlace, label: BackupLabel, layer: &Arc<Layer>, runtime: &Handle) -> Self {
        let nodes = LayerNodes::new(place, label, layer, runtime.clone());
        Self {
            label,
            nodes,
            cursor: IndexCursor::new(layer.index),
            file: None,
            left: None,
            stream: 0,
            failed: false,
        }
    }

    /// The grains up to this place in the stream; fewer where the index ends.
    fn take(&mut self, end: u64) -> Result<Vec<Span>> {
        let (mut spans, mut grains) = (Vec::new(), 0);
        while self.stream < end {
            let Some(mut span) = self.next()? else { break };
            let (mut count, total) = (0, span.hashes.len());
            while count < total && self.stream < end {
                let len = grain_len(span.size, span.grain.saturating_add(count as u64));
                // A length of nothing would never end; whoever looks at the pack finds it.
                self.stream = self.stream.saturating_add(len.max(1));
                count += 1;
            }
            let rest = span.hashes.split_off(count);
            if !rest.is_empty() {
                let grain = span.grain.saturating_add(count as u64);
                self.left = Some(Span { path: Arc::clone(&span.path), size: span.size, grain, hashes: rest });
            }
            grains += count;
            if grains > MAX_GRAINS {
                self.failed = true;
                let reason = format!("its index has more than {MAX_GRAINS} grains in one pack");
                return Err(Error::Damaged { label: self.label, reason });
            }
            spans.push(span);
        }
        Ok(spans)
    }

    fn next(&mut self) -> Result<Option<Span>> {
        if let Some(span) = self.left.take() {
            return Ok(Some(span));
        }
        loop {
            let placed = self.cursor.next_record(&mut self.nodes).inspect_err(|_| self.failed = true)?;
            let Some(placed) = placed else { return Ok(None) };
            match placed.record {
                Record::File(file) => self.file = Some((Arc::new(file.path), file.size)),
                Record::Grains { hashes, .. } => {
                    let Some((path, size)) = self.file.clone() else {
                        return Err(Error::Internal { what: "an index gives grains without a file" });
                    };
                    return Ok(Some(Span { path, size, grain: placed.grain, hashes }));
                }
                _ => {}
            }
        }
    }

    /// Reads to the end. Gives the length of the stream.
    fn rest(&mut self) -> Result<u64> {
        if self.failed {
            return Ok(self.stream);
        }
        while let Some(span) = self.next()? {
            let bytes = (span.grain..).take(span.hashes.len()).map(|grain| grain_len(span.size, grain));
            self.stream = self.stream.saturating_add(bytes.sum());
        }
        Ok(self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_touches_a_part_is_found() {
        let mut harm = Harm::default();
        for (range, finding) in [(30..40, 1), (0..10, 2), (10..12, 2), (5..6, 3), (35..100, 4), (50..60, 5)] {
            harm.add(range, Cause::Checksum, finding);
        }
        harm.settle();
        for (range, wanted) in [
            (0..1, vec![2]),
            (5..6, vec![2, 3]),
            (11..30, vec![2]),
            (12..30, vec![]),
            (39..40, vec![1, 4]),
            (40..41, vec![4]),
            (55..200, vec![4, 5]),
            (70..71, vec![4]),
            (100..200, vec![]),
            (0..u64::MAX, vec![2, 3, 1, 4, 5]),
        ] {
            assert_eq!(
                harm.of(range.clone()).map(|(_, finding)| finding).collect::<Vec<_>>(),
                wanted,
                "{range:?}"
            );
        }
    }

    #[test]
    fn parts_are_bounded() {
        let mut harm = Harm::default();
        for number in 0..MAX_PARTS as u64 + 10 {
            harm.add(4 * number..4 * number + 2, Cause::Checksum, 0);
        }
        harm.settle();
        assert_eq!(harm.parts.len(), MAX_PARTS);
        let last = 4 * (MAX_PARTS as u64 + 9);
        assert!(harm.of(last..last + 1).next().is_some() && harm.of(2..4).next().is_none());
    }
}
