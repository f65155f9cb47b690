//! Backups of the model, and broken runs, as the engine makes them: a scan side by side with the parent's resolved list.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::model::{Body, Dice, Disk, File, Grain, Lies, Node, Shown, View, hash, key};
use crate::diff::{EntryWriter, Outcome, ParentFile, ReadPlan, Written, plan_read};
use crate::hash::{FileDigest, GRAIN};
use crate::index::shelf::Shelf;
use crate::index::{Fields, FileRecord, IndexCursor, IndexWriter, Meta, Record, Root};
use crate::merge::{Entry, Item, Known, Merge, MergeReader};
use crate::{RelPath, Result};

/// One layer: its index, and what its stream holds at each place.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) shelf: Shelf,
    pub(super) root: Option<Root>,
    pub(super) stream: HashMap<u64, Grain>,
    pub(super) len: u64,
}

impl Layer {
    fn store(&mut self, grain: Grain) {
        assert_ne!(grain.0, 0, "zeros are stored");
        self.stream.insert(self.len, grain);
        self.len += grain.1;
    }
}

/// Layers, newest first.
pub(super) type Chain = Vec<Rc<Layer>>;

pub(super) fn merge(chain: &[Rc<Layer>]) -> Merge<&Shelf> {
    Merge::new(chain.iter().map(|layer| (layer.root, &layer.shelf)))
}

/// What a chain comes to by its indexes and streams.
pub(super) fn resolve(chain: &[Rc<Layer>]) -> Result<View> {
    let mut merge = merge(chain);
    let mut view = View::new();
    let (mut link, mut open): (Linked, _) = (None, None);
    let mut reached = vec![0; chain.len()];
    while let Some(item) = merge.next_item()? {
        let path = match &item {
            Item::Link { path, .. } | Item::Directory { path, .. } | Item::File(FileRecord { path, .. }) => {
                Some(path)
            }
            _ => None,
        };
        if let (Some((of, ..)), Some(path)) = (&link, path)
            && of != path
        {
            show(&mut view, of.clone(), link.take(), Body::Nothing);
        }
        match item {
            Item::Link { path, meta, target } => link = Some((path, meta, target)),
            Item::Directory { path, meta } => {
                show(&mut view, path, link.take(), Body::Directory(meta));
            }
            Item::File(record) => open = Some((record, Vec::new())),
            Item::End(end) => {
                let (record, grains): (FileRecord, _) = open.take().expect("a file is open");
                show(&mut view, record.path.clone(), link.take(), Body::File { record, grains, end });
            }
            run => {
                let (record, grains) = open.as_mut().expect("a file is open");
                take_run(run, record, grains, chain, &mut reached);
            }
        }
    }
    if let Some((of, ..)) = &link {
        show(&mut view, of.clone(), link.take(), Body::Nothing);
    }
    assert!(open.is_none(), "the list ends inside a file");
    Ok(view)
}

/// A link whose end has not come yet.
type Linked = Option<(RelPath, Meta, Vec<u8>)>;

fn show(view: &mut View, path: RelPath, link: Linked, body: Body) {
    assert!(view.last_key_value().is_none_or(|(last, _)| *last < path), "{path} is out of order");
    let link = link.map(|(of, meta, target)| {
        assert_eq!(of, path, "a link leads to another path");
        (meta, target)
    });
    view.insert(path, Shown { link, body });
}

/// Appends a run to the grains of a file, by what the streams hold.
fn take_run(
    run: Item,
    record: &FileRecord,
    grains: &mut Vec<Option<Grain>>,
    chain: &[Rc<Layer>],
    reached: &mut [u64],
) {
    let at = grains.len() as u64;
    let len = |grain: u64| (record.size - grain * GRAIN as u64).min(GRAIN as u64);
    match run {
        Item::Grains { source, grain, stream, hashes } => {
            assert_eq!(grain, at, "a run is out of place");
            assert!(stream >= reached[source], "the stream of source {source} goes back");
            for (n, expected) in (0..).zip(hashes) {
                let found = chain[source].stream[&(stream + n * GRAIN as u64)];
                assert_eq!((hash(found), found.1), (expected, len(at + n)));
                grains.push(Some(found));
            }
            reached[source] = stream + 1;
        }
        Item::Zeros { grain, count } => {
            assert_eq!(grain, at, "a run is out of place");
            grains.extend((at..at + count).map(|n| Some((0, len(n)))));
        }
        Item::Absent { grain, count } => {
            assert_eq!(grain, at, "a run is out of place");
            grains.extend((0..count).map(|_| None));
        }
        _ => panic!("an entry inside a file"),
    }
}

/// What a backup builds on.
pub(super) struct Base<'a> {
    /// Newest first.
    pub(super) chain: &'a [Rc<Layer>],
    /// How many of the newest are of broken runs.
    pub(super) broken: usize,
    /// What it comes to.
    pub(super) view: &'a View,
    /// When the parent began to copy; none where everything is to be read.
    pub(super) copy_start_ns: Option<i64>,
    /// Whether a file is compared with the parent's where one of the two is behind a link.
    pub(super) through_links: bool,
}

/// One run over the file system.
struct Run<'a> {
    base: &'a Base<'a>,
    writer: EntryWriter,
    reader: MergeReader<&'a Shelf>,
    layer: Layer,
    /// The last path that was said to be gone.
    gone: Option<RelPath>,
    distrust: bool,
    dice: Dice,
}

/// Makes a backup of `disk` on top of `base`.
pub(super) fn back_up(disk: &Disk, base: &Base<'_>, dice: Dice) -> Result<(Layer, Written)> {
    let mut run = Run {
        base,
        writer: EntryWriter::new(key()),
        reader: MergeReader::new(merge(base.chain)),
        layer: Layer::default(),
        gone: None,
        distrust: base.copy_start_ns.is_none(),
        dice,
    };
    for (path, node) in &disk.nodes {
        run.pass(Some(path))?;
        run.node(path, node)?;
    }
    run.pass(None)?;
    let mut layer = run.layer;
    let written = run.writer.finish(&mut layer.shelf)?;
    assert_eq!(written.stream, layer.len);
    layer.root = written.index;
    Ok((layer, written))
}

impl Run<'_> {
    /// What the parent has up to here is gone.
    fn pass(&mut self, upto: Option<&RelPath>) -> Result<()> {
        while let Some(path) = self.reader.pass_before(upto)? {
            if self.gone.as_ref().is_none_or(|gone| !path.is_within(gone)) {
                self.writer.removed(&mut self.layer.shelf, path.clone())?;
                self.gone = Some(path);
            }
        }
        Ok(())
    }

    fn node(&mut self, path: &RelPath, node: &Node) -> Result<()> {
        let mut had = self.reader.take(path)?;
        let had_link = matches!(had, Some(Entry::Link { .. }));
        if had_link {
            had = self.reader.take(path)?;
        }
        if let Some((meta, target)) = &node.link {
            self.writer.link(&mut self.layer.shelf, path.clone(), meta.clone(), target.clone())?;
        }
        let alike = had_link == node.link.is_some();
        match (&node.body, had) {
            (Lies::File(file), had) if file.vanishes => {
                let hides = node.link.is_none() && (had_link || had.is_some());
                if let Some(Entry::File(_)) = had {
                    self.reader.end()?;
                }
                if hides { self.writer.removed(&mut self.layer.shelf, path.clone()) } else { Ok(()) }
            }
            (Lies::Directory(meta), had) => {
                let same = node.link.is_none() && alike && had == Some(Entry::Directory(meta.clone()));
                if let Some(Entry::File(_)) = had {
                    self.reader.end()?;
                }
                self.writer.directory(&mut self.layer.shelf, path.clone(), meta.clone(), same)
            }
            (Lies::File(file), Some(Entry::File(record))) if alike || self.base.through_links => {
                self.known_file(path, file, record, node.link.is_some() || !alike)
            }
            (Lies::File(file), had) => {
                if let Some(Entry::File(_)) = had {
                    self.reader.end()?;
                }
                self.file(path, file, None, &[], false)
            }
        }
    }

    /// A file that the parent has.
    fn known_file(&mut self, path: &RelPath, file: &File, record: FileRecord, forced: bool) -> Result<()> {
        let (now, ..) = file.read(path);
        let plan = match self.base.copy_start_ns {
            Some(copy_start_ns) if !self.distrust => plan_read(&record, &now, copy_start_ns),
            _ => ReadPlan::Read,
        };
        self.distrust |= matches!(plan, ReadPlan::Distrust(_));
        let finished = self.reader.source().expect("a file is open") >= self.base.broken;
        if plan == ReadPlan::Skip && finished {
            let few = self.dice.pick(4);
            self.reader.grains(few)?;
            let end = self.reader.end()?;
            let kept = (forced || record != now).then_some(now);
            return self.writer.unread(&mut self.layer.shelf, path, &end, kept);
        }
        let known = self.parent_grains(path)?;
        let end = Some(self.reader.end()?).filter(|end| end.digest != FileDigest::default());
        assert_eq!(end.is_some(), finished);
        self.file(path, file, Some(ParentFile { record, end }), &known, forced)
    }

    /// All grains of the parent's file, by runs of any length.
    fn parent_grains(&mut self, path: &RelPath) -> Result<Known> {
        let mut known = Known::new();
        loop {
            let count = self.dice.pick(9) + usize::from(self.dice.roll(5) == 0) * 5000;
            let run = self.reader.grains(count)?;
            let ended = run.len() < count;
            known.extend(run);
            if ended {
                break;
            }
        }
        let Some(Shown { body: Body::File { grains, .. }, .. }) = self.base.view.get(path) else {
            panic!("{path} is no file in the parent");
        };
        assert_eq!(known, grains.iter().map(|grain| grain.map(hash)).collect::<Known>());
        Ok(known)
    }

    fn file(
        &mut self,
        path: &RelPath,
        file: &File,
        parent: Option<ParentFile>,
        known: &[Option<u64>],
        forced: bool,
    ) -> Result<()> {
        let (record, grains, end) = file.read(path);
        let (layer, new) = (&mut self.layer, parent.is_none());
        self.writer.begin(&mut layer.shelf, Arc::new(record), parent)?;
        let hashes: Vec<_> = grains.iter().map(|grain| hash(*grain)).collect();
        let mut at = 0;
        while at < hashes.len() {
            let to = (at + 1 + self.dice.pick(12)).min(hashes.len());
            let known = known.get(at..to.min(known.len())).unwrap_or_default();
            let (first, stretches) = self.writer.run(&mut layer.shelf, &hashes[at..to], known)?;
            assert_eq!(first, at as u64);
            stretches.into_iter().flatten().for_each(|n| layer.store(grains[at + n]));
            at = to;
        }
        let outcome = self.writer.end(&mut layer.shelf, end.size, end.bad_pages, forced)?;
        assert_eq!(outcome == Outcome::New, new);
        Ok(())
    }
}

/// How many grains differ from those of the parent.
pub(super) fn cost(disk: &Disk, base: &Base<'_>) -> usize {
    let of_file = |(path, node): (&RelPath, &Node)| {
        let Lies::File(file) = &node.body else { return 0 };
        if file.vanishes {
            return 0;
        }
        let old = match base.view.get(path) {
            Some(Shown { link, body: Body::File { grains, .. } })
                if base.through_links || link.is_some() == node.link.is_some() =>
            {
                grains.as_slice()
            }
            _ => &[],
        };
        let (_, grains, _) = file.read(path);
        let stored = |(n, grain): &(usize, Grain)| grain.0 != 0 && old.get(*n) != Some(&Some(*grain));
        grains.into_iter().enumerate().filter(stored).count()
    };
    disk.nodes.iter().map(of_file).sum()
}

/// What is known of a run that broke when it had stored `most` grains: its files and their stored grains, from its packs alone.
pub(super) fn broken(whole: &Layer, most: u64) -> Result<Layer> {
    let mut layer = Layer { stream: whole.stream.clone(), ..Layer::default() };
    let (mut writer, mut cursor) = (IndexWriter::new(), IndexCursor::new(whole.root));
    let (mut file, mut at, mut left) = (None, 0, usize::try_from(most).unwrap());
    let mut open: Option<FileRecord> = None;
    while let Some(placed) = cursor.next_record(&mut &whole.shelf)? {
        match placed.record {
            Record::File(record) => (file, at) = (Some(record), 0),
            Record::Grains { mut hashes, .. } if left > 0 => {
                hashes.truncate(left);
                left -= hashes.len();
                if let Some(record) = file.take() {
                    writer.push(&mut layer.shelf, Record::File(record.clone()))?;
                    open = Some(record);
                }
                let (gap, next) = (placed.grain - at, placed.grain + hashes.len() as u64);
                writer.push(&mut layer.shelf, Record::Grains { gap, hashes })?;
                at = next;
            }
            Record::End(_) => {
                if let Some(record) = open.take() {
                    let end = Fields { size: record.size, ..Fields::default() };
                    writer.push(&mut layer.shelf, Record::End(end))?;
                }
                file = None;
            }
            _ => {}
        }
    }
    (layer.root, layer.len) = writer.finish(&mut layer.shelf)?;
    Ok(layer)
}

/// What `view` comes to with a broken run's layer on top.
pub(super) fn overlay(view: &View, layer: &Layer) -> Result<View> {
    let mut view = view.clone();
    let mut cursor = IndexCursor::new(layer.root);
    let mut open: Option<(FileRecord, Vec<Option<Grain>>)> = None;
    while let Some(placed) = cursor.next_record(&mut &layer.shelf)? {
        match placed.record {
            Record::File(record) => {
                let old = match view.get(&record.path) {
                    Some(Shown { body: Body::File { record: old, grains, .. }, .. })
                        if !record.flags.whole =>
                    {
                        let clip = if old.size == record.size { u64::MAX } else { old.size.min(record.size) };
                        let clip = usize::try_from(clip / GRAIN as u64).unwrap().min(grains.len());
                        if old.size == record.size { grains.clone() } else { grains[..clip].to_vec() }
                    }
                    _ => Vec::new(),
                };
                let mut grains = old;
                grains.resize(usize::try_from(record.size.div_ceil(GRAIN as u64)).unwrap(), None);
                open = Some((record, grains));
            }
            Record::Grains { hashes, .. } => {
                let (_, grains) = open.as_mut().expect("a file is open");
                for n in 0..hashes.len() {
                    let place = placed.stream + (n * GRAIN) as u64;
                    grains[usize::try_from(placed.grain).unwrap() + n] = Some(layer.stream[&place]);
                }
            }
            Record::End(end) => {
                let (mut record, grains) = open.take().expect("a file is open");
                record.flags.whole = true;
                let path = record.path.clone();
                view.insert(path, Shown { link: None, body: Body::File { record, grains, end } });
            }
            other => panic!("a broken run has {other:?}"),
        }
    }
    Ok(view)
}
