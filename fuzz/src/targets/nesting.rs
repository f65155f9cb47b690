//! Which entries a list may have, beside a naive opinion: each lies in a directory that came before.

use std::collections::BTreeMap;

use pgbr_manifest::{Nesting, RelPath};

pub(crate) fn run(entries: Vec<(&str, bool)>) {
    // Lists are in index order; the same path twice is a link and what it leads to.
    let entries: BTreeMap<RelPath, bool> =
        entries.into_iter().filter_map(|(path, is)| Some((RelPath::new(path).ok()?, is))).collect();
    let mut nesting = Nesting::default();
    for (path, is_directory) in &entries {
        let needs_none = |parent: &RelPath| path.strip("config").is_some() || parent.as_bytes() == b"pg_tblspc";
        let fits = path.parent().is_none_or(|parent| needs_none(&parent) || entries.get(&parent) == Some(&true));
        assert_eq!(nesting.pass(path, *is_directory).is_ok(), fits, "'{path}'");
        if !fits {
            return;
        }
    }
}
