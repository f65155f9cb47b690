//! The records of a leaf: files, directories, links and the grains that are stored of each file.

use super::bytes::{Reader, put_varint, put_zigzag};
use crate::error::Result;
use crate::hash::FileDigest;
use crate::path::{MAX_PATH_BYTES, RelPath};

/// The largest leaf that a reader takes.
pub const MAX_LEAF_BYTES: usize = 1 << 20;
/// The most ranges of bad pages that one file lists; their total is counted beyond.
const MAX_BAD_RANGES: usize = 1024;
const MAX_LINK_BYTES: usize = 4096;
/// The most grains of one record that a writer takes: a leaf may be all but full when they come.
const MAX_RUN_HASHES: usize = MAX_LEAF_BYTES / 16;
const MAX_NAME_BYTES: usize = 255;

/// Rights and owner of an entry. Empty names are unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, at most 07777.
    pub mode: u32,
    /// Name of the owner.
    pub user: String,
    /// Name of the group.
    pub group: String,
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o600, user: String::new(), group: String::new() }
    }
}

/// What is known of a file beyond its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileFlags {
    /// All grains stand in this backup; nothing is taken from the parent.
    pub whole: bool,
    /// Page checksums were looked at.
    pub checksums: bool,
    /// This is the control file.
    pub control: bool,
    /// A file of a relation, which consists of pages.
    pub relation: bool,
}

impl FileFlags {
    fn bits(self) -> u8 {
        u8::from(self.whole)
            | u8::from(self.checksums) << 1
            | u8::from(self.control) << 2
            | u8::from(self.relation) << 3
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        if bits > 15 {
            return None;
        }
        Some(Self {
            whole: bits & 1 != 0,
            checksums: bits & 2 != 0,
            control: bits & 4 != 0,
            relation: bits & 8 != 0,
        })
    }
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Its place in the backup.
    pub path: RelPath,
    /// Rights and owner.
    pub meta: Meta,
    /// Size in bytes when it was opened.
    pub size: u64,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of anything, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number.
    pub inode: u64,
    /// What else is known of it.
    pub flags: FileFlags,
}

/// Pages whose checksum was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BadPages {
    /// First page in the file and number of pages, ascending, the first 1024 ranges.
    pub ranges: Vec<(u64, u64)>,
    /// How many in all.
    pub total: u64,
}

/// The last words about a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// Its true size: less than the record's when it shrank while it was read.
    pub size: u64,
    /// The witness over size and all grain hashes.
    pub digest: FileDigest,
    /// Pages with a wrong checksum.
    pub bad_pages: BadPages,
}

/// One record of the index; see `docs/format.md`, section 9.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a new kind of record is a new format version")]
pub enum Record {
    /// A file begins; its grains and an end follow.
    File(FileRecord),
    /// A directory.
    Directory {
        /// Its place in the backup.
        path: RelPath,
        /// Rights and owner.
        meta: Meta,
    },
    /// A symbolic link.
    Link {
        /// Its place in the backup.
        path: RelPath,
        /// Owner (the mode of a link means nothing).
        meta: Meta,
        /// What it points to, as bytes.
        target: Vec<u8>,
    },
    /// The parent's entry of this path, and all below it, is gone.
    Removed {
        /// The path in the parent.
        path: RelPath,
    },
    /// A leaf that begins inside a file says where.
    Continue {
        /// The file.
        path: RelPath,
        /// The grain that the next record's gap counts from.
        grain: u64,
    },
    /// Stored grains.
    Grains {
        /// Grains passed over since the record before.
        gap: u64,
        /// Their hashes, in order.
        hashes: Vec<u64>,
    },
    /// Grains of zeros.
    Zeros {
        /// Grains passed over since the record before.
        gap: u64,
        /// How many.
        count: u64,
    },
    /// The file ends.
    End(Fields),
    /// A file whose content is the parent's and whose metadata is not.
    Kept(FileRecord),
}

impl Record {
    /// The path that the record begins with, if it is of a kind that has one.
    pub const fn path(&self) -> Option<&RelPath> {
        match self {
            Self::File(file) | Self::Kept(file) => Some(&file.path),
            Self::Directory { path, .. }
            | Self::Link { path, .. }
            | Self::Removed { path }
            | Self::Continue { path, .. } => Some(path),
            Self::Grains { .. } | Self::Zeros { .. } | Self::End(_) => None,
        }
    }

    /// What a reader would refuse in the record by itself.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let long_name = |meta: &Meta| meta.user.len().max(meta.group.len()) > MAX_NAME_BYTES;
        match self {
            Self::File(file) | Self::Kept(file) if file.size > i64::MAX.cast_unsigned() => {
                Some("a file is too large")
            }
            Self::File(FileRecord { meta, .. })
            | Self::Kept(FileRecord { meta, .. })
            | Self::Directory { meta, .. }
            | Self::Link { meta, .. }
                if long_name(meta) =>
            {
                Some("a name of an owner is too long")
            }
            Self::Link { target, .. } if target.len() > MAX_LINK_BYTES => Some("a link's target is too long"),
            Self::Grains { hashes, .. } if hashes.is_empty() => Some("a run of no grains"),
            Self::Grains { hashes, .. } if hashes.len() > MAX_RUN_HASHES => Some("a run of too many grains"),
            _ => None,
        }
    }
}

/// Builds one leaf.
#[derive(Debug, Clone, Default)]
pub struct LeafWriter {
    bytes: Vec<u8>,
    path: Vec<u8>,
    meta: Meta,
}

impl LeafWriter {
    /// The encoded size so far.
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was added yet.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        match record {
            Record::File(file) => self.file(1, file),
            Record::Kept(file) => self.file(9, file),
            Record::Directory { path, meta } => self.entry(2, path, meta),
            Record::Link { path, meta, target } => {
                self.entry(3, path, meta);
                put_bytes(&mut self.bytes, target);
            }
            Record::Removed { path } => self.path(4, path),
            Record::Continue { path, grain } => {
                self.path(5, path);
                put_varint(&mut self.bytes, *grain);
            }
            Record::Grains { gap, hashes } => {
                self.bytes.push(6);
                put_varint(&mut self.bytes, *gap);
                put_varint(&mut self.bytes, hashes.len() as u64);
                hashes.iter().for_each(|h| self.bytes.extend_from_slice(&h.to_le_bytes()));
            }
            Record::Zeros { gap, count } => {
                self.bytes.push(7);
                put_varint(&mut self.bytes, *gap);
                put_varint(&mut self.bytes, *count);
            }
            Record::End(end) => self.end(end),
        }
    }

    /// The leaf; the writer is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self).bytes
    }

    fn path(&mut self, tag: u8, path: &RelPath) {
        let bytes = path.as_bytes();
        let shared = self.path.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        self.bytes.push(tag);
        put_varint(&mut self.bytes, shared as u64);
        put_bytes(&mut self.bytes, &bytes[shared..]);
        self.path.truncate(shared);
        self.path.extend_from_slice(&bytes[shared..]);
    }

    fn entry(&mut self, tag: u8, path: &RelPath, meta: &Meta) {
        self.path(tag, path);
        let changed =
            (meta.mode != self.meta.mode, meta.user != self.meta.user, meta.group != self.meta.group);
        self.bytes.push(u8::from(changed.0) | u8::from(changed.1) << 1 | u8::from(changed.2) << 2);
        if changed.0 {
            put_varint(&mut self.bytes, u64::from(meta.mode & 0o7777));
        }
        if changed.1 {
            put_bytes(&mut self.bytes, meta.user.as_bytes());
        }
        if changed.2 {
            put_bytes(&mut self.bytes, meta.group.as_bytes());
        }
        self.meta.clone_from(meta);
    }

    fn file(&mut self, tag: u8, file: &FileRecord) {
        self.entry(tag, &file.path, &file.meta);
        put_varint(&mut self.bytes, file.size);
        put_zigzag(&mut self.bytes, file.mtime_ns);
        put_zigzag(&mut self.bytes, file.ctime_ns);
        put_varint(&mut self.bytes, file.inode);
        self.bytes.push(file.flags.bits());
    }

    fn end(&mut self, end: &Fields) {
        self.bytes.push(8);
        put_varint(&mut self.bytes, end.size);
        self.bytes.extend_from_slice(&end.digest.0);
        let ranges = &end.bad_pages.ranges[..end.bad_pages.ranges.len().min(MAX_BAD_RANGES)];
        put_varint(&mut self.bytes, ranges.len() as u64);
        let mut at = 0;
        for (first, count) in ranges {
            put_varint(&mut self.bytes, first.saturating_sub(at));
            put_varint(&mut self.bytes, *count);
            at = first.saturating_add(*count);
        }
        put_varint(&mut self.bytes, end.bad_pages.total);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Where a [`LeafReader`] is in its leaf, for who keeps the bytes themselves.
#[derive(Debug, Default)]
pub(crate) struct LeafPlace {
    at: usize,
    path: Vec<u8>,
    meta: Meta,
}

/// Reads the records of one leaf.
#[derive(Debug, Clone)]
pub struct LeafReader<'a> {
    bytes: Reader<'a>,
    path: Vec<u8>,
    meta: Meta,
}

impl<'a> LeafReader<'a> {
    /// Begins with the decoded bytes of a leaf.
    ///
    /// # Errors
    /// When they are more than a leaf may have.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let reader = Reader::new("index leaf", bytes);
        if bytes.len() > MAX_LEAF_BYTES {
            return Err(reader.damaged("it is too large"));
        }
        Ok(Self { bytes: reader, path: Vec::new(), meta: Meta::default() })
    }

    /// Goes on in a leaf where [`LeafReader::pause`] left it.
    pub(crate) fn resume(bytes: &'a [u8], place: LeafPlace) -> Self {
        let LeafPlace { at, path, meta } = place;
        Self { bytes: Reader::resume("index leaf", bytes, at), path, meta }
    }

    /// The place to go on at.
    pub(crate) fn pause(self) -> LeafPlace {
        LeafPlace { at: self.bytes.position(), path: self.path, meta: self.meta }
    }

    /// How many bytes have been read.
    pub const fn position(&self) -> usize {
        self.bytes.position()
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When the bytes are no record: a damaged index, or a newer format.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        if self.bytes.at_end() {
            return Ok(None);
        }
        let record = match self.bytes.byte()? {
            1 => Record::File(self.file()?),
            9 => Record::Kept(self.file()?),
            2 => {
                let (path, meta) = self.entry()?;
                Record::Directory { path, meta }
            }
            3 => {
                let (path, meta) = self.entry()?;
                let len = self.bytes.count(MAX_LINK_BYTES)?;
                Record::Link { path, meta, target: self.bytes.take(len)?.to_vec() }
            }
            4 => Record::Removed { path: self.path()? },
            5 => Record::Continue { path: self.path()?, grain: self.bytes.varint()? },
            6 => {
                let gap = self.bytes.varint()?;
                let count = self.bytes.count(MAX_LEAF_BYTES / 8)?;
                if count == 0 {
                    return Err(self.bytes.damaged("a run of no grains"));
                }
                Record::Grains { gap, hashes: self.bytes.hashes(count)? }
            }
            7 => Record::Zeros { gap: self.bytes.varint()?, count: self.bytes.varint()? },
            8 => Record::End(self.end()?),
            _ => return Err(self.bytes.damaged("an unknown kind of record")),
        };
        Ok(Some(record))
    }

    fn path(&mut self) -> Result<RelPath> {
        let shared = self.bytes.count(self.path.len())?;
        let rest = self.bytes.count(MAX_PATH_BYTES)?;
        self.path.truncate(shared);
        self.path.extend_from_slice(self.bytes.take(rest)?);
        RelPath::new(self.path.as_slice())
    }

    fn entry(&mut self) -> Result<(RelPath, Meta)> {
        let path = self.path()?;
        let changed = self.bytes.byte()?;
        if changed > 7 {
            return Err(self.bytes.damaged("unknown flags"));
        }
        if changed & 1 != 0 {
            self.meta.mode = u32::try_from(self.bytes.count(0o7777)?).unwrap_or(0o600);
        }
        if changed & 2 != 0 {
            self.meta.user = self.name()?;
        }
        if changed & 4 != 0 {
            self.meta.group = self.name()?;
        }
        Ok((path, self.meta.clone()))
    }

    fn name(&mut self) -> Result<String> {
        let len = self.bytes.count(MAX_NAME_BYTES)?;
        let name = self.bytes.take(len)?;
        String::from_utf8(name.to_vec()).map_err(|_| self.bytes.damaged("a name is not UTF-8"))
    }

    fn file(&mut self) -> Result<FileRecord> {
        let (path, meta) = self.entry()?;
        let (size, mtime_ns, ctime_ns) = (self.bytes.varint()?, self.bytes.zigzag()?, self.bytes.zigzag()?);
        let inode = self.bytes.varint()?;
        let flags =
            FileFlags::from_bits(self.bytes.byte()?).ok_or_else(|| self.bytes.damaged("unknown flags"))?;
        if size > i64::MAX.cast_unsigned() {
            return Err(self.bytes.damaged("a file is too large"));
        }
        Ok(FileRecord { path, meta, size, mtime_ns, ctime_ns, inode, flags })
    }

    fn end(&mut self) -> Result<Fields> {
        let size = self.bytes.varint()?;
        let digest = FileDigest(self.bytes.array()?);
        let mut bad_pages = BadPages::default();
        let mut at: u64 = 0;
        for _ in 0..self.bytes.count(MAX_BAD_RANGES)? {
            let (gap, count) = (self.bytes.varint()?, self.bytes.varint()?);
            let first = at.checked_add(gap);
            let end = first.and_then(|first| first.checked_add(count));
            let (Some(first), Some(end)) = (first, end) else {
                return Err(self.bytes.damaged("a page number is too large"));
            };
            bad_pages.ranges.push((first, count));
            at = end;
        }
        bad_pages.total = self.bytes.varint()?;
        Ok(Fields { size, digest, bad_pages })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meta() -> impl Strategy<Value = Meta> {
        (0u32..0o10000, "[a-z]{0,3}", "[a-z]{0,3}").prop_map(|(mode, user, group)| Meta { mode, user, group })
    }

    fn path() -> impl Strategy<Value = RelPath> {
        "[a-c]{1,3}(/[a-c]{1,3}){0,3}".prop_map(|p| RelPath::new(p).unwrap())
    }

    fn file() -> impl Strategy<Value = FileRecord> {
        (path(), meta(), 0..u64::MAX / 2, any::<i64>(), any::<i64>(), any::<u64>(), 0u8..16).prop_map(
            |(path, meta, size, mtime_ns, ctime_ns, inode, flags)| FileRecord {
                path,
                meta,
                size,
                mtime_ns,
                ctime_ns,
                inode,
                flags: FileFlags::from_bits(flags).unwrap(),
            },
        )
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            file().prop_map(Record::File),
            file().prop_map(Record::Kept),
            (path(), meta()).prop_map(|(path, meta)| Record::Directory { path, meta }),
            (path(), meta(), proptest::collection::vec(any::<u8>(), 0..20))
                .prop_map(|(path, meta, target)| Record::Link { path, meta, target }),
            path().prop_map(|path| Record::Removed { path }),
            (path(), any::<u64>()).prop_map(|(path, grain)| Record::Continue { path, grain }),
            (any::<u64>(), proptest::collection::vec(any::<u64>(), 1..300))
                .prop_map(|(gap, hashes)| Record::Grains { gap, hashes }),
            (any::<u64>(), any::<u64>()).prop_map(|(gap, count)| Record::Zeros { gap, count }),
            (any::<u64>(), any::<[u8; 16]>(), proptest::collection::vec((0..9u64, 1..9u64), 0..5)).prop_map(
                |(size, digest, gaps)| {
                    let mut bad_pages = BadPages::default();
                    let mut at = 0;
                    for (gap, count) in gaps {
                        bad_pages.ranges.push((at + gap, count));
                        at += gap + count;
                        bad_pages.total += count;
                    }
                    Record::End(Fields { size, digest: FileDigest(digest), bad_pages })
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(records in proptest::collection::vec(record(), 0..30)) {
            let mut writer = LeafWriter::default();
            records.iter().for_each(|r| writer.push(r));
            let bytes = writer.take();
            let mut reader = LeafReader::new(&bytes).unwrap();
            let mut found = Vec::new();
            while let Some(record) = reader.next_record().unwrap() {
                found.push(record);
            }
            prop_assert_eq!(found, records);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = LeafReader::new(&bytes).unwrap();
            while let Ok(Some(_)) = reader.next_record() {}
        }
    }
}
