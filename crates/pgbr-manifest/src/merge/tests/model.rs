//! A small file system that changes at random, and what a backup of it must come to.

use std::collections::BTreeMap;

use crate::hash::{FileDigester, GRAIN, HashKey, ListDigester, ZERO_GRAIN};
use crate::index::{BadPages, Fields, FileFlags, FileRecord, Meta};
use crate::{Digest, RelPath};

const G: u64 = GRAIN as u64;
/// Names whose order is not that of their bytes once they are in a path.
const NAMES: [&str; 12] = [
    "a",
    "a-b",
    "a.b",
    "a0",
    "b",
    "global",
    "pg_control",
    "pg_wal",
    "00000001000000000000000A",
    "00000001000000000000000B",
    "\u{1}",
    "zz",
];

/// A grain: a number that stands for what it holds (0: zeros), and its length in bytes.
pub(super) type Grain = (u64, u64);

/// The key of all chains here.
pub(super) fn key() -> HashKey {
    HashKey::from_bytes([3; 32])
}

/// The hash of a grain.
pub(super) fn hash((id, len): Grain) -> u64 {
    match id {
        0 => ZERO_GRAIN,
        _ => key().grain(&[id.to_le_bytes(), len.to_le_bytes()].concat()),
    }
}

/// The grains of a file of `size` bytes that holds `ids`.
fn grains(size: u64, ids: &[u64]) -> Vec<Grain> {
    (0..).zip(ids).map(|(n, id)| (*id, (size - n * G).min(G))).collect()
}

/// Numbers that only look random.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides.max(1)
    }

    pub(super) fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).unwrap()
    }
}

/// What a backup has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) link: Option<(Meta, Vec<u8>)>,
    pub(super) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// What the link led to vanished.
    Nothing,
    Directory(Meta),
    File {
        record: FileRecord,
        /// None where nobody has them.
        grains: Vec<Option<Grain>>,
        end: Fields,
    },
}

/// What a backup has.
pub(super) type View = BTreeMap<RelPath, Shown>;

/// Number of entries and digest of a view.
pub(super) fn list_digest(view: &View) -> (u64, Digest) {
    let mut list = ListDigester::new(&key());
    for (path, shown) in view {
        if let Some((_, target)) = &shown.link {
            list.link(path.as_bytes(), target);
        }
        match &shown.body {
            Body::Nothing => {}
            Body::Directory(_) => list.directory(path.as_bytes()),
            Body::File { end, .. } => list.file(path.as_bytes(), end.size, end.digest),
        }
    }
    list.finish()
}

/// A file as it lies on the disk.
#[derive(Debug, Clone)]
pub(super) struct File {
    meta: Meta,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
    size: u64,
    ids: Vec<u64>,
    /// The size that it comes to while it is read.
    shrinks: Option<u64>,
    /// It is there when it is listed, and not when it is opened.
    pub(super) vanishes: bool,
}

impl File {
    /// What reading it finds.
    pub(super) fn read(&self, path: &RelPath) -> (FileRecord, Vec<Grain>, Fields) {
        let flags = FileFlags { whole: true, control: path.is_pg_control(), ..FileFlags::default() };
        let record = FileRecord {
            path: path.clone(),
            meta: self.meta.clone(),
            size: self.size,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            inode: self.inode,
            flags,
        };
        let size = self.shrinks.unwrap_or(self.size);
        let there = |(n, id): (u64, &u64)| if n * G < size { *id } else { 0 };
        let ids: Vec<_> = (0..).zip(&self.ids).map(there).collect();
        let grains = grains(self.size, &ids);
        let mut digester = FileDigester::new(&key(), self.size);
        let mut bad_pages = BadPages::default();
        for (n, grain) in (0..).zip(&grains) {
            digester.push(hash(*grain));
            if grain.0 % 13 == 5 {
                bad_pages.total += 1;
                if bad_pages.ranges.len() < 3 {
                    bad_pages.ranges.push((n, 1));
                }
            }
        }
        (record, grains, Fields { size, digest: digester.finish(), bad_pages })
    }

    fn resize(&mut self, size: u64, id: u64) {
        (self.size, self.shrinks) = (size, None);
        self.ids.resize(usize::try_from(size.div_ceil(G)).unwrap(), id);
    }
}

/// An entry as it lies on the disk.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) link: Option<(Meta, Vec<u8>)>,
    pub(super) body: Lies,
}

#[derive(Debug, Clone)]
pub(super) enum Lies {
    Directory(Meta),
    File(File),
}

/// One change: what, where, how.
pub(super) type Change = (u8, u32, u32);

/// How many kinds of changes there are.
pub(super) const CHANGES: u8 = 13;

/// The file system.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) nodes: BTreeMap<RelPath, Node>,
    /// In nanoseconds since 1970.
    pub(super) now: i64,
    most_grains: u64,
    last: u64,
}

impl Disk {
    /// One with files of up to `most_grains`.
    pub(super) fn new(most_grains: u64, seed: u32) -> Self {
        let mut disk = Self { nodes: BTreeMap::new(), now: 1_000_000_000_000, most_grains, last: 100 };
        let mut dice = Dice::new(seed.into());
        for path in ["pg_data", "pg_data/global", "pg_data/pg_wal"] {
            let body = Lies::Directory(Self::meta(&mut dice));
            disk.nodes.insert(RelPath::new(path).unwrap(), Node { link: None, body });
        }
        let body = Lies::File(disk.new_file(&mut dice));
        disk.nodes.insert(RelPath::new(RelPath::PG_CONTROL).unwrap(), Node { link: None, body });
        for at in 0..seed % 30 {
            disk.put(at, &mut dice);
        }
        disk
    }

    /// What a backup that reads it now has.
    pub(super) fn view(&self) -> View {
        let shown = |(path, node): (&RelPath, &Node)| {
            let body = match &node.body {
                Lies::File(file) if file.vanishes && node.link.is_none() => return None,
                Lies::File(file) if file.vanishes => Body::Nothing,
                Lies::Directory(meta) => Body::Directory(meta.clone()),
                Lies::File(file) => {
                    let (record, grains, end) = file.read(path);
                    Body::File { record, grains: grains.into_iter().map(Some).collect(), end }
                }
            };
            Some((path.clone(), Shown { link: node.link.clone(), body }))
        };
        self.nodes.iter().filter_map(shown).collect()
    }

    /// A backup has read all: files that shrank meanwhile are short now, or gone. True where there were some.
    pub(super) fn settle(&mut self) -> bool {
        let (now, before) = (self.now, self.nodes.len());
        self.nodes.retain(|_, node| !matches!(&node.body, Lies::File(file) if file.vanishes));
        let mut any = self.nodes.len() < before;
        for node in self.nodes.values_mut() {
            if let Lies::File(file) = &mut node.body
                && let Some(size) = file.shrinks.take()
            {
                file.resize(size, 0);
                (file.mtime_ns, file.ctime_ns) = (now, now);
                any = true;
            }
        }
        any
    }

    /// Changes something.
    pub(super) fn change(&mut self, (what, at, how): Change) {
        let mut dice = Dice::new(u64::from(how));
        self.now += i64::from(how % 4) * 1_000_000_000;
        match what % CHANGES {
            0..=2 => self.put(at, &mut dice),
            3 => self.remove(at, &mut dice),
            4 => self.swap(at, &mut dice),
            5 => self.anew(at, &mut dice),
            6 => self.touch(at, &mut dice),
            _ => self.write(what % CHANGES, at, &mut dice),
        }
    }

    fn nth(&self, at: u32, fits: impl Fn(&Node) -> bool) -> Option<RelPath> {
        let paths: Vec<_> = self.nodes.iter().filter(|(_, node)| fits(node)).map(|(path, _)| path).collect();
        paths.get(usize::try_from(at).unwrap() % paths.len().max(1)).map(|path| (*path).clone())
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Content: zeros, one of a few that come again, or one that never was.
    fn content(&mut self, dice: &mut Dice) -> u64 {
        match dice.roll(6) {
            0 | 1 => 0,
            2 | 3 => 1 + dice.roll(6),
            _ => self.next(),
        }
    }

    fn size(&self, dice: &mut Dice) -> u64 {
        let grains = dice.roll(self.most_grains + 1);
        match dice.roll(3) {
            0 => grains * G,
            1 => (grains * G).saturating_sub(dice.roll(G)),
            _ => grains * G / 8 + dice.roll(3),
        }
    }

    fn meta(dice: &mut Dice) -> Meta {
        let name = |n: usize| ["", "postgres", "root"][n].to_owned();
        Meta {
            mode: [0o600, 0o700, 0o640][dice.pick(3)],
            user: name(dice.pick(3)),
            group: name(dice.pick(2)),
        }
    }

    fn new_file(&mut self, dice: &mut Dice) -> File {
        let size = self.size(dice);
        let mut ids = Vec::new();
        while (ids.len() as u64) < size.div_ceil(G) {
            let id = self.content(dice);
            let run = 1 + dice.roll(1 + self.most_grains / 8);
            ids.extend((0..run).map(|n| if id < 7 { id } else { id + n * 1000 }));
        }
        let mut file = File {
            meta: Self::meta(dice),
            mtime_ns: self.now,
            ctime_ns: self.now,
            inode: self.next(),
            size: 0,
            ids,
            shrinks: None,
            vanishes: false,
        };
        file.resize(size, 0);
        file
    }

    fn new_node(&mut self, dice: &mut Dice) -> Node {
        let link = dice.roll(4) == 0;
        let link = link.then(|| (Self::meta(dice), format!("/to/{}", dice.roll(3)).into_bytes()));
        let body = match dice.roll(5) {
            0 | 1 => Lies::Directory(Self::meta(dice)),
            _ => Lies::File(self.new_file(dice)),
        };
        Node { link, body }
    }

    /// Makes an entry in a directory, in the place of what is there.
    fn put(&mut self, at: u32, dice: &mut Dice) {
        let directory = self.nth(at, |node| matches!(node.body, Lies::Directory(_)));
        let path = match directory {
            Some(directory) if dice.roll(12) > 0 && directory.components().count() < 5 => {
                directory.join(NAMES[dice.pick(NAMES.len())]).unwrap()
            }
            _ => RelPath::new(["pg_data", "pg_tblspc/1"][dice.pick(2)]).unwrap(),
        };
        if self.nodes.contains_key(&path) && dice.roll(2) == 0 {
            return;
        }
        let mut node = self.new_node(dice);
        if !path.as_bytes().contains(&b'/') {
            node.body = Lies::Directory(Self::meta(dice));
        }
        self.replace(path, node);
    }

    /// Puts an entry in the place of another; what lies below stays only if both are directories.
    fn replace(&mut self, path: RelPath, node: Node) {
        if !matches!(node.body, Lies::Directory(_)) {
            self.nodes.retain(|other, _| !other.is_within(&path));
        }
        self.nodes.insert(path, node);
    }

    fn remove(&mut self, at: u32, dice: &mut Dice) {
        if let Some(path) = self.nth(at, |_| true)
            && (path.parent().is_some() || dice.roll(4) == 0)
        {
            self.nodes.retain(|other, _| !other.is_within(&path));
        }
    }

    /// Makes something else of an entry: another kind, or the same behind a link, or no more behind one.
    fn swap(&mut self, at: u32, dice: &mut Dice) {
        let Some(path) = self.nth(at, |_| true) else { return };
        let mut node = self.new_node(dice);
        if dice.roll(2) == 0
            && let Some(old) = self.nodes.get(&path)
        {
            node.body = old.body.clone();
            let link = (Self::meta(dice), b"/moved".to_vec());
            node.link = if old.link.is_some() { None } else { Some(link) };
        }
        self.replace(path, node);
    }

    /// Removes a tree and makes one with the same names and other content.
    fn anew(&mut self, at: u32, dice: &mut Dice) {
        let Some(top) = self.nth(at, |_| true) else { return };
        let below: Vec<_> = self.nodes.keys().filter(|path| path.is_within(&top)).cloned().collect();
        for path in below {
            if dice.roll(4) == 0 && path != top {
                self.nodes.retain(|other, _| !other.is_within(&path));
            } else if matches!(self.nodes.get(&path), Some(Node { body: Lies::File(_), .. })) {
                let body = Lies::File(self.new_file(dice));
                self.nodes.insert(path, Node { link: None, body });
            }
        }
    }

    /// Changes metadata only.
    fn touch(&mut self, at: u32, dice: &mut Dice) {
        let Some(path) = self.nth(at, |_| true) else { return };
        let (now, inode) = (self.now, self.next());
        match self.nodes.get_mut(&path) {
            Some(Node { link: Some((meta, _)), .. }) if dice.roll(2) == 0 => *meta = Self::meta(dice),
            Some(Node { body: Lies::Directory(meta), .. }) => *meta = Self::meta(dice),
            Some(Node { body: Lies::File(file), .. }) => {
                file.ctime_ns = now;
                match dice.roll(3) {
                    0 => file.meta = Self::meta(dice),
                    1 => file.mtime_ns = now,
                    _ => file.inode = inode,
                }
            }
            None => {}
        }
    }

    /// Changes a file's content.
    fn write(&mut self, what: u8, at: u32, dice: &mut Dice) {
        let Some(path) = self.nth(at, |node| matches!(node.body, Lies::File(_))) else { return };
        let (now, new_size, most) = (self.now, self.size(dice), self.most_grains);
        let ids = [self.content(dice), self.content(dice)];
        let Some(Node { body: Lies::File(file), .. }) = self.nodes.get_mut(&path) else { return };
        (file.mtime_ns, file.ctime_ns) = (now, now);
        match what {
            7 => file.resize(dice.roll(file.size + 1), 0),
            8 => file.resize((file.size + new_size / 2).min(most * G), ids[0]),
            // The last grain grows a little: the same content, and more behind it.
            9 => file.resize((file.size + dice.roll(G)).min(most * G), ids[0]),
            10 => file.shrinks = Some(dice.roll(file.size + 1)),
            11 => file.vanishes = true,
            _ => {
                let from = dice.pick(file.ids.len());
                let count = 1 + dice.pick(1 + usize::try_from(most / 4).unwrap());
                for (n, id) in file.ids.iter_mut().skip(from).take(count).enumerate() {
                    *id = ids[n % 2];
                }
            }
        }
    }
}
