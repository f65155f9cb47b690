//! Paths inside a backup, that cannot lead out of it.

use std::cmp::Ordering;
use std::fmt;

use crate::error::{Error, Result};

/// The longest path, in bytes (`PATH_MAX` of Linux).
pub const MAX_PATH_BYTES: usize = 4096;
/// The longest component, in bytes (`NAME_MAX` of Linux).
pub const MAX_COMPONENT_BYTES: usize = 255;

/// A relative path of bytes, as `pg_data/base/5/1259`.
///
/// There is no empty component, no `.` or `..`, no NUL, no `/` at either end, so joining it to a directory never leads out of that
/// directory (links in it are the caller's to look after). The first component names the root: `pg_data`, `pg_tblspc/<oid>`, `config`.
/// Paths sort as the index does: by components, but the control file, which is copied when all else was, comes after everything else, and
/// the WAL segments in `pg_wal` come after it: which of them a backup needs is known when it has stopped.
///
/// ```
/// use pgbr_manifest::RelPath;
/// assert!(RelPath::new("pg_data/base/5/1259").is_ok());
/// assert!(RelPath::new("pg_data/../etc/passwd").is_err());
/// assert!(RelPath::new("pg_data/base")? < RelPath::new("pg_data/base.conf")?);
/// # Ok::<(), pgbr_manifest::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The control file, which is copied last and restored last.
    pub const PG_CONTROL: &'static str = "pg_data/global/pg_control";

    /// Checks `path`.
    ///
    /// # Errors
    /// When it could lead out of its root or is longer than file systems allow.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self> {
        let path = path.into();
        match fault(&path) {
            None => Ok(Self(path)),
            Some(reason) => Err(Error::invalid("path", &path, reason)),
        }
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// This path with one more component (or several, joined by `/`).
    ///
    /// # Errors
    /// As [`RelPath::new`].
    pub fn join(&self, rest: impl AsRef<[u8]>) -> Result<Self> {
        let mut path = Vec::with_capacity(self.0.len() + 1 + rest.as_ref().len());
        path.extend_from_slice(&self.0);
        path.push(b'/');
        path.extend_from_slice(rest.as_ref());
        Self::new(path)
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The last component.
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or(&[])
    }

    /// The path without its last component; `None` for a root.
    pub fn parent(&self) -> Option<Self> {
        let at = self.0.iter().rposition(|b| *b == b'/')?;
        Some(Self(self.0[..at].to_vec()))
    }

    /// The rest of the path below `root`, empty for `root` itself; `None` when it does not lie there.
    pub fn strip(&self, root: &str) -> Option<&[u8]> {
        let rest = self.0.strip_prefix(root.as_bytes())?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b"/") }
    }

    /// Whether `self` is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.strip_prefix(other.0.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Whether the control file is this or lies below it.
    pub(crate) fn holds_pg_control(&self) -> bool {
        let rest = Self::PG_CONTROL.as_bytes().strip_prefix(self.0.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// Whether this is the control file.
    pub fn is_pg_control(&self) -> bool {
        self.0 == Self::PG_CONTROL.as_bytes()
    }

    /// The directory of the WAL.
    pub const PG_WAL: &'static str = "pg_data/pg_wal";

    /// Whether this has the name of a WAL segment in `pg_wal`.
    pub fn is_wal_segment(&self) -> bool {
        let name = self.strip(Self::PG_WAL).unwrap_or_default();
        name.len() == 24 && name.iter().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
    }

    /// Whether `pg_wal` is this or lies below it.
    pub(crate) fn holds_pg_wal(&self) -> bool {
        let rest = Self::PG_WAL.as_bytes().strip_prefix(self.0.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }

    /// What comes when the tree has been walked.
    fn rank(&self) -> u8 {
        match () {
            () if self.is_pg_control() => 1,
            () if self.is_wal_segment() => 2,
            () => 0,
        }
    }
}

fn fault(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Some("it has 1 to 4096 bytes");
    }
    if path.contains(&0) {
        return Some("it holds a NUL byte");
    }
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" => return Some("it has an empty component"),
            b"." | b".." => return Some("it has a component '.' or '..'"),
            long if long.len() > MAX_COMPONENT_BYTES => return Some("a component has more than 255 bytes"),
            _ => {}
        }
    }
    None
}

impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_components = || {
            let at = self.0.iter().zip(&other.0).position(|(a, b)| a != b);
            let Some(at) = at else { return self.0.len().cmp(&other.0.len()) };
            // A slash ends a component, and a shorter component comes first.
            let rank = |b: u8| if b == b'/' { 0 } else { b };
            rank(self.0[at]).cmp(&rank(other.0[at]))
        };
        self.rank().cmp(&other.rank()).then_with(by_components)
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_leads_out() {
        for bad in ["", "/", "/etc", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::new("x".repeat(256)).is_err());
        assert!(RelPath::new([b"a/".repeat(2048), b"b".to_vec()].concat()).is_err());
        assert!(RelPath::new(b"pg_data/\xff\n..x".to_vec()).is_ok());
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_component_lists(a in "[a-c./]{1,8}", b in "[a-c./]{1,8}") {
            if let (Ok(a), Ok(b)) = (RelPath::new(a), RelPath::new(b)) {
                let list = |p: &RelPath| p.components().map(<[u8]>::to_vec).collect::<Vec<_>>();
                prop_assert_eq!(a.cmp(&b), list(&a).cmp(&list(&b)));
            }
        }
    }

    #[test]
    fn the_control_file_comes_last() {
        let control = RelPath::new(RelPath::PG_CONTROL).unwrap();
        for other in ["pg_data/zzz", "pg_tblspc/1/x", "pg_data/global/pg_control.x"] {
            assert!(RelPath::new(other).unwrap() < control);
        }
    }

    #[test]
    fn segments_come_behind_the_control_file() {
        let control = RelPath::new(RelPath::PG_CONTROL).unwrap();
        let segment = |name: &str| RelPath::new(format!("{}/{name}", RelPath::PG_WAL)).unwrap();
        let (one, two) = (segment("0000000100000000000000FE"), segment("000000010000000100000000"));
        assert!(control < one && one < two && one.is_wal_segment());
        for other in [
            "pg_data/pg_wal",
            "pg_data/pg_wal/00000002.history",
            "pg_data/pg_wal/0000000100000000000000fe",
            "pg_data/pg_wal/0000000100000000000000FE.partial",
            "pg_data/pg_wal/x/0000000100000000000000FE",
            "pg_data/pg_wa/0000000100000000000000FE",
            "pg_tblspc/1/0000000100000000000000FE",
        ] {
            let other = RelPath::new(other).unwrap();
            assert!(!other.is_wal_segment() && other < control, "{other}");
        }
    }
}
