//! Files of relations: which names they have, and where they lie.

use std::str;

use pgbr_manifest::RelPath;

/// A fork of a relation (`ForkNumber` in src/include/common/relpath.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "all supported versions have these four")]
pub enum Fork {
    /// The relation itself.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to.
    Init,
}

/// A file of a relation, by its name `<number>[_fsm|_vm|_init][.<segment>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a name has these parts")]
pub struct RelationFile {
    /// The relation's number in its database and tablespace (relfilenode).
    pub relnum: u32,
    /// The fork.
    pub fork: Fork,
    /// Which segment, from 0.
    pub segno: u32,
}

impl RelationFile {
    /// Reads a file name; `None` when it is not that of a relation (`parse_filename_for_nontemp_relation`, reinit.c).
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name = str::from_utf8(name).ok()?;
        let (name, segno) = match name.split_once('.') {
            Some((name, segno)) => (name, number(segno)?),
            None => (name, 0),
        };
        let (relnum, fork) = match name.split_once('_') {
            None => (name, Fork::Main),
            Some((relnum, "fsm")) => (relnum, Fork::Fsm),
            Some((relnum, "vm")) => (relnum, Fork::Vm),
            Some((relnum, "init")) => (relnum, Fork::Init),
            Some(_) => return None,
        };
        Some(Self { relnum: number(relnum)?, fork, segno })
    }

    /// The number in the relation of this segment's first page, as page checksums count (u32, wrapping as the server's).
    pub const fn first_block(self, relseg_size: u32) -> u32 {
        self.segno.wrapping_mul(relseg_size)
    }
}

/// Whether this is the name of a temporary relation, `t<backend>_<number>…`.
pub fn is_temporary(name: &[u8]) -> bool {
    let relation = || {
        let name = str::from_utf8(name).ok()?.strip_prefix('t')?;
        let (backend, relation) = name.split_once('_')?;
        let digits = !backend.is_empty() && backend.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| RelationFile::parse(relation.as_bytes())).flatten()
    };
    relation().is_some()
}

/// Whether files right below `directory` are relations: that of a database, or `global`.
pub fn holds_relations(directory: &RelPath) -> bool {
    let parts: Vec<&[u8]> = directory.components().collect();
    match parts.as_slice() {
        [b"pg_data", b"global"] => true,
        [b"pg_data", b"base", database] => is_oid(database),
        [b"pg_tblspc", space, version, database] | [b"pg_data", b"pg_tblspc", space, version, database] => {
            is_oid(space) && version.starts_with(b"PG_") && is_oid(database)
        }
        _ => false,
    }
}

/// Whether `name` is a number as OIDs are written.
pub(crate) fn is_oid(name: &[u8]) -> bool {
    str::from_utf8(name).ok().and_then(number).is_some()
}

/// A number from 1 without leading zeros.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relations() {
        let file = |relnum, fork, segno| Some(RelationFile { relnum, fork, segno });
        for (name, wanted) in [
            ("1259", file(1259, Fork::Main, 0)),
            ("1259_fsm", file(1259, Fork::Fsm, 0)),
            ("1259_vm.2", file(1259, Fork::Vm, 2)),
            ("1259_init", file(1259, Fork::Init, 0)),
            ("4294967295.1", file(u32::MAX, Fork::Main, 1)),
            ("4294967296", None),
            ("01259", None),
            ("0", None),
            ("1259.0", None),
            ("1259.01", None),
            ("1259.", None),
            ("1259_", None),
            ("1259_xyz", None),
            ("1259.1.1", None),
            ("t3_1259", None),
            ("pg_filenode.map", None),
            ("PG_VERSION", None),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(RelationFile::parse(name.as_bytes()), wanted, "{name}");
        }
        assert_eq!(RelationFile { relnum: 1, fork: Fork::Main, segno: 2 }.first_block(131_072), 262_144);
    }

    #[test]
    fn names_of_temporary_relations() {
        for name in ["t3_16384", "t12_16384_fsm", "t0_1_vm.3"] {
            assert!(is_temporary(name.as_bytes()), "{name}");
        }
        for name in ["t_1", "t3_", "t3_0", "tx_1", "16384", "t3-1", "temp_1"] {
            assert!(!is_temporary(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn places_of_relations() {
        let place = |path: &str| holds_relations(&RelPath::new(path).unwrap());
        for path in [
            "pg_data/global",
            "pg_data/base/5",
            "pg_tblspc/16400/PG_15_202209061/5",
            "pg_data/pg_tblspc/16400/PG_15_202209061/5",
        ] {
            assert!(place(path), "{path}");
        }
        for path in [
            "pg_data",
            "pg_data/base",
            "pg_data/pg_xact",
            "pg_data/base/pgsql_tmp",
            "pg_tblspc/16400/x/5",
            "config/global",
        ] {
            assert!(!place(path), "{path}");
        }
    }
}
